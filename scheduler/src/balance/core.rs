//! Even load over the stores of a node, that is, over its cores.
//!
//! A relocation moves no bytes over the network and none on the disk, so it is the cheapest answer to a busy core. For
//! each node the busiest store gives a region to the idlest one, if that makes the difference smaller. Where it would
//! make *sizes* uneven, a quiet region of about the same size goes the other way, so that the size policy has no
//! reason to undo it.

use std::collections::BTreeMap;

use super::{Round, may_touch};
use crate::cluster::{Kind, RegionInfo};
use crate::filter::{Reason, Refusal, View};
use crate::id::{NodeId, StoreId};
use crate::operator::{Cause, Intent, Policy, Proposal};
use crate::rng::Rng;

/// Regions drawn to find one of a fitting load.
const DRAWS: usize = 32;

/// At most one relocation, or one exchange, for each node, and no more than `max` proposals.
#[must_use]
pub fn propose(view: &View<'_>, rng: &mut Rng, max: usize) -> Round {
    let mut by_node: BTreeMap<NodeId, Vec<StoreId>> = BTreeMap::new();
    for store in view.sources().filter(|store| view.may_hold(store.id()).is_ok()) {
        by_node.entry(store.node()).or_default().push(store.id());
    }
    let mut round = Round::default();
    for stores in by_node.values() {
        match even_out(view, rng, stores) {
            Ok(proposals) if round.proposals.len() + proposals.len() <= max => {
                round.proposals.extend(proposals)
            }
            Ok(_) => break,
            Err(refusal) => round.refusal = Some(refusal),
        }
    }
    round
}

fn even_out(view: &View<'_>, rng: &mut Rng, stores: &[StoreId]) -> Result<Vec<Proposal>, Refusal> {
    let refuse = |reason| Refusal::new(Policy::BalanceCore, reason);
    let loads = || stores.iter().map(|store| (view.load(*store), *store));
    let (Some((most, from)), Some((least, to))) = (loads().max(), loads().min()) else {
        return Err(refuse(Reason::NoStore));
    };
    let difference = most - least;
    let mean = loads().map(|(load, _)| load).sum::<i64>() / stores.len() as i64;
    let tolerance = mean / 100 * i64::try_from(view.config.core_tolerance_percent).unwrap_or(i64::MAX / 100);
    let needed = tolerance.max(i64::try_from(view.config.hot_region_load_min).unwrap_or(i64::MAX));
    if difference <= needed {
        return Err(refuse(Reason::WithinTolerance { difference, needed }).of_store(from));
    }
    let hot = heaviest_below(view, rng, from, difference / 2)
        .ok_or(refuse(Reason::NothingToGive).of_store(from))?;
    let relocate =
        |info, from, to| Proposal::new(info, Policy::BalanceCore, Cause::Hot, Intent::Relocate { from, to });
    if view.region_bytes(to) <= view.region_bytes(from) {
        return Ok(vec![relocate(hot, from, to)]);
    }
    let quiet = counterweight(view, rng, hot, from, to).ok_or(refuse(Reason::NothingToGive).of_store(to))?;
    Ok(vec![relocate(hot, from, to), relocate(quiet, to, from)])
}

/// What a region's peer on this store contributes to the store's load.
#[must_use]
pub fn load_on(info: &RegionInfo, store: StoreId) -> i64 {
    let read = if info.leader_store() == Some(store) { info.load.read_score() } else { 0 };
    i64::try_from(info.load.write_score().saturating_add(read)).unwrap_or(i64::MAX)
}

fn draws<'a>(view: &View<'a>, rng: &mut Rng, store: StoreId) -> Vec<&'a RegionInfo> {
    let mut drawn = Vec::new();
    for draw in 0..DRAWS {
        let kind = if draw % 2 == 0 { Kind::Leader } else { Kind::Follower };
        drawn.extend(view.cluster.random_of(store, kind, rng));
    }
    drawn.retain(|info| may_touch(view, info, None).is_ok());
    drawn
}

/// Of some drawn regions, the heaviest that is lighter than `bound`, so that moving it makes the difference smaller.
fn heaviest_below<'a>(view: &View<'a>, rng: &mut Rng, store: StoreId, bound: i64) -> Option<&'a RegionInfo> {
    let fitting =
        draws(view, rng, store).into_iter().filter(|info| (1..bound).contains(&load_on(info, store)));
    fitting.max_by_key(|info| (load_on(info, store), info.id()))
}

/// Of some drawn regions, a quiet one of about the size of `hot`.
fn counterweight<'a>(
    view: &View<'a>,
    rng: &mut Rng,
    hot: &RegionInfo,
    from: StoreId,
    to: StoreId,
) -> Option<&'a RegionInfo> {
    let weight = view.config.weight_bytes(hot.size_bytes);
    let burden = load_on(hot, from);
    let fits = |info: &&RegionInfo| {
        let own = view.config.weight_bytes(info.size_bytes);
        info.id() != hot.id() && (own - weight).abs() <= weight / 4 && load_on(info, to) < burden / 4
    };
    draws(view, rng, to).into_iter().filter(fits).min_by_key(|info| (load_on(info, to), info.id()))
}
