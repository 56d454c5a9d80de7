//! Direct-IO files on glommio.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use glommio::io::{DmaBuffer, DmaFile, OpenOptions, ReadResult};

use super::fs::{FILE_MODE, id, look_at};
use super::{Core, urgent};
use crate::rt::file::{Meanwhile, OpenMode};
use crate::rt::fs::FileId;
use crate::rt::whole::{read_whole, write_whole};

/// An open file of this core. Operations share it, because each may outlive its caller.
#[derive(Debug)]
pub(crate) struct CoreFile {
    core: Core,
    file: Option<Rc<DmaFile>>,
    id: FileId,
}

/// A buffer that the kernel can reach without copying.
#[derive(Debug)]
pub(crate) enum CoreBuf {
    Owned(DmaBuffer),
    Read(ReadResult),
}

impl Core {
    pub(crate) async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<CoreFile> {
        let named = path.to_owned();
        let (held, alias, id) = self.blocking(move || hold(&named, mode)).await??;
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            // What was to be created is there by now.
            OpenMode::Write | OpenMode::Create => {
                options.write(true);
            }
            OpenMode::WriteDurable => {
                options.write(true).custom_flags(libc::O_DSYNC);
            }
        }
        let core = self.clone();
        let opened = self.operate(async move {
            let file = options.dma_open(alias).await.map_err(io_error)?;
            // Until here its alias is one.
            drop(held);
            Ok(CoreFile { core, file: Some(Rc::new(file)), id })
        });
        match (opened.await, mode) {
            (Err(error), OpenMode::Create) => {
                let path = path.to_owned();
                // One that cannot be used is not left behind, or it would be in the way when that is tried again.
                self.blocking(move || fs::remove_file(path)).await?.or_else(gone_already)?;
                Err(error)
            }
            (opened, OpenMode::Read | OpenMode::Write | OpenMode::WriteDurable | OpenMode::Create) => opened,
        }
    }

    pub(crate) fn alloc(&self, len: usize) -> CoreBuf {
        let mut buffer = glommio::allocate_dma_buffer(len);
        // The arena hands out memory with whatever was in it before.
        buffer.as_bytes_mut().fill(0);
        CoreBuf::Owned(buffer)
    }
}

/// Opens a file, or creates it, says which one it is and finds a name that leads to it for as long as it is open, whatever becomes of its own: the runtime asks
/// about a name once more after it has opened it, and panics where there is none any more, as where the directory is removed meanwhile. On a
/// host without `/proc` there is only its own.
fn hold(path: &Path, mode: OpenMode) -> io::Result<(fs::File, PathBuf, FileId)> {
    let mut options = fs::OpenOptions::new();
    match mode {
        OpenMode::Read | OpenMode::Write | OpenMode::WriteDurable => {
            look_at(path)?;
            options.read(true)
        }
        // It must not exist yet.
        OpenMode::Create => options.write(true).create_new(true).mode(FILE_MODE),
    };
    let file = options.open(path)?;
    let id = id(&file.metadata()?);
    let alias = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let alias = if alias.exists() { alias } else { path.to_owned() };
    Ok((file, alias, id))
}

fn gone_already(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

impl CoreFile {
    fn file(&self) -> Rc<DmaFile> {
        self.file.clone().expect("a file is there until it is closed")
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    pub(crate) async fn read_at(&self, pos: u64, len: usize) -> io::Result<CoreBuf> {
        let file = self.file();
        self.core
            .operate(async move {
                let first = file.read_at_aligned(pos, len).await.map_err(io_error)?;
                if first.len() == len {
                    return Ok(CoreBuf::Read(first));
                }
                let (mut whole, mut first) = (glommio::allocate_dma_buffer(len), Some(first));
                let bytes = read_whole(len, async |from| {
                    let piece = match first.take() {
                        Some(first) => first,
                        None => {
                            file.read_at_aligned(pos + from as u64, len - from).await.map_err(io_error)?
                        }
                    };
                    whole.as_bytes_mut()[from..from + piece.len()].copy_from_slice(&piece);
                    Ok(piece.len())
                })
                .await?;
                whole.trim_to_size(bytes);
                Ok(CoreBuf::Owned(whole))
            })
            .await
    }

    pub(crate) async fn write_at(&self, buf: CoreBuf, pos: u64) -> io::Result<()> {
        let CoreBuf::Owned(buffer) = buf else {
            panic!("a buffer that came from a read cannot be written");
        };
        let (file, buffer) = (self.file(), Rc::new(buffer));
        let write = async move {
            write_whole(buffer.len(), async |from| {
                let piece = if from == 0 { buffer.clone() } else { Rc::new(copied(&buffer, from)) };
                file.write_rc_at(piece, pos + from as u64).await.map_err(io_error)
            })
            .await
        };
        self.core.operate(write).await
    }

    pub(crate) async fn write_urgently(
        &self,
        buf: CoreBuf,
        pos: u64,
        sync: bool,
        meanwhile: Meanwhile,
    ) -> io::Result<()> {
        let CoreBuf::Owned(buffer) = buf else {
            panic!("a buffer that came from a read cannot be written");
        };
        let (file, core) = (self.file(), self.core.clone());
        let write = async move {
            match meanwhile {
                Meanwhile::GoOn => core.write_urgently(file.as_raw_fd(), buffer, pos, sync).await,
                Meanwhile::Block => {
                    // SAFETY: the file is open for as long as this task holds it.
                    let file = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
                    urgent::write_blocking(file, &buffer, pos, sync)
                }
            }
        };
        self.core.operate(write).await
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        let file = self.file();
        self.core.operate(async move { file.fdatasync().await.map_err(io_error) }).await
    }

    pub(crate) async fn set_len(&self, len: u64) -> io::Result<()> {
        let file = self.file();
        self.core.operate(async move { file.truncate(len).await.map_err(io_error) }).await
    }

    pub(crate) async fn len(&self) -> io::Result<u64> {
        let file = self.file();
        self.core.operate(async move { file.file_size().await.map_err(io_error) }).await
    }

    pub(crate) async fn pause(&self, pause: Duration) {
        self.core.sleep(pause).await;
    }

    pub(crate) async fn close(mut self) -> io::Result<()> {
        match self.file.take() {
            Some(file) => self.core.finish(close_last(self.core.clone(), file)).await,
            None => Ok(()),
        }
    }
}

impl Drop for CoreFile {
    fn drop(&mut self) {
        // Left to itself, the close would only be queued, and lost if the core ends first. Once the core has ended, all that
        // is left is the descriptor, and the process ends with it.
        if let Some(file) = self.file.take().filter(|_| !std::thread::panicking() && !self.core.has_ended()) {
            let core = self.core.clone();
            self.core.spawn(Box::pin(async move {
                // No caller is left to hear of it; one that needs to know awaits `close`.
                let _ = core.finish(close_last(core.clone(), file)).await;
            }));
        }
    }
}

/// What lies in a buffer from `from` on.
fn copied(buffer: &DmaBuffer, from: usize) -> DmaBuffer {
    let rest = &buffer.as_bytes()[from..];
    let mut copy = glommio::allocate_dma_buffer(rest.len());
    copy.as_bytes_mut().copy_from_slice(rest);
    copy
}

/// Closes a file once the operations that share it have ended.
async fn close_last(core: Core, mut file: Rc<DmaFile>) -> io::Result<()> {
    loop {
        match Rc::try_unwrap(file) {
            Ok(last) => return last.close().await.map_err(io_error),
            Err(shared) => file = shared,
        }
        core.yield_to_reactor().await;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::rt::{CoreOptions, start_core};

    /// Attempts, of which one is enough to meet the moment between the opening of a file and the runtime's question about it.
    const ATTEMPTS: usize = 3000;

    /// Removes what is in a directory, again and again.
    fn remover(dir: &Path, ends: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
        let (dir, ends) = (dir.to_owned(), ends.clone());
        std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
                entries.for_each(|entry| drop(fs::remove_file(entry.path())));
            }
        })
    }

    #[test]
    fn a_file_that_is_removed_while_it_is_opened_is_opened_or_not_found() {
        // Beside the test binary: a real disk, where a temporary directory may be memory that knows no direct IO.
        let binary = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let (path, ends) = (dir.path().to_owned(), Arc::<AtomicBool>::default());
        let removing = remover(dir.path(), &ends);
        let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
        let opened = start_core(&options, move |rt| async move {
            let mut opened = 0;
            for attempt in 0..ATTEMPTS {
                let path = path.join(format!("file-{attempt}"));
                let modes = [OpenMode::Create, OpenMode::Read];
                for mode in modes {
                    match rt.open(&path, mode).await {
                        Ok(file) => {
                            opened += 1;
                            file.close().await.unwrap();
                        }
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
                    }
                }
            }
            opened
        })
        .unwrap();
        ends.store(true, Ordering::Relaxed);
        removing.join().unwrap();
        assert!(opened > ATTEMPTS / 10, "{opened} were opened: the test does not test");
    }
}
