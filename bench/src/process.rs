//! Child processes: a ringkeep node or a peer, started on loopback in a directory of its own and ended by its id.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::Failed;
use crate::clock::{now, pause};

/// The kernel reports CPU time to user space in hundredths of a second on every architecture.
const TICKS_PER_SECOND: u64 = 100;
/// Longer than any start that is still worth waiting for.
const START_MAX: Duration = Duration::from_secs(60);

/// CPU time that a process has used so far, user and system, in steps of 10 ms.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration, Failed> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|error| Failed::new(format!("process {pid}: {error}")))?;
    let ticks = cpu_ticks(&text).ok_or_else(|| Failed::new(format!("/proc/{pid}/stat reads \"{text}\"")))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// utime + stime. The name in the second field may hold spaces and brackets, so fields are counted after the last bracket.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Memory of this process that is in RAM now.
///
/// # Errors
/// The kernel does not say.
pub fn resident_bytes() -> Result<u64, Failed> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let kib = kib.and_then(|kib| kib.parse::<u64>().ok());
    Ok(kib.ok_or_else(|| Failed::new("/proc/self/status has no VmRSS"))? << 10)
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    fn spawn(name: &str, command: &mut Command) -> Result<Self, Failed> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| Failed::new(format!("cannot start {name}: {error}")))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> Result<Duration, Failed> {
        cpu_time(self.pid())
    }

    /// Ends it at once, as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end and waits for that.
    ///
    /// # Errors
    /// It does not end, or ends with an error.
    pub fn terminate(mut self, deadline: Duration) -> Result<(), Failed> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child has a process id");
        // It may have ended by itself, which the wait below finds out.
        let _ = kill_process(pid, Signal::TERM);
        let began = now();
        while began.elapsed() < deadline {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Failed::new(format!("{} ended with {status}", self.name))),
                None => pause(Duration::from_millis(2)),
            }
        }
        Err(Failed::new(format!("{} did not end within {deadline:?} of SIGTERM", self.name)))
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A ringkeep node as a child of this process, on free loopback ports.
#[derive(Debug)]
pub struct Node {
    /// The process.
    pub process: Process,
    /// Where RESP is served.
    pub resp: SocketAddr,
    /// Where the PD API is served.
    pub pd: SocketAddr,
    /// Where metrics and health are served.
    pub status: SocketAddr,
    /// How many stores it has.
    pub stores: usize,
    /// From starting the process to its ready line.
    pub start_to_ready: Duration,
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
    /// Where its log goes; discarded if absent.
    pub log: Option<PathBuf>,
}

impl Node {
    /// Starts a node and waits until it says that it is ready.
    ///
    /// # Errors
    /// It ends, or says nothing for a minute.
    pub fn start(options: &NodeOptions) -> Result<Self, Failed> {
        let began = now();
        let mut starting = Starting::spawn(options)?;
        let stdout = starting.process.child.stdout.take().expect("standard output is piped");
        let said = Said::read(stdout);
        let start_to_ready = began.elapsed();
        if !said.ready {
            let log = options.log.as_deref().map(last_lines).unwrap_or_default();
            pause(Duration::from_millis(50));
            let how = starting.process.ended().unwrap_or_else(|| "still running".into());
            return Err(Failed::new(format!("ringkeep server did not become ready ({how})\n{log}")));
        }
        let addr = |key: &str| {
            let text =
                said.value(key).ok_or_else(|| Failed::new(format!("the banner has no \"{key}\" line")))?;
            text.parse()
                .map_err(|_| Failed::new(format!("the banner says {key} {text}, which is no address")))
        };
        let stores = said.value("stores").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(1);
        let (resp, pd, status) = (addr("resp")?, addr("pd")?, addr("status")?);
        Ok(Self { process: starting.process, resp, pd, status, stores, start_to_ready })
    }
}

/// A node that has been started and may not be ready yet.
#[derive(Debug)]
pub struct Starting {
    process: Process,
}

impl Starting {
    /// Starts the process and does not wait for anything.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn spawn(options: &NodeOptions) -> Result<Self, Failed> {
        let mut command = Command::new(&options.binary);
        command.arg("server").arg("--data-dir").arg(&options.data_dir);
        for port in ["base_port", "resp_port", "status_port"] {
            command.args(["--set", &format!("{port}=0")]);
        }
        command.args(&options.arguments);
        let log = match &options.log {
            Some(path) => std::fs::OpenOptions::new().create(true).append(true).open(path)?.into(),
            None => Stdio::null(),
        };
        command.stdout(Stdio::piped()).stderr(log);
        Ok(Self { process: Process::spawn("ringkeep server", &mut command)? })
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
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_survives_odd_process_names() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 100 0 0 0 25 17 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("nothing"), None);
    }

    #[test]
    fn own_cpu_time_grows() {
        let before = cpu_time(std::process::id()).expect("this process exists");
        let mut sum = 0u64;
        while cpu_time(std::process::id()).expect("this process exists") < before + Duration::from_millis(30)
        {
            sum = (0..100_000).fold(sum, |sum: u64, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        assert_ne!(sum, 1);
    }

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
