//! Starting and ending the threads of cores.
//!
//! A core ends in this order: its main future returns; no new operation is let in; connections are ended; what is on its way
//! in the kernel arrives; its pulse is taken from the kicker; its result is left; the executor goes.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};

use super::Core;
use super::kicker::{Beats, Kicker, StallWatch};
use crate::rt::{CoreError, CoreHandle, CoreOptions, Mono, Rt, World};

/// What the cores of one process share: an origin of time and the kicker's list.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) began: Instant,
    pub(super) beats: Arc<Beats>,
}

/// The first cores of one process, and the kicker that keeps all of them awake. Join every core before dropping this.
#[derive(Debug)]
pub struct Cores {
    began: Instant,
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

impl Cores {
    /// Starts the kicker; cores are added with [`Cores::start`].
    pub fn new() -> io::Result<Self> {
        Self::start_kicker(None)
    }

    /// As [`Cores::new`], and reports cores that make no progress to `watch`.
    pub fn watched(watch: StallWatch) -> io::Result<Self> {
        Self::start_kicker(Some(watch))
    }

    #[expect(clippy::disallowed_methods, reason = "the origin of this process's monotonic time")]
    fn start_kicker(watch: Option<StallWatch>) -> io::Result<Self> {
        Ok(Self { began: Instant::now(), kicker: Kicker::start(watch)? })
    }

    /// Starts core `index` and runs `main` on it.
    ///
    /// # Errors
    /// If no thread could be made for it. What goes wrong on the thread is reported by the handle.
    pub fn start<T, F, M>(&self, index: usize, options: &CoreOptions, main: M) -> io::Result<CoreHandle<T>>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        M: FnOnce(Rt) -> F + Send + 'static,
    {
        let origin = Origin { began: self.began, beats: self.kicker.beats().clone() };
        Ok(CoreHandle::native(index, start(origin, index, options, main)?))
    }

    /// How often each running core was waked by a kick or a timer, as (core, count). A count that does not grow is a stalled core.
    pub fn beats(&self) -> Vec<(usize, u64)> {
        self.kicker.beats().counts()
    }

    /// For how long each running core has stood still, as (core, duration); one period of the kicker is nothing to report.
    pub fn stillness(&self) -> Vec<(usize, Duration)> {
        self.kicker.beats().stillness()
    }

    /// A view of the cores' movement that can be handed to other threads.
    pub fn pulse(&self) -> Pulse {
        Pulse { beats: self.kicker.beats().clone(), origin: self.began }
    }
}

impl Core {
    /// Starts a further core of this process.
    pub(crate) fn add_core<T, F, M>(
        &self,
        index: usize,
        options: &CoreOptions,
        main: M,
    ) -> Result<Running<T>, CoreError>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        M: FnOnce(Rt) -> F + Send + 'static,
    {
        start(self.shared.origin.clone(), index, options, main)
    }
}

/// The thread of a started core and the place where it leaves its result.
#[derive(Debug)]
pub(crate) struct Running<T: Send + 'static> {
    thread: CoreThread,
    result: flume::Receiver<T>,
}

#[derive(Debug)]
struct CoreThread {
    core: usize,
    cpu: Option<usize>,
    ran: Arc<AtomicBool>,
    executor: ExecutorJoinHandle<()>,
}

fn start<T, F, M>(
    origin: Origin,
    index: usize,
    options: &CoreOptions,
    main: M,
) -> Result<Running<T>, CoreError>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
    M: FnOnce(Rt) -> F + Send + 'static,
{
    let cpu = options.cpu;
    let (leave, result) = flume::bounded(1);
    let ran = Arc::new(AtomicBool::new(false));
    let runs = ran.clone();
    let executor = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
        .name(&format!("rk-core-{index}"))
        .io_memory(options.io_memory_bytes)
        .ring_depth(256)
        .spin_before_park(options.spin)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(2))
        .spawn(move || async move {
            runs.store(true, Ordering::Release);
            let core = Core::new(index, origin.clone());
            // A core that panics must not leave its waker behind, either.
            let listed = Listed { core: index, beats: origin.beats };
            beat(&core, &listed.beats);
            // The first sleep registers the process with the kernel's memory barriers, which takes tens of
            // milliseconds; better now than under the first request.
            core.sleep(Duration::from_micros(50)).await;
            let result = main(Rt { world: World::Native(core.clone()) }).await;
            core.drain().await;
            drop(listed);
            if leave.send(result).is_err() {
                // Its starter has stopped waiting, so the result has no reader.
                tracing::debug!(core = index, "a core ended after its starter stopped waiting");
            }
        })
        .map_err(|error| CoreError::NotStarted { core: index, cpu, why: error.to_string() })?;
    Ok(Running { thread: CoreThread { core: index, cpu, ran, executor }, result })
}

impl<T: Send + 'static> Running<T> {
    pub(crate) async fn ended(self, rt: &Rt) -> Result<T, CoreError> {
        let Self { thread, result } = self;
        let left = result.into_recv_async().await.ok();
        let core = thread.core;
        // Its result is the last thing that a core leaves, so the thread is about to end.
        let joined = rt.blocking(move || thread.join()).await;
        joined.unwrap_or(Err(CoreError::Lost { core })).and(left.ok_or(CoreError::Lost { core }))
    }

    pub(crate) fn join(self) -> Result<T, CoreError> {
        let core = self.thread.core;
        self.thread.join().and_then(|()| self.result.try_recv().map_err(|_| CoreError::Lost { core }))
    }

    pub(crate) fn join_within(self, limit: Duration) -> Option<Result<T, CoreError>> {
        let core = self.thread.core;
        match self.result.recv_timeout(limit) {
            Ok(result) => Some(self.thread.join().map(|()| result)),
            Err(flume::RecvTimeoutError::Disconnected) => {
                Some(self.thread.join().and(Err(CoreError::Lost { core })))
            }
            Err(flume::RecvTimeoutError::Timeout) => None,
        }
    }
}

impl CoreThread {
    fn join(self) -> Result<(), CoreError> {
        let Self { core, cpu, ran, executor } = self;
        executor.join().map_err(|error| match ran.load(Ordering::Acquire) {
            true => CoreError::Panicked { core, why: error.to_string() },
            false => CoreError::NotStarted { core, cpu, why: error.to_string() },
        })
    }
}

/// A core's place in the kicker's list.
struct Listed {
    core: usize,
    beats: Arc<Beats>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.beats.remove(self.core);
    }
}

/// Spawns the task that hands its raw waker to the kicker and counts its wake-ups; the core's timers count beside it.
fn beat(core: &Core, beats: &Arc<Beats>) {
    let count = Arc::new(AtomicU64::new(0));
    core.timers().count_in(count.clone());
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
    Ok(handle.join()?)
}
