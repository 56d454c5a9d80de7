//! What would be nicer: even sizes, even leaders, even load.
//!
//! Each policy is a function from a [`View`] and a random generator to a [`Round`]: proposals, and the reason why there
//! are no more of them. Each counts its own proposals in as it goes.
//!
//! # Why it ends
//! Every policy judges the cluster as it will be once all running operators are done. Of that cluster take three
//! numbers, and let the earlier one decide:
//!
//! 1. *sizes*: the sum of the squares of what the stores weigh;
//! 2. *leaders*: by how much leader counts differ beyond the tolerance, summed over all pairs of a store and one that
//!    may lead;
//! 3. *load*: the sum of the squares of what the stores bear.
//!
//! Each proposal makes this triple smaller. [`region`] moves less than half of a difference in size, which lowers the
//! first number, whatever becomes of the others; [`core`] moves up to three quarters of one inside a node, after which at most half of
//! it is left, so the number falls, too. [`leader`] moves no bytes, and two counts that are too far apart come
//! closer, which lowers the second: the sum is one of convex functions, so no other pair makes up for it. For
//! load, [`hot`] and [`core`] may raise neither of the two and must lower the third ([`shift`]). There are finitely
//! many ways to place the regions, so as long as sizes, loads and stores stay as they are, proposals come to an end. And
//! no policy waits for one after it, so at rest sizes and leaders are as even as their policies want them. The tests
//! compute the triple and see it fall with every round.
//!
//! Where neither [`region`] nor [`hot`] is on, the stores of a node are compared by their work first, and the triple is another one ([`shift`]):
//!
//! 1. *leaders*, as above; nothing where regions have one replica;
//! 2. *load*: by how much the stores of one node differ in it beyond the tolerance, summed over all pairs;
//! 3. *sizes*, as above.
//!
//! [`leader`] lowers the first number. [`core`] lowers the second and does not raise the first where loads are too far apart, as less than half
//! of the difference goes from the busiest store to the idlest; and where it moves a region for its size it lowers the third and raises
//! neither of the others.
//!
//! What a person has placed is left alone for a while ([`placed`](crate::operator::placed)): balance waits, and ends a little later.
//!
//! Two things rank above: nothing here brings the replicas of a region closer together, and only sizes can bring a leader
//! to a store that is not to lead.

pub mod core;
pub mod hot;
pub mod leader;
pub mod region;
pub mod shift;

use crate::cluster::RegionInfo;
use crate::filter::{Reason, Refusal, View};
use crate::id::StoreId;
use crate::operator::Proposal;
use crate::store::Health;

/// What one policy has to say in one round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// What it wants, in the order of its choice.
    pub proposals: Vec<Proposal>,
    /// Why it does not want more.
    pub refusal: Option<Refusal>,
}

/// Whether a region may be moved for the sake of balance: it [may be touched](may_touch), and no person has placed it a while ago.
///
/// # Errors
/// The reason why not.
pub fn may_move(view: &View<'_>, info: &RegionInfo, lagging: Option<StoreId>) -> Result<(), Reason> {
    may_touch(view, info, lagging)?;
    match view.operators.placed().rest_ms(info.id(), view.now) {
        Some(left_ms) => Err(Reason::Placed(left_ms)),
        None => Ok(()),
    }
}

/// Whether a region may be touched where nothing is broken: its replicas are as many as they should be, nothing is
/// in flight, and no peer lags or is silent, except a lagging replica on `lagging`, which loses nothing by moving.
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

/// Whether none of the region's replicas is on a store that is to be emptied or down. Where that one goes is decided by what is even then, so
/// another one that went first might have to go back.
///
/// # Errors
/// [`Reason::Leaves`] where one is.
pub fn stays_whole(view: &View<'_>, info: &RegionInfo) -> Result<(), Reason> {
    let leaves = |store: StoreId| {
        matches!(view.health(store), Some(Health::Offline | Health::Down | Health::Tombstone) | None)
    };
    if info.region.peers.iter().any(|peer| leaves(peer.store)) { Err(Reason::Leaves) } else { Ok(()) }
}
