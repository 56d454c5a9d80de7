//! What a log looks like on disk. Pure: bytes in, meaning out.
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
//! | 48 | zeros to 64                       |     | 48 | body: items, one after the other, or nothing   |
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
//! * *bytes* tells a file that was cut off from one whose records end there.
//! * *opened* tells a log from an older copy of itself: its owner remembers how often it has opened it.
//! * A record without a body changes nothing. It vouches for the one before it, which nothing else would if it is the last.
//! * A block of zeros is no record, because its kind is zero.

use std::fmt;

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

const TAG_APPEND: u8 = 1;
const TAG_MOVED: u8 = 2;
const TAG_STATE: u8 = 3;
const TAG_COMPACT: u8 = 4;
const TAG_RESET: u8 = 5;
const TAG_REMOVE: u8 = 6;

/// Bytes of an entry before its payload.
pub(crate) const ENTRY_HEADER_BYTES: usize = 13;

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
        Ok(Self { log_id, number, incarnation, bytes })
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
    /// Completes the record whose body already lies in `record` behind the header's room.
    pub(crate) fn seal(&self, incarnation: Incarnation, record: &mut [u8]) {
        record[4..8].copy_from_slice(&self.body_bytes.to_le_bytes());
        record[8..16].copy_from_slice(&u64::from(KIND_BATCH).to_le_bytes());
        record[16..24].copy_from_slice(&self.sequence.0.to_le_bytes());
        record[24..32].copy_from_slice(&self.durable_to.0.to_le_bytes());
        record[32..40].copy_from_slice(&self.needed_from.0.to_le_bytes());
        record[40..48].copy_from_slice(&self.opened.to_le_bytes());
        let end = RECORD_HEADER_BYTES + self.body_bytes as usize;
        let crc = checksum(incarnation, &record[4..end]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the fields of what may be a record. Nothing is verified yet beyond "this cannot be one".
    pub(crate) fn peek(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..RECORD_HEADER_BYTES)?;
        let is_batch = u64_at(header, 8) == u64::from(KIND_BATCH);
        if !is_batch || u32_at(header, 4) as usize > BODY_BYTES_MAX {
            return None;
        }
        Some(Self {
            body_bytes: u32_at(header, 4),
            sequence: Sequence(u64_at(header, 16)),
            durable_to: Sequence(u64_at(header, 24)),
            needed_from: SegmentNo(u64_at(header, 32)),
            opened: u64_at(header, 40),
        })
    }

    /// Bytes of the whole record on disk, padding included.
    pub(crate) fn record_bytes(&self) -> u64 {
        record_bytes(self.body_bytes as usize)
    }

    /// The body, if `bytes` hold the whole record of this header and it checks out.
    pub(crate) fn verify<'a>(&self, incarnation: Incarnation, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let end = RECORD_HEADER_BYTES + self.body_bytes as usize;
        let covered = bytes.get(4..end)?;
        (u32_at(bytes, 0) == checksum(incarnation, covered)).then(|| &bytes[RECORD_HEADER_BYTES..end])
    }
}

/// Bytes on disk of a record with this body, padding included.
pub(crate) fn record_bytes(body_bytes: usize) -> u64 {
    (RECORD_HEADER_BYTES + body_bytes).next_multiple_of(BLOCK_BYTES) as u64
}

fn checksum(incarnation: Incarnation, covered: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&incarnation.0.to_le_bytes());
    crc.update(covered);
    crc.finalize()
}

/// An entry to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// The term in which the entry was proposed.
    pub term: u64,
    /// What the payload is; the log only carries it.
    pub kind: u8,
    /// The content.
    pub payload: &'a [u8],
}

/// Appends items to a record's body.
pub(crate) struct Encoder<'a>(pub(crate) &'a mut Vec<u8>);

impl Encoder<'_> {
    /// A run of consecutive entries; an empty one leaves no trace.
    pub(crate) fn run<'e>(
        &mut self,
        moved: bool,
        group: u64,
        first: u64,
        entries: impl Iterator<Item = EntryRef<'e>>,
    ) {
        let began = self.0.len();
        self.head(if moved { TAG_MOVED } else { TAG_APPEND }, group);
        self.0.extend_from_slice(&first.to_le_bytes());
        let counts = self.0.len();
        self.0.extend_from_slice(&[0; 8]);
        let mut count = 0u32;
        for entry in entries {
            let mut head = [0; ENTRY_HEADER_BYTES];
            head[..8].copy_from_slice(&entry.term.to_le_bytes());
            head[8] = entry.kind;
            head[9..].copy_from_slice(&length(entry.payload.len()).to_le_bytes());
            self.0.extend_from_slice(&head);
            self.0.extend_from_slice(entry.payload);
            count += 1;
        }
        if count == 0 {
            self.0.truncate(began);
            return;
        }
        let bytes = length(self.0.len() - counts - 8);
        self.0[counts..counts + 4].copy_from_slice(&count.to_le_bytes());
        self.0[counts + 4..counts + 8].copy_from_slice(&bytes.to_le_bytes());
    }

    pub(crate) fn state(&mut self, group: u64, tag: u8, value: &[u8]) {
        self.head(TAG_STATE, group);
        self.0.push(tag);
        self.0.extend_from_slice(&length(value.len()).to_le_bytes());
        self.0.extend_from_slice(value);
    }

    pub(crate) fn compact(&mut self, group: u64, index: u64, term: u64) {
        self.position(TAG_COMPACT, group, index, term);
    }

    pub(crate) fn reset(&mut self, group: u64, index: u64, term: u64) {
        self.position(TAG_RESET, group, index, term);
    }

    pub(crate) fn remove(&mut self, group: u64) {
        self.head(TAG_REMOVE, group);
    }

    fn position(&mut self, tag: u8, group: u64, index: u64, term: u64) {
        self.head(tag, group);
        self.0.extend_from_slice(&index.to_le_bytes());
        self.0.extend_from_slice(&term.to_le_bytes());
    }

    fn head(&mut self, tag: u8, group: u64) {
        self.0.push(tag);
        self.0.extend_from_slice(&group.to_le_bytes());
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a batch stays far below 4 GiB")
}

/// One thing that a batch did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Append { group: u64, run: Run<'a> },
    Moved { group: u64, run: Run<'a> },
    State { group: u64, tag: u8, span: Span },
    Compact { group: u64, index: u64, term: u64 },
    Reset { group: u64, index: u64, term: u64 },
    Remove { group: u64 },
}

/// Consecutive entries inside a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run<'a> {
    pub(crate) first: u64,
    pub(crate) count: u32,
    entries: &'a [u8],
    /// Where `entries` begin in the body.
    offset: u32,
}

/// Bytes inside a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Span {
    /// The span as a range.
    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.offset as usize..self.offset as usize + self.len as usize
    }
}

/// An entry inside a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawEntry {
    pub(crate) term: u64,
    pub(crate) kind: u8,
    pub(crate) payload: Span,
}

/// A body that is intact but makes no sense: another version wrote it, or a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Where in the body.
    pub(crate) offset: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the record is intact but its item at body offset {} is not one of this version",
            self.offset
        )
    }
}

/// The items of a body, in order. Ends after the first malformed one.
pub(crate) fn items(body: &[u8]) -> Items<'_> {
    Items { reader: Reader { bytes: body, pos: 0 }, broken: false }
}

pub(crate) struct Items<'a> {
    reader: Reader<'a>,
    broken: bool,
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken || self.reader.pos == self.reader.bytes.len() {
            return None;
        }
        let offset = self.reader.pos;
        let item = self.reader.item();
        self.broken = item.is_none();
        Some(item.ok_or(Malformed { offset }))
    }
}

impl<'a> Run<'a> {
    /// The entries, in order of their index. Ends after the first malformed one.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<RawEntry, Malformed>> + use<'a> {
        let mut reader = Reader { bytes: self.entries, pos: 0 };
        let (mut left, base) = (self.count, self.offset);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let at = reader.pos;
            let entry = reader.entry(base);
            left = if entry.is_some() { left - 1 } else { 0 };
            // The count and the length must agree, or the two readers of this run would disagree.
            let whole = left > 0 || reader.pos == reader.bytes.len();
            Some(entry.filter(|_| whole).ok_or(Malformed { offset: base as usize + at }))
        })
    }
}

/// A cursor that never reads past its bytes.
struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Reader<'a> {
    fn item(&mut self) -> Option<Item<'a>> {
        let tag = self.u8()?;
        let group = self.u64()?;
        Some(match tag {
            TAG_APPEND => Item::Append { group, run: self.run()? },
            TAG_MOVED => Item::Moved { group, run: self.run()? },
            TAG_STATE => Item::State { group, tag: self.u8()?, span: self.span()? },
            TAG_COMPACT => Item::Compact { group, index: self.u64()?, term: self.u64()? },
            TAG_RESET => Item::Reset { group, index: self.u64()?, term: self.u64()? },
            TAG_REMOVE => Item::Remove { group },
            _ => return None,
        })
    }

    fn run(&mut self) -> Option<Run<'a>> {
        let first = self.u64()?;
        let count = self.u32()?;
        let bytes = self.u32()? as usize;
        let offset = u32::try_from(self.pos).ok()?;
        let entries = self.take(bytes)?;
        let plausible = count > 0
            && first.checked_add(u64::from(count)).is_some()
            && count as usize <= bytes / ENTRY_HEADER_BYTES;
        plausible.then_some(Run { first, count, entries, offset })
    }

    fn entry(&mut self, base: u32) -> Option<RawEntry> {
        let term = self.u64()?;
        let kind = self.u8()?;
        let span = self.span()?;
        Some(RawEntry { term, kind, payload: Span { offset: base + span.offset, len: span.len } })
    }

    fn span(&mut self) -> Option<Span> {
        let len = self.u32()?;
        let offset = u32::try_from(self.pos).ok()?;
        self.take(len as usize)?;
        Some(Span { offset, len })
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32_at(self.take(4)?, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64_at(self.take(8)?, 0))
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.pos.checked_add(len)?;
        let taken = self.bytes.get(self.pos..end)?;
        self.pos = end;
        Some(taken)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
