//! Blocks in memory, within a budget.
//!
//! CLOCK: every block has a bit that a hit sets; the hand walks round, clears bits and evicts what was not hit since its last
//! visit. A block comes in with its bit clear, so a scan passes through and leaves the hot blocks alone. Data blocks and parts
//! share the budget. Plain memory of one core: no locks, and never the buffers of direct IO.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;

/// What a slot costs beside its block.
const SLOT_OVERHEAD_BYTES: usize = 96;

/// The block cache of one tree.
#[derive(Debug)]
pub(crate) struct BlockCache {
    budget_bytes: usize,
    clock: RefCell<Clock>,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

#[derive(Debug, Default)]
struct Clock {
    places: HashMap<Key, u32, BuildHasherDefault<Mix>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    hand: usize,
    used_bytes: usize,
}

/// File number and offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key(u64, u64);

#[derive(Debug)]
struct Slot {
    key: Key,
    /// Empty while the slot is free.
    block: Option<Bytes>,
    hit: bool,
}

impl BlockCache {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Self { budget_bytes, clock: RefCell::default(), hits: Cell::new(0), misses: Cell::new(0) }
    }

    /// The block of `file` that begins at `offset`.
    pub(crate) fn get(&self, file: u64, offset: u64) -> Option<Bytes> {
        let mut clock = self.clock.borrow_mut();
        let clock = &mut *clock;
        let Some(&place) = clock.places.get(&Key(file, offset)) else {
            self.misses.set(self.misses.get() + 1);
            return None;
        };
        self.hits.set(self.hits.get() + 1);
        let slot = &mut clock.slots[place as usize];
        slot.hit = true;
        slot.block.clone()
    }

    /// Keeps a block, and lets others go until the budget holds.
    pub(crate) fn insert(&self, file: u64, offset: u64, block: Bytes) {
        let mut clock = self.clock.borrow_mut();
        let key = Key(file, offset);
        if clock.places.contains_key(&key) || cost(&block) > self.budget_bytes {
            return;
        }
        clock.used_bytes += cost(&block);
        while clock.used_bytes > self.budget_bytes {
            clock.evict_one();
        }
        let slot = Slot { key, block: Some(block), hit: false };
        let place = match clock.free.pop() {
            Some(place) => {
                clock.slots[place as usize] = slot;
                place
            }
            None => {
                clock.slots.push(slot);
                u32::try_from(clock.slots.len() - 1).expect("fewer than 2^32 cached blocks")
            }
        };
        clock.places.insert(key, place);
    }

    /// Bytes held, overhead included.
    pub(crate) fn used_bytes(&self) -> usize {
        self.clock.borrow().used_bytes
    }

    /// Look-ups answered and not answered so far.
    pub(crate) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.get(), self.misses.get())
    }
}

impl Clock {
    /// Called only while something is held or about to be: `used_bytes` above the budget.
    fn evict_one(&mut self) {
        // Two rounds suffice: the first clears every bit.
        for _ in 0..2 * self.slots.len() + 1 {
            if self.slots.is_empty() {
                break;
            }
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            if slot.block.is_none() {
                continue;
            }
            if std::mem::take(&mut slot.hit) {
                continue;
            }
            let block = slot.block.take().unwrap_or_default();
            self.used_bytes -= cost(&block);
            self.places.remove(&slot.key);
            self.free.push(self.hand as u32);
            return;
        }
        unreachable!("the budget is exceeded only by blocks that are held");
    }
}

fn cost(block: &Bytes) -> usize {
    block.len() + SLOT_OVERHEAD_BYTES
}

/// Mixes two counters; nobody outside chooses file numbers or offsets.
#[derive(Debug, Default)]
struct Mix(u64);

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
