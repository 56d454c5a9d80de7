//! The table file: sorted entries that never change.
//!
//! ```text
//! table  := (data* part)* erased root zeros footer        length: a multiple of 4096 bytes
//! data   := frame(block)                                  entries of up to a few KiB
//! part   := frame(index:block filter filter_len:u32)      for the data blocks just before it:
//!             index   last key -> offset:varint len:varint, one entry per data block
//!             filter  Bloom filter over their keys (see `filter`)
//! erased := frame(block)* frame(block)                    range deletes, start -> end, in blocks of about 64 KiB; and an index of
//!                                                         these blocks, last start -> handle; an empty block if none
//! root   := frame(block)                                  last key -> handle, one entry per part
//! frame  := payload kind:u8 raw_len:u32 crc:u32           kind 0 as is, 1 LZ4; the CRC covers payload, kind, raw_len,
//!                                                         the frame's offset in the file and the file's identity, so
//!                                                         that a block read from the wrong place or from another file
//!                                                         does not pass
//! footer := root_offset:u64 root_len:u32 erased_offset:u64 erased_len:u32
//!           entries:u64 smallest_seq:u64 largest_seq:u64 identity:u64 cf:u8 zeros:3
//!           body_crc:u32 version:u32 footer_crc:u32 magic:u64            all little-endian; the last 80 bytes
//! ```
//!
//! `identity` is drawn when the file is made, and the manifest repeats it: the tables of another store, or of an older copy of
//! this one, are not taken for this store's, whatever their names.
//!
//! CRC is CRC-32 (IEEE). `body_crc` covers every byte before the footer: the whole-file checksum that the manifest repeats.
//!
//! Index and filter are cut into parts, so that a table of any size is opened by one small read (the root), and a look-up
//! needs one part and one data block beside it; all three are cached by the same budget. An "index" key is at or above the
//! last key of what it points to and below the next key.
//!
//! In version 3 no entry expires (see [`block`]); a table without such an entry is written as that still, so that earlier versions of the
//! program read it. In version 2 `erased` was one block with all range deletes, too. Both are still read.
//!
//! A file is opened lazily, at start-up only if the manifest says that it has range deletes.

pub(crate) mod block;
pub(crate) mod build;
pub(crate) mod files;
pub(crate) mod handles;
pub(crate) mod read;
pub(crate) mod write;

use std::fmt::Display;
use std::path::Path;

use bytes::Bytes;

use self::block::{BlockView, put_varint, take_varint};
use super::chunk::Chunk;
use super::key::{Cf, SeqNo};
use crate::error::Fault;

/// Ends every table file.
const MAGIC: u64 = u64::from_le_bytes(*b"RKTABLE\n");
/// The format drawn above.
pub(crate) const FORMAT_VERSION: u32 = 4;
/// The one before, without values that expire.
const FORMAT_WITHOUT_EXPIRY: u32 = 3;
/// The one before that, with all range deletes in one block.
const FORMAT_ONE_ERASED_BLOCK: u32 = 2;
/// Length of the footer.
pub(crate) const FOOTER_BYTES: usize = 80;
/// No frame is larger, packed or unpacked; a larger length is damage. Values are far smaller.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// What a decoder says about bytes that cannot be right. The reader adds the file and the offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage(pub(crate) &'static str);

/// What a decoder says of a format that it does not know. That is no damage: another version of the program reads it.
pub(crate) const UNKNOWN_TABLE: Damage = Damage("a table of an unknown format version");
pub(crate) const UNKNOWN_MANIFEST: Damage = Damage("a manifest of an unknown format version");

impl Damage {
    /// As a fault of the file at `path`, at `place` in it.
    pub(crate) fn fault(self, path: &Path, place: impl Display) -> Fault {
        let what = format!("{} ({place})", self.0);
        match self {
            UNKNOWN_TABLE | UNKNOWN_MANIFEST => {
                Fault::foreign(path, format!("{what}; start the version of ringkeep that wrote it"))
            }
            Damage(_) => Fault::corruption(path, what),
        }
    }
}

/// Where a frame lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Handle {
    pub(crate) offset: u64,
    /// Bytes with the frame's end.
    pub(crate) len: u32,
}

impl Handle {
    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12);
        put_varint(&mut bytes, self.offset);
        put_varint(&mut bytes, u64::from(self.len));
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Result<Handle, Damage> {
        let damage = Damage("an index entry without a handle");
        let offset = take_varint(&mut bytes).ok_or(damage)?;
        let len = take_varint(&mut bytes).and_then(|len| u32::try_from(len).ok()).ok_or(damage)?;
        Ok(Handle { offset, len })
    }
}

/// Where a table has its range deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErasedAt {
    /// In blocks that this index has in order.
    Index(Handle),
    /// In one block; format version 2.
    Block(Handle),
}

/// The end of a table file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) root: Handle,
    pub(crate) erased: ErasedAt,
    /// Whether values may expire.
    pub(crate) expires: bool,
    pub(crate) entries: u64,
    pub(crate) smallest_seq: SeqNo,
    pub(crate) largest_seq: SeqNo,
    pub(crate) identity: u64,
    pub(crate) cf: Cf,
    pub(crate) body_crc: u32,
}

impl Footer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (version, erased) = match (self.erased, self.expires) {
            (ErasedAt::Index(handle), true) => (FORMAT_VERSION, handle),
            (ErasedAt::Index(handle), false) => (FORMAT_WITHOUT_EXPIRY, handle),
            (ErasedAt::Block(handle), _) => (FORMAT_ONE_ERASED_BLOCK, handle),
        };
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend_from_slice(&self.root.offset.to_le_bytes());
        bytes.extend_from_slice(&self.root.len.to_le_bytes());
        bytes.extend_from_slice(&erased.offset.to_le_bytes());
        bytes.extend_from_slice(&erased.len.to_le_bytes());
        bytes.extend_from_slice(&self.entries.to_le_bytes());
        bytes.extend_from_slice(&self.smallest_seq.0.to_le_bytes());
        bytes.extend_from_slice(&self.largest_seq.0.to_le_bytes());
        bytes.extend_from_slice(&self.identity.to_le_bytes());
        bytes.extend_from_slice(&[self.cf.index() as u8, 0, 0, 0]);
        bytes.extend_from_slice(&self.body_crc.to_le_bytes());
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        debug_assert_eq!(bytes.len(), FOOTER_BYTES);
        bytes
    }

    /// Decodes the last [`FOOTER_BYTES`] of `file_end`.
    pub(crate) fn decode(file_end: &[u8]) -> Result<Footer, Damage> {
        let bytes = file_end.last_chunk::<FOOTER_BYTES>().ok_or(Damage("a file too short for a footer"))?;
        if u64_at(bytes, FOOTER_BYTES - 8) != MAGIC {
            return Err(Damage("no table footer at the end of the file"));
        }
        if u32_at(bytes, FOOTER_BYTES - 12) != crc32fast::hash(&bytes[..FOOTER_BYTES - 12]) {
            return Err(Damage("the footer's checksum does not match"));
        }
        let erased = Handle { offset: u64_at(bytes, 12), len: u32_at(bytes, 20) };
        let (erased, expires) = match u32_at(bytes, FOOTER_BYTES - 16) {
            FORMAT_VERSION => (ErasedAt::Index(erased), true),
            FORMAT_WITHOUT_EXPIRY => (ErasedAt::Index(erased), false),
            FORMAT_ONE_ERASED_BLOCK => (ErasedAt::Block(erased), false),
            _ => return Err(UNKNOWN_TABLE),
        };
        Ok(Footer {
            root: Handle { offset: u64_at(bytes, 0), len: u32_at(bytes, 8) },
            erased,
            expires,
            entries: u64_at(bytes, 24),
            smallest_seq: SeqNo(u64_at(bytes, 32)),
            largest_seq: SeqNo(u64_at(bytes, 40)),
            identity: u64_at(bytes, 48),
            cf: Cf::from_byte(bytes[56]).ok_or(Damage("an unknown column family"))?,
            body_crc: u32_at(bytes, 60),
        })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

const KIND_PLAIN: u8 = 0;
const KIND_LZ4: u8 = 1;

/// Where a frame lies: in which file, and at which offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) identity: u64,
    pub(crate) offset: u64,
}

/// Appends `raw` as a frame that will lie at `place`; packed if that saves an eighth.
fn put_frame(into: &mut Vec<u8>, raw: &[u8], place: Place, compress: bool) -> Handle {
    let start = into.len();
    let kind = if compress && pack(raw, into) {
        KIND_LZ4
    } else {
        into.extend_from_slice(raw);
        KIND_PLAIN
    };
    into.push(kind);
    into.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    let crc = frame_crc(&into[start..], place);
    into.extend_from_slice(&crc.to_le_bytes());
    Handle { offset: place.offset, len: (into.len() - start) as u32 }
}

/// Appends `raw` packed, if that saves an eighth. It is packed where it will lie, because elsewhere it would be one more copy of a large value.
fn pack(raw: &[u8], into: &mut Vec<u8>) -> bool {
    let start = into.len();
    into.resize(start + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
    let packed = lz4_flex::block::compress_into(raw, &mut into[start..]);
    let len = packed.ok().filter(|len| *len < raw.len() - raw.len() / 8);
    into.truncate(start + len.unwrap_or(0));
    len.is_some()
}

/// Checks and unpacks the frame that was read from `place`.
pub(crate) fn open_frame(frame: &[u8], place: Place) -> Result<Bytes, Damage> {
    let (checked, crc) = frame.split_last_chunk::<4>().ok_or(Damage("a frame too short for its checksum"))?;
    if frame_crc(checked, place) != u32::from_le_bytes(*crc) {
        return Err(Damage("a block's checksum does not match"));
    }
    let (kinded, raw_len) = checked.split_last_chunk::<4>().ok_or(Damage("a frame without a length"))?;
    let (kind, payload) = kinded.split_last().ok_or(Damage("a frame without a kind"))?;
    let raw_len = u32::from_le_bytes(*raw_len) as usize;
    match *kind {
        KIND_PLAIN if payload.len() == raw_len => Ok(Bytes::copy_from_slice(payload)),
        KIND_LZ4 if raw_len <= FRAME_BYTES_MAX => {
            let mut raw = vec![0; raw_len];
            let len = lz4_flex::block::decompress_into(payload, &mut raw)
                .map_err(|_| Damage("a block that does not unpack"))?;
            (len == raw_len).then(|| Bytes::from(raw)).ok_or(Damage("a block of another length than stated"))
        }
        _ => Err(Damage("a frame of an unknown kind or a wrong length")),
    }
}

/// How many bytes a frame says that it opens to. Nothing of it has been checked, so that is no more than a guess.
pub(crate) fn opened_bytes(frame: &[u8]) -> usize {
    let tail = frame.last_chunk::<8>().map_or(0, |[a, b, c, d, ..]| u32::from_le_bytes([*a, *b, *c, *d]));
    (tail as usize).min(FRAME_BYTES_MAX)
}

fn frame_crc(checked: &[u8], place: Place) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(checked);
    hasher.update(&place.offset.to_le_bytes());
    hasher.update(&place.identity.to_le_bytes());
    hasher.finalize()
}

/// A part, read in place: the index of a run of data blocks and the filter over their keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartView<'a> {
    pub(crate) index: BlockView<'a>,
    pub(crate) filter: &'a [u8],
    index_len: usize,
}

impl<'a> PartView<'a> {
    pub(crate) fn parse(part: &'a [u8]) -> Result<Self, Damage> {
        let (rest, filter_len) =
            part.split_last_chunk::<4>().ok_or(Damage("a part without a filter length"))?;
        let filter_len = u32::from_le_bytes(*filter_len) as usize;
        let index_len = rest.len().checked_sub(filter_len).ok_or(Damage("a filter longer than its part"))?;
        let (index, filter) = rest.split_at(index_len);
        Ok(Self { index: BlockView::parse(index)?, filter, index_len })
    }

    /// The index as a block of its own; `part` is the buffer behind this view.
    pub(crate) fn index_bytes(&self, part: &Bytes) -> Bytes {
        part.slice(..self.index_len)
    }
}

/// What the index `block` points to at or after `key`.
pub(crate) fn locate(index: &[u8], view: BlockView<'_>, key: &[u8]) -> Result<Option<Handle>, Damage> {
    match view.seek(key, SeqNo::MAX)? {
        Some(landing) => {
            let handle = index.get(landing.value).ok_or(Damage("an index entry out of bounds"))?;
            Handle::decode(handle).map(Some)
        }
        None => Ok(None),
    }
}

/// Calls `visit` with each last key and handle from `start` on, until it says no.
pub(crate) fn walk_index(
    index: &Bytes,
    start: &[u8],
    mut visit: impl FnMut(&[u8], Handle) -> bool,
) -> Result<(), Damage> {
    let view = BlockView::parse(index)?;
    for interval in view.last_interval_before(start, SeqNo::MAX)?..view.intervals() {
        let chunk: Chunk = view.decode(interval, index)?;
        let mut at = 0;
        while let Some(entry) = chunk.get(at) {
            at += 1;
            if entry.key >= start && !visit(entry.key, Handle::decode(entry.value)?) {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> Footer {
        Footer {
            root: Handle { offset: 4000, len: 77 },
            erased: ErasedAt::Index(Handle { offset: 3900, len: 13 }),
            expires: false,
            entries: 12,
            smallest_seq: SeqNo(3),
            largest_seq: SeqNo(14),
            identity: 0x1234_5678_9ABC_DEF0,
            cf: Cf::Write,
            body_crc: 0xDEAD_BEEF,
        }
    }

    #[test]
    fn a_footer_comes_back() {
        let older = Footer { erased: ErasedAt::Block(Handle { offset: 3900, len: 13 }), ..footer() };
        for footer in [footer(), older, Footer { expires: true, ..footer() }] {
            assert_eq!(Footer::decode(&footer.encode()), Ok(footer));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_footer_is_noticed() {
        let good = footer().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn frames_are_bound_to_their_place() {
        let place = |offset| Place { identity: 7, offset };
        for (raw, compress) in [(vec![7u8; 5000], true), (vec![7u8; 5000], false), (Vec::new(), true)] {
            let mut bytes = Vec::new();
            let handle = put_frame(&mut bytes, &raw, place(8192), compress);
            assert_eq!(handle.len as usize, bytes.len());
            assert_eq!(open_frame(&bytes, place(8192)).unwrap(), raw);
            assert!(open_frame(&bytes, place(4096)).is_err());
            assert!(open_frame(&bytes, Place { identity: 8, offset: 8192 }).is_err(), "of another file");
            for at in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[at] ^= 0x10;
                assert!(open_frame(&bad, place(8192)).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_broken_writer_is_damage_too() {
        // A frame whose checksum is right and whose inside is not.
        for (kind, raw_len) in [(KIND_LZ4, 100u32), (KIND_LZ4, u32::MAX), (KIND_PLAIN, 9), (9, 3)] {
            let mut bytes = vec![0xF3, 1, 2];
            bytes.push(kind);
            bytes.extend_from_slice(&raw_len.to_le_bytes());
            let place = Place { identity: 7, offset: 0 };
            let crc = frame_crc(&bytes, place);
            bytes.extend_from_slice(&crc.to_le_bytes());
            assert!(open_frame(&bytes, place).is_err());
        }
    }
}
