//! A walk over what an index points to for the keys of a range, in either direction.
//!
//! Most walks end after a few blocks, so the index is decoded one interval at a time.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::block::BlockView;
use super::{Damage, Handle};
use crate::lsm::key::{Direction, SeqNo};

/// The walk. The range is passed at each step, because whoever walks has it anyway.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    index: Bytes,
    /// Intervals that are not decoded yet.
    intervals: Range<usize>,
    decoded: VecDeque<Handle>,
}

impl Handles {
    /// A walk over `index` for the keys of `[start, end)`; an empty `end` means "to the last key".
    pub(crate) fn new(index: Bytes, direction: Direction, start: &[u8], end: &[u8]) -> Result<Self, Damage> {
        let view = BlockView::parse(&index)?;
        let first = view.last_interval_before(start, SeqNo::MAX)?;
        let mut behind = view.intervals();
        if direction == Direction::Reverse && !end.is_empty() {
            // The keys below `end` lie under the first entry at or above it: in the last interval that begins below `end`,
            // or else at the beginning of the one after.
            let last = view.last_interval_before(end, SeqNo::MAX)?;
            let chunk = view.decode(last, &index)?;
            let reaches =
                chunk.len().checked_sub(1).and_then(|at| chunk.get(at)).is_some_and(|e| e.key >= end);
            behind = behind.min(if reaches { last + 1 } else { last + 2 });
        }
        Ok(Self { index, intervals: first..behind, decoded: VecDeque::new() })
    }

    /// The next handle.
    pub(crate) fn next(
        &mut self,
        direction: Direction,
        start: &[u8],
        end: &[u8],
    ) -> Result<Option<Handle>, Damage> {
        loop {
            let (handle, interval) = match direction {
                Direction::Forward if !self.decoded.is_empty() => (self.decoded.pop_front(), None),
                Direction::Reverse if !self.decoded.is_empty() => (self.decoded.pop_back(), None),
                Direction::Forward => (None, self.intervals.next()),
                Direction::Reverse => (None, self.intervals.next_back()),
            };
            match interval {
                Some(interval) => self.decode(interval, start, end)?,
                None => return Ok(handle),
            }
        }
    }

    fn decode(&mut self, interval: usize, start: &[u8], end: &[u8]) -> Result<(), Damage> {
        let chunk = BlockView::parse(&self.index)?.decode(interval, &self.index)?;
        let mut at = 0;
        while let Some(entry) = chunk.get(at) {
            at += 1;
            if entry.key >= start {
                self.decoded.push_back(Handle::decode(entry.value)?);
            }
            if !end.is_empty() && entry.key >= end {
                // Nothing after it belongs to the range.
                self.intervals.end = self.intervals.end.min(interval);
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsm::key::Kind;
    use crate::lsm::table::block::BlockBuilder;

    /// An index over blocks that end at 10, 20, 30 and so on; block `n` is at offset `n`.
    fn index(blocks: u64) -> Bytes {
        let mut builder = BlockBuilder::default();
        for n in 0..blocks {
            let last = format!("{:05}", 10 * (n + 1));
            builder.add(last.as_bytes(), SeqNo(0), Kind::Put, &Handle { offset: n, len: 1 }.encode());
        }
        Bytes::copy_from_slice(builder.finish())
    }

    #[test]
    fn a_walk_gives_the_blocks_that_may_hold_keys_of_the_range() {
        const BLOCKS: u64 = 70;
        for (start, end) in
            (0..72 * 10).step_by(7).flat_map(|s| (s..74 * 10).step_by(11).map(move |e| (s, e)))
        {
            let (from, to) = (format!("{start:05}"), format!("{end:05}"));
            // Block n holds the keys above 10 n up to 10 (n + 1).
            let expected: Vec<u64> =
                (0..BLOCKS).filter(|n| 10 * (n + 1) >= start && (*n == 0 || 10 * n < end)).collect();
            for direction in [Direction::Forward, Direction::Reverse] {
                let (from, to) = (from.as_bytes(), to.as_bytes());
                let mut walk = Handles::new(index(BLOCKS), direction, from, to).unwrap();
                let mut found = Vec::new();
                while let Some(handle) = walk.next(direction, from, to).unwrap() {
                    found.push(handle.offset);
                }
                if direction == Direction::Reverse {
                    found.reverse();
                }
                assert_eq!(found, expected, "{direction:?} {start}..{end}");
            }
        }
    }
}
