//! A node with one store or two on one core, started and served by the code of the real one ([`store::node::start`]), without a root core and a scheduler
//! shard: what regions lack is asked of their leaders by the run itself (`operators`), which draws it from the seed.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::log::LogOptions;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::sim::{Node, Running, World};
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, StoreId};
use store::descriptors::Descriptors;
use store::gateway::{Dispatch, GatewayNumbers};
use store::memory::Memory;
use store::node::bootstrap;
use store::node::core::Plan;
use store::node::identity::Identity;
use store::node::start::{self, Ports, Until};
use store::shard::open::ShardOptions;
use store::shard::openings::Openings;
use store::shard::{Shard, ShardLimits};
use store::wire::grpc::Options;
use store::wire::resp::{self, Connections, Cursors, Facts};

/// Nodes of a cluster.
pub const NODES: usize = 3;
/// How often a node may be given a new disk in one run.
const DISKS_MAX: u64 = 8;
const PORT: u16 = 20_161;
const RESP_PORT: u16 = 6_380;

/// Two regions, each with a voter on every node that has one store.
pub fn regions() -> Vec<Region> {
    regions_on(1)
}

/// Two regions, each with a voter on every node. Where a node has two stores, one region is on the first and the other on the second.
pub fn regions_on(stores_each: usize) -> Vec<Region> {
    let region = |id: u64, index: usize, start: &str, end: &str| {
        let voter = |number: usize| {
            Peer::voter(
                PeerId(id + number as u64 + 1),
                store_on(number, 0, (index % stores_each, stores_each)),
            )
        };
        Region {
            id: RegionId(id),
            range: KeyRange::new(start, end).unwrap(),
            epoch: Epoch::FIRST,
            peers: (0..NODES).map(voter).collect(),
        }
    };
    vec![region(100, 0, "", "m"), region(200, 1, "m", "")]
}

/// Stores of nodes that have two have ids from here on, the first one an even one.
const SIBLINGS_FROM: u64 = 1_000;

/// The node on which a store lives, or lived until its disk was replaced.
pub fn node_of(store: StoreId) -> usize {
    let number = match store.0.checked_sub(SIBLINGS_FROM) {
        Some(number) => number / 2,
        None => store.0 - 1,
    };
    (number % NODES as u64) as usize
}

/// The number of a store on its node.
pub fn index_of(store: StoreId) -> usize {
    store.0.checked_sub(SIBLINGS_FROM).map_or(0, |number| (number % 2) as usize)
}

/// The store on a node's disk number `disk` that is `index` of this number.
fn store_on(number: usize, disk: u64, (index, of): (usize, usize)) -> StoreId {
    let number = number as u64 + disk * NODES as u64;
    StoreId(if of == 1 { number + 1 } else { SIBLINGS_FROM + 2 * number + index as u64 })
}

/// Where a store serves gRPC and other stores, on the node whose first one serves here.
pub fn addr_of(index: usize, first: SocketAddr) -> SocketAddr {
    SocketAddr::new(first.ip(), first.port() + index as u16)
}

/// The stores of a node and their way to the others, once it serves.
type Up = Rc<RefCell<Option<(Vec<Shard>, Rc<Dispatch>)>>>;

/// The nodes of a cluster, and what is up.
pub struct Nodes {
    nodes: Vec<Node>,
    shards: Vec<Up>,
    running: Vec<Option<Running<()>>>,
    /// Disks that were replaced, by node: each brings another store.
    disks: Vec<u64>,
    /// How every node is opened from now on.
    pub setup: Setup,
}

/// What the nodes of a cluster have in common.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Stores of each node, one or two.
    pub stores_each: usize,
    /// Regions are merged, and split more often.
    pub merges: bool,
    /// How many regions that were taken in a record remembers; as many as ever where it is not drawn.
    pub remembered: Option<usize>,
    /// How long a leader's lease is; zero where it asks the others for every read.
    pub lease: Duration,
    /// A node that is not given the first of the regions.
    pub without_first: Option<usize>,
    /// Entries that a log keeps for followers that lack them.
    pub kept_entries: u64,
    /// Only the first node begins the scheduler's state, as in a cluster whose other nodes have joined; else each has one of its own.
    pub system_on_first: bool,
    /// Bytes of entries that it keeps for them.
    pub kept_bytes_max: u64,
    /// How fast a snapshot is sent.
    pub snapshot_bytes_per_second: u64,
    /// Bytes of a memtable before it is flushed.
    pub memtable_bytes: usize,
    /// Bytes of a disk that writes of clients may not use.
    pub reserve_bytes: u64,
}

impl Nodes {
    /// In `world`, all down.
    pub fn new(world: &World, lease: Duration) -> Self {
        Self {
            nodes: (0..NODES).map(|number| world.node(number)).collect(),
            shards: (0..NODES).map(|_| Rc::default()).collect(),
            running: (0..NODES).map(|_| None).collect(),
            disks: vec![0; NODES],
            setup: Setup {
                stores_each: 1,
                merges: false,
                remembered: None,
                lease,
                without_first: None,
                kept_entries: 16,
                system_on_first: false,
                kept_bytes_max: 1 << 20,
                snapshot_bytes_per_second: 1 << 20,
                memtable_bytes: 8 << 10,
                reserve_bytes: 0,
            },
        }
    }

    /// Where the first store of each node serves gRPC and other stores, by number of the node.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.addr(PORT)).collect()
    }

    /// Where the nodes serve RESP, by number.
    pub fn resp_addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.addr(RESP_PORT)).collect()
    }

    /// The machine of a node.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// Whether a node runs.
    pub fn is_up(&self, number: usize) -> bool {
        self.running[number].is_some()
    }

    /// Starts a node that does not run.
    pub fn start(&mut self, number: usize) {
        assert!(!self.is_up(number), "node {number} is up");
        let (addrs, setup, shard) = (self.addrs(), self.setup, self.shards[number].clone());
        let disk = self.disks[number];
        let running = self.nodes[number].start(0, move |rt| serve(rt, (number, disk), addrs, setup, shard));
        self.running[number] = Some(running);
    }

    /// Ends a node at once, with or without what was not synced.
    pub fn end(&mut self, number: usize, power: bool) {
        self.running[number] = None;
        self.shards[number].borrow_mut().take();
        match power {
            true => self.nodes[number].crash(),
            false => self.nodes[number].kill(),
        }
    }

    /// Whether a node may be given another disk in this run.
    pub fn may_replace_disk(&self, number: usize) -> bool {
        self.disks[number] + 1 < DISKS_MAX
    }

    /// Gives a node that does not run an empty disk, on which it will be another store.
    pub fn replace_disk(&mut self, number: usize) {
        assert!(!self.is_up(number), "node {number} is up");
        self.disks[number] += 1;
        assert!(self.disks[number] < DISKS_MAX, "the nodes know of no more stores");
        self.nodes[number].disk().wipe();
    }

    /// The ids of a node's stores.
    pub fn stores(&self, number: usize) -> Vec<StoreId> {
        let of = self.setup.stores_each;
        (0..of).map(|index| store_on(number, self.disks[number], (index, of))).collect()
    }

    /// The other store of the node of one; nothing if it has none.
    pub fn sibling(&self, store: StoreId) -> Option<StoreId> {
        self.stores(node_of(store)).into_iter().find(|other| *other != store)
    }

    /// The first store of a node, once it serves.
    pub fn shard(&self, number: usize) -> Option<Shard> {
        self.shards[number].borrow().as_ref().map(|(shards, _)| shards[0].clone())
    }

    /// What a node has sent to the others, if it serves.
    pub fn gateway(&self, number: usize) -> GatewayNumbers {
        self.shards[number].borrow().as_ref().map(|(_, dispatch)| dispatch.numbers()).unwrap_or_default()
    }

    /// The stores that serve, with the number of their node.
    pub fn serving(&self) -> impl Iterator<Item = (usize, Shard)> {
        let of = |number: usize| {
            let up = self.shards[number].borrow();
            let shards = up.as_ref().map(|(shards, _)| shards.clone()).unwrap_or_default();
            shards.into_iter().map(move |shard| (number, shard))
        };
        (0..NODES).flat_map(of)
    }

    /// The node whose store leads a region, in the highest term.
    pub fn leader(&self, region: RegionId) -> Option<(usize, Shard)> {
        let led = self.serving().filter_map(|(number, shard)| {
            let status = shard.status(region)?;
            (status.role == raft::RoleKind::Leader).then_some((status.term, number, shard))
        });
        led.max_by_key(|(term, ..)| *term).map(|(_, number, shard)| (number, shard))
    }
}

/// What a node opens: small limits, so that rare paths run often.
pub fn plan(dir: &Path, identity: Identity, cores: usize) -> Plan {
    Plan {
        secret: None,
        dir: dir.to_owned(),
        first_regions: bootstrap::regions(&identity),
        peers: Vec::new(),
        schedulers: Vec::new(),
        identity,
        ids: 0,
        holdings: Vec::new(),
        cores,
        // It has no PD port.
        pd_connections_max: 0,
        shard: ShardOptions {
            store: StoreId(0),
            system: false,
            may_be_empty: false,
            lock: None,
            log: LogOptions::default(),
            tree: TreeOptions::default(),
            limits: ShardLimits {
                inflight_bytes_max: 64 << 20,
                log_bytes_max: 64 << 20,
                turn_bytes_max: 16 << 20,
                segment_bytes: 64 << 20,
                reserve_bytes: 0,
                kept_entries: 1024,
                kept_bytes_max: 64 << 20,
                snapshot_piece_bytes: 64 << 20,
                snapshot_bytes_per_second: 64 << 20,
            },
            memory: Memory::unbounded(),
            raft: Arc::new(raft::Config { entry_bytes_max: 16 << 20, ..raft::Config::default() }),
            openings: Openings::default(),
        },
    }
}

fn resp_config() -> resp::Config {
    resp::Config {
        password: None,
        connections_max: 5000,
        pipeline_max: 1024,
        cursors: Cursors::new(1 << 40),
        connections: Connections::default(),
        board: None,
        descriptors: Descriptors::default(),
        facts: Facts { version: "0.1.0".to_owned(), port: RESP_PORT, cores: 1, ..Facts::default() },
    }
}

async fn serve(rt: Rt, (number, disk): (usize, u64), addrs: Vec<SocketAddr>, setup: Setup, up: Up) {
    let dir = Path::new("/data");
    rt.create_dir_all(dir).await.unwrap();
    let of = setup.stores_each;
    let store = store_on(number, disk, (0, of)).0;
    let identity = Identity { cluster: 7, node: 10 + store, stores: of, first_store: store };
    let mut plan = plan(dir, identity, 1);
    plan.first_regions = regions_on(of).split_off(usize::from(setup.without_first == Some(number)));
    if disk > 0 {
        // As a node that joins: with nothing, and with a scheduler elsewhere.
        plan.schedulers = vec![addrs[(number + 1) % NODES]];
        plan.first_regions.clear();
    }
    let stores = |(at, addr): (usize, &SocketAddr)| {
        let (addr, places) =
            (*addr, (0..DISKS_MAX).flat_map(move |disk| (0..of).map(move |index| (disk, index))));
        places.map(move |(disk, index)| (store_on(at, disk, (index, of)), addr_of(index, addr).to_string()))
    };
    plan.peers = addrs.iter().enumerate().flat_map(stores).collect();
    if setup.system_on_first && number > 0 {
        plan.schedulers = vec![addrs[0]];
    }
    plan.shard.log.segment_bytes = 64 << 10;
    plan.shard.limits.segment_bytes = 64 << 10;
    plan.shard.tree.memtable_bytes = setup.memtable_bytes;
    plan.shard.limits.reserve_bytes = setup.reserve_bytes;
    plan.shard.limits.kept_entries = setup.kept_entries;
    plan.shard.limits.kept_bytes_max = setup.kept_bytes_max;
    plan.shard.limits.snapshot_piece_bytes = 4 << 10;
    plan.shard.limits.snapshot_bytes_per_second = setup.snapshot_bytes_per_second;
    let lease_nanos = u64::try_from(setup.lease.as_nanos()).unwrap();
    plan.shard.raft = Arc::new(raft::Config {
        lease_nanos,
        commits_at_once: false,
        quiet_after_ticks: 11,
        ..(*plan.shard.raft).clone()
    });
    let core = start::alone(&rt, Arc::new(plan), Until::Settled).await;
    let core = core.unwrap_or_else(|why| panic!("node {number} does not start: {why}"));
    let ports = Ports {
        stores: (0..of).map(|index| (index, addr_of(index, addrs[number]))).collect(),
        grpc: Options::default(),
        resp: SocketAddr::new(addrs[number].ip(), RESP_PORT),
        resp_config: resp_config(),
    };
    let _served = core.serve(&rt, ports).unwrap_or_else(|why| panic!("node {number} does not serve: {why}"));
    let shards: Vec<Shard> = core.stores.shards.values().cloned().collect();
    *up.borrow_mut() = (shards.len() == of).then(|| (shards, core.dispatch.clone()));
    std::future::pending::<()>().await;
}
