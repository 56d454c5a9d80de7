//! Even leaders over stores, by count.
//!
//! Two ends are tried in turn: out of the store with the most leaders, to whichever of the region's followers has the
//! fewest; and into the store with the fewest, from whoever leads a region that it follows. Counts decide and sizes do
//! not: a leader costs its core heartbeats and proposals, whatever the region weighs.

use std::collections::BTreeSet;

use super::{Round, may_touch};
use crate::cluster::{Kind, RegionInfo};
use crate::filter::{Reason, Refusal, View};
use crate::id::{RegionId, StoreId};
use crate::operator::{Cause, Intent, Policy, Proposal};
use crate::rng::Rng;

/// Up to `max` transfers that make leader counts more even.
#[must_use]
pub fn propose(view: &View<'_>, rng: &mut Rng, max: usize) -> Round {
    let mut influence = view.influence.clone();
    let mut taken = BTreeSet::new();
    let mut round = Round::default();
    while round.proposals.len() < max {
        match next_transfer(&view.with_influence(&influence), rng, &taken) {
            Ok((region, to)) => {
                let Some(info) = view.cluster.region(region) else { break };
                taken.insert(region);
                let intent = Intent::TransferLeader { to };
                influence.add_intent(info, 0, &intent);
                round.proposals.push(Proposal::new(info, Policy::BalanceLeader, Cause::Uneven, intent));
            }
            Err(refusal) => {
                round.refusal = Some(refusal);
                break;
            }
        }
    }
    round
}

fn next_transfer(
    view: &View<'_>,
    rng: &mut Rng,
    taken: &BTreeSet<RegionId>,
) -> Result<(RegionId, StoreId), Refusal> {
    let refuse = |reason| Refusal::new(Policy::BalanceLeader, reason);
    let mut sources: Vec<(i64, StoreId)> =
        view.sources().map(|store| (view.leaders(store.id()), store.id())).collect();
    let fit = |(_, store): &(i64, StoreId)| view.may_lead_on(*store).is_ok();
    let mut targets: Vec<(i64, StoreId)> = sources.iter().copied().filter(fit).collect();
    sources.sort_unstable_by_key(|(leaders, store)| (std::cmp::Reverse(*leaders), *store));
    targets.sort_unstable();
    let (Some((most, _)), Some((fewest, _))) = (sources.first().copied(), targets.first().copied()) else {
        return Err(refuse(Reason::NoStore));
    };
    let needed = view.limits.leader_difference_max;
    let mut last = refuse(Reason::WithinTolerance { difference: most - fewest, needed });
    for index in 0..sources.len() {
        let out = sources.get(index).filter(|(leaders, _)| leaders - fewest > needed);
        let into = targets.get(index).filter(|(leaders, _)| most - leaders > needed);
        if out.is_none() && into.is_none() {
            break;
        }
        for _ in 0..view.config.draws_per_store {
            let found = out.map(|(_, source)| transfer_out(view, rng, taken, *source));
            match found {
                Some(Ok(found)) => return Ok(found),
                Some(Err(reason)) => last = reason,
                None => break,
            }
        }
        for _ in 0..view.config.draws_per_store {
            let found = into.map(|(_, target)| transfer_in(view, rng, taken, *target));
            match found {
                Some(Ok(found)) => return Ok(found),
                Some(Err(reason)) => last = reason,
                None => break,
            }
        }
    }
    Err(last)
}

type Found = Result<(RegionId, StoreId), Refusal>;

fn transfer_out(view: &View<'_>, rng: &mut Rng, taken: &BTreeSet<RegionId>, source: StoreId) -> Found {
    let refusal = Refusal::new(Policy::BalanceLeader, Reason::NothingToGive).of_store(source);
    let info = view.cluster.random_of(source, Kind::Leader, rng).ok_or(refusal)?;
    let mut heirs: Vec<StoreId> = info.follower_stores().collect();
    heirs.sort_unstable_by_key(|store| (view.leaders(*store), *store));
    let mut last = Refusal { region: Some(info.id()), reason: Reason::NoStore, ..refusal };
    for heir in heirs {
        match may_transfer(view, info, source, heir, taken) {
            Ok(()) => return Ok((info.id(), heir)),
            Err(reason) => last = Refusal { reason, ..last },
        }
    }
    Err(last)
}

fn transfer_in(view: &View<'_>, rng: &mut Rng, taken: &BTreeSet<RegionId>, target: StoreId) -> Found {
    let refusal = Refusal::new(Policy::BalanceLeader, Reason::NothingToGive).of_store(target);
    let info = view.cluster.random_of(target, Kind::Follower, rng).ok_or(refusal)?;
    let refuse = |reason| Refusal { region: Some(info.id()), reason, ..refusal };
    let source = info.leader_store().ok_or(refuse(Reason::NoLeader))?;
    may_transfer(view, info, source, target, taken).map_err(refuse)?;
    Ok((info.id(), target))
}

/// Whether this transfer may be made and evens counts out.
fn may_transfer(
    view: &View<'_>,
    info: &RegionInfo,
    source: StoreId,
    target: StoreId,
    taken: &BTreeSet<RegionId>,
) -> Result<(), Reason> {
    view.may_lead_on(target)?;
    may_touch(view, info, None)?;
    if taken.contains(&info.id()) {
        return Err(Reason::Occupied);
    }
    let needed = view.limits.leader_difference_max;
    let difference = view.leaders(source).saturating_sub(view.leaders(target));
    if difference > needed { Ok(()) } else { Err(Reason::WithinTolerance { difference, needed }) }
}
