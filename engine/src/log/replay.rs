//! The live entries once more, from front to back: what a start applies to the tree.
//!
//! Reading them group by group would read every record once per group that has an entry in it, and keeping them from the
//! recovery would hold the whole live log in memory. So the segments are read a second time, in pieces.
//!
//! Invariants: an entry is shown only from the record where the index has it, so what was overwritten is never shown; a replay that
//! returns has read every record up to the last one that there was when it began.

use std::rc::Rc;

use super::format::{Item, RecordAt, Sequence, items};
use super::plant::{Bug, planted};
use super::scan::{Scanned, Scanner};
use super::segment::Segment;
use super::{Entry, Shared};
use crate::error::{Fault, Result};

/// Payloads shown at a time, bytes.
const PIECE_BYTES: usize = 1 << 20;

/// See [`Log::replay`](super::Log::replay).
pub(super) async fn run(
    shared: &Shared,
    mut see: impl AsyncFnMut(Vec<(u64, Entry)>) -> Result<()>,
) -> Result<()> {
    // Holding the segments keeps them from being reused.
    let segments: Vec<Rc<Segment>> = shared.segments.borrow().values().cloned().collect();
    let end = shared.next_sequence.get();
    let budget = shared.rt.budget();
    let mut expected: Option<Sequence> = None;
    // Where reading ended last.
    let mut ended = None;
    let (mut piece, mut bytes) = (Vec::new(), 0);
    for segment in segments {
        let (mut scanner, mut records) = (Scanner::new(&segment, &budget).await?, 0);
        while let Some(record) = scanner.next(expected).await? {
            records += 1;
            expected = Some(Sequence(record.header.sequence.0 + 1));
            bytes += take_live(shared, &segment, &record, &mut piece)?;
            if bytes >= PIECE_BYTES {
                bytes = 0;
                see(std::mem::take(&mut piece)).await?;
            }
        }
        // A segment is begun only with a record, so the bad place is where the one before it ended.
        if records > 0 || ended.is_none() {
            ended = Some((segment.path.clone(), scanner.pos()));
        }
        if expected.is_none() {
            // Any record would do as the first of the next segment, and what should be here would be skipped.
            break;
        }
    }
    let next = expected.unwrap_or(Sequence(1));
    if let Some((path, pos)) = ended.filter(|_| next < end && !planted(Bug::ShortReplay)) {
        let what =
            format!("record {} at byte {pos} cannot be read back, which was there at the start", next.0);
        return Err(Fault::corruption(&path, what));
    }
    if piece.is_empty() { Ok(()) } else { see(piece).await }
}

/// Adds the entries of a record that are live there; the bytes of their payloads.
fn take_live(
    shared: &Shared,
    segment: &Segment,
    record: &Scanned,
    piece: &mut Vec<(u64, Entry)>,
) -> Result<usize> {
    let at = RecordAt::new(segment.number, record.pos);
    let malformed = |bad| Fault::corruption(&segment.path, format!("at byte {}: {bad}", record.pos));
    let index = shared.index.borrow();
    let mut bytes = 0;
    for item in items(&record.body) {
        let (group, run) = match item.map_err(malformed)? {
            Item::Append { group, run } | Item::Moved { group, run } => (group, run),
            Item::State { .. } | Item::Compact { .. } | Item::Reset { .. } | Item::Remove { .. } => continue,
        };
        for (entry_index, entry) in (run.first..).zip(run.entries()) {
            let entry = entry.map_err(malformed)?;
            let slot = index.group(group).and_then(|group| group.slot(entry_index));
            if slot.is_some_and(|slot| slot.at == at && slot.payload == entry.payload) {
                let payload = record.body.slice(entry.payload.range());
                bytes += payload.len();
                piece
                    .push((group, Entry { index: entry_index, term: entry.term, kind: entry.kind, payload }));
            }
        }
    }
    Ok(bytes)
}
