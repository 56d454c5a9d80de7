//! Which stores keep the scheduler's state, and the next change on the way there. Pure.
//!
//! ```text
//! nodes   1, 2    3, 4    5 and more
//! members 1       3       5              the first store of a node each; the leader always
//!
//! add learners ──► they caught up? ──► joint change: all new ones vote, all old ones no more ──► leave it ──► remove learners
//! ```
//!
//! What holds: one change at a time, and only what the members show decides about the next, so whoever leads goes on where another one
//! stopped; a member keeps its place until it counts as gone and another one can take it; with one voter of three gone and none to take its
//! place nothing changes, because fewer voters would lose more than they gain.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::{Action, Change, Peer, PeerId, Role, StoreId};

use crate::plant::{Bug, planted};
use crate::region::system::Members;

/// Members that a large cluster has.
const MEMBERS_MAX: usize = 5;
/// The voters that a group does not go below for want of nodes.
const VOTERS_KEPT: usize = 3;

/// How the first store of a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fitness {
    /// It may be given a place.
    Fit,
    /// It keeps its place if it has one, and is given none.
    Silent,
    /// Its place is for another one.
    Gone,
}

/// A step of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A new member is to learn.
    Add(StoreId),
    /// A change that needs no new id, or another leader.
    Take(Action),
}

/// The stores that should vote.
pub(super) fn wanted(members: &Members, stores: &BTreeMap<StoreId, Fitness>) -> BTreeSet<StoreId> {
    let fitness = |store: StoreId| match stores.get(&store) {
        Some(Fitness::Gone) if planted(Bug::GoneVotersKept) => Fitness::Silent,
        Some(fitness) => *fitness,
        // It is not known yet.
        None => Fitness::Silent,
    };
    let votes = |peer: &&Peer| peer.role != Role::Learner;
    let voters: Vec<StoreId> = members.region.peers.iter().filter(votes).map(|peer| peer.store).collect();
    let nodes = stores.values().filter(|fitness| **fitness != Fitness::Gone).count();
    let odd = if nodes.is_multiple_of(2) { nodes.saturating_sub(1) } else { nodes };
    let places = odd.min(MEMBERS_MAX).max(voters.len().min(VOTERS_KEPT)).max(1);
    let leader = members.leader.store;
    let staying = voters.iter().copied().filter(|store| *store != leader && fitness(*store) != Fitness::Gone);
    let learning = members.region.peers.iter().filter(|peer| peer.role == Role::Learner);
    let learning = learning.map(|peer| peer.store).filter(|store| fitness(*store) == Fitness::Fit);
    let new = stores.iter().filter(|(_, fitness)| **fitness == Fitness::Fit).map(|(store, _)| *store);
    // For want of others, those that are gone keep their places.
    let gone = voters.iter().copied().filter(|store| fitness(*store) == Fitness::Gone);
    let leading = (fitness(leader) != Fitness::Gone).then_some(leader);
    let mut wanted: Vec<StoreId> = Vec::new();
    for store in leading.into_iter().chain(staying).chain(learning).chain(new).chain(gone) {
        if wanted.len() < places && !wanted.contains(&store) {
            wanted.push(store);
        }
    }
    if wanted.len().is_multiple_of(2) {
        // Two voters bear no more losses than one.
        wanted.pop();
    }
    wanted.into_iter().collect()
}

/// The next change, if there is one to be begun now.
pub(super) fn next(members: &Members, stores: &BTreeMap<StoreId, Fitness>) -> Option<Step> {
    let Members { region, leader, pending, down } = members;
    if region.is_joint() {
        return Some(Step::Take(Action::Change(Change::LeaveJoint)));
    }
    let wanted = wanted(members, stores);
    let learners = || region.peers.iter().filter(|peer| peer.role == Role::Learner);
    if let Some(left) = learners().find(|peer| !wanted.contains(&peer.store)) {
        return Some(Step::Take(Action::Change(Change::Remove { peer: left.id })));
    }
    if let Some(store) = wanted.iter().find(|store| region.peer_on(**store).is_none()) {
        return Some(Step::Add(*store));
    }
    let is_behind = |peer: &PeerId| pending.contains(peer) || down.contains(peer);
    let promote: Vec<PeerId> = learners().map(|peer| peer.id).collect();
    let voters = || region.peers.iter().filter(|peer| peer.role == Role::Voter);
    let demote: Vec<PeerId> =
        voters().filter(|peer| !wanted.contains(&peer.store)).map(|peer| peer.id).collect();
    if promote.iter().any(is_behind) || (promote.is_empty() && demote.is_empty()) {
        return None;
    }
    if demote.contains(&leader.id) {
        let successors = voters().filter(|peer| wanted.contains(&peer.store) && !is_behind(&peer.id));
        let successor = successors.min_by_key(|peer| peer.id).copied();
        return match successor {
            Some(successor) => Some(Step::Take(Action::TransferLeader(successor))),
            // The others vote first, beside it.
            None if promote.is_empty() => None,
            None => Some(Step::Take(Action::Change(Change::EnterJoint { promote, demote: Vec::new() }))),
        };
    }
    Some(Step::Take(Action::Change(Change::EnterJoint { promote, demote })))
}

#[cfg(test)]
#[path = "voters_tests.rs"]
mod tests;
