//! How one data core starts: the one choreography, which the node, the simulated cluster and the tests go through.
//!
//! ```text
//! open its stores ─► they settle ─► the routes of all cores ─► join ─► gRPC per store, with other stores as guests ─► RESP
//! ```
//!
//! It owns the order, and how a listener gets its service, its bounds and its guests. What lies around the core belongs to the caller
//! ([`Around`]): a root core that waits for every core before it hands out routes, or nothing ([`alone`]). So do the plan, the addresses
//! and the limits. It never reads the configuration, and it closes nothing: that is the drain's.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::rt::local::Bell;
use engine::rt::{ListenOptions, Rt, Task};
use futures_util::future::{join, join_all};

use super::core::{self, Plan, Stores};
use super::listen::CannotListen;
use crate::gateway::{Dispatch, Gateway, Locates};
use crate::shard::Shard;
use crate::shard::links::{Ends, connect};
use crate::shard::routes::Place;
use crate::wire::health::HealthService;
use crate::wire::tikv::Tikv;
use crate::wire::{grpc, resp};

/// How long sessions that have been asked to end may take to do so.
const SESSIONS_END: Duration = Duration::from_millis(500);

/// How far the stores are before they are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// They are open, and may still have to apply what their logs have.
    Opened,
    /// Every region leads, or follows, and has applied what it had acknowledged; or its store has stopped.
    Settled,
}

/// What lies around a core that starts.
pub(super) trait Around {
    /// The stores are open, and have not settled.
    fn opened(&mut self, rt: &Rt, stores: &Stores);

    /// The stores are as far as they had to be. Where the regions of all cores are; nothing if the start has failed elsewhere.
    ///
    /// # Errors
    /// Why the core does not go on.
    fn places(
        &mut self,
        rt: &Rt,
        stores: &Stores,
    ) -> impl Future<Output = Result<Option<Vec<Place>>, String>>;

    /// Who is asked about regions that are on other nodes.
    fn locates(self, rt: &Rt, stores: &Stores) -> Option<Box<dyn Locates>>;
}

/// A core whose stores are open and joined to those of the other cores. It serves no port yet.
pub struct Core {
    /// Its stores.
    pub stores: Stores,
    /// Their way to the others.
    pub dispatch: Rc<Dispatch>,
    plan: Arc<Plan>,
}

/// Opens the stores of this core and joins them to the others; nothing if the start has failed elsewhere.
///
/// # Errors
/// Why the core cannot go on.
pub(super) async fn start(
    rt: &Rt,
    plan: Arc<Plan>,
    ends: Ends,
    until: Until,
    mut around: impl Around,
) -> Result<Option<Core>, String> {
    let stores = core::open(rt, &plan, &ends).await.map_err(|fault| fault.to_string())?;
    around.opened(rt, &stores);
    match until {
        Until::Opened => {}
        // A store that stops meanwhile has said so, and those that do not go on.
        Until::Settled => drop(stores.settle(rt).await),
    }
    let Some(places) = around.places(rt, &stores).await? else { return Ok(None) };
    // The start may not be counted, which is known by now and refuses writes.
    join_all(stores.shards.values().map(Shard::look_at_disk)).await;
    let locates = around.locates(rt, &stores);
    let dispatch = stores.join(rt, &plan, places, ends, locates);
    Ok(Some(Core { stores, dispatch, plan }))
}

/// Starts the only core of a node without a root core: there is no scheduler, and nothing else to wait for.
///
/// # Errors
/// Why a store does not open, or has stopped.
pub async fn alone(rt: &Rt, plan: Arc<Plan>, until: Until) -> Result<Core, String> {
    assert_eq!(plan.cores, 1, "nothing joins a core that is alone to others");
    let ends = connect(1).remove(0);
    Ok(start(rt, plan, ends, until, Alone).await?.expect("no other core can fail"))
}

/// Opens the stores of the only core of a node and joins them to nothing: what a start finds on the disk, fenced stores included.
///
/// # Errors
/// A shortage that does not pass.
pub async fn open_alone(rt: &Rt, plan: &Arc<Plan>) -> Result<Stores, String> {
    core::open(rt, plan, &connect(1).remove(0)).await.map_err(|fault| fault.to_string())
}

/// No root core, no other core, no scheduler.
struct Alone;

impl Around for Alone {
    fn opened(&mut self, _: &Rt, _: &Stores) {}

    async fn places(&mut self, _: &Rt, stores: &Stores) -> Result<Option<Vec<Place>>, String> {
        match stores.standing() {
            (stopped, _) if !stopped.is_empty() => Err(stopped.join("; ")),
            _ => Ok(Some(stores.places())),
        }
    }

    fn locates(self, _: &Rt, _: &Stores) -> Option<Box<dyn Locates>> {
        None
    }
}

/// Where a core serves, and within which bounds.
pub struct Ports {
    /// Where each store is served, by number on the node.
    pub stores: Vec<(usize, SocketAddr)>,
    /// The bounds of gRPC; memory and guests are those of the stores.
    pub grpc: grpc::Options,
    /// Where RESP is served; other cores may share the port.
    pub resp: SocketAddr,
    /// The bounds of RESP, and what it says of the node.
    pub resp_config: resp::Config,
}

/// The servers of a core's stores.
pub struct ServedStores {
    /// One per store. Whoever drains them takes them away.
    pub servers: Rc<RefCell<Vec<grpc::Handle>>>,
    /// Where each is.
    pub stores: Vec<ServedStore>,
}

/// One store of a core and its port.
pub struct ServedStore {
    /// Its number on the node.
    pub index: usize,
    /// The store, unless it is fenced.
    pub shard: Option<Shard>,
    /// Where it is served.
    pub addr: SocketAddr,
    /// What it says to health checks.
    pub(super) health: HealthService,
}

/// A core that takes connections.
pub struct Served {
    /// Over gRPC.
    pub grpc: ServedStores,
    /// What its RESP sessions count.
    pub resp_counters: Rc<resp::Counters>,
    resp: Task<()>,
    /// Rings when sessions are to end, within the time beside it.
    stopping: Rc<(Bell, Cell<Duration>)>,
}

impl Core {
    /// A gateway whose home is the first store that is open.
    pub fn gateway(&self) -> Gateway {
        Stores::gateway(&self.dispatch, self.stores.shards.keys().copied().min().unwrap_or(0))
    }

    /// Serves every store on a port of its own, and RESP.
    ///
    /// # Errors
    /// Which address cannot be bound, and what to do.
    pub fn serve(&self, rt: &Rt, ports: Ports) -> Result<Served, String> {
        let Ports { stores, grpc, resp: addr, resp_config } = ports;
        let grpc = self.serve_stores(rt, &stores, &grpc)?;
        let options = ListenOptions { share_port: true, ..ListenOptions::default() };
        let listener = rt.listen(addr, options).map_err(|error| {
            CannotListen { what: "RESP", addr, port_key: "resp_port", error: &error }.to_string()
        })?;
        let (gateway, counters) = (self.gateway(), Rc::new(resp::Counters::default()));
        let stopping = Rc::new((Bell::default(), Cell::new(Duration::ZERO)));
        let (serving, counted, bell) = (rt.clone(), counters.clone(), stopping.clone());
        let resp = rt.spawn(async move {
            resp::serve(serving, listener, gateway, resp_config, counted, async move {
                bell.0.wait().await;
                bell.1.get()
            })
            .await;
        });
        Ok(Served { grpc, resp_counters: counters, resp, stopping })
    }

    /// Serves every store on its address in `addrs`, by number on the node.
    ///
    /// # Errors
    /// Which address cannot be bound, and what to do.
    pub fn serve_stores(
        &self,
        rt: &Rt,
        addrs: &[(usize, SocketAddr)],
        options: &grpc::Options,
    ) -> Result<ServedStores, String> {
        let (mut servers, mut stores) = (Vec::new(), Vec::new());
        for (index, wanted) in addrs.iter().copied() {
            let shard = self.stores.shards.get(&index).cloned();
            let listener = rt.listen(wanted, ListenOptions::default()).map_err(|error| {
                CannotListen { what: "store", addr: wanted, port_key: "base_port", error: &error }.to_string()
            })?;
            let addr = listener.local_addr().map_err(|error| error.to_string())?;
            // A fenced store answers, so that clients learn why, but wants no calls.
            let health = HealthService::default();
            let stopped = health.clone();
            match &shard {
                Some(shard) => shard.on_stop(move || stopped.set_serving(false)),
                None => stopped.set_serving(false),
            }
            let id = self.plan.identity.store_id(index).0;
            let service = Tikv::new(rt, Stores::gateway(&self.dispatch, index), id, health.clone());
            let options = grpc::Options {
                memory: self.stores.memory.clone(),
                guest: self.stores.peer_port(index),
                ..options.clone()
            };
            servers.push(grpc::serve(rt, listener, service, options));
            stores.push(ServedStore { index, shard, addr, health });
        }
        Ok(ServedStores { servers: Rc::new(RefCell::new(servers)), stores })
    }
}

impl Served {
    /// Lets health checks say that no more calls are wanted. Those that come are served.
    pub(super) fn announce(&self) {
        self.grpc.stores.iter().for_each(|store| store.health.set_serving(false));
    }

    /// Accepts nothing more, and lets sessions and calls finish within `time_max`. Whether they have.
    pub(super) async fn drain(self, rt: &Rt, time_max: Duration) -> bool {
        self.stopping.1.set(time_max);
        self.stopping.0.ring();
        let servers = self.grpc.servers.take();
        let drained = join_all(servers.iter().map(|server| server.drain(time_max)));
        // Sessions that are asked to end do so at once, unless the core is very busy.
        rt.timeout(time_max + SESSIONS_END, join(self.resp, drained)).await.is_some()
    }
}
