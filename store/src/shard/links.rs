//! The links between the cores of a node: operations that arrived on a core that does not own their key, and the answers.
//!
//! Letters to one core gather while the tasks of a pass run and leave as one message, because waking a core costs more than
//! most operations. Each target has its own sending task, so a full queue to one core delays nobody else, and receiving never
//! waits for sending.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use engine::rt::Rt;
use engine::rt::chan::{self, Receiver, Sender};
use engine::rt::local::{Answer, Bell};

use crate::gateway::Outcome;
use crate::request::{Op, Route};

/// Messages that may wait on the way to one core; each carries what one pass gathered.
const MESSAGES_MAX: usize = 4096;

/// One piece of work or one answer between two cores.
#[derive(Debug)]
pub enum Letter {
    /// Please execute.
    Request {
        /// The core that wants the answer.
        from: usize,
        /// Its number for the request.
        id: u64,
        /// The store to execute it on.
        store: usize,
        /// Where the client believes that the key lives.
        route: Option<Route>,
        /// What to do.
        op: Op,
    },
    /// Here is what you asked for.
    Answer {
        /// The asking core's number for the request.
        id: u64,
        /// What came of it.
        outcome: Outcome,
    },
}

/// The two ends that every core gets before the cores start.
#[derive(Debug)]
pub struct Ends {
    /// To every core, the own one included, by index.
    pub to: Vec<Sender<Vec<Letter>>>,
    /// From all cores.
    pub inbox: Receiver<Vec<Letter>>,
}

/// The ends for `cores` cores.
pub fn connect(cores: usize) -> Vec<Ends> {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..cores).map(|_| chan::queue(MESSAGES_MAX)).unzip();
    inboxes.into_iter().map(|inbox| Ends { to: senders.clone(), inbox }).collect()
}

/// One core's outgoing links.
#[derive(Debug)]
pub struct Links {
    core: usize,
    targets: Vec<Rc<Target>>,
    next_id: Cell<u64>,
    asked: RefCell<HashMap<u64, Answer<Outcome>, foldhash::fast::RandomState>>,
}

#[derive(Debug)]
struct Target {
    gathered: RefCell<Vec<Letter>>,
    bell: Bell,
}

impl Links {
    /// Starts a sending task per target.
    pub fn start(rt: &Rt, core: usize, to: Vec<Sender<Vec<Letter>>>) -> Rc<Self> {
        let targets = to.into_iter().map(|sender| start_target(rt, sender)).collect();
        Rc::new(Self { core, targets, next_id: Cell::new(0), asked: RefCell::default() })
    }

    /// Sends an operation to the core that owns its key; the answer arrives through `answer`.
    pub fn forward(&self, core: usize, store: usize, route: Option<Route>, op: Op, answer: Answer<Outcome>) {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        self.asked.borrow_mut().insert(id, answer);
        self.gather(core, Letter::Request { from: self.core, id, store, route, op });
    }

    /// Sends an answer back to the core that asked.
    pub fn answer(&self, core: usize, id: u64, outcome: Outcome) {
        self.gather(core, Letter::Answer { id, outcome });
    }

    /// Hands an arrived answer to whoever waits for it.
    pub fn arrived(&self, id: u64, outcome: Outcome) {
        if let Some(answer) = self.asked.borrow_mut().remove(&id) {
            answer.send(outcome);
        }
    }

    /// Forwarded operations without an answer yet.
    pub fn outstanding(&self) -> usize {
        self.asked.borrow().len()
    }

    fn gather(&self, core: usize, letter: Letter) {
        let target = &self.targets[core];
        target.gathered.borrow_mut().push(letter);
        target.bell.ring();
    }
}

fn start_target(rt: &Rt, sender: Sender<Vec<Letter>>) -> Rc<Target> {
    let target = Rc::new(Target { gathered: RefCell::default(), bell: Bell::default() });
    let sending = target.clone();
    rt.spawn(async move {
        loop {
            sending.bell.wait().await;
            let letters = sending.gathered.take();
            if !letters.is_empty() && sender.send(letters).await.is_err() {
                // The other core is gone, which happens only while the node stops.
                return;
            }
        }
    });
    target
}
