//! Where the operations of a phase come from, and when they end: by count, by time, or because another thread ends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Options, RunHandle, Stop};
use crate::workload::{Generator, Kind, Operation};

/// Where operations come from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) generator: Generator,
    /// The next record to write in the load phase; `None` in the run phase.
    pub(super) fill: Option<u64>,
    pub(super) left: u64,
    pub(super) until: Option<Duration>,
    halt: Arc<AtomicBool>,
}

impl Source {
    pub(super) fn fill(options: &Options, handle: &RunHandle) -> Self {
        let generator = Generator::new(&options.workload, options.seed);
        let (left, halt) = (options.workload.records, handle.halt.clone());
        Self { name: "load".into(), generator, fill: Some(0), left, until: None, halt }
    }

    pub(super) fn mix(options: &Options, handle: &RunHandle) -> Self {
        let generator = Generator::new(&options.workload, options.seed ^ 1);
        let (left, until) = match options.stop {
            Stop::Operations(operations) => (operations, None),
            Stop::After(duration) => (u64::MAX, Some(duration)),
        };
        let (name, halt) = (format!("workload {}", options.workload.mix.name()), handle.halt.clone());
        Self { name, generator, fill: None, left, until, halt }
    }

    pub(super) fn next(&mut self, elapsed: Duration) -> Option<Operation> {
        let is_over = self.left == 0 || self.until.is_some_and(|until| elapsed >= until);
        if is_over || self.halt.load(Ordering::Relaxed) {
            return None;
        }
        self.left -= 1;
        let Some(record) = &mut self.fill else { return Some(self.generator.draw()) };
        *record += 1;
        Some(Operation { kind: Kind::Insert, record: *record - 1, records: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tests::options;

    #[test]
    fn a_source_ends_by_count_by_time_or_when_it_is_asked_to() {
        let handle = RunHandle::default();
        let mut by_count = Source::mix(&options(1, None), &handle);
        assert_eq!((0..10).filter(|_| by_count.next(Duration::ZERO).is_some()).count(), 5);
        let mut limited = options(1, None);
        limited.stop = Stop::After(Duration::from_secs(1));
        let mut by_time = Source::mix(&limited, &handle);
        assert!(by_time.next(Duration::from_millis(999)).is_some());
        assert!(by_time.next(Duration::from_secs(1)).is_none());
        let mut fill = Source::fill(&options(1, None), &handle);
        let records: Vec<u64> =
            std::iter::from_fn(|| fill.next(Duration::ZERO)).map(|next| next.record).collect();
        assert_eq!(records, (0..10).collect::<Vec<_>>());
        let mut halted = Source::fill(&options(1, None), &handle);
        assert!(halted.next(Duration::ZERO).is_some());
        handle.halt.store(true, Ordering::Relaxed);
        assert!(halted.next(Duration::ZERO).is_none() && halted.left == 9);
    }
}
