//! One step of an operator, and the four questions every step answers: is it finished, may it still be sent, what does
//! it change in the scores, and what is sent for it.
//!
//! ```text
//! step             finished when                            sent only if
//! TransferLeader   the peer leads                           it votes, is caught up, its store lives
//! AddPeer          the peer votes and is caught up          no peer on that store or node; the quorum would live
//! AddLearner       the peer is listed and caught up         no peer on that store or node
//! AddSibling       the peer is listed and caught up         its node has one peer of the region, on the store that it is to leave
//! Promote          the peer votes                           it is caught up, its store lives
//! Demote           the peer learns                          it does not lead; the quorum would live
//! RemovePeer       the peer is not listed                   it does not lead; the quorum would live
//! EnterJoint       the named peers vote in their halves     none of the promoted lags, their stores live; both quorums would live
//! LeaveJoint       no peer is incoming or outgoing          no outgoing peer leads
//! Split            the version has grown                    -
//! Merge            the target's range displaces the region  both are as they were, on the same stores, and no peer lags
//! ```
//!
//! A step names stores where the [`Change`] it sends does not: scores and safety are judged by store, before and after the
//! region lists the peer, while a log entry needs no more than the peer.
//!
//! A step is sent again with every report until it is finished, so a store must take a repetition for what it is. The
//! epoch in the instruction sees to that: whatever changes membership raises `conf_ver`, and the second copy is refused.

use std::fmt;

use super::influence::Influence;
use crate::change::Change;
use crate::cluster::RegionInfo;
use crate::epoch::Epoch;
use crate::id::{PeerId, RegionId, StoreId};
use crate::range::Key;
use crate::region::{Peer, Region, Role};

/// Ids for one region that a split creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRegion {
    /// The new region's id.
    pub region: RegionId,
    /// Its peers' ids, by position of the parent's peers.
    pub peers: Vec<PeerId>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hands leadership to a peer.
    TransferLeader {
        /// The peer that is to lead.
        peer: PeerId,
        /// Its store.
        store: StoreId,
    },
    /// Adds a voter.
    AddPeer {
        /// The new peer's id.
        peer: PeerId,
        /// Where it is to live.
        store: StoreId,
    },
    /// Adds a learner.
    AddLearner {
        /// The new peer's id.
        peer: PeerId,
        /// Where it is to live.
        store: StoreId,
    },
    /// Adds a peer that does not vote on another store of the node of one that is to go: the two share a node as long as the operator takes.
    AddSibling {
        /// The new peer's id.
        peer: PeerId,
        /// Where it is to live.
        store: StoreId,
        /// The store whose peer is to go.
        leaving: StoreId,
    },
    /// Makes a learner a voter.
    Promote {
        /// The learner.
        peer: PeerId,
    },
    /// Makes a voter a learner.
    Demote {
        /// The voter.
        peer: PeerId,
    },
    /// Removes a peer.
    RemovePeer {
        /// The peer to go.
        peer: PeerId,
        /// Its store.
        store: StoreId,
    },
    /// Enters a joint configuration.
    EnterJoint {
        /// Learners that are to vote.
        promote: Vec<PeerId>,
        /// Voters that are to learn.
        demote: Vec<PeerId>,
    },
    /// Leaves the joint configuration.
    LeaveJoint,
    /// Splits the region.
    Split {
        /// Where to cut, rising. Empty: once, where the store finds best.
        keys: Vec<Key>,
        /// Ids for the new regions, one for each cut.
        new: Vec<NewRegion>,
    },
    /// Has the region taken in by a neighbour. Stores that have begun end it by themselves, one way or the other.
    Merge {
        /// The neighbour, as it is until then.
        into: Box<Region>,
        /// The epoch of the region when the merge begins.
        epoch: Epoch,
    },
}

/// What a store is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hand leadership to this peer.
    TransferLeader(Peer),
    /// Change the membership.
    Change(Change),
    /// Split at these keys, or where best if there are none, with these ids.
    Split {
        /// Where to cut.
        keys: Vec<Key>,
        /// Ids for the new regions.
        new: Vec<NewRegion>,
    },
    /// Have the region taken in by this neighbour, as it is.
    Merge(Box<Region>),
}

impl Step {
    /// Whether the region shows what the step is for. `origin` is the region's epoch when its operator was made.
    #[must_use]
    pub fn is_finished(&self, info: &RegionInfo, origin: Epoch) -> bool {
        let caught_up = |peer: PeerId| !info.is_pending(peer);
        let region = &info.region;
        match self {
            Self::TransferLeader { peer, .. } => info.leader == Some(*peer),
            Self::AddPeer { peer, .. } => region.peer(*peer).is_some_and(Peer::will_vote) && caught_up(*peer),
            Self::AddLearner { peer, .. } | Self::AddSibling { peer, .. } => {
                region.peer(*peer).is_some() && caught_up(*peer)
            }
            Self::Promote { peer } => region.peer(*peer).is_some_and(|peer| peer.role == Role::Voter),
            Self::Demote { peer } => region.peer(*peer).is_none_or(|peer| peer.role == Role::Learner),
            Self::RemovePeer { peer, .. } => region.peer(*peer).is_none(),
            Self::EnterJoint { promote, demote } => {
                promote.iter().all(|peer| region.peer(*peer).is_some_and(Peer::will_vote))
                    && demote.iter().all(|peer| region.peer(*peer).is_none_or(|peer| !peer.will_vote()))
            }
            Self::LeaveJoint => !region.is_joint(),
            Self::Split { .. } => region.epoch.version > origin.version,
            // The region is not known any more then.
            Self::Merge { .. } => false,
        }
    }

    /// How far the step has raised the region's `conf_ver`, as the region shows: a newcomer that is listed and lags has
    /// raised it although its step is not finished.
    #[must_use]
    pub fn conf_ver_raised(&self, info: &RegionInfo, origin: Epoch) -> u64 {
        let raised = match self {
            Self::TransferLeader { .. } | Self::Split { .. } => false,
            Self::AddPeer { peer, .. } | Self::AddLearner { peer, .. } | Self::AddSibling { peer, .. } => {
                info.region.peer(*peer).is_some()
            }
            Self::Promote { .. }
            | Self::Demote { .. }
            | Self::RemovePeer { .. }
            | Self::EnterJoint { .. }
            | Self::LeaveJoint => self.is_finished(info, origin),
            Self::Merge { into: _, epoch } => info.region.epoch.version > epoch.version,
        };
        u64::from(raised)
    }

    /// Whether only leadership moves.
    #[must_use]
    pub const fn is_leader_only(&self) -> bool {
        matches!(self, Self::TransferLeader { .. })
    }

    /// Adds what the step will still change, given what the region shows already.
    pub fn add_influence(&self, info: &RegionInfo, weight_bytes: i64, influence: &mut Influence) {
        let write = i64::try_from(info.load.write_score()).unwrap_or(i64::MAX);
        match self {
            Self::TransferLeader { peer, store } if info.leader != Some(*peer) => {
                let read = i64::try_from(info.load.read_score()).unwrap_or(i64::MAX);
                let to = influence.of_mut(*store);
                to.leaders += 1;
                to.load += read;
                if let Some(from) = info.leader_store() {
                    let from = influence.of_mut(from);
                    from.leaders -= 1;
                    from.load -= read;
                }
            }
            Self::AddPeer { peer, store }
            | Self::AddLearner { peer, store }
            | Self::AddSibling { peer, store, leaving: _ } => {
                let listed = info.region.peer(*peer).is_some();
                let arrived = listed && !info.is_pending(*peer);
                let to = influence.of_mut(*store);
                // What comes from a sibling brings no bytes.
                to.moves_in += u64::from(!arrived && !matches!(self, Self::AddSibling { .. }));
                if !listed {
                    to.regions += 1;
                    to.region_bytes += weight_bytes;
                    to.load += write;
                }
            }
            Self::RemovePeer { peer, store } if info.region.peer(*peer).is_some() => {
                let from = influence.of_mut(*store);
                from.moves_out += 1;
                from.regions -= 1;
                from.region_bytes -= weight_bytes;
                from.load -= write;
            }
            // Every store of the two has one of them less.
            Self::Merge { into, epoch: _ } => {
                into.peers.iter().for_each(|peer| influence.of_mut(peer.store).regions -= 1);
            }
            // What the region already shows counts there; the rest moves nothing between stores.
            Self::TransferLeader { .. }
            | Self::RemovePeer { .. }
            | Self::Promote { .. }
            | Self::Demote { .. }
            | Self::EnterJoint { .. }
            | Self::LeaveJoint
            | Self::Split { .. } => {}
        }
    }

    /// The store to which the step brings a peer that was not there.
    #[must_use]
    pub const fn brings_peer_to(&self) -> Option<StoreId> {
        match self {
            Self::AddPeer { peer: _, store }
            | Self::AddLearner { peer: _, store }
            | Self::AddSibling { peer: _, store, leaving: _ } => Some(*store),
            Self::TransferLeader { .. }
            | Self::Promote { .. }
            | Self::Demote { .. }
            | Self::RemovePeer { .. }
            | Self::EnterJoint { .. }
            | Self::LeaveJoint
            | Self::Split { .. }
            | Self::Merge { .. } => None,
        }
    }

    /// The store that the step hands leadership to.
    #[must_use]
    pub const fn leads_on(&self) -> Option<StoreId> {
        match self {
            Self::TransferLeader { peer: _, store } => Some(*store),
            Self::AddPeer { .. }
            | Self::AddLearner { .. }
            | Self::AddSibling { .. }
            | Self::Promote { .. }
            | Self::Demote { .. }
            | Self::RemovePeer { .. }
            | Self::EnterJoint { .. }
            | Self::LeaveJoint
            | Self::Split { .. }
            | Self::Merge { .. } => None,
        }
    }

    /// The membership change of this step, if it is one.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        Some(match self.clone() {
            Self::TransferLeader { .. } | Self::Split { .. } | Self::Merge { .. } => return None,
            Self::AddPeer { peer, store } => Change::AddVoter { peer, store },
            Self::AddLearner { peer, store } | Self::AddSibling { peer, store, leaving: _ } => {
                Change::AddLearner { peer, store }
            }
            Self::Promote { peer } => Change::Promote { peer },
            Self::Demote { peer } => Change::Demote { peer },
            Self::RemovePeer { peer, .. } => Change::Remove { peer },
            Self::EnterJoint { promote, demote } => Change::EnterJoint { promote, demote },
            Self::LeaveJoint => Change::LeaveJoint,
        })
    }

    /// What to send; nothing while the region already shows the change and only catching up is left.
    #[must_use]
    pub fn action(&self, info: &RegionInfo) -> Option<Action> {
        match self {
            Self::TransferLeader { peer, .. } => info.region.peer(*peer).copied().map(Action::TransferLeader),
            Self::AddPeer { peer, .. } if info.region.peer(*peer).is_some_and(Peer::will_vote) => None,
            Self::AddLearner { peer, .. } | Self::AddSibling { peer, .. }
                if info.region.peer(*peer).is_some() =>
            {
                None
            }
            Self::Split { keys, new } => Some(Action::Split { keys: keys.clone(), new: new.clone() }),
            Self::Merge { into, epoch } => (info.region.epoch == *epoch).then(|| Action::Merge(into.clone())),
            Self::AddPeer { .. }
            | Self::AddLearner { .. }
            | Self::AddSibling { .. }
            | Self::Promote { .. }
            | Self::Demote { .. }
            | Self::RemovePeer { .. }
            | Self::EnterJoint { .. }
            | Self::LeaveJoint => self.change().map(Action::Change),
        }
    }
}

/// The membership change and the split of a step read as those of an action do.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TransferLeader { peer, store } => write!(f, "transfer leader to {peer} on {store}"),
            Self::AddPeer { peer, store } => write!(f, "add {peer} on {store}"),
            Self::AddLearner { peer, store } => write!(f, "add learner {peer} on {store}"),
            Self::AddSibling { peer, store, leaving } => {
                write!(f, "add learner {peer} on {store} beside {leaving}")
            }
            Self::Promote { peer } => write!(f, "promote {peer}"),
            Self::Demote { peer } => write!(f, "demote {peer}"),
            Self::RemovePeer { peer, store } => write!(f, "remove {peer} on {store}"),
            Self::EnterJoint { promote, demote } => {
                write!(f, "enter joint, promote {}, demote {}", list(promote, " and "), list(demote, " and "))
            }
            Self::LeaveJoint => f.write_str("leave joint"),
            Self::Split { keys, .. } if keys.is_empty() => f.write_str("split where best"),
            Self::Split { keys, .. } => write!(f, "split at {}", list(keys, ", ")),
            Self::Merge { into, epoch: _ } => write!(f, "merge into {}", into.id),
        }
    }
}

/// All of them in words.
fn list<T: fmt::Display>(all: &[T], between: &str) -> String {
    match all.is_empty() {
        true => "none".to_owned(),
        false => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(between),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TransferLeader(peer) => write!(f, "transfer leader to {} on {}", peer.id, peer.store),
            Self::Change(change) => write!(f, "{change}"),
            Self::Split { keys, new: _ } if keys.is_empty() => f.write_str("split where best"),
            Self::Split { keys, new: _ } => {
                write!(f, "split at {}", list(keys, ", "))
            }
            Self::Merge(into) => write!(f, "merge into {}", into.id),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddVoter { peer, store } => write!(f, "add {peer} on {store}"),
            Self::AddLearner { peer, store } => write!(f, "add learner {peer} on {store}"),
            Self::Promote { peer } => write!(f, "promote {peer}"),
            Self::Demote { peer } => write!(f, "demote {peer}"),
            Self::Remove { peer } => write!(f, "remove {peer}"),
            Self::EnterJoint { promote, demote } => {
                write!(f, "enter joint, promote {}, demote {}", list(promote, " and "), list(demote, " and "))
            }
            Self::LeaveJoint => f.write_str("leave joint"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps are shown to operators, in words alone.
    #[test]
    fn a_step_is_shown_in_words() {
        let joint = |promote: &[u64], demote: &[u64]| Step::EnterJoint {
            promote: promote.iter().copied().map(PeerId).collect(),
            demote: demote.iter().copied().map(PeerId).collect(),
        };
        let split = Step::Split { keys: vec!["a".into(), "\"".into()], new: Vec::new() };
        for (step, shown) in [
            (joint(&[40], &[7, 8]), "enter joint, promote peer 40, demote peer 7 and peer 8"),
            (joint(&[40], &[]), "enter joint, promote peer 40, demote none"),
            (split, "split at a, \\\""),
        ] {
            assert_eq!(step.to_string(), shown);
        }
    }
}
