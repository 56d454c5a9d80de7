//! Range tombstones, kept as disjoint fragments.
//!
//! Overlapping range deletes are cut at each other's bounds, so that a key lies in at most one fragment and one look-up
//! answers "which deletes cover this key". Bounds are half-open; an end is never empty.
//!
//! ```text
//! insert [a, m) at 5, then [f, z) at 9   →   [a, f): 5    [f, m): 9 5    [m, z): 9
//! ```
//!
//! Where writes come in ([`RangeTombstones::insert_newest`]), a delete that a newer one covers stays only for readers that see the
//! one and not the other. Without readers it goes, and the fragments below a delete become one: however many deletes pile up
//! over a range, they cost what their newest do, and each is paid for once.
//!
//! Bounds are shared between copies: a flush or a compaction has the deletes of its sources several times at once, as what it read, what it keeps,
//! the rows of the manifest and the table that it opens, and clients choose how long the bounds are.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::key::{SeqNo, in_range, lower_end};
use super::readers::Readers;

/// What a fragment costs beside its keys and sequence numbers: its share of the tree's nodes, three allocations, and the counts of those who share its keys.
const FRAGMENT_OVERHEAD_BYTES: usize = 240;

/// The range deletes of one source (a memtable, a table, a compaction).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeTombstones {
    fragments: BTreeMap<Bytes, Fragment>,
    size_bytes: usize,
}

/// What is true of all keys of a stretch: the newest delete of them that a reader sees, and where the stretch ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) newest: Option<SeqNo>,
    pub(crate) start: Bytes,
    /// Exclusive; none means "no upper bound".
    pub(crate) end: Option<Bytes>,
}

impl Stretch {
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// The part of it that `other` covers, too; the newest delete of both.
    fn meet(&mut self, other: Stretch) {
        self.newest = self.newest.max(other.newest);
        if other.start > self.start {
            self.start = other.start;
        }
        self.end = match (self.end.take(), other.end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// The stretch around `key` over several sources.
pub(crate) fn stretch_of_all(stretches: impl Iterator<Item = Stretch>) -> Stretch {
    let mut all = Stretch::default();
    stretches.for_each(|stretch| all.meet(stretch));
    all
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fragment {
    end: Bytes,
    /// Newest first, without repeats, never empty.
    seqs: Vec<SeqNo>,
}

impl RangeTombstones {
    pub(crate) fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }

    /// Approximate memory used, bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Adds a delete of `[start, end)` at `seq`, which is newer than everything here and than every moment of `readers`. Deletes
    /// that it covers stay as far as `readers` see them and not it.
    pub(crate) fn insert_newest(&mut self, start: &[u8], end: &[u8], seq: SeqNo, readers: &Readers) {
        if start >= end {
            return;
        }
        let (start, end) = (&Bytes::copy_from_slice(start), &Bytes::copy_from_slice(end));
        self.cut_at(start);
        self.cut_at(end);
        let bounds = (Bound::Included(start.clone()), Bound::Excluded(end.clone()));
        let covered: Vec<(Bytes, Fragment)> = self.fragments.extract_if(bounds, |_, _| true).collect();
        let mut pieces: Vec<(Bytes, Fragment)> = Vec::new();
        let mut add = |start: Bytes, end: Bytes, seqs: Vec<SeqNo>| match pieces.last_mut() {
            Some((_, last)) if last.end == start && last.seqs == seqs => last.end = end,
            _ => pieces.push((start, Fragment { end, seqs })),
        };
        let mut at = start.clone();
        for (fragment_start, fragment) in covered {
            self.size_bytes -= fragment.size_bytes(&fragment_start);
            if at < fragment_start {
                add(std::mem::take(&mut at), fragment_start.clone(), vec![seq]);
            }
            at.clone_from(&fragment.end);
            add(fragment_start, fragment.end, still_read(seq, &fragment.seqs, readers));
        }
        if at < end {
            add(at, end.clone(), vec![seq]);
        }
        for (start, fragment) in pieces {
            self.put(start, fragment);
        }
    }

    /// The stretch around `key` in which a read at `at_most` sees the same newest delete.
    pub(crate) fn stretch(&self, key: &[u8], at_most: SeqNo) -> Stretch {
        let before = self.fragments.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        let seen = |seqs: &[SeqNo]| seqs.iter().copied().find(|seq| *seq <= at_most);
        match before {
            Some((start, fragment)) if key < &fragment.end[..] => Stretch {
                newest: seen(&fragment.seqs),
                start: start.clone(),
                end: Some(fragment.end.clone()),
            },
            _ => {
                let after = self.fragments.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next();
                Stretch {
                    newest: None,
                    start: before.map(|(_, fragment)| fragment.end.clone()).unwrap_or_default(),
                    end: after.map(|(start, _)| start.clone()),
                }
            }
        }
    }

    /// Adds a delete of `[start, end)` at `seq`.
    pub(crate) fn insert(&mut self, start: &Bytes, end: &Bytes, seq: SeqNo) {
        if start >= end {
            return;
        }
        self.cut_at(start);
        self.cut_at(end);
        let mut gaps = Vec::new();
        let mut at = start.clone();
        let mut added = 0;
        for (fragment_start, fragment) in self.range_mut(start, end) {
            if at < fragment_start {
                gaps.push((std::mem::take(&mut at), fragment_start.clone()));
            }
            let before = seqs_bytes(&fragment.seqs);
            add_seq(&mut fragment.seqs, seq);
            added += seqs_bytes(&fragment.seqs) - before;
            at.clone_from(&fragment.end);
        }
        self.size_bytes += added;
        if at < end {
            gaps.push((at, end.clone()));
        }
        for (gap_start, gap_end) in gaps {
            self.put(gap_start, Fragment { end: gap_end, seqs: vec![seq] });
        }
    }

    /// Adds the part of a delete of `[start, end)` that lies within `bounds`, of which an empty end means "no upper bound".
    pub(crate) fn insert_within(&mut self, start: &Bytes, end: &Bytes, seq: SeqNo, bounds: (&[u8], &[u8])) {
        let (start, end) = within(start, end, bounds);
        self.insert(&start, &end, seq);
    }

    /// Adds everything of `other` that lies in `[start, end)`; an empty `end` means "no upper bound".
    pub(crate) fn merge(&mut self, other: &RangeTombstones, start: &[u8], end: &[u8]) {
        for (fragment_start, fragment, seqs) in other.beyond(start) {
            if !end.is_empty() && fragment_start >= end {
                break;
            }
            let (clipped_start, clipped_end) = within(fragment_start, fragment, (start, end));
            for &seq in seqs {
                self.insert(&clipped_start, &clipped_end, seq);
            }
        }
    }

    /// How many deletes there are, each sequence number of a fragment counted.
    pub(crate) fn count(&self) -> u64 {
        self.fragments.values().map(|fragment| fragment.seqs.len() as u64).sum()
    }

    /// Where to cut at the latest, so that the fragments that begin at or after `from` up to there take about `bytes`; none if all of them do.
    pub(crate) fn cut_after(&self, from: &[u8], bytes: u64) -> Option<Bytes> {
        let mut taken = 0;
        for (start, end, seqs) in self.beyond(from) {
            if taken >= bytes {
                return Some(start.clone());
            }
            taken += ((start.len() + end.len() + size_of::<SeqNo>()) * seqs.len()) as u64;
        }
        None
    }

    /// The newest delete of `key` that a read at `at_most` sees.
    pub(crate) fn newest_covering(&self, key: &[u8], at_most: SeqNo) -> Option<SeqNo> {
        self.covering(key)?.iter().copied().find(|&seq| seq <= at_most)
    }

    /// The oldest delete of `key` that is newer than `above`.
    pub(crate) fn oldest_covering_above(&self, key: &[u8], above: SeqNo) -> Option<SeqNo> {
        self.covering(key)?.iter().copied().rfind(|&seq| seq > above)
    }

    /// Fragments that reach beyond `key`, in key order.
    fn beyond(&self, key: &[u8]) -> impl Iterator<Item = (&Bytes, &Bytes, &[SeqNo])> {
        let before = self.fragments.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(key))).next_back();
        let over = before.filter(|(_, fragment)| fragment.end > key);
        let after = self.fragments.range::<[u8], _>((Bound::Included(key), Bound::Unbounded));
        over.into_iter().chain(after).map(|(start, f)| (start, &f.end, f.seqs.as_slice()))
    }

    /// Fragments in key order: start, end, sequence numbers newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes, &[SeqNo])> {
        self.fragments.iter().map(|(start, f)| (start, &f.end, f.seqs.as_slice()))
    }

    fn covering(&self, key: &[u8]) -> Option<&[SeqNo]> {
        if self.fragments.is_empty() {
            return None;
        }
        let (start, fragment) =
            self.fragments.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        in_range(key, start, &fragment.end).then_some(fragment.seqs.as_slice())
    }

    fn range_mut(&mut self, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&Bytes, &mut Fragment)> {
        self.fragments.range_mut::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
    }

    /// Makes `key` a fragment bound if it lies inside one.
    fn cut_at(&mut self, key: &Bytes) {
        let before =
            self.fragments.range_mut::<[u8], _>((Bound::Unbounded, Bound::Excluded(&key[..]))).next_back();
        let Some((_, fragment)) = before else { return };
        if fragment.end <= key {
            return;
        }
        let right =
            Fragment { end: std::mem::replace(&mut fragment.end, key.clone()), seqs: fragment.seqs.clone() };
        self.size_bytes = self.size_bytes + key.len() - right.end.len();
        self.put(key.clone(), right);
    }

    /// Adds a fragment that overlaps none.
    fn put(&mut self, start: Bytes, fragment: Fragment) {
        self.size_bytes += fragment.size_bytes(&start);
        self.fragments.insert(start, fragment);
    }
}

impl Fragment {
    fn size_bytes(&self, start: &[u8]) -> usize {
        FRAGMENT_OVERHEAD_BYTES + start.len() + self.end.len() + seqs_bytes(&self.seqs)
    }
}

/// The part of `[start, end)` in `bounds`, of which an empty end means "no upper bound"; what is not cut off is shared.
fn within(start: &Bytes, end: &Bytes, bounds: (&[u8], &[u8])) -> (Bytes, Bytes) {
    let shared_or = |whole: &Bytes, clipped: &[u8]| match whole == clipped {
        true => whole.clone(),
        false => Bytes::copy_from_slice(clipped),
    };
    (shared_or(start, bounds.0.max(start)), shared_or(end, lower_end(end, bounds.1)))
}

/// What sequence numbers hold: a vector grows by doubling, from four on.
fn seqs_bytes(seqs: &[SeqNo]) -> usize {
    size_of::<SeqNo>() * if seqs.len() < 2 { seqs.len() } else { seqs.len().next_power_of_two().max(4) }
}

/// `newest`, and of the older ones those that a reader sees as its newest.
fn still_read(newest: SeqNo, older: &[SeqNo], readers: &Readers) -> Vec<SeqNo> {
    let mut kept = vec![newest];
    let mut next = newest;
    for &seq in older {
        if readers.newest_below(next).is_some_and(|reader| reader >= seq) {
            kept.push(seq);
            next = seq;
        }
    }
    kept
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
    use crate::rt::rng::Rng;

    #[test]
    fn fragments_answer_like_a_plain_list() {
        for seed in 0..200u64 {
            let rng = Rng::new(seed);
            let mut list: Vec<(u8, u8, SeqNo)> = Vec::new();
            let mut erased = RangeTombstones::default();
            for round in 1..20u64 {
                let start = (rng.next() % 24) as u8;
                let end = (rng.next() % 24) as u8;
                // Not always in order, as when the tombstones of several tables are merged.
                let seq = SeqNo((round * 7) % 20 + 1);
                erased.insert(&Bytes::copy_from_slice(&[start]), &Bytes::copy_from_slice(&[end]), seq);
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

    /// Each reader sees what a plain list says, whatever was dropped; the size is that of what is left; stretches are true of all
    /// their keys.
    #[test]
    fn what_readers_see_stays_and_the_rest_goes() {
        let mut dropped = 0;
        for seed in 0..300u64 {
            let rng = Rng::new(seed);
            let (mut list, mut readers) = (Vec::<(u8, u8, SeqNo)>::new(), Readers::default());
            let mut erased = RangeTombstones::default();
            let mut moments: Vec<SeqNo> = Vec::new();
            for round in 1..40u64 {
                match rng.next() % 4 {
                    0 if seed % 3 > 0 => {
                        readers.enter(SeqNo(round - 1));
                        moments.push(SeqNo(round - 1));
                    }
                    1 if !moments.is_empty() => {
                        let at = (rng.next() % moments.len() as u64) as usize;
                        readers.leave(moments.swap_remove(at));
                    }
                    _ => {}
                }
                let (start, end) = ((rng.next() % 24) as u8, (rng.next() % 24) as u8);
                erased.insert_newest(&[start], &[end], SeqNo(round), &readers);
                if start < end {
                    list.push((start, end, SeqNo(round)));
                }
                for key in 0..26u8 {
                    for at in moments.iter().copied().chain([SeqNo::MAX]) {
                        let covering = list.iter().filter(|(s, e, q)| (*s..*e).contains(&key) && *q <= at);
                        let newest = covering.map(|(.., q)| *q).max();
                        assert_eq!(erased.newest_covering(&[key], at), newest, "seed {seed} round {round}");
                        let stretch = erased.stretch(&[key], at);
                        assert!(stretch.newest == newest && stretch.contains(&[key]));
                        for other in (0..26u8).filter(|other| stretch.contains(&[*other])) {
                            assert_eq!(erased.newest_covering(&[other], at), newest, "seed {seed}");
                        }
                    }
                }
                let size: usize = erased.fragments.iter().map(|(start, f)| f.size_bytes(start)).sum();
                assert_eq!(erased.size_bytes(), size);
                let seqs: usize = erased.iter().map(|(.., seqs)| seqs.len()).max().unwrap_or(0);
                assert!(seqs <= 40);
                if moments.is_empty() {
                    dropped += usize::from(list.len() > 3 && erased.iter().all(|(.., seqs)| seqs.len() == 1));
                }
            }
        }
        assert!(dropped > 1_000, "{dropped}");
    }

    /// Thousands of deletes of one range cost what one does, and their memory is known.
    #[test]
    fn deletes_that_cover_each_other_do_not_pile_up() {
        let (mut erased, readers) = (RangeTombstones::default(), Readers::default());
        for n in 0..2_000u64 {
            let key = format!("key{n:06}").into_bytes();
            erased.insert_newest(&key, &[key.as_slice(), b"x"].concat(), SeqNo(2 * n + 1), &readers);
            erased.insert_newest(b"a", b"z", SeqNo(2 * n + 2), &readers);
        }
        assert_eq!(erased.iter().count(), 1);
        assert!(erased.size_bytes() < 1 << 10);
        for n in 0..2_000u64 {
            let key = format!("key{n:06}").into_bytes();
            erased.insert_newest(&key, &[key.as_slice(), b"x"].concat(), SeqNo(5_000 + n), &readers);
        }
        let bytes = erased.size_bytes();
        assert!((4_000 * 254..4_100 * 294).contains(&bytes), "{bytes}");
    }

    #[test]
    fn merging_clips_to_the_bounds() {
        let mut all = RangeTombstones::default();
        all.insert(&Bytes::from_static(b"a"), &Bytes::from_static(b"m"), SeqNo(5));
        let mut part = RangeTombstones::default();
        part.merge(&all, b"c", b"f");
        let found: Vec<_> = part.iter().map(|(start, end, seqs)| (&start[..], &end[..], seqs)).collect();
        assert_eq!(found, [(b"c".as_slice(), b"f".as_slice(), [SeqNo(5)].as_slice())]);
    }

    /// Cut where it says, the pieces are whole together, and none but one of a single fragment is larger than asked for.
    #[test]
    fn pieces_add_up_and_are_bounded() {
        let mut cuts_seen = 0;
        for seed in 0..300u64 {
            let (rng, mut all) = (Rng::new(seed), RangeTombstones::default());
            for seq in 1..40u64 {
                let key = || Bytes::from(format!("{:03}", rng.next() % 200));
                all.insert(&key(), &key(), SeqNo(seq));
            }
            let size = |part: &RangeTombstones| -> usize {
                part.iter().map(|(start, end, seqs)| (start.len() + end.len() + 8) * seqs.len()).sum()
            };
            let largest =
                all.iter().map(|(start, end, seqs)| (start.len() + end.len() + 8) * seqs.len()).max();
            let bytes = 1 + rng.next() % 600;
            let (mut whole, mut count, mut cut) = (RangeTombstones::default(), 0, Bytes::new());
            loop {
                let next = all.cut_after(&cut, bytes);
                let mut piece = RangeTombstones::default();
                piece.merge(&all, &cut, next.as_deref().unwrap_or_default());
                assert!(size(&piece) < bytes as usize + largest.unwrap_or(0), "seed {seed}");
                count += piece.count();
                whole.merge(&piece, b"", b"");
                let Some(next) = next else { break };
                assert!(next > cut, "seed {seed}: a cut goes on");
                cuts_seen += 1;
                cut = next;
            }
            assert_eq!((whole, count), (all.clone(), all.count()), "seed {seed}");
        }
        assert!(cuts_seen > 1_000, "{cuts_seen}");
    }
}
