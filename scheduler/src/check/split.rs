//! Splits of regions that are too large to move or too busy for one core.
//!
//! Where to cut is left to the store, which knows the keys; what is decided here is that it be done, so that the ids
//! come from the one place that hands them out. A store may also ask by itself; it then gets ids and nothing else.

use crate::cluster::RegionInfo;
use crate::config::Config;
use crate::filter::{Reason, Refusal, View};
use crate::operator::{CancelReason, Cause, Intent, Outcome, Policy, Proposal, Status};

/// How long a region is left alone in which no key to split at was found.
const UNCUT_REST_MS: u64 = 60_000;

/// Whether the region is to be split.
///
/// # Errors
/// [`Refusal`] where it is neither too large nor too busy, or must not be touched now.
pub fn check(view: &View<'_>, info: &RegionInfo) -> Result<Proposal, Refusal> {
    let refuse = |reason| Err(Refusal::new(Policy::SplitCheck, reason).of_region(info.id()));
    let Some(cause) = cause(view.config, info) else { return refuse(Reason::Content) };
    if info.leader.is_none() {
        return refuse(Reason::NoLeader);
    }
    if view.operators.get(info.id()).is_some() {
        return refuse(Reason::Occupied);
    }
    if let Some(Status::Ended(ended)) = view.operators.status(info.id())
        && ended.outcome == Outcome::Cancelled(CancelReason::TooLittleData)
        && view.now.ms_since(ended.at) < UNCUT_REST_MS
    {
        return refuse(Reason::TooLittleData);
    }
    if info.region.is_joint() {
        return refuse(Reason::InJoint);
    }
    // A replica that lags would receive a snapshot of either half while the other one is being created next to it.
    if !info.pending().is_empty() || !info.down().is_empty() {
        return refuse(Reason::Unhealthy);
    }
    Ok(Proposal::new(info, Policy::SplitCheck, cause, Intent::Split { keys: Vec::new() }))
}

/// What makes the region one to split, if anything does.
#[must_use]
pub fn cause(config: &Config, info: &RegionInfo) -> Option<Cause> {
    let busy = config.region_split_ops > 0 && info.load.ops() > config.region_split_ops;
    if info.size_bytes > config.region_size_max_bytes {
        Some(Cause::Oversized)
    } else {
        busy.then_some(Cause::Busy)
    }
}
