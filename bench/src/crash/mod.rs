//! The crash audit: writers, SIGKILL, restart, and whether everything acknowledged is still there.
//!
//! Each cycle starts the node, checks every key that was ever written, lets the writers run, and kills the node at a random
//! moment, now and then while it is still starting. A key belongs to one writer, so the order of its writes is known:
//!
//! * what was acknowledged last must be there, unless
//! * a later write of the same key was in flight when the node died: then that one may be there instead.
//!
//! A value spells out its key and its number, so a value in the wrong place or a damaged one is found, too.

mod history;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

pub use history::{History, Verdict};
pub use writer::Writer;

use crate::Failed;
use crate::clock::{now, pause};
use crate::process::{Node, NodeOptions, Starting};
use crate::random::Random;

/// What to audit.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start the node.
    pub node: NodeOptions,
    /// How often to kill it.
    pub cycles: usize,
    /// Connections that write.
    pub writers: usize,
    /// Keys of each writer.
    pub keys: usize,
    /// Maximum writes in flight on a connection.
    pub pipeline: usize,
    /// Maximum time before a kill.
    pub run_max: Duration,
    /// Seed of operations and moments.
    pub seed: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CrashReport {
    /// The seed, to run the same operations again.
    pub seed: u64,
    /// Kills, the ones during a start included.
    pub cycles: usize,
    /// Kills while the node was starting.
    pub killed_while_starting: usize,
    /// Starts that failed.
    pub failed_starts: usize,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes in flight when the node died.
    pub unknown: u64,
    /// Of those, the ones that turned out to have happened.
    pub unknown_happened: u64,
    /// Keys read and compared.
    pub checked: u64,
    /// What was wrong, first findings first; at most [`FINDINGS_MAX`].
    pub findings: Vec<String>,
    /// Acknowledged writes that are gone, and values that should not exist.
    pub lost: u64,
    /// Slowest start to ready, milliseconds.
    pub slowest_start_ms: f64,
    /// How long the audit took.
    pub elapsed_seconds: f64,
}

/// Maximum number of findings that are kept.
pub const FINDINGS_MAX: usize = 20;

impl CrashReport {
    /// Whether nothing was lost and every start worked.
    pub fn passed(&self) -> bool {
        self.lost == 0 && self.failed_starts == 0
    }

    /// A text for people.
    pub fn table(&self) -> String {
        let verdict = if self.passed() { "passed" } else { "FAILED" };
        let mut text = format!(
            "crash audit {verdict}: {} kills ({} while starting), seed {}, {:.0} s\n\
             \x20 acknowledged writes     {}\n\
             \x20 in flight at a kill     {} ({} had happened)\n\
             \x20 keys checked            {}\n\
             \x20 lost or wrong           {}\n\
             \x20 failed starts           {}\n\
             \x20 slowest start           {:.0} ms\n",
            self.cycles,
            self.killed_while_starting,
            self.seed,
            self.elapsed_seconds,
            self.acknowledged,
            self.unknown,
            self.unknown_happened,
            self.checked,
            self.lost,
            self.failed_starts,
            self.slowest_start_ms
        );
        for finding in &self.findings {
            text.push_str(&format!("  {finding}\n"));
        }
        text
    }

    fn find(&mut self, finding: String) {
        self.lost += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// Audits. `say` is called with every cycle.
///
/// # Errors
/// The audit itself cannot go on. What is wrong with the node is in the report.
pub fn audit(options: &Options, say: &mut dyn FnMut(&CrashReport)) -> Result<CrashReport, Failed> {
    let began = now();
    let mut random = Random::new(options.seed);
    let mut report = CrashReport { seed: options.seed, ..CrashReport::default() };
    let mut writers: Vec<Writer> = (0..options.writers)
        .map(|id| Writer::new(id, options.keys, options.pipeline, random.bits()))
        .collect();
    while report.cycles < options.cycles && report.lost == 0 {
        if report.cycles > 0 && random.below(8) == 0 {
            kill_while_starting(options, &mut random)?;
            report.cycles += 1;
            report.killed_while_starting += 1;
            continue;
        }
        let Some(mut node) = start(options, &mut report) else { break };
        check(&mut writers, &node, &mut report)?;
        let moment = Duration::from_micros(random.below(options.run_max.as_micros() as u64 + 1));
        writers = run_and_kill(writers, &mut node, moment)?;
        report.cycles += 1;
        tally(&writers, &mut report);
        report.elapsed_seconds = began.elapsed().as_secs_f64();
        say(&report);
    }
    if report.lost == 0
        && let Some(node) = start(options, &mut report)
    {
        check(&mut writers, &node, &mut report)?;
        node.process.terminate(Duration::from_secs(60))?;
    }
    tally(&writers, &mut report);
    report.elapsed_seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

fn start(options: &Options, report: &mut CrashReport) -> Option<Node> {
    match Node::start(&options.node) {
        Ok(node) => {
            let millis = node.start_to_ready.as_secs_f64() * 1e3;
            report.slowest_start_ms = report.slowest_start_ms.max(millis);
            Some(node)
        }
        Err(error) => {
            report.failed_starts += 1;
            report.findings.push(format!("the node did not start after kill {}: {error}", report.cycles));
            None
        }
    }
}

/// A start takes tens of milliseconds, so the moment lies somewhere within it.
fn kill_while_starting(options: &Options, random: &mut Random) -> Result<(), Failed> {
    let starting = Starting::spawn(&options.node)?;
    pause(Duration::from_micros(random.below(150_000)));
    starting.kill();
    Ok(())
}

fn check(writers: &mut [Writer], node: &Node, report: &mut CrashReport) -> Result<(), Failed> {
    for writer in writers {
        for finding in writer.check(node.resp, &mut report.checked)? {
            report.find(finding);
        }
    }
    Ok(())
}

fn tally(writers: &[Writer], report: &mut CrashReport) {
    let histories = || writers.iter().map(Writer::history);
    report.acknowledged = histories().map(|history| history.acknowledged).sum();
    report.unknown = histories().map(|history| history.unknown).sum();
    report.unknown_happened = histories().map(|history| history.unknown_happened).sum();
}

/// Runs every writer on a thread of its own until the node dies.
fn run_and_kill(writers: Vec<Writer>, node: &mut Node, moment: Duration) -> Result<Vec<Writer>, Failed> {
    let stop = Arc::new(AtomicBool::new(false));
    let addr = node.resp;
    let threads: Vec<_> = writers
        .into_iter()
        .map(|mut writer| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let outcome = writer.run(addr, &stop);
                (writer, outcome)
            })
        })
        .collect();
    pause(moment);
    let died = node.process.ended();
    node.process.kill();
    stop.store(true, Ordering::Release);
    let mut back = Vec::new();
    for thread in threads {
        let (writer, outcome) = thread.join().map_err(|_| Failed::new("a writer panicked"))?;
        outcome?;
        back.push(writer);
    }
    match died {
        Some(how) => Err(Failed::new(format!("the node ended by itself: {how}"))),
        None => Ok(back),
    }
}

/// A directory beside the data for the node's log, kept when the audit fails.
pub fn log_path(data_dir: &std::path::Path) -> PathBuf {
    data_dir.with_extension("log")
}
