//! How storage fails.
//!
//! A [`Fault`] is an IO error or damage on disk. It is never a refusal to a client (those belong to `store`) and never a bug
//! (those are assertions). A fault stops the store that met it; it never stops the data of others.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::rt::fs::{DirSeen, FileId, doubted};

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
    /// The operating system failed an operation.
    Io,
    /// The operating system does not allow it: rights, a path that leads nowhere, a file system that is mounted read-only. What would help is
    /// the operator's to do, and the sentence says it.
    Denied,
    /// Something was lacking that comes back, and nothing was harmed: the same thing is done again later.
    Short(Shortage),
    /// Bytes were read that are not the bytes that were written.
    Corruption,
    /// The data was written by another version, node or store.
    Foreign,
    /// Another process holds the directory.
    Locked,
    /// An earlier write or sync failed, so nothing more is accepted.
    Poisoned,
    /// More was handed in than could be read back; nothing of it was written.
    TooLarge,
}

/// What a passing shortage is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Space on the file system, or the user's quota of it (ENOSPC, EDQUOT).
    Space,
    /// Length of files: a write goes beyond the limit that was set for the process (EFBIG). It can be raised while the process runs.
    FileLength,
    /// File descriptors of the process or of the machine (EMFILE, ENFILE).
    Descriptors,
    /// Memory of the kernel (ENOMEM, ENOBUFS).
    Memory,
    /// Nothing that has a name: the kernel asks to try again (EAGAIN, EINTR).
    Attempt,
}

impl Shortage {
    /// What `error` says is short, if it says that.
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Some(Self::Space),
            Some(libc::EFBIG) => Some(Self::FileLength),
            Some(libc::EMFILE | libc::ENFILE) => Some(Self::Descriptors),
            Some(libc::ENOMEM | libc::ENOBUFS) => Some(Self::Memory),
            Some(libc::EAGAIN | libc::EINTR) => Some(Self::Attempt),
            Some(_) => None,
            None => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(Self::Space),
                io::ErrorKind::FileTooLarge => Some(Self::FileLength),
                io::ErrorKind::OutOfMemory => Some(Self::Memory),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Some(Self::Attempt),
                _ => None,
            },
        }
    }

    /// Whether what is written finds no place, so that deletes are what helps or nothing does. The others pass while one waits.
    pub fn is_of_room(self) -> bool {
        match self {
            Self::Space | Self::FileLength => true,
            Self::Descriptors | Self::Memory | Self::Attempt => false,
        }
    }

    /// What an operator can do about it, where there is something to do.
    fn remedy(self) -> &'static str {
        match self {
            Self::Space => "; free space on this file system",
            Self::FileLength => {
                "; raise the limit on the length of files (LimitFSIZE=, ulimit -f; prlimit --fsize for a process that runs)"
            }
            Self::Descriptors => "; raise the limit of open files (LimitNOFILE=, ulimit -n)",
            Self::Memory => "; give the machine more free memory",
            Self::Attempt => "",
        }
    }
}

/// What an operator can do where `error` says that it is not allowed, or that the path does not lead there.
fn denial(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => Some("; give this user the rights to it (chown, chmod)"),
        Some(libc::EROFS) => Some(
            "; mount the file system for writing, and if the kernel has made it read-only, its log says why",
        ),
        Some(libc::ENOTDIR) => Some("; correct the path: a part of it is no directory"),
        Some(libc::ELOOP) => Some("; correct the path: its symbolic links lead in a circle"),
        Some(libc::ENAMETOOLONG) => Some("; choose a shorter path"),
        Some(_) | None if error.kind() == io::ErrorKind::NotFound => Some(
            "; bring back what was moved or removed (is the data directory at its path, is its disk mounted?), then start again",
        ),
        Some(_) | None => None,
    }
}

/// What to do about damage on a single node, where there is no other copy.
const DAMAGE_REMEDY: &str = "restore the data directory from a backup, or move it away and start with an empty one, which gives \
                             up everything that it held";

impl Fault {
    /// Wraps an IO error with the place and the attempt. Only for what has not happened if it failed for want of something;
    /// see [`Fault::doubt`].
    pub fn io(path: &Path, attempt: &str, error: &io::Error) -> Self {
        let (kind, remedy) = match (Shortage::of(error), denial(error)) {
            (Some(of), _) => (FaultKind::Short(of), of.remedy()),
            (None, Some(remedy)) => (FaultKind::Denied, remedy),
            (None, None) => (FaultKind::Io, ""),
        };
        Self { kind, path: path.to_owned(), what: format!("{attempt}: {error}{remedy}") }
    }

    /// Wraps the failure of something that may have happened all the same, a sync above all: what is on disk is unknown,
    /// so this is never a mere shortage.
    pub fn doubt(path: &Path, attempt: &str, error: &io::Error) -> Self {
        Self { kind: FaultKind::Io, ..Self::io(path, attempt, error) }
    }

    /// Wraps the failure of a sync on which nothing rests yet: whatever is durable by now, it is taken back and done anew. So if
    /// something was short, that is waited out.
    pub fn unpromised(path: &Path, attempt: &str, error: &io::Error) -> Self {
        Self::io(path, attempt, doubted(error).unwrap_or(error))
    }

    /// What was merely short, so that the same thing can be done again later.
    pub fn shortage(&self) -> Option<Shortage> {
        match self.kind {
            FaultKind::Short(shortage) => Some(shortage),
            FaultKind::Io
            | FaultKind::Denied
            | FaultKind::Corruption
            | FaultKind::Foreign
            | FaultKind::Locked
            | FaultKind::Poisoned
            | FaultKind::TooLarge => None,
        }
    }

    /// Whether something was merely short that comes back: space, descriptors, memory of the kernel.
    pub fn is_passing(&self) -> bool {
        self.shortage().is_some()
    }

    /// Whether what was written merely found no place.
    pub fn is_of_room(&self) -> bool {
        self.shortage().is_some_and(Shortage::is_of_room)
    }

    /// Damage found in `path`.
    pub fn corruption(path: &Path, what: impl Into<String>) -> Self {
        Self { kind: FaultKind::Corruption, path: path.to_owned(), what: what.into() }
    }

    /// `seen` is not the directory that was `opened`, where whatever is made next would be lost or land among the files of others. Nothing if it
    /// is.
    pub fn moved(path: &Path, opened: FileId, seen: &DirSeen) -> Option<Self> {
        let (path, what) = match seen {
            DirSeen::There { id, free_bytes: _ } if *id == opened => return None,
            DirSeen::There { id: _, free_bytes: _ } => {
                (path, "another directory is in its place: bring back the one that was there")
            }
            DirSeen::Gone { missing } => (
                missing.as_path(),
                "the directory is no longer there, so it was moved or removed, or its disk was unmounted: bring it back to this path",
            ),
        };
        let what = format!("{what}, then start again");
        Some(Self { kind: FaultKind::Denied, path: path.to_owned(), what })
    }

    /// Data that is intact but not ours.
    pub fn foreign(path: &Path, what: impl Into<String>) -> Self {
        Self { kind: FaultKind::Foreign, path: path.to_owned(), what: what.into() }
    }

    /// `bytes` were handed in where at most `bytes_max` can be read back.
    pub fn too_large(path: &Path, bytes: usize, bytes_max: usize) -> Self {
        let what =
            format!("{bytes} bytes in one batch, at most {bytes_max} can be read back: hand in less at once");
        Self { kind: FaultKind::TooLarge, path: path.to_owned(), what }
    }

    /// What an operator can do about it, where the sentence itself does not say so.
    pub fn remedy(&self) -> Option<&'static str> {
        match self.kind {
            FaultKind::Corruption => Some(DAMAGE_REMEDY),
            FaultKind::Io => Some("check the disk (the kernel's log says more), then start again"),
            FaultKind::Short(_)
            | FaultKind::Denied
            | FaultKind::Foreign
            | FaultKind::Locked
            | FaultKind::Poisoned
            | FaultKind::TooLarge => None,
        }
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
        write!(f, "{}: {}", self.path.display(), self.what)?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passing_shortage_is_known_by_its_number() {
        let shortage =
            |errno| Fault::io(Path::new("f"), "trying", &io::Error::from_raw_os_error(errno)).shortage();
        assert_eq!(shortage(libc::ENOSPC), Some(Shortage::Space));
        assert_eq!(shortage(libc::EDQUOT), Some(Shortage::Space));
        assert_eq!(shortage(libc::EFBIG), Some(Shortage::FileLength));
        assert_eq!(shortage(libc::EMFILE), Some(Shortage::Descriptors));
        assert_eq!(shortage(libc::ENFILE), Some(Shortage::Descriptors));
        assert_eq!(shortage(libc::ENOMEM), Some(Shortage::Memory));
        assert_eq!(shortage(libc::EAGAIN), Some(Shortage::Attempt));
        assert_eq!(shortage(libc::EINTR), Some(Shortage::Attempt));
        for errno in [libc::EIO, libc::EROFS, libc::ENOENT, libc::EACCES] {
            assert_eq!(shortage(errno), None, "{errno}");
        }
        let no_number = io::Error::from(io::ErrorKind::StorageFull);
        assert!(Fault::io(Path::new("f"), "trying", &no_number).is_of_room());
    }

    #[test]
    fn what_is_not_allowed_names_its_own_remedy_and_no_broken_disk() {
        for (errno, remedy) in [
            (libc::EACCES, "chown"),
            (libc::EPERM, "chown"),
            (libc::EROFS, "for writing"),
            (libc::ENOTDIR, "is no directory"),
            (libc::ELOOP, "in a circle"),
            (libc::ENAMETOOLONG, "shorter path"),
            (libc::EFBIG, "ulimit -f"),
            (libc::ENOENT, "bring back what was moved or removed"),
        ] {
            let said = Fault::io(Path::new("f"), "trying", &io::Error::from_raw_os_error(errno)).to_string();
            assert!(said.contains(remedy) && !said.contains("check the disk"), "{said}");
        }
        let broken = Fault::io(Path::new("f"), "trying", &io::Error::from_raw_os_error(libc::EIO));
        assert!(broken.to_string().contains("check the disk"), "{broken}");
    }

    #[test]
    fn a_directory_that_is_no_longer_the_one_that_was_opened_is_named() {
        let (dir, opened) = (Path::new("/data/store-1"), FileId { device: 1, number: 7 });
        let there = |id| DirSeen::There { free_bytes: 1, id };
        assert!(Fault::moved(dir, opened, &there(opened)).is_none());
        for id in [FileId { device: 2, number: 7 }, FileId { device: 1, number: 8 }] {
            let said = Fault::moved(dir, opened, &there(id)).unwrap().to_string();
            assert!(said.starts_with("/data/store-1: another directory is in its place"), "{said}");
        }
        let gone = DirSeen::Gone { missing: "/data".into() };
        let said = Fault::moved(dir, opened, &gone).unwrap().to_string();
        assert!(
            said.starts_with("/data: the directory is no longer there") && said.ends_with("then start again"),
            "{said}"
        );
    }

    #[test]
    fn only_where_nothing_rests_on_it_a_failed_sync_is_a_shortage() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let synced = crate::rt::fs::in_doubt(&full);
        assert!(!Fault::io(Path::new("f"), "syncing", &synced).is_passing());
        assert!(Fault::unpromised(Path::new("f"), "syncing", &synced).is_of_room());
        let broken = crate::rt::fs::in_doubt(&io::Error::from_raw_os_error(libc::EIO));
        assert!(!Fault::unpromised(Path::new("f"), "syncing", &broken).is_passing());
    }

    #[test]
    fn what_may_have_happened_all_the_same_is_never_a_mere_shortage() {
        for errno in [libc::ENOSPC, libc::EMFILE, libc::ENOMEM, libc::EINTR] {
            let fault = Fault::doubt(Path::new("f"), "syncing", &io::Error::from_raw_os_error(errno));
            assert!(!fault.is_passing(), "{errno}");
        }
    }
}
