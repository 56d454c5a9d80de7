//! The regions of a simulated cluster, from what its stores show of their replicas.
//!
//! Invariants, checked with every descriptor that is new: a region has one descriptor per epoch, whichever store shows it; the ranges of
//! one store do not overlap; the newest descriptors of all regions cover the key space once. A region that another has taken in, whose
//! version is higher then, is no more.

use std::collections::BTreeMap;

use scheduler::{Epoch, Region, RegionId};

/// What is known of all regions.
#[derive(Debug, Default)]
pub(super) struct Map {
    newest: BTreeMap<RegionId, Region>,
    /// Every descriptor that was shown, by region, version and membership counter.
    shown: BTreeMap<(RegionId, u64, u64), Region>,
    /// Regions that others have taken in.
    pub(super) taken: u64,
}

impl Map {
    /// Of a cluster that begins with these regions.
    pub(super) fn of(regions: Vec<Region>) -> Self {
        Self {
            newest: regions.into_iter().map(|region| (region.id, region)).collect(),
            shown: BTreeMap::new(),
            taken: 0,
        }
    }

    /// The newest descriptor of every region, by id.
    pub(super) fn regions(&self) -> impl Iterator<Item = &Region> {
        self.newest.values()
    }

    /// Takes what one store shows at one moment. Whether a region has changed.
    ///
    /// # Errors
    /// What must not be.
    pub(super) fn show(&mut self, node: usize, mut regions: Vec<Region>) -> Result<bool, String> {
        let mut changed = false;
        for region in &regions {
            let Epoch { conf_ver, version } = region.epoch;
            let first = self.shown.entry((region.id, version, conf_ver)).or_insert_with(|| region.clone());
            if first != region {
                return Err(format!("node {node} has {region:?}, and at the same epoch there was {first:?}"));
            }
            let newest = self.newest.get(&region.id).map(|newest| newest.epoch);
            let is_newer = |known: Epoch| (version, conf_ver) > (known.version, known.conf_ver);
            if newest.is_none_or(is_newer) && !self.is_gone(region) {
                let is_taken = |known: &Region| {
                    known.id != region.id
                        && region.range.contains_range(&known.range)
                        && known.epoch.version < version
                };
                let before = self.newest.len();
                self.newest.retain(|_, known| !is_taken(known));
                self.taken += (before - self.newest.len()) as u64;
                self.newest.insert(region.id, region.clone());
                changed = true;
            }
        }
        regions.sort_by(|a, b| a.range.start().cmp(b.range.start()));
        if let Some(pair) = regions.windows(2).find(|pair| pair[0].range.overlaps(&pair[1].range)) {
            return Err(format!("node {node} has overlapping replicas: {:?} and {:?}", pair[0], pair[1]));
        }
        if changed {
            self.covers_once()?;
        }
        Ok(changed)
    }

    /// Whether another region has taken this one in, which a store that lags still has.
    fn is_gone(&self, region: &Region) -> bool {
        let is_unknown = !self.newest.contains_key(&region.id);
        let is_newer = |known: &Region| {
            known.range.overlaps(&region.range) && known.epoch.version > region.epoch.version
        };
        is_unknown && self.newest.values().any(is_newer)
    }

    fn covers_once(&self) -> Result<(), String> {
        let mut all: Vec<_> = self.newest.values().map(|region| &region.range).collect();
        all.sort_by_key(|range| range.start());
        let ends = all.first().is_some_and(|range| range.start().as_bytes().is_empty())
            && all.last().is_some_and(|range| range.end().as_bytes().is_empty());
        match ends && all.windows(2).all(|pair| pair[0].end() == pair[1].start()) {
            true => Ok(()),
            false => Err(format!("the regions do not cover the key space once: {:?}", self.newest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use scheduler::{KeyRange, Peer, PeerId, StoreId};

    use super::*;

    fn region(id: u64, start: &str, end: &str, version: u64) -> Region {
        let (range, epoch) = (KeyRange::new(start, end).unwrap(), Epoch::new(1, version));
        Region { id: RegionId(id), range, epoch, peers: vec![Peer::voter(PeerId(id + 1), StoreId(1))] }
    }

    #[test]
    fn what_stores_show_is_checked() {
        let mut map = Map::default();
        let first = vec![region(1, "", "m", 1), region(2, "m", "", 1)];
        assert_eq!(map.show(0, first.clone()), Ok(true));
        assert_eq!(map.show(1, first), Ok(false));
        let split = vec![region(1, "", "c", 2), region(3, "c", "m", 2), region(2, "m", "", 1)];
        assert_eq!(map.show(1, split), Ok(true));
        assert_eq!(map.show(0, vec![region(1, "", "m", 1)]), Ok(false), "it lags");
        assert_eq!(map.regions().count(), 3);
        let merged = vec![region(1, "", "m", 3), region(2, "m", "", 1)];
        assert_eq!(map.show(1, merged), Ok(true));
        let lags = vec![region(1, "", "c", 2), region(3, "c", "m", 2), region(2, "m", "", 1)];
        assert_eq!(map.show(0, lags), Ok(false), "it has a region that was taken in");
        assert_eq!(map.regions().count(), 2);
        let says = |shown: Vec<Region>, what: &str| {
            let mut map = Map::default();
            map.show(0, vec![region(1, "", "m", 1), region(2, "m", "", 1)]).unwrap();
            let why = map.show(1, shown).unwrap_err();
            assert!(why.contains(what), "{why}");
        };
        says(vec![region(1, "", "k", 1)], "at the same epoch");
        says(vec![region(1, "", "k", 2)], "do not cover");
        says(vec![region(1, "", "p", 2), region(2, "m", "", 1)], "overlapping");
    }
}
