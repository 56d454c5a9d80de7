//! What regions at rest cost, by their number: memory, starts, CPU, and the first write to one that sleeps.
//!
//! One cluster grows: regions are cut at keys by the calls that a client has for it, then everything is left alone and measured.
//! Memory counts by what it grew since the cluster had its first regions, after a start, so that memtables and freed pages of the
//! cutting are not taken for what a region costs. The node that hosts the scheduler has its map beside its replicas; with several
//! members the others show what the replicas alone cost.
//!
//! What holds: every number of one row was taken of the same regions; no process outlives the measurement.

use std::time::Duration;

use serde::Serialize;

use crate::Failed;
use crate::clock::{now, pause};
use crate::idle::{border, write_each};
use crate::process::{Cluster, Node, NodeOptions};
use crate::report::table;

/// How long a drain may take here.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// How long it may take to cut regions, or to replicate them.
const CUT_MAX: Duration = Duration::from_secs(900);
/// Keys of one call, as many as it takes.
const KEYS_PER_CALL: usize = 1024;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start the nodes; their directories must be empty.
    pub node: NodeOptions,
    /// Nodes, each with a replica of every region.
    pub members: usize,
    /// Numbers of regions, growing.
    pub counts: Vec<usize>,
    /// How long groups may take to fall asleep, and freed memory to be given back, before they are looked at.
    pub settle: Duration,
    /// How long to leave them alone.
    pub idle: Duration,
}

/// What one number of regions costs.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Regions, each with a replica on every node.
    pub regions: usize,
    /// How long it took to make those that the row before did not have, seconds.
    pub cut_seconds: f64,
    /// CPU time while all are left alone, per cent of one core, of each node.
    pub cpu_percent: Vec<f64>,
    /// Resident memory of each node, MiB.
    pub resident_mib: Vec<f64>,
    /// What that is more than at first, by the replicas that came since, bytes; absent in the first one.
    pub bytes_per_replica: Vec<f64>,
    /// Start to ready after a drain, milliseconds, of the node that hosts the scheduler.
    pub start_after_drain_ms: f64,
    /// The same after SIGKILL.
    pub start_after_kill_ms: f64,
    /// From that on, until every region is led and replicated as the scheduler sees it, milliseconds.
    pub whole_after_ms: f64,
    /// One write to each of some regions that sleep, the median, milliseconds.
    pub first_write_ms: f64,
    /// The same once more.
    pub next_write_ms: f64,
}

/// The curve.
#[derive(Clone, Debug, Serialize)]
pub struct RegionsReport {
    /// Nodes.
    pub members: usize,
    /// How long they were left alone, seconds.
    pub idle_seconds: f64,
    /// By the number of regions.
    pub rows: Vec<Cost>,
}

/// Measures.
///
/// # Errors
/// A node does not start or does not stop, or regions are not cut.
pub fn measure(options: &Options, say: &mut dyn FnMut(&str)) -> Result<RegionsReport, Failed> {
    if !options.counts.is_sorted() {
        return Err(Failed::new("name the numbers of regions in order, the least first"));
    }
    say(&format!("starting {} nodes", options.members));
    let mut cluster = Cluster::start(&options.node, options.members)?;
    // It would move one region after the other for as long as a store has more of them, and a region on its way is not at rest.
    cluster.switch_off("balance-core")?;
    let mut rows: Vec<Cost> = Vec::new();
    let mut cut_upto = 0;
    for count in &options.counts {
        let began = now();
        cut_upto = cut(&cluster, cut_upto, *count, say)?;
        cluster.wait_until_replicated_within(CUT_MAX)?;
        let cut_seconds = began.elapsed().as_secs_f64();
        let row = look(&mut cluster, rows.first(), cut_seconds, options, say)?;
        rows.push(row);
    }
    cluster.terminate(DRAIN_MAX)?;
    Ok(RegionsReport { members: options.members, idle_seconds: options.idle.as_secs_f64(), rows })
}

/// Measures what is there now.
fn look(
    cluster: &mut Cluster,
    first: Option<&Cost>,
    cut_seconds: f64,
    options: &Options,
    say: &mut dyn FnMut(&str),
) -> Result<Cost, Failed> {
    let regions = cluster.regions()?.len();
    say(&format!("starting again with {regions} regions"));
    cluster.stop(0, DRAIN_MAX)?;
    let start_after_drain_ms = millis(cluster.restart(0)?.start_to_ready);
    cluster.wait_until_replicated_within(CUT_MAX)?;
    cluster.kill(0)?;
    let began = now();
    let start_after_kill_ms = millis(cluster.restart(0)?.start_to_ready);
    cluster.wait_until_replicated_within(CUT_MAX)?;
    let whole_after_ms = millis(began.elapsed());
    say(&format!("leaving {regions} regions alone"));
    pause(options.settle);
    let before = each(cluster, |node| node.process.cpu_time())?;
    pause(options.idle);
    let after = each(cluster, |node| node.process.cpu_time())?;
    let share = |(before, after): (&Duration, &Duration)| {
        100.0 * after.saturating_sub(*before).as_secs_f64() / options.idle.as_secs_f64()
    };
    let cpu_percent = before.iter().zip(&after).map(share).collect();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let resident_mib = each(cluster, |node| node.process.resident_bytes().map(mib))?;
    let per_replica = |first: &Cost| -> Vec<f64> {
        let more = regions.saturating_sub(first.regions).max(1) as f64;
        let grown = |(now, then): (&f64, &f64)| (now - then) * f64::from(1 << 20) / more;
        resident_mib.iter().zip(&first.resident_mib).map(grown).collect()
    };
    let bytes_per_replica = first.map(per_replica).unwrap_or_default();
    say("writing to some of them");
    let resp = cluster.nodes.iter().flatten().next().ok_or_else(|| Failed::new("no node runs"))?.resp;
    let (first_write_ms, next_write_ms) = (write_each(resp, regions)?, write_each(resp, regions)?);
    Ok(Cost {
        regions,
        cut_seconds,
        cpu_percent,
        resident_mib,
        bytes_per_replica,
        start_after_drain_ms,
        start_after_kill_ms,
        whole_after_ms,
        first_write_ms,
        next_write_ms,
    })
}

fn each<T>(cluster: &Cluster, ask: impl FnMut(&Node) -> Result<T, Failed>) -> Result<Vec<T>, Failed> {
    cluster.nodes.iter().flatten().map(ask).collect()
}

/// Cuts regions at the keys from number `from` on, until there are `upto` regions. The number of the next key.
fn cut(cluster: &Cluster, from: usize, upto: usize, say: &mut dyn FnMut(&str)) -> Result<usize, Failed> {
    let lacking = upto.saturating_sub(cluster.regions()?.len());
    let keys: Vec<Vec<u8>> = (from..from + lacking).map(border).collect();
    let began = now();
    for (n, keys) in keys.chunks(KEYS_PER_CALL).enumerate() {
        // A call gives up after a while, and what it has begun goes on.
        while cluster.cut(keys)? < 100 {
            if began.elapsed() > CUT_MAX {
                return Err(Failed::new(format!("{lacking} regions are not cut after {CUT_MAX:?}")));
            }
        }
        say(&format!("cutting: {} of {lacking}", (n * KEYS_PER_CALL + keys.len())));
    }
    Ok(from + lacking)
}

impl RegionsReport {
    /// A table for people.
    pub fn table(&self) -> String {
        let list = |numbers: &[f64], decimals: usize| match numbers.is_empty() {
            true => "-".to_owned(),
            false => {
                numbers.iter().map(|number| format!("{number:.decimals$}")).collect::<Vec<_>>().join(" ")
            }
        };
        let mut rows = vec![
            [
                "regions",
                "made in, s",
                "CPU, % of a core",
                "MiB",
                "bytes/replica",
                "start, ms",
                "after SIGKILL",
                "whole",
                "1st write, ms",
                "next",
            ]
            .map(String::from),
        ];
        for row in &self.rows {
            rows.push([
                row.regions.to_string(),
                format!("{:.1}", row.cut_seconds),
                list(&row.cpu_percent, 2),
                list(&row.resident_mib, 0),
                list(&row.bytes_per_replica, 0),
                format!("{:.0}", row.start_after_drain_ms),
                format!("{:.0}", row.start_after_kill_ms),
                format!("{:.0}", row.whole_after_ms),
                format!("{:.2}", row.first_write_ms),
                format!("{:.2}", row.next_write_ms),
            ]);
        }
        let (members, seconds) = (self.members, self.idle_seconds);
        format!(
            "{members} nodes, left alone for {seconds:.0} s; of several, in the order of their nodes\n{}",
            table(&rows)
        )
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
