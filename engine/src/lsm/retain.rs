//! Which entries of a rewrite a reader can still see: a pure rule.
//!
//! Readers read at the live snapshots and at "now". A version is seen by the readers from its own sequence number up to the
//! next newer thing that hides it, a version or a range delete. Without such a reader it goes. A delete goes, too, once every
//! reader sees it and nothing older lies below.

use super::chunk::EntryRef;
use super::erased::RangeTombstones;
use super::key::{Kind, SeqNo};

/// Decides entry by entry, in the order of entries.
#[derive(Debug)]
pub(crate) struct Retention {
    /// Sequence numbers of the live snapshots, ascending.
    snapshots: Vec<SeqNo>,
    erased: RangeTombstones,
    key: Vec<u8>,
    /// The next newer version of `key`.
    newer: Option<SeqNo>,
}

impl Retention {
    pub(crate) fn new(snapshots: Vec<SeqNo>, erased: RangeTombstones) -> Self {
        debug_assert!(snapshots.is_sorted());
        Self { snapshots, erased, key: Vec::new(), newer: None }
    }

    /// Whether `key` is another than that of the entry before.
    pub(crate) fn is_new_key(&self, key: &[u8]) -> bool {
        self.newer.is_none() || self.key != key
    }

    /// Whether to keep `entry`; `bottom` says whether nothing older of its key lies below.
    pub(crate) fn keep(&mut self, entry: &EntryRef<'_>, bottom: impl FnOnce() -> bool) -> bool {
        let newer = if self.newer.is_some() && self.key == entry.key { self.newer } else { None };
        if newer.is_none() {
            self.key.clear();
            self.key.extend_from_slice(entry.key);
        }
        self.newer = Some(entry.seq);
        let eraser = self.erased.oldest_covering_above(entry.key, entry.seq);
        let hidden_from = match (newer, eraser) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if !self.is_read(entry.seq, hidden_from) {
            return false;
        }
        entry.kind == Kind::Put || self.oldest_read() < entry.seq || !bottom()
    }

    /// The range deletes to keep; `bottom` says whether nothing lies below a range.
    pub(crate) fn keep_erased(&self, bottom: impl Fn(&[u8], &[u8]) -> bool) -> RangeTombstones {
        let mut kept = RangeTombstones::default();
        for (start, end, seqs) in self.erased.iter() {
            let mut newer = None;
            for &seq in seqs {
                let done = self.oldest_read() >= seq && bottom(start, end);
                if self.is_read(seq, newer) && !done {
                    kept.insert(start, end, seq);
                }
                newer = Some(seq);
            }
        }
        kept
    }

    /// Whether a snapshot reads at `from` or above and below `until`.
    fn is_read(&self, from: SeqNo, until: Option<SeqNo>) -> bool {
        let Some(until) = until else { return true };
        let first = self.snapshots.partition_point(|snapshot| *snapshot < from);
        self.snapshots.get(first).is_some_and(|snapshot| *snapshot < until)
    }

    fn oldest_read(&self) -> SeqNo {
        self.snapshots.first().copied().unwrap_or(SeqNo::MAX)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(key: &str, seq: u64, kind: Kind) -> EntryRef<'_> {
        EntryRef { key: key.as_bytes(), seq: SeqNo(seq), kind, value: b"" }
    }

    fn kept(
        snapshots: &[u64],
        erased: &[(&str, &str, u64)],
        bottom: bool,
        entries: &[(&str, u64, Kind)],
    ) -> Vec<u64> {
        let mut tombstones = RangeTombstones::default();
        for (start, end, seq) in erased {
            let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
            tombstones.insert(&bytes(start), &bytes(end), SeqNo(*seq));
        }
        let mut retention = Retention::new(snapshots.iter().map(|s| SeqNo(*s)).collect(), tombstones);
        let all =
            entries.iter().filter(|(key, seq, kind)| retention.keep(&entry(key, *seq, *kind), || bottom));
        all.map(|(_, seq, _)| *seq).collect()
    }

    #[test]
    fn only_versions_that_a_snapshot_reads_stay() {
        let versions = [("a", 9, Kind::Put), ("a", 7, Kind::Put), ("a", 4, Kind::Put), ("b", 2, Kind::Put)];
        assert_eq!(kept(&[], &[], true, &versions), [9, 2]);
        assert_eq!(kept(&[8], &[], true, &versions), [9, 7, 2]);
        assert_eq!(kept(&[7], &[], true, &versions), [9, 7, 2]);
        assert_eq!(kept(&[6], &[], true, &versions), [9, 4, 2]);
        assert_eq!(kept(&[3], &[], true, &versions), [9, 2]);
    }

    #[test]
    fn deletes_leave_at_the_bottom_once_every_snapshot_sees_them() {
        let versions = [("a", 9, Kind::Delete), ("a", 4, Kind::Put)];
        assert_eq!(kept(&[], &[], true, &versions), [0u64; 0]);
        assert_eq!(kept(&[], &[], false, &versions), [9]);
        assert_eq!(kept(&[5], &[], true, &versions), [9, 4]);
        assert_eq!(kept(&[9], &[], true, &versions), [0u64; 0]);
        assert_eq!(kept(&[3], &[], true, &versions), [9]);
    }

    #[test]
    fn range_deletes_hide_what_is_older() {
        let versions = [("b", 9, Kind::Put), ("b", 4, Kind::Put), ("c", 3, Kind::Put)];
        assert_eq!(kept(&[], &[("a", "c", 6)], true, &versions), [9, 3]);
        assert_eq!(kept(&[5], &[("a", "c", 6)], true, &versions), [9, 4, 3]);
        assert_eq!(kept(&[], &[("a", "d", 12)], true, &versions), [0u64; 0]);
    }

    #[test]
    fn range_deletes_stay_while_they_hide_something() {
        let mut tombstones = RangeTombstones::default();
        let (a, c) = (Bytes::from_static(b"a"), Bytes::from_static(b"c"));
        tombstones.insert(&a, &c, SeqNo(6));
        tombstones.insert(&a, &c, SeqNo(9));
        let count = |snapshots: &[u64], bottom: bool| {
            let snapshots = snapshots.iter().map(|s| SeqNo(*s)).collect();
            let kept = Retention::new(snapshots, tombstones.clone()).keep_erased(|_, _| bottom);
            kept.iter().map(|(_, _, seqs)| seqs.len()).sum::<usize>()
        };
        assert_eq!(count(&[], true), 0);
        assert_eq!(count(&[], false), 1);
        assert_eq!(count(&[7], false), 2);
        assert_eq!(count(&[7], true), 1);
        assert_eq!(count(&[5], true), 1);
    }
}
