//! What the runtime does not need but an operator wants to know: ports, space, memory, kernel settings.
//!
//! Each check turns what the host says into a finding. Those that only read are functions of what was read.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use engine::host::{Finding, Level};
use store::config::{Config, Limits};
use store::node::listen::CannotListen;

use crate::host::Memory;

pub(super) fn good(subject: &'static str, cause: impl Into<String>) -> Finding {
    let (consequence, fix) = (String::new(), String::new());
    Finding { subject, level: Level::Good, cause: cause.into(), consequence, fix }
}

pub(super) fn warning(
    subject: &'static str,
    cause: impl Into<String>,
    consequence: &str,
    fix: impl Into<String>,
) -> Finding {
    let (cause, consequence, fix) = (cause.into(), consequence.to_owned(), fix.into());
    Finding { subject, level: Level::Warning, cause, consequence, fix }
}

/// The directory itself, or the nearest one above it that exists.
pub(super) fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

pub(super) fn free_space(path: &Path) -> Finding {
    let dir = existing(path);
    let Ok(stat) = rustix::fs::statvfs(&dir) else {
        return warning(
            "free space",
            "the file system does not say",
            "a full disk comes as a surprise",
            "use ext4 or XFS",
        );
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let cause = format!("{} MiB", free >> 20);
    if free < 10 << 30 {
        warning(
            "free space",
            cause,
            "writes are refused once less than a reserve is left",
            "free 10 GiB or move data_dir",
        )
    } else {
        good("free space", cause)
    }
}

pub(super) fn memory(limits: &Limits, there: &Memory) -> Finding {
    let core_bytes = limits.core_bytes;
    let cause =
        format!("{} MiB for each core, of {} MiB ({})", core_bytes >> 20, there.bytes >> 20, there.from);
    let wanted = core_bytes.saturating_mul(limits.cores as u64);
    if wanted.saturating_add(wanted / 4) > there.bytes {
        return warning(
            "memory",
            format!("{cause}; {} cores take that and up to a quarter more", limits.cores),
            "the kernel kills the process once the budget is used up",
            "lower memory_bytes to at most 4/5 of what is there, or leave it at auto",
        );
    }
    if core_bytes < 512 << 20 {
        let fix = "raise memory_bytes, or lower cores";
        warning(
            "memory",
            cause,
            "caches and memtables are small, so more reads and flushes go to the disk",
            fix,
        )
    } else {
        good("memory", cause)
    }
}

/// Whether other hosts can speak as nodes of the cluster.
pub(super) fn nodes(config: &Config) -> Finding {
    match (config.has_cluster_secret(), config.listen.is_loopback()) {
        (true, _) => good("cluster secret", "nodes and operators prove it"),
        (false, true) => good("cluster secret", "none is set, and no other host connects"),
        (false, false) => warning(
            "cluster secret",
            format!("none is set, and listen = {} can be reached from other hosts", config.listen),
            "whoever reaches the ports can speak as a node of the cluster, or as its operator",
            "set cluster_secret_file to the same secret on every node",
        ),
    }
}

pub(super) fn backlog(somaxconn: &str) -> Finding {
    match somaxconn.parse::<u32>() {
        Ok(length) if length < 4096 => warning(
            "backlog",
            format!("net.core.somaxconn is {length}"),
            "bursts of new connections are dropped",
            "sysctl -w net.core.somaxconn=4096",
        ),
        _ => good("backlog", format!("net.core.somaxconn is {somaxconn}")),
    }
}

pub(super) fn overcommit(mode: &str) -> Finding {
    if mode == "2" {
        let consequence = "large reservations can fail although memory is free";
        return warning(
            "overcommit",
            "vm.overcommit_memory is 2",
            consequence,
            "sysctl -w vm.overcommit_memory=1",
        );
    }
    good("overcommit", format!("vm.overcommit_memory is {mode}"))
}

pub(super) fn huge_pages(enabled: &str) -> Finding {
    if enabled.contains("[always]") {
        let fix = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
        return warning(
            "huge pages",
            "transparent huge pages are always on",
            "memory use and latency grow at times",
            fix,
        );
    }
    good("huge pages", if enabled.is_empty() { "not in this kernel" } else { enabled })
}

pub(super) fn governor(name: &str) -> Finding {
    match name {
        "" | "performance" | "schedutil" => {
            good("CPU governor", if name.is_empty() { "none, as in a virtual machine" } else { name })
        }
        other => warning(
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
    if busy.is_empty() { vec![good("ports", "all free")] } else { busy }
}

fn busy(key: &str, addr: SocketAddr) -> Option<Finding> {
    let error = TcpListener::bind(addr).err()?;
    let what = CannotListen { what: "the", addr, port_key: key, error: &error }.to_string();
    let (cause, fix) = what.rsplit_once(": ").map(|(cause, fix)| (cause.to_owned(), fix.to_owned()))?;
    Some(Finding { level: Level::Failure, ..warning("ports", cause, "the node cannot listen", fix) })
}

#[cfg(test)]
mod tests {
    use store::config::Machine;

    use super::*;

    #[test]
    fn nodes_that_others_can_reach_are_to_have_a_secret() {
        let mut config = Config { listen: "10.0.0.5".parse().expect("an address"), ..Config::default() };
        let open = nodes(&config);
        assert_eq!(open.level, Level::Warning);
        assert!(open.cause.contains("10.0.0.5") && open.fix.contains("cluster_secret_file"), "{open:?}");
        config.cluster_secret_file = Some("/secret".into());
        assert_eq!(nodes(&config).level, Level::Good);
        assert_eq!(nodes(&Config::default()).level, Level::Good, "no other host connects");
    }

    #[test]
    fn settings_of_the_kernel_are_judged() {
        assert_eq!(backlog("128").level, Level::Warning);
        assert_eq!(backlog("4096").level, Level::Good);
        assert_eq!(overcommit("2").level, Level::Warning);
        assert_eq!(huge_pages("[always] madvise never").level, Level::Warning);
        assert_eq!(huge_pages("always [madvise] never").level, Level::Good);
        assert_eq!(governor("powersave").level, Level::Warning);
        assert_eq!(governor("").level, Level::Good);
        let there = Memory { bytes: 8 << 30, from: "/sys/fs/cgroup/memory.max".into() };
        let limits = |core_bytes| {
            let machine = Machine { cores: 1, memory_bytes: there.bytes, open_files: 1 << 20 };
            let config = Config { memory_bytes: Some(core_bytes), ..Config::default() };
            Limits::derive(&config, machine).expect("enough for a core")
        };
        let small = memory(&limits(256 << 20), &there);
        assert_eq!(small.level, Level::Warning);
        assert!(small.cause.contains("8192 MiB (/sys/fs/cgroup/memory.max)"), "{}", small.cause);
        assert_eq!(memory(&limits(4 << 30), &there).level, Level::Good);
        assert_eq!(memory(&limits(6 << 30), &there).level, Level::Good, "a quarter on top is 7.5 GiB");
        let large = memory(&limits(7 << 30), &there);
        assert!(large.level == Level::Warning && large.fix.contains("lower memory_bytes"), "{large}");
        assert_eq!(memory(&limits(100 << 40), &there).level, Level::Warning);
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
