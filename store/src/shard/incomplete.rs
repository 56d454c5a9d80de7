//! Replicas that lack what was acknowledged: the other members count on what is not here.
//!
//! That happens to a directory that was put back from an older copy, or whose disk has lost what it had made durable. Such a replica is up, hears
//! its leader, and never takes an entry again, while every member counts it as one of the replicas that survive a loss. Nothing mends that by
//! itself, so it is said: in the log, on `/ready`, and as a metric.
//!
//! | the core says | that means | it ends |
//! |---|---|---|
//! | [`Loss::Here`] | the leader knows what this replica has acknowledged, and it is not here | with a heartbeat that the replica can follow |
//! | [`Loss::Somewhere`] | this replica and its leader contradict each other in what each has committed | with the replica, or the process |
//!
//! What else the core refuses is ordinary, or says nothing of this replica ([`Dropped::loss`](raft::Dropped::loss)).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use engine::rt::Mono;
use raft::{Dropped, Loss};
use scheduler::{RegionId, StoreId};

use super::Inner;
use super::health::Event;
use crate::region::message::{Body, PeerMessage};

/// The shortest time between two lines of a store.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// The replicas of one store that lack something.
#[derive(Debug, Default)]
pub(super) struct Incomplete {
    regions: RefCell<BTreeMap<RegionId, Loss>>,
    said: Cell<Option<Mono>>,
}

impl Incomplete {
    /// What is to be known of them: how many there are, and a sentence on the first of them.
    fn report(&self, store: StoreId) -> (u64, String) {
        let regions = self.regions.borrow();
        let first = regions.first_key_value().map(|(region, loss)| sentence(store, *region, *loss));
        (regions.len() as u64, first.unwrap_or_default())
    }

    fn may_say(&self, now: Mono) -> bool {
        let may = self.said.get().is_none_or(|said| now.since(said) >= SAY_EVERY);
        if may {
            self.said.set(Some(now));
        }
        may
    }
}

/// Whether the leader of the group says how far it believes the replica to be.
pub(super) fn is_beat(message: &PeerMessage) -> bool {
    matches!(&message.body, Body::Raft(message) if matches!(message.body, raft::Body::Heartbeat(_)))
}

fn sentence(store: StoreId, region: RegionId, loss: Loss) -> String {
    let (region, store) = (region.0, store.0);
    match loss {
        Loss::Here => format!(
            "its replica of region {region} lacks what it has acknowledged, so it takes nothing in and does not count: the directory is an older \
             copy, or its disk has lost data; take the store out with `ringkeep ctl store remove {store}`, empty the directory and join again"
        ),
        Loss::Somewhere => format!(
            "its replica of region {region} and the leader contradict each other in what was acknowledged: one of their directories is an older \
             copy, or a disk has lost data; take the store of which that is true out with `ringkeep ctl store remove`, empty its directory and \
             join again"
        ),
    }
}

impl Inner {
    /// The core has not acted upon a message for this region.
    pub(super) fn note_loss(&self, region: RegionId, dropped: Dropped) {
        let Some(loss) = dropped.loss() else { return };
        self.incomplete.regions.borrow_mut().insert(region, loss);
        let (count, what) = self.incomplete.report(self.store);
        if self.incomplete.may_say(self.rt.now()) {
            let said = sentence(self.store, region, loss);
            tracing::error!(store = self.store.0, region = region.0, count, "{said}");
        }
        self.health.enter(Event::Incomplete(count, what));
    }

    /// The replica of this region follows a heartbeat of its leader.
    pub(super) fn note_beat(&self, region: RegionId) {
        self.keep_incomplete(|known, loss| known != region || loss == Loss::Somewhere);
    }

    /// Forgets the replicas that have gone.
    pub(super) fn note_gone(&self) {
        let state = self.state.borrow();
        self.keep_incomplete(|region, _| state.table.get(region).is_some());
    }

    fn keep_incomplete(&self, keep: impl Fn(RegionId, Loss) -> bool) {
        let mut regions = self.incomplete.regions.borrow_mut();
        let before = regions.len();
        regions.retain(|region, loss| keep(*region, *loss));
        let changed = regions.len() != before;
        drop(regions);
        if changed {
            let (count, what) = self.incomplete.report(self.store);
            self.health.enter(Event::Incomplete(count, what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_says_it_once_a_minute_and_each_loss_has_its_remedy() {
        let incomplete = Incomplete::default();
        let at = |seconds: u64| Mono(seconds * 1_000_000_000);
        let said: Vec<u64> = (1..=130).filter(|seconds| incomplete.may_say(at(*seconds))).collect();
        assert_eq!(said, [1, 61, 121]);
        let (store, region) = (StoreId(7), RegionId(9));
        let here = sentence(store, region, Loss::Here);
        assert!(here.contains("replica of region 9 lacks") && here.contains("store remove 7`"), "{here}");
        let somewhere = sentence(store, region, Loss::Somewhere);
        assert!(somewhere.contains("contradict") && !somewhere.contains("remove 7`"), "{somewhere}");
    }
}
