//! Even leaders over stores, by count.
//!
//! Two ends are tried in turn: out of the store with the most leaders, to whichever of the region's followers has the
//! fewest; and into the store with the fewest, from whoever leads a region that it follows. Counts decide and sizes do
//! not: a leader costs its core heartbeats and proposals, whatever the region weighs.

use std::collections::BTreeSet;

use super::{Round, may_move};
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
    let mut ends = Ends::new(view);
    let mut round = Round::default();
    while round.proposals.len() < max {
        let seen = view.with_influence(&influence);
        match next_transfer(&seen, &mut ends, rng, &taken) {
            Ok((region, to)) => {
                let Some(info) = view.cluster.region(region) else { break };
                taken.insert(region);
                let intent = Intent::TransferLeader { to };
                let touched: Vec<StoreId> = info.leader_store().into_iter().chain([to]).collect();
                touched.iter().for_each(|store| ends.take_out(&seen, *store));
                influence.add_intent(info, 0, &intent);
                let seen = view.with_influence(&influence);
                touched.iter().for_each(|store| ends.put_in(&seen, *store));
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

/// Stores by leader count. A store from which, or to which, nothing could be found is not tried again in the round,
/// but still counts when the extremes are compared.
#[derive(Default)]
struct Ends {
    all: BTreeSet<(i64, StoreId)>,
    fit: BTreeSet<(i64, StoreId)>,
    /// Stores that are still tried as a source.
    sources: BTreeSet<(i64, StoreId)>,
    /// Stores that are still tried as a target.
    targets: BTreeSet<(i64, StoreId)>,
    spent_sources: BTreeSet<StoreId>,
    spent_targets: BTreeSet<StoreId>,
}

impl Ends {
    fn new(view: &View<'_>) -> Self {
        let mut ends = Self::default();
        view.sources().for_each(|store| ends.put_in(view, store.id()));
        ends
    }

    fn put_in(&mut self, view: &View<'_>, store: StoreId) {
        let place = (view.leaders(store), store);
        self.all.insert(place);
        if !self.spent_sources.contains(&store) {
            self.sources.insert(place);
        }
        if view.may_lead_on(store).is_ok() {
            self.fit.insert(place);
            if !self.spent_targets.contains(&store) {
                self.targets.insert(place);
            }
        }
    }

    fn take_out(&mut self, view: &View<'_>, store: StoreId) {
        let place = (view.leaders(store), store);
        for set in [&mut self.all, &mut self.fit, &mut self.sources, &mut self.targets] {
            set.remove(&place);
        }
    }
}

fn next_transfer(view: &View<'_>, ends: &mut Ends, rng: &mut Rng, taken: &BTreeSet<RegionId>) -> Found {
    let refuse = |reason| Refusal::new(Policy::BalanceLeader, reason);
    let (Some((most, _)), Some((fewest, _))) = (ends.all.last().copied(), ends.fit.first().copied()) else {
        return Err(refuse(Reason::NoStore));
    };
    let needed = view.limits.leader_difference_max;
    let mut last = refuse(Reason::WithinTolerance { difference: most - fewest, needed });
    loop {
        let out = ends.sources.last().copied().filter(|(leaders, _)| leaders - fewest > needed);
        let into = ends.targets.first().copied().filter(|(leaders, _)| most - leaders > needed);
        if out.is_none() && into.is_none() {
            return Err(last);
        }
        if let Some((leaders, source)) = out {
            match draw(view, rng, |view, rng| transfer_out(view, rng, taken, source)) {
                Ok(found) => return Ok(found),
                Err(refusal) => last = refusal,
            }
            ends.sources.remove(&(leaders, source));
            ends.spent_sources.insert(source);
        }
        if let Some((leaders, target)) = into {
            match draw(view, rng, |view, rng| transfer_in(view, rng, taken, target)) {
                Ok(found) => return Ok(found),
                Err(refusal) => last = refusal,
            }
            ends.targets.remove(&(leaders, target));
            ends.spent_targets.insert(target);
        }
    }
}

/// As many draws as the configuration allows for one store.
fn draw(view: &View<'_>, rng: &mut Rng, once: impl Fn(&View<'_>, &mut Rng) -> Found) -> Found {
    let mut found = once(view, rng);
    for _ in 1..view.config.draws_per_store {
        if found.is_ok() {
            break;
        }
        found = once(view, rng);
    }
    found
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
    let needed = view.limits.leader_difference_max;
    let difference = view.leaders(source).saturating_sub(view.leaders(target));
    if difference <= needed {
        return Err(Reason::WithinTolerance { difference, needed });
    }
    view.may_lead_on(target)?;
    may_move(view, info, None)?;
    if taken.contains(&info.id()) { Err(Reason::Occupied) } else { Ok(()) }
}
