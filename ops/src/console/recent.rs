//! Where requests of this node spent their time during the last minute, and how busy its cores were.
//!
//! Cores count since their start; copies of what they have counted, one every ten seconds, show what came since. A copy takes less than
//! a kibibyte per stage or kind of request, and there are [`COPIES`] of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use engine::rt::Mono;
use store::metrics::HistogramNumbers;
use store::wire::board::CoreReport;

/// How far apart copies are.
const APART: Duration = Duration::from_secs(10);
/// How many are kept.
const COPIES: usize = 7;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// A stage of the proposals of a store.
    Stage(u64, &'static str),
    /// A kind of commands of the Redis protocol.
    Commands(&'static str),
}

/// What the cores had counted at a moment.
#[derive(Clone, Debug)]
struct Copied {
    at: Mono,
    times: BTreeMap<What, HistogramNumbers>,
    /// CPU time of each core, by number.
    busy: BTreeMap<usize, Duration>,
}

/// The copies, oldest first; the last one is of now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    copies: VecDeque<Copied>,
    latest: Option<Copied>,
}

/// What came of late.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lately {
    /// Over how long.
    pub(crate) over: Duration,
    pub(crate) times: BTreeMap<What, HistogramNumbers>,
    /// Which part of one CPU each core has used, of late.
    pub(crate) busy: BTreeMap<usize, f64>,
}

impl Recent {
    /// Takes what the cores have posted.
    pub(crate) fn note(&mut self, reports: &[CoreReport], now: Mono) {
        let mut times: BTreeMap<What, HistogramNumbers> = BTreeMap::new();
        for core in reports {
            for (kind, latency) in &core.resp.latency {
                times.entry(What::Commands(kind)).or_default().add(latency);
            }
            for store in &core.stores {
                let stages = store
                    .stages
                    .iter()
                    .map(|(stage, times)| (What::Stage(store.store, stage), times.clone()));
                times.extend(stages);
            }
        }
        let busy = reports.iter().map(|core| (core.core, core.busy)).collect();
        let copied = Copied { at: now, times, busy };
        if self.copies.back().is_none_or(|last| now.since(last.at) >= APART) {
            self.copies.push_back(copied.clone());
        }
        while self.copies.len() > COPIES {
            self.copies.pop_front();
        }
        self.latest = Some(copied);
    }

    /// What came between the oldest copy and the latest.
    pub(crate) fn lately(&self) -> Lately {
        let (Some(oldest), Some(latest)) = (self.copies.front(), &self.latest) else {
            return Lately::default();
        };
        let since = |(what, times): (&What, &HistogramNumbers)| {
            let before = oldest.times.get(what).cloned().unwrap_or_default();
            (*what, times.since(&before))
        };
        // How busy a core is changes faster, so the copy before the last one is what it is measured from.
        let before = self.copies.iter().rev().nth(1).unwrap_or(oldest);
        let over = latest.at.since(before.at);
        let busy = latest.busy.iter().filter_map(|(core, busy)| {
            let used = busy.checked_sub(*before.busy.get(core)?)?;
            (!over.is_zero()).then(|| (*core, used.as_secs_f64() / over.as_secs_f64()))
        });
        Lately {
            over: latest.at.since(oldest.at),
            times: latest.times.iter().map(since).collect(),
            busy: busy.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use store::metrics::Histogram;
    use store::shard::counters::StoreNumbers;

    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    #[test]
    fn what_is_shown_is_of_the_last_minute() {
        let (queue, mut recent) = (Histogram::default(), Recent::default());
        let note = |recent: &mut Recent, seconds: u64| {
            let store = StoreNumbers {
                store: 4,
                stages: vec![("queue", queue.snapshot())],
                ..StoreNumbers::default()
            };
            let busy = Duration::from_millis(250 * seconds);
            recent.note(
                &[CoreReport { core: 1, stores: vec![store], busy, ..CoreReport::default() }],
                at(seconds),
            );
        };
        assert!(recent.lately().times.is_empty());
        queue.record_many(Duration::from_millis(100), 1000);
        for seconds in 0..100 {
            queue.record(Duration::from_micros(if seconds < 20 { 50_000 } else { 30 }));
            note(&mut recent, seconds);
        }
        let Lately { over, times, busy } = recent.lately();
        assert_eq!(over, Duration::from_secs(69), "six times ten seconds, and what came after the last copy");
        let queue = &times[&What::Stage(4, "queue")];
        assert_eq!(queue.count(), 69);
        assert!(queue.quantile(0.99) < Duration::from_millis(1), "what was slow is forgotten: {queue:?}");
        assert_eq!(busy.get(&1), Some(&0.25));
        assert_eq!(recent.copies.len(), COPIES);
    }
}
