//! What clients notice when a leader goes: killed without a word, asked to hand over, or drained with its node.
//!
//! * **Killed**: for each region that the node led, a client at each other node writes one key again and again. The gap is the time from
//!   the kill to the first answer to a write that was begun after it. That includes the election timeout, which is drawn anew each time.
//! * **Handed over, drained**: a steady load runs at all nodes ([`steady`]); its worst second is compared with its usual one.
//!   No answer may be an error. A connection that the drained node closes is none: its client asks the next node.
//! * **Host killed**: the node that hosts the scheduler's leader; how long the others wait for ids, timestamps and a scheduler that acts
//!   ([`host`]).

mod gap;
mod host;

use std::time::{Duration, Instant};

pub use host::HostsKilled;
use serde::Serialize;

use crate::Failed;
use crate::clock::{now, pause};
use crate::process::{Cluster, NodeOptions};
use crate::random::Random;
use crate::report::median;
use crate::steady::{self, Seen, Steady};

/// How long a drain may take.
const DRAIN_MAX: Duration = Duration::from_secs(40);
/// How long a transfer may take from its request until the scheduler has heard of it.
const TRANSFER_MAX: Duration = Duration::from_secs(15);
/// The calm before each hand-over, which is the usual that it is compared with.
const CALM: Duration = Duration::from_secs(3);
/// The scheduler has heard of every leader by then.
const HEARD: Duration = Duration::from_millis(1200);
/// Regions that are asked nothing sleep by then.
const REST: Duration = Duration::from_secs(6);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start a node; the others get directories beside its data.
    pub node: NodeOptions,
    /// Nodes.
    pub members: usize,
    /// Leaders to kill.
    pub kills: usize,
    /// Nothing is asked before each kill for long enough that the regions sleep; the clients begin to write after it.
    pub at_rest: bool,
    /// Times to hand over everything that a node leads.
    pub transfers: usize,
    /// Nodes to drain.
    pub drains: usize,
    /// Times to kill the node that hosts the scheduler's leader.
    pub hosts: usize,
    /// Clients of the steady load.
    pub clients: usize,
    /// Seed of the choices.
    pub seed: u64,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct FailoverReport {
    /// Nodes.
    pub members: usize,
    /// Leaders killed.
    pub kills: usize,
    /// For each kill, region and node that a client was at: the time until a write was answered again, milliseconds.
    pub gaps_ms: Vec<f64>,
    /// Their median.
    pub gap_median_ms: f64,
    /// The longest.
    pub gap_worst_ms: f64,
    /// Leadership asked to move.
    pub transfers: Handover,
    /// Nodes drained.
    pub drains: Handover,
    /// Hosts of the scheduler killed.
    pub hosts: HostsKilled,
}

/// What the steady load saw of hand-overs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Handover {
    /// How many there were.
    pub times: usize,
    /// Requests meanwhile.
    pub requests: u64,
    /// Of these, the ones that were answered with an error.
    pub errors: u64,
    /// The first errors.
    pub first_errors: Vec<String>,
    /// Connections that were closed.
    pub closed: u64,
    /// The 99th percentile of a usual second, milliseconds: median over the seconds before.
    pub usual_p99_ms: f64,
    /// That of the worst second of each hand-over: median over them.
    pub p99_ms: f64,
    /// The worst of all seconds.
    pub worst_p99_ms: f64,
}

/// Measures.
///
/// # Errors
/// The cluster does not start, does not come to rest, or a write is not answered in time.
pub fn measure(options: &Options, say: &mut dyn FnMut(&str)) -> Result<FailoverReport, Failed> {
    say(&format!("starting {} nodes", options.members));
    let mut cluster = Cluster::start(&options.node, options.members)?;
    let mut random = Random::new(options.seed);
    let mut gaps_ms = Vec::new();
    for n in 0..options.kills {
        let gaps = gap::after_a_kill(&mut cluster, &mut random, options.at_rest)?;
        let worst = gaps.iter().copied().fold(0.0, f64::max);
        say(&format!(
            "kill {} of {}: {} writers, the longest gap {worst:.0} ms",
            n + 1,
            options.kills,
            gaps.len()
        ));
        gaps_ms.extend(gaps);
    }
    let hosts = host::kill(&mut cluster, (options.hosts, options.at_rest), say)?;
    let transfers = handovers(&mut cluster, options, options.transfers, transfer, say)?;
    let drains = handovers(&mut cluster, options, options.drains, drain, say)?;
    cluster.terminate(DRAIN_MAX)?;
    Ok(FailoverReport {
        members: options.members,
        kills: options.kills,
        gap_median_ms: median(&gaps_ms),
        gap_worst_ms: gaps_ms.iter().copied().fold(0.0, f64::max),
        gaps_ms,
        transfers,
        drains,
        hosts,
    })
}

/// Hands over this many times under a steady load.
fn handovers(
    cluster: &mut Cluster,
    options: &Options,
    times: usize,
    hand_over: fn(&mut Cluster, usize) -> Result<(), Failed>,
    say: &mut dyn FnMut(&str),
) -> Result<Handover, Failed> {
    let mut found = Handover { times, ..Handover::default() };
    let (mut usual, mut worst) = (Vec::new(), Vec::new());
    for n in 0..times {
        cluster.wait_until_replicated()?;
        pause(HEARD);
        let steady = Steady::start(&steady::Options {
            nodes: cluster.nodes.iter().flatten().map(|node| node.resp).collect(),
            clients: options.clients,
            keys: 10_000,
            value_bytes: 128,
            apart: Duration::from_millis(2),
            write_every: 2,
        });
        // What a connection does first is not usual.
        pause(Duration::from_millis(500));
        let calm = now();
        pause(CALM);
        let began = now();
        let handed = hand_over(cluster, n % options.members);
        pause(Duration::from_secs(1));
        let ended = now();
        let seen = steady.finish()?;
        handed?;
        usual.extend(seen.p99_of_seconds_ms(calm, began));
        let seconds = seen.p99_of_seconds_ms(began, ended);
        worst.push(seconds.into_iter().fold(0.0, f64::max));
        found.count(&seen, began, ended);
        say(&format!(
            "hand-over {} of {times}: p99 of the worst second {:.1} ms, {} errors so far",
            n + 1,
            worst.last().copied().unwrap_or_default(),
            found.errors
        ));
        if cluster.nodes[n % options.members].is_none() {
            cluster.restart(n % options.members)?;
        }
    }
    (found.usual_p99_ms, found.p99_ms) = (median(&usual), median(&worst));
    found.worst_p99_ms = worst.into_iter().fold(0.0, f64::max);
    Ok(found)
}

/// Everything that a node leads goes to the next one.
fn transfer(cluster: &mut Cluster, node: usize) -> Result<(), Failed> {
    let stores = cluster.stores()?;
    let to = stores.get((node + 1) % stores.len()).and_then(|stores| stores.first().copied());
    let to = to.ok_or_else(|| Failed::new("the next node has no store"))?;
    let leads = |region: &store::wire::proto::pdpb::Region| {
        region.leader.as_ref().is_some_and(|leader| stores[node].contains(&leader.store_id))
    };
    let led: Vec<u64> = cluster
        .regions()?
        .iter()
        .filter(|region| leads(region))
        .filter_map(|region| Some(region.region.as_ref()?.id))
        .collect();
    for region in &led {
        cluster.transfer(*region, to)?;
    }
    let began = now();
    while began.elapsed() < TRANSFER_MAX {
        let still = cluster.regions()?.iter().filter(|region| leads(region)).count();
        if still == 0 {
            return Ok(());
        }
        pause(Duration::from_millis(50));
    }
    Err(Failed::new(format!("{} regions are not handed over within {TRANSFER_MAX:?}", led.len())))
}

fn drain(cluster: &mut Cluster, node: usize) -> Result<(), Failed> {
    let mut drained = cluster.nodes[node].take().ok_or_else(|| Failed::new("the node does not run"))?;
    drained.process.ask_to_end();
    drained.process.wait(DRAIN_MAX)
}

impl Handover {
    fn count(&mut self, seen: &Seen, from: Instant, to: Instant) {
        let (requests, errors) = seen.count(from, to);
        self.requests += requests;
        self.errors += errors;
        self.closed += seen.closed;
        let room = 10usize.saturating_sub(self.first_errors.len());
        let inside = seen.errors.iter().filter(|(at, _)| *at >= from && *at < to);
        self.first_errors.extend(inside.take(room).map(|(_, error)| error.clone()));
    }

    fn line(&self, name: &str) -> String {
        let ratio = if self.usual_p99_ms > 0.0 { self.p99_ms / self.usual_p99_ms } else { 0.0 };
        let mut text = format!(
            "  {name:<10} {:>3} times, {} requests, {} errors, {} connections closed; p99 of the worst second {:.1} ms (worst of all \
             {:.1}), of a usual one {:.1} ms, ratio {ratio:.1}\n",
            self.times,
            self.requests,
            self.errors,
            self.closed,
            self.p99_ms,
            self.worst_p99_ms,
            self.usual_p99_ms
        );
        for error in &self.first_errors {
            text.push_str(&format!("             {error}\n"));
        }
        text
    }
}

impl FailoverReport {
    /// Whether no hand-over was an error to a client, and the scheduler gave nothing out twice.
    pub fn passed(&self) -> bool {
        self.transfers.errors + self.drains.errors == 0 && self.hosts.passed()
    }

    /// A text for people.
    pub fn table(&self) -> String {
        format!(
            "failover: {} nodes\n  {:<10} {:>3} times, {} gaps: median {:.0} ms, worst {:.0} ms (an election timeout is drawn from 1000 \
             to 2000 ms)\n{}{}{}",
            self.members,
            "killed",
            self.kills,
            self.gaps_ms.len(),
            self.gap_median_ms,
            self.gap_worst_ms,
            self.hosts.lines(),
            self.transfers.line("transfers"),
            self.drains.line("drains")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_while_leadership_moves_is_a_failure_that_is_shown() {
        let mut report = FailoverReport {
            members: 3,
            kills: 2,
            gaps_ms: vec![900.0, 1500.0],
            gap_median_ms: 1200.0,
            gap_worst_ms: 1500.0,
            transfers: Handover { usual_p99_ms: 2.0, p99_ms: 5.0, ..Handover::default() },
            drains: Handover::default(),
            hosts: HostsKilled::default(),
        };
        assert!(report.passed() && report.table().contains("ratio 2.5"), "{}", report.table());
        let began = now();
        let sample = |ms: u64| steady::Sample {
            at: began + Duration::from_millis(ms),
            took: Duration::from_millis(1),
            failed: ms == 10,
        };
        let seen = Seen {
            samples: vec![sample(5), sample(10), sample(2_000)],
            errors: vec![(began + Duration::from_millis(10), "-CLUSTERDOWN no leader".to_owned())],
            closed: 1,
        };
        report.drains.count(&seen, began, began + Duration::from_secs(1));
        assert_eq!((report.drains.requests, report.drains.errors), (2, 1));
        assert!(!report.passed() && report.table().contains("CLUSTERDOWN"), "{}", report.table());
    }
}
