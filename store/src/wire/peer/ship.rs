//! Carries a snapshot to another store: a bulk connection, and a new one where that breaks.
//!
//! One piece is in flight: the next one is made when the receiver has the one before, on its disk. What the receiver does not take in
//! fills the socket and nothing else, so a shipment costs the memory of one chunk.
//!
//! | a connection ends with | next |
//! |---|---|
//! | `Installed` | done |
//! | a refusal, a snapshot of no use any more, a file that cannot be read | failed |
//! | anything else, after a piece arrived | another connection, from the first piece that is missing |
//! | anything else, [`ATTEMPTS_MAX`] times without a piece | failed |

use std::time::Duration;

use engine::rt::Stream;

use super::bulk::{CHUNK_BYTES, decode_count, encode_chunk, encode_count, encode_offer, encode_piece};
use super::frame::{self, Decoder, FrameKind};
use super::link::{LinkError, PeerLinks};
use super::open::{HELLO_BYTES_MAX, Purpose, open, read_frame};
use crate::shard::shipping::{Failed, Shipment};

/// Attempts that bring no piece across before the shipment is given up.
const ATTEMPTS_MAX: u32 = 5;
/// The pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// How long connecting and the introduction may take, together.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long the receiver may take nothing in, or let its answer to a piece wait.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long it may take to verify and install all of it.
const INSTALL_MAX: Duration = Duration::from_secs(300);

/// How a connection ended without the snapshot being installed.
enum Ended {
    /// Another connection may do better.
    Broken(LinkError),
    /// Nothing will.
    Failed(Failed),
}

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(reason) => Self::Failed(Failed::Refused(reason)),
            LinkError::NoAddress
            | LinkError::Io(_)
            | LinkError::Timeout
            | LinkError::Closed
            | LinkError::BadFrame(_)
            | LinkError::Unexpected(_)
            | LinkError::BadRequests(_)
            | LinkError::Rejected(_)
            | LinkError::Unwanted(_) => Self::Broken(error),
        }
    }
}

impl From<Failed> for Ended {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

/// Carries a snapshot until it is installed.
///
/// # Errors
/// Why it is not.
pub(super) async fn carry(links: &PeerLinks, shipment: &mut Shipment) -> Result<(), Failed> {
    let (mut attempts, mut arrived) = (0, 0);
    loop {
        let before = arrived;
        let error = match converse(links, shipment, &mut arrived).await {
            Ok(()) => return Ok(()),
            Err(Ended::Failed(failed)) => return Err(failed),
            Err(Ended::Broken(error)) => error,
        };
        attempts = if arrived > before { 1 } else { attempts + 1 };
        links.book().failed(shipment.to());
        if attempts >= ATTEMPTS_MAX {
            return Err(Failed::Broken(error.to_string()));
        }
        links.rt().sleep(PAUSE * (1 << attempts)).await;
        shipment.check()?;
    }
}

/// One connection. `arrived` is how many pieces the receiver has.
async fn converse(links: &PeerLinks, shipment: &mut Shipment, arrived: &mut u64) -> Result<(), Ended> {
    let (rt, to) = (links.rt(), shipment.to());
    let stream = open(rt, (Purpose::Snapshot, CONNECT_MAX), &links.speaker(), links.book(), to).await?;
    let mut talk = Talk { links, stream, decoder: Decoder::new(HELLO_BYTES_MAX) };
    talk.send(FrameKind::Offer, |out| encode_offer(shipment.offer(), out)).await?;
    let Some(mut have) = talk.answer(ANSWER_MAX).await? else { return Ok(()) };
    loop {
        *arrived = have.max(*arrived);
        let Some(piece) = shipment.piece(have).await? else { break };
        talk.send(FrameKind::Piece, |out| encode_piece(have, &piece, out)).await?;
        let mut position = 0;
        while position < piece.file_bytes {
            let bytes = (piece.file_bytes - position).min(CHUNK_BYTES as u64);
            let chunk = shipment.read(position, bytes as usize).await?;
            talk.send(FrameKind::Chunk, |out| encode_chunk(position, &chunk, out)).await?;
            position += bytes;
        }
        match talk.answer(ANSWER_MAX).await? {
            Some(now) if now == have + 1 => have = now,
            Some(_) | None => return Err(Failed::OutOfStep.into()),
        }
    }
    talk.send(FrameKind::Whole, |out| encode_count(have, out)).await?;
    match talk.answer(INSTALL_MAX).await? {
        None => Ok(()),
        Some(_) => Err(Failed::OutOfStep.into()),
    }
}

/// A connection after its introduction.
struct Talk<'a> {
    links: &'a PeerLinks,
    stream: Stream,
    decoder: Decoder,
}

impl Talk<'_> {
    async fn send(
        &mut self,
        kind: FrameKind,
        fill: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        frame::push(&mut bytes, kind, fill);
        let written = self.links.rt().timeout(ANSWER_MAX, self.stream.write_all(&bytes)).await;
        written.ok_or(LinkError::Timeout)??;
        self.links.counters().bytes_sent.add(bytes.len() as u64);
        Ok(())
    }

    /// How many pieces the receiver has; nothing if it has installed them.
    async fn answer(&mut self, time_max: Duration) -> Result<Option<u64>, LinkError> {
        let read = self.links.rt().timeout(time_max, read_frame(&mut self.stream, &mut self.decoder)).await;
        let (kind, payload) = read.unwrap_or(Err(LinkError::Timeout))?;
        match kind {
            FrameKind::Have => decode_count(&payload).map(Some).map_err(|_| LinkError::Closed),
            FrameKind::Installed => Ok(None),
            FrameKind::Refused => Err(LinkError::Refused(String::from_utf8_lossy(&payload).into_owned())),
            FrameKind::Hello
            | FrameKind::Welcome
            | FrameKind::Messages
            | FrameKind::Requests
            | FrameKind::Answers
            | FrameKind::Challenge
            | FrameKind::Proof
            | FrameKind::Offer
            | FrameKind::Piece
            | FrameKind::Chunk
            | FrameKind::Whole => Err(LinkError::Closed),
        }
    }
}
