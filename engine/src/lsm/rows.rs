//! Whole rows in memory, within a budget: the value of a key that was read from a cached block is found at once the next
//! time, without a walk through tables, parts and blocks.
//!
//! Invariant: a row that is found here is what the tables say about its key. The tables change what they say only when a
//! memtable reaches them, so the rows of its keys are dropped before that. Until it does, reads find these keys in the
//! memtable and never come here, so none of them returns in between. Hence writes cost nothing here.
//!
//! Rows are looked up by hash and say which key they are. CLOCK decides what stays, as for blocks.

use std::cell::{Cell, RefCell};

use bytes::{BufMut, Bytes};

use super::cache::Clock;
use super::expiry::{TimedValue, UNTIL_BYTES, Until};
use super::key::Cf;

/// Rows of about this size are expected, bytes.
const ROW_BYTES_GUESS: usize = 256;
/// A larger part of the budget is not spent on one row.
const ROW_SHARE: usize = 256;

/// The row cache of one tree.
#[derive(Debug)]
pub(crate) struct RowCache {
    /// By [`name`]. A row is `[epoch u32] [expires u1, family u7] [key bytes u32] [key] [value]`; the value is a dated one if it expires.
    rows: RefCell<Clock<u64>>,
    row_bytes_max: usize,
    /// Rows of earlier epochs do not count any more.
    epoch: Cell<u32>,
    hits: Cell<u64>,
}

const HEADER_BYTES: usize = 9;
/// In the byte of the family: the value expires.
const EXPIRES: u8 = 0x80;

impl RowCache {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Self {
            rows: Clock::new(budget_bytes, budget_bytes / ROW_BYTES_GUESS).into(),
            row_bytes_max: budget_bytes / ROW_SHARE,
            epoch: Cell::new(0),
            hits: Cell::new(0),
        }
    }

    /// The value of `key`, which has this `hash`; it may have expired.
    pub(crate) fn get(&self, cf: Cf, key: &[u8], hash: u64) -> Option<TimedValue> {
        let mut rows = self.rows.borrow_mut();
        let row = rows.get(&name(cf, hash))?;
        let value = key_end(row, self.epoch.get(), cf, key)?;
        self.hits.set(self.hits.get() + 1);
        if row[4] & EXPIRES == 0 {
            return Some(row.slice(value..).into());
        }
        let until = Until(u64::from_le_bytes(*row[value..].first_chunk()?));
        Some(TimedValue { value: row.slice(value + UNTIL_BYTES..), until })
    }

    /// Keeps what the tables have just said.
    pub(crate) fn insert(&self, cf: Cf, key: &[u8], hash: u64, TimedValue { value, until }: &TimedValue) {
        let expires = *until != Until::NEVER;
        let bytes = HEADER_BYTES + key.len() + if expires { UNTIL_BYTES } else { 0 } + value.len();
        if bytes > self.row_bytes_max {
            return;
        }
        let mut row = Vec::with_capacity(bytes);
        row.put_u32_le(self.epoch.get());
        row.put_u8(cf.index() as u8 | if expires { EXPIRES } else { 0 });
        // Not longer than the row, of which the budget is a multiple.
        row.put_u32_le(key.len() as u32);
        row.extend_from_slice(key);
        if expires {
            row.put_u64_le(until.0);
        }
        row.extend_from_slice(value);
        self.rows.borrow_mut().insert(name(cf, hash), Bytes::from(row));
    }

    /// Drops the rows of these hashes: a memtable that has such keys is about to become a table.
    pub(crate) fn forget(&self, cf: Cf, hashes: impl Iterator<Item = u64>) {
        let mut rows = self.rows.borrow_mut();
        hashes.for_each(|hash| rows.remove(&name(cf, hash)));
    }

    /// Drops all rows: a memtable with range deletes is about to become a table. Their memory goes as others need it.
    pub(crate) fn forget_all(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
    }

    /// Bytes held, overhead included.
    pub(crate) fn used_bytes(&self) -> usize {
        self.rows.borrow().used_bytes()
    }

    /// Look-ups answered so far.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.get()
    }
}

fn name(cf: Cf, hash: u64) -> u64 {
    hash.wrapping_add(cf.index() as u64)
}

/// Where the value begins if the row is that of `key`.
fn key_end(row: &[u8], epoch: u32, cf: Cf, key: &[u8]) -> Option<usize> {
    let (header, rest) = row.split_at(HEADER_BYTES);
    let mine = header[..4] == epoch.to_le_bytes()
        && usize::from(header[4] & !EXPIRES) == cf.index()
        && header[5..] == (key.len() as u32).to_le_bytes()
        && rest[..key.len().min(rest.len())] == *key;
    mine.then_some(HEADER_BYTES + key.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsm::key::key_hash;

    fn timed(value: &[u8]) -> TimedValue {
        Bytes::copy_from_slice(value).into()
    }

    #[test]
    fn a_row_is_found_by_its_key_and_family_alone() {
        let rows = RowCache::new(1 << 20);
        rows.insert(Cf::Default, b"key", 7, &timed(b"value"));
        assert_eq!(rows.get(Cf::Default, b"key", 7).unwrap(), timed(b"value"));
        let dated = TimedValue { until: Until(9), ..timed(b"value") };
        rows.insert(Cf::Default, b"dated", 8, &dated);
        assert_eq!(rows.get(Cf::Default, b"dated", 8).unwrap(), dated);
        assert_eq!(rows.get(Cf::Default, b"kez", 7), None, "another key of the same hash");
        assert_eq!(rows.get(Cf::Default, b"ke", 7), None, "a part of the key");
        assert_eq!(rows.get(Cf::Default, b"keyvalue!", 7), None, "longer than the row");
        assert_eq!(rows.get(Cf::Lock, b"key", 6), None, "the same place, another family");
        rows.insert(Cf::Default, b"kez", 7, &timed(b"other"));
        assert_eq!(rows.get(Cf::Default, b"key", 7), None, "the later key of a hash has the place");
        assert_eq!(rows.hits(), 2);
    }

    #[test]
    fn forgotten_rows_are_gone_and_the_others_stay() {
        let rows = RowCache::new(1 << 20);
        let keys: Vec<[u8; 2]> = (0..100u16).map(u16::to_be_bytes).collect();
        let insert = || keys.iter().for_each(|key| rows.insert(Cf::Write, key, key_hash(key), &timed(key)));
        let known = || keys.iter().filter(|key| rows.get(Cf::Write, *key, key_hash(*key)).is_some()).count();
        insert();
        rows.forget(Cf::Write, keys[..40].iter().map(|key| key_hash(key)));
        assert_eq!(known(), 60);
        rows.forget_all();
        assert_eq!(known(), 0);
        insert();
        assert_eq!(known(), 100);
        rows.insert(Cf::Write, b"large", 1, &timed(&[0; (1 << 20) / ROW_SHARE]));
        assert_eq!(rows.get(Cf::Write, b"large", 1), None);
    }
}
