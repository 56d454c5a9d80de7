//! Transactions mean the same on real stores, most of whose values are on disk, as on a map.
//!
//! `RINGKEEP_SEEDS=1000 cargo test -p ringkeep-store --test it transactions` runs more seeds.

use bytes::Bytes;
use engine::rt::Rt;
use store::gateway::{Gateway, Submitted};
use store::refusal::Refusal;
use store::request::{Atomic, Change, Op, Out, Outcome, Seen, When};

use crate::cold::{in_world, make_cold};
use crate::gateway::{change_of_expiry, everything, expiry, plain};
use crate::resp_server::Random;

/// A key of the region that has those beginning with `first`.
fn key(random: &mut Random, first: u8) -> Bytes {
    Bytes::from(vec![first, b'0' + random.below(5) as u8])
}

fn value(random: &mut Random) -> Bytes {
    match random.below(3) {
        0 => Bytes::from(random.below(100).to_string()),
        // Values that are long for the memory of a cold store.
        1 => Bytes::from(vec![b'v'; 200 + random.below(200)]),
        _ => Bytes::from(vec![b's'; random.below(9)]),
    }
}

fn change(random: &mut Random) -> Change {
    match random.below(13) {
        10..=12 => {
            let value = value(random);
            change_of_expiry(&mut |bound| random.below(bound as usize) as u64, value)
        }
        0 => Change::Take,
        1 => Change::Remove,
        2 => Change::Append { suffix: value(random) },
        3 | 4 => Change::Add { delta: random.below(9) as i64 - 4 },
        5 | 6 => Change::SetRange { offset: random.below(400), value: value(random) },
        7 => Change::SetBit { offset: random.below(3000), on: random.below(2) == 0 },
        8 => Change::AddFloat { delta: format!("{}e-1", random.below(90) as i64 - 45).into() },
        _ => {
            let when = [When::Always, When::Absent, When::Present][random.below(3)].clone();
            Change::SetIf { value: value(random), when }
        }
    }
}

fn step(random: &mut Random, first: u8) -> Op {
    let key_there = key(random, first);
    match random.below(14) {
        0 | 1 => Op::Get { key: key_there },
        12 => Op::Expiry { key: key_there },
        13 => {
            let mut put = || {
                let expiry = expiry(&mut |bound| random.below(bound as usize) as u64);
                (key(random, first), value(random), expiry)
            };
            Op::PutTimed { puts: vec![put(), put()] }
        }
        2 => {
            Op::BatchGet { keys: (0..random.below(4)).map(|_| key(random, first)).collect(), at_once: false }
        }
        3 => Op::Put { key: key_there, value: value(random) },
        4 => Op::BatchPut {
            pairs: (0..random.below(4)).map(|_| (key(random, first), value(random))).collect(),
        },
        5 => Op::Delete { key: key_there, count: random.below(2) == 0 },
        7 => Op::PutAbsent {
            pairs: (0..random.below(3)).map(|_| (key(random, first), value(random))).collect(),
        },
        8 | 9 => {
            let (remove, replace) = (random.below(2) == 0, random.below(2) == 0);
            Op::Copy { from: key_there, to: key(random, first), remove, replace }
        }
        6 => Op::BatchDelete { keys: (0..random.below(3)).map(|_| key(random, first)).collect() },
        _ => Op::Modify { key: key_there, change: change(random) },
    }
}

/// What one client has watched, in both worlds.
type Watched = Vec<(Bytes, Seen, Seen)>;

async fn watch(random: &mut Random, first: u8, real: &Gateway, model: &Gateway) -> Watched {
    let keys: Vec<Bytes> = (0..1 + random.below(2)).map(|_| key(random, first)).collect();
    let op = Op::Watch { keys: keys.clone() };
    match (real.submit(None, op.clone()).await, model.submit(None, op).await) {
        (Ok(Out::Seen(real)), Ok(Out::Seen(model))) => keys
            .into_iter()
            .zip(real.into_iter().zip(model))
            .map(|(key, (real, model))| (key, real, model))
            .collect(),
        other => panic!("{other:?}"),
    }
}

async fn settle(seed: u64, in_flight: &mut Vec<(Op, Submitted, Outcome)>) -> (usize, usize) {
    let (mut ran, mut not) = (0, 0);
    for (op, submitted, expected) in in_flight.drain(..) {
        let found = submitted.await;
        assert_eq!(plain(found.clone()), plain(expected), "seed {seed}: {op:?}");
        match found {
            Ok(Out::Atomic(Some(_))) => ran += 1,
            Ok(Out::Atomic(None)) => not += 1,
            Ok(_) | Err(_) => {}
        }
    }
    (ran, not)
}

/// Bursts of transactions and single writes, not awaited before the next is submitted; how many transactions ran, and how many
/// did not because a watched key had been written.
async fn compare(seed: u64, real: &Gateway, model: &Gateway) -> (usize, usize) {
    let mut random = Random(engine::rt::rng::Rng::new(seed));
    let (mut in_flight, mut ran, mut not) = (Vec::new(), 0, 0);
    let mut watched: [Watched; 3] = Default::default();
    for _ in 0..300 {
        let client = random.below(watched.len());
        let first = b"Aaz"[client];
        let (op, expected) = match random.below(8) {
            0 => {
                // Whoever watches has heard the answers to what it wrote before.
                let (more, less) = settle(seed, &mut in_flight).await;
                (ran, not) = (ran + more, not + less);
                watched[client] = watch(&mut random, first, real, model).await;
                continue;
            }
            1..=4 => {
                let steps: Vec<Op> = (0..1 + random.below(6)).map(|_| step(&mut random, first)).collect();
                let has_keys = !Atomic { watched: vec![], steps: steps.clone() }.keys().is_empty();
                let watched = std::mem::take(&mut watched[client]);
                if !has_keys && watched.is_empty() {
                    continue;
                }
                let op = |side: fn(&(Bytes, Seen, Seen)) -> Seen| {
                    let watched = watched.iter().map(|seen| (seen.0.clone(), side(seen))).collect();
                    Op::Atomic(Atomic { watched, steps: steps.clone() })
                };
                let expected = model.submit(None, op(|seen| seen.2)).await;
                (op(|seen| seen.1), expected)
            }
            5 => {
                let op = Op::BatchPut {
                    pairs: b"Aaz"
                        .iter()
                        .map(|&first| (key(&mut random, first), value(&mut random)))
                        .collect(),
                };
                (op.clone(), model.submit(None, op).await)
            }
            _ => {
                let op = Op::Modify { key: key(&mut random, first), change: change(&mut random) };
                (op.clone(), model.submit(None, op).await)
            }
        };
        in_flight.push((op.clone(), real.submit(None, op), expected));
        if random.below(6) == 0 {
            let (more, less) = settle(seed, &mut in_flight).await;
            (ran, not) = (ran + more, not + less);
        }
    }
    let (more, less) = settle(seed, &mut in_flight).await;
    (ran + more, not + less)
}

#[test]
fn transactions_on_cold_stores_mean_the_same_as_on_a_map() {
    let seeds = std::env::var("RINGKEEP_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    for seed in 0..seeds {
        in_world(seed, move |rt, gateway| async move {
            let model = Gateway::in_memory().with_clock(&rt);
            let (ran, not) = compare(seed, &gateway, &model).await;
            // Some seed watches nothing that is written meanwhile, by chance; none of the first ones does.
            assert!(
                ran > 50 && (not > 0 || seed >= 20),
                "seed {seed}: {ran} ran and {not} did not: too few to mean anything"
            );
            assert_eq!(everything(&gateway).await, everything(&model).await, "seed {seed}");
        });
    }
}

fn put(key: &'static str, value: &'static str) -> Op {
    Op::Put { key: key.into(), value: value.into() }
}

fn atomic(steps: Vec<Op>) -> Op {
    Op::Atomic(Atomic { watched: Vec::new(), steps })
}

fn get(gateway: &Gateway, key: &'static str) -> Submitted {
    gateway.submit(None, Op::Get { key: key.into() })
}

#[test]
fn keys_of_two_regions_are_refused_and_nothing_has_happened() {
    in_world(1, |_, gateway| async move {
        let refused = gateway.submit(None, atomic(vec![put("a", "1"), put("z", "1")])).await;
        assert_eq!(refused, Err(Refusal::SpansRegions { one: "a".into(), other: "z".into() }));
        let refused = gateway.submit(None, Op::Watch { keys: vec!["a".into(), "z".into()] }).await;
        assert_eq!(refused, Err(Refusal::SpansRegions { one: "a".into(), other: "z".into() }));
        assert_eq!(get(&gateway, "a").await, Ok(Out::Value(None)));
        assert_eq!(get(&gateway, "z").await, Ok(Out::Value(None)));
    });
}

/// What waits for a transaction's keys goes on when it ends, in order, and what it refuses leaves no trace.
#[test]
fn what_comes_for_the_keys_of_a_transaction_waits_until_it_has_run() {
    in_world(1, |rt: Rt, gateway| async move {
        make_cold(&rt, &gateway).await;
        let add = || Op::Modify { key: "a".into(), change: Change::Add { delta: 1 } };
        let range = Op::DeleteRange { start: "a".into(), end: "b".into() };
        let submitted: Vec<Submitted> = [
            atomic(vec![add(), Op::Get { key: "a".into() }]),
            add(),
            put("aa", "x"),
            atomic(vec![add(), put("ab", "y"), Op::Get { key: "aa".into() }]),
            add(),
            range,
            atomic(vec![Op::Get { key: "a".into() }, add()]),
        ]
        .into_iter()
        .map(|op| gateway.submit(None, op))
        .collect();
        let mut outs = Vec::new();
        for submitted in submitted {
            outs.push(submitted.await.unwrap());
        }
        let all = |outs: Vec<Out>| Out::Atomic(Some(outs.into_iter().map(Ok).collect()));
        let value = |text: &'static str| Out::Value(Some(text.into()));
        assert_eq!(
            outs,
            [
                all(vec![Out::Integer(2), value("2")]),
                Out::Integer(3),
                Out::Done,
                all(vec![Out::Integer(4), Out::Done, value("x")]),
                Out::Integer(5),
                Out::Done,
                all(vec![Out::Value(None), Out::Integer(1)]),
            ]
        );
    });
}

/// A transaction that makes too much is refused before it has made it, and its keys are free again.
#[test]
fn a_transaction_that_makes_too_much_is_refused_whole() {
    in_world(1, |_, gateway| async move {
        let big = Bytes::from(vec![b'x'; 4 << 20]);
        gateway.submit(None, Op::Put { key: "a".into(), value: big }).await.unwrap();
        let append = || Op::Modify { key: "a".into(), change: Change::Append { suffix: "y".into() } };
        let mut steps = vec![put("aa", "1")];
        steps.extend((0..1000).map(|_| append()));
        let refused = gateway.submit(None, atomic(steps)).await;
        assert!(
            matches!(&refused, Err(Refusal::Invalid(why)) if why.contains("bytes of values")),
            "{refused:?}"
        );
        assert_eq!(get(&gateway, "aa").await, Ok(Out::Value(None)));
        assert_eq!(gateway.submit(None, append()).await, Ok(Out::Length((4 << 20) + 1)));
    });
}
