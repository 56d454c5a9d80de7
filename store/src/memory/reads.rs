//! Reads that memory alone could not answer: each has a task until it is answered, and no bound in bytes has that.
//!
//! A task takes some kilobytes, whatever it asks for. So the more there are, all cores together, the fewer commands a connection may have
//! in flight: as many as a client with a pipeline makes use of where there are some hundred, and one where there are thousands, which
//! comes to less than the connection takes itself.
//!
//! Invariant: the count is the number of living [`RunningRead`]s.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Commands of one connection in flight while some hundred reads run, or any waits for room.
pub(super) const COMMANDS_WAITING_MAX: usize = 64;
/// From this number of running reads on, a connection has [`COMMANDS_WAITING_MAX`].
const MANY: usize = 512;
/// From this number on, it has one.
const TOO_MANY: usize = 4096;

/// How many there are. A clone is the same count.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads(Arc<AtomicUsize>);

/// One of them; dropped when it is answered or given up.
#[derive(Debug)]
pub struct RunningRead(Reads);

impl Reads {
    pub(super) fn begin(&self) -> RunningRead {
        self.0.fetch_add(1, Relaxed);
        RunningRead(self.clone())
    }

    pub(super) fn running(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// How many commands one connection may have in flight for their sake.
    pub(super) fn commands_max(&self) -> usize {
        match self.running() {
            0..MANY => usize::MAX,
            MANY..TOO_MANY => COMMANDS_WAITING_MAX,
            TOO_MANY.. => 1,
        }
    }
}

impl Drop for RunningRead {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_reads_run_the_fewer_commands_a_connection_has() {
        let (reads, mut running) = (Reads::default(), Vec::new());
        let mut seen = Vec::new();
        for _ in 0..=TOO_MANY {
            if seen.last() != Some(&reads.commands_max()) {
                seen.push(reads.commands_max());
            }
            running.push(reads.begin());
        }
        assert_eq!((seen, reads.running()), (vec![usize::MAX, COMMANDS_WAITING_MAX, 1], TOO_MANY + 1));
        drop(running);
        assert_eq!((reads.commands_max(), reads.running()), (usize::MAX, 0));
    }
}
