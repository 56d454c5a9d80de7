//! Bounds that only several cores meet: room for answers on two of them, and a drain of which one core takes no notice.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use engine::rt::sim::{Options, World};
use store::config::SyncMethod;
use store::memory::{MemoryLimits, WAIT_MAX};
use store::node::identity::Identity;
use store::node::{CoreWork, NodeRequest, Setup, bootstrap};
use store::refusal::Refusal;
use store::request::{Op, Out, Scan};

use super::{Life, START_MAX, begin_with, setup};

/// A value of which three fit into the memory for answers of its core.
const VALUE_BYTES: usize = 3 << 20;
/// The cores begin to read when this divides their clock, nanoseconds.
const TOGETHER: u64 = 10_000_000;
/// Reads that each core begins at once.
const READS: usize = 8;

/// The first keys of two regions that lie side by side, the first one on the first core and the other one on the second.
fn keys() -> [Bytes; 2] {
    let regions = bootstrap::regions(&Identity { cluster: 1, node: 1, stores: 2, first_store: 1 });
    let start = |place: usize| Bytes::copy_from_slice(regions[place].range.start());
    [start(2), start(3)]
}

/// Reads of one key per core, in the order of the keys or in the other.
fn reads(core: usize) -> [Op; 2] {
    let mut keys = keys().to_vec();
    let (start, end) = (keys[0].clone(), [&keys[1][..], b"!"].concat().into());
    let scan = Scan { start, end, limit: 2, reverse: core > 0, ..Scan::default() };
    if core > 0 {
        keys.reverse();
    }
    [Op::BatchGet { keys, at_once: false }, Op::Scan(scan)]
}

/// Each core has the room of half of all reads, and begins with its own key. If whoever holds room for one key waited for room for the
/// other, none would get on.
#[test]
fn reads_over_two_cores_do_not_wait_for_each_other() {
    for form in 0..2 {
        let world = World::new(91, Options::default());
        let (written, answered, busy) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let counts = (answered.clone(), busy.clone());
        let work = CoreWork::new(move |rt, gateway| {
            let (written, answered, busy) = (written.clone(), answered.clone(), busy.clone());
            Box::pin(async move {
                let core = rt.core();
                let key = keys()[core].clone();
                assert_eq!(gateway.get_now(&key), Some(Ok(Out::Value(None))), "the key lies on this core");
                let put = Op::Put { key, value: vec![7; VALUE_BYTES].into() };
                gateway.submit(None, put).await.expect("a write");
                written.fetch_add(1, SeqCst);
                while written.load(SeqCst) < 2 {
                    rt.sleep(Duration::from_millis(1)).await;
                }
                // At the same moment on both, so that each has its own key's room before the other asks for it.
                let left = TOGETHER - rt.now().0 % TOGETHER;
                rt.sleep(Duration::from_nanos(left)).await;
                for _ in 0..READS {
                    let read = gateway.submit(None, reads(core)[form].clone());
                    let (answered, busy) = (answered.clone(), busy.clone());
                    rt.spawn(async move {
                        match read.await {
                            Ok(Out::Values(values)) => assert_eq!(values.iter().flatten().count(), 2),
                            Ok(Out::Pairs(pairs)) => assert_eq!(pairs.len(), 2),
                            Err(Refusal::Busy { .. }) => drop(busy.fetch_add(1, SeqCst)),
                            other => panic!("{other:?}"),
                        }
                        answered.fetch_add(1, SeqCst);
                    });
                }
            })
        });
        let mut setup = Setup { work: Some(work), ..setup(SyncMethod::Dsync) };
        setup.limits.memory = MemoryLimits { input_bytes: 64 << 20, output_bytes: 16 << 20 };
        let life = begin_with(&world.node(0), setup);
        assert!(world.run_until(START_MAX, || life.started.borrow().is_some()));
        let (answered, busy) = counts;
        assert!(world.run_until(10 * WAIT_MAX, || answered.load(SeqCst) == 2 * READS), "form {form}");
        assert_eq!(busy.load(SeqCst), 0, "form {form}: reads waited for each other");
    }
}

/// Whether the node has ended after this long at most.
fn ends(world: &World, life: &mut Life, most: Duration) -> bool {
    let (mut cx, ended) = (Context::from_waker(Waker::noop()), Cell::new(false));
    let Life { root, started: _, requests: _ } = life;
    world.run_until(most, || {
        ended.set(ended.get() || Pin::new(&mut *root).poll(&mut cx).is_ready());
        ended.get()
    })
}

#[test]
fn a_drain_ends_in_time_whatever_the_disk_does() {
    const DEADLINE: Duration = Duration::from_secs(5);
    let world = World::new(92, Options::default());
    let node = world.node(0);
    let writes = CoreWork::new(|rt, gateway| {
        Box::pin(async move {
            for n in 0u64.. {
                let key = Bytes::from(format!("{}", n % 10));
                // It is not answered before the disk is.
                rt.spawn(gateway.submit(None, Op::Put { key, value: Bytes::from_static(b"v") }));
                rt.sleep(Duration::from_millis(100)).await;
            }
        })
    });
    let mut life = begin_with(&node, Setup { work: Some(writes), ..setup(SyncMethod::Dsync) });
    assert!(world.run_until(START_MAX, || life.started.borrow().is_some()));
    world.run_for(Duration::from_millis(500));
    node.disk().hang();
    world.run_for(Duration::from_millis(500));
    life.requests.try_send(NodeRequest::Drain(DEADLINE)).expect("the root core takes it");
    assert!(!ends(&world, &mut life, DEADLINE / 2), "the disk was not waited for: the test does not test");
    // A core may take a second longer than its deadline, in each of two phases, and to end.
    let late = Duration::from_secs(3);
    assert!(ends(&world, &mut life, DEADLINE / 2 + late), "the drain waits for the disk");
}
