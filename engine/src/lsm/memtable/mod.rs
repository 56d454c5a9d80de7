//! Sorted memory: where every write goes first.
//!
//! One owner, no locks, never durable by itself (the log is its write-ahead log). Keys and their versions lie in an arena
//! ([`arena`]); two indexes lead to the keys ([`family`]). The tree has their order and serves scans. A hash table
//! ([`by_hash`]) serves look-ups and overwrites. From a key a chain leads through its versions, newest first ([`chain`]);
//! those that no reader will see leave it when the key is written again.
//!
//! A memtable also carries, per group, how far in the log it reaches ([`Marks`]), so that a flush can say what became
//! durable.

mod arena;
mod by_hash;
mod chain;
mod family;
#[cfg(test)]
mod model_tests;
mod samples;
mod small_key;
#[cfg(test)]
mod tests;

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{Mark, Op, WriteBatch};
use super::bound::Bound;
use super::chunk::{Chunk, ChunkBuilder};
use super::erased::{RangeTombstones, Stretch};
use super::expiry::{TimedValue, Until, split, without_value};
use super::key::{Cf, Direction, Kind, SeqNo, key_hash};
use super::readers::Readers;
use arena::Version;
use family::Family;

/// A memtable is full at this size at the latest, because the arena cannot tell places apart in a much larger one.
const BYTES_MAX: usize = 8 << 30;
/// How many entries an iterator copies at a time, and how many bytes at most.
const CHUNK_ENTRIES: usize = 32;
const CHUNK_BYTES: usize = 64 << 10;

/// With at least this many deletes, ...
pub(crate) const DENSE_DELETES_MIN: usize = 4096;
/// ... each of about this many bytes, ...
const DELETE_BYTES: usize = 150;
/// ... in one of this many parts of its memory, a memtable is dense. So a flush for their sake writes a bounded amount for each.
const DENSE_PARTS: usize = 8;

/// What a source knows about a key. A value that has expired is a value here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Value(TimedValue),
    Deleted,
}

/// Log positions per group.
pub(crate) type Marks = BTreeMap<u64, GroupMarks>;

/// What a memtable says of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GroupMarks {
    /// What older memtables and the tables know of the group is void.
    pub(crate) forgotten: bool,
    /// The position, reached after that.
    pub(crate) applied: Option<u64>,
    /// The caller's bytes, if they were replaced after that.
    pub(crate) state: Option<Arc<[u8]>>,
}

/// One memtable: the families and the marks.
#[derive(Debug)]
pub(crate) struct Memtable {
    /// Which memtable of this run it is; they are flushed in this order.
    pub(crate) generation: u64,
    families: [RefCell<Family>; Cf::ALL.len()],
    marks: RefCell<Marks>,
    size_bytes: Cell<usize>,
    newest: Cell<SeqNo>,
}

impl Memtable {
    /// An empty memtable.
    pub(crate) fn new(generation: u64) -> Self {
        Self {
            generation,
            families: std::array::from_fn(|_| RefCell::default()),
            marks: RefCell::default(),
            size_bytes: Cell::new(0),
            newest: Cell::default(),
        }
    }

    /// Applies a batch; its operations get the sequence numbers from `first` on, which is above every moment of `readers`.
    /// Versions that only they could still want stay for them. `nothing_older` says whether no older memtable and no table has
    /// anything of a key with this hash, as far as that is known without IO. Returns the number after the last.
    pub(crate) fn apply(
        &self,
        batch: &WriteBatch,
        first: SeqNo,
        readers: &Readers,
        nothing_older: impl Fn(Cf, &[u8], u64) -> bool,
    ) -> SeqNo {
        self.apply_hashed(batch, first, readers, nothing_older, key_hash)
    }

    /// With a hash of the caller's choice, so that a test can make keys collide.
    fn apply_hashed(
        &self,
        batch: &WriteBatch,
        first: SeqNo,
        readers: &Readers,
        nothing_older: impl Fn(Cf, &[u8], u64) -> bool,
        hash: impl Fn(&[u8]) -> u64,
    ) -> SeqNo {
        let ahead = readers.newest_below(SeqNo::MAX).is_some_and(|moment| moment >= first);
        debug_assert!(!ahead, "a snapshot is not taken before its last operation");
        let mut seq = first;
        let (mut added, mut freed) = (0, 0);
        for op in batch.ops() {
            added += match op {
                Op::Put { cf, key, value } => {
                    let version = Version { seq, kind: Kind::Put, value };
                    self.family_mut(cf).put(key, hash(key), version, readers)
                }
                Op::PutUntil { cf, key, dated } => {
                    let version = Version { seq, kind: Kind::PutUntil, value: dated };
                    self.family_mut(cf).put(key, hash(key), version, readers)
                }
                Op::Delete { cf, key } => {
                    let hash = hash(key);
                    self.family_mut(cf).delete(key, hash, seq, readers, || nothing_older(cf, key, hash))
                }
                Op::DeleteRange { cf, start, end } => {
                    let (before, after) = self.family_mut(cf).erase(start, end, seq, readers);
                    freed += before;
                    after
                }
            };
            seq.0 += 1;
        }
        for mark in batch.marks() {
            self.mark(mark);
        }
        self.size_bytes.set(self.size_bytes.get() + added - freed);
        self.newest.set(SeqNo(seq.0 - 1).max(self.newest.get()));
        seq
    }

    /// Approximate memory used, bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes.get()
    }

    /// Whether it is time for the next memtable, if one may use about so much memory.
    pub(crate) fn is_full(&self, limit_bytes: usize) -> bool {
        self.size_bytes() >= limit_bytes.min(BYTES_MAX)
    }

    /// Whether there is nothing to flush, not even a mark.
    pub(crate) fn is_empty(&self) -> bool {
        self.size_bytes.get() == 0 && self.marks.borrow().is_empty()
    }

    /// Whether so much of it is deletes that a walk which came by many of them is better off without.
    pub(crate) fn is_dense(&self) -> bool {
        let deletes = Cf::ALL.map(|cf| self.family(cf).deletes()).into_iter().max().unwrap_or(0);
        deletes >= DENSE_DELETES_MIN
            && deletes.saturating_mul(DELETE_BYTES * DENSE_PARTS) >= self.size_bytes()
    }

    /// Whether there is anything of a key.
    pub(crate) fn knows(&self, cf: Cf, key: &[u8], hash: u64) -> bool {
        self.family(cf).version(key, hash, SeqNo::MAX).is_some()
    }

    /// Positions of the groups written here.
    pub(crate) fn marks(&self) -> Marks {
        self.marks.borrow().clone()
    }

    /// The version of `key` that a read at `at` sees, if this memtable knows one; `Some(None)` if it is a value whose length, in bytes,
    /// `wanted` does not want, which is not copied then.
    pub(crate) fn get_if(
        &self,
        cf: Cf,
        key: &[u8],
        hash: u64,
        at: SeqNo,
        wanted: impl FnOnce(usize) -> bool,
    ) -> Option<Option<Found>> {
        let copy = |version: Version<'_>| {
            let (until, value) = split(version.kind, version.value);
            wanted(value.len()).then(|| TimedValue { value: Bytes::copy_from_slice(value), until })
        };
        Some(match self.look_up(cf, key, hash, at, copy)? {
            None => Some(Found::Deleted),
            Some(value) => value.map(Found::Value),
        })
    }

    /// The length of that value, which is not copied, and until when it is there; `Some(None)` if it is deleted.
    pub(crate) fn length(&self, cf: Cf, key: &[u8], hash: u64, at: SeqNo) -> Option<Option<(usize, Until)>> {
        self.look_up(cf, key, hash, at, |version| {
            let (until, value) = split(version.kind, version.value);
            (value.len(), until)
        })
    }

    fn look_up<T>(
        &self,
        cf: Cf,
        key: &[u8],
        hash: u64,
        at: SeqNo,
        take: impl FnOnce(Version<'_>) -> T,
    ) -> Option<Option<T>> {
        let family = self.family(cf);
        let erased = family.erased().newest_covering(key, at);
        match family.version(key, hash, at) {
            Some(version) if erased.is_some_and(|erased| erased > version.seq) => Some(None),
            Some(Version { kind: Kind::Delete, .. }) => Some(None),
            Some(version) => Some(Some(take(version))),
            None => erased.map(|_| None),
        }
    }

    /// A copy of the range deletes, for the one flush. Readers ask for what they need instead.
    pub(crate) fn erased(&self, cf: Cf) -> RangeTombstones {
        self.family(cf).erased().clone()
    }

    /// Whether there are range deletes.
    pub(crate) fn erases(&self, cf: Cf) -> bool {
        !self.family(cf).erased().is_empty()
    }

    /// The stretch around `key` in which a read at `at` sees the same newest range delete.
    pub(crate) fn erased_stretch(&self, cf: Cf, key: &[u8], at: SeqNo) -> Stretch {
        self.family(cf).erased().stretch(key, at)
    }

    /// The number of the newest operation.
    pub(crate) fn newest(&self) -> SeqNo {
        self.newest.get()
    }

    /// The next entries of `cf` in `[start, end)` after `after`, in walking order; empty at the end. Between two chunks
    /// newer versions may arrive and unlink older ones, never one that a reader sees. A value that `bound` has no room for ends the
    /// chunk; as the first one it ends the walk.
    pub(crate) fn chunk(
        &self,
        cf: Cf,
        direction: Direction,
        range: (&[u8], &[u8]),
        after: Option<(&[u8], SeqNo)>,
        bound: &Bound,
    ) -> Chunk {
        let mut chunk = ChunkBuilder::default();
        self.family(cf).walk(direction, range, after, |key, version| {
            let kept = || without_value(version.kind, version.value);
            let value = if bound.keys_only() { kept() } else { version.value };
            let goes_on =
                if chunk.len() == 0 { bound.admits(value.len()) } else { bound.has_room(value.len()) };
            if !goes_on {
                return false;
            }
            chunk.push_owned(key, version.seq, version.kind, value);
            chunk.len() < CHUNK_ENTRIES && chunk.size_bytes() < CHUNK_BYTES
        });
        chunk.finish()
    }

    /// Approximate bytes and keys in `[start, end)`, from the samples; overwritten versions do not count.
    pub(crate) fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> (u64, u64) {
        self.family(cf).samples().sum(start, end)
    }

    /// Sampled keys in `[start, end)` with the bytes each stands for.
    pub(crate) fn samples(&self, cf: Cf, start: &[u8], end: &[u8]) -> Vec<(Bytes, u64)> {
        self.family(cf).samples().weights(start, end)
    }

    /// In how many parts [`Memtable::with_hashes`] hands out the keys' hashes.
    pub(crate) fn hash_parts(&self) -> usize {
        by_hash::PARTS
    }

    /// Shows the hashes of the keys in one part of a family.
    pub(crate) fn with_hashes(&self, cf: Cf, part: usize, see: impl FnOnce(&mut dyn Iterator<Item = u64>)) {
        see(&mut self.family(cf).hashes(part));
    }

    /// Frees up to `keys` keys, or some memory of their versions, of a memtable without readers; `false` when
    /// nothing is left. A whole memtable freed at once would hold the core for many milliseconds.
    pub(crate) fn free_some(&mut self, keys: usize) -> bool {
        self.families.iter_mut().any(|family| family.get_mut().free_some(keys))
    }

    fn family(&self, cf: Cf) -> Ref<'_, Family> {
        self.families[cf.index()].borrow()
    }

    fn family_mut(&self, cf: Cf) -> RefMut<'_, Family> {
        self.families[cf.index()].borrow_mut()
    }

    fn mark(&self, mark: &Mark) {
        let mut marks = self.marks.borrow_mut();
        match *mark {
            Mark::Described { group, ref state } => {
                marks.entry(group).or_default().state = Some(state.clone());
            }
            Mark::Applied { group, applied } => {
                let known = &mut marks.entry(group).or_default().applied;
                *known = (*known).max(Some(applied));
            }
            Mark::Forget { group } => {
                marks.insert(group, GroupMarks { forgotten: true, applied: None, state: None });
            }
        }
    }
}
