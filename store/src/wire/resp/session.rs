//! One connection: reads, starts, answers, in one task.
//!
//! A turn reads what has arrived, starts every complete command at once, gathers the answers that are there and sends them
//! in one write. Answers leave in the order of their commands ([`Queue`]).
//!
//! Bounds: a session takes in no command while too many are under way ([`COMMANDS_MAX`], [`HELD_BYTES_MAX`]) or too much of
//! its replies is unsent ([`UNSENT_BYTES_MAX`]). Then it does not read either, so a client that does not listen is soon
//! unable to speak. An idle session holds no buffers: it reads into its core's buffer, keeps only what is not a complete
//! command yet, and borrows a reply buffer while it has something to say.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use engine::rt::{Mono, Stream};

use super::client::Client;
use super::command::{Command, Kind};
use super::control::{self, Then};
use super::data::{self, REPLY_BYTES_MAX, Shape, Work};
use super::frame::{Limits, Malformed, Parsed, Parser};
use super::moving::{Homing, Moved};
use super::queue::{Queue, Ticket};
use super::reply::Writer;
use super::request::{Error, Request};
use super::server::{Server, Stop};
use super::walk::{self, Walk};
use crate::request::KEY_BYTES_MAX;

/// Most commands under way.
pub const COMMANDS_MAX: usize = 1024;
/// Most bytes of requests under way.
pub const HELD_BYTES_MAX: usize = 16 << 20;
/// Most bytes of replies that are not sent yet, the last reply excepted.
pub const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Most bytes of replies that are kept although they are sent, unless more than that is unsent.
const SENT_BYTES_MAX: usize = 256 << 10;
/// Frames from this size on are kept as they are and not copied, bytes.
const OWN_FRAME_BYTES: usize = 16 << 10;
/// Keys of one `DEL` that are deleted at once; more are deleted step by step.
const DELETES_AT_ONCE: usize = 128;
/// The first replies are taken to be this big, until they have shown what they are, bytes.
const REPLY_BYTES_GUESS: usize = 2 << 20;
/// Turns without waiting before other tasks, timers and IO get theirs.
const TURNS_AT_ONCE: u32 = 8;
/// What is read and thrown away after a fatal error, so that the client gets to read the error, bytes.
const LINGER_BYTES_MAX: usize = 128 << 20;

/// A connection.
#[derive(Debug)]
pub struct Session {
    server: Rc<Server>,
    client: Rc<Client>,
    stream: Stream,
    /// Bytes of commands that are not complete, or not started because of a bound.
    input: BytesMut,
    parser: Parser,
    queue: Queue,
    /// Replies; the first `sent` bytes are sent.
    out: Vec<u8>,
    sent: usize,
    /// Reads answered in place since latencies were last told.
    in_place: u64,
    /// The largest of the latest replies, bytes.
    large_reply: usize,
    hold: Hold,
    phase: Phase,
    homing: Homing,
    /// The core that the session moves to as soon as everything is answered.
    goal: Option<u16>,
}

/// How a session's time on this core ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With the connection.
    Over,
    /// It goes on elsewhere.
    Moved,
}

/// Whether there may be a complete command in the input that is not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// No.
    Nothing,
    /// It waits for room.
    Room,
    /// It waits until everything before it is answered.
    Quiet,
}

/// How far the connection's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Commands are taken in.
    Open,
    /// No more commands; what is under way is answered.
    Ending,
    /// As `Ending`, and then the client, which is still writing, is heard out.
    EndingEarly,
    /// Everything is sent; so many bytes more are read and thrown away.
    Lingering(usize),
}

/// What came of starting a command.
enum Started {
    Yes,
    /// Try again when the queue is empty.
    WhenQuiet,
    /// It was the last one.
    Last,
}

impl Session {
    /// A session at its beginning.
    pub fn new(server: Rc<Server>, stream: Stream, client: Rc<Client>) -> Self {
        Self {
            server,
            client,
            stream,
            input: BytesMut::new(),
            parser: Parser::default(),
            queue: Queue::default(),
            out: Vec::new(),
            sent: 0,
            in_place: 0,
            large_reply: REPLY_BYTES_GUESS,
            hold: Hold::Nothing,
            phase: Phase::Open,
            homing: Homing::default(),
            goal: None,
        }
    }

    /// The session of a connection that comes from another core, with what its client has sent already.
    pub(crate) fn resume(
        server: Rc<Server>,
        stream: Stream,
        client: Rc<Client>,
        input: Vec<u8>,
        homing: Homing,
    ) -> Self {
        let hold = if input.is_empty() { Hold::Nothing } else { Hold::Room };
        let input = BytesMut::from(&input[..]);
        Self { input, hold, homing, ..Self::new(server, stream, client) }
    }

    /// Serves the connection until it ends. Why it ends interests nobody: the client knows, or is gone.
    ///
    /// Boxed, because a future holds what it is given twice, and idle connections are many.
    pub async fn run(mut self: Box<Self>) -> Ended {
        while let Ok(true) = poll_fn(|cx| self.poll_turns(cx)).await {
            match self.departs_to() {
                None => self.server.rt.yield_to_reactor().await,
                Some(core) => match self.depart(core) {
                    Ok(ended) => return ended,
                    Err(stayed) => self = stayed,
                },
            }
        }
        self.server.return_buffer(mem::take(&mut self.out));
        Ended::Over
    }

    /// Goes to another core; comes back if that core does not take it.
    fn depart(self: Box<Self>, core: usize) -> Result<Ended, Box<Self>> {
        let Self { server, client, stream, input, homing, .. } = *self;
        let stay = |stream, input: &[u8], homing| {
            let stayed = Self::resume(server.clone(), stream, client.clone(), input.to_vec(), homing);
            Err(Box::new(stayed))
        };
        let stream = match stream.detach() {
            Ok(stream) => stream,
            Err(stream) => return stay(stream, &input, Homing::settled()),
        };
        let moves = homing.next_moves();
        let moved = Moved { stream, client: client.pack(), input: input.to_vec(), moves };
        let Err(refused) = server.config.doors.send(core, moved) else { return Ok(Ended::Moved) };
        match server.rt.attach(refused.stream) {
            Ok(stream) => stay(stream, &refused.input, homing),
            // Without a descriptor to go on with the connection is over.
            Err(_) => Ok(Ended::Over),
        }
    }

    /// Where the session goes now: it wants to move, and everything is answered and sent.
    fn departs_to(&self) -> Option<usize> {
        let quiet = self.queue.is_empty() && self.sent == self.out.len() && self.phase == Phase::Open;
        self.goal.filter(|_| quiet).map(usize::from)
    }

    /// Takes turns until there is nothing to do. `true`: there is more to do, after a pause. `false`: the end.
    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.show_waker(cx);
        for _ in 0..TURNS_AT_ONCE {
            match self.server.stop() {
                Stop::No => {}
                Stop::Drain if self.phase == Phase::Open => {
                    self.goal = None;
                    self.phase = Phase::Ending;
                }
                Stop::Drain => {}
                Stop::Now => return Poll::Ready(Ok(false)),
            }
            let took = self.take_in(cx)?;
            let answered = self.gather(cx);
            let wrote = self.send(cx)?;
            if self.is_over(cx)? {
                return Poll::Ready(Ok(false));
            }
            if self.departs_to().is_some() {
                return Poll::Ready(Ok(true));
            }
            if !took && !answered && !wrote {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(true))
    }

    fn show_waker(&self, cx: &Context<'_>) {
        let mut waker = self.client.waker.borrow_mut();
        if waker.is_none() {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Starts commands that were held back, or reads and starts what has come. Whether anything moved.
    fn take_in(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        match self.phase {
            Phase::Open if self.goal.is_some() => return Ok(false),
            Phase::Open => {}
            Phase::Lingering(left) => return self.discard(cx, left),
            // What was read before the end is answered.
            Phase::Ending if self.hold != Hold::Nothing => {}
            Phase::Ending | Phase::EndingEarly => return Ok(false),
        }
        match self.hold {
            Hold::Nothing if !self.has_room() => Ok(false),
            Hold::Nothing => self.read(cx),
            Hold::Room if !self.has_room() => Ok(false),
            Hold::Quiet if !self.queue.is_empty() => Ok(false),
            Hold::Room | Hold::Quiet => {
                self.hold = Hold::Nothing;
                let input = mem::take(&mut self.input);
                self.start_kept(input, self.server.rt.now());
                Ok(true)
            }
        }
    }

    fn has_room(&self) -> bool {
        let commands_max = (REPLY_BYTES_MAX / self.large_reply.max(1)).clamp(1, COMMANDS_MAX);
        self.goal.is_none()
            && self.queue.len() < commands_max
            && self.queue.held_bytes() < HELD_BYTES_MAX
            && self.out.len() - self.sent < UNSENT_BYTES_MAX
    }

    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let server = self.server.clone();
        let buffer = &mut *server.read_buffer.borrow_mut();
        let bytes = match self.stream.poll_read(cx, buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(bytes) => bytes?,
        };
        if bytes == 0 {
            // A half-closed client still reads: it gets the answers to all that it has sent.
            self.phase = Phase::Ending;
            return Ok(true);
        }
        server.counters.reads.add_one();
        server.counters.bytes_in.add(bytes as u64);
        let now = server.rt.now();
        if self.input.is_empty() {
            let done = self.start_all(&buffer[..bytes], now);
            self.input.extend_from_slice(&buffer[done..bytes]);
        } else {
            let mut input = mem::take(&mut self.input);
            input.extend_from_slice(&buffer[..bytes]);
            self.start_kept(input, now);
        }
        Ok(true)
    }

    /// Starts what is complete in `input` and keeps the rest. A big frame at the beginning keeps its memory.
    fn start_kept(&mut self, mut input: BytesMut, now: Mono) {
        while let Some(bytes) = self.big_frame(&input) {
            let frame = input.split_to(bytes).freeze();
            match self.start_own(&frame, now) {
                Started::Yes => self.parser.restart(),
                Started::Last => return,
                Started::WhenQuiet => {
                    self.hold_back(Hold::Quiet);
                    let mut whole = BytesMut::from(frame);
                    whole.unsplit(input);
                    self.input = whole;
                    return;
                }
            }
        }
        let done = self.start_all(&input, now);
        if done == input.len() {
            return;
        }
        bytes::Buf::advance(&mut input, done);
        self.input = input;
    }

    /// The length of the frame at the beginning of `input` if it is complete and big, and may be started.
    fn big_frame(&mut self, input: &[u8]) -> Option<usize> {
        if input.len() < OWN_FRAME_BYTES || !self.has_room() {
            return None;
        }
        match self.parser.parse(input, self.limits()) {
            Ok(Parsed::Command { bytes }) if bytes >= OWN_FRAME_BYTES => Some(bytes),
            Ok(Parsed::Incomplete) => None,
            // Small frames and mistakes are met again at once.
            _ => {
                self.parser.restart();
                None
            }
        }
    }

    fn start_own(&mut self, frame: &Bytes, now: Mono) -> Started {
        let parser = mem::take(&mut self.parser);
        let started = self.start(&Request::in_own_memory(&parser, frame), frame.len(), now);
        self.parser = parser;
        started
    }

    /// Starts the complete commands of `input`; how many bytes they were.
    fn start_all(&mut self, input: &[u8], now: Mono) -> usize {
        let mut parser = mem::take(&mut self.parser);
        let done = self.start_each(&mut parser, input, now);
        self.parser = parser;
        if self.in_place > 0 {
            self.tell_in_place(now);
        }
        done
    }

    fn start_each(&mut self, parser: &mut Parser, input: &[u8], now: Mono) -> usize {
        let mut done = 0;
        while done < input.len() {
            if !self.has_room() {
                self.hold = Hold::Room;
                return done;
            }
            let rest = &input[done..];
            let bytes = match parser.parse(rest, self.limits()) {
                Ok(Parsed::Incomplete) => return done,
                Ok(Parsed::Nothing { bytes }) => bytes,
                Ok(Parsed::Command { bytes }) => match self.start(&Request::new(parser, rest), bytes, now) {
                    Started::Yes => bytes,
                    Started::Last => return input.len(),
                    Started::WhenQuiet => {
                        parser.restart();
                        self.hold = Hold::Quiet;
                        return done;
                    }
                },
                Err(malformed) => {
                    self.complain(&malformed, now);
                    return input.len();
                }
            };
            parser.restart();
            done += bytes;
        }
        done
    }

    fn hold_back(&mut self, hold: Hold) {
        self.parser.restart();
        self.hold = hold;
    }

    fn limits(&self) -> &'static Limits {
        if self.client.authenticated.get() { &Limits::OPEN } else { &Limits::UNAUTHENTICATED }
    }

    fn start(&mut self, request: &Request<'_>, bytes: usize, began: Mono) -> Started {
        if self.queue.is_walking() {
            return Started::WhenQuiet;
        }
        let Some(command) = Command::find(request.arg(0)) else {
            return self.reject(request, began);
        };
        if !command.spec().takes(request.count()) {
            self.server.counters.rejected.add_one();
            self.say_error(no_command(began), &Error::arity(command));
            return Started::Yes;
        }
        let ticket = Ticket { command: Some(command), began, bytes };
        if !self.client.authenticated.get() && !is_open_to_all(command) {
            self.say_error(ticket, &Error::NOT_AUTHENTICATED);
            return Started::Yes;
        }
        if needs_quiet(command, request) && !self.queue.is_empty() {
            return Started::WhenQuiet;
        }
        self.client.last.set(Some(command));
        match command.spec().kind {
            Kind::Read | Kind::Write => self.start_data(command, ticket, request),
            Kind::Walk => self.start_walk(command, ticket, request),
            Kind::Control => return self.run_control(command, ticket, request),
        }
        Started::Yes
    }

    fn start_data(&mut self, command: Command, ticket: Ticket, request: &Request<'_>) {
        if command == Command::Persist {
            return self.say(ticket, |reply| reply.integer(0));
        }
        if command == Command::Get && self.queue.is_empty() && self.answer_in_place(request.arg(1)) {
            return;
        }
        match data::plan(command, request) {
            Ok((Work::Each(ops), _)) if ops.len() > DELETES_AT_ONCE => self.walk(ticket, Walk::Delete(ops)),
            Ok((work, shape)) => self.submit(ticket, work, shape),
            Err(error) => self.say_error(ticket, &error),
        }
    }

    fn submit(&mut self, ticket: Ticket, work: Work, shape: Shape) {
        let gateway = &self.server.gateway;
        // What was sent for commands that had been put off says nothing about this one.
        gateway.take_forwarded();
        let started = self.queue.submit(gateway, ticket, work, shape);
        if started
            && let Some(core) = self.homing.saw(gateway.take_forwarded())
            && self.server.may_move_to(core)
        {
            self.goal = u16::try_from(core).ok();
        }
    }

    /// Answers a `GET` that nothing is before and that memory can answer, with nothing put aside for later.
    fn answer_in_place(&mut self, key: &[u8]) -> bool {
        if key.len() > KEY_BYTES_MAX {
            return false;
        }
        let Some(outcome) = self.server.gateway.get_now(key) else { return false };
        self.borrow_buffer();
        let before = self.out.len();
        self.homing.saw(None);
        Shape::Value.write(outcome, &mut Writer::new(&mut self.out, self.client.protocol.get()));
        self.large_reply = self.large_reply.max(self.out.len() - before);
        self.in_place += 1;
        true
    }

    /// Counts the reads that were answered in place since `began`.
    fn tell_in_place(&mut self, began: Mono) {
        let (counters, count) = (&self.server.counters, mem::take(&mut self.in_place));
        counters.commands[Command::Get as usize].add(count);
        counters.latency[Kind::Read as usize].record_many(self.server.rt.now().since(began), count);
    }

    fn start_walk(&mut self, command: Command, ticket: Ticket, request: &Request<'_>) {
        match walk::plan(command, request, &self.server) {
            Ok(walk) => self.walk(ticket, walk),
            Err(error) => self.say_error(ticket, &error),
        }
    }

    fn walk(&mut self, ticket: Ticket, walk: Walk) {
        let walking = walk.run(self.server.clone(), self.client.protocol.get());
        self.queue.walk(ticket, Box::pin(walking));
    }

    fn run_control(&mut self, command: Command, ticket: Ticket, request: &Request<'_>) -> Started {
        let (server, client) = (self.server.clone(), self.client.clone());
        let mut then = Then::GoOn;
        self.say(ticket, |reply| then = control::run(command, request, &server, &client, reply));
        match then {
            Then::GoOn => Started::Yes,
            Then::End => {
                self.phase = Phase::Ending;
                Started::Last
            }
        }
    }

    /// Answers a command that does not exist. Browsers that were tricked into talking to this port are sent away.
    fn reject(&mut self, request: &Request<'_>, began: Mono) -> Started {
        self.server.counters.rejected.add_one();
        let name = request.arg(0);
        if name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"host:") {
            self.phase = Phase::Ending;
            return Started::Last;
        }
        let error = match self.client.authenticated.get() {
            true => Error::unknown_command(request),
            false => Error::NOT_AUTHENTICATED,
        };
        self.say_error(no_command(began), &error);
        Started::Yes
    }

    fn complain(&mut self, malformed: &Malformed, began: Mono) {
        self.server.counters.malformed.add_one();
        let error = Error::new(format!("ERR Protocol error: {malformed}"));
        self.say_error(no_command(began), &error);
        self.phase = Phase::EndingEarly;
    }

    fn say_error(&mut self, ticket: Ticket, error: &Error) {
        self.say(ticket, |reply| reply.error(error.text()));
    }

    /// Answers at once: straight into the replies if nothing is before it.
    fn say(&mut self, ticket: Ticket, write: impl FnOnce(&mut Writer<'_>)) {
        let protocol = self.client.protocol.get();
        if self.queue.is_empty() {
            self.borrow_buffer();
            write(&mut Writer::new(&mut self.out, protocol));
            self.count(ticket.command);
        } else {
            let mut said = Vec::new();
            write(&mut Writer::new(&mut said, protocol));
            self.queue.said(ticket, said);
        }
    }

    fn count(&self, command: Option<Command>) {
        if let Some(command) = command {
            self.server.counters.commands[command as usize].add_one();
        }
    }

    fn borrow_buffer(&mut self) {
        if self.out.capacity() == 0 {
            self.out = self.server.lend_buffer();
        }
    }

    /// Collects the answers that are there. Whether there were any.
    fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        if self.queue.is_empty() || self.out.len() - self.sent >= UNSENT_BYTES_MAX {
            return false;
        }
        self.borrow_buffer();
        let server = self.server.clone();
        let mut reply = Writer::new(&mut self.out, self.client.protocol.get());
        let (mut now, mut any) = (None, false);
        while reply.written() - self.sent < UNSENT_BYTES_MAX {
            let before = reply.written();
            let Poll::Ready(Some(answered)) = self.queue.poll_answer(cx, &server.gateway, &mut reply) else {
                break;
            };
            let now = *now.get_or_insert_with(|| server.rt.now());
            if let Some(command) = answered.command {
                server.counters.commands[command as usize].add_one();
                server.counters.latency[command.spec().kind as usize].record(now.since(answered.began));
            }
            self.large_reply = (self.large_reply - self.large_reply / 8).max(reply.written() - before);
            any = true;
        }
        any
    }

    /// Sends replies. Whether any bytes went.
    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.sent == self.out.len() {
            return Ok(false);
        }
        let Poll::Ready(written) = self.stream.poll_write(cx, &self.out[self.sent..]) else {
            return Ok(false);
        };
        let written = written?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.server.counters.writes.add_one();
        self.server.counters.bytes_out.add(written as u64);
        self.sent += written;
        if self.sent == self.out.len() {
            self.sent = 0;
            self.server.return_buffer(mem::take(&mut self.out));
        } else if self.sent >= SENT_BYTES_MAX && 2 * self.sent >= self.out.len() {
            // A client that reads a little slower than it asks never lets the buffer run empty. What is unsent is moved, so
            // it must not be more than what has been sent since the last time.
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        Ok(true)
    }

    /// Whether everything is said and sent, and the client heard out where it must be.
    fn is_over(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if !self.queue.is_empty() || self.sent != self.out.len() {
            return Ok(false);
        }
        match self.phase {
            Phase::Open => Ok(false),
            Phase::Ending => Ok(self.hold == Hold::Nothing),
            Phase::EndingEarly => {
                // Shutting a socket down waits for nothing.
                if let Poll::Ready(shut) = self.stream.poll_shutdown(cx) {
                    shut?;
                }
                self.phase = Phase::Lingering(LINGER_BYTES_MAX);
                cx.waker().wake_by_ref();
                Ok(self.server.stop() != Stop::No)
            }
            Phase::Lingering(left) => Ok(left == 0 || self.server.stop() != Stop::No),
        }
    }

    fn discard(&mut self, cx: &mut Context<'_>, left: usize) -> io::Result<bool> {
        let server = self.server.clone();
        let buffer = &mut *server.read_buffer.borrow_mut();
        let Poll::Ready(bytes) = self.stream.poll_read(cx, buffer) else { return Ok(false) };
        let bytes = bytes?;
        self.phase = Phase::Lingering(if bytes == 0 { 0 } else { left.saturating_sub(bytes) });
        Ok(true)
    }
}

fn no_command(began: Mono) -> Ticket {
    Ticket { command: None, began, bytes: 0 }
}

fn is_open_to_all(command: Command) -> bool {
    matches!(command, Command::Auth | Command::Hello | Command::Quit | Command::Reset)
}

/// Whether a command begins only when everything before it is answered: because it walks, or because it changes the
/// protocol in which the answers before it are written.
fn needs_quiet(command: Command, request: &Request<'_>) -> bool {
    match command {
        Command::Hello | Command::Reset => true,
        Command::Del | Command::Unlink => request.count() - 1 > DELETES_AT_ONCE,
        command => command.spec().kind == Kind::Walk,
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
