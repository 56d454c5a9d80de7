//! What followers lack: entries that come from the log, and snapshots where the log does not reach back far enough.

use raft::{Entry, Fetch, Index, LogId, Payload, Snapshot, SnapshotReport, SnapshotWanted, Term};
use scheduler::{PeerId, Region};

use super::change::membership;
use super::record::RegionRecord;
use super::replica::Replica;

impl<W, R> Replica<W, R> {
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
        let record = RegionRecord { region: region.clone(), me: PeerId(wanted.to.0), tombstone: false };
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
