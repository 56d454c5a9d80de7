//! The seam between ringkeep and the machine.
//!
//! [`Rt`] gives one core its time, tasks, files, sockets and queues as plain types over a closed set of worlds: the native one
//! (production) and, with the feature `sim`, a seeded single-threaded simulation with virtual time, a disk that loses what
//! was not synced and a network with faults. Everything above runs unchanged in both; `suite` is the list of promises that
//! both keep.
//!
//! * `Rt` is passed explicitly. It belongs to one core and cannot leave it.
//! * Nothing outside the module `rt/native` names the crate glommio, and nothing outside this module opens a file or a
//!   socket.
//! * There is no `yield_now`: a task that yields only to other tasks still starves timers and IO, so long work calls
//!   [`Rt::yield_to_reactor`], best through a [`Budget`].
//! * A dropped IO future means "unknown": the operation may still happen.

mod budget;
pub mod chan;
mod cores;
mod file;
pub(crate) mod fs;
pub mod local;
pub mod mapped;
pub mod native;
mod net;
pub mod rng;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(test)]
mod suite;
mod time;
mod whole;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

pub use budget::Budget;
pub use cores::{CoreError, CoreHandle, CoreOptions};
pub use file::{BLOCK_BYTES, Buf, File, Meanwhile, OpenMode};
pub use fs::{DirLock, DirSeen, FileId, FileSeen, LockFile};
pub use native::{Cores, Pulse, StallWatch, start_core};
pub use net::{Detached, ListenOptions, Listener, ReadHalf, SharedPort, Stream, WriteHalf};
use time::CpuTime;
pub use time::{CpuClock, Mono};

/// One core's handle on its world. Cheap to clone; stays on its core.
#[derive(Clone, Debug)]
pub struct Rt {
    pub(crate) world: World,
}

/// The closed set of worlds.
#[derive(Clone, Debug)]
pub(crate) enum World {
    Native(native::Core),
    #[cfg(feature = "sim")]
    Sim(sim::SimCore),
}

/// Answers from whichever world is below.
macro_rules! in_world {
    ($world:expr, $core:ident => $body:expr) => {
        match $world {
            $crate::rt::World::Native($core) => $body,
            #[cfg(feature = "sim")]
            $crate::rt::World::Sim($core) => $body,
        }
    };
}
pub(crate) use in_world;

impl Rt {
    /// Monotonic time. Never goes backwards on one node; unrelated between nodes.
    pub fn now(&self) -> Mono {
        in_world!(&self.world, core => core.now())
    }

    /// [`Rt::now`] as it was when it was last asked for on this core, by whatever task: for measures to which some ten microseconds do
    /// not matter and a look at the clock does. A core that does anything looks at the clock in every pass of its reactor.
    pub fn recent(&self) -> Mono {
        in_world!(&self.world, core => core.recent())
    }

    /// Monotonic time that also passes while the machine is suspended: for promises between machines, such as leases. Unrelated to
    /// [`Rt::now`].
    pub fn boot_time(&self) -> Mono {
        in_world!(&self.world, core => core.boot_time())
    }

    /// Wall-clock time since the Unix epoch. May jump in either direction.
    pub fn wall(&self) -> Duration {
        in_world!(&self.world, core => core.wall())
    }

    /// An unpredictable number (native) or that the seed decides (sim).
    pub fn random(&self) -> u64 {
        in_world!(&self.world, core => core.random())
    }

    /// Which core of the node this is, from 0.
    pub fn core(&self) -> usize {
        in_world!(&self.world, core => core.index())
    }

    /// Waits for at least `duration`.
    pub async fn sleep(&self, duration: Duration) {
        in_world!(&self.world, core => core.sleep(duration).await);
    }

    /// Waits for `future`, but no longer than `limit`; `None` when that was not enough, and the future is dropped.
    pub async fn timeout<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let late = async {
            self.sleep(limit).await;
            None
        };
        futures_lite::future::or(async { Some(future.await) }, late).await
    }

    /// Lets timers, sockets and disk completions run before the caller goes on. Costs tens of microseconds.
    pub async fn yield_to_reactor(&self) {
        in_world!(&self.world, core => core.yield_to_reactor().await);
    }

    /// This core's CPU clock.
    pub fn cpu_clock(&self) -> CpuClock {
        CpuClock(match &self.world {
            World::Native(core) => core.cpu_clock().map_or(CpuTime::Unknown, CpuTime::Thread),
            #[cfg(feature = "sim")]
            World::Sim(_) => CpuTime::Idle,
        })
    }

    /// As [`Rt::yield_to_reactor`], if timers, files and messages of other cores have waited for some time, and cheaper. For what
    /// may go on and on without ever waiting.
    pub async fn yield_if_due(&self) {
        match &self.world {
            World::Native(core) => core.yield_if_due().await,
            #[cfg(feature = "sim")]
            World::Sim(_) => {}
        }
    }

    /// Lets the tasks of this core take in what their sockets have, until there is nothing left to take in or a fraction of a
    /// millisecond has passed. Worth it before something whose price does not depend on how much it is for.
    pub async fn gather_input(&self) {
        match &self.world {
            World::Native(core) => core.gather_input().await,
            #[cfg(feature = "sim")]
            World::Sim(_) => {}
        }
    }

    /// A fresh budget for one long piece of work on this core.
    pub fn budget(&self) -> Budget {
        Budget::new(self.clone())
    }

    /// Starts a task on this core. Dropping the returned handle lets the task run on.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let (done, result) = flume::bounded(1);
        let body = async move {
            let value = future.await;
            // The receiver may be gone, which is how a detached task ends.
            let _ = done.send(value);
        };
        in_world!(&self.world, core => core.spawn(Box::pin(body)));
        Task { result: result.into_recv_async() }
    }

    /// Runs `work` on a helper thread, away from the core. A panic inside is an error here.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        in_world!(&self.world, core => core.blocking(work).await)
    }
}

/// A task on this core; awaiting it returns its result.
pub struct Task<T: 'static> {
    result: flume::r#async::RecvFut<'static, T>,
}

impl<T: 'static> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match Pin::new(&mut self.result).poll(cx) {
            Poll::Ready(Ok(value)) => Poll::Ready(value),
            // The sender is dropped only when the executor itself is torn down, so no receiver is left.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}
