//! Operations sent to where the routes of this moment have their keys, whole or in parts, and their answers put together.

use std::rc::Rc;

use bytes::Bytes;

use engine::rt::local::{Answer, Pending, oneshot};

use super::dispatch::Dispatch;
use super::join::{join_done, join_lengths, join_values};
use super::retry::{Again, Number, Routed, is_write};
use super::split::{Part, Parts, ask_at_once, command_bytes};
use crate::memory::{AnswerBytes, charged_length};
use crate::refusal::Refusal;
use crate::request::{Op, Out, Outcome};
use crate::shard::placed::{KeyHash, Placed, PlacedWrite, StreamId};

/// What was sent again.
pub(super) struct Sent {
    pub(super) pending: Routed,
    /// The region that it went to, if it went to one.
    pub(super) region_id: Option<u64>,
    /// Where it is in flight, if it is a write that went to one region.
    pub(super) held: Option<PlacedWrite>,
}

impl Dispatch {
    /// Sends an operation of `stream` to wherever its keys are.
    pub(super) fn send(self: &Rc<Self>, stream: StreamId, op: Op) -> Routed {
        let number = self.waiting().number(stream);
        let parts = Parts::of(&self.routes(), op);
        match parts {
            Parts::One(place, op) => self.send_part(number, place, op),
            Parts::Nowhere(op, key) => {
                let Some(refusal) = self.seek(&key) else {
                    let (answer, pending) = oneshot();
                    answer.send(Err(Refusal::RegionNotFound { region_id: 0 }));
                    return Routed::once(pending);
                };
                Routed::once(self.wait_for_routes(number, op, refusal, None))
            }
            parts @ (Parts::Refused(_)
            | Parts::Scan(_)
            | Parts::Get(..)
            | Parts::Lengths(..)
            | Parts::Write(_)) => Routed::once(self.send_parts(number, parts)),
        }
    }

    fn send_part(self: &Rc<Self>, number: Number, place: Rc<Placed>, op: Op) -> Routed {
        if is_write(&op) && self.must_wait(number, &op, &place) {
            let reason = "earlier writes of the same keys are not answered yet";
            let refusal = Refusal::Busy { reason, backoff_ms: 100 };
            return Routed::once(self.wait_for_routes(number, op, refusal, None));
        }
        let (pending, held) = self.put(number, &place, op.clone());
        let (dispatch, region_id) = (self.clone(), place.region_id);
        Routed::again(pending, Again { dispatch, number, op, region_id, held })
    }

    /// Sends an operation to a place.
    fn put(&self, number: Number, place: &Rc<Placed>, op: Op) -> (Pending<Outcome>, Option<PlacedWrite>) {
        let (answer, pending) = oneshot();
        let hold = || place.hold(number.in_stream(), KeyHash::of_op(&op), &pending);
        let held = is_write(&op).then(hold);
        self.deliver_to(place, op, answer);
        (pending, held)
    }

    /// Several parts, each of which is sent on for itself.
    fn send_parts(self: &Rc<Self>, number: Number, parts: Parts) -> Pending<Outcome> {
        let (answer, pending) = oneshot();
        match parts {
            Parts::Scan(scan) => self.spawn(answer, |dispatch| async move { dispatch.scan(scan).await }),
            Parts::Get(mut parts, keys) => {
                if parts.len() > 1 && !number.is_part() {
                    parts.iter_mut().for_each(|(_, op, _)| ask_at_once(op));
                }
                let parts = self.start_all(number, parts);
                self.spawn(answer, |dispatch| async move { dispatch.join_values(number, parts, keys).await });
            }
            Parts::Lengths(parts, len) => {
                let parts = self.start_all(number, parts);
                self.spawn(answer, |_| join_lengths(parts, len));
            }
            Parts::Write(parts) => match self.check_sizes(&parts) {
                Ok(()) => {
                    let parts = self.start_all(number, parts.into_iter().map(|(place, op)| (place, op, ())));
                    self.spawn(answer, |_| join_done(parts));
                }
                Err(refusal) => answer.send(Err(refusal)),
            },
            Parts::Refused(refusal) => answer.send(Err(refusal)),
            Parts::One(..) | Parts::Nowhere(..) => unreachable!("these are no parts"),
        }
        pending
    }

    /// Sends what has waited; nothing if it has to wait on.
    pub(super) fn send_again(self: &Rc<Self>, number: Number, op: &Op) -> Option<Sent> {
        let parts = Parts::of(&self.routes(), op.clone());
        match parts {
            Parts::One(place, op) if is_write(&op) && self.must_wait(number, &op, &place) => None,
            Parts::One(place, op) => {
                let (pending, held) = self.put(number, &place, op);
                Some(Sent { pending: Routed::once(pending), region_id: Some(place.region_id), held })
            }
            Parts::Nowhere(op, key) => {
                // Its deadline goes on either way.
                self.seek(&key);
                self.seek_others(&op);
                None
            }
            parts @ (Parts::Refused(_)
            | Parts::Scan(_)
            | Parts::Get(..)
            | Parts::Lengths(..)
            | Parts::Write(_)) => {
                let pending = Routed::once(self.send_parts(number, parts));
                Some(Sent { pending, region_id: None, held: None })
            }
        }
    }

    /// One part that can never be written would leave the others without it, so then nothing begins.
    fn check_sizes(&self, parts: &[Part]) -> Result<(), Refusal> {
        let bytes_max = self.command_bytes_max();
        match parts.iter().map(|(_, op)| command_bytes(op)).find(|bytes| *bytes > bytes_max) {
            Some(bytes) => Err(Refusal::TooLarge { region_id: 0, bytes, bytes_max }),
            None => Ok(()),
        }
    }

    fn spawn<F>(self: &Rc<Self>, answer: Answer<Outcome>, work: impl FnOnce(Rc<Self>) -> F)
    where
        F: Future<Output = Outcome> + 'static,
    {
        let work = work(self.clone());
        self.rt().spawn(async move {
            // Every part of a write has been submitted by now; only the waiting for it, and what a read would still do, ends.
            if let Some(outcome) = answer.unless_left(work).await {
                answer.send(outcome);
            }
        });
    }

    /// Submits every part now, so that their order against later operations is the client's.
    fn start_all<T>(
        self: &Rc<Self>,
        number: Number,
        parts: impl IntoIterator<Item = (Rc<Placed>, Op, T)>,
    ) -> Vec<(Routed, T)> {
        let start = |(place, op, tag)| (self.send_part(self.waiting().part(number), place, op), tag);
        parts.into_iter().map(start).collect()
    }

    /// Puts the values of several regions together.
    ///
    /// No part waits for room while another holds some: where one finds none, all let go of what they have, and the whole is read
    /// again in its turn ([`Memory::spread`](crate::memory::Memory::spread)).
    async fn join_values(
        self: &Rc<Self>,
        number: Number,
        parts: Vec<(Routed, Vec<usize>)>,
        keys: Vec<Bytes>,
    ) -> Outcome {
        let bytes_max = self.memory().answer_bytes_max();
        match join_values(parts, keys.len(), bytes_max).await? {
            // The whole, of which this is a part, has the turn or will wait for it.
            Out::NoRoom if number.is_part() => return Ok(Out::NoRoom),
            Out::NoRoom => {}
            values => return Ok(values),
        }
        // What can never be answered does not wait for its turn.
        let lengths = Parts::of(&self.routes(), Op::Lengths { keys: keys.clone(), ahead: true });
        if let Parts::Lengths(parts, len) = lengths
            && let Out::Lengths(lengths) = join_lengths(self.start_all(number, parts), len).await?
        {
            let mut answer = AnswerBytes::new(bytes_max, 0);
            lengths.into_iter().flatten().try_for_each(|length| answer.add(charged_length(length)))?;
        }
        let _turn = self.memory().spread.wait(self.rt(), 1).await?;
        let values = Parts::of(&self.routes(), Op::BatchGet { keys, at_once: false });
        match values {
            Parts::Get(parts, keys) => {
                join_values(self.start_all(number, parts), keys.len(), bytes_max).await
            }
            Parts::Nowhere(..) => Err(Refusal::RegionNotFound { region_id: 0 }),
            Parts::Refused(refusal) => Err(refusal),
            Parts::One(..) | Parts::Scan(_) | Parts::Lengths(..) | Parts::Write(_) => {
                unreachable!("values were asked for")
            }
        }
    }
}
