//! Blocks in memory, within a budget.
//!
//! CLOCK: every block has a bit that a hit sets; the hand walks round, clears bits and evicts what was not hit since its last
//! visit. A block comes in with its bit clear, so a scan passes through and leaves the hot blocks alone. Data blocks and parts
//! share the budget. Plain memory of one core: no locks, and never the buffers of direct IO.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use bytes::Bytes;

/// What a slot costs beside what it holds.
const SLOT_OVERHEAD_BYTES: usize = 96;
/// Whatever else needs its room, one part in this many is left to the cache.
const KEPT_PART: usize = 8;

/// The block cache of one tree.
#[derive(Debug)]
pub(crate) struct BlockCache {
    /// By file number and offset in the file.
    clock: RefCell<Clock<(u64, u64)>>,
    budget_bytes: usize,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

/// Pieces of memory by key, within a budget.
#[derive(Debug)]
pub(crate) struct Clock<K> {
    budget_bytes: usize,
    places: HashMap<K, u32, BuildHasherDefault<Mix>>,
    slots: Vec<Slot<K>>,
    free: Vec<u32>,
    hand: usize,
    used_bytes: usize,
}

#[derive(Debug)]
struct Slot<K> {
    key: K,
    /// Empty while the slot is free.
    piece: Option<Bytes>,
    hit: bool,
}

impl BlockCache {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        let clock = Clock::new(budget_bytes, 0).into();
        Self { clock, budget_bytes, hits: Cell::new(0), misses: Cell::new(0) }
    }

    /// Leaves `bytes` of its budget to others, as far as an eighth stays, and lets blocks go for it.
    pub(crate) fn leave_room(&self, bytes: usize) {
        let kept = self.budget_bytes.saturating_sub(bytes).max(self.budget_bytes / KEPT_PART);
        self.clock.borrow_mut().hold_at_most(kept);
    }

    /// The block of `file` that begins at `offset`.
    pub(crate) fn get(&self, file: u64, offset: u64) -> Option<Bytes> {
        let found = self.clock.borrow_mut().get(&(file, offset)).cloned();
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.set(count.get() + 1);
        found
    }

    /// Keeps a block, and lets others go until the budget holds.
    pub(crate) fn insert(&self, file: u64, offset: u64, block: Bytes) {
        let mut clock = self.clock.borrow_mut();
        if !clock.holds(&(file, offset)) {
            clock.insert((file, offset), block);
        }
    }

    /// Bytes held, overhead included.
    pub(crate) fn used_bytes(&self) -> usize {
        self.clock.borrow().used_bytes()
    }

    /// Look-ups answered and not answered so far.
    pub(crate) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.get(), self.misses.get())
    }
}

impl<K: Copy + Eq + Hash> Clock<K> {
    /// An empty one with room for `expected` pieces before its table has to grow.
    pub(crate) fn new(budget_bytes: usize, expected: usize) -> Self {
        let places = HashMap::with_capacity_and_hasher(expected, BuildHasherDefault::default());
        Self { budget_bytes, places, slots: Vec::new(), free: Vec::new(), hand: 0, used_bytes: 0 }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<&Bytes> {
        let slot = &mut self.slots[*self.places.get(key)? as usize];
        slot.hit = true;
        slot.piece.as_ref()
    }

    pub(crate) fn holds(&self, key: &K) -> bool {
        self.places.contains_key(key)
    }

    /// Keeps a piece in the place of an older one of the same key, and lets others go until the budget holds.
    pub(crate) fn insert(&mut self, key: K, piece: Bytes) {
        self.remove(&key);
        if cost(&piece) > self.budget_bytes {
            return;
        }
        self.used_bytes += cost(&piece);
        self.evict();
        let slot = Slot { key, piece: Some(piece), hit: false };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 cached pieces")
            }
        };
        self.places.insert(key, place);
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(place) = self.places.remove(key) {
            self.empty(place as usize);
        }
    }

    /// Bytes held, overhead included.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Changes the budget, and lets pieces go until it holds.
    pub(crate) fn hold_at_most(&mut self, bytes: usize) {
        self.budget_bytes = bytes;
        self.evict();
    }

    fn evict(&mut self) {
        while self.used_bytes > self.budget_bytes {
            self.evict_one();
        }
    }

    /// Called only while something is held or about to be: `used_bytes` above the budget.
    fn evict_one(&mut self) {
        // Two rounds suffice: the first clears every bit.
        for _ in 0..2 * self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            if slot.piece.is_some() && !std::mem::take(&mut slot.hit) {
                self.places.remove(&slot.key);
                return self.empty(self.hand);
            }
        }
        unreachable!("the budget is exceeded only by pieces that are held");
    }

    fn empty(&mut self, place: usize) {
        if let Some(piece) = self.slots[place].piece.take() {
            self.used_bytes -= cost(&piece);
            self.free.push(place as u32);
        }
    }
}

fn cost(piece: &Bytes) -> usize {
    piece.len() + SLOT_OVERHEAD_BYTES
}

/// Mixes numbers that no client chooses: of files, offsets, hashes.
#[derive(Debug, Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(len: usize) -> Bytes {
        Bytes::from(vec![1; len])
    }

    #[test]
    fn the_budget_holds_and_what_is_hit_stays() {
        let cache = BlockCache::new(10 * (1000 + SLOT_OVERHEAD_BYTES));
        cache.insert(1, 0, block(1000));
        for offset in 1..500u64 {
            assert!(cache.get(1, 0).is_some(), "evicted after {offset}");
            cache.insert(1, offset, block(1000));
            assert!(cache.used_bytes() <= 10 * (1000 + SLOT_OVERHEAD_BYTES));
        }
        assert!(cache.get(1, 1).is_none());
        assert!(cache.get(2, 0).is_none());
    }

    #[test]
    fn room_is_left_and_taken_back() {
        let cache = BlockCache::new(64 << 10);
        let fill = |cache: &BlockCache| (0..100u64).for_each(|offset| cache.insert(1, offset, block(1000)));
        for (left, held) in [(0, 64 << 10), (48 << 10, 16 << 10), (1 << 30, 8 << 10), (0, 64 << 10)] {
            cache.leave_room(left);
            assert!(cache.used_bytes() <= held, "{left} bytes are left to others at once");
            fill(&cache);
            let used = held - 2 * (1000 + SLOT_OVERHEAD_BYTES)..=held;
            assert!(used.contains(&cache.used_bytes()), "{left}: {}", cache.used_bytes());
        }
    }

    #[test]
    fn a_block_larger_than_the_budget_is_not_kept() {
        let cache = BlockCache::new(500);
        cache.insert(1, 0, block(1000));
        assert!(cache.get(1, 0).is_none());
        assert_eq!(cache.used_bytes(), 0);
        assert_eq!(cache.hits_and_misses(), (0, 1));
    }

    #[test]
    fn every_block_is_found_again_while_there_is_room() {
        let cache = BlockCache::new(1 << 20);
        for file in 0..20u64 {
            for offset in 0..20u64 {
                cache.insert(file, offset * 4096, Bytes::from(vec![file as u8, offset as u8]));
            }
        }
        for file in 0..20u64 {
            for offset in 0..20u64 {
                assert_eq!(cache.get(file, offset * 4096).unwrap(), vec![file as u8, offset as u8]);
            }
        }
    }
}
