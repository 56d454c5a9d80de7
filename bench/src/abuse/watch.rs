//! Those who look on: the bystander, who wants little, and the eye on the node's memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Failed;
use crate::clock::{now, pause};

/// How often the node's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A bystander that waits longer counts as not served.
const WAIT_MAX: Duration = Duration::from_secs(30);

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
    /// Returns once it has been served for the first time, so that nothing which a case takes away keeps it from coming.
    pub(super) fn start(addr: SocketAddr) -> Result<Self, Failed> {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        ask_once(&mut stream)?;
        let ends = Arc::new(AtomicBool::new(false));
        let seen = ends.clone();
        Ok(Self { ends, thread: std::thread::spawn(move || look_on(stream, &seen)) })
    }

    pub(super) fn stop(self) -> Seen {
        self.ends.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|_| Seen { failed: Some("panicked".into()), ..Seen::default() })
    }
}

fn look_on(mut stream: TcpStream, ends: &AtomicBool) -> Seen {
    let mut waits = Vec::new();
    let mut failed = None;
    while !ends.load(Relaxed) && failed.is_none() {
        match ask_once(&mut stream) {
            Ok(both) => waits.extend(both),
            Err(error) => failed = Some(error.to_string()),
        }
        pause(Duration::from_millis(1));
    }
    waits.sort_unstable();
    let at = |share: usize| waits.get((waits.len() * share / 100).min(waits.len().saturating_sub(1)));
    Seen {
        requests: waits.len() as u64,
        p99: at(99).copied().unwrap_or_default(),
        max: waits.last().copied().unwrap_or_default(),
        failed,
    }
}

/// Sets and gets its key; how long each took.
fn ask_once(stream: &mut TcpStream) -> std::io::Result<[Duration; 2]> {
    let requests: [(&[u8], &[u8]); 2] =
        [(b"SET bystander little\r\n", b"+OK\r\n"), (b"GET bystander\r\n", b"$6\r\nlittle\r\n")];
    let mut waits = [Duration::ZERO; 2];
    for ((request, expected), wait) in requests.into_iter().zip(&mut waits) {
        let began = now();
        stream.write_all(request)?;
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer)?;
        *wait = began.elapsed();
        if answer != expected {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            return Err(std::io::Error::other(format!("was answered {answer:?}")));
        }
    }
    Ok(waits)
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
        if self.thread.join().is_err() {
            // What was not watched is not within any bound.
            return u64::MAX;
        }
        self.peak.load(Relaxed)
    }
}

/// 0 for a process that has ended, which the verdict finds out otherwise.
fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}
