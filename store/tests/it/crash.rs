//! Power cuts in the simulated world: what was acknowledged is there afterwards, and nothing is there that was not written.
//!
//! `RINGKEEP_SEEDS=1000 cargo test -p ringkeep-store --test it crash` runs more seeds; `RINGKEEP_SEED=n` runs one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::log::LogOptions;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::sim::{Node, Options, Running, World};
use store::gateway::Gateway;
use store::node::core::Plan;
use store::node::identity::Identity;
use store::node::start::{self, Until};
use store::request::{Change, Op, Out, Scan};

/// What may be found under one key: the writes submitted since the last that is certain, oldest first, and how many of them were
/// acknowledged, counted from the front.
#[derive(Debug, Default)]
struct History {
    values: Vec<Option<Bytes>>,
    acknowledged: usize,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    keys: BTreeMap<Bytes, History>,
    pub(super) acknowledged: u64,
}

impl Model {
    fn submit(&mut self, key: &Bytes, value: Option<Bytes>) -> usize {
        let history =
            self.keys.entry(key.clone()).or_insert_with(|| History { values: vec![None], acknowledged: 1 });
        history.values.push(value);
        history.values.len()
    }

    /// Writes of one key take effect in order, so an acknowledgement covers everything before it.
    fn acknowledge(&mut self, key: &Bytes, place: usize) {
        let history = self.keys.get_mut(key).expect("it was submitted");
        history.acknowledged = history.acknowledged.max(place);
        self.acknowledged += 1;
    }

    /// Checks what was found after a crash, and makes it the certain state.
    fn check(&mut self, seed: u64, found: &BTreeMap<Bytes, Bytes>) {
        for (key, history) in &mut self.keys {
            let value = found.get(key);
            let allowed = &history.values[history.acknowledged - 1..];
            assert!(
                allowed.iter().any(|candidate| candidate.as_ref() == value),
                "seed {seed}: {key:?} holds {value:?}, acknowledged was {:?}, submitted after it {:?}",
                allowed[0],
                &allowed[1..]
            );
            *history = History { values: vec![value.cloned()], acknowledged: 1 };
        }
        let phantom = found.keys().find(|key| !self.keys.contains_key(*key));
        assert_eq!(phantom, None, "seed {seed}: a key that was not written");
    }
}

fn small_plan() -> Plan {
    let mut plan =
        crate::node::plan(Path::new("/data"), Identity { cluster: 7, node: 3, stores: 2, first_store: 1 }, 1);
    plan.shard.log = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
    plan.shard.tree = TreeOptions { memtable_bytes: 32 << 10, ..TreeOptions::default() };
    plan.shard.limits.log_bytes_max = 256 << 10;
    plan.shard.limits.segment_bytes = 64 << 10;
    plan
}

pub(super) async fn start(rt: &Rt) -> Gateway {
    rt.create_dir_all(Path::new("/data")).await.unwrap();
    rt.sync_dir(Path::new("/")).await.unwrap();
    start::alone(rt, Arc::new(small_plan()), Until::Settled).await.unwrap().gateway()
}

pub(super) async fn everything(gateway: &Gateway) -> BTreeMap<Bytes, Bytes> {
    match gateway.submit(None, Op::Scan(Scan { limit: 1_000_000, ..Scan::default() })).await {
        Ok(Out::Pairs(pairs)) => pairs.into_iter().collect(),
        other => panic!("{other:?}"),
    }
}

/// Starts and checks what is found.
pub(super) async fn start_and_check(rt: &Rt, seed: u64, model: &RefCell<Model>) -> Gateway {
    let gateway = start(rt).await;
    let found = everything(&gateway).await;
    model.borrow_mut().check(seed, &found);
    gateway
}

/// Begins a life of `node`: it checks what it finds, then writes until the power goes.
pub(super) fn begin_life(node: &Node, seed: u64, model: &Rc<RefCell<Model>>) -> Running<()> {
    let model = model.clone();
    node.start(0, move |rt| async move {
        let gateway = start_and_check(&rt, seed, &model).await;
        for _ in 0..3 {
            rt.spawn(write(rt.clone(), gateway.clone(), model.clone()));
        }
        std::future::pending().await
    })
}

fn draw(rt: &Rt, range: Range<u64>) -> u64 {
    range.start + rt.random() % (range.end - range.start)
}

/// Writes in bursts until the power goes.
async fn write(rt: Rt, gateway: Gateway, model: Rc<RefCell<Model>>) {
    loop {
        let mut burst = Vec::new();
        for _ in 0..draw(&rt, 1..20) {
            let first = b"05AKUaz"[draw(&rt, 0..7) as usize];
            let key = Bytes::from(vec![first, b'0' + draw(&rt, 0..5) as u8]);
            let value = match draw(&rt, 0..6) {
                0 => None,
                _ => {
                    let mut value = rt.random().to_string().into_bytes();
                    value.resize(value.len() + draw(&rt, 0..600) as usize, b'.');
                    Some(Bytes::from(value))
                }
            };
            let op = match &value {
                None => Op::Delete { key: key.clone(), count: false },
                Some(value) if draw(&rt, 0..4) == 0 => {
                    let change = Change::SetIf { value: value.clone(), when: store::request::When::Always };
                    Op::Modify { key: key.clone(), change }
                }
                Some(value) => Op::Put { key: key.clone(), value: value.clone() },
            };
            let place = model.borrow_mut().submit(&key, value);
            burst.push((key, place, gateway.submit(None, op)));
        }
        for (key, place, submitted) in burst {
            if submitted.await.is_ok() {
                model.borrow_mut().acknowledge(&key, place);
            }
        }
        if draw(&rt, 0..10) == 0 {
            rt.sleep(Duration::from_millis(draw(&rt, 1..400))).await;
        }
    }
}

/// Several lives of one node; each ends with a power cut at a moment that the seed decides. Gives how many writes were
/// acknowledged.
fn lives(seed: u64) -> u64 {
    let world = World::new(seed, Options::rough(seed));
    let node = world.node(0);
    let model = Rc::new(RefCell::new(Model::default()));
    for _ in 0..8 {
        let _life = begin_life(&node, seed, &model);
        let micros = if world.below(4) == 0 { 10_000_000 } else { 300_000 };
        world.run_for(Duration::from_micros(world.below(micros)));
        node.crash();
    }
    let last = model.clone();
    let checked = node.start(0, move |rt| async move {
        start_and_check(&rt, seed, &last).await;
    });
    assert_eq!(world.block_on(checked), Some(()), "seed {seed}: the last start did not end");
    model.take().acknowledged
}

#[test]
fn what_was_acknowledged_survives_power_cuts() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("RINGKEEP_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGKEEP_SEEDS").unwrap_or(12),
    };
    let acknowledged: u64 = seeds.map(lives).sum();
    assert!(acknowledged > 1000, "only {acknowledged} writes were acknowledged: the test does not test");
}
