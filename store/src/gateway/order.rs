//! The order of writes per key: two writes of one key and one stream (a connection) take effect in the order in which they were submitted
//! here, whichever places they are sent to and however often they are sent again.
//!
//! | a write | while |
//! |---|---|
//! | waits | an earlier one of the same keys waits ([`Order`]) |
//! | waits | an earlier one of the same keys was sent to another place, and may yet be refused there ([`Routes::is_before`]) |
//! | waits | it was refused, and a later one of the same keys and stream is in flight, which may be refused as well ([`WriteStanding::Undecided`]) |
//! | is refused for good | it was refused, and a later one of the same keys and stream was carried out since ([`WriteStanding::Overtaken`]) |
//!
//! Different keys have no order, not even those of one connection: they may lie in regions that answer at different speeds. Nor have writes of
//! different connections: those that wait do so in the order of all, but none is refused for what another connection has written.
//!
//! [`WriteStanding::Undecided`]: crate::shard::placed::WriteStanding::Undecided
//! [`WriteStanding::Overtaken`]: crate::shard::placed::WriteStanding::Overtaken
//! [`Routes::is_before`]: crate::shard::routes::Routes::is_before
//!
//! Invariants: while nothing waits and no place has changed under writes in flight, none of this costs more than looking whether that is so;
//! a number is here as long as its write waits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::dispatch::Dispatch;
use super::retry::Number;
use crate::plant::{Bug, planted};
use crate::request::Op;
use crate::shard::placed::{KeyHash, Placed};

/// The writes of one core that wait to be sent, by key.
#[derive(Debug, Default)]
pub(super) struct Order(RefCell<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// How many of a key wait, by number: an operation that is sent again in parts waits until its parts do.
    keys: BTreeMap<KeyHash, BTreeMap<u64, usize>>,
    /// Those of ranges, which touch any key.
    ranges: BTreeMap<u64, usize>,
    /// How many wait, by number.
    all: BTreeMap<u64, usize>,
}

/// A write that waits, until it is dropped.
#[derive(Debug)]
pub(super) struct InLine {
    order: Rc<Order>,
    number: u64,
    keys: Keys,
}

/// What a write touches.
#[derive(Debug)]
enum Keys {
    One(KeyHash),
    Many(Vec<KeyHash>),
    Range,
}

impl Order {
    /// Takes in a write that waits and was submitted as number `number`. Parts of one operation have its number, and no key in common but with
    /// the whole.
    pub(super) fn wait(self: &Rc<Self>, number: u64, op: &Op) -> InLine {
        let keys = Keys::of(op);
        let mut waiting = self.0.borrow_mut();
        *waiting.all.entry(number).or_default() += 1;
        match &keys {
            Keys::One(key) => waiting.enter(*key, number),
            Keys::Many(keys) => keys.iter().for_each(|key| waiting.enter(*key, number)),
            Keys::Range => *waiting.ranges.entry(number).or_default() += 1,
        }
        drop(waiting);
        InLine { order: self.clone(), number, keys }
    }

    fn is_empty(&self) -> bool {
        self.0.borrow().all.is_empty()
    }

    /// Whether a write of the same keys waits that was submitted before number `number`.
    fn is_before(&self, number: u64, op: &Op) -> bool {
        let waiting = self.0.borrow();
        let earlier =
            |counts: &BTreeMap<u64, usize>| counts.keys().next().is_some_and(|first| *first < number);
        let of_key = |key: &KeyHash| waiting.keys.get(key).is_some_and(earlier);
        match Keys::of(op) {
            Keys::One(key) => of_key(&key) || earlier(&waiting.ranges),
            Keys::Many(keys) => keys.iter().any(of_key) || earlier(&waiting.ranges),
            Keys::Range => earlier(&waiting.all),
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let (mut waiting, number) = (self.order.0.borrow_mut(), self.number);
        match &self.keys {
            Keys::One(key) => waiting.leave(key, number),
            Keys::Many(keys) => keys.iter().for_each(|key| waiting.leave(key, number)),
            Keys::Range => leave(&mut waiting.ranges, number),
        }
        leave(&mut waiting.all, number);
    }
}

/// Counts one less; another part of the same operation may wait on.
fn leave(counts: &mut BTreeMap<u64, usize>, number: u64) {
    let count = counts.get_mut(&number).expect("what waits is counted");
    *count -= 1;
    if *count == 0 {
        counts.remove(&number);
    }
}

impl Waiting {
    fn enter(&mut self, key: KeyHash, number: u64) {
        *self.keys.entry(key).or_default().entry(number).or_default() += 1;
    }

    fn leave(&mut self, key: &KeyHash, number: u64) {
        if let Some(numbers) = self.keys.get_mut(key) {
            leave(numbers, number);
            if numbers.is_empty() {
                self.keys.remove(key);
            }
        }
    }
}

impl Keys {
    fn of(op: &Op) -> Self {
        let many = |keys: &mut dyn Iterator<Item = &bytes::Bytes>| {
            let mut hashes: Vec<KeyHash> = keys.map(|key| KeyHash::of(key)).collect();
            hashes.sort_unstable();
            hashes.dedup();
            Self::Many(hashes)
        };
        match op {
            Op::Put { .. } | Op::Delete { .. } | Op::Modify { .. } | Op::Get { .. } | Op::Expiry { .. } => {
                Self::One(KeyHash::of_op(op))
            }
            Op::PutTimed { puts } => many(&mut puts.iter().map(|(key, ..)| key)),
            Op::BatchPut { pairs } | Op::PutAbsent { pairs } => many(&mut pairs.iter().map(|(key, _)| key)),
            Op::Copy { from, to, remove: _, replace: _ } => many(&mut [from, to].into_iter()),
            Op::BatchDelete { keys }
            | Op::Watch { keys }
            | Op::Lengths { keys, ahead: _ }
            | Op::BatchGet { keys, .. } => many(&mut keys.iter()),
            Op::Atomic(atomic) => many(&mut atomic.keys().iter()),
            Op::DeleteRange { .. } | Op::Scan(_) => Self::Range,
        }
    }
}

impl Dispatch {
    /// Whether a write has to wait before it may go to `place`.
    pub(super) fn must_wait(&self, number: Number, op: &Op, place: &Rc<Placed>) -> bool {
        let (number, order) = (number.submitted(), self.order());
        let has_left_behind = self.routes().has_left_behind();
        if order.is_empty() && !has_left_behind {
            return false;
        }
        if has_left_behind {
            self.routes_mut().forget_answered();
        }
        let routes = self.routes();
        !planted(Bug::WritesOvertake)
            && (order.is_before(number, op) || routes.is_before(number, KeyHash::of_op(op), place))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(key: &'static str) -> Op {
        Op::Put { key: key.into(), value: Bytes::new() }
    }

    fn both(one: &'static str, other: &'static str) -> Op {
        Op::BatchPut { pairs: vec![(one.into(), Bytes::new()), (other.into(), Bytes::new())] }
    }

    fn range(start: &'static str, end: &'static str) -> Op {
        Op::DeleteRange { start: start.into(), end: end.into() }
    }

    #[test]
    fn a_write_waits_behind_earlier_ones_of_its_keys_that_wait() {
        let order = Rc::new(Order::default());
        let waits = [order.wait(5, &put("a")), order.wait(7, &both("b", "c"))];
        let before = |number, op: &Op| order.is_before(number, op);
        assert!(before(6, &put("a")) && before(6, &both("a", "z")) && before(6, &range("x", "y")));
        assert!(!before(6, &put("b")) && !before(5, &put("a")) && !before(4, &range("", "")));
        assert!(before(8, &put("c")) && !before(8, &put("d")));
        let range = order.wait(9, &range("", ""));
        assert!(before(10, &put("d")) && !before(9, &put("d")));
        drop((waits, range));
        assert!(order.is_empty() && order.0.borrow().keys.is_empty());
    }

    #[test]
    fn a_part_waits_on_when_the_whole_that_it_is_of_is_sent() {
        let order = Rc::new(Order::default());
        let whole = order.wait(5, &both("a", "b"));
        let part = order.wait(5, &put("a"));
        drop(whole);
        assert!(order.is_before(6, &put("a")) && !order.is_before(6, &put("b")));
        drop(part);
        assert!(order.is_empty() && order.0.borrow().keys.is_empty());
    }
}
