//! Whole nodes whose stores do not all open, and nodes that stop while they are busy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use store::config::{Config, Limits, Machine};
use store::node::{Node, StartError};

/// A drain that had to wait for its deadline would be seen.
const LONG: Duration = Duration::from_secs(3600);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn start(dir: &Path) -> Result<Node, StartError> {
    let config =
        Config { data_dir: dir.to_owned(), base_port: 0, resp_port: 0, status_port: 0, ..Config::default() };
    let limits =
        Limits::derive(&config, Machine { cores: 2, memory_bytes: 1 << 30, open_files: 4096 }).unwrap();
    Node::start(&config, &limits, &[])
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(resp: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(resp).unwrap()))
    }

    /// The first line of the answer; empty when the connection has ended.
    fn ask(&mut self, command: &str) -> String {
        if self.0.get_ref().write_all(format!("{command}\r\n").as_bytes()).is_err() {
            return String::new();
        }
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(_) => line.trim_end().to_owned(),
            Err(_) => String::new(),
        }
    }

    /// The answer of a command that returns a string.
    fn bulk(&mut self, command: &str) -> String {
        let head = self.ask(command);
        let bytes = head.strip_prefix('$').expect("a string").parse::<usize>().unwrap();
        let mut text = vec![0; bytes + 2];
        self.0.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn get(&mut self, key: &str) -> Result<String, String> {
        let head = self.ask(&format!("GET {key}"));
        if !head.starts_with('$') {
            return Err(head);
        }
        let mut value = String::new();
        self.0.read_line(&mut value).unwrap();
        Ok(value.trim_end().to_owned())
    }
}

/// One key for every first character, so that every region has some.
fn keys() -> impl Iterator<Item = String> {
    ('0'..='z').filter(char::is_ascii_alphanumeric).map(|first| format!("{first}-key"))
}

fn manifest(dir: &Path, store: u64) -> PathBuf {
    let tree = dir.join(format!("store-{store}/tree"));
    let entries = std::fs::read_dir(&tree).unwrap().map(|entry| entry.unwrap().path());
    let mut manifests: Vec<_> =
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("MANIFEST-")).collect();
    manifests.sort();
    manifests.pop().expect("every tree has a manifest")
}

/// Flips one bit of the head of a store's manifest.
fn damage(dir: &Path, store: u64) -> PathBuf {
    let path = manifest(dir, store);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_damaged_store_is_fenced_and_the_others_serve() {
    let dir = folder();
    let node = start(dir.path()).unwrap();
    let mut client = Client::connect(node.addresses().resp);
    for key in keys() {
        assert_eq!(client.ask(&format!("SET {key} {key}")), "+OK");
    }
    let info = client.bulk("INFO");
    assert!(info.contains("aof_last_write_status:ok"), "{info}");
    assert!(info.contains(&format!("db0:keys={},expires=0,avg_ttl=0", keys().count())), "{info}");
    // The other core is asked for its numbers, too.
    let mut others: Vec<_> = (0..16).map(|_| Client::connect(node.addresses().resp)).collect();
    others.iter_mut().for_each(|other| assert_eq!(other.ask("PING"), "+PONG"));
    // The other core's number comes once a second, and a round takes well above ten microseconds.
    let counted = (0..500_000).any(|_| {
        std::thread::yield_now();
        client.bulk("INFO clients").contains("connected_clients:17\r\n")
    });
    assert!(counted, "{}", client.bulk("INFO clients"));
    drop(others);
    drop(client);
    node.drain(LONG);

    let file = damage(dir.path(), 2);
    let node = start(dir.path()).expect("the other store serves");
    assert_eq!(node.stopped_stores(), [2]);
    let mut client = Client::connect(node.addresses().resp);
    let (mut served, mut refused) = (0, 0);
    for key in keys() {
        let set = client.ask(&format!("SET {key} {key}"));
        match client.get(&key) {
            Ok(value) => {
                assert_eq!((value, set.as_str()), (key, "+OK"));
                served += 1;
            }
            Err(text) => {
                assert_eq!(text, set);
                let named = file.strip_prefix(dir.path()).unwrap().to_string_lossy().into_owned();
                assert!(
                    text.contains("fenced") && text.contains(&named) && text.contains("restore"),
                    "{text}"
                );
                refused += 1;
            }
        }
    }
    assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
    // The rest of INFO is there although the keys cannot be counted.
    let info = client.bulk("INFO");
    assert!(info.contains("aof_last_write_status:err\r\nstores_not_well:1\r\n"), "{info}");
    drop(client);
    let problems: Vec<_> = node
        .board()
        .read()
        .iter()
        .flat_map(|core| &core.stores)
        .map(|store| (store.store, store.problem(node.movement().now())))
        .collect();
    assert!(problems.iter().any(|(store, problem)| *store == 1 && problem.is_none()), "{problems:?}");
    let said = |problem: &Option<String>| {
        problem
            .as_ref()
            .is_some_and(|text| text.contains("MANIFEST") && text.contains("other stores of this node serve"))
    };
    assert!(problems.iter().any(|(store, problem)| *store == 2 && said(problem)), "{problems:?}");
    node.drain(LONG);

    damage(dir.path(), 1);
    let error = start(dir.path()).expect_err("no store can serve").to_string();
    assert!(error.contains("store-1") && error.contains("store-2"), "{error}");
    assert!(!error.contains("other stores"), "none of them serves: {error}");
}

#[test]
fn a_drain_under_load_ends_and_every_request_that_was_read_is_answered() {
    const CLIENTS: usize = 16;
    let dir = folder();
    let node = start(dir.path()).unwrap();
    let (resp, answered) = (node.addresses().resp, Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let answered = answered.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(resp);
                let keys: Vec<String> = keys().collect();
                // Keys of all regions, so that half of the requests are answered by the other core.
                for n in number.. {
                    let answer = client.ask(&format!("SET {} {n}", keys[n % keys.len()]));
                    match answer.as_str() {
                        "+OK" => answered.fetch_add(1, Ordering::Relaxed),
                        "" => return,
                        other => panic!("{other}"),
                    };
                }
            })
        })
        .collect();
    while answered.load(Ordering::Relaxed) < 2000 {
        assert!(!clients.iter().any(JoinHandle::is_finished), "a client has ended early");
        std::thread::yield_now();
    }
    node.drain(LONG);
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn a_file_in_place_of_the_data_directory_is_not_taken_for_a_held_one() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"something else").unwrap();
    let error = start(&file).expect_err("a file holds no directory").to_string();
    assert!(error.contains("file") && !error.contains("another process"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"something else");
}
