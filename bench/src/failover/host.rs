//! The time without a scheduler after the node that hosts its leader was killed, as the nodes that stay see it.
//!
//! A client at each of them asks for an id, for a timestamp, and how the cluster does, again and again. Three things are timed, each until
//! the last of the nodes has answered a question that was asked after the kill: ids are given out, timestamps are, and the new leader has
//! heard enough of regions and stores to schedule.
//!
//! Invariant: over all kills no id is given out twice, and a timestamp is above every one whose answer had arrived before it was asked for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::native as world;
use engine::rt::{CoreOptions, Mono, Rt};
use futures_lite::future::zip;
use serde::Serialize;
use store::wire::grpc::client::Client;
use store::wire::grpc::{Code, Status, frame};
use store::wire::proto::pdpb::{AllocIdRequest, AllocIdResponse, TsoRequest, TsoResponse};
use store::wire::proto::ringkeep::{ClusterRequest, ClusterResponse};

use super::{HEARD, REST};
use crate::Failed;
use crate::clock::pause;
use crate::process::Cluster;
use crate::report::median;

/// The longest time without a scheduler that is waited for.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// How long a client waits for one answer before it asks again.
const ANSWER_MAX: Duration = Duration::from_millis(250);
/// The pause between two questions.
const APART: Duration = Duration::from_millis(5);
/// How a timestamp's two parts are one number: milliseconds above this many bits of a counter.
const LOGICAL_BITS: u32 = 18;

/// What came of the kills.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HostsKilled {
    /// Nodes killed.
    pub times: usize,
    /// For each, the time until ids are given out again, milliseconds.
    pub ids_ms: Vec<f64>,
    /// For each, the time until timestamps are given out again, milliseconds.
    pub timestamps_ms: Vec<f64>,
    /// For each, the time until the scheduler acts on what it has heard, milliseconds.
    pub scheduling_ms: Vec<f64>,
    /// Ids that were given out.
    pub ids: u64,
    /// Timestamps that were given out.
    pub timestamps: u64,
    /// What may never be: an id that was given out twice, a timestamp that is not above those before it.
    pub violations: Vec<String>,
}

/// What has been given out so far, by whichever node.
#[derive(Debug, Default)]
struct Given {
    ids: BTreeSet<u64>,
    timestamp_max: u64,
    timestamps: u64,
    violations: Vec<String>,
}

/// How long each question went without an answer, milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Away {
    ids_ms: f64,
    timestamps_ms: f64,
    scheduling_ms: f64,
}

/// Kills the node that hosts the scheduler's leader this many times, and starts it again each time. The regions sleep by then where all is to be
/// at rest.
pub(super) fn kill(
    cluster: &mut Cluster,
    (times, at_rest): (usize, bool),
    say: &mut dyn FnMut(&str),
) -> Result<HostsKilled, Failed> {
    let mut found = HostsKilled::default();
    let mut given = Given::default();
    for n in 0..times {
        cluster.wait_until_replicated()?;
        let victim = cluster.host()?;
        pause(if at_rest { REST } else { HEARD });
        given = look(&cluster.others(victim), given)?.0;
        let node = cluster.nodes[victim].as_mut().ok_or_else(|| Failed::new("the host does not run"))?;
        node.process.kill();
        let (after, away) = look(&cluster.others(victim), given)?;
        given = after;
        say(&format!(
            "host {} of {times}: node {}, ids after {:.0} ms, timestamps after {:.0} ms, scheduling after {:.0} ms",
            n + 1,
            victim + 1,
            away.ids_ms,
            away.timestamps_ms,
            away.scheduling_ms
        ));
        found.add(away);
        cluster.restart(victim)?;
    }
    found.times = times;
    (found.ids, found.timestamps) = (given.ids.len() as u64, given.timestamps);
    found.violations = given.violations;
    Ok(found)
}

/// Asks at these nodes until all have answered everything.
fn look(nodes: &[SocketAddr], given: Given) -> Result<(Given, Away), Failed> {
    let nodes = nodes.to_vec();
    let (given, away) = world::start_core(&CoreOptions::default(), move |rt| async move {
        let rt_of_all = rt.clone();
        let (given, began) = (Rc::new(RefCell::new(given)), rt.now());
        let heard = Rc::new(RefCell::new(BTreeMap::new()));
        let all = async {
            let mut asking = Vec::new();
            for node in nodes {
                let (rt, given, heard) = (rt.clone(), given.clone(), heard.clone());
                let asked = async move { ask(&Asking { rt: &rt, node, began, heard: &heard }, &given).await };
                asking.push(rt_of_all.spawn(asked));
            }
            let mut away = Away::default();
            for node in asking {
                away = away.later(node.await);
            }
            away
        };
        let away = rt.timeout(AWAY_MAX, all).await;
        (given.take(), away.ok_or_else(|| heard.take()))
    })?;
    let missing = |heard: Heard| {
        let each: Vec<String> =
            heard.iter().map(|((node, what), said)| format!("{what} at {node}: {said}")).collect();
        Failed::new(format!(
            "the scheduler does not go on within {AWAY_MAX:?} at every node: {}",
            each.join("; ")
        ))
    };
    Ok((given, away.map_err(missing)?))
}

/// What was answered last to each question that waits, by node and question.
type Heard = BTreeMap<(SocketAddr, &'static str), String>;

/// Who asks whom.
#[derive(Clone, Copy)]
struct Asking<'a> {
    rt: &'a Rt,
    node: SocketAddr,
    began: Mono,
    heard: &'a RefCell<Heard>,
}

/// Asks one node until it has answered everything. When it first did, each.
async fn ask(asking: &Asking<'_>, given: &RefCell<Given>) -> Away {
    let ids = asking.until("ids", async |client: Client| {
        let request = AllocIdRequest { count: 1, ..AllocIdRequest::default() };
        let answer: AllocIdResponse = client.unary("/pdpb.PD/AllocID", &request).await?;
        given.borrow_mut().id(answer.id);
        Ok(())
    });
    let timestamps = asking.until("timestamps", async |client: Client| {
        let before = given.borrow().timestamp_max;
        let stamp = timestamp(&client).await?;
        given.borrow_mut().timestamp(stamp, before);
        Ok(())
    });
    let scheduling = asking.until("scheduling", async |client: Client| {
        let seen: ClusterResponse =
            client.unary("/ringkeep.Scheduler/Cluster", &ClusterRequest::default()).await?;
        if seen.prepared && !seen.stateless {
            return Ok(());
        }
        Err(Status::new(Code::Unavailable, format!("{} regions heard of", seen.regions)))
    });
    let ((ids_ms, timestamps_ms), scheduling_ms) = zip(zip(ids, timestamps), scheduling).await;
    Away { ids_ms, timestamps_ms, scheduling_ms }
}

impl Asking<'_> {
    /// Asks one question again and again until it is answered; how long that took since the kill, milliseconds.
    async fn until<F>(&self, what: &'static str, question: F) -> f64
    where
        F: AsyncFn(Client) -> Result<(), Status>,
    {
        let mut client = None;
        loop {
            client = match client.take() {
                None => self
                    .rt
                    .timeout(ANSWER_MAX, Client::connect(self.rt, self.node))
                    .await
                    .and_then(Result::ok),
                open @ Some(_) => open,
            };
            let asked = match &client {
                Some(client) => self.rt.timeout(ANSWER_MAX, question(client.clone())).await,
                None => None,
            };
            let said = match asked {
                Some(Ok(())) => {
                    self.heard.borrow_mut().remove(&(self.node, what));
                    return self.rt.now().since(self.began).as_secs_f64() * 1e3;
                }
                Some(Err(status)) => status.message,
                None => "no answer in time".to_owned(),
            };
            self.heard.borrow_mut().insert((self.node, what), said);
            // The next attempt begins anew: the connection may be the trouble.
            client = None;
            self.rt.sleep(APART).await;
        }
    }
}

/// One timestamp, on a stream of its own.
async fn timestamp(client: &Client) -> Result<u64, Status> {
    let mut call = client.open("/pdpb.PD/Tso").await?;
    let request = frame(&TsoRequest { count: 1, ..TsoRequest::default() });
    if call.outbox.send(request).await.is_err() {
        return Err(Status::new(Code::Unavailable, "the stream is closed"));
    }
    let Some(message) = call.inbox.next().await? else {
        return Err(Status::new(Code::Unavailable, "the stream ended without an answer"));
    };
    let answer: TsoResponse = prost::Message::decode(message.bytes)
        .map_err(|error| Status::new(Code::Internal, format!("the answer is no timestamp: {error}")))?;
    let stamp = answer.timestamp.ok_or_else(|| Status::new(Code::Internal, "no timestamp in the answer"))?;
    let (physical, logical) = (u64::try_from(stamp.physical), u64::try_from(stamp.logical));
    match (physical, logical) {
        (Ok(physical), Ok(logical)) => Ok((physical << LOGICAL_BITS) | logical),
        (Err(_), Ok(_) | Err(_)) | (Ok(_), Err(_)) => {
            Err(Status::new(Code::Internal, "a timestamp below zero"))
        }
    }
}

impl Given {
    fn id(&mut self, id: u64) {
        if !self.ids.insert(id) {
            self.violations.push(format!("id {id} was given out twice"));
        }
    }

    /// A timestamp that was asked for when `before` was the highest that had arrived.
    fn timestamp(&mut self, stamp: u64, before: u64) {
        self.timestamps += 1;
        if stamp <= before {
            self.violations.push(format!("timestamp {stamp} was given out after {before}"));
        }
        self.timestamp_max = self.timestamp_max.max(stamp);
    }
}

impl Away {
    fn later(self, other: Self) -> Self {
        Self {
            ids_ms: self.ids_ms.max(other.ids_ms),
            timestamps_ms: self.timestamps_ms.max(other.timestamps_ms),
            scheduling_ms: self.scheduling_ms.max(other.scheduling_ms),
        }
    }
}

impl HostsKilled {
    fn add(&mut self, away: Away) {
        let Away { ids_ms, timestamps_ms, scheduling_ms } = away;
        self.ids_ms.push(ids_ms);
        self.timestamps_ms.push(timestamps_ms);
        self.scheduling_ms.push(scheduling_ms);
    }

    /// Whether nothing was given out twice or in the wrong order.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// Lines for people; none if no host was killed.
    pub(super) fn lines(&self) -> String {
        if self.times == 0 {
            return String::new();
        }
        let of = |name: &str, all: &[f64]| {
            let worst = all.iter().copied().fold(0.0, f64::max);
            format!("             {name:<12} median {:.0} ms, worst {worst:.0} ms\n", median(all))
        };
        let mut text = format!(
            "  {:<10} {:>3} times; {} ids and {} timestamps given out, {} of them wrong\n{}{}{}",
            "hosts",
            self.times,
            self.ids,
            self.timestamps,
            self.violations.len(),
            of("ids", &self.ids_ms),
            of("timestamps", &self.timestamps_ms),
            of("scheduling", &self.scheduling_ms)
        );
        for violation in self.violations.iter().take(10) {
            text.push_str(&format!("             {violation}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_out_twice_or_in_the_wrong_order_is_a_violation_that_is_shown() {
        let mut given = Given::default();
        for id in [5, 7, 6] {
            given.id(id);
        }
        given.timestamp(10, 0);
        // Asked for before the one above had arrived.
        given.timestamp(9, 0);
        given.timestamp(11, 10);
        assert_eq!((given.violations.len(), given.timestamps, given.timestamp_max), (0, 3, 11));
        given.id(7);
        given.timestamp(11, 11);
        let mut found = HostsKilled { times: 1, ..HostsKilled::default() };
        found.add(Away { ids_ms: 1500.0, timestamps_ms: 1600.0, scheduling_ms: 2500.0 });
        assert!(found.passed() && found.lines().contains("median 2500 ms"), "{}", found.lines());
        found.violations = given.violations;
        let lines = found.lines();
        assert!(
            !found.passed() && lines.contains("id 7") && lines.contains("11 was given out after 11"),
            "{lines}"
        );
    }
}
