//! What the node as a whole says about itself beside its cores: limits, lost log lines, cores that do not move.
//!
//! These are known to the threads around the cores, so they are true even while a core hangs and posts nothing.

use std::time::Duration;

use engine::rt::Mono;

use super::{Labels, Metric, MetricKind, Sample, Value};
use crate::shard::counters::StoreNumbers;
use crate::wire::board::CoreReport;

/// What the threads around the cores know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Log lines that found the queue to standard error full.
    pub log_lines_dropped: u64,
    /// Log lines left out because their call site repeated itself.
    pub log_lines_suppressed: u64,
    /// The node's memory budget, bytes.
    pub memory_budget_bytes: u64,
    /// Descriptors kept for storage; connections are refused before they are touched.
    pub reserved_fds: u64,
    /// For how long the log write in flight of each store has been so, by store.
    pub log_write_ages: Vec<(u64, Duration)>,
    /// For how long each core has not moved, by core.
    pub core_still: Vec<(usize, Duration)>,
    /// How often each core has not moved for too long, by core.
    pub core_stalls: Vec<(usize, u64)>,
}

/// For how long the log write in flight of each store has been so. One that is slow by now is logged, once.
pub fn log_write_ages(reports: &[CoreReport], now: Mono) -> Vec<(u64, Duration)> {
    let age = |store: &StoreNumbers| {
        store.log_watch.log_if_slow(store.store, now);
        (store.store, store.log_watch.age(now))
    };
    reports.iter().flat_map(|core| &core.stores).map(age).collect()
}

const fn metric(name: &'static str, kind: MetricKind, help: &'static str) -> Metric {
    Metric { name, help, kind }
}

const DROPPED: Metric = metric(
    "ringkeep_log_lines_dropped_total",
    MetricKind::Counter,
    "Lines for standard error that were dropped, because its reader is too slow.",
);
const SUPPRESSED: Metric = metric(
    "ringkeep_log_lines_suppressed_total",
    MetricKind::Counter,
    "Lines for standard error that were left out, because the same statement had written too many.",
);
const BUDGET: Metric =
    metric("ringkeep_memory_budget_bytes", MetricKind::Gauge, "Memory budget of the node in bytes.");
const RESERVED: Metric = metric(
    "ringkeep_reserved_fds",
    MetricKind::Gauge,
    "Descriptors kept for storage; connections are refused before they are touched.",
);
const LOG_WRITE_AGE: Metric = metric(
    "ringkeep_log_write_age_seconds",
    MetricKind::Gauge,
    "Age of the store's log write in flight; correct even while its core hangs. Zero when there is none.",
);
const STILL: Metric = metric(
    "ringkeep_core_still_seconds",
    MetricKind::Gauge,
    "For how long the core has run no other task, because one task holds it or its disk hangs. Zero otherwise.",
);
const STALLS: Metric = metric(
    "ringkeep_core_stalls_total",
    MetricKind::Counter,
    "How often the core has run no other task for half a second or longer.",
);

pub(super) fn samples(facts: &NodeFacts) -> Vec<Sample> {
    let plain = |metric, number| Sample { metric, labels: Labels::new(), value: Value::Number(number) };
    let mut samples = vec![
        plain(&DROPPED, facts.log_lines_dropped),
        plain(&SUPPRESSED, facts.log_lines_suppressed),
        plain(&BUDGET, facts.memory_budget_bytes),
        plain(&RESERVED, facts.reserved_fds),
    ];
    let seconds = |time: &Duration| Value::Seconds(time.as_secs_f64());
    samples.extend(each(&LOG_WRITE_AGE, "store", &facts.log_write_ages, seconds));
    samples.extend(each(&STILL, "core", &facts.core_still, seconds));
    samples.extend(each(&STALLS, "core", &facts.core_stalls, |stalls| Value::Number(*stalls)));
    samples
}

/// A sample for each of `values`, labelled with whom it is about.
fn each<I: ToString, T>(
    metric: &'static Metric,
    label: &'static str,
    values: &[(I, T)],
    value: impl Fn(&T) -> Value,
) -> impl Iterator<Item = Sample> {
    values.iter().map(move |(id, number)| Sample {
        metric,
        labels: vec![(label, id.to_string())],
        value: value(number),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_is_a_sample() {
        let facts = NodeFacts {
            log_lines_dropped: 1,
            log_lines_suppressed: 2,
            memory_budget_bytes: 3,
            reserved_fds: 4,
            log_write_ages: vec![(2, Duration::from_millis(2500))],
            core_still: vec![(7, Duration::from_millis(1500))],
            core_stalls: vec![(7, 5)],
        };
        let said: Vec<(&str, String)> = samples(&facts)
            .into_iter()
            .map(|sample| (sample.metric.name, format!("{:?} {:?}", sample.labels, sample.value)))
            .collect();
        let expected = [
            ("ringkeep_log_lines_dropped_total", "[] Number(1)"),
            ("ringkeep_log_lines_suppressed_total", "[] Number(2)"),
            ("ringkeep_memory_budget_bytes", "[] Number(3)"),
            ("ringkeep_reserved_fds", "[] Number(4)"),
            ("ringkeep_log_write_age_seconds", "[(\"store\", \"2\")] Seconds(2.5)"),
            ("ringkeep_core_still_seconds", "[(\"core\", \"7\")] Seconds(1.5)"),
            ("ringkeep_core_stalls_total", "[(\"core\", \"7\")] Number(5)"),
        ];
        assert_eq!(said, expected.map(|(name, value)| (name, value.to_owned())));
    }
}
