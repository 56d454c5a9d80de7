//! Lines of the log that are not written, as the metrics page counts them: those of a statement that repeats itself, and those for which a
//! reader of standard error is too slow.

use std::fs::OpenOptions;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bench::process::Node;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::net::sockopt::set_socket_linger;

use crate::host::{directory, get, options, resp, start, stores};

const SUPPRESSED: &str = "ringkeep_log_lines_suppressed_total";
const DROPPED: &str = "ringkeep_log_lines_dropped_total";
/// More than the queue and a pipe hold, several times.
const CONNECTIONS_MAX: usize = 20_000;

fn number(node: &Node, name: &str) -> u64 {
    let page = get(node.status, "/metrics").1;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("{name} is not on the page"))
}

#[test]
fn lines_of_a_statement_that_repeats_itself_are_counted_on_the_page() {
    let directory = directory();
    let node = start(&directory);
    assert_eq!(number(&node, SUPPRESSED), 0);
    for _ in 0..60 {
        resp(node.resp, "AUTH guest wrong", "-WRONGPASS");
    }
    // The page is a copy that is at most a second old.
    while number(&node, SUPPRESSED) == 0 {
        bench::clock::pause(Duration::from_millis(100));
    }
    let log = std::fs::read_to_string(directory.path().join("node.log")).expect("a log");
    let written = log.lines().filter(|line| line.contains("wrong password")).count();
    assert!((20..60).contains(&written), "{written} lines");
}

/// A connection that is reset before it has said what it speaks, which is a line of the level debug.
fn break_a_connection(store: SocketAddr) {
    let stream = TcpStream::connect(store).expect("it listens");
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket");
}

#[test]
fn lines_that_a_slow_reader_of_standard_error_costs_are_counted_on_the_page() {
    let directory = directory();
    let mut options = options(&directory);
    options.arguments.extend(["--set".into(), "logging.level=debug".into()]);
    let log = directory.path().join("node.log");
    mknodat(CWD, &log, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    // Open for both, so that neither end waits for the other.
    let mut pipe = OpenOptions::new().read(true).write(true).open(&log).expect("a pipe");
    let node = Node::start(&options).unwrap_or_else(|error| panic!("{error}"));
    let store: SocketAddr = stores(node.status)[0].parse().expect("an address");
    let mut broken = 0;
    while number(&node, DROPPED) == 0 {
        assert!(broken < CONNECTIONS_MAX, "{broken} lines found room");
        for _ in 0..500 {
            break_a_connection(store);
        }
        broken += 500;
        // The page is a copy that is at most a second old.
        bench::clock::pause(Duration::from_millis(100));
    }
    // Its requests are answered meanwhile, and it says how much is missing once it is read.
    resp(node.resp, "SET a 1", "+OK\r\n");
    let (mut said, mut buffer) = (String::new(), vec![0; 64 << 10]);
    while !said.contains("log lines were dropped") {
        let read = pipe.read(&mut buffer).expect("a pipe");
        said.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}
