//! Messages inside an HTTP/2 body: one byte of flags, four of length, then the message.
//!
//! ```text
//! 0        1                 5
//! +--------+-----------------+------------------+
//! | flag   | length, be u32  | message ...      |
//! +--------+-----------------+------------------+
//! ```
//!
//! The length is what the client claims. It is checked against the bound before a byte is kept, and memory grows with the
//! bytes that have arrived, never with the claim.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::status::{Code, Status};

/// Bytes before each message.
pub const PREFIX_BYTES: usize = 5;

/// A message as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether it says that it is compressed.
    pub compressed: bool,
    /// The message without its prefix.
    pub bytes: Bytes,
}

/// Extracts messages from a body that arrives in pieces of any size.
#[derive(Debug)]
pub struct Deframer {
    message_bytes_max: usize,
    /// What has arrived and was not yet returned. Stays one piece of the connection's buffer for as long as a message lies
    /// within one piece, so that the usual request is never copied.
    arrived: Arrived,
}

#[derive(Debug)]
enum Arrived {
    Whole(Bytes),
    Joined(BytesMut),
}

impl Deframer {
    /// Refuses messages longer than `message_bytes_max`.
    pub fn new(message_bytes_max: usize) -> Self {
        Self { message_bytes_max, arrived: Arrived::Whole(Bytes::new()) }
    }

    /// Takes the next piece of the body.
    pub fn push(&mut self, piece: Bytes) {
        match &mut self.arrived {
            Arrived::Whole(bytes) if bytes.is_empty() => *bytes = piece,
            Arrived::Whole(bytes) => {
                let mut joined = BytesMut::with_capacity(bytes.len() + piece.len());
                joined.put_slice(bytes);
                joined.put(piece);
                self.arrived = Arrived::Joined(joined);
            }
            Arrived::Joined(joined) => joined.put(piece),
        }
    }

    /// Bytes that have arrived and were not yet returned.
    pub fn waiting(&self) -> usize {
        match &self.arrived {
            Arrived::Whole(bytes) => bytes.len(),
            Arrived::Joined(joined) => joined.len(),
        }
    }

    /// The next message that is there in full.
    ///
    /// # Errors
    /// A message that is too long, or has an unknown flag.
    pub fn take(&mut self) -> Result<Option<Frame>, Status> {
        let Some((compressed, length)) = self.head()? else { return Ok(None) };
        if self.waiting() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let bytes = match &mut self.arrived {
            Arrived::Whole(bytes) => {
                bytes.advance(PREFIX_BYTES);
                bytes.split_to(length)
            }
            Arrived::Joined(joined) => {
                joined.advance(PREFIX_BYTES);
                joined.split_to(length).freeze()
            }
        };
        if let Arrived::Joined(joined) = &mut self.arrived
            && joined.is_empty()
        {
            self.arrived = Arrived::Whole(Bytes::new());
        }
        Ok(Some(Frame { compressed, bytes }))
    }

    fn head(&self) -> Result<Option<(bool, usize)>, Status> {
        let head = match &self.arrived {
            Arrived::Whole(bytes) => bytes.get(..PREFIX_BYTES),
            Arrived::Joined(joined) => joined.get(..PREFIX_BYTES),
        };
        let Some(&[flag, a, b, c, d]) = head else { return Ok(None) };
        if flag > 1 {
            let message = format!("a message begins with flag {flag}; 0 and 1 are known");
            return Err(Status::new(Code::Internal, message));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.message_bytes_max {
            let max = self.message_bytes_max;
            let message =
                format!("a message of {length} bytes is over the bound of {max}; send less at once");
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        Ok(Some((flag == 1, length)))
    }
}

/// Maximum length of an answer, bytes. The services bound what they collect far below it; a longer answer becomes an error.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// An answer with its prefix, ready to send.
///
/// # Errors
/// The answer is too long.
pub fn answer(message: &impl prost::Message) -> Result<Bytes, Status> {
    answer_within(message, ANSWER_BYTES_MAX)
}

fn answer_within(message: &impl prost::Message, bytes_max: usize) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    match u32::try_from(length) {
        Ok(prefix) if length <= bytes_max => Ok(framed(message, prefix)),
        Ok(_) | Err(_) => {
            let sentence =
                format!("an answer of {length} bytes is over the bound of {bytes_max}; ask for less at once");
            Err(Status::new(Code::ResourceExhausted, sentence))
        }
    }
}

/// A request with its prefix, ready to send: for clients, who know how long their requests are.
///
/// # Panics
/// The request has 4 GiB or more.
pub fn frame(message: &impl prost::Message) -> Bytes {
    framed(message, u32::try_from(message.encoded_len()).expect("a client sends less than 4 GiB at once"))
}

fn framed(message: &impl prost::Message, length: u32) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + length as usize);
    framed.put_u8(0);
    framed.put_u32(length);
    message.encode_raw(&mut framed);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(message);
        bytes
    }

    #[test]
    fn any_cut_of_a_body_gives_the_same_messages() {
        let messages: Vec<Vec<u8>> = [0usize, 1, 4, 5, 300, 0, 70_000].map(|n| vec![n as u8; n]).to_vec();
        let body: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        for step in [1, 2, 3, 7, 1000, 65_536, body.len()] {
            let mut deframer = Deframer::new(1 << 20);
            let mut found = Vec::new();
            for piece in body.chunks(step) {
                deframer.push(Bytes::copy_from_slice(piece));
                while let Some(message) = deframer.take().unwrap() {
                    assert!(!message.compressed);
                    found.push(message.bytes.to_vec());
                }
            }
            assert_eq!(found, messages, "cut every {step} bytes");
            assert_eq!(deframer.waiting(), 0);
        }
    }

    #[test]
    fn a_claim_alone_is_refused_and_costs_nothing() {
        let mut deframer = Deframer::new(1024);
        deframer.push(Bytes::from_static(&[0, 0xFF, 0xFF, 0xFF, 0xFF]));
        assert_eq!(deframer.take().unwrap_err().code, Code::ResourceExhausted);
        let mut deframer = Deframer::new(1024);
        deframer.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(deframer.take(), Ok(Some(Frame { compressed: true, bytes: Bytes::new() })));
        let mut deframer = Deframer::new(1024);
        deframer.push(Bytes::from_static(&[9, 0, 0, 0, 0]));
        assert_eq!(deframer.take().unwrap_err().code, Code::Internal);
    }

    #[test]
    fn an_answer_over_the_bound_is_refused_and_names_it() {
        let message =
            |bytes: usize| crate::wire::proto::health::HealthCheckRequest { service: "x".repeat(bytes) };
        assert_eq!(answer_within(&message(98), 100).unwrap(), frame(&message(98)));
        let refused = answer_within(&message(99), 100).unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert!(refused.message.contains("101") && refused.message.contains("100"), "{refused}");
    }

    #[test]
    fn a_whole_message_is_not_copied() {
        let piece = Bytes::from(framed(b"value"));
        let at = piece.as_ptr() as usize + PREFIX_BYTES;
        let mut deframer = Deframer::new(1024);
        deframer.push(piece);
        assert_eq!(deframer.take().unwrap().unwrap().bytes.as_ptr() as usize, at);
    }
}
