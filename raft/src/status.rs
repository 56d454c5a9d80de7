//! A copy of the state for metrics, operators and tests.

use crate::id::{Index, LogId, NodeId, Term, Time};
use crate::leader::Leader;
use crate::membership::Membership;
use crate::progress::{Mode, Progress};
use crate::raft::{Raft, Role, RoleKind};
use crate::ready::HardState;

/// What a replica knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This replica.
    pub id: NodeId,
    /// Its role.
    pub role: RoleKind,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in this term.
    pub vote: Option<NodeId>,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// The last entry cut off.
    pub base: LogId,
    /// The last entry.
    pub last: LogId,
    /// The last entry that is durable here.
    pub stable: Index,
    /// The commit index.
    pub committed: Index,
    /// What the state machine contains.
    pub applied: Index,
    /// The members as of `applied`.
    pub membership: Membership,
    /// Whether the group sleeps.
    pub asleep: bool,
    /// The members as the leader sees them, itself included; empty elsewhere.
    pub members: Vec<MemberStatus>,
    /// The target of a leader transfer in flight.
    pub transfer: Option<NodeId>,
    /// Whether an order to campaign has been sent to it.
    pub transfer_ordered: bool,
    /// Whether lease reads would be served.
    pub lease: bool,
    /// Payload bytes that wait for a quorum.
    pub uncommitted_bytes: u64,
    /// Whether this disk lost entries that the group has not given back yet: no vote and no campaign until then.
    pub suspect: bool,
    /// Ticks without news from the disk while a write was in flight.
    pub stalled_ticks: u32,
    /// Ticks since the leader was heard, and the election timeout drawn for this wait.
    pub election: (u32, u32),
}

/// A member as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The member.
    pub id: NodeId,
    /// It durably holds everything up to here.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// How entries flow to it.
    pub mode: Mode,
    /// Append messages it has not answered.
    pub inflight: usize,
    /// Ticks since it was heard.
    pub silent_ticks: u32,
}

impl Raft {
    /// The replica's id.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.core.identity.id
    }

    /// The current term.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.core.term
    }

    /// The leader of this term, if known.
    #[must_use]
    pub const fn leader(&self) -> Option<NodeId> {
        self.core.leader
    }

    /// Whether this replica leads.
    #[must_use]
    pub const fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whether the group sleeps here: it needs no ticks until something wakes it.
    #[must_use]
    pub const fn is_asleep(&self) -> bool {
        self.core.asleep
    }

    /// The role.
    #[must_use]
    pub const fn role(&self) -> RoleKind {
        match self.role {
            Role::Follower => RoleKind::Follower,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    /// The commit index.
    #[must_use]
    pub const fn committed(&self) -> Index {
        self.core.log.committed()
    }

    /// The last entry that is durable here.
    #[must_use]
    pub const fn stable(&self) -> Index {
        self.core.log.stable()
    }

    /// What the driver has reported applied.
    #[must_use]
    pub const fn applied_index(&self) -> Index {
        self.core.log.applied()
    }

    /// The last entry of the log.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.core.log.last_id()
    }

    /// The term of the entry at `index`, unless it was cut off or does not exist.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.core.log.term(index)
    }

    /// The membership in force: after the last change that [`apply_change`](Self::apply_change) was called for, or of a
    /// snapshot that may not be durable yet. What goes to disk with an applied index is what `apply_change` returned.
    #[must_use]
    pub const fn membership(&self) -> &Membership {
        &self.core.membership
    }

    /// Term, vote and commit as they are now; not necessarily durable yet.
    #[must_use]
    pub const fn hard_state(&self) -> HardState {
        HardState { term: self.core.term, vote: self.core.vote, commit: self.core.log.committed() }
    }

    /// Whether the leader has committed an entry of its own term, so that its commit index covers everything any
    /// earlier leader acknowledged.
    #[must_use]
    pub fn has_committed_in_term(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.has_committed_in_term(&self.core))
    }

    /// Whether this replica leads and has applied an entry of its own term. Only then does the state machine contain
    /// everything that was acknowledged before the term began; committed is not enough.
    #[must_use]
    pub fn has_applied_in_term(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.has_applied_in_term(&self.core))
    }

    /// How far the log may be cut without sending a living member a snapshot: the lowest match of the members heard
    /// within an election timeout, and never beyond the applied index.
    #[must_use]
    pub fn compact_hint(&self) -> Index {
        let log = &self.core.log;
        let Role::Leader(leader) = &self.role else { return log.applied() };
        let window = self.core.config.election_ticks;
        let living = leader.members.iter().filter(|member| leader.is_heard(&self.core, member.id, window));
        living.map(|member| member.matched).fold(log.applied().min(log.stable()), Index::min)
    }

    /// The lowest index of the snapshots that are on their way to members.
    #[must_use]
    pub fn snapshot_on_its_way(&self) -> Option<Index> {
        let Role::Leader(leader) = &self.role else { return None };
        let shipped = |member: &Progress| match member.mode {
            Mode::Snapshot { index, .. } => Some(index),
            Mode::Probe { .. } | Mode::Replicate | Mode::SnapshotWanted { .. } => None,
        };
        leader.members.iter().filter_map(shipped).min()
    }

    /// Everything, copied; the lease is judged at `now`.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        let core = &self.core;
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => None,
        };
        let members = leader.map_or_else(Vec::new, |leader| self.member_statuses(leader));
        Status {
            id: core.me(),
            role: self.role(),
            term: core.term,
            vote: core.vote,
            leader: core.leader,
            base: core.log.base(),
            last: core.log.last_id(),
            stable: core.log.stable(),
            committed: core.log.committed(),
            applied: core.log.applied(),
            membership: core.membership.clone(),
            asleep: core.asleep,
            members,
            transfer: leader.and_then(|leader| leader.transfer).map(|transfer| transfer.target),
            transfer_ordered: leader
                .and_then(|leader| leader.transfer)
                .is_some_and(|transfer| transfer.ordered),
            lease: leader.is_some_and(|leader| leader.has_lease(core, now)),
            uncommitted_bytes: leader.map_or(0, |leader| leader.uncommitted_bytes),
            suspect: core.is_suspect(),
            stalled_ticks: core.writes.stalled_ticks,
            election: (core.elapsed, core.timeout),
        }
    }

    /// The other members as this leader sees them; none if it does not lead. Copies nothing but what is asked for.
    pub fn followers(&self) -> impl Iterator<Item = MemberStatus> {
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => None,
        };
        leader.into_iter().flat_map(|leader| leader.members.iter().map(member_status))
    }

    fn member_statuses(&self, leader: &Leader) -> Vec<MemberStatus> {
        let others = leader.members.iter().map(member_status);
        let (id, matched) = (self.id(), self.core.log.stable());
        let own = self.core.membership.contains(id).then(|| MemberStatus {
            id,
            matched,
            next: matched.next(),
            mode: Mode::Replicate,
            inflight: 0,
            silent_ticks: 0,
        });
        let mut all: Vec<_> = others.chain(own).collect();
        all.sort_unstable_by_key(|member| member.id);
        all
    }

    /// Bytes this replica occupies in memory, entries' payloads aside.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let members = match &self.role {
            Role::Leader(leader) => size_of_val(&**leader) + size_of_val(&*leader.members),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => 0,
        };
        size_of::<Self>()
            + members
            + self.core.membership.heap_bytes()
            + self.core.log.heap_bytes()
            + self.core.out.heap_bytes()
    }
}

fn member_status(member: &Progress) -> MemberStatus {
    MemberStatus {
        id: member.id,
        matched: member.matched,
        next: member.next,
        mode: member.mode,
        inflight: member.inflight_len(),
        silent_ticks: member.silent_ticks,
    }
}
