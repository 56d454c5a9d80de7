//! The task that prepares segments ahead of need.
//!
//! It keeps [`spare_segments`](super::LogOptions::spare_segments) ready, zeroed from end to end, and turns retired segments
//! into ready ones, at a bounded rate, or at full speed when the writer waits for one. On a full disk, and without
//! descriptors, it stops and tries again when something changes, or after a while.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::Shared;
use super::format::{Incarnation, SegmentHeader, SegmentNo};
use super::plant::{Bug, planted};
use super::segment::{Segment, Unfinished, ZERO_PIECE_BYTES, sync_dir};
use crate::error::{Fault, Result};
use crate::rt::Rt;

/// How long to wait before trying again what something was short for.
const SHORTAGE_RETRY: Duration = Duration::from_secs(1);

/// A file whose records are not needed.
#[derive(Debug)]
pub(crate) enum Retired {
    /// Perhaps still being read.
    Open(Rc<Segment>),
    /// Left behind by an earlier process.
    Closed(PathBuf),
}

impl Retired {
    /// The open segment, if there is no other reader.
    pub(crate) fn into_segment(self) -> Option<Segment> {
        match self {
            Self::Open(segment) => Rc::try_unwrap(segment).ok(),
            Self::Closed(_) => None,
        }
    }
}

/// What one step did.
enum Step {
    Zeroed,
    Made,
    Nothing,
}

/// Runs for as long as the writer may need a segment.
pub(crate) async fn run(shared: Rc<Shared>) {
    let mut making = None;
    while !shared.writer_done.get() && !shared.failed() {
        match step(&shared, &mut making).await {
            Ok(Step::Zeroed) => pause(&shared).await,
            Ok(Step::Made) => {}
            Ok(Step::Nothing) => {
                // There is everything that a shortage could have kept from being made.
                *shared.short.borrow_mut() = None;
                shared.wanted.wait().await;
            }
            Err(fault) if fault.is_passing() => wait_out(&shared, &mut making, fault).await,
            Err(fault) => shared.fail(&fault),
        }
    }
    if let Some(unfinished) = making {
        // The next start removes it if this does not.
        let _ = Unfinished::discard(unfinished, &shared.rt).await;
    }
}

/// Keeps to the rate, unless the writer is waiting.
async fn pause(shared: &Shared) {
    let nanos = 1_000_000_000 * ZERO_PIECE_BYTES / shared.options.zero_bytes_per_second;
    let rest = shared.rt.sleep(Duration::from_nanos(nanos));
    let urgent = async {
        while !(shared.writer_waits.get() || shared.stopping.get()) {
            shared.wanted.wait().await;
        }
    };
    futures_lite::future::or(rest, urgent).await;
}

async fn wait_out(shared: &Shared, making: &mut Option<Unfinished>, shortage: Fault) {
    if let Some(unfinished) = making.take() {
        // What was zeroed so far is worth more as free space.
        let _ = unfinished.discard(&shared.rt).await;
    }
    *shared.short.borrow_mut() = Some(shortage);
    shared.made.ring();
    futures_lite::future::or(shared.rt.sleep(SHORTAGE_RETRY), shared.wanted.wait()).await;
}

async fn step(shared: &Shared, making: &mut Option<Unfinished>) -> Result<Step> {
    let spares_wanted = shared.ready.borrow().len() < shared.options.spare_segments;
    if !spares_wanted {
        return remove_surplus(shared).await;
    }
    let mut unfinished = match making.take() {
        Some(unfinished) => unfinished,
        None => begin(shared).await?,
    };
    // Also in a hurry: a spare that still needs space would be no reserve.
    let zeroed = unfinished.zero_piece(&shared.rt).await;
    if !matches!(zeroed, Ok(false)) {
        *making = Some(unfinished);
        return zeroed.map(|_| Step::Zeroed);
    }
    let segment = unfinished.finish(&shared.rt, &shared.dir, shared.options.sync).await?;
    shared.next_number.set(SegmentNo(segment.number.0 + 1));
    shared.ready.borrow_mut().push_back(segment);
    *shared.short.borrow_mut() = None;
    shared.made.ring();
    Ok(Step::Made)
}

/// A retired file with a new header, or else a new file.
async fn begin(shared: &Shared) -> Result<Unfinished> {
    let bytes = shared.options.segment_bytes;
    let number = shared.next_number.get();
    let header = new_header(&shared.rt, shared.log_id, number, bytes, shared.witness.is_some());
    match take_retired(shared).await? {
        Some(path) => {
            let begun = Unfinished::reuse(&shared.rt, path.clone(), header).await;
            if begun.is_err() {
                // The file is still there to be had.
                shared.retired.borrow_mut().push_back(Retired::Closed(path));
            }
            begun
        }
        None => Unfinished::create(&shared.rt, &shared.dir, header).await,
    }
}

/// The header of a segment's next life.
pub(crate) fn new_header(
    rt: &Rt,
    log_id: u64,
    number: SegmentNo,
    bytes: u64,
    witnessed: bool,
) -> SegmentHeader {
    let drawn = if planted(Bug::NoSalt) { 0 } else { rt.random() };
    SegmentHeader { log_id, number, incarnation: Incarnation(drawn), bytes, witnessed }
}

/// A retired file without readers, closed.
async fn take_retired(shared: &Shared) -> Result<Option<PathBuf>> {
    let free = |retired: &Retired| match retired {
        Retired::Open(segment) => Rc::strong_count(segment) == 1,
        Retired::Closed(_) => true,
    };
    let taken = {
        let mut retired = shared.retired.borrow_mut();
        let place = retired.iter().position(free);
        place.and_then(|place| retired.remove(place))
    };
    match taken {
        Some(Retired::Open(segment)) => {
            let segment = Rc::try_unwrap(segment).expect("counted above");
            let path = segment.path.clone();
            segment.close().await?;
            Ok(Some(path))
        }
        Some(Retired::Closed(path)) => Ok(Some(path)),
        None => Ok(None),
    }
}

/// Removes retired files beyond one, which is kept for the next segment.
async fn remove_surplus(shared: &Shared) -> Result<Step> {
    if shared.retired.borrow().len() < 2 {
        return Ok(Step::Nothing);
    }
    let Some(path) = take_retired(shared).await? else { return Ok(Step::Nothing) };
    shared.rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing a segment", &e))?;
    sync_dir(&shared.rt, &shared.dir).await?;
    Ok(Step::Made)
}
