//! The node's descriptors for clients: counted over all cores, so that storage always finds one of its own.
//!
//! A connection takes a place when it is accepted and returns it when it has ended; while it moves between cores it keeps it.
//! Where no place is left the connection is refused, counted and logged; a flush or a new log segment is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Places for connections. Cheap to clone; all cores share one count. The default has no bound.
#[derive(Clone, Debug)]
pub struct Descriptors(Arc<Places>);

#[derive(Debug)]
struct Places {
    taken: AtomicUsize,
    max: usize,
}

impl Default for Descriptors {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Descriptors {
    /// `max` places.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Places { taken: AtomicUsize::new(0), max }))
    }

    /// Takes a place, if one is left; [`Descriptors::give_back`] returns it.
    pub fn take(&self) -> bool {
        let more = |taken: usize| (taken < self.0.max).then_some(taken + 1);
        self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Returns a place that was taken.
    pub fn give_back(&self) {
        let before = self.0.taken.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "only what was taken is returned");
    }

    /// How many places there are.
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_places_as_were_asked_for_over_all_clones() {
        let (one, other) = (Descriptors::new(2), Descriptors::default());
        let clone = one.clone();
        assert!(one.take() && clone.take() && !one.take() && !clone.take());
        clone.give_back();
        assert!(one.take());
        assert_eq!((one.taken(), clone.max()), (2, 2));
        assert!(other.take(), "the default has no bound");
    }
}
