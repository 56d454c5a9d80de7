//! What holds at rest, and the number that falls on the way there.

use std::collections::BTreeSet;

use scheduler::operator::OperatorId;
use scheduler::{Instruction, Peer, Policy, StoreId, View};

use super::{Real, World};

/// The triple of `scheduler::balance`, computed from nothing but its definition: sizes, leaders and load, or, where load ranks above sizes,
/// leaders, load and sizes.
type Potential = (i128, i128, i128);

fn potential(view: &View<'_>) -> Potential {
    let stores: Vec<StoreId> = view.sources().map(scheduler::Store::id).collect();
    let squares = |of: &dyn Fn(StoreId) -> i64| -> i128 {
        stores.iter().map(|store| i128::from(of(*store)).pow(2)).sum()
    };
    let fit = || stores.iter().filter(|store| view.may_lead_on(**store).is_ok());
    let beyond =
        |one, other| (view.leaders(one) - view.leaders(other) - view.limits.leader_difference_max).max(0);
    let leaders = stores.iter().flat_map(|one| fit().map(move |other| (*one, *other)));
    let leaders = leaders.map(|(one, other)| i128::from(beyond(one, other))).sum();
    let sizes = squares(&|store| view.region_bytes(store));
    if !scheduler::balance::shift::load_is_first(view.config) {
        return (sizes, leaders, squares(&|store| view.load(store)));
    }
    let leaders = if view.config.max_replicas == 1 { 0 } else { leaders };
    let beyond = |one: &StoreId| {
        let siblings: Vec<StoreId> = stores
            .iter()
            .copied()
            .filter(|store| view.same_node(*one, *store) && is_up(view, *store))
            .collect();
        let mean = siblings.iter().map(|store| view.load(*store)).sum::<i64>() / siblings.len().max(1) as i64;
        let needed = view.config.tolerated_load(mean, view.config.core_tolerance_percent);
        let apart = |other: &StoreId| i128::from((view.load(*one) - view.load(*other) - needed).max(0));
        siblings.iter().map(apart).sum::<i128>()
    };
    (leaders, stores.iter().filter(|store| is_up(view, **store)).map(beyond).sum(), sizes)
}

fn is_up(view: &View<'_>, store: StoreId) -> bool {
    view.may_hold(store).is_ok()
}

/// Whether an operator of this policy is there to even something out.
fn balances(policy: Policy) -> bool {
    use Policy::{BalanceCore, BalanceLeader, BalanceRegion, HotRegion};
    matches!(policy, BalanceRegion | BalanceLeader | HotRegion | BalanceCore)
}

impl World {
    /// One round of the scheduler. If all it began was for balance, the potential has fallen; if it began nothing, it has
    /// stayed.
    pub(super) fn tick_in_peace(&mut self) -> Vec<Instruction> {
        let before = self.potential();
        let running: BTreeSet<OperatorId> =
            self.scheduler.operators().iter().map(|operator| operator.id).collect();
        let tick = self.scheduler.tick(self.now);
        let operators = self.scheduler.operators();
        let mut begun = operators.iter().filter(|operator| !running.contains(&operator.id));
        let none_ended = operators.len() == running.len() + tick.admitted;
        if none_ended && begun.all(|operator| balances(operator.policy)) {
            let (after, seed) = (self.potential(), self.seed);
            let fell = if tick.admitted == 0 { after == before } else { after < before };
            assert!(fell, "seed {seed}: from {before:?} to {after:?}: {}", self.describe());
        }
        tick.instructions
    }

    fn potential(&self) -> Potential {
        let influence = self.scheduler.operators().influence(self.scheduler.cluster(), &self.config);
        potential(&self.scheduler.view(&influence, self.now))
    }

    /// At rest every region is as it should be, and no policy's rule would have a region elsewhere.
    pub(crate) fn assert_at_rest(&self) {
        let seed = self.seed;
        let cluster = self.scheduler.cluster();
        assert_eq!(cluster.len(), self.regions.len(), "seed {seed}: every region is known");
        for real in self.regions.values() {
            let region = &real.region;
            let nodes: BTreeSet<u64> = region.peers.iter().map(|peer| peer.store.0 / 10).collect();
            let whole =
                region.peers.len() as u64 == self.config.max_replicas && nodes.len() == region.peers.len();
            assert!(
                whole && region.peers.iter().all(|peer| peer == &Peer::voter(peer.id, peer.store)),
                "seed {seed}: {region}"
            );
            assert!(
                region.peers.iter().all(|peer| !self.node_of(peer.store).draining),
                "seed {seed}: {region} on a draining node"
            );
            if self.config.is_enabled(Policy::BalanceRegion) {
                self.assert_even(real);
            }
            self.assert_led_evenly(real);
        }
        for node in self.nodes.values().filter(|node| node.draining) {
            let drained = self.scheduler.drained(self.now);
            assert!(
                node.stores.iter().all(|store| drained.contains(store)),
                "seed {seed}: {:?}",
                node.stores
            );
        }
    }

    fn assert_even(&self, real: &Real) {
        let (seed, cluster) = (self.seed, self.scheduler.cluster());
        let weight = self.config.weight_bytes(real.size_bytes);
        let bytes = |store| cluster.counters(store).weight_bytes as i64;
        let targets =
            || self.nodes.values().filter(|node| !node.draining).flat_map(|node| node.stores.iter().copied());
        let mean = targets().map(bytes).sum::<i64>() / targets().count() as i64;
        let tolerated = mean / 100 * scheduler::balance::region::TOLERANCE_PERCENT;
        for target in targets() {
            for peer in &real.region.peers {
                let taken = real
                    .region
                    .peers
                    .iter()
                    .any(|other| other.id != peer.id && other.store.0 / 10 == target.0 / 10);
                if taken || peer.store == target {
                    continue;
                }
                let difference = bytes(peer.store) - bytes(target);
                assert!(
                    difference <= (2 * weight).max(tolerated),
                    "seed {seed}: {} could go from {} to {target}",
                    real.region,
                    peer.store
                );
            }
        }
    }

    fn assert_led_evenly(&self, real: &Real) {
        let (seed, cluster) = (self.seed, self.scheduler.cluster());
        let leader = real.leader.and_then(|leader| real.region.peer(leader)).expect("led");
        for peer in &real.region.peers {
            let difference =
                cluster.counters(leader.store).leaders as i64 - cluster.counters(peer.store).leaders as i64;
            assert!(
                difference <= self.config.limits().leader_difference_max,
                "seed {seed}: leaders {difference}"
            );
        }
    }
}
