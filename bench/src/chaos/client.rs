//! One client: it writes keys of its own and reads them back, each time at another node.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::register::{Number, Registers, Seen};
use crate::Failed;
use crate::clock::{now, pause};
use crate::random::{Random, mix};
use crate::resp::{bulk, command, line};

/// How long an answer may take before the connection is given up. Longer than a node looks for a leader.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long a client waits after a node was not reached or refused.
const AFTER_FAILURE: Duration = Duration::from_millis(20);
/// Operations on one connection before another node is chosen.
const STAY: u64 = 40;
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

/// What came of a request.
enum Said {
    Done(Option<Vec<u8>>),
    /// It was not carried out.
    Refused,
    /// It may have been carried out.
    Unknown,
    /// It was answered with an error that no client should see.
    Wrong(String),
    Broken,
}

struct Connection {
    stream: TcpStream,
    reading: BufReader<TcpStream>,
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
        match said {
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
        if let Said::Done(value) = &said {
            self.counts.read += 1;
            self.compare(key, value.as_deref());
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

impl Connection {
    fn open(addr: SocketAddr) -> Result<Self, Failed> {
        let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let reading = BufReader::new(stream.try_clone()?);
        Ok(Self { stream, reading })
    }

    fn ask(&mut self, parts: &[&[u8]]) -> Said {
        let mut request = Vec::new();
        command(&mut request, parts);
        if self.stream.write_all(&request).is_err() {
            return Said::Broken;
        }
        let Ok(first) = self.reading.fill_buf().map(|bytes| bytes.first().copied()) else {
            return Said::Broken;
        };
        match first {
            None => Said::Broken,
            Some(b'$') => bulk(&mut self.reading).map_or(Said::Broken, Said::Done),
            Some(b'-') => line(&mut self.reading).map_or(Said::Broken, |text| judge(&text)),
            Some(_) => line(&mut self.reading).map_or(Said::Broken, |_| Said::Done(None)),
        }
    }
}

/// What an error says about the request.
fn judge(text: &str) -> Said {
    let repeatable = ["-CLUSTERDOWN", "-TRYAGAIN", "-LOADING"];
    if repeatable.iter().any(|code| text.starts_with(code)) || text.contains("the store has stopped") {
        Said::Refused
    } else if text.contains("the outcome is unknown") {
        Said::Unknown
    } else {
        Said::Wrong(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_distinguished() {
        assert!(matches!(judge("-CLUSTERDOWN region 3 has no leader"), Said::Refused));
        assert!(matches!(judge("-TRYAGAIN the key's region is moving"), Said::Refused));
        assert!(matches!(judge("-ERR the outcome is unknown: the write may"), Said::Unknown));
        assert!(matches!(judge("-ERR wrong number of arguments"), Said::Wrong(_)));
    }

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
