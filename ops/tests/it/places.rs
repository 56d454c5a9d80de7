//! What is in the place of a data directory and is none, or may not be used: named for what it is, with the remedy that fits, by every
//! command that is given it. And what only reads needs no right to write.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::host::{binary, directory, resp, run, start};

const DRAIN: Duration = Duration::from_secs(30);

/// A user that owns nothing.
const STRANGER: u32 = 65_534;

/// The commands that are given a data directory.
const COMMANDS: [[&str; 2]; 4] =
    [["server", "--data-dir"], ["server", "--check"], ["inspect", "--"], ["doctor", "--data-dir"]];

/// How one of the commands is run on `dir`: small, and on free ports.
fn command([name, how]: [&str; 2], dir: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args([name, how]);
    if how == "--check" {
        command.arg("--data-dir");
    }
    command.arg(dir);
    if name != "inspect" {
        for pair in ["base_port=0", "resp_port=0", "status_port=0", "cores=1", "memory_bytes=512MiB"] {
            command.args(["--set", pair]);
        }
    }
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Expects all commands to refuse `dir` with these words.
fn is_refused(dir: &Path, words: &[&str], prepare: impl Fn(&mut Command)) {
    for how in COMMANDS {
        let mut command = command(how, dir);
        prepare(&mut command);
        let output = command.output().expect("the binary runs");
        let said = said(&output);
        assert!(!output.status.success(), "{how:?}: {said}");
        for word in words.iter().chain(&[dir.to_str().expect("a plain path")]) {
            assert!(said.contains(word), "{how:?} does not say \"{word}\": {said}");
        }
        assert!(!said.contains("kernel's log"), "{how:?} blames the disk: {said}");
    }
}

#[test]
fn what_is_in_the_place_of_a_data_directory_is_named_with_its_remedy() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("file"), "text").expect("a writable directory");
    symlink(at("unmounted/data"), at("dangling")).expect("a link");
    symlink(at("circle-2"), at("circle-1")).expect("a link");
    symlink(at("circle-1"), at("circle-2")).expect("a link");
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    let target = at("unmounted/data");
    let target = target.to_str().expect("a plain path");
    let cases: [(&str, &[&str]); 6] = [
        ("file", &["is a regular file", "move away what is there"]),
        ("dangling", &[target, "which does not exist", "mount the disk"]),
        ("circle-1", &["in a circle", "correct the link"]),
        ("pipe", &["is a pipe", "move away what is there"]),
        ("file/data", &["file is a regular file", "correct the path"]),
        ("circle-1/data", &["symbolic links", "correct the path"]),
    ];
    for (name, words) in cases {
        is_refused(&at(name), words, |_| {});
    }
    assert!(!at("unmounted").exists(), "a command has made what was missing");
}

#[test]
fn a_directory_that_this_user_may_not_use_is_named_and_no_disk_is_blamed() {
    let directory = directory();
    let open = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its owner");
    };
    open(directory.path(), 0o755);
    let is_root = rustix::process::geteuid().is_root();
    let as_stranger = |command: &mut Command| {
        if is_root {
            command.uid(STRANGER);
        }
    };
    let data = directory.path().join("data");
    std::fs::create_dir(&data).expect("a writable directory");
    open(&data, 0o000);
    is_refused(&data, &["this user may not", "chown"], as_stranger);
    open(&data, 0o755);
    let below = data.join("below");
    std::fs::create_dir(&below).expect("a writable directory");
    open(&data, 0o600);
    is_refused(&below, &["cannot be looked at", "chmod a+x"], as_stranger);
    open(&data, 0o755);
}

#[test]
fn what_inspect_cannot_read_is_answered_with_what_to_name() {
    let directory = directory();
    let pipe = directory.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    let file = directory.path().join("README.md");
    std::fs::write(&file, "text").expect("a writable directory");
    let [dir, pipe, file] = [directory.path(), &pipe, &file].map(|path| path.to_str().expect("a plain path"));
    let cases: [(&[&str], &str); 5] = [
        (&["log", dir], "is a directory: name one .seg file of a store's log directory"),
        (&["table", dir], "is a directory: name one table of a store's tree directory"),
        (&["manifest", dir], "is a directory: name one MANIFEST file"),
        (&["log", pipe], "is not a regular file: name one .seg file"),
        (&[file], "is a regular file: name another data directory"),
    ];
    for (arguments, words) in cases {
        let output = run(&[&["inspect"], arguments].concat());
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && !said.contains("os error"), "{said}");
    }
}

#[test]
fn a_missing_path_is_named_by_inspect_with_the_remedy() {
    let directory = directory();
    let missing = directory.path().join("nowhere");
    let missing = missing.to_str().expect("a plain path");
    for arguments in [&["inspect", missing][..], &["inspect", "log", missing], &["inspect", "table", missing]]
    {
        let output = run(arguments);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(missing) && said.contains("name"), "{said}");
        assert!(!said.contains("kernel's log"), "{said}");
    }
    assert!(!Path::new(missing).exists());
}

/// Every file below `dir` with its contents.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a readable directory").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(contents(&path)),
            path => {
                let bytes = std::fs::read(&path).expect("a readable file");
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// `ringkeep inspect` in a mount namespace of its own, where `dir` is read-only. Nothing if this user may make none.
fn inspect_read_only(dir: &Path) -> Option<Output> {
    let script =
        "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$0\" inspect \"$1\"";
    let namespace = ["-m", "-rm"].into_iter().find(|how| {
        let probe = "mount --bind \"$0\" \"$0\"";
        let made = Command::new("unshare").args([how, "sh", "-c", probe]).arg(dir).output();
        made.is_ok_and(|output| output.status.success())
    })?;
    let output =
        Command::new("unshare").args([namespace, "sh", "-c", script]).arg(binary()).arg(dir).output();
    Some(output.expect("unshare runs"))
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run says why")]
fn inspect_reads_what_is_on_a_read_only_file_system() {
    let directory = directory();
    let data = directory.path().join("data");
    let node = start(&directory);
    resp(node.resp, "SET a 1", "+OK\r\n");
    node.process.terminate(DRAIN).expect("it drains");
    for with_lock in [true, false] {
        if !with_lock {
            std::fs::remove_file(data.join("LOCK")).expect("a writable directory");
        }
        let before = contents(&data);
        let Some(output) = inspect_read_only(&data) else {
            eprintln!("skipped: this user may not mount anything, not even in a namespace of its own");
            return;
        };
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("store 1: ") && said.contains("everything is whole"), "{said}");
        assert!(said.contains("is mounted read-only; nothing was written"), "{said}");
        assert_eq!(contents(&data), before);
        let said = self::said(&run(&["inspect", data.to_str().expect("a plain path")]));
        assert!(!said.contains("read-only") && said.contains("everything is whole"), "{said}");
        assert_eq!(contents(&data), before, "inspect has written");
    }
}

#[test]
fn inspect_refuses_a_directory_that_a_server_uses() {
    let directory = directory();
    let node = start(&directory);
    let output = run(&["inspect", directory.path().join("data").to_str().expect("a plain path")]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("a server is using it; stop it first"), "{said}");
    resp(node.resp, "PING", "+PONG\r\n");
}
