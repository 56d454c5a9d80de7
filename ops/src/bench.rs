//! `ringkeep bench`: arguments for the measurements of the `bench` crate, and their reports.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bench::client::Protocol;
use bench::load::{Phases, Stop};
use bench::process::NodeOptions;
use bench::report::RunReport;
use bench::workload::{KEY_BYTES_MIN, Mix, Spread, Workload};
use bench::{Failed, abuse, backlog, compare, crash, disk, idle, latency, load, protocols, scheduler};
use clap::{Args, Subcommand, ValueEnum};
use store::config::Config;

use crate::output::{Format, answer, fail, remark};

/// Arguments of `ringkeep bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    what: What,
    /// How to answer
    #[arg(long, value_enum, default_value = "table", global = true)]
    output: Format,
    /// Also write the result as JSON to this file
    #[arg(long, value_name = "FILE", global = true)]
    json_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// YCSB load against a running server
    Run(RunArguments),
    /// What this machine's disk and loopback can do
    Disk(DiskArguments),
    /// The same load on another server and on ringkeep, in turn
    Compare {
        #[command(subcommand)]
        peer: Peer,
    },
    /// One client, one durable put in flight, against the machine's floor
    Latency(LatencyArguments),
    /// What a request costs the server over gRPC and over RESP, in one run
    Protocols(ProtocolsArguments),
    /// An idle node's CPU, and how long a start takes
    Idle(IdleArguments),
    /// Clients that ask for too much: memory stays bounded, and a bystander is served?
    Abuse(AbuseArguments),
    /// Writers, SIGKILL, restart: is everything acknowledged still there?
    Crash(CrashArguments),
    /// The scheduler alone, at the size of a large cluster: memory, reports, rounds, bytes moved
    Scheduler(SchedulerArguments),
}

#[derive(Debug, Subcommand)]
enum Peer {
    /// redis-server with appendfsync always, driven by redis-benchmark
    Redis(RedisArguments),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PhaseName {
    /// Only write the records
    Load,
    /// Only run the workload over records that are there
    Run,
    /// Both
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SpreadName {
    /// As the workload's definition says
    Published,
    /// Every record alike
    Uniform,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtocolName {
    /// The Redis protocol
    Resp,
    /// TiKV's raw API over BatchCommands; the address is that of PD
    Tikv,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// YCSB workload a to f, or update for nothing but durable writes
    #[arg(long, default_value = "a", value_parser = parse_mix)]
    workload: Mix,
    /// Protocol
    #[arg(long, value_enum, default_value = "resp")]
    protocol: ProtocolName,
    /// Server address: RESP, or PD for tikv [default: 127.0.0.1:6380 or 127.0.0.1:20160]
    #[arg(long)]
    addr: Option<SocketAddr>,
    /// RESP password
    #[arg(long)]
    password: Option<String>,
    /// Phases to run
    #[arg(long, value_enum, default_value = "both")]
    phase: PhaseName,
    /// Records written by the load phase
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Operations of the run phase
    #[arg(long, default_value_t = 100_000, conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    operations: u64,
    /// Length of the run phase instead of a number of operations
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Connections
    #[arg(long, short, default_value_t = 64, value_parser = at_least_one)]
    connections: usize,
    /// Requests in flight per connection
    #[arg(long, short, default_value_t = 1, value_parser = at_least_one)]
    pipeline: usize,
    /// Requests per second in all (open loop); without it the loop is closed
    #[arg(long, value_parser = parse_rate)]
    rate: Option<f64>,
    /// Length of a key, bytes; at least 24
    #[arg(long, default_value_t = KEY_BYTES_MIN)]
    key_bytes: usize,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
    /// How requests spread over records
    #[arg(long, value_enum, default_value = "published")]
    spread: SpreadName,
    /// Maximum length of a scan, records
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    scan_records_max: u64,
    /// Seed of the operations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Process of the server, if it runs here, for its CPU time
    #[arg(long)]
    server_pid: Option<u32>,
    /// Status port of the server, to print its backlog of compactions and its slowest log write meanwhile
    #[arg(long, value_name = "ADDR")]
    status: Option<SocketAddr>,
    /// Directory on the server's disk, to print its limits beside the result; "none" leaves them out
    #[arg(long, default_value = ".")]
    limits_dir: PathBuf,
}

#[derive(Debug, Args)]
struct DiskArguments {
    /// Directory to measure in
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Seconds for each limit
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// Where a node of our own lives while it is measured.
#[derive(Debug, Args)]
struct NodeArguments {
    /// Directory for the data of this run; a fresh one is made in it and removed afterwards
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Further setting of the node, such as cores=1; may be repeated
    #[arg(long = "node-set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Args)]
struct RedisArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Interleaved rounds
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    rounds: usize,
    /// Requests of a run without pipelining; pipelined ones make as many round trips
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256], value_parser = at_least_one)]
    connections: Vec<usize>,
    /// Requests in flight per connection
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16], value_parser = at_least_one)]
    pipelines: Vec<usize>,
    /// Sizes of the key space; 0 is redis-benchmark's single key
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100_000])]
    keyspaces: Vec<u64>,
}

#[derive(Debug, Args)]
struct LatencyArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Rounds of writes, trips and puts
    #[arg(long, default_value_t = 10, value_parser = at_least_one)]
    rounds: usize,
    /// Puts per round
    #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
    puts: usize,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
}

#[derive(Debug, Args)]
struct ProtocolsArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Rounds; each visits both protocols
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Requests of each run
    #[arg(long, default_value_t = 200_000)]
    requests: u64,
    /// Connections, each with one request in flight
    #[arg(long, short, default_value_t = 64)]
    connections: usize,
    /// Records in the store
    #[arg(long, default_value_t = 20_000)]
    records: u64,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
}

#[derive(Debug, Args)]
struct IdleArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Seconds to leave the node alone
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Restarts to time
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    starts: usize,
    /// Data to write before the last starts are timed, MiB; 0 leaves that out
    #[arg(long, default_value_t = 2048)]
    fill_mib: u64,
}

#[derive(Debug, Args)]
struct AbuseArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// RESP address of a node that runs already, instead of one of our own
    #[arg(long, conflicts_with = "set")]
    addr: Option<SocketAddr>,
    /// Its status address
    #[arg(long, requires = "addr")]
    status_addr: Option<SocketAddr>,
    /// Its PD address, for the cases over gRPC
    #[arg(long, requires = "addr")]
    pd_addr: Option<SocketAddr>,
    /// Its process, if it runs here, for its memory
    #[arg(long, requires = "addr")]
    server_pid: Option<u32>,
    /// Seconds for each case
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Cases to run; all if none is named
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
}

#[derive(Debug, Args)]
struct CrashArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// How often to kill the node
    #[arg(long, default_value_t = 300, value_parser = at_least_one)]
    cycles: usize,
    /// Connections that write
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    writers: usize,
    /// Keys of each writer
    #[arg(long, default_value_t = 200, value_parser = at_least_one)]
    keys: usize,
    /// Maximum writes in flight on a connection
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pipeline: usize,
    /// Maximum time before a kill, milliseconds
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..))]
    run_ms: u64,
    /// Seed of operations and moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct SchedulerArguments {
    /// Regions
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    regions: u64,
    /// Nodes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    nodes: u64,
    /// Stores of each node
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    stores_per_node: u64,
    /// Reports to measure the rate with
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    reports: u64,
    /// Seed of sizes, loads and draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw how the cluster comes to rest after an empty node has joined, and after one has died
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("nothing would be measured: write 1 or more".into()),
        Ok(count) => Ok(count),
        Err(_) => Err("write a whole number".into()),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        Ok(_) => Err("nothing would be sent: write a rate above 0".into()),
        Err(_) => Err("write requests per second".into()),
    }
}

fn parse_mix(name: &str) -> Result<Mix, String> {
    Mix::parse(name).ok_or_else(|| "write a, b, c, d, e, f or update".into())
}

/// Runs `ringkeep bench`.
pub(crate) fn run(arguments: &BenchArguments) -> ExitCode {
    let outcome = match &arguments.what {
        What::Run(run) => {
            load(run).and_then(|report| deliver(arguments, &report, RunReport::table, |_| true))
        }
        What::Disk(run) => disk::measure(&run.dir, Duration::from_secs(run.seconds))
            .and_then(|report| deliver(arguments, &report, disk::DiskReport::table, |_| true)),
        What::Compare { peer: Peer::Redis(run) } => {
            redis(run).and_then(|report| deliver(arguments, &report, compare::CompareReport::table, |_| true))
        }
        What::Latency(run) => latency(run)
            .and_then(|report| deliver(arguments, &report, latency::LatencyFloorReport::table, |_| true)),
        What::Protocols(run) => protocols(run)
            .and_then(|report| deliver(arguments, &report, protocols::ProtocolsReport::table, |_| true)),
        What::Idle(run) => {
            idle(run).and_then(|report| deliver(arguments, &report, idle::IdleReport::table, |_| true))
        }
        What::Crash(run) => crash(run).and_then(|report| {
            deliver(arguments, &report, crash::CrashReport::table, crash::CrashReport::passed)
        }),
        What::Abuse(run) => abuse(run).and_then(|report| {
            deliver(arguments, &report, abuse::AbuseReport::table, abuse::AbuseReport::passed)
        }),
        What::Scheduler(run) => scale(run).and_then(|report| {
            deliver(arguments, &report, scheduler::ScaleReport::table, scheduler::ScaleReport::passed)
        }),
    };
    outcome.unwrap_or_else(|why| fail(&why, 1))
}

/// Shows a report and says whether it is a good one.
fn deliver<R: serde::Serialize>(
    arguments: &BenchArguments,
    report: &R,
    table: impl Fn(&R) -> String,
    passed: impl Fn(&R) -> bool,
) -> Result<ExitCode, Failed> {
    let json = serde_json::to_string_pretty(report).map_err(|error| Failed::new(error.to_string()))?;
    match arguments.output {
        Format::Table => answer(&table(report)),
        Format::Json => answer(&json),
    }
    if let Some(path) = &arguments.json_file {
        std::fs::write(path, json).map_err(|error| Failed::new(format!("{}: {error}", path.display())))?;
    }
    Ok(if passed(report) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn default_addr(protocol: ProtocolName) -> SocketAddr {
    let defaults = Config::default();
    match protocol {
        ProtocolName::Resp => defaults.resp_addr(),
        ProtocolName::Tikv => defaults.pd_addr(),
    }
}

fn load(run: &RunArguments) -> Result<RunReport, Failed> {
    let options = load::Options {
        protocol: match run.protocol {
            ProtocolName::Resp => Protocol::Resp,
            ProtocolName::Tikv => Protocol::Tikv,
        },
        addr: run.addr.unwrap_or_else(|| default_addr(run.protocol)),
        password: run.password.clone(),
        workload: Workload {
            mix: run.workload,
            spread: match run.spread {
                SpreadName::Published => Spread::Published,
                SpreadName::Uniform => Spread::Uniform,
            },
            records: run.records.max(1),
            key_bytes: run.key_bytes.max(KEY_BYTES_MIN),
            value_bytes: run.value_bytes,
            scan_records_max: run.scan_records_max,
        },
        connections: run.connections,
        pipeline: run.pipeline,
        rate: run.rate,
        stop: run
            .seconds
            .map_or(Stop::Operations(run.operations), |seconds| Stop::After(Duration::from_secs(seconds))),
        seed: run.seed,
        server_pid: run.server_pid,
        progress: true,
    };
    let phases = match run.phase {
        PhaseName::Load => Phases::Load,
        PhaseName::Run => Phases::Run,
        PhaseName::Both => Phases::Both,
    };
    let watch = run.status.map(backlog::Watch::start);
    let phases = load::run(&options, phases);
    let backlog = watch.map(backlog::Watch::finish);
    let phases = phases?;
    let limits = match run.limits_dir.to_str() {
        Some("none") => None,
        _ => Some(disk::measure(&run.limits_dir, Duration::from_secs(1))?),
    };
    Ok(RunReport { phases, backlog, limits })
}

fn redis(run: &RedisArguments) -> Result<compare::CompareReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = compare::Options {
        node: scratch.node(&run.node)?,
        directory: scratch.0.clone(),
        rounds: run.rounds,
        requests: run.requests,
        value_bytes: run.value_bytes,
        connections: run.connections.clone(),
        pipelines: run.pipelines.clone(),
        keyspaces: run.keyspaces.clone(),
    };
    compare::redis(&options, &mut remark)
}

fn latency(run: &LatencyArguments) -> Result<latency::LatencyFloorReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = latency::Options {
        node: scratch.node(&run.node)?,
        directory: scratch.0.clone(),
        rounds: run.rounds,
        puts: run.puts,
        value_bytes: run.value_bytes,
    };
    latency::measure(&options, &mut remark)
}

fn protocols(run: &ProtocolsArguments) -> Result<protocols::ProtocolsReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = protocols::Options {
        node: scratch.node(&run.node)?,
        rounds: run.rounds,
        requests: run.requests.max(1),
        connections: run.connections.max(1),
        records: run.records,
        value_bytes: run.value_bytes,
    };
    protocols::measure(&options, &mut remark)
}

fn idle(run: &IdleArguments) -> Result<idle::IdleReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = idle::Options {
        node: scratch.node(&run.node)?,
        idle: Duration::from_secs(run.seconds.max(1)),
        starts: run.starts,
        fill_bytes: run.fill_mib << 20,
    };
    idle::measure(&options, &mut remark)
}

fn abuse(run: &AbuseArguments) -> Result<abuse::AbuseReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let victim = match run.addr {
        Some(resp) => {
            abuse::Victim::Running { resp, status: run.status_addr, pd: run.pd_addr, pid: run.server_pid }
        }
        None => abuse::Victim::Own(scratch.node(&run.node)?),
    };
    let each = Duration::from_secs(run.seconds);
    abuse::run(&abuse::Options { victim, each, only: run.cases.clone() }, &mut remark)
}

fn crash(run: &CrashArguments) -> Result<crash::CrashReport, Failed> {
    let mut scratch = Scratch::create(&run.node)?;
    let mut node = scratch.node(&run.node)?;
    node.log = Some(crash::log_path(&node.data_dir));
    let options = crash::Options {
        node,
        cycles: run.cycles,
        writers: run.writers,
        keys: run.keys,
        pipeline: run.pipeline,
        run_max: Duration::from_millis(run.run_ms),
        seed: run.seed,
    };
    let mut say = |report: &crash::CrashReport| {
        remark(&format!(
            "kill {} of {}: {} acknowledged, {} keys checked, {} lost",
            report.cycles, run.cycles, report.acknowledged, report.checked, report.lost
        ));
    };
    let report = crash::audit(&options, &mut say);
    if !report.as_ref().is_ok_and(crash::CrashReport::passed) {
        scratch.keep();
    }
    report
}

fn scale(run: &SchedulerArguments) -> Result<scheduler::ScaleReport, Failed> {
    scheduler::measure(&scheduler::Options {
        regions: run.regions,
        nodes: run.nodes,
        stores_per_node: run.stores_per_node,
        reports: run.reports,
        seed: run.seed,
        svg: run.svg.clone(),
    })
}

/// A directory that is removed when dropped, unless it is evidence.
struct Scratch(PathBuf, bool);

impl Scratch {
    fn create(node: &NodeArguments) -> Result<Self, Failed> {
        let path = node.dir.join(format!("ringkeep-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .map_err(|error| Failed::new(format!("{}: {error}: choose another --dir", path.display())))?;
        Ok(Self(path, true))
    }

    fn node(&self, arguments: &NodeArguments) -> Result<NodeOptions, Failed> {
        let set = |pair: &String| ["--set".to_owned(), pair.clone()];
        Ok(NodeOptions {
            binary: std::env::current_exe()?,
            data_dir: self.0.join("node"),
            arguments: arguments.set.iter().flat_map(set).collect(),
            log: Some(self.0.join("node.log")),
        })
    }

    fn keep(&mut self) {
        self.1 = false;
        remark(&format!("the node's files and its log are kept in {}", Path::new(&self.0).display()));
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.1 {
            // What cannot be removed is seen in the directory that the user named.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
