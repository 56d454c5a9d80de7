//! The replica: how it starts, and what its driver asks of it. Messages are in `step.rs`, answers in `turn.rs`.

use std::sync::Arc;

use crate::candidate::Tally;
use crate::config::{Config, Identity};
use crate::core::{Core, Install, Outbox, Promise, Writes};
use crate::entry::Payload;
use crate::error::{Refusal, StartError};
use crate::id::{Index, LogId, NodeId, Time};
use crate::leader::Leader;
use crate::log::{Log, LogSummary};
use crate::membership::{Membership, MembershipChange};
use crate::message::{Body, ReadId};
use crate::planted;
use crate::quiet;
use crate::read::{self, FollowerReads};
use crate::ready::HardState;
use crate::rng::SplitMix;

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
    PreCandidate(Box<Tally>),
    Candidate(Box<Tally>),
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
            commit_dirty: false,
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
            requests: 0,
            order: None,
            awaited: None,
            config,
        };
        if core.config.lease_nanos > 0 && core.term.0 > 0 {
            // What was promised before a restart is not on disk: assume the most.
            let until = now.after(core.config.promise_nanos());
            core.promise = Promise { until, term: core.term, fence: 0, unknown_until: until };
        }
        core.reset_timer();
        Ok(Self { core, role: Role::Follower })
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
        self.core.tick_transfer();
        match &mut self.role {
            Role::Leader(leader) => {
                if leader.tick(&mut self.core).is_some() {
                    self.become_follower(self.core.term, None);
                }
            }
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                self.core.elapsed = self.core.elapsed.saturating_add(1);
                if self.core.elapsed >= self.core.timeout {
                    self.time_out();
                }
            }
        }
        self.follow_order();
        self.debug_check();
    }

    /// Appends a command to the log, if this replica leads. It is decided when it comes back in
    /// [`Ready::apply`](crate::Ready::apply) with the same term and index; if another entry comes at that index, it never will be.
    ///
    /// # Errors
    /// Why nothing was appended.
    pub fn propose(&mut self, payload: Payload) -> Result<LogId, Refusal> {
        let (leader, core) = self.leading()?;
        let id = leader.propose(core, payload)?;
        self.debug_check();
        Ok(id)
    }

    /// Appends a change of membership. It takes effect when it is applied; see
    /// [`apply_change`](Self::apply_change).
    ///
    /// # Errors
    /// Why nothing was appended.
    pub fn propose_change(&mut self, change: &MembershipChange) -> Result<LogId, Refusal> {
        let (leader, core) = self.leading()?;
        let id = leader.propose_change(core, change)?;
        self.debug_check();
        Ok(id)
    }

    /// Hands leadership to `target`. On a leader the transfer starts (a newer request replaces an older one, the
    /// leader itself as target cancels); on a follower the request is forwarded to the leader. Success means
    /// accepted; how it ends comes as an [`Event::Transfer`](crate::Event::Transfer).
    ///
    /// # Errors
    /// Why the request went nowhere.
    pub fn transfer(&mut self, target: NodeId) -> Result<(), Refusal> {
        self.wake();
        let Self { core, role } = self;
        match (role, core.leader) {
            (Role::Leader(leader), _) => leader.transfer_to(core, target)?,
            (_, Some(leader)) => {
                core.send(leader, Body::TransferRequest { target });
                // Naming the leader itself cancels, which leaves nothing to wait for.
                if leader != target {
                    core.await_transfer(target);
                }
            }
            (_, None) => return Err(Refusal::NotLeader { leader: None }),
        }
        self.debug_check();
        Ok(())
    }

    /// Asks for an index at which a read is linearizable. The answer comes in [`Ready::reads`](crate::Ready::reads) under the returned
    /// name, always: as [`ReadOutcome::Failed`](crate::ReadOutcome::Failed) if leadership is lost meanwhile.
    ///
    /// # Errors
    /// If no leader is known to ask.
    pub fn read_index(&mut self) -> Result<ReadId, Refusal> {
        self.wake();
        let Self { core, role } = self;
        let Some(asked) = core.leader else { return Err(Refusal::NotLeader { leader: None }) };
        let id = core.reads.next_id(core.identity.incarnation);
        if let Role::Leader(leader) = role {
            leader.read_index(core, core.me(), id);
        } else {
            core.reads.wait(id);
            core.send(asked, Body::ReadIndex { id });
        }
        self.debug_check();
        Ok(id)
    }

    /// The index at which a read is linearizable right now, without asking other members. `now` must have been read before
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

    /// Until when no other member can lead, as far as this leader's lease says; none without a lease, while leadership is handed over, or
    /// before an entry of the term is committed. The `read` module states the clock assumptions.
    #[must_use]
    pub fn lease_until(&self) -> Option<Time> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.lease_until(&self.core)
    }

    /// Campaigns without waiting for the election timer. `now` decides whether a promise to a leader still holds.
    ///
    /// # Errors
    /// Why this replica may not.
    pub fn campaign(&mut self, now: Time) -> Result<(), Refusal> {
        if !planted!(StaleClock) {
            self.advance_clock(now);
        }
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

    /// Drops the word that this voter may have given to a leader before a restart. Only for a driver that knows that no such leader
    /// can exist: this member is the only voter, and no leader ever removes itself. Where the log has changes of the membership that are
    /// not applied, there may be other voters, and the word is kept.
    pub fn forget_promise(&mut self) {
        if self.core.log.has_change() {
            return;
        }
        self.core.promise = Promise::default();
        self.debug_check();
    }

    /// Forgets the leader, because the driver knows better than the election timer that its node is gone. Votes for
    /// others are free at once, except that a promise made for a lease holds until its end.
    pub fn forget_leader(&mut self, now: Time) {
        if !planted!(StaleClock) {
            self.advance_clock(now);
        }
        self.wake();
        if !self.is_leader() {
            self.core.leader = None;
            read::fail_waiting(&mut self.core);
        }
        self.debug_check();
    }

    /// Nothing was heard of the node of this member's leader for an election timeout. A member that slept goes on as if it had ticked
    /// meanwhile: it campaigns within another one unless a message of its leader comes, and its vote is free. A leader and a member that
    /// was awake change nothing. Whether it slept.
    pub fn suspect_leader(&mut self, now: Time) -> bool {
        self.advance_clock(now);
        let slept = !self.is_leader() && self.wake();
        if slept {
            self.core.reset_timer();
            self.core.elapsed = self.core.config.election_ticks;
        }
        self.debug_check();
        slept
    }

    /// Steps down although nothing forces this leader to: its node drains, or its store has stopped. What is in
    /// flight is sent, and the best voter is asked to campaign at once; to wait until a chosen one is up to date, use
    /// [`transfer`](Self::transfer) first. This replica may campaign again when its election timer runs out: a driver
    /// that does not want that stops calling [`tick`](Self::tick).
    ///
    /// # Errors
    /// If this replica does not lead.
    pub fn resign(&mut self, now: Time) -> Result<(), Refusal> {
        self.advance_clock(now);
        let (leader, core) = self.leading()?;
        leader.name_successor(core);
        self.become_follower(self.core.term, None);
        self.debug_check();
        Ok(())
    }

    /// The driver could not reach a member's node. Entries in flight to it are taken for lost: until it is heard
    /// again, nothing but heartbeats is sent to it.
    pub fn report_unreachable(&mut self, node: NodeId) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(member) = leader.member_mut(node)
        {
            member.on_unreachable();
        }
        self.debug_check();
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

    /// Has a sleeping leader say once that it leads. It sleeps again as soon as every member has answered that it has nothing to do, and
    /// goes on like one that was waked where one does not answer or lacks something. Changes nothing elsewhere. Whether it slept.
    pub fn speak_up(&mut self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let idle_ticks = leader.idle_ticks;
        let slept = self.wake();
        if let Role::Leader(leader) = &mut self.role
            && slept
        {
            leader.idle_ticks = idle_ticks;
        }
        slept
    }

    /// Followers are to hear soon of everything that is committed by now, because something waits for them to apply it. Changes
    /// nothing where they hear of every commit at once, and on a replica that does not lead.
    pub fn announce_commit(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.announce_commit(self.core.log.committed());
        }
    }

    /// Changes this replica's priority in elections.
    pub fn set_priority(&mut self, priority: u32) {
        self.core.identity.priority = priority;
    }

    pub(crate) fn release_if_asleep(&mut self) {
        if self.core.asleep {
            let leader = match &mut self.role {
                Role::Leader(leader) => Some(&mut **leader),
                Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => None,
            };
            quiet::release(&mut self.core, leader);
        }
    }

    pub(crate) fn advance_clock(&mut self, now: Time) {
        self.core.now = self.core.now.max(now);
    }

    pub(crate) fn leading(&mut self) -> Result<(&mut Leader, &mut Core), Refusal> {
        if self.core.asleep {
            self.wake();
        }
        match &mut self.role {
            Role::Leader(leader) => Ok((leader, &mut self.core)),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                Err(Refusal::NotLeader { leader: self.core.leader })
            }
        }
    }
}
