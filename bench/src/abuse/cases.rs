//! The cases: each one asks a node for more than it should give, for a bounded time, and ends what it has begun.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Failed;
use crate::clock::{now, pause};

/// Length of the large values, bytes: the longest that are allowed.
const BIG_BYTES: usize = 8 << 20;
/// How long an abuser waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) resp: SocketAddr,
    pub(super) status: Option<SocketAddr>,
}

/// One way to ask for too much.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// Returns the bytes that were sent.
    pub(super) run: fn(Target, Duration) -> Result<u64, Failed>,
}

/// All of them, in the order in which they run.
pub(super) static CASES: [Case; 9] = [
    Case { name: "exists", what: "EXISTS of one large value, 500 times in a command", run: exists },
    Case { name: "unread", what: "100 connections ask for a large value and read nothing", run: unread },
    Case { name: "mget", what: "20 connections MGET a large value 500 times in a command", run: mget },
    Case { name: "append", what: "pipelined one-byte APPENDs to a large value", run: append },
    Case { name: "getset", what: "pipelined GETSETs over large values", run: getset },
    Case {
        name: "unfinished",
        what: "200 connections with 7 MiB of an unfinished SET each",
        run: unfinished,
    },
    Case { name: "idle", what: "600 idle connections", run: idle },
    Case { name: "pattern", what: "SCAN with a pattern of 40,000 letters", run: pattern },
    Case { name: "probes", what: "32 slow clients at the status port, and a probe", run: probes },
];

impl Target {
    fn connect(self) -> Result<TcpStream, Failed> {
        let stream = TcpStream::connect(self.resp)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
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

fn packed(words: &[&[u8]]) -> Vec<u8> {
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

/// Opens connections and keeps on pushing the same bytes into each, without a look at the answers.
fn pour(target: Target, each: Duration, connections: usize, bytes: &[u8]) -> Result<u64, Failed> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = target.connect()?;
        stream.set_nonblocking(true)?;
        streams.push((stream, 0));
    }
    let (began, mut sent) = (now(), 0);
    while began.elapsed() < each {
        let mut any = false;
        for (stream, at) in &mut streams {
            let went = push(stream, &bytes[*at..])?;
            *at = (*at + went) % bytes.len();
            sent += went as u64;
            any |= went > 0;
        }
        if !any {
            pause(Duration::from_millis(5));
        }
    }
    Ok(sent)
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
    let mut streams = Vec::new();
    for _ in 0..200 {
        let stream = target.connect()?;
        stream.set_nonblocking(true)?;
        streams.push((stream, 0));
    }
    let (began, mut sent) = (now(), 0);
    while began.elapsed() < each {
        let mut any = false;
        for (stream, at) in streams.iter_mut().filter(|(_, at)| *at < part.len()) {
            let went = push(stream, &part[*at..])?;
            *at += went;
            sent += went as u64;
            any |= went > 0;
        }
        if !any {
            pause(Duration::from_millis(5));
        }
    }
    Ok(sent)
}

fn idle(target: Target, each: Duration) -> Result<u64, Failed> {
    let streams: Vec<_> = (0..600).map(|_| target.connect()).collect::<Result<_, _>>()?;
    pause(each);
    drop(streams);
    Ok(0)
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
