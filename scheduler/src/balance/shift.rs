//! What the load policies may do: only what leaves sizes and leader counts no less even.
//!
//! A busy region that may not go alone may go in exchange for a quiet one of about its size, so that an even cluster
//! is no obstacle. Both policies judge a [`Shift`], which is what one store gives to another one on balance, by the
//! three conditions of [`Judge::permits`]; the module [above](super) says why balancing then ends.
//!
//! Between the stores of a node load ranks above sizes, unless bytes move between nodes for balance ([`load_is_first`]).

use std::collections::BTreeSet;

use super::may_move;
use crate::cluster::{Cluster, Kind, RegionInfo};
use crate::config::Config;
use crate::filter::{Reason, View};
use crate::id::{RegionId, StoreId};
use crate::operator::{Influence, Intent, Policy};
use crate::placement;
use crate::rng::Rng;

/// Regions drawn from a store to find fitting ones.
const DRAWS: usize = 32;
/// Busy regions for which an exchange is tried.
const EXCHANGES: usize = 4;
/// A region that comes back bears no more than this part of the load of the one that goes.
const QUIET_PART: i64 = 4;

/// What a region's peer on this store contributes to the store's load.
#[must_use]
pub fn load_on(info: &RegionInfo, store: StoreId) -> i64 {
    let read = if info.leader_store() == Some(store) { info.load.read_score() } else { 0 };
    i64::try_from(info.load.write_score().saturating_add(read)).unwrap_or(i64::MAX)
}

/// Whether the load of a node's stores is evened out before their sizes. Not where bytes move between nodes for balance: then the sizes
/// of all stores are compared, and what load has made uneven would be undone.
#[must_use]
pub fn load_is_first(config: &Config) -> bool {
    !config.is_enabled(Policy::BalanceRegion) && !config.is_enabled(Policy::HotRegion)
}

/// What one store gives to another one, on balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Who gives.
    pub from: StoreId,
    /// Who takes.
    pub to: StoreId,
    /// Bytes, in balancing weight.
    pub bytes: i64,
    /// Leaders.
    pub leaders: i64,
    /// Load.
    pub load: i64,
}

impl Shift {
    fn of_replica(view: &View<'_>, info: &RegionInfo, from: StoreId, to: StoreId) -> Self {
        let leaders = i64::from(info.leader_store() == Some(from));
        Self {
            from,
            to,
            bytes: view.config.weight_bytes(info.size_bytes),
            leaders,
            load: load_on(info, from),
        }
    }

    /// What leadership of a region brings along.
    #[must_use]
    pub fn of_leadership(info: &RegionInfo, from: StoreId, to: StoreId) -> Self {
        let load = i64::try_from(info.load.read_score()).unwrap_or(i64::MAX);
        Self { from, to, bytes: 0, leaders: 1, load }
    }

    /// What is left of it when `back` goes the other way.
    const fn against(self, back: Self) -> Self {
        let load = self.load.saturating_sub(back.load);
        Self { bytes: self.bytes - back.bytes, leaders: self.leaders - back.leaders, load, ..self }
    }
}

/// A region and what is to be done with it.
pub type Move<'a> = (&'a RegionInfo, Intent);

/// A load policy's view of the cluster in one round, its own proposals counted in.
pub struct Judge<'a> {
    view: View<'a>,
    influence: Influence,
    taken: BTreeSet<RegionId>,
}

impl<'a> Judge<'a> {
    /// The cluster as this view shows it.
    #[must_use]
    pub fn new(view: &View<'a>) -> Self {
        Self { view: *view, influence: view.influence.clone(), taken: BTreeSet::new() }
    }

    /// The view with own proposals counted in.
    #[must_use]
    pub fn seen(&self) -> View<'_> {
        self.view.with_influence(&self.influence)
    }

    /// The map.
    #[must_use]
    pub const fn cluster(&self) -> &'a Cluster {
        self.view.cluster
    }

    /// Counts a proposal in.
    pub fn count(&mut self, info: &RegionInfo, intent: &Intent) {
        self.taken.insert(info.id());
        self.influence.add_intent(info, self.view.config.weight_bytes(info.size_bytes), intent);
    }

    /// Whether the region may be touched and is in no proposal of this round yet.
    #[must_use]
    pub fn is_free(&self, info: &RegionInfo) -> bool {
        !self.taken.contains(&info.id()) && may_move(&self.view, info, None).is_ok()
    }

    /// Whether a shift brings loads closer together, and neither sizes nor leader counts further apart.
    ///
    /// # Errors
    /// The reason why not.
    pub fn permits(&self, shift: &Shift) -> Result<(), Reason> {
        let seen = self.seen();
        let Shift { from, to, bytes, leaders: _, load } = *shift;
        let sizes_rank_above = !(seen.same_node(from, to) && load_is_first(seen.config));
        if sizes_rank_above && !keeps_apart_no_further(bytes, seen.region_bytes(from) - seen.region_bytes(to))
        {
            return Err(Reason::SizesWouldSpread);
        }
        let (difference, needed) = (seen.load(from).saturating_sub(seen.load(to)), load.saturating_mul(2));
        if load <= 0 || difference <= needed {
            return Err(Reason::WithinTolerance { difference, needed });
        }
        self.permits_leaders(shift)
    }

    /// Whether a shift inside a node that brings sizes closer together brings neither leader counts nor loads further apart, where these rank
    /// above: loads that stay within the tolerance are no matter.
    ///
    /// # Errors
    /// The reason why not.
    pub fn permits_for_size(&self, shift: &Shift, stores: &[StoreId]) -> Result<(), Reason> {
        let seen = self.seen();
        if !load_is_first(seen.config) {
            return Ok(());
        }
        self.permits_leaders(shift)?;
        let Shift { from, to, bytes: _, leaders: _, load } = *shift;
        if keeps_apart_no_further(load, seen.load(from).saturating_sub(seen.load(to))) {
            return Ok(());
        }
        let after = |store: &StoreId| match *store {
            store if store == from => seen.load(store).saturating_sub(load),
            store if store == to => seen.load(store).saturating_add(load),
            store => seen.load(store),
        };
        let mean = mean(stores.iter().map(|store| seen.load(*store))).unwrap_or_default();
        let (most, least) = (stores.iter().map(after).max(), stores.iter().map(after).min());
        let difference = most.unwrap_or_default().saturating_sub(least.unwrap_or_default());
        let is_even = difference <= seen.config.tolerated_load(mean, seen.config.core_tolerance_percent);
        if is_even { Ok(()) } else { Err(Reason::LoadsWouldSpread) }
    }

    fn permits_leaders(&self, shift: &Shift) -> Result<(), Reason> {
        let seen = self.seen();
        let Shift { from, to, bytes: _, leaders, load: _ } = *shift;
        // A region without followers leads where it is, and no policy moves its leadership alone.
        if load_is_first(seen.config) && seen.config.max_replicas == 1 {
            return Ok(());
        }
        let evens = keeps_apart_no_further(leaders, seen.leaders(from) - seen.leaders(to));
        if evens || self.leaders_stay_in_tolerance(if leaders > 0 { (from, to) } else { (to, from) }) {
            Ok(())
        } else {
            Err(Reason::LeadersWouldSpread)
        }
    }

    /// Whether one leader less here and one more there leaves no store beyond the tolerance of balance-leader.
    fn leaders_stay_in_tolerance(&self, (loser, gainer): (StoreId, StoreId)) -> bool {
        let seen = self.seen();
        let (less, more) = (seen.leaders(loser) - 1, seen.leaders(gainer) + 1);
        let all = seen.sources().map(|store| seen.leaders(store.id()));
        let fit = seen.sources().filter(|store| seen.may_lead_on(store.id()).is_ok());
        let most = all.fold(more, i64::max);
        let fewest = fit.map(|store| seen.leaders(store.id())).fold(less, i64::min);
        let needed = seen.limits.leader_difference_max;
        more - fewest <= needed && most - less <= needed
    }

    /// The first of `regions` that may go from one store to the other: alone, or else in exchange for a quiet one.
    ///
    /// # Errors
    /// The reason why the first one that could stand there may not.
    pub fn find(
        &self,
        rng: &mut Rng,
        regions: &[&'a RegionInfo],
        from: StoreId,
        to: StoreId,
    ) -> Result<Vec<Move<'a>>, Reason> {
        let mut why = Reason::NothingToGive;
        for info in regions {
            match self.may_go(info, from, to).and_then(|shift| self.permits(&shift)) {
                Ok(()) => return Ok(vec![(info, self.intent(info, from, to))]),
                Err(reason) if matches!(why, Reason::NothingToGive | Reason::NodeTaken) => why = reason,
                Err(_) => {}
            }
        }
        let mut quiet = self.drawn(rng, to);
        // Inside a node only what is led there moves without bytes.
        quiet.retain(|info| !self.view.same_node(from, to) || info.leader_store() == Some(to));
        quiet.sort_unstable_by_key(|info| (load_on(info, to), info.id()));
        for info in regions.iter().take(EXCHANGES) {
            let Ok(out) = self.may_go(info, from, to) else { continue };
            let quiet = quiet.iter().take_while(|back| load_on(back, to) <= out.load / QUIET_PART);
            let fits = |back: &&&RegionInfo| {
                let home = self.may_go(back, to, from).map(|home| out.against(home));
                back.id() != info.id() && home.and_then(|shift| self.permits(&shift)).is_ok()
            };
            if let Some(back) = quiet.into_iter().find(fits) {
                return Ok(vec![(info, self.intent(info, from, to)), (back, self.intent(back, to, from))]);
            }
        }
        Err(why)
    }

    /// What would be done to move this one region's replica, on its own.
    ///
    /// # Errors
    /// The reason why it may not.
    pub fn opinion(&self, info: &RegionInfo, from: StoreId, to: StoreId) -> Result<Intent, Reason> {
        may_move(&self.view, info, None)?;
        if self.view.same_node(from, to) && info.leader_store() != Some(from) {
            return Err(Reason::Follows);
        }
        self.may_go(info, from, to).and_then(|shift| self.permits(&shift))?;
        Ok(self.intent(info, from, to))
    }

    /// Some regions of a store, drawn at random, that may be touched.
    #[must_use]
    pub fn drawn(&self, rng: &mut Rng, store: StoreId) -> Vec<&'a RegionInfo> {
        let mut drawn = Vec::new();
        for draw in 0..DRAWS {
            let kind = if draw % 2 == 0 { Kind::Leader } else { Kind::Follower };
            drawn.extend(self.cluster().random_of(store, kind, rng));
        }
        drawn.sort_unstable_by_key(|info| info.id());
        drawn.dedup_by_key(|info| info.id());
        drawn.retain(|info| self.is_free(info));
        drawn
    }

    /// What the region's replica would shift, if it may leave the one store and stand on the other.
    pub(super) fn may_go(&self, info: &RegionInfo, from: StoreId, to: StoreId) -> Result<Shift, Reason> {
        let seen = self.seen();
        let shift = Shift::of_replica(&seen, info, from, to);
        if shift.leaders > 0 {
            seen.may_lead_on(to)?;
        }
        if !seen.same_node(from, to) {
            seen.may_give(from)?;
        }
        placement::may_place(&seen, info, Some(from), to).map(|()| shift)
    }

    pub(super) fn intent(&self, info: &RegionInfo, from: StoreId, to: StoreId) -> Intent {
        if self.view.same_node(from, to) {
            Intent::Relocate { from, to }
        } else if info.leader_store() == Some(from) {
            Intent::MoveLeader { from, to }
        } else {
            Intent::MoveReplica { from, to }
        }
    }
}

/// The mean of some loads; none if there are no loads.
pub(super) fn mean(loads: impl ExactSizeIterator<Item = i64>) -> Option<i64> {
    let count = i64::try_from(loads.len()).ok().filter(|count| *count > 0)?;
    Some(loads.fold(0, i64::saturating_add) / count)
}

/// Whether two stores that are `difference` apart are no further apart after `amount` went from the one to the other.
fn keeps_apart_no_further(amount: i64, difference: i64) -> bool {
    (difference.min(0)..=difference.max(0)).contains(&amount)
}
