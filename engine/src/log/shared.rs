//! What the handle of a log and its tasks share, and how it ends.
//!
//! The fields are the log's whole state. They are borrowed between awaits, never across one. The first failure is kept and
//! ends the log: from then on every batch is refused with it. Nothing here touches the disk except to close files.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use super::LogOptions;
use super::batch::Batch;
use super::blocking::Blocking;
use super::cache::RecordCache;
use super::format::{BODY_BYTES_MAX, SegmentNo, Sequence};
use super::index::Index;
use super::recover::Cut;
use super::segment::Segment;
use super::spares::Retired;
use super::witness::{Reached, Witness};
use super::writer::{Guard, Request};
use crate::error::{Fault, Result};
use crate::rt::local::{Bell, oneshot};
use crate::rt::{Mono, Rt, Task};

/// What the handle and the tasks of a log share.
pub(super) struct Shared {
    pub(super) rt: Rt,
    pub(super) dir: PathBuf,
    pub(super) options: LogOptions,
    pub(super) log_id: u64,
    pub(super) index: RefCell<Index>,
    pub(super) cache: RefCell<RecordCache>,
    /// Segments with records, the active one included.
    pub(super) segments: RefCell<BTreeMap<SegmentNo, Rc<Segment>>>,
    pub(super) active: RefCell<Rc<Segment>>,
    /// Where the next record goes in the active segment.
    pub(super) tail: Cell<u64>,
    pub(super) next_sequence: Cell<Sequence>,
    /// How often the log has been opened, this time included; part of every record.
    pub(super) opened: u64,
    /// Whether a record says so durably.
    pub(super) counted: Cell<bool>,
    /// Whether the last record is one that changes nothing, so that its loss would be none.
    pub(super) vouched: Cell<bool>,
    /// The next sequence when the owner last asked whether the log is idle.
    pub(super) seen_idle_at: Cell<Sequence>,
    /// When the log was last seen idle, or `END` last had to say how far a busy one reaches.
    pub(super) witness_due_from: Cell<Mono>,
    pub(super) needed_from: Cell<SegmentNo>,
    pub(super) ready: RefCell<VecDeque<Segment>>,
    /// The next look at where the files are begins with this segment.
    pub(super) looked_to: Cell<SegmentNo>,
    /// Number of the segment that is prepared next.
    pub(super) next_number: Cell<SegmentNo>,
    pub(super) retired: RefCell<VecDeque<Retired>>,
    pub(super) queue: RefCell<VecDeque<Request>>,
    /// What the last attempt to make a segment lacked.
    pub(super) short: RefCell<Option<Fault>>,
    /// Whether the last record did not fit below the limit on the length of files.
    pub(super) append_waits: Cell<bool>,
    pub(super) writer_waits: Cell<bool>,
    pub(super) purging: Cell<bool>,
    pub(super) stopping: Cell<bool>,
    pub(super) writer_done: Cell<bool>,
    pub(super) failure: RefCell<Option<Fault>>,
    /// Rings for the writer: a batch, or the end.
    pub(super) work: Bell,
    /// Rings for the writer: a segment is ready, or none can be had.
    pub(super) made: Bell,
    /// Rings for the spares task: something to do.
    pub(super) wanted: Bell,
    /// Says outside of the segments how far the log reached. None where the disk was too full to take over a log of 0.1.
    pub(super) witness: Option<Witness>,
    /// What it is to say next.
    pub(super) reached: Cell<Option<Reached>>,
    /// Rings for its task: something to say, or the end.
    pub(super) to_witness: Bell,
    pub(super) tasks: RefCell<Vec<Task<()>>>,
    pub(super) written: Cell<Written>,
    pub(super) blocking: Blocking,
    /// What the opening cut off.
    pub(super) cut: Option<Cut>,
}

/// Counters of the writer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) records: u64,
    pub(super) batches: u64,
    pub(super) record_bytes: u64,
    pub(super) body_bytes: u64,
}

impl Shared {
    /// Queues a batch and waits for its outcome. A guarded one is skipped if what it moves has changed by then.
    pub(super) async fn submit(&self, batch: Batch, guard: Option<Guard>, idle: bool) -> Result<()> {
        if self.stopping.get() {
            return Err(self.refusal());
        }
        if batch.len() > BODY_BYTES_MAX {
            return Err(Fault::too_large(&self.dir, batch.len(), BODY_BYTES_MAX));
        }
        let (answer, pending) = oneshot();
        self.queue.borrow_mut().push_back(Request { batch, guard, idle, answer });
        self.work.ring();
        pending.await.unwrap_or_else(|| Err(self.refusal()))
    }

    /// Queues a record that changes nothing. No caller waits for it: if it fails, so does the log.
    pub(super) fn vouch(&self) {
        let (answer, _) = oneshot();
        self.queue.borrow_mut().push_back(Request { batch: Batch::new(), guard: None, idle: false, answer });
        self.work.ring();
    }

    /// What every caller hears after the first failure.
    pub(super) fn refusal(&self) -> Fault {
        let failure = self.failure.borrow();
        let because = failure.as_ref().map_or("the log was closed".to_owned(), ToString::to_string);
        let poisoned = Fault::poisoned(&self.dir);
        Fault { what: format!("{} ({because})", poisoned.what), ..poisoned }
    }

    pub(super) fn failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Ends the log: the state on disk is unknown from here on.
    pub(super) fn fail(&self, fault: &Fault) {
        self.failure.borrow_mut().get_or_insert_with(|| fault.clone());
        self.made.ring();
        self.wanted.ring();
        self.work.ring();
        self.to_witness.ring();
    }

    pub(super) fn stop(&self) {
        self.stopping.set(true);
        self.work.ring();
        self.made.ring();
        self.wanted.ring();
    }

    pub(super) fn active(&self) -> Rc<Segment> {
        self.active.borrow().clone()
    }

    pub(super) async fn close_files(self) -> Result<()> {
        drop(self.active);
        let used =
            self.segments.into_inner().into_values().filter_map(|segment| Rc::try_unwrap(segment).ok());
        let retired = self.retired.into_inner().into_iter().filter_map(Retired::into_segment);
        for segment in used.chain(self.ready.into_inner()).chain(retired) {
            segment.close().await?;
        }
        match self.witness {
            Some(witness) => witness.close().await,
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dir", &self.dir).field("tail", &self.tail.get()).finish_non_exhaustive()
    }
}
