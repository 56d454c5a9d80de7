//! A blocked Bloom filter: "certainly not here" for the price of one cache line.
//!
//! The bits are lines of 64 bytes. The high half of a key's hash picks a line; six bits inside it come from the low half.
//! With ten bits per key about one absent key in eighty passes. (F. Putze, P. Sanders, J. Singler: "Cache-, Hash- and
//! Space-Efficient Bloom Filters", 2007.)
//!
//! The layout is part of the table format: `LINE_BYTES`, `PROBES` and the mixing below never change within a format version.

const LINE_BYTES: usize = 64;
const PROBES: u32 = 6;

/// Bytes of a filter for `keys` keys at `bits_per_key`.
pub(crate) fn size_bytes(keys: usize, bits_per_key: usize) -> usize {
    (keys * bits_per_key).div_ceil(LINE_BYTES * 8).max(1) * LINE_BYTES
}

/// Adds a key by its hash. `filter` has a size from [`size_bytes`].
pub(crate) fn insert(filter: &mut [u8], hash: u64) {
    let line = line_start(filter.len(), hash);
    for bit in bits(hash) {
        filter[line + bit / 8] |= 1 << (bit % 8);
    }
}

/// Whether the key may have been added. A filter of no lines answers "maybe", so damage never hides a key.
pub(crate) fn may_contain(filter: &[u8], hash: u64) -> bool {
    if filter.len() < LINE_BYTES {
        return true;
    }
    let line = line_start(filter.len(), hash);
    let line = &filter[line..line + LINE_BYTES];
    bits(hash).all(|bit| line[bit / 8] & (1 << (bit % 8)) != 0)
}

fn line_start(filter_len: usize, hash: u64) -> usize {
    let lines = (filter_len / LINE_BYTES) as u64;
    (((hash >> 32) * lines) >> 32) as usize * LINE_BYTES
}

fn bits(hash: u64) -> impl Iterator<Item = usize> {
    let mut mixed = hash as u32;
    (0..PROBES).map(move |_| {
        mixed = mixed.wrapping_mul(0x9E37_79B1).rotate_left(13) ^ 0x85EB_CA6B;
        (mixed >> 23) as usize
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsm::key::key_hash;

    #[test]
    fn present_keys_always_pass_and_absent_keys_rarely() {
        let keys = 10_000u64;
        let mut filter = vec![0; size_bytes(keys as usize, 10)];
        for key in 0..keys {
            insert(&mut filter, key_hash(&key.to_be_bytes()));
        }
        assert!((0..keys).all(|key| may_contain(&filter, key_hash(&key.to_be_bytes()))));
        let passed =
            (keys..11 * keys).filter(|key| may_contain(&filter, key_hash(&key.to_be_bytes()))).count();
        assert!(passed < 2_000, "{passed} of 100000 absent keys passed");
    }

    #[test]
    fn the_bits_of_a_hash_are_part_of_the_format() {
        let places: Vec<usize> = bits(0x0123_4567_89AB_CDEF).collect();
        assert_eq!(places.len(), PROBES as usize);
        assert!(places.iter().all(|bit| *bit < LINE_BYTES * 8));
    }
}
