//! Where the keys are: a full copy on every core, so that routing is one search in local memory.
//!
//! Every store publishes the regions in its table ([`super::table`]); of regions that no store here has a replica of, a core knows what
//! the scheduler said when it was asked. A core puts both together as [`Routes`]: of the claims to the same keys one is right
//! ([`super::claims`]). A change is made at once and whole, between two awaits, and costs by what it touches.
//!
//! A route may be old. It names the region and its version, so that the guard of the store refuses what is not there any more.
//!
//! Invariants, asserted by [`Routes::check`]: places are in key order, none overlaps the next, and `starts` are their first keys; a place
//! that only the scheduler has named says which replica is asked.

use std::rc::Rc;

use bytes::Bytes;
use scheduler::{Epoch, Key, Peer, Region};

use super::claims::{Claim, Claims, Span};
use super::placed::{KeyHash, Placed};
use crate::request::Route;

/// Who says where a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The store with this index on this node, which has a replica.
    Store(usize),
    /// The scheduler.
    Scheduler,
}

/// Where the keys are, as far as this core knows. Between two places there may be keys of which it does not.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// The first keys of `places`, side by side, because every request searches them.
    starts: Vec<Bytes>,
    places: Vec<Rc<Placed>>,
    claims: Claims,
    /// Former places with writes that were in flight there when they changed.
    left_behind: Vec<Rc<Placed>>,
    /// How often it was decided whose keys are: what changes have moved.
    decided: u64,
}

/// One region's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// First key.
    pub start: Bytes,
    /// Exclusive end key; empty means unbounded.
    pub end: Bytes,
    /// The region.
    pub region_id: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// Who says so.
    pub source: Source,
    /// Who leads it, if another node does; the core that routes adds it.
    pub leader: Option<Peer>,
}

/// What a source says of one first key: the place that begins there, or that none does.
pub type PlaceChange = (Bytes, Option<Place>);

impl Place {
    /// The place of a region on the store number `store`.
    pub fn of(region: &Region, store: usize) -> Self {
        Self::from_source(region, Source::Store(store), None)
    }

    fn from_source(region: &Region, source: Source, leader: Option<Peer>) -> Self {
        let Region { id, range, epoch, peers: _ } = region;
        let bytes = |key: &Key| Bytes::copy_from_slice(key.as_bytes());
        let (start, end) = (bytes(range.start()), bytes(range.end()));
        Self { start, end, region_id: id.0, epoch: *epoch, source, leader }
    }

    /// Whether the region has `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && (self.end.is_empty() || key < self.end.as_ref())
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let ends_before = |one: &Self, next: &Self| !one.end.is_empty() && one.end <= next.start;
        !ends_before(self, other) && !ends_before(other, self)
    }

    /// What the guard of the store checks: the region and its version, and not who leads.
    pub fn route(&self) -> Route {
        Route {
            replica_read: false,
            region_id: self.region_id,
            conf_ver: self.epoch.conf_ver,
            version: self.epoch.version,
            peer_id: 0,
            store_id: 0,
            term: 0,
        }
    }
}

impl Routes {
    /// The first routes, from the places of all regions, in any order.
    pub fn new(places: Vec<Place>) -> Self {
        let mut routes = Self::default();
        let set = |place: Place| {
            routes.claims.set(place.source, &place.start.clone(), Some(Claim { place, voters: Vec::new() }))
        };
        let touched = places.into_iter().filter_map(set).collect();
        routes.decide_all(touched);
        routes
    }

    /// Takes over what a store has published. Whether that changes anything.
    pub fn publish(&mut self, store: usize, changes: Vec<PlaceChange>) -> bool {
        let source = Source::Store(store);
        let mut touched = Vec::new();
        // What has left first, and the rest in key order: so no two of them overlap in between.
        let (left, mut came): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, place)| place.is_none());
        came.sort_by(|one, next| one.0.cmp(&next.0));
        for (start, place) in left.into_iter().chain(came) {
            let claim = place.map(|mut place| {
                // A region that changes keeps its leader until another one is heard of.
                place.leader =
                    self.claims.of_region(place.region_id, source).and_then(|old| old.place.leader);
                Claim { place, voters: Vec::new() }
            });
            touched.extend(self.claims.set(source, &start, claim));
        }
        let changed = !touched.is_empty();
        self.decide_all(touched);
        self.check_in_debug();
        changed
    }

    /// Whether a store of this node has published exactly this.
    pub fn has_published(&self, (start, place): &PlaceChange, store: usize) -> bool {
        let source = Source::Store(store);
        let known = self.claims.at(source, start);
        let same = |known: &Place, place: &Place| Place { leader: None, ..known.clone() } == *place;
        match (known, place) {
            (Some(known), Some(place)) => same(&known.place, place),
            (known, place) => known.is_none() && place.is_none(),
        }
    }

    /// Takes over what the scheduler said of a region elsewhere, of which `leader` is asked, unless something newer is known. Returns
    /// whether it was taken.
    pub fn locate(&mut self, region: &Region, leader: Peer) -> bool {
        let place = Place::from_source(region, Source::Scheduler, Some(leader));
        let span = Span::of(&place);
        let known: Vec<Place> =
            self.claims.of_within(Source::Scheduler, &span).map(|claim| claim.place.clone()).collect();
        if known.iter().any(|known| known.epoch.version > place.epoch.version) {
            return false;
        }
        for old in known.iter().filter(|old| old.start != place.start) {
            self.set(Source::Scheduler, &old.start, None);
        }
        let voters =
            region.peers.iter().filter(|peer| peer.role != scheduler::Role::Learner).copied().collect();
        let start = place.start.clone();
        self.set(Source::Scheduler, &start, Some(Claim { place, voters }));
        // A replica here that knows no leader is helped by whom the scheduler knows.
        for (source, start) in self.claims.for_region(region.id.0) {
            let knows_none = self.claims.at(source, &start).is_some_and(|claim| claim.place.leader.is_none());
            if source != Source::Scheduler && knows_none {
                self.lead_at(source, &start, Some(leader));
            }
        }
        self.check_in_debug();
        true
    }

    /// Forgets what the scheduler said of a region. Whether it had said anything.
    pub fn forget(&mut self, region_id: u64) -> bool {
        let known =
            self.claims.of_region(region_id, Source::Scheduler).map(|claim| claim.place.start.clone());
        known.is_some_and(|start| self.set(Source::Scheduler, &start, None))
    }

    /// How many regions are known by the scheduler alone.
    pub fn located(&self) -> usize {
        self.claims.count(Source::Scheduler)
    }

    /// Notes who leads a region, or that it is not known: then a replica here is asked, or where there is none another one elsewhere.
    /// Whether that is news.
    pub fn lead(&mut self, region_id: u64, leader: Option<Peer>) -> bool {
        let mut news = false;
        for (source, start) in self.claims.for_region(region_id) {
            news |= self.lead_at(source, &start, leader);
        }
        news
    }

    fn lead_at(&mut self, source: Source, start: &Bytes, leader: Option<Peer>) -> bool {
        let Some(Claim { place, voters }) = self.claims.get_mut(source, start) else { return false };
        let leader = match source {
            Source::Store(_) => leader,
            Source::Scheduler => leader.or_else(|| next_voter(voters, place.leader)),
        };
        if place.leader == leader {
            return false;
        }
        place.leader = leader;
        let place = place.clone();
        let at = self.starts.binary_search(start);
        if let Ok(at) = at
            && self.places[at].source == source
        {
            let old = std::mem::replace(&mut self.places[at], Placed::new(place));
            self.leave_behind([old]);
        }
        true
    }

    /// Notes which store of this node leads a region, by its number, or that it is not known. While two have a replica, the one that leads is
    /// asked.
    pub fn lead_here(&mut self, region_id: u64, store: Option<usize>) {
        if !self.claims.note_leader(region_id, store) {
            return;
        }
        for (source, start) in self.claims.for_region(region_id) {
            if let Some(claim) = self.claims.at(source, &start) {
                self.decide(Span::of(&claim.place));
            }
        }
        self.check_in_debug();
    }

    /// Sets a claim and decides anew for the keys that it touches.
    fn set(&mut self, source: Source, start: &Bytes, claim: Option<Claim>) -> bool {
        let Some(span) = self.claims.set(source, start, claim) else { return false };
        self.decide(span);
        true
    }

    /// Decides anew whose the keys of all these are, of keys that lie together at once: each decision moves what lies behind it, so those of
    /// the parts of one region would cost the square of their number.
    fn decide_all(&mut self, touched: Vec<Span>) {
        Span::join(touched).into_iter().for_each(|span| self.decide(span));
    }

    /// Decides anew whose the keys of `span` are.
    fn decide(&mut self, mut span: Span) {
        self.decided += 1;
        let winners = self.claims.winners(&mut span);
        let Span { start, end } = span;
        let reaches = |place: &Rc<Placed>| !place.end.is_empty() && place.end <= start;
        let from = self.places.partition_point(reaches);
        let upto = self.places.partition_point(|place| end.is_empty() || place.start < end);
        let mut old: Vec<Option<Rc<Placed>>> = self.places[from..upto].iter().cloned().map(Some).collect();
        let starts = &self.starts[from..upto];
        let placed = |place: &Place| {
            let at = starts.binary_search(&place.start).ok();
            let same = at.and_then(|at| old[at].take_if(|old| ***old == *place));
            same.unwrap_or_else(|| Placed::new(place.clone()))
        };
        let new: Vec<Rc<Placed>> = winners.iter().map(placed).collect();
        self.starts.splice(from..upto, winners.into_iter().map(|place| place.start));
        self.places.splice(from..upto, new);
        self.leave_behind(old.into_iter().flatten());
    }

    fn leave_behind(&mut self, old: impl IntoIterator<Item = Rc<Placed>>) {
        self.left_behind.extend(old);
        self.left_behind.retain(|old| old.is_awaited());
    }

    /// Whether writes may be in flight to places that have changed since.
    pub fn has_left_behind(&self) -> bool {
        !self.left_behind.is_empty()
    }

    /// Whether a write of `keys` that was submitted before number `number` was sent to another place than `to`, and may yet be refused there.
    pub fn is_before(&self, number: u64, keys: KeyHash, to: &Rc<Placed>) -> bool {
        let mut others = self.left_behind.iter().filter(|old| !Rc::ptr_eq(old, to) && old.overlaps(to));
        others.any(|old| old.is_before(number, keys))
    }

    /// Forgets former places whose writes are answered.
    pub fn forget_answered(&mut self) {
        self.leave_behind([]);
    }

    /// What changes have cost since the start, in claims that were looked at.
    pub fn looked_at(&self) -> u64 {
        self.claims.looked_at()
    }

    /// How often it was decided since the start whose keys are.
    pub const fn decided(&self) -> u64 {
        self.decided
    }

    /// The region that contains `key`, if it is known.
    pub fn find(&self, key: &[u8]) -> Option<&Rc<Placed>> {
        let behind = self.starts.partition_point(|start| start.as_ref() <= key);
        let place = self.places.get(behind.checked_sub(1)?)?;
        place.contains(key).then_some(place)
    }

    /// The region that contains the greatest keys below `key`, if it is known; the empty key stands for the end of the key space.
    pub fn find_before(&self, key: &[u8]) -> Option<&Rc<Placed>> {
        let behind = match key.is_empty() {
            true => self.starts.len(),
            false => self.starts.partition_point(|start| start.as_ref() < key),
        };
        let place = self.places.get(behind.checked_sub(1)?)?;
        (place.end.is_empty() || (!key.is_empty() && key <= place.end.as_ref())).then_some(place)
    }

    /// The keys around `key` of which is known what is known of it: those of its region, or those up to the known regions beside it.
    pub fn around(&self, key: &[u8]) -> (Bytes, Bytes) {
        let behind = self.starts.partition_point(|start| start.as_ref() <= key);
        let before = behind.checked_sub(1).and_then(|at| self.places.get(at));
        match before {
            Some(place) if place.contains(key) => (place.start.clone(), place.end.clone()),
            before => {
                let start = before.map(|place| place.end.clone()).unwrap_or_default();
                (start, self.starts.get(behind).cloned().unwrap_or_default())
            }
        }
    }

    /// The keys below `key` of which is known what is known of the greatest of them, as for [`Routes::around`]. The empty key stands for the end of
    /// the key space.
    pub fn around_before(&self, key: &[u8]) -> (Bytes, Bytes) {
        match self.find_before(key) {
            Some(place) => (place.start.clone(), place.end.clone()),
            None => {
                let behind = match key.is_empty() {
                    true => self.starts.len(),
                    false => self.starts.partition_point(|start| start.as_ref() < key),
                };
                let before = behind.checked_sub(1).and_then(|at| self.places.get(at));
                let end = Bytes::copy_from_slice(key);
                (before.map(|place| place.end.clone()).unwrap_or_default(), end)
            }
        }
    }

    fn check_in_debug(&self) {
        if cfg!(any(debug_assertions, feature = "checks")) {
            self.check();
        }
    }

    /// Asserts the stated invariants.
    ///
    /// # Panics
    /// If one does not hold: that is a bug.
    pub fn check(&self) {
        self.claims.check();
        let apart = |one: &Rc<Placed>, next: &Rc<Placed>| one.start < next.start && !one.overlaps(next);
        assert!(self.places.is_sorted_by(apart), "places overlap: {:?}", self.places);
        assert!(self.places.iter().map(|place| &place.start).eq(&self.starts), "first keys of other places");
        let unnamed = |place: &&Rc<Placed>| place.source == Source::Scheduler && place.leader.is_none();
        assert!(self.places.iter().find(unnamed).is_none(), "no replica is named");
        let mut everything = Span { start: Bytes::new(), end: Bytes::new() };
        let right = self.claims.clone().winners(&mut everything);
        assert!(
            self.places.iter().map(|placed| &***placed).eq(&right),
            "{right:?} are right, not {:?}",
            self.places
        );
    }
}

/// The voter after `asked`, in turn.
fn next_voter(voters: &[Peer], asked: Option<Peer>) -> Option<Peer> {
    let at = voters.iter().position(|voter| asked.is_some_and(|asked| asked.id == voter.id));
    let next = at.map_or(0, |at| (at + 1) % voters.len().max(1));
    voters.get(next).copied().or(asked)
}

#[cfg(test)]
mod tests;
