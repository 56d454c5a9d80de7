//! Starting and ending cores.
//!
//! A core ends in this order: its main future returns; no new operation is let in; connections are ended; what is on its way
//! in the kernel arrives; its pulse is taken from the kicker; the executor goes.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};

use super::kicker::{Beats, Kicker, StallWatch};
use super::{Core, file::io_error};
use crate::rt::{Mono, Rt, World};

/// What one executor is given.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// The CPU to stay on; `None` lets the kernel choose. See [`host`](crate::host).
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

/// The cores of one process, sharing an origin of time and a kicker. Join every core before dropping this.
#[derive(Debug)]
pub struct Cores {
    origin: Instant,
    kicker: Kicker,
}

/// A view of how the cores of a process move, for threads that outlive or do not own [`Cores`].
#[derive(Clone, Debug)]
pub struct Pulse {
    beats: Arc<Beats>,
    origin: Instant,
}

impl Pulse {
    /// For how long each running core has stood still, as (core, duration); one period of the kicker is nothing to report.
    pub fn stillness(&self) -> Vec<(usize, Duration)> {
        self.beats.stillness()
    }

    /// The present on the clock of the cores.
    #[expect(clippy::disallowed_methods, reason = "for threads beside the cores, on the cores' own origin")]
    pub fn now(&self) -> Mono {
        Mono(u64::try_from(Instant::now().duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A started core; [`CoreHandle::join`] waits for its main future.
#[derive(Debug)]
pub struct CoreHandle<T: Send + 'static> {
    executor: ExecutorJoinHandle<T>,
}

impl Cores {
    /// Starts the kicker; cores are added with [`Cores::start`].
    pub fn new() -> io::Result<Self> {
        Self::start_kicker(None)
    }

    /// As [`Cores::new`], and tells `watch` of cores that stand still.
    pub fn watched(watch: StallWatch) -> io::Result<Self> {
        Self::start_kicker(Some(watch))
    }

    #[expect(clippy::disallowed_methods, reason = "the origin of this process's monotonic time")]
    fn start_kicker(watch: Option<StallWatch>) -> io::Result<Self> {
        Ok(Self { origin: Instant::now(), kicker: Kicker::start(watch)? })
    }

    /// Starts core `index` and runs `main` on it.
    pub fn start<T, F, M>(&self, index: usize, options: &CoreOptions, main: M) -> io::Result<CoreHandle<T>>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        M: FnOnce(Rt) -> F + Send + 'static,
    {
        let placement = options.cpu.map_or(Placement::Unbound, Placement::Fixed);
        let (origin, beats) = (self.origin, self.kicker.beats().clone());
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
                let result = main(Rt { world: World::Native(core.clone()) }).await;
                core.drain().await;
                beats.remove(index);
                result
            })
            .map_err(io_error)?;
        Ok(CoreHandle { executor })
    }

    /// How often each running core's beat task has run, as (core, count). A count that stands still is a stalled core.
    pub fn beats(&self) -> Vec<(usize, u64)> {
        self.kicker.beats().counts()
    }

    /// For how long each running core has stood still, as (core, duration); one period of the kicker is nothing to report.
    pub fn stillness(&self) -> Vec<(usize, Duration)> {
        self.kicker.beats().stillness()
    }

    /// A view of the cores' movement that can be handed to other threads.
    pub fn pulse(&self) -> Pulse {
        Pulse { beats: self.kicker.beats().clone(), origin: self.origin }
    }
}

impl<T: Send + 'static> CoreHandle<T> {
    /// Waits for the core's main future and for all of its IO to end.
    pub fn join(self) -> io::Result<T> {
        self.executor.join().map_err(io_error)
    }
}

/// Spawns the task that hands its raw waker to the kicker and counts its wake-ups.
fn beat(core: &Core, beats: &Arc<Beats>) {
    let count = Arc::new(AtomicU64::new(0));
    let (index, beats) = (core.index(), beats.clone());
    let mut handed_over = false;
    core.spawn(Box::pin(poll_fn(move |cx| {
        count.fetch_add(1, Ordering::Relaxed);
        if !handed_over {
            handed_over = true;
            beats.add(index, cx.waker().clone(), count.clone());
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
