//! What an operator of the cluster wants to see at a glance: stores by health, regions that lack replicas, operators by outcome.
//!
//! Only regions that the checkers want to see anyway are looked at one by one, so it takes little time however many there are.

use std::collections::BTreeMap;

use super::Scheduler;
use crate::check::split;
use crate::cluster::RegionInfo;
use crate::operator::{Outcome, Policy};
use crate::region::Peer;
use crate::store::Health;
use crate::time::Time;

/// Numbers of a cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Stores by health, each health once.
    pub stores: Vec<(Health, u64)>,
    /// Regions that are known.
    pub regions: u64,
    /// Regions with fewer voters that are heard than there should be voters.
    pub under_replicated: u64,
    /// Regions with a replica that is not caught up for long, although no one is away.
    pub lagging: u64,
    /// Regions with more load than one is to bear.
    pub busy: u64,
    /// Regions that were split for their load since the scheduler began.
    pub load_splits: u64,
    /// Operators that run, by who had the idea.
    pub running: Vec<(Policy, u64)>,
    /// Operators that ended since the scheduler began, by who had the idea and how they ended.
    pub ended: Vec<(Policy, &'static str, u64)>,
}

impl Scheduler {
    /// The numbers as of `now`.
    #[must_use]
    pub fn summary(&self, now: Time) -> Summary {
        let mut stores: BTreeMap<usize, u64> = BTreeMap::new();
        for store in self.cluster.stores() {
            let health = store.health(now, &self.config);
            let place = Health::ALL.iter().position(|known| *known == health);
            *stores.entry(place.expect("ALL has every health")).or_default() += 1;
        }
        let attended = || self.attention.iter().filter_map(|region| self.cluster.region(*region));
        let count = |place: usize| stores.get(&place).copied().unwrap_or(0);
        Summary {
            stores: Health::ALL
                .into_iter()
                .enumerate()
                .map(|(place, health)| (health, count(place)))
                .collect(),
            regions: self.cluster.len() as u64,
            under_replicated: attended().filter(|info| self.lacks_replicas(info, now)).count() as u64,
            lagging: self
                .lagging
                .keys()
                .filter_map(|region| self.cluster.region(*region))
                .filter(|info| self.lags_long(info, now))
                .count() as u64,
            busy: attended().filter(|info| split::is_busy(&self.config, info)).count() as u64,
            load_splits: self.operators.load_splits(),
            running: Policy::ALL
                .into_iter()
                .map(|policy| (policy, self.operators.count_of(policy)))
                .collect(),
            ended: Policy::ALL
                .into_iter()
                .flat_map(|policy| {
                    Outcome::NAMES.map(|outcome| (policy, outcome, self.operators.ended(policy, outcome)))
                })
                .collect(),
        }
    }

    /// Whether fewer voters of the region are there than it should have.
    fn lacks_replicas(&self, info: &RegionInfo, now: Time) -> bool {
        let is_there = |peer: &&Peer| {
            let health = self.cluster.store(peer.store).map(|store| store.health(now, &self.config));
            !info.is_down(peer.id) && !matches!(health, Some(Health::Down | Health::Tombstone))
        };
        (info.region.voters().filter(is_there).count() as u64) < self.config.max_replicas
    }
}
