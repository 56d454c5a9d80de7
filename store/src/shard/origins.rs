//! Where the replicas of a store come from that splits brought into being, by region and by parent, as its log says when it starts.
//!
//! A start asks both for every region, so each question is one search: a node that was cut into a hundred thousand regions has as many
//! origins. Pure.

use std::collections::BTreeMap;

use raft::Index;
use scheduler::RegionId;

use crate::region::split::SplitOrigin;

/// The origins that the log of a store knows.
#[derive(Debug, Default)]
pub(super) struct Origins {
    by_region: BTreeMap<RegionId, SplitOrigin>,
    /// The last entry of each parent that is an origin.
    last_splits: BTreeMap<RegionId, Index>,
}

impl FromIterator<(RegionId, SplitOrigin)> for Origins {
    fn from_iter<I: IntoIterator<Item = (RegionId, SplitOrigin)>>(origins: I) -> Self {
        let mut all = Self::default();
        for (region, origin) in origins {
            let last = all.last_splits.entry(origin.parent).or_default();
            *last = origin.at.index.max(*last);
            all.by_region.insert(region, origin);
        }
        all
    }
}

impl Origins {
    /// Where a region comes from, if a split brought it into being.
    pub(super) fn of(&self, region: RegionId) -> Option<SplitOrigin> {
        self.by_region.get(&region).copied()
    }

    /// The last entry of a region that is known to have split it.
    pub(super) fn last_split(&self, parent: RegionId) -> Option<Index> {
        self.last_splits.get(&parent).copied()
    }
}

#[cfg(test)]
mod tests {
    use raft::LogId;

    use super::*;

    #[test]
    fn the_last_split_of_a_parent_is_known_in_whatever_order_its_parts_come() {
        let origin = |parent, index| SplitOrigin { parent: RegionId(parent), at: LogId::new(6, index) };
        let all = [(5, origin(1, 9)), (6, origin(1, 30)), (7, origin(1, 12)), (8, origin(6, 7))];
        let origins: Origins = all.iter().map(|(region, origin)| (RegionId(*region), *origin)).collect();
        assert_eq!(origins.last_split(RegionId(1)), Some(Index(30)));
        assert_eq!(
            (origins.last_split(RegionId(6)), origins.last_split(RegionId(5))),
            (Some(Index(7)), None)
        );
        assert_eq!((origins.of(RegionId(7)), origins.of(RegionId(1))), (Some(origin(1, 12)), None));
    }
}
