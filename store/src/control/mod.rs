//! The scheduler shard of a node: it hosts the crate `scheduler`.
//!
//! It lives on a core of its own, beside the data path. Data cores report to it ([`Control::inbox`]), the PD service asks it. It owns no
//! map and no timestamp oracle of its own: what is soft (regions, loads, operators) is a [`Scheduler`], what must not be
//! forgotten (ids, stores, timestamp bound, safe point) is a [`State`](scheduler::State) behind [`state_file`].
//!
//! ```text
//!   Beat ──▶ put_store · report_store · report_region ──▶ Scheduler ──▶ Instruction ──▶ orders
//!                     (descriptors) ──▶ StateFile          ▲ tick, at the pace that the last round asked for
//!   PD  ──▶ ids · timestamps · safe point ──▶ StateFile    │
//!       ──▶ regions, stores ───────────────────────────────┘
//! ```
//!
//! What holds: an id, a timestamp bound or a safe point leaves only after it is on disk; the map is built anew from beats after a
//! restart.
//!
//! Not done here, on purpose: any decision (crate `scheduler`), replication of the state over several nodes, and carrying steps
//! out ([`orders`]).

mod image;
mod orders;
mod reports;
mod state_file;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::chan::{self, Sender};
use scheduler::scheduler::AskSplitError;
use scheduler::{
    Cluster, Config, Instruction, NewRegion, Oracle, Region, RegionReport, Scheduler, StateAnswer,
    StateCommand, StateRefusal, Store, StoreDescriptor, StoreReport, Time, Timestamp, TsoRefusal,
};

use self::orders::Orders;
pub use self::reports::{Beat, StoreBeat};
use self::state_file::StateFile;

/// Ids that one save covers.
const ID_BLOCK: u64 = 1000;
/// Maximum number of ids that one call takes.
const IDS_MAX: u64 = 100_000;
/// Beats that may wait. A core has one in flight at a time, so more cores than this only wait for each other.
const INBOX_BOUND: usize = 64;

/// Who this member says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its id among the members, never 0.
    pub member_id: u64,
    /// Where clients reach it, with scheme: `http://127.0.0.1:2379`. At least one.
    pub client_urls: Vec<String>,
    /// The cluster that the node belongs to, never 0. Settled when the directory is new.
    pub cluster_id: u64,
    /// Ids below this one are taken by the stores and regions that the node bootstraps with.
    pub first_free_id: u64,
    /// Above zero the state exists and has given out the ids below this one.
    pub next_id_min: u64,
}

/// Why a request for ids, timestamps or a safe point is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The state cannot be saved, so nothing may be handed out.
    NotSaved(String),
    /// None or too many were asked for.
    BadCount,
    /// The state refuses the command.
    Refused(StateRefusal),
    /// A safe point above every timestamp that was handed out would let versions be collected that are yet to be written.
    AheadOfPresent {
        /// The safe point asked for.
        asked: u64,
        /// The present, in the same form.
        present: u64,
    },
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::NotSaved(why) => {
                write!(f, "the state could not be saved ({why}); free or repair the disk")
            }
            Denied::BadCount => {
                write!(f, "the count is zero or more than one call may take; ask for fewer")
            }
            Denied::Refused(refusal) => write!(f, "{refusal}"),
            Denied::AheadOfPresent { asked, present } => {
                write!(f, "safe point {asked} lies above the present, {present}; choose one below it")
            }
        }
    }
}

impl std::error::Error for Denied {}

/// The scheduler shard. Cheap to clone; stays on its core.
#[derive(Clone, Debug)]
pub struct Control(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    rt: Rt,
    member: Member,
    state: Rc<StateFile>,
    scheduler: RefCell<Scheduler>,
    oracle: RefCell<Oracle>,
    /// Ids that are on disk as taken and not handed out yet.
    ids: RefCell<Range<u64>>,
    extending: Cell<bool>,
    orders: Orders,
    refused_reports: Cell<u64>,
}

/// What a new cluster aims at: one replica of each region, and no policy whose steps no store can take yet.
fn initial_config() -> Config {
    Config { max_replicas: 1, disabled: orders::UNSERVED.to_vec(), ..Config::default() }
}

/// Whether the state in `dir` is that of `cluster` and has given out the ids below `next_id_min`; nothing is changed.
///
/// # Errors
/// What opening it would be refused for.
pub async fn check(rt: &Rt, dir: &Path, cluster: u64, next_id_min: u64) -> io::Result<()> {
    state_file::check(rt, dir, cluster, next_id_min).await
}

impl Control {
    /// Opens the state in `dir`, or begins a cluster there.
    ///
    /// # Errors
    /// The directory cannot be written, or its file is damaged; the error names the file.
    pub async fn open(rt: &Rt, dir: &Path, member: Member) -> io::Result<Self> {
        assert!(
            member.member_id != 0 && member.cluster_id != 0 && !member.client_urls.is_empty(),
            "clients need a member to talk to"
        );
        let state =
            StateFile::open(rt, dir, member.cluster_id, member.first_free_id, member.next_id_min).await?;
        let (config, stores, evicting, end_ms) = state.saved(|image| {
            let stores: Vec<StoreDescriptor> = image.stores.values().cloned().collect();
            (image.config.clone(), stores, image.evicting.clone(), image.timestamp_end_ms)
        });
        let now = time(rt);
        let mut scheduler =
            Scheduler::new(config, rt.random(), now).expect("the state validates its configuration");
        for store in stores {
            scheduler.put_store(store, now).expect("the state admits stores by the same rule");
        }
        scheduler.set_evicting(evicting);
        let control = Self(Rc::new(Inner {
            rt: rt.clone(),
            member,
            state,
            scheduler: RefCell::new(scheduler),
            oracle: RefCell::new(Oracle::new(end_ms, wall_ms(rt))),
            ids: RefCell::new(0..0),
            extending: Cell::new(false),
            orders: Orders::default(),
            refused_reports: Cell::new(0),
        }));
        let ticking = control.clone();
        drop(rt.spawn(async move { ticking.tick_loop().await }));
        Ok(control)
    }

    /// A queue for beats of the data cores; they are taken in until every sender is gone.
    pub fn inbox(&self) -> Sender<Beat> {
        let (sender, receiver) = chan::queue(INBOX_BOUND);
        let control = self.clone();
        drop(self.0.rt.spawn(async move {
            while let Some(beat) = receiver.recv().await {
                control.take(beat).await;
            }
        }));
        sender
    }

    /// Takes a core's beat in: its stores first, so that its regions find them.
    pub async fn take(&self, beat: Beat) {
        let budget = self.0.rt.budget();
        for StoreBeat { descriptor, report, regions } in beat.stores {
            self.enter_store(descriptor).await;
            self.report_store(report);
            for region in regions {
                self.report_region(region);
                budget.tick().await;
            }
        }
    }

    /// Enters a store or changes what is known of it. What is known already is not saved again.
    async fn enter_store(&self, descriptor: StoreDescriptor) {
        let inner = &*self.0;
        let known = inner.state.saved(|image| {
            image.stores.get(&descriptor.id).is_some_and(|known| {
                (known.node, &known.address, &known.labels)
                    == (descriptor.node, &descriptor.address, &descriptor.labels)
            })
        });
        if known {
            return;
        }
        if let Err(denied) = inner.state.apply(StateCommand::PutStore(descriptor.clone())).await {
            // The next beat tries again. Meanwhile clients are told where the store is: what it says of itself is true.
            tracing::warn!(store = descriptor.id.0, why = %denied, "a store could not be entered into the state");
        }
        let entered = inner.scheduler.borrow_mut().put_store(descriptor, time(&inner.rt));
        self.count(entered.map_err(|refusal| refusal.to_string()));
    }

    fn report_store(&self, report: StoreReport) {
        let taken = self.0.scheduler.borrow_mut().report_store(report, time(&self.0.rt));
        self.count(taken.map_err(|refusal| refusal.to_string()));
    }

    fn report_region(&self, report: RegionReport) {
        let taken = self.0.scheduler.borrow_mut().report_region(report, time(&self.0.rt));
        if let Some(instruction) = self.count(taken.map_err(|refusal| refusal.to_string())).flatten() {
            self.refuse_step(&instruction);
        }
    }

    /// A refused report is stale or broken. It is counted, and its sender reports again.
    fn count<T>(&self, taken: Result<T, String>) -> Option<T> {
        taken
            .inspect_err(|why| {
                let before = self.0.refused_reports.replace(self.0.refused_reports.get() + 1);
                if before == 0 {
                    tracing::warn!(why, "the scheduler refused a report; further ones are only counted");
                }
            })
            .ok()
    }

    fn refuse_step(&self, instruction: &Instruction) {
        self.0.orders.refuse(instruction);
        self.0.scheduler.borrow_mut().cancel(instruction.region, time(&self.0.rt));
    }

    /// Runs the policies, at the pace that each round asks for.
    async fn tick_loop(&self) {
        loop {
            self.grant_ids().await;
            let tick = self.0.scheduler.borrow_mut().tick(time(&self.0.rt));
            for instruction in &tick.instructions {
                self.refuse_step(instruction);
            }
            self.0.rt.sleep(Duration::from_millis(tick.wait_ms)).await;
        }
    }

    /// Hands the scheduler ids for new peers before it runs out of them.
    async fn grant_ids(&self) {
        let wanted = self.0.scheduler.borrow().ids_wanted();
        let Some(count) = wanted else { return };
        // Without a save there are no ids; proposals that need some are declined, and the next round asks again.
        if let Ok(first) = self.alloc_ids(count).await {
            self.0.scheduler.borrow_mut().grant_ids(first..first + count);
        }
    }

    /// Reports that were stale or broken.
    pub fn refused_reports(&self) -> u64 {
        self.0.refused_reports.get()
    }

    /// Steps that the scheduler wanted and no store can take yet.
    pub fn refused_steps(&self) -> u64 {
        self.0.orders.refused()
    }

    /// The cluster's id, never 0.
    pub fn cluster_id(&self) -> u64 {
        self.0.member.cluster_id
    }

    /// Who this member says it is.
    pub fn member(&self) -> &Member {
        &self.0.member
    }

    /// Replicas that a region should have.
    pub fn replicas(&self) -> u64 {
        self.0.scheduler.borrow().config().max_replicas
    }

    /// Ids below this one may have been given out, according to what is on disk.
    pub fn next_id(&self) -> u64 {
        self.0.state.saved(|image| image.next_id)
    }

    /// Takes `count` consecutive ids for stores, regions and peers, and returns the first. Every id of a cluster comes from here.
    ///
    /// # Errors
    /// The count is out of bounds, or the state cannot be saved.
    pub async fn alloc_ids(&self, count: u64) -> Result<u64, Denied> {
        if count == 0 || count > IDS_MAX {
            return Err(Denied::BadCount);
        }
        loop {
            {
                let mut ids = self.0.ids.borrow_mut();
                if ids.end - ids.start >= count {
                    let first = ids.start;
                    ids.start += count;
                    return Ok(first);
                }
            }
            // What is left of the block before is dropped: ids are plenty, and one call's are consecutive.
            let command = StateCommand::AllocateIds { count: count.max(ID_BLOCK) };
            match self.0.state.apply(command).await? {
                StateAnswer::Ids(block) => *self.0.ids.borrow_mut() = block,
                other => unreachable!("ids were asked for, and the answer is {other:?}"),
            }
        }
    }

    /// Ids for the right half of a split of `asked`.
    ///
    /// # Errors
    /// The region is not known as it is described; ask again once it has been reported.
    pub async fn ask_split(&self, asked: &Region) -> Result<NewRegion, AskSplitError> {
        let taken = self.0.scheduler.borrow_mut().ask_split(asked);
        match taken {
            Err(AskSplitError::OutOfIds) => {
                self.grant_ids().await;
                self.0.scheduler.borrow_mut().ask_split(asked)
            }
            taken => taken,
        }
    }

    /// Takes `count` timestamps and returns the largest; the others are the ones just below it.
    ///
    /// # Errors
    /// The count is out of bounds, or the state cannot be saved.
    pub async fn timestamps(&self, count: u32) -> Result<Timestamp, Denied> {
        loop {
            let taken = self.0.oracle.borrow_mut().take(count, wall_ms(&self.0.rt));
            match taken {
                Ok(timestamp) => {
                    self.extend_in_time();
                    return Ok(timestamp);
                }
                Err(TsoRefusal::Count { .. }) => return Err(Denied::BadCount),
                Err(TsoRefusal::Window { wanted_end_ms }) => self.extend(wanted_end_ms).await?,
            }
        }
    }

    /// Saves a higher bound in the background while the old one still lasts.
    fn extend_in_time(&self) {
        let Some(end_ms) = self.0.oracle.borrow().window_wanted(wall_ms(&self.0.rt)) else { return };
        if self.0.extending.replace(true) {
            return;
        }
        let control = self.clone();
        drop(self.0.rt.spawn(async move {
            if let Err(denied) = control.extend(end_ms).await {
                // The caller that finds the bound used up tries again and gets the error.
                tracing::warn!(why = %denied, "the timestamp window could not be extended in advance");
            }
            control.0.extending.set(false);
        }));
    }

    async fn extend(&self, end_ms: u64) -> Result<(), Denied> {
        match self.0.state.apply(StateCommand::SaveTimestampWindow { end_ms }).await? {
            StateAnswer::TimestampWindow(end_ms) => self.0.oracle.borrow_mut().window_saved(end_ms),
            other => unreachable!("a window was to be saved, and the answer is {other:?}"),
        }
        Ok(())
    }

    /// Versions below this timestamp may be collected.
    pub fn gc_safe_point(&self) -> u64 {
        self.0.state.saved(|image| image.gc_safe_point)
    }

    /// Raises the GC safe point and returns what it is now; a lower value changes nothing.
    ///
    /// # Errors
    /// The timestamp lies above the present, or the state cannot be saved.
    pub async fn raise_gc_safe_point(&self, timestamp: u64) -> Result<u64, Denied> {
        let present = self.timestamps(1).await?.to_u64();
        if timestamp > present {
            return Err(Denied::AheadOfPresent { asked: timestamp, present });
        }
        if timestamp > self.gc_safe_point() {
            self.0.state.apply(StateCommand::AdvanceGcSafePoint { timestamp }).await?;
        }
        Ok(self.gc_safe_point())
    }

    /// Asks the map.
    pub(crate) fn map<T>(&self, ask: impl FnOnce(&Cluster) -> T) -> T {
        ask(self.0.scheduler.borrow().cluster())
    }

    /// When a store was last heard, time since the Unix epoch.
    pub(crate) fn heard(&self, store: &Store) -> Duration {
        let silent = Duration::from_millis(time(&self.0.rt).ms_since(store.last_heard));
        self.0.rt.wall().saturating_sub(silent)
    }
}

/// The scheduler's clock: milliseconds of the core's monotonic one.
fn time(rt: &Rt) -> Time {
    Time(rt.now().0 / 1_000_000)
}

fn wall_ms(rt: &Rt) -> u64 {
    u64::try_from(rt.wall().as_millis()).unwrap_or(u64::MAX)
}
