//! Reading: what memory knows at once, what needs a file, and snapshots.
//!
//! A look-up goes from the newest source to the oldest and stops at the first that knows the key. For one key every source
//! is newer than all that follow, versions and range deletes alike. Whether what is found has expired is decided afterwards: an expired
//! value hides what is older.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;

use super::bound::{Bound, WalkLimits};
use super::expiry::{TimedValue, Until, WallMs};
use super::iter::{Eraser, Iter};
use super::key::{Cf, Direction, SeqNo, key_hash};
pub use super::long::LongBlock;
use super::memtable::Found;
use super::source::{KeyRange, MemorySource, Reading, RunSource, Source};
use super::table::read::{Probe, Table, TooLong};
use super::version::LEVELS;
use super::{Shared, Tree};
use crate::error::Result;
use crate::rt::Rt;

/// The answer of a look-up that does no IO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T = Bytes> {
    /// The value.
    Found(T),
    /// There is none.
    Absent,
    /// Memory does not know, or may not say; ask the async form.
    NeedsIo,
}

/// What a look-up with a bound came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The value, if there is one.
    Value(Option<TimedValue>),
    /// It needs this block, which was turned down.
    TooLong(LongBlock),
}

impl Fetched {
    /// The same, without a value that `live` makes nothing of.
    fn and_then(self, live: impl FnOnce(TimedValue) -> Option<TimedValue>) -> Self {
        match self {
            Fetched::Value(found) => Fetched::Value(found.and_then(live)),
            Fetched::TooLong(block) => Fetched::TooLong(block),
        }
    }
}

impl<T> Lookup<T> {
    /// The same of what `change` makes of the value; absent where it makes nothing of it.
    pub fn and_then<U>(self, change: impl FnOnce(T) -> Option<U>) -> Lookup<U> {
        match self {
            Lookup::Found(value) => change(value).map_or(Lookup::Absent, Lookup::Found),
            Lookup::Absent => Lookup::Absent,
            Lookup::NeedsIo => Lookup::NeedsIo,
        }
    }
}

/// The wall clock as a read sees it: looked at once, when the read first comes to a value that expires.
#[derive(Debug, Clone, Default)]
struct Clock(Cell<Option<WallMs>>);

impl Clock {
    fn now(&self, rt: &Rt) -> WallMs {
        let now = self.0.get().unwrap_or_else(|| rt.wall().into());
        self.0.set(Some(now));
        now
    }

    fn is_over(&self, rt: &Rt, until: Until) -> bool {
        until != Until::NEVER && until.is_over(self.now(rt))
    }

    fn live(&self, rt: &Rt, timed: TimedValue) -> Option<TimedValue> {
        (!self.is_over(rt, timed.until)).then_some(timed)
    }
}

fn value_of(timed: TimedValue) -> Bytes {
    timed.value
}

impl Tree {
    /// The newest version of `key`, if memory knows; see [`Lookup`].
    pub fn get_now(&self, cf: Cf, key: &[u8]) -> Lookup {
        self.get_now_if(cf, key, |_| true)
    }

    /// The same, except that a value of which a copy would have to be made is copied only if `wanted` says so of its length, bytes;
    /// else it is [`Lookup::NeedsIo`].
    pub fn get_now_if(&self, cf: Cf, key: &[u8], wanted: impl Fn(usize) -> bool) -> Lookup {
        self.timed_now_if(cf, key, wanted).and_then(|timed| Some(timed.value))
    }

    /// The same, with the moment at which the value goes.
    pub fn timed_now_if(&self, cf: Cf, key: &[u8], wanted: impl Fn(usize) -> bool) -> Lookup<TimedValue> {
        let shared = &self.shared;
        let found = shared.get_now_if(cf, key, SeqNo::MAX, wanted);
        found.and_then(|timed| Clock::default().live(&shared.rt, timed))
    }

    /// The newest version of `key`.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.timed(cf, key).await?.map(value_of))
    }

    /// The same, with the moment at which the value goes.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn timed(&self, cf: Cf, key: &[u8]) -> Result<Option<TimedValue>> {
        let shared = &self.shared;
        let found = shared.get(cf, key, shared.last_seq.get()).await?;
        Ok(found.and_then(|timed| Clock::default().live(&shared.rt, timed)))
    }

    /// The same, but a long block is read only if `admits` says so of it, and opened only if it says so again of what it opens to.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn timed_within(
        &self,
        cf: Cf,
        key: &[u8],
        admits: &dyn Fn(LongBlock) -> bool,
    ) -> Result<Fetched> {
        let shared = &self.shared;
        let fetched = shared.get_within(cf, key, shared.last_seq.get(), admits).await?;
        Ok(fetched.and_then(|timed| Clock::default().live(&shared.rt, timed)))
    }

    /// The length of the value of `key` now, bytes, if memory knows; `Some(None)` when there is no value. Costs no copy of it.
    pub fn length_now(&self, cf: Cf, key: &[u8]) -> Option<Option<usize>> {
        let found = self.sized_now(cf, key)?;
        Some(found.map(|(bytes, _)| bytes))
    }

    /// The same, with the moment at which the value goes.
    pub fn sized_now(&self, cf: Cf, key: &[u8]) -> Option<Option<(usize, Until)>> {
        self.shared.sized_now(cf, key, SeqNo::MAX, &Clock::default())
    }

    /// The tree as it is now, for as long as the snapshot lives.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.shared.clone())
    }

    /// Walks the keys of `[start, end)` as they are now; an empty `end` means "to the last key".
    pub fn iter(&self, cf: Cf, start: &[u8], end: &[u8], direction: Direction) -> Iter {
        self.snapshot().iter(cf, start, end, direction)
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

    /// What lies under `key`, expired or not. A value of a memtable is copied only if `wanted` says so of its length, bytes; what lies in a
    /// cache is shared.
    fn get_now_if(
        &self,
        cf: Cf,
        key: &[u8],
        at: SeqNo,
        wanted: impl Fn(usize) -> bool,
    ) -> Lookup<TimedValue> {
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

    async fn get(&self, cf: Cf, key: &[u8], at: SeqNo) -> Result<Option<TimedValue>> {
        match self.get_within(cf, key, at, &|_| true).await? {
            Fetched::Value(found) => Ok(found),
            Fetched::TooLong(block) => unreachable!("{block:?} was not to be turned down"),
        }
    }

    async fn get_within(
        &self,
        cf: Cf,
        key: &[u8],
        at: SeqNo,
        admits: &dyn Fn(LongBlock) -> bool,
    ) -> Result<Fetched> {
        match self.get_now_if(cf, key, at, |_| true) {
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

    /// The length of a value, which is not copied for it, and when it goes; `None` if memory does not know.
    fn sized_now(&self, cf: Cf, key: &[u8], at: SeqNo, clock: &Clock) -> Option<Option<(usize, Until)>> {
        let hash = key_hash(key);
        let active = self.active.borrow().length(cf, key, hash, at);
        let closed =
            || self.closed.borrow().iter().rev().find_map(|memtable| memtable.length(cf, key, hash, at));
        // What comes from a table is a part of its block.
        let found = active.or_else(closed).or_else(|| match self.get_now_if(cf, key, at, |_| true) {
            Lookup::Found(timed) => Some(Some((timed.len(), timed.until))),
            Lookup::Absent => Some(None),
            Lookup::NeedsIo => None,
        })?;
        Some(found.filter(|(_, until)| !clock.is_over(&self.rt, *until)))
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
    fn into_value(self) -> Option<TimedValue> {
        match self {
            Found::Value(value) => Some(value),
            Found::Deleted => None,
        }
    }
}

impl From<Found> for Lookup<TimedValue> {
    fn from(found: Found) -> Self {
        found.into_value().map_or(Lookup::Absent, Lookup::Found)
    }
}

/// The tree at one moment. Costs nothing to take; while it lives, overwrites and compactions keep the
/// versions that it sees.
#[derive(Debug)]
pub struct Snapshot {
    shared: Rc<Shared>,
    seq: SeqNo,
    clock: Clock,
}

impl Snapshot {
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        let seq = shared.last_seq.get();
        shared.readers.borrow_mut().enter(seq);
        Self { shared, seq, clock: Clock::default() }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The moment, as the sequence number of the last operation it sees.
    pub fn seq(&self) -> SeqNo {
        self.seq
    }

    /// The moment of the wall clock by which it is decided what has expired, the same for all that is read.
    pub fn now(&self) -> WallMs {
        self.clock.now(&self.shared.rt)
    }

    /// As [`Tree::get_now`](super::Tree::get_now), at this moment.
    pub fn get_now(&self, cf: Cf, key: &[u8]) -> Lookup {
        self.get_now_if(cf, key, |_| true)
    }

    /// As [`Tree::get_now_if`](super::Tree::get_now_if), at this moment.
    pub fn get_now_if(&self, cf: Cf, key: &[u8], wanted: impl Fn(usize) -> bool) -> Lookup {
        let found = self.shared.get_now_if(cf, key, self.seq, wanted);
        found.and_then(|timed| self.clock.live(&self.shared.rt, timed).map(value_of))
    }

    /// As [`Tree::length_now`](super::Tree::length_now), at this moment.
    pub fn length_now(&self, cf: Cf, key: &[u8]) -> Option<Option<usize>> {
        self.sized_now(cf, key).map(|found| found.map(|(bytes, _)| bytes))
    }

    /// As [`Tree::sized_now`](super::Tree::sized_now), at this moment.
    pub fn sized_now(&self, cf: Cf, key: &[u8]) -> Option<Option<(usize, Until)>> {
        self.shared.sized_now(cf, key, self.seq, &self.clock)
    }

    /// As [`Tree::get`](super::Tree::get), at this moment.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.timed(cf, key).await?.map(value_of))
    }

    /// As [`Tree::timed`](super::Tree::timed), at this moment.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn timed(&self, cf: Cf, key: &[u8]) -> Result<Option<TimedValue>> {
        let found = self.shared.get(cf, key, self.seq).await?;
        Ok(found.and_then(|timed| self.clock.live(&self.shared.rt, timed)))
    }

    /// As [`Tree::timed_within`], at this moment.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn timed_within(
        &self,
        cf: Cf,
        key: &[u8],
        admits: &dyn Fn(LongBlock) -> bool,
    ) -> Result<Fetched> {
        let fetched = self.shared.get_within(cf, key, self.seq, admits).await?;
        Ok(fetched.and_then(|timed| self.clock.live(&self.shared.rt, timed)))
    }

    /// The length of the value of `key`, bytes, which costs no copy of it.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn length(&self, cf: Cf, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.sized(cf, key).await?.map(|(bytes, _)| bytes))
    }

    /// The same, with the moment at which the value goes.
    ///
    /// # Errors
    /// A fault of the file that had to be read.
    pub async fn sized(&self, cf: Cf, key: &[u8]) -> Result<Option<(usize, Until)>> {
        match self.shared.sized_now(cf, key, self.seq, &self.clock) {
            Some(found) => Ok(found),
            None => Ok(self.timed(cf, key).await?.map(|timed| (timed.len(), timed.until))),
        }
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
        Self { shared: self.shared.clone(), seq: self.seq, clock: self.clock.clone() }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.shared.readers.borrow_mut().leave(self.seq);
    }
}
