//! Raft messages between two stores, as the payload of one frame.
//!
//! ```text
//! payload  [format u16] [rkyv archive of Stored, unaligned little-endian]
//! Stored   { from store u64, to store u64, messages: [StoredMessage], bytes: [u8] }
//! bytes    the payloads of entries and snapshots, one after the other, in the order of the messages
//! ```
//! All messages that one turn has for one store travel together, so that a hundred groups cost one checksum and one system call.
//! The archive is validated once, here; a message that Raft cannot have sent (a reserved id, an absurd term) is left to the Raft
//! core, which refuses it by its own rules.
//!
//! A peer that does not exist yet may be created by its first message ([`PeerMessage::range`]), one whose epoch is older than
//! what the receiver knows comes from a peer that was removed.

use std::fmt;

use raft::{
    AppendOutcome, Beat, Body, Entry, EntryKind, GroupId, Index, Joint, LogId, Membership, Message, NodeId,
    Payload, ReadId, Snapshot, Term, VoteAnswer, VoteAsk,
};
use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};
use scheduler::{Epoch, KeyRange, StoreId};

const FORMAT: u16 = 1;

/// One Raft message and what the receiver's store needs to know beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    /// The sender's epoch of the region.
    pub epoch: Epoch,
    /// The keys of the region, on messages that may create their receiver.
    pub range: Option<KeyRange>,
    /// The message. Its group is the region, its nodes are peers.
    pub raft: Message,
}

/// What one store has for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageBatch {
    /// The sender.
    pub from: StoreId,
    /// The receiver.
    pub to: StoreId,
    /// In the order in which they were made.
    pub messages: Vec<PeerMessage>,
}

/// The payload is not a [`MessageBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMessages(pub &'static str);

impl fmt::Display for BadMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not messages of a peer: {}", self.0)
    }
}

impl std::error::Error for BadMessages {}

#[derive(Archive, Serialize, Deserialize)]
struct Stored {
    from: u64,
    to: u64,
    messages: Vec<StoredMessage>,
    bytes: Vec<u8>,
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredMessage {
    region: u64,
    conf_ver: u64,
    version: u64,
    range: Option<(Vec<u8>, Vec<u8>)>,
    from: u64,
    to: u64,
    term: u64,
    body: StoredBody,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
struct StoredId {
    term: u64,
    index: u64,
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredEntry {
    term: u64,
    index: u64,
    kind: u8,
    payload_len: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredMembership {
    voters: Vec<u64>,
    learners: Vec<u64>,
    joint: Option<StoredJoint>,
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredJoint {
    outgoing: Vec<u64>,
    learners_next: Vec<u64>,
    auto_leave: bool,
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredAsk {
    last: StoredId,
    commit: StoredId,
    priority: u32,
    forced: Option<u32>,
}

/// The order of the variants is the format.
#[derive(Archive, Serialize, Deserialize)]
enum StoredBody {
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

impl MessageBatch {
    /// Appends the messages to a frame.
    pub fn encode(&self, mut out: Vec<u8>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let messages = self.messages.iter().map(|message| store_message(message, &mut bytes)).collect();
        let stored = Stored { from: self.from.0, to: self.to.0, messages, bytes };
        out.extend_from_slice(&FORMAT.to_le_bytes());
        rkyv::api::high::to_bytes_in::<_, rancor::Error>(&stored, out)
            .expect("writing an archive into memory has no way to fail")
    }

    /// The inverse of [`MessageBatch::encode`].
    ///
    /// # Errors
    /// [`BadMessages`] for anything else.
    pub fn decode(payload: &[u8]) -> Result<Self, BadMessages> {
        let (format, archive) = payload.split_first_chunk::<2>().ok_or(BadMessages("it is cut short"))?;
        if u16::from_le_bytes(*format) != FORMAT {
            return Err(BadMessages("its format is unknown; is the sender of a newer version?"));
        }
        let stored = rkyv::access::<ArchivedStored, rancor::Failure>(archive)
            .map_err(|_| BadMessages("the archive does not validate"))?;
        let mut bytes = stored.bytes.as_slice();
        let messages: Result<Vec<PeerMessage>, BadMessages> =
            stored.messages.iter().map(|message| load_message(message, &mut bytes)).collect();
        let messages = messages?;
        if !bytes.is_empty() {
            return Err(BadMessages("the lengths do not add up to the bytes"));
        }
        Ok(Self { from: StoreId(stored.from.to_native()), to: StoreId(stored.to.to_native()), messages })
    }
}

/// About how many bytes a message takes in a frame.
pub fn message_bytes(message: &PeerMessage) -> usize {
    const FIXED_BYTES: usize = 160;
    let range = message.range.as_ref().map_or(0, |range| range.start().len() + range.end().len());
    let body = match &message.raft.body {
        Body::Append { entries, .. } => entries.iter().map(|entry| entry.bytes() as usize).sum(),
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
    };
    FIXED_BYTES + range + body
}

fn members(membership: &Membership) -> usize {
    let Membership { voters, learners, joint } = membership;
    let joint = joint.as_ref().map_or(0, |joint| joint.outgoing.len() + joint.learners_next.len());
    voters.len() + learners.len() + joint
}

fn store_message(message: &PeerMessage, bytes: &mut Vec<u8>) -> StoredMessage {
    let PeerMessage { epoch, range, raft: Message { group, from, to, term, body } } = message;
    StoredMessage {
        region: group.0,
        conf_ver: epoch.conf_ver,
        version: epoch.version,
        range: range
            .as_ref()
            .map(|range| (range.start().as_bytes().to_vec(), range.end().as_bytes().to_vec())),
        from: from.0,
        to: to.0,
        term: term.0,
        body: store_body(body, bytes),
    }
}

fn store_body(body: &Body, bytes: &mut Vec<u8>) -> StoredBody {
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

fn load_message(stored: &ArchivedStoredMessage, bytes: &mut &[u8]) -> Result<PeerMessage, BadMessages> {
    let range = match stored.range.as_ref() {
        None => None,
        Some(range) => {
            let range = KeyRange::new(range.0.as_slice(), range.1.as_slice());
            Some(range.map_err(|_| BadMessages("a range is inverted"))?)
        }
    };
    let raft = Message {
        group: GroupId(stored.region.to_native()),
        from: NodeId(stored.from.to_native()),
        to: NodeId(stored.to.to_native()),
        term: Term(stored.term.to_native()),
        body: load_body(&stored.body, bytes)?,
    };
    let epoch = Epoch::new(stored.conf_ver.to_native(), stored.version.to_native());
    Ok(PeerMessage { epoch, range, raft })
}

fn load_body(stored: &ArchivedStoredBody, bytes: &mut &[u8]) -> Result<Body, BadMessages> {
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

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
