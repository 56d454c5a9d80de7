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
use crate::merge::{NotMerged, may_merge};
use crate::range::Key;
use crate::region::{Peer, Region, Role};

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
    /// To be taken in by a neighbour, whose stores the region's peers move to first.
    Merge {
        /// The neighbour.
        into: RegionId,
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
            Self::LeaveJoint | Self::Split { .. } | Self::Merge { .. } => (None, None),
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
    /// A region and its neighbour are small.
    Small,
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
            Self::Small => "the region and its neighbour are small",
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
                // Another operator may have been cut short for this one.
                let mut steps = if info.region.is_joint() { leave_joint(info, view)? } else { Vec::new() };
                steps.push(Step::Split { keys: keys.clone(), new });
                Ok(steps)
            }
            Intent::Merge { into } => merge(info, *into, view, ids),
        }
    }
}

/// The peers of a region to the stores of its neighbour, and then the two become one.
fn merge(info: &RegionInfo, into: RegionId, view: &View<'_>, ids: Ids<'_>) -> Result<Vec<Step>, BuildError> {
    let target = view.cluster.region(into).ok_or(BuildError::RegionMoved(into))?;
    if let Err(why @ (NotMerged::Apart { .. } | NotMerged::Changing { .. })) =
        may_merge(&info.region, &target.region)
    {
        return Err(BuildError::NotMerged(why));
    }
    if view.cluster.keeps_border(&info.region, &target.region) {
        return Err(BuildError::BorderKept(info.id(), into));
    }
    let (bytes, max) = (info.size_bytes.saturating_add(target.size_bytes), view.config.region_size_max_bytes);
    if bytes > max {
        return Err(BuildError::TooLarge { bytes, max });
    }
    let mut steps = Vec::new();
    for (from, to) in moves(view, &info.region, &target.region)? {
        let leaver = info.region.peer_on(from).copied().ok_or(BuildError::NoPeerOn(from))?;
        let newcomer = Peer::voter(new_peer(ids)?, to);
        if view.same_node(from, to) {
            steps.extend(relocate(info, &leaver, &newcomer));
            continue;
        }
        // Not to one that goes next.
        let stays = info.region.peers.iter().filter(|peer| target.region.peer_on(peer.store).is_some());
        let able = stays.filter(|peer| !info.is_pending(peer.id) && view.may_lead_on(peer.store).is_ok());
        let heir = able.min_by_key(|peer| (Some(peer.store) != target.leader_store(), peer.store));
        let heir = heir.unwrap_or(&newcomer);
        let transfer = Step::TransferLeader { peer: heir.id, store: heir.store };
        let transfer = if info.leader == Some(leaver.id) { vec![transfer] } else { Vec::new() };
        steps.extend(move_replica(&leaver, &newcomer, transfer, view.config.replica_path));
    }
    let mut epoch = info.region.epoch;
    epoch.conf_ver += steps.iter().filter(|step| step.change().is_some()).count() as u64;
    steps.push(Step::Merge { into: Box::new(target.region.clone()), epoch });
    Ok(steps)
}

/// From which store to which the peers of `source` move until they are where those of `target` are: within a node where that can be.
///
/// # Errors
/// They are not equally many.
pub(crate) fn moves(
    view: &View<'_>,
    source: &Region,
    target: &Region,
) -> Result<Vec<(StoreId, StoreId)>, BuildError> {
    let beyond = |one: &Region, other: &Region| -> Vec<StoreId> {
        let stores = one.peers.iter().map(|peer| peer.store);
        stores.filter(|store| other.peer_on(*store).is_none()).collect()
    };
    let (mut from, to) = (beyond(source, target), beyond(target, source));
    if from.len() != to.len() {
        return Err(BuildError::PeersDiffer(source.id, target.id));
    }
    // Those that stay on their node first, so that no other takes their place.
    let (near, far): (Vec<StoreId>, Vec<StoreId>) =
        to.into_iter().partition(|to| from.iter().any(|from| view.same_node(*from, *to)));
    let mut pairs = Vec::new();
    for to in near.into_iter().chain(far) {
        let place = from.iter().position(|from| view.same_node(*from, to)).unwrap_or(0);
        pairs.push((from.remove(place), to));
    }
    Ok(pairs)
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
    /// The two regions do not become one as they are.
    NotMerged(NotMerged),
    /// Clients rely on the border between the two.
    BorderKept(RegionId, RegionId),
    /// One of the two has more peers.
    PeersDiffer(RegionId, RegionId),
    /// The two together would be split again.
    TooLarge {
        /// Their size.
        bytes: u64,
        /// The largest that is not split.
        max: u64,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RegionMoved(region) => write!(f, "{region} has moved on"),
            Self::NoPeerOn(store) => write!(f, "the region has no peer on {store}"),
            Self::NoOtherLeader(region) => write!(f, "no other peer of {region} could lead"),
            Self::OutOfIds => f.write_str("no ids are left; allocate a new block"),
            Self::NotMerged(why) => write!(f, "{why}"),
            Self::BorderKept(one, other) => write!(
                f,
                "{one} and {other} meet at an end of the keyspace, whose clients rely on that border; merge neighbours on one side of it"
            ),
            Self::PeersDiffer(one, other) => write!(
                f,
                "{one} and {other} have not equally many peers; they are merged when the scheduler has made up for what lacks"
            ),
            Self::TooLarge { bytes, max } => write!(
                f,
                "together they have {bytes} bytes and would be split again, above region_size_max_bytes ({max}); raise that, or leave them"
            ),
        }
    }
}

impl std::error::Error for BuildError {}
