//! Signals that by default end a process, and limits whose signals do: a node that acknowledges writes goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bench::clock::{now, pause};
use bench::process::Node;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::host::{directory, get, options, resp, start};

const DRAIN: Duration = Duration::from_secs(30);
/// Longer than anything takes that is waited for here.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn pid(node: &Node) -> Pid {
    i32::try_from(node.process.pid()).ok().and_then(Pid::from_raw).expect("a process id")
}

/// Waits until `holds`.
fn until(what: &str, holds: impl Fn() -> bool) {
    let began = now();
    while !holds() {
        assert!(began.elapsed() < WAIT_MAX, "{what}");
        pause(Duration::from_millis(20));
    }
}

#[test]
fn signals_that_mean_nothing_to_a_node_do_not_end_it() {
    let directory = directory();
    let node = start(&directory);
    for signal in [Signal::USR1, Signal::USR2, Signal::XFSZ, Signal::PIPE] {
        kill_process(pid(&node), signal).expect("it runs");
        resp(node.resp, "SET a 1", "+OK\r\n");
    }
    let log = || std::fs::read_to_string(directory.path().join("node.log")).expect("a log");
    for name in ["SIGUSR1", "SIGUSR2"] {
        until("the signal is not logged", || log().contains(name));
        let lines = log().lines().filter(|line| line.contains(name)).count();
        assert_eq!(lines, 1, "{}", log());
    }
    // They are not counted as requests to end, of which the second ends a process at once.
    node.process.terminate(DRAIN).expect("it drains");
    assert!(log().contains("stopped"), "{}", log());
}

/// One command in the multi-bulk form, with its answer's first line.
fn ask(stream: &mut TcpStream, parts: &[&[u8]]) -> String {
    let mut message = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        message.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        message.extend_from_slice(part);
        message.extend_from_slice(b"\r\n");
    }
    stream.write_all(&message).expect("a socket");
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte).expect("an answer");
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).expect("it listens")
}

/// An operator lowers the limit below the length of the segments that are there, and raises it again.
#[test]
fn a_limit_on_the_length_of_files_refuses_writes_by_name_until_it_is_raised() {
    let directory = directory();
    let node = Node::start(&options(&directory)).expect("it starts");
    resp(node.resp, "SET small value", "+OK\r\n");
    let limit = |bytes| {
        let before = prlimit(Some(pid(&node)), Resource::Fsize, Rlimit { current: bytes, maximum: None });
        before.expect("a child of this process");
    };
    limit(Some(1 << 20));
    let addr = node.resp;
    let writing = std::thread::spawn(move || {
        let (mut stream, value) = (connect(addr), vec![b'v'; 256 << 10]);
        let answer =
            |number: usize| ask(&mut stream, &[b"SET", format!("large-{number}").as_bytes(), &value]);
        (0..64).map(answer).find(|answer| answer != "+OK")
    });
    until("the node does not notice the limit", || {
        let (status, why) = get(node.status, "/ready?verbose");
        status == 503 && why.contains("ulimit -f")
    });
    assert!(ask(&mut connect(node.resp), &[b"SET", b"other", b"value"]).starts_with("-MISCONF"));
    resp(node.resp, "GET small", "$5\r\nvalue\r\n");
    limit(None);
    until("the node does not go on", || get(node.status, "/ready").0 == 200);
    resp(node.resp, "SET other value", "+OK\r\n");
    let refused = writing.join().expect("no panic");
    assert!(refused.is_none_or(|answer| answer.starts_with("-MISCONF")), "an odd answer");
    node.process.terminate(DRAIN).expect("it drains");
    let node = start(&directory);
    resp(node.resp, "GET other", "$5\r\nvalue\r\n");
}
