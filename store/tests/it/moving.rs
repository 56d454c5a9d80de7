//! Connections follow their keys from core to core, and their clients notice nothing.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use store::config::{Config, Limits, Machine};
use store::node::Node;

const CONNECTIONS: usize = 12;
/// No connection needs so many; it only bounds a test that fails.
const COMMANDS_MAX: u64 = 1_000_000;

struct Client {
    replies: BufReader<TcpStream>,
    /// Writes sent so far, and how many of them are answered.
    sent: u64,
    answered: u64,
}

impl Client {
    fn connect(addr: SocketAddr, name: usize) -> Self {
        let replies = BufReader::new(TcpStream::connect(addr).unwrap());
        let mut client = Self { replies, sent: 0, answered: 0 };
        assert_eq!(client.ask(&format!("CLIENT SETNAME client-{name}\r\n")), "+OK");
        client
    }

    fn ask(&mut self, command: &str) -> String {
        self.replies.get_ref().write_all(command.as_bytes()).unwrap();
        self.reply()
    }

    fn reply(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn bulk(&mut self, command: &str) -> String {
        assert!(self.ask(command).starts_with('$'));
        self.reply()
    }

    /// Sends a pipeline of writes, each of which is answered with what the one before it has written.
    fn write(&mut self, key: &str, commands: u64) {
        let pipeline: String =
            (1..=commands).map(|n| format!("GETSET {key} {}\r\n", self.sent + n)).collect();
        self.replies.get_ref().write_all(pipeline.as_bytes()).unwrap();
        self.sent += commands;
    }

    /// Reads answers until so many are outstanding. A command lost, doubled or out of order shows in them.
    fn read(&mut self, outstanding: u64) {
        while self.answered + outstanding < self.sent {
            let before = if self.reply() == "$-1" { "0".to_owned() } else { self.reply() };
            assert_eq!(before, self.answered.to_string());
            self.answered += 1;
        }
    }
}

fn start(dir: &Path) -> Node {
    let config = Config {
        data_dir: dir.to_owned(),
        base_port: 0,
        resp_port: 0,
        status_port: 0,
        drain_deadline: Duration::from_secs(30),
        ..Config::default()
    };
    let limits =
        Limits::derive(&config, Machine { cores: 2, memory_bytes: 1 << 30, open_files: 4096 }).unwrap();
    Node::start(&config, &limits, &[]).unwrap()
}

fn moved(node: &Node) -> u64 {
    node.board().read().iter().map(|core| core.resp.moved_in).sum()
}

#[test]
fn a_connection_moves_to_its_keys_and_its_client_notices_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = start(dir.path());
    let resp = node.addresses().resp;
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|name| Client::connect(resp, name)).collect();
    let mut commands = 0;
    while moved(&node) == 0 {
        for (name, client) in clients.iter_mut().enumerate() {
            // All keys begin alike, so they lie on one core, and the kernel has spread the connections over both.
            let pipeline = 1 + commands % 7;
            client.write(&format!("key:{name}"), pipeline);
            // The next pipeline is on its way before this one is answered, so that an answer that is missing shows.
            client.read(pipeline);
        }
        commands += 1;
        assert!(commands < COMMANDS_MAX, "no connection has moved");
    }
    for (name, client) in clients.iter_mut().enumerate() {
        client.read(0);
        assert_eq!(client.bulk(&format!("GET key:{name}\r\n")), client.sent.to_string());
        assert_eq!(client.bulk("CLIENT GETNAME\r\n"), format!("client-{name}"));
    }
    node.drain(Duration::from_secs(30));
    for client in &mut clients {
        assert_eq!(client.reply(), "", "the drain ends what has moved, too");
    }
}
