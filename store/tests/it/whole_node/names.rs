//! The names of a node's files through a kill and a power cut: whatever a start finds that the one before had made, and goes on with, lasts.
//! The first life is killed at every operation that changes the disk; the second one acknowledges writes on what it finds, on a disk that
//! is full or not; then every name is lost that no sync made durable.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use engine::rt::sim::{CrashMode, DiskFault, DiskOp, DiskOptions, Node, Options, World};
use store::config::SyncMethod;
use store::gateway::Gateway;
use store::node::CoreWork;
use store::request::{Op, Out};

use super::{START_MAX, begin_with, setup_on};

/// Keys that a life writes, over all regions.
const KEYS: u8 = 60;
/// The disk has no space left.
const ENOSPC: i32 = 28;
/// Longer than a life needs for them.
const LIFE: Duration = Duration::from_secs(20);

type Keys = Arc<Mutex<BTreeSet<Bytes>>>;

fn key(life: u8, number: u8) -> Bytes {
    Bytes::from(vec![b'0' + number, b'a' + life])
}

async fn has(gateway: &Gateway, key: &Bytes) -> Result<bool, String> {
    match gateway.submit(None, Op::Get { key: key.clone() }).await {
        Ok(Out::Value(value)) => Ok(value.is_some()),
        other => Err(format!("{other:?}")),
    }
}

/// Runs `work` on a node that starts. Whether it ended before the disk stopped, or why the node did not start.
fn live<F: Future<Output = ()> + 'static>(
    world: &World,
    node: &Node,
    work: impl Fn(Gateway) -> F + Send + Sync + 'static,
) -> Result<bool, String> {
    let done = Arc::new(Mutex::new(false));
    let (mut setup, over) = (setup_on(SyncMethod::Dsync, 1), done.clone());
    setup.work = Some(CoreWork::new(move |_, gateway| {
        let (work, over) = (work(gateway), over.clone());
        Box::pin(async move {
            work.await;
            *over.lock().unwrap() = true;
        })
    }));
    let life = begin_with(node, setup);
    let stopped = || node.disk().has_stopped();
    world.run_until(START_MAX, || life.started.borrow().is_some() || stopped());
    if let Some(Err(why)) = &*life.started.borrow() {
        return Err(why.clone());
    }
    world.run_until(LIFE, || *done.lock().unwrap() || stopped());
    let ended = *done.lock().unwrap();
    Ok(ended)
}

/// A life that writes its keys, and notes which were acknowledged.
fn writes(world: &World, node: &Node, life: u8, acknowledged: &Keys) -> Result<bool, String> {
    let acknowledged = acknowledged.clone();
    live(world, node, move |gateway| {
        let acknowledged = acknowledged.clone();
        async move {
            for key in (0..KEYS).map(|number| key(life, number)) {
                let put = Op::Put { key: key.clone(), value: Bytes::from_static(b"value") };
                if gateway.submit(None, put).await.is_ok() {
                    acknowledged.lock().unwrap().insert(key);
                }
            }
        }
    })
}

/// The first life is killed at change `point` of the disk. How many writes the second one acknowledged; `None` once the first has ended
/// before.
fn killed_at(point: u64, is_full: bool) -> Option<usize> {
    let options = Options::default();
    let disk = DiskOptions { crash: CrashMode::Lose, ..options.disk.clone() };
    let world = World::new(3000 + point, Options { disk, ..options });
    let (node, acknowledged) = (world.node(0), Keys::default());
    node.disk().stop_at(point);
    let first = writes(&world, &node, 0, &acknowledged);
    node.kill();
    if first.unwrap_or_else(|why| panic!("the first start: {why}")) {
        return None;
    }
    let before = acknowledged.lock().unwrap().len();
    if is_full {
        for file in ["MANIFEST", ".new"] {
            node.disk().fail(DiskFault::on(DiskOp::Name).path(file).errno(ENOSPC).always());
        }
    }
    // Without space for anything a first start may have to wait, and is given up.
    let second = writes(&world, &node, 1, &acknowledged);
    assert!(is_full || second == Ok(true), "killed at {point}: {second:?}");
    node.crash();
    node.disk().heal();
    let wanted = acknowledged.lock().unwrap().clone();
    let (lost, keys) = (Arc::new(Mutex::new(Vec::new())), wanted.clone());
    let missed = lost.clone();
    let third = live(&world, &node, move |gateway| {
        let (missed, keys) = (missed.clone(), keys.clone());
        async move {
            for key in keys {
                if has(&gateway, &key).await != Ok(true) {
                    missed.lock().unwrap().push(key);
                }
            }
        }
    });
    let lost = lost.lock().unwrap();
    assert!(
        third == Ok(true) && lost.is_empty(),
        "killed at change {point}, disk full: {is_full}: {third:?}, {} of {} writes lost",
        lost.len(),
        wanted.len()
    );
    Some(wanted.len() - before)
}

#[test]
fn what_a_node_goes_on_with_after_a_kill_outlives_a_power_cut() {
    // A step has several operations, so each step meets each disk.
    let lives = (0..).map_while(|point| killed_at(point, point % 3 == 2));
    let went_on = lives.filter(|acknowledged| *acknowledged > 0).count();
    assert!(went_on > 60, "only {went_on} second lives acknowledged anything");
}
