//! `HELP` of the commands that have parts: what this server knows of them, in the form that Redis' tools print.
//!
//! Every text names exactly the parts that are answered here; a test asks for each.

use super::command::RespCommand;
use super::reply::Writer;

const CLIENT: &[&str] = &[
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    End the connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    End the connections that all options fit: ADDR <ip:port>, LADDR <ip:port>, ID <client-id>, MAXAGE <seconds>,",
    "    TYPE (NORMAL|MASTER|REPLICA|PUBSUB), USER <username>, SKIPME (YES|NO) (default: yes).",
    "LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <client-id> ...]",
    "    Return information about the client connections of this node.",
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

/// Answers `command HELP`, for commands that have parts.
pub fn help(command: RespCommand, reply: &mut Writer<'_>) {
    let parts = lines(command);
    let name = command.spec().name.to_ascii_uppercase();
    reply.array(parts.len() + 3);
    reply.status(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    parts.iter().for_each(|line| reply.status(line));
    reply.status("HELP");
    reply.status("    Print this help.");
}

fn lines(command: RespCommand) -> &'static [&'static str] {
    match command {
        RespCommand::Client => CLIENT,
        RespCommand::Command => COMMAND,
        RespCommand::Config => CONFIG,
        RespCommand::Object => OBJECT,
        other => {
            debug_assert!(false, "{other:?} has no parts");
            &[]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::resp::subcommand::parts;

    #[test]
    fn help_names_exactly_the_parts_that_there_are() {
        for command in [RespCommand::Client, RespCommand::Command, RespCommand::Config, RespCommand::Object] {
            let first_word = |line: &&'static str| line.split(' ').next().unwrap();
            let mut named: Vec<&str> = lines(command).iter().map(first_word).collect();
            named.retain(|word| !word.is_empty() && !word.starts_with('('));
            named.push("HELP");
            named.sort_unstable();
            named.dedup();
            let known: Vec<&str> = parts(command).iter().map(|(name, _)| *name).collect();
            assert_eq!(named, known, "{command:?}");
        }
    }
}
