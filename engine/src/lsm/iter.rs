//! The iterator that readers see: one version per key, deletes honoured, in either direction.
//!
//! Range deletes are asked where they lie, in memtables and tables; nothing of them is copied. The answer holds for a stretch of
//! keys, so it is asked for once per stretch. Where many entries in a row are hidden by one, the sources that are older than it
//! continue after the stretch.
//!
//! A value that has expired is passed as a delete is, except by who copies the tree ([`Iter::next_stored`]).
//!
//! Forward, a key's versions come newest first: the first visible one decides and the rest are skipped. In reverse they come
//! oldest first: the last visible one before the key changes decides.

use std::fmt;
use std::rc::Rc;

use bytes::{Buf, Bytes};

use super::Snapshot;
use super::bound::Bound;
use super::chunk::EntryRef;
use super::erased::{Stretch, stretch_of_all};
use super::expiry::{UNTIL_BYTES, split};
use super::key::{Cf, Direction, Kind, SeqNo};
use super::long::Value;
use super::memtable::{DENSE_DELETES_MIN, Memtable};
use super::merge::Merge;
use super::source::Source;
use super::table::read::Table;
use crate::error::Result;
use crate::rt::Budget;

/// How many invisible entries are passed between two looks at the time.
const CHECK_EVERY: u32 = 256;
/// After this many hidden entries in a row it pays to look for the end of what hides them.
const SKIP_AFTER: u32 = 32;

/// A walk over the keys of a range as one snapshot sees them. Holds the snapshot, and so the old versions it reads, until
/// dropped.
pub struct Iter {
    snapshot: Snapshot,
    direction: Direction,
    bound: Rc<Bound>,
    unopened: Vec<Source>,
    merge: Option<Merge>,
    erasers: Vec<Eraser>,
    /// What the range deletes say of the keys around the last one.
    stretch: Option<Stretch>,
    /// Entries in a row that range deletes hid.
    hidden: u32,
    /// Forward: the key that has been decided, copied, because sharing it would cost more.
    decided: Option<Vec<u8>>,
    /// Whether values that have expired are returned.
    shows_expired: bool,
    budget: Budget,
    passed: u32,
    /// Deletes that were met, in steps of [`DENSE_DELETES_MIN`].
    deletes: usize,
}

/// What lies under a key: a value, or a dated one ([`super::expiry`]) if it expires.
pub(super) struct Entry {
    pub(super) key: Bytes,
    pub(super) kind: Kind,
    /// Nothing in a walk over keys alone.
    pub(super) stored: Bytes,
}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("direction", &self.direction).finish_non_exhaustive()
    }
}

impl Iter {
    pub(crate) fn new(
        snapshot: Snapshot,
        (direction, bound): (Direction, Rc<Bound>),
        sources: Vec<Source>,
        erasers: Vec<Eraser>,
        budget: Budget,
    ) -> Self {
        Self {
            snapshot,
            direction,
            bound,
            unopened: sources,
            merge: None,
            erasers,
            stretch: None,
            hidden: 0,
            decided: None,
            shows_expired: false,
            budget,
            passed: 0,
            deletes: 0,
        }
    }

    /// Entries that were passed and not returned.
    #[cfg(test)]
    pub(super) fn passed(&self) -> u32 {
        self.passed
    }

    /// What is kept of long blocks, bytes.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.bound.kept().kept_bytes()
    }

    /// The next key and its value, or `None` at the end of the range.
    ///
    /// # Errors
    /// A fault of a file that had to be read. The iterator is of no further use then.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        let Some(Entry { key, kind, mut stored }) = self.next_entry().await? else { return Ok(None) };
        if kind == Kind::PutUntil && !self.bound.keys_only() {
            stored.advance(UNTIL_BYTES);
        }
        Ok(Some((key, stored)))
    }

    /// The next key and what is stored of it, whether it has expired or not.
    pub(super) async fn next_stored(&mut self) -> Result<Option<Entry>> {
        self.shows_expired = true;
        self.next_entry().await
    }

    async fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.merge.is_none() {
            self.merge = Some(Merge::new(std::mem::take(&mut self.unopened), self.direction).await?);
        }
        let found = match self.direction {
            Direction::Forward => self.next_forward().await,
            Direction::Reverse => self.next_reverse().await,
        }?;
        // A source that has ended for that would be missing from here on.
        if self.bound.met().is_some() {
            return Ok(None);
        }
        Ok(found)
    }

    /// Why the walk ended early: it would have had to hold this many bytes at once, which is beyond its limits. It is of no further use
    /// then.
    pub fn too_large(&self) -> Option<usize> {
        self.bound.met()
    }

    async fn next_forward(&mut self) -> Result<Option<Entry>> {
        let at = self.snapshot.seq();
        let Some(merge) = &mut self.merge else { return Ok(None) };
        while let Some(entry) = merge.peek() {
            let undecided = entry.seq <= at && self.decided.as_deref() != Some(entry.key);
            let (mut found, seq) = (None, entry.seq);
            if undecided {
                let decided = self.decided.get_or_insert_default();
                decided.clear();
                decided.extend_from_slice(entry.key);
                if is_erased(&self.erasers, &mut self.stretch, entry.key, entry.seq, at) {
                    self.hidden += 1;
                } else {
                    self.hidden = 0;
                    match kind_now(&entry, self.shows_expired, &self.snapshot) {
                        kind @ (Kind::Put | Kind::PutUntil) => {
                            found = merge.take_current().map(|pair| (pair, kind));
                        }
                        Kind::Delete => meet_delete(&mut self.deletes, &self.snapshot),
                    }
                }
            }
            let found = match found {
                // Before the walk goes on, which may let go of its block.
                Some((pair, kind)) => Some(with_value(&self.snapshot, &self.bound, pair, kind, seq).await?),
                None => None,
            };
            if !merge.advance_now() {
                merge.advance().await?;
            }
            if found.is_some() {
                return Ok(found);
            }
            if self.hidden >= SKIP_AFTER
                && let Some(Stretch { newest: Some(newest), end: Some(end), .. }) = &self.stretch
            {
                merge.skip(end, *newest).await?;
                self.hidden = 0;
            }
            pass(&mut self.passed, &self.budget).await;
        }
        Ok(None)
    }

    async fn next_reverse(&mut self) -> Result<Option<Entry>> {
        let at = self.snapshot.seq();
        let Some(merge) = &mut self.merge else { return Ok(None) };
        let mut candidate: Option<((Bytes, Value), Kind, SeqNo)> = None;
        while let Some(entry) = merge.peek() {
            if let Some((pair, kind, seq)) = candidate.take_if(|((key, _), ..)| entry.key != &key[..]) {
                if is_erased(&self.erasers, &mut self.stretch, &pair.0, seq, at) {
                    self.hidden += 1;
                } else {
                    self.hidden = 0;
                    match kind {
                        Kind::Put | Kind::PutUntil => {
                            return with_value(&self.snapshot, &self.bound, pair, kind, seq).await.map(Some);
                        }
                        Kind::Delete => meet_delete(&mut self.deletes, &self.snapshot),
                    }
                }
                if self.hidden >= SKIP_AFTER
                    && let Some(Stretch { newest: Some(newest), start, .. }) = &self.stretch
                    && !start.is_empty()
                {
                    merge.skip(start, *newest).await?;
                    self.hidden = 0;
                    continue;
                }
            }
            if entry.seq <= at {
                let (kind, seq) = (kind_now(&entry, self.shows_expired, &self.snapshot), entry.seq);
                candidate = merge.take_current().map(|pair| (pair, kind, seq));
            }
            if !merge.advance_now() {
                merge.advance().await?;
            }
            pass(&mut self.passed, &self.budget).await;
        }
        let Some((pair, kind, seq)) = candidate else { return Ok(None) };
        if kind == Kind::Delete || is_erased(&self.erasers, &mut self.stretch, &pair.0, seq, at) {
            return Ok(None);
        }
        with_value(&self.snapshot, &self.bound, pair, kind, seq).await.map(Some)
    }
}

/// What an entry is to the reader: a value that has expired is a delete.
fn kind_now(entry: &EntryRef<'_>, shows_expired: bool, snapshot: &Snapshot) -> Kind {
    let is_over = || split(entry.kind, entry.value).0.is_over(snapshot.now());
    if entry.kind == Kind::PutUntil && !shows_expired && is_over() { Kind::Delete } else { entry.kind }
}

/// A found version with its value, if that is wanted.
async fn with_value(
    snapshot: &Snapshot,
    bound: &Bound,
    (key, value): (Bytes, Value),
    kind: Kind,
    seq: SeqNo,
) -> Result<Entry> {
    if bound.keys_only() {
        return Ok(Entry { key, kind, stored: Bytes::new() });
    }
    let stored = match value {
        Value::Here(value) => value,
        Value::Elsewhere(place) => {
            let shared = snapshot.shared();
            place.read(&shared.rt, Some(&shared.cache), bound.kept(), (&key, seq)).await?
        }
    };
    Ok(Entry { key, kind, stored })
}

/// Where range deletes lie.
#[derive(Debug)]
pub(crate) enum Eraser {
    Memory(Rc<Memtable>, Cf),
    Table(Rc<Table>),
}

impl Eraser {
    fn stretch(&self, key: &[u8], at: SeqNo) -> Stretch {
        match self {
            Eraser::Memory(memtable, cf) => memtable.erased_stretch(*cf, key, at),
            Eraser::Table(table) => table.meta.erased.stretch(key, at),
        }
    }
}

/// Whether the version of `key` at `seq` is hidden by a range delete that a read at `at` sees; `stretch` is what is known already.
fn is_erased(erasers: &[Eraser], stretch: &mut Option<Stretch>, key: &[u8], seq: SeqNo, at: SeqNo) -> bool {
    if erasers.is_empty() {
        return false;
    }
    if !stretch.as_ref().is_some_and(|stretch| stretch.contains(key)) {
        *stretch = Some(stretch_of_all(erasers.iter().map(|eraser| eraser.stretch(key, at))));
    }
    stretch.as_ref().and_then(|stretch| stretch.newest).is_some_and(|newest| newest > seq)
}

/// Where a walk meets many deletes the next one shall not.
fn meet_delete(deletes: &mut usize, snapshot: &Snapshot) {
    *deletes += 1;
    if *deletes == DENSE_DELETES_MIN {
        *deletes = 0;
        snapshot.shared().walked_over_deletes();
    }
}

async fn pass(passed: &mut u32, budget: &Budget) {
    *passed += 1;
    if passed.is_multiple_of(CHECK_EVERY) {
        budget.tick().await;
    }
}
