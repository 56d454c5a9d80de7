//! What clients read and write, as rates over the last seconds.
//!
//! Beats are not a second apart while a region is changed, and a single second of a load says little about the next one. What moves regions
//! for their load needs numbers that depend on neither. So counts are taken for whole seconds, and the rate is that of the last few.
//! The first second after a start has no rate.

use std::collections::VecDeque;
use std::time::Duration;

use engine::rt::Mono;
use scheduler::{Load, RegionId};

use super::report::REPORT_EVERY;
use crate::shard::load::{Counts, RegionCount};

/// Seconds that a rate looks back.
const WINDOWS: usize = 5;

/// The rates of a store.
#[derive(Debug)]
pub(super) struct Rates {
    /// When counts were last taken.
    counted_at: Mono,
    windows: VecDeque<(Counts, Duration)>,
    /// Of all windows.
    sums: Counts,
    passed_ms: u64,
}

impl Rates {
    /// Nothing was counted before `now`.
    pub(super) fn new(now: Mono) -> Self {
        Self { counted_at: now, windows: VecDeque::new(), sums: Counts::default(), passed_ms: 1 }
    }

    /// Takes what was counted since the last time, if that is a second or longer ago.
    pub(super) fn take(&mut self, now: Mono, counts: impl FnOnce() -> Counts) {
        let passed = now.since(self.counted_at);
        if passed < REPORT_EVERY {
            return;
        }
        self.counted_at = now;
        self.windows.push_back((counts(), passed));
        if self.windows.len() > WINDOWS {
            self.windows.pop_front();
        }
        self.sums.clear();
        for (region, count) in self.windows.iter().flat_map(|(counts, _)| counts) {
            let sum = self.sums.entry(*region).or_default();
            *sum = sum.plus(*count);
        }
        let passed: Duration = self.windows.iter().map(|(_, passed)| *passed).sum();
        self.passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
    }

    /// The rates of a region.
    pub(super) fn of(&self, region: RegionId) -> Load {
        self.sums.get(&region).copied().unwrap_or_default().rates(self.passed_ms)
    }

    /// The rates of all regions together.
    pub(super) fn total(&self) -> Load {
        self.sums.values().copied().fold(RegionCount::default(), RegionCount::plus).rates(self.passed_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(region: u64, reads: u64) -> Counts {
        Counts::from_iter([(RegionId(region), RegionCount { reads, ..RegionCount::default() })])
    }

    #[test]
    fn a_rate_is_that_of_whole_seconds_however_often_it_is_asked_for() {
        let at = |ms: u64| Mono(ms * 1_000_000);
        let mut rates = Rates::new(at(0));
        rates.take(at(30), || panic!("a part of a second is not taken"));
        assert_eq!(rates.of(RegionId(1)), Load::default());
        rates.take(at(1_000), || reads(1, 500));
        assert_eq!((rates.of(RegionId(1)).read_ops, rates.of(RegionId(2)).read_ops), (500, 0));
        rates.take(at(1_030), || panic!("a part of a second is not taken"));
        assert_eq!(rates.of(RegionId(1)).read_ops, 500, "an early beat has the rate of the one before");
        rates.take(at(3_000), || reads(2, 100));
        assert_eq!(rates.of(RegionId(1)).read_ops, 166, "500 in three seconds");
        assert_eq!(rates.total().read_ops, 200);
        for second in 4..=8 {
            rates.take(at(second * 1_000), Counts::default);
        }
        assert_eq!(rates.total(), Load::default(), "what is over is forgotten");
    }
}
