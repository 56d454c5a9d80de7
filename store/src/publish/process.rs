//! What the process says about itself, from /proc, under the names that every Prometheus client library uses.
//!
//! Each number that has a bound is published beside it (open descriptors and their limit), so that saturation is a quotient.
//! What /proc does not have is left out of the page; it is never published as zero.

use std::path::Path;

use super::{Metric, MetricKind, Sample, Value};
use crate::process::{Stat, boot_time_seconds, max_fds, open_fds};

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

/// Everything that `/proc` below `root` reports about this process.
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
        assert_eq!(value("process_open_fds"), None, "what is not reported is not published");
    }
}
