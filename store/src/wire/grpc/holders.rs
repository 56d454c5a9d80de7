//! Calls and connections that wait for their client, and what they hold meanwhile.
//!
//! Registered here are: a call with a part of a message, a call whose answer waits for the caller's window, a
//! connection whose socket takes nothing. While others wait for memory, and while the server drains, those that are too slow are
//! ended ([`crate::memory::stalls`]): a call is reset, so that its share of the connection's window is free again; a connection is closed.
//!
//! What waits for the server is not in the list.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use engine::rt::Rt;

use super::drain::Drain;
use super::server::Stats;
use crate::memory::stalls::{self, Holder, Pace, Stalls};
use crate::memory::{INTAKE_BYTES_MIN, Memory};

/// All holders of one server.
#[derive(Debug, Default)]
pub(super) struct Holders {
    next: Cell<u64>,
    listed: RefCell<BTreeMap<u64, Rc<Held>>>,
}

/// What the client has to do next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Duty {
    /// Nothing.
    #[default]
    None,
    /// Send the rest of a message of which this many bytes are here.
    Send(usize),
    /// Take this many bytes.
    Take(usize),
}

#[derive(Debug, Default)]
struct Held {
    duty: Cell<Duty>,
    moved_bytes: Cell<u64>,
    ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One call or connection. It is in the list from the first time that it waits for its client.
#[derive(Debug)]
pub(super) struct Holding {
    all: Rc<Holders>,
    listed: RefCell<Option<(u64, Rc<Held>)>>,
}

impl Holding {
    pub(super) fn new(all: &Rc<Holders>) -> Self {
        Self { all: all.clone(), listed: RefCell::default() }
    }

    /// The client has to send on; `bytes` of its message are here.
    pub(super) fn awaits_more(&self, cx: &Context<'_>, bytes: usize) {
        self.list(cx, Duty::Send(bytes));
    }

    /// The client has to take `bytes`.
    pub(super) fn awaits_taking(&self, cx: &Context<'_>, bytes: usize) {
        self.list(cx, Duty::Take(bytes));
    }

    /// Bytes have gone from or to the client.
    pub(super) fn moved(&self, bytes: usize) {
        if let Some((_, held)) = &*self.listed.borrow() {
            held.moved_bytes.set(held.moved_bytes.get() + bytes as u64);
        }
    }

    /// It waits for its client no more.
    pub(super) fn goes_on(&self) {
        if let Some((_, held)) = &*self.listed.borrow() {
            held.duty.set(Duty::None);
        }
    }

    /// Ready once it is to end.
    pub(super) fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        let listed = self.listed.borrow();
        let Some((_, held)) = &*listed else { return Poll::Pending };
        if held.ended.get() {
            return Poll::Ready(());
        }
        *held.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn list(&self, cx: &Context<'_>, duty: Duty) {
        let mut listed = self.listed.borrow_mut();
        let (_, held) = listed.get_or_insert_with(|| {
            let (id, held) = (self.all.next.get(), Rc::<Held>::default());
            self.all.next.set(id + 1);
            self.all.listed.borrow_mut().insert(id, held.clone());
            (id, held)
        });
        held.duty.set(duty);
        *held.waker.borrow_mut() = Some(cx.waker().clone());
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if let Some((id, _)) = self.listed.take() {
            let held = self.all.listed.borrow_mut().remove(&id);
            // The last waker of a task may take the task along, which must find nothing borrowed.
            drop(held);
        }
    }
}

impl Holders {
    /// Ends those who are behind `pace` and says how many; `holds` says what a duty holds.
    fn end_slow(
        &self,
        stalls: &mut Stalls,
        pace: Option<Pace>,
        elapsed: Duration,
        holds: impl Fn(Duty) -> Option<usize>,
    ) -> usize {
        let Some(pace) = pace else {
            stalls.forget();
            return 0;
        };
        let slow: Vec<Rc<Held>> = {
            let listed = self.listed.borrow();
            let holders = listed.iter().filter(|(_, held)| !held.ended.get()).filter_map(|(id, held)| {
                let bytes = holds(held.duty.get())?;
                Some(Holder { id: *id, bytes, moved_bytes: held.moved_bytes.get() })
            });
            stalls.look(holders, pace, elapsed).iter().filter_map(|id| listed.get(id).cloned()).collect()
        };
        for held in &slow {
            tracing::warn!(
                duty = ?held.duty.get(),
                "ended: a gRPC client is too slow with memory that others, or the end of the node, wait for"
            );
            held.ended.set(true);
            let waker = held.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        slow.len()
    }
}

/// Looks after the holders of a server until it has drained. It keeps nothing of the service alive.
pub(super) async fn watch(
    rt: Rt,
    holders: Rc<Holders>,
    memory: Memory,
    drain: Rc<Drain>,
    stats: Rc<Cell<Stats>>,
) {
    let (mut sending, mut taking) = (Stalls::default(), Stalls::default());
    let mut elapsed = stalls::REST;
    loop {
        let drains = drain.is_requested();
        if drains && stats.get().connections == 0 {
            return;
        }
        let (requests, answers) = match drains {
            true => (Some(Pace::of_drain()), Some(Pace::of_drain())),
            false => (Pace::of_requests(&memory.input), Pace::of_answers(&memory.output)),
        };
        let waited_for = requests.is_some() || answers.is_some();
        let late = holders.end_slow(&mut sending, requests, elapsed, |duty| match duty {
            Duty::Send(bytes) => (drains || bytes > INTAKE_BYTES_MIN).then_some(bytes),
            Duty::None | Duty::Take(_) => None,
        });
        let unread = holders.end_slow(&mut taking, answers, elapsed, |duty| match duty {
            Duty::Take(bytes) => Some(bytes),
            Duty::None | Duty::Send(_) => None,
        });
        if drains && unread > 0 {
            memory.is_jammed_in_drain(rt.now());
        }
        let counted = stats.get();
        stats.set(Stats { evicted: counted.evicted + (late + unread) as u64, ..counted });
        elapsed = if waited_for { sending.rest().min(taking.rest()) } else { stalls::REST };
        rt.sleep(elapsed).await;
    }
}
