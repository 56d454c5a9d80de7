//! A turn in which much is committed is applied in pieces, and others of the core run in between.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::lsm::Cf;
use engine::rt::Rt;
use engine::rt::local::oneshot;
use engine::rt::sim::{Options, World};

use super::Shard;
use super::reply::Reply;
use super::stop_tests::{options, regions};
use crate::request::{Op, Out};

const DIR: &str = "/data/store-1";
const VALUE_BYTES: usize = 60 << 10;
const WRITES: usize = 200;

async fn open(rt: &Rt) -> Shard {
    rt.create_dir_all(Path::new("/data")).await.unwrap();
    let shard = Shard::open(rt, Path::new(DIR), options(), regions()).await.unwrap();
    let (turns, ticks) = (shard.clone(), shard.clone());
    rt.spawn(async move { turns.run().await });
    rt.spawn(async move { ticks.tick_loop().await });
    while !shard.is_ready() {
        rt.sleep(Duration::from_millis(1)).await;
    }
    shard
}

/// All writes are committed by one write of the log. A task beside sees the store between the pieces: what is applied grows step by
/// step, and of no key more than of the one before it.
#[test]
fn others_of_the_core_run_while_a_large_turn_is_applied() {
    let world = World::new(520, Options::default());
    let node = world.node(0);
    let cpu = node.clone();
    let running = node.start(0, move |rt| async move {
        let shard = open(&rt).await;
        // A look at the clock costs as much as a slice.
        cpu.slow_cpu(1000);
        let seen = Rc::new(RefCell::new(BTreeSet::new()));
        let (own, beside, moments) = (rt.clone(), shard.clone(), seen.clone());
        let before = shard.inner.counters.applied.get();
        rt.spawn(async move {
            loop {
                own.yield_to_reactor().await;
                moments.borrow_mut().insert(beside.inner.counters.applied.get() - before);
            }
        });
        let key = |n: usize| Bytes::from(format!("a{n:04}"));
        let mut answers = Vec::new();
        for n in 0..WRITES {
            let (answer, pending) = oneshot();
            let op = Op::Put { key: key(n), value: vec![n as u8; VALUE_BYTES].into() };
            shard.submit(None, op, Reply::local(answer));
            answers.push(pending);
        }
        let writes_before = shard.inner.counters.log_writes.get();
        for answer in answers {
            assert_eq!(answer.await, Some(Ok(Out::Done)));
        }
        assert_eq!(shard.inner.counters.log_writes.get(), writes_before + 1, "one turn wrote them");
        let commands = shard.inner.counters.applied.get() - before;
        let steps = seen.borrow().len() as u64;
        assert!(commands > 20 && steps > 5, "{commands} commands in {steps} steps");
        for n in 0..WRITES {
            let value = shard.inner.tree.get(Cf::Default, &key(n)).await.unwrap();
            assert_eq!(value.as_deref(), Some(&vec![n as u8; VALUE_BYTES][..]));
        }
    });
    world.block_on(running).unwrap();
}
