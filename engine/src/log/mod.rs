//! One store's durable log, shared by all of its groups. It is the only write-ahead log there is.
//!
//! Everything that a store must not forget goes through [`Log::write`]: entries, hard states, descriptors, compaction marks.
//! A [`Batch`] holds changes of any number of groups and becomes one record: one aligned write into zeroed space, durable
//! when the call returns, applied whole or not at all. Calls that come while a write is in flight share the next one; nothing
//! ever waits for a timer.
//!
//! | file | owns |
//! |---|---|
//! | `format`, `items` | the bytes, drawn |
//! | `batch` | what one write does |
//! | `shared`, `stats` | the state that the handle and the tasks share, and its numbers |
//! | `index`, `group` | what is live and where: of all groups, of one |
//! | `cache` | recent records in memory |
//! | `segment`, `spares` | files: made, zeroed ahead of need, reused |
//! | `writer`, `blocking` | the one task that appends; what the core does meanwhile |
//! | `read` | entries from memory or disk |
//! | `recover/`, `scan`, `flip` | the way back after a crash: torn tails are cut, damage is a fault |
//! | `replay` | all live entries once more, for the tree after a start |
//! | `purge`, `reclaim` | which segments may go; moving what is left in them |
//! | `check` | the invariants as assertions |
//! | `in_place` | whether its files are still where a start looks for them |
//! | `witness` | `END`: how far the log reached, said outside of its segments |
//! | `measure`, `inspect` | which sync method suits a host; a segment seen from outside |
//!
//! Invariants:
//! * What `write` has answered with `Ok` is there after any crash, in the order of the answers, without holes.
//! * Only the writer task appends, and only one write is in flight.
//! * A failed write or sync ends the log: every later write is refused, and only a restart reads back what is on disk.
//! * On a full disk, or when files cannot be opened for a while, new entries are refused before anything is written; compaction,
//!   removal and state go on from a reserve. A passing shortage never ends the log.
//! * Where the log has been idle for a moment, or was closed, its last record is vouched for: damage to it is no torn tail. Otherwise
//!   a flipped bit of it is, too, and what stays in doubt is said ([`Cut`]).
//! * A segment that is gone with all behind it is missed, and so is any record from before the last idle moment: `END` says how far the
//!   log reached, and never more than is durable.
//! * A segment is reused only after a durable record says that it is not needed.
//!
//! The log never interprets payloads, never decides what may be compacted and never waits to fill a batch.

mod batch;
mod blocking;
mod cache;
mod check;
mod flip;
pub mod format;
mod group;
mod in_place;
mod index;
pub mod inspect;
mod items;
mod measure;
mod options;
pub mod plant;
mod purge;
mod read;
mod reclaim;
mod recover;
mod replay;
mod scan;
mod segment;
mod shared;
mod spares;
mod stats;
mod witness;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;

pub use batch::Batch;
pub use format::{BODY_BYTES_MAX, EntryRef, SegmentNo, Sequence};
pub use group::Position;
pub use measure::{MethodFigures, SyncReport, measure_sync};
pub use options::{LogOptions, SyncMethod};
pub use purge::{PurgeLimits, Straggler};
pub use reclaim::Purged;
pub use recover::{Claim, Cut, EntryId, Recovered, RecoveredGroup, Recovery};
pub use stats::LogStats;

use crate::error::{Fault, FaultKind, Result};
use crate::rt::Rt;
use plant::{Bug, planted};
use shared::Shared;
use witness::Reached;

/// An entry as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its index in its group.
    pub index: u64,
    /// The term in which it was proposed.
    pub term: u64,
    /// What the payload is; the log only carries it.
    pub kind: u8,
    /// The content.
    pub payload: Bytes,
}

/// A handle on the log; cheap to clone, stays on its core. When the last one is dropped the log stops after the write in
/// flight; [`Log::close`] also waits for that.
#[derive(Clone, Debug)]
pub struct Log(Rc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Rc<Shared>,
}

impl Log {
    /// Opens the log in `dir`, creating it if there is none, and says what it holds.
    ///
    /// # Errors
    /// Corruption if something that had been durable is damaged or missing; nothing is changed on disk then. Foreign if the
    /// files are of another version or of two logs.
    pub async fn open(rt: &Rt, dir: &Path, options: LogOptions) -> Result<(Self, Recovered)> {
        if let Err(what) = options.validate() {
            return Err(Fault { kind: FaultKind::Io, path: dir.to_owned(), what });
        }
        Recovery::read(rt, dir, options).await?.open().await
    }

    /// Starts the tasks and writes the record that vouches for the last one and counts this opening.
    async fn run(shared: Shared, mut recovered: Recovered) -> Result<(Self, Recovered)> {
        let shared = Rc::new(shared);
        let rt = shared.rt.clone();
        let writer = rt.spawn(writer::run(shared.clone()));
        let spares = rt.spawn(spares::run(shared.clone()));
        let witness = rt.spawn(witness::run(shared.clone()));
        shared.tasks.borrow_mut().extend([writer, spares, witness]);
        let log = Self(Rc::new(Handle { shared }));
        match log.write(Batch::new()).await {
            Ok(()) => recovered.opened = log.shared().opened,
            // A log opens on a full disk, too. Its next record counts the opening.
            Err(short) if short.is_passing() => {}
            Err(fault) => return Err(fault),
        }
        Ok((log, recovered))
    }

    /// Vouches for the last record if nothing was written since the last call. Call it now and then: that costs one record
    /// after each busy time, one write of `END` per [`LogOptions::witness_every`] during it, and nothing while the log stays idle. Until
    /// then damage to the last record cannot be distinguished from a write that was cut short by a crash, and the loss of all records
    /// since the last such moment not from a log that ends there.
    pub fn vouch_if_due(&self) {
        let shared = self.shared();
        let (now, next) = (shared.rt.now(), shared.next_sequence.get());
        let idle = shared.seen_idle_at.replace(next) == next && shared.queue.borrow().is_empty();
        let due = now.since(shared.witness_due_from.get()) >= shared.options.witness_every;
        if idle || due {
            shared.witness_due_from.set(now);
        }
        // On a full disk space is for what makes room again.
        let cannot = shared.short.borrow().is_some() || shared.stopping.get();
        if cannot || shared.vouched.get() || planted(Bug::NoVouching) {
            return;
        }
        if idle {
            shared.vouch();
        } else if due && !planted(Bug::OnlyIdleWitness) {
            let (segment, end) = (shared.active().number, shared.tail.get());
            shared.witness_soon(Reached { segment, end, sequence: Sequence(next.0 - 1) });
        }
    }

    /// Makes `batch` durable. Batches become durable in the order of these calls (of their first poll), and each becomes so
    /// whole. Dropping the future leaves the outcome unknown until a restart, and harms no other write.
    ///
    /// # Errors
    /// A passing shortage refuses a batch with entries before anything is written, and TooLarge one above [`BODY_BYTES_MAX`]. Any
    /// other fault ends the log, as does a failed write.
    pub async fn write(&self, batch: Batch) -> Result<()> {
        self.shared().submit(batch, None, false).await
    }

    /// As [`Log::write`], by a core that has nothing better to do than to wait for it. It blocks meanwhile if the disk is
    /// fast, because that costs less time than going on does.
    ///
    /// # Errors
    /// As [`Log::write`].
    pub async fn write_and_wait(&self, batch: Batch) -> Result<()> {
        self.shared().submit(batch, None, true).await
    }

    /// The term of the entry at `index`, or at the compaction mark.
    pub fn term(&self, group: u64, index: u64) -> Option<u64> {
        let groups = self.shared().index.borrow();
        let group = groups.group(group)?;
        let at_mark = || group.mark().filter(|mark| mark.index == index).map(|mark| mark.term);
        group.slot(index).map(|slot| slot.term).or_else(at_mark)
    }

    /// Index of the first entry of `group`, if it has any.
    pub fn first_index(&self, group: u64) -> Option<u64> {
        self.shared().index.borrow().group(group)?.first_index()
    }

    /// Index of the last entry of `group`; without entries, that of the compaction mark.
    pub fn last_index(&self, group: u64) -> Option<u64> {
        let groups = self.shared().index.borrow();
        let group = groups.group(group)?;
        group.last_index().or_else(|| group.mark().map(|mark| mark.index))
    }

    /// The first index of `group` from which on its entries have at most `bytes_max` bytes on disk; nothing if all have no more. Takes
    /// time with the number of entries only where there is something to name.
    pub fn first_within(&self, group: u64, bytes_max: u64) -> Option<u64> {
        self.shared().index.borrow().group(group)?.first_within(bytes_max)
    }

    /// About how many bytes on disk the entries of `group` after `index` have, as far as they are there.
    pub fn bytes_after(&self, group: u64, index: u64) -> u64 {
        self.shared().index.borrow().group(group).map_or(0, |group| group.bytes_after(index))
    }

    /// Up to where `group` was compacted or reset.
    pub fn compacted(&self, group: u64) -> Option<Position> {
        self.shared().index.borrow().group(group)?.mark()
    }

    /// A state of `group`.
    pub fn state(&self, group: u64, tag: u8) -> Option<Bytes> {
        self.shared().index.borrow().group(group)?.state(tag).cloned()
    }

    /// The groups that the log knows, in order.
    pub fn groups(&self) -> Vec<u64> {
        self.shared().index.borrow().groups().map(|(id, _)| id).collect()
    }

    /// Shows the live entries of all groups with their group, in the order in which they lie on disk, some at a time: each segment
    /// is read once, and memory holds one piece of it. What is written meanwhile is not shown; entries that purge moves meanwhile
    /// may be missing.
    ///
    /// # Errors
    /// Those of `see`, and of the disk.
    pub async fn replay(&self, see: impl AsyncFnMut(Vec<(u64, Entry)>) -> Result<()>) -> Result<()> {
        replay::run(self.shared(), see).await
    }

    /// The entries of `group` in `range`, in order, until their payloads exceed `bytes_max` (but at least one), or until the
    /// first index that the log does not have. Recent ones come from memory, others from disk.
    ///
    /// # Errors
    /// Corruption if the disk does not give back what was written.
    pub async fn entries(&self, group: u64, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>> {
        read::entries(self.shared(), group, range, bytes_max).await
    }

    /// Lets old segments go, as far as that is possible now, and names the groups that stand in the way of more. Call it now
    /// and then; flush and compact what it names.
    ///
    /// # Errors
    /// As [`Log::write`], for what it moves.
    pub async fn purge(&self, limits: &PurgeLimits) -> Result<Purged> {
        reclaim::purge(self.shared(), limits).await
    }

    /// Segments that hold records, the one in use included; what costs nothing of the [`stats`](Self::stats).
    pub fn segments(&self) -> usize {
        self.shared().segments.borrow().len()
    }

    /// Counters and sizes. Their time grows with the number of groups.
    pub fn stats(&self) -> LogStats {
        self.shared().stats()
    }

    /// Asserts the invariants of the log. Its time grows with the live entries, so it is for tests.
    pub fn check(&self) {
        self.shared().check();
    }

    /// What the opening cut off at the end, if something.
    pub fn cut(&self) -> Option<&Cut> {
        self.shared().cut.as_ref()
    }

    /// The number of this opening, counted from 1 for the one that created the log.
    pub fn opening(&self) -> u64 {
        self.shared().opened
    }

    /// Whether a record of this opening is durable. Where the opening had no room for one, the next record is.
    pub fn counts_opening(&self) -> bool {
        self.shared().counted.get()
    }

    /// What the log waits for, with the file that it was for, if something is short that comes back.
    pub fn lacks(&self) -> Option<Fault> {
        self.shared().short.borrow().clone()
    }

    /// Whether the last record waits for a higher limit on the length of files.
    pub fn append_waits(&self) -> bool {
        self.shared().append_waits.get()
    }

    /// The fault that ended the log, if one did.
    pub fn failure(&self) -> Option<Fault> {
        self.shared().failure.borrow().clone()
    }

    /// Writes what waits, stops the tasks and closes the files.
    ///
    /// # Errors
    /// The fault that ended the log, or of closing.
    pub async fn close(self) -> Result<()> {
        let shared = self.shared().clone();
        let vouched = shared.vouched.get() && shared.queue.borrow().is_empty();
        if !vouched
            && !planted(Bug::NoVouching)
            && !shared.stopping.get()
            && !shared.failed()
            && shared.short.borrow().is_none()
        {
            shared.vouch();
        }
        shared.stop();
        let tasks = std::mem::take(&mut *shared.tasks.borrow_mut());
        for task in tasks {
            task.await;
        }
        drop(self);
        let Ok(shared) = Rc::try_unwrap(shared) else {
            // Another handle still reads; its files close when it is dropped.
            return Ok(());
        };
        let failure = shared.failure.take();
        shared.close_files().await?;
        failure.map_or(Ok(()), Err)
    }

    fn shared(&self) -> &Rc<Shared> {
        &self.0.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
