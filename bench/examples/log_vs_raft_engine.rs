//! `engine::log` against raft-engine: durable appends of small entries, one writer and many, in interleaved rounds.
//!
//! ```text
//! cargo run --release -p ringkeep-bench --features peers-raft-engine --example log_vs_raft_engine -- DIR [ROUNDS] [SECONDS]
//! ```
//!
//! Each writer owns a group and appends one entry of 128 bytes at a time, together with the group's hard state, and waits until
//! that is durable. Ours are tasks on one core; raft-engine's are threads, as it is meant to be used. Printed per round and as
//! the ratio of the medians over all rounds: appends per second, p50, p99, and CPU time of the process per append.
#![expect(clippy::print_stdout, reason = "a command that prints its figures")]

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::log::{Batch, EntryRef, Log, LogOptions, PurgeLimits, SyncMethod, measure_sync};
use engine::rt::Rt;
use engine::rt::{CoreOptions, start_core};
use protobuf::well_known_types::Any;

const PAYLOAD: [u8; 128] = [0x5A; 128];

/// Entries that a group keeps; older ones are compacted as a store would.
const KEPT: u64 = 1_000;

/// What one round showed.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().expect("usage: log_vs_raft_engine DIR [ROUNDS] [SECONDS]"));
    let rounds: usize = args.next().map_or(5, |n| n.parse().expect("ROUNDS is a number"));
    let seconds: u64 = args.next().map_or(3, |n| n.parse().expect("SECONDS is a number"));
    let length = Duration::from_secs(seconds);
    let probe = dir.clone();
    std::fs::create_dir_all(&dir).expect("the directory can be created");
    let report = start_core(&CoreOptions::default(), |rt| async move { measure_sync(&rt, &probe).await });
    let report = report.expect("a core starts").expect("the disk can be measured");
    println!("{report:?}\nrecommended: {}", report.recommended());
    for writers in [1, 64] {
        let methods = [SyncMethod::DurableWrite, SyncMethod::WriteThenSync];
        let mut ours = [Vec::new(), Vec::new()];
        let mut theirs = Vec::new();
        for round in 0..rounds {
            for (method, ours) in methods.into_iter().zip(&mut ours) {
                let figures = ours_round(&dir.join("ours"), method, writers, length);
                println!("{writers:>3} writers, round {round}, ringkeep {method:<16} {figures:?}");
                ours.push(figures);
            }
            let figures = theirs_round(&dir.join("theirs"), writers, length);
            println!("{writers:>3} writers, round {round}, raft-engine               {figures:?}");
            theirs.push(figures);
        }
        for (method, ours) in methods.iter().zip(&ours) {
            let ratio = |of: fn(&Figures) -> f64| median(ours, of) / median(&theirs, of);
            println!(
                "{writers:>3} writers, {method}: ringkeep / raft-engine, medians of {rounds}: throughput {:.2}, p50 {:.2}, \
                 p99 {:.2}, cpu {:.2}",
                ratio(|f| f.per_second),
                ratio(|f| f.p50_us),
                ratio(|f| f.p99_us),
                ratio(|f| f.cpu_us)
            );
        }
    }
}

fn median(rounds: &[Figures], of: fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn figures(mut taken: Vec<Duration>, wall: Duration, cpu: Duration) -> Figures {
    taken.sort();
    let us = |duration: Duration| duration.as_secs_f64() * 1e6;
    Figures {
        per_second: taken.len() as f64 / wall.as_secs_f64(),
        p50_us: us(taken[taken.len() / 2]),
        p99_us: us(taken[taken.len() * 99 / 100]),
        cpu_us: us(cpu) / taken.len() as f64,
    }
}

/// CPU time of this process, as the kernel counts it.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs is mounted");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    let ticks: u64 = [fields[11], fields[12]].iter().map(|t| t.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

fn ours_round(dir: &Path, sync: SyncMethod, writers: u64, length: Duration) -> Figures {
    let _ = std::fs::remove_dir_all(dir);
    let dir = dir.to_owned();
    start_core(&CoreOptions::default(), move |rt| async move {
        let options = LogOptions { sync, ..LogOptions::default() };
        let (log, _) = Log::open(&rt, &dir, options).await.expect("the log opens");
        // Both start on prepared space: raft-engine has none to prepare, ours needs about three seconds for it.
        while log.stats().spare_segments < 2 {
            rt.sleep(Duration::from_millis(50)).await;
        }
        let taken = Rc::new(RefCell::new(Vec::with_capacity(1 << 20)));
        let running = Rc::new(Cell::new(true));
        let (began, cpu) = (rt.now(), cpu_time());
        let tasks: Vec<_> = (1..=writers)
            .map(|group| rt.spawn(our_writer(rt.clone(), log.clone(), group, taken.clone(), running.clone())))
            .collect();
        while rt.now().since(began) < length {
            rt.sleep(Duration::from_millis(100)).await;
            log.purge(&PurgeLimits::default()).await.expect("purge works");
        }
        running.set(false);
        for task in tasks {
            task.await;
        }
        let (wall, cpu) = (rt.now().since(began), cpu_time() - cpu);
        log.close().await.expect("the log closes");
        figures(taken.take(), wall, cpu)
    })
    .expect("a core starts")
}

async fn our_writer(
    rt: Rt,
    log: Log,
    group: u64,
    taken: Rc<RefCell<Vec<Duration>>>,
    running: Rc<Cell<bool>>,
) {
    let mut index = 1;
    while running.get() {
        let began = rt.now();
        let mut batch = Batch::new();
        batch.append(group, index, [EntryRef { term: 1, kind: 0, payload: &PAYLOAD }]);
        batch.put_state(group, 1, &[0; 24]);
        if index.is_multiple_of(KEPT) {
            batch.compact(group, index - 1, 1);
        }
        // As raft-engine's threads, this core has nothing to do but to write.
        log.write_and_wait(batch).await.expect("writes succeed");
        taken.borrow_mut().push(rt.now().since(began));
        index += 1;
    }
}

/// How raft-engine finds the index of what it stores. It stores protobuf messages, so an entry is the plainest of them: eight
/// bytes of index, then the payload.
#[derive(Clone)]
struct Indexed;

impl raft_engine::MessageExt for Indexed {
    type Entry = Any;

    fn index(entry: &Any) -> u64 {
        u64::from_le_bytes(entry.value[..8].try_into().expect("eight bytes of index"))
    }
}

fn theirs_round(dir: &Path, writers: u64, length: Duration) -> Figures {
    let _ = std::fs::remove_dir_all(dir);
    let config = raft_engine::Config { dir: dir.display().to_string(), ..raft_engine::Config::default() };
    let engine = Arc::new(raft_engine::Engine::open(config).expect("raft-engine opens"));
    let stop = Arc::new(AtomicBool::new(false));
    let (began, cpu) = (now(), cpu_time());
    let threads: Vec<_> = (1..=writers)
        .map(|group| {
            let (engine, stop) = (engine.clone(), stop.clone());
            std::thread::spawn(move || their_writer(&engine, group, &stop))
        })
        .collect();
    while now() - began < length {
        pause(Duration::from_millis(100));
        engine.purge_expired_files().expect("purge works");
    }
    stop.store(true, Ordering::Release);
    let taken = threads.into_iter().flat_map(|thread| thread.join().expect("writers succeed")).collect();
    figures(taken, now() - began, cpu_time() - cpu)
}

fn their_writer(engine: &raft_engine::Engine, group: u64, stop: &AtomicBool) -> Vec<Duration> {
    let mut taken = Vec::with_capacity(1 << 16);
    let state = Any { value: vec![0; 24], ..Any::default() };
    let mut index = 1u64;
    while !stop.load(Ordering::Relaxed) {
        let began = now();
        let value = [&index.to_le_bytes()[..], &PAYLOAD].concat();
        let mut batch = raft_engine::LogBatch::default();
        let entry = Any { value, ..Any::default() };
        batch.add_entries::<Indexed>(group, &[entry]).expect("the entry is small");
        batch.put_message(group, b"state".to_vec(), &state).expect("the state is small");
        if index.is_multiple_of(KEPT) {
            batch.add_command(group, raft_engine::Command::Compact { index: index - 1 });
        }
        engine.write(&mut batch, true).expect("writes succeed");
        taken.push(now() - began);
        index += 1;
    }
    taken
}

#[expect(clippy::disallowed_methods, reason = "raft-engine runs on plain threads, outside of any core")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "raft-engine runs on plain threads, outside of any core")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
