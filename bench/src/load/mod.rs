//! Drives a live server: connections on one core, each with some requests in flight.
//!
//! * **Closed loop**: a connection sends the next request when an answer makes room. Latency is from sending.
//! * **Open loop**: requests are due at a fixed rate whether or not earlier ones were answered. Latency is from the moment a
//!   request was *due*, so a server that stalls is charged for every request that waited meanwhile (what is otherwise lost to
//!   "coordinated omission").

mod gaps;
mod pace;
mod source;
mod worker;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::rt::{Mono, Rt, native as world};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::Failed;
use crate::client::{Connection, Protocol};
use crate::process::cpu_time;
use crate::report::{KindReport, LoadReport};
use crate::workload::{KEY_BYTES_MIN, Kind, Mix, Spread, Workload};
pub use gaps::{Gap, Gaps, Range, RunHandle};
use pace::Pace;
use source::Source;
use worker::Worker;

/// What to run against whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// The protocol.
    pub protocol: Protocol,
    /// The server: its RESP port, its PD port for TiKV, or where an etcd member serves clients.
    pub addr: SocketAddr,
    /// The RESP password.
    pub password: Option<String>,
    /// The workload.
    pub workload: Workload,
    /// Connections, at least 1.
    pub connections: usize,
    /// Requests in flight per connection, at least 1.
    pub pipeline: usize,
    /// Requests per second in all, for an open loop.
    pub rate: Option<f64>,
    /// When the run phase ends.
    pub stop: Stop,
    /// Seed of the operations.
    pub seed: u64,
    /// The server's processes, if they run here, for their CPU time.
    pub server_pids: Vec<u32>,
    /// Whether to show a progress bar, if standard error is a terminal.
    pub progress: bool,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After this many operations.
    Operations(u64),
    /// After this time.
    After(Duration),
}

/// Which phases to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phases {
    /// Only write the records.
    Load,
    /// Only run the mix over records that are there.
    Run,
    /// Both, one after the other.
    Both,
}

/// Runs the phases on a core of their own and returns a report for each.
///
/// # Errors
/// The server cannot be reached or a connection is lost.
pub fn run(options: &Options, phases: Phases) -> Result<Vec<LoadReport>, Failed> {
    run_with(options, phases, &RunHandle::default())
}

/// The same, for whoever wants to end it or to see its acknowledgements meanwhile.
///
/// # Errors
/// As for [`run`].
pub fn run_with(options: &Options, phases: Phases, handle: &RunHandle) -> Result<Vec<LoadReport>, Failed> {
    let (options, handle) = (options.clone(), handle.clone());
    world::start_core(&engine::rt::CoreOptions::default(), move |rt| async move {
        let mut reports = Vec::new();
        if phases != Phases::Run {
            let source = Source::fill(&options, &handle);
            reports.push(Box::pin(phase(&rt, &options, source, &handle)).await?);
        }
        if phases != Phases::Load {
            let source = Source::mix(&options, &handle);
            reports.push(Box::pin(phase(&rt, &options, source, &handle)).await?);
        }
        Ok(reports)
    })?
}

/// Writes records over RESP until keys and values come to `bytes`, at least one record, and returns the bytes written.
///
/// # Errors
/// The server cannot be reached, a connection is lost, or a write is refused.
pub fn fill(addr: SocketAddr, bytes: u64, value_bytes: usize) -> Result<u64, Failed> {
    let each = (value_bytes + KEY_BYTES_MIN) as u64;
    let records = (bytes / each).max(1);
    let options = Options {
        protocol: Protocol::Resp,
        addr,
        password: None,
        workload: Workload {
            mix: Mix::C,
            spread: Spread::Uniform,
            records,
            key_bytes: KEY_BYTES_MIN,
            value_bytes,
            scan_records_max: 1,
        },
        connections: 32,
        pipeline: 16,
        rate: None,
        stop: Stop::Operations(0),
        seed: 1,
        server_pids: Vec::new(),
        progress: true,
    };
    let reports = run(&options, Phases::Load)?;
    match reports.first().and_then(|report| report.first_refusal.as_deref()) {
        Some(said) => Err(Failed::new(format!("{addr} refused a write while it was filled: {said}"))),
        None => Ok(records * each),
    }
}

/// What all connections of a phase share.
#[derive(Debug)]
struct Shared {
    source: Source,
    began: Mono,
    latency: BTreeMap<Kind, Histogram<u64>>,
    done: u64,
    missing: u64,
    refused: u64,
    first_refusal: Option<String>,
    gaps: Arc<Gaps>,
    bar: ProgressBar,
}

async fn phase(rt: &Rt, options: &Options, source: Source, handle: &RunHandle) -> Result<LoadReport, Failed> {
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        let password = options.password.as_deref();
        connections.push(Connection::open(rt, options.protocol, options.addr, password).await?);
    }
    let bar = progress_bar(options, &source);
    let name = source.name.clone();
    let server_before = cpu_times(&options.server_pids)?;
    let client_before = cpu_time(std::process::id())?;
    let began = rt.now();
    let shared = Rc::new(RefCell::new(Shared {
        source,
        began,
        latency: BTreeMap::new(),
        done: 0,
        missing: 0,
        refused: 0,
        first_refusal: None,
        gaps: handle.gaps.clone(),
        bar,
    }));
    let workers: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(lane, connection)| {
            let pace = Pace::new(options, began, lane);
            let worker = Worker::new(rt, connection, shared.clone(), pace, options.pipeline);
            rt.spawn(Box::pin(worker.run()))
        })
        .collect();
    for worker in workers {
        worker.await?;
    }
    let elapsed = rt.now().since(began);
    let client_cpu = cpu_time(std::process::id())?.saturating_sub(client_before);
    let server_cpu = cpu_times(&options.server_pids)?
        .zip(server_before)
        .map(|(after, before)| after.saturating_sub(before));
    let shared = Rc::into_inner(shared).expect("every worker has ended").into_inner();
    shared.bar.finish_and_clear();
    Ok(report(options, &name, &shared, elapsed, client_cpu, server_cpu))
}

/// CPU time of all of them, absent if there are none.
fn cpu_times(pids: &[u32]) -> Result<Option<Duration>, Failed> {
    if pids.is_empty() {
        return Ok(None);
    }
    pids.iter().map(|pid| cpu_time(*pid)).sum::<Result<Duration, Failed>>().map(Some)
}

fn progress_bar(options: &Options, source: &Source) -> ProgressBar {
    if !options.progress {
        return ProgressBar::hidden();
    }
    let length = source.until.map_or(source.left, |until| until.as_millis() as u64);
    let unit = if source.until.is_some() { "{elapsed}" } else { "{human_pos}/{human_len}" };
    let template = format!("{{prefix}} [{{wide_bar}}] {unit} {{msg}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_prefix(source.name.clone())
}

fn report(
    options: &Options,
    phase: &str,
    shared: &Shared,
    elapsed: Duration,
    client_cpu: Duration,
    server_cpu: Option<Duration>,
) -> LoadReport {
    let per_operation = |cpu: Duration| cpu.as_secs_f64() * 1e6 / shared.done.max(1) as f64;
    LoadReport {
        phase: phase.to_owned(),
        protocol: options.protocol.name().to_owned(),
        connections: options.connections,
        pipeline: options.pipeline,
        rate_per_second: options.rate,
        records: options.workload.records,
        key_bytes: options.workload.key_bytes,
        value_bytes: options.workload.value_bytes,
        operations: shared.done,
        missing: shared.missing,
        refused: shared.refused,
        first_refusal: shared.first_refusal.clone(),
        elapsed_seconds: elapsed.as_secs_f64(),
        operations_per_second: shared.done as f64 / elapsed.as_secs_f64(),
        client_cpu_us_per_operation: per_operation(client_cpu),
        server_cpu_us_per_operation: server_cpu.map(per_operation),
        kinds: Kind::ALL
            .iter()
            .filter_map(|kind| Some(KindReport::new(kind.name(), shared.latency.get(kind)?)))
            .collect(),
    }
}

fn show_progress(shared: &Shared, now: Mono) {
    let elapsed = now.since(shared.began);
    let position = if shared.source.until.is_some() { elapsed.as_millis() as u64 } else { shared.done };
    shared.bar.set_position(position);
    shared.bar.set_message(format!("{:.0} op/s", shared.done as f64 / elapsed.as_secs_f64()));
}

/// Nanoseconds up to ten minutes, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are constants in range")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{KEY_BYTES_MIN, Mix, Spread};

    /// Options for a server that is not there.
    pub(super) fn options(connections: usize, rate: Option<f64>) -> Options {
        let (spread, key_bytes) = (Spread::Published, KEY_BYTES_MIN);
        let workload =
            Workload { mix: Mix::A, spread, records: 10, key_bytes, value_bytes: 8, scan_records_max: 10 };
        Options {
            protocol: Protocol::Resp,
            addr: "127.0.0.1:1".parse().expect("an address"),
            password: None,
            workload,
            connections,
            pipeline: 1,
            rate,
            stop: Stop::Operations(5),
            seed: 1,
            server_pids: Vec::new(),
            progress: false,
        }
    }
}
