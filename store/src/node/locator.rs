//! One core's way to the map of regions: its questions go to the root core, which has the map or asks the scheduler of the cluster.
//!
//! Where the stores of an answer are reached is entered into the core's address book before the answer is handed on, so that a request can
//! be sent there at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use engine::rt::chan::{Receiver, Sender};
use engine::rt::local::{Answer, Pending, oneshot};

use crate::control::locate::{self, Question, Regions};
use crate::gateway::{Located, Locates};
use crate::wire::peer::book::AddressBook;

/// Questions without an answer that are remembered; more than may be in flight.
const ASKED_MAX: usize = 256;

/// The questions of one core that are in flight.
pub(super) struct Locator {
    core: usize,
    questions: Sender<Question>,
    next_id: Cell<u64>,
    asked: RefCell<BTreeMap<u64, Answer<Vec<Located>>>>,
}

impl fmt::Debug for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} questions of core {}", self.asked.borrow().len(), self.core)
    }
}

impl Locator {
    /// For a core whose questions go into `questions`.
    pub(super) fn new(core: usize, questions: Sender<Question>) -> Rc<Self> {
        Rc::new(Self { core, questions, next_id: Cell::new(0), asked: RefCell::default() })
    }

    /// Hands answers on until the root core ends.
    pub(super) async fn follow(self: Rc<Self>, replies: Receiver<locate::Answer>, book: Rc<AddressBook>) {
        while let Some((id, Regions { regions, addresses })) = replies.recv().await {
            addresses.iter().for_each(|(store, address)| book.set(*store, address));
            let located = regions.into_iter().map(|(region, leader)| Located { region, leader }).collect();
            let mut asked = self.asked.borrow_mut();
            // Answers come in order, so what was asked before this one is never answered.
            let later = asked.split_off(&(id + 1));
            let answer = asked.remove(&id);
            *asked = later;
            drop(asked);
            if let Some(answer) = answer {
                answer.send(located);
            }
        }
    }
}

impl Locates for Rc<Locator> {
    fn locate(&self, key: Bytes) -> Pending<Vec<Located>> {
        let (answer, pending) = oneshot();
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let question = Question { core: self.core, id, key: key.to_vec() };
        // One that does not fit, or comes too late, is asked again by whoever waits for it.
        if self.questions.try_send(question).is_ok() {
            let mut asked = self.asked.borrow_mut();
            asked.insert(id, answer);
            if asked.len() > ASKED_MAX {
                asked.pop_first();
            }
        }
        pending
    }
}
