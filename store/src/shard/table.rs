//! The regions of one store: the one place through which they come and go.
//!
//! It owns every replica, the order of their first keys, the set of those that moved since the last turn, what is remembered of those
//! that were removed, and what the rest of the node should know of all that: the ranges and epochs, published under a version. Pure:
//! the simulated stores of the region scripts use this very table.
//!
//! A region comes by [`Table::enter_region`], leaves by [`Table::bury_region`], is split by [`Table::split_region`] ([`halves`](super::halves)), changes its
//! range by [`Table::cut_region`], is taken in by another with [`Table::take_in`], and has a change that an entry made to it published by [`Table::publish_region`]. Nothing else
//! moves a border.
//!
//! Invariants, asserted by [`Table::check`]:
//! * no two replicas with a range overlap, and `by_start` names exactly those with a range, by their first keys;
//! * `dirty` names every replica that is marked, once, and `awake` every one that gets ticks ([`quiet`](super::quiet));
//! * a region has a replica or a tombstone, never a tombstone that is not older than its replica;
//! * whoever changed a replica's range has called [`Table::publish_region`] before the next turn.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use engine::rt::local::Bell;
use raft::Time;
use scheduler::{Epoch, KeyRange, PeerId, Region, RegionId};

use super::halves::Halves;
use crate::plant::{Bug, planted};
use crate::region::life::Life;
use crate::region::message::{self, PeerMessage, Verdict};
use crate::region::neighbours::{Neighbours, SILENT_TICKS};
use crate::region::record::RegionRecord;
use crate::region::replica::Replica;
use crate::region::system::GROUP;

/// The regions of one store. `W` waits for writes, `R` for reads.
#[derive(Debug)]
pub struct Table<W, R> {
    /// Their order depends on nothing but their history, so that a simulated run can be repeated.
    pub(super) regions: HashMap<RegionId, Entry<W, R>, foldhash::fast::FixedState>,
    pub(super) by_start: BTreeMap<Vec<u8>, RegionId>,
    pub(super) dirty: Vec<RegionId>,
    /// The replicas that get ticks.
    pub(super) awake: Vec<RegionId>,
    /// The stores that share groups with this one.
    pub(super) neighbours: Neighbours,
    /// Since those were last looked for, a replica has moved, come or gone; and how many ticks that is ago.
    pub(super) changed_groups: bool,
    pub(super) ticks_unlooked: u32,
    pub(super) ticked_at: Option<Time>,
    /// The first key of the region that was looked at last although nothing had happened, and how many ticks ago that was.
    pub(super) round_at: Vec<u8>,
    pub(super) round_ticks: usize,
    tombstones: HashMap<RegionId, RegionRecord, foldhash::fast::FixedState>,
    /// What waits for splits to be applied.
    pub(super) halves: Halves,
    /// The regions that wait to be taken in.
    merging: BTreeSet<RegionId>,
    routes: u64,
    /// First keys at which what is published has changed since [`Table::take_changes`].
    changed_at: BTreeSet<Vec<u8>>,
    /// Rings when `routes` grows.
    changed: Rc<Bell>,
}

#[derive(Debug)]
pub(super) struct Entry<W, R> {
    pub(super) replica: Replica<W, R>,
    /// What the others know of it; its first key is the one in `by_start`.
    published: Option<(KeyRange, Epoch)>,
    pub(super) dirty: bool,
    /// It gets ticks.
    pub(super) awake: bool,
    /// It had an input since it was looked at without a reason.
    pub(super) stirred: bool,
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
            awake: Vec::new(),
            neighbours: Neighbours::default(),
            changed_groups: false,
            ticks_unlooked: SILENT_TICKS,
            ticked_at: None,
            round_at: Vec::new(),
            round_ticks: 0,
            tombstones: HashMap::default(),
            halves: Halves::default(),
            merging: BTreeSet::new(),
            routes: 0,
            changed_at: BTreeSet::new(),
            changed: Rc::default(),
        }
    }
}

impl<W, R> Table<W, R> {
    /// Takes in a replica and marks it.
    ///
    /// # Errors
    /// If a replica of the region is here, or another one covers part of its range.
    pub fn enter_region(&mut self, replica: Replica<W, R>) -> Result<(), Refused<W, R>> {
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
        self.regions
            .insert(id, Entry { replica, published: None, dirty: false, awake: false, stirred: true });
        self.publish_region(id);
        self.mark_dirty(id);
        Ok(())
    }

    /// Puts what is remembered of a removed replica in its place. The replica comes back, with those who still wait there.
    pub fn bury_region(&mut self, record: RegionRecord) -> Option<Replica<W, R>> {
        assert!(record.tombstone, "{} is buried alive", record.region);
        let id = record.region.id;
        let removed = self.regions.remove(&id).map(|entry| {
            let Entry { replica, published, dirty, awake, stirred: _ } = entry;
            if let Some((range, _)) = published {
                self.by_start.remove(range.start().as_bytes());
                self.publish([range]);
            }
            // A walk over what is marked, as of all replicas after a start, for those alone that are in it.
            if dirty {
                self.dirty.retain(|marked| *marked != id);
            }
            if awake {
                self.awake.retain(|awake| *awake != id);
            }
            replica
        });
        self.merging.remove(&id);
        self.changed_groups = true;
        self.tombstones.insert(id, record);
        removed
    }

    /// Cuts a region where `right` begins, which takes what lies behind, both under a newer version. What waits under the old one
    /// is refused.
    ///
    /// # Errors
    /// If there is no such region, or `right` is not the end of its range or is here already.
    pub fn cut_region(&mut self, id: RegionId, right: Replica<W, R>) -> Result<(), Refused<W, R>> {
        let border = right.region().range.start().as_bytes().to_vec();
        let known = self.regions.contains_key(&right.id());
        let left = self.regions.get_mut(&id).filter(|left| {
            let range = &left.replica.region().range;
            let inside = range.contains(&border) && range.start().as_bytes() != border;
            left.published.is_some() && !known && inside && range.end() == right.region().range.end()
        });
        let Some(left) = left else { return Err(Refused { replica: Box::new(right), by: id }) };
        let range = KeyRange::new(left.replica.region().range.start().as_bytes().to_vec(), border);
        left.replica.cover(range.expect("the border lies inside"));
        self.publish_region(id);
        self.mark_dirty(id);
        self.enter_region(right)
    }

    /// Takes out a region whose range `into` has taken over, which is to be published next. The replica comes back, with those who still
    /// wait there.
    pub fn take_in(&mut self, source: RegionId, into: RegionId) -> Option<Replica<W, R>> {
        let record = self.get_mut(source)?.end_in_merge(into);
        self.bury_region(record)
    }

    /// The regions that wait to be taken in.
    pub fn waiting_for_merges(&self) -> impl Iterator<Item = RegionId> {
        self.merging.iter().copied()
    }

    /// Of those the ones that wait for `target`.
    pub fn waiting_for(&self, target: RegionId) -> impl Iterator<Item = RegionId> {
        let waits_for = move |id: &RegionId| {
            self.get(*id).and_then(Replica::waits).is_some_and(|waits| waits.target == target)
        };
        self.waiting_for_merges().filter(waits_for)
    }

    /// Publishes a range or an epoch that has changed.
    pub fn publish_region(&mut self, id: RegionId) {
        let Some(entry) = self.regions.get_mut(&id) else { return };
        match entry.replica.life() == Life::Merging {
            true => drop(self.merging.insert(id)),
            false => drop(self.merging.remove(&id)),
        }
        let Region { id: _, range, epoch, peers: _ } = entry.replica.region();
        let has_range = entry.replica.has_range();
        let known = entry.published.as_ref();
        if known.map(|(range, epoch)| (range, epoch)) == has_range.then_some((range, epoch)) {
            return;
        }
        let now = has_range.then(|| (range.clone(), *epoch));
        let old = entry.published.take().map(|(range, _)| range);
        if let Some(old) = &old {
            self.by_start.remove(old.start().as_bytes());
        }
        let new = now.as_ref().map(|(range, _)| range.clone());
        if let Some(range) = &new {
            self.by_start.insert(range.start().as_bytes().to_vec(), id);
        }
        entry.published = now;
        self.publish(old.into_iter().chain(new));
    }

    fn publish(&mut self, changed: impl IntoIterator<Item = KeyRange>) {
        self.routes += 1;
        self.changed_at.extend(changed.into_iter().map(|range| range.start().as_bytes().to_vec()));
        self.changed.ring();
    }

    /// The first keys at which what is published has changed since this was last asked, each with the region that begins there now.
    pub fn take_changes(&mut self) -> Vec<(Vec<u8>, Option<Region>)> {
        let changed = std::mem::take(&mut self.changed_at);
        let now = |start: &Vec<u8>| {
            self.by_start.get(start).and_then(|id| self.get(*id)).map(Replica::region).cloned()
        };
        changed.into_iter().map(|start| (start.clone(), now(&start))).collect()
    }

    /// Grows whenever what is published changes.
    pub const fn routes(&self) -> u64 {
        self.routes
    }

    /// Rings whenever [`Table::routes`] grows.
    pub fn changed(&self) -> Rc<Bell> {
        self.changed.clone()
    }

    /// What is published, in key order.
    pub fn published(&self) -> impl Iterator<Item = &Region> {
        self.by_start.values().filter_map(|id| self.get(*id)).map(Replica::region)
    }

    /// The replica of a region.
    pub fn get(&self, id: RegionId) -> Option<&Replica<W, R>> {
        self.regions.get(&id).map(|entry| &entry.replica)
    }

    /// The replica of a region, to give it an input, which may wake it.
    pub fn get_mut(&mut self, id: RegionId) -> Option<&mut Replica<W, R>> {
        let entry = self.regions.get_mut(&id)?;
        if !std::mem::replace(&mut entry.awake, true) {
            self.awake.push(id);
        }
        Some(&mut entry.replica)
    }

    /// The replica of a region, if it is this peer's: what was begun for one that was removed is not for the next.
    pub fn peer_mut(&mut self, id: RegionId, peer: PeerId) -> Option<&mut Replica<W, R>> {
        self.get_mut(id).filter(|replica| replica.me() == peer || planted(Bug::WriteOfAnOldPeerCounts))
    }

    /// What is remembered of a removed replica.
    pub fn tombstone(&self, id: RegionId) -> Option<&RegionRecord> {
        self.tombstones.get(&id)
    }

    /// What is remembered of all removed replicas.
    pub fn tombstones(&self) -> impl Iterator<Item = &RegionRecord> {
        self.tombstones.values()
    }

    /// All replicas.
    pub fn iter(&self) -> impl Iterator<Item = &Replica<W, R>> {
        self.regions.values().map(|entry| &entry.replica)
    }

    /// All replicas, to give each an input, which may wake it.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Replica<W, R>> {
        let awake = &mut self.awake;
        self.regions.iter_mut().map(|(id, entry)| {
            if !std::mem::replace(&mut entry.awake, true) {
                awake.push(*id);
            }
            &mut entry.replica
        })
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

    /// Marks a region for the next turn; it is awake.
    pub fn mark_dirty(&mut self, id: RegionId) {
        let Some(entry) = self.regions.get_mut(&id) else { return };
        if !std::mem::replace(&mut entry.awake, true) {
            self.awake.push(id);
        }
        let marked = std::mem::replace(&mut entry.dirty, true);
        let lost = planted(Bug::MarkLost) && self.dirty.len() == 1;
        if !marked && !lost {
            self.dirty.push(id);
        }
    }

    /// Marks every region for which `moved` is true.
    pub fn mark_moved(&mut self, mut moved: impl FnMut(&mut Replica<W, R>) -> bool) {
        for (id, entry) in &mut self.regions {
            if !moved(&mut entry.replica) {
                continue;
            }
            if !std::mem::replace(&mut entry.awake, true) {
                self.awake.push(*id);
            }
            if !std::mem::replace(&mut entry.dirty, true) {
                self.dirty.push(*id);
            }
        }
    }

    /// The marked regions; they are marked no more.
    pub fn take_dirty(&mut self) -> Vec<RegionId> {
        let dirty = std::mem::take(&mut self.dirty);
        self.changed_groups |= !dirty.is_empty();
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
            (Some(replica), _) => message::LocalReplica::Replica(replica.me(), replica.region()),
            (None, Some(record)) => message::LocalReplica::Tombstone(record),
            (None, None) => message::LocalReplica::Nothing,
        };
        message::admit(here, message, |range| {
            self.overlapping(range, message.region).is_some() && !planted(Bug::CreatedOverNeighbour)
        })
    }

    /// A region other than `but` that covers part of `range`. Nothing is in the way of the system group.
    pub fn overlapping(&self, range: &KeyRange, but: RegionId) -> Option<RegionId> {
        self.all_overlapping(range, but).next()
    }

    /// All of those.
    pub fn all_overlapping<'a>(
        &'a self,
        range: &'a KeyRange,
        but: RegionId,
    ) -> impl Iterator<Item = RegionId> + use<'a, W, R> {
        let covers = |id: &RegionId| self.get(*id).is_some_and(|it| it.region().range.overlaps(range));
        // The system group has no keys of users.
        self.around(range).filter(move |id| but != GROUP && *id != but && covers(id))
    }

    /// The regions that begin in a range, behind the one that is the last to begin at or below its start: as no two overlap, no other can
    /// cover part of it.
    fn around<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = RegionId> + use<'a, W, R> {
        use std::ops::Bound::{Excluded, Unbounded};
        let (start, end) = (range.start().as_bytes(), range.end().as_bytes());
        let upper = if end.is_empty() { Unbounded } else { Excluded(end) };
        let inside = self.by_start.range::<[u8], _>((Excluded(start), upper)).map(|(_, id)| *id);
        self.region_of(start).into_iter().chain(inside)
    }

    /// Asserts the stated invariants, and those of every replica.
    ///
    /// # Panics
    /// If one does not hold: that is a bug.
    pub fn check(&self) {
        let ticked: BTreeSet<RegionId> = self.awake.iter().copied().collect();
        assert_eq!(ticked.len(), self.awake.len(), "a replica is to have two ticks at once");
        for (id, entry) in &self.regions {
            let Entry { replica, published, dirty, awake, stirred: _ } = entry;
            replica.check();
            assert!(*awake || replica.is_asleep(), "{id} is awake and gets no ticks");
            assert_eq!(*awake, ticked.contains(id), "whether {id} gets ticks");
            assert_eq!(*id, replica.id());
            let Region { id: _, range, epoch, peers: _ } = replica.region();
            let expected = replica.has_range().then(|| (range.clone(), *epoch));
            assert_eq!(*published, expected, "{} is published as something else", replica.region());
            assert_eq!(*dirty, self.dirty.contains(id), "the mark of {id} is lost");
            assert!(replica.life() != Life::Tombstone || *dirty, "{id} is dead and nothing will bury it");
            let older = self.tombstones.get(id).is_none_or(|record| record.me < replica.me());
            assert!(older, "{id} has a replica and a tombstone of the same peer");
        }
        self.check_halves();
        let published = self.regions.values().filter(|entry| entry.published.is_some()).count();
        assert_eq!(self.by_start.len(), published, "first keys without a region");
        let waiting = self.iter().filter(|it| it.life() == Life::Merging).map(Replica::id);
        assert_eq!(waiting.collect::<BTreeSet<_>>(), self.merging, "who waits to be taken in");
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
mod tests;
