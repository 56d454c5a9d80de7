//! The first start of a node, cut off at every operation that changes the disk: it is finished by the next start, and where the identity
//! is lost afterwards, what the start had made beside it keeps the next one from beginning anew.

use std::path::Path;

use engine::rt::sim::{CrashMode, DiskOptions, Node, Options, World};
use store::config::SyncMethod;
use store::node::Started;

use super::{START_MAX, begin_with, setup_on};

const DIR: &str = "/data";

/// A start of a node with its sync method still to be measured. What came of it; nothing if the power goes before.
fn start(world: &World, node: &Node, power_ends_at: Option<u64>) -> Option<Result<Started, String>> {
    node.kill();
    if let Some(change) = power_ends_at {
        node.disk().stop_at(change);
    }
    let life = begin_with(node, setup_on(SyncMethod::Auto, 2));
    world.run_until(START_MAX, || life.started.borrow().is_some() || node.disk().has_stopped());
    life.started.borrow().clone()
}

/// The names in the data directory; none if it is not there.
fn names(world: &World, node: &Node) -> Vec<String> {
    node.kill();
    let listing = node.start(0, |rt| async move { rt.read_dir(Path::new(DIR)).await });
    world.block_on(listing).expect("the node runs").unwrap_or_default()
}

/// Moves the identity, in a process of its own.
fn move_ident(world: &World, node: &Node, from: &'static str, to: &'static str) {
    node.kill();
    let moved = node.start(0, move |rt| async move {
        rt.rename(Path::new(from), Path::new(to)).await?;
        rt.sync_dir(Path::new(DIR)).await
    });
    world.block_on(moved).expect("the node runs").expect("it is made before anything else");
}

/// Whether the start got to its end before the power went at its changing operation number `point`.
fn cut_at(point: u64, crash: CrashMode) -> bool {
    let options = Options::default();
    let world = World::new(point, Options { disk: DiskOptions { crash, ..options.disk.clone() }, ..options });
    let node = world.node(0);
    let whole = start(&world, &node, Some(point)).is_some_and(|started| started.is_ok());
    node.crash();
    let left = names(&world, &node);
    let first = ["LOCK", "IDENT.tmp"];
    let made_more = left.iter().any(|name| name != "IDENT" && !first.contains(&name.as_str()));
    if made_more {
        move_ident(&world, &node, "/data/IDENT", "/IDENT");
        let said = start(&world, &node, None).expect("it is refused").expect_err("the identity is lost");
        assert!(said.contains("/data/IDENT") && said.contains("it is gone"), "{crash:?} {point}: {said}");
        let beside: Vec<String> = left.iter().filter(|name| *name != "IDENT").cloned().collect();
        assert_eq!(
            names(&world, &node),
            beside,
            "{crash:?} {point}: the refused start has changed something"
        );
        move_ident(&world, &node, "/IDENT", "/data/IDENT");
    }
    let again = start(&world, &node, None).expect("the power stays");
    again.unwrap_or_else(|why| panic!("{crash:?}, cut off at {point} with {left:?}: {why}"));
    whole
}

#[test]
fn a_first_start_that_is_cut_off_anywhere_is_finished_by_the_next() {
    let modes = [CrashMode::Lose, CrashMode::Keep, CrashMode::TearBlocks];
    // A step of the start has several operations, so each step meets each of them.
    let points = (0..).zip(modes.into_iter().cycle()).find(|(point, crash)| cut_at(*point, *crash));
    let (points, _) = points.expect("a start ends");
    assert!(points > 100, "{points} crash points are too few for a start");
}
