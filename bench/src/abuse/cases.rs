//! The cases: each one asks a node for more than it should give, for a bounded time, and ends what it has begun.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{calls, disk, load, mixed};
use crate::Failed;
use crate::clock::{now, pause};

/// Length of the large values, bytes: the longest that are allowed.
pub(super) const BIG_BYTES: usize = 8 << 20;
/// How long an abuser waits for anything.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Where the node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) resp: SocketAddr,
    pub(super) status: Option<SocketAddr>,
    pub(super) pd: Option<SocketAddr>,
    /// Its process, if it runs here.
    pub(super) pid: Option<u32>,
}

/// The case that takes away what writes need.
pub(super) const DESCRIPTORS: &str = "descriptors";

/// One way to ask for too much.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// Returns the bytes that were sent.
    pub(super) run: fn(Target, Duration) -> Result<u64, Failed>,
}

/// All of them, in the order in which they run.
pub(super) static CASES: [Case; 21] = [
    Case { name: "load", what: "64 connections write values of 1 KiB, 16 at a time", run: load::write },
    Case { name: "exists", what: "EXISTS of one large value, 500 times in a command", run: exists },
    Case { name: "unread", what: "100 connections ask for a large value and read nothing", run: unread },
    Case { name: "mget", what: "20 connections MGET a large value 500 times in a command", run: mget },
    Case {
        name: "batch",
        what: "one message of 513 large reads, two large writes, 500,000 small reads",
        run: calls::batch,
    },
    Case { name: "append", what: "pipelined one-byte APPENDs to a large value", run: append },
    Case { name: "getset", what: "pipelined GETSETs over large values", run: getset },
    Case {
        name: "mixed",
        what: "4 connections write, append to, read and list large values",
        run: mixed::ask,
    },
    Case {
        name: disk::DISK,
        what: "24 connections write large values and set when they expire, while others keep the disk busy",
        run: disk::ask,
    },
    Case {
        name: "unfinished",
        what: "200 connections with 7 MiB of an unfinished SET each",
        run: unfinished,
    },
    Case { name: "drip", what: "200 connections that go on with a SET by a byte a second", run: drip },
    Case { name: "idle", what: "600 idle connections", run: idle },
    Case {
        name: DESCRIPTORS,
        what: "no descriptor is left while large values are written",
        run: descriptors,
    },
    Case { name: "pattern", what: "SCAN with a pattern of 40,000 letters", run: pattern },
    Case {
        name: "ranges",
        what: "2,000 range deletes with short keys and 2,000 with long ones",
        run: calls::ranges,
    },
    Case { name: "queue", what: "the head of a queue over 100,000 deleted keys", run: queue },
    Case { name: "scans", what: "3,000 RawScans of large values, reset", run: calls::scans },
    Case { name: "keys", what: "200 connections count and list keys of large values", run: keys },
    Case {
        name: "pd",
        what: "60 connections with 20 unfinished messages of 3 MiB each at the PD port",
        run: calls::pd,
    },
    Case { name: "probes", what: "32 slow clients at the status port, and a probe", run: probes },
    Case { name: "keepalive", what: "a silent connection is asked for a sign of life", run: keepalive },
];

impl Target {
    pub(super) fn connect(self) -> Result<TcpStream, Failed> {
        let stream = TcpStream::connect(self.resp)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        stream.set_write_timeout(Some(WAIT_MAX))?;
        Ok(stream)
    }

    /// The node's own bound.
    pub(super) fn memory_bytes(self) -> Result<u64, Failed> {
        let mut stream = self.connect()?;
        stream.write_all(&packed(&[b"CONFIG", b"GET", b"maxmemory"]))?;
        let mut answer = vec![0; 256];
        let bytes = stream.read(&mut answer)?;
        let text = String::from_utf8_lossy(&answer[..bytes]).into_owned();
        let number = text.split("\r\n").filter_map(|line| line.parse().ok()).last();
        number
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| Failed::new(format!("the node does not say its maxmemory: {text:?}")))
    }

    /// Writes what the cases ask for.
    pub(super) fn prepare(self) -> Result<(), Failed> {
        let mut stream = self.connect()?;
        let mut keys = vec!["abuse:big".to_owned()];
        keys.extend((0..8).map(|n| format!("abuse:big:{n}")));
        let big = vec![b'b'; BIG_BYTES];
        for key in &keys {
            ask(&mut stream, &[b"SET", key.as_bytes(), &big], b"+OK\r\n")?;
        }
        for n in 0..10 {
            let key = [format!("abuse:pattern:{n}:").into_bytes(), vec![b'a'; 8000]].concat();
            ask(&mut stream, &[b"SET", &key, b"1"], b"+OK\r\n")?;
        }
        Ok(())
    }

    /// Whether the node answers.
    pub(super) fn answers(self) -> bool {
        self.connect().and_then(|mut stream| ask(&mut stream, &[b"PING"], b"+PONG\r\n")).is_ok()
    }
}

pub(super) fn packed(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn ask(stream: &mut TcpStream, words: &[&[u8]], expected: &[u8]) -> Result<(), Failed> {
    stream.write_all(&packed(words))?;
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer)?;
    if answer == expected {
        return Ok(());
    }
    Err(Failed::new(format!("answered {:?}", String::from_utf8_lossy(&answer))))
}

/// Writes what the socket takes at once; the bytes that went.
fn push(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(0),
        // A node may end a connection that asks for too much.
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(0),
        outcome => outcome,
    }
}

/// Connections that push bytes without a look at the answers.
struct Pushing {
    /// Each with how many bytes it has taken.
    streams: Vec<(TcpStream, usize)>,
    sent: u64,
}

impl Pushing {
    fn open(target: Target, connections: usize) -> Result<Self, Failed> {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = target.connect()?;
            stream.set_nonblocking(true)?;
            streams.push((stream, 0));
        }
        Ok(Self { streams, sent: 0 })
    }

    /// Pushes for this long; `rest` returns what a connection still has to send after this many bytes.
    fn push<'a>(&mut self, each: Duration, rest: impl Fn(usize) -> &'a [u8]) -> Result<(), Failed> {
        let began = now();
        while began.elapsed() < each {
            let mut any = false;
            for (stream, at) in &mut self.streams {
                let rest = rest(*at);
                if rest.is_empty() {
                    continue;
                }
                let went = push(stream, rest)?;
                *at += went;
                self.sent += went as u64;
                any |= went > 0;
            }
            if !any {
                pause(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

/// Keeps on pushing the same bytes into each of this many connections.
fn pour(target: Target, each: Duration, connections: usize, bytes: &[u8]) -> Result<u64, Failed> {
    let mut pushing = Pushing::open(target, connections)?;
    pushing.push(each, |at| &bytes[at % bytes.len()..])?;
    Ok(pushing.sent)
}

fn exists(target: Target, each: Duration) -> Result<u64, Failed> {
    let mut words: Vec<&[u8]> = vec![b"abuse:big"; 501];
    words[0] = b"EXISTS";
    let (mut stream, began, mut sent) = (target.connect()?, now(), 0);
    while began.elapsed() < each {
        ask(&mut stream, &words, b":500\r\n")?;
        sent += packed(&words).len() as u64;
    }
    Ok(sent)
}

fn unread(target: Target, each: Duration) -> Result<u64, Failed> {
    pour(target, each, 100, &packed(&[b"GET", b"abuse:big"]))
}

fn mget(target: Target, each: Duration) -> Result<u64, Failed> {
    let mut words: Vec<&[u8]> = vec![b"abuse:big"; 501];
    words[0] = b"MGET";
    pour(target, each, 20, &packed(&words))
}

fn append(target: Target, each: Duration) -> Result<u64, Failed> {
    let short = vec![b'b'; BIG_BYTES - (1 << 20)];
    ask(&mut target.connect()?, &[b"SET", b"abuse:append", &short], b"+OK\r\n")?;
    pour(target, each, 4, &packed(&[b"APPEND", b"abuse:append", b"x"]))
}

fn getset(target: Target, each: Duration) -> Result<u64, Failed> {
    let value = vec![b'g'; 1 << 20];
    let requests: Vec<u8> =
        (0..8).flat_map(|n| packed(&[b"GETSET", format!("abuse:g{n}").as_bytes(), &value])).collect();
    pour(target, each, 16, &requests)
}

fn unfinished(target: Target, each: Duration) -> Result<u64, Failed> {
    let whole = packed(&[b"SET", b"abuse:unfinished", &vec![b'u'; BIG_BYTES]]);
    let part = &whole[..7 << 20];
    let mut pushing = Pushing::open(target, 200)?;
    pushing.push(each, |at| &part[at.min(part.len())..])?;
    Ok(pushing.sent)
}

/// Others must be able to write as much as these begin to.
fn drip(target: Target, each: Duration) -> Result<u64, Failed> {
    let whole = packed(&[b"SET", b"abuse:unfinished", &vec![b'u'; BIG_BYTES]]);
    let part = &whole[..1 << 20];
    let mut pushing = Pushing::open(target, 200)?;
    pushing.push(Duration::from_millis(500), |at| &part[at.min(part.len())..])?;
    let (began, mut dripped) = (now(), now());
    let mut honest = target.connect()?;
    honest.set_nonblocking(true)?;
    let (mut at, mut answer, mut written) = (0, [0; 5], 0);
    while began.elapsed() < each.max(WAIT_MAX) && written == 0 {
        if dripped.elapsed() >= Duration::from_secs(1) {
            dripped = now();
            for (stream, _) in &mut pushing.streams {
                pushing.sent += push(stream, b"u")? as u64;
            }
        }
        at += push(&mut honest, &whole[at..])?;
        match honest.read(&mut answer) {
            Ok(bytes) => written = bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => pause(Duration::from_millis(5)),
            Err(error) => return Err(error.into()),
        }
    }
    if &answer[..written] != b"+OK\r\n" {
        let waited = began.elapsed();
        return Err(Failed::new(format!("an honest SET of 8 MiB was not answered within {waited:?}")));
    }
    Ok(pushing.sent + at as u64)
}

fn idle(target: Target, each: Duration) -> Result<u64, Failed> {
    let streams: Vec<_> = (0..600).map(|_| target.connect()).collect::<Result<_, _>>()?;
    pause(each);
    drop(streams);
    Ok(0)
}

/// Takes the node's descriptors away, as other processes of a host or a careless limit would, and gives them back.
fn descriptors(target: Target, each: Duration) -> Result<u64, Failed> {
    let pid = target.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else { return Err(Failed::new("the node's process is not known")) };
    let mut writer = target.connect()?;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let before =
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(16), maximum: limit.maximum })
            .map_err(|error| Failed::new(format!("the node's descriptors cannot be bounded: {error}")))?;
    let (began, mut sent, value) = (now(), 0, vec![b'd'; 1 << 20]);
    let mut outcome = Ok(());
    while began.elapsed() < each && outcome.is_ok() {
        let key = format!("abuse:d:{}", sent % 64);
        writer.write_all(&packed(&[b"SET", key.as_bytes(), &value]))?;
        sent += 1;
        let mut answer = [0; 512];
        // Taken or refused for now: both are answers.
        outcome = match writer.read(&mut answer) {
            Ok(1..) if answer[0] == b'+' || answer.starts_with(b"-TRYAGAIN") => Ok(()),
            Ok(1..) if answer.starts_with(b"-ERR the outcome is unknown") => Ok(()),
            Ok(bytes) => Err(Failed::new(String::from_utf8_lossy(&answer[..bytes]).into_owned())),
            // It waits for descriptors.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => Err(error.into()),
        };
    }
    prlimit(Some(pid), Resource::Nofile, before)
        .map_err(|error| Failed::new(format!("the node's descriptors cannot be given back: {error}")))?;
    outcome?;
    let mut stream = target.connect()?;
    for n in 0..64 {
        ask(&mut stream, &[b"SET", format!("abuse:d:{n}").as_bytes(), &value], b"+OK\r\n")?;
    }
    Ok(sent << 20)
}

/// The first key behind many that were deleted.
fn queue(target: Target, each: Duration) -> Result<u64, Failed> {
    const KEYS: usize = 100_000;
    const AT_ONCE: usize = 1000;
    const HEAD_MAX: Duration = Duration::from_millis(100);
    let mut stream = target.connect()?;
    let key = |n: usize| format!("abuse:q:{n:06}").into_bytes();
    for begin in (0..KEYS).step_by(AT_ONCE) {
        for words in [vec![&b"SET"[..], b"x"], vec![&b"DEL"[..]]] {
            let request: Vec<u8> = (begin..begin + AT_ONCE)
                .flat_map(|n| {
                    let key = key(n);
                    let mut all = vec![words[0], &key];
                    all.extend_from_slice(&words[1..]);
                    packed(&all)
                })
                .collect();
            stream.write_all(&request)?;
            let answer_bytes = if words.len() == 2 { b"+OK\r\n".len() } else { b":1\r\n".len() };
            stream.read_exact(&mut vec![0; AT_ONCE * answer_bytes])?;
        }
    }
    ask(&mut stream, &[b"SET", b"abuse:q:~", b"x"], b"+OK\r\n")?;
    let (began, mut longest, mut sent) = (now(), Duration::ZERO, 0);
    while began.elapsed() < each {
        let request: [&[u8]; 6] = [b"RANGE", b"abuse:q:", b"abuse:q:~~", b"LIMIT", b"1", b"NOVALUES"];
        let asked = now();
        ask(&mut stream, &request, b"*1\r\n$9\r\nabuse:q:~\r\n")?;
        longest = longest.max(asked.elapsed());
        sent += packed(&request).len() as u64;
    }
    if longest > HEAD_MAX {
        return Err(Failed::new(format!("the head of the queue took {longest:?}")));
    }
    Ok(sent)
}

/// Whether the kernel has a keepalive timer for the node's side of a silent connection.
fn keepalive(target: Target, each: Duration) -> Result<u64, Failed> {
    /// In the column `tr` of the kernel's table.
    const KEEPALIVE: &str = "02";
    if target.pid.is_none() || !target.resp.is_ipv4() {
        return Err(Failed::new("the node's sockets are not in this host's IPv4 table"));
    }
    let stream = target.connect()?;
    pause(each.min(Duration::from_secs(1)));
    let port = |addr: SocketAddr| format!(":{:04X}", addr.port());
    let (local, remote) = (port(stream.peer_addr()?), port(stream.local_addr()?));
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let timer = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let ours = fields.get(1)?.ends_with(&local) && fields.get(2)?.ends_with(&remote);
        ours.then(|| fields.get(5)?.split(':').next().map(str::to_owned)).flatten()
    });
    match timer.as_deref() {
        Some(KEEPALIVE) => Ok(0),
        other => Err(Failed::new(format!("the node's side of the connection has timer {other:?}"))),
    }
}

fn pattern(target: Target, each: Duration) -> Result<u64, Failed> {
    let pattern = "*a".repeat(20_000);
    let request = packed(&[b"SCAN", b"0", b"MATCH", pattern.as_bytes(), b"COUNT", b"1000"]);
    let (mut stream, began, mut sent) = (target.connect()?, now(), 0);
    while began.elapsed() < each {
        stream.write_all(&request)?;
        sent += request.len() as u64;
        // Refused or answered: either is well, as long as it comes.
        let mut answer = vec![0; 64 << 10];
        if stream.read(&mut answer)? == 0 {
            stream = target.connect()?;
        }
    }
    Ok(sent)
}

fn keys(target: Target, each: Duration) -> Result<u64, Failed> {
    let range: [&[u8]; 4] = [b"RANGE", b"abuse:big", b"abuse:bih", b"NOVALUES"];
    let requests = [packed(&[b"DBSIZE"]), packed(&range)].concat();
    pour(target, each, 200, &requests)
}

fn probes(target: Target, each: Duration) -> Result<u64, Failed> {
    let Some(status) = target.status else {
        return Err(Failed::new("the node's status address is not known"));
    };
    let mut slow: Vec<_> = (0..32).map(|_| TcpStream::connect(status)).collect::<Result<_, _>>()?;
    let (began, mut sent) = (now(), 0);
    while began.elapsed() < each {
        for stream in &mut slow {
            sent += push(stream, b"G")? as u64;
        }
        let mut probe = TcpStream::connect(status)?;
        probe.set_read_timeout(Some(Duration::from_secs(5)))?;
        probe.write_all(b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        let read = probe.read_to_string(&mut answer);
        if read.is_err() || !answer.starts_with("HTTP/1.1 200") {
            return Err(Failed::new(format!("/live did not answer within 5 s: {answer:?}")));
        }
        pause(Duration::from_secs(2).min(each));
    }
    Ok(sent)
}
