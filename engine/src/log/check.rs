//! The invariants of a running log, as assertions: for debug builds and tests.
//!
//! What lies on disk is judged by `recover`; here it is what memory believes of it.

use super::Shared;
use super::format::{FIRST_RECORD_POS, SegmentNo, Sequence};

impl Shared {
    /// What holds between two records and costs no walk over the entries. Debug builds ask it after every record.
    pub(super) fn check_tail(&self) {
        let (segments, active) = (self.segments.borrow(), self.active.borrow());
        let newest = segments.last_key_value().map(|(number, _)| *number);
        assert_eq!(newest, Some(active.number), "the segment in use is the newest of those with records");
        assert!(self.tail.get() >= FIRST_RECORD_POS, "the tail lies after the segment's header");
        assert!(self.next_sequence.get() >= Sequence(1), "records are counted from 1");
        // Segments are used in the order in which they were made, so a record is never written below an older one.
        let ready = self.ready.borrow();
        let numbers: Vec<SegmentNo> = ready.iter().map(|segment| segment.number).collect();
        assert!(numbers.is_sorted(), "segments are used in the order of their numbers: {numbers:?}");
        assert!(numbers.first().is_none_or(|first| *first > active.number), "{numbers:?} and {active:?}");
        let last = numbers.last().copied().unwrap_or(active.number);
        assert!(self.next_number.get() > last, "the next segment's number has not been used");
        assert!(self.cache.borrow().bytes_recent() <= self.options.cache_bytes_max, "the cache has a bound");
    }

    /// Everything: also that each live entry lies in a segment that is kept.
    pub(super) fn check(&self) {
        self.check_tail();
        let index = self.index.borrow();
        index.groups().for_each(|(_, group)| group.check());
        let segments = self.segments.borrow();
        for segment in index.uses().into_keys() {
            assert!(
                segments.contains_key(&segment),
                "something live lies in segment {}, which is gone",
                segment.0
            );
        }
        if let (Some((oldest, _)), Some(needed)) =
            (segments.first_key_value(), index.uses().into_keys().next())
        {
            assert!(*oldest <= needed && self.needed_from.get() <= needed, "what is needed is kept");
        }
    }
}
