//! The body of a record: items, one after the other, as `format` draws them. Pure.
//!
//! It owns their encoding and decoding, and never reads past its bytes, whatever they are: a body that is intact but makes no sense is
//! malformed, which is not for this file to judge.

use std::fmt;

use super::format::{u32_at, u64_at};

const TAG_APPEND: u8 = 1;
const TAG_MOVED: u8 = 2;
const TAG_STATE: u8 = 3;
const TAG_COMPACT: u8 = 4;
const TAG_RESET: u8 = 5;
const TAG_REMOVE: u8 = 6;

/// Bytes of an entry before its payload.
pub(crate) const ENTRY_HEADER_BYTES: usize = 13;

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
