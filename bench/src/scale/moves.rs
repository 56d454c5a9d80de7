//! The longest time without an acknowledgement while one region moves to the other store of a node, or is split, under full load.
//!
//! Only what is asked for happens: splits by size and moves for balance are off. The gap of a move is that of the keys of its region; of a
//! split that of the half whose clients waited longer. A client on the same machine is late by itself, so as long a time without a
//! move stands beside each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use store::wire::proto::ringkeep::RegionState;

use super::subject::{Subject, run_load};
use crate::Failed;
use crate::clock::{now, pause};
use crate::load::{self, Phases, Range, RunHandle, Stop};
use crate::process::NodeOptions;
use crate::report::{LoadReport, median};
use crate::workload::{KEY_BYTES_MIN, Mix};

/// The load runs as it does by then.
const WARM: Duration = Duration::from_secs(2);
/// How long clients are watched after a move is seen to be over.
const AFTER: Duration = Duration::from_millis(500);
/// How long one may take.
const MOVE_MAX: Duration = Duration::from_secs(120);
/// The pause between two looks at the map.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longer than any run.
const FOREVER: Duration = Duration::from_secs(1 << 20);
/// How often a wish is repeated that the scheduler does not take now.
const ASKS_MAX: usize = 50;

/// What is done to regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One region is moved to the other store, again and again.
    Relocate,
    /// The region with the most keys is split in its middle.
    Split,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Change::Relocate => "relocation",
            Change::Split => "split",
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start the node.
    pub node: NodeOptions,
    /// What is done.
    pub change: Change,
    /// How often.
    pub times: usize,
    /// Keys and values of the region, bytes.
    pub bytes: u64,
    /// Length of a value, bytes.
    pub value_bytes: usize,
    /// Connections.
    pub connections: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// Ends it early.
    pub stop: Arc<AtomicBool>,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct GapReport {
    /// What was done to regions.
    pub change: String,
    /// Keys and values of the region at first, bytes.
    pub bytes: u64,
    /// The longest time without an acknowledgement, for each time that it was done, milliseconds.
    pub gaps_ms: Vec<f64>,
    /// The same before each, over as long a time in which nothing was done.
    pub calm_ms: Vec<f64>,
    /// From asking to when the scheduler had seen it done, seconds: median.
    pub took_seconds: f64,
    /// Bytes of snapshots that were read, sent or received for all of them.
    pub snapshot_bytes: u64,
    /// Bytes that were sent over connections between stores meanwhile.
    pub peer_bytes: u64,
    /// Bytes of tables that got second names.
    pub linked_bytes: u64,
    /// Updates meanwhile, and how many of them were acknowledged in a second.
    pub operations: u64,
    /// In a second.
    pub operations_per_second: f64,
    /// Refused ones.
    pub errors: u64,
    /// The first refusal.
    pub first_refusal: Option<String>,
}

/// A load that runs beside what is done. It ends with this.
struct Background {
    handle: RunHandle,
    thread: Option<JoinHandle<Result<Vec<LoadReport>, Failed>>>,
}

impl Background {
    fn start(options: load::Options) -> Self {
        let handle = RunHandle::default();
        let held = handle.clone();
        let thread = std::thread::spawn(move || load::run_with(&options, Phases::Run, &held));
        Self { handle, thread: Some(thread) }
    }

    fn finish(mut self) -> Result<LoadReport, Failed> {
        self.handle.halt.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| Failed::new("the load has ended already"))?;
        let reports = thread.join().map_err(|_| Failed::new("the load panicked"))??;
        reports.into_iter().next().ok_or_else(|| Failed::new("a phase has no report"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.handle.halt.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it has to say is of no use: another failure has ended the measurement.
            drop(thread.join());
        }
    }
}

/// What is counted over all changes.
const COUNTED: [&str; 4] = [
    "ringkeep_snapshot_sent_bytes_total",
    "ringkeep_snapshot_received_bytes_total",
    "ringkeep_peer_sent_bytes_total",
    "ringkeep_relocated_bytes_total",
];

/// Measures.
///
/// # Errors
/// The node does not start or ends, a connection is lost, a change is not carried out in time, or it is stopped.
pub fn measure(options: &Options, say: &mut dyn FnMut(&str)) -> Result<GapReport, Failed> {
    let subject = Subject::start(&options.node, "node", 2, &["region_max_bytes=0"], &options.stop)?;
    for policy in ["balance-core", "balance-region", "hot-region"] {
        subject.cluster.switch_off(policy)?;
    }
    say(&format!("writing {} MiB", options.bytes >> 20));
    let each = (options.value_bytes + KEY_BYTES_MIN) as u64;
    let (records, lanes) = ((options.bytes / each).max(1), (options.connections, options.pipeline));
    let load = |stop| subject.load(records, options.value_bytes, lanes, Mix::Update, stop);
    let filled = run_load(&subject, &load(Stop::Operations(1)), Phases::Load)?;
    let counted = || COUNTED.iter().map(|name| subject.number(name)).collect::<Result<Vec<_>, _>>();
    let before = counted()?;
    let running = Background::start(load(Stop::After(FOREVER)));
    let (mut gaps_ms, mut calm_ms, mut took) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..options.times {
        let planned = plan(&subject, options.change)?;
        running.handle.gaps.watch(planned.ranges.iter().cloned());
        let calm_from = now();
        wait(&subject, &running, WARM)?;
        calm_ms.push(longest(&running, calm_from.elapsed(), &planned)?);
        running.handle.gaps.watch(planned.ranges.iter().cloned());
        let began = now();
        ask(&subject, &planned)?;
        until_done(&subject, &running, &planned, began)?;
        took.push(began.elapsed().as_secs_f64());
        wait(&subject, &running, AFTER)?;
        gaps_ms.push(longest(&running, began.elapsed(), &planned)?);
        say(&format!(
            "{} {} of {}: longest gap {:.1} ms, {:.1} ms before it",
            options.change.name(),
            n + 1,
            options.times,
            gaps_ms.last().copied().unwrap_or_default(),
            calm_ms.last().copied().unwrap_or_default()
        ));
    }
    let seen = running.finish()?;
    let after = counted()?;
    let grown: Vec<u64> =
        after.iter().zip(&before).map(|(after, before)| after.saturating_sub(*before)).collect();
    subject.end()?;
    Ok(GapReport {
        change: options.change.name().to_owned(),
        bytes: records * each,
        gaps_ms,
        calm_ms,
        took_seconds: median(&took),
        snapshot_bytes: grown[0] + grown[1],
        peer_bytes: grown[2],
        linked_bytes: grown[3],
        operations: seen.operations,
        operations_per_second: seen.operations_per_second,
        errors: filled.refused + seen.refused,
        first_refusal: filled.first_refusal.or(seen.first_refusal),
    })
}

/// What is asked for next.
struct Planned {
    region: u64,
    wish: Wish,
    /// The keys whose acknowledgements are watched.
    ranges: Vec<Range>,
}

enum Wish {
    /// To this store.
    Move(u64),
    /// At this key.
    Cut(Vec<u8>),
}

fn plan(subject: &Subject, change: Change) -> Result<Planned, Failed> {
    let states = subject.cluster.region_states()?;
    // The region with the most keys, by the numbers that its borders have: sizes are estimates and come late.
    let widest = states.iter().filter_map(|state| Some((state, span(state)?)));
    let widest = widest.max_by_key(|(_, (low, high))| high - low);
    let (state, (low, high)) = widest.ok_or_else(|| Failed::new("no region has the keys of the load"))?;
    let region = state.region.as_ref().ok_or_else(|| Failed::new("a region is not described"))?;
    let (from, to) = (region.start_key.to_vec(), region.end_key.to_vec());
    match change {
        Change::Relocate => {
            let here = state.leader.as_ref().map(|leader| leader.store_id);
            let stores = states.iter().filter_map(|state| Some(state.leader.as_ref()?.store_id));
            let other = stores.into_iter().find(|store| Some(*store) != here);
            let store = other.ok_or_else(|| Failed::new("the node has no other store that leads"))?;
            Ok(Planned { region: region.id, wish: Wish::Move(store), ranges: vec![(from, to)] })
        }
        Change::Split => {
            let middle = numbered(low + (high - low) / 2);
            let ranges = vec![(from, middle.clone()), (middle.clone(), to)];
            Ok(Planned { region: region.id, wish: Wish::Cut(middle), ranges })
        }
    }
}

/// The numbers that the keys of a region's records can have; nothing if it has none.
fn span(state: &RegionState) -> Option<(u64, u64)> {
    let region = state.region.as_ref()?;
    let (first, last) = (numbered(0), numbered(u64::MAX));
    let (from, to) = (&region.start_key[..], &region.end_key[..]);
    if from > &last[..] || (!to.is_empty() && to <= &first[..]) {
        return None;
    }
    let low = if from <= &first[..] { 0 } else { number(from)? };
    let high = if to.is_empty() || to > &last[..] { u64::MAX } else { number(to)? };
    (low < high).then_some((low, high))
}

/// The key of a record whose number is hashed to this.
fn numbered(number: u64) -> Vec<u8> {
    format!("user{number:0digits$}", digits = KEY_BYTES_MIN - 4).into_bytes()
}

fn number(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key.get(4..KEY_BYTES_MIN)?).ok()?.parse().ok()
}

/// Asks, again where the scheduler does something else to the region or has not heard of its last change.
fn ask(subject: &Subject, planned: &Planned) -> Result<(), Failed> {
    let mut last = None;
    for _ in 0..ASKS_MAX {
        subject.go_on()?;
        let asked = match &planned.wish {
            Wish::Move(store) => subject.cluster.relocate(planned.region, *store),
            Wish::Cut(key) => subject.cluster.split(planned.region, key),
        };
        match asked {
            Ok(()) => return Ok(()),
            Err(why) => last = Some(why),
        }
        pause(LOOK_EVERY);
    }
    Err(last.unwrap_or_else(|| Failed::new("nothing was asked")))
}

fn until_done(
    subject: &Subject,
    running: &Background,
    planned: &Planned,
    began: Instant,
) -> Result<(), Failed> {
    loop {
        let states = subject.cluster.region_states()?;
        let region = states.iter().filter_map(|state| state.region.as_ref());
        let region = region.into_iter().find(|region| region.id == planned.region);
        let is_done = region.is_some_and(|region| match &planned.wish {
            Wish::Move(store) => matches!(&region.peers[..], [peer] if peer.store_id == *store),
            Wish::Cut(key) => region.end_key == *key,
        });
        if is_done {
            return Ok(());
        }
        if began.elapsed() > MOVE_MAX {
            let why = format!("region {} was not changed within {MOVE_MAX:?}", planned.region);
            return Err(Failed::new(why));
        }
        wait(subject, running, LOOK_EVERY)?;
    }
}

/// Waits while the load goes on.
fn wait(subject: &Subject, running: &Background, time: Duration) -> Result<(), Failed> {
    let began = now();
    while began.elapsed() < time {
        subject.go_on()?;
        if running.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Err(Failed::new("the load has ended: a connection was lost, or the node is gone"));
        }
        pause(Duration::from_millis(20));
    }
    Ok(())
}

/// The longest gap of any of the ranges, milliseconds.
fn longest(running: &Background, watched: Duration, planned: &Planned) -> Result<f64, Failed> {
    let seen = running.handle.gaps.finish();
    if let Some(silent) = seen.iter().position(|gap| gap.acknowledged == 0) {
        let (from, _) = &planned.ranges[silent];
        let from = String::from_utf8_lossy(from);
        return Err(Failed::new(format!("nothing from \"{from}\" on was acknowledged in {watched:?}")));
    }
    Ok(seen.iter().map(|gap| gap.longest.as_secs_f64() * 1e3).fold(0.0, f64::max))
}

impl GapReport {
    /// Whether no client saw an error, and nothing was rewritten or sent.
    pub fn passed(&self) -> bool {
        self.errors == 0 && self.snapshot_bytes == 0
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let worst = |gaps: &[f64]| gaps.iter().copied().fold(0.0, f64::max);
        let said = self.first_refusal.as_deref().map(|said| format!(" (\"{said}\")")).unwrap_or_default();
        format!(
            "{} under load, {} times, {} MiB of keys and values\n\
             \x20 longest gap in acknowledgements  median {:.1} ms, worst {:.1} ms\n\
             \x20 of a time without any            median {:.1} ms, worst {:.1} ms\n\
             \x20 until it was seen to be done     {:.1} s\n\
             \x20 tables by second names           {} MiB\n\
             \x20 rewritten or sent by snapshots   {} bytes; {} bytes between stores in all\n\
             \x20 updates meanwhile                {} ({:.0} op/s), {} errors{said}\n",
            self.change,
            self.gaps_ms.len(),
            self.bytes >> 20,
            median(&self.gaps_ms),
            worst(&self.gaps_ms),
            median(&self.calm_ms),
            worst(&self.calm_ms),
            self.took_seconds,
            self.linked_bytes >> 20,
            self.snapshot_bytes,
            self.peer_bytes,
            self.operations,
            self.operations_per_second,
            self.errors
        )
    }
}

#[cfg(test)]
mod tests {
    use store::wire::proto::metapb::Region;

    use super::*;
    use crate::workload::key;

    #[test]
    fn the_keys_of_a_region_are_known_by_its_borders() {
        let state = |from: &[u8], to: &[u8]| RegionState {
            region: Some(Region {
                start_key: from.to_vec().into(),
                end_key: to.to_vec().into(),
                ..Region::default()
            }),
            ..RegionState::default()
        };
        assert_eq!(span(&state(b"", b"")), Some((0, u64::MAX)));
        assert_eq!(span(&state(b"q", b"z")), Some((0, u64::MAX)));
        assert_eq!(span(&state(b"", b"user")), None);
        assert_eq!(span(&state(b"v", b"")), None);
        assert_eq!(span(&state(&numbered(5), &numbered(90))), Some((5, 90)));
        let mut real = Vec::new();
        key(7, KEY_BYTES_MIN, &mut real);
        assert_eq!(numbered(number(&real).expect("it has a number")), real, "as the load writes them");
    }

    #[test]
    fn an_error_or_a_byte_that_was_sent_is_a_failure() {
        let mut report = GapReport {
            change: "relocation".into(),
            bytes: 512 << 20,
            gaps_ms: vec![10.0, 30.0, 20.0],
            calm_ms: vec![1.0],
            took_seconds: 2.0,
            snapshot_bytes: 0,
            peer_bytes: 0,
            linked_bytes: 1 << 30,
            operations: 100,
            operations_per_second: 10.0,
            errors: 0,
            first_refusal: None,
        };
        assert!(
            report.passed() && report.table().contains("median 20.0 ms, worst 30.0 ms"),
            "{}",
            report.table()
        );
        report.snapshot_bytes = 1;
        assert!(!report.passed());
        report.snapshot_bytes = 0;
        report.errors = 1;
        report.first_refusal = Some("-TRYAGAIN".into());
        assert!(!report.passed() && report.table().contains("TRYAGAIN"));
    }
}
