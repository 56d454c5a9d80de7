//! What was sent to a region that has moved is sent again, by newer routes, until a deadline.
//!
//! A refusal changes nothing, so whatever the guard of a store refuses because its region left, shrank or grew, or because another
//! store leads it, may be sent again. Reads simply are. Writes keep the order of their keys ([`super::order`]), in which a write may
//! have to wait, or may have been overtaken: then its refusal is its answer.
//!
//! Invariants: what waits is bounded ([`WAITING_MAX`]) and is answered at its deadline at the latest; a number is given once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use engine::rt::Mono;
use engine::rt::local::{Answer, Bell, Pending, oneshot};

use super::dispatch::Dispatch;
use super::order::InLine;
use super::remote::{Remote, RemoteNumbers};
use super::send::Sent;
use crate::metrics::Counter;
use crate::refusal::Refusal;
use crate::request::{Op, Outcome};
use crate::shard::placed::{PlacedWrite, StreamId, WriteStanding};

/// How long an operation is sent again before its refusal is its answer.
/// Longer than an election takes.
pub(super) const RETRIED_FOR: Duration = Duration::from_secs(6);

/// How long until it is sent again, at first; the pause doubles up to [`AGAIN_AFTER_MAX`] while something waits.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(1);
const AGAIN_AFTER_MAX: Duration = Duration::from_millis(16);

/// How long until the scheduler is asked about a region whose leader no known store names.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// Why a write is not sent again.
const OVERTAKEN: Refusal = Refusal::Busy {
    reason: "its region moved, and a later write of the same key and connection was carried out before it",
    backoff_ms: 1,
};

/// Operations of one core that may wait for routes.
const WAITING_MAX: usize = 4 << 10;

/// An operation on its way, as a future of its outcome.
#[derive(Debug)]
pub(super) struct Routed {
    pending: Pending<Outcome>,
    /// What it takes to send it again, as long as it was not.
    again: Option<Again>,
}

/// An operation that may have to be sent again.
#[derive(Debug)]
pub(super) struct Again {
    pub(super) dispatch: Rc<Dispatch>,
    pub(super) number: Number,
    pub(super) op: Op,
    /// The region that it was sent to.
    pub(super) region_id: u64,
    /// Where it is in flight, if it is a write.
    pub(super) held: Option<PlacedWrite>,
}

impl Routed {
    /// An operation that is answered as it is.
    pub(super) const fn once(pending: Pending<Outcome>) -> Self {
        Self { pending, again: None }
    }

    pub(super) const fn again(pending: Pending<Outcome>, again: Again) -> Self {
        Self { pending, again: Some(again) }
    }
}

impl Future for Routed {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            // An answer that is dropped unanswered belongs to a store that stopped with the operation in flight.
            let outcome = ready!(Pin::new(&mut self.pending).poll(cx)).unwrap_or(Err(Refusal::Unknown));
            let Some(Again { dispatch, number, op, region_id, held }) = self.again.take() else {
                return Poll::Ready(outcome);
            };
            match outcome {
                Err(refusal) if refusal.has_moved() => {
                    dispatch.heard(region_id, &refusal);
                    if let Some(held) = &held {
                        held.waits();
                    }
                    self.pending = dispatch.wait_for_routes(number, op, refusal, held);
                }
                outcome => {
                    if let Some(held) = held {
                        held.settle(&outcome);
                    }
                    return Poll::Ready(outcome);
                }
            }
        }
    }
}

/// What a core's way to the data has done and holds beside what its stores do, as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayNumbers {
    /// Requests to stores of other nodes.
    pub remote: RemoteNumbers,
    /// Operations that wait for newer routes or for a leader.
    pub waiting: u64,
    /// Operations that were sent again.
    pub retried: u64,
    /// Operations that were refused in the end, because that took too long.
    pub expired: u64,
}

/// When an operation was submitted. A part that is made of it later keeps that place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    submitted: u64,
    /// Whose it is.
    stream: StreamId,
    /// Tells parts apart, which have no key in common; 0 for the whole.
    part: u64,
    /// Since when it waits to be sent again, if it had to before it was taken apart.
    since: Option<Mono>,
}

impl Number {
    const fn key(self) -> (u64, u64) {
        (self.submitted, self.part)
    }

    /// Its place in the order of all operations.
    pub(super) const fn submitted(self) -> u64 {
        self.submitted
    }

    /// Whose it is, and its place in the order of all operations.
    pub(super) const fn in_stream(self) -> (StreamId, u64) {
        (self.stream, self.submitted)
    }

    /// Whether it is that of a part, whose answer the whole waits for.
    pub(super) const fn is_part(self) -> bool {
        self.part > 0
    }
}

/// The operations of one core that wait for newer routes, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Numbers given, from 1 on.
    given: Cell<u64>,
    waiting: RefCell<BTreeMap<(u64, u64), Waiter>>,
    bell: Bell,
    retried: Counter,
    expired: Counter,
}

#[derive(Debug)]
struct Waiter {
    number: Number,
    op: Op,
    /// Where it was refused, or is in flight, if it is a write.
    held: Option<PlacedWrite>,
    /// Its place in the order of its keys, if it is a write that waits.
    line: Option<InLine>,
    answer: Answer<Outcome>,
    /// The refusal that it gets at its deadline.
    refusal: Refusal,
    since: Mono,
    /// It has been sent and its outcome is not known yet.
    is_sent: bool,
}

impl Waiter {
    fn refuse(self, refusal: Refusal) {
        self.settle(Err(refusal));
    }

    fn settle(self, outcome: Outcome) {
        let Self { number: _, op: _, held, line: _, answer, refusal: _, since: _, is_sent: _ } = self;
        if let Some(held) = held {
            held.settle(&outcome);
        }
        answer.send(outcome);
    }
}

impl Waiting {
    /// The number of an operation that `stream` submits now.
    pub(super) fn number(&self, stream: StreamId) -> Number {
        Number { submitted: self.count(), stream, part: 0, since: None }
    }

    /// The number of a part of the operation `of`.
    pub(super) fn part(&self, of: Number) -> Number {
        Number { part: self.count(), ..of }
    }

    fn count(&self) -> u64 {
        let count = self.given.get() + 1;
        self.given.set(count);
        count
    }

    /// What is to be sent again, in order.
    fn unsent(&self) -> Vec<Number> {
        let waiting = self.waiting.borrow();
        waiting.values().filter(|waiter| !waiter.is_sent).map(|waiter| waiter.number).collect()
    }

    fn take(&self, number: Number) -> Option<Waiter> {
        self.waiting.borrow_mut().remove(&number.key())
    }
}

impl Dispatch {
    /// What this core has sent on and again.
    pub fn numbers(&self) -> GatewayNumbers {
        let waiting = self.waiting();
        GatewayNumbers {
            remote: self.remote().map(Remote::numbers).unwrap_or_default(),
            waiting: waiting.waiting.borrow().len() as u64,
            retried: waiting.retried.get(),
            expired: waiting.expired.get(),
        }
    }

    /// Lets an operation wait until it can be sent by newer routes; `refusal` is its answer if that takes too long.
    pub(super) fn wait_for_routes(
        &self,
        number: Number,
        op: Op,
        refusal: Refusal,
        held: Option<PlacedWrite>,
    ) -> Pending<Outcome> {
        let (answer, pending) = oneshot();
        let waiting = self.waiting();
        let since = number.since.unwrap_or_else(|| self.rt().now());
        let line = is_write(&op).then(|| self.order().wait(number.submitted(), &op));
        let waiter = Waiter { number, op, held, line, answer, refusal, since, is_sent: false };
        if waiting.waiting.borrow().len() >= WAITING_MAX {
            let reason = "too many requests wait for regions that are on their way";
            waiter.refuse(Refusal::Busy { reason, backoff_ms: 100 });
            return pending;
        }
        waiting.waiting.borrow_mut().insert(number.key(), waiter);
        waiting.bell.ring();
        pending
    }

    /// Sends again what waits, in the order of its numbers, as long as the core runs.
    pub(super) async fn keep_retrying(self: Rc<Self>) {
        loop {
            self.waiting().bell.wait().await;
            let mut pause = AGAIN_AFTER;
            while !self.waiting().waiting.borrow().is_empty() {
                self.rt().sleep(pause).await;
                self.retry_all().await;
                pause = (pause * 2).min(AGAIN_AFTER_MAX);
            }
        }
    }

    async fn retry_all(self: &Rc<Self>) {
        let (now, budget) = (self.rt().now(), self.rt().budget());
        for number in self.waiting().unsent() {
            self.retry(number, now);
            budget.tick().await;
        }
    }

    fn retry(self: &Rc<Self>, number: Number, now: Mono) {
        let Some(mut waiter) = self.waiting().take(number) else { return };
        let refusal = waiter.refusal.clone();
        if now.since(waiter.since) >= RETRIED_FOR {
            self.waiting().expired.add_one();
            return waiter.refuse(refusal);
        }
        let mut sent = None;
        match waiter.held.as_ref().map(PlacedWrite::standing) {
            Some(WriteStanding::Overtaken) => return waiter.refuse(OVERTAKEN),
            Some(WriteStanding::Undecided) => {}
            Some(WriteStanding::First) | None => {
                waiter.held.take().into_iter().for_each(PlacedWrite::refuse);
                if now.since(waiter.since) >= ASK_AFTER {
                    self.seek_instead(&waiter.op);
                }
                waiter.number.since = Some(waiter.since);
                if let Some(Sent { pending, region_id, held }) = self.send_again(waiter.number, &waiter.op) {
                    self.waiting().retried.add_one();
                    (waiter.is_sent, waiter.held, waiter.line) = (true, held, None);
                    sent = Some((pending, region_id));
                }
            }
        }
        // It waits again before its outcome is awaited: a task may run as soon as it is spawned, and the outcome may be there already.
        self.waiting().waiting.borrow_mut().insert(number.key(), waiter);
        if let Some((pending, region_id)) = sent {
            self.await_sent(number, pending, region_id);
        }
    }

    /// Settles what was sent again, or lets it wait on.
    fn await_sent(self: &Rc<Self>, number: Number, pending: Routed, region_id: Option<u64>) {
        let dispatch = self.clone();
        self.rt().spawn(async move {
            let outcome = pending.await;
            let Some(mut waiter) = dispatch.waiting().take(number) else { return };
            match (outcome, region_id) {
                // What was taken apart was sent again in its parts.
                (Err(refusal), Some(region_id)) if refusal.has_moved() => {
                    dispatch.heard(region_id, &refusal);
                    if let Some(held) = &waiter.held {
                        held.waits();
                        waiter.line = Some(dispatch.order().wait(number.submitted(), &waiter.op));
                    }
                    (waiter.refusal, waiter.is_sent) = (refusal, false);
                    dispatch.waiting().waiting.borrow_mut().insert(number.key(), waiter);
                }
                (outcome, _) => waiter.settle(outcome),
            }
        });
    }
}

/// Whether the order of the operation against others of its keys matters.
pub(super) fn is_write(op: &Op) -> bool {
    match op {
        Op::Put { .. }
        | Op::Delete { .. }
        | Op::BatchPut { .. }
        | Op::PutTimed { .. }
        | Op::PutAbsent { .. }
        | Op::Copy { .. }
        | Op::BatchDelete { .. }
        | Op::DeleteRange { .. }
        | Op::Modify { .. }
        | Op::Atomic(_)
        | Op::Watch { .. } => true,
        Op::Get { .. } | Op::Expiry { .. } | Op::BatchGet { .. } | Op::Lengths { .. } | Op::Scan(_) => false,
    }
}
