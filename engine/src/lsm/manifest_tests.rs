//! The manifest's bytes: whole, torn, damaged, and gone on with.

use super::*;
use crate::lsm::version::tests::meta;
use crate::lsm::version::{MarkRow, StateRow};
use crate::rt::rng::Rng;

const TREE: u64 = 0xab;

fn edits() -> Vec<Edit> {
    let mut first = meta(1, 0, "a", "m", 3);
    first.erasures = 1;
    let many =
        (0..300).map(|group| MarkRow { group, applied: (group % 3 != 0).then_some(group * 7) }).collect();
    let state = StateRow { group: 1, state: b"seven".to_vec() };
    vec![
        Edit { next_number: 2, ..Edit::default() },
        Edit {
            added: vec![first],
            marks: many,
            states: vec![state],
            next_number: 3,
            last_seq: 19,
            ..Edit::default()
        },
        Edit { removed: vec![1], next_number: 4, last_seq: 30, ..Edit::default() },
    ]
}

fn file() -> Vec<u8> {
    edits().iter().enumerate().flat_map(|(n, edit)| encode_frame(edit, TREE, 5, n as u64)).collect()
}

#[test]
fn a_manifest_comes_back() {
    assert_eq!(replay(&file(), 5), Ok(Replayed { tree: TREE, edits: edits(), torn_at: None }));
    assert!(replay(&file(), 6).is_err());
    assert!(replay(&[], 5).is_err());
}

#[test]
fn a_torn_tail_is_ignored_and_reported() {
    let whole = file();
    let last = whole.len() - BLOCK_BYTES;
    for cut in [last + 1, last + 40] {
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        assert_eq!(
            replay(&torn, 5),
            Ok(Replayed { tree: TREE, edits: edits()[..2].to_vec(), torn_at: Some(last as u64) })
        );
    }
    let mut clean = whole;
    clean[last..].fill(0);
    assert_eq!(replay(&clean, 5), Ok(Replayed { tree: TREE, edits: edits()[..2].to_vec(), torn_at: None }));
}

/// A file of the same name and number may come from another tree.
#[test]
fn a_frame_of_another_tree_is_damage() {
    let mut mixed = file();
    let frame = encode_frame(&edits()[1], TREE + 1, 5, 1);
    mixed[BLOCK_BYTES..BLOCK_BYTES + frame.len()].copy_from_slice(&frame);
    assert_eq!(replay(&mixed, 5).unwrap_err(), (BLOCK_BYTES as u64, Damage("a frame of another tree")));
}

/// It was acknowledged by a later version of the program, so it is neither a torn tail nor damage.
#[test]
fn a_frame_of_a_later_version_is_refused_as_that() {
    let begins = frame_ends(&file(), 5);
    for (begin, len) in
        [(0, begins[0]), (begins[0], begins[1] - begins[0]), (begins[1], begins[2] - begins[1])]
    {
        let mut later = file();
        let frame = &mut later[begin..begin + len];
        frame[12..16].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        let archive = u32::from_le_bytes(frame[8..12].try_into().unwrap()) as usize;
        let crc = crc32fast::hash(&frame[8..HEADER_BYTES + archive]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(replay(&later, 5).unwrap_err(), (begin as u64, UNKNOWN_MANIFEST));
        let fault = UNKNOWN_MANIFEST.fault(Path::new("MANIFEST-5"), "frame at offset 0");
        assert_eq!(fault.kind, crate::error::FaultKind::Foreign);
        assert!(fault.to_string().ends_with("start the version of ringkeep that wrote it"), "{fault}");
        // With a checksum that is wrong it is a bad frame as any other: at the end a torn tail.
        later[begin + 13] ^= 1;
        assert_ne!(replay(&later, 5).err().map(|(_, damage)| damage), Some(UNKNOWN_MANIFEST));
    }
}

#[test]
fn damage_before_the_tail_is_never_skipped() {
    let mut bad = file();
    bad[BLOCK_BYTES + 40] ^= 1;
    assert_eq!(replay(&bad, 5).unwrap_err().0, BLOCK_BYTES as u64);
    let mut bad = file();
    bad[40] ^= 1;
    assert_eq!(replay(&bad, 5).unwrap_err().0, 0);
    let mut lonely = file();
    lonely.truncate(BLOCK_BYTES);
    lonely[12] ^= 1;
    assert!(replay(&lonely, 5).is_err());
}

#[test]
fn whatever_the_bytes_are_replay_answers() {
    for seed in 0..2000u64 {
        let rng = Rng::new(seed);
        let mut bytes = file();
        for _ in 0..1 + rng.next() % 3 {
            let place = (rng.next() % bytes.len() as u64) as usize;
            bytes[place] ^= rng.next() as u8;
        }
        if seed.is_multiple_of(4) {
            bytes.truncate((rng.next() % bytes.len() as u64) as usize);
        }
        if let Ok(replayed) = replay(&bytes, 5) {
            assert!(edits().starts_with(&replayed.edits), "seed {seed}: an edit that was never written");
        }
    }
}

/// An archive with a right checksum from a broken or hostile writer.
#[test]
fn archives_are_validated_not_trusted() {
    let good = rkyv::to_bytes::<rkyv::rancor::Error>(&edits()[1]).unwrap();
    for seed in 0..2000u64 {
        let rng = Rng::new(seed);
        let mut archive = good.to_vec();
        for _ in 0..1 + rng.next() % 4 {
            let place = (rng.next() % archive.len() as u64) as usize;
            archive[place] = rng.next() as u8;
        }
        // Any answer will do, as long as there is one.
        let _ = rkyv::from_bytes::<Edit, rkyv::rancor::Error>(&archive);
    }
}

#[test]
fn frames_end_where_the_next_begins() {
    let mut whole = file();
    let ends = frame_ends(&whole, 5);
    assert_eq!(ends.len(), 3);
    assert_eq!(ends.last(), Some(&whole.len()));
    whole.resize(whole.len() + RESERVE_BYTES as usize, 0);
    assert_eq!(frame_ends(&whole, 5), ends, "zeros are no frame");
    whole[ends[1] + 40] ^= 1;
    assert_eq!(frame_ends(&whole, 5), ends[..2]);
}

#[test]
fn space_that_was_reserved_is_no_torn_tail() {
    let mut reserved = file();
    reserved.resize(reserved.len() + RESERVE_BYTES as usize, 0);
    assert_eq!(replay(&reserved, 5), Ok(Replayed { tree: TREE, edits: edits(), torn_at: None }));
}
