//! One segment file: made, zeroed, reused, appended to and read.
//!
//! A file gets its name `NUMBER.seg` only after its header is durable, so a named segment whose header does not check out is
//! damaged and never merely unfinished. Space is zeroed before records go there: overwriting written blocks needs no
//! metadata, which halves the cost of a synced write, and it cannot run out of space.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};

use super::format::{BadHeader, FIRST_RECORD_POS, Incarnation, SegmentHeader, SegmentNo};
use super::options::SyncMethod;
use super::plant::{Bug, planted};
use crate::error::{Fault, Result, Shortage};
use crate::rt::local::Bell;
use crate::rt::{BLOCK_BYTES, Buf, File, FileId, Meanwhile, OpenMode, Rt};

/// Bytes that are zeroed with one write.
pub(crate) const ZERO_PIECE_BYTES: u64 = 512 << 10;

/// A segment file, open.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: SegmentNo,
    pub(crate) incarnation: Incarnation,
    /// Where the next segment begins. Only a record that is larger than that grows the file.
    pub(crate) bytes: u64,
    pub(crate) path: PathBuf,
    /// Reads, zeros, and records when the sync is separate.
    plain: File,
    /// Records that are durable when written; only while records are appended that way.
    durable: Option<File>,
    /// Everything below has written blocks.
    zeroed_to: Cell<u64>,
    zeroing: Cell<bool>,
    zeroed: Bell,
}

/// The file name of a segment.
pub(crate) fn segment_path(dir: &Path, number: SegmentNo) -> PathBuf {
    dir.join(format!("{:016}.seg", number.0))
}

/// The file name under which a segment is prepared.
pub(crate) fn unfinished_path(dir: &Path, number: SegmentNo) -> PathBuf {
    dir.join(format!("{:016}.new", number.0))
}

/// The number in a segment's file name.
pub(crate) fn segment_number(name: &str) -> Option<SegmentNo> {
    let digits = name.strip_suffix(".seg")?;
    let number = digits.parse().ok().filter(|number| *number > 0)?;
    (segment_path(Path::new(""), SegmentNo(number)).to_str() == Some(name)).then_some(SegmentNo(number))
}

/// A segment that has no name yet.
#[derive(Debug)]
pub(crate) struct Unfinished {
    header: SegmentHeader,
    path: PathBuf,
    file: File,
    zeroed_to: u64,
}

impl Unfinished {
    /// Begins a new file.
    pub(crate) async fn create(rt: &Rt, dir: &Path, header: SegmentHeader) -> Result<Self> {
        let path = unfinished_path(dir, header.number);
        let file = match rt.open(&path, OpenMode::Create).await {
            // Left by an attempt that something was short for.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing an unfinished segment", &e))?;
                open(rt, &path, OpenMode::Create).await?
            }
            opened => opened.map_err(|e| Fault::io(&path, "opening a segment", &e))?,
        };
        let unfinished = Self { header, path, file, zeroed_to: FIRST_RECORD_POS };
        if let Err(fault) = unfinished.write_header(rt).await {
            // Left behind, the name would be in the way of the next attempt.
            unfinished.discard(rt).await?;
            return Err(fault);
        }
        Ok(unfinished)
    }

    /// Begins a new life of a file whose records are no longer needed.
    pub(crate) async fn reuse(rt: &Rt, old: PathBuf, header: SegmentHeader) -> Result<Self> {
        let bytes = header.bytes;
        let file = open(rt, &old, OpenMode::Write).await?;
        let len = file.len().await.map_err(|e| Fault::io(&old, "measuring the file", &e))?;
        if len > bytes {
            file.set_len(bytes).await.map_err(|e| Fault::io(&old, "shortening the file", &e))?;
        }
        let zeroed_to = len.min(bytes) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let unfinished = Self { header, path: old, file, zeroed_to: zeroed_to.max(FIRST_RECORD_POS) };
        unfinished.write_header(rt).await?;
        Ok(unfinished)
    }

    async fn write_header(&self, rt: &Rt) -> Result<()> {
        let mut block = rt.alloc(BLOCK_BYTES);
        self.header.encode(&mut block);
        self.file
            .write_at(block, 0)
            .await
            .map_err(|e| Fault::io(&self.path, "writing a segment's header", &e))
    }

    /// Zeroes one more piece; `false` when there is nothing left to zero.
    pub(crate) async fn zero_piece(&mut self, rt: &Rt) -> Result<bool> {
        let to = self.header.bytes.min(self.zeroed_to + ZERO_PIECE_BYTES);
        if to <= self.zeroed_to {
            return Ok(false);
        }
        write_zeros(rt, &self.file, &self.path, self.zeroed_to, to).await?;
        self.zeroed_to = to;
        Ok(true)
    }

    /// Makes the content durable, then the name, and opens the segment for appending.
    ///
    /// # Errors
    /// After a passing shortage there is no such file, so that it can be made again.
    pub(crate) async fn finish(self, rt: &Rt, dir: &Path, sync: SyncMethod) -> Result<Segment> {
        let Self { header, path, file, .. } = self;
        let named = segment_path(dir, header.number);
        match name(rt, dir, file, &path, &named).await {
            Ok(()) => Segment::open(rt, named, header, Some(sync)).await,
            Err(fault) => {
                if fault.is_passing() {
                    remove_if_there(rt, &path).await?;
                    remove_if_there(rt, &named).await?;
                }
                Err(fault)
            }
        }
    }

    /// Gives the space back.
    pub(crate) async fn discard(self, rt: &Rt) -> Result<()> {
        let Self { path, file, .. } = self;
        file.close().await.map_err(|e| Fault::io(&path, "closing an unfinished segment", &e))?;
        rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing an unfinished segment", &e))
    }
}

impl Segment {
    /// Opens a named segment; with a sync method also for appending.
    pub(crate) async fn open(
        rt: &Rt,
        path: PathBuf,
        header: SegmentHeader,
        append: Option<SyncMethod>,
    ) -> Result<Self> {
        let mode = if append.is_some() { OpenMode::Write } else { OpenMode::Read };
        let plain = open(rt, &path, mode).await?;
        let durable = match append {
            Some(SyncMethod::DurableWrite) => Some(open(rt, &path, OpenMode::WriteDurable).await?),
            Some(SyncMethod::WriteThenSync) | None => None,
        };
        let file_bytes = plain.len().await.map_err(|e| Fault::io(&path, "measuring the file", &e))?;
        // A file only ever grows by being zeroed or written, so its length says how far that went.
        let zeroed_to = file_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        Ok(Self {
            number: header.number,
            incarnation: header.incarnation,
            bytes: header.bytes,
            path,
            plain,
            durable,
            zeroed_to: Cell::new(zeroed_to),
            zeroing: Cell::new(false),
            zeroed: Bell::default(),
        })
    }

    /// Which file it is.
    pub(crate) fn file_id(&self) -> FileId {
        self.plain.id()
    }

    /// Writes whole blocks at `pos`; durable at return.
    ///
    /// # Errors
    /// After a passing shortage the same blocks may be written there again.
    pub(crate) async fn append(&self, record: Buf, pos: u64, meanwhile: Meanwhile) -> Result<()> {
        let (file, sync) = match &self.durable {
            Some(durable) => (durable, false),
            None => (&self.plain, !planted(Bug::NoSync)),
        };
        let written = file.write_urgently(record, pos, sync, meanwhile).await;
        written.map_err(|e| match Shortage::of(&e) {
            // The space lies there already, so this is about something else, and what it is about is unknown.
            Some(Shortage::Space) | None => Fault::doubt(&self.path, "writing a record", &e),
            Some(Shortage::FileLength | Shortage::Descriptors | Shortage::Memory | Shortage::Attempt) => {
                Fault::io(&self.path, "writing a record", &e)
            }
        })
    }

    /// Makes everything written so far durable.
    pub(crate) async fn sync(&self) -> Result<()> {
        self.plain.sync().await.map_err(|e| Fault::io(&self.path, "syncing the log", &e))
    }

    /// Reads up to `len` bytes at `pos`; shorter at the end of the file.
    pub(crate) async fn read(&self, pos: u64, len: usize) -> Result<Buf> {
        self.plain.read_at(pos, len).await.map_err(|e| Fault::io(&self.path, "reading the log", &e))
    }

    /// The file's length.
    pub(crate) async fn file_bytes(&self) -> Result<u64> {
        self.plain.len().await.map_err(|e| Fault::io(&self.path, "measuring the file", &e))
    }

    /// Zeroes ahead until `to`. The writer and the background task may both call; one works, the other waits.
    pub(crate) async fn zero_to(&self, rt: &Rt, to: u64) -> Result<()> {
        while self.zeroed_to.get() < to {
            if self.zeroing.replace(true) {
                self.zeroed.wait().await;
                continue;
            }
            let from = self.zeroed_to.get();
            let end = (from + ZERO_PIECE_BYTES).min(to);
            let wrote = write_zeros(rt, &self.plain, &self.path, from, end).await;
            // With separate syncs only the writer may sync: an error is reported once, and reported here it would let the
            // writer's next sync succeed although its record was lost.
            let done = match wrote {
                Ok(()) if self.durable.is_some() => self.sync().await,
                wrote => wrote,
            };
            self.zeroing.set(false);
            if done.is_ok() {
                self.zeroed_to.set(end);
            }
            self.zeroed.ring();
            done?;
        }
        Ok(())
    }

    /// Overwrites `from..to` with zeros, durably.
    pub(crate) async fn wipe(&self, rt: &Rt, from: u64, to: u64) -> Result<()> {
        write_zeros(rt, &self.plain, &self.path, from, to).await?;
        self.sync().await
    }

    /// Closes the files.
    pub(crate) async fn close(self) -> Result<()> {
        let failed = |e| Fault::io(&self.path, "closing a segment", &e);
        if let Some(durable) = self.durable {
            durable.close().await.map_err(failed)?;
        }
        self.plain.close().await.map_err(failed)
    }
}

/// Gives a finished file its name. Nothing was ever promised of it, so a failed sync may be tried again with another file.
async fn name(rt: &Rt, dir: &Path, file: File, path: &Path, named: &Path) -> Result<()> {
    let synced = file.sync().await.map_err(|e| Fault::io(path, "syncing a new segment", &e));
    file.close().await.map_err(|e| Fault::io(path, "closing a new segment", &e))?;
    synced?;
    rt.rename(path, named).await.map_err(|e| Fault::io(path, "naming a new segment", &e))?;
    if !planted(Bug::NoDirSync) {
        sync_dir(rt, dir).await?;
    }
    Ok(())
}

async fn remove_if_there(rt: &Rt, path: &Path) -> Result<()> {
    if rt.exists(path).await.map_err(|e| Fault::io(path, "looking it up", &e))? {
        rt.remove(path).await.map_err(|e| Fault::io(path, "removing an unfinished segment", &e))?;
    }
    Ok(())
}

/// What the first block of a file says that it is, if the file is as long as that.
pub(crate) async fn read_header(
    rt: &Rt,
    path: &Path,
) -> Result<std::result::Result<SegmentHeader, BadHeader>> {
    let file = open(rt, path, OpenMode::Read).await?;
    let block = file.read_at(0, BLOCK_BYTES).await.map_err(|e| Fault::io(path, "reading a header", &e))?;
    let file_bytes = file.len().await.map_err(|e| Fault::io(path, "measuring the file", &e))?;
    file.close().await.map_err(|e| Fault::io(path, "closing a segment", &e))?;
    Ok(SegmentHeader::decode(&block).and_then(|header| header.of_file(file_bytes)))
}

/// Opens a file with a fault that names it.
async fn open(rt: &Rt, path: &Path, mode: OpenMode) -> Result<File> {
    rt.open(path, mode).await.map_err(|e| Fault::io(path, "opening a segment", &e))
}

/// Makes names in the log's directory durable. Nothing rests on them yet: records go to a segment only afterwards, and a segment
/// is removed only when nothing needs it.
pub(crate) async fn sync_dir(rt: &Rt, dir: &Path) -> Result<()> {
    rt.sync_dir(dir).await.map_err(|e| Fault::unpromised(dir, "syncing the directory", &e))
}

async fn write_zeros(rt: &Rt, file: &File, path: &Path, from: u64, to: u64) -> Result<()> {
    let mut pos = from;
    while pos < to {
        let len = (to - pos).min(ZERO_PIECE_BYTES);
        let zeros = rt.alloc(usize::try_from(len).expect("a piece fits memory"));
        file.write_at(zeros, pos).await.map_err(|e| Fault::io(path, "zeroing a segment", &e))?;
        pos += len;
    }
    Ok(())
}
