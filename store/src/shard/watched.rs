//! Which watched keys have been written since.
//!
//! Whoever watches a key gets a [`Seen`]: the leader's term and a number that is the key's alone. Any write of the key that
//! begins afterwards takes the number back, also one that leaves the same value, so a transaction that rests on it does not
//! run. Where nothing is watched, writes pay for one comparison.
//!
//! Keys are distinguished by a hash that begins with a secret, so that no client finds a key whose writes take back the numbers of
//! another. A collision, a deleted range, a new term and too many watched keys take
//! numbers back without need. That makes a transaction fail which could have run, never the other way round.
//!
//! Invariants: `marks` and `order` hold the same pairs; at most [`WATCHED_MAX`] keys are remembered, the latest.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher};

use crate::region::submit::Edit;
use crate::request::Seen;

/// Watched keys remembered by one store.
const WATCHED_MAX: usize = 16 << 10;

/// The watched keys of one store.
#[derive(Debug)]
pub(super) struct Watched {
    /// By the key's hash.
    marks: HashMap<u64, Seen, foldhash::fast::FixedState>,
    /// The hashes by number, to forget the oldest.
    order: BTreeMap<u64, u64>,
    given: u64,
    secret: u64,
}

impl Watched {
    /// No key is watched. `secret` was drawn for this store.
    pub(super) fn new(secret: u64) -> Self {
        Self { marks: HashMap::default(), order: BTreeMap::new(), given: 0, secret }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.secret);
        hasher.write(key);
        hasher.finish()
    }

    /// Begins to watch `key`, or joins those who do.
    pub(super) fn watch(&mut self, key: &[u8], term: u64) -> Seen {
        let hash = self.hash(key);
        if let Some(mark) = self.marks.get(&hash).filter(|mark| mark.term == term) {
            return *mark;
        }
        self.forget(hash);
        if self.marks.len() >= WATCHED_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.marks.remove(&oldest);
        }
        self.given += 1;
        let mark = Seen { term, number: self.given };
        self.marks.insert(hash, mark);
        self.order.insert(mark.number, hash);
        mark
    }

    /// Whether no write of `key` has begun since it was `seen`, in a term that is still that of the leader.
    pub(super) fn holds(&self, key: &[u8], seen: Seen, term: u64) -> bool {
        seen.term == term && self.marks.get(&self.hash(key)) == Some(&seen)
    }

    /// Writes begin.
    pub(super) fn edited(&mut self, edit: &Edit) {
        if self.marks.is_empty() {
            return;
        }
        match edit {
            Edit::Nothing => {}
            Edit::Put(key, _) | Edit::Delete(key) => self.written(key),
            Edit::Many(pairs) => pairs.iter().for_each(|(key, _)| self.written(key)),
            Edit::DeleteRange(..) => self.range_deleted(),
        }
    }

    /// A write of `key` begins.
    fn written(&mut self, key: &[u8]) {
        if !self.marks.is_empty() {
            self.forget(self.hash(key));
        }
    }

    /// A deletion of a range begins.
    fn range_deleted(&mut self) {
        self.marks.clear();
        self.order.clear();
    }

    fn forget(&mut self, hash: u64) {
        if let Some(mark) = self.marks.remove(&hash) {
            self.order.remove(&mark.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_takes_the_number_back_and_a_read_does_not() {
        let mut watched = Watched::new(7);
        let (a, b) = (watched.watch(b"a", 3), watched.watch(b"b", 3));
        assert!(watched.holds(b"a", a, 3) && watched.holds(b"b", b, 3));
        assert!(!watched.holds(b"a", b, 3) && !watched.holds(b"a", a, 4));
        assert_eq!(watched.watch(b"a", 3), a, "two may watch one key");
        watched.written(b"a");
        assert!(!watched.holds(b"a", a, 3) && watched.holds(b"b", b, 3));
        assert_ne!(watched.watch(b"a", 3), a, "what was seen before the write is gone for good");
        watched.range_deleted();
        assert!(!watched.holds(b"b", b, 3));
    }

    #[test]
    fn a_new_term_begins_anew() {
        let mut watched = Watched::new(7);
        let before = watched.watch(b"a", 3);
        let after = watched.watch(b"a", 4);
        assert!(!watched.holds(b"a", before, 3) && watched.holds(b"a", after, 4));
        assert_eq!(watched.order.len(), 1);
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_too_many() {
        let mut watched = Watched::new(7);
        let key = |n: usize| n.to_string().into_bytes();
        let seen: Vec<Seen> = (0..WATCHED_MAX + 2).map(|n| watched.watch(&key(n), 1)).collect();
        let kept = (0..seen.len()).filter(|&n| watched.holds(&key(n), seen[n], 1)).count();
        assert!(kept >= WATCHED_MAX - 2, "{kept} are left: more than collisions explain were forgotten");
        assert!(!watched.holds(&key(0), seen[0], 1));
        assert_eq!(watched.order.len(), watched.marks.len());
        assert!(watched.marks.len() <= WATCHED_MAX);
    }
}
