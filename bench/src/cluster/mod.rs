//! A cluster of real processes that grows, loses a node for good and gives one up: does it end even and whole, at which price, and what do its
//! clients see?
//!
//! Three nodes are loaded; then one after the other:
//!
//! | phase | what happens | what is measured |
//! |---|---|---|
//! | join | a fourth node joins | time until sizes and leaders are even, bytes of snapshots against the least that has to move |
//! | kill | a node is killed and stays away for longer than `store_down_ms`, which is lowered for the run | time until every region is whole on the others |
//! | return | it comes back | time until sizes and leaders are even again |
//! | drain | the stores of another node are taken out of use | time until nothing is on them; errors of clients, of which there may be none |
//!
//! Clients write keys of their own and read them back all the while, and each read is judged, as in [`chaos`](crate::chaos). Every phase has a
//! bound; what is not reached within it is a finding, and the run ends.

mod report;
mod subject;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Failed;
use crate::chaos::client::{Client, Counts, Shared};
use crate::clock::{now, pause};
use crate::process::{Cluster, NodeOptions};
use crate::random::Random;

pub use report::{ClusterReport, Phase};
use subject::Subject;

/// Nodes at first, and replicas of each region.
const FIRST: usize = 3;
/// Nodes with the one that joins.
const NODES: usize = 4;
/// The node that is killed, and the one that is drained. The first keeps its place, because it is asked.
const KILLED: usize = 1;
const DRAINED: usize = 2;
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Sizes are estimated every ten seconds: what is still even after that is even.
const STAYS: Duration = Duration::from_secs(11);
/// How long a drain at the end may take.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// How long every node may take to answer for every key.
const ANSWERS_MAX: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start a node; the others get directories beside its data.
    pub node: NodeOptions,
    /// Keys and values that are written first, bytes.
    pub fill_bytes: u64,
    /// Regions that they are divided into.
    pub regions: usize,
    /// Clients.
    pub clients: usize,
    /// Keys of each client.
    pub keys: usize,
    /// Silence after which a store counts as down.
    pub down: Duration,
    /// How long each phase may take.
    pub phase_max: Duration,
    /// Seed of the clients.
    pub seed: u64,
    /// Ends it early.
    pub stop: Arc<AtomicBool>,
}

/// Clients that run.
struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Client>>,
}

impl Load {
    fn start(clients: Vec<Client>, cluster: &Cluster) -> Self {
        let shared = Arc::new(Shared {
            nodes: cluster.nodes.iter().flatten().map(|node| node.resp).collect(),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
        });
        let run = |mut client: Client| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                client.run(&shared);
                client
            })
        };
        let threads = clients.into_iter().map(run).collect();
        Self { shared, threads }
    }

    fn end(self) -> Result<Vec<Client>, Failed> {
        self.shared.stop.store(true, Ordering::Release);
        let join = |thread: JoinHandle<Client>| thread.join().map_err(|_| Failed::new("a client panicked"));
        self.threads.into_iter().map(join).collect()
    }
}

/// What clients have counted since `before`.
fn since(clients: &[Client], before: &[Counts]) -> (u64, u64) {
    let counted = |of: fn(&Counts) -> u64| -> u64 {
        clients.iter().zip(before).map(|(client, before)| of(&client.counts) - of(before)).sum()
    };
    let succeeded = counted(|counts| counts.acknowledged + counts.read);
    (succeeded, counted(|counts| counts.refused + counts.unknown + counts.broken))
}

/// A run as far as it has come.
struct Run<'a> {
    options: &'a Options,
    subject: Subject,
    clients: Vec<Client>,
    report: ClusterReport,
}

impl Run<'_> {
    /// One phase under load: `begin` starts it, and it is over once `is_over` says so, which has watched it for a while by then.
    fn phase(
        &mut self,
        name: &str,
        begin: impl FnOnce(&mut Subject) -> Result<(), Failed>,
        (mut is_over, watched): (impl FnMut(&Subject) -> Result<bool, Failed>, Duration),
    ) -> Result<bool, Failed> {
        let before: Vec<Counts> = self.clients.iter().map(|client| client.counts).collect();
        let arrived = self.subject.arrived_bytes()?;
        let clients = std::mem::take(&mut self.clients);
        let load = Load::start(clients, &self.subject.cluster);
        let began = now();
        let went = begin(&mut self.subject).and_then(|()| {
            while began.elapsed() < self.options.phase_max {
                if self.options.stop.load(Ordering::Relaxed) {
                    return Err(Failed::new("stopped by a signal before there was a result"));
                }
                if is_over(&self.subject)? {
                    return Ok(true);
                }
                pause(LOOK_EVERY);
            }
            Ok(false)
        });
        let took =
            began.elapsed().saturating_sub(if matches!(went, Ok(true)) { watched } else { Duration::ZERO });
        self.clients = load.end()?;
        let over = went?;
        let (succeeded, errors) = since(&self.clients, &before);
        let phase = Phase {
            name: name.to_owned(),
            seconds: took.as_secs_f64(),
            is_over: over,
            succeeded,
            errors,
            moved_bytes: self.subject.arrived_since(&arrived)?,
            shares: self.subject.shares()?,
        };
        if !over {
            let why = self.subject.why_not(&phase.shares);
            self.report.findings.push(format!("{name}: not over after {:.0} s: {why}", phase.seconds));
        }
        self.report.phases.push(phase);
        Ok(over)
    }

    /// Every node that runs answers for every key of every client, with what was acknowledged.
    fn check(&mut self, after: &str) {
        let began = now();
        let nodes: Vec<_> = self.subject.cluster.nodes.iter().flatten().map(|node| node.resp).collect();
        for node in nodes {
            for client in &mut self.clients {
                while !client.check(node) {
                    if began.elapsed() > ANSWERS_MAX {
                        self.report.findings.push(format!("{after}: {node} does not answer for every key"));
                        return;
                    }
                    pause(LOOK_EVERY);
                }
            }
        }
    }

    fn conclude(&mut self) {
        for client in &mut self.clients {
            self.report.findings.append(&mut client.findings);
        }
    }
}

/// Whether it stays so for a while, looked at again and again.
fn lasting(
    mut is: impl FnMut(&Subject) -> Result<bool, Failed>,
) -> impl FnMut(&Subject) -> Result<bool, Failed> {
    let mut since = None;
    move |subject| {
        if !is(subject)? {
            since = None;
            return Ok(false);
        }
        Ok(since.get_or_insert_with(now).elapsed() > STAYS)
    }
}

/// Measures, and passes a line to `say` at each phase.
///
/// # Errors
/// The cluster does not start, a node does not answer, or it is stopped. What clients saw is in the report.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<ClusterReport, Failed> {
    let began = now();
    let mut random = Random::new(options.seed);
    say(&format!("starting {FIRST} nodes and writing {} MiB", options.fill_bytes >> 20));
    let subject = Subject::start(options)?;
    let clients = (0..options.clients).map(|id| Client::new(id, options.keys, random.bits())).collect();
    let report = ClusterReport { fill_bytes: options.fill_bytes, ..ClusterReport::default() };
    let mut run = Run { options, subject, clients, report };
    phases(&mut run, say)?;
    run.conclude();
    run.report.elapsed_seconds = began.elapsed().as_secs_f64();
    let Run { options: _, subject, clients: _, report } = run;
    subject.cluster.terminate(DRAIN_MAX)?;
    Ok(report)
}

fn phases(run: &mut Run<'_>, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
    run.subject.wait_until_measured()?;
    say("a fourth node joins");
    run.report.least_bytes = run.subject.held_bytes()? / NODES as u64;
    let joined = run.phase("join", |subject| subject.join(NODES - 1), (lasting(Subject::is_even), STAYS))?;
    if !joined {
        return Ok(());
    }
    say("a node is killed and stays away");
    let gone = run.subject.stores_of(KILLED)?;
    let kill = |subject: &mut Subject| {
        subject.kill(KILLED);
        Ok(())
    };
    let whole =
        run.phase("kill", kill, (|subject: &Subject| subject.is_whole_without(&gone), Duration::ZERO))?;
    run.check("kill");
    if !whole {
        return Ok(());
    }
    say("it comes back");
    let back = run.phase("return", |subject| subject.restart(KILLED), (lasting(Subject::is_even), STAYS))?;
    if !back {
        return Ok(());
    }
    say("another node is drained");
    let leaving = run.subject.stores_of(DRAINED)?;
    let leave = |subject: &mut Subject| leaving.iter().try_for_each(|store| subject.remove(*store));
    run.phase("drain", leave, (|subject: &Subject| subject.is_whole_without(&leaving), Duration::ZERO))?;
    if let Some(phase) = run.report.phases.last().filter(|phase| phase.errors > 0) {
        let finding = format!("drain: clients saw {} errors", phase.errors);
        run.report.findings.push(finding);
    }
    run.check("drain");
    Ok(())
}
