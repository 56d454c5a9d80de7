//! Starting cores: threads in the native world, simulated cores in the simulator.
//!
//! A process gets its first core from its world (`Cores` here, `sim::Node` there); from then on a core starts the others with
//! [`Rt::add_core`], and both worlds keep the same promises about them. A core ends when its main future returns: its tasks and
//! connections end with it, what it has asked of the disk still happens, and only then does its [`CoreHandle`] answer. A core that
//! never ran, or whose main future panicked, is a [`CoreError`] of that handle and of no other.
//!
//! What the worlds do not share: a panic in a spawned task ends a native core like one in its main future; the simulator lets it
//! fail the run, because it is a bug that a test should not survive. A release build aborts at any panic.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use super::{Rt, World, native};

/// What one core is given.
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

/// Why a core gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreError {
    /// It never ran: it could not be pinned, or the host has no rings or no memory for it.
    NotStarted {
        /// The core.
        core: usize,
        /// The CPU that it was to stay on.
        cpu: Option<usize>,
        /// What the host said.
        why: String,
    },
    /// Its main future, or a task of it, panicked.
    Panicked {
        /// The core.
        core: usize,
        /// What it said.
        why: String,
    },
    /// It ran and ended without a result: its process died, or whoever waits is ending as well.
    Lost {
        /// The core.
        core: usize,
    },
}

impl fmt::Display for CoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoreError::NotStarted { core, cpu: Some(cpu), why } => write!(
                f,
                "core {core} could not be started on CPU {cpu} ({why}): the host forbids pinning it (sched_setaffinity) or its \
                 rings (io_uring, locked memory)"
            ),
            CoreError::NotStarted { core, cpu: None, why } => write!(
                f,
                "core {core} could not be started ({why}): the host forbids its rings (io_uring, locked memory)"
            ),
            CoreError::Panicked { core, why } => write!(f, "core {core} panicked: {why}"),
            CoreError::Lost { core } => write!(f, "core {core} ended without a result"),
        }
    }
}

impl std::error::Error for CoreError {}

impl From<CoreError> for io::Error {
    fn from(error: CoreError) -> Self {
        io::Error::other(error)
    }
}

/// A started core.
#[derive(Debug)]
pub struct CoreHandle<T: Send + 'static> {
    core: usize,
    running: Running<T>,
}

#[derive(Debug)]
enum Running<T: Send + 'static> {
    Native(native::Running<T>),
    /// It could not even be tried.
    Refused(CoreError),
    #[cfg(feature = "sim")]
    Sim(super::sim::Running<Result<T, CoreError>>),
}

impl<T: Send + 'static> CoreHandle<T> {
    pub(super) fn native(core: usize, running: native::Running<T>) -> Self {
        Self { core, running: Running::Native(running) }
    }

    /// Waits, on a core, until this one has ended; returns what its main future returned.
    ///
    /// # Errors
    /// Why there is no such value.
    pub async fn ended(self, rt: &Rt) -> Result<T, CoreError> {
        match self.running {
            Running::Native(running) => running.ended(rt).await,
            Running::Refused(error) => Err(error),
            #[cfg(feature = "sim")]
            Running::Sim(running) => running.await.unwrap_or(Err(CoreError::Lost { core: self.core })),
        }
    }

    /// As [`CoreHandle::ended`], for a plain thread of the native world, which blocks.
    ///
    /// # Errors
    /// As [`CoreHandle::ended`].
    pub fn join(self) -> Result<T, CoreError> {
        match self.running {
            Running::Native(running) => running.join(),
            Running::Refused(error) => Err(error),
            #[cfg(feature = "sim")]
            Running::Sim(_) => unreachable!("the simulator has no threads: a simulated core is awaited"),
        }
    }

    /// As [`CoreHandle::join`], but no longer than `limit`; `None` leaves the core to the end of the process.
    pub fn join_within(self, limit: Duration) -> Option<Result<T, CoreError>> {
        match self.running {
            Running::Native(running) => running.join_within(limit),
            Running::Refused(error) => Some(Err(error)),
            #[cfg(feature = "sim")]
            Running::Sim(_) => unreachable!("the simulator has no threads: a simulated core is awaited"),
        }
    }

    /// The core.
    pub fn core(&self) -> usize {
        self.core
    }
}

impl Rt {
    /// Starts core `index` of this process and runs `main` on it. The index must not be in use.
    ///
    /// A core that cannot be started is an error of the handle, as is one that panics.
    pub fn add_core<T, F, M>(&self, index: usize, options: &CoreOptions, main: M) -> CoreHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        M: FnOnce(Rt) -> F + Send + 'static,
    {
        let running = match &self.world {
            World::Native(core) => match core.add_core(index, options, main) {
                Ok(running) => Running::Native(running),
                Err(error) => Running::Refused(error),
            },
            #[cfg(feature = "sim")]
            World::Sim(core) => Running::Sim(core.add_core(index, options.cpu, main)),
        };
        CoreHandle { core: index, running }
    }
}
