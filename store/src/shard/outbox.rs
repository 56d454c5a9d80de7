//! Messages on their way to other stores.
//!
//! A store that has peers on other nodes is given a [`Transport`] by the node; before that, and on a node alone, there is none, and each
//! message is dropped and counted: consensus takes every message for one that may be lost.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use scheduler::StoreId;

use super::shipping::{Failed, Shipment};
use crate::region::message::PeerMessage;

/// A snapshot being carried.
pub type Carrying<'a> = Pin<Box<dyn Future<Output = Result<(), Failed>> + 'a>>;

/// What carries messages to the stores of their addressees. It never waits, keeps the order per store where it can, and may drop.
pub trait Transport: Debug {
    /// Sends a message, or drops and counts it.
    fn send(&self, message: PeerMessage);

    /// Whether messages wait to leave the core.
    fn is_busy(&self) -> bool;

    /// Carries a snapshot to the store of its follower, beside the messages; done when it is installed there.
    fn carry<'a>(&'a self, shipment: &'a mut Shipment) -> Carrying<'a>;

    /// The stores that could not be reached since the last call.
    fn take_unreachable(&self) -> BTreeSet<StoreId>;
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

    /// Whether messages wait to leave the core.
    pub fn is_busy(&self) -> bool {
        self.transport.get().is_some_and(|transport| transport.is_busy())
    }

    /// The stores that could not be reached since the last call.
    pub fn take_unreachable(&self) -> BTreeSet<StoreId> {
        self.transport.get().map_or_else(BTreeSet::new, |transport| transport.take_unreachable())
    }

    /// Messages dropped because there was no transport.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}
