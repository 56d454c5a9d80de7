//! Many commands on one stream.
//!
//! Commands begin in the order in which they arrive; answers leave in the order in which they are ready, those that are ready in one
//! message of bounded size. So a turn that commits many writes answers them with one message, and a slow scan delays no other command.
//!
//! What holds: of a message as many commands are in flight as [`RUNNING_MAX`] allows, and the rest waits in the bytes that it came
//! in; a command of many keys begins once they have room, and those after it wait, so that the order stays; beginning commands
//! pauses as soon as it has had its share of the core; a message of answers has [`ANSWER_BYTES_MAX`], or a single answer that is
//! larger; while answers wait for the client, nothing more begins.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use prost::Message as _;

use super::command::Session;
use super::envelope::{Envelope, Step};
use super::{Core, decode, items};
use crate::memory::{Charge, items_bytes};
use crate::refusal::Refusal;
use crate::wire::grpc::{CallOutbox, Inbox, Status, answer};
use crate::wire::proto::tikvpb::{Answer, BatchCommandsResponse, Request, Response};

/// Maximum length of a message of commands, bytes. Each of them may be as long as if it came alone, and clients put many into one.
pub(super) const MESSAGE_BYTES_MAX: usize = 128 << 20;
/// Commands of one stream that may be in flight. Beyond it the stream is not read, and flow control stops the client.
const RUNNING_MAX: usize = 1024;
/// The same while the core is short of memory.
const RUNNING_SHORT: usize = 4;
/// Answers are sent once they have grown to this size.
const ANSWER_BYTES_MIN: usize = 1 << 20;
/// A message of more than one answer is not longer.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Steps of a message between two reads of the clock.
const STEPS_PER_LOOK: usize = 16;
/// Bytes of the fields around an answer and its id, at most.
const FIELD_BYTES: usize = 24;

type Running = Pin<Box<dyn Future<Output = (u64, Response)>>>;

/// Serves one stream.
pub(super) async fn serve(core: &Rc<Core>, inbox: &mut Inbox, outbox: &mut CallOutbox) -> Result<(), Status> {
    let mut stream = Stream {
        core,
        rest: None,
        pause: None,
        next: None,
        running: FuturesUnordered::new(),
        ready: Ready::default(),
        open: true,
    };
    loop {
        let answers = poll_fn(|cx| stream.poll_answers(cx, inbox)).await?;
        match answers {
            Some(answers) => {
                inbox.rests();
                outbox.send(answer(&answers)?).await?;
            }
            None => return Ok(()),
        }
    }
}

struct Stream<'a> {
    core: &'a Rc<Core>,
    /// The message whose commands begin now.
    rest: Option<(Envelope, Rc<Charge>)>,
    /// Set while the stream has had its share of the core and lets others run.
    pause: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// The command that waits for room for its keys.
    next: Option<Next>,
    running: FuturesUnordered<Running>,
    ready: Ready,
    open: bool,
}

/// A command that begins as soon as its keys have room.
struct Next {
    id: u64,
    command: Bytes,
    /// Of the message that it came in.
    charge: Rc<Charge>,
    room: Pin<Box<dyn Future<Output = Room>>>,
}

/// Room for the keys of a command, or why there is none.
type Room = Result<Charge, Refusal>;

/// Answers that wait to be sent.
#[derive(Default)]
struct Ready {
    answers: BatchCommandsResponse,
    bytes: usize,
    /// The answer that would have made the message too long.
    held: Option<(u64, Response, usize)>,
}

impl Ready {
    fn push(&mut self, id: u64, response: Response) {
        debug_assert!(self.held.is_none(), "nothing begins while the message is full");
        let bytes = response.encoded_len() + FIELD_BYTES;
        if self.bytes > 0 && self.bytes + bytes > ANSWER_BYTES_MAX {
            self.held = Some((id, response, bytes));
            return;
        }
        self.add(id, response, bytes);
    }

    fn add(&mut self, id: u64, response: Response, bytes: usize) {
        self.bytes += bytes;
        self.answers.responses.push(response);
        self.answers.request_ids.push(id);
    }

    fn is_full(&self) -> bool {
        self.bytes >= ANSWER_BYTES_MIN || self.held.is_some()
    }

    fn take(&mut self) -> Option<BatchCommandsResponse> {
        self.bytes = 0;
        let answers = std::mem::take(&mut self.answers);
        if let Some((id, response, bytes)) = self.held.take() {
            self.add(id, response, bytes);
        }
        (!answers.request_ids.is_empty()).then_some(answers)
    }
}

impl Stream<'_> {
    /// The next message of answers; nothing once the client has ended its side and all is answered.
    fn poll_answers(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
    ) -> Poll<Result<Option<BatchCommandsResponse>, Status>> {
        self.poll_begin(cx, inbox)?;
        while !self.ready.is_full()
            && let Poll::Ready(Some((id, response))) = self.running.poll_next_unpin(cx)
        {
            self.ready.push(id, response);
        }
        match self.ready.take() {
            Some(answers) => Poll::Ready(Ok(Some(answers))),
            None if !self.open && self.next.is_none() && self.rest.is_none() && self.running.is_empty() => {
                Poll::Ready(Ok(None))
            }
            None => Poll::Pending,
        }
    }

    /// Begins commands while there is room for them and their answers, and while it is this stream's turn.
    fn poll_begin(&mut self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Result<(), Status> {
        let (budget, mut steps) = (self.core.rt.budget(), 0);
        inbox.rests();
        while self.running.len() < self.running_max() && !self.ready.is_full() && !self.pauses(cx) {
            if let Some(mut next) = self.next.take() {
                let Poll::Ready(room) = next.room.as_mut().poll(cx) else {
                    self.next = Some(next);
                    break;
                };
                self.begin(next.id, next.command, next.charge, room)?;
                continue;
            }
            if let Some((envelope, charge)) = &mut self.rest {
                let step = envelope.step().map_err(Status::invalid)?;
                let charge = charge.clone();
                match step {
                    Step::Command(id, command) => match items::<Request>(&command)? {
                        items if items_bytes(items) == 0 => {
                            self.begin(id, command, charge, Ok(Charge::default()))?
                        }
                        items => {
                            let core = self.core.clone();
                            let room =
                                async move { core.gateway.memory().room_for_items(&core.rt, items).await };
                            self.next = Some(Next { id, command, charge, room: Box::pin(room) });
                        }
                    },
                    Step::Again => {}
                    Step::End => self.rest = None,
                }
                steps += 1;
                if steps % STEPS_PER_LOOK == 0 && budget.spent() {
                    let rt = self.core.rt.clone();
                    self.pause = Some(Box::pin(async move { rt.yield_to_reactor().await }));
                    steps = 0;
                }
                continue;
            }
            if !self.open {
                break;
            }
            match inbox.poll_next(cx)? {
                Poll::Ready(Some(message)) => {
                    self.rest = Some((Envelope::new(message.bytes), Rc::new(message.charge)));
                }
                Poll::Ready(None) => self.open = false,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// While the core is short of memory for answers few commands are in flight, so that each of them finds room in time.
    fn running_max(&self) -> usize {
        let memory = self.core.gateway.memory();
        if memory.output.is_tight() { RUNNING_SHORT } else { memory.commands_max(RUNNING_MAX) }
    }

    fn pauses(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pause) = &mut self.pause else { return false };
        let pauses = pause.as_mut().poll(cx).is_pending();
        if !pauses {
            self.pause = None;
        }
        pauses
    }

    /// Begins a command. What is done at once never becomes a task.
    fn begin(&mut self, id: u64, command: Bytes, charge: Rc<Charge>, room: Room) -> Result<(), Status> {
        let request = decode::<Request>(command)?;
        let Some(command) = request.cmd else {
            // Clients read an answer without content as an unknown command.
            self.ready.push(id, Response { cmd: None });
            return Ok(());
        };
        let core = self.core.clone();
        let mut running: Running = Box::pin(async move {
            let answer: Answer = Session::frank(&core).within(&room).execute(command).await;
            drop((charge, room));
            (id, Response { cmd: Some(answer) })
        });
        match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((id, response)) => self.ready.push(id, response),
            Poll::Pending => self.running.push(running),
        }
        Ok(())
    }
}
