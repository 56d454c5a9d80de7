//! `ringkeep bench`: runs the measurements of the `bench` crate and shows their reports.

mod arguments;
mod compare;
mod scale;
mod sim;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bench::client::Protocol;
use bench::load::{Phases, Stop};
use bench::process::{NodeOptions, Ports};
use bench::report::RunReport;
use bench::workload::{Spread, Workload};
use bench::{
    Failed, abuse, backlog, catchup, chaos, cluster, crash, disk, failover, idle, latency, load, pressure,
    protocols, regions, scheduler, timestamps,
};
use store::config::Config;

pub(crate) use arguments::BenchArguments;
use arguments::{
    AbuseArguments, CatchupArguments, ChaosArguments, ClusterArguments, CrashArguments, FailoverArguments,
    IdleArguments, LatencyArguments, NodeArguments, PhaseName, PressureArguments, ProtocolName,
    ProtocolsArguments, RegionsArguments, RunArguments, SchedulerArguments, SpreadName, TimestampsArguments,
    What,
};

use crate::output::{Format, answer, fail, remark};
use crate::signals;

/// Runs `ringkeep bench`.
pub(crate) fn run(arguments: &BenchArguments) -> ExitCode {
    let outcome = match &arguments.what {
        What::Run(run) => {
            load(run).and_then(|report| deliver(arguments, &report, RunReport::table, |_| true))
        }
        What::Disk(run) => disk::measure(&run.dir, Duration::from_secs(run.seconds))
            .and_then(|report| deliver(arguments, &report, disk::DiskReport::table, |_| true)),
        What::Compare { peer } => compare::run(arguments, peer),
        What::Latency(run) => latency(run)
            .and_then(|report| deliver(arguments, &report, latency::LatencyFloorReport::table, |_| true)),
        What::Protocols(run) => protocols(run).and_then(|report| {
            deliver(arguments, &report, protocols::ProtocolsReport::table, protocols::ProtocolsReport::passed)
        }),
        What::Pressure(run) => pressure(run).and_then(|report| {
            deliver(arguments, &report, pressure::PressureReport::table, pressure::PressureReport::passed)
        }),
        What::Idle(run) if run.members > 1 => idle_cluster(run)
            .and_then(|report| deliver(arguments, &report, idle::ClusterIdleReport::table, |_| true)),
        What::Idle(run) => {
            idle(run).and_then(|report| deliver(arguments, &report, idle::IdleReport::table, |_| true))
        }
        What::Crash(run) => crash(run).and_then(|report| {
            deliver(arguments, &report, crash::CrashReport::table, crash::CrashReport::passed)
        }),
        What::Regions(run) => regions(run)
            .and_then(|report| deliver(arguments, &report, regions::RegionsReport::table, |_| true)),
        What::Abuse(run) => abuse(run).and_then(|report| {
            deliver(arguments, &report, abuse::AbuseReport::table, abuse::AbuseReport::passed)
        }),
        What::Timestamps(run) => timestamps(run).and_then(|report| {
            let passed = timestamps::TimestampsReport::passed;
            deliver(arguments, &report, timestamps::TimestampsReport::table, passed)
        }),
        What::Chaos(run) => chaos(run).and_then(|report| {
            deliver(arguments, &report, chaos::ChaosReports::table, chaos::ChaosReports::passed)
        }),
        What::Cluster(run) => cluster(run).and_then(|report| {
            deliver(arguments, &report, cluster::ClusterReport::table, cluster::ClusterReport::passed)
        }),
        What::Failover(run) => failover(run).and_then(|report| {
            deliver(arguments, &report, failover::FailoverReport::table, failover::FailoverReport::passed)
        }),
        What::Catchup(run) => catchup(run)
            .and_then(|report| deliver(arguments, &report, catchup::CatchupReport::table, |_| true)),
        What::Sim(run) => sim::run(arguments, run),
        What::Scale(run) => scale::run(arguments, run),
        What::Scheduler(run) => large_cluster(run).and_then(|report| {
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
            records: run.records,
            key_bytes: run.key_bytes,
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
        server_pids: run.server_pid.into_iter().collect(),
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
        requests: run.requests,
        connections: run.connections,
        records: run.records,
        value_bytes: run.value_bytes,
    };
    protocols::measure(&options, &mut remark)
}

fn pressure(run: &PressureArguments) -> Result<pressure::PressureReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = pressure::Options {
        node: scratch.node(&run.node)?,
        directory: scratch.0.clone(),
        records: run.records,
        value_bytes: run.value_bytes,
        connections: run.connections,
        pipeline: run.pipeline,
    };
    pressure::measure(&options, &mut remark)
}

fn idle(run: &IdleArguments) -> Result<idle::IdleReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = idle::Options {
        node: scratch.node(&run.node)?,
        idle: Duration::from_secs(run.seconds),
        starts: run.starts,
        fill_bytes: run.fill_mib << 20,
    };
    idle::measure(&options, &mut remark)
}

fn idle_cluster(run: &IdleArguments) -> Result<idle::ClusterIdleReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let node = scratch.node(&run.node)?;
    idle::measure_cluster(&node, run.members, run.regions, Duration::from_secs(run.seconds), &mut remark)
}

fn regions(run: &RegionsArguments) -> Result<regions::RegionsReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = regions::Options {
        node: scratch.node(&run.node)?,
        members: run.members,
        counts: run.counts.clone(),
        settle: Duration::from_secs(run.settle_seconds),
        idle: Duration::from_secs(run.seconds),
    };
    regions::measure(&options, &mut remark)
}

fn abuse(run: &AbuseArguments) -> Result<abuse::AbuseReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let victim = match run.addr {
        Some(resp) => {
            abuse::Victim::Running { resp, status: run.status_addr, pd: run.pd_addr, pid: run.server_pid }
        }
        None => abuse::Victim::Own(scratch.node(&run.node)?),
    };
    let (each, p99_max) = (Duration::from_secs(run.seconds), Duration::from_millis(run.p99_ms));
    abuse::run(&abuse::Options { victim, each, only: run.cases.clone(), p99_max }, &mut remark)
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

fn timestamps(run: &TimestampsArguments) -> Result<timestamps::TimestampsReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = timestamps::Options {
        node: scratch.node(&run.node)?,
        rounds: run.rounds,
        batches: run.batches,
        count: run.count,
        connections: run.connections,
        in_flight: run.in_flight,
    };
    timestamps::measure(&options, &mut remark)
}

fn chaos(run: &ChaosArguments) -> Result<chaos::ChaosReports, Failed> {
    let mut runs = Vec::new();
    for seed in run.seed..run.seed.saturating_add(run.seeds) {
        // Each run has a directory of its own, which the one before has removed unless it is evidence.
        let mut scratch = Scratch::create(&run.node)?;
        let options = chaos::Options {
            node: scratch.node(&run.node)?,
            members: run.members,
            time: Duration::from_secs(run.minutes.map_or(run.seconds, |minutes| minutes * 60)),
            clients: run.clients,
            keys: run.keys,
            sharing: run.sharing,
            seed,
        };
        let report = chaos::run(&options, &mut remark);
        let passed = report.as_ref().is_ok_and(chaos::ChaosReport::passed);
        if !passed {
            scratch.keep();
        }
        runs.push(report?);
        if !passed {
            break;
        }
        if run.seeds > 1 {
            remark(&runs.last().map(chaos::ChaosReport::table).unwrap_or_default());
        }
    }
    Ok(chaos::ChaosReports { runs })
}

fn cluster(run: &ClusterArguments) -> Result<cluster::ClusterReport, Failed> {
    let stop =
        signals::noted().map_err(|error| Failed::new(format!("signals cannot be handled: {error}")))?;
    let mut scratch = Scratch::create(&run.node)?;
    let options = cluster::Options {
        node: scratch.node(&run.node)?,
        fill_bytes: run.mib << 20,
        regions: run.regions,
        clients: run.clients,
        keys: run.keys,
        down: Duration::from_secs(run.down_seconds),
        phase_max: Duration::from_secs(run.phase_seconds),
        seed: run.seed,
        stop,
    };
    let report = cluster::run(&options, &mut remark);
    if !report.as_ref().is_ok_and(cluster::ClusterReport::passed) {
        scratch.keep();
    }
    report
}

fn failover(run: &FailoverArguments) -> Result<failover::FailoverReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = failover::Options {
        node: scratch.node(&run.node)?,
        members: run.members,
        kills: run.kills,
        at_rest: run.at_rest,
        transfers: run.transfers,
        drains: run.drains,
        hosts: run.hosts,
        clients: run.clients,
        seed: run.seed,
    };
    failover::measure(&options, &mut remark)
}

fn catchup(run: &CatchupArguments) -> Result<catchup::CatchupReport, Failed> {
    let scratch = Scratch::create(&run.node)?;
    let options = catchup::Options {
        node: scratch.node(&run.node)?,
        members: run.members,
        fill_bytes: run.fill_mib << 20,
        clients: run.clients,
    };
    catchup::measure(&options, &mut remark)
}

fn large_cluster(run: &SchedulerArguments) -> Result<scheduler::ScaleReport, Failed> {
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
            environment: Vec::new(),
            ports: Ports::default(),
            own_group: false,
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
