//! Bugs that tests plant on purpose, to see that they would be caught. Without the feature `sim` there are none.

/// A mistake that a log could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Checksums do not know which life of a file they belong to.
    NoSalt,
    /// Writes are answered before they are durable.
    NoSync,
    /// A record at the end is believed without its checksum.
    TornAccepted,
    /// Damage is taken for the end of the log.
    SilentTruncation,
    /// A segment is reused before a durable record says that it is not needed.
    EarlyReuse,
    /// A segment's name is not made durable before records go there.
    NoDirSync,
    /// What the last process wrote without syncing is believed, but not synced.
    UnsyncedTail,
    /// A last record that was written whole and is damaged is cut as if it had been torn.
    FlipTakenForTorn,
    /// No record vouches for the last one, neither when the log is idle nor when it is closed.
    NoVouching,
    /// What the file outside of the segments says about the log's end is not asked.
    NoWitness,
    /// That file is not written while the log is busy.
    OnlyIdleWitness,
    /// That file says that a record is durable before it is.
    WitnessAhead,
    /// A log is opened whatever its id.
    AnyLog,
    /// An older copy of a log is opened.
    OlderCopy,
    /// A replay that finds fewer entries than the index has ends as if that were all.
    ShortReplay,
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
