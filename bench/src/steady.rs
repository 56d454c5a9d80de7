//! A steady load over RESP, with every request on record: what clients see while something is done to a cluster.
//!
//! Each client is a plain thread with one connection and one request in flight, at a pace that leaves the machine idle most of the time,
//! so that a slow answer is the cluster's doing. A client whose connection is closed repeats its request at the next node; the time until
//! it is answered counts as one. An answer that is an error is an error, whatever it says.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Failed;
use crate::clock::{now, pause};
use crate::random::{Random, mix};
use crate::resp::{bulk, command, line};

/// How long an answer may take before the connection is given up: longer than a node looks for a leader.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// The pause after a node could not be reached.
const AFTER_FAILURE: Duration = Duration::from_millis(5);
/// Errors whose text is kept, per client.
const ERRORS_MAX: usize = 20;

/// What to run against whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the nodes serve RESP; client N begins with node N.
    pub nodes: Vec<SocketAddr>,
    /// Clients.
    pub clients: usize,
    /// Keys of all clients together.
    pub keys: u64,
    /// Length of a value, bytes.
    pub value_bytes: usize,
    /// The pause of a client between two requests.
    pub apart: Duration,
    /// One request in this many is a write; 1 is writes only.
    pub write_every: u64,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was sent first.
    pub at: Instant,
    /// How long it took until it was answered.
    pub took: Duration,
    /// Whether it was answered with an error.
    pub failed: bool,
}

/// What all clients saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests in no order.
    pub samples: Vec<Sample>,
    /// The first errors of each client, with the moments of their requests.
    pub errors: Vec<(Instant, String)>,
    /// Connections that were closed or could not be opened.
    pub closed: u64,
}

impl Seen {
    /// The given percentile of the requests that were sent in a span of time, milliseconds; 0 without any.
    pub fn percentile_ms(&self, from: Instant, to: Instant, percent: f64) -> f64 {
        let mut took: Vec<f64> = self
            .samples
            .iter()
            .filter(|sample| sample.at >= from && sample.at < to)
            .map(|sample| sample.took.as_secs_f64() * 1e3)
            .collect();
        took.sort_by(f64::total_cmp);
        let place = ((took.len() as f64 * percent / 100.0).ceil() as usize).saturating_sub(1);
        took.get(place).copied().unwrap_or(0.0)
    }

    /// The 99th percentile of each second of a span of time, milliseconds; the seconds begin a tenth of one apart.
    pub fn p99_of_seconds_ms(&self, from: Instant, to: Instant) -> Vec<f64> {
        let second = Duration::from_secs(1);
        let mut p99 = Vec::new();
        let mut begin = from;
        while begin + second <= to {
            p99.push(self.percentile_ms(begin, begin + second, 99.0));
            begin += second / 10;
        }
        p99
    }

    /// Requests of a span of time, and how many of them were answered with an error.
    pub fn count(&self, from: Instant, to: Instant) -> (u64, u64) {
        let inside = self.samples.iter().filter(|sample| sample.at >= from && sample.at < to);
        inside.fold((0, 0), |(all, failed), sample| (all + 1, failed + u64::from(sample.failed)))
    }
}

/// The load while it runs.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Steady {
    /// Starts the clients.
    pub fn start(options: &Options) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..options.clients)
            .map(|id| {
                let (options, stop, done) = (options.clone(), stop.clone(), done.clone());
                std::thread::spawn(move || run(&options, id, &stop, &done))
            })
            .collect();
        Self { stop, done, clients }
    }

    /// Requests that were answered so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends the clients and takes what they saw.
    ///
    /// # Errors
    /// A client has panicked.
    pub fn finish(self) -> Result<Seen, Failed> {
        self.stop.store(true, Ordering::Release);
        let mut all = Seen::default();
        for client in self.clients {
            let Seen { samples, errors, closed } =
                client.join().map_err(|_| Failed::new("a client panicked"))?;
            all.samples.extend(samples);
            all.errors.extend(errors);
            all.closed += closed;
        }
        Ok(all)
    }
}

/// A key of the load; the hash spreads them over all regions.
pub fn key(number: u64) -> Vec<u8> {
    format!("{:016x}:{number}", mix(number)).into_bytes()
}

fn run(options: &Options, id: usize, stop: &AtomicBool, done: &AtomicU64) -> Seen {
    let (mut seen, mut random) = (Seen::default(), Random::new(id as u64));
    let (mut node, mut connection) = (id, None);
    let value = vec![b'v'; options.value_bytes];
    for n in 0u64.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let key = key(random.below(options.keys.max(1)));
        let write = n % options.write_every.max(1) == 0;
        let at = now();
        let answered = loop {
            let asked = match &mut connection {
                Some(open) if write => ask(open, &[b"SET", &key, &value]),
                Some(open) => ask(open, &[b"GET", &key]),
                None => None,
            };
            if let Some(answered) = asked {
                break Some(answered);
            }
            if connection.take().is_some() {
                seen.closed += 1;
                node += 1;
            }
            if stop.load(Ordering::Acquire) {
                break None;
            }
            connection = open(options.nodes[node % options.nodes.len()]);
            if connection.is_none() {
                seen.closed += 1;
                node += 1;
                pause(AFTER_FAILURE);
            }
        };
        let Some(answered) = answered else { break };
        seen.samples.push(Sample { at, took: at.elapsed(), failed: answered.is_err() });
        if let Err(error) = answered
            && seen.errors.len() < ERRORS_MAX
        {
            seen.errors.push((at, error));
        }
        done.fetch_add(1, Ordering::Relaxed);
        pause(options.apart);
    }
    seen
}

fn open(addr: SocketAddr) -> Option<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1)).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
    Some(BufReader::new(stream))
}

/// The answer to a request, or the error that it is; nothing if the connection is of no use any more.
fn ask(connection: &mut BufReader<TcpStream>, parts: &[&[u8]]) -> Option<Result<(), String>> {
    let mut request = Vec::new();
    command(&mut request, parts);
    connection.get_mut().write_all(&request).ok()?;
    match connection.fill_buf().ok()?.first()? {
        b'-' => Some(Err(line(connection).ok()?)),
        b'$' => bulk(connection).ok().map(|_| Ok(())),
        _ => line(connection).ok().map(|_| Ok(())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_errors_are_those_of_the_span() {
        let began = now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let sample = |ms, took| Sample { at: at(ms), took: Duration::from_millis(took), failed: took > 50 };
        let samples = (1..=100).map(|n| sample(n, n)).chain([sample(500, 7)]).collect();
        let seen = Seen { samples, ..Seen::default() };
        assert_eq!(seen.percentile_ms(at(0), at(200), 99.0), 99.0);
        assert_eq!(seen.percentile_ms(at(0), at(200), 50.0), 50.0);
        assert_eq!(seen.percentile_ms(at(400), at(600), 99.0), 7.0);
        assert_eq!(seen.percentile_ms(at(600), at(700), 99.0), 0.0);
        assert_eq!((seen.count(at(0), at(200)), seen.count(at(400), at(600))), ((100, 50), (1, 0)));
    }

    /// A server that answers a few requests and closes, beside one that answers all.
    #[test]
    fn a_closed_connection_is_no_error_and_costs_time_only() {
        let serve = |answers: usize| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
            let addr = listener.local_addr().expect("bound");
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut reading = BufReader::new(stream.expect("accepted"));
                    for _ in 0..answers {
                        // *3, SET, key and value are seven lines.
                        if (0..7).any(|_| line(&mut reading).is_err()) {
                            break;
                        }
                        reading.get_mut().write_all(b"+OK\r\n").expect("the client reads");
                    }
                }
            });
            addr
        };
        let nodes = vec![serve(3), serve(usize::MAX)];
        let apart = Duration::ZERO;
        let steady =
            Steady::start(&Options { nodes, clients: 1, keys: 10, value_bytes: 8, apart, write_every: 1 });
        while steady.done() < 10 {
            pause(Duration::from_millis(1));
        }
        let seen = steady.finish().expect("the client ends");
        assert!(seen.samples.len() > 3 && seen.closed == 1, "{} {}", seen.samples.len(), seen.closed);
        assert!(seen.errors.is_empty() && seen.samples.iter().all(|sample| !sample.failed));
    }
}
