//! Files that an earlier build wrote, opened by this one. `fixtures/lsm-v3`, `-v4`, `-v5` and `-v5-expiry` are never rewritten; a new format
//! version gets a new directory beside them. Versions 1 and 2 were never released; 1 is refused as what it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::lsm::{Cf, Direction, Recovery, Tree, TreeOptions, Until, WriteBatch, inspect};
use engine::rt::{CoreOptions, start_core};

use super::world::{fill, key, tiny};

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(version)
}

/// Opening begins a new manifest, so the tests work on a copy.
fn copy(version: &str, to: &Path) {
    for entry in std::fs::read_dir(fixture(version)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn version_one_is_refused_by_name() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    copy("lsm-v1", dir.path());
    let path = dir.path().to_owned();
    start_core(&CoreOptions::default(), move |rt| async move {
        let fault = Tree::open(&rt, &path, TreeOptions::default()).await.unwrap_err();
        assert!(fault.what.contains("unknown format version"), "{fault}");
        assert!(fault.path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST-"), "{fault}");
    })
    .unwrap();
}

#[test]
fn version_three_opens_and_reads() {
    opens_and_reads("lsm-v3", None);
}

#[test]
fn version_four_has_the_states_of_groups() {
    opens_and_reads("lsm-v4", Some(b"state of 7 at 42"));
}

#[test]
fn version_five_has_range_deletes_in_tables_alone() {
    opens_and_reads("lsm-v5", Some(b"state of 7 at 42"));
}

/// Without its range deletes a table would show what was deleted, so a tree that cannot read them does not open, and says which file it is.
#[test]
fn a_tree_with_damaged_range_deletes_does_not_open() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    start_core(&CoreOptions::default(), move |rt| async move {
        let mut refused = Vec::new();
        for name in ["0000000002.table", "0000000003.table", "0000000004.table"] {
            copy("lsm-v5", &path);
            let file = path.join(name);
            let good = std::fs::read(&file).unwrap();
            let footer_at = good.len() - 80;
            for at in (0..footer_at).filter(|at| good[*at] != 0) {
                let mut bad = good.clone();
                bad[at] ^= 4;
                std::fs::write(&file, &bad).unwrap();
                if let Err(fault) = Recovery::read(&rt, &path, TreeOptions::default()).await {
                    assert_eq!(fault.path, file, "{fault}");
                    assert!(fault.what.contains("block"), "{fault}");
                    refused.push((name, at));
                }
            }
            std::fs::write(&file, &good).unwrap();
        }
        assert!(refused.len() > 30, "flips that were noticed: {refused:?}");
        assert!(
            refused.iter().all(|(name, _)| *name == refused[0].0),
            "one table has range deletes: {refused:?}"
        );
    })
    .unwrap();
}

fn opens_and_reads(version: &str, state: Option<&'static [u8]>) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    copy(version, dir.path());
    let path = dir.path().to_owned();
    start_core(&CoreOptions::default(), move |rt| async move {
        let tree = Tree::open(&rt, &path, TreeOptions::default()).await.unwrap();
        assert_eq!(tree.flushed_indexes(), [(1, 100), (7, 42)]);
        let mut iter = tree.iter(Cf::Default, b"", b"", Direction::Forward);
        for n in (0..100).filter(|n| !(20..30).contains(n) && *n != 50) {
            let (found, value) = iter.next().await.unwrap().unwrap();
            assert_eq!(
                (found.to_vec(), value.to_vec()),
                (key(n), format!("value of {n} in round 1").into_bytes())
            );
        }
        assert_eq!(iter.next().await.unwrap(), None);
        assert_eq!(&tree.get(Cf::Lock, b"lock").await.unwrap().unwrap()[..], b"held");
        assert_eq!(tree.get(Cf::Default, &key(25)).await.unwrap(), None);
        assert_eq!((tree.state(7).as_deref(), tree.state(1)), (state, None));
        tree.close().await;
        // The manifest that this version began has it as well.
        let tree = Tree::open(&rt, &path, TreeOptions::default()).await.unwrap();
        assert_eq!((tree.state(7).as_deref(), tree.flushed_index(7)), (state, 42));
        tree.close().await;
    })
    .unwrap();
}

#[test]
fn all_versions_pass_inspection() {
    for version in ["lsm-v3", "lsm-v4", "lsm-v5"] {
        passes_inspection(version);
    }
}

fn passes_inspection(version: &str) {
    let mut tables = 0;
    for entry in std::fs::read_dir(fixture(version)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".table") {
            tables += 1;
            inspect::table(&path).unwrap();
        } else if name.starts_with("MANIFEST") {
            let report = inspect::manifest(&path).unwrap();
            assert_eq!(report.torn_at, None);
            assert!(report.edits.iter().any(|edit| edit.contains("group 7 at 42")), "{:?}", report.edits);
        }
    }
    assert_eq!(tables, 3);
}

/// 2100-01-01, in milliseconds since the Unix epoch, and long ago.
const FAR: Until = Until(4_102_444_800_000);
const AGO: Until = Until(1_000);

/// Manifests are of version 5 still; the table that has values which expire is of version 4.
#[test]
fn tables_of_version_four_have_values_that_expire() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    copy("lsm-v5-expiry", dir.path());
    let table = inspect::table(&dir.path().join("0000000002.table")).unwrap();
    assert_eq!((table.found.entries, table.found.expiring), (40, 20));
    let footer = std::fs::read(dir.path().join("0000000002.table")).unwrap();
    assert_eq!(footer[footer.len() - 16], 4, "the version in the footer");
    let path = dir.path().to_owned();
    start_core(&CoreOptions::default(), move |rt| async move {
        let tree = Tree::open(&rt, &path, TreeOptions::default()).await.unwrap();
        check_expiry(&tree).await;
        tree.compact().await.unwrap();
        check_expiry(&tree).await;
        tree.close().await;
    })
    .unwrap();
}

async fn check_expiry(tree: &Tree) {
    let mut iter = tree.iter(Cf::Default, b"", b"", Direction::Forward);
    for n in (0..40).filter(|n| n % 4 != 1) {
        let (found, value) = iter.next().await.unwrap().unwrap();
        assert_eq!((found.to_vec(), value.to_vec()), (key(n), format!("value of {n}").into_bytes()));
        let timed = tree.timed(Cf::Default, &key(n)).await.unwrap().unwrap();
        assert_eq!(timed.until, if n % 4 == 3 { FAR } else { Until::NEVER });
    }
    assert_eq!(iter.next().await.unwrap(), None);
    assert_eq!(tree.get(Cf::Default, &key(1)).await.unwrap(), None);
}

/// The recipe of that fixture.
#[test]
fn the_recipe_of_the_fixture_with_expiry_still_works() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("lsm");
    start_core(&CoreOptions::default(), move |rt| async move {
        // What has expired long ago is to be in it.
        let expired_kept = Duration::from_secs(1 << 40);
        let options = TreeOptions { memtable_bytes: 1 << 20, l0_tables: 10, expired_kept, ..tiny() };
        let tree = Tree::open(&rt, &path, options).await.unwrap();
        let mut batch = WriteBatch::new();
        for n in 0..40 {
            let until = [Until::NEVER, AGO, Until::NEVER, FAR][n as usize % 4];
            batch.put_until(Cf::Default, &key(n), format!("value of {n}").as_bytes(), until);
        }
        batch.mark(7, 42);
        tree.write(&batch).unwrap();
        tree.flush().await.unwrap();
        check_expiry(&tree).await;
        tree.close().await;
        if let Some(to) = std::env::var_os("RINGKEEP_WRITE_FIXTURE") {
            write_fixture(&path, &PathBuf::from(to).join("expiry"));
        }
    })
    .unwrap();
}

fn write_fixture(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The recipe of the fixture, on a real disk: what it wrote then it must still be able to write and read now.
#[test]
fn the_recipe_of_the_fixture_still_works() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("lsm");
    start_core(&CoreOptions::default(), move |rt| async move {
        let options = TreeOptions { memtable_bytes: 1 << 20, l0_tables: 10, ..tiny() };
        let tree = Tree::open(&rt, &path, options).await.unwrap();
        fill(&tree, 0, 100, 1);
        let mut batch = WriteBatch::new();
        batch.mark(1, 100);
        tree.write(&batch).unwrap();
        tree.flush().await.unwrap();
        batch.clear();
        batch.put(Cf::Lock, b"lock", b"held");
        batch.delete(Cf::Default, &key(50));
        batch.delete_range(Cf::Default, &key(20), &key(30));
        batch.mark(7, 42);
        batch.describe(7, b"state of 7 at 42");
        tree.write(&batch).unwrap();
        tree.flush().await.unwrap();
        assert_eq!(tree.flushed_indexes(), [(1, 100), (7, 42)]);
        assert_eq!(tree.get(Cf::Default, &key(50)).await.unwrap(), None);
        tree.close().await;
        if let Some(to) = std::env::var_os("RINGKEEP_WRITE_FIXTURE") {
            write_fixture(&path, &PathBuf::from(to));
        }
    })
    .unwrap();
}
