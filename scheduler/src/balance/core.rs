//! Even sizes and even load over the stores of a node, that is, over its cores.
//!
//! A region that a store leads moves to another store of its node without a byte being read, written or sent, so it is the cheapest answer to
//! an uneven node. The tables of a follower would come from its leader's node, so followers are left where they are. For each node
//! the busiest store gives a region to the idlest one; where loads are even, the largest gives one to the smallest, as far as that leaves
//! loads even. The stores of a node share its disk and its memory, so what is to be even is the work of cores: however small a busy
//! region is, it goes, and quiet ones come back for it where sizes are too far apart then.
//!
//! Where bytes move between nodes for balance ([`load_is_first`]) the sizes of all stores are compared, and what made them uneven for load
//! would be undone. So there sizes are evened out first, and load moves only what leaves them no less even ([`super::shift`]).
//!
//! # What keeps a region from going to and fro
//! * Stores may differ by [`Config::core_tolerance_percent`] of their mean, and by two regions of the least weight or the load of one hot region.
//! * A move for size leaves at most half of the difference, one for load less than what the region bears. What would bring the region back is
//!   another change of that size.
//! * A move for size drives no loads apart beyond what is tolerated.
//! * A region far smaller than the others of its store is not what makes a difference of sizes, and stays.
//! * Loads are rates over some seconds, of which a region that has just moved has few. So for [`LOAD_REST_MS`] after a move, load moves
//!   nothing on that node, and as long after a split neither of its parts.
//! * A node has one move or one exchange at a time.
//!
//! [`Config::core_tolerance_percent`]: crate::config::Config::core_tolerance_percent

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Round;
use super::shift::{Judge, Move, load_is_first, load_on, mean};
use crate::cluster::RegionInfo;
use crate::config::Config;
use crate::filter::{Reason, Refusal, View};
use crate::id::{NodeId, RegionId, StoreId};
use crate::operator::{Cause, Operator, Policy, Proposal, Step};
use crate::rng::Rng;

/// How long after a move the loads of a node's stores are not compared, and after a split those of its parts: as long as rates look back,
/// twice.
pub const LOAD_REST_MS: u64 = 10_000;
/// Stores of a node may differ by this many regions of the least weight.
const SMALL_REGIONS: i64 = 2;
/// A region below this part of the mean of its store's regions is not moved for size.
const SMALL_PART: i64 = 4;

/// At most one relocation, or one exchange, for each node, and no more than `max` proposals.
#[must_use]
pub fn propose(view: &View<'_>, rng: &mut Rng, max: usize) -> Round {
    let mut by_node: BTreeMap<NodeId, Vec<StoreId>> = BTreeMap::new();
    for store in view.sources().filter(|store| view.may_hold(store.id()).is_ok()) {
        by_node.entry(store.node()).or_default().push(store.id());
    }
    by_node.retain(|_, stores| stores.len() > 1);
    let moving = nodes_of(view, view.operators.iter());
    let ended = || view.operators.ended_within(LOAD_REST_MS, view.now).map(|ended| &ended.operator);
    let (resting, cut) = (nodes_of(view, ended()), cut_by(ended()));
    // What has moved, or was cut for its load, is not what it was: were it judged by its size now, it might go back.
    let unsettled: BTreeSet<RegionId> = ended()
        .filter(|it| it.cause == Cause::Busy || sibling_of(it).is_some())
        .map(|it| it.region)
        .collect();
    let refuse = |reason| Refusal::new(Policy::BalanceCore, reason);
    let mut judge = Judge::new(view);
    let mut round = Round { proposals: Vec::new(), refusal: Some(refuse(Reason::NoStore)) };
    for (node, stores) in &by_node {
        round.refusal = None;
        if moving.contains(node) {
            round.refusal = Some(refuse(Reason::Moving));
            continue;
        }
        let rests = resting.contains(node);
        let is_measured = |info: &RegionInfo| !rests && !cut.contains(&info.id());
        let is_settled = |info: &RegionInfo| !unsettled.contains(&info.id());
        match even_out(&judge, rng, stores, (&is_measured, &is_settled)) {
            // Half an exchange would undo what the other half is for.
            Ok((_, moves)) if round.proposals.len() + moves.len() > max => break,
            Ok((cause, moves)) => {
                for (info, intent) in moves {
                    judge.count(info, &intent);
                    round.proposals.push(Proposal::new(info, Policy::BalanceCore, cause, intent));
                }
            }
            Err(refusal) => round.refusal = Some(refusal),
        }
    }
    round
}

/// Of which regions something may be decided.
type Which<'a> = &'a dyn Fn(&RegionInfo) -> bool;

/// What evens out the stores of a node. Only regions go for their load of which that is known where they are.
fn even_out<'a>(
    judge: &Judge<'a>,
    rng: &mut Rng,
    stores: &[StoreId],
    (is_measured, is_settled): (Which<'_>, Which<'_>),
) -> Result<(Cause, Vec<Move<'a>>), Refusal> {
    let by_load = |rng: &mut Rng| even_out_loads(judge, rng, stores, is_measured);
    let first = if load_is_first(judge.seen().config) { Some(by_load(rng)) } else { None };
    let refused = match first {
        Some(Ok(moves)) => return Ok((Cause::Hot, moves)),
        Some(Err(refusal)) => Some(refusal),
        None => None,
    };
    let by_size = match even_out_sizes(judge, rng, stores, is_settled) {
        Ok(moves) => return Ok((Cause::Uneven, moves)),
        Err(refusal) => refusal,
    };
    match refused.map_or_else(|| by_load(rng), Err) {
        Ok(moves) => Ok((Cause::Hot, moves)),
        // Sizes that are uneven and cannot be helped say more than loads that are even.
        Err(by_load) => {
            let is_even = matches!(by_size.reason, Reason::WithinTolerance { .. });
            Err(if is_even { by_load } else { by_size })
        }
    }
}

/// The regions that these operators have split, and those that they were split into.
fn cut_by<'a>(operators: impl Iterator<Item = &'a Operator>) -> BTreeSet<RegionId> {
    let mut cut = BTreeSet::new();
    for operator in operators {
        for step in &operator.steps {
            if let Step::Split { keys: _, new } = step {
                cut.insert(operator.region);
                cut.extend(new.iter().map(|new| new.region));
            }
        }
    }
    cut
}

/// The nodes inside which these operators move something.
fn nodes_of<'a>(view: &View<'_>, operators: impl Iterator<Item = &'a Operator>) -> BTreeSet<NodeId> {
    operators.filter_map(|operator| view.cluster.node_of(sibling_of(operator)?)).collect()
}

/// The store to which an operator moves a region from another one of its node, if it does.
fn sibling_of(operator: &Operator) -> Option<StoreId> {
    operator.steps.iter().find_map(|step| match step {
        Step::AddSibling { store, .. } => Some(*store),
        Step::TransferLeader { .. }
        | Step::AddPeer { .. }
        | Step::AddLearner { .. }
        | Step::Promote { .. }
        | Step::Demote { .. }
        | Step::RemovePeer { .. }
        | Step::EnterJoint { .. }
        | Step::LeaveJoint
        | Step::Split { .. }
        | Step::Merge { .. } => None,
    })
}

fn even_out_sizes<'a>(
    judge: &Judge<'a>,
    rng: &mut Rng,
    stores: &[StoreId],
    is_settled: Which<'_>,
) -> Result<Vec<Move<'a>>, Refusal> {
    let refuse = |reason| Refusal::new(Policy::BalanceCore, reason);
    let view = judge.seen();
    let mut sizes: Vec<(i64, StoreId)> =
        stores.iter().map(|store| (view.region_bytes(*store), *store)).collect();
    sizes.sort_unstable_by_key(|(bytes, store)| (Reverse(*bytes), *store));
    let mean = mean(sizes.iter().map(|(bytes, _)| *bytes));
    let (Some((least, to)), Some(mean)) = (sizes.last().copied(), mean) else {
        return Err(refuse(Reason::NoStore));
    };
    let needed = tolerated_bytes(view.config, mean);
    let mut last = None;
    for (bytes, from) in sizes {
        let difference = bytes - least;
        if difference <= needed {
            // All further stores are smaller still.
            let even = refuse(Reason::WithinTolerance { difference, needed }).of_store(from);
            return Err(last.unwrap_or(even));
        }
        let fits = |info: &&RegionInfo| {
            is_settled(info) && evens_out(&view, info, (bytes, from), difference).is_ok()
        };
        let mut regions: Vec<&RegionInfo> = judge.drawn(rng, from).into_iter().filter(fits).collect();
        let left = |info: &RegionInfo| (difference - 2 * view.config.weight_bytes(info.size_bytes)).abs();
        regions.sort_unstable_by_key(|info| (left(info), info.id()));
        let mut why = Reason::NothingToGive;
        for info in regions {
            let permitted =
                judge.may_go(info, from, to).and_then(|shift| judge.permits_for_size(&shift, stores));
            match permitted {
                Ok(()) => return Ok(vec![(info, judge.intent(info, from, to))]),
                Err(reason) => why = reason,
            }
        }
        last = last.or(Some(refuse(why).of_store(from)));
    }
    Err(last.unwrap_or(refuse(Reason::NoStore)))
}

/// By how many bytes stores of a node may differ whose mean is this.
fn tolerated_bytes(config: &Config, mean: i64) -> i64 {
    let percent = i64::try_from(config.core_tolerance_percent).unwrap_or(i64::MAX);
    (mean / 100).saturating_mul(percent).max(SMALL_REGIONS.saturating_mul(config.weight_bytes(0)))
}

/// Whether the region's going from a store of this size makes a difference of this size much smaller.
///
/// # Errors
/// The reason why not.
fn evens_out(
    view: &View<'_>,
    info: &RegionInfo,
    (bytes, from): (i64, StoreId),
    difference: i64,
) -> Result<(), Reason> {
    if info.leader_store() != Some(from) {
        return Err(Reason::Follows);
    }
    let weight = view.config.weight_bytes(info.size_bytes);
    let regions = i64::try_from(view.cluster.counters(from).regions()).unwrap_or(i64::MAX).max(1);
    let least = bytes / regions / SMALL_PART;
    // More than that, and half of the difference or more would be left on the other side.
    let most = difference / 4 * 3;
    if weight > most {
        Err(Reason::WithinTolerance { difference, needed: weight / 3 * 4 })
    } else if weight < least {
        Err(Reason::NothingToGive)
    } else {
        Ok(())
    }
}

fn even_out_loads<'a>(
    judge: &Judge<'a>,
    rng: &mut Rng,
    stores: &[StoreId],
    is_measured: Which<'_>,
) -> Result<Vec<Move<'a>>, Refusal> {
    let refuse = |reason| Refusal::new(Policy::BalanceCore, reason);
    let view = judge.seen();
    let loads = || stores.iter().map(|store| (view.load(*store), *store));
    let mean = mean(loads().map(|(load, _)| load));
    let (Some((most, from)), Some((least, to)), Some(mean)) = (loads().max(), loads().min(), mean) else {
        return Err(refuse(Reason::NoStore));
    };
    let difference = most - least;
    let needed = view.config.tolerated_load(mean, view.config.core_tolerance_percent);
    if difference <= needed {
        return Err(refuse(Reason::WithinTolerance { difference, needed }).of_store(from));
    }
    let mut busy = judge.drawn(rng, from);
    busy.retain(|info| {
        info.leader_store() == Some(from)
            && (1..difference / 2).contains(&load_on(info, from))
            && is_measured(info)
    });
    busy.sort_unstable_by_key(|info| (Reverse(load_on(info, from)), info.id()));
    judge.find(rng, &busy, from, to).map_err(|reason| refuse(reason).of_store(from))
}

/// Whether the region would be moved from one store of its node to another one for the sake of sizes, as things are.
///
/// # Errors
/// The reason why not.
pub fn opinion(view: &View<'_>, info: &RegionInfo, from: StoreId, to: StoreId) -> Result<Proposal, Reason> {
    let judge = Judge::new(view);
    super::may_move(view, info, None)?;
    let (bytes, node) = (view.region_bytes(from), view.cluster.node_of(from));
    if node.is_some_and(|node| nodes_of(view, view.operators.iter()).contains(&node)) {
        return Err(Reason::Moving);
    }
    let stores = node.into_iter().flat_map(|node| view.cluster.stores_of(node));
    let stores: Vec<StoreId> = stores.map(crate::store::Store::id).collect();
    let sizes = stores.iter().map(|store| view.region_bytes(*store));
    let needed = tolerated_bytes(view.config, mean(sizes).unwrap_or_default());
    let difference = bytes - view.region_bytes(to);
    if difference <= needed {
        return Err(Reason::WithinTolerance { difference, needed });
    }
    evens_out(view, info, (bytes, from), difference)?;
    judge.permits_for_size(&judge.may_go(info, from, to)?, &stores)?;
    Ok(Proposal::new(info, Policy::BalanceCore, Cause::Uneven, judge.intent(info, from, to)))
}
