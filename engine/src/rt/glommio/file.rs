//! Direct-IO files on glommio.

use std::io;
use std::path::Path;

use glommio::io::{DmaBuffer, DmaFile, OpenOptions, ReadResult};

use super::Core;
use crate::rt::file::OpenMode;

/// An open file of this core.
#[derive(Debug)]
pub(crate) struct CoreFile {
    file: DmaFile,
}

/// A buffer that the kernel can reach without copying.
#[derive(Debug)]
pub(crate) enum CoreBuf {
    Owned(DmaBuffer),
    Read(ReadResult),
}

impl Core {
    pub(crate) async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<CoreFile> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::WriteDurable => {
                options.write(true).custom_flags(libc::O_DSYNC);
            }
            OpenMode::Create => {
                options.write(true).create_new(true);
            }
        }
        let file = options.dma_open(path).await.map_err(io_error)?;
        Ok(CoreFile { file })
    }

    pub(crate) fn alloc(&self, len: usize) -> CoreBuf {
        let mut buffer = glommio::allocate_dma_buffer(len);
        // The arena hands out memory with whatever was in it before.
        buffer.as_bytes_mut().fill(0);
        CoreBuf::Owned(buffer)
    }
}

impl CoreFile {
    pub(crate) async fn read_at(&self, pos: u64, len: usize) -> io::Result<CoreBuf> {
        let result = self.file.read_at_aligned(pos, len).await.map_err(io_error)?;
        Ok(CoreBuf::Read(result))
    }

    pub(crate) async fn write_at(&self, buf: CoreBuf, pos: u64) -> io::Result<()> {
        let CoreBuf::Owned(buffer) = buf else {
            panic!("a buffer that came from a read cannot be written");
        };
        let wanted = buffer.len();
        let written = self.file.write_at(buffer, pos).await.map_err(io_error)?;
        if written != wanted {
            return Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("the kernel wrote {written} of {wanted} bytes"),
            ));
        }
        Ok(())
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.file.fdatasync().await.map_err(io_error)
    }

    pub(crate) async fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len).await.map_err(io_error)
    }

    pub(crate) async fn len(&self) -> io::Result<u64> {
        self.file.file_size().await.map_err(io_error)
    }

    pub(crate) async fn close(self) -> io::Result<()> {
        self.file.close().await.map_err(io_error)
    }
}

impl CoreBuf {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            CoreBuf::Owned(buffer) => buffer.as_bytes(),
            CoreBuf::Read(result) => result,
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            CoreBuf::Owned(buffer) => buffer.as_bytes_mut(),
            CoreBuf::Read(_) => panic!("a buffer that came from a read is immutable"),
        }
    }
}

/// Keeps the error number, which decides between "disk full" and "broken".
pub(crate) fn io_error<T>(error: glommio::GlommioError<T>) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::from(error),
    }
}
