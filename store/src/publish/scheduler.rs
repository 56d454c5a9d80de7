//! What each number of the scheduler is called on the page. Only the node that hosts it has them, so they carry no core and no store; a
//! query over all nodes sees the cluster once.

use super::table::{metric, sample};
use super::{Labels, Metric, MetricKind, Sample, Value};
use crate::control::SchedulerNumbers;

use MetricKind::{Counter, Gauge};

const STORES: Metric = metric(
    "ringkeep_scheduler_stores",
    Gauge,
    "Stores of the cluster, by state; down means silent for so long that its replicas are replaced elsewhere.",
);
const REGIONS: Metric =
    metric("ringkeep_scheduler_regions", Gauge, "Regions of the cluster that were reported.");
const UNDER_REPLICATED: Metric = metric(
    "ringkeep_scheduler_regions_under_replicated",
    Gauge,
    "Regions of the cluster with fewer voters that are heard than they should have.",
);
const LAGGING: Metric = metric(
    "ringkeep_scheduler_regions_lagging",
    Gauge,
    "Regions of the cluster with a replica that is not caught up for more than ten minutes, although its store is heard.",
);
const BUSY: Metric = metric(
    "ringkeep_scheduler_regions_busy",
    Gauge,
    "Regions of the cluster with more operations per second than region_split_ops; ctl why region says why one is not split.",
);
const LOAD_SPLITS: Metric = metric(
    "ringkeep_scheduler_load_splits_total",
    Counter,
    "Regions that were split because they were too busy.",
);
const RUNNING: Metric = metric(
    "ringkeep_scheduler_operators_running",
    Gauge,
    "Operators that run, by the policy that created them.",
);
const ENDED: Metric = metric(
    "ringkeep_scheduler_operators_total",
    Counter,
    "Operators that ended, by the policy that created them and by outcome.",
);
const REPORTS_REFUSED: Metric = metric(
    "ringkeep_scheduler_reports_refused_total",
    Counter,
    "Reports of stores and regions that were stale or broken.",
);

/// What the scheduler says.
pub(super) fn samples(numbers: &SchedulerNumbers, into: &mut Vec<Sample>) {
    let SchedulerNumbers { summary, refused_reports } = numbers;
    let none = Labels::new();
    let mut add = |metric, further: Option<(&'static str, &str)>, count: u64| {
        into.push(sample(metric, &none, further, Value::Number(count)));
    };
    add(&REGIONS, None, summary.regions);
    add(&UNDER_REPLICATED, None, summary.under_replicated);
    add(&LAGGING, None, summary.lagging);
    add(&BUSY, None, summary.busy);
    add(&LOAD_SPLITS, None, summary.load_splits);
    add(&REPORTS_REFUSED, None, *refused_reports);
    for (health, count) in &summary.stores {
        add(&STORES, Some(("state", &health.to_string())), *count);
    }
    for (policy, count) in &summary.running {
        add(&RUNNING, Some(("policy", &policy.to_string())), *count);
    }
    for (policy, outcome, count) in &summary.ended {
        let labels = vec![("policy", policy.to_string()), ("outcome", (*outcome).to_owned())];
        into.push(Sample { metric: &ENDED, labels, value: Value::Number(*count) });
    }
}
