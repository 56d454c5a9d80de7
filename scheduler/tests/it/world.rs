//! A cluster that never was: real regions on simulated stores, a network that delays, loses, doubles and reorders, and
//! the scheduler under test, which knows of all this only what reports tell it.
//!
//! The world obeys instructions as a store would: it refuses those of another epoch or for another leader, it applies
//! changes by the rules of `scheduler::change`, and its leaders refuse what would cost them their quorum. Whatever gets
//! past the epoch is judged; see [`World::execute`].

use std::collections::{BTreeMap, BTreeSet};

use scheduler::change::{keeps_quorum, split};
use scheduler::config::{MIB, ReplicaPath};
use scheduler::operator::Unsafe;
use scheduler::{
    Action, Change, Config, DownPeer, Epoch, Instruction, Key, KeyRange, Lifecycle, Load, NodeId, Peer,
    PeerId, Policy, Region, RegionId, RegionReport, Rng, Scheduler, StoreDescriptor, StoreId, StoreReport,
    Time,
};

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

enum Message {
    Region(RegionReport),
    Store(StoreReport),
    Instruction(Instruction),
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
            disabled: if draw(0, 1) == 0 { vec![Policy::HotRegion, Policy::BalanceCore] } else { Vec::new() },
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
        let tick = self.scheduler.tick(self.now);
        for instruction in tick.instructions {
            self.send_instruction(instruction);
        }
        self.check_map();
    }

    fn inflict(&mut self) {
        match self.draw(0, 99) {
            0..=1 => self.kill(),
            2..=5 => self.revive(),
            6 => self.drain(),
            7..=12 => self.split(),
            _ => {}
        }
    }

    /// One node at a time, and never while a region is short of healthy replicas: whoever kills two of three has no
    /// claim on the scheduler.
    fn kill(&mut self) {
        let wounded = self.nodes.values().any(|node| node.dead_since.is_some());
        let spare =
            self.nodes.values().filter(|node| !node.draining).count() as u64 > self.config.max_replicas;
        let sound = self.regions.values().all(|real| {
            let voters = real.region.peers.iter().filter(|peer| peer.will_vote()).count() as u64;
            voters == self.config.max_replicas && real.lagging.is_empty() && !real.region.is_joint()
        });
        if wounded || !spare || !sound || self.config.max_replicas == 1 {
            return;
        }
        let victim = self.draw(0, self.nodes.len() as u64 - 1) as usize;
        if let Some(node) = self.nodes.values_mut().nth(victim) {
            node.dead_since = Some(self.now);
            self.tally.deaths += 1;
        }
    }

    fn revive(&mut self) {
        for node in self.nodes.values_mut() {
            node.dead_since = None;
        }
    }

    /// Drains a node, or takes it back: only if enough others are left.
    fn drain(&mut self) {
        let pick = self.draw(0, self.nodes.len() as u64 - 1) as usize;
        let others = self.nodes.values().filter(|node| !node.draining).count() as u64;
        let Some(node) = self.nodes.values_mut().nth(pick) else { return };
        if !node.draining && others <= self.config.max_replicas {
            return;
        }
        node.draining = !node.draining;
        self.tally.drains += 1;
        let lifecycle = if node.draining { Lifecycle::Offline } else { Lifecycle::Up };
        for store in node.stores.clone() {
            let mut descriptor = self.scheduler.cluster().store(store).expect("joined").descriptor.clone();
            descriptor.lifecycle = lifecycle;
            self.scheduler.put_store(descriptor, self.now).expect("known");
        }
    }

    /// A store asks for ids and splits one of its regions.
    fn split(&mut self) {
        let pick = self.draw(0, self.regions.len() as u64 - 1) as usize;
        let Some(real) = self.regions.values().nth(pick) else { return };
        let (Some(_), Ok(ids)) = (real.leader, self.scheduler.ask_split(&real.region)) else { return };
        let id = real.region.id;
        self.split_at(id, ids.region, &ids.peers);
    }

    fn split_at(&mut self, id: RegionId, new: RegionId, peers: &[PeerId]) {
        let real = &self.regions[&id];
        let mut middle = real.region.range.start().to_vec();
        middle.push(128);
        let Ok((left, right)) = split(&real.region, &Key::from(middle), new, peers) else { return };
        for peer in peers {
            assert!(self.used_peers.insert(*peer), "seed {}: {peer} was used before", self.seed);
        }
        let twin = |peer: PeerId| real.region.peers.iter().position(|other| other.id == peer);
        let lagging =
            real.lagging.iter().filter_map(|(peer, until)| Some((peers[twin(*peer)?], *until))).collect();
        let leader = real.leader.and_then(twin).map(|place| peers[place]);
        let load = Load {
            read_bytes: real.load.read_bytes / 2,
            write_bytes: real.load.write_bytes / 2,
            ..real.load
        };
        let size_bytes = real.size_bytes / 2;
        self.regions.insert(new, Real { region: right, leader, term: 6, size_bytes, load, lagging });
        let real = self.regions.get_mut(&id).expect("known");
        (real.region, real.size_bytes, real.load) = (left, size_bytes, load);
        self.tally.splits += 1;
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

    fn report(&mut self) {
        let mut messages = Vec::new();
        for node in self.nodes.values().filter(|node| node.dead_since.is_none()) {
            messages.extend(node.stores.iter().map(|store| Message::Store(StoreReport::empty(*store))));
        }
        for real in self.regions.values() {
            let leader = real.leader.and_then(|leader| real.region.peer(leader));
            if leader.is_some_and(|leader| self.is_live(leader.store)) {
                messages.push(Message::Region(self.report_of(real)));
            }
        }
        messages.into_iter().for_each(|message| self.send(message));
    }

    fn report_of(&self, real: &Real) -> RegionReport {
        let mut report = RegionReport::new(real.region.clone(), real.leader);
        report.term = Some(real.term);
        report.size_bytes = real.size_bytes;
        report.load = real.load;
        report.pending = real.lagging.keys().copied().collect();
        for peer in &real.region.peers {
            if let Some(since) = self.node_of(peer.store).dead_since {
                report.down.push(DownPeer { peer: peer.id, down_ms: self.now.ms_since(since) });
            }
        }
        report
    }

    /// Into the network: while the world is faulty, one message in ten is lost, one in ten doubled, all are late.
    fn send(&mut self, message: Message) {
        if !self.faulty {
            self.post(message, 0);
            return;
        }
        if self.rng.one_in(10) {
            return;
        }
        if self.rng.one_in(10) {
            let copy = match &message {
                Message::Region(report) => Message::Region(report.clone()),
                Message::Store(report) => Message::Store(report.clone()),
                Message::Instruction(instruction) => Message::Instruction(instruction.clone()),
            };
            let delay = self.draw(0, DELAY_MAX_MS);
            self.post(copy, delay);
        }
        let delay = self.draw(0, DELAY_MAX_MS);
        self.post(message, delay);
    }

    fn post(&mut self, message: Message, delay_ms: u64) {
        self.sent += 1;
        self.network.insert((self.now.plus_ms(delay_ms), self.sent), message);
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Message::Region(report) => self.deliver_report(report),
                Message::Store(report) => self.scheduler.report_store(report, self.now).expect("plausible"),
                Message::Instruction(instruction) => self.execute(&instruction),
            }
        }
    }

    fn deliver_report(&mut self, report: RegionReport) {
        match self.scheduler.report_region(report, self.now) {
            Ok(Some(instruction)) => self.send_instruction(instruction),
            Ok(None) => {}
            Err(_) => self.tally.stale_reports += 1,
        }
        self.check_map();
    }

    /// Every sending is judged by what the scheduler knows at that moment.
    fn send_instruction(&mut self, instruction: Instruction) {
        let info = self
            .scheduler
            .cluster()
            .region(instruction.region)
            .expect("an instruction is for a known region");
        assert_eq!(instruction.epoch, info.region.epoch);
        assert_eq!(Some(instruction.leader.id), info.leader);
        let influence = scheduler::operator::Influence::new();
        let view = self.scheduler.view(&influence, self.now);
        if let Some(operator) = self.scheduler.operators().get(instruction.region) {
            let step = operator.current().expect("a running operator has a step");
            assert_eq!(step.check(info, &view), Ok::<(), Unsafe>(()), "seed {}: {step}", self.seed);
        }
        if let Action::Change(change @ (Change::Remove { .. } | Change::Demote { .. })) = &instruction.action
        {
            let after = change.apply(&info.region).expect("a fitting change");
            let healthy = |store| {
                let peer = info.region.peer_on(store).expect("a member");
                view.is_live(store) && !info.is_pending(peer.id) && !info.is_down(peer.id)
            };
            assert!(keeps_quorum(&after, healthy), "seed {}: {change:?} of {}", self.seed, info.region);
        }
        self.send(Message::Instruction(instruction));
    }

    /// A store obeys. Whatever is of the right epoch and for the right leader must be harmless, however late it comes.
    fn execute(&mut self, instruction: &Instruction) {
        let Some(real) = self.regions.get(&instruction.region) else { return };
        let command = instruction.action.command();
        let leads = real.leader == Some(instruction.leader.id) && self.is_live(instruction.leader.store);
        if !leads || real.region.epoch.admit(command, instruction.epoch).is_err() {
            self.tally.refused_by_epoch += 1;
            return;
        }
        self.tally.executed += 1;
        match &instruction.action {
            Action::TransferLeader(peer) => self.transfer(instruction.region, *peer),
            Action::Change(change) => self.change(instruction, change),
            Action::Split { new, .. } => {
                let (id, new) = (instruction.region, new[0].clone());
                self.split_at(id, new.region, &new.peers);
            }
        }
    }

    fn transfer(&mut self, region: RegionId, to: Peer) {
        let real = &self.regions[&region];
        let listed = real.region.peer(to.id).expect("a transfer under this epoch is to a member");
        assert!(listed.will_vote(), "seed {}: {to} of {} does not vote", self.seed, real.region);
        if self.is_live(to.store) && !real.lagging.contains_key(&to.id) {
            let real = self.regions.get_mut(&region).expect("known");
            (real.leader, real.term) = (Some(to.id), real.term + 1);
        }
    }

    fn change(&mut self, instruction: &Instruction, change: &Change) {
        let seed = self.seed;
        let real = &self.regions[&instruction.region];
        let after = change.apply(&real.region);
        let after =
            after.unwrap_or_else(|error| panic!("seed {seed}: {change:?} under its own epoch: {error}"));
        if let Change::Remove { peer } | Change::Demote { peer } = change {
            assert_ne!(
                *peer, instruction.leader.id,
                "seed {seed}: {change:?} takes the leader of {}",
                real.region
            );
        }
        let leader_was_dropped =
            real.leader.and_then(|leader| after.peer(leader)).is_none_or(|peer| !peer.votes());
        assert!(!leader_was_dropped, "seed {seed}: {change:?} leaves {} without its leader", real.region);
        self.assert_nodes_distinct(&real.region, &after, change);
        if !keeps_quorum(&after, |store| self.is_live(store)) {
            // The leader refuses; but the scheduler may only have sent it because the death was not yet visible.
            let window = DISCONNECTED_MS + 2 * DELAY_MAX_MS + 2 * STEP_MS;
            let recent = |peer: &Peer| {
                self.node_of(peer.store).dead_since.is_some_and(|since| self.now.ms_since(since) <= window)
            };
            assert!(
                after.peers.iter().any(recent),
                "seed {seed}: {change:?} costs {} its quorum",
                real.region
            );
            return;
        }
        let caught_up = self.now.plus_ms(self.rng.next() % 15_000);
        let real = self.regions.get_mut(&instruction.region).expect("known");
        if let Change::AddVoter { peer, .. } | Change::AddLearner { peer, .. } = change {
            assert!(self.used_peers.insert(*peer), "seed {seed}: {peer} was used before");
            real.lagging.insert(*peer, caught_up);
            self.tally.moves += 1;
        }
        real.region = after;
    }

    fn assert_nodes_distinct(&self, before: &Region, after: &Region, change: &Change) {
        let nodes = |region: &Region| {
            let nodes: BTreeSet<u64> = region.peers.iter().map(|peer| peer.store.0 / 10).collect();
            nodes.len() == region.peers.len()
        };
        assert!(
            !nodes(before) || nodes(after),
            "seed {}: {change:?} puts two of {before} on a node",
            self.seed
        );
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
            self.assert_even(real);
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
        let bytes = |store| cluster.counters(store).region_bytes as i64;
        let targets =
            self.nodes.values().filter(|node| !node.draining).flat_map(|node| node.stores.iter().copied());
        for target in targets {
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
                    difference <= 2 * weight,
                    "seed {seed}: {} could go from {} to {target}",
                    real.region,
                    peer.store
                );
            }
        }
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
