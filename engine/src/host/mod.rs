//! Questions about the host, asked before any core exists: which CPUs may be used, and can ringkeep run here at all.
//!
//! It reads what the kernel shows a plain process and never starts a core, opens a store or changes a setting of the host. Its calls
//! block, so none of them belongs on a core. The allocator of the process learns here how long to keep what is free, child processes
//! whose end they follow, and the process which signals it ignores.

mod allocator;
mod check;
mod children;
mod cpus;
mod directory;
#[cfg(test)]
mod forbidden_tests;
mod limits;
mod ring;
mod signals;

pub use allocator::{avoid_huge_pages, keep_freed_memory, release_freed_memory};
pub use check::{Finding, Level, Request, check, passes};
pub use children::end_with_parent;
pub use cpus::{CpuPlan, affinity, can_pin, plan, plan_cpus};
pub use directory::TEST_FILE;
pub use limits::{fewer_open_files_than, limits_file_length, too_few_open_files};
pub use signals::ignore_signals_of_writes;
