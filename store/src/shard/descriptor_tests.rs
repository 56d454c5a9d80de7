//! A region's descriptor changes while its data is written, and the power goes at every single change of the disk: the tree has the
//! descriptor of an entry together with the applied index of that entry, or neither.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use engine::log::LogOptions;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::local::oneshot;
use engine::rt::sim::{Node, Options, Running, World};
use scheduler::change::Change;
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, Role, StoreId};

use super::open::ShardOptions;
use super::reply::Reply;
use super::{Due, Shard, ShardLimits};
use crate::memory::Memory;
use crate::plant::{Bug, plant};
use crate::region::record::Descriptor;
use crate::request::{Op, Out, Outcome};

pub(super) const DIR: &str = "/data/store-1";
const REGION: RegionId = RegionId(10);

fn region() -> Region {
    Region {
        id: REGION,
        range: KeyRange::new("", "").unwrap(),
        epoch: Epoch::FIRST,
        peers: vec![Peer::voter(PeerId(20), StoreId(1))],
    }
}

/// Nearly every write is flushed by itself.
pub(super) fn options() -> ShardOptions {
    ShardOptions {
        store: StoreId(1),
        system: false,
        may_be_empty: false,
        lock: None,
        log: LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() },
        tree: TreeOptions { memtable_bytes: 1 << 10, ..TreeOptions::default() },
        limits: ShardLimits {
            inflight_bytes_max: 64 << 20,
            log_bytes_max: 64 << 20,
            turn_bytes_max: 64 << 20,
            segment_bytes: 64 << 10,
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

/// What was acknowledged, over all lives.
#[derive(Debug, Default)]
struct Seen {
    values: BTreeMap<Bytes, Bytes>,
    conf_ver: u64,
    lives: u64,
}

/// What the tree has right after it was opened.
fn check_disk(shard: &Shard) {
    let tree = &shard.inner.tree;
    let Some(bytes) = tree.state(REGION.0) else { return };
    let Descriptor { record, at, by_snapshot: _ } = Descriptor::decode(&bytes).unwrap();
    let flushed = tree.flushed_index(REGION.0);
    assert!(at.index.0 <= flushed, "{} as of {at} and data up to {flushed}", record.region);
}

pub(super) async fn submit(shard: &Shard, op: Op) -> Outcome {
    let (answer, pending) = oneshot();
    shard.submit(None, op, Reply::local(answer));
    pending.await.expect("an answer")
}

async fn put(shard: &Shard, seen: &RefCell<Seen>, number: u64) {
    let lives = seen.borrow().lives;
    let (key, value) = (Bytes::from(format!("k{number}")), Bytes::from(format!("{lives:>900}")));
    submit(shard, Op::Put { key: key.clone(), value: value.clone() }).await.unwrap();
    seen.borrow_mut().values.insert(key, value);
}

/// Adds a learner that does not exist, or removes the one that was added.
async fn change(shard: &Shard, seen: &RefCell<Seen>) {
    let (answer, pending) = oneshot();
    {
        let mut state = shard.inner.state.borrow_mut();
        let replica = state.table.get_mut(REGION).unwrap();
        let epoch = replica.region().epoch;
        let learner = replica.region().peers.iter().find(|peer| peer.role == Role::Learner);
        let change = match learner {
            Some(peer) => Change::Remove { peer: peer.id },
            None => Change::AddLearner { peer: PeerId(100 + epoch.conf_ver), store: StoreId(2) },
        };
        let due = Due { reply: Reply::local(answer), out: Out::Done, since: shard.inner.rt.now() };
        let proposed = replica.propose_change(change, epoch, due);
        assert!(proposed.is_ok(), "a leader takes a change at a time");
        state.table.mark_dirty(REGION);
    }
    shard.inner.bell.ring();
    pending.await.expect("an answer").unwrap();
    seen.borrow_mut().conf_ver = conf_ver(shard);
}

fn conf_ver(shard: &Shard) -> u64 {
    shard.inner.state.borrow().table.get(REGION).unwrap().region().epoch.conf_ver
}

/// A store opens, has what was acknowledged, takes writes around a change, and closes.
async fn live(rt: Rt, seen: Rc<RefCell<Seen>>) {
    rt.create_dir_all(Path::new("/data")).await.unwrap();
    let shard = Shard::open(&rt, Path::new(DIR), options(), vec![region()]).await.unwrap();
    check_disk(&shard);
    let (turns, ticks, upkeep) = (shard.clone(), shard.clone(), shard.clone());
    rt.spawn(async move { turns.run().await });
    rt.spawn(async move { ticks.tick_loop().await });
    rt.spawn(async move { upkeep.upkeep_loop().await });
    while !shard.is_ready() {
        assert_eq!(shard.stopped(), None);
        rt.sleep(Duration::from_millis(1)).await;
    }
    let (known, now) = (seen.borrow().conf_ver, conf_ver(&shard));
    assert!(now == known || now == known + 1, "configuration {now}, and {known} was acknowledged");
    let values = seen.borrow().values.clone();
    for (key, value) in values {
        let found = submit(&shard, Op::Get { key: key.clone() }).await;
        let Ok(Out::Value(Some(found))) = found else { panic!("{key:?} is {found:?}") };
        let lives = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().trim().parse::<u64>().unwrap();
        assert!(lives(&found) >= lives(&value), "{key:?} is of an older life");
    }
    seen.borrow_mut().lives += 1;
    seen.borrow_mut().conf_ver = now;
    for number in 0..3 {
        put(&shard, &seen, number).await;
    }
    change(&shard, &seen).await;
    // Every other life ends with the change, so that the flush of its end has it and nothing after it.
    let rest = if seen.borrow().lives.is_multiple_of(2) { 3..6 } else { 0..0 };
    for number in rest {
        put(&shard, &seen, number).await;
    }
    shard.close(Duration::from_secs(1)).await.unwrap();
}

/// Runs a life until it ends or the disk stops before the change `point` of it. Whether it ended.
fn until_cut(world: &World, node: &Node, point: u64, life: Running<()>) -> bool {
    node.disk().stop_at(node.disk().changes() + point);
    let (mut life, mut ended) = (pin!(life), false);
    world.run_until(Duration::from_secs(60), || {
        let mut cx = Context::from_waker(Waker::noop());
        ended = ended || life.as_mut().poll(&mut cx).is_ready();
        ended || node.disk().has_stopped()
    });
    ended
}

/// Lives once, cuts the next life at every change of the disk, and lives twice after each cut. `begin` makes what the lives of one world
/// share. Returns the number of changes.
pub(super) fn cut_at_every_change<T: 'static, L: Future<Output = ()> + 'static>(
    seed: u64,
    begin: impl Fn() -> T,
    live: fn(Rt, Rc<RefCell<T>>) -> L,
) -> u64 {
    let mut point = 0;
    loop {
        let world = World::new(seed + point, Options::default());
        let node = world.node(0);
        let seen = Rc::new(RefCell::new(begin()));
        let start = || {
            let seen = seen.clone();
            node.start(0, move |rt| live(rt, seen))
        };
        world.block_on(start()).expect("a life without a cut ends");
        node.kill();
        if until_cut(&world, &node, point, start()) {
            return point;
        }
        node.crash();
        for _ in 0..2 {
            world.block_on(start()).expect("a life after a cut ends");
            node.kill();
        }
        point += 1;
    }
}

fn cut_around_changes() -> u64 {
    cut_at_every_change(900, || Seen { conf_ver: Epoch::FIRST.conf_ver, ..Seen::default() }, live)
}

#[test]
fn the_descriptor_and_the_applied_index_survive_together_wherever_the_power_goes() {
    let points = cut_around_changes();
    assert!(points > 30, "only {points} changes");
}

#[test]
fn a_descriptor_apart_from_its_data_is_caught() {
    for bug in Bug::DESCRIPTOR {
        let planted = move || {
            plant(Some(bug));
            cut_around_changes()
        };
        assert!(std::thread::spawn(planted).join().is_err(), "{bug:?} was not caught");
    }
}
