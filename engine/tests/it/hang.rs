//! Guards against the worst defect of the runtime below: an executor that sleeps although it has work.
//!
//! Two pinned cores play ping-pong through queues while timers and file IO run beside it; neither core may stall for a
//! second. `RINGKEEP_HANG_SECONDS` sets how long (continuous integration uses 30). The second test stops and continues the
//! whole process at random moments meanwhile, which is what a CPU quota or a paused machine does to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::host::plan_cpus;
use engine::rt::chan::{Receiver, Sender, queue};
use engine::rt::{BLOCK_BYTES, OpenMode, Rt};
use engine::rt::{CoreHandle, CoreOptions, Cores};

/// No core may stall for longer.
const STALL_MAX: Duration = Duration::from_secs(1);

/// A disk that others use may take its time; only an operation that never ends is our fault.
const DISK_STALL_MAX: Duration = Duration::from_secs(20);

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Set in the child of the second test: where its files go.
const CHILD_DIR: &str = "RINGKEEP_HANG_CHILD_DIR";

fn seconds() -> u64 {
    std::env::var("RINGKEEP_HANG_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// One activity and how it fares.
struct Activity {
    name: &'static str,
    still_max: Duration,
    count: Arc<AtomicU64>,
    seen: u64,
    still_for: Duration,
    longest: Duration,
}

impl Activity {
    fn new(name: &'static str) -> Self {
        let zero = Duration::ZERO;
        let still_max = if name.starts_with("file") { DISK_STALL_MAX } else { STALL_MAX };
        Self { name, still_max, count: Arc::default(), seen: 0, still_for: zero, longest: zero }
    }

    fn is_stalled(&self) -> bool {
        self.still_for >= self.still_max
    }

    fn look(&mut self, passed: Duration) {
        let count = self.count.load(Ordering::Relaxed);
        self.still_for = if count == self.seen { self.still_for + passed } else { Duration::ZERO };
        self.longest = self.longest.max(self.still_for);
        self.seen = count;
    }
}

struct Player {
    serves: bool,
    out: Sender<u64>,
    back: Receiver<u64>,
    file: PathBuf,
    stop: Arc<AtomicBool>,
    rallies: Arc<AtomicU64>,
    ticks: Arc<AtomicU64>,
    writes: Arc<AtomicU64>,
}

impl Player {
    async fn play(self, rt: Rt) {
        let (ticker, ticks, stop) = (rt.clone(), self.ticks, self.stop.clone());
        let ticking = rt.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                ticker.sleep(Duration::from_millis(1)).await;
                ticks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (writer, writes, stop, path) = (rt.clone(), self.writes, self.stop.clone(), self.file);
        let writing = rt.spawn(async move {
            let file = writer.open(&path, OpenMode::Create).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                let block = writes.fetch_add(1, Ordering::Relaxed) % 64;
                file.write_at(writer.alloc(BLOCK_BYTES), block * BLOCK_BYTES as u64).await.unwrap();
                file.read_at(block * BLOCK_BYTES as u64, BLOCK_BYTES).await.unwrap();
                writer.sleep(Duration::from_millis(2)).await;
            }
            file.close().await.unwrap();
        });
        if self.serves {
            self.out.send(0).await.unwrap();
        }
        while !self.stop.load(Ordering::Relaxed) {
            let Some(ball) = self.back.recv().await else { break };
            self.rallies.fetch_add(1, Ordering::Relaxed);
            if self.out.send(ball + 1).await.is_err() {
                break;
            }
        }
        // The other side may be waiting for the ball; its queue closes and lets it go.
        drop((self.out, self.back));
        ticking.await;
        writing.await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the plain thread that looks on")]
#[expect(clippy::print_stderr, reason = "the figures are what the test is for")]
fn match_of(length: Duration, dir: &Path) {
    let cpus = plan_cpus(Some(2)).unwrap().cpus;
    let cores = Cores::new().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (there, from_here) = queue(16);
    let (back, here) = queue(16);
    let mut activities = Vec::new();
    let mut handles: Vec<CoreHandle<()>> = Vec::new();
    for (index, (out, back)) in [(there, here), (back, from_here)].into_iter().enumerate() {
        let names = [["rallies 0", "timer 0", "file 0"], ["rallies 1", "timer 1", "file 1"]][index];
        let mine: Vec<Activity> = names.into_iter().map(Activity::new).collect();
        let player = Player {
            serves: index == 0,
            out,
            back,
            file: dir.join(format!("core-{index}")),
            stop: stop.clone(),
            rallies: mine[0].count.clone(),
            ticks: mine[1].count.clone(),
            writes: mine[2].count.clone(),
        };
        activities.extend(mine);
        let cpu = cpus.get(index % cpus.len()).copied();
        let options = CoreOptions { cpu, io_memory_bytes: 1 << 20, ..CoreOptions::default() };
        handles.push(cores.start(index, &options, move |rt| player.play(rt)).unwrap());
    }
    let (began, mut last) = (Instant::now(), Instant::now());
    while began.elapsed() < length && !activities.iter().any(Activity::is_stalled) {
        std::thread::sleep(LOOK_EVERY);
        // While the process was stopped, or this thread was, no core can be blamed for a stall.
        let passed = last.elapsed().min(2 * LOOK_EVERY);
        last = Instant::now();
        for activity in &mut activities {
            activity.look(passed);
        }
    }
    for activity in &activities {
        eprintln!("{:<10} {:>9} times, longest pause {:?}", activity.name, activity.seen, activity.longest);
    }
    for activity in &activities {
        assert!(activity.seen > 0, "{} never began", activity.name);
        assert!(!activity.is_stalled(), "{} makes no progress", activity.name);
    }
    stop.store(true, Ordering::Relaxed);
    for handle in handles {
        handle.join().unwrap();
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn two_cores_never_stall() {
    let dir = directory();
    match_of(Duration::from_secs(seconds()), dir.path());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a plain thread that stops and continues a process")]
fn two_cores_go_on_after_every_stop() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return match_of(Duration::from_secs(seconds()), Path::new(&dir));
    }
    let dir = directory();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hang::two_cores_go_on_after_every_stop", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .spawn()
        .unwrap();
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    let mut pulses = 0u64;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        // Irregular, so that the stops fall on different instructions.
        std::thread::sleep(Duration::from_millis(60 + pulses * 37 % 150));
        for signal in [libc::SIGSTOP, libc::SIGCONT] {
            // SAFETY: the child is ours and not yet waited for, so the number is still its own.
            unsafe { libc::kill(pid, signal) };
            std::thread::sleep(Duration::from_millis(if signal == libc::SIGSTOP { 150 } else { 0 }));
        }
        pulses += 1;
    };
    assert!(status.success(), "the child ended with {status}");
    assert!(pulses > seconds(), "only {pulses} stops");
}
