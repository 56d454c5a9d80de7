//! One core's tree: sorted, durable key-value data below the log.
//!
//! ```text
//! write ─► memtable ─(full)─► closed memtables ─(flush)─► level 0 ─(compaction)─► level 1 … 6
//!                                                   └────────── manifest: which tables, and how far in the log ──┘
//! ```
//!
//! There is no write-ahead log here: the Raft log is it. A batch may carry marks, "with this, group G is applied up to index
//! I". When a memtable reaches the disk, the same manifest edit that adds its tables records its marks, so data and position
//! become durable together and [`Tree::flushed_index`] never runs ahead of the data. Only below that index may the log be
//! cut, and after a restart the log is replayed from there. The caller's own bytes about a group ([`WriteBatch::describe`]) travel in the
//! same way, so they are of the very moment that the mark names.
//!
//! Invariants:
//!
//! * One owner. Everything is of one core; nothing is locked, and no borrow is held over an await.
//! * Memtables are flushed in the order in which they were filled.
//! * A table is synced, its directory entry is synced, and the manifest edit is synced before a reader sees it or an input
//!   is removed.
//! * A reader holds the version it began with; files leave when the last reader does.
//! * A failed flush, compaction or manifest write poisons the tree: nothing more is accepted, reads go on. A passing shortage
//!   (space, descriptors, memory of the kernel) does not: it is waited out, and [`Tree::shortage`] says so meanwhile. A damaged block fails the reads that need it and no
//!   others.
//!
//! | file | what it knows |
//! |---|---|
//! | `batch`, `memtable` | what is written, and sorted memory |
//! | `table/` | the file format, built and read |
//! | `version`, `manifest` | which tables there are, in memory and durably |
//! | `plan`, `readers`, `retain` | pure rules: what to compact, who reads the past, what to keep for them |
//! | `pressure` | pure rules: how far writers are slowed down |
//! | `compact`, `maintain`, `shortage` | the work itself, in slices, one task per tree; waiting for what is short |
//! | `source`, `merge`, `iter`, `bound`, `long` | walking many sorted things as one, and what a walk may hold |
//! | `export`, `ingest` | a range as files of their own, out of one tree and into another |
//! | `erased`, `expiry` | range deletes; values that expire |
//! | `in_place` | whether its files are still where a start looks for them |
//! | `check` | the invariants as assertions |
//! | `cache`, `rows` | blocks in memory; single rows in memory |
//! | `inspect`, `fuzz` | files of a tree that is not running; every decoder on any bytes |
//!
//! Not done here, on purpose: no merge operator, no transactions (a batch is atomic, snapshots are consistent, the rest is
//! the store's), no compaction on several threads.

mod batch;
mod bound;
#[cfg(test)]
mod bound_tests;
mod cache;
mod check;
mod chunk;
mod compact;
#[cfg(test)]
mod deletes_tests;
mod erased;
mod estimate;
mod expiry;
#[cfg(test)]
mod expiry_tests;
mod export;
mod filter;
pub mod fuzz;
mod in_place;
mod ingest;
pub mod inspect;
mod iter;
mod key;
mod long;
mod maintain;
mod manifest;
mod memtable;
mod merge;
mod open;
mod options;
mod pace;
mod plan;
mod pressure;
mod read;
mod readers;
mod retain;
mod rows;
mod share;
mod shortage;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod version;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use batch::{Mark, Op as BatchOp, WriteBatch};
pub use bound::WalkLimits;
pub use estimate::Estimate;
pub use expiry::{TimedValue, UNTIL_BYTES, Until, WallMs};
pub use export::{Export, ExportOptions, Piece};
pub use ingest::{Ingest, Verified};
pub use iter::Iter;
pub use key::{Cf, Direction, SeqNo};
pub use open::{Recovery, TornTail};
pub use options::TreeOptions;
pub use read::{Fetched, LongBlock, Lookup, Snapshot};
pub use share::{BegunShare, Share, SharedTable};

use self::cache::BlockCache;
use self::memtable::Memtable;
use self::pace::Pace;
use self::pressure::{Backlog, Brake};
use self::readers::Readers;
use self::rows::RowCache;
use self::table::files::Files;
use self::table::read::Table;
use self::version::{TableMeta, Version};
use crate::error::{Fault, Result, Shortage};
use crate::rt::Rt;
use crate::rt::local::{Answer, Bell, oneshot};

/// One core's tree. Clones are handles on the same tree; when the last one goes, background work stops.
#[derive(Debug, Clone)]
pub struct Tree {
    shared: Rc<Shared>,
    _handle: Rc<Handle>,
}

/// What writers should do to stay within what the disk can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Go on.
    None,
    /// Wait this long before the next write. It depends on what was written and on how much is left to flush and to compact.
    Delay(Duration),
    /// Wait until this changes; reads go on. A last safety: delays begin long before.
    Stop,
}

/// Sizes and counters of a tree, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeStats {
    /// Memory of the memtables; closed ones are included, and so are those that are flushed and not freed yet.
    pub memtable_bytes: u64,
    /// What writers may fill of it before they are stopped.
    pub memtable_bytes_max: u64,
    /// Memtables that wait to be flushed.
    pub closed_memtables: u64,
    /// Tables and bytes per level, all families together.
    pub levels: Vec<(u64, u64)>,
    /// Memory of the range deletes of tables, for which the block cache leaves room.
    pub range_delete_bytes: u64,
    /// Memory of the block cache.
    pub cache_bytes: u64,
    /// What it may have.
    pub cache_bytes_max: u64,
    /// Look-ups in the block cache that were answered.
    pub cache_hits: u64,
    /// Look-ups in the block cache that were not.
    pub cache_misses: u64,
    /// Memory of the row cache.
    pub row_cache_bytes: u64,
    /// What it may have.
    pub row_cache_bytes_max: u64,
    /// Reads that the row cache answered.
    pub row_cache_hits: u64,
    /// Memtables flushed since opening.
    pub flushes: u64,
    /// Compactions finished since opening, moves left out.
    pub compactions: u64,
    /// Bytes of tables written by flushes since opening.
    pub flushed_bytes: u64,
    /// Bytes of tables written by compactions since opening.
    pub compacted_bytes: u64,
    /// Values that flushes and compactions have dropped since opening because they had expired.
    pub expired: u64,
    /// Whether a flush or a compaction waits for room: space, or a higher limit on the length of files.
    pub disk_full: bool,
    /// Whether it waits for that or for anything else that is short.
    pub waits: bool,
    /// Table files that are open for reading.
    pub open_tables: u64,
    /// How many may be.
    pub open_tables_max: u64,
    /// How often a table file was closed for another.
    pub closed_tables: u64,
    /// About how many bytes have to be rewritten until no compaction is due.
    pub pending_compaction_bytes: u64,
    /// What writers are kept to now, bytes per second; 0 means no limit.
    pub write_bytes_per_second_max: u64,
    /// For how long writers were delayed since opening, and for how long to stop.
    pub write_delay: Duration,
    /// For how long writers were stopped since opening.
    pub write_stop: Duration,
}

/// The state behind all handles, the background task and the readers.
#[derive(Debug)]
struct Shared {
    rt: Rt,
    dir: PathBuf,
    options: TreeOptions,
    cache: Rc<BlockCache>,
    rows: RowCache,
    active: RefCell<Rc<Memtable>>,
    /// Oldest first.
    closed: RefCell<VecDeque<Rc<Memtable>>>,
    version: RefCell<Rc<Version>>,
    last_seq: Cell<SeqNo>,
    /// The next number for a table or a manifest.
    numbers: Rc<Cell<u64>>,
    generations: Cell<u64>,
    /// The moments of the live snapshots.
    readers: RefCell<Readers>,
    flushed: RefCell<BTreeMap<u64, u64>>,
    /// What the caller keeps about each group, as of its flushed index.
    states: RefCell<BTreeMap<u64, Arc<[u8]>>>,
    advances: RefCell<Vec<(u64, u64)>>,
    advanced: Bell,
    flush_waiters: RefCell<Vec<(u64, Answer<()>)>>,
    compact_waiters: RefCell<Vec<Answer<()>>>,
    /// Ranges that wait to be taken in, whoever has waited longest first.
    ingests: RefCell<VecDeque<ingest::Waiting>>,
    /// Ranges that are to be shared once what memory held of them is in tables.
    sharings: RefCell<Vec<share::Sharing>>,
    /// Flushed memtables that still have to be freed, a little at a time.
    spent: RefCell<Vec<Rc<Memtable>>>,
    files: Rc<Files>,
    /// Nothing while it is being changed.
    in_force: RefCell<Option<in_place::InForce>>,
    /// The next look at where the files are begins with this table of the version.
    looked_to: Cell<usize>,
    pace: Rc<Pace>,
    brake: Brake,
    /// What the version in force adds to the backlog: tables in level 0 and debt.
    l0_and_debt: Cell<(f64, u64)>,
    /// Memory of the range deletes of its tables.
    erased_bytes: Cell<usize>,
    /// About how much of the memtable that is being flushed is in its table already.
    flushing_bytes: Cell<u64>,
    work: Bell,
    stopping: Cell<bool>,
    stopped: RefCell<Option<Answer<()>>>,
    fault: RefCell<Option<Fault>>,
    stats: RefCell<TreeStats>,
    /// What a step of the background task waits for.
    short_of: RefCell<Option<Fault>>,
    tail_was_torn: bool,
}

/// Dropped with the last clone of [`Tree`].
#[derive(Debug)]
struct Handle(Rc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.stopping.set(true);
        self.0.work.ring();
    }
}

impl Tree {
    /// Opens the tree in `dir`, or makes an empty one. Reads the manifest and the range deletes of tables, so the time depends on nothing else
    /// that the tables hold.
    ///
    /// The caller replays the log from [`Tree::flushed_index`] of each group, and must find the log reaching down to it.
    ///
    /// # Errors
    /// A fault that names the file: a damaged manifest, a table that is missing or has another length.
    pub async fn open(rt: &Rt, dir: &Path, options: TreeOptions) -> Result<Tree> {
        Recovery::read(rt, dir, options).await?.open().await
    }

    /// Applies a batch: visible at once, durable when its memtable is flushed (until then the log has it).
    ///
    /// # Errors
    /// Only when the tree is poisoned.
    pub fn write(&self, batch: &WriteBatch) -> Result<()> {
        let shared = &self.shared;
        if shared.fault.borrow().is_some() || shared.stopping.get() {
            return Err(shared.refusal());
        }
        let first = SeqNo(shared.last_seq.get().0 + 1);
        let active = shared.active.borrow();
        let nothing_older = |cf, key: &[u8], hash| shared.has_nothing_older(cf, key, hash);
        let next = active.apply(batch, first, &shared.readers.borrow(), nothing_older);
        shared.last_seq.set(SeqNo(next.0 - 1));
        shared.brake.charge(shared.rt.now(), batch.len_bytes() as u64, shared.backlog().rate());
        if active.is_full(shared.options.memtable_bytes) {
            drop(active);
            shared.rotate();
        }
        Ok(())
    }

    /// What whoever is about to write should do now. Asked before each write, it keeps them to the rate at which flushes and
    /// compactions follow.
    pub fn pressure(&self) -> Pressure {
        let shared = &self.shared;
        let (now, is_stopped) = (shared.rt.now(), self.is_stopped());
        shared.brake.note(now, is_stopped);
        if is_stopped {
            return Pressure::Stop;
        }
        shared.brake.pause(now).map_or(Pressure::None, Pressure::Delay)
    }

    /// Whether [`Tree::pressure`] would stop writers. Asking changes nothing.
    pub fn is_stopped(&self) -> bool {
        self.shared.fault.borrow().is_some() || self.shared.backlog().is_full()
    }

    /// Whether there is as much unflushed in memory as may be. Everything else that slows writers down costs no memory.
    pub fn memory_is_full(&self) -> bool {
        self.shared.backlog().memory_is_full()
    }

    /// Whether a flush or a compaction waits for room: space, or a higher limit on the length of files. Writers should then be refused: what they write stays in memory.
    pub fn disk_full(&self) -> bool {
        self.shortage().is_some_and(Shortage::is_of_room)
    }

    /// What a flush or a compaction waits for, if something is short.
    pub fn shortage(&self) -> Option<Shortage> {
        self.lacks()?.shortage()
    }

    /// The same with the file that it was for.
    pub fn lacks(&self) -> Option<Fault> {
        self.shared.short_of.borrow().clone()
    }

    /// Begins to flush everything written so far, unless a flush is in progress.
    pub fn start_flush(&self) {
        if self.shared.closed.borrow().is_empty() && !self.shared.active.borrow().is_empty() {
            self.shared.rotate();
        }
    }

    /// Flushes everything written so far and waits until it is durable; on a full disk until there is space.
    ///
    /// # Errors
    /// The fault that poisoned the tree.
    pub async fn flush(&self) -> Result<()> {
        let shared = &self.shared;
        if !shared.active.borrow().is_empty() {
            shared.rotate();
        }
        if shared.fault.borrow().is_some() {
            return Err(shared.refusal());
        }
        let newest = shared.closed.borrow().back().map(|memtable| memtable.generation);
        let Some(generation) = newest else { return Ok(()) };
        let (answer, done) = oneshot();
        shared.flush_waiters.borrow_mut().push((generation, answer));
        shared.work.ring();
        done.await.ok_or_else(|| shared.refusal())
    }

    /// Merges all tables until each family fills one level, and waits for it. For operators and tests.
    ///
    /// # Errors
    /// The fault that poisoned the tree.
    pub async fn compact(&self) -> Result<()> {
        self.flush().await?;
        if self.shared.fault.borrow().is_some() {
            return Err(self.shared.refusal());
        }
        let (answer, done) = oneshot();
        self.shared.compact_waiters.borrow_mut().push(answer);
        self.shared.work.ring();
        done.await.ok_or_else(|| self.shared.refusal())
    }

    /// The log index up to which the durable tables contain `group`; 0 for a group they do not know.
    pub fn flushed_index(&self, group: u64) -> u64 {
        self.shared.flushed.borrow().get(&group).copied().unwrap_or(0)
    }

    /// The caller's bytes about `group` ([`WriteBatch::describe`]), as of its flushed index.
    pub fn state(&self, group: u64) -> Option<Arc<[u8]>> {
        self.shared.states.borrow().get(&group).cloned()
    }

    /// Every group that the durable tables know, with its flushed index, by group.
    pub fn flushed_indexes(&self) -> Vec<(u64, u64)> {
        self.shared.flushed.borrow().iter().map(|(group, index)| (*group, *index)).collect()
    }

    /// Every group that the durable tables have a state of ([`WriteBatch::describe`]), by group.
    pub fn described(&self) -> Vec<u64> {
        self.shared.states.borrow().keys().copied().collect()
    }

    /// Waits for flushes and says which groups' flushed indexes advanced since the last call. One task calls it.
    pub async fn flushed(&self) -> Vec<(u64, u64)> {
        loop {
            let advances = std::mem::take(&mut *self.shared.advances.borrow_mut());
            if !advances.is_empty() {
                return advances;
            }
            self.shared.advanced.wait().await;
        }
    }

    /// About how much lies in `[start, end)`; an empty `end` means "to the last key". Deleted data counts until a
    /// compaction has removed it.
    ///
    /// # Errors
    /// A fault of a file that had to be read.
    pub async fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate> {
        estimate::estimate(&self.shared, cf, start, end).await
    }

    /// A key that cuts `[start, end)` into two halves of about the same size, strictly inside; `None` if there is too
    /// little data to find one.
    ///
    /// # Errors
    /// A fault of a file that had to be read.
    pub async fn split_key(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Option<Bytes>> {
        estimate::split_key(&self.shared, cf, start, end).await
    }

    /// Opens every table once, and returns what is wrong with their ends. Opening the tree reads no keys, so until a read comes by a
    /// table that cannot be opened would go unnoticed. One read of a few blocks per table; their roots stay in memory.
    pub async fn check_tables(&self) -> Vec<Fault> {
        let version = self.shared.version.borrow().clone();
        let (budget, mut seen, mut faults) = (self.shared.rt.budget(), BTreeSet::new(), Vec::new());
        for table in version.tables().filter(|table| seen.insert(table.meta.file)) {
            budget.tick().await;
            faults.extend(table.check_end(&self.shared.rt).await.err());
        }
        faults
    }

    /// Asserts the invariants of the tree. For tests; debug builds do it after every step of the background task.
    pub fn check(&self) {
        self.shared.check();
    }

    /// Why nothing is accepted any more, if so.
    pub fn fault(&self) -> Option<Fault> {
        self.shared.fault.borrow().clone()
    }

    /// Whether the manifest ended in a torn edit at opening. Then files that no edit names were left in place.
    pub fn tail_was_torn(&self) -> bool {
        self.shared.tail_was_torn
    }

    /// Sizes and counters.
    pub fn stats(&self) -> TreeStats {
        self.shared.stats()
    }

    /// Stops background work and closes what it holds. What was not flushed is left to the log. Reads that need a file and
    /// all writes fail afterwards.
    pub async fn close(self) {
        let (answer, stopped) = oneshot();
        *self.shared.stopped.borrow_mut() = Some(answer);
        self.shared.stopping.set(true);
        self.shared.work.ring();
        stopped.await;
    }
}

impl Shared {
    /// Closes the memtable in use and starts a fresh one.
    fn rotate(&self) {
        let generation = self.generations.get() + 1;
        self.generations.set(generation);
        let fresh = Rc::new(Memtable::new(generation));
        let full = std::mem::replace(&mut *self.active.borrow_mut(), fresh);
        self.closed.borrow_mut().push_back(full);
        self.work.ring();
    }

    /// A table over a file that no other row shows.
    fn make_table(&self, meta: &TableMeta) -> Rc<Table> {
        Rc::new(Table::new(meta.clone(), &self.dir, self.files.clone()))
    }

    /// What flushes and compactions have before them.
    fn backlog(&self) -> Backlog {
        let closed: usize = self.closed.borrow().iter().map(|memtable| memtable.size_bytes()).sum();
        let active = self.active.borrow().size_bytes();
        let (l0_tables, debt_bytes) = self.l0_and_debt.get();
        Backlog {
            unflushed_bytes: ((closed + active) as u64)
                .saturating_sub(self.flushing_bytes.get().min(closed as u64)),
            unflushed_bytes_max: self.options.unflushed_bytes_max(),
            erased_bytes: self.erased_bytes.get() as u64,
            cache_bytes: self.options.cache_bytes as u64,
            l0_tables,
            l0_due: self.options.l0_tables.max(1),
            debt_bytes,
            level_base_bytes: self.options.level_base_bytes,
        }
    }

    /// Takes in what a new version means for writers and for the cache.
    fn measure_backlog(&self) {
        let version = self.version.borrow();
        let l0_tables = Cf::ALL.map(|cf| plan::level_zero_tables(version.family(cf)));
        let l0_tables = l0_tables.into_iter().fold(0.0, f64::max);
        self.l0_and_debt.set((l0_tables, plan::debt(&version, &self.options.limits())));
        self.erased_bytes.set(version.erased_bytes());
        self.cache.leave_room(self.erased_bytes.get());
    }

    /// Memtables from the newest to the oldest.
    fn memtables(&self) -> Vec<Rc<Memtable>> {
        let closed = self.closed.borrow();
        std::iter::once(self.active.borrow().clone()).chain(closed.iter().rev().cloned()).collect()
    }

    /// A walk came by many deletes: if most of them lie in memory, they are flushed, which drops those under which nothing lies, and
    /// a table full of the rest is due for a compaction by itself.
    fn walked_over_deletes(&self) {
        let idle = self.closed.borrow().is_empty() && self.fault.borrow().is_none() && !self.stopping.get();
        if idle && self.active.borrow().is_dense() {
            self.rotate();
        }
    }

    fn oldest_read(&self) -> SeqNo {
        self.readers.borrow().moments().next().unwrap_or(SeqNo::MAX)
    }

    fn refusal(&self) -> Fault {
        self.fault.borrow().clone().unwrap_or_else(|| {
            let mut closed = Fault::poisoned(&self.dir);
            closed.what = "the tree is closed".into();
            closed
        })
    }

    /// Keeps the first fault and lets all that wait know.
    fn poison(&self, fault: Fault) {
        self.fault.borrow_mut().get_or_insert(fault);
        self.flush_waiters.borrow_mut().clear();
        self.compact_waiters.borrow_mut().clear();
        self.sharings.borrow_mut().clear();
        self.refuse_ingests();
    }

    fn stats(&self) -> TreeStats {
        let mut stats = self.stats.borrow().clone();
        let (memtables, spent) = (self.memtables(), self.spent.borrow());
        let memory: usize = memtables.iter().chain(spent.iter()).map(|memtable| memtable.size_bytes()).sum();
        stats.memtable_bytes = memory as u64;
        stats.memtable_bytes_max = self.options.unflushed_bytes_max();
        stats.closed_memtables = self.closed.borrow().len() as u64;
        let version = self.version.borrow();
        stats.levels = (0..version::LEVELS)
            .map(|level| {
                let families = Cf::ALL.map(|cf| version.family(cf));
                let tables: usize = families.iter().map(|family| family.level(level).len()).sum();
                (tables as u64, families.iter().map(|family| family.level_bytes(level)).sum())
            })
            .collect();
        stats.range_delete_bytes = self.erased_bytes.get() as u64;
        stats.disk_full = self.short_of.borrow().as_ref().is_some_and(Fault::is_of_room);
        stats.waits = self.short_of.borrow().is_some();
        stats.open_tables = self.files.open_count() as u64;
        stats.open_tables_max = self.files.open_max() as u64;
        stats.closed_tables = self.files.closed_early();
        stats.pending_compaction_bytes = self.l0_and_debt.get().1;
        stats.write_bytes_per_second_max = self.backlog().rate().map_or(0, |rate| rate as u64);
        (stats.write_delay, stats.write_stop) = self.brake.waits();
        stats.cache_bytes = self.cache.used_bytes() as u64;
        stats.row_cache_bytes_max = self.options.row_cache_bytes() as u64;
        stats.cache_bytes_max = self.options.cache_bytes as u64 - stats.row_cache_bytes_max;
        (stats.cache_hits, stats.cache_misses) = self.cache.hits_and_misses();
        stats.row_cache_bytes = self.rows.used_bytes() as u64;
        stats.row_cache_hits = self.rows.hits();
        stats
    }
}
