//! Processes of one cluster on loopback, started as an operator starts them.

use std::net::SocketAddr;

use crate::host::{ask_members, directory, get, options, run};
use bench::process::Node;

fn join(directory: &tempfile::TempDir, members: Option<&str>) -> Node {
    let mut options = options(directory);
    if let Some(members) = members {
        options.arguments.extend(["--join".to_owned(), members.to_owned()]);
    }
    Node::start(&options).unwrap_or_else(|error| panic!("{error}"))
}

fn node_id(node: &Node) -> String {
    let page: serde_json::Value = serde_json::from_str(&get(node.status, "/status").1).expect("JSON");
    page["node"].as_str().expect("an id").to_owned()
}

#[test]
fn three_processes_make_a_cluster_and_come_back() {
    let directories = [directory(), directory(), directory()];
    let first = join(&directories[0], None);
    // A port at which nothing listens is passed over.
    let mut second = join(&directories[1], Some(&format!("127.0.0.1:1,{}", first.pd)));
    let third = join(&directories[2], Some(&format!("localhost:{}", second.pd.port())));
    let ids = [node_id(&first), node_id(&second), node_id(&third)];
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    [&first, &second, &third].iter().for_each(|node| ask_members(node.status));
    second.process.kill();
    let second = join(&directories[1], None);
    assert_eq!(node_id(&second), ids[1], "it is who it was, without a flag");
    ask_members(second.status);
}

/// What `ringkeep ctl` says; whether it succeeded.
fn ctl(pd: SocketAddr, words: &[&str]) -> (bool, String) {
    let output = run(&[&["ctl", "--pd", &pd.to_string()], words].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn an_operator_asks_any_member_for_stores_regions_and_changes() {
    let directories = [directory(), directory()];
    let first = join(&directories[0], None);
    let second = join(&directories[1], Some(&first.pd.to_string()));
    for pd in [first.pd, second.pd] {
        let (done, text) = ctl(pd, &["stores"]);
        assert!(done && text.lines().count() == 3 && text.contains(&first.pd.ip().to_string()), "{text}");
    }
    let (done, text) = ctl(second.pd, &["regions"]);
    assert!(done && text.lines().count() > 4, "{text}");
    let region = text.lines().nth(1).and_then(|line| line.split_whitespace().next()).expect("a region");
    let (done, text) = ctl(second.pd, &["region", "transfer", region, "77"]);
    assert!(!done && text.contains("no peer on store 77"), "{text}");
    let (done, text) = ctl(first.pd, &["region", "remove-peer", region, "1"]);
    assert!(!done && text.contains("could lead"), "{text}");
    let (done, text) = ctl(first.pd, &["region", "add-peer", "999999", "1"]);
    assert!(!done && text.contains("is not known"), "{text}");
    let (done, text) = ctl(first.pd, &["store", "remove", "77"]);
    assert!(!done && text.contains("has not joined"), "{text}");
}

#[test]
fn a_member_that_is_no_address_is_a_wrong_configuration() {
    let directory = directory();
    let data = directory.path().join("data");
    let output = run(&["server", "--data-dir", data.to_str().expect("a plain path"), "--join", "10.0.0.1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("--join 10.0.0.1") && said.contains("HOST:PORT"), "{said}");
    assert!(!data.exists(), "nothing is begun");
}
