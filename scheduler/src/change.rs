//! What may be done to a region, as functions from one descriptor to the next.
//!
//! These are the rules that a store applies when a command comes out of the log, and that the scheduler uses to
//! predict what its steps lead to. Both sides read the same function, so they cannot disagree. Each returns a new
//! descriptor with the epoch raised per [`crate::epoch`], or says why the change makes no sense here. Nothing here
//! looks at leadership or liveness, which a log entry cannot know; the one rule about liveness, [`keeps_quorum`], is
//! asked before a change is proposed.

use std::fmt;

use crate::epoch::Command;
use crate::id::{PeerId, RegionId, StoreId};
use crate::range::{Key, RangeError};
use crate::region::{Peer, Region, Role};

/// One change of a region's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a voting peer, or makes the learner with this very id and store a voter.
    AddVoter {
        /// The new peer's id.
        peer: PeerId,
        /// Where it is to live.
        store: StoreId,
    },
    /// Adds a peer that does not vote.
    AddLearner {
        /// The new peer's id.
        peer: PeerId,
        /// Where it is to live.
        store: StoreId,
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
    Remove {
        /// The peer to go.
        peer: PeerId,
    },
    /// Enters a joint configuration: these learners become incoming voters, these voters outgoing ones.
    EnterJoint {
        /// Learners that are to vote.
        promote: Vec<PeerId>,
        /// Voters that are to become learners.
        demote: Vec<PeerId>,
    },
    /// Leaves the joint configuration.
    LeaveJoint,
}

impl Change {
    /// The line of the epoch table that this change is under.
    #[must_use]
    pub const fn command(&self) -> Command {
        match self {
            Self::EnterJoint { .. } | Self::LeaveJoint => Command::ChangePeers,
            Self::AddVoter { .. }
            | Self::AddLearner { .. }
            | Self::Promote { .. }
            | Self::Demote { .. }
            | Self::Remove { .. } => Command::ChangePeer,
        }
    }

    /// The descriptor after this change.
    ///
    /// # Errors
    /// [`ChangeError`] where the change does not fit the descriptor; the region is then as it was.
    pub fn apply(&self, region: &Region) -> Result<Region, ChangeError> {
        let mut peers = region.peers.clone();
        match self {
            Self::AddVoter { peer, store } => add(region, &mut peers, *peer, *store, Role::Voter)?,
            Self::AddLearner { peer, store } => add(region, &mut peers, *peer, *store, Role::Learner)?,
            Self::Promote { peer } => set_role(region, &mut peers, *peer, Role::Learner, Role::Voter)?,
            Self::Demote { peer } => set_role(region, &mut peers, *peer, Role::Voter, Role::Learner)?,
            Self::Remove { peer } => {
                refuse_joint(region)?;
                let place = position(region, *peer)?;
                peers.remove(place);
            }
            Self::EnterJoint { promote, demote } => {
                for peer in promote {
                    set_role(region, &mut peers, *peer, Role::Learner, Role::Incoming)?;
                }
                for peer in demote {
                    set_role(region, &mut peers, *peer, Role::Voter, Role::Outgoing)?;
                }
            }
            Self::LeaveJoint => leave_joint(region, &mut peers)?,
        }
        if !peers.iter().any(Peer::will_vote) {
            return Err(ChangeError::NoVoterLeft { region: region.id });
        }
        let epoch = region.epoch.after(self.command());
        Ok(Region { id: region.id, range: region.range.clone(), epoch, peers })
    }
}

fn position(region: &Region, peer: PeerId) -> Result<usize, ChangeError> {
    let found = region.peers.iter().position(|other| other.id == peer);
    found.ok_or(ChangeError::NoSuchPeer { region: region.id, peer })
}

fn refuse_joint(region: &Region) -> Result<(), ChangeError> {
    if region.is_joint() { Err(ChangeError::InJoint { region: region.id }) } else { Ok(()) }
}

fn add(
    region: &Region,
    peers: &mut Vec<Peer>,
    peer: PeerId,
    store: StoreId,
    role: Role,
) -> Result<(), ChangeError> {
    refuse_joint(region)?;
    let held = peers.iter_mut().find(|other| other.store == store);
    match held {
        // A learner that was added for this purpose becomes a voter; anything else on that store is in the way.
        Some(held) if held.id == peer && held.role == Role::Learner && role == Role::Voter => {
            held.role = role
        }
        Some(_) => return Err(ChangeError::StoreTaken { region: region.id, store }),
        None if region.peer(peer).is_some() => {
            return Err(ChangeError::PeerExists { region: region.id, peer });
        }
        None => peers.push(Peer { id: peer, store, role }),
    }
    Ok(())
}

fn set_role(
    region: &Region,
    peers: &mut [Peer],
    peer: PeerId,
    from: Role,
    to: Role,
) -> Result<(), ChangeError> {
    refuse_joint(region)?;
    let place = position(region, peer)?;
    if peers[place].role != from {
        return Err(ChangeError::WrongRole { region: region.id, peer, role: peers[place].role });
    }
    peers[place].role = to;
    Ok(())
}

fn leave_joint(region: &Region, peers: &mut [Peer]) -> Result<(), ChangeError> {
    if !region.is_joint() {
        return Err(ChangeError::NotInJoint { region: region.id });
    }
    for peer in peers {
        peer.role = match peer.role {
            Role::Incoming => Role::Voter,
            Role::Outgoing => Role::Learner,
            role @ (Role::Voter | Role::Learner) => role,
        };
    }
    Ok(())
}

/// Cuts a region at `key`. The left part keeps the id and the peers; the right part is `right` with `peers`, which
/// match the region's peers by position. Both take the raised version, both keep the `conf_ver`.
///
/// # Errors
/// [`ChangeError`] where the key is not strictly inside or the number of peer ids differs from the number of peers.
pub fn split(
    region: &Region,
    key: &Key,
    right: RegionId,
    peers: &[PeerId],
) -> Result<(Region, Region), ChangeError> {
    if peers.len() != region.peers.len() {
        return Err(ChangeError::PeerCount {
            region: region.id,
            given: peers.len(),
            needed: region.peers.len(),
        });
    }
    let (left_range, right_range) = region.range.split(key).map_err(ChangeError::Range)?;
    let epoch = region.epoch.after(Command::Split);
    let twins = region.peers.iter().zip(peers).map(|(peer, id)| Peer { id: *id, ..*peer }).collect();
    let left = Region { id: region.id, range: left_range, epoch, peers: region.peers.clone() };
    Ok((left, Region { id: right, range: right_range, epoch, peers: twins }))
}

/// Whether a region described by `after` can still commit, given which stores are `live`: in each half of its
/// configuration a majority of the voters is. A leader asks this before it proposes a membership change, so that no
/// change takes a group below its quorum; the scheduler asks it before it sends a step.
#[must_use]
pub fn keeps_quorum(after: &Region, live: impl Fn(StoreId) -> bool) -> bool {
    let majority = |counts: fn(&Peer) -> bool| {
        let (mut all, mut alive) = (0_usize, 0_usize);
        for peer in after.peers.iter().filter(|peer| counts(peer)) {
            all += 1;
            alive += usize::from(live(peer.store));
        }
        alive > all / 2
    };
    let outgoing = |peer: &Peer| matches!(peer.role, Role::Voter | Role::Outgoing);
    majority(Peer::will_vote) && (!after.is_joint() || majority(outgoing))
}

/// Why a change does not fit a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The region has no such peer.
    NoSuchPeer {
        /// The region.
        region: RegionId,
        /// The peer named by the change.
        peer: PeerId,
    },
    /// The region has a peer with that id already, on another store.
    PeerExists {
        /// The region.
        region: RegionId,
        /// The peer named by the change.
        peer: PeerId,
    },
    /// Another peer of the region lives on that store.
    StoreTaken {
        /// The region.
        region: RegionId,
        /// The store named by the change.
        store: StoreId,
    },
    /// The peer's role is not the one that the change starts from.
    WrongRole {
        /// The region.
        region: RegionId,
        /// The peer named by the change.
        peer: PeerId,
        /// Its role.
        role: Role,
    },
    /// A joint configuration must be left first.
    InJoint {
        /// The region.
        region: RegionId,
    },
    /// There is no joint configuration to leave.
    NotInJoint {
        /// The region.
        region: RegionId,
    },
    /// The change would leave no voter.
    NoVoterLeft {
        /// The region.
        region: RegionId,
    },
    /// A split brought more or fewer peer ids than the region has peers.
    PeerCount {
        /// The region.
        region: RegionId,
        /// How many ids came.
        given: usize,
        /// How many are needed.
        needed: usize,
    },
    /// A split key is not strictly inside the region.
    Range(RangeError),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPeer { region, peer } => write!(f, "{region} has no {peer}"),
            Self::PeerExists { region, peer } => write!(f, "{region} has {peer} already, on another store"),
            Self::StoreTaken { region, store } => write!(f, "{region} has another peer on {store} already"),
            Self::WrongRole { region, peer, role } => write!(f, "{peer} of {region} is {role:?}"),
            Self::InJoint { region } => {
                write!(f, "{region} is in a joint configuration, which must be left first")
            }
            Self::NotInJoint { region } => write!(f, "{region} is in no joint configuration"),
            Self::NoVoterLeft { region } => write!(f, "{region} would be left without a voter"),
            Self::PeerCount { region, given, needed } => {
                write!(f, "split of {region} brings {given} peer ids, but the region has {needed} peers")
            }
            Self::Range(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ChangeError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;
    use crate::range::KeyRange;

    fn region() -> Region {
        let peers = [1, 2, 3].map(|n| Peer::voter(PeerId(n), StoreId(n))).to_vec();
        Region { id: RegionId(1), range: KeyRange::full(), epoch: Epoch::FIRST, peers }
    }

    #[test]
    fn every_change_raises_conf_ver_by_one_and_keeps_the_version() {
        let learner =
            Change::AddLearner { peer: PeerId(4), store: StoreId(4) }.apply(&region()).expect("adds");
        assert_eq!(learner.epoch, Epoch::new(2, 1));
        let joint = Change::EnterJoint { promote: vec![PeerId(4)], demote: vec![PeerId(1)] };
        let joint = joint.apply(&learner).expect("enters");
        assert!(joint.is_joint());
        assert_eq!(joint.epoch, Epoch::new(3, 1));
        assert!(matches!(Change::Remove { peer: PeerId(2) }.apply(&joint), Err(ChangeError::InJoint { .. })));
        let left = Change::LeaveJoint.apply(&joint).expect("leaves");
        assert_eq!(left.peers[0].role, Role::Learner);
        assert_eq!(left.peers[3].role, Role::Voter);
        let removed = Change::Remove { peer: PeerId(1) }.apply(&left).expect("removes");
        assert_eq!(removed.epoch, Epoch::new(5, 1));
    }

    #[test]
    fn repeated_and_contradictory_changes_are_refused() {
        let region = region();
        let refused = [
            Change::AddVoter { peer: PeerId(1), store: StoreId(1) },
            Change::AddVoter { peer: PeerId(1), store: StoreId(7) },
            Change::AddLearner { peer: PeerId(9), store: StoreId(2) },
            Change::Promote { peer: PeerId(1) },
            Change::Remove { peer: PeerId(9) },
            Change::LeaveJoint,
        ];
        for change in refused {
            assert!(change.apply(&region).is_err(), "{change:?}");
        }
        let alone = Region { peers: vec![Peer::voter(PeerId(1), StoreId(1))], ..region };
        assert!(matches!(
            Change::Remove { peer: PeerId(1) }.apply(&alone),
            Err(ChangeError::NoVoterLeft { .. })
        ));
    }

    #[test]
    fn a_split_gives_both_halves_the_raised_version_and_the_same_conf_ver() {
        let (left, right) =
            split(&region(), &"m".into(), RegionId(9), &[11, 12, 13].map(PeerId)).expect("splits");
        assert_eq!((left.epoch, right.epoch), (Epoch::new(1, 2), Epoch::new(1, 2)));
        assert_eq!(right.peers[2], Peer::voter(PeerId(13), StoreId(3)));
        assert!(left.range.adjacent(&right.range));
        assert!(split(&region(), &"m".into(), RegionId(9), &[PeerId(1)]).is_err());
        assert!(split(&region(), &"".into(), RegionId(9), &[11, 12, 13].map(PeerId)).is_err());
    }

    #[test]
    fn quorum_is_asked_of_both_halves() {
        let region = region();
        assert!(keeps_quorum(&region, |store| store != StoreId(3)));
        assert!(!keeps_quorum(&region, |store| store == StoreId(1)));
        let grown = Change::AddLearner { peer: PeerId(4), store: StoreId(4) }.apply(&region).expect("adds");
        let joint = Change::EnterJoint { promote: vec![PeerId(4)], demote: vec![PeerId(1)] };
        let joint = joint.apply(&grown).expect("enters");
        // Incoming half 2, 3, 4; outgoing half 1, 2, 3: stores 1 and 4 down leaves a majority of each, 2 and 4 does not.
        assert!(keeps_quorum(&joint, |store| [2, 3].map(StoreId).contains(&store)));
        assert!(!keeps_quorum(&joint, |store| [1, 3].map(StoreId).contains(&store)));
    }
}
