//! What an idle node costs, alone or in a cluster, and how long it takes to start.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Serialize;

use crate::Failed;
use crate::clock::{now, pause};
use crate::load;
use crate::process::{Cluster, Node, NodeOptions};
use crate::report::{median, table};
use crate::resp::{acknowledgement, command};

/// Length of the values that fill the node before its restart is timed.
const FILL_VALUE_BYTES: usize = 1024;
/// How long a drain may take here.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// How long it may take to make regions, and the pause between two looks.
const SPLIT_MAX: Duration = Duration::from_secs(300);
const SPLIT_PAUSE: Duration = Duration::from_millis(500);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start the node; its directory must be empty.
    pub node: NodeOptions,
    /// How long to leave it alone.
    pub idle: Duration,
    /// Restarts on the almost empty directory.
    pub starts: usize,
    /// Data to write before the last start is timed, bytes; 0 leaves that out.
    pub fill_bytes: u64,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct IdleReport {
    /// Stores of the node.
    pub stores: usize,
    /// How long it was left alone.
    pub idle_seconds: f64,
    /// CPU time meanwhile, per cent of one core, for each store.
    pub cpu_percent_per_store: f64,
    /// Start of the process to ready, on an empty directory.
    pub first_start_ms: f64,
    /// The same on a directory that exists, median.
    pub restart_ms: f64,
    /// Bytes that were written.
    pub fill_bytes: u64,
    /// The same after those bytes and a drain.
    pub start_after_drain_ms: Option<f64>,
    /// The same after those bytes and SIGKILL.
    pub start_after_kill_ms: Option<f64>,
}

/// Measures.
///
/// # Errors
/// The node does not start or does not stop.
pub fn measure(options: &Options, say: &mut dyn FnMut(&str)) -> Result<IdleReport, Failed> {
    say("starting on an empty directory");
    let mut node = Node::start(&options.node)?;
    let first_start_ms = millis(node.start_to_ready);
    let mut restarts = Vec::new();
    for _ in 0..options.starts {
        node = restart(node, options)?;
        restarts.push(millis(node.start_to_ready));
    }
    say("leaving it alone");
    // What follows a start (zeroing segments, first heartbeats) is not idleness.
    pause(Duration::from_secs(2));
    let before = node.process.cpu_time()?;
    pause(options.idle);
    let cpu = node.process.cpu_time()?.saturating_sub(before);
    let stores = node.stores.max(1);
    let cpu_percent_per_store = 100.0 * cpu.as_secs_f64() / options.idle.as_secs_f64() / stores as f64;
    let (mut start_after_drain_ms, mut start_after_kill_ms) = (None, None);
    if options.fill_bytes > 0 {
        say("filling it");
        load::fill(node.resp, options.fill_bytes, FILL_VALUE_BYTES)?;
        say("restarting it");
        node = restart(node, options)?;
        start_after_drain_ms = Some(millis(node.start_to_ready));
        load::fill(node.resp, options.fill_bytes / 8, FILL_VALUE_BYTES)?;
        node.process.kill();
        node = Node::start(&options.node)?;
        start_after_kill_ms = Some(millis(node.start_to_ready));
    }
    node.process.terminate(DRAIN_MAX)?;
    Ok(IdleReport {
        stores,
        idle_seconds: options.idle.as_secs_f64(),
        cpu_percent_per_store,
        first_start_ms,
        restart_ms: median(&restarts),
        fill_bytes: options.fill_bytes,
        start_after_drain_ms,
        start_after_kill_ms,
    })
}

/// What an idle cluster costs.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterIdleReport {
    /// Regions, each with a replica on every node.
    pub regions: usize,
    /// How long it was left alone.
    pub idle_seconds: f64,
    /// CPU time meanwhile, per cent of one core, of each node.
    pub cpu_percent: Vec<f64>,
    /// Then one write to each of some regions, by one client at one node: the median time until it was answered, milliseconds.
    pub first_write_ms: f64,
    /// The same once more, of the regions that were waked by the first.
    pub next_write_ms: f64,
}

/// Regions that are written to after they were left alone.
const WRITES: usize = 100;

/// Starts a cluster, splits its regions until there are `regions_min`, leaves it alone, and measures what its nodes do meanwhile.
///
/// # Errors
/// It does not start or does not stop, or its regions are not split.
pub fn measure_cluster(
    node: &NodeOptions,
    members: usize,
    regions_min: usize,
    idle: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<ClusterIdleReport, Failed> {
    say(&format!("starting {members} nodes"));
    let cluster = Cluster::start(node, members)?;
    split_up(&cluster, regions_min, say)?;
    let regions = cluster.regions()?.len();
    say(&format!("leaving them and their {regions} regions alone"));
    // Leaders are spread, and segments are zeroed.
    pause(Duration::from_secs(10));
    let cpu_times = || -> Result<Vec<Duration>, Failed> {
        cluster.nodes.iter().flatten().map(|node| node.process.cpu_time()).collect()
    };
    let before = cpu_times()?;
    pause(idle);
    let after = cpu_times()?;
    let share = |(before, after): (&Duration, &Duration)| {
        100.0 * after.saturating_sub(*before).as_secs_f64() / idle.as_secs_f64()
    };
    let cpu_percent = before.iter().zip(&after).map(share).collect();
    say("writing to them");
    let node = cluster.nodes.iter().flatten().next().ok_or_else(|| Failed::new("no node runs"))?;
    let (first_write_ms, next_write_ms) = (write_each(node.resp, regions)?, write_each(node.resp, regions)?);
    cluster.terminate(DRAIN_MAX)?;
    Ok(ClusterIdleReport {
        regions,
        idle_seconds: idle.as_secs_f64(),
        cpu_percent,
        first_write_ms,
        next_write_ms,
    })
}

/// Writes one key of each of some regions, one after the other. The median time of a write, milliseconds.
pub(crate) fn write_each(addr: SocketAddr, regions: usize) -> Result<f64, Failed> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    let mut times_ms = Vec::new();
    for n in (0..regions).step_by((regions / WRITES).max(1)) {
        let mut request = Vec::new();
        command(&mut request, &[b"SET", border(n).as_slice(), b"v"]);
        let began = now();
        connection.get_mut().write_all(&request)?;
        if let Some(refused) = acknowledgement(&mut connection)? {
            return Err(Failed::new(format!("a write to a region that was left alone: {refused}")));
        }
        times_ms.push(millis(began.elapsed()));
    }
    Ok(median(&times_ms))
}

/// The first key of a region.
pub(crate) fn border(n: usize) -> Vec<u8> {
    format!("idle{n:07}").into_bytes()
}

/// Splits regions in halves, all that are too large at once, until there are enough.
fn split_up(cluster: &Cluster, regions_min: usize, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
    let (first, began) = (cluster.regions()?.len(), now());
    let borders: Vec<Vec<u8>> = (first..regions_min).map(border).collect();
    loop {
        let regions = cluster.regions()?;
        if regions.len() >= regions_min {
            return cluster.wait_until_replicated();
        }
        if began.elapsed() > SPLIT_MAX {
            let why = format!("there are {} regions of {regions_min} after {SPLIT_MAX:?}", regions.len());
            return Err(Failed::new(why));
        }
        say(&format!("splitting: {} regions of {regions_min}", regions.len()));
        for region in regions.iter().filter_map(|known| known.region.as_ref()) {
            let from = borders.partition_point(|border| border[..] <= region.start_key[..]);
            let to = match region.end_key.is_empty() {
                true => borders.len(),
                false => borders.partition_point(|border| border[..] < region.end_key[..]),
            };
            if let Some(border) = borders.get(from..to).and_then(|inside| inside.get(inside.len() / 2)) {
                // What is refused now, because there is something else to do first, is asked again.
                drop(cluster.split(region.id, border));
            }
        }
        pause(SPLIT_PAUSE);
    }
}

impl ClusterIdleReport {
    /// A table for people.
    pub fn table(&self) -> String {
        let mut rows = vec![["", "CPU, % of a core"].map(String::from)];
        for (n, percent) in self.cpu_percent.iter().enumerate() {
            rows.push([format!("node {}", n + 1), format!("{percent:.2}")]);
        }
        format!(
            "{} nodes with {} regions, left alone for {:.0} s\n{}first write to a region {:.2} ms, next {:.2} ms\n",
            self.cpu_percent.len(),
            self.regions,
            self.idle_seconds,
            table(&rows),
            self.first_write_ms,
            self.next_write_ms,
        )
    }
}

fn restart(node: Node, options: &Options) -> Result<Node, Failed> {
    node.process.terminate(DRAIN_MAX)?;
    Node::start(&options.node)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl IdleReport {
    /// A table for people.
    pub fn table(&self) -> String {
        let optional = |ms: Option<f64>| ms.map_or_else(|| "not measured".into(), |ms| format!("{ms:.0} ms"));
        format!(
            "{} stores, left alone for {:.0} s\n\
             \x20 CPU per store                   {:.2} % of a core\n\
             \x20 start to ready, empty           {:.0} ms\n\
             \x20 start to ready, existing        {:.0} ms\n\
             \x20 after {:>5} MiB and a drain     {}\n\
             \x20 after {:>5} MiB and SIGKILL     {}\n",
            self.stores,
            self.idle_seconds,
            self.cpu_percent_per_store,
            self.first_start_ms,
            self.restart_ms,
            self.fill_bytes >> 20,
            optional(self.start_after_drain_ms),
            (self.fill_bytes + self.fill_bytes / 8) >> 20,
            optional(self.start_after_kill_ms),
        )
    }
}
