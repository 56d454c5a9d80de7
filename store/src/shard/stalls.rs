//! When writers have to wait for flushes and compactions, for the log: each stretch is logged when it begins and when it has ended.
//!
//! Under a load of large values a tree stops its writers for some milliseconds many times a second, and its rate comes and goes as often.
//! Lines of that would hide what matters, so a stop is logged once it has lasted for [`STOP_SAID_AFTER`], which the upkeep looks for once
//! a second, and a slower rate has ended once there was none for [`CALM_AFTER`]. All of it is in the metrics. A store that stops says so
//! itself; its stretches have no end.

use std::cell::Cell;
use std::time::Duration;

use engine::lsm::{Tree, TreeStats};
use engine::rt::Mono;
use scheduler::StoreId;

/// A shorter stop of writers is not logged.
const STOP_SAID_AFTER: Duration = Duration::from_millis(500);

/// How long writers have to be free to write as they like before they count as not slowed down.
const CALM_AFTER: Duration = Duration::from_secs(5);

/// What of the two goes on in one store.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    delayed: Cell<Option<Delayed>>,
    stopped: Cell<Option<Stopped>>,
}

/// Nothing may be written.
#[derive(Clone, Copy, Debug)]
struct Stopped {
    since: Mono,
    said: bool,
}

/// Writers are slowed down.
#[derive(Clone, Copy, Debug)]
struct Delayed {
    since: Mono,
    /// How long writers had waited before.
    waited_before: Duration,
    /// Since when there has been no limit on them.
    calm_since: Option<Mono>,
}

impl Stalls {
    /// A turn is slowed down.
    pub(super) fn delayed(&self, store: StoreId, tree: &Tree, now: Mono) {
        if self.delayed.get().is_some() {
            return;
        }
        let stats = tree.stats();
        self.delayed.set(Some(Delayed { since: now, waited_before: stats.write_delay, calm_since: None }));
        tracing::warn!(
            store = store.0,
            bytes_per_second_max = stats.write_bytes_per_second_max,
            compaction_debt_bytes = stats.pending_compaction_bytes,
            closed_memtables = stats.closed_memtables,
            level0_tables = level0_tables(&stats),
            "writes are slowed down, because flushes or compactions are behind"
        );
    }

    /// A turn may not write.
    pub(super) fn stopped(&self, now: Mono) {
        if self.stopped.get().is_none() {
            self.stopped.set(Some(Stopped { since: now, said: false }));
        }
    }

    /// The turn goes on.
    pub(super) fn goes_on(&self, store: StoreId, tree: &Tree, now: Mono) {
        let Some(stopped) = self.stopped.get() else { return };
        let stopped = say_if_long(stopped, store, tree, now);
        self.stopped.set(None);
        if stopped.said {
            let stopped_ms = now.since(stopped.since).as_millis() as u64;
            tracing::info!(store = store.0, stopped_ms, "writes go on");
        }
    }

    /// Notices what lasts and what has ended.
    pub(super) fn look(&self, store: StoreId, tree: &Tree, now: Mono) {
        if let Some(stopped) = self.stopped.get() {
            self.stopped.set(Some(say_if_long(stopped, store, tree, now)));
        }
        let Some(delayed) = self.delayed.get() else { return };
        let stats = tree.stats();
        let next = delayed.looked_at(stats.write_bytes_per_second_max > 0, now);
        self.delayed.set(next);
        if next.is_none() {
            let ended = delayed.calm_since.unwrap_or(now);
            tracing::info!(
                store = store.0,
                lasted_ms = ended.since(delayed.since).as_millis() as u64,
                waited_ms = (stats.write_delay - delayed.waited_before).as_millis() as u64,
                "writes are not slowed down any more"
            );
        }
    }
}

impl Delayed {
    /// The stretch after a look at `now`, or none once it has ended.
    fn looked_at(self, is_limited: bool, now: Mono) -> Option<Self> {
        if is_limited {
            return Some(Self { calm_since: None, ..self });
        }
        let calm_since = self.calm_since.unwrap_or(now);
        (now.since(calm_since) < CALM_AFTER).then_some(Self { calm_since: Some(calm_since), ..self })
    }
}

/// Logs a stop that has become long, once.
fn say_if_long(stopped: Stopped, store: StoreId, tree: &Tree, now: Mono) -> Stopped {
    if stopped.said || now.since(stopped.since) < STOP_SAID_AFTER {
        return stopped;
    }
    let stats = tree.stats();
    tracing::warn!(
        store = store.0,
        compaction_debt_bytes = stats.pending_compaction_bytes,
        closed_memtables = stats.closed_memtables,
        level0_tables = level0_tables(&stats),
        short_of = ?tree.shortage(),
        "writes are stopped, because flushes or compactions are too far behind"
    );
    Stopped { said: true, ..stopped }
}

/// Many of them stop writers, too, because each read looks at all.
fn level0_tables(stats: &TreeStats) -> u64 {
    stats.levels.first().map_or(0, |(tables, _)| *tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_comes_and_goes_is_one_stretch_and_ends_once_it_stays_away() {
        let second = |n| Mono::default() + Duration::from_secs(n);
        let begun = Delayed { since: second(0), waited_before: Duration::ZERO, calm_since: None };
        let mut stretch = Some(begun);
        let mut calm_since = None;
        let ended = (1..30).find(|n| {
            let is_limited = *n < 20 && n % 4 == 0;
            calm_since = stretch.and_then(|stretch| stretch.calm_since);
            stretch = stretch.and_then(|stretch| stretch.looked_at(is_limited, second(*n)));
            stretch.is_none()
        });
        assert_eq!((ended, calm_since), (Some(22), Some(second(17))));
    }
}
