//! The commands: which there are, and how one is found by its name.
//!
//! What is known of each stands in one table, [`SPECS`], in the order of [`RespCommand`]. A name is found by comparing one `u128`, so a
//! command costs neither a copy of its name nor a hash.

pub use super::table::SPECS;

/// Every command that is answered with more than "unknown command".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of that name; SPECS has a sentence on each")]
#[repr(u8)]
pub enum RespCommand {
    Append,
    Auth,
    Bitcount,
    Bitpos,
    Client,
    Command,
    Config,
    Copy,
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
    Expiretime,
    Flushall,
    Flushdb,
    Get,
    Getbit,
    Getdel,
    Getex,
    Getrange,
    Getset,
    Hello,
    Incr,
    Incrby,
    Incrbyfloat,
    Info,
    Keys,
    Mget,
    Mset,
    Msetnx,
    Multi,
    Object,
    Persist,
    Pexpire,
    Pexpireat,
    Pexpiretime,
    Ping,
    Psetex,
    Pttl,
    Quit,
    Randomkey,
    Range,
    Rename,
    Renamenx,
    Reset,
    Scan,
    Select,
    Set,
    Setbit,
    Setex,
    Setnx,
    Setrange,
    Strlen,
    Substr,
    Time,
    Touch,
    Ttl,
    Type,
    Unlink,
    Unwatch,
    Wait,
    Watch,
}

/// How many commands there are.
pub const COMMANDS: usize = RespCommand::Watch as usize + 1;

/// What a command is to the counters and the histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
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
pub const KINDS: [CommandKind; 4] =
    [CommandKind::Read, CommandKind::Write, CommandKind::Walk, CommandKind::Control];

impl CommandKind {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            CommandKind::Read => "read",
            CommandKind::Write => "write",
            CommandKind::Walk => "walk",
            CommandKind::Control => "control",
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
    pub command: RespCommand,
    /// Its name in lower case.
    pub name: &'static str,
    /// Arguments including the name; negative means at least this many.
    pub arity: i64,
    /// Its kind.
    pub kind: CommandKind,
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

impl RespCommand {
    /// Its row.
    pub fn spec(self) -> &'static Spec {
        &SPECS[self as usize]
    }

    /// The command called `name`, in any case.
    pub fn find(name: &[u8]) -> Option<RespCommand> {
        let code = code_of(name)?;
        // The two that matter most are asked for first.
        match code {
            GET => return Some(RespCommand::Get),
            SET => return Some(RespCommand::Set),
            _ => {}
        }
        let place = BY_CODE.binary_search_by_key(&code, |entry| entry.0).ok()?;
        Some(BY_CODE[place].1)
    }
}

const GET: u128 = packed(b"GET");
const SET: u128 = packed(b"SET");

/// Names by their code, sorted when the program is compiled.
static BY_CODE: [(u128, RespCommand); COMMANDS] = sorted_codes();

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

const fn sorted_codes() -> [(u128, RespCommand); COMMANDS] {
    let mut codes = [(0u128, RespCommand::Append); COMMANDS];
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
            assert_eq!(RespCommand::find(spec.name.as_bytes()), Some(spec.command));
            assert_eq!(RespCommand::find(spec.name.to_uppercase().as_bytes()), Some(spec.command));
            assert_eq!(RespCommand::find(format!("{}x", spec.name).as_bytes()), None);
        }
        assert_eq!(RespCommand::find(b""), None);
        assert_eq!(RespCommand::find(b"\0get"), None);
        assert_eq!(RespCommand::find(b"a name that is longer than any"), None);
    }

    #[test]
    fn arity_counts_the_name() {
        assert!(RespCommand::Get.spec().takes(2));
        assert!(!RespCommand::Get.spec().takes(3));
        assert!(RespCommand::Mget.spec().takes(7));
        assert!(!RespCommand::Mget.spec().takes(1));
    }
}
