//! `KEYS` and `RANDOMKEY`.
//!
//! `KEYS` walks over the keys that can match, in their order, with pauses, and its answer is charged to the core as it grows. What is too
//! much for one answer, or has no room now, is refused as soon as that shows; `SCAN` has no such bound.
//!
//! `RANDOMKEY` counts nothing, so it is fair to branches and not to keys: from all keys it goes on to those that have the same next byte,
//! drawn until it is one that there is, until few enough are left to draw one of them. Among [`NEAR`] keys or fewer each is as likely as the
//! other, and so it is where keys are evenly spread, as numbers and hashes are.

use bytes::Bytes;

use super::data::REPLY_BYTES_MAX;
use super::glob::{self, Pattern};
use super::reply::{Protocol, Writer};
use super::request::{CommandLine, Error};
use super::scan::successor;
use super::server::Server;
use super::walk::{KEYS_PER_STEP, after, as_error, step};
use crate::memory::Charge;
use crate::request::Scan;

/// The answer of `KEYS` is charged in steps of at least this size, twice, because it is copied into the reply, bytes.
const CHARGE_BYTES: usize = 32 << 10;
/// What a key takes in the reply beside its bytes, at most.
const AROUND_KEY_BYTES: usize = 16;
/// Of this many keys or fewer, `RANDOMKEY` draws one.
const NEAR: usize = 100;
/// How many bytes `RANDOMKEY` draws, at most; then one of the next keys is as good.
const DRAWS_MAX: usize = 256;
/// How often it draws for one place, before it goes on with the next byte that there is.
const DRAWS_PER_PLACE: usize = 32;

const NO_ROOM: Error = Error::constant(
    "TRYAGAIN answers that are not sent yet leave no room for all keys that match, try again in 100 ms or use SCAN",
);

/// One `KEYS`, ready to begin.
#[derive(Debug)]
pub struct KeyList {
    start: Bytes,
    end: Bytes,
    pattern: Pattern,
}

impl KeyList {
    /// Reads `KEYS pattern`.
    pub(super) fn read(request: &CommandLine<'_>) -> Result<Self, Error> {
        let pattern = request.arg(1);
        // The keys that can match lie together, so the others need not be looked at.
        let prefix = glob::literal_prefix(pattern);
        Ok(Self { end: successor(&prefix), start: prefix.into(), pattern: Pattern::new(pattern)? })
    }

    /// Says the keys that match.
    pub(super) async fn run(self, server: &Server, reply: &mut Writer<'_>) -> Result<(), Error> {
        let budget = server.rt.budget();
        let mut names = Names::new(server);
        // Before anything is held.
        names.grow().await?;
        let mut rest = Scan {
            start: self.start,
            end: self.end,
            limit: KEYS_PER_STEP,
            key_only: true,
            ..Scan::default()
        };
        loop {
            let found = step(server, rest.clone()).await?;
            for (key, _) in &found {
                if self.pattern.matches(key) {
                    names.add(key).await?;
                }
                budget.tick().await;
            }
            match found.last() {
                Some((last, _)) if found.len() >= KEYS_PER_STEP => rest.start = after(last),
                Some(_) | None => break,
            }
        }
        reply.array(names.count);
        reply.raw(&names.said);
        Ok(())
    }
}

/// Names in the form of the reply, charged as they grow.
struct Names<'a> {
    server: &'a Server,
    said: Vec<u8>,
    count: usize,
    charge: Charge,
}

impl<'a> Names<'a> {
    fn new(server: &'a Server) -> Self {
        let charge = server.gateway.memory().output.charge(0);
        Self { server, said: Vec::new(), count: 0, charge }
    }

    async fn add(&mut self, key: &[u8]) -> Result<(), Error> {
        let bytes = key.len() + AROUND_KEY_BYTES;
        if self.said.capacity() - self.said.len() < bytes {
            self.grow().await?;
        }
        // Both protocols say a name alike.
        Writer::new(&mut self.said, Protocol::Resp2).bulk(key);
        self.count += 1;
        Ok(())
    }

    async fn grow(&mut self) -> Result<(), Error> {
        let memory = self.server.gateway.memory();
        let bytes_max = REPLY_BYTES_MAX.min(memory.answer_bytes_max() / 2);
        if self.said.len() + CHARGE_BYTES > bytes_max {
            return Err(Error::new(format!(
                "ERR the keys that match have more than the {bytes_max} bytes that one answer may have, use SCAN, which returns some at a time"
            )));
        }
        // Whoever has nothing yet waits. Who has something does not, because others may wait for that.
        let more = match self.charge.bytes() {
            0 => memory.output.wait(&self.server.rt, 2 * CHARGE_BYTES).await.map_err(as_error)?,
            held => {
                // At least half as much again, so that the copies of a long text cost no more than its lines.
                let more = (2 * CHARGE_BYTES).max(held / 2).min(2 * (bytes_max - self.said.capacity()));
                memory.output.try_charge(more).ok_or(NO_ROOM)?
            }
        };
        self.charge.join(more);
        self.said.reserve_exact(self.charge.bytes() / 2 - self.said.len());
        Ok(())
    }
}

/// One of the keys, if there are any.
pub(super) async fn random_key(server: &Server) -> Result<Option<Bytes>, Error> {
    let budget = server.rt.budget();
    let below = |bound: usize| (server.rt.random() % bound as u64) as usize;
    let few = Scan { limit: NEAR, key_only: true, ..Scan::default() };
    let (mut start, mut end) = (Bytes::new(), Bytes::new());
    let (mut found, mut draws) = (step(server, few.clone()).await?, 0);
    while found.len() >= NEAR && draws < DRAWS_MAX {
        let last = Scan { start: start.clone(), end: end.clone(), limit: 1, reverse: true, ..few.clone() };
        let last = step(server, last).await?;
        let (Some((first, _)), Some((last, _))) = (found.first(), last.first()) else { break };
        let shared = first.iter().zip(last).take_while(|(one, other)| one == other).count();
        let (low, high) = (first.get(shared).copied(), last.get(shared).copied().unwrap_or(u8::MAX));
        let mut branch = first[..shared].to_vec();
        branch.push(high);
        for draw in 1..=DRAWS_PER_PLACE {
            let drawn = match low {
                Some(low) => low + below(usize::from(high.saturating_sub(low)) + 1) as u8,
                // The first key is what all others begin with, and may be drawn as well as they.
                None => match below(usize::from(high) + 2).checked_sub(1) {
                    None => return Ok(Some(first.clone())),
                    Some(drawn) => drawn as u8,
                },
            };
            branch[shared] = drawn;
            let next = Scan { start: branch.clone().into(), end: end.clone(), limit: 1, ..few.clone() };
            let next = step(server, next).await?.first().and_then(|(next, _)| next.get(shared).copied());
            branch[shared] = next.unwrap_or(high);
            draws += 1;
            if branch[shared] == drawn || draw == DRAWS_PER_PLACE {
                break;
            }
            budget.tick().await;
        }
        (start, end) = (branch.clone().into(), successor(&branch));
        found = step(server, Scan { start: start.clone(), end: end.clone(), ..few.clone() }).await?;
        budget.tick().await;
    }
    Ok((!found.is_empty()).then(|| found[below(found.len())].0.clone()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::rc::Rc;

    use engine::rt::Rt;
    use engine::rt::sim::{Options, World};

    use super::*;
    use crate::descriptors::Descriptors;
    use crate::descriptors::silent::{PortEntry, Speaks};
    use crate::gateway::Gateway;
    use crate::memory::{Memory, MemoryLimits};
    use crate::request::Op;
    use crate::wire::resp::connections::Connections;
    use crate::wire::resp::counters::Counters;
    use crate::wire::resp::cursor::Cursors;
    use crate::wire::resp::server::{Config, Facts};

    const OUTPUT_BYTES: usize = 1 << 20;

    /// A server whose core has a megabyte for answers, with these keys.
    async fn server_with(rt: Rt, keys: impl Iterator<Item = String>) -> Server {
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
        let limits = MemoryLimits { input_bytes: OUTPUT_BYTES, output_bytes: OUTPUT_BYTES };
        let gateway = Gateway::in_bounded_memory(Memory::new(limits));
        for key in keys {
            gateway.submit(None, Op::Put { key: key.into(), value: Bytes::new() }).await.unwrap();
        }
        Server::new(rt, gateway, config, Rc::new(Counters::default()), PortEntry::new(Speaks::Resp).0)
    }

    fn in_world<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rt) -> F + Send + 'static) {
        let world = World::new(5, Options::default());
        world.block_on(world.node(0).start(0, test)).expect("nothing crashes the node");
    }

    async fn keys(server: &Server, pattern: &str) -> Result<String, Error> {
        let (pattern_bytes, prefix) = (pattern.as_bytes(), glob::literal_prefix(pattern.as_bytes()));
        let list = KeyList {
            end: successor(&prefix),
            start: prefix.into(),
            pattern: Pattern::new(pattern_bytes).unwrap(),
        };
        let mut said = Vec::new();
        list.run(server, &mut Writer::new(&mut said, Protocol::Resp2)).await?;
        Ok(String::from_utf8(said).unwrap())
    }

    /// 6,000 keys of 100 bytes, of which half a megabyte holds 4,000.
    fn long_keys() -> impl Iterator<Item = String> {
        (0..6000).map(|number| format!("{number:04}{}", "x".repeat(96)))
    }

    #[test]
    fn an_answer_that_is_too_long_is_refused_and_what_fits_is_charged_and_given_back() {
        in_world(|rt| async move {
            let server = server_with(rt, long_keys()).await;
            let refused = keys(&server, "*").await.unwrap_err();
            assert!(
                refused.text().contains("more than the 262144 bytes") && refused.text().contains("SCAN"),
                "{refused:?}"
            );
            let output = &server.gateway.memory().output;
            assert_eq!(output.used(), 0);
            let said = keys(&server, "0*").await.unwrap();
            assert!(said.starts_with("*1000\r\n$100\r\n0000x") && said.ends_with("x\r\n"), "{}", &said[..40]);
            assert_eq!(said.matches("\r\n").count(), 2001);
            // What others hold leaves too little to grow.
            let held = output.charge(OUTPUT_BYTES - 3 * CHARGE_BYTES);
            let refused = keys(&server, "0*").await.unwrap_err();
            assert!(
                refused.text().starts_with("TRYAGAIN ") && refused.text().contains("SCAN"),
                "{refused:?}"
            );
            assert_eq!(output.used(), held.bytes());
            assert!(keys(&server, "00*").await.is_ok());
        });
    }

    /// In the simulated world a look at the clock takes time, so this needs no wait.
    #[test]
    fn looking_at_many_keys_pauses() {
        in_world(|rt| async move {
            let server = server_with(rt, (0..20_000).map(|number| format!("key{number}"))).await;
            let (mut asked, mut pauses) = (pin!(keys(&server, "*99")), 0);
            let said = poll_fn(|cx| {
                let polled = asked.as_mut().poll(cx);
                pauses += u32::from(polled.is_pending());
                polled
            });
            assert!(said.await.unwrap().starts_with("*200\r\n"));
            assert!(pauses > 5, "{pauses} pauses in 20,000 keys");
        });
    }

    /// However the names are made, draws meet about as many different keys as chance would have it, and each exists.
    #[test]
    fn random_keys_are_spread_over_all_keys() {
        type Name = fn(u64) -> String;
        let names: [(Name, usize); 3] = [
            (|number| format!("user:{number:06}"), 1700),
            (|number| format!("{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)), 1500),
            (|number| number.to_string(), 1000),
        ];
        for (name, least) in names {
            in_world(move |rt| async move {
                let all: BTreeSet<String> = (0..3000).map(name).collect();
                let server = server_with(rt, all.iter().cloned()).await;
                let mut drawn = BTreeSet::new();
                for _ in 0..3000 {
                    let key = random_key(&server).await.unwrap().expect("there are keys");
                    drawn.insert(String::from_utf8(key.to_vec()).unwrap());
                }
                assert!(drawn.is_subset(&all));
                assert!(drawn.len() > least, "{} keys like {} in 3000 draws", drawn.len(), name(7));
            });
        }
        in_world(|rt| async move {
            let server = server_with(rt, std::iter::empty()).await;
            assert_eq!(random_key(&server).await, Ok(None));
        });
    }
}
