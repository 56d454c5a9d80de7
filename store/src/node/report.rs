//! What a data core says about itself: to the scheduler shard as a beat, to the metrics as a copy of its numbers.
//!
//! Beats wait for room in the scheduler shard's queue, so none is lost; the board is written on its own, so a scheduler shard that
//! is behind does not make the metrics stale.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::lsm::Estimate;
use engine::rt::chan::Sender;
use engine::rt::{Mono, Rt};
use scheduler::{Load, NodeId, RegionId, RegionReport, StoreDescriptor, StoreReport};

use super::core::Plan;
use crate::control::{Beat, StoreBeat};
use crate::shard::Shard;
use crate::shard::counters::StoreSnapshot;
use crate::shard::links::Links;
use crate::wire::board::{Board, CoreReport};
use crate::wire::{grpc, resp};

/// How often a core reports.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Beats between two estimates of the sizes of all regions: an estimate may have to read index blocks.
const BEATS_PER_ESTIMATE: u64 = 10;

/// Sends a core's beats.
pub(super) struct Heart {
    rt: Rt,
    node: NodeId,
    stores: Vec<Reported>,
    started_seconds: u64,
    /// Keys of all regions that are led here, as estimated last; for the [`Poster`].
    pub(super) keys: Rc<Cell<u64>>,
}

/// One store of the core, and what was last known of it.
struct Reported {
    shard: Shard,
    address: String,
    sizes: RefCell<HashMap<RegionId, Estimate>>,
    counted: RefCell<Counted>,
    /// Stores of the node, which share its disk.
    sharers: u64,
}

/// Counters at the latest beat.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    at: Mono,
    reads: u64,
    writes: u64,
    written_bytes: u64,
}

impl Heart {
    /// For these stores, each with the address that clients are told to dial.
    pub(super) fn new(rt: &Rt, plan: &Arc<Plan>, stores: impl Iterator<Item = (Shard, String)>) -> Self {
        let reported = |(shard, address): (Shard, String)| Reported {
            counted: RefCell::new(Counted::of(&shard, rt.now())),
            shard,
            address,
            sizes: RefCell::default(),
            sharers: plan.identity.stores as u64,
        };
        Self {
            rt: rt.clone(),
            node: NodeId(plan.identity.node),
            stores: stores.map(reported).collect(),
            started_seconds: rt.wall().as_secs(),
            keys: Rc::default(),
        }
    }

    /// Beats until the scheduler shard ends.
    pub(super) async fn run(self, reports: Sender<Beat>) {
        for count in 0.. {
            if count % BEATS_PER_ESTIMATE == 0 {
                self.estimate().await;
            }
            self.rt.sleep(REPORT_EVERY).await;
            if reports.send(self.beat().await).await.is_err() {
                // The scheduler shard ends only while the node stops.
                return;
            }
        }
    }

    /// What the core's stores say now.
    pub(super) async fn beat(&self) -> Beat {
        let budget = self.rt.budget();
        let mut beat = Beat::default();
        for store in &self.stores {
            let mut regions = Vec::new();
            for (region, term, leads) in store.shard.regions() {
                if !leads {
                    continue;
                }
                let leader = region.peer_on(store.shard.store()).map(|peer| peer.id);
                let size = store.sizes.borrow().get(&region.id).copied().unwrap_or_default();
                regions.push(RegionReport {
                    term: Some(term),
                    size_bytes: size.bytes,
                    keys: size.keys,
                    ..RegionReport::new(region, leader)
                });
                budget.tick().await;
            }
            beat.stores.push(StoreBeat {
                descriptor: StoreDescriptor::new(store.shard.store(), self.node, store.address.clone()),
                report: store.report(self.rt.now(), regions.len() as u64, self.started_seconds),
                regions,
            });
        }
        beat
    }

    /// Estimates the sizes of all regions that are led here.
    async fn estimate(&self) {
        for store in &self.stores {
            for (region, _, leads) in store.shard.regions() {
                if !leads {
                    store.sizes.borrow_mut().remove(&region.id);
                    continue;
                }
                // A file that cannot be read is the store's business; the size stays what it was.
                if let Ok(size) = store.shard.estimate(&region).await {
                    store.sizes.borrow_mut().insert(region.id, size);
                }
            }
        }
        let keys_of = |store: &Reported| store.sizes.borrow().values().map(|size| size.keys).sum::<u64>();
        self.keys.set(self.stores.iter().map(keys_of).sum());
    }
}

impl Reported {
    fn report(&self, now: Mono, regions: u64, start_time_seconds: u64) -> StoreReport {
        let counted = Counted::of(&self.shard, now);
        let before = self.counted.replace(counted);
        let numbers = self.shard.snapshot();
        let used_bytes =
            numbers.tree.levels.iter().map(|(_, bytes)| bytes).sum::<u64>() + numbers.tree.memtable_bytes;
        // The disk is shared by the stores of the node.
        let available_bytes = numbers.disk_free_bytes / self.sharers;
        StoreReport {
            store: self.shard.store(),
            capacity_bytes: used_bytes.saturating_add(available_bytes),
            used_bytes,
            available_bytes,
            load: counted.since(before),
            region_count: regions,
            start_time_seconds,
            busy: false,
        }
    }
}

impl Counted {
    fn of(shard: &Shard, at: Mono) -> Self {
        let counters = shard.counters();
        Self {
            at,
            reads: counters.reads.get() + counters.scans.get(),
            writes: counters.applied.get(),
            written_bytes: counters.log_bytes.get(),
        }
    }

    /// Rates per second since an earlier count.
    fn since(self, before: Self) -> Load {
        let passed_ms = u64::try_from(self.at.since(before.at).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |now: u64, then: u64| now.saturating_sub(then).saturating_mul(1000) / passed_ms;
        let narrow = |rate: u64| u32::try_from(rate).unwrap_or(u32::MAX);
        Load {
            read_bytes: 0,
            write_bytes: rate(self.written_bytes, before.written_bytes),
            read_ops: narrow(rate(self.reads, before.reads)),
            write_ops: narrow(rate(self.writes, before.writes)),
        }
    }
}

/// Leaves copies of a core's numbers on the board.
pub(super) struct Poster {
    pub(super) rt: Rt,
    pub(super) shards: Vec<Shard>,
    /// What stores that could not be opened say of themselves.
    pub(super) fenced: Vec<StoreSnapshot>,
    pub(super) board: Board,
    pub(super) counters: Rc<resp::Counters>,
    pub(super) keys: Rc<Cell<u64>>,
    pub(super) links: Rc<Links>,
    pub(super) connections_max: usize,
}

impl Poster {
    /// Posts until the core ends.
    pub(super) async fn run(self, servers: &RefCell<Vec<grpc::Handle>>) {
        loop {
            self.post(servers);
            self.rt.sleep(REPORT_EVERY).await;
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
            resp_connections_max: self.connections_max as u64,
            grpc_connections_max: (self.connections_max * self.shards.len()) as u64,
            busy: self.rt.cpu_clock().read().unwrap_or_default(),
        });
    }
}
