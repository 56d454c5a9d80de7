//! `MULTI`, `EXEC`, `DISCARD`, `WATCH` and `UNWATCH`: commands that take effect together or not at all.
//!
//! Commands after `MULTI` are read, checked and kept. `EXEC` hands all of them to the store as one operation
//! ([`Atomic`]), which runs them in order as one step. That is possible for the keys of one region. Where the keys lie in
//! more than one, `EXEC` answers `CROSSSLOT` and nothing has happened; nor has it after any other error that takes the
//! place of the array. A command that fails alone (an addition to a text) does not stop the others, as in Redis. What Redis
//! would carry out and this server cannot (a key that expires, another database) is refused when it is queued, and then `EXEC`
//! refuses the whole.
//!
//! A watched key counts as changed when a write of it began after `WATCH` was answered, also when it left the same value, and
//! the write of the own connection included. Now and then `EXEC` answers null although nothing was written: when a range was
//! deleted, when the leader changed, or when the store watches too many keys.
//!
//! Bounds: [`COMMANDS_MAX`] commands and [`BYTES_MAX`] of them. Too many, like any command that is refused while it is
//! queued, make `EXEC` refuse the whole. A connection with a transaction moves to no other core.

use std::mem;
use std::rc::Rc;

use bytes::Bytes;

use super::client::Client;
use super::command::{Command, Kind};
use super::control;
use super::data::{self, Shape, Work, refused, size};
use super::frame::{Limits, Parsed, Parser};
use super::reply::{Protocol, Writer};
use super::request::{Error, Request};
use super::server::Server;
use super::subcommand;
use super::walk;
use crate::memory::{Charge, Memory};
use crate::request::{Atomic, Op, Out, Outcome, Seen};

/// Commands of one transaction.
pub const COMMANDS_MAX: usize = 8192;
/// Requests of one transaction, bytes.
pub const BYTES_MAX: usize = 16 << 20;
/// Keys that one connection watches.
const WATCHED_MAX: usize = 1024;

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
    watched: Vec<(Bytes, Seen)>,
}

#[derive(Debug)]
enum Queued {
    /// Work for the store, or the error that takes its place.
    Data(Command, Result<(Work, Shape), Error>),
    /// Touches no key: the command as it came.
    Control(Command, Box<[u8]>),
}

impl Queued {
    /// Reads a command that is to be kept.
    ///
    /// # Errors
    /// This server cannot carry it out as Redis would, so what is around it must not take effect either.
    fn read(command: Command, request: &Request<'_>) -> Result<Self, Error> {
        let touches_keys = match command.spec().kind {
            // No key expires, so this one is answered without looking.
            Kind::Read | Kind::Write => command != Command::Persist && !subcommand::is_help(command, request),
            Kind::Control | Kind::Walk => false,
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
    pub fn takes(&self, command: Command) -> bool {
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
        self.watched = Vec::new();
    }

    /// Keeps a command for `EXEC`. `frame` is what it came as, of `bytes`.
    pub fn queue(
        &mut self,
        memory: &Memory,
        command: Command,
        request: &Request<'_>,
        bytes: usize,
    ) -> Result<(), Error> {
        let outcome = self.try_queue(memory, command, request, bytes);
        if outcome.is_err() {
            self.refuse();
        }
        outcome
    }

    fn try_queue(
        &mut self,
        memory: &Memory,
        command: Command,
        request: &Request<'_>,
        bytes: usize,
    ) -> Result<(), Error> {
        if place(command) == Place::Refuse {
            let name = command.spec().name.to_ascii_uppercase();
            return Err(Error::new(format!(
                "ERR {name} is not supported in a transaction, which is atomic for named keys of one region"
            )));
        }
        if self.refused {
            return Ok(());
        }
        if self.queued.len() >= COMMANDS_MAX {
            return Err(Error::new(format!("ERR a transaction has at most {COMMANDS_MAX} commands")));
        }
        if self.bytes + bytes > BYTES_MAX {
            return Err(Error::new(format!("ERR a transaction has at most {BYTES_MAX} bytes of commands")));
        }
        let Some(charge) = memory.input.try_charge(bytes) else {
            return Err(Error::constant("TRYAGAIN the core is short of memory, try again in 20 ms"));
        };
        let queued = Queued::read(command, request)?;
        self.charge.join(charge);
        self.bytes += bytes;
        self.queued.push(queued);
        Ok(())
    }
}

fn place(command: Command) -> Place {
    match command {
        Command::Multi
        | Command::Exec
        | Command::Discard
        | Command::Watch
        | Command::Unwatch
        | Command::Quit
        | Command::Reset => Place::Now,
        // These change what the connection is, or must be able to wait.
        Command::Hello | Command::Auth => Place::Refuse,
        command if command.spec().kind == Kind::Walk => Place::Refuse,
        _ => Place::Queue,
    }
}

/// Carries `WATCH` out. Everything before it is answered.
pub async fn watch(server: Rc<Server>, client: Rc<Client>, keys: Vec<Bytes>, protocol: Protocol) -> Vec<u8> {
    let mut said = Vec::new();
    let mut reply = Writer::new(&mut said, protocol);
    if client.transaction.borrow().watched.len() + keys.len() > WATCHED_MAX {
        reply.error(&format!("ERR a connection watches at most {WATCHED_MAX} keys"));
        return said;
    }
    match server.gateway.submit(None, Op::Watch { keys: keys.clone() }).await {
        Ok(Out::Seen(seen)) => {
            let watched = &mut client.transaction.borrow_mut().watched;
            for (key, seen) in keys.into_iter().zip(seen) {
                // What was seen first is what the client may have acted on.
                if watched.iter().all(|(other, _)| *other != key) {
                    watched.push((key, seen));
                }
            }
            reply.ok();
        }
        Ok(_) => reply.error(WRONG_KIND),
        Err(refusal) => reply.error(&refused(&refusal)),
    }
    said
}

const WRONG_KIND: &str = "ERR internal error: the store gave an answer of another kind";

/// Carries `EXEC` out. Everything before it is answered.
pub async fn exec(server: Rc<Server>, client: Rc<Client>, protocol: Protocol) -> Vec<u8> {
    let said = run(&server, &client, protocol).await;
    // Up to here others see the transaction.
    client.show_queued();
    said
}

async fn run(server: &Rc<Server>, client: &Client, protocol: Protocol) -> Vec<u8> {
    let mut said = Vec::new();
    let mut reply = Writer::new(&mut said, protocol);
    let Transaction { open, refused: dirty, queued, watched, bytes: _, charge: _held } =
        mem::take(&mut *client.transaction.borrow_mut());
    if !open {
        client.transaction.borrow_mut().watched = watched;
        reply.error("ERR EXEC without MULTI");
        return said;
    }
    if dirty {
        reply.error("EXECABORT Transaction discarded because of previous errors.");
        return said;
    }
    let (queued, steps) = steps(queued);
    let outcomes = if steps.is_empty() && watched.is_empty() {
        Ok(Some(Vec::new()))
    } else {
        match server.gateway.submit(None, Op::Atomic(Atomic { watched, steps })).await {
            Ok(Out::Atomic(outcomes)) => Ok(outcomes),
            Ok(_) => Err(WRONG_KIND.to_owned()),
            Err(refusal) => Err(refused(&refusal)),
        }
    };
    match outcomes {
        Err(error) => reply.error(&error),
        Ok(None) => reply.null_array(),
        Ok(Some(outcomes)) => say_all(server, client, queued, outcomes, &mut reply).await,
    }
    said
}

/// A queued command once its work is with the store.
enum Asked {
    /// So many outcomes are its own.
    Data(Command, Shape, usize),
    /// As above, and they are counted together.
    Counted(Command, usize),
    Failed(Command, Error),
    Control(Command, Box<[u8]>),
}

fn steps(queued: Vec<Queued>) -> (Vec<Asked>, Vec<Op>) {
    let mut steps = Vec::new();
    let asked = queued.into_iter().map(|queued| match queued {
        Queued::Data(command, Ok((Work::One(op), shape))) => {
            steps.push(op);
            Asked::Data(command, shape, 1)
        }
        Queued::Data(command, Ok((Work::Each(ops), _))) => {
            let count = ops.len();
            steps.extend(ops);
            Asked::Counted(command, count)
        }
        Queued::Data(command, Err(error)) => Asked::Failed(command, error),
        Queued::Control(command, frame) => Asked::Control(command, frame),
    });
    (asked.collect(), steps)
}

async fn say_all(
    server: &Rc<Server>,
    client: &Client,
    asked: Vec<Asked>,
    outcomes: Vec<Outcome>,
    reply: &mut Writer<'_>,
) {
    let budget = server.rt.budget();
    let mut outcomes = outcomes.into_iter();
    reply.array(asked.len());
    for asked in asked {
        let command = match asked {
            Asked::Data(command, shape, count) => {
                for outcome in outcomes.by_ref().take(count) {
                    server.counters.looked_up(shape.lookups(&outcome));
                    shape.write(outcome, reply);
                }
                command
            }
            Asked::Counted(command, count) => {
                say_counted(outcomes.by_ref().take(count), reply);
                command
            }
            Asked::Failed(command, error) => {
                reply.error(error.text());
                command
            }
            Asked::Control(command, frame) => {
                say_control(server, client, command, &frame, reply).await;
                command
            }
        };
        server.counters.commands[command as usize].add_one();
        budget.tick().await;
    }
}

fn say_counted(outcomes: impl Iterator<Item = Outcome>, reply: &mut Writer<'_>) {
    let (mut existed, mut refusal) = (0, None);
    for outcome in outcomes {
        match outcome {
            Ok(out) => existed += usize::from(out == Out::Existed(true)),
            Err(why) => refusal = Some(why),
        }
    }
    match refusal {
        None => reply.integer(size(existed)),
        Some(refusal) => reply.error(&refused(&refusal)),
    }
}

/// Carries a kept command out that touches no key.
async fn say_control(
    server: &Rc<Server>,
    client: &Client,
    command: Command,
    frame: &[u8],
    reply: &mut Writer<'_>,
) {
    let mut parser = Parser::default();
    match parser.parse(frame, &Limits::OPEN) {
        Ok(Parsed::Command { .. }) => {
            let request = Request::new(&parser, frame);
            if !subcommand::is_walk(command, &request) {
                control::run(command, &request, server, client, reply);
                return;
            }
            let walked = match walk::plan(command, &request, server, client.entry.id) {
                Ok(walk) => walk.walk(server, client, reply).await,
                Err(error) => Err(error),
            };
            if let Err(error) = walked {
                reply.error(error.text());
            }
        }
        Ok(Parsed::Incomplete | Parsed::Nothing { .. }) | Err(_) => {
            debug_assert!(false, "a command was kept that is none");
            reply.error("ERR internal error: a queued command was lost");
        }
    }
}
