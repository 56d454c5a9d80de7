//! The keys of a memtable by their hashes: where what most reads ask for is, without a walk down the tree, and "not here"
//! without one too. An overwrite finds its key here as well, so only new keys walk down the tree.
//!
//! Two keys may share a hash; then the later one has the slot. So whoever finds a key compares it, and who looked for
//! another one goes to the tree.
//!
//! Invariants:
//!
//! * The hash of every key is here, so a hash that is not is that of a new key.
//! * A slot says the same as the arena about which version of its key is the newest. It says it once more because then a
//!   look-up waits for key and version at the same time and not one after the other.
//!
//! The table is cut into parts that grow one by one, because growing a whole one would hold the core for many milliseconds.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::arena::{KeyPlace, VersionPlace};

/// Parts; with a million keys each of them holds sixteen thousand and grows in a quarter of a millisecond.
pub(super) const PARTS: usize = 64;
/// What a key costs here: hash, slot and control byte at the table's usual fill.
pub(super) const KEY_BYTES: usize = 26;

type Part = HashMap<u64, Slot, BuildHasherDefault<AsItIs>>;

/// Hash to place.
#[derive(Debug)]
pub(super) struct ByHash {
    parts: Vec<Part>,
}

/// Where a key lies, and where its newest version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) key: KeyPlace,
    pub(super) newest: VersionPlace,
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Default for ByHash {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Part::default()).collect() }
    }
}

impl ByHash {
    /// The last new key with this hash.
    pub(super) fn get(&self, hash: u64) -> Option<Slot> {
        self.parts[part(hash)].get(&hash).copied()
    }

    /// As [`ByHash::get`], for an overwrite.
    pub(super) fn get_mut(&mut self, hash: u64) -> Option<&mut Slot> {
        self.parts[part(hash)].get_mut(&hash)
    }

    /// The hashes in one of the [`PARTS`].
    pub(super) fn hashes(&self, part: usize) -> impl Iterator<Item = u64> {
        self.parts[part].keys().copied()
    }

    /// A new key.
    pub(super) fn insert(&mut self, hash: u64, slot: Slot) {
        self.parts[part(hash)].insert(hash, slot);
    }

    /// Gives one part back; `false` when there is none left. Nothing may be asked for any more.
    pub(super) fn free_part(&mut self) -> bool {
        self.parts.pop().is_some()
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
