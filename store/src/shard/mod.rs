//! One store: one core's log, tree and peers.
//!
//! Operations come in through [`Shard::submit`]. Reads are answered from the applied state; writes gather per region until
//! the next turn ([`turn`]), which proposes them, writes once for every group that moved, and applies what that write
//! committed. No lock and no thread hop lies between a submitted operation and the disk.
//!
//! Invariants:
//! * the state is borrowed only between awaits, never across one;
//! * an answer leaves after its entry is applied, and an entry is applied only after it is committed, which needs this
//!   store's own write to be durable;
//! * once a write of the log has failed the store accepts nothing more and says why.

#[cfg(test)]
mod apply_tests;
mod atomic;
mod claims;
pub mod counters;
mod created;
#[cfg(test)]
mod descriptor_tests;
mod fetch;
mod gate;
pub mod groups;
pub mod halves;
pub mod handing;
pub mod health;
pub mod inbox;
mod incomplete;
mod installing;
pub mod lineage;
pub mod links;
pub mod load;
pub mod loading;
pub mod long_double;
mod members;
mod merging;
#[cfg(test)]
mod merging_tests;
pub mod modify;
mod natural;
pub mod open;
pub mod openings;
mod origins;
pub mod outbox;
mod parts;
mod pieces;
pub mod placed;
pub mod quiet;
pub mod read;
pub mod receiving;
pub mod remembered;
pub(crate) mod repeats;
pub mod reply;
#[cfg(test)]
mod rest_tests;
mod restart;
#[cfg(test)]
mod return_tests;
pub mod routes;
#[cfg(test)]
mod routes_kit;
pub mod shipping;
mod space;
#[cfg(test)]
mod split_tests;
mod splitting;
mod staging;
mod stalls;
pub mod startup;
mod steps;
mod stop;
#[cfg(test)]
pub(crate) mod stop_tests;
mod system;
pub mod table;
pub mod turn;
pub mod unwanted;
pub mod upkeep;
mod values;
pub mod vouch;
pub mod watch;
mod watched;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use engine::error::{Fault, FaultKind};
use engine::log::Log;
use engine::lsm::{Cf, Estimate, Pressure, Tree};
use engine::rt::local::Bell;
use engine::rt::{FileId, LockFile, Mono, Rt};
use raft::Time;
use scheduler::operator::OperatorId;
use scheduler::{LoadCut, Region, RegionId, StoreId};

use crate::memory::Memory;
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::guard;
use crate::region::inflight::Known;
use crate::region::lineage::Lineage;
use crate::region::replica::Replica;
use crate::region::split::SplitOrigin;
use crate::region::system::fence::Fence;
use crate::request::{Op, Out, Outcome, Route};
use counters::{StoreCounters, StoreNumbers};
use fetch::Fetches;
use health::{Event, Health, HealthReport};
use inbox::InboxCounters;
use incomplete::Incomplete;
use installing::Installs;
use load::{Counts, RegionCounts};
use loading::Loads;
use merging::Driven;
use openings::Openings;
use outbox::{Outbox, Transport};
use receiving::Receptions;
use repeats::Repeats;
use reply::Reply;
use routes::{Place, PlaceChange};
use shipping::Shipments;
use stalls::Stalls;
use table::Table;
use watch::LogWatch;
use watched::Watched;

/// One store. Cheap to clone; stays on its core.
#[derive(Clone)]
pub struct Shard {
    inner: Rc<Inner>,
}

struct Inner {
    rt: Rt,
    store: StoreId,
    dir: PathBuf,
    log: Log,
    tree: Tree,
    limits: ShardLimits,
    /// The consensus settings of its groups.
    raft: Arc<raft::Config>,
    /// The core's bounds on what clients make it hold.
    memory: Memory,
    /// Whether an older copy would be recognised.
    openings: Openings,
    /// Free bytes on its disk when it was last looked at.
    disk_free: Cell<Option<u64>>,
    /// Which directory the store was opened in.
    dir_id: Cell<Option<FileId>>,
    /// What keeps other processes out.
    lock: Option<LockFile>,
    state: RefCell<State>,
    /// Rings when a region has something for the next turn.
    bell: Bell,
    counters: Rc<StoreCounters>,
    /// What clients read and write, by region, since the latest report.
    counts: RegionCounts,
    /// How often the log has been opened, as far as that is durable.
    opened: u64,
    /// The latest of its openings.
    lineage: Cell<Lineage>,
    /// When it was.
    opened_at: Time,
    /// The way to other stores.
    outbox: Outbox,
    /// The replicas that lack what was acknowledged.
    incomplete: Incomplete,
    /// What has become of messages that arrived from there.
    inbox: InboxCounters,
    /// Entries to be read back for followers.
    fetches: Fetches,
    /// Snapshots for followers.
    shipments: Shipments,
    /// Snapshots that arrive.
    receptions: Receptions,
    /// Snapshots on their way into the tree.
    installs: Installs,
    /// What was said of its regions a moment ago.
    repeats: Repeats,
    /// How long sources of merges wait.
    driven: Driven,
    /// What the store can do for clients, and why not more.
    health: Rc<Health>,
    /// When the log write in flight began.
    log_watch: LogWatch,
    /// When writers wait for the tree.
    stalls: Stalls,
    /// How many reads there had been at the latest turn with writes, and how many such turns there were since it was more.
    reads_seen: Cell<u64>,
    quiet_turns: Cell<u64>,
    /// A turn waits for space for its entries.
    log_waits: Cell<bool>,
    /// How far large writes have gone beyond the bound on bytes in flight since there were fewer.
    beyond_bytes: Cell<usize>,
    /// Log or tree have waited for so long for what is short that writes are refused as busy until they have it.
    waits_long: Cell<bool>,
    /// Since when the turn has been where it is, unless there is none.
    turn_since: Cell<Option<Mono>>,
    /// The log may hold entries from before the start that are not applied yet.
    recovering: Cell<bool>,
    /// Regions for which a split key is looked for.
    searches: RefCell<BTreeSet<RegionId>>,
    /// Regions in which none was found, with the operator that wanted it, until that is reported.
    uncut: RefCell<BTreeMap<RegionId, OperatorId>>,
    /// Where the system group's replica says until when it leads.
    fence: RefCell<Option<Arc<Fence>>>,
    /// Rings when that replica has moved.
    system_moved: Bell,
}

/// Bounds of one store, derived from its memory budget.
#[derive(Clone, Copy, Debug)]
pub struct ShardLimits {
    /// Bytes of writes that may wait for the log or for their apply before further ones are refused.
    pub inflight_bytes_max: usize,
    /// Bytes of log segments in use above which the memtable is flushed to free them.
    pub log_bytes_max: u64,
    /// Bytes of commands that a turn proposes, or one that is longer; what gathered beyond it is proposed in the next turn. A turn whose
    /// groups have more entries to write, because leaders have sent them, writes them in parts.
    pub turn_bytes_max: usize,
    /// Size of one log segment, bytes.
    pub segment_bytes: u64,
    /// Free bytes below which writes are refused.
    pub reserve_bytes: u64,
    /// Entries per group that are kept although all that is heard of has them: a follower that was away for a moment catches up from them.
    pub kept_entries: u64,
    /// Bytes of one group's entries above which the log is cut although a follower that is heard lacks them; it gets a snapshot then.
    pub kept_bytes_max: u64,
    /// A file of a snapshot ends with the key that brings it to this size, bytes.
    pub snapshot_piece_bytes: u64,
    /// Bytes per second that one snapshot for a follower is made and sent with.
    pub snapshot_bytes_per_second: u64,
}

/// What the tasks of this core share. Borrowed only between awaits.
struct State {
    table: Table<Due, Queued>,
    /// Replicas by splits whose log has nothing yet. It learns what they are with the first that they have to write.
    unlogged: BTreeMap<RegionId, Option<SplitOrigin>>,
    loads: Loads<Queued>,
    watched: Watched,
    /// Keys and values of the writes of all regions that are in flight.
    inflight_bytes: usize,
    /// Writes behind one on many keys that waits.
    gate: VecDeque<Queued>,
    /// Keys and values of what waits for loads.
    waiting_bytes: usize,
    /// The same as [`Inner::health`].
    health: Rc<Health>,
}

/// What is due once an entry is applied: one operation's answer.
#[derive(Debug)]
struct Due {
    reply: Reply,
    out: Out,
    /// When the operation came in.
    since: Mono,
}

/// Whether a read still has to ask for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// It has just come.
    Now,
    /// Its read index is known and applied.
    Due,
}

/// An operation that has to wait: a write for a key to be loaded, a read for its index.
#[derive(Debug)]
struct Queued {
    route: Option<Route>,
    op: Op,
    reply: Reply,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {}", self.inner.store.0)
    }
}

impl Shard {
    /// Starts `op`; its outcome goes to `reply`.
    pub fn submit(&self, route: Option<Route>, op: Op, reply: Reply) {
        match op {
            Op::Get { .. } | Op::Expiry { .. } | Op::BatchGet { .. } | Op::Lengths { .. } | Op::Scan(_) => {
                self.read(route, op, reply, Asked::Now)
            }
            Op::Put { .. }
            | Op::Delete { .. }
            | Op::BatchPut { .. }
            | Op::PutTimed { .. }
            | Op::PutAbsent { .. }
            | Op::Copy { .. }
            | Op::BatchDelete { .. }
            | Op::DeleteRange { .. }
            | Op::Modify { .. }
            | Op::Atomic(_)
            | Op::Watch { .. } => self.write(route, op, reply),
        }
    }

    /// The store's id.
    pub fn store(&self) -> StoreId {
        self.inner.store
    }

    /// How often the store's log has been opened, as far as that is durable.
    pub fn opened(&self) -> u64 {
        self.inner.opened
    }

    /// The latest of the openings of the store's log, as far as they are durable.
    pub fn lineage(&self) -> Lineage {
        self.inner.lineage.get()
    }

    /// The store's counters.
    pub fn counters(&self) -> &Rc<StoreCounters> {
        &self.inner.counters
    }

    /// What clients have read and written by region since this was last called.
    pub(crate) fn take_counts(&self) -> Counts {
        self.inner.counts.take()
    }

    /// Where samples of what clients read and write say that a region could be cut.
    pub fn load_cut(&self, region: &Region) -> LoadCut {
        self.inner.counts.cut(region)
    }

    /// Calls `hook` as soon as the store has stopped, whatever stops it; at once if it has.
    pub fn on_stop(&self, hook: impl Fn() + 'static) {
        self.inner.health.on_stop(Box::new(hook));
    }

    /// Why the store has stopped, if it has.
    pub fn stopped(&self) -> Option<String> {
        self.inner.health.stopped()
    }

    /// What the store can do for clients, and why not more.
    pub fn health(&self) -> HealthReport {
        self.inner.health.report()
    }

    /// Gives the store its way to the stores of other nodes.
    ///
    /// # Panics
    /// If it has one.
    pub fn connect(&self, transport: Rc<dyn Transport>) {
        self.inner.outbox.connect(transport);
    }

    /// Waits until the health has changed since the last call. One task calls it.
    pub async fn health_changed(&self) {
        self.inner.health.changed().await;
    }

    /// Whether every region whose only voter is here leads and has applied what it had acknowledged before the start. The others
    /// need their peers, which the store can hear only once it listens.
    pub fn is_ready(&self) -> bool {
        let ready = !self.inner.health.has_stopped()
            && self.inner.state.borrow().table.iter().all(|it| !it.is_sole_voter() || it.is_current());
        if ready {
            self.inner.health.enter(Event::Started);
        }
        ready
    }

    /// The regions that are about to be ready: their leader has committed an entry of its term and not applied it yet, so nothing is
    /// answered from their state.
    pub fn catching_up(&self) -> Vec<RegionId> {
        let state = self.inner.state.borrow();
        state.table.iter().filter(|replica| replica.is_catching_up()).map(Replica::id).collect()
    }

    /// The descriptors of the regions here, each with our term and whether we lead. The system group is none of them.
    pub fn regions(&self) -> Vec<(Region, u64, bool)> {
        let state = self.inner.state.borrow();
        let facts = |replica: &Replica<Due, Queued>| {
            (replica.region().clone(), replica.term().0, replica.is_leader())
        };
        state.table.iter().filter(|replica| !replica.is_system()).map(facts).collect()
    }

    /// The same with the system group, if the store has a replica of it.
    pub fn groups(&self) -> Vec<(Region, u64, bool)> {
        let mut groups = self.regions();
        groups.extend(self.system_standing().map(|it| (it.region, it.term, it.leads)));
        groups
    }

    /// The descriptors of the regions that are led from here, each with our term.
    pub fn led(&self) -> Vec<(Region, u64)> {
        let state = self.inner.state.borrow();
        let led = state.table.iter().filter(|replica| !replica.is_system() && replica.is_leader());
        led.map(|replica| (replica.region().clone(), replica.term().0)).collect()
    }

    /// The stores of the other members of all groups here, the system group included.
    pub fn other_stores(&self) -> BTreeSet<StoreId> {
        let state = self.inner.state.borrow();
        let mut others = BTreeSet::new();
        state.table.iter().for_each(|replica| others.extend(replica.others()));
        others
    }

    /// Rings when [`Shard::places`] has changed. One waiter at a time.
    pub(crate) fn routes_changed(&self) -> Rc<Bell> {
        self.inner.state.borrow().table.changed()
    }

    /// Where the regions here are, in key order, for the routes of the node, on which this store has the number `store`.
    pub fn places(&self, store: usize) -> Vec<Place> {
        let state = self.inner.state.borrow();
        state.table.published().map(|region| Place::of(region, store)).collect()
    }

    /// What has changed of them since this was last asked.
    pub(crate) fn take_place_changes(&self, store: usize) -> Vec<PlaceChange> {
        let changes = self.inner.state.borrow_mut().table.take_changes().into_iter();
        changes.map(|(start, region)| (start.into(), region.map(|it| Place::of(&it, store)))).collect()
    }

    /// About how much lies in a region, by the tree's indexes.
    ///
    /// # Errors
    /// A fault of a file that had to be read.
    pub async fn estimate(&self, region: &Region) -> engine::error::Result<Estimate> {
        let range = &region.range;
        self.inner.tree.estimate(Cf::Default, range.start(), range.end()).await
    }

    /// A copy of the store's numbers, which may leave the core.
    pub fn snapshot(&self) -> StoreNumbers {
        let state = self.inner.state.borrow();
        StoreNumbers {
            store: self.inner.store.0,
            log: self.inner.log.stats(),
            tree: self.inner.tree.stats(),
            groups: self.inner.group_numbers(&state),
            inflight_bytes: state.inflight_bytes as u64,
            inflight_bytes_max: self.inner.limits.inflight_bytes_max as u64,
            peers: self.inner.outbox.numbers(),
            messages_stepped: self.inner.inbox.stepped(),
            messages_lost: self.inner.inbox.lost(),
            snapshots_sending: self.inner.shipments.running(),
            snapshots_receiving: self.inner.receptions.len() as u64,
            health: self.inner.health.report(),
            log_watch: self.inner.log_watch.clone(),
            ..self.inner.counters.snapshot()
        }
    }
}

impl State {
    /// The replica that `route` or, without one, `key` leads to, once the guard has let the request pass.
    fn admit(&mut self, route: Option<&Route>, key: &[u8]) -> Result<&mut Replica<Due, Queued>, Refusal> {
        self.admit_by(route, key, |replica, route| guard::admit(replica.here(), route))
    }

    /// The same for a read, which a replica that does not lead may answer where the route says so.
    fn admit_read(
        &mut self,
        route: Option<&Route>,
        key: &[u8],
    ) -> Result<&mut Replica<Due, Queued>, Refusal> {
        self.admit_by(route, key, Replica::admit_read)
    }

    fn admit_by(
        &mut self,
        route: Option<&Route>,
        key: &[u8],
        check: impl FnOnce(&Replica<Due, Queued>, &Route) -> Result<(), Refusal>,
    ) -> Result<&mut Replica<Due, Queued>, Refusal> {
        self.health.check_running()?;
        let region_id = match route {
            Some(route) => RegionId(route.region_id),
            None => self.table.region_of(key).ok_or(Refusal::RegionNotFound { region_id: 0 })?,
        };
        let not_found = Refusal::RegionNotFound { region_id: region_id.0 };
        let of_users =
            |replica: &&mut Replica<Due, Queued>| !replica.is_system() || planted(Bug::StateReadable);
        let replica = self.table.get_mut(region_id).filter(of_users).ok_or(not_found)?;
        match route {
            Some(route) => check(replica, route)?,
            None => guard::lead(replica.here())?,
        }
        if replica.is_stopped() {
            return Err(Refusal::not_current());
        }
        Ok(replica)
    }

    /// What the writes in flight say about `key`.
    fn known(&mut self, key: &[u8]) -> Known {
        let replica = self.table.region_of(key).and_then(|id| self.table.get_mut(id));
        replica.map_or(Known::Nothing, |replica| replica.known(key))
    }

    /// Asserts what this file and [`table`] state.
    fn check(&self) {
        self.table.check();
        let charged: usize = self.table.iter().map(Replica::charged_bytes).sum();
        assert_eq!(self.inflight_bytes, charged, "bytes in flight of all regions");
    }
}

impl Inner {
    /// Whether not even deletes can be taken: the reserves of the log or of the tree's memory are used up.
    fn is_out_of_room(&self) -> bool {
        self.log_waits.get() || (self.tree.disk_full() && self.tree.pressure() == Pressure::Stop)
    }

    fn refuse(&self, reply: Reply, refusal: Refusal) {
        self.counters.refused.add(&refusal);
        reply.send(Err(refusal));
    }

    /// The refusal for whoever needs what could not be read. Damage fails the reads that meet it and no others, so the store goes
    /// on, and says from now on which file it is.
    fn unreadable(&self, fault: &Fault) -> Refusal {
        match fault.kind {
            FaultKind::Corruption | FaultKind::Io | FaultKind::Denied | FaultKind::Foreign => {
                self.health.enter(Event::Damaged(fault));
                let remedy = fault.remedy().map_or_else(String::new, |remedy| format!("; {remedy}"));
                let (file, what) = (fault.path.display().to_string(), format!("{}{remedy}", fault.what));
                Refusal::Damaged { file, what }
            }
            FaultKind::Short(_) => {
                Refusal::Busy { reason: "the kernel is short of descriptors or memory", backoff_ms: 100 }
            }
            FaultKind::TooLarge => Refusal::Invalid(fault.to_string()),
            FaultKind::Poisoned | FaultKind::Locked => {
                Refusal::Stopped(self.health.stopped().unwrap_or_else(|| fault.to_string()))
            }
        }
    }

    fn answer(&self, reply: Reply, outcome: Outcome) {
        match outcome {
            Ok(_) => reply.send(outcome),
            Err(refusal) => self.refuse(reply, refusal),
        }
    }
}
