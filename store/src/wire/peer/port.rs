//! Connections of other stores as the port of a store takes them in, beside those of gRPC.
//!
//! A connection lives as long as the store: longer than a drain of gRPC, because what clients still wait for may need a quorum. What is
//! refused is counted, and said with its reason, but not more often than [`Notice`] allows.
//!
//! Those that have not proved that they are of the cluster have few places of their own, of which the oldest is given up for a new one:
//! whoever opens many connections and proves nothing delays no member.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;

use engine::rt::Stream;
use engine::rt::local::{Bell, Pending, oneshot};
use futures_util::future::{Either, select};

use super::inbound::Inbound;
use super::link::LinkError;
use super::messages::MessageBatch;
use super::notice::Notice;
use super::open::{Begins, PREFACE_BYTES, Purpose};
use super::take;
use crate::region::neighbours::Sign;
use crate::request::{Op, Outcome, Route};
use crate::shard::Shard;
use crate::shard::reply::Reply;
use crate::wire::grpc::{Guest, Newcomer, Newcomers};

/// Connections of stores at a time; one more is closed at once. Each store of the cluster that shares regions has one of each kind, and each
/// core of the other nodes one for requests.
const CONNECTIONS_MAX: usize = 1024;
/// Connections beside them that have not proved to be of a store of the cluster. All nodes may start together, and to prove it takes two
/// round trips.
const UNPROVEN_MAX: usize = 64;

/// The accepting side of a store on its port.
#[derive(Debug)]
pub struct PeerPort {
    inbound: Inbound,
    shard: Shard,
    /// Each rings when its connection has to end.
    open: RefCell<BTreeMap<u64, Rc<Bell>>>,
    /// Those among them that have proved nothing.
    unproven: Rc<Newcomers>,
    accepted: Cell<u64>,
    notice: Notice,
    /// That there are too many who prove nothing, of whom whoever is refused shall be said all the same.
    crowd: Notice,
}

impl PeerPort {
    /// For a store; its connections end with it.
    pub fn new(inbound: Inbound, shard: Shard) -> Rc<Self> {
        let (open, accepted, notice) = (RefCell::default(), Cell::default(), Notice::default());
        let (unproven, crowd) = (Rc::default(), Notice::default());
        let port = Rc::new(Self { inbound, shard, open, unproven, accepted, notice, crowd });
        let stopping = Rc::downgrade(&port);
        port.shard.on_stop(move || {
            if let Some(port) = stopping.upgrade() {
                port.open.borrow().values().for_each(|bell| bell.ring());
            }
        });
        port
    }

    /// Serves a connection, for as long as the store runs.
    async fn run(
        &self,
        (stream, from): (Stream, SocketAddr),
        purpose: Purpose,
        (early, keep): (&[u8], &dyn Fn()),
    ) {
        let Some(newcomer) = self.enter(from).await else {
            return self.inbound.counters.rejected.add(1);
        };
        let (number, bell) = (self.accepted.get(), Rc::new(Bell::default()));
        self.accepted.set(number + 1);
        self.open.borrow_mut().insert(number, bell.clone());
        let _open = Open { port: self, number };
        let proved = || {
            newcomer.settle();
            keep();
        };
        let serving = async {
            match purpose {
                Purpose::Messages => {
                    let is_first = Cell::new(true);
                    let deliver = async |batch: MessageBatch| {
                        let (store, incarnation) = (batch.from, self.inbound.seen.highest(batch.from));
                        self.shard.hear(Sign { store, incarnation, is_first: is_first.take() });
                        self.shard.receive(batch.messages).await;
                    };
                    self.inbound.serve(stream, (early, &proved), deliver).await
                }
                Purpose::Requests => {
                    let carry_out = |route, op| self.carry_out(route, op);
                    self.inbound.serve_requests(stream, (early, &proved), carry_out).await
                }
                Purpose::Snapshot => take::serve(&self.inbound, &self.shard, stream, (early, &proved)).await,
            }
        };
        // Whatever ends it, its socket is closed here.
        let ended = newcomer.unless_ended(async { first_of(serving, bell.wait()).await }).await;
        if let Some(Some(Err(error))) = ended {
            self.say(&error, from);
        }
    }

    /// Takes a connection in that has proved nothing, for which the oldest one of that kind may have to go.
    async fn enter(&self, from: SocketAddr) -> Option<Newcomer> {
        let proven = self.open.borrow().len().saturating_sub(self.unproven.count());
        if proven >= CONNECTIONS_MAX || self.shard.stopped().is_some() {
            return None;
        }
        // Others may come in while one waits for its place.
        while self.unproven.count() >= UNPROVEN_MAX
            && let Some(gone) = self.unproven.end_oldest()
        {
            self.inbound.counters.rejected.add(1);
            if let Some(unsaid) = self.crowd.may_say(self.inbound.rt.now()) {
                let store = self.inbound.speaker.store.0;
                tracing::warn!(
                    store,
                    %from,
                    unsaid,
                    "a connection that has not proved to be of the cluster gives way to another one"
                );
            }
            gone.await;
        }
        Some(self.unproven.enter())
    }

    /// Starts what another node asks of this store, with the checks that a client with a map passes.
    fn carry_out(&self, route: Route, op: Op) -> Pending<Outcome> {
        let (answer, pending) = oneshot();
        self.shard.submit(Some(route), op, Reply::local(answer));
        pending
    }

    fn say(&self, error: &LinkError, from: SocketAddr) {
        let store = self.inbound.speaker.store.0;
        match error {
            // The other side went away, and comes again if it has something to say.
            LinkError::Io(_) | LinkError::Closed | LinkError::NoAddress => {
                tracing::debug!(store, %from, %error, "a connection of a peer ended");
            }
            LinkError::Timeout
            | LinkError::BadFrame(_)
            | LinkError::Unexpected(_)
            | LinkError::BadRequests(_)
            | LinkError::Rejected(_)
            | LinkError::Refused(_)
            | LinkError::Unwanted(_) => {
                if let Some(unsaid) = self.notice.may_say(self.inbound.rt.now()) {
                    tracing::warn!(store, %from, %error, unsaid, "a connection of a peer is refused");
                }
            }
        }
    }
}

/// A connection that is open, whatever ends it.
struct Open<'a> {
    port: &'a PeerPort,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.port.open.borrow_mut().remove(&self.number);
    }
}

/// What `work` comes to, unless `end` does first.
async fn first_of<T>(work: impl Future<Output = T>, end: impl Future<Output = ()>) -> Option<T> {
    match select(pin!(work), pin!(end)).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(((), _)) => None,
    }
}

impl Guest for PeerPort {
    fn is_meant(&self, first: &[u8]) -> Option<bool> {
        match Purpose::of(first) {
            Begins::With(_) => Some(true),
            Begins::Otherwise => Some(false),
            Begins::Unknown => None,
        }
    }

    fn serve<'a>(
        self: Rc<Self>,
        stream: Stream,
        from: SocketAddr,
        early: Vec<u8>,
        keep: &'a dyn Fn(),
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            let Begins::With(purpose) = Purpose::of(&early) else {
                unreachable!("the port hands over what is meant for it")
            };
            self.run((stream, from), purpose, (&early[PREFACE_BYTES..], keep)).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine::rt::sim::{Options, World};
    use engine::rt::{ListenOptions, Rt};
    use scheduler::StoreId;

    use super::*;
    use crate::memory::{Memory, MemoryLimits, Pool};
    use crate::region::lineage::Lineage;
    use crate::secret::ClusterSecret;
    use crate::shard::stop_tests::{options, regions};
    use crate::wire::peer::book::AddressBook;
    use crate::wire::peer::counters::PeerCounters;
    use crate::wire::peer::frame::{self, FrameKind};
    use crate::wire::peer::inbound::Incarnations;
    use crate::wire::peer::open::{Speaker, introduce};

    const INPUT_BYTES: usize = 16 << 20;

    fn speaker(store: u64) -> Speaker {
        Speaker {
            secret: None,
            cluster: 7,
            store: StoreId(store),
            incarnation: 1,
            lineage: Lineage::default(),
        }
    }

    fn secret() -> Option<ClusterSecret> {
        ClusterSecret::parse("what all nodes of the cluster share").ok()
    }

    struct Served {
        world: World,
        addr: String,
        counters: Rc<PeerCounters>,
        /// What frames of peers take that are not whole.
        held: Pool,
    }

    /// A world in which node 1 serves the port of store 1, for peers with the ids 2 and 3 that have this secret.
    fn serve(seed: u64, secret: Option<ClusterSecret>) -> Served {
        let world = World::new(seed, Options::default());
        let addr = world.node(1).addr(7);
        let memory = Memory::new(MemoryLimits { input_bytes: INPUT_BYTES, output_bytes: INPUT_BYTES });
        let (counters, held) = (Rc::new(PeerCounters::default()), memory.peers.clone());
        let counted = counters.clone();
        drop(world.node(1).start(0, move |rt| async move {
            rt.create_dir_all(Path::new("/data")).await.unwrap();
            let shard = Shard::open(&rt, Path::new("/data/store-1"), options(), regions()).await.unwrap();
            let book = AddressBook::default();
            [2, 3].into_iter().for_each(|store| book.set(StoreId(store), "127.0.0.1:1"));
            let (seen, book) = (Rc::new(Incarnations::default()), Rc::new(book));
            let speaker = Speaker { secret, ..speaker(1) };
            let inbound = Inbound { rt: rt.clone(), speaker, seen, book, counters: counted, memory };
            accept(&rt, addr, PeerPort::new(inbound, shard)).await;
        }));
        world.run_for(std::time::Duration::from_secs(1));
        Served { world, addr: addr.to_string(), counters, held }
    }

    async fn accept(rt: &Rt, addr: SocketAddr, port: Rc<PeerPort>) {
        let listener = rt.listen(addr, ListenOptions::default()).unwrap();
        while let Ok((mut stream, from)) = listener.accept().await {
            let port = port.clone();
            drop(rt.spawn(async move {
                let (mut early, mut piece) = (Vec::new(), [0; PREFACE_BYTES]);
                while port.is_meant(&early).is_none() {
                    match stream.read(&mut piece).await {
                        Ok(bytes @ 1..) => early.extend_from_slice(&piece[..bytes]),
                        Ok(0) | Err(_) => return,
                    }
                }
                port.serve(stream, from, early, &|| ()).await;
            }));
        }
    }

    /// Frames of snapshots that are not whole share the bound of those of peers, and their senders have to go.
    #[test]
    fn unfinished_frames_of_snapshots_share_a_bound_and_end() {
        const CONNECTIONS: usize = 60;
        const PART_BYTES: usize = 900 << 10;
        let Served { world, addr, held, .. } = serve(1, None);
        let begun = world.node(0).start(0, move |rt| async move {
            let mut streams = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut stream =
                    introduce(&rt, Purpose::Snapshot, &speaker(2), &addr, StoreId(1)).await.unwrap();
                let mut part = (1u32 << 20).to_le_bytes().to_vec();
                part.resize(PART_BYTES, 0);
                // It takes what the other side reads.
                let second = std::time::Duration::from_secs(1);
                if let Some(written) = rt.timeout(second, stream.write_all(&part)).await {
                    written.unwrap();
                }
                streams.push(stream);
            }
            streams.len()
        });
        assert_eq!(world.block_on(begun), Some(CONNECTIONS));
        // A buffer that grows may have twice the room that it needs, and one connection is let through.
        let peak = held.peak();
        assert!(peak > INPUT_BYTES / 8, "{peak} bytes: the test does not test");
        assert!(peak <= INPUT_BYTES / 4 + 4 * PART_BYTES, "{peak} bytes were held");
        world.run_for(std::time::Duration::from_secs(3600));
        assert_eq!(held.used(), 0, "whoever does not end its frame is ended");
    }

    #[test]
    fn one_connection_too_many_is_refused_until_another_ends() {
        let Served { world, addr, counters, .. } = serve(2, secret());
        let opened = world.node(0).start(0, move |rt| async move {
            let mut streams = Vec::new();
            let speaker = Speaker { secret: secret(), ..speaker(3) };
            let open = async || introduce(&rt, Purpose::Messages, &speaker, &addr, StoreId(1)).await;
            for _ in 0..CONNECTIONS_MAX {
                streams.push(open().await.expect("there is a place for it"));
            }
            let refused = open().await.is_err();
            drop(streams.pop());
            rt.sleep(std::time::Duration::from_secs(1)).await;
            (refused, open().await.is_ok())
        });
        assert_eq!(world.block_on(opened), Some((true, true)));
        assert_eq!(counters.rejected.get(), 1);
    }

    /// Opens connections and sends this on each.
    async fn flood(rt: &Rt, addr: &str, said: &[u8]) -> Vec<Stream> {
        let mut streams = Vec::new();
        for _ in 0..FLOOD {
            let mut stream = rt.connect(addr.parse().expect("an address")).await.expect("it listens");
            stream.write_all(said).await.expect("a socket");
            streams.push(stream);
        }
        streams
    }

    /// More than all places together.
    const FLOOD: usize = CONNECTIONS_MAX + 500;

    #[test]
    fn connections_that_prove_nothing_neither_delay_nor_end_those_of_members() {
        for secret in [None, secret()] {
            let Served { world, addr, counters, .. } = serve(3, secret);
            let member = world.node(0).start(0, move |rt| async move {
                let preface = Purpose::Messages.preface();
                let before = flood(&rt, &addr, preface).await;
                let (began, speaker) = (rt.now(), Speaker { secret, ..speaker(3) });
                let introduced = introduce(&rt, Purpose::Messages, &speaker, &addr, StoreId(1));
                let mut stream = introduced.await.expect("there is a place for it");
                let batch = MessageBatch { from: StoreId(3), to: StoreId(1), messages: Vec::new() };
                let mut bytes = Vec::new();
                frame::push(&mut bytes, FrameKind::Messages, |out| batch.encode(out));
                stream.write_all(&bytes).await.expect("a socket");
                let took = rt.now().since(began);
                let after = flood(&rt, &addr, preface).await;
                let second = std::time::Duration::from_secs(1);
                let is_open = rt.timeout(second, stream.read(&mut [0; 16])).await.is_none();
                drop((before, after));
                (took, is_open)
            });
            let (took, is_open) = world.block_on(member).expect("nothing crashes the node");
            assert!(took < std::time::Duration::from_secs(1), "it took {took:?}");
            assert!(is_open, "it has given way to those that prove nothing");
            assert_eq!(counters.accepted.get(), 1);
            assert!(counters.rejected.get() >= (2 * FLOOD - UNPROVEN_MAX) as u64, "they are counted");
        }
    }
}
