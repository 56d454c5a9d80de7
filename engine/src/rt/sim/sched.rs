//! The executor: one thread, one event queue, and a seed that decides every order that a real machine would leave to chance.
//!
//! * A task runs when its core has nothing better to do; which of the ready ones, the seed decides.
//! * Polling costs virtual CPU time, charged to the node, so computing and waiting both move the clock.
//! * Nothing is borrowed while a task or an event runs, so that both may call anything.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Arguments;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use super::net::Net;
use super::node::NodeState;
use super::options::Options;
use super::trace::Trace;
use crate::rt::rng::Rng;

/// What came of looking for something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something happened, or the clock moved on to where something can.
    Done,
    /// The next thing lies beyond the given moment.
    Later,
    /// Nothing will happen any more without help from outside.
    Nothing,
}

/// Something that happens to the world.
pub(crate) type Action = Box<dyn FnOnce(&Rc<Sim>)>;

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Everything that a run consists of.
pub(crate) struct Sim {
    pub(crate) seed: u64,
    pub(crate) options: Options,
    pub(crate) rng: Rng,
    pub(crate) net: Net,
    pub(crate) nodes: RefCell<Vec<Rc<NodeState>>>,
    clock: Cell<u64>,
    trace: RefCell<Trace>,
    tasks: RefCell<Tasks>,
    events: RefCell<BinaryHeap<Reverse<Event>>>,
    events_scheduled: Cell<u64>,
    /// The queue whose task is being polled.
    polled: Cell<Option<usize>>,
    woken: Arc<Mutex<Vec<u64>>>,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    slots: BTreeMap<u64, Slot>,
    cores: Vec<CoreQueue>,
}

/// The ready tasks of one core.
struct CoreQueue {
    node: Rc<NodeState>,
    index: usize,
    stalled_until: u64,
    ended: bool,
    ready: Vec<u64>,
}

struct Slot {
    core: usize,
    /// Absent while it is being polled.
    future: Option<TaskFuture>,
    waker: Arc<TaskWaker>,
}

struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    woken: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.task);
        }
    }
}

/// Something due at a moment; the seed orders what is due at the same one.
struct Event {
    at: u64,
    tie: u64,
    number: u64,
    what: What,
}

enum What {
    Timer(Rc<Timer>),
    Run(Action),
}

/// A timer that its sleeper may cancel.
#[derive(Default)]
pub(crate) struct Timer {
    state: Cell<TimerState>,
    waiter: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum TimerState {
    #[default]
    Armed,
    Rung,
    Cancelled,
}

impl Timer {
    pub(crate) fn rung(&self) -> bool {
        self.state.get() == TimerState::Rung
    }

    pub(crate) fn wait(&self, waker: &Waker) {
        *self.waiter.borrow_mut() = Some(waker.clone());
    }

    pub(crate) fn cancel(&self) {
        self.state.set(TimerState::Cancelled);
        self.waiter.borrow_mut().take();
    }

    fn ring(&self) {
        self.state.set(TimerState::Rung);
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.tie, self.number).cmp(&(other.at, other.tie, other.number))
    }
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim")
            .field("seed", &self.seed)
            .field("clock", &self.clock.get())
            .finish_non_exhaustive()
    }
}

impl Sim {
    pub(crate) fn new(seed: u64, options: Options) -> Rc<Self> {
        let rng = Rng::new(seed);
        let net = Net::new(&rng);
        let trace = RefCell::new(Trace::new(seed, options.trace));
        Rc::new(Self {
            seed,
            options,
            rng,
            net,
            nodes: RefCell::default(),
            clock: Cell::new(0),
            trace,
            tasks: RefCell::default(),
            events: RefCell::default(),
            events_scheduled: Cell::new(0),
            polled: Cell::new(None),
            woken: Arc::default(),
        })
    }

    /// Nanoseconds since the run began.
    pub(crate) fn clock(&self) -> u64 {
        self.clock.get()
    }

    pub(crate) fn trace(&self, numbers: [u64; 3], words: Arguments<'_>) {
        self.trace.borrow_mut().event(self.clock.get(), numbers, words);
    }

    pub(crate) fn read_trace<T>(&self, read: impl FnOnce(&Trace) -> T) -> T {
        read(&self.trace.borrow())
    }

    /// A fresh queue of tasks for one core of a node that has just started.
    pub(crate) fn add_core(&self, node: Rc<NodeState>, index: usize) -> usize {
        let mut tasks = self.tasks.borrow_mut();
        tasks.cores.push(CoreQueue { node, index, stalled_until: 0, ended: false, ready: Vec::new() });
        tasks.cores.len() - 1
    }

    /// Lets a core do nothing for a while.
    pub(crate) fn stall_core(&self, queue: usize, duration: Duration) {
        let until = self.clock.get() + nanos(duration);
        self.tasks.borrow_mut().cores[queue].stalled_until = until;
    }

    /// A task that another one spawns may run up to its first wait before that one goes on, as it does in the native world, or later.
    pub(crate) fn spawn(&self, core: usize, future: TaskFuture) {
        let task = {
            let mut tasks = self.tasks.borrow_mut();
            if tasks.cores[core].ended {
                drop(tasks);
                drop(future);
                return;
            }
            let task = tasks.next;
            tasks.next += 1;
            let waker =
                Arc::new(TaskWaker { task, queued: AtomicBool::new(true), woken: self.woken.clone() });
            tasks.slots.insert(task, Slot { core, future: Some(future), waker });
            tasks.cores[core].ready.push(task);
            task
        };
        let spawner = self.polled.get() == Some(core) && !std::thread::panicking();
        let at_once = self.options.spawned_at_once;
        // Without a draw where there is nothing to be drawn, so that seeds stay what they are.
        if spawner && at_once > 0.0 && self.rng.chance(at_once) {
            self.poll_once(core, task);
        }
    }

    /// Ends every task of the cores that `gone` selects by queue and node. Destructors run here, with nothing borrowed.
    pub(crate) fn end_cores(&self, gone: impl Fn(usize, &NodeState) -> bool) {
        let ended: Vec<Slot> = {
            let mut tasks = self.tasks.borrow_mut();
            let Tasks { slots, cores, .. } = &mut *tasks;
            for (_, core) in cores.iter_mut().enumerate().filter(|(queue, core)| gone(*queue, &core.node)) {
                core.ended = true;
                core.ready.clear();
            }
            slots.extract_if(.., |_, slot| cores[slot.core].ended).map(|(_, slot)| slot).collect()
        };
        drop(ended);
    }

    /// Drops what is scheduled, which ends the cycles between tasks, events and the run.
    pub(crate) fn clear(&self) {
        self.end_cores(|_, _| true);
        let events = std::mem::take(&mut *self.events.borrow_mut());
        drop(events);
    }

    /// Runs `action` after `delay` nanoseconds, whatever becomes of whoever asked.
    pub(crate) fn after(&self, delay: u64, action: impl FnOnce(&Rc<Sim>) + 'static) {
        self.schedule(self.clock.get().saturating_add(delay), What::Run(Box::new(action)));
    }

    pub(crate) fn timer(&self, at: u64) -> Rc<Timer> {
        let timer = Rc::new(Timer::default());
        self.schedule(at, What::Timer(timer.clone()));
        timer
    }

    fn schedule(&self, at: u64, what: What) {
        let number = self.events_scheduled.get();
        self.events_scheduled.set(number + 1);
        let event = Event { at, tie: self.rng.next(), number, what };
        self.events.borrow_mut().push(Reverse(event));
    }

    /// Does the next thing, unless that lies after `until`.
    pub(crate) fn step(self: &Rc<Self>, until: u64) -> Step {
        self.sort_woken();
        let due = self.next_event_at().is_some_and(|at| at <= self.clock.get());
        let runnable = self.pick_task();
        match (due, runnable) {
            (true, Some(_)) if self.rng.chance(0.5) => self.run_event(),
            (_, Some((core, task))) => self.poll(core, task),
            (true, None) => self.run_event(),
            (false, None) => return self.advance(until),
        }
        Step::Done
    }

    fn advance(&self, until: u64) -> Step {
        let freed = {
            let tasks = self.tasks.borrow();
            tasks.cores.iter().filter(|core| !core.ready.is_empty()).map(CoreQueue::free_at).min()
        };
        let next = [self.next_event_at(), freed].into_iter().flatten().min().unwrap_or(u64::MAX);
        if next == u64::MAX {
            return Step::Nothing;
        }
        if next > until {
            return Step::Later;
        }
        self.pass_time(next);
        Step::Done
    }

    /// Moves the clock to `moment` if it lies ahead.
    pub(crate) fn pass_time(&self, moment: u64) {
        self.clock.set(self.clock.get().max(moment));
    }

    /// The moment of the next event that still interests anybody.
    fn next_event_at(&self) -> Option<u64> {
        let mut events = self.events.borrow_mut();
        while let Some(Reverse(event)) = events.peek() {
            match &event.what {
                What::Timer(timer) if timer.state.get() == TimerState::Cancelled => {
                    events.pop();
                }
                _ => return Some(event.at),
            }
        }
        None
    }

    fn sort_woken(&self) {
        let woken = std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner));
        let mut tasks = self.tasks.borrow_mut();
        for task in woken {
            if let Some(core) = tasks.slots.get(&task).map(|slot| slot.core) {
                tasks.cores[core].ready.push(task);
            }
        }
    }

    fn pick_task(&self) -> Option<(usize, u64)> {
        let mut tasks = self.tasks.borrow_mut();
        let now = self.clock.get();
        let able = |core: &CoreQueue| !core.ready.is_empty() && core.free_at() <= now;
        let count = tasks.cores.iter().filter(|core| able(core)).count() as u64;
        if count == 0 {
            return None;
        }
        let nth = self.rng.below(count) as usize;
        let (position, core) = tasks.cores.iter_mut().enumerate().filter(|(_, core)| able(core)).nth(nth)?;
        let pick = self.rng.below(core.ready.len() as u64) as usize;
        // The task stays queued until it is polled: the caller may prefer an event.
        Some((position, core.ready[pick]))
    }

    fn run_event(self: &Rc<Self>) {
        let popped = self.events.borrow_mut().pop();
        if let Some(Reverse(event)) = popped {
            self.trace([1, event.number, event.at], format_args!("event {}", event.number));
            match event.what {
                What::Timer(timer) => timer.ring(),
                What::Run(action) => action(self),
            }
        }
    }

    fn poll(&self, core: usize, task: u64) {
        self.polled.set(Some(core));
        let node = self.poll_once(core, task);
        self.polled.set(None);
        if let Some(node) = node {
            node.busy_until.set(self.clock.get() + node.spent.take());
        }
    }

    /// Polls a task and adds what that takes to what its node has spent. None if the task is gone or is being polled already.
    fn poll_once(&self, core: usize, task: u64) -> Option<Rc<NodeState>> {
        let (node, index, polled, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let queue = &mut tasks.cores[core];
            queue.ready.retain(|ready| *ready != task);
            let (node, index) = (queue.node.clone(), queue.index);
            let slot = tasks.slots.get_mut(&task)?;
            (node, index, slot.future.take(), slot.waker.clone())
        };
        let mut future = polled?;
        self.trace([2, task, u64::from(node.id)], format_args!("{node} core {index} runs task {task}"));
        waker.queued.store(false, Ordering::Release);
        let outcome = future.as_mut().poll(&mut Context::from_waker(&Waker::from(waker)));
        let cost = self.rng.between(self.options.poll_ns).saturating_mul(node.slowness.get());
        node.spent.set(node.spent.get() + cost);
        let mut tasks = self.tasks.borrow_mut();
        if outcome.is_ready() {
            tasks.slots.remove(&task);
            drop(tasks);
            drop(future);
        } else if let Some(slot) = tasks.slots.get_mut(&task) {
            slot.future = Some(future);
        } else {
            // The node crashed while this task ran, by its own hand.
            drop(tasks);
            drop(future);
        }
        Some(node)
    }
}

impl CoreQueue {
    /// The moment from which this core may run again.
    fn free_at(&self) -> u64 {
        self.stalled_until.max(self.node.busy_until.get()).max(self.node.paused_until.get())
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
