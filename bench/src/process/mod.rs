//! Child processes: a ringkeep node or a peer, started on loopback in a directory of its own and ended by its id.
//!
//! | module | starts |
//! |---|---|
//! | `node` | `ringkeep server` |
//! | `cluster` | several nodes that form one cluster |
//! | `network` | nothing: it leads the links between nodes through this process, to cut them |
//! | `redis` | a Redis server that makes every write durable |
//! | `etcd` | an etcd cluster of one or more members |
//!
//! Nothing here outlives its owner: dropping a [`Process`] kills it, and where this process itself is killed, the kernel asks the child
//! to end. So a process is started on a thread that lives as long as it, such as the main one.

mod cluster;
mod etcd;
mod network;
mod node;
mod redis;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub use cluster::Cluster;
pub use etcd::Etcd;
pub use network::Network;
pub use node::{Node, NodeOptions, Ports, Starting};
pub use redis::{Redis, answers_ping};

use engine::host::end_with_parent;
use rustix::process::{Pid, Signal, kill_process};

use crate::Failed;
use crate::clock::{now, pause};

/// The kernel reports CPU time to user space in hundredths of a second on every architecture.
const TICKS_PER_SECOND: u64 = 100;
/// Longer than any start that is still worth waiting for.
const START_MAX: Duration = Duration::from_secs(60);

/// Ports of loopback that are free at this moment, all different. Another process may take one before its server does, which then
/// says so and ends.
fn free_ports(count: usize) -> Result<Vec<u16>, Failed> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

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
    resident_bytes_of(std::process::id())
}

/// Memory of a process that is in RAM now.
///
/// # Errors
/// There is no such process.
pub fn resident_bytes_of(pid: u32) -> Result<u64, Failed> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| Failed::new(format!("process {pid}: {error}")))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let kib = kib.and_then(|kib| kib.parse::<u64>().ok());
    Ok(kib.ok_or_else(|| Failed::new(format!("/proc/{pid}/status has no VmRSS")))? << 10)
}

/// `count` ports of loopback in a row that are free at this moment; returns the first.
fn free_ports_in_a_row(count: u16) -> Result<u16, Failed> {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0")?;
        let port = first.local_addr()?.port();
        let Some(last) = port.checked_add(count) else { continue };
        let rest: Result<Vec<_>, _> =
            (port + 1..last).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        if rest.is_ok() {
            return Ok(port);
        }
    }
    Err(Failed::new(format!("loopback has no {count} free ports in a row: end what listens there")))
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    fn spawn(name: &str, command: &mut Command) -> Result<Self, Failed> {
        end_with_parent(command);
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

    /// Stops it where it stands, until [`Process::resume`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end; [`Process::wait`] waits for that.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Signals that its terminal is gone.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Its memory that is in RAM now.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_bytes(&self) -> Result<u64, Failed> {
        resident_bytes_of(self.pid())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child has a process id");
        // It may have ended by itself, which whoever waits for it finds out.
        let _ = kill_process(pid, signal);
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It does not end within `deadline`, or ends with an error.
    pub fn wait(&mut self, deadline: Duration) -> Result<(), Failed> {
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

    /// Asks it to end and waits for that.
    ///
    /// # Errors
    /// It does not end, or ends with an error.
    pub fn terminate(mut self, deadline: Duration) -> Result<(), Failed> {
        self.ask_to_end();
        self.wait(deadline)
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
}
