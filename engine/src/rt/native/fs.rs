//! Directory operations on the helper threads of a core: rare, blocking in the kernel, and simple this way.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Core;
use crate::rt::fs::{DirLock, DirSeen, FileId, FileSeen, LockFile, TEXT_BYTES_MAX, in_doubt, temporary_name};

/// Data is for the user whom the process runs as, whatever the umask.
pub(super) const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// Larger than the manifest of any tree, bytes. What is larger is damaged, and reading it would take all memory.
const SMALL_FILE_BYTES_MAX: u64 = 256 << 20;

/// How often a held lock is tried again, and after how long.
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_AGAIN: Duration = Duration::from_millis(50);

impl Core {
    pub(crate) async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        let create = move || {
            let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.is_dir()).collect();
            if let Some(found) = path.ancestors().nth(missing.len()) {
                sync_found(found)?;
            }
            for dir in missing.into_iter().rev().filter(|dir| !dir.as_os_str().is_empty()) {
                match fs::DirBuilder::new().mode(DIR_MODE).create(dir) {
                    // Another core or process was faster; whether it is a directory shows at the next step.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                    other => other?,
                }
                sync_parent(dir)?;
            }
            Ok(())
        };
        self.blocking(create).await?
    }

    pub(crate) async fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = path.to_owned();
        let list = move || {
            fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        self.blocking(list).await?
    }

    pub(crate) async fn file_lengths(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let path = path.to_owned();
        let list = move || {
            let mut files = Vec::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                let about = entry.metadata()?;
                if about.is_file() {
                    files.push((entry.file_name().to_string_lossy().into_owned(), about.len()));
                }
            }
            Ok(files)
        };
        self.blocking(list).await?
    }

    pub(crate) async fn exists(&self, path: &Path) -> io::Result<bool> {
        let path = path.to_owned();
        self.blocking(move || fs::exists(path)).await?
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.blocking(move || fs::rename(from, to)).await?
    }

    pub(crate) async fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.blocking(move || fs::hard_link(from, to)).await?
    }

    pub(crate) async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.blocking(move || fs::remove_file(path)).await?
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        // Nothing is asked of the disk before the directory is open.
        self.blocking(move || fs::File::open(path)?.sync_all().map_err(|error| in_doubt(&error))).await?
    }

    pub(crate) async fn read_small(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = path.to_owned();
        self.blocking(move || read_regular(&path)).await?
    }

    pub(crate) async fn replace_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (path, bytes) = (path.to_owned(), bytes.to_owned());
        let replace = move || {
            let beside = temporary_name(&path);
            let mut file = open_private(&beside, fs::OpenOptions::new().truncate(true))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            sync_parent(&path).map_err(|error| in_doubt(&error))
        };
        self.blocking(replace).await?
    }

    pub(crate) async fn look_at_dir(&self, path: &Path) -> io::Result<DirSeen> {
        let path = path.to_owned();
        let look = move || match look_at_dir(&path) {
            Err(error) if leads_nowhere(&error) => {
                let missing =
                    path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()).last();
                Ok(DirSeen::Gone { missing: missing.unwrap_or(&path).to_owned() })
            }
            seen => seen,
        };
        self.blocking(look).await?
    }

    pub(crate) async fn look_at_files(&self, paths: Vec<PathBuf>) -> io::Result<Vec<Option<FileSeen>>> {
        self.blocking(move || paths.iter().map(|path| file_at(path)).collect()).await?
    }

    /// Locks the file, which other programs look at, and the directory itself, which nothing replaces in its place.
    pub(crate) async fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let (dir, path) = (path.to_owned(), path.join("LOCK"));
        let lock = move || {
            let dir = fs::File::open(&dir)?;
            lock_with_retries(&dir)?;
            if fs::exists(&path)? {
                look_at(&path)?;
            }
            let file = open_private(&path, fs::OpenOptions::new().truncate(false))?;
            lock_with_retries(&file)?;
            let id = id(&file.metadata()?);
            Ok(DirLock::files([dir, file], LockFile { path, id }))
        };
        self.blocking(lock).await?
    }
}

/// Whether nothing can be at a path, or what is there is no directory.
fn leads_nowhere(error: &io::Error) -> bool {
    let no_directory = matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP));
    no_directory || error.kind() == io::ErrorKind::NotFound
}

fn look_at_dir(path: &Path) -> io::Result<DirSeen> {
    let about = fs::metadata(path)?;
    if !about.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `statvfs` is plain data for which all zeros is a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a NUL-terminated string and `stat` is writable; both outlive the call.
    match unsafe { libc::statvfs(path.as_ptr(), &mut stat) } {
        0 => Ok(DirSeen::There { free_bytes: stat.f_bavail * stat.f_frsize, id: id(&about) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Which file or directory this is about.
pub(super) fn id(about: &fs::Metadata) -> FileId {
    FileId { device: about.dev(), number: about.ino() }
}

/// What is at the path of a file.
fn file_at(path: &Path) -> io::Result<Option<FileSeen>> {
    let seen = || {
        let about = fs::metadata(path)?;
        let is_text = about.is_file() && about.len() <= TEXT_BYTES_MAX;
        let text = if is_text { fs::read(path)? } else { Vec::new() };
        Ok(FileSeen { id: id(&about), bytes: about.len(), text })
    };
    match seen() {
        Err(error) if leads_nowhere(&error) => Ok(None),
        seen => seen.map(Some),
    }
}

/// The length of a regular file, bytes. Whoever opens a pipe waits for its other end, and a device may never end.
pub(super) fn look_at(path: &Path) -> io::Result<u64> {
    let about = fs::metadata(path)?;
    if about.is_file() {
        return Ok(about.len());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"))
}

/// Reads a whole file that should be small.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = look_at(path)?;
    if bytes > SMALL_FILE_BYTES_MAX {
        let what = format!(
            "it has {bytes} bytes, and none that ringkeep writes has more than {SMALL_FILE_BYTES_MAX}"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    fs::read(path)
}

/// Locks a file. A process that has just died may hold its locks until the kernel has finished its last operations.
#[expect(clippy::disallowed_methods, reason = "runs on a helper thread, which may pause")]
fn lock_with_retries(file: &fs::File) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        // SAFETY: the descriptor is open for as long as `file` lives, which is past the call.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        attempts += 1;
        if error.kind() != io::ErrorKind::WouldBlock || attempts == LOCK_ATTEMPTS {
            return Err(error);
        }
        std::thread::sleep(LOCK_AGAIN);
    }
}

/// Opens a file for writing, creating it for the owner alone.
fn open_private(path: &Path, options: &mut fs::OpenOptions) -> io::Result<fs::File> {
    options.create(true).write(true).mode(FILE_MODE).open(path)
}

/// Makes the name of a directory durable that was there. One that lies where this process may not look, or where nothing can be synced, was
/// put there by others.
fn sync_found(dir: &Path) -> io::Result<()> {
    if dir.parent().is_none() {
        return Ok(());
    }
    let cannot = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::Unsupported
        )
    };
    sync_parent(dir).or_else(|error| if cannot(&error) { Ok(()) } else { Err(error) })
}

/// Makes the name `path` durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_no_small_regular_file_is_named_instead_of_read() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, long, fit) =
            (dir.path().join("socket"), dir.path().join("long"), dir.path().join("fit"));
        let _listener = UnixListener::bind(&socket).unwrap();
        fs::File::create(&long).unwrap().set_len(20 << 30).unwrap();
        fs::write(&fit, "text").unwrap();
        assert_eq!(read_regular(&fit).unwrap(), b"text");
        for (path, why) in [
            (Path::new("/dev/zero"), "not a regular file"),
            (&socket, "not a regular file"),
            (dir.path(), "not a regular file"),
            (&long, "21474836480 bytes"),
        ] {
            let error = read_regular(path).unwrap_err();
            assert!(error.to_string().contains(why), "{}: {error}", path.display());
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "it is damage and does not pass");
        }
        assert_eq!(read_regular(&dir.path().join("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
