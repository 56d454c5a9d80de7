//! A cluster that never was: real regions on simulated stores, a network that delays, loses, doubles and reorders, and
//! the scheduler under test, which knows of all this only what reports say.
//!
//! The world obeys instructions as a store would: it refuses those of another epoch or for another leader, it applies
//! changes by the rules of `scheduler::change`, and its leaders refuse what would cost them their quorum. Whatever gets
//! past the epoch is judged.

mod faults;
mod network;
mod obey;
mod rest;

use std::collections::{BTreeMap, BTreeSet};

use scheduler::change::keeps_quorum;
use scheduler::config::{MIB, ReplicaPath};
use scheduler::operator::{Influence, Step};
use scheduler::{
    Config, Epoch, Key, KeyRange, Load, NodeId, Peer, PeerId, Policy, Region, RegionId, Rng, Scheduler,
    StoreDescriptor, StoreId, Time,
};

use network::Message;

/// Time between two steps of the world.
const STEP_MS: u64 = 1_000;
/// The network's longest delay.
const DELAY_MAX_MS: u64 = 3_000;
/// Silence after which the scheduler gives a store nothing.
const DISCONNECTED_MS: u64 = 8_000;

/// A region as it really is.
struct Real {
    region: Region,
    leader: Option<PeerId>,
    term: u64,
    size_bytes: u64,
    load: Load,
    /// When each lagging peer will be caught up.
    lagging: BTreeMap<PeerId, Time>,
}

struct Node {
    stores: Vec<StoreId>,
    dead_since: Option<Time>,
    draining: bool,
}

/// What happened, to see that a run was not empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) executed: u64,
    pub(crate) refused_by_epoch: u64,
    pub(crate) stale_reports: u64,
    pub(crate) splits: u64,
    pub(crate) deaths: u64,
    pub(crate) drains: u64,
    pub(crate) moves: u64,
    /// Of these, moves between stores of a node.
    pub(crate) relocations: u64,
    pub(crate) merges: u64,
    /// Merges that were begun and came to nothing.
    pub(crate) merges_in_vain: u64,
}

/// The policies that are off. Where neither of those that move bytes between nodes is on, as in a new cluster, the load of cores ranks above
/// their sizes.
fn disabled(which: u64) -> Vec<Policy> {
    match which {
        0 => vec![Policy::HotRegion, Policy::BalanceCore],
        1 => vec![Policy::HotRegion, Policy::BalanceRegion],
        _ => Vec::new(),
    }
}

pub(crate) struct World {
    seed: u64,
    rng: Rng,
    now: Time,
    config: Config,
    nodes: BTreeMap<NodeId, Node>,
    regions: BTreeMap<RegionId, Real>,
    network: BTreeMap<(Time, u64), Message>,
    sent: u64,
    used_peers: BTreeSet<PeerId>,
    faulty: bool,
    scheduler: Scheduler,
    pub(crate) tally: Tally,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut draw = |low: u64, high: u64| low + rng.next() % (high - low + 1);
        let max_replicas = [1, 3, 3, 3, 5][draw(0, 4) as usize];
        let replica_path =
            [ReplicaPath::Direct, ReplicaPath::Learner, ReplicaPath::Joint][draw(0, 2) as usize];
        let config = Config {
            max_replicas,
            replica_path,
            store_disconnected_ms: DISCONNECTED_MS,
            store_unhealthy_ms: 20_000,
            store_down_ms: 40_000,
            leader_tolerance: draw(0, 3),
            region_operator_timeout_ms: 60_000,
            store_moves_in_max: draw(1, 8),
            store_moves_out_max: draw(1, 16),
            leader_schedule_limit: draw(1, 8),
            region_size_max_bytes: 400 * MIB,
            hot_region_load_min: MIB,
            disabled: disabled(draw(0, 3)),
            region_merge_bytes: draw(0, 1) * 80 * MIB,
            split_merge_interval_ms: 1_000 * draw(5, 60),
            ..Config::default()
        };
        let (nodes, regions) = (max_replicas + draw(1, 4), draw(3, 24));
        let scheduler = Scheduler::new(config.clone(), seed, Time(0)).expect("a valid configuration");
        let mut world = Self {
            seed,
            rng,
            now: Time(0),
            config,
            nodes: BTreeMap::new(),
            regions: BTreeMap::new(),
            network: BTreeMap::new(),
            sent: 0,
            used_peers: BTreeSet::new(),
            faulty: true,
            scheduler,
            tally: Tally::default(),
        };
        world.scheduler.grant_ids(1_000_000..2_000_000_000);
        (0..nodes).for_each(|node| world.add_node(NodeId(node)));
        world.add_regions(regions);
        world
    }

    fn draw(&mut self, low: u64, high: u64) -> u64 {
        low + self.rng.next() % (high - low + 1)
    }

    fn add_node(&mut self, node: NodeId) {
        let stores: Vec<StoreId> = (0..self.draw(1, 3)).map(|core| StoreId(node.0 * 10 + core)).collect();
        for store in &stores {
            let descriptor = StoreDescriptor::new(*store, node, format!("store{}", store.0));
            self.scheduler.put_store(descriptor, self.now).expect("joins");
        }
        self.nodes.insert(node, Node { stores, dead_since: None, draining: false });
    }

    /// All regions begin on the first nodes, as uneven as can be.
    fn add_regions(&mut self, count: u64) {
        for id in 0..count {
            let homes: Vec<StoreId> = self.nodes.values().map(|node| node.stores[0]).collect();
            let homes = homes.into_iter().take(self.config.max_replicas as usize).enumerate();
            let peers: Vec<Peer> =
                homes.map(|(n, store)| Peer::voter(PeerId(id * 10 + n as u64), store)).collect();
            self.used_peers.extend(peers.iter().map(|peer| peer.id));
            let bound = |n: u64| {
                if n == 0 || n == count { Key::empty() } else { Key::from(&(n as u32).to_be_bytes()) }
            };
            let range = KeyRange::new(bound(id), bound(id + 1)).expect("rising");
            let leader = Some(peers[0].id);
            let region = Region { id: RegionId(id), range, epoch: Epoch::FIRST, peers };
            let size_bytes = self.draw(0, 300) * MIB;
            let load = if self.rng.one_in(3) {
                Load {
                    read_bytes: self.draw(0, 40) * MIB,
                    write_bytes: self.draw(0, 20) * MIB,
                    ..Load::default()
                }
            } else {
                Load::default()
            };
            let real = Real { region, leader, term: 6, size_bytes, load, lagging: BTreeMap::new() };
            self.regions.insert(RegionId(id), real);
        }
    }

    fn node_of(&self, store: StoreId) -> &Node {
        &self.nodes[&NodeId(store.0 / 10)]
    }

    fn is_live(&self, store: StoreId) -> bool {
        self.node_of(store).dead_since.is_none()
    }

    /// One step of the world: faults, elections, reports, messages, one round of the scheduler.
    pub(crate) fn step(&mut self) {
        self.now = self.now.plus_ms(STEP_MS);
        if self.faulty {
            self.inflict();
        }
        self.live();
        self.report();
        self.deliver();
        let instructions =
            if self.faulty { self.scheduler.tick(self.now).instructions } else { self.tick_in_peace() };
        for instruction in instructions {
            self.send_instruction(instruction);
        }
        self.check_targets();
        self.check_map();
    }

    /// After a round no operator leads to a store that answers no more, except that a joint configuration is left.
    fn check_targets(&self) {
        let influence = Influence::new();
        let view = self.scheduler.view(&influence, self.now);
        for operator in self.scheduler.operators().iter() {
            let leaves = operator.current() == Some(&Step::LeaveJoint);
            for store in operator.steps.iter().filter_map(Step::brings_peer_to).filter(|_| !leaves) {
                let fit = view.may_hold(store);
                assert!(
                    fit.is_ok(),
                    "seed {}: {operator:?} leads to a store that {:?}",
                    self.seed,
                    fit.err()
                );
            }
        }
    }

    /// What regions do by themselves: newcomers catch up, leaderless groups elect.
    fn live(&mut self) {
        let dead: BTreeSet<StoreId> = self.dead_stores().collect();
        let now = self.now;
        for real in self.regions.values_mut() {
            let stores: BTreeMap<PeerId, StoreId> =
                real.region.peers.iter().map(|peer| (peer.id, peer.store)).collect();
            let live = |store: StoreId| !dead.contains(&store);
            let leader_lives =
                real.leader.and_then(|leader| stores.get(&leader)).is_some_and(|store| live(*store));
            real.lagging.retain(|peer, until| {
                stores.get(peer).is_some_and(|store| !leader_lives || *until > now || !live(*store))
            });
            if leader_lives || !keeps_quorum(&real.region, live) {
                continue;
            }
            let fit = |peer: &&Peer| peer.votes() && live(peer.store) && !real.lagging.contains_key(&peer.id);
            if let Some(heir) = real.region.peers.iter().find(fit) {
                real.leader = Some(heir.id);
                real.term += 1;
            }
        }
    }

    fn dead_stores(&self) -> impl Iterator<Item = StoreId> {
        let dead = self.nodes.values().filter(|node| node.dead_since.is_some());
        dead.flat_map(|node| node.stores.iter().copied())
    }

    fn check_map(&self) {
        if let Err(error) = self.scheduler.cluster().check() {
            panic!("seed {} at {}: {error}", self.seed, self.now);
        }
    }

    /// No more faults: everything that was dead comes back, messages are prompt.
    pub(crate) fn heal(&mut self) {
        self.faulty = false;
        self.revive();
    }

    /// Whether anything moved in this step.
    pub(crate) fn is_quiet(&self) -> bool {
        self.scheduler.operators().is_empty()
    }

    /// A digest of everything that was decided, to compare two runs.
    pub(crate) fn digest(&self) -> String {
        let regions: Vec<String> =
            self.regions.values().map(|real| format!("{} {:?}", real.region, real.leader)).collect();
        format!("{} {:?} {}", self.sent, self.tally, regions.join("; "))
    }

    pub(crate) fn describe(&self) -> String {
        let running: Vec<String> = self
            .scheduler
            .operators()
            .iter()
            .map(|operator| {
                format!(
                    "{} by {}: {:?} after {}",
                    operator.region, operator.policy, operator.steps, operator.finished
                )
            })
            .collect();
        format!("{:?} {}", self.config, running.join("; "))
    }
}
