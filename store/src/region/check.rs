//! The invariants of a replica, as assertions: in debug builds, and with the feature `checks`, which the simulator has.

use super::change::membership;
use super::life::Life;
use super::reads::READS_MAX;
use super::replica::Replica;

impl<W, R> Replica<W, R> {
    /// Asserts the stated invariants.
    ///
    /// # Panics
    /// If one does not hold: that is a bug here, or in a driver that broke its contract.
    pub fn check(&self) {
        let region = self.region();
        assert!(region.check().is_ok(), "{region} contradicts itself");
        assert_eq!(
            self.life == Life::Tombstone,
            self.record.tombstone,
            "a tombstone of {region} in two minds"
        );
        let (blank, life) = (region.peers.is_empty(), self.life);
        assert!(blank || life != Life::Initialising, "{region} has members and waits for its first snapshot");
        assert!(
            !blank || !matches!(life, Life::Live | Life::Splitting | Life::Merging),
            "{region} is {life}"
        );
        // The core takes the membership of a snapshot at once, the descriptor follows with the effects.
        if self.life == Life::Live && !self.raft.has_ready() {
            assert_eq!(self.raft.membership(), &membership(region), "the core and {region} differ");
        }
        let leads = self.raft.is_leader() && self.life != Life::Tombstone;
        assert_eq!(self.office, leads.then(|| self.raft.term()), "{region}: a leadership went unnoticed");
        if self.office.is_none() {
            assert!(
                self.waiting.is_empty() && self.gathering.is_empty(),
                "{region}: waiters without a leader"
            );
            assert!(self.inflight.is_empty(), "{region}: values in flight without a leader");
        }
        let indexes = || self.waiting.iter().map(|waiting| waiting.id.index);
        assert!(indexes().is_sorted_by(|one, next| one < next), "{region}: waiters out of order");
        let term = self.raft.term();
        assert!(
            self.waiting.iter().all(|waiting| waiting.id.term == term),
            "{region}: a waiter of an old term"
        );
        assert!(indexes().all(|index| index > self.raft.applied_index()), "{region}: a waiter was forgotten");
        self.doubt.check(self.raft.applied_index());
        assert!(self.in_tree <= self.raft.applied_index(), "{region}: the tree is ahead of the core");
        assert!(self.reads.len() <= READS_MAX, "{region}: too many reads wait");
        self.inflight.check();
        self.stages.check(self.office.is_some());
    }

    pub(super) fn debug_check(&self) {
        if cfg!(any(debug_assertions, feature = "checks")) {
            self.check();
        }
    }
}
