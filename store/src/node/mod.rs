//! The process: one executor per data core, one for the scheduler shard, and the thread that started them.
//!
//! ```text
//! start    lock the directory ─► identity ─► scheduler shard ─► every core opens its stores ─► IDENT counts the openings ─►
//!          routes to all cores
//!          ─► every region leads and has applied what it had acknowledged ─► listeners open ─► ready
//! drain    not ready ─► listeners close, connections finish ─► stores finish and close ─► executors end
//! ```
//!
//! A drain goes in phases over all cores ([`drain`]). A store that cannot be opened is fenced ([`core`]).
//!
//! No listener opens before every store can answer, so a client never meets a half-started node. The thread that starts a node
//! does no data work; it waits for words from the cores.

pub mod birth;
pub mod core;
mod drain;
pub mod examine;
pub mod identity;
pub mod listen;
pub mod movement;
pub mod report;
mod serve;
mod setup;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use engine::error::Fault;
use engine::rt::chan::{self, Sender};
use engine::rt::{CoreHandle, Cores};

use crate::config::{Config, Limits};
use crate::control::Beat;
use crate::descriptors::Descriptors;
use crate::shard::links::connect;
use crate::shard::routes::Place;
use crate::wire::board::Board;
use crate::wire::resp::Connections;
use drain::{ORDERS_MAX, Order};
use identity::Identity;
use movement::{Movement, Stalls};

/// A running node. Dropping it without [`Node::drain`] leaves its executors to the end of the process.
#[derive(Debug)]
pub struct Node {
    addresses: Addresses,
    identity: Identity,
    dir: PathBuf,
    board: Board,
    stalls: Stalls,
    cores: Cores,
    handles: Vec<CoreHandle<()>>,
    /// To each data core, and to the scheduler shard at the end.
    orders: Vec<Sender<Order>>,
    words: mpsc::Receiver<Word>,
    _lock: engine::rt::DirLock,
}

/// Where the node listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// PD and health.
    pub pd: SocketAddr,
    /// TiKV and health, per store.
    pub stores: Vec<SocketAddr>,
    /// RESP.
    pub resp: SocketAddr,
}

/// Why a node did not start, in one sentence that names the culprit and the remedy.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl From<Fault> for StartError {
    fn from(fault: Fault) -> Self {
        Self(fault.to_string())
    }
}

impl From<std::io::Error> for StartError {
    fn from(error: std::io::Error) -> Self {
        Self(format!("starting a core: {error}"))
    }
}

/// What the cores tell the starting thread.
enum Word {
    /// The scheduler shard serves; stores report to it here.
    Scheduler { addr: SocketAddr, reports: Sender<Beat>, next_id: u64 },
    /// A core has opened its stores: where their regions are, how often each has been opened, by number, how many serve, and why
    /// the others do not.
    Opened { places: Vec<Place>, opened: Vec<(usize, u64)>, serving: usize, fenced: Vec<String> },
    /// A core serves.
    Serving { resp: SocketAddr, stores: Vec<(usize, SocketAddr)> },
    /// A core cannot go on.
    Failed(String),
    /// A core has carried out the order of the current phase of the drain.
    Done(Order),
}

impl Node {
    /// Starts a node on `cpus`, one executor per entry, and returns once it serves.
    ///
    /// # Errors
    /// What is in the way: the directory, a port, the disk, the host.
    pub fn start(config: &Config, limits: &Limits, cpus: &[usize]) -> Result<Self, StartError> {
        let stalls = Stalls::new(limits.cores + 1);
        let cores = Cores::watched(stalls.watch())?;
        let opened = setup::open_directory(config, limits)?;
        let plan = Arc::new(setup::plan(config, limits, &opened));
        // The last slot is the scheduler shard's.
        let board = Board::new(plan.cores + 1);
        let (words_out, words) = mpsc::channel();
        let mut starting = Starting { words, opened: Vec::new(), places: Vec::new(), serving: Vec::new() };

        let (order_scheduler, orders_in) = chan::queue(ORDERS_MAX);
        let scheduler =
            serve::start_scheduler(&cores, config, &plan, words_out.clone(), orders_in, board.clone())?;
        let (pd, reports, next_id) = starting.scheduler()?;

        let (mut handles, mut orders, mut goes) = (Vec::new(), Vec::new(), Vec::new());
        // The kernel picks a port of 0 once; the other cores share what it picked.
        let resp = setup::reserve_resp(config)?;
        let connections = Connections::new(plan.cores);
        let descriptors = Descriptors::new(limits.node_connections_max);
        for (index, links) in connect(plan.cores).into_iter().enumerate() {
            let (go, places) = chan::queue(1);
            let (order, orders_in) = chan::queue(ORDERS_MAX);
            let core = serve::DataCore {
                plan: plan.clone(),
                config: config.clone(),
                limits: *limits,
                links,
                resp: resp.addr,
                places,
                orders: orders_in,
                reports: reports.clone(),
                board: board.clone(),
                cursors: opened.cursors.clone(),
                connections: connections.clone(),
                descriptors: descriptors.clone(),
                words: words_out.clone(),
            };
            handles.push(serve::start_data(&cores, index, cpus.get(index).copied(), core)?);
            orders.push(order);
            goes.push(go);
        }
        drop(words_out);
        let places = starting.places(plan.cores)?;
        setup::confirm(&opened, std::mem::take(&mut starting.opened), next_id)?;
        for go in &goes {
            // Each core waits for exactly this one message.
            let _ = go.try_send(places.clone());
        }
        let (resp_addr, stores) = starting.serving(plan.cores, plan.identity.stores)?;
        drop(resp);
        handles.push(scheduler);
        orders.push(order_scheduler);
        Ok(Self {
            addresses: Addresses { pd, stores, resp: resp_addr },
            identity: plan.identity.clone(),
            dir: plan.dir.clone(),
            board,
            stalls,
            cores,
            handles,
            orders,
            words: starting.words,
            _lock: opened.lock,
        })
    }

    /// Where the node listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Who the data directory belongs to.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cores' numbers.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// How often each core's beat task has run; a count that stands still is a stalled core.
    pub fn beats(&self) -> Vec<(usize, u64)> {
        self.cores.beats()
    }

    /// How the cores move, for threads that publish it.
    pub fn movement(&self) -> Movement {
        Movement { pulse: self.cores.pulse(), stalls: self.stalls.clone() }
    }

    /// The stores that serve nothing, because they have stopped after a fault or could not be opened.
    pub fn stopped_stores(&self) -> Vec<u64> {
        let reports = self.board.read();
        let stores = reports.iter().flat_map(|core| &core.stores);
        stores.filter(|store| store.health.failed).map(|store| store.store).collect()
    }
}

/// The starting thread's side of the conversation.
struct Starting {
    words: mpsc::Receiver<Word>,
    opened: Vec<(usize, u64)>,
    places: Vec<Place>,
    serving: Vec<Served>,
}

/// What one core serves.
struct Served {
    resp: SocketAddr,
    /// By number on the node.
    stores: Vec<(usize, SocketAddr)>,
}

impl Starting {
    fn next(&self) -> Result<Word, StartError> {
        match self.words.recv() {
            Ok(Word::Failed(why)) => Err(StartError(why)),
            Ok(word) => Ok(word),
            Err(_) => Err(StartError("a core ended before it served".into())),
        }
    }

    fn scheduler(&self) -> Result<(SocketAddr, Sender<Beat>, u64), StartError> {
        match self.next()? {
            Word::Scheduler { addr, reports, next_id } => Ok((addr, reports, next_id)),
            _ => unreachable!("only the scheduler shard has been started"),
        }
    }

    fn places(&mut self, cores: usize) -> Result<Vec<Place>, StartError> {
        let (mut serve, mut closed) = (0, Vec::new());
        for _ in 0..cores {
            match self.next()? {
                Word::Opened { places, opened, serving, fenced } => {
                    self.places.extend(places);
                    self.opened.extend(opened);
                    serve += serving;
                    closed.extend(fenced);
                }
                _ => unreachable!(
                    "a core opens its stores before it serves, and waits for the routes in between"
                ),
            }
        }
        if serve == 0 {
            return Err(StartError(format!("no store can serve: {}", closed.join("; "))));
        }
        Ok(std::mem::take(&mut self.places))
    }

    fn serving(&mut self, cores: usize, stores: usize) -> Result<(SocketAddr, Vec<SocketAddr>), StartError> {
        for _ in 0..cores {
            match self.next()? {
                Word::Serving { resp, stores } => self.serving.push(Served { resp, stores }),
                _ => unreachable!("a core that has its routes only has to serve"),
            }
        }
        let resp = self.serving[0].resp;
        let mut by_store: Vec<(usize, SocketAddr)> =
            self.serving.drain(..).flat_map(|served| served.stores).collect();
        by_store.sort_by_key(|(store, _)| *store);
        assert_eq!(by_store.len(), stores, "every store has a core");
        Ok((resp, by_store.into_iter().map(|(_, addr)| addr).collect()))
    }
}
