//! One connection on the core that serves it: what `HELLO`, `AUTH`, `MULTI` and `CLIENT` change about it.
//!
//! What other cores may know of it lies in its entry in the [`roster`](super::roster).

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::Waker;

use engine::rt::chan::Sender;

use super::reply::Protocol;
use super::roster::Listing;
use super::transaction::Transaction;
use crate::descriptors::silent::{Given, Unasked};
use crate::gateway::StreamId;

/// A connection's state, shared by its session and its server.
#[derive(Debug)]
pub struct ConnectionState {
    /// What all cores know of it.
    pub entry: Arc<Listing>,
    protocol: Cell<Protocol>,
    /// Whether it may issue commands.
    pub authenticated: Cell<bool>,
    /// Its transaction, and what it watches.
    pub transaction: RefCell<Transaction>,
    /// What its session keeps in memory, if that is much.
    pub held: Cell<Held>,
    /// Others wait for the memory that it holds and it is too slow, or the server stops and it takes nothing: its session ends.
    pub evicted: Cell<bool>,
    /// As long as it gives way to newcomers, because it has asked for nothing.
    unasked: RefCell<Option<Unasked>>,
    /// Who waits for its place: its session ends.
    heir: RefCell<Option<Sender<Given>>>,
    /// It has killed itself: its session ends once that command is answered.
    pub leaving: Cell<bool>,
    /// Wakes its session.
    pub waker: RefCell<Option<Waker>>,
}

/// What a session keeps in memory and others may wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Of an incomplete request that its client could go on with, bytes.
    pub input: usize,
    /// Of replies that its client could read, bytes.
    pub output: usize,
    /// What it has sent so far, bytes.
    pub read_bytes: u64,
    /// What it has taken so far, bytes.
    pub written_bytes: u64,
}

/// What a connection takes along to another core. It has no transaction and watches nothing.
#[derive(Debug)]
pub(crate) struct Packed {
    entry: Arc<Listing>,
    protocol: Protocol,
    authenticated: bool,
}

impl From<Packed> for ConnectionState {
    fn from(Packed { entry, protocol, authenticated }: Packed) -> Self {
        Self {
            entry,
            protocol: Cell::new(protocol),
            authenticated: Cell::new(authenticated),
            transaction: RefCell::default(),
            held: Cell::default(),
            evicted: Cell::new(false),
            unasked: RefCell::default(),
            heir: RefCell::default(),
            leaving: Cell::new(false),
            waker: RefCell::new(None),
        }
    }
}

impl ConnectionState {
    /// A new connection.
    pub fn new(entry: Listing, authenticated: bool) -> Self {
        Packed { entry: Arc::new(entry), protocol: Protocol::default(), authenticated }.into()
    }

    /// It gives way to newcomers until it has asked for something.
    pub(super) fn gives_way(&self, unasked: Unasked) {
        *self.unasked.borrow_mut() = Some(unasked);
    }

    /// It asks for something, and keeps its place for it.
    pub(super) fn has_asked(&self) {
        if self.unasked.borrow().is_some() {
            self.unasked.take();
        }
    }

    /// Ends it for a newcomer, unless it has asked for something. Whether it ends.
    pub(super) fn give_way(&self, heir: Sender<Given>) -> bool {
        let gives_way = self.unasked.take().is_some();
        if gives_way {
            *self.heir.borrow_mut() = Some(heir);
            self.wake();
        }
        gives_way
    }

    /// Whether a newcomer waits for its place.
    pub(super) fn is_to_give_way(&self) -> bool {
        self.heir.borrow().is_some()
    }

    /// Who waits for its place, if a newcomer does.
    pub(super) fn heir(&self) -> Option<Sender<Given>> {
        self.heir.take()
    }

    /// What the connection takes along.
    pub(crate) fn pack(&self) -> Packed {
        debug_assert!(self.transaction.borrow().is_idle(), "a transaction stays on its core");
        Packed {
            entry: self.entry.clone(),
            protocol: self.protocol.get(),
            authenticated: self.authenticated.get(),
        }
    }

    /// Whose writes the connection's are.
    pub fn stream(&self) -> StreamId {
        StreamId(self.entry.id)
    }

    /// The protocol that it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol.get()
    }

    /// It speaks `protocol` from the next reply on.
    pub fn speak(&self, protocol: Protocol) {
        self.protocol.set(protocol);
        self.entry.speaks(protocol);
    }

    /// Shows other cores how many commands wait for `EXEC`.
    pub fn show_queued(&self) {
        self.entry.queues(self.transaction.borrow().queued());
    }

    /// Back to how it began, for `RESET`.
    pub fn reset(&self, authenticated: bool) {
        self.speak(Protocol::default());
        self.authenticated.set(authenticated);
        self.entry.forget_name();
        self.transaction.take();
        self.show_queued();
    }

    /// Lets its session look at what has changed.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}
