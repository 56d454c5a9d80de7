//! Since when a write of the log has been in flight, for threads that look on while the core may hang in it.
//!
//! A core whose disk hangs cannot say so itself: it may block in the very call. So the moment at which each write begins lies
//! in memory that other threads read. The core's snapshot carries the way to it, so whoever has ever seen a snapshot can ask.
//!
//! A write that is slow is logged twice: by the thread that looks on, while it is in flight, and by the core when it has ended. One that
//! ends between two looks is logged once, when it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::rt::Mono;

/// How long a write of the log may take before the store counts as not ready.
pub const LOG_WRITE_MAX: Duration = Duration::from_secs(5);

/// A write of the log that takes this long is logged.
pub const LOG_WRITE_SLOW: Duration = Duration::from_secs(1);

/// No write is in flight.
const NONE: u64 = u64::MAX;

/// The view of one store's log writes. Clones look at the same writes.
#[derive(Clone, Debug)]
pub struct LogWatch(Arc<Moments>);

#[derive(Debug)]
struct Moments {
    /// When the write in flight began.
    began: AtomicU64,
    /// When the write began that was logged last as slow.
    logged: AtomicU64,
}

impl Default for LogWatch {
    fn default() -> Self {
        Self(Arc::new(Moments { began: AtomicU64::new(NONE), logged: AtomicU64::new(NONE) }))
    }
}

/// A write in flight; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watched(LogWatch);

impl LogWatch {
    /// A write begins.
    pub(super) fn begin(&self, now: Mono) -> Watched {
        self.0.began.store(now.0, Ordering::Relaxed);
        Watched(self.clone())
    }

    /// How long the write in flight has been so; zero if there is none.
    pub fn age(&self, now: Mono) -> Duration {
        match self.0.began.load(Ordering::Relaxed) {
            NONE => Duration::ZERO,
            began => now.since(Mono(began)),
        }
    }

    /// Logs the write in flight of `store`, once, if it is slow by now. For a thread that looks on.
    pub fn log_if_slow(&self, store: u64, now: Mono) {
        let began = self.0.began.load(Ordering::Relaxed);
        if began == NONE || now.since(Mono(began)) < LOG_WRITE_SLOW {
            return;
        }
        if self.0.logged.swap(began, Ordering::Relaxed) != began {
            let age_ms = now.since(Mono(began)).as_millis() as u64;
            tracing::warn!(store, age_ms, "a log write is slow: its disk is busy or hangs");
        }
    }
}

impl Watched {
    /// The write of `store` has ended.
    pub(super) fn end(self, store: u64, now: Mono) {
        let took = self.0.age(now);
        if took >= LOG_WRITE_SLOW {
            tracing::warn!(store, took_ms = took.as_millis() as u64, "a slow log write has ended");
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.0.began.store(NONE, Ordering::Relaxed);
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
