//! What a `SCAN` cursor stands for.
//!
//! Redis' clients send a number back to go on with a scan, perhaps on another connection and so on another core. A position
//! in key order is a key, which no number can hold, so the node remembers positions: every cursor is a number of its own, and a
//! scan keeps two of them, where it went on last and where it goes on next, however many calls it takes. One table serves
//! all cores of a node; its lock is held for a copy of one key and only by `SCAN`, never by a command that names its keys.
//!
//! * A cursor may be used again until the next one is. Then its scan has gone on, and using it is an error, never a scan that
//!   silently ends early or leaves keys out.
//! * A position belongs to the connection that used it last. A connection keeps [`SHARE_POSITIONS`] positions and
//!   [`SHARE_KEY_BYTES`] of keys; with more it loses the ones it has not used for longest.
//! * No connection loses a position to others while it was used within [`KEPT`]. When the table is full of such positions, new scans
//!   are refused and those in progress go on.
//! * A cursor is good on the node that returned it, until that node stops. `RANGE` needs no cursor and works everywhere.
//!
//! Invariants: `by_use` and `by_owner` name exactly the positions in `by_cursor`; `bytes` are those of all their keys.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::rt::Mono;

/// Maximum number of positions.
pub const POSITIONS_MAX: usize = 64 << 10;
/// Maximum bytes of the keys of all positions.
pub const KEY_BYTES_MAX: usize = 32 << 20;
/// Positions of one connection.
pub const SHARE_POSITIONS: usize = 64;
/// Bytes of the keys of one connection's positions.
pub const SHARE_KEY_BYTES: usize = 512 << 10;
/// How long a position that is not used is safe from others.
pub const KEPT: Duration = Duration::from_secs(10 * 60);

/// The positions of one node. Clones share them.
#[derive(Clone, Debug)]
pub struct Cursors(Arc<Mutex<Positions>>);

#[derive(Debug)]
struct Positions {
    /// The latest cursor.
    last_cursor: u64,
    /// The latest use, as a count.
    uses: u64,
    by_cursor: HashMap<u64, Position, foldhash::fast::FixedState>,
    /// Cursors by their last use.
    by_use: BTreeMap<u64, u64>,
    /// The same by connection.
    by_owner: HashMap<u64, Share, foldhash::fast::FixedState>,
    bytes: usize,
}

#[derive(Debug)]
struct Position {
    key: Box<[u8]>,
    /// The cursor that led here.
    previous: u64,
    owner: u64,
    used: u64,
    used_at: Mono,
}

#[derive(Debug, Default)]
struct Share {
    by_use: BTreeMap<u64, u64>,
    bytes: usize,
}

/// Who calls, and when.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The connection's id.
    pub owner: u64,
    /// Now.
    pub now: Mono,
}

impl Cursors {
    /// An empty table. A random `seed` keeps the cursors of an earlier run from meaning something in this one.
    pub fn new(seed: u64) -> Self {
        // Some clients keep cursors in a double, which is exact up to 2^53.
        let positions = Positions {
            last_cursor: seed >> 20,
            uses: 0,
            by_cursor: HashMap::default(),
            by_use: BTreeMap::new(),
            by_owner: HashMap::default(),
            bytes: 0,
        };
        Self(Arc::new(Mutex::new(positions)))
    }

    /// A cursor that stands for `key`, of the scan that `previous` belongs to; 0 when it has just begun. Never 0. `None` when the
    /// table is full of scans in progress.
    pub fn remember(&self, key: &[u8], previous: u64, call: Caller) -> Option<u64> {
        let positions = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = positions.by_cursor.get(&previous).map(|position| position.previous) {
            positions.forget(before);
        }
        positions.keep_share(key.len(), call.owner);
        if !positions.make_room(key.len(), call.now) {
            // A scan in progress goes on in the place of its last step.
            if previous == 0 {
                return None;
            }
            positions.forget(previous);
        }
        positions.last_cursor += 1;
        let cursor = positions.last_cursor;
        positions.insert(cursor, key.into(), previous, call);
        Some(cursor)
    }

    /// The key that `cursor` stands for, unless it was forgotten. It is the caller's from now on.
    pub fn recall(&self, cursor: u64, call: Caller) -> Option<Vec<u8>> {
        let positions = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Position { key, previous, .. } = positions.forget(cursor)?;
        let copy = key.to_vec();
        positions.insert(cursor, key, previous, call);
        Some(copy)
    }
}

impl Positions {
    fn insert(&mut self, cursor: u64, key: Box<[u8]>, previous: u64, Caller { owner, now }: Caller) {
        self.uses += 1;
        let used = self.uses;
        self.bytes += key.len();
        self.by_use.insert(used, cursor);
        let share = self.by_owner.entry(owner).or_default();
        share.by_use.insert(used, cursor);
        share.bytes += key.len();
        self.by_cursor.insert(cursor, Position { key, previous, owner, used, used_at: now });
    }

    fn forget(&mut self, cursor: u64) -> Option<Position> {
        let position = self.by_cursor.remove(&cursor)?;
        self.bytes -= position.key.len();
        self.by_use.remove(&position.used);
        if let Some(share) = self.by_owner.get_mut(&position.owner) {
            share.bytes -= position.key.len();
            share.by_use.remove(&position.used);
            if share.by_use.is_empty() {
                self.by_owner.remove(&position.owner);
            }
        }
        Some(position)
    }

    /// Evicts the oldest positions of `owner` for a further one, if it has too many.
    fn keep_share(&mut self, bytes: usize, owner: u64) {
        while let Some(share) = self.by_owner.get(&owner)
            && (share.by_use.len() >= SHARE_POSITIONS || share.bytes + bytes > SHARE_KEY_BYTES)
            && let Some((_, &oldest)) = share.by_use.first_key_value()
        {
            self.forget(oldest);
        }
    }

    /// Evicts positions that were not used for long. Whether there is room for a further one.
    fn make_room(&mut self, bytes: usize, now: Mono) -> bool {
        while self.by_cursor.len() >= POSITIONS_MAX || self.bytes + bytes > KEY_BYTES_MAX {
            let Some((_, &oldest)) = self.by_use.first_key_value() else { return true };
            let idle = self.by_cursor.get(&oldest).map(|position| now.since(position.used_at));
            if idle.is_some_and(|idle| idle < KEPT) {
                return false;
            }
            self.forget(oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: u64 = 1;

    fn call(owner: u64) -> Caller {
        Caller { owner, now: Mono(5) }
    }

    #[test]
    fn a_scan_keeps_two_positions_however_long_it_is() {
        let cursors = Cursors::new(u64::MAX);
        let mut steps = vec![cursors.remember(b"0", 0, call(ME)).unwrap()];
        assert!(steps[0] > 0 && steps[0] < 1 << 53);
        for step in 1..100_000u64 {
            let last = steps[steps.len() - 1];
            assert_eq!(cursors.recall(last, call(ME)), Some((step - 1).to_string().into_bytes()));
            steps.push(cursors.remember(step.to_string().as_bytes(), last, call(ME)).unwrap());
        }
        let kept: Vec<&u64> =
            steps.iter().filter(|&&cursor| cursors.recall(cursor, call(ME)).is_some()).collect();
        assert_eq!(kept, steps[steps.len() - 2..].iter().collect::<Vec<_>>());
        assert_eq!(cursors.recall(0, call(ME)), None);
        assert_eq!(cursors.recall(steps[steps.len() - 1] + 1, call(ME)), None);
    }

    #[test]
    fn a_slow_scan_survives_any_number_of_calls_of_others() {
        let cursors = Cursors::new(0);
        let slow = cursors.remember(b"slow", 0, call(ME)).unwrap();
        let mut refused = 0;
        for n in 0..4 * POSITIONS_MAX as u64 {
            refused += usize::from(cursors.remember(b"theirs", 0, call(2 + n % 5000)).is_none());
        }
        assert!(refused > 0, "the table never became full");
        assert_eq!(cursors.recall(slow, call(ME)).as_deref(), Some(&b"slow"[..]));
        let next = cursors.remember(b"slow 2", slow, call(ME)).expect("a scan in progress goes on");
        assert_eq!(cursors.recall(next, call(ME)).as_deref(), Some(&b"slow 2"[..]));
    }

    #[test]
    fn positions_that_are_not_used_for_long_make_room_for_new_scans() {
        let cursors = Cursors::new(0);
        let mut owner = 2;
        while cursors.remember(b"old", 0, call(owner)).is_some() {
            owner += 1;
            assert!(owner <= POSITIONS_MAX as u64 + 2, "the table never becomes full");
        }
        assert_eq!(cursors.0.lock().unwrap().by_cursor.len(), POSITIONS_MAX);
        let later = Caller { owner: ME, now: Mono(5 + KEPT.as_nanos() as u64) };
        assert!(cursors.remember(b"new", 0, later).is_some());
        assert_eq!(cursors.0.lock().unwrap().by_cursor.len(), POSITIONS_MAX);
    }

    #[test]
    fn a_connection_with_too_many_scans_loses_its_own() {
        let cursors = Cursors::new(0);
        let theirs = cursors.remember(b"theirs", 0, call(2)).unwrap();
        let mine: Vec<u64> =
            (0..SHARE_POSITIONS + 1).map(|_| cursors.remember(b"mine", 0, call(ME)).unwrap()).collect();
        assert_eq!(cursors.recall(mine[0], call(ME)), None);
        assert!(mine[1..].iter().all(|&cursor| cursors.recall(cursor, call(ME)).is_some()));
        assert!(cursors.recall(theirs, call(2)).is_some());
        let key = vec![7; 8 << 10];
        let long: Vec<u64> = (0..100).map(|_| cursors.remember(&key, 0, call(ME)).unwrap()).collect();
        let kept = long.iter().filter(|&&cursor| cursors.recall(cursor, call(ME)).is_some()).count();
        assert!(kept * key.len() <= SHARE_KEY_BYTES && kept > 60, "{kept}");
        let positions = cursors.0.lock().unwrap();
        assert_eq!(
            positions.bytes,
            positions.by_cursor.values().map(|position| position.key.len()).sum::<usize>()
        );
        assert_eq!(positions.by_use.len(), positions.by_cursor.len());
    }
}
