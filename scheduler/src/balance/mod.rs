//! What would be nicer: even sizes, even leaders, even load.
//!
//! Each policy is a function from a [`View`] and a random generator to a [`Round`]: proposals,
//! and the reason why there are no more of them. Each counts its own proposals in as it goes, and each proposes only
//! what makes a difference strictly smaller, so that at rest all of them are silent.

pub mod core;
pub mod hot;
pub mod leader;
pub mod region;

use crate::cluster::RegionInfo;
use crate::filter::{Reason, Refusal, View};
use crate::id::StoreId;
use crate::operator::Proposal;

/// What one policy has to say in one round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// What it wants, in the order of its choice.
    pub proposals: Vec<Proposal>,
    /// Why it does not want more.
    pub refusal: Option<Refusal>,
}

/// Whether a region may be touched for the sake of balance: its replicas are as many as they should be, nothing is
/// under way, and nobody lags or is silent, except a lagging replica on `lagging`, which loses nothing by moving.
///
/// # Errors
/// The reason why not.
pub fn may_touch(view: &View<'_>, info: &RegionInfo, lagging: Option<StoreId>) -> Result<(), Reason> {
    if view.operators.get(info.id()).is_some() {
        return Err(Reason::Occupied);
    }
    if info.leader.is_none() {
        return Err(Reason::NoLeader);
    }
    if info.region.is_joint() {
        return Err(Reason::InJoint);
    }
    let (has, wanted) = (info.region.peers.len() as u64, view.config.max_replicas);
    if has != wanted {
        return Err(Reason::ReplicasOff { has, wanted });
    }
    let movable = lagging.and_then(|store| info.region.peer_on(store)).map(|peer| peer.id);
    let others_lag = info.pending().iter().any(|peer| Some(*peer) != movable);
    if others_lag || !info.down().is_empty() { Err(Reason::Unhealthy) } else { Ok(()) }
}
