//! How a connection between two stores is opened: what it is for, where the other store is, and the introduction of both.
//!
//! Every connection begins alike, whatever it carries. The connecting side sends the preface of its [`Purpose`] and a
//! [`Hello`]; the accepting side answers with its own or says why not ([`super::inbound`]). Where a secret of the cluster is set, both prove
//! it to each other between the preface and the introduction ([`authenticate`]). An address may be a name, which is resolved at every
//! attempt, so a store that moves behind its name is found again.
//!
//! Invariant: nothing is sent after the introduction before both sides have passed [`hello::judge`].

use std::io;
use std::time::Duration;

use engine::rt::{Rt, Stream};
use scheduler::StoreId;

use super::authenticate;
use super::book::AddressBook;
use super::frame::{self, Decoder, FrameKind};
use super::hello::{self, Hello, Rejection};
use super::link::LinkError;
use crate::region::lineage::{Lineage, Opening};
use crate::secret::ClusterSecret;

/// An introduction is at most this long, bytes.
pub(in crate::wire) const HELLO_BYTES_MAX: usize = 4096;
/// Length of a preface, bytes.
pub const PREFACE_BYTES: usize = 8;

/// What a connection is for. It has a preface of its own, so that values of clients and files of snapshots never stand before a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Raft messages.
    Messages,
    /// Requests of clients and their answers.
    Requests,
    /// One snapshot.
    Snapshot,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Messages, Self::Requests, Self::Snapshot];

    /// What the connection begins with. The last byte is the generation of the framing, not of the protocol (see [`hello`]).
    pub const fn preface(self) -> &'static [u8; PREFACE_BYTES] {
        match self {
            Self::Messages => b"RKPEER\0\x01",
            Self::Requests => b"RKREQS\0\x01",
            Self::Snapshot => b"RKBULK\0\x01",
        }
    }

    /// What a stream that begins with `first` is for: nothing if it is of another protocol, and [`Begins::Unknown`] while more bytes are
    /// needed to decide.
    pub fn of(first: &[u8]) -> Begins {
        let common = first.len().min(PREFACE_BYTES);
        let fits = |purpose: &Self| purpose.preface()[..common] == first[..common];
        match Self::ALL.into_iter().find(fits) {
            Some(purpose) if common == PREFACE_BYTES => Begins::With(purpose),
            Some(_) => Begins::Unknown,
            None => Begins::Otherwise,
        }
    }
}

/// How a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// With the preface of this purpose.
    With(Purpose),
    /// As one of another protocol.
    Otherwise,
    /// With too few bytes to decide.
    Unknown,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// What it proves that it is of the cluster with, and wants proved; nothing where none is set.
    pub secret: Option<ClusterSecret>,
    /// The cluster.
    pub cluster: u64,
    /// The store.
    pub store: StoreId,
    /// How often its log has been opened.
    pub incarnation: u64,
    /// The latest of those openings; none where the connection is for nothing but the introduction.
    pub lineage: Lineage,
}

impl Speaker {
    /// The introduction to `target`.
    pub fn hello(&self, target: StoreId) -> Hello {
        Hello {
            cluster: self.cluster,
            store: self.store,
            target,
            incarnation: self.incarnation,
            lineage: self.lineage,
            version: hello::VERSION,
            version_min: hello::VERSION_MIN,
            features: 0,
        }
    }
}

/// Connects to `to`, where the book says that it is, within `time_max`.
///
/// # Errors
/// Why there is no connection; the address is then asked for again.
pub(super) async fn open(
    rt: &Rt,
    (purpose, time_max): (Purpose, Duration),
    speaker: &Speaker,
    book: &AddressBook,
    to: StoreId,
) -> Result<Stream, LinkError> {
    let addr = book.find(to).ok_or(LinkError::NoAddress)?;
    rt.timeout(time_max, introduce(rt, purpose, speaker, &addr, to)).await.unwrap_or(Err(LinkError::Timeout))
}

/// Connects to `HOST:PORT`, where `to` should be, and introduces both sides to each other.
///
/// # Errors
/// Why there is no connection: it is not reached, is not the store that was meant, or refuses.
pub async fn introduce(
    rt: &Rt,
    purpose: Purpose,
    speaker: &Speaker,
    address: &str,
    to: StoreId,
) -> Result<Stream, LinkError> {
    meet(rt, purpose, speaker, address, to).await.map(|(stream, _)| stream)
}

/// The same, with what the other side says of itself.
///
/// # Errors
/// As above.
pub(in crate::wire) async fn meet(
    rt: &Rt,
    purpose: Purpose,
    speaker: &Speaker,
    address: &str,
    to: StoreId,
) -> Result<(Stream, Hello), LinkError> {
    let mut stream = connect(rt, address).await?;
    let mut decoder = Decoder::new(HELLO_BYTES_MAX);
    let mut bytes = Vec::new();
    match &speaker.secret {
        Some(secret) => {
            let meant = (secret, *purpose.preface(), to.0);
            authenticate::prove(rt, &mut stream, &mut decoder, meant).await?;
        }
        None => bytes.extend_from_slice(purpose.preface()),
    }
    let ours = speaker.hello(to);
    frame::push(&mut bytes, FrameKind::Hello, |out| ours.encode(out));
    stream.write_all(&bytes).await?;
    let (kind, payload) = read_frame(&mut stream, &mut decoder).await?;
    match kind {
        FrameKind::Welcome => {
            let theirs = Hello::decode(&payload)?;
            if theirs.store != to {
                return Err(Rejection::OtherStore { meant: to, here: theirs.store }.into());
            }
            hello::judge(&ours, &theirs, Opening::default())?;
            Ok((stream, theirs))
        }
        FrameKind::Refused => Err(LinkError::Refused(String::from_utf8_lossy(&payload).into_owned())),
        FrameKind::Hello
        | FrameKind::Messages
        | FrameKind::Requests
        | FrameKind::Answers
        | FrameKind::Challenge
        | FrameKind::Proof
        | FrameKind::Offer
        | FrameKind::Have
        | FrameKind::Piece
        | FrameKind::Chunk
        | FrameKind::Whole
        | FrameKind::Installed => Err(LinkError::Unexpected(kind)),
    }
}

/// Connects to the first of the addresses of a name that takes connections.
async fn connect(rt: &Rt, address: &str) -> io::Result<Stream> {
    let mut failed = io::ErrorKind::NotFound.into();
    for addr in rt.resolve(address).await? {
        match rt.connect(addr).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Reads one frame.
pub(in crate::wire) async fn read_frame(
    stream: &mut Stream,
    decoder: &mut Decoder,
) -> Result<(FrameKind, Vec<u8>), LinkError> {
    let mut buffer = [0; 1024];
    loop {
        if let Some(frame) = decoder.next_frame()? {
            return Ok((frame.kind, frame.payload.to_vec()));
        }
        match stream.read(&mut buffer).await? {
            0 => return Err(LinkError::Closed),
            n => decoder.feed(&buffer[..n]),
        }
    }
}
