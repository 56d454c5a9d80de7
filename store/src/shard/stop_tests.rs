//! A store that stops at every point at which a turn can be: it writes nothing more, applies nothing more, answers all that waited,
//! and its tasks end.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::error::Fault;
use engine::log::LogOptions;
use engine::lsm::{Pressure, TreeOptions};
use engine::rt::Rt;
use engine::rt::local::{Pending, oneshot};
use engine::rt::sim::{Node, Options, World};
use scheduler::{Epoch, KeyRange, Peer as Member, PeerId, Region, RegionId, StoreId};

use super::open::ShardOptions;
use super::reply::Reply;
use super::{Shard, ShardLimits};
use crate::memory::Memory;
use crate::refusal::Refusal;
use crate::region::replica::Replica;
use crate::request::{Op, Out, Outcome};

const DIR: &str = "/data/store-1";

/// Tasks that a store has.
const TASKS: u32 = 3;

/// The first bytes of the regions.
const REGIONS: [&str; 4] = ["", "b", "c", "d"];

/// Those that a store begins with.
pub(crate) fn regions() -> Vec<Region> {
    let ends = REGIONS.iter().skip(1).chain([&""]);
    let region = |(place, (start, end)): (u64, (&&str, &&str))| Region {
        id: RegionId(10 + place),
        range: KeyRange::new(*start, *end).unwrap(),
        epoch: Epoch::FIRST,
        peers: vec![Member::voter(PeerId(20 + place), StoreId(1))],
    };
    (0..).zip(REGIONS.iter().zip(ends)).map(region).collect()
}

/// How a store is opened.
pub(crate) fn options() -> ShardOptions {
    ShardOptions {
        store: StoreId(1),
        system: false,
        may_be_empty: false,
        lock: None,
        log: LogOptions { segment_bytes: 4 << 20, cache_bytes_max: 0, ..LogOptions::default() },
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
        openings: super::openings::Openings::default(),
    }
}

/// A store and its tasks.
struct Running {
    rt: Rt,
    shard: Shard,
    /// How many tasks have ended, the one that takes turns apart.
    ended: Rc<Cell<u32>>,
    turns_ended: Rc<Cell<bool>>,
}

/// What a store has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Done {
    records: u64,
    applied: u64,
}

impl Running {
    async fn open(rt: &Rt, change: impl FnOnce(&mut ShardOptions)) -> Self {
        rt.create_dir_all(Path::new("/data")).await.unwrap();
        let mut options = options();
        change(&mut options);
        let shard = Shard::open(rt, Path::new(DIR), options, regions()).await.unwrap();
        Self { rt: rt.clone(), shard, ended: Rc::default(), turns_ended: Rc::default() }
    }

    fn start_tasks(&self) {
        let (shard, ended) = (self.shard.clone(), self.turns_ended.clone());
        self.rt.spawn(async move {
            shard.run().await;
            ended.set(true);
        });
        let (shard, ended) = (self.shard.clone(), self.ended.clone());
        self.rt.spawn(async move {
            shard.tick_loop().await;
            ended.set(ended.get() + 1);
        });
        let (shard, ended) = (self.shard.clone(), self.ended.clone());
        self.rt.spawn(async move {
            shard.upkeep_loop().await;
            ended.set(ended.get() + 1);
        });
    }

    async fn open_and_settle(rt: &Rt, change: impl FnOnce(&mut ShardOptions)) -> Self {
        let running = Self::open(rt, change).await;
        running.start_tasks();
        running.wait_until(|shard| shard.is_ready()).await;
        running
    }

    /// Waits for a moment that has to come.
    async fn wait_until(&self, mut holds: impl FnMut(&Shard) -> bool) {
        for _ in 0..200_000 {
            if holds(&self.shard) {
                return;
            }
            self.rt.sleep(Duration::from_micros(100)).await;
        }
        panic!("the moment never came: the test does not test");
    }

    fn put(&self, key: &str, bytes: usize) -> Pending<Outcome> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.submit(Op::Put { key, value: vec![b'v'; bytes].into() })
    }

    fn submit(&self, op: Op) -> Pending<Outcome> {
        let (answer, pending) = oneshot();
        self.shard.submit(None, op, Reply::local(answer));
        pending
    }

    /// Whether an entry of some region is committed and not applied.
    fn has_unapplied(&self) -> bool {
        let state = self.shard.inner.state.borrow();
        state.table.iter().any(|replica| replica.committed_index() > replica.applied_index())
    }

    fn has_gathered(&self) -> bool {
        self.shard.inner.state.borrow().table.iter().any(Replica::has_gathered)
    }

    fn done(&self) -> Done {
        let snapshot = self.shard.snapshot();
        Done { records: snapshot.log.records, applied: snapshot.applied }
    }

    fn stop(&self) -> Done {
        self.shard.stop(&Fault::corruption(Path::new("planted"), "for a test"));
        self.done()
    }

    /// Nothing is done beyond `done` however long one waits, and every task has ended.
    async fn assert_it_has_stopped(&self, done: Done) {
        self.rt.sleep(Duration::from_secs(20)).await;
        assert_eq!(self.done(), done, "a stopped store has written or applied more");
        assert!(self.turns_ended.get(), "the turns go on");
        assert_eq!(self.ended.get() + 1, TASKS, "tasks go on");
        assert!(matches!(self.put("a", 1).await, Some(Err(Refusal::Stopped(_)))));
        assert_eq!(self.done(), done);
    }
}

fn in_world<F: Future<Output = ()> + 'static>(
    seed: u64,
    work: impl FnOnce(Rt, Rc<World>, Node) -> F + 'static,
) {
    let world = Rc::new(World::new(seed, Options::default()));
    let node = world.node(0);
    let (outside, disk_of) = (world.clone(), node.clone());
    world.block_on(node.start(0, |rt| work(rt, outside, disk_of))).unwrap();
}

/// While a turn waits for the tree: what an earlier turn has committed is not applied any more, what has gathered is not proposed.
#[test]
fn a_store_that_stops_while_writers_wait_for_the_tree() {
    in_world(501, |rt, world, node| async move {
        let disk = node.disk();
        let tree = TreeOptions { memtable_bytes: 8 << 10, closed_memtables: 2, ..TreeOptions::default() };
        let store = Running::open_and_settle(&rt, |options| options.tree = tree).await;
        disk.slow(1000);
        let (mut submitted, mut n) = (Vec::new(), 0);
        while !(store.shard.inner.tree.pressure() == Pressure::Stop
            && store.has_unapplied()
            && store.has_gathered())
        {
            if !store.has_gathered() {
                submitted.push(store.put(&format!("a{n}"), 9 << 10));
            }
            n += 1;
            assert!(n < 200_000, "the moment never came: the test does not test");
            rt.sleep(Duration::from_millis(1)).await;
        }
        // So that the tree never gets better.
        disk.hang();
        let done = store.stop();
        rt.sleep(Duration::from_secs(20)).await;
        assert!(store.turns_ended.get(), "a turn waits for a tree that nothing will relieve");
        assert_eq!(store.done(), done);
        disk.unhang(&world);
        store.assert_it_has_stopped(done).await;
        let mut outcomes = Vec::new();
        for pending in submitted {
            outcomes.push(pending.await.expect("everything is answered"));
        }
        let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
        assert!(count(|outcome| *outcome == Err(Refusal::Unknown)) > 0, "{outcomes:?}");
        assert_eq!(count(|outcome| matches!(outcome, Err(Refusal::Stopped(_)))), 1, "{outcomes:?}");
        let known =
            |outcome: &Outcome| matches!(outcome, Ok(_) | Err(Refusal::Unknown | Refusal::Stopped(_)));
        assert!(outcomes.iter().all(known), "{outcomes:?}");
    });
}

/// While the log writes what a turn had room for: the rest is not written.
#[test]
fn a_store_that_stops_while_the_log_writes() {
    in_world(502, |rt, world, node| async move {
        let disk = node.disk();
        let store = Running::open_and_settle(&rt, |options| options.limits.turn_bytes_max = 64 << 10).await;
        disk.hang();
        let submitted: Vec<_> = ["a", "b", "c", "d"].map(|key| store.put(key, 40 << 10)).into();
        store.wait_until(|shard| !shard.inner.log_watch.age(rt.now()).is_zero()).await;
        let late = store.put("a2", 10);
        let before = store.stop();
        rt.sleep(Duration::from_millis(100)).await;
        disk.unhang(&world);
        // The record in flight cannot be called back.
        store.assert_it_has_stopped(Done { records: before.records + 1, ..before }).await;
        let mut submitted = submitted.into_iter();
        assert_eq!(submitted.next().expect("four").await, Some(Err(Refusal::Unknown)));
        for pending in submitted.chain([late]) {
            assert!(matches!(pending.await, Some(Err(Refusal::Stopped(_)))), "it had not begun");
        }
    });
}

/// A region that has more to propose than a turn has room for leaves the next turn to others.
#[test]
fn every_region_has_a_turn_however_much_another_one_proposes() {
    in_world(504, |rt, _, _| async move {
        let store = Running::open_and_settle(&rt, |options| options.limits.turn_bytes_max = 64 << 10).await;
        let done = Rc::new(Cell::new(0));
        let answers = (0..40).map(|n| store.put(&format!("a{n}"), 600 << 10)).map(|pending| {
            let done = done.clone();
            rt.spawn(async move {
                assert_eq!(pending.await, Some(Ok(Out::Done)));
                done.set(done.get() + 1);
            })
        });
        let answers: Vec<_> = answers.collect();
        for (turns, key) in (2..).zip(["b", "c", "d"]) {
            assert_eq!(store.put(key, 40 << 10).await, Some(Ok(Out::Done)));
            assert!(done.get() <= 3 * turns, "{key} has waited for {} writes of another region", done.get());
        }
        for answer in answers {
            answer.await;
        }
    });
}

/// While a turn waits for space: what it wanted to write is not written when there is space again.
#[test]
fn a_store_that_stops_while_the_disk_is_full() {
    in_world(503, |rt, _, node| async move {
        let disk = node.disk();
        let store = Running::open_and_settle(&rt, |_| {}).await;
        disk.leave(0);
        let waits = store.put("a", 5 << 20);
        store.wait_until(|shard| shard.inner.log_waits.get()).await;
        let done = store.stop();
        disk.set_capacity(u64::MAX);
        store.assert_it_has_stopped(done).await;
        assert_eq!(waits.await, Some(Err(Refusal::Unknown)));
    });
}

/// A turn that waits for space answers its writes after a while, and they happen when there is space.
#[test]
fn writes_that_wait_for_space_are_answered_and_happen_later() {
    in_world(505, |rt, _, node| async move {
        let disk = node.disk();
        let store = Running::open_and_settle(&rt, |_| {}).await;
        disk.leave(0);
        let began = rt.now();
        let large = store.put("a", 5 << 20);
        let delete = store.submit(Op::Delete { key: Bytes::from_static(b"b"), count: false });
        store.wait_until(|shard| shard.inner.log_waits.get()).await;
        for waiting in [large, delete] {
            assert_eq!(waiting.await, Some(Err(Refusal::Unknown)));
        }
        assert!(rt.now().since(began) < Duration::from_secs(4), "after {:?}", rt.now().since(began));
        assert!(store.shard.inner.log_waits.get(), "there is space: the test does not test");
        assert!(!store.shard.inner.waits_long.get(), "a full disk takes deletes as soon as the log has room");
        disk.set_capacity(u64::MAX);
        store.wait_until(|shard| !shard.inner.health.refuses_writes()).await;
        store.wait_until(|shard| shard.inner.state.borrow().inflight_bytes == 0).await;
        let found = store.submit(Op::Get { key: Bytes::from_static(b"a") }).await;
        assert!(matches!(&found, Some(Ok(Out::Value(Some(value)))) if value.len() == 5 << 20), "it happened");
        assert_eq!(store.put("a", 100).await, Some(Ok(Out::Done)));
    });
}

/// No client waits for descriptors for ever, whether the log lacks them or the tree.
#[test]
fn writes_that_wait_for_descriptors_are_answered_and_what_follows_is_refused() {
    in_world(506, |rt, _, node| async move {
        let disk = node.disk();
        let store = Running::open_and_settle(&rt, |_| {}).await;
        disk.set_descriptors(0);
        let (mut taken, mut outcome) = (0, Some(Ok(Out::Done)));
        let mut began = rt.now();
        while outcome == Some(Ok(Out::Done)) && taken < 100 {
            (taken, began) = (taken + 1, rt.now());
            outcome = store.put("a", 5 << 20).await;
        }
        let waited = rt.now().since(began);
        assert!(waited < Duration::from_secs(4), "{outcome:?} after {waited:?}, {taken} writes were taken");
        assert!(store.shard.inner.waits_long.get(), "{outcome:?} after {taken} writes");
        let began = rt.now();
        let refused = store.put("b", 100).await;
        assert!(matches!(&refused, Some(Err(Refusal::Busy { .. }))), "it is no full disk: {refused:?}");
        assert!(rt.now().since(began) < Duration::from_millis(100));
        rt.sleep(Duration::from_secs(5)).await;
        assert!(store.shard.inner.waits_long.get(), "it takes none before it can");
        disk.set_descriptors(u64::MAX);
        store.wait_until(|shard| !shard.inner.waits_long.get()).await;
        store.wait_until(|shard| shard.inner.state.borrow().inflight_bytes == 0).await;
        let found = store.submit(Op::Get { key: Bytes::from_static(b"a") }).await;
        assert!(matches!(&found, Some(Ok(Out::Value(Some(value)))) if value.len() == 5 << 20), "it happened");
        assert_eq!(store.put("a", 100).await, Some(Ok(Out::Done)));
    });
}

/// While nothing is to be done: the log is not vouched for any more.
#[test]
fn a_store_that_stops_while_it_is_idle() {
    for step in 0..20 {
        in_world(510 + step, move |rt, _, _| async move {
            let store = Running::open_and_settle(&rt, |_| {}).await;
            assert_eq!(store.put("a", 100).await, Some(Ok(Out::Done)));
            rt.sleep(Duration::from_millis(10 * step)).await;
            let done = store.stop();
            store.assert_it_has_stopped(done).await;
        });
    }
}

/// While the store watches its disk: it does not go on to cut the log.
#[test]
fn a_store_that_stops_while_it_looks_at_the_disk() {
    in_world(504, |rt, world, node| async move {
        let disk = node.disk();
        let store = Running::open_and_settle(&rt, |_| {}).await;
        assert_eq!(store.put("a", 100).await, Some(Ok(Out::Done)));
        // The log is cut and vouched for; then there is something to cut again.
        store.shard.inner.tree.flush().await.unwrap();
        rt.sleep(Duration::from_secs(5)).await;
        let idle = store.done();
        rt.sleep(Duration::from_secs(5)).await;
        assert_eq!(store.done(), idle, "the store is not idle: the test does not test");
        assert_eq!(store.put("a", 200).await, Some(Ok(Out::Done)));
        store.shard.inner.tree.flush().await.unwrap();
        assert!(!store.shard.cuts().is_empty(), "there is nothing to cut: the test does not test");
        disk.hang();
        rt.sleep(Duration::from_secs(2)).await;
        // Records that vouch for the last one may have been in flight; they have no body.
        let body_bytes = || store.shard.snapshot().log.body_bytes;
        let (_, before) = (store.stop(), body_bytes());
        disk.unhang(&world);
        rt.sleep(Duration::from_secs(1)).await;
        assert_eq!(body_bytes(), before, "a stopped store has written");
        assert!(!store.shard.cuts().is_empty(), "a stopped store has cut its log");
        store.assert_it_has_stopped(store.done()).await;
    });
}

/// How entries from before a start are read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replay {
    /// All regions together, in the order of the disk.
    InOrder,
    /// Region by region.
    ByRegion,
}

fn stops_during(seed: u64, replay: Replay) {
    let world = Rc::new(World::new(seed, Options::default()));
    let node = world.node(0);
    let first = node.start(0, |rt| async move {
        let store = Running::open_and_settle(&rt, |_| {}).await;
        for n in 0..300 {
            assert_eq!(store.put(&format!("a{n:03}"), 50 << 10).await, Some(Ok(Out::Done)));
        }
    });
    world.block_on(first).unwrap();
    node.crash();
    let (outside, disk_of) = (world.clone(), node.clone());
    let second = node.start(0, move |rt| async move {
        let disk = disk_of.disk();
        let tree = TreeOptions { memtable_bytes: 256 << 10, closed_memtables: 2, ..TreeOptions::default() };
        let store = Running::open(&rt, |options| options.tree = tree).await;
        if replay == Replay::ByRegion {
            store.shard.inner.recovering.set(false);
        }
        store.start_tasks();
        store.wait_until(|shard| shard.snapshot().applied > 0 && shard.inner.tree.memory_is_full()).await;
        disk.hang();
        rt.sleep(Duration::from_millis(10)).await;
        let done = store.stop();
        assert!(done.applied < 300 && store.has_unapplied(), "all is applied: the test does not test");
        rt.sleep(Duration::from_millis(10)).await;
        disk.unhang(&outside);
        store.assert_it_has_stopped(done).await;
    });
    world.block_on(second).unwrap();
}

#[test]
fn a_store_that_stops_while_it_replays_the_log_in_order() {
    stops_during(505, Replay::InOrder);
}

#[test]
fn a_store_that_stops_while_it_replays_a_region() {
    stops_during(506, Replay::ByRegion);
}
