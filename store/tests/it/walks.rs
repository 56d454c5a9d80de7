//! What walks over ranges hold: keys alone where only keys are wanted, and no block that they have no room for.

use bytes::Bytes;
use store::refusal::Refusal;
use store::request::{Op, Out, Scan};

use crate::memory::{MIB, cool, get, in_world, limits, open, put};

const KEYS: [&str; 12] = ["a00", "a01", "a02", "a03", "a04", "a05", "a06", "a07", "a08", "a09", "a10", "a11"];

fn scan(limit: usize, key_only: bool) -> Op {
    Op::Scan(Scan { start: "a".into(), end: "b".into(), limit, key_only, ..Scan::default() })
}

/// The bytes from the first one to the last one of slices that lie in one buffer.
fn span_bytes<'a>(slices: impl Iterator<Item = &'a Bytes> + Clone) -> usize {
    let first = slices.clone().map(|slice| slice.as_ptr() as usize).min();
    let last = slices.map(|slice| slice.as_ptr() as usize + slice.len()).max();
    last.zip(first).map_or(0, |(last, first)| last - first)
}

/// A slice keeps the buffer that it is a part of. So what is returned lies in buffers that have nothing else.
#[test]
fn pairs_of_a_scan_keep_nothing_that_is_not_theirs() {
    for cold in [false, true] {
        in_world(move |rt| async move {
            let (_stores, gateway) = open(&rt, limits(64 * MIB, 64 * MIB), 64 * MIB, cold).await;
            for key in KEYS {
                put(&gateway, key, if key == "a11" { 100 } else { MIB }).await;
            }
            if cold {
                cool(&rt, &gateway, b"a00").await;
            }
            let Ok(Out::Pairs(keys)) = gateway.submit(None, scan(100, true)).await else { panic!("no keys") };
            assert_eq!(keys.iter().map(|(key, _)| key).collect::<Vec<_>>(), KEYS);
            assert_eq!(span_bytes(keys.iter().map(|(key, _)| key)), 3 * KEYS.len(), "cold: {cold}");
            assert!(keys.iter().all(|(_, value)| value.is_empty()));
            let charged = gateway.memory().output.used();
            assert!(charged < 4 << 10, "{charged} bytes are charged for {} keys", KEYS.len());
        });
    }
}

/// A client that reads small values says nothing of what a scan comes to.
#[test]
fn a_scan_has_room_for_the_blocks_that_it_comes_to_whatever_others_read() {
    for key_only in [false, true] {
        in_world(move |rt| async move {
            let (_stores, gateway) = open(&rt, limits(64 * MIB, 32 * MIB), 64 * MIB, true).await;
            put(&gateway, "a1", 3 * MIB).await;
            put(&gateway, "a2", 3 * MIB).await;
            put(&gateway, "small", 5).await;
            cool(&rt, &gateway, b"small").await;
            for _ in 0..100 {
                get(&gateway, "small").await.expect("a small value");
            }
            // As if other walks had most of the room.
            let reading = &gateway.memory().reading;
            let held = reading.charge(8 * MIB);
            let large = gateway.submit(None, scan(10, key_only)).await;
            assert!(matches!(large, Err(Refusal::Busy { .. })), "two blocks of 3 MiB were read without room");
            let little = Scan { start: "s".into(), end: "t".into(), limit: 10, key_only, ..Scan::default() };
            let Ok(Out::Pairs(pairs)) = gateway.submit(None, Op::Scan(little)).await else {
                panic!("no pairs")
            };
            assert_eq!(pairs.len(), 1);
            drop(held);
            let Ok(Out::Pairs(pairs)) = gateway.submit(None, scan(10, key_only)).await else {
                panic!("no pairs")
            };
            assert_eq!(pairs.len(), 2);
            assert_eq!((reading.used(), reading.waiting()), (0, 0));
        });
    }
}
