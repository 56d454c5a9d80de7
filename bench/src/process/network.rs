//! The links between the nodes of a cluster on loopback, led through this process, so that each can be cut, in one direction or both.
//!
//! ```text
//!   node A ──▶ 127.77.0.B:port, which node B announces ── this process ──▶ 127.0.0.1:port, where node B listens
//! ```
//!
//! A node announces an address of its own in 127.0.0.0/8; whoever dials it is looked up among the sockets of the nodes' processes, since
//! on loopback all come from one address. What a link is cut for is held back, as a network does that loses packets which TCP repeats:
//! connections neither break nor move on until the link is whole again or one side gives up. Bytes are counted per direction.
//!
//! Connections of others (clients, this process) are never cut. It needs no privileges, unlike network namespaces.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::Failed;
use crate::clock::pause;

/// How often a thread looks whether its link is whole again, or whether all is over.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 64 << 10;
/// How often the process of a connection is looked for: it may have opened it before its id was noted here.
const LOOK_UP_TRIES: u32 = 5;

/// The links between the nodes of a cluster.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    members: usize,
    /// By sender and receiver.
    directions: Vec<Direction>,
    /// Process ids of the nodes; 0 for one that does not run.
    pids: Vec<AtomicU32>,
}

#[derive(Debug, Default)]
struct Direction {
    cut: AtomicBool,
    bytes: AtomicU64,
}

impl Network {
    /// Links for nodes that listen on loopback at these ports, by node; each is reached at [`Network::address`] from now on.
    ///
    /// # Errors
    /// A port is in use there.
    pub fn start(ports: &[Vec<u16>]) -> Result<Self, Failed> {
        let members = ports.len();
        let shared = Arc::new(Shared {
            members,
            directions: (0..members * members).map(|_| Direction::default()).collect(),
            pids: (0..members).map(|_| AtomicU32::new(0)).collect(),
        });
        for (node, ports) in ports.iter().enumerate() {
            for port in ports {
                let announced = SocketAddr::new(Self::address(node), *port);
                let listener = TcpListener::bind(announced)
                    .map_err(|error| Failed::new(format!("{announced}: {error}")))?;
                // So that the thread sees the end.
                listener.set_nonblocking(true)?;
                let shared = Arc::downgrade(&shared);
                std::thread::spawn(move || accept(&listener, node, announced, &shared));
            }
        }
        Ok(Self { shared })
    }

    /// The address that a node announces.
    pub fn address(node: usize) -> IpAddr {
        let last = u8::try_from(node + 1).expect("a cluster on loopback is small");
        IpAddr::V4(Ipv4Addr::new(127, 77, 0, last))
    }

    /// Notes the process of a node.
    pub fn runs_as(&self, node: usize, pid: u32) {
        self.shared.pids[node].store(pid, Ordering::Release);
    }

    /// Holds back what one node says to another.
    pub fn cut(&self, from: usize, to: usize) {
        self.shared.direction(from, to).cut.store(true, Ordering::Release);
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        self.shared.directions.iter().for_each(|direction| direction.cut.store(false, Ordering::Release));
    }

    /// Bytes that one node has sent to another so far.
    pub fn bytes(&self, from: usize, to: usize) -> u64 {
        self.shared.direction(from, to).bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn direction(&self, from: usize, to: usize) -> &Direction {
        &self.directions[from * self.members + to]
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.direction(from, to).cut.load(Ordering::Acquire)
    }

    /// The node whose process has the socket that is bound to `local` and connected to `remote`.
    fn owner(&self, local: SocketAddr, remote: SocketAddr) -> Option<usize> {
        for attempt in 0..LOOK_UP_TRIES {
            if attempt > 0 {
                pause(LOOK_EVERY);
            }
            let Some(inode) = inode(&std::fs::read_to_string("/proc/net/tcp").ok()?, local, remote) else {
                continue;
            };
            let name = format!("socket:[{inode}]");
            let running = self.pids.iter().map(|pid| pid.load(Ordering::Acquire));
            let found = running.enumerate().find(|(_, pid)| *pid != 0 && has_open(*pid, &name));
            if let Some((node, _)) = found {
                return Some(node);
            }
        }
        None
    }
}

/// The inode of a socket in the text of `/proc/net/tcp`.
fn inode(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (in_table(local)?, in_table(remote)?);
    let fields = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let mut found = fields
        .filter(|fields| fields.get(1) == Some(&local.as_str()) && fields.get(2) == Some(&remote.as_str()));
    found.next()?.get(9)?.parse().ok()
}

/// An address as the table has it: the bytes of the host in the machine's order, in hexadecimal.
fn in_table(addr: SocketAddr) -> Option<String> {
    let SocketAddr::V4(addr) = addr else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port()))
}

fn has_open(pid: u32, name: &str) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    // A descriptor that is closed meanwhile is not the one.
    open.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == name))
}

/// Takes connections for `node` until all is over.
fn accept(listener: &TcpListener, node: usize, announced: SocketAddr, shared: &Weak<Shared>) {
    while shared.strong_count() > 0 {
        match listener.accept() {
            Ok((dialled, from)) => {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let dialler = shared.upgrade().and_then(|shared| shared.owner(from, announced));
                    carry(&dialled, dialler, node, announced.port(), &shared);
                });
            }
            // No client dials, or this process is short of something for a moment.
            Err(_) => pause(LOOK_EVERY),
        }
    }
}

/// Connects to the node and passes bytes on in both directions.
fn carry(dialled: &TcpStream, dialler: Option<usize>, node: usize, port: u16, shared: &Weak<Shared>) {
    let is_cut = |from: usize, to: usize| shared.upgrade().is_some_and(|shared| shared.is_cut(from, to));
    while dialler.is_some_and(|other| is_cut(other, node) || is_cut(node, other)) {
        pause(LOOK_EVERY);
    }
    // A node that does not listen refuses: the dialler sees the end of its connection.
    let Ok(reached) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
    let pairs = [(dialled, &reached, true), (&reached, dialled, false)];
    for (from, to, asks) in pairs {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let way = dialler.map(|other| if asks { (other, node) } else { (node, other) });
        let shared = shared.clone();
        std::thread::spawn(move || pass_on(from, to, way, &shared));
    }
}

/// Passes bytes on in one direction until either end closes.
fn pass_on(mut from: TcpStream, mut to: TcpStream, way: Option<(usize, usize)>, shared: &Weak<Shared>) {
    let mut piece = vec![0; PIECE_BYTES];
    // Small messages travel at once, as they do without this process between the two.
    let ready = to.set_nodelay(true).and_then(|()| from.set_read_timeout(Some(Duration::from_millis(50))));
    while ready.is_ok() {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if shared.strong_count() == 0 {
                    break;
                }
                continue;
            }
            Err(_) => break,
        };
        if let Some((sender, receiver)) = way {
            while shared.upgrade().is_some_and(|shared| shared.is_cut(sender, receiver)) {
                pause(LOOK_EVERY);
            }
            if let Some(shared) = shared.upgrade() {
                shared.direction(sender, receiver).bytes.fetch_add(read as u64, Ordering::Relaxed);
            }
        }
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    // The other end may have closed first.
    let (_, _) = (from.shutdown(Shutdown::Read), to.shutdown(Shutdown::Write));
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0100007F:8D0C 02004D7F:4EE1 01 00000000:00000000 00:00000000 00000000     0        0 187210 1 0 20 4 30 10 -1\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_are_found_in_the_table_of_the_kernel() {
        let local = SocketAddr::from(([127, 0, 0, 1], 0x8d0c));
        let remote = SocketAddr::new(Network::address(1), 0x4ee1);
        assert_eq!(inode(TABLE, local, remote), Some(187_210));
        assert_eq!(inode(TABLE, remote, local), None);
    }

    /// A server on loopback that sends back what it gets, behind a network whose only process is this one.
    #[test]
    fn what_is_cut_arrives_when_the_link_is_whole_again() {
        let server = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = server.local_addr().expect("bound").port();
        let network = Network::start(&[vec![], vec![port]]).expect("the port is free there");
        network.runs_as(0, std::process::id());
        std::thread::spawn(move || {
            for stream in server.incoming() {
                let mut stream = stream.expect("accepted");
                let mut piece = [0; 4];
                while stream.read_exact(&mut piece).is_ok() {
                    stream.write_all(&piece).expect("the client reads");
                }
            }
        });
        let mut client = TcpStream::connect((Network::address(1), port)).expect("it is served");
        let mut answer = [0; 4];
        client.write_all(b"ping").expect("sent");
        client.read_exact(&mut answer).expect("answered");
        assert_eq!((&answer, network.bytes(0, 1), network.bytes(1, 0)), (b"ping", 4, 4));
        // Either direction holds the answer back, and nothing is lost.
        for (from, to) in [(0, 1), (1, 0)] {
            network.cut(from, to);
            client.set_read_timeout(Some(Duration::from_millis(300))).expect("settable");
            client.write_all(b"pong").expect("sent");
            assert!(client.read(&mut answer).is_err(), "cut from {from} to {to}");
            network.heal();
            client.set_read_timeout(None).expect("settable");
            client.read_exact(&mut answer).expect("answered");
            assert_eq!(&answer, b"pong");
        }
    }
}
