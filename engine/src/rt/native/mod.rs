//! The production world: one glommio executor per core.
//!
//! This folder is the only place that names glommio. What it fences off, so that no code above has to know it:
//!
//! * An executor can park although tasks are runnable. A kicker thread wakes every core many times a second
//!   ([`kicker`]), and only the default task queue with the default preempt timer is used.
//! * A zero-length timer does not yield, so [`Core::yield_to_reactor`] waits a real one.
//! * Its timers are searched in every pass of the reactor, and one that is polled again is entered again. It is given a single
//!   one; all deadlines are in a heap of ours ([`timers`]).
//! * Unaligned reads return wrong lengths at the end of a file; only whole blocks are ever asked for.
//! * It opens a file by its name and then asks about the name, and panics if that is gone; so it is given a name that stays ([`mod@file`]).
//! * A panic in a blocking closure is turned into an error.
//! * Dropping a file only queues its close, and an executor that ends leaves the kernel working in freed memory. Every disk
//!   operation passes a gate ([`gate`]) and a core ends only when nothing is on its way.
//! * Its sockets ask the ring about every request. Ours are in one epoll set, which the ring watches ([`sockets`]); all of
//!   them are closed on exec and have one owner.
//! * It looks at what has come in only when no task is runnable ([`pass`]).
//! * It submits at the end of a pass. The log's writes have a ring of their own ([`urgent`]).

mod deadlines;
mod file;
mod fs;
mod gate;
mod kicker;
mod net;
mod pass;
mod sockets;
mod start;
mod timers;
mod urgent;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) use file::{CoreBuf, CoreFile};
use gate::Gate;
pub use kicker::{OnStall, StallWatch};
pub(crate) use net::{CoreListener, CoreStream};
pub(crate) use start::Running;
pub use start::{Cores, Pulse, start_core};

use pass::Passes;
use sockets::Sockets;
use start::Origin;
use timers::Timers;
use urgent::Urgent;

use super::Mono;
use super::rng::Rng;

/// The handle behind `Rt` on a glommio core.
#[derive(Clone, Debug)]
pub struct Core {
    shared: Rc<CoreShared>,
}

#[derive(Debug)]
struct CoreShared {
    index: usize,
    origin: Origin,
    random: Rng,
    gate: Gate,
    sockets: Sockets,
    urgent: Urgent,
    passes: Passes,
    timers: Timers,
    /// What the clock said last.
    recent: Cell<Mono>,
}

impl Core {
    fn new(index: usize, origin: Origin) -> Self {
        let random = Rng::new(random_seed());
        Self {
            shared: Rc::new(CoreShared {
                index,
                origin,
                random,
                gate: Gate::default(),
                sockets: Sockets::default(),
                urgent: Urgent::default(),
                passes: Passes::default(),
                timers: Timers::default(),
                recent: Cell::default(),
            }),
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.shared.index
    }

    fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    fn sockets(&self) -> &Sockets {
        &self.shared.sockets
    }

    fn passes(&self) -> &Passes {
        &self.shared.passes
    }

    fn timers(&self) -> &Timers {
        &self.shared.timers
    }

    fn urgent(&self) -> &Urgent {
        &self.shared.urgent
    }

    #[expect(clippy::disallowed_methods, reason = "this is where monotonic time enters")]
    pub(crate) fn now(&self) -> Mono {
        let since = Instant::now().duration_since(self.shared.origin.began);
        let now = Mono(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        self.shared.recent.set(now);
        now
    }

    pub(crate) fn recent(&self) -> Mono {
        self.shared.recent.get()
    }

    pub(crate) fn boot_time(&self) -> Mono {
        let time = read_clock(libc::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
        Mono(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is where wall-clock time enters")]
    pub(crate) fn wall(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// The CPU clock of the thread that asks, which is the core's.
    pub(crate) fn cpu_clock(&self) -> Option<libc::clockid_t> {
        let mut clock = 0;
        // SAFETY: the thread is the one that runs, and the pointer is to a value that outlives the call.
        let status = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        (status == 0).then_some(clock)
    }

    pub(crate) fn random(&self) -> u64 {
        self.shared.random.next()
    }

    pub(crate) fn spawn(&self, future: Pin<Box<dyn Future<Output = ()>>>) {
        glommio::spawn_local(future).detach();
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.refuse_if_closing()?;
        let guarded = move || std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let running = glommio::executor().spawn_blocking(guarded);
        self.operate(
            async move { running.await.map_err(|_| io::Error::other("a blocking operation panicked")) },
        )
        .await
    }
}

/// What a clock says; nothing for the CPU clock of a thread that lives no more.
pub(super) fn read_clock(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value that outlives the call. A clock that is not there any more is an error.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).ok().filter(|_| status == 0)?;
    Some(Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).ok()?))
}

fn random_seed() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: the pointer and the length describe `bytes`, which outlives the call.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(got, 8, "the kernel has no randomness to give");
    u64::from_ne_bytes(bytes)
}
