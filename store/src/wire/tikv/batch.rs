//! Many commands on one stream.
//!
//! Commands begin in the order in which they arrive; answers leave in the order in which they are ready, all that are ready in one
//! message. So a turn that commits many writes answers them with one message, and a slow scan holds up nobody.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_util::stream::{FuturesUnordered, StreamExt};
use prost::Message as _;

use super::command::Session;
use super::{Core, decode};
use crate::wire::grpc::{Inbox, Message, Outbox, Status, frame};
use crate::wire::proto::tikvpb::{BatchCommandsRequest, BatchCommandsResponse, Response};

/// Commands of one stream that may be under way. Beyond it the stream is not read, and the client feels that.
const RUNNING_MAX: usize = 8192;
/// An answer is sent once it has grown to this size.
const ANSWER_BYTES_MIN: usize = 1 << 20;

type Running = Pin<Box<dyn Future<Output = (u64, Response)>>>;

/// Serves one stream.
pub(super) async fn serve(core: &Rc<Core>, inbox: &mut Inbox, outbox: &mut Outbox) -> Result<(), Status> {
    let mut stream = Stream { core, running: FuturesUnordered::new(), ready: Ready::default(), open: true };
    loop {
        let answers = poll_fn(|cx| stream.poll_answers(cx, inbox)).await?;
        match answers {
            Some(answers) => outbox.send(frame(&answers)).await?,
            None => return Ok(()),
        }
    }
}

struct Stream<'a> {
    core: &'a Rc<Core>,
    running: FuturesUnordered<Running>,
    ready: Ready,
    open: bool,
}

/// Answers that wait to be sent.
#[derive(Default)]
struct Ready {
    answers: BatchCommandsResponse,
    bytes: usize,
}

impl Ready {
    fn push(&mut self, id: u64, response: Response) {
        self.bytes += response.encoded_len() + 10;
        self.answers.responses.push(response);
        self.answers.request_ids.push(id);
    }

    fn is_full(&self) -> bool {
        self.bytes >= ANSWER_BYTES_MIN
    }

    fn take(&mut self) -> Option<BatchCommandsResponse> {
        self.bytes = 0;
        let answers = std::mem::take(&mut self.answers);
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
        while self.open && self.running.len() < RUNNING_MAX && !self.ready.is_full() {
            match inbox.poll_next(cx)? {
                Poll::Ready(Some(message)) => self.begin(message)?,
                Poll::Ready(None) => self.open = false,
                Poll::Pending => break,
            }
        }
        while !self.ready.is_full()
            && let Poll::Ready(Some((id, response))) = self.running.poll_next_unpin(cx)
        {
            self.ready.push(id, response);
        }
        match self.ready.take() {
            Some(answers) => Poll::Ready(Ok(Some(answers))),
            None if !self.open && self.running.is_empty() => Poll::Ready(Ok(None)),
            None => Poll::Pending,
        }
    }

    /// Begins every command of a message. What is done at once never becomes a task.
    fn begin(&mut self, message: Message) -> Result<(), Status> {
        let Message { bytes, charge } = message;
        let batch = decode::<BatchCommandsRequest>(bytes)?;
        if batch.requests.len() != batch.request_ids.len() {
            let (requests, ids) = (batch.requests.len(), batch.request_ids.len());
            return Err(Status::invalid(format!(
                "{requests} requests with {ids} request_ids; each needs one"
            )));
        }
        let charge = Rc::new(charge);
        for (request, id) in batch.requests.into_iter().zip(batch.request_ids) {
            let (core, charge) = (self.core.clone(), charge.clone());
            let mut command: Running = Box::pin(async move {
                let cmd = match request.cmd {
                    Some(command) => Session::frank(&core).execute(command).await,
                    None => None,
                };
                drop(charge);
                (id, Response { cmd })
            });
            match command.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready((id, response)) => self.ready.push(id, response),
                Poll::Pending => self.running.push(command),
            }
        }
        Ok(())
    }
}
