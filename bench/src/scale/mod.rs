//! What a second core is worth to keys that all begin alike, and what it costs clients that regions are split and moved for it.
//!
//! | file | what it measures |
//! |---|---|
//! | here | how bytes and requests spread over the stores of a node by themselves, and what serves more: two stores, or one with the same data |
//! | `moves` | the longest time without an acknowledgement while one region is moved to the other store, or split |
//! | `subject` | nothing: it starts the node and asks it and its scheduler |
//!
//! The client runs on the same machine and takes a part of it, so beside the throughput of each side stands its CPU time per operation
//! without the client, and what the cores of each side could do by that if nothing else ran on them.

pub mod moves;
mod subject;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;

use self::subject::{Standing, Subject, run_load};
use crate::Failed;
use crate::load::{Phases, Stop};
use crate::process::NodeOptions;
use crate::report::{LoadReport, median, table};
use crate::workload::Mix;

/// Stores of the node that is compared with one of a single store.
const STORES: usize = 2;
/// What a store may have of the bytes and of the requests, per cent.
const BYTES_PERCENT: (f64, f64) = (45.0, 55.0);
const REQUESTS_PERCENT: (f64, f64) = (40.0, 60.0);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start a node; those that are compared get directories beside its data.
    pub node: NodeOptions,
    /// Records that are written, whose keys all begin alike.
    pub records: u64,
    /// Length of a value, bytes.
    pub value_bytes: usize,
    /// Connections.
    pub connections: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// Rounds; each runs every workload on both sides.
    pub rounds: usize,
    /// How long each workload runs in a round.
    pub each: Duration,
    /// How long splits and moves may take to come to rest.
    pub settle_max: Duration,
    /// Ends it early.
    pub stop: Arc<AtomicBool>,
}

/// What a store has of the whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StoreShare {
    /// The store.
    pub store: u64,
    /// Regions that it leads.
    pub regions: u64,
    /// Their bytes, as the scheduler knows them.
    pub bytes: u64,
    /// Bytes of its tables, which may be shared with a store that a region came from.
    pub table_bytes: u64,
    /// Requests that it has answered while the workloads ran.
    pub requests: u64,
    /// Its share of all bytes, per cent.
    pub bytes_percent: f64,
    /// Its share of all requests, per cent.
    pub requests_percent: f64,
}

/// One workload on both sides: medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct SidesReport {
    /// Which.
    pub workload: String,
    /// Operations per second of the node with two stores.
    pub two_per_second: f64,
    /// Of the node with one.
    pub one_per_second: f64,
    /// CPU time of the server for each operation, with two stores, microseconds.
    pub two_cpu_us: f64,
    /// With one.
    pub one_cpu_us: f64,
}

impl SidesReport {
    /// How much more the two stores serve beside this client.
    pub fn ratio(&self) -> f64 {
        self.two_per_second / self.one_per_second.max(f64::MIN_POSITIVE)
    }

    /// How much more their cores could serve by the CPU time of an operation.
    pub fn ratio_by_cpu(&self) -> f64 {
        STORES as f64 * self.one_cpu_us / self.two_cpu_us.max(f64::MIN_POSITIVE)
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct SpreadReport {
    /// Records that were written.
    pub records: u64,
    /// Keys and values of all of them, bytes.
    pub written_bytes: u64,
    /// Regions that were split.
    pub splits: u64,
    /// Regions that were moved.
    pub moves: u64,
    /// How long it took after the load until nothing moved any more.
    pub settle_seconds: f64,
    /// Whether it came to rest.
    pub settled: bool,
    /// The stores.
    pub stores: Vec<StoreShare>,
    /// The workloads.
    pub workloads: Vec<SidesReport>,
    /// Requests, the load included.
    pub requests: u64,
    /// Those that were refused, and reads that did not find what was written.
    pub errors: u64,
    /// The first refusal.
    pub first_refusal: Option<String>,
}

/// Requests and errors of everything that ran.
#[derive(Debug, Default)]
struct Tally {
    requests: u64,
    errors: u64,
    first_refusal: Option<String>,
}

impl Tally {
    fn add(&mut self, report: &LoadReport) {
        self.requests += report.operations;
        self.errors += report.refused + report.missing;
        self.first_refusal = self.first_refusal.take().or_else(|| report.first_refusal.clone());
    }
}

/// Measures.
///
/// # Errors
/// A node does not start or ends, a connection is lost, or it is stopped.
pub fn measure(options: &Options, say: &mut dyn FnMut(&str)) -> Result<SpreadReport, Failed> {
    let mut tally = Tally::default();
    say(&format!("loading a node with {STORES} stores"));
    let two = Subject::start(&options.node, "two", STORES, &[], &options.stop)?;
    let before = two.standing()?;
    tally.add(&fill(&two, options)?);
    say("waiting until splits and moves come to rest");
    let settled = two.settle(options.settle_max)?;
    say("loading a node with one store");
    let one = Subject::start(&options.node, "one", 1, &[], &options.stop)?;
    tally.add(&fill(&one, options)?);
    let loaded = two.standing()?;
    let mut workloads = Vec::new();
    for mix in [Mix::Update, Mix::C] {
        let mut sides = [Vec::new(), Vec::new()];
        for round in 0..options.rounds {
            say(&format!("workload {}, round {} of {}", mix.name(), round + 1, options.rounds));
            for (subject, side) in [&two, &one].into_iter().zip(&mut sides) {
                let stop = Stop::After(options.each);
                let report = run_load(subject, &load_options(subject, options, mix, stop), Phases::Run)?;
                tally.add(&report);
                side.push(report);
            }
        }
        workloads.push(compared(mix, &sides));
    }
    let after = two.standing()?;
    let stores = shares(&loaded, &after);
    let report = SpreadReport {
        records: options.records,
        written_bytes: options.records * (options.value_bytes + crate::workload::KEY_BYTES_MIN) as u64,
        splits: after.regions().saturating_sub(before.regions()),
        moves: after.moves.saturating_sub(before.moves),
        settle_seconds: settled.unwrap_or(options.settle_max).as_secs_f64(),
        settled: settled.is_some(),
        stores,
        workloads,
        requests: tally.requests,
        errors: tally.errors,
        first_refusal: tally.first_refusal,
    };
    two.end()?;
    one.end()?;
    Ok(report)
}

fn load_options(subject: &Subject, options: &Options, mix: Mix, stop: Stop) -> crate::load::Options {
    subject.load(options.records, options.value_bytes, (options.connections, options.pipeline), mix, stop)
}

fn fill(subject: &Subject, options: &Options) -> Result<LoadReport, Failed> {
    run_load(subject, &load_options(subject, options, Mix::Update, Stop::Operations(1)), Phases::Load)
}

fn compared(mix: Mix, [two, one]: &[Vec<LoadReport>; 2]) -> SidesReport {
    let of = |side: &[LoadReport], number: fn(&LoadReport) -> f64| {
        median(&side.iter().map(number).collect::<Vec<_>>())
    };
    let per_second = |report: &LoadReport| report.operations_per_second;
    let cpu = |report: &LoadReport| report.server_cpu_us_per_operation.unwrap_or_default();
    SidesReport {
        workload: if mix == Mix::C { "read" } else { "update" }.to_owned(),
        two_per_second: of(two, per_second),
        one_per_second: of(one, per_second),
        two_cpu_us: of(two, cpu),
        one_cpu_us: of(one, cpu),
    }
}

/// What each store has, and what it has served between two moments.
fn shares(before: &Standing, after: &Standing) -> Vec<StoreShare> {
    let served = |store: u64| {
        let of = |standing: &Standing| standing.stores.get(&store).map_or(0, |store| store.requests);
        of(after).saturating_sub(of(before))
    };
    let all_bytes: u64 = after.stores.values().map(|store| store.bytes).sum();
    let all_requests: u64 = after.stores.keys().map(|store| served(*store)).sum();
    let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
    let share = |(store, held): (&u64, &subject::Held)| StoreShare {
        store: *store,
        regions: held.regions,
        bytes: held.bytes,
        table_bytes: held.table_bytes,
        requests: served(*store),
        bytes_percent: percent(held.bytes, all_bytes),
        requests_percent: percent(served(*store), all_requests),
    };
    after.stores.iter().map(share).collect()
}

impl SpreadReport {
    /// Whether it came to rest, every store has its share, and no client saw an error.
    pub fn passed(&self) -> bool {
        let within = |(low, high), percent: f64| (low..=high).contains(&percent);
        self.settled
            && self.errors == 0
            && self.stores.len() == STORES
            && self.stores.iter().all(|store| {
                within(BYTES_PERCENT, store.bytes_percent) && within(REQUESTS_PERCENT, store.requests_percent)
            })
    }

    /// Tables for people.
    pub fn table(&self) -> String {
        let mut rows = vec![
            ["store", "regions", "MiB", "% of bytes", "MiB of tables", "% of requests"].map(String::from),
        ];
        for store in &self.stores {
            rows.push([
                store.store.to_string(),
                store.regions.to_string(),
                (store.bytes >> 20).to_string(),
                format!("{:.1}", store.bytes_percent),
                (store.table_bytes >> 20).to_string(),
                format!("{:.1}", store.requests_percent),
            ]);
        }
        let rest = match self.settled {
            true => format!("at rest {:.0} s after the load", self.settle_seconds),
            false => format!("not at rest {:.0} s after the load", self.settle_seconds),
        };
        let mut text = format!(
            "{} records, {} MiB, whose keys all begin alike: {} splits, {} moves, {rest}\n{}\n",
            self.records,
            self.written_bytes >> 20,
            self.splits,
            self.moves,
            table(&rows)
        );
        let mut rows = vec![
            ["", "two stores op/s", "one store op/s", "ratio", "server CPU us", "one store", "ratio by CPU"]
                .map(String::from),
        ];
        for sides in &self.workloads {
            rows.push([
                sides.workload.clone(),
                format!("{:.0}", sides.two_per_second),
                format!("{:.0}", sides.one_per_second),
                format!("{:.2}", sides.ratio()),
                format!("{:.1}", sides.two_cpu_us),
                format!("{:.1}", sides.one_cpu_us),
                format!("{:.2}", sides.ratio_by_cpu()),
            ]);
        }
        text.push_str(&table(&rows));
        let said = self.first_refusal.as_deref().map(|said| format!(" (\"{said}\")")).unwrap_or_default();
        text.push_str(&format!("  {} requests, {} errors{said}\n", self.requests, self.errors));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(bytes: [u64; 2], requests: [u64; 2]) -> SpreadReport {
        let standing = |requests: [u64; 2]| Standing {
            stores: [3, 4]
                .into_iter()
                .zip(bytes.into_iter().zip(requests))
                .map(|(store, (bytes, requests))| {
                    (store, subject::Held { regions: 2, bytes, table_bytes: bytes, requests })
                })
                .collect(),
            ..Standing::default()
        };
        let sides = SidesReport {
            workload: "read".into(),
            two_per_second: 90.0,
            one_per_second: 60.0,
            two_cpu_us: 11.0,
            one_cpu_us: 10.0,
        };
        SpreadReport {
            records: 10,
            written_bytes: 1 << 20,
            splits: 3,
            moves: 2,
            settle_seconds: 12.0,
            settled: true,
            stores: shares(&standing([0, 0]), &standing(requests)),
            workloads: vec![sides],
            requests: 100,
            errors: 0,
            first_refusal: None,
        }
    }

    #[test]
    fn a_store_without_its_share_an_error_or_unrest_is_a_failure() {
        let even = report([52 << 20, 48 << 20], [400, 600]);
        assert!(even.passed(), "{}", even.table());
        assert!(
            even.table().contains("52.0") && even.table().contains("1.50") && even.table().contains("1.82")
        );
        assert!(!report([56 << 20, 44 << 20], [500, 500]).passed(), "bytes");
        assert!(!report([50 << 20, 50 << 20], [390, 610]).passed(), "requests");
        let mut refused = report([1 << 20, 1 << 20], [1, 1]);
        refused.errors = 1;
        refused.first_refusal = Some("-CLUSTERDOWN no leader".to_owned());
        assert!(!refused.passed() && refused.table().contains("no leader"), "{}", refused.table());
        let mut restless = report([1 << 20, 1 << 20], [1, 1]);
        restless.settled = false;
        assert!(!restless.passed() && restless.table().contains("not at rest"));
    }
}
