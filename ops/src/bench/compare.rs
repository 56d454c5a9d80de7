//! `ringkeep bench compare`: what it can be asked, and how each comparison is run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bench::Failed;
use bench::compare::build::BuildReport;
use bench::compare::driver::Shapes;
use bench::compare::etcd::EtcdReport;
use bench::compare::redis::RedisReport;
use bench::compare::{build, etcd, redis};
use clap::{Args, Subcommand};

use super::arguments::{BenchArguments, NodeArguments, at_least_one};
use super::{Scratch, deliver};
use crate::output::remark;

#[derive(Debug, Subcommand)]
pub(super) enum Peer {
    /// redis-server with appendfsync always, driven by redis-benchmark
    Redis(RedisArguments),
    /// An etcd cluster beside a cluster of as many nodes, driven by the same clients
    Etcd(EtcdArguments),
    /// Another build of ringkeep, both driven by redis-benchmark; exit code 1 if this one is worse by more than 5 %
    Build(BuildArguments),
}

#[derive(Debug, Args)]
pub(super) struct RedisArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Interleaved rounds
    #[arg(long, default_value_t = 5, value_parser = at_least_one::<usize>)]
    pub(super) rounds: usize,
    #[command(flatten)]
    pub(super) shapes: ShapeArguments,
}

#[derive(Debug, Args)]
pub(super) struct BuildArguments {
    /// The ringkeep binary to compare this one with
    #[arg(long, value_name = "FILE")]
    pub(super) base: PathBuf,
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Interleaved rounds
    #[arg(long, default_value_t = 5, value_parser = at_least_one::<usize>)]
    pub(super) rounds: usize,
    #[command(flatten)]
    pub(super) shapes: ShapeArguments,
}

/// What redis-benchmark is asked to do.
#[derive(Debug, Args)]
pub(super) struct ShapeArguments {
    /// Requests of a run without pipelining; pipelined ones make as many round trips
    #[arg(long, default_value_t = 100_000, value_parser = at_least_one::<u64>)]
    requests: u64,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256], value_parser = at_least_one::<usize>)]
    connections: Vec<usize>,
    /// Requests in flight per connection
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16], value_parser = at_least_one::<usize>)]
    pipelines: Vec<usize>,
    /// Sizes of the key space; 0 is redis-benchmark's single key
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100_000])]
    keyspaces: Vec<u64>,
}

impl ShapeArguments {
    pub(super) fn shapes(&self) -> Shapes {
        let Self { requests, value_bytes, connections, pipelines, keyspaces } = self;
        Shapes {
            requests: *requests,
            value_bytes: *value_bytes,
            connections: connections.clone(),
            pipelines: pipelines.clone(),
            keyspaces: keyspaces.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct EtcdArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Members of each cluster
    #[arg(long, default_value_t = 3, value_parser = at_least_one::<usize>)]
    pub(super) members: usize,
    /// Interleaved rounds
    #[arg(long, default_value_t = 3, value_parser = at_least_one::<usize>)]
    pub(super) rounds: usize,
    /// Seconds of each run
    #[arg(long, default_value_t = 5, value_parser = at_least_one::<u64>)]
    pub(super) seconds: u64,
    /// Numbers of clients, each with one request in flight
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256], value_parser = at_least_one::<usize>)]
    pub(super) clients: Vec<usize>,
    /// Records that both hold
    #[arg(long, default_value_t = 20_000, value_parser = at_least_one::<u64>)]
    pub(super) records: u64,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 128)]
    pub(super) value_bytes: usize,
}

/// Runs one comparison.
pub(super) fn run(arguments: &BenchArguments, peer: &Peer) -> Result<ExitCode, Failed> {
    match peer {
        Peer::Redis(run) => {
            with_redis(run).and_then(|report| deliver(arguments, &report, RedisReport::table, |_| true))
        }
        Peer::Etcd(run) => {
            with_etcd(run).and_then(|report| deliver(arguments, &report, EtcdReport::table, |_| true))
        }
        Peer::Build(run) => with_build(run)
            .and_then(|report| deliver(arguments, &report, BuildReport::table, BuildReport::passed)),
    }
}

fn with_redis(run: &RedisArguments) -> Result<RedisReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = redis::Options {
        node: scratch.node(&run.node)?,
        directory: scratch.0.clone(),
        rounds: run.rounds,
        shapes: run.shapes.shapes(),
    };
    redis::compare(&options, &mut remark)
}

fn with_build(run: &BuildArguments) -> Result<BuildReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = build::Options {
        node: scratch.node(&run.node)?,
        base: run.base.clone(),
        directory: scratch.0.clone(),
        rounds: run.rounds,
        shapes: run.shapes.shapes(),
    };
    build::compare(&options, &mut remark)
}

fn with_etcd(run: &EtcdArguments) -> Result<EtcdReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = etcd::Options {
        node: scratch.node(&run.node)?,
        directory: scratch.0.clone(),
        members: run.members,
        rounds: run.rounds,
        each: Duration::from_secs(run.seconds),
        clients: run.clients.clone(),
        records: run.records,
        value_bytes: run.value_bytes,
    };
    etcd::compare(&options, &mut remark)
}
