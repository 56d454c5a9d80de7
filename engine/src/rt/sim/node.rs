//! One simulated machine: its life, its clocks, its disk.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::core::SimCore;
use super::disk::Disk;
use super::sched::{Sim, nanos};
use crate::rt::{Rt, World as RtWorld};

/// The moment of the wall clock at which every run begins: 2024-01-01.
const WALL_AT_START: Duration = Duration::from_secs(1_704_067_200);

/// What the simulator knows about a node.
pub(crate) struct NodeState {
    pub(crate) id: u16,
    pub(crate) life: Cell<Life>,
    /// Counts starts; whatever belongs to an earlier one is ignored.
    pub(crate) incarnation: Cell<u64>,
    pub(crate) busy_until: Cell<u64>,
    pub(crate) paused_until: Cell<u64>,
    /// CPU nanoseconds used in the current poll.
    pub(crate) spent: Cell<u64>,
    /// How many CPUs cores may be pinned to.
    pub(crate) cpus: Cell<usize>,
    /// Factor on the CPU time of every poll.
    pub(crate) slowness: Cell<u64>,
    pub(crate) disk: Rc<Disk>,
    pub(crate) locks: Arc<Mutex<BTreeSet<PathBuf>>>,
    cores: RefCell<Vec<(usize, usize)>>,
    mono: Cell<MonoClock>,
    wall_offset_ns: Cell<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// The machine runs and so does the process.
    Up,
    /// The machine answers for a process that is not there: connections are refused.
    NoProcess,
    /// The node answers nothing.
    Off,
}

/// A monotonic clock that runs at its own rate.
#[derive(Clone, Copy)]
struct MonoClock {
    set_at: u64,
    value: u64,
    drift_ppm: i64,
}

impl MonoClock {
    fn read(self, clock: u64) -> u64 {
        self.value + scale(clock.saturating_sub(self.set_at), 1_000_000 + self.drift_ppm, 1_000_000)
    }
}

fn scale(value: u64, by: i64, over: i64) -> u64 {
    (i128::from(value) * i128::from(by) / i128::from(over)) as u64
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.id)
    }
}

impl NodeState {
    pub(crate) fn new(id: u16, disk: Rc<Disk>) -> Self {
        Self {
            id,
            life: Cell::new(Life::NoProcess),
            incarnation: Cell::new(0),
            busy_until: Cell::new(0),
            paused_until: Cell::new(0),
            spent: Cell::new(0),
            cpus: Cell::new(usize::MAX),
            slowness: Cell::new(1),
            disk,
            locks: Arc::default(),
            cores: RefCell::default(),
            mono: Cell::new(MonoClock { set_at: 0, value: 0, drift_ppm: 0 }),
            wall_offset_ns: Cell::new(0),
        }
    }

    pub(crate) fn ip(&self) -> IpAddr {
        let [high, low] = (self.id + 1).to_be_bytes();
        Ipv4Addr::new(10, 0, high, low).into()
    }

    pub(crate) fn mono(&self, clock: u64) -> u64 {
        self.mono.get().read(clock)
    }

    /// How long the run's clock takes until this node's clock has moved by `duration`.
    pub(crate) fn outside(&self, duration: u64) -> u64 {
        scale(duration, 1_000_000, 1_000_000 + self.mono.get().drift_ppm)
    }

    pub(crate) fn wall(&self, clock: u64) -> Duration {
        let now = WALL_AT_START + Duration::from_nanos(clock);
        let offset = Duration::from_nanos(self.wall_offset_ns.get().unsigned_abs());
        if self.wall_offset_ns.get() < 0 { now.saturating_sub(offset) } else { now + offset }
    }

    fn set_mono(&self, clock: u64, value: u64, drift_ppm: i64) {
        self.mono.set(MonoClock { set_at: clock, value, drift_ppm });
    }
}

/// The handle of a test on one node. Its disk outlives every crash.
#[derive(Clone)]
pub struct Node {
    pub(crate) sim: Rc<Sim>,
    pub(crate) state: Rc<NodeState>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.state)
    }
}

/// What a started core will return; waiting for it returns `None` if the node dies first.
pub type Running<T> = crate::rt::local::Pending<T>;

impl Node {
    /// Starts core `core` of this node and runs `main` on it. The first core that starts after a crash starts the process.
    /// When its main future returns, the core ends and its tasks with it; what they have asked of the disk still happens.
    ///
    /// # Panics
    /// If this core is already running.
    pub fn start<T, F, M>(&self, core: usize, main: M) -> Running<T>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
        M: FnOnce(Rt) -> F,
    {
        if self.state.life.get() != Life::Up {
            self.begin_process();
        }
        let mut cores = self.state.cores.borrow_mut();
        assert!(cores.iter().all(|(index, _)| *index != core), "core {core} of {} is running", self.state);
        let queue = self.sim.add_core(self.state.clone(), core);
        cores.push((core, queue));
        drop(cores);
        let rt = Rt { world: RtWorld::Sim(SimCore::new(&self.sim, &self.state, core, queue)) };
        let (answer, running) = crate::rt::local::oneshot();
        let main = main(rt);
        let (sim, node) = (self.sim.clone(), self.state.clone());
        let run = async move {
            let value = main.await;
            node.cores.borrow_mut().retain(|(_, running)| *running != queue);
            sim.end_cores(|ended, _| ended == queue);
            answer.send(value);
        };
        self.sim.spawn(queue, Box::pin(run));
        running
    }

    fn begin_process(&self) {
        let (sim, node) = (&self.sim, &self.state);
        node.life.set(Life::Up);
        node.incarnation.set(node.incarnation.get() + 1);
        node.busy_until.set(sim.clock());
        // Monotonic time means nothing across a restart, so it starts anywhere.
        let origin = sim.rng.below(nanos(Duration::from_secs(3600)));
        node.set_mono(sim.clock(), origin, node.mono.get().drift_ppm);
        sim.trace([3, u64::from(node.id), node.incarnation.get()], format_args!("{node} starts"));
    }

    /// Cuts the power: the process is gone, no connection answers, and what was not synced is lost, kept or torn.
    pub fn crash(&self) {
        self.stop(Life::Off);
        self.state.disk.power_cut();
    }

    /// Kills the process. What it has written is the operating system's now and stays; peers see their connections reset.
    pub fn kill(&self) {
        self.stop(Life::NoProcess);
        self.state.disk.process_died();
    }

    fn stop(&self, life: Life) {
        let (sim, node) = (&self.sim, &self.state);
        sim.trace([4, u64::from(node.id), life as u64], format_args!("{node} stops: {life:?}"));
        node.life.set(life);
        node.incarnation.set(node.incarnation.get() + 1);
        node.paused_until.set(0);
        node.cores.borrow_mut().clear();
        sim.end_cores(|_, other| other.id == node.id);
        node.locks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        sim.net.node_died(sim, node, life == Life::NoProcess);
    }

    /// Whether the process runs (it may be paused).
    pub fn is_up(&self) -> bool {
        self.state.life.get() == Life::Up
    }

    /// Stops the process without killing it, until [`Node::resume`]. Time goes on, and the kernel goes on receiving.
    pub fn pause(&self) {
        self.state.paused_until.set(u64::MAX);
    }

    /// Stops the process for `duration`.
    pub fn pause_for(&self, duration: Duration) {
        self.state.paused_until.set(self.sim.clock() + nanos(duration));
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.state.paused_until.set(0);
    }

    /// Lets one core do nothing for `duration` while the others go on.
    pub fn stall(&self, core: usize, duration: Duration) {
        for (_, queue) in self.state.cores.borrow().iter().filter(|(index, _)| *index == core) {
            self.sim.stall_core(*queue, duration);
        }
    }

    /// How many CPUs its cores may be pinned to, from number 0 on; without a bound unless set.
    pub fn set_cpus(&self, cpus: usize) {
        self.state.cpus.set(cpus);
    }

    /// Makes every poll cost `factor` times the CPU time.
    pub fn slow_cpu(&self, factor: u64) {
        self.state.slowness.set(factor.max(1));
    }

    /// Moves the wall clock; the monotonic one does not notice.
    pub fn jump_wall(&self, nanos: i64) {
        self.state.wall_offset_ns.set(self.state.wall_offset_ns.get().saturating_add(nanos));
    }

    /// Lets the monotonic clock run fast (positive) or slow, parts per million.
    ///
    /// # Panics
    /// Unless the rate stays positive.
    pub fn drift(&self, ppm: i64) {
        assert!(ppm > -1_000_000, "a monotonic clock does not run backwards");
        let value = self.state.mono(self.sim.clock());
        self.state.set_mono(self.sim.clock(), value, ppm);
    }

    /// Its disk.
    pub fn disk(&self) -> &Disk {
        &self.state.disk
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.state.ip()
    }

    /// A port of its address.
    pub fn addr(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// Its number.
    pub fn id(&self) -> usize {
        usize::from(self.state.id)
    }
}
