//! What clients read and write, by region, between two reports to the scheduler.
//!
//! Requests only add; a report takes all counts and begins anew, so a region that has gone is forgotten with the next report.
//! An operation that is refused counts nothing. The reads that a read-modify-write makes are not counted beside its write.

use std::cell::RefCell;
use std::collections::HashMap;

use scheduler::{Load, RegionId};

/// Counts of one region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionCount {
    /// Keys read one by one, and range reads.
    pub reads: u64,
    /// Bytes of the keys and values that reads returned, those of keys only for range reads.
    pub read_bytes: u64,
    /// Keys written, and range deletes.
    pub writes: u64,
    /// Bytes of the keys and values written.
    pub written_bytes: u64,
}

/// The counts of all regions of a store. Stays on its core.
#[derive(Debug, Default)]
pub struct RegionCounts(RefCell<HashMap<RegionId, RegionCount, foldhash::fast::FixedState>>);

impl RegionCount {
    /// As rates per second, counted over `passed_ms`, which is not 0.
    pub fn rates(self, passed_ms: u64) -> Load {
        let rate = |count: u64| count.saturating_mul(1000) / passed_ms;
        let narrow = |count: u64| u32::try_from(rate(count)).unwrap_or(u32::MAX);
        Load {
            read_bytes: rate(self.read_bytes),
            write_bytes: rate(self.written_bytes),
            read_ops: narrow(self.reads),
            write_ops: narrow(self.writes),
        }
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            reads: self.reads + other.reads,
            read_bytes: self.read_bytes + other.read_bytes,
            writes: self.writes + other.writes,
            written_bytes: self.written_bytes + other.written_bytes,
        }
    }
}

impl RegionCounts {
    /// `reads` operations have found `bytes`.
    pub(super) fn read(&self, region: RegionId, reads: usize, bytes: usize) {
        self.add(
            region,
            RegionCount { reads: reads as u64, read_bytes: bytes as u64, ..RegionCount::default() },
        );
    }

    /// `writes` operations bring `bytes`.
    pub(super) fn write(&self, region: RegionId, writes: usize, bytes: usize) {
        let written_bytes = bytes as u64;
        self.add(region, RegionCount { writes: writes as u64, written_bytes, ..RegionCount::default() });
    }

    fn add(&self, region: RegionId, count: RegionCount) {
        let mut counts = self.0.borrow_mut();
        let sum = counts.entry(region).or_default();
        *sum = sum.plus(count);
    }

    /// Everything counted since this was last called.
    pub(super) fn take(&self) -> HashMap<RegionId, RegionCount, foldhash::fast::FixedState> {
        self.0.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_become_rates_and_begin_anew() {
        let counts = RegionCounts::default();
        counts.read(RegionId(2), 3, 300);
        counts.read(RegionId(2), 1, 0);
        counts.write(RegionId(2), 5, 1000);
        counts.write(RegionId(3), 1, 7);
        let taken = counts.take();
        let load = Load { read_bytes: 150, write_bytes: 500, read_ops: 2, write_ops: 2 };
        assert_eq!(taken[&RegionId(2)].rates(2000), load);
        assert_eq!(
            taken[&RegionId(3)],
            RegionCount { writes: 1, written_bytes: 7, ..RegionCount::default() }
        );
        assert!(counts.take().is_empty());
    }
}
