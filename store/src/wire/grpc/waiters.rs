//! Tasks of this core that wait for one and the same thing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Waker};

/// The tasks that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    next: Cell<u64>,
    wakers: RefCell<BTreeMap<u64, Waker>>,
}

/// One task's registration. Dropping it removes the task.
#[derive(Debug)]
pub(crate) struct Waiter {
    all: Rc<Waiters>,
    id: u64,
}

impl Waiters {
    pub(crate) fn join(self: &Rc<Self>) -> Waiter {
        let id = self.next.get();
        self.next.set(id + 1);
        Waiter { all: self.clone(), id }
    }

    pub(crate) fn wake_all(&self) {
        self.wakers.take().into_values().for_each(Waker::wake);
    }
}

impl Waiter {
    /// Wakes the task of `cx` the next time that all are woken.
    pub(crate) fn wait(&self, cx: &Context<'_>) {
        let mut wakers = self.all.wakers.borrow_mut();
        match wakers.get_mut(&self.id) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => drop(wakers.insert(self.id, cx.waker().clone())),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let waker = self.all.wakers.borrow_mut().remove(&self.id);
        // The last waker of a task may take the task along, which must find nothing borrowed.
        drop(waker);
    }
}
