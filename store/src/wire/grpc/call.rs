//! One call: read what is asked, within bounds and deadline, and send what is answered.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use engine::rt::{Mono, Rt};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::drain::Listening;
use super::frame::PREFIX_BYTES;
use super::gzip::{self, Encodings, Messages};
use super::holders::Holding;
use super::server::{Caller, State};
use super::status::{Code, Status};
use super::{CallShape, Service, timeout};
use crate::memory::{Charge, Intake, Memory, Pool};
use crate::plant::{Bug, planted};

/// An answer up to this length is handed to h2 whole; a longer one waits for the caller's window piece by piece.
const WHOLE_ANSWER_BYTES_MAX: usize = 8 << 10;
/// How long a unary request may take to arrive when the caller names no deadline.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Maximum metadata of a call, bytes, counted as HTTP/2 does. Clients send a few hundred.
pub(super) const METADATA_BYTES_MAX: usize = 16 << 10;
/// Entries of a call's metadata. Clients send a dozen.
const METADATA_ENTRIES_MAX: usize = 64;

/// Refuses a call because too many run.
pub(super) fn turn_away<S: Service>(
    state: &State<S>,
    request: &Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) {
    let method = state.service.method(request.uri().path()).map(|(method, _)| method);
    let status = Status::new(
        Code::ResourceExhausted,
        "too many calls run; try again in a moment, or use fewer at once",
    );
    state.tally.count(method, status.code);
    refuse(respond, &status);
}

/// Serves one call from its head to its trailers. It ends at once when its stream does.
pub(super) async fn run<S: Service>(
    state: Rc<State<S>>,
    caller: Caller,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let asked = judge(&state, caller, request, &mut respond);
    let Some(Asked { method, shape, body, encodings, deadline }) = asked else { return };
    let ended = match shape {
        CallShape::Unary => unary(&state, (method, caller), (body, encodings), deadline, respond).await,
        CallShape::Bidi => bidi(&state, method, (body, encodings), deadline, respond).await,
    };
    state.tally.count(Some(method), ended);
}

/// What is left of a call's head once it is judged. Its metadata takes many times in memory what it took to send, and a call may run for
/// as long as its caller likes, so nothing of it is kept.
struct Asked<M> {
    method: M,
    shape: CallShape,
    body: RecvStream,
    encodings: Encodings,
    deadline: Option<Mono>,
}

/// Whether the call may run; what may not is answered here.
fn judge<S: Service>(
    state: &State<S>,
    caller: Caller,
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) -> Option<Asked<S::Method>> {
    let (head, body) = request.into_parts();
    if let Some(refusal) = refuse_http(&head.method, &head.headers) {
        end_with(respond, refusal);
        return None;
    }
    let Some((method, shape)) = state.service.method(head.uri.path()) else {
        state.tally.count(None, Code::Unimplemented);
        refuse(respond, &Status::unimplemented(head.uri.path()));
        return None;
    };
    if let (Some(gate), Caller::Anyone(from)) = (&state.options.gate, caller)
        && gate.is_closed()
        && state.service.is_for_members(method)
        && !planted(Bug::CallersBelieved)
    {
        let status = gate.refuse(head.uri.path(), from);
        state.tally.count(Some(method), status.code);
        refuse(respond, &status);
        return None;
    }
    if let Err(status) = bound_metadata(&head.headers) {
        state.tally.count(Some(method), status.code);
        refuse(respond, &status);
        return None;
    }
    let encodings = match Encodings::of(&head.headers) {
        Ok(encodings) => encodings,
        Err(status) => {
            state.tally.count(Some(method), status.code);
            refuse_encoding(respond, &status);
            return None;
        }
    };
    let wanted = head.headers.get("grpc-timeout").and_then(timeout::parse);
    let deadline = wanted.map(|timeout| state.rt.now() + timeout);
    Some(Asked { method, shape, body, encodings, deadline })
}

fn bound_metadata(headers: &HeaderMap) -> Result<(), Status> {
    const ENTRY_BYTES: usize = 32;
    if headers.len() > METADATA_ENTRIES_MAX {
        let entries = headers.len();
        let sentence =
            format!("metadata of {entries} entries is over the bound of {METADATA_ENTRIES_MAX}; send fewer");
        return Err(Status::new(Code::ResourceExhausted, sentence));
    }
    let bytes: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ENTRY_BYTES).sum();
    if bytes <= METADATA_BYTES_MAX {
        return Ok(());
    }
    let sentence =
        format!("metadata of {bytes} bytes is over the bound of {METADATA_BYTES_MAX}; send less of it");
    Err(Status::new(Code::ResourceExhausted, sentence))
}

/// Requests that are not gRPC at all get an answer of HTTP.
fn refuse_http(method: &Method, headers: &HeaderMap) -> Option<Response<()>> {
    let is_grpc = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.is_empty() || matches!(rest[0], b'+' | b';'));
    let status = match (method == Method::POST, is_grpc) {
        (true, true) => return None,
        (false, _) => StatusCode::METHOD_NOT_ALLOWED,
        (true, false) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    Some(response)
}

async fn unary<S: Service>(
    state: &State<S>,
    (method, caller): (S::Method, Caller),
    (mut body, encodings): (RecvStream, Encodings),
    deadline: Option<Mono>,
    mut respond: SendResponse<Bytes>,
) -> Code {
    let memory = &state.options.memory;
    let mut intake = Intake::new(&memory.input);
    let holding = Holding::new(&state.holders);
    let read_by = deadline.unwrap_or(state.rt.now() + BODY_TIME_MAX);
    let message_bytes_max =
        state.service.message_bytes_max(method).unwrap_or(state.options.message_bytes_max);
    let asked = within(
        &state.rt,
        Some(read_by),
        |cx| holding.poll_ended(cx).map(|()| too_slow()),
        only_message(&mut body, Messages::new(message_bytes_max, encodings.requests), &mut intake, &holding),
    )
    .await;
    let answer = match asked {
        Ok(message) => {
            let message = state.service.called(method, message, caller.from());
            let gone = |cx: &mut Context<'_>| respond.poll_reset(cx).map(|_| caller_gone());
            within(&state.rt, deadline, gone, state.service.unary(method, message, deadline)).await
        }
        Err(status) => Err(status),
    };
    match answer {
        Ok(message) if encodings.answers => {
            reply(&mut respond, gzip::deflate(&state.rt, message).await, memory, &holding).await
        }
        Ok(message) => reply(&mut respond, message, memory, &holding).await,
        Err(status) => {
            refuse(&mut respond, &status);
            status.code
        }
    }
}

fn caller_gone() -> Status {
    Status::new(Code::Cancelled, "the caller has gone")
}

fn too_slow() -> Status {
    Status::new(
        Code::ResourceExhausted,
        "the call is too slow with memory that others, or the end of the node, wait for; try again",
    )
}

/// Runs `work` until the deadline, or until the caller is `gone` or given up. Work that is done at once costs no timer.
async fn within<T>(
    rt: &Rt,
    deadline: Option<Mono>,
    mut gone: impl FnMut(&mut Context<'_>) -> Poll<Status>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let mut work = pin!(work);
    let mut progress = |cx: &mut Context<'_>| {
        // Asked first: work for a caller that has left already never begins.
        if let Poll::Ready(status) = gone(cx) {
            return Poll::Ready(Err(status));
        }
        work.as_mut().poll(cx)
    };
    let at_once = poll_fn(|cx| Poll::Ready(progress(cx))).await;
    if let Poll::Ready(done) = at_once {
        return done;
    }
    let Some(deadline) = deadline else { return poll_fn(progress).await };
    let mut alarm = pin!(rt.sleep(deadline.since(rt.now())));
    poll_fn(|cx| {
        if let Poll::Ready(done) = progress(cx) {
            return Poll::Ready(done);
        }
        alarm.as_mut().poll(cx).map(|()| Err(Status::new(Code::DeadlineExceeded, "the deadline has passed")))
    })
    .await
}

/// The one message of a unary request.
async fn only_message(
    body: &mut RecvStream,
    mut messages: Messages,
    intake: &mut Intake,
    holding: &Holding,
) -> Result<Bytes, Status> {
    let mut message = None;
    loop {
        let piece = poll_fn(|cx| {
            let piece = body.poll_data(cx);
            if piece.is_pending() {
                holding.awaits_more(cx, messages.waiting());
            }
            piece
        });
        let Some(piece) = piece.await else { break };
        let bytes = take_piece(piece, &mut messages, intake)?;
        holding.moved(bytes);
        holding.goes_on();
        while let Some(next) = poll_fn(|cx| messages.poll_take(cx, intake)).await? {
            if message.replace(next).is_some() {
                return Err(Status::new(Code::Internal, "a unary call carries one message, not more"));
            }
        }
        if message.is_none() {
            poll_fn(|cx| intake.poll_room(cx)).await;
        }
        let_send_on(body, bytes)?;
    }
    match message {
        Some(message) if messages.waiting() == 0 => {
            intake.complete();
            Ok(message)
        }
        _ => Err(Status::new(Code::Internal, "the request ended before its message was complete")),
    }
}

/// Keeps a piece; how many bytes it has, which the caller may not send again yet.
fn take_piece(
    piece: Result<Bytes, h2::Error>,
    messages: &mut Messages,
    intake: &mut Intake,
) -> Result<usize, Status> {
    let piece = piece.map_err(|error| Status::new(Code::Cancelled, error.to_string()))?;
    let bytes = piece.len();
    intake.keep(intake.bytes() + bytes);
    messages.push(piece);
    Ok(bytes)
}

/// Lets the caller send as many bytes again, because there is room for what they will be.
fn let_send_on(body: &mut RecvStream, bytes: usize) -> Result<(), Status> {
    let released = body.flow_control().release_capacity(bytes);
    released.map_err(|error| Status::new(Code::Internal, error.to_string()))
}

/// Answers with a message. Where the caller has gone meanwhile, the answer is simply lost.
async fn reply(
    respond: &mut SendResponse<Bytes>,
    message: Bytes,
    memory: &Memory,
    holding: &Holding,
) -> Code {
    let mut head = grpc_head();
    if message.first() == Some(&1) {
        head.headers_mut().insert(gzip::ENCODING, gzip::GZIP);
    }
    let Ok(mut stream) = respond.send_response(head, false) else { return Code::Cancelled };
    let sent = if message.len() <= WHOLE_ANSWER_BYTES_MAX {
        stream.send_data(message, false)
    } else {
        let paced = RefCell::new(stream);
        let sent = send_paced(&paced, charged(&memory.output, message), Some(holding)).await;
        stream = paced.into_inner();
        sent
    };
    match sent.and_then(|()| stream.send_trailers(trailers(&Ok(())))) {
        Ok(()) => Code::Ok,
        Err(_) => Code::Cancelled,
    }
}

/// A message that is charged until its last piece has left.
fn charged(output: &Pool, message: Bytes) -> Bytes {
    output.charge(message.len()).wrap(message)
}

/// Answers with a status and nothing else, in one frame.
fn refuse(respond: &mut SendResponse<Bytes>, status: &Status) {
    let mut response = grpc_head();
    put_status(response.headers_mut(), status);
    end_with(respond, response);
}

/// As [`refuse`], and says what may be sent instead.
fn refuse_encoding(respond: &mut SendResponse<Bytes>, status: &Status) {
    let mut response = grpc_head();
    put_status(response.headers_mut(), status);
    response.headers_mut().insert(gzip::ACCEPTED, gzip::SERVED);
    end_with(respond, response);
}

/// Answers with a head alone.
fn end_with(respond: &mut SendResponse<Bytes>, head: Response<()>) {
    if let Err(error) = respond.send_response(head, true) {
        // The caller has reset the call, or its connection has ended, so a refusal has no reader.
        tracing::debug!(%error, "a refusal could not be sent");
    }
}

fn grpc_head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

fn trailers(outcome: &Result<(), Status>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    match outcome {
        Ok(()) => drop(trailers.insert("grpc-status", Code::Ok.header())),
        Err(status) => put_status(&mut trailers, status),
    }
    trailers
}

fn put_status(headers: &mut HeaderMap, status: &Status) {
    headers.insert("grpc-status", status.code.header());
    headers.insert("grpc-message", status.message_header());
}

/// Sends only what the caller's window has room for, and waits for more room.
async fn send_paced(
    stream: &RefCell<SendStream<Bytes>>,
    mut bytes: Bytes,
    holding: Option<&Holding>,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.borrow_mut().reserve_capacity(bytes.len());
        while stream.borrow().capacity() == 0 {
            let capacity = poll_fn(|cx| {
                let capacity = stream.borrow_mut().poll_capacity(cx);
                let Some(holding) = holding.filter(|_| capacity.is_pending()) else { return capacity };
                holding.awaits_taking(cx, bytes.len());
                // To h2 it is as if the caller had gone.
                holding.poll_ended(cx).map(|()| None)
            });
            match capacity.await {
                Some(room) => drop(room?),
                None => return Err(h2::Reason::CANCEL.into()),
            }
        }
        let mut stream = stream.borrow_mut();
        let room = stream.capacity().min(bytes.len());
        stream.send_data(bytes.split_to(room), false)?;
        if let Some(holding) = holding {
            holding.moved(room);
            holding.goes_on();
        }
    }
    Ok(())
}

async fn bidi<S: Service>(
    state: &State<S>,
    method: S::Method,
    (body, encodings): (RecvStream, Encodings),
    deadline: Option<Mono>,
    mut respond: SendResponse<Bytes>,
) -> Code {
    let mut head = grpc_head();
    if encodings.answers {
        // Each message says for itself whether it is compressed.
        head.headers_mut().insert(gzip::ENCODING, gzip::GZIP);
    }
    let Ok(stream) = respond.send_response(head, false) else { return Code::Cancelled };
    let stream = Rc::new(RefCell::new(stream));
    let message_bytes_max =
        state.service.message_bytes_max(method).unwrap_or(state.options.message_bytes_max);
    // One request at a time may exceed what all may hold, but not by much.
    let share = state.options.memory.request_bytes_max().max(2 * state.options.message_bytes_max);
    let message_bytes_max = message_bytes_max.min(share);
    let mut inbox = Inbox {
        body,
        messages: Messages::new(message_bytes_max, encodings.requests),
        intake: Intake::new(&state.options.memory.input),
        unreleased: 0,
        drain: Some(state.drain.listen()),
        holding: Some(Holding::new(&state.holders)),
    };
    let output = state.options.memory.output.clone();
    let compresses = encodings.answers.then(|| state.rt.clone());
    let holding = Some(Holding::new(&state.holders));
    let mut outbox = CallOutbox { stream: stream.clone(), output, compresses, holding };
    let gone = |cx: &mut Context<'_>| stream.borrow_mut().poll_reset(cx).map(|_| caller_gone());
    let outcome =
        within(&state.rt, deadline, gone, state.service.bidi(method, &mut inbox, &mut outbox)).await;
    match stream.borrow_mut().send_trailers(trailers(&outcome)) {
        Ok(()) => outcome.map_or_else(|status| status.code, |()| Code::Ok),
        Err(_) => Code::Cancelled,
    }
}

/// A message of a stream, with the memory that is charged for it while it is being served.
#[derive(Debug)]
pub struct Message {
    /// The message.
    pub bytes: Bytes,
    /// Keep it as long as the message or parts of it are kept.
    pub charge: Charge,
}

/// The messages that a caller sends.
#[derive(Debug)]
pub struct Inbox {
    body: RecvStream,
    messages: Messages,
    intake: Intake,
    /// Bytes that are kept, and that the caller may send again once there is room.
    unreleased: usize,
    /// Absent on the client's side, which ends when the server does.
    drain: Option<Listening>,
    /// Absent on the client's side, too.
    holding: Option<Holding>,
}

impl Inbox {
    pub(super) fn of_client(body: RecvStream, messages: Messages, memory: &Memory) -> Self {
        let intake = Intake::new(&memory.input);
        Self { body, messages, intake, unreleased: 0, drain: None, holding: None }
    }

    /// The next message; `None` when the caller has ended its side or the server drains.
    pub async fn next(&mut self) -> Result<Option<Message>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Inbox::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, Status>> {
        if self.holding.as_ref().is_some_and(|holding| holding.poll_ended(cx).is_ready()) {
            return Poll::Ready(Err(too_slow()));
        }
        loop {
            if let Some(holding) = &self.holding {
                holding.goes_on();
            }
            if let Some(bytes) = ready!(self.messages.poll_take(cx, &mut self.intake))? {
                let charge = self.intake.hand_on(bytes.len() + PREFIX_BYTES);
                return Poll::Ready(Ok(Some(Message { bytes, charge })));
            }
            if self.drain.as_ref().is_some_and(|drain| drain.poll(cx).is_ready()) {
                return Poll::Ready(Ok(None));
            }
            if self.unreleased > 0 {
                if self.intake.poll_room(cx).is_pending() {
                    return Poll::Pending;
                }
                let_send_on(&mut self.body, mem::take(&mut self.unreleased))?;
            }
            match self.body.poll_data(cx) {
                Poll::Ready(Some(piece)) => {
                    self.unreleased = take_piece(piece, &mut self.messages, &mut self.intake)?;
                    if let Some(holding) = &self.holding {
                        holding.moved(self.unreleased);
                    }
                }
                Poll::Ready(None) if self.messages.waiting() == 0 => return Poll::Ready(Ok(None)),
                Poll::Ready(None) => {
                    let message = "the stream ended within a message";
                    return Poll::Ready(Err(Status::new(Code::Internal, message)));
                }
                Poll::Pending => {
                    let waiting = self.messages.waiting();
                    if let Some(holding) = self.holding.as_ref().filter(|_| waiting > 0) {
                        holding.awaits_more(cx, waiting);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Nothing is read for now, so the time is not the caller's.
    pub(crate) fn rests(&self) {
        if let Some(holding) = &self.holding {
            holding.goes_on();
        }
    }

    /// Ready once the server drains, and from then on.
    pub(crate) fn poll_drains(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.drain.as_ref().map_or(Poll::Pending, |drain| drain.poll(cx))
    }

    pub(super) async fn trailers(&mut self) -> Result<Option<HeaderMap>, h2::Error> {
        poll_fn(|cx| self.body.poll_trailers(cx)).await
    }
}

/// The messages that go to a caller.
#[derive(Debug)]
pub struct CallOutbox {
    /// Shared with whoever watches whether the caller is still there; borrowed between awaits only.
    stream: Rc<RefCell<SendStream<Bytes>>>,
    output: Pool,
    /// Set where the caller accepts compressed messages.
    compresses: Option<Rt>,
    /// Absent on the client's side.
    holding: Option<Holding>,
}

impl CallOutbox {
    pub(super) fn of_client(stream: SendStream<Bytes>, memory: &Memory) -> Self {
        let stream = Rc::new(RefCell::new(stream));
        Self { stream, output: memory.output.clone(), compresses: None, holding: None }
    }

    /// Sends a framed message once the caller has room for it.
    ///
    /// # Errors
    /// The caller has gone.
    pub async fn send(&mut self, framed: Bytes) -> Result<(), Status> {
        let framed = match &self.compresses {
            Some(rt) => gzip::deflate(rt, framed).await,
            None => framed,
        };
        let framed = charged(&self.output, framed);
        let sent = send_paced(&self.stream, framed, self.holding.as_ref()).await;
        sent.map_err(|error| Status::new(Code::Cancelled, error.to_string()))
    }

    /// Says that nothing more will be sent. Servers end with trailers instead.
    pub fn finish(&mut self) -> Result<(), Status> {
        let ended = self.stream.borrow_mut().send_data(Bytes::new(), true);
        ended.map_err(|error| Status::new(Code::Cancelled, error.to_string()))
    }
}
