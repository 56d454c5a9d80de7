//! Which entries of a rewrite a reader can still see: a pure rule.
//!
//! Readers read at the live snapshots and at "now". A version is seen by the readers from its own sequence number up to the
//! next newer thing that hides it, a version or a range delete. Without such a reader it goes. A delete goes, too, once every
//! reader sees it and nothing older lies below.
//!
//! A value that expired before a moment is a delete: every reader takes it for one. It goes as that, and where something older may lie
//! below it stays as that, or what it hides would be there again.

use super::chunk::EntryRef;
use super::erased::RangeTombstones;
use super::expiry::{WallMs, split};
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
    /// What expired by then is a delete.
    expired_by: WallMs,
    /// Values that went for that.
    expired: u64,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Goes,
    Stays,
    /// A delete takes its place.
    Deleted,
}

impl Retention {
    pub(crate) fn new(snapshots: Vec<SeqNo>, erased: RangeTombstones, expired_by: WallMs) -> Self {
        debug_assert!(snapshots.is_sorted());
        Self { snapshots, erased, key: Vec::new(), newer: None, expired_by, expired: 0 }
    }

    /// Values that went because they had expired.
    pub(crate) fn expired(&self) -> u64 {
        self.expired
    }

    /// Whether `key` is another than that of the entry before.
    pub(crate) fn is_new_key(&self, key: &[u8]) -> bool {
        self.newer.is_none() || self.key != key
    }

    /// What becomes of `entry`; `bottom` says whether nothing older of its key lies below.
    pub(crate) fn judge(&mut self, entry: &EntryRef<'_>, bottom: impl FnOnce() -> bool) -> Fate {
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
            return Fate::Goes;
        }
        let is_over =
            entry.kind == Kind::PutUntil && split(entry.kind, entry.value).0.is_over(self.expired_by);
        if entry.kind != Kind::Delete && !is_over {
            return Fate::Stays;
        }
        self.expired += u64::from(is_over);
        match self.oldest_read() >= entry.seq && bottom() {
            true => Fate::Goes,
            false if is_over => Fate::Deleted,
            false => Fate::Stays,
        }
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
        let snapshots = snapshots.iter().map(|s| SeqNo(*s)).collect();
        let mut retention = Retention::new(snapshots, tombstones, WallMs(100));
        let stays = |fate| match fate {
            Fate::Goes => false,
            Fate::Stays => true,
            Fate::Deleted => panic!("nothing here expires"),
        };
        let all = entries
            .iter()
            .filter(|(key, seq, kind)| stays(retention.judge(&entry(key, *seq, *kind), || bottom)));
        all.map(|(_, seq, _)| *seq).collect()
    }

    /// The fates of versions of one key, newest first, of which those with a moment expire.
    fn fates(snapshots: &[u64], bottom: bool, entries: &[(u64, Option<u64>)]) -> (Vec<Fate>, u64) {
        let snapshots = snapshots.iter().map(|s| SeqNo(*s)).collect();
        let mut retention = Retention::new(snapshots, RangeTombstones::default(), WallMs(100));
        let mut judge = |(seq, until): &(u64, Option<u64>)| {
            let (kind, value) = match until {
                Some(until) => (Kind::PutUntil, until.to_le_bytes().to_vec()),
                None => (Kind::Put, b"value".to_vec()),
            };
            retention.judge(&EntryRef { key: b"k", seq: SeqNo(*seq), kind, value: &value }, || bottom)
        };
        (entries.iter().map(&mut judge).collect(), retention.expired())
    }

    #[test]
    fn what_expired_long_ago_is_a_delete_and_uncovers_nothing() {
        use Fate::{Deleted, Goes, Stays};
        assert_eq!(fates(&[], true, &[(9, Some(101))]), (vec![Stays], 0), "not so long ago");
        assert_eq!(fates(&[], true, &[(9, Some(100))]), (vec![Goes], 1));
        assert_eq!(fates(&[], false, &[(9, Some(100))]), (vec![Deleted], 1), "an older one may lie below");
        assert_eq!(
            fates(&[], true, &[(9, Some(100)), (4, None)]),
            (vec![Goes, Goes], 1),
            "nor one in the same rewrite"
        );
        assert_eq!(
            fates(&[5], true, &[(9, Some(100)), (4, None)]),
            (vec![Deleted, Stays], 1),
            "which a snapshot reads"
        );
        assert_eq!(
            fates(&[], true, &[(9, None), (4, Some(100))]),
            (vec![Stays, Goes], 0),
            "it was overwritten"
        );
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
            let retention = Retention::new(snapshots, tombstones.clone(), WallMs::EPOCH);
            let kept = retention.keep_erased(|_, _| bottom);
            kept.iter().map(|(_, _, seqs)| seqs.len()).sum::<usize>()
        };
        assert_eq!(count(&[], true), 0);
        assert_eq!(count(&[], false), 1);
        assert_eq!(count(&[7], false), 2);
        assert_eq!(count(&[7], true), 1);
        assert_eq!(count(&[5], true), 1);
    }
}
