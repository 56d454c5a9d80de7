//! The invariants of a running tree, as assertions: for debug builds and tests.
//!
//! Levels check themselves with every version (see `version`); here it is what holds between the parts.

use super::{SeqNo, Shared};

impl Shared {
    /// Everything that must hold between two steps.
    pub(super) fn check(&self) {
        let active = self.active.borrow();
        let closed = self.closed.borrow();
        let generations: Vec<u64> =
            closed.iter().map(|memtable| memtable.generation).chain([active.generation]).collect();
        assert!(
            generations.is_sorted_by(|a, b| a < b),
            "memtables are flushed as they were filled: {generations:?}"
        );
        assert_eq!(active.generation, self.generations.get(), "the memtable in use is the newest");

        let (version, last) = (self.version.borrow(), self.last_seq.get());
        for table in version.tables() {
            let meta = &table.meta;
            assert!(
                meta.table.max(meta.file) < self.numbers.get(),
                "number {} would be given out again",
                meta.file
            );
            assert!(SeqNo(meta.largest_seq) <= last, "table {} holds what was never written", meta.table);
            assert_eq!(
                meta.erased.count(),
                meta.erasures,
                "table {} knows all of its range deletes",
                meta.table
            );
        }
        let newest_read = self.readers.borrow().moments().last();
        assert!(newest_read.is_none_or(|moment| moment <= last), "a moment that has not come yet is read");
        assert!(self.files.open_count() <= self.options.open_tables_max.max(1), "open files have a bound");
        assert!(!self.is_stopped_and_waits(), "a caller waits for work that a poisoned tree will not do");
    }

    fn is_stopped_and_waits(&self) -> bool {
        self.fault.borrow().is_some()
            && !(self.flush_waiters.borrow().is_empty()
                && self.compact_waiters.borrow().is_empty()
                && self.sharings.borrow().is_empty()
                && self.ingests.borrow().is_empty())
    }
}
