//! The kernel's version and the limits that it sets this process.

use std::fs;

use super::check::{Finding, Request};

/// What the runtime demands for each executor, whoever runs it.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Below this not even an idle node has room.
const OPEN_FILES_MIN: u64 = 256;
/// How the limit of open files is raised.
const MORE_OPEN_FILES: &str = "set LimitNOFILE=1048576 in the systemd unit, or ulimit -n 1048576";

/// The capability that lifts the locked-memory limit.
const CAP_IPC_LOCK: u32 = 14;

pub(super) fn kernel() -> Finding {
    judge_kernel(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())
}

fn judge_kernel(release: &str) -> Finding {
    let release = release.trim();
    let numbers: Vec<u32> = release.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect();
    let (subject, newer) = ("kernel", "run a kernel of version 6.14 or newer, 6.12.21 or 6.6.86");
    match (
        numbers.first().copied(),
        numbers.get(1).copied().unwrap_or(0),
        numbers.get(2).copied().unwrap_or(0),
    ) {
        (None, ..) => Finding::warning(
            subject,
            "its version cannot be read",
            "known defects cannot be ruled out",
            "make /proc readable",
        ),
        (Some(..5), ..) | (Some(5), ..8, _) => Finding::failure(
            subject,
            format!("version {release} is older than 5.8"),
            "its io_uring lacks what is needed",
            newer,
        ),
        (Some(5), ..) | (Some(6), ..6, _) => Finding::warning(
            subject,
            format!("version {release} is older than 6.6"),
            "direct IO takes a slower path",
            newer,
        ),
        (Some(6), 6, ..86) | (Some(6), 7..=11, _) | (Some(6), 12, ..21) | (Some(6), 13, _) => {
            Finding::warning(
                subject,
                format!("version {release} has a defect that makes io_uring report ENOMEM under load"),
                "a store may stop for no reason of its own",
                newer,
            )
        }
        _ => Finding::good(subject, format!("version {release}")),
    }
}

pub(super) fn memlock(request: &Request) -> Finding {
    judge_memlock(request, soft_limit(libc::RLIMIT_MEMLOCK), has_capability(CAP_IPC_LOCK))
}

fn judge_memlock(request: &Request, limit: u64, unlimited: bool) -> Finding {
    let (subject, fix) =
        ("locked memory", "set LimitMEMLOCK=infinity in the systemd unit, or ulimit -l unlimited");
    // Every ring of an executor registers the same memory, and the kernel counts each time.
    let wanted = 3 * request.io_memory_bytes as u64 * request.cores as u64;
    if limit < MEMLOCK_BYTES_MIN {
        return Finding::failure(
            subject,
            format!("its limit is {} KiB and each core needs {} KiB", limit >> 10, MEMLOCK_BYTES_MIN >> 10),
            "no core can start",
            fix,
        );
    }
    if limit < wanted && !unlimited {
        return Finding::warning(
            subject,
            format!(
                "its limit is {} MiB and {} MiB of buffers are to be registered",
                limit >> 20,
                wanted >> 20
            ),
            "IO goes through unregistered buffers and costs more CPU",
            fix,
        );
    }
    Finding::good(
        subject,
        if limit == u64::MAX || unlimited { "unlimited".to_owned() } else { format!("{} MiB", limit >> 20) },
    )
}

/// What is to be said where `limit` open files are too few for a node: the limit, how many it needs, and how to get them.
pub fn too_few_open_files(limit: u64) -> Option<String> {
    fewer_open_files_than(OPEN_FILES_MIN, "an idle node", limit)
}

/// The same for `who`, that needs `needed`.
pub fn fewer_open_files_than(needed: u64, who: &str, limit: u64) -> Option<String> {
    let said = || format!("the limit of open files is {limit} and {who} needs {needed}: {MORE_OPEN_FILES}");
    (limit < needed).then(said)
}

pub(super) fn open_files(request: &Request) -> Finding {
    judge_open_files(request, soft_limit(libc::RLIMIT_NOFILE))
}

fn judge_open_files(request: &Request, limit: u64) -> Finding {
    let (subject, fix) = ("open files", MORE_OPEN_FILES);
    if limit < OPEN_FILES_MIN {
        let cause = format!("the limit is {limit} and an idle node needs {OPEN_FILES_MIN}");
        return Finding::failure(subject, cause, "files and connections cannot be opened", fix);
    }
    if limit < request.open_files {
        let cause = format!("the limit is {limit} and up to {} are expected", request.open_files);
        return Finding::warning(subject, cause, "connections beyond it are refused", fix);
    }
    Finding::good(subject, format!("up to {limit}"))
}

/// Whether the process may make files only up to some length.
pub fn limits_file_length() -> bool {
    soft_limit(libc::RLIMIT_FSIZE) != u64::MAX
}

pub(super) fn file_length() -> Finding {
    judge_file_length(soft_limit(libc::RLIMIT_FSIZE))
}

fn judge_file_length(limit: u64) -> Finding {
    let subject = "length of files";
    if limit == u64::MAX {
        return Finding::good(subject, "unlimited");
    }
    Finding::warning(
        subject,
        format!("its limit is {} KiB", limit >> 10),
        "writes are refused once a file of the log or a table would be longer",
        "set LimitFSIZE=infinity in the systemd unit, or ulimit -f unlimited",
    )
}

pub(super) fn clocksource() -> Finding {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    judge_clocksource(fs::read_to_string(path).unwrap_or_default().trim())
}

fn judge_clocksource(name: &str) -> Finding {
    let fast = ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"];
    if fast.contains(&name) {
        return Finding::good("clock source", name);
    }
    Finding::warning(
        "clock source",
        if name.is_empty() { "it cannot be read".to_owned() } else { format!("it is {name}") },
        "every reading of the clock may be a system call, several per request",
        "boot with clocksource=tsc if the hardware's counter is stable",
    )
}

fn soft_limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills `limit`, which outlives the call. On failure it keeps the zeros, the strictest limit.
    unsafe { libc::getrlimit(resource, &mut limit) };
    limit.rlim_cur
}

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::*;

    #[test]
    fn kernels_are_judged_by_what_is_known_of_them() {
        for (release, level) in [
            ("4.19.0-26-amd64\n", Level::Failure),
            ("5.7.19", Level::Failure),
            ("5.8.0", Level::Warning),
            ("5.15.0-101-generic", Level::Warning),
            ("6.1.0-18-amd64", Level::Warning),
            ("6.6.85", Level::Warning),
            ("6.6.86", Level::Good),
            ("6.8.0-31-generic", Level::Warning),
            ("6.12.20+deb13", Level::Warning),
            ("6.12.21", Level::Good),
            ("6.13.9", Level::Warning),
            ("6.14.0", Level::Good),
            ("7.0-rc1", Level::Good),
            ("", Level::Warning),
        ] {
            assert_eq!(judge_kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn limits_are_held_against_what_will_run() {
        let request =
            Request { cores: 4, io_memory_bytes: 16 << 20, open_files: 10_000, dir: None, in_use: false };
        let memlock = |limit, unlimited| judge_memlock(&request, limit, unlimited).level;
        assert_eq!(memlock(0, true), Level::Failure);
        assert_eq!(memlock(64 << 10, false), Level::Failure);
        assert_eq!(memlock(8 << 20, false), Level::Warning);
        assert_eq!(memlock(8 << 20, true), Level::Good);
        assert_eq!(memlock(192 << 20, false), Level::Good);
        assert_eq!(memlock(u64::MAX, false), Level::Good);
        let files = |limit| judge_open_files(&request, limit).level;
        assert_eq!((files(100), files(1024), files(10_000)), (Level::Failure, Level::Warning, Level::Good));
        let lengths = [judge_file_length(8 << 20).level, judge_file_length(u64::MAX).level];
        assert_eq!(lengths, [Level::Warning, Level::Good]);
        let clock = |name| judge_clocksource(name).level;
        assert_eq!((clock("tsc"), clock("hpet"), clock("")), (Level::Good, Level::Warning, Level::Warning));
    }
}
