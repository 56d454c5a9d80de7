//! The root core: it starts a node, hosts the scheduler shard while the node serves, and carries out the drain.
//!
//! ```text
//! start    lock the directory ─► identity ─► every core opens its stores, and every region there leads and has applied what it had
//!          acknowledged ─► the scheduler shard reads its state from the first store ─► IDENT counts the openings ─► routes to all
//!          cores ─► listeners open ─► first beats ─► the scheduler shard serves ─► said to whoever started it
//! drain    phases over all cores ([`drain`](super::drain)), the scheduler shard before the stores
//! ```
//!
//! All of it is async code over the seam, so a whole node also starts, serves and stops in the simulator: there the test waits
//! where in production a thread does ([`Node`](super::Node)). No listener opens before every store can answer, so a client never
//! meets a half-started node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::rt::chan::{self, Receiver, Sender};
use engine::rt::{CoreError, CoreHandle, CoreOptions, DirLock, Rt};

use super::contacts::Keeper;
use super::core::{Plan, SYSTEM_STORE};
use super::drain::{GRACE, ORDERS_MAX, Order};
use super::identity::Identity;
use super::scheduler_shard::{self, SchedulerShard, StateEnds};
use super::serve::{DataCore, StateEnd};
use super::{Addresses, StartError, confirm, setup};
use crate::config::{Config, Limits};
use crate::control;
use crate::descriptors::Descriptors;
use crate::gateway::Gateway;
use crate::region::lineage::Lineage;
use crate::region::system::fence::Fence;
use crate::shard::Shard;
use crate::shard::links::connect;
use crate::shard::routes::Place;
use crate::wire::board::Board;
use crate::wire::pd::ask::{self, Asker};
use crate::wire::peer::open::Speaker;
use crate::wire::resp::Connections;

/// Work of the program that a node is part of, begun on every data core once the core can answer, with a gateway to the whole
/// node and the core's own stores. It ends with the core.
#[derive(Clone)]
pub struct CoreWork(Arc<BeginWork>);

type BeginWork = dyn Fn(Rt, Gateway, Shards) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync;

/// The stores of a core that are open, by number on the node.
pub type Shards = BTreeMap<usize, Shard>;

impl CoreWork {
    /// Work that `begin` makes for each core.
    pub fn new(
        begin: impl Fn(Rt, Gateway) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync + 'static,
    ) -> Self {
        Self::with_stores(move |rt, gateway, _| begin(rt, gateway))
    }

    /// Work that looks at the stores of each core from inside.
    pub fn with_stores(
        begin: impl Fn(Rt, Gateway, Shards) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(begin))
    }

    /// Begins the work on the core of `rt`.
    pub(super) fn begin(&self, rt: &Rt, gateway: &Gateway, shards: &Shards) {
        rt.spawn((self.0)(rt.clone(), gateway.clone(), shards.clone()));
    }
}

impl fmt::Debug for CoreWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CoreWork")
    }
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the operator said.
    pub config: Config,
    /// What follows from it and from the machine.
    pub limits: Limits,
    /// One CPU per data core; cores without one are placed by the kernel.
    pub cpus: Vec<usize>,
    /// What else the data cores do.
    pub work: Option<CoreWork>,
    /// Members of the cluster that a node without an identity joins; none if it begins one.
    pub join: Vec<SocketAddr>,
}

impl Setup {
    /// The number of the root core: the one after those that may have data.
    pub fn root_core(&self) -> usize {
        self.limits.cores
    }

    /// How the root core is started: it needs next to no memory for IO and no CPU of its own.
    pub fn root_options() -> CoreOptions {
        CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() }
    }
}

/// What is asked of a node that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRequest {
    /// Let health checks say that the node wants no more calls, so that clients and load balancers go elsewhere. It serves on.
    AnnounceDrain,
    /// Let requests finish within this time, and stop.
    Drain(Duration),
}

/// What is known of a node once it serves.
#[derive(Clone, Debug)]
pub struct Started {
    /// Where it listens.
    pub addresses: Addresses,
    /// Who the data directory belongs to.
    pub identity: Identity,
    /// The data directory.
    pub dir: PathBuf,
    /// The cores' numbers.
    pub board: Board,
    /// Asks the scheduler, wherever it is.
    pub asker: Asker,
}

/// What the data cores report to the root core.
pub(super) enum Event {
    /// A core has opened its stores: where their regions are, how often each has been opened, by number, how many serve, and why
    /// the others do not.
    Opened { places: Vec<Place>, opened: Vec<(usize, u64)>, serving: usize, fenced: Vec<String> },
    /// A core serves these stores, by number.
    Serving { stores: Vec<(usize, SocketAddr)> },
    /// A core cannot go on.
    Failed(String),
    /// A core has carried out the order of the current phase of the drain.
    Done { core: usize, order: Order },
    /// A core has ended.
    Ended { core: usize, how: Result<(), CoreError> },
}

/// A node that serves, on its root core.
pub(super) struct Serving {
    pub(super) scheduler: SchedulerShard,
    pub(super) cores: DataCores,
    plan: Arc<Plan>,
    board: Board,
    asker: Asker,
    resp: SocketAddr,
    stores: Vec<SocketAddr>,
    _lock: Rc<DirLock>,
}

/// The root core's side of the conversation with the data cores.
pub(super) struct DataCores {
    /// To each core.
    pub(super) orders: Vec<Sender<Order>>,
    pub(super) events: Receiver<Event>,
    /// Cores that have ended, by number.
    pub(super) ended: Vec<bool>,
}

/// Runs a node from its start to the end of its drain: `said` hears once how the start went, `requests` says when it is to end. If
/// the sender of `requests` is dropped, the node stops at once and waits for no request.
pub async fn run(
    rt: Rt,
    setup: Setup,
    said: impl FnOnce(Result<Started, StartError>),
    requests: Receiver<NodeRequest>,
) {
    match start(&rt, setup).await {
        Ok(serving) => {
            said(Ok(serving.started()));
            let deadline = loop {
                match requests.recv().await {
                    Some(NodeRequest::AnnounceDrain) => serving.announce(),
                    Some(NodeRequest::Drain(deadline)) => break deadline,
                    None => break Duration::ZERO,
                }
            };
            serving.drain(&rt, deadline).await;
        }
        Err(why) => said(Err(why)),
    }
}

async fn start(rt: &Rt, Setup { config, limits, cpus, work, join }: Setup) -> Result<Serving, StartError> {
    let opened = setup::open_directory(rt, &config, &limits, &join).await?;
    let plan = Arc::new(setup::plan(&config, &limits, &opened));
    // The last slot is the scheduler shard's.
    let board = Board::new(plan.cores + 1);
    let scheduler = scheduler_shard::bind(rt, &config)?;
    let contacts = Keeper::start(rt, &opened.dir, opened.contacts.clone());
    let (reports, beats) = control::beats();
    let (answer_to, answers): (Vec<_>, Vec<_>) = (0..plan.cores).map(|_| control::answers()).unzip();
    let (ask, questions) = control::locate::questions();
    let (reply_to, replies): (Vec<_>, Vec<_>) = (0..plan.cores).map(|_| control::locate::replies()).unzip();
    let ((asks, asked), (say_news, news), fence) =
        (control::link(), control::news(), Arc::new(Fence::default()));
    let mut state = Some(StateEnd { asked, news: say_news, fence: fence.clone() });
    // A port of 0 is picked once; the cores share what was picked.
    let resp = setup::reserve_resp(rt, &config)?;
    let connections = Connections::new(plan.cores);
    let descriptors = Descriptors::new(limits.node_connections_max);
    // Room for everything that a core says in its life.
    let (say, events) = chan::queue(8 * plan.cores);
    let mut cores = DataCores { orders: Vec::new(), events, ended: vec![false; plan.cores] };
    let mut goes = Vec::new();
    let (asker, for_threads) = ask::questions();
    let (mut answers, mut replies) = (answers.into_iter(), replies.into_iter());
    for (index, links) in connect(plan.cores).into_iter().enumerate() {
        let (go, places) = chan::queue(1);
        let (order, orders) = chan::queue(ORDERS_MAX);
        let core = DataCore {
            plan: plan.clone(),
            config: config.clone(),
            limits,
            links,
            resp: resp.addr,
            places,
            orders,
            reports: reports.clone(),
            answers: answers.next().expect("there is one per core"),
            map: (ask.clone(), replies.next().expect("there is one per core")),
            state: if index == plan.core_of(SYSTEM_STORE) { state.take() } else { None },
            board: board.clone(),
            cursors: opened.cursors.clone(),
            connections: connections.clone(),
            descriptors: descriptors.clone(),
            events: say.clone(),
            work: work.clone(),
        };
        let options = CoreOptions { cpu: cpus.get(index).copied(), ..CoreOptions::default() };
        watch(rt, rt.add_core(index, &options, |rt| core.main(rt)), say.clone());
        cores.orders.push(order);
        goes.push(go);
    }
    drop((say, reports, ask));
    let begun = async {
        let (places, counts) = cores.opened().await?;
        let speaker = speaker(&plan, &counts);
        let (map, ends) = ((questions, reply_to), StateEnds { asks, news, fence });
        let beats = (beats, answer_to, contacts);
        let place = scheduler.open(rt, (&config, &plan, &board), ends, speaker, beats, map).await?;
        confirm::confirm(rt, &opened, counts, place.next_id, &plan.shard.openings).await?;
        publish(&goes, &places);
        let stores = cores.serving(plan.identity.stores).await?;
        let shard = place.serve(rt, (&config, &plan), (board.clone(), for_threads), &stores).await?;
        Ok((stores, shard))
    };
    match begun.await {
        Ok((stores, scheduler)) => {
            Ok(Serving { scheduler, cores, board, asker, resp: resp.addr, stores, plan, _lock: opened.lock })
        }
        Err(why) => {
            // Those that wait for their routes or for an order end now; another start finds nothing of them.
            drop(goes);
            cores.orders.clear();
            cores.all_ended(rt, GRACE).await;
            Err(why)
        }
    }
}

/// Who the node is to members of its cluster: the first of its stores that has opened, and how often it has.
fn speaker(plan: &Plan, opened: &[(usize, u64)]) -> Option<Speaker> {
    opened.first().map(|(index, opened)| Speaker {
        secret: plan.secret,
        cluster: plan.identity.cluster,
        store: plan.identity.store_id(*index),
        incarnation: *opened,
        // It only asks who is there. What the stores say to each other has it.
        lineage: Lineage::default(),
    })
}

/// Sends every core the routes of all stores of the node.
fn publish(cores: &[Sender<Vec<Place>>], places: &[Place]) {
    for core in cores {
        // A core that has ended meanwhile does not listen, and is about to say why.
        if core.try_send(places.to_vec()).is_err() {
            tracing::warn!("a core has ended before it got its routes");
        }
    }
}

/// Reports how a core ends.
fn watch(rt: &Rt, handle: CoreHandle<()>, say: Sender<Event>) {
    let watching = rt.clone();
    rt.spawn(async move {
        let core = handle.core();
        let how = handle.ended(&watching).await;
        if let Err(error) = &how {
            tracing::error!(core, %error, "a core ended badly");
        }
        if say.send(Event::Ended { core, how }).await.is_err() {
            tracing::warn!(core, "a core ended after the root core had stopped waiting for it");
        }
    });
}

impl Serving {
    fn started(&self) -> Started {
        let addresses = Addresses { pd: self.scheduler.addr, stores: self.stores.clone(), resp: self.resp };
        Started {
            addresses,
            identity: self.plan.identity.clone(),
            dir: self.plan.dir.clone(),
            board: self.board.clone(),
            asker: self.asker.clone(),
        }
    }
}

impl DataCores {
    /// The next event of the start; a core that ends or fails ends the start.
    async fn next(&mut self) -> Result<Event, StartError> {
        match self.events.recv().await {
            Some(Event::Failed(why)) => Err(StartError(why)),
            Some(Event::Ended { core, how }) => {
                self.ended[core] = true;
                Err(StartError(match how {
                    Err(error) => format!("{error}: ringkeep doctor says what the host allows"),
                    Ok(()) => format!("core {core} ended before it served"),
                }))
            }
            Some(event) => Ok(event),
            None => Err(StartError("every core ended before it served".into())),
        }
    }

    /// Waits until every core has opened its stores; returns where the regions are and how often each store has been opened.
    async fn opened(&mut self) -> Result<(Vec<Place>, Vec<(usize, u64)>), StartError> {
        let (mut all_places, mut counts, mut serve, mut closed) = (Vec::new(), Vec::new(), 0, Vec::new());
        for _ in 0..self.orders.len() {
            match self.next().await? {
                Event::Opened { places, opened, serving, fenced } => {
                    all_places.extend(places);
                    counts.extend(opened);
                    serve += serving;
                    closed.extend(fenced);
                }
                Event::Serving { .. } | Event::Failed(_) | Event::Done { .. } | Event::Ended { .. } => {
                    unreachable!(
                        "a core opens its stores before it serves, and waits for the routes in between"
                    )
                }
            }
        }
        if serve == 0 {
            return Err(StartError(format!("no store can serve: {}", closed.join("; "))));
        }
        Ok((all_places, counts))
    }

    /// Waits until every core serves; returns the address of every store.
    async fn serving(&mut self, stores: usize) -> Result<Vec<SocketAddr>, StartError> {
        let mut by_store = Vec::new();
        for _ in 0..self.orders.len() {
            match self.next().await? {
                Event::Serving { stores } => by_store.extend(stores),
                Event::Opened { .. } | Event::Failed(_) | Event::Done { .. } | Event::Ended { .. } => {
                    unreachable!("a core that has its routes only has to serve")
                }
            }
        }
        by_store.sort_by_key(|(store, _)| *store);
        assert_eq!(by_store.len(), stores, "every store has a core");
        Ok(by_store.into_iter().map(|(_, addr)| addr).collect())
    }

    /// Waits until every core has ended, but no longer than `limit`. Whether all have.
    pub(super) async fn all_ended(&mut self, rt: &Rt, limit: Duration) -> bool {
        let Self { events, ended, .. } = self;
        let all = async {
            while ended.iter().any(|ended| !ended) {
                match events.recv().await {
                    Some(Event::Ended { core, how: _ }) => ended[core] = true,
                    Some(Event::Failed(why)) => tracing::error!(why, "a core ended by itself"),
                    // Of a phase that is over.
                    Some(Event::Opened { .. } | Event::Serving { .. } | Event::Done { .. }) => {}
                    None => break,
                }
            }
        };
        rt.timeout(limit, all).await.is_some()
    }
}
