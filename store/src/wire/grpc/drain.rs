//! Stopping without cutting anybody off: one signal that wakes whoever must hear it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The signal that a server is to drain, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    requested: Cell<bool>,
    next: Cell<u64>,
    waiters: RefCell<HashMap<u64, Waker>>,
}

/// One place in the list of those who wait. Dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Listening {
    drain: Rc<Drain>,
    id: u64,
}

impl Drain {
    pub(crate) fn request(&self) {
        self.requested.set(true);
        for (_, waker) in self.waiters.borrow_mut().drain() {
            waker.wake();
        }
    }

    pub(crate) fn listen(self: &Rc<Self>) -> Listening {
        let id = self.next.get();
        self.next.set(id + 1);
        Listening { drain: self.clone(), id }
    }
}

impl Listening {
    /// Ready once draining is requested, and from then on.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.requested.get() {
            return Poll::Ready(());
        }
        let mut waiters = self.drain.waiters.borrow_mut();
        match waiters.get(&self.id) {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => {
                waiters.insert(self.id, cx.waker().clone());
            }
        }
        Poll::Pending
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.drain.waiters.borrow_mut().remove(&self.id);
    }
}
