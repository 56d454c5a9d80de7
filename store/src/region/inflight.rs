//! What is known about keys whose writes are in flight.
//!
//! A read-modify-write has to see every write of its region that was submitted before it, also those that the log has not made
//! durable yet. Waiting for them would let a hot counter take one step per disk write. So the region remembers, for every key
//! with writes in flight, the value that the last of them will leave behind, and the next step is computed from that. It is
//! sound because the log keeps the order: if the earlier write is not committed, neither is the later one, and no answer leaves
//! before its own write is applied. Whether a value that is in flight has expired is for whoever asks to say, who has a clock.
//!
//! It holds only as long as this replica leads in the term, and under the version, that admitted the writes: another leader may
//! cut them off, and a newer version refuses them at apply. Then the replica forgets all of them ([`InFlight::clear`]).
//!
//! Writes begin in the order of the log and end in it, command by command, so they are a queue. Few of them are ever asked for: a key is
//! searched for only on behalf of a read-modify-write, in an index that takes up what has been queued since the one before. So that a
//! question never has much to catch up with, no more than [`AHEAD_MAX`] writes are queued without being in the index.
//!
//! Invariants: the queue has the writes of all commands that have begun and not ended, oldest first; the index has the oldest
//! `indexed` of them, and a slot in it exactly while it has pins; `bytes` are those of the whole queue.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use engine::lsm::TimedValue;

/// Writes that may be queued beyond those in the index: what one question has to catch up with at most.
const AHEAD_MAX: usize = 4096;

/// Maximum number of writes that an empty queue keeps memory for.
const KEPT_MAX: usize = 4096;

/// The number of a command with writes in flight, counted from the first of this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandNo(u64);

/// The writes of one region that are in flight.
#[derive(Debug, Default)]
pub struct InFlight {
    steps: VecDeque<Step>,
    /// Each command with its number of writes, oldest first.
    commands: VecDeque<(CommandNo, usize)>,
    begun: u64,
    /// How many of the oldest writes are in the index.
    indexed: usize,
    index: Index,
    bytes: usize,
}

#[derive(Debug)]
enum Step {
    Put(Bytes, TimedValue),
    Delete(Bytes),
    DeleteRange(Bytes, Bytes),
}

/// What the oldest writes in flight come to, by key.
#[derive(Debug, Default)]
struct Index {
    /// In order, because clients choose the keys: those of one hash would make a hash table slow, and a secret against that is a draw.
    slots: BTreeMap<Bytes, Slot>,
    ranges: VecDeque<(Bytes, Bytes)>,
}

#[derive(Debug)]
struct Slot {
    pins: u32,
    value: Option<TimedValue>,
}

/// What the writes in flight say about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: the tree has the answer.
    Nothing,
    /// It will be absent.
    Absent,
    /// It will have this value, until its moment.
    Value(TimedValue),
}

impl InFlight {
    /// What the writes in flight say about `key`.
    pub fn known(&mut self, key: &[u8]) -> Known {
        self.take_up(usize::MAX);
        self.index.known(key)
    }

    /// A command begins. What is written from now on belongs to it.
    pub fn begin_command(&mut self) -> CommandNo {
        self.begun += 1;
        let number = CommandNo(self.begun);
        self.commands.push_back((number, 0));
        number
    }

    /// A write of `key` is on its way, in the command that began last; `None` deletes it.
    pub fn begin_write(&mut self, key: Bytes, value: Option<TimedValue>) {
        self.begin(match value {
            Some(value) => Step::Put(key, value),
            None => Step::Delete(key),
        });
    }

    /// A deletion of `[start, end)` is on its way, in the command that began last; an empty end means no bound.
    pub fn begin_range(&mut self, start: Bytes, end: Bytes) {
        self.begin(Step::DeleteRange(start, end));
    }

    /// The oldest command in flight has been applied, or refused at apply. Returns the bytes of its writes.
    ///
    /// # Panics
    /// If it is not the oldest one.
    pub fn end(&mut self, command: CommandNo) -> usize {
        let oldest = self.commands.pop_front();
        let (number, count) = oldest.expect("a command that ends is in flight");
        assert_eq!(number, command, "a command ended before an older one");
        let before = self.bytes;
        for step in self.steps.drain(..count) {
            self.bytes -= step.bytes();
            if self.indexed > 0 {
                self.indexed -= 1;
                self.index.end(&step);
            }
        }
        self.give_back();
        before - self.bytes
    }

    /// A command has been given up before it was proposed. Returns the bytes of its writes.
    ///
    /// # Panics
    /// If it is not in flight.
    pub fn give_up(&mut self, command: CommandNo) -> usize {
        let place = self.commands.binary_search_by_key(&command, |it| it.0);
        let place = place.expect("a command that is given up is in flight");
        let first = self.commands.range(..place).map(|it| it.1).sum::<usize>();
        let (_, count) = self.commands.remove(place).expect("it was found there");
        let before = self.bytes;
        self.bytes -= self.steps.drain(first..first + count).map(|step| step.bytes()).sum::<usize>();
        // What it said about its keys hides what older ones say: the index begins again.
        self.index = Index::default();
        self.indexed = 0;
        self.take_up(self.steps.len().saturating_sub(AHEAD_MAX));
        before - self.bytes
    }

    /// Forgets all writes: nothing may be computed from them any more.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.commands.clear();
        self.index = Index::default();
        self.indexed = 0;
        self.bytes = 0;
        self.give_back();
    }

    /// Keys and values of the writes in flight.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no command is in flight.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Asserts the stated invariants.
    pub(super) fn check(&self) {
        let counted: usize = self.commands.iter().map(|command| command.1).sum();
        assert_eq!(counted, self.steps.len(), "writes in flight that no command has");
        assert!(self.commands.iter().is_sorted_by(|one, next| one.0 < next.0), "commands out of order");
        assert!(
            self.steps.len() - self.indexed <= AHEAD_MAX,
            "{} are not indexed",
            self.steps.len() - self.indexed
        );
        assert!(self.index.slots.values().all(|slot| slot.pins > 0), "a slot without a write in flight");
        let pins: usize = self.index.slots.values().map(|slot| slot.pins as usize).sum();
        assert_eq!(pins + self.index.ranges.len(), self.indexed, "the index is not of the oldest writes");
        assert!(!self.steps.is_empty() || self.bytes == 0, "{} bytes of no write in flight", self.bytes);
    }

    fn begin(&mut self, step: Step) {
        self.bytes += step.bytes();
        self.steps.push_back(step);
        let (_, count) = self.commands.back_mut().expect("a write belongs to a command that has begun");
        *count += 1;
        if self.steps.len() - self.indexed > AHEAD_MAX {
            self.take_up(1);
        }
    }

    /// Brings up to `count` more writes into the index.
    fn take_up(&mut self, count: usize) {
        let upto = self.steps.len().min(self.indexed.saturating_add(count));
        for step in self.steps.range(self.indexed..upto) {
            self.index.begin(step);
        }
        self.indexed = upto;
    }

    /// Gives back what an empty queue keeps for the next writes.
    pub(super) fn release(&mut self) {
        self.steps.shrink_to_fit();
        self.commands.shrink_to_fit();
        self.index.ranges.shrink_to_fit();
    }

    /// Memory of its queues, what is in them aside.
    pub(super) fn queue_bytes(&self) -> usize {
        self.steps.capacity() * size_of::<Step>()
            + self.commands.capacity() * size_of::<(CommandNo, usize)>()
            + self.index.ranges.capacity() * size_of::<(Bytes, Bytes)>()
    }

    fn give_back(&mut self) {
        if self.steps.is_empty() {
            self.steps.shrink_to(KEPT_MAX);
        }
    }
}

impl Step {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.stored_bytes(),
            Self::DeleteRange(start, end) => start.len() + end.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

impl Index {
    fn known(&self, key: &[u8]) -> Known {
        match self.slots.get(key).map(|slot| &slot.value) {
            Some(Some(value)) => Known::Value(value.clone()),
            Some(None) => Known::Absent,
            None if self.ranges.iter().any(|(start, end)| within(key, start, end)) => Known::Absent,
            None => Known::Nothing,
        }
    }

    fn begin(&mut self, step: &Step) {
        match step {
            Step::Put(key, value) => self.pin(key, Some(value)),
            Step::Delete(key) => self.pin(key, None),
            Step::DeleteRange(start, end) => {
                let above = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&end[..]) };
                if end.is_empty() || start < end {
                    let inside = self.slots.range_mut::<[u8], _>((Bound::Included(&start[..]), above));
                    inside.for_each(|(_, slot)| slot.value = None);
                }
                self.ranges.push_back((start.clone(), end.clone()));
            }
        }
    }

    fn pin(&mut self, key: &Bytes, value: Option<&TimedValue>) {
        let slot = self.slots.entry(key.clone()).or_insert(Slot { pins: 0, value: None });
        slot.pins += 1;
        slot.value = value.cloned();
    }

    /// The oldest write has ended.
    fn end(&mut self, step: &Step) {
        match step {
            Step::Put(key, _) | Step::Delete(key) => {
                let slot = self.slots.get_mut(key).expect("a pinned key has a slot");
                slot.pins -= 1;
                if slot.pins == 0 {
                    self.slots.remove(key);
                }
            }
            Step::DeleteRange(start, end) => {
                let oldest = self.ranges.pop_front().expect("a range ends once, after it began");
                debug_assert_eq!((&oldest.0, &oldest.1), (start, end), "ranges end in order");
            }
        }
    }
}

/// Whether `key` lies in `[start, end)`; an empty end means no bound.
pub fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    key >= start && (end.is_empty() || key < end)
}

#[cfg(test)]
#[path = "inflight_tests.rs"]
mod tests;
