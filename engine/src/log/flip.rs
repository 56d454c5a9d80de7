//! Whether a record that does not check out differs from a whole one by a single bit. Pure.
//!
//! A checksum is linear: flipping one bit changes it by a value that depends only on how far the bit lies from the end. So the
//! difference between the checksum that is stored and the one that is computed says which single bit would explain it, if one
//! does. Nothing is repaired from that; it is evidence for whoever has to judge.
//!
//! How strong it is: a record of n bytes that was torn, not flipped, is taken for flipped with a chance of n in 500 million,
//! which is why larger records than [`BYTES_MAX`] are not asked about. That holds for sectors with enough of the record in them: where only
//! its last byte lies in the last sector, that sector is missing and one bit is wrong is often the same, so such a bit is no evidence.

use super::format::{Incarnation, RECORD_HEADER_BYTES, RecordHeader, Sequence, covered_checksum};

/// The largest record that is looked at, bytes.
const BYTES_MAX: usize = 64 << 10;

/// What a disk writes whole or not at all, bytes. Records begin at one.
const SECTOR_BYTES: usize = 512;
/// With fewer bytes of the record than this in its sector, a bit that is wrong may as well be a sector that is missing.
const EVIDENCE_BYTES_MIN: usize = 8;

/// The polynomial of CRC-32 (IEEE), reflected.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// The byte of `bytes` in which one flipped bit makes the difference to the whole record `sequence`, if that is so.
pub(crate) fn flipped_byte(incarnation: Incarnation, bytes: &[u8], sequence: Sequence) -> Option<usize> {
    // What an earlier life of the file left behind is wrong in more than one place.
    RecordHeader::wrong_bits(bytes, sequence).filter(|wrong| *wrong <= 1)?;
    let header = RecordHeader::fields(bytes)?;
    let this = || with_this_length(incarnation, bytes, header.body_bytes);
    let another = || with_another_length(incarnation, bytes, header.body_bytes);
    this().filter(|place| is_evidence(bytes, header.body_bytes, *place)).or_else(another)
}

/// Whether the sector of the wrong bit is there: with enough of the record in it, and not empty.
fn is_evidence(bytes: &[u8], body_bytes: u32, place: usize) -> bool {
    let Some(end) = end_of(bytes, body_bytes) else { return false };
    let sector = place / SECTOR_BYTES * SECTOR_BYTES;
    let part = &bytes[sector..end.min(sector + SECTOR_BYTES)];
    part.len() >= EVIDENCE_BYTES_MIN && part.iter().any(|byte| *byte != 0)
}

/// The length is right, and the bit is in what the checksum covers, or in the checksum.
fn with_this_length(incarnation: Incarnation, bytes: &[u8], body_bytes: u32) -> Option<usize> {
    let end = end_of(bytes, body_bytes)?;
    let stored = u32::from_le_bytes(*bytes.first_chunk()?);
    let difference = stored ^ covered_checksum(incarnation, &bytes[4..end]);
    if difference.count_ones() == 1 {
        return Some(difference.trailing_zeros() as usize / 8);
    }
    // What each bit of a byte changes in the checksum, first for the last byte, then one byte further from the end each time.
    let mut changes: [u32; 8] = std::array::from_fn(|bit| one_byte_on(1 << bit));
    for place in (4..end).rev() {
        if changes.contains(&difference) {
            return Some(place);
        }
        changes = changes.map(one_byte_on);
    }
    None
}

/// The bit is in the length itself, so the checksum was computed over another number of bytes.
fn with_another_length(incarnation: Incarnation, bytes: &[u8], body_bytes: u32) -> Option<usize> {
    let stored = u32::from_le_bytes(*bytes.first_chunk()?);
    (0..u32::BITS).find_map(|bit| {
        let right = body_bytes ^ (1 << bit);
        let end = end_of(bytes, right)?;
        let mut covered = bytes[4..end].to_vec();
        covered[..4].copy_from_slice(&right.to_le_bytes());
        (covered_checksum(incarnation, &covered) == stored).then_some(4 + bit as usize / 8)
    })
}

/// Where a record with this body ends, if that much is here and may be looked at.
fn end_of(bytes: &[u8], body_bytes: u32) -> Option<usize> {
    let end = RECORD_HEADER_BYTES.checked_add(usize::try_from(body_bytes).ok()?)?;
    (end <= bytes.len().min(BYTES_MAX)).then_some(end)
}

/// The change that a change to the checksum becomes once one more byte has been covered.
fn one_byte_on(change: u32) -> u32 {
    (0..8).fold(change, |change, _| (change >> 1) ^ (POLYNOMIAL * (change & 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::SegmentNo;

    const INCARNATION: Incarnation = Incarnation(0x1234_5678_9abc_def0);

    fn record(body_bytes: usize) -> Vec<u8> {
        let header = RecordHeader {
            body_bytes: body_bytes as u32,
            sequence: Sequence(9),
            durable_to: Sequence(8),
            needed_from: SegmentNo(3),
            opened: 2,
        };
        let mut record = vec![0; (RECORD_HEADER_BYTES + body_bytes).next_multiple_of(4096)];
        let body = &mut record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body_bytes];
        body.iter_mut().enumerate().for_each(|(place, byte)| *byte = (place * 31 + 7) as u8);
        header.seal(INCARNATION, &mut record);
        record
    }

    #[test]
    fn every_single_bit_is_found_where_it_is() {
        for body_bytes in [0, 1, 200, 5000] {
            let whole = record(body_bytes);
            for place in 0..RECORD_HEADER_BYTES + body_bytes {
                let mut flipped = whole.clone();
                flipped[place] ^= 1 << (place % 8);
                let found = flipped_byte(INCARNATION, &flipped, Sequence(9));
                assert_eq!(found, Some(place), "{body_bytes} bytes");
            }
        }
    }

    #[test]
    fn a_sector_that_is_missing_is_no_bit_that_is_wrong() {
        for last_bytes in [1, 7, 8, 200] {
            let end = 2 * SECTOR_BYTES + last_bytes;
            let mut whole = record(end - RECORD_HEADER_BYTES);
            whole[2 * SECTOR_BYTES..end].fill(0);
            whole[end - 1] = 0x40;
            let header = RecordHeader::fields(&whole).expect("it has a header");
            header.seal(INCARNATION, &mut whole);
            let mut torn = whole.clone();
            torn[2 * SECTOR_BYTES..].fill(0);
            assert_eq!(flipped_byte(INCARNATION, &torn, Sequence(9)), None, "{last_bytes} bytes");
            let mut flipped = whole.clone();
            flipped[end - 1] = 0x42;
            let found = flipped_byte(INCARNATION, &flipped, Sequence(9));
            assert_eq!(found, (last_bytes >= EVIDENCE_BYTES_MIN).then_some(end - 1), "{last_bytes} bytes");
        }
    }

    #[test]
    fn more_than_a_bit_another_record_and_another_life_are_no_evidence() {
        let whole = record(3000);
        let mut torn = whole.clone();
        torn[1024..1536].fill(0);
        let mut two = whole.clone();
        two[100] ^= 1;
        two[900] ^= 8;
        let mut flipped = whole.clone();
        flipped[100] ^= 1;
        assert_eq!(flipped_byte(INCARNATION, &torn, Sequence(9)), None);
        assert_eq!(flipped_byte(INCARNATION, &two, Sequence(9)), None);
        assert_eq!(flipped_byte(INCARNATION, &flipped, Sequence(10)), None);
        assert_eq!(flipped_byte(Incarnation(1), &flipped, Sequence(9)), None);
        assert_eq!(flipped_byte(INCARNATION, &[0; 4096], Sequence(1)), None);
        assert_eq!(flipped_byte(INCARNATION, &flipped[..1000], Sequence(9)), None, "its end is not here");
    }
}
