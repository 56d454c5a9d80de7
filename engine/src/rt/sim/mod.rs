//! The simulated world: a seed decides everything that a real machine would leave to chance.
//!
//! One thread runs any number of nodes, each with several cores, one disk and one address. Time is virtual and moves when
//! no task has anything to do or when a task computes. The same seed and the same program give the same run, event by event;
//! [`World::hash`] and [`World::trace`] say so.
//!
//! * **Tasks**: which ready task runs next is drawn, and if asked whether one that is spawned runs before its spawner goes on. Cores can be stalled, nodes paused or slowed, clocks made to drift or jump.
//! * **Disk**: a write is safe after a sync (or in [`OpenMode::WriteDurable`](super::OpenMode)); until then a power cut loses,
//!   keeps or tears it. A name is safe after its directory was synced. See [`Disk`] for errors, rot, full and hung disks.
//! * **Network**: segments take time, get lost, arrive twice or out of order; streams stay streams or break. Links can be cut in
//!   both directions or in one, and slowed.
//! * **Not simulated, on purpose**: threads (blocking work runs in line), the page cache (all IO is direct), bandwidth.
//!
//! ```
//! use engine::rt::sim::{Options, World};
//!
//! let world = World::new(42, Options::default());
//! let node = world.node(0);
//! let answer = node.start(0, |rt| async move {
//!     rt.sleep(std::time::Duration::from_secs(1)).await;
//!     6 * 7
//! });
//! assert_eq!(world.block_on(answer), Some(42));
//! ```

mod conn;
mod core;
mod cores;
mod disk;
mod fault;
mod file;
mod inode;
mod names;
mod net;
mod node;
mod options;
mod sched;
#[cfg(test)]
mod tests;
mod trace;

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

pub use disk::{Disk, DiskStats};
pub use fault::{DiskFault, DiskOp};
pub use net::NetStats;
pub use node::{Node, Running};
pub use options::{CrashMode, DiskOptions, NetOptions, Options};

pub(crate) use self::core::SimCore;
pub(crate) use file::{SimBuf, SimFile};
pub(crate) use net::{LetGo, SimListener, SimStream};

use super::Rt;
use node::NodeState;
use sched::{Sim, Step, nanos};

/// One run. Dropping it ends every task.
#[derive(Debug)]
pub struct World {
    pub(crate) sim: Rc<Sim>,
}

/// Runs `main` alone on one core of one node and waits for it.
///
/// # Panics
/// If nothing can ever finish it; the message names the seed.
pub fn run<T, F, M>(seed: u64, main: M) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
    M: FnOnce(Rt) -> F,
{
    let world = World::new(seed, Options::default());
    let running = world.node(0).start(0, main);
    match world.block_on(running) {
        Some(value) => value,
        None => unreachable!("nothing crashes this node"),
    }
}

impl World {
    /// An empty world. If the run panics, seed and options are printed.
    pub fn new(seed: u64, options: Options) -> Self {
        Self { sim: Sim::new(seed, options) }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.sim.seed
    }

    /// Node number `id`; asking for it creates it and all lower ones, switched on and without a process.
    pub fn node(&self, id: usize) -> Node {
        let mut nodes = self.sim.nodes.borrow_mut();
        while nodes.len() <= id {
            let number = u16::try_from(nodes.len()).expect("fewer than 65536 nodes");
            let disk = Disk::new(&self.sim.options.disk, self.sim.rng.fork(u64::from(number)));
            nodes.push(Rc::new(NodeState::new(number, Rc::new(disk))));
        }
        Node { sim: self.sim.clone(), state: nodes[id].clone() }
    }

    /// Has `name` lead to a node from now on, for whoever [resolves](Rt::resolve) it.
    pub fn name(&self, name: &str, node: &Node) {
        self.sim.net.name(name, node.ip());
    }

    /// Virtual time since the run began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.sim.clock())
    }

    /// A number that the seed decides, for a test's own choices.
    pub fn random(&self) -> u64 {
        self.sim.rng.next()
    }

    /// A number below `bound` (not zero) that the seed decides.
    pub fn below(&self, bound: u64) -> u64 {
        self.sim.rng.below(bound)
    }

    /// Lets the world run for `duration`.
    pub fn run_for(&self, duration: Duration) {
        let until = self.sim.clock().saturating_add(nanos(duration));
        while self.sim.step(until) == Step::Done {}
        self.sim.pass_time(until);
    }

    /// Lets the world run until `done` (asked after every event) or for at most `most`. Says whether it was done.
    pub fn run_until(&self, most: Duration, mut done: impl FnMut() -> bool) -> bool {
        let until = self.sim.clock().saturating_add(nanos(most));
        loop {
            if done() {
                return true;
            }
            if self.sim.step(until) != Step::Done {
                self.sim.pass_time(until);
                return done();
            }
        }
    }

    /// Lets the world run until `future` is ready.
    ///
    /// # Panics
    /// If it never can be, or not within [`Options::time_max`].
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let bell = Arc::new(DriverBell(AtomicBool::new(true)));
        let waker = Waker::from(bell.clone());
        let until = self.sim.clock().saturating_add(nanos(self.sim.options.time_max));
        loop {
            if bell.0.swap(false, Ordering::AcqRel)
                && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return value;
            }
            let why = match self.sim.step(until) {
                Step::Done => continue,
                Step::Later => "time is up",
                Step::Nothing => "nothing left to happen",
            };
            assert!(
                bell.0.load(Ordering::Acquire),
                "seed {}: {why} at {:?}, and the awaited is not ready",
                self.seed(),
                self.now()
            );
        }
    }

    /// Cuts the link between two nodes, both ways.
    pub fn cut(&self, one: &Node, other: &Node) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Loses everything that `from` sends to `to`.
    pub fn cut_one_way(&self, from: &Node, to: &Node) {
        self.sim.net.set_cut(from.state.id, to.state.id, true);
    }

    /// Joins two nodes again, both ways.
    pub fn join(&self, one: &Node, other: &Node) {
        self.sim.net.set_cut(one.state.id, other.state.id, false);
        self.sim.net.set_cut(other.state.id, one.state.id, false);
    }

    /// Cuts every link between the nodes of one side and all others.
    pub fn partition(&self, side: &[&Node]) {
        let inside: Vec<usize> = side.iter().map(|node| node.id()).collect();
        for other in (0..self.nodes()).filter(|id| !inside.contains(id)) {
            for node in side {
                self.cut(node, &self.node(other));
            }
        }
    }

    /// Adds to the time from one node to another.
    pub fn slow_link(&self, from: &Node, to: &Node, extra: Duration) {
        self.sim.net.set_extra_delay(from.state.id, to.state.id, extra);
    }

    /// Resets every connection between two nodes.
    pub fn reset(&self, one: &Node, other: &Node) {
        self.sim.net.reset_between(one.state.id, other.state.id);
    }

    /// Joins all nodes again and takes back every [`World::slow_link`].
    pub fn heal_network(&self) {
        self.sim.net.heal();
    }

    /// What the network has been through.
    pub fn net_stats(&self) -> NetStats {
        self.sim.net.stats()
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.sim.nodes.borrow().len()
    }

    /// A number that two runs share only if everything in them happened in the same order at the same moments.
    pub fn hash(&self) -> u64 {
        self.sim.read_trace(trace::Trace::hash)
    }

    /// How many things have happened.
    pub fn events(&self) -> u64 {
        self.sim.read_trace(trace::Trace::events)
    }

    /// Everything that has happened, a line each, if [`Options::trace`] asked for it.
    pub fn trace(&self) -> String {
        self.sim.read_trace(|trace| trace.text().to_owned())
    }
}

impl Drop for World {
    #[expect(clippy::print_stderr, reason = "a failed run is worth nothing without its seed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, hash, options) = (self.seed(), self.hash(), &self.sim.options);
            eprintln!(
                "simulated run failed: seed {seed}, hash {hash:016x}, at {:?}, {options:?}",
                self.now()
            );
        }
        self.sim.clear();
    }
}

/// Set when the future of [`World::block_on`] wants to be polled.
struct DriverBell(AtomicBool);

impl Wake for DriverBell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}
