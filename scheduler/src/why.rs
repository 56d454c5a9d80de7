//! Why a region stays as it is: every policy's opinion of one region.

use crate::balance::may_touch;
use crate::balance::region::evens_out;
use crate::check::{replica, split};
use crate::cluster::RegionInfo;
use crate::filter::{Reason, Refusal, View};
use crate::id::StoreId;
use crate::operator::{Cause, Intent, Policy, Proposal};
use crate::placement::{Board, may_place};

/// What the policies have to say of one region: for the checkers, for each follower that could lead, and for each
/// replica and each store it could move to, what would be proposed or why it is not.
#[must_use]
pub fn why(view: &View<'_>, info: &RegionInfo) -> Vec<Result<Proposal, Refusal>> {
    let board = Board::new(view);
    let mut opinions =
        vec![replica::check(view, &board, info, Policy::ReplicaCheck), split::check(view, info)];
    opinions.extend(info.follower_stores().map(|to| why_not_lead(view, info, to)));
    for peer in &info.region.peers {
        let others = view.cluster.stores().map(crate::store::Store::id);
        let others = others.filter(|store| info.region.peer_on(*store).is_none());
        opinions.extend(others.map(|to| why_not_move(view, info, peer.store, to)));
    }
    opinions
}

fn why_not_lead(view: &View<'_>, info: &RegionInfo, to: StoreId) -> Result<Proposal, Refusal> {
    let refuse = |reason| Refusal::new(Policy::BalanceLeader, reason).of_region(info.id()).of_store(to);
    may_touch(view, info, None).and_then(|()| view.may_lead_on(to)).map_err(refuse)?;
    let from = info.leader_store().ok_or(refuse(Reason::NoLeader))?;
    let difference = view.leaders(from) - view.leaders(to);
    let needed = view.limits.leader_difference_max;
    if difference <= needed {
        return Err(refuse(Reason::WithinTolerance { difference, needed }));
    }
    Ok(Proposal::new(info, Policy::BalanceLeader, Cause::Uneven, Intent::TransferLeader { to }))
}

fn why_not_move(view: &View<'_>, info: &RegionInfo, from: StoreId, to: StoreId) -> Result<Proposal, Refusal> {
    let weight = view.config.weight_bytes(info.size_bytes);
    may_touch(view, info, Some(from))
        .and_then(|()| view.may_give(from))
        .and_then(|()| may_place(view, info, Some(from), to))
        .and_then(|()| evens_out(view.region_bytes(from), view.region_bytes(to), weight))
        .map_err(|reason| Refusal::new(Policy::BalanceRegion, reason).of_region(info.id()).of_store(to))?;
    let relocates = view.same_node(from, to);
    let intent = if relocates { Intent::Relocate { from, to } } else { Intent::MoveReplica { from, to } };
    Ok(Proposal::new(info, Policy::BalanceRegion, Cause::Uneven, intent))
}
