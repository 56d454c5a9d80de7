//! Since when regions have been what they are, and which borders between them are to stay: what the merge checker must know of the past.
//!
//! A region that a split has made, or has made smaller, is noted. One that is not noted is as old as the map, whose reports say nothing of
//! the time before. Invariant: only regions that are in the map are noted.

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use crate::id::RegionId;
use crate::range::Key;
use crate::region::Region;
use crate::time::Time;

#[derive(Clone, Debug, Default)]
pub(super) struct Lately {
    began: Time,
    cut: BTreeMap<RegionId, Time>,
    kept: BTreeSet<Key>,
}

impl Lately {
    pub(super) fn forget(&mut self, region: RegionId) {
        self.cut.remove(&region);
    }
}

impl Cluster {
    /// The map begins now.
    pub fn begin(&mut self, now: Time) {
        self.lately.began = now;
    }

    /// A split has made this region, or has made it smaller.
    pub fn note_cut(&mut self, region: RegionId, now: Time) {
        if self.by_id.contains_key(&region) {
            self.lately.cut.insert(region, now);
        }
    }

    /// Whether the report of a region that covers this shows a split.
    #[must_use]
    pub fn shows_cut(&self, reported: &Region) -> bool {
        let known = self.region(reported.id).map(|known| &known.region.range);
        known.is_none_or(|known| *known != reported.range && known.contains_range(&reported.range))
    }

    /// When the region was cut last, or the map began.
    #[must_use]
    pub fn cut_at(&self, region: RegionId) -> Time {
        self.lately.cut.get(&region).copied().unwrap_or(self.lately.began)
    }

    /// Forgets what was cut longer ago than that.
    pub fn forget_cuts(&mut self, ms: u64, now: Time) {
        self.lately.cut.retain(|_, at| now.ms_since(*at) <= ms);
    }

    /// Regions that meet at one of these keys stay two.
    pub fn keep_borders(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.lately.kept = keys.into_iter().collect();
    }

    /// Whether two neighbours meet where a border is to stay.
    #[must_use]
    pub fn keeps_border(&self, one: &Region, other: &Region) -> bool {
        let (one, other) = (&one.range, &other.range);
        let border = if one.end() == other.start() { other.start() } else { one.start() };
        self.lately.kept.contains(border)
    }
}
