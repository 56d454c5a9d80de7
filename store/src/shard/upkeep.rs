//! What a store does by the clock: ticks for its groups, cutting the log behind what the tables contain, and watching the
//! space that is left.

use std::time::Duration;

use engine::error::Fault;
use engine::log::{Batch, PurgeLimits};
use raft::{Index, LogId, Term, Time};
use scheduler::{PeerId, RegionId};

use super::lineage;
use super::open::{TAG_BASE, encode_base};
use super::quiet::Ticked;
use super::staging;
use super::{Due, Inner, Queued, Shard};
use crate::plant::{Bug, planted};
use crate::region::life::Life;
use crate::region::record::RegionRecord;
use crate::region::replica::Replica;

/// One tick of the clock of every group that does not sleep.
pub const TICK: Duration = Duration::from_millis(100);

/// How often the log is cut and the disk looked at.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// How many times the usual bound a group's log may have while a snapshot is on its way: what comes after it is needed then.
const KEEP_FOR_SNAPSHOT: u64 = 4;

/// What a group's log may lose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    region: RegionId,
    /// Whose log it is.
    peer: PeerId,
    /// The last entry that goes.
    base: LogId,
}

impl Shard {
    /// Ticks the groups that are awake, and says to other stores that this one lives, until it stops.
    pub async fn tick_loop(&self) {
        let inner = &*self.inner;
        while !self.inner.health.has_stopped() {
            inner.rt.sleep(TICK).await;
            if inner.health.has_stopped() {
                return;
            }
            if let Some(said) = inner.outbox.take_disowned()
                && !planted(Bug::RefusalForgotten)
            {
                return self.stop(&lineage::disowned(&inner.dir, inner.store, &said));
            }
            let now = Time(inner.rt.boot_time().0);
            let mut state = inner.state.borrow_mut();
            for store in inner.outbox.take_unreachable() {
                state.table.report_unreachable(store, now);
            }
            inner.outbox.take_spoken_to().into_iter().for_each(|store| state.table.spoke_to(store));
            let Ticked { moved, signs } = state.table.tick(now, self.is_stuck());
            drop(state);
            self.drive_merges();
            if moved {
                inner.bell.ring();
            }
            signs.into_iter().for_each(|store| inner.outbox.send_sign(store));
            inner.log.vouch_if_due();
        }
    }

    /// Cuts the log and watches the disk until the store stops.
    pub async fn upkeep_loop(&self) {
        while !self.inner.health.has_stopped() {
            self.inner.rt.sleep(UPKEEP_EVERY).await;
            self.inner.note_gone();
            match self.upkeep().await {
                // Even the reserve of the log is used up. That ends when there is room, so it is tried again.
                Err(fault) if fault.is_passing() => {}
                Err(fault) => self.stop_after(&fault).await,
                Ok(()) => {}
            }
        }
    }

    async fn upkeep(&self) -> Result<(), Fault> {
        let inner = &*self.inner;
        if let Some(fault) = inner.tree.fault().or_else(|| inner.log.failure()) {
            return Err(fault);
        }
        inner.stalls.look(inner.store, &inner.tree, inner.rt.now());
        self.look_at_disk().await;
        self.count_opening().await?;
        if inner.health.has_stopped() {
            return Ok(());
        }
        let full = inner.health.refuses_writes();
        let segments = inner.log.segments() as u64;
        // On a full disk the log itself may be what can go.
        if segments * inner.limits.segment_bytes > inner.limits.log_bytes_max || (full && segments > 1) {
            inner.tree.start_flush();
        }
        staging::remove(&inner.rt, inner.receptions.expire(inner.rt.now())).await;
        self.cut_log().await
    }

    /// Cuts every group's log below what its tables contain, then frees the segments that nothing needs any more.
    pub(super) async fn cut_log(&self) -> Result<(), Fault> {
        let inner = &*self.inner;
        let cuts = self.cuts();
        if !cuts.is_empty() {
            let mut batch = Batch::new();
            for Cut { region, peer: _, base } in &cuts {
                batch.compact(region.0, base.index.0, base.term.0);
                batch.put_state(region.0, TAG_BASE, &encode_base(*base));
            }
            inner.log.write(batch).await?;
            let mut state = inner.state.borrow_mut();
            for Cut { region, peer, base } in cuts {
                if let Some(replica) = state.table.peer_mut(region, peer) {
                    replica.compacted(base.index);
                }
            }
        }
        // The store may have stopped during the write, and purging moves entries, which are further writes.
        if inner.health.has_stopped() {
            return Ok(());
        }
        inner.log.purge(&PurgeLimits::default()).await?;
        Ok(())
    }

    /// What is worth cutting off the logs of groups.
    pub(super) fn cuts(&self) -> Vec<Cut> {
        let inner = &*self.inner;
        let state = inner.state.borrow();
        let bytes_max = self.kept_bytes_max(state.table.len());
        let cut = |replica: &Replica<Due, Queued>| {
            let id = replica.id();
            // What the tree has while a snapshot is taken in is not what the log belongs to.
            let first = inner.log.first_index(id.0).filter(|_| replica.life() != Life::Receiving)?;
            let flushed = inner.tree.flushed_index(id.0);
            let keep = if replica.is_sole_voter() { 0 } else { inner.limits.kept_entries };
            let spare = flushed.min(replica.compact_hint().0).saturating_sub(keep);
            let upto = spare.max(self.cut_by_force(replica, bytes_max).min(flushed));
            let index = Index(upto);
            let term = replica.term_at(index)?;
            (upto >= first).then_some(Cut { region: id, peer: replica.me(), base: LogId { term, index } })
        };
        let is_alone = |tombstone: &&RegionRecord| state.table.get(tombstone.region.id).is_none();
        let of_removed = state.table.tombstones().filter(is_alone).filter_map(|it| inner.cut_of_removed(it));
        state.table.iter().filter_map(cut).chain(of_removed).collect()
    }

    /// Bytes of entries that a group may keep for followers. Where the log as a whole is too large, the groups share what it may have.
    fn kept_bytes_max(&self, groups: usize) -> u64 {
        let limits = &self.inner.limits;
        let segments = self.inner.log.segments() as u64;
        match segments * limits.segment_bytes > limits.log_bytes_max {
            true => limits.kept_bytes_max.min(limits.log_bytes_max / 2 / (groups as u64).max(1)),
            false => limits.kept_bytes_max,
        }
    }

    /// The last entry that a group may not keep, whoever lacks it; 0 if it keeps all.
    fn cut_by_force(&self, replica: &Replica<Due, Queued>, bytes_max: u64) -> u64 {
        let (log, id) = (&self.inner.log, replica.id().0);
        let Some(first) = log.first_within(id, bytes_max) else { return 0 };
        match replica.snapshot_on_its_way() {
            // The snapshot would be of no use without what comes after it.
            Some(index) if log.first_within(id, bytes_max.saturating_mul(KEEP_FOR_SNAPSHOT)).is_none() => {
                index.0.min(first - 1)
            }
            Some(_) | None => first - 1,
        }
    }
}

impl Inner {
    /// All entries of a replica that was removed, once the tables have its tombstone: no start reads them any more, and they would keep
    /// their segments.
    fn cut_of_removed(&self, tombstone: &RegionRecord) -> Option<Cut> {
        let (region, log) = (tombstone.region.id, &self.log);
        let last = log.first_index(region.0).and_then(|_| log.last_index(region.0))?;
        let base = LogId { term: Term(log.term(region.0, last)?), index: Index(last) };
        self.is_buried(tombstone).then_some(Cut { region, peer: tombstone.me, base })
    }
}
