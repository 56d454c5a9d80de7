//! The links between the cores of a node: operations that arrived on a core that does not own their key, and the answers.
//!
//! Messages to one core gather while the tasks of an executor pass run and leave as one batch, because waking a core costs more
//! than most operations. Each target has its own sending task, so a full queue to one core delays no other, and receiving never
//! waits for sending.
//!
//! Stores of one node that have replicas of one region speak over the same links (`node/siblings.rs`), messages of replicas and snapshots.
//!
//! Invariants: whatever was asked of another core is answered, with [`Refusal::Unknown`] at the latest when that core says that it
//! ends ([`CoreLinks::close`]) or turns out to be gone, and what is asked of it later is refused; of the messages of replicas, which may be
//! lost, at most [`PEER_MESSAGES_MAX`] wait for a core that takes nothing in.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};

use engine::rt::Rt;
use engine::rt::chan::{self, Receiver, Sender, TrySend};
use engine::rt::local::{Answer, Bell};

use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::message::PeerMessage;
use crate::region::neighbours::Sign;
use crate::request::{Op, Outcome, Route};
use crate::shard::handing::Handed;
use crate::shard::routes::PlaceChange;
use crate::shard::unwanted::Unwanted;

/// Batches that may wait on the way to one core; each carries what one pass gathered.
const MESSAGES_MAX: usize = 4096;

/// Messages of replicas, and signs of life, that gather for one core.
pub const PEER_MESSAGES_MAX: usize = 65_536;

/// A message between two cores: a request or its answer.
#[derive(Debug)]
pub enum CoreMessage {
    /// Asks a core to execute an operation.
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
    /// Answers a request.
    Answer {
        /// The asking core's number for the request.
        id: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// What a store of the sender publishes has changed.
    Routes {
        /// The store.
        store: usize,
        /// What is different now.
        changes: Vec<PlaceChange>,
    },
    /// What a store of the sender says to one of this core: messages of its replicas, or only that it lives.
    Peers {
        /// Which one, by number on the node.
        to: usize,
        /// Who speaks.
        sign: Sign,
        /// In their order.
        messages: Vec<PeerMessage>,
    },
    /// A store of the sender hands a snapshot over to one of this core.
    Handed {
        /// The core that wants the answer.
        from: usize,
        /// Its number for the question.
        id: u64,
        /// Which one, by number on the node.
        to: usize,
        /// The snapshot.
        handed: Box<Handed>,
    },
    /// Whether a snapshot that was handed over is installed.
    Taken {
        /// The asking core's number for the question.
        id: u64,
        /// What came of it.
        taken: Result<(), Unwanted>,
    },
    /// The sender ends: what it has not answered it never will.
    Closed {
        /// The core that ends.
        from: usize,
    },
}

/// The two ends that every core gets before the cores start.
#[derive(Debug)]
pub struct Ends {
    /// To every core, this one included, by index.
    pub to: Vec<Sender<Vec<CoreMessage>>>,
    /// From all cores.
    pub inbox: Receiver<Vec<CoreMessage>>,
}

/// The ends for `cores` cores.
pub fn connect(cores: usize) -> Vec<Ends> {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..cores).map(|_| chan::queue(MESSAGES_MAX)).unzip();
    inboxes.into_iter().map(|inbox| Ends { to: senders.clone(), inbox }).collect()
}

/// The answer to a hand-over.
type Taken = Answer<Result<(), Unwanted>>;

/// One core's outgoing links.
#[derive(Debug)]
pub struct CoreLinks {
    core: usize,
    targets: Vec<Rc<Target>>,
    next_id: Cell<u64>,
    asked: RefCell<Asked>,
    /// Snapshots that other cores have: by our number, the core, and who waits.
    handed: RefCell<BTreeMap<u64, (usize, Taken)>>,
}

/// By our number for the request.
type Asked = HashMap<u64, Request, foldhash::fast::FixedState>;

/// A request to another core.
#[derive(Debug)]
struct Request {
    core: usize,
    /// Who waits.
    answer: Answer<Outcome>,
    /// It reads one value.
    is_get: bool,
}

#[derive(Debug)]
struct Target {
    gathered: RefCell<Vec<CoreMessage>>,
    /// Messages of replicas among them.
    peers: Cell<usize>,
    bell: Bell,
    sender: Sender<Vec<CoreMessage>>,
    /// The core has ended.
    closed: Cell<bool>,
}

impl CoreLinks {
    /// Starts a sending task per target.
    pub fn start(rt: &Rt, core: usize, to: Vec<Sender<Vec<CoreMessage>>>) -> Rc<Self> {
        let target = |sender| {
            let (gathered, bell, closed) = (RefCell::default(), Bell::default(), Cell::new(false));
            Rc::new(Target { gathered, peers: Cell::new(0), bell, sender, closed })
        };
        let targets = to.into_iter().map(target).collect();
        let (next_id, asked, handed) = (Cell::new(0), RefCell::default(), RefCell::default());
        let links = Rc::new(Self { core, targets, next_id, asked, handed });
        for (to, target) in links.targets.iter().enumerate() {
            rt.spawn(keep_sending(Rc::downgrade(&links), to, target.clone()));
        }
        links
    }

    /// Sends an operation to the core that owns its key; the answer arrives through `answer`.
    pub fn forward(&self, core: usize, store: usize, route: Option<Route>, op: Op, answer: Answer<Outcome>) {
        if self.targets[core].closed.get() {
            return answer.send(Err(Refusal::Stopped("the core that owns the key has ended".into())));
        }
        let id = self.number();
        let is_get = matches!(op, Op::Get { .. });
        self.asked.borrow_mut().insert(id, Request { core, answer, is_get });
        self.gather(core, CoreMessage::Request { from: self.core, id, store, route, op });
    }

    fn number(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// Whether a core takes in what a store says: it has not ended, and not too much waits for it.
    pub fn may_say(&self, core: usize) -> bool {
        let target = &self.targets[core];
        !target.closed.get() && target.peers.get() < PEER_MESSAGES_MAX
    }

    /// Says something to store number `to` of a core, or only that the store that speaks lives.
    pub fn say(&self, core: usize, to: usize, sign: Sign, message: Option<PeerMessage>) {
        let target = &self.targets[core];
        target.peers.set(target.peers.get() + 1);
        let mut gathered = target.gathered.borrow_mut();
        match gathered.last_mut() {
            Some(CoreMessage::Peers { to: same, sign: before, messages })
                if *same == to && before.store == sign.store =>
            {
                messages.extend(message);
            }
            Some(_) | None => {
                gathered.push(CoreMessage::Peers { to, sign, messages: message.into_iter().collect() });
            }
        }
        target.bell.ring();
    }

    /// Whether a core has ended.
    pub fn has_ended(&self, core: usize) -> bool {
        self.targets[core].closed.get()
    }

    /// Whether messages of replicas wait to leave this core.
    pub fn is_busy(&self) -> bool {
        self.targets.iter().any(|target| target.peers.get() > 0)
    }

    /// Hands a snapshot over to store number `to` of a core; whether it is installed arrives through `answer`.
    pub fn hand_over(&self, core: usize, to: usize, handed: Handed, answer: Answer<Result<(), Unwanted>>) {
        if self.targets[core].closed.get() {
            return answer.send(Err(Unwanted::Stopped));
        }
        let id = self.number();
        self.handed.borrow_mut().insert(id, (core, answer));
        self.gather(core, CoreMessage::Handed { from: self.core, id, to, handed: Box::new(handed) });
    }

    /// Answers a core that has handed a snapshot over.
    pub fn answer_handed(&self, core: usize, id: u64, taken: Result<(), Unwanted>) {
        self.gather(core, CoreMessage::Taken { id, taken });
    }

    /// Hands an arrived answer to whoever has handed a snapshot over.
    pub fn taken(&self, id: u64, taken: Result<(), Unwanted>) {
        let handed = self.handed.borrow_mut().remove(&id);
        if let Some((_, answer)) = handed {
            answer.send(taken);
        }
    }

    /// Sends an answer back to the core that asked.
    pub fn answer(&self, core: usize, id: u64, outcome: Outcome) {
        if planted(Bug::LostAnswer) && id % 8 == 7 {
            return;
        }
        self.gather(core, CoreMessage::Answer { id, outcome });
    }

    /// Hands an arrived answer to whoever waits for it.
    pub fn arrived(&self, id: u64, outcome: Outcome) {
        let mut asked = self.asked.borrow_mut();
        let id = match planted(Bug::WrongAnswer) {
            true => asked.keys().copied().max().unwrap_or(id),
            false => id,
        };
        let asked = asked.remove(&id);
        if let Some(Request { core: _, answer, is_get: _ }) = asked {
            answer.send(outcome);
        }
    }

    /// Whether what was asked under this number, and is not answered yet, reads one value.
    pub fn is_get(&self, id: u64) -> bool {
        self.asked.borrow().get(&id).is_some_and(|asked| asked.is_get)
    }

    /// Sends every other core what has changed of the regions of a store of this one. Messages to one core arrive in order, so the latest is
    /// in force.
    pub fn publish(&self, store: usize, changes: &[PlaceChange]) {
        let others = (0..self.targets.len()).filter(|core| *core != self.core);
        for core in others.filter(|core| !self.targets[*core].closed.get()) {
            self.gather(core, CoreMessage::Routes { store, changes: changes.to_vec() });
        }
    }

    /// Notifies every other core that this one ends. Answers that have gathered leave first.
    pub fn close(&self) {
        for (core, target) in self.targets.iter().enumerate().filter(|(core, _)| *core != self.core) {
            let mut messages = target.gathered.take();
            messages.push(CoreMessage::Closed { from: self.core });
            match target.sender.try_send(messages) {
                Ok(()) => {}
                // It has ended as well, or takes nothing in any more; either way it waits for nothing from here.
                Err(TrySend::Closed(_)) => {}
                Err(TrySend::Full(messages)) => {
                    tracing::warn!(
                        core,
                        messages = messages.len(),
                        "a core ends while another does not read its queue"
                    );
                }
            }
        }
    }

    /// `core` has ended: what became of the requests that it has not answered is unknown.
    pub fn closed(&self, core: usize) {
        self.targets[core].closed.set(true);
        let mut unanswered: Vec<_> =
            self.asked.borrow_mut().extract_if(|_, asked| asked.core == core).collect();
        // In the order in which they were asked, so that one seed gives one run.
        unanswered.sort_unstable_by_key(|(id, _)| *id);
        for (_, Request { core: _, answer, is_get: _ }) in unanswered {
            answer.send(Err(Refusal::Unknown));
        }
        let handed: Vec<_> =
            self.handed.borrow_mut().extract_if(.., |_, (asked, _)| *asked == core).collect();
        for (_, (_, answer)) in handed {
            answer.send(Err(Unwanted::Stopped));
        }
    }

    /// Forwarded operations without an answer yet.
    pub fn outstanding(&self) -> usize {
        self.asked.borrow().len()
    }

    fn gather(&self, core: usize, message: CoreMessage) {
        let target = &self.targets[core];
        target.gathered.borrow_mut().push(message);
        target.bell.ring();
    }
}

async fn keep_sending(links: Weak<CoreLinks>, to: usize, target: Rc<Target>) {
    loop {
        target.bell.wait().await;
        let messages = target.gathered.take();
        target.peers.set(0);
        if !messages.is_empty() && target.sender.send(messages).await.is_err() {
            if let Some(links) = links.upgrade() {
                links.closed(to);
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::rt::local::oneshot;
    use engine::rt::sim;

    use super::*;
    use crate::request::Out;
    use crate::shard::reply::Reply;

    fn get() -> Op {
        Op::Get { key: "k".into() }
    }

    /// The number of the request that has arrived.
    async fn asked(inbox: &Receiver<Vec<CoreMessage>>) -> u64 {
        match inbox.recv().await.as_deref() {
            Some([CoreMessage::Request { from: 0, id, .. }]) => *id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reply_that_is_dropped_and_a_core_that_ends_answer_unknown() {
        sim::run(81, |rt| async move {
            let mut ends = connect(2);
            let (there, here) = (ends.remove(1), ends.remove(0));
            let (asking, owning) = (CoreLinks::start(&rt, 0, here.to), CoreLinks::start(&rt, 1, there.to));
            let ask = || {
                let (answer, pending) = oneshot();
                asking.forward(1, 0, None, get(), answer);
                pending
            };
            let dropped = ask();
            drop(Reply::remote(0, asked(&there.inbox).await, owning.clone()));
            match here.inbox.recv().await.as_deref() {
                Some([CoreMessage::Answer { id, outcome }]) => asking.arrived(*id, outcome.clone()),
                other => panic!("{other:?}"),
            }
            assert_eq!(dropped.await, Some(Err(Refusal::Unknown)));

            let unanswered = ask();
            asked(&there.inbox).await;
            owning.close();
            match here.inbox.recv().await.as_deref() {
                Some([CoreMessage::Closed { from: 1 }]) => asking.closed(1),
                other => panic!("{other:?}"),
            }
            assert_eq!(unanswered.await, Some(Err(Refusal::Unknown)));
            assert_eq!(asking.outstanding(), 0);
            assert!(
                matches!(ask().await, Some(Err(Refusal::Stopped(_)))),
                "nothing is asked of a core that has ended"
            );
        });
    }

    #[test]
    fn a_core_that_ends_sends_the_answers_that_it_has_first() {
        sim::run(83, |rt| async move {
            let mut ends = connect(2);
            let (there, here) = (ends.remove(1), ends.remove(0));
            let (asking, owning) = (CoreLinks::start(&rt, 0, here.to), CoreLinks::start(&rt, 1, there.to));
            let (answer, pending) = oneshot();
            asking.forward(1, 0, None, get(), answer);
            let id = asked(&there.inbox).await;
            // Both in one pass, so nothing has left in between.
            Reply::remote(0, id, owning.clone()).send(Ok(Out::Value(None)));
            owning.close();
            match here.inbox.recv().await.as_deref() {
                Some([CoreMessage::Answer { id, outcome }, CoreMessage::Closed { from: 1 }]) => {
                    asking.arrived(*id, outcome.clone());
                    asking.closed(1);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(pending.await, Some(Ok(Out::Value(None))));
        });
    }

    #[test]
    fn a_core_that_disappears_without_notice_is_detected() {
        sim::run(82, |rt| async move {
            let mut ends = connect(2);
            drop(ends.remove(1));
            let asking = CoreLinks::start(&rt, 0, ends.remove(0).to);
            let (answer, pending) = oneshot();
            asking.forward(1, 0, None, get(), answer);
            assert_eq!(pending.await, Some(Err(Refusal::Unknown)));
        });
    }
}
