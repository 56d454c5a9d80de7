//! Paths and other words that are no text: to the system a path is bytes, so a node is started with any, and everything else that is no
//! text is refused by name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bench::process::{Node, NodeOptions};
use tempfile::TempDir;

use crate::host::{binary, directory, get, options, resp};

const DRAIN: Duration = Duration::from_secs(30);
/// A name that is no text, and how it is shown.
const NAME: &[u8] = b"da\xffta";
const SHOWN: &str = "da\u{fffd}ta";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The names in a directory.
fn names(directory: &TempDir) -> Vec<OsString> {
    std::fs::read_dir(directory.path())
        .expect("a readable directory")
        .flatten()
        .map(|entry| entry.file_name())
        .collect()
}

fn file(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a writable directory");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("its owner");
}

#[test]
fn a_node_runs_in_a_directory_whose_name_is_no_text() {
    let directory = directory();
    let options =
        NodeOptions { data_dir: directory.path().join(OsStr::from_bytes(NAME)), ..options(&directory) };
    let mut node = Node::start(&options).unwrap_or_else(|error| panic!("{error}"));
    resp(node.resp, "SET a 1", "+OK\r\n");
    let config = get(node.status, "/config").1;
    assert!(config.contains(SHOWN), "{config}");
    resp(
        node.resp,
        "CONFIG GET dir",
        &format!("*2\r\n$3\r\ndir\r\n${}\r\n", options.data_dir.display().to_string().len()),
    );
    node.process.kill();
    // What was acknowledged is in the log alone now, and in a table after the drain.
    for _ in 0..2 {
        let node = Node::start(&options).unwrap_or_else(|error| panic!("{error}"));
        resp(node.resp, "GET a", "$1\r\n1\r\n");
        node.process.terminate(DRAIN).expect("it drains");
    }
    for words in [&["inspect"][..], &["doctor", "--data-dir"]] {
        let output =
            Command::new(binary()).args(words).arg(&options.data_dir).output().expect("the binary runs");
        let said = said(&output);
        assert!(said.contains(SHOWN) || said.contains("everything is whole"), "{words:?}: {said}");
    }
    assert!(
        names(&directory)
            .iter()
            .all(|name| name.as_bytes() == NAME || name.to_str().is_some_and(|name| name != SHOWN))
    );
}

/// `server --check` says which directory it would use.
#[test]
fn a_path_that_is_no_text_comes_from_every_place() {
    let directory = directory();
    let path = |name: &[u8]| directory.path().join(OsStr::from_bytes(name));
    let data = path(NAME);
    std::fs::create_dir(&data).expect("a writable directory");
    let (password, secret) = (path(b"pass\xff"), path(b"secret\xff"));
    file(&password, "a password\n");
    file(&secret, "what all nodes of the cluster share\n");
    let pair = |key: &str, path: &PathBuf| {
        OsString::from_vec([key.as_bytes(), b"=", path.as_os_str().as_bytes()].concat())
    };
    let small = ["base_port=0", "resp_port=0", "status_port=0", "cores=1", "memory_bytes=512MiB"];
    let given = [("data_dir", &data), ("requirepass_file", &password), ("cluster_secret_file", &secret)];
    for place in ["a flag", "a pair", "the environment"] {
        let mut command = Command::new(binary());
        command.args(["server", "--check"]);
        for pair in small {
            command.args(["--set", pair]);
        }
        for (key, value) in given {
            match place {
                "a flag" => command.arg(format!("--{}", key.replace('_', "-"))).arg(value),
                "a pair" => command.arg("--set").arg(pair(key, value)),
                "the environment" => command.env(format!("RINGKEEP_{}", key.to_ascii_uppercase()), value),
                other => unreachable!("{other} is no place for a path"),
            };
        }
        let output = command.output().expect("the binary runs");
        let said = said(&output);
        assert!(output.status.success() && said.contains(SHOWN), "{place}: {said}");
        assert!(said.contains("requirepass_file = ") && said.contains("(set)"), "{place}: {said}");
    }
    assert_eq!(std::fs::read_dir(&data).expect("a readable directory").count(), 0, "a check has written");
}

#[test]
fn whatever_else_is_no_text_is_refused_by_name() {
    let bytes = OsStr::from_bytes(NAME);
    let cases: [(&[&str], &str); 5] = [
        (&["server", "--data-dir", "x", "--listen"], "--listen da\u{fffd}ta"),
        (&["server", "--set", "insecure=true", "--join"], "--join da\u{fffd}ta"),
        (&["server", "--set"], "--set da\u{fffd}ta: write KEY=VALUE"),
        (&["ctl", "region", "key"], "da\u{fffd}ta: it is not text in UTF-8"),
        (&["ctl", "--cluster-secret-file", "x", "--pd"], "--pd da\u{fffd}ta"),
    ];
    for (words, named) in cases {
        let output = Command::new(binary()).args(words).arg(bytes).output().expect("the binary runs");
        let said = said(&output);
        assert!(!output.status.success() && said.contains(named), "{words:?}: {said}");
    }
    for (variable, key) in [("RINGKEEP_REQUIREPASS", "requirepass"), ("RINGKEEP_CORES", "cores")] {
        let output = Command::new(binary()).args(["server", "--check"]).env(variable, bytes).output();
        let said = said(&output.expect("the binary runs"));
        assert!(said.contains(variable) && said.contains(&format!("{key}: its value is not text")), "{said}");
        assert!(!said.contains(SHOWN), "it may be a secret: {said}");
    }
}
