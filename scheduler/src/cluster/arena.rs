//! Where region records live: an array in chunks, addressed by a 4-byte [`Slot`].
//!
//! Every index of the map holds slots instead of pointers or ids. Chunks are allocated whole and never move, so that
//! growth neither copies a hundred megabytes nor leaves a doubled array half empty.

/// The address of a record; given out again after the record was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u32);

const CHUNK: usize = 256;

/// A slab of records.
#[derive(Clone, Debug)]
pub(crate) struct Arena<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<Slot>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Arena<T> {
    pub(crate) fn insert(&mut self, record: T) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.chunks[slot.0 as usize / CHUNK][slot.0 as usize % CHUNK] = Some(record);
            return slot;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk_index = self.chunks.len() - 1;
        let chunk = &mut self.chunks[chunk_index];
        chunk.push(Some(record));
        let index = chunk_index * CHUNK + chunk.len() - 1;
        Slot(u32::try_from(index).expect("a map holds fewer than 2^32 regions"))
    }

    /// The record at `slot`, which must be occupied.
    pub(crate) fn get(&self, slot: Slot) -> &T {
        let place = &self.chunks[slot.0 as usize / CHUNK][slot.0 as usize % CHUNK];
        place.as_ref().expect("an index never holds a freed slot")
    }

    /// The record at `slot`, which must be occupied.
    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut T {
        let place = &mut self.chunks[slot.0 as usize / CHUNK][slot.0 as usize % CHUNK];
        place.as_mut().expect("an index never holds a freed slot")
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> T {
        let place = &mut self.chunks[slot.0 as usize / CHUNK][slot.0 as usize % CHUNK];
        let record = place.take().expect("an index never holds a freed slot");
        self.free.push(slot);
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;

    #[test]
    fn agrees_with_a_map_under_random_use() {
        let mut rng = Rng::new(1);
        let mut arena = Arena::default();
        let mut model = BTreeMap::new();
        for step in 0..20_000_u64 {
            if model.is_empty() || rng.one_in(2) || step < 2_000 {
                let slot = arena.insert(step);
                assert_eq!(model.insert(slot, step), None, "a live slot was given out twice");
            } else {
                let nth = rng.below(model.len()).expect("not empty");
                let slot = *model.keys().nth(nth).expect("in bounds");
                assert_eq!(Some(arena.remove(slot)), model.remove(&slot));
            }
            if let Some((slot, value)) = model.last_key_value() {
                assert_eq!(arena.get(*slot), value);
            }
        }
    }
}
