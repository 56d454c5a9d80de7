//! What replicas of one region on different stores say to each other, and what a store does with a message that arrives.
//!
//! Raft's own messages travel in an envelope that says which incarnation of the region the sender knows. [`admit`] judges the
//! envelope against what the store has, before anything looks inside:
//!
//! | here | the message is for | from a leader, with a range | verdict |
//! |---|---|---|---|
//! | a replica | its peer id, from a member or of no older epoch | | step |
//! | a replica | its peer id, from a stranger of an older epoch | | the sender is removed: notify it |
//! | a replica without a descriptor | its peer id, a snapshot whose range is taken | | drop: the sender tries again |
//! | a replica | an older peer id | | stale: drop |
//! | a replica | a newer peer id | | the replica is removed: destroy it, then judge again |
//! | a replica | whichever peer, from a stranger of no newer epoch that asks for a word | | the sender is removed: notify it |
//! | a tombstone of a region that was taken in | its peer id or an older one, from a stranger of no newer epoch | | the sender is removed: notify it |
//! | a tombstone of a region that was taken in | its peer id or an older one | | the sender hears by whom it was taken in |
//! | a tombstone | its peer id or an older one, or a conf_ver no newer | | drop |
//! | nothing, or a tombstone of an older peer | | yes, the range is free | create a replica that waits for a snapshot |
//! | nothing, or a tombstone of an older peer | | yes, the range is taken | drop: the sender tries again |
//! | nothing, or a tombstone of an older peer | | no | drop |

use raft::NodeId;
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, StoreId};

use super::merge::Merges;
use super::record::RegionRecord;
use super::replica::Replica;
use crate::plant::{Bug, planted};

/// A message between two replicas of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    /// The region.
    pub region: RegionId,
    /// Who sends it, and from which store.
    pub from: Peer,
    /// Whom it is for, and on which store.
    pub to: Peer,
    /// The region's epoch as the sender knows it.
    pub epoch: Epoch,
    /// The region's range, where the addressee may have to be created.
    pub range: Option<KeyRange>,
    /// What it says.
    pub body: Body,
}

/// The content of a [`PeerMessage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// For the consensus core.
    Raft(Box<raft::Message>),
    /// "You are no member any more": the answer to a peer that was removed and has not heard of it.
    Removed,
    /// "Your region is no more": the answer to a peer whose region has been taken in by another.
    Merged {
        /// By whom.
        into: RegionId,
    },
}

/// What a [`PeerMessage`] is about, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Entries, or a probe.
    Append,
    /// What became of them.
    AppendReply,
    /// A leader's sign of life.
    Heartbeat,
    /// Its answer.
    HeartbeatReply,
    /// A vote is asked for, or whether there would be one.
    Vote,
    /// Its answer.
    VoteReply,
    /// A snapshot is announced.
    Snapshot,
    /// Leadership is handed over.
    Transfer,
    /// A follower asks up to where it must have applied to read.
    ReadIndex,
    /// Its answer.
    ReadIndexReply,
    /// The term of the addressee is old.
    Stale,
    /// The addressee was removed.
    Removed,
    /// Its region was taken in by another.
    Merged,
}

impl MessageKind {
    /// How many there are.
    pub const COUNT: usize = Self::NAMES.len();

    /// The names, in the order of the variants.
    pub const NAMES: [&'static str; 13] = [
        "append",
        "append_reply",
        "heartbeat",
        "heartbeat_reply",
        "vote",
        "vote_reply",
        "snapshot",
        "transfer",
        "read_index",
        "read_index_reply",
        "stale",
        "removed",
        "merged",
    ];

    /// The place in [`MessageKind::NAMES`].
    pub const fn place(self) -> usize {
        self as usize
    }
}

/// What a store has of a region.
#[derive(Clone, Copy, Debug)]
pub enum LocalReplica<'a> {
    /// Neither a replica nor a tombstone.
    Nothing,
    /// A replica of this peer id. The descriptor is empty while it waits for its first snapshot.
    Replica(PeerId, &'a Region),
    /// What is remembered of a replica that was removed.
    Tombstone(&'a RegionRecord),
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand it to the replica.
    Step,
    /// Create a replica that waits for a snapshot, then hand it the message.
    Create,
    /// Destroy the replica here, then judge the message again.
    Destroy,
    /// Notify the sender that it was removed.
    TellRemoved,
    /// Notify the sender that its region was taken in by this one.
    TellMerged(RegionId),
    /// The replica's region was taken in by this one, as another store says.
    HearMerged(RegionId),
    /// Nothing.
    Drop(Stray),
}

/// Why a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// It is for a peer that lived here before.
    OldPeer,
    /// It is for a peer whose tombstone is here.
    Tombstone,
    /// Nothing is here, and this is no message by which a replica comes into being.
    Absent,
    /// Nothing is here, and the range belongs to another region still.
    RangeTaken,
}

/// Judges a message by its envelope. `range_taken` says whether another region of the store covers part of a range.
pub fn admit(
    here: LocalReplica<'_>,
    message: &PeerMessage,
    range_taken: impl FnOnce(&KeyRange) -> bool,
) -> Verdict {
    let to = message.to.id;
    match here {
        LocalReplica::Replica(_, region) if asks_in_vain(region, message) => Verdict::TellRemoved,
        LocalReplica::Replica(me, _) if to < me => Verdict::Drop(Stray::OldPeer),
        LocalReplica::Replica(me, _) if to > me => Verdict::Destroy,
        LocalReplica::Replica(_, region) => {
            if let Body::Merged { into } = message.body {
                return Verdict::HearMerged(into);
            }
            let known = region.peers.is_empty() || region.peer(message.from.id).is_some();
            let is_removed = matches!(message.body, Body::Removed);
            if !known && !is_removed && message.epoch.is_stale_against(region.epoch) {
                return Verdict::TellRemoved;
            }
            if is_removed && (region.peers.is_empty() || message.epoch.conf_ver > region.epoch.conf_ver) {
                return Verdict::Destroy;
            }
            if is_removed {
                return Verdict::Drop(Stray::OldPeer);
            }
            let taken = region.peers.is_empty() && message.brings_snapshot();
            match &message.range {
                Some(range) if taken && range_taken(range) => Verdict::Drop(Stray::RangeTaken),
                Some(_) | None => Verdict::Step,
            }
        }
        LocalReplica::Tombstone(RegionRecord {
            region,
            me,
            tombstone: _,
            merges: Merges { waits: _, taken: _, into: Some(into) },
        }) if to <= *me && matches!(message.body, Body::Raft(_)) => {
            match was_removed(region, message) && !planted(Bug::RemovedWaitsForMerge) {
                true => Verdict::TellRemoved,
                false => Verdict::TellMerged(*into),
            }
        }
        LocalReplica::Tombstone(record)
            if to <= record.me || message.epoch.conf_ver < record.region.epoch.conf_ver =>
        {
            Verdict::Drop(Stray::Tombstone)
        }
        LocalReplica::Tombstone(_) | LocalReplica::Nothing => match (&message.range, &message.body) {
            (Some(range), Body::Raft(inner)) if inner.body.is_from_leader() => {
                if range_taken(range) {
                    Verdict::Drop(Stray::RangeTaken)
                } else {
                    Verdict::Create
                }
            }
            (Some(_) | None, Body::Raft(_) | Body::Removed | Body::Merged { into: _ }) => {
                Verdict::Drop(Stray::Absent)
            }
        },
    }
}

/// Whether the sender asks for a word, and was removed as far as this region tells.
fn asks_in_vain(region: &Region, message: &PeerMessage) -> bool {
    message.asks_for_word() && was_removed(region, message)
}

/// Whether the sender was removed: the region does not name it, and is no older than the epoch of its message, which had it.
fn was_removed(region: &Region, message: &PeerMessage) -> bool {
    !region.peers.is_empty()
        && region.peer(message.from.id).is_none()
        && !region.epoch.is_stale_against(message.epoch)
}

impl PeerMessage {
    /// What it is about.
    pub fn kind(&self) -> MessageKind {
        match &self.body {
            Body::Removed => MessageKind::Removed,
            Body::Merged { into: _ } => MessageKind::Merged,
            Body::Raft(inner) => match &inner.body {
                raft::Body::Append { .. } => MessageKind::Append,
                raft::Body::AppendReply(_) => MessageKind::AppendReply,
                raft::Body::Heartbeat(_) => MessageKind::Heartbeat,
                raft::Body::HeartbeatReply { .. } => MessageKind::HeartbeatReply,
                raft::Body::PreVote(_) | raft::Body::Vote(_) => MessageKind::Vote,
                raft::Body::PreVoteReply(_) | raft::Body::VoteReply(_) => MessageKind::VoteReply,
                raft::Body::Snapshot(_) => MessageKind::Snapshot,
                raft::Body::TransferRequest { .. } | raft::Body::TimeoutNow { .. } => MessageKind::Transfer,
                raft::Body::ReadIndex { .. } => MessageKind::ReadIndex,
                raft::Body::ReadIndexReply { .. } => MessageKind::ReadIndexReply,
                raft::Body::Stale => MessageKind::Stale,
            },
        }
    }

    /// Whether it announces a snapshot.
    pub fn brings_snapshot(&self) -> bool {
        matches!(&self.body, Body::Raft(inner) if matches!(inner.body, raft::Body::Snapshot(_)))
    }
}

impl<W, R> Replica<W, R> {
    /// The answer to a sender that was removed and has not heard of it ([`Verdict::TellRemoved`]).
    pub fn tell_removed(&self, message: &PeerMessage) -> PeerMessage {
        let PeerMessage { region, from, to: _, epoch: _, range: _, body: _ } = message;
        let (to, epoch, body) = (*from, self.region().epoch, Body::Removed);
        PeerMessage { region: *region, from: self.sender(), to, epoch, range: None, body }
    }

    /// The same from the tombstone of a region that was taken in.
    pub fn tell_removed_before(message: &PeerMessage, record: &RegionRecord) -> PeerMessage {
        let PeerMessage { region, from, to, epoch: _, range: _, body: _ } = message;
        let me = record.region.peer(record.me).copied().unwrap_or(*to);
        let (epoch, body) = (record.region.epoch, Body::Removed);
        PeerMessage { region: *region, from: me, to: *from, epoch, range: None, body }
    }

    /// The answer to a sender whose region was taken in by `into` ([`Verdict::TellMerged`]), from the tombstone here.
    pub fn tell_merged(message: &PeerMessage, record: &RegionRecord, into: RegionId) -> PeerMessage {
        let PeerMessage { region, from, to, epoch: _, range: _, body: _ } = message;
        let (epoch, body) = (record.region.epoch, Body::Merged { into });
        PeerMessage { region: *region, from: *to, to: *from, epoch, range: None, body }
    }

    /// A sole voter owes no other leader the word that it may have given before the start: the last leader was itself, because none
    /// removes itself.
    pub fn forget_promise_alone(&mut self) {
        if self.is_sole_voter() {
            self.raft.forget_promise();
        }
    }

    /// Another store was not reached, so what is on its way to the peer there counts as lost.
    pub fn report_unreachable(&mut self, store: StoreId) {
        if let Some(peer) = self.region().peer_on(store).map(|peer| peer.id) {
            self.raft.report_unreachable(NodeId(peer.0));
            self.debug_check();
        }
    }
}
