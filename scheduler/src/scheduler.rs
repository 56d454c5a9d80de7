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
//! [`Scheduler::tick`] at an interval of its choice, which runs one round of all policies. A region's report is answered
//! with the next step of its operator, if there is one; a fresh operator's first step comes out of the tick itself.
//! Every step is repeated with every report until it is seen to be done, so nothing is lost when a message is.
//!
//! It lives on the scheduler's leader and is soft: a new leader begins an empty one, fed from the replicated
//! [`State`](crate::state::State) and from reports. Ids are handed to it in blocks that the host has had allocated.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Bound, Range};

use crate::ask::{drain, evict, presplit, scatter};
use crate::balance::{Round, core, hot, leader, region};
use crate::check::{replica, split};
use crate::cluster::{Cluster, RegionInfo, RegionRefusal, RegionReport, StoreRefusal};
use crate::config::{Config, ConfigError, Limits};
use crate::filter::{Reason, Refusal, View};
use crate::id::{RegionId, StoreId};
use crate::operator::{
    AddRefusal, BuildError, CancelReason, Instruction, NewRegion, Operator, Operators, Outcome, Policy,
    Progress, Proposal,
};
use crate::placement::Board;
use crate::prepare::is_prepared;
use crate::range::Key;
use crate::region::Region;
use crate::rng::Rng;
use crate::store::{StoreDescriptor, StoreReport};
use crate::time::Time;

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
    /// Where the patrol over all regions goes on.
    patrol_from: Key,
}

/// What one round of all policies came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// First steps of the operators that were admitted.
    pub instructions: Vec<Instruction>,
    /// For each policy that wanted no more: why.
    pub refusals: Vec<Refusal>,
    /// How many operators were admitted.
    pub admitted: usize,
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
            patrol_from: Key::empty(),
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

    /// Sets which stores are not to lead.
    pub fn set_evicting(&mut self, stores: BTreeSet<StoreId>) {
        self.evicting = stores;
    }

    /// Takes a store's report.
    ///
    /// # Errors
    /// [`StoreRefusal`], as for [`Cluster::report_store`].
    pub fn report_store(&mut self, report: StoreReport, now: Time) -> Result<(), StoreRefusal> {
        self.cluster.report_store(report, now)
    }

    /// How many ids should be allocated and handed in by [`Scheduler::grant_ids`], if any.
    #[must_use]
    pub fn ids_wanted(&self) -> Option<u64> {
        (self.ids.end - self.ids.start < IDS_LOW).then_some(IDS_BLOCK)
    }

    /// Hands in a block of ids that nobody else has. What is left of the block before it is dropped: ids are plenty.
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
        let oversized = report.size_bytes > self.config.region_size_max_bytes;
        let accepted = self.cluster.report_region(report)?;
        for displaced in accepted.displaced {
            self.forget(displaced, now);
        }
        if accepted.changed || oversized || !self.attention.is_empty() {
            let wanted = self.cluster.region(id).is_some_and(|info| wants_attention(info, &self.config));
            if wanted {
                self.attention.insert(id)
            } else {
                self.attention.remove(&id)
            };
        }
        Ok(self.drive(id, now))
    }

    fn forget(&mut self, region: RegionId, now: Time) {
        self.attention.remove(&region);
        if let Some(operator) = self.operators.take(region) {
            let outcome = Outcome::Cancelled(CancelReason::RegionGone);
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
        // A step is judged by the region and the stores alone, not by what else is under way.
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
                None
            }
        }
    }

    /// Whether enough has been reported to act on; once true it stays so.
    pub fn prepare(&mut self, now: Time) -> bool {
        self.prepared = self.prepared || is_prepared(&self.cluster, &self.config, self.began, now);
        self.prepared
    }

    /// Runs one round of all policies.
    pub fn tick(&mut self, now: Time) -> Tick {
        let mut tick = Tick::default();
        self.end_overdue(now);
        if !self.prepare(now) {
            tick.refusals.push(Refusal::new(Policy::ReplicaCheck, Reason::Preparing));
            return tick;
        }
        let influence = self.operators.influence(&self.cluster, &self.config);
        let mut board = Board::new(&self.view(&influence, now));
        for policy in Self::ROUND {
            self.run(policy, &mut board, now, &mut tick);
        }
        tick
    }

    /// What a round consists of: repairs first, then what somebody asked for, then what would be nicer.
    const ROUND: [Policy; 8] = [
        Policy::ReplicaCheck,
        Policy::Drain,
        Policy::SplitCheck,
        Policy::EvictLeader,
        Policy::BalanceRegion,
        Policy::BalanceLeader,
        Policy::HotRegion,
        Policy::BalanceCore,
    ];

    fn run(&mut self, policy: Policy, board: &mut Board, now: Time, tick: &mut Tick) {
        if !self.config.is_enabled(policy) {
            tick.refusals.push(Refusal::new(policy, Reason::Disabled));
            return;
        }
        let limit = self.config.limit_of(policy);
        let left = self.config.round_operators_max.saturating_sub(tick.admitted as u64);
        if left == 0 {
            tick.refusals.push(Refusal::new(policy, Reason::RoundFull(self.config.round_operators_max)));
            return;
        }
        let room = limit.saturating_sub(self.operators.count_of(policy)).min(left);
        let Some(max) = usize::try_from(room).ok().filter(|room| *room > 0) else {
            tick.refusals.push(Refusal::new(policy, Reason::LimitReached(limit)));
            return;
        };
        let round = self.round_of(policy, board, now, max);
        tick.refusals.extend(round.refusal);
        for proposal in round.proposals {
            if let Ok(instruction) = self.admit(&proposal, now) {
                tick.admitted += 1;
                tick.instructions.extend(instruction);
            }
        }
    }

    fn round_of(&mut self, policy: Policy, board: &mut Board, now: Time, max: usize) -> Round {
        let mut rng = self.rng.clone();
        let patrol = usize::try_from(self.config.patrol_batch_regions).unwrap_or(usize::MAX);
        let batch = match policy {
            Policy::ReplicaCheck => self.next_batch(patrol),
            Policy::SplitCheck => self.to_split().take(patrol).collect(),
            _ => Vec::new(),
        };
        let influence = match policy {
            // The steps of what was begun a moment ago tell more than its proposals did, such as who will lead.
            Policy::EvictLeader | Policy::BalanceLeader | Policy::HotRegion | Policy::BalanceCore => {
                self.operators.influence(&self.cluster, &self.config)
            }
            _ => board.influence().clone(),
        };
        let view = self.view(&influence, now);
        let round = match policy {
            Policy::ReplicaCheck => check_replicas(&view, board, &batch, max),
            Policy::SplitCheck => check_splits(&view, &batch, max),
            Policy::Drain => drain::propose(&view, board, patrol, max),
            Policy::EvictLeader => evict::propose(&view, max),
            Policy::BalanceRegion => region::propose(&view, board, &mut rng, max),
            Policy::BalanceLeader => leader::propose(&view, &mut rng, max),
            Policy::HotRegion => hot::propose(&view, &mut rng, max),
            Policy::BalanceCore => core::propose(&view, &mut rng, max),
            Policy::Scatter | Policy::PreSplit | Policy::Admin => Round::default(),
        };
        self.rng = rng;
        round
    }

    /// The regions that look as if they should be split.
    fn to_split(&self) -> impl Iterator<Item = RegionId> {
        let known = self.attention.iter().filter_map(|region| self.cluster.region(*region));
        known.filter(|info| split::cause(&self.config, info).is_some()).map(RegionInfo::id)
    }

    /// The regions that the checkers look at in this round: some that want attention, and the patrol's next ones.
    fn next_batch(&mut self, max: usize) -> Vec<RegionId> {
        let after = self.attended.map_or(Bound::Unbounded, Bound::Excluded);
        let mut batch: Vec<RegionId> =
            self.attention.range((after, Bound::Unbounded)).copied().take(max).collect();
        self.attended = if batch.len() < max { None } else { batch.last().copied() };
        let mut end = Key::empty();
        for info in self.cluster.regions_from(&self.patrol_from, max) {
            end = info.region.range.end().clone();
            batch.push(info.id());
        }
        self.patrol_from = end;
        batch
    }

    /// Makes an operator of a proposal, admits it, and answers its first step.
    ///
    /// # Errors
    /// [`AdmitError`] where it cannot be built or is not admitted.
    pub fn admit(&mut self, proposal: &Proposal, now: Time) -> Result<Option<Instruction>, AdmitError> {
        let mut ids = std::mem::replace(&mut self.ids, 0..0);
        let influence = self.no_influence();
        let built = proposal.build(&self.view(&influence, now), &mut || ids.next());
        self.ids = ids;
        self.add(built.map_err(AdmitError::Build)?, now)
    }

    /// Admits an operator that somebody has made, and answers its first step.
    ///
    /// # Errors
    /// [`AdmitError::Add`] where it is not admitted.
    pub fn add(&mut self, operator: Operator, now: Time) -> Result<Option<Instruction>, AdmitError> {
        let region = operator.region;
        self.operators.add(operator, &self.cluster, &self.config, now).map_err(AdmitError::Add)?;
        Ok(self.drive(region, now))
    }

    /// Ends a region's operator. Whether there was one.
    pub fn cancel(&mut self, region: RegionId, now: Time) -> bool {
        let Some(operator) = self.operators.take(region) else { return false };
        self.operators.end(operator, Outcome::Cancelled(CancelReason::Requested), now, &self.config);
        true
    }

    /// Ids for a split that the region's store has thought of.
    ///
    /// # Errors
    /// [`AskSplitError`] where the region is not known at its start key, the store's view of it is stale, or ids are
    /// used up.
    pub fn ask_split(&mut self, asked: &Region) -> Result<NewRegion, AskSplitError> {
        let known = self.cluster.region_at(asked.range.start()).filter(|info| info.id() == asked.id);
        let known = known.ok_or(AskSplitError::Unknown(asked.id))?;
        if asked.epoch.is_stale_against(known.region.epoch) {
            return Err(AskSplitError::Stale(asked.id));
        }
        let needed = asked.peers.len() as u64 + 1;
        if self.ids.end - self.ids.start < needed {
            return Err(AskSplitError::OutOfIds);
        }
        let region = RegionId(self.ids.start);
        let peers = (self.ids.start + 1..self.ids.start + needed).map(crate::id::PeerId).collect();
        self.ids.start += needed;
        Ok(NewRegion { region, peers })
    }

    /// Spreads a group of regions by one step each; called again until nothing is admitted.
    pub fn scatter(&mut self, group: &[RegionId], now: Time) -> Tick {
        let influence = self.operators.influence(&self.cluster, &self.config);
        let round = scatter::propose(&self.view(&influence, now), group, group.len());
        self.admit_all(round, now)
    }

    /// Splits at these keys.
    pub fn presplit(&mut self, keys: &[Key], now: Time) -> Tick {
        let influence = self.no_influence();
        let round = presplit::propose(&self.view(&influence, now), keys);
        self.admit_all(round, now)
    }

    fn admit_all(&mut self, round: Round, now: Time) -> Tick {
        let mut tick = Tick { refusals: round.refusal.into_iter().collect(), ..Tick::default() };
        for proposal in round.proposals {
            if let Ok(instruction) = self.admit(&proposal, now) {
                tick.admitted += 1;
                tick.instructions.extend(instruction);
            }
        }
        tick
    }

    /// Every policy's opinion of one region: what it would do, or why it does not.
    #[must_use]
    pub fn why(&self, region: RegionId, now: Time) -> Vec<Result<Proposal, Refusal>> {
        let influence = self.operators.influence(&self.cluster, &self.config);
        let view = self.view(&influence, now);
        self.cluster.region(region).map_or_else(Vec::new, |info| crate::why::why(&view, info))
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

    /// Operators end in time even if their region never reports again.
    fn end_overdue(&mut self, now: Time) {
        let influence = self.no_influence();
        let view = self.view(&influence, now);
        let overdue = self.operators.iter().filter(|operator| operator.is_over(&view));
        let overdue: Vec<RegionId> = overdue.map(|operator| operator.region).collect();
        for region in overdue {
            if let Some(operator) = self.operators.take(region) {
                self.operators.end(operator, Outcome::Timeout, now, &self.config);
            }
        }
        self.operators.forget(now, &self.config);
    }
}

fn wants_attention(info: &RegionInfo, config: &Config) -> bool {
    let busy = config.region_split_ops > 0 && info.load.ops() > config.region_split_ops;
    replica::wants_attention(info, config.max_replicas)
        || info.size_bytes > config.region_size_max_bytes
        || busy
}

fn check_replicas(view: &View<'_>, board: &mut Board, batch: &[RegionId], max: usize) -> Round {
    let mut round = Round::default();
    let mut seen = BTreeSet::new();
    for info in batch.iter().filter_map(|region| view.cluster.region(*region)) {
        if round.proposals.len() >= max {
            break;
        }
        if !seen.insert(info.id()) {
            continue;
        }
        match replica::check(view, board, info, Policy::ReplicaCheck) {
            Ok(proposal) => {
                board.count(view, info, &proposal.intent);
                round.proposals.push(proposal);
            }
            Err(refusal) if refusal.reason == Reason::Content => {}
            Err(refusal) => round.refusal = Some(refusal),
        }
    }
    round
}

fn check_splits(view: &View<'_>, batch: &[RegionId], max: usize) -> Round {
    let mut round = Round::default();
    for info in batch.iter().filter_map(|region| view.cluster.region(*region)) {
        if round.proposals.len() >= max {
            break;
        }
        match split::check(view, info) {
            Ok(proposal) => round.proposals.push(proposal),
            Err(refusal) if refusal.reason == Reason::Content => {}
            Err(refusal) => round.refusal = Some(refusal),
        }
    }
    round
}

/// Why a proposal or an operator is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmitError {
    /// No operator can be made of it.
    Build(BuildError),
    /// The operator is not admitted.
    Add(AddRefusal),
}

impl fmt::Display for AdmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(error) => write!(f, "{error}"),
            Self::Add(refusal) => write!(f, "{refusal}"),
        }
    }
}

impl std::error::Error for AdmitError {}

/// Why a store gets no ids for a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskSplitError {
    /// The region is not known at the start of its range.
    Unknown(RegionId),
    /// Something newer is known of the region.
    Stale(RegionId),
    /// No ids are left; ask again in a moment.
    OutOfIds,
}

impl fmt::Display for AskSplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(region) => write!(f, "{region} is not known at its start key; report it first"),
            Self::Stale(region) => write!(f, "something newer is known of {region}"),
            Self::OutOfIds => f.write_str("no ids are left; ask again in a moment"),
        }
    }
}

impl std::error::Error for AskSplitError {}
