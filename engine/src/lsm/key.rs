//! The words that every part of the tree shares: column families, sequence numbers, the order of entries.
//!
//! Entries are ordered by key ascending, then by sequence number *descending*, so that the first entry at or after
//! `(key, snapshot)` is the version that the snapshot sees.

use std::cmp::Ordering;

/// A column family: an independent key space with its own levels. The first three are TiKV's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cf {
    /// Values, and everything of the raw API.
    Default,
    /// Locks of open transactions: short-lived.
    Lock,
    /// Commit records.
    Write,
    /// What the caller keeps for itself. No key of a user lies here.
    System,
}

impl Cf {
    /// All of them, in the order of [`Cf::index`].
    pub const ALL: [Cf; 4] = [Cf::Default, Cf::Lock, Cf::Write, Cf::System];

    /// Position in per-family arrays, and the byte on disk.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The family with this byte on disk.
    pub fn from_byte(byte: u8) -> Option<Cf> {
        Cf::ALL.get(usize::from(byte)).copied()
    }

    /// Lower-case name, as shown to operators.
    pub const fn name(self) -> &'static str {
        match self {
            Cf::Default => "default",
            Cf::Lock => "lock",
            Cf::Write => "write",
            Cf::System => "system",
        }
    }
}

/// Position of one operation in the history of a tree. Starts at 1, grows by one with each operation, never repeats within
/// one run; after a restart it goes on above everything that a table holds. 0 means "before everything".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SeqNo(pub u64);

impl SeqNo {
    /// Above every operation: a read at `MAX` sees the newest version.
    pub const MAX: SeqNo = SeqNo(u64::MAX >> 1);
}

/// Whether an entry holds a value or says that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Delete,
    Put,
    /// A value that expires: what the entry has is a dated value ([`super::expiry`]).
    PutUntil,
}

/// The order of entries: key ascending, newest first.
pub(crate) fn entry_order(a: (&[u8], SeqNo), b: (&[u8], SeqNo)) -> Ordering {
    a.0.cmp(b.0).then(b.1.cmp(&a.1))
}

/// Which way an iterator walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Reverse,
}

/// The hash behind every filter. Part of the table format.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// Whether `key` lies in `[start, end)`; an empty `end` means "no upper bound".
pub(crate) fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    key >= start && (end.is_empty() || key < end)
}

/// Whether `[a, a_end)` and `[b, b_end)` share a key; an empty end means "no upper bound".
pub(crate) fn ranges_overlap(a: &[u8], a_end: &[u8], b: &[u8], b_end: &[u8]) -> bool {
    (b_end.is_empty() || a < b_end) && (a_end.is_empty() || b < a_end)
}

/// The smaller of two upper bounds, where empty means "none".
pub(crate) fn lower_end<'a>(a: &'a [u8], b: &'a [u8]) -> &'a [u8] {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b,
        (_, true) => a,
        _ => a.min(b),
    }
}

/// The smallest key above `key`.
pub(crate) fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}
