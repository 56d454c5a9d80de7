//! What keeps starts short: a store that is closed in peace leaves nothing to apply, and one that was killed is read in the order of the disk.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use engine::error::Fault;
use engine::lsm::Tree;
use raft::{Entry, Index};
use scheduler::RegionId;

use super::Shard;
use super::open::to_raft;
use super::turn::Behind;

/// How long the last flush of a store that is being closed may take.
const LAST_FLUSH_MAX: Duration = Duration::from_secs(10);

impl Shard {
    /// Flushes the memtable and cuts the log behind it, so that the next start has little to read back. Nothing rests on it:
    /// the log has everything, so it may fail, and it may not take long.
    pub(super) async fn shorten_restart(&self) {
        let inner = &*self.inner;
        if inner.health.has_stopped() || inner.health.refuses_writes() {
            return;
        }
        let flush_and_cut = async {
            inner.tree.flush().await?;
            self.cut_log().await
        };
        let store = inner.store.0;
        match inner.rt.timeout(LAST_FLUSH_MAX, flush_and_cut).await {
            Some(Ok(())) => {}
            Some(Err::<(), Fault>(fault)) => {
                tracing::warn!(store, %fault, "the last flush failed; the next start reads the log instead");
            }
            None => {
                tracing::info!(store, "the last flush takes too long; the next start reads the log instead")
            }
        }
    }

    /// After a start, applies what the log holds from before it: all groups together, in the order of the disk, a piece at a time.
    /// What is left, and all of it at other times, comes back.
    pub(super) async fn replay_in_order(&self, mut behind: Vec<Behind>) -> Result<Vec<Behind>, Fault> {
        let inner = &*self.inner;
        if behind.is_empty() || !inner.recovering.take() {
            return Ok(behind);
        }
        let places: HashMap<RegionId, usize, foldhash::fast::FixedState> =
            behind.iter().enumerate().map(|(place, group)| (group.region, place)).collect();
        let budget = inner.rt.budget();
        let log = inner.log.clone();
        log.replay(async |piece| {
            if inner.health.has_stopped() {
                return Ok(());
            }
            let mut next: BTreeMap<usize, Vec<Entry>> = BTreeMap::new();
            for (group, entry) in piece {
                let Some(&place) = places.get(&RegionId(group)) else { continue };
                let taken = next.entry(place).or_default();
                let Behind { first, last, .. } = behind[place];
                if entry.index == first.0 + taken.len() as u64 && entry.index <= last.0 {
                    taken.push(to_raft(&inner.dir, group, entry)?);
                }
            }
            for (place, entries) in next {
                let group = &mut behind[place];
                self.apply_in_pieces((group.region, group.peer), &entries).await?;
                if inner.health.has_stopped() {
                    return Ok(());
                }
                group.first = Index(group.first.0 + entries.len() as u64);
                budget.tick().await;
            }
            // Only memory has a bound here; a start must not wait for compactions.
            self.wait_while(Tree::memory_is_full).await
        })
        .await?;
        behind.retain(|group| group.first <= group.last);
        Ok(behind)
    }
}
