//! Which short values `APPEND`, `SETRANGE` and `SETBIT` have made, for `OBJECT ENCODING` and for nothing else.
//!
//! Redis remembers of a value how it came to be: one that was edited in place is `raw`, however it looks. The store keeps bytes alone, so
//! the node remembers a fingerprint of the latest such keys and values, all cores together and until it ends, where Redis forgets it,
//! too. Only they write here and only `OBJECT ENCODING` looks: nothing else pays for it.
//!
//! Bounds: [`PLACES`] fingerprints; a key that falls on the place of another takes it. What is forgotten, or was appended to over another
//! node, is answered as if it had been set. A key that is set to the very value that an append had made counts as appended to.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;

const PLACES: usize = 4096;
/// Longer values are `raw` however they came to be.
const VALUE_BYTES_MAX: usize = 44;
/// Nothing has this fingerprint.
const NONE: u64 = 0;

/// What is remembered. Clones share it.
#[derive(Clone, Debug)]
pub struct Appended(Arc<[AtomicU64]>);

impl Default for Appended {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(NONE)).collect())
    }
}

/// What stands for a key here.
pub fn key_hash(key: &[u8]) -> u32 {
    (FixedState::with_seed(0).hash_one(key) >> 32) as u32
}

fn fingerprint(key_hash: u32, value: &[u8]) -> u64 {
    FixedState::with_seed(key_hash.into()).hash_one(value) | 1
}

/// Whether a value is short enough for its origin to matter.
pub fn is_short(value: &[u8]) -> bool {
    value.len() <= VALUE_BYTES_MAX
}

impl Appended {
    /// `value` came to be by appending to what `key` had.
    pub fn note(&self, key: &[u8], value: &[u8]) {
        if is_short(value) {
            let hash = key_hash(key);
            self.place(hash).store(fingerprint(hash, value), Ordering::Relaxed);
        }
    }

    /// Whether the value of the key with this hash came to be so, as far as that is remembered.
    pub fn has(&self, key_hash: u32, value: &[u8]) -> bool {
        self.place(key_hash).load(Ordering::Relaxed) == fingerprint(key_hash, value)
    }

    fn place(&self, key_hash: u32) -> &AtomicU64 {
        &self.0[key_hash as usize % PLACES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_known_until_another_takes_its_place() {
        let appended = Appended::default();
        let shared = appended.clone();
        appended.note(b"a", b"12");
        assert!(shared.has(key_hash(b"a"), b"12"));
        assert!(!shared.has(key_hash(b"a"), b"13") && !shared.has(key_hash(b"b"), b"12"));
        appended.note(b"a", b"123");
        assert!(!shared.has(key_hash(b"a"), b"12") && shared.has(key_hash(b"a"), b"123"));
        (0..100 * PLACES as u64).for_each(|key| appended.note(&key.to_le_bytes(), b"x"));
        assert!(!shared.has(key_hash(b"a"), b"123"), "it is bounded");
    }
}
