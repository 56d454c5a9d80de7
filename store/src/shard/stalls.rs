//! When writers have to wait for flushes and compactions, for the log: each stretch is logged when it begins and when it has ended.
//!
//! A turn that waits begins a stretch. The end is noticed by that turn where writers were stopped, else by the upkeep within a second,
//! so that a rate that comes and goes makes no line per turn. A store that stops says so itself; its stretches have no end.

use std::cell::Cell;
use std::time::Duration;

use engine::lsm::Tree;
use engine::rt::Mono;
use scheduler::StoreId;

/// What of the two goes on in one store.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    delayed: Cell<Option<Delayed>>,
    /// Since when nothing may be written.
    stopped: Cell<Option<Mono>>,
}

/// Writers are slowed down.
#[derive(Clone, Copy, Debug)]
struct Delayed {
    since: Mono,
    /// How long writers had waited before.
    waited_before: Duration,
}

impl Stalls {
    /// A turn is slowed down.
    pub(super) fn delayed(&self, store: StoreId, tree: &Tree, now: Mono) {
        if self.delayed.get().is_some() {
            return;
        }
        let stats = tree.stats();
        self.delayed.set(Some(Delayed { since: now, waited_before: stats.write_delay }));
        tracing::warn!(
            store = store.0,
            bytes_per_second_max = stats.write_bytes_per_second_max,
            compaction_debt_bytes = stats.pending_compaction_bytes,
            closed_memtables = stats.closed_memtables,
            "writes are slowed down, because flushes or compactions are behind"
        );
    }

    /// A turn may not write.
    pub(super) fn stopped(&self, store: StoreId, tree: &Tree, now: Mono) {
        if self.stopped.get().is_some() {
            return;
        }
        self.stopped.set(Some(now));
        let stats = tree.stats();
        tracing::warn!(
            store = store.0,
            compaction_debt_bytes = stats.pending_compaction_bytes,
            closed_memtables = stats.closed_memtables,
            short_of = ?tree.shortage(),
            "writes are stopped, because flushes or compactions are too far behind"
        );
    }

    /// Notices what has ended.
    pub(super) fn look(&self, store: StoreId, tree: &Tree, now: Mono) {
        if let Some(since) = self.stopped.get().filter(|_| !tree.is_stopped()) {
            self.stopped.set(None);
            let stopped_ms = now.since(since).as_millis() as u64;
            tracing::info!(store = store.0, stopped_ms, "writes go on");
        }
        let Some(Delayed { since, waited_before }) = self.delayed.get() else { return };
        let stats = tree.stats();
        if stats.write_bytes_per_second_max == 0 {
            self.delayed.set(None);
            tracing::info!(
                store = store.0,
                lasted_ms = now.since(since).as_millis() as u64,
                waited_ms = (stats.write_delay - waited_before).as_millis() as u64,
                "writes are not slowed down any more"
            );
        }
    }
}
