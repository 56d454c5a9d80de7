//! Splits of regions that are too large to move or too busy for one core.
//!
//! | a region | is cut |
//! |---|---|
//! | above [`Config::region_size_max_bytes`] | where its leader finds the middle |
//! | above [`Config::region_split_ops`] | at a key that its leader has found by samples of requests, so that both parts bear load |
//!
//! What is decided here is that it be done, so that the ids come from the one place that hands them out. A store may also ask by itself; it
//! then gets ids and nothing else.
//!
//! # What ends splits by load
//! A split costs the clients of a region a moment, and more regions cost everyone a little. So a busy region is cut only
//! * if there is another store that part of its load could go to;
//! * if it bears more than half of what a store bears on average: from parts no larger than that even cores can be made, however
//!   high the load is;
//! * if it was that busy for [`BUSY_MS`] without a break, as it is now: where it is, and since it was last cut;
//! * if there is a key that leaves load on either side. Where one key bears it all, no cut helps.

use crate::cluster::RegionInfo;
use crate::config::Config;
use crate::filter::{Reason, Refusal, View};
use crate::load::LoadCut;
use crate::operator::{CancelReason, Cause, Intent, Outcome, Policy, Proposal, Status};
use crate::range::Key;

/// How long a region is left alone in which no key to split at was found.
const UNCUT_REST_MS: u64 = 60_000;
/// How long a region must be busy before it is split for it: as long as rates look back, twice.
pub const BUSY_MS: u64 = 10_000;
/// A region that bears no more than this part of what a store bears on average is not split for its load.
const STORE_PART: i64 = 2;

/// Whether the region is to be split.
///
/// # Errors
/// [`Refusal`] where it is neither too large nor too busy, or must not be touched now.
pub fn check(view: &View<'_>, info: &RegionInfo) -> Result<Proposal, Refusal> {
    Splits::new(view).check(info)
}

/// What makes the region one to split, if anything does.
#[must_use]
pub fn cause(view: &View<'_>, info: &RegionInfo) -> Option<Cause> {
    Splits::new(view).cause(info)
}

/// Whether the region has more load than one is to bear.
#[must_use]
pub fn is_busy(config: &Config, info: &RegionInfo) -> bool {
    config.region_split_ops > 0 && info.load.weighted_ops() > config.region_split_ops
}

/// The same questions about many regions.
#[derive(Clone, Copy, Debug)]
pub struct Splits<'a> {
    view: &'a View<'a>,
    /// Beyond this load a region is worth being split; nothing where there are no two stores.
    worth: Option<i64>,
}

impl<'a> Splits<'a> {
    /// For the cluster as this view shows it.
    #[must_use]
    pub fn new(view: &'a View<'a>) -> Self {
        let stores = view.sources().filter(|store| view.may_hold(store.id()).is_ok());
        let (count, load) = stores
            .fold((0, 0_i64), |(count, load), store| (count + 1, load.saturating_add(view.load(store.id()))));
        Self { view, worth: (count > 1).then(|| load / count / STORE_PART) }
    }

    /// What makes the region one to split, if anything does.
    #[must_use]
    pub fn cause(&self, info: &RegionInfo) -> Option<Cause> {
        let config = self.view.config;
        if info.size_bytes > config.region_size_max_bytes {
            return Some(Cause::Oversized);
        }
        let load = info.load.write_score().saturating_add(info.load.read_score());
        let is_worth_it = self.worth.is_some_and(|worth| i64::try_from(load).unwrap_or(i64::MAX) > worth);
        (is_worth_it && is_busy(config, info)).then_some(Cause::Busy)
    }

    /// Whether the region is to be split.
    ///
    /// # Errors
    /// As for [`check`].
    pub fn check(&self, info: &RegionInfo) -> Result<Proposal, Refusal> {
        let refuse = |reason| Refusal::new(Policy::SplitCheck, reason).of_region(info.id());
        let cause = self.cause(info).ok_or(refuse(Reason::Content))?;
        self.may_split(info).map_err(refuse)?;
        let keys = if cause == Cause::Busy {
            vec![self.key_by_load(info).map_err(refuse)?]
        } else {
            // Its store finds the middle.
            Vec::new()
        };
        Ok(Proposal::new(info, Policy::SplitCheck, cause, Intent::Split { keys }))
    }

    fn may_split(&self, info: &RegionInfo) -> Result<(), Reason> {
        let view = self.view;
        if info.leader.is_none() {
            return Err(Reason::NoLeader);
        }
        if view.operators.get(info.id()).is_some() {
            return Err(Reason::Occupied);
        }
        if let Some(Status::Ended(ended)) = view.operators.status(info.id())
            && ended.outcome == Outcome::Cancelled(CancelReason::TooLittleData)
            && view.now.ms_since(ended.at) < UNCUT_REST_MS
        {
            return Err(Reason::TooLittleData);
        }
        if info.region.is_joint() {
            return Err(Reason::InJoint);
        }
        // A replica that lags would receive a snapshot of either half while the other one is being created next to it.
        if !info.pending().is_empty() || !info.down().is_empty() {
            return Err(Reason::Unhealthy);
        }
        Ok(())
    }

    /// The key at which a busy region is cut.
    fn key_by_load(&self, info: &RegionInfo) -> Result<Key, Reason> {
        let busy_ms = info.busy_since().map_or(0, |since| self.view.now.ms_since(since));
        if busy_ms < BUSY_MS {
            return Err(Reason::BusyLately { busy_ms, needed_ms: BUSY_MS });
        }
        match info.cut() {
            LoadCut::At(key) if info.region.range.contains(key) && key != info.region.range.start() => {
                Ok(key.clone())
            }
            // A key that was right before the region became another one.
            LoadCut::At(_) | LoadCut::Unknown => Err(Reason::Unsampled),
            LoadCut::OneKey(percent) => Err(Reason::OneKey(*percent)),
            LoadCut::Lopsided(percent) => Err(Reason::Lopsided(*percent)),
        }
    }
}
