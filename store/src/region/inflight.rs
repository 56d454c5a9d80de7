//! What is known about keys whose writes are in flight.
//!
//! A read-modify-write has to see every write of its region that was submitted before it, also those that the log has not made
//! durable yet. Waiting for them would let a hot counter take one step per disk write. So the region remembers, for every key
//! with writes in flight, the value that the last of them will leave behind, and the next step is computed from that. It is
//! sound because the log keeps the order: if the earlier write is not committed, neither is the later one, and no answer leaves
//! before its own write is applied.
//!
//! It holds only as long as this replica leads in the term, and under the version, that admitted the writes: another leader may
//! cut them off, and a newer version refuses them at apply. Then the replica forgets all of them ([`InFlight::clear`]).
//!
//! Invariants: a slot exists exactly while it has pins; every `begin_*` is matched by one [`InFlight::end`], or by `clear`; `bytes`
//! are those of the writes that have begun and not ended.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::command::{Command, Write};

/// The keys of one region with writes in flight.
#[derive(Debug, Default)]
pub struct InFlight {
    /// In order, because clients choose the keys: those of one hash would make a hash table slow, and a secret against that is a draw.
    slots: BTreeMap<Bytes, Slot>,
    ranges: Vec<(Bytes, Bytes)>,
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    pins: u32,
    value: Option<Bytes>,
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

impl InFlight {
    /// What the writes in flight say about `key`.
    pub fn known(&self, key: &[u8]) -> Known {
        match self.slots.get(key).map(|slot| &slot.value) {
            Some(Some(value)) => Known::Value(value.clone()),
            Some(None) => Known::Absent,
            None if self.in_deleted_range(key) => Known::Absent,
            None => Known::Nothing,
        }
    }

    /// A write of `key` is on its way; `None` deletes it.
    pub fn begin_write(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        let slot = self.slots.entry(key).or_insert(Slot { pins: 0, value: None });
        slot.pins += 1;
        slot.value = value;
    }

    /// A deletion of `[start, end)` is on its way.
    pub fn begin_range(&mut self, start: Bytes, end: Bytes) {
        for (key, slot) in &mut self.slots {
            if within(key, &start, &end) {
                slot.value = None;
            }
        }
        self.bytes += start.len() + end.len();
        self.ranges.push((start, end));
    }

    /// A write that had begun has been applied or given up.
    pub fn end(&mut self, write: &Write<'_>) {
        match *write {
            Write::Put { cf: _, key, value } => {
                self.bytes -= key.len() + value.len();
                self.unpin(key);
            }
            Write::Delete { cf: _, key } => {
                self.bytes -= key.len();
                self.unpin(key);
            }
            Write::DeleteRange { cf: _, start, end } => {
                self.bytes -= start.len() + end.len();
                self.end_range(start, end);
            }
        }
    }

    /// All writes of a command, which had begun, have been given up.
    pub fn end_all(&mut self, payload: &[u8]) {
        let Ok(Command::Writes(writes)) = Command::decode(payload) else {
            unreachable!("a command that was encoded here reads back")
        };
        writes.iter().for_each(|write| self.end(&write));
    }

    /// Forgets all writes: nothing may be computed from them any more.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.ranges.clear();
        self.bytes = 0;
    }

    /// Keys and values of the writes in flight.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keys with a write in flight.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.ranges.is_empty()
    }

    /// Asserts the stated invariants.
    pub(super) fn check(&self) {
        assert!(self.slots.values().all(|slot| slot.pins > 0), "a slot without a write in flight");
        assert!(!self.is_empty() || self.bytes == 0, "{} bytes of no write in flight", self.bytes);
    }

    fn end_range(&mut self, start: &[u8], end: &[u8]) {
        let place = self.ranges.iter().position(|range| range.0 == start && range.1 == end);
        self.ranges.remove(place.expect("a range ends once, after it began"));
    }

    fn unpin(&mut self, key: &[u8]) {
        let slot = self.slots.get_mut(key).expect("a pinned key has a slot");
        slot.pins -= 1;
        if slot.pins == 0 {
            self.slots.remove(key);
        }
    }

    fn in_deleted_range(&self, key: &[u8]) -> bool {
        self.ranges.iter().any(|(start, end)| within(key, start, end))
    }
}

/// Whether `key` lies in `[start, end)`; an empty end means no bound.
pub fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
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
        let mut inflight = InFlight::default();
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
        inflight.check();
    }

    #[test]
    fn a_deleted_range_hides_what_came_before_it_and_not_what_came_after() {
        let mut inflight = InFlight::default();
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
    fn nothing_is_known_after_everything_was_forgotten() {
        let mut inflight = InFlight::default();
        inflight.begin_write(bytes("b"), Some(bytes("old")));
        inflight.begin_range(bytes("x"), bytes("z"));
        inflight.clear();
        assert_eq!((inflight.known(b"b"), inflight.known(b"y")), (Known::Nothing, Known::Nothing));
        assert_eq!(inflight.bytes(), 0);
        inflight.check();
    }
}
