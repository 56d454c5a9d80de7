//! Connections that have asked for nothing yet, on all ports that share places: where none is left, the oldest gives its place to a newcomer,
//! whichever port either of them came to.
//!
//! ```text
//! port A, core 1: no place is left ──┐ the oldest of the node
//!                                    ├──▶ its port's core: that connection ends ──its place, by hand──▶ port A takes it
//! port B, core 2: silent, oldest ◀───┘
//! ```
//!
//! Whoever opens connections to one port and says nothing on them would else keep clients out of the others.
//!
//! Invariants: a place goes from hand to hand or back to the others, so there are never more than there are; a connection that has asked for
//! something is in no list and is not ended. One that asks in the very moment in which it is to end may lose its place: it is closed as if it
//! had come a moment later.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::chan::{Receiver, Sender, TrySend, queue};

use super::Descriptors;

/// How long a core may take to end a connection. One that takes longer is busy with something else, and another one may be faster.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// Connections of one port that may be on their way to their end.
const ENDING_MAX: usize = 64;

/// Those of one node, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Silent(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    of_resp: BTreeMap<u64, Listed>,
    of_grpc: BTreeMap<u64, Listed>,
}

/// One connection, by its port and the number that it has there.
#[derive(Debug)]
struct Listed {
    entry: PortEntry,
    number: u64,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Resp,
    Grpc,
}

/// The way to the core that serves a port.
#[derive(Clone, Debug)]
pub(crate) struct PortEntry {
    speaks: Speaks,
    to: Sender<GiveWay>,
}

/// One connection of a port is to end, for this one.
#[derive(Debug)]
pub(crate) struct GiveWay {
    /// The number that its port has given it.
    pub(crate) number: u64,
    /// Who waits for its place.
    pub(crate) to: Sender<Given>,
}

/// A place from hand to hand. Whoever drops it gives it back.
#[derive(Debug)]
pub(crate) struct Given(Option<Descriptors>);

/// A connection in the list; dropped once it has asked for something, and with its place.
#[derive(Debug)]
pub(crate) struct Unasked {
    places: Descriptors,
    speaks: Speaks,
    at: u64,
}

impl PortEntry {
    /// The entry of a port, and the requests to give way that come to it.
    pub(crate) fn new(speaks: Speaks) -> (Self, Receiver<GiveWay>) {
        let (to, from) = queue(ENDING_MAX);
        (Self { speaks, to }, from)
    }
}

impl Given {
    /// The place is the holder's now, who gives it back.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(places) = self.0.take() {
            places.give_back();
        }
    }
}

impl Drop for Unasked {
    fn drop(&mut self) {
        self.places.silent().lock().of(self.speaks).remove(&self.at);
    }
}

impl Silent {
    /// Nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest of the ports that speak this, or of all.
    fn pop_oldest(&self, of: Option<Speaks>) -> Option<(u64, Listed)> {
        let mut table = self.lock();
        let first = |listed: &BTreeMap<u64, Listed>| listed.keys().next().copied().unwrap_or(u64::MAX);
        let is_resp = first(&table.of_resp) <= first(&table.of_grpc);
        let oldest = if is_resp { Speaks::Resp } else { Speaks::Grpc };
        table.of(of.unwrap_or(oldest)).pop_first()
    }
}

impl Table {
    fn of(&mut self, speaks: Speaks) -> &mut BTreeMap<u64, Listed> {
        match speaks {
            Speaks::Resp => &mut self.of_resp,
            Speaks::Grpc => &mut self.of_grpc,
        }
    }
}

impl Descriptors {
    /// Lists a connection that has a place and has asked for nothing; `number` is what its port calls it.
    pub(crate) fn list(&self, entry: &PortEntry, number: u64) -> Unasked {
        let mut table = self.silent().lock();
        let at = table.next;
        table.next += 1;
        table.of(entry.speaks).insert(at, Listed { entry: entry.clone(), number });
        Unasked { places: self.clone(), speaks: entry.speaks, at }
    }

    /// How many connections are in the list.
    #[cfg(test)]
    fn unasked(&self) -> usize {
        let table = self.silent().lock();
        table.of_resp.len() + table.of_grpc.len()
    }

    /// Takes a place from the oldest connection that has asked for nothing, of the ports that speak this or of all. Whether there was one;
    /// [`Descriptors::give_back`] returns it.
    pub(crate) async fn take_from_silent(&self, rt: &Rt, of: Option<Speaks>) -> bool {
        // Each turn takes one out of the list, so this ends.
        while let Some((at, listed)) = self.silent().pop_oldest(of) {
            let (to, given) = queue(1);
            match listed.entry.to.try_send(GiveWay { number: listed.number, to }) {
                Ok(()) => {}
                // Its core is gone with all of them.
                Err(TrySend::Closed(_)) => continue,
                // Its core has as many to end as it can.
                Err(TrySend::Full(_)) => {
                    self.silent().lock().of(listed.entry.speaks).insert(at, listed);
                    return false;
                }
            }
            if let Some(Some(given)) = rt.timeout(ENDS_WITHIN, given.recv()).await {
                given.keep();
                return true;
            }
            // It has ended by itself meanwhile, or has asked for something after all.
            if self.take() {
                return true;
            }
        }
        false
    }

    /// Gives a place to whoever waits for it, or back.
    pub(crate) fn hand_over(&self, to: &Sender<Given>) {
        // What is not taken is dropped, which gives it back.
        drop(to.try_send(Given(Some(self.clone()))));
    }
}

#[cfg(test)]
mod tests {
    use engine::rt::sim::{Options, World};

    use super::*;

    /// Serves the entry of a port: ends those of these numbers, and lets the others be.
    fn serve(rt: &Rt, places: &Descriptors, inbox: Receiver<GiveWay>, ends: fn(u64) -> bool) {
        let places = places.clone();
        rt.spawn(async move {
            while let Some(GiveWay { number, to }) = inbox.recv().await {
                if ends(number) {
                    places.hand_over(&to);
                }
            }
        });
    }

    #[test]
    fn the_oldest_of_all_ports_gives_its_place() {
        let world = World::new(1, Options::default());
        let running = world.node(0).start(0, |rt| async move {
            let places = Descriptors::without_reasons(5);
            let ((one, of_one), (other, of_other)) =
                (PortEntry::new(Speaks::Resp), PortEntry::new(Speaks::Grpc));
            let (dead, _) = PortEntry::new(Speaks::Grpc);
            serve(&rt, &places, of_one, |_| true);
            serve(&rt, &places, of_other, |number| number == 8);
            let entries = [(&dead, 1), (&other, 7), (&one, 3), (&other, 8), (&one, 4)];
            let mut listed: Vec<_> = entries
                .iter()
                .map(|(entry, number)| {
                    assert!(places.take());
                    places.list(entry, *number)
                })
                .collect();
            assert!(!places.take());
            // One has asked for something.
            listed.pop();
            assert_eq!(places.unasked(), 4);
            // No port hears of the first, and the second has asked in the meantime; the third ends, and the fourth.
            assert!(places.take_from_silent(&rt, None).await);
            assert_eq!((places.taken(), places.unasked()), (5, 1));
            assert!(
                !places.take_from_silent(&rt, Some(Speaks::Resp)).await,
                "the one that is left speaks gRPC"
            );
            assert!(places.take_from_silent(&rt, Some(Speaks::Grpc)).await);
            assert_eq!((places.taken(), places.unasked()), (5, 0));
            assert!(!places.take_from_silent(&rt, None).await, "there is none");
            assert_eq!(places.taken(), 5);
            drop(listed);
            assert_eq!(places.unasked(), 0);
        });
        world.block_on(running).expect("nothing crashes the node");
    }

    #[test]
    fn a_place_that_no_newcomer_takes_goes_back() {
        let places = Descriptors::without_reasons(1);
        assert!(places.take());
        let (to, from) = queue(1);
        places.hand_over(&to);
        assert_eq!(places.taken(), 1, "it is on its way");
        drop((to, from));
        assert_eq!(places.taken(), 0);
        assert!(places.take());
        let (to, from) = queue::<Given>(1);
        drop(from);
        places.hand_over(&to);
        assert_eq!(places.taken(), 0);
    }
}
