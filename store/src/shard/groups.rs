//! What a store's replicas say of their groups, added up: who leads, who lags, who is not heard, and what elections and proposals come to.
//!
//! Counts grow where they happen; levels are added up when the store's numbers are copied, once a second, over all replicas and without
//! a copy of anything. No number is kept per region, so that their number does not grow with that of the regions.

use std::time::Duration;

use raft::{Event, TransferOutcome};

use super::members::SILENT_TICKS_MAX;
use super::{Due, Inner, Queued, State};
use crate::metrics::{Counter, Histogram, HistogramNumbers};
use crate::region::elections::Elections;
use crate::region::replica::Replica;
use crate::region::stages::{Moment, StageTimes};

/// What elections came to.
#[derive(Debug, Default)]
pub struct ElectionCounters {
    /// Campaigns begun here.
    pub started: Counter,
    /// Campaigns won here.
    pub won: Counter,
    /// Times that a replica here heard of another leader than the one it knew.
    pub leader_changes: Counter,
    /// Transfers of leadership from here that were carried out.
    pub transfers_done: Counter,
    /// Transfers of leadership from here that were not.
    pub transfers_failed: Counter,
}

/// A copy of [`ElectionCounters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ElectionNumbers {
    /// See [`ElectionCounters`].
    pub started: u64,
    /// See [`ElectionCounters`].
    pub won: u64,
    /// See [`ElectionCounters`].
    pub leader_changes: u64,
    /// See [`ElectionCounters`].
    pub transfers_done: u64,
    /// See [`ElectionCounters`].
    pub transfers_failed: u64,
}

impl ElectionCounters {
    fn add(&self, elections: Elections) {
        let Elections { started, won, leader_changes } = elections;
        self.started.add(started);
        self.won.add(won);
        self.leader_changes.add(leader_changes);
    }

    /// A copy.
    pub fn numbers(&self) -> ElectionNumbers {
        ElectionNumbers {
            started: self.started.get(),
            won: self.won.get(),
            leader_changes: self.leader_changes.get(),
            transfers_done: self.transfers_done.get(),
            transfers_failed: self.transfers_failed.get(),
        }
    }
}

/// How long proposals took, by stage.
#[derive(Debug, Default)]
pub struct StageHistograms([Histogram; STAGES.len()]);

/// The stages of a proposal, in order.
pub const STAGES: [&str; 4] = ["queue", "log", "replicate", "apply"];

impl StageHistograms {
    fn record(&self, times: StageTimes) {
        let StageTimes { queue, log, replicate, apply } = times;
        for (histogram, nanos) in self.0.iter().zip([queue, log, replicate, apply]) {
            histogram.record(Duration::from_nanos(nanos));
        }
    }

    /// Copies, in the order of [`STAGES`].
    pub fn snapshot(&self) -> Vec<(&'static str, HistogramNumbers)> {
        STAGES.into_iter().zip(self.0.iter().map(Histogram::snapshot)).collect()
    }
}

/// How far followers are behind the leaders of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Entries that followers are not known to have, over all regions led here.
    pub entries: u64,
    /// The same of the follower that lacks most.
    pub max_entries: u64,
    /// Bytes of those entries in this store's log, about.
    pub bytes: u64,
    /// The same of the follower that lacks most.
    pub max_bytes: u64,
}

/// What the replicas of a store are at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupNumbers {
    /// Regions here.
    pub regions: u64,
    /// Regions led here.
    pub leaders: u64,
    /// Replicas here that sleep.
    pub asleep: u64,
    /// Groups here that know no leader, the scheduler's included.
    pub without_leader: u64,
    /// Followers of groups led here that are not caught up.
    pub pending_peers: u64,
    /// Followers of groups led here that have been silent for two election timeouts.
    pub down_peers: u64,
    /// How far followers are behind.
    pub lag: Lag,
}

impl Inner {
    /// Adds up what the replicas are now.
    pub(super) fn group_numbers(&self, state: &State) -> GroupNumbers {
        let mut numbers = GroupNumbers::default();
        for replica in state.table.iter() {
            numbers.regions += u64::from(!replica.is_system());
            numbers.leaders += u64::from(!replica.is_system() && replica.is_leader());
            numbers.asleep += u64::from(replica.is_asleep());
            numbers.without_leader += u64::from(!replica.knows_leader());
            if replica.is_asleep() {
                // Its leader has heard of every follower that it has everything.
                continue;
            }
            let behind = replica.behind(SILENT_TICKS_MAX, 1);
            numbers.pending_peers += behind.pending.len() as u64;
            numbers.down_peers += behind.down.len() as u64;
            for follower in replica.followers() {
                let entries = replica.last_index().0.saturating_sub(follower.matched.0);
                let bytes = match entries {
                    0 => 0,
                    _ => self.log.bytes_after(replica.id().0, follower.matched.0),
                };
                let lag = &mut numbers.lag;
                (lag.entries, lag.max_entries) = (lag.entries + entries, lag.max_entries.max(entries));
                (lag.bytes, lag.max_bytes) = (lag.bytes + bytes, lag.max_bytes.max(bytes));
            }
        }
        numbers
    }

    fn moment(&self) -> Moment {
        Moment(self.rt.now().0)
    }

    /// Counts what a replica has seen of elections, and times what it has just proposed.
    pub(super) fn observe(&self, replica: &mut Replica<Due, Queued>, proposes: bool) {
        let elections = replica.take_elections();
        if !elections.is_none() {
            self.counters.elections.add(elections);
        }
        if proposes && replica.is_leader() {
            replica.time_proposed(self.moment(), |due| Moment(due.since.0));
        }
    }

    /// Times what an input has made durable or committed.
    pub(super) fn time_progress(&self, replica: &mut Replica<Due, Queued>) {
        if replica.is_timed() {
            replica.time_progress(self.moment());
        }
    }

    /// Times what has been applied.
    pub(super) fn time_applied(&self, replica: &mut Replica<Due, Queued>) {
        if replica.is_timed() {
            let now = self.moment();
            while let Some(times) = replica.time_applied(now) {
                self.counters.stages.record(times);
            }
        }
    }

    /// Counts what came of a transfer of leadership.
    pub(super) fn count_event(&self, event: &Event) {
        let elections = &self.counters.elections;
        match event {
            Event::Transfer { target: _, outcome: TransferOutcome::Done } => {
                elections.transfers_done.add_one()
            }
            Event::Transfer {
                target: _,
                outcome: TransferOutcome::GaveUp(_) | TransferOutcome::Refused(_),
            } => {
                elections.transfers_failed.add_one();
            }
            Event::CaughtUp { learner: _, matched: _ } => {}
        }
    }
}
