//! Keys whose value is being read from disk for a read-modify-write, and what queues behind each.
//!
//! What arrives for such a key meanwhile queues, and is started, in order, when the value is there; so nothing changes the key
//! between the read and what is computed from it.
//!
//! Invariants: a key is loaded by one task at a time; every [`Loads::begin`] is matched by one [`Loads::end`]. A load outlives the
//! leadership it began under; whoever ends it asks again whether its region still leads in the same term.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::region::inflight::within;

/// The keys of one store that are being loaded. `Q` is what queues behind a load.
#[derive(Debug)]
pub struct Loads<Q> {
    keys: BTreeMap<Bytes, VecDeque<Q>>,
}

impl<Q> Default for Loads<Q> {
    fn default() -> Self {
        Self { keys: BTreeMap::new() }
    }
}

impl<Q> Loads<Q> {
    /// Whether `key` is being loaded; then everything else on it queues.
    pub fn contains(&self, key: &[u8]) -> bool {
        !self.keys.is_empty() && self.keys.contains_key(key)
    }

    /// Whether no key is being loaded.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a key in `[start, end)` is being loaded.
    pub fn any_within(&self, start: &[u8], end: &[u8]) -> bool {
        self.keys.keys().any(|key| within(key, start, end))
    }

    /// `key` is being loaded.
    pub fn begin(&mut self, key: Bytes) {
        let before = self.keys.insert(key, VecDeque::new());
        assert!(before.is_none(), "what needs a key that is loading queues behind it");
    }

    /// Queues `what` until `key` is loaded.
    pub fn queue(&mut self, key: &[u8], what: Q) {
        self.keys.get_mut(key).expect("only a loading key has a queue").push_back(what);
    }

    /// The load of `key` has ended; what queued meanwhile comes back, in order.
    pub fn end(&mut self, key: &[u8]) -> VecDeque<Q> {
        self.keys.remove(key).expect("a load ends once, after it began")
    }

    /// Everything that waits behind loads. The loads go on.
    pub fn take_queued(&mut self) -> Vec<Q> {
        self.keys.values_mut().flat_map(|queue| queue.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::inflight::{InFlight, Known};

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn what_queues_behind_a_load_comes_back_in_order() {
        let mut loads = Loads::default();
        loads.begin(bytes("k"));
        loads.queue(b"k", 1);
        loads.queue(b"k", 2);
        assert!(loads.contains(b"k"));
        assert_eq!(loads.end(b"k"), [1, 2]);
        assert!(!loads.contains(b"k") && loads.is_empty());
    }

    #[test]
    fn a_load_that_outlives_the_writes_before_it_leaves_the_answer_to_the_tree() {
        let (mut loads, mut inflight) = (Loads::<()>::default(), InFlight::default());
        let command = inflight.begin_command();
        inflight.begin_write(bytes("k"), Some(bytes("1").into()));
        loads.begin(bytes("k"));
        assert_eq!(inflight.known(b"k"), Known::Value(bytes("1").into()));
        inflight.end(command);
        assert_eq!(inflight.known(b"k"), Known::Nothing);
        assert!(loads.contains(b"k"), "the load goes on");
        assert!(loads.end(b"k").is_empty() && loads.is_empty() && inflight.is_empty());
    }

    #[test]
    fn what_queues_can_be_taken_while_the_load_goes_on() {
        let mut loads = Loads::default();
        loads.begin(bytes("k"));
        loads.queue(b"k", 1);
        assert_eq!(loads.take_queued(), [1]);
        assert!(loads.contains(b"k") && loads.end(b"k").is_empty());
    }

    #[test]
    fn a_range_knows_of_the_loads_inside_it() {
        let mut loads = Loads::<()>::default();
        loads.begin(bytes("k"));
        for (start, end, expected) in [("", "", true), ("k", "l", true), ("a", "k", false), ("ka", "", false)]
        {
            assert_eq!(loads.any_within(start.as_bytes(), end.as_bytes()), expected, "[{start}, {end})");
        }
    }
}
