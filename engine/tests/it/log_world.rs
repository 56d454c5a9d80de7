//! A small log on a simulated disk: written, killed, opened again.

use std::path::Path;
use std::time::Duration;

use engine::error::Fault;
use engine::log::{Batch, Claim, EntryRef, Log, LogOptions, Recovered, SyncMethod};
use engine::rt::Rt;
use engine::rt::sim::World;

pub(crate) const DIR: &str = "/data/log";

pub(crate) fn options(sync: SyncMethod) -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        cache_bytes_max: 4 << 10,
        group_bytes_max: 12 << 10,
        sync,
        witness_every: Duration::from_millis(3),
        ..LogOptions::default()
    }
}

/// Runs `main` as a process of its own on the node's disk.
pub(crate) fn process<T: 'static, F: Future<Output = T> + 'static>(
    world: &World,
    main: impl FnOnce(Rt) -> F,
) -> T {
    world.block_on(world.node(0).start(0, main)).expect("it is not crashed")
}

pub(crate) async fn open(rt: &Rt) -> Result<(Log, Recovered), Fault> {
    Log::open(rt, Path::new(DIR), options(SyncMethod::DurableWrite)).await
}

/// How a process ends that has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Close,
    /// Killed after it was idle for a moment.
    Idle,
    /// Killed at once.
    Kill,
}

/// Writes `count` small records and closes.
pub(crate) fn filled(world: &World, count: u64) {
    filled_until(world, count, End::Close);
}

pub(crate) fn filled_until(world: &World, count: u64, end: End) {
    process(world, move |rt| async move {
        let (log, _) = open(&rt).await.unwrap();
        for index in 1..=count {
            let mut batch = Batch::new();
            batch.append(1, index, [EntryRef { term: 2, kind: 1, payload: &[index as u8; 40] }]);
            log.write(batch).await.unwrap();
        }
        while log.stats().spare_segments < 2 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        match end {
            End::Close => log.close().await.unwrap(),
            End::Idle => {
                let before = log.stats().records;
                for _ in 0..10 {
                    log.vouch_if_due();
                    rt.sleep(Duration::from_millis(100)).await;
                }
                assert_eq!(log.stats().records, before + 1, "an idle log writes once and then nothing");
            }
            End::Kill => {}
        }
    });
    world.node(0).kill();
}

/// What an opening finds: the last index, and where something was cut, the entries that it claims.
pub(crate) fn reopened(world: &World) -> Result<(Option<u64>, Option<Option<Claim>>), Fault> {
    process(world, |rt| async move {
        let (log, recovered) = open(&rt).await?;
        let last = log.last_index(1);
        log.close().await?;
        Ok((last, recovered.cut.map(|cut| cut.claims.get(&1).copied())))
    })
}
