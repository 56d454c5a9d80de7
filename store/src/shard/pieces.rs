//! Committed entries on their way into the tree, piece by piece, whether they are in memory or have to be read back from the log.
//!
//! A piece is applied at once; between two of them others of the core may run. A step of a merge is a piece of its own, because what it does
//! concerns two regions: before a region takes its neighbour in, that one is brought to where it stopped ([`super::merging`]).

use engine::error::Fault;
use engine::lsm::Tree;
use raft::{Entry, EntryKind};
use scheduler::{PeerId, RegionId};

use super::Shard;
use super::open::to_raft;
use super::turn::{APPLY_BYTES_MAX, Behind};
use crate::region::merge;

/// Committed entries read back from the log at a time, bytes.
pub(super) const REPLAY_BYTES_MAX: usize = 4 << 20;

impl Shard {
    /// Applies committed entries piece by piece, and lets others run between two pieces. The tree gets each piece whole, with its mark
    /// and, where an entry changed it, the descriptor, so any of them may be the last.
    pub(super) async fn apply_in_pieces(
        &self,
        replica: (RegionId, PeerId),
        entries: &[Entry],
    ) -> Result<(), Fault> {
        let (inner, mut rest) = (&*self.inner, entries);
        let budget = inner.rt.budget();
        while !rest.is_empty() && !inner.health.has_stopped() {
            let (piece, after) = rest.split_at(piece_of(rest));
            if let [entry] = piece
                && is_step(entry)
            {
                self.bring_source(replica.0, entry).await?;
                if inner.health.has_stopped() {
                    return Ok(());
                }
            }
            inner.apply(&mut inner.state.borrow_mut(), replica, piece)?;
            rest = after;
            budget.tick().await;
        }
        Ok(())
    }

    /// Applies committed entries that have to be read back, because apply runs far behind.
    pub(super) async fn replay(&self, Behind { region, peer, first, last }: Behind) -> Result<(), Fault> {
        let inner = &*self.inner;
        let budget = inner.rt.budget();
        let mut next = first.0;
        while next <= last.0 {
            let read = inner.log.entries(region.0, next..last.0 + 1, REPLAY_BYTES_MAX).await?;
            if inner.health.has_stopped() {
                return Ok(());
            }
            let Some(end) = read.last().map(|entry| entry.index) else {
                let what = format!(
                    "region {region} needs entries {next} to {} and the log has no entry {next}",
                    last.0
                );
                return Err(Fault::corruption(&inner.dir.join("log"), what));
            };
            let entries = read.into_iter().map(|entry| to_raft(&inner.dir, region.0, entry));
            let entries = entries.collect::<Result<Vec<Entry>, Fault>>()?;
            next = end + 1;
            self.apply_in_pieces((region, peer), &entries).await?;
            if inner.health.has_stopped() {
                return Ok(());
            }
            // Only memory has a bound here; a start must not wait for compactions.
            self.wait_while(Tree::memory_is_full).await?;
            budget.tick().await;
        }
        Ok(())
    }
}

/// Whether an entry is a step of a merge.
fn is_step(entry: &Entry) -> bool {
    entry.kind == EntryKind::Normal && entry.payload.first() == Some(&merge::KIND)
}

/// Whether one of them is.
pub(super) fn has_steps(entries: &[Entry]) -> bool {
    entries.iter().any(is_step)
}

/// How many of `entries`, which are some, are applied at once.
fn piece_of(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry.payload.len();
        bytes <= APPLY_BYTES_MAX && !is_step(entry)
    };
    entries.iter().take_while(fits).count().max(1)
}
