//! Messages on their way to other stores.
//!
//! There is no way to another store yet, so each message is dropped and counted: consensus takes every message for one that may be
//! lost. What a transport has to keep: [`Outbox::send`] never waits, keeps the order per store where it can, and may drop.

use std::cell::Cell;

use scheduler::StoreId;

use crate::region::message::PeerMessage;

/// One store's way to the others.
#[derive(Debug, Default)]
pub struct Outbox {
    dropped: Cell<u64>,
}

impl Outbox {
    /// Sends a message, or drops it.
    pub fn send(&self, to: StoreId, message: PeerMessage) {
        self.dropped.set(self.dropped.get() + 1);
        tracing::debug!(store = to.0, region = message.region.0, "a message has no way to another store");
    }

    /// Messages dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}
