//! Proposals of leaderships that have ended, as long as their fate may be learnt here.
//!
//! What a leader has proposed when it is deposed is decided by the next one, and this replica, which goes on as a follower, sees how: it
//! applies the entry, or another one in its place. So whoever waits for it hears that if it comes soon, and "unknown" only if it does not.
//! Leaderships are handed over all the time, by balancing and by drains, and while a disk hangs much is on its way when that happens.
//!
//! | then | answer |
//! |---|---|
//! | the entry is applied | what it came to |
//! | another entry is applied at its index | not the leader: it can never take effect, and may be sent again |
//! | a snapshot overtakes it, the replica dies, or [`TIMEOUTS`] election timeouts pass | unknown |
//!
//! Invariant: everything here lies above the applied index.

use std::collections::BTreeMap;

use raft::{Index, LogId, Term};

use super::submit::Waiting;

/// How long fates are waited for, in election timeouts: the next leader needs one to be elected.
const TIMEOUTS: u32 = 2;

/// Proposals without a leader, by index and term.
#[derive(Debug)]
pub(super) struct Doubt<W> {
    proposals: BTreeMap<(Index, Term), Vec<W>>,
    ticks: u32,
    ticks_max: u32,
}

/// Who waited for an entry that is being applied, and for those that it proves lost.
#[derive(Debug)]
pub(super) struct Settled<W> {
    /// For this very entry.
    pub(super) mine: Option<Vec<W>>,
    /// For others in its place.
    pub(super) lost: Vec<W>,
}

impl<W> Doubt<W> {
    /// None, for a group whose election timeout has this many ticks.
    pub(super) const fn new(election_ticks: u32) -> Self {
        let ticks_max = election_ticks.saturating_mul(TIMEOUTS);
        Self { proposals: BTreeMap::new(), ticks: 0, ticks_max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.proposals.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.proposals.len()
    }

    /// Takes over what a leader has proposed whose time is over.
    pub(super) fn take_over(&mut self, waiting: impl IntoIterator<Item = Waiting<W>>) {
        for Waiting { id, version: _, command: _, answers } in waiting {
            self.proposals.insert((id.index, id.term), answers);
            self.ticks = 0;
        }
    }

    /// The entry `id` is being applied.
    pub(super) fn settle(&mut self, id: LogId) -> Settled<W> {
        let mine = self.proposals.remove(&(id.index, id.term));
        let at = |index| (Index(index), Term(0))..(Index(index + 1), Term(0));
        let others: Vec<_> = self.proposals.range(at(id.index.0)).map(|(id, _)| *id).collect();
        let lost = others.into_iter().filter_map(|id| self.proposals.remove(&id)).flatten().collect();
        Settled { mine, lost }
    }

    /// What can no longer be learnt, because the state is at `applied` without the entries that led there.
    pub(super) fn overtaken(&mut self, applied: Index) -> Vec<W> {
        let above = self.proposals.split_off(&(Index(applied.0 + 1), Term(0)));
        std::mem::replace(&mut self.proposals, above).into_values().flatten().collect()
    }

    /// Lets a tick pass; returns what has waited too long.
    pub(super) fn tick(&mut self) -> Vec<W> {
        if self.is_empty() {
            return Vec::new();
        }
        self.ticks += 1;
        if self.ticks < self.ticks_max { Vec::new() } else { self.end() }
    }

    /// All, because no more is learnt here.
    pub(super) fn end(&mut self) -> Vec<W> {
        std::mem::take(&mut self.proposals).into_values().flatten().collect()
    }

    pub(super) fn waiting_mut(&mut self) -> impl Iterator<Item = &mut W> {
        self.proposals.values_mut().flatten()
    }

    pub(super) fn check(&self, applied: Index) {
        assert!(self.proposals.keys().all(|(index, _)| *index > applied), "a doubt was forgotten");
        assert!(self.is_empty() || self.ticks < self.ticks_max, "a doubt is kept too long");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(index: u64, term: u64, waiter: u32) -> Waiting<u32> {
        let id = LogId { term: Term(term), index: Index(index) };
        Waiting { id, version: 1, command: None, answers: vec![waiter] }
    }

    fn id(index: u64, term: u64) -> LogId {
        LogId { term: Term(term), index: Index(index) }
    }

    #[test]
    fn an_entry_that_is_applied_settles_its_own_waiters_and_those_of_others_in_its_place() {
        let mut doubt = Doubt::new(10);
        doubt.take_over([proposed(5, 2, 1), proposed(6, 2, 2), proposed(7, 2, 3)]);
        doubt.take_over([proposed(6, 4, 4)]);
        doubt.check(Index(4));
        let Settled { mine, lost } = doubt.settle(id(5, 2));
        assert_eq!((mine, lost), (Some(vec![1]), vec![]));
        let Settled { mine, lost } = doubt.settle(id(6, 4));
        assert_eq!((mine, lost), (Some(vec![4]), vec![2]));
        let Settled { mine, lost } = doubt.settle(id(7, 5));
        assert_eq!((mine, lost), (None, vec![3]));
        assert!(doubt.is_empty());
    }

    #[test]
    fn what_a_snapshot_overtakes_stays_unknown() {
        let mut doubt = Doubt::new(10);
        doubt.take_over([proposed(5, 2, 1), proposed(6, 2, 2), proposed(7, 2, 3)]);
        assert_eq!(doubt.overtaken(Index(6)), [1, 2]);
        doubt.check(Index(6));
        assert_eq!(doubt.end(), [3]);
    }

    #[test]
    fn what_is_not_learnt_is_unknown_two_election_timeouts_after_the_last_leadership() {
        let mut doubt = Doubt::new(10);
        doubt.take_over([proposed(5, 2, 1)]);
        assert!((0..19).all(|_| doubt.tick().is_empty()));
        doubt.take_over([proposed(6, 4, 2)]);
        assert!((0..19).all(|_| doubt.tick().is_empty()));
        assert_eq!(doubt.tick(), [1, 2]);
        assert!(doubt.is_empty() && (0..100).all(|_| doubt.tick().is_empty()));
    }
}
