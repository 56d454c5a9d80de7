//! The answering side: requests of another node, carried out by this store as those of a client with a map are.
//!
//! Invariants: at most [`RUNNING_MAX`] requests of a connection run and at most [`ANSWERS_BYTES_MAX`] bytes of answers wait for it,
//! one larger answer excepted; beyond that nothing more is read. A connection that ends stops nothing that was begun.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use engine::rt::local::{Bell, Pending};
use engine::rt::{ReadHalf, Rt, WriteHalf};

use super::asking::is_write;
use super::codec::{
    ForwardedReply, ForwardedRequest, ONE_BYTES_MAX, decode_requests_in_pieces, encode_answers,
};
use crate::memory::Memory;
use crate::refusal::Refusal;
use crate::request::{Op, Out, Outcome, Route};
use crate::wire::peer::frame::{self, Decoder, FrameKind};
use crate::wire::peer::link::LinkError;
use crate::wire::peer::reading::Reading;

/// Requests of one connection that run at a time.
pub const RUNNING_MAX: usize = 256;
/// Bytes of answers that wait for one connection.
pub const ANSWERS_BYTES_MAX: usize = 16 << 20;
/// A frame is closed when it has reached this size, bytes.
const FRAME_BYTES: usize = 1 << 20;
/// Longer than the asking side leaves a connection open without a request.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 16 << 10;

/// What one connection has running and waiting.
#[derive(Default)]
struct Desk {
    answers: RefCell<Vec<ForwardedReply>>,
    answers_bytes: Cell<usize>,
    running: Cell<usize>,
    /// Something waits to be sent.
    to_send: Bell,
    /// Something was sent or has ended, so there may be room.
    room: Bell,
}

/// Serves a connection whose introduction is over. `decoder` has what was read of it already; `carry_out` starts an
/// operation of the store.
///
/// # Errors
/// Why it ended, unless the other side closed it between two frames.
pub async fn serve(
    rt: &Rt,
    memory: &Memory,
    (mut from, mut into): (ReadHalf, WriteHalf),
    decoder: Decoder,
    carry_out: impl Fn(Route, Op) -> Pending<Outcome>,
) -> Result<(), LinkError> {
    let desk = Rc::new(Desk::default());
    let mut receiving = pin!(receive(rt, memory, &desk, &mut from, decoder, carry_out));
    let mut sending = pin!(send(rt, &desk, &mut into));
    poll_fn(|cx| match sending.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(ended),
        Poll::Pending => receiving.as_mut().poll(cx),
    })
    .await
}

async fn receive(
    rt: &Rt,
    memory: &Memory,
    desk: &Rc<Desk>,
    from: &mut ReadHalf,
    mut decoder: Decoder,
    carry_out: impl Fn(Route, Op) -> Pending<Outcome>,
) -> Result<(), LinkError> {
    let (mut buffer, budget) = (vec![0; READ_BYTES], rt.budget());
    let mut reading = Reading::new(rt, &memory.input, &decoder);
    loop {
        while let Some(frame) = decoder.next_frame()? {
            // Keys and values of its requests are copies of it together, and live as long as the last of them runs.
            let charge = Rc::new(reading.took(frame.payload.len()));
            let requests = match frame.kind {
                FrameKind::Requests => decode_requests_in_pieces(frame.payload, &budget).await?,
                FrameKind::Hello
                | FrameKind::Welcome
                | FrameKind::Refused
                | FrameKind::Messages
                | FrameKind::Answers
                | FrameKind::Challenge
                | FrameKind::Proof
                | FrameKind::Offer
                | FrameKind::Have
                | FrameKind::Piece
                | FrameKind::Chunk
                | FrameKind::Whole
                | FrameKind::Installed => {
                    return Err(LinkError::Unexpected(frame.kind));
                }
            };
            for ForwardedRequest { id, route, op } in requests {
                desk.wait_for_room().await;
                let room = match memory.room_for_items(rt, op.items()).await {
                    Ok(room) => room,
                    Err(busy) => {
                        desk.put(ForwardedReply { id, outcome: Err(busy) });
                        continue;
                    }
                };
                let writes = is_write(&op);
                let pending = carry_out(route, op);
                desk.running.set(desk.running.get() + 1);
                let (desk, charge) = (desk.clone(), charge.clone());
                rt.spawn(async move {
                    let outcome = fitting(pending.await.unwrap_or(Err(Refusal::Unknown)), writes);
                    drop((charge, room));
                    desk.running.set(desk.running.get() - 1);
                    desk.put(ForwardedReply { id, outcome });
                });
                budget.tick().await;
            }
        }
        decoder.settle();
        reading.fed(&decoder);
        let time_max = reading.room(SILENCE_MAX).await?;
        let read = rt.timeout(time_max, from.read(&mut buffer)).await;
        match read {
            // Its requests take their time, which the asking side bounds. What it has begun to send does not.
            None if desk.is_busy() && time_max == SILENCE_MAX => {}
            None => return Err(LinkError::Timeout),
            Some(read) => match read? {
                0 if decoder.waiting_bytes() == 0 => return Ok(()),
                0 => return Err(LinkError::Closed),
                n => {
                    decoder.feed(&buffer[..n]);
                    reading.fed(&decoder);
                    budget.tick().await;
                }
            },
        }
    }
}

async fn send(rt: &Rt, desk: &Desk, into: &mut WriteHalf) -> Result<(), LinkError> {
    let budget = rt.budget();
    loop {
        let answers = desk.take();
        if answers.is_empty() {
            desk.to_send.wait().await;
            continue;
        }
        let mut bytes = Vec::new();
        frame::push(&mut bytes, FrameKind::Answers, |out| encode_answers(&answers, out));
        drop(answers);
        into.write_all(&bytes).await?;
        budget.tick().await;
    }
}

impl Desk {
    fn is_busy(&self) -> bool {
        self.running.get() > 0 || !self.answers.borrow().is_empty()
    }

    async fn wait_for_room(&self) {
        while self.running.get() >= RUNNING_MAX || self.answers_bytes.get() >= ANSWERS_BYTES_MAX {
            self.room.wait().await;
        }
    }

    fn put(&self, reply: ForwardedReply) {
        self.answers_bytes.set(self.answers_bytes.get() + outcome_bytes(&reply.outcome));
        self.answers.borrow_mut().push(reply);
        self.to_send.ring();
        self.room.ring();
    }

    /// Takes about one frame's worth.
    fn take(&self) -> Vec<ForwardedReply> {
        let mut answers = self.answers.borrow_mut();
        let mut bytes = 0;
        let count = answers.iter().take_while(|reply| {
            let before = bytes;
            bytes += outcome_bytes(&reply.outcome);
            before < FRAME_BYTES
        });
        let count = count.count();
        let rest = answers.split_off(count);
        let taken = std::mem::replace(&mut *answers, rest);
        let left: usize = answers.iter().map(|reply| outcome_bytes(&reply.outcome)).sum();
        self.answers_bytes.set(left);
        self.room.ring();
        taken
    }
}

/// The outcome, or what is said instead where no frame has room for it. A write has had its effect by then.
fn fitting(outcome: Outcome, writes: bool) -> Outcome {
    if outcome_bytes(&outcome) <= ONE_BYTES_MAX {
        return outcome;
    }
    match writes {
        true => Err(Refusal::Unknown),
        false => Err(Refusal::AnswerTooLarge { bytes_max: ONE_BYTES_MAX }),
    }
}

/// About how many bytes an outcome takes in a frame.
fn outcome_bytes(outcome: &Outcome) -> usize {
    const FIXED_BYTES: usize = 48;
    const PER_ITEM_BYTES: usize = 16;
    // Texts of refusals are short.
    let Ok(out) = outcome else { return FIXED_BYTES };
    FIXED_BYTES
        + match out {
            Out::Done | Out::Existed(_) | Out::Length(_) | Out::Integer(_) | Out::NoRoom => 0,
            Out::Expiry(_) => PER_ITEM_BYTES,
            Out::Value(value) | Out::Swapped { swapped: _, previous: value } => {
                value.as_ref().map_or(0, bytes::Bytes::len)
            }
            Out::Values(values) => {
                values.iter().map(|value| value.as_ref().map_or(0, bytes::Bytes::len) + PER_ITEM_BYTES).sum()
            }
            Out::Pairs(pairs) => {
                pairs.iter().map(|(key, value)| key.len() + value.len() + PER_ITEM_BYTES).sum()
            }
            Out::Lengths(lengths) => lengths.len() * PER_ITEM_BYTES,
            Out::Seen(seen) => seen.len() * PER_ITEM_BYTES,
            Out::Atomic(steps) => steps.iter().flatten().map(outcome_bytes).sum(),
        }
}
