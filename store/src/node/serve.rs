//! What one data core of a node runs, from its first event to its last: it starts ([`start`]) with the root core around it, beats and
//! reports while it serves, and carries out the drain's orders.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::rt::chan::{Receiver, Sender};
use engine::rt::{Mono, Rt};

use super::core::{Fenced, Plan, Stores};
use super::drain::Order;
use super::handover::{self, HAND_OVER_MAX};
use super::locator::Locator;
use super::orders;
use super::pace::BeatPace;
use super::report::{Heart, Poster};
use super::root::{CoreWork, Event};
use super::start::{self, Around, Ports, Served, ServedStore, Until};
use super::state_host;
use crate::config::{Config, Limits};
use crate::control::{Ask, Beat, BeatAnswer, News, locate};
use crate::descriptors::Descriptors;
use crate::gateway::Locates;
use crate::plant::{Bug, planted};
use crate::region::system::fence::Fence;
use crate::shard::links::Ends;
use crate::shard::routes::Place;
use crate::wire::board::Board;
use crate::wire::peer::book::AddressBook;
use crate::wire::{grpc, resp};

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
        let Self {
            plan,
            config,
            limits,
            links,
            resp,
            places,
            orders,
            reports,
            answers,
            map,
            state,
            board,
            cursors,
            connections,
            descriptors,
            events,
            work,
        } = self;
        let root = RootSide { began: rt.now(), state, places, events: events.clone(), map };
        // The start may have failed elsewhere.
        let Some(core) = start::start(&rt, plan.clone(), links, Until::Settled, root).await? else {
            return Ok(());
        };
        let shared = (cursors, connections, board.clone());
        let ports = Ports {
            stores: plan.stores_of(rt.core()).map(|index| (index, config.store_addr(index))).collect(),
            grpc: grpc::Options {
                connections_max: limits.connections_max,
                descriptors: descriptors.clone(),
                own: limits.peer_connections_max / plan.identity.stores.max(1),
                ..grpc::Options::default()
            },
            resp,
            resp_config: resp_config(&config, &limits, &plan, resp, shared, descriptors),
        };
        let served = core.serve(&rt, ports)?;
        let stores = &core.stores;
        work.inspect(|work| work.begin(&rt, &core.gateway(), &stores.shards));
        let (keys, pace) =
            start_beats(&rt, &plan, &config, (&served.grpc.stores, &stores.book), reports).await?;
        rt.spawn(orders::follow(rt.clone(), answers, stores.shards.clone(), stores.book.clone(), pace));
        let seen = served.grpc.servers.clone();
        let poster = Poster {
            rt: rt.clone(),
            shards: stores.shards.values().cloned().collect(),
            fenced: stores.fenced.values().map(Fenced::snapshot).collect(),
            board,
            health: served
                .grpc
                .stores
                .iter()
                .map(|it| (plan.identity.store_id(it.index).0, it.health.clone()))
                .collect(),
            counters: served.resp_counters.clone(),
            keys,
            links: stores.links.clone(),
            dispatch: core.dispatch.clone(),
            connections_max: limits.connections_max,
        };
        rt.spawn(async move { poster.run(&seen).await });
        let serving = served.grpc.stores.iter().map(|store| (store.index, store.addr)).collect();
        say(&events, Event::Serving { stores: serving }).await;
        end(&rt, stores, served, &orders, &events).await;
        Ok(())
    }
}

/// The root core, as it lies around a core that starts.
struct RootSide {
    began: Mono,
    state: Option<StateEnd>,
    places: Receiver<Vec<Place>>,
    events: Sender<Event>,
    map: (Sender<locate::Question>, Receiver<locate::Answer>),
}

impl Around for RootSide {
    fn opened(&mut self, rt: &Rt, stores: &Stores) {
        let Some(StateEnd { asked, news, fence }) = self.state.take() else { return };
        if let Ok(shard) = stores.state_store() {
            shard.keep_fence(fence);
        }
        rt.spawn(state_host::serve(rt.clone(), stores.state_store(), asked));
        rt.spawn(state_host::watch(rt.clone(), stores.state_store(), news));
    }

    /// The root core hears how the stores stand, and hands out the routes once every core has said so.
    async fn places(&mut self, rt: &Rt, stores: &Stores) -> Result<Option<Vec<Place>>, String> {
        say_opened(rt, stores, self.began);
        let (fenced, serving) = stores.standing();
        let (places, opened) = (stores.places(), stores.opened());
        say(&self.events, Event::Opened { places, opened, serving, fenced }).await;
        Ok(self.places.recv().await)
    }

    fn locates(self, rt: &Rt, stores: &Stores) -> Option<Box<dyn Locates>> {
        let (questions, replies) = self.map;
        let locator = Locator::new(rt.core(), questions);
        rt.spawn(locator.clone().follow(replies, stores.book.clone()));
        Some(Box::new(locator))
    }
}

/// Carries out the drain: what is led here goes elsewhere, connections end, and the stores close.
async fn end(rt: &Rt, stores: &Stores, served: Served, orders: &Receiver<Order>, events: &Sender<Event>) {
    let core = rt.core();
    let finish = next_phase(orders, &served).await;
    if let Order::Finish(time_max) = finish {
        if planted(Bug::LinksClosedInDrain) {
            stores.links.close();
        }
        if planted(Bug::StoresClosedFirst) {
            stores.stop(time_max).await;
        }
        let began = rt.now();
        handover::hand_over(rt, &stores.shards, HAND_OVER_MAX.min(time_max / 2)).await;
        if !served.drain(rt, time_max.saturating_sub(rt.now().since(began))).await {
            tracing::warn!(core, "connections did not end in time");
        }
        say(events, Event::Done { core, order: finish }).await;
    }
    close(stores, finish, orders, events, core).await;
}

/// Waits for the first phase of the drain; health checks say from its announcement on that the node wants no more calls. A node that
/// is dropped without a drain gives no order, and no time either.
async fn next_phase(orders: &Receiver<Order>, served: &Served) -> Order {
    loop {
        let order = orders.recv().await.unwrap_or(Order::Finish(Duration::ZERO));
        served.announce();
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

/// Starts the core's beats, and returns where the number of its keys and the pace of its beats are kept. Clients are answered from the scheduler's map, so the
/// first beat is sent before they can ask.
async fn start_beats(
    rt: &Rt,
    plan: &Arc<Plan>,
    config: &Config,
    (addrs, book): (&[ServedStore], &Rc<AddressBook>),
    reports: Sender<Beat>,
) -> Result<(Rc<Cell<u64>>, Rc<BeatPace>), String> {
    let open = addrs.iter().filter_map(|it| Some((it.shard.clone()?, advertised(config, it.addr))));
    let heart = Heart::new(rt, plan, open, book.clone());
    let (keys, pace) = (heart.keys.clone(), heart.pace.clone());
    let beat = heart.beat().await;
    reports.send(beat).await.map_err(|_| "the scheduler shard has ended".to_owned())?;
    rt.spawn(async move { heart.run(reports).await });
    Ok((keys, pace))
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
