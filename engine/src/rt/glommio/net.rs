//! TCP on glommio.

use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::Core;
use super::file::io_error;
use crate::rt::net::ListenOptions;

#[derive(Debug)]
pub(crate) struct CoreListener {
    listener: TcpListener,
}

/// Two halves may be polled by two tasks; the cell is borrowed only inside one poll.
#[derive(Debug, Clone)]
pub(crate) struct CoreStream {
    stream: Rc<RefCell<TcpStream>>,
}

impl Core {
    pub(crate) fn listen(&self, addr: SocketAddr, options: ListenOptions) -> io::Result<CoreListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(options.share_port)?;
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        // SAFETY: the descriptor is a listening socket that nobody else owns after `into_raw_fd`.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(CoreListener { listener })
    }

    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<CoreStream> {
        let stream = TcpStream::connect(addr).await.map_err(io_error)?;
        CoreStream::new(stream)
    }
}

impl CoreListener {
    pub(crate) async fn accept(&self) -> io::Result<(CoreStream, SocketAddr)> {
        let stream = self.listener.accept().await.map_err(io_error)?;
        let from = stream.peer_addr().map_err(io_error)?;
        Ok((CoreStream::new(stream)?, from))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr().map_err(io_error)
    }
}

impl CoreStream {
    fn new(stream: TcpStream) -> io::Result<Self> {
        // Answers are coalesced above, so waiting for more bytes only adds latency.
        stream.set_nodelay(true).map_err(io_error)?;
        Ok(Self { stream: Rc::new(RefCell::new(stream)) })
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, into)
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, bytes)
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.borrow().poll_shutdown(cx, Shutdown::Write).map_err(io_error)
    }
}
