//! Where a memtable's entries lie: one after the other in large pieces, so that an insert allocates nothing of its own and a
//! look-up finds key and value side by side.
//!
//! ```text
//! entry   [sequence u64] [key bytes u32] [value bytes u32] [kind u8] [key] [value]     in memory only, little-endian
//! ```

use crate::lsm::key::{Kind, SeqNo};

/// Entries are laid into pieces of this size; a larger one gets a piece of its own.
const PIECE_BYTES: usize = 256 << 10;
/// What an entry costs beside its key and its value.
pub(super) const HEADER_BYTES: usize = 17;

/// All entries of one family, in the order in which they were written.
#[derive(Debug, Default)]
pub(super) struct Arena {
    pieces: Vec<Vec<u8>>,
}

/// Where an entry lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    piece: u32,
    offset: u32,
}

/// One version of one key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) seq: SeqNo,
    pub(super) kind: Kind,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Entry<'_> {
    /// Memory that it takes in the arena.
    pub(super) fn bytes(&self) -> usize {
        HEADER_BYTES + self.key.len() + self.value.len()
    }
}

impl Arena {
    pub(super) fn push(&mut self, entry: Entry<'_>) -> Place {
        let bytes = entry.bytes();
        let fits = self.pieces.last().is_some_and(|piece| piece.capacity() - piece.len() >= bytes);
        if !fits {
            self.pieces.push(Vec::with_capacity(bytes.max(PIECE_BYTES)));
        }
        let number = self.pieces.len() - 1;
        let piece = &mut self.pieces[number];
        // An entry begins inside the first 256 KiB of its piece, and a batch refuses keys and values of 4 GiB.
        let place = Place { piece: number as u32, offset: piece.len() as u32 };
        piece.extend_from_slice(&entry.seq.0.to_le_bytes());
        piece.extend_from_slice(&(entry.key.len() as u32).to_le_bytes());
        piece.extend_from_slice(&(entry.value.len() as u32).to_le_bytes());
        piece.push(u8::from(entry.kind == Kind::Put));
        piece.extend_from_slice(entry.key);
        piece.extend_from_slice(entry.value);
        place
    }

    pub(super) fn get(&self, place: Place) -> Entry<'_> {
        let from = &self.pieces[place.piece as usize][place.offset as usize..];
        let (header, from) = from.split_at(HEADER_BYTES);
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let seq = u64::from(number(0)) | u64::from(number(4)) << 32;
        let (key, from) = from.split_at(number(8) as usize);
        let kind = if header[16] == 1 { Kind::Put } else { Kind::Delete };
        Entry { seq: SeqNo(seq), kind, key, value: &from[..number(12) as usize] }
    }

    /// Gives one piece back; `false` when there is none left. What lies there must not be asked for any more.
    pub(super) fn free_piece(&mut self) -> bool {
        self.pieces.pop().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_every_size_read_back() {
        let mut arena = Arena::default();
        let large = vec![7u8; PIECE_BYTES + 1];
        let values: [&[u8]; 5] = [b"", b"v", &large, &large[..PIECE_BYTES - HEADER_BYTES - 3], b"after"];
        let entries: Vec<Entry<'_>> = values
            .into_iter()
            .zip([Kind::Delete, Kind::Put, Kind::Put, Kind::Put, Kind::Put])
            .zip(u64::MAX - 9..)
            .map(|((value, kind), seq)| Entry { seq: SeqNo(seq), kind, key: b"key", value })
            .collect();
        let places: Vec<Place> = entries.iter().map(|entry| arena.push(*entry)).collect();
        for (entry, place) in entries.iter().zip(places) {
            let read = arena.get(place);
            assert_eq!((read.seq, read.kind, read.key), (entry.seq, entry.kind, entry.key));
            assert!(read.value == entry.value);
        }
        assert_eq!(arena.pieces.len(), 4, "small, too large, just as large as a piece, small");
    }
}
