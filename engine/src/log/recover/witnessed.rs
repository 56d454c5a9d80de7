//! What was found against what `END` says must be there ([`super::super::witness`]). Pure.
//!
//! It owns the judgement: less than the file says is damage, more is what was written since. The file itself must be there where the
//! header of any segment says so. A log of 0.1 has no such header, so there its absence is accepted, and the opening makes the file.
//!
//! Limit: a log that was taken over from 0.1 has such a header only from its next new segment on.

use std::path::Path;

use super::found::Found;
use super::replay::Replay;
use crate::error::{Fault, Result};
use crate::log::format::{FIRST_RECORD_POS, SegmentNo};
use crate::log::plant::{Bug, planted};
use crate::log::segment::segment_path;
use crate::log::witness::{self, Slot};

/// Refuses a directory in which the segments are gone, but not what says where they ended.
pub(super) fn may_be_absent(dir: &Path, said: Option<&Slot>) -> Result<()> {
    let Some(Slot { reached, log_id: _, round: _ }) = said else { return Ok(()) };
    let what = format!("the segment is gone, and all others are: {} is there", witness::path(dir).display());
    Err(Fault::corruption(&segment_path(dir, reached.segment), what))
}

/// Before the records are read: whether the files are there. `found` is in order and not empty.
pub(super) fn check_files(dir: &Path, log_id: u64, found: &[Found], said: Option<&Slot>) -> Result<()> {
    let Some(Slot { log_id: of, reached, round: _ }) = said else { return Ok(()) };
    if *of != log_id && !planted(Bug::AnyLog) {
        let what = format!(
            "it belongs to the log {of:016x}, the segments here to {log_id:016x}; put the right one back, or restore the \
             whole data directory from a backup"
        );
        return Err(Fault::foreign(&witness::path(dir), what));
    }
    let newest = found.last().expect("there is a segment").number;
    if newest < reached.segment && !planted(Bug::NoWitness) {
        let what = format!("the segment is gone: according to {} the log went on in it", name(dir));
        return Err(Fault::corruption(&segment_path(dir, reached.segment), what));
    }
    Ok(())
}

/// After they were read: whether they reach as far as they did.
pub(super) fn check_records(dir: &Path, found: &[Found], replay: &Replay, said: Option<&Slot>) -> Result<()> {
    let Some(Slot { reached, log_id: _, round: _ }) = said else { return check_absence(dir, found, replay) };
    if replay.next > reached.sequence || planted(Bug::NoWitness) || planted(Bug::SilentTruncation) {
        return Ok(());
    }
    // A segment in which nothing was written yet lacks nothing, so the one before it does.
    let lacks = match reached.end > FIRST_RECORD_POS {
        true => reached.segment,
        false => SegmentNo(reached.segment.0.saturating_sub(1)),
    };
    let lacks = lacks.max(replay.tail);
    let (first, last) = (replay.next.0, reached.sequence.0);
    let what = format!(
        "the log ends before record {first}, but according to {} records up to {last} were durable: the end of this file \
         is damaged",
        name(dir)
    );
    Err(Fault::corruption(&segment_path(dir, lacks), what))
}

/// The file may be absent if the log is older than it, or if its creation ended between its first segment and the file.
fn check_absence(dir: &Path, found: &[Found], replay: &Replay) -> Result<()> {
    let begun = found.len() > 1 || replay.records > 0;
    let marked = found.iter().filter_map(Found::own_header).any(|header| header.witnessed);
    if begun && marked && !planted(Bug::NoWitness) {
        return Err(Fault::corruption(&witness::path(dir), "the file that says where the log ends is gone"));
    }
    Ok(())
}

fn name(dir: &Path) -> String {
    witness::path(dir).display().to_string()
}
