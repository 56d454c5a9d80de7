//! What clients make a core hold stays within its bounds, and whoever is small is served meanwhile.
//!
//! All of it runs in the simulated world, where a client that waits for ever is a failed test.

use std::time::Duration;

use bytes::Bytes;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use store::gateway::{Gateway, Submitted};
use store::memory::{Memory, MemoryLimits, WAIT_MAX};
use store::node::core::Stores;
use store::refusal::Refusal;
use store::request::{Atomic, Change, ExpireWhen, Expiry, Op, Out, Scan};

use crate::connection_memory::{ask, serve};
use crate::node::open_simulated;

pub(crate) const MIB: usize = 1 << 20;

pub(crate) fn in_world<F: Future<Output = ()> + 'static>(work: impl FnOnce(Rt) -> F + 'static) {
    let world = World::new(9, Options::default());
    world.block_on(world.node(0).start(0, work)).expect("nothing crashes the node");
}

/// Two stores with these bounds; nothing of what is written stays in memory if they are `cold`.
pub(crate) async fn open(
    rt: &Rt,
    limits: MemoryLimits,
    inflight_bytes_max: usize,
    cold: bool,
) -> (Stores, Gateway) {
    open_simulated(rt, |plan| {
        plan.shard.memory = Memory::new(limits);
        plan.shard.limits.inflight_bytes_max = inflight_bytes_max;
        if cold {
            plan.shard.tree =
                TreeOptions { memtable_bytes: 1 << 10, cache_bytes: 0, ..TreeOptions::default() };
        }
    })
    .await
}

pub(crate) fn limits(input_bytes: usize, output_bytes: usize) -> MemoryLimits {
    MemoryLimits { input_bytes, output_bytes }
}

pub(crate) async fn put(gateway: &Gateway, key: &'static str, bytes: usize) {
    let value = Bytes::from(vec![b'x'; bytes]);
    gateway.submit(None, Op::Put { key: key.into(), value }).await.expect("a write");
}

/// Waits until `key` is on disk alone.
pub(crate) async fn cool(rt: &Rt, gateway: &Gateway, key: &[u8]) {
    put(gateway, "z", 4 << 10).await;
    while gateway.get_now(key).is_some() {
        rt.sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn get(gateway: &Gateway, key: &'static str) -> Submitted {
    gateway.submit(None, Op::Get { key: key.into() })
}

#[test]
fn lengths_cost_no_copy_of_any_value() {
    for cold in [false, true] {
        in_world(move |rt| async move {
            let (_stores, gateway) = open(&rt, limits(64 * MIB, 4 * MIB), 64 * MIB, cold).await;
            put(&gateway, "big", 3 * MIB).await;
            if cold {
                cool(&rt, &gateway, b"big").await;
            }
            let keys = (0..500).map(|n| Bytes::from(if n % 5 == 0 { "none" } else { "big" })).collect();
            let Ok(Out::Lengths(lengths)) = gateway.submit(None, Op::Lengths { keys, ahead: false }).await
            else {
                panic!("no lengths");
            };
            let expected: Vec<_> = (0..500).map(|n| (n % 5 != 0).then_some(3 * MIB)).collect();
            assert_eq!(lengths, expected);
            assert_eq!(gateway.memory().output.peak(), 0, "cold: {cold}");
        });
    }
}

#[test]
fn values_are_charged_until_they_are_dropped_and_what_finds_no_room_is_refused() {
    for cold in [false, true] {
        in_world(move |rt| async move {
            let (_stores, gateway) = open(&rt, limits(64 * MIB, 8 * MIB), 64 * MIB, cold).await;
            put(&gateway, "big", MIB).await;
            put(&gateway, "small", 100).await;
            if cold {
                cool(&rt, &gateway, b"big").await;
            }
            let began = rt.now();
            let asked: Vec<_> = (0..40).map(|_| get(&gateway, "big")).collect();
            let (mut held, mut busy) = (Vec::new(), 0);
            for asked in asked {
                match asked.await {
                    Ok(out) => held.push(out),
                    Err(Refusal::Busy { .. }) => busy += 1,
                    Err(other) => panic!("{other:?}"),
                }
            }
            let output = &gateway.memory().output;
            assert_eq!(
                (held.len(), busy),
                (5, 35),
                "three quarters of the bound, with what a value costs beside"
            );
            assert!(output.peak() <= 6 * MIB, "{} bytes were charged", output.peak());
            assert!(rt.now().since(began) >= WAIT_MAX, "they waited before they were refused");
            get(&gateway, "small").await.expect("there is a reserve for small values");
            drop(held);
            assert_eq!(output.used(), 0);
            drop(get(&gateway, "big").await.expect("there is room again"));
            assert_eq!(output.used(), 0);
        });
    }
}

/// A client that pipelines a read and a write of one key never finds the later write in the read, also if that has to wait.
#[test]
fn a_read_that_waits_for_room_sees_no_later_write() {
    for cold in [false, true] {
        in_world(move |rt| async move {
            let (_stores, gateway) = open(&rt, limits(64 * MIB, 8 * MIB), 64 * MIB, cold).await;
            put(&gateway, "key", 2 * MIB).await;
            if cold {
                cool(&rt, &gateway, b"key").await;
            }
            let all = gateway.memory().output.charge(8 * MIB);
            let read = get(&gateway, "key");
            put(&gateway, "key", MIB).await;
            rt.sleep(Duration::from_millis(100)).await;
            drop(all);
            let Ok(Out::Value(Some(value))) = read.await else { panic!("no value") };
            assert_eq!(value.len(), 2 * MIB, "cold: {cold}");
        });
    }
}

#[test]
fn scans_and_batches_are_charged_and_bounded() {
    in_world(|rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 8 * MIB), 64 * MIB, false).await;
        let keys: Vec<Bytes> = ["a1", "a2", "a3", "a4", "a5"].map(Bytes::from).to_vec();
        for key in ["a1", "a2", "a3", "a4", "a5"] {
            put(&gateway, key, MIB).await;
        }
        let output = &gateway.memory().output;
        let scan = |limit| Op::Scan(Scan { start: "a".into(), end: "b".into(), limit, ..Scan::default() });
        let batch = |len: usize| Op::BatchGet { keys: keys[..len].to_vec(), at_once: false };
        for op in [scan(3), batch(3)] {
            let out = gateway.submit(None, op).await.expect("it fits");
            assert!(output.used() >= 3 * MIB, "{} bytes are charged for three values", output.used());
            drop(out);
            assert_eq!(output.used(), 0);
        }
        for op in [scan(5), batch(5)] {
            let refused = gateway.submit(None, op).await;
            assert!(
                matches!(refused, Err(Refusal::AnswerTooLarge { .. })),
                "an answer has at most half of the bound"
            );
            assert_eq!(output.used(), 0);
        }
    });
}

/// One read of two values with these keys, in every form that there is.
fn reads(one: &'static str, other: &'static str) -> Vec<Op> {
    let keys: Vec<Bytes> = vec![one.into(), other.into()];
    let scan = Scan { start: one.into(), end: [other, "!"].concat().into(), limit: 10, ..Scan::default() };
    let mut ops = vec![
        Op::BatchGet { keys: keys.clone(), at_once: false },
        Op::Scan(scan.clone()),
        Op::Scan(Scan { reverse: true, ..scan }),
    ];
    // A transaction lies in one region.
    if one.as_bytes()[0] == other.as_bytes()[0] {
        let get = |key: &Bytes| Op::Get { key: key.clone() };
        ops.push(Op::Atomic(Atomic { watched: Vec::new(), steps: keys.iter().map(get).collect() }));
    }
    ops
}

#[test]
fn an_answer_that_never_fits_is_refused_as_too_large_at_once() {
    for cold in [false, true] {
        in_world(move |rt| async move {
            let (_stores, gateway) = open(&rt, limits(64 * MIB, 16 * MIB), 64 * MIB, cold).await;
            for key in ["a1", "a2", "c1"] {
                put(&gateway, key, 8 * MIB).await;
            }
            if cold {
                cool(&rt, &gateway, b"a1").await;
            }
            let twice = Atomic { watched: Vec::new(), steps: vec![Op::Get { key: "a1".into() }; 2] };
            let own = Op::BatchGet { keys: vec!["a1".into(); 2], at_once: false };
            for op in reads("a1", "a2").into_iter().chain(reads("a1", "c1")).chain([own, Op::Atomic(twice)]) {
                let began = rt.now();
                let refused = gateway.submit(None, op.clone()).await;
                let expected = Err(Refusal::AnswerTooLarge { bytes_max: 8 * MIB });
                assert!(refused == expected, "{op:?}: {:?}", refused.map(|_| "an answer"));
                let took = rt.now().since(began);
                assert!(took < WAIT_MAX / 2, "{op:?}: it waited for {took:?}");
                assert_eq!(gateway.memory().output.used(), 0);
            }
            // One value alone is answered in each of these forms, however long it is.
            let alone = |op: Op| match op {
                Op::BatchGet { .. } => Op::BatchGet { keys: vec!["a1".into()], at_once: false },
                Op::Scan(scan) => Op::Scan(Scan { limit: 1, ..scan }),
                _ => Op::Atomic(Atomic { watched: Vec::new(), steps: vec![Op::Get { key: "a1".into() }] }),
            };
            for op in reads("a1", "a2").into_iter().map(alone) {
                let answered = gateway.submit(None, op.clone()).await;
                assert!(answered.is_ok(), "{op:?}: {answered:?}");
            }
        });
    }
}

#[test]
fn of_those_who_wait_for_room_none_holds_what_another_waits_for() {
    for cold in [false, true] {
        // Not the transaction, which is last: those of the same keys come one after the other anyway.
        for (form, other) in (0..3).flat_map(|form| [(form, "a2"), (form, "c1")]) {
            in_world(move |rt| async move {
                let (_stores, gateway) = open(&rt, limits(64 * MIB, 16 * MIB), 64 * MIB, cold).await;
                put(&gateway, "a1", 3 * MIB).await;
                put(&gateway, other, 3 * MIB).await;
                if cold {
                    cool(&rt, &gateway, b"a1").await;
                }
                let asked: Vec<_> = (0..12)
                    .map(|_| {
                        let (gateway, rt) = (gateway.clone(), rt.clone());
                        rt.clone().spawn(async move {
                            let answer = gateway.submit(None, reads("a1", other).swap_remove(form)).await;
                            rt.sleep(Duration::from_millis(20)).await;
                            answer.map(drop)
                        })
                    })
                    .collect();
                for asked in asked {
                    assert_eq!(asked.await, Ok(()), "cold: {cold}, form {form}, a1 and {other}");
                }
                let output = &gateway.memory().output;
                assert!(output.peak() <= 16 * MIB, "{} bytes were held", output.peak());
                assert!(output.peak() > 8 * MIB, "they never met: the test does not test");
                assert_eq!((output.used(), output.waiting()), (0, 0));
            });
        }
    }
}

/// What comes from disk has room before it comes, in every form of reading, and those who have to wait for it are served.
#[test]
fn what_is_read_from_disk_has_room_before_it_is_read() {
    for form in 0..5 {
        in_world(move |rt| async move {
            let (_stores, gateway) = open(&rt, limits(64 * MIB, 32 * MIB), 64 * MIB, true).await;
            put(&gateway, "a1", 3 * MIB).await;
            put(&gateway, "a2", 3 * MIB).await;
            cool(&rt, &gateway, b"a1").await;
            let op = match form {
                3 => Op::Get { key: "a1".into() },
                4 => Op::Lengths { keys: vec!["a1".into(), "a2".into()], ahead: false },
                form => reads("a1", "a2").swap_remove(form),
            };
            // However small everything was that had been read before.
            put(&gateway, "small", 5).await;
            cool(&rt, &gateway, b"small").await;
            for _ in 0..100 {
                get(&gateway, "small").await.expect("a small value");
            }
            let asked = (0..100).map(|_| {
                let (gateway, op) = (gateway.clone(), op.clone());
                rt.spawn(async move {
                    // A client that hears "busy" asks again, as clients do.
                    while let Err(refusal) = gateway.submit(None, op.clone()).await {
                        assert!(matches!(refusal, Refusal::Busy { .. }), "form {form}: {refusal:?}");
                    }
                })
            });
            let asked: Vec<_> = asked.collect();
            for asked in asked {
                asked.await;
            }
            let reading = &gateway.memory().reading;
            assert!(reading.peak() >= 6 * MIB, "form {form}: room for {} bytes was taken", reading.peak());
            assert!(reading.peak() <= 16 * MIB, "form {form}: {} bytes were on their way", reading.peak());
            assert_eq!((reading.used(), reading.waiting()), (0, 0));
        });
    }
}

#[test]
fn appends_that_waited_for_the_disk_count_as_what_they_make() {
    in_world(|rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 64 * MIB), 8 * MIB, true).await;
        put(&gateway, "big", 2 * MIB).await;
        cool(&rt, &gateway, b"big").await;
        let change = Change::Append { suffix: "x".into() };
        let append = || gateway.submit(None, Op::Modify { key: "big".into(), change: change.clone() });
        let asked: Vec<_> = (0..100).map(|_| append()).collect();
        let (mut done, mut busy) = (0, 0);
        for asked in asked {
            match asked.await {
                Ok(Out::Length(length)) => {
                    done += 1;
                    assert_eq!(length, 2 * MIB + done, "each sees those before it");
                }
                Err(Refusal::Busy { .. }) => busy += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((done, busy), (3, 97), "four values of 2 MiB and a little are more than 8 MiB");
        append().await.expect("there is room again");
    });
}

/// A command that changes when a value goes writes the value again, so it counts as that, in memory or on disk.
#[test]
fn changes_of_an_expiry_count_as_the_value_that_they_write_again() {
    let expiry = Expiry::After(3_600_000);
    let changes = [Change::Expire { expiry, when: ExpireWhen::Always }, Change::GetTimed { expiry }];
    for (change, is_cold) in
        changes.iter().flat_map(|change| [(change.clone(), true), (change.clone(), false)])
    {
        in_world(move |rt| async move {
            let (_stores, gateway) = open(&rt, limits(64 * MIB, 64 * MIB), 8 * MIB, is_cold).await;
            put(&gateway, "big", 2 * MIB).await;
            if is_cold {
                cool(&rt, &gateway, b"big").await;
            }
            let submit = || gateway.submit(None, Op::Modify { key: "big".into(), change: change.clone() });
            let asked: Vec<_> = (0..100).map(|_| submit()).collect();
            let (mut done, mut busy) = (0, 0);
            for asked in asked {
                match asked.await {
                    Ok(Out::Existed(true) | Out::Integer(1) | Out::Value(Some(_))) => done += 1,
                    Err(Refusal::Busy { .. }) => busy += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((done, busy), (3, 97), "{change:?}, cold: {is_cold}: four values are more than 8 MiB");
            submit().await.expect("there is room again");
        });
    }
}

/// However short the request is that makes a value long.
#[test]
fn what_fills_a_value_up_counts_as_what_it_makes() {
    for change in [
        Change::SetBit { offset: 16 * MIB, on: true },
        Change::SetRange { offset: 2 * MIB, value: "x".into() },
    ] {
        in_world(|rt| async move {
            let (_stores, gateway) = open(&rt, limits(64 * MIB, 64 * MIB), 8 * MIB, true).await;
            let asked: Vec<_> = (0..100)
                .map(|number| {
                    let (key, change) = (Bytes::from(format!("big{number}")), change.clone());
                    gateway.submit(None, Op::Modify { key, change })
                })
                .collect();
            let (mut done, mut busy) = (0, 0);
            for asked in asked {
                match asked.await {
                    Ok(Out::Length(_) | Out::Integer(_)) => done += 1,
                    Err(Refusal::Busy { .. }) => busy += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((done, busy), (3, 97), "four values of 2 MiB and a little are more than 8 MiB");
        });
    }
}

/// Neither costs the core a copy of a large value: a pipeline of them would hold it for seconds.
#[test]
fn what_is_refused_for_its_size_copies_no_value() {
    in_world(|rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 16 * MIB), 4 * MIB, false).await;
        put(&gateway, "big", 3 * MIB).await;
        let output = &gateway.memory().output;
        let before = output.peak();
        let keys = vec![Bytes::from("big"); 500];
        let refused = gateway.submit(None, Op::BatchGet { keys, at_once: false }).await;
        assert_eq!(refused, Err(Refusal::AnswerTooLarge { bytes_max: 8 * MIB }));
        assert_eq!(output.peak(), before, "a value was read for an answer that is too large");
        let other = gateway.submit(None, Op::Put { key: "big other".into(), value: vec![1; 2 * MIB].into() });
        let change = Change::Append { suffix: "x".into() };
        let append = gateway.submit(None, Op::Modify { key: "big".into(), change });
        assert!(matches!(append.await, Err(Refusal::Busy { .. })), "the other write fills the bound");
        assert_eq!(output.peak(), before, "a value was read for a write that has no room");
        other.await.expect("a write");
        let small = gateway.submit(None, Op::BatchGet { keys: vec!["big".into()], at_once: false }).await;
        assert!(small.is_ok() && output.peak() > before, "{} bytes were charged for a value", output.peak());
    });
}

#[test]
fn small_writes_are_taken_beside_large_ones_that_fill_the_bound() {
    [MIB, 6 * MIB].into_iter().for_each(small_writes_beside_large_ones);
}

fn small_writes_beside_large_ones(large_bytes: usize) {
    in_world(move |rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 64 * MIB), 8 * MIB, true).await;
        let write = |key: &str, bytes: usize| {
            let op = Op::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: vec![1; bytes].into() };
            gateway.submit(None, op)
        };
        // The last one that is taken goes beyond the bound.
        let large: Vec<_> = (0..20).map(|_| write("large", large_bytes)).collect();
        let small: Vec<_> = (0..100).map(|_| write("large beside", 1 << 10)).collect();
        // Beyond the reserve small ones are refused, too.
        let flood: Vec<_> = (0..2000).map(|_| write("large flood", 4000)).collect();
        let (mut taken, mut refused) = ([0; 3], [0; 3]);
        for (kind, asked) in [large, small, flood].into_iter().enumerate() {
            for asked in asked {
                match asked.await {
                    Ok(Out::Done) => taken[kind] += 1,
                    Err(Refusal::Busy { .. }) => refused[kind] += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(taken[0] > 0 && refused[0] > 0, "{taken:?} {refused:?}: the bound was not met");
        assert_eq!((taken[1], refused[1]), (100, 0));
        assert!(refused[2] > 0, "{taken:?} {refused:?}: the reserve has no end");
    });
}

/// What waits for a key counts like what is in flight, also when a value is made that was not known before.
#[test]
fn small_writes_are_taken_beside_large_ones_that_wait_for_a_key() {
    in_world(|rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 64 * MIB), 8 * MIB, true).await;
        put(&gateway, "large", 5 * MIB).await;
        cool(&rt, &gateway, b"large").await;
        let write = |key: &str, bytes: usize| {
            let op = Op::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: vec![1; bytes].into() };
            gateway.submit(None, op)
        };
        let change = Change::Append { suffix: vec![1; MIB].into() };
        let mut asked = vec![gateway.submit(None, Op::Modify { key: "large".into(), change })];
        // They wait until the value has come from disk, and the second goes beyond the bound.
        asked.extend([write("large", 6 * MIB), write("large", 6 * MIB)]);
        let mut small = Vec::new();
        for _ in 0..500 {
            small.push(write("large beside", 16));
            rt.sleep(Duration::from_micros(20)).await;
        }
        for asked in asked {
            asked.await.expect("it fits");
        }
        for asked in small {
            asked.await.expect("a small write has room");
        }
    });
}

/// However small the latest reads were, what a read brings has room before it is opened, also if many long ones come at once.
#[test]
fn long_values_after_short_ones_have_room_before_they_are_opened() {
    in_world(|rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 64 * MIB), 64 * MIB, true).await;
        put(&gateway, "large", 7 * MIB).await;
        cool(&rt, &gateway, b"large").await;
        let memory = gateway.memory().clone();
        (0..200).for_each(|_| memory.has_read(5));
        let asked: Vec<_> = (0..5).map(|_| get(&gateway, "large")).collect();
        for asked in asked {
            let Ok(Out::Value(Some(value))) = asked.await else { panic!("no value") };
            assert_eq!(value.len(), 7 * MIB);
        }
        let (peak, bound) = (memory.reading.peak(), memory.reading.bytes_max());
        assert!((7 * MIB..=bound).contains(&peak), "{peak} bytes had room, of {bound}");
        // One that nothing has room for as an answer is not opened at all.
        let held = memory.output.charge(64 * MIB);
        (0..200).for_each(|_| memory.has_read(5));
        let waiting = get(&gateway, "large");
        rt.sleep(Duration::from_millis(100)).await;
        assert_eq!(memory.reading.used(), 0, "who waits has no room to read");
        drop(held);
        waiting.await.expect("a value");
        let refused = memory.output.charge(64 * MIB);
        assert!(matches!(get(&gateway, "large").await, Err(Refusal::Busy { .. })));
        drop(refused);
    });
}

#[test]
fn a_read_counts_once_wherever_its_value_is() {
    for cold in [false, true] {
        in_world(move |rt| async move {
            let (stores, gateway) = open(&rt, limits(64 * MIB, 8 * MIB), 64 * MIB, cold).await;
            put(&gateway, "big", MIB).await;
            if cold {
                cool(&rt, &gateway, b"big").await;
            }
            let counted = || stores.shards.values().map(|shard| shard.counters().reads.get()).sum::<u64>();
            let before = counted();
            get(&gateway, "big").await.expect("a value");
            assert_eq!(counted() - before, 1, "cold: {cold}");
            // One for which there is no room at first is looked at again once there is.
            let held = gateway.memory().output.charge(8 * MIB);
            let waiting = get(&gateway, "big");
            rt.sleep(Duration::from_millis(5)).await;
            drop(held);
            waiting.await.expect("a value");
            assert_eq!(counted() - before, 2, "cold: {cold}");
            // The same of one that is small enough for the reserve, which is used up.
            put(&gateway, "middle", 32 << 10).await;
            let held = gateway.memory().output.charge(8 * MIB);
            let before = counted() - 2;
            let waiting = get(&gateway, "middle");
            rt.sleep(Duration::from_millis(5)).await;
            drop(held);
            waiting.await.expect("a value");
            assert_eq!(counted() - before, 3, "cold: {cold}");
            let before = before + 1;
            let keys = vec![Bytes::from("big"), Bytes::from("none"), Bytes::from("other")];
            gateway.submit(None, Op::BatchGet { keys: keys.clone(), at_once: false }).await.expect("values");
            assert_eq!(counted() - before, 5, "cold: {cold}");
            gateway.submit(None, Op::Lengths { keys, ahead: false }).await.expect("lengths");
            assert_eq!(counted() - before, 8, "cold: {cold}");
            let mut stream = rt.connect(serve(&rt, &gateway)).await.unwrap();
            ask(&mut stream, &[b"GET", b"none"], b"$-1\r\n").await;
            ask(&mut stream, &[b"STRLEN", b"big"], format!(":{MIB}\r\n").as_bytes()).await;
            assert_eq!(counted() - before, 10, "cold: {cold}");
        });
    }
}

/// One that finds no room is looked at again in its turn, after a look at the lengths: that is still one read of each key.
#[test]
fn a_read_of_several_regions_counts_once_however_often_it_is_tried() {
    for cold in [false, true] {
        in_world(move |rt| async move {
            let (stores, gateway) = open(&rt, limits(64 * MIB, 16 * MIB), 64 * MIB, cold).await;
            for key in ["a1", "c1"] {
                put(&gateway, key, 3 * MIB).await;
                if cold {
                    cool(&rt, &gateway, key.as_bytes()).await;
                }
            }
            for held in [0, 12 * MIB] {
                let counted =
                    || stores.shards.values().map(|shard| shard.counters().reads.get()).sum::<u64>();
                let before = counted();
                let charge = gateway.memory().output.charge(held);
                let keys = vec![Bytes::from("a1"), Bytes::from("c1")];
                let asked = gateway.submit(None, Op::BatchGet { keys, at_once: false });
                rt.sleep(Duration::from_millis(20)).await;
                drop(charge);
                asked.await.expect("there is room now");
                assert_eq!(counted() - before, 2, "cold: {cold}, {held} bytes were held");
            }
        });
    }
}
