//! The decoder under bytes from anywhere, and a file of version 2.

use super::*;
use crate::log::Batch;
use crate::log::index::Index;
use crate::log::inspect::{Seen, inspect};
use crate::rt::rng::Rng;

/// Feeds any bytes to everything that decodes: nothing may panic, and nothing may read outside of its bytes.
fn decode_anything(bytes: &[u8]) {
    if let Some(header) = RecordHeader::peek(bytes) {
        header.verify(Incarnation(1), bytes);
    }
    for item in items(bytes).flatten() {
        match item {
            Item::Append { run, .. } | Item::Moved { run, .. } => {
                for entry in run.entries().flatten() {
                    assert!(entry.payload.range().end <= bytes.len());
                }
            }
            Item::State { span, .. } => assert!(span.range().end <= bytes.len()),
            _ => {}
        }
    }
    if let Ok((_, seen)) = inspect(bytes) {
        let total: u64 = seen.map(|seen| u64::from(!seen.to_string().is_empty())).sum();
        assert!(total <= bytes.len() as u64);
    }
}

fn sample() -> Batch {
    let mut batch = Batch::new();
    batch.reset(9, 4, 2);
    batch.append(
        9,
        5,
        [EntryRef { term: 2, kind: 1, payload: b"five" }, EntryRef { term: 3, kind: 0, payload: b"" }],
    );
    batch.put_state(9, 7, b"state");
    batch.compact(9, 5, 2);
    batch.remove(8);
    batch
}

#[test]
fn any_bytes_are_decoded_without_harm() {
    let sample = sample();
    for seed in 0..20_000u64 {
        let rng = Rng::new(seed);
        let mut bytes = sample.body().to_vec();
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(3) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at] = [0, 1, 0x7F, 0xFF][rng.below(4) as usize],
                _ => bytes.truncate(at + 1),
            }
        }
        decode_anything(&bytes);
        // Holes are allowed here, as in replay, but only small ones: an index is not a promise of that much memory.
        let indexes_small = items(&bytes).flatten().all(|item| match item {
            Item::Append { run, .. } | Item::Moved { run, .. } => run.first < 1_000,
            _ => true,
        });
        if indexes_small {
            let _ = Index::default().apply(RecordAt { segment: SegmentNo(1), block: 1 }, &bytes);
        }
    }
}

/// A segment of this version with one record, made by this code.
fn segment() -> Vec<u8> {
    let (number, incarnation) = (SegmentNo(1), Incarnation(0x1234_5678_9ABC_DEF0));
    let mut file = vec![0; 3 * BLOCK_BYTES];
    SegmentHeader { log_id: 42, number, incarnation, bytes: 3 * 4096, witnessed: false }.encode(&mut file);
    let sample = sample();
    let record = &mut file[BLOCK_BYTES..2 * BLOCK_BYTES];
    record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + sample.len()].copy_from_slice(sample.body());
    let body_bytes = sample.len() as u32;
    let (sequence, durable_to) = (Sequence(1), Sequence(0));
    RecordHeader { body_bytes, sequence, durable_to, needed_from: number, opened: 3 }
        .seal(incarnation, record);
    file
}

/// `RINGKEEP_WRITE_FIXTURE=DIR` writes what the fixture of a new version is made of.
#[test]
fn version_2_is_what_it_was() {
    let file = segment();
    let record = &file[BLOCK_BYTES..BLOCK_BYTES + RECORD_HEADER_BYTES + sample().len()];
    if let Some(to) = std::env::var_os("RINGKEEP_WRITE_FIXTURE") {
        let to = std::path::PathBuf::from(to);
        std::fs::write(to.join("header.bin"), &file[..48]).unwrap();
        std::fs::write(to.join("record.bin"), record).unwrap();
    }
    assert_eq!(file[..48], include_bytes!("../../tests/fixtures/log-v2/header.bin")[..]);
    assert_eq!(record, include_bytes!("../../tests/fixtures/log-v2/record.bin"));
}

/// The same version, from when the log got its `END`.
#[test]
fn a_header_made_beside_an_end_is_what_it_was() {
    let (number, incarnation) = (SegmentNo(1), Incarnation(0x1234_5678_9ABC_DEF0));
    let header = SegmentHeader { log_id: 42, number, incarnation, bytes: 3 * 4096, witnessed: true };
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    header.encode(&mut bytes);
    assert_eq!(bytes, *include_bytes!("../../tests/fixtures/log-v2/header-witnessed.bin"));
    assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
    assert!(!SegmentHeader::decode(&segment()).expect("it is whole").witnessed);
}

#[test]
fn another_version_and_a_file_that_was_cut_off_are_distinguished() {
    let file = segment();
    let refused = |bytes: &[u8]| inspect(bytes).map(|_| ()).unwrap_err();
    assert!(refused(&file[..2 * BLOCK_BYTES]).contains("was made 12288 bytes long and has only 8192"));
    let mut other = file;
    other[8] = 1;
    let crc = SegmentHeader::checksum(&other[..SEGMENT_HEADER_BYTES]);
    other[12..16].copy_from_slice(&crc.to_le_bytes());
    assert!(refused(&other).contains("version 1; this program reads version 2"));
}

/// No body is written that could not be read back.
#[test]
fn what_claims_to_be_too_large_is_no_record() {
    let mut file = segment();
    assert!(RecordHeader::peek(&file[BLOCK_BYTES..]).is_some());
    file[BLOCK_BYTES + 4..BLOCK_BYTES + 8].copy_from_slice(&(BODY_BYTES_MAX as u32 + 1).to_le_bytes());
    assert!(RecordHeader::peek(&file[BLOCK_BYTES..]).is_none());
}

#[test]
fn a_segment_is_shown_item_by_item() {
    let file = segment();
    let (info, seen) = inspect(&file).unwrap();
    assert_eq!((info.log_id, info.number), (42, SegmentNo(1)));
    let seen: Vec<_> = seen.collect();
    let Seen::Record { items, .. } = &seen[0] else { panic!("{seen:?}") };
    let expected = [
        "group 9: reset to 4 (term 2)",
        "group 9: append 5..=6",
        "group 9: state 7, 5 bytes",
        "group 9: compact to 5 (term 2)",
        "group 8: remove",
    ];
    assert_eq!(items[..], expected);
    assert_eq!(seen[1..], [Seen::Other { pos: 8192, bytes: 4096, zero: true }]);
    assert!(inspect(&file[1..]).is_err());
}
