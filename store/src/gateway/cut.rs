//! Regions that are cut at keys which a client of their leader names.
//!
//! ```text
//! route and keys are judged by the store ──▶ ids from the scheduler ──▶ proposed ──▶ published with the new borders
//! ```
//!
//! The scheduler hears of the new regions with the next report, as of every region that a store thinks of cutting itself.
//!
//! Invariants: what is refused has changed nothing; where the outcome is not seen in time, the answer says so.

use std::rc::Rc;
use std::time::Duration;

use scheduler::operator::OperatorId;
use scheduler::{Key, Region, RegionId};

use super::dispatch::Dispatch;
use super::{Backend, Gateway};
use crate::keyspace;
use crate::refusal::Refusal;
use crate::request::Route;
use crate::shard::Shard;

/// How long a cut may take from its proposal to its publication.
const CUT_MAX: Duration = Duration::from_secs(3);
/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// No operator wanted it: a client did.
const OF_A_CLIENT: OperatorId = OperatorId(0);

impl Gateway {
    /// Cuts the region of `route`, which the store of this port has to lead, at keys inside it. The regions that it has become, in key order.
    ///
    /// # Errors
    /// Those of the guard; a key at which clients of the keyspace could not decode the border; or there are no ids for the new regions.
    pub async fn cut(&self, route: &Route, mut keys: Vec<Key>) -> Result<Vec<Region>, Refusal> {
        let Backend::Node(dispatch) = &self.backend else {
            return Err(Refusal::Invalid("a map in memory has no regions".to_owned()));
        };
        if let Some(key) = keys.iter().find(|key| !keyspace::may_cut(key.as_bytes())) {
            let sentence = format!(
                "\"{}\" lies among the keys of the keyspace {}, and is none",
                key.as_bytes().escape_ascii(),
                keyspace::DEFAULT
            );
            return Err(Refusal::Invalid(sentence));
        }
        keys.sort_unstable();
        keys.dedup();
        dispatch.cut(self.home, route, &keys).await
    }
}

impl Dispatch {
    async fn cut(self: &Rc<Self>, store: usize, route: &Route, keys: &[Key]) -> Result<Vec<Region>, Refusal> {
        let shard = self.open_shard(store)?;
        let region = shard.may_split_at(route, keys)?;
        let questions = self.questions().ok_or_else(|| busy("no scheduler is asked from here"))?;
        let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let parts = match questions.parts(self.rt(), &region, count).await {
            Some(Ok(parts)) => parts,
            Some(Err(why)) => {
                tracing::info!(
                    region = region.id.0,
                    why,
                    "there are no ids for a cut that a client asks for"
                );
                return Err(busy("the scheduler does not know the region as it is yet"));
            }
            None => return Err(busy("the scheduler has not given ids in time")),
        };
        shard.split(region.id, region.epoch, OF_A_CLIENT, keys, &parts)?;
        let ids: Vec<RegionId> =
            std::iter::once(region.id).chain(parts.iter().map(|part| part.region)).collect();
        self.await_parts(shard, &region, &ids).await
    }

    /// Waits until a region has become those that have these ids.
    async fn await_parts(
        &self,
        shard: &Shard,
        region: &Region,
        ids: &[RegionId],
    ) -> Result<Vec<Region>, Refusal> {
        let began = self.rt().now();
        loop {
            let mut regions = regions_of(shard);
            regions.retain(|known| ids.contains(&known.id));
            if regions.len() == ids.len() {
                return Ok(regions);
            }
            let now = regions_of(shard).into_iter().find(|known| known.id == region.id);
            match now {
                // Something else has come first; that one is judged by the epoch, so it came to nothing.
                Some(now) if regions.len() == 1 && now.epoch.version != region.epoch.version => {
                    return Err(Refusal::EpochNotMatch { current: vec![now] });
                }
                Some(_) if shard.stopped().is_none() && self.rt().now().since(began) < CUT_MAX => {}
                _ => return Err(Refusal::Unknown),
            }
            self.rt().sleep(LOOK_EVERY).await;
        }
    }
}

fn busy(reason: &'static str) -> Refusal {
    Refusal::Busy { reason, backoff_ms: 200 }
}

/// The regions of a store in key order.
fn regions_of(shard: &Shard) -> Vec<Region> {
    let mut regions: Vec<Region> = shard.regions().into_iter().map(|(region, ..)| region).collect();
    regions.sort_unstable_by(|a, b| a.range.start().cmp(b.range.start()));
    regions
}
