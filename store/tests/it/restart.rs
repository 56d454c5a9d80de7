//! What a start finds to do: nothing after a drain, not even to wait for compactions, and after a kill to read the log once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use engine::log::LogOptions;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::local::{Pending, oneshot};
use engine::rt::sim::{Options, World};
use scheduler::{Region, RegionId};
use store::gateway::Gateway;
use store::node::core::{Plan, Stores};
use store::refusal::Refusal;
use store::request::{Atomic, Change, Op, Out, Outcome, Scan, When};
use store::shard::Shard;
use store::shard::health::Standing;
use store::shard::reply::Reply;

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

/// Tables in level 0 at which writers are stopped when one is enough for a compaction.
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

/// Steps of the counter before the crash: some one by one, so that their commit index is stored, and the others in one turn with
/// what is written besides. Nothing that is stored says that this turn was committed.
const STEPS_ONE_BY_ONE: i64 = 10;
const STEPS_AT_ONCE: i64 = 8;
const STEPS: i64 = STEPS_ONE_BY_ONE + STEPS_AT_ONCE;
/// More than is applied in one piece after a start.
const BALLAST: i64 = 400;
const BALLAST_BYTES: usize = 40 << 10;

fn step() -> Op {
    Op::Modify { key: "k-counter".into(), change: Change::Add { delta: 1 } }
}

/// Everything that reads the state of a region or computes from it.
fn readers() -> Vec<Op> {
    let key = || Bytes::from("k-counter");
    let scan = |reverse| {
        Op::Scan(Scan { start: "k-".into(), end: "k/".into(), limit: 9, reverse, ..Scan::default() })
    };
    let modify = |change| Op::Modify { key: key(), change };
    let atomic = |step| Op::Atomic(Atomic { watched: Vec::new(), steps: vec![step] });
    vec![
        Op::Get { key: key() },
        Op::BatchGet { keys: vec![key()], at_once: false },
        Op::Lengths { keys: vec![key()], ahead: false },
        Op::Lengths { keys: vec![key(), "k-other".into()], ahead: false },
        scan(false),
        scan(true),
        step(),
        modify(Change::Append { suffix: "0".into() }),
        modify(Change::SetIf { value: "0".into(), when: When::Absent }),
        modify(Change::Take),
        modify(Change::Remove),
        Op::Delete { key: key(), count: true },
        atomic(Op::Get { key: key() }),
        atomic(step()),
        Op::Watch { keys: vec![key()] },
    ]
}

/// What the store of the key makes of `op`. The store decides when it is asked, so nothing can change in between.
fn ask(shard: &Shard, op: Op) -> Pending<Outcome> {
    let (answer, pending) = oneshot();
    shard.submit(None, op, Reply::local(answer));
    pending
}

async fn fill_in_one_turn(rt: Rt) {
    let (stores, gateway) = open(&rt).await;
    for _ in 0..STEPS_ONE_BY_ONE {
        gateway.submit(None, step()).await.unwrap();
    }
    let turns = || stores.shards.values().map(|shard| shard.snapshot().log_writes).sum::<u64>();
    let before = turns();
    let mut submitted = Vec::new();
    for n in 0..BALLAST {
        let key = Bytes::from(format!("k{n:04}"));
        submitted.push(gateway.submit(None, Op::Put { key, value: vec![b'x'; BALLAST_BYTES].into() }));
        if n % (BALLAST / STEPS_AT_ONCE) == 0 {
            submitted.push(gateway.submit(None, step()));
        }
    }
    for submitted in submitted {
        submitted.await.unwrap();
    }
    assert_eq!(turns() - before, 1, "a later turn has stored a commit index: the test does not test");
}

/// The first answers after a start are right, however long it takes to apply what was acknowledged before: until then reads and
/// read-modify-writes are refused, also when everything is committed again.
#[test]
fn after_a_kill_nothing_is_answered_from_a_state_that_lags_behind() {
    let world = World::new(65, Options::default());
    let node = world.node(0);
    let first = node.start(0, fill_in_one_turn);
    world.block_on(first).unwrap();
    node.crash();
    let second = node.start(0, |rt| async move {
        // Memory is full again and again, so that what the log has is applied in pieces.
        let tree = TreeOptions { memtable_bytes: 256 << 10, closed_memtables: 1, ..TreeOptions::default() };
        let log = LogOptions { segment_bytes: 4 << 20, ..LogOptions::default() };
        let (stores, gateway) =
            begin_simulated(&rt, |plan| (plan.shard.log, plan.shard.tree) = (log, tree)).await;
        let has_key = |shard: &Shard| shard.regions().into_iter().find(|known| known.0.range.contains(b"k-"));
        let (shard, region) =
            stores.shards.values().find_map(|shard| Some((shard, has_key(shard)?.0.id))).unwrap();
        let mut lagged = 0;
        loop {
            let committed = shard.catching_up().contains(&region);
            let ready = shard.is_ready();
            assert!(!(ready && committed), "a store is ready although its state lags behind");
            if ready {
                break;
            }
            // Whatever the moment, what is asked before the store is ready is refused.
            lagged += u32::from(committed);
            let standing = shard.health().standing;
            assert_eq!(standing, Standing::Starting, "committed: {committed}");
            let now = gateway.get_now(b"k-counter");
            // It is sent again until its region serves.
            assert_eq!(now, None, "committed: {committed}");
            for op in readers() {
                let what = format!("committed: {committed}, {op:?}");
                let outcome = ask(shard, op).await.expect("every request is answered");
                let refused = matches!(
                    (&outcome, committed),
                    (Err(Refusal::StaleCommand), _) | (Err(Refusal::NotLeader { .. }), false)
                );
                assert!(refused, "{what}: {outcome:?}");
            }
            rt.sleep(Duration::from_micros(100)).await;
        }
        assert!(lagged > 0, "the state never lagged behind what was committed: the test does not test");
        let value = Bytes::from(STEPS.to_string());
        let found = gateway.submit(None, Op::Get { key: "k-counter".into() }).await;
        assert_eq!(found, Ok(Out::Value(Some(value.clone()))));
        let scan = Scan { start: "k-".into(), end: "k/".into(), limit: 9, ..Scan::default() };
        let found = gateway.submit(None, Op::Scan(scan)).await;
        assert_eq!(found, Ok(Out::Pairs(vec![("k-counter".into(), value)])));
        assert_eq!(gateway.submit(None, step()).await, Ok(Out::Integer(STEPS + 1)));
    });
    world.block_on(second).unwrap();
}

/// A turn of more than the log should write at once is written in parts, and every part is acknowledged and found again.
#[test]
fn a_large_turn_is_written_in_parts_of_whole_regions() {
    const PART_BYTES: u64 = 64 << 10;
    const VALUE_BYTES: usize = 20 << 10;
    let world = World::new(66, Options::default());
    let node = world.node(0);
    let keys = || (b'0'..=b'z').map(|first| Bytes::from(vec![first; 3]));
    let first = node.start(0, move |rt| async move {
        let small = |plan: &mut Plan| {
            plan.identity.stores = 1;
            plan.shard.limits.turn_bytes_max = PART_BYTES as usize;
        };
        let (stores, gateway) = open_simulated(&rt, small).await;
        let shard = stores.shards.values().next().unwrap();
        let regions = keys().map(|key| {
            let is_there = |known: &&(Region, u64, bool)| known.0.range.contains(&key);
            shard.regions().iter().find(is_there).unwrap().0.id
        });
        let mut bytes_of = BTreeMap::<RegionId, u64>::new();
        regions.for_each(|region| *bytes_of.entry(region).or_default() += VALUE_BYTES as u64);
        assert!(bytes_of.len() > 3 && bytes_of.values().all(|bytes| *bytes > PART_BYTES), "{bytes_of:?}");
        let before = shard.snapshot();
        let put = |key| gateway.submit(None, Op::Put { key, value: vec![b'v'; VALUE_BYTES].into() });
        let submitted: Vec<_> = keys().map(put).collect();
        for submitted in submitted {
            submitted.await.unwrap();
        }
        let after = shard.snapshot();
        // Each region alone has more than a part should have.
        assert_eq!(after.log_writes - before.log_writes, bytes_of.len() as u64);
        assert_eq!(after.log_groups - before.log_groups, bytes_of.len() as u64);
        // Small ones share a part, in order, until it is full.
        let before = after;
        let put = |key| gateway.submit(None, Op::Put { key, value: vec![b'v'; 100].into() });
        let submitted: Vec<_> = keys().map(put).collect();
        for submitted in submitted {
            submitted.await.unwrap();
        }
        let after = shard.snapshot();
        assert_eq!(after.log_writes - before.log_writes, 1);
        assert_eq!(after.log_groups - before.log_groups, bytes_of.len() as u64);
    });
    world.block_on(first).unwrap();
    node.crash();
    let second = node.start(0, move |rt| async move {
        let (_, gateway) = open_simulated(&rt, |plan| plan.identity.stores = 1).await;
        for key in keys() {
            let found = gateway.submit(None, Op::Get { key: key.clone() }).await;
            assert_eq!(found, Ok(Out::Value(Some(vec![b'v'; 100].into()))), "{key:?}");
        }
    });
    world.block_on(second).unwrap();
}
