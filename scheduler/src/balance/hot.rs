//! Even load over all stores, one hot region at a time.
//!
//! Reads are borne by the leader alone, so a store that is hot by reads hands leadership over, which costs nothing;
//! writes are borne by every replica, so a store that is hot by writes gives a replica away. Either must make the
//! difference between the two stores smaller, and neither may do what the policies for sizes and leader counts would
//! undo.

use std::collections::BTreeSet;

use super::core::load_on;
use super::{Round, may_touch};
use crate::cluster::{Kind, RegionInfo};
use crate::filter::{Reason, Refusal, View};
use crate::id::{RegionId, StoreId};
use crate::operator::{Cause, Intent, Policy, Proposal};
use crate::placement;

/// Regions of the hottest store that are looked at.
const LOOKED_AT: usize = 4096;

/// Up to `max` changes that relieve the hottest store.
#[must_use]
pub fn propose(view: &View<'_>, max: usize) -> Round {
    let mut influence = view.influence.clone();
    let mut taken = BTreeSet::new();
    let mut round = Round::default();
    while round.proposals.len() < max {
        match relieve(&view.with_influence(&influence), &taken) {
            Ok((region, intent)) => {
                let Some(info) = view.cluster.region(region) else { break };
                taken.insert(region);
                influence.add_intent(info, view.config.weight_bytes(info.size_bytes), &intent);
                round.proposals.push(Proposal::new(info, Policy::HotRegion, Cause::Hot, intent));
            }
            Err(refusal) => {
                round.refusal = Some(refusal);
                break;
            }
        }
    }
    round
}

fn relieve(view: &View<'_>, taken: &BTreeSet<RegionId>) -> Result<(RegionId, Intent), Refusal> {
    let refuse = |reason| Refusal::new(Policy::HotRegion, reason);
    let mut loads: Vec<(i64, StoreId)> =
        view.sources().map(|store| (view.load(store.id()), store.id())).collect();
    loads.sort_unstable();
    let Some((most, source)) = loads.last().copied() else { return Err(refuse(Reason::NoStore)) };
    let mean = loads.iter().map(|(load, _)| *load).sum::<i64>() / loads.len() as i64;
    let tolerance = mean / 100 * i64::try_from(view.config.hot_tolerance_percent).unwrap_or(i64::MAX / 100);
    let needed = tolerance.max(hot_min(view));
    let difference = most - mean;
    if difference <= needed {
        return Err(refuse(Reason::WithinTolerance { difference, needed }).of_store(source));
    }
    let transfers = hottest(view, taken, source, &[Kind::Leader], read_of);
    let handed_over = transfers.into_iter().find_map(|info| Some((info.id(), transfer(view, info, source)?)));
    let moved = || {
        let hot = hottest(view, taken, source, &[Kind::Leader, Kind::Follower], |info| load_on(info, source));
        hot.into_iter().find_map(|info| Some((info.id(), relocate(view, info, source, &loads)?)))
    };
    handed_over.or_else(moved).ok_or(refuse(Reason::NothingToGive).of_store(source))
}

fn hot_min(view: &View<'_>) -> i64 {
    i64::try_from(view.config.hot_region_load_min).unwrap_or(i64::MAX)
}

fn read_of(info: &RegionInfo) -> i64 {
    i64::try_from(info.load.read_score()).unwrap_or(i64::MAX)
}

/// The store's hot regions that may be touched, the hottest first.
fn hottest<'a>(
    view: &View<'a>,
    taken: &BTreeSet<RegionId>,
    source: StoreId,
    kinds: &[Kind],
    load: impl Fn(&RegionInfo) -> i64,
) -> Vec<&'a RegionInfo> {
    let min = hot_min(view);
    let cluster = view.cluster;
    let regions = kinds.iter().flat_map(|kind| cluster.peers_of(source, *kind).take(LOOKED_AT));
    let hot = regions.filter(|info| load(info) >= min && !taken.contains(&info.id()));
    let mut hot: Vec<&RegionInfo> = hot.filter(|info| may_touch(view, info, None).is_ok()).collect();
    hot.sort_unstable_by_key(|info| (std::cmp::Reverse(load(info)), info.id()));
    hot
}

/// Leadership to the least loaded follower, if loads come closer and counts do not drift apart.
fn transfer(view: &View<'_>, info: &RegionInfo, source: StoreId) -> Option<Intent> {
    let read = read_of(info);
    let fit = info.follower_stores().filter(|store| view.may_lead_on(*store).is_ok());
    let to = fit.min_by_key(|store| (view.load(*store), *store))?;
    let closer = view.load(source) - view.load(to) > 2 * read;
    let counts_hold = view.leaders(to) + 2 - view.leaders(source) <= view.limits.leader_difference_max;
    (closer && counts_hold).then_some(Intent::TransferLeader { to })
}

/// A replica to the least loaded store that may take it, if loads come closer and sizes do not drift apart.
fn relocate(view: &View<'_>, info: &RegionInfo, source: StoreId, loads: &[(i64, StoreId)]) -> Option<Intent> {
    let load = load_on(info, source);
    let closer = |store: StoreId| view.load(source) - view.load(store) > 2 * load;
    let sizes_hold = |store: StoreId| view.region_bytes(store) <= view.region_bytes(source);
    let candidates = loads.iter().map(|(_, store)| *store).take_while(|store| closer(*store));
    let mut fit = candidates
        .filter(|store| sizes_hold(*store) && placement::may_place(view, info, Some(source), *store).is_ok());
    let to = fit.next()?;
    let from = source;
    Some(if view.same_node(from, to) {
        Intent::Relocate { from, to }
    } else {
        Intent::MoveReplica { from, to }
    })
}
