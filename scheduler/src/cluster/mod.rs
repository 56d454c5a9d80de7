//! The map: every region by id and by key, every store with what it holds.
//!
//! It is soft state. Region reports build it, and a new map is whole again after one round of them. A report is
//! accepted unless something newer is known: where the region is known by id, either epoch part lower than its own
//! makes a report stale; where it is not, either part lower than that of *any* region it overlaps. Equal epochs are
//! accepted, since leaders, sizes and peer health change without raising one. An accepted range displaces whatever it
//! overlaps, which is how splits and merges are seen.
//!
//! Invariants, asserted by [`Cluster::check`]:
//! - ranges of known regions do not overlap, and the order by key holds exactly the regions known by id;
//! - the counters of every store equal a recount over all regions, for stores that have joined and for those that
//!   have not;
//! - each peer is in the one array of its store that its kind says, at the place it remembers.
//!
//! It never judges: who may give or take a region is the business of [`crate::filter`].

mod arena;
mod check;
mod holding;
mod info;
mod lately;
mod order;
mod places;
mod query;
mod report;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use crate::id::{RegionId, StoreId};
use crate::store::{Lifecycle, Store, StoreDescriptor, StoreReport};
use crate::time::Time;
use arena::{Arena, Slot};
use holding::{Burden, Holding};
use lately::Lately;
use order::{Cursor, Order};
use places::Places;

pub use holding::{Counters, Kind};
pub use info::RegionInfo;
pub use report::{Accepted, DownPeer, RegionRefusal, RegionReport, StoreRefusal};

/// A region's record: what was reported, and where each peer is in its store's array.
#[derive(Clone, Debug)]
struct Entry {
    info: RegionInfo,
    places: Places,
}

/// Hashes ids by one multiplication: they are handed out by us, so no client can choose them to collide.
#[derive(Clone, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // The table takes its bucket from the low bits and its tag from the high ones; the middle ones mix best.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type ById<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// The map of a cluster; see the module's rules and invariants.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    entries: Arena<Entry>,
    by_id: ById<RegionId, Slot>,
    order: Order,
    // Stores that have not joined may hold peers, too: a region report can come first.
    holdings: ById<StoreId, Holding>,
    stores: BTreeMap<StoreId, Store>,
    // Regions whose leader is known.
    led: usize,
    // What a smaller region weighs in balancing.
    floor_bytes: u64,
    lately: Lately,
}

impl Cluster {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the size that smaller regions count as in [`Counters::weight_bytes`]; zero in an empty map. A change costs a
    /// pass over all regions.
    pub fn set_weight_floor(&mut self, floor_bytes: u64) {
        if self.floor_bytes == floor_bytes {
            return;
        }
        self.floor_bytes = floor_bytes;
        for (store, counters) in self.recount() {
            self.holdings.entry(store).or_default().counters = counters;
        }
    }

    /// Enters a store, or changes the address, labels and lifecycle of one that is known.
    ///
    /// # Errors
    /// [`StoreRefusal`] where it is a tombstone already, changes its node, or has the address of another store in use.
    pub fn put_store(&mut self, descriptor: StoreDescriptor, now: Time) -> Result<(), StoreRefusal> {
        let id = descriptor.id;
        let known = self.stores.get(&id).map(|store| &store.descriptor);
        admit_store(known, self.stores.values().map(|store| &store.descriptor), &descriptor)?;
        let store = self.stores.entry(id).or_insert_with(|| Store::new(descriptor.clone(), now));
        store.descriptor = descriptor;
        Ok(())
    }

    /// Takes a store's report of itself.
    ///
    /// # Errors
    /// [`StoreRefusal`] where the store has not joined, is a tombstone, or reports the impossible.
    pub fn report_store(&mut self, report: StoreReport, now: Time) -> Result<(), StoreRefusal> {
        let id = report.store;
        let store = self.stores.get_mut(&id).ok_or(StoreRefusal::Unknown(id))?;
        if store.descriptor.lifecycle == Lifecycle::Tombstone {
            return Err(StoreRefusal::Tombstone(id));
        }
        let max = report.capacity_bytes;
        for (what, value) in [("bytes available", report.available_bytes), ("bytes used", report.used_bytes)]
        {
            if max > 0 && value > max {
                return Err(StoreRefusal::Absurd { store: id, what, value, max });
            }
        }
        let started = store.report.as_ref().map(|before| before.start_time_seconds);
        store.restarts += u64::from(started.is_some_and(|started| started != report.start_time_seconds));
        store.last_heard = store.last_heard.max(now);
        store.report = Some(report);
        Ok(())
    }

    /// Takes a region's report, per the module's rules.
    ///
    /// # Errors
    /// [`RegionRefusal`] where it contradicts itself or something newer is known; the map is then as it was.
    pub fn report_region(&mut self, report: RegionReport) -> Result<Accepted, RegionRefusal> {
        report.check()?;
        match self.by_id.get(&report.region.id).copied() {
            Some(slot) => self.update(slot, report),
            None => self.enter(report),
        }
    }

    /// Sets since when a region is busier than it is to be. A change of its members, its range or its leader forgets it.
    pub fn set_busy_since(&mut self, id: RegionId, since: Option<Time>) {
        if let Some(slot) = self.by_id.get(&id) {
            self.entries.get_mut(*slot).info.set_busy_since(since);
        }
    }

    /// Forgets a region, for example one that was merged away before its neighbour has reported.
    pub fn remove_region(&mut self, id: RegionId) -> Option<RegionInfo> {
        let slot = *self.by_id.get(&id)?;
        Some(self.remove(slot))
    }

    fn update(&mut self, slot: Slot, report: RegionReport) -> Result<Accepted, RegionRefusal> {
        let known = &self.entries.get(slot).info;
        refuse_stale(&report, known)?;
        refuse_deposed(&report, known)?;
        let same_range = known.region.range == report.region.range;
        let same_peers = known.region.peers == report.region.peers
            && known.leader == report.leader
            && known.pending() == report.pending;
        if same_range && same_peers {
            return Ok(self.refresh(slot, report));
        }
        let mut displaced = Vec::new();
        if !same_range {
            // The region must not stand in its own way: it may have shrunk, grown or moved.
            let at = self.cursor_of(slot);
            self.order.remove(at);
            displaced = self.displace(&report);
        }
        self.unlink(slot);
        let entry = self.entries.get_mut(slot);
        entry.info = RegionInfo::new(report);
        if !same_range {
            let entries = &self.entries;
            self.order.insert(slot, |slot| entries.get(slot).info.region.range.start());
        }
        self.link(slot);
        Ok(Accepted { new: false, changed: true, displaced })
    }

    /// The common case: only sizes, loads, the epoch or silent peers differ, so every index stays as it is.
    fn refresh(&mut self, slot: Slot, report: RegionReport) -> Accepted {
        let floor = self.floor_bytes;
        let entry = self.entries.get_mut(slot);
        let info = &mut entry.info;
        let changed = info.region.epoch != report.region.epoch || info.down() != report.down;
        let resized = info.size_bytes != report.size_bytes || info.load != report.load;
        if resized {
            let before = info.burden(floor);
            let after = Burden::new(report.size_bytes, &report.load, floor);
            for peer in &info.region.peers {
                let kind = Kind::of(peer, info.leader);
                let holding =
                    self.holdings.get_mut(&peer.store).expect("a linked peer's store has a holding");
                holding.counters.subtract_burden(kind, before);
                holding.counters.add_burden(kind, after);
            }
        }
        if changed {
            *info = RegionInfo::new(report);
        } else {
            info.term = report.term;
            info.size_bytes = report.size_bytes;
            info.keys = report.keys;
            info.load = report.load;
            info.set_cut(report.cut);
        }
        Accepted { new: false, changed, displaced: Vec::new() }
    }

    fn enter(&mut self, report: RegionReport) -> Result<Accepted, RegionRefusal> {
        for known in self.overlapping(&report.region.range) {
            refuse_stale(&report, known)?;
        }
        let displaced = self.displace(&report);
        let id = report.region.id;
        let slot = self.entries.insert(Entry { info: RegionInfo::new(report), places: Places::default() });
        let entries = &self.entries;
        self.order.insert(slot, |slot| entries.get(slot).info.region.range.start());
        self.by_id.insert(id, slot);
        self.link(slot);
        Ok(Accepted { new: true, changed: true, displaced })
    }

    fn displace(&mut self, report: &RegionReport) -> Vec<RegionId> {
        let overlapped: Vec<RegionId> = self.overlapping(&report.region.range).map(RegionInfo::id).collect();
        for id in &overlapped {
            self.remove_region(*id);
        }
        overlapped
    }

    fn remove(&mut self, slot: Slot) -> RegionInfo {
        self.unlink(slot);
        let at = self.cursor_of(slot);
        self.order.remove(at);
        let entry = self.entries.remove(slot);
        self.by_id.remove(&entry.info.region.id);
        self.lately.forget(entry.info.region.id);
        entry.info
    }

    fn cursor_of(&self, slot: Slot) -> Cursor {
        let start = self.entries.get(slot).info.region.range.start();
        self.floor(start).expect("a known region is in the order")
    }

    fn floor(&self, key: &[u8]) -> Option<Cursor> {
        self.order.floor(key, |slot| self.entries.get(slot).info.region.range.start())
    }

    /// Puts the peers of a record into the arrays of their stores.
    fn link(&mut self, slot: Slot) {
        let floor = self.floor_bytes;
        let entry = self.entries.get_mut(slot);
        let info = &entry.info;
        self.led += usize::from(info.leader.is_some());
        let places = info.region.peers.iter().map(|peer| {
            let standing = info.standing(peer);
            let holding = self.holdings.entry(peer.store).or_default();
            holding.counters.add(standing, info.burden(floor));
            holding.set_pending(slot, standing.pending);
            holding.push(standing.kind, slot)
        });
        entry.places = places.collect();
    }

    /// Takes the peers of a record out of the arrays of their stores.
    fn unlink(&mut self, slot: Slot) {
        let floor = self.floor_bytes;
        let entry = self.entries.get_mut(slot);
        self.led -= usize::from(entry.info.leader.is_some());
        let burden = entry.info.burden(floor);
        let places = std::mem::take(&mut entry.places);
        let peers = std::mem::take(&mut entry.info.region.peers);
        for (peer, place) in peers.iter().zip(places.iter()) {
            let standing = self.entries.get(slot).info.standing(peer);
            let holding = self.holdings.get_mut(&peer.store).expect("a linked peer's store has a holding");
            holding.counters.subtract(standing, burden);
            holding.set_pending(slot, false);
            if let Some(moved) = holding.swap_remove(standing.kind, *place) {
                let moved = self.entries.get_mut(moved);
                let index = moved.info.region.peers.iter().position(|other| other.store == peer.store);
                moved.places[index.expect("a slot in a store's array has a peer there")] = *place;
            }
        }
        self.entries.get_mut(slot).info.region.peers = peers;
    }
}

fn refuse_stale(report: &RegionReport, known: &RegionInfo) -> Result<(), RegionRefusal> {
    let (reported, epoch) = (report.region.epoch, known.region.epoch);
    if reported.is_stale_against(epoch) {
        let region = report.region.id;
        return Err(RegionRefusal::Stale { region, reported, known_region: known.id(), known: epoch });
    }
    Ok(())
}

fn refuse_deposed(report: &RegionReport, known: &RegionInfo) -> Result<(), RegionRefusal> {
    let (Some(reported), Some(term)) = (report.term, known.term) else { return Ok(()) };
    let region = report.region.id;
    if reported < term {
        return Err(RegionRefusal::StaleTerm { region, reported, known: term });
    }
    match (report.leader, known.leader) {
        (Some(new), Some(old)) if reported == term && new != old => {
            Err(RegionRefusal::TwoLeaders { region, term, reported: new, known: old })
        }
        _ => Ok(()),
    }
}

/// Whether a store may be entered or changed to `wanted`; shared by the map and the replicated state.
pub(crate) fn admit_store<'a>(
    known: Option<&StoreDescriptor>,
    mut all: impl Iterator<Item = &'a StoreDescriptor>,
    wanted: &StoreDescriptor,
) -> Result<(), StoreRefusal> {
    let id = wanted.id;
    match known {
        Some(known) if known.lifecycle == Lifecycle::Tombstone && known != wanted => {
            return Err(StoreRefusal::Tombstone(id));
        }
        Some(known) if known.node != wanted.node => return Err(StoreRefusal::NodeChanged(id)),
        _ => {}
    }
    // One that is taken out of use may have lost its address to another one; who may take it is the replicated state's to say.
    let holds = |other: &&StoreDescriptor| {
        other.lifecycle == Lifecycle::Up && other.id != id && other.address == wanted.address
    };
    match all.find(holds) {
        Some(holder) if wanted.lifecycle == Lifecycle::Up => {
            Err(StoreRefusal::AddressTaken { store: id, holder: holder.id })
        }
        Some(_) | None => Ok(()),
    }
}
