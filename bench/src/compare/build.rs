//! The same load on two builds of ringkeep, in turn: what a change costs or gains, in one run on one machine.
//!
//! Both nodes have a directory of their own and are asked in turn, so that a machine that drifts drifts under both. Each round starts
//! them anew: a process keeps to a way of working once it has found one (how many writes share a sync), and two processes of one binary
//! may differ by 15 % in CPU and by half in latency for as long as they live. A single shape of load may move by more than a change does,
//! so the verdict is over all of them.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::driver::{CPU, P50, Run, Shape, Shapes, THROUGHPUT, middle, ratio, version};
use crate::Failed;
use crate::process::{Node, NodeOptions};
use crate::report::{median, table};

/// How much worse the median over all shapes may be.
pub const LOSS_MAX: f64 = 0.05;

/// Longer than a node needs to end after a round.
const END_MAX: Duration = Duration::from_secs(60);

/// What to compare.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start this build; the other one gets the same, and a directory beside its data.
    pub node: NodeOptions,
    /// The `ringkeep` binary of the other build.
    pub base: PathBuf,
    /// Where both keep their data.
    pub directory: PathBuf,
    /// Rounds, at least 1.
    pub rounds: usize,
    /// The load.
    pub shapes: Shapes,
}

/// Both builds under one shape of load.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The load.
    pub shape: Shape,
    /// Every run of the other build.
    pub base: Vec<Run>,
    /// Every run of this one.
    pub this: Vec<Run>,
    /// This build's number over the other's, medians over rounds.
    pub ratios: Ratios,
}

/// Numbers of this build over those of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Ratios {
    /// Operations per second.
    pub throughput: f64,
    /// CPU time of the server per operation.
    pub cpu: f64,
    /// Median latency.
    pub p50: f64,
}

/// The whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct BuildReport {
    /// What the other build calls itself.
    pub base_version: String,
    /// Length of a value, bytes.
    pub value_bytes: usize,
    /// Rows in the order they were run.
    pub rows: Vec<Row>,
    /// Medians over all rows.
    pub ratios: Ratios,
}

/// Compares. `say` is called with what is being done.
///
/// # Errors
/// A node does not start, or `redis-benchmark` is missing or fails.
pub fn compare(options: &Options, say: &mut dyn FnMut(&str)) -> Result<BuildReport, Failed> {
    version("redis-benchmark")?;
    let base_version = version(&options.base.display().to_string())?;
    let base_options = NodeOptions {
        binary: options.base.clone(),
        data_dir: options.directory.join("base"),
        log: Some(options.directory.join("base.log")),
        ..options.node.clone()
    };
    let mut rows: Vec<Row> = options.shapes.all().into_iter().map(Row::new).collect();
    for round in 0..options.rounds {
        let (base, this) = (Node::start(&base_options)?, Node::start(&options.node)?);
        for (number, row) in rows.iter_mut().enumerate() {
            say(&format!("round {} of {}: {}", round + 1, options.rounds, row.shape));
            // The second one finds the disk warmer, so they take turns.
            let base_first = (round + number) % 2 == 0;
            if base_first {
                row.base.push(options.shapes.run(&row.shape, base.resp, &base.process)?);
            }
            row.this.push(options.shapes.run(&row.shape, this.resp, &this.process)?);
            if !base_first {
                row.base.push(options.shapes.run(&row.shape, base.resp, &base.process)?);
            }
        }
        base.process.terminate(END_MAX)?;
        this.process.terminate(END_MAX)?;
    }
    Ok(BuildReport::new(base_version, options.shapes.value_bytes, rows))
}

impl Row {
    fn new(shape: Shape) -> Self {
        Self { shape, base: Vec::new(), this: Vec::new(), ratios: Ratios::default() }
    }

    fn conclude(&mut self) {
        let of = |number| ratio(middle(&self.this, number), middle(&self.base, number));
        self.ratios = Ratios { throughput: of(THROUGHPUT), cpu: of(CPU), p50: of(P50) };
    }
}

impl BuildReport {
    fn new(base_version: String, value_bytes: usize, mut rows: Vec<Row>) -> Self {
        rows.iter_mut().for_each(Row::conclude);
        let over =
            |of: fn(&Ratios) -> f64| median(&rows.iter().map(|row| of(&row.ratios)).collect::<Vec<_>>());
        let ratios =
            Ratios { throughput: over(|it| it.throughput), cpu: over(|it| it.cpu), p50: over(|it| it.p50) };
        Self { base_version, value_bytes, rows, ratios }
    }

    /// Whether no median over all shapes is worse by more than [`LOSS_MAX`].
    pub fn passed(&self) -> bool {
        let Ratios { throughput, cpu, p50 } = self.ratios;
        throughput >= 1.0 - LOSS_MAX && cpu <= 1.0 + LOSS_MAX && p50 <= 1.0 + LOSS_MAX
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let head = [
            "",
            "base op/s",
            "this op/s",
            "ratio",
            "base cpu us",
            "this",
            "ratio",
            "base p50 ms",
            "this",
            "ratio",
        ];
        let mut cells = vec![head.map(String::from)];
        for Row { shape, base, this, ratios } in &self.rows {
            let number = |runs, of, digits| format!("{:.digits$}", middle(runs, of));
            cells.push([
                shape.to_string(),
                number(base, THROUGHPUT, 0),
                number(this, THROUGHPUT, 0),
                format!("{:.2}", ratios.throughput),
                number(base, CPU, 2),
                number(this, CPU, 2),
                format!("{:.2}", ratios.cpu),
                number(base, P50, 2),
                number(this, P50, 2),
                format!("{:.2}", ratios.p50),
            ]);
        }
        let rounds = self.rows.first().map_or(0, |row| row.base.len());
        let Ratios { throughput, cpu, p50 } = self.ratios;
        format!(
            "redis-benchmark, values of {} bytes, medians of {rounds} interleaved rounds, base: {}\n{}\
             medians over all shapes: op/s {throughput:.3}, CPU per operation {cpu:.3}, p50 {p50:.3}: {}\n",
            self.value_bytes,
            self.base_version,
            table(&cells),
            if self.passed() { "within 5 %" } else { "worse by more than 5 %" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(base: [f64; 3], this: [f64; 3]) -> Row {
        let run = |[rate, cpu, p50]: [f64; 3]| Run {
            operations_per_second: rate,
            p50_ms: p50,
            p99_ms: 2.0 * p50,
            server_cpu_us_per_operation: cpu,
        };
        let shape = Shape { command: "SET".into(), connections: 1, pipeline: 1, keyspace: 0 };
        Row { base: vec![run(base)], this: vec![run(this)], ..Row::new(shape) }
    }

    #[test]
    fn each_median_over_the_shapes_is_judged() {
        let same = [100.0, 10.0, 1.0];
        let report = |this| BuildReport::new("base".into(), 128, vec![row(same, this), row(same, this)]);
        assert!(report([96.0, 10.4, 1.04]).passed());
        for (worse, part) in
            [([94.0, 10.0, 1.0], "0.940"), ([100.0, 10.6, 1.0], "1.060"), ([100.0, 10.0, 1.06], "1.060")]
        {
            let report = report(worse);
            assert!(!report.passed(), "{worse:?}");
            let text = report.table();
            assert!(text.contains(part) && text.contains("worse by more"), "{text}");
        }
    }

    #[test]
    fn one_shape_among_several_decides_nothing() {
        let same = [100.0, 10.0, 1.0];
        let rows = vec![row(same, same), row(same, [50.0, 20.0, 2.0]), row(same, same)];
        let report = BuildReport::new("base".into(), 128, rows);
        assert!(report.passed());
        assert_eq!(report.rows[1].ratios, Ratios { throughput: 0.5, cpu: 2.0, p50: 2.0 });
    }
}
