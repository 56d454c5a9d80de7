//! One core's RESP server: what its sessions share, and the life of its listener.
//!
//! A core accepts, serves and drains by itself. The cursors of `SCAN` and the roster of connections are shared with other cores,
//! and connections migrate to the core that owns their keys ([`migration`](super::migration)).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
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
use super::roster::Arrival;
use super::session::{Session, SessionEnd};
use super::stalls::evict_stalled;
use crate::descriptors::Descriptors;
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
    stop: Cell<Stop>,
    ended: Bell,
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
    let server = Rc::new(Server::new(rt, gateway, config, counters));
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
            Ok(Err(_)) => {
                server.counters.accept_faults.add_one();
                server.rt.sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    drop(listener);
    server.drain(drain_time).await;
}

impl Server {
    /// A server without a listener or connections.
    pub(super) fn new(rt: Rt, gateway: Gateway, config: Config, counters: Rc<Counters>) -> Self {
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

    /// Starts a session, unless there are too many.
    fn admit(self: &Rc<Self>, stream: Stream, from: SocketAddr) {
        let (connections_max, core) = (self.config.connections_max, self.rt.core());
        let arrival = Arrival { from, local: stream.local_addr().ok(), began: self.rt.now(), core };
        let Some(entry) = self.config.connections.roster().admit(arrival, connections_max) else {
            tracing::warn!(%from, max = connections_max, "a RESP connection is refused: limits.connections_max");
            return self.turn_away(stream);
        };
        if !self.config.descriptors.take() {
            let max = self.config.descriptors.max();
            tracing::warn!(
                %from,
                max,
                "a RESP connection is refused: the other descriptors are kept for storage, see LimitNOFILE"
            );
            return self.turn_away(stream);
        }
        self.counters.accepted.add_one();
        let client = Rc::new(ConnectionState::new(entry, self.config.password.is_none()));
        self.begin(Session::new(self.clone(), stream, client.clone()), client);
    }

    /// Serves a connection to its end here.
    fn begin(self: &Rc<Self>, session: Session, client: Rc<ConnectionState>) {
        let id = client.entry.id;
        client.entry.arrive(self.rt.core());
        self.clients.borrow_mut().insert(id, client);
        let server = self.clone();
        self.rt.spawn(async move {
            match Box::new(session).run().await {
                SessionEnd::Over => {
                    server.counters.closed.add_one();
                    server.config.descriptors.give_back();
                }
                SessionEnd::Migrated => server.counters.moved_out.add_one(),
            }
            server.clients.borrow_mut().remove(&id);
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

    fn turn_away(self: &Rc<Self>, mut stream: Stream) {
        self.counters.refused.add_one();
        if !self.config.descriptors.take_to_refuse() {
            return;
        }
        let server = self.clone();
        self.rt.spawn(async move {
            let explain = async {
                // A client that is gone already needs no explanation.
                if let Err(error) = stream.write_all(b"-ERR max number of clients reached\r\n").await {
                    tracing::debug!(%error, "a refused client does not get the reason");
                }
                linger(&mut stream).await;
            };
            // Whoever does not close its side in time is closed here: the descriptor is one of those kept from clients.
            server.rt.timeout(REFUSAL_MAX, explain).await;
            drop(stream);
            server.config.descriptors.give_back_refused();
        });
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
