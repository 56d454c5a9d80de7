//! The turn: everything that is ready on this core, one write of the log, then everything that the write made true.
//!
//! ```text
//! gathered writes ─► propose ─► effects of every region that moved ─► messages leave
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
//! timer to make a batch. A turn proposes no more than the log should write at once ([`TurnRoom`]); what followers have been sent beyond that is
//! written in several parts, of whole regions each ([`Parts`]).
//! The order "durable, then acknowledged" is in the types: what rests on a [`LogWrite`] comes out of [`Replica::durable`] alone.
//!
//! Nothing is decided here. A region says what is to be done ([`Effects`]), and this file does it.

use std::time::Duration;

use engine::error::Fault;
use engine::log::Batch;
use engine::lsm::{Pressure, Tree, WriteBatch};
use raft::{Apply, Entry, Index};
use scheduler::{PeerId, RegionId};

use super::created::Created;
use super::parts::Parts;
use super::pieces;
use super::{Asked, Due, Inner, Queued, Shard, State};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::effects::{Effects, LogWrite};
use crate::region::life::Life;
use crate::region::replica::Replica;
use crate::region::submit::TurnRoom;
use crate::region::system::named;

/// Committed commands applied at once, bytes; a larger one alone. Between two such pieces others of the core may run.
pub(super) const APPLY_BYTES_MAX: usize = 32 << 10;

/// After this many turns with writes and without a read between them no client counts as reading.
const QUIET_TURNS: u64 = 8;

/// How often a store that is under pressure looks again.
const PRESSURE_PAUSE: Duration = Duration::from_millis(1);

/// How often a store on a full disk, or without descriptors, tries again.
pub(super) const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// How long a write waits for what is short: space in the log, descriptors, memory of the kernel. Long enough for what passes quickly, and
/// shorter than most clients wait.
pub(super) const SHORT_ANSWERED_AFTER: Duration = Duration::from_secs(2);

/// What the regions that moved want done and what takes time.
#[derive(Default)]
struct Work {
    /// What the log has to write, in order.
    parts: Parts,
    /// Entries that are not applied yet, because others were, and how many bytes those had.
    committed: Vec<Committed>,
    applied_bytes: usize,
    behind: Vec<Behind>,
    reads: Vec<Queued>,
    /// Regions whose snapshots the tree has to take in.
    installs: Vec<RegionId>,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.behind.is_empty()
    }
}

/// A group's committed entries.
struct Committed {
    region: RegionId,
    /// Whose they are.
    peer: PeerId,
    entries: Vec<Entry>,
}

/// A group's committed entries that have left memory.
pub(super) struct Behind {
    pub(super) region: RegionId,
    /// Whose they are.
    pub(super) peer: PeerId,
    pub(super) first: Index,
    pub(super) last: Index,
}

impl Shard {
    /// Takes turns until the store stops.
    pub async fn run(&self) {
        while !self.inner.health.has_stopped() {
            self.inner.bell.wait().await;
            let ended = self.turns().await;
            self.inner.turn_since.set(None);
            if let Err(fault) = ended {
                self.stop_after(&fault).await;
            }
        }
    }

    /// Takes turns until no group has anything left to do, or the store has stopped: then nothing is written or applied any more.
    async fn turns(&self) -> Result<(), Fault> {
        while !self.inner.health.has_stopped() {
            self.inner.turn_since.set(Some(self.inner.rt.now()));
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
            let work = self.collect()?;
            self.start_fetches();
            self.start_shipments();
            let idle = work.is_empty();
            let Work { parts, committed, applied_bytes: _, behind, reads, installs } = work;
            for Committed { region, peer, entries } in committed {
                self.apply_in_pieces((region, peer), &entries).await?;
            }
            self.start_installs(installs);
            self.serve_due(reads).await;
            if self.inner.health.has_stopped() {
                return Ok(());
            }
            for part in parts {
                let (batch, writes) = part.encode();
                if planted(Bug::SaidBeforeWrite) {
                    self.inner.acknowledge(writes);
                    self.write_log(batch, 0).await?;
                    continue;
                }
                self.write_log(batch, writes.len()).await?;
                if self.inner.health.has_stopped() {
                    return Ok(());
                }
                self.inner.acknowledge(writes);
            }
            let behind = self.replay_in_order(behind).await?;
            for group in behind {
                self.replay(group).await?;
            }
            if cfg!(any(debug_assertions, feature = "checks")) {
                self.inner.state.borrow().check();
            }
            if idle && self.inner.state.borrow().table.dirty().next().is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Serves reads that have waited for an index; as many as memory holds may have waited for the same one, and others run between them.
    async fn serve_due(&self, reads: Vec<Queued>) {
        let budget = self.inner.rt.budget();
        for Queued { route, op, reply } in reads {
            self.read(route, op, reply, Asked::Due);
            budget.tick().await;
        }
    }

    /// Whether a group that moved has writes of clients to propose.
    fn has_gathered(&self) -> bool {
        let state = self.inner.state.borrow();
        state.table.dirty().any(Replica::has_gathered)
    }

    /// Slows writers down, or stops them, while flushes and compactions have to catch up.
    async fn relieve_pressure(&self) -> Result<(), Fault> {
        let inner = &*self.inner;
        match inner.tree.pressure() {
            Pressure::None => {}
            Pressure::Delay(pause) => {
                inner.stalls.delayed(inner.store, &inner.tree, inner.rt.now());
                inner.rt.sleep(pause).await;
            }
            Pressure::Stop => {
                inner.stalls.stopped(inner.rt.now());
                let mut short_since = None;
                self.wait_while(|tree| {
                    tree.pressure() == Pressure::Stop && !inner.has_waited_long(&mut short_since)
                })
                .await?;
                inner.stalls.goes_on(inner.store, &inner.tree, inner.rt.now());
            }
        }
        Ok(())
    }

    /// Waits while a tree that is at work is in some state.
    pub(super) async fn wait_while(&self, mut stopped: impl FnMut(&Tree) -> bool) -> Result<(), Fault> {
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
                inner.refuse_writes();
                return Ok(());
            }
            inner.rt.sleep(PRESSURE_PAUSE).await;
        }
        Ok(())
    }

    /// Takes the effects of every region that moved. What takes no time is done here.
    fn collect(&self) -> Result<Work, Fault> {
        let inner = &*self.inner;
        let mut state = inner.state.borrow_mut();
        let mut work = Work::default();
        for write in inner.installs.take_ingested() {
            let created = Created::by_split(&mut state, write.region());
            work.parts.add(write, created, inner.limits.turn_bytes_max);
        }
        let (mut room, mut passed_over) = (TurnRoom::new(inner.limits.turn_bytes_max), Vec::new());
        for region in state.table.take_dirty() {
            let Some(replica) = state.table.get_mut(region) else { continue };
            let (peer, effects) = (replica.me(), replica.effects(&mut room));
            if replica.has_gathered() {
                passed_over.push((effects.write.is_some(), region));
            }
            if replica.is_system() {
                inner.renew_fence(replica);
            }
            inner.observe(replica, effects.write.as_ref().is_some_and(|write| !write.entries().is_empty()));
            // One that begins to take a snapshot in has a range from now on.
            state.table.publish_region(region);
            inner.carry_out(&mut state, (region, peer), effects, &mut work)?;
        }
        if !room.is_whole() {
            // In the next turn those come first that had nothing in this one.
            passed_over.sort_by_key(|(had_some, _)| *had_some);
            passed_over.into_iter().for_each(|(_, region)| state.table.mark_dirty(region));
        }
        Ok(work)
    }

    /// Makes one write of `regions` regions durable.
    async fn write_log(&self, batch: Batch, regions: usize) -> Result<(), Fault> {
        let inner = &*self.inner;
        let bytes = batch.len();
        let began = inner.rt.now();
        inner.turn_since.set(Some(began));
        self.write_when_there_is_room(batch).await?;
        inner.counters.log_write.record(inner.rt.now().since(began));
        inner.counters.log_writes.add(1);
        inner.counters.log_bytes.add(bytes as u64);
        inner.counters.log_groups.add(regions as u64);
        Ok(())
    }

    /// A full disk, or another passing shortage, refuses entries before anything is written. They were proposed and must not be
    /// lost, so the turn waits until it is over. That may take days, so what arrives meanwhile is refused, deletes included, on a full disk at
    /// once and otherwise after a while; and what was proposed is answered then: it may still happen.
    async fn write_when_there_is_room(&self, batch: Batch) -> Result<(), Fault> {
        let inner = &*self.inner;
        let mut short_since = None;
        loop {
            let batch = batch.clone();
            let watched = inner.log_watch.begin(inner.rt.now());
            // What has been sent in this turn leaves while the log writes.
            let written = match inner.has_no_readers() && !inner.outbox.is_busy() {
                true => inner.log.write_and_wait(batch).await,
                false => inner.log.write(batch).await,
            };
            watched.end(inner.store.0, inner.rt.now());
            match written {
                Err(fault) if fault.is_passing() && inner.log.failure().is_none() => {
                    inner.log_waits.set(true);
                    if fault.is_of_room() {
                        inner.refuse_writes();
                    }
                    let now = inner.rt.now();
                    if now.since(*short_since.get_or_insert(now)) >= SHORT_ANSWERED_AFTER {
                        inner.answer_as_short(&fault);
                    }
                    inner.rt.sleep(SHORTAGE_PAUSE).await;
                    if inner.health.has_stopped() {
                        // Whoever waited has been answered, so there must be no entry any more.
                        return Err(fault);
                    }
                }
                outcome => {
                    inner.log_goes_on();
                    return outcome;
                }
            }
        }
    }
}

impl Inner {
    /// Notices, once a turn, whether anything was read since the turn before.
    fn notice_reads(&self) {
        let reads = self.counters.reads.get() + self.counters.scans.get();
        let quiet = self.reads_seen.replace(reads) == reads && self.state.borrow().loads.is_empty();
        self.quiet_turns.set(if quiet { self.quiet_turns.get() + 1 } else { 0 });
    }

    /// Whether nothing was read here lately, so that every client waits for the log. Reads of other stores of the core are not
    /// seen; where there are such stores, they wait for a write of this one as for any other slice of work.
    fn has_no_readers(&self) -> bool {
        self.quiet_turns.get() >= QUIET_TURNS
    }

    /// Does what a region wants done, or puts it with the work of the turn.
    fn carry_out(
        &self,
        state: &mut State,
        (region, peer): (RegionId, PeerId),
        effects: Effects<Due, Queued>,
        work: &mut Work,
    ) -> Result<(), Fault> {
        let Effects { send, write, apply, fetch, snapshots, reads, answers, death, events, released_bytes } =
            effects;
        state.inflight_bytes -= released_bytes;
        self.outbox.send(self.shipments.take_announced(send));
        self.settle(answers);
        for (queued, outcome) in reads {
            match outcome {
                Ok(()) => work.reads.push(queued),
                Err(refusal) => self.refuse(queued.reply, refusal),
            }
        }
        if let Some(write) = write {
            self.put_write(state, write, work);
        }
        match apply {
            Some(Apply::Entries(entries)) => {
                work.applied_bytes += entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
                if work.applied_bytes <= APPLY_BYTES_MAX && !pieces::has_steps(&entries) {
                    self.apply(state, (region, peer), &entries)?;
                } else {
                    work.committed.push(Committed { region, peer, entries });
                }
            }
            Some(Apply::FromLog { first, last }) => work.behind.push(Behind { region, peer, first, last }),
            None => {}
        }
        self.fetches.add(region, fetch);
        self.shipments.add(region, snapshots);
        let (number, group) = named(region);
        for event in events {
            self.count_event(&event);
            tracing::info!(store = self.store.0, region = number, group, ?event, "an event of Raft");
        }
        if let Some(death) = death {
            let replica = state.table.get(region).expect("its effects were taken just now");
            if !death.applied {
                self.tree.write(&replica.tombstone_batch())?;
                // The tree has it in memory only, and no entry brings it again.
                work.parts.bury(death.record.clone());
            }
            state.unlogged.remove(&region);
            state.table.bury_region(death.record);
        }
        Ok(())
    }

    /// Puts a region's write with what the log writes in this turn, unless a snapshot has to be in the tree before.
    fn put_write(&self, state: &mut State, write: LogWrite, work: &mut Work) {
        let region = write.region();
        let brings_snapshot = write.install().is_some();
        if brings_snapshot && planted(Bug::AppliedWithoutData) {
            return self.acknowledge_one(state, write);
        }
        let early = brings_snapshot && planted(Bug::LogBeforeTree);
        let ended = write.install().map(|install| self.end_with_snapshot(state, install));
        let write = match if early { Some(write) } else { self.installs.keep(write) } {
            None if brings_snapshot => {
                self.installs.end_with(region, ended.unwrap_or_default());
                return work.installs.push(region);
            }
            None => return,
            Some(write) => write,
        };
        let blank = state.table.get(region).filter(|replica| replica.life() == Life::Initialising);
        let by_message = |it: &Replica<Due, Queued>| Created::by_message(it, self.logged_peer(region));
        let created = blank.map(by_message).or_else(|| Created::by_split(state, region));
        work.parts.add(write, created, self.limits.turn_bytes_max);
    }

    /// Reports durable writes to their regions, and sends what waited for that.
    fn acknowledge(&self, writes: Vec<LogWrite>) {
        let state = &mut *self.state.borrow_mut();
        writes.into_iter().for_each(|write| self.acknowledge_one(state, write));
    }

    fn acknowledge_one(&self, state: &mut State, write: LogWrite) {
        let region = write.region();
        let installed = write.install().is_some();
        if let Some(replica) = state.table.peer_mut(region, write.peer()) {
            self.outbox.send(replica.durable(write));
            self.time_progress(replica);
            state.table.publish_region(region);
            state.table.mark_dirty(region);
        }
        if installed {
            self.receptions.installed(region);
        }
    }

    /// Applies committed entries in order and answers those who wait for them.
    pub(super) fn apply(
        &self,
        state: &mut State,
        (region, peer): (RegionId, PeerId),
        entries: &[Entry],
    ) -> Result<(), Fault> {
        let Some(replica) = state.table.peer_mut(region, peer) else { return Ok(()) };
        if replica.life() == Life::Tombstone {
            // It has heard of its removal between two pieces.
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        let mut applied = replica
            .apply(entries, &mut batch)
            .map_err(|damaged| Fault::corruption(&self.dir, damaged.to_string()))?;
        let (halves, taken) = (applied.take_halves(), applied.take_taken());
        state.table.end_taken(&taken, region, &mut batch);
        if halves.is_empty() || !planted(Bug::HalfDescribedLate) {
            state.table.describe_halves(&halves, &mut batch);
        }
        self.tree.write(&batch)?;
        if planted(Bug::HalfDescribedLate) {
            let mut late = WriteBatch::new();
            state.table.describe_halves(&halves, &mut late);
            self.tree.write(&late)?;
        }
        self.let_taken_go(state, region, &taken);
        self.counters.applied.add(applied.entries as u64);
        for (due, decided) in applied.take_decided() {
            due.reply.decided(decided);
        }
        let replica = state.table.get_mut(region).expect("its entries were applied just now");
        let answers = replica.applied(applied);
        self.time_applied(replica);
        state.table.publish_region(region);
        state.table.mark_dirty(region);
        self.settle(answers);
        self.publish_halves(state, region, halves)
    }

    /// Answers writes that are decided.
    pub(super) fn settle(&self, answers: Vec<(Due, Result<(), Refusal>)>) {
        if answers.is_empty() {
            return;
        }
        let now = self.rt.now();
        for (due, outcome) in answers {
            let outcome = match outcome {
                Err(Refusal::Unknown) if planted(Bug::LostCalledDone) => Ok(()),
                outcome => outcome,
            };
            match outcome {
                Ok(()) => {
                    self.counters.write_latency.record(now.since(due.since));
                    self.counters.log_operations.add(1);
                    due.reply.send(Ok(due.out));
                }
                Err(refusal) => self.refuse(due.reply, refusal),
            }
        }
    }
}
