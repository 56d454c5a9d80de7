//! The scheduler as its host sees it: reports in, instructions out.
//!
//! ```text
//!   put_store ─┐                        ┌─▶ Instruction for a region's leader
//! report_store ─┤   map   ─▶ policies ─┤
//! report_region ┤ operators             └─▶ Refusal: why not
//!         tick ─┘
//! ```
//!
//! The host drives it with four kinds of calls: what it knows of stores, what stores and regions report, and
//! [`Scheduler::tick`], which runs one round of all policies and answers how long to wait before the next one; [`Scheduler::is_urgent`] says that the
//! next one should not wait. A region's report is answered
//! with the next step of its operator, if there is one; a fresh operator's first step comes out of the tick itself.
//! Every step is repeated with every report until it is seen to be done, so nothing is lost when a message is.
//!
//! It lives on the scheduler's leader and is soft: a new leader begins an empty one, fed from the replicated
//! [`State`](crate::state::State) and from reports. Ids are handed to it in blocks that the host has had allocated.

mod asked;
mod lagging;
mod round;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::ask::drain;
use crate::check::{replica, split};
use crate::cluster::{Cluster, RegionInfo, RegionRefusal, RegionReport, StoreRefusal};
use crate::config::{Config, ConfigError, Limits};
use crate::filter::{Refusal, View};
use crate::id::{PeerId, RegionId, StoreId};
use crate::operator::{
    CancelReason, Instruction, Operator, OperatorId, Operators, Outcome, Progress, Proposal, Step,
};
use crate::pace::Pace;
use crate::prepare::is_prepared;
use crate::range::Key;
use crate::rng::Rng;
use crate::store::{Lifecycle, StoreDescriptor, StoreReport};
use crate::time::Time;
use crate::verdict::{self, Elsewhere, Verdict};

pub use asked::{AdmitError, AskSplitError};
pub use summary::Summary;

/// When fewer ids than this are left, another block is wanted.
const IDS_LOW: u64 = 1_000;
/// How many ids are wanted at a time.
const IDS_BLOCK: u64 = 10_000;

/// Map, operators and policies under one roof; see the module.
#[derive(Clone, Debug)]
pub struct Scheduler {
    cluster: Cluster,
    operators: Operators,
    config: Config,
    limits: Limits,
    evicting: BTreeSet<StoreId>,
    ids: Range<u64>,
    rng: Rng,
    began: Time,
    prepared: bool,
    /// Regions that the checkers want to see, and the last one they have seen.
    attention: BTreeSet<RegionId>,
    attended: Option<RegionId>,
    /// Replicas that are not caught up, each with since when.
    lagging: BTreeMap<RegionId, Vec<(PeerId, Time)>>,
    /// Where the patrol over all regions goes on.
    patrol_from: Key,
    /// Where the look for small regions goes on.
    merge_from: Key,
    pace: Pace,
    /// Something has happened since the last round that gives the policies work.
    urgent: bool,
}

/// What one round of all policies came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// First steps of the operators that were admitted.
    pub instructions: Vec<Instruction>,
    /// For each policy that wanted no more: why.
    pub refusals: Vec<Refusal>,
    /// Proposals that did not become operators, and why: ids were used up, or another policy came first.
    pub declined: Vec<(Proposal, AdmitError)>,
    /// How many operators were admitted.
    pub admitted: usize,
    /// How long the host should wait before the next round; zero where this was none.
    pub wait_ms: u64,
}

impl Scheduler {
    /// A scheduler with an empty map, begun at `now`.
    ///
    /// # Errors
    /// [`ConfigError`] where the configuration cannot work.
    pub fn new(config: Config, seed: u64, now: Time) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut cluster = Cluster::new();
        cluster.set_weight_floor(config.region_size_floor_bytes);
        cluster.begin(now);
        Ok(Self {
            cluster,
            operators: Operators::new(),
            limits: config.limits(),
            config,
            evicting: BTreeSet::new(),
            ids: 0..0,
            rng: Rng::new(seed),
            began: now,
            prepared: false,
            attention: BTreeSet::new(),
            attended: None,
            lagging: BTreeMap::new(),
            patrol_from: Key::empty(),
            merge_from: Key::empty(),
            pace: Pace::default(),
            urgent: false,
        })
    }

    /// The map.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What is being done.
    #[must_use]
    pub const fn operators(&self) -> &Operators {
        &self.operators
    }

    /// What is aimed at.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Replaces the configuration; takes effect with the next decision.
    ///
    /// # Errors
    /// [`ConfigError`] where it cannot work; the old one then stays.
    pub fn set_config(&mut self, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.limits = config.limits();
        self.config = config;
        self.cluster.set_weight_floor(self.config.region_size_floor_bytes);
        self.urgent = true;
        let (config, cluster) = (&self.config, &self.cluster);
        let wanted = cluster.regions().filter(|info| wants_attention(info, config));
        self.attention = wanted.map(RegionInfo::id).collect();
        Ok(())
    }

    /// Enters a store or changes what is known of it, as the replicated state says.
    ///
    /// # Errors
    /// [`StoreRefusal`], as for [`Cluster::put_store`].
    pub fn put_store(&mut self, store: StoreDescriptor, now: Time) -> Result<(), StoreRefusal> {
        self.cluster.put_store(store, now)
    }

    /// Regions that meet at one of these keys are not merged.
    pub fn keep_borders(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.cluster.keep_borders(keys);
    }

    /// Sets which stores are not to lead.
    pub fn set_evicting(&mut self, stores: BTreeSet<StoreId>) {
        self.evicting = stores;
    }

    /// Takes a store's report.
    ///
    /// # Errors
    /// [`StoreRefusal`], as for [`Cluster::report_store`].
    pub fn report_store(&mut self, report: StoreReport, now: Time) -> Result<(), StoreRefusal> {
        let id = report.store;
        let was_heard = self.cluster.store(id).is_some_and(|store| store.is_live(now, &self.config));
        self.cluster.report_store(report, now)?;
        self.urgent |= !was_heard && self.is_node_heard(id, now);
        Ok(())
    }

    /// Whether every store in use on the node of this one is heard. A round between the first reports of two stores of one node would
    /// see room on the first alone, and what it puts there stays.
    fn is_node_heard(&self, id: StoreId, now: Time) -> bool {
        let Some(store) = self.cluster.store(id) else { return true };
        let mut siblings = self.cluster.stores().filter(|other| other.node() == store.node());
        siblings.all(|other| other.descriptor.lifecycle != Lifecycle::Up || other.is_live(now, &self.config))
    }

    /// Whether the next round should not wait: since the last one a store was heard for the first time or again and with it all of its
    /// node, an operator has ended, or the configuration is another.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// How many ids should be allocated and handed in by [`Scheduler::grant_ids`], if any.
    #[must_use]
    pub fn ids_wanted(&self) -> Option<u64> {
        (self.ids.end - self.ids.start < IDS_LOW).then_some(IDS_BLOCK)
    }

    /// Hands in a block of ids that no other host has. What is left of the block before it is dropped: ids are plenty.
    pub fn grant_ids(&mut self, ids: Range<u64>) {
        self.ids = if ids.is_empty() { 0..0 } else { ids };
    }

    /// Takes a region's report and answers the next step of its operator, if there is one to send.
    ///
    /// # Errors
    /// [`RegionRefusal`] where the report is stale, contradictory or without a leader; the map is then as it was.
    pub fn report_region(
        &mut self,
        report: RegionReport,
        now: Time,
    ) -> Result<Option<Instruction>, RegionRefusal> {
        let id = report.region.id;
        if report.leader.is_none() {
            return Err(RegionRefusal::NoLeader { region: id });
        }
        let uncut = report.uncut;
        let oversized = report.size_bytes > self.config.region_size_max_bytes;
        let before = self.cluster.region(id).map(|info| (Incarnation::of(info), info.busy_since()));
        // What is reported before anything is acted on is as old as the map.
        let is_cut = self.prepared && self.cluster.shows_cut(&report.region);
        let accepted = self.cluster.report_region(report)?;
        if is_cut {
            self.cluster.note_cut(id, now);
        }
        let busy = self.note_busy(id, before, now);
        self.note_lagging(id, now);
        for displaced in accepted.displaced {
            self.forget(displaced, id, now);
        }
        if accepted.changed || oversized || busy || !self.attention.is_empty() {
            let wanted = self.cluster.region(id).is_some_and(|info| wants_attention(info, &self.config));
            if wanted {
                self.attention.insert(id)
            } else {
                self.attention.remove(&id)
            };
        }
        if let Some(operator) = uncut {
            self.end_uncut(id, operator, now);
        }
        Ok(self.drive(id, now))
    }

    /// Remembers since when a region is busier than it is to be, and answers whether it is. A region that was split, or is led elsewhere, has
    /// to show anew how busy it is: its rates are in part those of what it was.
    fn note_busy(&mut self, id: RegionId, before: Option<(Incarnation, Option<Time>)>, now: Time) -> bool {
        let Some(info) = self.cluster.region(id) else { return false };
        let is_busy = split::is_busy(&self.config, info);
        let known = before.filter(|(incarnation, _)| *incarnation == Incarnation::of(info));
        let since = is_busy.then(|| known.and_then(|(_, since)| since).unwrap_or(now));
        if info.busy_since() != since {
            self.cluster.set_busy_since(id, since);
        }
        is_busy
    }

    /// Ends a split for which there is too little data. It would be repeated until its time is over otherwise, and keep others away.
    fn end_uncut(&mut self, region: RegionId, uncut: OperatorId, now: Time) {
        let is_meant = |operator: &Operator| {
            operator.id == uncut && matches!(operator.current(), Some(Step::Split { .. }))
        };
        if !self.operators.get(region).is_some_and(is_meant) {
            return;
        }
        if let Some(operator) = self.operators.take(region) {
            let outcome = Outcome::Cancelled(CancelReason::TooLittleData);
            self.operators.end(operator, outcome, now, &self.config);
            self.urgent = true;
        }
    }

    /// Forgets a region that another one has displaced. Where that one is what a split was to make of it, the split is done: parts report in
    /// any order. So is a merge where that one was to take it in.
    fn forget(&mut self, region: RegionId, by: RegionId, now: Time) {
        self.attention.remove(&region);
        self.lagging.remove(&region);
        if let Some(operator) = self.operators.take(region) {
            let outcome = match operator.makes(by) || operator.ends_in(by) {
                true => Outcome::Success,
                false => Outcome::Cancelled(CancelReason::RegionGone),
            };
            self.operators.end(operator, outcome, now, &self.config);
        }
    }

    /// Drives a region's operator by what the map shows.
    fn drive(&mut self, region: RegionId, now: Time) -> Option<Instruction> {
        let mut operator = self.operators.take(region)?;
        let Some(info) = self.cluster.region(region) else {
            let outcome = Outcome::Cancelled(CancelReason::RegionGone);
            self.operators.end(operator, outcome, now, &self.config);
            return None;
        };
        // A step is judged by the region and the stores alone, not by what else is in flight.
        let influence = crate::operator::Influence::new();
        let view = View {
            cluster: &self.cluster,
            config: &self.config,
            limits: self.limits,
            operators: &self.operators,
            influence: &influence,
            evicting: &self.evicting,
            now,
        };
        match operator.drive(info, &view) {
            Progress::Send(action) => {
                let leader = info.leader.and_then(|leader| info.region.peer(leader)).copied();
                let (epoch, id) = (info.region.epoch, operator.id);
                self.operators.put_back(operator);
                leader.map(|leader| Instruction { region, epoch, leader, operator: id, action })
            }
            Progress::Wait(_) => {
                self.operators.put_back(operator);
                None
            }
            Progress::End(outcome) => {
                self.operators.end(operator, outcome, now, &self.config);
                // What this region needs next, or another for which this one was in the way, may begin.
                self.urgent = true;
                None
            }
        }
    }

    /// Whether enough has been reported to act on; once true it stays so.
    pub fn prepare(&mut self, now: Time) -> bool {
        self.prepared = self.prepared || is_prepared(&self.cluster, &self.config, self.began, now);
        self.prepared
    }

    /// Every policy's opinion of one region: what it would do, or why it does not.
    #[must_use]
    pub fn why(&self, region: RegionId, now: Time) -> Vec<Result<Proposal, Refusal>> {
        let influence = self.operators.influence(&self.cluster, &self.config);
        let view = self.view(&influence, now);
        self.cluster.region(region).map_or_else(Vec::new, |info| crate::why::why(&view, info))
    }

    /// Why a region is as it is, and for each store that has none of its replicas why it gets none; nothing if it is not known.
    #[must_use]
    pub fn verdict_of_region(&self, region: RegionId, now: Time) -> Option<(Verdict, Elsewhere)> {
        let influence = self.operators.influence(&self.cluster, &self.config);
        let view = self.view(&influence, now);
        let info = self.cluster.region(region)?;
        let stores = verdict::no_replica_on(&view, info).collect();
        Some((verdict::of_region(&view, info, self.prepared), stores))
    }

    /// Why a store is as it is; nothing if it is not known.
    #[must_use]
    pub fn verdict_of_store(&self, store: StoreId, now: Time) -> Option<Verdict> {
        let influence = self.operators.influence(&self.cluster, &self.config);
        let view = self.view(&influence, now);
        Some(verdict::of_store(&view, self.cluster.store(store)?, self.prepared))
    }

    /// Offline stores that hold nothing any more and may be buried.
    #[must_use]
    pub fn drained(&self, now: Time) -> Vec<StoreId> {
        let influence = self.operators.influence(&self.cluster, &self.config);
        let view = self.view(&influence, now);
        drain::leaving(&view).filter(|store| drain::is_drained(&view, *store)).collect()
    }

    /// Everything a policy may look at, with this influence.
    #[must_use]
    pub const fn view<'a>(&'a self, influence: &'a crate::operator::Influence, now: Time) -> View<'a> {
        View {
            cluster: &self.cluster,
            config: &self.config,
            limits: self.limits,
            operators: &self.operators,
            influence,
            evicting: &self.evicting,
            now,
        }
    }

    fn no_influence(&self) -> crate::operator::Influence {
        crate::operator::Influence::new()
    }
}

fn wants_attention(info: &RegionInfo, config: &Config) -> bool {
    replica::wants_attention(info, config.max_replicas)
        || info.size_bytes > config.region_size_max_bytes
        || split::is_busy(config, info)
}

/// What a region's load was measured of: its range and who leads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Incarnation {
    version: u64,
    leader: Option<PeerId>,
}

impl Incarnation {
    const fn of(info: &RegionInfo) -> Self {
        Self { version: info.region.epoch.version, leader: info.leader }
    }
}
