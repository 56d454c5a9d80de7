//! Clients of a cluster as a TiKV client is one: one connection per store, the leader found by the errors of those that do not lead, and
//! regions that are looked up again once a node says that they are others.
//!
//! A call that is refused has not happened; one whose answer is lost, late or "unknown" may have.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use scheduler::{Peer, Region, RegionId};
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::Context;
use store::wire::proto::metapb;

use super::callers::{Answer, Called, Shared, below, send, send_all};
use super::judge::{Action, Asked, Heard};
use super::nodes::{NODES, addr_of, index_of, node_of, regions};

/// Keys of both regions.
pub const KEYS: [&str; 6] = ["a", "b", "c", "n", "o", "p"];
/// Keys that hold numbers.
pub const COUNTERS: [&str; 2] = ["d", "q"];

/// How long a client waits for a connection, and for an answer at least and at most.
const CONNECT_MAX: Duration = Duration::from_millis(500);
const ANSWER_MS: (u64, u64) = (200, 4000);
/// The pause before a client that was refused asks again.
const PAUSE: Duration = Duration::from_millis(40);
/// The largest value, bytes.
const VALUE_MAX: u64 = 2000;

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

/// One or more keys of a call, and what is asked of each.
type Asks = Vec<(&'static str, Action)>;

struct Caller {
    rt: Rt,
    addrs: Vec<SocketAddr>,
    /// Connections by node and store.
    clients: BTreeMap<(usize, usize), Client>,
    /// The regions, as far as this client knows.
    known: Vec<Region>,
    /// Which node is asked first, by region.
    guess: BTreeMap<RegionId, usize>,
    /// Which node answered the latest, and which one before another did, by region.
    led: BTreeMap<RegionId, [usize; 2]>,
    /// What was last heard of a key.
    last: BTreeMap<&'static str, Option<String>>,
    shared: Rc<Shared>,
}

/// Asks until the run is done.
pub async fn ask_on(rt: Rt, number: u64, addrs: Vec<SocketAddr>, shared: Rc<Shared>) {
    let mut caller = Caller::new(rt.clone(), addrs, shared.clone());
    let mut written = 0;
    while !shared.done.get() {
        let asks = caller.draw(number, &mut written);
        caller.call(&asks).await;
        shared.pause(&rt).await;
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

/// Reads at one node once, whether it leads or not, outside of the history. What it said, if it answered within `time_max`.
pub async fn read_replica(
    rt: Rt,
    addrs: Vec<SocketAddr>,
    node: usize,
    key: &'static str,
    time_max: Duration,
) -> Option<Heard> {
    let place = regions().iter().position(|region| region.range.contains(key.as_bytes()))?;
    let client = rt.timeout(CONNECT_MAX, Client::connect(&rt, addrs[node])).await?.ok()?;
    match rt
        .timeout(time_max, send(&client, context_of(place, node, How::Replica), key, &Action::Get, false))
        .await?
    {
        Ok(Called::Heard(heard)) => Some(heard),
        Ok(Called::Refused(_) | Called::Lost) | Err(_) => None,
    }
}

/// Reads every key, however long it takes.
pub async fn read_all(rt: Rt, addrs: Vec<SocketAddr>, shared: Rc<Shared>) {
    let mut caller = Caller::new(rt, addrs, shared);
    for key in KEYS.into_iter().chain(COUNTERS) {
        while !caller.call(&vec![(key, Action::Get)]).await {}
    }
}

impl Caller {
    fn new(rt: Rt, addrs: Vec<SocketAddr>, shared: Rc<Shared>) -> Self {
        let (guess, led, last) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let known = shared.regions.borrow().clone();
        let known = if known.is_empty() { regions() } else { known };
        Self { rt, addrs, clients: BTreeMap::new(), known, guess, led, last, shared }
    }

    /// What is asked next. No value is written twice.
    fn draw(&self, number: u64, written: &mut u64) -> Asks {
        let key = KEYS[below(&self.rt, KEYS.len() as u64) as usize];
        let mut value = || {
            *written += 1;
            let long = below(&self.rt, 8) == 0;
            let padding = if long { below(&self.rt, VALUE_MAX) as usize } else { 0 };
            format!("{number}-{written}{}", ".".repeat(padding))
        };
        let among = |key: &str| {
            let region = self.known.iter().find(|region| region.range.contains(key.as_bytes()));
            let inside =
                move |key: &&'static str| region.is_some_and(|region| region.range.contains(key.as_bytes()));
            KEYS.into_iter().filter(inside)
        };
        match below(&self.rt, 20) {
            0..=5 => vec![(key, Action::Set(value()))],
            6 => vec![(key, Action::Delete)],
            7 | 8 => {
                let expected = self.last.get(key).cloned().flatten();
                vec![(key, Action::Swap(expected, value()))]
            }
            9 => among(key).map(|key| (key, Action::Set(value()))).collect(),
            10 => among(key).map(|key| (key, Action::Get)).collect(),
            11 => vec![(COUNTERS[below(&self.rt, 2) as usize], Action::Get)],
            12..=19 => vec![(key, Action::Get)],
            _ => unreachable!("it is below twenty"),
        }
    }

    fn region_of(&self, key: &str) -> Region {
        let has = |region: &&Region| region.range.contains(key.as_bytes());
        self.known.iter().find(has).expect("the regions cover the key space").clone()
    }

    /// The node that is asked for a region.
    fn pick(&self, region: RegionId, anywhere: bool) -> usize {
        let guess = self.guess.get(&region).copied().unwrap_or(0);
        match below(&self.rt, 4) {
            _ if anywhere => below(&self.rt, NODES as u64) as usize,
            // Whoever led before is asked now and then: it must know better than to answer.
            0 => self.led.get(&region).map_or(guess, |led| led[below(&self.rt, 2) as usize]),
            _ => guess,
        }
    }

    /// The connection to a store of a node, if it can be had.
    async fn connect(&mut self, node: usize, index: usize) -> Option<Client> {
        if !self.clients.contains_key(&(node, index)) {
            let connecting = Client::connect(&self.rt, addr_of(index, self.addrs[node]));
            let client = self.rt.timeout(CONNECT_MAX, connecting).await.and_then(Result::ok)?;
            self.clients.insert((node, index), client);
        }
        self.clients.get(&(node, index)).cloned()
    }

    /// The peer on a node that is asked: while a region moves inside the node it has two.
    fn peer_on(&self, region: &Region, node: usize) -> Option<Peer> {
        let there: Vec<Peer> =
            region.peers.iter().rev().copied().filter(|peer| node_of(peer.store) == node).collect();
        match there[..] {
            [] => None,
            [only] => Some(only),
            _ => Some(there[below(&self.rt, there.len() as u64) as usize]),
        }
    }

    /// One call, at whichever node leads as far as is known. Whether it was answered.
    async fn call(&mut self, asks: &Asks) -> bool {
        let region = self.region_of(asks[0].0);
        let how = match below(&self.rt, 4) {
            0 | 1 => How::Leader,
            2 => How::Swap,
            3 => How::Replica,
            _ => unreachable!("it is below four"),
        };
        let reads_anywhere = how == How::Replica && asks[0].1 == Action::Get;
        let node = self.pick(region.id, reads_anywhere);
        let peer = self.peer_on(&region, node);
        let context = peer.map(|peer| context_in(&region, peer, how));
        let index = peer.map_or(0, |peer| index_of(peer.store));
        let client = if peer.is_some() { self.connect(node, index).await } else { None };
        let Some(client) = client else {
            self.look_up(region.id, (node + 1) % NODES);
            self.rt.sleep(PAUSE).await;
            return false;
        };
        let ask = |(key, action): &(&'static str, Action)| -> Asked {
            self.shared.history.borrow_mut().ask(key, action.clone(), None)
        };
        let asked: Vec<Asked> = asks.iter().map(ask).collect();
        let answer_max = Duration::from_millis(ANSWER_MS.0 + below(&self.rt, ANSWER_MS.1 - ANSWER_MS.0));
        let calling = send_all(&client, context, &region, asks, how == How::Swap);
        match self.rt.timeout(answer_max, calling).await.unwrap_or(Ok(Answer::Lost)) {
            Ok(Answer::Heard(heard)) => {
                self.hear(asks, &asked, heard);
                if !reads_anywhere {
                    self.guess.insert(region.id, node);
                    let led = self.led.entry(region.id).or_insert([node; 2]);
                    if led[0] != node {
                        *led = [node, led[0]];
                    }
                }
                return true;
            }
            Ok(Answer::Refused(leader)) => {
                asked.iter().for_each(|asked| self.shared.history.borrow_mut().refused(asked));
                let next = leader.map_or((node + 1) % NODES, |it| node_of(scheduler::StoreId(it.store_id)));
                self.look_up(region.id, next);
                self.rt.sleep(PAUSE).await;
            }
            Ok(Answer::Lost) => {
                self.clients.remove(&(node, index));
                self.guess.insert(region.id, (node + 1) % NODES);
            }
            // A node with a bad disk may say anything but something wrong.
            Err(_) if self.shared.faulty.get() => {
                self.guess.insert(region.id, (node + 1) % NODES);
                self.rt.sleep(PAUSE).await;
            }
            Err(why) => self.shared.failures.borrow_mut().push(why),
        }
        false
    }

    fn hear(&mut self, asks: &Asks, asked: &[Asked], heard: Vec<Heard>) {
        for (((key, action), asked), heard) in asks.iter().zip(asked).zip(heard) {
            match (action, &heard) {
                (_, Heard::Value(value)) => drop(self.last.insert(key, value.clone())),
                (Action::Set(value) | Action::Swap(_, value), Heard::Done) => {
                    self.last.insert(key, Some(value.clone()));
                }
                (_, Heard::Done | Heard::Existed(_) | Heard::Integer(_)) => drop(self.last.remove(key)),
            }
            self.shared.history.borrow_mut().hear(asked, heard);
        }
    }

    /// Regions may be others now, and another node is to be asked.
    fn look_up(&mut self, region: RegionId, next: usize) {
        let newest = self.shared.regions.borrow();
        if !newest.is_empty() {
            self.known.clone_from(&newest);
        }
        self.guess.insert(region, next);
    }
}

/// What a client says of one of the first regions: its peer on the node that is asked.
pub fn context(place: usize, node: usize) -> Option<Context> {
    context_of(place, node, How::Leader)
}

fn context_of(place: usize, node: usize, how: How) -> Option<Context> {
    let region = regions().swap_remove(place);
    let peer = region.peers.iter().rev().find(|peer| node_of(peer.store) == node)?;
    Some(context_in(&region, *peer, how))
}

/// What a client says of a region and of its peer that is asked.
fn context_in(region: &Region, peer: Peer, how: How) -> Context {
    let Region { id, range: _, epoch, peers: _ } = region;
    Context {
        region_id: id.0,
        region_epoch: Some(metapb::RegionEpoch { conf_ver: epoch.conf_ver, version: epoch.version }),
        peer: Some(metapb::Peer { id: peer.id.0, store_id: peer.store.0, ..metapb::Peer::default() }),
        replica_read: how == How::Replica,
        ..Context::default()
    }
}
