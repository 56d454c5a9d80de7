//! The map's invariants, checked by recounting everything. For tests and debugging; costs a pass over all regions.

use std::collections::BTreeMap;

use super::{Cluster, Counters, Kind};
use crate::id::StoreId;

impl Cluster {
    /// Checks every invariant of the map.
    ///
    /// # Errors
    /// The first one that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        self.check_order()?;
        self.check_places()?;
        let recounted = self.recount();
        for (store, holding) in &self.holdings {
            let expected = recounted.get(store).copied().unwrap_or_default();
            if holding.counters != expected {
                return Err(format!("{store} counts {:?}, a recount gives {expected:?}", holding.counters));
            }
            let held =
                [Kind::Leader, Kind::Follower, Kind::Learner].map(|kind| holding.of_kind(kind).len() as u64);
            if held != [expected.leaders, expected.followers, expected.learners] {
                return Err(format!("{store} lists {held:?} peers by kind, a recount gives {expected:?}"));
            }
            if holding.pending().len() as u64 != expected.pending {
                return Err(format!("{store} lists {} pending peers", holding.pending().len()));
            }
        }
        match recounted.keys().find(|store| !self.holdings.contains_key(store)) {
            Some(store) => Err(format!("{store} holds peers but is not counted")),
            None => Ok(()),
        }
    }

    /// The counters of every store that holds a peer, from the regions alone.
    #[must_use]
    pub fn recount(&self) -> BTreeMap<StoreId, Counters> {
        let mut counters: BTreeMap<StoreId, Counters> = BTreeMap::new();
        for info in self.regions() {
            for peer in &info.region.peers {
                let store = counters.entry(peer.store).or_default();
                store.add(info.standing(peer), info.burden(self.floor_bytes));
            }
        }
        counters
    }

    fn check_order(&self) -> Result<(), String> {
        let mut before: Option<&super::RegionInfo> = None;
        let mut ordered = 0;
        for info in self.regions() {
            ordered += 1;
            if !self.by_id.contains_key(&info.id()) {
                return Err(format!("{} is in the order but not known by id", info.region));
            }
            if let Some(before) = before
                && (before.region.range.start() >= info.region.range.start()
                    || before.region.range.overlaps(&info.region.range))
            {
                return Err(format!("{} and {} overlap or are out of order", before.region, info.region));
            }
            before = Some(info);
        }
        let led = self.regions().filter(|info| info.leader.is_some()).count();
        if led != self.led {
            return Err(format!("{led} regions have a leader, {} are counted", self.led));
        }
        if ordered == self.len() { Ok(()) } else { Err(format!("{ordered} in order, {} by id", self.len())) }
    }

    fn check_places(&self) -> Result<(), String> {
        for slot in self.by_id.values() {
            let entry = self.entries.get(*slot);
            for (peer, place) in entry.info.region.peers.iter().zip(entry.places.iter()) {
                let kind = Kind::of(peer, entry.info.leader);
                let array = self.holdings.get(&peer.store).map_or(&[][..], |holding| holding.of_kind(kind));
                if array.get(*place as usize) != Some(slot) {
                    return Err(format!("peer {peer} of {} is not at place {place}", entry.info.region));
                }
            }
        }
        Ok(())
    }
}
