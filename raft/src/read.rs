//! Linearizable reads without log entries: the read index and the leader lease (thesis, 6.4).
//!
//! *Read index.* The leader notes its commit index and asks, with the next heartbeat round, whether it still leads.
//! A quorum's answers to that round or a later one prove that it led after the request came, so no newer leader can
//! have committed anything the read must see. Rounds count upwards within a term and answers are kept as a maximum
//! per member, so a late answer of an earlier round never confirms a later read. All requests of one turn share one
//! round. Before the leader has committed an entry of its own term its commit index may be older than the previous
//! leader's, and requests wait.
//!
//! *Lease.* If a quorum answered a round, each of these voters has promised not to elect another leader for `lease_nanos`
//! (and the drift allowance) after it heard that round, and every other majority contains one of them. Assumptions:
//! - the driver's clock is monotonic, is not stopped by a suspended machine, and over one lease a voter's clock
//!   gains at most `lease_drift_percent` on the leader's;
//! - the reading passed along with a message was taken after the message arrived;
//! - a lease read takes the reading *before* it looks at the data.
//!
//! The lease counts from the time the round was sent. It is suspended while leadership is being handed over, and
//! until a round sent after an abandoned hand-over is answered.

use crate::core::Core;
use crate::error::{Dropped, Refusal};
use crate::id::{Index, NodeId, Time};
use crate::leader::Leader;
use crate::message::{Body, ReadId};
use crate::planted;
use crate::ready::ReadOutcome;

#[derive(Clone, Copy, Debug)]
struct PendingRead {
    id: ReadId,
    from: NodeId,
    /// The first round that can confirm it.
    round: u64,
    /// Unknown until the leader has committed in its own term.
    index: Option<Index>,
}

/// The leader's side.
#[derive(Debug, Default)]
pub(crate) struct LeaderReads {
    round: u64,
    fence: u32,
    /// The lease holds before this reading.
    lease_until: Time,
    /// The round whose answers will renew the lease, and when it was sent. Rounds opened before it is answered are not
    /// noted: the next one after it renews the lease again.
    renewing: Option<(u64, Time)>,
    pending: Vec<PendingRead>,
}

impl LeaderReads {
    pub(crate) const fn round(&self) -> u64 {
        self.round
    }

    pub(crate) const fn fence(&self) -> u32 {
        self.fence
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Starts a round at `now`.
    pub(crate) fn open_round(&mut self, now: Time) -> u64 {
        self.round += 1;
        self.renewing.get_or_insert((self.round, now));
        self.round
    }

    /// Gives back spare memory.
    pub(crate) fn release(&mut self) {
        self.pending.shrink_to_fit();
    }

    /// A transfer was abandoned: only rounds from now on vouch for the lease.
    pub(crate) fn raise_fence(&mut self) {
        if planted!(LeaseKeptDuringTransfer) {
            return;
        }
        self.fence += 1;
        self.renewing = None;
        self.lease_until = Time(0);
    }

    /// The first commit in the leader's term: waiting reads learn their index.
    pub(crate) fn on_term_committed(&mut self, committed: Index) {
        for read in &mut self.pending {
            read.index.get_or_insert(committed);
        }
    }

    /// Requests of this node itself that will not be answered any more.
    pub(crate) fn fail_own(&mut self, core: &mut Core) {
        let me = core.me();
        for read in self.pending.drain(..).filter(|read| read.from == me) {
            core.out.rare().reads.push(ReadOutcome::Failed { id: read.id });
        }
    }
}

impl Leader {
    /// Takes a read request of this node or of a follower.
    pub(crate) fn read_index(&mut self, core: &mut Core, from: NodeId, id: ReadId) {
        let settled = self.has_committed_in_term(core) || planted!(ReadBeforeOwnTermCommit);
        let index = settled.then(|| core.log.committed());
        let read = PendingRead { id, from, round: self.reads.round + 1, index };
        self.idle_ticks = 0;
        if let Some(index) = index
            && planted!(ReadAnsweredWithoutRound)
        {
            return self.answer(core, read, index);
        }
        self.reads.pending.push(read);
        self.beat_due = true;
    }

    /// Looks whether answers to heartbeats confirm reads or renew the lease.
    pub(crate) fn confirm_reads(&mut self, core: &mut Core) {
        let me = core.me();
        let round = self.reads.round;
        let acked = core
            .membership
            .reached(|id| if id == me { round } else { self.member(id).map_or(0, |member| member.round) });
        let confirmed = |read: &PendingRead| Some((*read, read.index.filter(|_| read.round <= acked)?));
        let reads: Vec<_> = self.reads.pending.iter().map_while(confirmed).collect();
        self.reads.pending.drain(..reads.len());
        reads.into_iter().for_each(|(read, index)| self.answer(core, read, index));
        if let Some((_, sent)) = self.reads.renewing.take_if(|(round, _)| *round <= acked) {
            let from = if planted!(LeaseFromReplyTime) { core.now } else { sent };
            self.reads.lease_until = from.after(core.config.lease_nanos);
        }
    }

    /// Whoever asked may read at `index`, a follower once it has heard that everything up to there is committed.
    fn answer(&mut self, core: &mut Core, read: PendingRead, index: Index) {
        if read.from == core.me() {
            return core.out.rare().reads.push(ReadOutcome::Ready { id: read.id, index });
        }
        core.send(read.from, Body::ReadIndexReply { id: read.id, index: Some(index) });
        if let Some(member) = self.member_mut(read.from) {
            member.announce_commit(index);
        }
    }

    /// The index to read at without asking other members, if the lease holds at `now`.
    pub(crate) fn lease_read(&self, core: &Core, now: Time) -> Result<Index, Refusal> {
        let suspended = self.transfer.is_some() && !planted!(LeaseKeptDuringTransfer);
        let held = now < self.reads.lease_until && core.config.lease_nanos > 0;
        if suspended || !held {
            return Err(Refusal::NoLease);
        }
        if !self.has_committed_in_term(core) && !planted!(ReadBeforeOwnTermCommit) {
            return Err(Refusal::TermNotCommitted);
        }
        Ok(core.log.committed())
    }

    /// Until when the lease holds, if there is one to rest on.
    pub(crate) fn lease_until(&self, core: &Core) -> Option<Time> {
        let until = self.reads.lease_until;
        let just_before = Time(until.0.checked_sub(1)?);
        self.lease_read(core, just_before).is_ok().then_some(until)
    }

    /// Whether the lease would hold at `now`, for status.
    pub(crate) fn has_lease(&self, core: &Core, now: Time) -> bool {
        self.lease_read(core, now).is_ok()
    }
}

/// The asking side of a member that does not lead.
#[derive(Debug, Default)]
pub(crate) struct FollowerReads {
    seq: u64,
    waiting: Vec<(ReadId, u32)>,
}

impl FollowerReads {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A name that was never used before, in this incarnation or an earlier one.
    pub(crate) fn next_id(&mut self, incarnation: u64) -> ReadId {
        self.seq += 1;
        ReadId { incarnation, seq: self.seq }
    }

    pub(crate) fn wait(&mut self, id: ReadId) {
        self.waiting.push((id, 0));
    }
}

/// The leader answered, or cannot.
pub(crate) fn on_reply(core: &mut Core, id: ReadId, index: Option<Index>) -> Result<(), Dropped> {
    let Some(at) = core.reads.waiting.iter().position(|(waiting, _)| *waiting == id) else {
        return Err(Dropped::NoQuestion);
    };
    core.reads.waiting.swap_remove(at);
    core.out.rare().reads.push(match index {
        Some(index) => ReadOutcome::Ready { id, index },
        None => ReadOutcome::Failed { id },
    });
    Ok(())
}

/// Time passes for open questions; those older than `ticks_max` have failed.
pub(crate) fn tick(core: &mut Core) {
    let ticks_max = core.config.election_ticks;
    if core.reads.waiting.is_empty() {
        return;
    }
    let out = &mut core.out.rare().reads;
    core.reads.waiting.retain_mut(|(id, ticks)| {
        *ticks += 1;
        let keep = *ticks < ticks_max;
        if !keep {
            out.push(ReadOutcome::Failed { id: *id });
        }
        keep
    });
}

/// The leader asked is gone: no answer will come.
pub(crate) fn fail_waiting(core: &mut Core) {
    let waiting = std::mem::take(&mut core.reads.waiting);
    if !waiting.is_empty() {
        core.out.rare().reads.extend(waiting.into_iter().map(|(id, _)| ReadOutcome::Failed { id }));
    }
}
