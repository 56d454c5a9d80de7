//! `ringkeep server` as an operator meets it: keeps what it acknowledged, drains, and says what is wrong.

use std::time::Duration;

use crate::host::{binary, directory, get, options, resp, run, start};

const DRAIN: Duration = Duration::from_secs(30);

#[test]
fn what_was_acknowledged_outlives_a_crash_and_a_drain() {
    let directory = directory();
    let mut node = start(&directory);
    resp(node.resp, "SET greeting hello", "+OK\r\n");
    node.process.kill();
    let node = start(&directory);
    resp(node.resp, "GET greeting", "$5\r\nhello\r\n");
    resp(node.resp, "SET parting bye", "+OK\r\n");
    node.process.terminate(DRAIN).expect("SIGTERM ends a node with exit code 0");
    let node = start(&directory);
    resp(node.resp, "GET parting", "$3\r\nbye\r\n");
    resp(node.resp, "GET greeting", "$5\r\nhello\r\n");
}

#[test]
fn health_and_settings_are_served() {
    let directory = directory();
    let node = start(&directory);
    for path in ["/live", "/started", "/ready"] {
        assert_eq!(get(node.status, path).0, 200, "{path}");
    }
    let (_, verbose) = get(node.status, "/ready?verbose");
    let verbose: serde_json::Value = serde_json::from_str(&verbose).expect("JSON");
    assert_eq!(verbose["ready"], true);
    assert_eq!(verbose["conditions"][0]["name"], "phase");
    let settings: serde_json::Value = serde_json::from_str(&get(node.status, "/config").1).expect("JSON");
    assert_eq!(settings["cores"]["origin"], "flag --set cores");
    let status: serde_json::Value = serde_json::from_str(&get(node.status, "/status").1).expect("JSON");
    assert_eq!(status["resp"], node.resp.to_string());
}

#[test]
fn a_second_process_on_a_directory_is_refused() {
    let directory = directory();
    let node = start(&directory);
    let said =
        bench::process::Node::start(&options(&directory)).expect_err("the directory is held").to_string();
    assert!(said.contains("data directory") || said.contains("another process"), "{said}");
    resp(node.resp, "PING", "+PONG\r\n");
}

#[test]
fn an_occupied_port_is_named_with_its_setting() {
    let directory = directory();
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = held.local_addr().expect("an address").port().to_string();
    for setting in ["resp_port", "status_port"] {
        let ports = ["base_port", "resp_port", "status_port"];
        let set = |name: &&str| format!("{name}={}", if *name == setting { port.as_str() } else { "0" });
        let mut command = std::process::Command::new(binary());
        command.arg("server").arg("--data-dir").arg(directory.path().join(setting));
        for pair in ports.iter().map(set).chain(["cores=1".into(), "memory_bytes=512MiB".into()]) {
            command.arg("--set").arg(pair);
        }
        let output = command.output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains(setting) && said.contains(&port), "{said}");
    }
}

#[test]
fn unusable_configurations_end_with_78_and_the_remedy() {
    let directory = directory();
    let file = directory.path().join("node.toml");
    std::fs::write(&file, "resp_port = 7000\nresp_prot = 7001\n").expect("a writable directory");
    let file = file.to_str().expect("a plain path");
    let cases: [(&[&str], &str); 3] = [
        (&["server", "--config", file], "line 2: unknown key resp_prot: did you mean resp_port?"),
        (&["server", "--set", "log.sync=never"], "\"never\" is not one of auto, dsync, fdatasync"),
        (&["server", "--cores", "100000"], "cores = 100000"),
    ];
    for (arguments, words) in cases {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    let output = run(&["server", "--colour", "red"]);
    assert_eq!(output.status.code(), Some(2), "an unknown flag is wrong usage");
}

#[test]
fn a_check_lists_every_setting_and_starts_nothing() {
    let output = run(&["server", "--check", "--resp-port", "7777"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert!(
        text.lines().any(|line| line.starts_with("resp_port") && line.ends_with("flag --resp-port")),
        "{text}"
    );
    for key in store::config::KEYS {
        assert!(text.lines().any(|line| line.starts_with(key.name)), "{} is not in\n{text}", key.name);
    }
}

#[test]
fn doctor_answers_in_both_forms() {
    let table = run(&["doctor"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("io_uring"), "{table:?}");
    let json = run(&["doctor", "--output", "json"]);
    let parsed: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(parsed["findings"].as_array().is_some_and(|findings| findings.len() > 8), "{parsed}");
    assert_eq!(table.status.code(), json.status.code());
}

#[test]
fn inspect_reads_what_a_node_left_and_notices_damage() {
    let directory = directory();
    let node = start(&directory);
    resp(node.resp, "SET a 1", "+OK\r\n");
    node.process.terminate(DRAIN).expect("it drains");
    let log = find(&directory.path().join("data/store-1/log"), "0000000000000001")
        .expect("every log begins with it");
    let output = run(&["inspect", "log", log.to_str().expect("a plain path")]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("  record "), "{output:?}");
    let manifest = find(directory.path(), "MANIFEST-").expect("every tree has a manifest");
    let path = manifest.to_str().expect("a plain path");
    let output = run(&["inspect", "manifest", path]);
    assert!(output.status.success(), "{output:?}");
    let mut bytes = std::fs::read(&manifest).expect("a readable file");
    bytes[20] ^= 1;
    std::fs::write(&manifest, bytes).expect("a writable file");
    let output = run(&["inspect", "manifest", path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(path), "{output:?}");
}

fn find(dir: &std::path::Path, prefix: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, prefix) {
                return Some(found);
            }
        } else if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Some(path);
        }
    }
    None
}
