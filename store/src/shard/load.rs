//! What clients read and write, by region, between two reports to the scheduler.
//!
//! Requests only add; a report takes all counts and begins anew, so a region that has gone is forgotten with the next report.
//! An operation that is refused counts nothing. The reads that a read-modify-write makes are not counted beside its write.
//!
//! Of the regions that bear most the requests are sampled, so that the report can say where such a region could be cut. Sampling costs an
//! operation a look at [`SAMPLED_REGIONS_MAX`] ids at most, and some dozen operations a second the copy of a key; the samples of a store
//! take [`SAMPLED_REGIONS_MAX`] times 64 KiB at most.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;

use scheduler::{Load, LoadCut, Region, RegionId};

use crate::keyspace;
use crate::region::samples::{Samples, Touched};
use crate::region::submit::Edit;

/// Regions of a store whose requests are sampled at a time.
const SAMPLED_REGIONS_MAX: usize = 4;
/// What a region must have borne between two reports to be sampled, in operations.
const SAMPLED_WEIGHT_MIN: u64 = 32;
/// About how many samples are taken of a region between two reports.
const SAMPLES_EACH_TIME: u64 = 32;
/// Bytes that weigh as much as an operation.
const WEIGHT_BYTES: u64 = 1024;

/// Counts by region.
pub(crate) type Counts = HashMap<RegionId, RegionCount, foldhash::fast::FixedState>;

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
pub struct RegionCounts {
    counts: RefCell<Counts>,
    sampled: RefCell<Vec<(RegionId, Samples)>>,
}

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

    /// What it comes to in operations, bytes included.
    fn weight(self) -> u64 {
        let Self { reads, read_bytes, writes, written_bytes } = self;
        reads + writes + (read_bytes + written_bytes) / WEIGHT_BYTES
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
    /// `reads` operations have found `bytes`; `nth` says what they asked for.
    pub(super) fn read<'a>(
        &self,
        region: RegionId,
        reads: usize,
        bytes: usize,
        nth: impl Fn(usize) -> Touched<'a>,
    ) {
        let count = RegionCount { reads: reads as u64, read_bytes: bytes as u64, ..RegionCount::default() };
        self.sample(region, reads, count.weight(), nth);
        self.add(region, count);
    }

    /// `writes` operations bring `bytes`.
    pub(super) fn write(&self, region: RegionId, writes: usize, bytes: usize) {
        let written_bytes = bytes as u64;
        self.add(region, RegionCount { writes: writes as u64, written_bytes, ..RegionCount::default() });
    }

    /// Samples what an edit writes. It is not admitted yet: what is refused later was asked for as well.
    pub(super) fn sample_edit(&self, region: RegionId, edit: &Edit) {
        let keys = edit.count();
        if keys == 0 || self.sampled.borrow().iter().all(|(id, _)| *id != region) {
            return;
        }
        let weight = RegionCount { writes: keys as u64, ..RegionCount::default() }.weight();
        let weight = weight + edit.bytes() as u64 / WEIGHT_BYTES;
        self.sample(region, keys, weight, |n| match edit {
            Edit::Nothing => unreachable!("it writes something"),
            Edit::Put(key, _) | Edit::Delete(key) => Touched::Key(key),
            Edit::Many(pairs) => Touched::Key(&pairs[n].0),
            Edit::DeleteRange(start, end) if end.is_empty() => Touched::Range(start, None),
            Edit::DeleteRange(start, end) => Touched::Range(start, Some(end)),
        });
    }

    /// Where samples say that a region could be cut.
    pub(super) fn cut(&self, region: &Region) -> LoadCut {
        let sampled = self.sampled.borrow();
        let samples = sampled.iter().find(|(id, _)| *id == region.id);
        samples.map_or(LoadCut::Unknown, |(_, samples)| samples.cut(&region.range, keyspace::may_cut))
    }

    fn sample<'a>(&self, region: RegionId, keys: usize, weight: u64, nth: impl Fn(usize) -> Touched<'a>) {
        let mut sampled = self.sampled.borrow_mut();
        if let Some((_, samples)) = sampled.iter_mut().find(|(id, _)| *id == region && keys > 0) {
            samples.see(keys, weight, nth);
        }
    }

    fn add(&self, region: RegionId, count: RegionCount) {
        let mut counts = self.counts.borrow_mut();
        let sum = counts.entry(region).or_default();
        *sum = sum.plus(count);
    }

    /// Everything counted since this was last called. Whoever has borne most of it is sampled from now on.
    pub(super) fn take(&self) -> Counts {
        let counts = self.counts.take();
        self.choose(&counts);
        counts
    }

    /// Which regions are sampled, and how often. A region that is sampled gives way only to one with twice its load: samples need some
    /// seconds to say something.
    fn choose(&self, counts: &Counts) {
        let mut sampled = self.sampled.borrow_mut();
        let is_sampled = |region| sampled.iter().any(|(id, _)| *id == region);
        let rank = |region: RegionId, weight: u64| if is_sampled(region) { 2 * weight } else { weight };
        let loads = counts.iter().map(|(region, count)| (rank(*region, count.weight()), *region, count));
        let mut loads: Vec<_> = loads.filter(|(_, _, count)| count.weight() >= SAMPLED_WEIGHT_MIN).collect();
        let most = loads.len().min(SAMPLED_REGIONS_MAX);
        if most < loads.len() {
            loads.select_nth_unstable_by_key(most, |(rank, region, _)| (Reverse(*rank), *region));
            loads.truncate(most);
        }
        sampled.retain(|(id, _)| loads.iter().any(|(_, region, _)| region == id));
        for (_, region, count) in loads {
            if !sampled.iter().any(|(id, _)| *id == region) {
                sampled.push((region, Samples::new(region.0)));
            }
            let (_, samples) = sampled.iter_mut().find(|(id, _)| *id == region).expect("it is sampled");
            samples.take_every(count.weight() / SAMPLES_EACH_TIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use scheduler::{Epoch, Key, KeyRange};

    use super::*;

    #[test]
    fn counts_become_rates_and_begin_anew() {
        let counts = RegionCounts::default();
        counts.read(RegionId(2), 3, 300, |_| Touched::Key(b"k"));
        counts.read(RegionId(2), 1, 0, |_| Touched::Key(b"k"));
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

    #[test]
    fn the_busiest_regions_are_sampled_and_one_that_is_gives_way_to_a_much_busier_one_only() {
        let counts = RegionCounts::default();
        let ask = |loads: &[(u64, u64)]| {
            for (region, operations) in loads {
                for n in 0..*operations {
                    let key = Bytes::from(format!("{:05}", n * 7919 % operations));
                    let edit = Edit::Put(key, Bytes::new().into());
                    counts.sample_edit(RegionId(*region), &edit);
                    counts.write(RegionId(*region), 1, edit.bytes());
                }
            }
            counts.take();
            let sampled = counts.sampled.borrow();
            let mut regions: Vec<u64> = sampled.iter().map(|(region, _)| region.0).collect();
            regions.sort_unstable();
            regions
        };
        assert!(ask(&[(1, 31)]).is_empty(), "next to nothing");
        assert_eq!(ask(&[(1, 500), (2, 400), (3, 300), (4, 200), (5, 100)]), [1, 2, 3, 4]);
        let region =
            |id| Region { id: RegionId(id), range: KeyRange::full(), epoch: Epoch::FIRST, peers: vec![] };
        assert_eq!(counts.cut(&region(1)), LoadCut::Unknown, "nothing was asked since");
        for _ in 0..3 {
            assert_eq!(ask(&[(1, 5_000), (2, 400), (3, 300), (4, 200), (5, 390)]), [1, 2, 3, 4]);
        }
        let LoadCut::At(key) = counts.cut(&region(1)) else { panic!("{:?}", counts.cut(&region(1))) };
        assert!((Key::from("01250")..Key::from("03750")).contains(&key), "{key:?}");
        assert_eq!(counts.cut(&region(5)), LoadCut::Unknown);
        assert_eq!(ask(&[(1, 5_000), (2, 400), (3, 300), (4, 200), (5, 410)]), [1, 2, 3, 5]);
        assert!(ask(&[(1, 20)]).is_empty(), "who asks for nothing more is forgotten");
    }
}
