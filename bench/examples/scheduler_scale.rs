//! Runs the scheduler at scale with a counting allocator:
//! `cargo run --release -p ringkeep-bench --example scheduler_scale -- [--regions N] [--plots FOLDER]`.

use std::alloc::System;
use std::process::ExitCode;
use std::time::Duration;

use bench::scheduler::{Args, run};
use cap::Cap;

/// Counts what is allocated; the cap itself is never reached.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Time that this thread has spent on a core: the figures are per core, whatever else the machine is doing.
fn clock() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(spent).unwrap_or_default()
}

fn allocated_bytes() -> usize {
    ALLOCATOR.allocated()
}

fn arguments() -> Result<Args, String> {
    let mut args = Args::new(clock);
    args.allocated_bytes = Some(allocated_bytes);
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let value = given.next().ok_or(format!("{flag} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{flag} needs a number, not {value}"));
        match flag.as_str() {
            "--regions" => args.regions = number()?,
            "--nodes" => args.nodes = number()?,
            "--stores-per-node" => args.stores_per_node = number()?,
            "--reports" => args.reports = number()?,
            "--seed" => args.seed = number()?,
            "--plots" => args.plots = Some(value.into()),
            _ => {
                return Err(format!(
                    "unknown flag {flag}; there are --regions, --nodes, --stores-per-node, --reports, --seed, --plots"
                ));
            }
        }
    }
    Ok(args)
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a program, and its output is its purpose"
)]
fn main() -> ExitCode {
    let report = arguments().and_then(|args| run(&args).map_err(|error| error.to_string()));
    match report {
        Ok(report) => {
            print!("{report}");
            if report.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
