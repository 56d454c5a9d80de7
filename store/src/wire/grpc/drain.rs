//! The signal that a server drains, and the tasks that it wakes.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::waiters::{Waiter, Waiters};

/// The drain signal, and the tasks that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    requested: Cell<bool>,
    waiters: Rc<Waiters>,
}

/// A task that waits for the signal.
#[derive(Debug)]
pub(crate) struct Listening {
    drain: Rc<Drain>,
    waiter: Waiter,
}

impl Drain {
    pub(crate) fn request(&self) {
        self.requested.set(true);
        self.waiters.wake_all();
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.requested.get()
    }

    pub(crate) fn listen(self: &Rc<Self>) -> Listening {
        Listening { drain: self.clone(), waiter: self.waiters.join() }
    }
}

impl Listening {
    /// Ready once draining is requested, and from then on.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.requested.get() {
            return Poll::Ready(());
        }
        self.waiter.wait(cx);
        Poll::Pending
    }
}
