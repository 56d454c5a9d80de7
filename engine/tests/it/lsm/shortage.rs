//! Passing shortages other than space: no descriptors, no memory of the kernel, "try again". They are waited out, by the background
//! task and by readers, and never poison.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::error::Shortage;
use engine::lsm::{Cf, Tree, TreeOptions, WriteBatch};
use engine::rt::sim::{DiskFault, DiskOp, Options, World};

use super::damage::{files, prepared, read_around};
use super::model::{Past, live};
use super::world::{DIR, fill, key, open, tiny};

#[test]
fn a_flush_waits_for_descriptors() {
    let (world, _) = prepared(51);
    let node = world.node(0);
    let with = node.clone();
    let running = node.start(0, move |rt| async move {
        let disk = with.disk();
        let tree = open(&rt).await;
        disk.set_descriptors(disk.open_files());
        let before = files(&with, ".table");
        let mut batch = WriteBatch::new();
        batch.put(Cf::Default, b"new", b"value");
        batch.mark(1, 77);
        tree.write(&batch).unwrap();
        let flushing = rt.spawn({
            let tree = tree.clone();
            async move { tree.flush().await }
        });
        rt.sleep(Duration::from_secs(20)).await;
        assert_eq!(tree.shortage(), Some(Shortage::Descriptors));
        assert!(!tree.disk_full() && tree.fault().is_none());
        assert_eq!((tree.flushed_index(1), files(&with, ".table")), (0, before));
        tree.write(&batch).unwrap();

        disk.set_descriptors(u64::MAX);
        flushing.await.unwrap();
        assert_eq!((tree.flushed_index(1), tree.shortage()), (77, None));
        assert_eq!(read_around(&tree, Path::new("")).await, 0);
        tree.close().await;
    });
    world.block_on(running).unwrap();
}

const MANY: u64 = 3_000;

/// Reads one key of every ten.
async fn read_many(tree: &Tree) {
    for n in (0..MANY).step_by(10) {
        let value = tree.get(Cf::Default, &key(n)).await.unwrap().unwrap();
        assert_eq!(&value[..], format!("value of {n} in round 1").as_bytes());
    }
}

/// With a handful of descriptors everything goes on: files that are only open in case they are read again give way.
#[test]
fn a_tree_gets_by_on_four_descriptors() {
    let world = World::new(52, Options::default());
    let node = world.node(0);
    let with = node.clone();
    let running = node.start(0, move |rt| async move {
        let options = TreeOptions { open_tables_max: 100, ..tiny() };
        let tree = Tree::open(&rt, Path::new(DIR), options).await.unwrap();
        fill(&tree, 0, MANY, 1);
        tree.compact().await.unwrap();
        read_many(&tree).await;
        let before = tree.stats();
        assert!(before.open_tables > 4 && before.closed_tables == 0, "{before:?}");
        // The manifest, the table that is written or the directory that is synced, and two to read from.
        with.disk().set_descriptors(4);
        fill(&tree, 0, MANY, 1);
        tree.flush().await.unwrap();
        tree.compact().await.unwrap();
        read_many(&tree).await;
        assert!(tree.stats().closed_tables > 4 && with.disk().open_files() <= 4);
        tree.close().await;
    });
    world.block_on(running).unwrap();
}

#[test]
fn open_tables_are_bounded() {
    let world = World::new(53, Options::default());
    let node = world.node(0);
    let with = node.clone();
    let running = node.start(0, move |rt| async move {
        let options = TreeOptions { open_tables_max: 2, cache_bytes: 0, ..tiny() };
        let tree = Tree::open(&rt, Path::new(DIR), options).await.unwrap();
        fill(&tree, 0, MANY, 1);
        tree.compact().await.unwrap();
        let tables: u64 = tree.stats().levels.iter().map(|(tables, _)| tables).sum();
        for _ in 0..3 {
            read_many(&tree).await;
            // The manifest and two tables.
            assert!(tables > 4 && tree.stats().open_tables <= 2 && with.disk().open_files() <= 3);
        }
        assert!(tree.stats().closed_tables >= 3 * (tables - 2));
        tree.close().await;
    });
    world.block_on(running).unwrap();
}

/// The model test while operations fail in every way that passes.
#[test]
fn the_tree_equals_the_model_through_every_passing_shortage() {
    let (mut faults, mut written) = (0, 0);
    for seed in 300..330 {
        let world = World::new(seed, Options::default());
        let node = world.node(0);
        let past = Rc::new(RefCell::new(Past::default()));
        for _ in 0..4 {
            let (past, dice) = (past.clone(), world.random());
            let running = node.start(0, move |rt| live(rt, past, dice, 300));
            // The opening is left alone: a start that fails says so and is tried again.
            world.run_for(Duration::from_millis(80));
            for _ in 0..30 {
                let (op, errno) = [
                    (DiskOp::Name, libc::EMFILE),
                    (DiskOp::Look, libc::ENFILE),
                    (DiskOp::SyncDir, libc::EMFILE),
                    (DiskOp::Write, libc::ENOMEM),
                    (DiskOp::Read, libc::EAGAIN),
                    (DiskOp::Write, libc::EINTR),
                ][world.below(6) as usize];
                let fault = DiskFault::on(op).errno(errno).after(world.below(4)).times(1 + world.below(3));
                node.disk().fail(fault);
                world.run_for(Duration::from_micros(world.below(30_000)));
            }
            node.disk().heal();
            world.block_on(running).unwrap();
            node.kill();
        }
        faults += node.disk().stats().faults;
        written += past.borrow().journal.len();
    }
    assert!(faults > 500 && written > 5_000, "{faults} faults, {written} batches");
}
