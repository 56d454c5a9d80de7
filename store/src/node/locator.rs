//! One core's way to the scheduler: its questions go to the root core, which has the scheduler or asks that of the cluster.
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
use scheduler::{NewRegion, Region};

use crate::control::locate::{self, Found, Question, Regions, Sought};
use crate::gateway::{Located, Locates};
use crate::wire::peer::book::AddressBook;

/// Questions without an answer that are remembered; more than may be in flight.
const ASKED_MAX: usize = 256;

/// Ids for parts of a region, or why there are none.
type Parts = Result<Vec<NewRegion>, String>;

/// Who waits for an answer.
enum Asker {
    OfKey(Answer<Vec<Located>>),
    OfParts(Answer<Parts>),
}

/// The questions of one core that are in flight.
pub(super) struct Locator {
    core: usize,
    questions: Sender<Question>,
    next_id: Cell<u64>,
    asked: RefCell<BTreeMap<u64, Asker>>,
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
        while let Some((id, found)) = replies.recv().await {
            let mut asked = self.asked.borrow_mut();
            // Answers come in order, so what was asked before this one is never answered.
            let later = asked.split_off(&(id + 1));
            let asker = asked.remove(&id);
            *asked = later;
            drop(asked);
            match (found, asker) {
                (Found::Regions(Regions { regions, addresses }), asker) => {
                    addresses.iter().for_each(|(store, address)| book.set(*store, address));
                    if let Some(Asker::OfKey(answer)) = asker {
                        let located = |(region, leader)| Located { region, leader };
                        answer.send(regions.into_iter().map(located).collect());
                    }
                }
                (Found::Parts(parts), Some(Asker::OfParts(answer))) => answer.send(parts),
                (Found::Parts(_), Some(Asker::OfKey(_)) | None) => {}
            }
        }
    }

    /// Asks, unless there is no room; then whoever waits asks again or gives up.
    fn ask(&self, sought: Sought, asker: Asker) {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        if self.questions.try_send(Question { core: self.core, id, sought }).is_ok() {
            let mut asked = self.asked.borrow_mut();
            asked.insert(id, asker);
            if asked.len() > ASKED_MAX {
                asked.pop_first();
            }
        }
    }
}

impl Locates for Rc<Locator> {
    fn locate(&self, key: Bytes) -> Pending<Vec<Located>> {
        let (answer, pending) = oneshot();
        self.ask(Sought::Key(key.to_vec()), Asker::OfKey(answer));
        pending
    }

    fn parts(&self, region: &Region, count: u32) -> Pending<Parts> {
        let (answer, pending) = oneshot();
        self.ask(Sought::Parts(region.clone(), count), Asker::OfParts(answer));
        pending
    }
}
