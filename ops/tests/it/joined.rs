//! Processes of one cluster on loopback, started as an operator starts them.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use bench::clock::pause;
use bench::process::Node;
use engine::rt::{CoreOptions, Rt, start_core};
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::{Context, RawGetRequest, RawGetResponse, RawPutRequest, RawPutResponse};
use store::wire::proto::metapb;
use store::wire::proto::pdpb::{
    GetAllStoresRequest, GetAllStoresResponse, GetRegionRequest, GetRegionResponse,
};

use crate::host::{ask_members, binary, directory, get, options, resp, run};

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
    // What is logged of the system group, which gets members now, names it; its number means nothing to a reader.
    let logs = || -> String {
        let log = |directory: &tempfile::TempDir| std::fs::read_to_string(directory.path().join("node.log"));
        directories.iter().map(|directory| log(directory).expect("a log")).collect()
    };
    let is_named = |_| {
        pause(Duration::from_millis(20));
        logs().contains("group=\"system\"")
    };
    assert!((0..3000).any(is_named), "{}", logs());
    for bare in ["18446744073709551615", "action=Change", "action=Split", "term=Some"] {
        assert!(!logs().contains(bare), "{bare}: {}", logs());
    }
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
fn nodes_and_operators_prove_the_secret_of_their_cluster() {
    let directories = [directory(), directory(), directory()];
    let file = |name: &str, secret: &str| {
        let path = directories[0].path().join(name);
        std::fs::write(&path, secret).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its owner");
        path.display().to_string()
    };
    let (right, wrong) = (file("right", &"r".repeat(32)), file("wrong", &"w".repeat(32)));
    let node = |number: usize, members: &[&str], secret: Option<&str>| {
        let mut options = options(&directories[number]);
        let secret = secret.map(|secret| ["--cluster-secret-file", secret]);
        options
            .arguments
            .extend(members.iter().chain(secret.iter().flatten()).map(|word| (*word).to_owned()));
        Node::start(&options)
    };
    let first = node(0, &[], Some(&right)).unwrap_or_else(|error| panic!("{error}"));
    let pd = first.pd.to_string();
    for (secret, why) in
        [(Some(&wrong[..]), "another cluster_secret"), (None, "does not prove that it has it")]
    {
        assert!(node(2, &["--join", &pd], secret).is_err(), "it is not one of them");
        let log = std::fs::read_to_string(directories[2].path().join("node.log")).expect("a log");
        assert!(
            log.contains("cannot join") && log.contains(why) && log.contains("cluster_secret_file"),
            "{log}"
        );
        assert!(!log.contains("wwwwwww"), "{log}");
    }
    let second = node(1, &["--join", &pd], Some(&right)).unwrap_or_else(|error| panic!("{error}"));
    for pd in [first.pd, second.pd] {
        let (done, text) = ctl(pd, &["stores"]);
        assert!(!done && text.contains("--cluster-secret-file"), "{text}");
        let (done, text) = ctl(pd, &["stores", "--cluster-secret-file", &wrong]);
        assert!(!done && text.contains("another cluster_secret"), "{text}");
        let (done, text) = ctl(pd, &["stores", "--cluster-secret-file", &right]);
        assert!(done && text.lines().count() == 3, "{text}");
    }
    // An operator on the host of a node has what the node has.
    let set = directories[0].path().join("node.toml");
    std::fs::write(&set, format!("cluster_secret_file = \"{right}\"\n")).expect("a file");
    let set = set.display().to_string();
    for (name, value) in [
        ("RINGKEEP_CLUSTER_SECRET", &"r".repeat(32)),
        ("RINGKEEP_CLUSTER_SECRET_FILE", &right),
        ("RINGKEEP_CONFIG", &set),
    ] {
        let pd = first.pd.to_string();
        let words = ["ctl", "--pd", &pd, "stores"];
        let output = Command::new(binary()).args(words).env(name, value).output().expect("the binary runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let (done, text) = ctl(first.pd, &["stores", "--config", &set]);
    assert!(done, "{text}");
    // To one that has none, a secret cannot be proved.
    let open = node(2, &[], None).unwrap_or_else(|error| panic!("{error}"));
    let (done, text) = ctl(open.pd, &["stores", "--cluster-secret-file", &right]);
    assert!(
        !done && text.contains("connects to has none") && text.contains("set cluster_secret_file"),
        "{text}"
    );
    let (done, text) = ctl(first.pd, &["stores", "--cluster-secret-file", "/nowhere/at/all"]);
    assert!(!done && text.contains("/nowhere/at/all"), "{text}");
    for page in ["/status", "/metrics", "/ready?verbose"] {
        assert!(!get(first.status, page).1.contains("rrrrrrr"), "{page}");
    }
}

#[test]
fn an_operator_asks_any_member_about_the_scheduler() {
    let directories = [directory(), directory()];
    let first = join(&directories[0], None);
    let second = join(&directories[1], Some(&first.pd.to_string()));
    let (done, text) = ctl(second.pd, &["member"]);
    assert!(done && text.lines().count() == 2, "{text}");
    let row: Vec<&str> = text.lines().last().into_iter().flat_map(str::split_whitespace).collect();
    assert_eq!(row[1..3], ["leader", "up"], "{text}");
    assert!(text.contains(&first.pd.to_string()), "{text}");
    let (done, text) = ctl(second.pd, &["config"]);
    assert!(done && text.contains("leader_tolerance"), "{text}");
    let (done, text) = ctl(second.pd, &["config", "set", "leader_tolerance", "7"]);
    assert!(done && text.contains("leader_tolerance is 7, it was 5"), "{text}");
    let (_, text) = ctl(first.pd, &["config"]);
    let line = text.lines().find(|line| line.starts_with("leader_tolerance ")).expect("it is listed");
    assert!(line.ends_with(" 7"), "{text}");
    for (name, value, why) in [
        ("leader_tolerance", "some", "whole number"),
        ("speed", "1", "no setting"),
        ("low_space_percent", "0", "from 10 to 100"),
        ("store_disconnected_ms", "1", "store_disconnected_ms is 1; set it to a value from 3000 to 86400000"),
        ("maxreplicas", "3", "is max_replicas meant?"),
        ("store_down_ms", "3000", "store_down_ms (3000) must not be below store_unhealthy_ms (600000)"),
    ] {
        let (done, text) = ctl(first.pd, &["config", "set", name, value]);
        assert!(!done && text.contains(why), "{text}");
    }
    let (done, text) = ctl(first.pd, &["scheduler", "off", "balance-leader"]);
    assert!(done && text.contains("balance-leader is off"), "{text}");
    let (_, text) = ctl(second.pd, &["scheduler"]);
    let line = text.lines().find(|line| line.starts_with("balance-leader ")).expect("it is listed");
    assert!(line.ends_with("off"), "{text}");
    let (done, text) = ctl(first.pd, &["scheduler", "on", "balance-leader"]);
    assert!(done && text.contains("balance-leader is on"), "{text}");
    // What was changed, the latest first, with the address of who did it; nothing of what was refused.
    let (done, text) = ctl(second.pd, &["config", "history"]);
    let asked: Vec<&str> = text.lines().filter(|line| line.contains(" 127.0.0.1:")).collect();
    let [on, off, set] = asked[..] else { panic!("three changes: {text}") };
    assert!(
        done && set.contains(" leader_tolerance ") && set.ends_with(" 7") && set.contains(" 5 "),
        "{text}"
    );
    assert!(off.contains(" disabled ") && off.ends_with("balance-leader"), "{text}");
    assert!(on.contains("balance-leader ") && !on.ends_with("balance-leader"), "{text}");
    let (_, text) = ctl(first.pd, &["scheduler"]);
    for (policy, by_itself) in
        [("split-check", "on"), ("balance-core", "on"), ("balance-region", "off"), ("hot-region", "off")]
    {
        let line = text.lines().find(|line| line.starts_with(policy)).expect("it is listed");
        assert!(line.ends_with(by_itself), "{policy}: {text}");
    }
    let (_, text) = ctl(first.pd, &["config"]);
    for (name, value) in [("region_size_max_bytes ", " 150994944"), ("region_split_ops ", " 3000")] {
        let line = text.lines().find(|line| line.starts_with(name)).expect("it is listed");
        assert!(line.ends_with(value), "{name}: {text}");
    }
    let (done, text) = ctl(first.pd, &["scheduler", "on", "hot-region"]);
    assert!(!done && text.contains("hot-region stays off"), "{text}");
    let (done, text) = ctl(first.pd, &["evict", "1"]);
    assert!(done && text.contains("--end"), "{text}");
    let (_, text) = ctl(first.pd, &["scheduler"]);
    assert!(text.contains("kept from leading: stores 1"), "{text}");
    let (done, _) = ctl(first.pd, &["evict", "1", "--end"]);
    let (_, text) = ctl(first.pd, &["scheduler"]);
    assert!(done && !text.contains("kept from leading"), "{text}");
    let (done, text) = ctl(first.pd, &["evict", "77"]);
    assert!(!done && text.contains("77"), "{text}");
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
    assert!(!done && text.contains("store 77 has not joined"), "{text}");
    let (done, text) = ctl(first.pd, &["region", "remove-peer", region, "1", "--yes"]);
    assert!(!done && text.contains("could lead"), "{text}");
    let (done, text) = ctl(first.pd, &["region", "add-peer", "999999", "1"]);
    assert!(!done && text.contains("is not known"), "{text}");
    let (done, text) = ctl(first.pd, &["store", "remove", "77", "--yes"]);
    assert!(!done && text.contains("has not joined"), "{text}");
    let (_, text) = ctl(first.pd, &["stores"]);
    let other = text.lines().nth(2).and_then(|line| line.split_whitespace().next()).expect("a store");
    let (done, text) = ctl(first.pd, &["store", "remove", other, "--yes"]);
    assert!(done && text.contains("is taken out of use"), "{text}");
    let (done, text) = ctl(first.pd, &["region", "add-peer", "4", "999"]);
    assert!(!done && text.contains("store 999 has not joined"), "{text}");
    let (done, text) = ctl(first.pd, &["store", "remove", "1", "--yes"]);
    assert!(!done && text.contains("keeps the scheduler's state"), "{text}");
    let (done, text) = ctl(first.pd, &["store", "keep", "1"]);
    assert!(done && text.contains("store 1 is in use"), "{text}");
}

/// The fields of the line that `ringkeep ctl` prints of a store or a region, which comes first.
fn line_of(text: &str, id: &str) -> String {
    let is_of = |line: &&str| line.split_whitespace().next() == Some(id);
    text.lines().find(is_of).unwrap_or_else(|| panic!("{id} is not in\n{text}")).to_owned()
}

#[test]
fn a_store_that_is_silent_is_listed_as_the_scheduler_sees_it() {
    let directories = [directory(), directory()];
    let first = join(&directories[0], None);
    let mut second = join(&directories[1], Some(&first.pd.to_string()));
    let (_, text) = ctl(first.pd, &["stores"]);
    let id = text.lines().nth(2).and_then(|line| line.split_whitespace().next()).expect("a store").to_owned();
    let shows = |words: &str| {
        (0..3000).any(|_| {
            pause(Duration::from_millis(20));
            let (done, text) = ctl(first.pd, &["stores"]);
            done && line_of(&text, &id).contains(words)
        })
    };
    assert!(shows(" up ") && shows("s ago"), "it is heard");
    let (done, text) = ctl(first.pd, &["config", "set", "store_disconnected_ms", "3000"]);
    assert!(done, "{text}");
    second.process.kill();
    assert!(shows(" disconnected "), "the scheduler knows that it is silent");
    let (_, text) = ctl(first.pd, &["stores"]);
    assert!(line_of(&text, "1").contains(" up "), "{text}");
}

#[test]
fn a_node_whose_stores_were_taken_out_of_use_is_refused_with_what_to_do() {
    let directories = [directory(), directory()];
    let first = join(&directories[0], None);
    let second = join(&directories[1], Some(&first.pd.to_string()));
    let (_, text) = ctl(first.pd, &["stores"]);
    let id = text.lines().nth(2).and_then(|line| line.split_whitespace().next()).expect("a store").to_owned();
    let (done, text) = ctl(first.pd, &["store", "remove", &id, "--yes"]);
    assert!(done, "{text}");
    let is_gone = || {
        pause(Duration::from_millis(20));
        line_of(&ctl(first.pd, &["stores", "--all"]).1, &id).contains(" gone")
    };
    assert!((0..3000).any(|_| is_gone()), "{}", ctl(first.pd, &["stores", "--all"]).1);
    let listed = ctl(first.pd, &["stores"]).1;
    let shows_gone = listed.lines().any(|line| line.split_whitespace().nth(2) == Some("gone"));
    assert!(!shows_gone && listed.contains("not listed: 1"), "{listed}");
    second.process.terminate(Duration::from_secs(30)).expect("it drains");
    let said = Node::start(&options(&directories[1])).expect_err("it is gone for good").to_string();
    let words = "was taken out of use for good; start its node on an empty directory with --join";
    assert!(said.contains(words) && !said.contains("cannot join"), "{said}");
    let log = std::fs::read_to_string(directories[1].path().join("node.log")).expect("a log");
    assert!(log.contains("was taken out of use") && !log.contains("did not close in time"), "{log}");
}

#[test]
fn a_node_goes_on_without_a_store_that_was_taken_out_of_use_and_names_it() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return;
    }
    let directories = [directory(), directory()];
    let first = join(&directories[0], None);
    let mut options = options(&directories[1]);
    let one = options.arguments.iter().position(|word| word == "cores=1").expect("how tests start nodes");
    options.arguments[one] = "cores=2".into();
    options.arguments.extend(["--join".to_owned(), first.pd.to_string()]);
    let start = || Node::start(&options).unwrap_or_else(|error| panic!("{error}"));
    let second = start();
    let (_, text) = ctl(first.pd, &["stores"]);
    let id = |line| text.lines().nth(line).and_then(|line| line.split_whitespace().next()).expect("a store");
    let ids = [id(2), id(3)];
    let log = || std::fs::read_to_string(directories[1].path().join("node.log")).expect("a log");
    let lines = |id: &str| {
        let is_said = |line: &&str| line.contains("is gone: it was taken out") && line.contains(id);
        log().lines().filter(is_said).count()
    };
    let take_out = |id: &str, times: usize| {
        let (done, text) = ctl(first.pd, &["store", "remove", id, "--yes"]);
        assert!(done, "{text}");
        let is_said = |_| {
            pause(Duration::from_millis(20));
            lines(id) == times
        };
        assert!((0..3000).any(is_said), "{}", log());
    };
    let shows = |node: &Node, id: &str| {
        let status: serde_json::Value = serde_json::from_str(&get(node.status, "/status").1).expect("JSON");
        let health = status["health"].as_array().expect("a row for each store");
        health.iter().find(|row| row["store"] == id).expect("its row")["gone"] == true
    };
    let note = "was taken out of use for good, holds nothing";
    take_out(ids[1], 1);
    assert_eq!(get(second.status, "/ready").0, 200, "the other one serves");
    second.process.terminate(Duration::from_secs(30)).expect("it drains");
    let second = start();
    let (status, verbose) = get(second.status, "/ready?verbose");
    assert!(status == 200 && verbose.contains(note), "{verbose}");
    assert!(shows(&second, ids[1]) && !shows(&second, ids[0]));
    resp(second.resp, "SET a 1", "+OK\r\n");
    assert_eq!(lines(ids[1]), 2, "once in each life: {}", log());
    take_out(ids[0], 1);
    let (status, verbose) = get(second.status, "/ready?verbose");
    assert!(status == 503 && verbose.contains("all stores of this node were taken out of use"), "{verbose}");
    assert!(log().contains("all stores of this node were taken out of use"), "{}", log());
    second.process.terminate(Duration::from_secs(30)).expect("it drains");
    let said = Node::start(&options).expect_err("it has none left").to_string();
    assert!(said.contains("start its node on an empty directory with --join"), "{said}");
}

#[test]
fn a_region_is_split_at_a_key_with_any_byte_and_without_data_nowhere() {
    let directory = directory();
    let node = join(&directory, None);
    let (_, text) = ctl(node.pd, &["regions"]);
    let region = text.lines().nth(1).and_then(|line| line.split_whitespace().next()).expect("a region");
    let (done, text) = ctl(node.pd, &["region", "split", region]);
    assert!(!done && text.contains("too little data"), "{text}");
    // What was given up is not in the way of what is asked next.
    let (done, text) = ctl(node.pd, &["region", "split", region, "--key", "\\x01\\xff\\\\"]);
    assert!(done && text.contains("done"), "{text}");
    let (_, text) = ctl(node.pd, &["regions"]);
    let line = line_of(&text, region);
    let ends: Vec<&str> = line.split_whitespace().rev().take(2).collect();
    assert_eq!(ends, [r#""\x01\xff\\""#, "-"], "{text}");
    let (_, text) = ctl(node.pd, &["operator"]);
    assert!(text.contains("too little data") && text.contains("done"), "{text}");
    let (done, text) = ctl(node.pd, &["operator", "cancel", region]);
    assert!(!done && text.contains("no operator of region"), "{text}");
    let (done, text) = ctl(node.pd, &["region", "split", region, "--key", "\\q"]);
    assert!(!done && text.contains("hexadecimal"), "{text}");
    let (done, text) = ctl(node.pd, &["region", "transfer", region, "1"]);
    assert!(!done && text.contains("it is so already; nothing is to be done"), "{text}");
}

#[test]
fn an_address_that_is_no_members_is_answered_with_the_one_to_name() {
    let directories = [directory(), directory()];
    let node = join(&directories[0], None);
    let output = run(&["ctl", "stores", "--pd", &node.pd.to_string()]);
    assert!(output.status.success(), "the flag may stand behind: {output:?}");
    let page: serde_json::Value = serde_json::from_str(&get(node.status, "/status").1).expect("JSON");
    let store: SocketAddr = page["stores"][0].as_str().expect("an address").parse().expect("an address");
    for wrong in [store, node.resp, "127.0.0.1:1".parse().expect("an address")] {
        let (done, text) = ctl(wrong, &["stores"]);
        assert!(!done && text.contains("name a member's PD port with --pd"), "{text}");
        let mut options = options(&directories[1]);
        options.arguments.extend(["--join".to_owned(), wrong.to_string()]);
        let said = Node::start(&options).expect_err("it is no member").to_string();
        assert!(said.contains("is this the PD port of a member"), "{said}");
    }
}

#[test]
fn a_demo_says_how_to_ask_it_and_names_the_process_that_leads() {
    let directory = directory();
    let place = directory.path().join("demo");
    let mut command = Command::new(binary());
    command.args(["demo", "--nodes", "2", "--node-set", "memory_bytes=512MiB", "--keep"]).arg(&place);
    let mut demo = command.stdout(std::process::Stdio::piped()).spawn().expect("the binary runs");
    let lines = BufReader::new(demo.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let said: Vec<String> = lines.take_while(|line| !line.starts_with("Ctrl-C")).collect();
    let head = said.iter().position(|line| line.starts_with("node ")).expect("a table of the nodes");
    let node =
        |place: usize| -> Vec<String> { said[head + place].split_whitespace().map(str::to_owned).collect() };
    let (first, second) = (node(1), node(2));
    let asked = said.iter().find(|line| line.contains(" ctl --pd ")).map(|line| {
        assert_eq!(line.split_whitespace().next(), binary().to_str(), "what can be typed as it stands");
        let pd = line.split_whitespace().nth(3).expect("an address").parse().expect("an address");
        let nodes = ctl(pd, &["node"]).1;
        let is_listed = |id: &String| nodes.lines().any(|row| row.split_whitespace().next() == Some(id));
        assert!([&first, &second].iter().all(|row| is_listed(&row[0])), "{first:?} {second:?}\n{nodes}");
        ctl(pd, &["regions"])
    });
    demo.kill().expect("it runs");
    demo.wait().expect("it has ended");
    assert!(asked.is_some_and(|(done, _)| done), "{said:?}");
    assert_ne!(first.last(), second.last());
    let kill = said.iter().find(|line| line.contains("kill -9")).expect("a way to see what a cluster is for");
    assert!(kill.split_whitespace().any(|word| Some(word) == first.last().map(String::as_str)), "{kill}");
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

/// Where a key is written without asking anyone: its region, and each replica with the address of its store.
#[derive(Clone, Debug)]
struct Place {
    region: metapb::Region,
    addresses: Vec<SocketAddr>,
}

/// Where the key "k" is, as the scheduler says; nothing until three voters have it.
async fn find(rt: &Rt, pd: SocketAddr) -> Option<Place> {
    let client = Client::connect(rt, pd).await.ok()?;
    let request = GetRegionRequest { region_key: "k".into(), ..GetRegionRequest::default() };
    let found: GetRegionResponse = client.unary("/pdpb.PD/GetRegion", &request).await.ok()?;
    let region =
        found.region.filter(|region| region.peers.iter().filter(|peer| peer.role == 0).count() == 3)?;
    let request = GetAllStoresRequest::default();
    let stores: GetAllStoresResponse = client.unary("/pdpb.PD/GetAllStores", &request).await.ok()?;
    let address = |peer: &metapb::Peer| {
        stores.stores.iter().find(|store| store.id == peer.store_id)?.address.parse().ok()
    };
    let addresses: Option<Vec<SocketAddr>> = region.peers.iter().map(address).collect();
    Some(Place { region, addresses: addresses? })
}

/// Writes the key at whichever replica leads, and reads it there.
async fn write(rt: &Rt, place: &Place, value: &'static str) {
    for turn in 0.. {
        let at = turn % place.addresses.len();
        rt.sleep(Duration::from_millis(20)).await;
        let Ok(client) = Client::connect(rt, place.addresses[at]).await else { continue };
        let context = Some(Context {
            region_id: place.region.id,
            region_epoch: place.region.region_epoch,
            peer: Some(place.region.peers[at]),
            ..Context::default()
        });
        let context_of_read = context;
        let put = RawPutRequest { context, key: "k".into(), value: value.into(), ..RawPutRequest::default() };
        let put = client.unary::<RawPutResponse>("/tikvpb.Tikv/RawPut", &put).await;
        if !put.is_ok_and(|put| put.region_error.is_none() && put.error.is_empty()) {
            continue;
        }
        let get = RawGetRequest { context: context_of_read, key: "k".into(), ..RawGetRequest::default() };
        if let Ok(got) = client.unary::<RawGetResponse>("/tikvpb.Tikv/RawGet", &get).await
            && got.region_error.is_none()
        {
            assert_eq!(&got.value[..], value.as_bytes());
            return;
        }
    }
}

/// Three processes replicate what the first has, and any one of them may be killed.
#[test]
fn writes_go_on_when_a_process_is_killed() {
    let directories = [directory(), directory(), directory()];
    let mut begun = options(&directories[0]);
    begun.arguments.extend(["--set".to_owned(), "replicas=3".to_owned()]);
    let mut first = Node::start(&begun).unwrap_or_else(|error| panic!("{error}"));
    resp(first.resp, "SET before joined", "+OK\r\n");
    let pd = first.pd;
    let second = join(&directories[1], Some(&pd.to_string()));
    let third = join(&directories[2], Some(&pd.to_string()));
    let options = || CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
    let looking = start_core(&options(), move |rt| async move {
        loop {
            if let Some(place) = find(&rt, pd).await {
                write(&rt, &place, "with three").await;
                // The members hear where the others are with their next beats.
                rt.sleep(Duration::from_secs(3)).await;
                return place;
            }
            rt.sleep(Duration::from_millis(200)).await;
        }
    });
    let place = looking.expect("a core starts");
    // It leads, and it hosts the scheduler.
    first.process.kill();
    let writing =
        start_core(&options(), move |rt| async move { write(&rt, &place, "without the first").await });
    writing.expect("a core starts");
    drop((second, third));
}

/// Whether a process has ended; one that waits to be noticed by its parent has.
fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('Z'))
}

/// Starts a demo of one node with its directory in `temporary`; returns it once it is ready.
fn begin_demo(temporary: &std::path::Path) -> std::process::Child {
    let mut command = Command::new(binary());
    command.args(["demo", "--nodes", "1", "--node-set", "memory_bytes=512MiB"]).env("TMPDIR", temporary);
    let mut demo = command.stdout(std::process::Stdio::piped()).spawn().expect("the binary runs");
    let mut said = BufReader::new(demo.stdout.as_mut().expect("a pipe")).lines().map_while(Result::ok);
    assert!(
        said.any(|line| line.starts_with("node ")) && said.next().is_some(),
        "it does not say where its node is"
    );
    demo
}

#[test]
fn what_a_killed_demo_left_goes_with_the_next_one_and_that_of_a_running_one_stays() {
    let directory = directory();
    let place = |demo: &std::process::Child| directory.path().join(format!("ringkeep-demo-{}", demo.id()));
    let (mut killed, mut running) = (begin_demo(directory.path()), begin_demo(directory.path()));
    killed.kill().expect("it runs");
    killed.wait().expect("it has ended");
    // A directory that is not of a demo is not removed.
    let other = directory.path().join("ringkeep-demo-notes");
    std::fs::create_dir(&other).expect("a writable directory");
    assert!(place(&killed).exists() && place(&running).exists(), "the test does not test");
    let mut next = begin_demo(directory.path());
    let left = [place(&killed), place(&running), place(&next), other].map(|place| place.exists());
    for demo in [&mut running, &mut next] {
        demo.kill().expect("it runs");
        demo.wait().expect("it has ended");
    }
    assert_eq!(left, [false, true, true, true]);
}

#[test]
fn nodes_of_a_demo_end_with_it_also_when_it_is_killed() {
    let directory = directory();
    let place = directory.path().join("demo");
    let mut command = Command::new(binary());
    command.args(["demo", "--nodes", "2", "--node-set", "memory_bytes=512MiB", "--keep"]).arg(&place);
    let mut demo = command.stdout(std::process::Stdio::piped()).spawn().expect("the binary runs");
    let said = BufReader::new(demo.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    // The row of a node ends with its process.
    let nodes: Vec<u32> = said
        .skip_while(|line| !line.starts_with("node "))
        .skip(1)
        .map(|line| line.split_whitespace().last().and_then(|pid| pid.parse().ok()).expect("a process"))
        .take(2)
        .collect();
    assert_eq!(nodes.len(), 2);
    assert!(!nodes.iter().any(|pid| has_ended(*pid)));
    demo.kill().expect("it runs");
    demo.wait().expect("it has ended");
    for pid in nodes {
        // Far longer than a drain; without the signal they go on for ever.
        let ended = (0..3000).any(|_| {
            pause(Duration::from_millis(20));
            has_ended(pid)
        });
        assert!(ended, "node {pid} goes on");
    }
}
