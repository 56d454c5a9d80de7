//! One connection: two byte pipes over a network that loses, repeats and reorders segments.
//!
//! What a program sees is TCP: bytes in order, or a broken connection. What it costs is time: a lost segment is sent again, an
//! early one waits for its predecessors, a second copy is thrown away.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::node::{Life, NodeState};
use super::sched::{Sim, nanos};

/// Maximum bytes of one segment.
const SEGMENT_BYTES_MAX: usize = 64 << 10;

/// A connection; end 0 opened it, end 1 accepted it.
pub(crate) struct Conn {
    pub(crate) number: u64,
    pub(crate) ends: [End; 2],
}

/// One end, and the pipe that leads to it.
pub(crate) struct End {
    pub(crate) node: Rc<NodeState>,
    pub(crate) incarnation: u64,
    pub(crate) addr: SocketAddr,
    /// The program has let go of this end.
    closed: Cell<bool>,
    broken: Cell<Option<io::ErrorKind>>,
    pipe: RefCell<Pipe>,
}

/// Bytes on their way to an end.
#[derive(Default)]
struct Pipe {
    /// Bytes given to the network so far; the end of the stream counts as one.
    sent: u64,
    /// Sent and not yet acknowledged.
    unacknowledged: usize,
    finished: bool,
    /// In order so far.
    arrived: u64,
    early: BTreeMap<u64, Rc<Segment>>,
    readable: VecDeque<u8>,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Segment {
    position: u64,
    bytes: Vec<u8>,
    is_end: bool,
    first_sent: u64,
    acknowledged: Cell<bool>,
}

impl Segment {
    fn span(&self) -> u64 {
        self.bytes.len() as u64 + u64::from(self.is_end)
    }
}

impl End {
    pub(crate) fn new(node: &Rc<NodeState>, addr: SocketAddr) -> Self {
        Self {
            node: node.clone(),
            incarnation: node.incarnation.get(),
            addr,
            closed: Cell::new(false),
            broken: Cell::new(None),
            pipe: RefCell::default(),
        }
    }

    fn is_alive(&self) -> bool {
        self.node.incarnation.get() == self.incarnation
    }
}

impl Conn {
    pub(crate) fn poll_read(
        &self,
        end: usize,
        cx: &mut Context<'_>,
        into: &mut [u8],
        sim: &Rc<Sim>,
    ) -> Poll<io::Result<usize>> {
        let this = &self.ends[end];
        let mut pipe = this.pipe.borrow_mut();
        if !pipe.readable.is_empty() && !into.is_empty() {
            let mut count = pipe.readable.len().min(into.len());
            // A read may return less than there is; programs that count on more are wrong.
            if count > 1 && sim.rng.chance(0.1) {
                count = 1 + sim.rng.below(count as u64) as usize;
            }
            for (slot, byte) in into.iter_mut().zip(pipe.readable.drain(..count)) {
                *slot = byte;
            }
            let writer = pipe.writer.take();
            drop(pipe);
            wake(writer);
            return Poll::Ready(Ok(count));
        }
        if let Some(kind) = this.broken.get() {
            return Poll::Ready(Err(kind.into()));
        }
        if pipe.ended || into.is_empty() {
            return Poll::Ready(Ok(0));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn poll_write(
        self: &Rc<Self>,
        end: usize,
        cx: &mut Context<'_>,
        bytes: &[u8],
        sim: &Rc<Sim>,
    ) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.ends[end].broken.get() {
            return Poll::Ready(Err(kind.into()));
        }
        if sim.rng.chance(sim.options.net.reset) {
            sim.net.count(|stats| stats.resets += 1);
            self.reset();
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut pipe = self.ends[1 - end].pipe.borrow_mut();
        if pipe.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = sim.options.net.window_bytes.saturating_sub(pipe.unacknowledged + pipe.readable.len());
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut count = bytes.len().min(room).min(SEGMENT_BYTES_MAX);
        if count > 1 && sim.rng.chance(0.1) {
            count = 1 + sim.rng.below(count as u64) as usize;
        }
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        let segment = next_segment(&mut pipe, bytes[..count].to_vec(), false, sim);
        drop(pipe);
        self.transmit(1 - end, segment, sim);
        Poll::Ready(Ok(count))
    }

    /// Sends the end of this side's stream, once.
    pub(crate) fn finish(self: &Rc<Self>, end: usize, sim: &Rc<Sim>) -> io::Result<()> {
        if let Some(kind) = self.ends[end].broken.get() {
            return Err(kind.into());
        }
        let mut pipe = self.ends[1 - end].pipe.borrow_mut();
        if !pipe.finished {
            pipe.finished = true;
            let segment = next_segment(&mut pipe, Vec::new(), true, sim);
            drop(pipe);
            self.transmit(1 - end, segment, sim);
        }
        Ok(())
    }

    /// The program lets go of its end.
    pub(crate) fn close(self: &Rc<Self>, end: usize, sim: &Rc<Sim>) {
        let this = &self.ends[end];
        if this.closed.replace(true) || !this.is_alive() {
            return;
        }
        if this.pipe.borrow().readable.is_empty() {
            // A broken connection has nothing left to end.
            let _ = self.finish(end, sim);
        } else {
            self.send_reset(1 - end, sim);
        }
    }

    /// Both ends find the connection reset, now.
    pub(crate) fn reset(&self) {
        for end in 0..2 {
            self.break_end(end, io::ErrorKind::ConnectionReset);
        }
    }

    /// Notifies end `to` that the other one is gone, if the news gets through.
    pub(crate) fn send_reset(self: &Rc<Self>, to: usize, sim: &Rc<Sim>) {
        self.send_reset_since(to, sim.clock(), sim);
    }

    fn send_reset_since(self: &Rc<Self>, to: usize, began: u64, sim: &Rc<Sim>) {
        let conn = self.clone();
        match self.delay(to, sim) {
            Some(delay) => sim.after(delay, move |_| conn.break_end(to, io::ErrorKind::ConnectionReset)),
            None if sim.clock() - began < nanos(sim.options.net.broken_after) => {
                sim.after(sim.options.net.retransmit_ns, move |sim| conn.send_reset_since(to, began, sim));
            }
            None => {}
        }
    }

    fn break_end(&self, end: usize, kind: io::ErrorKind) {
        let this = &self.ends[end];
        if this.broken.get().is_none() {
            this.broken.set(Some(kind));
        }
        let reader = this.pipe.borrow_mut().reader.take();
        let writer = self.ends[1 - end].pipe.borrow_mut().writer.take();
        wake(reader);
        wake(writer);
    }

    /// How long something takes to end `to`; `None` when it is lost.
    fn delay(&self, to: usize, sim: &Rc<Sim>) -> Option<u64> {
        sim.net.delay(sim, self.ends[1 - to].node.id, self.ends[to].node.id)
    }

    /// Sends a segment towards end `to`, again and again until it is acknowledged or the connection breaks.
    fn transmit(self: &Rc<Self>, to: usize, segment: Rc<Segment>, sim: &Rc<Sim>) {
        let (sender, receiver) = (&self.ends[1 - to], &self.ends[to]);
        if segment.acknowledged.get() || sender.broken.get().is_some() || !sender.is_alive() {
            return;
        }
        if sim.clock().saturating_sub(segment.first_sent) > nanos(sim.options.net.broken_after) {
            self.break_end(1 - to, io::ErrorKind::TimedOut);
            return;
        }
        let same_node = sender.node.id == receiver.node.id;
        match self.delay(to, sim) {
            Some(delay) => {
                self.arrive_later(to, &segment, delay, sim);
                if !same_node && sim.rng.chance(sim.options.net.duplicate) {
                    sim.net.count(|stats| stats.duplicated += 1);
                    self.arrive_later(to, &segment, delay * 2, sim);
                }
            }
            None => self.transmit_again(to, segment, sim),
        }
    }

    fn transmit_again(self: &Rc<Self>, to: usize, segment: Rc<Segment>, sim: &Rc<Sim>) {
        let conn = self.clone();
        sim.after(sim.options.net.retransmit_ns, move |sim| conn.transmit(to, segment, sim));
    }

    fn arrive_later(self: &Rc<Self>, to: usize, segment: &Rc<Segment>, delay: u64, sim: &Rc<Sim>) {
        let (conn, segment) = (self.clone(), segment.clone());
        sim.after(delay, move |sim| conn.arrive(to, segment, sim));
    }

    fn arrive(self: &Rc<Self>, to: usize, segment: Rc<Segment>, sim: &Rc<Sim>) {
        let (sender, receiver) = (&self.ends[1 - to], &self.ends[to]);
        let numbers = [6, self.number, segment.position];
        sim.trace(
            numbers,
            format_args!("net {} -> {} {} bytes", sender.node, receiver.node, segment.bytes.len()),
        );
        let powered = receiver.node.life.get() != Life::Off;
        if !powered || sim.net.is_cut(sender.node.id, receiver.node.id) {
            return self.transmit_again(to, segment, sim);
        }
        // This end has no owner any more: its node was started anew, or its program has let go of it.
        if !receiver.is_alive() || (receiver.closed.get() && !segment.is_end) {
            return self.send_reset(1 - to, sim);
        }
        if receiver.broken.get().is_some() {
            return;
        }
        self.take_in(receiver, &segment, sim);
        if self.delay(1 - to, sim).is_none() {
            // The acknowledgement is lost, so the sender does not know.
            return self.transmit_again(to, segment, sim);
        }
        if !segment.acknowledged.replace(true) {
            let mut pipe = receiver.pipe.borrow_mut();
            pipe.unacknowledged -= segment.bytes.len();
            let writer = pipe.writer.take();
            drop(pipe);
            wake(writer);
        }
    }

    fn take_in(&self, receiver: &End, segment: &Rc<Segment>, sim: &Rc<Sim>) {
        let mut pipe = receiver.pipe.borrow_mut();
        if segment.position < pipe.arrived {
            return;
        }
        if segment.position > pipe.arrived {
            sim.net.count(|stats| stats.reordered += 1);
        }
        pipe.early.insert(segment.position, segment.clone());
        loop {
            let next = pipe.arrived;
            let Some(segment) = pipe.early.remove(&next) else { break };
            pipe.arrived += segment.span();
            pipe.readable.extend(&segment.bytes);
            pipe.ended |= segment.is_end;
        }
        let reader = pipe.reader.take();
        drop(pipe);
        wake(reader);
    }
}

fn next_segment(pipe: &mut Pipe, bytes: Vec<u8>, is_end: bool, sim: &Rc<Sim>) -> Rc<Segment> {
    let segment = Segment {
        position: pipe.sent,
        bytes,
        is_end,
        first_sent: sim.clock(),
        acknowledged: Cell::new(false),
    };
    pipe.sent += segment.span();
    pipe.unacknowledged += segment.bytes.len();
    Rc::new(segment)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
