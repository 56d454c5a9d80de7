//! The stores of one data core: opened, joined to those of the other cores, closed. In which order is [`start`](super::start)'s.
//!
//! A store that cannot be opened is fenced: the core keeps its place and says why to everything that is asked of it, and the other
//! stores serve. Only a node none of whose stores opens does not start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::error::{Fault, Result};
use engine::rt::Rt;
use futures_util::future::join_all;
use scheduler::{Region, StoreId};

use super::identity::{Holding, Identity};
use super::siblings::Siblings;
use crate::gateway::{Dispatch, Gateway, LocalStores, Locates, Remote, Whole};
use crate::memory::Memory;
use crate::secret::ClusterSecret;
use crate::shard::Shard;
use crate::shard::counters::StoreNumbers;
use crate::shard::health::HealthReport;
use crate::shard::links::{CoreLinks, Ends};
use crate::shard::open::ShardOptions;
use crate::shard::routes::Place;
use crate::wire::grpc::Guest;
use crate::wire::peer;
use crate::wire::peer::book::AddressBook;
use crate::wire::peer::inbound::Inbound;
use crate::wire::peer::open::Speaker;
use crate::wire::peer::port::PeerPort;
use crate::wire::peer::requests::asking::Requests;

/// The number of the store whose log and tree keep the scheduler's state.
pub const SYSTEM_STORE: usize = 0;

/// What every core needs to know about the node.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where everything lives.
    pub dir: PathBuf,
    /// Who the directory belongs to.
    pub identity: Identity,
    /// The secret of the cluster, if one is set.
    pub secret: Option<ClusterSecret>,
    /// Ids below this one have been given out by the scheduler's state, if that is known.
    pub ids: u64,
    /// What belongs in each store, by its number; nothing is known of a store without.
    pub holdings: Vec<Holding>,
    /// How many executors share the stores.
    pub cores: usize,
    /// Connections that the PD port may have.
    pub pd_connections_max: usize,
    /// The regions that fresh stores are given.
    pub first_regions: Vec<Region>,
    /// Where the scheduler was found, if another node hosts it.
    pub schedulers: Vec<SocketAddr>,
    /// Where stores of other nodes are reached, as far as that is known at the start.
    pub peers: Vec<(StoreId, String)>,
    /// How every store is opened; the store id is filled in.
    pub shard: ShardOptions,
}

impl Plan {
    /// The core that hosts store number `store`.
    pub fn core_of(&self, store: usize) -> usize {
        store % self.cores
    }

    /// The stores, by number, that `core` hosts.
    pub fn stores_of(&self, core: usize) -> impl Iterator<Item = usize> + use<> {
        (core..self.identity.stores).step_by(self.cores)
    }
}

/// The stores of one core, open and taking turns.
pub struct Stores {
    /// By number on the node.
    pub shards: BTreeMap<usize, Shard>,
    /// Those that could not be opened, by number on the node.
    pub fenced: BTreeMap<usize, Fenced>,
    /// The core's links to the others.
    pub links: Rc<CoreLinks>,
    /// The core's bounds on what clients make it hold.
    pub memory: Memory,
    /// Each store's links to those of other nodes, by number on this one.
    pub peers: BTreeMap<usize, Rc<peer::link::PeerLinks>>,
    /// Where stores of other nodes are reached.
    pub book: Rc<AddressBook>,
    rt: Rt,
}

/// A store that could not be opened.
#[derive(Clone, Debug)]
pub struct Fenced {
    /// Its id.
    pub store: StoreId,
    /// The file, what is wrong with it, and what to do, one sentence.
    pub why: String,
    /// Its regions as they were bootstrapped: what they were split into is here, too, and whatever came later is not known.
    regions: Vec<Region>,
}

impl Fenced {
    fn new(store: StoreId, fault: &Fault, regions: Vec<Region>) -> Self {
        let why = format!("store {} is fenced. {fault}", store.0);
        tracing::error!(store = store.0, file = %fault.path.display(), what = fault.what, "a store is fenced");
        Self { store, why, regions }
    }

    /// The same for a node that serves, so that at least one other store does.
    fn why_alone(&self) -> String {
        format!("{}; other stores of this node serve", self.why)
    }

    /// What it says of itself, on a node that serves.
    pub fn snapshot(&self) -> StoreNumbers {
        let health = HealthReport::fenced(self.why_alone());
        StoreNumbers { store: self.store.0, health, ..StoreNumbers::default() }
    }
}

/// Opens the stores of this core and lets them take turns. One that cannot be opened is fenced.
///
/// # Errors
/// A passing shortage that has not passed within [`SHORTAGE_MAX`](crate::shard::startup::SHORTAGE_MAX).
pub(super) async fn open(rt: &Rt, plan: &Arc<Plan>, ends: &Ends) -> Result<Stores> {
    let (mut shards, mut fenced, mut peers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let book = Rc::new(AddressBook::default());
    plan.peers.iter().for_each(|(store, addr)| book.set(*store, addr));
    let memory = plan.shard.memory.fresh();
    let links = CoreLinks::start(rt, rt.core(), ends.to.clone());
    for index in plan.stores_of(rt.core()) {
        let store = plan.identity.store_id(index);
        let dir = Identity::store_dir(&plan.dir, store);
        let mut options = ShardOptions {
            store,
            system: index == SYSTEM_STORE && plan.schedulers.is_empty(),
            may_be_empty: !plan.schedulers.is_empty(),
            memory: memory.clone(),
            openings: plan.shard.openings.of_store(index),
            ..plan.shard.clone()
        };
        if let Some(holding) = plan.holdings.get(index) {
            options.log.origin = holding.log_origin();
            options.tree.origin = holding.tree_origin();
        }
        let of_store = |region: &&Region| region.peer_on(store).is_some();
        let initial: Vec<Region> = plan.first_regions.iter().filter(of_store).cloned().collect();
        match Shard::open(rt, &dir, options, initial.clone()).await {
            Ok(shard) => {
                shard.look_at_disk().await;
                let (cluster, incarnation) = (plan.identity.cluster, shard.opened());
                let (secret, lineage) = (plan.secret, shard.lineage());
                let speaker = Speaker { secret, cluster, store, incarnation, lineage };
                let others = peer::link::PeerLinks::new(rt, speaker, book.clone());
                let ways = Siblings::new(plan, (store, incarnation), links.clone(), others.clone());
                shard.connect(Rc::new(ways));
                peers.insert(index, others);
                start_tasks(rt, &shard, dir);
                shards.insert(index, shard);
            }
            Err(fault) if fault.is_passing() => return Err(fault),
            Err(fault) => {
                fenced.insert(index, Fenced::new(store, &fault, initial));
            }
        }
    }
    Ok(Stores { shards, fenced, links, memory, peers, book, rt: rt.clone() })
}

fn start_tasks(rt: &Rt, shard: &Shard, dir: PathBuf) {
    let turns = shard.clone();
    rt.spawn(async move { turns.run().await });
    let ticks = shard.clone();
    rt.spawn(async move { ticks.tick_loop().await });
    let (remember, remember_dir) = (shard.clone(), dir.clone());
    rt.spawn(async move { remember.remember_loop(&remember_dir).await });
    let upkeep = shard.clone();
    rt.spawn(async move { upkeep.upkeep_loop().await });
}

impl Stores {
    /// Where the regions of this core's stores are, the fenced ones included.
    pub fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for (store, shard) in &self.shards {
            places.extend(shard.places(*store));
        }
        for (store, fenced) in &self.fenced {
            places.extend(fenced.regions.iter().map(|region| Place::of(region, *store)));
        }
        places
    }

    /// The store that keeps the scheduler's state, or why it is not open.
    pub fn state_store(&self) -> std::result::Result<Shard, String> {
        match (self.shards.get(&SYSTEM_STORE), self.fenced.get(&SYSTEM_STORE)) {
            (Some(shard), _) => Ok(shard.clone()),
            (None, Some(fenced)) => Err(fenced.why.clone()),
            (None, None) => Err("the store that keeps it is on another core".to_owned()),
        }
    }

    /// How often the log of each store has been opened, by number on the node.
    pub fn opened(&self) -> Vec<(usize, u64)> {
        self.shards.iter().map(|(store, shard)| (*store, shard.opened())).collect()
    }

    /// Joins this core's stores to the others; `scheduler` is asked about regions that are elsewhere.
    pub(super) fn join(
        &self,
        rt: &Rt,
        plan: &Plan,
        places: Vec<Place>,
        ends: Ends,
        scheduler: Option<Box<dyn Locates>>,
    ) -> Rc<Dispatch> {
        let core_of = (0..plan.identity.stores).map(|store| plan.core_of(store)).collect();
        let fenced = self.fenced.iter().map(|(store, fenced)| (*store, fenced.why_alone())).collect();
        let here = LocalStores { shards: self.shards.clone(), fenced };
        let command_bytes_max = usize::try_from(plan.shard.raft.entry_bytes_max).unwrap_or(usize::MAX);
        let whole = Whole { core_of, command_bytes_max, scan_pairs_max: 4096 };
        let ours = (0..plan.identity.stores).map(|index| plan.identity.store_id(index)).collect();
        let remote = self.peers.values().next().map(|links| {
            let requests = Requests::new(rt, links.speaker(), self.book.clone(), self.memory.clone());
            let remote = Remote::new(Box::new(requests), ours);
            match scheduler {
                Some(scheduler) => remote.asking(scheduler),
                None => remote,
            }
        });
        let (links, memory) = ((self.links.clone(), remote), self.memory.clone());
        Dispatch::start(rt, here, whole, places, links, ends.inbox, memory)
    }

    /// The gateway for the port of store number `home`.
    pub fn gateway(dispatch: &Rc<Dispatch>, home: usize) -> Gateway {
        Gateway::new(dispatch.clone(), home)
    }

    /// What takes connections of other stores in on the port of store number `index`; nothing if it could not be opened.
    pub(super) fn peer_port(&self, index: usize) -> Option<Rc<dyn Guest>> {
        let (shard, links) = (self.shards.get(&index)?, self.peers.get(&index)?);
        let inbound = Inbound {
            rt: self.rt.clone(),
            speaker: links.speaker(),
            seen: Rc::default(),
            book: self.book.clone(),
            counters: links.counters().clone(),
            memory: self.memory.clone(),
        };
        Some(PeerPort::new(inbound, shard.clone()))
    }

    /// Lets what is in flight finish and closes the files, all stores at a time and within about `time_max`.
    pub async fn stop(&self, time_max: Duration) {
        let closing = self.shards.values().map(|shard| async move {
            let stopped = shard.stopped().is_some();
            match shard.close(time_max).await {
                Ok(()) => {}
                // It had said so when it stopped.
                Err(_) if stopped => {}
                Err(fault) => {
                    let store = shard.store().0;
                    tracing::error!(store, file = %fault.path.display(), what = fault.what, "a store did not close well");
                }
            }
        });
        join_all(closing).await;
        self.links.close();
    }

    /// Waits until every region leads and has applied what it had acknowledged before, or its store has stopped.
    ///
    /// # Errors
    /// Why a store has stopped.
    pub async fn settle(&self, rt: &Rt) -> std::result::Result<(), String> {
        let mut stopped = Ok(());
        for shard in self.shards.values() {
            while !shard.is_ready() {
                if let Some(reason) = shard.stopped() {
                    stopped = Err(reason);
                    break;
                }
                rt.sleep(Duration::from_millis(1)).await;
            }
        }
        stopped
    }

    /// Why stores of this core serve nothing, and how many there are that serve.
    pub fn standing(&self) -> (Vec<String>, usize) {
        let stopped: Vec<String> = self.shards.values().filter_map(Shard::stopped).collect();
        let serving = self.shards.len() - stopped.len();
        let fenced = self.fenced.values().map(|fenced| fenced.why.clone());
        (fenced.chain(stopped).collect(), serving)
    }
}
