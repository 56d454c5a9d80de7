//! What one idle replica of a three-member group costs in memory, beside raft-rs:
//!
//! `cargo bench -p ringkeep-bench --features peers-raft-rs --bench raft_memory`
//!
//! Three views: what becomes resident, what is allocated, and what the replica says of itself. Each kind of replica is
//! measured in a process of its own, so that none lives in the holes that another one left. A program apart from the
//! timed comparison, because counting allocations costs time.

#[expect(dead_code, reason = "the timed comparison uses the rest")]
mod ours;
#[expect(dead_code, reason = "the timed comparison uses the rest")]
mod theirs;

use std::alloc::System;
use std::process::Command;

use cap::Cap;

const GROUPS: u64 = 100_000;

/// Counts what is allocated; the cap itself is never reached.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Says which kind a child process is to measure.
const KIND: &str = "RINGKEEP_BENCH_MEMORY";

const KINDS: [(&str, &str); 5] = [
    ("leader", "ringkeep, leader asleep"),
    ("follower", "ringkeep, follower asleep"),
    ("worked", "ringkeep, leader asleep after 100 commands"),
    ("awake", "ringkeep, leader awake"),
    ("raft-rs", "raft-rs, leader"),
];

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line for VmRSS");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// Builds one kind of replica and prints its three sizes.
#[expect(clippy::print_stdout, reason = "a benchmark reports")]
fn measure(kind: &str) {
    let (resident_before, allocated_before) = (resident(), ALLOCATOR.allocated());
    let sizes = |own: usize| {
        let resident = (resident() - resident_before) / GROUPS;
        let allocated = (ALLOCATOR.allocated() - allocated_before) as u64 / GROUPS;
        println!("{resident} {allocated} {own}");
    };
    match kind {
        "leader" => sizes(ours::Idle::new(GROUPS, true).memory_bytes()),
        "follower" => sizes(ours::Idle::followers(GROUPS).memory_bytes()),
        "worked" => sizes(ours::Idle::worked(GROUPS).memory_bytes()),
        "awake" => sizes(ours::Idle::new(GROUPS, false).memory_bytes()),
        _ => {
            let idle = theirs::Idle::new(GROUPS);
            sizes(0);
            drop(idle);
        }
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark reports")]
fn report() {
    println!("bytes per replica of an idle group of three, {GROUPS} of them:");
    for (kind, name) in KINDS {
        let program = std::env::current_exe().expect("this program");
        let output = Command::new(program).env(KIND, kind).output().expect("a child process");
        let text = String::from_utf8(output.stdout).expect("numbers");
        let numbers: Vec<_> = text.split_whitespace().collect();
        let [resident, allocated, own] = numbers[..] else { panic!("{name}: {text}") };
        let own = if own == "0" { String::new() } else { format!(", {own:>4} by its own count") };
        println!("  {name:<43} {resident:>5} resident, {allocated:>5} allocated{own}");
    }
}

fn main() {
    match std::env::var(KIND) {
        Ok(kind) => measure(&kind),
        Err(_) => report(),
    }
}
