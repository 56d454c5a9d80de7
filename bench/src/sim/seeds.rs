//! Many seeds, each a run of its own, on as many threads as the machine has CPUs.
//!
//! A run ends with a verdict; a panic is one, too, where panics unwind. In a release build, where one ends the process, whoever runs
//! seeds says from a hook which seed it was ([`story::current`] has the rest). Whoever is stopped has the verdicts so far; the runs
//! that go on at that moment have none.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use store::plant::{Bug, plant};

use super::Tally;
use super::run::Run;
use super::story;
use crate::clock::now;

/// Time between two lines about how far the seeds are.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seeds.
    pub seeds: Range<u64>,
    /// Threads, each with one run at a time; at least one.
    pub threads: usize,
    /// Go on after a seed that fails.
    pub keep_going: bool,
    /// Say how far the seeds are: a bar on a terminal, else lines.
    pub progress: bool,
    /// Stops all seeds once it is set.
    pub stop: Arc<AtomicBool>,
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
    /// Seeds that were asked for.
    pub asked: u64,
    /// Seeds that have a verdict.
    pub seeds: u64,
    /// Whether it was stopped from outside before all had one.
    pub stopped: bool,
    /// Seeds that failed, lowest first.
    pub failures: Vec<SeedFailure>,
    /// What all that did not fail have been through.
    pub tally: Tally,
    /// How long it took.
    pub elapsed_seconds: f64,
}

/// One seed; nothing if it was stopped before it had a verdict.
fn run_seed(seed: u64, stop: &Arc<AtomicBool>) -> Option<Result<Tally, SeedFailure>> {
    let failure = |why, story| SeedFailure { seed, why, story };
    let whole = AssertUnwindSafe(|| {
        // In one seed of four, whose draws are otherwise those of a run without.
        let mut run = if seed % 4 == 3 { Run::merging(seed) } else { Run::new(seed) };
        run.stop = stop.clone();
        let outcome = run.live();
        (!run.was_stopped).then(|| outcome.map_err(|why| failure(why, run.story.text())))
    });
    catch_unwind(whole).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        let story = story::current().unwrap_or_default();
        Some(Err(failure(format!("a panic ended the run: {text}"), story)))
    })
}

/// Runs the seeds. What is to be known before the end is said as it comes.
pub fn run_seeds(options: &Options, say: &mut dyn FnMut(&str)) -> SimReport {
    let (next, failed) = (AtomicU64::new(options.seeds.start), AtomicBool::new(false));
    let (said, verdicts) = mpsc::channel();
    let mut report = SimReport::of(&options.seeds);
    let mut progress = Progress::new(options);
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            let (said, next, failed) = (said.clone(), &next, &failed);
            scope.spawn(move || {
                plant(options.plant);
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= options.seeds.end {
                        return;
                    }
                    // Whoever takes the verdicts takes them to the end.
                    let Some(verdict) = run_seed(seed, &options.stop) else { return };
                    if said.send(verdict).is_err() {
                        return;
                    }
                }
            });
        }
        drop(said);
        loop {
            match verdicts.recv_timeout(progress.pause()) {
                Ok(Ok(tally)) => report.count(Ok(tally)),
                Ok(Err(failure)) => {
                    progress.tell(&format!("seed {} failed: {}", failure.seed, failure.why), say);
                    report.count(Err(failure));
                    failed.store(!options.keep_going, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            progress.show(&report, say);
        }
    });
    report.failures.sort_by_key(|failure| failure.seed);
    report.stopped = options.stop.load(Ordering::Relaxed) && report.seeds < report.asked;
    report.elapsed_seconds = progress.finish().as_secs_f64();
    report
}

/// How far the seeds are, for people: a bar where there is a terminal, else a line from time to time.
struct Progress {
    bar: ProgressBar,
    /// Only what failed is to be said.
    silent: bool,
    began: Instant,
    /// When the next line is due, since the beginning.
    due: Duration,
}

impl Progress {
    fn new(options: &Options) -> Self {
        let template = "seeds [{wide_bar}] {human_pos}/{human_len}, {msg}, {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = match options.progress {
            true => ProgressBar::new(options.seeds.end.saturating_sub(options.seeds.start)),
            false => ProgressBar::hidden(),
        };
        let bar = bar.with_style(style.progress_chars("=> ")).with_message("0 failed");
        Self { bar, silent: !options.progress, began: now(), due: SAY_EVERY }
    }

    /// How long to wait for a verdict before it is to be said how far it is.
    fn pause(&self) -> Duration {
        self.due.saturating_sub(self.began.elapsed())
    }

    fn tell(&self, text: &str, say: &mut dyn FnMut(&str)) {
        match self.bar.is_hidden() {
            true => say(text),
            false => self.bar.println(text),
        }
    }

    fn show(&mut self, report: &SimReport, say: &mut dyn FnMut(&str)) {
        self.bar.set_message(format!("{} failed", report.failures.len()));
        self.bar.set_position(report.seeds);
        let line = self.line(report, self.began.elapsed());
        if let Some(line) = line.filter(|_| self.bar.is_hidden() && !self.silent) {
            say(&line);
        }
    }

    /// The line that is due after this time.
    fn line(&mut self, report: &SimReport, elapsed: Duration) -> Option<String> {
        if elapsed < self.due {
            return None;
        }
        self.due = elapsed + SAY_EVERY;
        let SimReport { seeds, asked, failures, first_seed: _, stopped: _, tally: _, elapsed_seconds: _ } =
            report;
        Some(format!(
            "{seeds} of {asked} seeds done, {} failed, {:.0} s",
            failures.len(),
            elapsed.as_secs_f64()
        ))
    }

    fn finish(self) -> Duration {
        self.bar.finish_and_clear();
        self.began.elapsed()
    }
}

impl SimReport {
    fn of(seeds: &Range<u64>) -> Self {
        Self {
            first_seed: seeds.start,
            asked: seeds.end.saturating_sub(seeds.start),
            seeds: 0,
            stopped: false,
            failures: Vec::new(),
            tally: Tally::default(),
            elapsed_seconds: 0.0,
        }
    }

    fn count(&mut self, verdict: Result<Tally, SeedFailure>) {
        self.seeds += 1;
        match verdict {
            Ok(tally) => self.tally.add(tally),
            Err(failure) => self.failures.push(failure),
        }
    }

    /// Whether all was looked at and nothing was wrong.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && !self.stopped
    }

    /// A text for people: the story of every seed that failed, then the sums.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for SeedFailure { seed: _, why, story } in &self.failures {
            text.push_str(&format!("{story}{why}\n\n"));
        }
        let verdict = match (self.failures.is_empty(), self.stopped) {
            (false, _) => "FAILED",
            (true, true) => "STOPPED",
            (true, false) => "passed",
        };
        let of = if self.stopped { format!(" of {}", self.asked) } else { String::new() };
        text.push_str(&format!(
            "sim {verdict}: {}{of} seeds from {}, {} failed, {:.0} s\n",
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

    fn options(seeds: Range<u64>, keep_going: bool) -> Options {
        let plant = Some(Bug::MarkLost);
        Options { seeds, threads: 1, keep_going, progress: false, stop: Arc::default(), plant }
    }

    /// In a release build, too: there the invariants are asserted because the feature `sim` asks for it.
    #[test]
    fn a_broken_invariant_ends_a_seed_with_its_name() {
        let report = run_seeds(&options(0..8, false), &mut |_| {});
        let why: Vec<&str> = report.failures.iter().map(|failure| failure.why.as_str()).collect();
        // The seed after it may have begun by then.
        assert!(!why.is_empty() && why.iter().all(|why| why.contains("the mark of")), "{why:?}");
    }

    #[test]
    fn whoever_stops_it_has_the_verdicts_so_far() {
        let options = options(0..64, true);
        let mut lines = Vec::new();
        let report = run_seeds(&options, &mut |line| {
            lines.push(line.to_owned());
            options.stop.store(true, Ordering::Relaxed);
        });
        assert!(lines[0].contains("failed: ") && !report.failures.is_empty(), "{lines:?}");
        assert!(report.stopped && report.seeds < 64 && !report.passed());
        let text = report.table();
        assert!(text.contains(&format!("sim FAILED: {} of 64 seeds from 0", report.seeds)), "{text}");
    }

    #[test]
    fn a_run_that_is_stopped_has_no_verdict() {
        let options = options(0..2, true);
        options.stop.store(true, Ordering::Relaxed);
        let report = run_seeds(&options, &mut |_| {});
        assert_eq!((report.seeds, report.failures.len(), report.passed()), (0, 0, false));
        assert!(
            report.table().starts_with("sim STOPPED: 0 of 2 seeds from 0, 0 failed"),
            "{}",
            report.table()
        );
    }

    #[test]
    fn how_far_it_is_is_said_every_few_seconds() {
        let mut progress = Progress::new(&options(0..2000, true));
        let mut report = SimReport::of(&(0..2000));
        let line = |progress: &mut Progress, report: &SimReport, ms| {
            progress.line(report, Duration::from_millis(ms))
        };
        assert_eq!(line(&mut progress, &report, 4999), None);
        assert_eq!(
            line(&mut progress, &report, 5000).as_deref(),
            Some("0 of 2000 seeds done, 0 failed, 5 s")
        );
        report.count(Ok(Tally::default()));
        report.count(Err(SeedFailure { seed: 1, why: String::new(), story: String::new() }));
        assert_eq!(line(&mut progress, &report, 9000), None);
        assert_eq!(
            line(&mut progress, &report, 12_000).as_deref(),
            Some("2 of 2000 seeds done, 1 failed, 12 s")
        );
    }

    #[test]
    fn a_seed_that_fails_is_shown_with_its_story() {
        let failure = SeedFailure {
            seed: 17,
            why: "the replicas of region 100 differ".to_owned(),
            story: "seed 17: leases of 0ns\n    3.000 s  node 1 is killed\n".to_owned(),
        };
        let mut report = SimReport::of(&(0..20));
        (0..19).for_each(|_| report.count(Ok(Tally { answered: 9, ..Tally::default() })));
        report.count(Err(failure));
        let text = report.table();
        assert!(!report.passed() && text.contains("sim FAILED: 20 seeds from 0, 1 failed"), "{text}");
        assert!(text.contains("  calls answered               171\n"), "{text}");
        assert!(
            text.contains("seed 17: leases of 0ns\n    3.000 s  node 1 is killed\nthe replicas"),
            "{text}"
        );
        assert!(text.ends_with("ringkeep bench sim --seed 17\n"), "{text}");
    }
}
