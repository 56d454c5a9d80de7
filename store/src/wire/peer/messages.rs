//! Messages between the replicas of two stores, as the payload of one frame.
//!
//! ```text
//! payload  [format u16] [rkyv archive of Stored, unaligned little-endian]
//! Stored   { from store u64, to store u64, messages: [StoredMessage], bytes: [u8] }
//! bytes    the payloads of entries and snapshots, one after the other, in the order of the messages
//! ```
//! The envelope is the region's own ([`PeerMessage`]). What it repeats is written once: the two stores with the batch, the group and
//! the members of a Raft message with its envelope, so that no frame can contradict itself about them. All messages that one turn
//! has for one store travel together, so that a hundred groups cost one checksum and one system call. The archive is validated
//! once, here; a message that Raft cannot have sent (a reserved id, an absurd term) is left to the Raft core, which refuses it by
//! its own rules. What Raft says is in [`body`](super::body).

use std::fmt;

use engine::rt::Budget;
use raft::{GroupId, Message, NodeId, Term};
use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};
use scheduler::{Epoch, KeyRange, Peer, PeerId, RegionId, Role, StoreId};

use super::body::{StoredBody, body_bytes, load_body, store_body};
use crate::region::message::{Body, PeerMessage};

const FORMAT: u16 = 1;

/// What one store has for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageBatch {
    /// The sender: the store of every message's `from`.
    pub from: StoreId,
    /// The receiver: the store of every message's `to`.
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
    from: StoredPeer,
    to: StoredPeer,
    content: StoredContent,
}

/// A peer on the store that the batch names.
#[derive(Archive, Serialize, Deserialize)]
struct StoredPeer {
    id: u64,
    role: u8,
}

/// The order of the variants is the format.
#[derive(Archive, Serialize, Deserialize)]
enum StoredContent {
    Raft { term: u64, body: StoredBody },
    Removed,
    Merged { into: u64 },
}

impl MessageBatch {
    /// Appends the messages to a frame.
    ///
    /// # Panics
    /// In debug builds, if a message is not from and for the stores of the batch, or contradicts its own envelope.
    pub fn encode(&self, mut out: Vec<u8>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let messages = self.messages.iter().map(|message| self.store_message(message, &mut bytes)).collect();
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
        let mut loading = Loading::begin(payload)?;
        while loading.next()? {}
        Ok(loading.batch)
    }

    /// The same, and lets others of the core run between two messages.
    ///
    /// # Errors
    /// As [`MessageBatch::decode`].
    pub async fn decode_in_pieces(payload: &[u8], budget: &Budget) -> Result<Self, BadMessages> {
        let mut loading = Loading::begin(payload)?;
        while loading.next()? {
            budget.tick().await;
        }
        Ok(loading.batch)
    }

    fn store_message(&self, message: &PeerMessage, bytes: &mut Vec<u8>) -> StoredMessage {
        let PeerMessage { region, from, to, epoch, range, body } = message;
        debug_assert_eq!((from.store, to.store), (self.from, self.to), "a message of another pair of stores");
        StoredMessage {
            region: region.0,
            conf_ver: epoch.conf_ver,
            version: epoch.version,
            range: range
                .as_ref()
                .map(|range| (range.start().as_bytes().to_vec(), range.end().as_bytes().to_vec())),
            from: store_peer(from),
            to: store_peer(to),
            content: match body {
                Body::Raft(raft) => {
                    let Message { group, from: sender, to: addressee, term, body } = &**raft;
                    debug_assert_eq!(
                        (group.0, sender.0, addressee.0),
                        (region.0, from.id.0, to.id.0),
                        "a message contradicts its envelope"
                    );
                    StoredContent::Raft { term: term.0, body: store_body(body, bytes) }
                }
                Body::Removed => StoredContent::Removed,
                Body::Merged { into } => StoredContent::Merged { into: into.0 },
            },
        }
    }
}

/// A batch, message by message.
struct Loading<'a> {
    stored: std::slice::Iter<'a, ArchivedStoredMessage>,
    /// The payload bytes of the messages to come.
    bytes: &'a [u8],
    batch: MessageBatch,
}

impl<'a> Loading<'a> {
    fn begin(payload: &'a [u8]) -> Result<Self, BadMessages> {
        let (format, archive) = payload.split_first_chunk::<2>().ok_or(BadMessages("it is cut short"))?;
        if u16::from_le_bytes(*format) != FORMAT {
            return Err(BadMessages("its format is unknown; is the sender of a newer version?"));
        }
        let stored = rkyv::access::<ArchivedStored, rancor::Failure>(archive)
            .map_err(|_| BadMessages("the archive does not validate"))?;
        let (from, to) = (StoreId(stored.from.to_native()), StoreId(stored.to.to_native()));
        let batch = MessageBatch { from, to, messages: Vec::with_capacity(stored.messages.len()) };
        Ok(Self { stored: stored.messages.iter(), bytes: stored.bytes.as_slice(), batch })
    }

    /// Loads one more message; `false` if that was all.
    fn next(&mut self) -> Result<bool, BadMessages> {
        let Some(stored) = self.stored.next() else {
            return match self.bytes.is_empty() {
                true => Ok(false),
                false => Err(BadMessages("the lengths do not add up to the bytes")),
            };
        };
        let message = load_message(stored, self.batch.from, self.batch.to, &mut self.bytes)?;
        self.batch.messages.push(message);
        Ok(true)
    }
}

/// About how many bytes a message takes in a frame.
pub fn message_bytes(message: &PeerMessage) -> usize {
    const FIXED_BYTES: usize = 160;
    let range = message.range.as_ref().map_or(0, |range| range.start().len() + range.end().len());
    let body = match &message.body {
        Body::Raft(raft) => body_bytes(&raft.body),
        Body::Removed | Body::Merged { into: _ } => 0,
    };
    FIXED_BYTES + range + body
}

fn store_peer(peer: &Peer) -> StoredPeer {
    let Peer { id, store: _, role } = peer;
    StoredPeer { id: id.0, role: role_byte(*role) }
}

/// A role in every message of this protocol.
pub(super) fn role_byte(role: Role) -> u8 {
    match role {
        Role::Voter => 0,
        Role::Learner => 1,
        Role::Incoming => 2,
        Role::Outgoing => 3,
    }
}

/// The inverse of [`role_byte`].
pub(super) fn role_of(byte: u8) -> Option<Role> {
    match byte {
        0 => Some(Role::Voter),
        1 => Some(Role::Learner),
        2 => Some(Role::Incoming),
        3 => Some(Role::Outgoing),
        4..=u8::MAX => None,
    }
}

fn load_peer(stored: &ArchivedStoredPeer, store: StoreId) -> Result<Peer, BadMessages> {
    let role = role_of(stored.role).ok_or(BadMessages("a peer has an unknown role"))?;
    Ok(Peer { id: PeerId(stored.id.to_native()), store, role })
}

fn load_message(
    stored: &ArchivedStoredMessage,
    from: StoreId,
    to: StoreId,
    bytes: &mut &[u8],
) -> Result<PeerMessage, BadMessages> {
    let range = match stored.range.as_ref() {
        None => None,
        Some(range) => {
            let range = KeyRange::new(range.0.as_slice(), range.1.as_slice());
            Some(range.map_err(|_| BadMessages("a range is inverted"))?)
        }
    };
    let region = RegionId(stored.region.to_native());
    let (from, to) = (load_peer(&stored.from, from)?, load_peer(&stored.to, to)?);
    let body = match &stored.content {
        ArchivedStoredContent::Raft { term, body } => Body::Raft(Box::new(Message {
            group: GroupId(region.0),
            from: NodeId(from.id.0),
            to: NodeId(to.id.0),
            term: Term(term.to_native()),
            body: load_body(body, bytes)?,
        })),
        ArchivedStoredContent::Removed => Body::Removed,
        ArchivedStoredContent::Merged { into } => Body::Merged { into: RegionId(into.to_native()) },
    };
    let epoch = Epoch::new(stored.conf_ver.to_native(), stored.version.to_native());
    Ok(PeerMessage { region, from, to, epoch, range, body })
}

#[cfg(test)]
#[path = "messages_tests.rs"]
pub(in crate::wire::peer) mod tests;
