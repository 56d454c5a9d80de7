//! What the peer protocol did, as plain numbers of one core.

use std::cell::Cell;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(Cell<u64>);

impl Count {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.set(self.0.get() + n);
    }

    /// What it has come to.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Counters of all links of one store.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Messages written to a connection.
    pub messages_sent: Count,
    /// Frames written to a connection.
    pub frames_sent: Count,
    /// Bytes written to connections.
    pub bytes_sent: Count,
    /// Messages dropped because the queue to their store was full.
    pub dropped_full: Count,
    /// Messages dropped because their store could not be reached.
    pub dropped_unreachable: Count,
    /// Messages that arrived.
    pub messages_received: Count,
    /// Bytes that arrived.
    pub bytes_received: Count,
    /// Connections opened to other stores.
    pub connected: Count,
    /// Attempts to open one that failed.
    pub connect_failed: Count,
    /// Connections of other stores that were accepted.
    pub accepted: Count,
    /// Connections that were refused after or for lack of an introduction.
    pub rejected: Count,
    /// Connections ended because of a frame or a message that could not be read.
    pub bad_frames: Count,
}
