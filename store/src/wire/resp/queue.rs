//! The commands of one connection that are in flight, answered in the order in which they came.
//!
//! Commands are started as they arrive, so a pipeline's writes meet in one group commit and its reads do not wait for each
//! other. What has to wait for an earlier command of the connection is up to [`order`].

mod order;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use engine::rt::Mono;

use super::command::{CommandKind, RespCommand};
use super::data::{Lookups, ReplyShape, Work, refused, size};
use super::reply::Writer;
use crate::gateway::{Gateway, StreamId, Submitted};
use crate::refusal::Refusal;
use crate::request::Out;
use order::Order;

/// A queue that has been longer frees its memory when it is empty.
const IDLE_ENTRIES: usize = 16;

/// A command that takes many steps; it resolves to its reply.
pub type Walking = Pin<Box<dyn Future<Output = Vec<u8>>>>;

/// Commands in flight.
#[derive(Debug, Default)]
pub struct Queue {
    /// The connection's.
    stream: StreamId,
    entries: VecDeque<Entry>,
    /// How many commands were answered before the first entry; an entry's number is this plus its place.
    answered: u64,
    order: Order,
    held_bytes: usize,
    /// Of the replies that are known and wait for those before them.
    said_bytes: usize,
}

/// A command in flight.
struct Entry {
    command: Option<RespCommand>,
    shape: ReplyShape,
    began: Mono,
    /// The size of the request, bytes, with what its keys cost beside.
    bytes: u32,
    state: State,
}

enum State {
    Running(Submitted),
    Counting(Box<Counting>),
    PutOff(Box<Work>),
    Said(Vec<u8>),
    Walking(Walking),
}

impl State {
    /// Whether its answer is fixed already, so that nothing later can be seen in it.
    fn is_answered(&self) -> bool {
        match self {
            State::Running(submitted) => submitted.is_answered(),
            State::Said(_) => true,
            State::Counting(_) | State::PutOff(_) | State::Walking(_) => false,
        }
    }
}

/// Deletes that are counted together.
struct Counting {
    running: Vec<Submitted>,
    existed: usize,
    refusal: Option<Refusal>,
}

/// A command that has been answered.
#[derive(Debug)]
pub struct Answered {
    /// Which; `None` for a request that is no command.
    pub command: Option<RespCommand>,
    /// When it was read.
    pub began: Mono,
    /// What it looked up.
    pub lookups: Lookups,
}

/// What is known of a command besides its work.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// Which; `None` for a request that is no command.
    pub command: Option<RespCommand>,
    /// When it was read.
    pub began: Mono,
    /// The size of the request, bytes, with what its keys cost beside.
    pub bytes: usize,
}

impl Queue {
    /// The queue of a connection, whose writes keep their order.
    pub fn new(stream: StreamId) -> Self {
        Self { stream, ..Self::default() }
    }

    /// How many commands are in flight.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether everything is answered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a command of many steps is in flight, which none may overtake or join.
    pub fn is_walking(&self) -> bool {
        self.entries.back().is_some_and(|last| matches!(last.state, State::Walking(_)))
    }

    /// The sizes of the requests in flight together.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The sizes of the replies that wait for those before them.
    pub fn said_bytes(&self) -> usize {
        self.said_bytes
    }

    /// Takes in a command and starts its work unless it has to wait for an earlier command. Whether it was started.
    pub fn submit(&mut self, gateway: &Gateway, ticket: Ticket, work: Work, shape: ReplyShape) -> bool {
        let number = self.answered + self.entries.len() as u64;
        let writes = ticket.command.is_some_and(|command| command.spec().kind == CommandKind::Write);
        let Some(starts) = self.order.admit(number, &work, writes) else {
            self.push(ticket, shape, State::PutOff(Box::new(work)));
            return false;
        };
        let state = start(gateway, self.stream, work);
        if !state.is_answered() {
            self.order.runs(starts);
        }
        self.push(ticket, shape, state);
        true
    }

    /// Takes in a command whose reply is known already.
    pub fn said(&mut self, ticket: Ticket, reply: Vec<u8>) {
        self.said_bytes += reply.len();
        self.push(ticket, ReplyShape::Ok, State::Said(reply));
    }

    /// Takes in a command of many steps, which begins when everything before it is answered.
    pub fn walk(&mut self, ticket: Ticket, walking: Walking) {
        self.push(ticket, ReplyShape::Ok, State::Walking(walking));
    }

    fn push(&mut self, ticket: Ticket, shape: ReplyShape, state: State) {
        let Ticket { command, began, bytes } = ticket;
        self.held_bytes += bytes;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.entries.push_back(Entry { command, shape, began, bytes, state });
    }

    /// Says the first command's answer as soon as it is there. `Ready(None)` when there is no command.
    pub fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        gateway: &Gateway,
        reply: &mut Writer<'_>,
    ) -> Poll<Option<Answered>> {
        let Some(first) = self.entries.front_mut() else { return Poll::Ready(None) };
        let mut lookups = Lookups::default();
        match &mut first.state {
            State::Running(submitted) => {
                let outcome = ready!(Pin::new(submitted).poll(cx));
                lookups = first.shape.lookups(&outcome);
                first.shape.write(outcome, &gateway.memory().appended, reply);
            }
            State::Counting(counting) => ready!(counting.poll(cx, reply)),
            State::Said(said) => {
                reply.raw(said);
                self.said_bytes -= said.len();
            }
            State::Walking(walking) => {
                let said = ready!(walking.as_mut().poll(cx));
                reply.raw(&said);
            }
            State::PutOff(_) => {
                unreachable!("a command is started when those that it waits for are answered")
            }
        }
        let answered = Answered { command: first.command, began: first.began, lookups };
        self.held_bytes -= first.bytes as usize;
        self.entries.pop_front();
        self.answered += 1;
        self.settle(gateway);
        Poll::Ready(Some(answered))
    }

    /// Starts what waited for the command that was answered last, and forgets what only answered commands needed.
    fn settle(&mut self, gateway: &Gateway) {
        let (entries, answered, stream) = (&mut self.entries, self.answered, self.stream);
        self.order.answered(answered, |number| {
            let state = &mut entries[(number - answered) as usize].state;
            if let State::PutOff(work) = std::mem::replace(state, State::Said(Vec::new())) {
                *state = start(gateway, stream, *work);
            }
            state.is_answered()
        });
        if self.entries.is_empty() && self.entries.capacity() > IDLE_ENTRIES {
            self.entries = VecDeque::new();
            self.order = Order::default();
        }
    }
}

impl Counting {
    fn poll(&mut self, cx: &mut Context<'_>, reply: &mut Writer<'_>) -> Poll<()> {
        while let Some(last) = self.running.last_mut() {
            match ready!(Pin::new(last).poll(cx)) {
                Ok(Out::Existed(existed)) => self.existed += usize::from(existed),
                Ok(_) => {}
                Err(refusal) => self.refusal = Some(refusal),
            }
            self.running.pop();
        }
        match &self.refusal {
            None => reply.integer(size(self.existed)),
            Some(refusal) => reply.error(&refused(refusal)),
        }
        Poll::Ready(())
    }
}

fn start(gateway: &Gateway, stream: StreamId, work: Work) -> State {
    match work {
        Work::One(op) => State::Running(gateway.submit_in(stream, None, op)),
        Work::Each(ops) => {
            let running = ops.into_iter().map(|op| gateway.submit_in(stream, None, op)).collect();
            State::Counting(Box::new(Counting { running, existed: 0, refusal: None }))
        }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("command", &self.command)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;

    use super::*;
    use crate::request::Op;
    use crate::wire::resp::reply::Protocol;

    fn submit(queue: &mut Queue, gateway: &Gateway, text: &'static str) {
        let words: Vec<&'static str> = text.split(' ').collect();
        let key = |index: usize| Bytes::from_static(words[index].as_bytes());
        let (command, op, shape) = match words[0] {
            "get" => (RespCommand::Get, Op::Get { key: key(1) }, ReplyShape::Value),
            "mget" => (
                RespCommand::Mget,
                Op::BatchGet { keys: vec![key(1), key(2)], at_once: false },
                ReplyShape::Values,
            ),
            _ => (RespCommand::Set, Op::Put { key: key(1), value: key(2) }, ReplyShape::Ok),
        };
        let ticket = Ticket { command: Some(command), began: Mono(0), bytes: text.len() };
        queue.submit(gateway, ticket, Work::One(op), shape);
    }

    /// Which commands wait for others, as a word of `w`ait and `r`un.
    fn waiting(queue: &Queue) -> String {
        let mark = |entry: &Entry| if matches!(entry.state, State::PutOff(_)) { 'w' } else { 'r' };
        queue.entries.iter().map(mark).collect()
    }

    fn answer(queue: &mut Queue, gateway: &Gateway) -> String {
        let mut out = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let polled = queue.poll_answer(&mut cx, gateway, &mut Writer::new(&mut out, Protocol::Resp2));
        assert!(matches!(polled, Poll::Ready(Some(_))));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reply_that_waits_is_counted_until_its_turn() {
        let (mut queue, gateway) = (Queue::default(), Gateway::in_memory());
        submit(&mut queue, &gateway, "get a");
        let ticket = Ticket { command: Some(RespCommand::Ping), began: Mono(0), bytes: 7 };
        queue.said(ticket, b"+PONG\r\n".to_vec());
        assert_eq!((queue.said_bytes(), queue.held_bytes()), (7, 12));
        assert_eq!(answer(&mut queue, &gateway), "$-1\r\n");
        assert_eq!((queue.said_bytes(), queue.held_bytes()), (7, 7));
        assert_eq!(answer(&mut queue, &gateway), "+PONG\r\n");
        assert_eq!((queue.said_bytes(), queue.held_bytes()), (0, 0));
    }

    #[test]
    fn only_what_touches_an_unanswered_write_waits_and_nothing_overtakes_it() {
        let (mut queue, gateway) = (Queue::default(), Gateway::in_memory());
        for text in
            ["get a", "set a 1", "get b", "get a", "set a 2", "set c 3", "mget b a", "get c", "set b 4"]
        {
            submit(&mut queue, &gateway, text);
        }
        // The second read of a waits for its first write, the second write of a for that read, the rest of the reads for
        // the writes before them. The write of b must not be seen by the put-off read of b before it.
        assert_eq!(waiting(&queue), "rrrwwrwww");
        assert_eq!(answer(&mut queue, &gateway), "$-1\r\n");
        assert_eq!(waiting(&queue), "rrwwrwww");
        assert_eq!(answer(&mut queue, &gateway), "+OK\r\n");
        assert_eq!(waiting(&queue), "rrrrwww", "both had waited for the first write of a");
        let rest: Vec<String> = (0..7).map(|_| answer(&mut queue, &gateway)).collect();
        let expected = [
            "$-1\r\n",
            "$1\r\n1\r\n",
            "+OK\r\n",
            "+OK\r\n",
            "*2\r\n$-1\r\n$1\r\n2\r\n",
            "$1\r\n3\r\n",
            "+OK\r\n",
        ];
        assert_eq!(rest, expected);
        assert!(queue.is_empty() && queue.order.is_empty());
        assert_eq!(queue.held_bytes(), 0);
    }
}
