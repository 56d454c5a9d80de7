//! `WATCH` and `EXEC`: a transaction as one operation of the store, and its outcomes as one reply.
//!
//! Both begin when everything before them on their connection is answered. What waits for `EXEC`, and what a connection watches,
//! is kept by its [`Transaction`](super::transaction::Transaction).

use std::mem;
use std::rc::Rc;

use bytes::Bytes;

use super::client::Client;
use super::command::Command;
use super::control;
use super::data::{Shape, Work, refused, size};
use super::frame::{Limits, Parsed, Parser};
use super::reply::{Protocol, Writer};
use super::request::{Error, Request};
use super::server::Server;
use super::subcommand;
use super::transaction::Queued;
use super::walk;
use crate::request::{Atomic, Op, Out, Outcome};

/// Carries `WATCH` out. Everything before it is answered.
pub async fn watch(server: Rc<Server>, client: Rc<Client>, keys: Vec<Bytes>, protocol: Protocol) -> Vec<u8> {
    let mut said = Vec::new();
    let mut reply = Writer::new(&mut said, protocol);
    let room = client.transaction.borrow().room_to_watch(server.gateway.memory(), &keys);
    let room = match room {
        Ok(room) => room,
        Err(error) => {
            reply.error(error.text());
            return said;
        }
    };
    match server.gateway.submit(None, Op::Watch { keys: keys.clone() }).await {
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
pub async fn exec(server: Rc<Server>, client: Rc<Client>, protocol: Protocol) -> Vec<u8> {
    let said = run(&server, &client, protocol).await;
    // Up to here others see the transaction.
    client.show_queued();
    said
}

async fn run(server: &Rc<Server>, client: &Client, protocol: Protocol) -> Vec<u8> {
    let mut said = Vec::new();
    let mut reply = Writer::new(&mut said, protocol);
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
    /// This many outcomes are its own.
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
