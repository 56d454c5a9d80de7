//! `SCAN`: all keys in order, some at a time, and where the next call goes on.
//!
//! A call is one step over the keys that can match. What its cursor stands for is remembered by the node ([`cursor`](super::cursor)).

use bytes::Bytes;

use super::cursor::Caller;
use super::glob::{self, Pattern};
use super::reply::Writer;
use super::request::{CommandLine, Error};
use super::server::Server;
use super::walk::{KEYS_PER_STEP, OPTIONS_MAX, Pairs, after, step};
use crate::request::Scan;

/// Keys that one `SCAN` looks at when the client does not say.
const SCAN_COUNT: usize = 10;

/// One call of `SCAN`, ready to begin.
#[derive(Debug)]
pub enum KeyScan {
    /// Over some keys.
    Step {
        /// The part of the range that is still to do.
        start: Bytes,
        /// The exclusive end of the range; empty means unbounded.
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
    /// For a type that no value has.
    Nothing,
}

impl KeyScan {
    /// Reads `SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]`.
    pub(super) fn read(request: &CommandLine<'_>, server: &Server, owner: u64) -> Result<Self, Error> {
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
            return Ok(KeyScan::Nothing);
        }
        // The keys that can match lie together, so the others need not be looked at.
        let prefix = pattern.map(glob::literal_prefix).unwrap_or_default();
        let pattern = pattern.map(Pattern::new).transpose()?;
        let end = successor(&prefix);
        let start = match cursor {
        0 => prefix,
        cursor => server.config.cursors.recall(cursor, Caller { owner, now: server.rt.now() }).ok_or_else(|| {
            Error::new(format!(
                "ERR cursor {cursor} is unknown here, its scan has gone on, or it was not used for long: begin again \
                 with SCAN 0"
            ))
        })?,
    };
        let count = count.min(KEYS_PER_STEP);
        Ok(KeyScan::Step { start: start.into(), end, pattern, count, cursor, owner })
    }

    /// Carries the call out.
    pub(super) async fn run(self, server: &Server, reply: &mut Writer<'_>) -> Result<(), Error> {
        let KeyScan::Step { start, end, pattern, count, cursor, owner } = self else {
            say_keys(0, &[], reply);
            return Ok(());
        };
        let scan = Scan { start, end, limit: count, key_only: true, ..Scan::default() };
        let found = step(server, scan).await?;
        let cursor = match found.last() {
            Some((last, _)) if found.len() >= count => go_on(server, &after(last), cursor, owner)?,
            Some(_) | None => 0,
        };
        say_keys(cursor, &matching(server, &found, pattern.as_ref()).await, reply);
        Ok(())
    }
}

fn positive(count: i64) -> Result<usize, Error> {
    usize::try_from(count).ok().filter(|&count| count > 0).ok_or(Error::SYNTAX)
}

/// The first key after all keys that begin with `prefix`; empty when there is none.
pub(super) fn successor(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|&byte| byte < 0xff).map_or(0, |last| last + 1);
    let mut end = prefix[..kept].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// The cursor of a scan that goes on at `key`.
fn go_on(server: &Server, key: &[u8], cursor: u64, owner: u64) -> Result<u64, Error> {
    let call = Caller { owner, now: server.rt.now() };
    server.config.cursors.remember(key, cursor, call).ok_or(Error::constant(
        "ERR too many scans are in progress on this node, try again later or use RANGE, which needs no cursor",
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::rc::Rc;

    use engine::rt::Rt;
    use engine::rt::sim::{Options, World};

    use super::*;
    use crate::descriptors::Descriptors;
    use crate::descriptors::silent::{PortEntry, Speaks};
    use crate::gateway::Gateway;
    use crate::wire::resp::connections::Connections;
    use crate::wire::resp::counters::Counters;
    use crate::wire::resp::cursor::Cursors;
    use crate::wire::resp::server::{Config, Facts};

    #[test]
    fn the_successor_ends_a_prefix() {
        for (prefix, end) in [(&b"ab"[..], &b"ac"[..]), (b"a\xff", b"b"), (b"\xff\xff", b""), (b"", b"")] {
            assert_eq!(successor(prefix), end);
        }
    }

    /// Matching many keys lets others run. In the simulated world a look at the clock takes time, so this needs no wait.
    #[test]
    fn matching_pauses_between_keys() {
        let world = World::new(5, Options::default());
        let matching_many = |rt: Rt| async move {
            let config = Config {
                password: None,
                connections_max: 1,
                pipeline_max: 1,
                cursors: Cursors::new(0),
                connections: Connections::default(),
                board: None,
                descriptors: Descriptors::default(),
                facts: Facts::default(),
            };
            let server = Server::new(
                rt,
                Gateway::in_memory(),
                config,
                Rc::new(Counters::default()),
                PortEntry::new(Speaks::Resp).0,
            );
            let found: Pairs = (0..20_000).map(|n| (Bytes::from(format!("key{n}")), Bytes::new())).collect();
            let pattern = Pattern::new(b"*9").unwrap();
            let mut matched = pin!(matching(&server, &found, Some(&pattern)));
            let mut pauses = 0;
            let keys = poll_fn(|cx| {
                let polled = matched.as_mut().poll(cx);
                pauses += u32::from(polled.is_pending());
                polled
            })
            .await;
            (keys.len(), pauses)
        };
        let (keys, pauses) = world.block_on(world.node(0).start(0, matching_many)).unwrap();
        assert_eq!(keys, 2000);
        assert!(pauses > 5, "{pauses} pauses in 20,000 keys");
    }
}
