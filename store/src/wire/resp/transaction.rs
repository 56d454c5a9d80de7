//! `MULTI`, `EXEC`, `DISCARD`, `WATCH` and `UNWATCH`: commands that take effect together or not at all.
//!
//! Commands after `MULTI` are read, checked and kept. `EXEC` hands all of them to the store as one operation
//! ([`Atomic`](crate::request::Atomic)), which runs them in order as one step. That is possible for the keys of one region. Where the keys lie in
//! more than one, `EXEC` answers `CROSSSLOT` and nothing has happened; nor has it after any other error that takes the
//! place of the array. A command that fails alone (an addition to a text) does not stop the others, as in Redis. What Redis
//! would carry out and this server cannot (a key that expires, another database) is refused when it is queued, and then `EXEC`
//! refuses the whole.
//!
//! A watched key counts as changed when a write of it began after `WATCH` was answered, also when it left the same value, and
//! a write of its own connection included. Now and then `EXEC` answers null although nothing was written: when a range was
//! deleted, when the leader changed, or when the store watches too many keys.
//!
//! Bounds: [`COMMANDS_MAX`] commands and [`BYTES_MAX`] of them. Too many, like any command that is refused while it is
//! queued, make `EXEC` refuse the whole. [`WATCHED_MAX`] keys are watched at a time; what has no room is not watched. What is queued and what
//! is watched is charged to the core until it is gone. A connection with a transaction migrates to no other core.
//! How `EXEC` and `WATCH` are carried out is in [`exec`](super::exec).

use std::collections::BTreeMap;
use std::mem;

use bytes::Bytes;

use super::command::{CommandKind, RespCommand};
use super::control;
use super::data::{self, ReplyShape, Work};
use super::request::{CommandLine, Error};
use super::subcommand;
use crate::memory::{Charge, Memory, charged_bytes};
use crate::request::{Op, Seen};

/// Commands of one transaction.
pub const COMMANDS_MAX: usize = 8192;
/// Requests of one transaction, bytes.
pub const BYTES_MAX: usize = 16 << 20;
/// Keys that one connection watches.
const WATCHED_MAX: usize = 1024;

const SHORT_OF_MEMORY: Error = Error::constant("TRYAGAIN the core is short of memory, try again in 20 ms");

/// One connection's transaction, and what it watches.
#[derive(Debug, Default)]
pub struct Transaction {
    open: bool,
    /// A command was refused, so `EXEC` will refuse the rest.
    refused: bool,
    queued: Vec<Queued>,
    bytes: usize,
    /// What is queued, charged to the core.
    charge: Charge,
    watched: BTreeMap<Bytes, Seen>,
    /// What is watched, charged to the core.
    watched_charge: Charge,
}

/// What a transaction hands over when it ends.
#[derive(Debug)]
pub struct TransactionEnd {
    /// The commands, in order.
    pub queued: Vec<Queued>,
    /// What the client has seen of the keys that it watches.
    pub watched: Vec<(Bytes, Seen)>,
    /// Of the commands and of what is watched, held until the commands are answered.
    _charge: Charge,
}

/// A command that was kept for `EXEC`.
#[derive(Debug)]
pub enum Queued {
    /// Work for the store, or the error that takes its place.
    Data(RespCommand, Result<(Work, ReplyShape), Error>),
    /// Touches no key: the command as it came.
    Control(RespCommand, Box<[u8]>),
}

impl Queued {
    /// Reads a command that is to be kept.
    ///
    /// # Errors
    /// This server cannot carry it out as Redis would, so what is around it must not take effect either.
    fn read(command: RespCommand, request: &CommandLine<'_>) -> Result<Self, Error> {
        let touches_keys = match command.spec().kind {
            CommandKind::Read | CommandKind::Write => !subcommand::is_help(command, request),
            CommandKind::Control | CommandKind::Walk => false,
        };
        if !touches_keys {
            control::check(command, request)?;
            return Ok(Queued::Control(command, request.repacked().into()));
        }
        match data::plan(command, request) {
            Err(error) if error.aborts_transaction() => Err(error),
            planned => Ok(Queued::Data(command, planned)),
        }
    }
}

/// What becomes of a command that comes while a transaction is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is kept for `EXEC`.
    Queue,
    /// It is carried out at once.
    Now,
    /// It has no place in a transaction.
    Refuse,
}

impl Transaction {
    /// Whether commands are being queued.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether there is neither a transaction nor anything watched.
    pub fn is_idle(&self) -> bool {
        !self.open && self.watched.is_empty()
    }

    /// How many commands are queued, while a transaction is open.
    pub fn queued(&self) -> Option<usize> {
        self.open.then_some(self.queued.len())
    }

    /// A command was refused while it was to be queued.
    pub fn refuse(&mut self) {
        if self.open {
            self.refused = true;
            self.queued = Vec::new();
            self.charge = Charge::default();
        }
    }

    /// Whether `command` is kept for `EXEC` or refused, and not carried out now.
    pub fn takes(&self, command: RespCommand) -> bool {
        self.open && place(command) != Place::Now
    }

    /// `MULTI`.
    pub fn begin(&mut self) -> Result<(), Error> {
        if self.open {
            return Err(Error::constant("ERR MULTI calls can not be nested"));
        }
        self.open = true;
        Ok(())
    }

    /// `DISCARD`.
    pub fn discard(&mut self) -> Result<(), Error> {
        if !self.open {
            return Err(Error::constant("ERR DISCARD without MULTI"));
        }
        *self = Self::default();
        Ok(())
    }

    /// `UNWATCH`.
    pub fn unwatch(&mut self) {
        self.watched = BTreeMap::new();
        self.watched_charge = Charge::default();
    }

    /// Room to watch `keys`, too.
    ///
    /// # Errors
    /// There is none: a connection watches [`WATCHED_MAX`], and the core may be short of memory.
    pub fn room_to_watch(&self, memory: &Memory, keys: &[Bytes]) -> Result<Charge, Error> {
        if self.watched.len() + keys.len() > WATCHED_MAX {
            return Err(Error::new(format!("ERR a connection watches at most {WATCHED_MAX} keys")));
        }
        memory.input.try_charge(keys.iter().map(charged_bytes).sum()).ok_or(SHORT_OF_MEMORY)
    }

    /// `WATCH`: the keys as the store has seen them, and the room that they have.
    pub fn watch(&mut self, keys: Vec<Bytes>, seen: Vec<Seen>, room: Charge) {
        for (key, seen) in keys.into_iter().zip(seen) {
            // What was seen first is what the client may have acted on.
            self.watched.entry(key).or_insert(seen);
        }
        self.watched_charge.join(room);
        // What is named twice is kept once.
        self.watched_charge.set(self.watched.keys().map(charged_bytes).sum());
    }

    /// `EXEC`: ends the transaction and hands over what is to be done.
    ///
    /// # Errors
    /// There is no transaction, and what is watched stays watched; or a command was refused, and nothing is to be done.
    pub fn end(&mut self) -> Result<TransactionEnd, Error> {
        if !self.open {
            return Err(Error::constant("ERR EXEC without MULTI"));
        }
        let Self { open: _, refused, queued, bytes: _, mut charge, watched, watched_charge } =
            mem::take(self);
        if refused {
            return Err(Error::constant("EXECABORT Transaction discarded because of previous errors."));
        }
        charge.join(watched_charge);
        Ok(TransactionEnd { queued, watched: watched.into_iter().collect(), _charge: charge })
    }

    /// Keeps a command of `bytes` for `EXEC`. An error makes `EXEC` refuse the whole.
    pub fn queue(
        &mut self,
        memory: &Memory,
        command: RespCommand,
        request: &CommandLine<'_>,
        bytes: usize,
    ) -> Result<(), Error> {
        let kept = self.room_for(memory, command, request.count(), bytes).and_then(|room| match room {
            Some(charge) => Queued::read(command, request).map(|queued| Some((charge, queued))),
            None => Ok(None),
        });
        match kept {
            Ok(Some((charge, queued))) => {
                self.charge.join(charge);
                self.bytes += bytes;
                self.queued.push(queued);
            }
            Ok(None) => {}
            Err(error) => {
                self.refuse();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Room for one more command. `None` when it need not be kept, because `EXEC` will refuse everything anyway.
    fn room_for(
        &self,
        memory: &Memory,
        command: RespCommand,
        args: usize,
        bytes: usize,
    ) -> Result<Option<Charge>, Error> {
        if place(command) == Place::Refuse {
            let name = command.spec().name.to_ascii_uppercase();
            return Err(Error::new(format!(
                "ERR {name} is not supported in a transaction, which is atomic for named keys of one region"
            )));
        }
        if self.refused {
            return Ok(None);
        }
        if self.queued.len() >= COMMANDS_MAX {
            return Err(Error::new(format!("ERR a transaction has at most {COMMANDS_MAX} commands")));
        }
        if self.bytes + bytes > BYTES_MAX {
            return Err(Error::new(format!("ERR a transaction has at most {BYTES_MAX} bytes of commands")));
        }
        // A short argument takes much less than the operation that it may become.
        let kept_bytes = bytes + size_of::<Queued>() + args * size_of::<Op>();
        memory.input.try_charge(kept_bytes).map(Some).ok_or(SHORT_OF_MEMORY)
    }
}

fn place(command: RespCommand) -> Place {
    match command {
        RespCommand::Multi
        | RespCommand::Exec
        | RespCommand::Discard
        | RespCommand::Watch
        | RespCommand::Unwatch
        | RespCommand::Quit
        | RespCommand::Reset => Place::Now,
        // These change what the connection is, or must be able to wait.
        RespCommand::Hello | RespCommand::Auth => Place::Refuse,
        RespCommand::Append
        | RespCommand::Bitcount
        | RespCommand::Bitpos
        | RespCommand::Client
        | RespCommand::Command
        | RespCommand::Config
        | RespCommand::Copy
        | RespCommand::Dbsize
        | RespCommand::Decr
        | RespCommand::Decrby
        | RespCommand::Del
        | RespCommand::Echo
        | RespCommand::Exists
        | RespCommand::Expire
        | RespCommand::Expireat
        | RespCommand::Expiretime
        | RespCommand::Flushall
        | RespCommand::Flushdb
        | RespCommand::Get
        | RespCommand::Getbit
        | RespCommand::Getdel
        | RespCommand::Getex
        | RespCommand::Getrange
        | RespCommand::Getset
        | RespCommand::Incr
        | RespCommand::Incrby
        | RespCommand::Incrbyfloat
        | RespCommand::Info
        | RespCommand::Keys
        | RespCommand::Mget
        | RespCommand::Mset
        | RespCommand::Msetnx
        | RespCommand::Object
        | RespCommand::Persist
        | RespCommand::Pexpire
        | RespCommand::Pexpireat
        | RespCommand::Pexpiretime
        | RespCommand::Ping
        | RespCommand::Psetex
        | RespCommand::Pttl
        | RespCommand::Randomkey
        | RespCommand::Range
        | RespCommand::Rename
        | RespCommand::Renamenx
        | RespCommand::Scan
        | RespCommand::Select
        | RespCommand::Set
        | RespCommand::Setbit
        | RespCommand::Setex
        | RespCommand::Setnx
        | RespCommand::Setrange
        | RespCommand::Strlen
        | RespCommand::Substr
        | RespCommand::Time
        | RespCommand::Touch
        | RespCommand::Ttl
        | RespCommand::Type
        | RespCommand::Unlink
        | RespCommand::Wait => match command.spec().kind {
            CommandKind::Walk => Place::Refuse,
            CommandKind::Read | CommandKind::Write | CommandKind::Control => Place::Queue,
        },
    }
}
