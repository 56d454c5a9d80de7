//! The end of a node: one deadline for all of it, and phases over all cores.
//!
//! ```text
//! announce on request, ahead of the rest: health checks say that the node wants no calls; it serves on, and nothing is waited for
//! finish   every core hands over what it leads ([`handover`](super::handover)), closes its listeners and lets its connections finish.
//!          Stores go on, because connections of other cores may still wait for them.
//! stop     the scheduler shard finishes its calls and stops: what it is asked rests on a store
//! close    stores finish what is in flight, flush, and close
//! end      executors end
//! ```
//!
//! Each phase gets what is left of the deadline; finishing may take [`FINISH_SHARE`] of it, so that something is left for closing.
//! A core that does not carry out an order in time, because its disk hangs, is left to the end of the process: what was
//! acknowledged is on disk. So a drain takes no longer than its deadline and three times [`GRACE`].

use std::time::Duration;

use engine::rt::Rt;
use engine::rt::chan::TrySend;

use super::root::{DataCores, Event, Serving};

/// Orders that a core may not have taken yet; there are never more than one of each kind.
pub(super) const ORDERS_MAX: usize = 3;

/// The share of the deadline that connections may use, in tenths.
const FINISH_SHARE: u32 = 8;

/// The share of what is left then that the scheduler shard's calls may use, in tenths.
const SCHEDULER_SHARE: u32 = 4;

/// How much longer than its deadline a core may take to carry out an order.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// What the root core orders a data core to do, with the time that it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Say that no further calls are wanted, and serve those that come.
    Announce,
    /// Accept nothing more, and let connections finish.
    Finish(Duration),
    /// Let stores finish, and close them.
    Close(Duration),
}

impl Order {
    fn time(self) -> Duration {
        match self {
            Order::Announce => Duration::ZERO,
            Order::Finish(time) | Order::Close(time) => time,
        }
    }

    fn is_same_phase(self, other: Order) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl Serving {
    /// Lets health checks say that the node wants no more calls. It serves on.
    pub(super) fn announce(&self) {
        self.scheduler.announce();
        for (core, orders) in self.cores.orders.iter().enumerate() {
            if orders.try_send(Order::Announce).is_err() {
                tracing::warn!(core, "a core does not take the announcement of the drain");
            }
        }
    }

    /// Lets requests finish and stops, within about `deadline`. What was acknowledged is on disk either way.
    pub(super) async fn drain(mut self, rt: &Rt, deadline: Duration) {
        let began = rt.now();
        self.cores.carry_out(rt, Order::Finish(deadline * FINISH_SHARE / 10)).await;
        let left = || deadline.saturating_sub(rt.now().since(began));
        self.scheduler.stop(left() * SCHEDULER_SHARE / 10).await;
        let closed = self.cores.carry_out(rt, Order::Close(left())).await;
        if closed && !self.cores.all_ended(rt, GRACE).await {
            tracing::warn!("executors did not end in time");
        }
    }
}

impl DataCores {
    /// Gives every core an order and waits until all have carried it out. Whether all have, or have ended.
    async fn carry_out(&mut self, rt: &Rt, order: Order) -> bool {
        let mut waits: Vec<bool> = self.ended.iter().map(|ended| !ended).collect();
        for (core, sender) in self.orders.iter().enumerate() {
            match sender.try_send(order) {
                Ok(()) => {}
                // It hangs, and has not even taken the order before.
                Err(TrySend::Full(_)) => tracing::warn!(core, "a core takes no orders: its disk may hang"),
                Err(TrySend::Closed(_)) => waits[core] = false,
            }
        }
        let Self { events, ended, .. } = self;
        let waiting = &mut waits;
        let all = async {
            while waiting.contains(&true) {
                match events.recv().await {
                    Some(Event::Done { core, order: done }) if done.is_same_phase(order) => {
                        waiting[core] = false;
                    }
                    // Of the phase before, by a core that was late.
                    Some(Event::Done { .. }) => {}
                    Some(Event::Failed(why)) => tracing::error!(why, "a core ended by itself"),
                    Some(Event::Ended { core, how: _ }) => (ended[core], waiting[core]) = (true, false),
                    Some(Event::Opened { .. } | Event::Serving { .. }) => {
                        unreachable!("a node that serves has started")
                    }
                    None => break,
                }
            }
        };
        let carried_out = rt.timeout(order.time() + GRACE, all).await.is_some();
        if !carried_out {
            let cores = waits.iter().filter(|waits| **waits).count();
            tracing::warn!(cores, ?order, "cores did not carry out an order in time");
        }
        carried_out
    }
}

#[cfg(test)]
mod tests {
    use engine::rt::chan;
    use engine::rt::sim::{Options, World};

    use super::*;

    /// A core that hangs says nothing, not even that it ends.
    #[test]
    fn an_order_that_a_core_does_not_carry_out_is_given_up_in_time() {
        let world = World::new(5, Options::default());
        let root = world.node(0).start(0, |rt| async move {
            let (orders, _taken) = chan::queue(ORDERS_MAX);
            let (say, events) = chan::queue(8);
            let mut cores = DataCores { orders: vec![orders], events, ended: vec![false] };
            let (began, time) = (rt.now(), Duration::from_secs(2));
            assert!(!cores.carry_out(&rt, Order::Finish(time)).await);
            let took = rt.now().since(began);
            assert!(took >= time && took < time + 2 * GRACE, "it took {took:?}");
            let done = |order| drop(say.try_send(Event::Done { core: 0, order }));
            done(Order::Finish(time));
            assert!(!cores.carry_out(&rt, Order::Close(time)).await, "what is late is of the phase before");
            done(Order::Close(time));
            assert!(cores.carry_out(&rt, Order::Close(time)).await);
        });
        world.block_on(root).expect("nothing crashes the node");
    }
}
