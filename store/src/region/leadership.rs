//! The beginning and the end of a leadership and of a replica: what waits never outlives either unanswered.

use scheduler::Epoch;

use super::effects::Death;
use super::life::Life;
use super::replica::{Abandoned, Replica};
use crate::refusal::Refusal;

impl<W, R> Replica<W, R> {
    /// The replica was removed, as its store heard from another: it becomes a tombstone, of no older epoch than `epoch`.
    pub fn destroy(&mut self, epoch: Epoch) {
        let known = self.record.region.epoch;
        self.record.region.epoch =
            Epoch::new(known.conf_ver.max(epoch.conf_ver), known.version.max(epoch.version));
        self.die(false);
    }

    pub(super) fn die(&mut self, applied: bool) {
        self.enter(Life::Tombstone);
        self.record.tombstone = true;
        self.end_leadership();
        let unknown = self.doubt.end();
        self.answer_unknown(unknown);
        self.office = None;
        let region_id = self.region().id.0;
        let readers = self.reads.abandon();
        let refused = |reader| (reader, Err(Refusal::RegionNotFound { region_id }));
        self.out.reads.extend(readers.into_iter().map(refused));
        self.out.death = Some(Death { record: self.record.clone(), applied });
    }

    /// All that wait for a write, proposed or not, oldest first. The writes themselves go on.
    pub fn waiting_mut(&mut self) -> impl Iterator<Item = &mut W> {
        let proposed = self.waiting.iter_mut().flat_map(|waiting| &mut waiting.answers);
        let proposed = self.doubt.waiting_mut().chain(proposed);
        proposed.chain(self.gathering.iter_mut().flat_map(|gathered| &mut gathered.answers))
    }

    /// Takes out all that wait, because the store ends.
    pub fn abandon(&mut self) -> Abandoned<W, R> {
        self.inflight.clear();
        self.out.released_bytes = 0;
        let decided_reads = self.out.reads.drain(..).map(|(reader, _)| reader);
        let proposed = self.waiting.drain(..).flat_map(|waiting| waiting.answers);
        Abandoned {
            proposed: self.doubt.end().into_iter().chain(proposed).collect(),
            gathered: self.gathering.drain(..).flat_map(|gathered| gathered.answers).collect(),
            reads: self.reads.abandon().into_iter().chain(decided_reads).collect(),
            decided: self.out.answers.drain(..).collect(),
        }
    }

    /// Acts upon the begin and the end of our own leadership. Called after every input that may have moved it.
    pub(super) fn notice(&mut self) {
        self.watch_elections();
        let office = if self.life == Life::Tombstone || !self.raft.is_leader() {
            None
        } else {
            Some(self.raft.term())
        };
        if office != self.office {
            if self.office.is_some() {
                self.end_leadership();
            }
            self.office = office;
        }
        let unknown = self.doubt.overtaken(self.raft.applied_index());
        self.answer_unknown(unknown);
    }

    pub(super) fn answer_unknown(&mut self, waiters: Vec<W>) {
        self.out.answers.extend(waiters.into_iter().map(|waiter| (waiter, Err(Refusal::Unknown))));
    }

    /// Another leader decides about what was proposed ([`super::doubt`]), and no value in flight can be relied on.
    fn end_leadership(&mut self) {
        let refusal = self.not_leader();
        self.doubt.take_over(self.waiting.drain(..));
        let gathered = self.gathering.drain(..).flat_map(|gathered| gathered.answers);
        self.out.answers.extend(gathered.map(|waiter| (waiter, Err(refusal.clone()))));
        self.stages.clear();
        self.forget_inflight();
    }

    pub(super) fn forget_inflight(&mut self) {
        self.out.released_bytes += self.inflight.bytes();
        self.inflight.clear();
    }

    pub(super) fn not_leader(&self) -> Refusal {
        Refusal::NotLeader { region_id: self.region().id.0, leader: self.here().leader }
    }

    pub(super) fn refusal_of(&self, refusal: raft::Refusal, bytes: usize) -> Refusal {
        let region_id = self.region().id.0;
        let busy = |reason| Refusal::Busy { reason, backoff_ms: 100 };
        match refusal {
            raft::Refusal::NotLeader { .. } => self.not_leader(),
            raft::Refusal::EntryTooLarge => {
                Refusal::TooLarge { region_id, bytes, bytes_max: self.command_bytes_max }
            }
            raft::Refusal::InvalidChange(error) => Refusal::Invalid(error.to_string()),
            raft::Refusal::NotVoter => Refusal::Invalid("the peer is no voter of the region".to_owned()),
            raft::Refusal::TransferPending { .. } => busy("the region is handing over its leadership"),
            raft::Refusal::TermNotCommitted => Refusal::not_current(),
            raft::Refusal::ChangePending => busy("an earlier change of membership is not applied yet"),
            raft::Refusal::UncommittedFull => {
                busy("too many bytes of the region wait for a majority of its replicas")
            }
            raft::Refusal::MayNotCampaign => busy("the replica may not stand for election now"),
            raft::Refusal::NoLease => {
                busy("the region's leader has to ask its followers before it answers alone")
            }
            raft::Refusal::OutOfPlace => busy("the region's log has moved on"),
        }
    }
}
