//! A store that cannot serve, or not all of it: `/metrics`, `/ready?verbose`, `/status` and the log of one run name it and the file.

use std::path::Path;
use std::time::Duration;

use bench::process::{Node, NodeOptions};
use tempfile::TempDir;

use crate::host::{directory, get, options, resp, run, start};

const DRAIN: Duration = Duration::from_secs(30);

/// What is to be seen of a store.
struct Expected<'a> {
    store: u64,
    /// The metric that is 1.
    metric: &'a str,
    /// The message of the one line of the log.
    line: &'a str,
    /// What names the file.
    file: &'a str,
}

/// Whether the value of a metric of this store is 1.
fn is_one(page: &str, metric: &str, store: u64) -> bool {
    let label = format!("store=\"{store}\"");
    page.lines().any(|line| line.starts_with(metric) && line.contains(&label) && line.ends_with(" 1"))
}

/// The four places, once the pages have it: each is a copy that is at most a second old.
fn all_four_say_so(options: &NodeOptions, node: &Node, expected: &Expected<'_>) {
    let Expected { store, metric, line, file } = expected;
    while !is_one(&get(node.status, "/metrics").1, metric, *store) {
        bench::clock::pause(Duration::from_millis(100));
    }
    let (status, verbose) = get(node.status, "/ready?verbose");
    let row = verbose.lines().find(|line| line.contains(&format!("store-{store}"))).unwrap_or_default();
    assert!(status == 503 && row.contains(file), "{file} is not there: {status} {verbose}");
    assert_eq!(get(node.status, "/ready").0, 503);
    let status: serde_json::Value = serde_json::from_str(&get(node.status, "/status").1).expect("JSON");
    let health = status["health"].as_array().expect("a row for each store");
    let health = health.iter().find(|row| row["store"] == store.to_string().as_str()).expect("its row");
    let problem = health["problem"].as_str().unwrap_or_default();
    assert!(problem.contains(file) && health["standing"] != "serving", "{file} is not there: {status}");
    let log = std::fs::read_to_string(options.log.as_ref().expect("it has one")).expect("a log");
    let lines: Vec<&str> = log.lines().filter(|said| said.contains(line)).collect();
    let named = |said: &str| said.contains(file) && said.contains(&format!("store={store}"));
    assert!(lines.len() == 1 && named(lines[0]), "one line with {file}: {lines:#?}");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("it is there");
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).expect("it is ours");
}

/// The files of a tree whose names contain `part`, in order.
fn files(tree: &Path, part: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(tree).expect("every store has one").flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().contains(part)).collect();
    files.sort();
    files
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("a plain name")
}

#[test]
fn a_fenced_store_is_named_by_every_page_and_in_the_log() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return;
    }
    fenced_is_named(2);
    // With the scheduler's state, which is asked for how the cluster does.
    let (node, directory) = fenced_is_named(1);
    let output = run(&["ctl", "--pd", &node.pd.to_string(), "cluster"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("not healthy: the store that has the scheduler's state is stopped"), "{said}");
    assert_eq!(output.status.code(), Some(4), "{said}");
    drop((node, directory));
}

/// A node with two stores of which this one is damaged at its second start.
fn fenced_is_named(store: u64) -> (Node, TempDir) {
    let directory = directory();
    let mut options = options(&directory);
    let one = options.arguments.iter().position(|word| word == "cores=1").expect("how tests start nodes");
    options.arguments[one] = "cores=2".into();
    let node = Node::start(&options).unwrap_or_else(|error| panic!("{error}"));
    resp(node.resp, "SET a 1", "+OK\r\n");
    node.process.terminate(DRAIN).expect("it drains");
    let manifest = files(&options.data_dir.join(format!("store-{store}/tree")), "MANIFEST-")
        .pop()
        .expect("every tree has one");
    flip(&manifest, 8);
    let node = Node::start(&options).unwrap_or_else(|error| panic!("{error}"));
    let file = format!("store-{store}/tree/{}", name(&manifest));
    let said = |why: &&String| why.contains(&file) && why.contains(&format!("store-{store}"));
    assert_eq!(node.trouble.iter().filter(said).count(), 1, "{file} is not there: {:?}", node.trouble);
    let (metric, line) = ("ringkeep_store_stopped", "a store is fenced");
    all_four_say_so(&options, &node, &Expected { store, metric, line, file: &file });
    assert!(!is_one(&get(node.status, "/metrics").1, metric, 3 - store), "the other store serves");
    (node, directory)
}

#[test]
fn damage_that_a_read_meets_is_named_by_every_page_and_in_the_log() {
    // Found in the table by it, because no compression makes it shorter at its first place.
    const KEY: &str = "q7Zp0vXw3LrTyJ5mKc9Nd2Hs8Bf4Ga6E";
    let directory = directory();
    let options = options(&directory);
    let node = start(&directory);
    resp(node.resp, &format!("SET {KEY} value"), "+OK\r\n");
    node.process.terminate(DRAIN).expect("it drains");
    let has_key = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).expect("it is there");
        bytes.windows(KEY.len()).position(|window| window == KEY.as_bytes()).map(|at| (path.clone(), at))
    };
    let tables = files(&options.data_dir.join("store-1/tree"), ".table");
    let (table, at) = tables.iter().find_map(has_key).expect("the drain has flushed");
    flip(&table, at);
    let node = start(&directory);
    for _ in 0..3 {
        resp(node.resp, &format!("GET {KEY}"), "-");
    }
    let file = format!("store-1/tree/{}", name(&table));
    let (metric, line) = ("ringkeep_store_damaged", "a file is damaged");
    all_four_say_so(&options, &node, &Expected { store: 1, metric, line, file: &file });
    // What is not in it is served.
    resp(node.resp, "SET other 1", "+OK\r\n");
    assert!(!is_one(&get(node.status, "/metrics").1, "ringkeep_store_stopped", 1));
}

#[test]
fn a_store_that_stops_is_named_by_every_page_and_in_the_log() {
    let directory = directory();
    let mut options = options(&directory);
    options.arguments.extend(["--set".into(), "lsm.memtable_bytes=64KiB".into()]);
    let node = Node::start(&options).unwrap_or_else(|error| panic!("{error}"));
    resp(node.resp, "SET a 1", "+OK\r\n");
    let tree = options.data_dir.join("store-1/tree");
    std::fs::rename(&tree, directory.path().join("elsewhere")).expect("the directory is ours");
    // A full memtable is to become a table, which has no place to be.
    let value = "v".repeat(8 << 10);
    let stopped = || is_one(&get(node.status, "/metrics").1, "ringkeep_store_stopped", 1);
    while !stopped() {
        for _ in 0..8 {
            resp(node.resp, &format!("SET k {value}"), "");
        }
        bench::clock::pause(Duration::from_millis(50));
    }
    let (metric, line) = ("ringkeep_store_stopped", "the store stops after a fault");
    all_four_say_so(&options, &node, &Expected { store: 1, metric, line, file: "store-1/tree/" });
    resp(node.resp, "SET a 1", "-");
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a writable directory");
    for entry in std::fs::read_dir(from).expect("it is there").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &to),
            // The node may remove one meanwhile, which is not missed.
            false => drop(std::fs::copy(&path, &to)),
        }
    }
}

/// What is done to the data directory `data` of a running node, with a place beside it.
type Move = fn(data: &Path, beside: &Path);

/// Open files stay open, so everything that is acknowledged after it would go to where no start looks.
#[test]
fn a_store_stops_and_says_why_once_its_directory_is_not_at_its_place() {
    let (gone, replaced) = ("the directory is no longer there", "another directory is in its place");
    let moves: [(&str, &str, Move); 6] = [
        (gone, "data", |data, beside| std::fs::rename(data, beside).expect("it is ours")),
        (gone, "data", |data, _| std::fs::remove_dir_all(data).expect("it is ours")),
        (gone, "data/store-1", |data, beside| {
            std::fs::rename(data.join("store-1"), beside).expect("it is ours")
        }),
        (gone, "data/store-1/log", |data, beside| {
            std::fs::rename(data.join("store-1/log"), beside).expect("it is ours")
        }),
        (gone, "data", |data, beside| {
            std::fs::rename(data, beside).expect("it is ours");
            std::fs::write(data, "a file in its place").expect("it is ours");
        }),
        (replaced, "data/store-1/log", |data, beside| {
            std::fs::rename(data, beside).expect("it is ours");
            copy(beside, data);
        }),
    ];
    for (at, (why, named, act)) in moves.into_iter().enumerate() {
        let directory = directory();
        let options = options(&directory);
        let node = start(&directory);
        resp(node.resp, "SET a 1", "+OK\r\n");
        let (data, beside, file) =
            (&options.data_dir, directory.path().join("beside"), directory.path().join(named));
        act(data, &beside);
        let file = file.to_str().expect("a plain path");
        let (metric, line) = ("ringkeep_store_stopped", "the store stops after a fault");
        all_four_say_so(&options, &node, &Expected { store: 1, metric, line, file });
        let said = format!("-ERR the store has stopped: {file}: {why}");
        resp(node.resp, "SET a 2", &said);
        node.process.terminate(DRAIN).expect("it drains");
        let log = std::fs::read_to_string(options.log.as_ref().expect("it has one")).expect("a log");
        assert!(log.contains("then start again") && !log.contains("panicked"), "{log}");
        // Once it is back, everything is.
        if at == 0 {
            std::fs::rename(&beside, data).expect("it is ours");
            resp(start(&directory).resp, "GET a", "$1\r\n1\r\n");
        }
    }
}

/// The first file of the store whose path contains `part`, as soon as there is one: segments are made ahead in the background.
fn of_store(data: &Path, part: &str) -> std::path::PathBuf {
    for _ in 0..600 {
        let (log, tree) = (files(&data.join("store-1/log"), part), files(&data.join("store-1/tree"), part));
        if let Some(file) = log.into_iter().chain(tree).next() {
            return file;
        }
        bench::clock::pause(Duration::from_millis(100));
    }
    panic!("no {part}")
}

/// Brings the copy `from` back into `to`, file by file, and removes what is not in it, as copying programs do.
fn bring_back(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(to).expect("it is there").flatten() {
        if !from.join(entry.file_name()).exists() {
            drop(std::fs::remove_file(entry.path()));
        }
    }
    for entry in std::fs::read_dir(from).expect("it is there").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            bring_back(&path, &to);
            continue;
        }
        let beside = to.with_extension("incoming");
        std::fs::copy(&path, &beside).expect("it is ours");
        std::fs::rename(&beside, &to).expect("it is ours");
    }
}

/// Removes a file.
fn remove(path: &Path, _: &Path) {
    std::fs::remove_file(path).expect("it is ours");
}

/// Puts a copy of a file in its place.
fn replace(path: &Path, beside: &Path) {
    std::fs::copy(path, beside).expect("it is ours");
    std::fs::rename(beside, path).expect("it is ours");
}

/// A directory that stays where it is says nothing of the files in it.
#[test]
fn a_store_stops_and_says_why_once_a_file_of_it_is_not_at_its_place() {
    let (gone, replaced) = ("the file is no longer there", "another file is in its place");
    let says = |path: &Path, _: &Path| {
        std::fs::write(path, "MANIFEST-0000000000000001\n").expect("it is ours");
    };
    let unlocked = "the lock was removed or replaced";
    let harms: [(&str, &str, Move); 10] = [
        ("LOCK", unlocked, remove),
        ("LOCK", unlocked, replace),
        ("0001.seg", gone, remove),
        ("0001.seg", replaced, replace),
        ("0002.seg", gone, remove),
        ("END", gone, remove),
        ("MANIFEST-", gone, remove),
        ("CURRENT", "it says", says),
        (".table", gone, remove),
        // Which of them is missed first is not said.
        ("", replaced, |data, beside| bring_back(&beside.join("store-1"), &data.join("store-1"))),
    ];
    for (part, why, act) in harms {
        let directory = directory();
        let options = options(&directory);
        let node = start(&directory);
        resp(node.resp, "SET a 1", "+OK\r\n");
        node.process.terminate(DRAIN).expect("it drains");
        // It has a table now.
        let node = start(&directory);
        let (data, beside) = (&options.data_dir, directory.path().join("beside"));
        copy(data, &beside);
        resp(node.resp, "SET a 2", "+OK\r\n");
        let file = match part {
            "" => data.join("store-1/log"),
            "LOCK" => data.join("LOCK"),
            part => of_store(data, part),
        };
        match part {
            "" => act(data, &beside),
            _ => act(&file, &directory.path().join("one")),
        }
        let file = file.to_str().expect("a plain path");
        let (metric, line) = ("ringkeep_store_stopped", "the store stops after a fault");
        all_four_say_so(&options, &node, &Expected { store: 1, metric, line, file });
        let rest = if part.is_empty() { String::new() } else { format!(": {why}") };
        resp(node.resp, "SET a 3", &format!("-ERR the store has stopped: {file}{rest}"));
        node.process.terminate(DRAIN).expect("it drains");
        let log = std::fs::read_to_string(options.log.as_ref().expect("it has one")).expect("a log");
        assert!(log.contains("then start again") && !log.contains("panicked"), "{log}");
    }
}

/// The directory itself is locked as well, so no second node comes in before the first one has noticed.
#[test]
fn a_second_node_is_refused_whatever_befalls_the_lock_file() {
    let harms: [Move; 2] = [remove, replace];
    for act in harms {
        let directory = directory();
        let options = options(&directory);
        let node = start(&directory);
        act(&options.data_dir.join("LOCK"), &directory.path().join("one"));
        let said = Node::start(&self::options(&directory)).expect_err("another node uses it").to_string();
        assert!(said.contains("another process") || said.contains("in use"), "{said}");
        node.process.terminate(DRAIN).expect("it drains");
    }
}
