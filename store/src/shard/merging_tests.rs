//! A merge in one store, as it is asked for and as clients see it.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::local::oneshot;
use engine::rt::sim::{Options, World};
use scheduler::operator::OperatorId;
use scheduler::{Action, Change, Epoch, Instruction, PeerId, Region, RegionId, StoreId};

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

/// Of a target whose members could all go, the source would never hear; of one that takes in another, too late.
#[test]
fn a_neighbour_that_is_waited_for_keeps_its_members_and_takes_no_second_one() {
    in_world(603, |rt| async move {
        let shard = opened(&rt).await;
        let (target, second) = (known(&shard, SOURCE), known(&shard, RegionId(12)));
        shard.merge(TARGET, Epoch::FIRST, &target).expect("both are led here");
        until(&rt, || shard.inner.state.borrow().table.waiting_for(SOURCE).next().is_some()).await;
        let leader = target.peers[0];
        let change = Change::AddLearner { peer: PeerId(99), store: StoreId(7) };
        let (region, epoch, operator) = (target.id, target.epoch, OperatorId(1));
        let step = Instruction { region, epoch, leader, operator, action: Action::Change(change) };
        let changed = shard.carry_out(&step).map_err(|refusal| format!("{refusal:?}"));
        assert!(changed.as_ref().is_err_and(|why| why.contains("waits to be taken in")), "{changed:?}");
        let another = shard.merge(second.id, second.epoch, &target).map_err(|refusal| format!("{refusal:?}"));
        assert!(another.as_ref().is_err_and(|why| why.contains("another region waits")), "{another:?}");
        let is_over = || shard.inner.state.borrow().table.tombstone(TARGET).is_some();
        until(&rt, is_over).await;
        let target = known(&shard, SOURCE);
        shard.merge(second.id, second.epoch, &target).expect("no other waits any more");
        let numbers = shard.snapshot().merges;
        assert_eq!((numbers.begun, numbers.done), (2, 1));
        assert_eq!(numbers.refused.iter().map(|(_, count)| count).sum::<u64>(), 1);
    });
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
