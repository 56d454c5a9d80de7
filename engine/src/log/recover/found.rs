//! The segment files of a directory: which there are, whose they are, which of them a recovery needs.
//!
//! It owns the judgement of whole files. What lies in them is read by `replay`.
//!
//! Invariant: a file that is missing or that is not what its name says is named in the fault, not the directory that it lies in.

use std::path::{Path, PathBuf};

use super::replay::Replay;
use crate::error::{Fault, Result};
use crate::log::format::{BadHeader, SegmentHeader, SegmentNo};
use crate::log::plant::{Bug, planted};
use crate::log::scan::Scanner;
use crate::log::segment::{Segment, read_header, segment_number, segment_path};
use crate::origin::Origin;
use crate::rt::{Budget, Rt};

/// A segment file as found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) number: SegmentNo,
    pub(super) path: PathBuf,
    pub(super) header: std::result::Result<SegmentHeader, BadHeader>,
}

/// Opens every segment file far enough to know what it says it is.
pub(super) async fn find(rt: &Rt, dir: &Path, names: &[String]) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for number in names.iter().filter_map(|name| segment_number(name)) {
        let path = segment_path(dir, number);
        let header = read_header(rt, &path).await?;
        found.push(Found { number, path, header });
    }
    found.sort_by_key(|found| found.number);
    Ok(found)
}

pub(super) async fn remove_unfinished(rt: &Rt, dir: &Path, names: &[String]) -> Result<()> {
    for name in names.iter().filter(|name| name.ends_with(".new")) {
        let path = dir.join(name);
        rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing an unfinished segment", &e))?;
    }
    Ok(())
}

/// The id that all segments share, which is the expected one, if one is expected.
pub(super) fn common_log_id(dir: &Path, found: &[Found], origin: &Origin) -> Result<u64> {
    let intact = || found.iter().filter_map(|found| Some((found, found.header.ok()?.log_id)));
    if let Some((found, bad)) = found.iter().find_map(|found| match found.header {
        Err(bad @ BadHeader::Version(_)) => Some((found, bad)),
        Err(BadHeader::Damaged | BadHeader::CutOff { .. }) | Ok(_) => None,
    }) {
        return Err(Fault::foreign(&found.path, format!("{bad}; start the version that wrote it")));
    }
    let Some((_, first)) = intact().next() else {
        let why = found[0].header.err().map_or("its header is damaged".to_owned(), |bad| bad.to_string());
        return Err(Fault::corruption(&found[0].path, format!("{why}, and no other segment is intact")));
    };
    let expected = origin.id.unwrap_or(first);
    match intact().find(|(_, id)| *id != expected) {
        None => Ok(expected),
        Some(_) if planted(Bug::AnyLog) => Ok(first),
        Some(_) if intact().all(|(_, id)| id == first) => {
            origin.is_its_own(dir, "log", first)?;
            Ok(first)
        }
        Some((found, id)) => {
            let what = format!(
                "the segment belongs to the log {id:016x}, the others here to {expected:016x}; put the right one back, or \
                 restore the whole data directory from a backup"
            );
            Err(Fault::foreign(&found.path, what))
        }
    }
}

impl Found {
    /// The header, if this file is what its name says.
    pub(super) fn own_header(&self) -> Option<SegmentHeader> {
        self.header.ok().filter(|header| header.number == self.number)
    }

    pub(super) async fn open(&self, rt: &Rt) -> Result<Option<Segment>> {
        match self.own_header() {
            Some(header) => Segment::open(rt, self.path.clone(), header, None).await.map(Some),
            None => Ok(None),
        }
    }
}

/// The newest segment that begins with a record.
pub(super) async fn tail_of(rt: &Rt, found: &[Found], budget: &Budget) -> Result<Option<SegmentNo>> {
    for found in found.iter().rev() {
        let Some(segment) = found.open(rt).await? else { continue };
        let first = Scanner::new(&segment, budget).await?.next(None).await?;
        segment.close().await?;
        if first.is_some() {
            return Ok(Some(found.number));
        }
    }
    Ok(None)
}

/// The segment after the last one with a record, if it is not there. One is always kept ready, so it has been removed, unless the
/// process before ended before it was made.
pub(super) fn missing_next(dir: &Path, found: &[Found], tail: SegmentNo) -> Option<PathBuf> {
    let next = SegmentNo(tail.0 + 1);
    (!found.iter().any(|found| found.number == next)).then(|| segment_path(dir, next))
}

/// Names the end of the log, too, where its loss explains `fault`: a log that has lost its end looks like an older one, and asks for
/// segments that are long reused. The end is in the segment after `tail`, if that is not there, else in `tail` or at the beginning of
/// the one after it.
pub(super) fn or_end_is_gone(mut fault: Fault, dir: &Path, found: &[Found], tail: SegmentNo) -> Fault {
    if found.iter().any(|found| found.path == fault.path) {
        // A file that is there and wrong explains itself.
        return fault;
    }
    let end = match missing_next(dir, found, tail) {
        Some(missing) => format!("there is no {}", missing.display()),
        None => {
            let [tail, next] = [tail.0, tail.0 + 1].map(|number| segment_path(dir, SegmentNo(number)));
            format!("records of {}, or the first of {}", tail.display(), next.display())
        }
    };
    fault.what += &format!("; or the log's end is gone: {end}");
    fault
}

/// A log that was created but never written.
pub(super) fn nothing_written(dir: &Path, found: &[Found]) -> Result<Replay> {
    let first = SegmentNo(1);
    let oldest = found[0].number;
    if oldest != first {
        let what = format!(
            "the segment is missing: no segment has a record, but the oldest one is number {}",
            oldest.0
        );
        return Err(Fault::corruption(&segment_path(dir, SegmentNo(oldest.0 - 1)), what));
    }
    Ok(Replay::empty(first))
}

/// The files from `from` on, all there and all what they say they are.
pub(super) fn whole_from<'a>(dir: &Path, found: &'a [Found], from: SegmentNo) -> Result<Vec<&'a Found>> {
    let needed: Vec<_> = found.iter().filter(|found| found.number >= from).collect();
    // First what is there and wrong: where the newest records cannot be read, older ones ask for segments that left long ago.
    for found in &needed {
        if let Err(bad) = found.header {
            return Err(Fault::corruption(&found.path, bad.to_string()));
        }
        if found.own_header().is_none() {
            return Err(Fault::corruption(&found.path, "it is another segment than its name says"));
        }
    }
    if let Some((number, _)) = (from.0..).zip(&needed).find(|(number, found)| found.number.0 != *number) {
        let path = segment_path(dir, SegmentNo(number));
        return Err(Fault::corruption(&path, "the segment is missing, but later ones are there"));
    }
    Ok(needed)
}
