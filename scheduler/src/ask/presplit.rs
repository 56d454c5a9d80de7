//! Splitting at given keys, so that a load that is about to begin meets many regions instead of one.

use std::collections::BTreeMap;

use crate::balance::Round;
use crate::cluster::RegionInfo;
use crate::filter::{Reason, Refusal, View};
use crate::id::RegionId;
use crate::operator::{Cause, Intent, Policy, Proposal};
use crate::range::Key;

/// Maximum number of keys at which one split cuts a region: a store takes no more in one entry.
pub const KEYS_MAX: usize = 256;

/// One split for each region that holds some of `keys`, at the first [`KEYS_MAX`] of them; the rest lies in the last of its parts, which is
/// asked for next. A key at which a region begins already is done and passed
/// over; one in a gap of the map is refused.
#[must_use]
pub fn propose(view: &View<'_>, keys: &[Key]) -> Round {
    let mut round = Round::default();
    let mut by_region: BTreeMap<RegionId, (&RegionInfo, Vec<Key>)> = BTreeMap::new();
    for key in keys {
        match view.cluster.region_at(key) {
            Some(info) if info.region.range.start() == key => {}
            Some(info) => by_region.entry(info.id()).or_insert((info, Vec::new())).1.push(key.clone()),
            None => round.refusal = Some(Refusal::new(Policy::PreSplit, Reason::KeyOutside)),
        }
    }
    for (info, mut keys) in by_region.into_values() {
        keys.sort_unstable();
        keys.dedup();
        keys.truncate(KEYS_MAX);
        match may_split(view, info) {
            Ok(()) => {
                let intent = Intent::Split { keys };
                round.proposals.push(Proposal::new(info, Policy::PreSplit, Cause::Asked, intent));
            }
            Err(reason) => round.refusal = Some(Refusal::new(Policy::PreSplit, reason).of_region(info.id())),
        }
    }
    round
}

/// Whether a region may be split now. A split moves nothing, so replicas that are missing or lag are no reason against one that is asked for.
fn may_split(view: &View<'_>, info: &RegionInfo) -> Result<(), Reason> {
    if view.operators.get(info.id()).is_some() {
        Err(Reason::Occupied)
    } else if info.leader.is_none() {
        Err(Reason::NoLeader)
    } else if info.region.is_joint() {
        Err(Reason::InJoint)
    } else {
        Ok(())
    }
}
