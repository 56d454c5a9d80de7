//! Reading: what memory knows at once, what needs a file, and snapshots.
//!
//! A look-up goes from the newest source to the oldest and stops at the first that knows the key. For one key every source
//! is newer than all that follow, versions and range deletes alike.

use std::rc::Rc;

use bytes::Bytes;

use super::bound::{Bound, WalkLimits};
use super::iter::{Eraser, Iter};
use super::key::{Cf, Direction, SeqNo, key_hash};
pub use super::long::LongBlock;
use super::memtable::Found;
use super::source::{KeyRange, MemorySource, Reading, RunSource, Source};
use super::table::read::{Probe, Table, TooLong};
use super::version::LEVELS;
use super::{Shared, Tree};
use crate::error::Result;

/// The answer of a look-up that does no IO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The value.
    Found(Bytes),
    /// There is none.
    Absent,
    /// Memory does not know, or may not say; ask the async form.
    NeedsIo,
}

/// What a look-up with a bound came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The value, if there is one.
    Value(Option<Bytes>),
    /// It needs this block, which was turned down.
    TooLong(LongBlock),
}

impl Tree {
    /// As [`Tree::get`], but a long block is read only if `admits` says so of it, and opened only if it says so again of what it opens to.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn get_within(
        &self,
        cf: Cf,
        key: &[u8],
        admits: &dyn Fn(LongBlock) -> bool,
    ) -> Result<Fetched> {
        self.shared.get_within(cf, key, self.shared.last_seq.get(), admits).await
    }
}

impl Shared {
    /// Whether nothing below the memtable in use has anything of a key, as far as memory knows.
    pub(super) fn has_nothing_older(&self, cf: Cf, key: &[u8], hash: u64) -> bool {
        let version = self.version.borrow();
        let is_absent = |table: &Rc<Table>| match table.probe(&self.cache, key, hash, SeqNo::MAX) {
            Ok(Probe::Absent) => true,
            // Damage is reported by whoever reads the table for a client.
            Ok(Probe::Found { .. } | Probe::NeedsIo) | Err(_) => false,
        };
        !self.closed.borrow().iter().any(|memtable| memtable.knows(cf, key, hash))
            && version.family(cf).holding(key).all(is_absent)
    }

    pub(super) fn get_now(&self, cf: Cf, key: &[u8], at: SeqNo) -> Lookup {
        self.get_now_if(cf, key, at, |_| true)
    }

    /// A value of a memtable is copied only if `wanted` says so of its length, bytes; what lies in a cache is shared.
    pub(super) fn get_now_if(&self, cf: Cf, key: &[u8], at: SeqNo, wanted: impl Fn(usize) -> bool) -> Lookup {
        let hash = key_hash(key);
        if let Some(found) = self.get_in_memory(cf, key, hash, at, &wanted) {
            return found.map_or(Lookup::NeedsIo, Lookup::from);
        }
        let newest = at == SeqNo::MAX;
        if let Some(value) = newest.then(|| self.rows.get(cf, key, hash)).flatten() {
            return Lookup::Found(value);
        }
        let version = self.version.borrow();
        for table in version.family(cf).holding(key) {
            // A fault is reported by the async form, which meets it again.
            let probe = table.probe(&self.cache, key, hash, at).unwrap_or(Probe::NeedsIo);
            match decide(table, key, at, probe) {
                Verdict::Decided(found) => {
                    if let (true, Found::Value(value)) = (newest, &found) {
                        self.rows.insert(cf, key, hash, value);
                    }
                    return found.into();
                }
                Verdict::GoOn => {}
                Verdict::NotNow => return Lookup::NeedsIo,
            }
        }
        Lookup::Absent
    }

    pub(super) async fn get(&self, cf: Cf, key: &[u8], at: SeqNo) -> Result<Option<Bytes>> {
        match self.get_within(cf, key, at, &|_| true).await? {
            Fetched::Value(value) => Ok(value),
            Fetched::TooLong(block) => unreachable!("{block:?} was turned down by nobody"),
        }
    }

    async fn get_within(
        &self,
        cf: Cf,
        key: &[u8],
        at: SeqNo,
        admits: &dyn Fn(LongBlock) -> bool,
    ) -> Result<Fetched> {
        match self.get_now(cf, key, at) {
            Lookup::Found(value) => return Ok(Fetched::Value(Some(value))),
            Lookup::Absent => return Ok(Fetched::Value(None)),
            Lookup::NeedsIo => {}
        }
        if self.stopping.get() {
            return Err(self.refusal());
        }
        let hash = key_hash(key);
        let version = self.version.borrow().clone();
        for table in version.family(cf).holding(key) {
            let probe = match table.get(&self.rt, &self.cache, (key, hash), at, admits).await? {
                Ok(probe) => probe,
                Err(TooLong(block)) => return Ok(Fetched::TooLong(block)),
            };
            if let Verdict::Decided(found) = decide(table, key, at, probe) {
                return Ok(Fetched::Value(found.into_value()));
            }
        }
        Ok(Fetched::Value(None))
    }

    /// The length of a value, which is not copied for it; `None` if memory does not know.
    pub(super) fn length_now(&self, cf: Cf, key: &[u8], at: SeqNo) -> Option<Option<usize>> {
        let hash = key_hash(key);
        let active = self.active.borrow().length(cf, key, hash, at);
        let closed =
            || self.closed.borrow().iter().rev().find_map(|memtable| memtable.length(cf, key, hash, at));
        // What comes from a table is a part of its block.
        active.or_else(closed).or_else(|| match self.get_now(cf, key, at) {
            Lookup::Found(value) => Some(Some(value.len())),
            Lookup::Absent => Some(None),
            Lookup::NeedsIo => None,
        })
    }

    pub(super) async fn length(&self, cf: Cf, key: &[u8], at: SeqNo) -> Result<Option<usize>> {
        match self.length_now(cf, key, at) {
            Some(length) => Ok(length),
            None => Ok(self.get(cf, key, at).await?.map(|value| value.len())),
        }
    }

    fn get_in_memory(
        &self,
        cf: Cf,
        key: &[u8],
        hash: u64,
        at: SeqNo,
        wanted: &impl Fn(usize) -> bool,
    ) -> Option<Option<Found>> {
        if let Some(found) = self.active.borrow().get_if(cf, key, hash, at, wanted) {
            return Some(found);
        }
        self.closed.borrow().iter().rev().find_map(|memtable| memtable.get_if(cf, key, hash, at, wanted))
    }
}

/// What one table says about a key.
enum Verdict {
    Decided(Found),
    /// Nothing; older tables may know more.
    GoOn,
    /// Memory does not hold what the look-up needs.
    NotNow,
}

fn decide(table: &Table, key: &[u8], at: SeqNo, probe: Probe) -> Verdict {
    let erased = table.meta.erased.newest_covering(key, at);
    match probe {
        Probe::Found { seq, .. } if erased.is_some_and(|erased| erased > seq) => {
            Verdict::Decided(Found::Deleted)
        }
        Probe::Found { value, .. } => Verdict::Decided(value),
        Probe::Absent if erased.is_some() => Verdict::Decided(Found::Deleted),
        Probe::Absent => Verdict::GoOn,
        Probe::NeedsIo => Verdict::NotNow,
    }
}

impl Found {
    fn into_value(self) -> Option<Bytes> {
        match self {
            Found::Value(value) => Some(value),
            Found::Deleted => None,
        }
    }
}

impl From<Found> for Lookup {
    fn from(found: Found) -> Lookup {
        found.into_value().map_or(Lookup::Absent, Lookup::Found)
    }
}

/// The tree at one moment. Costs nothing to take; while it lives, overwrites and compactions keep the
/// versions that it sees.
#[derive(Debug)]
pub struct Snapshot {
    shared: Rc<Shared>,
    seq: SeqNo,
}

impl Snapshot {
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        let seq = shared.last_seq.get();
        shared.readers.borrow_mut().enter(seq);
        Self { shared, seq }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The moment, as the sequence number of the last operation it sees.
    pub fn seq(&self) -> SeqNo {
        self.seq
    }

    /// As [`Tree::get_now`](super::Tree::get_now), at this moment.
    pub fn get_now(&self, cf: Cf, key: &[u8]) -> Lookup {
        self.shared.get_now(cf, key, self.seq)
    }

    /// As [`Tree::get_now_if`](super::Tree::get_now_if), at this moment.
    pub fn get_now_if(&self, cf: Cf, key: &[u8], wanted: impl Fn(usize) -> bool) -> Lookup {
        self.shared.get_now_if(cf, key, self.seq, wanted)
    }

    /// As [`Tree::length_now`](super::Tree::length_now), at this moment.
    pub fn length_now(&self, cf: Cf, key: &[u8]) -> Option<Option<usize>> {
        self.shared.length_now(cf, key, self.seq)
    }

    /// As [`Tree::get`](super::Tree::get), at this moment.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.shared.get(cf, key, self.seq).await
    }

    /// As [`Tree::get_within`], at this moment.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn get_within(
        &self,
        cf: Cf,
        key: &[u8],
        admits: &dyn Fn(LongBlock) -> bool,
    ) -> Result<Fetched> {
        self.shared.get_within(cf, key, self.seq, admits).await
    }

    /// The length of the value of `key`, bytes, which costs no copy of it.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn length(&self, cf: Cf, key: &[u8]) -> Result<Option<usize>> {
        self.shared.length(cf, key, self.seq).await
    }

    /// As [`Tree::iter`](super::Tree::iter), at this moment.
    pub fn iter(&self, cf: Cf, start: &[u8], end: &[u8], direction: Direction) -> Iter {
        self.walk(cf, start, end, direction, WalkLimits::NONE)
    }

    /// The same within limits; see [`Iter::too_large`].
    pub fn walk(&self, cf: Cf, start: &[u8], end: &[u8], direction: Direction, limits: WalkLimits) -> Iter {
        let bound = Rc::new(Bound::new(limits));
        let shared = &self.shared;
        let range = KeyRange { start: start.to_vec(), end: end.to_vec() };
        let mut erasers = Vec::new();
        let mut sources = Vec::new();
        for memtable in shared.memtables() {
            if memtable.erases(cf) {
                erasers.push(Eraser::Memory(memtable.clone(), cf));
            }
            sources.push(Source::Memory(MemorySource::new(
                memtable,
                cf,
                direction,
                range.clone(),
                bound.clone(),
            )));
        }
        let version = shared.version.borrow();
        let levels = version.family(cf);
        let mut add_run = |tables: Vec<Rc<Table>>| {
            if !tables.is_empty() {
                let erasing = tables.iter().filter(|table| !table.meta.erased.is_empty());
                erasers.extend(erasing.map(|table| Eraser::Table(table.clone())));
                let reading = Reading::Cached(shared.cache.clone(), bound.clone());
                let run = RunSource::new(&shared.rt, reading, direction, range.clone(), tables);
                sources.push(Source::Run(Box::new(run)));
            }
        };
        levels.overlapping(0, start, end).into_iter().for_each(|table| add_run(vec![table]));
        (1..LEVELS).for_each(|level| add_run(levels.overlapping(level, start, end)));
        Iter::new(self.clone(), (direction, bound), sources, erasers, shared.rt.budget())
    }
}

impl Clone for Snapshot {
    fn clone(&self) -> Self {
        self.shared.readers.borrow_mut().enter(self.seq);
        Self { shared: self.shared.clone(), seq: self.seq }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.shared.readers.borrow_mut().leave(self.seq);
    }
}
