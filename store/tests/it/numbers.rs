//! Numbers of the metrics page that only move when a store has much to do or lacks something: its tree under writes and reads, its log
//! under load, a full disk. What is looked at is the page itself. And limits of the configuration file, which the page shows to act.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::log::LogOptions;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::sim::{Node, Options, World};
use store::config::{Layers, Limits, Machine};
use store::gateway::Gateway;
use store::node::core::Stores;
use store::node::{Setup, Started};
use store::request::{Expiry, Op, Out};
use store::wire::board::CoreReport;

use crate::node::open_simulated;
use crate::page::{self, Page, Seen};
use crate::real::{self, ROOT};

const OURS: [&str; 3] = ["ringkeep_lsm_", "ringkeep_log_", "ringkeep_store_"];
const VALUE_BYTES: usize = 2000;

fn key(n: u64) -> Bytes {
    Bytes::from(format!("{}{n:04}", (b'0' + (n % 40) as u8) as char))
}

fn put(n: u64) -> Op {
    Op::Put { key: key(n), value: vec![b'v'; VALUE_BYTES].into() }
}

fn page_of(stores: &Stores) -> Page {
    let stores = stores.shards.values().map(|shard| shard.snapshot()).collect();
    page::page(&[CoreReport { stores, ..CoreReport::default() }], &OURS)
}

/// Looks at the page while `work` is done: often at first, when a queue is short-lived, and seldom while compactions take their time.
async fn look<T>(rt: &Rt, seen: &Rc<RefCell<Seen>>, stores: &Rc<Stores>, work: impl Future<Output = T>) -> T {
    let ended = Rc::new(Cell::new(false));
    let last = (seen.clone(), stores.clone());
    let (looks, over, seen, stores) = (rt.clone(), ended.clone(), seen.clone(), stores.clone());
    let looking = rt.spawn(async move {
        let mut looked = 0;
        while !over.get() {
            seen.borrow_mut().look(page_of(&stores));
            looked += 1;
            // Not in step with those who write each millisecond.
            looks.sleep(Duration::from_micros(if looked < 15_000 { 730 } else { 100_000 })).await;
        }
    });
    let done = work.await;
    ended.set(true);
    looking.await;
    last.0.borrow_mut().look(page_of(&last.1));
    done
}

/// Small memtables, and compactions that are slower than the writers, so that these are slowed down and stopped.
fn busy_tree() -> TreeOptions {
    TreeOptions {
        memtable_bytes: 32 << 10,
        cache_bytes: 8 << 20,
        compress: false,
        l0_tables: 1,
        compaction_bytes_per_second: Some(1 << 20),
        expired_kept: Duration::ZERO,
        ..TreeOptions::default()
    }
}

#[test]
fn numbers_of_a_tree_and_its_log_move_under_writes_and_reads() {
    let seen = Rc::new(RefCell::new(Seen::default()));
    // How long a queue is when it is looked at is a matter of luck.
    for seed in [131, 137, 139] {
        let world = World::new(seed, Options::default());
        let node = world.node(0);
        let (shown, disk) = (seen.clone(), node.clone());
        let running = node.start(0, move |rt| async move {
            let log = LogOptions { segment_bytes: 4 << 20, ..LogOptions::default() };
            let open = open_simulated(&rt, |plan| (plan.shard.log, plan.shard.tree) = (log, busy_tree()));
            let (stores, gateway) = open.await;
            let stores = Rc::new(stores);
            look(&rt, &shown, &stores, async {
                for round in 0..5 {
                    // The first ones come one by one, and for so long that the log is cut meanwhile: that waits in its queue.
                    disk.disk().slow(if round == 0 { 100 } else { 1 });
                    let mut writes = Vec::new();
                    for n in 0..if round == 0 { 1500 } else { 300 } {
                        writes.push(gateway.submit(None, put(n)));
                        if round == 0 {
                            rt.sleep(Duration::from_millis(1)).await;
                        }
                    }
                    for write in writes {
                        write.await.unwrap();
                    }
                    // What has expired when it is flushed is dropped.
                    let puts = (0..20).map(|n| (key(2000 + n), Bytes::new(), Expiry::After(1))).collect();
                    gateway.submit(None, Op::PutTimed { puts }).await.unwrap();
                    // Of a key that only the first round has written: what deletes it is kept until that is merged away.
                    let (start, end) = (key(1400), Bytes::from([&key(1400)[..], b"~"].concat()));
                    gateway.submit(None, Op::DeleteRange { start, end }).await.unwrap();
                }
                rt.sleep(Duration::from_secs(5)).await;
                for n in (0..300).chain(0..300) {
                    let found = gateway.submit(None, Op::Get { key: key(n) }).await;
                    assert!(matches!(found, Ok(Out::Value(Some(_)))), "{found:?}");
                }
            })
            .await;
        });
        world.block_on(running).unwrap();
    }
    let seen = seen.borrow();
    let elsewhere = BTreeSet::from([
        // A full disk, a shortage, damage and a cut log, each in a test of its own.
        "ringkeep_log_cut_bytes",
        "ringkeep_log_cut_entries",
        "ringkeep_log_disk_full",
        "ringkeep_log_in_doubt",
        "ringkeep_log_waits",
        "ringkeep_lsm_disk_full",
        "ringkeep_lsm_waits",
        "ringkeep_store_damaged",
        "ringkeep_store_incomplete_replicas",
        // What the process logs.
        "ringkeep_log_lines_dropped_total",
        "ringkeep_log_lines_suppressed_total",
        "ringkeep_store_reads_abandoned_total",
        "ringkeep_store_refuses_writes",
        "ringkeep_store_stopped",
        // Nothing is refused here. What a cluster does, and scans.
        "ringkeep_store_refused_total",
        "ringkeep_store_down_peers",
        "ringkeep_store_pending_peers",
        "ringkeep_store_regions_without_leader",
        "ringkeep_store_replica_reads_total",
        "ringkeep_store_replicas_asleep",
        "ringkeep_store_scans_total",
    ]);
    assert_eq!(seen.still(), elsewhere);
}

/// Writes until the disk has been full for a while, and on until space that has come back is used. What the page had when it was full.
async fn fill_and_free(rt: &Rt, node: &Node, stores: &Rc<Stores>, gateway: &Gateway) -> Page {
    let mut n = 0;
    let mut writes_for = async |time: Duration| {
        let until = rt.now() + time;
        let mut full = Seen::default();
        while rt.now() < until {
            // Refused, or waiting for space: it is the page that is looked at.
            drop(gateway.submit(None, put(n % 300)));
            n += 1;
            rt.sleep(Duration::from_millis(20)).await;
            full.look(page_of(stores));
        }
        full.0
    };
    let full = writes_for(Duration::from_secs(20)).await;
    for shard in stores.shards.values() {
        let problem = shard.snapshot().problem(rt.now());
        assert!(problem.as_ref().is_some_and(|problem| problem.contains("space")), "not ready: {problem:?}");
    }
    node.disk().set_capacity(u64::MAX);
    writes_for(Duration::from_secs(20)).await;
    full
}

#[test]
fn numbers_of_a_full_disk_rise_and_fall_with_it() {
    const FULL: [&str; 3] =
        ["ringkeep_log_disk_full", "ringkeep_lsm_disk_full", "ringkeep_store_refuses_writes"];
    let mut risen = BTreeSet::new();
    for (seed, room) in [(132, 0), (133, 300 << 10)] {
        let world = World::new(seed, Options::default());
        let node = world.node(0);
        let disk = node.clone();
        let running = node.start(0, move |rt| async move {
            let log = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
            let tree = TreeOptions { memtable_bytes: 16 << 10, ..TreeOptions::default() };
            let open = open_simulated(&rt, |plan| {
                (plan.shard.log, plan.shard.tree) = (log, tree);
                plan.shard.limits.segment_bytes = 64 << 10;
            });
            let (stores, gateway) = open.await;
            let stores = Rc::new(stores);
            rt.sleep(Duration::from_secs(3)).await;
            disk.disk().leave(room);
            let full = fill_and_free(&rt, &disk, &stores, &gateway).await;
            let after = page_of(&stores);
            for shard in stores.shards.values() {
                assert_eq!(shard.snapshot().problem(rt.now()), None, "it is ready again");
            }
            FULL.map(|name| (name, page::sum(&full, name, ""), page::sum(&after, name, "")))
        });
        for (name, full, after) in world.block_on(running).unwrap() {
            assert_eq!(after, 0.0, "{name} falls when there is space");
            if full > 0.0 {
                risen.insert(name);
            }
        }
    }
    assert_eq!(risen, BTreeSet::from(FULL));
}

/// A node whose configuration is that of [`real::setup`] with what this file says.
fn configured(text: &str) -> Setup {
    let mut layers = Layers::new();
    layers.add_file("ringkeep.toml", text).unwrap();
    let from_file = layers.build().unwrap();
    let mut setup = real::setup(Path::new("/data"));
    setup.config.lsm = from_file.lsm;
    setup.config.limits = from_file.limits;
    let machine = Machine { cores: 1, memory_bytes: 1 << 30, open_files: 4096 };
    let derived = Limits::derive(&setup.config, machine).unwrap();
    let memtable_bytes = setup.limits.memtable_bytes;
    setup.limits = Limits { memtable_bytes, ..derived };
    setup
}

/// Starts a node with this configuration file, has `work` done with it, and returns the highest `name` that the page had meanwhile.
fn highest<W: Future<Output = ()>>(
    text: &'static str,
    name: &'static str,
    work: impl FnOnce(Rt, Node, Gateway, Started) -> W + 'static,
) -> f64 {
    let world = World::new(134, Options::default());
    let node = world.node(0);
    let disk = node.clone();
    let running = node.start(ROOT, move |rt| async move {
        let real = real::start(&rt, configured(text)).await.unwrap();
        work(rt.clone(), disk, real.gateway.clone(), real.started.clone()).await;
        // The board is written once a second.
        let mut highest = 0f64;
        for _ in 0..30 {
            rt.sleep(Duration::from_millis(100)).await;
            highest = highest.max(page::of(&real.started.board.read(), name));
        }
        highest
    });
    world.block_on(running).unwrap()
}

#[test]
fn the_block_cache_of_the_configuration_bounds_what_is_kept_of_tables() {
    let kept = |text| {
        highest(text, "ringkeep_lsm_cache_bytes", |rt, _, gateway, _| async move {
            for n in 0..600 {
                gateway.submit(None, put(n)).await.unwrap();
            }
            rt.sleep(Duration::from_secs(5)).await;
            for n in 0..600 {
                gateway.submit(None, Op::Get { key: key(n) }).await.unwrap();
            }
        })
    };
    let (small, large) =
        (kept("lsm.block_cache_bytes = \"256KiB\""), kept("lsm.block_cache_bytes = \"64MiB\""));
    assert!(small > 0.0 && small <= f64::from(256 << 10), "{small} bytes are kept");
    assert!(large > f64::from(512 << 10), "{large} bytes are kept where there is room");
}
