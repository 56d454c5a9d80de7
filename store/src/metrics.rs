//! Numbers that a core keeps about itself: plain cells, no atomics, no locks, no names.
//!
//! A core counts in [`Counter`]s and [`Histogram`]s and hands copies ([`HistogramNumbers`], plain `u64`s) to whoever
//! publishes them. Nothing here knows Prometheus, labels or other cores.

use std::cell::Cell;
use std::time::Duration;

/// A count that only grows. Stays on its core.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds one.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.set(self.0.get().wrapping_add(amount));
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Resolution of a [`Histogram`]: durations are counted in units of 2^8 ns = 256 ns.
const UNIT_BITS: u32 = 8;
/// Buckets per power of two, as a power of two: 4, so that a bucket is at most a quarter wider than its lower bound.
const SUB_BITS: u32 = 2;
/// The last bucket begins at 2^36 ns, about 69 s, and takes everything longer.
const TOP_BITS: u32 = 28;

/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = (((TOP_BITS - SUB_BITS + 1) << SUB_BITS) + 1) as usize;

/// A log-linear histogram of durations with fixed buckets. Stays on its core.
///
/// The first 2^[`SUB_BITS`] buckets are one unit wide; from there on every power of two is cut into 2^[`SUB_BITS`] equal
/// buckets.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_ns: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum_ns: Counter::default() }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        self.record_many(duration, 1);
    }

    /// Counts one duration for each of `count` things that took it.
    pub fn record_many(&self, duration: Duration, count: u64) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(nanos)].add(count);
        self.sum_ns.add(nanos.saturating_mul(count));
    }

    /// A copy that may leave the core.
    pub fn snapshot(&self) -> HistogramNumbers {
        HistogramNumbers {
            buckets: self.buckets.iter().map(Counter::get).collect(),
            sum: Duration::from_nanos(self.sum_ns.get()),
        }
    }
}

/// A copy of a [`Histogram`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramNumbers {
    /// Durations per bucket, each within `[lower_bound(i), lower_bound(i + 1))`.
    pub buckets: Vec<u64>,
    /// All durations together.
    pub sum: Duration,
}

impl HistogramNumbers {
    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What was counted after `earlier`, a copy of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.buckets.iter().copied().chain(std::iter::repeat(0));
        Self {
            buckets: self
                .buckets
                .iter()
                .zip(before)
                .map(|(now, before)| now.saturating_sub(before))
                .collect(),
            sum: self.sum.saturating_sub(earlier.sum),
        }
    }

    /// Counts what `other` has as well.
    pub fn add(&mut self, other: &Self) {
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(count, more)| *count += more);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// The lower bound of the bucket in which the `part`-th of all durations lies (0.5 is the median); zero when empty.
    pub fn quantile(&self, part: f64) -> Duration {
        let rank = (self.count() as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map_or(Duration::ZERO, lower_bound)
    }
}

/// Where bucket `index` begins.
pub fn lower_bound(index: usize) -> Duration {
    let (index, subs) = (index as u64, 1u64 << SUB_BITS);
    let units = if index < subs { index } else { (subs + (index & (subs - 1))) << ((index >> SUB_BITS) - 1) };
    Duration::from_nanos(units << UNIT_BITS)
}

fn bucket_of(nanos: u64) -> usize {
    let units = (nanos >> UNIT_BITS).min(1 << TOP_BITS);
    if units < 1 << SUB_BITS {
        return units as usize;
    }
    let power = units.ilog2();
    let sub = (units >> (power - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    (u64::from((power - SUB_BITS + 1) << SUB_BITS) + sub) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_between_its_buckets_bounds() {
        let mut nanos = 1u64;
        while nanos < 1 << 40 {
            for offset in [0, 1, nanos / 3] {
                let index = bucket_of(nanos + offset);
                assert!(lower_bound(index).as_nanos() <= u128::from(nanos + offset));
                let last = index == BUCKETS - 1;
                assert!(last || u128::from(nanos + offset) < lower_bound(index + 1).as_nanos());
            }
            nanos = nanos * 3 / 2 + 1;
        }
    }

    #[test]
    fn what_came_after_a_copy_is_counted_apart() {
        let histogram = Histogram::default();
        histogram.record_many(Duration::from_millis(8), 1000);
        let before = histogram.snapshot();
        histogram.record_many(Duration::from_micros(50), 10);
        let mut after = histogram.snapshot().since(&before);
        assert_eq!((after.count(), after.sum), (10, Duration::from_micros(500)));
        assert!(after.quantile(0.99) <= Duration::from_micros(50), "{after:?}");
        after.add(&before);
        assert_eq!(after, histogram.snapshot());
        let mut none = HistogramNumbers::default();
        assert_eq!(before.since(&none), before);
        none.add(&before);
        assert_eq!(none, before);
    }

    #[test]
    fn quantiles_come_from_the_buckets() {
        let histogram = Histogram::default();
        for micros in 1..=100 {
            histogram.record(Duration::from_micros(micros));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 100);
        assert_eq!(snapshot.sum, Duration::from_micros(5050));
        let median = snapshot.quantile(0.5);
        assert!(median <= Duration::from_micros(50) && median > Duration::from_micros(37), "{median:?}");
        assert_eq!(HistogramNumbers::default().quantile(0.5), Duration::ZERO);
    }
}
