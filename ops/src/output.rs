//! The only place of this crate that prints.

use std::io::Write as _;
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

/// An answer, on standard output. Whoever reads it may have gone, which is no reason to end: a panic here would leave the processes of a
/// demonstration behind.
pub(crate) fn answer(text: &str) {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    drop(write!(std::io::stdout(), "{text}{end}"));
}

/// A page in the place of the one before, on a terminal. False once there is none any more.
pub(crate) fn screen(text: &str) -> bool {
    let mut output = std::io::stdout();
    // To the upper left corner, and away with what was below.
    write!(output, "\x1b[H\x1b[2J{text}").and_then(|()| output.flush()).is_ok()
}

/// A remark, on standard error; as above.
pub(crate) fn remark(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Reports why the command failed.
pub(crate) fn fail(why: &dyn std::fmt::Display, code: u8) -> ExitCode {
    remark(&format!("ringkeep: {why}"));
    ExitCode::from(code)
}
