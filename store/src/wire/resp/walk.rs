//! Commands that walk over ranges of keys: `SCAN`, `RANGE`, `KEYS`, `RANDOMKEY`, `DBSIZE`, `FLUSHALL`, `INFO`, `DEL` of very many keys, and those that
//! walk over connections.
//!
//! A walk begins when everything before it on its connection is answered, and what follows waits for it. It goes in bounded
//! steps through the same gateway as every other command, so a walk over a billion keys takes long and delays no other client. It is not a
//! snapshot: keys that are written meanwhile may be seen or not; keys that stay are seen exactly once.

use std::rc::Rc;

use bytes::Bytes;

use super::client::ConnectionState;
use super::clients::{Kill, List};
use super::command::RespCommand;
use super::count::{count, measure};
use super::data::{refused, size};
use super::keys::{KeyList, random_key};
use super::range::Range;
use super::reply::Writer;
use super::request::{CommandLine, Error};
use super::scan::KeyScan;
use super::server::Server;
use super::settings::{self, Wanted};
use crate::gateway::StreamId;
use crate::refusal::Refusal;
use crate::request::{Op, Out, Scan};

/// Keys per step of a walk that leaves the values out.
pub(super) const KEYS_PER_STEP: usize = 1000;
/// Maximum number of arguments of a command that has options and names no keys; more only repeat themselves.
pub(super) const OPTIONS_MAX: usize = 64;
/// Deletes in flight at once.
const DELETES_PER_STEP: usize = 128;

/// What a step finds.
pub(super) type Pairs = Vec<(Bytes, Bytes)>;

/// A walk, ready to begin.
#[derive(Debug)]
pub enum Walk {
    /// `SCAN`.
    Scan(KeyScan),
    /// `RANGE`.
    Range(Range),
    /// `DBSIZE`.
    Count,
    /// `KEYS`.
    Keys(KeyList),
    /// `RANDOMKEY`.
    RandomKey,
    /// `FLUSHALL` and `FLUSHDB`.
    Flush,
    /// `INFO`.
    Info(Wanted),
    /// `DEL` and `UNLINK` of many keys.
    Delete(Vec<Op>),
    /// `CLIENT LIST`.
    List(List),
    /// `CLIENT KILL`.
    Kill(Kill),
}

/// Reads the arguments of a walking command. The arity has been checked.
pub fn plan(
    command: RespCommand,
    request: &CommandLine<'_>,
    server: &Server,
    owner: u64,
) -> Result<Walk, Error> {
    match command {
        RespCommand::Scan => KeyScan::read(request, server, owner).map(Walk::Scan),
        RespCommand::Range => Range::read(request).map(Walk::Range),
        RespCommand::Dbsize => Ok(Walk::Count),
        RespCommand::Keys => KeyList::read(request).map(Walk::Keys),
        RespCommand::Randomkey => Ok(Walk::RandomKey),
        RespCommand::Flushall | RespCommand::Flushdb => {
            let ways = request.count() == 2 && (request.is(1, "SYNC") || request.is(1, "ASYNC"));
            if request.count() > 1 && !ways { Err(Error::SYNTAX) } else { Ok(Walk::Flush) }
        }
        RespCommand::Info => Ok(Walk::Info(Wanted::read(request))),
        RespCommand::Client if request.is(1, "KILL") => Kill::read(request).map(Walk::Kill),
        RespCommand::Client => List::read(request).map(Walk::List),
        other => {
            debug_assert!(false, "{other:?} does not walk");
            Err(Error::unknown_command(request))
        }
    }
}

/// The first key after `key`.
pub(super) fn after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

impl Walk {
    /// Walks for `client`, and returns the reply.
    pub async fn run(self, server: Rc<Server>, client: Rc<ConnectionState>) -> Vec<u8> {
        let mut said = Vec::new();
        let mut reply = Writer::new(&mut said, client.protocol());
        if let Err(error) = self.walk(&server, &client, &mut reply).await {
            reply.error(error.text());
        }
        said
    }

    /// As [`Walk::run`], into `reply`, unless there is an error instead.
    pub async fn walk(
        self,
        server: &Server,
        client: &ConnectionState,
        reply: &mut Writer<'_>,
    ) -> Result<(), Error> {
        match self {
            Walk::Scan(scan) => scan.run(server, reply).await?,
            Walk::Range(range) => range.run(server, reply).await?,
            Walk::Count => reply.integer(i64::try_from(count(server).await?).unwrap_or(i64::MAX)),
            Walk::Keys(list) => list.run(server, reply).await?,
            Walk::RandomKey => reply.bulk_or_null(random_key(server).await?.as_deref()),
            Walk::Flush => {
                let everything = Op::DeleteRange { start: Bytes::new(), end: Bytes::new() };
                server.gateway.submit_in(client.stream(), None, everything).await.map_err(as_error)?;
                reply.ok();
            }
            Walk::Info(wanted) => {
                let measured = measure(server, &wanted).await;
                reply.verbatim(&settings::info(server, &wanted, measured));
            }
            Walk::List(list) => list.run(server, reply).await?,
            Walk::Kill(kill) => kill.run(server, client, reply).await?,
            Walk::Delete(ops) => reply.integer(size(delete(server, client.stream(), ops).await?)),
        }
        Ok(())
    }
}

/// A refusal as the error reply that it becomes.
pub fn as_error(refusal: Refusal) -> Error {
    Error::new(refused(&refusal))
}

/// One step of a walk.
pub(super) async fn step(server: &Server, scan: Scan) -> Result<Pairs, Error> {
    match server.gateway.submit(None, Op::Scan(scan)).await.map_err(as_error)? {
        Out::Pairs(pairs) => Ok(pairs),
        _ => Err(Error::constant("ERR internal error: the store returned an answer of another kind")),
    }
}

async fn delete(server: &Server, stream: StreamId, ops: Vec<Op>) -> Result<usize, Error> {
    let budget = server.rt.budget();
    let (mut ops, mut existed) = (ops.into_iter().peekable(), 0);
    while ops.peek().is_some() {
        let start = |op| server.gateway.submit_in(stream, None, op);
        let running: Vec<_> = ops.by_ref().take(DELETES_PER_STEP).map(start).collect();
        for submitted in running {
            existed += usize::from(submitted.await.map_err(as_error)? == Out::Existed(true));
        }
        budget.tick().await;
    }
    Ok(existed)
}
