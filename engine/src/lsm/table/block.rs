//! Sorted entries with shared prefixes: the inside of a data block and of every index.
//!
//! ```text
//! block   := entry* restart* count
//! entry   := shared:varint suffix_len:varint tag:varint value_len:varint suffix value
//! tag     := seq << 1 | kind          kind: 1 put, 0 delete; a delete that has a value is a put that expires, and what it has is
//!                                     a dated value (see `expiry`), of eight bytes at least
//! restart := u32 LE                   offset of an entry with shared = 0; the first is 0
//! count   := u32 LE                   number of restarts, at least 1 in a block with entries
//! ```
//!
//! `shared` is how many bytes an entry's key has in common with the key before it; at a restart it is 0, so a search can
//! begin there. All versions of a key lie in one block, newest first.
//!
//! A decoder never trusts a block: whatever the bytes say, it answers [`Damage`] or some entries, and never panics.

use std::cmp::Ordering;
use std::ops::Range;

use bytes::Bytes;

use super::Damage;
use crate::lsm::chunk::{Chunk, ChunkBuilder};
use crate::lsm::expiry::{UNTIL_BYTES, without_value};
use crate::lsm::key::{Kind, SeqNo, entry_order};

/// Entries between two restarts.
const RESTART_EVERY: usize = 16;

/// Builds one block.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    last_key: Vec<u8>,
    since_restart: usize,
    entries: usize,
}

impl BlockBuilder {
    /// Adds an entry; entries arrive in order.
    pub(crate) fn add(&mut self, key: &[u8], seq: SeqNo, kind: Kind, value: &[u8]) {
        let shared = if self.entries == 0 || self.since_restart == RESTART_EVERY {
            self.restarts.push(self.bytes.len() as u32);
            self.since_restart = 0;
            0
        } else {
            common_prefix(&self.last_key, key)
        };
        put_varint(&mut self.bytes, shared as u64);
        put_varint(&mut self.bytes, (key.len() - shared) as u64);
        debug_assert!(kind != Kind::Delete || value.is_empty(), "a delete has no value");
        debug_assert!(kind != Kind::PutUntil || value.len() >= UNTIL_BYTES, "what expires says when");
        put_varint(&mut self.bytes, seq.0 << 1 | u64::from(kind == Kind::Put));
        put_varint(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(&key[shared..]);
        self.bytes.extend_from_slice(value);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.since_restart += 1;
        self.entries += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// Size if finished now, bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes.len() + 4 * self.restarts.len() + 4
    }

    /// Key of the entry added last.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// The whole block, where its entries lie already: of a large value there is no second copy. [`BlockBuilder::clear`] starts anew.
    pub(crate) fn finish(&mut self) -> &[u8] {
        for restart in &self.restarts {
            self.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        self.bytes.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        &self.bytes
    }

    /// Starts anew.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.restarts.clear();
        self.last_key.clear();
        self.since_restart = 0;
        self.entries = 0;
    }
}

/// A block, read in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockView<'a> {
    entries: &'a [u8],
    restarts: &'a [u8],
}

/// Where a search ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Landing {
    /// Whether the entry has the key that was asked for.
    pub(crate) same_key: bool,
    pub(crate) seq: SeqNo,
    pub(crate) kind: Kind,
    /// Bytes of the block.
    pub(crate) value: Range<usize>,
}

struct RawEntry<'a> {
    shared: usize,
    suffix: &'a [u8],
    seq: SeqNo,
    kind: Kind,
    value: Range<usize>,
    next: usize,
}

impl<'a> BlockView<'a> {
    pub(crate) fn parse(block: &'a [u8]) -> Result<Self, Damage> {
        let (rest, count) = block.split_last_chunk::<4>().ok_or(Damage("a block without a restart count"))?;
        let restart_bytes = u32::from_le_bytes(*count) as usize * 4;
        let entries_len =
            rest.len().checked_sub(restart_bytes).ok_or(Damage("more restarts than the block can hold"))?;
        let (entries, restarts) = rest.split_at(entries_len);
        if restarts.is_empty() && !entries.is_empty() {
            return Err(Damage("entries without a restart"));
        }
        Ok(Self { entries, restarts })
    }

    /// Number of restart intervals.
    pub(crate) fn intervals(&self) -> usize {
        self.restarts.len() / 4
    }

    /// The first entry at or after `(key, at)`, or `None` if all lie before.
    pub(crate) fn seek(&self, key: &[u8], at: SeqNo) -> Result<Option<Landing>, Damage> {
        let mut offset = self.restart(self.last_interval_before(key, at)?)?;
        // How many bytes the entry before has in common with `key`; it is known to lie before `(key, at)`.
        let mut matched = 0;
        while offset < self.entries.len() {
            let entry = self.entry(offset)?;
            match place_of(&entry, key, at, matched) {
                Place::Before(now_matched) => matched = now_matched,
                Place::AtOrAfter { same_key } => {
                    let RawEntry { seq, kind, value, .. } = entry;
                    return Ok(Some(Landing { same_key, seq, kind, value }));
                }
            }
            offset = entry.next;
        }
        Ok(None)
    }

    /// The last interval whose first entry lies before `(key, at)`; the first one if none does.
    pub(crate) fn last_interval_before(&self, key: &[u8], at: SeqNo) -> Result<usize, Damage> {
        let (mut low, mut high) = (0, self.intervals());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let entry = self.entry(self.restart(middle)?)?;
            if entry_order((entry.suffix, entry.seq), (key, at)) == Ordering::Less {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Decodes interval `interval`; `block` is the buffer behind this view.
    pub(crate) fn decode(&self, interval: usize, block: &Bytes) -> Result<Chunk, Damage> {
        let mut offset = self.restart(interval)?;
        let end =
            if interval + 1 < self.intervals() { self.restart(interval + 1)? } else { self.entries.len() };
        let mut chunk = ChunkBuilder::with_capacity(RESTART_EVERY);
        while offset < end {
            let entry = self.entry(offset)?;
            chunk
                .push_shared(entry.shared, entry.suffix, entry.seq, entry.kind, entry.value)
                .ok_or(Damage("an entry shares more bytes than the key before it has"))?;
            offset = entry.next;
        }
        Ok(chunk.finish_over(block.clone()))
    }

    fn restart(&self, interval: usize) -> Result<usize, Damage> {
        let Some(bytes) = self.restarts.get(4 * interval..4 * interval + 4) else { return Ok(0) };
        let offset = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if offset >= self.entries.len() {
            return Err(Damage("a restart beyond the entries"));
        }
        Ok(offset)
    }

    fn entry(&self, offset: usize) -> Result<RawEntry<'a>, Damage> {
        self.try_entry(offset).ok_or(Damage("an entry that runs out of its block"))
    }

    fn try_entry(&self, offset: usize) -> Option<RawEntry<'a>> {
        let mut rest = self.entries.get(offset..)?;
        let shared = usize::try_from(take_varint(&mut rest)?).ok()?;
        let suffix_len = usize::try_from(take_varint(&mut rest)?).ok()?;
        let tag = take_varint(&mut rest)?;
        let value_len = usize::try_from(take_varint(&mut rest)?).ok()?;
        let suffix_start = self.entries.len() - rest.len();
        let value_start = suffix_start.checked_add(suffix_len)?;
        let next = value_start.checked_add(value_len)?;
        let suffix = self.entries.get(suffix_start..value_start)?;
        self.entries.get(value_start..next)?;
        let kind = match (tag & 1, value_len) {
            (1, _) => Kind::Put,
            (_, 0) => Kind::Delete,
            (_, 1..UNTIL_BYTES) => return None,
            (..) => Kind::PutUntil,
        };
        Some(RawEntry { shared, suffix, seq: SeqNo(tag >> 1), kind, value: value_start..next, next })
    }
}

/// The same block without its values; of those that expire the moments stay.
pub(crate) fn without_values(block: &Bytes) -> Result<Bytes, Damage> {
    let view = BlockView::parse(block)?;
    let mut builder = BlockBuilder::default();
    for interval in 0..view.intervals() {
        let chunk = view.decode(interval, block)?;
        for entry in (0..chunk.len()).filter_map(|at| chunk.get(at)) {
            builder.add(entry.key, entry.seq, entry.kind, without_value(entry.kind, entry.value));
        }
    }
    Ok(Bytes::copy_from_slice(builder.finish()))
}

enum Place {
    /// The entry lies before the target, sharing this many bytes with its key.
    Before(usize),
    AtOrAfter {
        same_key: bool,
    },
}

/// Places an entry against `(key, at)` without rebuilding its key: what it shares with its predecessor, and what the
/// predecessor shares with the target, decide most cases.
fn place_of(entry: &RawEntry<'_>, key: &[u8], at: SeqNo, matched: usize) -> Place {
    // At a restart an entry shares nothing whatever its predecessor was, so only its own bytes count.
    let matched = if entry.shared == 0 { 0 } else { matched };
    match entry.shared.cmp(&matched) {
        // It differs from the target where its predecessor did.
        Ordering::Greater => Place::Before(matched),
        // It left the common prefix at a byte where the predecessor still agreed with the target, so it is above.
        Ordering::Less => Place::AtOrAfter { same_key: false },
        Ordering::Equal => {
            let rest = &key[matched.min(key.len())..];
            let common = common_prefix(entry.suffix, rest);
            match (entry.suffix.get(common), rest.get(common)) {
                (None, None) if entry.seq <= at => Place::AtOrAfter { same_key: true },
                (None, _) => Place::Before(matched + common),
                (Some(_), None) => Place::AtOrAfter { same_key: false },
                (Some(mine), Some(wanted)) if mine < wanted => Place::Before(matched + common),
                (Some(_), Some(_)) => Place::AtOrAfter { same_key: false },
            }
        }
    }
}

pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let mut common = 0;
    while let (Some(mine), Some(yours)) = (a[common..].first_chunk(), b[common..].first_chunk()) {
        let differing = u64::from_le_bytes(*mine) ^ u64::from_le_bytes(*yours);
        if differing != 0 {
            return common + differing.trailing_zeros() as usize / 8;
        }
        common += 8;
    }
    common + a[common..].iter().zip(&b[common..]).take_while(|(a, b)| a == b).count()
}

/// Seven bits per byte, lowest first.
pub(crate) fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

#[inline]
pub(crate) fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = from.split_first()?;
    if first < 0x80 {
        *from = rest;
        return Some(u64::from(first));
    }
    take_long_varint(from)
}

/// More than one byte; sequence numbers are such, so this is no rare case.
fn take_long_varint(from: &mut &[u8]) -> Option<u64> {
    if let Some(word) = from.first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        // The first byte without its high bit is the last one; what follows it is cut off.
        let end = !word & 0x8080_8080_8080_8080;
        if end != 0 {
            let len = end.trailing_zeros() / 8 + 1;
            let sevens = word & (u64::MAX >> (64 - 8 * len)) & 0x7F7F_7F7F_7F7F_7F7F;
            // Groups of seven bits move together: pairs, then fours, then all eight.
            let pairs = sevens & 0x007F_007F_007F_007F | (sevens & 0x7F00_7F00_7F00_7F00) >> 1;
            let fours = pairs & 0x0000_3FFF_0000_3FFF | (pairs & 0x3FFF_0000_3FFF_0000) >> 2;
            *from = &from[len as usize..];
            return Some(fours & 0x0FFF_FFFF | (fours & 0x0FFF_FFFF_0000_0000) >> 4);
        }
    }
    let mut value = 0u64;
    for (place, &byte) in from.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7F).checked_shl(7 * place as u32)?;
        if byte < 0x80 {
            *from = &from[place + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
