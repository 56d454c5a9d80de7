//! The handle behind `Rt` on a simulated core.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::node::NodeState;
use super::sched::{Sim, Timer, nanos};
use crate::rt::Mono;
use crate::rt::rng::Rng;

/// How long a yield to the reactor takes, nanoseconds.
const REACTOR_YIELD_NS: (u64, u64) = (10_000, 60_000);

/// How long a helper thread takes to get going, nanoseconds.
const BLOCKING_NS: (u64, u64) = (20_000, 500_000);

/// One core of one life of a node.
#[derive(Clone)]
pub(crate) struct SimCore {
    shared: Rc<CoreShared>,
}

struct CoreShared {
    sim: Rc<Sim>,
    node: Rc<NodeState>,
    incarnation: u64,
    index: usize,
    queue: usize,
    rng: Rng,
}

impl fmt::Debug for SimCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimCore({} core {})", self.shared.node, self.shared.index)
    }
}

impl SimCore {
    pub(crate) fn new(sim: &Rc<Sim>, node: &Rc<NodeState>, index: usize, queue: usize) -> Self {
        let rng = sim.rng.fork(u64::from(node.id) << 32 | index as u64);
        let (sim, node) = (sim.clone(), node.clone());
        let incarnation = node.incarnation.get();
        Self { shared: Rc::new(CoreShared { sim, node, incarnation, index, queue, rng }) }
    }

    pub(crate) fn sim(&self) -> &Rc<Sim> {
        &self.shared.sim
    }

    pub(crate) fn node(&self) -> &Rc<NodeState> {
        &self.shared.node
    }

    /// The life of the node that this handle belongs to.
    pub(crate) fn incarnation(&self) -> u64 {
        self.shared.incarnation
    }

    /// Whether that life has ended.
    pub(crate) fn is_dead(&self) -> bool {
        self.shared.node.incarnation.get() != self.shared.incarnation
    }

    pub(crate) fn index(&self) -> usize {
        self.shared.index
    }

    /// The run's clock as this node sees it within its current poll.
    fn clock(&self) -> u64 {
        self.shared.sim.clock() + self.shared.node.spent.get()
    }

    pub(crate) fn now(&self) -> Mono {
        let node = &self.shared.node;
        node.spent.set(node.spent.get() + self.shared.sim.options.clock_ns * node.slowness.get());
        Mono(node.mono(self.clock()))
    }

    /// Here a look at the clock costs nothing that a caller could save, but it is no later than the last one.
    pub(crate) fn recent(&self) -> Mono {
        Mono(self.shared.node.mono(self.clock()))
    }

    /// Machines of this world are never suspended.
    pub(crate) fn boot_time(&self) -> Mono {
        self.now()
    }

    pub(crate) fn wall(&self) -> Duration {
        self.shared.node.wall(self.clock())
    }

    pub(crate) fn random(&self) -> u64 {
        self.shared.rng.next()
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        self.wait(nanos(duration)).await;
    }

    pub(crate) async fn yield_to_reactor(&self) {
        self.wait(self.shared.sim.rng.between(REACTOR_YIELD_NS)).await;
    }

    /// Waits on this node's clock.
    async fn wait(&self, duration: u64) {
        let at = self.clock().saturating_add(self.shared.node.outside(duration));
        // Late by up to a tick of the timer hardware, never early.
        let late = self.shared.sim.rng.below(20_000);
        let sleeper = Sleeper(self.shared.sim.timer(at.saturating_add(late)));
        poll_fn(|cx| {
            if sleeper.0.rung() {
                return Poll::Ready(());
            }
            sleeper.0.wait(cx.waker());
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn spawn(&self, future: Pin<Box<dyn Future<Output = ()>>>) {
        // A destructor that runs while its node dies has no core to spawn on.
        if !self.is_dead() {
            self.shared.sim.spawn(self.shared.queue, future);
        }
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.wait(self.shared.sim.rng.between(BLOCKING_NS)).await;
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
            .map_err(|_| io::Error::other("a blocking operation panicked"))
    }
}

/// A timer without a waiter must not hold up the end of a run.
struct Sleeper(Rc<Timer>);

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
