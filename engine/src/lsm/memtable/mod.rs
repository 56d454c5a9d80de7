//! Sorted memory: where every write goes first.
//!
//! One owner, no locks, never durable by itself (the log is its write-ahead log). Entries lie in an arena ([`arena`]); two
//! indexes lead to them. The tree has their order, with keys of up to [`INLINE_BYTES`] inside its nodes, and serves scans and
//! reads of the past. A hash table ([`newest`]) has the newest version of every key and serves all other reads.
//!
//! A memtable also carries, per group, how far in the log it reaches ([`Marks`]), so that a flush can say what became
//! durable.

mod arena;
mod newest;

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::batch::{Mark, Op, WriteBatch};
use super::chunk::{Chunk, ChunkBuilder};
use super::erased::RangeTombstones;
use super::key::{Cf, Direction, Kind, SeqNo, entry_order, in_range, key_hash};
use arena::{Arena, Entry, Place};
use newest::Newest;

/// Keys up to this length need no allocation.
const INLINE_BYTES: usize = 38;
/// An entry's share of the tree's nodes, which are two thirds full when keys come in no order.
const NODE_SHARE_BYTES: usize = 85;
/// What an entry costs beside its key and its value.
const ENTRY_OVERHEAD_BYTES: usize = NODE_SHARE_BYTES + newest::KEY_BYTES + arena::HEADER_BYTES;
/// One key of this many is remembered for size estimates.
const SAMPLE_EVERY: usize = 64;
/// How many entries an iterator copies at a time, and how many bytes at most.
const CHUNK_ENTRIES: usize = 32;
const CHUNK_BYTES: usize = 64 << 10;

/// What a source knows about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Value(Bytes),
    Deleted,
}

/// Log positions per group; `None` says that the group is to be forgotten.
pub(crate) type Marks = BTreeMap<u64, Option<u64>>;

/// One memtable: the three families and the marks.
#[derive(Debug)]
pub(crate) struct Memtable {
    /// Which memtable of this run it is; they are flushed in this order.
    pub(crate) generation: u64,
    families: [RefCell<Family>; 3],
    marks: RefCell<Marks>,
    size_bytes: Cell<usize>,
}

#[derive(Debug, Default)]
struct Family {
    entries: BTreeMap<MemKey, Place>,
    newest: Newest,
    arena: Arena,
    erased: RangeTombstones,
    samples: Vec<Sample>,
    unsampled: usize,
    unsampled_bytes: usize,
}

/// A key that stands for the bytes written since the sample before it.
#[derive(Debug)]
struct Sample {
    key: SmallKey,
    bytes: usize,
    keys: usize,
}

impl Memtable {
    /// An empty memtable.
    pub(crate) fn new(generation: u64) -> Self {
        Self {
            generation,
            families: std::array::from_fn(|_| RefCell::default()),
            marks: RefCell::default(),
            size_bytes: Cell::new(0),
        }
    }

    /// Applies a batch; its operations get the sequence numbers from `first` on. Returns the number after the last.
    pub(crate) fn apply(&self, batch: &WriteBatch, first: SeqNo) -> SeqNo {
        let mut seq = first;
        let mut added = 0;
        for op in batch.ops() {
            added += match op {
                Op::Put { cf, key, value } => self.family_mut(cf, |f| f.put(key, seq, Kind::Put, value)),
                Op::Delete { cf, key } => self.family_mut(cf, |f| f.put(key, seq, Kind::Delete, &[])),
                Op::DeleteRange { cf, start, end } => self.family_mut(cf, |f| {
                    f.erased.insert(start, end, seq);
                    start.len() + end.len() + ENTRY_OVERHEAD_BYTES
                }),
            };
            seq.0 += 1;
        }
        for mark in batch.marks() {
            self.mark(*mark);
        }
        self.size_bytes.set(self.size_bytes.get() + added);
        seq
    }

    /// Approximate memory used, bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes.get()
    }

    /// Whether there is nothing to flush, not even a mark.
    pub(crate) fn is_empty(&self) -> bool {
        self.size_bytes.get() == 0 && self.marks.borrow().is_empty()
    }

    /// Positions of the groups written here.
    pub(crate) fn marks(&self) -> Marks {
        self.marks.borrow().clone()
    }

    /// The version of `key` that a read at `at` sees, if this memtable knows one.
    pub(crate) fn get(&self, cf: Cf, key: &[u8], hash: u64, at: SeqNo) -> Option<Found> {
        let family = self.families[cf.index()].borrow();
        let erased = family.erased.newest_covering(key, at);
        match family.version(key, hash, at) {
            Some(entry) if erased.is_some_and(|erased| erased > entry.seq) => Some(Found::Deleted),
            Some(Entry { kind: Kind::Delete, .. }) => Some(Found::Deleted),
            Some(Entry { value, .. }) => Some(Found::Value(Bytes::copy_from_slice(value))),
            None => erased.map(|_| Found::Deleted),
        }
    }

    /// A copy of the range deletes, or nothing if there are none.
    pub(crate) fn erased(&self, cf: Cf) -> Option<RangeTombstones> {
        let family = self.families[cf.index()].borrow();
        (!family.erased.is_empty()).then(|| family.erased.clone())
    }

    /// The next entries of `cf` in `[start, end)` after `after`, in walking order; empty at the end.
    pub(crate) fn chunk(
        &self,
        cf: Cf,
        direction: Direction,
        (start, end): (&[u8], &[u8]),
        after: Option<(&[u8], SeqNo)>,
    ) -> Chunk {
        let family = self.families[cf.index()].borrow();
        let mut chunk = ChunkBuilder::default();
        let mut take = |(key, place): (&MemKey, &Place)| {
            if !in_range(key.bytes.as_slice(), start, end) {
                return false;
            }
            let Entry { seq, kind, key, value } = family.arena.get(*place);
            chunk.push_owned(key, seq, kind, value);
            chunk.len() < CHUNK_ENTRIES && chunk.size_bytes() < CHUNK_BYTES
        };
        let first = Probe { key: start, seq: SeqNo::MAX };
        let last = Probe { key: end, seq: SeqNo::MAX };
        let resume = after.map(|(key, seq)| Probe { key, seq });
        match direction {
            Direction::Forward => {
                let from = match &resume {
                    Some(probe) => Bound::Excluded(probe as &dyn Position),
                    None => Bound::Included(&first as &dyn Position),
                };
                for entry in family.entries.range::<dyn Position, _>((from, Bound::Unbounded)) {
                    if !take(entry) {
                        break;
                    }
                }
            }
            Direction::Reverse => {
                let to = match &resume {
                    Some(probe) => Bound::Excluded(probe as &dyn Position),
                    None if end.is_empty() => Bound::Unbounded,
                    None => Bound::Excluded(&last as &dyn Position),
                };
                for entry in family.entries.range::<dyn Position, _>((Bound::Unbounded, to)).rev() {
                    if !take(entry) {
                        break;
                    }
                }
            }
        }
        chunk.finish()
    }

    /// Approximate bytes and keys in `[start, end)`, from the samples.
    pub(crate) fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> (u64, u64) {
        let family = self.families[cf.index()].borrow();
        let inside = family.samples.iter().filter(|sample| in_range(sample.key.as_slice(), start, end));
        inside.fold((0, 0), |(bytes, keys), sample| (bytes + sample.bytes as u64, keys + sample.keys as u64))
    }

    /// Sampled keys in `[start, end)` with the bytes each stands for.
    pub(crate) fn samples(&self, cf: Cf, start: &[u8], end: &[u8]) -> Vec<(Bytes, u64)> {
        let family = self.families[cf.index()].borrow();
        let inside = family.samples.iter().filter(|sample| in_range(sample.key.as_slice(), start, end));
        inside.map(|sample| (Bytes::copy_from_slice(sample.key.as_slice()), sample.bytes as u64)).collect()
    }

    /// In how many parts [`Memtable::with_hashes`] hands out the keys' hashes.
    pub(crate) fn hash_parts(&self) -> usize {
        newest::PARTS
    }

    /// Shows the hashes of the keys in one part of a family.
    pub(crate) fn with_hashes(&self, cf: Cf, part: usize, see: impl FnOnce(&mut dyn Iterator<Item = u64>)) {
        see(&mut self.families[cf.index()].borrow().newest.hashes(part));
    }

    /// Frees up to `entries` entries of a memtable that nobody reads any more; `false` when nothing is left. A whole
    /// memtable freed at once would hold the core for many milliseconds.
    pub(crate) fn free_some(&mut self, entries: usize) -> bool {
        for family in &mut self.families {
            let family = family.get_mut();
            if family.arena.free_piece() {
                return true;
            }
            for _ in 0..entries {
                if family.entries.pop_first().is_none() {
                    break;
                }
            }
            if !family.entries.is_empty() {
                return true;
            }
        }
        false
    }

    fn family_mut<T>(&self, cf: Cf, change: impl FnOnce(&mut Family) -> T) -> T {
        change(&mut self.families[cf.index()].borrow_mut())
    }

    fn mark(&self, mark: Mark) {
        let mut marks = self.marks.borrow_mut();
        match mark {
            Mark::Applied { group, applied } => {
                let known = marks.entry(group).or_insert(Some(applied));
                *known = Some(known.map_or(applied, |known| known.max(applied)));
            }
            Mark::Forget { group } => {
                marks.insert(group, None);
            }
        }
    }
}

impl Family {
    /// Returns the memory it took, bytes.
    fn put(&mut self, key: &[u8], seq: SeqNo, kind: Kind, value: &[u8]) -> usize {
        let bytes = key.len() + value.len();
        let small_key = SmallKey::new(key);
        self.unsampled += 1;
        self.unsampled_bytes += bytes;
        if self.unsampled == SAMPLE_EVERY {
            let (keys, bytes) =
                (std::mem::take(&mut self.unsampled), std::mem::take(&mut self.unsampled_bytes));
            self.samples.push(Sample { key: small_key.clone(), bytes, keys });
        }
        let place = self.arena.push(Entry { seq, kind, key, value });
        self.newest.set(key_hash(key), place);
        self.entries.insert(MemKey { bytes: small_key, seq }, place);
        bytes + ENTRY_OVERHEAD_BYTES
    }

    /// The version of `key`, which has this `hash`, at or below `at`.
    fn version(&self, key: &[u8], hash: u64, at: SeqNo) -> Option<Entry<'_>> {
        // No key of this hash was ever written here.
        let newest = self.arena.get(self.newest.get(hash)?);
        if newest.seq <= at && newest.key == key {
            return Some(newest);
        }
        let probe = Probe { key, seq: at };
        let from = Bound::Included(&probe as &dyn Position);
        let (found, place) = self.entries.range::<dyn Position, _>((from, Bound::Unbounded)).next()?;
        (found.bytes.as_slice() == key).then(|| self.arena.get(*place))
    }
}

/// A key that lies inside the node if it is short.
#[derive(Clone, Debug)]
enum SmallKey {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Long(Box<[u8]>),
}

impl SmallKey {
    fn new(key: &[u8]) -> Self {
        if key.len() > INLINE_BYTES {
            return SmallKey::Long(key.into());
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..key.len()].copy_from_slice(key);
        SmallKey::Inline { len: key.len() as u8, bytes }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            SmallKey::Inline { len, bytes } => &bytes[..usize::from(*len)],
            SmallKey::Long(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
struct MemKey {
    bytes: SmallKey,
    seq: SeqNo,
}

/// A place in the order of entries; look-ups use it to borrow their key.
trait Position {
    fn place(&self) -> (&[u8], SeqNo);
}

struct Probe<'a> {
    key: &'a [u8],
    seq: SeqNo,
}

impl Position for Probe<'_> {
    fn place(&self) -> (&[u8], SeqNo) {
        (self.key, self.seq)
    }
}

impl Position for MemKey {
    fn place(&self) -> (&[u8], SeqNo) {
        (self.bytes.as_slice(), self.seq)
    }
}

impl<'a> Borrow<dyn Position + 'a> for MemKey {
    fn borrow(&self) -> &(dyn Position + 'a) {
        self
    }
}

impl Ord for dyn Position + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        entry_order(self.place(), other.place())
    }
}

impl PartialOrd for dyn Position + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Position + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn Position + '_ {}

impl Ord for MemKey {
    fn cmp(&self, other: &Self) -> Ordering {
        entry_order(self.place(), other.place())
    }
}

impl PartialOrd for MemKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for MemKey {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for MemKey {}
