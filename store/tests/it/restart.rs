//! What a start finds to do: nothing after a drain, not even to wait for compactions, and after a kill to read the log once.

use std::time::Duration;

use bytes::Bytes;
use engine::log::LogOptions;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use store::gateway::Gateway;
use store::node::core::Stores;
use store::refusal::Refusal;
use store::request::{Change, Op, Out, Scan};

use crate::node::{begin_simulated, open_simulated};

const WRITES: u64 = 800;

async fn open(rt: &Rt) -> (Stores, Gateway) {
    open_with(rt, TreeOptions::default()).await
}

/// Two stores whose log keeps nothing in memory, so that every second read of it is seen.
async fn open_with(rt: &Rt, tree: TreeOptions) -> (Stores, Gateway) {
    let log = LogOptions { segment_bytes: 4 << 20, cache_bytes_max: 0, ..LogOptions::default() };
    open_simulated(rt, |plan| (plan.shard.log, plan.shard.tree) = (log, tree)).await
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("{}{n:04}", (b'0' + (n % 40) as u8) as char))
}

/// Writes one by one, so that each is a record of its own.
async fn fill(gateway: &Gateway, round: u64) {
    for n in 0..WRITES {
        gateway.submit(None, Op::Put { key: key(n), value: value(round, n, 300) }).await.unwrap();
    }
}

fn value(round: u64, n: u64, bytes: usize) -> Bytes {
    Bytes::from(format!("{round} {n} {}", "x".repeat(bytes)))
}

async fn check(gateway: &Gateway, round: u64) {
    let found = gateway.submit(None, Op::Scan(Scan { limit: 1_000_000, ..Scan::default() })).await;
    let Ok(Out::Pairs(pairs)) = found else { panic!("{found:?}") };
    assert_eq!(pairs.len() as u64, WRITES);
    assert!(pairs.iter().all(|(_, value)| value.starts_with(format!("{round} ").as_bytes())));
}

fn memtable_bytes(stores: &Stores) -> u64 {
    stores.shards.values().map(|shard| shard.snapshot().tree.memtable_bytes).sum()
}

#[test]
fn after_a_drain_there_is_nothing_to_apply_again() {
    let world = World::new(61, Options::default());
    let node = world.node(0);
    let first = node.start(0, |rt| async move {
        let (stores, gateway) = open(&rt).await;
        fill(&gateway, 1).await;
        assert!(memtable_bytes(&stores) > 100 * WRITES);
        stores.stop(Duration::from_secs(30)).await;
    });
    world.block_on(first).unwrap();
    node.kill();
    let second = node.start(0, |rt| async move {
        let (stores, gateway) = open(&rt).await;
        assert_eq!(memtable_bytes(&stores), 0, "the drain left something to the log");
        check(&gateway, 1).await;
    });
    world.block_on(second).unwrap();
}

#[test]
fn after_a_kill_the_log_is_read_once() {
    let world = World::new(62, Options::default());
    let node = world.node(0);
    let first = node.start(0, |rt| async move {
        let (_, gateway) = open(&rt).await;
        fill(&gateway, 1).await;
        fill(&gateway, 2).await;
    });
    world.block_on(first).unwrap();
    node.crash();
    let disk_of = node.clone();
    let second = node.start(0, move |rt| async move {
        let before = disk_of.disk().stats().reads;
        let (stores, gateway) = open(&rt).await;
        let reads = disk_of.disk().stats().reads - before;
        assert!(memtable_bytes(&stores) > 200 * WRITES);
        assert!(reads < 2 * WRITES / 4, "{reads} reads for {} records", 2 * WRITES);
        check(&gateway, 2).await;
    });
    world.block_on(second).unwrap();
}

/// Tables in level 0 at which writers are told to stop when one is enough for a compaction.
const TABLES_STOP: u64 = 16;

fn level_zero(stores: &Stores) -> Vec<u64> {
    stores.shards.values().map(|shard| shard.snapshot().tree.levels[0].0).collect()
}

/// How a life ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Drain,
    Kill,
}

#[test]
fn after_a_drain_a_start_does_not_wait_for_compactions_but_writes_do() {
    start_under_pressure(63, End::Drain);
}

#[test]
fn after_a_kill_a_start_does_not_wait_for_compactions_but_writes_do() {
    start_under_pressure(64, End::Kill);
}

fn start_under_pressure(seed: u64, end: End) {
    let world = World::new(seed, Options::default());
    let node = world.node(0);
    // Nothing is compacted in the first life, and in the second it takes long.
    let first_tree =
        TreeOptions { memtable_bytes: 32 << 10, compress: false, l0_tables: 1000, ..TreeOptions::default() };
    let second_tree =
        TreeOptions { l0_tables: 1, compaction_bytes_per_second: Some(16 << 10), ..first_tree.clone() };
    let first = node.start(0, |rt| async move {
        let (stores, gateway) = open_with(&rt, first_tree).await;
        for n in 0..WRITES {
            gateway.submit(None, Op::Put { key: key(n), value: value(1, n, 2000) }).await.unwrap();
        }
        if end == End::Drain {
            stores.stop(Duration::from_secs(30)).await;
        }
    });
    world.block_on(first).unwrap();
    match end {
        End::Drain => node.kill(),
        End::Kill => node.crash(),
    }
    let second = node.start(0, |rt| async move {
        let (stores, gateway) = open_with(&rt, second_tree).await;
        let under_pressure = || level_zero(&stores).iter().all(|&tables| tables >= TABLES_STOP);
        assert!(under_pressure(), "the start waited for compactions, level 0: {:?}", level_zero(&stores));
        check(&gateway, 1).await;
        // All keys, so that both stores get some.
        let put = |n| gateway.submit(None, Op::Put { key: key(n), value: value(2, n, 10) });
        let writes: Vec<_> = (0..WRITES).map(put).collect();
        check(&gateway, 1).await;
        assert!(under_pressure(), "reads waited for compactions, level 0: {:?}", level_zero(&stores));
        for write in writes {
            write.await.unwrap();
        }
        let relieved = level_zero(&stores).iter().all(|&tables| tables < TABLES_STOP);
        assert!(relieved, "writes did not wait for compactions, level 0: {:?}", level_zero(&stores));
        check(&gateway, 2).await;
    });
    world.block_on(second).unwrap();
}

/// Steps of the counter before the crash, and what is written besides: more than is applied in one piece after a start.
const STEPS: i64 = 18;
const BALLAST: u64 = 400;
const BALLAST_BYTES: usize = 40 << 10;

fn step(gateway: &Gateway) -> store::gateway::Submitted {
    gateway.submit(None, Op::Modify { key: "k-counter".into(), change: Change::Add { delta: 1 } })
}

/// The first answers after a start are right, however long it takes to apply what was acknowledged before: until then reads and
/// read-modify-writes are refused.
#[test]
fn after_a_kill_nothing_is_answered_from_a_state_that_lags_behind() {
    let world = World::new(65, Options::default());
    let node = world.node(0);
    let first = node.start(0, |rt| async move {
        let (_, gateway) = open(&rt).await;
        for n in 0..BALLAST {
            let key = Bytes::from(format!("k{n:04}"));
            gateway.submit(None, Op::Put { key, value: vec![b'x'; BALLAST_BYTES].into() }).await.unwrap();
            if n as i64 >= BALLAST as i64 - STEPS {
                step(&gateway).await.unwrap();
            }
        }
    });
    world.block_on(first).unwrap();
    node.crash();
    let second = node.start(0, |rt| async move {
        // Memory is full again and again, so that what the log has is applied in pieces.
        let tree = TreeOptions { memtable_bytes: 256 << 10, closed_memtables: 1, ..TreeOptions::default() };
        let log = LogOptions { segment_bytes: 4 << 20, ..LogOptions::default() };
        let (stores, gateway) =
            begin_simulated(&rt, |plan| (plan.shard.log, plan.shard.tree) = (log, tree)).await;
        let get = |key: &'static str| gateway.submit(None, Op::Get { key: key.into() });
        let scan = || {
            gateway.submit(
                None,
                Op::Scan(Scan { start: "k-".into(), end: "k/".into(), limit: 9, ..Scan::default() }),
            )
        };
        let (mut too_early, mut lagged) = (0, false);
        loop {
            lagged |= stores.shards.values().any(|shard| !shard.is_ready() && shard.snapshot().applied > 100);
            let found = [get("k-counter").await, scan().await, step(&gateway).await];
            let expected = STEPS.to_string();
            match &found {
                [Ok(Out::Value(value)), Ok(Out::Pairs(pairs)), Ok(Out::Integer(sum))] => {
                    assert_eq!(value.as_deref(), Some(expected.as_bytes()), "a read");
                    assert_eq!(pairs.len(), 1, "a scan");
                    assert_eq!(pairs[0].1, expected, "a scan");
                    assert_eq!(*sum, STEPS + 1, "a read-modify-write");
                    break;
                }
                _ => {
                    for outcome in found {
                        match outcome {
                            Err(Refusal::Busy { .. } | Refusal::NotLeader { .. }) => too_early += 1,
                            other => panic!("{other:?} while others are refused"),
                        }
                    }
                }
            }
            rt.sleep(Duration::from_micros(100)).await;
        }
        assert!(too_early > 0 && lagged, "the state did not lag behind: the test does not test");
        stores.settle(&rt).await.unwrap();
    });
    world.block_on(second).unwrap();
}
