//! TCP on glommio.

use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::Core;
use super::file::io_error;
use super::gate::OpenSocket;
use crate::rt::net::ListenOptions;

#[derive(Debug)]
pub(crate) struct CoreListener {
    core: Core,
    // Dropped before the listener: a closing core must not meet a descriptor that is somebody else's by then.
    _open: OpenSocket,
    listener: TcpListener,
}

/// Two halves may be polled by two tasks; the cell is borrowed only inside one poll.
#[derive(Debug, Clone)]
pub(crate) struct CoreStream {
    shared: Rc<SharedStream>,
}

#[derive(Debug)]
struct SharedStream {
    _open: OpenSocket,
    stream: RefCell<TcpStream>,
}

impl Core {
    pub(crate) fn listen(&self, addr: SocketAddr, options: ListenOptions) -> io::Result<CoreListener> {
        self.refuse_if_closing()?;
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(options.share_port)?;
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        let _open = self.opened(socket.as_raw_fd());
        // SAFETY: the descriptor is a listening socket that nobody else owns after `into_raw_fd`.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(CoreListener { core: self.clone(), _open, listener })
    }

    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<CoreStream> {
        self.refuse_if_closing()?;
        // Not through the gate: the kernel has copied the address, and a closing core need not wait for a silent peer.
        let stream = TcpStream::connect(addr).await.map_err(io_error)?;
        CoreStream::new(self, stream)
    }
}

impl CoreListener {
    pub(crate) async fn accept(&self) -> io::Result<(CoreStream, SocketAddr)> {
        loop {
            let stream = self.listener.accept().await.map_err(io_error)?;
            close_on_exec(stream.as_raw_fd());
            // A client may be gone before it is greeted. That is its own affair and not the listener's.
            if let Ok(from) = stream.peer_addr()
                && let Ok(stream) = CoreStream::new(&self.core, stream)
            {
                return Ok((stream, from));
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr().map_err(io_error)
    }
}

impl CoreStream {
    fn new(core: &Core, stream: TcpStream) -> io::Result<Self> {
        // Answers are coalesced above, so waiting for more bytes only adds latency.
        stream.set_nodelay(true).map_err(io_error)?;
        let _open = core.opened(stream.as_raw_fd());
        Ok(Self { shared: Rc::new(SharedStream { _open, stream: RefCell::new(stream) }) })
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_read(cx, into)
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_write(cx, bytes)
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.stream.borrow().poll_shutdown(cx, Shutdown::Write).map_err(io_error)
    }
}

/// A child process must not inherit a client.
fn close_on_exec(fd: RawFd) {
    // SAFETY: the caller owns the open descriptor; the call changes nothing but its flag.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::World;
    use crate::rt::glommio::{CoreOptions, start_core};

    fn closes_on_exec(fd: RawFd) -> bool {
        // SAFETY: the caller owns the open descriptor; the call only reads its flags.
        unsafe { libc::fcntl(fd, libc::F_GETFD) & libc::FD_CLOEXEC != 0 }
    }

    #[test]
    fn no_socket_is_left_to_a_child_process() {
        let all = start_core(&CoreOptions::default(), |rt| async move {
            let World::Glommio(core) = &rt.world else { unreachable!("this is a real core") };
            let addr = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = core.listen(addr, ListenOptions::default()).unwrap();
            let mut flags = vec![closes_on_exec(listener._open.fd())];
            // Once with the client waiting already and once with the listener waiting first, which are different calls.
            for listener_first in [false, true] {
                let target = listener.local_addr().unwrap();
                let client = async {
                    if listener_first {
                        core.sleep(std::time::Duration::from_millis(5)).await;
                    }
                    core.connect(target).await.unwrap()
                };
                let (client, (server, _)) = if listener_first {
                    futures_lite::future::zip(client, async { listener.accept().await.unwrap() }).await
                } else {
                    let client = client.await;
                    (client, listener.accept().await.unwrap())
                };
                for stream in [client, server] {
                    flags.push(closes_on_exec(stream.shared.stream.borrow().as_raw_fd()));
                }
            }
            flags
        });
        assert_eq!(all.unwrap(), [true; 5]);
    }
}
