//! Messages on their way to other stores.
//!
//! A store that has peers on other nodes is given a [`Transport`] by the node; before that, and on a node alone, there is none, and each
//! message is dropped and counted: consensus takes every message for one that may be lost.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;

use scheduler::StoreId;

use super::handing::Handed;
use super::shipping::{Failed, Shipment};
use crate::region::message::{MessageKind, PeerMessage};
use crate::secret::Unproven;

/// A snapshot being carried.
pub type Carrying<'a> = Pin<Box<dyn Future<Output = Result<(), Failed>> + 'a>>;

/// Messages by what they are about, in the order of [`MessageKind::NAMES`].
pub type ByKind = [u64; MessageKind::COUNT];

/// What a transport has done and holds, as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerNumbers {
    /// Messages written to a connection.
    pub messages_sent: ByKind,
    /// Messages dropped because too many waited for their store.
    pub dropped_full: ByKind,
    /// Messages dropped because their store could not be reached.
    pub dropped_unreachable: ByKind,
    /// Messages that arrived.
    pub messages_received: ByKind,
    /// Messages that wait to be sent.
    pub queued_messages: ByKind,
    /// Bytes of them.
    pub queued_bytes: u64,
    /// Bytes written to connections, snapshots included.
    pub bytes_sent: u64,
    /// Bytes that arrived.
    pub bytes_received: u64,
    /// Connections for messages that are open to other stores.
    pub open: u64,
    /// Connections opened to other stores.
    pub connected: u64,
    /// Attempts to open one that failed.
    pub connect_failed: u64,
    /// Connections to other stores that broke.
    pub broken: u64,
    /// Connections of other stores that were accepted.
    pub accepted: u64,
    /// Connections that were refused.
    pub rejected: u64,
    /// Those among them that were refused because of the cluster's secret, in the order of [`Unproven::NAMES`].
    pub unproven: [u64; Unproven::COUNT],
    /// Connections ended because of what they brought.
    pub bad_frames: u64,
    /// Stores that there are messages for and that cannot be reached.
    pub unreachable: u64,
}

/// What carries messages to the stores of their addressees. It never waits, keeps the order per store where it can, and may drop.
pub trait Transport: Debug {
    /// Sends a message, or drops and counts it.
    fn send(&self, message: PeerMessage);

    /// Says to a store that this one lives, unless other messages for it say so.
    fn send_sign(&self, to: StoreId);

    /// Whether messages wait to leave the core.
    fn is_busy(&self) -> bool;

    /// What it has done and holds.
    fn numbers(&self) -> PeerNumbers;

    /// Carries a snapshot to the store of its follower, beside the messages; done when it is installed there.
    fn carry<'a>(&'a self, shipment: &'a mut Shipment) -> Carrying<'a>;

    /// The stores that could not be reached since the last call.
    fn take_unreachable(&self) -> BTreeSet<StoreId>;

    /// What another store has said, if one refuses this store as an older copy of itself.
    fn take_disowned(&self) -> Option<String>;

    /// The stores to which something has left since the last call.
    fn take_spoken_to(&self) -> Vec<StoreId>;

    /// The folder of a store of this node, to which tables are handed over instead of being sent; none for any other.
    fn sibling_dir(&self, to: StoreId) -> Option<PathBuf>;

    /// Hands a snapshot over to a store of this node; done when it is installed there.
    fn hand_over(&self, to: StoreId, handed: Handed) -> Carrying<'_>;
}

/// One store's way to the others.
#[derive(Debug, Default)]
pub struct Outbox {
    transport: OnceCell<Rc<dyn Transport>>,
    used: Cell<bool>,
    dropped: Cell<u64>,
}

impl Outbox {
    /// Uses `transport` from now on.
    ///
    /// # Panics
    /// If there is one already.
    pub fn connect(&self, transport: Rc<dyn Transport>) {
        self.transport.set(transport).expect("a store is connected once");
    }

    /// What carries messages and snapshots, if the store is connected.
    pub fn transport(&self) -> Option<Rc<dyn Transport>> {
        self.transport.get().cloned()
    }

    /// Whether there was ever a message to send, so that a region here has another member.
    pub fn is_in_use(&self) -> bool {
        self.used.get()
    }

    /// Sends messages, or drops them.
    pub fn send(&self, messages: Vec<PeerMessage>) {
        if messages.is_empty() {
            return;
        }
        self.used.set(true);
        match self.transport.get() {
            Some(transport) => messages.into_iter().for_each(|message| transport.send(message)),
            None => self.dropped.set(self.dropped.get() + messages.len() as u64),
        }
    }

    /// Says to a store that this one lives.
    pub fn send_sign(&self, to: StoreId) {
        if let Some(transport) = self.transport.get() {
            transport.send_sign(to);
        }
    }

    /// Whether messages wait to leave the core.
    pub fn is_busy(&self) -> bool {
        self.transport.get().is_some_and(|transport| transport.is_busy())
    }

    /// The stores that could not be reached since the last call.
    pub fn take_unreachable(&self) -> BTreeSet<StoreId> {
        self.transport.get().map_or_else(BTreeSet::new, |transport| transport.take_unreachable())
    }

    /// What another store has said, if one refuses this store as an older copy of itself.
    pub fn take_disowned(&self) -> Option<String> {
        self.transport.get()?.take_disowned()
    }

    /// The stores to which something has left since the last call.
    pub fn take_spoken_to(&self) -> Vec<StoreId> {
        self.transport.get().map_or_else(Vec::new, |transport| transport.take_spoken_to())
    }

    /// What the transport has done and holds; nothing without one.
    pub fn numbers(&self) -> PeerNumbers {
        self.transport.get().map_or_else(PeerNumbers::default, |transport| transport.numbers())
    }

    /// Messages dropped because there was no transport.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}
