//! The same load on Redis and on ringkeep, in turn: `redis-benchmark`, unmodified, against both.
//!
//! Redis runs with `appendfsync always`, so that both promise the same: an answer means that the write is on the disk. A
//! round visits every shape of load and both servers, so that a machine that drifts drifts under both; what is reported are
//! medians over rounds and their ratios, with the CPU time that the server spent per operation.

use std::path::PathBuf;

use serde::Serialize;

use super::driver::{CPU, P50, P99, Run, Shape, Shapes, THROUGHPUT, middle, ratio, version};
use crate::Failed;
use crate::disk::{self, DiskReport};
use crate::process::{Node, NodeOptions, Redis};
use crate::report::table;

/// What to compare.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start ringkeep; Redis gets a directory beside its data.
    pub node: NodeOptions,
    /// Where both keep their data, for the limits.
    pub directory: PathBuf,
    /// Rounds, at least 1.
    pub rounds: usize,
    /// The load.
    pub shapes: Shapes,
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
    let mut rows: Vec<Row> = options.shapes.all().into_iter().map(Row::new).collect();
    for round in 0..options.rounds {
        for row in &mut rows {
            say(&format!("round {} of {}: {}", round + 1, options.rounds, row.shape));
            // Whoever goes second finds the disk warmer, so they take turns.
            let redis_first = round % 2 == 0;
            if redis_first {
                row.redis.push(options.shapes.run(&row.shape, redis.addr, &redis.process)?);
            }
            row.ringkeep.push(options.shapes.run(&row.shape, node.resp, &node.process)?);
            if !redis_first {
                row.redis.push(options.shapes.run(&row.shape, redis.addr, &redis.process)?);
            }
        }
    }
    rows.iter_mut().for_each(Row::conclude);
    let (stores, value_bytes) = (node.stores, options.shapes.value_bytes);
    Ok(RedisReport { redis_version, stores, value_bytes, rows, limits })
}

impl Row {
    fn new(shape: Shape) -> Self {
        Self { shape, redis: Vec::new(), ringkeep: Vec::new(), throughput_ratio: 0.0, per_core_ratio: 0.0 }
    }

    fn conclude(&mut self) {
        self.throughput_ratio = ratio(middle(&self.ringkeep, THROUGHPUT), middle(&self.redis, THROUGHPUT));
        self.per_core_ratio = ratio(middle(&self.redis, CPU), middle(&self.ringkeep, CPU));
    }
}

impl RedisReport {
    /// A table for people.
    pub fn table(&self) -> String {
        let head = ["", "redis op/s", "cpu us", "p50 ms", "p99", "ringkeep op/s", "cpu us", "p50 ms", "p99"];
        let mut rows = vec![[&head[..], &["op/s ratio", "per-core ratio"]].concat()];
        let mut cells: Vec<Vec<String>> =
            rows.drain(..).map(|row| row.into_iter().map(String::from).collect()).collect();
        for row in &self.rows {
            let mut line = vec![row.shape.to_string()];
            for runs in [&row.redis, &row.ringkeep] {
                line.push(format!("{:.0}", middle(runs, THROUGHPUT)));
                line.push(format!("{:.1}", middle(runs, CPU)));
                line.push(format!("{:.2}", middle(runs, P50)));
                line.push(format!("{:.2}", middle(runs, P99)));
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
