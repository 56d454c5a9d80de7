//! Files of a data directory that are no regular files: whoever opens a pipe waits for its other end, so it is looked at first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bench::process::Node;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::host::{directory, options, resp, run, start};

/// Every file below `dir`.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a readable directory").flatten() {
        match entry.path().is_dir() {
            true => files(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

/// Puts a pipe in the place of `file` while `look` looks.
fn with_pipe<T>(file: &Path, aside: &Path, look: impl FnOnce() -> T) -> T {
    std::fs::rename(file, aside).expect("a writable directory");
    mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let seen = look();
    // A node that has served may have made it anew.
    if !file.is_file() {
        std::fs::rename(aside, file).expect("a writable directory");
    }
    seen
}

/// The part of a path that messages show of any file of the directory.
fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).expect("a plain name")
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_named_by_inspect_and_by_a_start() {
    let directory = directory();
    let node = start(&directory);
    resp(node.resp, "SET a 1", "+OK\r\n");
    // The drain flushes, so that there is a table.
    node.process.terminate(Duration::from_secs(30)).expect("it drains");
    let (data, aside) = (directory.path().join("data"), directory.path().join("aside"));
    let mut all = Vec::new();
    files(&data, &mut all);
    let kinds = ["IDENT", "CURRENT", "MANIFEST-", ".seg", ".table"];
    for kind in kinds {
        assert!(all.iter().any(|file| name(file).contains(kind)), "no {kind} in {all:?}");
    }
    let mut named = Vec::new();
    for file in &all {
        let data = data.to_str().expect("a plain path");
        let said = with_pipe(file, &aside, || {
            let output = run(&["inspect", data]);
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            (output.status.success(), said)
        });
        if !said.0 {
            assert!(said.1.contains(name(file)), "{} is not named: {}", file.display(), said.1);
            assert!(said.1.contains("not a regular file"), "{}: {}", file.display(), said.1);
            named.push(name(file));
        }
        // What is not needed may be made anew, and the node serves; it does not wait.
        match with_pipe(file, &aside, || {
            Node::start(&options(&directory)).map_err(|failed| failed.to_string())
        }) {
            Ok(node) => node.process.terminate(Duration::from_secs(30)).expect("it drains"),
            Err(said) => {
                assert!(said.contains(name(file)) && said.contains("not a regular file"), "{said}");
                assert!(named.contains(&name(file)), "{} keeps a node from starting: {said}", file.display());
            }
        }
    }
    for kind in kinds {
        assert!(
            named.iter().any(|name| name.contains(kind)),
            "a pipe as {kind} is taken for whole: {named:?}"
        );
    }
}
