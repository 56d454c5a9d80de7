//! Background work keeps to its rate, also where all that it writes are small tables.

use std::path::Path;
use std::time::Duration;

use engine::lsm::{Cf, ExportOptions, Tree, TreeOptions};
use engine::rt::{Mono, Rt, sim};

use super::world::{DIR, fill, key, open, tiny};

const RATE_BYTES_PER_SECOND: u64 = 4 << 10;

/// What has passed, and what writing a number of bytes costs at the rate.
fn pace(rt: &Rt, begin: Mono, bytes: u64) -> (Duration, Duration) {
    (rt.now().since(begin), Duration::from_micros(bytes * 1_000_000 / RATE_BYTES_PER_SECOND))
}

#[test]
fn an_export_keeps_to_its_rate() {
    sim::run(1, move |rt| async move {
        let tree = open(&rt).await;
        fill(&tree, 0, 500, 1);
        let options = ExportOptions {
            families: &Cf::ALL,
            piece_bytes: 700,
            bytes_per_second: Some(RATE_BYTES_PER_SECOND),
        };
        let begin = rt.now();
        let mut export = tree.export(&key(100), &key(300), options);
        let (mut bytes, mut pieces) = (0, 0);
        while let Some(piece) =
            export.next_piece(&Path::new(DIR).join(format!("piece{pieces}"))).await.unwrap()
        {
            bytes += piece.file_bytes;
            pieces += 1;
        }
        let (passed, cost) = pace(&rt, begin, bytes);
        assert!(
            pieces > 4 && passed >= cost && passed < 2 * cost,
            "{pieces} pieces: {passed:?} for {cost:?}"
        );
        drop(export);
        tree.close().await;
    });
}

#[test]
fn a_compaction_keeps_to_its_rate() {
    sim::run(2, move |rt| async move {
        let options = TreeOptions { compaction_bytes_per_second: Some(RATE_BYTES_PER_SECOND), ..tiny() };
        let tree = Tree::open(&rt, Path::new(DIR), options).await.unwrap();
        let begin = rt.now();
        for round in 0..3 {
            fill(&tree, 0, 500, round);
            rt.sleep(Duration::from_millis(50)).await;
        }
        while tree.stats().compactions < 3 {
            rt.sleep(Duration::from_millis(50)).await;
        }
        let bytes = tree.stats().compacted_bytes;
        let (passed, cost) = pace(&rt, begin, bytes);
        assert!(bytes > 0 && passed >= cost, "{bytes} bytes: {passed:?} for {cost:?}");
        tree.close().await;
    });
}
