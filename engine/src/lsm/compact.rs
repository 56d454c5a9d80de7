//! Rewrites: a merge of sources becomes new tables. A flush and a compaction are the same work with different sources.
//!
//! The work comes in slices of about half a millisecond, so that whoever drives it decides what happens in between. A table
//! is synced before anybody hears of it; the manifest comes later and elsewhere.

use std::path::PathBuf;
use std::rc::Rc;

use super::erased::RangeTombstones;
use super::key::Cf;
use super::merge::Merge;
use super::pace::Pace;
use super::retain::Retention;
use super::table::build::{TableBuilder, TableShape};
use super::table::read::file_name;
use super::version::{ErasedRow, TableMeta, Version};
use crate::error::{Fault, Result};
use crate::rt::{BLOCK_BYTES, Budget, Buf, File, OpenMode, Rt};

/// The unit in which tables are written.
const WRITE_BYTES: usize = 256 << 10;
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
    /// Hands out file numbers.
    pub(crate) numbers: Rc<std::cell::Cell<u64>>,
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    Done,
}

/// A rewrite under way.
#[derive(Debug)]
pub(crate) struct Rewrite {
    rt: Rt,
    target: Target,
    merge: Merge,
    retention: Retention,
    below: Below,
    /// Range deletes that have no table yet.
    erased: RangeTombstones,
    /// Where the table under construction begins; empty for the first.
    cut: Vec<u8>,
    table: Option<Open>,
    finished: Vec<TableMeta>,
    budget: Budget,
}

#[derive(Debug)]
struct Open {
    builder: TableBuilder,
    writer: Writer,
    last_key: Vec<u8>,
}

impl Rewrite {
    pub(crate) fn new(rt: &Rt, target: Target, merge: Merge, retention: Retention, below: Below) -> Self {
        let erased = retention.keep_erased(|start, end| !below.overlaps(start, end));
        Self {
            rt: rt.clone(),
            target,
            merge,
            retention,
            below,
            erased,
            cut: Vec::new(),
            table: None,
            finished: Vec::new(),
            budget: rt.budget(),
        }
    }

    /// Does the next slice and lets the reactor run.
    pub(crate) async fn slice(&mut self) -> Result<Progress> {
        let mut since_check = 0;
        while self.merge.peek().is_some() {
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
        if self.table.is_some() || !self.erased.is_empty() {
            self.finish_table(None).await?;
        }
        Ok(Progress::Done)
    }

    /// Does all of it.
    pub(crate) async fn run(&mut self) -> Result<()> {
        while self.slice().await? == Progress::More {}
        Ok(())
    }

    /// The tables written, synced but unknown to the manifest.
    pub(crate) fn into_tables(self) -> Vec<TableMeta> {
        self.finished
    }

    async fn take_entry(&mut self) -> Result<()> {
        let Some(entry) = self.merge.peek() else { return Ok(()) };
        let below = &self.below;
        if self.retention.keep(&entry, || !below.holds(entry.key)) {
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
            self.add_current();
            self.write_out().await?;
        }
        if !self.merge.advance_now() {
            self.merge.advance().await?;
        }
        Ok(())
    }

    fn add_current(&mut self) {
        let (Some(open), Some(entry)) = (&mut self.table, self.merge.peek()) else { return };
        open.builder.add(entry.key, entry.seq, entry.kind, entry.value);
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
        let writer = Writer::create(&self.rt, path, number).await?;
        Ok(Open {
            builder: TableBuilder::new(self.target.cf, self.target.shape),
            writer,
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
        let built = open.builder.finish(&erased);
        let file = open.writer.number;
        open.writer.finish(&self.rt, open.builder.output()).await?;
        let rows = erased.iter().flat_map(|(start, end, seqs)| {
            seqs.iter().map(|seq| ErasedRow { start: start.to_vec(), end: end.to_vec(), seq: seq.0 })
        });
        self.finished.push(TableMeta {
            table: file,
            file,
            cf: self.target.cf.index() as u8,
            level: self.target.level,
            start: built.start,
            end: built.end,
            file_bytes: built.file_bytes,
            file_crc: built.body_crc,
            entries: built.entries,
            deletes: built.deletes,
            smallest_seq: built.smallest_seq.0,
            largest_seq: built.largest_seq.0,
            erased: rows.collect(),
        });
        match next_key {
            Some(next_key) => self.cut = next_key.to_vec(),
            None => self.erased = RangeTombstones::default(),
        }
        Ok(())
    }
}

/// Writes a file front to back in large aligned pieces.
#[derive(Debug)]
struct Writer {
    file: File,
    path: PathBuf,
    number: u64,
    pos: u64,
    piece: Option<Buf>,
    filled: usize,
}

impl Writer {
    async fn create(rt: &Rt, path: PathBuf, number: u64) -> Result<Self> {
        let file = rt.open(&path, OpenMode::Create).await.map_err(|e| Fault::io(&path, "creating", &e))?;
        Ok(Self { file, path, number, pos: 0, piece: None, filled: 0 })
    }

    /// Takes all of `bytes`; whole pieces are written, the rest waits.
    async fn feed(&mut self, rt: &Rt, bytes: &mut Vec<u8>) -> Result<()> {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let piece = self.piece.get_or_insert_with(|| rt.alloc(WRITE_BYTES));
            let taken = rest.len().min(WRITE_BYTES - self.filled);
            piece[self.filled..self.filled + taken].copy_from_slice(&rest[..taken]);
            self.filled += taken;
            rest = &rest[taken..];
            if self.filled == WRITE_BYTES {
                self.write_piece().await?;
            }
        }
        bytes.clear();
        Ok(())
    }

    /// Writes the end, a whole number of blocks, and makes the file durable.
    async fn finish(mut self, rt: &Rt, bytes: &mut Vec<u8>) -> Result<()> {
        self.feed(rt, bytes).await?;
        if self.filled > 0 {
            assert_eq!(self.filled % BLOCK_BYTES, 0, "a table is padded to whole blocks");
            let whole = self.piece.take();
            let mut last = rt.alloc(self.filled);
            if let Some(whole) = whole {
                last.copy_from_slice(&whole[..self.filled]);
            }
            self.piece = Some(last);
            self.write_piece().await?;
        }
        self.file.sync().await.map_err(|e| Fault::doubt(&self.path, "syncing", &e))?;
        self.file.close().await.map_err(|e| Fault::io(&self.path, "closing", &e))
    }

    async fn write_piece(&mut self) -> Result<()> {
        let Some(piece) = self.piece.take() else { return Ok(()) };
        let len = piece.len() as u64;
        self.file.write_at(piece, self.pos).await.map_err(|e| Fault::io(&self.path, "writing", &e))?;
        self.pos += len;
        self.filled = 0;
        Ok(())
    }
}
