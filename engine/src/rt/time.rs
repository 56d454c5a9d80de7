//! Monotonic time as a number, so that logic can be handed a moment and a simulation can make one up.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds since an arbitrary moment before the process started serving. Comparable within one node only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// Time passed since `earlier`, or zero if that lies ahead.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// How much CPU time one core has used, readable from every core.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(pub(super) CpuTime);

#[derive(Clone, Copy, Debug)]
pub(super) enum CpuTime {
    /// Of the thread of a core.
    Thread(libc::clockid_t),
    /// Not known.
    Unknown,
    /// Simulated cores have time to spare at every moment.
    #[cfg(feature = "sim")]
    Idle,
}

impl CpuClock {
    /// CPU time used so far; `None` once the core has ended. In simulation it does not change.
    pub fn read(&self) -> Option<Duration> {
        match self.0 {
            CpuTime::Thread(clock) => super::native::read_clock(clock),
            CpuTime::Unknown => None,
            #[cfg(feature = "sim")]
            CpuTime::Idle => Some(Duration::ZERO),
        }
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;

    fn add(self, duration: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Mono {
    type Output = Mono;

    fn sub(self, duration: Duration) -> Mono {
        Mono(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}
