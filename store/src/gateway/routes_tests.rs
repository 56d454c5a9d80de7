//! Routes that change while requests run: two stores of one node whose regions are cut, joined, taken away and brought back, there or
//! on the other store, while clients write in pipelines, read and scan over the gateways of both.
//!
//! Each client has keys of its own, so it knows what every answer has to be: a write that was refused has not happened, writes of one
//! key took effect in the order in which they were submitted, and a scan has every key once. The tables are changed through their
//! public way in and out; the data of a region that comes to the other store is copied while no store has the region.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::log::LogOptions;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::sim;
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, Rng, StoreId};

use super::{Dispatch, Gateway, LocalStores, StreamId, Submitted, Whole};
use crate::memory::Memory;
use crate::plant::{Bug, plant};
use crate::refusal::Refusal;
use crate::request::{Change, Op, Out, Outcome, Scan};
use crate::shard::links::{CoreLinks, connect};
use crate::shard::open::ShardOptions;
use crate::shard::{Shard, ShardLimits};

const CLIENTS: u64 = 3;
/// Keys of one client: letters, so that each client has some in every region.
const LETTERS: &[u8] = b"abcdefghijklmnop";
const BURSTS: u64 = 40;
const CHANGES: u64 = 30;
/// Of each client that adds.
const ADDITIONS: u64 = 200;
/// Virtual time in which all that ends, however often it is sent again.
const AT_MOST: Duration = Duration::from_secs(600);

/// What chance decides in one run.
struct Dice(Rng);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Rng::new(seed))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0.next() % bound
    }
}

fn options(store: u64) -> ShardOptions {
    ShardOptions {
        store: StoreId(store),
        system: false,
        may_be_empty: false,
        lock: None,
        log: LogOptions { segment_bytes: 4 << 20, ..LogOptions::default() },
        tree: TreeOptions::default(),
        limits: ShardLimits {
            inflight_bytes_max: 64 << 20,
            log_bytes_max: 64 << 20,
            turn_bytes_max: 64 << 20,
            segment_bytes: 4 << 20,
            reserve_bytes: 0,
            kept_entries: 1024,
            kept_bytes_max: 64 << 20,
            snapshot_piece_bytes: 64 << 20,
            snapshot_bytes_per_second: 64 << 20,
        },
        memory: Memory::unbounded(),
        raft: Arc::new(raft::Config { entry_bytes_max: 16 << 20, ..raft::Config::default() }),
        openings: crate::shard::openings::Openings::default(),
    }
}

/// Two stores and a gateway to both on each of two cores.
pub(super) struct Nodes {
    rt: Rt,
    shards: [Shard; 2],
    pub(super) gateways: [Gateway; 2],
    next_id: u64,
}

impl Nodes {
    pub(super) async fn start(rt: &Rt, memory: &Memory) -> Self {
        let borders = ["", "e", "i", "m", ""];
        let region = |at: usize| region(10 + at as u64, at as u64 % 2, borders[at], borders[at + 1], 1);
        let mut shards = Vec::new();
        for store in 0..2 {
            let dir = format!("/data/store-{store}");
            rt.create_dir_all(Path::new("/data")).await.unwrap();
            let first = (0..4).filter(|at| at % 2 == store).map(region).collect();
            let shard = Shard::open(rt, Path::new(&dir), options(store as u64 + 1), first).await.unwrap();
            let (turns, ticks) = (shard.clone(), shard.clone());
            rt.spawn(async move { turns.run().await });
            rt.spawn(async move { ticks.tick_loop().await });
            shards.push(shard);
        }
        let places: Vec<_> = (0..2).flat_map(|store| shards[store].places(store)).collect();
        let gateways = connect(2).into_iter().enumerate().map(|(core, ends)| {
            let links = CoreLinks::start(rt, core, ends.to);
            let here = LocalStores {
                shards: BTreeMap::from([(core, shards[core].clone())]),
                fenced: BTreeMap::new(),
            };
            let whole = Whole { core_of: vec![0, 1], command_bytes_max: 16 << 20, scan_pairs_max: 5 };
            let memory = memory.fresh();
            let dispatch =
                Dispatch::start(rt, here, whole, places.clone(), (links, None), ends.inbox, memory);
            Gateway::new(dispatch, core)
        });
        let gateways: Vec<_> = gateways.collect();
        let (shards, gateways) = (shards.try_into().unwrap(), gateways.try_into().unwrap());
        Self { rt: rt.clone(), shards, gateways, next_id: 100 }
    }

    /// One change of the routes.
    async fn change(&mut self, rng: &mut Dice) {
        let store = rng.below(2) as usize;
        let regions = self.shards[store].published();
        let Some(region) = regions.get(rng.below(regions.len().max(1) as u64) as usize) else { return };
        match rng.below(4) {
            0 => {
                let at = LETTERS[rng.below(LETTERS.len() as u64) as usize];
                self.cut(store, region, &[at, b'1']).await;
            }
            1 => self.join(store, &regions, region),
            2 => self.bring(store, store, region, rng).await,
            _ => self.bring(store, 1 - store, region, rng).await,
        }
        self.shards.iter().for_each(Shard::check_state);
    }

    /// Every core has heard of every change, so each key is found at once from each of them.
    async fn see_all_routes(&self) {
        self.rt.sleep(Duration::from_millis(50)).await;
        for gateway in &self.gateways {
            for letter in LETTERS {
                let key = Bytes::from(vec![*letter, b'0']);
                let found = gateway.submit(None, Op::Get { key }).await;
                assert!(found.is_ok(), "{letter} is read as {found:?}");
            }
        }
    }

    /// The numbers to which several clients have added are what they have added together.
    async fn see_sums(&self, sums: BTreeMap<u8, i64>) {
        for (letter, sum) in sums {
            let key = Bytes::from(vec![letter, b'+']);
            let found = self.gateways[0].submit(None, Op::Get { key }).await;
            let Ok(Out::Value(Some(value))) = found else { panic!("{letter} is read as {found:?}") };
            assert_eq!(value, sum.to_string(), "{letter}");
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    async fn cut(&mut self, store: usize, left: &Region, border: &[u8]) {
        if !left.range.contains(border) || left.range.start().as_bytes() == border {
            return;
        }
        let (id, options) = (self.new_id(), options(store as u64 + 1));
        let mut right = region(id, store as u64, "", "", left.epoch.version + 1);
        right.range = KeyRange::new(border.to_vec(), left.range.end().as_bytes().to_vec()).unwrap();
        self.shards[store].cut(left.id, right, &options).await.unwrap();
    }

    fn join(&self, store: usize, regions: &[Region], left: &Region) {
        let after = regions.iter().find(|region| region.range.start() == left.range.end());
        let Some(right) = after.filter(|right| !right.range.start().as_bytes().is_empty()) else { return };
        self.shards[store].join(left.id, right.id);
    }

    /// Takes a region away, and brings its keys back after a while, under another id.
    async fn bring(&mut self, from: usize, to: usize, old: &Region, rng: &mut Dice) {
        self.shards[from].take_away(old.id);
        self.rt.sleep(Duration::from_micros(rng.below(5_000))).await;
        if from != to {
            self.shards[to].copy_from(&self.shards[from], &old.range).await.unwrap();
        }
        let mut new = region(self.new_id(), to as u64, "", "", old.epoch.version + 1);
        new.range = old.range.clone();
        self.shards[to].bring(new, &options(to as u64 + 1)).await.unwrap();
    }
}

fn region(id: u64, store: u64, start: &str, end: &str, version: u64) -> Region {
    Region {
        id: RegionId(id),
        range: KeyRange::new(start, end).unwrap(),
        epoch: Epoch::new(1, version),
        peers: vec![Peer::voter(PeerId(id + 10_000), StoreId(store + 1))],
    }
}

/// What a key may be.
type Possible = BTreeSet<Option<Bytes>>;

/// A client: what it knows of its own keys, while nothing of it is in flight.
struct Client {
    number: u64,
    gateways: [Gateway; 2],
    rng: Dice,
    known: BTreeMap<Bytes, Possible>,
    written: u64,
    acknowledged: u64,
}

impl Client {
    fn new(number: u64, gateways: [Gateway; 2], seed: u64) -> Self {
        let key = |letter: &u8| Bytes::from(vec![*letter, b'0' + number as u8]);
        let known = LETTERS.iter().map(|letter| (key(letter), BTreeSet::from([None]))).collect();
        let rng = Dice::new(seed.wrapping_mul(31) + number);
        Self { number, gateways, rng, known, written: 0, acknowledged: 0 }
    }

    fn key(&mut self) -> Bytes {
        let at = self.rng.below(LETTERS.len() as u64) as usize;
        Bytes::from(vec![LETTERS[at], b'0' + self.number as u8])
    }

    async fn run(mut self) -> u64 {
        for _ in 0..BURSTS {
            let gateway = self.gateways[self.rng.below(2) as usize].clone();
            match self.rng.below(8) {
                0..=2 => self.write(&gateway).await,
                3 => self.read(&gateway).await,
                // What only a scan can meet, a change between two of its regions, is rare.
                _ => self.scan(&gateway).await,
            }
        }
        self.acknowledged
    }

    /// A pipeline: nothing is awaited before all is submitted.
    async fn write(&mut self, gateway: &Gateway) {
        let few: Vec<Bytes> = (0..2).map(|_| self.key()).collect();
        let mut burst: Vec<(Op, Submitted)> = Vec::new();
        for _ in 0..self.rng.below(12) {
            let key = few[self.rng.below(2) as usize].clone();
            self.written += 1;
            let value = Bytes::from(self.written.to_string());
            let op = match self.rng.below(6) {
                0 | 1 => Op::Put { key, value },
                2 => Op::Delete { key, count: false },
                3 => Op::BatchPut { pairs: few.iter().map(|key| (key.clone(), value.clone())).collect() },
                _ => Op::Modify { key, change: Change::Add { delta: 1 } },
            };
            burst.push((op.clone(), gateway.submit_in(StreamId(self.number + 1), None, op)));
        }
        for (op, submitted) in burst {
            let outcome = submitted.await;
            self.acknowledged += u64::from(outcome.is_ok());
            self.learn(op, outcome);
        }
    }

    fn learn(&mut self, op: Op, outcome: Outcome) {
        let after: Vec<(Bytes, Option<Bytes>)> = match (&op, &outcome) {
            (Op::Put { key, value }, _) => vec![(key.clone(), Some(value.clone()))],
            (Op::Delete { key, .. }, _) => vec![(key.clone(), None)],
            (Op::BatchPut { pairs }, _) => {
                pairs.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
            }
            (Op::Modify { key, .. }, Ok(Out::Integer(sum))) => {
                let before = |value: &Option<Bytes>| {
                    let text = value.as_deref().map_or("0", |value| std::str::from_utf8(value).unwrap());
                    text.parse::<i64>().unwrap()
                };
                let known = &self.known[key];
                assert!(
                    known.iter().any(|value| before(value) + 1 == *sum),
                    "{op:?} came to {sum}, of {known:?}"
                );
                vec![(key.clone(), Some(Bytes::from(sum.to_string())))]
            }
            (Op::Modify { .. }, Err(refusal)) => {
                assert!(*refusal != Refusal::Unknown, "nothing is unknown here");
                return;
            }
            other => panic!("{other:?}"),
        };
        // Of a batch over several regions parts may have been written, and then it says so; what was refused was not.
        let partly = matches!(op, Op::BatchPut { .. });
        for (key, value) in after {
            let known = self.known.get_mut(&key).unwrap();
            match &outcome {
                Ok(_) => *known = BTreeSet::from([value]),
                Err(Refusal::Unknown) if partly => drop(known.insert(value)),
                Err(Refusal::Unknown) => panic!("nothing is unknown here: {op:?}"),
                Err(_) => {}
            }
        }
    }

    fn saw(&mut self, key: &Bytes, value: Option<Bytes>, what: &str) {
        let known = self.known.get_mut(key).unwrap();
        assert!(known.contains(&value), "{what}: {key:?} is {value:?} and may be {known:?}");
        *known = BTreeSet::from([value]);
    }

    async fn read(&mut self, gateway: &Gateway) {
        let keys: Vec<Bytes> = (0..4).map(|_| self.key()).collect();
        if let Ok(Out::Value(value)) =
            gateway.submit_in(StreamId(self.number + 1), None, Op::Get { key: keys[0].clone() }).await
        {
            self.saw(&keys[0], value, "read");
        }
        if let Ok(Out::Values(values)) = gateway
            .submit_in(StreamId(self.number + 1), None, Op::BatchGet { keys: keys.clone(), at_once: false })
            .await
        {
            keys.iter().zip(values).for_each(|(key, value)| self.saw(key, value, "read with others"));
        }
    }

    /// One scan over everything, or one in steps as a cursor makes them.
    async fn scan(&mut self, gateway: &Gateway) {
        let reverse = self.rng.below(2) == 0;
        let step = if self.rng.below(2) == 0 { 1000 } else { 7 };
        let mut scan = Scan { limit: step, reverse, ..Scan::default() };
        let mut found: Vec<(Bytes, Bytes)> = Vec::new();
        loop {
            let pairs = match gateway.submit_in(StreamId(self.number + 1), None, Op::Scan(scan.clone())).await
            {
                Ok(Out::Pairs(pairs)) => pairs,
                Ok(other) => panic!("{other:?}"),
                // A client asks again where it was.
                Err(_) => continue,
            };
            let (full, last) = (pairs.len() == step, pairs.last().map(|(key, _)| key.clone()));
            found.extend(pairs);
            match last.filter(|_| full) {
                None => break,
                Some(last) if reverse => scan.end = last,
                Some(last) => scan.start = [&last[..], &[0]].concat().into(),
            }
        }
        let in_order = |one: &(Bytes, Bytes), next: &(Bytes, Bytes)| match reverse {
            true => one.0 > next.0,
            false => one.0 < next.0,
        };
        assert!(found.is_sorted_by(in_order), "a key came twice or out of order: {found:?}");
        let found: BTreeMap<Bytes, Bytes> = found.into_iter().collect();
        let keys: Vec<Bytes> = self.known.keys().cloned().collect();
        keys.iter().for_each(|key| self.saw(key, found.get(key).cloned(), "scanned"));
    }
}

/// A client that adds to numbers to which others add as well, one command at a time on one of the cores. None of its commands is
/// refused because another's was carried out. Returns how often it has added to each.
async fn add(rt: Rt, gateway: Gateway, number: u64, seed: u64) -> BTreeMap<u8, i64> {
    let (mut rng, mut added) = (Dice::new(seed.wrapping_mul(37) + number), BTreeMap::new());
    for _ in 0..ADDITIONS {
        let letter = LETTERS[rng.below(LETTERS.len() as u64) as usize];
        let op = Op::Modify { key: Bytes::from(vec![letter, b'+']), change: Change::Add { delta: 1 } };
        let outcome = gateway.submit_in(StreamId(100 + number), None, op).await;
        assert!(matches!(outcome, Ok(Out::Integer(_))), "{outcome:?}");
        *added.entry(letter).or_default() += 1;
        rt.sleep(Duration::from_micros(rng.below(500))).await;
    }
    added
}

/// One run with this many clients that add; says how many writes were acknowledged.
fn run(seed: u64, adding: u64) -> u64 {
    sim::run(seed, move |rt| async move {
        let running = rt.clone();
        let all = async move {
            let mut nodes = Nodes::start(&running, &Memory::unbounded()).await;
            let clients = (0..CLIENTS).map(|number| Client::new(number, nodes.gateways.clone(), seed).run());
            let clients: Vec<_> = clients.map(|client| running.spawn(client)).collect();
            let adding: Vec<_> = (0..adding)
                .map(|number| add(running.clone(), nodes.gateways[number as usize % 2].clone(), number, seed))
                .map(|client| running.spawn(client))
                .collect();
            let mut rng = Dice::new(seed);
            for _ in 0..CHANGES {
                running.sleep(Duration::from_micros(rng.below(3_000))).await;
                nodes.change(&mut rng).await;
            }
            let mut acknowledged = 0;
            for client in clients {
                acknowledged += client.await;
            }
            let mut sums = BTreeMap::new();
            for client in adding {
                client
                    .await
                    .into_iter()
                    .for_each(|(letter, times)| *sums.entry(letter).or_default() += times);
            }
            nodes.see_all_routes().await;
            nodes.see_sums(sums).await;
            acknowledged
        };
        rt.timeout(AT_MOST, all).await.expect("a request was never answered")
    })
}

#[test]
fn requests_are_right_while_routes_change() {
    let acknowledged: u64 = (0..60).map(|seed| run(seed, 0)).sum();
    assert!(acknowledged > 60 * CLIENTS * 40, "only {acknowledged} writes were acknowledged");
}

#[test]
fn no_write_is_refused_for_what_another_connection_has_written() {
    let acknowledged: u64 = (0..30).map(|seed| run(seed, 4)).sum();
    assert!(acknowledged > 0, "the others write as well");
}

#[test]
fn bugs_in_changing_routes_are_caught() {
    let caught = |bug: Bug| {
        (0..300).any(|seed| {
            let planted = move || {
                plant(Some(bug));
                run(seed, 0)
            };
            std::thread::spawn(planted).join().is_err()
        })
    };
    let missed: Vec<Bug> = Bug::ROUTES.into_iter().filter(|bug| !caught(*bug)).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
