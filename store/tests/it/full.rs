//! Full disks in the simulated world: writes are refused and reads go on, no store stops, nothing acknowledged is lost, and
//! when there is space writes are taken again by the same process.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::sim::{Node, Options, World};
use store::gateway::Gateway;
use store::refusal::Refusal;
use store::request::{Op, Out, Outcome};

use crate::crash::{Model, begin_life, everything, start, start_and_check};

/// How long a client waits before it gives up on an answer.
const WAIT_MAX: Duration = Duration::from_secs(2);

fn key(n: u64) -> Bytes {
    Bytes::from(format!("{}{n:04}", (b'0' + (n % 40) as u8) as char))
}

async fn put(rt: &Rt, gateway: &Gateway, n: u64) -> Option<Outcome> {
    let value = Bytes::from(vec![b'a' + (n % 26) as u8; 2000]);
    let submitted = gateway.submit(None, Op::Put { key: key(n), value });
    let (submitted, time_max) = (std::pin::pin!(submitted), std::pin::pin!(rt.sleep(WAIT_MAX)));
    match futures_util::future::select(submitted, time_max).await {
        futures_util::future::Either::Left((outcome, _)) => Some(outcome),
        futures_util::future::Either::Right(_) => None,
    }
}

fn is_full(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Refusal::DiskFull { .. }))
}

/// Writes until refusals come, frees space, and writes again. Gives the keys that were acknowledged.
async fn fill_and_free(rt: Rt, node: Node, room: u64) -> Vec<Bytes> {
    let gateway = start(&rt).await;
    node.disk().leave(room);
    let (mut kept, mut refused, mut n) = (Vec::new(), 0, 0);
    while refused < 20 {
        match put(&rt, &gateway, n).await {
            Some(Ok(_)) => kept.push(key(n)),
            // It was proposed before the disk was known to be full, and waits for space.
            Some(Err(Refusal::Unknown)) | None => {}
            Some(outcome) => {
                assert!(is_full(&outcome), "{outcome:?}");
                refused += 1;
            }
        }
        n += 1;
        rt.sleep(Duration::from_millis(50)).await;
    }
    assert!(kept.len() > 20, "only {} writes fitted", kept.len());
    for key in &kept {
        let found = gateway.submit(None, Op::Get { key: key.clone() }).await;
        assert!(matches!(found, Ok(Out::Value(Some(_)))), "{key:?}: {found:?}");
    }
    node.disk().set_capacity(u64::MAX);
    rt.sleep(Duration::from_secs(15)).await;
    for n in n..n + 200 {
        let outcome = put(&rt, &gateway, n).await;
        assert!(matches!(outcome, Some(Ok(_))), "after space came back: {outcome:?}");
        kept.push(key(n));
    }
    kept
}

#[test]
fn writes_are_refused_while_the_disk_is_full_and_taken_again_afterwards() {
    for (room, seed) in [(0, 51), (100 << 10, 52), (300 << 10, 53), (1000 << 10, 54)] {
        let world = World::new(seed, Options::default());
        let node = world.node(0);
        let with = node.clone();
        // The first life makes the files, so that the second begins with what a store in use has.
        let first = node.start(0, |rt| async move {
            start(&rt).await;
            rt.sleep(Duration::from_secs(3)).await;
        });
        world.block_on(first).unwrap();
        node.crash();
        let running = node.start(0, move |rt| fill_and_free(rt, with, room));
        let kept = world.block_on(running).unwrap();
        node.crash();
        let checked = node.start(0, move |rt| async move {
            let found = everything(&start(&rt).await).await;
            let lost: Vec<_> = kept.iter().filter(|key| !found.contains_key(*key)).collect();
            assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        });
        world.block_on(checked).unwrap();
    }
}

/// Connections have taken every descriptor for a while: flushes and log segments wait, no store stops, nothing is refused as if the
/// disk were full, and afterwards the same process goes on.
#[test]
fn stores_outlive_a_time_without_descriptors() {
    let world = World::new(55, Options::default());
    let node = world.node(0);
    let with = node.clone();
    let running = node.start(0, move |rt| async move {
        let gateway = start(&rt).await;
        let disk = with.disk();
        disk.set_descriptors(disk.open_files());
        let (mut kept, mut waiting, mut n) = (Vec::new(), 0, 0);
        while waiting < 10 {
            match put(&rt, &gateway, n).await {
                Some(Ok(_)) => kept.push(key(n)),
                None | Some(Err(Refusal::Unknown | Refusal::Busy { .. })) => waiting += 1,
                Some(outcome) => panic!("put {n}: {outcome:?}"),
            }
            n += 1;
            assert!(n < 20_000, "nothing ever lacked a descriptor");
        }
        rt.sleep(Duration::from_secs(30)).await;
        disk.set_descriptors(u64::MAX);
        rt.sleep(Duration::from_secs(5)).await;
        for n in n..n + 200 {
            let outcome = put(&rt, &gateway, n).await;
            assert!(matches!(outcome, Some(Ok(_))), "afterwards: {outcome:?}");
            kept.push(key(n));
        }
        let found = everything(&gateway).await;
        let lost: Vec<_> = kept.iter().filter(|key| !found.contains_key(*key)).collect();
        assert!(lost.is_empty() && kept.len() > 220, "acknowledged and lost: {lost:?} of {}", kept.len());
    });
    world.block_on(running).unwrap();
}

/// Several lives of one node on a disk whose room comes and goes; each ends with a power cut, full or not.
fn lives(seed: u64) -> u64 {
    let world = World::new(seed, Options::rough(seed));
    let node = world.node(0);
    let model = Rc::new(RefCell::new(Model::default()));
    for life in 0..8 {
        let _life = begin_life(&node, seed, &model);
        world.run_for(Duration::from_micros(world.below(1_000_000)));
        for _ in 0..world.below(8) {
            match world.below(3) {
                _ if life == 0 => {}
                0 => node.disk().set_capacity(u64::MAX),
                _ => node.disk().leave(world.below(100) * 4096),
            }
            world.run_for(Duration::from_micros(world.below(2_000_000)));
        }
        node.crash();
    }
    node.disk().set_capacity(u64::MAX);
    let last = model.clone();
    let checked = node.start(0, move |rt| async move {
        let gateway = start_and_check(&rt, seed, &last).await;
        assert!(put(&rt, &gateway, 1).await.is_some_and(|outcome| outcome.is_ok()));
    });
    assert_eq!(world.block_on(checked), Some(()), "seed {seed}: the last start did not end");
    model.take().acknowledged
}

#[test]
fn what_was_acknowledged_survives_power_cuts_on_full_disks() {
    let acknowledged: u64 = (300..312).map(lives).sum();
    assert!(acknowledged > 1000, "only {acknowledged} writes were acknowledged: the test does not test");
}
