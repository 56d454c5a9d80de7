//! Which region is where, and which stores there are: soft state, rebuilt from reports.
//!
//! A report is taken unless something newer is known: of the region itself or, where the region is new, of any region that it overlaps.
//! A taken range displaces what it overlaps, which is how splits are seen. Pure.
//!
//! What holds: known ranges do not overlap, and the order by start key holds exactly the regions known by id.

use std::collections::{BTreeMap, HashMap};

use scheduler::{Key, Region, RegionId};

use super::report::{RegionReport, StoreReport};

/// The regions and the stores.
#[derive(Debug, Default)]
pub(crate) struct Map {
    by_start: BTreeMap<Key, RegionId>,
    by_id: HashMap<RegionId, RegionReport>,
    stores: BTreeMap<u64, StoreReport>,
}

impl Map {
    /// Takes a store's report of itself. A report without figures keeps those that are known.
    ///
    /// # Errors
    /// The address belongs to another store.
    pub(crate) fn report_store(&mut self, mut report: StoreReport) -> Result<(), String> {
        if report.id == 0 {
            return Err("a store needs an id other than 0".to_owned());
        }
        let holder =
            self.stores.values().find(|store| store.address == report.address && store.id != report.id);
        if let Some(holder) = holder {
            return Err(format!("address {} belongs to store {}; choose another", report.address, holder.id));
        }
        if report.stats.is_none() {
            report.stats = self.stores.get(&report.id).and_then(|known| known.stats);
        }
        self.stores.insert(report.id, report);
        Ok(())
    }

    /// Takes a region's report.
    ///
    /// # Errors
    /// Something newer is known, or the report contradicts itself; the map is then as it was.
    pub(crate) fn report_region(&mut self, report: RegionReport) -> Result<(), String> {
        let region = &report.region;
        region.check().map_err(|error| error.to_string())?;
        if region.id.get() == 0 {
            return Err("a region needs an id other than 0".to_owned());
        }
        if report.leader.is_some_and(|leader| region.peer(leader.id).is_none()) {
            return Err(format!("the leader is not a peer of {}", region.id));
        }
        match self.by_id.get(&region.id) {
            Some(known) => refuse_stale(region, &known.region)?,
            None => {
                for known in self.overlapping(region) {
                    refuse_stale(region, &self.by_id[&known].region)?;
                }
            }
        }
        self.forget(region.id);
        for displaced in self.overlapping(region) {
            self.forget(displaced);
        }
        self.by_start.insert(region.range.start().clone(), region.id);
        self.by_id.insert(region.id, report);
        Ok(())
    }

    fn forget(&mut self, id: RegionId) {
        if let Some(known) = self.by_id.remove(&id) {
            self.by_start.remove(known.region.range.start());
        }
    }

    fn overlapping(&self, region: &Region) -> Vec<RegionId> {
        let left = self.region_at(region.range.start());
        let inside = self.by_start.range(region.range.start().clone()..).map(|(_, id)| &self.by_id[id]);
        let inside = inside.take_while(|known| known.region.range.overlaps(&region.range));
        let mut found: Vec<RegionId> = left.into_iter().chain(inside).map(|known| known.region.id).collect();
        found.dedup();
        found
    }

    /// The region that holds `key`.
    pub(crate) fn region_at(&self, key: &[u8]) -> Option<&RegionReport> {
        let (_, id) = self.by_start.range(..=Key::from(key)).next_back()?;
        self.by_id.get(id).filter(|known| known.region.range.contains(key))
    }

    /// The region that ends where the one that holds `key` begins.
    pub(crate) fn region_before(&self, key: &[u8]) -> Option<&RegionReport> {
        let here = self.region_at(key)?.region.range.start();
        let (_, id) = self.by_start.range(..here.clone()).next_back()?;
        self.by_id.get(id).filter(|known| known.region.range.end() == here)
    }

    pub(crate) fn region(&self, id: u64) -> Option<&RegionReport> {
        self.by_id.get(&RegionId(id))
    }

    /// Regions that reach into `[start, end)`, in order; an empty `end` is none.
    pub(crate) fn scan(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = &RegionReport> {
        let first = self
            .region_at(start)
            .map_or_else(|| Key::from(start), |known| known.region.range.start().clone());
        let end = end.to_vec();
        self.by_start
            .range(first..)
            .take_while(move |(start, _)| end.is_empty() || start.as_bytes() < &*end)
            .map(|(_, id)| &self.by_id[id])
    }

    pub(crate) fn store(&self, id: u64) -> Option<&StoreReport> {
        self.stores.get(&id)
    }

    pub(crate) fn stores(&self) -> impl Iterator<Item = &StoreReport> {
        self.stores.values()
    }
}

fn refuse_stale(reported: &Region, known: &Region) -> Result<(), String> {
    if reported.epoch.is_stale_against(known.epoch) {
        return Err(format!("the report of {reported} is stale: {known} is known"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use scheduler::{Epoch, KeyRange, Peer, PeerId, StoreId};

    use super::*;

    fn report(id: u64, start: &str, end: &str, version: u64) -> RegionReport {
        let region = Region {
            id: RegionId(id),
            range: KeyRange::new(start, end).unwrap(),
            epoch: Epoch::new(1, version),
            peers: vec![Peer::voter(PeerId(id + 100), StoreId(1))],
        };
        RegionReport { leader: Some(region.peers[0]), region, term: 1, size_bytes: 0, keys: 0 }
    }

    fn ids<'a>(regions: impl Iterator<Item = &'a RegionReport>) -> Vec<u64> {
        regions.map(|known| known.region.id.get()).collect()
    }

    #[test]
    fn a_split_displaces_and_a_late_report_does_not() {
        let mut map = Map::default();
        map.report_region(report(1, "", "", 1)).unwrap();
        map.report_region(report(2, "m", "", 2)).unwrap();
        assert_eq!(ids(map.scan(b"", b"")), [2], "the left half has not reported yet");
        assert!(map.report_region(report(1, "", "", 1)).is_err(), "the whole is stale");
        map.report_region(report(1, "", "m", 2)).unwrap();
        assert_eq!(ids(map.scan(b"", b"")), [1, 2]);
        assert_eq!(map.region_at(b"l").unwrap().region.id, RegionId(1));
        assert_eq!(map.region_at(b"m").unwrap().region.id, RegionId(2));
        assert_eq!(map.region_before(b"z").unwrap().region.id, RegionId(1));
        assert!(map.region_before(b"a").is_none());
        assert_eq!(ids(map.scan(b"a", b"m")), [1]);
        assert_eq!(ids(map.scan(b"a", b"n")), [1, 2]);
        assert_eq!(ids(map.scan(b"n", b"")), [2]);
    }

    /// Random splits, reported in random order and more than once, against a plain list.
    #[test]
    fn the_map_agrees_with_a_list() {
        for seed in 0..100u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let (mut list, mut map) = (vec![report(1, "", "", 1)], Map::default());
            for id in 2..40 {
                let at = random(list.len() as u64) as usize;
                let key = format!("{:03}", random(1000));
                let parent = &mut list[at].region;
                if let Ok((left, right)) = parent.range.split(key.as_bytes()) {
                    let version = parent.epoch.version + 1;
                    parent.range = left;
                    parent.epoch.version = version;
                    let mut child = report(id, "", "", version);
                    child.region.range = right;
                    list.push(child);
                }
                let _ = map.report_region(list[random(list.len() as u64) as usize].clone());
            }
            list.sort_by(|a, b| a.region.range.start().cmp(b.region.range.start()));
            for known in &list {
                map.report_region(known.clone()).unwrap();
            }
            let expected: Vec<u64> = ids(list.iter());
            assert_eq!(ids(map.scan(b"", b"")), expected, "seed {seed}");
            assert_eq!(map.by_start.len(), map.by_id.len());
            for _ in 0..50 {
                let key = format!("{:03}", random(1100));
                let holder =
                    list.iter().position(|known| known.region.range.contains(key.as_bytes())).unwrap();
                assert_eq!(map.region_at(key.as_bytes()), Some(&list[holder]));
                let before = holder.checked_sub(1).map(|before| &list[before]);
                assert_eq!(map.region_before(key.as_bytes()), before);
            }
        }
    }

    #[test]
    fn two_stores_do_not_share_an_address() {
        let store = |id: u64| StoreReport { id, address: "a:1".to_owned(), ..StoreReport::default() };
        let mut map = Map::default();
        map.report_store(store(1)).unwrap();
        map.report_store(store(1)).unwrap();
        assert!(map.report_store(store(2)).is_err());
        assert!(map.report_store(store(0)).is_err());
    }
}
