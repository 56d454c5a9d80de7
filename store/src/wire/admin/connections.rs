//! The connections of the status server: how many there are, which of them makes room, and the one deadline of each.
//!
//! What holds: at most [`CONNECTIONS_MAX`] threads serve; at most [`PAGES_MAX`] of them are busy with a page that is not a
//! probe, so that `/live` and `/ready` always find one; a connection that has not asked yet makes room for a newer one, the
//! oldest first, so no client keeps others out by sending nothing or little; whatever a client does, it is gone after its deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections served at a time.
pub(super) const CONNECTIONS_MAX: usize = 32;
/// Of them those that are sent a page that is not a probe.
pub(super) const PAGES_MAX: usize = 24;

/// The connections that are open, oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
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
}

/// One connection with its deadline. Dropping it closes it and gives its place back.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Arc<TcpStream>,
    deadline: Instant,
    among: Arc<Connections>,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in, which then has until `deadline`. Where all places are taken the oldest silent connection is closed
    /// for it; without one there is no place.
    pub(super) fn admit(self: &Arc<Self>, stream: TcpStream, deadline: Instant) -> Option<Connection> {
        let stream = Arc::new(stream);
        let mut open = self.lock();
        if open.len() >= CONNECTIONS_MAX {
            let silent = open.iter().position(|entry| entry.stage == Stage::Silent)?;
            // Its thread notices that the connection has ended; if the client has closed it already, that is as good.
            let _ = open.remove(silent).stream.shutdown(Shutdown::Both);
        }
        open.push(Entry { stream: stream.clone(), stage: Stage::Silent });
        Some(Connection { stream, deadline, among: self.clone() })
    }
}

impl Connection {
    /// The client has asked, for a probe or for a page. Whether there is a place to answer it from.
    pub(super) fn asked(&self, probe: bool) -> bool {
        let mut open = self.among.lock();
        let pages = open.iter().filter(|entry| entry.stage == Stage::Page).count();
        // Without an entry it has just made room for another one.
        let Some(entry) = open.iter_mut().find(|entry| Arc::ptr_eq(&entry.stream, &self.stream)) else {
            return false;
        };
        entry.stage = if probe || pages >= PAGES_MAX { Stage::Probe } else { Stage::Page };
        probe || entry.stage == Stage::Page
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

impl Drop for Connection {
    fn drop(&mut self) {
        self.among.lock().retain(|entry| !Arc::ptr_eq(&entry.stream, &self.stream));
    }
}
