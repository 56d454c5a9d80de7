//! Which sync method suits this host.
//!
//! Both methods are timed on a small zeroed file, once while the cores are idle and once while as many threads spin as there
//! are cores. The second case decides: a durable write saves a step when all is quiet, but under spinning cores its completion
//! can wait for a scheduler tick, and a busy server is when latency matters.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::options::SyncMethod;
use crate::error::{Fault, Result};
use crate::rt::{BLOCK_BYTES, File, Meanwhile, OpenMode, Rt};

/// Synced writes per method and case, at most.
const WRITES: u64 = 40;

/// How long one method may take in one case.
const TIME_MAX: Duration = Duration::from_millis(40);

/// How much worse than the better one a method may be, in the busy case, to be preferred for being faster when idle.
const BUSY_TOLERANCE: u32 = 2;

/// How one method did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MethodFigures {
    /// Median of one synced write of 4 KiB on idle cores.
    pub idle: Duration,
    /// The same while every core spins.
    pub busy: Duration,
}

/// Both methods, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SyncReport {
    /// [`SyncMethod::DurableWrite`].
    pub durable_write: MethodFigures,
    /// [`SyncMethod::WriteThenSync`].
    pub write_then_sync: MethodFigures,
}

impl SyncReport {
    /// The method to use here: the faster one on idle cores, unless it collapses on busy ones.
    pub fn recommended(&self) -> SyncMethod {
        let (durable, then) = (&self.durable_write, &self.write_then_sync);
        let durable_collapses = durable.busy > then.busy * BUSY_TOLERANCE;
        let then_collapses = then.busy > durable.busy * BUSY_TOLERANCE;
        match (durable_collapses, then_collapses) {
            (true, _) => SyncMethod::WriteThenSync,
            (_, true) => SyncMethod::DurableWrite,
            _ if then.idle < durable.idle => SyncMethod::WriteThenSync,
            _ => SyncMethod::DurableWrite,
        }
    }
}

/// Measures both methods in `dir`; takes at most about a fifth of a second and leaves nothing behind.
///
/// # Errors
/// As any IO in `dir`.
pub async fn measure_sync(rt: &Rt, dir: &Path) -> Result<SyncReport> {
    let path = dir.join("sync-probe");
    let fault = |error: std::io::Error| Fault::io(&path, "measuring synced writes", &error);
    if rt.exists(&path).await.map_err(fault)? {
        rt.remove(&path).await.map_err(fault)?;
    }
    let plain = rt.open(&path, OpenMode::Create).await.map_err(fault)?;
    let bytes = usize::try_from(WRITES).expect("a small number") * BLOCK_BYTES;
    plain.write_at(rt.alloc(bytes), 0).await.map_err(fault)?;
    plain.sync().await.map_err(fault)?;
    let durable = rt.open(&path, OpenMode::WriteDurable).await.map_err(fault)?;
    let report = measure_files(rt, &plain, &durable).await.map_err(fault)?;
    durable.close().await.map_err(fault)?;
    plain.close().await.map_err(fault)?;
    rt.remove(&path).await.map_err(fault)?;
    Ok(report)
}

async fn measure_files(rt: &Rt, plain: &File, durable: &File) -> std::io::Result<SyncReport> {
    let mut report = SyncReport::default();
    report.durable_write.idle = median_write(rt, durable, false).await?;
    report.write_then_sync.idle = median_write(rt, plain, true).await?;
    let spinners = Arc::new(Spinners::default());
    let (spinner, shared) = (rt.clone(), spinners.clone());
    let spinning = rt.spawn(async move { spinner.blocking(move || shared.spin_on_all_cores()).await });
    let busy = async {
        spinners.wait(rt).await;
        let durable = median_write(rt, durable, false).await?;
        Ok::<_, std::io::Error>((durable, median_write(rt, plain, true).await?))
    }
    .await;
    spinners.stop.store(true, Ordering::Release);
    spinning.await?;
    (report.durable_write.busy, report.write_then_sync.busy) = busy?;
    Ok(report)
}

async fn median_write(rt: &Rt, file: &File, sync: bool) -> std::io::Result<Duration> {
    let mut taken = Vec::new();
    let began = rt.now();
    for n in 0..WRITES {
        let start = rt.now();
        file.write_urgently(rt.alloc(BLOCK_BYTES), n * BLOCK_BYTES as u64, sync, Meanwhile::GoOn).await?;
        taken.push(rt.now().since(start));
        if rt.now().since(began) > TIME_MAX {
            break;
        }
    }
    taken.sort();
    Ok(taken[taken.len() / 2])
}

/// Threads that keep every core busy until asked to stop. Bounded by themselves too, for worlds in which no one can ask them
/// meanwhile.
#[derive(Default)]
struct Spinners {
    stop: AtomicBool,
    running: AtomicUsize,
}

impl Spinners {
    fn spin_on_all_cores(&self) {
        std::thread::scope(|scope| {
            for _ in 0..cores() {
                scope.spawn(|| self.spin());
            }
        });
    }

    fn spin(&self) {
        const TURNS_MAX: u64 = 200_000_000;
        self.running.fetch_add(1, Ordering::Relaxed);
        for turn in 0..TURNS_MAX {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            std::hint::black_box(turn);
        }
    }

    /// Waits until all of them run, or that has taken too long to wait for.
    async fn wait(&self, rt: &Rt) {
        let began = rt.now();
        while self.running.load(Ordering::Relaxed) < cores() && rt.now().since(began) < TIME_MAX {
            rt.sleep(Duration::from_millis(1)).await;
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(idle_us: u64, busy_us: u64) -> MethodFigures {
        MethodFigures { idle: Duration::from_micros(idle_us), busy: Duration::from_micros(busy_us) }
    }

    #[test]
    fn the_faster_method_wins_unless_it_collapses_on_busy_cores() {
        let pick =
            |durable_write, write_then_sync| SyncReport { durable_write, write_then_sync }.recommended();
        assert_eq!(pick(figures(100, 150), figures(160, 160)), SyncMethod::DurableWrite);
        assert_eq!(pick(figures(100, 3_965), figures(160, 154)), SyncMethod::WriteThenSync);
        assert_eq!(pick(figures(200, 200), figures(160, 250)), SyncMethod::WriteThenSync);
        assert_eq!(pick(figures(200, 200), figures(160, 900)), SyncMethod::DurableWrite);
    }
}
