//! Random schedules with every fault at once, and the proof that they would find mistakes.
//!
//! `RINGKEEP_SEEDS=20000 cargo test -p ringkeep-raft --release --test it random` runs that many seeds;
//! `RINGKEEP_SEED=7` runs one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sim::{Coverage, Options, run};

const SEEDS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one seed; an assertion inside the crate is a finding like any other.
fn attempt(options: &Options) -> Result<(Coverage, u64), String> {
    catch_unwind(AssertUnwindSafe(|| run(options))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

#[test]
fn random_schedules_are_safe_and_live() {
    let seeds = match number("RINGKEEP_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGKEEP_SEEDS").unwrap_or(SEEDS),
    };
    let many = seeds.end - seeds.start >= SEEDS;
    let mut total = Coverage::default();
    for seed in seeds {
        let options = Options::from_seed(seed);
        match attempt(&options) {
            Ok((coverage, _)) => total.add(&coverage),
            Err(text) => panic!("seed {seed}: {text}\nreplay: RINGKEEP_SEED={seed}\n{options:#?}"),
        }
    }
    if many {
        let idle: Vec<_> = total.each().into_iter().filter(|(_, count)| *count == 0).collect();
        assert!(idle.is_empty(), "paths never taken: {idle:?}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..10 {
        let options = Options::from_seed(seed);
        let (first, second) = (run(&options), run(&options));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.is_ok());
    }
}
