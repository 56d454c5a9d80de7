//! Accepting connections, bounding them, and letting them finish.

use std::cell::Cell;
use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use engine::rt::chan::Receiver;
use engine::rt::local::Bell;
use engine::rt::{Listener, Rt, Stream};

use super::Service;
use super::connection;
use super::drain::Drain;
use super::holders::{self, Holders};
use super::newcomers::Newcomers;
use super::places::Place;
use super::status::Status;
use super::tally::{self, Ended, Running, Tally};
use crate::descriptors::Descriptors;
use crate::descriptors::silent::{GiveWay, PortEntry, Speaks};
use crate::memory::{Memory, MemoryLimits};

/// A protocol that shares the port with gRPC. The first bytes of a connection decide.
pub trait Guest: Debug {
    /// Whether a connection that begins with `first` is the guest's; `None` while more bytes are needed to decide.
    fn is_meant(&self, first: &[u8]) -> Option<bool>;

    /// Serves a connection of `from` to its end. `early` is what has been read of it. It is dropped where the place of the connection is
    /// needed for another one, until `keep` has been called.
    fn serve<'a>(
        self: Rc<Self>,
        stream: Stream,
        from: SocketAddr,
        early: Vec<u8>,
        keep: &'a dyn Fn(),
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>>;
}

/// Who may call what is for members only ([`Service::is_for_members`]), where those are distinguished from clients. Members connect otherwise,
/// and hear why they are not let in also where any caller is believed.
pub trait Gate: Debug {
    /// Whether a connection that begins with `first` is a member's; `None` while more bytes are needed to decide.
    fn is_meant(&self, first: &[u8]) -> Option<bool>;

    /// Whether a connection of `from` is let in, on which HTTP/2 begins then. `early` is what has been read of it; no more is read than the
    /// gate's own.
    fn let_in<'a>(
        &'a self,
        stream: &'a mut Stream,
        from: SocketAddr,
        early: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = bool> + 'a>>;

    /// Whether whoever was not let in is refused what is for members; else any caller is believed.
    fn is_closed(&self) -> bool;

    /// Refuses a call of this path to a caller that was not let in.
    fn refuse(&self, path: &str, from: SocketAddr) -> Status;
}

/// Who has opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Any client, from this address.
    Anyone(SocketAddr),
    /// One that the gate has let in, from this address.
    Member(SocketAddr),
}

impl Caller {
    /// Where it calls from.
    pub(super) const fn from(self) -> SocketAddr {
        match self {
            Self::Anyone(from) | Self::Member(from) => from,
        }
    }
}

/// The bounds of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Maximum number of open connections. Where there is one more, the oldest that has asked for nothing is closed, or else that one.
    pub connections_max: usize,
    /// How many of them keep their place once they have asked for something; those of members always do, so that the others are kept for
    /// them.
    pub clients_max: usize,
    /// The places for connections that it shares with other servers.
    pub descriptors: Descriptors,
    /// Places of its own beside them and beyond the maximum, for its guest: no client keeps one.
    pub own: usize,
    /// Maximum number of concurrent calls on one connection. Clients with one connection per store need thousands.
    pub streams_max: u32,
    /// Maximum number of concurrent calls over all connections; one more is refused.
    pub calls_max: usize,
    /// Maximum length of a request message, bytes.
    pub message_bytes_max: usize,
    /// What requests and answers may hold: the bounds of the core, which it may share with other servers.
    pub memory: Memory,
    /// Receive window of a stream, bytes.
    pub stream_window_bytes: u32,
    /// Receive window of a connection, bytes.
    pub connection_window_bytes: u32,
    /// A silent connection is pinged after this time, and closed after the same time again without an answer.
    pub keepalive: Duration,
    /// How long a new connection may take for the HTTP/2 handshake.
    pub handshake: Duration,
    /// What else is spoken on the port.
    pub guest: Option<Rc<dyn Guest>>,
    /// Who lets members in; without one, every caller counts as a member. A port has no guest beside it.
    pub gate: Option<Rc<dyn Gate>>,
}

/// What a call takes beside its messages as long as it runs, about, bytes.
const CALL_BYTES: usize = 4 << 10;

impl Options {
    /// Maximum number of concurrent calls over all connections, where memory is small: no more than would fill what requests may hold
    /// with calls that ask for nothing.
    pub(super) fn running_max(&self) -> usize {
        self.calls_max.min(self.memory.request_bytes_max() / CALL_BYTES)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            clients_max: usize::MAX,
            descriptors: Descriptors::default(),
            own: 0,
            streams_max: 8192,
            calls_max: 16_384,
            message_bytes_max: 16 << 20,
            memory: Memory::new(MemoryLimits { input_bytes: 256 << 20, output_bytes: 256 << 20 }),
            stream_window_bytes: 256 << 10,
            connection_window_bytes: 256 << 10,
            keepalive: Duration::from_secs(20),
            handshake: Duration::from_secs(10),
            guest: None,
            gate: None,
        }
    }
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections open now.
    pub connections: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed because of the bound: at once, or for a new one before they had asked for anything.
    pub turned_away: u64,
    /// Failed attempts to accept a connection.
    pub accept_faults: u64,
    /// Calls started.
    pub calls: u64,
    /// Connections that ended by an error of the protocol, the socket or the keepalive.
    pub broken: u64,
    /// Calls reset and connections closed because their clients were too slow with memory, or with the end of the node.
    pub evicted: u64,
    /// Calls that run now.
    pub running: usize,
    /// How many may.
    pub running_max: usize,
}

impl Stats {
    /// The sum of two servers.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            accepted: self.accepted + other.accepted,
            turned_away: self.turned_away + other.turned_away,
            accept_faults: self.accept_faults + other.accept_faults,
            calls: self.calls + other.calls,
            broken: self.broken + other.broken,
            evicted: self.evicted + other.evicted,
            running: self.running + other.running,
            running_max: self.running_max + other.running_max,
        }
    }
}

/// What all connections of a listener share.
#[derive(Debug)]
pub(super) struct State<S: Service> {
    pub(super) rt: Rt,
    pub(super) service: S,
    pub(super) options: Options,
    pub(super) drain: Rc<Drain>,
    pub(super) stats: Rc<Cell<Stats>>,
    pub(super) running: Running,
    /// Calls and connections that wait for their client.
    pub(super) holders: Rc<Holders>,
    /// By method; `None` counts calls of unknown methods.
    pub(super) tally: Tally<Option<S::Method>>,
    /// Connections that keep no place.
    pub(super) newcomers: Rc<Newcomers>,
    /// By which others of the node have them end.
    pub(super) entry: PortEntry,
    /// Connections of clients that keep theirs.
    pub(super) clients: Cell<usize>,
    /// How many of its own places are taken.
    pub(super) own_taken: Cell<usize>,
    pub(super) idle: Rc<Bell>,
}

impl<S: Service> State<S> {
    pub(super) fn count(&self, change: impl FnOnce(&mut Stats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }
}

/// A running server. Dropping the handle lets it run on.
#[derive(Debug)]
pub struct Handle {
    rt: Rt,
    drain: Rc<Drain>,
    stats: Rc<Cell<Stats>>,
    idle: Rc<Bell>,
    running: Running,
    running_max: usize,
    tally: tally::Read,
}

/// Serves `service` on `listener` on this core until the handle drains it.
pub fn serve<S: Service>(rt: &Rt, listener: Listener, service: S, options: Options) -> Handle {
    let (entry, give_way) = PortEntry::new(Speaks::Grpc);
    let state = Rc::new(State {
        rt: rt.clone(),
        service,
        options,
        drain: Rc::default(),
        stats: Rc::default(),
        running: Running::default(),
        holders: Rc::default(),
        tally: Tally::default(),
        newcomers: Rc::default(),
        entry,
        clients: Cell::default(),
        own_taken: Cell::default(),
        idle: Rc::default(),
    });
    let counted = state.clone();
    let read = move || {
        let name =
            |method: &Option<S::Method>| method.map_or("unknown".to_owned(), |method| format!("{method:?}"));
        let mut ended = counted.tally.ended(name);
        ended.extend(counted.service.ended());
        ended
    };
    let handle = Handle {
        rt: rt.clone(),
        drain: state.drain.clone(),
        stats: state.stats.clone(),
        idle: state.idle.clone(),
        running: state.running.clone(),
        running_max: state.options.running_max(),
        tally: tally::Read(Rc::new(read)),
    };
    // Detached: they end by themselves when the server drains.
    drop(rt.spawn(holders::watch(
        rt.clone(),
        state.holders.clone(),
        state.options.memory.clone(),
        state.drain.clone(),
        state.stats.clone(),
    )));
    drop(rt.spawn(give_ways(state.newcomers.clone(), state.stats.clone(), give_way)));
    drop(rt.spawn(accept_all(state, listener)));
    handle
}

impl Handle {
    /// What the server has done so far.
    pub fn stats(&self) -> Stats {
        Stats { running: self.running.count(), running_max: self.running_max, ..self.stats.get() }
    }

    /// Requests completed, by method and status.
    pub fn ended(&self) -> Vec<Ended> {
        self.tally.0()
    }

    /// Stops accepting, asks every client to close its connection, and waits at most `timeout` for running calls. Returns the number
    /// of connections that were still busy.
    pub async fn drain(&self, timeout: Duration) -> usize {
        self.drain.request();
        let mut timeout = pin!(self.rt.sleep(timeout));
        let mut idle = pin!(async {
            while self.stats.get().connections > 0 {
                self.idle.wait().await;
            }
        });
        poll_fn(|cx| match idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => timeout.as_mut().poll(cx),
        })
        .await;
        self.stats.get().connections
    }
}

/// Ends those that others of the node ask to end, until the server and its connections are gone.
async fn give_ways(newcomers: Rc<Newcomers>, stats: Rc<Cell<Stats>>, asked: Receiver<GiveWay>) {
    while let Some(give_way) = asked.recv().await {
        if newcomers.give_way(give_way) {
            let counted = stats.get();
            stats.set(Stats { turned_away: counted.turned_away + 1, ..counted });
            tracing::warn!("a gRPC connection that has asked for nothing gives way to one of another port");
        }
    }
}

async fn accept_all<S: Service>(state: Rc<State<S>>, listener: Listener) {
    let draining = state.drain.listen();
    loop {
        let mut next = pin!(listener.accept());
        let accepted = poll_fn(|cx| {
            if draining.poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            next.as_mut().poll(cx).map(Some)
        })
        .await;
        match accepted {
            None => return,
            Some(Ok((stream, from))) => admit(&state, stream, from).await,
            // Out of descriptors, or a connection that died in the queue: neither is a reason to stop listening.
            Some(Err(error)) => {
                state.count(|stats| stats.accept_faults += 1);
                tracing::warn!(%error, "a gRPC connection cannot be accepted");
                state.rt.sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn admit<S: Service>(state: &Rc<State<S>>, stream: Stream, from: SocketAddr) {
    let Some(place) = Place::take(state, from).await else { return };
    let task = state.rt.clone();
    drop(task.spawn(async move { serve_one(place, stream).await }));
}

/// Serves a connection to its end.
async fn serve_one<S: Service>(mut place: Place<S>, stream: Stream) {
    let ended = match place.state().options.guest.clone() {
        Some(guest) => serve_beside(&mut place, guest, stream).await,
        None => serve_behind(&place, stream).await,
    };
    place.ended(ended);
}

/// Serves a connection to a port that may have a gate; whether it ended well, and nothing if it had to give way.
async fn serve_behind<S: Service>(place: &Place<S>, mut stream: Stream) -> Option<bool> {
    let state = place.state();
    let Some(gate) = &state.options.gate else {
        return connection::drive(place, stream, Vec::new(), Caller::Anyone(place.from())).await;
    };
    let is_meant = |first: &[u8]| gate.is_meant(first);
    match place.begins(tell_apart(&mut stream, is_meant)).await? {
        Some(First::Ours(early)) => {
            connection::drive(place, stream, early, Caller::Anyone(place.from())).await
        }
        Some(First::Guest(early)) => {
            if !place.begins(gate.let_in(&mut stream, place.from(), early)).await?.unwrap_or(false) {
                return Some(false);
            }
            place.keep();
            connection::drive(place, stream, Vec::new(), Caller::Member(place.from())).await
        }
        Some(First::Left { early_bytes }) => Some(early_bytes == 0),
        Some(First::Broke(_)) | None => Some(false),
    }
}

/// Serves a connection to a port that has a guest, as [`serve_behind`] does.
async fn serve_beside<S: Service>(
    place: &mut Place<S>,
    guest: Rc<dyn Guest>,
    mut stream: Stream,
) -> Option<bool> {
    let is_meant = |first: &[u8]| guest.is_meant(first);
    match place.begins(tell_apart(&mut stream, is_meant)).await? {
        Some(First::Ours(early)) => {
            connection::drive(place, stream, early, Caller::Anyone(place.from())).await
        }
        Some(First::Guest(early)) => {
            // The guest's connections are its own: no drain of gRPC waits for them.
            let from = place.from();
            place.leave_to_guest(|keep| guest.serve(stream, from, early, keep)).await;
            Some(true)
        }
        // Probes of load balancers connect and leave.
        Some(First::Left { early_bytes }) => Some(early_bytes == 0),
        Some(First::Broke(error)) => {
            tracing::debug!(%error, "a connection broke before it said what it speaks");
            Some(false)
        }
        // It did not say what it speaks in the time of a handshake.
        None => Some(false),
    }
}

/// What the first bytes of a connection come to.
enum First {
    /// gRPC, or what its own errors are for; with what has been read.
    Ours(Vec<u8>),
    /// The guest's protocol, or that of the gate; with what has been read.
    Guest(Vec<u8>),
    /// The client has ended its side before that was decided.
    Left { early_bytes: usize },
    /// The socket has failed.
    Broke(io::Error),
}

/// Reads until the guest, or the gate, knows whether a connection is meant for it.
async fn tell_apart(stream: &mut Stream, is_meant: impl Fn(&[u8]) -> Option<bool>) -> First {
    let (mut early, mut buffer) = (Vec::new(), [0; 512]);
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return First::Left { early_bytes: early.len() },
            Ok(read) => early.extend_from_slice(&buffer[..read]),
            Err(error) => return First::Broke(error),
        }
        match is_meant(&early) {
            Some(true) => return First::Guest(early),
            Some(false) => return First::Ours(early),
            None => {}
        }
    }
}
