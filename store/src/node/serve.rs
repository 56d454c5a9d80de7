//! What runs on the executors: the scheduler shard and the data cores, from their first word to their last.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use engine::rt::chan::{Receiver, Sender};
use engine::rt::local::Bell;
use engine::rt::{CoreHandle, CoreOptions, Cores};
use engine::rt::{ListenOptions, Mono, Rt};
use futures_util::future::{join, join_all};

use super::core::{self, Fenced, Plan, Stores};
use super::drain::Order;
use super::listen::CannotListen;
use super::report::{Heart, Poster, REPORT_EVERY};
use super::{StartError, Word};
use crate::config::{Config, Limits};
use crate::control::{Beat, Control, Member};
use crate::descriptors::Descriptors;
use crate::gateway::Dispatch;
use crate::shard::Shard;
use crate::shard::links::Ends;
use crate::shard::routes::Place;
use crate::wire::board::{Board, CoreReport};
use crate::wire::health::Health;
use crate::wire::pd::Pd;
use crate::wire::tikv::Tikv;
use crate::wire::{grpc, resp};

/// How long sessions that have been told to end may take to do so.
const SESSIONS_END: Duration = Duration::from_millis(500);

/// Starts the scheduler shard.
pub(super) fn start_scheduler(
    cores: &Cores,
    config: &Config,
    plan: &Arc<Plan>,
    words: mpsc::Sender<Word>,
    orders: Receiver<Order>,
    board: Board,
) -> Result<CoreHandle<()>, StartError> {
    let (config, plan) = (config.clone(), plan.clone());
    // Beside the data cores, not on one of them: it waits most of the time.
    let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
    let handle = cores.start(plan.cores, &options, move |rt| async move {
        if let Err(why) = schedule(&rt, &config, &plan, &words, orders, board).await {
            let _ = words.send(Word::Failed(why));
        }
    })?;
    Ok(handle)
}

async fn schedule(
    rt: &Rt,
    config: &Config,
    plan: &Plan,
    words: &mpsc::Sender<Word>,
    orders: Receiver<Order>,
    board: Board,
) -> Result<(), String> {
    let listener = rt.listen(config.pd_addr(), ListenOptions::default()).map_err(|error| {
        let addr = config.pd_addr();
        CannotListen { what: "PD", addr, port_key: "base_port", error: &error }.to_string()
    })?;
    let addr = listener.local_addr().map_err(|error| error.to_string())?;
    let member = Member {
        name: format!("ringkeep-{}", plan.identity.node),
        member_id: plan.identity.node,
        client_urls: vec![format!("http://{}", advertised(config, addr))],
        cluster_id: plan.identity.cluster,
        first_free_id: super::birth::first_free_id(&plan.identity),
        next_id_min: plan.ids,
    };
    let dir = plan.dir.join("scheduler");
    rt.create_dir_all(&dir).await.map_err(|error| format!("{}: {error}", dir.display()))?;
    let control = Control::open(rt, &dir, member).await.map_err(|error| error.to_string())?;
    // Each start takes an id, so that a copy of the state from before it is known by its fewer ids. On a full disk the ids of
    // an earlier start still tell.
    if let Err(denied) = control.alloc_ids(1).await {
        tracing::warn!(reason = %denied, "the scheduler's state is not renewed");
    }
    let next_id = control.next_id();
    let reports = control.inbox();
    let health = Health::default();
    let options = grpc::Options::default();
    let connections_max = options.connections_max as u64;
    let server = Rc::new(grpc::serve(rt, listener, Pd::new(control, health.clone()), options));
    // Detached: it ends with the core.
    drop(rt.spawn(post_scheduler(rt.clone(), server.clone(), board, connections_max)));
    let _ = words.send(Word::Scheduler { addr, reports, next_id });
    // Stores still tell of themselves while they finish, so the scheduler shard goes last.
    while let Some(order) = orders.recv().await {
        match order {
            Order::Announce => health.set_serving(false),
            Order::Finish(_) => drop(words.send(Word::Done(order))),
            Order::Close(patience) => {
                health.set_serving(false);
                server.drain(patience).await;
                let _ = words.send(Word::Done(order));
                break;
            }
        }
    }
    Ok(())
}

/// Leaves copies of the scheduler shard's numbers on the board.
async fn post_scheduler(rt: Rt, server: Rc<grpc::Handle>, board: Board, connections_max: u64) {
    loop {
        board.post(CoreReport {
            core: rt.core(),
            grpc: server.stats(),
            grpc_requests: server.ended(),
            grpc_connections_max: connections_max,
            busy: rt.cpu_clock().read().unwrap_or_default(),
            ..CoreReport::default()
        });
        rt.sleep(REPORT_EVERY).await;
    }
}

/// The host that clients are told to dial, with the port that is really bound.
fn advertised(config: &Config, bound: SocketAddr) -> String {
    match &config.advertise {
        Some(host) => format!("{host}:{}", bound.port()),
        None => bound.to_string(),
    }
}

/// Says that a core never came to run: the runtime drops what it should have run when it cannot pin the thread or make a ring.
struct Lost {
    core: usize,
    words: Option<mpsc::Sender<Word>>,
}

impl Lost {
    /// The core runs.
    fn runs(mut self) {
        self.words = None;
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        let Some(words) = self.words.take() else { return };
        let why = format!(
            "core {} could not be started: the host forbids pinning it (sched_setaffinity) or its rings (io_uring, locked \
             memory): ringkeep doctor says which",
            self.core
        );
        // The starting thread has given up already if it does not listen.
        let _ = words.send(Word::Failed(why));
    }
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
    pub(super) board: Board,
    pub(super) cursors: resp::Cursors,
    pub(super) connections: resp::Connections,
    pub(super) descriptors: Descriptors,
    pub(super) words: mpsc::Sender<Word>,
}

/// Starts a data core.
pub(super) fn start_data(
    cores: &Cores,
    index: usize,
    cpu: Option<usize>,
    core: DataCore,
) -> Result<CoreHandle<()>, StartError> {
    let options = CoreOptions { cpu, ..CoreOptions::default() };
    let lost = Lost { core: index, words: Some(core.words.clone()) };
    let handle = cores.start(index, &options, move |rt| async move {
        // From here on the core speaks for itself.
        lost.runs();
        let words = core.words.clone();
        if let Err(why) = core.run(rt).await {
            let _ = words.send(Word::Failed(why));
        }
    })?;
    Ok(handle)
}

impl DataCore {
    async fn run(self, rt: Rt) -> Result<(), String> {
        let began = rt.now();
        let stores = core::open(&rt, &self.plan, &self.links).await.map_err(|fault| fault.to_string())?;
        // A store that stops meanwhile has said so, and those that do not go on.
        let _ = stores.settle(&rt).await;
        say_opened(&rt, &stores, began);
        let (fenced, serving) = stores.standing();
        let (places, opened) = (stores.places(), stores.opened());
        let _ = self.words.send(Word::Opened { places, opened, serving, fenced });
        let Some(places) = self.places.recv().await else { return Ok(()) };
        let Self {
            plan,
            config,
            limits,
            links,
            resp: resp_addr,
            orders,
            reports,
            board,
            cursors,
            connections,
            descriptors,
            words,
            ..
        } = self;
        let dispatch = stores.join(&rt, &plan, places, links);

        let (servers, addrs, health) =
            serve_stores(&rt, &plan, (&config, &limits), &stores, &dispatch, &descriptors)?;
        let counters = Rc::new(resp::Counters::default());
        let stopping = Rc::new((Bell::default(), Cell::new(Duration::ZERO)));
        let resp_config = resp_config(
            &config,
            &limits,
            &plan,
            resp_addr,
            (cursors, connections, board.clone()),
            descriptors,
        );
        let listener = rt
            .listen(resp_addr, ListenOptions { share_port: true, ..ListenOptions::default() })
            .map_err(|error| {
            CannotListen { what: "RESP", addr: resp_addr, port_key: "resp_port", error: &error }.to_string()
        })?;
        let bell = stopping.clone();
        let home = stores.shards.keys().copied().min().unwrap_or(0);
        let gateway = Stores::gateway(&dispatch, home);
        let (serving_rt, serving_counters) = (rt.clone(), counters.clone());
        let resp_server = rt.spawn(async move {
            resp::serve(serving_rt, listener, gateway, resp_config, serving_counters, async move {
                bell.0.wait().await;
                bell.1.get()
            })
            .await;
        });
        let told = addrs.iter().map(|(index, _, addr)| (*index, *addr)).collect();
        let keys = start_beats(&rt, &plan, &config, &addrs, reports).await?;
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
            connections_max: limits.connections_max,
        };
        rt.spawn(async move { poster.run(&seen).await });
        let _ = words.send(Word::Serving { resp: resp_addr, stores: told });

        // A node that is dropped without a drain gives no order, and no time either.
        let mut finish = orders.recv().await.unwrap_or(Order::Finish(Duration::ZERO));
        if finish == Order::Announce {
            health.iter().for_each(|health| health.set_serving(false));
            finish = orders.recv().await.unwrap_or(Order::Finish(Duration::ZERO));
        }
        if let Order::Finish(patience) = finish {
            health.iter().for_each(|health| health.set_serving(false));
            stopping.1.set(patience);
            stopping.0.ring();
            let servers = servers.take();
            let drained = join_all(servers.iter().map(|server| server.drain(patience)));
            // Sessions that are told to end do so at once, unless the core is very busy.
            let finished = rt.timeout(patience + SESSIONS_END, join(resp_server, drained));
            if finished.await.is_none() {
                tracing::warn!(core = rt.core(), "connections did not end in time");
            }
            let _ = words.send(Word::Done(finish));
        }
        // Connections of other cores may still wait for the stores here, so these close when all cores have finished.
        let close = match finish {
            Order::Announce | Order::Finish(_) => orders.recv().await.unwrap_or(Order::Close(Duration::ZERO)),
            Order::Close(_) => finish,
        };
        if let Order::Close(patience) = close {
            stores.stop(patience).await;
        }
        let _ = words.send(Word::Done(close));
        Ok(())
    }
}

/// One store of the core: its number, itself unless it is fenced, and where it is served.
type ServedStore = (usize, Option<Shard>, SocketAddr);

/// The servers of all stores of the core, where each store is served, and what each says to health checks.
type ServedStores = (Vec<grpc::Handle>, Vec<ServedStore>, Vec<Health>);

/// Starts the core's beats, and returns where the number of its keys is kept. Clients are answered from the scheduler's map, so the
/// first beat is sent before they can ask.
async fn start_beats(
    rt: &Rt,
    plan: &Arc<Plan>,
    config: &Config,
    addrs: &[ServedStore],
    reports: Sender<Beat>,
) -> Result<Rc<Cell<u64>>, String> {
    let open = addrs.iter().filter_map(|(_, shard, addr)| Some((shard.clone()?, advertised(config, *addr))));
    let heart = Heart::new(rt, plan, open);
    let keys = heart.keys.clone();
    let beat = heart.beat().await;
    reports.send(beat).await.map_err(|_| "the scheduler shard has ended".to_owned())?;
    rt.spawn(async move { heart.run(reports).await });
    Ok(keys)
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
        let health = Health::default();
        let stopped = health.clone();
        match &shard {
            Some(shard) => shard.on_stop(move || stopped.set_serving(false)),
            // A fenced store answers, so that clients are told why, but wants no calls.
            None => stopped.set_serving(false),
        }
        wanted_by.push(health.clone());
        let service = Tikv::new(rt, Stores::gateway(dispatch, index), id.0, health);
        let options = grpc::Options {
            connections_max: limits.connections_max,
            memory: stores.memory.clone(),
            descriptors: descriptors.clone(),
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
            regions = snapshot.regions,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_never_runs_is_heard_of() {
        let (words, heard) = mpsc::channel();
        Lost { core: 3, words: Some(words.clone()) }.runs();
        drop(Lost { core: 4, words: Some(words) });
        let Ok(Word::Failed(why)) = heard.recv() else { panic!("the lost core says so") };
        assert!(why.contains("core 4") && why.contains("sched_setaffinity"), "{why}");
        assert!(heard.recv().is_err(), "the core that ran says nothing");
    }
}
