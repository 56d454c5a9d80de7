//! The turn: everything that is ready on this core, one write of the log, then everything that the write made true.
//!
//! ```text
//! gathered writes ─► propose ─► Ready of every group that moved ─► messages leave
//!                                      │
//!                                      ▼
//!                         one durable write for all of them
//!                                      │
//!                                      ▼
//!                 acknowledge ─► committed entries ─► tree ─► answers
//! ```
//!
//! Before the write, sockets are asked once more for what else has come. While it is in flight, connections go on and writes
//! gather for the next turn, unless every client waits for the log; then the core may block in the write call. Nothing waits for a
//! timer to make a batch. A turn with more than the log should write at once is written in several parts, of whole groups each. The order "durable, then acknowledged" is in the types: a [`raft::Write`] gives its acknowledgement only when it is
//! consumed as durable.

use std::time::Duration;

use engine::error::Fault;
use engine::log::Batch;
use engine::lsm::{Pressure, Tree, WriteBatch};
use raft::{Apply, Entry, EntryKind, Index, Ready};
use scheduler::RegionId;

use super::health::Event;
use super::inflight::InFlight;
use super::open::{TAG_HARD_STATE, encode_hard_state};
use super::upkeep::DISK_FULL;
use super::{Due, Inner, Queued, Shard, State};
use crate::refusal::Refusal;
use crate::region::command::{Command, Write};
use crate::region::peer::{Gathered, Peer, Settled};
use crate::request::KEY_BYTES_MAX;

/// Above every key that is accepted.
static ABOVE_EVERY_KEY: [u8; KEY_BYTES_MAX + 1] = [0xff; KEY_BYTES_MAX + 1];

/// Committed entries read back from the log at a time, bytes.
const REPLAY_BYTES_MAX: usize = 4 << 20;

/// After this many turns with writes and without a read between them no client counts as reading.
const QUIET_TURNS: u64 = 8;

/// How often a store that is under pressure looks again.
const PRESSURE_PAUSE: Duration = Duration::from_millis(1);

/// How often a store on a full disk, or without descriptors, tries again.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// One write of the log and the groups whose it is. Each group's write is in one of them, whole.
struct LogWrite {
    batch: Batch,
    groups: Vec<(RegionId, raft::Write)>,
}

/// A group's committed entries that have left memory.
pub(super) struct Behind {
    pub(super) region: RegionId,
    pub(super) first: Index,
    pub(super) last: Index,
}

impl Shard {
    /// Takes turns until the store stops.
    pub async fn run(&self) {
        while !self.inner.health.has_stopped() {
            self.inner.bell.wait().await;
            if let Err(fault) = self.turns().await {
                self.stop(&fault);
            }
        }
    }

    /// Takes turns until no group has anything left to do, or the store has stopped: then nothing is written or applied any more.
    async fn turns(&self) -> Result<(), Fault> {
        while !self.inner.health.has_stopped() {
            // Only what clients write fills memory. An election must not wait for compactions, nor a start.
            if self.has_gathered() {
                self.relieve_pressure().await?;
                self.inner.notice_reads();
                // A write costs the core about the same however much it carries, so what has come meanwhile goes along.
                self.inner.rt.gather_input().await;
                if self.inner.health.has_stopped() {
                    return Ok(());
                }
            }
            let (writes, behind) = self.collect()?;
            let idle = writes.is_empty() && behind.is_empty();
            for write in writes {
                self.write_log(write).await?;
                if self.inner.health.has_stopped() {
                    return Ok(());
                }
            }
            let behind = self.replay_in_order(behind).await?;
            for group in behind {
                self.replay(group).await?;
            }
            if idle && self.inner.state.borrow().dirty.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Whether a group that moved has writes of clients to propose.
    fn has_gathered(&self) -> bool {
        let state = self.inner.state.borrow();
        state.dirty.iter().any(|region| state.peers.get(region).is_some_and(Peer::has_gathered))
    }

    /// Slows writers down, or stops them, while flushes and compactions have to catch up.
    async fn relieve_pressure(&self) -> Result<(), Fault> {
        match self.inner.tree.pressure() {
            Pressure::None => Ok(()),
            Pressure::Delay(pause) => {
                self.inner.rt.sleep(pause).await;
                Ok(())
            }
            Pressure::Stop => self.wait_while(|tree| tree.pressure() == Pressure::Stop).await,
        }
    }

    /// Waits while a tree that is at work is in some state.
    pub(super) async fn wait_while(&self, stopped: impl Fn(&Tree) -> bool) -> Result<(), Fault> {
        let inner = &*self.inner;
        while stopped(&inner.tree) {
            if let Some(fault) = inner.tree.fault() {
                return Err(fault);
            }
            if inner.health.has_stopped() {
                return Ok(());
            }
            if inner.tree.disk_full() {
                // That may take days. What was admitted is finished meanwhile, and nothing more is admitted.
                inner.health.enter(Event::RefusesWrites(DISK_FULL));
                return Ok(());
            }
            inner.rt.sleep(PRESSURE_PAUSE).await;
        }
        Ok(())
    }

    /// Proposes what has gathered and takes the `Ready` of every group that moved. What needs no disk is done here. Returns what the
    /// log has to write, in order, and what has to be read back.
    fn collect(&self) -> Result<(Vec<LogWrite>, Vec<Behind>), Fault> {
        let inner = &*self.inner;
        let mut state = inner.state.borrow_mut();
        let (mut writes, mut behind) = (Vec::new(), Vec::new());
        let dirty = std::mem::take(&mut state.dirty);
        for region in dirty {
            let Some(peer) = state.peers.get_mut(&region) else { continue };
            let refused = peer.propose_gathered();
            // Every group has one member, on this store: there is no other to send to, to read for or to hand over to.
            let Ready { write, apply, send: _, fetch: _, snapshots: _, reads: _, events: _ } =
                peer.raft.ready();
            inner.give_up(&mut state, region, refused);
            if let Some(write) = write {
                add_write(&mut writes, region, write, inner.limits.turn_bytes_max);
            }
            match apply {
                Some(Apply::Entries(entries)) => inner.apply(&mut state, region, &entries)?,
                Some(Apply::FromLog { first, last }) => behind.push(Behind { region, first, last }),
                None => {}
            }
        }
        Ok((writes, behind))
    }

    /// Makes one write of some groups durable, then acknowledges it to each.
    async fn write_log(&self, LogWrite { batch, groups }: LogWrite) -> Result<(), Fault> {
        let inner = &*self.inner;
        let bytes = batch.len();
        let began = inner.rt.now();
        self.write_when_there_is_room(batch).await?;
        inner.counters.log_write.record(inner.rt.now().since(began));
        inner.counters.log_writes.add(1);
        inner.counters.log_bytes.add(bytes as u64);
        inner.counters.log_groups.add(groups.len() as u64);
        let mut state = inner.state.borrow_mut();
        for (region, write) in groups {
            // Messages that had to wait for the write go to other nodes, of which there are none yet.
            let (ack, _after) = write.durable();
            if let Some(peer) = state.peers.get_mut(&region) {
                peer.raft.written(ack);
                state.mark_dirty(region);
            }
        }
        Ok(())
    }

    /// A full disk, or another passing shortage, refuses entries before anything is written. They were proposed and must not be
    /// lost, so the turn waits until it is over; on a full disk, what arrives meanwhile is refused, deletes included.
    async fn write_when_there_is_room(&self, batch: Batch) -> Result<(), Fault> {
        let inner = &*self.inner;
        loop {
            let batch = batch.clone();
            let watched = inner.log_watch.begin(inner.rt.now());
            let written = match inner.nobody_reads() {
                true => inner.log.write_and_wait(batch).await,
                false => inner.log.write(batch).await,
            };
            drop(watched);
            match written {
                Err(fault) if fault.is_passing() && inner.log.failure().is_none() => {
                    if fault.is_disk_full() {
                        inner.health.enter(Event::RefusesWrites(DISK_FULL));
                    }
                    inner.log_waits.set(true);
                    inner.rt.sleep(SHORTAGE_PAUSE).await;
                    if inner.health.has_stopped() {
                        // Whoever waited has been answered, so there must be no entry any more.
                        return Err(fault);
                    }
                }
                outcome => {
                    inner.log_waits.set(false);
                    return outcome;
                }
            }
        }
    }

    /// Applies committed entries that have to be read back, because apply runs far behind.
    async fn replay(&self, Behind { region, first, last }: Behind) -> Result<(), Fault> {
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
            let entries = read.into_iter().map(|entry| super::open::to_raft(&inner.dir, region.0, entry));
            let entries = entries.collect::<Result<Vec<Entry>, Fault>>()?;
            next = end + 1;
            inner.apply(&mut inner.state.borrow_mut(), region, &entries)?;
            // Only memory has a bound here; a start must not wait for compactions.
            self.wait_while(Tree::memory_is_full).await?;
            budget.tick().await;
        }
        Ok(())
    }
}

/// Adds one group's write to the last one of the log, or begins another if that would have more than `bytes_max` of entries then.
fn add_write(writes: &mut Vec<LogWrite>, region: RegionId, write: raft::Write, bytes_max: usize) {
    let bytes: usize = write.entries.iter().map(|entry| entry.payload.len()).sum();
    let last = writes.pop_if(|last| last.batch.len() + bytes <= bytes_max);
    let mut last = last.unwrap_or_else(|| LogWrite { batch: Batch::new(), groups: Vec::new() });
    fill(&mut last.batch, region, &write);
    last.groups.push((region, write));
    writes.push(last);
}

/// Adds one group's write to the batch.
fn fill(batch: &mut Batch, region: RegionId, write: &raft::Write) {
    batch.put_state(region.0, TAG_HARD_STATE, &encode_hard_state(&write.hard_state));
    if let Some(first) = write.entries.first() {
        batch.append(region.0, first.index.0, write.entries.iter().map(super::open::to_log));
    }
}

impl Inner {
    /// Notices, once a turn, whether anything was read since the turn before.
    fn notice_reads(&self) {
        let reads = self.counters.reads.get() + self.counters.scans.get();
        let quiet = self.reads_seen.replace(reads) == reads && !self.state.borrow().inflight.loads();
        self.quiet_turns.set(if quiet { self.quiet_turns.get() + 1 } else { 0 });
    }

    /// Whether nothing was read here lately, so that every client waits for the log. Reads of other stores of the core are not
    /// seen; where there are such stores, they wait for a write of this one as for any other slice of work.
    fn nobody_reads(&self) -> bool {
        self.quiet_turns.get() >= QUIET_TURNS
    }

    /// Applies committed entries in order and answers those who wait for them.
    pub(super) fn apply(&self, state: &mut State, region: RegionId, entries: &[Entry]) -> Result<(), Fault> {
        let Some(last) = entries.last() else { return Ok(()) };
        let mut batch = WriteBatch::new();
        let mut done: Vec<Due> = Vec::new();
        let mut refused: Vec<(Due, Refusal)> = Vec::new();
        for entry in entries {
            let State { peers, inflight, .. } = state;
            let Some(peer) = peers.get_mut(&region) else { return Ok(()) };
            let Settled { mine, overtaken } = peer.settle(entry.id());
            for waiting in overtaken {
                inflight.end_all(&waiting.payload);
                refused.extend(waiting.answers.into_iter().map(|due| (due, Refusal::StaleCommand)));
            }
            let pinned = if mine.is_empty() { None } else { Some(inflight) };
            match self.apply_one(peer, entry, pinned, &mut batch)? {
                Ok(()) => done.extend(mine),
                Err(refusal) => refused.extend(mine.into_iter().map(|due| (due, refusal.clone()))),
            }
        }
        batch.mark(region.0, last.index.0);
        self.tree.write(&batch)?;
        let Some(peer) = state.peers.get_mut(&region) else { return Ok(()) };
        peer.raft.applied(last.index);
        state.mark_dirty(region);
        self.counters.applied.add(entries.len() as u64);
        self.counters.log_operations.add(done.len() as u64);
        let now = self.rt.now();
        for due in done {
            self.counters.write_latency.record(now.since(due.since));
            due.reply.send(Ok(due.out));
        }
        for (due, refusal) in refused {
            self.refuse(due.reply, refusal);
        }
        Ok(())
    }

    /// Turns one entry into writes, or into the refusal that its proposer gets. All replicas decide alike. Where the entry was
    /// proposed here, its writes are no longer `under_way`.
    fn apply_one(
        &self,
        peer: &Peer<Due>,
        entry: &Entry,
        mut under_way: Option<&mut InFlight<Queued>>,
        batch: &mut WriteBatch,
    ) -> Result<Result<(), Refusal>, Fault> {
        if entry.kind != EntryKind::Normal || entry.payload.is_empty() {
            return Ok(Ok(()));
        }
        let damaged = |what: String| Fault::corruption(&self.dir, what);
        let Command::Writes(writes) = Command::decode(&entry.payload).map_err(|error| {
            damaged(format!("entry {} of {}: {error}", entry.index, peer.record.region.id))
        })?;
        let region = &peer.record.region;
        let valid = writes.version() == region.epoch.version;
        for write in writes.iter() {
            if let Some(under_way) = &mut under_way {
                under_way.end(&write);
            }
            if !valid {
                continue;
            }
            match write {
                Write::Put { cf, key, value } => batch.put(cf, key, value),
                Write::Delete { cf, key } => batch.delete(cf, key),
                Write::DeleteRange { cf, start, end } => {
                    // An open end means the end of the region, never that of the tree: other regions live there, too. Where
                    // the region has none, the end lies above every key that is accepted.
                    let region_end = region.range.end().as_bytes();
                    let end = [end, region_end, &ABOVE_EVERY_KEY].into_iter().find(|end| !end.is_empty());
                    let end = end.expect("the last one is not empty");
                    batch.delete_range(cf, start, end);
                }
            }
        }
        if valid { Ok(Ok(())) } else { Ok(Err(Refusal::EpochNotMatch { current: vec![region.clone()] })) }
    }

    /// Refuses commands that were not proposed and never will be, each for its own reason.
    fn give_up(&self, state: &mut State, region: RegionId, refused: Vec<(Gathered<Due>, raft::Refusal)>) {
        if refused.is_empty() {
            return;
        }
        let leader = state.peers.get(&region).and_then(|peer| peer.here().leader);
        let bytes_max = state.peers.get(&region).map_or(0, Peer::command_bytes_max);
        for (gathered, why) in refused {
            state.inflight.end_all(&gathered.writes.encode());
            let bytes = gathered.writes.encoded_bytes();
            let refusal = match why {
                raft::Refusal::EntryTooLarge => Refusal::TooLarge { region_id: region.0, bytes, bytes_max },
                raft::Refusal::NotLeader { .. } => Refusal::NotLeader { region_id: region.0, leader },
                raft::Refusal::TransferPending { .. }
                | raft::Refusal::TermNotCommitted
                | raft::Refusal::UncommittedFull
                | raft::Refusal::ChangePending
                | raft::Refusal::InvalidChange(_)
                | raft::Refusal::NotVoter
                | raft::Refusal::MayNotCampaign
                | raft::Refusal::NoLease
                | raft::Refusal::OutOfPlace => {
                    Refusal::Busy { reason: "the group takes no commands now", backoff_ms: 100 }
                }
            };
            for due in gathered.answers {
                self.refuse(due.reply, refusal.clone());
            }
        }
    }
}
