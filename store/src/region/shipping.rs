//! What followers lack: entries that come from the log, and snapshots where the log does not reach back far enough. Also whether one
//! that a leader offers is of use here.

use raft::{Entry, Fetch, Index, LogId, Payload, Snapshot, SnapshotReport, SnapshotWanted, Term};
use scheduler::{KeyRange, PeerId, Region};

use super::change::membership;
use super::life::Life;
use super::message::{Body, PeerMessage};
use super::record::RegionRecord;
use super::replica::Replica;

/// Why a snapshot that is offered is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Useless {
    /// The message is none of a snapshot, or its parts contradict each other.
    Malformed,
    /// The region that it brings has no such peer on this store.
    OtherPeer,
    /// Its sender led in an older term.
    OldTerm,
    /// The region was another one when it was made, and the replica here is further.
    OldEpoch,
    /// The log here leads to its last entry already.
    Known,
    /// The replica is taking another one in, or is at its end.
    NotNow,
}

impl<W, R> Replica<W, R> {
    /// Whether the snapshot that `message` describes would be taken in here and now, and the range that it brings. The envelope was
    /// admitted.
    ///
    /// # Errors
    /// Why not.
    pub fn judge_snapshot(&self, message: &PeerMessage) -> Result<(LogId, KeyRange), Useless> {
        let Body::Raft(inner) = &message.body else { return Err(Useless::Malformed) };
        let raft::Body::Snapshot(snapshot) = &inner.body else { return Err(Useless::Malformed) };
        let region = RegionRecord::decode(&snapshot.context).map_err(|_| Useless::Malformed)?.region;
        let is_named = region.peer(self.me()).is_some_and(|peer| peer.store == self.store);
        if region.id != self.id() || membership(&region) != snapshot.membership {
            return Err(Useless::Malformed);
        }
        if !is_named {
            return Err(Useless::OtherPeer);
        }
        match self.life() {
            Life::Initialising | Life::Live | Life::Merging => {}
            Life::Absent | Life::Splitting | Life::Receiving | Life::Tombstone => {
                return Err(Useless::NotNow);
            }
        }
        if inner.term < self.term() {
            return Err(Useless::OldTerm);
        }
        let leads_there = self.term_at(snapshot.last.index) == Some(snapshot.last.term);
        if snapshot.last.index <= self.committed_index() || leads_there {
            return Err(Useless::Known);
        }
        if region.epoch.is_stale_against(self.region().epoch) {
            return Err(Useless::OldEpoch);
        }
        Ok((snapshot.last, region.range))
    }

    /// The lowest index of the snapshots that are on their way to followers.
    pub fn snapshot_on_its_way(&self) -> Option<Index> {
        self.raft.snapshot_on_its_way()
    }

    /// Answers a [`Fetch`] with entries from the log, or with `None` if they have been cut off.
    pub fn fetched(&mut self, fetch: &Fetch, entries: Option<Vec<Entry>>) {
        self.raft.fetched(fetch, entries);
    }

    /// The log has been cut up to and including `index`.
    pub fn compacted(&mut self, index: Index) {
        self.raft.compacted(index);
    }

    /// How far the log may be cut without sending a living follower a snapshot.
    pub fn compact_hint(&self) -> Index {
        self.raft.compact_hint()
    }

    /// The term of the entry at `index`, unless it was cut off or does not exist.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.raft.term_at(index)
    }

    /// Announces the snapshot that was wanted: the state as of `last`, at which the descriptor was `region`.
    ///
    /// # Errors
    /// If it is of no use any more; the core will ask again if need be.
    pub fn send_snapshot(
        &mut self,
        wanted: &SnapshotWanted,
        last: LogId,
        region: &Region,
    ) -> Result<(), raft::Refusal> {
        let record = RegionRecord {
            region: region.clone(),
            me: PeerId(wanted.to.0),
            tombstone: false,
            merges: self.record.merges.clone(),
        };
        let context = Payload::from(record.encode());
        let sent =
            self.raft.send_snapshot(wanted, Snapshot { last, membership: membership(region), context });
        self.debug_check();
        sent
    }

    /// Says what became of a snapshot that was wanted or being shipped.
    pub fn report_snapshot(&mut self, wanted: &SnapshotWanted, report: SnapshotReport) {
        self.raft.report_snapshot(wanted, report);
    }
}
