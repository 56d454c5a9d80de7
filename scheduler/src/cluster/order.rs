//! Regions by key: slots sorted by the start key of the region they point at.
//!
//! A sorted array in chunks, 4 bytes a region plus slack. It holds no keys, so each operation is handed a way to read
//! one (`key_of`). Against a B-tree with copied keys it saves about 50 bytes a region, and since a chunk knows its
//! length, drawing a random region of a range is one pass over chunk lengths.
//!
//! Invariants: no chunk is empty; none is longer than [`CHUNK_MAX`]; start keys rise strictly over all chunks.

use super::arena::Slot;

const CHUNK_MAX: usize = 512;

/// A position in the order; valid until the next insertion or removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cursor {
    chunk: usize,
    index: usize,
}

/// The sorted slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    chunks: Vec<Vec<Slot>>,
}

impl Order {
    /// The last region whose start key is at or before `key`.
    pub(crate) fn floor<'a>(&self, key: &[u8], key_of: impl Fn(Slot) -> &'a [u8]) -> Option<Cursor> {
        let after = self.chunks.partition_point(|chunk| key_of(chunk[0]) <= key);
        let chunk = after.checked_sub(1)?;
        let after = self.chunks[chunk].partition_point(|slot| key_of(*slot) <= key);
        Some(Cursor { chunk, index: after - 1 })
    }

    /// The first region, if there is one.
    pub(crate) fn first(&self) -> Option<Cursor> {
        (!self.chunks.is_empty()).then_some(Cursor { chunk: 0, index: 0 })
    }

    pub(crate) fn slot(&self, at: Cursor) -> Slot {
        self.chunks[at.chunk][at.index]
    }

    pub(crate) fn next(&self, at: Cursor) -> Option<Cursor> {
        if at.index + 1 < self.chunks[at.chunk].len() {
            return Some(Cursor { index: at.index + 1, ..at });
        }
        (at.chunk + 1 < self.chunks.len()).then_some(Cursor { chunk: at.chunk + 1, index: 0 })
    }

    pub(crate) fn previous(&self, at: Cursor) -> Option<Cursor> {
        if at.index > 0 {
            return Some(Cursor { index: at.index - 1, ..at });
        }
        let chunk = at.chunk.checked_sub(1)?;
        Some(Cursor { chunk, index: self.chunks[chunk].len() - 1 })
    }

    /// Slots from `at` on, in order.
    pub(crate) fn iter_from(&self, at: Option<Cursor>) -> impl Iterator<Item = Slot> {
        let Cursor { chunk, index } = at.unwrap_or(Cursor { chunk: self.chunks.len(), index: 0 });
        let first = self.chunks.get(chunk).map_or(&[][..], |slots| &slots[index..]);
        let rest = self.chunks.get(chunk + 1..).unwrap_or(&[]);
        first.iter().chain(rest.iter().flatten()).copied()
    }

    /// How many regions lie from `from` up to and including `to`.
    pub(crate) fn count(&self, from: Cursor, to: Cursor) -> usize {
        if from > to {
            return 0;
        }
        let whole: usize = self.chunks[from.chunk..to.chunk].iter().map(Vec::len).sum();
        whole + to.index + 1 - from.index
    }

    /// The position `steps` after `from`.
    pub(crate) fn advance(&self, from: Cursor, steps: usize) -> Option<Cursor> {
        let mut index = from.index + steps;
        for (chunk, slots) in self.chunks.iter().enumerate().skip(from.chunk) {
            if index < slots.len() {
                return Some(Cursor { chunk, index });
            }
            index -= slots.len();
        }
        None
    }

    /// Adds a slot whose start key no other slot has.
    pub(crate) fn insert<'a>(&mut self, slot: Slot, key_of: impl Fn(Slot) -> &'a [u8]) {
        let key = key_of(slot);
        let Some(at) = self.floor(key, &key_of) else {
            match self.chunks.first_mut() {
                Some(first) if first.len() < CHUNK_MAX => first.insert(0, slot),
                _ => self.chunks.insert(0, vec![slot]),
            }
            return;
        };
        debug_assert!(key_of(self.slot(at)) < key, "two regions start at the same key");
        let is_last_chunk = at.chunk + 1 == self.chunks.len();
        let chunk = &mut self.chunks[at.chunk];
        let place = at.index + 1;
        if chunk.len() < CHUNK_MAX {
            chunk.insert(place, slot);
        } else if is_last_chunk && place == chunk.len() {
            // Loading in key order fills chunks to the brim instead of leaving each half empty.
            self.chunks.push(vec![slot]);
        } else {
            let mut upper = chunk.split_off(CHUNK_MAX / 2);
            match place.checked_sub(CHUNK_MAX / 2) {
                Some(place) if place > 0 => upper.insert(place, slot),
                _ => chunk.insert(place, slot),
            }
            // Without this the lower half would keep room for twice its contents.
            chunk.shrink_to(CHUNK_MAX * 5 / 8);
            self.chunks.insert(at.chunk + 1, upper);
        }
    }

    /// Removes the slot at `at`, joining chunks that have become small.
    pub(crate) fn remove(&mut self, at: Cursor) -> Slot {
        let slot = self.chunks[at.chunk].remove(at.index);
        let len = self.chunks[at.chunk].len();
        if len == 0 {
            self.chunks.remove(at.chunk);
        } else if let Some(next) = self.chunks.get(at.chunk + 1)
            && len + next.len() <= CHUNK_MAX / 2
        {
            let next = self.chunks.remove(at.chunk + 1);
            self.chunks[at.chunk].extend(next);
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::Arena;
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;

    #[test]
    fn agrees_with_a_btree_under_random_use() {
        for seed in 0..8 {
            let mut rng = Rng::new(seed);
            let mut arena: Arena<[u8; 2]> = Arena::default();
            let mut order = Order::default();
            let mut model: BTreeMap<[u8; 2], Slot> = BTreeMap::new();
            for step in 0..12_000 {
                let draw = if seed == 0 { step as u64 } else { rng.next() };
                let key = (draw as u16 & 0x1fff).to_be_bytes();
                let at = order.floor(&key, |slot| arena.get(slot));
                let expected = model.range(..=key).next_back();
                assert_eq!(at.map(|at| order.slot(at)), expected.map(|(_, slot)| *slot));
                if let Some(at) = at {
                    let below = order.previous(at).map(|at| *arena.get(order.slot(at)));
                    let above = order.next(at).map(|at| *arena.get(order.slot(at)));
                    let found = *arena.get(order.slot(at));
                    assert_eq!(below, model.range(..found).next_back().map(|(key, _)| *key));
                    assert_eq!(above, model.range(found..).nth(1).map(|(key, _)| *key));
                }
                match expected {
                    Some((found, _)) if *found == key => {
                        if rng.one_in(2) || seed == 0 {
                            assert_eq!(Some(order.remove(at.expect("found"))), model.remove(&key));
                        }
                    }
                    _ => {
                        let slot = arena.insert(key);
                        order.insert(slot, |slot| arena.get(slot));
                        model.insert(key, slot);
                    }
                }
            }
            let all: Vec<Slot> = order.iter_from(order.first()).collect();
            assert_eq!(all, model.values().copied().collect::<Vec<_>>());
            let first = order.first().expect("not empty");
            for steps in [0, 1, 511, 512, 1000, all.len() - 1] {
                let at = order.advance(first, steps);
                assert_eq!(at.map(|at| order.slot(at)), all.get(steps).copied());
                assert!(at.is_none_or(|at| order.count(first, at) == steps + 1));
            }
            assert_eq!(order.advance(first, all.len()), None);
            assert!(order.chunks.iter().all(|chunk| (1..=CHUNK_MAX).contains(&chunk.len())));
        }
    }
}
