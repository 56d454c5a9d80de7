//! Rewrites: a merge of sources becomes new tables. A flush and a compaction are the same work with different sources.
//!
//! The work comes in slices of about half a millisecond, so that whoever drives it decides what happens in between. A table
//! is synced before anything refers to it; the manifest comes later and elsewhere.
//!
//! A compaction is bounded ([`Stop`]): after a number of bytes it ends before a key, and its inputs stay from that key on.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::erased::RangeTombstones;
use super::key::{Cf, Kind};
use super::long::KeptBlocks;
use super::merge::Merge;
use super::pace::Pace;
use super::retain::{Fate, Retention};
use super::table::build::{TableBuilder, TableShape};
use super::table::files::Files;
use super::table::read::file_name;
use super::table::write::{WRITE_BYTES, Writer};
use super::version::{TableMeta, Version};
use crate::error::Result;
use crate::rt::{Budget, Rt};

/// How long a file that gives way takes to be closed.
pub(crate) const GIVE_WAY: Duration = Duration::from_millis(5);
/// Entries between two looks at the time.
const CHECK_EVERY: u32 = 32;

/// Where nothing older can lie: the tables below the target of a rewrite.
#[derive(Debug)]
pub(crate) struct Below {
    pub(crate) version: Rc<Version>,
    pub(crate) cf: Cf,
    /// First level that counts as below; 0 includes level 0.
    pub(crate) from_level: usize,
}

impl Below {
    fn holds(&self, key: &[u8]) -> bool {
        let levels = self.version.family(self.cf);
        match self.from_level {
            0 => levels.holding(key).next().is_some(),
            level => levels.holds_from(level, key),
        }
    }

    fn overlaps(&self, start: &[u8], end: &[u8]) -> bool {
        self.version.family(self.cf).overlaps_from(self.from_level, start, end)
    }
}

/// What a rewrite is to produce.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) dir: PathBuf,
    pub(crate) cf: Cf,
    pub(crate) level: u8,
    pub(crate) shape: TableShape,
    /// A table is finished once it is this large.
    pub(crate) table_bytes: u64,
    pub(crate) pace: Rc<Pace>,
    pub(crate) files: Rc<Files>,
    /// Hands out file numbers.
    pub(crate) numbers: Rc<std::cell::Cell<u64>>,
}

/// How far a rewrite goes, so that a job is bounded whatever it is given.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    /// Bytes of entries read after which it ends at the next of `places`, and twice as many after which it ends anywhere.
    pub(crate) bytes: Option<u64>,
    /// Where nothing of the lower level is cut in two: the ends of its tables, ascending.
    pub(crate) places: VecDeque<Vec<u8>>,
}

impl Stop {
    /// Whether to end before `key`, which is above all keys before it, after `read` bytes.
    fn before(&mut self, key: &[u8], read: u64) -> bool {
        let Some(bytes) = self.bytes else { return false };
        let mut at_place = false;
        while self.places.front().is_some_and(|place| place.as_slice() <= key) {
            self.places.pop_front();
            at_place = true;
        }
        read >= bytes.saturating_mul(2) || (read >= bytes && at_place)
    }
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    Done,
}

/// A rewrite that has begun.
#[derive(Debug)]
pub(crate) struct Rewrite {
    rt: Rt,
    target: Target,
    merge: Merge,
    /// Long blocks that sources have read last.
    kept: Rc<KeptBlocks>,
    retention: Retention,
    below: Below,
    /// Range deletes that have no table yet.
    erased: RangeTombstones,
    /// Where the table under construction begins; empty for the first.
    cut: Vec<u8>,
    /// Where it ends at the latest, because of its range deletes.
    next_cut: Option<Bytes>,
    table: Option<Open>,
    finished: Vec<TableMeta>,
    stop: Stop,
    /// Bytes of the entries taken from the sources.
    read_bytes: u64,
    entries: u64,
    /// The first key that was left to a later rewrite.
    stopped_before: Option<Vec<u8>>,
    budget: Budget,
}

#[derive(Debug)]
struct Open {
    builder: TableBuilder,
    writer: Writer,
    number: u64,
    last_key: Vec<u8>,
}

impl Rewrite {
    pub(crate) fn new(
        rt: &Rt,
        target: Target,
        (merge, kept): (Merge, Rc<KeptBlocks>),
        retention: Retention,
        below: Below,
        stop: Stop,
    ) -> Self {
        let erased = retention.keep_erased(|start, end| !below.overlaps(start, end));
        let next_cut = erased.cut_after(b"", target.table_bytes);
        Self {
            rt: rt.clone(),
            target,
            merge,
            kept,
            retention,
            below,
            erased,
            cut: Vec::new(),
            next_cut,
            table: None,
            finished: Vec::new(),
            stop,
            read_bytes: 0,
            entries: 0,
            stopped_before: None,
            budget: rt.budget(),
        }
    }

    /// Does the next slice and lets the reactor run.
    pub(crate) async fn slice(&mut self) -> Result<Progress> {
        let mut since_check = 0;
        while let Some(entry) = self.merge.peek() {
            let is_new = self.retention.is_new_key(entry.key);
            if let Some(cut) = self.next_cut.clone()
                && is_new
                && entry.key >= &cut[..]
            {
                if self.cut_at(&cut).await? {
                    return Ok(Progress::Done);
                }
                continue;
            }
            if is_new && self.entries > 0 && self.stop.before(entry.key, self.read_bytes) {
                let key = entry.key.to_vec();
                self.stop_before(key).await?;
                return Ok(Progress::Done);
            }
            self.take_entry().await?;
            since_check += 1;
            if since_check == CHECK_EVERY {
                since_check = 0;
                if self.budget.spent() {
                    self.budget.tick().await;
                    return Ok(Progress::More);
                }
            }
        }
        while let Some(cut) = self.next_cut.clone() {
            if self.cut_at(&cut).await? {
                return Ok(Progress::Done);
            }
        }
        if self.table.is_some() || !self.erased.is_empty() {
            self.finish_table(None).await?;
        }
        Ok(Progress::Done)
    }

    /// Ends a table before `cut`, because its range deletes fill it, and the rewrite with it if it has gone far enough; says whether it has.
    async fn cut_at(&mut self, cut: &[u8]) -> Result<bool> {
        if self.stop.before(cut, self.read_bytes) {
            self.stop_before(cut.to_vec()).await?;
            return Ok(true);
        }
        self.finish_table(Some(cut)).await?;
        Ok(false)
    }

    /// Leaves `key` and what follows to a later rewrite.
    async fn stop_before(&mut self, key: Vec<u8>) -> Result<()> {
        let mut erased = RangeTombstones::default();
        erased.merge(&self.erased, &self.cut, &key);
        if self.table.is_some() || !erased.is_empty() {
            self.finish_table(Some(&key)).await?;
        }
        self.erased = RangeTombstones::default();
        self.next_cut = None;
        self.stopped_before = Some(key);
        Ok(())
    }

    /// Entries taken so far, and their bytes.
    pub(crate) fn taken(&self) -> (u64, u64) {
        (self.entries, self.read_bytes)
    }

    /// Values that went because they had expired.
    pub(crate) fn expired(&self) -> u64 {
        self.retention.expired()
    }

    /// The tables written, synced but unknown to the manifest, and the first key that was left out, if the rewrite ended early.
    pub(crate) fn into_tables(self) -> (Vec<TableMeta>, Option<Vec<u8>>) {
        (self.finished, self.stopped_before)
    }

    async fn take_entry(&mut self) -> Result<()> {
        let Some(entry) = self.merge.peek() else { return Ok(()) };
        self.read_bytes += (entry.key.len() + entry.value.len()) as u64;
        self.entries += 1;
        let below = &self.below;
        let fate = self.retention.judge(&entry, || !below.holds(entry.key));
        if fate != Fate::Goes {
            let full = self.table.as_ref().is_some_and(|open| {
                open.builder.size_bytes() >= self.target.table_bytes && open.last_key != entry.key
            });
            if full {
                let next_key = entry.key.to_vec();
                self.finish_table(Some(&next_key)).await?;
            }
            if self.table.is_none() {
                self.table = Some(self.open_table().await?);
            }
            let value = self.value_elsewhere(fate).await?;
            self.read_bytes += value.as_ref().map_or(0, |value| value.len() as u64);
            self.add_current(fate, value.as_deref());
            drop(value);
            self.write_out().await?;
        }
        if !self.merge.advance_now() {
            self.merge.advance().await?;
        }
        Ok(())
    }

    /// The value of the next entry, if its source has not kept it and it stays.
    async fn value_elsewhere(&self, fate: Fate) -> Result<Option<Bytes>> {
        let (Some(place), Some(entry)) = (self.merge.place(), self.merge.peek()) else { return Ok(None) };
        match fate {
            Fate::Stays => place.read(&self.rt, None, &self.kept, (entry.key, entry.seq)).await.map(Some),
            Fate::Deleted | Fate::Goes => Ok(None),
        }
    }

    /// Adds the next entry, with `value` if that was read apart.
    fn add_current(&mut self, fate: Fate, value: Option<&[u8]>) {
        let (Some(open), Some(entry)) = (&mut self.table, self.merge.peek()) else { return };
        let value = value.unwrap_or(entry.value);
        match fate {
            Fate::Deleted => open.builder.add(entry.key, entry.seq, Kind::Delete, &[]),
            Fate::Stays | Fate::Goes => open.builder.add(entry.key, entry.seq, entry.kind, value),
        }
        open.last_key.clear();
        open.last_key.extend_from_slice(entry.key);
    }

    async fn write_out(&mut self) -> Result<()> {
        let Some(open) = &mut self.table else { return Ok(()) };
        if open.builder.output().len() >= WRITE_BYTES {
            let written = open.builder.output().len() as u64;
            open.writer.feed(&self.rt, open.builder.output()).await?;
            self.target.pace.spend(&self.rt, written).await;
        }
        Ok(())
    }

    async fn open_table(&self) -> Result<Open> {
        let number = self.target.numbers.get();
        self.target.numbers.set(number + 1);
        let path = self.target.dir.join(file_name(number));
        let writer = loop {
            match Writer::create(&self.rt, path.clone()).await {
                Err(fault) if self.target.files.make_room_after(&fault) => self.rt.sleep(GIVE_WAY).await,
                created => break created?,
            }
        };
        Ok(Open {
            builder: TableBuilder::new(self.target.cf, self.target.shape, self.rt.random()),
            writer,
            number,
            last_key: Vec::new(),
        })
    }

    /// Ends the table under construction before `next_key`; range deletes up to there go with it.
    async fn finish_table(&mut self, next_key: Option<&[u8]>) -> Result<()> {
        let mut open = match self.table.take() {
            Some(open) => open,
            None => self.open_table().await?,
        };
        let end = next_key.unwrap_or_default();
        let mut erased = RangeTombstones::default();
        erased.merge(&self.erased, &self.cut, end);
        for (start, end, seqs) in erased.iter() {
            self.read_bytes += ((start.len() + end.len()) * seqs.len()) as u64;
            open.builder.add_erased(start, end, seqs);
            if open.builder.output().len() >= WRITE_BYTES {
                let written = open.builder.output().len() as u64;
                open.writer.feed(&self.rt, open.builder.output()).await?;
                self.target.pace.spend(&self.rt, written).await;
            }
            self.budget.tick().await;
        }
        let built = open.builder.finish();
        let file = open.number;
        // What is left of a table costs as much as what was written before it, or small tables would be free.
        let rest_bytes = open.builder.output().len() as u64;
        open.writer.finish(&self.rt, open.builder.output()).await?;
        self.target.pace.spend(&self.rt, rest_bytes).await;
        self.finished.push(TableMeta {
            table: file,
            file,
            cf: self.target.cf.index() as u8,
            level: self.target.level,
            start: built.start,
            end: built.end,
            file_bytes: built.file_bytes,
            bytes: built.file_bytes,
            identity: built.identity,
            file_crc: built.body_crc,
            entries: built.entries,
            deletes: built.deletes,
            smallest_seq: built.smallest_seq.0,
            largest_seq: built.largest_seq.0,
            block_bytes_max: built.block_bytes_max,
            erasures: built.erasures,
            erased: Arc::new(erased),
        });
        match next_key {
            Some(next_key) => {
                self.cut = next_key.to_vec();
                self.next_cut = self.erased.cut_after(&self.cut, self.target.table_bytes);
            }
            None => {
                self.erased = RangeTombstones::default();
                self.next_cut = None;
            }
        }
        Ok(())
    }
}
