//! The data directory as a start would find it: there or not, ours, writable, free. Changes nothing.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use engine::host::{Finding, Level};
use rustix::fs::{Access, FlockOperation, access, flock};
use store::node::identity::WithoutIdent;

use super::check::{good, warning};
use super::obstacle::obstacle;

/// What a node does with its directory.
pub(crate) const SERVE: Access = Access::READ_OK.union(Access::WRITE_OK).union(Access::EXEC_OK);

/// What findings about the directory are named.
pub(crate) const SUBJECT: &str = "data directory";
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What is to be said about the directory of a node with `cores` cores.
pub(crate) fn examine(dir: &Path, cores: usize) -> Vec<Finding> {
    if let Some(obstacle) = obstacle(dir, SERVE) {
        return vec![obstacle.finding];
    }
    if !dir.exists() {
        return vec![absent(dir)];
    }
    if let Some(held) = held(dir) {
        return vec![held];
    }
    let mut findings = vec![contents(dir, cores)];
    findings.extend(readable_by_others(dir));
    findings
}

/// What is to be said if another process holds the directory.
pub(crate) fn held(dir: &Path) -> Option<Finding> {
    is_locked(dir).then(|| {
        let fix = "stop the other node (its LOCK file shows it: fuser LOCK), or give this one a directory of its own";
        failure(format!("the data directory {} is held by another process", dir.display()), fix)
    })
}

/// What is to be said of a host whose node runs, instead of what is in its directory and whether its ports are free.
pub(super) fn running(dir: &Path) -> Option<Finding> {
    is_locked(dir).then(|| {
        let dir = dir.display();
        good(
            SUBJECT,
            format!(
                "a node runs on {dir}: its files and its ports are not looked at; /ready says how it does"
            ),
        )
    })
}

fn absent(dir: &Path) -> Finding {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let Some(parent) = absolute.parent().filter(|parent| parent.is_dir()) else {
        let cause = format!("neither {} nor the directory above it exists", dir.display());
        return failure(cause, "mount the disk, correct data_dir, or make the directory above it");
    };
    match access(parent, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => good(SUBJECT, format!("{} is new and will be made", dir.display())),
        Err(error) => {
            let cause = format!("{} cannot be made ({error})", dir.display());
            failure(
                cause,
                format!("make it and chown it, or let the node's user write to {}", parent.display()),
            )
        }
    }
}

/// Whether another process holds the lock. A lock that is got is given back with the file.
fn is_locked(dir: &Path) -> bool {
    File::open(dir.join("LOCK")).is_ok_and(|file| !lock(&file, FlockOperation::NonBlockingLockExclusive))
}

/// Whether `file` could be locked.
fn lock(file: &File, how: FlockOperation) -> bool {
    let locked = |_| {
        let locked = flock(file, how).is_ok();
        if !locked {
            pause();
        }
        locked
    };
    (0..LOCK_TRIES).any(locked)
}

/// Keeps nodes from starting in the directory until what is returned is dropped, and writes nothing for it: nothing is returned where
/// there is no lock file, because no node has been there yet.
///
/// # Errors
/// The lock file cannot be read, or another process holds it.
pub(crate) fn hold(dir: &Path) -> Result<Option<File>, String> {
    let path = dir.join("LOCK");
    let refused = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Ok(about) if !about.is_file() => {
            return Err(refused(&"it is not a regular file; remove it once no node uses the directory"));
        }
        Ok(_) | Err(_) => {}
    }
    let file = File::open(&path)
        .map_err(|error| refused(&format!("{error}; run this as the user that runs the node")))?;
    match lock(&file, FlockOperation::NonBlockingLockShared) {
        true => Ok(Some(file)),
        false => Err(format!("{}: a server is using it; stop it first", dir.display())),
    }
}

/// A process that was just killed may hold its lock until its last disk operation ends, and a start waits for that, too.
#[expect(clippy::disallowed_methods, reason = "a command that an operator waits for, never a core")]
fn pause() {
    std::thread::sleep(LOCK_PAUSE);
}

fn contents(dir: &Path, cores: usize) -> Finding {
    let shown = dir.display();
    let Ok(text) = std::fs::read_to_string(dir.join("IDENT")) else {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        let names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        return match WithoutIdent::of(&names) {
            WithoutIdent::New => good(SUBJECT, format!("{shown} is empty and will be used")),
            WithoutIdent::Lost(name) => failure(
                format!("{shown} has lost its IDENT: there is {name}"),
                "restore the data directory from a backup, or name an empty one",
            ),
            WithoutIdent::Foreign(name) => failure(
                format!("{shown} holds {name} and no IDENT, so it is not ours"),
                "name an empty data_dir",
            ),
        };
    };
    match stores_of(&text) {
        Some(stores) if stores < cores => warning(
            SUBJECT,
            format!("{shown} has {stores} stores, and {cores} cores are asked for"),
            "a store has one core, so the other cores hold no data and only help with connections",
            format!("set cores = {stores}, or make a new directory and copy the data"),
        ),
        Some(stores) => good(SUBJECT, format!("{shown} has {stores} stores")),
        None => failure(
            format!("{shown}/IDENT does not say how many stores there are"),
            "restore it from a backup",
        ),
    }
}

/// The number of stores in the text of IDENT.
fn stores_of(text: &str) -> Option<usize> {
    text.lines().find_map(|line| line.strip_prefix("stores "))?.trim().parse().ok()
}

fn readable_by_others(dir: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(dir).ok()?.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then(|| {
        let fix = format!("chmod 700 {}", dir.display());
        warning(SUBJECT, format!("its mode is {mode:04o}"), "other users of this host may look inside", fix)
    })
}

pub(super) fn failure(cause: String, fix: impl Into<String>) -> Finding {
    Finding { level: Level::Failure, ..warning(SUBJECT, cause, "the node cannot start", fix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(dir: &Path) -> Level {
        examine(dir, 2).iter().map(|finding| finding.level).max().expect("something is said")
    }

    fn private(dir: &Path) {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).expect("its owner");
    }

    #[test]
    fn a_directory_is_new_ours_or_named_with_its_remedy() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("data");
        assert_eq!(level(&dir), Level::Good, "it will be made");
        assert_eq!(level(&dir.join("and/below")), Level::Failure, "an unmounted disk is not made up");
        std::fs::create_dir(&dir).expect("a directory");
        private(&dir);
        assert_eq!(level(&dir), Level::Good);
        std::fs::write(dir.join("IDENT"), "ringkeep 1\nstores 2\n").expect("a file");
        assert_eq!(level(&dir), Level::Good);
        let few = examine(&dir, 3);
        assert!(few[0].level == Level::Warning && few[0].cause.contains("has 2 stores"), "{few:?}");
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("its owner");
        assert_eq!(level(&dir), Level::Warning);
        std::fs::remove_file(dir.join("IDENT")).expect("it is there");
        std::fs::write(dir.join("report.txt"), "mine").expect("a file");
        assert_eq!(level(&dir), Level::Failure, "foreign files");
        assert_eq!(level(&dir.join("report.txt")), Level::Failure);
    }

    #[test]
    fn a_held_directory_is_seen_and_left_alone() {
        let root = tempfile::tempdir().expect("a directory");
        let lock = File::create(root.path().join("LOCK")).expect("a file");
        assert!(!is_locked(root.path()));
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("the lock is free");
        assert!(is_locked(root.path()));
        assert!(
            running(root.path()).is_some_and(|it| it.level == Level::Good && it.cause.contains("runs on"))
        );
        assert_eq!(level(root.path()), Level::Failure, "no second node can start");
        drop(lock);
        assert!(running(root.path()).is_none());
        assert!(!is_locked(root.path()));
    }
}
