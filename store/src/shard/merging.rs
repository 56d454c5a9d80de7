//! Merges of regions: asked for by the scheduler, driven by the store that leads the source, and carried out on every store when the
//! target applies them. The protocol, and what is written with what, is in [`merge`](crate::region::merge).
//!
//! The source's leader moves to the store that leads the target before anything stops. Then, with every tick:
//!
//! | the source waits, and here | what is done |
//! |---|---|
//! | both are led, every replica has the prepare on disk | the target is to take the source in |
//! | both are led, and that takes longer than [`PATIENCE`] | the target is to refuse |
//! | the source is led, and the target from elsewhere | the source's leadership goes there |
//! | the source is led, and the target has refused | the source is to go on |
//! | the source is led, and nothing is known of the target | the source's leadership goes to another store |
//! | the target is led, and the source has waited for twice [`PATIENCE`] | the target is to refuse |
//!
//! Each may be done again at any time, also by two stores that both believe to lead: what comes second is refused by the epoch.
//!
//! A target that is about to take a source in has it brought to its prepare first, from the log of this store ([`Shard::bring_source`]). After a
//! start the two logs are read at different paces, and the source may not even be here yet, because the split that it comes from has to
//! be applied again: then that is brought about first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use engine::error::Fault;
use engine::rt::local::oneshot;
use raft::{Entry, Index, LogId};
use scheduler::{Command, Epoch, Region, RegionId, StoreId};

use super::inbox::Lost;
use super::installing::Ended;
use super::members::SILENT_TICKS_MAX;
use super::open::to_raft;
use super::pieces::REPLAY_BYTES_MAX;
use super::reply::Reply;
use super::table::Table;
use super::{Due, Inner, Queued, Shard, State};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::apply::describe_end;
use crate::region::effects::Install;
use crate::region::guard;
use crate::region::life::Life;
use crate::region::merge::{AwaitsMerge, Commit, Fate, MergeStep};
use crate::region::merging::AllAnswered;
use crate::region::message::{Body, PeerMessage};
use crate::region::record::RegionRecord;
use crate::region::replica::Replica;
use crate::request::Out;
use engine::lsm::WriteBatch;

/// Ticks that a source waits for replicas that have not its prepare on disk: two seconds, less than clients try again for.
const PATIENCE: u32 = 20;

/// Ticks after which the same is asked of a group again.
const AGAIN_AFTER: u32 = 5;

/// For how long sources have waited here.
#[derive(Debug, Default)]
pub(super) struct Driven(RefCell<BTreeMap<RegionId, Drive>>);

#[derive(Clone, Copy, Debug, Default)]
struct Drive {
    /// Ticks since it was seen to wait.
    ticks: u32,
    /// At which of them something may be asked again.
    again: u32,
}

impl<W, R> Table<W, R> {
    /// Completes the batch with which `into` takes sources in: each is a tombstone from then on.
    pub fn end_taken(&mut self, taken: &[Commit], into: RegionId, batch: &mut WriteBatch) {
        for Commit { source, prepare: _ } in taken {
            let Some(replica) = self.get_mut(source.region.id) else { continue };
            let record = replica.end_in_merge(into);
            if !planted(Bug::EndNotDescribed) {
                describe_end(batch, &record, replica.applied_id());
            }
        }
    }

    /// The tree has that batch: the sources leave the table. They come back, with those who wait there.
    pub fn bury_taken(&mut self, taken: &[Commit]) -> Vec<Replica<W, R>> {
        let here = taken.iter().filter_map(|commit| {
            let record = self.get(commit.source.region.id)?.record().clone();
            self.bury_region(record)
        });
        here.collect()
    }

    /// The replicas here that end with a snapshot of `record`: those that it has taken in and covers, and those that the replica here has not
    /// taken in and the snapshot has. These may lie beside its range, where it was split since: what was split off comes by a snapshot of its
    /// own, and would find them in its way for ever.
    pub fn ended_with(&self, record: &RegionRecord) -> Vec<RegionId> {
        let region = &record.region;
        let covered = self.all_overlapping(&region.range, region.id);
        let mut ended: Vec<RegionId> = covered.filter(|id| record.merges.has_taken(*id)).collect();
        let here = self.get(region.id).filter(|replica| replica.has_range());
        let Some(here) = here.filter(|_| !planted(Bug::SourceLeftBeside)) else { return ended };
        let is_new = |id: &RegionId| {
            let is_here = self.get(*id).is_some_and(Replica::has_range);
            is_here && !here.record().merges.has_taken(*id) && !ended.contains(id)
        };
        let beside: Vec<RegionId> = record.merges.taken.iter().map(|it| it.region).filter(is_new).collect();
        ended.extend(beside);
        ended
    }

    /// What is known here of the fate of a source that waits.
    pub fn fate_of(&self, source: RegionId, waits: &AwaitsMerge) -> Fate {
        let by = |replica: &Replica<W, R>| match replica.life() {
            Life::Live | Life::Splitting | Life::Merging => waits.fate_by(source, replica.record()),
            Life::Absent | Life::Initialising | Life::Receiving | Life::Tombstone => Fate::Unknown,
        };
        let target = self.get(waits.target);
        if let Some(target) = target
            && planted(Bug::RolledBackBlindly)
            && target.region().epoch != waits.epoch
        {
            return Fate::Refused;
        }
        let known = |fate: &Fate| *fate != Fate::Unknown;
        let fate = target.map(by).filter(known);
        fate.or_else(|| self.iter().map(by).find(known)).unwrap_or(Fate::Unknown)
    }
}

impl Shard {
    /// Has `region` taken in by its neighbour, if that is still `into`. Success means that it has begun; what it came to is in the reports of
    /// both.
    ///
    /// # Errors
    /// If the region is not led from here, `asked` is not its epoch, the neighbour has another one, the two cannot become one, or not now. A leader that is not on the
    /// store that leads the neighbour hands over first and answers that it is busy.
    pub(super) fn merge(&self, region: RegionId, asked: Epoch, into: &Region) -> Result<(), Refusal> {
        self.begin_merge(region, asked, into)
            .inspect_err(|refusal| self.inner.counters.merges.refused.add(refusal))
    }

    fn begin_merge(&self, region: RegionId, asked: Epoch, into: &Region) -> Result<(), Refusal> {
        let inner = &*self.inner;
        inner.health.check_running()?;
        let state = &mut *inner.state.borrow_mut();
        let (into, as_of) = (into.id, into.epoch);
        let target = inner.mergeable(state, into)?.clone();
        let source = inner.mergeable(state, region)?.clone();
        let of = |id: RegionId| state.table.get(id).ok_or(Refusal::RegionNotFound { region_id: id.0 });
        guard::lead(of(region)?.here())?;
        if source.epoch.admit(Command::PrepareMerge, asked).is_err() {
            return Err(Refusal::EpochNotMatch { current: vec![source] });
        }
        if target.epoch != as_of {
            return Err(Refusal::EpochNotMatch { current: vec![target] });
        }
        scheduler::merge::may_merge(&source, &target).map_err(|why| Refusal::Invalid(why.to_string()))?;
        let behind = of(region)?.behind(SILENT_TICKS_MAX, 1);
        if !behind.pending.is_empty() || !behind.down.is_empty() {
            return Err(Refusal::Busy {
                reason: "a peer of the region lags or is not heard",
                backoff_ms: 1000,
            });
        }
        let led_on = of(into)?.here().leader.map(|leader| leader.store);
        if led_on != Some(inner.store) {
            let Some(store) = led_on else {
                return Err(Refusal::Busy { reason: "the neighbour has no leader", backoff_ms: 1000 });
            };
            inner.hand_source_to(state, region, store);
            return Err(Refusal::Busy {
                reason: "the leader hands over to the store that leads the neighbour",
                backoff_ms: 100,
            });
        }
        if state.table.waiting_for(into).any(|source| source != region) {
            return Err(Refusal::Busy { reason: "another region waits for the neighbour", backoff_ms: 1000 });
        }
        of(into)?.may_take(of(region)?.record())?;
        let due = inner.unwatched();
        let replica = state.table.get_mut(region).expect("it was looked at just now");
        let proposed = replica.propose_prepare(&target, asked, due);
        inner.asked(state, region, proposed)?;
        inner.counters.merges.begun.add_one();
        tracing::info!(
            store = inner.store.0,
            source = region.0,
            into = into.0,
            "a region stops, to be taken in by its neighbour"
        );
        Ok(())
    }

    /// A tick has passed for the merges whose sources are here.
    pub(super) fn drive_merges(&self) {
        let inner = &*self.inner;
        let state = &mut *inner.state.borrow_mut();
        let waiting: Vec<RegionId> = state.table.waiting_for_merges().collect();
        inner.driven.0.borrow_mut().retain(|region, _| {
            let waits = waiting.contains(region);
            if !waits {
                inner.note_end(state, *region);
            }
            waits
        });
        for region in waiting {
            let mut driven = inner.driven.0.borrow_mut();
            let drive = driven.entry(region).or_default();
            drive.ticks += 1;
            if drive.ticks < drive.again {
                continue;
            }
            match inner.drive(state, region, drive.ticks) {
                Ok(true) => drive.again = drive.ticks + AGAIN_AFTER,
                Ok(false) => {}
                Err(refusal) => {
                    let (store, reason) = (inner.store.0, refusal.reason());
                    tracing::debug!(store, region = region.0, reason, "a step of a merge is not taken now");
                }
            }
        }
    }

    /// Before `region` applies `entry`: if that makes it take another in, that one is brought to where it stopped.
    pub(super) async fn bring_source(&self, region: RegionId, entry: &Entry) -> Result<(), Fault> {
        let Some((epoch, commit)) = MergeStep::commit_of(&entry.payload) else { return Ok(()) };
        let counts = {
            let state = self.inner.state.borrow();
            state
                .table
                .get(region)
                .is_some_and(|target| target.applied_index() < entry.index && target.region().epoch == epoch)
        };
        if !counts || planted(Bug::TakenInBehind) {
            return Ok(());
        }
        let (source, prepare) = (commit.source.region.id, commit.prepare);
        self.bring_to(source, prepare).await?;
        let state = self.inner.state.borrow();
        let ready = state.table.get(source).is_some_and(|it| it.has_prepared(prepare));
        match ready || self.inner.health.has_stopped() {
            true => Ok(()),
            false => Err(self.cannot_bring(source, prepare)),
        }
    }

    /// Applies what this store's log has of a region up to `upto`, which is committed.
    fn bring_to<'a>(
        &'a self,
        region: RegionId,
        upto: LogId,
    ) -> Pin<Box<dyn Future<Output = Result<(), Fault>> + 'a>> {
        Box::pin(async move {
            let inner = &*self.inner;
            let origin = {
                let state = inner.state.borrow();
                let is_it = |origin: &RegionId| *origin == region;
                let mut expected = state.table.expected();
                expected.find(|it| is_it(&it.stored.record.region.id)).map(|it| it.origin)
            };
            if let Some(origin) = origin {
                self.bring_to(origin.parent, origin.at).await?;
            }
            let begun = {
                let mut state = inner.state.borrow_mut();
                let replica = state.table.get_mut(region);
                replica.and_then(|it| it.bring_to(upto).then(|| (it.me(), it.applied_index())))
            };
            let (peer, applied) = begun.ok_or_else(|| self.cannot_bring(region, upto))?;
            let mut next = applied.0 + 1;
            while next <= upto.index.0 && !inner.health.has_stopped() {
                let read = inner.log.entries(region.0, next..upto.index.0 + 1, REPLAY_BYTES_MAX).await?;
                let entries = read.into_iter().map(|entry| to_raft(&inner.dir, region.0, entry));
                let entries = entries.collect::<Result<Vec<Entry>, Fault>>()?;
                let Some(Index(last)) = entries.last().map(|entry| entry.index) else {
                    return Err(self.cannot_bring(region, upto));
                };
                self.apply_in_pieces((region, peer), &entries).await?;
                next = last + 1;
            }
            Ok(())
        })
    }

    fn cannot_bring(&self, region: RegionId, upto: LogId) -> Fault {
        let what = format!(
            "a neighbour takes {region} in as of its entry {}, which this store has not: its log has lost it; replace the store",
            upto.index
        );
        Fault::corruption(&self.inner.dir.join("log"), what)
    }
}

impl Inner {
    /// A region that is here and in the middle of nothing.
    fn mergeable<'a>(&self, state: &'a State, id: RegionId) -> Result<&'a Region, Refusal> {
        let of_users = |replica: &&Replica<Due, Queued>| !replica.is_system();
        let not_found = Refusal::RegionNotFound { region_id: id.0 };
        let replica = state.table.get(id).filter(of_users).ok_or(not_found)?;
        match replica.life() {
            Life::Live => Ok(replica.region()),
            Life::Absent
            | Life::Initialising
            | Life::Splitting
            | Life::Receiving
            | Life::Merging
            | Life::Tombstone => Err(Refusal::Busy {
                reason: "the region is in the middle of another change",
                backoff_ms: 1000,
            }),
        }
    }

    /// Whoever asked sees what becomes of it in the reports.
    fn unwatched(&self) -> Due {
        Due { reply: Reply::local(oneshot().0), out: Out::Done, since: self.rt.now() }
    }

    fn asked(
        &self,
        state: &mut State,
        region: RegionId,
        proposed: Result<(), (Due, Refusal)>,
    ) -> Result<(), Refusal> {
        state.table.mark_dirty(region);
        self.bell.ring();
        proposed.map_err(|(due, refusal)| {
            due.reply.send(Err(refusal.clone()));
            refusal
        })
    }

    /// A source has waited here and does so no more: it was taken in, which is said where that is done, or goes on.
    fn note_end(&self, state: &State, region: RegionId) {
        let Some(source) = state.table.get(region).filter(|source| source.is_leader()) else { return };
        let (store, region) = (self.store.0, source.id().0);
        self.counters.merges.rolled_back.add_one();
        tracing::info!(
            store,
            region,
            "a region that was to be taken in goes on, because its neighbour has not done so"
        );
    }

    /// Does what is due for a source that waits. Whether something was asked of a group.
    fn drive(&self, state: &mut State, region: RegionId, ticks: u32) -> Result<bool, Refusal> {
        let Some(source) = state.table.get(region) else { return Ok(false) };
        let Some(waits) = source.waits() else { return Ok(false) };
        let (leads, record) = (source.is_leader(), source.record().clone());
        let is_ready = source.merge_ready().is_ok();
        let fate = state.table.fate_of(region, &waits);
        let target = state.table.get(waits.target);
        let target_leads = target.is_some_and(Replica::is_leader);
        let led_on = target.and_then(|target| target.here().leader).map(|leader| leader.store);
        let due = self.unwatched();
        match fate {
            Fate::Open if target_leads && is_ready => {
                let target = state.table.get_mut(waits.target).expect("it leads");
                let proposed = target.propose_commit(record, &waits, due);
                self.asked(state, waits.target, proposed).map(|()| true)
            }
            Fate::Open if target_leads && ticks > if leads { PATIENCE } else { 2 * PATIENCE } => {
                let target = state.table.get_mut(waits.target).expect("it leads");
                let proposed = target.propose_refuse(waits.epoch, due);
                self.asked(state, waits.target, proposed).map(|()| true)
            }
            Fate::Refused if leads => {
                let source = state.table.get_mut(region).expect("it leads");
                let proposed = source.propose_rollback(&waits, due);
                self.asked(state, region, proposed).map(|()| true)
            }
            Fate::Open if leads => {
                let Some(store) = led_on.filter(|_| !target_leads) else { return Ok(false) };
                self.hand_source_to(state, region, store);
                Ok(true)
            }
            Fate::Unknown if leads && ticks > PATIENCE => {
                let others: Vec<StoreId> = record
                    .region
                    .peers
                    .iter()
                    .map(|peer| peer.store)
                    .filter(|it| *it != self.store)
                    .collect();
                let turn = (ticks / AGAIN_AFTER) as usize;
                let Some(store) = others.get(turn % others.len().max(1)) else { return Ok(false) };
                self.hand_source_to(state, region, *store);
                Ok(true)
            }
            Fate::Open | Fate::Refused | Fate::Unknown => Ok(false),
        }
    }

    /// Hands the leadership of a source to its peer on `store`.
    fn hand_source_to(&self, state: &mut State, region: RegionId, store: StoreId) {
        let Some(replica) = state.table.get_mut(region) else { return };
        let (epoch, heir) = (replica.region().epoch, replica.region().peer_on(store).map(|peer| peer.id));
        let Some(heir) = heir else { return };
        if let Err(refusal) = replica.transfer(heir, epoch) {
            let (store, reason) = (self.store.0, refusal.reason());
            tracing::debug!(store, region = region.0, reason, "the source of a merge is not handed over now");
        }
        state.table.mark_dirty(region);
        self.bell.ring();
    }

    /// The tree has the batch with which `into` took sources in: they leave the table, and who waits there asks again. Nothing that was
    /// proposed behind a prepare takes effect.
    pub(super) fn let_taken_go(&self, state: &mut State, into: RegionId, taken: &[Commit]) {
        for removed in state.table.bury_taken(taken) {
            let (store, source) = (self.store.0, removed.id().0);
            tracing::info!(store, source, into = into.0, "a region was taken in by its neighbour");
            if state.table.get(into).is_some_and(Replica::is_leader) {
                self.counters.merges.done.add_one();
            }
            self.let_source_go(state, removed, (into, true));
        }
    }

    /// Answers those who wait at a source that has left the table, `at_prepare` or wherever it was.
    fn let_source_go(
        &self,
        state: &mut State,
        mut removed: Replica<Due, Queued>,
        (into, at_prepare): (RegionId, bool),
    ) {
        state.unlogged.remove(&removed.id());
        state.inflight_bytes -= removed.charged_bytes();
        let gone = match state.table.get(into) {
            Some(target) => Refusal::EpochNotMatch { current: vec![target.region().clone()] },
            None => Refusal::RegionNotFound { region_id: removed.id().0 },
        };
        let AllAnswered { answers, reads } = removed.answer_all(&gone, at_prepare);
        self.settle(answers);
        reads.into_iter().for_each(|queued| self.refuse(queued.reply, gone.clone()));
    }

    /// The replicas that end because a region that has taken them in comes by a snapshot. They leave the table at once, so that nothing is
    /// written in their ranges any more; their tombstones become durable with the snapshot.
    pub(super) fn end_with_snapshot(&self, state: &mut State, install: &Install) -> Vec<Ended> {
        let region = &install.record.region;
        let mut all = Vec::new();
        for id in state.table.ended_with(&install.record) {
            let at = state.table.get(id).expect("it is in the table").applied_id();
            let Some(removed) = state.table.take_in(id, region.id) else { continue };
            all.push(Ended { record: removed.record().clone(), at });
            let (store, source) = (self.store.0, id.0);
            tracing::info!(
                store,
                source,
                into = region.id.0,
                "a region ends with the snapshot of its neighbour"
            );
            self.let_source_go(state, removed, (region.id, false));
        }
        all
    }

    /// A region that a snapshot may not be taken in over: it covers a part of the range, and was not taken in by the one that comes.
    pub(super) fn in_the_way(&self, state: &State, message: &PeerMessage) -> Option<RegionId> {
        let (range, merges) = snapshot_of(message).map(|it| (it.region.range, it.merges))?;
        let mut all = state.table.all_overlapping(&range, message.region);
        all.find(|id| !merges.has_taken(*id))
    }

    /// Whether one that would end with the snapshot cannot end just now.
    pub(super) fn is_busy_in_the_way(&self, state: &State, message: &PeerMessage) -> bool {
        let Some(record) = snapshot_of(message) else { return false };
        let is_busy = |id: RegionId| {
            let life = state.table.get(id).map(Replica::life);
            let is_whole = matches!(life, Some(Life::Live | Life::Merging));
            !is_whole || self.is_installing(state, id) || state.table.is_awaited(id)
        };
        let covered = state.table.all_overlapping(&record.region.range, message.region);
        covered.chain(state.table.ended_with(&record)).any(is_busy)
    }

    /// Another store says that the region here was taken in by `into`. If that one has ended here, nothing will take this one in any
    /// more; else it does so by its log, or comes by a snapshot.
    pub(super) fn hear_merged(
        &self,
        state: &mut State,
        message: &PeerMessage,
        into: RegionId,
    ) -> Result<(), Lost> {
        let has_ended = state.table.get(into).is_none() && state.table.tombstone(into).is_some();
        match has_ended {
            true => self.destroy(state, message),
            false => Err(Lost::Tombstone),
        }
    }
}

/// The record that a snapshot brings.
fn snapshot_of(message: &PeerMessage) -> Option<RegionRecord> {
    let Body::Raft(inner) = &message.body else { return None };
    let raft::Body::Snapshot(snapshot) = &inner.body else { return None };
    RegionRecord::decode(&snapshot.context).ok()
}
