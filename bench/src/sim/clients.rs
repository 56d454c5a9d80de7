//! Clients of a cluster as a TiKV client is one: one connection per store, the leader found by the errors of those that do not lead.
//!
//! A call that is refused has not happened; one whose answer is lost, late or "unknown" may have.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::Context;
use store::wire::proto::metapb;

use super::callers::{Called, Shared, below, draw, send};
use super::judge::{Action, Asked, Heard};
use super::nodes::{NODES, regions};

/// Keys of both regions.
pub const KEYS: [&str; 6] = ["a", "b", "c", "n", "o", "p"];

/// How long a client waits for a connection, and for an answer at least and at most.
const CONNECT_MAX: Duration = Duration::from_millis(500);
const ANSWER_MS: (u64, u64) = (200, 4000);
/// The pause before a client that was refused asks again.
const PAUSE: Duration = Duration::from_millis(40);

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// At the node that leads.
    Leader,
    /// There, by a comparison that fails.
    Swap,
    /// At any node. A write that says so is a write like any other.
    Replica,
}

struct Caller {
    rt: Rt,
    addrs: Vec<SocketAddr>,
    clients: Vec<Option<Client>>,
    /// Which node is asked first, by region.
    guess: Vec<usize>,
    /// Which node answered the latest, and which one before another did, by region.
    led: Vec<[usize; 2]>,
    shared: Rc<Shared>,
}

/// Asks until the run is done.
pub async fn ask_on(rt: Rt, number: u64, addrs: Vec<SocketAddr>, shared: Rc<Shared>) {
    let mut caller = Caller::new(rt.clone(), addrs, shared.clone());
    let mut written = 0;
    while !shared.done.get() {
        let key = KEYS[below(&rt, KEYS.len() as u64) as usize];
        let action = draw(&rt, &number.to_string(), &mut written);
        caller.call(key, &action).await;
        rt.sleep(Duration::from_millis(10 + below(&rt, 60))).await;
    }
}

/// Asks one node once, outside of the history. What it said, if it answered.
pub async fn ask_node(
    rt: Rt,
    addrs: Vec<SocketAddr>,
    node: usize,
    key: &'static str,
    action: Action,
    by_swap: bool,
) -> Option<Heard> {
    let place = regions().iter().position(|region| region.range.contains(key.as_bytes()))?;
    let client = rt.timeout(CONNECT_MAX, Client::connect(&rt, addrs[node])).await?.ok()?;
    let calling = send(&client, context(place, node), key, &action, by_swap);
    match rt.timeout(Duration::from_millis(ANSWER_MS.1), calling).await? {
        Ok(Called::Heard(heard)) => Some(heard),
        Ok(Called::Refused(_) | Called::Lost) | Err(_) => None,
    }
}

/// Reads at one node once, whether it leads or not, outside of the history. What it said, if it answered within `patience`.
pub async fn read_replica(
    rt: Rt,
    addrs: Vec<SocketAddr>,
    node: usize,
    key: &'static str,
    patience: Duration,
) -> Option<Heard> {
    let place = regions().iter().position(|region| region.range.contains(key.as_bytes()))?;
    let client = rt.timeout(CONNECT_MAX, Client::connect(&rt, addrs[node])).await?.ok()?;
    match rt
        .timeout(patience, send(&client, context_of(place, node, How::Replica), key, &Action::Get, false))
        .await?
    {
        Ok(Called::Heard(heard)) => Some(heard),
        Ok(Called::Refused(_) | Called::Lost) | Err(_) => None,
    }
}

/// Reads every key, however long it takes.
pub async fn read_all(rt: Rt, addrs: Vec<SocketAddr>, shared: Rc<Shared>) {
    let mut caller = Caller::new(rt, addrs, shared);
    for key in KEYS {
        while !caller.call(key, &Action::Get).await {}
    }
}

impl Caller {
    fn new(rt: Rt, addrs: Vec<SocketAddr>, shared: Rc<Shared>) -> Self {
        let clients = addrs.iter().map(|_| None).collect();
        let count = regions().len();
        Self { rt, addrs, clients, guess: vec![0; count], led: vec![[0; 2]; count], shared }
    }

    /// One call, at whichever node leads as far as is known. Whether it was answered.
    async fn call(&mut self, key: &'static str, action: &Action) -> bool {
        let place = regions().iter().position(|region| region.range.contains(key.as_bytes())).unwrap();
        // Whoever led before is asked now and then: it must know better than to answer.
        let how = match below(&self.rt, 4) {
            0 | 1 => How::Leader,
            2 => How::Swap,
            3 => How::Replica,
            _ => unreachable!("it is below four"),
        };
        let node = match below(&self.rt, 4) {
            _ if how == How::Replica && *action == Action::Get => below(&self.rt, NODES as u64) as usize,
            0 => self.led[place][below(&self.rt, 2) as usize],
            _ => self.guess[place],
        };
        if self.clients[node].is_none() {
            let connecting = Client::connect(&self.rt, self.addrs[node]);
            self.clients[node] = self.rt.timeout(CONNECT_MAX, connecting).await.and_then(Result::ok);
        }
        let Some(client) = &self.clients[node] else {
            self.guess[place] = (node + 1) % NODES;
            self.rt.sleep(PAUSE).await;
            return false;
        };
        let asked: Asked = self.shared.history.borrow_mut().ask(key, action.clone(), None);
        let answer_max = Duration::from_millis(ANSWER_MS.0 + below(&self.rt, ANSWER_MS.1 - ANSWER_MS.0));
        let calling = send(client, context_of(place, node, how), key, action, how == How::Swap);
        let called = self.rt.timeout(answer_max, calling).await.unwrap_or(Ok(Called::Lost));
        match called {
            Ok(Called::Heard(heard)) => {
                self.shared.history.borrow_mut().hear(&asked, heard);
                let led = how != How::Replica || *action != Action::Get;
                if led && self.led[place][0] != node {
                    self.led[place] = [node, self.led[place][0]];
                }
                if led {
                    self.guess[place] = node;
                }
                return true;
            }
            Ok(Called::Refused(other)) => {
                self.shared.history.borrow_mut().refused(&asked);
                self.guess[place] = other.map_or((node + 1) % NODES, |leader| leader.store_id as usize - 1);
                self.rt.sleep(PAUSE).await;
            }
            Ok(Called::Lost) => {
                self.clients[node] = None;
                self.guess[place] = (node + 1) % NODES;
            }
            Err(why) => self.shared.failures.borrow_mut().push(why),
        }
        false
    }
}

/// What a client says of the region: its peer on the node that is asked.
pub fn context(place: usize, node: usize) -> Option<Context> {
    let region = regions().swap_remove(place);
    let peer = region.peers[node];
    Some(Context {
        region_id: region.id.0,
        region_epoch: Some(metapb::RegionEpoch {
            conf_ver: region.epoch.conf_ver,
            version: region.epoch.version,
        }),
        peer: Some(metapb::Peer { id: peer.id.0, store_id: peer.store.0, ..metapb::Peer::default() }),
        ..Context::default()
    })
}

fn context_of(place: usize, node: usize, how: How) -> Option<Context> {
    context(place, node).map(|context| Context { replica_read: how == How::Replica, ..context })
}
