//! TCP on this core.
//!
//! Streams belong to the core that accepted or opened them, until it lets one go for another core to take in. Reads and writes are plain bytes; batching is the protocol's
//! business, because one write per answer is the most expensive habit a server can have.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(feature = "sim")]
use super::sim;
use super::{Rt, World, native};

/// How a listener is opened.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted.
    pub backlog: u32,
    /// Several cores listen on one address and the kernel spreads connections over them.
    pub share_port: bool,
    /// How long an accepted connection may be silent before the kernel asks whether its peer still lives; three questions
    /// without an answer, a third of this apart, end it. `None` never asks.
    pub keepalive: Option<Duration>,
}

/// As long as Redis waits.
const KEEPALIVE: Duration = Duration::from_secs(300);

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 4096, share_port: false, keepalive: Some(KEEPALIVE) }
    }
}

/// A port that several cores will share, held until they do, so that no other process takes it in between.
#[derive(Debug)]
pub struct SharedPort {
    /// The address; a port of 0 has become a real one.
    pub addr: SocketAddr,
    /// Absent in the simulator, where no other program takes a port that was drawn.
    _held: Option<socket2::Socket>,
}

/// A listening socket of this core.
#[derive(Debug)]
pub struct Listener(ListenerInner);

#[derive(Debug)]
enum ListenerInner {
    Native(native::CoreListener),
    #[cfg(feature = "sim")]
    Sim(sim::SimListener),
}

/// A connection of this core. Dropping it closes it.
#[derive(Debug)]
pub struct Stream(StreamInner);

/// A connection between two cores. Dropping it closes it.
#[derive(Debug)]
pub struct Detached(DetachedInner);

#[derive(Debug)]
enum DetachedInner {
    Native(OwnedFd),
    #[cfg(feature = "sim")]
    Sim(sim::LetGo),
}

#[derive(Debug, Clone)]
enum StreamInner {
    Native(native::CoreStream),
    #[cfg(feature = "sim")]
    Sim(sim::SimStream),
}

/// Binds `addr` without listening on it.
fn reserve(addr: SocketAddr) -> io::Result<SharedPort> {
    if addr.port() != 0 {
        drop(std::net::TcpListener::bind(addr)?);
    }
    let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    let addr = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(SharedPort { addr, _held: Some(socket) })
}

impl Rt {
    /// Holds a port that cores of this process will share.
    ///
    /// # Errors
    /// `AddrInUse` also for a port that another program shares: joining it would split its connections with us.
    pub fn reserve_port(&self, addr: SocketAddr) -> io::Result<SharedPort> {
        match &self.world {
            World::Native(_) => reserve(addr),
            #[cfg(feature = "sim")]
            World::Sim(core) => Ok(SharedPort { addr: core.reserve_port(addr)?, _held: None }),
        }
    }

    /// Listens on `addr`; port 0 picks a free one.
    pub fn listen(&self, addr: SocketAddr, options: ListenOptions) -> io::Result<Listener> {
        match &self.world {
            World::Native(core) => Ok(Listener(ListenerInner::Native(core.listen(addr, options)?))),
            #[cfg(feature = "sim")]
            World::Sim(core) => Ok(Listener(ListenerInner::Sim(core.listen(addr, options)?))),
        }
    }

    /// Takes a connection in that another core has let go. It is lost when this core cannot.
    pub fn attach(&self, Detached(detached): Detached) -> io::Result<Stream> {
        match (&self.world, detached) {
            (World::Native(core), DetachedInner::Native(socket)) => {
                Ok(Stream(StreamInner::Native(core.attach(socket)?)))
            }
            #[cfg(feature = "sim")]
            (World::Sim(_), DetachedInner::Sim(let_go)) => Ok(Stream(StreamInner::Sim(let_go.take()))),
            #[cfg(feature = "sim")]
            (World::Native(_), DetachedInner::Sim(_)) | (World::Sim(_), DetachedInner::Native(_)) => {
                unreachable!("connections stay in their world")
            }
        }
    }

    /// The addresses of `HOST:PORT`, of which there is at least one. A name is resolved anew each time, on a thread of its own.
    ///
    /// # Errors
    /// It is no such text, the name is not known, or too many names are being resolved at this moment (`WouldBlock`).
    pub async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(addr) = address.parse() {
            return Ok(vec![addr]);
        }
        let found = match &self.world {
            World::Native(core) => core.resolve(address).await?,
            #[cfg(feature = "sim")]
            World::Sim(core) => core.resolve(address).await?,
        };
        if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    }

    /// Connects to `addr`.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<Stream> {
        match &self.world {
            World::Native(core) => Ok(Stream(StreamInner::Native(core.connect(addr).await?))),
            #[cfg(feature = "sim")]
            World::Sim(core) => Ok(Stream(StreamInner::Sim(core.connect(addr).await?))),
        }
    }
}

impl Listener {
    /// The next connection and who it is from.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match &self.0 {
            ListenerInner::Native(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((Stream(StreamInner::Native(stream)), from))
            }
            #[cfg(feature = "sim")]
            ListenerInner::Sim(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((Stream(StreamInner::Sim(stream)), from))
            }
        }
    }

    /// The address that is really bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            ListenerInner::Native(listener) => listener.local_addr(),
            #[cfg(feature = "sim")]
            ListenerInner::Sim(listener) => listener.local_addr(),
        }
    }
}

impl Stream {
    /// Reads some bytes; 0 means that the peer has closed its side.
    pub async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, into)).await
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// The form of [`Stream::read`] that protocol libraries poll.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, into)
    }

    /// Writes some of `bytes`.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    /// Sends the end of our side.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }

    /// The address of this side: of an accepted connection the one that its peer has dialed, also where the listener takes in
    /// connections to all addresses of the host.
    ///
    /// # Errors
    /// The kernel no longer knows the socket, or it is none of IP.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            StreamInner::Native(stream) => stream.local_addr(),
            #[cfg(feature = "sim")]
            StreamInner::Sim(stream) => Ok(stream.local_addr()),
        }
    }

    /// Lets the connection go, for another core to take it in. It stays if that cannot be, because it was split.
    pub fn detach(self) -> Result<Detached, Self> {
        match self.0 {
            StreamInner::Native(stream) => match stream.detach() {
                Ok(socket) => Ok(Detached(DetachedInner::Native(socket))),
                Err(stream) => Err(Self(StreamInner::Native(stream))),
            },
            #[cfg(feature = "sim")]
            StreamInner::Sim(stream) => match stream.detach() {
                Ok(let_go) => Ok(Detached(DetachedInner::Sim(let_go))),
                Err(stream) => Err(Self(StreamInner::Sim(stream))),
            },
        }
    }

    /// Two halves that two tasks of this core may use at the same time.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (ReadHalf(self.0.clone()), WriteHalf(self.0))
    }
}

/// The reading side of a split stream.
#[derive(Debug)]
pub struct ReadHalf(StreamInner);

/// The writing side of a split stream.
#[derive(Debug)]
pub struct WriteHalf(StreamInner);

impl ReadHalf {
    /// As [`Stream::read`].
    pub async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.0.poll_read(cx, into)).await
    }
}

impl WriteHalf {
    /// As [`Stream::write_all`].
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Sends the end of our side.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.0.poll_shutdown(cx)).await
    }
}

impl StreamInner {
    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            StreamInner::Native(stream) => stream.poll_read(cx, into),
            #[cfg(feature = "sim")]
            StreamInner::Sim(stream) => stream.poll_read(cx, into),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            StreamInner::Native(stream) => stream.poll_write(cx, bytes),
            #[cfg(feature = "sim")]
            StreamInner::Sim(stream) => stream.poll_write(cx, bytes),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            StreamInner::Native(stream) => stream.poll_shutdown(cx),
            #[cfg(feature = "sim")]
            StreamInner::Sim(stream) => stream.poll_shutdown(cx),
        }
    }
}
