//! A Redis server as a child process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Process, START_MAX, free_ports};
use crate::Failed;
use crate::clock::{now, pause};

/// A Redis server that makes every write durable, on a free loopback port.
#[derive(Debug)]
pub struct Redis {
    /// The process.
    pub process: Process,
    /// Where it serves.
    pub addr: SocketAddr,
}

impl Redis {
    /// Starts `redis-server` with `appendfsync always` in `directory`.
    ///
    /// # Errors
    /// It is not installed, or does not answer.
    pub fn start(directory: &Path) -> Result<Self, Failed> {
        std::fs::create_dir_all(directory)?;
        let port = free_ports(1)?[0];
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--daemonize", "no"]);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]).arg("--dir").arg(directory);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn("redis-server (Debian package redis-server)", &mut command)?;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let began = now();
        while !answers_ping(addr) {
            if let Some(how) = process.ended() {
                return Err(Failed::new(format!("redis-server ended at once: {how}")));
            }
            if began.elapsed() > START_MAX {
                return Err(Failed::new(format!("redis-server does not answer on {addr}")));
            }
            pause(Duration::from_millis(10));
        }
        Ok(Self { process, addr })
    }
}

/// Whether a RESP server answers PING at `addr`.
pub fn answers_ping(addr: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(addr)?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0u8; 7];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"+PONG\r\n")
    };
    ask().unwrap_or(false)
}
