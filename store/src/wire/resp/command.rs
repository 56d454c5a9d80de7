//! The commands: names, arities and what `COMMAND` says about them.
//!
//! One table, [`SPECS`], in the order of [`Command`]. A name is found by comparing one `u128`, so a command costs neither a
//! copy of its name nor a hash.

/// Every command that is answered with more than "unknown command".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of that name; SPECS has a sentence on each")]
#[repr(u8)]
pub enum Command {
    Append,
    Auth,
    Client,
    Command,
    Config,
    Dbsize,
    Decr,
    Decrby,
    Del,
    Discard,
    Echo,
    Exec,
    Exists,
    Expire,
    Expireat,
    Flushall,
    Flushdb,
    Get,
    Getdel,
    Getset,
    Hello,
    Incr,
    Incrby,
    Info,
    Mget,
    Mset,
    Multi,
    Object,
    Persist,
    Pexpire,
    Pexpireat,
    Ping,
    Psetex,
    Pttl,
    Quit,
    Range,
    Reset,
    Scan,
    Select,
    Set,
    Setex,
    Setnx,
    Strlen,
    Time,
    Ttl,
    Type,
    Unlink,
    Unwatch,
    Wait,
    Watch,
}

/// How many commands there are.
pub const COMMANDS: usize = Command::Watch as usize + 1;

/// What a command is to the counters and the histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads keys that it names.
    Read,
    /// Writes keys that it names.
    Write,
    /// Walks over a range of keys.
    Walk,
    /// Touches no key.
    Control,
}

/// Kinds, for arrays by kind.
pub const KINDS: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Walk, Kind::Control];

impl Kind {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Walk => "walk",
            Kind::Control => "control",
        }
    }
}

/// Which arguments of a command are keys, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The first key; 0 when there is none.
    pub first: i64,
    /// The last key; -1 for the last argument.
    pub last: i64,
    /// From one key to the next.
    pub step: i64,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The command.
    pub command: Command,
    /// Its name in lower case.
    pub name: &'static str,
    /// Arguments including the name; negative means at least so many.
    pub arity: i64,
    /// Its kind.
    pub kind: Kind,
    /// Its keys.
    pub keys: Keys,
    /// What it does, one sentence.
    pub summary: &'static str,
}

impl Spec {
    /// Whether a command with `args` arguments, the name included, is complete.
    pub fn takes(&self, args: usize) -> bool {
        let args = i64::try_from(args).unwrap_or(i64::MAX);
        if self.arity < 0 { args >= -self.arity } else { args == self.arity }
    }
}

impl Command {
    /// Its row.
    pub fn spec(self) -> &'static Spec {
        &SPECS[self as usize]
    }

    /// The command called `name`, in any case.
    pub fn find(name: &[u8]) -> Option<Command> {
        let code = code_of(name)?;
        // The two that matter most are asked for first.
        match code {
            GET => return Some(Command::Get),
            SET => return Some(Command::Set),
            _ => {}
        }
        let place = BY_CODE.binary_search_by_key(&code, |entry| entry.0).ok()?;
        Some(BY_CODE[place].1)
    }
}

const GET: u128 = packed(b"GET");
const SET: u128 = packed(b"SET");

/// Names by their code, sorted when the program is compiled.
static BY_CODE: [(u128, Command); COMMANDS] = sorted_codes();

/// A name as a number: its bytes in upper case. `None` for names longer than any command.
fn code_of(name: &[u8]) -> Option<u128> {
    (name.len() < 16).then(|| packed(name))
}

const fn packed(name: &[u8]) -> u128 {
    // The leading one keeps zero bytes at the beginning of a name from going unseen.
    let mut code = 1u128;
    let mut at = 0;
    while at < name.len() {
        code = code << 8 | name[at].to_ascii_uppercase() as u128;
        at += 1;
    }
    code
}

const fn sorted_codes() -> [(u128, Command); COMMANDS] {
    let mut codes = [(0u128, Command::Append); COMMANDS];
    let mut filled = 0;
    while filled < COMMANDS {
        let entry = (packed(SPECS[filled].name.as_bytes()), SPECS[filled].command);
        let mut place = filled;
        while place > 0 && codes[place - 1].0 > entry.0 {
            codes[place] = codes[place - 1];
            place -= 1;
        }
        codes[place] = entry;
        filled += 1;
    }
    codes
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_commands() {
        for (place, spec) in SPECS.iter().enumerate() {
            assert_eq!(spec.command as usize, place, "{}", spec.name);
        }
    }

    #[test]
    fn every_name_is_found_in_any_case_and_nothing_else() {
        for spec in &SPECS {
            assert_eq!(Command::find(spec.name.as_bytes()), Some(spec.command));
            assert_eq!(Command::find(spec.name.to_uppercase().as_bytes()), Some(spec.command));
            assert_eq!(Command::find(format!("{}x", spec.name).as_bytes()), None);
        }
        assert_eq!(Command::find(b""), None);
        assert_eq!(Command::find(b"\0get"), None);
        assert_eq!(Command::find(b"a name that is longer than any"), None);
    }

    #[test]
    fn arity_counts_the_name() {
        assert!(Command::Get.spec().takes(2));
        assert!(!Command::Get.spec().takes(3));
        assert!(Command::Mget.spec().takes(7));
        assert!(!Command::Mget.spec().takes(1));
    }
}
