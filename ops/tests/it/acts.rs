//! Settings that act on the process or on what it says of itself, seen from outside: a setting that is read by none of the code fails here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bench::process::{Node, NodeOptions};
use tempfile::TempDir;

use crate::host::{directory, options, resp, stores};

const DRAIN: Duration = Duration::from_secs(60);

/// How a node with these settings is started.
fn with(directory: &TempDir, settings: &[&str]) -> NodeOptions {
    let mut options = options(directory);
    for pair in settings {
        options.arguments.extend(["--set".into(), (*pair).into()]);
    }
    options
}

/// What a node with these settings logs from its start to its end.
fn log(settings: &[&str]) -> String {
    let directory = directory();
    let node = Node::start(&with(&directory, settings)).expect("it starts");
    resp(node.resp, "SET a 1", "+OK\r\n");
    node.process.terminate(DRAIN).expect("it drains");
    std::fs::read_to_string(directory.path().join("node.log")).expect("a log")
}

#[test]
fn the_level_decides_what_is_logged() {
    let has = |log: &str, level: &str| log.lines().any(|line| line.contains(&format!(" {level} ")));
    let usual = log(&[]);
    assert!(has(&usual, "INFO") && !has(&usual, "DEBUG") && usual.contains("stopped"), "{usual}");
    let quiet = log(&["logging.level=error"]);
    assert!(!has(&quiet, "INFO") && !quiet.contains("stopped"), "{quiet}");
    let part = log(&["logging.level=error,ringkeep=info"]);
    assert!(part.contains("stopped") && !part.contains("store opened"), "{part}");
}

#[test]
fn the_format_decides_how_it_is_logged() {
    let is_json =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line.is_object());
    let json = log(&["logging.format=json"]);
    assert!(json.lines().count() > 3 && json.lines().all(is_json), "{json}");
    let last: serde_json::Value =
        serde_json::from_str(json.lines().last().expect("a line")).expect("an object");
    assert_eq!((&last["level"], &last["message"]), (&"INFO".into(), &"stopped".into()));
    let human = log(&[]);
    assert!(human.lines().count() > 3 && !human.lines().any(is_json), "{human}");
}

/// The lists of CPUs on which the threads of a process may run.
fn cpus_of_threads(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).ok();
    let list = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.map(|list| list.trim().to_owned())
    };
    tasks.filter_map(status).filter_map(list).collect()
}

#[test]
fn the_cores_of_a_node_run_on_the_cpus_that_it_names() {
    let allowed = engine::host::affinity().expect("a CPU mask");
    for cpu in [allowed[0], allowed[allowed.len() - 1]] {
        let directory = directory();
        let node = Node::start(&with(&directory, &[&format!("cpus={cpu}")])).expect("it starts");
        let threads = cpus_of_threads(node.process.pid());
        assert!(threads.iter().any(|list| *list == cpu.to_string()), "no thread is on {cpu}: {threads:?}");
        let others = allowed.iter().filter(|other| **other != cpu).map(ToString::to_string);
        for other in others {
            assert!(!threads.contains(&other), "a thread is on {other}: {threads:?}");
        }
    }
}

#[test]
fn clients_are_sent_to_the_address_that_is_advertised() {
    let directory = directory();
    let node = Node::start(&with(&directory, &["advertise=localhost"])).expect("it starts");
    let addresses = stores(node.status);
    assert!(!addresses.is_empty());
    assert!(addresses.iter().all(|address| address.starts_with("localhost:")), "{addresses:?}");
}

/// A client that takes its answers slowly, for far longer than the drain may take.
#[test]
fn a_drain_ends_at_the_deadline_that_is_set() {
    const VALUE_BYTES: usize = 4 << 20;
    let directory = directory();
    let deadline = "drain_deadline=1s";
    let node = Node::start(&with(&directory, &[deadline])).expect("it starts");
    let mut stream = TcpStream::connect(node.resp).expect("it listens");
    let head = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE_BYTES}\r\n");
    stream.write_all(&[head.as_bytes(), &vec![b'v'; VALUE_BYTES], b"\r\n"].concat()).expect("a socket");
    let mut ok = [0; 5];
    stream.read_exact(&mut ok).expect("an answer");
    assert_eq!(&ok, b"+OK\r\n");
    stream.write_all(&b"GET k\r\n".repeat(100)).expect("a socket");
    let reading = std::thread::spawn(move || {
        let (mut buffer, mut read) = (vec![0; 64 << 10], 0);
        // It ends with the process: what was not sent by then does not come.
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            read += bytes;
            bench::clock::pause(Duration::from_millis(10));
        }
        read
    });
    let began = bench::clock::now();
    node.process.terminate(DRAIN).expect("it drains");
    let took = began.elapsed();
    let read = reading.join().expect("no panic");
    assert!(read < 100 * VALUE_BYTES, "the client had everything: the test does not test");
    assert!(took < Duration::from_secs(15), "the drain took {took:?} with {deadline}");
}
