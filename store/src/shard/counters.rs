//! What one store counts about itself.

use std::cell::Cell;

use engine::log::LogStats;
use engine::lsm::TreeStats;
use engine::rt::Mono;

use crate::metrics::{Counter, Histogram, HistogramNumbers};
use crate::refusal::Refusal;
use crate::shard::groups::{ElectionCounters, ElectionNumbers, GroupNumbers, StageHistograms};
use crate::shard::health::HealthReport;
use crate::shard::outbox::PeerNumbers;
use crate::shard::receiving::Unwanted;
use crate::shard::watch::{LOG_WRITE_MAX, LogWatch};

/// Operations refused, by [`Refusal::reason`].
#[derive(Debug, Default)]
pub struct Refusals([Counter; Refusal::REASONS.len()]);

impl Refusals {
    /// Counts one.
    pub fn add(&self, refusal: &Refusal) {
        let reason = refusal.reason();
        let place = Refusal::REASONS.iter().position(|known| *known == reason);
        self.0[place.expect("REASONS lists every reason")].add_one();
    }

    /// How many there were, by reason.
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        Refusal::REASONS.iter().copied().zip(self.0.iter().map(Counter::get)).collect()
    }
}

/// A value that goes up and down. Stays on its core.
#[derive(Debug, Default)]
pub struct Gauge(Cell<u64>);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// What became of snapshots.
#[derive(Debug, Default)]
pub struct SnapshotCounters {
    /// Sent, and installed at their followers.
    pub sent: Counter,
    /// That did not get to their followers.
    pub failed: Counter,
    /// Received and installed.
    pub received: Counter,
    /// Refused when they were offered, while they arrived or when they were whole, by [`Unwanted::REASONS`].
    pub refused: [Counter; Unwanted::REASONS.len()],
    /// Bytes of files handed to the transport.
    pub bytes_sent: Counter,
    /// Bytes of files that arrived.
    pub bytes_received: Counter,
    /// Bytes of tables handed over to stores of this node, which were neither read nor sent.
    pub relocated_bytes: Counter,
}

/// A copy of [`SnapshotCounters`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotNumbers {
    /// See [`SnapshotCounters`].
    pub sent: u64,
    /// See [`SnapshotCounters`].
    pub failed: u64,
    /// See [`SnapshotCounters`].
    pub received: u64,
    /// See [`SnapshotCounters`].
    pub refused: Vec<(&'static str, u64)>,
    /// See [`SnapshotCounters`].
    pub bytes_sent: u64,
    /// See [`SnapshotCounters`].
    pub bytes_received: u64,
    /// See [`SnapshotCounters`].
    pub relocated_bytes: u64,
}

impl SnapshotCounters {
    /// A copy.
    pub fn numbers(&self) -> SnapshotNumbers {
        let refused = Unwanted::REASONS.iter().copied().zip(self.refused.iter().map(Counter::get));
        SnapshotNumbers {
            sent: self.sent.get(),
            failed: self.failed.get(),
            received: self.received.get(),
            refused: refused.collect(),
            bytes_sent: self.bytes_sent.get(),
            bytes_received: self.bytes_received.get(),
            relocated_bytes: self.relocated_bytes.get(),
        }
    }
}

/// What became of merges that were asked of this store.
#[derive(Debug, Default)]
pub struct MergeCounters {
    /// Regions that were to stop.
    pub begun: Counter,
    /// Regions that were taken in by one that is led here.
    pub done: Counter,
    /// Regions led here that have stopped and go on.
    pub rolled_back: Counter,
    /// What was asked and not begun.
    pub refused: Refusals,
}

/// A copy of [`MergeCounters`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeNumbers {
    /// See [`MergeCounters`].
    pub begun: u64,
    /// See [`MergeCounters`].
    pub done: u64,
    /// See [`MergeCounters`].
    pub rolled_back: u64,
    /// See [`MergeCounters`], by reason.
    pub refused: Vec<(&'static str, u64)>,
}

impl MergeCounters {
    /// A copy.
    pub fn numbers(&self) -> MergeNumbers {
        let Self { begun, done, rolled_back, refused } = self;
        let (begun, done, rolled_back) = (begun.get(), done.get(), rolled_back.get());
        MergeNumbers { begun, done, rolled_back, refused: refused.snapshot() }
    }
}

/// The numbers of one store.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Keys read one by one or in batches.
    pub reads: Counter,
    /// Range reads.
    pub scans: Counter,
    /// Reads stopped because their client had gone.
    pub reads_abandoned: Counter,
    /// Reads answered by a replica that did not lead.
    pub replica_reads: Counter,
    /// Operations refused.
    pub refused: Refusals,
    /// Log entries applied.
    pub applied: Counter,
    /// From the arrival of a write to its answer.
    pub write_latency: Histogram,
    /// Durable writes of the log.
    pub log_writes: Counter,
    /// Bytes given to the log, without padding.
    pub log_bytes: Counter,
    /// Groups per log write, summed: divided by `log_writes` it is the size of the group commit.
    pub log_groups: Counter,
    /// Operations per log write, summed.
    pub log_operations: Counter,
    /// Duration of a durable log write.
    pub log_write: Histogram,
    /// Bytes free on the disk.
    pub disk_free_bytes: Gauge,
    /// Snapshots.
    pub snapshots: SnapshotCounters,
    /// Merges.
    pub merges: MergeCounters,
    /// Elections.
    pub elections: ElectionCounters,
    /// How long proposals took.
    pub stages: StageHistograms,
}

/// A copy of [`StoreCounters`] and of what the store's parts say about themselves, which may leave the core.
#[derive(Clone, Debug, Default)]
pub struct StoreNumbers {
    /// The store's id.
    pub store: u64,
    /// See [`StoreCounters`].
    pub reads: u64,
    /// See [`StoreCounters`].
    pub scans: u64,
    /// See [`StoreCounters`].
    pub reads_abandoned: u64,
    /// See [`StoreCounters`].
    pub replica_reads: u64,
    /// See [`StoreCounters`].
    pub refused: Vec<(&'static str, u64)>,
    /// See [`StoreCounters`].
    pub applied: u64,
    /// See [`StoreCounters`].
    pub write_latency: HistogramNumbers,
    /// See [`StoreCounters`].
    pub log_writes: u64,
    /// See [`StoreCounters`].
    pub log_bytes: u64,
    /// See [`StoreCounters`].
    pub log_groups: u64,
    /// See [`StoreCounters`].
    pub log_operations: u64,
    /// See [`StoreCounters`].
    pub log_write: HistogramNumbers,
    /// See [`StoreCounters`].
    pub disk_free_bytes: u64,
    /// What the store can do for clients, and why not more.
    pub health: HealthReport,
    /// When the log write in flight began; true even while the core hangs.
    pub log_watch: LogWatch,
    /// What the log says about itself.
    pub log: LogStats,
    /// What the tree says about itself.
    pub tree: TreeStats,
    /// What its replicas are.
    pub groups: GroupNumbers,
    /// See [`StoreCounters`].
    pub elections: ElectionNumbers,
    /// See [`StoreCounters`], by stage.
    pub stages: Vec<(&'static str, HistogramNumbers)>,
    /// Bytes of writes in flight.
    pub inflight_bytes: u64,
    /// Beyond which writes are refused, small ones somewhat later.
    pub inflight_bytes_max: u64,
    /// See [`StoreCounters`].
    pub snapshots: SnapshotNumbers,
    /// See [`StoreCounters`].
    pub merges: MergeNumbers,
    /// What the way to other stores has done and holds.
    pub peers: PeerNumbers,
    /// Messages of other stores that a replica has taken.
    pub messages_stepped: u64,
    /// Messages of other stores that were dropped on arrival, by reason.
    pub messages_lost: Vec<(&'static str, u64)>,
    /// Snapshots that are being sent.
    pub snapshots_sending: u64,
    /// Snapshots that are being received, or whose sender may come back.
    pub snapshots_receiving: u64,
}

impl StoreNumbers {
    /// Why the store is not ready at `now`, if it is not: its health, and a log write that takes too long.
    pub fn problem(&self, now: Mono) -> Option<String> {
        let age = self.log_watch.age(now);
        let hangs = (age >= LOG_WRITE_MAX)
            .then(|| format!("a log write has been in flight for {} s: its disk hangs", age.as_secs()));
        let problems: Vec<String> = self.health.problem().into_iter().chain(hangs).collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}

impl StoreCounters {
    /// A copy.
    pub fn snapshot(&self) -> StoreNumbers {
        StoreNumbers {
            reads: self.reads.get(),
            scans: self.scans.get(),
            reads_abandoned: self.reads_abandoned.get(),
            replica_reads: self.replica_reads.get(),
            refused: self.refused.snapshot(),
            applied: self.applied.get(),
            write_latency: self.write_latency.snapshot(),
            log_writes: self.log_writes.get(),
            log_bytes: self.log_bytes.get(),
            log_groups: self.log_groups.get(),
            log_operations: self.log_operations.get(),
            log_write: self.log_write.snapshot(),
            disk_free_bytes: self.disk_free_bytes.get(),
            snapshots: self.snapshots.numbers(),
            merges: self.merges.numbers(),
            elections: self.elections.numbers(),
            stages: self.stages.snapshot(),
            ..StoreNumbers::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_counted_under_its_own_reason() {
        let refusals = [
            Refusal::NotLeader { region_id: 1, leader: None },
            Refusal::RegionNotFound { region_id: 1 },
            Refusal::EpochNotMatch { current: Vec::new() },
            Refusal::StoreNotMatch { asked: 1, actual: 2 },
            Refusal::PeerNotMatch { asked: 1, actual: 2 },
            Refusal::StaleCommand,
            Refusal::Busy { reason: "full", backoff_ms: 1 },
            Refusal::DiskFull { store_ids: Vec::new(), reason: String::new() },
            Refusal::TooLarge { region_id: 1, bytes: 2, bytes_max: 1 },
            Refusal::Damaged { file: String::new(), what: String::new() },
            Refusal::Invalid(String::new()),
            Refusal::NotAnInteger,
            Refusal::Stopped(String::new()),
            Refusal::Unknown,
        ];
        let counters = Refusals::default();
        refusals.iter().for_each(|refusal| counters.add(refusal));
        let counted: Vec<u64> = counters.snapshot().into_iter().map(|(_, count)| count).collect();
        // A client's own mistakes share one reason; a key outside of a region needs a region and is left out here.
        assert_eq!(counted, [1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1]);
    }
}
