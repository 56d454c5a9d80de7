//! What a node bears: clients that ask for too much, beside one that asks for little and must not notice.
//!
//! Ordinary writes are among the cases, and a start after them: that, too, has to fit into the node's memory.
//!
//! Each case runs for a bounded time against one node. Meanwhile the bystander sets and gets one small key, and the node's
//! resident memory is watched. The verdict: memory within [`MEMORY_FACTOR`] of the node's own bound, the bystander's 99th
//! percentile below a bound ([`BYSTANDER_P99_MAX`] on a machine that does nothing else) unless others keep the disk busy, and a node that still answers at the end.
//!
//! Plain threads and blocking sockets: what abuses a node should have nothing in common with it.

mod calls;
mod cases;
mod disk;
mod load;
mod mixed;
mod watch;

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::Failed;
use crate::process::{Node, NodeOptions};
use cases::{CASES, Case, Target};
use watch::{Bystander, Resident};

/// How far above its bound the node's memory may go.
pub const MEMORY_FACTOR: f64 = 1.25;
/// How long the bystander may wait at the 99th percentile.
pub const BYSTANDER_P99_MAX: Duration = Duration::from_millis(100);
/// How long the node may take to become itself again between two cases.
const REST: Duration = Duration::from_secs(2);

/// Whom to abuse.
#[derive(Clone, Debug)]
pub enum Victim {
    /// A node of our own.
    Own(NodeOptions),
    /// A node that runs already.
    Running {
        /// Where it serves RESP.
        resp: SocketAddr,
        /// Where it serves health and metrics, if it does.
        status: Option<SocketAddr>,
        /// Where it serves the PD API, if that is known.
        pd: Option<SocketAddr>,
        /// Its process, if it runs here.
        pid: Option<u32>,
    },
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// To whom.
    pub victim: Victim,
    /// How long each case lasts.
    pub each: Duration,
    /// Names of the cases to run; all if empty.
    pub only: Vec<String>,
    /// How long the bystander may wait at the 99th percentile.
    pub p99_max: Duration,
}

/// What one case did to the node.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// Its name.
    pub case: String,
    /// The most memory that the node had in RAM, bytes; absent if its process is not here.
    pub peak_resident_bytes: Option<u64>,
    /// What the bystander asked.
    pub bystander_requests: u64,
    /// Its latencies.
    pub bystander_p99_ms: f64,
    /// The longest that it waited.
    pub bystander_max_ms: f64,
    /// What the abusers sent, bytes.
    pub sent_bytes: u64,
    /// Why it could not be carried out or ended badly.
    pub failed: Option<String>,
}

/// What all of them did.
#[derive(Clone, Debug, Serialize)]
pub struct AbuseReport {
    /// The node's own bound on its memory, bytes.
    pub memory_bytes: u64,
    /// How long the bystander may wait at the 99th percentile.
    pub p99_max_ms: f64,
    /// Case by case.
    pub cases: Vec<CaseReport>,
}

/// Runs the cases one after the other.
///
/// # Errors
/// The node does not start, does not say how much memory it may use, or has not become itself again after a case.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<AbuseReport, Failed> {
    let own = match &options.victim {
        Victim::Own(node) => Some((Node::start(node)?, node)),
        Victim::Running { .. } => None,
    };
    let target = match (&own, &options.victim) {
        (Some((node, _)), _) => Target {
            resp: node.resp,
            status: Some(node.status),
            pd: Some(node.pd),
            pid: Some(node.process.pid()),
        },
        (None, Victim::Running { resp, status, pd, pid }) => {
            Target { resp: *resp, status: *status, pd: *pd, pid: *pid }
        }
        (None, Victim::Own(_)) => unreachable!("a node of our own has been started"),
    };
    let memory_bytes = target.memory_bytes()?;
    target.prepare()?;
    let known: Vec<_> = CASES.iter().map(|case| case.name).chain([load::RECOVERY]).collect();
    if let Some(unknown) = options.only.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Failed::new(format!("there is no case \"{unknown}\"; there are {}", known.join(", "))));
    }
    let wanted = |case: &str| options.only.is_empty() || options.only.iter().any(|name| name == case);
    let mut reports = Vec::new();
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        say(&format!("{}: {}", case.name, case.what));
        reports.push(one(case, target, options.each)?);
        crate::clock::pause(REST);
    }
    // Last, because it ends the node. One that runs elsewhere is not ours to kill.
    if let Some((node, started_with)) = own.filter(|_| wanted(load::RECOVERY)) {
        say(&format!("{}: {}", load::RECOVERY, load::RECOVERY_WHAT));
        let (report, _again) = load::recover(node, started_with, target, options.each)?;
        reports.push(report);
    }
    Ok(AbuseReport { memory_bytes, p99_max_ms: options.p99_max.as_secs_f64() * 1e3, cases: reports })
}

fn one(case: &Case, target: Target, each: Duration) -> Result<CaseReport, Failed> {
    let resident = target.pid.map(Resident::watch);
    let bystander = Bystander::start(target.resp, case.name == cases::DESCRIPTORS)?;
    let outcome = (case.run)(target, each);
    let (seen, alive) = (bystander.stop(), target.answers());
    let failed = match (&outcome, seen.failed, alive) {
        (Err(why), ..) => Some(why.to_string()),
        (Ok(_), Some(why), _) => Some(format!("the bystander: {why}")),
        (Ok(_), None, false) => Some("the node does not answer any more".to_owned()),
        (Ok(_), None, true) => None,
    };
    Ok(CaseReport {
        case: case.name.to_owned(),
        peak_resident_bytes: resident.map(Resident::stop),
        bystander_requests: seen.requests,
        bystander_p99_ms: seen.p99.as_secs_f64() * 1e3,
        bystander_max_ms: seen.max.as_secs_f64() * 1e3,
        sent_bytes: outcome.unwrap_or(0),
        failed,
    })
}

impl AbuseReport {
    /// Whether the node bore it all.
    pub fn passed(&self) -> bool {
        self.cases.iter().all(|case| self.verdict(case).is_empty())
    }

    /// What is wrong with a case; nothing if it is good.
    fn verdict(&self, case: &CaseReport) -> Vec<String> {
        let mut wrong: Vec<String> = case.failed.iter().cloned().collect();
        let bound = self.memory_bytes as f64 * MEMORY_FACTOR;
        if case.peak_resident_bytes.is_some_and(|bytes| bytes as f64 > bound) {
            wrong.push(format!("more than {MEMORY_FACTOR} x memory"));
        }
        if case.case != disk::DISK && case.bystander_p99_ms > self.p99_max_ms {
            wrong.push(format!("the bystander waits more than {} ms", self.p99_max_ms));
        }
        wrong
    }

    /// The report as text.
    pub fn table(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let mut text = format!(
            "memory {:.0} MiB, so at most {:.0} MiB resident; bystander's p99 at most {} ms\n\n{:<12} {:>9} {:>9} {:>9} {:>9}  verdict\n",
            mib(self.memory_bytes),
            mib(self.memory_bytes) * MEMORY_FACTOR,
            self.p99_max_ms,
            "case",
            "peak MiB",
            "p99 ms",
            "max ms",
            "requests",
        );
        for case in &self.cases {
            let peak = case.peak_resident_bytes.map_or("-".to_owned(), |bytes| format!("{:.0}", mib(bytes)));
            let wrong = self.verdict(case).join("; ");
            text += &format!(
                "{:<12} {:>9} {:>9.2} {:>9.2} {:>9}  {}\n",
                case.case,
                peak,
                case.bystander_p99_ms,
                case.bystander_max_ms,
                case.bystander_requests,
                if wrong.is_empty() { "good" } else { &wrong },
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(peak_resident_bytes: u64, bystander_p99_ms: f64, failed: Option<&str>) -> CaseReport {
        CaseReport {
            case: "test".into(),
            peak_resident_bytes: Some(peak_resident_bytes),
            bystander_requests: 1,
            bystander_p99_ms,
            bystander_max_ms: bystander_p99_ms,
            sent_bytes: 0,
            failed: failed.map(str::to_owned),
        }
    }

    #[test]
    fn memory_waiting_and_failures_are_judged() {
        let judge = |case| AbuseReport { memory_bytes: 100, p99_max_ms: 100.0, cases: vec![case] }.passed();
        assert!(judge(case(125, 100.0, None)));
        assert!(!judge(case(126, 1.0, None)));
        assert!(!judge(case(1, 100.1, None)));
        assert!(!judge(case(1, 1.0, Some("gone"))));
    }
}
