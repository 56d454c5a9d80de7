//! A core's buckets in the text format: folded into one bound per power of two, which the finer buckets meet exactly.

use std::fmt::Write;

use crate::metrics::{BUCKETS, HistogramNumbers, lower_bound};

/// The first bound is 2^10 ns, about 1 us: a read answered from memory is hardly faster.
const FIRST_POWER: u32 = 10;
/// The last bound but infinity is 2^33 ns, about 8.6 s.
const LAST_POWER: u32 = 33;

/// Writes the lines of one series; `labels` as they stand between braces.
pub(super) fn write(text: &mut String, name: &str, labels: &str, snapshot: &HistogramNumbers) {
    let comma = if labels.is_empty() { "" } else { "," };
    for power in FIRST_POWER..=LAST_POWER {
        let bound = 1u64 << power;
        let below: u64 = snapshot
            .buckets
            .iter()
            .enumerate()
            .take_while(|(index, _)| {
                *index + 1 < BUCKETS && lower_bound(index + 1).as_nanos() <= u128::from(bound)
            })
            .map(|(_, count)| count)
            .sum();
        let seconds = bound as f64 / 1e9;
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{seconds}\"}} {below}");
    }
    let (count, sum) = (snapshot.count(), snapshot.sum.as_secs_f64());
    let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    super::line(text, &format!("{name}_sum"), labels, &sum.to_string());
    super::line(text, &format!("{name}_count"), labels, &count.to_string());
}
