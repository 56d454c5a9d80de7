//! Full disks: what was written stays readable, nothing is left behind, and once there is space everything goes on by itself.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::lsm::{Cf, Tree, WriteBatch};
use engine::rt::Rt;
use engine::rt::sim::{DiskFault, DiskOp, Node, Options, World};

use super::damage::{files, prepared, read_around};
use super::model::{Past, live};
use super::world::open;

fn write_new(tree: &Tree) {
    let mut batch = WriteBatch::new();
    for n in 0..40 {
        // Bytes that do not pack, so that the table needs its space.
        let value: Vec<u8> = (0..400u64).map(|i| ((n * 977 + i * i * 31) >> 3) as u8).collect();
        batch.put(Cf::Default, format!("new{n:02}").as_bytes(), &value);
    }
    batch.mark(1, 77);
    tree.write(&batch).unwrap();
}

async fn has_new(tree: &Tree) -> bool {
    tree.get(Cf::Default, b"new17").await.unwrap().is_some()
}

/// Cuts the power; everything that was there before and what [`write_new`] wrote is there afterwards.
fn cut_power_and_check(world: &World, node: &Node) {
    node.crash();
    let running = node.start(0, |rt| async move {
        let tree = open(&rt).await;
        assert_eq!(tree.flushed_index(1), 77);
        assert!(has_new(&tree).await);
        assert_eq!(read_around(&tree, Path::new("")).await, 0);
        tree.close().await;
    });
    world.block_on(running).unwrap();
}

/// Writes, finds the disk full, and is flushed when there is space again, with nothing left over from the attempts.
async fn fill_and_free(rt: Rt, node: Node, room: u64) {
    let tree = open(&rt).await;
    let before = files(&node, ".table");
    node.disk().leave(room);
    write_new(&tree);
    let flushing = rt.spawn({
        let tree = tree.clone();
        async move { tree.flush().await }
    });
    rt.sleep(Duration::from_secs(25)).await;
    assert!(tree.disk_full() && tree.stats().disk_full);
    assert!(tree.fault().is_none(), "lack of space is no fault");
    assert_eq!(tree.flushed_index(1), 0);
    assert_eq!(files(&node, ".table"), before, "half-written tables stay behind");
    assert!(has_new(&tree).await);
    assert_eq!(read_around(&tree, Path::new("")).await, 0);

    node.disk().set_capacity(u64::MAX);
    flushing.await.unwrap();
    assert!(!tree.disk_full());
    assert_eq!(tree.flushed_index(1), 77);
    let after = files(&node, ".table");
    let number = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let fresh = after.iter().find(|path| !before.contains(path)).unwrap();
    let last = before.iter().map(|path| number(path)).max().unwrap();
    assert!(number(fresh) > last + 2, "the numbers of the attempts are used again");
    tree.close().await;
}

#[test]
fn a_full_disk_is_waited_out() {
    for (room, seed) in [(0, 31), (4 << 10, 32), (9 << 10, 33), (15 << 10, 34)] {
        let (world, _) = prepared(seed);
        let node = world.node(0);
        let with = node.clone();
        let running = node.start(0, move |rt| fill_and_free(rt, with, room));
        world.block_on(running).unwrap();
        cut_power_and_check(&world, &node);
    }
}

/// The names of new tables and of a new manifest are synced before anything rests on them, so lack of space there is waited out, too.
#[test]
fn no_space_for_names_is_waited_out() {
    for (times, seed) in [(1, 61), (3, 62)] {
        let (world, _) = prepared(seed);
        let node = world.node(0);
        let disk_of = node.clone();
        let running = node.start(0, move |rt| async move {
            let tree = open(&rt).await;
            disk_of.disk().fail(DiskFault::on(DiskOp::SyncDir).errno(libc::ENOSPC).times(times));
            write_new(&tree);
            tree.flush().await.unwrap();
            assert_eq!((tree.flushed_index(1), tree.fault().is_none()), (77, true));
            assert_eq!(disk_of.disk().stats().faults, times);
            tree.check();
            tree.close().await;
        });
        world.block_on(running).unwrap();
        cut_power_and_check(&world, &node);
    }
}

/// A tree opens on a full disk, serves reads, and goes on with its old manifest when there is space; a power cut in between or
/// afterwards loses nothing.
#[test]
fn a_tree_opens_on_a_full_disk() {
    for (cut_before, seed) in [(false, 41), (true, 42)] {
        let (world, _) = prepared(seed);
        let node = world.node(0);
        let manifests = files(&node, "");
        node.disk().leave(0);
        if cut_before {
            let running = node.start(0, move |rt| async move {
                write_new(&open(&rt).await);
                rt.sleep(Duration::from_secs(3)).await;
            });
            world.block_on(running).unwrap();
            node.crash();
        }
        let disk_of = node.clone();
        let running = node.start(0, move |rt| async move {
            let tree = open(&rt).await;
            assert_eq!(files(&disk_of, ""), manifests, "there was no room for a manifest");
            assert_eq!(read_around(&tree, Path::new("")).await, 0);
            write_new(&tree);
            rt.sleep(Duration::from_secs(3)).await;
            assert!(has_new(&tree).await);
            disk_of.disk().set_capacity(u64::MAX);
            tree.flush().await.unwrap();
        });
        world.block_on(running).unwrap();
        cut_power_and_check(&world, &node);
    }
}

/// The model test on a disk whose room comes and goes, with power cuts at any moment, full or not.
#[test]
fn the_tree_equals_the_model_while_the_disk_fills_and_empties() {
    let (mut full_starts, mut written) = (0, 0);
    for seed in 200..230 {
        let world = World::new(seed, Options::default());
        let node = world.node(0);
        let past = Rc::new(RefCell::new(Past::default()));
        let exists = |node: &Node| !files(node, "CURRENT").is_empty();
        for _ in 0..5 {
            let (past, dice) = (past.clone(), world.random());
            full_starts += u64::from(exists(&node) && node.disk().free_bytes() < 64 << 10);
            let _life = node.start(0, move |rt| live(rt, past, dice, 400));
            for _ in 0..world.below(12) {
                world.run_for(Duration::from_micros(world.below(600_000)));
                match world.below(3) {
                    0 => node.disk().set_capacity(u64::MAX),
                    _ if exists(&node) => node.disk().leave(world.below(20) * 4096),
                    _ => {}
                }
            }
            node.crash();
        }
        node.disk().set_capacity(u64::MAX);
        let (last, dice) = (past.clone(), world.random());
        let running = node.start(0, move |rt| live(rt, last, dice, 20));
        world.block_on(running).unwrap();
        written += past.borrow().journal.len();
    }
    assert!(full_starts > 10 && written > 5_000, "{full_starts} starts on a full disk, {written} batches");
}
