//! Compressed messages: gzip, and nothing else.
//!
//! * [`Encodings`] is what the headers of a call say: how its messages may be compressed, and how its answers may be.
//! * [`Messages`] takes whole messages out of a body and inflates those that are compressed.
//! * [`deflate`] compresses an answer that is large, for a caller that accepts it.
//!
//! What holds: an inflated message is within the same bound as one that arrives as it is, and the inflating stops there, so a
//! small message cannot become a large one; what is inflated is charged as it grows; both directions work in steps of
//! [`STEP_BYTES`] and let others run in between.

use std::io::{Read, Write};
use std::task::{Context, Poll, ready};

use bytes::buf::Reader;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use engine::rt::Rt;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue};

use super::frame::{Deframer, Frame, PREFIX_BYTES};
use super::status::{Code, Status};
use crate::memory::Intake;

/// Says how messages of this side are compressed.
pub(super) const ENCODING: &str = "grpc-encoding";
/// Says what this side can inflate.
pub(super) const ACCEPTED: &str = "grpc-accept-encoding";
/// The value of [`ENCODING`].
pub(super) const GZIP: HeaderValue = HeaderValue::from_static("gzip");
/// The value of [`ACCEPTED`].
pub(super) const SERVED: HeaderValue = HeaderValue::from_static("identity,gzip");

/// Answers from this length on are compressed where the caller accepts it. Below it the CPU time costs more than the bytes that it saves.
const ANSWER_BYTES_MIN: usize = 64 << 10;
/// Bytes inflated or compressed between two reads of the clock.
const STEP_BYTES: usize = 64 << 10;
/// Steps, or messages, of one stream in a row before others run.
const STEPS_MAX: usize = 16;

/// How the messages of a call may be compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Encodings {
    /// Requests that say that they are compressed are.
    pub(super) requests: bool,
    /// Answers may be.
    pub(super) answers: bool,
}

impl Encodings {
    /// What the headers of a request say.
    ///
    /// # Errors
    /// The requests are compressed in a way that is not served.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Status> {
        let requests = match headers.get(ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity") => false,
            Some(b"gzip") => true,
            Some(other) => {
                let other: String = String::from_utf8_lossy(other).chars().take(64).collect();
                let sentence =
                    format!("messages compressed with {other:?} are not served; send gzip or identity");
                return Err(Status::new(Code::Unimplemented, sentence));
            }
        };
        let names = |value: &HeaderValue| {
            value.as_bytes().split(|byte| *byte == b',').any(|name| name.trim_ascii() == b"gzip")
        };
        Ok(Self { requests, answers: headers.get_all(ACCEPTED).iter().any(names) })
    }
}

/// Takes whole messages out of a body, inflated where they are compressed.
#[derive(Debug)]
pub(super) struct Messages {
    deframer: Deframer,
    bytes_max: usize,
    accepts_gzip: bool,
    inflating: Option<Inflate>,
    /// Steps and messages since the task last let others run.
    steps: usize,
}

/// A message that is being inflated.
#[derive(Debug)]
struct Inflate {
    compressed: GzDecoder<Reader<Bytes>>,
    compressed_bytes: usize,
    message: Vec<u8>,
}

impl Messages {
    /// Refuses messages longer than `bytes_max`, whether they arrive so or are inflated to it, and compressed ones unless
    /// `accepts_gzip`.
    pub(super) fn new(bytes_max: usize, accepts_gzip: bool) -> Self {
        Self { deframer: Deframer::new(bytes_max), bytes_max, accepts_gzip, inflating: None, steps: 0 }
    }

    /// Takes the next piece of the body.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.deframer.push(piece);
    }

    /// Bytes that have arrived and are not yet taken out as a message.
    pub(super) fn waiting(&self) -> usize {
        self.deframer.waiting()
    }

    /// The next message that is there in full; nothing while more of the body has to arrive. What the message takes in memory is
    /// kept in `intake` beside the pieces that it came in: [`PREFIX_BYTES`] and its own length.
    pub(super) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        intake: &mut Intake,
    ) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if self.inflating.is_some() || self.deframer.waiting() >= PREFIX_BYTES {
                self.steps += 1;
                if self.steps > STEPS_MAX {
                    self.steps = 0;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            if let Some(inflate) = &mut self.inflating {
                ready!(intake.poll_room(cx));
                let before = inflate.message.capacity();
                let ended = inflate.step(self.bytes_max)?;
                intake.keep(intake.bytes() + inflate.message.capacity() - before);
                if !ended {
                    continue;
                }
                let Inflate { compressed: _, compressed_bytes, mut message } =
                    self.inflating.take().expect("it was there");
                let grown = message.capacity();
                message.shrink_to_fit();
                intake.keep(intake.bytes() + message.len() - grown - compressed_bytes);
                return Poll::Ready(Ok(Some(Bytes::from(message))));
            }
            match self.deframer.take()? {
                None => {
                    self.steps = 0;
                    return Poll::Ready(Ok(None));
                }
                Some(Frame { compressed: false, bytes }) => return Poll::Ready(Ok(Some(bytes))),
                Some(Frame { compressed: true, bytes }) if self.accepts_gzip => {
                    self.inflating = Some(Inflate::new(bytes));
                }
                Some(Frame { compressed: true, .. }) => {
                    let sentence = "a message says that it is compressed, and the call does not say how; send grpc-encoding gzip";
                    return Poll::Ready(Err(Status::new(Code::Internal, sentence)));
                }
            }
        }
    }
}

impl Inflate {
    fn new(compressed: Bytes) -> Self {
        let compressed_bytes = compressed.len();
        Self { compressed: GzDecoder::new(compressed.reader()), compressed_bytes, message: Vec::new() }
    }

    /// Inflates a little more; whether that was all.
    fn step(&mut self, bytes_max: usize) -> Result<bool, Status> {
        let from = self.message.len();
        // One byte above the bound distinguishes a message that is too long from one that just fits.
        let room = STEP_BYTES.min(bytes_max + 1 - from);
        self.message.resize(from + room, 0);
        let read = self.compressed.read(&mut self.message[from..]);
        let read = read.map_err(|error| Status::invalid(format!("a message cannot be inflated: {error}")))?;
        self.message.truncate(from + read);
        if self.message.len() > bytes_max {
            let sentence = format!(
                "a message that is inflated to more than {bytes_max} bytes is over the bound; send less at once"
            );
            return Err(Status::new(Code::ResourceExhausted, sentence));
        }
        if read == 0 && self.compressed.get_ref().get_ref().has_remaining() {
            return Err(Status::invalid(
                "bytes follow the end of a compressed message; send one gzip member",
            ));
        }
        Ok(read == 0)
    }
}

/// Compresses a framed answer that is large enough for it, unless that makes it longer.
pub(super) async fn deflate(rt: &Rt, framed: Bytes) -> Bytes {
    if framed.len() < PREFIX_BYTES + ANSWER_BYTES_MIN {
        return framed;
    }
    let budget = rt.budget();
    let mut head = BytesMut::with_capacity(PREFIX_BYTES);
    head.put_bytes(0, PREFIX_BYTES);
    let mut encoder = GzEncoder::new(head.writer(), Compression::fast());
    for piece in framed[PREFIX_BYTES..].chunks(STEP_BYTES) {
        encoder.write_all(piece).expect("memory takes everything");
        budget.tick().await;
    }
    let mut deflated = encoder.finish().expect("memory takes everything").into_inner();
    if deflated.len() >= framed.len() {
        return framed;
    }
    let length = u32::try_from(deflated.len() - PREFIX_BYTES).expect("it is shorter than the answer was");
    deflated[0] = 1;
    deflated[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    deflated.freeze()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::memory::Pool;

    fn gzip(message: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(message).unwrap();
        encoder.finish().unwrap()
    }

    fn framed(compressed: &[u8]) -> Bytes {
        let mut bytes = vec![1];
        bytes.extend_from_slice(&u32::try_from(compressed.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(compressed);
        bytes.into()
    }

    /// The messages of a body, and the highest charge meanwhile.
    fn take(
        messages: &mut Messages,
        intake: &mut Intake,
        body: Bytes,
    ) -> (Result<Option<Bytes>, Status>, usize) {
        let (mut cx, mut highest) = (Context::from_waker(Waker::noop()), 0);
        intake.keep(intake.bytes() + body.len());
        messages.push(body);
        loop {
            let taken = messages.poll_take(&mut cx, intake);
            highest = highest.max(intake.bytes());
            if let Poll::Ready(taken) = taken {
                return (taken, highest);
            }
        }
    }

    #[test]
    fn an_inflated_message_is_within_the_bound_and_charged() {
        let pool = Pool::new(64 << 20);
        let bound = 1 << 20;
        for length in [0, 1, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, bound - 1, bound] {
            let message: Vec<u8> = (0..length).map(|n| (n / 100) as u8).collect();
            let body = framed(&gzip(&message));
            let (mut messages, mut intake) = (Messages::new(bound, true), Intake::new(&pool));
            let (taken, _) = take(&mut messages, &mut intake, body);
            assert!(taken.unwrap().unwrap() == message, "{length} bytes");
            assert_eq!(intake.bytes(), PREFIX_BYTES + length, "the message and its prefix are kept");
            drop(intake);
        }
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn a_bomb_is_refused_before_it_has_grown() {
        let (pool, bound) = (Pool::new(64 << 20), 1 << 20);
        for length in [bound + 1, 300 << 20] {
            let body = framed(&gzip(&vec![0; length]));
            assert!(body.len() < bound, "the message itself is short");
            let mut intake = Intake::new(&pool);
            let (taken, highest) = take(&mut Messages::new(bound, true), &mut intake, body);
            let refused = taken.unwrap_err();
            assert_eq!(refused.code, Code::ResourceExhausted);
            assert!(refused.message.contains(&bound.to_string()), "{refused}");
            assert!(highest < 3 * bound, "{highest} bytes were taken");
        }
    }

    #[test]
    fn damaged_and_unannounced_compression_is_refused() {
        let pool = Pool::new(64 << 20);
        let whole = gzip(b"a message");
        let mut flipped = whole.clone();
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        let twice = [whole.clone(), whole.clone()].concat();
        for broken in [&flipped, &twice, &whole[..whole.len() - 1].to_vec(), &b"plain".to_vec(), &Vec::new()]
        {
            let body = framed(broken);
            let (taken, _) = take(&mut Messages::new(1 << 20, true), &mut Intake::new(&pool), body);
            assert_eq!(taken.unwrap_err().code, Code::InvalidArgument, "{broken:?}");
        }
        let (taken, _) = take(&mut Messages::new(1 << 20, false), &mut Intake::new(&pool), framed(&whole));
        assert_eq!(taken.unwrap_err().code, Code::Internal);
    }

    #[test]
    fn a_task_that_inflates_lets_others_run() {
        let pool = Pool::new(64 << 20);
        let (mut messages, mut intake) = (Messages::new(16 << 20, true), Intake::new(&pool));
        messages.push(framed(&gzip(&vec![7; 16 << 20])));
        let (mut cx, mut pauses) = (Context::from_waker(Waker::noop()), 0);
        while messages.poll_take(&mut cx, &mut intake).is_pending() {
            pauses += 1;
        }
        assert!(pauses >= (16 << 20) / STEP_BYTES / STEPS_MAX - 1, "{pauses} pauses");
    }

    #[test]
    fn headers_say_what_is_served() {
        let of = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            Encodings::of(&headers)
        };
        assert_eq!(of(&[]), Ok(Encodings::default()));
        assert_eq!(of(&[(ENCODING, "identity"), (ACCEPTED, "identity")]), Ok(Encodings::default()));
        let both = Encodings { requests: true, answers: true };
        assert_eq!(of(&[(ENCODING, "gzip"), (ACCEPTED, "identity, deflate ,gzip")]), Ok(both));
        let refused = of(&[(ENCODING, "snappy")]).unwrap_err();
        assert_eq!(refused.code, Code::Unimplemented);
        assert!(refused.message.contains("snappy") && refused.message.contains("gzip"), "{refused}");
    }
}
