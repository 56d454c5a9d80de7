//! Refusals: why a request was not carried out, as values that each protocol turns into its own error.
//!
//! A refusal is never a fault of the disk and never a bug. Except for [`Refusal::Unknown`], a refused request has changed
//! nothing and never will.

use bytes::Bytes;
use scheduler::{Peer, Region};

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This peer does not lead the region.
    NotLeader {
        /// The region.
        region_id: u64,
        /// Who leads, if known.
        leader: Option<Peer>,
    },
    /// The store has no such region.
    RegionNotFound {
        /// The region.
        region_id: u64,
    },
    /// The key is outside the region.
    KeyNotInRegion {
        /// The key.
        key: Bytes,
        /// The region that was asked, as it is now.
        region: Box<Region>,
    },
    /// The client's idea of the region is not the current one.
    EpochNotMatch {
        /// The regions as they are now.
        current: Vec<Region>,
    },
    /// The request came to another store than it names.
    StoreNotMatch {
        /// The store that was asked for.
        asked: u64,
        /// The store that answered.
        actual: u64,
    },
    /// The request names another peer of the region than the one here.
    PeerNotMatch {
        /// The peer that was asked for.
        asked: u64,
        /// The peer here.
        actual: u64,
    },
    /// The request belongs to an earlier term, or to one so new that its leader does not have everything in its state yet.
    StaleCommand,
    /// A bound is reached; try again.
    Busy {
        /// Which bound, one sentence.
        reason: &'static str,
        /// When to try again, milliseconds.
        backoff_ms: u64,
    },
    /// There is no space for writes; reads go on, and mostly deletes.
    DiskFull {
        /// The stores without space.
        store_ids: Vec<u64>,
        /// How much is free, how much has to be, what to do, and what goes on.
        reason: String,
    },
    /// A transaction over the keys of more than one region. Nothing was done.
    SpansRegions {
        /// A key of one region.
        one: Bytes,
        /// A key of another.
        other: Bytes,
    },
    /// The writes of one command are more than a log entry may hold; in smaller parts they can be carried out.
    TooLarge {
        /// The region that they belong to.
        region_id: u64,
        /// Their size as an entry, bytes.
        bytes: usize,
        /// The bound, bytes.
        bytes_max: usize,
    },
    /// A file that may hold what is asked for is damaged; other keys are served.
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it, one sentence.
        what: String,
    },
    /// The request itself can never be carried out.
    Invalid(String),
    /// The answer would be too large; a smaller request can be carried out.
    AnswerTooLarge {
        /// The bound, bytes.
        bytes_max: usize,
    },
    /// The value is not an integer.
    NotAnInteger,
    /// The sum would not fit an integer of 64 bits.
    Overflow,
    /// The store has stopped; the sentence says why.
    Stopped(String),
    /// It is unknown whether the write happens.
    Unknown,
}

impl Refusal {
    /// Every name that [`Refusal::reason`] returns.
    pub const REASONS: [&'static str; 14] = [
        "not_leader",
        "region_not_found",
        "key_not_in_region",
        "epoch_not_match",
        "store_not_match",
        "peer_not_match",
        "stale_command",
        "busy",
        "disk_full",
        "too_large",
        "damaged",
        "invalid_request",
        "stopped",
        "unknown",
    ];

    /// Its name as a label of the metrics page. What a client did wrong itself has one name.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::NotLeader { .. } => "not_leader",
            Refusal::RegionNotFound { .. } => "region_not_found",
            Refusal::KeyNotInRegion { .. } => "key_not_in_region",
            Refusal::EpochNotMatch { .. } => "epoch_not_match",
            Refusal::StoreNotMatch { .. } => "store_not_match",
            Refusal::PeerNotMatch { .. } => "peer_not_match",
            Refusal::StaleCommand => "stale_command",
            Refusal::Busy { .. } => "busy",
            Refusal::DiskFull { .. } => "disk_full",
            Refusal::TooLarge { .. } => "too_large",
            Refusal::Damaged { .. } => "damaged",
            Refusal::Invalid(_)
            | Refusal::AnswerTooLarge { .. }
            | Refusal::NotAnInteger
            | Refusal::Overflow
            | Refusal::SpansRegions { .. } => "invalid_request",
            Refusal::Stopped(_) => "stopped",
            Refusal::Unknown => "unknown",
        }
    }

    /// Whether the request may be carried out where the region is now, or a moment later by its new leader.
    pub fn has_moved(&self) -> bool {
        match self {
            Self::RegionNotFound { .. }
            | Self::KeyNotInRegion { .. }
            | Self::EpochNotMatch { .. }
            | Self::StoreNotMatch { .. }
            | Self::PeerNotMatch { .. }
            | Self::StaleCommand
            | Self::NotLeader { .. } => true,
            Self::Busy { .. }
            | Self::DiskFull { .. }
            | Self::SpansRegions { .. }
            | Self::TooLarge { .. }
            | Self::Damaged { .. }
            | Self::Invalid(_)
            | Self::AnswerTooLarge { .. }
            | Self::NotAnInteger
            | Self::Overflow
            | Self::Stopped(_)
            | Self::Unknown => false,
        }
    }

    /// The region has a leader that does not yet have everything in its state that was acknowledged before its election: for a moment after
    /// every split and every move.
    pub(crate) const fn not_current() -> Self {
        Self::StaleCommand
    }
}
