//! Finds a key in a table, and walks one.
//!
//! A [`Table`] is a row of the manifest with a file behind it. The file is opened when it is read, and closed when too many others
//! are (see [`super::files`]); its root stays in memory from the first read on (about one part in ten thousand of the file). Parts
//! and data blocks come through the block cache. No task holds a file between two reads.

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::block::BlockView;
use super::files::Files;
use super::handles::Handles;
use super::{
    Damage, ErasedAt, FOOTER_BYTES, Footer, Handle, PartView, Place, locate, open_frame, opened_bytes,
    walk_index,
};
use crate::error::{Fault, Result, Shortage};
use crate::lsm::cache::BlockCache;
use crate::lsm::chunk::Chunk;
use crate::lsm::erased::RangeTombstones;
use crate::lsm::expiry::timed_part;
use crate::lsm::filter;
use crate::lsm::key::{Direction, Kind, SeqNo};
use crate::lsm::long::{BLOCK_BYTES_KEPT, LongBlock};
use crate::lsm::memtable::Found;
use crate::lsm::version::TableMeta;
use crate::rt::{BLOCK_BYTES, Buf, File, OpenMode, Rt};

/// What is read to open a table; holds footer and root of all but very large ones.
const TAIL_BYTES: u64 = 16 << 10;

/// When opening a file is tried again for which something was short.
const OPEN_AGAIN: Duration = Duration::from_millis(20);

/// A table of some version: what its row says, and the file behind it.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) meta: TableMeta,
    backing: Rc<Backing>,
}

/// A table file, shared by all tables that show a part of it and by all versions that have them. The last one to let go
/// closes it, and removes it if no version has it any more.
#[derive(Debug)]
pub(crate) struct Backing {
    number: u64,
    path: PathBuf,
    /// Read at the first opening; stays when the file is closed for others.
    root: OnceCell<Bytes>,
    retired: Cell<bool>,
    files: Rc<Files>,
}

/// Where a look-up in one table ended, as far as memory shows.
#[derive(Debug)]
pub(crate) enum Probe {
    /// The newest visible version.
    Found { seq: SeqNo, value: Found },
    /// The table has no visible version.
    Absent,
    /// Something is not in memory.
    NeedsIo,
}

/// A block that was turned down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong(pub(crate) LongBlock);

impl Table {
    /// A table over a file that no other table shows.
    pub(crate) fn new(meta: TableMeta, dir: &Path, files: Rc<Files>) -> Self {
        let (number, path) = (meta.file, dir.join(file_name(meta.file)));
        let backing = Backing { number, path, root: OnceCell::new(), retired: Cell::new(false), files };
        Self::over(meta, Rc::new(backing))
    }

    /// A table over the file of another.
    pub(crate) fn sharing(meta: TableMeta, other: &Table) -> Self {
        Self::over(meta, other.backing.clone())
    }

    fn over(meta: TableMeta, backing: Rc<Backing>) -> Self {
        Self { meta, backing }
    }

    /// Where its file is.
    pub(crate) fn path(&self) -> &Path {
        &self.backing.path
    }

    /// Says that no later version shows this table's file, so that it goes when the last reader does.
    pub(crate) fn retire_file(&self) {
        self.backing.retired.set(true);
    }

    /// Looks `key` up with what is in memory.
    pub(crate) fn probe(&self, cache: &BlockCache, key: &[u8], hash: u64, at: SeqNo) -> Result<Probe> {
        let Some(root) = self.backing.root.get() else { return Ok(Probe::NeedsIo) };
        let Some(part_handle) = self.part_of(root, key)? else { return Ok(Probe::Absent) };
        let Some(part) = cache.get(self.meta.file, part_handle.offset) else { return Ok(Probe::NeedsIo) };
        let Some(block_handle) = self.block_of(part_handle, &part, key, hash)? else {
            return Ok(Probe::Absent);
        };
        let Some(block) = cache.get(self.meta.file, block_handle.offset) else { return Ok(Probe::NeedsIo) };
        self.version_in(block_handle, &block, key, at)
    }

    /// Looks `key` up, reading what is not in memory, unless it would have to read or to open a long block that `admits` turns down.
    pub(crate) async fn get(
        &self,
        rt: &Rt,
        cache: &BlockCache,
        (key, hash): (&[u8], u64),
        at: SeqNo,
        admits: &dyn Fn(LongBlock) -> bool,
    ) -> Result<std::result::Result<Probe, TooLong>> {
        let Some(part_handle) = self.part_of(self.root(rt).await?, key)? else {
            return Ok(Ok(Probe::Absent));
        };
        let part = self.cached(rt, cache, part_handle).await?;
        let Some(handle) = self.block_of(part_handle, &part, key, hash)? else {
            return Ok(Ok(Probe::Absent));
        };
        let block = match cache.get(self.meta.file, handle.offset) {
            Some(block) => block,
            None => match self.read_admitted(rt, handle, admits).await? {
                Ok(block) => {
                    cache.insert(self.meta.file, handle.offset, block.clone());
                    block
                }
                Err(too_long) => return Ok(Err(too_long)),
            },
        };
        self.version_in(handle, &block, key, at).map(Ok)
    }

    /// A block from the file. How long it is on disk is known before it is read, and what it opens to before it is opened.
    async fn read_admitted(
        &self,
        rt: &Rt,
        handle: Handle,
        admits: &dyn Fn(LongBlock) -> bool,
    ) -> Result<std::result::Result<Bytes, TooLong>> {
        let packed_bytes = handle.len as usize;
        let turned_down = |opened_bytes: usize| {
            let block = LongBlock { packed_bytes, opened_bytes };
            (packed_bytes.max(opened_bytes) > BLOCK_BYTES_KEPT && !admits(block)).then_some(TooLong(block))
        };
        if let Some(too_long) = turned_down(packed_bytes) {
            return Ok(Err(too_long));
        }
        let mut window = Window::default();
        let opened_bytes = self.fetch_frame(rt, handle, &mut window, 0).await?;
        if let Some(too_long) = turned_down(opened_bytes) {
            return Ok(Err(too_long));
        }
        self.open_fetched(handle, &window).map(Ok)
    }

    /// A walk over the parts that hold keys of `[start, end)`.
    pub(crate) async fn parts(
        &self,
        rt: &Rt,
        direction: Direction,
        start: &[u8],
        end: &[u8],
    ) -> Result<Handles> {
        let root = self.root(rt).await?;
        Handles::new(root.clone(), direction, start, end).map_err(|damage| self.damaged(damage, "root"))
    }

    /// Last key and handle of every part that holds keys of `[start, end)`.
    pub(crate) async fn part_keys(&self, rt: &Rt, start: &[u8], end: &[u8]) -> Result<Vec<(Bytes, Handle)>> {
        let root = self.root(rt).await?;
        let mut parts = Vec::new();
        let visit = |key: &[u8], handle| {
            parts.push((Bytes::copy_from_slice(key), handle));
            end.is_empty() || key < end
        };
        walk_index(root, start, visit).map_err(|damage| self.damaged(damage, "root"))?;
        Ok(parts)
    }

    /// A walk over the data blocks of a part that hold keys of `[start, end)`.
    pub(crate) fn blocks(
        &self,
        part: Handle,
        bytes: &Bytes,
        direction: Direction,
        (start, end): (&[u8], &[u8]),
    ) -> Result<Handles> {
        PartView::parse(bytes)
            .and_then(|view| Handles::new(view.index_bytes(bytes), direction, start, end))
            .map_err(|damage| self.damaged_at(damage, part))
    }

    /// A frame through the cache.
    pub(crate) async fn cached(&self, rt: &Rt, cache: &BlockCache, handle: Handle) -> Result<Bytes> {
        if let Some(bytes) = cache.get(self.meta.file, handle.offset) {
            return Ok(bytes);
        }
        let bytes = self.read_frame(rt, handle, &mut Window::default(), 0).await?;
        cache.insert(self.meta.file, handle.offset, bytes.clone());
        Ok(bytes)
    }

    /// A frame from the file. With `ahead_bytes`, that much is read at once and kept in `window` for the next frames.
    pub(crate) async fn read_frame(
        &self,
        rt: &Rt,
        handle: Handle,
        window: &mut Window,
        ahead_bytes: usize,
    ) -> Result<Bytes> {
        self.fetch_frame(rt, handle, window, ahead_bytes).await?;
        self.open_fetched(handle, window)
    }

    /// Reads a frame into `window` as [`Table::read_frame`] does, and says how many bytes it opens to.
    pub(crate) async fn fetch_frame(
        &self,
        rt: &Rt,
        handle: Handle,
        window: &mut Window,
        ahead_bytes: usize,
    ) -> Result<usize> {
        let body_bytes = self.meta.file_bytes - FOOTER_BYTES as u64;
        let inside = handle.offset.checked_add(u64::from(handle.len)).is_some_and(|end| end <= body_bytes);
        if !inside {
            return Err(self.damaged_at(Damage("an index entry points beyond the file"), handle));
        }
        if !window.holds(handle) {
            let start = handle.offset / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
            let wanted = (handle.offset - start) as usize + handle.len as usize;
            let left = usize::try_from(self.meta.file_bytes - start).unwrap_or(usize::MAX);
            let len = wanted.max(ahead_bytes.min(left)).next_multiple_of(BLOCK_BYTES);
            let attempt = format!("reading {len} bytes at {start}");
            let file = self.backing.file(rt).await?;
            let buf =
                file.read_at(start, len).await.map_err(|e| Fault::io(&self.backing.path, &attempt, &e))?;
            *window = Window { start, buf: Some(buf) };
        }
        self.fetched(handle, window).map(opened_bytes)
    }

    /// Opens a frame that `window` has.
    pub(crate) fn open_fetched(&self, handle: Handle, window: &Window) -> Result<Bytes> {
        let frame = self.fetched(handle, window)?;
        open_frame(frame, self.place(handle)).map_err(|damage| self.damaged_at(damage, handle))
    }

    fn fetched<'a>(&self, handle: Handle, window: &'a Window) -> Result<&'a [u8]> {
        window.frame(handle).ok_or_else(|| self.damaged_at(Damage("the file ends early"), handle))
    }

    /// What is wrong, and where.
    pub(crate) fn damaged_at(&self, damage: Damage, handle: Handle) -> Fault {
        damage.fault(&self.backing.path, format_args!("block at offset {}", handle.offset))
    }

    /// What is wrong with one of the table's indexes.
    pub(crate) fn damaged(&self, damage: Damage, place: &str) -> Fault {
        damage.fault(&self.backing.path, place)
    }

    /// Reads footer and root, unless that has been done.
    pub(crate) async fn check_end(&self, rt: &Rt) -> Result<()> {
        self.root(rt).await.map(|_| ())
    }

    /// The file's range deletes within the table's bounds.
    pub(crate) async fn read_erased(&self, rt: &Rt) -> Result<RangeTombstones> {
        let (footer, _) = self.read_footer(&*self.backing.file(rt).await?).await?;
        let mut window = Window::default();
        let blocks = match footer.erased {
            ErasedAt::Block(block) => vec![block],
            ErasedAt::Index(handle) => {
                let index = self.read_frame(rt, handle, &mut window, 0).await?;
                let mut blocks = Vec::new();
                let visit = |_: &[u8], block| {
                    blocks.push(block);
                    true
                };
                walk_index(&index, b"", visit).map_err(|damage| self.damaged_at(damage, handle))?;
                blocks
            }
        };
        let (mut erased, budget) = (RangeTombstones::default(), rt.budget());
        for handle in blocks {
            let block = self.read_frame(rt, handle, &mut window, 0).await?;
            self.take_erased(&block, &mut erased).map_err(|damage| self.damaged_at(damage, handle))?;
            budget.tick().await;
        }
        Ok(erased)
    }

    fn take_erased(&self, block: &Bytes, erased: &mut RangeTombstones) -> std::result::Result<(), Damage> {
        let view = BlockView::parse(block)?;
        for interval in 0..view.intervals() {
            let chunk: Chunk = view.decode(interval, block)?;
            let mut at = 0;
            while let Some(entry) = chunk.get(at) {
                at += 1;
                let (start, end) = (Bytes::copy_from_slice(entry.key), Bytes::copy_from_slice(entry.value));
                erased.insert_within(&start, &end, entry.seq, (&self.meta.start, &self.meta.end));
            }
        }
        Ok(())
    }

    async fn root(&self, rt: &Rt) -> Result<&Bytes> {
        if let Some(root) = self.backing.root.get() {
            return Ok(root);
        }
        let file = self.backing.file(rt).await?;
        let root = self.read_root(&file).await?;
        Ok(self.backing.root.get_or_init(|| root))
    }

    /// The footer, and the end of the file that it is in.
    async fn read_footer(&self, file: &File) -> Result<(Footer, Buf)> {
        let len = self.meta.file_bytes;
        let tail = read_tail(file, len, TAIL_BYTES)
            .await
            .map_err(|e| Fault::io(&self.backing.path, "reading the end", &e))?;
        if (tail.len() as u64) < len.min(TAIL_BYTES) {
            return Err(self.too_short());
        }
        let footer = Footer::decode(&tail).map_err(|damage| self.damaged(damage, "footer"))?;
        if (footer.identity, footer.body_crc) != (self.meta.identity, self.meta.file_crc) {
            return Err(self.damaged(Damage("the file is another table than the manifest names"), "footer"));
        }
        Ok((footer, tail))
    }

    fn too_short(&self) -> Fault {
        self.damaged(Damage("the file is shorter than the manifest says"), "end")
    }

    async fn read_root(&self, file: &File) -> Result<Bytes> {
        let (footer, tail) = self.read_footer(file).await?;
        let len = self.meta.file_bytes;
        let root_end = footer.root.offset.saturating_add(u64::from(footer.root.len));
        if root_end > len {
            return Err(self.damaged(Damage("the root lies beyond the file"), "footer"));
        }
        let needed = (len - footer.root.offset).next_multiple_of(BLOCK_BYTES as u64);
        let tail = if needed > tail.len() as u64 {
            read_tail(file, len, needed)
                .await
                .map_err(|e| Fault::io(&self.backing.path, "reading the root", &e))?
        } else {
            tail
        };
        let from_end = usize::try_from(len - footer.root.offset).unwrap_or(usize::MAX);
        let start = tail.len().checked_sub(from_end).ok_or_else(|| self.too_short())?;
        let frame = tail.get(start..start + footer.root.len as usize).ok_or_else(|| self.too_short())?;
        open_frame(frame, self.place(footer.root)).map_err(|damage| self.damaged(damage, "root"))
    }

    fn place(&self, handle: Handle) -> Place {
        Place { identity: self.meta.identity, offset: handle.offset }
    }

    /// About how many bytes of the file hold keys from `start` on, which lies within the table's bounds.
    pub(crate) async fn bytes_from(&self, rt: &Rt, start: &[u8]) -> Result<u64> {
        let mut before = 0;
        for (last, handle) in self.part_keys(rt, b"", start).await? {
            if &last[..] >= start {
                break;
            }
            before = handle.offset + u64::from(handle.len);
        }
        Ok(self.meta.file_bytes.saturating_sub(before))
    }

    fn part_of(&self, root: &Bytes, key: &[u8]) -> Result<Option<Handle>> {
        let found = BlockView::parse(root).and_then(|view| locate(root, view, key));
        found.map_err(|damage| self.damaged(damage, "root"))
    }

    fn block_of(&self, handle: Handle, part: &Bytes, key: &[u8], hash: u64) -> Result<Option<Handle>> {
        let found = PartView::parse(part).and_then(|view| {
            if filter::may_contain(view.filter, hash) { locate(part, view.index, key) } else { Ok(None) }
        });
        found.map_err(|damage| self.damaged_at(damage, handle))
    }

    fn version_in(&self, handle: Handle, block: &Bytes, key: &[u8], at: SeqNo) -> Result<Probe> {
        let landing = BlockView::parse(block)
            .and_then(|view| view.seek(key, at))
            .map_err(|damage| self.damaged_at(damage, handle))?;
        Ok(match landing {
            Some(landing) if landing.same_key => {
                let value = match landing.kind {
                    kind @ (Kind::Put | Kind::PutUntil) => {
                        Found::Value(timed_part(kind, block, landing.value))
                    }
                    Kind::Delete => Found::Deleted,
                };
                Probe::Found { seq: landing.seq, value }
            }
            _ => Probe::Absent,
        })
    }
}

impl Backing {
    /// The file, opened if it is not open. Whoever reads waits until there is a descriptor for it.
    async fn file(&self, rt: &Rt) -> Result<Rc<File>> {
        loop {
            if let Some(open) = self.files.used(self.number) {
                return Ok(open);
            }
            match rt.open(&self.path, OpenMode::Read).await {
                Ok(file) => return Ok(self.files.keep(self.number, file)),
                Err(error) if Shortage::of(&error).is_some() => {
                    if Shortage::of(&error) == Some(Shortage::Descriptors) {
                        self.files.let_go();
                    }
                    rt.sleep(OPEN_AGAIN).await;
                }
                Err(error) => return Err(Fault::io(&self.path, "opening", &error)),
            }
        }
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.files.discard(self.number, self.retired.get());
    }
}

/// A stretch of one file that was read ahead. Belongs to one table at a time.
#[derive(Debug, Default)]
pub(crate) struct Window {
    start: u64,
    buf: Option<Buf>,
}

impl Window {
    fn holds(&self, handle: Handle) -> bool {
        self.frame(handle).is_some()
    }

    fn frame(&self, handle: Handle) -> Option<&[u8]> {
        let from = usize::try_from(handle.offset.checked_sub(self.start)?).ok()?;
        self.buf.as_ref()?.get(from..from + handle.len as usize)
    }
}

async fn read_tail(file: &File, len: u64, tail_bytes: u64) -> std::io::Result<Buf> {
    let start = len.saturating_sub(tail_bytes) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    file.read_at(start, (len - start).next_multiple_of(BLOCK_BYTES as u64) as usize).await
}

/// The name of a table file.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:010}.table")
}

/// The number in a table file's name.
pub(crate) fn file_number(name: &str) -> Option<u64> {
    name.strip_suffix(".table")?.parse().ok()
}
