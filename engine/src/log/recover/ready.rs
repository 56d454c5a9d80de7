//! From a log that has been read and judged to one that can be written: files opened, the torn end cut, the last record durable.
//!
//! Everything here changes the disk, and nothing here judges: whoever gets here has found the log whole.
//!
//! Invariant: when the log can be written, every record in it and every segment's name is durable, and nothing after the last record
//! can ever complete.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::rc::Rc;

use super::Present;
use super::end::Torn;
use super::found::{Found, whole_from};
use super::replay::Replay;
use crate::error::Result;
use crate::log::blocking::Blocking;
use crate::log::cache::RecordCache;
use crate::log::format::{SegmentNo, Sequence};
use crate::log::plant::{Bug, planted};
use crate::log::segment::{Segment, Unfinished, sync_dir};
use crate::log::shared::Written;
use crate::log::spares::{Retired, new_header};
use crate::log::witness::{Reached, Slot, Witness};
use crate::log::{LogOptions, Shared};
use crate::rt::local::Bell;
use crate::rt::{BLOCK_BYTES, Meanwhile, Rt};

/// The segment files, opened for their purpose.
pub(super) struct Files {
    pub(super) log_id: u64,
    pub(super) used: BTreeMap<SegmentNo, Rc<Segment>>,
    pub(super) active: Rc<Segment>,
    pub(super) ready: VecDeque<Segment>,
    pub(super) retired: VecDeque<Retired>,
    pub(super) next_number: SegmentNo,
}

/// The first segment is short: a new log should not wait until a whole one is zeroed.
const FIRST_SEGMENT_BYTES: u64 = 16 << 20;

pub(super) async fn create(rt: &Rt, dir: &Path, options: &LogOptions) -> Result<(Replay, Files)> {
    let log_id = options.origin.id.unwrap_or_else(|| rt.random());
    let (first, bytes) = (SegmentNo(1), options.segment_bytes.min(FIRST_SEGMENT_BYTES));
    let mut unfinished = Unfinished::create(rt, dir, new_header(rt, log_id, first, bytes, true)).await?;
    while unfinished.zero_piece(rt).await? {}
    let active = Rc::new(unfinished.finish(rt, dir, options.sync).await?);
    let used = BTreeMap::from([(first, active.clone())]);
    let (ready, retired) = (VecDeque::new(), VecDeque::new());
    let files = Files { log_id, used, active, ready, retired, next_number: SegmentNo(2) };
    Ok((Replay::empty(first), files))
}

pub(super) async fn make_ready(
    rt: &Rt,
    dir: &Path,
    options: &LogOptions,
    present: Present,
) -> Result<(Replay, Files)> {
    let Present { log_id, found, replay, torn, said: _ } = present;
    let needed = whole_from(dir, &found, replay.needed_from)?;
    let files = open_files(rt, options, log_id, &found, &needed, &replay).await?;
    // The process before may have been killed between giving a segment its name and making that durable, and records go there now.
    sync_dir(rt, dir).await?;
    if let Some(torn) = torn {
        cut(rt, &files, &torn).await?;
    }
    if !planted(Bug::UnsyncedTail) {
        harden(rt, &files.active, &replay).await?;
    }
    Ok((replay, files))
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

/// Has `END` say what is durable now, and makes it if there is none. Without space it is left to the next opening, unless the log is new.
pub(super) async fn witness(
    rt: &Rt,
    dir: &Path,
    said: Option<Slot>,
    files: &Files,
    replay: &Replay,
) -> Result<Option<Witness>> {
    let (segment, end) = (replay.tail, replay.end);
    let reached = Reached { segment, end, sequence: Sequence(replay.next.0 - 1) };
    if let Some(said) = said {
        return Witness::open(rt, dir, said, reached).await.map(Some);
    }
    match Witness::create(rt, dir, files.log_id, reached).await {
        Err(short) if short.is_passing() && replay.records > 0 => Ok(None),
        made => made.map(Some),
    }
}

/// Takes away the beginning of a torn record, durably, so that nothing can ever complete it.
async fn cut(rt: &Rt, files: &Files, torn: &Torn) -> Result<()> {
    let ready = files.ready.iter().find(|segment| segment.number == torn.segment);
    let segment = ready.unwrap_or(&files.active);
    segment.wipe(rt, torn.pos, torn.pos + BLOCK_BYTES as u64).await
}

pub(super) fn shared(
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
        counted: Cell::new(false),
        vouched: Cell::new(false),
        seen_idle_at: Cell::new(Sequence(0)),
        witness_due_from: Cell::new(rt.now()),
        needed_from: Cell::new(replay.needed_from),
        ready: RefCell::new(files.ready),
        looked_to: Cell::new(SegmentNo(0)),
        next_number: Cell::new(files.next_number),
        retired: RefCell::new(files.retired),
        queue: RefCell::default(),
        short: RefCell::default(),
        append_waits: Cell::default(),
        writer_waits: Cell::new(false),
        purging: Cell::new(false),
        stopping: Cell::new(false),
        writer_done: Cell::new(false),
        failure: RefCell::new(None),
        work: Bell::default(),
        made: Bell::default(),
        wanted: Bell::default(),
        witness: None,
        reached: Cell::default(),
        to_witness: Bell::default(),
        tasks: RefCell::default(),
        written: Cell::new(Written::default()),
        blocking: Blocking::default(),
        cut: None,
    }
}
