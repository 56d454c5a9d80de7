//! Merges of regions that are small, with a neighbour.
//!
//! A region is taken in by a neighbour if all of this holds:
//! * it is no larger than [`Config::region_merge_bytes`] and [`Config::region_merge_keys`], and the two together are no larger than half of
//!   what is split ([`Config::region_size_max_bytes`]), and bear at most a quarter of the load that is;
//! * neither was split in the last [`Config::split_merge_interval_ms`], or is known for less than that, and no person has placed either lately;
//! * nothing is wrong with either, and nothing is being done to either;
//! * the border between them is not one that clients rely on;
//! * the last merge of the region was not in vain a moment ago.
//!
//! # What is not merged away
//! A node begins with a region for each of its cores, so that all of them serve. So there stay as many regions as there are stores in use, and
//! no store loses its only one: what a merge would take below that is left alone, however small. It needs no memory of which regions the
//! node has made, and holds for a store that joins later, too.
//!
//! # Which neighbour
//! The one on the same stores, else the smaller one: then the peers of the region move there first, which costs what it has in bytes, and
//! counts against the limits of stores like any other move.

use std::collections::BTreeSet;

use crate::balance::{Round, may_move, stays_whole};
use crate::cluster::RegionInfo;
use crate::config::Config;
use crate::filter::{Reason, Refusal, Unmerged, View};
use crate::id::{RegionId, StoreId};
use crate::operator::{Cause, Influence, Intent, Outcome, Policy, Proposal, Status, moves};

/// How long a region is left alone of which a merge was begun and came to nothing.
pub const VAIN_REST_MS: u64 = 300_000;
/// The two together are no larger than this part of what is split.
const SIZE_PART: u64 = 2;
/// The two together bear no more than this part of the load for which a region is split.
const LOAD_PART: u64 = 4;

/// Whether the region is small enough to be merged.
#[must_use]
pub fn is_small(config: &Config, info: &RegionInfo) -> bool {
    config.region_merge_bytes > 0
        && info.size_bytes <= config.region_merge_bytes
        && info.keys <= config.region_merge_keys
}

/// Whether the region is to be taken in by a neighbour.
///
/// # Errors
/// [`Refusal`] where it is not small ([`Reason::Content`]), or must not be touched now.
pub fn check(view: &View<'_>, info: &RegionInfo) -> Result<Proposal, Refusal> {
    let refuse = |reason| Refusal::new(Policy::MergeCheck, reason).of_region(info.id());
    if !is_small(view.config, info) {
        return Err(refuse(Reason::Content));
    }
    is_free(view, info).map_err(refuse)?;
    in_vain(view, info).map_err(refuse)?;
    stays_spread(view, info)?;
    let (before, after) = neighbours(view, info);
    let mut found: Option<((usize, u64), RegionId)> = None;
    let mut first_refusal = None;
    for other in [before, after].into_iter().flatten() {
        match fits(view, info, other) {
            Ok(moved) => {
                let rank = (moved, other.size_bytes);
                if found.is_none_or(|(best, _)| rank < best) {
                    found = Some((rank, other.id()));
                }
            }
            Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
        }
    }
    match found {
        Some((_, into)) => Ok(Proposal::new(info, Policy::MergeCheck, Cause::Small, Intent::Merge { into })),
        None => Err(first_refusal.unwrap_or(refuse(Reason::Unmerged(Unmerged::NoNeighbour)))),
    }
}

/// Merges of some of these regions, each of two that no other one of them is about.
#[must_use]
pub fn propose(view: &View<'_>, batch: &[RegionId], max: usize) -> Round {
    let (mut round, mut touched) = (Round::default(), BTreeSet::new());
    let (regions, stores) = spread(view);
    let max = max.min(regions.saturating_sub(stores).max(1));
    let mut influence: Influence = view.influence.clone();
    for info in batch.iter().filter_map(|region| view.cluster.region(*region)) {
        if round.proposals.len() >= max {
            break;
        }
        let checked = check(&view.with_influence(&influence), info);
        match checked {
            Ok(proposal) => {
                let Intent::Merge { into } = &proposal.intent else { continue };
                if touched.contains(&info.id()) || !touched.insert(*into) {
                    continue;
                }
                touched.insert(info.id());
                count(view, info, *into, &mut influence);
                round.proposals.push(proposal);
            }
            Err(refusal) if refusal.reason == Reason::Content => {}
            Err(refusal) => round.refusal = Some(refusal),
        }
    }
    round
}

/// Counts in what a merge will change.
fn count(view: &View<'_>, info: &RegionInfo, into: RegionId, influence: &mut Influence) {
    info.region.peers.iter().for_each(|peer| influence.of_mut(peer.store).regions -= 1);
    let pairs = view.cluster.region(into).and_then(|target| moves(view, &info.region, &target.region).ok());
    for (from, to) in pairs.unwrap_or_default().into_iter().filter(|(from, to)| !view.same_node(*from, *to)) {
        influence.of_mut(from).moves_out += 1;
        influence.of_mut(to).moves_in += 1;
    }
}

fn neighbours<'a>(view: &View<'a>, info: &RegionInfo) -> (Option<&'a RegionInfo>, Option<&'a RegionInfo>) {
    let range = &info.region.range;
    let before = view.cluster.region_before(range.start()).filter(|_| !range.start().is_empty());
    let after = range.end_bound().and_then(|end| view.cluster.region_at(end));
    (before, after)
}

/// Whether one of the two may be part of a merge at all.
fn is_free(view: &View<'_>, info: &RegionInfo) -> Result<(), Reason> {
    may_move(view, info, None)?;
    stays_whole(view, info)?;
    let (interval, since) =
        (view.config.split_merge_interval_ms, view.now.ms_since(view.cluster.cut_at(info.id())));
    match interval.checked_sub(since).filter(|left_ms| *left_ms > 0) {
        Some(left_ms) => Err(Reason::Unmerged(Unmerged::CutLately(left_ms))),
        None => Ok(()),
    }
}

/// A merge that stores did not carry out stops its region for a moment, so it is not begun again at once.
fn in_vain(view: &View<'_>, info: &RegionInfo) -> Result<(), Reason> {
    let Some(Status::Ended(ended)) = view.operators.status(info.id()) else { return Ok(()) };
    let was_in_vain = ended.operator.policy == Policy::MergeCheck && ended.outcome != Outcome::Success;
    match VAIN_REST_MS.checked_sub(view.now.ms_since(ended.at)).filter(|left_ms| was_in_vain && *left_ms > 0)
    {
        Some(left_ms) => Err(Reason::Unmerged(Unmerged::InVain(left_ms))),
        None => Ok(()),
    }
}

/// How many regions there will be once what runs is done, and how many stores are in use.
fn spread(view: &View<'_>) -> (usize, usize) {
    let merging = view.operators.iter().filter(|operator| operator.merges_into().is_some()).count();
    let stores = view.sources().filter(|store| view.may_hold(store.id()).is_ok()).count();
    (view.cluster.len().saturating_sub(merging), stores)
}

/// Whether enough regions stay, on all stores and on each of those of the region.
fn stays_spread(view: &View<'_>, info: &RegionInfo) -> Result<(), Refusal> {
    let refuse = |reason| Refusal::new(Policy::MergeCheck, reason).of_region(info.id());
    let (regions, stores) = spread(view);
    if regions <= stores {
        return Err(refuse(Reason::Unmerged(Unmerged::FewRegions(stores as u64))));
    }
    let left = |store: StoreId| {
        let now = i64::try_from(view.cluster.counters(store).regions()).unwrap_or(i64::MAX);
        now.saturating_add(view.influence.of(store).regions) - 1
    };
    match info.region.peers.iter().find(|peer| left(peer.store) < 1) {
        Some(peer) => Err(refuse(Reason::Unmerged(Unmerged::OnlyRegion)).of_store(peer.store)),
        None => Ok(()),
    }
}

/// How many peers would have to move between nodes for a merge into `other`.
fn fits(view: &View<'_>, info: &RegionInfo, other: &RegionInfo) -> Result<usize, Refusal> {
    let refuse = |reason| Refusal::new(Policy::MergeCheck, reason).of_region(info.id());
    let of_other = |reason| Refusal::new(Policy::MergeCheck, reason).of_region(other.id());
    is_free(view, other).map_err(of_other)?;
    if view.cluster.keeps_border(&info.region, &other.region) {
        return Err(refuse(Reason::Unmerged(Unmerged::BorderKept(other.id()))));
    }
    let config = view.config;
    let (bytes, max) =
        (info.size_bytes.saturating_add(other.size_bytes), config.region_size_max_bytes / SIZE_PART);
    if bytes > max {
        return Err(refuse(Reason::Unmerged(Unmerged::LargeTogether { with: other.id(), bytes, max })));
    }
    let score = |info: &RegionInfo| info.load.read_score().saturating_add(info.load.write_score());
    let ops = info.load.weighted_ops().saturating_add(other.load.weighted_ops());
    let is_hot = score(info).saturating_add(score(other)) >= config.hot_region_load_min;
    if is_hot || (config.region_split_ops > 0 && ops > config.region_split_ops / LOAD_PART) {
        return Err(refuse(Reason::Unmerged(Unmerged::BusyTogether(other.id()))));
    }
    let pairs = moves(view, &info.region, &other.region).map_err(|_| of_other(Reason::Unhealthy))?;
    let mut moved = 0;
    for (from, to) in pairs {
        if view.same_node(from, to) {
            view.may_hold(to).map(drop).map_err(|reason| refuse(reason).of_store(to))?;
            continue;
        }
        moved += 1;
        view.may_take(to).map_err(|reason| refuse(reason).of_store(to))?;
        view.may_give(from).map_err(|reason| refuse(reason).of_store(from))?;
    }
    Ok(moved)
}
