//! Values that expire, through every way in which a tree has them: memory, tables, rows, walks, exports, and compactions, which give
//! their space back.

use std::path::Path;

use super::*;
use crate::rt::sim;
use crate::rt::sim::{Options, World};

const DIR: &str = "/t";
const MINUTE: Duration = Duration::from_secs(60);

fn key(n: u32) -> Vec<u8> {
    format!("k{n:04}").into_bytes()
}

fn options() -> TreeOptions {
    TreeOptions { block_bytes: 256, l0_tables: 100, expired_kept: 2 * MINUTE, ..TreeOptions::default() }
}

fn soon(rt: &Rt) -> Until {
    Until(WallMs::from(rt.wall() + MINUTE).0)
}

fn write(tree: &Tree, fill: impl FnOnce(&mut WriteBatch)) {
    let mut batch = WriteBatch::new();
    fill(&mut batch);
    tree.write(&batch).unwrap();
}

/// Keys that a walk finds, both ways.
async fn keys(tree: &Tree) -> Vec<Vec<u8>> {
    let mut both = Vec::new();
    for direction in [Direction::Forward, Direction::Reverse] {
        for limits in [WalkLimits::NONE, WalkLimits { keys_only: true, ..WalkLimits::NONE }] {
            let mut iter = tree.snapshot().walk(Cf::Default, b"", b"", direction, limits);
            let mut keys = Vec::new();
            while let Some((key, value)) = iter.next().await.unwrap() {
                let expected = tree.get(Cf::Default, &key).await.unwrap().unwrap();
                assert_eq!(value, if limits.keys_only { Bytes::new() } else { expected });
                keys.push(key.to_vec());
            }
            if direction == Direction::Reverse {
                keys.reverse();
            }
            both.push(keys);
        }
    }
    assert!(both.windows(2).all(|pair| pair[0] == pair[1]), "{both:?}");
    both.pop().unwrap()
}

/// In memory, in level 0, in the row cache, at the bottom; with values that a walk reads later because they are long.
#[test]
fn a_value_is_gone_at_its_moment_wherever_it_lies() {
    for long in [false, true] {
        sim::run(3, move |rt| async move {
            let tree = Tree::open(&rt, Path::new(DIR), options()).await.unwrap();
            let value = if long { vec![b'v'; 100 << 10] } else { b"value".to_vec() };
            for (round, place) in ["memory", "a table", "the bottom"].into_iter().enumerate() {
                let until = soon(&rt);
                write(&tree, |batch| {
                    batch.put(Cf::Default, &key(1), &value);
                    batch.put_until(Cf::Default, &key(2), b"an older value, which it hides", Until::NEVER);
                });
                if round > 0 {
                    tree.flush().await.unwrap();
                }
                write(&tree, |batch| batch.put_until(Cf::Default, &key(2), &value, until));
                match round {
                    0 => {}
                    1 => tree.flush().await.unwrap(),
                    _ => tree.compact().await.unwrap(),
                }
                for _ in 0..3 {
                    // From the second time on the row cache has it.
                    let timed = tree.timed(Cf::Default, &key(2)).await.unwrap().unwrap();
                    assert_eq!((&timed.value[..], timed.until), (&value[..], until), "{place}");
                }
                assert_eq!(tree.snapshot().length(Cf::Default, &key(2)).await.unwrap(), Some(value.len()));
                assert_eq!(keys(&tree).await, [key(1), key(2)], "{place}");
                let (before, unread) = (tree.snapshot(), tree.snapshot());
                assert!(before.get(Cf::Default, &key(2)).await.unwrap().is_some());
                rt.sleep(MINUTE).await;
                assert_eq!(tree.get(Cf::Default, &key(2)).await.unwrap(), None, "{place}");
                assert_eq!(tree.length_now(Cf::Default, &key(2)), Some(None), "{place}");
                assert_eq!(keys(&tree).await, [key(1)], "{place}");
                let seen = before.get(Cf::Default, &key(2)).await.unwrap();
                assert_eq!(seen.as_deref(), Some(&value[..]), "one moment for all that a snapshot reads");
                assert_eq!(unread.get(Cf::Default, &key(2)).await.unwrap(), None);
            }
            tree.close().await;
        });
    }
}

fn bytes(tree: &Tree) -> u64 {
    tree.stats().levels.iter().map(|(_, bytes)| bytes).sum()
}

#[test]
fn a_compaction_gives_the_space_back_some_time_later_and_uncovers_nothing() {
    sim::run(4, |rt| async move {
        let tree = Tree::open(&rt, Path::new(DIR), options()).await.unwrap();
        write(&tree, |batch| (0..200).for_each(|n| batch.put(Cf::Default, &key(n), b"old")));
        tree.compact().await.unwrap();
        let (small, until) = (bytes(&tree), soon(&rt));
        let rng = crate::rt::rng::Rng::new(1);
        let noise = || (0..500).map(|_| rng.next() as u8).collect::<Vec<u8>>();
        write(&tree, |batch| {
            for n in 0..400 {
                batch.put_until(Cf::Default, &key(n), &noise(), until);
            }
        });
        tree.flush().await.unwrap();
        let large = bytes(&tree);
        assert!(large > small + 100_000, "{small} {large}");
        rt.sleep(2 * MINUTE).await;
        write(&tree, |batch| batch.put(Cf::Lock, b"x", b"y"));
        tree.compact().await.unwrap();
        assert_eq!(tree.stats().expired, 0, "its clock may be ahead");
        assert!(bytes(&tree) > large / 2);
        assert_eq!(keys(&tree).await, Vec::<Vec<u8>>::new());
        rt.sleep(2 * MINUTE).await;
        // Above something older it stays as a delete.
        write(&tree, |batch| batch.put_until(Cf::Default, &key(7), b"over when it is flushed", Until(1)));
        tree.flush().await.unwrap();
        assert_eq!(tree.stats().expired, 1);
        assert_eq!(keys(&tree).await, Vec::<Vec<u8>>::new());
        tree.compact().await.unwrap();
        assert_eq!(keys(&tree).await, Vec::<Vec<u8>>::new());
        assert_eq!(tree.stats().expired, 400);
        assert!(bytes(&tree) < large / 10, "{} of {large}", bytes(&tree));
        tree.close().await;
    });
}

/// Nothing is dropped before its time because a clock was ahead for a while.
#[test]
fn a_clock_that_was_ahead_for_a_while_costs_no_value() {
    let world = World::new(5, Options::default());
    let node = world.node(0);
    let live = |ahead: bool| {
        let running = world.node(0).start(0, move |rt| async move {
            let tree = Tree::open(&rt, Path::new(DIR), options()).await.unwrap();
            if tree.flushed_index(1) == 0 {
                let until = soon(&rt);
                write(&tree, |batch| {
                    batch.put_until(Cf::Default, b"k", b"v", until);
                    batch.mark(1, 1);
                });
            }
            tree.flush().await.unwrap();
            write(&tree, |batch| batch.put(Cf::Default, b"other", b"x"));
            tree.compact().await.unwrap();
            let found = tree.get(Cf::Default, b"k").await.unwrap();
            assert_eq!(found.is_none(), ahead);
            tree.close().await;
        });
        world.block_on(running).unwrap();
        world.node(0).kill();
    };
    live(false);
    node.jump_wall(MINUTE.as_nanos() as i64 * 5 / 2);
    live(true);
    node.jump_wall(MINUTE.as_nanos() as i64 * -5 / 2);
    live(false);
}

/// An export is no matter of the clock: what has expired here may not have there.
#[test]
fn an_export_carries_the_moments_and_what_has_expired() {
    sim::run(6, |rt| async move {
        let tree = Tree::open(&rt, Path::new(DIR), options()).await.unwrap();
        let until = soon(&rt);
        write(&tree, |batch| {
            batch.put(Cf::Default, &key(1), b"stays");
            batch.put_until(Cf::Default, &key(2), b"goes", until);
            batch.put_until(Cf::Default, &key(3), b"is gone", Until(1));
        });
        let export = ExportOptions { families: &[Cf::Default], piece_bytes: 1 << 20, bytes_per_second: None };
        let path = Path::new("/piece");
        let piece = tree.export(b"", b"", export).next_piece(path).await.unwrap().unwrap();
        assert_eq!(piece.entries, 3);
        let other = Tree::open(&rt, Path::new("/u"), options()).await.unwrap();
        let ingest = Ingest {
            group: 1,
            applied: 1,
            state: None,
            others: Vec::new(),
            families: &[Cf::Default],
            ranges: vec![(Vec::new(), Vec::new())],
            pieces: vec![(path.to_owned(), piece)],
        };
        other.ingest(ingest).await.unwrap();
        assert_eq!(keys(&other).await, [key(1), key(2)]);
        assert_eq!(other.timed(Cf::Default, &key(2)).await.unwrap().unwrap().until, until);
        rt.sleep(MINUTE).await;
        assert_eq!(keys(&other).await, [key(1)]);
        tree.close().await;
        other.close().await;
    });
}

/// The format of a table says whether anything in it expires, so that earlier versions read those in which nothing does.
#[test]
fn a_table_is_of_the_newest_format_only_if_something_in_it_expires() {
    sim::run(7, |rt| async move {
        let dir = Path::new(DIR);
        let tree = Tree::open(&rt, dir, options()).await.unwrap();
        let mut formats = Vec::new();
        for until in [Until::NEVER, soon(&rt)] {
            write(&tree, |batch| batch.put_until(Cf::Default, b"k", b"v", until));
            tree.flush().await.unwrap();
            let newest = tree.shared.version.borrow().tables().map(|table| table.meta.file).max().unwrap();
            let path = dir.join(table::read::file_name(newest));
            let file = rt.open(&path, crate::rt::OpenMode::Read).await.unwrap();
            let bytes = file.len().await.unwrap();
            let whole = file.read_at(0, bytes as usize).await.unwrap();
            let footer = table::Footer::decode(&whole).unwrap();
            formats.push((footer.expires, whole[whole.len() - 16]));
        }
        assert_eq!(formats, [(false, 3), (true, 4)]);
        tree.close().await;
    });
}
