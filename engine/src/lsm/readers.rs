//! Who still reads the past: the moments of the live snapshots. A pure collection.
//!
//! A moment is the sequence number of the last operation that a read sees: a read at 7 sees version 7. Two kinds of reads
//! meet a memtable:
//!
//! * Look-ups of "now" read at the last operation or above, and the memtables before their first await. After it they read
//!   tables alone.
//! * Everything that reads a memtable across an await (iterators, look-ups in a snapshot) holds a
//!   [`Snapshot`](super::Snapshot), which is entered here from its first read to its last.
//!
//! Invariant: a moment is entered only when it is that of the last operation, or is entered already. So a moment below the
//! last operation that is not here will never be read again, and what only it could see may go.

use std::collections::BTreeMap;

use super::key::SeqNo;

/// The moments that are read, and by how many snapshots each.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    moments: BTreeMap<SeqNo, usize>,
}

impl Readers {
    /// One more reader of a moment.
    pub(crate) fn enter(&mut self, moment: SeqNo) {
        *self.moments.entry(moment).or_insert(0) += 1;
    }

    /// One reader less of a moment that was entered.
    pub(crate) fn leave(&mut self, moment: SeqNo) {
        if let Some(count) = self.moments.get_mut(&moment) {
            *count -= 1;
            if *count == 0 {
                self.moments.remove(&moment);
            }
        }
    }

    /// The moments, ascending.
    pub(crate) fn moments(&self) -> impl Iterator<Item = SeqNo> {
        self.moments.keys().copied()
    }

    /// The newest moment that does not see the operation at `seq`.
    pub(crate) fn newest_below(&self, seq: SeqNo) -> Option<SeqNo> {
        self.moments.range(..seq).next_back().map(|(moment, _)| *moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_until_its_last_reader_leaves() {
        let mut readers = Readers::default();
        for moment in [5, 5, 9] {
            readers.enter(SeqNo(moment));
        }
        readers.leave(SeqNo(5));
        assert_eq!(readers.newest_below(SeqNo(9)), Some(SeqNo(5)), "a read at 9 sees 9");
        assert_eq!(readers.newest_below(SeqNo(10)), Some(SeqNo(9)));
        readers.leave(SeqNo(5));
        assert_eq!(readers.newest_below(SeqNo(9)), None);
        assert_eq!(readers.moments().collect::<Vec<_>>(), [SeqNo(9)]);
    }
}
