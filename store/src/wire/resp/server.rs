//! One core's RESP server: what its sessions share, and the life of its listener.
//!
//! A core accepts, serves and drains by itself. The cursors of `SCAN` and the roster of connections are shared with other cores,
//! and connections migrate to the core that owns their keys ([`migration`](super::migration)).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use engine::rt::chan::Receiver;
use engine::rt::local::Bell;
use engine::rt::{Listener, Mono, Rt, Stream};

use super::client::ConnectionState;
use super::connections::{Connections, Inbox};
use super::counters::Counters;
use super::cursor::Cursors;
use super::migration::{Affinity, Loads, Migrating};
use super::roster::{Arrival, Listing};
use super::session::{Session, SessionEnd};
use super::stalls::evict_stalled;
use crate::descriptors::Descriptors;
use crate::descriptors::silent::{GiveWay, PortEntry, Speaks};
use crate::gateway::Gateway;
use crate::wire::board::Board;

/// What is read from a socket at once, bytes.
const READ_BYTES: usize = 64 << 10;
/// Reply buffers kept for the next connection that has something to say.
const SPARE_BUFFERS: usize = 64;
/// A reply buffer that has grown beyond this is not kept, bytes.
const SPARE_BUFFER_BYTES_MAX: usize = 64 << 10;
/// How long a connection that is refused may take to hear why.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
/// How long to wait when no descriptor is left for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How a core speaks RESP.
#[derive(Clone, Debug)]
pub struct Config {
    /// What `AUTH` asks for; `None` lets every client in.
    pub password: Option<String>,
    /// Connections that the node holds at once, over all cores.
    pub connections_max: usize,
    /// The node's places for connections, over all cores.
    pub descriptors: Descriptors,
    /// Commands that one connection may have in flight before it is read no further.
    pub pipeline_max: usize,
    /// The node's scan positions; all of its cores share one table.
    pub cursors: Cursors,
    /// The node's connections; all of its cores share them.
    pub connections: Connections,
    /// The latest numbers of the node's cores; `None` where there is one core and no store.
    pub board: Option<Board>,
    /// What `INFO` and `CONFIG GET` say about the node.
    pub facts: Facts,
}

/// What the server says about itself.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The program's version.
    pub version: String,
    /// The RESP port.
    pub port: u16,
    /// Cores that serve data.
    pub cores: usize,
    /// The node's memory budget, bytes; 0 when there is none.
    pub memory_bytes_max: u64,
    /// The node's id, or what else distinguishes one run from another.
    pub run_id: String,
    /// The data directory.
    pub data_dir: String,
}

/// What the sessions of one core share.
#[derive(Debug)]
pub struct Server {
    /// The core.
    pub rt: Rt,
    /// The data.
    pub gateway: Gateway,
    /// The settings.
    pub config: Config,
    /// The numbers.
    pub counters: Rc<Counters>,
    /// When the server began.
    pub began: Mono,
    /// Where every session reads into; it is empty again before the session waits.
    pub read_buffer: RefCell<Box<[u8]>>,
    spare_buffers: RefCell<Vec<Vec<u8>>>,
    pub(super) clients: RefCell<BTreeMap<u64, Rc<ConnectionState>>>,
    loads: Loads,
    /// By which others of the node have connections end that have asked for nothing.
    entry: PortEntry,
    stop: Cell<Stop>,
    ended: Bell,
}

/// What there is no place in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// RESP has as many connections as it may.
    Roster,
    /// All ports together have.
    Descriptors,
}

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Not begun.
    No,
    /// Sessions answer what they have read and end.
    Drain,
    /// Sessions end.
    Now,
}

/// Serves RESP on `listener` until `shutdown` resolves to how long connections may go on answering; returns when every connection
/// has ended. `counters` can be watched meanwhile.
pub async fn serve(
    rt: Rt,
    listener: Listener,
    gateway: Gateway,
    config: Config,
    counters: Rc<Counters>,
    shutdown: impl Future<Output = Duration>,
) {
    let (entry, give_way) = PortEntry::new(Speaks::Resp);
    let server = Rc::new(Server::new(rt, gateway, config, counters, entry));
    server.rt.spawn(give_ways(Rc::downgrade(&server), give_way));
    if let Some(Inbox { migrating, killed }) = server.config.connections.open(&server.rt) {
        server.rt.spawn(take_in_migrating(server.clone(), migrating));
        server.rt.spawn(end_killed(server.clone(), killed));
    }
    server.rt.spawn(evict_stalled(server.clone()));
    let mut shutdown = pin!(shutdown);
    let drain_time = loop {
        let mut accept = pin!(listener.accept());
        let accepted = poll_fn(|cx| match shutdown.as_mut().poll(cx) {
            Poll::Ready(drain_time) => Poll::Ready(Err(drain_time)),
            Poll::Pending => accept.as_mut().poll(cx).map(Ok),
        });
        match accepted.await {
            Err(drain_time) => break drain_time,
            Ok(Ok((stream, from))) => server.admit(stream, from),
            Ok(Err(error)) => {
                server.counters.accept_faults.add_one();
                tracing::warn!(%error, "a RESP connection cannot be accepted");
                server.rt.sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    drop(listener);
    server.drain(drain_time).await;
}

impl Server {
    /// A server without a listener or connections.
    pub(super) fn new(
        rt: Rt,
        gateway: Gateway,
        config: Config,
        counters: Rc<Counters>,
        entry: PortEntry,
    ) -> Self {
        Self {
            began: rt.now(),
            rt,
            gateway,
            config,
            counters,
            read_buffer: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
            spare_buffers: RefCell::default(),
            clients: RefCell::default(),
            loads: Loads::default(),
            entry,
            stop: Cell::new(Stop::No),
            ended: Bell::default(),
        }
    }

    /// How far the shutdown has come.
    pub fn stop(&self) -> Stop {
        self.stop.get()
    }

    /// A buffer for replies.
    pub fn lend_buffer(&self) -> Vec<u8> {
        self.spare_buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub fn return_buffer(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare_buffers.borrow_mut();
        if spare.len() < SPARE_BUFFERS && buffer.capacity() <= SPARE_BUFFER_BYTES_MAX {
            buffer.clear();
            spare.push(buffer);
        }
    }

    /// Starts a session, if there is a place for it or another connection gives way.
    fn admit(self: &Rc<Self>, stream: Stream, from: SocketAddr) {
        let entered = self.enter_roster(&stream, from);
        let full = if entered.is_none() { Full::Roster } else { Full::Descriptors };
        if let Some(entry) = entered
            && self.config.descriptors.take()
        {
            return self.enter(stream, entry);
        }
        // What takes its time holds one of the descriptors for those that are refused.
        if !self.config.descriptors.take_to_refuse() {
            return self.say_refused(from, full);
        }
        let server = self.clone();
        self.rt.spawn(async move {
            server.admit_late(stream, from, full).await;
            server.config.descriptors.give_back_refused();
        });
    }

    /// Waits for a connection that has asked for nothing to give way. Without one, says why this one is refused.
    async fn admit_late(self: &Rc<Self>, stream: Stream, from: SocketAddr, full: Full) {
        let descriptors = &self.config.descriptors;
        let of = match full {
            Full::Roster => Some(Speaks::Resp),
            Full::Descriptors => None,
        };
        if descriptors.take_from_silent(&self.rt, of).await {
            let entered = if self.stop() == Stop::No { self.enter_roster(&stream, from) } else { None };
            match entered {
                Some(entry) => return self.enter(stream, entry),
                None => descriptors.give_back(),
            }
        }
        self.say_refused(from, full);
        self.explain(stream).await;
    }

    fn enter_roster(&self, stream: &Stream, from: SocketAddr) -> Option<Listing> {
        let (began, core) = (self.rt.now(), self.rt.core());
        let arrival = Arrival { from, local: stream.local_addr().ok(), began, core };
        self.config.connections.roster().admit(arrival, self.config.connections_max)
    }

    fn say_refused(&self, from: SocketAddr, full: Full) {
        self.counters.refused.add_one();
        let (max, why) = match full {
            Full::Roster => (self.config.connections_max, "limits.connections_max"),
            Full::Descriptors => {
                (self.config.descriptors.max(), "the other descriptors are kept for storage, see LimitNOFILE")
            }
        };
        tracing::warn!(%from, max, "a RESP connection is refused: {why}");
    }

    /// Serves a connection that has a place.
    fn enter(self: &Rc<Self>, stream: Stream, entry: Listing) {
        self.counters.accepted.add_one();
        let client = Rc::new(ConnectionState::new(entry, self.config.password.is_none()));
        client.gives_way(self.config.descriptors.list(&self.entry, client.entry.id));
        self.begin(Session::new(self.clone(), stream, client.clone()), client);
    }

    /// Serves a connection to its end here.
    fn begin(self: &Rc<Self>, session: Session, client: Rc<ConnectionState>) {
        let id = client.entry.id;
        client.entry.arrive(self.rt.core());
        self.clients.borrow_mut().insert(id, client.clone());
        let server = self.clone();
        self.rt.spawn(async move {
            let end = Box::new(session).run().await;
            server.clients.borrow_mut().remove(&id);
            let heir = client.heir();
            // With its entry in the roster, before another one enters.
            drop(client);
            match end {
                SessionEnd::Over => {
                    server.counters.closed.add_one();
                    match heir {
                        Some(heir) => server.config.descriptors.hand_over(&heir),
                        None => server.config.descriptors.give_back(),
                    }
                }
                SessionEnd::Migrated => server.counters.moved_out.add_one(),
            }
            server.ended.ring();
        });
    }

    /// Whether a connection may migrate to `core` now.
    pub(crate) fn may_migrate_to(&self, core: usize) -> bool {
        let connections = &self.config.connections;
        self.stop() == Stop::No
            && connections.is_open(core)
            && self.loads.take_room(connections, core, self.rt.now())
    }

    /// Says why a connection is refused, and closes it.
    async fn explain(&self, mut stream: Stream) {
        let explain = async {
            // A client that is gone already needs no explanation.
            if let Err(error) = stream.write_all(b"-ERR max number of clients reached\r\n").await {
                tracing::debug!(%error, "a refused client does not get the reason");
            }
            linger(&mut stream).await;
        };
        // Whoever does not close its side in time is closed here: the descriptor is one of those kept from clients.
        self.rt.timeout(REFUSAL_MAX, explain).await;
    }

    /// Lets the sessions finish, then ends those that have not.
    async fn drain(self: &Rc<Self>, drain_time: Duration) {
        self.config.connections.close(self.rt.core());
        self.set_stop(Stop::Drain);
        let deadline = pin!(self.rt.sleep(drain_time));
        let mut deadline = Some(deadline);
        while !self.clients.borrow().is_empty() {
            let mut ended = pin!(self.ended.wait());
            poll_fn(|cx| {
                if deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                    deadline = None;
                    self.set_stop(Stop::Now);
                }
                ended.as_mut().poll(cx)
            })
            .await;
        }
    }

    fn set_stop(&self, stop: Stop) {
        self.stop.set(stop);
        self.clients.borrow().values().for_each(|client| client.wake());
    }
}

/// Takes in connections whose keys are here.
async fn take_in_migrating(server: Rc<Server>, inbox: Receiver<Migrating>) {
    while let Some(Migrating { stream, client, input, migrations }) = inbox.recv().await {
        server.counters.moved_in.add_one();
        // A core that is ending takes nothing in any more; then the client's connection ends as all do.
        let Ok(stream) = server.rt.attach(stream) else {
            server.counters.closed.add_one();
            server.config.descriptors.give_back();
            continue;
        };
        let client = Rc::new(ConnectionState::from(client));
        let affinity = Affinity::after(migrations);
        server.begin(Session::resume(server.clone(), stream, client.clone(), input, affinity), client);
    }
}

/// Ends connections that have asked for nothing, for newcomers to any port of the node, until the server is gone.
async fn give_ways(server: Weak<Server>, asked: Receiver<GiveWay>) {
    while let Some(GiveWay { number, to }) = asked.recv().await {
        let Some(server) = server.upgrade() else { return };
        let meant = server.clients.borrow().get(&number).cloned();
        if let Some(client) = meant.filter(|client| client.give_way(to)) {
            let from = client.entry.from;
            server.counters.refused.add_one();
            tracing::warn!(%from, "a RESP connection that has asked for nothing gives way to another one");
        }
    }
}

/// Ends connections that another client has killed.
async fn end_killed(server: Rc<Server>, wake: Receiver<()>) {
    let budget = server.rt.budget();
    while let Some(()) = wake.recv().await {
        for id in server.config.connections.take_killed(server.rt.core()) {
            // One that is not here has ended, or has migrated and sees its mark.
            if let Some(client) = server.clients.borrow().get(&id) {
                client.wake();
            }
            budget.tick().await;
        }
    }
}

/// Ends our side and reads what the client has sent meanwhile, up to a bound: closing with unread bytes would take
/// the last reply away from a client that is still writing.
async fn linger(stream: &mut Stream) {
    const BYTES_MAX: usize = 64 << 10;
    if poll_fn(|cx| stream.poll_shutdown(cx)).await.is_err() {
        return;
    }
    let (mut buffer, mut left) = ([0u8; 512], BYTES_MAX);
    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
        left = left.saturating_sub(bytes);
        if left == 0 {
            return;
        }
    }
}
