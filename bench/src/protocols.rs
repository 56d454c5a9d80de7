//! What a request costs the server over gRPC and over RESP: the same keys, values and connections, in turn, in one run.
//!
//! A closed loop with one request in flight per connection, so that every request pays for a turn of its own. What is reported are
//! medians over rounds of the CPU time (user and system) of the server's process per request.

use serde::Serialize;

use crate::Failed;
use crate::client::Protocol;
use crate::load::{self, Phases, Stop};
use crate::process::{Node, NodeOptions};
use crate::report::{median, table};
use crate::workload::{KEY_BYTES_MIN, Mix, Spread, Workload};

/// The most that a get over gRPC may cost at 64 connections, microseconds.
const GET_CPU_MAX_US: f64 = 20.0;
/// The most that a put over gRPC may cost there.
const PUT_CPU_MAX_US: f64 = 25.0;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start the node.
    pub node: NodeOptions,
    /// Rounds, at least 1.
    pub rounds: usize,
    /// Requests of each run.
    pub requests: u64,
    /// Connections.
    pub connections: usize,
    /// Records in the store.
    pub records: u64,
    /// Length of a value, bytes.
    pub value_bytes: usize,
}

/// What one run showed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    /// Throughput.
    pub operations_per_second: f64,
    /// CPU time of the server.
    pub server_cpu_us_per_operation: f64,
}

/// One kind of request over both protocols.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `get` or `put`.
    pub kind: String,
    /// Every run over RESP.
    pub resp: Vec<Run>,
    /// Every run over gRPC, each request a BatchCommands message of one command.
    pub grpc: Vec<Run>,
    /// Median CPU time over RESP.
    pub resp_cpu_us: f64,
    /// Median CPU time over gRPC.
    pub grpc_cpu_us: f64,
    /// The most that it may be.
    pub grpc_cpu_max_us: f64,
}

/// The whole measurement.
#[derive(Clone, Debug, Serialize)]
pub struct ProtocolsReport {
    /// Connections.
    pub connections: usize,
    /// Length of a value, bytes.
    pub value_bytes: usize,
    /// Stores of the node.
    pub stores: usize,
    /// Gets, then puts.
    pub rows: Vec<Row>,
}

/// Measures. `say` is called with what is being done.
///
/// # Errors
/// The node does not start, a connection is lost, or a request is refused.
pub fn measure(options: &Options, say: &mut dyn FnMut(&str)) -> Result<ProtocolsReport, Failed> {
    let node = Node::start(&options.node)?;
    load::run(&load_options(options, &node, Protocol::Resp, Mix::C, 0), Phases::Load)?;
    let mut rows = vec![Row::new("get", GET_CPU_MAX_US), Row::new("put", PUT_CPU_MAX_US)];
    for round in 0..options.rounds {
        say(&format!("round {} of {}", round + 1, options.rounds));
        for (row, mix) in rows.iter_mut().zip([Mix::C, Mix::Update]) {
            let seed = round as u64 + 1;
            let resp = || one(&load_options(options, &node, Protocol::Resp, mix, seed));
            let grpc = || one(&load_options(options, &node, Protocol::Tikv, mix, seed));
            if round % 2 == 0 {
                row.resp.push(resp()?);
                row.grpc.push(grpc()?);
            } else {
                row.grpc.push(grpc()?);
                row.resp.push(resp()?);
            }
        }
    }
    rows.iter_mut().for_each(Row::conclude);
    let (connections, value_bytes) = (options.connections, options.value_bytes);
    Ok(ProtocolsReport { connections, value_bytes, stores: node.stores, rows })
}

fn load_options(options: &Options, node: &Node, protocol: Protocol, mix: Mix, seed: u64) -> load::Options {
    load::Options {
        protocol,
        addr: match protocol {
            Protocol::Resp => node.resp,
            Protocol::Tikv | Protocol::Etcd => node.pd,
        },
        password: None,
        workload: Workload {
            mix,
            spread: Spread::Uniform,
            records: options.records,
            key_bytes: KEY_BYTES_MIN,
            value_bytes: options.value_bytes,
            scan_records_max: 1,
        },
        connections: options.connections,
        pipeline: 1,
        rate: None,
        stop: Stop::Operations(options.requests),
        seed,
        server_pids: vec![node.process.pid()],
        progress: false,
    }
}

fn one(options: &load::Options) -> Result<Run, Failed> {
    let report =
        load::run(options, Phases::Run)?.pop().ok_or_else(|| Failed::new("the run gave no report"))?;
    if let Some(said) = report.first_refusal {
        return Err(Failed::new(format!(
            "{} of {} requests were refused: {said}",
            report.refused, report.operations
        )));
    }
    let server_cpu_us_per_operation =
        report.server_cpu_us_per_operation.ok_or_else(|| Failed::new("the node's CPU time is not known"))?;
    Ok(Run { operations_per_second: report.operations_per_second, server_cpu_us_per_operation })
}

impl Row {
    fn new(kind: &str, grpc_cpu_max_us: f64) -> Self {
        Self {
            kind: kind.to_owned(),
            resp: Vec::new(),
            grpc: Vec::new(),
            resp_cpu_us: 0.0,
            grpc_cpu_us: 0.0,
            grpc_cpu_max_us,
        }
    }

    fn conclude(&mut self) {
        let cpu = |runs: &[Run]| {
            median(&runs.iter().map(|run| run.server_cpu_us_per_operation).collect::<Vec<_>>())
        };
        (self.resp_cpu_us, self.grpc_cpu_us) = (cpu(&self.resp), cpu(&self.grpc));
    }
}

impl ProtocolsReport {
    /// Whether no kind of request costs more over gRPC than it may.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.grpc_cpu_us <= row.grpc_cpu_max_us)
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let head = ["request", "RESP us", "gRPC us", "at most", "gRPC/RESP", "RESP op/s", "gRPC op/s"]
            .map(str::to_owned);
        let rate =
            |runs: &[Run]| median(&runs.iter().map(|run| run.operations_per_second).collect::<Vec<_>>());
        let rows = self.rows.iter().map(|row| {
            [
                row.kind.clone(),
                format!("{:.1}", row.resp_cpu_us),
                format!("{:.1}", row.grpc_cpu_us),
                format!("{:.0}", row.grpc_cpu_max_us),
                format!("{:.2}", row.grpc_cpu_us / row.resp_cpu_us),
                format!("{:.0}", rate(&row.resp)),
                format!("{:.0}", rate(&row.grpc)),
            ]
        });
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        format!(
            "CPU time of the server per request, {} connections, one request in flight each, values of {} bytes, {} stores\n{}",
            self.connections,
            self.value_bytes,
            self.stores,
            table(&rows)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_medians_of_both_protocols() {
        let run = |cpu| Run { operations_per_second: 1000.0, server_cpu_us_per_operation: cpu };
        let mut row = Row::new("get", 12.5);
        row.resp = [8.0, 9.0, 30.0].map(run).to_vec();
        row.grpc = [12.0, 11.0, 90.0].map(run).to_vec();
        row.conclude();
        assert_eq!((row.resp_cpu_us, row.grpc_cpu_us), (9.0, 12.0));
        let mut report = ProtocolsReport { connections: 64, value_bytes: 128, stores: 1, rows: vec![row] };
        assert!(report.passed());
        let text = report.table();
        for part in ["64 connections", "get", "9.0", "12.0", "1.33", "1000"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        report.rows[0].grpc_cpu_max_us = 11.9;
        assert!(!report.passed(), "a get that costs more than it may is a failure");
    }
}
