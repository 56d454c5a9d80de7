//! The iterator that readers see: one version per key, deletes honoured, in either direction.
//!
//! Forward, a key's versions come newest first: the first visible one decides and the rest are skipped. In reverse they come
//! oldest first: the last visible one before the key changes decides.

use std::fmt;

use bytes::Bytes;

use super::Snapshot;
use super::erased::RangeTombstones;
use super::key::{Direction, Kind, SeqNo};
use super::merge::Merge;
use super::source::Source;
use crate::error::Result;
use crate::rt::Budget;

/// How many invisible entries are passed between two looks at the time.
const CHECK_EVERY: u32 = 256;

/// A walk over the keys of a range as one snapshot sees them. Holds the snapshot, and so the old versions it reads, until
/// dropped.
pub struct Iter {
    snapshot: Snapshot,
    direction: Direction,
    unopened: Vec<Source>,
    merge: Option<Merge>,
    erased: RangeTombstones,
    /// Forward: the key that has been decided, copied, because sharing it would cost more.
    decided: Option<Vec<u8>>,
    budget: Budget,
    passed: u32,
}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("direction", &self.direction).finish_non_exhaustive()
    }
}

impl Iter {
    pub(crate) fn new(
        snapshot: Snapshot,
        direction: Direction,
        sources: Vec<Source>,
        erased: RangeTombstones,
        budget: Budget,
    ) -> Self {
        Self { snapshot, direction, unopened: sources, merge: None, erased, decided: None, budget, passed: 0 }
    }

    /// The next key and its value, or `None` at the end of the range.
    ///
    /// # Errors
    /// A fault of a file that had to be read. The iterator is of no further use then.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        if self.merge.is_none() {
            self.merge = Some(Merge::new(std::mem::take(&mut self.unopened), self.direction).await?);
        }
        match self.direction {
            Direction::Forward => self.next_forward().await,
            Direction::Reverse => self.next_reverse().await,
        }
    }

    async fn next_forward(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        let at = self.snapshot.seq();
        let Some(merge) = &mut self.merge else { return Ok(None) };
        while let Some(entry) = merge.peek() {
            let undecided = entry.seq <= at && self.decided.as_deref() != Some(entry.key);
            let mut found = None;
            if undecided {
                let decided = self.decided.get_or_insert_default();
                decided.clear();
                decided.extend_from_slice(entry.key);
                if entry.kind == Kind::Put && !is_erased(&self.erased, entry.key, entry.seq, at) {
                    found = Some(merge.take_current());
                }
            }
            if !merge.advance_now() {
                merge.advance().await?;
            }
            if found.is_some() {
                return Ok(found);
            }
            pass(&mut self.passed, &self.budget).await;
        }
        Ok(None)
    }

    async fn next_reverse(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        let at = self.snapshot.seq();
        let Some(merge) = &mut self.merge else { return Ok(None) };
        let mut candidate: Option<(Bytes, Bytes, Kind, SeqNo)> = None;
        while let Some(entry) = merge.peek() {
            if let Some((key, value, kind, seq)) = candidate.take_if(|(key, ..)| entry.key != &key[..])
                && kind == Kind::Put
                && !is_erased(&self.erased, &key, seq, at)
            {
                return Ok(Some((key, value)));
            }
            if entry.seq <= at {
                let (kind, seq) = (entry.kind, entry.seq);
                let (key, value) = merge.take_current();
                candidate = Some((key, value, kind, seq));
            }
            if !merge.advance_now() {
                merge.advance().await?;
            }
            pass(&mut self.passed, &self.budget).await;
        }
        let last = candidate
            .filter(|(key, _, kind, seq)| *kind == Kind::Put && !is_erased(&self.erased, key, *seq, at));
        Ok(last.map(|(key, value, ..)| (key, value)))
    }
}

fn is_erased(erased: &RangeTombstones, key: &[u8], seq: SeqNo, at: SeqNo) -> bool {
    erased.newest_covering(key, at).is_some_and(|newest| newest > seq)
}

async fn pass(passed: &mut u32, budget: &Budget) {
    *passed += 1;
    if passed.is_multiple_of(CHECK_EVERY) {
        budget.tick().await;
    }
}
