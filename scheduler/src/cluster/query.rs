//! Questions to the map. None of them changes it.

use super::{Cluster, Counters, Holding, Kind, RegionInfo, Slot};
use crate::id::{NodeId, RegionId, StoreId};
use crate::range::KeyRange;
use crate::rng::Rng;
use crate::store::Store;

impl Cluster {
    /// How many regions are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no region is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// How many regions are known with their leader.
    #[must_use]
    pub const fn led(&self) -> usize {
        self.led
    }

    /// The region with this id.
    #[must_use]
    pub fn region(&self, id: RegionId) -> Option<&RegionInfo> {
        self.by_id.get(&id).map(|slot| self.info(*slot))
    }

    /// The region that holds `key`.
    #[must_use]
    pub fn region_at(&self, key: &[u8]) -> Option<&RegionInfo> {
        let info = self.info(self.order.slot(self.floor(key)?));
        info.region.range.contains(key).then_some(info)
    }

    /// The region directly left of the one that holds `key`; none where there is a gap between the two.
    #[must_use]
    pub fn region_before(&self, key: &[u8]) -> Option<&RegionInfo> {
        let at = self.floor(key)?;
        let info = self.info(self.order.slot(at));
        let before = self.info(self.order.slot(self.order.previous(at)?));
        let touches = info.region.range.contains(key) && before.region.range.adjacent(&info.region.range);
        touches.then_some(before)
    }

    /// The regions that overlap `range`, in key order.
    pub fn overlapping(&self, range: &KeyRange) -> impl Iterator<Item = &RegionInfo> {
        let below = self.floor(range.start());
        let first = match below {
            Some(at) if self.info(self.order.slot(at)).region.range.overlaps(range) => Some(at),
            Some(at) => self.order.next(at),
            None => self.order.first(),
        };
        let from_first = self.order.iter_from(first).map(|slot| self.info(slot));
        from_first.take_while(move |info| range.ends_after(info.region.range.start()))
    }

    /// Up to `limit` regions that overlap `range`, in key order; all of them where there is no limit.
    #[must_use]
    pub fn scan(&self, range: &KeyRange, limit: Option<usize>) -> Vec<&RegionInfo> {
        self.overlapping(range).take(limit.unwrap_or(usize::MAX)).collect()
    }

    /// All regions in key order.
    pub fn regions(&self) -> impl Iterator<Item = &RegionInfo> {
        self.order.iter_from(self.order.first()).map(|slot| self.info(slot))
    }

    /// Up to `limit` regions in key order, from the one that holds `key` or the next one behind it.
    pub fn regions_from(&self, key: &[u8], limit: usize) -> impl Iterator<Item = &RegionInfo> {
        let at = match self.floor(key) {
            Some(at) if self.info(self.order.slot(at)).region.range.contains(key) => Some(at),
            Some(at) => self.order.next(at),
            None => self.order.first(),
        };
        self.order.iter_from(at).take(limit).map(|slot| self.info(slot))
    }

    /// A region that lies wholly in `range`, each with the same chance.
    #[must_use]
    pub fn random_in(&self, range: &KeyRange, rng: &mut Rng) -> Option<&RegionInfo> {
        let mut inside = self.overlapping(range);
        let first = inside.find(|info| range.contains_range(&info.region.range))?;
        let first = self.floor(first.region.range.start())?;
        let mut last = match range.end_bound() {
            Some(end) => self.floor(end)?,
            None => self.last()?,
        };
        while !range.contains_range(&self.info(self.order.slot(last)).region.range) {
            last = self.order.previous(last)?;
        }
        let steps = rng.below(self.order.count(first, last))?;
        Some(self.info(self.order.slot(self.order.advance(first, steps)?)))
    }

    /// Whether regions whose leader is known cover every key.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let mut covered: &[u8] = b"";
        for info in self.regions() {
            let range = &info.region.range;
            if info.leader.is_none() || range.start().as_bytes() != covered {
                return false;
            }
            covered = range.end().as_bytes();
        }
        covered.is_empty() && !self.is_empty()
    }

    /// The store with this id.
    #[must_use]
    pub fn store(&self, id: StoreId) -> Option<&Store> {
        self.stores.get(&id)
    }

    /// All stores that have joined, tombstones included, by id.
    pub fn stores(&self) -> impl Iterator<Item = &Store> {
        self.stores.values()
    }

    /// The stores of a node, by id.
    pub fn stores_of(&self, node: NodeId) -> impl Iterator<Item = &Store> {
        self.stores.values().filter(move |store| store.node() == node)
    }

    /// The process that a store belongs to, if the store has joined.
    #[must_use]
    pub fn node_of(&self, store: StoreId) -> Option<NodeId> {
        self.stores.get(&store).map(Store::node)
    }

    /// What a store holds, whether it has joined or not.
    #[must_use]
    pub fn counters(&self, store: StoreId) -> Counters {
        self.holding(store).map_or_else(Counters::default, |holding| holding.counters)
    }

    /// The regions of a store in which its peer is of this kind, in no particular order.
    pub fn peers_of(&self, store: StoreId, kind: Kind) -> impl Iterator<Item = &RegionInfo> {
        let slots = self.holding(store).map_or(&[][..], |holding| holding.of_kind(kind));
        slots.iter().map(|slot| self.info(*slot))
    }

    /// The regions of a store in which its peer is not caught up.
    pub fn pending_of(&self, store: StoreId) -> impl Iterator<Item = &RegionInfo> {
        let slots = self.holding(store).map_or(&[][..], Holding::pending);
        slots.iter().map(|slot| self.info(*slot))
    }

    /// A random region in which this store's peer is of this kind.
    #[must_use]
    pub fn random_of(&self, store: StoreId, kind: Kind, rng: &mut Rng) -> Option<&RegionInfo> {
        let slots = self.holding(store)?.of_kind(kind);
        Some(self.info(slots[rng.below(slots.len())?]))
    }

    /// A random region in which this store's peer is not caught up.
    #[must_use]
    pub fn random_pending(&self, store: StoreId, rng: &mut Rng) -> Option<&RegionInfo> {
        let slots = self.holding(store)?.pending();
        Some(self.info(slots[rng.below(slots.len())?]))
    }

    fn last(&self) -> Option<super::Cursor> {
        self.order.advance(self.order.first()?, self.len().checked_sub(1)?)
    }

    fn holding(&self, store: StoreId) -> Option<&Holding> {
        self.holdings.get(&store)
    }

    fn info(&self, slot: Slot) -> &RegionInfo {
        &self.entries.get(slot).info
    }
}
