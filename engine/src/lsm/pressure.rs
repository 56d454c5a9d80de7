//! How far writers are slowed down: by the bytes that they write, and the more the more is left to be flushed and compacted.
//!
//! ```text
//! strain   0 ······ 1              whatever of the four has got furthest:
//!          half ··· all            of the memory for unflushed data
//!          half ··· 2x             of the block cache, as range deletes of tables, which take its room
//!          2x ····· 6x             of the number of tables at which level 0 is compacted
//!          8x ····· 64x            of the bytes of level 1, as debt of all compactions
//! rate     256 MiB/s ··· 1 MiB/s   falls by the same factor for each step of strain; none at strain 0
//! ```
//!
//! So writers settle where compaction keeps up, long before they would have to stop: each byte costs a little time, and no writer
//! waits for a job to end. A single pause is short ([`PAUSE_MAX`]), so that it stays below what a slow disk may cost anyway; what
//! it does not cover is forgiven. The stop is left as a last safety: memory has a bound.

use std::cell::Cell;
use std::time::Duration;

use crate::rt::Mono;

/// The longest single pause.
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(75);
/// Shorter pauses add up until they are worth a timer.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// What writers may do, bytes per second, when strain begins and when it is complete.
const RATE_MAX: f64 = (256 << 20) as f64;
const RATE_MIN: f64 = (1 << 20) as f64;

/// What waits to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Backlog {
    /// Memory that holds what is not flushed, bytes, and how much of it there may be.
    pub(crate) unflushed_bytes: u64,
    pub(crate) unflushed_bytes_max: u64,
    /// Memory of the range deletes of tables, and of the cache whose room they take, bytes.
    pub(crate) erased_bytes: u64,
    pub(crate) cache_bytes: u64,
    /// Tables of level 0, and at how many it is compacted.
    pub(crate) l0_tables: f64,
    pub(crate) l0_due: usize,
    /// Bytes to be rewritten, and what level 1 may hold.
    pub(crate) debt_bytes: u64,
    pub(crate) level_base_bytes: u64,
}

impl Backlog {
    /// From 0, nothing is in the way, to 1.
    pub(crate) fn strain(&self) -> f64 {
        let memory_max = self.unflushed_bytes_max as f64;
        let memory = share(self.unflushed_bytes as f64, memory_max / 2.0, memory_max);
        let cache = self.cache_bytes as f64;
        let erased = share(self.erased_bytes as f64, cache / 2.0, cache * 2.0);
        let due = self.l0_due as f64;
        let tables = share(self.l0_tables, 2.0 * due, 6.0 * due);
        let base = self.level_base_bytes as f64;
        let debt = share(self.debt_bytes as f64, 8.0 * base, 64.0 * base);
        memory.max(erased).max(tables).max(debt)
    }

    /// Whether nothing more may be written for now.
    pub(crate) fn is_full(&self) -> bool {
        self.memory_is_full() || self.l0_tables >= (16 * self.l0_due) as f64
    }

    /// Whether there is as much unflushed as may be.
    pub(crate) fn memory_is_full(&self) -> bool {
        self.unflushed_bytes >= self.unflushed_bytes_max
    }

    /// What writers may write, bytes per second; none means no limit.
    pub(crate) fn rate(&self) -> Option<f64> {
        let strain = self.strain();
        (strain > 0.0).then(|| RATE_MAX * (RATE_MIN / RATE_MAX).powf(strain))
    }
}

fn share(value: f64, from: f64, to: f64) -> f64 {
    ((value - from) / (to - from).max(1.0)).clamp(0.0, 1.0)
}

/// What writers owe, and how long they have waited.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    free_at: Cell<Mono>,
    delayed: Cell<Duration>,
    stopped: Cell<Duration>,
    stopped_since: Cell<Option<Mono>>,
}

impl Brake {
    /// Accounts for `bytes` written at `now`.
    pub(crate) fn charge(&self, now: Mono, bytes: u64, rate: Option<f64>) {
        let Some(rate) = rate else { return };
        let cost = Duration::from_secs_f64((bytes as f64 / rate).min(PAUSE_MAX.as_secs_f64()));
        let free_at = self.free_at.get().max(now) + cost;
        self.free_at.set(free_at.min(now + PAUSE_MAX));
    }

    /// How long to wait before the next write; the wait is taken to happen.
    pub(crate) fn pause(&self, now: Mono) -> Option<Duration> {
        let pause = self.free_at.get().max(now).since(now);
        if pause < PAUSE_MIN {
            return None;
        }
        self.delayed.set(self.delayed.get() + pause);
        Some(pause)
    }

    /// Notes whether writers are stopped.
    pub(crate) fn note(&self, now: Mono, is_stopped: bool) {
        match (self.stopped_since.get(), is_stopped) {
            (None, true) => self.stopped_since.set(Some(now)),
            (Some(since), false) => {
                self.stopped.set(self.stopped.get() + now.since(since));
                self.stopped_since.set(None);
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// How long writers were slowed down, and how long they were stopped.
    pub(crate) fn waits(&self) -> (Duration, Duration) {
        (self.delayed.get(), self.stopped.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Backlog = Backlog {
        erased_bytes: 0,
        cache_bytes: 64 << 20,
        unflushed_bytes: 32 << 20,
        unflushed_bytes_max: 96 << 20,
        l0_tables: 4.0,
        l0_due: 4,
        debt_bytes: 512 << 20,
        level_base_bytes: 256 << 20,
    };

    #[test]
    fn a_tree_that_keeps_up_slows_no_writer_down() {
        assert_eq!((CALM.strain(), CALM.rate()), (0.0, None));
        assert!(!CALM.is_full());
    }

    /// The rate never jumps: a step of one table or of a megabyte changes it by a third at most.
    #[test]
    fn strain_grows_without_jumps_and_stops_only_at_the_end() {
        let mut before = RATE_MAX;
        for tables in 8..64 {
            let backlog = Backlog { l0_tables: f64::from(tables), ..CALM };
            let rate = backlog.rate().unwrap_or(RATE_MAX);
            assert!(rate <= before && rate > before * 0.6, "{tables} tables: {before} then {rate}");
            assert!(!backlog.is_full(), "{tables} tables");
            before = rate;
        }
        assert!((before - RATE_MIN).abs() < 1.0);
        let mut before = RATE_MAX;
        for mib in 48..96 {
            let backlog = Backlog { unflushed_bytes: mib << 20, ..CALM };
            let rate = backlog.rate().unwrap_or(RATE_MAX);
            assert!(rate <= before && rate > before * 0.6, "{mib} MiB: {before} then {rate}");
            assert!(!backlog.is_full(), "{mib} MiB");
            before = rate;
        }
        assert!(Backlog { unflushed_bytes: 96 << 20, ..CALM }.is_full());
        assert!(Backlog { l0_tables: 64.0, ..CALM }.is_full());
    }

    /// Compactions get rid of them without waiting for writers, so there is no need to stop anybody.
    #[test]
    fn range_deletes_in_memory_slow_writers_down_and_never_stop_them() {
        let with = |mib: u64| Backlog { erased_bytes: mib << 20, ..CALM };
        assert_eq!(with(32).rate(), None);
        let rates: Vec<f64> = (33..=200).map(|mib| with(mib).rate().unwrap_or(RATE_MAX)).collect();
        assert!(rates.is_sorted_by(|before, after| before >= after && *after > before * 0.6), "{rates:?}");
        assert!(rates.last().is_some_and(|last| (last - RATE_MIN).abs() < 1.0));
        assert!(!with(1 << 20).is_full());
    }

    #[test]
    fn a_byte_costs_what_the_rate_says_and_no_pause_is_long() {
        let (brake, second) = (Brake::default(), Duration::from_secs(1));
        let mut now = Mono::default();
        let (mut waited, mut written) = (Duration::ZERO, 0u64);
        while waited < second * 10 {
            brake.charge(now, 50_000, Some(1e6));
            written += 50_000;
            if let Some(pause) = brake.pause(now) {
                assert!(pause <= PAUSE_MAX);
                now = now + pause;
                waited += pause;
            }
        }
        assert!((9_900_000..=10_100_000).contains(&written), "{written} bytes in ten seconds");
        brake.charge(now, 1 << 30, Some(1e6));
        assert_eq!(brake.pause(now), Some(PAUSE_MAX));
        assert_eq!(brake.pause(now + second), None, "nothing is owed for ever");
        assert!(brake.waits().0 >= second * 10);
    }

    #[test]
    fn a_stop_is_measured_from_its_beginning_to_its_end() {
        let (brake, began) = (Brake::default(), Mono::default());
        for (millis, stopped) in [(0, false), (10, true), (11, true), (30, false), (40, false)] {
            brake.note(began + Duration::from_millis(millis), stopped);
        }
        assert_eq!(brake.waits(), (Duration::ZERO, Duration::from_millis(20)));
    }
}
