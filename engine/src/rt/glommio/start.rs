//! Starting cores, and the kicker that keeps them awake.
//!
//! The kicker is one plain thread. It holds one waker per core and wakes each every [`KICK_EVERY`], so that a wrongly parked
//! executor loses at most one period. It also watches: a core whose beat stands still is reported through [`Cores::stalled`].
//!
//! Shutdown order: the kicker ends first and drops its wakers, then the executors end.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};

use super::{Core, file::io_error};
use crate::rt::{Rt, World};

/// How long a wrongly parked core can sleep.
const KICK_EVERY: Duration = Duration::from_millis(5);

/// What one executor is given.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// The CPU to stay on; `None` lets the kernel choose.
    pub cpu: Option<usize>,
    /// Registered buffer memory for IO, bytes. Counts against RLIMIT_MEMLOCK three times.
    pub io_memory_bytes: usize,
    /// How long to spin before parking. Zero unless the CPU is dedicated.
    pub spin: Duration,
}

impl Default for CoreOptions {
    fn default() -> Self {
        Self { cpu: None, io_memory_bytes: 16 << 20, spin: Duration::ZERO }
    }
}

/// The cores of one process, sharing an origin of time and a kicker.
#[derive(Debug)]
pub struct Cores {
    origin: Instant,
    beats: Arc<Mutex<Vec<Beat>>>,
    stop: Arc<AtomicBool>,
    kicker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Beat {
    core: usize,
    waker: Waker,
    count: Arc<AtomicU64>,
}

/// A started core; [`CoreHandle::join`] waits for its main future.
#[derive(Debug)]
pub struct CoreHandle<T: Send + 'static> {
    executor: ExecutorJoinHandle<T>,
}

impl Cores {
    /// Starts the kicker; cores are added with [`Cores::start`].
    #[expect(
        clippy::disallowed_methods,
        reason = "the origin of this process's monotonic time, and a plain thread's pause"
    )]
    pub fn new() -> io::Result<Self> {
        let beats: Arc<Mutex<Vec<Beat>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (watched, stopping) = (beats.clone(), stop.clone());
        let kicker = std::thread::Builder::new().name("rk-kicker".into()).spawn(move || {
            while !stopping.load(Ordering::Acquire) {
                std::thread::sleep(KICK_EVERY);
                for beat in watched.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    beat.waker.wake_by_ref();
                }
            }
            watched.lock().unwrap_or_else(PoisonError::into_inner).clear();
        })?;
        Ok(Self { origin: Instant::now(), beats, stop, kicker: Some(kicker) })
    }

    /// Starts core `index` and runs `main` on it.
    pub fn start<T, F, M>(&self, index: usize, options: &CoreOptions, main: M) -> io::Result<CoreHandle<T>>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        M: FnOnce(Rt) -> F + Send + 'static,
    {
        let placement = options.cpu.map_or(Placement::Unbound, Placement::Fixed);
        let (origin, beats) = (self.origin, self.beats.clone());
        let executor = LocalExecutorBuilder::new(placement)
            .name(&format!("rk-core-{index}"))
            .io_memory(options.io_memory_bytes)
            .ring_depth(256)
            .spin_before_park(options.spin)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(2))
            .spawn(move || async move {
                let core = Core::new(index, origin);
                beat(&core, &beats);
                // The first sleep registers the process with the kernel's memory barriers, which takes tens of
                // milliseconds; better now than under the first request.
                core.sleep(Duration::from_micros(50)).await;
                main(Rt { world: World::Glommio(core) }).await
            })
            .map_err(io_error)?;
        Ok(CoreHandle { executor })
    }

    /// How often each core's beat task has run, as (core, count). A count that stands still is a stalled core.
    pub fn beats(&self) -> Vec<(usize, u64)> {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        beats.iter().map(|beat| (beat.core, beat.count.load(Ordering::Relaxed))).collect()
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(kicker) = self.kicker.take() {
            // A panicked kicker has nothing left to clean up.
            let _ = kicker.join();
        }
    }
}

impl<T: Send + 'static> CoreHandle<T> {
    /// Waits for the core's main future.
    pub fn join(self) -> io::Result<T> {
        self.executor.join().map_err(io_error)
    }
}

/// Spawns the task that hands its raw waker to the kicker. A channel message would not do: once
/// its receiver is runnable, further messages wake nobody.
fn beat(core: &Core, beats: &Arc<Mutex<Vec<Beat>>>) {
    let count = Arc::new(AtomicU64::new(0));
    let (index, beats) = (core.index(), beats.clone());
    let mut handed_over = false;
    core.spawn(Box::pin(poll_fn(move |cx| {
        count.fetch_add(1, Ordering::Relaxed);
        if !handed_over {
            handed_over = true;
            let beat = Beat { core: index, waker: cx.waker().clone(), count: count.clone() };
            beats.lock().unwrap_or_else(PoisonError::into_inner).push(beat);
        }
        Poll::<()>::Pending
    })));
}

/// Runs `main` alone on one fresh core and waits for it: tools and tests.
pub fn start_core<T, F, M>(options: &CoreOptions, main: M) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
    M: FnOnce(Rt) -> F + Send + 'static,
{
    let cores = Cores::new()?;
    let handle = cores.start(0, options, main)?;
    handle.join()
}
