//! Which openings of a node's stores the directory's `IDENT` counts.
//!
//! A log counts its openings itself, and [`IDENT`](crate::node::identity) has the count that it is known to have reached: only that
//! distinguishes an older copy of a store from the store. On a full disk a start may leave either of them behind. Until both have this
//! start an older copy would pass for the store, and what had been acknowledged meanwhile would be lost with it in silence. So nothing
//! is: no client's write, and nothing that another store would count on. Reads go on, of what was acknowledged before.
//!
//! ```text
//! the log writes a record of this opening ─► IDENT is written with its count ─► the store acknowledges
//! ```
//!
//! All stores of a node share one, over its cores. The root core writes `IDENT` before it lets any core serve, so until it has tried,
//! everything counts: what a start writes for itself acknowledges nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// A share in what the stores of a node know of their openings. By default there is no `IDENT` that could count them.
#[derive(Clone, Debug, Default)]
pub struct Openings {
    node: Option<Arc<Counts>>,
    /// The number on the node of the store whose share it is.
    store: usize,
}

#[derive(Debug)]
struct Counts {
    stores: Vec<Count>,
    /// What kept `IDENT` from being written.
    short: OnceLock<String>,
}

#[derive(Debug)]
struct Count {
    /// The number of this opening; zero for a store that did not open.
    now: AtomicU64,
    /// How often the log has been opened, as far as that is durable.
    in_log: AtomicU64,
    /// The count in `IDENT`.
    in_ident: AtomicU64,
}

impl Openings {
    /// Those of a node with this many stores.
    pub fn of_node(stores: usize) -> Self {
        let count = |_| Count { now: 0.into(), in_log: 0.into(), in_ident: u64::MAX.into() };
        let counts = Counts { stores: (0..stores).map(count).collect(), short: OnceLock::new() };
        Self { node: Some(Arc::new(counts)), store: 0 }
    }

    /// The share of the store with number `store` on the node.
    #[must_use]
    pub fn of_store(&self, store: usize) -> Self {
        Self { node: self.node.clone(), store }
    }

    /// This is opening number `now` of the store, and its log counts `in_log` of them durably.
    pub fn opened(&self, now: u64, in_log: u64) {
        if let Some(count) = self.count() {
            count.now.store(now, Ordering::SeqCst);
            count.in_log.store(in_log, Ordering::SeqCst);
        }
    }

    /// Whether the store may acknowledge anything: no older copy of it would pass for it afterwards.
    pub fn is_counted(&self) -> bool {
        self.count().is_none_or(Count::is_counted)
    }

    /// What kept `IDENT` from being written, if that is known.
    pub fn short(&self) -> Option<&str> {
        self.node.as_ref()?.short.get().map(String::as_str)
    }

    /// How often the log of each store that has opened was opened, durably, by number on the node.
    pub fn in_logs(&self) -> Vec<(usize, u64)> {
        let counts = self.counts().iter().map(|count| count.in_log.load(Ordering::SeqCst));
        counts.enumerate().filter(|(_, in_log)| *in_log > 0).collect()
    }

    /// `IDENT` has these counts, by number of the store on the node, durably.
    pub fn confirmed(&self, counts: impl Iterator<Item = u64>) {
        for (count, in_ident) in self.counts().iter().zip(counts) {
            count.in_ident.store(in_ident, Ordering::SeqCst);
        }
    }

    /// `IDENT` could not be written, because of this.
    pub fn lacks(&self, what: String) {
        if let Some(node) = &self.node {
            // The first reason is as good as the next one.
            node.short.get_or_init(|| what);
        }
    }

    /// Whether each store that has opened may acknowledge.
    pub fn all_counted(&self) -> bool {
        self.counts().iter().all(Count::is_counted)
    }

    fn counts(&self) -> &[Count] {
        self.node.as_ref().map_or(&[], |node| &node.stores)
    }

    fn count(&self) -> Option<&Count> {
        self.counts().get(self.store)
    }
}

impl Count {
    fn is_counted(&self) -> bool {
        self.in_ident.load(Ordering::SeqCst) >= self.now.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_acknowledges_when_log_and_ident_count_its_opening() {
        let node = Openings::of_node(3);
        let (first, second) = (node.of_store(0), node.of_store(1));
        first.opened(5, 5);
        // The log of this one had no room for a record, and store 3 did not open.
        second.opened(8, 7);
        assert!(first.is_counted() && second.is_counted(), "nothing serves before IDENT was tried");
        assert_eq!(node.in_logs(), [(0, 5), (1, 7)]);
        node.confirmed([4, 7, 2].into_iter());
        assert!(!first.is_counted() && !second.is_counted());
        node.confirmed([5, 7, 2].into_iter());
        assert!(first.is_counted() && !second.is_counted() && !node.all_counted());
        second.opened(8, 8);
        node.confirmed([5, 8, 2].into_iter());
        assert!(
            second.is_counted() && node.all_counted(),
            "a store that did not open keeps no other from it"
        );
    }

    #[test]
    fn without_ident_everything_counts() {
        let none = Openings::default();
        none.opened(3, 2);
        assert!(none.is_counted() && none.all_counted() && none.in_logs().is_empty());
    }
}
