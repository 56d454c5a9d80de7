//! Promises about files and names.

use std::io::ErrorKind;
use std::path::Path;
use std::task::Poll;

use super::{Stage, poll_once_and_leave, write_blocks};
use crate::in_place::look_at_lock;
use crate::rt::{BLOCK_BYTES, DirSeen, Meanwhile, OpenMode};

const BLOCK: u64 = BLOCK_BYTES as u64;

pub(super) async fn a_file_keeps_what_was_written(stage: Stage) {
    let (rt, path) = (&stage.rt, stage.path("f"));
    let file = write_blocks(rt, &path, 7, 3).await;
    file.sync().await.unwrap();
    file.close().await.unwrap();
    let file = rt.open(&path, OpenMode::WriteDurable).await.unwrap();
    let mut buf = rt.alloc(BLOCK_BYTES);
    buf[..2].copy_from_slice(&[1, 2]);
    file.write_at(buf, BLOCK).await.unwrap();
    let other = rt.open(&path, OpenMode::Read).await.unwrap();
    let seen = other.read_at(0, 3 * BLOCK_BYTES).await.unwrap();
    assert_eq!((seen[0], seen[2 * BLOCK_BYTES]), (7, 7));
    assert_eq!(seen[BLOCK_BYTES..BLOCK_BYTES + 3], [1, 2, 0]);
    assert_eq!(other.len().await.unwrap(), 3 * BLOCK);
    other.close().await.unwrap();
    file.close().await.unwrap();
}

pub(super) async fn a_read_is_short_only_at_the_end(stage: Stage) {
    let file = write_blocks(&stage.rt, &stage.path("f"), 1, 2).await;
    assert_eq!(file.read_at(0, BLOCK_BYTES).await.unwrap().len(), BLOCK_BYTES);
    assert_eq!(file.read_at(BLOCK, 4 * BLOCK_BYTES).await.unwrap().len(), BLOCK_BYTES);
    assert_eq!(file.read_at(8 * BLOCK, BLOCK_BYTES).await.unwrap().len(), 0);
}

pub(super) async fn opening_says_what_is_wrong(stage: Stage) {
    let rt = &stage.rt;
    let kind = |result: std::io::Result<_>| result.map(|_: crate::rt::File| ()).unwrap_err().kind();
    for mode in [OpenMode::Read, OpenMode::Write, OpenMode::WriteDurable] {
        assert_eq!(kind(rt.open(&stage.path("missing"), mode).await), ErrorKind::NotFound);
    }
    write_blocks(rt, &stage.path("f"), 1, 1).await.close().await.unwrap();
    assert_eq!(kind(rt.open(&stage.path("f"), OpenMode::Create).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(rt.open(&stage.path("no/f"), OpenMode::Create).await), ErrorKind::NotFound);
    let read_only = rt.open(&stage.path("f"), OpenMode::Read).await.unwrap();
    assert!(read_only.write_at(rt.alloc(BLOCK_BYTES), 0).await.is_err());
}

pub(super) async fn a_length_can_be_cut_and_grown(stage: Stage) {
    let file = write_blocks(&stage.rt, &stage.path("f"), 9, 3).await;
    file.set_len(BLOCK).await.unwrap();
    assert_eq!(file.len().await.unwrap(), BLOCK);
    file.set_len(2 * BLOCK).await.unwrap();
    let seen = file.read_at(0, 4 * BLOCK_BYTES).await.unwrap();
    assert_eq!(seen.len(), 2 * BLOCK_BYTES);
    assert!(seen[..BLOCK_BYTES].iter().all(|byte| *byte == 9));
    assert!(seen[BLOCK_BYTES..].iter().all(|byte| *byte == 0), "what was cut off does not come back");
}

pub(super) async fn writes_in_parallel_all_land(stage: Stage) {
    let rt = &stage.rt;
    let file = std::rc::Rc::new(write_blocks(rt, &stage.path("f"), 0, 1).await);
    let writes: Vec<_> = (0..32u64)
        .map(|n| {
            let mut buf = rt.alloc(BLOCK_BYTES);
            buf.fill(n as u8);
            let file = file.clone();
            rt.spawn(async move { file.write_at(buf, n * BLOCK).await })
        })
        .collect();
    for write in writes {
        write.await.unwrap();
    }
    file.sync().await.unwrap();
    for n in 0..32u64 {
        let seen = file.read_at(n * BLOCK, BLOCK_BYTES).await.unwrap();
        assert!(seen.iter().all(|byte| *byte == n as u8));
    }
}

pub(super) async fn a_write_whose_caller_left_ends_whole(stage: Stage) {
    let (rt, path) = (&stage.rt, stage.path("f"));
    let file = write_blocks(rt, &path, 1, 1).await;
    let mut buf = rt.alloc(BLOCK_BYTES);
    buf.fill(2);
    poll_once_and_leave(file.write_at(buf, 0)).await;
    file.close().await.unwrap();
    let file = rt.open(&path, OpenMode::Read).await.unwrap();
    let seen = file.read_at(0, BLOCK_BYTES).await.unwrap();
    assert!(seen.iter().all(|byte| *byte == seen[0]), "neither half of a block");
}

pub(super) async fn urgent_writes_land_whole_and_alone(stage: Stage) {
    let (rt, path) = (&stage.rt, stage.path("f"));
    let file = write_blocks(rt, &path, 9, 200).await;
    let write = |at: u64, sync: bool| {
        let mut buf = rt.alloc(2 * BLOCK_BYTES);
        buf.fill(at as u8);
        let meanwhile = if at % 5 == 4 { Meanwhile::Block } else { Meanwhile::GoOn };
        file.write_urgently(buf, at * 2 * BLOCK, sync, meanwhile)
    };
    // More than the ring of a core holds, with and without a sync, and some whose callers leave.
    let mut writes: Vec<_> = (0..90).map(|at| Box::pin(write(at, at % 3 != 0))).collect();
    std::future::poll_fn(|cx| {
        writes.retain_mut(|write| write.as_mut().poll(cx).map(Result::unwrap).is_pending());
        if writes.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    poll_once_and_leave(write(90, true)).await;
    poll_once_and_leave(write(91, false)).await;
    drop(writes);
    file.close().await.unwrap();
    let file = rt.open(&path, OpenMode::Read).await.unwrap();
    for at in 0..90u64 {
        let seen = file.read_at(at * 2 * BLOCK, 2 * BLOCK_BYTES).await.unwrap();
        assert!(seen.iter().all(|byte| *byte == at as u8), "the write at {at}");
    }
    assert!(file.read_at(184 * BLOCK, BLOCK_BYTES).await.unwrap().iter().all(|byte| *byte == 9));
}

pub(super) async fn an_urgent_write_that_cannot_be_done_says_why(stage: Stage) {
    let (rt, path) = (&stage.rt, stage.path("f"));
    write_blocks(rt, &path, 1, 1).await.close().await.unwrap();
    let file = rt.open(&path, OpenMode::Read).await.unwrap();
    for (sync, meanwhile) in [
        (false, Meanwhile::GoOn),
        (true, Meanwhile::GoOn),
        (false, Meanwhile::Block),
        (true, Meanwhile::Block),
    ] {
        let written = file.write_urgently(rt.alloc(BLOCK_BYTES), 0, sync, meanwhile).await;
        assert!(written.is_err(), "opened for reading");
    }
    assert_eq!(file.read_at(0, BLOCK_BYTES).await.unwrap()[0], 1);
}

pub(super) async fn names_follow_their_files(stage: Stage) {
    let rt = &stage.rt;
    let deep = stage.path("a/b/c");
    rt.create_dir_all(&deep).await.unwrap();
    rt.create_dir_all(&deep).await.unwrap();
    for name in ["2", "1", "3"] {
        write_blocks(rt, &deep.join(name), name.as_bytes()[0], 1).await.close().await.unwrap();
    }
    assert_eq!(rt.read_dir(&deep).await.unwrap(), ["1", "2", "3"]);
    rt.rename(&deep.join("1"), &deep.join("2")).await.unwrap();
    rt.remove(&deep.join("3")).await.unwrap();
    rt.sync_dir(&deep).await.unwrap();
    assert_eq!(rt.read_dir(&deep).await.unwrap(), ["2"]);
    assert_eq!(rt.read_small(&deep.join("2")).await.unwrap()[0], b'1');
    assert!(rt.exists(&deep.join("2")).await.unwrap() && !rt.exists(&deep.join("1")).await.unwrap());
    let missing = stage.path("missing");
    assert_eq!(rt.remove(&missing).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(rt.read_dir(&missing).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(rt.rename(&missing, &deep.join("2")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

pub(super) async fn a_file_lives_as_long_as_its_last_name(stage: Stage) {
    let rt = &stage.rt;
    let (first, second) = (stage.path("first"), stage.path("second"));
    write_blocks(rt, &first, 7, 2).await.close().await.unwrap();
    rt.link(&first, &second).await.unwrap();
    assert_eq!(rt.link(&first, &second).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let missing = stage.path("missing");
    assert_eq!(rt.link(&missing, &stage.path("third")).await.unwrap_err().kind(), ErrorKind::NotFound);
    let file = rt.open(&second, OpenMode::Write).await.unwrap();
    let mut changed = rt.alloc(BLOCK_BYTES);
    changed.fill(9);
    file.write_at(changed, 0).await.unwrap();
    file.close().await.unwrap();
    assert_eq!(rt.read_small(&first).await.unwrap()[0], 9, "both names are of one file");
    rt.remove(&first).await.unwrap();
    rt.sync_dir(&stage.dir).await.unwrap();
    assert_eq!(rt.read_dir(&stage.dir).await.unwrap(), ["second"]);
    let left = rt.read_small(&second).await.unwrap();
    assert_eq!((left.len(), left[0], left[BLOCK_BYTES]), (2 * BLOCK_BYTES, 9, 7));
}

pub(super) async fn a_small_file_is_replaced_whole(stage: Stage) {
    let (rt, path) = (&stage.rt, stage.path("CURRENT"));
    for text in ["first, and long", "second", ""] {
        rt.replace_small(&path, text.as_bytes()).await.unwrap();
        assert_eq!(rt.read_small(&path).await.unwrap(), text.as_bytes());
    }
    assert_eq!(rt.read_dir(&stage.dir).await.unwrap(), ["CURRENT"], "nothing is left beside it");
    assert_eq!(rt.read_small(&stage.path("missing")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

pub(super) async fn a_directory_is_locked_once(stage: Stage) {
    let rt = &stage.rt;
    let held = rt.lock_dir(&stage.dir).await.unwrap();
    assert_eq!(rt.lock_dir(&stage.dir).await.unwrap_err().kind(), ErrorKind::WouldBlock);
    let file = held.locked().clone();
    look_at_lock(rt, &file).await.unwrap();
    rt.remove(&file.path).await.unwrap();
    assert!(look_at_lock(rt, &file).await.is_err(), "another one can be made");
    rt.replace_small(&file.path, b"").await.unwrap();
    assert!(look_at_lock(rt, &file).await.is_err(), "another one can be locked");
    drop(held);
    rt.lock_dir(&stage.dir).await.unwrap();
}

pub(super) async fn a_directory_is_known_again_and_its_room(stage: Stage) {
    let look = async |path: &Path| stage.rt.look_at_dir(path).await.unwrap();
    let seen = look(&stage.dir).await;
    assert!(seen.free_bytes().unwrap() > 0);
    let id = |seen| match seen {
        DirSeen::There { id, free_bytes: _ } => id,
        DirSeen::Gone { missing } => panic!("{} is not there", missing.display()),
    };
    stage.rt.replace_small(&stage.path("f"), b"text").await.unwrap();
    assert_eq!(id(look(&stage.dir).await), id(seen));
    for gone in ["gone", "f/in-a-file"] {
        assert!(matches!(look(&stage.path(gone)).await, DirSeen::Gone { .. }), "{gone}");
    }
}

pub(super) async fn a_file_is_known_by_whatever_name(stage: Stage) {
    let (rt, path, other) = (&stage.rt, stage.path("f"), stage.path("g"));
    let look = async || {
        let paths = vec![path.clone(), other.clone(), path.join("in-a-file")];
        rt.look_at_files(paths).await.unwrap()
    };
    let file = write_blocks(rt, &path, 7, 2).await;
    let seen = look().await;
    let there = seen[0].as_ref().unwrap();
    assert_eq!((there.id, there.bytes, there.text.len()), (file.id(), 2 * BLOCK_BYTES as u64, 0));
    assert_eq!(&seen[1..], [None, None]);
    let again = rt.open(&path, OpenMode::Read).await.unwrap();
    assert_eq!(again.id(), file.id());
    rt.rename(&path, &other).await.unwrap();
    let seen = look().await;
    assert_eq!((&seen[0], seen[1].as_ref().unwrap().id), (&None, file.id()));
    rt.replace_small(&path, b"short").await.unwrap();
    rt.remove(&other).await.unwrap();
    let seen = look().await;
    let there = seen[0].as_ref().unwrap();
    // As long as the removed file is open, no other one is taken for it.
    assert!(there.id != file.id() && there.text == b"short" && seen[1].is_none());
    for open in [file, again] {
        open.close().await.unwrap();
    }
}
