//! Files of a data directory that are no regular files: whoever opens a pipe waits for its other end, so it is looked at first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bench::process::{Node, NodeOptions};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::host::{directory, options, resp, run, start};

const DRAIN: Duration = Duration::from_secs(30);

/// Every file below `dir`, relative to it, at the same place below `copy`.
fn copy_files(dir: &Path, copy: &Path) -> Vec<PathBuf> {
    std::fs::create_dir_all(copy).expect("a writable directory");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a readable directory").flatten() {
        let to = copy.join(entry.file_name());
        if entry.path().is_dir() {
            files.extend(copy_files(&entry.path(), &to));
        } else {
            std::fs::copy(entry.path(), &to).expect("a readable file");
            files.push(to);
        }
    }
    files
}

fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).expect("a plain name")
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_named_by_inspect_and_by_a_start() {
    let directory = directory();
    let node = start(&directory);
    resp(node.resp, "SET a 1", "+OK\r\n");
    // The drain flushes, so that there is a table.
    node.process.terminate(DRAIN).expect("it drains");
    let (data, copy) = (directory.path().join("data"), directory.path().join("copy"));
    let mut named = Vec::new();
    for at in 0.. {
        let files = copy_files(&data, &copy);
        let Some(file) = files.get(at) else { break };
        std::fs::remove_file(file).expect("a writable directory");
        mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        let output = run(&["inspect", copy.to_str().expect("a plain path")]);
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains(name(file)), "{} is not named: {said}", file.display());
            assert!(!said.contains("not there"), "{} is there: {said}", file.display());
            named.push(name(file).to_owned());
        }
        // What is not needed may be made anew, and the node serves; it does not wait.
        match Node::start(&NodeOptions { data_dir: copy.clone(), ..options(&directory) }) {
            Ok(node) => node.process.terminate(DRAIN).expect("it drains"),
            Err(said) => {
                let said = said.to_string();
                assert!(said.contains(name(file)), "{} is not named: {said}", file.display());
                assert!(
                    named.contains(&name(file).to_owned()),
                    "inspect finds nothing in {}",
                    file.display()
                );
            }
        }
        std::fs::remove_dir_all(&copy).expect("a writable directory");
    }
    for kind in ["IDENT", "LOCK", "CURRENT", "MANIFEST-", ".seg", "END", ".table"] {
        assert!(
            named.iter().any(|name| name.contains(kind)),
            "a pipe as {kind} is taken for whole: {named:?}"
        );
    }
}
