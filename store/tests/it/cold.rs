//! Writes that need values from disk keep the order in which they were submitted.
//!
//! The tree keeps next to nothing in memory here, so that most read-modify-writes have to read first, and everything that comes
//! meanwhile has to wait in the right place. `RINGKEEP_SEEDS=1000 cargo test -p ringkeep-store --test it cold` runs more seeds.

use std::time::Duration;

use bytes::Bytes;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use store::gateway::Gateway;
use store::node::core::Stores;
use store::refusal::Refusal;
use store::request::{Change, Op, Out};

use crate::gateway::{compare, everything};
use crate::node::open_simulated;

async fn open(rt: &Rt) -> (Stores, Gateway) {
    let tree = TreeOptions { memtable_bytes: 1 << 10, cache_bytes: 0, ..TreeOptions::default() };
    open_simulated(rt, |plan| plan.shard.tree = tree).await
}

pub(crate) fn in_world<T: 'static, F: Future<Output = T>>(
    seed: u64,
    work: impl FnOnce(Rt, Gateway) -> F + 'static,
) -> T {
    let world = World::new(seed, Options::default());
    let running = world.node(0).start(0, |rt| async move {
        let (_stores, gateway) = open(&rt).await;
        work(rt, gateway).await
    });
    world.block_on(running).unwrap()
}

#[test]
fn cold_stores_mean_the_same_as_a_map() {
    let seeds = std::env::var("RINGKEEP_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    for seed in 0..seeds {
        in_world(seed, move |rt, gateway| async move {
            let model = Gateway::in_memory().with_clock(&rt);
            compare(seed, 600, &gateway, &model).await;
            assert_eq!(everything(&gateway).await, everything(&model).await, "seed {seed}");
        });
    }
}

fn add(key: &'static str) -> Op {
    Op::Modify { key: key.into(), change: Change::Add { delta: 1 } }
}

fn put(key: &'static str, value: &'static str) -> Op {
    Op::Put { key: key.into(), value: value.into() }
}

/// Leaves `a`, `b` and `c` with the value 1 on disk alone.
pub(crate) async fn make_cold(rt: &Rt, gateway: &Gateway) {
    for key in ["a", "b", "c"] {
        gateway.submit(None, put(key, "1")).await.unwrap();
    }
    gateway.submit(None, Op::Put { key: "z".into(), value: vec![0; 4 << 10].into() }).await.unwrap();
    while gateway.get_now(b"a").is_some() {
        rt.sleep(Duration::from_millis(1)).await;
    }
}

/// Submits `ops` at once to a store that has `a`, `b` and `c` on disk alone, and returns what the three keys hold then.
fn after(ops: Vec<Op>) -> Vec<Option<Bytes>> {
    in_world(1, |rt, gateway| async move {
        make_cold(&rt, &gateway).await;
        let submitted: Vec<_> = ops.into_iter().map(|op| gateway.submit(None, op)).collect();
        for submitted in submitted {
            submitted.await.unwrap();
        }
        let keys = ["a", "b", "c"].map(Bytes::from).to_vec();
        match gateway.submit(None, Op::BatchGet { keys, at_once: false }).await {
            Ok(Out::Values(values)) => values,
            other => panic!("{other:?}"),
        }
    })
}

fn values(texts: [&'static str; 3]) -> Vec<Option<Bytes>> {
    texts.into_iter().map(|text| (!text.is_empty()).then(|| Bytes::from(text))).collect()
}

#[test]
fn what_comes_after_a_batch_that_waits_does_not_overtake_it() {
    let batch = Op::BatchPut { pairs: vec![("a".into(), "5".into()), ("b".into(), "5".into())] };
    let found = after(vec![add("a"), batch, put("b", "7"), add("c"), add("a")]);
    assert_eq!(found, values(["6", "7", "2"]));
}

#[test]
fn a_batch_of_deletes_waits_for_every_key_that_is_being_read() {
    let batch = Op::BatchDelete { keys: vec!["a".into(), "b".into(), "c".into()] };
    let found = after(vec![add("b"), add("c"), batch, put("a", "7"), add("c")]);
    assert_eq!(found, values(["7", "", "1"]));
}

#[test]
fn a_range_delete_waits_for_what_was_submitted_before_it() {
    let range = Op::DeleteRange { start: "b".into(), end: "".into() };
    let found = after(vec![add("b"), put("b", "9"), add("a"), range, add("c"), add("a")]);
    assert_eq!(found, values(["3", "", "1"]));
}

#[test]
fn what_waits_for_the_disk_counts_against_the_bound() {
    in_world(1, |rt, gateway| async move {
        make_cold(&rt, &gateway).await;
        let batch = Op::BatchPut { pairs: vec![("a".into(), "5".into())] };
        let mut submitted = vec![gateway.submit(None, add("a")), gateway.submit(None, batch)];
        // More than the 64 MiB that the store takes in, while nothing can begin.
        let value = Bytes::from(vec![0; 8 << 20]);
        submitted
            .extend((0..12).map(|_| gateway.submit(None, Op::Put { key: "b".into(), value: value.clone() })));
        let mut busy = 0;
        for submitted in submitted {
            match submitted.await {
                Ok(_) => {}
                Err(Refusal::Busy { .. }) => busy += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(
            busy, 4,
            "eight values with their keys are above the bound, and what comes then is refused"
        );
        gateway
            .submit(None, put("b", "1"))
            .await
            .expect("what waited has ended, and with it what it weighed");
    });
}
