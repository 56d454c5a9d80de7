//! What the driver has to do next, in an order that the types enforce.
//!
//! A [`Ready`] has parts that may be done at once and in any order: send, read, apply. What must wait for the disk
//! is locked inside its [`Write`]: the messages that vouch for the written data come out of [`Write::durable`], which
//! consumes the write and yields the acknowledgement for [`Raft::written`](crate::Raft::written).

use crate::entry::Entry;
use crate::error::Refusal;
use crate::id::{Index, LogId, NodeId, Term};
use crate::message::{Message, ReadId, Snapshot};

/// The durable state besides the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HardState {
    /// The current term.
    pub term: Term,
    /// Whom this member voted for in it.
    pub vote: Option<NodeId>,
    /// A lower bound of the commit index. It is written along with terms and entries, and by itself only for an applied change of the
    /// membership, which holds after a restart only if it is known to be committed.
    pub commit: Index,
}

/// One turn's work.
#[derive(Debug, Default)]
pub struct Ready {
    /// May leave at once.
    pub send: Vec<Message>,
    /// One atomic, durable write; writes of a group become durable in the order they were handed out.
    pub write: Option<Write>,
    /// Committed entries to apply, in order, at the driver's pace.
    pub apply: Option<Apply>,
    /// Entries wanted back from the driver's log, for followers that lag behind memory.
    pub fetch: Vec<Fetch>,
    /// Followers that need a snapshot: make one of at least this index and pass it to
    /// [`Raft::send_snapshot`](crate::Raft::send_snapshot).
    pub snapshots: Vec<SnapshotWanted>,
    /// Reads that may now be served, or that have failed.
    pub reads: Vec<ReadOutcome>,
    /// What whoever asked for a transfer or for a new member waits to hear.
    pub events: Vec<Event>,
}

impl Ready {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.send.is_empty()
            && self.write.is_none()
            && self.apply.is_none()
            && self.fetch.is_empty()
            && self.snapshots.is_empty()
            && self.reads.is_empty()
            && self.events.is_empty()
    }
}

/// What must reach the disk in one piece: all of it or nothing survives a crash.
#[derive(Debug)]
#[must_use = "a write that is dropped stalls the group"]
pub struct Write {
    /// Replaces the stored hard state.
    pub hard_state: HardState,
    /// Replaces the state machine and the whole log, if present; comes before `entries`. The write counts as durable
    /// only when the state machine contains the snapshot.
    pub snapshot: Option<Box<Snapshot>>,
    /// Appended to the log; an entry at or below the log's end first cuts everything from its index on.
    pub entries: Vec<Entry>,
    pub(crate) ack: WriteAck,
    pub(crate) after: Vec<Message>,
}

impl Write {
    /// The write has become durable: the acknowledgement for the core, and the messages that waited for it.
    #[must_use]
    pub fn durable(self) -> (WriteAck, Vec<Message>) {
        (self.ack, self.after)
    }
}

/// Proof that a write became durable. It names the write's number and the term and index it ended at, so that an
/// acknowledgement of entries that were replaced meanwhile is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteAck {
    /// Counts the writes of this incarnation.
    pub seq: u64,
    /// The last entry written, if there was one.
    pub last: Option<LogId>,
}

/// Entries to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Apply {
    /// They were still in memory.
    Entries(Vec<Entry>),
    /// They have to be read back from the driver's own log (after a restart, or when apply runs far behind).
    FromLog {
        /// The first.
        first: Index,
        /// The last.
        last: Index,
    },
}

/// A request for entries from the driver's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The follower they are for.
    pub to: NodeId,
    /// The first entry wanted.
    pub first: Index,
    /// The last entry wanted; fewer are fine, from the first on.
    pub last: Index,
    /// About how many bytes; a single larger entry is fine.
    pub bytes_max: u64,
    pub(crate) id: RequestId,
}

/// Names one request to the driver, over all leaderships and restarts, so that a late answer is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId {
    pub(crate) incarnation: u64,
    /// Counts the requests of this incarnation from 1, and begins anew when the number is used up.
    pub(crate) seq: u32,
}

/// A follower that cannot be served from the log. The value is the request's identity: it goes back with the snapshot
/// and with every report about it, and the core ignores reports about requests that are no longer open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotWanted {
    /// The follower.
    pub to: NodeId,
    /// The snapshot must contain at least this entry.
    pub at_least: Index,
    pub(crate) id: RequestId,
}

/// What the driver says about a snapshot it was shipping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotReport {
    /// All bytes were delivered. The member's own answer says when it is installed; if the member is alive and
    /// still does not have it an election timeout later, it is taken for lost.
    Sent,
    /// It could not be made or delivered.
    Failed,
}

/// The end of a read request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Serve it from a state that contains everything up to `index`.
    Ready {
        /// The request.
        id: ReadId,
        /// The read index.
        index: Index,
    },
    /// Leadership was lost or no member answered: ask again, with a new request.
    Failed {
        /// The request.
        id: ReadId,
    },
}

/// What has come of a longer undertaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transfer that this replica accepted has ended. Each accepted one ends exactly once, unless the process does
    /// first; a request for the target of a transfer that is in progress joins it.
    Transfer {
        /// Who was to lead.
        target: NodeId,
        /// How it ended.
        outcome: TransferOutcome,
    },
    /// A learner keeps up with this leader: it received all entries that existed at the start of a round within an
    /// election timeout, so promoting it does not hold up the group. Reported once for each time it had to catch up,
    /// by each leader.
    CaughtUp {
        /// The learner.
        learner: NodeId,
        /// It durably holds everything up to here.
        matched: Index,
    },
}

/// How a transfer of leadership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferOutcome {
    /// The target leads.
    Done,
    /// The target does not lead.
    GaveUp(GaveUp),
    /// A follower's request that this leader did not accept, and why.
    Refused(Refusal),
}

/// Why a transfer did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// The target did not hold the whole log within an election timeout: it is down, cut off or far behind.
    TargetBehind,
    /// The target held the whole log and was asked to campaign, but did not within an election timeout.
    NotElected,
    /// The target is no voter any more.
    NotVoter,
    /// The leader itself was named as the target.
    Cancelled,
    /// A newer request named another target.
    Replaced {
        /// The newer target.
        by: NodeId,
    },
    /// Another member was elected.
    OtherLeader {
        /// The new leader.
        leader: NodeId,
    },
    /// No new leader was heard of within two election timeouts.
    NoNewLeader,
}
