//! What the replicas of a simulated cluster apply: at one index of a region the same entry everywhere.
//!
//! A run begins to watch on its thread (`begin`), and every entry that a replica applies from then on is compared with the first one that
//! was applied at its place. A production build has none of this.

#[cfg(any(test, feature = "sim"))]
mod watching {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry as Place;

    use raft::{Entry, EntryKind, Index, Term};
    use scheduler::RegionId;

    /// Everything of an entry but its place.
    type What = (Term, EntryKind, Vec<u8>);

    #[derive(Default)]
    struct Seen {
        entries: BTreeMap<(RegionId, Index), What>,
        contradiction: Option<String>,
    }

    thread_local! {
        static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
    }

    /// Watches another cluster from now on, or none.
    pub fn begin(watch: bool) {
        SEEN.set(watch.then(Seen::default));
    }

    /// The first two entries that differ at one place.
    pub fn contradiction() -> Option<String> {
        SEEN.with_borrow(|seen| seen.as_ref().and_then(|seen| seen.contradiction.clone()))
    }

    /// How many entries of the log were seen, each once.
    pub fn entries() -> usize {
        SEEN.with_borrow(|seen| seen.as_ref().map_or(0, |seen| seen.entries.len()))
    }

    /// A replica applies an entry.
    pub(crate) fn applies(region: RegionId, entry: &Entry) {
        SEEN.with_borrow_mut(|seen| {
            let Some(Seen { entries, contradiction }) = seen else { return };
            let now: What = (entry.term, entry.kind, entry.payload.to_vec());
            match entries.entry((region, entry.index)) {
                Place::Vacant(place) => {
                    place.insert(now);
                }
                Place::Occupied(first) if *first.get() != now => {
                    let shown = |(term, kind, payload): &What| {
                        format!("{kind:?} of term {term} with {} bytes", payload.len())
                    };
                    contradiction.get_or_insert_with(|| {
                        let (first, now) = (shown(first.get()), shown(&now));
                        format!(
                            "at index {} of {region} one replica applied {first}, another one {now}",
                            entry.index
                        )
                    });
                }
                Place::Occupied(_same) => {}
            }
        });
    }
}

#[cfg(any(test, feature = "sim"))]
pub(crate) use watching::applies;
#[cfg(any(test, feature = "sim"))]
pub use watching::{begin, contradiction, entries};

#[cfg(not(any(test, feature = "sim")))]
pub(crate) const fn applies(_: scheduler::RegionId, _: &raft::Entry) {}

#[cfg(test)]
mod tests {
    use raft::{Entry, EntryKind, Index, Payload, Term};
    use scheduler::RegionId;

    use super::{applies, begin, contradiction, entries};

    fn entry(index: u64, term: u64, text: &str) -> Entry {
        let payload = Payload::from(text.as_bytes().to_vec());
        Entry { index: Index(index), term: Term(term), kind: EntryKind::Normal, payload }
    }

    #[test]
    fn two_entries_at_one_place_contradict_each_other() {
        applies(RegionId(1), &entry(1, 1, "before it begins"));
        begin(true);
        for (region, index) in [(1, 7), (2, 7), (1, 8), (1, 7)] {
            applies(RegionId(region), &entry(index, 3, "same"));
        }
        assert_eq!((contradiction(), entries()), (None, 3));
        applies(RegionId(1), &entry(8, 4, "same"));
        assert!(contradiction().is_some_and(|what| what.contains("index 8")));
        begin(true);
        applies(RegionId(1), &entry(8, 4, "one"));
        applies(RegionId(1), &entry(8, 4, "two"));
        assert!(contradiction().is_some());
        begin(false);
        assert_eq!((contradiction(), entries()), (None, 0));
    }
}
