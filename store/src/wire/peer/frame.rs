//! Frames of the peer protocol: how bytes between two stores are cut into pieces that are whole and intact, or refused.
//!
//! ```text
//! stream   [preface 8 bytes] frame frame ...
//! frame    [length u32] [crc u32] [kind u8] [payload: length - 1 bytes]
//! ```
//! Numbers are little-endian. `length` counts the kind and the payload; `crc` is the CRC-32 of the length's four bytes, the kind
//! and the payload, so a length that was damaged does not select other bytes to be checked. The preface distinguishes the protocol from
//! HTTP/2 and RESP on a shared port and names its generation ([`Purpose`](super::open::Purpose)).
//!
//! Invariants: memory follows the bytes that have arrived, never the length that was announced; after the first bad frame nothing
//! more is read from the stream, because frames are found by counting.

use std::fmt;

/// Maximum of `length`, bytes. The largest message carries one entry of the largest size and a little more.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

const HEADER_BYTES: usize = 8;

/// A decoder that waits for the next frame keeps at most twice this much room for it, bytes: so little is never waited for
/// ([`INTAKE_BYTES_MIN`](crate::memory::INTAKE_BYTES_MIN)).
const KEPT_BYTES: usize = 2 << 10;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Who connects; the first frame of the connecting side.
    Hello = 1,
    /// Who accepted; the first frame of the accepting side.
    Welcome = 2,
    /// Why a connection is refused; the last frame of the accepting side.
    Refused = 3,
    /// Raft messages of any number of regions.
    Messages = 4,
    /// Requests of clients, from the connecting side.
    Requests = 7,
    /// Their outcomes, from the accepting side.
    Answers = 8,
    /// What a side has drawn for this connection, for which the other side proves that it has the cluster's secret.
    Challenge = 9,
    /// The proof.
    Proof = 10,
    /// A snapshot is offered. This and what follows travel on bulk connections only.
    Offer = 20,
    /// How many pieces of it are there.
    Have = 21,
    /// What the next piece is.
    Piece = 22,
    /// Bytes of it.
    Chunk = 23,
    /// All pieces were sent.
    Whole = 24,
    /// The snapshot is installed.
    Installed = 25,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Hello),
            2 => Some(Self::Welcome),
            3 => Some(Self::Refused),
            4 => Some(Self::Messages),
            7 => Some(Self::Requests),
            8 => Some(Self::Answers),
            9 => Some(Self::Challenge),
            10 => Some(Self::Proof),
            20 => Some(Self::Offer),
            21 => Some(Self::Have),
            22 => Some(Self::Piece),
            23 => Some(Self::Chunk),
            24 => Some(Self::Whole),
            25 => Some(Self::Installed),
            _ => None,
        }
    }
}

/// A frame that has arrived whole and intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: FrameKind,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// The announced length is zero or above the bound.
    Length {
        /// What was announced, bytes.
        announced: u32,
        /// The bound, bytes.
        length_max: usize,
    },
    /// The checksum does not fit the bytes.
    Checksum,
    /// A kind of a newer version, or of none.
    Kind(u8),
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { announced, length_max } => {
                write!(f, "a frame announces {announced} bytes; 1 to {length_max} are possible here")
            }
            Self::Checksum => f.write_str("a frame's checksum does not fit its bytes"),
            Self::Kind(kind) => write!(f, "a frame is of kind {kind}, which this version does not know"),
        }
    }
}

impl std::error::Error for BadFrame {}

/// Appends a frame to `out`. `fill` appends the payload.
///
/// # Panics
/// If the payload is longer than [`FRAME_BYTES_MAX`] allows: whoever fills frames keeps to the bound.
pub fn push(out: &mut Vec<u8>, kind: FrameKind, fill: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let start = out.len();
    let mut frame = std::mem::take(out);
    frame.extend_from_slice(&[0; HEADER_BYTES]);
    frame.push(kind as u8);
    *out = fill(frame);
    let length = out.len() - start - HEADER_BYTES;
    assert!((1..=FRAME_BYTES_MAX).contains(&length), "a frame of {length} bytes was filled");
    let length = (length as u32).to_le_bytes();
    let crc = checksum(length, &out[start + HEADER_BYTES..]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut sum = Sum::new(length);
    sum.advance(body);
    sum.hasher.finalize()
}

/// Finds the frames in a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Maximum of a frame's length, bytes.
    length_max: usize,
    /// Bytes of the buffer that were returned as frames already.
    taken: usize,
    /// The checksum of the frame that is being received, over what has come of it: the whole of a long frame would hold the core.
    sum: Option<Sum>,
    failed: Option<BadFrame>,
}

#[derive(Clone)]
struct Sum {
    hasher: crc32fast::Hasher,
    /// Bytes of the body that are in it.
    bytes: usize,
}

impl Sum {
    fn new(length: [u8; 4]) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&length);
        Self { hasher, bytes: 0 }
    }

    /// Takes in what of the body is new.
    fn advance(&mut self, come: &[u8]) {
        self.hasher.update(&come[self.bytes..]);
        self.bytes = come.len();
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sum").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder of frames of at most `length_max` bytes.
    pub fn new(length_max: usize) -> Self {
        Self { buffer: Vec::new(), length_max, taken: 0, sum: None, failed: None }
    }

    /// Takes frames of up to `length_max` bytes from now on.
    pub fn allow(&mut self, length_max: usize) {
        self.length_max = length_max;
    }

    /// Adds bytes that have arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.settle();
        self.buffer.extend_from_slice(bytes);
    }

    /// Forgets what was returned as frames, and gives the memory of a large one back.
    pub fn settle(&mut self) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
            let kept = self.buffer.len().max(KEPT_BYTES);
            if self.buffer.capacity() > 2 * kept {
                self.buffer.shrink_to(kept);
            }
        }
    }

    /// What it takes in memory, bytes.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// What has arrived after the frames that were returned, for whoever reads on in another way.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.settle();
        self.buffer
    }

    /// Bytes that have arrived and belong to no frame that was returned.
    pub fn waiting_bytes(&self) -> usize {
        self.buffer.len() - self.taken
    }

    /// The next whole frame, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// Why the stream cannot be read on; the same answer from then on.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, BadFrame> {
        if let Some(bad) = self.failed {
            return Err(bad);
        }
        match self.find() {
            Ok(None) => Ok(None),
            Ok(Some((kind, end))) => {
                let payload = &self.buffer[self.taken + HEADER_BYTES + 1..end];
                self.taken = end;
                Ok(Some(Frame { kind, payload }))
            }
            Err(bad) => {
                self.failed = Some(bad);
                // Nothing of it is ever read.
                self.buffer = Vec::new();
                self.taken = 0;
                Err(bad)
            }
        }
    }

    /// The kind of the next frame and where it ends in the buffer.
    fn find(&mut self) -> Result<Option<(FrameKind, usize)>, BadFrame> {
        let rest = &self.buffer[self.taken..];
        let Some((length_bytes, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let announced = u32::from_le_bytes(*length_bytes);
        let length = announced as usize;
        if !(1..=self.length_max).contains(&length) {
            return Err(BadFrame::Length { announced, length_max: self.length_max });
        }
        let Some((crc, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let body = &rest[..rest.len().min(length)];
        let sum = self.sum.get_or_insert_with(|| Sum::new(*length_bytes));
        sum.advance(body);
        if body.len() < length {
            return Ok(None);
        }
        let sum = self.sum.take().expect("it was there just now");
        if sum.hasher.finalize() != u32::from_le_bytes(*crc) {
            return Err(BadFrame::Checksum);
        }
        let kind = FrameKind::from_byte(body[0]).ok_or(BadFrame::Kind(body[0]))?;
        Ok(Some((kind, self.taken + HEADER_BYTES + length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push(&mut out, kind, |mut out| {
            out.extend_from_slice(payload);
            out
        });
        out
    }

    fn sample() -> Vec<u8> {
        [
            frame(FrameKind::Hello, b"one"),
            frame(FrameKind::Messages, b""),
            frame(FrameKind::Refused, &[7; 300]),
        ]
        .concat()
    }

    #[test]
    fn frames_are_found_however_the_bytes_arrive() {
        for piece in [1, 2, 7, 9, 64, 4096] {
            let (mut decoder, mut found) = (Decoder::new(FRAME_BYTES_MAX), Vec::new());
            for bytes in sample().chunks(piece) {
                decoder.feed(bytes);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    found.push((frame.kind, frame.payload.len()));
                }
            }
            assert_eq!(
                found,
                [(FrameKind::Hello, 3), (FrameKind::Messages, 0), (FrameKind::Refused, 300)],
                "by {piece}"
            );
            assert_eq!(decoder.waiting_bytes(), 0);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_or_waits_for_bytes() {
        let good = frame(FrameKind::Messages, b"payload");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut decoder = Decoder::new(FRAME_BYTES_MAX);
            decoder.feed(&bad);
            match decoder.next_frame() {
                Ok(None) => assert!(bit < 32, "bit {bit} outside the length made a frame incomplete"),
                Ok(Some(frame)) => panic!("bit {bit} went unnoticed: {frame:?}"),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn an_announced_length_costs_no_memory_and_an_impossible_one_ends_the_stream() {
        let mut decoder = Decoder::new(FRAME_BYTES_MAX);
        decoder.feed(&(FRAME_BYTES_MAX as u32).to_le_bytes());
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(decoder.buffer.capacity() < 1024);
        for length in [0, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let bad = BadFrame::Length { announced: length, length_max: FRAME_BYTES_MAX };
            let mut decoder = Decoder::new(FRAME_BYTES_MAX);
            decoder.feed(&length.to_le_bytes());
            assert_eq!(decoder.next_frame(), Err(bad));
            decoder.feed(&frame(FrameKind::Hello, b"later"));
            assert_eq!(decoder.next_frame(), Err(bad), "frames are found by counting");
        }
    }

    #[test]
    fn a_decoder_gives_the_room_of_a_large_frame_back() {
        let (large, small) = (frame(FrameKind::Messages, &[7; 300_000]), frame(FrameKind::Hello, b"next"));
        let mut decoder = Decoder::new(FRAME_BYTES_MAX);
        decoder.feed(&large);
        decoder.feed(&small[..5]);
        assert!(decoder.held_bytes() > 300_000);
        assert_eq!(decoder.next_frame().unwrap().unwrap().payload.len(), 300_000);
        decoder.settle();
        assert!(decoder.held_bytes() <= crate::memory::INTAKE_BYTES_MIN, "{} bytes", decoder.held_bytes());
        decoder.feed(&small[5..]);
        assert_eq!(decoder.next_frame().unwrap().unwrap().payload, b"next");
    }

    #[test]
    fn a_kind_of_another_version_is_named() {
        let mut bytes = frame(FrameKind::Hello, b"x");
        bytes[HEADER_BYTES] = 99;
        let crc = checksum([2, 0, 0, 0], &bytes[HEADER_BYTES..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let mut decoder = Decoder::new(FRAME_BYTES_MAX);
        decoder.feed(&bytes);
        assert_eq!(decoder.next_frame(), Err(BadFrame::Kind(99)));
    }
}
