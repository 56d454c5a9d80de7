//! The newest version of every key of a memtable by the key's hash: what most reads ask for, without a walk down the tree,
//! and "not here" without one too.
//!
//! Two keys may share a hash; then the later one has the place. So what is found says which key it is, and who looked for
//! another one goes to the tree.
//!
//! The table is cut into parts that grow one by one, because growing a whole one would hold the core for many milliseconds.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::arena::Place;

/// Parts; with a million keys each of them holds sixteen thousand and grows in a quarter of a millisecond.
pub(super) const PARTS: usize = 64;
/// What a key costs here: hash, place and control byte at the table's usual fill.
pub(super) const KEY_BYTES: usize = 26;

type Part = HashMap<u64, Place, BuildHasherDefault<AsItIs>>;

/// Hash to place.
#[derive(Debug)]
pub(super) struct Newest {
    parts: Vec<Part>,
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Default for Newest {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Part::default()).collect() }
    }
}

impl Newest {
    /// Where the newest version of a key with this hash lies.
    pub(super) fn get(&self, hash: u64) -> Option<Place> {
        self.parts[part(hash)].get(&hash).copied()
    }

    /// The hashes in one of the [`PARTS`].
    pub(super) fn hashes(&self, part: usize) -> impl Iterator<Item = u64> {
        self.parts[part].keys().copied()
    }

    /// A newer version.
    pub(super) fn set(&mut self, hash: u64, place: Place) {
        self.parts[part(hash)].insert(hash, place);
    }
}

/// From bits in the middle: a part tells its keys apart by the lowest and the highest ones.
fn part(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only whole hashes are looked up");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
