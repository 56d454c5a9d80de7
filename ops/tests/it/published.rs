//! Published clients, unmodified, against three nodes whose leaders move and which die and return: `tikv-client` (raw) and `redis`.
//!
//! Each client has keys of its own, so each of its reads is judged at once: it is what was acknowledged or read last, or a write whose
//! answer was not heard ([`Registers`]). A client that stops getting answers for good keeps the test from ending.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bench::chaos::register::{Registers, Seen};
use bench::clock::pause;
use bench::process::Cluster;
use redis::{Commands, ConnectionLike};
use tikv_client::{Config, RawClient};

use crate::host::{directory, options};

const KEYS: usize = 20;
/// How long a call may take before its outcome counts as unknown.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Answers that each client is to have had between two faults.
const BETWEEN: u64 = 40;

/// What a client and the test share.
#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    /// Calls that were answered with success.
    done: AtomicU64,
}

/// What a client knows of its keys.
struct Keys {
    name: &'static str,
    registers: Registers,
    next: u64,
}

impl Keys {
    fn new(name: &'static str) -> Self {
        Self { name, registers: Registers::default(), next: 0 }
    }

    /// The next write: the key's number, the key, the value.
    fn write(&mut self) -> (usize, String, u64) {
        self.next += 1;
        let key = self.next as usize % KEYS;
        (key, self.key(key), self.next)
    }

    /// First bytes that differ spread the keys over the regions.
    fn key(&self, key: usize) -> String {
        format!("{}{}/{key}", char::from(b'0' + (key * 4) as u8), self.name)
    }

    fn wrote(&mut self, key: usize, number: u64, acknowledged: bool) {
        match acknowledged {
            true => self.registers.acknowledged(key, number),
            false => self.registers.unknown(key, number),
        }
    }

    fn read(&mut self, key: usize, value: Option<u64>) {
        if let Seen::Wrong(certain) = self.registers.read(key, value.unwrap_or(0)) {
            panic!("{} holds write {value:?} instead of {certain}", self.key(key));
        }
    }
}

fn tikv(pds: Vec<SocketAddr>, progress: &Progress) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let pds = pds.iter().map(ToString::to_string).collect();
        let config = Config::default().with_timeout(CALL_MAX);
        let client = RawClient::new_with_config(pds, config).await.expect("all nodes serve");
        let mut keys = Keys::new("tikv");
        while !progress.stop.load(Ordering::Acquire) {
            let (place, key, number) = keys.write();
            let put = client.put(key.clone(), number.to_string());
            let done = matches!(tokio::time::timeout(CALL_MAX, put).await, Ok(Ok(())));
            keys.wrote(place, number, done);
            progress.done.fetch_add(u64::from(done), Ordering::Relaxed);
            if let Ok(Ok(value)) = tokio::time::timeout(CALL_MAX, client.get(key)).await {
                let text = value.map(|value| String::from_utf8(value).expect("it was a number"));
                keys.read(place, text.map(|text| text.parse().expect("it was a number")));
                progress.done.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
}

fn redis(nodes: &[SocketAddr], progress: &Progress) {
    let mut keys = Keys::new("redis");
    let (mut added, mut certain) = (0, 0);
    let open = |node: &SocketAddr| {
        let client = redis::Client::open(format!("redis://{node}/")).expect("an address");
        let connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
        connection.set_read_timeout(Some(CALL_MAX)).expect("a socket");
        Some(connection)
    };
    for node in nodes.iter().cycle() {
        let Some(mut connection) = open(node) else {
            pause(Duration::from_millis(20));
            continue;
        };
        for _ in 0..10 {
            if progress.stop.load(Ordering::Acquire) {
                return;
            }
            let (place, key, number) = keys.write();
            let done = connection.set::<_, _, ()>(&key, number).is_ok();
            keys.wrote(place, number, done);
            if let Ok(value) = connection.get(&key) {
                keys.read(place, value);
                progress.done.fetch_add(1 + u64::from(done), Ordering::Relaxed);
            }
            // An addition whose answer is not heard happens at most once.
            added += 1;
            if let Ok(sum) = connection.incr::<_, _, u64>("redis/sum", 1) {
                assert!(sum > certain && sum <= added, "{sum} after {certain}, {added} additions at most");
                certain = sum;
                progress.done.fetch_add(1, Ordering::Relaxed);
            } else if !connection.is_open() {
                break;
            }
        }
    }
}

/// Every client gets more answers.
fn go_on(clients: &[(Arc<Progress>, JoinHandle<()>)]) {
    for (progress, client) in clients {
        let until = progress.done.load(Ordering::Relaxed) + BETWEEN;
        while progress.done.load(Ordering::Relaxed) < until && !client.is_finished() {
            pause(Duration::from_millis(10));
        }
    }
}

/// Leadership of every region is to go to another node. How many of them do: what leads there already, or has an operator, is left as it is.
fn move_leaders(cluster: &Cluster, round: usize) -> usize {
    let stores = cluster.stores().expect("the scheduler answers");
    let regions = cluster.regions().expect("the scheduler answers");
    let moves = regions.iter().filter_map(|it| it.region.as_ref()).enumerate().filter(|(n, region)| {
        let on = &stores[(round + n) % stores.len()];
        let target = region.peers.iter().map(|peer| peer.store_id).find(|store| on.contains(store));
        target.is_some_and(|store| cluster.transfer(region.id, store).is_ok())
    });
    moves.count()
}

#[test]
fn published_clients_see_nothing_wrong_while_leaders_move_and_nodes_die_and_return() {
    let directory = directory();
    let mut cluster = Cluster::start(&options(&directory), 3).expect("three nodes start");
    let cuts = ["D", "X", "l"].map(|key| key.as_bytes().to_vec());
    while cluster.cut(&cuts).expect("the scheduler answers") < 100 {
        pause(Duration::from_millis(50));
    }
    let nodes: Vec<SocketAddr> = cluster.nodes.iter().flatten().map(|node| node.resp).collect();
    let pds: Vec<SocketAddr> = cluster.nodes.iter().flatten().map(|node| node.pd).collect();
    let run = |client: Box<dyn FnOnce(&Progress) + Send>| {
        let progress = Arc::new(Progress::default());
        let shared = progress.clone();
        (progress, std::thread::spawn(move || client(&shared)))
    };
    let clients = [run(Box::new(move |it| tikv(pds, it))), run(Box::new(move |it| redis(&nodes, it)))];
    go_on(&clients);
    let mut moved = 0;
    for round in 0..3 {
        moved += move_leaders(&cluster, round);
        go_on(&clients);
        let victim = round % 3;
        cluster.kill(victim).expect("it runs");
        go_on(&clients);
        cluster.restart(victim).expect("it starts again");
        go_on(&clients);
    }
    clients.iter().for_each(|(progress, _)| progress.stop.store(true, Ordering::Release));
    for (_, client) in clients {
        client.join().expect("nothing wrong was seen");
    }
    assert!(moved > 3, "leaders have moved: {moved}");
}
