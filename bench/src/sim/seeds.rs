//! Many seeds, each a run of its own, on as many threads as the machine has CPUs.
//!
//! A run ends with a verdict; a panic is one, too, where panics unwind. In a release build, where one ends the process, whoever runs
//! seeds says from a hook which seed it was ([`story::current`] has the rest).

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use store::plant::{Bug, plant};

use super::Tally;
use super::run::Run;
use super::story;
use crate::clock::now;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seeds.
    pub seeds: Range<u64>,
    /// Threads, each with one run at a time; at least one.
    pub threads: usize,
    /// Go on after a seed that fails.
    pub keep_going: bool,
    /// Show a progress bar.
    pub progress: bool,
    /// A bug that the nodes are given, to see whether it is caught.
    pub plant: Option<Bug>,
}

/// A seed that failed.
#[derive(Clone, Debug, Serialize)]
pub struct SeedFailure {
    /// The seed.
    pub seed: u64,
    /// What is wrong.
    pub why: String,
    /// All options of the run and what happened in it.
    pub story: String,
}

/// What all seeds came to.
#[derive(Clone, Debug, Serialize)]
pub struct SimReport {
    /// The first seed.
    pub first_seed: u64,
    /// Seeds that were run.
    pub seeds: u64,
    /// Seeds that failed, lowest first.
    pub failures: Vec<SeedFailure>,
    /// What all that did not fail have been through.
    pub tally: Tally,
    /// How long it took.
    pub elapsed_seconds: f64,
}

/// One seed.
fn run_seed(seed: u64) -> Result<Tally, SeedFailure> {
    let failure = |why, story| SeedFailure { seed, why, story };
    let whole = AssertUnwindSafe(|| {
        let mut run = Run::new(seed);
        run.live().map_err(|why| failure(why, run.story.text()))
    });
    catch_unwind(whole).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Err(failure(format!("a panic ended the run: {text}"), story::current().unwrap_or_default()))
    })
}

/// Runs the seeds.
pub fn run_seeds(options: &Options) -> SimReport {
    let began = now();
    let (next, stop) = (AtomicU64::new(options.seeds.start), AtomicBool::new(false));
    let (said, verdicts) = mpsc::channel();
    let mut report = SimReport {
        first_seed: options.seeds.start,
        seeds: 0,
        failures: Vec::new(),
        tally: Tally::default(),
        elapsed_seconds: 0.0,
    };
    let bar = progress_bar(options);
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            let (said, next, stop) = (said.clone(), &next, &stop);
            scope.spawn(move || {
                plant(options.plant);
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // Whoever takes the verdicts takes them to the end.
                    if seed >= options.seeds.end || said.send(run_seed(seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(said);
        for verdict in verdicts {
            report.seeds += 1;
            match verdict {
                Ok(tally) => report.tally.add(tally),
                Err(failure) => {
                    bar.println(format!("seed {} failed: {}", failure.seed, failure.why));
                    report.failures.push(failure);
                    stop.store(!options.keep_going, Ordering::Relaxed);
                }
            }
            bar.set_message(format!("{} failed", report.failures.len()));
            bar.inc(1);
        }
    });
    bar.finish_and_clear();
    report.failures.sort_by_key(|failure| failure.seed);
    report.elapsed_seconds = began.elapsed().as_secs_f64();
    report
}

fn progress_bar(options: &Options) -> ProgressBar {
    if !options.progress {
        return ProgressBar::hidden();
    }
    let template = "seeds [{wide_bar}] {human_pos}/{human_len}, {msg}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(options.seeds.end.saturating_sub(options.seeds.start))
        .with_style(style.progress_chars("=> "))
        .with_message("0 failed")
}

impl SimReport {
    /// Whether nothing was wrong.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// A text for people: the story of every seed that failed, then the sums.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for SeedFailure { seed: _, why, story } in &self.failures {
            text.push_str(&format!("{story}{why}\n\n"));
        }
        text.push_str(&format!(
            "sim {}: {} seeds from {}, {} failed, {:.0} s\n",
            if self.passed() { "passed" } else { "FAILED" },
            self.seeds,
            self.first_seed,
            self.failures.len(),
            self.elapsed_seconds,
        ));
        let mut tally = self.tally;
        for (name, count) in tally.counts() {
            text.push_str(&format!("  {name:<28} {count}\n"));
        }
        if let Some(SeedFailure { seed, .. }) = self.failures.first() {
            text.push_str(&format!("run one again with: ringkeep bench sim --seed {seed}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a release build, too: there the invariants are asserted because the feature `sim` asks for it.
    #[test]
    fn a_broken_invariant_ends_a_seed_with_its_name() {
        let (seeds, plant) = (0..8, Some(Bug::MarkLost));
        let report = run_seeds(&Options { seeds, threads: 1, keep_going: false, progress: false, plant });
        let why: Vec<&str> = report.failures.iter().map(|failure| failure.why.as_str()).collect();
        // The seed after it may have begun by then.
        assert!(!why.is_empty() && why.iter().all(|why| why.contains("the mark of")), "{why:?}");
    }

    #[test]
    fn a_seed_that_fails_is_shown_with_its_story() {
        let failure = SeedFailure {
            seed: 17,
            why: "the replicas of region 100 differ".to_owned(),
            story: "seed 17: leases of 0ns\n    3.000 s  node 1 is killed\n".to_owned(),
        };
        let report = SimReport {
            first_seed: 0,
            seeds: 20,
            failures: vec![failure],
            tally: Tally { answered: 9, ..Tally::default() },
            elapsed_seconds: 1.0,
        };
        let text = report.table();
        assert!(!report.passed() && text.contains("sim FAILED: 20 seeds from 0, 1 failed"), "{text}");
        assert!(text.contains("  calls answered               9\n"), "{text}");
        assert!(
            text.contains("seed 17: leases of 0ns\n    3.000 s  node 1 is killed\nthe replicas"),
            "{text}"
        );
        assert!(text.ends_with("ringkeep bench sim --seed 17\n"), "{text}");
    }
}
