//! The `ringkeep` binary: the server, and everything an operator types.
//!
//! | command | purpose |
//! |---|---|
//! | `ringkeep server` | runs one durable node |
//! | `ringkeep demo` | runs several nodes on this machine as one cluster |
//! | `ringkeep doctor` | checks the host and suggests a fix for each problem |
//! | `ringkeep inspect` | verifies the data directory of a node that is not running, or prints a log, a table or a manifest of it |
//! | `ringkeep ctl` | asks something of a running cluster: its stores and regions, replicas, leaders |
//! | `ringkeep completion` | prints what a shell needs to complete these commands |
//! | `ringkeep bench` | load, limits, comparisons, the crash audit, the scheduler at scale |
//!
//! Answers go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed or found something, 2 wrong
//! usage (for `doctor`: failures), 78 a configuration that cannot be used, so that a supervisor does not start it again. `ctl` has two more.
//!
//! Not done here, on purpose: nothing in this crate decides anything about data. It reads arguments, calls the crates below,
//! and prints.

mod bench;
mod console;
mod ctl;
mod demo;
mod doctor;
mod host;
mod inspect;
mod logging;
mod memory;
mod output;
mod server;
mod settings;
mod signals;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

/// What was typed makes no sense.
const EXIT_USAGE: u8 = 2;

/// A request takes a handful of small allocations, and the system's allocator is slow at them and asks the kernel for memory in
/// small steps.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A durable, range-partitioned key-value store: one store per core, on io_uring.
#[derive(Debug, Parser)]
#[command(name = "ringkeep", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one durable node
    Server(Box<server::ServerArguments>),
    /// Run a cluster of several nodes on this machine, until Ctrl-C
    Demo(demo::DemoArguments),
    /// Check the host: each problem with its consequence and its fix
    Doctor(Box<doctor::DoctorArguments>),
    /// Verify the files of a node that is not running, or print one
    Inspect(inspect::InspectArguments),
    /// Ask something of a running cluster: its stores and regions, replicas, leaders
    Ctl(ctl::CtlArguments),
    /// Print what a shell needs to complete these commands
    #[command(
        after_help = "Example: ringkeep completion bash > /usr/share/bash-completion/completions/ringkeep"
    )]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Measure: load, limits, comparisons, the crash audit, the scheduler at scale
    Bench(Box<bench::BenchArguments>),
}

/// What was typed, or the exit code once it has been said what is wrong with it.
fn parse(typed: &[OsString]) -> Result<Arguments, ExitCode> {
    Arguments::try_parse_from(typed).map_err(|error| match error.kind() {
        ErrorKind::InvalidUtf8 => {
            let what = no_text(typed);
            output::fail(
                &format!("{what}: it is not text in UTF-8, as only a path need not be: write it in UTF-8"),
                EXIT_USAGE,
            )
        }
        _ => error.exit(),
    })
}

/// The last word that is no text where one has to be, after the flag that it belongs to: without it nothing is amiss in that way. The parser
/// says only that there is one.
fn no_text(typed: &[OsString]) -> String {
    let is_amiss = |words: &[OsString]| {
        Arguments::try_parse_from(words).is_err_and(|error| error.kind() == ErrorKind::InvalidUtf8)
    };
    let mut words = typed.to_vec();
    for at in 0..words.len() {
        words[at] = words[at].to_string_lossy().into_owned().into();
        if words[at] != typed[at] && !is_amiss(&words) {
            let flag = at.checked_sub(1).map(|before| &typed[before]);
            let flag = flag.filter(|word| {
                word.as_encoded_bytes().starts_with(b"--") && !word.as_encoded_bytes().contains(&b'=')
            });
            return match flag {
                Some(flag) => format!("{} {}", flag.display(), typed[at].display()),
                None => typed[at].display().to_string(),
            };
        }
    }
    "an argument".to_owned()
}

fn main() -> ExitCode {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let arguments = match parse(&typed) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    // A node says itself what it needs, which is more.
    let is_node = matches!(&arguments.command, Command::Server(_) | Command::Doctor(_));
    if !is_node && let Some(too_few) = host::too_few_open_files() {
        return output::fail(&too_few, 1);
    }
    match arguments.command {
        Command::Server(arguments) => server::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Ctl(arguments) => ctl::run(&arguments),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "ringkeep", &mut script);
            output::answer(&String::from_utf8_lossy(&script));
            ExitCode::SUCCESS
        }
        Command::Bench(arguments) => bench::run(&arguments),
    }
}
