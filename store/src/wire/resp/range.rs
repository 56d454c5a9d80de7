//! `RANGE`: the pairs of a range of keys, in order, in one reply.

use super::data::REPLY_BYTES_MAX;
use super::frame::integer;
use super::reply::Writer;
use super::request::{CommandLine, Error};
use super::server::Server;
use super::walk::{KEYS_PER_STEP, OPTIONS_MAX, Pairs, after, step};
use crate::memory::charged_pair_bytes;
use crate::request::Scan;

/// Pairs per step of a walk with values.
const PAIRS_PER_STEP: usize = 64;
/// Pairs that one `RANGE` returns when the client does not say.
const RANGE_LIMIT: usize = 1000;

/// One `RANGE`, ready to begin.
#[derive(Debug)]
pub struct Range {
    /// The first step, with the whole limit.
    scan: Scan,
}

impl Range {
    /// Reads `RANGE start end [LIMIT n] [REVERSE] [NOVALUES]`.
    pub(super) fn read(request: &CommandLine<'_>) -> Result<Self, Error> {
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
        Ok(Self { scan })
    }

    /// Says the pairs.
    pub(super) async fn run(self, server: &Server, reply: &mut Writer<'_>) -> Result<(), Error> {
        let key_only = self.scan.key_only;
        say_range(range(server, self.scan).await?, key_only, reply);
        Ok(())
    }
}

/// All pairs of a range up to its limit.
async fn range(server: &Server, mut rest: Scan) -> Result<Pairs, Error> {
    let budget = server.rt.budget();
    let (limit, per_step) = (rest.limit, if rest.key_only { KEYS_PER_STEP } else { PAIRS_PER_STEP });
    let (mut all, mut bytes) = (Pairs::new(), 0);
    while all.len() < limit {
        rest.limit = per_step.min(limit - all.len());
        let found = step(server, rest.clone()).await?;
        rest.held_bytes += found.iter().map(|(key, value)| charged_pair_bytes(key, value)).sum::<usize>();
        bytes += found.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if bytes > REPLY_BYTES_MAX {
            return Err(Error::REPLY_TOO_BIG);
        }
        let complete = found.len() < rest.limit;
        match found.last() {
            Some((last, _)) if rest.reverse => rest.end = last.clone(),
            Some((last, _)) => rest.start = after(last),
            None => {}
        }
        all.extend(found);
        // An empty end would mean an unbounded range, but no key lies before the empty one.
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
