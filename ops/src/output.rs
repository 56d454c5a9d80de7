//! The only place of this crate that prints.

use std::process::ExitCode;

use clap::ValueEnum;

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// A configuration that cannot be used (`EX_CONFIG` of sysexits.h).
pub(crate) const EXIT_CONFIG: u8 = 78;

/// An answer, on standard output.
#[expect(clippy::print_stdout, reason = "this is where answers leave")]
pub(crate) fn answer(text: &str) {
    print!("{text}");
    if !text.ends_with('\n') {
        println!();
    }
}

/// A remark, on standard error.
#[expect(clippy::print_stderr, reason = "this is where remarks leave")]
pub(crate) fn remark(text: &str) {
    eprintln!("{text}");
}

/// Reports why the command failed.
pub(crate) fn fail(why: &dyn std::fmt::Display, code: u8) -> ExitCode {
    remark(&format!("ringkeep: {why}"));
    ExitCode::from(code)
}
