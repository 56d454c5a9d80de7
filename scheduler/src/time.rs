//! Time as an argument.
//!
//! Nothing in this crate reads a clock. The host hands in a [`Time`] with every input: milliseconds since a point that
//! the host chose and keeps, on a clock that does not go backwards. Wall-clock time occurs only in [`crate::tso`],
//! which is built to survive its jumps.

use std::fmt;

/// A moment, in milliseconds since a point of the host's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Milliseconds from `earlier` to this moment; zero where `earlier` is later.
    #[must_use]
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `ms` milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1000, self.0 % 1000)
    }
}
