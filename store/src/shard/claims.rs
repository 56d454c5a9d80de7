//! Who says that it has which keys: what the stores of this node publish, and what the scheduler says of regions elsewhere.
//!
//! Claims of one source lie apart; those of two may overlap for a while, because one has not said yet that a region has left, or because
//! the scheduler heard of a change sooner or later than this node. Then the newer epoch is right, and of two equal ones that of a store
//! here. Which claims are right is decided anew only for the keys that a change touches, so a change costs by what it touches and
//! not by how many regions there are.
//!
//! Invariants, asserted by [`Claims::check`]: claims of one source do not overlap; `by_region` names each claim once.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use bytes::Bytes;
use scheduler::Peer;

use super::routes::{Place, Source};

/// A place as its source has it.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) place: Place,
    /// Who may lead the region, if it is elsewhere.
    pub(super) voters: Vec<Peer>,
}

/// A range of keys; an empty end means unbounded.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) start: Bytes,
    pub(super) end: Bytes,
}

impl Span {
    pub(super) fn of(place: &Place) -> Self {
        Self { start: place.start.clone(), end: place.end.clone() }
    }

    /// Whether it grows to cover `other`, too.
    fn cover(&mut self, other: &Place) -> bool {
        let (starts, ends) = (other.start < self.start, ends_after(&other.end, &self.end));
        if starts {
            self.start = other.start.clone();
        }
        if ends {
            self.end = other.end.clone();
        }
        starts || ends
    }

    /// Those that meet or overlap become one.
    pub(super) fn join(mut spans: Vec<Self>) -> Vec<Self> {
        spans.sort_unstable_by(|one, next| one.start.cmp(&next.start));
        let mut joined: Vec<Self> = Vec::new();
        for span in spans {
            match joined.last_mut() {
                Some(last) if last.end.is_empty() || span.start <= last.end => {
                    if ends_after(&span.end, &last.end) {
                        last.end = span.end;
                    }
                }
                Some(_) | None => joined.push(span),
            }
        }
        joined
    }
}

/// Whether the exclusive end `one` lies after `other`.
fn ends_after(one: &Bytes, other: &Bytes) -> bool {
    !other.is_empty() && (one.is_empty() || one > other)
}

/// All claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    /// By source and first key.
    sources: BTreeMap<Source, BTreeMap<Bytes, Claim>>,
    /// The first key of each region's claim, by region and source.
    by_region: BTreeMap<(u64, Source), Bytes>,
    /// Which store here leads a region of which two have a replica, as far as it was heard.
    led_by: BTreeMap<u64, usize>,
    /// Claims that were looked at since the start: what changes have cost.
    looked_at: Cell<u64>,
}

impl Claims {
    /// Puts a claim in the place of what `source` had from `start` on, or takes that away. Returns the keys that it touches; nothing if
    /// nothing changes.
    pub(super) fn set(&mut self, source: Source, start: &Bytes, claim: Option<Claim>) -> Option<Span> {
        let claims = self.sources.entry(source).or_default();
        self.looked_at.set(self.looked_at.get() + 1);
        let old = claims.get(start).map(|old| &old.place);
        if old == claim.as_ref().map(|claim| &claim.place) {
            return None;
        }
        let (mut span, gone) = (old.map(Span::of), old.map(|old| old.region_id));
        if let Some(old) = claims.remove(start) {
            let key = (old.place.region_id, source);
            if self.by_region.get(&key) == Some(start) {
                self.by_region.remove(&key);
            }
        }
        if claim.is_none()
            && let (Source::Store(store), Some(left)) = (source, gone)
            && self.led_by.get(&left) == Some(&store)
        {
            self.led_by.remove(&left);
        }
        if let Some(claim) = claim {
            match &mut span {
                Some(span) => drop(span.cover(&claim.place)),
                None => span = Some(Span::of(&claim.place)),
            }
            // A region begins at one key. What the source had of it elsewhere is old.
            if let Some(elsewhere) = self.by_region.insert((claim.place.region_id, source), start.clone())
                && elsewhere != *start
                && let Some(old) = claims.remove(&elsewhere)
                && let Some(span) = &mut span
            {
                span.cover(&old.place);
            }
            claims.insert(start.clone(), claim);
        }
        span
    }

    /// The claim of `source` from `start` on.
    pub(super) fn at(&self, source: Source, start: &Bytes) -> Option<&Claim> {
        self.sources.get(&source)?.get(start)
    }

    /// The claim of `source` for a region.
    pub(super) fn of_region(&self, region_id: u64, source: Source) -> Option<&Claim> {
        let start = self.by_region.get(&(region_id, source))?;
        self.sources.get(&source)?.get(start)
    }

    /// Where the claims for a region are: their sources and first keys.
    pub(super) fn for_region(&self, region_id: u64) -> Vec<(Source, Bytes)> {
        let all = (region_id, Source::Store(0))..=(region_id, Source::Scheduler);
        self.by_region.range(all).map(|((_, source), start)| (*source, start.clone())).collect()
    }

    /// The same, to note who leads.
    pub(super) fn get_mut(&mut self, source: Source, start: &Bytes) -> Option<&mut Claim> {
        self.looked_at.set(self.looked_at.get() + 1);
        self.sources.get_mut(&source)?.get_mut(start)
    }

    /// Notes which store here leads a region, or that it is not known, where two have a replica. Whether that is news.
    pub(super) fn note_leader(&mut self, region_id: u64, store: Option<usize>) -> bool {
        let of_stores = (region_id, Source::Store(0))..(region_id, Source::Scheduler);
        match store.filter(|_| self.by_region.range(of_stores).count() > 1) {
            Some(store) => self.led_by.insert(region_id, store) != Some(store),
            None => self.led_by.remove(&region_id).is_some(),
        }
    }

    /// How many claims `source` has.
    pub(super) fn count(&self, source: Source) -> usize {
        self.sources.get(&source).map_or(0, BTreeMap::len)
    }

    /// The claims of `source` for keys of `span`, in key order.
    pub(super) fn of_within<'a, 's>(
        &'a self,
        source: Source,
        span: &'s Span,
    ) -> impl Iterator<Item = &'a Claim> + use<'a, 's> {
        self.sources.get(&source).into_iter().flat_map(move |claims| self.within(claims, span))
    }

    fn within<'a, 's>(
        &'a self,
        claims: &'a BTreeMap<Bytes, Claim>,
        span: &'s Span,
    ) -> impl Iterator<Item = &'a Claim> + use<'a, 's> {
        let before = claims.range::<Bytes, _>((Unbounded, Excluded(&span.start))).next_back();
        let reaches = |claim: &&Claim| ends_after(&claim.place.end, &span.start) || span.start.is_empty();
        let upto = if span.end.is_empty() { Unbounded } else { Excluded(&span.end) };
        // A span has a key at least.
        let from = claims.range::<Bytes, _>((Included(&span.start), upto));
        let found = before.map(|(_, claim)| claim).filter(reaches).into_iter();
        found.chain(from.map(|(_, claim)| claim)).inspect(|_| {
            self.looked_at.set(self.looked_at.get() + 1);
        })
    }

    /// The claims that are right, in key order, for `span` and for all keys on which that decision rests: `span` grows to these.
    pub(super) fn winners(&self, span: &mut Span) -> Vec<Place> {
        let mut found: Vec<&Place>;
        loop {
            let asked = span.clone();
            found = self
                .sources
                .values()
                .flat_map(|claims| self.within(claims, &asked))
                .map(|it| &it.place)
                .collect();
            let mut has_grown = false;
            for place in &found {
                has_grown |= span.cover(place);
            }
            if !has_grown {
                break;
            }
        }
        // The newest epoch first, so that what it covers is taken when an older one comes; of two replicas here the one that leads.
        let leads = |place: &Place| match place.source {
            Source::Store(store) => self.led_by.get(&place.region_id) == Some(&store),
            Source::Scheduler => false,
        };
        found.sort_by_key(|place| {
            (Reverse((place.epoch.version, leads(place), place.epoch.conf_ver)), place.source)
        });
        let mut taken: BTreeMap<&Bytes, &Place> = BTreeMap::new();
        for place in found {
            let before = taken.range::<Bytes, _>((Unbounded, Included(&place.start))).next_back();
            let behind = taken.range::<Bytes, _>((Included(&place.start), Unbounded)).next();
            if !before.into_iter().chain(behind).any(|(_, other)| other.overlaps(place)) {
                taken.insert(&place.start, place);
            }
        }
        taken.into_values().cloned().collect()
    }

    /// What changes have cost so far.
    pub(super) fn looked_at(&self) -> u64 {
        self.looked_at.get()
    }

    /// Asserts the stated invariants.
    pub(super) fn check(&self) {
        let mut count = 0;
        for (source, claims) in &self.sources {
            let all: Vec<&Place> = claims.values().map(|claim| &claim.place).collect();
            for (start, claim) in claims {
                let place = &claim.place;
                assert!(
                    place.start == *start && place.source == *source,
                    "{place:?} is kept at {start:?} of {source:?}"
                );
                assert_eq!(
                    self.by_region.get(&(place.region_id, *source)),
                    Some(start),
                    "{place:?} is not known by its region"
                );
            }
            let apart = |pair: &[&Place]| !pair[0].overlaps(pair[1]);
            assert!(all.windows(2).all(apart), "claims of one source overlap: {all:?}");
            count += claims.len();
        }
        assert_eq!(self.by_region.len(), count, "regions without a claim");
    }
}
