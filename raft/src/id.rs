//! Ids and positions. Each is its own type, so that a term never lands where an index belongs.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// One Raft group. A message of another group is refused.
    GroupId, "g"
);
number!(
    /// One member of a group. Never reused after a removal; zero is reserved for "none" on wires and disks, and
    /// refused here.
    NodeId, "n"
);
number!(
    /// An election term. Zero means "before the first election"; anything at or above [`Term::LIMIT`] is refused as
    /// damage.
    Term, "t"
);
number!(
    /// A position in the log. The first entry has index 1; zero is the position before it.
    Index, "i"
);
number!(
    /// A reading of the driver's monotonic clock, in nanoseconds. The origin is the driver's own: readings of two
    /// nodes are never compared.
    Time, "@"
);

impl Term {
    /// Terms from here on are refused: no honest group counts so far, and arithmetic stays clear of overflow.
    pub const LIMIT: Self = Self(1 << 60);

    /// The following term.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Index {
    /// Indexes from here on are refused, for the same reason as [`Term::LIMIT`].
    pub const LIMIT: Self = Self(1 << 60);

    /// The following position.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before, or zero.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl Time {
    /// This reading, `nanos` later.
    #[must_use]
    pub const fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }
}

/// The term and index of one entry, or of the position before the log.
///
/// The order is the one elections compare by (paper, 5.4.1): the later term wins, then the higher index. By the log
/// matching property two logs that hold the same `LogId` agree on everything up to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// Term of the leader that created the entry.
    pub term: Term,
    /// Its position.
    pub index: Index,
}

impl LogId {
    /// The position before the first entry of a log that starts from nothing.
    pub const ZERO: Self = Self { term: Term(0), index: Index(0) };

    /// Shorthand for tests and literals.
    #[must_use]
    pub const fn new(term: u64, index: u64) -> Self {
        Self { term: Term(term), index: Index(index) }
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@t{}", self.index, self.term)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@t{}", self.index, self.term)
    }
}
