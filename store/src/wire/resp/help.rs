//! `HELP` of the commands that have parts: what this server knows of them, in the form that Redis' tools print.
//!
//! Every text names exactly the parts that are answered here; a test asks for each.

use super::command::Command;
use super::reply::Writer;
use super::request::{Error, Request};

const CLIENT: &[&str] = &[
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <client-id> ...]",
    "    Return information about the client connections of this core.",
    "NO-EVICT (ON|OFF)",
    "    Accepted; no connection is evicted here.",
    "NO-TOUCH (ON|OFF)",
    "    Accepted; no access times are kept here.",
    "REPLY ON",
    "    Accepted; replies are always sent.",
    "SETINFO (LIB-NAME|LIB-VER) <text>",
    "    Say which library the current connection uses.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
];

const COMMAND: &[&str] = &[
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands in this server.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple commands, or about all.",
    "GETKEYS <full-command>",
    "    Return the keys from a full command.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands, or about all.",
    "LIST",
    "    Return a list of all commands in this server.",
];

const CONFIG: &[&str] = &[
    "GET <pattern> [<pattern> ...]",
    "    Return parameters matching the glob-like patterns and their values.",
];

const OBJECT: &[&str] = &[
    "ENCODING <key>",
    "    Return the kind of internal representation that Redis would use for the value of <key>.",
];

/// Answers `command HELP`.
pub fn help(command: Command, request: &Request<'_>, reply: &mut Writer<'_>) -> Result<(), Error> {
    if request.count() != 2 {
        return Err(Error::subcommand_arity(command, request.arg(1)));
    }
    let parts = match command {
        Command::Client => CLIENT,
        Command::Command => COMMAND,
        Command::Config => CONFIG,
        Command::Object => OBJECT,
        other => {
            debug_assert!(false, "{other:?} has no parts");
            &[]
        }
    };
    let name = command.spec().name.to_ascii_uppercase();
    reply.array(parts.len() + 3);
    reply.status(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    parts.iter().for_each(|line| reply.status(line));
    reply.status("HELP");
    reply.status("    Print this help.");
    Ok(())
}
