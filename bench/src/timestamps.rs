//! How many timestamps a node hands out over the wire, and what they cost it: streams of `pdpb.PD/Tso`, each request for a batch.
//!
//! Each stream has a number of requests in flight, as a client has that gathers the transactions which begin while it waits. The figure that
//! counts is timestamps per second of the node's CPU time, because the client shares the machine with the node; the throughput is beside it.
//! Every batch is checked: it lies above all that its stream had before it was asked for.

use std::net::SocketAddr;
use std::time::Duration;

use engine::rt::native as world;
use engine::rt::{CoreOptions, Rt};
use serde::Serialize;
use store::wire::grpc::client::{Call, Client};
use store::wire::grpc::frame;
use store::wire::proto::pdpb::{TsoRequest, TsoResponse};

use crate::Failed;
use crate::process::{Node, NodeOptions};
use crate::report::{median, table};

/// Timestamps per second of one core that are aimed at.
const AIM_PER_CORE: f64 = 2e6;
/// How long a drain may take here.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start the node; its directory must be empty.
    pub node: NodeOptions,
    /// Rounds, at least 1.
    pub rounds: usize,
    /// Batches of each stream in a round.
    pub batches: usize,
    /// Timestamps of a batch.
    pub count: u32,
    /// Connections, each with one stream.
    pub connections: usize,
    /// Requests in flight on each.
    pub in_flight: usize,
}

/// What one round showed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Throughput.
    pub timestamps_per_second: f64,
    /// CPU time of the node for a batch, microseconds.
    pub cpu_us_per_batch: f64,
    /// Timestamps per second of the node's CPU time.
    pub timestamps_per_core: f64,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct TimestampsReport {
    /// Timestamps of a batch.
    pub count: u32,
    /// Streams.
    pub connections: usize,
    /// Requests in flight on each.
    pub in_flight: usize,
    /// Every round.
    pub rounds: Vec<Round>,
    /// The medians.
    pub median: Round,
    /// What is aimed at, per second of the node's CPU time.
    pub aim_per_core: f64,
}

/// Measures.
///
/// # Errors
/// The node does not start, a stream ends, or a timestamp is not above those before it.
pub fn measure(options: &Options, say: &mut dyn FnMut(&str)) -> Result<TimestampsReport, Failed> {
    let node = Node::start(&options.node)?;
    let mut rounds = Vec::new();
    // The first one is for connections and caches.
    for round in 0..=options.rounds {
        say(&format!("round {round} of {}", options.rounds));
        let before = node.process.cpu_time()?;
        let took = hand_out(node.pd, options)?;
        let cpu = node.process.cpu_time()?.saturating_sub(before);
        let batches = (options.batches * options.connections) as f64;
        let timestamps = batches * f64::from(options.count);
        rounds.push(Round {
            timestamps_per_second: timestamps / took.as_secs_f64(),
            cpu_us_per_batch: cpu.as_secs_f64() * 1e6 / batches,
            timestamps_per_core: timestamps / cpu.as_secs_f64().max(1e-9),
        });
    }
    rounds.remove(0);
    node.process.terminate(DRAIN_MAX)?;
    let of = |figure: fn(&Round) -> f64| median(&rounds.iter().map(figure).collect::<Vec<_>>());
    let median = Round {
        timestamps_per_second: of(|round| round.timestamps_per_second),
        cpu_us_per_batch: of(|round| round.cpu_us_per_batch),
        timestamps_per_core: of(|round| round.timestamps_per_core),
    };
    let Options { node: _, rounds: _, batches: _, count, connections, in_flight } = *options;
    Ok(TimestampsReport { count, connections, in_flight, rounds, median, aim_per_core: AIM_PER_CORE })
}

/// One round over all streams. How long it took.
fn hand_out(pd: SocketAddr, options: &Options) -> Result<Duration, Failed> {
    let Options { node: _, rounds: _, batches, count, connections, in_flight } = *options;
    world::start_core(&CoreOptions::default(), move |rt| async move {
        let mut streams = Vec::new();
        for _ in 0..connections {
            streams.push(open(&rt, pd).await?);
        }
        let began = rt.now();
        let begin = |(client, stream)| rt.spawn(take((client, stream), (batches, in_flight), count));
        let running: Vec<_> = streams.into_iter().map(begin).collect();
        for stream in running {
            stream.await?;
        }
        Ok(rt.now().since(began))
    })?
}

async fn open(rt: &Rt, pd: SocketAddr) -> Result<(Client, Call), Failed> {
    let client = Client::connect(rt, pd)
        .await
        .map_err(|error| Failed::new(format!("cannot connect to PD at {pd}: {error}")))?;
    let opened = client.open("/pdpb.PD/Tso").await;
    let call =
        opened.map_err(|status| Failed::new(format!("no stream of timestamps: {}", status.message)))?;
    Ok((client, call))
}

/// Takes batches over one stream, and ends it.
async fn take(
    (client, mut stream): (Client, Call),
    (batches, in_flight): (usize, usize),
    count: u32,
) -> Result<(), Failed> {
    let failed = |what: String| Failed::new(format!("a stream of timestamps: {what}"));
    let request = frame(&TsoRequest { count, ..TsoRequest::default() });
    let (mut asked, mut last) = (0, (0, 0));
    for taken in 0..batches {
        while asked < batches.min(taken + in_flight) {
            let sent = stream.outbox.send(request.clone()).await;
            sent.map_err(|status| failed(status.message))?;
            asked += 1;
        }
        let message = stream.inbox.next().await.map_err(|status| failed(status.message))?;
        let message = message.ok_or_else(|| failed("it has ended".to_owned()))?;
        let answer: TsoResponse = prost::Message::decode(message.bytes)
            .map_err(|error| failed(format!("the answer cannot be read: {error}")))?;
        let stamp = answer.timestamp.ok_or_else(|| failed("an answer has no timestamp".to_owned()))?;
        last = above(last, (stamp.physical, stamp.logical), i64::from(count)).map_err(failed)?;
    }
    drop(client);
    Ok(())
}

/// The largest timestamp of a batch of `count` that ends with `largest`, if all of it lies above `last`.
fn above(last: (i64, i64), largest: (i64, i64), count: i64) -> Result<(i64, i64), String> {
    let least = (largest.0, largest.1 + 1 - count);
    match least > last && least.1 >= 0 {
        true => Ok(largest),
        false => Err(format!("{least:?} to {largest:?} was given out after {last:?}")),
    }
}

impl TimestampsReport {
    /// Whether a core hands out as many as are aimed at.
    pub fn passed(&self) -> bool {
        self.median.timestamps_per_core >= self.aim_per_core
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let head = ["", "timestamps/s", "CPU us/batch", "timestamps/s of CPU", "at least"];
        let mut rows = vec![head.map(String::from)];
        let named = self.rounds.iter().enumerate().map(|(n, round)| (format!("round {}", n + 1), round));
        for (name, round) in named.chain([("median".to_owned(), &self.median)]) {
            rows.push([
                name,
                format!("{:.0}", round.timestamps_per_second),
                format!("{:.2}", round.cpu_us_per_batch),
                format!("{:.0}", round.timestamps_per_core),
                format!("{:.0}", self.aim_per_core),
            ]);
        }
        format!(
            "batches of {}, {} streams, {} requests in flight on each\n{}",
            self.count,
            self.connections,
            self.in_flight,
            table(&rows)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_reaches_below_what_was_taken_is_refused() {
        assert_eq!(above((5, 10), (5, 74), 64), Ok((5, 74)));
        assert!(above((5, 11), (5, 74), 64).is_err(), "the least of it was given out before");
        assert!(above((5, 10), (6, 62), 64).is_err(), "it reaches below its millisecond");
        assert_eq!(above((5, 10), (6, 63), 64), Ok((6, 63)));
    }

    #[test]
    fn too_few_per_core_are_a_failure() {
        let round = Round { timestamps_per_second: 1e6, cpu_us_per_batch: 30.0, timestamps_per_core: 2.1e6 };
        let mut report = TimestampsReport {
            count: 64,
            connections: 1,
            in_flight: 1,
            rounds: vec![round],
            median: round,
            aim_per_core: AIM_PER_CORE,
        };
        assert!(report.passed() && report.table().contains("2100000"), "{}", report.table());
        report.median.timestamps_per_core = 1.9e6;
        assert!(!report.passed());
    }
}
