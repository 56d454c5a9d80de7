//! Regions that are taken in by their neighbours, among all else that befalls a cluster.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bench::sim::Tally;
use store::plant::{self, Bug};

use super::Run;
use crate::whole_node::seeds;

fn live(seed: u64) -> Result<Tally, String> {
    Run::merging(seed).live()
}

#[test]
fn regions_are_merged_whatever_befalls_the_nodes() {
    let seeds = seeds(12);
    let count = seeds.end - seeds.start;
    let mut all = Tally::default();
    for seed in seeds {
        all.add(live(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}")));
    }
    assert!(all.merges_begun >= count && all.merged > 0 && all.splits > 0 && all.compared > 0, "{all:?}");
}

/// Within how many seeds a planted bug is caught. None of these seeds finds anything by itself.
const CAUGHT_WITHIN: u64 = 60;

#[test]
fn bugs_of_merges_are_caught() {
    // A script of regions shows the one that takes a lagging store at its word.
    for bug in Bug::MERGE.into_iter().filter(|bug| *bug != Bug::RolledBackBlindly) {
        plant::plant(Some(bug));
        let fails = |seed: u64| {
            catch_unwind(AssertUnwindSafe(|| live(seed))).map_or(true, |verdict| verdict.is_err())
        };
        let caught = (0..CAUGHT_WITHIN).any(fails);
        plant::plant(None);
        assert!(caught, "{bug:?} went unnoticed");
    }
}
