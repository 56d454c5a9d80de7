//! The replica checker: every region has the replicas it should, where they should be.
//!
//! It asks in the order of urgency and takes the first answer that can be acted on:
//!
//! 1. a joint configuration or a learner that an earlier operator left behind;
//! 2. a replica whose store is down, or which has been silent for as long;
//! 3. a replica whose store is being drained;
//! 4. too few replicas;
//! 5. too many;
//! 6. replicas that another store would keep further apart.
//!
//! Regions with an operator are left alone: a move half done has a replica too many, and that is no fault.

use crate::cluster::RegionInfo;
use crate::filter::{Reason, Refusal, View};
use crate::id::StoreId;
use crate::operator::{Cause, Intent, Policy, Proposal};
use crate::placement::{Board, is_isolated, isolation, other_stores};
use crate::region::{Peer, Role};
use crate::store::Health;

/// What the region needs, as `policy` would do it.
///
/// # Errors
/// [`Refusal`] where it needs nothing ([`Reason::Content`]) or nothing can be done now.
pub fn check(view: &View<'_>, board: &Board, info: &RegionInfo, policy: Policy) -> Result<Proposal, Refusal> {
    let refuse = |reason| Refusal::new(policy, reason).of_region(info.id());
    if info.leader.is_none() {
        return Err(refuse(Reason::NoLeader));
    }
    if view.operators.get(info.id()).is_some() {
        return Err(refuse(Reason::Occupied));
    }
    if info.region.is_joint() {
        return Ok(Proposal::new(info, policy, Cause::Unfinished, Intent::LeaveJoint));
    }
    let checks = [learners, down, offline, missing, extra, misplaced];
    let mut first_refusal = None;
    for check in checks {
        match check(view, board, info) {
            Ok(Some((cause, intent))) => return Ok(Proposal::new(info, policy, cause, intent)),
            Ok(None) => {}
            Err((store, reason)) => {
                let refusal = refuse(reason);
                let refusal = store.map_or(refusal, |store| refusal.of_store(store));
                first_refusal = first_refusal.or(Some(refusal));
            }
        }
    }
    Err(first_refusal.unwrap_or(refuse(Reason::Content)))
}

/// Whether a report is worth a look by the checker, as far as the region alone shows.
#[must_use]
pub fn wants_attention(info: &RegionInfo, max_replicas: u64) -> bool {
    let as_planned = info.region.peers.len() as u64 == max_replicas
        && info.region.peers.iter().all(|peer| peer.role == Role::Voter);
    !as_planned || !info.down().is_empty()
}

type Found = Result<Option<(Cause, Intent)>, (Option<StoreId>, Reason)>;

fn has_surplus(view: &View<'_>, info: &RegionInfo) -> bool {
    info.region.peers.len() as u64 > view.config.max_replicas
}

fn is_lost(view: &View<'_>, info: &RegionInfo, peer: &Peer) -> bool {
    let silent_ms = info.down().iter().find(|down| down.peer == peer.id).map_or(0, |down| down.down_ms);
    view.health(peer.store) == Some(Health::Down) || silent_ms > view.config.store_down_ms
}

/// A learner belongs to an operator; without one it is promoted if it is needed and removed if it is not.
fn learners(view: &View<'_>, _: &Board, info: &RegionInfo) -> Found {
    let voters = info.region.voters().count() as u64;
    let learner = info.region.peers.iter().find(|peer| peer.role == Role::Learner);
    let Some(learner) = learner else { return Ok(None) };
    if let Some(silent) = gives_way(view, info, learner) {
        return Ok(Some((Cause::Unfinished, Intent::RemoveReplica { from: silent })));
    }
    // One that shares its node was to take the place of the other, or has lost its own.
    let is_alone = !view.node_is_taken(&info.region, learner.store, Some(learner.store));
    let fit = is_alone && view.may_hold(learner.store).is_ok() && !info.is_down(learner.id);
    if voters >= view.config.max_replicas || !fit {
        return Ok(Some((Cause::Unfinished, Intent::RemoveReplica { from: learner.store })));
    }
    if info.is_pending(learner.id) {
        return Err((Some(learner.store), Reason::Unhealthy));
    }
    Ok(Some((Cause::Unfinished, Intent::Promote { on: learner.store })))
}

/// The store of a voter that gives way to a learner: the one is silent, the other has all data. An operator whose newcomer died in a joint
/// configuration leaves such a pair, and to remove the learner would leave the group a living copy less until the other counts as down.
fn gives_way(view: &View<'_>, info: &RegionInfo, learner: &Peer) -> Option<StoreId> {
    let is_whole = !info.is_pending(learner.id) && !info.is_down(learner.id);
    if !is_whole || view.may_hold(learner.store).is_err() {
        return None;
    }
    let silent = info.region.voters().find(|voter| !view.is_live(voter.store))?.store;
    let mut others = info.region.peers.iter().filter(|peer| peer.id != learner.id && peer.store != silent);
    let is_alone = !others.any(|other| view.same_node(other.store, learner.store));
    let enough = info.region.voters().count() as u64 >= view.config.max_replicas;
    (is_alone && enough).then_some(silent)
}

fn down(view: &View<'_>, board: &Board, info: &RegionInfo) -> Found {
    let lost = info.region.peers.iter().find(|peer| is_lost(view, info, peer));
    lost.map_or(Ok(None), |peer| replace(view, board, info, peer, Cause::Down))
}

fn offline(view: &View<'_>, board: &Board, info: &RegionInfo) -> Found {
    let leaving = info
        .region
        .peers
        .iter()
        .find(|peer| matches!(view.health(peer.store), Some(Health::Offline | Health::Tombstone)));
    leaving.map_or(Ok(None), |peer| replace(view, board, info, peer, Cause::Offline))
}

/// Away with the peer: without a successor where there are replicas enough, else to the best store.
fn replace(view: &View<'_>, board: &Board, info: &RegionInfo, peer: &Peer, cause: Cause) -> Found {
    let from = peer.store;
    if has_surplus(view, info) {
        return Ok(Some((cause, Intent::RemoveReplica { from })));
    }
    match board.best(view, info, Some(from)) {
        // A drained store may hand over to a sibling on its own node without moving a byte; but a node that is drained
        // is drained as a whole, so siblings take part only while they are in use, which the board has checked.
        Some((_, to)) if view.same_node(from, to) && cause == Cause::Offline => {
            Ok(Some((cause, Intent::Relocate { from, to })))
        }
        Some((_, to)) => Ok(Some((cause, Intent::MoveReplica { from, to }))),
        None => Err((Some(from), Reason::NoStore)),
    }
}

fn missing(view: &View<'_>, board: &Board, info: &RegionInfo) -> Found {
    if info.region.peers.len() as u64 >= view.config.max_replicas {
        return Ok(None);
    }
    match board.best(view, info, None) {
        Some((_, to)) => Ok(Some((Cause::Missing, Intent::AddReplica { to }))),
        None => Err((None, Reason::NoStore)),
    }
}

/// The replica to go is one that is lost or lags, else the one that is least isolated, else the one on the largest
/// store.
fn extra(view: &View<'_>, _: &Board, info: &RegionInfo) -> Found {
    if !has_surplus(view, info) {
        return Ok(None);
    }
    let worst = info.region.peers.iter().min_by_key(|peer| {
        let others = other_stores(info, Some(peer.store));
        let well = !info.is_pending(peer.id) && !info.is_down(peer.id) && view.is_live(peer.store);
        let bytes = view.region_bytes(peer.store);
        let isolation = isolation(view, &others, peer.store);
        // Of equals one that does not lead: its removal is one step instead of two.
        (
            well,
            isolation,
            std::cmp::Reverse(bytes),
            info.leader == Some(peer.id),
            std::cmp::Reverse(peer.store),
        )
    });
    let Some(worst) = worst else { return Ok(None) };
    if view.cluster.store(worst.store).is_some_and(crate::store::Store::is_busy) {
        return Err((Some(worst.store), Reason::Busy));
    }
    Ok(Some((Cause::Extra, Intent::RemoveReplica { from: worst.store })))
}

/// Moves the least isolated replica if another store would be strictly better.
fn misplaced(view: &View<'_>, board: &Board, info: &RegionInfo) -> Found {
    if info.region.peers.len() as u64 != view.config.max_replicas {
        return Ok(None);
    }
    if let Some(crowded) = shares_node(view, info) {
        let to = board.best(view, info, Some(crowded)).ok_or((Some(crowded), Reason::NoStore))?.1;
        return Ok(Some((Cause::Misplaced, Intent::MoveReplica { from: crowded, to })));
    }
    if view.config.location_labels.is_empty() {
        return Ok(None);
    }
    let score = |store: StoreId| {
        let others = other_stores(info, Some(store));
        (is_isolated(view, &others, store), isolation(view, &others, store))
    };
    let worst = info.region.peers.iter().map(|peer| peer.store).min_by_key(|store| (score(*store), *store));
    let Some(from) = worst else { return Ok(None) };
    let Some((_, to)) = board.best(view, info, Some(from)) else { return Ok(None) };
    let others = other_stores(info, Some(from));
    if (is_isolated(view, &others, to), isolation(view, &others, to)) <= score(from) {
        return Ok(None);
    }
    Ok(Some((Cause::Misplaced, Intent::MoveReplica { from, to })))
}

/// The store of a replica that shares its node with another one, the fuller of the two.
fn shares_node(view: &View<'_>, info: &RegionInfo) -> Option<StoreId> {
    let stores = info.region.peers.iter().map(|peer| peer.store);
    let crowded = stores.filter(|store| view.node_is_taken(&info.region, *store, Some(*store)));
    crowded.max_by_key(|store| (view.region_bytes(*store), *store))
}
