//! Where entries come from: a memtable, or a run of tables that share no key.
//!
//! A source walks one range in one direction and hands out chunks in walking order; an empty chunk is the end. It reads a
//! table only when the walk gets there.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use super::bound::Bound;
use super::cache::BlockCache;
use super::chunk::Chunk;
use super::key::{Cf, Direction, SeqNo, in_range, lower_end};
use super::long::{BLOCK_BYTES_KEPT, Elsewhere, KeptBlocks};
use super::memtable::Memtable;
use super::table::Handle;
use super::table::block::{BlockView, without_values};
use super::table::handles::Handles;
use super::table::read::{Table, Window};
use crate::error::Result;
use crate::rt::Rt;

/// How far a scan reads ahead once it has missed the cache twice in a row.
const SCAN_AHEAD_BYTES: usize = 64 << 10;

/// A half-open range; an empty end means "no upper bound".
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyRange {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl KeyRange {
    fn ends(&self) -> (&[u8], &[u8]) {
        (&self.start, &self.end)
    }

    /// Leaves only what comes after `bound`.
    fn narrow(&mut self, direction: Direction, bound: &[u8]) {
        match direction {
            Direction::Forward => self.start = bound.to_vec(),
            Direction::Reverse => self.end = bound.to_vec(),
        }
    }
}

/// How a run reads its blocks.
#[derive(Debug, Clone)]
pub(crate) enum Reading {
    /// Through the cache, for clients, and within what the walk may hold.
    Cached(Rc<BlockCache>, Rc<Bound>),
    /// Past the cache in large pieces, for compaction. Of a block that is longer than a piece a source keeps the keys alone, and
    /// whoever wants its values reads them when it comes to them.
    Ahead { bytes: usize, kept: Rc<KeptBlocks> },
}

#[derive(Debug)]
pub(crate) enum Source {
    Memory(MemorySource),
    Run(Box<RunSource>),
}

impl Source {
    pub(crate) async fn next_chunk(&mut self) -> Result<Chunk> {
        match self {
            Source::Memory(memory) => Ok(memory.next_chunk()),
            Source::Run(run) => run.next_chunk().await,
        }
    }

    /// The newest number that anything may have between here and `bound`.
    pub(crate) fn newest_before(&self, direction: Direction, bound: &[u8]) -> SeqNo {
        match self {
            Source::Memory(memory) => memory.memtable.newest(),
            Source::Run(run) => run.newest_before(direction, bound),
        }
    }

    /// Leaves out what lies between here and `bound`.
    pub(crate) fn skip_to(&mut self, direction: Direction, bound: &[u8]) {
        match self {
            Source::Memory(memory) => {
                memory.range.narrow(direction, bound);
                memory.after = None;
            }
            Source::Run(run) => run.skip_to(direction, bound),
        }
    }
}

/// A walk over a memtable. Entries that arrive meanwhile may show up; their sequence numbers tell them apart. What they
/// overwrite may be missing; the versions that the walk's snapshot sees are not.
#[derive(Debug)]
pub(crate) struct MemorySource {
    memtable: Rc<Memtable>,
    cf: Cf,
    direction: Direction,
    range: KeyRange,
    after: Option<(Bytes, SeqNo)>,
    bound: Rc<Bound>,
}

impl MemorySource {
    pub(crate) fn new(
        memtable: Rc<Memtable>,
        cf: Cf,
        direction: Direction,
        range: KeyRange,
        bound: Rc<Bound>,
    ) -> Self {
        Self { memtable, cf, direction, range, after: None, bound }
    }

    fn next_chunk(&mut self) -> Chunk {
        let after = self.after.as_ref().map(|(key, seq)| (&key[..], *seq));
        let range = (self.range.start.as_slice(), self.range.end.as_slice());
        let chunk = self.memtable.chunk(self.cf, self.direction, range, after, &self.bound);
        if let Some(last) = chunk.len().checked_sub(1) {
            self.after = chunk.get(last).map(|entry| (chunk.key(last), entry.seq));
        }
        chunk
    }
}

/// A walk over tables that share no key, in key order.
#[derive(Debug)]
pub(crate) struct RunSource {
    rt: Rt,
    reading: Reading,
    direction: Direction,
    range: KeyRange,
    tables: VecDeque<Rc<Table>>,
    table: Option<OpenTable>,
    misses: u32,
}

/// The table a run is in, and what of it is still ahead.
#[derive(Debug)]
struct OpenTable {
    table: Rc<Table>,
    /// The walked range within the table's virtual bounds.
    range: KeyRange,
    parts: Handles,
    blocks: Handles,
    block: Option<OpenBlock>,
    intervals: Range<usize>,
    window: Window,
}

/// A block as a walk holds it.
#[derive(Debug)]
struct OpenBlock {
    handle: Handle,
    bytes: Bytes,
    /// Without its values, which the walk reads when it comes to them.
    is_bare: bool,
}

impl RunSource {
    pub(crate) fn new(
        rt: &Rt,
        reading: Reading,
        direction: Direction,
        range: KeyRange,
        tables: Vec<Rc<Table>>,
    ) -> Self {
        Self { rt: rt.clone(), reading, direction, range, tables: tables.into(), table: None, misses: 0 }
    }

    fn newest_before(&self, direction: Direction, bound: &[u8]) -> SeqNo {
        let before = |table: &&Rc<Table>| match direction {
            Direction::Forward => table.meta.start.as_slice() < bound,
            Direction::Reverse => table.meta.end.as_slice() > bound,
        };
        let open = self.table.iter().map(|open| &open.table);
        let newest = open.chain(&self.tables).filter(before).map(|table| table.meta.largest_seq()).max();
        newest.unwrap_or_default()
    }

    fn skip_to(&mut self, direction: Direction, bound: &[u8]) {
        self.range.narrow(direction, bound);
        if let Some(open) = self.table.take() {
            match direction {
                Direction::Forward => self.tables.push_front(open.table),
                Direction::Reverse => self.tables.push_back(open.table),
            }
        }
        let behind = |table: &Rc<Table>| match direction {
            Direction::Forward => table.meta.end.as_slice() > bound,
            Direction::Reverse => table.meta.start.as_slice() < bound,
        };
        self.tables.retain(behind);
    }

    async fn next_chunk(&mut self) -> Result<Chunk> {
        loop {
            if let Some(open) = &mut self.table {
                if let Some(chunk) = open.next_interval(self.direction)? {
                    return Ok(chunk);
                }
                if let Some(handle) = open.next_block(self.direction)? {
                    let read = read_block(&self.rt, &self.reading, &mut self.misses, open, handle).await?;
                    // The walk ends: it has no room for the block.
                    let Some(block) = read else { return Ok(Chunk::default()) };
                    open.enter_block(block)?;
                    continue;
                }
                if let Some(handle) = open.next_part(self.direction)? {
                    let part = read(&self.rt, &self.reading, &mut self.misses, open, handle).await?;
                    open.blocks = open.table.blocks(handle, &part, self.direction, open.range.ends())?;
                    continue;
                }
                self.table = None;
            }
            let Some(table) = take(&mut self.tables, self.direction) else { return Ok(Chunk::default()) };
            self.table = Some(OpenTable::new(&self.rt, table, self.direction, &self.range).await?);
        }
    }
}

impl OpenTable {
    async fn new(rt: &Rt, table: Rc<Table>, direction: Direction, walked: &KeyRange) -> Result<Self> {
        let range = KeyRange {
            start: walked.start.as_slice().max(&table.meta.start).to_vec(),
            end: lower_end(&walked.end, &table.meta.end).to_vec(),
        };
        let parts = table.parts(rt, direction, &range.start, &range.end).await?;
        let (blocks, window) = (Handles::default(), Window::default());
        Ok(Self { table, range, parts, blocks, block: None, intervals: 0..0, window })
    }

    fn next_part(&mut self, direction: Direction) -> Result<Option<Handle>> {
        let (start, end) = self.range.ends();
        self.parts.next(direction, start, end).map_err(|damage| self.table.damaged(damage, "root"))
    }

    fn next_block(&mut self, direction: Direction) -> Result<Option<Handle>> {
        let (start, end) = self.range.ends();
        self.blocks.next(direction, start, end).map_err(|damage| self.table.damaged(damage, "part"))
    }

    fn enter_block(&mut self, block: OpenBlock) -> Result<()> {
        let intervals = BlockView::parse(&block.bytes).and_then(|view| {
            let first = view.last_interval_before(&self.range.start, SeqNo::MAX)?;
            let last = view.last_interval_before(&self.range.end, SeqNo::MAX)?;
            Ok(first..view.intervals().min(last + 1))
        });
        self.intervals = intervals.map_err(|damage| self.table.damaged_at(damage, block.handle))?;
        self.block = Some(block);
        Ok(())
    }

    /// The next entries of the block the walk is in, or nothing if it is used up.
    fn next_interval(&mut self, direction: Direction) -> Result<Option<Chunk>> {
        let Some(OpenBlock { handle, bytes, is_bare }) = &self.block else { return Ok(None) };
        loop {
            let interval = match direction {
                Direction::Forward => self.intervals.next(),
                Direction::Reverse => self.intervals.next_back(),
            };
            let Some(interval) = interval else {
                self.block = None;
                return Ok(None);
            };
            let chunk = BlockView::parse(bytes).and_then(|view| view.decode(interval, bytes));
            let mut chunk = chunk.map_err(|damage| self.table.damaged_at(damage, *handle))?;
            if *is_bare {
                let table = self.table.clone();
                chunk = chunk.with_values_elsewhere(Elsewhere { table, block: *handle, interval });
            }
            chunk.trim(|key| in_range(key, &self.range.start, &self.range.end));
            if direction == Direction::Reverse {
                chunk.reverse();
            }
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }
}

/// A data block as the walk keeps it; nothing if it has no room for it.
async fn read_block(
    rt: &Rt,
    reading: &Reading,
    misses: &mut u32,
    open: &mut OpenTable,
    handle: Handle,
) -> Result<Option<OpenBlock>> {
    let (cache, bound) = match reading {
        Reading::Cached(cache, bound) => (cache, bound),
        Reading::Ahead { bytes: piece_bytes, kept } => {
            let bytes = read(rt, reading, misses, open, handle).await?;
            if bytes.len() <= *piece_bytes {
                return Ok(Some(OpenBlock { handle, bytes, is_bare: false }));
            }
            kept.keep(open.table.meta.file, handle, &bytes);
            let bare = without_values(&bytes).map_err(|damage| open.table.damaged_at(damage, handle))?;
            return Ok(Some(OpenBlock { handle, bytes: bare, is_bare: true }));
        }
    };
    let block = match cache.get(open.table.meta.file, handle.offset) {
        Some(block) => {
            *misses = 0;
            // The cache has it already; only a walk that goes on to hold it may outlive that.
            if !bound.keys_only() && !bound.admits(block.len()) {
                return Ok(None);
            }
            block
        }
        None => {
            if !bound.admits(handle.len as usize) {
                return Ok(None);
            }
            *misses += 1;
            let ahead = if *misses > 2 { SCAN_AHEAD_BYTES } else { 0 };
            let unpacked = open.table.fetch_frame(rt, handle, &mut open.window, ahead).await?;
            if !bound.admits(unpacked) {
                open.window = Window::default();
                return Ok(None);
            }
            let block = open.table.open_fetched(handle, &open.window)?;
            if handle.len as usize > BLOCK_BYTES_KEPT {
                open.window = Window::default();
            }
            cache.insert(open.table.meta.file, handle.offset, block.clone());
            block
        }
    };
    if block.len() <= BLOCK_BYTES_KEPT {
        return Ok(Some(OpenBlock { handle, bytes: block, is_bare: false }));
    }
    if !bound.keys_only() {
        bound.kept().keep(open.table.meta.file, handle, &block);
    }
    let bytes = without_values(&block).map_err(|damage| open.table.damaged_at(damage, handle))?;
    Ok(Some(OpenBlock { handle, bytes, is_bare: true }))
}

async fn read(
    rt: &Rt,
    reading: &Reading,
    misses: &mut u32,
    open: &mut OpenTable,
    handle: Handle,
) -> Result<Bytes> {
    match reading {
        Reading::Ahead { bytes, kept: _ } => {
            let frame = open.table.read_frame(rt, handle, &mut open.window, *bytes).await?;
            if handle.len as usize >= *bytes {
                // Nothing was read beyond it, and a merge has many of these at once.
                open.window = Window::default();
            }
            Ok(frame)
        }
        Reading::Cached(cache, _) => {
            if let Some(bytes) = cache.get(open.table.meta.file, handle.offset) {
                *misses = 0;
                return Ok(bytes);
            }
            *misses += 1;
            let ahead = if *misses > 2 { SCAN_AHEAD_BYTES } else { 0 };
            let bytes = open.table.read_frame(rt, handle, &mut open.window, ahead).await?;
            cache.insert(open.table.meta.file, handle.offset, bytes.clone());
            Ok(bytes)
        }
    }
}

fn take<T>(from: &mut VecDeque<T>, direction: Direction) -> Option<T> {
    match direction {
        Direction::Forward => from.pop_front(),
        Direction::Reverse => from.pop_back(),
    }
}
