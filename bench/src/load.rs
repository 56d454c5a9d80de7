//! Drives a live server: connections on one core, each with some requests in flight.
//!
//! * **Closed loop**: a connection sends the next request when an answer makes room. Latency is from sending.
//! * **Open loop**: requests are due at a fixed rate whether or not earlier ones were answered. Latency is from the moment a
//!   request was *due*, so a server that stalls is charged for every request that waited meanwhile (what is otherwise lost to
//!   "coordinated omission").

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::{Mono, Rt, native as world};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::Failed;
use crate::client::{Answer, AnswerResult, Connection, Protocol, Request};
use crate::process::cpu_time;
use crate::report::{KindReport, LoadReport};
use crate::workload::{Generator, Kind, Operation, Workload};

/// What to run against whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// The protocol.
    pub protocol: Protocol,
    /// The server: its RESP port, or its PD port for TiKV.
    pub addr: SocketAddr,
    /// The RESP password.
    pub password: Option<String>,
    /// The workload.
    pub workload: Workload,
    /// Connections, at least 1.
    pub connections: usize,
    /// Requests in flight per connection, at least 1.
    pub pipeline: usize,
    /// Requests per second in all, for an open loop.
    pub rate: Option<f64>,
    /// When the run phase ends.
    pub stop: Stop,
    /// Seed of the operations.
    pub seed: u64,
    /// The server's process, if it runs here, for its CPU time.
    pub server_pid: Option<u32>,
    /// Whether to show a progress bar, if standard error is a terminal.
    pub progress: bool,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After so many operations.
    Operations(u64),
    /// After so long.
    After(Duration),
}

/// Which phases to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phases {
    /// Only write the records.
    Load,
    /// Only run the mix over records that are there.
    Run,
    /// Both, one after the other.
    Both,
}

/// Runs the phases on a core of their own and returns a report for each.
///
/// # Errors
/// The server cannot be reached or a connection is lost.
pub fn run(options: &Options, phases: Phases) -> Result<Vec<LoadReport>, Failed> {
    let options = options.clone();
    world::start_core(&engine::rt::CoreOptions::default(), move |rt| async move {
        let mut reports = Vec::new();
        if phases != Phases::Run {
            reports.push(Box::pin(phase(&rt, &options, Source::fill(&options))).await?);
        }
        if phases != Phases::Load {
            reports.push(Box::pin(phase(&rt, &options, Source::mix(&options))).await?);
        }
        Ok(reports)
    })?
}

/// Where operations come from.
#[derive(Debug)]
struct Source {
    name: String,
    generator: Generator,
    /// The next record to write in the load phase; `None` in the run phase.
    fill: Option<u64>,
    left: u64,
    until: Option<Duration>,
}

impl Source {
    fn fill(options: &Options) -> Self {
        let generator = Generator::new(&options.workload, options.seed);
        Self { name: "load".into(), generator, fill: Some(0), left: options.workload.records, until: None }
    }

    fn mix(options: &Options) -> Self {
        let generator = Generator::new(&options.workload, options.seed ^ 1);
        let (left, until) = match options.stop {
            Stop::Operations(operations) => (operations, None),
            Stop::After(duration) => (u64::MAX, Some(duration)),
        };
        Self { name: format!("workload {}", options.workload.mix.name()), generator, fill: None, left, until }
    }

    fn next(&mut self, elapsed: Duration) -> Option<Operation> {
        if self.left == 0 || self.until.is_some_and(|until| elapsed >= until) {
            return None;
        }
        self.left -= 1;
        let Some(record) = &mut self.fill else { return Some(self.generator.draw()) };
        *record += 1;
        Some(Operation { kind: Kind::Insert, record: *record - 1, records: 1 })
    }
}

/// What all connections of a phase share.
#[derive(Debug)]
struct Shared {
    source: Source,
    began: Mono,
    latency: BTreeMap<Kind, Histogram<u64>>,
    done: u64,
    missing: u64,
    refused: u64,
    first_refusal: Option<String>,
    bar: ProgressBar,
}

async fn phase(rt: &Rt, options: &Options, source: Source) -> Result<LoadReport, Failed> {
    let mut connections = Vec::new();
    for _ in 0..options.connections.max(1) {
        let password = options.password.as_deref();
        connections.push(Connection::open(rt, options.protocol, options.addr, password).await?);
    }
    let bar = progress_bar(options, &source);
    let name = source.name.clone();
    let server_before = options.server_pid.map(cpu_time).transpose()?;
    let client_before = cpu_time(std::process::id())?;
    let began = rt.now();
    let shared = Rc::new(RefCell::new(Shared {
        source,
        began,
        latency: BTreeMap::new(),
        done: 0,
        missing: 0,
        refused: 0,
        first_refusal: None,
        bar,
    }));
    let workers: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(lane, connection)| {
            let pace = Pace::new(options, began, lane);
            let worker = Worker::new(rt, connection, shared.clone(), pace, options.pipeline);
            rt.spawn(Box::pin(worker.run()))
        })
        .collect();
    for worker in workers {
        worker.await?;
    }
    let elapsed = rt.now().since(began);
    let client_cpu = cpu_time(std::process::id())?.saturating_sub(client_before);
    let server_cpu = match (options.server_pid, server_before) {
        (Some(pid), Some(before)) => Some(cpu_time(pid)?.saturating_sub(before)),
        _ => None,
    };
    let shared = Rc::into_inner(shared).expect("every worker has ended").into_inner();
    shared.bar.finish_and_clear();
    Ok(report(options, &name, &shared, elapsed, client_cpu, server_cpu))
}

fn progress_bar(options: &Options, source: &Source) -> ProgressBar {
    if !options.progress {
        return ProgressBar::hidden();
    }
    let length = source.until.map_or(source.left, |until| until.as_millis() as u64);
    let unit = if source.until.is_some() { "{elapsed}" } else { "{human_pos}/{human_len}" };
    let template = format!("{{prefix}} [{{wide_bar}}] {unit} {{msg}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_prefix(source.name.clone())
}

fn report(
    options: &Options,
    phase: &str,
    shared: &Shared,
    elapsed: Duration,
    client_cpu: Duration,
    server_cpu: Option<Duration>,
) -> LoadReport {
    let per_operation = |cpu: Duration| cpu.as_secs_f64() * 1e6 / shared.done.max(1) as f64;
    LoadReport {
        phase: phase.to_owned(),
        protocol: options.protocol.name().to_owned(),
        connections: options.connections,
        pipeline: options.pipeline,
        rate_per_second: options.rate,
        records: options.workload.records,
        key_bytes: options.workload.key_bytes,
        value_bytes: options.workload.value_bytes,
        operations: shared.done,
        missing: shared.missing,
        refused: shared.refused,
        first_refusal: shared.first_refusal.clone(),
        elapsed_seconds: elapsed.as_secs_f64(),
        operations_per_second: shared.done as f64 / elapsed.as_secs_f64(),
        client_cpu_us_per_operation: per_operation(client_cpu),
        server_cpu_us_per_operation: server_cpu.map(per_operation),
        kinds: Kind::ALL
            .iter()
            .filter_map(|kind| Some(KindReport::new(kind.name(), shared.latency.get(kind)?)))
            .collect(),
    }
}

/// When a connection's requests are due.
#[derive(Debug)]
struct Pace {
    began: Mono,
    /// Nanoseconds between two requests of this connection, for an open loop.
    every_ns: Option<f64>,
    /// Where this connection's first request lies within that interval.
    offset_ns: f64,
    sent: u64,
}

impl Pace {
    fn new(options: &Options, began: Mono, lane: usize) -> Self {
        let lanes = options.connections.max(1) as f64;
        let every_ns = options.rate.map(|rate| lanes * 1e9 / rate);
        let offset_ns = every_ns.map_or(0.0, |every| every * lane as f64 / lanes);
        Self { began, every_ns, offset_ns, sent: 0 }
    }

    /// When the next request is due; in a closed loop that is `now`.
    fn due(&self, now: Mono) -> Mono {
        match self.every_ns {
            None => now,
            Some(every) => {
                self.began + Duration::from_nanos((self.offset_ns + every * self.sent as f64) as u64)
            }
        }
    }
}

/// A request that is under way.
#[derive(Clone, Copy, Debug)]
struct Pending {
    kind: Kind,
    record: u64,
    due: Mono,
    /// The read of a read-modify-write, whose write comes next.
    write_follows: bool,
}

/// One connection's task.
struct Worker {
    rt: Rt,
    connection: Connection,
    shared: Rc<RefCell<Shared>>,
    pace: Pace,
    pipeline: usize,
    pending: HashMap<u64, Pending>,
    next_tag: u64,
    exhausted: bool,
    key: Vec<u8>,
}

impl Worker {
    fn new(
        rt: &Rt,
        connection: Connection,
        shared: Rc<RefCell<Shared>>,
        pace: Pace,
        pipeline: usize,
    ) -> Self {
        Self {
            rt: rt.clone(),
            connection,
            shared,
            pace,
            pipeline: pipeline.max(1),
            pending: HashMap::new(),
            next_tag: 0,
            exhausted: false,
            key: Vec::new(),
        }
    }

    async fn run(mut self) -> Result<(), Failed> {
        let mut answers = Vec::new();
        loop {
            self.fill();
            if self.pending.is_empty() && self.exhausted {
                return Ok(());
            }
            self.connection.flush().await?;
            self.wait(&mut answers).await?;
            for answer in answers.drain(..) {
                self.take(answer);
            }
        }
    }

    /// Pushes every request that is due, as far as the pipeline has room.
    fn fill(&mut self) {
        while !self.exhausted && self.pending.len() < self.pipeline {
            let now = self.rt.now();
            let due = self.pace.due(now);
            if due > now {
                return;
            }
            let shared = &mut *self.shared.borrow_mut();
            let Some(operation) = shared.source.next(now.since(shared.began)) else {
                self.exhausted = true;
                return;
            };
            self.pace.sent += 1;
            let (kind, record) = (operation.kind, operation.record);
            let pending = Pending { kind, record, due, write_follows: kind == Kind::ReadModifyWrite };
            self.key.clear();
            shared.source.generator.key(record, &mut self.key);
            let key = &self.key;
            let request = match kind {
                Kind::Read | Kind::ReadModifyWrite => Request::Get { key },
                Kind::Update | Kind::Insert => Request::Put { key, value: shared.source.generator.value() },
                Kind::Scan => Request::Scan { start: key, records: operation.records },
            };
            self.connection.push(self.next_tag, request);
            self.pending.insert(self.next_tag, pending);
            self.next_tag += 1;
        }
    }

    /// Waits for answers, or for the next request to fall due, whichever is first.
    async fn wait(&mut self, answers: &mut Vec<Answer>) -> Result<(), Failed> {
        let now = self.rt.now();
        let until_due = self.pace.due(now).since(now);
        if self.pending.is_empty() {
            self.rt.sleep(until_due).await;
            return Ok(());
        }
        let room = self.pending.len() < self.pipeline && !self.exhausted;
        if !room || until_due.is_zero() {
            return self.connection.answers(answers).await;
        }
        let rt = self.rt.clone();
        let due = async move {
            rt.sleep(until_due).await;
            Ok(())
        };
        futures_lite::future::or(self.connection.answers(answers), due).await
    }

    fn take(&mut self, answer: Answer) {
        let pending = self.pending.remove(&answer.tag).expect("every answer carries the tag of a request");
        if pending.write_follows && answer.result == AnswerResult::Done {
            return self.write_back(pending);
        }
        let now = self.rt.now();
        let shared = &mut *self.shared.borrow_mut();
        shared.done += 1;
        match answer.result {
            AnswerResult::Done => {
                if pending.kind == Kind::Insert && shared.source.fill.is_none() {
                    shared.source.generator.acknowledge(pending.record);
                }
            }
            AnswerResult::Missing => shared.missing += 1,
            AnswerResult::Refused(said) => {
                shared.refused += 1;
                shared.first_refusal.get_or_insert(said);
            }
        }
        let latency = shared.latency.entry(pending.kind).or_insert_with(histogram);
        latency.saturating_record(now.since(pending.due).as_nanos() as u64);
        if shared.done.is_multiple_of(1024) {
            show_progress(shared, now);
        }
    }

    /// The second half of a read-modify-write; its latency goes on from the first half's due time.
    fn write_back(&mut self, read: Pending) {
        let shared = &mut *self.shared.borrow_mut();
        self.key.clear();
        shared.source.generator.key(read.record, &mut self.key);
        let value = shared.source.generator.value();
        self.connection.push(self.next_tag, Request::Put { key: &self.key, value });
        self.pending.insert(self.next_tag, Pending { write_follows: false, ..read });
        self.next_tag += 1;
    }
}

fn show_progress(shared: &Shared, now: Mono) {
    let elapsed = now.since(shared.began);
    let position = if shared.source.until.is_some() { elapsed.as_millis() as u64 } else { shared.done };
    shared.bar.set_position(position);
    shared.bar.set_message(format!("{:.0} op/s", shared.done as f64 / elapsed.as_secs_f64()));
}

/// Nanoseconds up to ten minutes, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are constants in range")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{KEY_BYTES_MIN, Mix, Spread};

    fn options(connections: usize, rate: Option<f64>) -> Options {
        let (spread, key_bytes) = (Spread::Published, KEY_BYTES_MIN);
        let workload =
            Workload { mix: Mix::A, spread, records: 10, key_bytes, value_bytes: 8, scan_records_max: 10 };
        Options {
            protocol: Protocol::Resp,
            addr: "127.0.0.1:1".parse().expect("an address"),
            password: None,
            workload,
            connections,
            pipeline: 1,
            rate,
            stop: Stop::Operations(5),
            seed: 1,
            server_pid: None,
            progress: false,
        }
    }

    #[test]
    fn an_open_loop_spreads_its_connections_over_the_interval() {
        let options = options(4, Some(1000.0));
        let mut due = Vec::new();
        for lane in 0..4 {
            let mut pace = Pace::new(&options, Mono(0), lane);
            for sent in 0..3 {
                pace.sent = sent;
                due.push(pace.due(Mono(u64::MAX)).0);
            }
        }
        due.sort_unstable();
        let expected: Vec<u64> = (0..12).map(|n| n * 1_000_000).collect();
        assert_eq!(due, expected);
    }

    #[test]
    fn a_late_open_loop_keeps_the_time_that_was_due() {
        let options = options(1, Some(1000.0));
        let mut pace = Pace::new(&options, Mono(0), 0);
        pace.sent = 7;
        assert_eq!(pace.due(Mono(900_000_000)), Mono(7_000_000), "the stall is part of the latency");
        let closed = Pace::new(&self::options(1, None), Mono(0), 0);
        assert_eq!(closed.due(Mono(5)), Mono(5));
    }

    #[test]
    fn a_source_ends_by_count_or_by_time() {
        let mut by_count = Source::mix(&options(1, None));
        assert_eq!((0..10).filter(|_| by_count.next(Duration::ZERO).is_some()).count(), 5);
        let mut limited = options(1, None);
        limited.stop = Stop::After(Duration::from_secs(1));
        let mut by_time = Source::mix(&limited);
        assert!(by_time.next(Duration::from_millis(999)).is_some());
        assert!(by_time.next(Duration::from_secs(1)).is_none());
        let mut fill = Source::fill(&options(1, None));
        let records: Vec<u64> =
            std::iter::from_fn(|| fill.next(Duration::ZERO)).map(|next| next.record).collect();
        assert_eq!(records, (0..10).collect::<Vec<_>>());
    }
}
