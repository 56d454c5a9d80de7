//! One core's RESP server: what its sessions share, and the life of its listener.
//!
//! A core accepts, serves and drains by itself. Only the cursors of `SCAN` are shared with other cores, and connections move
//! to the core that owns their keys ([`moving`](super::moving)).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use engine::rt::local::Bell;
use engine::rt::{Listener, Mono, Rt, Stream};

use super::client::{Client, Held};
use super::counters::Counters;
use super::cursor::Cursors;
use super::moving::{Doors, Homing, Loads, Moved};
use super::session::{Ended, Session};
use crate::descriptors::Descriptors;
use crate::gateway::Gateway;
use crate::memory::{INTAKE_BYTES_MIN, SMALL_BYTES};
use crate::wire::board::Board;

/// What is read from a socket at once, bytes.
const READ_BYTES: usize = 64 << 10;
/// Reply buffers kept for the next connection that has something to say.
const SPARE_BUFFERS: usize = 64;
/// A reply buffer that has grown beyond this is given back, bytes.
const SPARE_BUFFER_BYTES_MAX: usize = 64 << 10;
/// Refused connections that are told why at the same time; more are just closed.
const REFUSALS_AT_ONCE: usize = 64;
/// How long to wait when no descriptor is left for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How often clients that stall are looked for.
const STALL_LOOK: Duration = Duration::from_secs(1);
/// How long a client may do nothing while others wait for the memory that it holds.
const STALL_MAX: Duration = Duration::from_secs(5);

/// How a core speaks RESP.
#[derive(Clone, Debug)]
pub struct Config {
    /// What `AUTH` asks for; `None` lets everybody in.
    pub password: Option<String>,
    /// Connections that this core holds at once.
    pub connections_max: usize,
    /// The node's places for connections, over all cores.
    pub descriptors: Descriptors,
    /// Commands that one connection may have in flight before it is read no further.
    pub pipeline_max: usize,
    /// The node's scan positions; all of its cores share one table.
    pub cursors: Cursors,
    /// The ways to the other cores; all of the node's cores share them.
    pub doors: Doors,
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
    /// The node's id, or how else to tell one run from another.
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
    /// Where it listens, if that is known.
    pub local: Option<SocketAddr>,
    /// Where every session reads into; it is empty again before the session waits.
    pub read_buffer: RefCell<Box<[u8]>>,
    spare_buffers: RefCell<Vec<Vec<u8>>>,
    clients: RefCell<BTreeMap<u64, Rc<Client>>>,
    clients_so_far: Cell<u64>,
    refusals: Cell<usize>,
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
    let mut server = Server::new(rt, gateway, config, counters);
    server.local = listener.local_addr().ok();
    let server = Rc::new(server);
    server.open_door();
    server.rt.spawn(evict_stalled(server.clone()));
    let mut shutdown = pin!(shutdown);
    let patience = loop {
        let mut accept = pin!(listener.accept());
        let accepted = poll_fn(|cx| match shutdown.as_mut().poll(cx) {
            Poll::Ready(patience) => Poll::Ready(Err(patience)),
            Poll::Pending => accept.as_mut().poll(cx).map(Ok),
        });
        match accepted.await {
            Err(patience) => break patience,
            Ok(Ok((stream, from))) => server.admit(stream, from),
            Ok(Err(_)) => {
                server.counters.accept_faults.add_one();
                server.rt.sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    drop(listener);
    server.drain(patience).await;
}

impl Server {
    /// A server without a listener or connections.
    pub(super) fn new(rt: Rt, gateway: Gateway, config: Config, counters: Rc<Counters>) -> Self {
        Self {
            began: rt.now(),
            local: None,
            rt,
            gateway,
            config,
            counters,
            read_buffer: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
            spare_buffers: RefCell::default(),
            clients: RefCell::default(),
            clients_so_far: Cell::new(0),
            refusals: Cell::new(0),
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

    /// The lines of `CLIENT LIST`: the connections of this core, or those of them with these ids.
    pub fn describe_clients(&self, ids: Option<&[u64]>) -> String {
        let (now, mut lines) = (self.rt.now(), String::new());
        let clients = self.clients.borrow();
        match ids {
            None => clients.values().for_each(|client| client.describe(now, self.local, &mut lines)),
            Some(ids) => {
                let named = ids.iter().filter_map(|id| clients.get(id));
                named.for_each(|client| client.describe(now, self.local, &mut lines));
            }
        }
        lines
    }

    /// Starts a session, unless there are too many.
    fn admit(self: &Rc<Self>, stream: Stream, from: SocketAddr) {
        let max = self.config.connections_max;
        if self.clients.borrow().len() >= max {
            tracing::warn!(%from, max, "a RESP connection is refused: limits.connections_max");
            return self.turn_away(stream);
        }
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
        let number = self.clients_so_far.get() + 1;
        self.clients_so_far.set(number);
        // Unique on the node without asking other cores.
        let id = number << 10 | self.rt.core() as u64;
        let authenticated = self.config.password.is_none();
        let client = Rc::new(Client::new(id, from, self.rt.now(), authenticated));
        self.begin(Session::new(self.clone(), stream, client.clone()), client);
    }

    /// Serves a connection to its end here.
    fn begin(self: &Rc<Self>, session: Session, client: Rc<Client>) {
        let id = client.id;
        self.clients.borrow_mut().insert(id, client);
        self.config.doors.begun(self.rt.core());
        let server = self.clone();
        self.rt.spawn(async move {
            match Box::new(session).run().await {
                Ended::Over => {
                    server.counters.closed.add_one();
                    server.config.descriptors.give_back();
                }
                Ended::Moved => server.counters.moved_out.add_one(),
            }
            server.clients.borrow_mut().remove(&id);
            server.config.doors.ended(server.rt.core());
            server.ended.ring();
        });
    }

    /// Takes in connections whose keys are here.
    fn open_door(self: &Rc<Self>) {
        let Some(inbox) = self.config.doors.open(&self.rt) else { return };
        let server = self.clone();
        self.rt.spawn(async move {
            while let Some(Moved { stream, client, input, moves }) = inbox.recv().await {
                server.counters.moved_in.add_one();
                // A core that is ending takes nothing in any more; then the client's connection ends as all do.
                let Ok(stream) = server.rt.attach(stream) else {
                    server.counters.closed.add_one();
                    server.config.descriptors.give_back();
                    continue;
                };
                let client = Rc::new(Client::from(client));
                let homing = Homing::after(moves);
                server.begin(Session::resume(server.clone(), stream, client.clone(), input, homing), client);
            }
        });
    }

    /// Whether a connection may move to `core` now.
    pub(crate) fn may_move_to(&self, core: usize) -> bool {
        let doors = &self.config.doors;
        self.stop() == Stop::No
            && doors.has_room(core, self.config.connections_max)
            && self.loads.take_room(doors, core, self.rt.now())
    }

    fn turn_away(self: &Rc<Self>, mut stream: Stream) {
        self.counters.refused.add_one();
        if self.refusals.get() >= REFUSALS_AT_ONCE {
            return;
        }
        self.refusals.set(self.refusals.get() + 1);
        let server = self.clone();
        self.rt.spawn(async move {
            // A client that is gone already needs no explanation.
            let _ = stream.write_all(b"-ERR max number of clients reached\r\n").await;
            linger(&mut stream).await;
            server.refusals.set(server.refusals.get() - 1);
        });
    }

    /// Lets the sessions finish, then ends those that have not.
    async fn drain(self: &Rc<Self>, patience: Duration) {
        self.config.doors.close(self.rt.core());
        self.tell(Stop::Drain);
        let deadline = pin!(self.rt.sleep(patience));
        let mut deadline = Some(deadline);
        while !self.clients.borrow().is_empty() {
            let mut ended = pin!(self.ended.wait());
            poll_fn(|cx| {
                if deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                    deadline = None;
                    self.tell(Stop::Now);
                }
                ended.as_mut().poll(cx)
            })
            .await;
        }
    }

    fn tell(&self, stop: Stop) {
        self.stop.set(stop);
        for client in self.clients.borrow().values() {
            if let Some(waker) = client.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
    }
}

/// Ends connections whose clients neither go on with a request nor read their replies, while others wait for the memory that
/// they hold.
async fn evict_stalled(server: Rc<Server>) {
    while server.stop() == Stop::No {
        server.rt.sleep(STALL_LOOK).await;
        let memory = server.gateway.memory();
        let short = (memory.input.waiting() > 0, memory.output.waiting() > 0);
        if short == (false, false) {
            continue;
        }
        let now = server.rt.now();
        for client in server.clients.borrow().values() {
            let Held { input, output, moved } = client.held.get();
            let holds = (short.0 && input > INTAKE_BYTES_MIN) || (short.1 && output > SMALL_BYTES);
            if holds && now.since(moved) >= STALL_MAX {
                tracing::warn!(client = %client.from, input, output, "others wait for the memory of a client that stalls; closed");
                client.evicted.set(true);
                if let Some(waker) = client.waker.borrow().as_ref() {
                    waker.wake_by_ref();
                }
            }
        }
    }
}

/// Ends our side and reads what the client has sent meanwhile, for a bounded while: closing with unread bytes would take
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
