//! `ringkeep bench scale`: what it can be asked, and which of its three measurements that is.

use std::process::ExitCode;
use std::time::Duration;

use bench::Failed;
use bench::scale::moves::{Change, GapReport};
use bench::scale::{self, SpreadReport, moves};
use clap::Args;

use super::arguments::{BenchArguments, NodeArguments, at_least_one};
use super::{Scratch, deliver};
use crate::output::remark;
use crate::signals;

/// Moves and splits where no number is given.
const MOVES: usize = 6;
const SPLITS: usize = 20;

#[derive(Debug, Args)]
pub(super) struct ScaleArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Move one region between the two stores under load, instead, and measure the gap in its acknowledgements
    #[arg(long, group = "change")]
    relocate: bool,
    /// Split regions on request under load, instead, and measure the gap in the acknowledgements of their halves
    #[arg(long, group = "change")]
    split: bool,
    /// Keys and values of the region that is moved or split, MiB
    #[arg(long, default_value_t = 512, requires = "change", value_parser = at_least_one::<u64>)]
    mib: u64,
    /// How often it is moved or split [default: 6 moves, 20 splits]
    #[arg(long, requires = "change", value_parser = at_least_one::<usize>)]
    times: Option<usize>,
    /// Records to write
    #[arg(long, default_value_t = 1_500_000, conflicts_with = "change", value_parser = at_least_one::<u64>)]
    records: u64,
    /// Rounds; each runs an update and a read workload on two stores and on one
    #[arg(long, default_value_t = 3, conflicts_with = "change", value_parser = at_least_one::<usize>)]
    rounds: usize,
    /// Seconds for each workload in a round
    #[arg(long, default_value_t = 10, conflicts_with = "change", value_parser = at_least_one::<u64>)]
    seconds: u64,
    /// How long splits and moves may take to come to rest after the load
    #[arg(long, default_value_t = 300, conflicts_with = "change", value_parser = at_least_one::<u64>)]
    settle_seconds: u64,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Connections
    #[arg(long, short, default_value_t = 64, value_parser = at_least_one::<usize>)]
    connections: usize,
    /// Requests in flight per connection
    #[arg(long, short, default_value_t = 4, value_parser = at_least_one::<usize>)]
    pipeline: usize,
}

pub(super) fn run(arguments: &BenchArguments, run: &ScaleArguments) -> Result<ExitCode, Failed> {
    let stop =
        signals::noted().map_err(|error| Failed::new(format!("signals cannot be handled: {error}")))?;
    let scratch = Scratch::create(&run.node)?;
    let node = scratch.node(&run.node)?;
    let change = match (run.relocate, run.split) {
        (true, _) => Some((Change::Relocate, MOVES)),
        (_, true) => Some((Change::Split, SPLITS)),
        (false, false) => None,
    };
    let Some((change, times)) = change else {
        let options = scale::Options {
            node,
            records: run.records,
            value_bytes: run.value_bytes,
            connections: run.connections,
            pipeline: run.pipeline,
            rounds: run.rounds,
            each: Duration::from_secs(run.seconds),
            settle_max: Duration::from_secs(run.settle_seconds),
            stop,
        };
        let report = scale::measure(&options, &mut remark)?;
        return deliver(arguments, &report, SpreadReport::table, SpreadReport::passed);
    };
    let options = moves::Options {
        node,
        change,
        times: run.times.unwrap_or(times),
        bytes: run.mib << 20,
        value_bytes: run.value_bytes,
        connections: run.connections,
        pipeline: run.pipeline,
        stop,
    };
    let report = moves::measure(&options, &mut remark)?;
    deliver(arguments, &report, GapReport::table, GapReport::passed)
}
