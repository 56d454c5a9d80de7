//! What a walk may hold of one block or value, so that whoever has room for a walk knows how much room before anything is held.
//!
//! A walk has a block of each table open, and copies what it finds in memtables a handful at a time. A block is as long as the values in
//! it, so how much a walk holds is up to those who wrote; of long ones it keeps the keys, and the values of those that it read last
//! ([`long`](super::long)). A walk with a bound ends where it would have to hold a longer one, before it does, and says how long that is:
//! its caller makes room and walks again.

use std::cell::Cell;

use super::long::KeptBlocks;

/// How a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkLimits {
    /// Values are left out: none is copied, and none is kept from block to block.
    pub keys_only: bool,
    /// Maximum length of a block, or of a value in a memtable, that the walk may hold, bytes.
    pub block_bytes_max: usize,
}

impl WalkLimits {
    /// Keys and values of any length.
    pub const NONE: Self = Self { keys_only: false, block_bytes_max: usize::MAX };
}

/// The limits of one walk, shared by its sources, and what they met.
#[derive(Debug)]
pub(crate) struct Bound {
    limits: WalkLimits,
    met: Cell<Option<usize>>,
    kept: KeptBlocks,
}

impl Bound {
    pub(crate) fn new(limits: WalkLimits) -> Self {
        Self { limits, met: Cell::new(None), kept: KeptBlocks::new(limits.block_bytes_max) }
    }

    pub(crate) fn keys_only(&self) -> bool {
        self.limits.keys_only
    }

    /// The long blocks that the walk keeps.
    pub(crate) fn kept(&self) -> &KeptBlocks {
        &self.kept
    }

    /// Whether so much may be held at once.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        bytes <= self.limits.block_bytes_max
    }

    /// As [`Bound::has_room`]; where there is none the walk ends.
    pub(crate) fn admits(&self, bytes: usize) -> bool {
        let admitted = self.has_room(bytes);
        if !admitted {
            self.met.set(Some(bytes));
        }
        admitted
    }

    /// What the walk would have had to hold, bytes, if it ended for that.
    pub(crate) fn met(&self) -> Option<usize> {
        self.met.get()
    }
}
