//! Bugs that tests plant on purpose, to see that a whole node's test would catch them. Without the feature `sim` there are none.

/// A mistake that the cores of a node could make together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An answer of another core goes to a request that it does not belong to.
    WrongAnswer,
    /// An answer to another core is dropped.
    LostAnswer,
    /// A write for another core is acknowledged before that core has it.
    AnsweredEarly,
    /// A change that came from another core is made twice.
    AppliedTwice,
    /// A core closes its links when the drain begins, while connections of other cores wait for it.
    LinksClosedInDrain,
    /// A core closes its stores when the drain begins, before its connections have finished.
    StoresClosedFirst,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::WrongAnswer,
        Self::LostAnswer,
        Self::AnsweredEarly,
        Self::AppliedTwice,
        Self::LinksClosedInDrain,
        Self::StoresClosedFirst,
    ];
}

#[cfg(any(test, feature = "sim"))]
mod planted {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants `bug` on this thread, or takes the planted one away.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(any(test, feature = "sim"))]
pub use planted::plant;
#[cfg(any(test, feature = "sim"))]
pub(crate) use planted::planted;

#[cfg(not(any(test, feature = "sim")))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
