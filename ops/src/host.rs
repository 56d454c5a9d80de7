//! What the host offers to this process: cores, memory, descriptors.
//!
//! A limit on memory may be set anywhere on the way from the process's own cgroup to the root (a container, a systemd unit's
//! `MemoryMax=`, a slice above it), in version 1 or 2 of cgroups; the smallest counts. What the files say is read below a root that
//! tests replace.

use std::fs::read_to_string;
use std::path::Path;

use engine::host::fewer_open_files_than;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use store::config::Machine;

/// Memory that the process may use, and what says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) bytes: u64,
    /// The file, for the operator who wonders about the number.
    pub(crate) from: String,
}

/// The cores that the CPU mask and the quota allow, the memory that the host or a cgroup has, and the descriptors that the
/// process may come to.
pub(crate) fn machine() -> Machine {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let files = getrlimit(Resource::Nofile);
    // The soft limit is raised to the hard one when a node starts.
    let open_files = files.maximum.or(files.current).unwrap_or(u64::MAX);
    Machine { cores, memory_bytes: memory(Path::new("/")).bytes, open_files }
}

/// The memory of this process's host or of the tightest cgroup above it.
pub(crate) fn memory(root: &Path) -> Memory {
    let own = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let groups = limit_files(&own).into_iter().filter_map(|file| {
        let bytes = group_limit(&read_to_string(root.join(&file)).ok()?)?;
        Some(Memory { bytes, from: format!("/{file}") })
    });
    let host = total_memory(&read_to_string(root.join("proc/meminfo")).unwrap_or_default());
    let host = host.map(|bytes| Memory { bytes, from: "/proc/meminfo".into() });
    let unknown =
        || Memory { bytes: 1 << 30, from: "nothing: neither /proc/meminfo nor a cgroup says so".into() };
    groups.chain(host).min_by_key(|memory| memory.bytes).unwrap_or_else(unknown)
}

/// Files that may limit the memory of the group in `/proc/self/cgroup` or of one above it, relative to the root. In a container
/// its own path is often not mounted and only the root is, which is on the way.
fn limit_files(own: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // A host that runs both versions mounts the second one aside.
        let (mounts, names): (&[&str], &[&str]) = match (number, controllers) {
            ("0", "") => (&["", "unified"], &["memory.max", "memory.high"]),
            (_, controllers) if controllers.split(',').any(|name| name == "memory") => {
                (&["memory"], &["memory.limit_in_bytes"])
            }
            _ => continue,
        };
        for dir in Path::new(path.trim_start_matches('/')).ancestors() {
            for (mount, name) in mounts.iter().flat_map(|mount| names.iter().map(move |name| (mount, name))) {
                let file = Path::new("sys/fs/cgroup").join(mount).join(dir).join(name);
                files.push(file.to_string_lossy().into_owned());
            }
        }
    }
    files
}

/// A group's limit, bytes. `max` is none in version 2; version 1 writes a number near 2^63.
fn group_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 62)
}

/// `MemTotal` of /proc/meminfo, bytes.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Open files that every command may have at once that starts no node in this process: rings of a core, connections, files of a store.
const COMMAND_FILES: u64 = 64;

/// What is to be said where this process may open too few files for a command.
pub(crate) fn too_few_open_files() -> Option<String> {
    fewer_open_files_than(COMMAND_FILES, "this command", raise_open_files())
}

/// Raises the soft limit of open files to the hard one, which needs no privilege, and returns the limit as it then is.
pub(crate) fn raise_open_files() -> u64 {
    let files = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: files.maximum, maximum: files.maximum };
    if files.current == files.maximum || setrlimit(Resource::Nofile, raised).is_ok() {
        return files.maximum.unwrap_or(u64::MAX);
    }
    tracing::warn!(limit = files.current, "the soft limit of open files cannot be raised to the hard one");
    files.current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files below a fresh root.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");

    fn seen(files: &[(&str, &str)]) -> (u64, String) {
        let root = tree(files);
        let memory = memory(root.path());
        (memory.bytes, memory.from)
    }

    #[test]
    fn the_smallest_limit_on_the_way_to_the_root_counts() {
        assert_eq!(seen(&[MEMINFO]), (16 << 20, "/proc/meminfo".into()));
        let unit = ("proc/self/cgroup", "0::/system.slice/ringkeep.service\n");
        let own = "sys/fs/cgroup/system.slice/ringkeep.service/memory.max";
        let slice = "sys/fs/cgroup/system.slice/memory.max";
        assert_eq!(seen(&[MEMINFO, unit, (own, "max\n"), (slice, "max\n")]).0, 16 << 20);
        assert_eq!(
            seen(&[MEMINFO, unit, (own, "4194304\n"), (slice, "max\n")]),
            (4 << 20, format!("/{own}"))
        );
        assert_eq!(
            seen(&[MEMINFO, unit, (own, "max\n"), (slice, "2097152\n")]),
            (2 << 20, format!("/{slice}"))
        );
        let high = "sys/fs/cgroup/system.slice/ringkeep.service/memory.high";
        assert_eq!(
            seen(&[MEMINFO, unit, (own, "4194304\n"), (high, "1048576\n")]),
            (1 << 20, format!("/{high}"))
        );
    }

    #[test]
    fn a_container_sees_its_limit_at_the_root_of_the_mount() {
        let own = ("proc/self/cgroup", "0::/\n");
        assert_eq!(seen(&[MEMINFO, own, ("sys/fs/cgroup/memory.max", "1048576\n")]).0, 1 << 20);
        let outside = ("proc/self/cgroup", "0::/kubepods/pod7/box\n");
        assert_eq!(seen(&[MEMINFO, outside, ("sys/fs/cgroup/memory.max", "1048576\n")]).0, 1 << 20);
    }

    #[test]
    fn version_1_and_mixed_hosts_are_read() {
        let own = ("proc/self/cgroup", "9:memory:/docker/box\n3:cpu,cpuacct:/docker/box\n0::/docker/box\n");
        let v1 = "sys/fs/cgroup/memory/docker/box/memory.limit_in_bytes";
        assert_eq!(seen(&[MEMINFO, own, (v1, "9223372036854771712\n")]).0, 16 << 20, "no limit");
        assert_eq!(seen(&[MEMINFO, own, (v1, "1048576\n")]), (1 << 20, format!("/{v1}")));
        let above = "sys/fs/cgroup/memory/docker/memory.limit_in_bytes";
        assert_eq!(seen(&[MEMINFO, own, (v1, "2097152\n"), (above, "1048576\n")]).1, format!("/{above}"));
        let unified = "sys/fs/cgroup/unified/docker/box/memory.max";
        assert_eq!(seen(&[MEMINFO, own, (unified, "1048576\n")]).1, format!("/{unified}"));
    }

    #[test]
    fn a_host_that_says_nothing_is_taken_for_small() {
        let (bytes, from) = seen(&[]);
        assert!(bytes == 1 << 30 && from.starts_with("nothing"));
        let machine = machine();
        assert!(machine.cores >= 1 && machine.memory_bytes > 64 << 20 && machine.open_files > 64);
    }

    #[test]
    fn the_soft_limit_of_open_files_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let lower = before.current.unwrap_or(1 << 20).min(512);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), maximum: before.maximum })
            .expect("lowering");
        assert_eq!(raise_open_files(), before.maximum.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
