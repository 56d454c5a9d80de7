//! Entries from memory or from disk.

use std::ops::Range;

use bytes::Bytes;

use super::format::{RECORD_HEADER_BYTES, RecordAt, RecordHeader};
use super::segment::Segment;
use super::{Entry, Shared};
use crate::error::{Fault, Result};
use crate::rt::BLOCK_BYTES;

/// What is read before a record's length is known; most records fit.
const FIRST_READ_BYTES: usize = 4 * BLOCK_BYTES;

pub(crate) async fn entries(
    shared: &Shared,
    group: u64,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut held: Option<(RecordAt, Bytes)> = None;
    for index in range {
        let Some((slot, body)) = entry_body(shared, group, index, held.take()).await? else { break };
        let payload = body.slice(slot.payload.range());
        bytes += payload.len();
        if bytes > bytes_max && !found.is_empty() {
            break;
        }
        found.push(Entry { index, term: slot.term, kind: slot.kind, payload });
        held = Some((slot.at, body));
    }
    Ok(found)
}

/// Where the entry lies and the body of its record. Purge may move it during the read, so the index is asked again then.
async fn entry_body(
    shared: &Shared,
    group: u64,
    index: u64,
    held: Option<(RecordAt, Bytes)>,
) -> Result<Option<(super::group::Slot, Bytes)>> {
    loop {
        let slot = shared.index.borrow().group(group).and_then(|group| group.slot(index).copied());
        let Some(slot) = slot else { return Ok(None) };
        if let Some((_, body)) = held.as_ref().filter(|(at, _)| *at == slot.at) {
            return Ok(Some((slot, body.clone())));
        }
        if let Some(body) = shared.cache.borrow().get(slot.at) {
            return Ok(Some((slot, body)));
        }
        // Holding the segment keeps it from being reused.
        let segment = shared.segments.borrow().get(&slot.at.segment).cloned();
        let Some(segment) = segment else { continue };
        let body = read_record(&segment, slot.at).await?;
        shared.cache.borrow_mut().read(slot.at, body.clone());
        return Ok(Some((slot, body)));
    }
}

/// Reads and verifies one record.
async fn read_record(segment: &Segment, at: RecordAt) -> Result<Bytes> {
    let damaged = || {
        Fault::corruption(
            &segment.path,
            format!("the record at byte {} does not match its checksum", at.pos()),
        )
    };
    let first = segment.read(at.pos(), FIRST_READ_BYTES).await?;
    let header = RecordHeader::peek(&first).ok_or_else(damaged)?;
    if let Some(body) = header.verify(segment.incarnation, &first) {
        return Ok(Bytes::copy_from_slice(body));
    }
    if RECORD_HEADER_BYTES + header.body_bytes as usize <= FIRST_READ_BYTES {
        return Err(damaged());
    }
    let len = usize::try_from(header.record_bytes()).map_err(|_| damaged())?;
    let whole = segment.read(at.pos(), len).await?;
    header.verify(segment.incarnation, &whole).map(Bytes::copy_from_slice).ok_or_else(damaged)
}
