//! Commands that walk over ranges of keys: `SCAN`, `RANGE`, `DBSIZE`, `FLUSHALL`, `INFO`, `DEL` of very many keys, and those that
//! walk over connections.
//!
//! A walk begins when everything before it on its connection is answered, and what follows waits for it. It goes in bounded
//! steps through the same gateway as everybody else, so a walk over a billion keys takes long and harms nobody. It is not a
//! snapshot: keys that are written meanwhile may be seen or not; keys that stay are seen exactly once.

use std::rc::Rc;

use bytes::Bytes;

use super::client::Client;
use super::clients::{Kill, List};
use super::command::Command;
use super::cursor::Call;
use super::data::{REPLY_BYTES_MAX, refused, size};
use super::frame::integer;
use super::glob::{self, Pattern};
use super::reply::Writer;
use super::request::{Error, Request};
use super::server::Server;
use super::settings::{self, Measured, Section, Wanted};
use crate::process;
use crate::refusal::Refusal;
use crate::request::{Op, Out, Scan};

/// Keys per step of a walk that leaves the values out.
const KEYS_PER_STEP: usize = 1000;
/// Pairs per step of a walk with values.
const PAIRS_PER_STEP: usize = 64;
/// Keys that one `SCAN` looks at when the client does not say.
const SCAN_COUNT: usize = 10;
/// Pairs that one `RANGE` returns when the client does not say.
const RANGE_LIMIT: usize = 1000;
/// Most arguments of a command that has options and names no keys; more only repeat themselves.
const OPTIONS_MAX: usize = 64;
/// Deletes under way at once.
const DELETES_PER_STEP: usize = 128;

type Pairs = Vec<(Bytes, Bytes)>;

/// A walk, ready to begin.
#[derive(Debug)]
pub enum Walk {
    /// `SCAN`.
    Scan {
        /// The part of the range that is still to do.
        start: Bytes,
        /// The end of the range.
        end: Bytes,
        /// What keys must match.
        pattern: Option<Pattern>,
        /// Keys to look at.
        count: usize,
        /// The cursor that the scan goes on from.
        cursor: u64,
        /// The id of the connection that scans.
        owner: u64,
    },
    /// `SCAN` for a type that no value has.
    ScanNothing,
    /// `RANGE`.
    Range {
        /// The first step, with the whole limit.
        scan: Scan,
    },
    /// `DBSIZE`.
    Count,
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
pub fn plan(command: Command, request: &Request<'_>, server: &Server, owner: u64) -> Result<Walk, Error> {
    match command {
        Command::Scan => plan_scan(request, server, owner),
        Command::Range => plan_range(request),
        Command::Dbsize => Ok(Walk::Count),
        Command::Flushall | Command::Flushdb => {
            let ways = request.count() == 2 && (request.is(1, "SYNC") || request.is(1, "ASYNC"));
            if request.count() > 1 && !ways { Err(Error::SYNTAX) } else { Ok(Walk::Flush) }
        }
        Command::Info => Ok(Walk::Info(Wanted::read(request))),
        Command::Client if request.is(1, "KILL") => Kill::read(request).map(Walk::Kill),
        Command::Client => List::read(request).map(Walk::List),
        other => {
            debug_assert!(false, "{other:?} does not walk");
            Err(Error::unknown_command(request))
        }
    }
}

/// `SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]`.
fn plan_scan(request: &Request<'_>, server: &Server, owner: u64) -> Result<Walk, Error> {
    if request.count() > OPTIONS_MAX {
        return Err(Error::SYNTAX);
    }
    let cursor = std::str::from_utf8(request.arg(1)).ok().and_then(|text| text.parse::<u64>().ok());
    let cursor = cursor.ok_or(Error::constant("ERR invalid cursor"))?;
    let (mut pattern, mut count, mut strings) = (None, SCAN_COUNT, true);
    for index in (2..request.count()).step_by(2) {
        if index + 1 == request.count() {
            return Err(Error::SYNTAX);
        }
        match () {
            () if request.is(index, "MATCH") => pattern = Some(request.arg(index + 1)),
            () if request.is(index, "COUNT") => count = positive(request.integer(index + 1)?)?,
            () if request.is(index, "TYPE") => strings = request.is(index + 1, "string"),
            () => return Err(Error::SYNTAX),
        }
    }
    if !strings {
        return Ok(Walk::ScanNothing);
    }
    // The keys that can match lie together, so the others need not be looked at.
    let prefix = pattern.map(glob::literal_prefix).unwrap_or_default();
    let pattern = pattern.map(Pattern::new).transpose()?;
    let end = successor(&prefix);
    let start = match cursor {
        0 => prefix,
        cursor => server.config.cursors.recall(cursor, Call { owner, now: server.rt.now() }).ok_or_else(|| {
            Error::new(format!(
                "ERR cursor {cursor} is unknown here, its scan has gone on, or it was not used for long: begin again \
                 with SCAN 0"
            ))
        })?,
    };
    Ok(Walk::Scan { start: start.into(), end, pattern, count: count.min(KEYS_PER_STEP), cursor, owner })
}

/// `RANGE start end [LIMIT n] [REVERSE] [NOVALUES]`.
fn plan_range(request: &Request<'_>) -> Result<Walk, Error> {
    if request.count() > OPTIONS_MAX {
        return Err(Error::SYNTAX);
    }
    let mut scan =
        Scan { start: request.key(1)?, end: request.key(2)?, limit: RANGE_LIMIT, ..Scan::default() };
    let mut index = 3;
    while index < request.count() {
        match () {
            () if request.is(index, "REVERSE") => scan.reverse = true,
            () if request.is(index, "NOVALUES") => scan.key_only = true,
            () if request.is(index, "LIMIT") && index + 1 < request.count() => {
                index += 1;
                let limit = integer(request.arg(index)).and_then(|limit| usize::try_from(limit).ok());
                scan.limit = limit.ok_or(Error::NOT_AN_INTEGER)?;
            }
            () => return Err(Error::SYNTAX),
        }
        index += 1;
    }
    Ok(Walk::Range { scan })
}

fn positive(count: i64) -> Result<usize, Error> {
    usize::try_from(count).ok().filter(|&count| count > 0).ok_or(Error::SYNTAX)
}

/// The first key behind all keys that begin with `prefix`; empty when there is none.
fn successor(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|&byte| byte < 0xff).map_or(0, |last| last + 1);
    let mut end = prefix[..kept].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// The first key behind `key`.
fn behind(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

impl Walk {
    /// Walks for `client`, and returns the reply.
    pub async fn run(self, server: Rc<Server>, client: Rc<Client>) -> Vec<u8> {
        let mut said = Vec::new();
        let mut reply = Writer::new(&mut said, client.protocol());
        if let Err(error) = self.walk(&server, &client, &mut reply).await {
            reply.error(error.text());
        }
        said
    }

    /// As [`Walk::run`], into `reply`, unless there is an error instead.
    pub async fn walk(self, server: &Server, client: &Client, reply: &mut Writer<'_>) -> Result<(), Error> {
        match self {
            Walk::Scan { start, end, pattern, count, cursor, owner } => {
                let scan = Scan { start, end, limit: count, reverse: false, key_only: true };
                let found = step(server, scan).await?;
                let cursor = match found.last() {
                    Some((last, _)) if found.len() >= count => go_on(server, &behind(last), cursor, owner)?,
                    Some(_) | None => 0,
                };
                say_keys(cursor, &matching(server, &found, pattern.as_ref()).await, reply);
            }
            Walk::ScanNothing => say_keys(0, &[], reply),
            Walk::Range { scan } => say_range(range(server, scan.clone()).await?, scan.key_only, reply),
            Walk::Count => reply.integer(i64::try_from(count(server).await?).unwrap_or(i64::MAX)),
            Walk::Flush => {
                let everything = Op::DeleteRange { start: Bytes::new(), end: Bytes::new() };
                server.gateway.submit(None, everything).await.map_err(as_error)?;
                reply.ok();
            }
            Walk::Info(wanted) => {
                let measured = measure(server, &wanted).await;
                reply.verbatim(&settings::info(server, &wanted, measured));
            }
            Walk::List(list) => list.run(server, reply).await?,
            Walk::Kill(kill) => kill.run(server, client, reply).await?,
            Walk::Delete(ops) => reply.integer(size(delete(server, ops).await?)),
        }
        Ok(())
    }
}

/// A refusal as the error reply that it becomes.
pub fn as_error(refusal: Refusal) -> Error {
    Error::new(refused(&refusal))
}

async fn step(server: &Server, scan: Scan) -> Result<Pairs, Error> {
    match server.gateway.submit(None, Op::Scan(scan)).await.map_err(as_error)? {
        Out::Pairs(pairs) => Ok(pairs),
        _ => Err(Error::constant("ERR internal error: the store gave an answer of another kind")),
    }
}

/// The cursor of a scan that goes on at `key`.
fn go_on(server: &Server, key: &[u8], cursor: u64, owner: u64) -> Result<u64, Error> {
    let call = Call { owner, now: server.rt.now() };
    server.config.cursors.remember(key, cursor, call).ok_or(Error::constant(
        "ERR too many scans are under way on this node, try again later or use RANGE, which needs no cursor",
    ))
}

/// The keys that match, with a pause between those that take long.
async fn matching<'a>(server: &Server, found: &'a Pairs, pattern: Option<&Pattern>) -> Vec<&'a Bytes> {
    let Some(pattern) = pattern else { return found.iter().map(|(key, _)| key).collect() };
    let budget = server.rt.budget();
    let mut keys = Vec::new();
    for (key, _) in found {
        if pattern.matches(key) {
            keys.push(key);
        }
        budget.tick().await;
    }
    keys
}

fn say_keys(cursor: u64, keys: &[&Bytes], reply: &mut Writer<'_>) {
    reply.array(2);
    reply.bulk(cursor.to_string().as_bytes());
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.bulk(key));
}

/// All pairs of a range up to its limit.
async fn range(server: &Server, mut rest: Scan) -> Result<Pairs, Error> {
    let budget = server.rt.budget();
    let (limit, per_step) = (rest.limit, if rest.key_only { KEYS_PER_STEP } else { PAIRS_PER_STEP });
    let (mut all, mut bytes) = (Pairs::new(), 0);
    while all.len() < limit {
        rest.limit = per_step.min(limit - all.len());
        let found = step(server, rest.clone()).await?;
        bytes += found.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if bytes > REPLY_BYTES_MAX {
            return Err(Error::REPLY_TOO_BIG);
        }
        let complete = found.len() < rest.limit;
        match found.last() {
            Some((last, _)) if rest.reverse => rest.end = last.clone(),
            Some((last, _)) => rest.start = behind(last),
            None => {}
        }
        all.extend(found);
        // An empty end would mean no end, but nothing lies before the empty key.
        if complete || (rest.reverse && rest.end.is_empty()) {
            break;
        }
        budget.tick().await;
    }
    Ok(all)
}

fn say_range(pairs: Pairs, key_only: bool, reply: &mut Writer<'_>) {
    reply.array(if key_only { pairs.len() } else { 2 * pairs.len() });
    for (key, value) in &pairs {
        reply.bulk(key);
        if !key_only {
            reply.bulk(value);
        }
    }
}

/// What `INFO` says that has to be asked for.
async fn measure(server: &Server, wanted: &Wanted) -> Measured {
    let resident_bytes = match wanted.has(Section::Memory) {
        true => server.rt.blocking(process::resident_bytes).await.ok().flatten(),
        false => None,
    };
    let counted = match wanted.has(Section::Keyspace) {
        true if wanted.count_keys => Some(count(server).await),
        true => Some(count_few(server).await),
        false => None,
    };
    let (keys, uncounted) = match counted {
        Some(Ok(keys)) => (Some(keys), None),
        // A store that cannot be read takes nothing else of `INFO` away.
        Some(Err(error)) => (Some(trees_estimate(server)), Some(error)),
        None => (None, None),
    };
    Measured { keys, uncounted, resident_bytes }
}

/// About how many keys there are: exact as long as one step reaches them all, from there on what the trees estimate.
async fn count_few(server: &Server) -> Result<u64, Error> {
    let first = Scan { limit: KEYS_PER_STEP, key_only: true, ..Scan::default() };
    let found = step(server, first).await?.len();
    Ok(if found < KEYS_PER_STEP { found as u64 } else { trees_estimate(server).max(found as u64) })
}

/// How many keys the trees of the node estimate, some seconds ago.
fn trees_estimate(server: &Server) -> u64 {
    server.config.board.as_ref().map_or(0, |board| board.read().iter().map(|core| core.keys).sum())
}

async fn count(server: &Server) -> Result<u64, Error> {
    let budget = server.rt.budget();
    let mut rest = Scan { limit: KEYS_PER_STEP, key_only: true, ..Scan::default() };
    let mut keys = 0;
    loop {
        let found = step(server, rest.clone()).await?;
        keys += found.len() as u64;
        match found.last() {
            Some((last, _)) if found.len() >= KEYS_PER_STEP => rest.start = behind(last),
            _ => return Ok(keys),
        }
        budget.tick().await;
    }
}

async fn delete(server: &Server, ops: Vec<Op>) -> Result<usize, Error> {
    let budget = server.rt.budget();
    let (mut ops, mut existed) = (ops.into_iter().peekable(), 0);
    while ops.peek().is_some() {
        let running: Vec<_> =
            ops.by_ref().take(DELETES_PER_STEP).map(|op| server.gateway.submit(None, op)).collect();
        for submitted in running {
            existed += usize::from(submitted.await.map_err(as_error)? == Out::Existed(true));
        }
        budget.tick().await;
    }
    Ok(existed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_ends_a_prefix() {
        for (prefix, end) in [(&b"ab"[..], &b"ac"[..]), (b"a\xff", b"b"), (b"\xff\xff", b""), (b"", b"")] {
            assert_eq!(successor(prefix), end);
        }
    }
}
