//! The same load on Redis and on ringkeep, in turn: `redis-benchmark`, unmodified, against both.
//!
//! Redis runs with `appendfsync always`, so that both promise the same: an answer means that the write is on the disk. A
//! round visits every shape of load and both servers, so that a machine that drifts drifts under both; what is reported are
//! medians over rounds and their ratios, with the CPU time that the server spent per operation.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde::Serialize;

use crate::Failed;
use crate::disk::{self, DiskReport};
use crate::process::{Node, NodeOptions, Process, Redis};
use crate::report::{median, table};

/// What to compare.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start ringkeep; Redis gets a directory beside its data.
    pub node: NodeOptions,
    /// Where both keep their data, for the limits.
    pub directory: PathBuf,
    /// Rounds, at least 1.
    pub rounds: usize,
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

/// Both servers under one shape of load.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The load.
    pub shape: Shape,
    /// Every run of Redis.
    pub redis: Vec<Run>,
    /// Every run of ringkeep.
    pub ringkeep: Vec<Run>,
    /// Throughput of ringkeep over that of Redis, medians.
    pub throughput_ratio: f64,
    /// Operations per CPU second of ringkeep over those of Redis, medians: the ratio per core used.
    pub per_core_ratio: f64,
}

/// The whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct RedisReport {
    /// What Redis calls itself.
    pub redis_version: String,
    /// Stores of the node.
    pub stores: usize,
    /// Length of a value, bytes.
    pub value_bytes: usize,
    /// Rows in the order they were run.
    pub rows: Vec<Row>,
    /// The limits, measured before the first round.
    pub limits: DiskReport,
}

/// Compares. `say` is called with what is being done.
///
/// # Errors
/// A server or `redis-benchmark` is missing or fails.
pub fn compare(options: &Options, say: &mut dyn FnMut(&str)) -> Result<RedisReport, Failed> {
    let redis_version = version("redis-server")?;
    version("redis-benchmark")?;
    say("measuring the limits of this machine");
    let limits = disk::measure(&options.directory, std::time::Duration::from_secs(1))?;
    let redis = Redis::start(&options.directory.join("redis"))?;
    let node = Node::start(&options.node)?;
    let mut rows: Vec<Row> = shapes(options).into_iter().map(Row::new).collect();
    for round in 0..options.rounds.max(1) {
        for row in &mut rows {
            let Shape { command, connections, pipeline, keyspace } = &row.shape;
            say(&format!(
                "round {} of {}: {command}, {connections} connections, pipeline {pipeline}, keyspace {keyspace}",
                round + 1,
                options.rounds
            ));
            // Whoever goes second finds the disk warmer, so they take turns.
            let redis_first = round % 2 == 0;
            if redis_first {
                row.redis.push(benchmark(options, &row.shape, redis.addr, &redis.process)?);
            }
            row.ringkeep.push(benchmark(options, &row.shape, node.resp, &node.process)?);
            if !redis_first {
                row.redis.push(benchmark(options, &row.shape, redis.addr, &redis.process)?);
            }
        }
    }
    rows.iter_mut().for_each(Row::conclude);
    let (stores, value_bytes) = (node.stores, options.value_bytes);
    Ok(RedisReport { redis_version, stores, value_bytes, rows, limits })
}

/// Writes before reads, so that reads find something.
fn shapes(options: &Options) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for &keyspace in &options.keyspaces {
        for &pipeline in &options.pipelines {
            for &connections in &options.connections {
                for command in ["SET", "GET"] {
                    shapes.push(Shape { command: command.into(), connections, pipeline, keyspace });
                }
            }
        }
    }
    shapes
}

fn version(program: &str) -> Result<String, Failed> {
    let output = Command::new(program).arg("--version").output().map_err(|error| {
        Failed::new(format!("{program}: {error}; on Debian: apt-get install redis-server redis-tools"))
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn benchmark(options: &Options, shape: &Shape, addr: SocketAddr, server: &Process) -> Result<Run, Failed> {
    let requests = options.requests * shape.pipeline as u64;
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string(), "--csv"]);
    command.args(["-t", &shape.command.to_lowercase(), "-n", &requests.to_string()]);
    command.args(["-c", &shape.connections.to_string(), "-P", &shape.pipeline.to_string()]);
    command.args(["-d", &options.value_bytes.to_string()]);
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

/// The numbers of the row of `command`: rps, then average, minimum, p50, p95, p99 and maximum latency in ms.
fn csv_row(text: &str, command: &str) -> Option<[f64; 7]> {
    let row = text.lines().find(|line| line.starts_with(&format!("\"{command}\"")))?;
    let cells: Vec<f64> =
        row.split(',').skip(1).map(|cell| cell.trim_matches('"').parse()).collect::<Result<_, _>>().ok()?;
    cells.try_into().ok()
}

impl Row {
    fn new(shape: Shape) -> Self {
        Self { shape, redis: Vec::new(), ringkeep: Vec::new(), throughput_ratio: 0.0, per_core_ratio: 0.0 }
    }

    fn conclude(&mut self) {
        let ratio = |over: f64, under: f64| if under > 0.0 { over / under } else { 0.0 };
        self.throughput_ratio = ratio(middle(&self.ringkeep, throughput), middle(&self.redis, throughput));
        self.per_core_ratio = ratio(middle(&self.redis, cpu), middle(&self.ringkeep, cpu));
    }
}

fn throughput(run: &Run) -> f64 {
    run.operations_per_second
}

fn cpu(run: &Run) -> f64 {
    run.server_cpu_us_per_operation
}

fn middle(runs: &[Run], of: fn(&Run) -> f64) -> f64 {
    median(&runs.iter().map(of).collect::<Vec<_>>())
}

impl RedisReport {
    /// A table for people.
    pub fn table(&self) -> String {
        let head = ["", "redis op/s", "cpu us", "p50 ms", "p99", "ringkeep op/s", "cpu us", "p50 ms", "p99"];
        let mut rows = vec![[&head[..], &["op/s ratio", "per-core ratio"]].concat()];
        let mut cells: Vec<Vec<String>> =
            rows.drain(..).map(|row| row.into_iter().map(String::from).collect()).collect();
        for row in &self.rows {
            let Shape { command, connections, pipeline, keyspace } = &row.shape;
            let mut line = vec![format!("{command} c{connections} P{pipeline} r{keyspace}")];
            for runs in [&row.redis, &row.ringkeep] {
                line.push(format!("{:.0}", middle(runs, throughput)));
                line.push(format!("{:.1}", middle(runs, cpu)));
                line.push(format!("{:.2}", middle(runs, |run| run.p50_ms)));
                line.push(format!("{:.2}", middle(runs, |run| run.p99_ms)));
            }
            line.push(format!("{:.2}", row.throughput_ratio));
            line.push(format!("{:.2}", row.per_core_ratio));
            cells.push(line);
        }
        let rows: Vec<[String; 11]> = cells.into_iter().filter_map(|line| line.try_into().ok()).collect();
        let rounds = self.rows.first().map_or(0, |row| row.redis.len());
        format!(
            "redis-benchmark, values of {} bytes, medians of {rounds} interleaved rounds, {} stores\n{}, appendfsync always\n{}\n{}",
            self.value_bytes,
            self.stores,
            self.redis_version,
            table(&rows),
            self.limits.table()
        )
    }
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
    fn ratios_are_of_medians() {
        let run = |rate: f64, cpu: f64| Run {
            operations_per_second: rate,
            p50_ms: 1.0,
            p99_ms: 2.0,
            server_cpu_us_per_operation: cpu,
        };
        let mut row = Row::new(Shape { command: "SET".into(), connections: 1, pipeline: 1, keyspace: 0 });
        row.redis = vec![run(10.0, 20.0), run(20.0, 20.0), run(900.0, 20.0)];
        row.ringkeep = vec![run(30.0, 10.0), run(30.0, 10.0), run(1.0, 10.0)];
        row.conclude();
        assert_eq!(row.throughput_ratio, 1.5);
        assert_eq!(row.per_core_ratio, 2.0);
    }
}
