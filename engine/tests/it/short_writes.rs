//! Real writes that the kernel cuts short: the rest is asked for again, so that the reason comes to light.
//!
//! A limit on the length of files cuts a write as a disk does that fills up within it, and unlike such a disk every host has one. It
//! is a limit of a whole process, so the writes are made in a child, by this same test.

use std::process::Command;

use engine::error::Shortage;
use engine::rt::{BLOCK_BYTES, CoreOptions, Meanwhile, OpenMode, start_core};

const CHILD: &str = "RINGKEEP_TEST_FILES_ARE_LIMITED";

/// The limits, one of them within a block, in the shell's unit, which is 512 bytes or twice that.
const LIMITS: [&str; 2] = ["320", "323"];

/// Much more than the limits.
const WRITE_BYTES: usize = 1 << 20;

#[test]
fn a_write_that_is_cut_short_fails_with_the_reason_for_which_the_rest_does() {
    if std::env::var_os(CHILD).is_some() {
        return write_beyond_the_limit();
    }
    let name = "short_writes::a_write_that_is_cut_short_fails_with_the_reason_for_which_the_rest_does";
    let limited = "trap '' XFSZ && ulimit -f \"$2\" && exec \"$0\" --exact \"$1\" --nocapture";
    for limit in LIMITS {
        let child = Command::new("sh")
            .args(["-c", limited])
            .arg(std::env::current_exe().unwrap())
            .args([name, limit])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        let complained = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{limit}: {said}\n{complained}");
        assert!(said.contains("1 passed"), "the child ran something else: {said}");
    }
}

fn write_beyond_the_limit() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let urgent = [Meanwhile::GoOn, Meanwhile::Block].map(Some);
    let ways =
        [(None, false)].into_iter().chain(urgent.into_iter().flat_map(|way| [(way, false), (way, true)]));
    for (number, (way, sync)) in ways.enumerate() {
        let path = dir.path().join(number.to_string());
        let (error, len) = start_core(&CoreOptions::default(), move |rt| async move {
            let file = rt.open(&path, OpenMode::Create).await.unwrap();
            let mut buf = rt.alloc(WRITE_BYTES);
            buf.fill(7);
            let written = match way {
                None => file.write_at(buf, 0).await,
                Some(meanwhile) => file.write_urgently(buf, 0, sync, meanwhile).await,
            };
            let len = file.len().await.unwrap();
            file.close().await.unwrap();
            (written.unwrap_err(), len)
        })
        .unwrap();
        assert!(
            len >= BLOCK_BYTES as u64 && len < WRITE_BYTES as u64,
            "{way:?}: it was not cut short: {len}"
        );
        assert_eq!(Shortage::of(&error), Some(Shortage::FileLength), "{way:?} {sync}: {error}");
    }
}
