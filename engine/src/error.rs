//! How storage fails.
//!
//! A [`Fault`] is an IO error or damage on disk. It is never a refusal to a client (those belong to `store`) and never a bug
//! (those are assertions). A fault stops the store that met it; it never stops the data of others.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result of a storage operation.
pub type Result<T> = std::result::Result<T, Fault>;

/// Storage did not do what it was asked to; the place is named.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What kind of failure it was.
    pub kind: FaultKind,
    /// The file or directory concerned.
    pub path: PathBuf,
    /// What was being done and what went wrong, one sentence.
    pub what: String,
}

/// The kinds that callers treat differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The operating system refused or failed an operation.
    Io,
    /// There is no space left; writes may be refused while reads go on.
    DiskFull,
    /// Bytes were read that are not the bytes that were written.
    Corruption,
    /// The data was written by another version, node or store.
    Foreign,
    /// Another process holds the directory.
    Locked,
    /// An earlier write or sync failed, so nothing more is accepted.
    Poisoned,
}

impl Fault {
    /// Wraps an IO error with the place and the attempt.
    pub fn io(path: &Path, attempt: &str, error: &io::Error) -> Self {
        let full = error.kind() == io::ErrorKind::StorageFull || error.raw_os_error() == Some(libc::ENOSPC);
        let kind = if full { FaultKind::DiskFull } else { FaultKind::Io };
        Self { kind, path: path.to_owned(), what: format!("{attempt}: {error}") }
    }

    /// Wraps the failure of something that may have happened all the same, a sync above all: nobody knows what is on disk,
    /// so this is never mere lack of space.
    pub fn doubt(path: &Path, attempt: &str, error: &io::Error) -> Self {
        Self { kind: FaultKind::Io, ..Self::io(path, attempt, error) }
    }

    /// Whether there was merely no space, so that the same thing can be done again later.
    pub fn is_disk_full(&self) -> bool {
        self.kind == FaultKind::DiskFull
    }

    /// Damage found in `path`.
    pub fn corruption(path: &Path, what: impl Into<String>) -> Self {
        Self { kind: FaultKind::Corruption, path: path.to_owned(), what: what.into() }
    }

    /// Data that is intact but not ours.
    pub fn foreign(path: &Path, what: impl Into<String>) -> Self {
        Self { kind: FaultKind::Foreign, path: path.to_owned(), what: what.into() }
    }

    /// The answer of everything that met an earlier failed write.
    pub fn poisoned(path: &Path) -> Self {
        Self {
            kind: FaultKind::Poisoned,
            path: path.to_owned(),
            what: "an earlier write failed, so nothing more is accepted until a restart".into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

impl std::error::Error for Fault {}
