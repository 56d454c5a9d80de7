//! Passing shortages other than space: no descriptors, no memory of the kernel, "try again". They are waited out, by the background
//! task and by readers, and never poison.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::error::Shortage;
use engine::lsm::{Cf, WriteBatch};
use engine::rt::sim::{DiskFault, DiskOp, Options, World};

use super::damage::{files, prepared, read_around};
use super::model::{Past, live};
use super::world::open;

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
