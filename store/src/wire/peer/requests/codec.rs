//! Requests that a node sends on to the store that leads their region, and the answers, as payloads of frames.
//!
//! ```text
//! payload  [format u16] [rkyv archive of StoredRequests or StoredAnswers, unaligned little-endian]
//! bytes    keys and values, one after the other, in the order in which the items name their lengths
//! ```
//! Everything that gathered for one store travels as one frame. The archive is validated once, here; lengths that do not add up to
//! the bytes are refused. The order of variants and fields is the format.
//!
//! Variants are added at the end and no larger than those before, or all places would change. Format 2 has requests about expiry among it, or answers to them, and is said only then: a version that does not know them refuses a
//! frame by its format, and takes all others.
//!
//! What a refusal says about regions is left out: whoever sends requests on has a map of its own and asks for a newer one.

use std::fmt;

use bytes::Bytes;
use engine::rt::Budget;
use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};

use super::load::Cut;
use super::store::Blob;
use crate::request::{Atomic, Change, Op, Outcome, Route, Scan, When};
use crate::wire::peer::frame::FRAME_BYTES_MAX;

const FORMAT: u16 = 1;
const FORMAT_EXPIRY: u16 = 2;

/// A request on its way to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedRequest {
    /// The asking side's number for it.
    pub id: u64,
    /// The region and the peer that it is meant for.
    pub route: Route,
    /// What to do.
    pub op: Op,
}

/// The answer to a [`ForwardedRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedReply {
    /// The asking side's number for the request.
    pub id: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// The payload is neither requests nor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRequests(pub &'static str);

impl fmt::Display for BadRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not requests or answers of a peer: {}", self.0)
    }
}

impl std::error::Error for BadRequests {}

#[derive(Archive, Serialize, Deserialize)]
struct StoredRequests {
    requests: Vec<StoredRequest>,
    bytes: Vec<u8>,
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredRequest {
    id: u64,
    region: u64,
    conf_ver: u64,
    version: u64,
    peer: u64,
    store: u64,
    term: u64,
    op: StoredOp,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) enum StoredOp {
    Step(StoredStep),
    DeleteRange { start: u32, end: u32 },
    Scan { start: u32, end: u32, limit: u64, reverse: bool, key_only: bool, held_bytes: u64, at_once: bool },
    Atomic { watched: Vec<(u32, u64, u64)>, steps: Vec<StoredStep> },
}

/// An operation that may be a step of a transaction.
#[derive(Archive, Serialize, Deserialize)]
pub(super) enum StoredStep {
    Get { key: u32 },
    BatchGet { keys: Vec<u32>, at_once: bool },
    Lengths { keys: Vec<u32> },
    Put { key: u32, value: u32 },
    BatchPut { pairs: Vec<(u32, u32)> },
    Delete { key: u32, count: bool },
    BatchDelete { keys: Vec<u32> },
    Watch { keys: Vec<u32> },
    Set { key: u32, value: u32, when: StoredWhen },
    Take { key: u32 },
    Remove { key: u32 },
    Append { key: u32, suffix: u32 },
    Add { key: u32, delta: i64 },
    PutAbsent { pairs: Vec<(u32, u32)> },
    Copy { from: u32, to: u32, remove: bool, replace: bool },
    SetRange { key: u32, offset: u32, value: u32 },
    SetBit { key: u32, offset: u32, on: bool },
    AddFloat { key: u32, delta: u32 },
    Expiry { key: u32 },
    // An expiry lies among the bytes, before the value: a larger step would change the places of all others.
    PutTimed { puts: Vec<(u32, u32)> },
    SetTimed { key: u32, value: u32, when: StoredWhen },
    Expire { key: u32, expiry: u32, when: u8 },
    GetTimed { key: u32, expiry: u32 },
}

/// An expiry among the bytes: its kind, and its milliseconds as u64, little-endian.
pub(super) const EXPIRY_BYTES: usize = 1 + 8;

#[derive(Archive, Serialize, Deserialize)]
pub(super) enum StoredWhen {
    Always,
    Absent,
    Present,
    EqualsAbsent,
    Equals(u32),
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredAnswers {
    answers: Vec<(u64, StoredOutcome)>,
    bytes: Vec<u8>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) enum StoredOutcome {
    Out(StoredOut),
    Refused(StoredRefusal),
    Atomic(Option<Vec<StoredStepOutcome>>),
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) enum StoredStepOutcome {
    Out(StoredOut),
    Refused(StoredRefusal),
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) enum StoredOut {
    Done,
    Value(Option<u32>),
    Values(Vec<Option<u32>>),
    Lengths(Vec<Option<u64>>),
    Existed(bool),
    Swapped {
        swapped: bool,
        previous: Option<u32>,
    },
    Length(u64),
    Integer(i64),
    Pairs(Vec<(u32, u32)>),
    NoRoom,
    Seen(Vec<(u64, u64)>),
    /// Nothing, an expiry that is never, or one and how many milliseconds are left.
    Expiry(u32),
}

/// The reason of a refusal for want of space, which does not travel: its numbers are known where it was made.
pub(super) const NO_SPACE_THERE: &str =
    "there is not enough space on its disk: free space there or enlarge it";

#[derive(Archive, Serialize, Deserialize)]
pub(super) enum StoredRefusal {
    NotLeader {
        region: u64,
        leader: Option<(u64, u64, u8)>,
    },
    RegionNotFound {
        region: u64,
    },
    /// The range or the epoch; the region itself is left out.
    Moved,
    StoreNotMatch {
        asked: u64,
        actual: u64,
    },
    PeerNotMatch {
        asked: u64,
        actual: u64,
    },
    StaleCommand,
    Busy {
        backoff_ms: u64,
    },
    DiskFull {
        stores: Vec<u64>,
    },
    SpansRegions {
        one: u32,
        other: u32,
    },
    TooLarge {
        region: u64,
        bytes: u64,
        bytes_max: u64,
    },
    Damaged {
        file: u32,
        what: u32,
    },
    Invalid(u32),
    AnswerTooLarge {
        bytes_max: u64,
    },
    NotAnInteger,
    Overflow,
    Stopped(u32),
    Unknown,
}

/// Appends requests to a frame.
pub fn encode_requests(requests: &[ForwardedRequest], out: Vec<u8>) -> Vec<u8> {
    let mut bytes = Blob::default();
    let requests = requests
        .iter()
        .map(|ForwardedRequest { id, route, op }| {
            // What goes to another node goes to the leader.
            let Route { region_id, conf_ver, version, peer_id, store_id, term, replica_read: _ } = *route;
            StoredRequest {
                id: *id,
                region: region_id,
                conf_ver,
                version,
                peer: peer_id,
                store: store_id,
                term,
                op: bytes.op(op),
            }
        })
        .collect();
    archive(&StoredRequests { requests, bytes: bytes.bytes }, bytes.expires, out)
}

/// The inverse of [`encode_requests`].
///
/// # Errors
/// [`BadRequests`] for anything else.
pub fn decode_requests(payload: &[u8]) -> Result<Vec<ForwardedRequest>, BadRequests> {
    requests(payload)?.all()
}

/// The same, and lets others of the core run between two requests.
///
/// # Errors
/// As [`decode_requests`].
pub async fn decode_requests_in_pieces(
    payload: &[u8],
    budget: &Budget,
) -> Result<Vec<ForwardedRequest>, BadRequests> {
    requests(payload)?.in_pieces(budget).await
}

fn requests(payload: &[u8]) -> Result<Loading<'_, ArchivedStoredRequest, ForwardedRequest>, BadRequests> {
    let stored = rkyv::access::<ArchivedStoredRequests, rancor::Failure>(archive_of(payload)?)
        .map_err(|_| BadRequests("the archive does not validate"))?;
    if payload.len() - stored.bytes.len() > INDEX_BYTES_MAX {
        return Err(BadRequests("it holds more keys and values than requests do"));
    }
    Ok(Loading::new(stored.requests.as_slice(), stored.bytes.as_slice(), |bytes, stored| {
        Ok(ForwardedRequest {
            id: stored.id.to_native(),
            route: Route {
                region_id: stored.region.to_native(),
                conf_ver: stored.conf_ver.to_native(),
                version: stored.version.to_native(),
                peer_id: stored.peer.to_native(),
                store_id: stored.store.to_native(),
                term: stored.term.to_native(),
                replica_read: false,
            },
            op: bytes.op(&stored.op)?,
        })
    }))
}

/// The items of a payload, one after the other.
struct Loading<'a, S, T> {
    stored: std::slice::Iter<'a, S>,
    bytes: Cut<'a>,
    load: fn(&mut Cut<'a>, &S) -> Result<T, BadRequests>,
    loaded: Vec<T>,
}

impl<'a, S, T> Loading<'a, S, T> {
    fn new(stored: &'a [S], bytes: &'a [u8], load: fn(&mut Cut<'a>, &S) -> Result<T, BadRequests>) -> Self {
        Self { stored: stored.iter(), bytes: Cut(bytes), load, loaded: Vec::with_capacity(stored.len()) }
    }

    /// Loads one more item; `false` if that was all.
    fn next(&mut self) -> Result<bool, BadRequests> {
        let Some(stored) = self.stored.next() else { return self.bytes.end().map(|()| false) };
        self.loaded.push((self.load)(&mut self.bytes, stored)?);
        Ok(true)
    }

    fn all(mut self) -> Result<Vec<T>, BadRequests> {
        while self.next()? {}
        Ok(self.loaded)
    }

    async fn in_pieces(mut self, budget: &Budget) -> Result<Vec<T>, BadRequests> {
        while self.next()? {
            budget.tick().await;
        }
        Ok(self.loaded)
    }
}

/// Maximum of bytes of one request and of one answer: a frame carries it with what others have closed the frame with.
pub const ONE_BYTES_MAX: usize = FRAME_BYTES_MAX - (16 << 20);

/// Appends answers to a frame.
pub fn encode_answers(answers: &[ForwardedReply], out: Vec<u8>) -> Vec<u8> {
    let mut bytes = Blob::default();
    let answers =
        answers.iter().map(|ForwardedReply { id, outcome }| (*id, bytes.outcome(outcome))).collect();
    archive(&StoredAnswers { answers, bytes: bytes.bytes }, bytes.expires, out)
}

/// The inverse of [`encode_answers`].
///
/// # Errors
/// [`BadRequests`] for anything else.
pub fn decode_answers(payload: &[u8]) -> Result<Vec<ForwardedReply>, BadRequests> {
    answers(payload)?.all()
}

/// The same, and lets others of the core run between two answers.
///
/// # Errors
/// As [`decode_answers`].
pub async fn decode_answers_in_pieces(
    payload: &[u8],
    budget: &Budget,
) -> Result<Vec<ForwardedReply>, BadRequests> {
    answers(payload)?.in_pieces(budget).await
}

type ArchivedAnswer = rkyv::Archived<(u64, StoredOutcome)>;

fn answers(payload: &[u8]) -> Result<Loading<'_, ArchivedAnswer, ForwardedReply>, BadRequests> {
    let stored = rkyv::access::<ArchivedStoredAnswers, rancor::Failure>(archive_of(payload)?)
        .map_err(|_| BadRequests("the archive does not validate"))?;
    Ok(Loading::new(stored.answers.as_slice(), stored.bytes.as_slice(), |bytes, answer| {
        Ok(ForwardedReply { id: answer.0.to_native(), outcome: bytes.outcome(&answer.1)? })
    }))
}

/// What a frame of requests has beside keys and values, at most, bytes: lengths of four bytes, which take up to a dozen times that once
/// they are keys. The longest command of a client has a million of them.
const INDEX_BYTES_MAX: usize = (4 << 20) + (64 << 10);

/// About how many bytes a request takes in a frame.
pub fn request_bytes(op: &Op) -> usize {
    const FIXED_BYTES: usize = 96;
    const PER_ITEM_BYTES: usize = 16;
    let keys = |keys: &[Bytes]| keys.iter().map(|key| key.len() + PER_ITEM_BYTES).sum::<usize>();
    FIXED_BYTES
        + match op {
            Op::Get { key } | Op::Expiry { key } | Op::Delete { key, count: _ } => key.len(),
            Op::PutTimed { puts } => {
                puts.iter().map(|(key, value, _)| key.len() + value.len() + 2 * PER_ITEM_BYTES).sum()
            }
            Op::BatchGet { keys: named, at_once: _ }
            | Op::Lengths { keys: named, ahead: _ }
            | Op::BatchDelete { keys: named }
            | Op::Watch { keys: named } => keys(named),
            Op::Put { key, value } => key.len() + value.len(),
            Op::Copy { from, to, remove: _, replace: _ } => from.len() + to.len(),
            Op::BatchPut { pairs } | Op::PutAbsent { pairs } => {
                pairs.iter().map(|(key, value)| key.len() + value.len() + PER_ITEM_BYTES).sum()
            }
            Op::DeleteRange { start, end } => start.len() + end.len(),
            Op::Scan(Scan { start, end, .. }) => start.len() + end.len(),
            Op::Atomic(Atomic { watched, steps }) => {
                let watched: usize = watched.iter().map(|(key, _)| key.len() + PER_ITEM_BYTES).sum();
                watched + steps.iter().map(request_bytes).sum::<usize>()
            }
            Op::Modify { key, change } => {
                key.len()
                    + match change {
                        Change::SetIf { value, when } | Change::SetTimed { value, when, expiry: _ } => {
                            value.len()
                                + match when {
                                    When::Equals(Some(expected)) => expected.len(),
                                    When::Always | When::Absent | When::Present | When::Equals(None) => 0,
                                }
                        }
                        Change::Append { suffix: part } | Change::SetRange { offset: _, value: part } => {
                            part.len()
                        }
                        Change::AddFloat { delta } => delta.len(),
                        Change::Take | Change::Remove | Change::Add { delta: _ } | Change::SetBit { .. } => 0,
                        Change::Expire { .. } | Change::GetTimed { .. } => 0,
                    }
            }
        }
}

fn archive<T>(stored: &T, expires: bool, mut out: Vec<u8>) -> Vec<u8>
where
    T: for<'a> Serialize<
        rkyv::api::high::HighSerializer<Vec<u8>, rkyv::ser::allocator::ArenaHandle<'a>, rancor::Error>,
    >,
{
    let format = if expires { FORMAT_EXPIRY } else { FORMAT };
    out.extend_from_slice(&format.to_le_bytes());
    rkyv::api::high::to_bytes_in::<_, rancor::Error>(stored, out)
        .expect("writing an archive into memory has no way to fail")
}

fn archive_of(payload: &[u8]) -> Result<&[u8], BadRequests> {
    let (format, archive) = payload.split_first_chunk::<2>().ok_or(BadRequests("it is cut short"))?;
    match u16::from_le_bytes(*format) {
        FORMAT | FORMAT_EXPIRY => Ok(archive),
        _ => Err(BadRequests("its format is unknown; is the sender of a newer version?")),
    }
}
