//! Time for the plain threads of the tools.
//!
//! The node's time comes from `engine::rt`. What drives a node from outside (child processes, blocking clients, the crash
//! audit) lives in real time, and takes it from here.

use std::time::{Duration, Instant};

/// Now.
#[expect(
    clippy::disallowed_methods,
    reason = "tools outside the node live in real time, and read it here only"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Time that this thread has spent on a core, whatever else the machine was doing meanwhile.
pub fn on_core() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(spent).unwrap_or_default()
}

/// Waits on this plain thread.
#[expect(clippy::disallowed_methods, reason = "a plain thread of a tool, never a core")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
