//! Which of a connection's commands have to wait for earlier ones of the same connection.
//!
//! What a connection expects of its own keys is kept:
//!
//! * Operations on one key take effect in the order in which they are submitted (the gateway's promise), except that a read
//!   may overtake a write. So a read of a key that an unanswered command here writes is put off until that command is
//!   answered.
//! * A write of a key that an unanswered read is still to see is put off until that read is answered, so that the read does not see
//!   too much. Most reads are answered when they start.
//! * Everything else goes at once. Put-off commands are started in their order.
//!
//! Keys are compared by hash: a collision puts a command off without need, which does no harm. Commands are known by their
//! numbers alone, which ascend; nothing here knows what a command is.

use std::collections::VecDeque;

use crate::request::{Atomic, Op};
use crate::wire::resp::data::Work;

/// More keys than this count as all keys.
const KEYS_KEPT_APART: usize = 32;
/// The hash that stands for all keys.
const EVERY_KEY: u64 = u64::MAX;

/// The order of one connection's commands.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Keys that unanswered commands write, with the command's number, ascending.
    writes: VecDeque<(u64, u64)>,
    /// Keys of reads that have started and were not answered at once, with the command's number.
    reads: Vec<(u64, u64)>,
    /// Commands that were put off, ascending.
    put_off: VecDeque<PutOff>,
}

#[derive(Debug)]
struct PutOff {
    number: u64,
    /// To be started when this command is answered.
    until: u64,
    writes: bool,
    hashes: Vec<u64>,
}

/// A command that may start now.
#[derive(Debug)]
pub(super) struct Starts {
    number: u64,
    /// What it reads, if it is a read.
    reads: Reads,
}

#[derive(Debug)]
enum Reads {
    Nothing,
    One(u64),
    Many(Vec<u64>),
}

impl Order {
    /// Takes in a command. Nothing if it may not start now: then [`Order::answered`] says when.
    pub(super) fn admit(&mut self, number: u64, work: &Work, writes: bool) -> Option<Starts> {
        let until = match writes {
            true => self.put_off_before(work).max(self.read_before(work)),
            false => self.write_before(work),
        };
        if writes {
            each_hash(work, |hash| self.writes.push_back((number, hash)));
        }
        let Some(until) = until else {
            let reads = if writes { Reads::Nothing } else { Reads::of(work) };
            return Some(Starts { number, reads });
        };
        let mut hashes = Vec::new();
        each_hash(work, |hash| hashes.push(hash));
        self.put_off.push_back(PutOff { number, until, writes, hashes });
        None
    }

    /// A command has started, and was not answered at once.
    pub(super) fn runs(&mut self, starts: Starts) {
        let Starts { number, reads } = starts;
        match reads {
            Reads::Nothing => {}
            Reads::One(hash) => self.reads.push((number, hash)),
            Reads::Many(hashes) => self.reads.extend(hashes.into_iter().map(|hash| (number, hash))),
        }
    }

    /// All commands before number `answered` are answered: `start` starts those that may start now, in their order, and says whether
    /// they were answered at once.
    pub(super) fn answered(&mut self, answered: u64, mut start: impl FnMut(u64) -> bool) {
        while self.writes.front().is_some_and(|&(number, _)| number < answered) {
            self.writes.pop_front();
        }
        self.reads.retain(|&(number, _)| number >= answered);
        let reads = &mut self.reads;
        self.put_off.retain_mut(|waiting| {
            if waiting.until >= answered {
                return true;
            }
            let still = |hash: &u64| last_meeting(reads, *hash, waiting.number);
            if waiting.writes
                && let Some(until) = waiting.hashes.iter().filter_map(still).max()
            {
                // A read that was put off with it has only begun.
                waiting.until = until;
                return true;
            }
            if !start(waiting.number) && !waiting.writes {
                reads.extend(waiting.hashes.iter().map(|hash| (waiting.number, *hash)));
            }
            false
        });
    }

    /// Whether nothing that is in flight concerns later commands.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.reads.is_empty() && self.put_off.is_empty()
    }

    /// The last unanswered command that writes a key of `work`.
    fn write_before(&self, work: &Work) -> Option<u64> {
        if self.writes.is_empty() {
            return None;
        }
        let mut until = None;
        each_hash(work, |hash| {
            let found = self.writes.iter().rev().find(|&&(_, written)| meet(hash, written));
            until = until.max(found.map(|&(number, _)| number));
        });
        until
    }

    /// The last unanswered command that reads a key of `work` and is to see it as it was before.
    fn read_before(&self, work: &Work) -> Option<u64> {
        if self.reads.is_empty() {
            return None;
        }
        let mut until = None;
        each_hash(work, |hash| until = until.max(last_meeting(&self.reads, hash, u64::MAX)));
        until
    }

    /// What the last put-off command that touches a key of `work` waits for.
    fn put_off_before(&self, work: &Work) -> Option<u64> {
        if self.put_off.is_empty() {
            return None;
        }
        let mut until = None;
        each_hash(work, |hash| {
            let meeting =
                self.put_off.iter().filter(|waiting| waiting.hashes.iter().any(|&other| meet(hash, other)));
            until = until.max(meeting.map(|waiting| waiting.until).max());
        });
        until
    }
}

impl Reads {
    fn of(work: &Work) -> Self {
        if let Work::One(Op::Get { key }) = work {
            return Self::One(hash(key));
        }
        let mut hashes = Vec::new();
        each_hash(work, |hash| hashes.push(hash));
        Self::Many(hashes)
    }
}

/// The last command before number `before` that reads the key of `hash`.
fn last_meeting(reads: &[(u64, u64)], hash: u64, before: u64) -> Option<u64> {
    reads
        .iter()
        .filter(|&&(number, read)| number < before && meet(hash, read))
        .map(|&(number, _)| number)
        .max()
}

fn meet(one: u64, other: u64) -> bool {
    one == other || one == EVERY_KEY || other == EVERY_KEY
}

/// Visits the hash of every key of `work`, or [`EVERY_KEY`] where they are too many or not known.
fn each_hash(work: &Work, mut visit: impl FnMut(u64)) {
    match work {
        Work::One(op) => each_hash_of(op, &mut visit),
        Work::Each(ops) if ops.len() <= KEYS_KEPT_APART => {
            ops.iter().for_each(|op| each_hash_of(op, &mut visit));
        }
        Work::Each(_) => visit(EVERY_KEY),
    }
}

fn each_hash_of(op: &Op, visit: &mut impl FnMut(u64)) {
    match op {
        Op::Get { key }
        | Op::Expiry { key }
        | Op::Put { key, .. }
        | Op::Delete { key, .. }
        | Op::Modify { key, .. } => visit(hash(key)),
        Op::BatchGet { keys, .. }
        | Op::Lengths { keys, .. }
        | Op::BatchDelete { keys }
        | Op::Watch { keys }
            if keys.len() <= KEYS_KEPT_APART =>
        {
            keys.iter().for_each(|key| visit(hash(key)));
        }
        Op::BatchPut { pairs } | Op::PutAbsent { pairs } if pairs.len() <= KEYS_KEPT_APART => {
            pairs.iter().for_each(|(key, _)| visit(hash(key)));
        }
        Op::PutTimed { puts } if puts.len() <= KEYS_KEPT_APART => {
            puts.iter().for_each(|(key, ..)| visit(hash(key)));
        }
        Op::Copy { from, to, remove: _, replace: _ } => {
            [from, to].into_iter().for_each(|key| visit(hash(key)))
        }
        Op::Atomic(Atomic { watched, steps }) if watched.is_empty() && steps.len() == 1 => {
            each_hash_of(&steps[0], visit);
        }
        Op::BatchGet { .. }
        | Op::Lengths { .. }
        | Op::BatchDelete { .. }
        | Op::Watch { .. }
        | Op::BatchPut { .. }
        | Op::PutTimed { .. }
        | Op::PutAbsent { .. }
        | Op::DeleteRange { .. }
        | Op::Scan(_)
        | Op::Atomic(_) => visit(EVERY_KEY),
    }
}

/// Multiply and rotate, eight bytes at a time: fast, and good enough to tell a pipeline's keys apart.
fn hash(key: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut state = key.len() as u64;
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        let word =
            u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
        state = (state.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER);
    }
    for &byte in words.remainder() {
        state = (state.rotate_left(5) ^ u64::from(byte)).wrapping_mul(MULTIPLIER);
    }
    state
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn read(keys: impl IntoIterator<Item = usize>) -> Work {
        let keys = keys.into_iter().map(|n| Bytes::from(format!("key{n}"))).collect();
        Work::One(Op::BatchGet { keys, at_once: false })
    }

    fn write(keys: impl IntoIterator<Item = usize>) -> Work {
        let pairs = keys.into_iter().map(|n| (Bytes::from(format!("key{n}")), Bytes::new())).collect();
        Work::One(Op::BatchPut { pairs })
    }

    /// More keys than are distinguished meet every other key, whichever side has them.
    #[test]
    fn many_keys_wait_for_every_key_and_every_key_waits_for_them() {
        for (writes, reads, starts) in [
            (0..1, 0..1, false),
            (0..1, 1..2, true),
            (0..1, 1..KEYS_KEPT_APART + 1, true),
            (0..1, 1..KEYS_KEPT_APART + 2, false),
            (1..KEYS_KEPT_APART + 1, 0..1, true),
            (1..KEYS_KEPT_APART + 2, 0..1, false),
        ] {
            let mut order = Order::default();
            assert!(order.admit(0, &write(writes.clone()), true).is_some(), "nothing is before it");
            let starts_now = order.admit(1, &read(reads.clone()), false).is_some();
            assert_eq!(starts_now, starts, "{writes:?} {reads:?}");
        }
    }

    /// What is a transaction of one step by itself concerns its keys and no others.
    #[test]
    fn a_rename_concerns_both_of_its_keys() {
        let rename = || {
            let step = Op::Copy { from: "key0".into(), to: "key1".into(), remove: true, replace: true };
            Work::One(Op::Atomic(Atomic { watched: Vec::new(), steps: vec![step] }))
        };
        for (key, starts) in [(0, false), (1, false), (2, true)] {
            let mut order = Order::default();
            assert!(order.admit(0, &rename(), true).is_some(), "nothing is before it");
            assert_eq!(order.admit(1, &read(key..key + 1), false).is_some(), starts, "key{key}");
            let mut order = Order::default();
            let reading = order.admit(0, &read(key..key + 1), false).expect("nothing is before it");
            order.runs(reading);
            assert_eq!(order.admit(1, &rename(), true).is_some(), starts, "key{key}");
        }
    }

    #[test]
    fn what_waits_starts_when_the_command_that_it_waits_for_is_answered_and_in_order() {
        let mut order = Order::default();
        assert!(order.admit(0, &write(0..1), true).is_some());
        assert!(order.admit(1, &write(1..2), true).is_some());
        assert!(order.admit(2, &read(1..2), false).is_none());
        assert!(order.admit(3, &read(0..1), false).is_none());
        assert!(order.admit(4, &write(0..1), true).is_none(), "the read before it must not see it");
        let mut started = Vec::new();
        for answered in 1..=2 {
            order.answered(answered, |number| {
                started.push((answered, number));
                true
            });
        }
        assert_eq!(started, [(1, 3), (1, 4), (2, 2)]);
        order.answered(5, |number| panic!("{number} starts twice"));
        assert!(order.is_empty());
    }

    #[test]
    fn a_write_waits_for_a_read_of_its_key_that_was_not_answered_at_once() {
        let mut order = Order::default();
        let reading = order.admit(0, &read(0..2), false).expect("nothing is before it");
        order.runs(reading);
        let at_once = order.admit(1, &read(2..3), false);
        assert!(at_once.is_some(), "reads do not wait for reads");
        assert!(order.admit(2, &write(1..2), true).is_none(), "the read is to see what was there before");
        assert!(order.admit(3, &write(2..3), true).is_some(), "the read of this key was answered at once");
        let mut started = Vec::new();
        order.answered(1, |number| {
            started.push(number);
            true
        });
        assert_eq!(started, [2]);
        order.answered(4, |number| panic!("{number} starts twice"));
        assert!(order.is_empty());
    }

    #[test]
    fn a_write_that_was_put_off_with_a_read_waits_until_that_is_answered() {
        let mut order = Order::default();
        assert!(order.admit(0, &write(0..1), true).is_some());
        assert!(order.admit(1, &read(0..1), false).is_none());
        assert!(order.admit(2, &write(0..1), true).is_none());
        let mut started = Vec::new();
        order.answered(1, |number| {
            started.push(number);
            false
        });
        assert_eq!(started, [1], "the read has begun, and is not answered");
        order.answered(2, |number| {
            started.push(number);
            false
        });
        assert_eq!(started, [1, 2]);
        order.answered(3, |number| panic!("{number} starts twice"));
        assert!(order.is_empty());
    }
}
