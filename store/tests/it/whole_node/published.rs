//! What a node publishes of itself: readiness and metrics read the board, so what changes there must not wait for the next report; each
//! bound is on the page beside what it bounds; and a start says what it found.

use std::time::Duration;

use bytes::Bytes;
use engine::rt::sim::{Options, World};
use store::config::SyncMethod;
use store::node::CoreWork;
use store::request::Op;

use super::{START_MAX, begin_with, setup};
use crate::logged::{Lines, number};
use crate::page::{self, page, sum};

/// A report comes once a second. A store that has just stopped is on the board long before the next one.
#[test]
fn a_change_of_health_is_published_at_once() {
    let world = World::new(81, Options::default());
    let node = world.node(0);
    let writes = CoreWork::new(|rt, gateway| {
        Box::pin(async move {
            for n in 0u64.. {
                let key = Bytes::from(format!("{}", n % 10));
                // Whatever comes of it: in the end the store of the key has stopped.
                drop(gateway.submit(None, Op::Put { key, value: Bytes::from_static(b"v") }).await);
                rt.sleep(Duration::from_millis(1)).await;
            }
        })
    });
    let life = begin_with(&node, store::node::Setup { work: Some(writes), ..setup(SyncMethod::Dsync) });
    assert!(world.run_until(START_MAX, || life.started.borrow().is_some()));
    let board = life.started.borrow().clone().expect("it was said").expect("it starts").board;
    let failed = || board.read().iter().flat_map(|core| &core.stores).filter(|it| it.health.failed).count();
    assert_eq!(failed(), 0);
    node.disk().fail_next_write("store-1/log");
    world.run_for(Duration::from_millis(200));
    assert_eq!(failed(), 1, "the board has what was reported before the store stopped");
}

/// The work of core 0; the other one has none.
fn on_first_core<F: Future<Output = ()> + 'static>(
    work: impl Fn(engine::rt::Rt, store::gateway::Gateway) -> F + Send + Sync + 'static,
) -> CoreWork {
    CoreWork::new(move |rt, gateway| {
        let first = (rt.core() == 0).then(|| work(rt, gateway));
        Box::pin(async move {
            if let Some(first) = first {
                first.await;
            }
        })
    })
}

/// What one may take of a pool, and what it takes here: as many mebibytes as its place.
const POOLS: [&str; 5] = ["input", "output", "peers", "items", "reading"];

#[test]
fn every_bound_of_a_core_is_on_the_page_beside_its_use() {
    let world = World::new(82, Options::default());
    let node = world.node(0);
    let work = on_first_core(|rt, gateway| async move {
        let memory = gateway.memory();
        let pools = [&memory.input, &memory.output, &memory.peers, &memory.items, &memory.reading];
        let held: Vec<_> = pools.iter().zip(1..).map(|(pool, at)| pool.charge(at << 20)).collect();
        rt.sleep(Duration::from_secs(3600)).await;
        drop(held);
    });
    let setup = store::node::Setup { work: Some(work), ..setup(SyncMethod::Dsync) };
    let limits = setup.limits;
    let life = begin_with(&node, setup);
    assert!(world.run_until(START_MAX, || life.started.borrow().is_some()));
    let board = life.started.borrow().clone().expect("it was said").expect("it starts").board;
    world.run_for(Duration::from_secs(3));
    let names =
        ["ringkeep_memory_pool", "ringkeep_grpc_calls", "ringkeep_store_inflight", "ringkeep_lsm_open"];
    let seen = page(&board.read(), &names);
    let (input, output) = (limits.memory.input_bytes as f64, limits.memory.output_bytes as f64);
    let bounds = [input, output, input / 4.0, input, output / 2.0];
    for ((pool, bound), at) in POOLS.into_iter().zip(bounds).zip(1..) {
        for (core, used) in [(0, f64::from(at << 20)), (1, 0.0)] {
            let labels = format!("core=\"{core}\",pool=\"{pool}\"");
            assert_eq!(sum(&seen, "ringkeep_memory_pool_bytes", &labels), used, "{labels} {seen:#?}");
            assert_eq!(sum(&seen, "ringkeep_memory_pool_max_bytes", &labels), bound, "{labels} {seen:#?}");
        }
    }
    for core in ["core=\"0\"", "core=\"1\""] {
        let inflight = sum(&seen, "ringkeep_store_inflight_max_bytes", core);
        assert_eq!(inflight, limits.inflight_bytes as f64, "{seen:#?}");
        assert_eq!(sum(&seen, "ringkeep_lsm_open_tables_max", core), 256.0, "{seen:#?}");
        let calls = sum(&seen, "ringkeep_grpc_calls_running_max", core);
        assert_eq!(calls, (input / 4096.0).min(16_384.0), "{seen:#?}");
    }
}

#[test]
fn a_start_says_what_it_has_applied_and_how_long_that_took_and_a_drain_that_stores_close() {
    let lines = Lines::of(|lines| {
        let world = World::new(83, Options::default());
        let node = world.node(0);
        let writes = on_first_core(|_, gateway| async move {
            for n in 0..80 {
                let (key, value) = (Bytes::from(format!("{}", n % 10)), Bytes::from_static(b"v"));
                gateway.submit(None, Op::Put { key, value }).await.expect("it serves");
            }
        });
        let life = begin_with(&node, store::node::Setup { work: Some(writes), ..setup(SyncMethod::Dsync) });
        assert!(world.run_until(START_MAX, || life.started.borrow().is_some()));
        world.run_for(Duration::from_secs(2));
        node.kill();
        let before = lines.with("store opened").len();
        let life = begin_with(&node, setup(SyncMethod::Dsync));
        assert!(world.run_until(START_MAX, || life.started.borrow().is_some()));
        let opened = lines.with("store opened").split_off(before);
        life.requests
            .try_send(store::node::NodeRequest::Drain(Duration::from_secs(60)))
            .expect("it is taken");
        world.run_for(Duration::from_secs(5));
        (opened, lines.with("the store closes"))
    });
    let (opened, closed) = lines;
    assert_eq!((opened.len(), closed.len()), (2, 2), "{opened:#?} {closed:#?}");
    for store in [1, 2] {
        let of = |line: &&String| number(line, "store") == store;
        assert!(opened.iter().any(|line| of(&line)), "{opened:#?}");
        assert!(closed.iter().any(|line| of(&line)), "{closed:#?}");
    }
    assert!(opened.iter().map(|line| number(line, "replayed_entries")).sum::<u64>() >= 80, "{opened:#?}");
    assert!(opened.iter().all(|line| line.contains(" took_ms=")), "{opened:#?}");
}

/// Both cores ask for keys of both, and their disk hangs.
#[test]
fn operations_that_wait_on_another_core_are_on_the_page() {
    let world = World::new(82, Options::default());
    let node = world.node(0);
    let writes = CoreWork::new(|rt, gateway| {
        Box::pin(async move {
            rt.sleep(Duration::from_secs(3)).await;
            for n in 0..75 {
                let key = Bytes::from(vec![b'0' + n]);
                let put = gateway.submit(None, Op::Put { key, value: Bytes::from_static(b"v") });
                rt.spawn(async move { put.await.expect("it is written in the end") });
            }
        })
    });
    let life = begin_with(&node, store::node::Setup { work: Some(writes), ..setup(SyncMethod::Dsync) });
    assert!(world.run_until(START_MAX, || life.started.borrow().is_some()));
    let started = life.started.borrow().clone().expect("it was said").expect("it starts");
    let forwarded = || page::of(&started.board.read(), "ringkeep_forwarded_operations");
    assert_eq!(forwarded(), 0.0);
    node.disk().hang();
    world.run_for(Duration::from_secs(5));
    assert!(forwarded() > 10.0, "{} operations wait on another core", forwarded());
    node.disk().unhang(&world);
    world.run_for(Duration::from_secs(5));
    assert_eq!(forwarded(), 0.0);
}
