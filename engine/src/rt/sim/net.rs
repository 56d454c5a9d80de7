//! The network between the simulated nodes: links, listeners, connections.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use super::conn::{Conn, End};
use super::core::SimCore;
use super::node::{Life, NodeState};
use super::sched::{Sim, nanos};
use crate::rt::local::{Answer, oneshot};
use crate::rt::net::ListenOptions;
use crate::rt::rng::Rng;

/// Ports that the network hands out by itself start here.
const FIRST_FREE_PORT: u16 = 32_768;

/// How long a lost connection attempt waits before it is repeated, nanoseconds.
const CONNECT_AGAIN_NS: u64 = 1_000_000_000;

/// How long an attempt to accept takes that fails, nanoseconds.
const ACCEPT_FAILS_NS: u64 = 2_000;

/// The links and what runs over them.
pub(crate) struct Net {
    cut: RefCell<BTreeSet<(u16, u16)>>,
    extra_delay: RefCell<BTreeMap<(u16, u16), u64>>,
    listeners: RefCell<Vec<Rc<ListenerState>>>,
    conns: RefCell<Vec<Weak<Conn>>>,
    conns_opened: Cell<u64>,
    next_port: Cell<u16>,
    /// Where names lead.
    names: RefCell<BTreeMap<String, IpAddr>>,
    rng: Rng,
    stats: Cell<NetStats>,
}

/// What the network has done, so that a test can assert that its faults happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Connections established.
    pub connected: u64,
    /// Segments (or acknowledgements) lost by chance or on a cut link.
    pub lost: u64,
    /// Segments that arrived twice.
    pub duplicated: u64,
    /// Segments that overtook an earlier one.
    pub reordered: u64,
    /// Connections reset by chance or by script.
    pub resets: u64,
    /// Connections that could not be accepted for want of a descriptor; the same one again at each attempt.
    pub accepts_failed: u64,
}

/// A listening socket.
pub(crate) struct ListenerState {
    node: Rc<NodeState>,
    incarnation: u64,
    addr: SocketAddr,
    options: ListenOptions,
    waiting: RefCell<VecDeque<Rc<Conn>>>,
    acceptor: RefCell<Option<Waker>>,
}

impl Net {
    pub(crate) fn new(rng: &Rng) -> Self {
        Self {
            cut: RefCell::default(),
            extra_delay: RefCell::default(),
            listeners: RefCell::default(),
            conns: RefCell::default(),
            conns_opened: Cell::new(0),
            next_port: Cell::new(FIRST_FREE_PORT),
            names: RefCell::default(),
            rng: rng.fork(0x006E_6574),
            stats: Cell::default(),
        }
    }

    pub(crate) fn count(&self, add: impl FnOnce(&mut NetStats)) {
        let mut stats = self.stats.get();
        add(&mut stats);
        self.stats.set(stats);
    }

    pub(crate) fn stats(&self) -> NetStats {
        self.stats.get()
    }

    pub(crate) fn is_cut(&self, from: u16, to: u16) -> bool {
        self.cut.borrow().contains(&(from, to))
    }

    pub(crate) fn set_cut(&self, from: u16, to: u16, cut: bool) {
        let mut links = self.cut.borrow_mut();
        if cut {
            links.insert((from, to))
        } else {
            links.remove(&(from, to))
        };
    }

    pub(crate) fn set_extra_delay(&self, from: u16, to: u16, delay: Duration) {
        self.extra_delay.borrow_mut().insert((from, to), nanos(delay));
    }

    pub(crate) fn name(&self, name: &str, leads_to: IpAddr) {
        self.names.borrow_mut().insert(name.to_owned(), leads_to);
    }

    pub(crate) fn heal(&self) {
        self.cut.borrow_mut().clear();
        self.extra_delay.borrow_mut().clear();
    }

    /// How long one segment takes; `None` when it is lost.
    pub(crate) fn delay(&self, sim: &Rc<Sim>, from: u16, to: u16) -> Option<u64> {
        let options = &sim.options.net;
        if from == to {
            return Some(self.rng.between(options.loopback_ns));
        }
        if self.is_cut(from, to) || self.rng.chance(options.loss) {
            self.count(|stats| stats.lost += 1);
            return None;
        }
        let straggles = if self.rng.chance(options.straggle) { 1 + self.rng.below(100) } else { 1 };
        let extra = self.extra_delay.borrow().get(&(from, to)).copied().unwrap_or(0);
        Some(self.rng.between(options.latency_ns).saturating_mul(straggles).saturating_add(extra))
    }

    /// A node has died; with `resets`, its kernel lives on and notifies the peers.
    pub(crate) fn node_died(&self, sim: &Rc<Sim>, node: &Rc<NodeState>, resets: bool) {
        let orphaned: Vec<Rc<ListenerState>> =
            self.listeners.borrow_mut().extract_if(.., |listener| listener.node.id == node.id).collect();
        drop(orphaned);
        for conn in self.live_conns() {
            for end in 0..2 {
                if resets && conn.ends[end].node.id == node.id {
                    conn.send_reset(1 - end, sim);
                }
            }
        }
    }

    /// Resets every connection between two nodes.
    pub(crate) fn reset_between(&self, one: u16, other: u16) {
        for conn in self.live_conns() {
            let ids = [conn.ends[0].node.id, conn.ends[1].node.id];
            if ids == [one, other] || ids == [other, one] {
                self.count(|stats| stats.resets += 1);
                conn.reset();
            }
        }
    }

    fn live_conns(&self) -> Vec<Rc<Conn>> {
        let mut conns = self.conns.borrow_mut();
        conns.retain(|conn| conn.strong_count() > 0);
        conns.iter().filter_map(Weak::upgrade).collect()
    }

    fn free_port(&self) -> u16 {
        let port = self.next_port.get();
        self.next_port.set(if port == u16::MAX { FIRST_FREE_PORT } else { port + 1 });
        port
    }

    /// One of the listeners on a port, as the kernel spreads connections over those that share it.
    fn listener(&self, node: &NodeState, port: u16) -> Option<Rc<ListenerState>> {
        let listeners = self.listeners.borrow();
        let able: Vec<_> = listeners
            .iter()
            .filter(|listener| listener.node.id == node.id && listener.addr.port() == port)
            .collect();
        match able.len() as u64 {
            0 => None,
            count => Some(able[self.rng.below(count) as usize].clone()),
        }
    }

    fn open(&self, client: End, server: End) -> Rc<Conn> {
        let number = self.conns_opened.get();
        self.conns_opened.set(number + 1);
        self.count(|stats| stats.connected += 1);
        let conn = Rc::new(Conn { number, ends: [client, server] });
        self.conns.borrow_mut().push(Rc::downgrade(&conn));
        conn
    }
}

impl ListenerState {
    fn offer(&self, conn: Rc<Conn>) {
        self.waiting.borrow_mut().push_back(conn);
        let acceptor = self.acceptor.borrow_mut().take();
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
    }

    fn is_full(&self) -> bool {
        self.waiting.borrow().len() >= self.options.backlog as usize
    }
}

/// A connection attempt on its way.
struct Attempt {
    from: Rc<NodeState>,
    incarnation: u64,
    target: Rc<NodeState>,
    addr: SocketAddr,
    began: u64,
    answer: Answer<io::Result<Rc<Conn>>>,
}

impl Attempt {
    fn knock(self, sim: &Rc<Sim>) {
        if self.from.incarnation.get() != self.incarnation {
            return;
        }
        if sim.clock() - self.began > nanos(sim.options.net.connect_timeout) {
            return self.answer.send(Err(io::ErrorKind::TimedOut.into()));
        }
        match sim.net.delay(sim, self.from.id, self.target.id) {
            Some(delay) => sim.after(delay, move |sim| self.arrive(sim)),
            None => self.knock_again(sim),
        }
    }

    fn knock_again(self, sim: &Rc<Sim>) {
        sim.after(CONNECT_AGAIN_NS, move |sim| self.knock(sim));
    }

    fn arrive(self, sim: &Rc<Sim>) {
        let listener = sim.net.listener(&self.target, self.addr.port());
        let silent = self.target.life.get() == Life::Off || listener.as_ref().is_some_and(|l| l.is_full());
        let back = sim.net.delay(sim, self.target.id, self.from.id);
        let (false, Some(back)) = (silent, back) else { return self.knock_again(sim) };
        match listener {
            Some(listener) => {
                let client_addr = SocketAddr::new(self.from.ip(), sim.net.free_port());
                let mut client = End::new(&self.from, client_addr);
                client.incarnation = self.incarnation;
                let conn = sim.net.open(client, End::new(&self.target, self.addr));
                listener.offer(conn.clone());
                sim.after(back, move |_| self.answer.send(Ok(conn)));
            }
            None => sim.after(back, move |_| self.answer.send(Err(io::ErrorKind::ConnectionRefused.into()))),
        }
    }
}

impl SimCore {
    /// An address with a port without a listener.
    pub(crate) fn reserve_port(&self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let (sim, node) = (self.sim(), self.node());
        let port = if addr.port() == 0 { sim.net.free_port() } else { addr.port() };
        match sim.net.listener(node, port) {
            Some(_) => Err(io::ErrorKind::AddrInUse.into()),
            None => Ok(SocketAddr::new(addr.ip(), port)),
        }
    }

    pub(crate) fn listen(&self, addr: SocketAddr, options: ListenOptions) -> io::Result<SimListener> {
        let (sim, node) = (self.sim(), self.node());
        let own = addr.ip().is_unspecified() || addr.ip().is_loopback() || addr.ip() == node.ip();
        if !own {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let port = if addr.port() == 0 { sim.net.free_port() } else { addr.port() };
        let mut listeners = sim.net.listeners.borrow_mut();
        let mut taken =
            listeners.iter().filter(|other| other.node.id == node.id && other.addr.port() == port);
        if taken.any(|other| !(other.options.share_port && options.share_port)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let state = Rc::new(ListenerState {
            node: node.clone(),
            incarnation: self.incarnation(),
            addr: SocketAddr::new(addr.ip(), port),
            options,
            waiting: RefCell::default(),
            acceptor: RefCell::default(),
        });
        listeners.push(state.clone());
        Ok(SimListener { sim: sim.clone(), state })
    }

    /// The name of `NAME:PORT` is looked up after a while, as a resolver does.
    pub(crate) async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        let (name, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
        let port = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        let name = name.to_owned();
        self.blocking(|| ()).await?;
        let found = match name.as_str() {
            "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
            name => self.sim().net.names.borrow().get(name).copied(),
        };
        Ok(found.map(|ip| SocketAddr::new(ip, port)).into_iter().collect())
    }

    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<SimStream> {
        let (sim, from) = (self.sim(), self.node());
        let near = addr.ip().is_loopback() || addr.ip().is_unspecified();
        let target = if near {
            Some(from.clone())
        } else {
            sim.nodes.borrow().iter().find(|node| node.ip() == addr.ip()).cloned()
        };
        let Some(target) = target else { return Err(io::ErrorKind::HostUnreachable.into()) };
        let (answer, connected) = oneshot();
        let (from, incarnation, began) = (from.clone(), self.incarnation(), sim.clock());
        Attempt { from, incarnation, target, addr, began, answer }.knock(sim);
        let conn = connected.await.unwrap_or_else(|| Err(io::ErrorKind::ConnectionReset.into()))?;
        Ok(SimStream::new(sim, conn, 0))
    }
}

/// A listening socket of a simulated core.
pub(crate) struct SimListener {
    sim: Rc<Sim>,
    state: Rc<ListenerState>,
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimListener({})", self.state.addr)
    }
}

impl SimListener {
    /// While the node has no descriptor left, what waits goes on waiting and each attempt fails, as in the kernel.
    pub(crate) async fn accept(&self) -> io::Result<(SimStream, SocketAddr)> {
        poll_fn(|cx| {
            if self.state.waiting.borrow().is_empty() {
                *self.state.acceptor.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        if let Err(error) = self.state.node.disk.descriptor() {
            self.sim.net.count(|stats| stats.accepts_failed += 1);
            // It takes a system call, so that whoever tries again at once keeps its core busy and not the whole world.
            let (answer, over) = oneshot();
            self.sim.after(ACCEPT_FAILS_NS, move |_| answer.send(()));
            // Without an answer the world is being taken down, and this task with it.
            let _ = over.await;
            return Err(error);
        }
        // This is the only place that takes from the queue, and nothing has been waited for since it was looked at.
        let conn = self.state.waiting.borrow_mut().pop_front().expect("a connection waits");
        let from = conn.ends[0].addr;
        Ok((SimStream::new(&self.sim, conn, 1), from))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.state.addr)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.sim.net.listeners.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.state));
        let alive = self.state.node.incarnation.get() == self.state.incarnation;
        for conn in self.state.waiting.take() {
            if alive {
                conn.send_reset(0, &self.sim);
            }
        }
    }
}

/// One end of a connection; both halves of a split stream share it.
#[derive(Clone, Debug)]
pub(crate) struct SimStream(Rc<StreamEnd>);

struct StreamEnd {
    sim: Rc<Sim>,
    conn: Rc<Conn>,
    end: usize,
}

impl fmt::Debug for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} end {}", self.conn.number, self.end)
    }
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        self.conn.close(self.end, &self.sim);
    }
}

/// A stream between two cores of its world.
#[derive(Debug)]
pub(crate) struct LetGo {
    stream: ManuallyDrop<SimStream>,
    /// Of the world.
    thread: ThreadId,
}

// SAFETY: what crosses cores has to be `Send`, and all cores of a simulated world run on the thread that made it. The stream is touched on
// that thread only: `take` asserts it, and elsewhere a drop leaves the stream alone.
unsafe impl Send for LetGo {}

impl LetGo {
    pub(crate) fn take(self) -> SimStream {
        assert_eq!(std::thread::current().id(), self.thread, "a simulated connection left its world");
        SimStream::clone(&self.stream)
    }
}

impl Drop for LetGo {
    fn drop(&mut self) {
        if std::thread::current().id() == self.thread {
            // SAFETY: nothing uses the stream after the drop of its only owner.
            unsafe { ManuallyDrop::drop(&mut self.stream) };
        }
    }
}

impl SimStream {
    fn new(sim: &Rc<Sim>, conn: Rc<Conn>, end: usize) -> Self {
        Self(Rc::new(StreamEnd { sim: sim.clone(), conn, end }))
    }

    /// Lets the connection go, unless another half of it is in use.
    pub(crate) fn detach(self) -> Result<LetGo, Self> {
        match Rc::strong_count(&self.0) {
            1 => Ok(LetGo { stream: ManuallyDrop::new(self), thread: std::thread::current().id() }),
            _ => Err(self),
        }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.conn.poll_read(self.0.end, cx, into, &self.0.sim)
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.conn.poll_write(self.0.end, cx, bytes, &self.0.sim)
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.0.conn.ends[self.0.end].addr
    }

    pub(crate) fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.conn.finish(self.0.end, &self.0.sim))
    }
}
