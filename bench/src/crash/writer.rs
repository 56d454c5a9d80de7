//! One connection that writes keys of its own, and reads them back after a restart.

use std::collections::VecDeque;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use super::history::{Effect, History, Verdict};
use crate::Failed;
use crate::random::Random;
use crate::resp::{acknowledgement, bulk, command};

/// Keys read back in one request.
const READ_BATCH: usize = 64;
/// Most values are small; one in this many is large enough to span log blocks.
const LARGE_EVERY: u64 = 50;
const LARGE_BYTES_MAX: u64 = 100 << 10;
const SMALL_BYTES_MAX: u64 = 400;
/// Room for the text that a value spells out.
const VALUE_BYTES_MIN: u64 = 64;

/// A writer and what it knows.
#[derive(Debug)]
pub struct Writer {
    id: usize,
    keys: usize,
    pipeline: usize,
    random: Random,
    next_number: u64,
    history: History,
}

impl Writer {
    /// A writer of `keys` keys that keeps up to `pipeline` writes in flight.
    pub fn new(id: usize, keys: usize, pipeline: usize, seed: u64) -> Self {
        Self { id, keys, pipeline, random: Random::new(seed), next_number: 1, history: History::default() }
    }

    /// What it knows.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Writes until the node dies. A connection that breaks before `stop` is set is what a dying node looks like from here,
    /// too, so it is never an error; a refusal is.
    ///
    /// # Errors
    /// The node refuses a write.
    pub fn run(&mut self, addr: SocketAddr, stop: &AtomicBool) -> Result<(), Failed> {
        let Ok(mut stream) = TcpStream::connect(addr) else { return Ok(()) };
        let Ok(reading) = stream.set_nodelay(true).and_then(|()| stream.try_clone()) else { return Ok(()) };
        let mut reading = BufReader::new(reading);
        let mut refusal = None;
        while refusal.is_none() && !stop.load(Ordering::Acquire) {
            let (request, mut sent) = self.batch();
            let mut broken = stream.write_all(&request).is_err();
            while let (false, Some(key)) = (broken, sent.pop_front()) {
                match acknowledgement(&mut reading) {
                    Ok(None) => self.history.acknowledged(key),
                    Ok(Some(said)) => {
                        self.history.refused(key);
                        refusal = Some(said);
                    }
                    Err(_) => broken = true,
                }
            }
            if broken {
                break;
            }
        }
        self.history.lost_touch();
        match refusal {
            Some(said) => Err(Failed::new(format!("the node refused a write: {said}"))),
            None => Ok(()),
        }
    }

    /// Some writes as one request, and the keys they are for.
    fn batch(&mut self) -> (Vec<u8>, VecDeque<usize>) {
        let count = 1 + self.random.below(self.pipeline as u64);
        let mut request = Vec::new();
        let mut sent = VecDeque::new();
        for _ in 0..count {
            let key = self.random.below(self.keys as u64) as usize;
            let effect = self.draw_effect();
            let name = self.key_name(key);
            match self.value(key, effect) {
                Some(value) => command(&mut request, &[b"SET", name.as_bytes(), &value]),
                None => command(&mut request, &[b"DEL", name.as_bytes()]),
            }
            self.history.sent(key, effect);
            sent.push_back(key);
        }
        (request, sent)
    }

    fn draw_effect(&mut self) -> Effect {
        if self.random.below(20) == 0 {
            return Effect::Gone;
        }
        let spread = if self.random.below(LARGE_EVERY) == 0 { LARGE_BYTES_MAX } else { SMALL_BYTES_MAX };
        let bytes = (VALUE_BYTES_MIN + self.random.below(spread)) as usize;
        self.next_number += 1;
        Effect::Value { number: self.next_number - 1, bytes }
    }

    fn key_name(&self, key: usize) -> String {
        // The hash spreads the keys of a writer over all regions.
        let spread = crate::random::mix((self.id as u64) << 32 | key as u64);
        format!("{:02x}:crash:{}:{key}", spread & 0xff, self.id)
    }

    /// The value of an effect: what it is, then bytes that depend on that, so that every byte is checked.
    fn value(&self, key: usize, effect: Effect) -> Option<Vec<u8>> {
        let Effect::Value { number, bytes } = effect else { return None };
        let mut value = format!("{}/{key}/{number}/", self.id).into_bytes();
        let text = value.len();
        value.resize(bytes.max(text), 0);
        Random::new(number ^ (key as u64) << 40).fill(&mut value[text..]);
        Some(value)
    }

    /// Reads every key back and compares.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn check(&mut self, addr: SocketAddr, checked: &mut u64) -> Result<Vec<String>, Failed> {
        let mut findings = Vec::new();
        let keys = self.history.keys();
        let mut stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        let mut reading = BufReader::new(stream.try_clone()?);
        for batch in keys.chunks(READ_BATCH) {
            let mut request = Vec::new();
            for &key in batch {
                command(&mut request, &[b"GET", self.key_name(key).as_bytes()]);
            }
            stream.write_all(&request)?;
            for &key in batch {
                let read = bulk(&mut reading)?;
                *checked += 1;
                findings.extend(self.compare(key, read.as_deref()));
            }
        }
        Ok(findings)
    }

    fn compare(&mut self, key: usize, read: Option<&[u8]>) -> Option<String> {
        let expected = self.history.expected(key);
        let mut history = std::mem::take(&mut self.history);
        let verdict = history.compare(key, |effect| self.value(key, effect).as_deref() == read);
        self.history = history;
        (verdict == Verdict::Lost).then(|| {
            let found = read.map_or_else(
                || "nothing".into(),
                |value| {
                    format!(
                        "{} bytes beginning {:?}",
                        value.len(),
                        String::from_utf8_lossy(&value[..value.len().min(24)])
                    )
                },
            );
            format!("key {}: expected {expected:?} or a later write, found {found}", self.key_name(key))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::io::BufRead;
    use std::net::TcpListener;

    use crate::resp::line;

    /// A server over a map that stops answering after `writes` writes and then forgets `forget` of the newest.
    struct Forgetful {
        map: HashMap<Vec<u8>, Vec<u8>>,
        undo: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    }

    impl Forgetful {
        fn new() -> Self {
            Self { map: HashMap::new(), undo: Vec::new() }
        }

        fn serve(&mut self, listener: &TcpListener, mut writes: usize) {
            let (stream, _) = listener.accept().expect("a client");
            let mut out = stream.try_clone().expect("a second handle");
            let mut reading = BufReader::new(stream);
            while let Some(parts) = request(&mut reading) {
                if parts[0] == b"GET" {
                    match self.map.get(&parts[1]) {
                        Some(value) => {
                            write!(out, "${}\r\n", value.len()).expect("a socket");
                            out.write_all(&[value, &b"\r\n"[..]].concat()).expect("a socket");
                        }
                        None => out.write_all(b"$-1\r\n").expect("a socket"),
                    }
                    continue;
                }
                if writes == 0 {
                    // Closing with requests unread would take back answers that are still on their way.
                    out.shutdown(std::net::Shutdown::Write).expect("a socket");
                    std::io::copy(&mut reading, &mut std::io::sink()).expect("a socket");
                    return;
                }
                writes -= 1;
                let before = match parts.get(2) {
                    Some(value) => self.map.insert(parts[1].clone(), value.clone()),
                    None => self.map.remove(&parts[1]),
                };
                self.undo.push((parts[1].clone(), before));
                out.write_all(b"+OK\r\n").expect("a socket");
            }
        }

        fn forget(&mut self, writes: usize) {
            for _ in 0..writes {
                let Some((key, before)) = self.undo.pop() else { return };
                match before {
                    Some(value) => self.map.insert(key, value),
                    None => self.map.remove(&key),
                };
            }
        }
    }

    fn request(reading: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
        let count: usize = line(reading).ok()?.strip_prefix('*')?.parse().ok()?;
        (0..count).map(|_| bulk(reading).ok()?).collect()
    }

    fn audit(forget: usize) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let addr = listener.local_addr().expect("an address");
        let mut server = Forgetful::new();
        let serving = std::thread::spawn(move || {
            server.serve(&listener, 500);
            server.forget(forget);
            server.serve(&listener, 0);
        });
        let mut writer = Writer::new(3, 40, 8, 7);
        writer.run(addr, &AtomicBool::new(false)).expect("nothing is refused");
        assert_eq!(writer.history().acknowledged, 500);
        let mut checked = 0;
        let findings = writer.check(addr, &mut checked).expect("it answers");
        assert!(checked >= 40);
        drop(writer);
        serving.join().expect("the server ends with its client");
        findings
    }

    #[test]
    fn a_server_that_keeps_everything_passes() {
        assert_eq!(audit(0), Vec::<String>::new());
    }

    #[test]
    fn a_server_that_forgets_its_last_write_is_caught() {
        assert_eq!(audit(1).len(), 1);
        assert!(audit(30).len() > 5);
    }
}
