//! Directories and small files.
//!
//! These are rare, so they may take a helper thread; what matters is that each says when it is durable. A created, linked, renamed
//! or removed name is durable only after [`Rt::sync_dir`] on its directory.

#[cfg(feature = "sim")]
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
#[cfg(feature = "sim")]
use std::sync::{Arc, Mutex, PoisonError};

use super::{Rt, in_world};

/// Holds a directory against every other process until dropped.
#[derive(Debug)]
pub struct DirLock {
    _held: Held,
    file: LockFile,
}

/// The file by which a directory is locked. Where another one is at its path, another process can lock the directory, too.
#[derive(Clone, Debug)]
pub struct LockFile {
    /// Where it was made or found.
    pub path: PathBuf,
    /// Which one it is.
    pub id: FileId,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held for its destructor")]
enum Held {
    /// Kept open for their locks; the operating system releases them with the process.
    Files([std::fs::File; 2]),
    #[cfg(feature = "sim")]
    Sim(SimLock),
}

impl DirLock {
    pub(crate) fn files(held: [std::fs::File; 2], file: LockFile) -> Self {
        Self { _held: Held::Files(held), file }
    }

    /// The file that is locked.
    pub fn locked(&self) -> &LockFile {
        &self.file
    }

    #[cfg(feature = "sim")]
    pub(crate) fn simulated(held: Arc<Mutex<BTreeSet<PathBuf>>>, file: LockFile) -> Self {
        Self { _held: Held::Sim(SimLock { held, path: file.path.clone() }), file }
    }
}

/// A name in the set of what one life of a simulated node has locked.
#[cfg(feature = "sim")]
#[derive(Debug)]
struct SimLock {
    held: Arc<Mutex<BTreeSet<PathBuf>>>,
    path: PathBuf,
}

#[cfg(feature = "sim")]
impl Drop for SimLock {
    fn drop(&mut self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

impl Rt {
    /// Creates a directory and its parents, durably. It is fine if it exists: its name is made durable then, too, because the process
    /// that made it may have been killed before it could.
    pub async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        in_world!(&self.world, core => core.create_dir_all(path).await)
    }

    /// The names in a directory, sorted.
    pub async fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = in_world!(&self.world, core => core.read_dir(path).await)?;
        names.sort();
        Ok(names)
    }

    /// The files in a directory and their lengths, bytes, sorted by name.
    pub async fn file_lengths(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = in_world!(&self.world, core => core.file_lengths(path).await)?;
        files.sort();
        Ok(files)
    }

    /// Whether something has this name.
    pub async fn exists(&self, path: &Path) -> io::Result<bool> {
        in_world!(&self.world, core => core.exists(path).await)
    }

    /// Renames a file that is not open, replacing the target.
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        in_world!(&self.world, core => core.rename(from, to).await)
    }

    /// Gives a file a second name. The file goes with the last of its names; what is written through one is seen through the other.
    ///
    /// # Errors
    /// `AlreadyExists` if something has the second name, `NotFound` if nothing has the first.
    pub async fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        in_world!(&self.world, core => core.link(from, to).await)
    }

    /// Removes a name, and with its last name a file.
    pub async fn remove(&self, path: &Path) -> io::Result<()> {
        in_world!(&self.world, core => core.remove(path).await)
    }

    /// Makes creations, links, renames and removals in a directory durable.
    ///
    /// # Errors
    /// An error that names a passing shortage means that nothing was done. After any other, what is durable is unknown.
    pub async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        in_world!(&self.world, core => core.sync_dir(path).await)
    }

    /// Reads a whole small file.
    pub async fn read_small(&self, path: &Path) -> io::Result<Vec<u8>> {
        in_world!(&self.world, core => core.read_small(path).await)
    }

    /// Replaces a small file so that a crash leaves either the old or the new one, whole: write beside it, sync, rename,
    /// sync the directory.
    ///
    /// # Errors
    /// An error that names a passing shortage leaves the old file in its place; after others it may be either.
    pub async fn replace_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        in_world!(&self.world, core => core.replace_small(path, bytes).await)
    }

    /// Whether a directory is there, which one it is, and how much room there is on its file system.
    pub async fn look_at_dir(&self, path: &Path) -> io::Result<DirSeen> {
        in_world!(&self.world, core => core.look_at_dir(path).await)
    }

    /// What is at the paths of files, in their order; nothing where there is no file.
    pub async fn look_at_files(&self, paths: Vec<PathBuf>) -> io::Result<Vec<Option<FileSeen>>> {
        in_world!(&self.world, core => core.look_at_files(paths).await)
    }

    /// Locks a directory against other processes.
    ///
    /// # Errors
    /// `WouldBlock` while another process holds it.
    pub async fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        in_world!(&self.world, core => core.lock_dir(path).await)
    }
}

/// What is found at the path of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirSeen {
    /// A directory.
    There {
        /// Bytes free for this process on its file system.
        free_bytes: u64,
        /// Which one it is.
        id: FileId,
    },
    /// Nothing.
    Gone {
        /// The uppermost directory of the path that is not there.
        missing: PathBuf,
    },
}

impl DirSeen {
    /// Bytes free for this process, if the directory is there.
    pub fn free_bytes(&self) -> Option<u64> {
        match self {
            Self::There { free_bytes, id: _ } => Some(*free_bytes),
            Self::Gone { missing: _ } => None,
        }
    }
}

/// What is found at the path of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSeen {
    /// Which one it is.
    pub id: FileId,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it says, if that is short: at most 64 bytes.
    pub text: Vec<u8>,
}

/// Which file or directory it is, whatever its path. As long as a file is open, no other one has the same, nor has any other
/// directory that of the one that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// Its file system.
    pub device: u64,
    /// Its number there.
    pub number: u64,
}

/// What is no longer than this is read when it is looked at, bytes.
pub(crate) const TEXT_BYTES_MAX: u64 = 64;

/// The name under which [`Rt::replace_small`] prepares its file.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// What a sync failed with.
#[derive(Debug)]
struct InDoubt(io::Error);

impl fmt::Display for InDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what was done is perhaps not durable: {}", self.0)
    }
}

impl std::error::Error for InDoubt {}

/// The failure of a sync, without its error number: whatever it was, what is durable is unknown.
pub(crate) fn in_doubt(error: &io::Error) -> io::Error {
    let inner = error
        .raw_os_error()
        .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
    io::Error::other(InDoubt(inner))
}

/// What the sync failed with whose failure this is.
pub(crate) fn doubted(error: &io::Error) -> Option<&io::Error> {
    error.get_ref()?.downcast_ref::<InDoubt>().map(|in_doubt| &in_doubt.0)
}
