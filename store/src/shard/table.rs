//! The regions of one store: the one place through which they come and go.
//!
//! It owns every replica, the order of their first keys, the set of those that moved since the last turn, what is remembered of those
//! that were removed, and the number of the routes that the rest of the node should know. Pure: the simulated stores of the region
//! scripts use this very table.
//!
//! Invariants, asserted by [`Table::check`]:
//! * no two replicas with a range overlap, and `by_start` names exactly those with a range, by their first keys;
//! * `dirty` names every replica that is marked, once;
//! * a region has a replica or a tombstone, never a tombstone that is not older than its replica;
//! * whoever changed a replica's range has called [`Table::refresh`] before the next turn.

use std::collections::{BTreeMap, HashMap};

use scheduler::{KeyRange, Region, RegionId};

use crate::region::life::Life;
use crate::region::message::{self, PeerMessage, Verdict};
use crate::region::record::RegionRecord;
use crate::region::replica::Replica;

/// The regions of one store. `W` waits for writes, `R` for reads.
#[derive(Debug)]
pub struct Table<W, R> {
    /// Their order depends on nothing but their history, so that a simulated run can be repeated.
    regions: HashMap<RegionId, Entry<W, R>, foldhash::fast::FixedState>,
    by_start: BTreeMap<Vec<u8>, RegionId>,
    dirty: Vec<RegionId>,
    tombstones: HashMap<RegionId, RegionRecord, foldhash::fast::FixedState>,
    routes: u64,
}

#[derive(Debug)]
struct Entry<W, R> {
    replica: Replica<W, R>,
    /// Its first key in `by_start`.
    published: Option<Vec<u8>>,
    dirty: bool,
}

/// A replica that the table does not take in; it comes back.
#[derive(Debug)]
pub struct Refused<W, R> {
    /// The replica.
    pub replica: Box<Replica<W, R>>,
    /// The region that is in its way.
    pub by: RegionId,
}

impl<W, R> Default for Table<W, R> {
    fn default() -> Self {
        Self {
            regions: HashMap::default(),
            by_start: BTreeMap::new(),
            dirty: Vec::new(),
            tombstones: HashMap::default(),
            routes: 0,
        }
    }
}

impl<W, R> Table<W, R> {
    /// Takes in a replica and marks it.
    ///
    /// # Errors
    /// If a replica of the region is here, or another one covers part of its range.
    pub fn insert(&mut self, replica: Replica<W, R>) -> Result<(), Refused<W, R>> {
        let id = replica.id();
        let in_the_way = match self.regions.contains_key(&id) {
            true => Some(id),
            false if replica.has_range() => self.overlapping(&replica.region().range, id),
            false => None,
        };
        if let Some(by) = in_the_way {
            return Err(Refused { replica: Box::new(replica), by });
        }
        self.tombstones.remove(&id);
        self.regions.insert(id, Entry { replica, published: None, dirty: false });
        self.refresh(id);
        self.mark_dirty(id);
        Ok(())
    }

    /// Puts what is remembered of a removed replica in its place.
    pub fn bury(&mut self, record: RegionRecord) {
        assert!(record.tombstone, "{} is buried alive", record.region);
        let id = record.region.id;
        if let Some(Entry { published: Some(start), .. }) = self.regions.remove(&id) {
            self.by_start.remove(&start);
            self.routes += 1;
        }
        self.dirty.retain(|marked| *marked != id);
        self.tombstones.insert(id, record);
    }

    /// Publishes a range that has changed.
    pub fn refresh(&mut self, id: RegionId) {
        let Some(entry) = self.regions.get_mut(&id) else { return };
        let has_range = entry.replica.has_range();
        let start = entry.replica.region().range.start().as_bytes();
        if entry.published.as_deref() == has_range.then_some(start) {
            return;
        }
        if let Some(old) = entry.published.take() {
            self.by_start.remove(&old);
        }
        if has_range {
            entry.published = Some(start.to_vec());
            self.by_start.insert(start.to_vec(), id);
        }
        self.routes += 1;
    }

    /// Grows whenever a region came, went or begins elsewhere.
    pub const fn routes(&self) -> u64 {
        self.routes
    }

    /// The replica of a region.
    pub fn get(&self, id: RegionId) -> Option<&Replica<W, R>> {
        self.regions.get(&id).map(|entry| &entry.replica)
    }

    /// The replica of a region, to give it an input.
    pub fn get_mut(&mut self, id: RegionId) -> Option<&mut Replica<W, R>> {
        self.regions.get_mut(&id).map(|entry| &mut entry.replica)
    }

    /// What is remembered of a removed replica.
    pub fn tombstone(&self, id: RegionId) -> Option<&RegionRecord> {
        self.tombstones.get(&id)
    }

    /// All replicas.
    pub fn iter(&self) -> impl Iterator<Item = &Replica<W, R>> {
        self.regions.values().map(|entry| &entry.replica)
    }

    /// All replicas, to give each an input.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Replica<W, R>> {
        self.regions.values_mut().map(|entry| &mut entry.replica)
    }

    /// How many replicas there are.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// The region that begins at or below `key` and is the last to; it may end below it.
    pub fn region_of(&self, key: &[u8]) -> Option<RegionId> {
        use std::ops::Bound::{Included, Unbounded};
        let (_, id) = self.by_start.range::<[u8], _>((Unbounded, Included(key))).next_back()?;
        Some(*id)
    }

    /// The replica that [`Table::region_of`] names.
    pub fn replica_of(&self, key: &[u8]) -> Option<&Replica<W, R>> {
        self.get(self.region_of(key)?)
    }

    /// The first key of the last region that begins below `end`; an empty `end` means the last region.
    pub fn start_before(&self, end: &[u8]) -> Option<&[u8]> {
        use std::ops::Bound::{Excluded, Unbounded};
        let upper = if end.is_empty() { Unbounded } else { Excluded(end) };
        let (start, _) = self.by_start.range::<[u8], _>((Unbounded, upper)).next_back()?;
        Some(start)
    }

    /// Marks a region for the next turn.
    pub fn mark_dirty(&mut self, id: RegionId) {
        if let Some(entry) = self.regions.get_mut(&id)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push(id);
        }
    }

    /// Marks every region for which `moved` is true.
    pub fn mark_moved(&mut self, mut moved: impl FnMut(&mut Replica<W, R>) -> bool) {
        for (id, entry) in &mut self.regions {
            if moved(&mut entry.replica) && !std::mem::replace(&mut entry.dirty, true) {
                self.dirty.push(*id);
            }
        }
    }

    /// The marked regions; they are marked no more.
    pub fn take_dirty(&mut self) -> Vec<RegionId> {
        let dirty = std::mem::take(&mut self.dirty);
        for id in &dirty {
            if let Some(entry) = self.regions.get_mut(id) {
                entry.dirty = false;
            }
        }
        dirty
    }

    /// The marked replicas.
    pub fn dirty(&self) -> impl Iterator<Item = &Replica<W, R>> {
        self.dirty.iter().filter_map(|id| self.get(*id))
    }

    /// Judges a message that has arrived.
    pub fn admit(&self, message: &PeerMessage) -> Verdict {
        let here = match (self.get(message.region), self.tombstone(message.region)) {
            (Some(replica), _) => message::Here::Replica(replica.me(), replica.region()),
            (None, Some(record)) => message::Here::Tombstone(record),
            (None, None) => message::Here::Nothing,
        };
        message::admit(here, message, |range| self.overlapping(range, message.region).is_some())
    }

    /// A region other than `but` that covers part of `range`.
    fn overlapping(&self, range: &KeyRange, but: RegionId) -> Option<RegionId> {
        let (start, end) = (range.start().as_bytes(), range.end().as_bytes());
        let covers = |id: &RegionId| {
            let region = self.get(*id).map(Replica::region)?;
            let (from, to) = (region.range.start().as_bytes(), region.range.end().as_bytes());
            let apart = (!to.is_empty() && to <= start) || (!end.is_empty() && end <= from);
            (region.id != but && !apart).then_some(region.id)
        };
        self.by_start.values().find_map(covers)
    }

    /// Asserts the stated invariants, and those of every replica.
    ///
    /// # Panics
    /// If one does not hold: that is a bug.
    pub fn check(&self) {
        for (id, entry) in &self.regions {
            let Entry { replica, published, dirty } = entry;
            replica.check();
            assert_eq!(*id, replica.id());
            let start = replica.region().range.start().as_bytes();
            let expected = replica.has_range().then_some(start);
            assert_eq!(published.as_deref(), expected, "{} is published elsewhere", replica.region());
            assert_eq!(*dirty, self.dirty.contains(id), "the mark of {id} is lost");
            assert!(replica.life() != Life::Tombstone || *dirty, "{id} is dead and nothing will bury it");
            let older = self.tombstones.get(id).is_none_or(|record| record.me < replica.me());
            assert!(older, "{id} has a replica and a tombstone of the same peer");
        }
        let published = self.regions.values().filter(|entry| entry.published.is_some()).count();
        assert_eq!(self.by_start.len(), published, "first keys without a region");
        let mut end: Option<&[u8]> = Some(b"");
        for (start, id) in &self.by_start {
            let region: &Region = self.get(*id).expect("a first key has a region").region();
            assert_eq!(region.range.start().as_bytes(), start, "{region} begins elsewhere");
            assert!(end.is_some_and(|end| end <= &start[..]), "{region} overlaps the one before it");
            end = Some(region.range.end().as_bytes()).filter(|end| !end.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::replica::Stored;
    use raft::{LogId, Membership, Start, Time};
    use scheduler::{Epoch, Peer, PeerId, StoreId};
    use std::sync::Arc;

    fn replica(id: u64, start: &str, end: &str) -> Replica<(), ()> {
        let region = Region {
            id: RegionId(id),
            range: KeyRange::new(start, end).unwrap(),
            epoch: Epoch::FIRST,
            peers: vec![Peer::voter(PeerId(id + 100), StoreId(1))],
        };
        let start = Start::bootstrap(LogId::new(5, 5), Membership::default());
        let record = RegionRecord { region, me: PeerId(id + 100), tombstone: false };
        let stored = Stored { record, in_tree: false, start };
        Replica::new(StoreId(1), stored, Arc::new(raft::Config::default()), 7, Time(0)).unwrap()
    }

    fn table() -> Table<(), ()> {
        let mut table = Table::default();
        for (id, start, end) in [(1, "", "c"), (2, "c", "m"), (3, "m", "")] {
            table.insert(replica(id, start, end)).unwrap();
        }
        table
    }

    #[test]
    fn a_region_is_found_by_its_keys_and_from_behind() {
        let table = table();
        for (key, id) in [("", 1), ("bz", 1), ("c", 2), ("m", 3), ("zz", 3)] {
            assert_eq!(table.region_of(key.as_bytes()), Some(RegionId(id)), "{key}");
        }
        for (end, start) in [("", "m"), ("c", ""), ("ca", "c")] {
            assert_eq!(table.start_before(end.as_bytes()), Some(start.as_bytes()), "below {end}");
        }
        table.check();
    }

    #[test]
    fn what_overlaps_or_is_here_already_is_not_taken_in() {
        let mut table = table();
        let refused = table.insert(replica(4, "k", "n")).unwrap_err();
        assert_eq!((refused.by, refused.replica.id()), (RegionId(2), RegionId(4)));
        assert_eq!(table.insert(replica(1, "", "a")).unwrap_err().by, RegionId(1));
        table.check();
    }

    #[test]
    fn marks_are_kept_once_and_taken_once() {
        let mut table = table();
        assert_eq!(table.take_dirty().len(), 3, "what comes in is marked");
        (0..5).for_each(|_| table.mark_dirty(RegionId(2)));
        table.mark_dirty(RegionId(99));
        table.check();
        assert_eq!(table.take_dirty(), [RegionId(2)]);
        assert!(table.take_dirty().is_empty());
        table.check();
    }

    #[test]
    fn a_buried_region_leaves_its_range_and_changes_the_routes() {
        let mut table = table();
        let routes = table.routes();
        let mut record = table.get(RegionId(2)).unwrap().record().clone();
        record.tombstone = true;
        table.bury(record);
        assert!(table.routes() > routes && table.get(RegionId(2)).is_none());
        assert!(table.tombstone(RegionId(2)).is_some());
        assert_eq!(table.region_of(b"d"), Some(RegionId(1)), "which ends below it; the guard says so");
        table.insert(replica(4, "k", "m")).unwrap();
        table.check();
    }
}
