//! Many sorted sources as one: every entry of every source, in walking order.
//!
//! The sources are kept sorted by their current entry. Advancing moves one of them a few places at most, and mostly none,
//! which beats a heap for the handful of sources a tree has.

use std::cmp::Ordering;

use bytes::Bytes;

use super::chunk::{Chunk, EntryRef};
use super::key::{Direction, SeqNo, entry_order};
use super::long::{Elsewhere, Value};
use super::source::Source;
use crate::error::Result;

/// The merged walk.
#[derive(Debug)]
pub(crate) struct Merge {
    direction: Direction,
    /// Sources that are not used up, the one with the next entry *last*, so that it can leave cheaply.
    cursors: Vec<Cursor>,
}

#[derive(Debug)]
struct Cursor {
    source: Source,
    chunk: Chunk,
    at: usize,
}

impl Merge {
    /// Fetches the first entries of all sources.
    pub(crate) async fn new(sources: Vec<Source>, direction: Direction) -> Result<Self> {
        let mut merge = Self { direction, cursors: Vec::with_capacity(sources.len()) };
        for mut source in sources {
            let chunk = source.next_chunk().await?;
            if !chunk.is_empty() {
                merge.cursors.push(Cursor { source, chunk, at: 0 });
            }
        }
        let order = |a: &Cursor, b: &Cursor| walk_order(direction, b, a);
        merge.cursors.sort_by(order);
        Ok(merge)
    }

    /// The next entry.
    pub(crate) fn peek(&self) -> Option<EntryRef<'_>> {
        let cursor = self.cursors.last()?;
        cursor.chunk.get(cursor.at)
    }

    /// Key of the next entry, shared, and its value or where that is; nothing at the end.
    pub(crate) fn take_current(&self) -> Option<(Bytes, Value)> {
        self.cursors
            .last()
            .map(|cursor| (cursor.chunk.key(cursor.at), cursor.chunk.value_or_place(cursor.at)))
    }

    /// Where the value of the next entry is, if its source has not kept it.
    pub(crate) fn place(&self) -> Option<&Elsewhere> {
        self.cursors.last()?.chunk.elsewhere()
    }

    /// Goes on by one entry if that needs no new chunk.
    pub(crate) fn advance_now(&mut self) -> bool {
        let Some(cursor) = self.cursors.last_mut() else { return true };
        if cursor.at + 1 >= cursor.chunk.len() {
            return false;
        }
        cursor.at += 1;
        self.settle();
        true
    }

    /// Goes on by one entry.
    pub(crate) async fn advance(&mut self) -> Result<()> {
        if self.advance_now() {
            return Ok(());
        }
        let Some(cursor) = self.cursors.last_mut() else { return Ok(()) };
        cursor.chunk = cursor.source.next_chunk().await?;
        cursor.at = 0;
        if cursor.chunk.is_empty() {
            self.cursors.pop();
        } else {
            self.settle();
        }
        Ok(())
    }

    /// Goes on at `bound`, as seen in the direction of the walk, with every source that has nothing newer than `newest` before it:
    /// a range delete hides all of that. Forward `bound` is the first key that is wanted again, in reverse the last one that is not.
    pub(crate) async fn skip(&mut self, bound: &[u8], newest: SeqNo) -> Result<()> {
        let direction = self.direction;
        for mut cursor in std::mem::take(&mut self.cursors) {
            let before = |entry: EntryRef<'_>| match direction {
                Direction::Forward => entry.key < bound,
                Direction::Reverse => entry.key >= bound,
            };
            let is_before = cursor.chunk.get(cursor.at).is_some_and(before);
            if is_before && cursor.source.newest_before(direction, bound) < newest {
                cursor.source.skip_to(direction, bound);
                cursor.chunk = cursor.source.next_chunk().await?;
                cursor.at = 0;
            }
            if !cursor.chunk.is_empty() {
                self.cursors.push(cursor);
            }
        }
        self.cursors.sort_by(|a, b| walk_order(direction, b, a));
        Ok(())
    }

    /// Moves the last cursor to its place.
    fn settle(&mut self) {
        let mut place = self.cursors.len() - 1;
        while place > 0 {
            let (before, from) = self.cursors.split_at(place);
            if walk_order(self.direction, &before[place - 1], &from[0]) == Ordering::Greater {
                break;
            }
            self.cursors.swap(place - 1, place);
            place -= 1;
        }
    }
}

fn walk_order(direction: Direction, a: &Cursor, b: &Cursor) -> Ordering {
    let (Some(a), Some(b)) = (a.chunk.get(a.at), b.chunk.get(b.at)) else { return Ordering::Equal };
    let forward = entry_order((a.key, a.seq), (b.key, b.seq));
    match direction {
        Direction::Forward => forward,
        Direction::Reverse => forward.reverse(),
    }
}
