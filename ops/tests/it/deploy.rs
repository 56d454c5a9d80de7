//! The files that operators deploy: they fit what the binary says and what its helpers accept.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::{ask_members, directory, get, installed, resp, start};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(deploy().join(name)).expect("a shipped file")
}

#[test]
fn alert_rules_pass_their_own_tests() {
    if !installed("promtool", "prometheus") {
        return;
    }
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "prometheus.yml"],
    ] {
        let output =
            Command::new("promtool").args(arguments).current_dir(deploy()).output().expect("promtool runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn every_alert_rule_has_a_test_in_which_it_fires() {
    let (rules, tests) = (read("alerts.yml"), read("alerts_test.yml"));
    let names: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 19, "{names:?}");
    for name in names {
        // By name in an expectation of its own, or as a labelled sample of the alerts that fire.
        let named = [format!("alertname: {name}\n"), format!("alertname=\"{name}\"")];
        assert!(named.iter().any(|named| tests.contains(named)), "alerts_test.yml never lets {name} fire");
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_can_provision() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "panel ids are unique");
    assert!(dashboard.get("__inputs").is_none(), "inputs are for importing by hand");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
    }
}

#[test]
fn every_metric_that_is_asked_for_exists() {
    let directory = directory();
    let node = start(&directory);
    resp(node.resp, "SET a 1", "+OK\r\n");
    ask_members(node.status);
    // The page is a copy that is at most a second old; what was counted just now appears with the next one.
    let mut page = String::new();
    while !page.contains("command=\"set\"") || !page.contains("method=\"GetMembers\"") {
        page = get(node.status, "/metrics").1;
        bench::clock::pause(std::time::Duration::from_millis(50));
    }
    for file in ["dashboard.json", "alerts.yml"] {
        let asked = metrics_in(&read(file));
        assert!(asked.len() > 5, "{file} asks for {asked:?}");
        for name in asked {
            let found = page
                .lines()
                .any(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")));
            assert!(found, "{file} asks for {name}, which the page does not have");
        }
    }
}

/// Words that begin as the names of metrics do.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = |word: &&str| word.starts_with("ringkeep_") || word.starts_with("process_");
    words.filter(ours).map(str::to_owned).collect()
}

#[test]
fn the_unit_keeps_what_io_uring_needs() {
    let unit = read("ringkeep.service");
    for line in ["LimitMEMLOCK=infinity", "RestartPreventExitStatus=78", "SystemCallFilter=@system-service"] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    let removed = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=~"));
    assert!(removed.into_iter().all(|groups| !groups.contains("@aio") && !groups.contains("@resources")));
    let profile: serde_json::Value = serde_json::from_str(&read("seccomp.json")).expect("JSON");
    let denied = profile["syscalls"][0]["names"].as_array().expect("names");
    assert!(denied.iter().all(|name| !name.as_str().unwrap_or_default().starts_with("io_uring")));
}
