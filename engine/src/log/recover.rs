//! The way back: what was durable, and nothing else.
//!
//! [`Recovery::read`] reads and judges and changes nothing, so that its caller can judge, too, before anything is lost;
//! [`Recovery::open`] makes the log ready to be written. What must be there is said by [`Origin`]: only a
//! log that may be new is created.
//!
//! 1. Find the newest segment that begins with a record: the tail. Its records say which segments are still needed; all of
//!    those up to the newest must be there.
//! 2. Read the needed segments in order and apply their records. Sequences must not skip.
//! 3. Classify the first place behind the last record. If a later record, in the tail or in the segment after it, says that
//!    this place had been durable, it is damage: a fault, and nothing is changed on disk. Otherwise it is a write that was never
//!    answered: it is cut, and the cut is made durable.
//! 4. On opening, write the last record again. It may still be in a cache below, because the process before may have been killed before its
//!    sync, or its sync may have failed; from here on the record counts as durable, so it must be. Then append an empty record,
//!    which vouches for it and says how often the log has been opened.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::cache::RecordCache;
use super::format::{BadHeader, FIRST_RECORD_POS, Item, RecordAt, SegmentHeader, SegmentNo, Sequence};
use super::index::{Group, Index, Position};
use super::patience::Patience;
use super::plant::{Bug, planted};
use super::scan::{Scanned, Scanner};
use super::segment::{Segment, Unfinished, read_header, segment_number, segment_path};
use super::spares::{Retired, new_header};
use super::{Log, LogOptions, Shared, Written};
use crate::error::{Fault, Result};
use crate::origin::Origin;
use crate::rt::local::Bell;
use crate::rt::{BLOCK_BYTES, Budget, Meanwhile, Rt};

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

/// A write at the end of the log that was never answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment file.
    pub path: PathBuf,
    /// Where in it the log now ends, bytes.
    pub pos: u64,
    /// The sequence that the write would have had.
    pub sequence: Sequence,
    /// What was cut, bytes, as far as its header can be believed.
    pub bytes: u64,
    /// The groups whose entries it would have held, and the last index of each, as far as they can be made out.
    pub claims: BTreeMap<u64, u64>,
}

/// A segment file as found.
#[derive(Debug)]
struct Found {
    number: SegmentNo,
    path: PathBuf,
    header: std::result::Result<SegmentHeader, BadHeader>,
}

/// The log as its records tell it.
#[derive(Debug)]
struct Replay {
    index: Index,
    records: u64,
    next: Sequence,
    needed_from: SegmentNo,
    tail: SegmentNo,
    /// Where the tail's last record begins.
    last: Option<u64>,
    /// Where the tail's records end.
    end: u64,
    /// How often the log had been opened when its last record was written.
    opened: u64,
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
}

/// A write at the end that is not whole.
#[derive(Debug)]
struct Torn {
    segment: SegmentNo,
    pos: u64,
    bytes: u64,
    claims: BTreeMap<u64, u64>,
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
        let state = if found.is_empty() {
            options.origin.may_be_absent(dir, "log")?;
            State::Absent
        } else {
            State::Present(Box::new(read_back(rt, dir, &options, found).await?))
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
        let Torn { segment, pos, bytes, claims } = present.torn.as_ref()?;
        Some(Cut {
            path: segment_path(&self.dir, *segment),
            pos: *pos,
            sequence: present.replay.next,
            bytes: *bytes,
            claims: claims.clone(),
        })
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
        if let Some(Cut { path, pos, sequence, bytes, .. }) = &cut {
            tracing::warn!(
                file = %path.display(),
                pos,
                record = sequence.0,
                bytes,
                "the log ends in a write that is not whole; as far as this file tells it was never acknowledged, and it is cut"
            );
        }
        let Self { rt, dir, options, names, state } = self;
        rt.create_dir_all(&dir).await.map_err(|e| Fault::io(&dir, "creating the directory", &e))?;
        let (replay, files) = match state {
            State::Absent => {
                remove_unfinished(&rt, &dir, &names).await?;
                create(&rt, &dir, &options).await?
            }
            State::Present(present) => {
                let opened = make_ready(&rt, &dir, &options, *present).await?;
                remove_unfinished(&rt, &dir, &names).await?;
                opened
            }
        };
        let groups = replay.index.groups().map(|(id, group)| (id, recovered_group(group))).collect();
        let (segments, opened) = (files.used.len(), replay.opened);
        let recovered = Recovered { groups, cut, records: replay.records, segments, opened };
        let cache = RecordCache::new(options.cache_bytes_max);
        Log::run(shared(&rt, &dir, options, replay, files, cache), recovered).await
    }
}

/// The segment files, opened for their purpose.
struct Files {
    log_id: u64,
    used: BTreeMap<SegmentNo, Rc<Segment>>,
    active: Rc<Segment>,
    ready: VecDeque<Segment>,
    retired: VecDeque<Retired>,
    next_number: SegmentNo,
}

/// The first segment is short: a new log should not wait until a whole one is zeroed.
const FIRST_SEGMENT_BYTES: u64 = 16 << 20;

async fn create(rt: &Rt, dir: &Path, options: &LogOptions) -> Result<(Replay, Files)> {
    let log_id = options.origin.id.unwrap_or_else(|| rt.random());
    let (first, bytes) = (SegmentNo(1), options.segment_bytes.min(FIRST_SEGMENT_BYTES));
    let mut unfinished = Unfinished::create(rt, dir, new_header(rt, log_id, first, bytes)).await?;
    while unfinished.zero_piece(rt).await? {}
    let active = Rc::new(unfinished.finish(rt, dir, options.sync).await?);
    let used = BTreeMap::from([(first, active.clone())]);
    let (ready, retired) = (VecDeque::new(), VecDeque::new());
    let files = Files { log_id, used, active, ready, retired, next_number: SegmentNo(2) };
    Ok((Replay::empty(first), files))
}

async fn read_back(rt: &Rt, dir: &Path, options: &LogOptions, found: Vec<Found>) -> Result<Present> {
    let budget = rt.budget();
    let log_id = common_log_id(dir, &found, &options.origin)?;
    let replay = match tail_of(rt, &found, &budget).await? {
        Some(tail) => replay(rt, dir, &found, tail, &budget).await?,
        None => nothing_written(dir, &found)?,
    };
    if let Some((group, index)) = replay.index.first_hole() {
        let what = format!("group {group} has later entries but none at index {index}");
        return Err(Fault::corruption(dir, what));
    }
    let torn = classify_end(rt, &whole_from(dir, &found, replay.needed_from)?, &replay, &budget).await?;
    options.origin.is_no_older_copy(dir, "log", replay.opened)?;
    Ok(Present { log_id, found, replay, torn })
}

async fn make_ready(rt: &Rt, dir: &Path, options: &LogOptions, present: Present) -> Result<(Replay, Files)> {
    let Present { log_id, found, replay, torn } = present;
    let needed = whole_from(dir, &found, replay.needed_from)?;
    let files = open_files(rt, options, log_id, &found, &needed, &replay).await?;
    if let Some(torn) = torn {
        cut(rt, &files, &torn).await?;
    }
    if !planted(Bug::UnsyncedTail) {
        harden(rt, &files.active, &replay).await?;
    }
    Ok((replay, files))
}

/// Opens every segment file far enough to know what it says it is.
async fn find(rt: &Rt, dir: &Path, names: &[String]) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for number in names.iter().filter_map(|name| segment_number(name)) {
        let path = segment_path(dir, number);
        let header = read_header(rt, &path).await?;
        found.push(Found { number, path, header });
    }
    found.sort_by_key(|found| found.number);
    Ok(found)
}

async fn remove_unfinished(rt: &Rt, dir: &Path, names: &[String]) -> Result<()> {
    for name in names.iter().filter(|name| name.ends_with(".new")) {
        let path = dir.join(name);
        rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing an unfinished segment", &e))?;
    }
    Ok(())
}

/// The id that all segments share, which is the expected one, if one is expected.
fn common_log_id(dir: &Path, found: &[Found], origin: &Origin) -> Result<u64> {
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
    fn own_header(&self) -> Option<SegmentHeader> {
        self.header.ok().filter(|header| header.number == self.number)
    }

    async fn open(&self, rt: &Rt) -> Result<Option<Segment>> {
        match self.own_header() {
            Some(header) => Segment::open(rt, self.path.clone(), header, None).await.map(Some),
            None => Ok(None),
        }
    }
}

/// The newest segment that begins with a record.
async fn tail_of(rt: &Rt, found: &[Found], budget: &Budget) -> Result<Option<SegmentNo>> {
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

/// A log that was created but never written.
fn nothing_written(dir: &Path, found: &[Found]) -> Result<Replay> {
    let first = SegmentNo(1);
    if found[0].number != first {
        let what = format!("no segment has a record, but the oldest one is number {}", found[0].number.0);
        return Err(Fault::corruption(dir, what));
    }
    Ok(Replay::empty(first))
}

/// The files from `from` on, all there and all what they say they are.
fn whole_from<'a>(dir: &Path, found: &'a [Found], from: SegmentNo) -> Result<Vec<&'a Found>> {
    let needed: Vec<_> = found.iter().filter(|found| found.number >= from).collect();
    for (number, found) in (from.0..).zip(&needed) {
        if found.number.0 != number {
            let path = segment_path(dir, SegmentNo(number));
            return Err(Fault::corruption(&path, "the segment is missing, but later ones are there"));
        }
        if let Err(bad) = found.header {
            return Err(Fault::corruption(&found.path, bad.to_string()));
        }
        if found.own_header().is_none() {
            return Err(Fault::corruption(&found.path, "it is another segment than its name says"));
        }
    }
    Ok(needed)
}

async fn replay(rt: &Rt, dir: &Path, found: &[Found], tail: SegmentNo, budget: &Budget) -> Result<Replay> {
    let of_tail = found.iter().find(|found| found.number == tail).expect("it was found");
    // The tail is read twice: what lies before it has to be applied first, and memory does not hold a whole segment.
    let (mut needed_from, mut first, mut last_pos) = (None, None, None);
    let end = read_segment(rt, of_tail, None, budget, |record| {
        needed_from = needed_from.max(Some(record.header.needed_from));
        first.get_or_insert(record.header.sequence);
        last_pos = Some(record.pos);
        Ok(())
    });
    let end = end.await?;
    let needed_from = needed_from.unwrap_or(tail);
    if needed_from > tail {
        let what = format!("the log is needed from segment {} on, which holds no record", needed_from.0);
        return Err(Fault::corruption(dir, what));
    }
    let mut replay = Replay { needed_from, tail, last: last_pos, end, ..Replay::empty(needed_from) };
    let mut expected: Option<Sequence> = None;
    let mut ended: Option<(&Path, u64)> = None;
    for found in whole_from(dir, found, needed_from)?.into_iter().take_while(|found| found.number < tail) {
        let before = replay.records;
        let end = read_segment(rt, found, expected, budget, |record| replay.apply(found, &record)).await?;
        if replay.records == before {
            return Err(damaged(ended.unwrap_or((&found.path, FIRST_RECORD_POS)), expected, found.number));
        }
        (expected, ended) = (Some(replay.next), Some((found.path.as_path(), end)));
    }
    if let (Some(place), Some(expected)) = (ended, expected.filter(|expected| Some(*expected) != first)) {
        return Err(damaged(place, Some(expected), tail));
    }
    read_segment(rt, of_tail, first, budget, |record| replay.apply(of_tail, &record)).await?;
    Ok(replay)
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
) -> Result<u64> {
    let segment = found.open(rt).await?.expect("its header was checked");
    let mut scanner = Scanner::new(&segment, budget).await?;
    while let Some(record) = scanner.next(expected).await? {
        expected = Some(Sequence(record.header.sequence.0 + 1));
        see(record)?;
    }
    let end = scanner.pos();
    segment.close().await?;
    Ok(end)
}

impl Replay {
    fn empty(first: SegmentNo) -> Self {
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

/// Whether the place after the last record is clean, torn or damaged.
async fn classify_end(rt: &Rt, needed: &[&Found], replay: &Replay, budget: &Budget) -> Result<Option<Torn>> {
    let mut torn = None;
    let candidates = needed.iter().filter(|found| found.number >= replay.tail).take(2);
    for found in candidates {
        let segment = found.open(rt).await?.expect("its header was checked");
        let mut scanner = Scanner::new(&segment, budget).await?;
        if found.number == replay.tail {
            scanner.seek(replay.end);
        }
        let proof = scanner.proof_of(replay.next).await?;
        if let Some(proof) = proof.filter(|_| !planted(Bug::SilentTruncation)) {
            let what = format!(
                "record {} is damaged at byte {} or in the segment before: record {} at byte {} was written after \
                 it had become durable",
                replay.next.0,
                scanner.pos(),
                proof.header.sequence.0,
                proof.pos
            );
            return Err(Fault::corruption(&found.path, what));
        }
        if torn.is_none()
            && let Some((bytes, body)) = scanner.torn(replay.next).await?
        {
            let claims = claims(&body);
            torn = Some(Torn { segment: found.number, pos: scanner.pos(), bytes, claims });
        }
        segment.close().await?;
    }
    Ok(torn)
}

async fn open_files(
    rt: &Rt,
    options: &LogOptions,
    log_id: u64,
    found: &[Found],
    needed: &[&Found],
    replay: &Replay,
) -> Result<Files> {
    let mut used = BTreeMap::new();
    let mut ready = VecDeque::new();
    for found in needed {
        let header = found.own_header().expect("it was checked");
        let append = (found.number >= replay.tail).then_some(options.sync);
        let segment = Segment::open(rt, found.path.clone(), header, append).await?;
        if found.number <= replay.tail {
            used.insert(found.number, Rc::new(segment));
        } else {
            ready.push_back(segment);
        }
    }
    let active = used[&replay.tail].clone();
    let retired = found.iter().filter(|found| found.number < replay.needed_from);
    let retired = retired.map(|found| Retired::Closed(found.path.clone())).collect();
    let newest = needed.last().expect("the tail is needed").number;
    Ok(Files { log_id, used, active, ready, retired, next_number: SegmentNo(newest.0 + 1) })
}

/// Writes the last record once more. The process before may have been killed between its write and its sync, or its sync may
/// have failed, after which another sync would succeed without doing anything. Every record before the last one is known to be
/// durable, because the next was written only then.
async fn harden(rt: &Rt, active: &Segment, replay: &Replay) -> Result<()> {
    let Some(last) = replay.last else { return active.sync().await };
    let len = usize::try_from(replay.end - last).expect("a record fits memory");
    let written = active.read(last, len).await?;
    let mut again = rt.alloc(len);
    again.copy_from_slice(&written[..len]);
    active.append(again, last, Meanwhile::GoOn).await
}

/// Takes away the beginning of a torn record, durably, so that nothing can ever complete it.
async fn cut(rt: &Rt, files: &Files, torn: &Torn) -> Result<()> {
    let ready = files.ready.iter().find(|segment| segment.number == torn.segment);
    let segment = ready.unwrap_or(&files.active);
    segment.wipe(rt, torn.pos, torn.pos + BLOCK_BYTES as u64).await
}

/// What the rest of a torn record says that it would have appended. Nothing of it is certain.
fn claims(body: &[u8]) -> BTreeMap<u64, u64> {
    let mut claims = BTreeMap::new();
    for item in super::format::items(body).flatten() {
        if let Item::Append { group, run } = item {
            claims.insert(group, run.first + u64::from(run.count) - 1);
        }
    }
    claims
}

fn recovered_group(group: &Group) -> RecoveredGroup {
    let entry =
        |(index, slot): (u64, &super::index::Slot)| EntryId { index, term: slot.term, kind: slot.kind };
    RecoveredGroup {
        compacted: group.mark(),
        entries: group.slots().map(entry).collect(),
        states: group.states().map(|(tag, value)| (tag, value.clone())).collect(),
    }
}

fn shared(
    rt: &Rt,
    dir: &Path,
    options: LogOptions,
    replay: Replay,
    files: Files,
    cache: RecordCache,
) -> Shared {
    Shared {
        rt: rt.clone(),
        dir: dir.to_owned(),
        options,
        log_id: files.log_id,
        index: RefCell::new(replay.index),
        cache: RefCell::new(cache),
        segments: RefCell::new(files.used),
        active: RefCell::new(files.active),
        tail: Cell::new(replay.end),
        next_sequence: Cell::new(replay.next),
        opened: replay.opened + 1,
        vouched: Cell::new(false),
        seen_idle_at: Cell::new(Sequence(0)),
        needed_from: Cell::new(replay.needed_from),
        ready: RefCell::new(files.ready),
        next_number: Cell::new(files.next_number),
        retired: RefCell::new(files.retired),
        queue: RefCell::default(),
        short: RefCell::default(),
        writer_waits: Cell::new(false),
        purging: Cell::new(false),
        stopping: Cell::new(false),
        writer_done: Cell::new(false),
        failure: RefCell::new(None),
        work: Bell::default(),
        made: Bell::default(),
        wanted: Bell::default(),
        tasks: RefCell::default(),
        written: Cell::new(Written::default()),
        patience: Patience::default(),
    }
}
