//! One client: it writes keys of its own and reads them back, each time at another node.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::connection::{AFTER_FAILURE, Connection, Reply, STAY, Said};
use super::register::{Number, Registers, Seen};
use crate::clock::{now, pause};
use crate::random::{Random, mix};

/// Findings that are kept.
const FINDINGS_MAX: usize = 20;

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where the nodes serve RESP.
    pub(crate) nodes: Vec<SocketAddr>,
    /// The clients end.
    pub(crate) stop: AtomicBool,
    /// Operations that were answered with success.
    pub(crate) done: AtomicU64,
}

/// A client and what it saw.
#[derive(Debug)]
pub(crate) struct Client {
    id: usize,
    keys: usize,
    random: Random,
    next: Number,
    registers: Registers,
    /// Numbers of what happened.
    pub(crate) counts: Counts,
    /// What cannot be, one sentence each.
    pub(crate) findings: Vec<String>,
}

/// What a client counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Writes that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Writes whose outcome was not heard.
    pub(crate) unknown: u64,
    /// Of those, the ones that were read later.
    pub(crate) happened: u64,
    /// Reads that were answered with a value or with none.
    pub(crate) read: u64,
    /// Requests that were refused and may be repeated.
    pub(crate) refused: u64,
    /// Connections that could not be opened or broke.
    pub(crate) broken: u64,
    /// The longest time between two successes.
    pub(crate) longest_gap: Duration,
}

impl Client {
    /// A client of `keys` keys.
    pub(crate) fn new(id: usize, keys: usize, seed: u64) -> Self {
        Self {
            id,
            keys,
            random: Random::new(seed),
            next: 1,
            registers: Registers::default(),
            counts: Counts::default(),
            findings: Vec::new(),
        }
    }

    /// Writes and reads until it is asked to stop, or finds something.
    pub(crate) fn run(&mut self, shared: &Shared) {
        let mut last_success = now();
        while !shared.stop.load(Ordering::Acquire) && self.findings.is_empty() {
            let node = shared.nodes[self.random.below(shared.nodes.len() as u64) as usize];
            let Ok(mut connection) = Connection::open(node) else {
                self.counts.broken += 1;
                pause(AFTER_FAILURE);
                continue;
            };
            for _ in 0..STAY {
                if shared.stop.load(Ordering::Acquire)
                    || !self.step(&mut connection, shared, &mut last_success)
                {
                    break;
                }
            }
        }
    }

    /// One operation; `false` if the connection is of no use any more.
    fn step(&mut self, connection: &mut Connection, shared: &Shared, last_success: &mut Instant) -> bool {
        let key = self.random.below(self.keys as u64) as usize;
        let said = match self.random.below(2) {
            0 => self.write(connection, key),
            _ => self.read(connection, key),
        };
        match said {
            Said::Done(_) => {
                self.counts.longest_gap = self.counts.longest_gap.max(last_success.elapsed());
                *last_success = now();
                shared.done.fetch_add(1, Ordering::Relaxed);
                true
            }
            Said::Refused => {
                self.counts.refused += 1;
                pause(AFTER_FAILURE);
                true
            }
            Said::Unknown => true,
            Said::Broken => {
                self.counts.broken += 1;
                false
            }
            Said::Wrong(text) => {
                self.find(format!("key {} was answered with \"{text}\"", self.name(key)));
                false
            }
        }
    }

    fn write(&mut self, connection: &mut Connection, key: usize) -> Said {
        let number = self.next;
        self.next += 1;
        let (name, value) = (self.name(key), self.value(key, number));
        let said = connection.ask(&[b"SET", name.as_bytes(), &value]);
        match &said {
            Said::Done(_) => {
                self.counts.acknowledged += 1;
                self.registers.acknowledged(key, number);
            }
            Said::Unknown | Said::Broken => {
                self.counts.unknown += 1;
                self.registers.unknown(key, number);
            }
            Said::Refused | Said::Wrong(_) => {}
        }
        said
    }

    fn read(&mut self, connection: &mut Connection, key: usize) -> Said {
        let said = connection.ask(&[b"GET", self.name(key).as_bytes()]);
        match &said {
            Said::Done(Reply::Value(value)) => {
                self.counts.read += 1;
                self.compare(key, value.as_deref());
            }
            Said::Done(other) => return Said::Wrong(format!("{other:?}")),
            Said::Refused | Said::Unknown | Said::Wrong(_) | Said::Broken => {}
        }
        said
    }

    /// Reads every key at `node`. Whether all of it was answered.
    pub(crate) fn check(&mut self, node: SocketAddr) -> bool {
        let Ok(mut connection) = Connection::open(node) else { return false };
        let keys: Vec<usize> = self.registers.certain().map(|(key, _)| key).collect();
        keys.into_iter().all(|key| matches!(self.read(&mut connection, key), Said::Done(_)))
    }

    fn compare(&mut self, key: usize, value: Option<&[u8]>) {
        let number = match value {
            None => Some(0),
            Some(value) => self.number_of(key, value),
        };
        let Some(number) = number else {
            let text = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
            return self.find(format!("key {} holds \"{text}\", which nothing wrote", self.name(key)));
        };
        match self.registers.read(key, number) {
            Seen::Expected => {}
            Seen::Happened => self.counts.happened += 1,
            Seen::Wrong(certain) => {
                self.find(format!("key {} holds write {number} instead of {certain}", self.name(key)));
            }
        }
    }

    fn find(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// The hash spreads the keys of a client over all regions.
    fn name(&self, key: usize) -> String {
        format!("{:02x}:chaos:{}:{key}", mix((self.id as u64) << 32 | key as u64) & 0xff, self.id)
    }

    fn value(&self, key: usize, number: Number) -> Vec<u8> {
        format!("{}/{key}/{number}", self.id).into_bytes()
    }

    fn number_of(&self, key: usize, value: &[u8]) -> Option<Number> {
        let text = std::str::from_utf8(value).ok()?;
        text.strip_prefix(&format!("{}/{key}/", self.id))?.parse().ok().filter(|number| *number < self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_name_their_key_and_write() {
        let mut client = Client::new(3, 10, 1);
        client.next = 9;
        let value = client.value(4, 8);
        assert_eq!(client.number_of(4, &value), Some(8));
        assert_eq!(client.number_of(5, &value), None, "the value of another key");
        assert_eq!(client.number_of(4, b"3/4/9"), None, "a write that was not made");
        client.compare(4, Some(b"3/4/8"));
        assert_eq!(client.findings.len(), 1, "it was neither acknowledged nor lost");
    }
}
