//! A heap of deadlines in which every entry knows its place.
//!
//! The runtime's own timers are searched in every pass of the reactor, and one that is polled again is entered again. Deadlines
//! here cost nothing until they are the next one: finding the earliest is a look at the top, and entering, taking out and
//! expiring one are a walk along one branch. Most deadlines are never reached (a request is answered, a connection speaks), so
//! taking one out removes it at once: nothing that was cancelled is kept.
//!
//! Invariants: no entry is due before its parent; an entry's slot holds its place in the heap; of equal deadlines the one that was
//! entered first expires first; a key of an entry that has left never touches another one.

use std::task::Waker;

use crate::rt::Mono;

/// The entries that wait, earliest on top.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: Vec<Entry>,
    slots: Vec<Slot>,
    /// Slots that hold nothing.
    free: Vec<u32>,
    /// How many have ever been entered.
    entered: u64,
}

/// An entry, for as long as it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    slot: u32,
    number: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Mono,
    number: u64,
    slot: u32,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    place: usize,
    waker: Option<Waker>,
}

impl Entry {
    fn is_before(&self, other: &Self) -> bool {
        (self.at, self.number) < (other.at, other.number)
    }
}

impl Deadlines {
    /// Enters a deadline; `waker` is woken when it has expired.
    pub(super) fn enter(&mut self, at: Mono, waker: Waker) -> Key {
        let number = self.entered;
        self.entered += 1;
        let place = self.heap.len();
        let slot = Slot { number, place, waker: Some(waker) };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer than 4 billion tasks wait at one time")
            }
        };
        self.heap.push(Entry { at, number, slot: index });
        self.rise(place);
        Key { slot: index, number }
    }

    /// Whether the entry still waits; if so, `waker` is the one that it wakes from now on.
    pub(super) fn renew(&mut self, key: Key, waker: &Waker) -> bool {
        let Some(slot) = self.slots.get_mut(key.slot as usize).filter(|slot| slot.number == key.number)
        else {
            return false;
        };
        match &mut slot.waker {
            Some(known) => {
                known.clone_from(waker);
                true
            }
            None => false,
        }
    }

    /// Takes an entry out, if it still waits.
    pub(super) fn leave(&mut self, key: Key) -> Option<Waker> {
        let slot = self.slots.get(key.slot as usize).filter(|slot| slot.number == key.number)?;
        slot.waker.as_ref()?;
        Some(self.remove(slot.place))
    }

    /// When the next entry expires.
    pub(super) fn earliest(&self) -> Option<Mono> {
        self.heap.first().map(|entry| entry.at)
    }

    /// The waker of the earliest entry, if that has expired by `now`.
    pub(super) fn expire(&mut self, now: Mono) -> Option<Waker> {
        (self.earliest()? <= now).then(|| self.remove(0))
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    fn remove(&mut self, place: usize) -> Waker {
        let entry = self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.slots[self.heap[place].slot as usize].place = place;
            let place = self.rise(place);
            self.sink(place);
        }
        self.free.push(entry.slot);
        self.shrink();
        let slot = self.slots.get_mut(entry.slot as usize).expect("a slot with a waker is not cut off");
        slot.waker.take().expect("an entry of the heap has a waker")
    }

    /// Gives memory back after a rush, once nothing waits any more.
    fn shrink(&mut self) {
        const KEPT: usize = 1024;
        if self.heap.is_empty() && self.heap.capacity() > KEPT {
            self.heap.shrink_to(KEPT);
        }
    }

    /// Moves the entry at `place` up to where it belongs; its new place.
    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.heap[place].is_before(&self.heap[parent]) {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
        place
    }

    /// Moves the entry at `place` down to where it belongs.
    fn sink(&mut self, mut place: usize) {
        loop {
            let left = 2 * place + 1;
            let Some(first) = self.heap.get(left) else { return };
            let right_is_first = self.heap.get(left + 1).is_some_and(|right| right.is_before(first));
            let child = left + usize::from(right_is_first);
            if !self.heap[child].is_before(&self.heap[place]) {
                return;
            }
            self.swap(place, child);
            place = child;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.slots[self.heap[one].slot as usize].place = one;
        self.slots[self.heap[other].slot as usize].place = other;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::rt::rng::Rng;

    /// Says which entry was woken.
    struct Tell {
        name: u64,
        to: Arc<AtomicU64>,
    }

    impl Wake for Tell {
        fn wake(self: Arc<Self>) {
            self.to.store(self.name, Ordering::Relaxed);
        }
    }

    /// Random entries, renewals, cancellations and moments, beside a sorted map that does the same.
    #[test]
    fn the_heap_does_what_a_sorted_map_does() {
        for seed in 0..200 {
            let rng = Rng::new(seed);
            let woken = Arc::new(AtomicU64::new(u64::MAX));
            let waker = |name| Waker::from(Arc::new(Tell { name, to: woken.clone() }));
            let mut deadlines = Deadlines::default();
            // By deadline and order of entry; and every key ever given, expired and cancelled ones, too.
            let mut model: BTreeMap<(Mono, u64), (Key, u64)> = BTreeMap::new();
            let mut keys: Vec<(Mono, u64, Key)> = Vec::new();
            let (mut now, mut names) = (0, 0);
            for _ in 0..400 {
                match rng.below(10) {
                    0..=4 => {
                        let at = Mono(now + rng.below(50));
                        let key = deadlines.enter(at, waker(names));
                        model.insert((at, names), (key, names));
                        keys.push((at, names, key));
                        names += 1;
                    }
                    5..=6 if !keys.is_empty() => {
                        let (at, number, key) = keys[rng.below(keys.len() as u64) as usize];
                        let waited = model.remove(&(at, number)).is_some();
                        assert_eq!(deadlines.leave(key).is_some(), waited, "seed {seed}");
                        assert!(deadlines.leave(key).is_none(), "seed {seed}");
                    }
                    7 if !keys.is_empty() => {
                        let (at, number, key) = keys[rng.below(keys.len() as u64) as usize];
                        let renewed = deadlines.renew(key, &waker(names));
                        let known = model.get_mut(&(at, number));
                        assert_eq!(renewed, known.is_some(), "seed {seed}");
                        known.into_iter().for_each(|(_, name)| *name = names);
                        names += 1;
                    }
                    _ => {
                        now += rng.below(20);
                        while let Some(expired) = deadlines.expire(Mono(now)) {
                            let ((at, _), (_, name)) = model.pop_first().expect("the model has it, too");
                            assert!(at <= Mono(now), "seed {seed}");
                            expired.wake();
                            assert_eq!(woken.load(Ordering::Relaxed), name, "seed {seed}");
                        }
                    }
                }
                assert_eq!(deadlines.earliest(), model.keys().next().map(|(at, _)| *at), "seed {seed}");
                assert_eq!(deadlines.len(), model.len(), "seed {seed}: what was cancelled is not kept");
                assert!(
                    deadlines.slots.len() <= names as usize && deadlines.free.len() <= deadlines.slots.len()
                );
                assert_eq!(deadlines.slots.len() - deadlines.free.len(), model.len(), "seed {seed}");
            }
        }
    }

    #[test]
    fn room_is_used_again() {
        let mut deadlines = Deadlines::default();
        for round in 0..10_000 {
            let key = deadlines.enter(Mono(u64::MAX - round), Waker::noop().clone());
            assert!(deadlines.leave(key).is_some());
        }
        assert_eq!(deadlines.slots.len(), 1);
    }
}
