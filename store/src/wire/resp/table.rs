//! The table of commands: names, arities, keys and a sentence on each, as `COMMAND` returns them.

use super::command::{COMMANDS, Command, Keys, Kind, Spec};

const NONE: Keys = Keys { first: 0, last: 0, step: 0 };
const ONE: Keys = Keys { first: 1, last: 1, step: 1 };
const ALL: Keys = Keys { first: 1, last: -1, step: 1 };
const PAIRS: Keys = Keys { first: 1, last: -1, step: 2 };

const fn spec(
    command: Command,
    name: &'static str,
    arity: i64,
    kind: Kind,
    keys: Keys,
    summary: &'static str,
) -> Spec {
    Spec { command, name, arity, kind, keys, summary }
}

use Command as C;

/// Every command, in the order of [`Command`].
pub const SPECS: [Spec; COMMANDS] = [
    spec(
        C::Append,
        "append",
        3,
        Kind::Write,
        ONE,
        "Appends to the value of a key and returns the new length.",
    ),
    spec(C::Auth, "auth", -2, Kind::Control, NONE, "Authenticates the connection."),
    spec(C::Client, "client", -2, Kind::Control, NONE, "Names and describes this core's connections."),
    spec(C::Command, "command", -1, Kind::Control, NONE, "Describes the commands."),
    spec(C::Config, "config", -2, Kind::Control, NONE, "Shows settings (GET only)."),
    spec(
        C::Dbsize,
        "dbsize",
        1,
        Kind::Walk,
        NONE,
        "Counts all keys by walking over them; exact, and as slow as that.",
    ),
    spec(C::Decr, "decr", 2, Kind::Write, ONE, "Subtracts one from the integer value of a key."),
    spec(C::Decrby, "decrby", 3, Kind::Write, ONE, "Subtracts from the integer value of a key."),
    spec(C::Del, "del", -2, Kind::Write, ALL, "Deletes keys, each by itself, and counts those that existed."),
    spec(C::Discard, "discard", 1, Kind::Control, NONE, "Forgets the queued commands and the watched keys."),
    spec(C::Echo, "echo", 2, Kind::Control, NONE, "Returns its argument."),
    spec(
        C::Exec,
        "exec",
        1,
        Kind::Control,
        NONE,
        "Runs the queued commands as one step, if their keys lie in one region.",
    ),
    spec(C::Exists, "exists", -2, Kind::Read, ALL, "Counts which of the keys exist."),
    spec(C::Expire, "expire", -3, Kind::Write, ONE, "Refused: keys do not expire."),
    spec(C::Expireat, "expireat", -3, Kind::Write, ONE, "Refused: keys do not expire."),
    spec(C::Flushall, "flushall", -1, Kind::Walk, NONE, "Deletes every key."),
    spec(C::Flushdb, "flushdb", -1, Kind::Walk, NONE, "Deletes every key."),
    spec(C::Get, "get", 2, Kind::Read, ONE, "Returns the value of a key."),
    spec(C::Getdel, "getdel", 2, Kind::Write, ONE, "Deletes a key and returns its value."),
    spec(C::Getset, "getset", 3, Kind::Write, ONE, "Sets a key and returns its previous value."),
    spec(
        C::Hello,
        "hello",
        -1,
        Kind::Control,
        NONE,
        "Chooses the protocol, authenticates and names the connection.",
    ),
    spec(C::Incr, "incr", 2, Kind::Write, ONE, "Adds one to the integer value of a key."),
    spec(C::Incrby, "incrby", 3, Kind::Write, ONE, "Adds to the integer value of a key."),
    spec(
        C::Info,
        "info",
        -1,
        Kind::Walk,
        NONE,
        "Describes the server; figures are those of the connection's core.",
    ),
    spec(C::Mget, "mget", -2, Kind::Read, ALL, "Returns the values of keys."),
    spec(C::Mset, "mset", -3, Kind::Write, PAIRS, "Sets keys; atomic within one region."),
    spec(C::Multi, "multi", 1, Kind::Control, NONE, "Queues the commands that follow, up to EXEC."),
    spec(
        C::Object,
        "object",
        -2,
        Kind::Read,
        Keys { first: 2, last: 2, step: 1 },
        "Returns the encoding of a value.",
    ),
    spec(C::Persist, "persist", 2, Kind::Read, ONE, "Returns 0, because no key expires."),
    spec(C::Pexpire, "pexpire", -3, Kind::Write, ONE, "Refused: keys do not expire."),
    spec(C::Pexpireat, "pexpireat", -3, Kind::Write, ONE, "Refused: keys do not expire."),
    spec(C::Ping, "ping", -1, Kind::Control, NONE, "Returns PONG or its argument."),
    spec(C::Psetex, "psetex", 4, Kind::Write, ONE, "Refused: keys do not expire."),
    spec(
        C::Pttl,
        "pttl",
        2,
        Kind::Read,
        ONE,
        "Returns -1 for a key that exists and -2 for one that does not.",
    ),
    spec(C::Quit, "quit", -1, Kind::Control, NONE, "Closes the connection."),
    spec(
        C::Range,
        "range",
        -3,
        Kind::Walk,
        NONE,
        "Returns the keys from start up to end, in order, with their values.",
    ),
    spec(C::Reset, "reset", 1, Kind::Control, NONE, "Puts the connection into its first state."),
    spec(C::Scan, "scan", -2, Kind::Walk, NONE, "Walks over all keys in order, some at a time."),
    spec(C::Select, "select", 2, Kind::Control, NONE, "Selects database 0, the only one."),
    spec(C::Set, "set", -3, Kind::Write, ONE, "Sets a key (NX, XX, GET)."),
    spec(C::Setex, "setex", 4, Kind::Write, ONE, "Refused: keys do not expire."),
    spec(C::Setnx, "setnx", 3, Kind::Write, ONE, "Sets a key if it does not exist."),
    spec(C::Strlen, "strlen", 2, Kind::Read, ONE, "Returns the length of a value."),
    spec(C::Time, "time", 1, Kind::Control, NONE, "Returns the server's wall-clock time."),
    spec(C::Ttl, "ttl", 2, Kind::Read, ONE, "Returns -1 for a key that exists and -2 for one that does not."),
    spec(
        C::Type,
        "type",
        2,
        Kind::Read,
        ONE,
        "Returns string for a key that exists and none for one that does not.",
    ),
    spec(C::Unlink, "unlink", -2, Kind::Write, ALL, "Deletes keys, as DEL does."),
    spec(C::Unwatch, "unwatch", 1, Kind::Control, NONE, "Forgets the watched keys."),
    spec(
        C::Wait,
        "wait",
        3,
        Kind::Control,
        NONE,
        "Returns 0: a reply already means that a quorum keeps the write.",
    ),
    spec(
        C::Watch,
        "watch",
        -2,
        Kind::Control,
        ALL,
        "Makes the next EXEC depend on no write of these keys in between.",
    ),
];
