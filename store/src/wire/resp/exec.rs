//! `WATCH` and `EXEC`: a transaction as one operation of the store, and its outcomes as one reply.
//!
//! Both begin when everything before them on their connection is answered. What waits for `EXEC`, and what a connection watches,
//! is kept by its [`Transaction`](super::transaction::Transaction).
//!
//! Bounds: values are bounded by the store, as the answer to one operation. Replies to commands that name no keys have a bound each, and a
//! transaction has thousands of them, so their sum is bounded here ([`Untouched`]): what does not fit is an error in its place. The
//! reply is charged to the core as it grows.

use std::mem;
use std::rc::Rc;

use bytes::Bytes;

use super::client::ConnectionState;
use super::command::RespCommand;
use super::control;
use super::data::{REPLY_BYTES_MAX, ReplyShape, Work, refused, size};
use super::frame::{FrameLimits, Parsed, Parser};
use super::reply::Writer;
use super::request::{CommandLine, Error};
use super::server::Server;
use super::subcommand;
use super::transaction::Queued;
use super::walk::{self, Walk, as_error};
use crate::memory::{AnswerBytes, Memory};
use crate::request::{Atomic, Op, Out, Outcome};

/// A reply that is not longer than the error that would take its place, bytes.
const SHORT_BYTES: usize = 128;

const SHORT_OF_MEMORY: Error =
    Error::constant("TRYAGAIN answers that are not sent yet hold all memory, try again in 100 ms");

/// Carries `WATCH` out. Everything before it is answered.
pub async fn watch(server: Rc<Server>, client: Rc<ConnectionState>, keys: Vec<Bytes>) -> Vec<u8> {
    let mut said = Vec::new();
    let mut reply = Writer::new(&mut said, client.protocol());
    let room = client.transaction.borrow().room_to_watch(server.gateway.memory(), &keys);
    let room = match room {
        Ok(room) => room,
        Err(error) => {
            reply.error(error.text());
            return said;
        }
    };
    match server.gateway.submit_in(client.stream(), None, Op::Watch { keys: keys.clone() }).await {
        Ok(Out::Seen(seen)) => {
            client.transaction.borrow_mut().watch(keys, seen, room);
            reply.ok();
        }
        Ok(_) => reply.error(WRONG_KIND),
        Err(refusal) => reply.error(&refused(&refusal)),
    }
    said
}

const WRONG_KIND: &str = "ERR internal error: the store returned an answer of another kind";

/// Carries `EXEC` out. Everything before it is answered.
pub async fn exec(server: Rc<Server>, client: Rc<ConnectionState>) -> Vec<u8> {
    let said = run(&server, &client).await;
    // Up to here others see the transaction.
    client.show_queued();
    said
}

async fn run(server: &Rc<Server>, client: &ConnectionState) -> Vec<u8> {
    let mut said = Vec::new();
    let mut reply = Writer::new(&mut said, client.protocol());
    // The charge lies in what has ended, until the answer is written.
    let mut ended = match client.transaction.borrow_mut().end() {
        Ok(ended) => ended,
        Err(error) => {
            reply.error(error.text());
            return said;
        }
    };
    let (queued, steps) = steps(mem::take(&mut ended.queued));
    let watched = mem::take(&mut ended.watched);
    let outcomes = if steps.is_empty() && watched.is_empty() {
        Ok(Some(Vec::new()))
    } else {
        match server.gateway.submit_in(client.stream(), None, Op::Atomic(Atomic { watched, steps })).await {
            Ok(Out::Atomic(outcomes)) => Ok(outcomes),
            Ok(_) => Err(WRONG_KIND.to_owned()),
            Err(refusal) => Err(refused(&refusal)),
        }
    };
    match outcomes {
        Err(error) => reply.error(&error),
        Ok(None) => reply.null_array(),
        Ok(Some(outcomes)) => say_all(server, client, queued, outcomes, &mut said).await,
    }
    said
}

/// A queued command once its work is with the store.
enum Asked {
    /// This many outcomes are its own.
    Data(RespCommand, ReplyShape, usize),
    /// As above, and they are counted together.
    Counted(RespCommand, usize),
    Failed(RespCommand, Error),
    Control(RespCommand, Box<[u8]>),
}

fn steps(queued: Vec<Queued>) -> (Vec<Asked>, Vec<Op>) {
    let mut steps = Vec::new();
    let asked = queued.into_iter().map(|queued| match queued {
        // What is a transaction of one step by itself.
        Queued::Data(command, Ok((Work::One(Op::Atomic(alone)), shape))) => {
            let count = alone.steps.len();
            steps.extend(alone.steps);
            Asked::Data(command, shape, count)
        }
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
    client: &ConnectionState,
    asked: Vec<Asked>,
    outcomes: Vec<Outcome>,
    said: &mut Vec<u8>,
) {
    let (budget, protocol) = (server.rt.budget(), client.protocol());
    // From its end on the reply is the session's, which charges it.
    let mut charge = server.gateway.memory().output.charge(0);
    let mut untouched = Untouched::default();
    let mut outcomes = outcomes.into_iter();
    Writer::new(said, protocol).array(asked.len());
    for asked in asked {
        let mut reply = Writer::new(said, protocol);
        let command = match asked {
            Asked::Data(command, shape, count) => {
                for outcome in outcomes.by_ref().take(count) {
                    server.counters.looked_up(shape.lookups(&outcome));
                    shape.write(outcome, &server.gateway.memory().appended, &mut reply);
                    budget.tick().await;
                }
                command
            }
            Asked::Counted(command, count) => {
                say_counted(outcomes.by_ref().take(count), &mut reply);
                command
            }
            Asked::Failed(command, error) => {
                reply.error(error.text());
                command
            }
            Asked::Control(command, frame) => {
                untouched.say(server, client, command, &frame, said).await;
                command
            }
        };
        charge.set(said.capacity());
        server.counters.commands[command as usize].add_one();
        budget.tick().await;
    }
}

/// What one `EXEC` has said to commands that name no keys.
#[derive(Default)]
struct Untouched {
    bytes: usize,
    /// Why nothing long is said any more.
    full: Option<Error>,
}

impl Untouched {
    /// Carries a kept command out and says its reply, or an error instead where all of them would come to too much.
    async fn say(
        &mut self,
        server: &Rc<Server>,
        client: &ConnectionState,
        command: RespCommand,
        frame: &[u8],
        said: &mut Vec<u8>,
    ) {
        let mut part = Vec::new();
        let mut reply = Writer::new(&mut part, client.protocol());
        say_control(server, client, command, frame, &mut self.full, &mut reply).await;
        match self.room_for(server.gateway.memory(), part.len()) {
            Ok(()) => {
                self.bytes += part.len();
                said.extend_from_slice(&part);
            }
            Err(error) => {
                Writer::new(said, client.protocol()).error(error.text());
                self.full = Some(error);
            }
        }
    }

    /// Whether a reply of `bytes` may be said, too.
    ///
    /// # Errors
    /// It may not. From now on nothing long is.
    fn room_for(&self, memory: &Memory, bytes: usize) -> Result<(), Error> {
        if bytes <= SHORT_BYTES {
            return Ok(());
        }
        if let Some(error) = &self.full {
            return Err(error.clone());
        }
        // All of it exists three times for a moment: a vector that grows has up to twice its length, and it is copied once more.
        let bytes_max = REPLY_BYTES_MAX.min(memory.answer_bytes_max() / 3);
        AnswerBytes::new(bytes_max, self.bytes).add(bytes).map_err(as_error)?;
        memory.output.has_room(2 * bytes).then_some(()).ok_or(SHORT_OF_MEMORY)
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

/// Carries a kept command out that touches no key. A list of connections waits for room, so after
/// one that had none, `full` says why, no other is begun.
async fn say_control(
    server: &Rc<Server>,
    client: &ConnectionState,
    command: RespCommand,
    frame: &[u8],
    full: &mut Option<Error>,
    reply: &mut Writer<'_>,
) {
    let mut parser = Parser::default();
    match parser.parse(frame, &FrameLimits::OPEN) {
        Ok(Parsed::Command { .. }) => {
            let request = CommandLine::new(&parser, frame);
            if !subcommand::is_walk(command, &request) {
                control::run(command, &request, server, client, reply);
                return;
            }
            let planned = walk::plan(command, &request, server, client.entry.id);
            let lists = matches!(planned, Ok(Walk::List(_)));
            let walked = match (planned, &*full) {
                (Ok(Walk::List(_)), Some(full)) => Err(full.clone()),
                (Ok(walk), _) => walk.walk(server, client, reply).await,
                (Err(error), _) => Err(error),
            };
            if let Err(error) = walked {
                reply.error(error.text());
                if lists {
                    *full = Some(error);
                }
            }
        }
        // It was whole and correct when it was kept, so these are bugs.
        Ok(cut @ (Parsed::Incomplete | Parsed::Nothing { .. })) => {
            debug_assert!(false, "a command was kept that is none: {cut:?}");
            reply.error("ERR internal error: a queued command is not whole any more");
        }
        Err(malformed) => {
            debug_assert!(false, "a command was kept that cannot be read: {malformed}");
            reply
                .error(&format!("ERR internal error: a queued command cannot be read any more: {malformed}"));
        }
    }
}
