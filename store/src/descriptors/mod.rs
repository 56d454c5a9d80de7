//! The node's descriptors for clients: counted over all cores, so that storage always finds one of its own.
//!
//! A connection takes a place when it is accepted and returns it when it has ended; while it moves between cores it keeps it.
//! Where no place is left the connection is refused, counted and logged; a flush or a new log segment is not. To hear why it is refused
//! takes a connection some time, for which there are a few places of their own: whoever finds none of these is closed without a word.
//! Where no place is left for a newcomer, a connection that has asked for nothing gives way to it ([`silent`]).
//! The PD port has places of its own, so that neither those who fill it take what clients need, nor the reverse.

pub(crate) mod silent;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use silent::Silent;

/// Places for connections. Cheap to clone; all cores share one count. The default has no bound.
#[derive(Clone, Debug)]
pub struct Descriptors(Arc<Places>);

#[derive(Debug)]
struct Places {
    taken: AtomicUsize,
    max: usize,
    /// Refused connections that are sent the reason, now and at most.
    refused: AtomicUsize,
    refused_max: usize,
    /// Connections that have a place and have asked for nothing.
    silent: Silent,
}

/// One place in this many is for connections that are refused.
const REFUSED_PART: usize = 8;
/// Connections that are refused, at most.
const REFUSED_MAX: usize = 64;

impl Default for Descriptors {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Descriptors {
    /// `max` places, those for connections that are refused included.
    pub fn new(max: usize) -> Self {
        let refused_max = (max / REFUSED_PART).min(REFUSED_MAX);
        let (taken, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(Places {
            taken,
            max: max - refused_max,
            refused,
            refused_max,
            silent: Silent::default(),
        }))
    }

    /// `max` places where a connection that is refused is closed at once.
    pub fn without_reasons(max: usize) -> Self {
        let (taken, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(Places { taken, max, refused, refused_max: 0, silent: Silent::default() }))
    }

    /// Takes a place, if one is left; [`Descriptors::give_back`] returns it.
    pub fn take(&self) -> bool {
        let more = |taken: usize| (taken < self.0.max).then_some(taken + 1);
        self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(crate) fn silent(&self) -> &Silent {
        &self.0.silent
    }

    /// Returns a place that was taken.
    pub fn give_back(&self) {
        let before = self.0.taken.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "only what was taken is returned");
    }

    /// Takes a place to say why a connection is refused, if one is left; [`Descriptors::give_back_refused`] returns it.
    pub fn take_to_refuse(&self) -> bool {
        let more = |refused: usize| (refused < self.0.refused_max).then_some(refused + 1);
        self.0.refused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Returns a place that was taken to refuse a connection.
    pub fn give_back_refused(&self) {
        let before = self.0.refused.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "only what was taken is returned");
    }

    /// How many connections are being refused.
    pub fn refused(&self) -> usize {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// How many places there are for connections that are served.
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// How many of them are taken.
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

    #[test]
    fn refusals_have_places_of_their_own_within_the_same_bound() {
        for (max, refused_max) in [(0, 0), (7, 0), (100, 12), (1 << 20, 64)] {
            let places = Descriptors::new(max);
            let taken = (0..max + 1).take_while(|_| places.take()).count();
            let refused = (0..max + 1).take_while(|_| places.take_to_refuse()).count();
            assert_eq!((taken, refused, places.refused()), (max - refused_max, refused_max, refused_max));
            if refused > 0 {
                places.give_back_refused();
                assert!(places.take_to_refuse() && !places.take());
            }
        }
    }
}
