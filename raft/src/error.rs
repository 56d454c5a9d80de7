//! Why something was not done: [`Refusal`] for the driver's own requests, [`Dropped`] for messages from outside.
//! Both are small values that a metric can count by name; neither is a fault.

use std::fmt;

use crate::id::{Index, LogId, NodeId};
use crate::membership::MembershipError;

/// Why a local request was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another member leads, or no leader is known.
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over: try the target soon.
    TransferPending {
        /// The coming leader.
        to: NodeId,
    },
    /// The leader has not committed an entry of its own term yet: try again in a round trip.
    TermNotCommitted,
    /// Too many bytes wait for a quorum: try again when some have committed.
    UncommittedFull,
    /// A single proposal above `entry_bytes_max`.
    EntryTooLarge,
    /// An earlier membership change is not applied yet: try again when it is.
    ChangePending,
    /// The membership change makes no sense.
    InvalidChange(MembershipError),
    /// Not a member, or a member that may not do this (a learner cannot lead).
    NotVoter,
    /// This member may not campaign now: a committed membership change or a snapshot is not applied yet, or its
    /// word to a leader holds.
    MayNotCampaign,
    /// The lease is off, expired or suspended: use a read index.
    NoLease,
    /// The position does not fit what the core knows, for example a snapshot older than what the follower has.
    OutOfPlace,
}

impl Refusal {
    /// A label for a metric.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "not_leader",
            Self::TransferPending { .. } => "transfer_pending",
            Self::TermNotCommitted => "term_not_committed",
            Self::UncommittedFull => "uncommitted_full",
            Self::EntryTooLarge => "entry_too_large",
            Self::ChangePending => "change_pending",
            Self::InvalidChange(_) => "invalid_change",
            Self::NotVoter => "not_voter",
            Self::MayNotCampaign => "may_not_campaign",
            Self::NoLease => "no_lease",
            Self::OutOfPlace => "out_of_place",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => write!(f, "not the leader: node {leader} is"),
            Self::NotLeader { leader: None } => f.write_str("not the leader: no leader is known"),
            Self::TransferPending { to } => write!(f, "leadership is being handed to node {to}"),
            Self::TermNotCommitted => f.write_str("the leader has not committed in its own term yet"),
            Self::UncommittedFull => f.write_str("too many uncommitted bytes: retry later"),
            Self::EntryTooLarge => f.write_str("the proposal is larger than entry_bytes_max"),
            Self::ChangePending => f.write_str("an earlier membership change is not applied yet"),
            Self::InvalidChange(error) => write!(f, "invalid membership change: {error}"),
            Self::NotVoter => f.write_str("not a voting member of the group"),
            Self::MayNotCampaign => f.write_str("this member may not campaign now"),
            Self::NoLease => f.write_str("no valid lease: use a read index"),
            Self::OutOfPlace => f.write_str("the position does not fit the group's state"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Why a message from outside was not acted upon. The group is unharmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It belongs to another group.
    WrongGroup,
    /// It is addressed to another member.
    WrongRecipient,
    /// Its sender is this member itself or the reserved id zero.
    ImpossibleSender,
    /// A reply or a transfer request from a node that is not a member.
    UnknownSender,
    /// Its term or an index is beyond any honest value.
    AbsurdNumber,
    /// Its term is old; the sender was answered, unless it was a reply.
    StaleTerm,
    /// A request to vote against a leader that is alive, or against a promise made to it.
    LeaderAlive,
    /// A second leader in this very term: a member has lost its vote.
    SecondLeader,
    /// Entries with gaps, terms that go back, or more than the message's own term.
    MalformedEntries,
    /// Entries that contradict what is committed here.
    AgainstCommitted {
        /// The commit index here.
        committed: Index,
    },
    /// A commit index beyond this log although the leader believes we hold it: entries were lost here.
    BeyondLog {
        /// The last entry here.
        last: LogId,
    },
    /// The same where this disk may have lost the end of its log: the leader was asked for the entries, and sends them again.
    BeyondDoubt {
        /// The last entry here.
        last: LogId,
    },
    /// An answer that vouches for entries the leader never had.
    UnknownEntries,
    /// A snapshot whose description contradicts itself.
    MalformedSnapshot,
    /// A snapshot of a group that this member does not belong to.
    NotInSnapshot,
    /// A snapshot at or below what is committed here; the sender was answered with how far this member is.
    OldSnapshot,
    /// An order to campaign that this member can never follow: it has no vote, follows another leader, or the order
    /// belongs to an abandoned transfer. One that something passing stands in the way of is taken and remembered.
    MayNotCampaign,
    /// A forwarded transfer to a member that cannot lead.
    TransferRefused,
    /// A question only a leader can answer.
    NotLeader,
    /// An answer to a question that is no longer open.
    NoQuestion,
    /// A reply that reached a member in a role it does not concern.
    WrongRole,
}

impl Dropped {
    /// A label for a metric.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::WrongGroup => "wrong_group",
            Self::WrongRecipient => "wrong_recipient",
            Self::ImpossibleSender => "impossible_sender",
            Self::UnknownSender => "unknown_sender",
            Self::AbsurdNumber => "absurd_number",
            Self::StaleTerm => "stale_term",
            Self::LeaderAlive => "leader_alive",
            Self::SecondLeader => "second_leader",
            Self::MalformedEntries => "malformed_entries",
            Self::AgainstCommitted { .. } => "against_committed",
            Self::BeyondLog { .. } => "beyond_log",
            Self::BeyondDoubt { .. } => "beyond_doubt",
            Self::UnknownEntries => "unknown_entries",
            Self::MalformedSnapshot => "malformed_snapshot",
            Self::NotInSnapshot => "not_in_snapshot",
            Self::OldSnapshot => "old_snapshot",
            Self::MayNotCampaign => "may_not_campaign",
            Self::TransferRefused => "transfer_refused",
            Self::NotLeader => "not_leader",
            Self::NoQuestion => "no_question",
            Self::WrongRole => "wrong_role",
        }
    }

    /// What was acknowledged and is missing, if the message shows that and where. A second leader in one term, or an answer for entries that
    /// its leader never had, shows that some member has lost something, and not that this one has.
    #[must_use]
    pub const fn loss(&self) -> Option<Loss> {
        match self {
            Self::BeyondLog { .. } => Some(Loss::Here),
            Self::AgainstCommitted { .. } => Some(Loss::Somewhere),
            Self::WrongGroup
            | Self::WrongRecipient
            | Self::ImpossibleSender
            | Self::UnknownSender
            | Self::AbsurdNumber
            | Self::StaleTerm
            | Self::LeaderAlive
            | Self::SecondLeader
            | Self::MalformedEntries
            | Self::BeyondDoubt { .. }
            | Self::UnknownEntries
            | Self::MalformedSnapshot
            | Self::NotInSnapshot
            | Self::OldSnapshot
            | Self::MayNotCampaign
            | Self::TransferRefused
            | Self::NotLeader
            | Self::NoQuestion
            | Self::WrongRole => None,
        }
    }
}

/// Where acknowledged state is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// At this member: the leader knows that it had acknowledged more than it has.
    Here,
    /// At this member or at its leader, which contradict each other in what each has committed.
    Somewhere,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message dropped: {}", self.name())
    }
}

impl std::error::Error for Dropped {}

/// Why a group cannot start from what the driver found on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The node id is zero.
    ReservedId,
    /// The log has a hole, or a term that goes back.
    LogDamaged,
    /// The state machine has applied more than the log holds: log entries were lost.
    AppliedBeyondLog {
        /// What was applied.
        applied: Index,
        /// The last entry.
        last: Index,
    },
    /// The state machine has applied less than what was cut off the log.
    AppliedBelowLog {
        /// What was applied.
        applied: Index,
        /// The last entry cut off.
        base: Index,
    },
    /// The hard state is older than the log: it was lost.
    TermBelowLog,
    /// The membership contradicts itself.
    Membership(MembershipError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedId => f.write_str("node id 0 is reserved"),
            Self::LogDamaged => f.write_str("the raft log has a hole or a term that goes back"),
            Self::AppliedBeyondLog { applied, last } => {
                write!(f, "applied up to {applied} but the raft log ends at {last}: log entries were lost")
            }
            Self::AppliedBelowLog { applied, base } => {
                write!(f, "applied up to {applied} but the raft log starts after {base}: data was lost")
            }
            Self::TermBelowLog => {
                f.write_str("the stored term is older than the raft log: hard state was lost")
            }
            Self::Membership(error) => write!(f, "stored membership: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
