//! What was found, as values that serialise to JSON and as text tables.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::backlog::BacklogReport;
use crate::disk::DiskReport;

/// One phase of load.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// Which phase.
    pub phase: String,
    /// Which protocol.
    pub protocol: String,
    /// Connections.
    pub connections: usize,
    /// Requests in flight per connection.
    pub pipeline: usize,
    /// The rate of an open loop.
    pub rate_per_second: Option<f64>,
    /// Records in the load phase.
    pub records: u64,
    /// Length of a key.
    pub key_bytes: usize,
    /// Length of a value.
    pub value_bytes: usize,
    /// Operations answered.
    pub operations: u64,
    /// Reads that found nothing.
    pub missing: u64,
    /// Operations that the server refused.
    pub refused: u64,
    /// The first refusal, in the server's words.
    pub first_refusal: Option<String>,
    /// How long it took.
    pub elapsed_seconds: f64,
    /// Throughput.
    pub operations_per_second: f64,
    /// CPU time of this process.
    pub client_cpu_us_per_operation: f64,
    /// CPU time of the server, if it runs here.
    pub server_cpu_us_per_operation: Option<f64>,
    /// Latency by kind of operation.
    pub kinds: Vec<KindReport>,
}

/// Latency of one kind of operation.
#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    /// The kind.
    pub kind: String,
    /// How many.
    pub operations: u64,
    /// Latency in microseconds.
    pub latency_us: LatencyReport,
}

/// Percentiles, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "each is the statistic of that name")]
pub struct LatencyReport {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl KindReport {
    /// From a histogram of nanoseconds.
    pub fn new(kind: &str, nanos: &Histogram<u64>) -> Self {
        Self { kind: kind.to_owned(), operations: nanos.len(), latency_us: LatencyReport::new(nanos) }
    }
}

impl LatencyReport {
    /// From a histogram of nanoseconds.
    pub fn new(nanos: &Histogram<u64>) -> Self {
        let at = |quantile| nanos.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            mean: nanos.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: nanos.max() as f64 / 1000.0,
        }
    }
}

/// Load beside the limits of the machine it ran on.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// The phases, in order.
    pub phases: Vec<LoadReport>,
    /// What the node said meanwhile, if its status port was given.
    pub backlog: Option<BacklogReport>,
    /// The limits, unless they were not asked for.
    pub limits: Option<DiskReport>,
}

impl RunReport {
    /// Tables for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for phase in &self.phases {
            text.push_str(&phase.table());
        }
        if let Some(backlog) = &self.backlog {
            text.push('\n');
            text.push_str(&backlog.table());
        }
        if let Some(limits) = &self.limits {
            text.push('\n');
            text.push_str(&limits.table());
        }
        text
    }
}

impl LoadReport {
    /// Tables for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let loop_kind = self
            .rate_per_second
            .map_or_else(|| "closed loop".into(), |rate| format!("open loop at {rate}/s"));
        line(
            &mut text,
            &format!(
                "{} over {}: {} connections x {} in flight, {loop_kind}, keys of {} and values of {} bytes",
                self.phase, self.protocol, self.connections, self.pipeline, self.key_bytes, self.value_bytes
            ),
        );
        let server = self
            .server_cpu_us_per_operation
            .map_or_else(|| "not measured".into(), |us| format!("{us:.1} us"));
        line(
            &mut text,
            &format!(
                "  {:.0} op/s ({} operations in {:.2} s); CPU per operation: server {server}, client {:.1} us",
                self.operations_per_second,
                self.operations,
                self.elapsed_seconds,
                self.client_cpu_us_per_operation
            ),
        );
        if self.missing > 0 || self.refused > 0 {
            let said = self.first_refusal.as_deref().map(|said| format!(" (\"{said}\")")).unwrap_or_default();
            line(
                &mut text,
                &format!("  {} found nothing, {} were refused{said}", self.missing, self.refused),
            );
        }
        let mut rows =
            vec![["", "operations", "mean us", "p50", "p90", "p99", "p99.9", "max"].map(String::from)];
        for kind in &self.kinds {
            let LatencyReport { mean, p50, p90, p99, p999, max } = kind.latency_us;
            let numbers = [mean, p50, p90, p99, p999, max].map(|us| format!("{us:.0}"));
            let [mean, p50, p90, p99, p999, max] = numbers;
            rows.push([kind.kind.clone(), kind.operations.to_string(), mean, p50, p90, p99, p999, max]);
        }
        text.push_str(&table(&rows));
        text
    }
}

fn line(text: &mut String, content: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{content}");
}

/// Columns as wide as their widest cell, the first to the left and the others to the right, indented by two.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut content = format!("  {:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            let _ = write!(content, "  {cell:>width$}");
        }
        line(&mut text, content.trim_end());
    }
    text
}

/// The middle one of the values, or the mean of the two middle ones; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn tables_line_up() {
        let rows = [["", "n"], ["read", "1200"], ["update", "7"]].map(|row| row.map(String::from));
        assert_eq!(table(&rows), "             n\n  read    1200\n  update     7\n");
    }
}
