//! The start-up self-check: can this host run ringkeep, and if not, why, and what helps.
//!
//! The runtime answers a host that forbids io_uring with an error deep inside a core, and a file system without direct IO with one
//! at the first write. [`check`] asks first, before any executor exists, and returns values: `ringkeep server` refuses to start
//! on a [`Level::Failure`], `ringkeep doctor` lists everything.

use std::fmt;
use std::path::PathBuf;

use super::cpus::{can_pin, plan_cpus};
use super::{directory, limits, ring};

/// What is going to run here.
#[derive(Clone, Debug)]
pub struct Request {
    /// Executors that will be started.
    pub cores: usize,
    /// [`CoreOptions::io_memory_bytes`](crate::rt::CoreOptions::io_memory_bytes) of each.
    pub io_memory_bytes: usize,
    /// Files and connections that will be open at once.
    pub open_files: u64,
    /// The data directory, which exists by now; `None` leaves the disk out.
    pub dir: Option<PathBuf>,
    /// Whether a node has kept data there before. Then it serves reads and deletes on a full disk, too.
    pub in_use: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// It runs, but slower or with less room than it could.
    Warning,
    /// It does not run.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, a word or two.
    pub subject: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub cause: String,
    /// What that means for ringkeep; empty when all is well.
    pub consequence: String,
    /// What helps; empty when all is well.
    pub fix: String,
}

impl Finding {
    pub(super) fn good(subject: &'static str, cause: impl Into<String>) -> Self {
        let (consequence, fix) = (String::new(), String::new());
        Self { subject, level: Level::Good, cause: cause.into(), consequence, fix }
    }

    pub(super) fn warning(
        subject: &'static str,
        cause: impl Into<String>,
        consequence: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (cause, consequence, fix) = (cause.into(), consequence.into(), fix.into());
        Self { subject, level: Level::Warning, cause, consequence, fix }
    }

    pub(super) fn failure(
        subject: &'static str,
        cause: impl Into<String>,
        consequence: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Failure, ..Self::warning(subject, cause, consequence, fix) }
    }
}

impl fmt::Display for Finding {
    /// One sentence: subject, cause, consequence, fix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.cause)?;
        match self.level {
            Level::Good => Ok(()),
            Level::Warning | Level::Failure => write!(f, ", so {}; {}", self.consequence, self.fix),
        }
    }
}

/// Looks at everything, in the order in which a start would meet it. Blocks for a few milliseconds; not for a core.
pub fn check(request: &Request) -> Vec<Finding> {
    let mut findings = vec![limits::kernel(), ring::io_uring(), limits::memlock(request)];
    findings.push(limits::open_files(request));
    findings.push(limits::file_length());
    findings.push(cpus(request));
    findings.push(judge_pinning(can_pin()));
    findings.push(limits::clocksource());
    if let Some(dir) = &request.dir {
        findings.extend(directory::data_directory(dir, request.in_use));
    }
    findings
}

/// Without pinning the kernel places the threads, which works.
fn judge_pinning(pinned: std::io::Result<()>) -> Finding {
    match pinned {
        Ok(()) => Finding::good("pinning", "threads may be pinned to CPUs"),
        Err(error) => Finding::warning(
            "pinning",
            format!("threads may not be pinned ({error})"),
            "cores run unpinned and move between CPUs",
            "allow sched_setaffinity in the seccomp profile",
        ),
    }
}

/// Whether nothing that was found keeps ringkeep from running.
pub fn passes(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Failure)
}

fn cpus(request: &Request) -> Finding {
    match plan_cpus(None) {
        Ok(plan) if plan.cpus.len() < request.cores => Finding::warning(
            "CPUs",
            format!("{} cores are asked for and {} CPUs are there to use", request.cores, plan.cpus.len()),
            "cores take turns and latencies grow",
            "start fewer cores, or raise the affinity mask or the cgroup's CPU quota",
        ),
        Ok(plan) => Finding::good("CPUs", format!("{} may be used", plan.cpus.len())),
        Err(error) => Finding::warning(
            "CPUs",
            format!("the affinity mask cannot be read ({error})"),
            "cores run unpinned",
            "allow sched_getaffinity in the seccomp profile",
        ),
    }
}
