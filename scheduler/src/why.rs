//! Why a region stays as it is: every policy's opinion of one region.

use crate::balance::region::evens_out;
use crate::balance::shift::{Judge, load_on};
use crate::balance::{core, may_move, stays_whole};
use crate::check::{merge, replica, split};
use crate::cluster::RegionInfo;
use crate::filter::{Reason, Refusal, View};
use crate::id::StoreId;
use crate::operator::{Cause, Intent, Policy, Proposal};
use crate::placement::{Board, may_place};

/// What the policies have to say of one region: for the checkers, for each follower that could lead, and for each
/// replica and each store it could move to, what would be proposed or why it is not: for the sake of sizes, and for that
/// of load where the region is hot.
#[must_use]
pub fn why(view: &View<'_>, info: &RegionInfo) -> Vec<Result<Proposal, Refusal>> {
    let board = Board::new(view);
    let mut opinions =
        vec![replica::check(view, &board, info, Policy::ReplicaCheck), split::check(view, info)];
    opinions.push(
        enabled(view, Policy::MergeCheck)
            .map_err(|reason| Refusal::new(Policy::MergeCheck, reason).of_region(info.id()))
            .and_then(|()| merge::check(view, info)),
    );
    opinions.extend(info.follower_stores().map(|to| why_not_lead(view, info, to)));
    for peer in &info.region.peers {
        let others = view.cluster.stores().map(crate::store::Store::id);
        let others: Vec<StoreId> = others.filter(|store| info.region.peer_on(*store).is_none()).collect();
        opinions.extend(others.iter().map(|to| why_not_move(view, &board, info, peer.store, *to)));
        let siblings = others.iter().filter(|to| view.same_node(peer.store, **to));
        opinions.extend(siblings.map(|to| why_not_relocate(view, info, peer.store, *to)));
        if load_on(info, peer.store) >= view.config.tolerated_load(0, 0) {
            opinions.extend(others.iter().map(|to| why_not_relieve(view, info, peer.store, *to)));
        }
    }
    opinions
}

fn enabled(view: &View<'_>, policy: Policy) -> Result<(), Reason> {
    if view.config.is_enabled(policy) { Ok(()) } else { Err(Reason::Disabled) }
}

fn why_not_lead(view: &View<'_>, info: &RegionInfo, to: StoreId) -> Result<Proposal, Refusal> {
    let refuse = |reason| Refusal::new(Policy::BalanceLeader, reason).of_region(info.id()).of_store(to);
    enabled(view, Policy::BalanceLeader)
        .and_then(|()| may_move(view, info, None))
        .and_then(|()| view.may_lead_on(to))
        .map_err(refuse)?;
    let from = info.leader_store().ok_or(refuse(Reason::NoLeader))?;
    let difference = view.leaders(from) - view.leaders(to);
    let needed = view.limits.leader_difference_max;
    if difference <= needed {
        return Err(refuse(Reason::WithinTolerance { difference, needed }));
    }
    Ok(Proposal::new(info, Policy::BalanceLeader, Cause::Uneven, Intent::TransferLeader { to }))
}

fn why_not_move(
    view: &View<'_>,
    board: &Board,
    info: &RegionInfo,
    from: StoreId,
    to: StoreId,
) -> Result<Proposal, Refusal> {
    let weight = view.config.weight_bytes(info.size_bytes);
    enabled(view, Policy::BalanceRegion)
        .and_then(|()| may_move(view, info, Some(from)))
        .and_then(|()| stays_whole(view, info))
        .and_then(|()| view.may_give(from))
        .and_then(|()| may_place(view, info, Some(from), to))
        .and_then(|()| evens_out(board, view.region_bytes(from), view.region_bytes(to), weight))
        .map_err(|reason| Refusal::new(Policy::BalanceRegion, reason).of_region(info.id()).of_store(to))?;
    let relocates = view.same_node(from, to);
    let intent = if relocates { Intent::Relocate { from, to } } else { Intent::MoveReplica { from, to } };
    Ok(Proposal::new(info, Policy::BalanceRegion, Cause::Uneven, intent))
}

fn why_not_relocate(
    view: &View<'_>,
    info: &RegionInfo,
    from: StoreId,
    to: StoreId,
) -> Result<Proposal, Refusal> {
    let opinion = enabled(view, Policy::BalanceCore).and_then(|()| core::opinion(view, info, from, to));
    opinion.map_err(|reason| Refusal::new(Policy::BalanceCore, reason).of_region(info.id()).of_store(to))
}

fn why_not_relieve(
    view: &View<'_>,
    info: &RegionInfo,
    from: StoreId,
    to: StoreId,
) -> Result<Proposal, Refusal> {
    let policy = if view.same_node(from, to) { Policy::BalanceCore } else { Policy::HotRegion };
    let opinion = enabled(view, policy).and_then(|()| Judge::new(view).opinion(info, from, to));
    opinion
        .map(|intent| Proposal::new(info, policy, Cause::Hot, intent))
        .map_err(|reason| Refusal::new(policy, reason).of_region(info.id()).of_store(to))
}
