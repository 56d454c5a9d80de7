//! Why a store refuses a snapshot that it is offered: said to its sender, and counted by reason.

use std::fmt;

use raft::Dropped;
use scheduler::RegionId;

/// Why a snapshot, or a part of one, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwanted {
    /// The store has stopped.
    Stopped,
    /// There is not enough space for it.
    DiskFull,
    /// Too many are received already, or one for this region is being taken in.
    Busy,
    /// No replica here waits for one.
    NotHere,
    /// It is for another store or another peer.
    OtherTarget,
    /// Its sender led in an older term.
    OldTerm,
    /// Its sender is no member any more.
    SenderRemoved,
    /// The region was an older one when it was made.
    OldEpoch,
    /// Another region of the store covers a part of its range.
    Overlap(RegionId),
    /// The log here leads to its last entry already.
    Known,
    /// Its parts contradict each other.
    Malformed,
    /// A part came that is not the next one.
    OutOfStep,
    /// A file is not what was said of it.
    Damaged(String),
    /// Another connection brings it, or another one was offered.
    Replaced,
    /// It could not be written.
    Unwritten(String),
    /// The consensus core did not act upon it.
    Core(Dropped),
}

impl Unwanted {
    /// All reasons.
    pub const REASONS: [&'static str; 16] = [
        "stopped",
        "disk_full",
        "busy",
        "not_here",
        "other_target",
        "old_term",
        "sender_removed",
        "old_epoch",
        "overlap",
        "known",
        "malformed",
        "out_of_step",
        "damaged",
        "replaced",
        "unwritten",
        "core",
    ];

    /// The place in [`Unwanted::REASONS`].
    pub(super) const fn place(&self) -> usize {
        match self {
            Self::Stopped => 0,
            Self::DiskFull => 1,
            Self::Busy => 2,
            Self::NotHere => 3,
            Self::OtherTarget => 4,
            Self::OldTerm => 5,
            Self::SenderRemoved => 6,
            Self::OldEpoch => 7,
            Self::Overlap(_) => 8,
            Self::Known => 9,
            Self::Malformed => 10,
            Self::OutOfStep => 11,
            Self::Damaged(_) => 12,
            Self::Replaced => 13,
            Self::Unwritten(_) => 14,
            Self::Core(_) => 15,
        }
    }
}

impl fmt::Display for Unwanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the store has stopped"),
            Self::DiskFull => f.write_str("there is not enough space on the disk of the store; free some"),
            Self::Busy => f.write_str("the store takes in other snapshots; it is offered again later"),
            Self::NotHere => f.write_str("no replica of the region waits for it here"),
            Self::OtherTarget => f.write_str("it is for another store or another peer"),
            Self::OldTerm => f.write_str("its sender led in an older term"),
            Self::SenderRemoved => f.write_str("its sender is no member of the region any more"),
            Self::OldEpoch => f.write_str("the region has changed since it was made"),
            Self::Overlap(region) => write!(f, "region {} of the store covers a part of its range", region.0),
            Self::Known => f.write_str("the log leads to its last entry already"),
            Self::Malformed => f.write_str("its parts contradict each other"),
            Self::OutOfStep => f.write_str("a part came that is not the next one"),
            Self::Damaged(what) => write!(f, "a file is not what was said of it: {what}"),
            Self::Replaced => f.write_str("another connection brings it, or another one was offered"),
            Self::Unwritten(what) => write!(f, "it could not be written: {what}"),
            Self::Core(dropped) => write!(f, "the consensus core does not take it: {dropped}"),
        }
    }
}

impl std::error::Error for Unwanted {}
