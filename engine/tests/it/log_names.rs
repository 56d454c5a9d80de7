//! The names of a log's files through kills and power cuts: what a process uses has a name that lasts, whoever gave it that name.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use engine::log::Batch;
use engine::rt::sim::{CrashMode, DiskFault, DiskOp, Options, World};

use crate::log_world::{open, process};

/// How many are written. Seven fill a segment.
const STATES: u64 = 40;

fn state(number: u64) -> Batch {
    let mut batch = Batch::new();
    let mut value = vec![7; 3000];
    value[..8].copy_from_slice(&number.to_le_bytes());
    batch.put_state(1, 1, &value);
    batch
}

/// A first life that is killed at change `point` of the disk, and one after it whose states go to the spares that it finds, because the
/// disk is full. Then the power goes, and every name is lost that no sync made durable. Which state was acknowledged, and which one is
/// found; `None` once the first life has ended before `point`.
fn killed_at(point: u64) -> Option<(u64, Result<u64, String>)> {
    let world = World::new(500 + point, Options::default());
    let node = world.node(0);
    node.disk().set_options(|options| options.crash = CrashMode::Lose);
    let ended = Rc::new(Cell::new(false));
    let over = ended.clone();
    node.disk().stop_at(point);
    let first = node.start(0, move |rt| async move {
        let (log, _) = open(&rt).await.unwrap();
        while log.stats().spare_segments < 2 {
            rt.sleep(Duration::from_micros(100)).await;
        }
        over.set(true);
    });
    world.run_until(Duration::from_secs(5), || ended.get() || node.disk().has_stopped());
    node.kill();
    drop(first);
    if ended.get() {
        return None;
    }
    node.disk().fail(DiskFault::on(DiskOp::Write).path(".new").errno(libc::ENOSPC).always());
    let acknowledged = process(&world, |rt| async move {
        let Ok((log, _)) = open(&rt).await else { return 0 };
        let mut acknowledged = 0;
        while acknowledged < STATES && log.write(state(acknowledged + 1)).await.is_ok() {
            acknowledged += 1;
        }
        acknowledged
    });
    node.crash();
    node.disk().heal();
    let found = process(&world, |rt| async move {
        let (log, _) = open(&rt).await.map_err(|fault| fault.to_string())?;
        let state = log.state(1, 1);
        Ok(state.map_or(0, |value| u64::from_le_bytes(value[..8].try_into().expect("eight bytes"))))
    });
    Some((acknowledged, found))
}

#[test]
fn a_spare_named_just_before_a_kill_outlives_a_power_cut() {
    let mut used = 0;
    for (point, (acknowledged, found)) in (0..).map_while(|point| Some((point, killed_at(point)?))) {
        assert_eq!(found, Ok(acknowledged), "killed at change {point}");
        used += u64::from(acknowledged > 10);
    }
    assert!(used > 5, "only {used} lives went on in a spare of the one before");
}
