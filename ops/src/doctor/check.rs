//! The checks: each turns what the host says into a finding. Those that only read are functions of what was read.

use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use engine::rt::glommio as world;
use store::config::{Config, format_bytes};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// As it should be.
    Well,
    /// Good to know.
    Note,
    /// The node works, but worse than it could.
    Warning,
    /// The node cannot work.
    Failure,
}

impl Level {
    pub(super) fn name(self) -> &'static str {
        match self {
            Level::Well => "ok",
            Level::Note => "note",
            Level::Warning => "WARN",
            Level::Failure => "FAIL",
        }
    }
}

/// One check's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    /// What is the case.
    pub(crate) cause: String,
    /// What follows from it; empty if all is well.
    pub(crate) consequence: String,
    /// What to type or to change; empty if all is well.
    pub(crate) fix: String,
}

impl Finding {
    pub(super) fn well(name: &'static str, cause: impl Into<String>) -> Self {
        Self { name, level: Level::Well, cause: cause.into(), consequence: String::new(), fix: String::new() }
    }

    pub(super) fn warn(
        name: &'static str,
        cause: impl Into<String>,
        consequence: &str,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name,
            level: Level::Warning,
            cause: cause.into(),
            consequence: consequence.into(),
            fix: fix.into(),
        }
    }

    fn fails(self) -> Self {
        Self { level: Level::Failure, ..self }
    }

    fn note(self) -> Self {
        Self { level: Level::Note, ..self }
    }
}

const KIB: u64 = 1 << 10;
/// Below this no executor starts, root or not.
const MEMLOCK_MIN: u64 = 512 * KIB;
/// Registered buffers are charged three times, once per ring; this is what one core registers, with a margin.
const MEMLOCK_PER_CORE: u64 = 64 << 20;

/// Starts an executor and asks it for a timer, which takes the whole way through io_uring.
pub(super) fn io_uring(cores: usize) -> Finding {
    let options = world::CoreOptions { io_memory_bytes: 1 << 20, ..world::CoreOptions::default() };
    let started = world::start_core(&options, |rt| async move { rt.yield_to_reactor().await });
    match started {
        Ok(()) => Finding::well("io_uring", format!("an executor starts; {cores} cores will serve")),
        Err(error) => {
            let disabled = super::host::read("/proc/sys/kernel/io_uring_disabled");
            let seccomp = super::host::read("/proc/self/status").contains("Seccomp:\t2");
            io_uring_blocked(&error.to_string(), &disabled, seccomp)
        }
    }
}

fn io_uring_blocked(error: &str, disabled: &str, seccomp: bool) -> Finding {
    let fix = match (disabled, seccomp) {
        ("1" | "2", _) => {
            "sysctl -w kernel.io_uring_disabled=0 (or 1 and the group of kernel.io_uring_group)"
        }
        (_, true) => {
            "a seccomp filter is on: allow io_uring_setup, io_uring_enter and io_uring_register, \
             with docker run --security-opt seccomp=ops/deploy/seccomp.json --ulimit memlock=-1"
        }
        _ => "use a kernel of 5.10 or newer and raise the memlock limit (ulimit -l unlimited)",
    };
    let cause = format!("an executor does not start: {error}");
    Finding::warn("io_uring", cause, "no core can run, because all IO goes through io_uring", fix).fails()
}

pub(super) fn memlock(limit: &str, cores: usize, exempt: bool) -> Finding {
    let fix =
        "LimitMEMLOCK=infinity in the unit, --ulimit memlock=-1 for a container, or ulimit -l unlimited";
    let Ok(bytes) = limit.parse::<u64>() else { return Finding::well("memlock", limit) };
    let wanted = MEMLOCK_PER_CORE * cores as u64;
    let cause = format!("limit is {}", format_bytes(bytes));
    if bytes < MEMLOCK_MIN {
        Finding::warn("memlock", cause, "an executor refuses to start below 512KiB", fix).fails()
    } else if bytes < wanted && !exempt {
        let cause = format!("{cause}, {cores} cores want {}", format_bytes(wanted));
        Finding::warn("memlock", cause, "buffers are not registered with the kernel and every IO copies", fix)
    } else {
        Finding::well("memlock", cause)
    }
}

pub(super) fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let cause = format!("Linux {release}");
    let fix = "use a kernel of 6.1 or newer";
    match version {
        version if version < (5, 10) => {
            Finding::warn("kernel", cause, "io_uring is incomplete there", fix).fails()
        }
        version if version < (6, 6) => Finding::warn(
            "kernel",
            cause,
            "direct IO completes through a slower path",
            "use a kernel of 6.6 or newer",
        ),
        version if version < (6, 15) => {
            let cause = format!("{cause}: an idle node shows as iowait, which is not load");
            Finding { cause, ..Finding::well("kernel", "").note() }
        }
        _ => Finding::well("kernel", cause),
    }
}

pub(super) fn open_files(limit: &str, connections: usize) -> Finding {
    let Ok(files) = limit.parse::<usize>() else { return Finding::well("open files", limit) };
    let wanted = connections + 4096;
    let cause = format!("limit is {files}, limits.connections_max on all cores and the files want {wanted}");
    if files < wanted {
        let fix = "LimitNOFILE=1048576 in the unit, or ulimit -n 1048576; or lower limits.connections_max";
        Finding::warn("open files", cause, "connections above the limit are refused by the kernel", fix)
    } else {
        Finding::well("open files", cause)
    }
}

/// The directory itself, or the nearest one above it that exists.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// Names of file systems by the number that statfs gives.
const FILE_SYSTEMS: [(u64, &str, bool); 7] = [
    (0xEF53, "ext4", true),
    (0x5846_5342, "xfs", true),
    (0x0102_1994, "tmpfs", false),
    (0x9123_683E, "btrfs", false),
    (0x6969, "nfs", false),
    (0x794C_7630, "overlayfs", false),
    (0x2FC1_2FC1, "zfs", false),
];

pub(super) fn data_dir(path: &Path) -> Finding {
    let dir = existing(path);
    let probe = dir.join(format!(".ringkeep-doctor-{}", std::process::id()));
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or_default();
    let opened = OpenOptions::new().write(true).create_new(true).custom_flags(direct).open(&probe);
    // The probe may not have come to exist.
    let _ = std::fs::remove_file(&probe);
    if let Err(error) = opened {
        let cause = format!("{}: a file cannot be opened for direct IO: {error}", dir.display());
        let fix = "put data_dir on ext4 or XFS, owned by the user that runs the node";
        return Finding::warn("data directory", cause, "the log and the tables cannot be written", fix)
            .fails();
    }
    let kind = rustix::fs::statfs(&dir).map(|stat| stat.f_type as u64).unwrap_or_default();
    match FILE_SYSTEMS.iter().find(|(magic, ..)| *magic == kind) {
        Some((_, name, true)) => {
            Finding::well("data directory", format!("{} on {name}, direct IO works", dir.display()))
        }
        other => {
            let name = other.map_or("an unknown file system", |(_, name, _)| name);
            let cause = format!("{} is on {name}", dir.display());
            Finding::warn(
                "data directory",
                cause,
                "durability and speed were tried on ext4 and XFS only",
                "use ext4 or XFS",
            )
        }
    }
}

pub(super) fn free_space(path: &Path) -> Finding {
    let dir = existing(path);
    let Ok(stat) = rustix::fs::statvfs(&dir) else {
        return Finding::warn(
            "free space",
            "the file system does not say",
            "a full disk comes as a surprise",
            "use ext4 or XFS",
        );
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let cause = format!("{} MiB", free >> 20);
    if free < 10 << 30 {
        Finding::warn(
            "free space",
            cause,
            "writes are refused once it is used up",
            "free 10 GiB or move data_dir",
        )
    } else {
        Finding::well("free space", cause)
    }
}

pub(super) fn memory(core_bytes: u64) -> Finding {
    let cause = format!("{} MiB for each core", core_bytes >> 20);
    if core_bytes < 512 << 20 {
        let fix = "raise memory_bytes, or lower cores";
        Finding::warn(
            "memory",
            cause,
            "caches and memtables are small, so more reads and flushes go to the disk",
            fix,
        )
    } else {
        Finding::well("memory", cause)
    }
}

pub(super) fn backlog(somaxconn: &str) -> Finding {
    match somaxconn.parse::<u32>() {
        Ok(length) if length < 4096 => Finding::warn(
            "backlog",
            format!("net.core.somaxconn is {length}"),
            "bursts of new connections are dropped",
            "sysctl -w net.core.somaxconn=4096",
        ),
        _ => Finding::well("backlog", format!("net.core.somaxconn is {somaxconn}")),
    }
}

pub(super) fn overcommit(mode: &str) -> Finding {
    if mode == "2" {
        let consequence = "large reservations can fail although memory is free";
        return Finding::warn(
            "overcommit",
            "vm.overcommit_memory is 2",
            consequence,
            "sysctl -w vm.overcommit_memory=1",
        );
    }
    Finding::well("overcommit", format!("vm.overcommit_memory is {mode}"))
}

pub(super) fn huge_pages(enabled: &str) -> Finding {
    if enabled.contains("[always]") {
        let fix = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
        return Finding::warn(
            "huge pages",
            "transparent huge pages are always on",
            "memory use and latency grow at times",
            fix,
        );
    }
    Finding::well("huge pages", if enabled.is_empty() { "not in this kernel" } else { enabled })
}

pub(super) fn clock(source: &str) -> Finding {
    match source {
        "tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page" => {
            Finding::well("clock", source)
        }
        "" => Finding::well("clock", "the kernel does not say").note(),
        slow => {
            let cause = format!("the clock source is {slow}");
            Finding::warn(
                "clock",
                cause,
                "reading the time costs a system call",
                "boot with clocksource=tsc if the CPU allows it",
            )
        }
    }
}

pub(super) fn governor(name: &str) -> Finding {
    match name {
        "" | "performance" | "schedutil" => Finding::well(
            "CPU governor",
            if name.is_empty() { "none, as in a virtual machine" } else { name },
        ),
        other => Finding::warn(
            "CPU governor",
            other,
            "the CPU changes speed while requests wait",
            "cpupower frequency-set -g performance",
        ),
    }
}

pub(super) fn ports(config: &Config, cores: usize) -> Vec<Finding> {
    let mut wanted = vec![("base_port", config.pd_addr()), ("resp_port", config.resp_addr())];
    wanted.push(("status_port", config.status_addr()));
    wanted.extend((0..cores).map(|core| ("base_port", config.store_addr(core))));
    let busy: Vec<Finding> = wanted.iter().filter_map(|(key, addr)| busy(key, *addr)).collect();
    if busy.is_empty() { vec![Finding::well("ports", "all free")] } else { busy }
}

fn busy(key: &str, addr: SocketAddr) -> Option<Finding> {
    let error = TcpListener::bind(addr).err()?;
    let cause = format!("{addr} ({key}): {error}");
    let fix = format!("stop what listens there (ss -ltnp), or set {key}");
    Some(Finding::warn("ports", cause, "the node cannot listen", fix).fails())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memlock_is_judged_by_cores_and_capability() {
        assert_eq!(memlock("65536", 1, true).level, Level::Failure);
        assert_eq!(memlock("8388608", 2, false).level, Level::Warning);
        assert_eq!(memlock("8388608", 2, true).level, Level::Well);
        assert_eq!(memlock("unlimited", 64, false).level, Level::Well);
    }

    #[test]
    fn kernels_are_judged_by_version() {
        assert_eq!(kernel("5.4.0-42-generic").level, Level::Failure);
        assert_eq!(kernel("6.1.0-18-amd64").level, Level::Warning);
        assert_eq!(kernel("6.8.1").level, Level::Note);
        assert_eq!(kernel("6.18.44").level, Level::Well);
    }

    #[test]
    fn a_blocked_io_uring_names_who_blocks_it() {
        assert!(io_uring_blocked("EPERM", "2", false).fix.contains("kernel.io_uring_disabled"));
        assert!(io_uring_blocked("EPERM", "0", true).fix.contains("seccomp"));
        assert_eq!(io_uring_blocked("ENOSYS", "", false).level, Level::Failure);
    }

    #[test]
    fn the_rest_is_judged_as_the_documents_say() {
        assert_eq!(open_files("1024", 16_384).level, Level::Warning);
        assert_eq!(open_files("1048576", 16_384).level, Level::Well);
        assert_eq!(backlog("128").level, Level::Warning);
        assert_eq!(overcommit("2").level, Level::Warning);
        assert_eq!(huge_pages("[always] madvise never").level, Level::Warning);
        assert_eq!(huge_pages("always [madvise] never").level, Level::Well);
        assert_eq!(clock("hpet").level, Level::Warning);
        assert_eq!(governor("powersave").level, Level::Warning);
        assert_eq!(memory(64 << 20).level, Level::Warning);
    }

    #[test]
    fn an_occupied_port_is_found_and_named() {
        let held = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = held.local_addr().expect("an address").port();
        let config = Config { resp_port: port, base_port: 0, status_port: 0, ..Config::default() };
        let findings = ports(&config, 1);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Failure));
        assert!(findings[0].fix.contains("resp_port"), "{:?}", findings[0]);
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_is_judged_by_its_parent() {
        let parent = std::env::temp_dir();
        assert_eq!(existing(&parent.join("not/there/yet")), existing(&parent));
        assert!(free_space(&parent.join("not/there/yet")).cause.ends_with("MiB"));
    }
}
