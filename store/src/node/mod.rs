//! The process: one executor per data core, the root core, and the thread that started them.
//!
//! Everything that a node does from its start to its drain is async code over the seam, on its root core ([`root`]) and its data cores
//! ([`start`], [`serve`]); it runs in the simulator as it does in production. What needs real threads is [`Node`], the side of `main`: it
//! makes the first core, blocks until the node serves, and bounds the drain from outside, because a root core whose disk hangs
//! cannot. Signals, the status port and the log's writer are threads of the binary (crate `ops`).
//!
//! A drain goes in phases over all cores ([`drain`]). A store that cannot be opened is fenced ([`core`]).

pub mod bootstrap;
mod confirm;
pub mod contacts;
pub mod core;
mod drain;
pub mod examine;
mod handover;
mod hosting;
pub mod identity;
mod join;
pub mod listen;
mod locator;
pub mod movement;
mod orders;
mod pace;
mod rates;
pub mod report;
pub mod root;
mod scheduler_shard;
mod serve;
mod setup;
mod siblings;
mod standing;
pub mod start;
pub mod state_host;
mod vouchers;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use engine::error::Fault;
use engine::rt::chan::{self, Sender, TrySend};
use engine::rt::{CoreHandle, Cores};

use crate::config::{Config, Limits};
use crate::wire::board::Board;
use crate::wire::pd::ask::Asker;
use drain::GRACE;
use identity::Identity;
use movement::{Movement, Stalls};
pub use root::{CoreWork, NodeRequest, Setup, Shards, Started, run};
pub use standing::{NONE_IN_USE, OUT_OF_USE};

/// A running node, as the thread that started it sees it. Dropping it without [`Node::drain`] leaves its executors to the end of
/// the process.
#[derive(Debug)]
pub struct Node {
    started: Started,
    stalls: Stalls,
    cores: Cores,
    root: CoreHandle<()>,
    requests: Sender<NodeRequest>,
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

impl Node {
    /// Starts a node on `cpus`, one executor per entry, and returns once it serves.
    ///
    /// # Errors
    /// What is in the way: the directory, a port, the disk, the host.
    pub fn start(config: &Config, limits: &Limits, cpus: &[usize]) -> Result<Self, StartError> {
        let (config, limits, cpus) = (config.clone(), *limits, cpus.to_vec());
        Self::start_with(Setup { config, limits, cpus, work: None, join: Vec::new() })
    }

    /// As [`Node::start`].
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_with(setup: Setup) -> Result<Self, StartError> {
        let stalls = Stalls::new(setup.root_core() + 1);
        let cores = Cores::watched(stalls.watch())?;
        let (said, heard) = mpsc::channel();
        let (requests, requests_in) = chan::queue(2);
        let say = move |how| {
            if said.send(how).is_err() {
                tracing::error!(
                    "the thread that started the node has ended before it heard how the start went"
                );
            }
        };
        let root = cores
            .start(setup.root_core(), &Setup::root_options(), move |rt| run(rt, setup, say, requests_in))?;
        match heard.recv() {
            Ok(Ok(started)) => Ok(Self { started, stalls, cores, root, requests }),
            Ok(Err(why)) => {
                // It has nothing left to do; if its disk hangs, it ends with the process.
                if let Some(Err(error)) = root.join_within(GRACE) {
                    tracing::error!(%error, "the root core ended badly");
                }
                Err(why)
            }
            Err(mpsc::RecvError) => Err(StartError(match root.join() {
                Err(error) => format!("{error}: ringkeep doctor says what the host allows"),
                Ok(()) => "the root core ended before the node served".into(),
            })),
        }
    }

    /// Lets health checks say that the node wants no more calls, so that clients and load balancers go elsewhere before
    /// [`Node::drain`]. It serves on.
    pub fn announce_drain(&self) {
        match self.requests.try_send(NodeRequest::AnnounceDrain) {
            Ok(()) => {}
            Err(TrySend::Full(_) | TrySend::Closed(_)) => {
                tracing::error!("the root core has ended by itself");
            }
        }
    }

    /// Lets requests finish and stops, within about `deadline`. What was acknowledged is on disk either way.
    pub fn drain(self, deadline: Duration) {
        let Self { requests, root, .. } = self;
        match requests.try_send(NodeRequest::Drain(deadline)) {
            Ok(()) => {}
            Err(TrySend::Full(_) | TrySend::Closed(_)) => {
                tracing::error!("the root core has ended by itself")
            }
        }
        match root.join_within(deadline + 3 * GRACE) {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::error!(%error, "the root core ended badly"),
            None => tracing::warn!("the node did not stop in time"),
        }
    }

    /// Where the node listens.
    pub fn addresses(&self) -> &Addresses {
        &self.started.addresses
    }

    /// Who the data directory belongs to.
    pub fn identity(&self) -> &Identity {
        &self.started.identity
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.started.dir
    }

    /// The cores' numbers.
    pub fn board(&self) -> Board {
        self.started.board.clone()
    }

    /// Asks the scheduler, wherever it is.
    pub fn asker(&self) -> Asker {
        self.started.asker.clone()
    }

    /// How often each core's beat task has run; a count that does not change is a stalled core.
    pub fn beats(&self) -> Vec<(usize, u64)> {
        self.cores.beats()
    }

    /// How the cores move, for threads that publish it.
    pub fn movement(&self) -> Movement {
        Movement { pulse: self.cores.pulse(), stalls: self.stalls.clone() }
    }

    /// The stores that serve nothing, because they have stopped after a fault or could not be opened.
    pub fn stopped_stores(&self) -> Vec<u64> {
        let reports = self.started.board.read();
        let stores = reports.iter().flat_map(|core| &core.stores);
        stores.filter(|store| store.health.failed).map(|store| store.store).collect()
    }
}
