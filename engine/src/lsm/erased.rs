//! Range tombstones, kept as disjoint fragments.
//!
//! Overlapping range deletes are cut at each other's bounds, so that a key lies in at most one fragment and one look-up
//! answers "which deletes cover this key". Bounds are half-open; an end is never empty.
//!
//! ```text
//! insert [a, m) at 5, then [f, z) at 9   →   [a, f): 5    [f, m): 9 5    [m, z): 9
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;

use super::key::{SeqNo, in_range, lower_end};

/// The range deletes of one source (a memtable, a table, a compaction).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeTombstones {
    fragments: BTreeMap<Vec<u8>, Fragment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fragment {
    end: Vec<u8>,
    /// Newest first, without repeats, never empty.
    seqs: Vec<SeqNo>,
}

impl RangeTombstones {
    pub(crate) fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }

    /// Adds a delete of `[start, end)` at `seq`.
    pub(crate) fn insert(&mut self, start: &[u8], end: &[u8], seq: SeqNo) {
        if start >= end {
            return;
        }
        self.cut_at(start);
        self.cut_at(end);
        let mut gaps = Vec::new();
        let mut at = start.to_vec();
        for (fragment_start, fragment) in self.range_mut(start, end) {
            if at.as_slice() < fragment_start.as_slice() {
                gaps.push((std::mem::take(&mut at), fragment_start.clone()));
            }
            add_seq(&mut fragment.seqs, seq);
            at.clone_from(&fragment.end);
        }
        if at.as_slice() < end {
            gaps.push((at, end.to_vec()));
        }
        for (gap_start, gap_end) in gaps {
            self.fragments.insert(gap_start, Fragment { end: gap_end, seqs: vec![seq] });
        }
    }

    /// Adds everything of `other` that lies in `[start, end)`; an empty `end` means "no upper bound".
    pub(crate) fn merge(&mut self, other: &RangeTombstones, start: &[u8], end: &[u8]) {
        for (fragment_start, fragment_end, seqs) in other.iter() {
            let clipped_start = fragment_start.max(start);
            let clipped_end = lower_end(fragment_end, end);
            for &seq in seqs {
                self.insert(clipped_start, clipped_end, seq);
            }
        }
    }

    /// The newest delete of `key` that a read at `at_most` sees.
    pub(crate) fn newest_covering(&self, key: &[u8], at_most: SeqNo) -> Option<SeqNo> {
        self.covering(key)?.iter().copied().find(|&seq| seq <= at_most)
    }

    /// The oldest delete of `key` that is newer than `above`.
    pub(crate) fn oldest_covering_above(&self, key: &[u8], above: SeqNo) -> Option<SeqNo> {
        self.covering(key)?.iter().copied().rfind(|&seq| seq > above)
    }

    /// Fragments in key order: start, end, sequence numbers newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], &[SeqNo])> {
        self.fragments.iter().map(|(start, f)| (start.as_slice(), f.end.as_slice(), f.seqs.as_slice()))
    }

    /// First start and last end.
    pub(crate) fn bounds(&self) -> Option<(&[u8], &[u8])> {
        let (start, _) = self.fragments.first_key_value()?;
        let (_, last) = self.fragments.last_key_value()?;
        Some((start, &last.end))
    }

    fn covering(&self, key: &[u8]) -> Option<&[SeqNo]> {
        if self.fragments.is_empty() {
            return None;
        }
        let (start, fragment) =
            self.fragments.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        in_range(key, start, &fragment.end).then_some(fragment.seqs.as_slice())
    }

    fn range_mut(&mut self, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &mut Fragment)> {
        self.fragments.range_mut::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
    }

    /// Makes `key` a fragment bound if it lies inside one.
    fn cut_at(&mut self, key: &[u8]) {
        let before =
            self.fragments.range_mut::<[u8], _>((Bound::Unbounded, Bound::Excluded(key))).next_back();
        let Some((_, fragment)) = before else { return };
        if fragment.end.as_slice() <= key {
            return;
        }
        let right =
            Fragment { end: std::mem::replace(&mut fragment.end, key.to_vec()), seqs: fragment.seqs.clone() };
        self.fragments.insert(key.to_vec(), right);
    }
}

/// Deletes usually arrive newest last, so the place is usually the front.
fn add_seq(seqs: &mut Vec<SeqNo>, seq: SeqNo) {
    match seqs.binary_search_by(|present| seq.cmp(present)) {
        Ok(_) => {}
        Err(place) => seqs.insert(place, seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64, so that a failing seed can be told.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 29)
    }

    #[test]
    fn fragments_answer_like_a_plain_list() {
        for seed in 0..200u64 {
            let mut state = seed;
            let mut list: Vec<(u8, u8, SeqNo)> = Vec::new();
            let mut erased = RangeTombstones::default();
            for round in 1..20u64 {
                let start = (next(&mut state) % 24) as u8;
                let end = (next(&mut state) % 24) as u8;
                // Not always in order, as when the tombstones of several tables are merged.
                let seq = SeqNo((round * 7) % 20 + 1);
                erased.insert(&[start], &[end], seq);
                if start < end {
                    list.push((start, end, seq));
                }
                for key in 0..26u8 {
                    for at in [0u64, 5, 10, 40] {
                        let covering =
                            list.iter().filter(|(s, e, _)| (*s..*e).contains(&key)).map(|(.., q)| *q);
                        let newest = covering.clone().filter(|q| q.0 <= at).max();
                        let above = covering.filter(|q| q.0 > at).min();
                        assert_eq!(erased.newest_covering(&[key], SeqNo(at)), newest, "seed {seed}");
                        assert_eq!(erased.oldest_covering_above(&[key], SeqNo(at)), above, "seed {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn merging_clips_to_the_bounds() {
        let mut all = RangeTombstones::default();
        all.insert(b"a", b"m", SeqNo(5));
        let mut part = RangeTombstones::default();
        part.merge(&all, b"c", b"f");
        assert_eq!(part.bounds(), Some((b"c".as_slice(), b"f".as_slice())));
        assert_eq!(part.iter().count(), 1);
    }
}
