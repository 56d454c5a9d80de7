//! What one client knows of its keys, each of which it alone writes, and what may therefore be read.
//!
//! A write whose answer was not heard may happen at any later time: it may wait at a leader, or on its way to one. So its value is
//! possible for ever, once. A value that was read or acknowledged and a refusal are certain.

use std::collections::BTreeMap;

/// A write's number; 0 stands for a key that was never written.
pub type Number = u64;

/// The keys of one client.
#[derive(Debug, Default)]
pub struct Registers {
    keys: BTreeMap<usize, Register>,
}

#[derive(Debug, Default)]
struct Register {
    /// What was acknowledged or read last.
    certain: Number,
    /// Writes without an answer that were not seen yet.
    possible: Vec<Number>,
}

/// How a value that was read compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is what was acknowledged or read last.
    Expected,
    /// It is a write whose answer was not heard.
    Happened,
    /// It is none that can be there. The number is what should have been.
    Wrong(Number),
}

impl Registers {
    /// Every key that was written, and what was acknowledged or read of it last.
    pub fn certain(&self) -> impl Iterator<Item = (usize, Number)> {
        self.keys.iter().map(|(key, register)| (*key, register.certain))
    }

    /// A write was acknowledged.
    pub fn acknowledged(&mut self, key: usize, number: Number) {
        self.keys.entry(key).or_default().certain = number;
    }

    /// The answer to a write was not heard, or said that its outcome is unknown.
    pub fn unknown(&mut self, key: usize, number: Number) {
        self.keys.entry(key).or_default().possible.push(number);
    }

    /// A value was read while no write of the key was in flight.
    pub fn read(&mut self, key: usize, number: Number) -> Seen {
        let register = self.keys.entry(key).or_default();
        if register.certain == number {
            return Seen::Expected;
        }
        match register.possible.iter().position(|possible| *possible == number) {
            Some(place) => {
                register.possible.swap_remove(place);
                register.certain = number;
                Seen::Happened
            }
            None => Seen::Wrong(register.certain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_acknowledged_last_or_is_unknown_may_be_read() {
        let mut registers = Registers::default();
        assert_eq!(registers.read(1, 0), Seen::Expected, "it was never written");
        registers.acknowledged(1, 5);
        assert_eq!(registers.read(1, 5), Seen::Expected);
        assert_eq!(registers.read(1, 0), Seen::Wrong(5), "an acknowledged write is gone");
        registers.unknown(1, 6);
        registers.acknowledged(1, 7);
        assert_eq!(registers.read(1, 5), Seen::Wrong(7), "a stale read");
        assert_eq!(registers.read(1, 7), Seen::Expected);
        assert_eq!(registers.read(1, 6), Seen::Happened, "it was on its way until now");
        assert_eq!(registers.read(1, 7), Seen::Wrong(6), "it cannot come back");
        assert_eq!(registers.read(1, 6), Seen::Expected);
        assert_eq!(registers.certain().collect::<Vec<_>>(), [(1, 6)]);
    }
}
