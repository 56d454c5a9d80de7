//! What was sent to a region that has moved is sent again, by newer routes, until a deadline.
//!
//! A refusal changes nothing, so whatever the guard of a store refuses because its region left, shrank or grew, or because another
//! store leads it, may be sent again. Reads
//! simply are. Writes keep their order: two writes of one key take effect in the order in which they were submitted here, whatever
//! becomes of the routes in between. So a write waits
//! * while a write that older routes sent to the same keys is in flight ([`Placed::is_clear`]): it may yet be refused;
//! * behind the writes of the same keys that wait here, in the order of their numbers.
//!
//! A store that does not lead refuses, and may lead and take in a later write a moment afterwards. So a write that was refused for that is
//! sent again only if nothing later was sent to the same place; else its refusal is its answer.
//!
//! Invariants: what waits is bounded ([`WAITING_MAX`]) and is answered at its deadline at the latest; a number is given once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use engine::rt::Mono;
use engine::rt::local::{Answer, Bell, Pending, oneshot};

use super::dispatch::Dispatch;
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::request::{Op, Outcome};
use crate::shard::routes::{InFlight, Placed};

/// How long an operation is sent again before its refusal is its answer.
/// Longer than an election takes.
pub(super) const RETRIED_FOR: Duration = Duration::from_secs(6);

/// How long until it is sent again, at first; the pause doubles up to [`AGAIN_AFTER_MAX`] while something waits.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(1);
const AGAIN_AFTER_MAX: Duration = Duration::from_millis(16);

/// Operations of one core that may wait for routes.
const WAITING_MAX: usize = 4 << 10;

/// Whether the request may be carried out where the region is now.
pub(super) fn has_moved(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::RegionNotFound { .. }
        | Refusal::KeyNotInRegion { .. }
        | Refusal::EpochNotMatch { .. }
        | Refusal::NotLeader { .. } => true,
        Refusal::StoreNotMatch { .. }
        | Refusal::PeerNotMatch { .. }
        | Refusal::StaleCommand
        | Refusal::Busy { .. }
        | Refusal::DiskFull { .. }
        | Refusal::SpansRegions { .. }
        | Refusal::TooLarge { .. }
        | Refusal::Damaged { .. }
        | Refusal::Invalid(_)
        | Refusal::AnswerTooLarge { .. }
        | Refusal::NotAnInteger
        | Refusal::Overflow
        | Refusal::Stopped(_)
        | Refusal::Unknown => false,
    }
}

/// Whether an operation that was refused may be sent again. A place that refused because it did not lead may have taken in later writes
/// since, in front of which this one must not come; where the region itself moved, they were refused as well. Of a write of several
/// parts some may have been taken in. Reads overtake nothing.
fn may_go_again(refusal: &Refusal, writes: bool, at: Option<&InFlight>) -> bool {
    match refusal {
        Refusal::NotLeader { .. } => !writes || at.is_some_and(InFlight::is_last),
        other => has_moved(other),
    }
}

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
    /// Where it is in flight, if it is a write.
    pub(super) at: Option<InFlight>,
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
            match (outcome, self.again.take()) {
                (Err(refusal), Some(Again { dispatch, number, op, at })) if has_moved(&refusal) => {
                    dispatch.heard(&refusal);
                    if !may_go_again(&refusal, is_write(&op), at.as_ref()) {
                        return Poll::Ready(Err(refusal));
                    }
                    // It waits before it lets go of where it was, so nothing passes it by.
                    self.pending = dispatch.wait_for_routes(number, op, refusal);
                    drop(at);
                }
                (outcome, _) => return Poll::Ready(outcome),
            }
        }
    }
}

/// When an operation was submitted. A part that is made of it later keeps that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number {
    submitted: u64,
    /// Tells parts apart, which have no key in common; 0 for the whole.
    part: u64,
}

impl Number {
    pub(super) const fn key(self) -> (u64, u64) {
        (self.submitted, self.part)
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
    waiting: RefCell<BTreeMap<Number, Waiter>>,
    bell: Bell,
}

#[derive(Debug)]
struct Waiter {
    op: Op,
    span: Span,
    answer: Answer<Outcome>,
    /// The refusal that it gets at its deadline.
    refusal: Refusal,
    since: Mono,
    /// It has been sent and its outcome is not known yet: what comes later waits for where it went.
    sent: bool,
}

impl Waiting {
    /// The number of an operation that is submitted now.
    pub(super) fn number(&self) -> Number {
        Number { submitted: self.count(), part: 0 }
    }

    /// The number of a part of the operation `of`.
    pub(super) fn part(&self, of: Number) -> Number {
        Number { submitted: of.submitted, part: self.count() }
    }

    fn count(&self) -> u64 {
        let count = self.given.get() + 1;
        self.given.set(count);
        count
    }

    /// Whether a write that was submitted earlier waits for one of the keys of `op`.
    fn has_before(&self, number: Number, op: &Op) -> bool {
        let waiting = self.waiting.borrow();
        if waiting.is_empty() {
            return false;
        }
        let span = span(op);
        let before = |waiter: &Waiter| !waiter.sent && is_write(&waiter.op) && touch(&waiter.span, &span);
        let first_part = Number { part: 0, ..number };
        waiting.range(..first_part).any(|(_, waiter)| before(waiter))
    }
}

impl Dispatch {
    /// Whether a write has to wait before it may go to `place`.
    pub(super) fn must_wait(&self, number: Number, op: &Op, place: &Placed) -> bool {
        is_write(op)
            && !planted(Bug::WritesOvertake)
            && (!place.is_clear(number.key()) || self.waiting().has_before(number, op))
    }

    /// Lets an operation wait until it can be sent by newer routes; `refusal` is its answer if that takes too long.
    pub(super) fn wait_for_routes(&self, number: Number, op: Op, refusal: Refusal) -> Pending<Outcome> {
        let (answer, pending) = oneshot();
        let waiting = self.waiting();
        if waiting.waiting.borrow().len() >= WAITING_MAX {
            let reason = "too many requests wait for regions that are on their way";
            answer.send(Err(Refusal::Busy { reason, backoff_ms: 100 }));
            return pending;
        }
        let (span, since) = (span(&op), self.rt().now());
        let waiter = Waiter { op, span, answer, refusal, since, sent: false };
        waiting.waiting.borrow_mut().insert(number, waiter);
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

    fn mark_sent(&self, number: Number, sent: bool) {
        if let Some(waiter) = self.waiting().waiting.borrow_mut().get_mut(&number) {
            waiter.sent = sent;
        }
    }

    async fn retry_all(self: &Rc<Self>) {
        let (now, budget) = (self.rt().now(), self.rt().budget());
        let numbers: Vec<Number> = self.waiting().waiting.borrow().keys().copied().collect();
        for number in numbers {
            self.retry(number, now);
            budget.tick().await;
        }
    }

    fn retry(self: &Rc<Self>, number: Number, now: Mono) {
        let op = {
            let mut waiting = self.waiting().waiting.borrow_mut();
            let Some(waiter) = waiting.get_mut(&number).filter(|waiter| !waiter.sent) else { return };
            if now.since(waiter.since) >= RETRIED_FOR {
                let Waiter { op: _, span: _, answer, refusal, since: _, sent: _ } =
                    waiting.remove(&number).expect("it was here just now");
                drop(waiting);
                return answer.send(Err(refusal));
            }
            waiter.op.clone()
        };
        if is_write(&op) && self.waiting().has_before(number, &op) {
            return;
        }
        let writes = is_write(&op);
        // Before it is sent, or parts of it would wait for it.
        self.mark_sent(number, true);
        let Some((pending, at)) = self.send_again(number, op) else { return self.mark_sent(number, false) };
        let dispatch = self.clone();
        self.rt().spawn(async move {
            let outcome = pending.await;
            let mut waiting = dispatch.waiting().waiting.borrow_mut();
            match outcome {
                Err(refusal) if has_moved(&refusal) => {
                    drop(waiting);
                    dispatch.heard(&refusal);
                    let goes_again = may_go_again(&refusal, writes, at.as_ref());
                    let mut waiting = dispatch.waiting().waiting.borrow_mut();
                    if !goes_again && let Some(waiter) = waiting.remove(&number) {
                        drop(waiting);
                        return waiter.answer.send(Err(refusal));
                    }
                    if let Some(waiter) = waiting.get_mut(&number) {
                        (waiter.refusal, waiter.sent) = (refusal, false);
                    }
                }
                outcome => {
                    let waiter = waiting.remove(&number);
                    drop(waiting);
                    if let Some(waiter) = waiter {
                        waiter.answer.send(outcome);
                    }
                }
            }
            drop(at);
        });
    }
}

/// The smallest and the greatest key of an operation; no greatest one means that it has no bound.
type Span = (Bytes, Option<Bytes>);

/// Whether the order of the operation against others of its keys matters.
pub(super) fn is_write(op: &Op) -> bool {
    match op {
        Op::Put { .. }
        | Op::Delete { .. }
        | Op::BatchPut { .. }
        | Op::BatchDelete { .. }
        | Op::DeleteRange { .. }
        | Op::Modify { .. }
        | Op::Atomic(_)
        | Op::Watch { .. } => true,
        Op::Get { .. } | Op::BatchGet { .. } | Op::Lengths { .. } | Op::Scan(_) => false,
    }
}

/// Whether two writes may have a key in common.
fn touch((from, to): &Span, (other_from, other_to): &Span) -> bool {
    let ends_before = |end: &Option<Bytes>, start: &Bytes| end.as_ref().is_some_and(|end| end < start);
    !ends_before(to, other_from) && !ends_before(other_to, from)
}

fn span(op: &Op) -> Span {
    let of = |mut keys: Vec<Bytes>| {
        keys.sort_unstable();
        (keys.first().cloned().unwrap_or_default(), Some(keys.last().cloned().unwrap_or_default()))
    };
    match op {
        Op::Get { key } | Op::Put { key, .. } | Op::Delete { key, .. } | Op::Modify { key, .. } => {
            (key.clone(), Some(key.clone()))
        }
        Op::BatchGet { keys, at_once: _ }
        | Op::Lengths { keys }
        | Op::BatchDelete { keys }
        | Op::Watch { keys } => of(keys.clone()),
        Op::BatchPut { pairs } => of(pairs.iter().map(|(key, _)| key.clone()).collect()),
        Op::Atomic(atomic) => of(atomic.keys()),
        Op::DeleteRange { start, end } => (start.clone(), Some(end.clone()).filter(|end| !end.is_empty())),
        Op::Scan(scan) => (scan.start.clone(), Some(scan.end.clone()).filter(|end| !end.is_empty())),
    }
}
