//! A connection as the byte stream that h2 reads and writes, with buffered writes.
//!
//! h2 flushes as often as it likes; that only fills [`Io`]'s buffer. The socket is written once per turn, when the
//! connection's driver calls [`Outlet::poll_flush`], or when the buffer is full. A full buffer that the socket does not take
//! makes h2 wait, and that is how a slow reader slows down its own answers and nothing else.
//!
//! h2 reads as long as there is something, which may be for ever, and frames that it has to ignore never lead to a call. So it reads
//! no further than the driver has allowed with [`Outlet::allow`]; beyond that, reads return pending, and the driver decides.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use engine::rt::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes collected before the socket is written within a turn.
const OUT_BYTES_MAX: usize = 128 << 10;
/// A write of this length skips the buffer when that is empty.
const DIRECT_BYTES_MIN: usize = 16 << 10;

/// The half of a connection that h2 owns.
#[derive(Debug)]
pub(crate) struct Io(Rc<RefCell<Wire>>);

/// The half that the driver keeps, to flush and to watch.
#[derive(Debug)]
pub(crate) struct Outlet(Rc<RefCell<Wire>>);

#[derive(Debug)]
struct Wire {
    stream: Stream,
    /// Was read before, to detect the protocol; h2 gets it first.
    early: Vec<u8>,
    out: BytesMut,
    read_bytes: u64,
    written_bytes: u64,
    /// The socket took nothing the last time.
    blocked: bool,
    /// How much may still be read.
    allowed: usize,
    /// Reading ended because no more was allowed; no event wakes the connection for the rest.
    held: bool,
}

/// Wraps a stream of which `early` has been read; the two halves share it. Reading is not limited before the first [`Outlet::allow`].
pub(crate) fn wrap(stream: Stream, early: Vec<u8>) -> (Io, Outlet) {
    let wire = Rc::new(RefCell::new(Wire {
        stream,
        early,
        out: BytesMut::new(),
        read_bytes: 0,
        written_bytes: 0,
        blocked: false,
        allowed: usize::MAX,
        held: false,
    }));
    (Io(wire.clone()), Outlet(wire))
}

impl Outlet {
    /// Writes what is collected, as far as the socket takes it.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_drain(cx)
    }

    /// Whether the other side does not read and answers have begun to pile up.
    pub(crate) fn is_clogged(&self) -> bool {
        self.0.borrow().out.len() >= OUT_BYTES_MAX
    }

    /// Lets h2 read `bytes` from now on, and no more.
    pub(crate) fn allow(&self, bytes: usize) {
        let wire = &mut *self.0.borrow_mut();
        (wire.allowed, wire.held) = (bytes, false);
    }

    /// Whether h2 wanted to read more than it was allowed.
    pub(crate) fn is_held(&self) -> bool {
        self.0.borrow().held
    }

    /// Whether the socket took nothing the last time.
    pub(crate) fn is_blocked(&self) -> bool {
        self.0.borrow().blocked
    }

    /// Bytes sent so far.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.0.borrow().written_bytes
    }

    /// Bytes received so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.0.borrow().read_bytes
    }
}

impl Wire {
    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        self.blocked = written.is_pending();
        if let Poll::Ready(Ok(bytes)) = written {
            self.written_bytes += *bytes as u64;
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = self.stream.poll_write(cx, &self.out);
            self.note(&written);
            match written {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.out.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        // A connection that once sent something big does not keep the room for it while it is idle.
        if self.out.capacity() > OUT_BYTES_MAX {
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.borrow_mut();
        if wire.allowed == 0 {
            wire.held = true;
            return Poll::Pending;
        }
        let room = into.remaining().min(wire.allowed);
        if !wire.early.is_empty() {
            let rest = wire.early.split_off(room.min(wire.early.len()));
            let early = std::mem::replace(&mut wire.early, rest);
            into.put_slice(&early);
            wire.read_bytes += early.len() as u64;
            wire.allowed -= early.len();
            return Poll::Ready(Ok(()));
        }
        let read = match wire.stream.poll_read(cx, into.initialize_unfilled_to(room)) {
            Poll::Ready(read) => read?,
            Poll::Pending => return Poll::Pending,
        };
        wire.read_bytes += read as u64;
        wire.allowed -= read;
        into.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = &mut *self.0.borrow_mut();
        if wire.out.is_empty() && bytes.len() >= DIRECT_BYTES_MIN {
            let written = wire.stream.poll_write(cx, bytes);
            wire.note(&written);
            return written;
        }
        if wire.out.len() >= OUT_BYTES_MAX {
            match wire.poll_drain(cx) {
                Poll::Ready(drained) => drained?,
                Poll::Pending if wire.out.len() >= OUT_BYTES_MAX => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        let taken = bytes.len().min(OUT_BYTES_MAX - wire.out.len().min(OUT_BYTES_MAX - 1));
        wire.out.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.borrow_mut();
        match wire.poll_drain(cx) {
            Poll::Ready(drained) => drained?,
            Poll::Pending => return Poll::Pending,
        }
        wire.stream.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use engine::rt::{CoreOptions, ListenOptions, start_core};

    use super::*;

    #[test]
    fn no_more_is_read_than_was_allowed() {
        let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
        start_core(&options, |rt| async move {
            let listener = rt.listen(([127, 0, 0, 1], 0).into(), ListenOptions::default()).unwrap();
            let mut peer = rt.connect(listener.local_addr().unwrap()).await.unwrap();
            peer.write_all(&[7; 5000]).await.unwrap();
            let (mut io, outlet) = wrap(listener.accept().await.unwrap().0, Vec::new());
            let mut read_some = async || {
                let mut room = [0; 700];
                let mut into = ReadBuf::new(&mut room);
                poll_fn(|cx| match Pin::new(&mut io).poll_read(cx, &mut into) {
                    Poll::Pending if outlet.is_held() => Poll::Ready(()),
                    polled => polled.map(|read| read.unwrap()),
                })
                .await;
                into.filled().len()
            };
            // Nothing bounds the reading before the first allowance; then each ends at its allowance, and a new one goes on.
            assert_eq!(read_some().await, 700);
            outlet.allow(1000);
            assert_eq!([read_some().await, read_some().await, read_some().await], [700, 300, 0]);
            assert!(outlet.is_held());
            outlet.allow(100);
            assert!(!outlet.is_held());
            assert_eq!([read_some().await, read_some().await], [100, 0]);
            assert_eq!(outlet.read_bytes(), 1800);
        })
        .unwrap();
    }
}
