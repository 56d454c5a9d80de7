//! A cluster of real processes under load while its nodes are killed, paused, drained and cut off: what do its clients see?
//!
//! Most keys have one writer, which reads them back at whichever node it happens to be connected to. So each read is judged at once:
//! it must be what was acknowledged or read last, or a write whose answer was never heard ([`register`]). After the faults every
//! node is asked for every key of these. Other clients share keys, which they read, write, add to and delete, several at once, too;
//! what they heard is judged as one history by the judge of the simulator (`shared`).
//!
//! The faults come one at a time from a seed ([`fault`]); the operations in between depend on the machine. Links between nodes are cut in
//! one direction or both; those to the clients stay whole.

pub(crate) mod client;
mod connection;
mod fault;
pub mod register;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use client::{Client, Shared};
use shared::Ledger;

use crate::Failed;
use crate::clock::{now, pause};
use crate::process::{Cluster, NodeOptions};
use crate::random::Random;

/// How long the cluster may take to serve again after the last fault.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// How long a drain may take.
const DRAIN_MAX: Duration = Duration::from_secs(40);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start a node; the others get directories beside its data.
    pub node: NodeOptions,
    /// Nodes.
    pub members: usize,
    /// How long faults come.
    pub time: Duration,
    /// Clients that have keys of their own.
    pub clients: usize,
    /// Keys of each of these.
    pub keys: usize,
    /// Clients that share keys.
    pub sharing: usize,
    /// Seed of the faults.
    pub seed: u64,
}

/// What several seeds came to.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosReports {
    /// One for each seed.
    pub runs: Vec<ChaosReport>,
}

impl ChaosReports {
    /// Whether nothing was wrong with any.
    pub fn passed(&self) -> bool {
        self.runs.iter().all(ChaosReport::passed)
    }

    /// A text for people.
    pub fn table(&self) -> String {
        self.runs.iter().map(ChaosReport::table).collect()
    }
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChaosReport {
    /// The seed of the faults.
    pub seed: u64,
    /// Nodes.
    pub members: usize,
    /// Nodes killed.
    pub kills: u64,
    /// Nodes that stood still for a while.
    pub pauses: u64,
    /// Nodes drained and started again.
    pub drains: u64,
    /// All nodes killed at once.
    pub blackouts: u64,
    /// Nodes cut off from the others in both directions, or from one of them.
    pub cuts: u64,
    /// Links cut in one direction only.
    pub one_way_cuts: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes whose outcome was not heard.
    pub unknown: u64,
    /// Of those, the ones that were read later.
    pub unknown_happened: u64,
    /// Reads that were answered and judged.
    pub read: u64,
    /// Requests refused, to be repeated.
    pub refused: u64,
    /// Operations on shared keys that were answered and judged.
    pub shared: u64,
    /// Operations on shared keys whose outcome was not heard.
    pub shared_unknown: u64,
    /// The longest time that a client had no success, milliseconds.
    pub longest_gap_ms: f64,
    /// Whether every node answered for every key after the faults.
    pub recovered: bool,
    /// What cannot be, first findings first.
    pub findings: Vec<String>,
    /// How long it took.
    pub elapsed_seconds: f64,
}

impl ChaosReport {
    /// Whether nothing was wrong.
    pub fn passed(&self) -> bool {
        self.findings.is_empty() && self.recovered
    }

    /// A text for people.
    pub fn table(&self) -> String {
        let verdict = if self.passed() { "passed" } else { "FAILED" };
        let mut text = format!(
            "chaos {verdict}: {} nodes, seed {}, {:.0} s\n\
             \x20 kills, pauses, drains, blackouts   {}, {}, {}, {}\n\
             \x20 links cut, cut one way             {}, {}\n\
             \x20 acknowledged writes                {}\n\
             \x20 outcome not heard                  {} ({} had happened)\n\
             \x20 reads judged                       {}\n\
             \x20 refused, to be repeated            {}\n\
             \x20 on shared keys, outcome not heard  {}, {}\n\
             \x20 longest time without a success     {:.0} ms\n\
             \x20 every node serves every key        {}\n",
            self.members,
            self.seed,
            self.elapsed_seconds,
            self.kills,
            self.pauses,
            self.drains,
            self.blackouts,
            self.cuts,
            self.one_way_cuts,
            self.acknowledged,
            self.unknown,
            self.unknown_happened,
            self.read,
            self.refused,
            self.shared,
            self.shared_unknown,
            self.longest_gap_ms,
            if self.recovered { "yes" } else { "NO" }
        );
        for finding in &self.findings {
            text.push_str(&format!("  {finding}\n"));
        }
        text
    }
}

/// Runs, and passes a line to `say` at each fault.
///
/// # Errors
/// The cluster does not start, or a node does not start again. What clients saw is in the report.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<ChaosReport, Failed> {
    let began = now();
    let mut report = ChaosReport { seed: options.seed, members: options.members, ..ChaosReport::default() };
    let mut random = Random::new(options.seed);
    say(&format!("starting {} nodes", options.members));
    let mut cluster = Cluster::start_linked(&options.node, options.members)?;
    let shared = Arc::new(Shared {
        nodes: cluster.nodes.iter().flatten().map(|node| node.resp).collect(),
        stop: AtomicBool::new(false),
        done: AtomicU64::new(0),
    });
    let threads: Vec<_> = (0..options.clients)
        .map(|id| {
            let (shared, seed) = (shared.clone(), random.bits());
            let mut client = Client::new(id, options.keys, seed);
            std::thread::spawn(move || {
                client.run(&shared);
                client
            })
        })
        .collect();
    let ledger = Arc::new(Ledger::new());
    let sharing: Vec<_> = (0..options.sharing)
        .map(|id| {
            let (shared, ledger, seed) = (shared.clone(), ledger.clone(), random.bits());
            std::thread::spawn(move || shared::run(id, seed, &shared, &ledger))
        })
        .collect();
    let faults_end = began.elapsed() + options.time;
    let mut disturbed = Ok(());
    let ended = || threads.iter().any(|it| it.is_finished()) || sharing.iter().any(|it| it.is_finished());
    while disturbed.is_ok() && report.findings.is_empty() && began.elapsed() < faults_end && !ended() {
        pause(fault::calm(&mut random));
        disturbed = fault::disturb(&mut cluster, &mut random, &mut report, say);
        report.findings.extend(ledger.judge(false).err());
    }
    pause(Duration::from_secs(1));
    shared.stop.store(true, Ordering::Release);
    let mut clients = Vec::new();
    for thread in threads {
        clients.push(thread.join().map_err(|_| Failed::new("a client panicked"))?);
    }
    for thread in sharing {
        report.findings.extend(thread.join().map_err(|_| Failed::new("a client panicked"))?);
    }
    disturbed?;
    report.findings.extend(ledger.judge(true).err());
    let counts = ledger.counts();
    (report.shared, report.shared_unknown) = (counts.answered, counts.lost);
    say("asking every node for every key");
    report.recovered = recovered(&mut clients, &shared);
    conclude(&mut report, &clients);
    report.elapsed_seconds = began.elapsed().as_secs_f64();
    cluster.terminate(DRAIN_MAX)?;
    Ok(report)
}

/// Whether every node answers for every key in time. What it answers is judged on the way.
fn recovered(clients: &mut [Client], shared: &Shared) -> bool {
    let began = now();
    shared.nodes.iter().all(|node| {
        clients.iter_mut().all(|client| {
            while !client.check(*node) {
                if began.elapsed() > RECOVERY_MAX {
                    return false;
                }
                pause(Duration::from_millis(100));
            }
            true
        })
    })
}

fn conclude(report: &mut ChaosReport, clients: &[Client]) {
    for client in clients {
        let counts = client.counts;
        report.acknowledged += counts.acknowledged;
        report.unknown += counts.unknown;
        report.unknown_happened += counts.happened;
        report.read += counts.read;
        report.refused += counts.refused;
        report.longest_gap_ms = report.longest_gap_ms.max(counts.longest_gap.as_secs_f64() * 1e3);
        report.findings.extend(client.findings.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_findings_passes_only_if_the_cluster_recovered() {
        let mut report = ChaosReport { recovered: true, ..ChaosReport::default() };
        assert!(report.passed() && report.table().contains("chaos passed"));
        report.recovered = false;
        assert!(!report.passed() && report.table().contains("NO"));
        report.recovered = true;
        let mut client = Client::new(0, 1, 1);
        client.findings.push("key a holds write 1 instead of 2".into());
        conclude(&mut report, &[client]);
        assert!(!report.passed() && report.table().contains("instead of 2"), "{}", report.table());
    }
}
