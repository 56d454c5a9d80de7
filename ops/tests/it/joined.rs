//! Processes of one cluster on loopback, started as an operator starts them.

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
