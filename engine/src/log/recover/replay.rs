//! The records of the needed segments, applied in order: what the log says.
//!
//! It owns the order of records. A gap in the sequence is damage, because a record is written only after the one before it is
//! durable. Where the records end is judged by `end`.

use std::path::Path;

use super::found::{Found, or_end_is_gone, whole_from};
use crate::error::{Fault, Result};
use crate::log::format::{FIRST_RECORD_POS, RecordAt, SegmentNo, Sequence};
use crate::log::index::Index;
use crate::log::scan::{Scanned, Scanner};
use crate::log::segment::segment_path;
use crate::rt::{Budget, Rt};

/// The log as its records describe it.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) index: Index,
    pub(super) records: u64,
    pub(super) next: Sequence,
    pub(super) needed_from: SegmentNo,
    pub(super) tail: SegmentNo,
    /// Where the tail's last record begins.
    pub(super) last: Option<u64>,
    /// Where the tail's records end.
    pub(super) end: u64,
    /// How often the log had been opened when its last record was written.
    pub(super) opened: u64,
}

pub(super) async fn replay(
    rt: &Rt,
    dir: &Path,
    found: &[Found],
    tail: SegmentNo,
    budget: &Budget,
) -> Result<Replay> {
    let of_tail = found.iter().find(|found| found.number == tail).expect("it was found");
    // The tail is read twice: what lies before it has to be applied first, and memory does not hold a whole segment.
    let (mut needed_from, mut first, mut last_pos) = (None, None, None);
    let end = read_segment(rt, of_tail, None, budget, |record| {
        needed_from = needed_from.max(Some(record.header.needed_from));
        first.get_or_insert(record.header.sequence);
        last_pos = Some(record.pos);
        Ok(())
    });
    let end = end.await?.pos;
    let needed_from = needed_from.unwrap_or(tail);
    if needed_from > tail {
        let what =
            format!("the log is needed from this segment on, but the last record is in segment {}", tail.0);
        return Err(Fault::corruption(&segment_path(dir, needed_from), what));
    }
    let mut replay = Replay { needed_from, tail, last: last_pos, end, ..Replay::empty(needed_from) };
    let mut expected: Option<Sequence> = None;
    let mut ended: Option<(&Path, End)> = None;
    let needed =
        whole_from(dir, found, needed_from).map_err(|fault| or_end_is_gone(fault, dir, found, tail))?;
    for found in needed.into_iter().take_while(|found| found.number < tail) {
        let before = replay.records;
        let end = read_segment(rt, found, expected, budget, |record| replay.apply(found, &record)).await?;
        if replay.records == before {
            return Err(damaged(place(ended, found), expected, found.number));
        }
        (expected, ended) = (Some(replay.next), Some((found.path.as_path(), end)));
    }
    if ended.is_some() && expected != first {
        return Err(damaged(place(ended, of_tail), expected, tail));
    }
    read_segment(rt, of_tail, first, budget, |record| replay.apply(of_tail, &record)).await?;
    Ok(replay)
}

/// Where records of a segment end.
struct End {
    pos: u64,
    /// No other record fits behind it.
    is_full: bool,
}

/// Where the record is to be looked for that comes after those of one segment and does not begin `next`.
fn place<'a>(ended: Option<(&'a Path, End)>, next: &'a Found) -> (&'a Path, u64) {
    match ended {
        Some((path, End { pos, is_full: false })) => (path, pos),
        Some((_, End { is_full: true, .. })) | None => (&next.path, FIRST_RECORD_POS),
    }
}

fn damaged((path, pos): (&Path, u64), expected: Option<Sequence>, proof: SegmentNo) -> Fault {
    let record = expected.map_or("the first record".to_owned(), |sequence| format!("record {}", sequence.0));
    let what = format!(
        "{record} is damaged or missing at or after byte {pos}, but segment {} goes on after it",
        proof.0
    );
    Fault::corruption(path, what)
}

/// Shows all intact records of one segment, one after the other; where they end.
async fn read_segment(
    rt: &Rt,
    found: &Found,
    mut expected: Option<Sequence>,
    budget: &Budget,
    mut see: impl FnMut(Scanned) -> Result<()>,
) -> Result<End> {
    let segment = found.open(rt).await?.expect("its header was checked");
    let mut scanner = Scanner::new(&segment, budget).await?;
    while let Some(record) = scanner.next(expected).await? {
        expected = Some(Sequence(record.header.sequence.0 + 1));
        see(record)?;
    }
    let end = End { pos: scanner.pos(), is_full: scanner.is_at_end() };
    segment.close().await?;
    Ok(end)
}

impl Replay {
    pub(super) fn empty(first: SegmentNo) -> Self {
        Self {
            index: Index::default(),
            records: 0,
            next: Sequence(1),
            needed_from: first,
            tail: first,
            last: None,
            end: FIRST_RECORD_POS,
            opened: 0,
        }
    }

    fn apply(&mut self, found: &Found, record: &Scanned) -> Result<()> {
        let at = RecordAt::new(found.number, record.pos);
        let malformed = |bad| Fault::corruption(&found.path, format!("at byte {}: {bad}", record.pos));
        self.index.apply(at, &record.body).map_err(malformed)?;
        self.records += 1;
        self.opened = record.header.opened;
        self.next = Sequence(record.header.sequence.0 + 1);
        Ok(())
    }
}
