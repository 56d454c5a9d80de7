//! A place with the writes that were sent there, and what is known of them: by that writes of one key and one connection keep their
//! order (`gateway/order.rs`).
//!
//! What is sent to one place arrives there in order, so a place may have several writes of a key in flight. A store refuses a write and may
//! take in a later one a moment afterwards, because its replica came to lead meanwhile. So whoever sends a refused write again must know
//! what became of the later ones ([`PlacedWrite::standing`]); an answer counts from when it arrives, not from when it is taken, because a
//! client that takes its answers in order comes to the later one last.
//!
//! A write costs one entry at the end of a queue, which leaves at the front. Entries behind one that is unanswered stay: they are the later ones
//! that it may have to ask about. Keys are compared by hash: a collision makes a write wait or be refused without need, which does no harm.
//!
//! Writes of different connections that are in flight together have no order. So a write is never refused for what another connection
//! has written: it is sent again, and takes effect after that.
//!
//! Invariants: entries are in the order in which they were sent; the first one is unanswered; at most [`ENTRIES_MAX`] of them are kept beyond
//! those that are unanswered, and of the rest the latest number.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use std::rc::Rc;

use engine::rt::local::{Peek, Peeked, Pending};

use super::routes::Place;
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::request::{Op, Outcome};

/// Answered writes that are kept behind an unanswered one.
const ENTRIES_MAX: usize = 64 << 10;

/// A place as the routes had it at one time. Another range, epoch or leader makes another one.
#[derive(Debug)]
pub struct Placed {
    place: Place,
    writes: RefCell<Writes>,
}

#[derive(Debug, Default)]
struct Writes {
    entries: VecDeque<Entry>,
    next: u64,
    unanswered: usize,
    /// The number of the latest write of which the entry is not kept although it may have been carried out, by its stream; nothing
    /// once no write is in flight.
    dropped: BTreeMap<StreamId, u64>,
}

#[derive(Debug)]
struct Entry {
    /// How many were sent here before it.
    at: u64,
    /// When it was submitted.
    number: u64,
    stream: StreamId,
    keys: KeyHash,
    state: State,
}

#[derive(Debug)]
enum State {
    Sent(Peek<Outcome>),
    /// It was refused, and is to be sent again.
    Waits,
    Left {
        /// It was carried out, or may have been.
        taken: bool,
    },
}

/// What has become of a write, as far as it has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    InFlight,
    /// It was refused and is sent again.
    Again,
    Taken,
    Refused,
}

/// How a write that was refused stands to later ones of its keys and its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStanding {
    /// None of them was carried out or can be before it.
    First,
    /// One is in flight.
    Undecided,
    /// One was carried out.
    Overtaken,
}

/// Whose writes keep an order among each other: the number of a connection on this core. Those of no connection are one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// The key of a write, by hash; many keys count as all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(u64);

/// An unanswered write of a place. One that is dropped counts as carried out.
#[derive(Debug)]
pub struct PlacedWrite {
    at: Rc<Placed>,
    entry: u64,
    number: u64,
    keys: KeyHash,
    is_refused: Cell<bool>,
}

impl KeyHash {
    /// Any key.
    pub const ALL: Self = Self(u64::MAX);

    /// Of one key.
    pub fn of(key: &[u8]) -> Self {
        Self(foldhash::fast::FixedState::default().hash_one(key))
    }

    /// Of what a write touches.
    pub fn of_op(op: &Op) -> Self {
        match op {
            Op::Put { key, .. }
            | Op::Delete { key, .. }
            | Op::Modify { key, .. }
            | Op::Get { key }
            | Op::Expiry { key } => Self::of(key),
            Op::PutTimed { puts } if puts.len() == 1 => Self::of(&puts[0].0),
            Op::BatchPut { .. }
            | Op::PutTimed { .. }
            | Op::PutAbsent { .. }
            | Op::Copy { .. }
            | Op::BatchDelete { .. }
            | Op::BatchGet { .. }
            | Op::Lengths { .. }
            | Op::Watch { .. }
            | Op::Atomic(_)
            | Op::DeleteRange { .. }
            | Op::Scan(_) => Self::ALL,
        }
    }

    fn meets(self, other: Self) -> bool {
        self == other || self == Self::ALL || other == Self::ALL
    }
}

impl std::ops::Deref for Placed {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Placed {
    pub(super) fn new(place: Place) -> Rc<Self> {
        Rc::new(Self { place, writes: RefCell::default() })
    }

    /// A write that was submitted as number `number` by `stream` is in flight here from now on; its answer arrives at `pending`.
    pub fn hold(
        self: &Rc<Self>,
        (stream, number): (StreamId, u64),
        keys: KeyHash,
        pending: &Pending<Outcome>,
    ) -> PlacedWrite {
        let mut writes = self.writes.borrow_mut();
        let entry = writes.next;
        writes.next += 1;
        writes.unanswered += 1;
        writes.entries.push_back(Entry {
            at: entry,
            number,
            stream,
            keys,
            state: State::Sent(pending.peek()),
        });
        if writes.entries.len() - writes.unanswered > ENTRIES_MAX {
            writes.drop_answered();
        }
        PlacedWrite { at: self.clone(), entry, number, keys, is_refused: Cell::new(false) }
    }

    /// Whether a write of `keys` that was submitted before number `number` was sent here and may yet be refused or sent again.
    pub fn is_before(&self, number: u64, keys: KeyHash) -> bool {
        let writes = self.writes.borrow();
        let pending = |entry: &Entry| {
            entry.number < number
                && entry.keys.meets(keys)
                && matches!(entry.fate(), Fate::InFlight | Fate::Again)
        };
        writes.unanswered > 0 && writes.entries.iter().any(pending)
    }

    /// Whether a write that was sent here is unanswered.
    pub fn is_awaited(&self) -> bool {
        self.writes.borrow().unanswered > 0
    }
}

impl Writes {
    fn index(&self, entry: u64) -> usize {
        let first = self.entries.front().map_or(0, |first| first.at);
        let at = usize::try_from(entry - first).unwrap_or(usize::MAX);
        match self.entries.get(at) {
            Some(found) if found.at == entry => at,
            // Some between were dropped.
            Some(_) | None => self
                .entries
                .binary_search_by_key(&entry, |it| it.at)
                .expect("an unanswered write has an entry"),
        }
    }

    fn leave(&mut self, entry: u64, taken: bool) {
        let at = self.index(entry);
        self.entries[at].state = State::Left { taken };
        self.unanswered -= 1;
        while let Some(Entry { state: State::Left { .. }, .. }) = self.entries.front() {
            self.entries.pop_front();
        }
        if self.entries.is_empty() {
            self.dropped.clear();
        }
    }

    fn drop_answered(&mut self) {
        let dropped = &mut self.dropped;
        self.entries.retain(|entry| match entry.state {
            State::Left { taken } => {
                if taken {
                    let latest = dropped.entry(entry.stream).or_default();
                    *latest = entry.number.max(*latest);
                }
                false
            }
            State::Sent(_) | State::Waits => true,
        });
    }
}

impl Entry {
    fn fate(&self) -> Fate {
        match &self.state {
            State::Waits => Fate::Again,
            State::Left { taken: true } => Fate::Taken,
            State::Left { taken: false } => Fate::Refused,
            State::Sent(outcome) => outcome.look(|seen| match seen {
                Peeked::Nothing => Fate::InFlight,
                Peeked::Abandoned | Peeked::Answer(Ok(_) | Err(Refusal::Unknown)) => Fate::Taken,
                Peeked::Answer(Err(refusal)) if refusal.has_moved() => Fate::Again,
                Peeked::Answer(Err(_)) => Fate::Refused,
            }),
        }
    }
}

impl PlacedWrite {
    /// It was refused, and is to be sent again if later writes allow.
    pub fn waits(&self) {
        let mut writes = self.at.writes.borrow_mut();
        let at = writes.index(self.entry);
        writes.entries[at].state = State::Waits;
    }

    /// How it stands to later writes of its keys and its stream, once it was refused.
    pub fn standing(&self) -> WriteStanding {
        if planted(Bug::WritesComeLate) {
            return WriteStanding::First;
        }
        let writes = self.at.writes.borrow();
        let own = writes.index(self.entry);
        let stream = writes.entries[own].stream;
        let was_dropped = writes.dropped.get(&stream).is_some_and(|latest| *latest > self.number);
        let mut standing = if was_dropped { WriteStanding::Overtaken } else { WriteStanding::First };
        for entry in writes.entries.range(own + 1..) {
            let is_later = entry.number > self.number && entry.stream == stream;
            if is_later && entry.keys.meets(self.keys) {
                match entry.fate() {
                    Fate::Taken => return WriteStanding::Overtaken,
                    Fate::InFlight => standing = WriteStanding::Undecided,
                    Fate::Again | Fate::Refused => {}
                }
            }
        }
        standing
    }

    /// It was refused, and is not in flight here any more.
    pub fn refuse(self) {
        self.is_refused.set(true);
    }

    /// It leaves with this outcome.
    pub fn settle(self, outcome: &Outcome) {
        match outcome {
            Ok(_) | Err(Refusal::Unknown) => drop(self),
            Err(_) => self.refuse(),
        }
    }
}

impl Drop for PlacedWrite {
    fn drop(&mut self) {
        self.at.writes.borrow_mut().leave(self.entry, !self.is_refused.get());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use engine::rt::local::{Answer, oneshot};
    use scheduler::Epoch;

    use super::*;
    use crate::request::Out;
    use crate::shard::routes::Source;

    fn placed() -> Rc<Placed> {
        Placed::new(Place {
            start: Bytes::new(),
            end: Bytes::new(),
            region_id: 1,
            epoch: Epoch::FIRST,
            source: Source::Store(0),
            leader: None,
        })
    }

    fn send(
        place: &Rc<Placed>,
        number: u64,
        keys: KeyHash,
    ) -> (Answer<Outcome>, Pending<Outcome>, PlacedWrite) {
        send_in(StreamId(1), place, number, keys)
    }

    fn send_in(
        stream: StreamId,
        place: &Rc<Placed>,
        number: u64,
        keys: KeyHash,
    ) -> (Answer<Outcome>, Pending<Outcome>, PlacedWrite) {
        let (answer, pending) = oneshot();
        let in_flight = place.hold((stream, number), keys, &pending);
        (answer, pending, in_flight)
    }

    fn not_leader() -> Outcome {
        Err(Refusal::NotLeader { region_id: 1, leader: None })
    }

    #[test]
    fn writes_that_may_yet_be_refused_are_before_later_ones_of_their_keys() {
        let (place, a, b) = (placed(), KeyHash::of(b"a"), KeyHash::of(b"b"));
        let (answer, _pending, first) = send(&place, 5, a);
        let before = |number, keys| place.is_before(number, keys);
        assert!(before(6, a) && before(6, KeyHash::ALL));
        assert!(!before(6, b) && !before(4, a), "other keys and earlier writes do not wait");
        answer.send(not_leader());
        assert!(before(6, a), "it is sent again");
        first.waits();
        assert!(before(6, a));
        first.refuse();
        assert!(!before(6, a) && !place.is_awaited());
        let (answer, _pending, _second) = send(&place, 7, a);
        answer.send(Ok(Out::Done));
        assert!(!before(8, a), "the answer is in, taken or not");
    }

    #[test]
    fn a_refused_write_is_first_unless_a_later_one_of_its_keys_was_carried_out() {
        let (a, b) = (KeyHash::of(b"a"), KeyHash::of(b"b"));
        for (later, meets) in [(a, true), (b, false), (KeyHash::ALL, true)] {
            let place = placed();
            let (answer, _pending, first) = send(&place, 1, a);
            let (then, _later, second) = send(&place, 2, later);
            answer.send(not_leader());
            first.waits();
            let expected = |standing| if meets { standing } else { WriteStanding::First };
            assert_eq!(first.standing(), expected(WriteStanding::Undecided), "{later:?}");
            then.send(not_leader());
            assert_eq!(first.standing(), WriteStanding::First, "both were refused: {later:?}");
            second.refuse();
            let (then, _later, third) = send(&place, 3, later);
            then.send(Ok(Out::Done));
            assert_eq!(first.standing(), expected(WriteStanding::Overtaken), "{later:?}");
            drop(third);
            assert_eq!(first.standing(), expected(WriteStanding::Overtaken), "it has left: {later:?}");
            first.refuse();
            assert!(place.writes.borrow().entries.is_empty(), "nothing is left");
        }
    }

    /// Two connections that write one key at the same time have no order, so neither gives way to the other.
    #[test]
    fn a_refused_write_takes_no_notice_of_later_ones_of_other_streams() {
        let (place, a) = (placed(), KeyHash::of(b"a"));
        let (answer, _pending, first) = send(&place, 1, a);
        let (then, _other_pending, other) = send_in(StreamId(2), &place, 2, a);
        answer.send(not_leader());
        first.waits();
        assert_eq!(first.standing(), WriteStanding::First, "in flight");
        then.send(Ok(Out::Done));
        assert_eq!(first.standing(), WriteStanding::First, "carried out");
        drop(other);
        for number in 3..3 + 3 * ENTRIES_MAX as u64 {
            drop(send_in(StreamId(2), &place, number, a));
        }
        assert!(!place.writes.borrow().dropped.is_empty(), "not all entries are kept");
        assert_eq!(first.standing(), WriteStanding::First, "and not kept");
        first.refuse();
        assert!(place.writes.borrow().dropped.is_empty(), "nothing is left");
    }

    /// A write that is never answered does not make a place remember all later ones.
    #[test]
    fn what_is_kept_behind_an_unanswered_write_is_bounded() {
        let (place, a, b) = (placed(), KeyHash::of(b"a"), KeyHash::of(b"b"));
        let (_answer, _pending, first) = send(&place, 1, a);
        let (_other_answer, _other_pending, other) = send(&place, 2, b);
        for number in 3..3 + 3 * ENTRIES_MAX as u64 {
            drop(send(&place, number, b));
            assert!(place.writes.borrow().entries.len() <= ENTRIES_MAX + 3);
        }
        assert_eq!(first.standing(), WriteStanding::Overtaken, "of what is not kept any key may be its own");
        other.refuse();
        first.refuse();
        assert!(place.writes.borrow().entries.is_empty());
    }
}
