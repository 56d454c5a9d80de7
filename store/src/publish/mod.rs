//! From the cores' own numbers to the page that Prometheus scrapes.
//!
//! Cores count in plain cells ([`crate::metrics`]) and post copies once a second. Here, on a plain thread, a [`Publisher`]
//! turns those copies into [`Sample`]s and keeps the latest of each. Counters and gauges go through `metrics` into
//! `metrics-exporter-prometheus`, which keeps, labels and renders them. Histograms are written by [`histogram`], because the
//! exporter takes single observations only and the cores have counted theirs into buckets already.
//!
//! * Names begin with `ringkeep_`, or with `process_` where every client library has that name; they carry their base unit, and
//!   counters end in `_total`. Every one has a HELP line.
//! * A bound is published beside what it bounds.
//! * Labels are few and bounded: core, store, command, kind. Never a key, a region or a client.
//!
//! Not done here, on purpose: no global recorder, no macros, no runtime, no listener.

mod cluster;
mod histogram;
mod node;
mod process;
mod scheduler;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use metrics::{Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::metrics::HistogramNumbers;
use crate::wire::board::CoreReport;
pub use node::{NodeFacts, log_write_ages};

/// What is measured: its name on the page and how to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its whole name.
    pub name: &'static str,
    /// One sentence, with the unit if it has one.
    pub help: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations by bucket.
    Histogram,
}

/// Labels of a sample, in order.
pub type Labels = Vec<(&'static str, String)>;

/// One value at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Of what.
    pub metric: &'static Metric,
    /// Of whom.
    pub labels: Labels,
    /// How much.
    pub value: Value,
}

/// How much.
#[derive(Clone, Debug)]
pub enum Value {
    /// A count or a level.
    Number(u64),
    /// Time spent, seconds.
    Seconds(f64),
    /// Durations by bucket.
    Histogram(HistogramNumbers),
}

/// Keeps the latest samples and renders them.
pub struct Publisher {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    state: Mutex<State>,
    stores: usize,
}

/// The values of one metric by their labels as they are written, each with the round in which it was said last.
type Series = BTreeMap<String, (Value, u64)>;

#[derive(Default)]
struct State {
    counters: HashMap<Key, metrics::Counter, foldhash::fast::FixedState>,
    /// With the round in which each was said last.
    gauges: HashMap<Key, (metrics::Gauge, u64), foldhash::fast::FixedState>,
    /// What the exporter cannot take: by metric, then by labels as they are written.
    own: BTreeMap<&'static str, (&'static Metric, Series)>,
    /// Rounds of samples so far.
    rounds: u64,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// A publisher for a node with `stores` stores.
    pub fn new(stores: usize) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        Self { recorder, handle, state: Mutex::default(), stores }
    }

    /// Takes what the cores posted, what the node knows beside them, and what the process says about itself.
    pub fn publish(&self, cores: &[CoreReport], facts: &NodeFacts) {
        let samples = cores.iter().flat_map(table::samples);
        let beside = node::samples(facts).into_iter().chain(process::samples(Path::new("/"), self.stores));
        self.take(samples.chain(beside));
    }

    /// All that is said in one round. A gauge that was said before and is not now is 0, or gone: who does not host the scheduler any more knows
    /// nothing of stores that are down, and what it knew must not be taken for news.
    fn take(&self, samples: impl Iterator<Item = Sample>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rounds += 1;
        let round = state.rounds;
        for sample in samples {
            let Sample { metric, labels, value } = sample;
            match (metric.kind, value) {
                (MetricKind::Counter, Value::Number(number)) => {
                    self.counter(&mut state, metric, labels).absolute(number)
                }
                (MetricKind::Gauge, Value::Number(number)) => {
                    self.gauge(&mut state, metric, labels).set(number as f64)
                }
                (_, value) => {
                    let (_, series) = state.own.entry(metric.name).or_insert((metric, Series::new()));
                    series.insert(written(&labels), (value, round));
                }
            }
        }
        for (gauge, said) in state.gauges.values() {
            if *said != round {
                gauge.set(0.0);
            }
        }
        let gauges = state.own.values_mut().filter(|(metric, _)| metric.kind == MetricKind::Gauge);
        gauges.for_each(|(_, series)| series.retain(|_, (_, said)| *said == round));
    }

    fn counter<'a>(
        &self,
        state: &'a mut State,
        metric: &'static Metric,
        labels: Labels,
    ) -> &'a metrics::Counter {
        let key = key(metric, labels);
        state.counters.entry(key.clone()).or_insert_with(|| {
            self.recorder.describe_counter(metric.name.into(), None::<Unit>, metric.help.into());
            self.recorder.register_counter(&key, &METADATA)
        })
    }

    fn gauge<'a>(&self, state: &'a mut State, metric: &'static Metric, labels: Labels) -> &'a metrics::Gauge {
        let (key, round) = (key(metric, labels), state.rounds);
        let (gauge, said) = state.gauges.entry(key.clone()).or_insert_with(|| {
            self.recorder.describe_gauge(metric.name.into(), None::<Unit>, metric.help.into());
            (self.recorder.register_gauge(&key, &METADATA), round)
        });
        *said = round;
        gauge
    }

    /// Appends the page.
    pub fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.handle.render().as_bytes());
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for (metric, series) in state.own.values() {
            header(&mut text, metric);
            for (labels, (value, _)) in series {
                match value {
                    Value::Histogram(snapshot) => histogram::write(&mut text, metric.name, labels, snapshot),
                    Value::Seconds(seconds) => line(&mut text, metric.name, labels, &seconds.to_string()),
                    Value::Number(number) => line(&mut text, metric.name, labels, &number.to_string()),
                }
            }
            text.push('\n');
        }
        out.extend_from_slice(text.as_bytes());
    }
}

const METADATA: Metadata<'static> = Metadata::new("ringkeep", Level::INFO, None);

fn key(metric: &'static Metric, labels: Labels) -> Key {
    let labels: Vec<Label> = labels.into_iter().map(|(name, value)| Label::new(name, value)).collect();
    Key::from_parts(metric.name, labels)
}

/// Labels as they stand between braces.
fn written(labels: &Labels) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let one = |(name, value): &(&'static str, String)| format!("{name}=\"{}\"", escaped(value));
    labels.iter().map(one).collect::<Vec<_>>().join(",")
}

fn header(text: &mut String, metric: &Metric) {
    let kind = match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    };
    // Writing into a string cannot fail.
    let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", metric.name, metric.help, metric.name);
}

fn line(text: &mut String, name: &str, labels: &str, value: &str) {
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(text, "{name}{braces} {value}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Histogram;

    const CALLS: Metric = Metric { name: "ringkeep_calls_total", help: "Calls.", kind: MetricKind::Counter };
    const DEPTH: Metric =
        Metric { name: "ringkeep_depth", help: "Calls that wait.", kind: MetricKind::Gauge };
    const TIME: Metric = Metric { name: "ringkeep_call_seconds", help: "Time.", kind: MetricKind::Histogram };

    fn page(publisher: &Publisher) -> String {
        let mut out = Vec::new();
        publisher.render(&mut out);
        String::from_utf8(out).expect("text")
    }

    fn sample(metric: &'static Metric, core: usize, value: Value) -> Sample {
        Sample { metric, labels: vec![("core", core.to_string())], value }
    }

    #[test]
    fn grpc_requests_have_a_row_per_method_and_status() {
        let ended = |code, count| crate::wire::grpc::Ended { method: "RawGet".to_owned(), code, count };
        let grpc_requests =
            vec![ended(crate::wire::grpc::Code::Ok, 7), ended(crate::wire::grpc::Code::DeadlineExceeded, 2)];
        let grpc = crate::wire::grpc::Stats { running: 5, ..Default::default() };
        let stores = vec![crate::shard::counters::StoreNumbers { reads_abandoned: 4, ..Default::default() }];
        let core = CoreReport { grpc_requests, grpc, stores, ..CoreReport::default() };
        let publisher = Publisher::new(1);
        publisher.take(table::samples(&core));
        let page = page(&publisher);
        for line in [
            "ringkeep_grpc_requests_total{core=\"0\",method=\"RawGet\",status=\"OK\"} 7",
            "ringkeep_grpc_requests_total{core=\"0\",method=\"RawGet\",status=\"DEADLINE_EXCEEDED\"} 2",
            "ringkeep_grpc_calls_running{core=\"0\"} 5",
            "ringkeep_store_reads_abandoned_total{core=\"0\",store=\"0\"} 4",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_core_without_resp_has_no_rows_of_it() {
        let ended = crate::wire::grpc::Ended {
            method: "GetMembers".to_owned(),
            code: crate::wire::grpc::Code::Ok,
            count: 3,
        };
        let scheduler = CoreReport { core: 2, grpc_requests: vec![ended], ..CoreReport::default() };
        let data = CoreReport { resp_connections_max: 9, ..CoreReport::default() };
        let publisher = Publisher::new(1);
        publisher.take([scheduler, data].iter().flat_map(table::samples));
        let page = page(&publisher);
        assert!(
            page.contains("ringkeep_grpc_requests_total{core=\"2\",method=\"GetMembers\",status=\"OK\"} 3\n")
        );
        assert!(page.contains("ringkeep_resp_connections_max{core=\"0\"} 9\n"), "{page}");
        let resp = |line: &&str| line.starts_with("ringkeep_resp_") && line.contains("core=\"2\"");
        assert_eq!(page.lines().find(resp), None);
    }

    #[test]
    fn the_latest_value_of_each_series_is_rendered() {
        let publisher = Publisher::new(1);
        publisher
            .take([sample(&CALLS, 0, Value::Number(1)), sample(&CALLS, 1, Value::Number(5))].into_iter());
        publisher
            .take([sample(&CALLS, 0, Value::Number(7)), sample(&DEPTH, 0, Value::Number(3))].into_iter());
        let page = page(&publisher);
        for line in [
            "# HELP ringkeep_calls_total Calls.",
            "# TYPE ringkeep_calls_total counter",
            "ringkeep_calls_total{core=\"0\"} 7",
            "ringkeep_calls_total{core=\"1\"} 5",
            "ringkeep_depth{core=\"0\"} 3",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert_eq!(page.matches("# TYPE ringkeep_calls_total").count(), 1);
    }

    #[test]
    fn a_gauge_that_is_not_said_any_more_is_zero_or_gone_and_a_counter_stays() {
        const AGE: Metric = Metric { name: "ringkeep_age_seconds", help: "Age.", kind: MetricKind::Gauge };
        let publisher = Publisher::new(1);
        let all = [
            sample(&CALLS, 0, Value::Number(5)),
            sample(&DEPTH, 0, Value::Number(3)),
            sample(&DEPTH, 1, Value::Number(4)),
            sample(&AGE, 0, Value::Seconds(1.5)),
        ];
        publisher.take(all.into_iter());
        assert!(page(&publisher).contains("ringkeep_age_seconds{core=\"0\"} 1.5\n"));
        publisher.take([sample(&DEPTH, 1, Value::Number(4))].into_iter());
        let second = page(&publisher);
        for line in [
            "ringkeep_calls_total{core=\"0\"} 5",
            "ringkeep_depth{core=\"0\"} 0",
            "ringkeep_depth{core=\"1\"} 4",
        ] {
            assert!(second.lines().any(|found| found == line), "{line} is not in\n{second}");
        }
        assert!(!second.contains("ringkeep_age_seconds{"), "{second}");
        publisher.take([sample(&DEPTH, 0, Value::Number(2))].into_iter());
        assert!(page(&publisher).contains("ringkeep_depth{core=\"0\"} 2\n"), "it is said again");
    }

    #[test]
    fn histograms_are_cumulative_and_end_with_everything() {
        let publisher = Publisher::new(1);
        let histogram = Histogram::default();
        for micros in [1, 50, 50, 3000, 90_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        publisher.take([sample(&TIME, 0, Value::Histogram(histogram.snapshot()))].into_iter());
        let page = page(&publisher);
        let count = |le: &str| {
            let start = format!("ringkeep_call_seconds_bucket{{core=\"0\",le=\"{le}\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
        };
        assert_eq!(count("0.000032768").as_deref(), Some("1"), "{page}");
        assert_eq!(count("0.000065536").as_deref(), Some("3"));
        assert_eq!(count("0.004194304").as_deref(), Some("4"));
        assert_eq!(count("+Inf").as_deref(), Some("5"));
        assert!(page.contains("ringkeep_call_seconds_count{core=\"0\"} 5\n"));
        assert!(page.contains("ringkeep_call_seconds_sum{core=\"0\"} 90.003101\n"), "{page}");
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(written(&vec![("a", "x\"y\\z\n".into())]), "a=\"x\\\"y\\\\z\\n\"");
    }
}
