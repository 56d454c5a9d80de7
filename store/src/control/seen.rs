//! What operators are shown of the scheduler's view: how each store does, and what is being done to regions.
//!
//! Only reads, except that an operator which is seen can be ended here.

use scheduler::cluster::Counters;
use scheduler::operator::{Operator, OperatorId, Outcome};
use scheduler::{Health, RegionId, StoreDescriptor, StoreReport};

use super::{Control, time};

/// Operators that are over, of those that are shown.
const ENDED_MAX: usize = 10;

/// Silence after which a store is said to be silent: three reports are missed by then, which come once a second.
const MISSED_MS: u64 = 3_500;

/// A store as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenStore {
    /// Who it is.
    pub descriptor: StoreDescriptor,
    /// How it does.
    pub health: Health,
    /// Whether it has been heard since this scheduler began.
    pub heard: bool,
    /// How long it has been silent, or known if it has not been heard.
    pub silent_ms: u64,
    /// Whether it is to answer and has missed several reports in a row: long before it counts as disconnected.
    pub misses_reports: bool,
    /// What it said of itself last.
    pub report: Option<StoreReport>,
    /// What the map has of it.
    pub counters: Counters,
    /// Whether it is kept from leading.
    pub evicting: bool,
}

/// An operator that runs, or one of the last that did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenOperator {
    /// What it is.
    pub operator: Operator,
    /// What it came to, if it is over.
    pub outcome: Option<Outcome>,
    /// When it began, or when it ended.
    pub ago_ms: u64,
}

impl Control {
    /// Every store that has joined, by id.
    pub fn stores(&self) -> Vec<SeenStore> {
        let (scheduler, now) = (self.0.scheduler.borrow(), time(&self.0.rt));
        let evicting = self.0.state.known(|image| image.evicting.clone()).unwrap_or_default();
        let seen = |store: &scheduler::Store| SeenStore {
            descriptor: store.descriptor.clone(),
            health: store.health(now, scheduler.config()),
            heard: store.report.is_some(),
            silent_ms: now.ms_since(store.last_heard),
            misses_reports: store.health(now, scheduler.config()) == Health::Up
                && now.ms_since(store.last_heard) > MISSED_MS,
            report: store.report.clone(),
            counters: scheduler.cluster().counters(store.id()),
            evicting: evicting.contains(&store.id()),
        };
        scheduler.cluster().stores().map(seen).collect()
    }

    /// The operators that run, then the last that ended, latest first; of one region or of all.
    pub fn operators(&self, of: Option<RegionId>) -> Vec<SeenOperator> {
        let (scheduler, now) = (self.0.scheduler.borrow(), time(&self.0.rt));
        let operators = scheduler.operators();
        let is_meant = |operator: &Operator| of.is_none_or(|region| operator.region == region);
        let running = operators.iter().filter(|operator| is_meant(operator)).map(|operator| SeenOperator {
            operator: operator.clone(),
            outcome: None,
            ago_ms: now.ms_since(operator.created),
        });
        let latest: Vec<_> = operators.history().filter(|ended| is_meant(&ended.operator)).collect();
        let ended = latest.into_iter().rev().take(ENDED_MAX).map(|ended| SeenOperator {
            operator: ended.operator.clone(),
            outcome: Some(ended.outcome),
            ago_ms: now.ms_since(ended.at),
        });
        running.chain(ended).collect()
    }

    /// Ends the operator of a region; a step of it that has begun is finished all the same. Which one, if one ran.
    pub fn cancel_operator(&self, region: RegionId) -> Option<OperatorId> {
        let mut scheduler = self.0.scheduler.borrow_mut();
        let operator = scheduler.operators().get(region)?.id;
        scheduler.cancel(region, time(&self.0.rt));
        tracing::info!(region = region.0, operator = operator.0, "an operator is cancelled on request");
        Some(operator)
    }
}
