//! Where a replica may go, and which of the stores that qualify is best.
//!
//! Two replicas of a region never share a node; that is a condition, not a preference. Beyond it, replicas are kept as
//! far apart as the location labels allow: a store scores by the outermost label in which it differs from each of the
//! other replicas. Among stores of the same score the one with the fewest bytes is best.

use std::collections::BTreeSet;

use crate::cluster::RegionInfo;
use crate::filter::{Reason, View};
use crate::id::StoreId;
use crate::operator::{Influence, Intent};
use crate::store::Lifecycle;

/// How far apart `candidate` is from `others`: for each of them, a hundred times more for each label further out. A
/// store without a value for a label counts as being in the same place from there on.
#[must_use]
pub fn isolation(view: &View<'_>, others: &[StoreId], candidate: StoreId) -> u64 {
    let depth = view.config.location_labels.len();
    let score = |level: usize| 100_u64.saturating_pow(u32::try_from(depth - level - 1).unwrap_or(u32::MAX));
    others.iter().filter_map(|other| differs_at(view, *other, candidate)).map(score).sum()
}

/// Whether `candidate` differs from each of `others` within the labels up to the isolation level.
#[must_use]
pub fn is_isolated(view: &View<'_>, others: &[StoreId], candidate: StoreId) -> bool {
    let Some(depth) = view.limits.isolation_depth else { return true };
    others.iter().all(|other| differs_at(view, *other, candidate).is_some_and(|level| level < depth))
}

/// The outermost label in which the two stores differ.
fn differs_at(view: &View<'_>, one: StoreId, other: StoreId) -> Option<usize> {
    let (one, other) = (view.cluster.store(one)?, view.cluster.store(other)?);
    for (level, label) in view.config.location_labels.iter().enumerate() {
        let values = (one.descriptor.labels.get(label), other.descriptor.labels.get(label));
        match values {
            (Some(one), Some(other)) if one == other => {}
            (Some(_), Some(_)) => return Some(level),
            _ => return None,
        }
    }
    None
}

/// Whether the region's replica on `leaving` (or a new one, if none leaves) may go to `target`.
///
/// # Errors
/// The reason why not.
pub fn may_place(
    view: &View<'_>,
    info: &RegionInfo,
    leaving: Option<StoreId>,
    target: StoreId,
) -> Result<(), Reason> {
    view.may_take(target)?;
    may_stand(view, info, leaving, target)
}

/// The part of [`may_place`] that depends on the region alone.
fn may_stand(
    view: &View<'_>,
    info: &RegionInfo,
    leaving: Option<StoreId>,
    target: StoreId,
) -> Result<(), Reason> {
    if info.region.peer_on(target).is_some() || view.node_is_taken(&info.region, target, leaving) {
        return Err(Reason::NodeTaken);
    }
    if view.config.location_labels.is_empty() {
        return Ok(());
    }
    let others = other_stores(info, leaving);
    let closer = |from| isolation(view, &others, target) < isolation(view, &others, from);
    if !is_isolated(view, &others, target) || leaving.is_some_and(closer) {
        return Err(Reason::Isolation);
    }
    Ok(())
}

/// The stores of the region's replicas, without the one that leaves.
#[must_use]
pub fn other_stores(info: &RegionInfo, leaving: Option<StoreId>) -> Vec<StoreId> {
    let stores = info.region.peers.iter().map(|peer| peer.store);
    stores.filter(|store| Some(*store) != leaving).collect()
}

/// Stores by size, kept current while a policy makes one proposal after the other.
///
/// With it the smallest suitable store is found without looking at all of them, which is what lets a round over a
/// thousand stores take milliseconds.
#[derive(Clone, Debug)]
pub struct Board {
    by_size: BTreeSet<(i64, StoreId)>,
    takers: BTreeSet<(i64, StoreId)>,
    /// Stores that would take a peer if fewer were on their way into them.
    waiting: BTreeSet<(i64, StoreId)>,
    passed_over: BTreeSet<StoreId>,
    mean_bytes: i64,
    influence: Influence,
}

impl Board {
    /// The stores of this view.
    #[must_use]
    pub fn new(view: &View<'_>) -> Self {
        let mut board = Self {
            by_size: BTreeSet::new(),
            takers: BTreeSet::new(),
            waiting: BTreeSet::new(),
            passed_over: BTreeSet::new(),
            mean_bytes: mean_bytes(view),
            influence: view.influence.clone(),
        };
        for store in view.sources() {
            board.enter(view, store.id());
        }
        board
    }

    fn enter(&mut self, view: &View<'_>, store: StoreId) {
        let view = view.with_influence(&self.influence);
        let place = (view.region_bytes(store), store);
        if !self.passed_over.contains(&store) {
            self.by_size.insert(place);
        }
        let taken = view.may_take(store);
        if taken.is_ok() {
            self.takers.insert(place);
        } else if matches!(taken, Err(Reason::MovesIn(_))) {
            self.waiting.insert(place);
        }
    }

    /// What each store in use would hold if sizes were even.
    #[must_use]
    pub const fn mean_bytes(&self) -> i64 {
        self.mean_bytes
    }

    /// What is in flight, with this board's own proposals.
    #[must_use]
    pub const fn influence(&self) -> &Influence {
        &self.influence
    }

    /// Stores with their bytes, the largest first.
    pub fn largest_first(&self) -> impl Iterator<Item = (i64, StoreId)> {
        self.by_size.iter().rev().copied()
    }

    /// Leaves a store out of [`Board::largest_first`] from now on: nothing can be moved away from it in this round.
    pub fn pass_over(&mut self, view: &View<'_>, store: StoreId) {
        let bytes = view.with_influence(&self.influence).region_bytes(store);
        self.by_size.remove(&(bytes, store));
        self.passed_over.insert(store);
    }

    /// The smallest store that may take a peer now, or once fewer are on their way into it.
    #[must_use]
    pub fn smallest_of_all(&self) -> Option<(i64, StoreId)> {
        self.takers.first().into_iter().chain(self.waiting.first()).min().copied()
    }

    /// The best store for a replica of this region: the greatest isolation, then the fewest bytes.
    #[must_use]
    pub fn best(
        &self,
        view: &View<'_>,
        info: &RegionInfo,
        leaving: Option<StoreId>,
    ) -> Option<(i64, StoreId)> {
        let mut fit = self.takers.iter().filter(|(_, store)| may_stand(view, info, leaving, *store).is_ok());
        if view.config.location_labels.is_empty() {
            return fit.next().copied();
        }
        let others = other_stores(info, leaving);
        fit.max_by_key(|(bytes, store)| {
            (isolation(view, &others, *store), std::cmp::Reverse(*bytes), std::cmp::Reverse(*store))
        })
        .copied()
    }

    /// The smallest store that the replica on `leaving` may go to now, and the smallest of those to which it may once fewer peers are on
    /// their way into them.
    #[must_use]
    pub fn smallest(
        &self,
        view: &View<'_>,
        info: &RegionInfo,
        leaving: StoreId,
    ) -> [Option<(i64, StoreId)>; 2] {
        let fits = |place: &&(i64, StoreId)| may_stand(view, info, Some(leaving), place.1).is_ok();
        [&self.takers, &self.waiting].map(|stores| stores.iter().find(fits).copied())
    }

    /// Counts a proposal in.
    pub fn count(&mut self, view: &View<'_>, info: &RegionInfo, intent: &Intent) {
        let touched: Vec<StoreId> = intent.stores().collect();
        for store in &touched {
            let bytes = view.with_influence(&self.influence).region_bytes(*store);
            for stores in [&mut self.by_size, &mut self.takers, &mut self.waiting] {
                stores.remove(&(bytes, *store));
            }
        }
        self.influence.add_intent(info, view.config.weight_bytes(info.size_bytes), intent);
        for store in touched {
            if view.cluster.store(store).is_some() {
                self.enter(view, store);
            }
        }
    }
}

fn mean_bytes(view: &View<'_>) -> i64 {
    let used = view.sources().filter(|store| store.descriptor.lifecycle == Lifecycle::Up);
    let (count, bytes) = used.fold((0, 0_i64), |(count, bytes), store| {
        (count + 1, bytes.saturating_add(view.region_bytes(store.id())))
    });
    bytes / count.max(1)
}
