//! Whether a put is ever late for another reason than the disk: a node is loaded as fast as it takes records, while a plain thread
//! writes and syncs single blocks on the same disk.
//!
//! A load of this size makes compactions run behind, and what the engine may do about that is to slow writers down, never to stop
//! them. So no put may take longer than the slowest raw write of the same run and [`LATE_MAX`] more.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::Failed;
use crate::backlog::{BacklogReport, Watch};
use crate::client::Protocol;
use crate::clock::pause;
use crate::disk::Probe;
use crate::load::{self, Phases, Stop};
use crate::process::{Node, NodeOptions};
use crate::report::LoadReport;
use crate::workload::{KEY_BYTES_MIN, Mix, Spread, Workload};

/// How much later than the slowest raw write a put may be answered.
pub const LATE_MAX: Duration = Duration::from_millis(250);
/// Between two raw writes: often enough to meet what a put meets, and no load of its own.
const PROBE_EVERY: Duration = Duration::from_millis(5);

/// What to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start the node.
    pub node: NodeOptions,
    /// Where the raw writes go; on the disk of the node's data.
    pub directory: PathBuf,
    /// Records to write.
    pub records: u64,
    /// Length of a value, bytes.
    pub value_bytes: usize,
    /// Connections.
    pub connections: usize,
    /// Requests in flight per connection.
    pub pipeline: usize,
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct PressureReport {
    /// The load.
    pub load: LoadReport,
    /// The slowest put, milliseconds.
    pub worst_put_ms: f64,
    /// Raw writes meanwhile.
    pub raw_writes: usize,
    /// The slowest of them, milliseconds.
    pub worst_raw_write_ms: f64,
    /// What the node said of its backlog.
    pub backlog: BacklogReport,
}

/// Loads. `say` is called with what is being done.
///
/// # Errors
/// The node does not start, a write is refused, or the disk fails.
pub fn measure(options: &Options, say: &mut dyn FnMut(&str)) -> Result<PressureReport, Failed> {
    let mut probe = Probe::new(&options.directory)?;
    let node = Node::start(&options.node)?;
    say(&format!("writing {} records of {} bytes", options.records, options.value_bytes));
    let watch = Watch::start(node.status);
    let loaded = Arc::new(AtomicBool::new(false));
    let ends = loaded.clone();
    let raw = std::thread::spawn(move || raw_writes(&mut probe, &ends));
    let reports = load::run(&load_options(options, &node), Phases::Load);
    loaded.store(true, Ordering::Relaxed);
    let raw = raw.join().map_err(|_| Failed::new("the thread of the raw writes panicked"))??;
    let backlog = watch.finish();
    let load = reports?.pop().ok_or_else(|| Failed::new("the load gave no report"))?;
    if let Some(said) = &load.first_refusal {
        return Err(Failed::new(format!("{} writes were refused: {said}", load.refused)));
    }
    Ok(PressureReport::new(load, &raw, backlog))
}

/// Latency of raw writes until `ends` is set, microseconds: each as a log would make it, by the kind that was faster.
fn raw_writes(probe: &mut Probe, ends: &AtomicBool) -> Result<Vec<f64>, Failed> {
    let mut raw = Vec::new();
    while !ends.load(Ordering::Relaxed) {
        let (by_dsync, by_fdatasync) = probe.writes(1)?;
        raw.extend(by_dsync.iter().zip(&by_fdatasync).map(|(dsync, fdatasync)| dsync.min(*fdatasync)));
        pause(PROBE_EVERY);
    }
    Ok(raw)
}

fn load_options(options: &Options, node: &Node) -> load::Options {
    load::Options {
        protocol: Protocol::Resp,
        addr: node.resp,
        password: None,
        workload: Workload {
            mix: Mix::C,
            spread: Spread::Uniform,
            records: options.records,
            key_bytes: KEY_BYTES_MIN,
            value_bytes: options.value_bytes,
            scan_records_max: 1,
        },
        connections: options.connections,
        pipeline: options.pipeline,
        rate: None,
        stop: Stop::Operations(0),
        seed: 1,
        server_pids: vec![node.process.pid()],
        progress: true,
    }
}

impl PressureReport {
    fn new(load: LoadReport, raw_us: &[f64], backlog: BacklogReport) -> Self {
        let worst_put_us = load.kinds.iter().map(|kind| kind.latency_us.max).fold(0.0, f64::max);
        Self {
            worst_put_ms: worst_put_us / 1e3,
            raw_writes: raw_us.len(),
            worst_raw_write_ms: raw_us.iter().copied().fold(0.0, f64::max) / 1e3,
            load,
            backlog,
        }
    }

    /// Milliseconds that the worst put may take.
    pub fn put_max_ms(&self) -> f64 {
        self.worst_raw_write_ms + LATE_MAX.as_secs_f64() * 1e3
    }

    /// Whether no put was later than the disk explains.
    pub fn passed(&self) -> bool {
        self.raw_writes > 0 && self.load.operations > 0 && self.worst_put_ms <= self.put_max_ms()
    }

    /// A table for people.
    pub fn table(&self) -> String {
        format!(
            "{} writes of {} bytes in {:.0} s, {:.0} per second, {} connections, pipeline {}\n{}\
             \x20 worst put        {:>8.1} ms (at most {:.1})\n\
             \x20 worst raw write  {:>8.1} ms of {}\n\
             {}\n",
            self.load.operations,
            self.load.value_bytes,
            self.load.elapsed_seconds,
            self.load.operations_per_second,
            self.load.connections,
            self.load.pipeline,
            self.backlog.table(),
            self.worst_put_ms,
            self.put_max_ms(),
            self.worst_raw_write_ms,
            self.raw_writes,
            if self.passed() { "no put was later than the disk explains" } else { "a put was late" }
        )
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;
    use crate::report::KindReport;

    fn report(worst_put_ms: u64, raw_us: &[f64]) -> PressureReport {
        let mut nanos = Histogram::<u64>::new(3).expect("three digits");
        nanos.record(worst_put_ms * 1_000_000).expect("it resizes");
        let load = LoadReport {
            phase: "load".into(),
            protocol: "resp".into(),
            connections: 1,
            pipeline: 1,
            rate_per_second: None,
            records: 1,
            key_bytes: KEY_BYTES_MIN,
            value_bytes: 1,
            operations: 1,
            missing: 0,
            refused: 0,
            first_refusal: None,
            elapsed_seconds: 1.0,
            operations_per_second: 1.0,
            client_cpu_us_per_operation: 1.0,
            server_cpu_us_per_operation: None,
            kinds: vec![KindReport::new("put", &nanos)],
        };
        PressureReport::new(load, raw_us, BacklogReport::default())
    }

    #[test]
    fn the_worst_put_is_judged_by_the_slowest_raw_write_of_the_run() {
        assert!(report(200, &[1_000.0]).passed());
        let late = report(300, &[1_000.0, 9_000.0]);
        assert!(!late.passed() && late.table().contains("a put was late"), "{}", late.table());
        assert!(report(300, &[1_000.0, 90_000.0]).passed(), "the disk was as slow");
        assert!(!report(1, &[]).passed(), "nothing to judge it by");
    }
}
