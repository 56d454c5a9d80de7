//! Whether a step may be sent to a region now, and what is in the way if not; the last column of the table of
//! [`super::Step`]s.

use std::fmt;

use super::step::Step;
use crate::change::keeps_quorum;
use crate::cluster::RegionInfo;
use crate::epoch::{Command, Epoch};
use crate::filter::View;
use crate::id::{PeerId, RegionId, StoreId};
use crate::merge::{NotMerged, may_merge};
use crate::region::{Region, Role};
use crate::store::Health;

/// Why a step may not be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsafe {
    /// The peer is not in the region, or not in the role that the step needs.
    WrongPeer(PeerId),
    /// The peer leads and must hand over first.
    Leads(PeerId),
    /// The peer is not caught up.
    Lags(PeerId),
    /// The store cannot take what was meant for it.
    StoreUnfit {
        /// The store.
        store: StoreId,
        /// How it does; nothing if it has not joined.
        health: Option<Health>,
    },
    /// Another peer of the region lives on that store or on another one of its node.
    NodeTaken(StoreId),
    /// Too few voters would be live and caught up.
    QuorumAtRisk,
    /// The region is in a joint configuration, which has to be left before.
    Joint,
    /// A relocation would leave the node.
    LeavesNode(StoreId),
    /// No peer of the region lives on that store any more.
    NoPeerOn(StoreId),
    /// The region that was to take this one in is no longer what it was.
    NeighbourChanged(RegionId),
    /// A peer of the region that is to take this one in is not caught up, or is silent.
    NeighbourLags(RegionId),
    /// The two cannot become one as they are.
    NotMerged(NotMerged),
    /// It was begun, and the region that was to take this one in has not: both go on as before.
    NotTaken(RegionId),
}

impl Unsafe {
    /// Whether it may pass by itself, so that waiting beats giving up.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::Lags(_) | Self::NeighbourLags(_) | Self::QuorumAtRisk)
    }
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongPeer(peer) => write!(f, "{peer} is not there in the role that the step needs"),
            Self::Leads(peer) => write!(f, "{peer} leads and must hand over first"),
            Self::Lags(peer) => write!(f, "{peer} is not caught up"),
            Self::StoreUnfit { store, health: None } => write!(f, "{store} has not joined"),
            Self::StoreUnfit { store, health: Some(Health::Up) } => {
                write!(f, "{store} is not heard by the region's leader")
            }
            Self::StoreUnfit { store, health: Some(health) } => write!(f, "{store} is {health}"),
            Self::NodeTaken(store) => write!(f, "the node of {store} has a peer of the region already"),
            Self::QuorumAtRisk => write!(f, "too few voters would be live and caught up"),
            Self::Joint => {
                write!(
                    f,
                    "the region is in a joint configuration, which is left first; ask again in some seconds"
                )
            }
            Self::LeavesNode(store) => write!(f, "{store} is on another node"),
            Self::NoPeerOn(store) => write!(f, "the region has no peer on {store}"),
            Self::NeighbourChanged(into) => write!(f, "{into} has changed or is no longer known"),
            Self::NeighbourLags(into) => write!(f, "a peer of {into} is not caught up"),
            Self::NotMerged(why) => write!(f, "{why}"),
            Self::NotTaken(into) => {
                write!(
                    f,
                    "{into} has changed or one of its stores was not heard, and has not taken the region in; both go on as before"
                )
            }
        }
    }
}

impl Step {
    /// Whether the step may be sent to this region now; asked before every sending.
    ///
    /// # Errors
    /// [`Unsafe`] with what is in the way.
    pub fn check(&self, info: &RegionInfo, view: &View<'_>) -> Result<(), Unsafe> {
        match self {
            Self::TransferLeader { peer, store } => may_lead(info, *peer, *store, view),
            Self::AddPeer { peer, store } | Self::AddLearner { peer, store } => {
                may_join(info, *peer, *store, view)?;
                self.check_quorum(info, view)
            }
            Self::AddSibling { peer, store, leaving } => {
                may_join_sibling(info, *peer, *store, *leaving, view)?;
                self.check_quorum(info, view)
            }
            Self::Promote { peer } => {
                not_joint(info)?;
                may_vote(info, *peer, view)
            }
            Self::Demote { peer } | Self::RemovePeer { peer, .. } => {
                may_leave(info, *peer)?;
                self.check_quorum(info, view)
            }
            Self::EnterJoint { promote, demote } => {
                promote.iter().try_for_each(|peer| may_vote(info, *peer, view))?;
                let leaves = |peer: &PeerId| info.region.peer(*peer).ok_or(Unsafe::WrongPeer(*peer));
                demote.iter().try_for_each(|peer| leaves(peer).map(drop))?;
                self.check_quorum(info, view)
            }
            Self::LeaveJoint => {
                let leader = info.leader.and_then(|leader| info.region.peer(leader));
                match leader {
                    Some(leader) if leader.role == Role::Outgoing => Err(Unsafe::Leads(leader.id)),
                    _ => Ok(()),
                }
            }
            Self::Split { .. } => not_joint(info),
            Self::Merge { into, epoch } => may_be_taken(info, into, *epoch, view),
        }
    }

    fn check_quorum(&self, info: &RegionInfo, view: &View<'_>) -> Result<(), Unsafe> {
        let Some(change) = self.change() else { return Ok(()) };
        not_joint(info)?;
        let Ok(after) = change.apply(&info.region) else { return Err(Unsafe::QuorumAtRisk) };
        let healthy = |store: StoreId| {
            let held = info.region.peer_on(store);
            view.is_live(store) && held.is_none_or(|peer| !info.is_pending(peer.id) && !info.is_down(peer.id))
        };
        if keeps_quorum(&after, healthy) { Ok(()) } else { Err(Unsafe::QuorumAtRisk) }
    }
}

/// What a joint configuration forbids: whoever waited for its end would keep everyone else from leaving it.
fn not_joint(info: &RegionInfo) -> Result<(), Unsafe> {
    if info.region.is_joint() { Err(Unsafe::Joint) } else { Ok(()) }
}

fn may_lead(info: &RegionInfo, peer: PeerId, store: StoreId, view: &View<'_>) -> Result<(), Unsafe> {
    match info.region.peer(peer) {
        Some(held) if held.will_vote() && held.store == store => {}
        _ => return Err(Unsafe::WrongPeer(peer)),
    }
    if info.is_down(peer) || !view.is_live(store) {
        return Err(unfit(store, view));
    }
    caught_up(info, peer)
}

/// What may become a voter: on a store that answers, because with a vote that is never cast the group bears a failure less.
fn may_vote(info: &RegionInfo, peer: PeerId, view: &View<'_>) -> Result<(), Unsafe> {
    let held = info.region.peer(peer).ok_or(Unsafe::WrongPeer(peer))?;
    if !view.is_live(held.store) {
        return Err(unfit(held.store, view));
    }
    caught_up(info, peer)
}

pub(super) fn unfit(store: StoreId, view: &View<'_>) -> Unsafe {
    Unsafe::StoreUnfit { store, health: view.health(store) }
}

fn may_join(info: &RegionInfo, peer: PeerId, store: StoreId, view: &View<'_>) -> Result<(), Unsafe> {
    if info.region.peer_on(store).is_some_and(|held| held.id == peer) {
        return Ok(());
    }
    if view.node_is_taken(&info.region, store, None) {
        return Err(Unsafe::NodeTaken(store));
    }
    if view.may_hold(store).is_err() { Err(unfit(store, view)) } else { Ok(()) }
}

/// As [`may_join`], beside the one peer of the region on the same node that is to go: nothing else lets two peers share a node.
fn may_join_sibling(
    info: &RegionInfo,
    peer: PeerId,
    store: StoreId,
    leaving: StoreId,
    view: &View<'_>,
) -> Result<(), Unsafe> {
    if info.region.peer_on(store).is_some_and(|held| held.id == peer) {
        return Ok(());
    }
    if info.region.peer_on(leaving).is_none() {
        return Err(Unsafe::NoPeerOn(leaving));
    }
    if !view.same_node(store, leaving) {
        return Err(Unsafe::LeavesNode(store));
    }
    if view.node_is_taken(&info.region, store, Some(leaving)) {
        return Err(Unsafe::NodeTaken(store));
    }
    if view.may_hold(store).is_err() { Err(unfit(store, view)) } else { Ok(()) }
}

fn may_leave(info: &RegionInfo, peer: PeerId) -> Result<(), Unsafe> {
    if info.leader == Some(peer) { Err(Unsafe::Leads(peer)) } else { Ok(()) }
}

fn caught_up(info: &RegionInfo, peer: PeerId) -> Result<(), Unsafe> {
    if info.region.peer(peer).is_none() {
        Err(Unsafe::WrongPeer(peer))
    } else if info.is_pending(peer) {
        Err(Unsafe::Lags(peer))
    } else {
        Ok(())
    }
}

/// Whether a region may be taken in by a neighbour that was `into`, and it at `epoch`. What has begun is left to the stores.
fn may_be_taken(info: &RegionInfo, into: &Region, epoch: Epoch, view: &View<'_>) -> Result<(), Unsafe> {
    let current = info.region.epoch;
    if current == epoch.after(Command::PrepareMerge) {
        return Ok(());
    }
    if current != epoch {
        return Err(Unsafe::NotTaken(into.id));
    }
    let known = view.cluster.region(into.id).filter(|known| known.region.epoch == into.epoch);
    let target = known.ok_or(Unsafe::NeighbourChanged(into.id))?;
    may_merge(&info.region, &target.region).map_err(Unsafe::NotMerged)?;
    if let Some(peer) = info.pending().first().copied().or(info.down().first().map(|down| down.peer)) {
        return Err(Unsafe::Lags(peer));
    }
    let is_whole = target.pending().is_empty() && target.down().is_empty();
    if is_whole { Ok(()) } else { Err(Unsafe::NeighbourLags(into.id)) }
}
