//! The replica: what a driver calls, and who handles it. Decisions are in the role files.

use std::sync::Arc;

use crate::candidate::{self, Tally};
use crate::config::{Config, Identity};
use crate::core::{Core, Install, Outbox, Promise, Writes};
use crate::deque::pop_front_if;
use crate::entry::{Entry, Payload};
use crate::error::{Dropped, Refusal, StartError};
use crate::id::{Index, LogId, NodeId, Term, Time};
use crate::leader::Leader;
use crate::log::{Log, LogSummary};
use crate::membership::{Membership, MembershipChange, MembershipError};
use crate::message::{Body, Message, ReadId, Snapshot};
use crate::quorum::Verdict;
use crate::read::{self, FollowerReads};
use crate::ready::{Apply, Fetch, HardState, Ready, SnapshotReport, Write, WriteAck};
use crate::rng::SplitMix;
use crate::{follower, planted, quiet};

/// What a replica starts from: everything the driver has durably stored.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The stored hard state.
    pub hard_state: HardState,
    /// The stored log.
    pub log: LogSummary,
    /// The last entry whose effects the state machine contains.
    pub applied: Index,
    /// The membership as of `applied`.
    pub membership: Membership,
    /// If the log was found damaged and cut: the highest index this replica may once have vouched for. It neither
    /// votes nor campaigns until the group has given it everything up to there. Zero otherwise.
    pub suspect_until: Index,
}

impl Start {
    /// A replica that knows nothing yet: it waits for a leader to send it a snapshot or the log.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// A replica of a group whose members all start with the same state at `base`.
    #[must_use]
    pub fn bootstrap(base: LogId, membership: Membership) -> Self {
        Self {
            hard_state: HardState { term: base.term, vote: None, commit: base.index },
            log: LogSummary::after(base),
            applied: base.index,
            membership,
            suspect_until: Index(0),
        }
    }
}

/// What a replica currently is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleKind {
    /// Follows a leader, or waits for one. Learners are followers, too.
    Follower,
    /// Asks who would vote for it.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    PreCandidate(Tally),
    Candidate(Tally),
    Leader(Box<Leader>),
}

/// One replica of one group.
#[derive(Debug)]
pub struct Raft {
    pub(crate) core: Core,
    pub(crate) role: Role,
}

impl Raft {
    /// Starts a replica. `now` is the driver's monotonic clock.
    ///
    /// # Errors
    /// If the stored state contradicts itself.
    pub fn new(config: Arc<Config>, identity: Identity, start: Start, now: Time) -> Result<Self, StartError> {
        let Start { hard_state, log: summary, applied, membership, suspect_until } = start;
        let (base, last) = (Log::base_of(&summary), summary.last_id());
        if identity.id.0 == 0 {
            return Err(StartError::ReservedId);
        }
        if summary.is_damaged() {
            return Err(StartError::LogDamaged);
        }
        if applied > last.index {
            return Err(StartError::AppliedBeyondLog { applied, last: last.index });
        }
        if applied < base.index {
            return Err(StartError::AppliedBelowLog { applied, base: base.index });
        }
        if hard_state.term < last.term {
            return Err(StartError::TermBelowLog);
        }
        membership.validate().map_err(StartError::Membership)?;
        // The stored commit is a lower bound, and what was applied was committed.
        let committed = hard_state.commit.min(last.index).max(applied);
        let mut core = Core {
            identity,
            now,
            term: hard_state.term,
            vote: hard_state.vote,
            hard_dirty: false,
            leader: None,
            log: Log::new(summary, applied, committed),
            membership,
            install: Install::None,
            elapsed: 0,
            timeout: 0,
            rng: SplitMix::new(identity.group.0, identity.id.0, identity.incarnation),
            promise: Promise::default(),
            asleep: false,
            writes: Writes::default(),
            out: Outbox::default(),
            reads: FollowerReads::default(),
            suspect_until,
            config,
        };
        if core.config.lease_nanos > 0 && core.term.0 > 0 {
            // What was promised before a restart is not on disk: assume the most.
            let until = now.after(core.config.promise_nanos());
            core.promise = Promise { until, term: core.term, fence: u32::MAX };
        }
        core.reset_timer();
        Ok(Self { core, role: Role::Follower })
    }

    // ---- inputs -------------------------------------------------------------------------------------------------

    /// Takes a message that arrived before `now` was read.
    ///
    /// # Errors
    /// If the message was not acted upon, why: count it and go on.
    pub fn step(&mut self, now: Time, message: Message) -> Result<(), Dropped> {
        self.advance_clock(now);
        self.admit(&message)?;
        self.wake_for(&message);
        self.meet_term(&message)?;
        let result = self.dispatch(message);
        self.release_if_asleep();
        self.debug_check();
        result
    }

    /// Lets one tick pass. A sleeping group ignores it; its driver need not call at all.
    pub fn tick(&mut self, now: Time) {
        self.advance_clock(now);
        if self.core.asleep {
            return;
        }
        if self.core.writes.durable < self.core.writes.issued {
            self.core.writes.stalled_ticks += 1;
        }
        read::tick(&mut self.core);
        match &mut self.role {
            Role::Leader(leader) => {
                if leader.tick(&mut self.core).is_some() {
                    self.become_follower(self.core.term, None);
                }
            }
            _ => {
                self.core.elapsed = self.core.elapsed.saturating_add(1);
                if self.core.elapsed >= self.core.timeout {
                    self.time_out();
                }
            }
        }
        self.debug_check();
    }

    /// Appends a command to the log, if this replica leads. It is decided when it comes back in
    /// [`Ready::apply`] with the same term and index; if another entry comes at that index, it never will be.
    ///
    /// # Errors
    /// Why nothing was appended.
    pub fn propose(&mut self, payload: Payload) -> Result<LogId, Refusal> {
        let (leader, core) = self.leading()?;
        leader.propose(core, payload)
    }

    /// Appends a change of membership. It takes effect when it is applied; see
    /// [`apply_change`](Self::apply_change).
    ///
    /// # Errors
    /// Why nothing was appended.
    pub fn propose_change(&mut self, change: &MembershipChange) -> Result<LogId, Refusal> {
        let (leader, core) = self.leading()?;
        leader.propose_change(core, change)
    }

    /// Hands leadership to `target`. On a leader the transfer starts (a newer request replaces an older one, the
    /// leader itself as target cancels); on a follower the request is forwarded to the leader. Success means
    /// accepted, not done.
    ///
    /// # Errors
    /// Why the request went nowhere.
    pub fn transfer(&mut self, target: NodeId) -> Result<(), Refusal> {
        self.wake();
        let Self { core, role } = self;
        match (role, core.leader) {
            (Role::Leader(leader), _) => leader.transfer_to(core, target),
            (_, Some(leader)) => {
                core.send(leader, Body::TransferRequest { target });
                Ok(())
            }
            (_, None) => Err(Refusal::NotLeader { leader: None }),
        }
    }

    /// Asks for an index at which a read is linearizable. The answer comes in [`Ready::reads`] under the returned
    /// name, always: as [`ReadOutcome::Failed`](crate::ReadOutcome::Failed) if leadership is lost meanwhile.
    ///
    /// # Errors
    /// If no leader is known to ask.
    pub fn read_index(&mut self) -> Result<ReadId, Refusal> {
        self.wake();
        let Self { core, role } = self;
        let incarnation = core.identity.incarnation;
        match (role, core.leader) {
            (Role::Leader(leader), _) => {
                let id = core.reads.next_id(incarnation);
                leader.read_index(core, core.me(), id);
                Ok(id)
            }
            (_, Some(leader)) => {
                let id = core.reads.next_id(incarnation);
                core.reads.wait(id);
                core.send(leader, Body::ReadIndex { id });
                Ok(id)
            }
            (_, None) => Err(Refusal::NotLeader { leader: None }),
        }
    }

    /// The index at which a read is linearizable right now, without asking anybody. `now` must have been read before
    /// the data is looked at. The `read` module states the clock assumptions.
    ///
    /// # Errors
    /// If there is no lease to rest on: use [`read_index`](Self::read_index).
    pub fn lease_read(&mut self, now: Time) -> Result<Index, Refusal> {
        self.advance_clock(now);
        let Role::Leader(leader) = &mut self.role else {
            return Err(Refusal::NotLeader { leader: self.core.leader });
        };
        let read = leader.lease_read(&self.core, now)?;
        leader.idle_ticks = 0;
        Ok(read)
    }

    /// Campaigns without waiting for the election timer.
    ///
    /// # Errors
    /// Why this replica may not.
    pub fn campaign(&mut self) -> Result<(), Refusal> {
        self.wake();
        if self.is_leader() {
            return Ok(());
        }
        self.core.may_campaign()?;
        if self.core.is_bound() {
            return Err(Refusal::MayNotCampaign);
        }
        self.start_campaign(None);
        self.debug_check();
        Ok(())
    }

    /// Forgets the leader, because the driver knows better than the election timer that its node is gone. Votes for
    /// others are free at once, except that a promise made for a lease still holds.
    pub fn forget_leader(&mut self) {
        self.wake();
        if !self.is_leader() {
            self.core.leader = None;
            read::fail_waiting(&mut self.core);
        }
    }

    /// Wakes a sleeping replica; see the `quiet` module for when the driver must. Whether it slept.
    pub fn wake(&mut self) -> bool {
        let slept = quiet::wake(&mut self.core);
        if let Role::Leader(leader) = &mut self.role
            && slept
        {
            leader.idle_ticks = 0;
            leader.beat_due = true;
            leader.members.iter_mut().for_each(|member| member.silent_ticks = 0);
        }
        slept
    }

    /// Changes this replica's priority in elections.
    pub fn set_priority(&mut self, priority: u32) {
        self.core.identity.priority = priority;
    }

    // ---- output and acknowledgements ----------------------------------------------------------------------------

    /// Whether [`ready`](Self::ready) would return something to do.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        let core = &self.core;
        core.out.is_due(core.writes.durable)
            || core.hard_dirty
            || core.log.has_unsubmitted()
            || matches!(core.install, Install::Wanted(_))
            || self.appliable().is_some()
            || matches!(&self.role, Role::Leader(leader) if leader.wants_flush(core))
    }

    /// Collects everything there is to do since the last call.
    pub fn ready(&mut self) -> Ready {
        if let Role::Leader(leader) = &mut self.role {
            leader.flush(&mut self.core);
        }
        let apply = self.take_apply();
        let core = &mut self.core;
        let write = take_write(core);
        let mut ready = Ready { write, apply, ..Ready::default() };
        if let Some(rare) = core.out.rare_if_any() {
            let durable = core.writes.durable;
            while let Some((_, message)) = pop_front_if(&mut rare.held, |(write, _)| *write <= durable) {
                ready.send.push(message);
            }
            ready.fetch = std::mem::take(&mut rare.fetch);
            ready.snapshots = std::mem::take(&mut rare.snapshots);
            ready.reads = std::mem::take(&mut rare.reads);
        }
        if ready.send.is_empty() {
            ready.send = std::mem::take(&mut core.out.send);
        } else {
            ready.send.append(&mut core.out.send);
        }
        core.log.trim(core.config.cache_bytes_max);
        self.release_if_asleep();
        self.debug_check();
        ready
    }

    /// A write has become durable, and with it every earlier one of this group.
    pub fn written(&mut self, ack: WriteAck) {
        let core = &mut self.core;
        if ack.seq <= core.writes.durable || ack.seq > core.writes.issued {
            return;
        }
        core.writes.durable = ack.seq;
        core.writes.stalled_ticks = 0;
        if let Some(last) = ack.last {
            core.log.written(ack.seq, last);
        }
        if let (Install::Writing(expected), Some(installed)) = (&core.install, ack.snapshot)
            && *expected == installed
        {
            core.install = Install::None;
        }
        let own_vote = match &mut self.role {
            Role::Leader(leader) => {
                leader.on_written(core);
                false
            }
            Role::Candidate(tally) => tally.record_own(core),
            _ => false,
        };
        if own_vote {
            self.settle_election();
        }
        self.debug_check();
    }

    /// The state machine contains everything up to `index`.
    pub fn applied(&mut self, index: Index) {
        self.core.log.applied_to(index);
        if let Role::Leader(leader) = &mut self.role {
            leader.leave_joint(&mut self.core);
            leader.advance_transfer(&mut self.core);
        }
        self.debug_check();
    }

    /// Puts the membership change of the entry at `index` into effect. Called for each applied entry of kind
    /// [`EntryKind::Membership`](crate::EntryKind::Membership), in log order, before [`applied`](Self::applied)
    /// covers its index. A driver whose state machine rejects the change (all members decide alike) does not call
    /// this, only `applied`.
    ///
    /// Returns the membership now in force, to be stored along with the applied index. If a snapshot has overtaken
    /// `index`, its membership stays.
    ///
    /// # Errors
    /// If the change makes no sense; then the membership stays, on every member alike.
    pub fn apply_change(
        &mut self,
        index: Index,
        change: &MembershipChange,
    ) -> Result<&Membership, MembershipError> {
        if index > self.core.log.applied() {
            self.core.membership = self.core.membership.after(change)?;
            if let Role::Leader(leader) = &mut self.role {
                leader.on_membership(&mut self.core);
            }
            self.leave_office_if_removed();
        }
        Ok(&self.core.membership)
    }

    /// The driver has cut its log up to and including `index`, which must be applied durably.
    pub fn compacted(&mut self, index: Index) {
        self.core.log.compact(index);
        self.debug_check();
    }

    /// Answers a [`Fetch`] with entries from the driver's log, or with `None` if they have been cut off.
    pub fn fetched(&mut self, fetch: &Fetch, entries: Option<Vec<Entry>>) {
        if let Role::Leader(leader) = &mut self.role
            && fetch.term == self.core.term
            && let Some(member) = leader.member_mut(fetch.to)
        {
            member.fetched(&mut self.core, fetch, entries);
        }
        self.debug_check();
    }

    /// Answers a [`SnapshotWanted`](crate::SnapshotWanted): the message that announces the snapshot will be in the
    /// next [`Ready::send`]; the data travels by the driver's own means.
    ///
    /// # Errors
    /// If it is of no use any more; the core will ask again if need be.
    pub fn send_snapshot(&mut self, to: NodeId, snapshot: Snapshot) -> Result<(), Refusal> {
        let (leader, core) = self.leading()?;
        leader.send_snapshot(core, to, snapshot)
    }

    /// Says what became of a snapshot that was wanted or being shipped.
    pub fn report_snapshot(&mut self, to: NodeId, report: SnapshotReport) {
        if let Role::Leader(leader) = &mut self.role {
            leader.on_snapshot_report(to, report);
        }
    }

    // ---- dispatch -----------------------------------------------------------------------------------------------

    fn release_if_asleep(&mut self) {
        if self.core.asleep {
            let leader = match &mut self.role {
                Role::Leader(leader) => Some(&mut **leader),
                _ => None,
            };
            quiet::release(&mut self.core, leader);
        }
    }

    fn advance_clock(&mut self, now: Time) {
        self.core.now = self.core.now.max(now);
    }

    fn leading(&mut self) -> Result<(&mut Leader, &mut Core), Refusal> {
        if self.core.asleep {
            self.wake();
        }
        match &mut self.role {
            Role::Leader(leader) => Ok((leader, &mut self.core)),
            _ => Err(Refusal::NotLeader { leader: self.core.leader }),
        }
    }

    /// Refuses what no honest member of this group can have sent to this replica.
    fn admit(&self, message: &Message) -> Result<(), Dropped> {
        let core = &self.core;
        if message.group != core.identity.group {
            return Err(Dropped::WrongGroup);
        }
        if message.to != core.me() {
            return Err(Dropped::WrongRecipient);
        }
        if message.from == core.me() || message.from.0 == 0 {
            return Err(Dropped::ImpossibleSender);
        }
        if message.term >= Term::LIMIT || message.term.0 == 0 && !matches!(message.body, Body::Stale) {
            return Err(Dropped::AbsurdNumber);
        }
        if message.body.is_reply() && !core.membership.contains(message.from) {
            return Err(Dropped::UnknownSender);
        }
        Ok(())
    }

    fn wake_for(&mut self, message: &Message) {
        let sleepy = match &message.body {
            Body::Heartbeat(beat) => beat.quiet && Some(message.from) == self.core.leader,
            Body::HeartbeatReply { quiet, .. } => *quiet && self.is_leader(),
            _ => false,
        };
        if self.core.asleep && !(sleepy && message.term == self.core.term) {
            self.wake();
        }
    }

    /// Settles which term the message is to be read in.
    fn meet_term(&mut self, message: &Message) -> Result<(), Dropped> {
        let (term, from) = (message.term, message.from);
        // A voter that hears its leader, or owes it a promise, is deaf to candidates (thesis, 6.2).
        let forced = match &message.body {
            Body::Vote(ask) | Body::PreVote(ask) if term >= self.core.term => Some(ask.forced),
            _ => None,
        };
        if let Some(forced) = forced
            && (term > self.core.term || self.core.vote.is_none())
            && self.core.is_loyal(term, forced)
        {
            return Err(Dropped::LeaderAlive);
        }
        if term < self.core.term {
            return self.meet_older_term(message);
        }
        if term > self.core.term {
            match &message.body {
                Body::PreVote(_) => {}
                Body::PreVoteReply(answer) if answer.granted => {}
                body => {
                    let leader =
                        (body.is_from_leader() && !matches!(body, Body::TimeoutNow { .. })).then_some(from);
                    self.become_follower(term, leader);
                }
            }
        } else if message.body.is_from_leader() {
            match (&self.role, self.core.leader) {
                (Role::Leader(_), _) => return Err(Dropped::SecondLeader),
                (_, Some(leader)) if leader != from => return Err(Dropped::SecondLeader),
                (Role::Follower, Some(_)) => {}
                _ => self.become_follower(term, Some(from)),
            }
        }
        Ok(())
    }

    fn meet_older_term(&mut self, message: &Message) -> Result<(), Dropped> {
        match &message.body {
            // Answered as a refusal, so that it counts in the sender's tally.
            Body::PreVote(ask) => {
                let ask = *ask;
                follower::on_pre_vote(&mut self.core, message.from, message.term, ask);
            }
            // What is committed stays committed, whoever says so and however old the term: a removed leader with a
            // longer log refuses every vote, but its refusal is how the last member left learns that it is alone.
            Body::PreVoteReply(answer) | Body::VoteReply(answer) => self.core.learn_commit(answer.commit),
            body if body.is_reply() || matches!(body, Body::Stale) => {}
            // The sender cannot know that the world moved on: a leader of an old term would stay one, a candidate
            // would raise its term one by one.
            _ => self.core.reply(message.from, Body::Stale),
        }
        Err(Dropped::StaleTerm)
    }

    fn dispatch(&mut self, message: Message) -> Result<(), Dropped> {
        let Message { from, term, body, .. } = message;
        if body.is_from_leader() && !matches!(body, Body::TimeoutNow { .. }) {
            self.core.heard_leader(from);
        }
        let Self { core, role } = self;
        match (body, role) {
            (Body::PreVote(ask), _) => follower::on_pre_vote(core, from, term, ask),
            (Body::Vote(ask), _) => follower::on_vote(core, from, ask),
            (Body::Append { prev, entries, commit }, _) => {
                return follower::on_append(core, from, prev, entries, commit);
            }
            (Body::Heartbeat(beat), _) => return follower::on_heartbeat(core, from, beat),
            (Body::Snapshot(snapshot), _) => return follower::on_snapshot(core, from, *snapshot),
            (Body::TimeoutNow { fence }, _) => return self.on_timeout_now(from, fence),
            (Body::PreVoteReply(answer), Role::PreCandidate(tally)) => {
                // A grant speaks about the term we asked for; a refusal about the voter's own.
                if answer.granted && term != core.term.next() {
                    return Err(Dropped::StaleTerm);
                }
                tally.record(from, answer.granted);
                core.learn_commit(answer.commit);
                self.settle_election();
            }
            (Body::VoteReply(answer), Role::Candidate(tally)) => {
                tally.record(from, answer.granted);
                core.learn_commit(answer.commit);
                self.settle_election();
            }
            (Body::AppendReply(outcome), Role::Leader(leader)) => {
                return leader.on_append_reply(core, from, outcome);
            }
            (Body::HeartbeatReply { round, quiet }, Role::Leader(leader)) => {
                return leader.on_heartbeat_reply(core, from, round, quiet);
            }
            (Body::TransferRequest { target }, Role::Leader(leader)) => {
                leader.transfer_to(core, target).map_err(|_| Dropped::MayNotCampaign)?;
            }
            (Body::ReadIndex { id }, Role::Leader(leader)) => leader.read_index(core, from, id),
            (Body::ReadIndex { id }, _) => {
                core.reply(from, Body::ReadIndexReply { id, index: None });
                return Err(Dropped::NotLeader);
            }
            (Body::TransferRequest { .. }, _) => return Err(Dropped::NotLeader),
            (Body::ReadIndexReply { id, index }, _) => return read::on_reply(core, id, index),
            (Body::Stale, _) => {}
            (_, _) => return Err(Dropped::WrongRole),
        }
        Ok(())
    }

    fn on_timeout_now(&mut self, from: NodeId, fence: u32) -> Result<(), Dropped> {
        if self.core.leader.is_some_and(|leader| leader != from) || self.core.may_campaign().is_err() {
            return Err(Dropped::MayNotCampaign);
        }
        self.start_campaign(Some(fence));
        Ok(())
    }

    // ---- roles --------------------------------------------------------------------------------------------------

    fn time_out(&mut self) {
        if self.core.may_campaign().is_err() || self.core.is_bound() {
            // Look again next tick: what stands in the way passes.
            return;
        }
        self.start_campaign(None);
    }

    /// `forced` carries the fence of the leader that ordered the campaign, and skips the pre-vote.
    fn start_campaign(&mut self, forced: Option<u32>) {
        self.resign();
        self.role = if self.core.config.pre_vote && forced.is_none() {
            Role::PreCandidate(candidate::ask_pre_votes(&mut self.core))
        } else {
            Role::Candidate(candidate::ask_votes(&mut self.core, forced))
        };
        self.settle_election();
    }

    /// Sees whether the votes so far decide anything.
    fn settle_election(&mut self) {
        let verdict = match &self.role {
            Role::PreCandidate(tally) | Role::Candidate(tally) => tally.verdict(&self.core),
            _ => return,
        };
        match (verdict, &self.role) {
            (Verdict::Open, _) => {}
            (Verdict::Lost, _) => self.become_follower(self.core.term, None),
            // An answer may have taught us that a membership change is committed: apply it before trying again.
            (Verdict::Won, _) if self.core.may_campaign().is_err() => {
                self.become_follower(self.core.term, None)
            }
            (Verdict::Won, Role::PreCandidate(_)) => {
                self.role = Role::Candidate(candidate::ask_votes(&mut self.core, None));
                self.settle_election();
            }
            (Verdict::Won, _) => self.become_leader(),
        }
    }

    fn become_leader(&mut self) {
        let core = &mut self.core;
        core.leader = Some(core.me());
        core.elapsed = 0;
        core.writes.stalled_ticks = 0;
        self.role = Role::Leader(Box::new(Leader::new(core)));
    }

    fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        self.resign();
        self.role = Role::Follower;
        self.core.enter_term(term);
        self.core.leader = leader;
        self.core.reset_timer();
    }

    /// Ends whatever this replica owed to others in its present role, or expected from its leader.
    fn resign(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.reads.fail_own(&mut self.core);
        }
        read::fail_waiting(&mut self.core);
    }

    /// A leader that removed itself tells the others how far things are committed, names the best voter its
    /// successor, and leaves.
    fn leave_office_if_removed(&mut self) {
        let Self { core, role: Role::Leader(leader) } = self else { return };
        if core.membership.is_voter(core.me()) || core.membership.is_joint() {
            return;
        }
        leader.flush(core);
        let best = leader.members.iter().filter(|m| core.membership.voters.contains(&m.id));
        if let Some(best) = best.max_by_key(|member| member.matched) {
            core.send(best.id, Body::TimeoutNow { fence: leader.reads.fence() });
        }
        self.become_follower(self.core.term, None);
    }

    // ---- ready --------------------------------------------------------------------------------------------------

    fn appliable(&self) -> Option<(Index, Index)> {
        match self.core.install {
            Install::None => self.core.log.appliable(self.core.config.apply_bytes_max),
            _ => None,
        }
    }

    fn take_apply(&mut self) -> Option<Apply> {
        let (first, upto) = self.appliable()?;
        let log = &mut self.core.log;
        let Some(entries) = log.copy(first, upto, self.core.config.apply_bytes_max) else {
            let last = log.last_outside_memory().min(upto);
            log.hand_out(last, self.core.config.apply_bytes_max);
            return Some(Apply::FromLog { first, last });
        };
        let last = entries.last()?.index;
        log.hand_out(last, entries.iter().map(Entry::bytes).sum());
        Some(Apply::Entries(entries))
    }
}

fn take_write(core: &mut Core) -> Option<Write> {
    let snapshot = match std::mem::take(&mut core.install) {
        Install::Wanted(snapshot) => {
            core.install = Install::Writing(snapshot.last);
            Some(*snapshot)
        }
        other => {
            core.install = other;
            None
        }
    };
    let entries = core.log.submit();
    if !core.hard_dirty && snapshot.is_none() && entries.is_empty() {
        hold(core);
        return None;
    }
    core.writes.issued += 1;
    core.writes.hard =
        if core.hard_dirty || snapshot.is_some() { core.writes.issued } else { core.writes.hard };
    core.hard_dirty = false;
    // The commit index goes along with entries: a restart must not forget that the membership change before a
    // later one was committed.
    let vote = if planted!(VoteNotPersisted) { None } else { core.vote };
    let hard_state = HardState { term: core.term, vote, commit: core.log.committed() };
    Some(Write {
        hard_state,
        ack: WriteAck {
            seq: core.writes.issued,
            last: entries.last().map(Entry::id),
            snapshot: snapshot.as_ref().map(|snapshot| snapshot.last),
        },
        snapshot,
        entries,
        after: std::mem::take(&mut core.out.after),
    })
}

/// Messages that wait for the disk while this turn has nothing to write: for the write under way, or not at all.
fn hold(core: &mut Core) {
    if core.writes.durable == core.writes.issued {
        core.out.send.append(&mut core.out.after);
    } else {
        let issued = core.writes.issued;
        let after = std::mem::take(&mut core.out.after);
        if !after.is_empty() {
            core.out.rare().held.extend(after.into_iter().map(|message| (issued, message)));
        }
    }
}
