//! Spreading a group of regions, for example those of a table that is about to be loaded.
//!
//! Sizes say nothing about regions that are still empty, so what is evened out here is how many replicas and leaders
//! *of the group* each store has. One call improves each region by one move or transfer; it is called again until it
//! proposes nothing.

use std::collections::BTreeMap;

use crate::balance::{Round, may_touch};
use crate::cluster::RegionInfo;
use crate::filter::{Reason, Refusal, View};
use crate::id::{RegionId, StoreId};
use crate::operator::{Cause, Intent, Policy, Proposal};
use crate::placement;

/// Up to `max` changes that spread `group`.
#[must_use]
pub fn propose(view: &View<'_>, group: &[RegionId], max: usize) -> Round {
    let regions: Vec<&RegionInfo> = group.iter().filter_map(|region| view.cluster.region(*region)).collect();
    let mut spread = Spread::of(&regions);
    let mut round = Round::default();
    for info in regions {
        if round.proposals.len() >= max {
            break;
        }
        let refuse = |reason| Refusal::new(Policy::Scatter, reason).of_region(info.id());
        if let Err(reason) = may_touch(view, info, None) {
            round.refusal = Some(refuse(reason));
            continue;
        }
        match spread.improve(view, info) {
            Some(intent) => round.proposals.push(Proposal::new(info, Policy::Scatter, Cause::Asked, intent)),
            None => round.refusal = Some(refuse(Reason::Content)),
        }
    }
    round
}

/// How many replicas and leaders of the group each store has.
struct Spread {
    replicas: BTreeMap<StoreId, u64>,
    leaders: BTreeMap<StoreId, u64>,
}

impl Spread {
    fn of(regions: &[&RegionInfo]) -> Self {
        let mut spread = Self { replicas: BTreeMap::new(), leaders: BTreeMap::new() };
        for info in regions {
            for peer in &info.region.peers {
                *spread.replicas.entry(peer.store).or_default() += 1;
            }
            if let Some(leader) = info.leader_store() {
                *spread.leaders.entry(leader).or_default() += 1;
            }
        }
        spread
    }

    /// A change of this region that makes the group's spread more even; counted in.
    fn improve(&mut self, view: &View<'_>, info: &RegionInfo) -> Option<Intent> {
        let count = |counts: &BTreeMap<StoreId, u64>, store| counts.get(&store).copied().unwrap_or(0);
        let from = info
            .region
            .peers
            .iter()
            .map(|peer| peer.store)
            .max_by_key(|store| (count(&self.replicas, *store), *store))?;
        let stores = view.cluster.stores().map(crate::store::Store::id);
        let fit = stores.filter(|store| placement::may_place(view, info, Some(from), *store).is_ok());
        let to = fit.min_by_key(|store| (count(&self.replicas, *store), view.region_bytes(*store), *store));
        if let Some(to) = to
            && count(&self.replicas, from) > count(&self.replicas, to) + 1
        {
            *self.replicas.entry(from).or_default() -= 1;
            *self.replicas.entry(to).or_default() += 1;
            let relocates = view.same_node(from, to);
            return Some(if relocates {
                Intent::Relocate { from, to }
            } else {
                Intent::MoveReplica { from, to }
            });
        }
        let leader = info.leader_store()?;
        let fit = info.follower_stores().filter(|store| view.may_lead_on(*store).is_ok());
        let heir = fit.min_by_key(|store| (count(&self.leaders, *store), *store))?;
        if count(&self.leaders, leader) <= count(&self.leaders, heir) + 1 {
            return None;
        }
        *self.leaders.entry(leader).or_default() -= 1;
        *self.leaders.entry(heir).or_default() += 1;
        Some(Intent::TransferLeader { to: heir })
    }
}
