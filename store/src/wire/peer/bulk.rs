//! What a bulk connection says: a snapshot that is offered, its pieces, and the answers. Pure.
//!
//! A bulk connection carries one snapshot. It has the port, the frames and the introduction of the others and a preface of its own, so
//! that gigabytes never stand in the way of a heartbeat.
//!
//! ```text
//! sender                                receiver
//! [preface][Hello]              ──►
//!                               ◄──     [preface][Welcome], or [Refused]
//! [Offer]                       ──►
//!                               ◄──     [Have n]: pieces that are there already, whole; or [Installed], if the state is as new
//! [Piece n][Chunk] ... [Chunk]  ──►
//!                               ◄──     [Have n + 1]: it is synced
//! ...
//! [Whole n]                     ──►
//!                               ◄──     [Installed]: the state is this now, durably
//! ```
//! Instead of any answer the receiver may send `Refused` with its reason as text, and end.
//!
//! ```text
//! Offer      [format u16 = 1] [identity u64] [bytes u64, about] [payload of Messages: the one message that announces it]
//! Have       [pieces u64]
//! Piece      [number u64] [family u8] [file bytes u64] [entries u64] [identity u64] [body crc u32]
//!            [length of start u32] [start] [end]
//! Chunk      [position u64] [bytes: whole blocks of 4096]
//! Whole      [pieces u64]
//! Installed  nothing
//! ```
//! Numbers are little-endian. Every frame has a checksum, every file has one besides, which is compared when all of it is there.
//!
//! Invariants: what is decoded is within the stated bounds; whatever does not fit its layout to the last byte is refused.

use std::fmt;

use engine::lsm::{Cf, Piece};
use engine::rt::BLOCK_BYTES;

use super::messages::MessageBatch;
use crate::request::KEY_BYTES_MAX;
use crate::shard::receiving::Offer;

/// Maximum of a frame's length on a bulk connection, bytes.
pub const BULK_FRAME_BYTES_MAX: usize = 1 << 20;
/// How much of a file one frame carries, bytes.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Maximum length of one file, bytes.
const FILE_BYTES_MAX: u64 = 4 << 30;

const FORMAT: u16 = 1;

/// The payload is not what its frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBulk(pub &'static str);

impl fmt::Display for BadBulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a part of a snapshot: {}", self.0)
    }
}

impl std::error::Error for BadBulk {}

/// Appends an offer to a frame.
pub fn encode_offer(offer: &Offer, mut out: Vec<u8>) -> Vec<u8> {
    let Offer { identity, bytes, message } = offer;
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&identity.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
    let (from, to) = (message.from.store, message.to.store);
    MessageBatch { from, to, messages: vec![message.clone()] }.encode(out)
}

/// The inverse of [`encode_offer`].
///
/// # Errors
/// [`BadBulk`] for anything else.
pub fn decode_offer(payload: &[u8]) -> Result<Offer, BadBulk> {
    let mut rest = payload;
    if u16::from_le_bytes(*take(&mut rest)?) != FORMAT {
        return Err(BadBulk("its format is unknown; is the sender of a newer version?"));
    }
    let (identity, bytes) = (number(&mut rest)?, number(&mut rest)?);
    let batch = MessageBatch::decode(rest).map_err(|bad| BadBulk(bad.0))?;
    let [message] =
        <[_; 1]>::try_from(batch.messages).map_err(|_| BadBulk("it announces not one snapshot"))?;
    Ok(Offer { identity, bytes, message })
}

/// Appends what a piece is to a frame.
pub fn encode_piece(number: u64, piece: &Piece, mut out: Vec<u8>) -> Vec<u8> {
    let Piece { cf, start, end, file_bytes, entries, identity, body_crc } = piece;
    out.extend_from_slice(&number.to_le_bytes());
    out.push(cf.index() as u8);
    out.extend_from_slice(&file_bytes.to_le_bytes());
    out.extend_from_slice(&entries.to_le_bytes());
    out.extend_from_slice(&identity.to_le_bytes());
    out.extend_from_slice(&body_crc.to_le_bytes());
    out.extend_from_slice(&(start.len() as u32).to_le_bytes());
    out.extend_from_slice(start);
    out.extend_from_slice(end);
    out
}

/// The inverse of [`encode_piece`].
///
/// # Errors
/// [`BadBulk`] for anything else.
pub fn decode_piece(payload: &[u8]) -> Result<(u64, Piece), BadBulk> {
    let mut rest = payload;
    let place = number(&mut rest)?;
    let [family] = *take(&mut rest)?;
    let cf = Cf::from_byte(family).ok_or(BadBulk("the family is unknown"))?;
    let (file_bytes, entries, identity) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
    let body_crc = u32::from_le_bytes(*take(&mut rest)?);
    let start_bytes = u32::from_le_bytes(*take(&mut rest)?) as usize;
    if start_bytes > rest.len() {
        return Err(BadBulk("it is cut short"));
    }
    let (start, end) = rest.split_at(start_bytes);
    // The end of a piece is the smallest key above its last one.
    if start.len() > KEY_BYTES_MAX || end.len() > KEY_BYTES_MAX + 1 {
        return Err(BadBulk("a key is longer than keys can be"));
    }
    if file_bytes == 0 || file_bytes > FILE_BYTES_MAX || !file_bytes.is_multiple_of(BLOCK_BYTES as u64) {
        return Err(BadBulk("no file has this length"));
    }
    let piece =
        Piece { cf, start: start.to_vec(), end: end.to_vec(), file_bytes, entries, identity, body_crc };
    Ok((place, piece))
}

/// Appends bytes of a file, and where they belong, to a frame.
pub fn encode_chunk(position: u64, bytes: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(bytes);
    out
}

/// The inverse of [`encode_chunk`].
///
/// # Errors
/// [`BadBulk`] for anything else.
pub fn decode_chunk(payload: &[u8]) -> Result<(u64, &[u8]), BadBulk> {
    let mut rest = payload;
    let position = number(&mut rest)?;
    if rest.is_empty() || rest.len() > CHUNK_BYTES || !rest.len().is_multiple_of(BLOCK_BYTES) {
        return Err(BadBulk("it carries no whole blocks, or too many"));
    }
    Ok((position, rest))
}

/// Appends a number of pieces to a frame.
pub fn encode_count(pieces: u64, mut out: Vec<u8>) -> Vec<u8> {
    out.extend_from_slice(&pieces.to_le_bytes());
    out
}

/// The inverse of [`encode_count`].
///
/// # Errors
/// [`BadBulk`] for anything else.
pub fn decode_count(payload: &[u8]) -> Result<u64, BadBulk> {
    let mut rest = payload;
    let pieces = number(&mut rest)?;
    if rest.is_empty() { Ok(pieces) } else { Err(BadBulk("it is longer than a number")) }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], BadBulk> {
    let (head, tail) = rest.split_first_chunk().ok_or(BadBulk("it is cut short"))?;
    *rest = tail;
    Ok(head)
}

fn number(rest: &mut &[u8]) -> Result<u64, BadBulk> {
    take(rest).map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
#[path = "bulk_tests.rs"]
mod tests;
