//! `redis-benchmark`, unmodified, against one server: the shapes of load, and what one run of one shape showed.
//!
//! What is compared are servers, so the client is one that neither of them has written.

use std::net::SocketAddr;
use std::process::Command;

use serde::Serialize;

use crate::Failed;
use crate::process::Process;
use crate::report::median;

/// Which load a comparison visits.
#[derive(Clone, Debug)]
pub struct Shapes {
    /// Requests of a run without pipelining; pipelined runs make as many round trips, or they would be over too soon.
    pub requests: u64,
    /// Length of a value, bytes.
    pub value_bytes: usize,
    /// Numbers of connections.
    pub connections: Vec<usize>,
    /// Requests in flight per connection.
    pub pipelines: Vec<usize>,
    /// Sizes of the key space; 0 is `redis-benchmark`'s single key.
    pub keyspaces: Vec<u64>,
}

/// One shape of load.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Shape {
    /// SET or GET.
    pub command: String,
    /// Connections.
    pub connections: usize,
    /// Requests in flight per connection.
    pub pipeline: usize,
    /// Keys drawn from; 0 is a single key.
    pub keyspace: u64,
}

/// What one server did in one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    /// Throughput.
    pub operations_per_second: f64,
    /// Median latency as `redis-benchmark` saw it.
    pub p50_ms: f64,
    /// 99th percentile of latency.
    pub p99_ms: f64,
    /// CPU time of the server.
    pub server_cpu_us_per_operation: f64,
}

/// A number of a run.
pub(super) type Number = fn(&Run) -> f64;

pub(super) const THROUGHPUT: Number = |run| run.operations_per_second;
pub(super) const CPU: Number = |run| run.server_cpu_us_per_operation;
pub(super) const P50: Number = |run| run.p50_ms;
pub(super) const P99: Number = |run| run.p99_ms;

/// The median of a number over runs.
pub(super) fn middle(runs: &[Run], of: Number) -> f64 {
    median(&runs.iter().map(of).collect::<Vec<_>>())
}

/// `over / under`, or 0 if there is nothing below the line.
pub(super) fn ratio(over: f64, under: f64) -> f64 {
    if under > 0.0 { over / under } else { 0.0 }
}

impl Shapes {
    /// Each shape once: writes before reads, so that reads find something.
    pub(super) fn all(&self) -> Vec<Shape> {
        let mut shapes = Vec::new();
        for &keyspace in &self.keyspaces {
            for &pipeline in &self.pipelines {
                for &connections in &self.connections {
                    for command in ["SET", "GET"] {
                        shapes.push(Shape { command: command.into(), connections, pipeline, keyspace });
                    }
                }
            }
        }
        shapes
    }

    /// Runs one of them against `server`, which serves at `addr`.
    ///
    /// # Errors
    /// `redis-benchmark` is missing, or the server does not answer it.
    pub(super) fn run(&self, shape: &Shape, addr: SocketAddr, server: &Process) -> Result<Run, Failed> {
        let requests = self.requests * shape.pipeline as u64;
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string(), "--csv"]);
        command.args(["-t", &shape.command.to_lowercase(), "-n", &requests.to_string()]);
        command.args(["-c", &shape.connections.to_string(), "-P", &shape.pipeline.to_string()]);
        command.args(["-d", &self.value_bytes.to_string()]);
        if shape.keyspace > 0 {
            command.args(["-r", &shape.keyspace.to_string()]);
        }
        let before = server.cpu_time()?;
        let output = command.output()?;
        let cpu = server.cpu_time()?.saturating_sub(before);
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers = csv_row(&text, &shape.command).ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            Failed::new(format!("redis-benchmark against {addr} said: {} {}", text.trim(), errors.trim()))
        })?;
        Ok(Run {
            operations_per_second: numbers[0],
            p50_ms: numbers[3],
            p99_ms: numbers[5],
            server_cpu_us_per_operation: cpu.as_secs_f64() * 1e6 / requests as f64,
        })
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, connections, pipeline, keyspace } = self;
        write!(f, "{command} c{connections} P{pipeline} r{keyspace}")
    }
}

/// What a program calls itself.
///
/// # Errors
/// It is not installed.
pub(super) fn version(program: &str) -> Result<String, Failed> {
    let output = Command::new(program).arg("--version").output().map_err(|error| {
        Failed::new(format!("{program}: {error}; on Debian: apt-get install redis-server redis-tools"))
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The numbers of the row of `command`: rps, then average, minimum, p50, p95, p99 and maximum latency in ms.
fn csv_row(text: &str, command: &str) -> Option<[f64; 7]> {
    let row = text.lines().find(|line| line.starts_with(&format!("\"{command}\"")))?;
    let cells: Vec<f64> =
        row.split(',').skip(1).map(|cell| cell.trim_matches('"').parse()).collect::<Result<_, _>>().ok()?;
    cells.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_benchmark_rows_are_read() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"SET\",\"33333.33\",\"1.5\",\"0.2\",\"1.4\",\"2.0\",\"3.1\",\"9.9\"\n";
        assert_eq!(csv_row(text, "SET"), Some([33333.33, 1.5, 0.2, 1.4, 2.0, 3.1, 9.9]));
        assert_eq!(csv_row(text, "GET"), None);
        assert_eq!(csv_row("", "SET"), None);
    }

    #[test]
    fn every_shape_is_visited_once_and_written_before_it_is_read() {
        let shapes = Shapes {
            requests: 1,
            value_bytes: 1,
            connections: vec![1, 2],
            pipelines: vec![1],
            keyspaces: vec![0, 9],
        };
        let names: Vec<String> = shapes.all().iter().map(Shape::to_string).collect();
        let expected = ["SET c1 P1 r0", "GET c1 P1 r0", "SET c2 P1 r0", "GET c2 P1 r0", "SET c1 P1 r9"];
        assert_eq!(names[..5], expected);
        assert_eq!(names.len(), 8);
    }
}
