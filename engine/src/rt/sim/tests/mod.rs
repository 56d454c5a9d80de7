//! What tests of everything else rely on: runs repeat, power cuts lose only what they may, links break as scripted.

mod disk;
mod net;

use std::cell::{Cell, RefCell};
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

#[test]
fn clocks_drift_jump_and_stop_as_scripted() {
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

/// Whoever spawns may rely on neither order: the native world runs what is spawned at once, and others may wait.
#[test]
fn what_is_spawned_runs_before_or_after_its_spawner_goes_on() {
    let mut orders = [0; 2];
    for seed in 0..40 {
        let world = World::new(seed, Options { spawned_at_once: 0.5, ..Options::default() });
        let running = world.node(0).start(0, |rt| async move {
            let ran = Rc::new(Cell::new(false));
            let runs = ran.clone();
            let spawned = rt.spawn(async move { runs.set(true) });
            let at_once = ran.get();
            spawned.await;
            at_once
        });
        orders[usize::from(world.block_on(running).unwrap())] += 1;
    }
    assert!(orders.iter().all(|count| *count >= 10), "later, at once: {orders:?}");
}
