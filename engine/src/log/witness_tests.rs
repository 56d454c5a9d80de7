//! The slots of `END`: a file of version 1, which slot counts, and bytes that are none.

use super::*;

fn slot(round: u64) -> Slot {
    let reached = Reached { segment: SegmentNo(7), end: 3 * 4096, sequence: Sequence(90 + round) };
    Slot { log_id: 42, round, reached }
}

/// A file whose two slots hold these rounds.
fn file(rounds: [u64; 2]) -> Vec<u8> {
    let mut file = vec![0; FILE_BYTES];
    for slot in rounds.map(slot) {
        let pos = slot.pos() as usize;
        file[pos..pos + SLOT_BYTES].copy_from_slice(&slot.encode());
    }
    file
}

/// `RINGKEEP_WRITE_FIXTURE=DIR` writes the fixture of a new version.
#[test]
fn version_1_is_what_it_was() {
    let file = file([4, 5]);
    let slots = [&file[..SLOT_BYTES], &file[BLOCK_BYTES..BLOCK_BYTES + SLOT_BYTES]].concat();
    if let Some(to) = std::env::var_os("RINGKEEP_WRITE_FIXTURE") {
        std::fs::write(Path::new(&to).join("slots.bin"), &slots).unwrap();
    }
    let fixture = include_bytes!("../../tests/fixtures/log-end-v1/slots.bin");
    assert_eq!(slots, fixture);
    let read = |bytes: &[u8]| Slot::decode(bytes).expect("it is whole").expect("of this version");
    assert_eq!([read(&fixture[..64]), read(&fixture[64..])], [slot(4), slot(5)]);
}

/// A write that is torn, or a slot that is damaged, leaves the other one.
#[test]
fn the_newest_slot_that_is_whole_counts() {
    let path = Path::new("END");
    for rounds in [[4, 5], [6, 5]] {
        let (old, new) = (rounds[0].min(rounds[1]), rounds[0].max(rounds[1]));
        assert_eq!(newest(path, &file(rounds)).unwrap(), slot(new));
        for round in rounds {
            let other = if round == old { new } else { old };
            for byte in 0..SLOT_BYTES {
                let mut harmed = file(rounds);
                harmed[slot(round).pos() as usize + byte] ^= 0x11;
                assert_eq!(newest(path, &harmed).unwrap(), slot(other), "byte {byte} of round {round}");
            }
        }
    }
    let fault = newest(path, &[0; FILE_BYTES]).unwrap_err();
    assert_eq!((fault.kind, fault.path.as_path()), (crate::error::FaultKind::Corruption, path));
}

#[test]
fn another_version_is_refused() {
    let mut bytes = file([4, 5]);
    bytes[8] = 2;
    let crc = checksum(&bytes[..SLOT_BYTES]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let fault = newest(Path::new("END"), &bytes).unwrap_err();
    assert_eq!(fault.kind, crate::error::FaultKind::Foreign);
    assert!(fault.what.contains("version 2; this program reads version 1"), "{fault}");
}
