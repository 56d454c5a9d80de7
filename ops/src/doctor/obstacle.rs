//! What keeps a path from being a data directory: it is something else, it leads nowhere, or this user may not use it.
//!
//! A start, `ringkeep inspect` and `ringkeep doctor` ask this first, because the errors of whatever is tried later name a file and not the
//! cause. Only looks, and changes nothing. A path with nothing at its end is no obstacle here: a start makes the directory.

use std::fs::{self, FileType};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use engine::host::Finding;
use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};
use rustix::io::Errno;

use super::directory::failure;

/// What is in the way.
pub(crate) struct Obstacle {
    pub(crate) finding: Finding,
    /// Whether it can go by itself, as when a disk is mounted.
    pub(crate) passes: bool,
}

impl Obstacle {
    fn lasting(cause: String, fix: impl Into<String>) -> Self {
        Self { finding: failure(cause, fix), passes: false }
    }
}

/// What keeps `dir` from being used for `wanted`, if anything does.
pub(crate) fn obstacle(dir: &Path, wanted: Access) -> Option<Obstacle> {
    let shown = dir.display();
    let link = match fs::symlink_metadata(dir) {
        Ok(about) => about.is_symlink(),
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => return Some(on_the_way(dir, &error)),
    };
    let about = match fs::metadata(dir) {
        Ok(about) => about,
        Err(error) if link => return Some(bad_link(dir, &error)),
        Err(error) => return Some(on_the_way(dir, &error)),
    };
    if !about.is_dir() {
        return Some(Obstacle::lasting(
            format!("{shown} is {}", kind(about.file_type())),
            "name another data directory, or move away what is there",
        ));
    }
    match access(dir, wanted) {
        Ok(()) => None,
        Err(Errno::ROFS) => Some(Obstacle::lasting(
            format!("{shown} lies on a file system that is mounted read-only"),
            "mount it for writing, or name another data directory",
        )),
        Err(error) => {
            let may = if wanted.contains(Access::WRITE_OK) { "read and write" } else { "read" };
            let fix = format!("chown it to the user that runs the node, or chmod u+rwx {shown}");
            Some(Obstacle::lasting(format!("this user may not {may} {shown} ({error})"), fix))
        }
    }
}

/// Whether the file system of `dir` takes no writes from anyone.
pub(crate) fn is_read_only(dir: &Path) -> bool {
    statvfs(dir).is_ok_and(|about| about.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn bad_link(dir: &Path, error: &Error) -> Obstacle {
    let shown = dir.display();
    let target = fs::read_link(dir).unwrap_or_default();
    let target = target.display();
    if Errno::from_io_error(error) == Some(Errno::LOOP) {
        let cause =
            format!("{shown} is a symbolic link to {target}, and the links from there lead in a circle");
        return Obstacle::lasting(cause, "correct the link, or name another data directory");
    }
    let (cause, fix) = match error.kind() {
        ErrorKind::NotFound => (
            format!("{shown} is a symbolic link to {target}, which does not exist"),
            "mount the disk or make that directory, or correct the link",
        ),
        _ => (
            format!("{shown} is a symbolic link to {target}, which cannot be looked at ({error})"),
            "correct the link, or let the user that runs the node pass through the directories on the way (chmod a+x)",
        ),
    };
    Obstacle { finding: failure(cause, fix), passes: error.kind() == ErrorKind::NotFound }
}

/// Names the first part of the path that leads nowhere.
fn on_the_way(dir: &Path, error: &Error) -> Obstacle {
    let shown = dir.display();
    let file = dir.ancestors().skip(1).find_map(|above| {
        let about = fs::metadata(above).ok().filter(|about| !about.is_dir())?;
        Some(format!("{shown} cannot exist: {} is {}", above.display(), kind(about.file_type())))
    });
    if let Some(cause) = file {
        return Obstacle::lasting(cause, "correct the path of the data directory");
    }
    let fix = match error.kind() {
        ErrorKind::PermissionDenied => {
            "let the user that runs the node pass through the directories above it (chmod a+x)"
        }
        _ => "correct the path of the data directory",
    };
    Obstacle::lasting(format!("{shown} cannot be looked at ({error})"), fix)
}

fn kind(of: FileType) -> &'static str {
    match of {
        of if of.is_file() => "a regular file",
        of if of.is_fifo() => "a pipe",
        of if of.is_socket() => "a socket",
        of if of.is_char_device() || of.is_block_device() => "a device",
        _ => "no directory",
    }
}
