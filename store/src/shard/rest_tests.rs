//! What a replica takes while it sleeps: no tick, and next to no memory beside its place in the table, however many writes it had.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use futures_util::future::join_all;
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, StoreId};

use super::Shard;
use super::descriptor_tests::{DIR, options, submit};
use super::open::ShardOptions;
use crate::request::Op;

/// What a replica with one peer takes while it sleeps, 2168 bytes, and a little: it is not to grow unseen. Keys come on top.
const BYTES_MAX: usize = 2200;

fn region(id: u64, start: &str, end: &str) -> Region {
    let peers = vec![Peer::voter(PeerId(id + 100), StoreId(1))];
    Region { id: RegionId(id), range: KeyRange::new(start, end).unwrap(), epoch: Epoch::FIRST, peers }
}

async fn live(rt: Rt) {
    rt.create_dir_all(Path::new("/data")).await.unwrap();
    let sleepy = raft::Config { quiet_after_ticks: 20, ..(*options().raft).clone() };
    let options = ShardOptions { raft: Arc::new(sleepy), ..options() };
    let regions = vec![region(1, "", "m"), region(2, "m", "")];
    let shard = Shard::open(&rt, Path::new(DIR), options, regions).await.unwrap();
    let (turns, ticks) = (shard.clone(), shard.clone());
    rt.spawn(async move { turns.run().await });
    rt.spawn(async move { ticks.tick_loop().await });
    while !shard.is_ready() {
        rt.sleep(Duration::from_millis(1)).await;
    }
    let key = |n: u64| Bytes::from(format!("{}{n}", if n.is_multiple_of(2) { "a" } else { "z" }));
    let writes = (0..2_000).map(|n| submit(&shard, Op::Put { key: key(n), value: key(n) }));
    assert!(join_all(writes).await.iter().all(Result::is_ok));
    let queues = || shard.inner.state.borrow().table.iter().map(|it| it.queue_bytes()).sum::<usize>();
    assert!(queues() > 100_000, "{} bytes: nothing is there to be given back", queues());
    rt.sleep(Duration::from_secs(10)).await;
    let state = shard.inner.state.borrow();
    assert_eq!((state.table.iter().filter(|it| it.is_asleep()).count(), state.table.awake.len()), (2, 0));
    for replica in state.table.iter() {
        assert!(replica.memory_bytes() <= BYTES_MAX, "{} bytes at rest", replica.memory_bytes());
    }
}

#[test]
fn a_replica_that_sleeps_has_given_back_what_its_writes_took() {
    let world = World::new(77, Options::default());
    let node = world.node(0);
    world.block_on(node.start(0, live)).expect("it ends");
}
