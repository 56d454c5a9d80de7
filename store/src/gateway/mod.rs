//! The one door from the wire to the data.
//!
//! A protocol hands an [`Op`] to its core's [`Gateway`] and gets a [`Submitted`] that resolves to the answer. The operation
//! starts when it is submitted, not when the answer is awaited, so operations submitted in order on one key take effect in
//! that order. A read does not wait for writes submitted before it; a protocol that promises more to its connection (RESP
//! pipelining) awaits the writes first.

mod dispatch;
mod memory;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use engine::rt::local::{Pending, oneshot};

pub use dispatch::Dispatch;

use crate::refusal::Refusal;
use crate::request::{Op, Out, Route};

/// What an operation comes to.
pub type Outcome = Result<Out, Refusal>;

/// An operation under way.
#[derive(Debug)]
pub struct Submitted(Progress);

#[derive(Debug)]
enum Progress {
    /// Answered when it was submitted.
    Done(Option<Outcome>),
    Waits(Pending<Outcome>),
}

impl Future for Submitted {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut self.0 {
            Progress::Done(outcome) => Poll::Ready(outcome.take().expect("polled after it was ready")),
            // An answer that is dropped unanswered belongs to a store that stopped with the operation in flight.
            Progress::Waits(pending) => {
                Pin::new(pending).poll(cx).map(|outcome| outcome.unwrap_or(Err(Refusal::Unknown)))
            }
        }
    }
}

/// One core's access to the whole node's data. Cheap to clone; stays on its core.
#[derive(Clone, Debug)]
pub struct Gateway {
    backend: Backend,
    /// The store whose port the client dialled: what a request with a route is checked against.
    home: usize,
}

#[derive(Clone, Debug)]
enum Backend {
    /// The stores of this node.
    Node(Rc<Dispatch>),
    /// A map in memory, for tests of the protocols alone.
    Memory(memory::Memory),
}

impl Gateway {
    /// A gateway over a map in memory, for tests of the protocols alone.
    pub fn in_memory() -> Self {
        Self { backend: Backend::Memory(memory::Memory::default()), home: 0 }
    }

    /// A gateway to the stores of the node for the port of its store number `home` (from 0).
    pub fn new(dispatch: Rc<Dispatch>, home: usize) -> Self {
        Self { backend: Backend::Node(dispatch), home }
    }

    /// Starts `op`. With a `route` the operation is checked against the region that the client names; without one it is sent
    /// to whichever core owns the key.
    pub fn submit(&self, route: Option<Route>, op: Op) -> Submitted {
        let dispatch = match &self.backend {
            Backend::Node(dispatch) => dispatch,
            Backend::Memory(memory) => return Submitted(Progress::Done(Some(memory.execute(route, op)))),
        };
        if let Op::Get { key } = &op
            && let Some(outcome) = dispatch.get_now(self.home, route.as_ref(), key)
        {
            return Submitted(Progress::Done(Some(outcome)));
        }
        let (answer, pending) = oneshot();
        dispatch.submit(self.home, route, op, answer);
        Submitted(Progress::Waits(pending))
    }

    /// The other core to which all operations went since this was last asked; `None` if there was none, or not all went there.
    pub(crate) fn take_forwarded(&self) -> Option<usize> {
        match &self.backend {
            Backend::Node(dispatch) => dispatch.take_forwarded(),
            Backend::Memory(_) => None,
        }
    }

    /// What a `Get` of `key` comes to, if this core can say so at once; else it has to be submitted.
    pub fn get_now(&self, key: &[u8]) -> Option<Outcome> {
        match &self.backend {
            Backend::Node(dispatch) => dispatch.get_now(self.home, None, key),
            Backend::Memory(memory) => Some(Ok(Out::Value(memory.get(key)))),
        }
    }
}
