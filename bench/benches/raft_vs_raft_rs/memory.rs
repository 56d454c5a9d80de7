//! What one idle replica of a three-member group costs in memory, seen in three ways: by what becomes resident, by what
//! is allocated, and by what the replica says of itself.
//!
//! Each kind is measured in a process of its own, so that no kind lives in the holes that another one left.

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::{GROUPS, ours, theirs};

/// Counts what is allocated, once told to: the timed parts of the benchmark pay one untaken branch.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTS.load(Relaxed) {
            ALLOCATED.fetch_add(layout.size(), Relaxed);
        }
        // SAFETY: the caller's promise about the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if COUNTS.load(Relaxed) {
            ALLOCATED.fetch_sub(layout.size(), Relaxed);
        }
        // SAFETY: the caller's promise that `at` came from here with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Says which kind a child process is to measure.
const KIND: &str = "RINGKEEP_BENCH_MEMORY";

const KINDS: [(&str, &str); 5] = [
    ("leader", "ringkeep, leader asleep"),
    ("follower", "ringkeep, follower asleep"),
    ("worked", "ringkeep, leader asleep after 100 commands"),
    ("awake", "ringkeep, leader awake"),
    ("raft-rs", "raft-rs, leader"),
];

pub(crate) fn is_child() -> bool {
    std::env::var_os(KIND).is_some()
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line for VmRSS");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// Builds one kind of replica and prints its three sizes.
#[expect(clippy::print_stdout, reason = "a benchmark reports")]
pub(crate) fn child() {
    COUNTS.store(true, Relaxed);
    let (resident_before, allocated_before) = (resident(), ALLOCATED.load(Relaxed));
    let sizes = |own: usize| {
        let resident = (resident() - resident_before) / GROUPS;
        let allocated = (ALLOCATED.load(Relaxed) - allocated_before) as u64 / GROUPS;
        println!("{resident} {allocated} {own}");
    };
    match std::env::var(KIND).as_deref() {
        Ok("leader") => sizes(ours::Idle::new(GROUPS, true).memory_bytes()),
        Ok("follower") => sizes(ours::Idle::followers(GROUPS).memory_bytes()),
        Ok("worked") => sizes(ours::Idle::worked(GROUPS).memory_bytes()),
        Ok("awake") => sizes(ours::Idle::new(GROUPS, false).memory_bytes()),
        _ => {
            let idle = theirs::Idle::new(GROUPS);
            sizes(0);
            drop(idle);
        }
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark reports")]
pub(crate) fn report() {
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
