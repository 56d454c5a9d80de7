//! The only way from the wire to the data.
//!
//! A protocol hands an [`Op`] to its core's [`Gateway`] and gets a [`Submitted`] that resolves to the answer. The operation
//! starts when it is submitted, not when the answer is awaited, so operations that one stream submits in order on one key take
//! effect in that order. A read does not wait for writes submitted before it; a protocol that promises more to its connection (RESP
//! pipelining) awaits the writes first.

mod cut;
mod dispatch;
mod join;
mod lent;
mod locate;
mod memory;
mod order;
mod remote;
mod retry;
#[cfg(test)]
mod routes_tests;
mod scan;
mod send;
mod split;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

pub use dispatch::{Dispatch, LocalStores, Whole};
pub use locate::{Located, Locates};
pub use remote::{Asks, Remote, RemoteNumbers};
pub use retry::GatewayNumbers;

pub use crate::shard::placed::StreamId;

use crate::memory::{Memory, charged_bytes};
use crate::request::{Op, Out, Outcome, Route};
use engine::rt::Rt;
use retry::Routed;

/// Smaller values that need no wait are not charged one by one, bytes.
const CHARGED_BYTES_MIN: usize = 1 << 10;

/// An operation in flight, as a future of its answer.
#[derive(Debug)]
pub struct Submitted(Progress);

#[derive(Debug)]
enum Progress {
    /// Answered when it was submitted.
    Done(Option<Outcome>),
    Waits(Routed),
}

impl Submitted {
    /// Whether the answer was known when it was submitted.
    pub fn is_answered(&self) -> bool {
        match &self.0 {
            Progress::Done(_) => true,
            Progress::Waits(_) => false,
        }
    }
}

impl Future for Submitted {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut self.0 {
            Progress::Done(outcome) => Poll::Ready(outcome.take().expect("polled after it was ready")),
            Progress::Waits(routed) => Pin::new(routed).poll(cx),
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
    Memory(memory::Memory, Memory),
}

impl Gateway {
    /// A gateway over a map in memory, for tests of the protocols alone.
    pub fn in_memory() -> Self {
        Self::in_bounded_memory(Memory::unbounded())
    }

    /// As [`Gateway::in_memory`], with bounds on what clients make the core hold.
    pub fn in_bounded_memory(bounds: Memory) -> Self {
        Self { backend: Backend::Memory(memory::Memory::new(&bounds.appended), bounds), home: 0 }
    }

    /// The same with a clock, by which values expire; else the clock does not change.
    #[must_use]
    pub fn with_clock(self, rt: &Rt) -> Self {
        let backend = match self.backend {
            Backend::Memory(memory, bounds) => Backend::Memory(memory.with_clock(rt), bounds),
            node @ Backend::Node(_) => node,
        };
        Self { backend, ..self }
    }

    /// This core's bounds on what clients make it hold.
    pub fn memory(&self) -> &Memory {
        match &self.backend {
            Backend::Node(dispatch) => dispatch.memory(),
            Backend::Memory(_, bounds) => bounds,
        }
    }

    /// A gateway to the stores of the node for the port of its store number `home` (from 0).
    pub fn new(dispatch: Rc<Dispatch>, home: usize) -> Self {
        Self { backend: Backend::Node(dispatch), home }
    }

    /// Starts `op`. With a `route` the operation is checked against the region that the client names; without one it is sent
    /// to whichever core owns the key.
    pub fn submit(&self, route: Option<Route>, op: Op) -> Submitted {
        self.submit_in(StreamId::default(), route, op)
    }

    /// The same for a connection whose writes keep their order.
    pub fn submit_in(&self, stream: StreamId, route: Option<Route>, op: Op) -> Submitted {
        let dispatch = match &self.backend {
            Backend::Node(dispatch) => dispatch,
            Backend::Memory(memory, bounds) => {
                let outcome = memory.execute(op).map(|out| charge_whatever(bounds, out));
                return Submitted(Progress::Done(Some(outcome)));
            }
        };
        if let Op::Get { key } = &op
            && let Some(outcome) = dispatch
                .get_now(self.home, route.as_ref(), key, |outcome| charged(dispatch.memory(), outcome))
        {
            return Submitted(Progress::Done(Some(outcome)));
        }
        Submitted(Progress::Waits(dispatch.submit(stream, self.home, route, op)))
    }

    /// The other core to which all operations went since this was last asked; `None` if there was none, or not all went there.
    pub(crate) fn take_forwarded(&self) -> Option<usize> {
        match &self.backend {
            Backend::Node(dispatch) => dispatch.take_forwarded(),
            Backend::Memory(..) => None,
        }
    }

    /// What a `Get` of `key` comes to, if this core can say so at once; else it has to be submitted.
    pub fn get_now(&self, key: &[u8]) -> Option<Outcome> {
        self.get_now_if(key, Some)
    }

    /// The same if `keep` has room for it: only then does it count as a read.
    pub fn get_now_if(&self, key: &[u8], keep: impl FnOnce(Outcome) -> Option<Outcome>) -> Option<Outcome> {
        match &self.backend {
            Backend::Node(dispatch) => dispatch.get_now(self.home, None, key, keep),
            Backend::Memory(memory, _) => keep(Ok(Out::Value(memory.get(key)))),
        }
    }
}

/// Charges a value that was read at once; nothing if it has to wait for room. The smallest values come and go without, because
/// the protocols bound how many of them a connection may have.
fn charged(memory: &Memory, outcome: Outcome) -> Option<Outcome> {
    match outcome {
        Ok(Out::Value(Some(value))) if value.len() >= CHARGED_BYTES_MIN => {
            let charge = memory.output.try_charge(charged_bytes(&value))?;
            Some(Ok(Out::Value(Some(charge.wrap(value)))))
        }
        other => Some(other),
    }
}

/// The map in memory has the value anyway.
fn charge_whatever(memory: &Memory, out: Out) -> Out {
    match out {
        Out::Value(Some(value)) => Out::Value(Some(memory.output.charge(charged_bytes(&value)).wrap(value))),
        other => other,
    }
}
