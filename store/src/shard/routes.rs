//! Which store of this node owns which keys: a full copy on every core, so that routing is one search in local memory.
//!
//! Every store publishes the regions in its table under a version of its own ([`super::table`]); a core puts what all stores have
//! published together as [`Routes`], which never change: another version takes their place as a whole. Where two stores claim the
//! same keys, because one has not said yet that a region has left, the newer epoch is right.
//!
//! A route may be old. It names the region and its version, so that the guard of the store refuses what is not there any more.
//!
//! Invariants, asserted by [`Routes::check`]: places are in key order, none overlaps the next, and `starts` are their first keys.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use scheduler::{Epoch, Key, Peer, Region};

use crate::request::Route;

/// What the stores of the node have published, in key order. Between two places there may be keys that no store has now.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    version: u64,
    /// The first keys of `places`, side by side, because every request searches them.
    starts: Vec<Bytes>,
    places: Vec<Rc<Placed>>,
    /// Places of older versions in which writes may be in flight.
    older: Vec<Weak<Placed>>,
}

/// One region's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// First key.
    pub start: Bytes,
    /// First key behind the region; empty means no bound.
    pub end: Bytes,
    /// The region.
    pub region_id: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// The index, on this node, of the store that owns it.
    pub store: usize,
    /// Who leads it, if another node does; the core that routes adds it.
    pub leader: Option<Peer>,
}

/// A place as one version of the routes has it. Whoever has a write in flight there holds it.
#[derive(Debug)]
pub struct Placed {
    place: Place,
    /// What older versions had in its place. As long as one is held, writes are in flight that were sent there.
    before: Vec<Weak<Placed>>,
    /// When the writes were submitted that are in flight here, in order. Most come at the end and leave at the front.
    in_flight: RefCell<VecDeque<(u64, u64)>>,
    /// The last write that was sent here.
    last: Cell<(u64, u64)>,
}

/// A write in flight at a place, until it is dropped.
#[derive(Debug)]
pub struct InFlight {
    at: Rc<Placed>,
    number: (u64, u64),
}

impl InFlight {
    /// Whether no later write was sent to the same place: then it may be sent there again and overtakes nothing by that.
    pub fn is_last(&self) -> bool {
        self.at.last.get() == self.number
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut in_flight = self.at.in_flight.borrow_mut();
        let at =
            in_flight.binary_search(&self.number).expect("a write in flight is known until it is dropped");
        in_flight.remove(at);
    }
}

impl Place {
    /// The place of a region on the store number `store`.
    pub fn of(region: &Region, store: usize) -> Self {
        let Region { id, range, epoch, peers: _ } = region;
        let bytes = |key: &Key| Bytes::copy_from_slice(key.as_bytes());
        Self {
            start: bytes(range.start()),
            end: bytes(range.end()),
            region_id: id.0,
            epoch: *epoch,
            store,
            leader: None,
        }
    }

    /// Whether the region has `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && (self.end.is_empty() || key < self.end.as_ref())
    }

    fn overlaps(&self, other: &Self) -> bool {
        let ends_before = |one: &Self, next: &Self| !one.end.is_empty() && one.end <= next.start;
        !ends_before(self, other) && !ends_before(other, self)
    }

    /// What the guard of the store checks: the region and its version, and not who leads.
    pub fn route(&self) -> Route {
        Route {
            region_id: self.region_id,
            conf_ver: self.epoch.conf_ver,
            version: self.epoch.version,
            peer_id: 0,
            store_id: 0,
            term: 0,
        }
    }
}

impl std::ops::Deref for Placed {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Placed {
    /// A write that was submitted at `number` is in flight here from now on.
    pub fn hold(self: &Rc<Self>, number: (u64, u64)) -> InFlight {
        let mut in_flight = self.in_flight.borrow_mut();
        match in_flight.back() {
            Some(last) if *last > number => {
                let at = in_flight.partition_point(|other| *other < number);
                in_flight.insert(at, number);
            }
            Some(_) | None => in_flight.push_back(number),
        }
        drop(in_flight);
        self.last.set(self.last.get().max(number));
        InFlight { at: self.clone(), number }
    }

    /// Whether no write is in flight that was submitted before `number` and sent to where these keys were. Later ones do not count:
    /// whoever waits for answers in order would never come to theirs.
    pub fn is_clear(&self, number: (u64, u64)) -> bool {
        let earlier = |older: Rc<Self>| older.in_flight.borrow().front().is_some_and(|first| *first < number);
        !self.before.iter().filter_map(Weak::upgrade).any(earlier)
    }
}

impl Routes {
    /// The first routes, from the places of all regions, in any order.
    pub fn new(places: Vec<Place>) -> Self {
        Self::default().next(places)
    }

    /// The version that follows this one. A place that is in both is the same place.
    pub fn next(&self, mut places: Vec<Place>) -> Self {
        // The newest epoch first, so that what it covers is taken when an older one comes.
        places.sort_by_key(|place| std::cmp::Reverse((place.epoch.version, place.epoch.conf_ver)));
        let mut taken: Vec<Place> = Vec::with_capacity(places.len());
        for place in places {
            let at = taken.partition_point(|other| other.start < place.start);
            let around = &taken[at.saturating_sub(1)..taken.len().min(at + 1)];
            if !around.iter().any(|other| other.overlaps(&place)) {
                taken.insert(at, place);
            }
        }
        let same = |place: &Place| self.find(&place.start).filter(|old| old.place == *place);
        let stays = |old: &Rc<Placed>| taken.iter().any(|place| *place == old.place);
        let left = self.places.iter().filter(|old| !stays(old)).map(Rc::downgrade);
        let older: Vec<_> =
            self.older.iter().filter(|older| older.strong_count() > 0).cloned().chain(left).collect();
        let placed = |place: Place| match same(&place) {
            Some(old) => Rc::clone(old),
            None => {
                let covers = |older: &&Weak<Placed>| older.upgrade().is_some_and(|old| old.overlaps(&place));
                let before = older.iter().filter(covers).cloned().collect();
                Rc::new(Placed { place, before, in_flight: RefCell::default(), last: Cell::default() })
            }
        };
        let places: Vec<_> = taken.iter().cloned().map(placed).collect();
        let starts = taken.into_iter().map(|place| place.start).collect();
        let routes = Self { version: self.version + 1, starts, places, older };
        if cfg!(debug_assertions) {
            routes.check();
        }
        routes
    }

    /// Grows with every version.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The region that contains `key`, if the node has it.
    pub fn find(&self, key: &[u8]) -> Option<&Rc<Placed>> {
        let behind = self.starts.partition_point(|start| start.as_ref() <= key);
        let place = self.places.get(behind.checked_sub(1)?)?;
        place.contains(key).then_some(place)
    }

    /// The region that contains the greatest keys below `key`, if the node has it; the empty key stands for the end of the key space.
    pub fn find_before(&self, key: &[u8]) -> Option<&Rc<Placed>> {
        let behind = match key.is_empty() {
            true => self.starts.len(),
            false => self.starts.partition_point(|start| start.as_ref() < key),
        };
        let place = self.places.get(behind.checked_sub(1)?)?;
        (place.end.is_empty() || (!key.is_empty() && key <= place.end.as_ref())).then_some(place)
    }

    /// Asserts the stated invariants.
    ///
    /// # Panics
    /// If one does not hold: that is a bug.
    pub fn check(&self) {
        let apart = |one: &Rc<Placed>, next: &Rc<Placed>| one.start < next.start && !one.overlaps(next);
        assert!(self.places.is_sorted_by(apart), "places overlap: {:?}", self.places);
        assert!(self.places.iter().map(|place| &place.start).eq(&self.starts), "first keys of other places");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let place = |start: &'static str, end: &'static str, region_id| Place {
            start: Bytes::from_static(start.as_bytes()),
            end: Bytes::from_static(end.as_bytes()),
            region_id,
            epoch: Epoch::FIRST,
            store: 0,
            leader: None,
        };
        Routes::new(vec![place("m", "", 3), place("", "c", 1), place("c", "m", 2)])
    }

    #[test]
    fn a_key_is_found_in_the_region_that_contains_it() {
        let routes = routes();
        for (key, region) in [("", 1), ("b", 1), ("c", 2), ("lz", 2), ("m", 3), ("zz", 3)] {
            assert_eq!(routes.find(key.as_bytes()).unwrap().region_id, region, "{key}");
            let containing = routes.places.iter().filter(|place| place.contains(key.as_bytes()));
            let containing: Vec<u64> = containing.map(|place| place.region_id).collect();
            assert_eq!(containing, [region], "{key}");
        }
    }

    #[test]
    fn the_region_before_a_boundary_is_the_one_that_ends_there() {
        let routes = routes();
        for (key, region) in [("", 3), ("c", 1), ("cc", 2), ("m", 2), ("n", 3)] {
            assert_eq!(routes.find_before(key.as_bytes()).unwrap().region_id, region, "{key}");
        }
    }

    fn place(start: &'static str, end: &'static str, region_id: u64, version: u64) -> Place {
        let (start, end) = (Bytes::from_static(start.as_bytes()), Bytes::from_static(end.as_bytes()));
        Place { start, end, region_id, epoch: Epoch::new(1, version), store: 0, leader: None }
    }

    #[test]
    fn keys_that_no_store_has_are_found_nowhere_from_neither_side() {
        let routes = Routes::new(vec![place("", "c", 1, 1), place("m", "p", 2, 1)]);
        for key in ["c", "lz", "p", "z"] {
            assert!(routes.find(key.as_bytes()).is_none(), "{key}");
        }
        for key in ["", "cc", "m", "q"] {
            assert!(routes.find_before(key.as_bytes()).is_none(), "below {key}");
        }
        assert_eq!(routes.find_before(b"c").unwrap().region_id, 1);
    }

    #[test]
    fn of_two_that_claim_the_same_keys_the_newer_is_right() {
        let routes = Routes::new(vec![place("", "m", 1, 1), place("c", "", 2, 2), place("m", "", 3, 1)]);
        assert_eq!(routes.find(b"d").unwrap().region_id, 2);
        assert_eq!(routes.find(b"x").unwrap().region_id, 2);
        assert!(routes.find(b"a").is_none(), "what overlaps a newer region is not there as it says");
    }

    /// What is in flight to a place is known behind any number of changes, and a place that did not change is the same.
    #[test]
    fn writes_in_flight_to_older_places_are_seen_behind_later_changes() {
        let first = Routes::new(vec![place("", "m", 1, 1), place("m", "", 2, 1)]);
        let (moving, staying) = (first.find(b"d").unwrap().hold((5, 0)), first.find(b"x").unwrap().clone());
        let second = first.next(vec![place("", "c", 1, 2), place("c", "m", 3, 2), place("m", "", 2, 1)]);
        let third = second.next(vec![place("", "m", 1, 3), place("m", "", 2, 1)]);
        assert!(Rc::ptr_eq(third.find(b"x").unwrap(), &staying) && staying.is_clear((9, 0)));
        drop((first, second));
        assert!(third.find(b"d").unwrap().is_clear((4, 0)), "what was submitted earlier does not wait");
        assert!(!third.find(b"d").unwrap().is_clear((6, 0)), "a write is in flight under the first version");
        drop(moving);
        assert!(third.find(b"d").unwrap().is_clear((6, 0)));
    }
}
