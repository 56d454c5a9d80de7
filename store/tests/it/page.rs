//! The metrics page as tests look at it: what the cores say, published and rendered as in production, read back as series and values.

use std::collections::{BTreeMap, BTreeSet};

use store::publish::{NodeFacts, Publisher};
use store::shard::Shard;
use store::wire::board::CoreReport;
use store::wire::{grpc, resp};

/// Values by series, with their labels. A histogram has its count.
pub(crate) type Page = BTreeMap<String, f64>;

/// The series of these reports whose names begin with one of `ours`.
pub(crate) fn page(reports: &[CoreReport], ours: &[&str]) -> Page {
    page_with(reports, &NodeFacts::default(), ours)
}

/// The same beside what is known of the node as a whole.
pub(crate) fn page_with(reports: &[CoreReport], facts: &NodeFacts, ours: &[&str]) -> Page {
    let publisher = Publisher::new(reports.len());
    publisher.publish(reports, facts);
    let mut text = Vec::new();
    publisher.render(&mut text);
    let text = String::from_utf8(text).expect("a page is text");
    let lines = text.lines().filter(|line| ours.iter().any(|ours| line.starts_with(ours)));
    let series = lines.filter(|line| !line.contains("_bucket{") && !line.contains("_sum{"));
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a series has a value");
        (series.replace("_count{", "{"), value.parse().expect("a value is a number"))
    };
    series.map(value).collect()
}

/// A number of a RESP server, as the page has it.
pub(crate) fn of_resp(counters: &resp::Counters, name: &str) -> f64 {
    // A core without a bound on connections has no RESP server.
    let report = CoreReport { resp: counters.snapshot(), resp_connections_max: 1, ..CoreReport::default() };
    of(&[report], name)
}

/// A number of a gRPC server, as the page has it.
pub(crate) fn of_grpc(server: &grpc::Handle, name: &str) -> f64 {
    of(&[CoreReport { grpc: server.stats(), ..CoreReport::default() }], name)
}

/// A number of a store, as the page has it.
pub(crate) fn of_store(shard: &Shard, name: &str) -> f64 {
    of(&[CoreReport { stores: vec![shard.snapshot()], ..CoreReport::default() }], name)
}

/// The sum of a metric over these reports.
///
/// # Panics
/// If the page does not have it.
pub(crate) fn of(reports: &[CoreReport], name: &str) -> f64 {
    let page = page(reports, &[name]);
    assert!(page.keys().any(|series| series.split('{').next() == Some(name)), "{name} is not on the page");
    sum(&page, name, "")
}

/// The sum of a metric over those of its series that have `label`.
pub(crate) fn sum(page: &Page, name: &str, label: &str) -> f64 {
    let of = |series: &&String| series.split('{').next() == Some(name) && series.contains(label);
    page.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
}

/// The highest value of every series so far.
#[derive(Default)]
pub(crate) struct Seen(pub(crate) Page);

impl Seen {
    pub(crate) fn look(&mut self, page: Page) {
        for (series, value) in page {
            let highest = self.0.entry(series).or_insert(value);
            *highest = value.max(*highest);
        }
    }

    /// The names of which no series has moved.
    pub(crate) fn still(&self) -> BTreeSet<&str> {
        let name = |series: &String| series.find('{').unwrap_or(series.len());
        let names = self.0.keys().map(|series| &series[..name(series)]);
        names.filter(|name| sum(&self.0, name, "") == 0.0).collect()
    }
}
