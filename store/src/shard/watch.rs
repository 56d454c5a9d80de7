//! Since when a write of the log has been in flight, for threads that look on while the core may hang in it.
//!
//! A core whose disk hangs cannot say so itself: it may block in the very call. So the moment at which each write begins lies
//! in memory that other threads read. The core's snapshot carries the way to it, so whoever has ever seen a snapshot can ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::rt::Mono;

/// How long a write of the log may take before the store counts as not ready.
pub const LOG_WRITE_MAX: Duration = Duration::from_secs(5);

/// No write is in flight.
const NONE: u64 = u64::MAX;

/// The view of one store's log writes. Clones look at the same writes.
#[derive(Clone, Debug)]
pub struct LogWatch(Arc<AtomicU64>);

impl Default for LogWatch {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(NONE)))
    }
}

/// A write in flight; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watched(LogWatch);

impl LogWatch {
    /// A write begins.
    pub(super) fn begin(&self, now: Mono) -> Watched {
        self.0.store(now.0, Ordering::Relaxed);
        Watched(self.clone())
    }

    /// How long the write in flight has been so; zero if there is none.
    pub fn age(&self, now: Mono) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            NONE => Duration::ZERO,
            began => now.since(Mono(began)),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.0.store(NONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_ages_until_it_ends() {
        let (watch, now) = (LogWatch::default(), Mono(7_000_000_000));
        assert_eq!(watch.age(now), Duration::ZERO);
        let elsewhere = watch.clone();
        let write = watch.begin(Mono(1_000_000_000));
        assert_eq!(elsewhere.age(now), Duration::from_secs(6));
        drop(write);
        assert_eq!(elsewhere.age(now), Duration::ZERO);
    }
}
