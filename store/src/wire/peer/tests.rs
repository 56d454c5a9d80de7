//! Two stores on two simulated nodes: what is sent arrives, in order, once; what is wrong is refused; what fails is repeated later.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::local::Pending;
use engine::rt::sim::{NetOptions, Options, World};
use engine::rt::{ListenOptions, Rt};
use raft::{Body, GroupId, Message, NodeId, Term};
use scheduler::{Epoch, Peer, PeerId, RegionId, StoreId};

use super::book::{ASK_MAX, AddressBook};
use super::counters::PeerCounters;
use super::frame::{self, FrameKind};
use super::inbound::{Inbound, Incarnations};
use super::link::{IDLE_MAX, PeerLinks, QUEUE_MESSAGES_MAX};
use super::messages::MessageBatch;
use super::open::{self, Begins, PREFACE_BYTES, Purpose, Speaker};
use crate::memory::{Memory, MemoryLimits};
use crate::region::lineage::Lineage;
use crate::region::message::{Body as Content, PeerMessage};
use crate::request::{Op, Outcome, Route};

const PREFACE: &[u8; PREFACE_BYTES] = Purpose::Messages.preface();
const PORT: u16 = 20_161;

fn speaker(store: u64) -> Speaker {
    Speaker { secret: None, cluster: 7, store: StoreId(store), incarnation: 3, lineage: Lineage::default() }
}

/// A message from store 1 to store 2.
fn message(number: u64) -> PeerMessage {
    between(StoreId(1), StoreId(2), number)
}

fn between(from: StoreId, to: StoreId, number: u64) -> PeerMessage {
    let raft =
        Message { group: GroupId(number), from: NodeId(1), to: NodeId(2), term: Term(6), body: Body::Stale };
    PeerMessage {
        region: RegionId(number),
        from: Peer::voter(PeerId(1), from),
        to: Peer::voter(PeerId(2), to),
        epoch: Epoch::FIRST,
        range: None,
        body: Content::Raft(Box::new(raft)),
    }
}

/// What has arrived, by group.
type Arrived = Rc<RefCell<Vec<u64>>>;

/// Accepts connections for as long as the world runs.
async fn accept(rt: Rt, addr: SocketAddr, speaker: Speaker, counters: Rc<PeerCounters>, arrived: Arrived) {
    accept_within(rt, addr, speaker, counters, arrived, Memory::unbounded()).await;
}

async fn accept_within(
    rt: Rt,
    addr: SocketAddr,
    speaker: Speaker,
    counters: Rc<PeerCounters>,
    arrived: Arrived,
    memory: Memory,
) {
    accept_known(rt, addr, speaker, counters, arrived, (memory, every_store())).await;
}

/// A book that has every store which the tests know.
fn every_store() -> Rc<AddressBook> {
    let book = AddressBook::default();
    [1, 2, 3, 5].into_iter().chain(99..120).for_each(|store| book.set(StoreId(store), "127.0.0.1:1"));
    Rc::new(book)
}

async fn accept_known(
    rt: Rt,
    addr: SocketAddr,
    speaker: Speaker,
    counters: Rc<PeerCounters>,
    arrived: Arrived,
    (memory, book): (Memory, Rc<AddressBook>),
) {
    let listener = rt.listen(addr, ListenOptions::default()).unwrap();
    let inbound =
        Inbound { rt: rt.clone(), speaker, seen: Rc::new(Incarnations::default()), book, counters, memory };
    while let Ok((mut stream, _)) = listener.accept().await {
        let (inbound, arrived) = (inbound.clone(), arrived.clone());
        rt.spawn(async move {
            let mut preface = [0; 8];
            let mut read = 0;
            while read < preface.len() {
                match stream.read(&mut preface[read..]).await {
                    Ok(n @ 1..) => read += n,
                    Ok(0) | Err(_) => return,
                }
            }
            if Purpose::of(&preface) == Begins::With(Purpose::Requests) {
                let nothing =
                    |_: Route, _: Op| -> Pending<Outcome> { unreachable!("no request becomes whole") };
                // How it ended shows at the other side.
                return drop(inbound.serve_requests(stream, (&[], &|| ()), nothing).await);
            }
            assert_eq!(Purpose::of(&preface), Begins::With(Purpose::Messages));
            let deliver = async |batch: MessageBatch| {
                arrived.borrow_mut().extend(batch.messages.iter().map(|message| message.region.0));
            };
            // How it ended shows in the counters.
            drop(inbound.serve(stream, (&[], &|| ()), deliver).await);
        });
    }
}

struct Pair {
    world: World,
    addr: SocketAddr,
    counters: Rc<PeerCounters>,
    arrived: Arrived,
}

/// A world in which store 2 accepts on node 1.
fn pair(seed: u64, net: NetOptions) -> Pair {
    let world = World::new(seed, Options { net, ..Options::default() });
    let addr = world.node(1).addr(PORT);
    let (counters, arrived) = (Rc::new(PeerCounters::default()), Arrived::default());
    let (to, seen) = (counters.clone(), arrived.clone());
    drop(world.node(1).start(0, move |rt| accept(rt, addr, speaker(2), to, seen)));
    Pair { world, addr, counters, arrived }
}

fn book(addr: SocketAddr) -> Rc<AddressBook> {
    let book = Rc::new(AddressBook::default());
    book.set(StoreId(2), &addr.to_string());
    book
}

#[test]
fn messages_arrive_in_order_and_once_and_one_turn_is_one_frame() {
    let Pair { world, addr, counters, arrived } = pair(1, Options::default().net);
    let sending = world.node(0).start(0, move |rt| async move {
        let links = PeerLinks::new(&rt, speaker(1), book(addr));
        for turn in 0..50 {
            (0..20).for_each(|n| links.send(message(turn * 20 + n)));
            rt.sleep(Duration::from_millis(20)).await;
        }
        rt.sleep(Duration::from_secs(2)).await;
        (links.counters().frames_sent.get(), links.counters().connected.get())
    });
    let (frames, connected) = world.block_on(sending).unwrap();
    assert_eq!(*arrived.borrow(), (0..1000).collect::<Vec<u64>>());
    assert_eq!((counters.messages_received.get(), connected), (1000, 1));
    assert!(frames <= 50, "{frames} frames for 50 turns");
}

#[test]
fn a_store_that_is_away_costs_dropped_messages_and_is_reached_when_it_returns() {
    let world = World::new(2, Options::default());
    let addr = world.node(1).addr(PORT);
    let arrived = Arrived::default();
    let seen = arrived.clone();
    let sending = world.node(0).start(0, move |rt| async move {
        let links = PeerLinks::new(&rt, speaker(1), book(addr));
        for n in 0..100 {
            links.send(message(n));
            rt.sleep(Duration::from_millis(100)).await;
        }
        let lost = links.counters().dropped_unreachable.get();
        (lost, links.take_unreachable().contains(&StoreId(2)), links.take_unreachable().is_empty())
    });
    world.run_for(Duration::from_secs(5));
    drop(world.node(1).start(0, move |rt| accept(rt, addr, speaker(2), Rc::default(), seen)));
    let (lost, said, said_once) = world.block_on(sending).unwrap();
    let arrived = arrived.borrow();
    assert!(said && said_once);
    assert!(lost > 0 && !arrived.is_empty(), "{lost} lost, {} arrived", arrived.len());
    assert!(arrived.is_sorted() && arrived.last() == Some(&99), "{arrived:?}");
    assert!(lost as usize + arrived.len() <= 100 && lost < 70, "{lost} lost, {} arrived", arrived.len());
}

#[test]
fn a_connection_that_breaks_again_and_again_loses_messages_and_never_order() {
    for seed in 0..20 {
        let net =
            NetOptions { reset: 0.05, loss: 0.02, duplicate: 0.05, straggle: 0.05, ..Options::default().net };
        let Pair { world, addr, arrived, .. } = pair(100 + seed, net);
        let sending = world.node(0).start(0, move |rt| async move {
            let links = PeerLinks::new(&rt, speaker(1), book(addr));
            for n in 0..300 {
                links.send(message(n));
                rt.sleep(Duration::from_millis(20)).await;
            }
            rt.sleep(Duration::from_secs(30)).await;
            links.counters().connected.get()
        });
        let connected = world.block_on(sending).unwrap();
        let arrived = arrived.borrow();
        let ordered = arrived.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(ordered, "seed {seed}: repeated or out of order: {arrived:?}");
        assert!(arrived.len() > 100, "seed {seed}: {} arrived over {connected} connections", arrived.len());
    }
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let world = World::new(3, Options::default());
    let filling = world.node(0).start(0, |rt| async move {
        let links = PeerLinks::new(&rt, speaker(1), Rc::new(AddressBook::default()));
        (0..QUEUE_MESSAGES_MAX as u64 + 10).for_each(|n| links.send(message(n)));
        let first = (links.queued(StoreId(2)).0, links.counters().dropped_full.get());
        let large = |bytes: usize| {
            let entry = raft::Entry { payload: vec![0; bytes].into(), ..raft::Entry::default() };
            let mut message = between(StoreId(1), StoreId(3), 1);
            if let Content::Raft(raft) = &mut message.body {
                raft.body = Body::Append {
                    prev: raft::LogId::default(),
                    entries: vec![entry],
                    commit: raft::Index(0),
                };
            }
            message
        };
        links.send(large(40 << 20));
        links.send(large(1));
        (first, links.queued(StoreId(3)).0, links.counters().dropped_full.get())
    });
    let (first, large, dropped) = world.block_on(filling).unwrap();
    assert_eq!(first, (QUEUE_MESSAGES_MAX, 10));
    assert_eq!((large, dropped), (1, 11), "a message above the bound goes alone");
}

#[test]
fn an_idle_connection_is_closed_and_opened_again_for_the_next_message() {
    let Pair { world, addr, arrived, .. } = pair(4, Options::default().net);
    let sending = world.node(0).start(0, move |rt| async move {
        let links = PeerLinks::new(&rt, speaker(1), book(addr));
        for n in 0..3 {
            links.send(message(n));
            rt.sleep(IDLE_MAX + Duration::from_secs(5)).await;
        }
        (links.counters().connected.get(), links.counters().connect_failed.get())
    });
    assert_eq!(world.block_on(sending), Some((3, 0)));
    assert_eq!(*arrived.borrow(), [0, 1, 2]);
}

#[test]
fn peers_that_do_not_belong_here_are_refused_with_a_reason() {
    let cases: [(Speaker, u64); 3] = [
        (Speaker { cluster: 8, ..speaker(1) }, 2),
        (speaker(2), 2),
        // Store 3 is looked for where store 2 is.
        (speaker(1), 3),
    ];
    for (ours, target) in cases {
        let Pair { world, addr, counters, arrived } = pair(5, Options::default().net);
        let sending = world.node(0).start(0, move |rt| async move {
            let book = Rc::new(AddressBook::default());
            book.set(StoreId(target), &addr.to_string());
            let links = PeerLinks::new(&rt, ours, book.clone());
            links.send(between(ours.store, StoreId(target), 1));
            rt.sleep(Duration::from_secs(1)).await;
            (links.counters().connected.get(), links.counters().connect_failed.get(), book.wanted())
        });
        let (connected, failed, wanted) = world.block_on(sending).unwrap();
        assert_eq!((connected, failed, wanted), (0, 1, vec![StoreId(target)]), "{ours:?} to {target}");
        assert_eq!((counters.rejected.get(), counters.accepted.get()), (1, 0));
        assert!(arrived.borrow().is_empty());
    }
}

#[test]
fn bytes_that_make_no_sense_end_the_connection_and_deliver_nothing() {
    let hello = |change: fn(&mut Vec<u8>)| {
        let mut bytes = PREFACE.to_vec();
        frame::push(&mut bytes, FrameKind::Hello, |out| speaker(1).hello(StoreId(2)).encode(out));
        change(&mut bytes);
        bytes
    };
    let batch = |from: u64, to: u64| {
        let mut bytes = Vec::new();
        let (from, to) = (StoreId(from), StoreId(to));
        let batch = MessageBatch { from, to, messages: vec![between(from, to, 9)] };
        frame::push(&mut bytes, FrameKind::Messages, |out| batch.encode(out));
        bytes
    };
    let mut flipped = batch(1, 2);
    *flipped.last_mut().unwrap() ^= 1;
    let cases: Vec<(&str, Vec<u8>, u64, u64)> = vec![
        ("nothing but a preface", PREFACE.to_vec(), 1, 0),
        ("messages without an introduction", [PREFACE.to_vec(), batch(1, 2)].concat(), 1, 0),
        ("a long introduction", hello(|bytes| bytes.extend([0xff; 9000])), 0, 1),
        ("a damaged introduction", hello(|bytes| bytes[20] ^= 4), 1, 0),
        ("a damaged batch", [hello(|_| ()), flipped].concat(), 0, 1),
        ("a batch of another store", [hello(|_| ()), batch(5, 2)].concat(), 0, 1),
        ("a batch for another store", [hello(|_| ()), batch(1, 5)].concat(), 0, 1),
        ("a second introduction", [hello(|_| ()), hello(|_| ())[8..].to_vec()].concat(), 0, 1),
    ];
    for (name, bytes, rejected, bad) in cases {
        let Pair { world, addr, counters, arrived } = pair(6, Options::default().net);
        let sending = world.node(0).start(0, move |rt| async move {
            let mut stream = rt.connect(addr).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let mut buffer = [0; 1000];
            // It ends by itself, with whatever it has to say before.
            while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
        });
        assert_eq!(world.block_on(sending), Some(()), "{name}");
        assert_eq!((counters.rejected.get(), counters.bad_frames.get()), (rejected, bad), "{name}");
        assert!(arrived.borrow().is_empty(), "{name}");
    }
}

#[test]
fn an_older_copy_of_a_store_is_refused_after_the_newer_was_seen() {
    let Pair { world, addr, counters, arrived } = pair(8, Options::default().net);
    let sending = world.node(0).start(0, move |rt| async move {
        for incarnation in [4, 3, 5] {
            let links = PeerLinks::new(&rt, Speaker { incarnation, ..speaker(1) }, book(addr));
            links.send(message(incarnation));
            rt.sleep(Duration::from_secs(1)).await;
        }
    });
    assert_eq!(world.block_on(sending), Some(()));
    assert_eq!((*arrived.borrow()).clone(), [4, 5]);
    assert_eq!(counters.rejected.get(), 1);
}

/// Begins a connection as `store` and goes on with a message; what it hears after the introduction, if that is anything.
async fn speak(rt: &Rt, addr: SocketAddr, store: u64) -> Option<String> {
    let mut stream =
        open::introduce(rt, Purpose::Messages, &speaker(store), &addr.to_string(), StoreId(2)).await.unwrap();
    // A store that joins is dialled back by one that it does not know, so the introduction alone is no offence.
    rt.sleep(Duration::from_secs(5)).await;
    let from = StoreId(store);
    let batch = MessageBatch { from, to: StoreId(2), messages: vec![between(from, StoreId(2), store)] };
    let mut bytes = Vec::new();
    frame::push(&mut bytes, FrameKind::Messages, |out| batch.encode(out));
    stream.write_all(&bytes).await.unwrap();
    let mut decoder = frame::Decoder::new(4096);
    let read = open::read_frame(&mut stream, &mut decoder);
    match rt.timeout(2 * ASK_MAX, read).await? {
        Ok((FrameKind::Refused, reason)) => Some(String::from_utf8(reason).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_store_that_is_not_known_is_refused_once_it_goes_on() {
    let world = World::new(9, Options::default());
    let addr = world.node(1).addr(PORT);
    let (counters, arrived) = (Rc::new(PeerCounters::default()), Arrived::default());
    let (to, seen) = (counters.clone(), arrived.clone());
    let (asked, answers) = (Rc::new(RefCell::new(BTreeSet::new())), Rc::new(RefCell::new(Vec::new())));
    let keeps = asked.clone();
    let book = every_store();
    let known = book.clone();
    drop(world.node(1).start(0, move |rt| {
        let scheduler = rt.clone();
        rt.spawn(async move {
            // The scheduler knows store 77, knows that there is no store 78, and says nothing of store 79.
            loop {
                scheduler.sleep(Duration::from_millis(500)).await;
                keeps.borrow_mut().extend(known.wanted());
                if known.wanted().contains(&StoreId(77)) {
                    known.set(StoreId(77), "127.0.0.1:1");
                }
                known.deny(StoreId(78));
            }
        });
        accept_known(rt, addr, speaker(2), to, seen, (Memory::unbounded(), book))
    }));
    let hears = answers.clone();
    let speaking = world.node(0).start(0, move |rt| async move {
        for store in [78, 77, 78, 79] {
            let said = speak(&rt, addr, store).await;
            hears.borrow_mut().push(said);
        }
    });
    world.block_on(speaking).unwrap();
    let answers = answers.borrow();
    assert_eq!((&answers[1], &answers[3]), (&None, &None), "one has joined, of the other it is not said");
    for refused in [&answers[0], &answers[2]] {
        let said = refused.as_ref().expect("it hears why");
        assert!(said.contains("store 78 is not known") && said.contains("--join"), "{said}");
    }
    assert_eq!(*arrived.borrow(), [77, 79]);
    assert_eq!(*asked.borrow(), BTreeSet::from([77, 78, 79].map(StoreId)));
    assert_eq!((counters.rejected.get(), counters.accepted.get(), counters.bad_frames.get()), (2, 2, 0));
}

/// Else whoever says that it is a store, and nothing more, shuts that store out.
#[test]
fn an_introduction_alone_does_not_say_which_start_was_the_last() {
    let Pair { world, addr, counters, .. } = pair(10, Options::default().net);
    let speaking = world.node(0).start(0, move |rt| async move {
        let higher = Speaker { incarnation: 9, ..speaker(1) };
        drop(open::introduce(&rt, Purpose::Messages, &higher, &addr.to_string(), StoreId(2)).await.unwrap());
        rt.sleep(Duration::from_secs(1)).await;
        speak(&rt, addr, 1).await
    });
    assert_eq!(world.block_on(speaking), Some(None));
    assert_eq!((counters.rejected.get(), counters.accepted.get()), (0, 1));
}

#[test]
fn the_preface_distinguishes_the_protocol_from_others() {
    assert_eq!((Purpose::of(b""), Purpose::of(b"RK")), (Begins::Unknown, Begins::Unknown));
    for purpose in [Purpose::Messages, Purpose::Requests, Purpose::Snapshot] {
        let preface = purpose.preface();
        assert_eq!(Purpose::of(&preface[..5]), Begins::Unknown, "{purpose:?}");
        assert_eq!(Purpose::of(&[&preface[..], b"more"].concat()), Begins::With(purpose));
    }
    for other in
        [&b"PRI * HTTP/2.0\r\n"[..], b"*1\r\n$4\r\nPING\r\n", b"RKPEER\0\x02", b"RKBULK\0\x02", b"R\0"]
    {
        assert_eq!(Purpose::of(other), Begins::Otherwise, "{other:?}");
    }
}

/// How long another task of the core waits at most while a frame is read that has arrived already, whole but for its last byte.
fn wait_beside(purpose: Purpose, seed: u64) -> Duration {
    const BYTES: usize = 12 << 20;
    const STALL: Duration = Duration::from_secs(5);
    let net = NetOptions { window_bytes: 2 * BYTES, ..Options::default().net };
    let world = World::new(seed, Options { net, clock_ns: 5_000, ..Options::default() });
    let addr = world.node(1).addr(PORT);
    let waited = Rc::new(Cell::new(Duration::ZERO));
    let noted = waited.clone();
    drop(world.node(1).start(0, move |rt| {
        let neighbour = rt.clone();
        rt.spawn(async move {
            let mut last = neighbour.now();
            loop {
                neighbour.sleep(Duration::from_micros(100)).await;
                let gap = neighbour.now().since(last);
                last = neighbour.now();
                noted.set(noted.get().max(gap.checked_sub(STALL).unwrap_or(gap)));
            }
        });
        accept(rt, addr, speaker(2), Rc::default(), Arrived::default())
    }));
    let sending = world.node(0).start(0, move |rt| async move {
        let mut stream =
            open::introduce(&rt, purpose, &speaker(1), &addr.to_string(), StoreId(2)).await.unwrap();
        rt.sleep(Duration::from_millis(100)).await;
        let mut part = (BYTES as u32).to_le_bytes().to_vec();
        part.resize(BYTES, 0);
        stream.write_all(&part).await.unwrap();
        rt.sleep(2 * STALL).await;
        drop(stream);
    });
    world.run_for(Duration::from_millis(50));
    world.node(1).stall(0, STALL);
    world.block_on(sending).unwrap();
    waited.get()
}

/// A peer that is fast always has more to read, and the core has others to serve.
#[test]
fn others_go_on_while_a_long_frame_is_read() {
    for purpose in [Purpose::Messages, Purpose::Requests] {
        for seed in 0..4 {
            let waited = wait_beside(purpose, seed);
            assert!(waited < Duration::from_millis(2), "seed {seed}, {purpose:?}: {waited:?}");
        }
    }
}

/// Whoever reaches the port may begin a frame and not end it, on as many connections as there may be. What they hold is bounded, a
/// peer goes on meanwhile, and they have to go.
#[test]
fn unfinished_frames_share_a_bound_and_end() {
    unfinished(Purpose::Messages, 4);
}

/// What clients of other nodes ask shares the bound of requests.
#[test]
fn unfinished_requests_share_a_bound_and_end() {
    unfinished(Purpose::Requests, 1);
}

/// They have this part of what requests may have.
fn unfinished(purpose: Purpose, part: usize) {
    const BUDGET: usize = 16 << 20;
    let world = World::new(5, Options::default());
    let (addr, memory) =
        (world.node(1).addr(PORT), Memory::new(MemoryLimits { input_bytes: BUDGET, output_bytes: BUDGET }));
    let pool = match purpose {
        Purpose::Messages | Purpose::Snapshot => memory.peers.clone(),
        Purpose::Requests => memory.input.clone(),
    };
    let arrived = Arrived::default();
    let keeps = arrived.clone();
    let serving = move |rt| accept_within(rt, addr, speaker(2), Rc::default(), keeps, memory);
    drop(world.node(1).start(0, serving));
    let begun = world.node(2).start(0, move |rt| async move {
        let mut streams = Vec::new();
        for n in 0..20 {
            let mut stream = open::introduce(&rt, purpose, &speaker(100 + n), &addr.to_string(), StoreId(2))
                .await
                .unwrap();
            let mut part = (64u32 << 20).to_le_bytes().to_vec();
            part.resize(3 << 20, 0);
            // It takes what the other side reads.
            if let Some(written) = rt.timeout(Duration::from_secs(2), stream.write_all(&part)).await {
                written.unwrap();
            }
            streams.push(stream);
        }
        rt.sleep(Duration::from_secs(5)).await;
        streams.len()
    });
    // A byte now and then is no silence.
    let trickling = world.node(3).start(0, move |rt| async move {
        let mut stream =
            open::introduce(&rt, purpose, &speaker(99), &addr.to_string(), StoreId(2)).await.unwrap();
        stream.write_all(&(1u32 << 20).to_le_bytes()).await.unwrap();
        for _ in 0..60 {
            rt.sleep(Duration::from_secs(5)).await;
            if stream.write_all(b"x").await.is_err() {
                return true;
            }
        }
        false
    });
    let links = world.node(0).start(0, move |rt| async move {
        rt.sleep(Duration::from_secs(40)).await;
        let mut stream = open::introduce(&rt, Purpose::Messages, &speaker(1), &addr.to_string(), StoreId(2))
            .await
            .unwrap();
        let batch = MessageBatch { from: StoreId(1), to: StoreId(2), messages: vec![message(9)] };
        let mut bytes = Vec::new();
        frame::push(&mut bytes, FrameKind::Messages, |out| batch.encode(out));
        stream.write_all(&bytes).await.unwrap();
        rt.sleep(Duration::from_secs(1)).await;
        drop(stream);
    });
    world.block_on(begun).unwrap();
    // What is let through exceeds the bound by one frame, and a buffer that grows may have twice the room that it needs.
    assert!(pool.peak() > 2 << 20, "{} bytes: the test does not test", pool.peak());
    assert!(pool.peak() <= BUDGET / part + 2 * (3 << 20) + (1 << 20), "{} bytes were held", pool.peak());
    world.block_on(links).unwrap();
    assert_eq!(*arrived.borrow(), [9], "a peer is served meanwhile");
    assert_eq!(world.block_on(trickling), Some(true), "a frame may take as long as its sender likes");
    world.run_for(Duration::from_secs(600));
    assert_eq!(pool.used(), 0, "whoever does not end its frame is ended");
}
