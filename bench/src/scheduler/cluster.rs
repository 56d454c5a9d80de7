//! The model cluster: the scheduler under test, and just enough of a world to obey it.

use std::time::Duration;

use indicatif::ProgressBar;
use scheduler::cluster::Kind;
use scheduler::config::MIB;
use scheduler::{
    Config, Epoch, Key, KeyRange, Load, NodeId, Peer, PeerId, Region, RegionId, RegionReport, Rng, Scheduler,
    StoreDescriptor, StoreId, StoreReport, Time,
};

use super::Options;
use crate::clock::on_core;

/// The scheduler's clock moves on by this much a round.
pub(super) const ROUND_MS: u64 = 5_000;
/// Reports built ahead of the measured calls.
const BATCH: u64 = 20_000;
/// Distance between regions that report one after the other.
const STRIDE: u64 = 7_919;

/// Regions of a hot store that are hot.
const HOT_PER_STORE: usize = 200;
/// What a hot region bears.
const HOT: Load = Load { read_bytes: 8 * MIB, write_bytes: 4 * MIB, read_ops: 800, write_ops: 400 };

pub(super) struct Model {
    pub(super) scheduler: Scheduler,
    pub(super) rng: Rng,
    pub(super) now: Time,
    pub(super) stores_per_node: u64,
    pub(super) nodes: u64,
    pub(super) dead: Option<NodeId>,
}

impl Model {
    /// All stores and regions, replicas dealt out evenly. The memory counted is that of the whole scheduler.
    pub(super) fn load(options: &Options, bar: &ProgressBar) -> Self {
        let config = Config {
            store_moves_in_max: 32,
            store_moves_out_max: 32,
            leader_schedule_limit: 256,
            region_schedule_limit: 4096,
            replica_schedule_limit: 4096,
            patrol_batch_regions: 1024,
            store_down_ms: 600_000,
            ..Config::default()
        };
        let scheduler =
            Scheduler::new(config, options.seed, Time(0)).expect("the configuration above is valid");
        let (rng, now) = (Rng::new(options.seed), Time(0));
        let mut model =
            Self { scheduler, rng, now, stores_per_node: options.stores_per_node, nodes: 0, dead: None };
        model.scheduler.grant_ids(1 << 40..1 << 50);
        for _ in 0..options.nodes {
            model.add_node();
        }
        bar.set_length(options.regions);
        for id in 0..options.regions {
            let report = model.first_report(id, options.regions);
            model.scheduler.report_region(report, model.now).expect("an honest report");
            if id % 10_000 == 0 {
                bar.set_position(id);
            }
        }
        model
    }

    /// One more node with empty stores; answers its id.
    pub(super) fn add_node(&mut self) -> NodeId {
        let node = NodeId(self.nodes);
        self.nodes += 1;
        for core in 0..self.stores_per_node {
            let store = StoreId(node.0 * self.stores_per_node + core);
            let descriptor = StoreDescriptor::new(store, node, format!("node{}:{core}", node.0));
            self.scheduler.put_store(descriptor, self.now).expect("a fresh id and address");
        }
        self.report_stores();
        node
    }

    pub(super) fn stores(&self) -> u64 {
        self.nodes * self.stores_per_node
    }

    pub(super) fn node_of(&self, store: StoreId) -> NodeId {
        NodeId(store.0 / self.stores_per_node)
    }

    pub(super) fn is_dead(&self, store: StoreId) -> bool {
        self.dead == Some(self.node_of(store))
    }

    pub(super) fn report_stores(&mut self) {
        for store in (0..self.stores()).map(StoreId) {
            if !self.is_dead(store) {
                self.scheduler.report_store(StoreReport::empty(store), self.now).expect("joined");
            }
        }
    }

    /// Region `id` of `regions`: keys of 19 bytes as TiDB writes them, three replicas on three nodes, about 80 MiB.
    fn first_report(&mut self, id: u64, regions: u64) -> RegionReport {
        let stores = self.stores();
        // The strides are coprime to each other's multiples, so that every store gets the same share of each place.
        let places = [id % stores, (id + stores / 3) % stores, (id + 2 * stores / 3) % stores];
        let peers = places.iter().zip(0..).map(|(store, n)| Peer::voter(PeerId(id * 3 + n), StoreId(*store)));
        let region = Region {
            id: RegionId(id),
            range: range(id, regions),
            epoch: Epoch::new(3, 1 + id % 64),
            peers: peers.collect(),
        };
        let leader = region.peers[((id / stores) % 3) as usize].id;
        let mut report = RegionReport::new(region, Some(leader));
        report.term = Some(6);
        report.size_bytes = 64 * MIB + self.rng.next() % (32 * MIB);
        report.keys = report.size_bytes / 256;
        report.load = self.quiet_load();
        report
    }

    /// A quiet region's load: too little to be called hot, so that sizes and leaders alone are at work.
    fn quiet_load(&mut self) -> Load {
        let draw = self.rng.next();
        Load { read_bytes: draw & 0xfff, write_bytes: (draw >> 12) & 0xfff, read_ops: 3, write_ops: 2 }
    }

    /// Reports per second: regions all over the map with new sizes and loads; one in a hundred has a new leader and
    /// one in a hundred names a lagging peer. Building the reports is not counted.
    pub(super) fn steady_reports(&mut self, options: &Options, bar: &ProgressBar) -> f64 {
        bar.set_length(options.reports);
        let mut spent = Duration::ZERO;
        let mut done = 0;
        while done < options.reports {
            // A prime stride scatters over the map, and a region occurs once in a batch: two reports built from the same
            // state could name two leaders in one term.
            let (first, size) = (self.rng.next() % options.regions, BATCH.min(options.regions));
            let ids = (0..size).map(|n| RegionId((first + n * STRIDE) % options.regions));
            let batch: Vec<RegionReport> = ids.map(|id| self.next_report(id)).collect();
            let began = on_core();
            for report in batch {
                let answer = self.scheduler.report_region(report, self.now);
                debug_assert!(answer.is_ok());
            }
            spent += on_core() - began;
            done += size;
            bar.set_position(done);
        }
        self.clear_ailments(options.regions);
        done as f64 / spent.as_secs_f64()
    }

    fn next_report(&mut self, id: RegionId) -> RegionReport {
        let mut report = self.report_of(id);
        report.size_bytes += self.rng.next() % 4096;
        report.load = self.quiet_load();
        match self.rng.next() % 100 {
            0 => {
                report.leader = report.region.peers.get((self.rng.next() % 3) as usize).map(|peer| peer.id);
                report.term = report.term.map(|term| term + 1);
            }
            1 => report.pending = report.region.peers.last().map(|peer| peer.id).into_iter().collect(),
            _ => {}
        }
        report
    }

    /// What the map says of a region, as its leader would report it again.
    pub(super) fn report_of(&self, id: RegionId) -> RegionReport {
        let info = self.scheduler.cluster().region(id).expect("every region of the model is known");
        let mut report = RegionReport::new(info.region.clone(), info.leader);
        (report.term, report.size_bytes, report.keys, report.load) =
            (info.term, info.size_bytes, info.keys, info.load);
        report
    }

    fn clear_ailments(&mut self, regions: u64) {
        for id in (0..regions).map(RegionId) {
            if self.scheduler.cluster().region(id).is_some_and(|info| !info.pending().is_empty()) {
                let report = self.report_of(id);
                self.scheduler.report_region(report, self.now).expect("an honest report");
            }
        }
    }

    /// Makes the first regions that each store of the first node leads hot, or quiet again, so that the policies for load
    /// have all they can look at.
    pub(super) fn heat(&mut self, hot: bool) {
        for store in (0..self.stores_per_node).map(StoreId) {
            let led = self.scheduler.cluster().peers_of(store, Kind::Leader).take(HOT_PER_STORE);
            for id in led.map(|info| info.id()).collect::<Vec<_>>() {
                let mut report = self.report_of(id);
                report.load = if hot { HOT } else { self.quiet_load() };
                self.scheduler.report_region(report, self.now).expect("an honest report");
            }
        }
    }

    /// The slowest of some rounds. No store carries out what they order; it times out.
    pub(super) fn rounds(&mut self, rounds: usize) -> Duration {
        let mut slowest = Duration::ZERO;
        for _ in 0..rounds {
            self.now = self.now.plus_ms(ROUND_MS);
            self.report_stores();
            let began = on_core();
            let tick = self.scheduler.tick(self.now);
            slowest = slowest.max(on_core() - began);
            for instruction in tick.instructions {
                self.scheduler.cancel(instruction.region, self.now);
            }
        }
        slowest
    }
}

fn range(id: u64, regions: u64) -> KeyRange {
    let bound = |n: u64| {
        if n == 0 || n == regions {
            return Key::empty();
        }
        let mut key = Vec::with_capacity(19);
        key.push(b't');
        key.extend(((n / 10_000) | (1 << 63)).to_be_bytes());
        key.extend(b"_r");
        key.extend(((n % 10_000) | (1 << 63)).to_be_bytes());
        Key::from(key)
    };
    KeyRange::new(bound(id), bound(id + 1)).expect("rising bounds")
}
