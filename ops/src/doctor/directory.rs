//! The data directory as a start would find it: there or not, ours, writable, free. Changes nothing.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use engine::host::{Finding, Level};
use rustix::fs::{Access, FlockOperation, access, flock};

use super::check::{good, warning};

const SUBJECT: &str = "data directory";
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What is to be said about the directory of a node with `cores` cores.
pub(crate) fn examine(dir: &Path, cores: usize) -> Vec<Finding> {
    let shown = dir.display();
    if !dir.exists() {
        return vec![absent(dir)];
    }
    if !dir.is_dir() {
        return vec![failure(
            format!("{shown} is no directory"),
            "name another data_dir, or remove what is there",
        )];
    }
    if let Err(error) = access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        let fix = format!("chown it to the user that runs the node, or chmod u+rwx {shown}");
        return vec![failure(format!("{shown} cannot be used ({error})"), fix)];
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
    let Ok(file) = File::open(dir.join("LOCK")) else { return false };
    let held = |_| {
        let held = flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
        if held {
            pause();
        }
        held
    };
    (0..LOCK_TRIES).all(held)
}

/// A process that was just killed may hold its lock until its last disk operation ends, and a start waits for that, too.
#[expect(clippy::disallowed_methods, reason = "a command that an operator waits for, never a core")]
fn pause() {
    std::thread::sleep(LOCK_PAUSE);
}

fn contents(dir: &Path, cores: usize) -> Finding {
    let shown = dir.display();
    let names = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let foreign = names.filter(|name| !["LOCK", "lost+found"].contains(&name.as_str())).count();
    let Ok(text) = std::fs::read_to_string(dir.join("IDENT")) else {
        return match foreign {
            0 => good(SUBJECT, format!("{shown} is empty and will be used")),
            _ => failure(
                format!("{shown} holds files and no IDENT, so it is not ours"),
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

fn failure(cause: String, fix: impl Into<String>) -> Finding {
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
        drop(lock);
        assert!(!is_locked(root.path()));
    }
}
