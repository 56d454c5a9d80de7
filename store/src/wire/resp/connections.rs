//! What the cores of one node share about their RESP connections: the roster of all, and a mailbox per core.
//!
//! Through a core's mailbox come connections that migrate to it, and word of connections that are to end. Both are bounded: of
//! migrating connections [`MIGRATING_MAX`] wait, further ones stay where they are; each connection is killed at most once, so
//! there are never more ids than connections.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use engine::rt::chan::{Receiver, Sender, TrySend, queue};
use engine::rt::{CpuClock, Rt};

use super::migration::Migrating;
use super::roster::{Entry, Roster};

/// Connections that may be on their way to one core.
const MIGRATING_MAX: usize = 64;

/// The connections of a node. Clones share them. The default is that of one core.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    roster: Roster,
    mailboxes: Box<[Mailbox]>,
}

#[derive(Debug)]
struct Mailbox {
    to: Sender<Migrating>,
    killed: Mutex<Vec<u64>>,
    /// Holds one item while there are ids in `killed` that its core does not know of.
    wake: Sender<()>,
    inbox: Mutex<Option<Inbox>>,
    clock: OnceLock<CpuClock>,
    /// The core's drain has begun.
    closed: AtomicBool,
}

/// A core's end of its mailbox.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// Connections that come here.
    pub(crate) migrating: Receiver<Migrating>,
    /// Wakes the task that calls [`Connections::take_killed`].
    pub(crate) killed: Receiver<()>,
}

impl Default for Connections {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Connections {
    /// Those of a node with `cores` cores.
    pub fn new(cores: usize) -> Self {
        let mailbox = |_| {
            let (to, migrating) = queue(MIGRATING_MAX);
            let (wake, killed) = queue(1);
            Mailbox {
                to,
                killed: Mutex::default(),
                wake,
                inbox: Mutex::new(Some(Inbox { migrating, killed })),
                clock: OnceLock::new(),
                closed: AtomicBool::new(false),
            }
        };
        Self(Arc::new(Shared { roster: Roster::default(), mailboxes: (0..cores).map(mailbox).collect() }))
    }

    /// All of them.
    pub fn roster(&self) -> &Roster {
        &self.0.roster
    }

    /// Opens this core's mailbox. `None` if it has none, or if it is open already.
    pub(crate) fn open(&self, rt: &Rt) -> Option<Inbox> {
        let mailbox = self.mailbox(rt.core())?;
        mailbox.clock.get_or_init(|| rt.cpu_clock());
        mailbox.inbox.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// `core` takes no connection in any more, except those that are on their way.
    pub(crate) fn close(&self, core: usize) {
        if let Some(mailbox) = self.mailbox(core) {
            mailbox.closed.store(true, Ordering::Release);
        }
    }

    /// Whether `core` takes connections in.
    pub(crate) fn is_open(&self, core: usize) -> bool {
        self.mailbox(core).is_some_and(|mailbox| !mailbox.closed.load(Ordering::Acquire))
    }

    /// The CPU clock of `core`, once it has opened its mailbox.
    pub(crate) fn cpu_clock(&self, core: usize) -> Option<&CpuClock> {
        self.mailbox(core)?.clock.get()
    }

    /// Sends a connection to `core`; it comes back if that core does not take it.
    pub(crate) fn send(&self, core: usize, migrating: Migrating) -> Result<(), Box<Migrating>> {
        let Some(mailbox) = self.mailbox(core).filter(|_| self.is_open(core)) else {
            return Err(Box::new(migrating));
        };
        mailbox.to.try_send(migrating).map_err(|refused| match refused {
            TrySend::Full(migrating) | TrySend::Closed(migrating) => Box::new(migrating),
        })
    }

    /// Ends a connection, on whichever core it is. Whether it was not being ended already.
    pub(crate) fn kill(&self, entry: &Entry) -> bool {
        let first = entry.kill();
        // Read after the mark is set: a core that has taken the connection in since then sees the mark itself.
        if first && let Some(mailbox) = self.mailbox(entry.core()) {
            mailbox.killed.lock().unwrap_or_else(PoisonError::into_inner).push(entry.id);
            match mailbox.wake.try_send(()) {
                // A core that does not know of the earlier ids yet learns of all of them at once.
                Ok(()) | Err(TrySend::Full(())) => {}
                // Its executor has ended, and all of its connections with it.
                Err(TrySend::Closed(())) => {}
            }
        }
        first
    }

    /// The connections that `core` is to end.
    pub(crate) fn take_killed(&self, core: usize) -> Vec<u64> {
        let killed = |mailbox: &Mailbox| {
            mem::take(&mut *mailbox.killed.lock().unwrap_or_else(PoisonError::into_inner))
        };
        self.mailbox(core).map(killed).unwrap_or_default()
    }

    fn mailbox(&self, core: usize) -> Option<&Mailbox> {
        self.0.mailboxes.get(core)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_core_that_serves_is_migrated_to() {
        let connections = Connections::new(2);
        assert!(connections.is_open(0) && connections.is_open(1) && !connections.is_open(2));
        connections.close(1);
        assert!(connections.is_open(0) && !connections.is_open(1));
    }
}
