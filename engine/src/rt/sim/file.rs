//! Files and directories of the seam on a simulated disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use super::core::SimCore;
use super::disk::Descriptor;
use super::fault::DiskOp;
use super::inode::Inode;
use super::names::SharedInode;
use crate::error::Shortage;
use crate::rt::BLOCK_BYTES;
use crate::rt::file::OpenMode;
use crate::rt::fs::{DirLock, DirSeen, FileId, FileSeen, LockFile, TEXT_BYTES_MAX, in_doubt, temporary_name};
use crate::rt::local::Pending;
use crate::rt::whole::write_whole;

/// An open file of a simulated core.
#[derive(Debug)]
pub(crate) struct SimFile {
    core: SimCore,
    path: PathBuf,
    inode: SharedInode,
    mode: OpenMode,
    _descriptor: Descriptor,
}

/// A buffer; one that came from a read is immutable, as in the native world.
#[derive(Debug)]
pub(crate) struct SimBuf {
    bytes: Vec<u8>,
    from_read: bool,
}

impl SimBuf {
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { bytes: vec![0; len], from_read: false }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(!self.from_read, "a buffer that came from a read is immutable");
        &mut self.bytes
    }
}

impl SimCore {
    fn submit<B: 'static, T: 'static>(
        &self,
        op: DiskOp,
        path: &Path,
        begin: impl FnOnce() -> B,
        finish: impl FnOnce(B, io::Result<()>) -> io::Result<T> + 'static,
    ) -> Pending<io::Result<T>> {
        self.node().disk.submit(self.sim(), op, path, begin, finish)
    }

    /// An operation on names, done when the disk gets to it.
    async fn on_names<T: 'static>(
        &self,
        op: DiskOp,
        path: &Path,
        act: impl FnOnce(&mut super::names::Names) -> io::Result<T> + 'static,
    ) -> io::Result<T> {
        let (disk, node, incarnation) = (self.node().disk.clone(), self.node().clone(), self.incarnation());
        let finish = move |(), verdict: io::Result<()>| {
            verdict?;
            // An operation of an earlier life must not change what the crash has left.
            if node.incarnation.get() != incarnation {
                return Err(gone());
            }
            act(&mut disk.names.borrow_mut())
        };
        done(self.submit(op, path, || (), finish)).await
    }

    pub(crate) async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<SimFile> {
        let wanted = path.to_owned();
        let _descriptor = self.node().disk.descriptor()?;
        let inode = match mode {
            OpenMode::Create => self.on_names(DiskOp::Name, path, move |names| names.create(&wanted)).await?,
            _ => self.on_names(DiskOp::Look, path, move |names| names.file(&wanted)).await?,
        };
        Ok(SimFile { core: self.clone(), path: path.to_owned(), inode, mode, _descriptor })
    }

    /// The steps of the real thing, as with [`Self::replace_small`].
    pub(crate) async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let wanted = path.to_owned();
        let missing = self.on_names(DiskOp::Look, path, move |names| Ok(names.missing(&wanted))).await?;
        let found = path.ancestors().nth(missing.len()).and_then(Path::parent);
        if let Some(above) = found {
            self.sync_dir(above).await?;
        }
        for dir in missing {
            let made = dir.clone();
            self.on_names(DiskOp::Name, &dir, move |names| names.create_dir(&made)).await?;
            self.sync_dir(dir.parent().unwrap_or(Path::new(""))).await?;
        }
        Ok(())
    }

    pub(crate) async fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let wanted = path.to_owned();
        self.on_names(DiskOp::Look, path, move |names| names.list(&wanted)).await
    }

    pub(crate) async fn file_lengths(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let wanted = path.to_owned();
        let list = move |names: &mut super::names::Names| {
            let known = names.list(&wanted)?.into_iter();
            let len = |name: String| Some((names.file(&wanted.join(&name)).ok()?.borrow().len(), name));
            Ok(known.filter_map(len).map(|(len, name)| (name, len)).collect())
        };
        self.on_names(DiskOp::Look, path, list).await
    }

    pub(crate) async fn exists(&self, path: &Path) -> io::Result<bool> {
        let wanted = path.to_owned();
        self.on_names(DiskOp::Look, path, move |names| Ok(names.exists(&wanted))).await
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (source, target) = (from.to_owned(), to.to_owned());
        self.on_names(DiskOp::Name, to, move |names| names.rename(&source, &target)).await
    }

    pub(crate) async fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (source, target) = (from.to_owned(), to.to_owned());
        self.on_names(DiskOp::Name, to, move |names| names.link(&source, &target)).await
    }

    pub(crate) async fn remove(&self, path: &Path) -> io::Result<()> {
        let wanted = path.to_owned();
        self.on_names(DiskOp::Name, path, move |names| names.remove(&wanted)).await
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let wanted = path.to_owned();
        let _descriptor = self.node().disk.descriptor()?;
        let synced = self.on_names(DiskOp::SyncDir, path, move |names| names.sync(&wanted)).await;
        // Directories are opened for it, which may fail for want of a descriptor before anything is asked of the disk.
        synced.map_err(|error| match Shortage::of(&error) {
            Some(Shortage::Descriptors) => error,
            Some(Shortage::Space | Shortage::FileLength | Shortage::Memory | Shortage::Attempt) | None => {
                in_doubt(&error)
            }
        })
    }

    pub(crate) async fn read_small(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read).await?;
        let len = file.inode.borrow().len();
        Ok(file.read_at(0, len as usize).await?.bytes)
    }

    /// The steps of the real thing, each of them a place where the power may go.
    pub(crate) async fn replace_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let beside = temporary_name(path);
        if self.exists(&beside).await? {
            self.remove(&beside).await?;
        }
        let file = self.open(&beside, OpenMode::Create).await?;
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        file.write_at(SimBuf { bytes: padded, from_read: false }, 0).await?;
        file.set_len(bytes.len() as u64).await?;
        file.sync().await?;
        self.rename(&beside, path).await?;
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        self.sync_dir(parent).await.map_err(|error| in_doubt(&error))
    }

    /// A directory is the same as long as there is one of its name: there is no way to move it.
    pub(crate) async fn look_at_dir(&self, path: &Path) -> io::Result<DirSeen> {
        let (disk, dir) = (self.node().disk.clone(), path.to_owned());
        let look = move |(), verdict: io::Result<()>| {
            verdict.map(|()| match disk.names.borrow().exists(&dir) {
                true => DirSeen::There { free_bytes: disk.free_bytes(), id: FileId { device: 0, number: 0 } },
                false => DirSeen::Gone { missing: dir },
            })
        };
        done(self.submit(DiskOp::Look, path, || (), look)).await
    }

    pub(crate) async fn look_at_files(&self, paths: Vec<PathBuf>) -> io::Result<Vec<Option<FileSeen>>> {
        let first = paths.first().cloned().unwrap_or_default();
        let look = move |names: &mut super::names::Names| {
            let seen = |path: &PathBuf| names.file(path).ok().map(|inode| file_seen(&inode.borrow()));
            Ok(paths.iter().map(seen).collect())
        };
        self.on_names(DiskOp::Look, &first, look).await
    }

    pub(crate) async fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let lock = path.join("LOCK");
        if !self.exists(&lock).await? {
            self.open(&lock, OpenMode::Create).await?;
        }
        let held = self.node().locks.clone();
        if !held.lock().unwrap_or_else(PoisonError::into_inner).insert(lock.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let id = id_of(&self.node().disk.names.borrow().file(&lock)?.borrow());
        Ok(DirLock::simulated(held, LockFile { path: lock, id }))
    }
}

/// Simulated disks are one file system.
fn id_of(inode: &Inode) -> FileId {
    FileId { device: 0, number: inode.number() }
}

fn file_seen(inode: &Inode) -> FileSeen {
    let bytes = inode.len();
    let text = if bytes <= TEXT_BYTES_MAX { inode.read(0, BLOCK_BYTES) } else { Vec::new() };
    FileSeen { id: id_of(inode), bytes, text }
}

impl SimFile {
    pub(crate) fn id(&self) -> FileId {
        id_of(&self.inode.borrow())
    }

    pub(crate) async fn read_at(&self, pos: u64, len: usize) -> io::Result<SimBuf> {
        let (inode, disk) = (self.inode.clone(), self.core.node().disk.clone());
        let finish = move |(), verdict: io::Result<()>| {
            verdict?;
            let mut bytes = inode.borrow().read(pos, len);
            disk.misread(&mut bytes);
            disk.count(|stats| stats.reads += 1);
            Ok(SimBuf { bytes, from_read: true })
        };
        done(self.core.submit(DiskOp::Read, &self.path, || (), finish)).await
    }

    pub(crate) async fn write_at(&self, buf: SimBuf, pos: u64) -> io::Result<()> {
        assert!(!buf.from_read, "a buffer that came from a read cannot be written");
        if self.mode == OpenMode::Read {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        write_whole(buf.bytes.len(), async |from| {
            self.write_some(&buf.bytes[from..], pos + from as u64).await
        })
        .await
    }

    /// Writes what has room, as kernels do; how much that was. Only where nothing has is the disk full.
    async fn write_some(&self, bytes: &[u8], pos: u64) -> io::Result<usize> {
        let (inode, disk) = (self.inode.clone(), self.core.node().disk.clone());
        let durable = self.mode == OpenMode::WriteDurable;
        let (first, blocks) = (pos / BLOCK_BYTES as u64, (bytes.len() / BLOCK_BYTES) as u64);
        let finish = move |write, verdict: io::Result<()>| {
            let room = verdict.and_then(|()| disk.room_for(&inode.borrow(), first, blocks));
            let mut inode = inode.borrow_mut();
            let blocks = match room {
                Ok(blocks) => blocks as usize,
                Err(error) => {
                    inode.fail_write(write, disk.rng());
                    return Err(error);
                }
            };
            inode.finish_write(write, blocks, durable);
            let bytes = blocks * BLOCK_BYTES;
            disk.count(|stats| {
                stats.writes += 1;
                stats.written_bytes += bytes as u64;
            });
            Ok(bytes)
        };
        let begin = || self.inode.borrow_mut().begin_write(pos, bytes);
        done(self.core.submit(DiskOp::Write, &self.path, begin, finish)).await
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        let (inode, disk) = (self.inode.clone(), self.core.node().disk.clone());
        let finish = move |upto, verdict: io::Result<()>| {
            let mut inode = inode.borrow_mut();
            match verdict {
                Ok(()) => inode.settle(upto),
                Err(_) => inode.give_up(upto),
            }
            disk.count(|stats| stats.syncs += 1);
            verdict
        };
        let begin = || self.inode.borrow().sync_point();
        done(self.core.submit(DiskOp::Sync, &self.path, begin, finish)).await
    }

    pub(crate) async fn set_len(&self, len: u64) -> io::Result<()> {
        if self.mode == OpenMode::Read {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (inode, node, incarnation) =
            (self.inode.clone(), self.core.node().clone(), self.core.incarnation());
        let finish = move |(), verdict: io::Result<()>| {
            verdict?;
            if node.incarnation.get() != incarnation {
                return Err(gone());
            }
            inode.borrow_mut().set_len(len);
            Ok(())
        };
        done(self.core.submit(DiskOp::SetLen, &self.path, || (), finish)).await
    }

    pub(crate) async fn len(&self) -> io::Result<u64> {
        let inode = self.inode.clone();
        let finish = move |(), verdict: io::Result<()>| verdict.map(|()| inode.borrow().len());
        done(self.core.submit(DiskOp::Look, &self.path, || (), finish)).await
    }

    pub(crate) async fn pause(&self, pause: Duration) {
        self.core.sleep(pause).await;
    }

    pub(crate) async fn close(self) -> io::Result<()> {
        self.core.yield_to_reactor().await;
        Ok(())
    }
}

/// Waits for the disk. Without an answer the machine is gone, and so, a moment later, is whoever waits.
async fn done<T>(pending: Pending<io::Result<T>>) -> io::Result<T> {
    pending.await.unwrap_or_else(|| Err(gone()))
}

fn gone() -> io::Error {
    io::Error::other("the machine lost power")
}
