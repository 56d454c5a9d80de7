//! The one background task of a tree: it flushes, compacts, removes files and frees memory.
//!
//! One task, so that one edit follows the other and nothing races for the manifest. A flush does not wait for a compaction:
//! between two slices of one, a closed memtable goes first.
//!
//! Every step either happens or, when something is short, leaves nothing behind and is taken again (see [`super::shortage`]).

use std::rc::Rc;
use std::sync::Arc;

use super::Shared;
use super::bound::{Bound, WalkLimits};
use super::compact::{Below, GIVE_WAY, Progress, Rewrite, Stop, Target};
use super::erased::RangeTombstones;
use super::expiry::WallMs;
use super::key::{Cf, Direction, SeqNo};
use super::long::KeptBlocks;
use super::manifest::{Manifest, file_name as manifest_name};
use super::memtable::{GroupMarks, Marks, Memtable};
use super::merge::Merge;
use super::pace::Pace;
use super::plan::{self, Job};
use super::retain::Retention;
use super::source::{KeyRange, MemorySource, Reading, RunSource, Source};
use super::table::read::{Table, file_name};
use super::version::{Edit, MarkRow, StateRow, TableMeta, Version};
use crate::error::{Fault, Result};

/// What a compaction reads at once.
pub(super) const READ_AHEAD_BYTES: usize = 256 << 10;
/// About what an entry costs in a memtable beside its key and value.
const ENTRY_BYTES: u64 = 150;
/// Entries of a spent memtable that are freed between two looks at the time.
const FREE_ENTRIES: usize = 1024;

/// The background task's own state.
#[derive(Debug)]
pub(super) struct Maintenance {
    pub(super) shared: Rc<Shared>,
    manifest: Manifest,
    /// Tables numbered from here on are of the step in progress.
    pub(super) first_number: u64,
    /// What it may need on disk, bytes.
    pub(super) wanted_bytes: u64,
}

/// Runs until the tree is closed.
pub(super) async fn run(shared: Rc<Shared>, manifest: Manifest) {
    let mut maintenance = Maintenance { shared: shared.clone(), manifest, first_number: 0, wanted_bytes: 0 };
    while !shared.stopping.get() {
        if shared.fault.borrow().is_none()
            && let Err(fault) = maintenance.turn_through_shortages().await
        {
            shared.poison(fault);
        }
        shared.work.wait().await;
    }
    maintenance.end().await;
    shared.flush_waiters.borrow_mut().clear();
    shared.compact_waiters.borrow_mut().clear();
    shared.sharings.borrow_mut().clear();
    shared.refuse_ingests();
    if let Some(stopped) = shared.stopped.borrow_mut().take() {
        stopped.send(());
    }
}

impl Maintenance {
    /// Works until nothing is due.
    pub(super) async fn turn(&mut self) -> Result<()> {
        while !self.shared.stopping.get() {
            self.begin_step();
            if self.shared.short_of.borrow().is_some() {
                // Files first: on a full disk they make room for the rest.
                while self.remove_one().await? {}
            }
            self.flush_closed().await?;
            while self.remove_one().await? {
                // Removing many takes a while, and writers wait for nothing but memory.
                self.flush_closed().await?;
            }
            while self.ingest_next().await? {}
            self.free_spent().await;
            if self.manifest.is_long() {
                self.roll_manifest().await?;
            }
            let wanted = !self.shared.compact_waiters.borrow().is_empty();
            let version = self.shared.version.borrow().clone();
            let mut job = plan::choose(&version, &self.shared.options.limits(), self.shared.oldest_read());
            if matches!(job, Job::Idle) && wanted {
                job = plan::choose_full(&version, &self.shared.options.limits());
            }
            drop(version);
            self.begin_step();
            match job {
                Job::Idle => {
                    *self.shared.short_of.borrow_mut() = None;
                    let waiters = std::mem::take(&mut *self.shared.compact_waiters.borrow_mut());
                    waiters.into_iter().for_each(|waiter| waiter.send(()));
                    return Ok(());
                }
                Job::Discard { tables } => {
                    self.install(&ids(&tables), Vec::new(), Vec::new(), Vec::new()).await?
                }
                Job::Move { tables, to_level } => self.relevel(&tables, to_level).await?,
                Job::Merge { cf, upper, lower, to_level } => self.merge(cf, upper, lower, to_level).await?,
            }
        }
        Ok(())
    }

    pub(super) fn begin_step(&mut self) {
        self.first_number = self.shared.numbers.get();
        self.wanted_bytes = 0;
    }

    pub(super) async fn flush_closed(&mut self) -> Result<()> {
        loop {
            let oldest = self.shared.closed.borrow().front().cloned();
            let Some(memtable) = oldest else { return Ok(()) };
            self.shared.flushing_bytes.set(0);
            // Between two slices of a compaction, which will want its own amount again.
            let outer = std::mem::replace(&mut self.wanted_bytes, memtable.size_bytes() as u64);
            self.flush(&memtable).await?;
            self.wanted_bytes = outer;
            drop(memtable);
            // At once: writers fill the next one meanwhile, and this loop goes on for as long as they do.
            self.free_spent().await;
        }
    }

    async fn flush(&mut self, memtable: &Rc<Memtable>) -> Result<()> {
        let (mut added, mut expired) = (Vec::new(), 0);
        for cf in Cf::ALL {
            let (bound, all) = (Rc::new(Bound::new(WalkLimits::NONE)), KeyRange::default());
            let source = MemorySource::new(memtable.clone(), cf, Direction::Forward, all, bound);
            let merge = Merge::new(vec![Source::Memory(source)], Direction::Forward).await?;
            let erased = memtable.erased(cf);
            if merge.peek().is_none() && erased.is_empty() {
                continue;
            }
            let below = Below { version: self.shared.version.borrow().clone(), cf, from_level: 0 };
            // A memtable becomes one table, so that a point in time is one table; flushes are never paced.
            let target = self.target(cf, 0, u64::MAX, Rc::new(Pace::new(None)));
            let retention = self.retention(erased);
            let kept = Rc::new(KeptBlocks::of_compaction());
            let mut rewrite =
                Rewrite::new(&self.shared.rt, target, (merge, kept), retention, below, Stop::default());
            let before = self.shared.flushing_bytes.get();
            while rewrite.slice().await? == Progress::More {
                let (entries, bytes) = rewrite.taken();
                self.shared.flushing_bytes.set(before + bytes + entries * ENTRY_BYTES);
            }
            expired += rewrite.expired();
            added.extend(rewrite.into_tables().0);
        }
        let bytes: u64 = added.iter().map(|meta| meta.file_bytes).sum();
        let marks = memtable.marks();
        let (marks, states) = (mark_rows(&marks), state_rows(&marks));
        self.forget_rows(memtable).await;
        self.install(&[], added, marks, states).await?;
        self.shared.stats.borrow_mut().expired += expired;
        self.flushed(memtable, bytes);
        // At once: the next flush brings what came later.
        self.settle_shares(memtable.generation);
        Ok(())
    }

    /// What the tables say of the memtable's keys is about to change.
    async fn forget_rows(&self, memtable: &Memtable) {
        let budget = self.shared.rt.budget();
        for cf in Cf::ALL {
            if memtable.erases(cf) {
                self.shared.rows.forget_all();
            }
            for part in 0..memtable.hash_parts() {
                memtable.with_hashes(cf, part, |hashes| self.shared.rows.forget(cf, hashes));
                budget.tick().await;
            }
        }
    }

    /// The memtable is durable: its readers move on, its memory goes, and whoever waited hears of it.
    fn flushed(&self, memtable: &Rc<Memtable>, bytes: u64) {
        let shared = &self.shared;
        let spent = shared.closed.borrow_mut().pop_front();
        shared.flushing_bytes.set(0);
        shared.spent.borrow_mut().extend(spent);
        let mut stats = shared.stats.borrow_mut();
        stats.flushes += 1;
        stats.flushed_bytes += bytes;
        let done = |(generation, _): &mut (u64, _)| *generation <= memtable.generation;
        let waiters: Vec<_> = shared.flush_waiters.borrow_mut().extract_if(.., done).collect();
        waiters.into_iter().for_each(|(_, waiter)| waiter.send(()));
    }

    async fn merge(
        &mut self,
        cf: Cf,
        upper: Vec<Rc<Table>>,
        lower: Vec<Rc<Table>>,
        to_level: usize,
    ) -> Result<()> {
        let step_bytes = self.shared.options.compaction_bytes;
        let inputs: Vec<Rc<Table>> = upper.iter().chain(&lower).cloned().collect();
        let all_bytes: u64 = inputs.iter().map(|table| table.meta.bytes).sum();
        self.wanted_bytes = all_bytes.min(step_bytes.saturating_mul(2));
        let places = lower.iter().map(|table| table.meta.end.clone()).collect();
        let stop = Stop { bytes: Some(step_bytes), places };
        let mut erased = RangeTombstones::default();
        for table in upper.iter().chain(&lower) {
            erased.merge(&table.meta.erased, &table.meta.start, &table.meta.end);
        }
        let kept = Rc::new(KeptBlocks::of_compaction());
        let run = |tables: Vec<Rc<Table>>| {
            let reading = Reading::Ahead { bytes: READ_AHEAD_BYTES, kept: kept.clone() };
            let range = KeyRange::default();
            Source::Run(Box::new(RunSource::new(&self.shared.rt, reading, Direction::Forward, range, tables)))
        };
        let mut sources: Vec<Source> = if upper.iter().all(|table| table.meta.level == 0) {
            upper.into_iter().map(|table| run(vec![table])).collect()
        } else {
            vec![run(upper)]
        };
        sources.push(run(lower));
        let merge = Merge::new(sources, Direction::Forward).await?;
        let below = Below { version: self.shared.version.borrow().clone(), cf, from_level: to_level + 1 };
        let target = self.target(cf, to_level, self.shared.options.table_bytes, self.shared.pace.clone());
        let mut rewrite =
            Rewrite::new(&self.shared.rt, target, (merge, kept), self.retention(erased), below, stop);
        while rewrite.slice().await? == Progress::More {
            if self.shared.stopping.get() {
                // Half-written tables have no owner; the next opening removes them.
                return Ok(());
            }
            self.flush_closed().await?;
        }
        let expired = rewrite.expired();
        let (mut added, stopped_before) = rewrite.into_tables();
        let bytes: u64 = added.iter().map(|meta| meta.file_bytes).sum();
        let (removed, rests) = self.used_up(&inputs, stopped_before.as_deref()).await?;
        added.extend(rests);
        self.install(&removed, added, Vec::new(), Vec::new()).await?;
        let mut stats = self.shared.stats.borrow_mut();
        stats.compactions += 1;
        stats.compacted_bytes += bytes;
        stats.expired += expired;
        Ok(())
    }

    /// The inputs that a compaction is done with, and the rows for what is left of them from `rest` on.
    async fn used_up(&self, inputs: &[Rc<Table>], rest: Option<&[u8]>) -> Result<(Vec<u64>, Vec<TableMeta>)> {
        let Some(rest) = rest else { return Ok((ids(inputs), Vec::new())) };
        let (mut removed, mut rests) = (Vec::new(), Vec::new());
        for table in inputs.iter().filter(|table| table.meta.start.as_slice() < rest) {
            removed.push(table.meta.table);
            if table.meta.end.as_slice() > rest {
                let bytes = table.bytes_from(&self.shared.rt, rest).await?;
                rests.push(table.meta.rest(self.next_number(), rest, bytes));
            }
        }
        Ok((removed, rests))
    }

    async fn relevel(&mut self, tables: &[Rc<Table>], to_level: usize) -> Result<()> {
        let moved = tables.iter().map(|table| TableMeta {
            table: self.next_number(),
            level: to_level as u8,
            ..table.meta.clone()
        });
        let moved = moved.collect();
        self.install(&ids(tables), moved, Vec::new(), Vec::new()).await
    }

    /// Makes an edit durable, then visible.
    pub(super) async fn install(
        &mut self,
        removed: &[u64],
        added: Vec<TableMeta>,
        marks: Vec<MarkRow>,
        states: Vec<StateRow>,
    ) -> Result<()> {
        let shared = self.shared.clone();
        if !added.is_empty() {
            self.sync_names().await?;
        }
        let edit = Edit {
            added,
            removed: removed.to_vec(),
            marks,
            states,
            next_number: shared.numbers.get(),
            last_seq: shared.last_seq.get().0,
        };
        self.manifest.append(&shared.rt, &edit).await?;
        let version = shared.version.borrow().clone();
        let next = version.apply(&edit, |meta| shared.make_table(meta)).unwrap_or_else(|contradiction| {
            panic!("a job contradicts the version it was planned on: {contradiction}")
        });
        for table in version.tables().filter(|table| removed.contains(&table.meta.table)) {
            if !next.shows_file(table.meta.file) {
                table.retire_file();
            }
        }
        *shared.version.borrow_mut() = Rc::new(next);
        drop(version);
        shared.measure_backlog();
        shared.take_marks(&edit.marks);
        shared.take_states(&edit.states);
        *shared.short_of.borrow_mut() = None;
        if cfg!(any(debug_assertions, feature = "checks")) {
            shared.check();
        }
        Ok(())
    }

    /// Makes the names of new tables durable. No edit names them yet, so after a shortage they are thrown away and written anew.
    async fn sync_names(&self) -> Result<()> {
        let (dir, shared) = (&self.shared.dir, &self.shared);
        loop {
            let synced = shared.rt.sync_dir(dir).await;
            match synced.map_err(|e| Fault::unpromised(dir, "syncing the directory", &e)) {
                Err(fault) if shared.files.make_room_after(&fault) => shared.rt.sleep(GIVE_WAY).await,
                synced => return synced,
            }
        }
    }

    /// Begins a new manifest with the whole tree and removes the old one.
    async fn roll_manifest(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        let number = self.next_number();
        shared.puts_in_force(None);
        let begun =
            Manifest::begin(&shared.rt, &shared.dir, self.manifest.tree(), number, &shared.whole()).await;
        let fresh = match begun {
            Err(fault) if fault.is_passing() => {
                shared.puts_in_force(Some(&self.manifest));
                return Err(fault);
            }
            begun => begun?,
        };
        shared.puts_in_force(Some(&fresh));
        let old = std::mem::replace(&mut self.manifest, fresh);
        let path = shared.dir.join(manifest_name(old.number()));
        old.close().await?;
        shared.rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing", &e))
    }

    /// Closes and removes a file without readers; `false` if there is none.
    async fn remove_one(&mut self) -> Result<bool> {
        let shared = self.shared.clone();
        let Some(discarded) = shared.files.pop_discarded() else { return Ok(false) };
        if let Some(file) = discarded.file {
            // It was only read; a failed close loses nothing.
            let _ = file.close().await;
        }
        if let Some(number) = discarded.remove {
            let path = shared.dir.join(file_name(number));
            shared.rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing", &e))?;
        }
        Ok(true)
    }

    /// Frees flushed memtables bit by bit.
    async fn free_spent(&mut self) {
        let shared = self.shared.clone();
        let spent = std::mem::take(&mut *shared.spent.borrow_mut());
        let budget = shared.rt.budget();
        for memtable in spent {
            match Rc::try_unwrap(memtable) {
                Ok(mut memtable) => {
                    while memtable.free_some(FREE_ENTRIES) {
                        budget.tick().await;
                    }
                }
                // An iterator still walks it; next time.
                Err(read) => shared.spent.borrow_mut().push(read),
            }
        }
    }

    async fn end(self) {
        // Everything durable has been synced, so a failed close loses nothing.
        let _ = self.manifest.close().await;
        while self.shared.files.let_go() {}
        while let Some(discarded) = self.shared.files.pop_discarded() {
            if let Some(file) = discarded.file {
                let _ = file.close().await;
            }
        }
    }

    fn target(&self, cf: Cf, level: usize, table_bytes: u64, pace: Rc<Pace>) -> Target {
        let shared = &self.shared;
        Target {
            dir: shared.dir.clone(),
            cf,
            level: level as u8,
            shape: shared.options.shape(),
            table_bytes,
            pace,
            files: shared.files.clone(),
            numbers: shared.numbers.clone(),
        }
    }

    fn retention(&self, erased: RangeTombstones) -> Retention {
        let snapshots: Vec<SeqNo> = self.shared.readers.borrow().moments().collect();
        let now = WallMs::from(self.shared.rt.wall());
        Retention::new(snapshots, erased, now.before(self.shared.options.expired_kept))
    }

    pub(super) fn next_number(&self) -> u64 {
        let number = self.shared.numbers.get();
        self.shared.numbers.set(number + 1);
        number
    }
}

impl Shared {
    /// The whole tree as one edit.
    pub(super) fn whole(&self) -> Edit {
        let version: Rc<Version> = self.version.borrow().clone();
        let mut added: Vec<TableMeta> = version.tables().map(|table| table.meta.clone()).collect();
        added.sort_by_key(|meta| meta.table);
        let flushed = self.flushed.borrow();
        let marks = flushed.iter().map(|(group, index)| MarkRow { group: *group, applied: Some(*index) });
        let states = self.states.borrow();
        let states = states.iter().map(|(group, state)| StateRow { group: *group, state: state.to_vec() });
        Edit {
            added,
            removed: Vec::new(),
            marks: marks.collect(),
            states: states.collect(),
            next_number: self.numbers.get(),
            last_seq: self.last_seq.get().0,
        }
    }

    fn take_states(&self, rows: &[StateRow]) {
        let mut states = self.states.borrow_mut();
        states.extend(rows.iter().map(|row| (row.group, Arc::from(&row.state[..]))));
    }

    fn take_marks(&self, marks: &[MarkRow]) {
        let mut flushed = self.flushed.borrow_mut();
        let mut advances = self.advances.borrow_mut();
        for mark in marks {
            match mark.applied {
                Some(applied) => {
                    let known = flushed.entry(mark.group).or_insert(0);
                    *known = (*known).max(applied);
                    advances.push((mark.group, *known));
                }
                None => {
                    flushed.remove(&mark.group);
                    self.states.borrow_mut().remove(&mark.group);
                    advances.retain(|(group, _)| *group != mark.group);
                }
            }
        }
        if !advances.is_empty() {
            self.advanced.ring();
        }
    }
}

/// What a memtable says of its groups, in the order in which it is to be taken: a group that returned is forgotten first.
fn mark_rows(marks: &Marks) -> Vec<MarkRow> {
    let mut rows = Vec::with_capacity(marks.len());
    for (&group, &GroupMarks { forgotten, applied, state: _ }) in marks {
        if forgotten {
            rows.push(MarkRow { group, applied: None });
        }
        if applied.is_some() {
            rows.push(MarkRow { group, applied });
        }
    }
    rows
}

/// What a memtable says of the states of its groups.
fn state_rows(marks: &Marks) -> Vec<StateRow> {
    let row = |(group, marks): (&u64, &GroupMarks)| {
        Some(StateRow { group: *group, state: marks.state.as_deref()?.to_vec() })
    };
    marks.iter().filter_map(row).collect()
}

fn ids(tables: &[Rc<Table>]) -> Vec<u64> {
    tables.iter().map(|table| table.meta.table).collect()
}
