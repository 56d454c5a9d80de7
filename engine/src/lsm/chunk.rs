//! A handful of decoded entries: the unit in which every source (memtable or table block) hands out data.
//!
//! Keys and values are slices of two shared buffers, so an iterator gives them away without an allocation per entry. What is little of a
//! large buffer is copied out of it instead: a slice keeps all of its buffer ([`part_of`]).

use std::ops::Range;

use bytes::Bytes;

use super::key::{Kind, SeqNo};
use super::long::{Elsewhere, Value};

/// Decoded entries in key order, newest version first.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    keys: Bytes,
    values: Bytes,
    entries: Vec<Place>,
    /// Where the values are, if the chunk has none.
    elsewhere: Option<Elsewhere>,
}

#[derive(Debug, Clone)]
struct Place {
    key: Range<u32>,
    value: Range<u32>,
    seq: SeqNo,
    kind: Kind,
}

/// One entry of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryRef<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) seq: SeqNo,
    pub(crate) kind: Kind,
    pub(crate) value: &'a [u8],
}

impl Chunk {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entry `at`, if there is one.
    pub(crate) fn get(&self, at: usize) -> Option<EntryRef<'_>> {
        let place = self.entries.get(at)?;
        Some(EntryRef {
            key: &self.keys[to_usize(&place.key)],
            seq: place.seq,
            kind: place.kind,
            value: &self.values[to_usize(&place.value)],
        })
    }

    /// What the chunk keeps, bytes.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.keys.len().max(self.values.len())
    }

    /// The key of entry `at`, shared.
    pub(crate) fn key(&self, at: usize) -> Bytes {
        part_of(&self.keys, to_usize(&self.entries[at].key))
    }

    /// The value of entry `at`, shared.
    pub(crate) fn value(&self, at: usize) -> Bytes {
        part_of(&self.values, to_usize(&self.entries[at].value))
    }

    /// The value of entry `at`, or where it is.
    pub(crate) fn value_or_place(&self, at: usize) -> Value {
        match &self.elsewhere {
            Some(elsewhere) => Value::Elsewhere(elsewhere.clone()),
            None => Value::Here(self.value(at)),
        }
    }

    /// Where the values are, if the chunk has none.
    pub(crate) const fn elsewhere(&self) -> Option<&Elsewhere> {
        self.elsewhere.as_ref()
    }

    /// The chunk, whose entries have no values: those are `elsewhere`.
    pub(crate) fn with_values_elsewhere(self, elsewhere: Elsewhere) -> Self {
        Self { elsewhere: Some(elsewhere), ..self }
    }

    /// Drops the entries whose keys lie outside of a range; `inside` holds for one run of neighbours.
    pub(crate) fn trim(&mut self, inside: impl Fn(&[u8]) -> bool) {
        let keys = &self.keys;
        let keep = |place: &Place| inside(&keys[to_usize(&place.key)]);
        let whole = self.entries.first().is_none_or(keep) && self.entries.last().is_none_or(keep);
        if !whole {
            self.entries.retain(keep);
        }
    }

    /// Turns key order into the order of a reverse walk.
    pub(crate) fn reverse(&mut self) {
        self.entries.reverse();
    }
}

/// Collects entries into a [`Chunk`].
#[derive(Debug, Default)]
pub(crate) struct ChunkBuilder {
    keys: Vec<u8>,
    entries: Vec<Place>,
}

/// Room for a key; longer ones only cost a reallocation.
const KEY_BYTES_USUAL: usize = 32;

impl ChunkBuilder {
    /// With room for this many entries.
    pub(crate) fn with_capacity(entries: usize) -> Self {
        Self { keys: Vec::with_capacity(entries * KEY_BYTES_USUAL), entries: Vec::with_capacity(entries) }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.keys.len()
    }

    /// Adds an entry and copies its key and value. For builders that end in [`ChunkBuilder::finish`].
    pub(crate) fn push_owned(&mut self, key: &[u8], seq: SeqNo, kind: Kind, value: &[u8]) {
        let key_start = self.keys.len();
        self.keys.extend_from_slice(key);
        let value_start = self.keys.len();
        self.keys.extend_from_slice(value);
        let place = Place {
            key: key_start as u32..value_start as u32,
            value: value_start as u32..self.keys.len() as u32,
            seq,
            kind,
        };
        self.entries.push(place);
    }

    /// Adds an entry whose key shares its first `shared` bytes with the entry before, and whose value stays where it is.
    /// For builders that end in [`ChunkBuilder::finish_over`]. `None` if the entry before is shorter than that.
    pub(crate) fn push_shared(
        &mut self,
        shared: usize,
        suffix: &[u8],
        seq: SeqNo,
        kind: Kind,
        value: Range<usize>,
    ) -> Option<()> {
        let before = self.entries.last().map_or(0..0, |place| to_usize(&place.key));
        if shared > before.len() {
            return None;
        }
        let start = self.keys.len();
        self.keys.extend_from_within(before.start..before.start + shared);
        self.keys.extend_from_slice(suffix);
        let place = Place {
            key: start as u32..self.keys.len() as u32,
            value: value.start as u32..value.end as u32,
            seq,
            kind,
        };
        self.entries.push(place);
        Some(())
    }

    pub(crate) fn finish(self) -> Chunk {
        let keys = Bytes::from(self.keys);
        Chunk { values: keys.clone(), keys, entries: self.entries, elsewhere: None }
    }

    /// The values are ranges of `values`.
    pub(crate) fn finish_over(self, values: Bytes) -> Chunk {
        Chunk { keys: Bytes::from(self.keys), values, entries: self.entries, elsewhere: None }
    }
}

/// Buffers up to this size are shared, however little of them is wanted, bytes: a walk copies about as much at a time.
const SHARED_BYTES_MAX: usize = 80 << 10;

/// A part of a buffer, shared unless it would keep a large buffer for the sake of less than half of it.
pub(crate) fn part_of(buffer: &Bytes, range: Range<usize>) -> Bytes {
    if buffer.len() > SHARED_BYTES_MAX && range.len() < buffer.len() / 2 {
        return Bytes::copy_from_slice(&buffer[range]);
    }
    buffer.slice(range)
}

fn to_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}
