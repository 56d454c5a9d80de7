//! What a log looks like on disk: the layout, and the headers of segments and records. Pure: bytes in, meaning out. What lies in a
//! record's body is read and written by `items`.
//!
//! A segment is one file named by its number, `0000000000000007.seg`, in whole blocks of 4096 bytes. All integers are
//! little-endian.
//!
//! ```text
//!  block 0        block 1 ...
//! +--------------+----------------------------+--------------+------------------------------------------+
//! | header | 0.. | record ............... | 0 | record | 0.. | zeros, or records of an earlier life     |
//! +--------------+----------------------------+--------------+------------------------------------------+
//!
//! segment header                                 record (always begins a block)
//! +----+-----------------------------------+     +----+-----------------------------------------------+
//! |  0 | magic "RKLOGSEG"                  |     |  0 | crc32 of the incarnation (8 bytes, not stored) |
//! |  8 | version, u32                      |     |    | and of everything from 4 to the body's end     |
//! | 12 | crc32 of the other 60 bytes, u32  |     |  4 | body bytes, u32                                |
//! | 16 | log id, u64                       |     |  8 | kind, u8 (1 = batch), then 7 zeros             |
//! | 24 | segment number, u64, from 1       |     | 16 | sequence, u64, +1 per record over all segments |
//! | 32 | incarnation, u64                  |     | 24 | durable to, u64: the last sequence known to be |
//! | 40 | bytes, u64: the file is at least  |     |    | durable when this record was written           |
//! |    | as long, zeroed before its first  |     | 32 | needed from, u64: segments below may be gone   |
//! |    | record                            |     | 40 | opened, u64: how often the log had been opened |
//! | 48 | witnessed, u64: 1 if the file was |     | 48 | body: items, one after the other, or nothing   |
//! |    | made beside an END; then zeros    |     |    |                                                |
//! |    | to 64                             |     |    |                                                |
//! +----+-----------------------------------+     +----+-----------------------------------------------+
//! item := tag u8, group u64, then by tag
//!   1 append   first index u64, count u32, bytes u32, entries     replaces the group's log from the first index on
//!   2 moved    as append                                          the same entries at a new place, nothing else changes
//!   3 state    state tag u8, length u32, bytes                    the last one per (group, tag) counts
//!   4 compact  index u64, term u64                                entries up to the index are not needed any more
//!   5 reset    index u64, term u64                                all entries are dropped; the log begins after the index
//!   6 remove                                                      the group and everything about it is gone
//! entry := term u64, kind u8, length u32, payload
//! ```
//!
//! What each field does in recovery:
//!
//! * The *incarnation* is drawn anew when a file is reused, so what an earlier life left behind never checks out.
//! * *durable to* makes the end exact: a bad place is a torn tail unless a later record says that it had been durable.
//! * *needed from* says which files may be missing at the front; any other missing file is damage.
//! * *bytes* distinguishes a file that was cut off from one whose records end there.
//! * *witnessed* says that the file `END` ([`witness`](super::witness)) must be there. Version 0.1 wrote zero and looks at nothing there.
//! * *opened* distinguishes a log from an older copy of itself: its owner remembers how often it has opened it.
//! * A record without a body changes nothing. It vouches for the one before it, which nothing else would if it is the last.
//! * A block of zeros is no record, because its kind is zero.

use std::fmt;

pub use super::items::EntryRef;
pub(crate) use super::items::{ENTRY_HEADER_BYTES, Encoder, Item, Malformed, Run, Span, items};
use crate::rt::BLOCK_BYTES;

/// Bytes at the start of each segment.
const SEGMENT_MAGIC: [u8; 8] = *b"RKLOGSEG";

/// The version that this code writes, and the only one that it reads.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// Bytes of a segment header that carry meaning.
const SEGMENT_HEADER_BYTES: usize = 64;

/// Bytes before a record's body.
pub(crate) const RECORD_HEADER_BYTES: usize = 48;

/// Bytes of the largest body. A record is written and read in one piece of memory, so a larger one is refused when it is
/// handed in, and nothing that claims to be larger is believed.
pub const BODY_BYTES_MAX: usize = 256 << 20;

/// Where the first record of a segment begins.
pub(crate) const FIRST_RECORD_POS: u64 = BLOCK_BYTES as u64;

const KIND_BATCH: u8 = 1;

/// Number of a segment; never reused within a log. The first one is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNo(pub u64);

/// Number of a record, counted over all segments from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// One life of a segment file: part of every checksum in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incarnation(pub(crate) u64);

/// Where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordAt {
    pub(crate) segment: SegmentNo,
    /// Counted in blocks from the start of the file.
    pub(crate) block: u32,
}

impl RecordAt {
    /// The record at byte `pos` of `segment`.
    pub(crate) fn new(segment: SegmentNo, pos: u64) -> Self {
        debug_assert!(pos.is_multiple_of(BLOCK_BYTES as u64), "records begin at blocks");
        let block = u32::try_from(pos / BLOCK_BYTES as u64).expect("segments are far below 16 TiB");
        Self { segment, block }
    }

    /// The record's first byte in its file.
    pub(crate) fn pos(self) -> u64 {
        u64::from(self.block) * BLOCK_BYTES as u64
    }
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u64,
    pub(crate) number: SegmentNo,
    pub(crate) incarnation: Incarnation,
    /// What the file was zeroed to before it got its name, bytes.
    pub(crate) bytes: u64,
    /// Whether the log had an `END` when the file was made.
    pub(crate) witnessed: bool,
}

/// Why a first block is not a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Too short, another magic or a wrong checksum.
    Damaged,
    /// Intact, but of a version that this code does not know.
    Version(u32),
    /// Intact, but the file is shorter than it was when it got its name.
    CutOff {
        /// What the file was made with, bytes.
        made: u64,
        /// What is left of it, bytes.
        left: u64,
    },
}

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("not a log segment, or its header is damaged"),
            Self::Version(version) => {
                write!(f, "log format version {version}; this program reads version {FORMAT_VERSION}")
            }
            Self::CutOff { made, left } => {
                write!(f, "the segment was made {made} bytes long and has only {left}")
            }
        }
    }
}

impl SegmentHeader {
    /// Writes the header into the zeroed first bytes of `block`.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        let header = &mut block[..SEGMENT_HEADER_BYTES];
        header[..8].copy_from_slice(&SEGMENT_MAGIC);
        header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        header[24..32].copy_from_slice(&self.number.0.to_le_bytes());
        header[32..40].copy_from_slice(&self.incarnation.0.to_le_bytes());
        header[40..48].copy_from_slice(&self.bytes.to_le_bytes());
        header[48..56].copy_from_slice(&u64::from(self.witnessed).to_le_bytes());
        let crc = Self::checksum(header);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header.
    pub(crate) fn decode(block: &[u8]) -> Result<Self, BadHeader> {
        let header = block.get(..SEGMENT_HEADER_BYTES).ok_or(BadHeader::Damaged)?;
        if header[..8] != SEGMENT_MAGIC || u32_at(header, 12) != Self::checksum(header) {
            return Err(BadHeader::Damaged);
        }
        let version = u32_at(header, 8);
        if version != FORMAT_VERSION {
            return Err(BadHeader::Version(version));
        }
        let (log_id, number) = (u64_at(header, 16), SegmentNo(u64_at(header, 24)));
        let (incarnation, bytes) = (Incarnation(u64_at(header, 32)), u64_at(header, 40));
        Ok(Self { log_id, number, incarnation, bytes, witnessed: u64_at(header, 48) != 0 })
    }

    /// The header, if the file is as long as it was made.
    pub(crate) fn of_file(self, file_bytes: u64) -> Result<Self, BadHeader> {
        match file_bytes < self.bytes {
            true => Err(BadHeader::CutOff { made: self.bytes, left: file_bytes }),
            false => Ok(self),
        }
    }

    fn checksum(header: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[..12]);
        crc.update(&header[16..]);
        crc.finalize()
    }
}

/// What precedes a record's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) body_bytes: u32,
    pub(crate) sequence: Sequence,
    pub(crate) durable_to: Sequence,
    pub(crate) needed_from: SegmentNo,
    pub(crate) opened: u64,
}

impl RecordHeader {
    /// Completes the record whose body already lies in `record` after the header's room.
    pub(crate) fn seal(&self, incarnation: Incarnation, record: &mut [u8]) {
        record[4..8].copy_from_slice(&self.body_bytes.to_le_bytes());
        record[8..16].copy_from_slice(&u64::from(KIND_BATCH).to_le_bytes());
        record[16..24].copy_from_slice(&self.sequence.0.to_le_bytes());
        record[24..32].copy_from_slice(&self.durable_to.0.to_le_bytes());
        record[32..40].copy_from_slice(&self.needed_from.0.to_le_bytes());
        record[40..48].copy_from_slice(&self.opened.to_le_bytes());
        let end = RECORD_HEADER_BYTES + self.body_bytes as usize;
        let crc = covered_checksum(incarnation, &record[4..end]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the fields of what may be a record. Nothing is verified yet beyond "this cannot be one".
    pub(crate) fn peek(bytes: &[u8]) -> Option<Self> {
        let header = Self::fields(bytes)?;
        let is_batch = u64_at(bytes, 8) == u64::from(KIND_BATCH);
        (is_batch && header.body_bytes as usize <= BODY_BYTES_MAX).then_some(header)
    }

    /// Reads the fields, whatever they say.
    pub(crate) fn fields(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..RECORD_HEADER_BYTES)?;
        Some(Self {
            body_bytes: u32_at(header, 4),
            sequence: Sequence(u64_at(header, 16)),
            durable_to: Sequence(u64_at(header, 24)),
            needed_from: SegmentNo(u64_at(header, 32)),
            opened: u64_at(header, 40),
        })
    }

    /// Whether it claims to be the record `sequence`, of which it has two witnesses. An earlier life of the file had neither.
    pub(crate) fn claims_to_be(&self, sequence: Sequence) -> bool {
        let before = sequence.0 - 1;
        self.sequence == sequence || (before > 0 && self.durable_to.0 == before)
    }

    /// How many bits of what is known in advance about the record `sequence` are wrong in `bytes`.
    pub(crate) fn wrong_bits(bytes: &[u8], sequence: Sequence) -> Option<u32> {
        let header = Self::fields(bytes)?;
        let wrong = [
            u64_at(bytes, 8) ^ u64::from(KIND_BATCH),
            header.sequence.0 ^ sequence.0,
            header.durable_to.0 ^ (sequence.0 - 1),
        ];
        Some(wrong.iter().map(|bits| bits.count_ones()).sum())
    }

    /// Bytes of the whole record on disk, padding included.
    pub(crate) fn record_bytes(&self) -> u64 {
        record_bytes(self.body_bytes as usize)
    }

    /// The body, if `bytes` hold the whole record of this header and it checks out.
    pub(crate) fn verify<'a>(&self, incarnation: Incarnation, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let end = RECORD_HEADER_BYTES + self.body_bytes as usize;
        let covered = bytes.get(4..end)?;
        (u32_at(bytes, 0) == covered_checksum(incarnation, covered)).then(|| &bytes[RECORD_HEADER_BYTES..end])
    }
}

/// Bytes on disk of a record with this body, padding included.
pub(crate) fn record_bytes(body_bytes: usize) -> u64 {
    (RECORD_HEADER_BYTES + body_bytes).next_multiple_of(BLOCK_BYTES) as u64
}

/// The checksum of a record in which `covered` is everything after the checksum itself.
pub(crate) fn covered_checksum(incarnation: Incarnation, covered: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&incarnation.0.to_le_bytes());
    crc.update(covered);
    crc.finalize()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
