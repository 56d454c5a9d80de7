//! What a replica does for a merge: its leader proposes the steps, and while it waits to be taken in it does nothing else.
//!
//! The rules are in [`merge`](super::merge); who drives them, and in which order what is written, in [`crate::shard`].

use raft::{LogId, Payload};
use scheduler::{Epoch, Region, RegionId};

use super::life::Life;
use super::merge::{AwaitsMerge, Commit, MergeStep, MergeWhat};
use super::record::RegionRecord;
use super::replica::{Abandoned, Replica};
use super::submit::TurnRoom;
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;

/// What those hear who wait at a replica that is no more.
#[derive(Debug)]
pub struct AllAnswered<W, R> {
    /// Who waits for writes.
    pub answers: Vec<(W, Result<(), Refusal>)>,
    /// Who waits to read, and is to hear that the keys are elsewhere.
    pub reads: Vec<R>,
}

impl<W, R> Replica<W, R> {
    /// Whether the region waits to be taken in, so that nothing is read or written here.
    pub fn is_stopped(&self) -> bool {
        self.record.merges.waits.is_some() && !planted(Bug::SourceGoesOn)
    }

    /// What the region waits for.
    pub fn waits(&self) -> Option<AwaitsMerge> {
        self.record.merges.waits
    }

    /// Refuses what changes a region that waits to be taken in.
    pub(super) fn check_goes_on(&self) -> Result<(), Refusal> {
        match self.waits().filter(|_| !planted(Bug::SourceChanges)) {
            None => Ok(()),
            Some(_) => Err(Refusal::Busy { reason: "the region is being merged", backoff_ms: 1000 }),
        }
    }

    /// The state of life follows the record: to wait, or to go on.
    pub(super) fn wait_or_go_on(&mut self) {
        if self.life() == Life::Live && self.waits().is_some() {
            self.enter(Life::Merging);
        } else if self.life() == Life::Merging && self.waits().is_none() {
            self.enter(Life::Live);
        }
    }

    /// Proposes that the region stops so that `target`, as it is now, takes it in; `waiter` hears once that is applied.
    ///
    /// # Errors
    /// If it cannot be proposed now or makes no sense; the waiter comes back.
    pub fn propose_prepare(&mut self, target: &Region, asked: Epoch, waiter: W) -> Result<(), (W, Refusal)> {
        if let Err(why) = scheduler::merge::may_merge(self.region(), target) {
            return Err((waiter, Refusal::Invalid(why.to_string())));
        }
        let what = MergeWhat::Prepare { target: target.id, epoch: target.epoch };
        self.propose_merge(MergeStep { region: self.id(), epoch: asked, what }, waiter)
    }

    /// Proposes that the region takes `source` in, which waits for that since `waits`.
    ///
    /// # Errors
    /// As [`Replica::propose_prepare`].
    pub fn propose_commit(
        &mut self,
        source: RegionRecord,
        waits: &AwaitsMerge,
        waiter: W,
    ) -> Result<(), (W, Refusal)> {
        let what = MergeWhat::Commit(Commit { source, prepare: waits.prepare });
        self.propose_merge(MergeStep { region: self.id(), epoch: waits.epoch, what }, waiter)
    }

    /// Proposes that the region takes nothing in any more as what it was at `epoch`.
    ///
    /// # Errors
    /// As [`Replica::propose_prepare`].
    pub fn propose_refuse(&mut self, epoch: Epoch, waiter: W) -> Result<(), (W, Refusal)> {
        self.propose_merge(MergeStep { region: self.id(), epoch, what: MergeWhat::Refuse }, waiter)
    }

    /// Proposes that the region goes on, which is not to be taken in any more.
    ///
    /// # Errors
    /// As [`Replica::propose_prepare`].
    pub fn propose_rollback(&mut self, waits: &AwaitsMerge, waiter: W) -> Result<(), (W, Refusal)> {
        let what = MergeWhat::Rollback { prepare: waits.prepare };
        self.propose_merge(MergeStep { region: self.id(), epoch: self.region().epoch, what }, waiter)
    }

    fn propose_merge(&mut self, step: MergeStep, waiter: W) -> Result<(), (W, Refusal)> {
        let proposed = self.try_merge(&step);
        self.wait_for(proposed, waiter)
    }

    fn try_merge(&mut self, step: &MergeStep) -> Result<LogId, Refusal> {
        if self.is_system() {
            return Err(Refusal::RegionNotFound { region_id: self.id().0 });
        }
        super::guard::lead(self.here())?;
        if !matches!(step.what, MergeWhat::Rollback { prepare: _ }) {
            self.check_goes_on()?;
            if !self.is_current() {
                return Err(Refusal::not_current());
            }
        }
        drop(step.judge(&self.record)?);
        // Behind the step they would be of an old version.
        self.propose_gathered(&mut TurnRoom::unlimited());
        if self.has_gathered() {
            return Err(Refusal::Busy { reason: "writes wait to be proposed", backoff_ms: 100 });
        }
        let payload = Payload::from(step.encode());
        let bytes = payload.len();
        self.raft.propose(payload).map_err(|refusal| self.refusal_of(refusal, bytes))
    }

    /// Whether every peer of the region, this leader's included, has its log on disk up to `id`.
    pub fn is_everywhere(&self, id: LogId) -> bool {
        let others = self.region().peers.iter().filter(|peer| peer.id != self.me()).count();
        let have = self.followers().filter(|it| it.matched >= id.index && self.has_peer(it.id)).count();
        self.is_leader() && self.raft.stable() >= id.index && have == others
    }

    /// Whether nothing is forgotten too early if the region takes in `source`: every replica has all that is committed on its disk, also what
    /// would be forgotten for it.
    ///
    /// # Errors
    /// A replica has not.
    pub fn may_take(&self, source: &RegionRecord) -> Result<(), Refusal> {
        let committed = LogId { term: self.term(), index: self.raft.committed() };
        let keeps = !self.record.merges.forgets_for(&source.merges) || planted(Bug::ForgottenEarly);
        match keeps || self.is_everywhere(committed) {
            true => Ok(()),
            false => Err(Refusal::Busy {
                reason: "a replica of the neighbour has not heard of all that this has taken in",
                backoff_ms: 1000,
            }),
        }
    }

    /// What the region waits for, where its neighbour on this store may take it in: it is led from here, so no lease of an earlier leader
    /// lasts, and every replica has its prepare on disk.
    ///
    /// # Errors
    /// What is missing.
    pub fn merge_ready(&self) -> Result<AwaitsMerge, Refusal> {
        let region_id = self.id().0;
        let waits = self.waits().ok_or(Refusal::RegionNotFound { region_id })?;
        if planted(Bug::CommittedUnled) && !self.is_leader() {
            return Ok(waits);
        }
        super::guard::lead(self.here())?;
        match self.is_everywhere(waits.prepare) || planted(Bug::CommittedEarly) {
            true => Ok(waits),
            false => Err(Refusal::Busy {
                reason: "a replica has not the entry that stops the region",
                backoff_ms: 100,
            }),
        }
    }

    fn has_peer(&self, node: raft::NodeId) -> bool {
        self.region().peer(scheduler::PeerId(node.0)).is_some()
    }

    /// It is known from the log of the region that takes this one in that `prepare` is committed: it is to be applied from the log of this
    /// store, without waiting for the leader. `false` if the log here has no such entry.
    pub fn bring_to(&mut self, prepare: LogId) -> bool {
        let brought = self.raft.bring_to(prepare);
        self.debug_check();
        brought
    }

    /// Whether the replica is where the one that takes it in counts on it.
    pub fn has_prepared(&self, prepare: LogId) -> bool {
        self.life() == Life::Merging && self.waits().is_some_and(|waits| waits.prepare == prepare)
    }

    /// It ends, because `into` has taken its range over. What waits here is left for whoever takes it out ([`Replica::abandon`]).
    pub fn end_in_merge(&mut self, into: RegionId) -> RegionRecord {
        self.enter(Life::Tombstone);
        self.record.tombstone = true;
        self.record.merges.into = Some(into);
        self.record.clone()
    }

    /// It has left the table, taken in by another region or by the snapshot of one: what those hear who wait here. `gone` says that the keys are
    /// elsewhere. At its prepare nothing that was proposed and is not applied will ever be; a snapshot may have some of it.
    pub fn answer_all(&mut self, gone: &Refusal, at_prepare: bool) -> AllAnswered<W, R> {
        let Abandoned { proposed, gathered, reads, decided } = self.abandon();
        let lost = if at_prepare || planted(Bug::FateGuessed) { gone } else { &Refusal::Unknown };
        let mut answers = decided;
        answers.extend(proposed.into_iter().map(|waiter| (waiter, Err(lost.clone()))));
        answers.extend(gathered.into_iter().map(|waiter| (waiter, Err(gone.clone()))));
        AllAnswered { answers, reads }
    }

    /// Names the region's term: what was read in one leadership is not taken for what is true in another, also where the key belongs to another
    /// region by then, whose term may be of the same number.
    pub fn leadership(&self) -> u64 {
        self.id().0.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.term().0)
    }

    /// The last entry that the replica has applied.
    pub fn applied_id(&self) -> LogId {
        let index = self.raft.applied_index();
        LogId { term: self.raft.term_at(index).unwrap_or_default(), index }
    }
}
