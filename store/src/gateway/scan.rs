//! Scans over several regions, each read as the newest routes have it at that moment.
//!
//! A region answers only if it is as the route says, so what it gave is all there is up to the border that the scan goes on from:
//! nothing between two regions is left out and nothing is read twice, whatever moves meanwhile.

use std::rc::Rc;

use bytes::Bytes;

use engine::rt::local::oneshot;

use super::dispatch::Dispatch;
use super::retry::{AGAIN_AFTER, RETRIED_FOR};
use crate::memory::charged_pair_bytes;
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::request::{Op, Out, Outcome, Scan};
use crate::shard::placed::Placed;
use crate::shard::routes::Place;

impl Dispatch {
    /// Scans region by region until the limit or the end of the range. As with values, a scan that holds pairs of one region does not
    /// wait for room in the next one, unless it is its turn.
    pub(super) async fn scan(self: &Rc<Self>, scan: Scan) -> Outcome {
        match self.scan_regions(scan.clone(), true).await? {
            Out::NoRoom => {}
            pairs => return Ok(pairs),
        }
        let _turn = self.memory().spread.wait(self.rt(), 1).await?;
        self.scan_regions(scan, false).await
    }

    async fn scan_regions(self: &Rc<Self>, mut scan: Scan, at_once: bool) -> Outcome {
        let (mut pairs, wanted) = (Vec::new(), scan.limit);
        let mut since = self.rt().now();
        while pairs.len() < wanted && (scan.end.is_empty() || scan.start < scan.end) {
            scan.limit = (wanted - pairs.len()).min(self.scan_pairs_max());
            scan.at_once = at_once && !pairs.is_empty();
            let is_late = self.rt().now().since(since) >= RETRIED_FOR;
            let Some(place) = self.place_of(&scan) else {
                let sought = if scan.reverse { self.seek_before(&scan.end) } else { self.seek(&scan.start) };
                match sought {
                    Some(refusal) if is_late => return Err(refusal),
                    Some(_) => self.rt().sleep(AGAIN_AFTER).await,
                    None => return Err(Refusal::RegionNotFound { region_id: 0 }),
                }
                continue;
            };
            let part = match self.scan_region(&place, &scan).await {
                Ok(part) => part,
                Err(refusal) if refusal.has_moved() && !is_late => {
                    self.heard(place.region_id, &refusal);
                    self.rt().sleep(AGAIN_AFTER).await;
                    continue;
                }
                Err(refusal) => return Err(refusal),
            };
            let Some(part) = part else { return Ok(Out::NoRoom) };
            since = self.rt().now();
            let whole = part.len() < scan.limit;
            let last = part.last().map(|(key, _)| key.clone());
            // Each region refuses what would be too large together with what is here already.
            scan.held_bytes += part.iter().map(|(key, value)| charged_pair_bytes(key, value)).sum::<usize>();
            pairs.extend(part);
            let place = match planted(Bug::ScanSkips) {
                true => {
                    self.rt().sleep(AGAIN_AFTER).await;
                    self.place_of(&scan).unwrap_or(place)
                }
                false => place,
            };
            if !advance(&mut scan, &place, whole, last) {
                break;
            }
        }
        Ok(Out::Pairs(pairs))
    }

    /// Where the scan goes on.
    fn place_of(&self, scan: &Scan) -> Option<Rc<Placed>> {
        let routes = self.routes();
        let place = if scan.reverse { routes.find_before(&scan.end) } else { routes.find(&scan.start) };
        place.cloned()
    }

    /// The pairs of one region; nothing if there is no room for them and the scan asks not to wait.
    async fn scan_region(&self, place: &Place, scan: &Scan) -> Result<Option<Vec<(Bytes, Bytes)>>, Refusal> {
        let (answer, pending) = oneshot();
        self.deliver_to(place, Op::Scan(scan.clone()), answer);
        match pending.await.unwrap_or(Err(Refusal::Unknown))? {
            Out::Pairs(pairs) => Ok(Some(pairs)),
            Out::NoRoom => Ok(None),
            other => unreachable!("a scan was answered with {other:?}"),
        }
    }
}

/// Moves a scan behind what it has; `false` at the end of the key space. `whole` says that the region gave all it had, else
/// the scan goes on behind the `last` key.
fn advance(scan: &mut Scan, place: &Place, whole: bool, last: Option<Bytes>) -> bool {
    match (scan.reverse, whole, last) {
        (false, false, Some(key)) => {
            // The smallest key above `key`.
            let mut next = Vec::with_capacity(key.len() + 1);
            next.extend_from_slice(&key);
            if !planted(Bug::ScanRepeats) {
                next.push(0);
            }
            scan.start = next.into();
            true
        }
        (true, false, Some(key)) => {
            scan.end = key;
            !scan.end.is_empty()
        }
        (false, ..) => {
            scan.start = place.end.clone();
            !scan.start.is_empty()
        }
        (true, ..) => {
            scan.end = place.start.clone();
            !scan.end.is_empty()
        }
    }
}
