//! The log on a real core and a real disk: what was answered is there after reopening.

use std::path::Path;

use engine::error::FaultKind;
use engine::log::{Batch, Entry, EntryRef, Log, LogOptions, PurgeLimits, SyncMethod, measure_sync};
use engine::rt::Rt;
use engine::rt::{CoreOptions, start_core};

/// Runs `main` on one core with a fresh directory.
fn on_a_core<T, F>(main: impl FnOnce(Rt, std::path::PathBuf) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("log");
    start_core(&CoreOptions::default(), move |rt| main(rt, path)).unwrap()
}

fn small(sync: SyncMethod) -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, sync, ..LogOptions::default() }
}

async fn open(rt: &Rt, dir: &Path, sync: SyncMethod) -> (Log, engine::log::Recovered) {
    Log::open(rt, dir, small(sync)).await.unwrap()
}

fn entry(term: u64, payload: &[u8]) -> EntryRef<'_> {
    EntryRef { term, kind: 3, payload }
}

#[test]
fn the_newest_entries_that_fit_a_bound_are_found() {
    on_a_core(|rt, dir| async move {
        let (log, _) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        assert_eq!(log.first_within(7, 0), None, "a group that is not there");
        let mut batch = Batch::new();
        batch.append(7, 11, (0..10).map(|_| entry(1, &[1; 87])));
        batch.append(9, 1, [entry(1, b"other group")]);
        log.write(batch).await.unwrap();
        // An entry has 13 bytes beside its payload.
        for (bytes_max, first) in
            [(1000, None), (999, Some(12)), (900, Some(12)), (899, Some(13)), (100, Some(20)), (0, Some(21))]
        {
            assert_eq!(log.first_within(7, bytes_max), first, "{bytes_max} bytes");
        }
        for (index, bytes) in [(0, 1000), (10, 1000), (11, 900), (19, 100), (20, 0), (u64::MAX, 0)] {
            assert_eq!(log.bytes_after(7, index), bytes, "after {index}");
        }
        assert_eq!(log.bytes_after(8, 0), 0, "a group that is not there");
        let mut batch = Batch::new();
        batch.append(7, 21, (0..1990).map(|_| entry(1, &[1; 87])));
        log.write(batch).await.unwrap();
        assert_eq!(log.bytes_after(7, 1010), 100_000, "too many to be counted one by one");
        log.close().await.unwrap();
    });
}

#[test]
fn what_was_written_is_there_after_reopening_with_either_sync_method() {
    for sync in [SyncMethod::DurableWrite, SyncMethod::WriteThenSync] {
        on_a_core(move |rt, dir| async move {
            let (log, recovered) = open(&rt, &dir, sync).await;
            assert!(recovered.groups.is_empty());
            let mut batch = Batch::new();
            batch.append(7, 1, [entry(1, b"one"), entry(1, b"two")]);
            batch.append(9, 100, [entry(5, b"other group")]);
            batch.put_state(7, 1, b"term 1, vote 2");
            log.write(batch).await.unwrap();
            let mut batch = Batch::new();
            batch.append(7, 2, [entry(2, b"two again"), entry(2, b"")]);
            batch.put_state(7, 1, b"term 2");
            batch.compact(7, 1, 1);
            log.write(batch).await.unwrap();
            log.close().await.unwrap();

            let (log, recovered) = open(&rt, &dir, sync).await;
            // Two beside those of the batches: one counts the opening, one vouches for the last.
            assert_eq!((recovered.records, recovered.opened), (4, 2));
            assert_eq!(recovered.cut, None);
            let group = &recovered.groups[&7];
            let entries = log.entries(7, 2..4, 1 << 20).await.unwrap();
            let payloads: Vec<_> = entries.iter().map(|e| (e.index, e.term, &e.payload[..])).collect();
            assert_eq!(payloads, [(2, 2, &b"two again"[..]), (3, 2, &b""[..])]);
            let ids: Vec<_> = group.entries.iter().map(|e| (e.index, e.term)).collect();
            assert_eq!(ids, [(2, 2), (3, 2)]);
            let mut shown = Vec::new();
            let show = async |piece| {
                shown.extend(piece);
                Ok(())
            };
            log.replay(show).await.unwrap();
            let shown: Vec<_> =
                shown.iter().map(|(group, e): &(u64, Entry)| (*group, e.index, &e.payload[..])).collect();
            let expected = [(9, 100, &b"other group"[..]), (7, 2, b"two again"), (7, 3, b"")];
            assert_eq!(shown, expected, "each live entry once, where it was written");
            assert_eq!(&group.states[&1][..], b"term 2");
            assert_eq!((log.first_index(7), log.last_index(7)), (Some(2), Some(3)));
            assert_eq!((log.term(7, 1), log.term(7, 2), log.term(7, 4)), (Some(1), Some(2), None));
            assert_eq!(recovered.groups[&9].entries[0].kind, 3);
            log.close().await.unwrap();
        });
    }
}

#[test]
fn a_start_is_shown_the_log_in_pieces() {
    const ENTRIES: u64 = 400;
    on_a_core(|rt, dir| async move {
        let payload = vec![7; 20 << 10];
        let (log, _) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        for index in 1..=ENTRIES {
            let mut batch = Batch::new();
            batch.append(index % 3, index / 3 + 1, [entry(1, &payload)]);
            log.write(batch).await.unwrap();
        }
        log.close().await.unwrap();
        let (log, _) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        let (mut pieces, mut shown, mut largest) = (0, 0, 0);
        let see = async |piece: Vec<(u64, Entry)>| {
            pieces += 1;
            shown += piece.len() as u64;
            largest = largest.max(piece.iter().map(|(_, entry)| entry.payload.len()).sum::<usize>());
            Ok(())
        };
        log.replay(see).await.unwrap();
        assert_eq!(shown, ENTRIES);
        assert!(pieces >= 7, "{pieces} pieces for 8 MB");
        assert!(largest <= (1 << 20) + payload.len(), "a piece of {largest} bytes");
        log.close().await.unwrap();
    });
}

#[test]
fn calls_that_come_while_a_write_is_in_flight_share_the_next_one() {
    on_a_core(|rt, dir| async move {
        let (log, _) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        let writers: Vec<_> = (0..64u64)
            .map(|group| {
                let log = log.clone();
                rt.spawn(async move {
                    for index in 1..=10 {
                        let mut batch = Batch::new();
                        batch.append(group, index, [entry(1, &[group as u8; 100])]);
                        log.write(batch).await.unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await;
        }
        let stats = log.stats();
        assert_eq!(stats.batches, 641, "one counts the opening");
        assert!(stats.records <= 12, "{} records for 64 writers with 10 batches each", stats.records);
        log.close().await.unwrap();
        let (log, recovered) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        assert!((0..64).all(|group| recovered.groups[&group].entries.len() == 10));
        log.close().await.unwrap();
    });
}

#[test]
fn segments_are_reused_while_an_idle_group_keeps_its_entries() {
    on_a_core(|rt, dir| async move {
        let (log, _) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        let mut batch = Batch::new();
        batch.append(1, 1, [entry(1, b"idle"), entry(1, b"for ever")]);
        batch.put_state(1, 9, b"state");
        log.write(batch).await.unwrap();
        let limits = PurgeLimits { segments_target: 2, ..PurgeLimits::default() };
        let mut gone = 0;
        for index in 1..=200u64 {
            let mut batch = Batch::new();
            batch.append(2, index, [entry(1, &[7; 5000])]);
            batch.compact(2, index.saturating_sub(3), 1);
            log.write(batch).await.unwrap();
            let purged = log.purge(&limits).await.unwrap();
            assert_eq!(purged.stragglers, []);
            gone += purged.segments;
        }
        assert!(gone > 20, "{gone} segments went");
        assert!(log.stats().segments <= 3);
        assert_eq!(log.entries(1, 1..3, 1000).await.unwrap()[1].payload, &b"for ever"[..]);
        log.close().await.unwrap();
        let files = std::fs::read_dir(&dir).unwrap().count();
        assert!(files <= 7, "{files} files");

        let (log, recovered) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        assert_eq!(&recovered.groups[&1].states[&9][..], b"state");
        assert_eq!(recovered.groups[&1].entries.len(), 2);
        assert_eq!(recovered.groups[&2].entries.len(), 3);
        log.close().await.unwrap();
    });
}

#[test]
fn a_group_that_writes_while_it_is_to_be_moved_ends_no_purge() {
    on_a_core(|rt, dir| async move {
        let (log, _) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        let mut batch = Batch::new();
        batch.put_state(1, 9, b"state");
        log.write(batch).await.unwrap();
        for index in 1..=60u64 {
            let mut batch = Batch::new();
            batch.append(2, index, [entry(1, &[7; 5000])]);
            batch.compact(2, index.saturating_sub(3), 1);
            log.write(batch).await.unwrap();
        }
        let mut batch = Batch::new();
        batch.put_state(1, 9, b"newer");
        let limits = PurgeLimits { segments_target: 2, ..PurgeLimits::default() };
        // The state is written before the move of the old one gets its turn.
        let (written, purged) = futures_lite::future::zip(log.write(batch), log.purge(&limits)).await;
        written.unwrap();
        purged.expect("a move that was overtaken is no failure");
        assert_eq!(log.state(1, 9).as_deref(), Some(&b"newer"[..]));
        log.close().await.unwrap();
    });
}

#[test]
fn a_busy_group_with_much_in_an_old_segment_is_named_as_a_straggler() {
    on_a_core(|rt, dir| async move {
        let (log, _) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        for index in 1..=60u64 {
            let mut batch = Batch::new();
            batch.append(5, index, [entry(1, &[1; 5000])]);
            log.write(batch).await.unwrap();
        }
        let limits =
            PurgeLimits { segments_target: 2, rewrite_group_bytes_max: 10_000, ..PurgeLimits::default() };
        let purged = log.purge(&limits).await.unwrap();
        assert_eq!(purged.segments, 0);
        assert_eq!(purged.stragglers.iter().map(|s| s.group).collect::<Vec<_>>(), [5]);
        let mut batch = Batch::new();
        batch.compact(5, 60, 1);
        log.write(batch).await.unwrap();
        assert!(log.purge(&limits).await.unwrap().segments > 3);
        log.close().await.unwrap();
    });
}

#[test]
fn old_entries_are_read_from_disk() {
    on_a_core(|rt, dir| async move {
        let options = LogOptions { cache_bytes_max: 1, ..small(SyncMethod::DurableWrite) };
        let (log, _) = Log::open(&rt, &dir, options).await.unwrap();
        for index in 1..=40u64 {
            let mut batch = Batch::new();
            batch.append(5, index, [entry(index, &vec![index as u8; index as usize * 1000])]);
            log.write(batch).await.unwrap();
        }
        let all = log.entries(5, 1..41, usize::MAX).await.unwrap();
        assert_eq!(all.len(), 40);
        assert!(all.iter().all(|e| e.payload == vec![e.index as u8; e.index as usize * 1000]));
        let some = log.entries(5, 3..41, 8_000).await.unwrap();
        assert_eq!(some.iter().map(|e| e.index).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(log.entries(5, 30..41, 1).await.unwrap().len(), 1);
        assert_eq!(log.entries(5, 41..50, 1).await.unwrap(), []);
        log.close().await.unwrap();
    });
}

#[test]
fn a_record_larger_than_a_segment_gets_its_own() {
    on_a_core(|rt, dir| async move {
        let (log, _) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        for index in 1..=4 {
            let mut batch = Batch::new();
            batch.append(5, index, [entry(1, &vec![index as u8; 300_000])]);
            log.write(batch).await.unwrap();
        }
        log.close().await.unwrap();
        let (log, recovered) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        assert_eq!(recovered.groups[&5].entries.len(), 4);
        assert_eq!(log.entries(5, 4..5, 1 << 20).await.unwrap()[0].payload, vec![4; 300_000]);
        log.close().await.unwrap();
    });
}

#[test]
fn a_removed_group_is_gone() {
    on_a_core(|rt, dir| async move {
        let (log, _) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        let mut batch = Batch::new();
        batch.append(1, 1, [entry(1, b"x")]);
        batch.put_state(1, 0, b"y");
        log.write(batch).await.unwrap();
        let mut batch = Batch::new();
        batch.remove(1);
        log.write(batch).await.unwrap();
        assert!(log.groups().is_empty());
        log.close().await.unwrap();
        let (log, recovered) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        assert!(recovered.groups.is_empty());
        log.close().await.unwrap();
    });
}

#[test]
fn what_could_not_be_read_back_is_refused_and_the_log_goes_on() {
    on_a_core(|rt, dir| async move {
        let (log, _) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        let payload = vec![1; 1 << 20];
        let mut batch = Batch::new();
        batch.append(5, 1, (0..256).map(|_| entry(1, &payload)));
        let fault = log.write(batch).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::TooLarge);
        assert!(fault.to_string().contains("at most 268435456"), "{fault}");
        let mut batch = Batch::new();
        batch.append(5, 1, [entry(1, b"small")]);
        log.write(batch).await.unwrap();
        log.close().await.unwrap();
        let (log, recovered) = open(&rt, &dir, SyncMethod::DurableWrite).await;
        assert_eq!(recovered.groups[&5].entries.len(), 1);
        log.close().await.unwrap();
    });
}

#[test]
fn settings_that_make_no_sense_are_refused_with_their_name() {
    on_a_core(|rt, dir| async move {
        let options = LogOptions { segment_bytes: 5000, ..LogOptions::default() };
        let fault = Log::open(&rt, &dir, options).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Io);
        assert!(fault.what.contains("segment_bytes is 5000"), "{fault}");
    });
}

#[test]
fn both_sync_methods_are_measured_and_nothing_is_left_behind() {
    on_a_core(|rt, dir| async move {
        rt.create_dir_all(&dir).await.unwrap();
        let report = measure_sync(&rt, &dir).await.unwrap();
        assert!(!report.durable_write.idle.is_zero() && !report.write_then_sync.busy.is_zero());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    });
}
