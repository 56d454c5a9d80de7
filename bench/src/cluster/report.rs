//! What was found.

use serde::Serialize;

use crate::report::table;

/// What moved may exceed the least that had to by this factor.
const MOVED_RATIO_MAX: f64 = 1.1;

/// What a node holds and leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeShare {
    /// The node, counted from 1.
    pub node: usize,
    /// Bytes of its replicas, as the scheduler knows them.
    pub bytes: u64,
    /// Its replicas.
    pub replicas: u64,
    /// Regions that it leads.
    pub leaders: u64,
}

/// One phase.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Phase {
    /// Which.
    pub name: String,
    /// How long it took, without the time for which what has to last was watched.
    pub seconds: f64,
    /// Whether what is waited for came.
    pub is_over: bool,
    /// Requests of clients that succeeded meanwhile.
    pub succeeded: u64,
    /// Requests that were refused, connections that broke, writes whose outcome was not heard.
    pub errors: u64,
    /// Bytes of snapshots that nodes took in.
    pub moved_bytes: u64,
    /// What each node holds at its end.
    pub shares: Vec<NodeShare>,
}

/// A run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClusterReport {
    /// Keys and values that were written first, bytes.
    pub fill_bytes: u64,
    /// What has to move to the node that joins at least, bytes: its share of all replicas.
    pub least_bytes: u64,
    /// The phases, in their order.
    pub phases: Vec<Phase>,
    /// What cannot be or did not come, one sentence each.
    pub findings: Vec<String>,
    /// How long it took.
    pub elapsed_seconds: f64,
}

impl ClusterReport {
    /// Bytes moved to a node that joined over the least that had to.
    pub fn moved_ratio(&self) -> f64 {
        let moved =
            self.phases.iter().find(|phase| phase.name == "join").map_or(0, |phase| phase.moved_bytes);
        moved as f64 / self.least_bytes.max(1) as f64
    }

    /// Whether every phase came to its end, little more was moved than had to be, and clients saw nothing that cannot be.
    pub fn passed(&self) -> bool {
        self.findings.is_empty()
            && self.phases.len() == 4
            && self.phases.iter().all(|phase| phase.is_over)
            && self.moved_ratio() <= MOVED_RATIO_MAX
    }

    /// A text for people.
    pub fn table(&self) -> String {
        let verdict = if self.passed() { "passed" } else { "FAILED" };
        let mut text = format!(
            "cluster {verdict}: {} MiB, {:.0} s; moved to the node that joined: {:.2} x the least ({} MiB), at most {MOVED_RATIO_MAX} x is good\n",
            self.fill_bytes >> 20,
            self.elapsed_seconds,
            self.moved_ratio(),
            self.least_bytes >> 20,
        );
        let mut rows = vec![
            ["phase", "s", "requests", "errors", "MiB moved", "MiB on nodes", "leaders"].map(String::from),
        ];
        for phase in &self.phases {
            let each = |of: &dyn Fn(&NodeShare) -> u64| -> String {
                phase.shares.iter().map(|share| of(share).to_string()).collect::<Vec<_>>().join(" ")
            };
            rows.push([
                phase.name.clone(),
                format!("{:.1}", phase.seconds),
                phase.succeeded.to_string(),
                phase.errors.to_string(),
                (phase.moved_bytes >> 20).to_string(),
                each(&|share| share.bytes >> 20),
                each(&|share| share.leaders),
            ]);
        }
        text.push_str(&table(&rows));
        for finding in &self.findings {
            text.push_str(&format!("  {finding}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(moved_bytes: u64) -> ClusterReport {
        let phase = |name: &str| Phase {
            name: name.to_owned(),
            seconds: 3.0,
            is_over: true,
            succeeded: 10,
            errors: 0,
            moved_bytes,
            shares: vec![NodeShare { node: 1, bytes: 7 << 20, replicas: 3, leaders: 5 }],
        };
        ClusterReport {
            fill_bytes: 64 << 20,
            least_bytes: 48 << 20,
            phases: ["join", "kill", "return", "drain"].map(phase).into(),
            findings: Vec::new(),
            elapsed_seconds: 20.0,
        }
    }

    #[test]
    fn a_report_is_good_where_all_came_to_an_end_and_little_was_moved_in_vain() {
        let good = report(50 << 20);
        assert!(good.passed() && good.table().contains("1.04 x"), "{}", good.table());
        assert!(!report(60 << 20).passed(), "moved too much");
        let mut short = report(50 << 20);
        short.phases.pop();
        assert!(!short.passed(), "it ended early");
        let mut late = report(50 << 20);
        late.phases[1].is_over = false;
        assert!(!late.passed());
        let mut wrong = report(50 << 20);
        wrong.findings.push("key a holds write 1 instead of 2".to_owned());
        assert!(!wrong.passed() && wrong.table().contains("instead of 2"), "{}", wrong.table());
    }
}
