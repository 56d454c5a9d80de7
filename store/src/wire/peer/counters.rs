//! What the peer protocol did, as plain numbers of one core.

use std::cell::Cell;

use crate::region::message::{MessageKind, PeerMessage};
use crate::secret::Unproven;

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

/// Messages by what they are about.
#[derive(Debug, Default)]
pub struct CountByKind([Cell<u64>; MessageKind::COUNT]);

impl CountByKind {
    /// Counts messages.
    pub fn add<'a>(&self, messages: impl IntoIterator<Item = &'a PeerMessage>) {
        for message in messages {
            let count = &self.0[message.kind().place()];
            count.set(count.get() + 1);
        }
    }

    /// Takes messages back that were counted, where the number is that of what waits.
    pub(super) fn take<'a>(&self, messages: impl IntoIterator<Item = &'a PeerMessage>) {
        for message in messages {
            let count = &self.0[message.kind().place()];
            count.set(count.get() - 1);
        }
    }

    /// All of them together.
    pub fn get(&self) -> u64 {
        self.0.iter().map(Cell::get).sum()
    }

    /// By kind, in the order of [`MessageKind::NAMES`].
    pub fn by_kind(&self) -> [u64; MessageKind::COUNT] {
        std::array::from_fn(|place| self.0[place].get())
    }
}

/// Connections and calls of nodes that were refused because of the cluster's secret, by reason.
#[derive(Debug, Default)]
pub struct UnprovenCounts([Count; Unproven::COUNT]);

impl UnprovenCounts {
    /// Counts one.
    pub fn add(&self, why: Unproven) {
        self.0[why.place()].add(1);
    }

    /// By reason, in the order of [`Unproven::NAMES`].
    pub fn get(&self) -> [u64; Unproven::COUNT] {
        std::array::from_fn(|place| self.0[place].get())
    }
}

/// Counters of all links of one store.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Messages written to a connection.
    pub messages_sent: CountByKind,
    /// Frames written to a connection.
    pub frames_sent: Count,
    /// Bytes written to connections.
    pub bytes_sent: Count,
    /// Messages dropped because the queue to their store was full.
    pub dropped_full: CountByKind,
    /// Messages dropped because their store could not be reached.
    pub dropped_unreachable: CountByKind,
    /// Messages that arrived.
    pub messages_received: CountByKind,
    /// Bytes that arrived.
    pub bytes_received: Count,
    /// Connections opened to other stores.
    pub connected: Count,
    /// Attempts to open one that failed.
    pub connect_failed: Count,
    /// Connections to other stores that broke.
    pub broken: Count,
    /// Connections of other stores that were accepted.
    pub accepted: Count,
    /// Connections that were refused: after or for lack of an introduction, or because their store is not known.
    pub rejected: Count,
    /// Those among them that were refused because of the cluster's secret.
    pub unproven: UnprovenCounts,
    /// Connections ended because of a frame or a message that could not be read.
    pub bad_frames: Count,
}
