//! What `ringkeep bench` can be asked: one type per measurement, with its defaults and what is refused before anything starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use bench::abuse::BYSTANDER_P99_MAX;
use bench::workload::{KEY_BYTES_MIN, Mix};
use clap::{Args, Subcommand, ValueEnum};

use crate::output::Format;

/// Arguments of `ringkeep bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    pub(super) what: What,
    /// How to answer
    #[arg(long, value_enum, default_value = "table", global = true)]
    pub(super) output: Format,
    /// Also write the result as JSON to this file
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) json_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum What {
    /// YCSB load against a running server
    Run(RunArguments),
    /// What this machine's disk and loopback can do
    Disk(DiskArguments),
    /// The same load on another server and on ringkeep, in turn
    Compare {
        #[command(subcommand)]
        peer: super::compare::Peer,
    },
    /// One client, one durable put in flight, against the machine's floor
    Latency(LatencyArguments),
    /// What a request costs the server over gRPC and over RESP, in one run; exit code 1 if gRPC costs more than it may
    Protocols(ProtocolsArguments),
    /// Load a node as fast as it goes; exit code 1 if a put was later than the disk explains
    Pressure(PressureArguments),
    /// An idle node's CPU, and how long a start takes
    Idle(IdleArguments),
    /// Regions at rest, by their number: memory of a replica, CPU, starts, and the first write to one that sleeps
    Regions(RegionsArguments),
    /// Timestamps over the wire, and what they cost the node
    Timestamps(TimestampsArguments),
    /// Clients that ask for too much: memory stays bounded, and a bystander is served?
    Abuse(AbuseArguments),
    /// Writers, SIGKILL, restart: is everything acknowledged still there?
    Crash(CrashArguments),
    /// A cluster of processes that are killed, paused and cut off: what do its clients see?
    Chaos(ChaosArguments),
    /// A node joins, one is killed for good, one is drained: does the cluster end even and whole, and what do its clients see? Exit code 1 if
    /// not, or if a client saw what cannot be
    Cluster(ClusterArguments),
    /// A leader is killed, hands over, or is drained: what do clients notice?
    Failover(FailoverArguments),
    /// A follower that was away catches up: what do clients of the others notice, and how much is sent?
    Catchup(CatchupArguments),
    /// Keys that all begin alike on two stores and on one: how do bytes and requests spread by themselves, and what does a move or a split
    /// cost clients? Exit code 1 if a store has less than its share, or a client saw an error
    Scale(super::scale::ScaleArguments),
    /// Seeds of a simulated cluster: faults, and clients whose histories are judged. Needs a binary built with the feature sim
    Sim(SimArguments),
    /// The scheduler alone, at the size of a large cluster: memory, reports, rounds, bytes moved
    Scheduler(SchedulerArguments),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PhaseName {
    /// Only write the records
    Load,
    /// Only run the workload over records that are there
    Run,
    /// Both
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SpreadName {
    /// As the workload's definition says
    Published,
    /// Every record alike
    Uniform,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ProtocolName {
    /// The Redis protocol
    Resp,
    /// TiKV's raw API over BatchCommands; the address is that of PD
    Tikv,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// YCSB workload a to f, or update for nothing but durable writes
    #[arg(long, default_value = "a", value_parser = parse_mix)]
    pub(super) workload: Mix,
    /// Protocol
    #[arg(long, value_enum, default_value = "resp")]
    pub(super) protocol: ProtocolName,
    /// Server address: RESP, or PD for tikv [default: 127.0.0.1:6380 or 127.0.0.1:20160]
    #[arg(long)]
    pub(super) addr: Option<SocketAddr>,
    /// RESP password
    #[arg(long)]
    pub(super) password: Option<String>,
    /// Phases to run
    #[arg(long, value_enum, default_value = "both")]
    pub(super) phase: PhaseName,
    /// Records written by the load phase
    #[arg(long, default_value_t = 100_000, value_parser = at_least_one::<u64>)]
    pub(super) records: u64,
    /// Operations of the run phase
    #[arg(long, default_value_t = 100_000, conflicts_with = "seconds", value_parser = at_least_one::<u64>)]
    pub(super) operations: u64,
    /// Length of the run phase instead of a number of operations
    #[arg(long, value_parser = at_least_one::<u64>)]
    pub(super) seconds: Option<u64>,
    /// Connections
    #[arg(long, short, default_value_t = 64, value_parser = at_least_one::<usize>)]
    pub(super) connections: usize,
    /// Requests in flight per connection
    #[arg(long, short, default_value_t = 1, value_parser = at_least_one::<usize>)]
    pub(super) pipeline: usize,
    /// Requests per second in all (open loop); without it the loop is closed
    #[arg(long, value_parser = parse_rate)]
    pub(super) rate: Option<f64>,
    /// Length of a key, bytes; at least 24
    #[arg(long, default_value_t = KEY_BYTES_MIN, value_parser = parse_key_bytes)]
    pub(super) key_bytes: usize,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 128)]
    pub(super) value_bytes: usize,
    /// How requests spread over records
    #[arg(long, value_enum, default_value = "published")]
    pub(super) spread: SpreadName,
    /// Maximum length of a scan, records
    #[arg(long, default_value_t = 100, value_parser = at_least_one::<u64>)]
    pub(super) scan_records_max: u64,
    /// Seed of the operations
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Process of the server, if it runs here, for its CPU time
    #[arg(long)]
    pub(super) server_pid: Option<u32>,
    /// Status port of the server, to print its backlog of compactions and its slowest log write meanwhile
    #[arg(long, value_name = "ADDR")]
    pub(super) status: Option<SocketAddr>,
    /// Directory on the server's disk, to print its limits beside the result; "none" leaves them out
    #[arg(long, default_value = ".")]
    pub(super) limits_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct DiskArguments {
    /// Directory to measure in
    #[arg(long, default_value = ".")]
    pub(super) dir: PathBuf,
    /// Seconds for each limit
    #[arg(long, default_value_t = 2, value_parser = at_least_one::<u64>)]
    pub(super) seconds: u64,
}

/// Where a node of our own lives while it is measured.
#[derive(Debug, Args)]
pub(super) struct NodeArguments {
    /// Directory for the data of this run; a fresh one is made in it and removed afterwards
    #[arg(long, default_value = ".")]
    pub(super) dir: PathBuf,
    /// Further setting of the node, such as cores=1; may be repeated
    #[arg(long = "node-set", value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct LatencyArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Rounds of writes, trips and puts
    #[arg(long, default_value_t = 10, value_parser = at_least_one::<usize>)]
    pub(super) rounds: usize,
    /// Puts per round
    #[arg(long, default_value_t = 1000, value_parser = at_least_one::<usize>)]
    pub(super) puts: usize,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 128)]
    pub(super) value_bytes: usize,
}

#[derive(Debug, Args)]
pub(super) struct PressureArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Records to write
    #[arg(long, default_value_t = 3_000_000, value_parser = at_least_one::<u64>)]
    pub(super) records: u64,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 1024)]
    pub(super) value_bytes: usize,
    /// Connections
    #[arg(long, short, default_value_t = 64, value_parser = at_least_one::<usize>)]
    pub(super) connections: usize,
    /// Requests in flight per connection
    #[arg(long, short, default_value_t = 16, value_parser = at_least_one::<usize>)]
    pub(super) pipeline: usize,
}

#[derive(Debug, Args)]
pub(super) struct ProtocolsArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Rounds; each visits both protocols
    #[arg(long, default_value_t = 3, value_parser = at_least_one::<usize>)]
    pub(super) rounds: usize,
    /// Requests of each run
    #[arg(long, default_value_t = 200_000, value_parser = at_least_one::<u64>)]
    pub(super) requests: u64,
    /// Connections, each with one request in flight
    #[arg(long, short, default_value_t = 64, value_parser = at_least_one::<usize>)]
    pub(super) connections: usize,
    /// Records in the store
    #[arg(long, default_value_t = 20_000, value_parser = at_least_one::<u64>)]
    pub(super) records: u64,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 128)]
    pub(super) value_bytes: usize,
}

#[derive(Debug, Args)]
pub(super) struct IdleArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Nodes; several form a cluster, of which only the CPU time is measured
    #[arg(long, default_value_t = 1, value_parser = at_least_one::<usize>)]
    pub(super) members: usize,
    /// Split the regions of a cluster until there are this many
    #[arg(long, default_value_t = 0, requires = "members")]
    pub(super) regions: usize,
    /// Seconds to leave the node alone
    #[arg(long, default_value_t = 20, value_parser = at_least_one::<u64>)]
    pub(super) seconds: u64,
    /// Restarts to time
    #[arg(long, default_value_t = 5, value_parser = at_least_one::<usize>)]
    pub(super) starts: usize,
    /// Data to write before the last starts are timed, MiB; 0 leaves that out
    #[arg(long, default_value_t = 2048)]
    pub(super) fill_mib: u64,
}

#[derive(Debug, Args)]
pub(super) struct RegionsArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Nodes, each with a replica of every region
    #[arg(long, default_value_t = 1, value_parser = at_least_one::<usize>)]
    pub(super) members: usize,
    /// Numbers of regions, the least first
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000,100000", value_parser = at_least_one::<usize>)]
    pub(super) counts: Vec<usize>,
    /// Seconds to leave them alone
    #[arg(long, default_value_t = 20, value_parser = at_least_one::<u64>)]
    pub(super) seconds: u64,
    /// Seconds before that, in which groups fall asleep and freed memory is given back
    #[arg(long, default_value_t = 15, value_parser = at_least_one::<u64>)]
    pub(super) settle_seconds: u64,
}

#[derive(Debug, Args)]
pub(super) struct AbuseArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// RESP address of a node that runs already, instead of one of our own
    #[arg(long, conflicts_with = "set")]
    pub(super) addr: Option<SocketAddr>,
    /// Its status address
    #[arg(long, requires = "addr")]
    pub(super) status_addr: Option<SocketAddr>,
    /// Its PD address, for the cases over gRPC
    #[arg(long, requires = "addr")]
    pub(super) pd_addr: Option<SocketAddr>,
    /// Its process, if it runs here, for its memory
    #[arg(long, requires = "addr")]
    pub(super) server_pid: Option<u32>,
    /// Seconds for each case
    #[arg(long, default_value_t = 10, value_parser = at_least_one::<u64>)]
    pub(super) seconds: u64,
    /// Cases to run; all if none is named
    #[arg(long, value_delimiter = ',')]
    pub(super) cases: Vec<String>,
    /// How long the bystander may wait at the 99th percentile, milliseconds; more where the machine does something else, too
    #[arg(long, default_value_t = BYSTANDER_P99_MAX.as_millis() as u64, value_parser = at_least_one::<u64>)]
    pub(super) p99_ms: u64,
}

#[derive(Debug, Args)]
pub(super) struct CrashArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// How often to kill the node
    #[arg(long, default_value_t = 300, value_parser = at_least_one::<usize>)]
    pub(super) cycles: usize,
    /// Connections that write
    #[arg(long, default_value_t = 8, value_parser = at_least_one::<usize>)]
    pub(super) writers: usize,
    /// Keys of each writer
    #[arg(long, default_value_t = 200, value_parser = at_least_one::<usize>)]
    pub(super) keys: usize,
    /// Maximum writes in flight on a connection
    #[arg(long, default_value_t = 16, value_parser = at_least_one::<usize>)]
    pub(super) pipeline: usize,
    /// Maximum time before a kill, milliseconds
    #[arg(long, default_value_t = 1500, value_parser = at_least_one::<u64>)]
    pub(super) run_ms: u64,
    /// Seed of operations and moments
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

#[derive(Debug, Args)]
pub(super) struct TimestampsArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = at_least_one::<usize>)]
    pub(super) rounds: usize,
    /// Batches of each stream in a round
    #[arg(long, default_value_t = 200_000, value_parser = at_least_one::<usize>)]
    pub(super) batches: usize,
    /// Timestamps of a batch
    #[arg(long, default_value_t = 64, value_parser = at_least_one::<u32>)]
    pub(super) count: u32,
    /// Connections, each with one stream
    #[arg(long, short, default_value_t = 4, value_parser = at_least_one::<usize>)]
    pub(super) connections: usize,
    /// Requests in flight on each
    #[arg(long, short, default_value_t = 32, value_parser = at_least_one::<usize>)]
    pub(super) in_flight: usize,
}

#[derive(Debug, Args)]
pub(super) struct ChaosArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = at_least_one::<usize>)]
    pub(super) members: usize,
    /// How long faults come in each run, seconds
    #[arg(long, default_value_t = 60, value_parser = at_least_one::<u64>)]
    pub(super) seconds: u64,
    /// The same in minutes
    #[arg(long, conflicts_with = "seconds", value_parser = at_least_one::<u64>)]
    pub(super) minutes: Option<u64>,
    /// Runs, each with a cluster of its own and the next seed
    #[arg(long, default_value_t = 1, value_parser = at_least_one::<u64>)]
    pub(super) seeds: u64,
    /// Clients that have keys of their own
    #[arg(long, default_value_t = 8, value_parser = at_least_one::<usize>)]
    pub(super) clients: usize,
    /// Keys of each of these
    #[arg(long, default_value_t = 100, value_parser = at_least_one::<usize>)]
    pub(super) keys: usize,
    /// Clients that share keys, whose histories are judged as in `bench sim`
    #[arg(long, default_value_t = 4)]
    pub(super) sharing: usize,
    /// First seed of the faults
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

#[derive(Debug, Args)]
pub(super) struct ClusterArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Keys and values that are written first, MiB
    #[arg(long, default_value_t = 256, value_parser = at_least_one::<u64>)]
    pub(super) mib: u64,
    /// Regions that they are divided into
    #[arg(long, default_value_t = 64, value_parser = at_least_one::<usize>)]
    pub(super) regions: usize,
    /// Clients
    #[arg(long, default_value_t = 4, value_parser = at_least_one::<usize>)]
    pub(super) clients: usize,
    /// Keys of each client
    #[arg(long, default_value_t = 100, value_parser = at_least_one::<usize>)]
    pub(super) keys: usize,
    /// Silence after which a store counts as down, seconds
    #[arg(long, default_value_t = 10, value_parser = at_least_one::<u64>)]
    pub(super) down_seconds: u64,
    /// How long each phase may take, seconds
    #[arg(long, default_value_t = 300, value_parser = at_least_one::<u64>)]
    pub(super) phase_seconds: u64,
    /// Seed of the clients
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

#[derive(Debug, Args)]
pub(super) struct FailoverArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = at_least_one::<usize>)]
    pub(super) members: usize,
    /// Leaders to kill
    #[arg(long, default_value_t = 50)]
    pub(super) kills: usize,
    /// Ask nothing before each kill, so that the regions sleep where quiet_after is set
    #[arg(long)]
    pub(super) at_rest: bool,
    /// Times to hand over everything that a node leads
    #[arg(long, default_value_t = 10)]
    pub(super) transfers: usize,
    /// Nodes to drain
    #[arg(long, default_value_t = 6)]
    pub(super) drains: usize,
    /// Times to kill the node that hosts the scheduler's leader
    #[arg(long, default_value_t = 10)]
    pub(super) hosts: usize,
    /// Clients of the load while leadership moves
    #[arg(long, default_value_t = 6, value_parser = at_least_one::<usize>)]
    pub(super) clients: usize,
    /// Seed of the choices
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

#[derive(Debug, Args)]
pub(super) struct CatchupArguments {
    #[command(flatten)]
    pub(super) node: NodeArguments,
    /// Nodes; one of them is away
    #[arg(long, default_value_t = 3, value_parser = at_least_one::<usize>)]
    pub(super) members: usize,
    /// Keys and values to write while it is away, MiB
    #[arg(long, default_value_t = 1024, value_parser = at_least_one::<u64>)]
    pub(super) fill_mib: u64,
    /// Clients of the load meanwhile
    #[arg(long, default_value_t = 6, value_parser = at_least_one::<usize>)]
    pub(super) clients: usize,
}

#[derive(Debug, Args)]
pub(super) struct SimArguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 50, value_parser = at_least_one::<u64>)]
    pub(super) seeds: u64,
    /// Run this seed alone
    #[arg(long, conflicts_with_all = ["seeds", "first_seed"])]
    pub(super) seed: Option<u64>,
    /// Where to begin counting
    #[arg(long, default_value_t = 0)]
    pub(super) first_seed: u64,
    /// Runs at a time [default: one per CPU]
    #[arg(long, value_parser = at_least_one::<usize>)]
    pub(super) threads: Option<usize>,
    /// Go on after a seed that fails
    #[arg(long)]
    pub(super) keep_going: bool,
    /// A bug of `store::plant` that the nodes are given, to see whether it is caught
    #[arg(long, value_name = "BUG")]
    pub(super) plant: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct SchedulerArguments {
    /// Regions
    #[arg(long, default_value_t = 1_000_000, value_parser = at_least_one::<u64>)]
    pub(super) regions: u64,
    /// Nodes
    #[arg(long, default_value_t = 100, value_parser = at_least_one::<u64>)]
    pub(super) nodes: u64,
    /// Stores of each node
    #[arg(long, default_value_t = 10, value_parser = at_least_one::<u64>)]
    pub(super) stores_per_node: u64,
    /// Reports to measure the rate with
    #[arg(long, default_value_t = 2_000_000, value_parser = at_least_one::<u64>)]
    pub(super) reports: u64,
    /// Seed of sizes, loads and draws
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Draw how the cluster comes to rest after an empty node has joined, and after one has died
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
}

/// A count of which zero would leave nothing to measure.
pub(super) fn at_least_one<N: FromStr + From<bool> + PartialEq>(text: &str) -> Result<N, String> {
    match text.parse::<N>() {
        Ok(count) if count == N::from(false) => Err("nothing would be measured: write 1 or more".into()),
        Ok(count) => Ok(count),
        Err(_) => Err("write a whole number".into()),
    }
}

fn parse_key_bytes(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|error| format!("{error}: write a whole number"))?;
    if bytes < KEY_BYTES_MIN {
        return Err(format!("a key holds the number of its record: write {KEY_BYTES_MIN} or more"));
    }
    Ok(bytes)
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
