//! Which term each entry of a log has, in a few bytes however long the log is: no question about a term ever needs the
//! disk.
//!
//! Leaders change seldom, so a log is a few *runs* of entries of one term. The newest run is kept in line: nearly
//! every question is about it, and an idle group has no other.
//!
//! Invariants, asserted by [`Terms::check`]:
//! - runs ascend strictly in both index and term, and the older ones begin above base;
//! - what lies between base and the first of them has the term of base.

use crate::id::{Index, LogId, Term};

/// Entries of one term that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Run {
    first: Index,
    term: Term,
}

impl Run {
    /// The run of a log that is empty after `base`.
    const fn of(base: LogId) -> Self {
        Self { first: base.index, term: base.term }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    base: LogId,
    last: Index,
    /// The run of the last entry, or of base if there is none.
    newest: Run,
    older: Vec<Run>,
}

impl Terms {
    /// A log that is empty after `base`.
    pub(crate) const fn after(base: LogId) -> Self {
        Self { base, last: base.index, newest: Run::of(base), older: Vec::new() }
    }

    pub(crate) const fn base(&self) -> LogId {
        self.base
    }

    pub(crate) const fn last(&self) -> LogId {
        LogId { term: self.newest.term, index: self.last }
    }

    /// The term of the entry at `index`; `None` below the base and above the end.
    pub(crate) fn of(&self, index: Index) -> Option<Term> {
        if index > self.last || index < self.base.index {
            return None;
        }
        if index >= self.newest.first {
            return Some(self.newest.term);
        }
        let after = self.older.partition_point(|run| run.first <= index);
        Some(if after == 0 { self.base.term } else { self.older[after - 1].term })
    }

    /// The last entry at or below `at.index` whose term is at most `at.term`: where logs may agree at best.
    pub(crate) fn agree_at_most(&self, at: LogId) -> LogId {
        let index = at.index.min(self.last);
        if index < self.base.index {
            return LogId::ZERO;
        }
        let mut end = self.last;
        for run in [&self.newest].into_iter().chain(self.older.iter().rev()) {
            if run.first <= index && run.term <= at.term {
                return LogId { term: run.term, index: index.min(end) };
            }
            end = run.first.prev();
        }
        if self.base.term <= at.term {
            return LogId { term: self.base.term, index: index.min(end) };
        }
        LogId::ZERO
    }

    /// Adds the entry after the last one.
    pub(crate) fn push(&mut self, term: Term) {
        self.last = self.last.next();
        if self.newest.term != term {
            let before = std::mem::replace(&mut self.newest, Run { first: self.last, term });
            if before.first > self.base.index {
                self.older.push(before);
            }
        }
    }

    /// Cuts the entries from `from` on, which lies above base.
    pub(crate) fn truncate(&mut self, from: Index) {
        debug_assert!(from > self.base.index);
        self.last = self.last.min(from.prev());
        while self.newest.first >= from {
            self.newest = self.older.pop().unwrap_or_else(|| Run::of(self.base));
        }
    }

    /// Makes the entry at `index` the new base.
    pub(crate) fn compact(&mut self, index: Index) {
        let Some(term) = self.of(index) else { return };
        self.base = LogId { term, index };
        self.older.drain(..self.older.partition_point(|run| run.first <= index));
    }

    /// Heap memory in use.
    pub(crate) const fn heap_bytes(&self) -> usize {
        self.older.capacity() * size_of::<Run>()
    }

    /// Gives back spare memory.
    pub(crate) fn release(&mut self) {
        self.older.shrink_to_fit();
    }

    /// Asserts the invariants in the module docs.
    pub(crate) fn check(&self) {
        let (base, newest) = (self.base, self.newest);
        let runs: Vec<_> = self.older.iter().chain([&newest]).collect();
        assert!(runs.is_sorted_by(|a, b| a.first < b.first && a.term < b.term), "runs: {self:?}");
        assert!(self.older.iter().all(|run| run.first > base.index), "a run at base or below: {self:?}");
        assert!(newest.first <= self.last && base.index <= self.last, "runs and end: {self:?}");
        assert!(runs[0].term >= base.term, "runs and base: {self:?}");
        assert!(newest.first > base.index || newest.term == base.term, "the run of base: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix;

    /// The same, as a list of terms that starts with base's.
    struct Model {
        base: u64,
        terms: Vec<u64>,
    }

    impl Model {
        fn id(&self, at: usize) -> LogId {
            LogId::new(self.terms[at], self.base + at as u64)
        }

        fn agree_at_most(&self, at: LogId) -> LogId {
            let fits = |id: &LogId| id.index <= at.index && id.term <= at.term;
            (0..self.terms.len()).rev().map(|i| self.id(i)).find(fits).unwrap_or(LogId::ZERO)
        }
    }

    #[test]
    fn terms_agree_with_a_list() {
        let mut rng = SplitMix::new(1, 2, 3);
        let mut real = Terms::default();
        let mut model = Model { base: 0, terms: vec![0] };
        for _ in 0..20_000 {
            let len = model.terms.len() as u32;
            match rng.below(10) {
                0 => {
                    let at = rng.below(len) as usize;
                    real.compact(model.id(at).index);
                    model = Model { base: model.base + at as u64, terms: model.terms.split_off(at) };
                }
                1 if len > 1 => {
                    let at = 1 + rng.below(len - 1) as usize;
                    real.truncate(model.id(at).index);
                    model.terms.truncate(at);
                }
                _ => {
                    let term = model.terms[model.terms.len() - 1] + u64::from(rng.below(4) / 3);
                    real.push(Term(term));
                    model.terms.push(term);
                }
            }
            real.check();
            assert_eq!(real.base(), model.id(0));
            assert_eq!(real.last(), model.id(model.terms.len() - 1));
            let asked = Index(model.base.saturating_sub(2) + u64::from(rng.below(len + 6)));
            let known = asked.0.checked_sub(model.base).and_then(|at| model.terms.get(at as usize));
            assert_eq!(real.of(asked), known.map(|term| Term(*term)), "{asked} of {real:?}");
            let lowest = model.terms[0].saturating_sub(2);
            let at = LogId { term: Term(lowest + u64::from(rng.below(6))), index: asked };
            assert_eq!(real.agree_at_most(at), model.agree_at_most(at), "{at} of {real:?}");
        }
    }
}
