//! One family of a memtable: its keys in order and by hash, their versions, its range deletes.
//!
//! Invariants:
//!
//! * A key is in the tree once at most, however often it is written. Tree and hash table lead to the same place in the arena, and
//!   from there a chain leads through the versions ([`super::chain`]). So an overwrite walks down no tree.
//! * A key that is here stays, and so does its newest version until there is a newer one. Whoever walks goes on behind the key
//!   at which the last step ended, whether or not it finds it or its version again.
//! * A key that is not in the tree has nothing but deletes, nothing older lies anywhere below, and the hash table leads to it. A walk
//!   need not know of it: whoever deletes as many keys as it writes, as a queue does, leaves nothing to pass over.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::arena::{self, Arena, KeyPlace, Version};
use super::by_hash::{self, ByHash, Slot};
use super::samples::Samples;
use super::small_key::SmallKey;
use crate::lsm::erased::RangeTombstones;
use crate::lsm::key::{Direction, Kind, SeqNo, in_range};
use crate::lsm::readers::Readers;

/// A key's share of the tree's nodes, which are two thirds full when keys come in no order.
const NODE_SHARE_BYTES: usize = 73;
/// What a key costs beside its own bytes and its versions.
const KEY_OVERHEAD_BYTES: usize = NODE_SHARE_BYTES + by_hash::KEY_BYTES + arena::KEY_OVERHEAD_BYTES;

#[derive(Debug, Default)]
pub(super) struct Family {
    keys: BTreeMap<SmallKey, KeyPlace>,
    by_hash: ByHash,
    arena: Arena,
    erased: RangeTombstones,
    samples: Samples,
    /// Deletes that a walk has to pass over, about: those of keys that were written again count, too.
    deletes: usize,
}

impl Family {
    /// Adds a version that is newer than all before. Returns the memory that it took, bytes; that of versions which no one
    /// reads any more is not given back.
    pub(super) fn put(&mut self, key: &[u8], hash: u64, version: Version<'_>, readers: &Readers) -> usize {
        let bytes = arena::VERSION_OVERHEAD_BYTES + version.value.len();
        let Some(slot) = self.by_hash.get_mut(hash) else {
            return bytes + self.put_new(key, hash, version);
        };
        if self.arena.key(slot.key) == key {
            slot.newest = self.arena.overwrite(slot.key, version, readers);
            let place = slot.key;
            if version.kind != Kind::Delete && !self.arena.is_listed(place) {
                self.arena.set_listed(place, true);
                self.keys.insert(SmallKey::new(key), place);
            }
            return bytes;
        }
        // Another key has this hash, too.
        match self.keys.get(key) {
            Some(place) => {
                self.arena.overwrite(*place, version, readers);
                bytes
            }
            None => bytes + self.put_new(key, hash, version),
        }
    }

    /// Adds a delete, as [`Family::put`] does a value. If no reader sees anything of the key any more and there is
    /// `nothing_older` below, which is asked only then, walks no longer come by it.
    pub(super) fn delete(
        &mut self,
        key: &[u8],
        hash: u64,
        seq: SeqNo,
        readers: &Readers,
        nothing_older: impl FnOnce() -> bool,
    ) -> usize {
        // What is new here may be anywhere below; to ask for that would cost every delete a look-up.
        let known = self.by_hash.get(hash).filter(|slot| self.arena.key(slot.key) == key);
        let bytes = self.put(key, hash, Version { seq, kind: Kind::Delete, value: &[] }, readers);
        let Some(Slot { key: place, .. }) = known else {
            self.deletes += 1;
            return bytes;
        };
        if self.arena.is_listed(place) {
            if self.arena.older(self.arena.newest(place)).is_none() && nothing_older() {
                self.keys.remove(key);
                self.arena.set_listed(place, false);
            } else {
                self.deletes += 1;
            }
        }
        bytes
    }

    /// About how many deletes a walk over everything passes.
    pub(super) fn deletes(&self) -> usize {
        self.deletes
    }

    /// Deletes the versions of `[start, end)` that are older than `seq`. No key is looked at, so it costs the same however many
    /// there are. Returns the memory that all range deletes took before and take now, bytes.
    pub(super) fn erase(
        &mut self,
        start: &[u8],
        end: &[u8],
        seq: SeqNo,
        readers: &Readers,
    ) -> (usize, usize) {
        let before = self.erased.size_bytes();
        self.erased.insert_newest(start, end, seq, readers);
        (before, self.erased.size_bytes())
    }

    /// The version of `key`, which has this `hash`, that a read at `at` sees.
    pub(super) fn version(&self, key: &[u8], hash: u64, at: SeqNo) -> Option<Version<'_>> {
        let slot = self.by_hash.get(hash)?;
        if self.arena.key(slot.key) == key {
            return self.arena.seen(slot.newest, at);
        }
        let place = self.keys.get(key)?;
        self.arena.seen(self.arena.newest(*place), at)
    }

    pub(super) fn erased(&self) -> &RangeTombstones {
        &self.erased
    }

    pub(super) fn samples(&self) -> &Samples {
        &self.samples
    }

    /// The hashes of the keys, in one of [`by_hash::PARTS`] parts.
    pub(super) fn hashes(&self, part: usize) -> impl Iterator<Item = u64> {
        self.by_hash.hashes(part)
    }

    /// Shows the versions of `[start, end)` after `after`, in walking order, as long as `take` wants more.
    ///
    /// Going on inside a chain costs a walk along it, so a chain costs the square of its length once it is longer than what
    /// is taken at a time. It is not: there are rarely that many readers ([`super::chain`]).
    pub(super) fn walk<'a>(
        &'a self,
        direction: Direction,
        range: (&[u8], &[u8]),
        after: Option<(&[u8], SeqNo)>,
        take: impl FnMut(&'a [u8], Version<'a>) -> bool,
    ) {
        match direction {
            Direction::Forward => self.walk_up(range, after, take),
            Direction::Reverse => self.walk_down(range, after, take),
        }
    }

    /// Frees a piece of the arena, a part of the hash table or up to `keys` keys; `false` when nothing is left. Nothing may
    /// be read any more.
    pub(super) fn free_some(&mut self, keys: usize) -> bool {
        if self.arena.free_piece() || self.by_hash.free_part() {
            return true;
        }
        for _ in 0..keys {
            if self.keys.pop_first().is_none() {
                return false;
            }
        }
        true
    }

    /// Returns the memory that the key took, its version left out.
    fn put_new(&mut self, key: &[u8], hash: u64, version: Version<'_>) -> usize {
        let small_key = SmallKey::new(key);
        let bytes = key.len() + small_key.heap_bytes() + KEY_OVERHEAD_BYTES;
        self.samples.count(&small_key, key.len() + version.value.len());
        let (place, newest) = self.arena.push_key(key, version);
        self.by_hash.insert(hash, Slot { key: place, newest });
        self.keys.insert(small_key, place);
        bytes
    }

    fn walk_up<'a>(
        &'a self,
        (start, end): (&[u8], &[u8]),
        mut after: Option<(&[u8], SeqNo)>,
        mut take: impl FnMut(&'a [u8], Version<'a>) -> bool,
    ) {
        let from = after.map_or(start, |(key, _)| key);
        for (key, place) in self.keys.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
            let key = key.as_slice();
            if !in_range(key, start, end) {
                return;
            }
            // Only the first key can be the one where the walk stopped.
            let stopped = after.take().filter(|(stopped, _)| *stopped == key);
            let below = stopped.map_or(SeqNo::MAX, |(_, seq)| seq);
            for version in self.arena.versions(*place).skip_while(|version| version.seq >= below) {
                if !take(key, version) {
                    return;
                }
            }
        }
    }

    fn walk_down<'a>(
        &'a self,
        (start, end): (&[u8], &[u8]),
        mut after: Option<(&[u8], SeqNo)>,
        mut take: impl FnMut(&'a [u8], Version<'a>) -> bool,
    ) {
        let to = match after {
            Some((key, _)) => Bound::Included(key),
            None if end.is_empty() => Bound::Unbounded,
            None => Bound::Excluded(end),
        };
        let mut chain = Vec::new();
        for (key, place) in self.keys.range::<[u8], _>((Bound::Unbounded, to)).rev() {
            let key = key.as_slice();
            if !in_range(key, start, end) {
                return;
            }
            let stopped = after.take().filter(|(stopped, _)| *stopped == key);
            let above = stopped.map_or(SeqNo::default(), |(_, seq)| seq);
            chain.clear();
            chain.extend(self.arena.versions(*place).take_while(|version| version.seq > above));
            for version in chain.iter().rev() {
                if !take(key, *version) {
                    return;
                }
            }
        }
    }
}
