//! Random schedules with every fault at once, and the proof that they would find mistakes.
//!
//! `RINGKEEP_SEEDS=20000 cargo test -p ringkeep-raft --release --test it random` runs that many seeds;
//! `RINGKEEP_SEED=7` runs one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use raft::planted::{Bug, plant};

use crate::sim::{Coverage, Options, run};

const SEEDS: u64 = 300;
/// Seeds within which each planted mistake is found; the rarest needs 1,241.
const PLANTED_SEEDS: u64 = 2000;

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

/// Every mistake the crate can be made to make.
const PLANTED: &[Bug] = &[
    Bug::VoteTwice,
    Bug::VoteIgnoresLog,
    Bug::VoteNotPersisted,
    Bug::CommitOldTermByCount,
    Bug::CommitWithoutQuorum,
    Bug::AckBeforeDurable,
    Bug::SelfAckBeforeDurable,
    Bug::AckSurvivesTruncation,
    Bug::AppendSkipsPrevCheck,
    Bug::TruncateOnEveryAppend,
    Bug::HeartbeatCommitsBeyondMatch,
    Bug::ChangeWhileOnePending,
    Bug::ChangeBeforeOwnTermCommit,
    Bug::CampaignWithUnappliedChange,
    Bug::JointNeedsOneMajority,
    Bug::LearnerCountsInQuorum,
    Bug::TimeoutNowToLearner,
    Bug::LeaseKeptDuringTransfer,
    Bug::LeaseFromReplyTime,
    Bug::VoterBreaksPromise,
    Bug::ReadBeforeOwnTermCommit,
    Bug::ReadAnsweredWithoutRound,
    Bug::SnapshotBelowCommitInstalled,
    Bug::SnapshotKeepsOldMembership,
    Bug::ApplyBeforeDurable,
    Bug::OvertakenChangeStored,
    Bug::OrderForgotten,
    Bug::OrderSurvivesTerm,
    Bug::TransferNeedsOwnApply,
    Bug::LateFetchBelieved,
    Bug::LateBlankBelieved,
];

/// The first seed that finds the planted mistake, and what it says.
fn hunt(bug: Bug, seeds: u64) -> Option<(u64, String)> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    plant(Some(bug));
    let found = (0..seeds).find_map(|seed| Some((seed, attempt(&Options::from_seed(seed)).err()?)));
    plant(None);
    std::panic::set_hook(hook);
    found
}

#[test]
#[expect(clippy::print_stderr, reason = "which seed found what is the result")]
fn planted_bugs_are_found() {
    let seeds = number("RINGKEEP_SEEDS").unwrap_or(PLANTED_SEEDS);
    let mut missed = Vec::new();
    for bug in PLANTED {
        match hunt(*bug, seeds) {
            Some((seed, text)) => {
                eprintln!("{bug:?}: seed {seed}: {}", text.chars().take(120).collect::<String>());
            }
            None => missed.push(*bug),
        }
    }
    assert!(missed.is_empty(), "not found within {seeds} seeds: {missed:?}");
}
