//! What is known about keys whose writes are in flight.
//!
//! A read-modify-write has to see every write that was submitted before it, also those that the log has not made durable
//! yet. Waiting for them would let a hot counter take one step per disk write. So the store remembers, for every key with
//! writes in flight, the value that the last of them will leave behind, and computes the next step from that. It is sound
//! because the log keeps the order: if the earlier write is not committed, neither is the later one, and no answer leaves
//! before its own write is applied.
//!
//! A key whose value must first be read from disk is *loading*; what arrives for it meanwhile queues behind and is started, in
//! order, when the value is there.
//!
//! Invariants: a slot exists exactly while it has pins; every `begin_*` is matched by one [`InFlight::end`] or `end_load`; a
//! queue exists only while its key is loading; `bytes` are those of the writes that have begun and not ended.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::watched::Watched;
use crate::region::command::{Command, Write};

/// Keys with writes or loads in flight. `Q` is what queues behind a load.
#[derive(Debug)]
pub struct InFlight<Q> {
    slots: HashMap<Bytes, Slot<Q>, foldhash::fast::RandomState>,
    ranges: Vec<(Bytes, Bytes)>,
    loading: usize,
    bytes: usize,
    /// Notified of every write that begins.
    pub(super) watched: Watched,
}

#[derive(Debug)]
struct Slot<Q> {
    pins: u32,
    value: Known,
    queue: Option<VecDeque<Q>>,
}

/// What the writes in flight say about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: the tree has the answer.
    Nothing,
    /// It will be absent.
    Absent,
    /// It will have this value.
    Value(Bytes),
}

impl<Q> Default for InFlight<Q> {
    fn default() -> Self {
        Self {
            slots: HashMap::default(),
            ranges: Vec::new(),
            loading: 0,
            bytes: 0,
            watched: Watched::default(),
        }
    }
}

impl<Q> InFlight<Q> {
    /// What the writes in flight say about `key`.
    pub fn known(&self, key: &[u8]) -> Known {
        match self.slots.get(key).map(|slot| &slot.value) {
            Some(Known::Nothing) | None if self.in_deleted_range(key) => Known::Absent,
            Some(value) => value.clone(),
            None => Known::Nothing,
        }
    }

    /// A write of `key` is on its way; `None` deletes it.
    pub fn begin_write(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.watched.written(&key);
        let slot = self.slots.entry(key).or_insert_with(Slot::fresh);
        slot.pins += 1;
        slot.value = value.map_or(Known::Absent, Known::Value);
    }

    /// A write that had begun has been applied or given up.
    pub fn end(&mut self, write: &Write<'_>) {
        match *write {
            Write::Put { key, value, .. } => {
                self.bytes -= key.len() + value.len();
                self.unpin(key);
            }
            Write::Delete { key, .. } => {
                self.bytes -= key.len();
                self.unpin(key);
            }
            Write::DeleteRange { start, end, .. } => {
                self.bytes -= start.len() + end.len();
                self.end_range(start, end);
            }
        }
    }

    /// All writes of a command, which had begun, have been given up.
    pub fn end_all(&mut self, payload: &[u8]) {
        let Command::Writes(writes) = Command::decode(payload).expect("this store encoded it");
        writes.iter().for_each(|write| self.end(&write));
    }

    /// Keys and values of the writes in flight.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A deletion of `[start, end)` is on its way.
    pub fn begin_range(&mut self, start: Bytes, end: Bytes) {
        for (key, slot) in &mut self.slots {
            if within(key, &start, &end) {
                slot.value = Known::Absent;
            }
        }
        self.watched.range_deleted();
        self.bytes += start.len() + end.len();
        self.ranges.push((start, end));
    }

    fn end_range(&mut self, start: &[u8], end: &[u8]) {
        let place = self.ranges.iter().position(|range| range.0 == start && range.1 == end);
        self.ranges.remove(place.expect("a range ends once, after it began"));
    }

    /// Whether `key` is being read from disk; then everything else on it queues.
    pub fn is_loading(&self, key: &[u8]) -> bool {
        self.loading > 0 && self.slots.get(key).is_some_and(|slot| slot.queue.is_some())
    }

    /// Whether any key is being read from disk.
    pub fn loads(&self) -> bool {
        self.loading > 0
    }

    /// Whether a key in `[start, end)` is being read from disk.
    pub fn is_loading_within(&self, start: &[u8], end: &[u8]) -> bool {
        let mut slots = self.slots.iter();
        self.loading > 0 && slots.any(|(key, slot)| slot.queue.is_some() && within(key, start, end))
    }

    /// `key` is being read from disk.
    pub fn begin_load(&mut self, key: Bytes) {
        let slot = self.slots.entry(key).or_insert_with(Slot::fresh);
        assert!(slot.queue.is_none(), "what needs a key that is loading queues behind it");
        slot.pins += 1;
        slot.queue = Some(VecDeque::new());
        self.loading += 1;
    }

    /// Queues `what` behind the load of `key`.
    pub fn queue(&mut self, key: &[u8], what: Q) {
        let queue = self.slots.get_mut(key).and_then(|slot| slot.queue.as_mut());
        queue.expect("only a loading key has a queue").push_back(what);
    }

    /// The load of `key` has ended; what queued meanwhile comes back, in order.
    pub fn end_load(&mut self, key: &[u8]) -> VecDeque<Q> {
        let queue = self.slots.get_mut(key).and_then(|slot| slot.queue.take());
        self.unpin(key);
        self.loading -= 1;
        queue.expect("a load ends once, after it began")
    }

    /// Everything that waits behind loads. The loads go on.
    pub fn take_queued(&mut self) -> Vec<Q> {
        self.slots
            .values_mut()
            .filter_map(|slot| slot.queue.as_mut())
            .flat_map(|queue| queue.drain(..))
            .collect()
    }

    /// Keys with something in flight.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.ranges.is_empty()
    }

    fn unpin(&mut self, key: &[u8]) {
        let slot = self.slots.get_mut(key).expect("a pinned key has a slot");
        slot.pins -= 1;
        match (slot.pins, &slot.queue) {
            (0, _) => drop(self.slots.remove(key)),
            // Only a load is left, so the tree has the answer, also where the write has been given up.
            (1, Some(_)) => slot.value = Known::Nothing,
            (_, Some(_) | None) => {}
        }
    }

    fn in_deleted_range(&self, key: &[u8]) -> bool {
        self.ranges.iter().any(|(start, end)| within(key, start, end))
    }
}

impl<Q> Slot<Q> {
    fn fresh() -> Self {
        Self { pins: 0, value: Known::Nothing, queue: None }
    }
}

fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    key >= start && (end.is_empty() || key < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::region::command::Cf;

    fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Write<'a> {
        Write::Put { cf: Cf::Default, key, value }
    }

    fn delete(key: &[u8]) -> Write<'_> {
        Write::Delete { cf: Cf::Default, key }
    }

    fn delete_range<'a>(start: &'a [u8], end: &'a [u8]) -> Write<'a> {
        Write::DeleteRange { cf: Cf::Default, start, end }
    }

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn the_last_write_in_flight_is_what_is_known() {
        let mut inflight = InFlight::<()>::default();
        inflight.begin_write(bytes("k"), Some(bytes("1")));
        inflight.begin_write(bytes("k"), None);
        assert_eq!(inflight.known(b"k"), Known::Absent);
        inflight.end(&put(b"k", b"1"));
        assert_eq!(inflight.known(b"k"), Known::Absent, "the second write is still in flight");
        assert_eq!(inflight.bytes(), 1);
        inflight.end(&delete(b"k"));
        assert_eq!(inflight.known(b"k"), Known::Nothing);
        assert!(inflight.is_empty());
        assert_eq!(inflight.bytes(), 0);
    }

    #[test]
    fn a_deleted_range_hides_what_came_before_it_and_not_what_came_after() {
        let mut inflight = InFlight::<()>::default();
        inflight.begin_write(bytes("b"), Some(bytes("old")));
        inflight.begin_range(bytes("a"), bytes("c"));
        inflight.begin_write(bytes("bb"), Some(bytes("new")));
        assert_eq!(inflight.known(b"b"), Known::Absent);
        assert_eq!(inflight.known(b"ba"), Known::Absent, "never written, but inside the range");
        assert_eq!(inflight.known(b"bb"), Known::Value(bytes("new")));
        assert_eq!(inflight.known(b"c"), Known::Nothing);
        inflight.end(&put(b"b", b"old"));
        inflight.end(&delete_range(b"a", b"c"));
        assert_eq!(inflight.known(b"ba"), Known::Nothing);
        assert_eq!(inflight.known(b"bb"), Known::Value(bytes("new")));
    }

    #[test]
    fn what_queues_behind_a_load_comes_back_in_order() {
        let mut inflight = InFlight::default();
        inflight.begin_load(bytes("k"));
        inflight.queue(b"k", 1);
        inflight.queue(b"k", 2);
        assert!(inflight.is_loading(b"k"));
        assert_eq!(inflight.end_load(b"k"), [1, 2]);
        assert!(!inflight.is_loading(b"k") && inflight.is_empty());
    }

    #[test]
    fn a_load_that_outlives_the_writes_before_it_leaves_the_answer_to_the_tree() {
        let mut inflight = InFlight::<()>::default();
        inflight.begin_write(bytes("k"), Some(bytes("1")));
        inflight.begin_load(bytes("k"));
        assert_eq!(inflight.known(b"k"), Known::Value(bytes("1")));
        inflight.end(&put(b"k", b"1"));
        assert_eq!(inflight.known(b"k"), Known::Nothing);
        assert!(inflight.end_load(b"k").is_empty() && inflight.is_empty());
    }

    #[test]
    fn what_queues_can_be_taken_while_the_load_goes_on() {
        let mut inflight = InFlight::default();
        inflight.begin_load(bytes("k"));
        inflight.queue(b"k", 1);
        assert_eq!(inflight.take_queued(), [1]);
        assert!(inflight.is_loading(b"k") && inflight.end_load(b"k").is_empty());
    }

    #[test]
    fn a_range_knows_of_the_loads_inside_it() {
        let mut inflight = InFlight::<()>::default();
        inflight.begin_write(bytes("b"), None);
        inflight.begin_load(bytes("k"));
        for (start, end, expected) in [("", "", true), ("k", "l", true), ("a", "k", false), ("ka", "", false)]
        {
            assert_eq!(
                inflight.is_loading_within(start.as_bytes(), end.as_bytes()),
                expected,
                "[{start}, {end})"
            );
        }
        inflight.end_load(b"k");
        assert!(!inflight.is_loading_within(b"", b""));
    }
}
