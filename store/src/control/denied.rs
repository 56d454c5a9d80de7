//! Why the scheduler shard does not grant ids, timestamps or a safe point: as values, each with culprit and remedy.

use std::fmt;

use scheduler::{Key, Policy, SettingError, StateRefusal, StoreId};

use super::members::NotAdmitted;
use crate::keyspace;
use crate::refusal::Refusal;
use crate::region::system::SystemRefusal;

/// Why a request for ids, timestamps or a safe point is not granted. Nothing was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The store that keeps the state cannot change it now: what is wrong there and what to do, as the rest of a sentence.
    Unavailable(String),
    /// None or too many were asked for.
    BadCount {
        /// How many.
        asked: u64,
        /// The bound of one call.
        most: u64,
    },
    /// The state refuses the command.
    Refused(StateRefusal),
    /// The store keeps the scheduler's state and no other can do so in its place, so it cannot be taken out of use.
    KeepsState(StoreId),
    /// There is no such setting, or no such value of it.
    Setting(SettingError),
    /// There is no policy of this name.
    UnknownPolicy(String),
    /// What this policy is worth is not measured yet.
    Unproven(Policy),
    /// A store may not join as it describes itself.
    NotAdmitted(NotAdmitted),
    /// A region would begin at a key of the keyspace that its clients cannot decode.
    InKeyspace(Key),
    /// A safe point above every timestamp that was handed out would let versions be collected that are yet to be written.
    AheadOfPresent {
        /// The safe point asked for.
        asked: u64,
        /// The present, in the same form.
        present: u64,
    },
}

impl Denied {
    /// For what the store of the state has refused.
    pub(super) fn unavailable(refusal: &Refusal) -> Self {
        Self::Unavailable(match refusal {
            Refusal::Stopped(why) => {
                format!(
                    "the store that keeps it has stopped ({why}); mend what is named there and restart the node"
                )
            }
            Refusal::DiskFull { store_ids, reason } => {
                let stores: Vec<String> = store_ids.iter().map(u64::to_string).collect();
                format!("store {} refuses writes: {reason}", stores.join(", "))
            }
            Refusal::Busy { reason, backoff_ms } => format!("{reason}; try again in {backoff_ms} ms"),
            Refusal::Unknown => {
                "the store that keeps it ended before this was decided; ask again, nothing was handed out"
                    .to_owned()
            }
            Refusal::NotLeader { .. } | Refusal::RegionNotFound { .. } => {
                "the store that was asked does not lead the group that keeps it; try again in a moment"
                    .to_owned()
            }
            refusal @ (Refusal::KeyNotInRegion { .. }
            | Refusal::EpochNotMatch { .. }
            | Refusal::StoreNotMatch { .. }
            | Refusal::PeerNotMatch { .. }
            | Refusal::StaleCommand
            | Refusal::SpansRegions { .. }
            | Refusal::TooLarge { .. }
            | Refusal::Damaged { .. }
            | Refusal::Invalid(_)
            | Refusal::AnswerTooLarge { .. }
            | Refusal::NotAnInteger
            | Refusal::Overflow) => {
                format!("the store that keeps it answered {}; see the log of the node", refusal.reason())
            }
        })
    }
}

impl From<SystemRefusal> for Denied {
    fn from(refusal: SystemRefusal) -> Self {
        match refusal {
            SystemRefusal::State(refusal) => Self::Refused(refusal),
            refusal @ (SystemRefusal::NotBegun | SystemRefusal::Begun) => {
                Self::Unavailable(refusal.to_string())
            }
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "the scheduler's state cannot be changed: {why}"),
            Self::BadCount { asked, most } => write!(f, "{asked} asked for; ask for 1 to {most}"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::KeepsState(store) => write!(
                f,
                "{store} stays in use: it keeps the scheduler's state, and there is no other node to do so in its place; let one join \
                 first, or move single replicas away with `ringkeep ctl region`"
            ),
            Self::Setting(why) => write!(f, "{why}"),
            Self::UnknownPolicy(name) => {
                let known: Vec<String> = Policy::ALL.iter().map(ToString::to_string).collect();
                write!(f, "there is no policy \"{name}\"; there are {}", known.join(", "))
            }
            Self::Unproven(policy) => {
                write!(
                    f,
                    "{policy} stays off: whether what it moves between nodes is worth the bytes is not measured yet; move single replicas with \
                     `ringkeep ctl region add-peer` and `ringkeep ctl region remove-peer`"
                )
            }
            Self::NotAdmitted(why) => write!(f, "{why}"),
            Self::InKeyspace(key) => write!(
                f,
                "the key \"{}\" lies among those of the keyspace {}, and is none: name one in the memory-comparable encoding of API V2",
                key.as_bytes().escape_ascii(),
                keyspace::DEFAULT
            ),
            Self::AheadOfPresent { asked, present } => {
                write!(f, "safe point {asked} lies above the present, {present}; choose one below it")
            }
        }
    }
}

impl std::error::Error for Denied {}
