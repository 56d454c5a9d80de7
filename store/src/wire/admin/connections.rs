//! The connections of the status server: how many there are, which of them makes room, and the one deadline of each.
//!
//! ```text
//! silent ──asks for /live, /ready, /started──▶ probe ──┐
//!    │ └────asks for another page────────────▶ page ───┴──answered, gone or past its deadline──▶ closed
//!    └─────a newer one needs its place or its descriptor─────▶ evicted ──its thread has noticed──▶ closed
//! ```
//!
//! What holds: at most [`CONNECTIONS_MAX`] threads serve, those of evicted connections included; at most [`PAGES_MAX`] of them are busy with
//! a page that is not a probe, so that `/live` and `/ready` always find one, and of these at most [`API_MAX`] with what the scheduler may be
//! asked for, so that `/metrics` finds one whatever consoles are open; a connection that has not asked yet makes room for a newer
//! one, the oldest first, so no client keeps others out by sending nothing or little; whatever a client does, it is gone after its
//! deadline. Room is there when [`Connections::evict`] returns: the descriptor is closed by then, not only on its way.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::http::Kind;

/// Connections served at a time.
pub(super) const CONNECTIONS_MAX: usize = 32;
/// Of them those that are sent a page that is not a probe.
pub(super) const PAGES_MAX: usize = 24;
/// Of these those that the scheduler may be asked for.
pub(super) const API_MAX: usize = 8;
/// Descriptors that are held for probes while the rest of the node uses up all others.
pub(super) const RESERVE: usize = CONNECTIONS_MAX - PAGES_MAX;

/// The connections that are open.
#[derive(Debug, Default)]
pub(super) struct Connections {
    table: Mutex<Table>,
    /// Rings when a connection has been closed.
    closed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// Oldest first.
    open: Vec<Entry>,
    /// Evicted connections whose threads have not noticed yet.
    evicted: usize,
    /// The number of the next one.
    next: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    stream: Arc<TcpStream>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has not asked yet.
    Silent,
    /// It is answered with a probe's line.
    Probe,
    /// It is answered with a page.
    Page,
    /// It is answered with what the scheduler may be asked for.
    Api,
}

/// One connection with its deadline. Dropping it closes it and gives its place back.
#[derive(Debug)]
pub(super) struct Connection {
    // Dropped before the place, so that the descriptor is free when the place is.
    stream: Arc<TcpStream>,
    deadline: Instant,
    place: Place,
}

#[derive(Debug)]
struct Place {
    number: u64,
    among: Arc<Connections>,
}

impl Table {
    /// Ends the oldest of `among` that has not asked yet. Whether there is one.
    fn evict(&mut self, among: usize) -> bool {
        let mut among = self.open.iter().take(among);
        let Some(silent) = among.position(|entry| entry.stage == Stage::Silent) else {
            return false;
        };
        self.evicted += 1;
        // Its thread notices that the connection has ended; if the client has closed it already, that is as good.
        if let Err(error) = self.open.remove(silent).stream.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "a silent connection to the status port had ended already");
        }
        true
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no evicted connection is open any more. Their threads read, and a read of what was shut down ends.
    fn settled<'a>(&self, table: MutexGuard<'a, Table>) -> MutexGuard<'a, Table> {
        self.closed.wait_while(table, |table| table.evicted > 0).unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the oldest connection that has not asked yet, other than the latest one, which has had no time to. Whether there was one,
    /// whose descriptor is free now.
    pub(super) fn evict(&self) -> bool {
        let mut table = self.lock();
        let before_latest = table.open.len().saturating_sub(1);
        let evicted = table.evict(before_latest);
        drop(self.settled(table));
        evicted
    }

    /// Takes a connection in, which then has until `deadline`. Where all places are taken the oldest silent connection is closed
    /// for it; without one there is no place.
    pub(super) fn admit(self: &Arc<Self>, stream: TcpStream, deadline: Instant) -> Option<Connection> {
        let stream = Arc::new(stream);
        let mut table = self.lock();
        if table.open.len() >= CONNECTIONS_MAX {
            if !table.evict(CONNECTIONS_MAX) {
                return None;
            }
            table = self.settled(table);
        }
        let number = table.next;
        table.next += 1;
        table.open.push(Entry { number, stream: stream.clone(), stage: Stage::Silent });
        Some(Connection { stream, deadline, place: Place { number, among: self.clone() } })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.among.lock();
        let before = table.open.len();
        table.open.retain(|entry| entry.number != self.number);
        // Without an entry it was evicted.
        if table.open.len() == before {
            table.evicted -= 1;
        }
        self.among.closed.notify_all();
    }
}

impl Connection {
    /// The client has asked for something of this kind. Whether there is a place to answer it from.
    pub(super) fn asked(&self, kind: Kind) -> bool {
        let mut table = self.place.among.lock();
        let busy = |stage: Stage| table.open.iter().filter(|entry| entry.stage == stage).count();
        let (api, pages) = (busy(Stage::Api), busy(Stage::Api) + busy(Stage::Page));
        // Without an entry it has just made room for another one.
        let Some(entry) = table.open.iter_mut().find(|entry| entry.number == self.place.number) else {
            return false;
        };
        let (stage, has_place) = match kind {
            Kind::Probe => (Stage::Probe, true),
            Kind::Page => (Stage::Page, pages < PAGES_MAX),
            Kind::Api => (Stage::Api, pages < PAGES_MAX && api < API_MAX),
        };
        // One that is refused is answered with a line, as a probe is.
        entry.stage = if has_place { stage } else { Stage::Probe };
        has_place
    }

    /// Ends our side.
    pub(super) fn finish(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    #[expect(clippy::disallowed_methods, reason = "a plain thread that keeps its own deadline, never a core")]
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        (&*self.stream).read(buffer)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        (&*self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Descriptors that are held open for nothing but to be given up when a connection finds no other.
#[derive(Debug, Default)]
pub(super) struct Reserve(Vec<File>);

impl Reserve {
    /// Holds as many as it should, or as there are.
    pub(super) fn refill(&mut self) {
        while self.0.len() < RESERVE {
            // Whoever took the last ones gives them back some time, and after the next connection it is tried again.
            let Ok(file) = File::open("/dev/null") else { return };
            self.0.push(file);
        }
    }

    /// Gives one up. Whether there was one.
    pub(super) fn release(&mut self) -> bool {
        self.0.pop().is_some()
    }
}
