//! Whether the cores move: counted and logged by the thread that watches them, so it is true even while a core hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::rt::{Mono, Pulse, StallWatch};

/// How long one task may hold a core before it is logged. A busy host takes a core away for a tenth of this.
const STALL: Duration = Duration::from_millis(500);

/// How often each core has stood still for [`STALL`] or longer. The last one is the scheduler shard.
#[derive(Clone, Debug)]
pub(super) struct Stalls(Arc<[AtomicU64]>);

impl Stalls {
    /// For `cores` cores.
    pub(super) fn new(cores: usize) -> Self {
        Self((0..cores).map(|_| AtomicU64::new(0)).collect())
    }

    /// What the kicker is to call.
    pub(super) fn watch(&self) -> StallWatch {
        let stalls = self.clone();
        StallWatch { limit: STALL, on_stall: Box::new(move |core, still| stalls.note(core, still)) }
    }

    fn note(&self, core: usize, still: Duration) {
        if let Some(count) = self.0.get(core) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        tracing::warn!(
            core,
            still_ms = still.as_millis() as u64,
            "a core runs no other task: one task holds it, or it waits for its disk"
        );
    }
}

/// A view of how the cores move that any thread may hold.
#[derive(Clone, Debug)]
pub struct Movement {
    pub(super) pulse: Pulse,
    pub(super) stalls: Stalls,
}

impl Movement {
    /// For how long each running core has not moved, as (core, duration).
    pub fn still(&self) -> Vec<(usize, Duration)> {
        self.pulse.stillness()
    }

    /// The present on the clock of the cores.
    pub fn now(&self) -> Mono {
        self.pulse.now()
    }

    /// How often each core has not moved for half a second or longer, as (core, count).
    pub fn stalls(&self) -> Vec<(usize, u64)> {
        self.stalls.0.iter().map(|count| count.load(Ordering::Relaxed)).enumerate().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_counted_for_its_core() {
        let stalls = Stalls::new(2);
        let mut watch = stalls.watch();
        (watch.on_stall)(1, STALL);
        (watch.on_stall)(1, STALL);
        (watch.on_stall)(9, STALL);
        assert_eq!(stalls.0.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>(), [0, 2]);
    }
}
