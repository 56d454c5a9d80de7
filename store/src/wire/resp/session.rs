//! One connection: reads, starts, answers, in one task.
//!
//! A turn reads what has arrived ([`intake`]), starts every complete command at once ([`starting`]), gathers the answers that
//! are there and sends them in one write. Answers leave in the order of their commands ([`Queue`]). A connection may go on on
//! another core ([`departure`]).
//!
//! Bounds: what a session keeps is charged to its core ([`crate::memory`]), and while the core is short of memory it is not read
//! from. It takes in no command while too many are in flight ([`Config::pipeline_max`](super::server::Config::pipeline_max), [`HELD_BYTES_MAX`]) or too much of
//! its replies is unsent ([`UNSENT_BYTES_MAX`]). Then it does not read either, so a client that does not read its replies can soon not send either. An idle session holds no buffers: it reads into its core's buffer, keeps only what is not a complete
//! command yet, and borrows a reply buffer while it has something to say. What a client begins it has to end in time
//! ([`overdue`]).

mod departure;
mod intake;
mod overdue;
mod replies;
mod slice;
mod starting;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use engine::rt::{Mono, Stream};

use super::client::{ConnectionState, Held};
use super::command::RespCommand;
use super::frame::Parser;
use super::migration::Affinity;
use super::queue::{Queue, Ticket};
use super::reply::Writer;
use super::request::Error;
use super::server::{Server, Stop};
use crate::memory::{INTAKE_BYTES_MIN, Intake, SMALL_BYTES};
use overdue::Overdue;
use replies::Replies;
use slice::Slice;

/// Maximum bytes of requests in flight.
pub const HELD_BYTES_MAX: usize = 16 << 20;
/// Maximum bytes of replies that are not sent yet, the last reply excepted.
pub const UNSENT_BYTES_MAX: usize = 1 << 20;
/// The same while the core is short of memory.
const UNSENT_BYTES_SHORT: usize = 64 << 10;
/// Frames from this size on are kept as they are and not copied, bytes.
const OWN_FRAME_BYTES: usize = 16 << 10;
/// Keys of one `DEL` that are deleted at once; more are deleted step by step.
const DELETES_AT_ONCE: usize = 128;
/// Turns without waiting before other tasks, timers and IO get theirs.
const TURNS_AT_ONCE: u32 = 8;
/// What is read and thrown away after a fatal error, so that the client gets to read the error, bytes.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How long that may take.
const LINGER_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a command that has begun may take to arrive, on top of what its bytes take at [`SLOWEST_BYTES_PER_S`].
const FRAME_TIME_MAX: Duration = Duration::from_secs(60);
/// Slower than any line over which a store is used.
const SLOWEST_BYTES_PER_S: u64 = 16 << 10;
/// How long a connection may take to authenticate.
const LOGIN_TIME_MAX: Duration = Duration::from_secs(60);

/// A connection.
#[derive(Debug)]
pub struct Session {
    server: Rc<Server>,
    client: Rc<ConnectionState>,
    stream: Stream,
    /// Bytes of commands that are not complete, or not started because of a bound.
    input: BytesMut,
    parser: Parser,
    queue: Queue,
    replies: Replies,
    /// Reads answered in place whose latency is not recorded yet.
    in_place: u64,
    /// What is kept of requests until they are answered, charged to the core.
    intake: Intake,
    hold: Hold,
    phase: Phase,
    affinity: Affinity,
    /// The core that the session migrates to as soon as everything is answered.
    goal: Option<u16>,
    overdue: Overdue,
    slice: Slice,
    traffic: Traffic,
    /// The most commands that were in flight at once.
    #[cfg(test)]
    most_queued: usize,
}

/// What has gone over the connection on this core, bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    read_bytes: u64,
    written_bytes: u64,
}

/// How a session's time on this core ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// With the connection.
    Over,
    /// It goes on on another core.
    Migrated,
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
    /// No more commands; what is in flight is answered.
    Ending,
    /// As `Ending`, and then the client, which is still writing, is heard out.
    EndingEarly,
    /// Everything is sent; this many bytes more are read and thrown away, until then.
    Lingering(usize, Mono),
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
    pub fn new(server: Rc<Server>, stream: Stream, client: Rc<ConnectionState>) -> Self {
        let memory = server.gateway.memory();
        let (intake, replies) = (Intake::new(&memory.input), Replies::new(memory.output.charge(0)));
        let queue = Queue::new(client.stream());
        Self {
            server,
            client,
            stream,
            input: BytesMut::new(),
            parser: Parser::default(),
            queue,
            replies,
            in_place: 0,
            intake,
            hold: Hold::Nothing,
            phase: Phase::Open,
            affinity: Affinity::default(),
            goal: None,
            overdue: Overdue::default(),
            slice: Slice::default(),
            traffic: Traffic::default(),
            #[cfg(test)]
            most_queued: 0,
        }
    }

    /// Serves the connection until it ends. The reason is not returned: the client knows it, or is gone.
    ///
    /// Boxed, because a future holds its arguments twice, and idle connections are many.
    pub async fn run(mut self: Box<Self>) -> SessionEnd {
        while let Ok(true) = poll_fn(|cx| self.poll_turns(cx)).await {
            match self.departs_to() {
                None => self.server.rt.yield_to_reactor().await,
                Some(core) => match self.depart(core) {
                    Ok(ended) => return ended,
                    Err(stayed) => self = stayed,
                },
            }
        }
        self.replies.give_back(&self.server);
        SessionEnd::Over
    }

    /// Takes turns until there is nothing to do. `true`: there is more to do, after a pause. `false`: the end.
    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.show_waker(cx);
        self.slice.begin(&self.server.rt);
        for _ in 0..TURNS_AT_ONCE {
            if self.client.evicted.get() || self.client.entry.is_killed() || self.client.is_to_give_way() {
                return Poll::Ready(Ok(false));
            }
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
            if self.client.leaving.get() && self.phase == Phase::Open {
                self.take_leave();
            }
            let written_bytes = self.replies.send(cx, &mut self.stream, &self.server)?;
            self.traffic.written_bytes += written_bytes as u64;
            let wrote = written_bytes > 0;
            self.charge();
            if self.is_over(cx)? {
                return Poll::Ready(Ok(false));
            }
            if self.departs_to().is_some() {
                return Poll::Ready(Ok(true));
            }
            if !took && !answered && !wrote {
                return self.wait(cx);
            }
            self.slice.look(&self.server.rt);
            if self.slice.is_used_up() {
                break;
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Takes no more commands in, because the client has killed its own connection; what is answered is sent.
    fn take_leave(&mut self) {
        self.phase = Phase::Ending;
        self.hold = Hold::Nothing;
        self.input = BytesMut::new();
        self.parser.restart();
    }

    fn show_waker(&self, cx: &Context<'_>) {
        let mut waker = self.client.waker.borrow_mut();
        if waker.is_none() {
            *waker = Some(cx.waker().clone());
        }
    }

    fn say_error(&mut self, ticket: Ticket, error: &Error) {
        self.say(ticket, |reply| reply.error(error.text()));
    }

    /// Answers at once: straight into the replies if nothing is before it.
    fn say(&mut self, ticket: Ticket, write: impl FnOnce(&mut Writer<'_>)) {
        let protocol = self.client.protocol();
        if self.queue.is_empty() {
            write(&mut self.replies.writer(&self.server, protocol));
            self.count(ticket.command);
        } else {
            let mut said = Vec::new();
            write(&mut Writer::new(&mut said, protocol));
            self.queue.said(ticket, said);
        }
    }

    fn count(&self, command: Option<RespCommand>) {
        if let Some(command) = command {
            self.server.counters.commands[command as usize].add_one();
        }
    }

    /// Charges what the session keeps now. What it keeps only within a turn is not seen here and costs nothing.
    fn charge(&mut self) {
        let input = if self.input.is_empty() { 0 } else { self.input.capacity() };
        self.intake.keep(input + self.queue.held_bytes());
        let unsent = self.replies.keep(self.queue.said_bytes());
        let input = if self.intake.waits() || !self.queue.is_empty() { 0 } else { self.intake.bytes() };
        // Without a reply to send the client waits for the server, whatever is held.
        let output = if self.replies.is_sent() { 0 } else { unsent };
        let output_min = if self.server.stop() == Stop::No { SMALL_BYTES } else { 0 };
        if input > INTAKE_BYTES_MIN || output > output_min {
            let Traffic { read_bytes, written_bytes } = self.traffic;
            self.client.held.set(Held { input, output, read_bytes, written_bytes });
        } else if self.client.held.get() != Held::default() {
            self.client.held.set(Held::default());
        }
    }

    /// How many bytes of replies may wait to be sent, the last reply excepted.
    fn unsent_bytes_max(&self) -> usize {
        if self.server.gateway.memory().output.is_tight() { UNSENT_BYTES_SHORT } else { UNSENT_BYTES_MAX }
    }

    /// Collects the answers that are there. Whether there were any.
    fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        let unsent_max = self.unsent_bytes_max();
        if self.queue.is_empty() || self.replies.unsent_bytes() >= unsent_max {
            return false;
        }
        let server = self.server.clone();
        let (mut now, mut any) = (None, false);
        while self.replies.unsent_bytes() < unsent_max {
            let mut reply = self.replies.writer(&server, self.client.protocol());
            let before = reply.written();
            let Poll::Ready(Some(answered)) = self.queue.poll_answer(cx, &server.gateway, &mut reply) else {
                break;
            };
            let bytes = reply.written() - before;
            let now = *now.get_or_insert_with(|| server.rt.now());
            server.counters.looked_up(answered.lookups);
            if let Some(command) = answered.command {
                server.counters.commands[command as usize].add_one();
                server.counters.latency[command.spec().kind as usize].record(now.since(answered.began));
            }
            self.replies.saw(bytes);
            any = true;
        }
        any
    }

    /// Whether everything is said and sent, and the client heard out where it must be.
    fn is_over(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if !self.queue.is_empty() || !self.replies.is_sent() {
            return Ok(false);
        }
        match self.phase {
            Phase::Open => Ok(false),
            Phase::Ending => Ok(self.hold == Hold::Nothing),
            Phase::EndingEarly => {
                let until = Mono(self.server.rt.now().0 + LINGER_TIME_MAX.as_nanos() as u64);
                // Shutting a socket down waits for nothing.
                if let Poll::Ready(shut) = self.stream.poll_shutdown(cx) {
                    shut?;
                }
                self.phase = Phase::Lingering(LINGER_BYTES_MAX, until);
                cx.waker().wake_by_ref();
                Ok(self.server.stop() != Stop::No)
            }
            Phase::Lingering(left, _) => Ok(left == 0 || self.server.stop() != Stop::No),
        }
    }

    fn discard(&mut self, cx: &mut Context<'_>, left: usize, until: Mono) -> io::Result<bool> {
        let server = self.server.clone();
        let buffer = &mut *server.read_buffer.borrow_mut();
        let Poll::Ready(bytes) = self.stream.poll_read(cx, buffer) else { return Ok(false) };
        let bytes = bytes?;
        self.phase = Phase::Lingering(if bytes == 0 { 0 } else { left.saturating_sub(bytes) }, until);
        Ok(true)
    }
}
