//! A merge in one store, as it is asked for and as clients see it.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::local::oneshot;
use engine::rt::sim::{Options, World};
use scheduler::{Epoch, Region, RegionId};

use super::Shard;
use super::reply::Reply;
use super::stop_tests::{options, regions};
use crate::refusal::Refusal;
use crate::request::{Op, Out, Outcome};

const DIR: &str = "/data/store-1";
const TARGET: RegionId = RegionId(10);
const SOURCE: RegionId = RegionId(11);

fn in_world<F: Future<Output = ()> + 'static>(seed: u64, work: impl FnOnce(Rt) -> F + 'static) {
    let world = World::new(seed, Options::default());
    let node = world.node(0);
    world.block_on(node.start(0, work)).unwrap();
}

async fn opened(rt: &Rt) -> Shard {
    rt.create_dir_all(Path::new("/data")).await.unwrap();
    let shard = Shard::open(rt, Path::new(DIR), options(), regions()).await.unwrap();
    let (turns, ticks) = (shard.clone(), shard.clone());
    rt.spawn(async move { turns.run().await });
    rt.spawn(async move { ticks.tick_loop().await });
    until(rt, || shard.is_ready()).await;
    shard
}

/// Waits for a moment that has to come.
async fn until(rt: &Rt, mut holds: impl FnMut() -> bool) {
    while !holds() {
        rt.sleep(Duration::from_millis(1)).await;
    }
}

async fn ask(shard: &Shard, op: Op) -> Outcome {
    let (answer, pending) = oneshot();
    shard.submit(None, op, Reply::local(answer));
    pending.await.expect("it is answered")
}

fn put(key: &'static str, value: &'static str) -> Op {
    Op::Put { key: Bytes::from_static(key.as_bytes()), value: Bytes::from_static(value.as_bytes()) }
}

fn get(key: &'static str) -> Op {
    Op::Get { key: Bytes::from_static(key.as_bytes()) }
}

/// A region as the store has it.
fn known(shard: &Shard, id: RegionId) -> Region {
    shard.inner.state.borrow().table.get(id).expect("it is here").region().clone()
}

fn is_gone(shard: &Shard) -> bool {
    shard.inner.state.borrow().table.tombstone(SOURCE).is_some()
}

async fn merged(rt: &Rt) -> Shard {
    let shard = opened(rt).await;
    assert_eq!(ask(&shard, put("a", "1")).await, Ok(Out::Done));
    assert_eq!(ask(&shard, put("b", "2")).await, Ok(Out::Done));
    shard.merge(SOURCE, Epoch::FIRST, &known(&shard, TARGET)).expect("both are led here");
    until(rt, || is_gone(&shard)).await;
    shard
}

#[test]
fn a_region_that_was_taken_in_is_read_and_written_in_the_other() {
    in_world(602, |rt| async move {
        let shard = merged(&rt).await;
        for (key, value) in [("a", "1"), ("b", "2")] {
            let there = Out::Value(Some(Bytes::from_static(value.as_bytes())));
            assert_eq!(ask(&shard, get(key)).await, Ok(there), "{key}");
        }
        assert_eq!(ask(&shard, put("b", "3")).await, Ok(Out::Done));
        let target = known(&shard, TARGET);
        let again = shard.merge(SOURCE, Epoch::FIRST, &target);
        assert!(matches!(again, Err(Refusal::RegionNotFound { region_id: 11 })), "{again:?}");
        let apart = shard.merge(RegionId(13), Epoch::FIRST, &target);
        assert!(matches!(apart, Err(Refusal::Invalid(_))), "{apart:?}");
        let stale = shard.merge(RegionId(12), Epoch::new(9, 9), &target);
        assert!(matches!(stale, Err(Refusal::EpochNotMatch { current: _ })), "{stale:?}");
        // What was thought out of the neighbour as it was before.
        let before = Region { epoch: Epoch::FIRST, ..target.clone() };
        let late = shard.merge(RegionId(12), Epoch::FIRST, &before);
        assert_eq!(late, Err(Refusal::EpochNotMatch { current: vec![target] }));
    });
}
