//! `ScanRegions` and `BatchScanRegions`: the regions of ranges that a client names.
//!
//! Ranges are put in order and those that overlap are joined first, so the work is that of the regions and of the ranges, not of
//! their product, and each region is answered once however many ranges it lies in.
//!
//! Bounds: an answer has at most [`REGIONS_MAX`] regions; who asks for more is refused and asked to set a limit, because an answer that ends
//! early without being asked to looks like the end of the map. The core pauses between pages of [`REGIONS_AT_ONCE`], and while it puts the
//! ranges in order.

use std::collections::BTreeMap;

use engine::rt::Budget;
use scheduler::{Key, KeyRange};

use super::{Pd, shape};
use crate::wire::grpc::{Code, Status};
use crate::wire::proto::pdpb::{self, ErrorType};

/// Regions of one answer: some MiB.
const REGIONS_MAX: usize = 16 << 10;
/// Regions that are copied out of the map between two pauses.
const REGIONS_AT_ONCE: usize = 128;
/// Ranges that are put in order between two pauses.
const RANGES_AT_ONCE: usize = 128;

/// What lies in the ranges.
#[derive(Debug, Default)]
struct Found {
    regions: Vec<pdpb::Region>,
    /// A part of the ranges, up to the last region, belongs to no known region.
    gap: bool,
}

impl Pd {
    pub(super) async fn scan_regions(
        &self,
        request: pdpb::ScanRegionsRequest,
    ) -> Result<pdpb::ScanRegionsResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let asked = range(&request.start_key, &request.end_key).into_iter();
        let Found { regions, gap: _ } = self.scan(asked, request.limit).await?;
        Ok(pdpb::ScanRegionsResponse {
            header: if self.is_bootstrapped() { self.header() } else { self.not_bootstrapped() },
            region_metas: regions.iter().filter_map(|known| known.region.clone()).collect(),
            leaders: regions.iter().map(|known| known.leader.unwrap_or_default()).collect(),
            regions,
        })
    }

    pub(super) async fn batch_scan_regions(
        &self,
        request: pdpb::BatchScanRegionsRequest,
    ) -> Result<pdpb::BatchScanRegionsResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let asked = request.ranges.iter().filter_map(|asked| range(&asked.start_key, &asked.end_key));
        let Found { regions, gap } = self.scan(asked, request.limit).await?;
        let header = match (self.is_bootstrapped(), gap && request.contain_all_key_range) {
            (false, _) => self.not_bootstrapped(),
            (true, false) => self.header(),
            (true, true) => {
                let message = "the known regions do not cover all that was asked for; ask again";
                self.failed(ErrorType::RegionsNotContainAllKeyRange, message)
            }
        };
        Ok(pdpb::BatchScanRegionsResponse { header, regions })
    }

    /// The regions of `asked` in key order, up to `limit` where that is positive.
    ///
    /// # Errors
    /// They are more than one answer may have.
    async fn scan(&self, asked: impl Iterator<Item = KeyRange>, limit: i32) -> Result<Found, Status> {
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let (mut found, budget) = (Found::default(), self.control.budget());
        for range in joined(asked, &budget).await {
            let mut rest = Some(range);
            while let Some(range) = rest.take() {
                let room = limit.min(REGIONS_MAX + 1) - found.regions.len();
                rest = self.page(&range, room.min(REGIONS_AT_ONCE), &mut found);
                if found.regions.len() > REGIONS_MAX {
                    let message = format!(
                        "more than {REGIONS_MAX} regions lie there: set limit to {REGIONS_MAX} or less"
                    );
                    return Err(Status::new(Code::ResourceExhausted, message));
                }
                if found.regions.len() >= limit {
                    return Ok(found);
                }
                budget.tick().await;
            }
        }
        Ok(found)
    }

    /// Adds up to `count` regions of `range`. What is left of the range, where there may be more.
    fn page(&self, range: &KeyRange, count: usize, found: &mut Found) -> Option<KeyRange> {
        self.control.map(|map| {
            // The first key that no region has covered yet; `None` once the key space is.
            let mut reached = Some(range.start().clone());
            let mut taken = 0;
            for known in map.overlapping(range).take(count) {
                let region = &known.region.range;
                found.gap |= reached.as_ref().is_some_and(|reached| region.start() > reached);
                reached = region.end_bound().map(Key::from);
                taken += 1;
                let id = known.region.id.get();
                let last = found.regions.last().and_then(|last| last.region.as_ref());
                // The ranges lie apart, but a region may reach from one into the next.
                if last.is_none_or(|last| last.id != id) {
                    found.regions.push(shape(known));
                }
            }
            let rest = KeyRange::new(reached?, range.end().clone()).ok()?;
            if taken < count {
                found.gap = true;
                return None;
            }
            Some(rest)
        })
    }
}

/// The range of a request, unless it is empty or upside down.
fn range(start: &[u8], end: &[u8]) -> Option<KeyRange> {
    KeyRange::new(start, end).ok()
}

/// The same keys as ranges in order that lie apart.
async fn joined(asked: impl Iterator<Item = KeyRange>, budget: &Budget) -> Vec<KeyRange> {
    // The widest of those that begin alike.
    let mut ordered: BTreeMap<Key, KeyRange> = BTreeMap::new();
    for (number, range) in asked.enumerate() {
        match ordered.get_mut(range.start()) {
            Some(known) if known.contains_range(&range) => {}
            Some(known) => *known = range,
            None => drop(ordered.insert(range.start().clone(), range)),
        }
        if number % RANGES_AT_ONCE == 0 {
            budget.tick().await;
        }
    }
    let mut joined: Vec<KeyRange> = Vec::new();
    for (number, range) in ordered.into_values().enumerate() {
        match joined.last_mut() {
            Some(last) if last.overlaps(&range) || last.adjacent(&range) => {
                if !last.contains_range(&range)
                    && let Ok(both) = KeyRange::new(last.start().clone(), range.end().clone())
                {
                    *last = both;
                }
            }
            Some(_) | None => joined.push(range),
        }
        if number % RANGES_AT_ONCE == 0 {
            budget.tick().await;
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use engine::rt::sim::{self, Options, World};

    use super::*;

    #[test]
    fn ranges_that_share_keys_become_one() {
        let range = |(start, end): (&'static str, &'static str)| KeyRange::new(start, end).unwrap();
        sim::run(1, move |rt| async move {
            for (asked, expected) in [
                (vec![("d", "f"), ("a", "c")], vec![("a", "c"), ("d", "f")]),
                (vec![("a", "d"), ("b", "c"), ("c", "e"), ("e", "f")], vec![("a", "f")]),
                (vec![("a", ""), ("b", "c"), ("", "a")], vec![("", "")]),
                (vec![("a", "c"), ("a", "f"), ("a", "d")], vec![("a", "f")]),
                (vec![("", ""), ("", ""), ("x", "")], vec![("", "")]),
                (vec![], vec![]),
            ] {
                let asked = asked.into_iter().map(range);
                let expected: Vec<_> = expected.into_iter().map(range).collect();
                assert_eq!(joined(asked, &rt.budget()).await, expected);
            }
        });
    }

    /// A client decides how many ranges there are, and the same core hands out timestamps.
    #[test]
    fn others_go_on_while_ranges_are_put_in_order() {
        let world = World::new(1, Options { clock_ns: 20_000, ..Options::default() });
        let passes = Rc::new(Cell::new(0));
        let counted = passes.clone();
        let node = world.node(0);
        let turns = node.start(0, move |rt| async move {
            let neighbour = rt.clone();
            rt.spawn(async move {
                loop {
                    neighbour.yield_to_reactor().await;
                    counted.set(counted.get() + 1);
                }
            });
            rt.yield_to_reactor().await;
            let range = |number: u32| KeyRange::new(number.to_be_bytes().to_vec(), vec![0xff; 5]).unwrap();
            let mut turns = Vec::new();
            for asked in [(0..60_000).collect::<Vec<u32>>(), vec![7; 60_000]] {
                let before = passes.get();
                assert_eq!(joined(asked.into_iter().map(range), &rt.budget()).await.len(), 1);
                turns.push(passes.get() - before);
            }
            turns
        });
        let turns = world.block_on(turns).unwrap();
        // Each slice of half a millisecond has room for 25 looks at this clock, and 128 ranges pass between two of them.
        assert!(turns[0] >= 30 && turns[1] >= 15, "{turns:?}");
    }
}
