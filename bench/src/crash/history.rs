//! What is known about every key of one writer, and what may therefore be read back.

use std::collections::{BTreeMap, VecDeque};

/// What a write leaves in its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The value number `n` of that length.
    Value {
        /// Its number, unique within the writer.
        number: u64,
        /// Its length, bytes; at least what its text needs.
        bytes: usize,
    },
    /// Nothing: it was a deletion.
    Gone,
}

/// How a key that was read compares with what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds the last acknowledged write.
    Kept,
    /// It holds a write that was in flight when the node died.
    Happened,
    /// It holds neither.
    Lost,
}

/// The writes of one writer, key by key.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<usize, Key>,
    /// Writes acknowledged so far.
    pub acknowledged: u64,
    /// Writes without an acknowledgement or a refusal.
    pub unknown: u64,
    /// Of those, the ones found to have happened.
    pub unknown_happened: u64,
}

#[derive(Debug)]
struct Key {
    /// What the last acknowledged write left; a key that was never written is gone.
    settled: Effect,
    /// Writes sent and not answered, oldest first.
    open: VecDeque<Effect>,
}

impl Default for Key {
    fn default() -> Self {
        Self { settled: Effect::Gone, open: VecDeque::new() }
    }
}

impl History {
    /// A write was sent.
    pub fn sent(&mut self, key: usize, effect: Effect) {
        self.keys.entry(key).or_default().open.push_back(effect);
    }

    /// The oldest write in flight of this key was acknowledged.
    pub fn acknowledged(&mut self, key: usize) {
        let known = self.keys.entry(key).or_default();
        known.settled = known.open.pop_front().expect("a write was sent before it is acknowledged");
        self.acknowledged += 1;
    }

    /// The oldest write in flight of this key was refused: it has not happened and never will.
    pub fn refused(&mut self, key: usize) {
        self.keys.entry(key).or_default().open.pop_front();
    }

    /// The connection is gone: the outcome of the writes in flight stays unknown.
    pub fn lost_touch(&mut self) {
        self.unknown += self.keys.values().map(|known| known.open.len() as u64).sum::<u64>();
    }

    /// Every key that was ever written.
    pub fn keys(&self) -> Vec<usize> {
        self.keys.keys().copied().collect()
    }

    /// Compares what was read after a restart; `matches` says whether an effect is what was read. Whatever it was counts
    /// as settled afterwards, because a write that has not happened by then never will.
    pub fn compare(&mut self, key: usize, matches: impl Fn(Effect) -> bool) -> Verdict {
        let known = self.keys.entry(key).or_default();
        let open = std::mem::take(&mut known.open);
        if matches(known.settled) {
            return Verdict::Kept;
        }
        // Writes of one connection take effect in the order they were sent, so any prefix may have happened.
        match open.into_iter().find(|effect| matches(*effect)) {
            Some(effect) => {
                known.settled = effect;
                self.unknown_happened += 1;
                Verdict::Happened
            }
            None => Verdict::Lost,
        }
    }

    /// What must be there, for a finding.
    pub fn expected(&self, key: usize) -> Effect {
        self.keys.get(&key).map_or(Effect::Gone, |known| known.settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(number: u64) -> Effect {
        Effect::Value { number, bytes: 64 }
    }

    fn reads(effect: Effect) -> impl Fn(Effect) -> bool {
        move |other| other == effect
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let mut history = History::default();
        history.sent(1, value(1));
        history.acknowledged(1);
        assert_eq!(history.compare(1, reads(value(1))), Verdict::Kept);
        assert_eq!(history.compare(1, reads(Effect::Gone)), Verdict::Lost);
        assert_eq!(history.compare(1, reads(value(2))), Verdict::Lost);
    }

    #[test]
    fn an_open_write_may_be_there_but_must_not_go_back() {
        let mut history = History::default();
        history.sent(1, value(1));
        history.acknowledged(1);
        history.sent(1, value(2));
        history.sent(1, Effect::Gone);
        history.lost_touch();
        assert_eq!(history.unknown, 2);
        assert_eq!(history.compare(1, reads(value(2))), Verdict::Happened);
        assert_eq!(history.unknown_happened, 1);
        assert_eq!(history.compare(1, reads(value(1))), Verdict::Lost, "once seen, it stays");
    }

    #[test]
    fn an_open_write_that_did_not_happen_never_will() {
        let mut history = History::default();
        history.sent(1, value(1));
        history.lost_touch();
        assert_eq!(history.compare(1, reads(Effect::Gone)), Verdict::Kept);
        assert_eq!(history.compare(1, reads(value(1))), Verdict::Lost, "it rose from the dead");
    }

    #[test]
    fn an_overwritten_value_must_not_come_back() {
        let mut history = History::default();
        for number in 1..=3 {
            history.sent(1, value(number));
            history.acknowledged(1);
        }
        assert_eq!(history.compare(1, reads(value(2))), Verdict::Lost);
        assert_eq!(history.compare(1, reads(value(3))), Verdict::Kept);
    }
}
