//! Snapshots on their way into tree and log.
//!
//! A region that takes one in hands out one write with an [`Install`]: the tree replaces what it has of
//! the range by the pieces, the applied index and the descriptor, in one edit of its manifest; then the log is reset to the last entry
//! of the snapshot, together with what else the write holds. The tree takes its time, so it is done beside the turns. Further writes of
//! the region wait behind it, in order; its messages do not.
//!
//! A crash between tree and log leaves a descriptor that came by a snapshot and a log that does not lead to it. The next start sees
//! that ([`reset_of`]) and resets the log itself, before anything else is done with the region.
//!
//! Invariants: nothing that rests on a snapshot is acknowledged before tree and log have it; the writes of a region reach the log in the
//! order in which they were handed out; a region whose snapshot is on its way into the tree is neither written nor destroyed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use engine::log::{Batch, Log};
use engine::lsm::{Ingest, SharedTable, Tree, Verified};
use raft::{HardState, Index, LogId, Term};
use scheduler::{KeyRange, RegionId};

use super::Shard;
use super::open::{TAG_BASE, TAG_HARD_STATE, decode_hard_state, encode_base, encode_hard_state};
use super::receiving::Content;
use crate::plant::{Bug, planted};
use crate::region::apply::carried;
use crate::region::effects::{Install, LogWrite};
use crate::region::record::{Descriptor, RegionRecord};
use crate::region::system::{self, GROUP};

/// Writes of regions whose snapshots are on their way into the tree.
#[derive(Debug, Default)]
pub(super) struct Installs(RefCell<BTreeMap<RegionId, Waiting>>);

#[derive(Debug)]
struct Waiting {
    /// The first one brings the snapshot.
    writes: Vec<LogWrite>,
    /// The tree has it.
    ingested: bool,
    /// Replicas that have ended with it.
    ended: Vec<Ended>,
}

/// A replica that ends because a region that has taken it in comes by a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// Its tombstone.
    pub(super) record: RegionRecord,
    /// What it had applied.
    pub(super) at: LogId,
}

impl Installs {
    /// Keeps a write that brings a snapshot, or that comes behind one. Any other comes back: it has nothing to wait for.
    pub(super) fn keep(&self, write: LogWrite) -> Option<LogWrite> {
        let mut waiting = self.0.borrow_mut();
        let region = write.region();
        if write.install().is_some() {
            let before =
                waiting.insert(region, Waiting { writes: vec![write], ingested: false, ended: Vec::new() });
            assert!(before.is_none(), "{region} takes in two snapshots at once");
            return None;
        }
        match waiting.get_mut(&region) {
            Some(waiting) => {
                waiting.writes.push(write);
                None
            }
            None => Some(write),
        }
    }

    fn install_of(&self, region: RegionId) -> Option<Install> {
        self.0.borrow().get(&region)?.writes.first()?.install().cloned()
    }

    /// These end with the snapshot of `region`.
    pub(super) fn end_with(&self, region: RegionId, ended: Vec<Ended>) {
        if let Some(waiting) = self.0.borrow_mut().get_mut(&region) {
            waiting.ended = ended;
        }
    }

    fn ended_with(&self, region: RegionId) -> Vec<Ended> {
        self.0.borrow().get(&region).map(|waiting| waiting.ended.clone()).unwrap_or_default()
    }

    fn ingested(&self, region: RegionId) {
        if let Some(waiting) = self.0.borrow_mut().get_mut(&region) {
            waiting.ingested = true;
        }
    }

    /// What the log may write now, region by region, in order.
    pub(super) fn take_ingested(&self) -> Vec<LogWrite> {
        let ready = self.0.borrow_mut().extract_if(.., |_, waiting| waiting.ingested).collect::<Vec<_>>();
        ready.into_iter().flat_map(|(_, waiting)| waiting.writes).collect()
    }
}

/// What the tree takes in beside the pieces.
enum TakenIn {
    Sent(Verified),
    Handed(Vec<SharedTable>),
}

impl Shard {
    /// Has the tree take in the snapshots of `regions`, beside the turns.
    pub(super) fn start_installs(&self, regions: Vec<RegionId>) {
        for region in regions {
            let shard = self.clone();
            self.inner.rt.spawn(async move { shard.install(region).await });
        }
    }

    async fn install(&self, region: RegionId) {
        let inner = &*self.inner;
        let install = inner.installs.install_of(region).expect("it begins with one");
        let content = inner.receptions.take_content(region).expect("only what fits is handed to a region");
        let (pieces, taken_in) = match content {
            Content::Sent(pieces, verified) => (pieces, TakenIn::Sent(verified)),
            Content::Handed(tables) => (Vec::new(), TakenIn::Handed(tables)),
        };
        let descriptor =
            Descriptor { record: install.record.clone(), at: install.last, by_snapshot: true }.encode();
        let ended = inner.installs.ended_with(region);
        let others = ended.iter().map(|Ended { record, at }| {
            let state = Descriptor { record: record.clone(), at: *at, by_snapshot: false }.encode();
            (record.region.id.0, at.index.0, state)
        });
        let pieces_only = pieces.iter().map(|(_, piece)| piece).collect::<Vec<_>>();
        let ranges = replaced(&install, &ended, &pieces_only);
        let ingest = Ingest {
            others: others.collect(),
            group: region.0,
            applied: install.last.index.0,
            state: Some(descriptor),
            families: carried(region, &install.record.region.range).0,
            ranges,
            pieces,
        };
        let ingested = match taken_in {
            TakenIn::Sent(verified) => inner.tree.ingest_verified(ingest, verified).await,
            TakenIn::Handed(tables) => inner.tree.ingest_shared(ingest, tables).await,
        };
        match ingested {
            Ok(()) => {
                // Nothing is applied before the log has the snapshot, too, so its rows are in force by then.
                if region == GROUP
                    && !planted(Bug::RowsNotLoaded)
                    && let Err(fault) = self.load_system().await
                {
                    return self.stop_after(&fault).await;
                }
                inner.installs.ingested(region);
                inner.bell.ring();
            }
            // The region has given up its old state, and the tree does not take the new one.
            Err(fault) if !inner.health.has_stopped() => self.stop_after(&fault).await,
            Err(_stopped) => {}
        }
    }
}

/// What the tree empties: the range as it will be, and as it was, and those of replicas that end.
fn replaced(install: &Install, ended: &[Ended], pieces: &[&engine::lsm::Piece]) -> Vec<(Vec<u8>, Vec<u8>)> {
    if planted(Bug::OldRowsKept) {
        return pieces.iter().map(|piece| (piece.start.clone(), piece.end.clone())).collect();
    }
    if install.record.region.id == GROUP {
        let rows = system::rows();
        return vec![(rows.start().as_bytes().to_vec(), rows.end().as_bytes().to_vec())];
    }
    let bytes = |range: &KeyRange| (range.start().as_bytes().to_vec(), range.end().as_bytes().to_vec());
    let new = &install.record.region.range;
    let old = install.old_range.as_ref().filter(|old| !new.contains_range(old));
    let ended = ended.iter().map(|ended| &ended.record.region.range);
    std::iter::once(new).chain(old).chain(ended).map(bytes).collect()
}

/// Adds to a batch that the log of a region begins after `last`.
pub(super) fn reset(batch: &mut Batch, region: RegionId, last: LogId) {
    batch.reset(region.0, last.index.0, last.term.0);
    batch.put_state(region.0, TAG_BASE, &encode_base(last));
}

/// Where the log of a group has to begin, because the tree took a snapshot in and the log did not come to know of it.
pub(super) fn reset_of(
    state: Option<&[u8]>,
    mark: Option<u64>,
    term: impl FnOnce(u64) -> Option<u64>,
) -> Option<LogId> {
    let Descriptor { record: _, at, by_snapshot } = Descriptor::decode(state?).ok()?;
    let is_behind = mark.is_none_or(|mark| mark < at.index.0) && term(at.index.0) != Some(at.term.0);
    (by_snapshot && is_behind).then_some(at)
}

/// Resets the logs of groups whose snapshots a crash has cut off from them. Returns the groups.
pub(super) async fn finish(log: &Log, tree: &Tree, groups: &[u64]) -> engine::error::Result<Vec<u64>> {
    let (mut batch, mut finished) = (Batch::new(), Vec::new());
    for group in groups {
        let mark = log.compacted(*group).map(|mark| mark.index);
        let Some(last) = reset_of(tree.state(*group).as_deref(), mark, |index| log.term(*group, index))
        else {
            continue;
        };
        let stored = log.state(*group, TAG_HARD_STATE).and_then(|bytes| decode_hard_state(&bytes));
        let Some(stored) = stored else { continue };
        reset(&mut batch, RegionId(*group), last);
        batch.put_state(*group, TAG_HARD_STATE, &encode_hard_state(&hard_state_at(stored, last)));
        finished.push(*group);
    }
    if !finished.is_empty() {
        log.write(batch).await?;
    }
    Ok(finished)
}

/// The hard state of a replica whose log begins after `last`. What it had may be older: the term in which it heard of the snapshot was to
/// become durable with it.
fn hard_state_at(stored: HardState, last: LogId) -> HardState {
    let HardState { term, vote, commit } = stored;
    let vote = vote.filter(|_| term >= last.term);
    HardState { term: Term(term.0.max(last.term.0)), vote, commit: Index(commit.0.max(last.index.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::region::merge::Merges;

    use raft::NodeId;
    use scheduler::{Epoch, Peer, PeerId, Region, StoreId};

    use crate::region::record::RegionRecord;

    fn described(by_snapshot: bool) -> Vec<u8> {
        let region = Region {
            id: RegionId(7),
            range: KeyRange::new("b", "m").unwrap(),
            epoch: Epoch::FIRST,
            peers: vec![Peer::voter(PeerId(11), StoreId(1))],
        };
        let record = RegionRecord { region, me: PeerId(11), tombstone: false, merges: Merges::default() };
        Descriptor { record, at: LogId::new(4, 50), by_snapshot }.encode()
    }

    #[test]
    fn a_log_that_does_not_lead_to_the_snapshot_is_reset_to_it() {
        let needs = |by_snapshot, mark, term| reset_of(Some(&described(by_snapshot)), mark, |_| term);
        let there = Some(LogId::new(4, 50));
        assert_eq!(needs(true, Some(30), None), there, "it ends below");
        assert_eq!(needs(true, None, None), there, "it has nothing");
        assert_eq!(needs(true, Some(30), Some(3)), there, "another entry is there");
        assert_eq!(needs(true, Some(30), Some(4)), None, "it leads there");
        assert_eq!(needs(true, Some(50), Some(4)), None, "it was reset");
        assert_eq!(needs(true, Some(60), None), None, "it was cut since");
        assert_eq!(needs(false, Some(30), None), None, "no snapshot");
        assert_eq!(reset_of(None, Some(30), |_| None), None, "no descriptor");
    }

    #[test]
    fn the_hard_state_is_never_older_than_the_log() {
        let state = |term, vote: Option<u64>, commit| HardState {
            term: Term(term),
            vote: vote.map(NodeId),
            commit: Index(commit),
        };
        let last = LogId::new(4, 50);
        assert_eq!(hard_state_at(state(6, Some(12), 20), last), state(6, Some(12), 50));
        assert_eq!(hard_state_at(state(4, Some(12), 20), last), state(4, Some(12), 50));
        assert_eq!(hard_state_at(state(3, Some(12), 20), last), state(4, None, 50));
    }
}
