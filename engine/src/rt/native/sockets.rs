//! The sockets of a core: one epoll set, which the reactor watches as a single descriptor. The ring of urgent writes is in it,
//! too.
//!
//! Asking the ring about every socket by itself costs an entry, a completion and, whenever a peer on another CPU sends
//! something, an interrupt per request. The set reports all sockets that have moved meanwhile, so the price of knowing falls
//! as the load grows. A pass of the reactor has a price, too: it renews its timers and enters the kernel several times. So
//! while there is news the set is asked again and again between the tasks, and through the reactor only when a pass is due
//! ([`pass`](super::pass)).
//!
//! Sockets are registered once, edge-triggered. A side of a socket counts as ready from an edge until an operation finds
//! nothing to do; operations are tried at once while it does, and wait for the next edge otherwise. An edge that no task
//! waits for is remembered, and one that turns out to be stale costs one vain attempt.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::io::{PollState, PollableFd};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::Core;
use super::file::io_error;

/// Sockets that are reported at a time.
const EVENTS: usize = 256;

/// How long input is gathered at most: as long as a task may compute.
const GATHERING: Duration = Duration::from_micros(500);

/// Stands for the ring of urgent writes.
const RING: u64 = u64::MAX;

/// What the set reports of a socket, for as long as it is open.
const INTEREST: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
const READABLE: EventFlags = EventFlags::IN.union(ENDED);
const WRITABLE: EventFlags = EventFlags::OUT.union(EventFlags::HUP).union(EventFlags::ERR);
const ENDED: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// The open sockets of a core.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// By descriptor.
    open: RefCell<Vec<Option<Rc<Readiness>>>>,
    set: RefCell<Option<Rc<Set>>>,
}

/// The epoll set and the task that watches it.
#[derive(Debug)]
struct Set {
    epoll: PollableFd<OwnedFd>,
    watcher: RefCell<Option<Waker>>,
    ended: Cell<bool>,
}

/// What is known of one socket.
#[derive(Debug)]
struct Readiness {
    read: Side,
    write: Side,
    /// The peer has said its last word, so reads never have to wait again.
    ended: Cell<bool>,
}

/// One direction of a socket. One task waits for it at a time.
#[derive(Debug)]
struct Side {
    ready: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

/// A socket of this core, non-blocking and closed on exec. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct CoreSocket {
    core: Core,
    readiness: Rc<Readiness>,
    // Dropped after the entry in the table is gone: a closing core must not touch a descriptor that another owner has by then.
    fd: OwnedFd,
}

impl Core {
    /// Takes a socket in. It has to be non-blocking.
    pub(crate) fn socket(&self, fd: OwnedFd) -> io::Result<CoreSocket> {
        let sockets = self.sockets();
        let readiness = Rc::new(Readiness { read: Side::new(), write: Side::new(), ended: Cell::new(false) });
        let number = fd.as_raw_fd();
        let set = sockets.set(self)?;
        epoll::add(set.epoll.get_ref(), &fd, EventData::new_u64(number as u64), INTEREST)?;
        sockets.insert(number, readiness.clone());
        Ok(CoreSocket { core: self.clone(), readiness, fd })
    }

    /// Gives the reactor its turn if that is due, then lets tasks take in what sockets have, until there is nothing or it has
    /// taken long enough.
    pub(crate) async fn gather_input(&self) {
        self.yield_if_due().await;
        let (set, began) = (self.sockets().set.borrow().clone(), self.now());
        let_others_run().await;
        let Some(set) = set else { return };
        while set.pass_on(self) {
            let_others_run().await;
            if self.now().since(began) > GATHERING {
                return;
            }
        }
    }

    /// Reaps the ring of urgent writes whenever it reports something.
    pub(crate) fn watch_ring(&self, ring: BorrowedFd<'_>) -> io::Result<()> {
        let set = self.sockets().set(self)?;
        Ok(epoll::add(set.epoll.get_ref(), ring, EventData::new_u64(RING), EventFlags::IN | EventFlags::ET)?)
    }
}

impl Sockets {
    /// Ends every connection and listener.
    pub(crate) fn shut_down(&self) {
        for (number, _) in self.open.borrow().iter().enumerate().filter(|(_, open)| open.is_some()) {
            // SAFETY: the descriptor is open: its owner takes it out of this table before closing it.
            unsafe { libc::shutdown(number as RawFd, libc::SHUT_RDWR) };
        }
    }

    /// Ends the watching.
    pub(crate) fn end(&self) {
        if let Some(set) = self.set.take() {
            set.ended.set(true);
            wake(&set.watcher);
        }
    }

    /// The set, which is made for the first socket.
    fn set(&self, core: &Core) -> io::Result<Rc<Set>> {
        if let Some(set) = &*self.set.borrow() {
            return Ok(set.clone());
        }
        let epoll = PollableFd::new(epoll::create(epoll::CreateFlags::CLOEXEC)?).map_err(io_error)?;
        let set = Rc::new(Set { epoll, watcher: RefCell::default(), ended: Cell::new(false) });
        *self.set.borrow_mut() = Some(set.clone());
        let (watched, watching) = (set.clone(), core.clone());
        core.spawn(Box::pin(async move { watched.watch(&watching).await }));
        Ok(set)
    }

    fn insert(&self, number: RawFd, readiness: Rc<Readiness>) {
        let (mut open, place) = (self.open.borrow_mut(), number as usize);
        if open.len() <= place {
            open.resize_with(place + 1, || None);
        }
        open[place] = Some(readiness);
    }

    fn remove(&self, number: RawFd) {
        self.open.borrow_mut()[number as usize] = None;
    }

    fn of(&self, number: u64) -> Option<Rc<Readiness>> {
        self.open.borrow().get(number as usize)?.clone()
    }
}

impl Set {
    /// Passes on what the set knows until the core ends.
    async fn watch(&self, core: &Core) {
        while self.has_news().await {
            core.passed();
            while self.pass_on(core) && !core.pass_is_due() {
                let_others_run().await;
            }
        }
    }

    /// Passes on what the set knows now. Whether that was anything.
    fn pass_on(&self, core: &Core) -> bool {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        // What the set has is taken without waiting; a set that cannot be read reports nothing any more, and nothing
        // but a bug can bring that about.
        let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let (reported, _) = match epoll::wait(self.epoll.get_ref(), &mut events, Some(&zero)) {
            Err(Errno::INTR) => return true,
            reported => reported.expect("an epoll set of this core can be read"),
        };
        for event in &*reported {
            if event.data.u64() == RING {
                core.urgent().reap();
                continue;
            }
            // A socket may have been closed since; then the descriptor may even be another one's, which does no harm.
            if let Some(readiness) = core.sockets().of(event.data.u64()) {
                readiness.notify(event.flags);
            }
        }
        !reported.is_empty()
    }

    /// Waits for something in the set; `false` at the end.
    async fn has_news(&self) -> bool {
        let mut state = PollState::new();
        poll_fn(|cx| {
            if self.ended.get() {
                return Poll::Ready(false);
            }
            remember(&self.watcher, cx);
            // An executor that cannot watch a descriptor any more is about to go.
            self.epoll.poll_readable(cx, &mut state).map(|polled| polled.is_ok())
        })
        .await
    }
}

impl Readiness {
    fn notify(&self, flags: EventFlags) {
        if flags.intersects(ENDED) {
            self.ended.set(true);
        }
        if flags.intersects(READABLE) {
            self.read.notify();
        }
        if flags.intersects(WRITABLE) {
            self.write.notify();
        }
    }
}

impl Side {
    /// Ready until shown otherwise: the first attempt finds out.
    fn new() -> Self {
        Self { ready: Cell::new(true), waiter: RefCell::default() }
    }

    fn notify(&self) {
        self.ready.set(true);
        wake(&self.waiter);
    }

    /// Tries `operation` if there is a chance, else waits for the next edge.
    fn attempt<T>(
        &self,
        cx: &Context<'_>,
        mut operation: impl FnMut() -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        while self.ready.get() {
            match operation() {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.ready.set(false),
                done => return Poll::Ready(done.map_err(io::Error::from)),
            }
        }
        remember(&self.waiter, cx);
        Poll::Pending
    }
}

impl CoreSocket {
    /// Tries a read-like operation, now or at the next edge.
    pub(crate) fn poll_in<T>(
        &self,
        cx: &Context<'_>,
        operation: impl FnMut() -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        self.readiness.read.attempt(cx, operation)
    }

    /// Tries a write-like operation, now or at the next edge.
    pub(crate) fn poll_out<T>(
        &self,
        cx: &Context<'_>,
        operation: impl FnMut() -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        self.readiness.write.attempt(cx, operation)
    }

    /// The descriptor alone, of which this core hears no more. The socket stays if the kernel has no descriptor to spare.
    pub(crate) fn detach(self) -> Result<OwnedFd, Self> {
        let Ok(free) = self.fd.try_clone() else { return Err(self) };
        if let Some(set) = &*self.core.sockets().set.borrow() {
            // The set knows the open socket by this descriptor, and would go on knowing it while another one is open.
            epoll::delete(set.epoll.get_ref(), &self.fd).expect("an open socket is in the set");
        }
        Ok(free)
    }

    /// A read brought less than it could have: there is nothing more until the next edge. The end is no edge that comes
    /// again, so a socket that has reported it stays readable.
    pub(crate) fn drained(&self) {
        if !self.readiness.ended.get() {
            self.readiness.read.ready.set(false);
        }
    }
}

impl AsFd for CoreSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for CoreSocket {
    fn drop(&mut self) {
        self.core.sockets().remove(self.fd.as_raw_fd());
    }
}

/// Goes to the end of the queue of runnable tasks. Whoever does that again and again starves the reactor, so this stays here.
async fn let_others_run() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

pub(super) fn wake(waiter: &RefCell<Option<Waker>>) {
    if let Some(waiter) = waiter.take() {
        waiter.wake();
    }
}

pub(super) fn remember(waiter: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut waiter = waiter.borrow_mut();
    match &mut *waiter {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waiter = Some(cx.waker().clone()),
    }
}
