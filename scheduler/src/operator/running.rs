//! The operators that run, at most one for each region, and the outcomes of those that ran. One that merges a region into another is the
//! one of both.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use super::influence::Influence;
use super::placed::Placed;
use super::{Cause, Kinds, Operator, OperatorId, Outcome, Policy, Priority};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::epoch::Epoch;
use crate::id::RegionId;
use crate::time::Time;

/// An operator that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The operator as it was.
    pub operator: Operator,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub at: Time,
}

/// What can be said of a region's last operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status<'a> {
    /// It runs.
    Running(&'a Operator),
    /// It is over.
    Ended(&'a Ended),
}

/// Running operators by region, and the history.
#[derive(Clone, Debug, Default)]
pub struct Operators {
    running: BTreeMap<RegionId, Operator>,
    /// Regions that are to take others in, each with the one whose operator runs.
    held: BTreeMap<RegionId, RegionId>,
    counts: BTreeMap<Policy, u64>,
    history: VecDeque<Ended>,
    /// How many ended, also of those that the history has forgotten.
    ended: BTreeMap<(Policy, &'static str), u64>,
    /// How many splits by load were done.
    load_splits: u64,
    placed: Placed,
    last_id: OperatorId,
}

impl Operators {
    /// None running, none known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Admits an operator and names it.
    ///
    /// # Errors
    /// [`AddRefusal`] where the region is unknown or has another epoch, has an operator of the same or a higher
    /// priority, or where as many operators of that policy run as may.
    pub fn add(
        &mut self,
        mut operator: Operator,
        cluster: &Cluster,
        config: &Config,
        now: Time,
    ) -> Result<OperatorId, AddRefusal> {
        self.may_add(&operator, cluster, config)?;
        self.last_id.0 += 1;
        operator.id = self.last_id;
        for region in operator.regions() {
            let holder = self.get(region).map(|running| running.region);
            if let Some(replaced) = holder.and_then(|holder| self.take(holder)) {
                self.end(replaced, Outcome::Replaced(operator.id), now, config);
            }
        }
        self.put_back(operator);
        Ok(self.last_id)
    }

    /// Whether [`Operators::add`] would take an operator now.
    pub(crate) fn may_add(
        &self,
        operator: &Operator,
        cluster: &Cluster,
        config: &Config,
    ) -> Result<(), AddRefusal> {
        let region = operator.region;
        let info = cluster.region(region).ok_or(AddRefusal::UnknownRegion(region))?;
        if info.region.epoch != operator.origin {
            return Err(AddRefusal::EpochMoved {
                region,
                origin: operator.origin,
                current: info.region.epoch,
            });
        }
        for region in operator.regions() {
            if let Some(running) = self.get(region)
                && running.policy.priority() >= operator.policy.priority()
            {
                let (by, priority) = (running.id, running.policy.priority());
                return Err(AddRefusal::Occupied { region, by, priority });
            }
        }
        if !self.has_room(operator.policy, config) {
            let limit = config.limit_of(operator.policy);
            return Err(AddRefusal::LimitReached { policy: operator.policy, limit });
        }
        Ok(())
    }

    /// Whether another operator of this policy may run.
    #[must_use]
    pub fn has_room(&self, policy: Policy, config: &Config) -> bool {
        self.count_of(policy) < config.limit_of(policy)
    }

    /// How many operators of this policy run.
    #[must_use]
    pub fn count_of(&self, policy: Policy) -> u64 {
        self.counts.get(&policy).copied().unwrap_or(0)
    }

    /// How many operators run that move all of this.
    #[must_use]
    pub fn count(&self, kinds: Kinds) -> usize {
        self.running.values().filter(|operator| operator.kinds.contains(kinds)).count()
    }

    /// How many operators run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether no operator runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The operator of a region, or the one that merges another into it, if one runs.
    #[must_use]
    pub fn get(&self, region: RegionId) -> Option<&Operator> {
        let holder = || self.running.get(self.held.get(&region)?);
        self.running.get(&region).or_else(holder)
    }

    /// All running operators, by region.
    pub fn iter(&self) -> impl Iterator<Item = &Operator> {
        self.running.values()
    }

    /// Outcomes, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Ended> {
        self.history.iter()
    }

    /// Those that ended in the last `ms`, latest first.
    pub fn ended_within(&self, ms: u64, now: Time) -> impl Iterator<Item = &Ended> {
        self.history.iter().rev().take_while(move |ended| now.ms_since(ended.at) < ms)
    }

    /// How many operators of this policy ended with an outcome of this [name](Outcome::name).
    #[must_use]
    pub fn ended(&self, policy: Policy, outcome: &'static str) -> u64 {
        self.ended.get(&(policy, outcome)).copied().unwrap_or(0)
    }

    /// How many regions were split because they were too busy.
    #[must_use]
    pub const fn load_splits(&self) -> u64 {
        self.load_splits
    }

    /// The regions that a person has placed lately.
    #[must_use]
    pub const fn placed(&self) -> &Placed {
        &self.placed
    }

    /// The running operator of a region, else the last one that ended and is still remembered.
    #[must_use]
    pub fn status(&self, region: RegionId) -> Option<Status<'_>> {
        let running = self.get(region).map(Status::Running);
        let ended =
            || self.history.iter().rev().find(|ended| ended.operator.region == region).map(Status::Ended);
        running.or_else(ended)
    }

    /// Takes a region's operator out to drive it; [`Operators::put_back`] or [`Operators::end`] follows.
    pub(crate) fn take(&mut self, region: RegionId) -> Option<Operator> {
        let operator = self.running.remove(&region)?;
        if let Some(count) = self.counts.get_mut(&operator.policy) {
            *count -= 1;
        }
        operator.merges_into().map(|into| self.held.remove(&into));
        Some(operator)
    }

    pub(crate) fn put_back(&mut self, operator: Operator) {
        *self.counts.entry(operator.policy).or_default() += 1;
        operator.merges_into().map(|into| self.held.insert(into, operator.region));
        self.running.insert(operator.region, operator);
    }

    /// Writes an outcome down and forgets those that are too old or too many.
    pub(crate) fn end(&mut self, operator: Operator, outcome: Outcome, now: Time, config: &Config) {
        *self.ended.entry((operator.policy, outcome.name())).or_default() += 1;
        self.load_splits += u64::from(operator.cause == Cause::Busy && outcome == Outcome::Success);
        if operator.policy == Policy::Admin && operator.places() && outcome == Outcome::Success {
            self.placed.note(operator.region, now);
        }
        self.history.push_back(Ended { operator, outcome, at: now });
        self.forget(now, config);
    }

    pub(crate) fn forget(&mut self, now: Time, config: &Config) {
        let too_many = |history: &VecDeque<Ended>| history.len() as u64 > config.history_max;
        let too_old = |ended: &Ended| now.ms_since(ended.at) > config.history_keep_ms;
        while too_many(&self.history) || self.history.front().is_some_and(too_old) {
            self.history.pop_front();
        }
    }

    /// What all running operators are about to change.
    #[must_use]
    pub fn influence(&self, cluster: &Cluster, config: &Config) -> Influence {
        let mut influence = Influence::new();
        for operator in self.running.values() {
            if let Some(info) = cluster.region(operator.region) {
                operator.add_influence(info, config.weight_bytes(info.size_bytes), &mut influence);
            }
        }
        influence
    }
}

/// Why an operator is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddRefusal {
    /// No such region is known.
    UnknownRegion(RegionId),
    /// The region has changed since.
    EpochMoved {
        /// The region.
        region: RegionId,
        /// The epoch that the operator was thought out against.
        origin: Epoch,
        /// The epoch that is known.
        current: Epoch,
    },
    /// The region has an operator of the same or a higher priority.
    Occupied {
        /// The region.
        region: RegionId,
        /// Its operator.
        by: OperatorId,
        /// Its priority.
        priority: Priority,
    },
    /// As many operators of the policy run as may.
    LimitReached {
        /// The policy.
        policy: Policy,
        /// How many may run.
        limit: u64,
    },
}

impl fmt::Display for AddRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownRegion(region) => write!(f, "{region} is not known"),
            Self::EpochMoved { region, origin, current } => {
                write!(f, "{region} has moved on from epoch {origin} to {current}")
            }
            Self::Occupied { region, by, priority } => {
                write!(f, "{region} has operator {} of {priority:?} priority", by.0)
            }
            Self::LimitReached { policy, limit } => {
                write!(f, "{limit} operators of {policy} run, which is its limit")
            }
        }
    }
}

impl std::error::Error for AddRefusal {}
