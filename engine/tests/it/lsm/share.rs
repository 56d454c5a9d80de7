//! A range that two trees show by the same files: what the second one shows, also after a restart and without the first, and that nothing
//! is written for it.

use std::path::Path;

use engine::error::FaultKind;
use engine::lsm::{Cf, Share, SharedTable, Tree, WriteBatch};
use engine::rt::sim;

use super::ingest::{FAMILIES, FROM, OTHER, TO, expected, ingest, inhabited, other_tree, shown};
use super::world::{fill, key, open, tiny};

async fn share(tree: &Tree) -> Share {
    tree.share(&key(FROM), &key(TO), FAMILIES).tables().await.unwrap()
}

#[test]
fn a_share_is_the_tree_of_its_begin_and_nothing_is_rewritten_for_it() {
    sim::run(1, move |rt| async move {
        let other = other_tree(&rt).await;
        let begun = other.share(&key(FROM), &key(TO), FAMILIES);
        // What comes later is not part of it, however often memory is flushed until then.
        fill(&other, 0, 400, 5);
        let tables = begun.tables().await.unwrap();
        assert!(tables.tables().len() > 3, "{tables:?}");
        let tree = inhabited(&rt).await;
        let before = tree.stats();
        tree.ingest_shared(ingest(Vec::new()), tables.tables().to_vec()).await.unwrap();
        assert_eq!(shown(&tree).await, expected());
        let after = tree.stats();
        assert_eq!(after.compacted_bytes, before.compacted_bytes, "no table is rewritten");
        assert_eq!(tree.flushed_index(7), 50);
        // What is written from now on is newer, and what is deleted is gone.
        fill(&tree, FROM, FROM + 50, 7);
        let mut batch = WriteBatch::new();
        batch.delete_range(Cf::Default, &key(FROM + 50), &key(TO));
        tree.write(&batch).unwrap();
        let newest: Vec<(String, String)> = shown(&tree).await;
        let of_default =
            |key: &str| newest.iter().find(|(name, _)| name.ends_with(key)).map(|(_, value)| value);
        assert_eq!(of_default("default key000103").map(String::as_str), Some("value of 103 in round 7"));
        assert_eq!(of_default("default key000203"), None);
        // Each tree goes on with the files as with its own.
        drop(tables);
        other.compact().await.unwrap();
        other.close().await;
        for name in rt.read_dir(Path::new(OTHER)).await.unwrap() {
            rt.remove(&Path::new(OTHER).join(name)).await.unwrap();
        }
        assert_eq!(shown(&tree).await, newest);
        tree.compact().await.unwrap();
        assert_eq!(shown(&tree).await, newest);
        tree.close().await;
        assert_eq!(shown(&open(&rt).await).await, newest);
    });
}

#[test]
fn the_first_tree_keeps_what_lies_outside_and_may_take_the_range_back() {
    sim::run(2, move |rt| async move {
        let other = other_tree(&rt).await;
        let first = shown(&other).await;
        let tree = inhabited(&rt).await;
        let there = share(&other).await;
        tree.ingest_shared(ingest(Vec::new()), there.tables().to_vec()).await.unwrap();
        drop(there);
        let mut batch = WriteBatch::new();
        FAMILIES.iter().for_each(|cf| batch.delete_range(*cf, &key(FROM), &key(TO)));
        other.write(&batch).unwrap();
        other.compact().await.unwrap();
        fill(&tree, FROM, FROM + 3, 3);
        let back = share(&tree).await;
        other.ingest_shared(ingest(Vec::new()), back.tables().to_vec()).await.unwrap();
        drop(back);
        let again = shown(&other).await;
        let changed = |n: u64| format!("default {}", String::from_utf8(key(n)).unwrap());
        let is_changed = |(name, _): &&(String, String)| (FROM..FROM + 3).any(|n| *name == changed(n));
        let rest = |rows: &[(String, String)]| -> Vec<(String, String)> {
            rows.iter().filter(|row| !is_changed(row)).cloned().collect()
        };
        assert_eq!(rest(&again), rest(&first));
        assert!(again.iter().filter(is_changed).all(|(_, value)| value.ends_with("round 3")));
        other.close().await;
        let other = Tree::open(&rt, Path::new(OTHER), tiny()).await.unwrap();
        assert_eq!(shown(&other).await, again);
    });
}

#[test]
fn what_does_not_lie_in_the_range_or_is_gone_is_refused_and_changes_nothing() {
    sim::run(3, move |rt| async move {
        let other = other_tree(&rt).await;
        let tree = inhabited(&rt).await;
        let before = shown(&tree).await;
        let wide = other.share(b"", b"", FAMILIES).tables().await.unwrap();
        let refused = tree.ingest_shared(ingest(Vec::new()), wide.tables().to_vec()).await.unwrap_err();
        assert_eq!(refused.kind, FaultKind::Foreign);
        let there = share(&other).await;
        let gone: Vec<SharedTable> =
            there.tables().iter().map(|table| table.clone().named("/nowhere".into())).collect();
        tree.ingest_shared(ingest(Vec::new()), gone).await.unwrap_err();
        assert_eq!(shown(&tree).await, before);
        tree.ingest_shared(ingest(Vec::new()), there.tables().to_vec()).await.unwrap();
        assert_eq!(shown(&tree).await, expected());
    });
}
