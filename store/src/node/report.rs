//! What a data core says about itself: to the scheduler shard as a beat, to the metrics as a copy of its numbers.
//!
//! Beats wait for room in the scheduler shard's queue, so none is lost; the board is written on its own, so a scheduler shard that
//! is behind does not make the metrics stale.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::lsm::Estimate;
use engine::rt::chan::Sender;
use engine::rt::{Mono, Rt};
use futures_util::future::{Either, select, select_all};
use scheduler::{NodeId, Region, RegionId, RegionReport, StoreDescriptor, StoreReport};

use super::core::Plan;
use super::pace::BeatPace;
use super::rates::Rates;
use crate::control::{Beat, StoreBeat};
use crate::gateway::Dispatch;
use crate::plant::{Bug, planted};
use crate::region::peers::Behind;
use crate::region::system::GROUP;
use crate::shard::Shard;
use crate::shard::counters::StoreNumbers;
use crate::shard::links::CoreLinks;
use crate::wire::board::{Board, CoreReport};
use crate::wire::health::HealthService;
use crate::wire::peer::book::AddressBook;
use crate::wire::{grpc, resp};

/// How often a core reports when nothing waits for its reports ([`pace`](super::pace)).
pub(super) const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The time between two estimates of the sizes of all regions: an estimate may have to read index blocks.
const ESTIMATE_EVERY: Duration = Duration::from_secs(10);

/// Sends a core's beats.
#[derive(Debug)]
pub struct Heart {
    rt: Rt,
    node: NodeId,
    stores: Vec<Reported>,
    /// Where stores of other nodes are reached; what it lacks is asked for.
    book: Rc<AddressBook>,
    pub(super) pace: Rc<BeatPace>,
    started_seconds: u64,
    /// Keys of all regions that are led here, as estimated last; for the [`Poster`].
    pub(super) keys: Rc<Cell<u64>>,
}

/// One store of the core, and what was last known of it.
#[derive(Debug)]
struct Reported {
    shard: Shard,
    address: String,
    /// Each with the version that the region had: after a split it is another region's size.
    sizes: RefCell<HashMap<RegionId, (u64, Estimate), foldhash::fast::FixedState>>,
    /// What clients have read and written lately.
    rates: RefCell<Rates>,
    /// Stores of the node, which share its disk.
    sharers: u64,
}

impl Heart {
    /// For these stores, each with the address that is announced to clients.
    pub fn new(
        rt: &Rt,
        plan: &Arc<Plan>,
        stores: impl Iterator<Item = (Shard, String)>,
        book: Rc<AddressBook>,
    ) -> Self {
        let reported = |(shard, address): (Shard, String)| Reported {
            rates: RefCell::new(Rates::new(rt.now())),
            shard,
            address,
            sizes: RefCell::default(),
            sharers: plan.identity.stores as u64,
        };
        Self {
            rt: rt.clone(),
            node: NodeId(plan.identity.node),
            stores: stores.map(reported).collect(),
            book,
            pace: Rc::default(),
            started_seconds: rt.wall().as_secs(),
            keys: Rc::default(),
        }
    }

    /// Beats until the scheduler shard ends.
    pub(super) async fn run(self, reports: Sender<Beat>) {
        let mut estimated: Option<Mono> = None;
        loop {
            let last = self.rt.now();
            if estimated.is_none_or(|at| last.since(at) >= ESTIMATE_EVERY) {
                self.estimate().await;
                estimated = Some(last);
            }
            self.until_due(last).await;
            let beat = self.beat().await;
            self.pace.sent(beat.stores.iter().map(|store| store.regions.len()).sum());
            if reports.send(beat).await.is_err() {
                // The scheduler shard ends only while the node stops.
                return;
            }
        }
    }

    /// Waits until the beat after one at `last` is due: sooner if a store is looked for whose address is not known.
    async fn until_due(&self, last: Mono) {
        while let Either::Right(_) =
            select(pin!(self.pace.due(&self.rt, last)), pin!(self.book.missed())).await
        {
            self.pace.hurry();
        }
    }

    /// What the core's stores say now.
    pub async fn beat(&self) -> Beat {
        let budget = self.rt.budget();
        let mut beat = Beat { core: self.rt.core(), stores: Vec::new(), wanted: Vec::new() };
        for store in &self.stores {
            store.rates.borrow_mut().take(self.rt.now(), || store.shard.take_counts());
            // Followers elect a leader among themselves when theirs is gone, and the scheduler may be gone with it.
            store.shard.other_stores().into_iter().for_each(|other| _ = self.book.find(other));
            let mut regions = Vec::new();
            for (region, term) in store.shard.led() {
                let Behind { pending, down } = store.shard.behind(region.id);
                let load = store.rates.borrow().of(region.id);
                let leader = region.peer_on(store.shard.store()).map(|peer| peer.id);
                let size = store.size(&region).await;
                regions.push(RegionReport {
                    term: Some(term),
                    pending,
                    down,
                    uncut: store.shard.take_uncut(region.id),
                    cut: store.shard.load_cut(&region),
                    size_bytes: size.bytes,
                    keys: size.keys,
                    load,
                    ..RegionReport::new(region, leader)
                });
                budget.tick().await;
            }
            beat.stores.push(StoreBeat {
                descriptor: StoreDescriptor::new(store.shard.store(), self.node, store.address.clone()),
                report: StoreReport {
                    load: store.rates.borrow().total(),
                    ..store.report(self.started_seconds)
                },
                regions,
            });
        }
        beat.wanted = self.book.wanted();
        beat
    }

    /// Estimates the sizes of all regions that are led here.
    /// And asks again where the other members of the regions are: one that has moved does not say so to those it does not speak with.
    pub async fn estimate(&self) {
        for store in &self.stores {
            for (region, _, leads) in store.shard.groups() {
                let others = region.peers.iter().filter(|peer| peer.store != store.shard.store());
                others.for_each(|peer| self.book.failed(peer.store));
                if !leads || region.id == GROUP {
                    store.sizes.borrow_mut().remove(&region.id);
                    continue;
                }
                store.measure(&region).await;
            }
        }
        let keys_of =
            |store: &Reported| store.sizes.borrow().values().map(|(_, size)| size.keys).sum::<u64>();
        self.keys.set(self.stores.iter().map(keys_of).sum());
    }
}

impl Reported {
    /// The size of a region as estimated last, or now if its range was another one then.
    async fn size(&self, region: &Region) -> Estimate {
        let known = |it: &Self| {
            let sizes = it.sizes.borrow();
            sizes
                .get(&region.id)
                .filter(|(version, _)| *version == region.epoch.version)
                .map(|(_, size)| *size)
        };
        if known(self).is_none() {
            self.measure(region).await;
        }
        known(self).unwrap_or_default()
    }

    /// Estimates the size of a region. A file that cannot be read is the store's business; the size stays what it was.
    async fn measure(&self, region: &Region) {
        if let Ok(size) = self.shard.estimate(region).await {
            self.sizes.borrow_mut().insert(region.id, (region.epoch.version, size));
        }
    }

    fn report(&self, start_time_seconds: u64) -> StoreReport {
        let numbers = self.shard.snapshot();
        let used_bytes =
            numbers.tree.levels.iter().map(|(_, bytes)| bytes).sum::<u64>() + numbers.tree.memtable_bytes;
        // The disk is shared by the stores of the node.
        let available_bytes = numbers.disk_free_bytes / self.sharers;
        StoreReport {
            capacity_bytes: used_bytes.saturating_add(available_bytes),
            used_bytes,
            available_bytes,
            region_count: numbers.groups.regions,
            start_time_seconds,
            busy: self.shard.is_stuck(),
            ..StoreReport::empty(self.shard.store())
        }
    }
}

/// Leaves copies of a core's numbers on the board.
pub(super) struct Poster {
    pub(super) rt: Rt,
    pub(super) shards: Vec<Shard>,
    /// What stores that could not be opened say of themselves.
    pub(super) fenced: Vec<StoreNumbers>,
    pub(super) board: Board,
    /// What the port of each store says to health checks, by the store's id.
    pub(super) health: Vec<(u64, HealthService)>,
    pub(super) counters: Rc<resp::Counters>,
    pub(super) keys: Rc<Cell<u64>>,
    pub(super) links: Rc<CoreLinks>,
    pub(super) dispatch: Rc<Dispatch>,
    pub(super) connections_max: usize,
}

impl Poster {
    /// Posts until the core ends: regularly, and at once when the health of a store changes.
    pub(super) async fn run(self, servers: &RefCell<Vec<grpc::Handle>>) {
        loop {
            self.post(servers);
            for (store, health) in &self.health {
                health.set_in_use(self.board.is_in_use(*store) || planted(Bug::GoneServes));
            }
            let changes = self.shards.iter().map(|shard| Box::pin(shard.health_changed()));
            let regularly = pin!(self.rt.sleep(REPORT_EVERY));
            if self.shards.is_empty() {
                regularly.await;
            } else {
                select(regularly, select_all(changes)).await;
            }
        }
    }

    fn post(&self, servers: &RefCell<Vec<grpc::Handle>>) {
        let grpc =
            servers.borrow().iter().map(grpc::Handle::stats).fold(grpc::Stats::default(), grpc::Stats::plus);
        self.board.post(CoreReport {
            core: self.rt.core(),
            stores: self.shards.iter().map(Shard::snapshot).chain(self.fenced.iter().cloned()).collect(),
            keys: self.keys.get(),
            resp: self.counters.snapshot(),
            grpc,
            grpc_requests: grpc::Ended::merge(servers.borrow().iter().flat_map(grpc::Handle::ended)),
            forwarded: self.links.outstanding() as u64,
            gateway: self.dispatch.numbers(),
            resp_connections_max: self.connections_max as u64,
            // Nodes prove the secret to the stores, which count for themselves, and to the PD port.
            unproven: Default::default(),
            grpc_connections_max: (self.connections_max * self.shards.len()) as u64,
            memory: self.dispatch.memory().uses(),
            scheduler: None,
            busy: self.rt.cpu_clock().read().unwrap_or_default(),
        });
    }
}
