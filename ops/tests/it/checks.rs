//! `ringkeep server --check` says what a start would fail with, without starting.

use std::process::{Command, Output};
use std::time::Duration;

use bench::process::Node;

use crate::host::{binary, directory, options, resp, run};

const DRAIN: Duration = Duration::from_secs(30);
const CODE: i32 = 78;

/// A check of `dir` on free ports, with more settings.
fn check(dir: &str, settings: &[&str]) -> (Output, String) {
    let mut arguments = vec!["server", "--check", "--data-dir", dir];
    let free = ["base_port=0", "resp_port=0", "status_port=0", "memory_bytes=512MiB"];
    free.iter().chain(settings).for_each(|pair| arguments.extend(["--set", *pair]));
    let output = run(&arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn a_check_fails_where_the_cpus_or_the_place_make_a_start_fail() {
    let directory = directory();
    let data = directory.path().join("data");
    let data = data.to_str().expect("a plain path");
    let (output, text) = check(data, &["cores=1", "cpus=1000"]);
    assert_eq!(output.status.code(), Some(CODE), "{text}");
    assert!(text.contains("cpus names CPU 1000") && text.contains("fix: choose among"), "{text}");
    let (output, text) = check("/proc/ringkeep", &["cores=1"]);
    assert_eq!(output.status.code(), Some(CODE), "{text}");
    let (output, text) = check(data, &["cores=1"]);
    assert!(output.status.success(), "{text}");
    assert!(!directory.path().join("data").exists(), "a check has made the directory");
    let member = ["server", "--check", "--data-dir", data, "--join", "no-port"];
    let output = run(&member);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(CODE) && text.contains("--join no-port"), "{text}");
}

#[test]
fn a_check_opens_the_stores_and_fails_once_none_of_them_can_be() {
    let directory = directory();
    let mut options = options(&directory);
    let one = options.arguments.iter().position(|word| word == "cores=1").expect("how tests start nodes");
    options.arguments[one] = "cores=2".into();
    let node = Node::start(&options).unwrap_or_else(|error| panic!("{error}"));
    resp(node.resp, "SET a 1", "+OK\r\n");
    node.process.terminate(DRAIN).expect("it drains");
    let data = options.data_dir.to_str().expect("a plain path");
    let (output, text) = check(data, &["cores=2"]);
    assert!(output.status.success() && !text.contains("cannot be opened"), "{text}");
    let lose = |store: &str| {
        std::fs::remove_file(options.data_dir.join(store).join("tree/CURRENT")).expect("every tree has one");
    };
    lose("store-2");
    let (output, text) = check(data, &["cores=2"]);
    assert!(output.status.success(), "the other store serves: {text}");
    assert!(text.contains("WARN  stores") && text.contains("store 2 cannot be opened"), "{text}");
    lose("store-1");
    let (output, text) = check(data, &["cores=2"]);
    assert_eq!(output.status.code(), Some(CODE), "{text}");
    assert!(text.contains("store 1 cannot be opened") && text.contains("no store can serve"), "{text}");
    let said = Node::start(&options).expect_err("nothing to serve").to_string();
    assert!(said.contains("no store can serve"), "{said}");
}

#[test]
fn a_variable_that_is_ignored_counts_as_the_warning_that_it_is() {
    let directory = directory();
    let warnings = |name: &str| {
        let mut command = Command::new(binary());
        command.args(["server", "--check", "--data-dir"]).arg(directory.path().join("data"));
        for pair in ["base_port=0", "resp_port=0", "status_port=0", "memory_bytes=512MiB", "cores=1"] {
            command.args(["--set", pair]);
        }
        let output = command.env(name, "debug").output().expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = text.lines().last().expect("a sum").to_owned();
        let number = last.split_whitespace().nth(2).and_then(|number| number.parse::<usize>().ok());
        number.unwrap_or_else(|| panic!("{text}"))
    };
    assert_eq!(warnings("RINGKEEP_LOGGING_LEVL"), warnings("UNRELATED") + 1);
}
