//! What a `SCAN` cursor stands for.
//!
//! Redis' clients send a number back to go on with a scan, perhaps on another connection and so on another core. A position
//! in key order is a key, which no number can hold, so the node remembers the last few thousand positions: cursor `n` is the
//! `n`-th position handed out. One table serves all cores of a node; its lock is held for a copy of one key and only by
//! `SCAN`, never by a command that names its keys.
//!
//! * A cursor may be used more than once.
//! * A cursor is forgotten when [`POSITIONS_MAX`] newer ones exist or their keys exceed [`KEY_BYTES_MAX`]. Using it is then
//!   an error, never a scan that silently ends early.
//! * A cursor is good on the node that gave it, until that node stops. `RANGE` needs no cursor and works everywhere.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Most positions remembered.
pub const POSITIONS_MAX: usize = 16 << 10;
/// Most bytes of remembered keys.
pub const KEY_BYTES_MAX: usize = 4 << 20;

/// The positions of one node. Clones share them.
#[derive(Clone, Debug)]
pub struct Cursors(Arc<Mutex<Positions>>);

#[derive(Debug)]
struct Positions {
    /// The cursor of the oldest position.
    first: u64,
    keys: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Cursors {
    /// An empty table. A random `seed` keeps the cursors of an earlier run from meaning something in this one.
    pub fn new(seed: u64) -> Self {
        // Some clients keep cursors in a double, which is exact up to 2^53.
        let first = (seed >> 20) + 1;
        Self(Arc::new(Mutex::new(Positions { first, keys: VecDeque::new(), bytes: 0 })))
    }

    /// A cursor that stands for `key`. Never 0, which means the beginning and the end.
    pub fn remember(&self, key: &[u8]) -> u64 {
        let mut positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cursor = positions.first + positions.keys.len() as u64;
        positions.bytes += key.len();
        positions.keys.push_back(key.into());
        while positions.keys.len() > POSITIONS_MAX || positions.bytes > KEY_BYTES_MAX {
            let forgotten = positions.keys.pop_front().unwrap_or_default();
            positions.bytes -= forgotten.len();
            positions.first += 1;
        }
        cursor
    }

    /// The key that `cursor` stands for, unless it was forgotten.
    pub fn recall(&self, cursor: u64) -> Option<Vec<u8>> {
        let positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(cursor.checked_sub(positions.first)?).ok()?;
        positions.keys.get(place).map(|key| key.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_means_its_key_until_it_is_forgotten() {
        let cursors = Cursors::new(u64::MAX);
        let first = cursors.remember(b"first");
        assert!(first > 0 && first < 1 << 53);
        assert_eq!(cursors.recall(first).as_deref(), Some(&b"first"[..]));
        let later: Vec<u64> =
            (0..POSITIONS_MAX).map(|n| cursors.remember(n.to_string().as_bytes())).collect();
        assert_eq!(cursors.recall(first), None);
        assert_eq!(cursors.recall(later[0]).as_deref(), Some(&b"0"[..]));
        assert_eq!(cursors.recall(later[0] + POSITIONS_MAX as u64), None);
        assert_eq!(cursors.recall(0), None);
    }

    #[test]
    fn long_keys_are_forgotten_earlier() {
        let cursors = Cursors::new(0);
        let key = vec![7; 8 << 10];
        let all: Vec<u64> = (0..1000).map(|_| cursors.remember(&key)).collect();
        let kept = all.iter().filter(|&&cursor| cursors.recall(cursor).is_some()).count();
        assert_eq!(kept, KEY_BYTES_MAX / key.len());
    }
}
