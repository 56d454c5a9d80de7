//! TCP on a core. How a socket becomes ready is described in [`sockets`](super::sockets).

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::Core;
use super::sockets::CoreSocket;
use crate::rt::net::ListenOptions;

/// Names of the whole process that may be resolved at a time, each on a thread.
const RESOLVING_MAX: usize = 8;
static RESOLVING: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
pub(crate) struct CoreListener {
    core: Core,
    socket: CoreSocket,
}

/// Two halves may be used by two tasks.
#[derive(Debug, Clone)]
pub(crate) struct CoreStream {
    socket: Rc<CoreSocket>,
}

impl Core {
    pub(crate) fn listen(&self, addr: SocketAddr, options: ListenOptions) -> io::Result<CoreListener> {
        self.refuse_if_closing()?;
        let socket = new_socket(addr)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(options.share_port)?;
        if let Some(silent) = options.keepalive {
            // Accepted sockets have it from the listening one.
            let asks = TcpKeepalive::new().with_time(silent).with_interval(silent / 3).with_retries(3);
            socket.set_tcp_keepalive(&asks)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        Ok(CoreListener { core: self.clone(), socket: self.socket(socket.into())? })
    }

    pub(crate) fn attach(&self, socket: OwnedFd) -> io::Result<CoreStream> {
        self.refuse_if_closing()?;
        CoreStream::new(self, socket)
    }

    /// On a thread of its own, because the resolver of the system may take half a minute, and helper threads have files to open meanwhile.
    pub(crate) async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        self.refuse_if_closing()?;
        if RESOLVING.fetch_add(1, Ordering::Relaxed) >= RESOLVING_MAX {
            RESOLVING.fetch_sub(1, Ordering::Relaxed);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (answer, answered) = flume::bounded(1);
        let address = address.to_owned();
        let resolving = move || {
            let found = address.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            RESOLVING.fetch_sub(1, Ordering::Relaxed);
            if answer.send(found).is_err() {
                tracing::debug!(address, "a name was resolved when it was not needed any more");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("resolver".to_owned()).spawn(resolving) {
            RESOLVING.fetch_sub(1, Ordering::Relaxed);
            return Err(error);
        }
        self.operate(async move {
            answered.recv_async().await.unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")))
        })
        .await
    }

    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<CoreStream> {
        self.refuse_if_closing()?;
        let socket = new_socket(addr)?;
        let begun = socket.connect(&addr.into());
        let stream = CoreStream::new(self, socket.into())?;
        match begun {
            Ok(()) => return Ok(stream),
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        stream.connected().await?;
        Ok(stream)
    }
}

/// A socket that is closed on exec: a child process must not inherit a client.
fn new_socket(addr: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

impl CoreListener {
    pub(crate) async fn accept(&self) -> io::Result<(CoreStream, SocketAddr)> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let accept = || rustix::net::acceptfrom_with(&self.socket, flags);
            let (socket, from) = match poll_fn(|cx| self.socket.poll_in(cx, accept)).await {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            // A client may be gone before it is greeted. That is its own affair and not the listener's.
            if let Some(Ok(from)) = from.map(SocketAddr::try_from)
                && let Ok(stream) = CoreStream::new(&self.core, socket)
            {
                return Ok((stream, from));
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        SockRef::from(&self.socket).local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable.into())
    }
}

impl CoreStream {
    fn new(core: &Core, socket: OwnedFd) -> io::Result<Self> {
        // Answers are coalesced above, so waiting for more bytes only adds latency.
        SockRef::from(&socket).set_tcp_nodelay(true)?;
        Ok(Self { socket: Rc::new(core.socket(socket)?) })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        SockRef::from(&*self.socket).local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable.into())
    }

    /// The socket alone, if it has no other user here.
    pub(crate) fn detach(self) -> Result<OwnedFd, Self> {
        let socket = Rc::try_unwrap(self.socket).map_err(|socket| Self { socket })?;
        socket.detach().map_err(|socket| Self { socket: Rc::new(socket) })
    }

    /// Waits until a connection that has begun is made. A new socket counts as writable, and while it is being connected it
    /// reports nothing, so what says that it is made is a peer.
    async fn connected(&self) -> io::Result<()> {
        let socket = SockRef::from(&*self.socket);
        poll_fn(|cx| {
            self.socket.poll_out(cx, || match socket.take_error() {
                Ok(None) if socket.peer_addr().is_err() => Err(Errno::AGAIN),
                Ok(None) => Ok(Ok(())),
                Ok(Some(error)) | Err(error) => Ok(Err(error)),
            })
        })
        .await?
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let room = into.len();
        let read =
            self.socket.poll_in(cx, || rustix::net::recv(&*self.socket, &mut *into, RecvFlags::DONTWAIT));
        read.map_ok(|(bytes, _)| {
            if bytes > 0 && bytes < room {
                self.socket.drained();
            }
            bytes
        })
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.socket.poll_out(cx, || rustix::net::send(&*self.socket, bytes, flags))
    }

    pub(crate) fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.socket).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::World;
    use crate::rt::{CoreOptions, start_core};

    fn closes_on_exec(socket: &CoreSocket) -> bool {
        rustix::io::fcntl_getfd(socket).unwrap().contains(rustix::io::FdFlags::CLOEXEC)
    }

    #[test]
    fn accepted_connections_find_out_that_their_peer_is_gone() {
        let asks = start_core(&CoreOptions::default(), |rt| async move {
            let World::Native(core) = &rt.world else { unreachable!("this is a real core") };
            let addr = SocketAddr::from(([127, 0, 0, 1], 0));
            let mut asks = Vec::new();
            let never = ListenOptions { keepalive: None, ..ListenOptions::default() };
            for options in [ListenOptions::default(), never] {
                let listener = core.listen(addr, options).unwrap();
                let _client = core.connect(listener.local_addr().unwrap()).await.unwrap();
                let (server, _) = listener.accept().await.unwrap();
                let socket = SockRef::from(&*server.socket);
                asks.push((
                    socket.keepalive().unwrap(),
                    socket.tcp_keepalive_time().unwrap().as_secs(),
                    socket.tcp_keepalive_interval().unwrap().as_secs(),
                    socket.tcp_keepalive_retries().unwrap(),
                ));
            }
            asks
        });
        let asks = asks.unwrap();
        assert_eq!(asks[0], (true, 300, 100, 3));
        assert!(!asks[1].0);
    }

    #[test]
    fn no_socket_is_left_to_a_child_process() {
        let all = start_core(&CoreOptions::default(), |rt| async move {
            let World::Native(core) = &rt.world else { unreachable!("this is a real core") };
            let addr = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = core.listen(addr, ListenOptions::default()).unwrap();
            let client = core.connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            [&listener.socket, &client.socket, &server.socket].map(closes_on_exec)
        });
        assert_eq!(all.unwrap(), [true; 3]);
    }
}
