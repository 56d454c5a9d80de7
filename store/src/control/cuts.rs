//! Regions that are cut at keys which clients name, and when that is done.
//!
//! ```text
//! keys ──▶ no region begins there yet ──▶ the scheduler's operators ──▶ reports show that one begins there
//!                ▲                                                         │
//!                └──────────── until all do, or the time is over ◀─────────┘
//! ```
//!
//! What holds: no caller waits longer than it says; a key at which a region begins already is done; none is cut where clients of the keyspace
//! could not decode the border. What has begun goes on when the time is over.
//!
//! Not here: whether a region may be split now ([`scheduler::ask::presplit`]).

use std::time::Duration;

use scheduler::operator::BuildError;
use scheduler::scheduler::AdmitError;
use scheduler::{Key, Reason, RegionId};

use super::denied::Denied;
use super::{Control, time};
use crate::keyspace;

/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What came of keys at which regions were to be cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// The regions that begin at one of them.
    pub regions: Vec<RegionId>,
    /// Whether another lies in no region that is known.
    pub is_outside: bool,
}

impl Control {
    /// Cuts regions at `keys`, and waits up to `wait` until that is done.
    ///
    /// # Errors
    /// A key at which clients of the keyspace could not decode the border, or there are no ids for new regions.
    pub async fn cut(&self, keys: &[Key], wait: Duration) -> Result<Cuts, Denied> {
        if let Some(key) = keys.iter().find(|key| !keyspace::may_cut(key.as_bytes())) {
            return Err(Denied::InKeyspace(key.clone()));
        }
        let inner = &*self.0;
        let began = inner.rt.now();
        let mut is_outside = false;
        loop {
            let (regions, open) = self.begun_at(keys).await;
            if open.is_empty() || inner.rt.now().since(began) >= wait {
                return Ok(Cuts { regions, is_outside });
            }
            let tick = inner.scheduler.borrow_mut().presplit(&open, time(&inner.rt));
            let lacks = |error: &AdmitError| matches!(error, AdmitError::Build(BuildError::OutOfIds));
            let wanted = inner.scheduler.borrow().ids_wanted();
            if tick.declined.iter().any(|(_, error)| lacks(error))
                && let Some(count) = wanted
            {
                self.grant_ids(count).await?;
                continue;
            }
            is_outside = tick.refusals.iter().any(|refusal| refusal.reason == Reason::KeyOutside);
            inner.rt.sleep(LOOK_EVERY).await;
        }
    }

    /// The regions that begin at one of `keys`, and the keys at which none does.
    async fn begun_at(&self, keys: &[Key]) -> (Vec<RegionId>, Vec<Key>) {
        let (mut regions, mut open, budget) = (Vec::new(), Vec::new(), self.budget());
        for key in keys {
            let found = self.map(|map| {
                map.region_at(key).filter(|known| known.region.range.start() == key).map(|known| known.id())
            });
            match found {
                Some(region) => regions.push(region),
                None => open.push(key.clone()),
            }
            budget.tick().await;
        }
        (regions, open)
    }

    /// Cuts the keyspace off from the keys around it, and waits up to `wait` for that. Whether its clients can decode every border that
    /// they meet there.
    ///
    /// # Errors
    /// There are no ids for new regions.
    pub async fn cut_keyspace_off(&self, wait: Duration) -> Result<bool, Denied> {
        let borders = keyspace::borders();
        let keys = [Key::from(&borders.start[..]), Key::from(&borders.end[..])];
        self.cut(&keys, wait).await?;
        let legible = |key: &Key| key.as_bytes().is_empty() || keyspace::decode(key.as_bytes()).is_some();
        // No other border lies inside.
        Ok(self.map(|map| {
            let ends = [map.region_at(&borders.start), map.region_before(&borders.end)];
            ends.into_iter().all(|known| {
                known.is_some_and(|known| {
                    legible(known.region.range.start()) && legible(known.region.range.end())
                })
            })
        }))
    }
}
