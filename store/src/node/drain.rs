//! The end of a node: one deadline for all of it, and phases over all cores.
//!
//! ```text
//! announce on request, ahead of the rest: health checks say that the node wants no calls; it serves on, and nothing is waited for
//! finish   every core closes its listeners and lets its connections finish. Stores go on, because connections of other cores
//!          may still wait for them.
//! close    when every core has finished: stores finish what is in flight, flush, and close
//! end      executors end
//! ```
//!
//! Each phase gets what is left of the deadline; finishing may take [`FINISH_SHARE`] of it, so that something is left for closing.
//! A core that does not carry out an order in time, because its disk hangs, is left to the end of the process: what was
//! acknowledged is on disk. So a drain takes no longer than its deadline and three times [`GRACE`].

use std::sync::mpsc;
use std::time::{Duration, Instant};

use engine::rt::CoreHandle;
use engine::rt::chan::{Sender, TrySend};

use super::{Node, Word};

/// Orders that a core may not have taken yet; there are never more than one of each kind.
pub(super) const ORDERS_MAX: usize = 3;

/// The share of the deadline that connections may use, in tenths.
const FINISH_SHARE: u32 = 8;

/// How much longer than it was told a core may take to carry out an order.
const GRACE: Duration = Duration::from_secs(1);

/// What the draining thread tells a core, with the time that it may take.
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

impl Node {
    /// Lets health checks say that the node wants no more calls, so that clients and load balancers go elsewhere before
    /// [`Node::drain`]. It serves on.
    pub fn announce_drain(&self) {
        for (core, orders) in self.orders.iter().enumerate() {
            if orders.try_send(Order::Announce).is_err() {
                tracing::warn!(core, "a core cannot be told of the coming drain");
            }
        }
    }

    /// Lets requests finish and stops, within about `deadline`. What was acknowledged is on disk either way.
    pub fn drain(self, deadline: Duration) {
        let until = now() + deadline;
        let left = || until.saturating_duration_since(now());
        let Self { orders, handles, words, .. } = self;
        let cores = orders.len();
        carry_out(&orders, &words, cores, Order::Finish(deadline * FINISH_SHARE / 10));
        let closed = carry_out(&orders, &words, cores, Order::Close(left()));
        if closed {
            join(handles);
        }
    }
}

/// Gives every core an order and waits until all have carried it out. Whether all have.
fn carry_out(orders: &[Sender<Order>], words: &mpsc::Receiver<Word>, cores: usize, order: Order) -> bool {
    let mut waits = cores;
    for (core, sender) in orders.iter().enumerate() {
        match sender.try_send(order) {
            Ok(()) => {}
            // It hangs, and has not even taken the order before.
            Err(TrySend::Full(_)) => tracing::warn!(core, "a core takes no orders: its disk may hang"),
            Err(TrySend::Closed(_)) => waits -= 1,
        }
    }
    let until = now() + order.time() + GRACE;
    while waits > 0 {
        match words.recv_timeout(until.saturating_duration_since(now())) {
            Ok(Word::Done(done)) if done.is_same_phase(order) => waits -= 1,
            // Of the phase before, by a core that was late.
            Ok(Word::Done(_)) => {}
            Ok(Word::Failed(why)) => {
                tracing::error!(why, "a core ended by itself");
                waits -= 1;
            }
            Ok(Word::Scheduler { .. } | Word::Opened { .. } | Word::Serving { .. }) => {
                unreachable!("a node that serves has started")
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tracing::warn!(cores = waits, ?order, "cores did not carry out an order in time");
                return false;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return true,
        }
    }
    true
}

/// Waits for the executors to end, but no longer than [`GRACE`].
fn join(handles: Vec<CoreHandle<()>>) {
    let (ended, all_ended) = mpsc::channel();
    let joining = std::thread::Builder::new().name("rk-join".into()).spawn(move || {
        for handle in handles {
            if let Err(error) = handle.join() {
                tracing::error!(%error, "an executor ended badly");
            }
        }
        // The draining thread may have gone on without.
        let _ = ended.send(());
    });
    if joining.is_ok() && all_ended.recv_timeout(GRACE).is_err() {
        tracing::warn!("executors did not end in time");
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread that drains the node, never a core")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use engine::rt::chan;

    use super::*;

    const NO_TIME: Order = Order::Close(Duration::ZERO);

    #[test]
    fn a_core_that_does_not_carry_out_an_order_is_left_behind() {
        let ((sender, _taken), (words_out, words)) = (chan::queue(ORDERS_MAX), mpsc::channel());
        assert!(!carry_out(std::slice::from_ref(&sender), &words, 1, NO_TIME), "it has said nothing");
        // It was late with the order before.
        words_out.send(Word::Done(Order::Finish(Duration::ZERO))).unwrap();
        assert!(!carry_out(&[sender], &words, 1, NO_TIME), "it has said nothing of this order");
    }

    #[test]
    fn an_order_is_carried_out_when_every_core_has_done_so_or_is_gone() {
        let ((here, _taken), (gone, _)) = (chan::queue(ORDERS_MAX), chan::queue(ORDERS_MAX));
        let (words_out, words) = mpsc::channel();
        words_out.send(Word::Done(Order::Close(Duration::from_secs(7)))).unwrap();
        assert!(carry_out(&[here, gone], &words, 2, NO_TIME));
    }
}
