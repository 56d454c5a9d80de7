//! Streams a table out: entries in, bytes of the file out, without ever holding more than one part.

use super::block::{BlockBuilder, common_prefix};
use super::{ErasedAt, Footer, Handle, Place, put_frame};
use crate::lsm::filter;
use crate::lsm::key::{Cf, Kind, SeqNo, key_hash, successor};
use crate::rt::BLOCK_BYTES;

/// A block of range deletes is finished once it is this large, bytes before packing. Clients choose how long their bounds are.
const ERASED_BLOCK_BYTES: usize = 64 << 10;

/// How tables are cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableShape {
    /// A data block is finished once it is this large, bytes before packing.
    pub(crate) block_bytes: usize,
    /// Data blocks per part.
    pub(crate) part_blocks: usize,
    pub(crate) filter_bits_per_key: usize,
    pub(crate) compress: bool,
}

/// What is known of a table once it is built.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    pub(crate) start: Vec<u8>,
    /// Above every key and range delete.
    pub(crate) end: Vec<u8>,
    pub(crate) entries: u64,
    pub(crate) deletes: u64,
    /// Range deletes, each sequence number of a fragment counted.
    pub(crate) erasures: u64,
    /// The longest data block, bytes before packing.
    pub(crate) block_bytes_max: u64,
    pub(crate) smallest_seq: SeqNo,
    pub(crate) largest_seq: SeqNo,
    pub(crate) file_bytes: u64,
    pub(crate) identity: u64,
    pub(crate) body_crc: u32,
}

/// A table under construction. Bytes pile up in [`TableBuilder::output`]; the caller takes them away.
#[derive(Debug)]
pub(crate) struct TableBuilder {
    shape: TableShape,
    cf: Cf,
    body: Body,
    block: BlockBuilder,
    part_index: BlockBuilder,
    part_hashes: Vec<u64>,
    root: BlockBuilder,
    erased_block: BlockBuilder,
    erased_index: BlockBuilder,
    /// A part, which is an index and a filter.
    part: Vec<u8>,
    first_key: Option<Vec<u8>>,
    last_key: Vec<u8>,
    /// First start and last end of the range deletes.
    erased_bounds: Option<(Vec<u8>, Vec<u8>)>,
    entries: u64,
    deletes: u64,
    expires: bool,
    erasures: u64,
    block_bytes_max: usize,
    seqs: Option<(SeqNo, SeqNo)>,
}

impl TableBuilder {
    /// A table of `cf` in a file of this identity.
    pub(crate) fn new(cf: Cf, shape: TableShape, identity: u64) -> Self {
        Self {
            shape,
            cf,
            body: Body::new(identity),
            block: BlockBuilder::default(),
            part_index: BlockBuilder::default(),
            part_hashes: Vec::new(),
            root: BlockBuilder::default(),
            erased_block: BlockBuilder::default(),
            erased_index: BlockBuilder::default(),
            part: Vec::new(),
            first_key: None,
            last_key: Vec::new(),
            erased_bounds: None,
            entries: 0,
            deletes: 0,
            expires: false,
            erasures: 0,
            block_bytes_max: 0,
            seqs: None,
        }
    }

    /// Adds an entry; they arrive in the order of entries, without repeats, and before the range deletes.
    pub(crate) fn add(&mut self, key: &[u8], seq: SeqNo, kind: Kind, value: &[u8]) {
        debug_assert!(self.erased_bounds.is_none(), "range deletes come after the entries");
        let new_key = self.first_key.is_none() || key != self.last_key.as_slice();
        debug_assert!(self.first_key.is_none() || key >= self.last_key.as_slice(), "entries arrive in order");
        if new_key {
            // Versions of one key stay in one block, so that a look-up reads one.
            if self.block.size_bytes() >= self.shape.block_bytes {
                self.finish_block(Some(key));
            }
            self.part_hashes.push(key_hash(key));
            self.first_key.get_or_insert_with(|| key.to_vec());
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
        }
        self.block.add(key, seq, kind, value);
        self.entries += 1;
        self.deletes += u64::from(kind == Kind::Delete);
        self.expires |= kind == Kind::PutUntil;
        self.widen_seqs(seq);
    }

    /// The family that the entries belong to.
    pub(crate) fn cf(&self) -> Cf {
        self.cf
    }

    /// Approximate size of the file so far, bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.body.offset + self.block.size_bytes() as u64
    }

    /// Bytes that are ready to be written, in file order.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.body.output
    }

    /// Adds a fragment of range deletes; they arrive in order, after the last entry.
    pub(crate) fn add_erased(&mut self, start: &[u8], end: &[u8], seqs: &[SeqNo]) {
        self.finish_entries();
        match &mut self.erased_bounds {
            Some((_, last_end)) => {
                debug_assert!(last_end.as_slice() <= start, "fragments arrive in order");
                last_end.clear();
                last_end.extend_from_slice(end);
            }
            None => self.erased_bounds = Some((start.to_vec(), end.to_vec())),
        }
        for &seq in seqs {
            self.erased_block.add(start, seq, Kind::Put, end);
            self.erasures += 1;
            self.widen_seqs(seq);
        }
        if self.erased_block.size_bytes() >= ERASED_BLOCK_BYTES {
            self.finish_erased_block();
        }
    }

    /// Ends the table. The rest of the file is in [`TableBuilder::output`] afterwards.
    pub(crate) fn finish(&mut self) -> Built {
        self.finish_entries();
        if !self.erased_block.is_empty() {
            self.finish_erased_block();
        }
        let erased = ErasedAt::Index(self.body.put_block(&mut self.erased_index, false));
        let root = self.body.put_block(&mut self.root, false);
        let used = self.body.offset as usize + super::FOOTER_BYTES;
        let padding = used.next_multiple_of(BLOCK_BYTES) - used;
        self.body.pad(padding);
        let (smallest_seq, largest_seq) = self.seqs.unwrap_or_default();
        let body_crc = std::mem::take(&mut self.body.crc).finalize();
        let footer = Footer {
            root,
            erased,
            expires: self.expires,
            entries: self.entries,
            smallest_seq,
            largest_seq,
            identity: self.body.identity,
            cf: self.cf,
            body_crc,
        };
        self.body.output.extend_from_slice(&footer.encode());
        let (start, end) = self.bounds();
        Built {
            start,
            end,
            entries: self.entries,
            deletes: self.deletes,
            erasures: self.erasures,
            block_bytes_max: self.block_bytes_max as u64,
            smallest_seq,
            largest_seq,
            file_bytes: self.body.offset + super::FOOTER_BYTES as u64,
            identity: self.body.identity,
            body_crc,
        }
    }

    fn bounds(&self) -> (Vec<u8>, Vec<u8>) {
        let points = self.first_key.as_ref().map(|first| (first.clone(), successor(&self.last_key)));
        match (points, self.erased_bounds.clone()) {
            (Some((a, a_end)), Some((b, b_end))) => (a.min(b), a_end.max(b_end)),
            (Some(bounds), None) | (None, Some(bounds)) => bounds,
            (None, None) => (Vec::new(), Vec::new()),
        }
    }

    /// Ends the block and the part that entries have begun.
    fn finish_entries(&mut self) {
        if !self.block.is_empty() {
            self.finish_block(None);
        }
        if !self.part_index.is_empty() {
            self.finish_part();
        }
    }

    fn finish_erased_block(&mut self) {
        let last_start = self.erased_block.last_key().to_vec();
        let handle = self.body.put_block(&mut self.erased_block, self.shape.compress);
        self.erased_index.add(&last_start, SeqNo(0), Kind::Put, &handle.encode());
    }

    fn finish_block(&mut self, next_key: Option<&[u8]>) {
        let separator = separator(self.block.last_key(), next_key);
        self.block_bytes_max = self.block_bytes_max.max(self.block.size_bytes());
        let handle = self.body.put_block(&mut self.block, self.shape.compress);
        self.part_index.add(&separator, SeqNo(0), Kind::Put, &handle.encode());
        if self.part_index.len() >= self.shape.part_blocks {
            self.finish_part();
        }
    }

    fn finish_part(&mut self) {
        let separator = self.part_index.last_key().to_vec();
        let filter_len = filter::size_bytes(self.part_hashes.len(), self.shape.filter_bits_per_key);
        self.part.clear();
        self.part.extend_from_slice(self.part_index.finish());
        self.part_index.clear();
        let filter_start = self.part.len();
        self.part.resize(filter_start + filter_len, 0);
        for hash in self.part_hashes.drain(..) {
            filter::insert(&mut self.part[filter_start..], hash);
        }
        self.part.extend_from_slice(&(filter_len as u32).to_le_bytes());
        let handle = self.body.put(&self.part, false);
        self.root.add(&separator, SeqNo(0), Kind::Put, &handle.encode());
    }

    fn widen_seqs(&mut self, seq: SeqNo) {
        let (low, high) = self.seqs.unwrap_or((seq, seq));
        self.seqs = Some((low.min(seq), high.max(seq)));
    }
}

/// Frames one after the other, and what is known of them.
#[derive(Debug)]
struct Body {
    identity: u64,
    output: Vec<u8>,
    /// Offset in the file of the end of `output`.
    offset: u64,
    crc: crc32fast::Hasher,
}

impl Body {
    fn new(identity: u64) -> Self {
        Self { identity, output: Vec::new(), offset: 0, crc: crc32fast::Hasher::new() }
    }

    /// Ends `block`, writes it as a frame, and has the next one begin.
    fn put_block(&mut self, block: &mut BlockBuilder, compress: bool) -> Handle {
        let handle = self.put(block.finish(), compress);
        block.clear();
        handle
    }

    /// Writes `raw` as a frame.
    fn put(&mut self, raw: &[u8], compress: bool) -> Handle {
        let start = self.output.len();
        let place = Place { identity: self.identity, offset: self.offset };
        let handle = put_frame(&mut self.output, raw, place, compress);
        self.crc.update(&self.output[start..]);
        self.offset += u64::from(handle.len);
        handle
    }

    fn pad(&mut self, bytes: usize) {
        let start = self.output.len();
        self.output.resize(start + bytes, 0);
        self.crc.update(&self.output[start..]);
        self.offset += bytes as u64;
    }
}

/// A short key that is at or above `last` and below `next`.
fn separator(last: &[u8], next: Option<&[u8]>) -> Vec<u8> {
    let Some(next) = next else { return last.to_vec() };
    let common = common_prefix(last, next);
    match (last.get(common), next.get(common)) {
        (Some(&low), Some(&high)) if low + 1 < high => {
            let mut short = last[..common].to_vec();
            short.push(low + 1);
            short
        }
        _ => last.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_lie_between_their_neighbours() {
        let keys: [&[u8]; 7] = [b"", b"a", b"ab", b"abz", b"ac", b"b\xFF", b"d"];
        for pair in keys.windows(2) {
            let between = separator(pair[0], Some(pair[1]));
            assert!(between.as_slice() >= pair[0] && between.as_slice() < pair[1], "{pair:?} {between:?}");
        }
        assert_eq!(separator(b"abcdef", Some(b"abz")), b"abd");
    }
}
