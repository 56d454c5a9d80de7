//! Outgoing connections of one store: a bounded queue and a task per other store.
//!
//! [`PeerLinks::send`] never waits. The task of a store opens a connection when there is something to send, introduces itself, sends
//! what has gathered as one frame per system call, an empty one where only a sign of life is due, and closes the connection after a
//! minute without either. A store that
//! cannot be reached is tried again with growing pauses; meanwhile what is queued for it is dropped, counted, and reported
//! through [`PeerLinks::take_unreachable`], so that Raft stops streaming to it.
//!
//! | state of a task | ends with | next |
//! |---|---|---|
//! | idle | a message | connecting |
//! | connecting | welcome | sending |
//! | connecting | refusal, error, timeout | pausing |
//! | sending | [`IDLE_MAX`] without a message | idle |
//! | sending | error, timeout, end of the peer | pausing |
//! | pausing | the pause is over | idle |
//!
//! Invariants: per store at most [`QUEUE_BYTES_MAX`] and [`QUEUE_MESSAGES_MAX`] wait, one message that is larger alone excepted; messages to one store leave in the
//! order in which they were sent; a task ends when its [`PeerLinks`] are dropped.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;

use engine::rt::local::Bell;
use engine::rt::{Mono, Rt};
use scheduler::StoreId;

use super::book::AddressBook;
use super::counters::{CountByKind, PeerCounters};
use super::frame::{self, BadFrame, FrameKind};
use super::hello::{OLDER_COPY, Rejection};
use super::messages::{MessageBatch, message_bytes};
use super::notice::Notice;
use super::open::{Purpose, Speaker, open};
use super::requests::codec::BadRequests;
use super::ship;
use crate::region::message::PeerMessage;
use crate::shard::handing::Handed;
use crate::shard::outbox::{ByKind, Carrying, PeerNumbers, Transport};
use crate::shard::receiving::Unwanted;
use crate::shard::shipping::{Failed, Shipment};

/// Maximum of bytes that wait for one store.
pub const QUEUE_BYTES_MAX: usize = 32 << 20;
/// Maximum of messages that wait for one store.
pub const QUEUE_MESSAGES_MAX: usize = 65_536;
/// A frame is closed when it has reached this size, bytes.
const FRAME_BYTES: usize = 1 << 20;
/// How long a connection without messages stays open.
pub const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long connecting and the introduction may take, together.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long the peer may take nothing in before the connection counts as broken.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// The pause after the first failure; it doubles up to the maximum.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A store counts as not reached for this long after the last attempt: longer than there is between two as long as there is something
/// to send.
const UNREACHABLE_FOR: Duration = Duration::from_secs(10);

/// Why a connection ended.
#[derive(Debug)]
pub enum LinkError {
    /// No address is known.
    NoAddress,
    /// The network.
    Io(std::io::Error),
    /// Nothing came of it in time.
    Timeout,
    /// The peer has closed it.
    Closed,
    /// The stream cannot be read on.
    BadFrame(BadFrame),
    /// A frame that has no place there.
    Unexpected(FrameKind),
    /// Requests or answers that are none.
    BadRequests(BadRequests),
    /// We refuse the peer.
    Rejected(Rejection),
    /// The peer refuses us, with its reason.
    Refused(String),
    /// We refuse a snapshot of the peer.
    Unwanted(Unwanted),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("no address is known"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Timeout => f.write_str("it did not answer in time"),
            Self::Closed => f.write_str("it closed the connection"),
            Self::BadFrame(bad) => write!(f, "{bad}"),
            Self::Unexpected(kind) => write!(f, "a frame of kind {kind:?} has no place there"),
            Self::BadRequests(bad) => write!(f, "{bad}"),
            Self::Rejected(rejection) => write!(f, "{rejection}"),
            Self::Refused(reason) => write!(f, "it refuses this store: {reason}"),
            Self::Unwanted(unwanted) => write!(f, "its snapshot is refused: {unwanted}"),
        }
    }
}

impl std::error::Error for LinkError {}

impl LinkError {
    /// Whether the peer said what it must not say, so that the connection is of no use.
    pub(super) const fn is_breach(&self) -> bool {
        match self {
            Self::BadFrame(_) | Self::Unexpected(_) | Self::BadRequests(_) | Self::Rejected(_) => true,
            Self::NoAddress
            | Self::Io(_)
            | Self::Timeout
            | Self::Closed
            | Self::Refused(_)
            | Self::Unwanted(_) => false,
        }
    }
}

impl From<std::io::Error> for LinkError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<BadFrame> for LinkError {
    fn from(bad: BadFrame) -> Self {
        Self::BadFrame(bad)
    }
}

impl From<BadRequests> for LinkError {
    fn from(bad: BadRequests) -> Self {
        Self::BadRequests(bad)
    }
}

impl From<Rejection> for LinkError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// The outgoing connections of one store.
pub struct PeerLinks {
    rt: Rt,
    speaker: Speaker,
    book: Rc<AddressBook>,
    counters: Rc<PeerCounters>,
    queues: RefCell<BTreeMap<StoreId, Rc<Queue>>>,
    unreachable: RefCell<BTreeSet<StoreId>>,
    /// What a store has said that refuses this one as an older copy of itself.
    disowned: RefCell<Option<String>>,
    notice: Notice,
}

impl fmt::Debug for PeerLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "links of {} to {} stores", self.speaker.store, self.queues.borrow().len())
    }
}

/// What waits for one store.
#[derive(Default)]
struct Queue {
    messages: RefCell<VecDeque<PeerMessage>>,
    /// A frame is to leave even without a message: that the store here lives.
    sign: Cell<bool>,
    bytes: Cell<usize>,
    bell: Bell,
    /// The task waits after a failure.
    pausing: Cell<bool>,
    /// When the store was last not reached, if it has not been since.
    failed: Cell<Option<Mono>>,
    /// A connection is open.
    open: Cell<bool>,
    /// A frame has left since this was last asked.
    spoke: Cell<bool>,
    /// The messages by what they are about.
    kinds: CountByKind,
}

impl Queue {
    /// Takes about one frame's worth.
    fn take(&self) -> Vec<PeerMessage> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut messages = self.messages.borrow_mut();
        while bytes < FRAME_BYTES
            && let Some(message) = messages.pop_front()
        {
            bytes += message_bytes(&message);
            taken.push(message);
        }
        self.bytes.set(self.bytes.get() - bytes);
        self.kinds.take(&taken);
        taken
    }

    fn clear(&self) -> VecDeque<PeerMessage> {
        self.bytes.set(0);
        let cleared = self.messages.take();
        self.kinds.take(&cleared);
        cleared
    }
}

impl PeerLinks {
    /// Links without any connection yet.
    pub fn new(rt: &Rt, speaker: Speaker, book: Rc<AddressBook>) -> Rc<Self> {
        Rc::new(Self {
            rt: rt.clone(),
            speaker,
            book,
            counters: Rc::default(),
            queues: RefCell::default(),
            unreachable: RefCell::default(),
            disowned: RefCell::default(),
            notice: Notice::default(),
        })
    }

    pub(super) fn rt(&self) -> &Rt {
        &self.rt
    }

    pub(super) fn book(&self) -> &AddressBook {
        &self.book
    }

    /// Who speaks.
    pub fn speaker(&self) -> Speaker {
        self.speaker
    }

    /// The counters.
    pub fn counters(&self) -> &Rc<PeerCounters> {
        &self.counters
    }

    /// Queues a message for the store of its addressee. One that does not fit is dropped and counted: Raft repeats it.
    pub fn send(self: &Rc<Self>, message: PeerMessage) {
        let queue = self.queue(message.to.store);
        let bytes = message_bytes(&message);
        let waiting = queue.bytes.get();
        let full = waiting > 0 && waiting + bytes > QUEUE_BYTES_MAX;
        if full || queue.messages.borrow().len() >= QUEUE_MESSAGES_MAX {
            return self.counters.dropped_full.add([&message]);
        }
        queue.bytes.set(waiting + bytes);
        queue.kinds.add([&message]);
        queue.messages.borrow_mut().push_back(message);
        queue.bell.ring();
    }

    /// Has a frame leave for a store, empty if there is no message for it: it shows that the store here lives.
    pub fn send_sign(self: &Rc<Self>, to: StoreId) {
        let queue = self.queue(to);
        queue.sign.set(true);
        queue.bell.ring();
    }

    /// The stores that could not be reached since the last call.
    pub fn take_unreachable(&self) -> BTreeSet<StoreId> {
        self.unreachable.take()
    }

    /// The stores to which a frame has left since the last call.
    fn take_spoken_to(&self) -> Vec<StoreId> {
        let queues = self.queues.borrow();
        queues.iter().filter(|(_, queue)| queue.spoke.take()).map(|(store, _)| *store).collect()
    }

    /// Whether messages wait for a store that is not known to be out of reach.
    pub fn is_busy(&self) -> bool {
        self.queues.borrow().values().any(|queue| queue.bytes.get() > 0 && !queue.pausing.get())
    }

    /// What the links have done and hold.
    fn numbers(&self) -> PeerNumbers {
        let counters = &*self.counters;
        let (queues, now) = (self.queues.borrow(), self.rt.now());
        let is_fresh = |failed: Mono| now.since(failed) < UNREACHABLE_FOR;
        let mut queued_messages = ByKind::default();
        for queue in queues.values() {
            queued_messages.iter_mut().zip(queue.kinds.by_kind()).for_each(|(sum, count)| *sum += count);
        }
        PeerNumbers {
            messages_sent: counters.messages_sent.by_kind(),
            dropped_full: counters.dropped_full.by_kind(),
            dropped_unreachable: counters.dropped_unreachable.by_kind(),
            messages_received: counters.messages_received.by_kind(),
            queued_messages,
            queued_bytes: queues.values().map(|queue| queue.bytes.get() as u64).sum(),
            bytes_sent: counters.bytes_sent.get(),
            bytes_received: counters.bytes_received.get(),
            open: queues.values().filter(|queue| queue.open.get()).count() as u64,
            connected: counters.connected.get(),
            connect_failed: counters.connect_failed.get(),
            broken: counters.broken.get(),
            accepted: counters.accepted.get(),
            rejected: counters.rejected.get(),
            unproven: counters.unproven.get(),
            bad_frames: counters.bad_frames.get(),
            unreachable: queues.values().filter(|queue| queue.failed.get().is_some_and(is_fresh)).count()
                as u64,
        }
    }

    /// Messages and bytes that wait for `store`.
    pub fn queued(&self, store: StoreId) -> (usize, usize) {
        self.queues
            .borrow()
            .get(&store)
            .map_or((0, 0), |queue| (queue.messages.borrow().len(), queue.bytes.get()))
    }

    fn queue(self: &Rc<Self>, to: StoreId) -> Rc<Queue> {
        let mut queues = self.queues.borrow_mut();
        let queue = queues.entry(to).or_insert_with(|| {
            let queue = Rc::new(Queue::default());
            self.rt.spawn(keep_linked(Rc::downgrade(self), self.rt.clone(), to, queue.clone()));
            queue
        });
        queue.clone()
    }

    /// A store was not reached, or its connection broke.
    fn failed(&self, to: StoreId, queue: &Queue, unsent: &[PeerMessage], error: &LinkError) {
        let store = self.speaker.store.0;
        match error {
            LinkError::NoAddress | LinkError::Io(_) | LinkError::Timeout | LinkError::Closed => {
                tracing::debug!(store, peer = to.0, %error, "a peer is not reached");
            }
            LinkError::BadFrame(_)
            | LinkError::Unexpected(_)
            | LinkError::BadRequests(_)
            | LinkError::Rejected(_)
            | LinkError::Refused(_)
            | LinkError::Unwanted(_) => {
                if let Some(unsaid) = self.notice.may_say(self.rt.now()) {
                    tracing::warn!(store, peer = to.0, %error, unsaid, "a peer cannot be reached");
                }
            }
        }
        if let LinkError::Refused(reason) = error
            && reason.contains(OLDER_COPY)
        {
            *self.disowned.borrow_mut() = Some(format!("{to} says: {reason}"));
        }
        self.book.failed(to);
        self.counters.dropped_unreachable.add(unsent);
        self.counters.dropped_unreachable.add(&queue.clear());
        self.unreachable.borrow_mut().insert(to);
    }
}

/// The links as a store uses them.
impl Transport for Rc<PeerLinks> {
    fn send(&self, message: PeerMessage) {
        PeerLinks::send(self, message);
    }

    fn send_sign(&self, to: StoreId) {
        PeerLinks::send_sign(self, to);
    }

    fn is_busy(&self) -> bool {
        PeerLinks::is_busy(self)
    }

    fn take_unreachable(&self) -> BTreeSet<StoreId> {
        PeerLinks::take_unreachable(self)
    }

    fn take_disowned(&self) -> Option<String> {
        self.disowned.take()
    }

    fn take_spoken_to(&self) -> Vec<StoreId> {
        PeerLinks::take_spoken_to(self)
    }

    fn numbers(&self) -> PeerNumbers {
        PeerLinks::numbers(self)
    }

    fn carry<'a>(&'a self, shipment: &'a mut Shipment) -> Carrying<'a> {
        Box::pin(ship::carry(self, shipment))
    }

    fn sibling_dir(&self, _: StoreId) -> Option<PathBuf> {
        None
    }

    fn hand_over(&self, _: StoreId, _: Handed) -> Carrying<'_> {
        Box::pin(std::future::ready(Err(Failed::NoTransport)))
    }
}

impl Drop for PeerLinks {
    fn drop(&mut self) {
        // The tasks wait for their bells.
        self.queues.borrow().values().for_each(|queue| queue.bell.ring());
    }
}

/// The task of one store.
async fn keep_linked(links: Weak<PeerLinks>, rt: Rt, to: StoreId, queue: Rc<Queue>) {
    let mut pause = PAUSE;
    loop {
        queue.bell.wait().await;
        if links.strong_count() == 0 {
            return;
        }
        let (connected, unsent, ended) = converse(&links, &rt, to, &queue).await;
        queue.open.set(false);
        if connected {
            pause = PAUSE;
        }
        let Err(error) = ended else { continue };
        match links.upgrade() {
            Some(links) => {
                links.counters.broken.add(u64::from(connected));
                links.failed(to, &queue, &unsent, &error);
            }
            None => return,
        }
        queue.pausing.set(true);
        queue.failed.set(Some(rt.now()));
        // Stores that failed together do not come back together.
        rt.sleep(pause / 2 + pause.mul_f64(rt.random() as f64 / u64::MAX as f64 / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
        queue.pausing.set(false);
        match links.upgrade() {
            Some(links) => links.counters.dropped_unreachable.add(&queue.clear()),
            None => return,
        }
    }
}

/// Opens a connection and sends until there is nothing more for a while. Returns whether a connection came about, the messages
/// that were taken from the queue and not sent, and how it ended.
async fn converse(
    links: &Weak<PeerLinks>,
    rt: &Rt,
    to: StoreId,
    queue: &Queue,
) -> (bool, Vec<PeerMessage>, Result<(), LinkError>) {
    let Some((speaker, book, counters)) =
        links.upgrade().map(|links| (links.speaker, links.book.clone(), links.counters.clone()))
    else {
        return (false, Vec::new(), Ok(()));
    };
    let mut stream = match open(rt, (Purpose::Messages, CONNECT_MAX), &speaker, &book, to).await {
        Ok(stream) => stream,
        Err(error) => {
            counters.connect_failed.add(1);
            return (false, Vec::new(), Err(error));
        }
    };
    counters.connected.add(1);
    queue.failed.set(None);
    queue.open.set(true);
    let budget = rt.budget();
    loop {
        let (messages, sign) = (queue.take(), queue.sign.take());
        if messages.is_empty() && !sign {
            match rt.timeout(IDLE_MAX, queue.bell.wait()).await {
                None => return (true, Vec::new(), Ok(())),
                Some(()) if links.strong_count() == 0 => return (true, Vec::new(), Ok(())),
                Some(()) => continue,
            }
        }
        let mut bytes = Vec::new();
        let batch = MessageBatch { from: speaker.store, to, messages };
        frame::push(&mut bytes, FrameKind::Messages, |out| batch.encode(out));
        let written = rt.timeout(WRITE_MAX, stream.write_all(&bytes)).await;
        match written {
            Some(Ok(())) => {
                queue.spoke.set(true);
                counters.messages_sent.add(&batch.messages);
                counters.frames_sent.add(1);
                counters.bytes_sent.add(bytes.len() as u64);
                budget.tick().await;
            }
            Some(Err(error)) => return (true, batch.messages, Err(error.into())),
            None => return (true, batch.messages, Err(LinkError::Timeout)),
        }
    }
}
