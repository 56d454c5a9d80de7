//! Connections migrate to the core of their keys, and their clients notice nothing.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use store::config::{Config, Limits, Machine};
use store::node::Node;

const CONNECTIONS: usize = 12;
/// No connection needs that many; it only bounds a test that fails.
const COMMANDS_MAX: u64 = 1_000_000;

/// After this much silence a client that waits for an answer asks something else.
const PROBE_PAUSE: Duration = Duration::from_millis(200);

struct Client {
    replies: BufReader<TcpStream>,
    /// Writes sent so far, and how many of them are answered.
    sent: u64,
    answered: u64,
    /// Probes whose answers are still to come, because what was waited for came first.
    stale_probes: u32,
    /// It sends nothing more, not even probes.
    silent: bool,
}

impl Client {
    fn connect(addr: SocketAddr, name: usize) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PROBE_PAUSE)).unwrap();
        let replies = BufReader::new(stream);
        let mut client = Self { replies, sent: 0, answered: 0, stale_probes: 0, silent: false };
        assert_eq!(client.ask(&format!("CLIENT SETNAME client-{name}\r\n")), "+OK");
        client
    }

    fn send(&mut self, command: &str) {
        self.replies.get_ref().write_all(command.as_bytes()).unwrap();
    }

    fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.reply()
    }

    /// Asks the same this many times in one pipeline; each is answered with `OK`.
    fn ask_all(&mut self, command: &str, times: u64) {
        self.send(&format!("{command}\r\n").repeat(times as usize));
        (0..times).for_each(|_| assert_eq!(self.reply(), "+OK"));
    }

    /// The next line. Where it does not come for a while the server is asked something else, so that a lost answer ends the wait:
    /// what was asked later is then answered first. How long anything takes does not matter.
    fn reply(&mut self) -> String {
        let (mut line, mut probes) = (String::new(), 0);
        loop {
            match self.replies.read_line(&mut line) {
                Ok(_) if line == "+PONG\r\n" => {
                    assert!(self.stale_probes > 0, "an answer is lost: a later command is answered");
                    self.stale_probes -= 1;
                    line.clear();
                }
                Ok(_) => {
                    self.stale_probes += probes;
                    return line.trim_end().to_owned();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if !self.silent {
                        self.send("PING\r\n");
                        probes += 1;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn bulk(&mut self, command: &str) -> String {
        self.send(command);
        self.reply_bulk()
    }

    fn reply_bulk(&mut self) -> String {
        let length = self.reply();
        assert!(length.starts_with('$'), "{length}");
        self.reply()
    }

    /// Sends a pipeline of writes, each of which is answered with what the one before it has written.
    fn write(&mut self, key: &str, commands: u64) {
        let pipeline: String =
            (1..=commands).map(|n| format!("GETSET {key} {}\r\n", self.sent + n)).collect();
        self.send(&pipeline);
        self.sent += commands;
    }

    /// Reads answers until this many are outstanding. A command lost, doubled or out of order shows in them.
    fn read(&mut self, outstanding: u64) {
        while self.answered + outstanding < self.sent {
            let length = self.reply();
            assert!(length.starts_with(['$', '_']), "a write is lost: its answer is {length:?}");
            let before = if length == "_" { "0".to_owned() } else { self.reply() };
            assert_eq!(before, self.answered.to_string());
            self.answered += 1;
        }
    }
}

/// A node with two cores.
pub(crate) fn start(dir: &Path) -> Node {
    start_with(dir, |_| {})
}

/// The same with other settings.
pub(crate) fn start_with(dir: &Path, change: impl FnOnce(&mut Config)) -> Node {
    let mut config = Config {
        data_dir: dir.to_owned(),
        base_port: 0,
        resp_port: 0,
        status_port: 0,
        drain_deadline: Duration::from_secs(30),
        ..Config::default()
    };
    change(&mut config);
    let limits =
        Limits::derive(&config, Machine { cores: 2, memory_bytes: 1 << 30, open_files: 4096 }).unwrap();
    Node::start(&config, &limits, &[]).unwrap()
}

fn migrated(node: &Node) -> u64 {
    node.board().read().iter().map(|core| core.resp.moved_in).sum()
}

#[test]
fn a_connection_migrates_to_its_keys_and_its_client_notices_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = start(dir.path());
    let resp = node.addresses().resp;
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|name| Client::connect(resp, name)).collect();
    for client in &mut clients {
        // Seven pairs, the last of which is the modules, of which there are none.
        assert_eq!(client.ask("HELLO 3\r\n"), "%7");
        while client.reply() != "*0" {}
    }
    let mut commands = 0;
    while migrated(&node) == 0 {
        for (name, client) in clients.iter_mut().enumerate() {
            // All keys begin alike, so they lie on one core, and the kernel has spread the connections over both.
            let pipeline = 1 + commands % 7;
            client.write(&format!("key:{name}"), pipeline);
            // The next pipeline is on its way before this one is answered, so that an answer that is missing shows.
            client.read(pipeline);
        }
        commands += 1;
        assert!(commands < COMMANDS_MAX, "no connection has migrated");
    }
    for (name, client) in clients.iter_mut().enumerate() {
        // What follows is answered in the place of what is lost, so the last write is never waited for in vain.
        client.send("ECHO all\r\n");
        client.read(0);
        assert_eq!(client.reply_bulk(), "all");
        assert_eq!(client.bulk(&format!("GET key:{name}\r\n")), client.sent.to_string());
        assert_eq!(client.bulk("CLIENT GETNAME\r\n"), format!("client-{name}"));
        assert_eq!(client.ask("GET nothing\r\n"), "_", "the protocol goes along");
    }
    // A client that sends the end of its side hears all that it has asked for and then the end, so a loss ends the wait, too.
    for (name, mut client) in clients.drain(..CONNECTIONS / 2).enumerate() {
        client.write(&format!("key:{name}"), 100);
        client.silent = true;
        client.replies.get_ref().shutdown(Shutdown::Write).unwrap();
        client.read(0);
        assert_eq!(client.reply(), "", "nothing follows the last answer");
    }
    clients.iter_mut().for_each(|client| client.silent = true);
    node.drain(Duration::from_secs(30));
    for client in &mut clients {
        assert_eq!(client.reply(), "", "the drain ends what has migrated, too");
    }
}

/// Writes of other clients are seen by whoever watches, before a migration and after it, and a watched key keeps a connection
/// where it is.
#[test]
fn watched_keys_hold_whether_or_not_the_connection_would_migrate() {
    const ROUNDS: u64 = 400;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = start(dir.path());
    let resp = node.addresses().resp;
    let mut other = Client::connect(resp, CONNECTIONS);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|name| Client::connect(resp, name)).collect();
    let (mut ran, mut not) = (0, 0);
    for round in 0..ROUNDS {
        for (name, client) in clients.iter_mut().enumerate() {
            let key = format!("key:{name}");
            // Some of the commands that make a connection migrate come before `WATCH`, some after.
            client.ask_all(&format!("SET {key} {round}"), (round + name as u64) % 20);
            assert_eq!(client.ask(&format!("WATCH {key}\r\n")), "+OK");
            client.ask_all(&format!("SET {key}:beside {round}"), 20);
            let written = (round + name as u64).is_multiple_of(3);
            if written {
                assert_eq!(other.ask(&format!("SET {key} other\r\n")), "+OK");
            }
            assert_eq!(client.ask("MULTI\r\n"), "+OK");
            assert_eq!(client.ask(&format!("SET {key} mine\r\n")), "+QUEUED");
            if written {
                assert_eq!(client.ask("EXEC\r\n"), "*-1", "the write of another client was not seen");
                assert_eq!(client.bulk(&format!("GET {key}\r\n")), "other");
                not += 1;
            } else {
                assert_eq!(client.ask("EXEC\r\n"), "*1");
                assert_eq!(client.reply(), "+OK");
                ran += 1;
            }
        }
    }
    assert!(ran > 0 && not > 0);
    drop(clients);
    node.drain(Duration::from_secs(30));
}
