//! A core that one task holds, as the metrics page has it: while it is held, although the core posts nothing then, and afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use store::config::{Config, Limits, Machine};
use store::node::{CoreWork, Node, Setup};
use store::publish::NodeFacts;

use crate::page::{self, Page};

const STILL: &str = "ringkeep_core_still_seconds";
const STALLS: &str = "ringkeep_core_stalls_total";

/// What the page says of how the cores move.
fn page(node: &Node) -> Page {
    let movement = node.movement();
    let facts =
        NodeFacts { core_still: movement.still(), core_stalls: movement.stalls(), ..NodeFacts::default() };
    page::page_with(&node.board().read(), &facts, &["ringkeep_core_"])
}

/// The page once `holds` of it.
fn page_when(node: &Node, holds: impl Fn(&Page) -> bool) -> Page {
    loop {
        let page = page(node);
        if holds(&page) {
            return page;
        }
        bench::clock::pause(Duration::from_millis(20));
    }
}

#[test]
fn a_core_that_one_task_holds_is_on_the_page_while_it_is_held_and_afterwards() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = Config {
        data_dir: dir.path().to_owned(),
        base_port: 0,
        resp_port: 0,
        status_port: 0,
        ..Config::default()
    };
    let machine = Machine { cores: 1, memory_bytes: 1 << 30, open_files: 4096 };
    let limits = Limits::derive(&config, machine).unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (may_hold, released) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Some(released))));
    let wanted = may_hold.clone();
    let work = CoreWork::new(move |rt, _| {
        let (wanted, released) =
            (wanted.clone(), released.lock().unwrap().take().expect("there is one core"));
        Box::pin(async move {
            while !wanted.load(Ordering::Acquire) {
                rt.sleep(Duration::from_millis(10)).await;
            }
            // As a loop without a pause does, it keeps the core from everything else.
            released.recv().expect("the test ends it");
        })
    });
    let node =
        Node::start_with(Setup { config, limits, cpus: Vec::new(), work: Some(work), join: Vec::new() })
            .unwrap();
    let of_core = |page: &Page, name: &str, core: usize| page::sum(page, name, &format!("core=\"{core}\""));
    let before = page_when(&node, |page| of_core(page, STILL, 0) < 0.5);
    may_hold.store(true, Ordering::Release);
    let held = page_when(&node, |page| of_core(page, STILL, 0) > 1.0);
    assert!(of_core(&held, STALLS, 0) > of_core(&before, STALLS, 0), "{held:?}");
    assert!(of_core(&held, STILL, 1) < of_core(&held, STILL, 0), "the other core moves: {held:?}");
    release.send(()).unwrap();
    let after = page_when(&node, |page| of_core(page, STILL, 0) < 0.5);
    assert!(of_core(&after, STALLS, 0) >= of_core(&held, STALLS, 0), "a counter only grows: {after:?}");
    node.drain(Duration::from_secs(60));
}
