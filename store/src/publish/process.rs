//! What the process says about itself, from /proc, under the names that every Prometheus client library uses.
//!
//! Each number that has a bound is published beside it (open descriptors and their limit), so that saturation is a quotient.
//! What /proc does not tell is left out of the page; it is never published as zero.

use std::path::Path;

use super::{Metric, MetricKind, Sample, Value};

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, kind: MetricKind::Gauge }
}

const BUILD: Metric = gauge("ringkeep_build_info", "Always 1; the version is a label.");
const STORES: Metric = gauge("ringkeep_stores", "Stores of this node.");
const CPU: Metric = Metric {
    name: "process_cpu_seconds_total",
    help: "CPU time of the process, user and system, in seconds.",
    kind: MetricKind::Counter,
};
const RESIDENT: Metric = gauge("process_resident_memory_bytes", "Resident memory of the process in bytes.");
const VIRTUAL: Metric = gauge("process_virtual_memory_bytes", "Address space of the process in bytes.");
const OPEN_FDS: Metric = gauge("process_open_fds", "Files and sockets that the process has open.");
const MAX_FDS: Metric = gauge("process_max_fds", "Files and sockets that the process may have open.");
const STARTED: Metric =
    gauge("process_start_time_seconds", "When the process started, in seconds since the Unix epoch.");
const THREADS: Metric = gauge("process_threads", "Threads of the process.");

/// The kernel reports CPU time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;
/// Every architecture that ringkeep runs on is configured with pages of 4 KiB.
const PAGE_BYTES: u64 = 4096;

/// Everything that `/proc` below `root` tells about this process.
pub(super) fn samples(root: &Path, stores: usize) -> Vec<Sample> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let plain = |metric, value| Sample { metric, labels: Vec::new(), value };
    let mut samples = vec![
        Sample {
            metric: &BUILD,
            labels: vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
            value: Value::Number(1),
        },
        plain(&STORES, Value::Number(stores as u64)),
    ];
    if let Some(open) = open_fds(&root.join("proc/self/fd")) {
        samples.push(plain(&OPEN_FDS, Value::Number(open)));
    }
    if let Some(limit) = max_fds(&read("proc/self/limits")) {
        samples.push(plain(&MAX_FDS, Value::Number(limit)));
    }
    let Some(stat) = Stat::read(&read("proc/self/stat")) else { return samples };
    samples.push(plain(&CPU, Value::Seconds(stat.cpu_seconds)));
    samples.push(plain(&THREADS, Value::Number(stat.threads)));
    samples.push(plain(&RESIDENT, Value::Number(stat.resident_bytes)));
    samples.push(plain(&VIRTUAL, Value::Number(stat.virtual_bytes)));
    if let Some(booted) = boot_time_seconds(&read("proc/stat")) {
        samples.push(plain(&STARTED, Value::Seconds(booted + stat.started_seconds_after_boot)));
    }
    samples
}

/// Memory of this process that is resident, bytes. Reads `/proc`.
pub fn resident_bytes() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    Stat::read(&stat).map(|stat| stat.resident_bytes)
}

/// Descriptors in use. The kernel gives their number as the size of the directory since 6.2; before, the entries are counted,
/// one of which is the one that reads them.
pub fn open_fds(dir: &Path) -> Option<u64> {
    match std::fs::metadata(dir).ok()?.len() {
        0 => Some((std::fs::read_dir(dir).ok()?.count() as u64).saturating_sub(1)),
        open => Some(open),
    }
}

/// The soft limit of open files in /proc/self/limits.
fn max_fds(limits: &str) -> Option<u64> {
    let row = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match row.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// `btime` of /proc/stat, seconds since the Unix epoch.
fn boot_time_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// What is used of /proc/self/stat.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    started_seconds_after_boot: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    /// Fields are counted after the process's name, which may hold anything.
    fn read(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            cpu_seconds: (number(11)? + number(12)?) as f64 / TICKS_PER_SECOND,
            threads: number(17)?,
            started_seconds_after_boot: number(19)? as f64 / TICKS_PER_SECOND,
            virtual_bytes: number(20)?,
            resident_bytes: number(21)? * PAGE_BYTES,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_read_under_the_standard_names() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        };
        write("proc/self/stat", "7 (a b) c) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 9 0 500 1000000 300 0");
        write(
            "proc/self/limits",
            "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n",
        );
        write("proc/stat", "cpu 1 2 3\nbtime 1700000000\n");
        let value = |name: &str| {
            let found = samples(root.path(), 2).into_iter().find(|sample| sample.metric.name == name);
            found.map(|sample| match sample.value {
                Value::Number(number) => number as f64,
                Value::Seconds(seconds) => seconds,
                Value::Histogram(_) => panic!("{name} is one number"),
            })
        };
        assert_eq!(value("process_cpu_seconds_total"), Some(2.0));
        assert_eq!(value("process_threads"), Some(9.0));
        assert_eq!(value("process_start_time_seconds"), Some(1_700_000_005.0));
        assert_eq!(value("process_virtual_memory_bytes"), Some(1_000_000.0));
        assert_eq!(value("process_resident_memory_bytes"), Some(300.0 * 4096.0));
        assert_eq!(value("process_max_fds"), Some(1024.0));
        assert_eq!(value("process_open_fds"), None, "what is not told is not published");
    }

    #[test]
    fn open_descriptors_are_counted() {
        let open = || open_fds(Path::new("/proc/self/fd")).expect("this process has descriptors");
        let before = open();
        // Other tests of this process open and close files meanwhile, so many are opened here.
        let held: Vec<std::fs::File> =
            (0..200).map(|_| std::fs::File::open("/dev/null").expect("a file")).collect();
        assert!(open() >= before.saturating_sub(60) + 200);
        drop(held);
    }
}
