//! Where a memtable's keys and versions lie: one after the other in large pieces, so that a write allocates nothing of its
//! own. It owns their bytes and knows their layout; what is linked to what is decided elsewhere ([`super::chain`]).
//!
//! ```text
//! key      [newest u32] [key bytes u31, unlisted u1] [key]                in memory only, little-endian, padded to 8 bytes
//! version  [older u32] [value bytes u32] [sequence u64] [kind u8] [value]      a dated value if the kind says so
//! ```
//!
//! Invariants:
//!
//! * A record lies where it was laid until the arena goes, so a place stays good. Only its link changes, and whether a key is listed.
//! * A key is laid once, and its first version right behind it: mostly a look-up finds both in one go.
//! * Nothing is given back before the arena goes, not even a version that nothing leads to any more.

use crate::lsm::key::{Kind, SeqNo};

/// Records are laid into pieces of this size; a larger one gets a piece of its own.
const PIECE_BYTES: usize = 256 << 10;
/// Records begin at multiples of this, so that four bytes say where.
const UNIT_BYTES: usize = 8;
/// Bits of a place that say where in its piece a record begins, in units. It begins inside the first [`PIECE_BYTES`].
const OFFSET_BITS: u32 = (PIECE_BYTES / UNIT_BYTES).ilog2();
/// More pieces cannot be distinguished. Two neighbours hold more than one is large, so that is never before 15 GiB.
const PIECES_MAX: usize = (1 << (u32::BITS - OFFSET_BITS)) - 1;

/// The bit of a key's length that says that no index of the order leads to it. Keys are far shorter than 2 GiB.
const UNLISTED: u32 = 1 << 31;

const KEY_HEADER_BYTES: usize = 4 + 4;
const VERSION_HEADER_BYTES: usize = 4 + 4 + 8 + 1;
/// What a record is padded with, about.
const PADDING_BYTES: usize = UNIT_BYTES / 2;
/// What a key costs beside its own bytes.
pub(super) const KEY_OVERHEAD_BYTES: usize = KEY_HEADER_BYTES + PADDING_BYTES;
/// What a version costs beside its value.
pub(super) const VERSION_OVERHEAD_BYTES: usize = VERSION_HEADER_BYTES + PADDING_BYTES;

/// The keys and versions of one family, in the order in which they were written.
#[derive(Debug, Default)]
pub(super) struct Arena {
    pieces: Vec<Vec<u8>>,
}

/// Where a record lies: the number of its piece, and in the low bits how many units into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u32);

/// The link of a version that nothing older follows.
const NOWHERE: Place = Place(u32::MAX);

/// Where a key lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyPlace(Place);

/// Where a version lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VersionPlace(Place);

/// What one operation made of a key; `value` is a dated one if it expires.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version<'a> {
    pub(super) seq: SeqNo,
    pub(super) kind: Kind,
    pub(super) value: &'a [u8],
}

impl Arena {
    /// Lays a new key and its first version.
    pub(super) fn push_key(&mut self, key: &[u8], first: Version<'_>) -> (KeyPlace, VersionPlace) {
        let (place, piece) = self.room(KEY_HEADER_BYTES + key.len());
        piece.extend_from_slice(&NOWHERE.0.to_le_bytes());
        debug_assert!(key.len() < UNLISTED as usize, "a batch refuses keys of 2 GiB");
        piece.extend_from_slice(&(key.len() as u32).to_le_bytes());
        piece.extend_from_slice(key);
        let first = self.push_version(first, None);
        self.set_link(place, first.0);
        (KeyPlace(place), first)
    }

    /// Lays a version that `older` follows. Its key does not lead to it yet.
    pub(super) fn push_version(&mut self, version: Version<'_>, older: Option<VersionPlace>) -> VersionPlace {
        let (place, piece) = self.room(VERSION_HEADER_BYTES + version.value.len());
        piece.extend_from_slice(&link_to(older).0.to_le_bytes());
        // A batch refuses values of 4 GiB.
        piece.extend_from_slice(&(version.value.len() as u32).to_le_bytes());
        piece.extend_from_slice(&version.seq.0.to_le_bytes());
        piece.push(match version.kind {
            Kind::Delete => 0,
            Kind::Put => 1,
            Kind::PutUntil => 2,
        });
        piece.extend_from_slice(version.value);
        VersionPlace(place)
    }

    pub(super) fn key(&self, key: KeyPlace) -> &[u8] {
        let (len, rest) = take(&self.record(key.0)[4..]);
        &rest[..(u32::from_le_bytes(len) & !UNLISTED) as usize]
    }

    /// Whether the index of the order leads to a key, as it does at first.
    pub(super) fn is_listed(&self, key: KeyPlace) -> bool {
        let (len, _) = take(&self.record(key.0)[4..]);
        u32::from_le_bytes(len) & UNLISTED == 0
    }

    pub(super) fn set_listed(&mut self, key: KeyPlace, listed: bool) {
        let bytes = self.key(key).len() as u32;
        let word = if listed { bytes } else { bytes | UNLISTED };
        let at = key.0.offset_bytes() + 4;
        self.pieces[key.0.piece()][at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    pub(super) fn version(&self, version: VersionPlace) -> Version<'_> {
        let (len, rest) = take(&self.record(version.0)[4..]);
        let (seq, rest) = take(rest);
        let ([kind], rest) = take(rest);
        Version {
            seq: SeqNo(u64::from_le_bytes(seq)),
            kind: match kind {
                0 => Kind::Delete,
                1 => Kind::Put,
                _ => Kind::PutUntil,
            },
            value: &rest[..u32::from_le_bytes(len) as usize],
        }
    }

    /// The newest version of a key. Every key has one.
    pub(super) fn newest(&self, key: KeyPlace) -> VersionPlace {
        VersionPlace(self.link(key.0))
    }

    /// The next older version of the same key.
    pub(super) fn older(&self, version: VersionPlace) -> Option<VersionPlace> {
        let link = self.link(version.0);
        (link != NOWHERE).then_some(VersionPlace(link))
    }

    pub(super) fn set_newest(&mut self, key: KeyPlace, newest: VersionPlace) {
        self.set_link(key.0, newest.0);
    }

    pub(super) fn set_older(&mut self, version: VersionPlace, older: Option<VersionPlace>) {
        self.set_link(version.0, link_to(older));
    }

    /// Gives one piece back; `false` when there is none left. What lies there must not be asked for any more.
    pub(super) fn free_piece(&mut self) -> bool {
        self.pieces.pop().is_some()
    }

    /// Where the next record of this size begins, and the piece that it is to be added to.
    fn room(&mut self, bytes: usize) -> (Place, &mut Vec<u8>) {
        let padded = |piece: &Vec<u8>| piece.len().next_multiple_of(UNIT_BYTES);
        let fits = self.pieces.last().is_some_and(|piece| {
            let start = padded(piece);
            start < PIECE_BYTES && start + bytes <= piece.capacity()
        });
        if !fits {
            assert!(self.pieces.len() < PIECES_MAX, "a memtable is closed before it is so large");
            self.pieces.push(Vec::with_capacity(bytes.max(PIECE_BYTES)));
        }
        let number = self.pieces.len() - 1;
        let piece = &mut self.pieces[number];
        let start = padded(piece);
        piece.resize(start, 0);
        (Place((number as u32) << OFFSET_BITS | (start / UNIT_BYTES) as u32), piece)
    }

    /// A record, and what follows it in its piece.
    fn record(&self, place: Place) -> &[u8] {
        &self.pieces[place.piece()][place.offset_bytes()..]
    }

    fn link(&self, place: Place) -> Place {
        Place(u32::from_le_bytes(take(self.record(place)).0))
    }

    fn set_link(&mut self, place: Place, link: Place) {
        let at = place.offset_bytes();
        self.pieces[place.piece()][at..at + 4].copy_from_slice(&link.0.to_le_bytes());
    }
}

impl Place {
    fn piece(self) -> usize {
        (self.0 >> OFFSET_BITS) as usize
    }

    fn offset_bytes(self) -> usize {
        (self.0 & ((1 << OFFSET_BITS) - 1)) as usize * UNIT_BYTES
    }
}

fn link_to(version: Option<VersionPlace>) -> Place {
    version.map_or(NOWHERE, |version| version.0)
}

/// The first bytes and the rest.
fn take<const N: usize>(from: &[u8]) -> ([u8; N], &[u8]) {
    let (first, rest) = from.split_first_chunk().expect("a place is where a whole record lies");
    (*first, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_versions_of_every_size_read_back() {
        let mut arena = Arena::default();
        let large = vec![7u8; PIECE_BYTES + 1];
        let values: [&[u8]; 5] = [b"", b"v", &large, &large[..PIECE_BYTES - VERSION_HEADER_BYTES], b"after"];
        let keys: [&[u8]; 5] = [b"", b"key", b"key of a large value", &large, b"last"];
        let versions: Vec<Version<'_>> = values
            .into_iter()
            .zip([Kind::Delete, Kind::Put, Kind::PutUntil, Kind::Put, Kind::Put])
            .zip(u64::MAX - 9..)
            .map(|((value, kind), seq)| Version { seq: SeqNo(seq), kind, value })
            .collect();
        let places: Vec<KeyPlace> =
            keys.iter().zip(&versions).map(|(key, version)| arena.push_key(key, *version).0).collect();
        for ((key, version), place) in keys.into_iter().zip(&versions).zip(places) {
            assert!(arena.key(place) == key);
            let newest = arena.newest(place);
            assert_eq!(arena.older(newest), None);
            let read = arena.version(newest);
            assert_eq!((read.seq, read.kind), (version.seq, version.kind));
            assert!(read.value == version.value);
        }
        assert_eq!(arena.pieces.len(), 5, "small, three too large or just as large as a piece, small");
    }

    #[test]
    fn links_change_and_nothing_else_does() {
        let mut arena = Arena::default();
        let version = |seq| Version { seq: SeqNo(seq), kind: Kind::Put, value: b"value" };
        let (key, first) = arena.push_key(b"key", version(1));
        let second = arena.push_version(version(2), Some(first));
        assert_eq!(arena.newest(key), first);
        arena.set_newest(key, second);
        assert_eq!((arena.newest(key), arena.older(second), arena.older(first)), (second, Some(first), None));
        arena.set_older(second, None);
        assert_eq!(arena.older(second), None);
        assert_eq!((arena.key(key), arena.version(second).seq), (b"key".as_slice(), SeqNo(2)));
        assert_eq!(arena.version(first).value, b"value");
        assert!(arena.is_listed(key));
        arena.set_listed(key, false);
        assert!(!arena.is_listed(key));
        assert_eq!((arena.key(key), arena.newest(key)), (b"key".as_slice(), second));
        arena.set_listed(key, true);
        assert!(arena.is_listed(key));
    }
}
