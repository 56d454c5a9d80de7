//! The versions of one key, newest first, each leading to the next older one.
//!
//! An overwrite puts a version in front and at the same time unlinks what no reader will see: a version is seen at the moments
//! from its own sequence number up to that of the next newer one, and if none of them is a reader's ([`Readers`]), none ever
//! will be, because every moment to come sees the version in front or a newer one. So keys that are written often neither
//! hold up scans nor are flushed many times over.
//!
//! Range deletes do not matter here. Whether one hides a version depends on sequence numbers alone, and every read compares
//! it with the newest version at or below its moment. An unlinked version is that to no reader. A rewrite asks which readers
//! see a version before a newer one hides it, and it finds the same ones above a gap as above what lay there, because no reader
//! reads inside the gap.
//!
//! Invariant: right after an overwrite a chain has the new version and, per reader, the one that it sees. So a chain is at
//! most one longer than the number of moments that were read then. An overwrite costs a step per version that it leaves or
//! unlinks, and none at all without readers of the past.

use super::arena::{Arena, KeyPlace, Version, VersionPlace};
use crate::lsm::key::SeqNo;
use crate::lsm::readers::Readers;

impl Arena {
    /// Puts `version`, the newest of all, in front of the others of its key.
    pub(super) fn overwrite(
        &mut self,
        key: KeyPlace,
        version: Version<'_>,
        readers: &Readers,
    ) -> VersionPlace {
        let older = self.unlink_unread(key, version.seq, readers);
        let newest = self.push_version(version, older);
        self.set_newest(key, newest);
        newest
    }

    /// The version that a read at `at` sees of those from `newest` on.
    pub(super) fn seen(&self, newest: VersionPlace, at: SeqNo) -> Option<Version<'_>> {
        self.seen_from(Some(newest), at).map(|place| self.version(place))
    }

    /// All versions that are linked, newest first.
    pub(super) fn versions(&self, key: KeyPlace) -> impl Iterator<Item = Version<'_>> {
        let places = std::iter::successors(Some(self.newest(key)), |place| self.older(*place));
        places.map(|place| self.version(place))
    }

    /// Leaves of a key's versions those that a reader sees although one at `next` follows; says which is the newest.
    fn unlink_unread(&mut self, key: KeyPlace, next: SeqNo, readers: &Readers) -> Option<VersionPlace> {
        // Mostly there is no reader of the past, and then nothing of it need be looked at.
        let reader = readers.newest_below(next)?;
        let first = self.seen_from(Some(self.newest(key)), reader)?;
        let mut kept = first;
        loop {
            let seq = self.version(kept).seq;
            let reader = readers.newest_below(seq);
            let older = reader.and_then(|reader| self.seen_from(self.older(kept), reader));
            self.set_older(kept, older);
            let Some(older) = older else { return Some(first) };
            kept = older;
        }
    }

    /// The newest version at or below `at` of those from `place` on.
    fn seen_from(&self, mut place: Option<VersionPlace>, at: SeqNo) -> Option<VersionPlace> {
        while let Some(newer) = place.filter(|place| self.version(*place).seq > at) {
            place = self.older(newer);
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsm::key::Kind;

    fn version(seq: u64) -> Version<'static> {
        Version { seq: SeqNo(seq), kind: Kind::Put, value: b"" }
    }

    /// What is left of versions 10, 20, …, 90 of a key, all of which were read once, when 100 is written.
    fn left(moments: &[u64]) -> Vec<u64> {
        let mut arena = Arena::default();
        let key = arena.push_key(b"key", version(10)).0;
        let mut readers = Readers::default();
        for seq in (20..100).step_by(10) {
            readers.enter(SeqNo(seq - 1));
            arena.overwrite(key, version(seq), &readers);
        }
        assert_eq!(arena.versions(key).count(), 9);
        let mut readers = Readers::default();
        moments.iter().for_each(|moment| readers.enter(SeqNo(*moment)));
        arena.overwrite(key, version(100), &readers);
        arena.versions(key).map(|version| version.seq.0).collect()
    }

    #[test]
    fn an_overwrite_leaves_what_a_snapshot_reads() {
        assert_eq!(left(&[]), [100]);
        assert_eq!(left(&[9]), [100], "before the first");
        assert_eq!(left(&[10]), [100, 10], "a read at 10 sees 10");
        assert_eq!(left(&[19]), [100, 10]);
        assert_eq!(left(&[90]), [100, 90]);
        assert_eq!(left(&[99]), [100, 90], "a read at 99 does not see 100");
        assert_eq!(left(&[9, 30, 35, 39, 71]), [100, 70, 30]);
        assert_eq!(left(&[15, 25, 35, 45, 55, 65, 75, 85, 95]), [100, 90, 80, 70, 60, 50, 40, 30, 20, 10]);
    }

    #[test]
    fn a_chain_is_no_longer_than_its_readers_and_one() {
        let mut arena = Arena::default();
        let key = arena.push_key(b"key", version(1)).0;
        let mut readers = Readers::default();
        for seq in 2..1000 {
            // Each overwrite meets three readers, none of them for long, so that no version stays for good.
            readers.enter(SeqNo(seq - 1));
            if seq > 4 {
                readers.leave(SeqNo(seq - 4));
            }
            arena.overwrite(key, version(seq), &readers);
            assert!(arena.versions(key).count() <= 4, "at {seq}");
        }
        let seen: Vec<u64> =
            readers.moments().map(|moment| arena.seen(arena.newest(key), moment).unwrap().seq.0).collect();
        assert_eq!(seen, [997, 998, 999].map(|seq| seq - 1));
    }
}
