//! The leader: takes proposals, replicates them, decides what is committed, and steps down when it cannot.
//!
//! Nothing is sent from inside an event. Events change the leader's picture of its members, and [`Leader::flush`],
//! called once per [`Ready`](crate::Ready), turns the picture into messages: a hundred proposals of one turn become
//! one append per follower, and a commit notice rides on the next entries if there are any. Whether there is one without
//! entries is a setting ([`Config::commits_at_once`](crate::Config::commits_at_once)).

use crate::core::Core;
use crate::entry::{Entry, EntryKind, Payload};
use crate::error::{Dropped, Refusal};
use crate::id::{Index, LogId, NodeId};
use crate::membership::MembershipChange;
use crate::message::{AppendOutcome, Beat, Body, Snapshot};
use crate::planted;
use crate::progress::Progress;
use crate::read::LeaderReads;
use crate::ready::{Event, GaveUp, SnapshotWanted};
use crate::transfer::Transfer;

/// Why a leader gives up its role without having seen a higher term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepDown {
    NoQuorum,
    DiskStalled,
}

#[derive(Debug)]
pub(crate) struct Leader {
    /// Every other member, ascending by id.
    pub(crate) members: Box<[Progress]>,
    /// The empty entry that opened the term: nothing is decided before it is committed.
    pub(crate) term_start: Index,
    pub(crate) uncommitted_bytes: u64,
    pub(crate) heartbeat_elapsed: u32,
    /// A heartbeat round is due at the next flush.
    pub(crate) beat_due: bool,
    pub(crate) reads: LeaderReads,
    pub(crate) transfer: Option<Transfer>,
    pub(crate) idle_ticks: u32,
}

impl Leader {
    /// Takes office: every member is probed, and an empty entry opens the term.
    pub(crate) fn new(core: &mut Core) -> Self {
        let last = core.log.last();
        let others = core.membership.members().into_iter().filter(|id| *id != core.me());
        let members =
            others.map(|id| Progress::new(id, last, core.membership.learners.contains(&id))).collect();
        let mut leader = Self {
            members,
            term_start: last.next(),
            uncommitted_bytes: 0,
            heartbeat_elapsed: 0,
            beat_due: false,
            reads: LeaderReads::default(),
            transfer: None,
            idle_ticks: 0,
        };
        leader.append(core, EntryKind::Normal, Payload::EMPTY);
        leader
    }

    pub(crate) fn member(&self, id: NodeId) -> Option<&Progress> {
        self.members.iter().find(|member| member.id == id)
    }

    pub(crate) fn member_mut(&mut self, id: NodeId) -> Option<&mut Progress> {
        self.members.iter_mut().find(|member| member.id == id)
    }

    /// Whether an entry of the leader's own term is committed: before that its commit index may be old.
    pub(crate) fn has_committed_in_term(&self, core: &Core) -> bool {
        core.log.committed() >= self.term_start
    }

    /// Whether the state machine contains everything that was decided before this term: before that it may be old.
    pub(crate) fn has_applied_in_term(&self, core: &Core) -> bool {
        core.log.applied() >= self.term_start
    }

    /// Takes a proposal.
    pub(crate) fn propose(&mut self, core: &mut Core, payload: Payload) -> Result<LogId, Refusal> {
        self.admit(core, payload.len() as u64)?;
        Ok(self.append(core, EntryKind::Normal, payload))
    }

    fn admit(&self, core: &Core, bytes: u64) -> Result<(), Refusal> {
        if let Some(transfer) = &self.transfer {
            return Err(Refusal::TransferPending { to: transfer.target });
        }
        if !core.membership.contains(core.me()) {
            return Err(Refusal::NotLeader { leader: None });
        }
        if bytes > core.config.entry_bytes_max {
            return Err(Refusal::EntryTooLarge);
        }
        if self.uncommitted_bytes > 0 && self.uncommitted_bytes + bytes > core.config.uncommitted_bytes_max {
            return Err(Refusal::UncommittedFull);
        }
        Ok(())
    }

    /// Takes a change of membership: one at a time, and only on settled ground (the single-server bug of 2015 needs
    /// a leader that has not committed in its own term).
    pub(crate) fn propose_change(
        &mut self,
        core: &mut Core,
        change: &MembershipChange,
    ) -> Result<LogId, Refusal> {
        let payload = change.encode();
        self.admit(core, payload.len() as u64)?;
        if core.log.has_change() && !planted!(ChangeWhileOnePending) {
            return Err(Refusal::ChangePending);
        }
        if !self.has_committed_in_term(core) && !planted!(ChangeBeforeOwnTermCommit) {
            return Err(Refusal::TermNotCommitted);
        }
        core.membership.after(change).map_err(Refusal::InvalidChange)?;
        Ok(self.append(core, EntryKind::Membership, payload))
    }

    fn append(&mut self, core: &mut Core, kind: EntryKind, payload: Payload) -> LogId {
        self.uncommitted_bytes += payload.len() as u64;
        self.idle_ticks = 0;
        let entry = Entry { term: core.term, index: core.log.last().next(), kind, payload };
        let id = entry.id();
        core.log.push(entry);
        id
    }

    /// One tick. Returns the reason if leadership ends with it.
    pub(crate) fn tick(&mut self, core: &mut Core) -> Option<StepDown> {
        for member in &mut self.members {
            member.tick(core.config.snapshot_ticks_max);
        }
        self.tick_transfer(core);
        if core.config.check_quorum {
            let window = core.config.election_ticks;
            if core.membership.reached(|id| u64::from(self.is_heard(core, id, window))) == 0 {
                return Some(StepDown::NoQuorum);
            }
            // Heartbeats must not vouch for a disk that hangs.
            if core.writes.stalled_ticks >= 2 * window && !self.members.is_empty() {
                return Some(StepDown::DiskStalled);
            }
        }
        self.heartbeat_elapsed += 1;
        self.idle_ticks = self.idle_ticks.saturating_add(1);
        if self.heartbeat_elapsed >= core.config.heartbeat_ticks {
            self.beat_due = true;
        }
        None
    }

    pub(crate) fn is_heard(&self, core: &Core, id: NodeId, window: u32) -> bool {
        id == core.me() || self.member(id).is_some_and(|member| member.silent_ticks <= window)
    }

    /// What became of an append.
    pub(crate) fn on_append_reply(
        &mut self,
        core: &mut Core,
        from: NodeId,
        outcome: AppendOutcome,
    ) -> Result<(), Dropped> {
        let base = core.log.base().index;
        let Some(member) = self.member_mut(from) else { return Err(Dropped::UnknownSender) };
        member.silent_ticks = 0;
        match outcome {
            AppendOutcome::Blank { refused } => member.on_blank(core, refused),
            AppendOutcome::Matched(index) => {
                if index > core.log.last() {
                    return Err(Dropped::UnknownEntries);
                }
                let news = member.on_match(index, base);
                if member.has_caught_up(core.log.last(), core.config.election_ticks) {
                    let matched = member.matched;
                    core.out.rare().events.push(Event::CaughtUp { learner: from, matched });
                }
                if news {
                    self.commit(core);
                    self.advance_transfer(core);
                }
            }
            AppendOutcome::Conflict { refused, hint, lost } => {
                if hint.index >= Index::LIMIT || refused >= Index::LIMIT {
                    return Err(Dropped::AbsurdNumber);
                }
                let agree = core.log.agree_at_most(hint).index;
                if lost {
                    member.on_lost(refused, agree, core.config.election_ticks);
                } else {
                    member.on_conflict(refused, agree, core.config.election_ticks);
                }
            }
        }
        Ok(())
    }

    /// A member answered a heartbeat.
    pub(crate) fn on_heartbeat_reply(
        &mut self,
        core: &mut Core,
        from: NodeId,
        round: u64,
        quiet: bool,
    ) -> Result<(), Dropped> {
        let current = self.reads.round();
        if round > current {
            return Err(Dropped::AbsurdNumber);
        }
        let Some(member) = self.member_mut(from) else { return Err(Dropped::UnknownSender) };
        member.silent_ticks = 0;
        member.round = member.round.max(round);
        member.quiet = quiet && round == current;
        member.try_again(core.log.last(), &core.config);
        self.confirm_reads(core);
        self.advance_transfer(core);
        if quiet {
            self.try_to_sleep(core);
        }
        Ok(())
    }

    /// This node's disk got further.
    pub(crate) fn on_written(&mut self, core: &mut Core) {
        self.commit(core);
        self.advance_transfer(core);
    }

    /// How far a member's disk agrees with this log. One's own copy counts like any other: once it is durable.
    pub(crate) fn matched(&self, core: &Core, id: NodeId) -> Index {
        if id == core.me() {
            return if planted!(SelfAckBeforeDurable) { core.log.last() } else { core.log.stable() };
        }
        self.member(id).map_or(Index(0), |member| member.matched)
    }

    /// Commits what a quorum holds, if it is of this term: older entries commit only along with one that is
    /// (paper, 5.4.2 and figure 8).
    pub(crate) fn commit(&mut self, core: &mut Core) {
        let reached = Index(self.quorum_match(core));
        let before = core.log.committed();
        let own_term = core.log.term(reached) == Some(core.term) || planted!(CommitOldTermByCount);
        if reached <= before || !own_term || !core.log.commit_to(reached) {
            return;
        }
        if core.log.has_committed_change() {
            self.announce_commit(reached);
        }
        let freed = core.log.payload_bytes(before, reached, core.term);
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(freed);
        self.idle_ticks = 0;
        if before < self.term_start {
            self.reads.on_term_committed(reached);
            self.confirm_reads(core);
        }
    }

    /// Every member is to hear soon that everything up to `index` is committed.
    pub(crate) fn announce_commit(&mut self, index: Index) {
        self.members.iter_mut().for_each(|member| member.announce_commit(index));
    }

    fn quorum_match(&self, core: &Core) -> u64 {
        let matched = |id| self.matched(core, id).0;
        if planted!(CommitWithoutQuorum) {
            return core.membership.members().into_iter().map(matched).max().unwrap_or(0);
        }
        if planted!(JointNeedsOneMajority) {
            return crate::quorum::reached(&core.membership.voters, matched);
        }
        if planted!(LearnerCountsInQuorum) {
            let most = crate::quorum::majority(core.membership.voters.len());
            let mut values: Vec<_> = core.membership.members().into_iter().map(matched).collect();
            values.sort_unstable_by(|a, b| b.cmp(a));
            return values.get(most - 1).copied().unwrap_or(0);
        }
        core.membership.reached(matched)
    }

    /// The membership has changed: follow it.
    pub(crate) fn on_membership(&mut self, core: &mut Core) {
        let (me, last) = (core.me(), core.log.last());
        let mut known = std::mem::take(&mut self.members).into_vec();
        let others = core.membership.members().into_iter().filter(|id| *id != me);
        let members = others.map(|id| match known.iter().position(|member| member.id == id) {
            Some(at) => known.swap_remove(at).continued_as(core.membership.learners.contains(&id)),
            None => Progress::new(id, last, core.membership.learners.contains(&id)),
        });
        self.members = members.collect();
        self.beat_due = true;
        self.idle_ticks = 0;
        if self.transfer.as_ref().is_some_and(|transfer| !core.membership.voters.contains(&transfer.target)) {
            self.abandon_transfer(core, GaveUp::NotVoter);
        }
        // A smaller quorum may already hold more.
        self.on_written(core);
        self.confirm_reads(core);
        self.leave_joint(core);
    }

    /// Ends a joint state that ends by itself, once nothing else is in flight.
    pub(crate) fn leave_joint(&mut self, core: &mut Core) {
        let due = core.membership.leaves_by_itself() && !core.log.has_change();
        if due && self.has_committed_in_term(core) {
            self.append(core, EntryKind::Membership, MembershipChange::leave_joint().encode());
        }
    }

    /// The driver has made a snapshot for `to`.
    pub(crate) fn send_snapshot(
        &mut self,
        core: &mut Core,
        wanted: &SnapshotWanted,
        snapshot: Snapshot,
    ) -> Result<(), Refusal> {
        let to = wanted.to;
        let last = snapshot.last;
        let known = core.log.term(last.index).is_none_or(|term| term == last.term);
        let usable = last.index >= core.log.base().index && last.index <= core.log.committed();
        let Some(member) = self.member_mut(to) else {
            return Err(Refusal::NotVoter);
        };
        if wanted.id.incarnation != core.identity.incarnation || !member.waits_for(wanted) {
            return Err(Refusal::OutOfPlace);
        }
        if !known || !usable || last.index <= member.matched || !snapshot.membership.contains(to) {
            member.on_snapshot_failed();
            return Err(Refusal::OutOfPlace);
        }
        member.on_snapshot_made(last.index);
        core.send(to, Body::Snapshot(Box::new(snapshot)));
        Ok(())
    }

    /// Whether [`flush`](Self::flush) would do something.
    pub(crate) fn wants_flush(&self, core: &Core) -> bool {
        self.beat_due || self.members.iter().any(|member| member.wants_flush(core))
    }

    /// Turns the picture into messages.
    pub(crate) fn flush(&mut self, core: &mut Core) {
        if self.beat_due {
            self.beat(core);
        }
        for member in &mut self.members {
            member.flush(core);
        }
    }

    /// Sends one round of heartbeats.
    fn beat(&mut self, core: &mut Core) {
        self.beat_due = false;
        self.heartbeat_elapsed = 0;
        let round = self.reads.open_round(core.now);
        let (fence, quiet) = (self.reads.fence(), self.may_sleep(core));
        for member in &mut self.members {
            member.quiet = false;
            let safe = core.log.committed().min(member.matched);
            let commit = if planted!(HeartbeatCommitsBeyondMatch) { core.log.committed() } else { safe };
            core.send(member.id, Body::Heartbeat(Beat { commit, round, fence, quiet }));
        }
        self.confirm_reads(core);
        if quiet {
            self.try_to_sleep(core);
        }
    }
}
