//! Reading a segment from front to back, and looking ahead from a bad place.

use bytes::Bytes;

use super::format::{
    BODY_BYTES_MAX, FIRST_RECORD_POS, RECORD_HEADER_BYTES, RecordHeader, Sequence, record_bytes,
};
use super::plant::{Bug, planted};
use super::segment::Segment;
use crate::error::Result;
use crate::rt::{BLOCK_BYTES, Budget, Buf};

/// How much is read at first: most looks at a segment only want to know whether it begins with a record.
const WINDOW_BYTES_MIN: usize = 128 << 10;
/// How much is read at once further on. A disk is fast only with several megabytes in flight.
const WINDOW_BYTES_MAX: usize = 4 << 20;
/// How much of a damaged record is looked at even if it says that it is shorter.
const REMAINS_BYTES_MIN: u64 = 64 << 10;

/// A record that checked out.
pub(crate) struct Scanned {
    pub(crate) pos: u64,
    pub(crate) header: RecordHeader,
    pub(crate) body: Bytes,
}

/// What is left of a record that does not check out.
pub(crate) struct Remains {
    /// What it says of itself; nothing of it is certain.
    pub(crate) header: RecordHeader,
    /// From its first byte to where it says that it ends, or further.
    pub(crate) bytes: Bytes,
}

/// A place in a segment, and the bytes around it.
pub(crate) struct Scanner<'a> {
    segment: &'a Segment,
    budget: &'a Budget,
    file_bytes: u64,
    pos: u64,
    window_pos: u64,
    window: Option<Buf>,
    window_bytes: usize,
}

impl<'a> Scanner<'a> {
    /// Begins at the first record.
    pub(crate) async fn new(segment: &'a Segment, budget: &'a Budget) -> Result<Self> {
        let file_bytes = segment.file_bytes().await?;
        let (pos, window_bytes) = (FIRST_RECORD_POS, WINDOW_BYTES_MIN);
        Ok(Self { segment, budget, file_bytes, pos, window_pos: 0, window: None, window_bytes })
    }

    /// Goes to where a record begins.
    pub(crate) fn seek(&mut self, pos: u64) {
        self.pos = pos;
    }

    /// Where the next record would begin.
    pub(crate) fn pos(&self) -> u64 {
        self.pos
    }

    /// Whether no record fits here any more.
    pub(crate) fn is_at_end(&self) -> bool {
        self.pos + BLOCK_BYTES as u64 > self.file_bytes
    }

    /// The record here, if it is intact and has the expected sequence. Without one the scanner stays where it is.
    pub(crate) async fn next(&mut self, expected: Option<Sequence>) -> Result<Option<Scanned>> {
        self.budget.tick().await;
        let scanned =
            self.record_at(self.pos, |header| expected.is_none_or(|expected| header.sequence == expected));
        let scanned = scanned.await?;
        if let Some(scanned) = &scanned {
            self.pos += scanned.header.record_bytes();
        }
        Ok(scanned)
    }

    /// What lies here and claims to be the record `sequence`, damaged as it is. Its length may be wrong, so at least some
    /// blocks are shown, as far as the file goes.
    pub(crate) async fn remains_of(&mut self, sequence: Sequence) -> Result<Option<Remains>> {
        let header = RecordHeader::fields(self.bytes(self.pos, BLOCK_BYTES).await?);
        let Some(header) = header.filter(|header| header.claims_to_be(sequence)) else { return Ok(None) };
        let wanted = header.record_bytes().clamp(REMAINS_BYTES_MIN, record_bytes(BODY_BYTES_MAX));
        let left = self.file_bytes.saturating_sub(self.pos).min(wanted);
        let len = usize::try_from(left).expect("no longer than a record");
        let bytes = Bytes::copy_from_slice(self.bytes(self.pos, len).await?);
        Ok(Some(Remains { header, bytes }))
    }

    /// The first intact record from here on that was written after `missing` had become durable.
    pub(crate) async fn proof_of(&mut self, missing: Sequence) -> Result<Option<Scanned>> {
        let mut pos = self.pos;
        while pos + BLOCK_BYTES as u64 <= self.file_bytes {
            self.budget.tick().await;
            let proves = |header: &RecordHeader| header.sequence > missing && header.durable_to >= missing;
            if let Some(proof) = self.record_at(pos, proves).await? {
                return Ok(Some(proof));
            }
            pos += BLOCK_BYTES as u64;
        }
        Ok(None)
    }

    async fn record_at(
        &mut self,
        pos: u64,
        plausible: impl Fn(&RecordHeader) -> bool,
    ) -> Result<Option<Scanned>> {
        let Some(header) = RecordHeader::peek(self.bytes(pos, BLOCK_BYTES).await?) else { return Ok(None) };
        if !plausible(&header) || pos + header.record_bytes() > self.file_bytes {
            return Ok(None);
        }
        let incarnation = self.segment.incarnation;
        let len = usize::try_from(header.record_bytes()).expect("no longer than the file");
        let end = RECORD_HEADER_BYTES + header.body_bytes as usize;
        let bytes = self.bytes(pos, len).await?;
        let body = match header.verify(incarnation, bytes) {
            None if planted(Bug::TornAccepted) => bytes.get(RECORD_HEADER_BYTES..end),
            verified => verified,
        };
        let body = body.map(Bytes::copy_from_slice);
        Ok(body.map(|body| Scanned { pos, header, body }))
    }

    /// `len` bytes at `pos`; fewer at the end of the file.
    async fn bytes(&mut self, pos: u64, len: usize) -> Result<&[u8]> {
        let held = self.window.as_ref().map_or(0, |window| window.len()) as u64;
        let inside = pos >= self.window_pos && pos + len as u64 <= self.window_pos + held;
        if !inside {
            let wanted = len.max(self.window_bytes).next_multiple_of(BLOCK_BYTES);
            self.window = Some(self.segment.read(pos, wanted).await?);
            self.window_pos = pos;
            self.window_bytes = WINDOW_BYTES_MAX.min(4 * self.window_bytes);
        }
        let window: &[u8] = self.window.as_deref().unwrap_or_default();
        let from = usize::try_from(pos - self.window_pos).expect("inside the window");
        Ok(&window[from.min(window.len())..(from + len).min(window.len())])
    }
}
