//! Settings that act on the process or on what it says of itself, seen from outside: a setting that is read by none of the code fails here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bench::process::{Node, NodeOptions};
use tempfile::TempDir;

use crate::host::{directory, get, options, resp, stores};

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

/// How many writes of its log a node with this setting needs for what one client has sent at once.
fn log_writes_for(asked: usize, setting: &str) -> u64 {
    let directory = directory();
    let node = Node::start(&with(&directory, &[setting])).expect("it starts");
    let writes = || number(&get(node.status, "/metrics").1, "ringkeep_log_write_seconds_count");
    resp(node.resp, "SET a 0", "+OK\r\n");
    let before = settled(&writes);
    let mut stream = TcpStream::connect(node.resp).expect("it listens");
    stream.write_all(&b"SET a 1\r\n".repeat(asked)).expect("a socket");
    let mut answers = vec![0; b"+OK\r\n".len() * asked];
    stream.read_exact(&mut answers).expect("an answer to each");
    assert_eq!(answers, b"+OK\r\n".repeat(asked));
    settled(&writes) - before
}

/// The sum of a number over its series.
fn number(page: &str, name: &str) -> u64 {
    let of = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    page.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        as u64
}

/// The value of a number once the page has what was done so far, which is a copy that is at most a second old.
fn settled(number: &impl Fn() -> u64) -> u64 {
    bench::clock::pause(Duration::from_millis(1500));
    number()
}

/// Of one client's commands as many are in flight as the file says: one at a time, each waits for a write of the log of its own.
#[test]
fn a_session_has_no_more_commands_in_flight_than_is_set() {
    const ASKED: usize = 200;
    let one_by_one = log_writes_for(ASKED, "limits.pipeline_max=1");
    assert!(one_by_one >= ASKED as u64, "{one_by_one} writes for {ASKED} commands, one in flight");
    let together = log_writes_for(ASKED, "limits.pipeline_max=200");
    assert!(together < ASKED as u64 / 2, "{together} writes for {ASKED} commands, all in flight");
}

/// The files of the log of a node's one store.
fn segments(options: &NodeOptions) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(options.data_dir.join("store-1/log")).expect("a log").flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|kind| kind == "seg")).collect()
}

#[test]
fn segments_of_the_log_are_as_long_as_is_set() {
    for (setting, bytes) in [("log.segment_bytes=2MiB", 2 << 20), ("log.segment_bytes=8MiB", 8 << 20)] {
        let directory = directory();
        let options = with(&directory, &[setting]);
        let node = Node::start(&options).expect("it starts");
        resp(node.resp, "SET a 1", "+OK\r\n");
        node.process.terminate(DRAIN).expect("it drains");
        let length = |path: std::path::PathBuf| std::fs::metadata(path).expect("it is there").len();
        let lengths: Vec<u64> = segments(&options).into_iter().map(length).collect();
        assert!(
            !lengths.is_empty() && lengths.iter().all(|length| *length == bytes),
            "{setting}: {lengths:?}"
        );
    }
}

/// Whether a process has a segment open of which each write returns when it is durable.
fn writes_durably(pid: u32) -> bool {
    const O_DSYNC: u32 = 0o10000;
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten();
    let is_segment = |file: &std::path::PathBuf| {
        std::fs::read_link(file).is_ok_and(|path| path.extension().is_some_and(|kind| kind == "seg"))
    };
    let numbers = open.map(|entry| entry.path()).filter(is_segment).filter_map(|file| {
        let about = format!("/proc/{pid}/fdinfo/{}", file.file_name()?.to_str()?);
        let about = std::fs::read_to_string(about).ok()?;
        let flags = about.lines().find_map(|line| line.strip_prefix("flags:"))?;
        u32::from_str_radix(flags.trim(), 8).ok()
    });
    let flags: Vec<u32> = numbers.collect();
    assert!(!flags.is_empty(), "a node has its log open");
    flags.iter().any(|flags| flags & O_DSYNC != 0)
}

#[test]
fn the_log_is_made_durable_in_the_way_that_is_set() {
    for (setting, durably) in [("log.sync=dsync", true), ("log.sync=fdatasync", false)] {
        let directory = directory();
        let options = with(&directory, &[setting]);
        let node = Node::start(&options).expect("it starts");
        resp(node.resp, "SET a 1", "+OK\r\n");
        assert_eq!(writes_durably(node.process.pid()), durably, "{setting}");
        assert!(!options.data_dir.join("SYNC").exists(), "nothing is measured where it is set");
        node.process.terminate(DRAIN).expect("it drains");
    }
}

#[test]
fn a_memtable_is_flushed_at_the_size_that_is_set() {
    let value = "v".repeat(8 << 10);
    for (setting, flushes) in [("lsm.memtable_bytes=64KiB", true), ("lsm.memtable_bytes=32MiB", false)] {
        let directory = directory();
        let node = Node::start(&with(&directory, &[setting])).expect("it starts");
        for at in 0..200 {
            resp(node.resp, &format!("SET {at} {value}"), "+OK\r\n");
        }
        let flushed = || number(&get(node.status, "/metrics").1, "ringkeep_lsm_flushes_total");
        // What is flushed at all may be on the page late; what never is cannot be awaited.
        while flushes && flushed() <= 5 {
            bench::clock::pause(Duration::from_millis(20));
        }
        let flushed = settled(&flushed);
        assert_eq!(flushed > 5, flushes, "{setting}: {flushed} flushes");
    }
}
