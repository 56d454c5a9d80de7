//! The keyspace of API V2, and the memory-comparable encoding in which its keys lie in the map and on disk.
//!
//! ```text
//! what the user says     what the client sends            what is stored, and cut at
//! "k"                    'r' 0 0 0 'k'                    encode(what is sent)
//! first key              'r' 0 0 0                        [`borders`], below
//! exclusive end          'r' 0 0 1                        [`borders`], above
//! ```
//!
//! A client of API V2 asks the placement service by encoded keys and decodes the borders of the regions that it hears of, and asks a store
//! by keys that are not encoded. So the store encodes them: else a key would lie on another side of a border than its client believes.
//!
//! Invariants: the encoding keeps the order of keys; [`decode`] accepts exactly what [`encode`] makes; no border inside the keyspace or at an
//! end of it is anything else ([`may_cut`]). Pure.
//!
//! Not done here, on purpose: other keyspaces than `DEFAULT`, and keys of transactions, whose mode byte is `x`.

use std::ops::Range;

/// The name of the only keyspace.
pub const DEFAULT: &str = "DEFAULT";
/// Its id.
pub const DEFAULT_ID: u32 = 0;
/// What every raw key of it begins with, as its clients send it: the mode byte and the id.
pub const PREFIX: [u8; 4] = [b'r', 0, 0, 0];
/// The exclusive end of its keys, as its clients send it.
pub const END: [u8; 4] = [b'r', 0, 0, 1];

/// Bytes that are encoded together.
const GROUP_BYTES: usize = 8;
/// The marker of a group that is full.
const FULL: u8 = 0xff;

/// Groups of eight bytes, zero-padded, each followed by 0xff less the padding.
pub fn encode(key: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity((key.len() / GROUP_BYTES + 1) * (GROUP_BYTES + 1));
    for group in 0..=key.len() / GROUP_BYTES {
        let bytes = &key[group * GROUP_BYTES..key.len().min((group + 1) * GROUP_BYTES)];
        let padding = GROUP_BYTES - bytes.len();
        encoded.extend_from_slice(bytes);
        encoded.extend(std::iter::repeat_n(0, padding));
        encoded.push(FULL - padding as u8);
    }
    encoded
}

/// The key that was encoded; nothing if it is none.
pub fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(encoded.len());
    let mut groups = encoded.chunks_exact(GROUP_BYTES + 1);
    let mut is_over = false;
    for group in groups.by_ref() {
        let (bytes, padding) = (&group[..GROUP_BYTES], usize::from(FULL - group[GROUP_BYTES]));
        if is_over || padding > GROUP_BYTES || bytes[GROUP_BYTES - padding..].iter().any(|byte| *byte != 0) {
            return None;
        }
        is_over = padding > 0;
        key.extend_from_slice(&bytes[..GROUP_BYTES - padding]);
    }
    (is_over && groups.remainder().is_empty()).then_some(key)
}

/// Where the keyspace begins and where it ends, as stored: regions are cut there, so that what users of other keys cut theirs at is no
/// border of a region that has keys of the keyspace.
pub fn borders() -> Range<Vec<u8>> {
    encode(&PREFIX)..encode(&END)
}

/// Whether a region may begin at `key`: outside of the keyspace anywhere, inside where its clients can decode it.
pub fn may_cut(key: &[u8]) -> bool {
    let Range { start, end } = borders();
    let is_inside = *start <= *key && *key < *end;
    !is_inside || decode(key).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_the_published_one() {
        assert_eq!(encode(b""), [0, 0, 0, 0, 0, 0, 0, 0, 0xf7]);
        assert_eq!(encode(b"ab"), [b'a', b'b', 0, 0, 0, 0, 0, 0, 0xf9]);
        let eight: Vec<u8> = b"abcdefgh\xff".iter().copied().chain([0; 8]).chain([0xf7]).collect();
        assert_eq!(encode(b"abcdefgh"), eight);
    }

    #[test]
    fn every_key_comes_back_and_the_order_stays() {
        let mut keys: Vec<Vec<u8>> = vec![Vec::new()];
        for length in [1, 2, 7, 8, 9, 15, 16, 17] {
            for byte in [0, 1, b'a', 0xfe, 0xff] {
                keys.push(vec![byte; length]);
                let mut mixed = vec![b'r'; length];
                mixed[length - 1] = byte;
                keys.push(mixed);
            }
        }
        keys.sort_unstable();
        keys.dedup();
        let encoded: Vec<Vec<u8>> = keys.iter().map(|key| encode(key)).collect();
        assert!(encoded.is_sorted());
        for (key, encoded) in keys.iter().zip(&encoded) {
            assert_eq!(decode(encoded).as_ref(), Some(key));
        }
    }

    #[test]
    fn what_was_not_encoded_is_not_decoded() {
        let good = encode(b"r\0\0\0key");
        for bad in [
            &b""[..],
            b"key",
            &good[1..],
            &good[..good.len() - 1],
            &[&good[..], b"\0"].concat(),
            // Something after the last group, a group that is not full before another one, padding that is not zero, no such marker.
            &[&good[..], &good[..]].concat(),
            b"abcdefgh\xff",
            b"a\0\0\0\0\0\0\x01\xf8",
            b"a\0\0\0\0\0\0\0\xf0",
        ] {
            assert_eq!(decode(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn borders_inside_the_keyspace_are_those_that_clients_can_decode() {
        let Range { start, end } = borders();
        assert!(start < end && may_cut(&start) && may_cut(&end));
        assert!(may_cut(&encode(b"r\0\0\0user:1")));
        assert!(!may_cut(&[&start[..], b"\0"].concat()), "behind the first key");
        assert!(!may_cut(b"r\0\0\0user:1"), "as it is sent");
        for outside in [&b""[..], b"q", b"r", b"s", b"r\0\0\x01k", &[0xff; 9]] {
            assert!(may_cut(outside), "{}", outside.escape_ascii());
        }
    }
}
