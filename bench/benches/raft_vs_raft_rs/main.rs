//! The Raft core beside the `raft` crate (raft-rs 0.7), in one run:
//!
//! `cargo bench -p ringkeep-bench --features peers-raft-rs --bench raft_vs_raft_rs`
//!
//! Both sides get the same work: a group of three whose disks and network are memory, pre-vote and check-quorum on,
//! 64-byte commands, the log cut every ten thousand entries; then 100,000 replicas that lead idle groups of three.
//! Rounds are interleaved, and what is compared is the ratio within a round, so that a slow moment of the machine hits
//! both. Memory is the matter of `memory.rs`.

#[expect(dead_code, reason = "the measurement of memory uses the rest")]
mod ours;
mod theirs;

use std::time::Instant;

const ROUNDS: usize = 7;
const GROUPS: u64 = 100_000;

/// Seconds that some work takes.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// What several rounds gave.
struct Rounds(Vec<f64>);

impl Rounds {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    fn range(&self) -> String {
        format!("{:.2} to {:.2}", self.0[0], self.0[self.0.len() - 1])
    }
}

fn ratios(over: &[f64], under: &[f64]) -> Rounds {
    Rounds::of(over.iter().zip(under).map(|(over, under)| over / under))
}

#[expect(clippy::print_stdout, reason = "a benchmark reports")]
fn proposals(batch: usize, total: usize) {
    let payload = [7_u8; 64];
    let (mut ours, mut theirs) = (ours::Group::new(), theirs::Group::new());
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (before_ours, before_theirs) = (ours.applied(), theirs.applied());
        let our_time = time(|| (0..total / batch).for_each(|_| ours.propose(batch, &payload)));
        let their_time = time(|| (0..total / batch).for_each(|_| theirs.propose(batch, &payload)));
        let done = (total / batch * batch) as u64;
        assert_eq!((ours.applied() - before_ours, theirs.applied() - before_theirs), (done, done));
        // The first round warms up.
        if round > 0 {
            our_times.push(our_time);
            their_times.push(their_time);
        }
    }
    let ratio = ratios(&their_times, &our_times);
    let rate = |times: Vec<f64>| Rounds::of(times.into_iter().map(|time| total as f64 / time)).median();
    println!(
        "proposals/s through 3 nodes, batch {batch:>2}: ringkeep {:>9.0}, raft-rs {:>9.0}; ratio {:.2} ({})",
        rate(our_times),
        rate(their_times),
        ratio.median(),
        ratio.range(),
    );
}

#[expect(clippy::print_stdout, reason = "a benchmark reports")]
fn idle() {
    let mut quiet = ours::Idle::new(GROUPS, true);
    let mut awake = ours::Idle::new(GROUPS, false);
    let mut theirs = theirs::Idle::new(GROUPS);
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        // Two intervals each, so that every group has sent its heartbeats once.
        times[0].push(time(|| (0..2).for_each(|_| quiet.tick())) / 2.0);
        times[1].push(time(|| (0..2).for_each(|_| awake.tick())) / 2.0);
        times[2].push(time(|| (0..2).for_each(|_| theirs.tick())) / 2.0);
    }
    let [quiet, awake, theirs] = &times;
    let ms = |times: &[f64]| 1e3 * Rounds::of(times.iter().copied()).median();
    println!(
        "ms per tick interval of {GROUPS} idle groups: ringkeep asleep {:.3}, awake {:.1}, raft-rs {:.1}; raft-rs/asleep {:.0}, raft-rs/awake {:.2}",
        ms(quiet),
        ms(awake),
        ms(theirs),
        ratios(theirs, quiet).median(),
        ratios(theirs, awake).median(),
    );
}

fn main() {
    proposals(1, 100_000);
    proposals(64, 640_000);
    idle();
}
