//! A process that has no descriptor left, seen from outside: writes stand meanwhile, and every page says why.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bench::process::Node;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::host::{directory, get, options, start};

/// Fewer than a node has open from its start.
const DESCRIPTORS: u64 = 16;

/// Lets the node have no more descriptors than this.
fn limit(node: &Node, descriptors: Option<u64>) {
    let pid = i32::try_from(node.process.pid()).ok().and_then(Pid::from_raw).expect("a process");
    let new = Rlimit { current: descriptors, maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(pid), Resource::Nofile, new).expect("the node is ours");
}

/// Writes until an answer does not come, because the log needs a file that cannot be opened.
fn write_until_one_waits(node: &Node) -> TcpStream {
    const VALUE_BYTES: usize = 1 << 20;
    let mut stream = TcpStream::connect(node.resp).expect("it listens");
    // The first answer says that the connection is open.
    stream.write_all(b"PING\r\n").expect("a socket");
    stream.read_exact(&mut [0; 7]).expect("an answer");
    limit(node, Some(DESCRIPTORS));
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
    let head = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE_BYTES}\r\n");
    let command = [head.as_bytes(), &vec![b'v'; VALUE_BYTES], b"\r\n"].concat();
    for _ in 0..1000 {
        stream.write_all(&command).expect("a socket");
        let mut answer = [0; 5];
        match stream.read_exact(&mut answer) {
            Ok(()) => assert_eq!(&answer, b"+OK\r\n"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return stream;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing ever lacked a descriptor");
}

/// The page once it has, or has not, these words: it is a copy that is at most a second old.
fn page_with(node: &Node, path: &str, words: &str, has: bool) -> (u16, String) {
    let mut last = (0, String::new());
    for _ in 0..120 {
        last = get(node.status, path);
        if last.1.contains(words) == has {
            return last;
        }
        bench::clock::pause(Duration::from_millis(250));
    }
    panic!("{path} has {words:?}: {}, which it should: {has}: {last:?}", !has);
}

#[test]
fn a_shortage_of_descriptors_is_on_every_page_and_in_the_log_until_it_has_passed() {
    let directory = directory();
    let node = start(&directory);
    let log = || std::fs::read_to_string(options(&directory).log.expect("it has one")).expect("a log");
    let mut waiting = write_until_one_waits(&node);
    let (status, verbose) = page_with(&node, "/ready?verbose", "its log waits for what is short", true);
    assert!(status == 200 && verbose.contains("limit of open files"), "it serves: {status} {verbose}");
    page_with(&node, "/metrics", "ringkeep_log_waits{core=\"0\",store=\"1\"} 1", true);
    let status: serde_json::Value = serde_json::from_str(&get(node.status, "/status").1).expect("JSON");
    let waits = status["health"][0]["waits"].as_str().unwrap_or_default();
    assert!(waits.contains("limit of open files"), "{status}");
    assert!(log().contains("a part of the store waits for what is short"), "{}", log());
    limit(&node, getrlimit(Resource::Nofile).current);
    waiting.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    let mut answer = [0; 5];
    waiting.read_exact(&mut answer).expect("what waited is answered, at the latest after two seconds");
    assert!(&answer == b"+OK\r\n" || &answer == b"-ERR ", "{answer:?}");
    page_with(&node, "/ready?verbose", "waits for what is short", false);
    page_with(&node, "/metrics", "ringkeep_log_waits{core=\"0\",store=\"1\"} 0", true);
    assert!(log().contains("the part waits no longer"), "{}", log());
}
