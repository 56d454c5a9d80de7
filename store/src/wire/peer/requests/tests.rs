//! Requests between two simulated nodes, and the bytes of their frames.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::local::{Answer, Pending, oneshot};
use engine::rt::rng::Rng;
use engine::rt::sim::{NetOptions, Options, World};
use engine::rt::{ListenOptions, Rt};
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, Role, StoreId};

use super::asking::{ANSWER_MAX, Requests, WAITING_MAX};
use super::codec::{
    ForwardedReply, ForwardedRequest, NO_SPACE_THERE, decode_answers, decode_answers_in_pieces,
    decode_requests, decode_requests_in_pieces, encode_answers, encode_requests, request_bytes,
};
use super::serving::RUNNING_MAX;
use crate::memory::{ITEM_BYTES, Memory, MemoryLimits};
use crate::refusal::Refusal;
use crate::region::lineage::Lineage;
use crate::request::{
    Atomic, Change, ExpireWhen, Expiry, KeyExpiry, Op, Out, Outcome, Route, Scan, Seen, When,
};
use crate::wire::peer::book::AddressBook;
use crate::wire::peer::counters::PeerCounters;
use crate::wire::peer::inbound::{Inbound, Incarnations};
use crate::wire::peer::messages::tests::runs_beside;
use crate::wire::peer::open::{Begins, Purpose, Speaker};

const PORT: u16 = 20_161;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn route() -> Route {
    Route { region_id: 9, conf_ver: 2, version: 3, peer_id: 4, store_id: 2, term: 0, replica_read: false }
}

/// Every operation there is, with every field in use.
fn ops() -> Vec<Op> {
    let (key, value) = (bytes("key"), bytes("value"));
    let keys = vec![bytes("a"), bytes(""), bytes("ccc")];
    let set = |when| Op::Modify { key: bytes("key"), change: Change::SetIf { value: bytes("new"), when } };
    let mut ops = vec![
        Op::Get { key: key.clone() },
        Op::BatchGet { keys: keys.clone(), at_once: true },
        Op::Lengths { keys: keys.clone(), ahead: false },
        Op::Put { key: key.clone(), value: value.clone() },
        Op::BatchPut { pairs: vec![(bytes("a"), bytes("1")), (bytes("b"), bytes(""))] },
        Op::Delete { key: key.clone(), count: true },
        Op::BatchDelete { keys: keys.clone() },
        Op::Watch { keys },
        set(When::Always),
        set(When::Absent),
        set(When::Present),
        set(When::Equals(None)),
        set(When::Equals(Some(value.clone()))),
        Op::Modify { key: key.clone(), change: Change::Take },
        Op::Modify { key: key.clone(), change: Change::Remove },
        Op::Modify { key: key.clone(), change: Change::Append { suffix: value.clone() } },
        Op::Modify { key: key.clone(), change: Change::Add { delta: -7 } },
        Op::Modify { key: key.clone(), change: Change::SetRange { offset: 300, value: value.clone() } },
        Op::Modify { key: key.clone(), change: Change::SetBit { offset: 70_000, on: true } },
        Op::Modify { key: key.clone(), change: Change::AddFloat { delta: bytes("-1.5e3") } },
        Op::PutAbsent { pairs: vec![(bytes("a"), bytes("1")), (bytes("b"), bytes(""))] },
        Op::Copy { from: key.clone(), to: bytes("other"), remove: true, replace: false },
    ];
    ops.extend(ops_about_expiry());
    let watched = vec![(bytes("w"), Seen { term: 5, number: 6 })];
    ops.push(Op::Atomic(Atomic { watched, steps: ops.clone() }));
    ops.push(Op::DeleteRange { start: bytes("a"), end: Bytes::new() });
    ops.push(Op::Scan(Scan {
        start: bytes("a"),
        end: bytes("z"),
        limit: 12,
        reverse: true,
        key_only: true,
        held_bytes: 13,
        at_once: true,
    }));
    ops
}

fn ops_about_expiry() -> Vec<Op> {
    let key = || bytes("key");
    let modify = |change| Op::Modify { key: key(), change };
    let expiries = [Expiry::Never, Expiry::Keep, Expiry::After(u64::MAX), Expiry::At(7)];
    let whens = [
        ExpireWhen::Always,
        ExpireWhen::Stays,
        ExpireWhen::Expires,
        ExpireWhen::Later,
        ExpireWhen::Earlier,
        ExpireWhen::ExpiresEarlier,
    ];
    let mut ops = vec![
        Op::Expiry { key: key() },
        Op::PutTimed { puts: expiries.map(|expiry| (key(), bytes("v"), expiry)).to_vec() },
    ];
    ops.extend(whens.map(|when| modify(Change::Expire { expiry: Expiry::After(1), when })));
    for expiry in expiries {
        ops.push(modify(Change::GetTimed { expiry }));
        let when = When::Equals(Some(bytes("before")));
        ops.push(modify(Change::SetTimed { value: bytes("new"), when, expiry }));
    }
    ops
}

/// A version that does not know expiry refuses what is about it by the format of the frame, and reads everything else.
#[test]
fn only_what_is_about_expiry_has_a_format_of_its_own() {
    let of_requests = |op: &Op| {
        encode_requests(&[ForwardedRequest { id: 1, route: route(), op: op.clone() }], Vec::new())[0]
    };
    let of_answer = |out| encode_answers(&[ForwardedReply { id: 1, outcome: Ok(out) }], Vec::new())[0];
    let about_expiry = ops_about_expiry();
    for op in ops() {
        let steps: &[Op] =
            if let Op::Atomic(atomic) = &op { &atomic.steps } else { std::slice::from_ref(&op) };
        let expires = steps.iter().any(|step| about_expiry.contains(step));
        assert_eq!(of_requests(&op), if expires { 2 } else { 1 }, "{op:?}");
    }
    assert_eq!((of_answer(Out::Done), of_answer(Out::Expiry(KeyExpiry::Never))), (1, 2));
}

/// Every outcome that keeps all it says.
fn outcomes() -> Vec<Outcome> {
    let outs = vec![
        Out::Done,
        Out::Value(None),
        Out::Value(Some(bytes("v"))),
        Out::Values(vec![None, Some(bytes("")), Some(bytes("vv"))]),
        Out::Lengths(vec![None, Some(0), Some(70_000)]),
        Out::Existed(true),
        Out::Swapped { swapped: true, previous: Some(bytes("p")) },
        Out::Length(3),
        Out::Integer(-9),
        Out::Pairs(vec![(bytes("a"), bytes("1")), (bytes("b"), bytes(""))]),
        Out::NoRoom,
        Out::Expiry(KeyExpiry::Absent),
        Out::Expiry(KeyExpiry::Never),
        Out::Expiry(KeyExpiry::At { until_ms: u64::MAX - 1, left_ms: 9 }),
        Out::Seen(vec![Seen { term: 1, number: 2 }]),
    ];
    let leader = Peer { id: PeerId(8), store: StoreId(3), role: Role::Incoming };
    let refusals = vec![
        Refusal::NotLeader { region_id: 1, leader: Some(leader) },
        Refusal::NotLeader { region_id: 1, leader: None },
        Refusal::RegionNotFound { region_id: 2 },
        Refusal::EpochNotMatch { current: Vec::new() },
        Refusal::StoreNotMatch { asked: 1, actual: 2 },
        Refusal::PeerNotMatch { asked: 1, actual: 2 },
        Refusal::StaleCommand,
        Refusal::Busy { reason: "the store that leads the region is busy", backoff_ms: 7 },
        Refusal::DiskFull { store_ids: vec![1, 2], reason: NO_SPACE_THERE.to_owned() },
        Refusal::SpansRegions { one: bytes("a"), other: bytes("b") },
        Refusal::TooLarge { region_id: 1, bytes: 2, bytes_max: 3 },
        Refusal::Damaged { file: "f".into(), what: "w".into() },
        Refusal::Invalid("no".into()),
        Refusal::AnswerTooLarge { bytes_max: 4 },
        Refusal::NotAnInteger,
        Refusal::Overflow,
        Refusal::Stopped("why".into()),
        Refusal::Unknown,
    ];
    let plain: Vec<Outcome> = outs.into_iter().map(Ok).chain(refusals.into_iter().map(Err)).collect();
    let mut outcomes = plain.clone();
    outcomes.push(Ok(Out::Atomic(None)));
    outcomes.push(Ok(Out::Atomic(Some(plain))));
    outcomes
}

/// Every step takes as many bytes as the longest kind: one that is longer would change where all others lie, and with it the format.
#[test]
fn no_kind_of_step_is_longer_than_in_version_0_1() {
    assert_eq!(size_of::<rkyv::Archived<super::codec::StoredStep>>(), 14);
}

#[test]
fn every_operation_and_outcome_arrives_as_it_was() {
    let requests: Vec<ForwardedRequest> = ops()
        .into_iter()
        .enumerate()
        .map(|(id, op)| ForwardedRequest { id: id as u64, route: route(), op })
        .collect();
    assert_eq!(decode_requests(&encode_requests(&requests, Vec::new())), Ok(requests));
    let answers: Vec<ForwardedReply> = outcomes()
        .into_iter()
        .enumerate()
        .map(|(id, outcome)| ForwardedReply { id: id as u64, outcome })
        .collect();
    assert_eq!(decode_answers(&encode_answers(&answers, Vec::new())), Ok(answers));
}

#[test]
fn others_of_the_core_run_while_a_long_frame_is_taken_apart() {
    let world = World::new(5, Options::default());
    let node = world.node(0);
    node.slow_cpu(1000);
    let running = node.start(0, |rt| async move {
        let (ops, outcomes) = (std::iter::repeat_with(ops), std::iter::repeat_with(outcomes));
        let requests: Vec<ForwardedRequest> = (0..)
            .zip(ops.take(10).flatten())
            .map(|(id, op)| ForwardedRequest { id, route: route(), op })
            .collect();
        let answers: Vec<ForwardedReply> = (0..)
            .zip(outcomes.take(10).flatten())
            .map(|(id, outcome)| ForwardedReply { id, outcome })
            .collect();
        let (asked, said) = (encode_requests(&requests, Vec::new()), encode_answers(&answers, Vec::new()));
        let (ran, budget) = (runs_beside(&rt), rt.budget());
        assert_eq!(decode_requests_in_pieces(&asked, &budget).await, Ok(requests));
        let first = ran.replace(0);
        assert_eq!(decode_answers_in_pieces(&said, &budget).await, Ok(answers));
        assert!(first > 10 && ran.get() > 10, "{first} and {} times", ran.get());
    });
    world.block_on(running).unwrap();
}

#[test]
fn a_map_is_not_sent_with_a_refusal() {
    let region = Region {
        id: RegionId(3),
        range: KeyRange::new("a", "b").expect("in order"),
        epoch: Epoch::FIRST,
        peers: vec![Peer::voter(PeerId(1), StoreId(1))],
    };
    let refused = |refusal| vec![ForwardedReply { id: 1, outcome: Err(refusal) }];
    let moved = Ok(refused(Refusal::EpochNotMatch { current: Vec::new() }));
    let with_map = refused(Refusal::EpochNotMatch { current: vec![region.clone()] });
    assert_eq!(decode_answers(&encode_answers(&with_map, Vec::new())), moved);
    let outside = refused(Refusal::KeyNotInRegion { key: bytes("k"), region: Box::new(region) });
    assert_eq!(decode_answers(&encode_answers(&outside, Vec::new())), moved);
}

#[test]
fn damaged_payloads_are_refused_and_nothing_panics() {
    let requests: Vec<ForwardedRequest> = ops()
        .into_iter()
        .enumerate()
        .map(|(id, op)| ForwardedRequest { id: id as u64, route: route(), op })
        .collect();
    let answers: Vec<ForwardedReply> =
        outcomes().into_iter().map(|outcome| ForwardedReply { id: 1, outcome }).collect();
    let (asked, said) = (encode_requests(&requests, Vec::new()), encode_answers(&answers, Vec::new()));
    for cut in 0..asked.len() {
        assert!(decode_requests(&asked[..cut]).is_err(), "cut at {cut}");
    }
    for cut in 0..said.len() {
        assert!(decode_answers(&said[..cut]).is_err(), "cut at {cut}");
    }
    let rng = Rng::new(7);
    for _ in 0..20_000 {
        for payload in [&asked, &said] {
            let mut damaged = payload.clone();
            let at = rng.below(damaged.len() as u64) as usize;
            damaged[at] ^= 1 << rng.below(8);
            // Either is an answer; the frame's checksum finds what these cannot.
            drop((decode_requests(&damaged), decode_answers(&damaged)));
        }
    }
}

#[test]
fn the_size_of_a_request_covers_its_bytes() {
    for op in ops() {
        let request = [ForwardedRequest { id: 1, route: route(), op: op.clone() }];
        let (size, encoded) = (request_bytes(&op), encode_requests(&request, Vec::new()).len());
        assert!(size + 64 >= encoded && size <= 8 * encoded, "{op:?}: {size} for {encoded}");
    }
}

/// What store 2 was asked, in order, with whoever waits as long as it has not answered.
type Asked = Rc<RefCell<Vec<(i64, Option<Answer<Outcome>>)>>>;

/// Store 2 on node 1, which is asked by node 0.
struct Pair {
    world: World,
    addr: SocketAddr,
    asked: Asked,
}

/// Store 2 answers an `Add` with its number at once, or never.
fn pair(seed: u64, net: NetOptions, answers: bool) -> Pair {
    let world = World::new(seed, Options { net, ..Options::default() });
    let addr = world.node(1).addr(PORT);
    let asked = Asked::default();
    let keeps = asked.clone();
    drop(world.node(1).start(0, move |rt| accept(rt, addr, keeps, answers)));
    Pair { world, addr, asked }
}

async fn accept(rt: Rt, addr: SocketAddr, asked: Asked, answers: bool) {
    accept_within(rt, addr, asked, answers, Memory::unbounded()).await;
}

async fn accept_within(rt: Rt, addr: SocketAddr, asked: Asked, answers: bool, memory: Memory) {
    let listener = rt.listen(addr, ListenOptions::default()).unwrap();
    let book = Rc::new(AddressBook::default());
    book.set(StoreId(1), "127.0.0.1:1");
    let (denying, rt_of_task) = (book.clone(), rt.clone());
    rt.spawn(async move {
        loop {
            rt_of_task.sleep(Duration::from_millis(100)).await;
            denying.deny(StoreId(78));
        }
    });
    let inbound = Inbound {
        rt: rt.clone(),
        speaker: Speaker {
            secret: None,
            cluster: 7,
            store: StoreId(2),
            incarnation: 1,
            lineage: Lineage::default(),
        },
        seen: Rc::new(Incarnations::default()),
        book,
        counters: Rc::new(PeerCounters::default()),
        memory,
    };
    while let Ok((mut stream, _)) = listener.accept().await {
        let (inbound, asked) = (inbound.clone(), asked.clone());
        rt.spawn(async move {
            let (mut preface, mut read) = ([0; 8], 0);
            while read < preface.len() {
                match stream.read(&mut preface[read..]).await {
                    Ok(n @ 1..) => read += n,
                    Ok(0) | Err(_) => return,
                }
            }
            assert_eq!(Purpose::of(&preface), Begins::With(Purpose::Requests));
            let carry_out = |_: Route, op: Op| -> Pending<Outcome> {
                let (answer, pending) = oneshot();
                // So many MiB as the key has bytes.
                if let Op::Get { key } | Op::Modify { key, change: Change::Take } = &op {
                    answer.send(Ok(Out::Values(vec![Some(vec![0; 1 << 20].into()); key.len()])));
                    return pending;
                }
                let number = number_of(&op);
                match answers {
                    true => {
                        answer.send(Ok(Out::Integer(number)));
                        asked.borrow_mut().push((number, None));
                    }
                    false => asked.borrow_mut().push((number, Some(answer))),
                }
                pending
            };
            // How it ended shows at the asking side.
            drop(inbound.serve_requests(stream, (&[], &|| ()), carry_out).await);
        });
    }
}

fn number_of(op: &Op) -> i64 {
    match op {
        Op::BatchGet { keys, at_once: _ } => keys.len() as i64,
        Op::Modify { change: Change::Add { delta }, .. } => *delta,
        other => panic!("store 2 is asked {other:?}"),
    }
}

fn add(number: i64) -> Op {
    Op::Modify { key: bytes("k"), change: Change::Add { delta: number } }
}

fn requests(rt: &Rt, addr: SocketAddr) -> Rc<Requests> {
    requests_of(rt, addr, StoreId(1))
}

fn requests_of(rt: &Rt, addr: SocketAddr, store: StoreId) -> Rc<Requests> {
    let book = Rc::new(AddressBook::default());
    book.set(StoreId(2), &addr.to_string());
    Requests::new(
        rt,
        Speaker { secret: None, cluster: 7, store, incarnation: 1, lineage: Lineage::default() },
        book,
        Memory::unbounded(),
    )
}

fn ask(requests: &Rc<Requests>, op: Op) -> Pending<Outcome> {
    let (answer, pending) = oneshot();
    requests.send(StoreId(2), route(), op, answer);
    pending
}

#[test]
fn requests_are_carried_out_in_order_and_each_gets_its_answer() {
    let Pair { world, addr, asked } = pair(1, Options::default().net, true);
    let asking = world.node(0).start(0, move |rt| async move {
        let requests = requests(&rt, addr);
        let mut pending = Vec::new();
        for number in 0..500 {
            pending.push(ask(&requests, add(number)));
            if number % 50 == 0 {
                rt.sleep(Duration::from_millis(1)).await;
            }
        }
        for (number, pending) in (0..).zip(pending) {
            assert_eq!(pending.await, Some(Ok(Out::Integer(number))));
        }
        requests.with(StoreId(2))
    });
    assert_eq!(world.block_on(asking), Some(0));
    let numbers: Vec<i64> = asked.borrow().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..500).collect::<Vec<i64>>());
}

/// A client may ask for as much as its node has room for, and the node that leads the region must not end for it.
#[test]
fn what_no_frame_has_room_for_is_refused_and_the_rest_goes_on() {
    let net = NetOptions { window_bytes: 8 << 20, ..Options::default().net };
    let Pair { world, addr, asked } = pair(3, net, true);
    let asking = world.node(0).start(0, move |rt| async move {
        let requests = requests(&rt, addr);
        let key = |bytes: usize| Bytes::from(vec![b'k'; bytes]);
        let keys = vec![key(8 << 10); 9000];
        let long = ask(&requests, Op::BatchGet { keys, at_once: false }).await;
        let fits = ask(&requests, Op::Get { key: key(40) }).await;
        let large = ask(&requests, Op::Get { key: key(70) }).await;
        let written = ask(&requests, Op::Modify { key: key(70), change: Change::Take }).await;
        (long, fits, large, written, ask(&requests, add(1)).await)
    });
    let (long, fits, large, written, next) = world.block_on(asking).expect("no core ends");
    assert!(matches!(&long, Some(Err(Refusal::Invalid(why))) if why.contains("fewer keys")), "{long:?}");
    assert!(matches!(fits, Some(Ok(Out::Values(values))) if values.len() == 40));
    assert_eq!(large, Some(Err(Refusal::AnswerTooLarge { bytes_max: 48 << 20 })));
    assert_eq!(written, Some(Err(Refusal::Unknown)), "it has taken effect");
    assert_eq!((next, asked.borrow().len()), (Some(Ok(Out::Integer(1))), 1));
}

/// What is refused with its store was not looked at, so it goes elsewhere and its outcome is not unknown.
#[test]
fn requests_of_a_store_that_is_not_known_are_not_carried_out_and_said_not_to_be() {
    let Pair { world, addr, asked } = pair(2, Options::default().net, true);
    let asking = world.node(0).start(0, move |rt| async move {
        let requests = requests_of(&rt, addr, StoreId(78));
        ask(&requests, add(1)).await
    });
    let outcome = world.block_on(asking).unwrap();
    let region_id = route().region_id;
    assert_eq!(outcome, Some(Err(Refusal::NotLeader { region_id, leader: None })));
    assert!(asked.borrow().is_empty());
}

/// Each takes many times its four bytes once it is a key.
#[test]
fn a_frame_names_no_more_keys_than_requests_do() {
    let named = |keys| ForwardedRequest { id: 1, route: route(), op: Op::BatchGet { keys, at_once: false } };
    let million = encode_requests(&[named(vec![Bytes::new(); 1 << 20])], Vec::new());
    assert!(decode_requests(&million).is_ok(), "a client may name as many");
    let more = encode_requests(&[named(vec![Bytes::new(); (1 << 20) + (32 << 10)])], Vec::new());
    assert!(decode_requests(&more).is_err());
}

/// Keys that were taken apart have room, or their request is refused as busy and does not begin.
#[test]
fn requests_of_many_keys_wait_for_room() {
    const KEYS: usize = 10_000;
    let world = World::new(6, Options::default());
    let (addr, asked) = (world.node(1).addr(PORT), Asked::default());
    let memory = Memory::new(MemoryLimits { input_bytes: 8 << 20, output_bytes: 8 << 20 });
    let (keeps, items) = (asked.clone(), memory.items.clone());
    drop(world.node(1).start(0, move |rt| accept_within(rt, addr, keeps, false, memory)));
    let asking = world.node(0).start(0, move |rt| async move {
        let requests = requests(&rt, addr);
        let op = Op::BatchGet { keys: vec![bytes("k"); KEYS], at_once: false };
        let pending: Vec<_> = (0..6).map(|_| ask(&requests, op.clone())).collect();
        rt.sleep(Duration::from_secs(8)).await;
        drop(pending);
    });
    world.block_on(asking).expect("it ran");
    let begun = asked.borrow().len();
    assert!((1..=3).contains(&begun), "{begun} were begun, and two have room");
    assert!(items.peak() >= KEYS * ITEM_BYTES && items.peak() <= 8 << 20, "{} bytes", items.peak());
}

#[test]
fn a_store_that_is_not_there_refuses_what_was_not_sent() {
    let world = World::new(2, Options::default());
    let addr = world.node(1).addr(PORT);
    let asking = world.node(0).start(0, move |rt| async move {
        let requests = requests(&rt, addr);
        let unknown_store = {
            let (answer, pending) = oneshot();
            requests.send(StoreId(77), route(), add(1), answer);
            pending.await
        };
        (ask(&requests, add(1)).await, unknown_store)
    });
    let (refused, unknown_store) = world.block_on(asking).expect("it ran");
    for outcome in [refused, unknown_store] {
        assert_eq!(outcome, Some(Err(Refusal::NotLeader { region_id: 9, leader: None })));
    }
}

#[test]
fn an_answer_that_is_overdue_is_unknown_and_a_read_may_be_repeated() {
    let Pair { world, addr, asked } = pair(3, Options::default().net, false);
    let asking = world.node(0).start(0, move |rt| async move {
        let requests = requests(&rt, addr);
        let (began, writes) = (rt.now(), ask(&requests, add(1)));
        let outcome = writes.await;
        (outcome, rt.now().since(began))
    });
    let (outcome, took) = world.block_on(asking).expect("it ran");
    assert_eq!(outcome, Some(Err(Refusal::Unknown)));
    assert!(took >= ANSWER_MAX && took < 2 * ANSWER_MAX, "{took:?}");
    assert_eq!(asked.borrow().len(), 1, "it is not sent twice");
}

#[test]
fn what_is_with_one_store_is_bounded_on_both_sides() {
    let Pair { world, addr, asked } = pair(4, Options::default().net, false);
    let seen = asked.clone();
    let asking = world.node(0).start(0, move |rt| async move {
        let requests = requests(&rt, addr);
        let pending: Vec<_> = (0..WAITING_MAX as i64).map(|number| ask(&requests, add(number))).collect();
        let one_more = ask(&requests, add(-1)).await;
        rt.sleep(Duration::from_secs(1)).await;
        let running = seen.borrow().len();
        // Each that is answered makes room for one more.
        let first = seen.borrow_mut()[0].1.take().expect("it was not answered");
        first.send(Ok(Out::Integer(0)));
        rt.sleep(Duration::from_secs(1)).await;
        drop(pending);
        (one_more, running, seen.borrow().len())
    });
    let (one_more, running, later) = world.block_on(asking).expect("it ran");
    assert!(matches!(one_more, Some(Err(Refusal::Busy { .. }))), "{one_more:?}");
    assert_eq!((running, later), (RUNNING_MAX, RUNNING_MAX + 1));
}

#[test]
fn over_connections_that_break_every_request_has_one_outcome_and_runs_at_most_once() {
    let (mut done, mut unknown, mut refused) = (0, 0, 0);
    for seed in 0..30 {
        let net =
            NetOptions { reset: 0.05, loss: 0.02, duplicate: 0.05, straggle: 0.05, ..Options::default().net };
        let Pair { world, addr, asked } = pair(100 + seed, net, true);
        let asking = world.node(0).start(0, move |rt| async move {
            let requests = requests(&rt, addr);
            let mut outcomes = Vec::new();
            for round in 0..40 {
                let pending: Vec<_> = (0..5).map(|n| ask(&requests, add(round * 5 + n))).collect();
                for pending in pending {
                    outcomes.push(pending.await.expect("every request is answered"));
                }
            }
            outcomes
        });
        let outcomes = world.block_on(asking).expect("it ran");
        let numbers: Vec<i64> = asked.borrow().iter().map(|(number, _)| *number).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}: twice or out of order");
        for (number, outcome) in (0..).zip(outcomes) {
            let ran = numbers.binary_search(&number).is_ok();
            match outcome {
                Ok(out) => {
                    assert_eq!((out, ran), (Out::Integer(number), true), "seed {seed}");
                    done += 1;
                }
                Err(Refusal::Unknown) => unknown += 1,
                Err(refusal) => {
                    assert!(!ran, "seed {seed}: request {number} ran and was refused: {refusal:?}");
                    refused += 1;
                }
            }
        }
    }
    assert!(
        done > 3_000 && unknown > 20 && refused > 20,
        "{done} done, {unknown} unknown, {refused} refused"
    );
}
