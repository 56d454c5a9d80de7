//! The commands that have parts: which parts there are and how many arguments each takes.
//!
//! One table, asked before a command is carried out or queued for `EXEC`, so that a part that does not exist aborts a
//! transaction as Redis' own does.

use super::command::RespCommand;
use super::request::{CommandLine, Error};

/// A part's name and its arguments, command and part included; negative means at least this many.
pub type Part = (&'static str, i64);

const CLIENT: &[Part] = &[
    ("GETNAME", 2),
    ("HELP", 2),
    ("ID", 2),
    ("INFO", 2),
    ("KILL", -3),
    ("LIST", -2),
    ("NO-EVICT", 3),
    ("NO-TOUCH", 3),
    ("REPLY", 3),
    ("SETINFO", 4),
    ("SETNAME", 3),
];
const COMMAND: &[Part] =
    &[("COUNT", 2), ("DOCS", -2), ("GETKEYS", -3), ("HELP", 2), ("INFO", -2), ("LIST", 2)];
const CONFIG: &[Part] = &[("GET", -3), ("HELP", 2)];
const OBJECT: &[Part] = &[("ENCODING", 3), ("HELP", 2)];

/// Checks the part that `request` names, if `command` has parts and one is named. The arity of `command` has been checked.
///
/// # Errors
/// Redis knows no such part or wants other arguments, or the part is not supported here.
pub fn check(command: RespCommand, request: &CommandLine<'_>) -> Result<(), Error> {
    let (parts, Some(sub)) = (parts(command), request.get(1)) else { return Ok(()) };
    if parts.is_empty() {
        return Ok(());
    }
    if command == RespCommand::Config && request.is(1, "SET") {
        return Err(Error::unsupported(
            "ERR CONFIG SET is not supported: change the node's configuration file, flags or environment",
        ));
    }
    let Some((_, arity)) = parts.iter().find(|(name, _)| request.is(1, name)) else {
        return Err(Error::unknown_subcommand(command, sub));
    };
    let args = i64::try_from(request.count()).unwrap_or(i64::MAX);
    if if *arity < 0 { args < -arity } else { args != *arity } {
        return Err(Error::subcommand_arity(command, sub));
    }
    if command == RespCommand::Client && request.is(1, "REPLY") && !request.is(2, "ON") {
        return Err(Error::unsupported(
            "ERR CLIENT REPLY OFF and SKIP are not supported, replies are always sent",
        ));
    }
    Ok(())
}

/// The parts of `command`, by name; none for most commands.
pub fn parts(command: RespCommand) -> &'static [Part] {
    match command {
        RespCommand::Client => CLIENT,
        RespCommand::Command => COMMAND,
        RespCommand::Config => CONFIG,
        RespCommand::Object => OBJECT,
        _without_parts => &[],
    }
}

/// Whether `request` asks for the parts of `command`.
pub fn is_help(command: RespCommand, request: &CommandLine<'_>) -> bool {
    request.is(1, "HELP") && !parts(command).is_empty()
}

/// Whether `request` goes over many connections and so takes many steps.
pub fn is_walk(command: RespCommand, request: &CommandLine<'_>) -> bool {
    command == RespCommand::Client && (request.is(1, "LIST") || request.is(1, "KILL"))
}
