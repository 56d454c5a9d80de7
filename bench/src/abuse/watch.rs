//! Those who look on: the bystander, who wants little, and the eye on the node's memory.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Failed;
use crate::clock::{now, pause};
use crate::resp;

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
    ///
    /// `writes_may_fail` where a case takes away what writes need: then their refusals are answers, too.
    pub(super) fn start(addr: SocketAddr, writes_may_fail: bool) -> Result<Self, Failed> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        let mut stream = BufReader::new(stream);
        ask_once(&mut stream, writes_may_fail)?;
        let ends = Arc::new(AtomicBool::new(false));
        let seen = ends.clone();
        Ok(Self { ends, thread: std::thread::spawn(move || look_on(stream, writes_may_fail, &seen)) })
    }

    pub(super) fn stop(self) -> Seen {
        self.ends.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|_| Seen { failed: Some("panicked".into()), ..Seen::default() })
    }
}

fn look_on(mut stream: BufReader<TcpStream>, writes_may_fail: bool, ends: &AtomicBool) -> Seen {
    let mut waits = Vec::new();
    let mut failed = None;
    while !ends.load(Relaxed) && failed.is_none() {
        match ask_once(&mut stream, writes_may_fail) {
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

/// What a write is answered that cannot be done for now, or that may have been done.
const REFUSALS: [&str; 2] = ["-TRYAGAIN", "-ERR the outcome is unknown"];

/// Sets and gets its key; how long each took.
fn ask_once(stream: &mut BufReader<TcpStream>, writes_may_fail: bool) -> std::io::Result<[Duration; 2]> {
    let began = now();
    stream.get_mut().write_all(b"SET bystander little\r\n")?;
    let answer = resp::line(stream)?;
    let set = began.elapsed();
    let is_refusal = writes_may_fail && REFUSALS.iter().any(|refusal| answer.starts_with(refusal));
    if answer != "+OK" && !is_refusal {
        return Err(std::io::Error::other(format!("was answered {answer:?}")));
    }
    let began = now();
    stream.get_mut().write_all(b"GET bystander\r\n")?;
    let answer = [resp::line(stream)?, resp::line(stream)?];
    if answer != ["$6", "little"] {
        return Err(std::io::Error::other(format!("was answered {answer:?}")));
    }
    Ok([set, began.elapsed()])
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
