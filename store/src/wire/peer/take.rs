//! Takes a snapshot in from a bulk connection: bytes to what the store receives, and its answers back.
//!
//! Nothing is read while the store writes, so what waits is one frame and what the socket holds. Whatever does not belong ends the
//! connection, with its reason where there is one to say; what is on the disk by then stays for the sender's next connection
//! ([`crate::shard::receiving`]).

use std::time::Duration;

use engine::rt::Stream;
use scheduler::StoreId;

use super::bulk::{
    BULK_FRAME_BYTES_MAX, decode_chunk, decode_count, decode_offer, decode_piece, encode_count,
};
use super::frame::{self, Decoder, FrameKind};
use super::inbound::Inbound;
use super::link::LinkError;
use super::open::Purpose;
use super::reading::Reading;
use crate::shard::Shard;
use crate::shard::receiving::{Incoming, Unwanted};

/// How long the sender may say nothing: it reads its tree meanwhile, at its own pace.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 16 << 10;

/// Serves a bulk connection whose preface has been read, until it ends. `early` is what arrived after the preface already.
///
/// # Errors
/// Why it ended before the snapshot was installed.
pub(super) async fn serve(
    inbound: &Inbound,
    shard: &Shard,
    mut stream: Stream,
    (early, proved): (&[u8], &dyn Fn()),
) -> Result<(), LinkError> {
    let begun = (Purpose::Snapshot, early, proved);
    let Some((mut decoder, from)) = inbound.welcome(&mut stream, begun).await? else {
        return Ok(());
    };
    decoder.allow(BULK_FRAME_BYTES_MAX);
    let mut talk = Talk { inbound, shard, from, stream, incoming: None, buffer: vec![0; READ_BYTES] };
    let ended = talk.run(&mut decoder).await;
    if let Err(LinkError::Unwanted(unwanted)) = &ended {
        talk.refuse(unwanted).await?;
    }
    inbound.count(ended)
}

struct Talk<'a> {
    inbound: &'a Inbound,
    shard: &'a Shard,
    from: StoreId,
    stream: Stream,
    incoming: Option<Incoming>,
    buffer: Vec<u8>,
}

impl Talk<'_> {
    async fn run(&mut self, decoder: &mut Decoder) -> Result<(), LinkError> {
        let budget = self.inbound.rt.budget();
        let mut reading = Reading::new(&self.inbound.rt, &self.inbound.memory.peers, decoder);
        loop {
            while let Some(frame) = decoder.next_frame()? {
                // Until it is written.
                let _charge = reading.took(frame.payload.len());
                if self.act(frame.kind, frame.payload).await? {
                    return Ok(());
                }
                budget.tick().await;
            }
            decoder.settle();
            reading.fed(decoder);
            let time_max = reading.room(SILENCE_MAX).await?;
            let read = self.inbound.rt.timeout(time_max, self.stream.read(&mut self.buffer)).await;
            match read.ok_or(LinkError::Timeout)?? {
                0 => return Err(LinkError::Closed),
                n => {
                    self.inbound.counters.bytes_received.add(n as u64);
                    decoder.feed(&self.buffer[..n]);
                    reading.fed(decoder);
                    budget.tick().await;
                }
            }
        }
    }

    /// Does what a frame says. Returns whether the snapshot is installed.
    async fn act(&mut self, kind: FrameKind, payload: &[u8]) -> Result<bool, LinkError> {
        let malformed = |_| LinkError::Unwanted(Unwanted::Malformed);
        match (kind, &mut self.incoming) {
            (FrameKind::Offer, None) => {
                let offer = decode_offer(payload).map_err(malformed)?;
                if offer.message.from.store != self.from {
                    return Err(LinkError::Unwanted(Unwanted::Malformed));
                }
                let incoming = match self.shard.offered(offer).await {
                    Ok(incoming) => incoming,
                    // Perhaps by this very snapshot, whose last answer was lost.
                    Err(Unwanted::Known) => {
                        self.answer(FrameKind::Installed, None).await?;
                        return Ok(true);
                    }
                    Err(unwanted) => return Err(LinkError::Unwanted(unwanted)),
                };
                let have = incoming.have();
                self.incoming = Some(incoming);
                self.answer(FrameKind::Have, Some(have)).await?;
                Ok(false)
            }
            (FrameKind::Piece, Some(incoming)) => {
                let (number, piece) = decode_piece(payload).map_err(malformed)?;
                incoming.begin(number, piece).await.map_err(LinkError::Unwanted)?;
                Ok(false)
            }
            (FrameKind::Chunk, Some(incoming)) => {
                let (position, bytes) = decode_chunk(payload).map_err(malformed)?;
                if incoming.chunk(position, bytes).await.map_err(LinkError::Unwanted)? {
                    let have = incoming.have();
                    self.answer(FrameKind::Have, Some(have)).await?;
                }
                Ok(false)
            }
            (FrameKind::Whole, Some(incoming)) => {
                let pieces = decode_count(payload).map_err(malformed)?;
                incoming.whole(pieces).await.map_err(LinkError::Unwanted)?;
                self.answer(FrameKind::Installed, None).await?;
                Ok(true)
            }
            (
                FrameKind::Hello
                | FrameKind::Welcome
                | FrameKind::Refused
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
                | FrameKind::Installed,
                _,
            ) => Err(LinkError::Unexpected(kind)),
        }
    }

    async fn answer(&mut self, kind: FrameKind, pieces: Option<u64>) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        frame::push(&mut bytes, kind, |out| match pieces {
            Some(pieces) => encode_count(pieces, out),
            None => out,
        });
        Ok(self.stream.write_all(&bytes).await?)
    }

    async fn refuse(&mut self, unwanted: &Unwanted) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        frame::push(&mut bytes, FrameKind::Refused, |mut out| {
            out.extend_from_slice(unwanted.to_string().as_bytes());
            out
        });
        Ok(self.stream.write_all(&bytes).await?)
    }
}
