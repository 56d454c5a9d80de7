//! The commands, as conversations in `tests/scripts/*.txt`.
//!
//! `> words` sends a command (quotes and escapes as in an inline command), `>> bytes` sends bytes as they are, `< reply`
//! expects a reply, `<~ pattern` one that matches a glob, `@ new` opens another connection. Lines that send are sent
//! together up to the next line that expects. A file that begins with `# redis` holds for Redis 7 too and is played to a
//! real one where there is one.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use store::wire::resp::Config;
use store::wire::resp::frame::{FrameLimits, Parsed, Parser};
use store::wire::resp::glob;

use crate::resp_server::{Conversation, TestServer, config, packed};

#[test]
fn every_script_comes_true() {
    for path in scripts() {
        let text = std::fs::read_to_string(&path).unwrap();
        let server = TestServer::start(settings(&text));
        play(&path, &text, &|| server.connect());
    }
}

#[test]
fn redis_itself_plays_the_shared_scripts() {
    let Some(redis) = RedisServer::start() else {
        return skip("redis-server is not installed");
    };
    for path in scripts() {
        let text = std::fs::read_to_string(&path).unwrap();
        if text.starts_with("# redis") {
            redis.connect().ask(&[b"FLUSHALL"]);
            play(&path, &text, &|| redis.connect());
        }
    }
}

#[expect(clippy::print_stderr, reason = "a test that did nothing says so")]
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("resp_"));
    paths.sort();
    assert!(paths.len() >= 8, "the scripts are missing: {paths:?}");
    paths
}

/// `# password: secret` and `# connections: 2` in a script's head change the server.
fn settings(text: &str) -> Config {
    let mut config = config();
    for line in text.lines() {
        if let Some(password) = line.strip_prefix("# password: ") {
            config.password = Some(password.to_owned());
        }
        if let Some(connections) = line.strip_prefix("# connections: ") {
            config.connections_max = connections.parse().unwrap();
        }
    }
    config
}

fn play(path: &Path, text: &str, connect: &dyn Fn() -> Conversation) {
    let mut earlier = Vec::new();
    let mut conversation = connect();
    let mut unsent = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{}:{}: {line}", path.display(), number + 1);
        if let Some(bytes) = line.strip_prefix(">> ") {
            unsent.extend(words(&format!("\"{}\"\n", bytes.replace('"', "\\\""))).concat());
        } else if let Some(command) = line.strip_prefix("> ") {
            let words = words(&format!("{command}\n"));
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            unsent.extend(packed(&words));
        } else if line == "@ new" {
            earlier.push(std::mem::replace(&mut conversation, connect()));
        } else if line.starts_with('<') {
            conversation.send(&std::mem::take(&mut unsent));
            let reply = conversation.reply();
            match line.strip_prefix("<~ ") {
                Some(pattern) => {
                    assert!(glob::matches(pattern.as_bytes(), reply.as_bytes()), "{place}\nbut {reply}")
                }
                None => assert_eq!(line[2..], reply, "{place}"),
            }
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{place}: neither > nor <");
        }
    }
    assert!(unsent.is_empty(), "{}: the end expects nothing", path.display());
}

/// Words of an inline command.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut parser = Parser::default();
    let parsed = parser.parse(line.as_bytes(), &FrameLimits::OPEN).unwrap();
    assert!(matches!(parsed, Parsed::Command { .. }), "{line}");
    let text = parser.text(line.as_bytes());
    (0..parser.len()).map(|index| text[parser.range(index)].to_vec()).collect()
}

/// A real Redis that keeps nothing.
pub(crate) struct RedisServer {
    process: Child,
    addr: SocketAddr,
}

impl RedisServer {
    pub(crate) fn start() -> Option<Self> {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        let port = addr.port().to_string();
        let process = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let server = Self { process, addr };
        while TcpStream::connect(addr).is_err() {
            std::thread::yield_now();
        }
        Some(server)
    }

    pub(crate) fn connect(&self) -> Conversation {
        Conversation::new(TcpStream::connect(self.addr).unwrap())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
