//! Files: direct IO in whole blocks, with lengths that the caller keeps.
//!
//! * Positions and lengths are multiples of [`BLOCK_BYTES`]; anything else is a bug of the caller and asserts.
//! * A write succeeds whole or fails. After a failed or dropped write its range is unknown.
//! * Neither world trusts the end of a file: a read may come back short there, and the caller knows how much it wrote.

use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use super::fs::FileId;
#[cfg(feature = "sim")]
use super::fs::in_doubt;
#[cfg(feature = "sim")]
use super::sim;
use super::{Rt, World, native};
use crate::error::Shortage;

/// The unit of direct IO. A power of two; every position and length is a multiple of it.
pub const BLOCK_BYTES: usize = 4096;

/// When a read is asked for again for which the kernel lacked something.
const READ_AGAIN: Duration = Duration::from_millis(10);

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, reads only.
    Read,
    /// Existing file, reads and writes; writes become durable with [`File::sync`].
    Write,
    /// Existing file; every write is durable when it returns (O_DSYNC).
    WriteDurable,
    /// A new file; it is an error if one exists.
    Create,
}

/// An open file of this core. Close it with [`File::close`]; dropping it closes it at some later time.
#[derive(Debug)]
pub struct File(Inner);

#[derive(Debug)]
enum Inner {
    Native(native::CoreFile),
    #[cfg(feature = "sim")]
    Sim(sim::SimFile),
}

macro_rules! in_file {
    ($file:expr, $inner:ident => $body:expr) => {
        match $file {
            Inner::Native($inner) => $body,
            #[cfg(feature = "sim")]
            Inner::Sim($inner) => $body,
        }
    };
}

impl Rt {
    /// Opens `path`.
    pub async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<File> {
        match &self.world {
            World::Native(core) => Ok(File(Inner::Native(core.open(path, mode).await?))),
            #[cfg(feature = "sim")]
            World::Sim(core) => Ok(File(Inner::Sim(core.open(path, mode).await?))),
        }
    }

    /// An aligned buffer of `len` zero bytes for [`File::write_at`]. `len` is a multiple of [`BLOCK_BYTES`].
    pub fn alloc(&self, len: usize) -> Buf {
        assert_block_multiple(len as u64);
        match &self.world {
            World::Native(core) => Buf(BufInner::Native(core.alloc(len))),
            #[cfg(feature = "sim")]
            World::Sim(_) => Buf(BufInner::Sim(sim::SimBuf::zeroed(len))),
        }
    }
}

impl File {
    /// Which file it is, by whatever path it was opened.
    pub fn id(&self) -> FileId {
        in_file!(&self.0, file => file.id())
    }

    /// Reads `len` bytes at `pos`; shorter only at the end of the file. What the kernel is short of for a moment is waited out:
    /// a read harms nothing, however often it is asked for.
    pub async fn read_at(&self, pos: u64, len: usize) -> io::Result<Buf> {
        assert_block_multiple(pos);
        assert_block_multiple(len as u64);
        loop {
            let read = match &self.0 {
                Inner::Native(file) => file.read_at(pos, len).await.map(BufInner::Native),
                #[cfg(feature = "sim")]
                Inner::Sim(file) => file.read_at(pos, len).await.map(BufInner::Sim),
            };
            match read {
                Err(error) if Shortage::of(&error).is_some() => self.pause().await,
                read => return read.map(Buf),
            }
        }
    }

    /// Writes the whole buffer at `pos`.
    pub async fn write_at(&self, buf: Buf, pos: u64) -> io::Result<()> {
        assert_block_multiple(pos);
        assert_block_multiple(buf.len() as u64);
        match (&self.0, buf.0) {
            (Inner::Native(file), BufInner::Native(buf)) => file.write_at(buf, pos).await,
            #[cfg(feature = "sim")]
            (Inner::Sim(file), BufInner::Sim(buf)) => file.write_at(buf, pos).await,
            #[cfg(feature = "sim")]
            _ => panic!("the buffer comes from another world than the file"),
        }
    }

    /// As [`File::write_at`], ahead of everything else that the core has to do; then as [`File::sync`], if `sync` says so. For
    /// what a whole core waits for.
    ///
    /// # Errors
    /// An error that names a passing shortage is of the write, never of the sync: the same bytes may be written there again.
    pub async fn write_urgently(
        &self,
        buf: Buf,
        pos: u64,
        sync: bool,
        meanwhile: Meanwhile,
    ) -> io::Result<()> {
        assert_block_multiple(pos);
        assert_block_multiple(buf.len() as u64);
        match (&self.0, buf.0) {
            (Inner::Native(file), BufInner::Native(buf)) => {
                file.write_urgently(buf, pos, sync, meanwhile).await
            }
            #[cfg(feature = "sim")]
            (Inner::Sim(file), BufInner::Sim(buf)) => {
                file.write_at(buf, pos).await?;
                if sync { file.sync().await.map_err(|error| in_doubt(&error)) } else { Ok(()) }
            }
            #[cfg(feature = "sim")]
            _ => panic!("the buffer comes from another world than the file"),
        }
    }

    /// Makes every finished write durable (fdatasync).
    pub async fn sync(&self) -> io::Result<()> {
        in_file!(&self.0, file => file.sync().await)
    }

    /// Cuts or extends the file.
    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        in_file!(&self.0, file => file.set_len(len).await)
    }

    /// The file's length in bytes.
    pub async fn len(&self) -> io::Result<u64> {
        in_file!(&self.0, file => file.len().await)
    }

    async fn pause(&self) {
        in_file!(&self.0, file => file.pause(READ_AGAIN).await);
    }

    /// Closes the file once its operations have ended.
    pub async fn close(self) -> io::Result<()> {
        in_file!(self.0, file => file.close().await)
    }
}

/// What a core does while an urgent write is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// It goes on with its other tasks.
    GoOn,
    /// It blocks, which saves it the way to the kernel's workers and back: for a core whose tasks all wait for the write,
    /// on a disk that is fast. Nothing in such a write lets the reactor run, so who makes many of them calls
    /// [`Rt::yield_if_due`] in between.
    Block,
}

/// A block-aligned buffer.
#[derive(Debug)]
pub struct Buf(pub(crate) BufInner);

#[derive(Debug)]
pub(crate) enum BufInner {
    Native(native::CoreBuf),
    #[cfg(feature = "sim")]
    Sim(sim::SimBuf),
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            BufInner::Native(buf) => buf.bytes(),
            #[cfg(feature = "sim")]
            BufInner::Sim(buf) => buf.bytes(),
        }
    }
}

impl DerefMut for Buf {
    /// # Panics
    /// For a buffer that came from a read: those are shared with the kernel's arena and immutable.
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            BufInner::Native(buf) => buf.bytes_mut(),
            #[cfg(feature = "sim")]
            BufInner::Sim(buf) => buf.bytes_mut(),
        }
    }
}

/// Direct IO fails late and obscurely on unaligned requests, so they fail here.
pub(crate) fn assert_block_multiple(value: u64) {
    assert!(value.is_multiple_of(BLOCK_BYTES as u64), "{value} is not a multiple of {BLOCK_BYTES} bytes");
}
