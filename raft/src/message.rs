//! What members of a group say to each other.
//!
//! | message | from → to | the receiver may change |
//! |---|---|---|
//! | [`PreVote`](Body::PreVote) | pre-candidate → voter | nothing (it may learn a commit index) |
//! | [`Vote`](Body::Vote) | candidate → voter | term, vote |
//! | [`PreVoteReply`](Body::PreVoteReply), [`VoteReply`](Body::VoteReply) | voter → candidate | tally, role |
//! | [`Append`](Body::Append) | leader → member | log, commit |
//! | [`AppendReply`](Body::AppendReply) | member → leader | progress, commit |
//! | [`Heartbeat`](Body::Heartbeat) | leader → member | commit, election timer, sleep |
//! | [`HeartbeatReply`](Body::HeartbeatReply) | member → leader | reads, lease, sleep |
//! | [`Snapshot`](Body::Snapshot) | leader → member | everything below its index |
//! | [`TransferRequest`](Body::TransferRequest) | follower → leader | starts a transfer |
//! | [`TimeoutNow`](Body::TimeoutNow) | leader → target | target campaigns at once |
//! | [`ReadIndex`](Body::ReadIndex) / [`ReadIndexReply`](Body::ReadIndexReply) | follower ↔ leader | pending reads |
//! | [`Stale`](Body::Stale) | anyone → sender of an old term | sender's term |
//!
//! Every message carries its sender's term, except that a pre-vote and its grant carry the term the sender *would*
//! campaign in. A higher term makes the receiver a follower of that term, pre-votes aside.

use crate::entry::{Entry, Payload};
use crate::id::{GroupId, Index, LogId, NodeId, Term};
use crate::membership::Membership;

/// An addressed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The group it belongs to.
    pub group: GroupId,
    /// The sender.
    pub from: NodeId,
    /// The addressee.
    pub to: NodeId,
    /// The sender's term (see the module docs for pre-votes).
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// "Would you vote for me?" Raises no term.
    PreVote(VoteAsk),
    /// Whether the voter would.
    PreVoteReply(VoteAnswer),
    /// "Vote for me." Leaves only after the candidate's own vote is durable.
    Vote(VoteAsk),
    /// Whether it did. Leaves only after the vote is durable.
    VoteReply(VoteAnswer),
    /// Entries that follow `prev`; without entries a probe or a commit notice.
    Append {
        /// The entry before the first of `entries`.
        prev: LogId,
        /// Contiguous from `prev.index + 1`.
        entries: Vec<Entry>,
        /// The leader's commit index; may lie beyond the last of `entries`.
        commit: Index,
    },
    /// What became of an append or of a snapshot. Leaves only after what it vouches for is durable.
    AppendReply(AppendOutcome),
    /// The leader is alive.
    Heartbeat(Beat),
    /// Heard.
    HeartbeatReply {
        /// The round of the heartbeat.
        round: u64,
        /// The member is at rest at the leader's last index and has gone to sleep.
        quiet: bool,
    },
    /// The state at an index. The data itself travels outside; the receiver's driver steps this message once it has
    /// all of it.
    Snapshot(Box<Snapshot>),
    /// "Hand leadership to this member."
    TransferRequest {
        /// The wished leader.
        target: NodeId,
    },
    /// "You are up to date: campaign at once."
    TimeoutNow {
        /// The leader's fence; see [`Beat::fence`].
        fence: u32,
    },
    /// "Up to where must I have applied to read now?"
    ReadIndex {
        /// Names the request; never used twice.
        id: ReadId,
    },
    /// The answer; no index if the receiver does not know.
    ReadIndexReply {
        /// The request.
        id: ReadId,
        /// The read index.
        index: Option<Index>,
    },
    /// "Your term is old": its only content is the newer term.
    Stale,
}

/// The content of a vote request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteAsk {
    /// The candidate's last entry.
    pub last: LogId,
    /// The last entry the candidate knows to be committed. A receiver that holds the same entry may commit up to it:
    /// that frees groups whose only electable member does not know that its membership change is committed.
    pub commit: LogId,
    /// The candidate's priority.
    pub priority: u32,
    /// Set when the old leader asked for this election: it lifts the voter's promise to that leader, unless the
    /// voter has heard a higher fence from it.
    pub forced: Option<u32>,
}

/// The content of a vote reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteAnswer {
    /// Yes or no.
    pub granted: bool,
    /// The last entry the voter knows to be committed; see [`VoteAsk::commit`].
    pub commit: LogId,
}

/// The content of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// min(leader's commit, what this member is known to hold): zero for one of whom nothing is known.
    pub commit: Index,
    /// Counts heartbeat rounds within the leader's term. An answer proves that the leader still led after the round
    /// was sent; reads and the lease rest on it.
    pub round: u64,
    /// Counts abandoned leader transfers within the leader's term. A late [`Body::TimeoutNow`] of an abandoned
    /// transfer carries a lower fence, so a quorum that promised its votes to the resumed lease keeps the promise.
    pub fence: u32,
    /// "Nothing is going on: sleep, if you are at rest as well."
    pub quiet: bool,
}

/// The content of an append reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The member's log agrees with the leader's up to here, durably.
    Matched(Index),
    /// The entry before the new ones is missing or different.
    Conflict {
        /// The index of the refused `prev`.
        refused: Index,
        /// The member's last entry at or below it whose term is not above that of `prev`: the logs can only agree
        /// at or below this point, so a whole diverged term is skipped per round trip.
        hint: LogId,
        /// The member's disk has lost entries that it may have vouched for: what was matched beyond `hint` is to be
        /// sent again.
        lost: bool,
    },
    /// The member knows nothing about the group, not even its members: it needs a snapshot, wherever the log
    /// begins.
    Blank {
        /// The index of the refused `prev`: distinguishes a late answer from a current one.
        refused: Index,
    },
}

/// A snapshot's description, and whatever the driver wants to travel with it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The last entry it contains.
    pub last: LogId,
    /// The membership at that entry.
    pub membership: Membership,
    /// The driver's own bytes (file list, checksums); opaque to the core.
    pub context: Payload,
}

/// Names a read request, uniquely over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId {
    /// [`Identity::incarnation`](crate::Identity::incarnation) of the asking replica.
    pub incarnation: u64,
    /// Counts its reads.
    pub seq: u64,
}

impl Body {
    /// Whether only a leader of the message's term can have sent this.
    #[must_use]
    pub const fn is_from_leader(&self) -> bool {
        matches!(self, Self::Append { .. } | Self::Heartbeat(_) | Self::Snapshot(_) | Self::TimeoutNow { .. })
    }

    /// Whether this answers an earlier message, so that a stranger has no reason to send it.
    #[must_use]
    pub const fn is_reply(&self) -> bool {
        matches!(
            self,
            Self::PreVoteReply(_)
                | Self::VoteReply(_)
                | Self::AppendReply(_)
                | Self::HeartbeatReply { .. }
                | Self::ReadIndexReply { .. }
        )
    }

    /// A short name, for logs, metrics and test scripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PreVote(_) => "pre-vote",
            Self::PreVoteReply(_) => "pre-vote-reply",
            Self::Vote(_) => "vote",
            Self::VoteReply(_) => "vote-reply",
            Self::Append { .. } => "append",
            Self::AppendReply(_) => "append-reply",
            Self::Heartbeat(_) => "heartbeat",
            Self::HeartbeatReply { .. } => "heartbeat-reply",
            Self::Snapshot(_) => "snapshot",
            Self::TransferRequest { .. } => "transfer-request",
            Self::TimeoutNow { .. } => "timeout-now",
            Self::ReadIndex { .. } => "read-index",
            Self::ReadIndexReply { .. } => "read-index-reply",
            Self::Stale => "stale",
        }
    }
}
