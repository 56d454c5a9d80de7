//! The data directory: is it there, may we write, does its file system know direct IO, and will it keep what it is given.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::check::Finding;
use crate::rt::BLOCK_BYTES;

const SUBJECT: &str = "data directory";

/// How the name of the file begins with which a directory is tried. A process that is killed meanwhile leaves it behind.
pub const TEST_FILE: &str = ".direct-io-";

/// What is known of a kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fit,
    Network,
    Memory,
    Layered,
    Unproven,
}

/// The kinds by the number that statfs returns.
const KINDS: &[(i64, &str, Kind)] = &[
    (0xEF53, "ext4", Kind::Fit),
    (0x5846_5342, "XFS", Kind::Fit),
    (0x9123_683E, "Btrfs", Kind::Unproven),
    (0x2FC1_2FC1, "ZFS", Kind::Unproven),
    (0xF2F5_2010, "F2FS", Kind::Unproven),
    (0x0102_1994, "tmpfs", Kind::Memory),
    (0x8584_58F6, "ramfs", Kind::Memory),
    (0x794C_7630, "overlayfs", Kind::Layered),
    (0x6573_5546, "FUSE", Kind::Unproven),
    (0x6969, "NFS", Kind::Network),
    (0x517B, "SMB", Kind::Network),
    (0xFF53_4D42, "CIFS", Kind::Network),
    (0xFE53_4D42, "SMB2", Kind::Network),
    (0x00C3_6400, "Ceph", Kind::Network),
    (0x0102_1997, "9P", Kind::Network),
];

pub(super) fn data_directory(dir: &Path, in_use: bool) -> Vec<Finding> {
    let unusable =
        |cause: String, fix: &str| vec![Finding::failure(SUBJECT, cause, "nothing can be kept", fix)];
    let shown = dir.display();
    match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return unusable(format!("{shown} does not exist"), "create it, or name another one");
        }
        Err(error) => {
            return unusable(format!("{shown} cannot be looked at ({error})"), "give this user access to it");
        }
        Ok(meta) if !meta.is_dir() => {
            return unusable(format!("{shown} is not a directory"), "name another one");
        }
        Ok(_) => {}
    }
    let mut findings = vec![file_system(dir)];
    findings.push(match direct_io(dir) {
        Ok(()) => Finding::good("direct IO", "a block that was written came back"),
        Err(trouble) => trouble.finding(dir, in_use),
    });
    findings.extend(device(dir));
    findings
}

fn file_system(dir: &Path) -> Finding {
    let subject = "file system";
    let Some(number) = file_system_number(dir) else {
        return Finding::warning(
            subject,
            "its kind cannot be read",
            "it may not keep its promises",
            "use ext4 or XFS",
        );
    };
    let known = KINDS.iter().find(|(known, ..)| *known == number);
    let (name, kind) = known.map_or(("of an unknown kind", Kind::Unproven), |(_, name, kind)| (*name, *kind));
    let (consequence, fix) = match kind {
        Kind::Fit => return Finding::good(subject, name),
        Kind::Network => {
            ("a sync may lie and a lock may not hold", "put the data on a local disk with ext4 or XFS")
        }
        Kind::Memory => {
            ("all data is gone after a restart of the machine", "put the data on a disk with ext4 or XFS")
        }
        Kind::Layered => {
            ("writes take a detour and may need much space", "mount a volume there that is ext4 or XFS")
        }
        Kind::Unproven => ("its direct IO and its syncs are unproven here", "prefer ext4 or XFS"),
    };
    Finding::warning(subject, format!("it is {name}"), consequence, fix)
}

fn file_system_number(dir: &Path) -> Option<i64> {
    let path = CString::new(dir.as_os_str().as_bytes()).ok()?;
    // SAFETY: `statfs` is plain data for which all zeros is a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a NUL-terminated string and `stat` is writable; both outlive the call.
    (unsafe { libc::statfs(path.as_ptr(), &mut stat) } == 0).then_some(stat.f_type)
}

/// What went wrong with the test file.
#[derive(Debug)]
enum Trouble {
    Create(io::Error),
    NoDirectIo(io::Error),
    Write(io::Error),
    CameBackChanged,
}

impl Trouble {
    /// There is no space, which may pass.
    fn is_full(&self) -> bool {
        let full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match self {
            Trouble::Create(error) | Trouble::NoDirectIo(error) | Trouble::Write(error) => full(error),
            Trouble::CameBackChanged => false,
        }
    }

    fn finding(self, dir: &Path, in_use: bool) -> Finding {
        let shown = dir.display();
        if self.is_full() {
            let (cause, fix) = (format!("the disk of {shown} is full"), "free some space");
            return match in_use {
                true => {
                    Finding::warning(SUBJECT, cause, "reads and deletes are served, and no other writes", fix)
                }
                false => Finding::failure(SUBJECT, cause, "nothing can be kept", fix),
            };
        }
        let (subject, cause, fix) = match self {
            Trouble::Create(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                (SUBJECT, format!("this user may not write to {shown}"), "change its owner or its mode")
            }
            Trouble::Create(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => (
                SUBJECT,
                format!("{shown} is mounted read-only"),
                "mount it for writing, or name another one",
            ),
            Trouble::Create(error) => {
                (SUBJECT, format!("no file can be made in {shown} ({error})"), "name another one")
            }
            Trouble::NoDirectIo(error) => (
                "direct IO",
                format!("the file system of {shown} refuses O_DIRECT ({error})"),
                "put the data on ext4 or XFS",
            ),
            Trouble::Write(error) => (
                "direct IO",
                format!("a block could not be written and read in {shown} ({error})"),
                "look for the disk's trouble in the kernel's log",
            ),
            Trouble::CameBackChanged => (
                "direct IO",
                format!("a block that was written in {shown} came back changed"),
                "replace the disk, or what stands in for it",
            ),
        };
        Finding::failure(subject, cause, "nothing can be kept", fix)
    }
}

/// The kernel takes direct IO only from memory that is aligned like the disk's blocks.
#[repr(align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// Removes the test file, whatever becomes of the test.
struct TestFile(PathBuf);

impl Drop for TestFile {
    fn drop(&mut self) {
        // It may never have come into being.
        let _ = fs::remove_file(&self.0);
    }
}

fn direct_io(dir: &Path) -> Result<(), Trouble> {
    let test = TestFile(dir.join(format!("{TEST_FILE}{}", std::process::id())));
    File::create(&test.0).map_err(Trouble::Create)?;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).custom_flags(libc::O_DIRECT);
    let file = options.open(&test.0).map_err(Trouble::NoDirectIo)?;
    let mut block = Box::new(Block([0; BLOCK_BYTES]));
    for (position, byte) in block.0.iter_mut().enumerate() {
        *byte = (position % 251) as u8;
    }
    let wrote = file.write_all_at(&block.0, 0).and_then(|()| file.sync_data());
    wrote.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => Trouble::NoDirectIo(error),
        _ => Trouble::Write(error),
    })?;
    block.0.fill(0);
    file.read_exact_at(&mut block.0, 0).map_err(Trouble::Write)?;
    let intact = block.0.iter().enumerate().all(|(position, byte)| *byte == (position % 251) as u8);
    if intact { Ok(()) } else { Err(Trouble::CameBackChanged) }
}

/// What the disk itself says about its cache, where it says anything.
fn device(dir: &Path) -> Option<Finding> {
    let number = fs::metadata(dir).ok()?.dev();
    let known_as = format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number));
    let node = fs::canonicalize(known_as).ok()?;
    // A partition has no queue of its own; the disk above it does.
    let queue =
        [node.join("queue"), node.parent()?.join("queue")].into_iter().find(|queue| queue.is_dir())?;
    let read = |name: &str| fs::read_to_string(queue.join(name)).unwrap_or_default().trim().to_owned();
    Some(Finding::good("disk", describe_cache(&read("write_cache"), &read("fua"))))
}

fn describe_cache(write_cache: &str, fua: &str) -> String {
    match (write_cache, fua) {
        ("write through", _) => "no volatile cache, a finished write is durable".into(),
        ("write back", "1") => "volatile cache, single writes can be forced through it (FUA)".into(),
        ("write back", _) => "volatile cache without FUA, every durable write flushes it".into(),
        _ => "it says nothing about its cache".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::*;

    fn beside_the_tests() -> tempfile::TempDir {
        tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
    }

    #[test]
    fn a_healthy_directory_passes_and_is_left_as_it_was() {
        let dir = beside_the_tests();
        let findings = data_directory(dir.path(), false);
        assert!(findings.len() >= 2);
        assert!(findings.iter().all(|finding| finding.level != Level::Failure), "{findings:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_none_is_named() {
        let dir = beside_the_tests();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for (path, cause) in [(dir.path().join("missing"), "does not exist"), (file, "not a directory")] {
            let findings = data_directory(&path, false);
            assert_eq!((findings.len(), findings[0].level), (1, Level::Failure));
            assert!(findings[0].cause.contains(cause) && findings[0].cause.contains(path.to_str().unwrap()));
        }
    }

    #[test]
    fn a_file_system_without_direct_io_is_refused() {
        // The kernel's own process files can be neither created nor opened for direct IO.
        let findings = data_directory(Path::new("/proc/self"), false);
        assert!(findings.iter().any(|finding| finding.level == Level::Failure), "{findings:?}");
        assert!(findings.iter().any(|finding| finding.level == Level::Warning), "{findings:?}");
    }

    #[test]
    fn every_trouble_is_a_failure_with_its_own_words() {
        let error = |errno| io::Error::from_raw_os_error(errno);
        for (trouble, cause) in [
            (Trouble::Create(error(libc::EACCES)), "may not write"),
            (Trouble::Create(error(libc::EROFS)), "read-only"),
            (Trouble::Create(error(libc::EMFILE)), "no file can be made"),
            (Trouble::NoDirectIo(error(libc::EINVAL)), "refuses O_DIRECT"),
            (Trouble::Write(error(libc::ENOSPC)), "full"),
            (Trouble::Write(error(libc::EIO)), "could not be written"),
            (Trouble::CameBackChanged, "changed"),
        ] {
            let finding = trouble.finding(Path::new("/data"), false);
            assert_eq!(finding.level, Level::Failure);
            assert!(finding.cause.contains(cause) && finding.cause.contains("/data"), "{finding}");
        }
    }

    /// A node that is stopped on a full disk has to come back: it is what deletes.
    #[test]
    fn a_full_disk_is_a_failure_only_where_nothing_is_kept_yet() {
        type Step = fn(io::Error) -> Trouble;
        let steps: [Step; 3] = [Trouble::Create, Trouble::NoDirectIo, Trouble::Write];
        for step in steps {
            for errno in [libc::ENOSPC, libc::EDQUOT] {
                let level = |in_use| {
                    let finding =
                        step(io::Error::from_raw_os_error(errno)).finding(Path::new("/data"), in_use);
                    assert!(finding.cause.contains("/data is full"), "{finding}");
                    finding.level
                };
                assert_eq!((level(false), level(true)), (Level::Failure, Level::Warning));
            }
            let broken = step(io::Error::from_raw_os_error(libc::EIO)).finding(Path::new("/data"), true);
            assert_eq!(broken.level, Level::Failure, "{broken}");
        }
    }
}
