//! The group's log as the core sees it: which entries are still in memory, and how far the log is written, committed
//! and applied. Entries that left memory are asked of the driver; their terms never are (`terms.rs`).
//!
//! Invariants, asserted by [`Log::check`]:
//! - base <= stable <= submitted <= last, and base <= applied <= handed <= committed <= last;
//! - handed <= stable, so the applied state never runs ahead of the local log on disk;
//! - the tail is contiguous, ends at last, and holds every entry above min(stable, committed) that this process
//!   appended;
//! - changes lists exactly the membership entries above applied, ascending.

use std::collections::VecDeque;
use std::ops::Range;

use crate::entry::{Entry, EntryKind};
use crate::id::{Index, LogId, Term};
use crate::planted;
use crate::terms::Terms;

/// What a driver found in its log at start: fed entry by entry, in order, without the payloads.
#[derive(Clone, Debug, Default)]
pub struct LogSummary {
    terms: Terms,
    changes: Vec<Index>,
    gap: bool,
}

impl LogSummary {
    /// An empty log that starts after `base` (the last entry cut off or covered by the snapshot).
    #[must_use]
    pub fn after(base: LogId) -> Self {
        Self { terms: Terms::after(base), ..Self::default() }
    }

    /// Adds the next entry. An entry at or below the end replaces everything from its index on, as it does on disk.
    pub fn push(&mut self, id: LogId, kind: EntryKind) {
        if id.index <= self.terms.base().index {
            return;
        }
        if id.index <= self.last_id().index {
            self.terms.truncate(id.index);
            self.changes.retain(|index| *index < id.index);
        }
        if id.index != self.last_id().index.next() || id.term < self.last_id().term {
            self.gap = true;
            return;
        }
        self.terms.push(id.term);
        if kind == EntryKind::Membership {
            self.changes.push(id.index);
        }
    }

    /// The last entry, or base.
    #[must_use]
    pub const fn last_id(&self) -> LogId {
        self.terms.last()
    }

    /// Whether an index was missing or a term went back: the log is damaged.
    #[must_use]
    pub const fn is_damaged(&self) -> bool {
        self.gap
    }
}

/// What became of entries offered by a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// The log now holds them.
    Taken,
    /// They contradict a committed entry: the sender is broken.
    AgainstCommitted,
}

#[derive(Clone, Debug)]
pub(crate) struct Log {
    terms: Terms,
    tail: VecDeque<Entry>,
    tail_bytes: u64,
    submitted: Index,
    stable: Index,
    committed: Index,
    handed: Index,
    handed_bytes: u64,
    applied: Index,
    changes: Vec<Index>,
    /// Acknowledgements of writes before this one say nothing about entries: the log was cut since.
    trusted_from: u64,
}

impl Log {
    pub(crate) fn new(summary: LogSummary, applied: Index, committed: Index) -> Self {
        let LogSummary { mut terms, mut changes, .. } = summary;
        terms.release();
        changes.retain(|index| *index > applied);
        changes.shrink_to_fit();
        let last = terms.last().index;
        Self {
            terms,
            tail: VecDeque::new(),
            tail_bytes: 0,
            submitted: last,
            stable: last,
            committed,
            handed: applied,
            handed_bytes: 0,
            applied,
            changes,
            trusted_from: 0,
        }
    }

    pub(crate) const fn base_of(summary: &LogSummary) -> LogId {
        summary.terms.base()
    }

    pub(crate) const fn base(&self) -> LogId {
        self.terms.base()
    }
    pub(crate) const fn last(&self) -> Index {
        self.terms.last().index
    }
    pub(crate) const fn stable(&self) -> Index {
        self.stable
    }
    pub(crate) const fn committed(&self) -> Index {
        self.committed
    }
    pub(crate) const fn applied(&self) -> Index {
        self.applied
    }

    pub(crate) const fn last_id(&self) -> LogId {
        self.terms.last()
    }

    pub(crate) fn committed_id(&self) -> LogId {
        LogId { term: self.term(self.committed).unwrap_or_default(), index: self.committed }
    }

    /// The term of the entry at `index`; `None` below the base and above the end.
    pub(crate) fn term(&self, index: Index) -> Option<Term> {
        self.terms.of(index)
    }

    pub(crate) fn holds(&self, id: LogId) -> bool {
        self.term(id.index) == Some(id.term)
    }

    /// The last entry at or below `at.index` whose term is at most `at.term`: where logs may agree at best.
    pub(crate) fn agree_at_most(&self, at: LogId) -> LogId {
        self.terms.agree_at_most(at)
    }

    /// Whether a committed membership change waits to be applied.
    pub(crate) fn has_committed_change(&self) -> bool {
        self.changes.first().is_some_and(|index| *index <= self.committed)
    }

    /// Whether any membership change, committed or not, waits to be applied.
    pub(crate) fn has_change(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Adds one entry at the end.
    pub(crate) fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index, self.last().next());
        self.terms.push(entry.term);
        if entry.kind == EntryKind::Membership {
            self.changes.push(entry.index);
        }
        self.tail_bytes += entry.bytes();
        if self.tail.capacity() == 0 {
            // Many groups never hold more than the entry that opens a term.
            self.tail.reserve_exact(1);
        }
        self.tail.push_back(entry);
    }

    /// Takes entries that follow an entry this log holds. Only the first real conflict truncates: late and
    /// duplicated messages must not cut entries that were matched since. `next_write` is the number of the next
    /// write.
    pub(crate) fn offer(&mut self, entries: Vec<Entry>, next_write: u64) -> Offer {
        let fresh = entries.iter().position(|entry| !self.holds(entry.id()));
        let Some(fresh) = fresh else { return Offer::Taken };
        let first = entries[fresh].index;
        if first <= self.committed {
            return Offer::AgainstCommitted;
        }
        if first <= self.last() {
            self.truncate(first, next_write);
        }
        for entry in entries.into_iter().skip(fresh) {
            self.push(entry);
        }
        Offer::Taken
    }

    fn truncate(&mut self, from: Index, next_write: u64) {
        assert!(from > self.committed, "a committed entry would be cut at {from}");
        if from <= self.submitted {
            self.trusted_from = next_write;
        }
        let kept = self.tail.len().min(from.0.saturating_sub(self.tail_first().0) as usize);
        self.forget(kept..self.tail.len());
        self.terms.truncate(from);
        self.submitted = self.submitted.min(from.prev());
        self.stable = self.stable.min(from.prev());
        self.changes.retain(|index| *index < from);
    }

    /// Cuts everything after `index`: a mistake that the tests plant.
    pub(crate) fn cut_after(&mut self, index: Index, next_write: u64) {
        if index < self.last() {
            self.truncate(index.next(), next_write);
        }
    }

    /// Replaces everything by a snapshot that ends at `last`.
    pub(crate) fn restore(&mut self, last: LogId, next_write: u64) {
        *self =
            Self { trusted_from: next_write, ..Self::new(LogSummary::after(last), last.index, last.index) };
    }

    /// Forgets the entries up to `index`, which the driver has cut from its log.
    pub(crate) fn compact(&mut self, index: Index) {
        let index = index.min(self.applied).min(self.stable);
        if index <= self.base().index {
            return;
        }
        self.terms.compact(index);
        let gone = index.next().0.saturating_sub(self.tail_first().0) as usize;
        self.forget(0..gone.min(self.tail.len()));
    }

    /// Drops entries at one end of the tail from memory.
    fn forget(&mut self, range: Range<usize>) {
        self.tail_bytes -= self.tail.range(range.clone()).map(Entry::bytes).sum::<u64>();
        self.tail.drain(range);
    }

    fn tail_first(&self) -> Index {
        Index(self.last().0 + 1 - self.tail.len() as u64)
    }

    /// Copies of the entries from `first` on, as many as fit `bytes_max` but at least one, none above `upto`;
    /// `None` if the first has left memory.
    pub(crate) fn copy(&self, first: Index, upto: Index, bytes_max: u64) -> Option<Vec<Entry>> {
        let tail_first = self.tail_first();
        let skip = usize::try_from(first.0.checked_sub(tail_first.0)?).ok()?.min(self.tail.len());
        let most = usize::try_from((upto.0 + 1).saturating_sub(first.0)).unwrap_or(usize::MAX);
        let (mut bytes, mut count) = (0, 0);
        for entry in self.tail.range(skip..).take(most) {
            bytes += entry.bytes();
            if count > 0 && bytes > bytes_max {
                break;
            }
            count += 1;
        }
        let mut copies = Vec::with_capacity(count);
        copies.extend(self.tail.range(skip..skip + count).cloned());
        Some(copies)
    }

    /// Payload bytes of the in-memory entries of `term` within `(after, upto]`.
    pub(crate) fn payload_bytes(&self, after: Index, upto: Index, term: Term) -> u64 {
        let tail_first = self.tail_first().max(after.next());
        let skip = (tail_first.0 - self.tail_first().0) as usize;
        let upto = upto.min(self.last());
        if upto < tail_first {
            return 0;
        }
        let count = (upto.0 + 1 - tail_first.0) as usize;
        let entries = self.tail.range(skip..skip + count);
        entries.filter(|entry| entry.term == term).map(|entry| entry.payload.len() as u64).sum()
    }

    /// The last entry that is only on disk.
    pub(crate) fn last_outside_memory(&self) -> Index {
        self.tail_first().prev()
    }

    /// Heap memory in use, payloads aside.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.terms.heap_bytes()
            + self.tail.capacity() * size_of::<Entry>()
            + self.changes.capacity() * size_of::<Index>()
    }

    pub(crate) fn has_unsubmitted(&self) -> bool {
        self.submitted < self.last()
    }

    /// The entries that no write carries yet; they count as handed over from now on.
    pub(crate) fn submit(&mut self) -> Vec<Entry> {
        let entries = self.copy(self.submitted.next(), self.last(), u64::MAX).unwrap_or_default();
        self.submitted = self.last();
        entries
    }

    /// Write number `write` is durable and ended at `last`.
    pub(crate) fn written(&mut self, write: u64, last: LogId) {
        let current = write >= self.trusted_from && self.holds(last);
        if current || planted!(AckSurvivesTruncation) {
            self.stable = self.stable.max(last.index.min(self.submitted));
        }
    }

    /// Raises the commit index, never beyond the end of the log. Whether it moved.
    pub(crate) fn commit_to(&mut self, index: Index) -> bool {
        let index = index.min(self.last());
        let moved = index > self.committed;
        if moved {
            self.committed = index;
        }
        moved
    }

    /// The range that may be applied next.
    pub(crate) fn appliable(&self, bytes_max: u64) -> Option<(Index, Index)> {
        let upto =
            if planted!(ApplyBeforeDurable) { self.committed } else { self.committed.min(self.stable) };
        (upto > self.handed && (self.handed == self.applied || self.handed_bytes < bytes_max))
            .then(|| (self.handed.next(), upto))
    }

    /// The last entry that was handed out for apply.
    pub(crate) const fn handed(&self) -> Index {
        self.handed
    }

    /// Hands out `count` entries of `bytes` for apply.
    pub(crate) fn hand_out(&mut self, upto: Index, bytes: u64) {
        self.handed = upto;
        self.handed_bytes += bytes;
    }

    /// The driver has applied everything up to `index`.
    pub(crate) fn applied_to(&mut self, index: Index) {
        if index <= self.applied || index > self.handed {
            return;
        }
        self.applied = index;
        if self.applied == self.handed {
            self.handed_bytes = 0;
        }
        self.changes.retain(|change| *change > index);
    }

    /// Drops entries from memory that the disk has and the group has agreed on, down to `bytes_max`.
    pub(crate) fn trim(&mut self, bytes_max: u64) {
        let spare = self.stable.min(self.committed);
        while self.tail_bytes > bytes_max
            && let Some(entry) = self.tail.pop_front_if(|entry| entry.index <= spare)
        {
            self.tail_bytes -= entry.bytes();
        }
        if self.tail.is_empty() && bytes_max == 0 {
            self.tail = VecDeque::new();
            self.changes.shrink_to_fit();
            self.terms.release();
        }
    }

    /// Asserts the invariants in the module docs.
    pub(crate) fn check(&self) {
        self.terms.check();
        let (base, last) = (self.base().index, self.last());
        assert!(base <= self.stable, "stable below base: {self:?}");
        assert!(self.stable <= self.submitted && self.submitted <= last, "stable, submitted, last: {self:?}");
        assert!(base <= self.applied && self.applied <= self.handed, "base, applied, handed: {self:?}");
        assert!(self.handed <= self.committed && self.committed <= last, "handed, committed, last: {self:?}");
        assert!(
            planted!(ApplyBeforeDurable) || self.handed <= self.stable,
            "applied state ahead of the disk: {self:?}"
        );
        if let (Some(first), Some(end)) = (self.tail.front(), self.tail.back()) {
            assert!(end.index == last && first.index == self.tail_first(), "tail: {self:?}");
        }
        assert!(self.submitted.next() >= self.tail_first(), "an unsubmitted entry left memory: {self:?}");
        assert!(self.changes.first().is_none_or(|index| *index > self.applied), "changes: {self:?}");
        assert!(self.changes.last().is_none_or(|index| *index <= last), "changes: {self:?}");
    }
}
