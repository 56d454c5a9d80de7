//! The same load on an etcd cluster and on a ringkeep cluster of as many nodes, in turn.
//!
//! Both are as durable as they are by default: an acknowledged put is on the disks of a majority, a read is linearizable. The
//! clients are the same code in the same process. etcd's connect to its leader, where its writes are cheapest; ringkeep's follow the
//! map of regions. What is reported are medians over rounds, their ratios, and the CPU time of all servers of a cluster per
//! operation.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::Failed;
use crate::client::Protocol;
use crate::disk::{self, DiskReport};
use crate::load::{self, Phases, Stop};
use crate::process::{Cluster, Etcd, NodeOptions};
use crate::report::{median, table};
use crate::workload::{KEY_BYTES_MIN, Mix, Spread, Workload};

/// What to compare.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start a node; further nodes and etcd get directories beside its data.
    pub node: NodeOptions,
    /// Where both keep their data, for the limits.
    pub directory: PathBuf,
    /// Members of each cluster, at least 1.
    pub members: usize,
    /// Rounds, at least 1.
    pub rounds: usize,
    /// Length of each run.
    pub each: Duration,
    /// Numbers of clients, each with one request in flight on a connection of its own.
    pub clients: Vec<usize>,
    /// Records that both hold.
    pub records: u64,
    /// Length of a value, bytes.
    pub value_bytes: usize,
}

/// What one cluster did in one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    /// Throughput.
    pub operations_per_second: f64,
    /// Median latency as the clients saw it.
    pub p50_us: f64,
    /// 99th percentile of latency.
    pub p99_us: f64,
    /// CPU time of all servers of the cluster.
    pub server_cpu_us_per_operation: f64,
}

/// Both clusters under one load.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `get` or `put`.
    pub kind: String,
    /// Clients.
    pub clients: usize,
    /// Every run of etcd.
    pub etcd: Vec<Run>,
    /// Every run of ringkeep.
    pub ringkeep: Vec<Run>,
    /// Throughput of ringkeep over that of etcd, medians.
    pub throughput_ratio: f64,
    /// Median latency of ringkeep over that of etcd, medians.
    pub p50_ratio: f64,
    /// 99th percentile of ringkeep over that of etcd, medians.
    pub p99_ratio: f64,
}

/// The whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct EtcdReport {
    /// What etcd calls itself.
    pub etcd_version: String,
    /// Members of each cluster.
    pub members: usize,
    /// Length of a value, bytes.
    pub value_bytes: usize,
    /// Rows in the order they were run.
    pub rows: Vec<Row>,
    /// The limits, measured before the first round.
    pub limits: DiskReport,
}

/// One of the two.
#[derive(Clone, Debug)]
struct Side {
    protocol: Protocol,
    addr: std::net::SocketAddr,
    pids: Vec<u32>,
}

/// Compares, and passes a line to `say` before each step.
///
/// # Errors
/// etcd is missing, a server fails, or a request is refused.
pub fn compare(options: &Options, say: &mut dyn FnMut(&str)) -> Result<EtcdReport, Failed> {
    let etcd_version = version()?;
    say("measuring the limits of this machine");
    let limits = disk::measure(&options.directory, Duration::from_secs(1))?;
    say(&format!("starting {} members of etcd and {} nodes", options.members, options.members));
    let mut etcd = Etcd::start(&options.directory.join("etcd"), options.members)?;
    let nodes = Cluster::start(&options.node, options.members)?;
    let etcd_side = Side {
        protocol: Protocol::Etcd,
        addr: etcd.leader()?,
        pids: etcd.members.iter().map(crate::process::Process::pid).collect(),
    };
    let ringkeep_side = Side { protocol: Protocol::Tikv, addr: nodes.pd(), pids: nodes.pids() };
    for side in [&etcd_side, &ringkeep_side] {
        say(&format!("loading {} records over {}", options.records, side.protocol.name()));
        load::run(&load_options(options, side, 64, Mix::Update, 0), Phases::Load)?;
    }
    let mut rows: Vec<Row> = options
        .clients
        .iter()
        .flat_map(|clients| ["put", "get"].map(|kind| Row::new(kind, *clients)))
        .collect();
    for round in 0..options.rounds {
        for row in &mut rows {
            say(&format!("round {} of {}: {}, {} clients", round + 1, options.rounds, row.kind, row.clients));
            // Whoever goes second finds the disk warmer, so they take turns.
            let mut order = [&etcd_side, &ringkeep_side];
            if round % 2 == 1 {
                order.reverse();
            }
            let mix = if row.kind == "put" { Mix::Update } else { Mix::C };
            for side in order {
                let run = one(&load_options(options, side, row.clients, mix, round as u64 + 1))?;
                match side.protocol {
                    Protocol::Etcd => row.etcd.push(run),
                    Protocol::Tikv | Protocol::Resp => row.ringkeep.push(run),
                }
            }
        }
    }
    rows.iter_mut().for_each(Row::conclude);
    let (members, value_bytes) = (options.members, options.value_bytes);
    Ok(EtcdReport { etcd_version, members, value_bytes, rows, limits })
}

fn version() -> Result<String, Failed> {
    let output = Command::new("etcd")
        .arg("--version")
        .output()
        .map_err(|error| Failed::new(format!("etcd: {error}; on Debian: apt-get install etcd-server")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or("etcd of an unknown version").trim().to_owned())
}

fn load_options(options: &Options, side: &Side, clients: usize, mix: Mix, seed: u64) -> load::Options {
    load::Options {
        protocol: side.protocol,
        addr: side.addr,
        password: None,
        workload: Workload {
            mix,
            spread: Spread::Uniform,
            records: options.records,
            key_bytes: KEY_BYTES_MIN,
            value_bytes: options.value_bytes,
            scan_records_max: 1,
        },
        connections: clients,
        pipeline: 1,
        rate: None,
        stop: Stop::After(options.each),
        seed,
        server_pids: side.pids.clone(),
        progress: false,
    }
}

fn one(options: &load::Options) -> Result<Run, Failed> {
    let report =
        load::run(options, Phases::Run)?.pop().ok_or_else(|| Failed::new("the run gave no report"))?;
    if let Some(said) = report.first_refusal {
        return Err(Failed::new(format!(
            "{} of {} requests over {} were refused: {said}",
            report.refused, report.operations, report.protocol
        )));
    }
    let latency = report.kinds.first().ok_or_else(|| Failed::new("the run did nothing"))?.latency_us;
    let server_cpu_us_per_operation = report
        .server_cpu_us_per_operation
        .ok_or_else(|| Failed::new("the CPU time of the servers is not known"))?;
    Ok(Run {
        operations_per_second: report.operations_per_second,
        p50_us: latency.p50,
        p99_us: latency.p99,
        server_cpu_us_per_operation,
    })
}

impl Row {
    fn new(kind: &str, clients: usize) -> Self {
        Self {
            kind: kind.to_owned(),
            clients,
            etcd: Vec::new(),
            ringkeep: Vec::new(),
            throughput_ratio: 0.0,
            p50_ratio: 0.0,
            p99_ratio: 0.0,
        }
    }

    fn conclude(&mut self) {
        let ratio = |of: fn(&Run) -> f64| {
            let under = middle(&self.etcd, of);
            if under > 0.0 { middle(&self.ringkeep, of) / under } else { 0.0 }
        };
        (self.throughput_ratio, self.p50_ratio, self.p99_ratio) =
            (ratio(|run| run.operations_per_second), ratio(|run| run.p50_us), ratio(|run| run.p99_us));
    }
}

fn middle(runs: &[Run], of: fn(&Run) -> f64) -> f64 {
    median(&runs.iter().map(of).collect::<Vec<_>>())
}

impl EtcdReport {
    /// A table for people.
    pub fn table(&self) -> String {
        let head = [
            "",
            "etcd op/s",
            "cpu us",
            "p50 us",
            "p99",
            "ringkeep op/s",
            "cpu us",
            "p50 us",
            "p99",
            "op/s ratio",
            "p50",
            "p99",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        for row in &self.rows {
            let cells = |runs: &[Run]| {
                [
                    format!("{:.0}", middle(runs, |run| run.operations_per_second)),
                    format!("{:.1}", middle(runs, |run| run.server_cpu_us_per_operation)),
                    format!("{:.0}", middle(runs, |run| run.p50_us)),
                    format!("{:.0}", middle(runs, |run| run.p99_us)),
                ]
            };
            let ([a, b, c, d], [e, f, g, h]) = (cells(&row.etcd), cells(&row.ringkeep));
            let [rate, p50, p99] =
                [row.throughput_ratio, row.p50_ratio, row.p99_ratio].map(|ratio| format!("{ratio:.2}"));
            rows.push([format!("{} c{}", row.kind, row.clients), a, b, c, d, e, f, g, h, rate, p50, p99]);
        }
        let rounds = self.rows.first().map_or(0, |row| row.etcd.len());
        format!(
            "{} members each, values of {} bytes, one request in flight per client, medians of {rounds} interleaved rounds; \
             CPU is that of all servers\n{}\n{}\n{}",
            self.members,
            self.value_bytes,
            self.etcd_version,
            table(&rows),
            self.limits.table()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians() {
        let run = |rate: f64, p50_us: f64| Run {
            operations_per_second: rate,
            p50_us,
            p99_us: 2.0 * p50_us,
            server_cpu_us_per_operation: 9.0,
        };
        let mut row = Row::new("put", 64);
        row.etcd = vec![run(10.0, 100.0), run(20.0, 200.0), run(900.0, 300.0)];
        row.ringkeep = vec![run(60.0, 50.0), run(60.0, 50.0), run(1.0, 50.0)];
        row.conclude();
        assert_eq!((row.throughput_ratio, row.p50_ratio, row.p99_ratio), (3.0, 0.25, 0.25));
    }
}
