//! A segment, or the file `END` beside it, seen from outside, for `ringkeep inspect log`. Pure: the caller maps or reads the file.
//!
//! Nothing here decides what a log means; it shows what lies in one file, damage included, and needs no other file.

use std::fmt;
use std::path::Path;

use super::flip::flipped_byte;
use super::format::{
    FIRST_RECORD_POS, Incarnation, Item, RecordHeader, Run, SegmentHeader, SegmentNo, Sequence, items,
};
use super::witness::{self, Reached, Slot};
use crate::error::Fault;
use crate::rt::BLOCK_BYTES;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Shared by all segments of one log.
    pub log_id: u64,
    /// The segment's number.
    pub number: SegmentNo,
    /// This life of the file.
    pub incarnation: u64,
}

/// What lies at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An intact record.
    Record {
        /// Its first byte in the file.
        pos: u64,
        /// Its number.
        sequence: Sequence,
        /// Segments below were not needed any more when it was written.
        needed_from: SegmentNo,
        /// Bytes of its body.
        body_bytes: u32,
        /// What it did, a line per item.
        items: Vec<String>,
    },
    /// Blocks that hold no record of this life: zeros, an earlier life, a torn write or damage.
    Other {
        /// The first byte.
        pos: u64,
        /// How many bytes.
        bytes: u64,
        /// Whether all of them are zero.
        zero: bool,
    },
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { pos, sequence, needed_from, body_bytes, items } => {
                let (sequence, needed) = (sequence.0, needed_from.0);
                write!(f, "{pos:>10}  record {sequence}, {body_bytes} bytes, needed from segment {needed}")?;
                items.iter().try_for_each(|item| write!(f, "\n{:>12}{item}", ""))
            }
            Self::Other { pos, bytes, zero: true } => write!(f, "{pos:>10}  {bytes} bytes of zeros"),
            Self::Other { pos, bytes, zero: false } => {
                write!(f, "{pos:>10}  {bytes} bytes that are no record")
            }
        }
    }
}

/// Reads the header and returns everything after it, in order.
///
/// # Errors
/// A sentence, if this is not a segment.
pub fn inspect(file: &[u8]) -> Result<(SegmentInfo, impl Iterator<Item = Seen>), String> {
    let header = SegmentHeader::decode(file).and_then(|header| header.of_file(file.len() as u64));
    let header = header.map_err(|bad| bad.to_string())?;
    let info =
        SegmentInfo { log_id: header.log_id, number: header.number, incarnation: header.incarnation.0 };
    let mut pos = usize::try_from(FIRST_RECORD_POS).expect("one block");
    let seen = std::iter::from_fn(move || {
        let rest = file.get(pos..).filter(|rest| !rest.is_empty())?;
        let seen = record(rest, pos as u64, header.incarnation).unwrap_or_else(|| {
            let blocks = rest.chunks(BLOCK_BYTES);
            let zero = is_zero(&rest[..BLOCK_BYTES.min(rest.len())]);
            let here = blocks.scan(0, |at, block| {
                let begins = *at;
                *at += block.len();
                Some((begins, block))
            });
            let alike = here.skip(1).find(|(at, block)| {
                is_zero(block) != zero || record(&rest[*at..], 0, header.incarnation).is_some()
            });
            let bytes = alike.map_or(rest.len(), |(at, _)| at) as u64;
            Seen::Other { pos: pos as u64, bytes, zero }
        });
        pos += match &seen {
            Seen::Record { body_bytes, .. } => {
                usize::try_from(super::format::record_bytes(*body_bytes as usize)).unwrap_or(usize::MAX)
            }
            Seen::Other { bytes, .. } => usize::try_from(*bytes).unwrap_or(usize::MAX),
        };
        Some(seen)
    });
    Ok((info, seen))
}

/// Whether a file of a log is the one that says where it ends.
pub fn is_end(path: &Path) -> bool {
    path.parent().is_some_and(|dir| witness::path(dir) == path)
}

/// Where a log went on, as its file `END` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Shared by all segments of one log.
    pub log_id: u64,
    /// The segment in which it went on.
    pub segment: SegmentNo,
    /// From which byte on.
    pub end: u64,
    /// The record that was durable.
    pub sequence: Sequence,
    /// How often the file has been written.
    pub round: u64,
}

impl fmt::Display for LogEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log_id, segment: SegmentNo(segment), end, sequence: Sequence(sequence), round } = self;
        write!(
            f,
            "log {log_id:016x} went on in segment {segment} at byte {end} when record {sequence} was durable (round {round})"
        )
    }
}

/// What the file says that says where a log ends.
///
/// # Errors
/// Corruption if neither of its slots is whole, Foreign for another version.
pub fn end(path: &Path, file: &[u8]) -> Result<LogEnd, Fault> {
    let Slot { log_id, round, reached } = witness::newest_of_file(path, file, file.len() as u64)?;
    let Reached { segment, end, sequence } = reached;
    Ok(LogEnd { log_id, segment, end, sequence, round })
}

/// Finds the damage that a segment itself proves, and the file `END` beside it. What only its neighbours prove needs the whole directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judge {
    /// The last record, and where it ended.
    last: Option<(Sequence, u64)>,
    /// Where something lies between records, or a record is missing.
    bad: Option<u64>,
}

impl Judge {
    /// Looks at what comes next in the segment.
    pub fn look(&mut self, seen: &Seen) {
        if let Seen::Record { pos, sequence, body_bytes, .. } = seen {
            let expected =
                self.last.map_or((*sequence, FIRST_RECORD_POS), |(last, end)| (Sequence(last.0 + 1), end));
            if (*sequence, *pos) != expected {
                self.bad.get_or_insert(expected.1);
            }
            self.last = Some((*sequence, pos + super::format::record_bytes(*body_bytes as usize)));
        }
    }

    /// Says where the damage is in the segment `file`, all of which has been looked at, if its log is known to have gone on at `log_end`.
    ///
    /// # Errors
    /// A sentence with the place.
    pub fn verdict(&self, file: &[u8], info: &SegmentInfo, log_end: Option<&LogEnd>) -> Result<(), String> {
        if let Some(pos) = self.bad {
            return Err(format!("what lies at byte {pos} is damaged: records go on after it"));
        }
        let (reached, next) = match self.last {
            Some((last, end)) => (end, Some(Sequence(last.0 + 1))),
            None => (FIRST_RECORD_POS, None),
        };
        let of_this = |it: &&LogEnd| (it.log_id, it.segment) == (info.log_id, info.number);
        if let Some(log_end) = log_end.filter(of_this)
            && log_end.end > reached
        {
            let (end, Sequence(sequence)) = (log_end.end, log_end.sequence);
            return Err(format!(
                "what lies at byte {reached} is damaged: END says that record {sequence} was durable before byte {end}"
            ));
        }
        let rest = usize::try_from(reached).ok().and_then(|from| file.get(from..)).unwrap_or_default();
        let flipped = next.and_then(|next| flipped_byte(Incarnation(info.incarnation), rest, next));
        match flipped {
            Some(place) => Err(format!(
                "the record at byte {reached} is damaged: one bit of byte {} is wrong",
                reached + place as u64
            )),
            None => Ok(()),
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn record(bytes: &[u8], pos: u64, incarnation: Incarnation) -> Option<Seen> {
    let header = RecordHeader::peek(bytes)?;
    let body = header.verify(incarnation, bytes)?;
    let items = items(body).map(|item| item.map_or_else(|bad| bad.to_string(), |item| describe(&item)));
    Some(Seen::Record {
        pos,
        sequence: header.sequence,
        needed_from: header.needed_from,
        body_bytes: header.body_bytes,
        items: items.collect(),
    })
}

fn describe(item: &Item<'_>) -> String {
    let span = |run: &Run<'_>| format!("{}..={}", run.first, run.first + u64::from(run.count) - 1);
    match item {
        Item::Append { group, run } => format!("group {group}: append {}", span(run)),
        Item::Moved { group, run } => format!("group {group}: moved {}", span(run)),
        Item::State { group, tag, span } => format!("group {group}: state {tag}, {} bytes", span.len),
        Item::Compact { group, index, term } => format!("group {group}: compact to {index} (term {term})"),
        Item::Reset { group, index, term } => format!("group {group}: reset to {index} (term {term})"),
        Item::Remove { group } => format!("group {group}: remove"),
    }
}
