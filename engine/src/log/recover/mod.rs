//! The way back: what was durable, and nothing else.
//!
//! [`Recovery::read`] reads and judges and changes nothing, so that its caller can judge, too, before anything is lost;
//! [`Recovery::open`] makes the log ready to be written. What must be there is said by [`Origin`](crate::origin::Origin): only a
//! log that may be new is created.
//!
//! 1. Find the newest segment that begins with a record: the tail. Its records say which segments are still needed; all of
//!    those up to the newest must be there.
//! 2. Read the needed segments in order and apply their records. Sequences must not skip.
//! 3. Judge the first place after the last record ([`end`]): if what lies there is known to have been written whole, it is damage: a
//!    fault, and nothing is changed on disk. Otherwise it is a torn write: it is cut, the cut is made durable, and what it may have
//!    held is reported.
//! 4. Compare with what `END` says ([`witnessed`]): a log that reaches less far has lost its end.
//! 5. On opening, sync the directory and write the last record again. Names and that record may not be durable yet, because the process
//!    before may have been killed before its sync, or its sync may have failed; from here on they count as durable, so they must be. Then
//!    append an empty record, which vouches for the last one and says how often the log has been opened.

mod end;
mod found;
mod ready;
mod replay;
mod witnessed;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub use end::{Claim, Cut};

use super::cache::RecordCache;
use super::group::{Group, Position};
use super::index::Index;
use super::plant::{Bug, planted};
use super::segment::segment_path;
use super::witness::{self, Slot};
use super::{Log, LogOptions, Shared};
use crate::error::{Fault, Result};
use crate::rt::Rt;
use end::{Torn, classify_end};
use found::{
    Found, common_log_id, find, missing_next, nothing_written, or_end_is_gone, remove_unfinished, tail_of,
    whole_from,
};
use ready::{create, make_ready, shared};
use replay::{Replay, replay};

/// What a log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every group with what is live of it.
    pub groups: BTreeMap<u64, RecoveredGroup>,
    /// What was cut at the end, if something was.
    pub cut: Option<Cut>,
    /// Records read.
    pub records: u64,
    /// Segments read.
    pub segments: usize,
    /// How often the log has been opened, this time included if that is durable. On a full disk it may not be.
    pub opened: u64,
}

/// An entry without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId {
    /// Its index in its group.
    pub index: u64,
    /// The term in which it was proposed.
    pub term: u64,
    /// What the payload is.
    pub kind: u8,
}

/// What a log held of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Up to where the group was compacted or reset.
    pub compacted: Option<Position>,
    /// Its entries, consecutive. Their payloads stay on disk, because there may be more of them than memory.
    pub entries: Vec<EntryId>,
    /// Its states by tag.
    pub states: BTreeMap<u8, Bytes>,
}

/// A log as it lies on disk, read and found whole.
#[derive(Debug)]
pub struct Recovery {
    rt: Rt,
    dir: PathBuf,
    options: LogOptions,
    names: Vec<String>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// There is none, and that is right.
    Absent,
    Present(Box<Present>),
}

#[derive(Debug)]
struct Present {
    log_id: u64,
    found: Vec<Found>,
    replay: Replay,
    torn: Option<Torn>,
    said: Option<Slot>,
}

impl Recovery {
    /// Reads the log in `dir`. Nothing on disk is changed.
    ///
    /// # Errors
    /// Corruption if something that had been durable is damaged or missing, Foreign if the files are of another version, of
    /// another log, or an older copy.
    pub async fn read(rt: &Rt, dir: &Path, options: LogOptions) -> Result<Self> {
        let there = rt.exists(dir).await.map_err(|e| Fault::io(dir, "looking for the directory", &e))?;
        let names = match there {
            true => rt.read_dir(dir).await.map_err(|e| Fault::io(dir, "listing the directory", &e))?,
            false => Vec::new(),
        };
        let found = find(rt, dir, &names).await?;
        let said = witness::read(rt, dir, &names).await?;
        let state = if found.is_empty() {
            options.origin.may_be_absent(dir, "log")?;
            witnessed::may_be_absent(dir, said.as_ref())?;
            State::Absent
        } else {
            State::Present(Box::new(read_back(rt, dir, &options, found, said).await?))
        };
        Ok(Self { rt: rt.clone(), dir: dir.to_owned(), options, names, state })
    }

    /// A state of `group`.
    pub fn state(&self, group: u64, tag: u8) -> Option<Bytes> {
        self.index()?.group(group)?.state(tag).cloned()
    }

    /// Index of the last entry of `group`; without entries, that of the compaction mark.
    pub fn last_index(&self, group: u64) -> Option<u64> {
        let group = self.index()?.group(group)?;
        group.last_index().or_else(|| group.mark().map(|mark| mark.index))
    }

    /// The groups that the log knows, in order.
    pub fn groups(&self) -> Vec<u64> {
        self.index().map(|index| index.groups().map(|(id, _)| id).collect()).unwrap_or_default()
    }

    /// Records and segments that were read.
    pub fn size(&self) -> (u64, usize) {
        match &self.state {
            State::Absent => (0, 0),
            State::Present(present) => {
                let used = present.replay.tail.0 - present.replay.needed_from.0 + 1;
                (present.replay.records, usize::try_from(used).unwrap_or(usize::MAX))
            }
        }
    }

    /// The write at the end that opening would cut, if there is one.
    pub fn torn(&self) -> Option<Cut> {
        let State::Present(present) = &self.state else { return None };
        let Torn { segment, pos, bytes, empty, claims } = present.torn.as_ref()?;
        Some(Cut {
            path: segment_path(&self.dir, *segment),
            pos: *pos,
            sequence: present.replay.next,
            bytes: *bytes,
            empty: *empty,
            claims: claims.clone(),
        })
    }

    /// The segment in which the log ends; the one after it, if that is missing; the directory, if there is no log.
    pub fn end(&self) -> PathBuf {
        match &self.state {
            State::Absent => self.dir.clone(),
            State::Present(present) => {
                let Present { found, replay, .. } = &**present;
                missing_next(&self.dir, found, replay.tail)
                    .unwrap_or_else(|| segment_path(&self.dir, replay.tail))
            }
        }
    }

    fn index(&self) -> Option<&Index> {
        match &self.state {
            State::Absent => None,
            State::Present(present) => Some(&present.replay.index),
        }
    }

    /// Makes the log ready to be written: creates what may be new, cuts what was torn.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn open(self) -> Result<(Log, Recovered)> {
        let cut = self.torn();
        if let Some(cut) = &cut {
            tracing::warn!(file = %cut.path.display(), pos = cut.pos, bytes = cut.bytes, "{cut}");
        }
        let Self { rt, dir, options, names, state } = self;
        rt.create_dir_all(&dir).await.map_err(|e| Fault::io(&dir, "creating the directory", &e))?;
        let (replay, files, said) = match state {
            State::Absent => {
                remove_unfinished(&rt, &dir, &names).await?;
                let (replay, files) = create(&rt, &dir, &options).await?;
                (replay, files, None)
            }
            State::Present(present) => {
                let said = present.said;
                let (replay, files) = make_ready(&rt, &dir, &options, *present).await?;
                remove_unfinished(&rt, &dir, &names).await?;
                (replay, files, said)
            }
        };
        let witness = ready::witness(&rt, &dir, said, &files, &replay).await?;
        let groups = replay.index.groups().map(|(id, group)| (id, recovered_group(group))).collect();
        let (segments, opened) = (files.used.len(), replay.opened);
        let recovered = Recovered { groups, cut: cut.clone(), records: replay.records, segments, opened };
        let cache = RecordCache::new(options.cache_bytes_max);
        let shared = shared(&rt, &dir, options, replay, files, cache);
        Log::run(Shared { cut, witness, ..shared }, recovered).await
    }
}

async fn read_back(
    rt: &Rt,
    dir: &Path,
    options: &LogOptions,
    found: Vec<Found>,
    said: Option<Slot>,
) -> Result<Present> {
    let budget = rt.budget();
    let log_id = common_log_id(dir, &found, &options.origin)?;
    witnessed::check_files(dir, log_id, &found, said.as_ref())?;
    let replay = match tail_of(rt, &found, &budget).await? {
        Some(tail) => replay(rt, dir, &found, tail, &budget).await?,
        None => nothing_written(dir, &found)?,
    };
    let torn = classify_end(rt, &whole_from(dir, &found, replay.needed_from)?, &replay, &budget).await?;
    witnessed::check_records(dir, &found, &replay, said.as_ref())?;
    if let Some((group, index)) = replay.index.first_hole() {
        let what = format!("group {group} has later entries but none at index {index}");
        return Err(Fault::corruption(dir, what));
    }
    if !planted(Bug::OlderCopy) {
        let no_older = options.origin.is_no_older_copy(dir, "log", replay.opened);
        no_older.map_err(|older| or_end_is_gone(older, dir, &found, replay.tail))?;
    }
    Ok(Present { log_id, found, replay, torn, said })
}

fn recovered_group(group: &Group) -> RecoveredGroup {
    let entry =
        |(index, slot): (u64, &super::group::Slot)| EntryId { index, term: slot.term, kind: slot.kind };
    RecoveredGroup {
        compacted: group.mark(),
        entries: group.slots().map(entry).collect(),
        states: group.states().map(|(tag, value)| (tag, value.clone())).collect(),
    }
}
