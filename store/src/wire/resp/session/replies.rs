//! The replies of one connection that are written and not sent yet.
//!
//! They lie in one buffer, which is borrowed from the core while there is something to say and returned when all of it is sent.
//! What is kept is charged to the core. Invariant: `sent` is at most the length of `bytes`, and 0 while `bytes` is empty.

use std::io;
use std::mem;
use std::task::{Context, Poll};

use engine::rt::Stream;

use crate::memory::Charge;
use crate::wire::resp::reply::{Protocol, Writer};
use crate::wire::resp::server::Server;

/// Maximum bytes of replies that are kept although they are sent, unless more than that is unsent.
const SENT_BYTES_MAX: usize = 256 << 10;
/// The first replies are taken to be this big, until they have shown what they are, bytes.
const REPLY_BYTES_GUESS: usize = 2 << 20;

/// Replies on their way to the client.
#[derive(Debug)]
pub(super) struct Replies {
    /// The first `sent` bytes are sent.
    bytes: Vec<u8>,
    sent: usize,
    charge: Charge,
    /// The size that the next reply is expected to have at most, bytes.
    expected_bytes: usize,
}

impl Replies {
    /// None yet; what is kept is charged to `charge`.
    pub(super) fn new(charge: Charge) -> Self {
        Self { bytes: Vec::new(), sent: 0, charge, expected_bytes: REPLY_BYTES_GUESS }
    }

    /// Whether everything is sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Bytes that are not sent yet.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// The largest of the latest replies, bytes.
    pub(super) fn expected_bytes(&self) -> usize {
        self.expected_bytes
    }

    /// A reply of `bytes` was written after others that say nothing about it. Large ones are forgotten slowly.
    pub(super) fn saw(&mut self, bytes: usize) {
        self.expected_bytes = (self.expected_bytes - self.expected_bytes / 8).max(bytes);
    }

    /// Charges what the next reply will need, before it is written.
    pub(super) fn reserve(&mut self, charge: Charge) {
        self.charge.join(charge);
    }

    /// Where the next reply goes.
    pub(super) fn writer(&mut self, server: &Server, protocol: Protocol) -> Writer<'_> {
        if self.bytes.capacity() == 0 {
            self.bytes = server.lend_buffer();
        }
        Writer::new(&mut self.bytes, protocol)
    }

    /// Writes one reply that was answered in place; it counts as expected at once.
    pub(super) fn write_in_place(
        &mut self,
        server: &Server,
        protocol: Protocol,
        write: impl FnOnce(&mut Writer<'_>),
    ) {
        let mut writer = self.writer(server, protocol);
        let before = writer.written();
        write(&mut writer);
        let bytes = writer.written() - before;
        self.expected_bytes = self.expected_bytes.max(bytes);
    }

    /// Sends some of it. Returns how much, bytes; 0 where there is nothing to send or the socket takes nothing now.
    pub(super) fn send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        server: &Server,
    ) -> io::Result<usize> {
        if self.is_sent() {
            return Ok(0);
        }
        let Poll::Ready(written) = stream.poll_write(cx, &self.bytes[self.sent..]) else {
            return Ok(0);
        };
        let written = written?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        server.counters.writes.add_one();
        server.counters.bytes_out.add(written as u64);
        self.sent += written;
        if self.is_sent() {
            self.give_back(server);
        } else if self.sent >= SENT_BYTES_MAX && 2 * self.sent >= self.bytes.len() {
            // A client that reads a little slower than it asks never lets the buffer run empty. What is unsent is copied, so
            // it must not be more than what has been sent since the last time.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        Ok(written)
    }

    /// Charges what is kept, and `waiting_bytes` of replies that wait for those before them. Returns the sum, bytes.
    pub(super) fn keep(&mut self, waiting_bytes: usize) -> usize {
        let kept = if self.bytes.is_empty() { 0 } else { self.bytes.capacity() };
        let bytes = kept + waiting_bytes;
        if bytes != self.charge.bytes() {
            self.charge.set(bytes);
        }
        bytes
    }

    /// Returns the buffer to the core.
    pub(super) fn give_back(&mut self, server: &Server) {
        self.sent = 0;
        server.return_buffer(mem::take(&mut self.bytes));
    }

    /// Length and capacity of the buffer, bytes.
    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> (usize, usize) {
        (self.bytes.len(), self.bytes.capacity())
    }
}
