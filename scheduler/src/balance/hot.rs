//! Even load over all stores, one hot region at a time.
//!
//! Reads are borne by the leader alone, so a store that is hot by reads hands leadership over, which costs nothing;
//! writes are borne by every replica, so a store that is hot by writes gives a replica away, and where it leads the
//! region, leadership goes along. Either only as [`super::shift`] permits it.

use std::cmp::Reverse;

use super::Round;
use super::shift::{Judge, Move, Shift, load_on, mean};
use crate::cluster::{Kind, RegionInfo};
use crate::filter::{Reason, Refusal, View};
use crate::id::StoreId;
use crate::operator::{Cause, Intent, Policy, Proposal};
use crate::rng::Rng;

/// Regions of a hot store that are looked at, for each kind of peer.
const LOOKED_AT: usize = 4096;
/// Of these, the hottest for which a better place is sought.
const HOTTEST: usize = 32;
/// Stores above the tolerance that are tried, the hottest first.
const SOURCES: usize = 4;
/// Stores that are tried as a target, the least loaded first.
const TARGETS: usize = 64;

/// Up to `max` changes that relieve the hottest stores.
#[must_use]
pub fn propose(view: &View<'_>, rng: &mut Rng, max: usize) -> Round {
    let mut judge = Judge::new(view);
    let mut round = Round::default();
    while round.proposals.len() < max {
        match relieve(&judge, rng) {
            // Half an exchange would undo what the other half is for.
            Ok(moves) if round.proposals.len() + moves.len() > max => {
                let limit = view.config.limit_of(Policy::HotRegion);
                round.refusal = Some(Refusal::new(Policy::HotRegion, Reason::LimitReached(limit)));
                break;
            }
            Ok(moves) => {
                for (info, intent) in moves {
                    judge.count(info, &intent);
                    round.proposals.push(Proposal::new(info, Policy::HotRegion, Cause::Hot, intent));
                }
            }
            Err(refusal) => {
                round.refusal = Some(refusal);
                break;
            }
        }
    }
    round
}

/// The next change that relieves one of the hottest stores.
fn relieve<'a>(judge: &Judge<'a>, rng: &mut Rng) -> Result<Vec<Move<'a>>, Refusal> {
    let refuse = |reason| Refusal::new(Policy::HotRegion, reason);
    let view = judge.seen();
    let mut loads: Vec<(i64, StoreId)> =
        view.sources().map(|store| (view.load(store.id()), store.id())).collect();
    loads.sort_unstable();
    let mean = mean(loads.iter().map(|(load, _)| *load));
    let (Some((most, hottest)), Some(mean)) = (loads.last().copied(), mean) else {
        return Err(refuse(Reason::NoStore));
    };
    let needed = view.config.tolerated_load(mean, view.config.hot_tolerance_percent);
    let difference = most - mean;
    let mut last = refuse(Reason::WithinTolerance { difference, needed }).of_store(hottest);
    let hot = loads.iter().rev().take_while(|(load, _)| load - mean > needed);
    for (_, source) in hot.take(SOURCES) {
        match relieve_one(judge, rng, *source, &loads) {
            Ok(moves) => return Ok(moves),
            Err(reason) => last = refuse(reason).of_store(*source),
        }
    }
    Err(last)
}

fn relieve_one<'a>(
    judge: &Judge<'a>,
    rng: &mut Rng,
    source: StoreId,
    loads: &[(i64, StoreId)],
) -> Result<Vec<Move<'a>>, Reason> {
    let read =
        hottest(judge, source, &[Kind::Leader], |info| Shift::of_leadership(info, source, source).load);
    if let Some(transfer) = read.iter().find_map(|info| transfer(judge, info, source)) {
        return Ok(vec![transfer]);
    }
    let hot = hottest(judge, source, &[Kind::Leader, Kind::Follower], |info| load_on(info, source));
    let mut why = Reason::NothingToGive;
    for (_, target) in loads.iter().filter(|(_, store)| *store != source).take(TARGETS) {
        match judge.find(rng, &hot, source, *target) {
            Ok(moves) => return Ok(moves),
            // The least loaded target that holds none of them says most.
            Err(reason) if matches!(why, Reason::NothingToGive | Reason::NodeTaken) => why = reason,
            Err(_) => {}
        }
    }
    Err(why)
}

/// The store's hot regions that may be touched, the hottest first.
fn hottest<'a>(
    judge: &Judge<'a>,
    source: StoreId,
    kinds: &[Kind],
    load: impl Fn(&RegionInfo) -> i64,
) -> Vec<&'a RegionInfo> {
    let cluster = judge.cluster();
    let min = i64::try_from(judge.seen().config.hot_region_load_min).unwrap_or(i64::MAX);
    let regions = kinds.iter().flat_map(|kind| cluster.peers_of(source, *kind).take(LOOKED_AT));
    let mut hot: Vec<&RegionInfo> = regions.filter(|info| load(info) >= min && judge.is_free(info)).collect();
    hot.sort_unstable_by_key(|info| (Reverse(load(info)), info.id()));
    hot.truncate(HOTTEST);
    hot
}

/// Leadership to the least loaded follower that may have it.
fn transfer<'a>(judge: &Judge<'a>, info: &'a RegionInfo, source: StoreId) -> Option<Move<'a>> {
    let view = judge.seen();
    let fit = info.follower_stores().filter(|store| view.may_lead_on(*store).is_ok());
    let permitted = fit.filter(|to| judge.permits(&Shift::of_leadership(info, source, *to)).is_ok());
    let to = permitted.min_by_key(|store| (view.load(*store), *store))?;
    Some((info, Intent::TransferLeader { to }))
}
