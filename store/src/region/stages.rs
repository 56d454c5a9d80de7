//! How long proposals take, stage by stage.
//!
//! ```text
//! arrives ── queue ──► proposed ── log ──► durable here ── replicate ──► committed ── apply ──► applied
//! ```
//!
//! What is timed is a proposal, one entry of the log, not each write in it; its queue is that of the first write in it. Where a quorum
//! has the entry before this disk does, it is committed once this disk has it, too, as far as the stages go: none is negative.
//!
//! Pure: whoever drives a replica says what time it is. Invariant: timed proposals are in the order of their indexes, at most
//! [`TIMED_MAX`] at a time, and none outlives the leadership in which it was proposed.

use std::collections::VecDeque;

use raft::Index;

use super::replica::Replica;

/// Proposals of one region that are timed at a time; further ones are not.
const TIMED_MAX: usize = 1024;

/// A moment by the driver's clock, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Nanoseconds from `earlier` to this moment; 0 if it was not earlier.
    const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How long the stages of one proposal took, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// From the arrival of its first write until it was proposed.
    pub queue: u64,
    /// Until it was durable here.
    pub log: u64,
    /// Until it was committed.
    pub replicate: u64,
    /// Until it was applied.
    pub apply: u64,
}

/// A proposal on its way.
#[derive(Clone, Copy, Debug)]
struct Timed {
    index: Index,
    arrived: Moment,
    proposed: Moment,
    durable: Option<Moment>,
    committed: Option<Moment>,
}

/// The proposals of one region that are on their way.
#[derive(Debug, Default)]
pub(super) struct Stages(VecDeque<Timed>);

impl Stages {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Gives back what an empty queue keeps.
    pub(super) fn release(&mut self) {
        self.0.shrink_to_fit();
    }

    /// Memory of the queue.
    pub(super) fn queue_bytes(&self) -> usize {
        self.0.capacity() * size_of::<Timed>()
    }

    /// Asserts what the module states.
    pub(super) fn check(&self, leads: bool) {
        assert!(leads || self.0.is_empty(), "a proposal is timed after its leadership");
        assert!(self.0.len() <= TIMED_MAX, "too many proposals are timed");
        assert!(self.0.iter().is_sorted_by(|one, next| one.index < next.index), "timed out of order");
    }

    fn is_durable(&mut self, upto: Index, now: Moment) {
        let open = self.0.iter_mut().skip_while(|timed| timed.durable.is_some());
        open.take_while(|timed| timed.index <= upto).for_each(|timed| timed.durable = Some(now));
    }

    fn is_committed(&mut self, upto: Index, now: Moment) {
        let open = self.0.iter_mut().skip_while(|timed| timed.committed.is_some());
        let durable = open.take_while(|timed| timed.index <= upto && timed.durable.is_some());
        durable.for_each(|timed| timed.committed = Some(now));
    }

    fn take_applied(&mut self, upto: Index, now: Moment) -> Option<StageTimes> {
        let Timed { index: _, arrived, proposed, durable, committed } =
            self.0.pop_front_if(|timed| timed.index <= upto)?;
        let durable = durable.unwrap_or(now);
        let committed = committed.unwrap_or(now);
        Some(StageTimes {
            queue: proposed.since(arrived),
            log: durable.since(proposed),
            replicate: committed.since(durable),
            apply: now.since(committed),
        })
    }
}

impl<W, R> Replica<W, R> {
    /// Times what has been proposed since this was last called; `arrived` says when a write came.
    pub fn time_proposed(&mut self, now: Moment, arrived: impl Fn(&W) -> Moment) {
        let last = self.stages.0.back().map_or(Index(0), |timed| timed.index);
        let fresh = self.waiting.iter().rev().take_while(|waiting| waiting.id.index > last).count();
        for waiting in self.waiting.iter().skip(self.waiting.len() - fresh) {
            if self.stages.0.len() == TIMED_MAX {
                return;
            }
            let arrived = waiting.answers.first().map_or(now, &arrived);
            let timed =
                Timed { index: waiting.id.index, arrived, proposed: now, durable: None, committed: None };
            self.stages.0.push_back(timed);
        }
    }

    /// Whether a proposal is on its way, so that the time matters.
    pub fn is_timed(&self) -> bool {
        !self.stages.0.is_empty()
    }

    /// Notes that as much is durable and committed now as the core says.
    pub fn time_progress(&mut self, now: Moment) {
        self.stages.is_durable(self.raft.stable(), now);
        self.stages.is_committed(self.raft.committed(), now);
    }

    /// The next proposal that has been applied, and how long its stages took.
    pub fn time_applied(&mut self, now: Moment) -> Option<StageTimes> {
        self.stages.take_applied(self.raft.applied_index(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(index: u64) -> Timed {
        let (arrived, proposed) = (Moment(10), Moment(30));
        Timed { index: Index(index), arrived, proposed, durable: None, committed: None }
    }

    #[test]
    fn each_stage_is_the_time_between_two_moments() {
        let mut stages = Stages(VecDeque::from([timed(5), timed(6)]));
        stages.is_durable(Index(5), Moment(100));
        stages.is_durable(Index(6), Moment(150));
        stages.is_committed(Index(5), Moment(400));
        assert_eq!(stages.take_applied(Index(4), Moment(500)), None, "nothing of it is applied");
        let times = stages.take_applied(Index(5), Moment(1000));
        assert_eq!(times, Some(StageTimes { queue: 20, log: 70, replicate: 300, apply: 600 }));
        stages.is_committed(Index(6), Moment(1100));
        let times = stages.take_applied(Index(6), Moment(1100));
        assert_eq!(times, Some(StageTimes { queue: 20, log: 120, replicate: 950, apply: 0 }));
        stages.check(false);
    }

    #[test]
    fn a_quorum_of_others_does_not_make_a_stage_negative() {
        let mut stages = Stages(VecDeque::from([timed(5)]));
        stages.is_committed(Index(5), Moment(50));
        stages.is_durable(Index(5), Moment(100));
        stages.is_committed(Index(5), Moment(100));
        let times = stages.take_applied(Index(5), Moment(120));
        assert_eq!(times, Some(StageTimes { queue: 20, log: 70, replicate: 0, apply: 20 }));
    }
}
