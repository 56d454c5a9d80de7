//! The scheduler's shard of a node: the map that clients ask, the ids and the timestamps.
//!
//! It lives on a core of its own, beside the data path. Stores report to it through a queue ([`Placement::inbox`]); clients ask it over
//! gRPC ([`Placement::serve_pd`]). For now one node hosts the whole map.
//!
//! What holds: ids and timestamps are given out only below a bound that is already on disk, so neither is ever given out twice, whatever
//! crashes; the cluster id is chosen once; the GC safe point never falls. The map itself is soft and is built anew from reports after a
//! restart.
//!
//! Not done here, on purpose: policies (crate `scheduler`), replication of this state over several nodes.

mod durable;
mod map;
mod report;
pub mod tso;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::path::Path;
use std::rc::Rc;

use engine::rt::chan::{self, Sender};
use engine::rt::{Listener, Rt};

use self::durable::{Durable, Numbers};
use self::map::Map;
pub use self::report::{RegionReport, Report, StoreReport, StoreStats};
use self::tso::{NoTimestamp, Oracle, Timestamp};
use crate::wire::grpc;
use crate::wire::health::Health;
use crate::wire::pd::Pd;

/// Ids that one save covers.
const ID_RANGE: u64 = 1000;
/// Most ids given out by one call.
const IDS_MAX: u64 = 100_000;
/// Reports that may wait; a store that finds the queue full reports again later anyway.
const INBOX_BOUND: usize = 4096;
/// Reports taken between two looks at the clock.
const REPORTS_PER_TURN: usize = 64;

/// Who placement says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name of this member.
    pub name: String,
    /// Its id among the members, never 0.
    pub member_id: u64,
    /// Where clients reach it, with scheme: `http://127.0.0.1:2379`. At least one.
    pub client_urls: Vec<String>,
    /// Replicas that a region shall have.
    pub replicas: u32,
    /// The cluster that the node belongs to, never 0. Settled when the directory is new.
    pub cluster_id: u64,
    /// Ids below this one are taken by what the node was born with.
    pub first_free_id: u64,
}

/// Why placement does not give what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The numbers cannot be saved, so nothing may be given out.
    NotSaved(String),
    /// None or too many were asked for.
    BadCount,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::NotSaved(why) => {
                write!(f, "the bound could not be saved ({why}); free or repair the disk")
            }
            Denied::BadCount => {
                write!(f, "the count is zero or more than can be given at once; ask for fewer")
            }
        }
    }
}

impl std::error::Error for Denied {}

/// The scheduler's shard. Cheap to clone; stays on its core.
#[derive(Clone, Debug)]
pub struct Placement(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    rt: Rt,
    identity: Identity,
    durable: Rc<Durable>,
    map: RefCell<Map>,
    oracle: RefCell<Oracle>,
    extending: Cell<bool>,
    next_id: Cell<u64>,
    refused_reports: Cell<u64>,
}

impl Placement {
    /// Opens the numbers in `dir`, or begins a cluster there.
    ///
    /// # Errors
    /// The directory cannot be written, or its file is damaged; the error names the file.
    pub async fn open(rt: &Rt, dir: &Path, identity: Identity) -> io::Result<Self> {
        assert!(
            identity.member_id != 0 && identity.cluster_id != 0 && !identity.client_urls.is_empty(),
            "clients need a member to talk to"
        );
        let durable = Durable::open(rt, dir, identity.cluster_id, identity.first_free_id).await?;
        let saved = durable.saved();
        Ok(Self(Rc::new(Inner {
            rt: rt.clone(),
            identity,
            durable,
            map: RefCell::default(),
            oracle: RefCell::new(Oracle::resume(saved.tso_bound_ms)),
            extending: Cell::new(false),
            next_id: Cell::new(saved.id_bound.max(1)),
            refused_reports: Cell::new(0),
        })))
    }

    /// Serves the PD protocol on `listener` from this core.
    pub fn serve_pd(&self, listener: Listener, health: Health, options: grpc::Options) -> grpc::Handle {
        grpc::serve(&self.0.rt, listener, Pd::new(self.clone(), health), options)
    }

    /// A queue for reports from other cores; they are taken in until every sender is gone.
    pub fn inbox(&self) -> Sender<Report> {
        let (sender, receiver) = chan::queue(INBOX_BOUND);
        let placement = self.clone();
        drop(self.0.rt.spawn(async move {
            let (budget, mut reports) = (placement.0.rt.budget(), Vec::new());
            while receiver.recv_batch(&mut reports, REPORTS_PER_TURN).await {
                for report in reports.drain(..) {
                    // A refused report is stale or broken; it is counted, and its sender reports again in time.
                    let _ = placement.heartbeat(report);
                }
                budget.tick().await;
            }
        }));
        sender
    }

    /// Takes a report in.
    ///
    /// # Errors
    /// A sentence that says why it is stale or broken.
    pub fn heartbeat(&self, report: Report) -> Result<(), String> {
        let mut map = self.0.map.borrow_mut();
        let taken = match report {
            Report::Store(mut store) => {
                let heard_ns = u64::try_from(self.0.rt.wall().as_nanos()).unwrap_or(u64::MAX);
                store.stats = store.stats.map(|stats| StoreStats { heard_ns, ..stats });
                map.report_store(store)
            }
            Report::Region(region) => map.report_region(region),
        };
        if taken.is_err() {
            self.0.refused_reports.set(self.0.refused_reports.get() + 1);
        }
        taken
    }

    /// Reports that were stale or broken.
    pub fn refused_reports(&self) -> u64 {
        self.0.refused_reports.get()
    }

    /// The cluster's id, never 0.
    pub fn cluster_id(&self) -> u64 {
        self.0.durable.saved().cluster_id
    }

    /// Who this placement says it is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Takes `count` consecutive ids for stores, regions and peers, and gives the first. Every id of a cluster comes from here.
    pub async fn alloc_ids(&self, count: u64) -> Result<u64, Denied> {
        if count == 0 || count > IDS_MAX {
            return Err(Denied::BadCount);
        }
        loop {
            let first = self.0.next_id.get();
            let behind = first + count;
            if behind <= self.0.durable.saved().id_bound {
                self.0.next_id.set(behind);
                return Ok(first);
            }
            let id_bound = behind + ID_RANGE;
            self.raise(Numbers { id_bound, ..Numbers::default() }).await?;
        }
    }

    /// Takes `count` timestamps and gives the largest; the others are the ones just below it.
    pub async fn timestamps(&self, count: u32) -> Result<Timestamp, Denied> {
        loop {
            let clock_ms = u64::try_from(self.0.rt.wall().as_millis()).unwrap_or(u64::MAX);
            let taken = self.0.oracle.borrow_mut().take(clock_ms, count);
            match taken {
                Ok(timestamp) => {
                    self.extend_in_time();
                    return Ok(timestamp);
                }
                Err(NoTimestamp::BadCount) => return Err(Denied::BadCount),
                Err(NoTimestamp::Exhausted { bound_ms }) => self.extend(bound_ms).await?,
            }
        }
    }

    /// Saves a higher bound in the background while the old one still lasts.
    fn extend_in_time(&self) {
        let Some(bound_ms) = self.0.oracle.borrow().wants() else { return };
        if self.0.extending.replace(true) {
            return;
        }
        let placement = self.clone();
        drop(self.0.rt.spawn(async move {
            // If this save fails, the caller that finds the bound used up tries again and is told.
            let _ = placement.extend(bound_ms).await;
            placement.0.extending.set(false);
        }));
    }

    async fn extend(&self, bound_ms: u64) -> Result<(), Denied> {
        self.raise(Numbers { tso_bound_ms: bound_ms, ..Numbers::default() }).await?;
        self.0.oracle.borrow_mut().raise(self.0.durable.saved().tso_bound_ms);
        Ok(())
    }

    /// Versions below this one may be forgotten.
    pub fn gc_safe_point(&self) -> u64 {
        self.0.durable.saved().gc_safe_point
    }

    /// Raises the GC safe point, and gives what it is now; a lower value changes nothing.
    pub async fn raise_gc_safe_point(&self, gc_safe_point: u64) -> Result<u64, Denied> {
        if gc_safe_point > self.gc_safe_point() {
            self.raise(Numbers { gc_safe_point, ..Numbers::default() }).await?;
        }
        Ok(self.gc_safe_point())
    }

    async fn raise(&self, to: Numbers) -> Result<(), Denied> {
        self.0.durable.raise(to).await.map_err(Denied::NotSaved)
    }

    pub(crate) fn map<T>(&self, ask: impl FnOnce(&Map) -> T) -> T {
        ask(&self.0.map.borrow())
    }
}
