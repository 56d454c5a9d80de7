//! The states of a replica's life, and the only function that says which may follow which.
//!
//! The table is in the header of [`region`](super). A replica moves by [`Replica::enter`](super::replica::Replica) alone, which asks
//! [`Life::may_become`] and asserts; everything else only reads the state.

use std::fmt;

/// Where in its life a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// The store has no replica of the region and never had one that it must remember.
    Absent,
    /// It was created by a message, knows its id and no more, and waits for a snapshot.
    Initialising,
    /// It has a descriptor and takes part in its group.
    Live,
    /// A split is applied and its right half is not published yet.
    Splitting,
    /// A snapshot is on its way into the tree.
    Receiving,
    /// It waits for its neighbour to take it in.
    Merging,
    /// It was removed. Its id never comes back.
    Tombstone,
}

impl Life {
    /// Every state, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::Absent,
        Self::Initialising,
        Self::Live,
        Self::Splitting,
        Self::Receiving,
        Self::Merging,
        Self::Tombstone,
    ];

    /// Whether the table has a row from here to `next`.
    pub const fn may_become(self, next: Self) -> bool {
        use Life::{Absent, Initialising, Live, Merging, Receiving, Splitting, Tombstone};
        match (self, next) {
            (Absent, Initialising | Live | Tombstone)
            | (Initialising, Receiving | Tombstone)
            | (Live, Splitting | Receiving | Merging | Tombstone)
            | (Splitting, Live)
            | (Receiving, Live)
            | (Merging, Live | Receiving | Tombstone) => true,
            (Absent | Initialising | Live | Splitting | Receiving | Merging | Tombstone, _) => false,
        }
    }

    /// Whether the replica has a descriptor, so that its range is taken.
    pub const fn has_range(self) -> bool {
        match self {
            Self::Live | Self::Splitting | Self::Receiving | Self::Merging => true,
            Self::Absent | Self::Initialising | Self::Tombstone => false,
        }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::Initialising => "initialising",
            Self::Live => "live",
            Self::Splitting => "splitting",
            Self::Receiving => "receiving",
            Self::Merging => "merging",
            Self::Tombstone => "tombstone",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_tombstone_and_nothing_returns_to_absent() {
        for life in Life::ALL {
            assert!(!Life::Tombstone.may_become(life), "a tombstone became {life}");
            assert!(!life.may_become(Life::Absent), "{life} became absent");
            assert!(!life.may_become(life), "{life} became itself");
        }
    }

    /// A snapshot or a split that is half in the tree is finished first: what is destroyed then is whole.
    #[test]
    fn nothing_is_destroyed_in_the_middle_of_a_change() {
        assert!(!Life::Receiving.may_become(Life::Tombstone) && !Life::Splitting.may_become(Life::Tombstone));
    }
}
