//! The asking side of one core: a bounded queue, a connection and what is in flight, for each store of another node.
//!
//! | state of a lane | ends with | next |
//! |---|---|---|
//! | idle | a request | connecting |
//! | connecting | welcome | conversing |
//! | connecting | refusal, error, timeout | idle: what waits is refused |
//! | conversing | [`IDLE_MAX`] without a request | idle |
//! | conversing | error, end, [`ANSWER_MAX`] without an answer that is due | idle: what was sent is unknown, what waits is refused |
//!
//! Invariants: every request is answered once; at most [`WAITING_MAX`] requests and [`WAITING_BYTES_MAX`] bytes are with one store.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use engine::rt::local::{Answer, Bell};
use engine::rt::{Mono, ReadHalf, Rt, WriteHalf};
use scheduler::StoreId;

use super::codec::{
    ForwardedReply, ForwardedRequest, ONE_BYTES_MAX, decode_answers_in_pieces, encode_requests, request_bytes,
};
use crate::gateway::{Asks, RemoteNumbers};
use crate::memory::{Memory, charged_bytes};
use crate::metrics::Counter;
use crate::refusal::Refusal;
use crate::request::{Op, Out, Outcome, Route};
use crate::wire::peer::book::AddressBook;
use crate::wire::peer::frame::{self, Decoder, FRAME_BYTES_MAX, FrameKind};
use crate::wire::peer::link::LinkError;
use crate::wire::peer::open::{Purpose, Speaker, open};

/// Requests that may be with one store.
pub const WAITING_MAX: usize = 1024;
/// Bytes of requests that may be with one store.
pub const WAITING_BYTES_MAX: usize = 32 << 20;
/// A frame is closed when it has reached this size, bytes.
const FRAME_BYTES: usize = 1 << 20;
/// How long a connection without requests stays open.
pub const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long connecting and the introduction may take, together.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long an answer may take. A leader that is cut off steps down sooner and says so.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 64 << 10;

/// What has become of the requests of one core.
#[derive(Debug, Default)]
struct Outcomes {
    done: Counter,
    moved: Counter,
    refused: Counter,
    unreached: Counter,
    unknown: Counter,
    connected: Counter,
    connect_failed: Counter,
    broken: Counter,
}

impl Outcomes {
    /// Counts the answer of another node.
    fn count(&self, outcome: &Outcome) {
        match outcome {
            Ok(_) => self.done.add_one(),
            Err(Refusal::Unknown) => self.unknown.add_one(),
            Err(refusal) if refusal.has_moved() => self.moved.add_one(),
            Err(_) => self.refused.add_one(),
        }
    }
}

/// The requests of one core to stores of other nodes.
pub struct Requests {
    rt: Rt,
    speaker: Speaker,
    book: Rc<AddressBook>,
    memory: Memory,
    lanes: RefCell<BTreeMap<StoreId, Rc<Lane>>>,
    outcomes: Rc<Outcomes>,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "requests of core {} to {} stores", self.rt.core(), self.lanes.borrow().len())
    }
}

/// What is with one store.
#[derive(Default)]
struct Lane {
    waiting: RefCell<VecDeque<ForwardedRequest>>,
    in_flight: RefCell<BTreeMap<u64, InFlight>>,
    bytes: Cell<usize>,
    next_id: Cell<u64>,
    bell: Bell,
    /// Those of the core.
    outcomes: Rc<Outcomes>,
}

struct InFlight {
    answer: Answer<Outcome>,
    region_id: u64,
    bytes: usize,
    writes: bool,
    /// When it was sent; it waits in the queue until then.
    sent: Option<Mono>,
}

impl Requests {
    /// Requests of a core whose introduction is `speaker`, without any connection yet.
    pub fn new(rt: &Rt, speaker: Speaker, book: Rc<AddressBook>, memory: Memory) -> Rc<Self> {
        let (lanes, outcomes) = (RefCell::default(), Rc::default());
        Rc::new(Self { rt: rt.clone(), speaker, book, memory, lanes, outcomes })
    }

    /// Sends a request to the store `to`; its outcome goes to `answer`.
    pub fn send(self: &Rc<Self>, to: StoreId, route: Route, op: Op, answer: Answer<Outcome>) {
        let lane = self.lane(to);
        let bytes = request_bytes(&op);
        if bytes > ONE_BYTES_MAX {
            self.outcomes.unreached.add_one();
            return answer.send(Err(Refusal::Invalid(format!(
                "the request takes {bytes} bytes, and {ONE_BYTES_MAX} can be sent to the node that leads the region; name fewer keys at once"
            ))));
        }
        let many = lane.in_flight.borrow().len() >= WAITING_MAX;
        let waiting = lane.bytes.get();
        if many || (waiting > 0 && waiting + bytes > WAITING_BYTES_MAX) {
            self.outcomes.unreached.add_one();
            let reason = "too many requests are on their way to the store that leads the region";
            return answer.send(Err(Refusal::Busy { reason, backoff_ms: 20 }));
        }
        let id = lane.next_id.get();
        lane.next_id.set(id + 1);
        lane.bytes.set(waiting + bytes);
        let in_flight =
            InFlight { answer, region_id: route.region_id, bytes, writes: is_write(&op), sent: None };
        lane.in_flight.borrow_mut().insert(id, in_flight);
        lane.waiting.borrow_mut().push_back(ForwardedRequest { id, route, op });
        lane.bell.ring();
    }

    /// Requests that are with `store`.
    pub fn with(&self, store: StoreId) -> usize {
        self.lanes.borrow().get(&store).map_or(0, |lane| lane.in_flight.borrow().len())
    }

    fn lane(self: &Rc<Self>, to: StoreId) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        let lane = lanes.entry(to).or_insert_with(|| {
            let lane = Rc::new(Lane { outcomes: self.outcomes.clone(), ..Lane::default() });
            self.rt.spawn(keep_asking(Rc::downgrade(self), self.rt.clone(), to, lane.clone()));
            lane
        });
        lane.clone()
    }
}

/// The requests as a gateway uses them.
impl Asks for Rc<Requests> {
    fn send(&self, to: StoreId, route: Route, op: Op, answer: Answer<Outcome>) {
        Requests::send(self, to, route, op, answer);
    }

    fn numbers(&self) -> RemoteNumbers {
        let Outcomes { done, moved, refused, unreached, unknown, connected, connect_failed, broken } =
            &*self.outcomes;
        RemoteNumbers {
            in_flight: self.lanes.borrow().values().map(|lane| lane.in_flight.borrow().len() as u64).sum(),
            done: done.get(),
            moved: moved.get(),
            refused: refused.get(),
            unreached: unreached.get(),
            unknown: unknown.get(),
            connected: connected.get(),
            connect_failed: connect_failed.get(),
            broken: broken.get(),
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // The tasks wait for their bells.
        self.lanes.borrow().values().for_each(|lane| lane.bell.ring());
    }
}

/// Whether it is not known what became of an operation whose outcome was not heard.
pub(super) fn is_write(op: &Op) -> bool {
    match op {
        Op::Get { .. }
        | Op::Expiry { .. }
        | Op::BatchGet { .. }
        | Op::Lengths { .. }
        | Op::Scan(_)
        | Op::Watch { .. } => false,
        Op::Put { .. }
        | Op::PutTimed { .. }
        | Op::BatchPut { .. }
        | Op::PutAbsent { .. }
        | Op::Copy { .. }
        | Op::Delete { .. }
        | Op::BatchDelete { .. }
        | Op::DeleteRange { .. }
        | Op::Modify { .. }
        | Op::Atomic(_) => true,
    }
}

impl Lane {
    /// Takes about one frame's worth and notes that it is sent.
    fn take(&self, now: Mono) -> Vec<ForwardedRequest> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let (mut waiting, mut in_flight) = (self.waiting.borrow_mut(), self.in_flight.borrow_mut());
        while bytes < FRAME_BYTES
            && let Some(request) = waiting.pop_front()
        {
            let noted = in_flight.get_mut(&request.id).expect("what waits is in flight");
            noted.sent = Some(now);
            bytes += noted.bytes;
            taken.push(request);
        }
        taken
    }

    fn answered(&self, reply: ForwardedReply, memory: &Memory) {
        let Some(in_flight) = self.in_flight.borrow_mut().remove(&reply.id) else {
            // It was given up meanwhile.
            return;
        };
        self.bytes.set(self.bytes.get() - in_flight.bytes);
        self.outcomes.count(&reply.outcome);
        in_flight.answer.send(reply.outcome.map(|out| charge(memory, out)));
    }

    /// When the oldest request that was sent was sent.
    fn oldest(&self) -> Option<Mono> {
        self.in_flight.borrow().values().filter_map(|in_flight| in_flight.sent).min()
    }

    /// The store refuses this one, before it looked at any request.
    fn refused(&self) {
        self.in_flight.borrow_mut().values_mut().for_each(|in_flight| in_flight.sent = None);
    }

    /// The connection ended: nothing that is with the store will be answered by it.
    fn give_up(&self) {
        self.waiting.borrow_mut().clear();
        self.bytes.set(0);
        for in_flight in self.in_flight.take().into_values() {
            let refusal = match in_flight.sent {
                Some(_) if in_flight.writes => {
                    self.outcomes.unknown.add_one();
                    Refusal::Unknown
                }
                // It was not carried out, and whoever leads now may be another store.
                Some(_) | None => {
                    self.outcomes.unreached.add_one();
                    Refusal::NotLeader { region_id: in_flight.region_id, leader: None }
                }
            };
            in_flight.answer.send(Err(refusal));
        }
    }
}

/// Values that came from another node count as this core's output until they are sent.
fn charge(memory: &Memory, out: Out) -> Out {
    let wrap = |value: bytes::Bytes| memory.output.charge(charged_bytes(&value)).wrap(value);
    match out {
        Out::Value(value) => Out::Value(value.map(wrap)),
        Out::Values(values) => Out::Values(values.into_iter().map(|value| value.map(wrap)).collect()),
        Out::Pairs(pairs) => Out::Pairs(pairs.into_iter().map(|(key, value)| (key, wrap(value))).collect()),
        Out::Swapped { swapped, previous } => Out::Swapped { swapped, previous: previous.map(wrap) },
        Out::Atomic(steps) => Out::Atomic(
            steps.map(|steps| steps.into_iter().map(|step| step.map(|out| charge(memory, out))).collect()),
        ),
        small @ (Out::Done
        | Out::Lengths(_)
        | Out::Existed(_)
        | Out::Length(_)
        | Out::Integer(_)
        | Out::Expiry(_)
        | Out::NoRoom
        | Out::Seen(_)) => small,
    }
}

/// The task of one lane.
async fn keep_asking(requests: Weak<Requests>, rt: Rt, to: StoreId, lane: Rc<Lane>) {
    loop {
        if lane.waiting.borrow().is_empty() {
            lane.bell.wait().await;
        }
        let Some((speaker, book, memory)) =
            requests.upgrade().map(|it| (it.speaker, it.book.clone(), it.memory.clone()))
        else {
            return lane.give_up();
        };
        let opened = open(&rt, (Purpose::Requests, CONNECT_MAX), &speaker, &book, to).await;
        let ended = match opened {
            Ok(stream) => {
                lane.outcomes.connected.add_one();
                let (from, into) = stream.split();
                let ended = converse(&requests, &rt, &lane, &memory, from, into).await;
                if ended.is_ok() && lane.in_flight.borrow().is_empty() {
                    continue;
                }
                lane.outcomes.broken.add_one();
                ended
            }
            Err(error) => {
                lane.outcomes.connect_failed.add_one();
                Err(error)
            }
        };
        if let Err(error) = ended {
            tracing::debug!(store = speaker.store.0, peer = to.0, %error, "a store is not asked any more");
            book.failed(to);
        }
        lane.give_up();
    }
}

/// Sends and receives until one of both ends, or nothing was asked for a while.
async fn converse(
    requests: &Weak<Requests>,
    rt: &Rt,
    lane: &Lane,
    memory: &Memory,
    mut from: ReadHalf,
    mut into: WriteHalf,
) -> Result<(), LinkError> {
    let mut sending = pin!(send(requests, rt, lane, &mut into));
    let mut receiving = pin!(receive(rt, lane, memory, &mut from));
    let mut watching = pin!(watch(rt, lane));
    poll_fn(|cx| {
        let ended = [sending.as_mut().poll(cx), receiving.as_mut().poll(cx), watching.as_mut().poll(cx)];
        ended.into_iter().find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

async fn send(
    requests: &Weak<Requests>,
    rt: &Rt,
    lane: &Lane,
    into: &mut WriteHalf,
) -> Result<(), LinkError> {
    let budget = rt.budget();
    loop {
        let taken = lane.take(rt.now());
        if !taken.is_empty() {
            let mut bytes = Vec::new();
            frame::push(&mut bytes, FrameKind::Requests, |out| encode_requests(&taken, out));
            into.write_all(&bytes).await?;
            budget.tick().await;
            continue;
        }
        let rung = rt.timeout(IDLE_MAX, lane.bell.wait()).await.is_some();
        let idle = lane.in_flight.borrow().is_empty();
        if requests.strong_count() == 0 || (idle && !rung) {
            return Ok(());
        }
    }
}

async fn receive(rt: &Rt, lane: &Lane, memory: &Memory, from: &mut ReadHalf) -> Result<(), LinkError> {
    let budget = rt.budget();
    let (mut decoder, mut buffer) = (Decoder::new(FRAME_BYTES_MAX), vec![0; READ_BYTES]);
    let mut answered = false;
    loop {
        while let Some(frame) = decoder.next_frame()? {
            match frame.kind {
                FrameKind::Answers => {
                    answered = true;
                    for reply in decode_answers_in_pieces(frame.payload, &budget).await? {
                        lane.answered(reply, memory);
                    }
                }
                // That comes instead of every answer.
                FrameKind::Refused if !answered => {
                    lane.refused();
                    return Err(LinkError::Refused(String::from_utf8_lossy(frame.payload).into_owned()));
                }
                FrameKind::Hello
                | FrameKind::Welcome
                | FrameKind::Refused
                | FrameKind::Messages
                | FrameKind::Requests
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
            }
        }
        match from.read(&mut buffer).await? {
            0 => return Err(LinkError::Closed),
            n => decoder.feed(&buffer[..n]),
        }
        budget.tick().await;
    }
}

/// Ends when an answer is overdue.
async fn watch(rt: &Rt, lane: &Lane) -> Result<(), LinkError> {
    loop {
        let waited = lane.oldest().map_or(Duration::ZERO, |sent| rt.now().since(sent));
        match ANSWER_MAX.checked_sub(waited) {
            Some(left) if !left.is_zero() => rt.sleep(left).await,
            Some(_) | None => return Err(LinkError::Timeout),
        }
    }
}
