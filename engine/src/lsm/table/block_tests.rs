//! What a block must survive: every boundary of its intervals, and bytes that are not one.

use super::*;
use crate::rt::rng::Rng;

type Entry = (Vec<u8>, SeqNo, Kind, Vec<u8>);

/// Sorted entries with shared prefixes, keys that are prefixes of each other and several versions.
fn random_entries(rng: &Rng, count: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = (0..count)
        .map(|_| {
            let len = (rng.next() % 6) as usize;
            let key: Vec<u8> = (0..len).map(|_| b'a' + (rng.next() % 3) as u8).collect();
            let len = (rng.next() % 200) as usize;
            let (kind, len) = match rng.next() % 8 {
                0 | 1 => (Kind::Delete, 0),
                2 => (Kind::PutUntil, UNTIL_BYTES + len),
                _ => (Kind::Put, len),
            };
            let value = vec![rng.next() as u8; len];
            (key, SeqNo(rng.next() % 1000), kind, value)
        })
        .collect();
    entries.sort_by(|a, b| entry_order((&a.0, a.1), (&b.0, b.1)));
    entries.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
    entries
}

fn build(entries: &[Entry]) -> Bytes {
    let mut builder = BlockBuilder::default();
    for (key, seq, kind, value) in entries {
        builder.add(key, *seq, *kind, value);
    }
    Bytes::copy_from_slice(builder.finish())
}

#[test]
fn a_block_gives_back_what_went_in() {
    for seed in 0..100 {
        let rng = Rng::new(seed);
        let entries = random_entries(&rng, 1 + (seed as usize * 3) % 120);
        let block = build(&entries);
        let view = BlockView::parse(&block).unwrap();
        let mut decoded = Vec::new();
        for interval in 0..view.intervals() {
            let chunk = view.decode(interval, &block).unwrap();
            for at in 0..chunk.len() {
                let entry = chunk.get(at).unwrap();
                decoded.push((entry.key.to_vec(), entry.seq, entry.kind, entry.value.to_vec()));
            }
        }
        assert_eq!(decoded, entries, "seed {seed}");
    }
}

#[test]
fn a_search_lands_where_a_plain_list_says() {
    for seed in 0..200 {
        let rng = Rng::new(seed);
        let entries = random_entries(&rng, 1 + (seed as usize) % 90);
        let block = build(&entries);
        let view = BlockView::parse(&block).unwrap();
        for _ in 0..60 {
            let len = (rng.next() % 7) as usize;
            let key: Vec<u8> = (0..len).map(|_| b'a' + (rng.next() % 4) as u8).collect();
            let at = SeqNo(rng.next() % 1100);
            let expected = entries.iter().find(|entry| entry_order((&entry.0, entry.1), (&key, at)).is_ge());
            let landing = view.seek(&key, at).unwrap();
            assert_eq!(landing.is_some(), expected.is_some(), "seed {seed} key {key:?}");
            if let (Some(landing), Some((k, seq, kind, value))) = (landing, expected) {
                assert_eq!(landing.same_key, *k == key, "seed {seed} key {key:?} at {at:?}");
                assert_eq!((landing.seq, landing.kind), (*seq, *kind), "seed {seed} key {key:?} at {at:?}");
                assert_eq!(&block[landing.value], value.as_slice());
            }
        }
    }
}

#[test]
fn an_empty_block_finds_nothing() {
    let block = build(&[]);
    let view = BlockView::parse(&block).unwrap();
    assert_eq!(view.seek(b"a", SeqNo::MAX).unwrap(), None);
}

/// Whatever the bytes are, decoding ends with an answer.
#[test]
fn damaged_blocks_never_panic() {
    for seed in 0..3000u64 {
        let rng = Rng::new(seed);
        let mut bytes = build(&random_entries(&rng, 40)).to_vec();
        for _ in 0..1 + rng.next() % 4 {
            let place = (rng.next() % bytes.len() as u64) as usize;
            bytes[place] = rng.next() as u8;
        }
        if seed.is_multiple_of(3) {
            bytes.truncate((rng.next() % bytes.len() as u64) as usize);
        }
        decode_everything(&Bytes::from(bytes));
    }
}

#[test]
fn random_bytes_never_panic() {
    for seed in 0..3000u64 {
        let rng = Rng::new(seed);
        let bytes: Vec<u8> = (0..rng.next() % 64).map(|_| rng.next() as u8 & 0x0F).collect();
        decode_everything(&Bytes::from(bytes));
    }
}

fn decode_everything(block: &Bytes) {
    let Ok(view) = BlockView::parse(block) else { return };
    for interval in 0..view.intervals().min(100) {
        // Damage is a fine answer; what counts is that there is one.
        let _ = view.decode(interval, block);
    }
    for key in [b"".as_slice(), b"a", b"abcabc", &[0xFF; 20]] {
        let _ = view.seek(key, SeqNo(500));
    }
}

#[test]
fn varints_round_trip_and_refuse_to_run_on() {
    for value in [0, 1, 127, 128, 300, 1 << 20, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        assert_eq!(take_varint(&mut bytes.as_slice()), Some(value));
        assert_eq!(take_varint(&mut &bytes[..bytes.len() - 1]), None);
    }
    assert_eq!(take_varint(&mut [0xFF; 16].as_slice()), None);
}
