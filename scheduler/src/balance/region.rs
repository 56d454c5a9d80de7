//! Even sizes over stores.
//!
//! The base rule is that of the TinyKV course, lab 3C. Stores that are in use and not down are taken in descending
//! size. From each a region is drawn at random: one whose peer there lags, else one it follows, else one it leads. The
//! target is the smallest store that may take the replica. The move is made only if the difference in size exceeds
//! twice the region's size, which means that the target is still the smaller one afterwards. Differences are signed: a
//! source smaller than its target has a negative one, not a huge one.
//!
//! On top of it, sizes count what is in flight, so that a round of many proposals converges instead of flooding the
//! smallest store, and a target on the source's own node is reached by relocation, which moves no bytes.
//!
//! # What keeps bytes from moving in vain
//! * Sizes that differ by no more than [`TOLERANCE_PERCENT`] of their mean are even. Sizes change with every write, and a region that is
//!   small enough always finds a difference that is worth its move.
//! * Where the smallest store has as many peers on their way in as may be, a replica waits for it, and what has a replica there already stays
//!   as long as another region has none. It goes to another store only if that is still below the mean with it: what it brings to a store
//!   that holds its share would have to leave again.
//! * A region with a replica on a store that is to be emptied waits until that one has moved.

use std::collections::BTreeSet;

use super::{Round, may_move, stays_whole};
use crate::cluster::{Kind, RegionInfo};
use crate::filter::{Reason, Refusal, View};
use crate::id::{RegionId, StoreId};
use crate::operator::{Cause, Intent, Policy, Proposal};
use crate::placement::Board;
use crate::rng::Rng;
use crate::store::Lifecycle;

/// Stores may differ in size by this share of their mean.
pub const TOLERANCE_PERCENT: i64 = 3;

/// Up to `max` moves that make sizes more even, each counted into `board`.
#[must_use]
pub fn propose(view: &View<'_>, board: &mut Board, rng: &mut Rng, max: usize) -> Round {
    let mut taken = BTreeSet::new();
    let mut round = Round::default();
    while round.proposals.len() < max {
        match next_move(view, board, rng, &taken) {
            Ok((info, intent)) => {
                taken.insert(info.id());
                board.count(view, info, &intent);
                round.proposals.push(Proposal::new(info, Policy::BalanceRegion, Cause::Uneven, intent));
            }
            Err(refusal) => {
                round.refusal = Some(refusal);
                return round;
            }
        }
    }
    round
}

/// The next move, out of the largest store that has one to make; stores that have none are passed over.
fn next_move<'a>(
    view: &View<'a>,
    board: &mut Board,
    rng: &mut Rng,
    taken: &BTreeSet<RegionId>,
) -> Result<(&'a RegionInfo, Intent), Refusal> {
    let refuse = |reason| Refusal::new(Policy::BalanceRegion, reason);
    let needed = needed(board, view.config.weight_bytes(0));
    let mut last = refuse(Reason::NoStore);
    loop {
        let (smallest, _) = board.smallest_of_all().ok_or(last)?;
        let (bytes, source) = board.largest_first().next().ok_or(last)?;
        let difference = bytes - smallest;
        if difference <= needed {
            // All further sources are smaller still; unless a store was passed over just now, sizes are simply even.
            let even = refuse(Reason::WithinTolerance { difference, needed }).of_store(source);
            return Err(if last.store.is_none() { even } else { last });
        }
        match moves_from(view, board, rng, taken, source, bytes) {
            Ok(found) => return Ok(found),
            Err(refusal) => last = refusal,
        }
        board.pass_over(view, source);
    }
}

fn moves_from<'a>(
    view: &View<'a>,
    board: &Board,
    rng: &mut Rng,
    taken: &BTreeSet<RegionId>,
    source: StoreId,
    bytes: i64,
) -> Result<(&'a RegionInfo, Intent), Refusal> {
    let mut last = Refusal::new(Policy::BalanceRegion, Reason::NothingToGive).of_store(source);
    may_be_source(view, board, source).map_err(|reason| Refusal { reason, ..last })?;
    let mut detour = None;
    for _ in 0..view.config.draws_per_store {
        match draw(view, board, rng, taken, source, bytes) {
            Ok((info, goal)) if goal.is_short => return Ok((info, goal.intent)),
            Ok((info, goal)) => detour = detour.or(Some((info, goal.intent))),
            Err(refusal) => last = refusal,
        }
    }
    detour.ok_or(last)
}

/// Where a replica would go.
struct Goal {
    intent: Intent,
    /// Whether the store is the smallest of all, or below the mean with the replica. Any other one would have to give as much away again
    /// once the smallest has what it lacks, so it is a goal only where none of the regions drawn has a better one.
    is_short: bool,
}

fn may_be_source(view: &View<'_>, board: &Board, source: StoreId) -> Result<(), Reason> {
    let store = view.cluster.store(source).ok_or(Reason::Unknown)?;
    if store.descriptor.lifecycle != Lifecycle::Up {
        return Err(Reason::Health(store.health(view.now, view.config)));
    }
    view.with_influence(board.influence()).may_give(source)
}

/// One draw from the source: a region that may move, and where to.
fn draw<'a>(
    view: &View<'a>,
    board: &Board,
    rng: &mut Rng,
    taken: &BTreeSet<RegionId>,
    source: StoreId,
    source_bytes: i64,
) -> Result<(&'a RegionInfo, Goal), Refusal> {
    let refusal = Refusal::new(Policy::BalanceRegion, Reason::NothingToGive).of_store(source);
    let cluster = view.cluster;
    let drawn = [
        cluster.random_pending(source, rng),
        cluster.random_of(source, Kind::Follower, rng),
        cluster.random_of(source, Kind::Leader, rng),
    ];
    let (mut last, mut detour) = (refusal, None);
    for info in drawn.into_iter().flatten() {
        // The cheapest question first: no target is smaller than the smallest of all. At rest it is the only one asked.
        let (smallest, taker) =
            board.smallest_of_all().ok_or(Refusal { reason: Reason::NoStore, ..refusal })?;
        let weight = view.config.weight_bytes(info.size_bytes);
        let verdict = match evens_out(board, source_bytes, smallest, weight) {
            Err(reason) => Err((Some(taker), reason)),
            Ok(()) if taken.contains(&info.id()) => Err((None, Reason::Occupied)),
            Ok(()) => target_of(view, board, info, source, source_bytes),
        };
        match verdict {
            Ok(goal) if goal.is_short => return Ok((info, goal)),
            Ok(goal) => detour = detour.or(Some((info, goal))),
            Err((store, reason)) => {
                last = Refusal { region: Some(info.id()), store: store.or(Some(source)), reason, ..refusal };
            }
        }
    }
    detour.ok_or(last)
}

/// Where the region's replica on the source should go; else why nowhere, and the store that this is about.
fn target_of(
    view: &View<'_>,
    board: &Board,
    info: &RegionInfo,
    source: StoreId,
    source_bytes: i64,
) -> Result<Goal, (Option<StoreId>, Reason)> {
    may_move(view, info, Some(source))
        .and_then(|()| stays_whole(view, info))
        .map_err(|reason| (None, reason))?;
    let weight = view.config.weight_bytes(info.size_bytes);
    let lacks = |bytes: i64| bytes.saturating_add(weight) <= board.mean_bytes();
    let (target_bytes, target) = match board.smallest(view, info, source) {
        [None, None] => return Err((None, Reason::NoStore)),
        [Some(open), None] => open,
        [Some(open), Some(waiting)] if open < waiting || lacks(open.0) => open,
        [_, Some((_, full))] => return Err((Some(full), Reason::MovesIn(view.config.store_moves_in_max))),
    };
    evens_out(board, source_bytes, target_bytes, weight).map_err(|reason| (Some(target), reason))?;
    let is_short = lacks(target_bytes) || board.smallest_of_all().is_some_and(|(_, least)| least == target);
    let (from, to) = (source, target);
    let relocates = view.same_node(source, target);
    let intent = if relocates { Intent::Relocate { from, to } } else { Intent::MoveReplica { from, to } };
    Ok(Goal { intent, is_short })
}

/// Whether moving `weight` bytes leaves the target the smaller of the two, and the difference is worth it.
///
/// # Errors
/// [`Reason::WithinTolerance`] where the difference is not more than twice the weight, or tolerated.
pub fn evens_out(board: &Board, source_bytes: i64, target_bytes: i64, weight: i64) -> Result<(), Reason> {
    let difference = source_bytes.saturating_sub(target_bytes);
    let needed = needed(board, weight);
    if difference > needed { Ok(()) } else { Err(Reason::WithinTolerance { difference, needed }) }
}

/// What the difference of two stores must exceed for a region of this weight to move.
fn needed(board: &Board, weight: i64) -> i64 {
    weight.saturating_mul(2).max(board.mean_bytes() / 100 * TOLERANCE_PERCENT)
}
