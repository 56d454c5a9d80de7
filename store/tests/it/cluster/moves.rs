//! Regions that move from one store of a node to the other and back, among all else that befalls a cluster.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bench::sim::Tally;
use store::plant::{self, Bug};

use super::Run;
use crate::whole_node::seeds;

fn live(seed: u64) -> Result<Tally, String> {
    Run::on_stores(seed, 2).live()
}

#[test]
fn regions_move_inside_nodes_whatever_befalls_these() {
    let seeds = seeds(8);
    let count = seeds.end - seeds.start;
    let mut all = Tally::default();
    for seed in seeds {
        all.add(live(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}")));
    }
    assert!(2 * all.relocations >= count && all.compared > 0 && all.snapshots > 0, "{all:?}");
}

#[test]
fn a_seed_of_nodes_with_two_stores_is_the_same_run_again() {
    let run = |seed: u64| {
        let mut run = Run::on_stores(seed, 2);
        let tally = run.live().expect("nothing is wrong with it");
        (tally, run.world.hash(), run.world.events(), run.story.text())
    };
    assert_eq!(run(3), run(3));
}

/// Within how many seeds a planted bug is caught. None of these seeds finds anything by itself.
const CAUGHT_WITHIN: u64 = 10;

#[test]
fn bugs_of_moves_inside_nodes_are_caught() {
    for bug in Bug::MOVES {
        plant::plant(Some(bug));
        let fails = |seed: u64| {
            catch_unwind(AssertUnwindSafe(|| live(seed))).map_or(true, |verdict| verdict.is_err())
        };
        let caught = (0..CAUGHT_WITHIN).any(fails);
        plant::plant(None);
        assert!(caught, "{bug:?} went unnoticed");
    }
}
