//! What overwrites leave, one case at a time, and what they cost.

use super::*;
use crate::lsm::bound::WalkLimits;

const CF: Cf = Cf::Default;

fn put(memtable: &Memtable, key: &[u8], value: &[u8], seq: u64, readers: &Readers) {
    let mut batch = WriteBatch::new();
    batch.put(CF, key, value);
    memtable.apply(&batch, SeqNo(seq), readers, |_, _, _| false);
}

/// What is linked of a memtable with one key.
fn linked(memtable: &Memtable) -> Vec<u64> {
    let chunk = memtable.chunk(CF, Direction::Forward, (b"", b""), None, &Bound::new(WalkLimits::NONE));
    (0..chunk.len()).filter_map(|at| chunk.get(at)).map(|entry| entry.seq.0).collect()
}

#[test]
fn old_versions_stay_for_the_readers_that_see_them_and_no_longer() {
    let (memtable, mut readers) = (Memtable::new(0), Readers::default());
    put(&memtable, b"key", b"a", 5, &readers);
    put(&memtable, b"key", b"b", 6, &readers);
    assert_eq!(linked(&memtable), [6]);
    readers.enter(SeqNo(6));
    put(&memtable, b"key", b"c", 7, &readers);
    readers.enter(SeqNo(7));
    put(&memtable, b"key", b"d", 8, &readers);
    assert_eq!(linked(&memtable), [8, 7, 6], "a read at 6 sees 6");
    put(&memtable, b"key", b"e", 9, &readers);
    assert_eq!(linked(&memtable), [9, 7, 6], "there is no reader at 8");
    readers.leave(SeqNo(7));
    assert_eq!(linked(&memtable), [9, 7, 6], "until the next overwrite");
    put(&memtable, b"key", b"f", 10, &readers);
    assert_eq!(linked(&memtable), [10, 6]);
    readers.leave(SeqNo(6));
    put(&memtable, b"key", b"g", 11, &readers);
    assert_eq!(linked(&memtable), [11]);
}

/// A batch that writes a key twice has one version of it for every reader, whatever snapshot reads the version before.
#[test]
fn operations_of_one_batch_overwrite_each_other() {
    let (memtable, mut readers) = (Memtable::new(0), Readers::default());
    put(&memtable, b"key", b"before", 1, &readers);
    readers.enter(SeqNo(1));
    let mut batch = WriteBatch::new();
    batch.put(CF, b"key", b"first");
    batch.delete(CF, b"key");
    batch.put(CF, b"key", b"last");
    assert_eq!(memtable.apply(&batch, SeqNo(2), &readers, |_, _, _| false), SeqNo(5));
    assert_eq!(linked(&memtable), [4, 1]);
}

#[test]
fn an_overwrite_costs_its_header_and_value_and_no_estimate() {
    let (memtable, readers) = (Memtable::new(0), Readers::default());
    let keys: Vec<[u8; 2]> = (0..640u16).map(u16::to_be_bytes).collect();
    let write = |round: u64| {
        let before = memtable.size_bytes();
        for (key, seq) in keys.iter().zip(round * 640 + 1..) {
            put(&memtable, key, &[7; 100], seq, &readers);
        }
        (memtable.size_bytes() - before) / keys.len()
    };
    let first = write(0);
    assert!(first > 102 + arena::VERSION_OVERHEAD_BYTES + 80, "{first} bytes for a new key");
    assert_eq!(memtable.estimate(CF, b"", b""), (640 * 102, 640));
    assert_eq!(write(1), 100 + arena::VERSION_OVERHEAD_BYTES);
    assert_eq!(memtable.estimate(CF, b"", b""), (640 * 102, 640));
    let weights = memtable.samples(CF, &keys[320], b"");
    assert_eq!(weights.iter().map(|(_, bytes)| bytes).sum::<u64>(), 320 * 102);
}

#[test]
fn a_memtable_is_freed_in_slices() {
    let (mut memtable, readers) = (Memtable::new(0), Readers::default());
    for seq in 1..=5000u64 {
        let key = [&[b'x'; 60][..], &(seq % 2500).to_be_bytes()].concat();
        put(&memtable, &key, &[7; 500], seq, &readers);
    }
    let mut slices = 0;
    while memtable.free_some(100) {
        slices += 1;
    }
    // Some ten pieces of 256 KiB, the hash tables of all families, and 25 times a hundred keys.
    let tables = Cf::ALL.len() * by_hash::PARTS;
    assert!((tables + 34..tables + 60).contains(&slices), "{slices} slices");
}
