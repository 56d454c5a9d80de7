//! What Raft says, as part of a [message](super::messages): every kind of body as an archive.
//!
//! The order of the variants and fields is the format. Payloads of entries and snapshots lie apart from the archive, one after the
//! other, so that they are copied once.

use raft::{
    AppendOutcome, Beat, Body, Entry, EntryKind, Index, Joint, LogId, Membership, NodeId, Payload, ReadId,
    Snapshot, Term, VoteAnswer, VoteAsk,
};
use rkyv::{Archive, Deserialize, Serialize};

use super::messages::BadMessages;

#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
pub(super) struct StoredId {
    term: u64,
    index: u64,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct StoredEntry {
    term: u64,
    index: u64,
    kind: u8,
    payload_len: u32,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct StoredMembership {
    voters: Vec<u64>,
    learners: Vec<u64>,
    joint: Option<StoredJoint>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct StoredJoint {
    outgoing: Vec<u64>,
    learners_next: Vec<u64>,
    auto_leave: bool,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct StoredAsk {
    last: StoredId,
    commit: StoredId,
    priority: u32,
    forced: Option<u32>,
}

/// The order of the variants is the format.
#[derive(Archive, Serialize, Deserialize)]
pub(super) enum StoredBody {
    PreVote(StoredAsk),
    PreVoteReply { granted: bool, commit: StoredId },
    Vote(StoredAsk),
    VoteReply { granted: bool, commit: StoredId },
    Append { prev: StoredId, commit: u64, entries: Vec<StoredEntry> },
    Matched(u64),
    Conflict { refused: u64, hint: StoredId, lost: bool },
    Blank { refused: u64 },
    Heartbeat { commit: u64, round: u64, fence: u32, quiet: bool },
    HeartbeatReply { round: u64, quiet: bool },
    Snapshot { last: StoredId, membership: StoredMembership, context_len: u32 },
    TransferRequest { target: u64 },
    TimeoutNow { fence: u32 },
    ReadIndex { incarnation: u64, seq: u64 },
    ReadIndexReply { incarnation: u64, seq: u64, index: Option<u64> },
    Stale,
}

/// About how many bytes a body takes beyond the fixed part of its message.
pub(super) fn body_bytes(body: &Body) -> usize {
    match body {
        Body::Append { prev: _, entries, commit: _ } => {
            entries.iter().map(|entry| entry.bytes() as usize).sum()
        }
        Body::Snapshot(snapshot) => snapshot.context.len() + 8 * members(&snapshot.membership),
        Body::PreVote(_)
        | Body::PreVoteReply(_)
        | Body::Vote(_)
        | Body::VoteReply(_)
        | Body::AppendReply(_)
        | Body::Heartbeat(_)
        | Body::HeartbeatReply { .. }
        | Body::TransferRequest { .. }
        | Body::TimeoutNow { .. }
        | Body::ReadIndex { .. }
        | Body::ReadIndexReply { .. }
        | Body::Stale => 0,
    }
}

fn members(membership: &Membership) -> usize {
    let Membership { voters, learners, joint } = membership;
    let joint = joint.as_ref().map_or(0, |joint| joint.outgoing.len() + joint.learners_next.len());
    voters.len() + learners.len() + joint
}

pub(super) fn store_body(body: &Body, bytes: &mut Vec<u8>) -> StoredBody {
    match body {
        Body::PreVote(ask) => StoredBody::PreVote(store_ask(ask)),
        Body::PreVoteReply(VoteAnswer { granted, commit }) => {
            StoredBody::PreVoteReply { granted: *granted, commit: store_id(*commit) }
        }
        Body::Vote(ask) => StoredBody::Vote(store_ask(ask)),
        Body::VoteReply(VoteAnswer { granted, commit }) => {
            StoredBody::VoteReply { granted: *granted, commit: store_id(*commit) }
        }
        Body::Append { prev, entries, commit } => StoredBody::Append {
            prev: store_id(*prev),
            commit: commit.0,
            entries: entries.iter().map(|entry| store_entry(entry, bytes)).collect(),
        },
        Body::AppendReply(AppendOutcome::Matched(index)) => StoredBody::Matched(index.0),
        Body::AppendReply(AppendOutcome::Conflict { refused, hint, lost }) => {
            StoredBody::Conflict { refused: refused.0, hint: store_id(*hint), lost: *lost }
        }
        Body::AppendReply(AppendOutcome::Blank { refused }) => StoredBody::Blank { refused: refused.0 },
        Body::Heartbeat(Beat { commit, round, fence, quiet }) => {
            StoredBody::Heartbeat { commit: commit.0, round: *round, fence: *fence, quiet: *quiet }
        }
        Body::HeartbeatReply { round, quiet } => StoredBody::HeartbeatReply { round: *round, quiet: *quiet },
        Body::Snapshot(snapshot) => {
            let Snapshot { last, membership, context } = &**snapshot;
            bytes.extend_from_slice(context);
            StoredBody::Snapshot {
                last: store_id(*last),
                membership: store_membership(membership),
                context_len: len(context),
            }
        }
        Body::TransferRequest { target } => StoredBody::TransferRequest { target: target.0 },
        Body::TimeoutNow { fence } => StoredBody::TimeoutNow { fence: *fence },
        Body::ReadIndex { id: ReadId { incarnation, seq } } => {
            StoredBody::ReadIndex { incarnation: *incarnation, seq: *seq }
        }
        Body::ReadIndexReply { id: ReadId { incarnation, seq }, index } => StoredBody::ReadIndexReply {
            incarnation: *incarnation,
            seq: *seq,
            index: index.map(|index| index.0),
        },
        Body::Stale => StoredBody::Stale,
    }
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("entries are bounded far below 4 GiB when they are admitted")
}

fn store_id(id: LogId) -> StoredId {
    StoredId { term: id.term.0, index: id.index.0 }
}

fn store_ask(ask: &VoteAsk) -> StoredAsk {
    let VoteAsk { last, commit, priority, forced } = *ask;
    StoredAsk { last: store_id(last), commit: store_id(commit), priority, forced }
}

fn store_entry(entry: &Entry, bytes: &mut Vec<u8>) -> StoredEntry {
    bytes.extend_from_slice(&entry.payload);
    StoredEntry {
        term: entry.term.0,
        index: entry.index.0,
        kind: entry.kind as u8,
        payload_len: len(&entry.payload),
    }
}

fn store_membership(membership: &Membership) -> StoredMembership {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    let Membership { voters, learners, joint } = membership;
    StoredMembership {
        voters: ids(voters),
        learners: ids(learners),
        joint: joint.as_ref().map(|joint| StoredJoint {
            outgoing: ids(&joint.outgoing),
            learners_next: ids(&joint.learners_next),
            auto_leave: joint.auto_leave,
        }),
    }
}

pub(super) fn load_body(stored: &ArchivedStoredBody, bytes: &mut &[u8]) -> Result<Body, BadMessages> {
    type Stored = ArchivedStoredBody;
    let index = |index: &rkyv::rend::unaligned::u64_ule| Index(index.to_native());
    Ok(match stored {
        Stored::PreVote(ask) => Body::PreVote(load_ask(ask)),
        Stored::PreVoteReply { granted, commit } => {
            Body::PreVoteReply(VoteAnswer { granted: *granted, commit: load_id(commit) })
        }
        Stored::Vote(ask) => Body::Vote(load_ask(ask)),
        Stored::VoteReply { granted, commit } => {
            Body::VoteReply(VoteAnswer { granted: *granted, commit: load_id(commit) })
        }
        Stored::Append { prev, commit, entries } => {
            let entries: Result<Vec<Entry>, BadMessages> =
                entries.iter().map(|entry| load_entry(entry, bytes)).collect();
            Body::Append { prev: load_id(prev), entries: entries?, commit: index(commit) }
        }
        Stored::Matched(matched) => Body::AppendReply(AppendOutcome::Matched(index(matched))),
        Stored::Conflict { refused, hint, lost } => Body::AppendReply(AppendOutcome::Conflict {
            refused: index(refused),
            hint: load_id(hint),
            lost: *lost,
        }),
        Stored::Blank { refused } => Body::AppendReply(AppendOutcome::Blank { refused: index(refused) }),
        Stored::Heartbeat { commit, round, fence, quiet } => Body::Heartbeat(Beat {
            commit: index(commit),
            round: round.to_native(),
            fence: fence.to_native(),
            quiet: *quiet,
        }),
        Stored::HeartbeatReply { round, quiet } => {
            Body::HeartbeatReply { round: round.to_native(), quiet: *quiet }
        }
        Stored::Snapshot { last, membership, context_len } => Body::Snapshot(Box::new(Snapshot {
            last: load_id(last),
            membership: load_membership(membership)?,
            context: take(bytes, context_len.to_native())?,
        })),
        Stored::TransferRequest { target } => Body::TransferRequest { target: NodeId(target.to_native()) },
        Stored::TimeoutNow { fence } => Body::TimeoutNow { fence: fence.to_native() },
        Stored::ReadIndex { incarnation, seq } => {
            Body::ReadIndex { id: ReadId { incarnation: incarnation.to_native(), seq: seq.to_native() } }
        }
        Stored::ReadIndexReply { incarnation, seq, index: at } => Body::ReadIndexReply {
            id: ReadId { incarnation: incarnation.to_native(), seq: seq.to_native() },
            index: at.as_ref().map(index),
        },
        Stored::Stale => Body::Stale,
    })
}

fn load_id(stored: &ArchivedStoredId) -> LogId {
    LogId::new(stored.term.to_native(), stored.index.to_native())
}

fn load_ask(stored: &ArchivedStoredAsk) -> VoteAsk {
    VoteAsk {
        last: load_id(&stored.last),
        commit: load_id(&stored.commit),
        priority: stored.priority.to_native(),
        forced: stored.forced.as_ref().map(|forced| forced.to_native()),
    }
}

fn load_entry(stored: &ArchivedStoredEntry, bytes: &mut &[u8]) -> Result<Entry, BadMessages> {
    Ok(Entry {
        term: Term(stored.term.to_native()),
        index: Index(stored.index.to_native()),
        kind: EntryKind::from_u8(stored.kind).ok_or(BadMessages("an entry has an unknown kind"))?,
        payload: take(bytes, stored.payload_len.to_native())?,
    })
}

/// The next `length` of the payload bytes.
fn take(bytes: &mut &[u8], length: u32) -> Result<Payload, BadMessages> {
    let (taken, rest) = bytes
        .split_at_checked(length as usize)
        .ok_or(BadMessages("the lengths do not add up to the bytes"))?;
    *bytes = rest;
    Ok(Payload::from(taken))
}

fn load_membership(stored: &ArchivedStoredMembership) -> Result<Membership, BadMessages> {
    let ids = |nodes: &rkyv::vec::ArchivedVec<rkyv::rend::unaligned::u64_ule>| {
        nodes.iter().map(|node| NodeId(node.to_native())).collect::<Vec<_>>()
    };
    let membership = Membership {
        voters: ids(&stored.voters),
        learners: ids(&stored.learners),
        joint: stored.joint.as_ref().map(|joint| {
            Box::new(Joint {
                outgoing: ids(&joint.outgoing),
                learners_next: ids(&joint.learners_next),
                auto_leave: joint.auto_leave,
            })
        }),
    };
    membership.validate().map_err(|_| BadMessages("a membership is malformed"))?;
    Ok(membership)
}
