//! What a node publishes of itself: readiness and metrics read the board, so what changes there must not wait for the next report.

use std::time::Duration;

use bytes::Bytes;
use engine::rt::sim::{Options, World};
use store::config::SyncMethod;
use store::node::CoreWork;
use store::request::Op;

use super::{START_MAX, begin_with, setup};

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
