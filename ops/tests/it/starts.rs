//! Starts of the binary that must not go through: what a directory has lost is named and nothing is made in its place, and a start that
//! waits for something ends when it is asked to.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bench::process::{Node, NodeOptions, Starting};

use crate::host::{binary, directory, get, options, resp, start};

const END: Duration = Duration::from_secs(30);
/// A value that is looked for in the log's segments.
const MARK: &str = "this-value-was-acknowledged";

/// Every file and directory below `dir`.
fn below(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).expect("a readable directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        found.insert(path);
    }
    found
}

/// The segments of the first store's log that hold what was acknowledged.
fn marked(data: &Path) -> Vec<PathBuf> {
    let log = std::fs::read_dir(data.join("store-1/log")).expect("a log");
    let has_mark = |path: &PathBuf| {
        let bytes = std::fs::read(path).expect("a segment");
        bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes())
    };
    log.flatten().map(|entry| entry.path()).filter(has_mark).collect()
}

#[test]
fn a_directory_that_has_lost_a_store_or_its_log_is_refused_by_name_and_left_as_it_is() {
    type Loss = fn(&Path) -> Vec<PathBuf>;
    let losses: [(&str, Loss); 4] = [
        ("a store", |data| vec![data.join("store-1")]),
        ("a log", |data| vec![data.join("store-1/log")]),
        ("a tree", |data| vec![data.join("store-1/tree")]),
        ("what was acknowledged", marked),
    ];
    for (what, lost) in losses {
        let directory = directory();
        let data = directory.path().join("data");
        let mut node = start(&directory);
        resp(node.resp, &format!("SET mark {MARK}"), "+OK\r\n");
        node.process.kill();
        let lost = lost(&data);
        assert!(!lost.is_empty(), "{what}: nothing to lose");
        for path in &lost {
            match path.is_dir() {
                true => std::fs::remove_dir_all(path).expect("a writable directory"),
                false => std::fs::remove_file(path).expect("a writable directory"),
            }
        }
        let left = below(&data);
        // A log that has lost its only segment is gone as a whole.
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "seg");
        let mut named = lost[0].clone();
        if is_segment(&named) && !left.iter().any(is_segment) {
            named.pop();
        }
        let said = Node::start(&options(&directory)).expect_err("something is missing").to_string();
        let is_named = said.contains(named.to_str().expect("a plain path"));
        assert!(is_named && said.contains("restore"), "{what}: {said}");
        assert_eq!(below(&data), left, "{what}: the start has made or removed something");
    }
}

#[test]
fn a_data_directory_whose_parent_is_missing_is_refused_and_nothing_is_made() {
    let directory = directory();
    let parent = directory.path().join("not-mounted/ringkeep");
    let options = NodeOptions { data_dir: parent.join("data"), ..options(&directory) };
    let said = Node::start(&options).expect_err("the path is mistyped").to_string();
    let named = said.contains(parent.to_str().expect("a plain path"));
    assert!(named && said.contains("is the disk mounted?"), "{said}");
    assert!(!directory.path().join("not-mounted").exists(), "the start has made a parent");
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let held = TcpListener::bind("127.0.0.1:0").expect("loopback");
    held.local_addr().expect("an address").port()
}

/// The cluster that is to be joined takes connections and says nothing.
#[test]
fn a_start_that_waits_is_not_ready_and_ends_at_the_first_signal() {
    let directory = directory();
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let member = silent.local_addr().expect("an address").to_string();
    let mut options = options(&directory);
    options.ports.status = free_port();
    options.arguments.extend(["--join".into(), member]);
    let starting = Starting::spawn(&options).expect("the binary runs");
    // It listens for signals before it opens the status port.
    let status = SocketAddr::from(([127, 0, 0, 1], options.ports.status));
    while TcpStream::connect(status).is_err() {
        bench::clock::pause(Duration::from_millis(5));
    }
    // It has asked by the time that someone calls.
    let _asked = silent.accept().expect("a connection");
    let (ready, why) = get(status, "/ready");
    assert!(ready == 503 && why.contains("starting"), "{ready} {why}");
    assert_eq!((get(status, "/started").0, get(status, "/live").0), (503, 200));
    starting.terminate(END).expect("the first signal ends it with exit code 0");
    let log = std::fs::read_to_string(directory.path().join("node.log")).expect("a log");
    assert!(log.contains("SIGTERM during the start"), "{log}");
}

/// What a command says and how it ends where the process may have few descriptors.
fn with_descriptors(descriptors: u64, words: &[&str]) -> (Option<i32>, String) {
    let limited = "ulimit -n \"$0\" && exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", limited, &descriptors.to_string()]).arg(binary()).args(words);
    let output = command.output().expect("the shell runs");
    (
        output.status.code(),
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned(),
    )
}

#[test]
fn too_few_descriptors_are_refused_with_how_many_there_are_and_are_needed() {
    let directory = directory();
    let data = directory.path().join("data");
    let data = data.to_str().expect("a plain path");
    let node = ["--data-dir", data, "--set", "cores=1", "--set", "memory_bytes=512MiB"];
    let needed = |descriptors: u64, needed: u64, code: i32, words: &[&str]| {
        let (ended, said) = with_descriptors(descriptors, words);
        assert_eq!(ended, Some(code), "{words:?}: {said}");
        let parts = [
            format!("is {descriptors} "),
            format!("needs {needed}"),
            "LimitNOFILE".into(),
            "ulimit -n".into(),
        ];
        parts.iter().for_each(|part| {
            assert!(said.contains(part), "{words:?} with {descriptors}: no {part:?}: {said}")
        });
    };
    for descriptors in [12, 20, 100, 255] {
        needed(descriptors, 256, 78, &[&["server"][..], &node].concat());
        needed(descriptors, 256, 78, &[&["server", "--check"][..], &node].concat());
        needed(descriptors, 256, 78, &[&["doctor"][..], &node].concat());
    }
    for words in [&["inspect", data][..], &["ctl", "stores"], &["demo"]] {
        needed(12, 64, 1, words);
    }
    assert!(!Path::new(data).exists(), "a start that is refused has made the directory");
}
