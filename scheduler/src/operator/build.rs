//! From what a policy wants to the steps that do it.
//!
//! A policy says *what* (move this peer there); the order of steps that keeps the region safe on the way is decided
//! here and nowhere else: the newcomer first, then leadership away from the leaver, the leaver last.

use std::fmt;

use super::step::{NewRegion, Step};
use super::{Operator, Policy};
use crate::cluster::RegionInfo;
use crate::config::ReplicaPath;
use crate::epoch::Epoch;
use crate::filter::View;
use crate::id::{PeerId, RegionId, StoreId};
use crate::range::Key;
use crate::region::{Peer, Role};

/// What a policy wants of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// One replica more, on this store.
    AddReplica {
        /// Where.
        to: StoreId,
    },
    /// One replica fewer.
    RemoveReplica {
        /// Where from.
        from: StoreId,
    },
    /// A replica elsewhere, on another node.
    MoveReplica {
        /// Where from.
        from: StoreId,
        /// Where to.
        to: StoreId,
    },
    /// A leading replica elsewhere, on another node, and leadership with it.
    MoveLeader {
        /// Where from.
        from: StoreId,
        /// Where to.
        to: StoreId,
    },
    /// A replica on another store of its node.
    Relocate {
        /// Where from.
        from: StoreId,
        /// Where to.
        to: StoreId,
    },
    /// Leadership elsewhere.
    TransferLeader {
        /// Where to.
        to: StoreId,
    },
    /// A learner that is to vote.
    Promote {
        /// Its store.
        on: StoreId,
    },
    /// An end to a joint configuration that no peer leaves.
    LeaveJoint,
    /// Cuts at these keys, or one where the store finds best.
    Split {
        /// Where to cut, rising.
        keys: Vec<Key>,
    },
}

impl Intent {
    /// The stores that it names.
    pub fn stores(&self) -> impl Iterator<Item = StoreId> {
        let (one, other) = match self {
            Self::AddReplica { to } | Self::TransferLeader { to } => (Some(*to), None),
            Self::RemoveReplica { from } => (Some(*from), None),
            Self::MoveReplica { from, to } | Self::MoveLeader { from, to } | Self::Relocate { from, to } => {
                (Some(*from), Some(*to))
            }
            Self::Promote { on } => (Some(*on), None),
            Self::LeaveJoint | Self::Split { .. } => (None, None),
        };
        one.into_iter().chain(other)
    }
}

/// What gave rise to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A region has too few replicas.
    Missing,
    /// A region has too many.
    Extra,
    /// A replica's store is down.
    Down,
    /// A replica's store is being drained.
    Offline,
    /// Another store would keep replicas further apart.
    Misplaced,
    /// An earlier operator was cut short.
    Unfinished,
    /// One store holds or leads more than another.
    Uneven,
    /// One store bears more load than another.
    Hot,
    /// A region is larger than it may be.
    Oversized,
    /// A region is busier than it may be.
    Busy,
    /// A store is not to lead.
    Evicted,
    /// It was asked for.
    Asked,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the region has too few replicas",
            Self::Extra => "the region has too many replicas",
            Self::Down => "the store of a replica is down",
            Self::Offline => "the store of a replica is being emptied",
            Self::Misplaced => "another store would keep the replicas further apart",
            Self::Unfinished => "an earlier operator was cut short",
            Self::Uneven => "one store has more than another",
            Self::Hot => "one store bears more load than another",
            Self::Oversized => "the region is larger than a region may be",
            Self::Busy => "the region is busier than a region may be",
            Self::Evicted => "the store of the leader is kept from leading",
            Self::Asked => "it was asked for",
        })
    }
}

/// What a policy wants, before ids are spent on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The region.
    pub region: RegionId,
    /// The region's epoch when this was thought out.
    pub epoch: Epoch,
    /// Who wants it.
    pub policy: Policy,
    /// Why.
    pub cause: Cause,
    /// What.
    pub intent: Intent,
}

/// A source of new ids: answers `None` when its block is used up.
pub type Ids<'a> = &'a mut dyn FnMut() -> Option<u64>;

impl Proposal {
    /// What `policy` wants of the region.
    #[must_use]
    pub const fn new(info: &RegionInfo, policy: Policy, cause: Cause, intent: Intent) -> Self {
        Self { region: info.id(), epoch: info.region.epoch, policy, cause, intent }
    }

    /// The operator that does it.
    ///
    /// # Errors
    /// [`BuildError`] where the region does not have what the proposal speaks of, or ids are used up.
    pub fn build(&self, view: &View<'_>, ids: Ids<'_>) -> Result<Operator, BuildError> {
        let info = view.cluster.region(self.region).ok_or(BuildError::RegionMoved(self.region))?;
        if info.region.epoch != self.epoch {
            return Err(BuildError::RegionMoved(self.region));
        }
        let steps = self.steps(info, view, ids)?;
        Ok(Operator::new(info, self.policy, self.cause, steps, view.now))
    }

    fn steps(&self, info: &RegionInfo, view: &View<'_>, ids: Ids<'_>) -> Result<Vec<Step>, BuildError> {
        let peer_on = |store| info.region.peer_on(store).copied().ok_or(BuildError::NoPeerOn(store));
        match &self.intent {
            Intent::AddReplica { to } => {
                let peer = new_peer(ids)?;
                Ok(join(view.config.replica_path, peer, *to))
            }
            Intent::RemoveReplica { from } => {
                let leaver = peer_on(*from)?;
                let mut steps = hand_over(info, &leaver, None, view)?;
                steps.push(Step::RemovePeer { peer: leaver.id, store: leaver.store });
                Ok(steps)
            }
            Intent::MoveReplica { from, to } => {
                let (leaver, newcomer) = (peer_on(*from)?, Peer::voter(new_peer(ids)?, *to));
                let transfer = hand_over(info, &leaver, Some(&newcomer), view)?;
                Ok(move_replica(&leaver, &newcomer, transfer, view.config.replica_path))
            }
            Intent::MoveLeader { from, to } => {
                let (leaver, newcomer) = (peer_on(*from)?, Peer::voter(new_peer(ids)?, *to));
                let transfer = vec![Step::TransferLeader { peer: newcomer.id, store: newcomer.store }];
                Ok(move_replica(&leaver, &newcomer, transfer, view.config.replica_path))
            }
            Intent::Relocate { from, to } => {
                let (leaver, newcomer) = (peer_on(*from)?, Peer::voter(new_peer(ids)?, *to));
                Ok(relocate(info, &leaver, &newcomer))
            }
            Intent::TransferLeader { to } => {
                Ok(vec![Step::TransferLeader { peer: peer_on(*to)?.id, store: *to }])
            }
            Intent::Promote { on } => Ok(vec![Step::Promote { peer: peer_on(*on)?.id }]),
            Intent::LeaveJoint => leave_joint(info, view),
            Intent::Split { keys } => {
                let new = (0..keys.len().max(1)).map(|_| new_region(info, ids)).collect::<Result<_, _>>()?;
                Ok(vec![Step::Split { keys: keys.clone(), new }])
            }
        }
    }
}

fn new_peer(ids: Ids<'_>) -> Result<PeerId, BuildError> {
    ids().map(PeerId).ok_or(BuildError::OutOfIds)
}

fn new_region(info: &RegionInfo, ids: Ids<'_>) -> Result<NewRegion, BuildError> {
    let region = ids().map(RegionId).ok_or(BuildError::OutOfIds)?;
    let peers = info.region.peers.iter().map(|_| new_peer(ids)).collect::<Result<_, _>>()?;
    Ok(NewRegion { region, peers })
}

fn join(path: ReplicaPath, peer: PeerId, store: StoreId) -> Vec<Step> {
    match path {
        ReplicaPath::Direct => vec![Step::AddPeer { peer, store }],
        ReplicaPath::Learner | ReplicaPath::Joint => {
            vec![Step::AddLearner { peer, store }, Step::Promote { peer }]
        }
    }
}

/// The newcomer first, then leadership, the leaver last.
fn move_replica(leaver: &Peer, newcomer: &Peer, transfer: Vec<Step>, path: ReplicaPath) -> Vec<Step> {
    let remove = Step::RemovePeer { peer: leaver.id, store: leaver.store };
    if path != ReplicaPath::Joint || leaver.role != Role::Voter {
        let mut steps = join(path, newcomer.id, newcomer.store);
        steps.extend(transfer);
        steps.push(remove);
        return steps;
    }
    let mut steps = vec![Step::AddLearner { peer: newcomer.id, store: newcomer.store }];
    steps.push(Step::EnterJoint { promote: vec![newcomer.id], demote: vec![leaver.id] });
    steps.extend(transfer);
    steps.extend([Step::LeaveJoint, remove]);
    steps
}

/// As [`move_replica`], between two stores of one node: never with two votes of one node in a majority, so by a swap whatever the path, and
/// with leadership, because a leader is moved for its load.
fn relocate(info: &RegionInfo, leaver: &Peer, newcomer: &Peer) -> Vec<Step> {
    let mut steps =
        vec![Step::AddSibling { peer: newcomer.id, store: newcomer.store, leaving: leaver.store }];
    if leaver.role == Role::Voter {
        steps.push(Step::EnterJoint { promote: vec![newcomer.id], demote: vec![leaver.id] });
        if info.leader == Some(leaver.id) {
            steps.push(Step::TransferLeader { peer: newcomer.id, store: newcomer.store });
        }
        steps.push(Step::LeaveJoint);
    }
    steps.push(Step::RemovePeer { peer: leaver.id, store: leaver.store });
    steps
}

/// The step that moves leadership away from a peer that is about to go, if it leads.
fn hand_over(
    info: &RegionInfo,
    leaver: &Peer,
    newcomer: Option<&Peer>,
    view: &View<'_>,
) -> Result<Vec<Step>, BuildError> {
    if info.leader != Some(leaver.id) {
        return Ok(Vec::new());
    }
    let stays = |peer: &&Peer| peer.id != leaver.id && peer.will_vote();
    let able = |peer: &&Peer| !info.is_pending(peer.id) && !info.is_down(peer.id) && view.is_live(peer.store);
    let old = info.region.peers.iter().filter(stays).filter(able);
    // A store that should not lead, because it is being drained, still leads for a moment, because no leader would be worse.
    let unwilling = |peer: &Peer| view.may_lead_on(peer.store).is_err();
    let heir = old.chain(newcomer).min_by_key(|peer| (unwilling(peer), view.leaders(peer.store), peer.store));
    let heir = heir.ok_or(BuildError::NoOtherLeader(info.id()))?;
    Ok(vec![Step::TransferLeader { peer: heir.id, store: heir.store }])
}

fn leave_joint(info: &RegionInfo, view: &View<'_>) -> Result<Vec<Step>, BuildError> {
    let leader = info.leader.and_then(|leader| info.region.peer(leader));
    let mut steps = match leader {
        Some(leader) if leader.role == Role::Outgoing => hand_over(info, leader, None, view)?,
        _ => Vec::new(),
    };
    steps.push(Step::LeaveJoint);
    Ok(steps)
}

/// Why a proposal cannot become an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The region is gone or has another epoch than the proposal was thought out against.
    RegionMoved(RegionId),
    /// The region has no peer on that store.
    NoPeerOn(StoreId),
    /// The leaving peer leads and no other could take over.
    NoOtherLeader(RegionId),
    /// The block of ids is used up; the next one is to be allocated first.
    OutOfIds,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RegionMoved(region) => write!(f, "{region} has moved on"),
            Self::NoPeerOn(store) => write!(f, "the region has no peer on {store}"),
            Self::NoOtherLeader(region) => write!(f, "no other peer of {region} could lead"),
            Self::OutOfIds => f.write_str("no ids are left; allocate a new block"),
        }
    }
}

impl std::error::Error for BuildError {}
