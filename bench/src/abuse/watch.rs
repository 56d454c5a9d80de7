//! Those who look on: the bystander, who wants little, and the eye on the node's memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{now, pause};

/// How often the node's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A bystander that waits longer counts as not served.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the bystander has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) requests: u64,
    pub(super) p99: Duration,
    pub(super) max: Duration,
    pub(super) failed: Option<String>,
}

/// One client that sets and gets a small key, again and again.
pub(super) struct Bystander {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Bystander {
    pub(super) fn start(addr: SocketAddr) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let seen = ends.clone();
        Self { ends, thread: std::thread::spawn(move || look_on(addr, &seen)) }
    }

    pub(super) fn stop(self) -> Seen {
        self.ends.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|_| Seen { failed: Some("panicked".into()), ..Seen::default() })
    }
}

fn look_on(addr: SocketAddr, ends: &AtomicBool) -> Seen {
    let mut waits = Vec::new();
    let failed = ask_on(addr, ends, &mut waits).err().map(|error| error.to_string());
    waits.sort_unstable();
    let at = |share: usize| waits.get((waits.len() * share / 100).min(waits.len().saturating_sub(1)));
    Seen {
        requests: waits.len() as u64,
        p99: at(99).copied().unwrap_or_default(),
        max: waits.last().copied().unwrap_or_default(),
        failed,
    }
}

fn ask_on(addr: SocketAddr, ends: &AtomicBool, waits: &mut Vec<Duration>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let requests: [(&[u8], &[u8]); 2] =
        [(b"SET bystander little\r\n", b"+OK\r\n"), (b"GET bystander\r\n", b"$6\r\nlittle\r\n")];
    while !ends.load(Relaxed) {
        for (request, expected) in requests {
            let began = now();
            stream.write_all(request)?;
            let mut answer = vec![0; expected.len()];
            stream.read_exact(&mut answer)?;
            waits.push(began.elapsed());
            if answer != expected {
                let answer = String::from_utf8_lossy(&answer).into_owned();
                return Err(std::io::Error::other(format!("was answered {answer:?}")));
            }
        }
        pause(Duration::from_millis(1));
    }
    Ok(())
}

/// The highest memory of a process.
pub(super) struct Resident {
    ends: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Resident {
    pub(super) fn watch(pid: u32) -> Self {
        let (ends, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (seen, highest) = (ends.clone(), peak.clone());
        let thread = std::thread::spawn(move || {
            while !seen.load(Relaxed) {
                highest.fetch_max(resident_bytes(pid), Relaxed);
                pause(LOOK_EVERY);
            }
        });
        Self { ends, peak, thread }
    }

    pub(super) fn stop(self) -> u64 {
        self.ends.store(true, Relaxed);
        // It cannot panic, and what it has seen counts anyway.
        let _ = self.thread.join();
        self.peak.load(Relaxed)
    }
}

/// 0 for a process that has ended, which the verdict finds out otherwise.
fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}
