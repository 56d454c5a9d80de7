//! One key of some, with the bytes it stands for: enough to say how much lies in a range and where its middle is.
//!
//! A key counts once, with the value that it was first written with. An overwrite does not count: it adds no key, and it
//! mostly puts one value in the place of another of about the same size. Whoever grows the values of old keys is measured
//! right once the memtable has been flushed, and until then wrong by the size of a memtable at most.

use bytes::Bytes;

use super::small_key::SmallKey;
use crate::lsm::key::in_range;

/// One key of this many is remembered.
const SAMPLE_EVERY: usize = 64;

/// The samples of one family.
#[derive(Debug, Default)]
pub(super) struct Samples {
    taken: Vec<Sample>,
    /// Keys, and bytes of keys and values, since the last sample.
    keys: usize,
    bytes: usize,
}

/// A key that stands for what arrived since the sample before it.
#[derive(Debug)]
struct Sample {
    key: SmallKey,
    bytes: usize,
    keys: usize,
}

impl Samples {
    /// A key that is new here, and the bytes that it has with its value.
    pub(super) fn count(&mut self, key: &SmallKey, bytes: usize) {
        self.keys += 1;
        self.bytes += bytes;
        if self.keys == SAMPLE_EVERY {
            let (keys, bytes) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.bytes));
            self.taken.push(Sample { key: key.clone(), bytes, keys });
        }
    }

    /// About how many bytes and keys lie in `[start, end)`.
    pub(super) fn sum(&self, start: &[u8], end: &[u8]) -> (u64, u64) {
        self.inside(start, end)
            .fold((0, 0), |(bytes, keys), sample| (bytes + sample.bytes as u64, keys + sample.keys as u64))
    }

    /// The sampled keys in `[start, end)` with the bytes each stands for.
    pub(super) fn weights(&self, start: &[u8], end: &[u8]) -> Vec<(Bytes, u64)> {
        let weight = |sample: &Sample| (Bytes::copy_from_slice(sample.key.as_slice()), sample.bytes as u64);
        self.inside(start, end).map(weight).collect()
    }

    fn inside(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = &Sample> {
        self.taken.iter().filter(move |sample| in_range(sample.key.as_slice(), start, end))
    }
}
