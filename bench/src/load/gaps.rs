//! The longest time without an acknowledgement, by ranges of keys, while a run goes on.
//!
//! One thread runs the load and notes every acknowledgement; another one says which ranges it is about, and from when to when. Silence at
//! the end of that time counts, too. Nothing is noted while nothing is watched.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::now;

/// What another thread holds of a run: it ends it, and sees its acknowledgements.
#[derive(Clone, Debug, Default)]
pub struct RunHandle {
    /// Nothing more is sent once it is set; what is in flight is waited for.
    pub halt: Arc<AtomicBool>,
    /// The acknowledgements.
    pub gaps: Arc<Gaps>,
}

/// A range of keys with an exclusive end; an empty one is no end.
pub type Range = (Vec<u8>, Vec<u8>);

/// Acknowledgements of the ranges that are watched now.
#[derive(Debug, Default)]
pub struct Gaps {
    watching: AtomicBool,
    parts: Mutex<Vec<Part>>,
}

#[derive(Debug)]
struct Part {
    range: Range,
    last: Instant,
    longest: Duration,
    acknowledged: u64,
}

/// What was seen of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The longest time without an acknowledgement.
    pub longest: Duration,
    /// How many there were.
    pub acknowledged: u64,
}

impl Gaps {
    /// Begins to watch these ranges, and forgets those before.
    pub fn watch(&self, ranges: impl IntoIterator<Item = Range>) {
        let last = now();
        let part = |range| Part { range, last, longest: Duration::ZERO, acknowledged: 0 };
        *self.parts() = ranges.into_iter().map(part).collect();
        self.watching.store(true, Ordering::Release);
    }

    /// Ends it. What was seen, in the order of the ranges.
    pub fn finish(&self) -> Vec<Gap> {
        self.watching.store(false, Ordering::Release);
        let ended = now();
        let seen = |part: Part| {
            let silent = ended.saturating_duration_since(part.last);
            Gap { longest: part.longest.max(silent), acknowledged: part.acknowledged }
        };
        std::mem::take(&mut *self.parts()).into_iter().map(seen).collect()
    }

    /// Whether anything is watched.
    pub(super) fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Acquire)
    }

    /// A request for this key is acknowledged.
    pub(super) fn note(&self, key: &[u8]) {
        let at = now();
        for part in self.parts().iter_mut() {
            let (from, to) = &part.range;
            if key >= &from[..] && (to.is_empty() || key < &to[..]) {
                part.longest = part.longest.max(at.saturating_duration_since(part.last));
                part.last = at;
                part.acknowledged += 1;
            }
        }
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::pause;

    #[test]
    fn each_range_has_its_own_gap_and_silence_at_the_end_counts() {
        let gaps = Gaps::default();
        gaps.note(b"a");
        assert!(!gaps.is_watching() && gaps.finish().is_empty(), "nothing was watched");
        gaps.watch([(b"a".to_vec(), b"m".to_vec()), (b"m".to_vec(), Vec::new())]);
        gaps.note(b"m");
        pause(Duration::from_millis(30));
        gaps.note(b"a");
        gaps.note(b"z");
        pause(Duration::from_millis(10));
        gaps.note(b"z");
        let seen = gaps.finish();
        assert_eq!(seen.iter().map(|gap| gap.acknowledged).collect::<Vec<_>>(), [1, 3]);
        assert!(seen.iter().all(|gap| gap.longest >= Duration::from_millis(30)), "{seen:?}");
        gaps.watch([(Vec::new(), Vec::new())]);
        pause(Duration::from_millis(20));
        let [silent] = gaps.finish()[..] else { panic!("one range") };
        assert!(silent.longest >= Duration::from_millis(20) && silent.acknowledged == 0, "{silent:?}");
    }
}
