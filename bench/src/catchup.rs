//! A follower that was away while much was written comes back: what do clients of the others notice, and how much is sent?
//!
//! One node is killed, the others take the writes, and it is started again under a steady load. The links between the nodes lead through
//! this process ([`Network`](crate::process::Network)), so the bytes that it is sent are those of the wire, whatever they carry; they are
//! compared with the keys and values that were written meanwhile. The values are random, so compression does not help.

use std::time::Duration;

use serde::Serialize;

use crate::Failed;
use crate::clock::{now, pause};
use crate::load;
use crate::process::{Cluster, NodeOptions};
use crate::report::median;
use crate::steady::{self, Steady};

/// Length of the values that are written while the follower is away.
const VALUE_BYTES: usize = 1024;
/// How long the usual latency is measured.
const USUAL: Duration = Duration::from_secs(10);
/// How long the follower may take to catch up.
const CATCH_UP_MAX: Duration = Duration::from_secs(900);
/// How long a drain may take.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start a node; the others get directories beside its data.
    pub node: NodeOptions,
    /// Nodes; one of them is away.
    pub members: usize,
    /// Keys and values to write meanwhile, bytes.
    pub fill_bytes: u64,
    /// Clients of the steady load.
    pub clients: usize,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct CatchupReport {
    /// Nodes.
    pub members: usize,
    /// Keys and values that were written while the follower was away.
    pub written_bytes: u64,
    /// Bytes that the others sent it until it had caught up.
    pub sent_bytes: u64,
    /// From its start until no region of it was behind.
    pub catch_up_seconds: f64,
    /// The 99th percentile before it came back, milliseconds: median over the seconds.
    pub usual_p99_ms: f64,
    /// The same while it caught up, at the other nodes.
    pub p99_ms: f64,
    /// Of the worst second.
    pub worst_p99_ms: f64,
    /// Requests while it caught up.
    pub requests: u64,
    /// Of these, the ones that were answered with an error.
    pub errors: u64,
}

/// Measures.
///
/// # Errors
/// The cluster does not start, refuses a write, or the follower does not catch up.
pub fn measure(options: &Options, say: &mut dyn FnMut(&str)) -> Result<CatchupReport, Failed> {
    let away = options.members.checked_sub(1).filter(|away| *away > 1);
    let away =
        away.ok_or_else(|| Failed::new("with fewer than three nodes nothing is written while one is away"))?;
    say(&format!("starting {} nodes", options.members));
    let mut cluster = Cluster::start_linked(&options.node, options.members)?;
    say(&format!("killing node {} and writing {} MiB", away + 1, options.fill_bytes >> 20));
    cluster.nodes[away] = None;
    let others: Vec<_> = cluster.nodes.iter().flatten().map(|node| node.resp).collect();
    // The others have elected leaders by then.
    pause(Duration::from_secs(5));
    let node = cluster.nodes.iter().flatten().next().ok_or_else(|| Failed::new("no node runs"))?;
    let written_bytes = load::fill(node.resp, options.fill_bytes, VALUE_BYTES)?;
    say("measuring what is usual");
    let steady = Steady::start(&steady::Options {
        nodes: others,
        clients: options.clients,
        keys: 10_000,
        value_bytes: 128,
        apart: Duration::from_millis(2),
        write_every: 2,
    });
    // What was written just now is flushed and compacted.
    pause(Duration::from_secs(5));
    let calm = now();
    pause(USUAL);
    say(&format!("starting node {} again", away + 1));
    let sent = |cluster: &Cluster| -> u64 {
        (0..options.members)
            .filter(|from| *from != away)
            .map(|from| cluster.network().bytes(from, away))
            .sum()
    };
    let (before, began) = (sent(&cluster), now());
    let came_back = cluster.restart(away).map(drop);
    let caught_up = came_back.and_then(|()| cluster.wait_until_replicated_within(CATCH_UP_MAX));
    let (ended, after) = (now(), sent(&cluster));
    // So that there is a whole second even where little was to be sent.
    pause(Duration::from_secs(1));
    let seen = steady.finish()?;
    caught_up?;
    let seconds = seen.p99_of_seconds_ms(began, ended.max(began + Duration::from_secs(1)));
    let (requests, errors) = seen.count(began, ended);
    cluster.terminate(DRAIN_MAX)?;
    Ok(CatchupReport {
        members: options.members,
        written_bytes,
        sent_bytes: after - before,
        catch_up_seconds: ended.duration_since(began).as_secs_f64(),
        usual_p99_ms: median(&seen.p99_of_seconds_ms(calm, began)),
        p99_ms: median(&seconds),
        worst_p99_ms: seconds.iter().copied().fold(0.0, f64::max),
        requests,
        errors,
    })
}

impl CatchupReport {
    /// Bytes sent over bytes written.
    fn sent_ratio(&self) -> f64 {
        self.sent_bytes as f64 / self.written_bytes.max(1) as f64
    }

    /// A text for people.
    pub fn table(&self) -> String {
        let ratio = if self.usual_p99_ms > 0.0 { self.p99_ms / self.usual_p99_ms } else { 0.0 };
        format!(
            "catch-up: {} nodes, one of them away for {} MiB of keys and values\n\
             \x20 until it had caught up           {:.1} s\n\
             \x20 sent to it                       {} MiB, {:.2} of what was written\n\
             \x20 p99 of a second meanwhile        {:.1} ms, worst {:.1} ms\n\
             \x20 p99 of a second before           {:.1} ms, ratio {ratio:.2}\n\
             \x20 requests meanwhile               {}, {} errors\n",
            self.members,
            self.written_bytes >> 20,
            self.catch_up_seconds,
            self.sent_bytes >> 20,
            self.sent_ratio(),
            self.p99_ms,
            self.worst_p99_ms,
            self.usual_p99_ms,
            self.requests,
            self.errors
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_what_was_written_and_of_what_is_usual() {
        let report = CatchupReport {
            members: 3,
            written_bytes: 100 << 20,
            sent_bytes: 105 << 20,
            catch_up_seconds: 20.0,
            usual_p99_ms: 2.0,
            p99_ms: 3.0,
            worst_p99_ms: 8.0,
            requests: 100,
            errors: 0,
        };
        let text = report.table();
        assert!(text.contains("105 MiB, 1.05 of") && text.contains("ratio 1.50"), "{text}");
    }
}
