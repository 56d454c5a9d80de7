//! What one data core runs, from its first event to its last: it opens its stores, serves them, and carries out the drain's orders.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::rt::chan::{Receiver, Sender};
use engine::rt::local::Bell;
use engine::rt::{ListenOptions, Listener, Mono, Rt};
use futures_util::future::{join, join_all};

use super::core::{self, Fenced, Plan, Stores};
use super::drain::Order;
use super::handover::{self, HAND_OVER_MAX};
use super::listen::CannotListen;
use super::locator::Locator;
use super::orders;
use super::pace::BeatPace;
use super::report::{Heart, Poster};
use super::root::{CoreWork, Event};
use super::state_host;
use crate::config::{Config, Limits};
use crate::control::{Ask, Beat, BeatAnswer, News, locate};
use crate::descriptors::Descriptors;
use crate::gateway::Dispatch;
use crate::plant::{Bug, planted};
use crate::region::system::fence::Fence;
use crate::shard::Shard;
use crate::shard::links::Ends;
use crate::shard::routes::Place;
use crate::wire::board::Board;
use crate::wire::health::Health;
use crate::wire::peer::book::AddressBook;
use crate::wire::tikv::Tikv;
use crate::wire::{grpc, resp};

/// How long sessions that have been told to end may take to do so.
const SESSIONS_END: Duration = Duration::from_millis(500);

/// The host that is announced to clients, with the port that is really bound.
pub(super) fn advertised(config: &Config, bound: SocketAddr) -> String {
    match &config.advertise {
        Some(host) => format!("{host}:{}", bound.port()),
        None => bound.to_string(),
    }
}

/// The data core's ends of what connects it with the scheduler shard.
pub(super) struct StateEnd {
    /// What the scheduler shard asks.
    pub(super) asked: Receiver<Ask>,
    /// Where it reports what changes here.
    pub(super) news: Sender<News>,
    /// Until when the replica leads.
    pub(super) fence: Arc<Fence>,
}

/// What a data core is started with.
pub(super) struct DataCore {
    pub(super) plan: Arc<Plan>,
    pub(super) config: Config,
    pub(super) limits: Limits,
    pub(super) links: Ends,
    pub(super) resp: SocketAddr,
    pub(super) places: Receiver<Vec<Place>>,
    pub(super) orders: Receiver<Order>,
    pub(super) reports: Sender<Beat>,
    /// What the scheduler answers to them.
    pub(super) answers: Receiver<BeatAnswer>,
    /// Where it asks about regions, and where it is answered.
    pub(super) map: (Sender<locate::Question>, Receiver<locate::Answer>),
    /// What connects the core of the system group's replica with the scheduler shard.
    pub(super) state: Option<StateEnd>,
    pub(super) board: Board,
    pub(super) cursors: resp::Cursors,
    pub(super) connections: resp::Connections,
    pub(super) descriptors: Descriptors,
    pub(super) events: Sender<Event>,
    pub(super) work: Option<CoreWork>,
}

/// Reports an event to the root core.
async fn say(events: &Sender<Event>, event: Event) {
    if events.send(event).await.is_err() {
        tracing::warn!("the root core has ended before a data core");
    }
}

impl DataCore {
    /// The core's main future.
    pub(super) async fn main(self, rt: Rt) {
        let events = self.events.clone();
        if let Err(why) = self.run(rt).await {
            say(&events, Event::Failed(why)).await;
        }
    }

    async fn run(self, rt: Rt) -> Result<(), String> {
        let began = rt.now();
        let stores = core::open(&rt, &self.plan, &self.links).await.map_err(|fault| fault.to_string())?;
        if let Some(StateEnd { asked, news, fence }) = self.state {
            if let Ok(shard) = stores.state_store() {
                shard.keep_fence(fence);
            }
            rt.spawn(state_host::serve(rt.clone(), stores.state_store(), asked));
            rt.spawn(state_host::watch(rt.clone(), stores.state_store(), news));
        }
        // A store that stops meanwhile has said so, and those that do not go on.
        let _ = stores.settle(&rt).await;
        say_opened(&rt, &stores, began);
        let (fenced, serving) = stores.standing();
        let (places, opened) = (stores.places(), stores.opened());
        say(&self.events, Event::Opened { places, opened, serving, fenced }).await;
        // The start has failed elsewhere.
        let Some(places) = self.places.recv().await else { return Ok(()) };
        let Self {
            plan,
            config,
            limits,
            links,
            resp: resp_addr,
            orders,
            reports,
            answers,
            map,
            board,
            cursors,
            connections,
            descriptors,
            events,
            work,
            places: _,
            state: _,
        } = self;
        let core = rt.core();
        let dispatch = join_cores(&rt, &plan, &stores, (places, links), map);
        let (servers, addrs, health) =
            serve_stores(&rt, &plan, (&config, &limits), &stores, &dispatch, &descriptors)?;
        let counters = Rc::new(resp::Counters::default());
        let stopping = Rc::new((Bell::default(), Cell::new(Duration::ZERO)));
        let shared = (cursors, connections, board.clone());
        let resp_config = resp_config(&config, &limits, &plan, resp_addr, shared, descriptors);
        let listener = listen_resp(&rt, resp_addr)?;
        let bell = stopping.clone();
        let gateway = Stores::gateway(&dispatch, stores.shards.keys().copied().min().unwrap_or(0));
        work.inspect(|work| work.begin(&rt, &gateway, &stores.shards));
        let (serving_rt, serving_counters) = (rt.clone(), counters.clone());
        let resp_server = rt.spawn(async move {
            resp::serve(serving_rt, listener, gateway, resp_config, serving_counters, async move {
                bell.0.wait().await;
                bell.1.get()
            })
            .await;
        });
        let told = addrs.iter().map(|(index, _, addr)| (*index, *addr)).collect();
        let (keys, pace) = start_beats(&rt, &plan, &config, (&addrs, &stores.book), reports).await?;
        rt.spawn(orders::follow(answers, stores.shards.clone(), stores.book.clone(), pace));
        let servers = Rc::new(RefCell::new(servers));
        let seen = servers.clone();
        let poster = Poster {
            rt: rt.clone(),
            shards: stores.shards.values().cloned().collect(),
            fenced: stores.fenced.values().map(Fenced::snapshot).collect(),
            board,
            counters,
            keys,
            links: stores.links.clone(),
            dispatch: dispatch.clone(),
            connections_max: limits.connections_max,
        };
        rt.spawn(async move { poster.run(&seen).await });
        say(&events, Event::Serving { stores: told }).await;

        let finish = next_phase(&orders, &health).await;
        if let Order::Finish(time_max) = finish {
            if planted(Bug::LinksClosedInDrain) {
                stores.links.close();
            }
            if planted(Bug::StoresClosedFirst) {
                stores.stop(time_max).await;
            }
            let began = rt.now();
            handover::hand_over(&rt, &stores.shards, HAND_OVER_MAX.min(time_max / 2)).await;
            let time_max = time_max.saturating_sub(rt.now().since(began));
            stopping.1.set(time_max);
            stopping.0.ring();
            let servers = servers.take();
            let drained = join_all(servers.iter().map(|server| server.drain(time_max)));
            // Sessions that are told to end do so at once, unless the core is very busy.
            let finished = rt.timeout(time_max + SESSIONS_END, join(resp_server, drained));
            if finished.await.is_none() {
                tracing::warn!(core = rt.core(), "connections did not end in time");
            }
            say(&events, Event::Done { core, order: finish }).await;
        }
        close(&stores, finish, &orders, &events, core).await;
        Ok(())
    }
}

/// Joins the core's stores to the others, with the way to the map of regions.
fn join_cores(
    rt: &Rt,
    plan: &Plan,
    stores: &Stores,
    (places, links): (Vec<Place>, Ends),
    (questions, replies): (Sender<locate::Question>, Receiver<locate::Answer>),
) -> Rc<Dispatch> {
    let locator = Locator::new(rt.core(), questions);
    rt.spawn(locator.clone().follow(replies, stores.book.clone()));
    stores.join_asking(rt, plan, places, links, Some(Box::new(locator)))
}

fn listen_resp(rt: &Rt, addr: SocketAddr) -> Result<Listener, String> {
    rt.listen(addr, ListenOptions { share_port: true, ..ListenOptions::default() }).map_err(|error| {
        CannotListen { what: "RESP", addr, port_key: "resp_port", error: &error }.to_string()
    })
}

/// Waits for the first phase of the drain; health checks say from its announcement on that the node wants no more calls. A node that
/// is dropped without a drain gives no order, and no time either.
async fn next_phase(orders: &Receiver<Order>, health: &[Health]) -> Order {
    loop {
        let order = orders.recv().await.unwrap_or(Order::Finish(Duration::ZERO));
        health.iter().for_each(|health| health.set_serving(false));
        if order != Order::Announce {
            return order;
        }
    }
}

/// Closes the stores when the root core orders it. Connections of other cores may still wait for them, so that is when all cores have
/// finished.
async fn close(
    stores: &Stores,
    finish: Order,
    orders: &Receiver<Order>,
    events: &Sender<Event>,
    core: usize,
) {
    let close = match finish {
        Order::Announce | Order::Finish(_) => orders.recv().await.unwrap_or(Order::Close(Duration::ZERO)),
        Order::Close(_) => finish,
    };
    if let Order::Close(time_max) = close {
        stores.stop(time_max).await;
    }
    say(events, Event::Done { core, order: close }).await;
}

/// One store of the core: its number, itself unless it is fenced, and where it is served.
type ServedStore = (usize, Option<Shard>, SocketAddr);

/// The servers of all stores of the core, where each store is served, and what each says to health checks.
type ServedStores = (Vec<grpc::Handle>, Vec<ServedStore>, Vec<Health>);

/// Starts the core's beats, and returns where the number of its keys and the pace of its beats are kept. Clients are answered from the scheduler's map, so the
/// first beat is sent before they can ask.
async fn start_beats(
    rt: &Rt,
    plan: &Arc<Plan>,
    config: &Config,
    (addrs, book): (&[ServedStore], &Rc<AddressBook>),
    reports: Sender<Beat>,
) -> Result<(Rc<Cell<u64>>, Rc<BeatPace>), String> {
    let open = addrs.iter().filter_map(|(_, shard, addr)| Some((shard.clone()?, advertised(config, *addr))));
    let heart = Heart::new(rt, plan, open, book.clone());
    let (keys, pace) = (heart.keys.clone(), heart.pace.clone());
    let beat = heart.beat().await;
    reports.send(beat).await.map_err(|_| "the scheduler shard has ended".to_owned())?;
    rt.spawn(async move { heart.run(reports).await });
    Ok((keys, pace))
}

/// Serves every store of this core on a port of its own.
///
/// # Errors
/// Which address cannot be bound, and what to do.
fn serve_stores(
    rt: &Rt,
    plan: &Plan,
    (config, limits): (&Config, &Limits),
    stores: &Stores,
    dispatch: &Rc<Dispatch>,
    descriptors: &Descriptors,
) -> Result<ServedStores, String> {
    let (mut servers, mut wanted_by) = (Vec::new(), Vec::new());
    let mut addrs = Vec::new();
    let store = |index: usize| {
        let shard = stores.shards.get(&index);
        shard
            .map_or_else(|| (stores.fenced[&index].store, None), |shard| (shard.store(), Some(shard.clone())))
    };
    for index in plan.stores_of(rt.core()) {
        let ((id, shard), wanted) = (store(index), config.store_addr(index));
        let listener = rt.listen(wanted, ListenOptions::default()).map_err(|error| {
            CannotListen { what: "store", addr: wanted, port_key: "base_port", error: &error }.to_string()
        })?;
        let addr = listener.local_addr().map_err(|error| error.to_string())?;
        // A fenced store answers, so that clients are told why, but wants no calls.
        let health = Health::default();
        let stopped = health.clone();
        match &shard {
            Some(shard) => shard.on_stop(move || stopped.set_serving(false)),
            None => stopped.set_serving(false),
        }
        wanted_by.push(health.clone());
        let service = Tikv::new(rt, Stores::gateway(dispatch, index), id.0, health);
        let options = grpc::Options {
            connections_max: limits.connections_max,
            memory: stores.memory.clone(),
            descriptors: descriptors.clone(),
            guest: stores.peer_port(index),
            ..grpc::Options::default()
        };
        servers.push(grpc::serve(rt, listener, service, options));
        addrs.push((index, shard, addr));
    }
    Ok((servers, addrs, wanted_by))
}

/// What each store found on its disk, and how long that took.
fn say_opened(rt: &Rt, stores: &Stores, began: Mono) {
    let took_ms = rt.now().since(began).as_millis() as u64;
    for shard in stores.shards.values() {
        let snapshot = shard.snapshot();
        tracing::info!(
            store = snapshot.store,
            regions = snapshot.groups.regions,
            log_bytes = snapshot.log.live_bytes,
            replayed_entries = snapshot.applied,
            took_ms,
            "store opened"
        );
    }
}

fn resp_config(
    config: &Config,
    limits: &Limits,
    plan: &Plan,
    addr: SocketAddr,
    (cursors, connections, board): (resp::Cursors, resp::Connections, Board),
    descriptors: Descriptors,
) -> resp::Config {
    resp::Config {
        password: config.requirepass.clone(),
        connections_max: limits.connections_max,
        pipeline_max: limits.pipeline_max,
        cursors,
        connections,
        board: Some(board),
        descriptors,
        facts: resp::Facts {
            version: env!("CARGO_PKG_VERSION").into(),
            port: addr.port(),
            cores: plan.cores,
            memory_bytes_max: limits.core_bytes * limits.cores as u64,
            run_id: format!("{:040x}", plan.identity.cluster),
            data_dir: plan.dir.display().to_string(),
        },
    }
}
