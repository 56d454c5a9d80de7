//! What a power cut, a kill, a fault and a full disk leave of files.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::BLOCK;
use crate::error::Shortage;
use crate::rt::sim::*;
use crate::rt::{Meanwhile, OpenMode};

/// Writes block 0 of `f` with `value` in every byte and returns how far it got.
async fn write_block(rt: &Rt, mode: OpenMode, value: u8, sync: bool) {
    let file = rt.open(Path::new("/f"), mode).await.unwrap();
    let mut buf = rt.alloc(BLOCK);
    buf.fill(value);
    file.write_at(buf, 0).await.unwrap();
    if sync {
        file.sync().await.unwrap();
    }
}

/// A node whose `/f` durably holds one block of ones.
fn prepared(seed: u64, mode: CrashMode) -> (World, Node) {
    let mut options = Options::default();
    options.disk.crash = mode;
    let world = World::new(seed, options);
    let node = world.node(0);
    let ready = node.start(0, |rt| async move {
        write_block(&rt, OpenMode::Create, 1, true).await;
        rt.sync_dir(Path::new("/")).await.unwrap();
    });
    world.block_on(ready).unwrap();
    node.kill();
    (world, node)
}

/// What a power cut leaves of a block that was durably ones and then written with twos.
fn after_cut(seed: u64, mode: CrashMode, open: OpenMode, sync: bool) -> Vec<u8> {
    let (world, node) = prepared(seed, mode);
    let wrote = node.start(0, move |rt| async move { write_block(&rt, open, 2, sync).await });
    world.block_on(wrote).unwrap();
    node.crash();
    node.disk().read("/f")
}

#[test]
fn a_synced_or_durable_write_survives_every_power_cut() {
    for seed in 0..100 {
        assert_eq!(after_cut(seed, CrashMode::Any, OpenMode::Write, true), [2; BLOCK]);
        assert_eq!(after_cut(seed, CrashMode::Any, OpenMode::WriteDurable, false), [2; BLOCK]);
    }
}

#[test]
fn an_unsynced_write_is_lost_kept_or_torn() {
    assert_eq!(after_cut(1, CrashMode::Lose, OpenMode::Write, false), [1; BLOCK]);
    assert_eq!(after_cut(1, CrashMode::Keep, OpenMode::Write, false), [2; BLOCK]);
    let outcomes: Vec<Vec<u8>> =
        (0..50).map(|seed| after_cut(seed, CrashMode::TearSectors, OpenMode::Write, false)).collect();
    assert!(outcomes.iter().any(|bytes| bytes.contains(&1) && bytes.contains(&2)));
    for sector in outcomes.iter().flat_map(|bytes| bytes.chunks(512)) {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn itself");
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_has_written() {
    let (world, node) = prepared(3, CrashMode::Any);
    world.block_on(node.start(0, |rt| async move { write_block(&rt, OpenMode::Write, 2, false).await }));
    node.kill();
    assert_eq!(node.disk().read("/f"), [2; BLOCK]);
}

#[test]
fn a_name_survives_only_with_its_directory_synced() {
    for synced in [false, true] {
        let mut options = Options::default();
        options.disk.crash = CrashMode::Lose;
        let world = World::new(9, options);
        let node = world.node(0);
        let made = node.start(0, move |rt| async move {
            let dir = Path::new("/data");
            rt.create_dir_all(dir).await.unwrap();
            let file = rt.open(&dir.join("new"), OpenMode::Create).await.unwrap();
            file.sync().await.unwrap();
            if synced {
                rt.sync_dir(dir).await.unwrap();
            }
        });
        world.block_on(made).unwrap();
        node.crash();
        assert_eq!(node.disk().files().len(), usize::from(synced));
    }
}

#[test]
fn replacing_a_small_file_leaves_the_old_or_the_new_one_at_every_crash_point() {
    let mut seen = [false; 2];
    for seed in 0..10 {
        for point in 0.. {
            let world = World::new(seed, Options::default());
            let node = world.node(0);
            let path = Path::new("/CURRENT");
            world.block_on(node.start(0, |rt| async move { rt.replace_small(path, b"old").await.unwrap() }));
            node.disk().stop_at(node.disk().changes() + point);
            let replaced = Rc::new(Cell::new(false));
            let set = replaced.clone();
            node.kill();
            node.disk().stop_at(node.disk().changes() + point);
            let _running = node.start(0, move |rt| async move {
                rt.replace_small(path, b"new, and longer").await.unwrap();
                set.set(true);
            });
            world.run_for(Duration::from_secs(1));
            node.crash();
            let found = node.disk().read(path);
            assert!(found == b"old" && !replaced.get() || found == b"new, and longer", "{found:?}");
            seen[usize::from(found != b"old")] = true;
            if replaced.get() {
                break;
            }
        }
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn a_failed_sync_is_never_made_good_by_a_later_one() {
    let (world, node) = prepared(5, CrashMode::Keep);
    node.disk().fail_next_sync("f");
    let results = node.start(0, |rt| async move {
        let file = rt.open(Path::new("/f"), OpenMode::Write).await.unwrap();
        let mut buf = rt.alloc(BLOCK);
        buf.fill(2);
        file.write_at(buf, 0).await.unwrap();
        let first = file.sync().await;
        let second = file.sync().await;
        let seen = file.read_at(0, BLOCK).await.unwrap()[0];
        (first.is_err(), second.is_ok(), seen)
    });
    assert_eq!(world.block_on(results), Some((true, true, 2)));
    node.crash();
    assert_eq!(node.disk().read("/f"), [1; BLOCK]);
}

#[test]
fn scripted_faults_hit_what_they_name() {
    let (world, node) = prepared(6, CrashMode::Any);
    node.disk().fail(DiskFault::on(DiskOp::Read).path("f").after(1).errno(libc::EIO));
    node.disk().rot("/f", 7, 0x80);
    let seen = node.start(0, |rt| async move {
        let file = rt.open(Path::new("/f"), OpenMode::Read).await.unwrap();
        let rotten = file.read_at(0, BLOCK).await.unwrap()[7];
        let failed = file.read_at(0, BLOCK).await.map(|_| ()).unwrap_err();
        let healthy = file.read_at(0, BLOCK).await.is_ok();
        (rotten, failed.raw_os_error(), healthy)
    });
    assert_eq!(world.block_on(seen), Some((0x81, Some(libc::EIO), true)));
    assert_eq!(node.disk().stats().faults, 1);
}

/// As kernels do: what has room is written, and it is the rest that is refused, with the reason.
#[test]
fn a_disk_that_fills_up_within_a_write_keeps_its_beginning_and_says_that_it_is_full() {
    for meanwhile in [None, Some(Meanwhile::GoOn), Some(Meanwhile::Block)] {
        let world = World::new(1, Options::default());
        let node = world.node(0);
        node.disk().set_capacity(3 * BLOCK as u64);
        let filling = node.start(0, move |rt| async move {
            let file = rt.open(Path::new("/f"), OpenMode::Create).await.unwrap();
            let mut buf = rt.alloc(5 * BLOCK);
            buf.fill(7);
            let written = match meanwhile {
                None => file.write_at(buf, 0).await,
                Some(meanwhile) => file.write_urgently(buf, 0, true, meanwhile).await,
            };
            assert_eq!(Shortage::of(&written.unwrap_err()), Some(Shortage::Space), "{meanwhile:?}");
            file.read_at(0, 5 * BLOCK).await.unwrap().to_vec()
        });
        assert_eq!(world.block_on(filling), Some(vec![7; 3 * BLOCK]));
        assert_eq!(node.disk().stats().written_bytes, 3 * BLOCK as u64);
    }
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let (world, node) = prepared(7, CrashMode::Any);
    node.disk().set_capacity(2 * BLOCK as u64);
    let results = node.start(0, |rt| async move {
        let file = rt.open(Path::new("/f"), OpenMode::Write).await.unwrap();
        let mut results = Vec::new();
        for block in 0..3 {
            results
                .push(file.write_at(rt.alloc(BLOCK), block * BLOCK as u64).await.map_err(|e| e.kind()).err());
        }
        file.set_len(BLOCK as u64).await.unwrap();
        results.push(file.write_at(rt.alloc(BLOCK), BLOCK as u64).await.map_err(|e| e.kind()).err());
        results
    });
    let full = Some(io::ErrorKind::StorageFull);
    assert_eq!(world.block_on(results), Some(vec![None, None, full, None]));
}

#[test]
fn a_hung_disk_finishes_when_it_recovers() {
    let (world, node) = prepared(8, CrashMode::Any);
    node.disk().hang();
    let done = Rc::new(Cell::new(false));
    let set = done.clone();
    let _running = node.start(0, move |rt| async move {
        write_block(&rt, OpenMode::Write, 2, true).await;
        set.set(true);
    });
    assert!(!world.run_until(Duration::from_secs(60), || done.get()));
    node.disk().unhang(&world);
    assert!(world.run_until(Duration::from_secs(1), || done.get()));
}
