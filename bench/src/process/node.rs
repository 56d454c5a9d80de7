//! A ringkeep node as a child process: what it is started with, and what it says until it is ready.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Process;
use crate::Failed;
use crate::clock::{now, pause};

/// A ringkeep node as a child of this process, on free loopback ports.
#[derive(Debug)]
pub struct Node {
    /// The process.
    pub process: Process,
    /// Its id in the cluster.
    pub id: u64,
    /// Where RESP is served.
    pub resp: SocketAddr,
    /// Where the PD API is served.
    pub pd: SocketAddr,
    /// Where metrics and health are served.
    pub status: SocketAddr,
    /// How many stores it has.
    pub stores: usize,
    /// What does not work, as it said before its ready line.
    pub trouble: Vec<String>,
    /// From starting the process to its ready line.
    pub start_to_ready: Duration,
}

/// The ports of a node; 0 is a free one, another one at each start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Of the PD API; store N has this plus N.
    pub base: u16,
    /// Of RESP.
    pub resp: u16,
    /// Of metrics and health.
    pub status: u16,
}

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The `ringkeep` binary.
    pub binary: PathBuf,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Further arguments of `ringkeep server`.
    pub arguments: Vec<String>,
    /// Further variables of its environment, by name.
    pub environment: Vec<(String, String)>,
    /// Its ports.
    pub ports: Ports,
    /// Where its log goes; discarded if absent.
    pub log: Option<PathBuf>,
    /// Whether it is apart from the signals of a terminal, so that this process decides when it ends.
    pub own_group: bool,
}

impl Node {
    /// Starts a node and waits until it says that it is ready.
    ///
    /// # Errors
    /// It ends.
    pub fn start(options: &NodeOptions) -> Result<Self, Failed> {
        Starting::spawn(options)?.ready(options)
    }
}

/// A node that has been started and may not be ready yet.
#[derive(Debug)]
pub struct Starting {
    process: Process,
    began: Instant,
}

impl Starting {
    /// Waits until the node says that it is ready. `options` are those it was started with.
    ///
    /// # Errors
    /// It ends.
    pub fn ready(mut self, options: &NodeOptions) -> Result<Node, Failed> {
        let stdout = self.process.child.stdout.take().expect("standard output is piped");
        let said = Said::read(stdout);
        let start_to_ready = self.began.elapsed();
        if !said.ready {
            let log = options.log.as_deref().map(last_lines).unwrap_or_default();
            pause(Duration::from_millis(50));
            let how = self.process.ended().unwrap_or_else(|| "still running".into());
            return Err(Failed::new(format!("ringkeep server did not become ready ({how})\n{log}")));
        }
        let addr = |key: &str| {
            let text =
                said.value(key).ok_or_else(|| Failed::new(format!("the banner has no \"{key}\" line")))?;
            text.parse()
                .map_err(|_| Failed::new(format!("the banner says {key} {text}, which is no address")))
        };
        let id = said.value("node").and_then(|text| text.parse().ok());
        let id = id.ok_or_else(|| Failed::new("the banner does not say which node it is"))?;
        let stores = said.value("stores").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(1);
        let (resp, pd, status) = (addr("resp")?, addr("pd")?, addr("status")?);
        let trouble =
            said.lines.iter().filter(|(key, _)| key == "trouble").map(|(_, why)| why.clone()).collect();
        Ok(Node { process: self.process, id, resp, pd, status, stores, trouble, start_to_ready })
    }

    /// Starts the process and does not wait for anything.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn spawn(options: &NodeOptions) -> Result<Self, Failed> {
        let mut command = Command::new(&options.binary);
        command.arg("server").arg("--data-dir").arg(&options.data_dir);
        let Ports { base, resp, status } = options.ports;
        for (port, number) in [("base_port", base), ("resp_port", resp), ("status_port", status)] {
            command.args(["--set", &format!("{port}={number}")]);
        }
        if options.own_group {
            command.process_group(0);
        }
        command.args(&options.arguments).envs(options.environment.iter().cloned());
        let log = match &options.log {
            Some(path) => std::fs::OpenOptions::new().create(true).append(true).open(path)?.into(),
            None => Stdio::null(),
        };
        command.stdout(Stdio::piped()).stderr(log);
        Ok(Self { process: Process::spawn("ringkeep server", &mut command)?, began: now() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Asks it to end, wherever its start had got to, and waits for that.
    ///
    /// # Errors
    /// It does not end within `deadline`, or ends with an error.
    pub fn terminate(self, deadline: Duration) -> Result<(), Failed> {
        self.process.terminate(deadline)
    }

    /// Ends it, wherever its start had got to.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

/// The lines that `ringkeep server` prints on standard output, up to its ready line.
struct Said {
    lines: Vec<(String, String)>,
    ready: bool,
}

impl Said {
    fn read(stdout: impl Read) -> Self {
        let mut said = Self { lines: Vec::new(), ready: false };
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some((key, value)) = line.split_once(':') {
                said.lines.push((key.trim().to_owned(), value.trim().to_owned()));
            }
            if line.trim() == "ready" {
                said.ready = true;
                break;
            }
        }
        said
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.lines.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_is_read_up_to_its_ready_line() {
        let said = Said::read(
            &b"ringkeep 0.1.0\nresp:    127.0.0.1:7\nstores:  2 (cores 0 1)\nready\nlater: 1\n"[..],
        );
        assert!(said.ready);
        assert_eq!(said.value("resp"), Some("127.0.0.1:7"));
        assert_eq!(said.value("later"), None);
        assert!(!Said::read(&b"resp: x\n"[..]).ready);
    }
}
