//! What the process says about itself, from /proc.

use super::{Metric, MetricKind, Sample, Value};

const BUILD: Metric = Metric {
    name: "ringkeep_build_info",
    help: "Always 1; the version is a label.",
    kind: MetricKind::Gauge,
};
const STORES: Metric =
    Metric { name: "ringkeep_stores", help: "Stores of this node.", kind: MetricKind::Gauge };
const CPU: Metric = Metric {
    name: "ringkeep_process_cpu_seconds_total",
    help: "CPU time of the process, user and system, in seconds.",
    kind: MetricKind::Counter,
};
const RESIDENT: Metric = Metric {
    name: "ringkeep_process_resident_memory_bytes",
    help: "Resident memory of the process in bytes.",
    kind: MetricKind::Gauge,
};
const FILES: Metric = Metric {
    name: "ringkeep_process_open_files",
    help: "Files and sockets that the process has open.",
    kind: MetricKind::Gauge,
};
const THREADS: Metric =
    Metric { name: "ringkeep_process_threads", help: "Threads of the process.", kind: MetricKind::Gauge };

/// The kernel reports CPU time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;
/// Every architecture that ringkeep runs on is configured with pages of 4 KiB.
const PAGE_BYTES: u64 = 4096;

pub(super) fn samples(stores: usize) -> impl Iterator<Item = Sample> {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let plain = |metric, value| Sample { metric, labels: Vec::new(), value };
    let mut samples = vec![
        Sample {
            metric: &BUILD,
            labels: vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
            value: Value::Number(1),
        },
        plain(&STORES, Value::Number(stores as u64)),
        plain(&FILES, Value::Number(files as u64)),
    ];
    if let Some((cpu_seconds, threads, resident_bytes)) = read_stat(&stat) {
        samples.push(plain(&CPU, Value::Seconds(cpu_seconds)));
        samples.push(plain(&THREADS, Value::Number(threads)));
        samples.push(plain(&RESIDENT, Value::Number(resident_bytes)));
    }
    samples.into_iter()
}

/// CPU seconds, threads and resident bytes. Fields are counted behind the process's name, which may hold anything.
fn read_stat(stat: &str) -> Option<(f64, u64, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let cpu_seconds = (number(11)? + number(12)?) as f64 / TICKS_PER_SECOND;
    Some((cpu_seconds, number(17)?, number(21)? * PAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 9 0 5 1000000 300 0";
        assert_eq!(read_stat(stat), Some((2.0, 9, 300 * 4096)));
        assert_eq!(read_stat(""), None);
        assert_eq!(samples(2).count(), 6);
    }
}
