//! What tests of everything else rely on: runs repeat, power cuts lose only what they may, links break as told.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::rt::{BLOCK_BYTES, ListenOptions, OpenMode};

const BLOCK: usize = BLOCK_BYTES;

fn traced() -> Options {
    Options { trace: true, ..Options::rough(1) }
}

/// A bit of everything: two nodes, traffic, files, timers, a power cut in the middle of it.
fn busy_run(seed: u64) -> (u64, String) {
    let world = World::new(seed, traced());
    let (server, client) = (world.node(0), world.node(1));
    let addr = server.addr(7000);
    let serving = |rt: Rt| async move {
        let listener = rt.listen(addr, ListenOptions::default()).unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let rt_of_task = rt.clone();
            rt.spawn(async move {
                let mut buf = [0; 100];
                let path = format!("f{}", rt_of_task.random());
                let file = rt_of_task.open(Path::new(&path), OpenMode::Create).await.unwrap();
                while let Ok(n @ 1..) = stream.read(&mut buf).await {
                    file.write_at(rt_of_task.alloc(BLOCK), 0).await.unwrap();
                    if stream.write_all(&buf[..n]).await.is_err() {
                        break;
                    }
                }
            });
        }
    };
    let _gone: Running<()> = server.start(0, serving);
    let talking = client.start(0, move |rt| async move {
        let mut answered = 0;
        for _ in 0..20 {
            let Ok(mut stream) = rt.connect(addr).await else { continue };
            for _ in 0..5 {
                let mut buf = [0; 16];
                let sent = stream.write_all(b"ping").await;
                if sent.is_err() || !matches!(stream.read(&mut buf).await, Ok(1..)) {
                    break;
                }
                answered += 1;
            }
        }
        answered
    });
    world.run_for(Duration::from_millis(20));
    server.kill();
    world.run_for(Duration::from_millis(20));
    let _gone: Running<()> = server.start(0, serving);
    let answered = world.block_on(talking).unwrap();
    server.crash();
    assert!(answered > 0);
    (world.hash(), world.trace())
}

#[test]
fn a_seed_gives_one_trace_byte_for_byte() {
    for seed in 0..5 {
        let (one, other) = (busy_run(seed), busy_run(seed));
        assert!(one.1.lines().count() > 500, "a trace worth comparing");
        assert_eq!(one.0, other.0);
        assert_eq!(one.1.as_bytes(), other.1.as_bytes());
    }
}

#[test]
fn different_seeds_give_different_traces() {
    let hashes: std::collections::BTreeSet<u64> = (0..5).map(|seed| busy_run(seed).0).collect();
    assert_eq!(hashes.len(), 5);
}

/// Writes block 0 of `f` with `value` in every byte and tells how far it got.
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
            let told = replaced.clone();
            node.kill();
            node.disk().stop_at(node.disk().changes() + point);
            let _running = node.start(0, move |rt| async move {
                rt.replace_small(path, b"new, and longer").await.unwrap();
                told.set(true);
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
    let told = done.clone();
    let _running = node.start(0, move |rt| async move {
        write_block(&rt, OpenMode::Write, 2, true).await;
        told.set(true);
    });
    assert!(!world.run_until(Duration::from_secs(60), || done.get()));
    node.disk().unhang(&world);
    assert!(world.run_until(Duration::from_secs(1), || done.get()));
}

/// A node that counts the bytes it receives on port 1.
fn sink(node: &Node) -> Rc<RefCell<Vec<u8>>> {
    let received = Rc::new(RefCell::new(Vec::new()));
    let (into, addr) = (received.clone(), node.addr(1));
    let _running: Running<()> = node.start(0, move |rt| async move {
        let listener = rt.listen(addr, ListenOptions::default()).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buf = vec![0; 1000];
        while let Ok(n @ 1..) = stream.read(&mut buf).await {
            into.borrow_mut().extend_from_slice(&buf[..n]);
        }
    });
    received
}

#[test]
fn a_stream_stays_in_order_over_a_network_that_does_not() {
    let mut options = Options::default();
    (options.net.loss, options.net.duplicate, options.net.straggle) = (0.1, 0.2, 0.2);
    let world = World::new(11, options);
    let (from, to) = (world.node(0), world.node(1));
    let received = sink(&to);
    let addr = to.addr(1);
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let sending = bytes.clone();
    let sent = from.start(0, move |rt| async move {
        let mut stream = rt.connect(addr).await.unwrap();
        for part in sending.chunks(500) {
            stream.write_all(part).await.unwrap();
        }
    });
    world.block_on(sent).unwrap();
    assert!(world.run_until(Duration::from_secs(60), || received.borrow().len() == bytes.len()));
    assert_eq!(*received.borrow(), bytes);
    let stats = world.net_stats();
    assert!(stats.lost > 10 && stats.duplicated > 10 && stats.reordered > 10, "{stats:?}");
}

#[test]
fn a_cut_link_holds_bytes_back_and_breaks_the_stream_in_the_end() {
    let world = World::new(12, Options::default());
    let (from, to) = (world.node(0), world.node(1));
    let received = sink(&to);
    let addr = to.addr(1);
    let go = Rc::new(Cell::new(0));
    let told = go.clone();
    let failed = from.start(0, move |rt| async move {
        let mut stream = rt.connect(addr).await.unwrap();
        stream.write_all(b"one").await.unwrap();
        told.set(1);
        while told.get() != 2 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        stream.write_all(b"two").await.unwrap();
        stream.read(&mut [0; 1]).await.map_err(|error| error.kind())
    });
    assert!(world.run_until(Duration::from_secs(1), || *received.borrow() == b"one"));
    world.cut_one_way(&from, &to);
    go.set(2);
    world.run_for(Duration::from_secs(1));
    assert_eq!(*received.borrow(), b"one");
    world.join(&from, &to);
    assert!(world.run_until(Duration::from_secs(1), || *received.borrow() == b"onetwo"));
    // The other direction alone: data could flow, acknowledgements cannot, and nothing is waiting for either.
    world.cut_one_way(&to, &from);
    world.run_for(Duration::from_secs(1));
    world.reset(&from, &to);
    assert_eq!(world.block_on(failed), Some(Err(io::ErrorKind::ConnectionReset)));
}

#[test]
fn lost_acknowledgements_break_a_stream_whose_bytes_arrived() {
    let world = World::new(13, Options::default());
    let (from, to) = (world.node(0), world.node(1));
    let received = sink(&to);
    let addr = to.addr(1);
    let connected = Rc::new(Cell::new(false));
    let told = connected.clone();
    let outcome = from.start(0, move |rt| async move {
        let mut stream = rt.connect(addr).await.unwrap();
        told.set(true);
        rt.sleep(Duration::from_millis(10)).await;
        stream.write_all(b"once").await.unwrap();
        stream.read(&mut [0; 1]).await.map_err(|error| error.kind())
    });
    assert!(world.run_until(Duration::from_secs(1), || connected.get()));
    world.cut_one_way(&to, &from);
    assert_eq!(world.block_on(outcome), Some(Err(io::ErrorKind::TimedOut)));
    assert_eq!(*received.borrow(), b"once", "the repetitions are thrown away");
}

#[test]
fn connecting_to_nobody_is_refused_and_to_a_dark_node_times_out() {
    let world = World::new(14, Options::default());
    let (from, to) = (world.node(0), world.node(1));
    let addr = to.addr(9);
    for (dark, kind) in [(false, io::ErrorKind::ConnectionRefused), (true, io::ErrorKind::TimedOut)] {
        if dark {
            to.crash();
        }
        let outcome = from.start(usize::from(dark), move |rt| async move {
            rt.connect(addr).await.map(|_| ()).map_err(|error| error.kind())
        });
        assert_eq!(world.block_on(outcome), Some(Err(kind)));
    }
}

#[test]
fn a_peer_learns_of_a_killed_process_and_not_of_a_power_cut() {
    for (kill, expected) in [(true, Some(Err(io::ErrorKind::ConnectionReset))), (false, None)] {
        let world = World::new(15, Options::default());
        let (from, to) = (world.node(0), world.node(1));
        let _received = sink(&to);
        let addr = to.addr(1);
        let seen = Rc::new(RefCell::new(None));
        let told = seen.clone();
        let _running = from.start(0, move |rt| async move {
            let mut stream = rt.connect(addr).await.unwrap();
            let outcome = stream.read(&mut [0; 1]).await.map_err(|error| error.kind());
            *told.borrow_mut() = Some(outcome);
        });
        world.run_for(Duration::from_millis(10));
        if kill {
            to.kill()
        } else {
            to.crash()
        }
        world.run_for(Duration::from_secs(60));
        assert_eq!(*seen.borrow(), expected);
    }
}

#[test]
fn clocks_drift_jump_and_stand_still_as_told() {
    let world = World::new(16, Options::default());
    let (true_node, fast) = (world.node(0), world.node(1));
    fast.drift(100_000);
    fast.jump_wall(-5_000_000_000);
    let measure = |rt: Rt| async move {
        let began = rt.now();
        for _ in 0..100 {
            rt.sleep(Duration::from_millis(10)).await;
        }
        (rt.now().since(began), rt.wall())
    };
    let both = (true_node.start(0, measure), fast.start(0, measure));
    let (slow_elapsed, slow_wall) = world.block_on(both.0).unwrap();
    let (elapsed, wall) = world.block_on(both.1).unwrap();
    // Each counts one second on its own clock; the fast one gets there sooner.
    assert!(elapsed >= Duration::from_secs(1) && slow_elapsed >= Duration::from_secs(1));
    let apart = slow_wall.saturating_sub(wall);
    assert!(apart > Duration::from_secs(5) && apart < Duration::from_millis(5_120), "{apart:?}");
}

#[test]
fn a_paused_node_does_nothing_and_then_goes_on() {
    let world = World::new(17, Options::default());
    let node = world.node(0);
    let ticks = Rc::new(Cell::new(0));
    let count = ticks.clone();
    let _running: Running<()> = node.start(0, move |rt| async move {
        loop {
            rt.sleep(Duration::from_millis(1)).await;
            count.set(count.get() + 1);
        }
    });
    world.run_for(Duration::from_millis(100));
    let before = ticks.get();
    assert!(before > 50);
    node.pause();
    world.run_for(Duration::from_secs(1));
    assert!(ticks.get() <= before + 1);
    node.resume();
    world.run_for(Duration::from_millis(100));
    assert!(ticks.get() > before + 50);
}

#[test]
fn the_order_of_ready_tasks_is_drawn() {
    let orders: std::collections::BTreeSet<Vec<u32>> = (0..20)
        .map(|seed| {
            run(seed, |rt| async move {
                let order = Rc::new(RefCell::new(Vec::new()));
                let tasks: Vec<_> = (0..3)
                    .map(|n| {
                        let order = order.clone();
                        rt.spawn(async move { order.borrow_mut().push(n) })
                    })
                    .collect();
                for task in tasks {
                    task.await;
                }
                order.take()
            })
        })
        .collect();
    assert!(orders.len() > 3, "{orders:?}");
}

#[test]
#[should_panic(expected = "nothing left to happen")]
fn waiting_for_what_cannot_happen_is_a_failure_and_not_a_hang() {
    run(1, |_| std::future::pending::<()>());
}
