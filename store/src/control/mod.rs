//! The scheduler shard of a node: it hosts the crate `scheduler`.
//!
//! It lives on a core of its own, beside the data path and without a disk. Data cores report to it, the PD service asks it. It owns no
//! map and no timestamp oracle of its own: what is soft (regions, loads, operators) is a [`Scheduler`], what must not be forgotten (ids,
//! stores, configuration, timestamp window, safe point) is a [`State`](scheduler::State), kept by the system group
//! ([`region::system`](crate::region::system)) in the log and tree of a store, and reached over a [`mod@link`].
//!
//! ```text
//!   Beat ──▶ put_store · report_store · report_region ──▶ Scheduler ──▶ Instruction ──▶ answer to the beat
//!                     (descriptors) ──▶ link                ▲ tick, at the pace that the last round asked for
//!   PD  ──▶ ids · timestamps · safe point ──▶ link          │
//!       ──▶ regions, stores ────────────────────────────────┘
//! ```
//!
//! What holds: an id, a timestamp bound or a safe point leaves only after its entry is durable and applied; the map is built anew from
//! beats after a restart; while the store of the state is stopped, damaged or full, whoever asks for what it allows is refused by name,
//! and everything that is soft goes on.
//!
//! | file | what it is about |
//! |---|---|
//! | `link` | the way to the state, and what is known of it |
//! | `origin` | where the state comes from when there is none: 0.1's file (`image`), or a new cluster |
//! | `grants` | what is handed out |
//! | `reports` | what comes in, and what is answered |
//! | `locate` | where regions are, for cores that have no replica of them |
//! | `members` | stores of other nodes that join or moved |
//! | `cuts` | regions that are cut at keys which clients name |
//! | `scattered` | groups of regions that clients want spread |
//! | `admin` | what operators ask for |
//! | `seen` | what operators are shown: stores, and what is being done |
//! | `overview` | and of the whole: regions, failures that are survived, why something is as it is |
//! | `chart` | the key space in a bounded number of cells, and where the load of the last hour was |
//! | `voters` | which stores keep the state, and the next change on the way there |
//! | `membership` | carrying that out, and where the members are |
//! | `denied` | why something is not granted |
//!
//! A node whose store leads the system group hosts the scheduler of the cluster for that term, and no longer ([`Control::retire`]).
//!
//! Not done here, on purpose: any decision (crate `scheduler`), and carrying steps out, which the stores of the leaders do.

mod admin;
pub mod chart;
mod cuts;
mod denied;
mod grants;
mod image;
pub mod link;
pub mod locate;
mod members;
mod membership;
mod origin;
pub mod overview;
mod reports;
mod scattered;
mod seen;
mod voters;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::chan::Sender;
use engine::rt::local::Bell;
use engine::rt::{Budget, Rt};
use futures_util::future::select;
use scheduler::heat::Heat;
use scheduler::scheduler::Summary;
use scheduler::{
    Cluster, Config, Key, NodeId, Oracle, Policy, Region, Scheduler, Store, StoreDescriptor, StoreId, Time,
};

use crate::keyspace;

pub use self::admin::{Asked, NotAsked};
pub use self::cuts::Cuts;
pub use self::denied::Denied;
use self::link::StateLink;
pub use self::link::{Ask, News, Office, link, news};
pub use self::members::{GrantedNode, Joining, NotAdmitted};
pub use self::reports::{Beat, BeatAnswer, NotJoined, StoreBeat, answers, beats, hand_out};
use self::scattered::Scattered;
pub use self::seen::{SeenOperator, SeenStore};

/// The least time between two rounds of the policies, however much happens.
const ROUNDS_APART: Duration = Duration::from_millis(10);

/// Policies that are off in a new cluster: those that move single regions between nodes for size and load.
const OFF_AT_FIRST: [Policy; 2] = [Policy::BalanceRegion, Policy::HotRegion];
/// Of these the ones that stay off, because it is not measured yet what they are worth.
const UNPROVEN: [Policy; 1] = [Policy::HotRegion];

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
    /// Ids below this one are taken by the stores and regions that the node bootstraps with; 0 for a node that has joined, which begins
    /// no state.
    pub first_free_id: u64,
    /// Above zero the state exists, and has given out the ids below this one.
    pub next_id_min: u64,
}

/// The scheduler shard. Cheap to clone; stays on its core.
#[derive(Clone, Debug)]
pub struct Control(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    rt: Rt,
    member: Member,
    state: StateLink,
    scheduler: RefCell<Scheduler>,
    /// Hands out nothing before it goes on from the saved window.
    oracle: RefCell<Oracle>,
    oracle_is_set: Cell<bool>,
    /// Ids that are taken by an applied entry and not handed out yet.
    ids: RefCell<Range<u64>>,
    extending: Cell<bool>,
    granting: Cell<bool>,
    /// Stores whose entry into the state is in flight.
    entering: RefCell<BTreeSet<StoreId>>,
    /// Stores whose entry has failed, and how often in a row.
    not_entered: RefCell<reports::NotEntered>,
    /// Rings when the next round should not wait.
    urgent: Bell,
    scattered: RefCell<Scattered>,
    refused_reports: Cell<u64>,
    /// The term in which this member leads the system group; none where the group has no other member.
    office: Option<Office>,
    /// Another member leads, or this one in a later term.
    retired: Cell<bool>,
    /// The members of the system group, as far as they are known.
    group: RefCell<Option<Region>>,
    /// Where nodes serve the PD API.
    places: RefCell<BTreeMap<NodeId, String>>,
    /// Since when stores that are to become members have lagged.
    lagging: RefCell<BTreeMap<StoreId, Time>>,
    /// Where the load of the last hour was.
    heat: RefCell<Heat>,
}

/// What a scheduler says of the cluster and of itself, as plain numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchedulerNumbers {
    /// Stores, regions and operators.
    pub summary: Summary,
    /// Reports that were stale or broken.
    pub refused_reports: u64,
}

/// What a new cluster aims at: one replica of each region, and no policy that moves regions between nodes to balance them.
fn initial_config() -> Config {
    Config { max_replicas: 1, disabled: OFF_AT_FIRST.to_vec(), ..Config::default() }
}

/// Whether the state of `cluster` is there and has given out the ids below `next_id_min`: in the system group if it `held` entries, else
/// in the file of 0.1 in `dir`. Nothing is changed.
///
/// # Errors
/// What opening it would be refused for.
pub async fn check(rt: &Rt, dir: &Path, cluster: u64, next_id_min: u64, held: bool) -> io::Result<()> {
    origin::check(rt, dir, cluster, next_id_min, held).await
}

impl Control {
    /// Opens the state at the other end of `asks`. If it has not begun it takes over the file of 0.1 in `dir`, or begins a cluster. If the
    /// store that keeps the state cannot answer, what rests on it is refused, and the rest is served.
    ///
    /// # Errors
    /// The state is gone, an older copy or that of another cluster, or the file is damaged; the error names the place.
    pub async fn open(rt: &Rt, dir: &Path, member: Member, asks: Sender<Ask>) -> io::Result<Self> {
        Self::open_for(rt, dir, member, asks, None).await
    }

    /// The same for a member that leads the system group, until it is [retired](Control::retire).
    ///
    /// # Errors
    /// As [`Control::open`]; or the state is out of reach, because another member leads.
    pub async fn take_office(
        rt: &Rt,
        dir: &Path,
        member: Member,
        asks: Sender<Ask>,
        office: Office,
    ) -> io::Result<Self> {
        Self::open_for(rt, dir, member, asks, Some(office)).await
    }

    async fn open_for(
        rt: &Rt,
        dir: &Path,
        member: Member,
        asks: Sender<Ask>,
        office: Option<Office>,
    ) -> io::Result<Self> {
        assert!(
            member.member_id != 0 && member.cluster_id != 0 && !member.client_urls.is_empty(),
            "clients need a member to talk to"
        );
        let state = StateLink::new(asks, office.as_ref().map(|office| office.term));
        match state.read().await {
            Err(why) if office.is_some() => return Err(io::Error::other(why)),
            Ok(begun) => origin::settle(rt, dir, &member, &state, begun).await?,
            Err(why) => {
                tracing::error!(%why, "the node starts without the scheduler's state: no ids, no timestamps")
            }
        }
        let known = state.known(|image| {
            let stores: Vec<StoreDescriptor> = image.stores.values().cloned().collect();
            (image.config.clone(), stores, image.evicting.clone(), image.timestamp_end_ms)
        });
        let is_known = known.is_some();
        let (config, stores, evicting, end_ms) =
            known.unwrap_or_else(|| (initial_config(), Vec::new(), BTreeSet::new(), 0));
        let now = time(rt);
        let mut scheduler =
            Scheduler::new(config, rt.random(), now).expect("the state validates its configuration");
        for store in stores {
            scheduler.put_store(store, now).expect("the state admits stores by the same rule");
        }
        scheduler.set_evicting(evicting);
        let Range { start, end } = keyspace::borders();
        scheduler.keep_borders([Key::from(start), Key::from(end)]);
        let control = Self(Rc::new(Inner {
            rt: rt.clone(),
            member,
            state,
            scheduler: RefCell::new(scheduler),
            oracle: RefCell::new(Oracle::new(end_ms, wall_ms(rt))),
            oracle_is_set: Cell::new(is_known),
            ids: RefCell::new(0..0),
            extending: Cell::new(false),
            granting: Cell::new(false),
            entering: RefCell::default(),
            not_entered: RefCell::default(),
            urgent: Bell::default(),
            scattered: RefCell::default(),
            refused_reports: Cell::new(0),
            office,
            retired: Cell::new(false),
            group: RefCell::default(),
            places: RefCell::default(),
            lagging: RefCell::default(),
            heat: RefCell::default(),
        }));
        let ticking = control.clone();
        drop(rt.spawn(async move { ticking.tick_loop().await }));
        let looking = control.clone();
        drop(rt.spawn(async move { looking.heat_loop().await }));
        if control.0.office.is_some() {
            let members = control.clone();
            drop(rt.spawn(async move { members.membership_loop().await }));
        }
        Ok(control)
    }

    /// Another member leads now: this one gives out nothing more and runs no policies.
    pub fn retire(&self) {
        self.0.retired.set(true);
        self.0.urgent.ring();
    }

    /// Whether it is [retired](Self::retire).
    pub fn is_retired(&self) -> bool {
        self.0.retired.get()
    }

    /// Runs the policies, at the pace that each round asks for.
    async fn tick_loop(&self) {
        while !self.0.retired.get() {
            self.grant_ids_in_time();
            // Its instructions go out with the answers to the regions' next reports.
            let tick = self.0.scheduler.borrow_mut().tick(time(&self.0.rt));
            self.bury_drained().await;
            self.0.rt.sleep(ROUNDS_APART).await;
            let wait = Duration::from_millis(tick.wait_ms).saturating_sub(ROUNDS_APART);
            if !self.0.scheduler.borrow().is_urgent() {
                select(pin!(self.0.rt.sleep(wait)), pin!(self.0.urgent.wait())).await;
            }
        }
    }

    /// Lets the next round begin if something has happened that it should see at once.
    fn hurry(&self) {
        if self.0.scheduler.borrow().is_urgent() {
            self.0.urgent.ring();
        }
    }

    /// Reports that were stale or broken.
    pub fn refused_reports(&self) -> u64 {
        self.0.refused_reports.get()
    }

    /// What the scheduler says of the cluster and of itself.
    pub fn numbers(&self) -> SchedulerNumbers {
        SchedulerNumbers {
            summary: self.0.scheduler.borrow().summary(time(&self.0.rt)),
            refused_reports: self.refused_reports(),
        }
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

    /// Asks the map.
    pub(crate) fn map<T>(&self, ask: impl FnOnce(&Cluster) -> T) -> T {
        ask(self.0.scheduler.borrow().cluster())
    }

    /// For a walk over the map, which clients may make long.
    pub(crate) fn budget(&self) -> Budget {
        self.0.rt.budget()
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
