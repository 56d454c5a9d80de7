//! `ringkeep ctl` as an operator and a script use it: on one process, because what it shows of several is the scheduler's business.

use bench::process::Node;
use serde_json::Value;

use crate::host::{directory, options, run};

/// Exit code, standard output, standard error.
fn ctl(node: &Node, words: &[&str]) -> (i32, String, String) {
    let output = run(&[&["ctl", "--pd", &node.pd.to_string()], words].concat());
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

fn json(node: &Node, words: &[&str]) -> Value {
    let (code, said, why) = ctl(node, &[words, &["--output", "json"]].concat());
    assert_eq!(code, 0, "{words:?}: {why}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{words:?}: {error}: {said}"))
}

fn start(directory: &tempfile::TempDir) -> Node {
    Node::start(&options(directory)).unwrap_or_else(|error| panic!("{error}"))
}

/// The commands that ask for nothing but an answer, each with a column or a key of it.
const READS: [(&[&str], &str); 15] = [
    (&["cluster"], "healthy"),
    (&["node"], "stores"),
    (&["stores"], "address"),
    (&["store"], "address"),
    (&["store", "show", "1"], "leaders"),
    (&["member"], "role"),
    (&["regions"], "up_to"),
    (&["regions", "--state", "empty", "--limit", "2"], "up_to"),
    (&["regions", "--store", "1", "--from", "k"], "up_to"),
    (&["region", "key", "k"], "epoch"),
    (&["operator"], "steps"),
    (&["scheduler"], "policy"),
    (&["config"], "value"),
    (&["why", "store", "1"], "verdict"),
    (&["top", "--once"], "hottest"),
];

#[test]
fn every_read_is_a_table_and_the_same_in_json() {
    let directory = directory();
    let node = start(&directory);
    // So that there is an operator to list.
    let first = json(&node, &["regions"])[0]["region"].to_string();
    let (code, _, why) = ctl(&node, &["split", &first, "--key", "\\x01"]);
    assert_eq!(code, 0, "{why}");
    for (words, name) in READS {
        let said = json(&node, words);
        let of = said.as_array().map_or(&said, |rows| rows.first().unwrap_or(&Value::Null));
        assert!(of.get(name).is_some(), "{words:?} has no {name}: {said}");
        let (code, text, _) = ctl(&node, words);
        assert!(code == 0 && text.lines().count() > 0 && !text.starts_with(['{', '[']), "{words:?}: {text}");
        if let Some(rows) = said.as_array() {
            assert!(text.lines().count() > rows.len(), "{words:?}: a head and a line for each: {text}");
        }
    }
    let two = json(&node, &["regions", "--state", "empty", "--limit", "2"]);
    assert_eq!(two.as_array().map(Vec::len), Some(2));
    let by_key = json(&node, &["region", "key", "k"]);
    let [of_k] = &by_key.as_array().expect("a list")[..] else { panic!("one") };
    // Bytes that cannot be typed are shown as \xNN, and those of the regions of a fresh node are above every letter.
    let up_to = of_k["up_to"].as_str().expect("a text");
    assert!(of_k["from"].as_str() <= Some("k") && (up_to > "k" || up_to.starts_with("\\xff")), "{of_k}");
    let shown = json(&node, &["region", "show", &of_k["region"].to_string()]);
    assert_eq!(shown[0]["from"], of_k["from"]);
    let cluster = json(&node, &["cluster"]);
    assert_eq!((&cluster["healthy"], &cluster["survives_nodes"]), (&true.into(), &0.into()));
}

#[test]
fn what_moves_or_loses_something_can_be_rehearsed_and_has_to_be_meant() {
    let directory = directory();
    let node = start(&directory);
    let before = json(&node, &["regions"]);
    let first = before[0]["region"].to_string();
    let would = json(&node, &["split", &first, "--key", "\\x01", "--dry-run"]);
    assert_eq!((&would["operator"], &would["dry_run"]), (&0.into(), &true.into()), "{would}");
    assert!(would["steps"][0].as_str().is_some_and(|step| step.starts_with("split")), "{would}");
    for (words, why) in [
        (&["transfer", &first, "1", "--dry-run"][..], "it is so already"),
        (&["transfer", &first, "77", "--dry-run"], "has not joined"),
        (&["relocate", &first, "1", "--dry-run"], "can move to"),
        (&["relocate", &first, "77", "--dry-run"], "has not joined"),
        (&["region", "add-peer", "999999", "1", "--dry-run"], "is not known"),
        (&["split", &first, "--key", "zzzz", "--dry-run"], "does not cut"),
    ] {
        let (code, _, said) = ctl(&node, words);
        assert!(code == 1 && said.contains(why), "{words:?}: {code} {said}");
    }
    let leaders = json(&node, &["drain", &json(&node, &["node"])[0]["node"].to_string(), "--dry-run"]);
    assert!(leaders["leaders"].as_u64() > Some(0), "{leaders}");
    assert_eq!(json(&node, &["evict", "1", "--dry-run"])["dry_run"], true);
    let rehearsed = ctl(&node, &["store", "remove", "1", "--dry-run"]);
    // Nothing of that was done.
    assert_eq!(json(&node, &["regions"]).as_array().map(Vec::len), before.as_array().map(Vec::len));
    assert_eq!(json(&node, &["operator"]).as_array().map(Vec::len), Some(0));
    for words in [&["operator", "cancel", &first][..], &["operator", "cancel", "--operator", "1"]] {
        let (code, _, said) = ctl(&node, words);
        assert!(code == 1 && said.contains("`ringkeep ctl operator` lists"), "{words:?}: {code} {said}");
    }
    assert!(!ctl(&node, &["scheduler"]).1.contains("kept from leading"));
    for words in [&["store", "remove", "1"][..], &["region", "remove-peer", &first, "1"]] {
        let (code, _, said) = ctl(&node, words);
        assert!(code == 2 && said.contains("--yes"), "{words:?}: {code} {said}");
    }
    let (code, _, said) = ctl(&node, &["store", "remove", "1", "--yes"]);
    assert!(code == 1 && said.contains("keeps the scheduler's state"), "{said}");
    assert_eq!((rehearsed.0, rehearsed.2), (code, said), "a rehearsal is refused as the removal is");
}

#[test]
fn what_is_not_there_is_refused_and_one_good_address_is_enough() {
    let directory = directory();
    let node = start(&directory);
    for words in [&["why", "region", "0"][..], &["region", "show", "0"], &["regions", "--store", "0"]] {
        let (code, _, said) = ctl(&node, words);
        assert!(code == 2 && said.contains("ids begin at 1"), "{words:?}: {code} {said}");
    }
    let (code, said, why) = ctl(&node, &["regions", "--store", "99"]);
    assert!(code == 1 && said.is_empty() && why.contains("store 99 has not joined"), "{code} {said} {why}");
    let several = format!("{},no address", node.pd);
    let output = run(&["ctl", "--pd", &several, "cluster"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("--pd no address"), "{said}");
    let settings = json(&node, &["config"]);
    let of =
        |name: &str| settings.as_array().and_then(|all| all.iter().find(|it| it["name"] == name)).cloned();
    assert_eq!(of("leader_tolerance").expect("it is listed")["value"], 5);
    let region = &json(&node, &["regions"])[0];
    assert!(region["replicas"][0]["store"].is_u64() && region["epoch"]["version"].is_u64(), "{region}");
}

#[test]
fn two_neighbours_become_one_if_that_is_meant() {
    let directory = directory();
    let node = start(&directory);
    let before = json(&node, &["regions"]);
    let id = |place: usize| before[place]["region"].to_string();
    let (target, source, far) = (id(0), id(1), id(3));
    let merge = |source: &str, target: &str, flag: &str| {
        let words = ["region", "merge", source, target, flag];
        ctl(&node, &words[..if flag.is_empty() { 4 } else { 5 }])
    };
    let (code, _, said) = merge(&source, &target, "");
    assert!(code == 2 && said.contains("will end") && said.contains("--yes"), "{code} {said}");
    let (code, said, _) = merge(&source, &target, "--dry-run");
    assert!(code == 0 && said.contains(&format!("merge into region {target}")), "{code} {said}");
    assert_eq!(json(&node, &["regions"]), before, "nothing was done");
    for (source, target, why) in [
        (&far, &target, "are no neighbours"),
        (&source, &"999999".to_owned(), "is not known; list the regions"),
    ] {
        let (code, _, said) = merge(source, target, "--yes");
        assert!(code == 1 && said.contains(why), "{code} {said}");
    }
    let (code, said, why) = merge(&source, &target, "--yes");
    assert!(code == 0 && said.contains(": done"), "{code} {said} {why}");
    let after = json(&node, &["regions"]);
    assert_eq!(after.as_array().map(Vec::len), before.as_array().map(|regions| regions.len() - 1));
    assert_eq!((&after[0]["region"], &after[0]["up_to"]), (&before[0]["region"], &before[1]["up_to"]));
    let operator = json(&node, &["operator"]);
    assert_eq!(operator[0]["steps"], format!("merge into region {target}"), "{operator}");
    // Why a small region stays is said: the policy is off as it comes.
    let (code, said, _) = ctl(&node, &["why", "region", &target]);
    assert!(code == 0 && !said.contains("merge-check"), "{said}");
    assert_eq!(ctl(&node, &["config", "set", "region_merge_bytes", "1048576"]).0, 0);
    let why = json(&node, &["why", "region", &far])["verdict"].as_str().expect("a sentence").to_owned();
    assert!(why.contains("merge-check") && why.contains("is not merged for another"), "{why}");
    assert!(ctl(&node, &["scheduler"]).1.contains("merge-check"));
}

#[test]
fn a_node_is_drained_of_leaders_as_long_as_another_can_lead() {
    let directory = directory();
    let node = start(&directory);
    let id = json(&node, &["node"])[0]["node"].to_string();
    // The only node has to lead, and says so.
    let (code, _, said) = ctl(&node, &["drain", &id, "--wait", "1"]);
    assert!(code == 4 && said.contains("still after 1 s") && said.contains("why store"), "{code} {said}");
    let why = json(&node, &["why", "store", "1"])["verdict"].as_str().expect("a sentence").to_owned();
    assert!(why.contains("is kept from leading") && why.contains("one stays"), "{why}");
    assert_eq!(json(&node, &["stores"])[0]["state"], "evicted");
    // It lasts, so whoever looks at the cluster hears of it.
    let (code, said, _) = ctl(&node, &["cluster"]);
    assert!(code == 0 && said.contains(&format!("`ringkeep ctl drain {id} --end`")), "{said}");
    let (code, said, _) = ctl(&node, &["drain", &id, "--end"]);
    assert!(code == 0 && said.contains("may lead again"), "{said}");
    assert!(!ctl(&node, &["cluster"]).1.contains("kept from leading"));
    let (code, _, said) = ctl(&node, &["drain", "77"]);
    assert!(code == 1 && said.contains("no store of node 77"), "{said}");
}

#[test]
fn why_says_the_true_reason_over_the_real_surface() {
    let directory = directory();
    let node = start(&directory);
    let region = json(&node, &["region", "key", "k"])[0]["region"].to_string();
    let why = |of: &str, id: &str| {
        json(&node, &["why", of, id])["verdict"].as_str().expect("a sentence").to_owned()
    };
    assert_eq!(why("region", &region), "is as it should be");
    let (code, _, said) = ctl(&node, &["config", "set", "max_replicas", "3"]);
    assert_eq!(code, 0, "{said}");
    assert!(why("region", &region).contains("no store is fit"), "{}", why("region", &region));
    let (code, text, _) = ctl(&node, &["cluster"]);
    assert!(code == 4 && text.contains("fewer than 3 replicas"), "{code} {text}");
    let short = json(&node, &["regions", "--state", "short"]);
    assert_eq!(short.as_array().map(Vec::len), json(&node, &["regions"]).as_array().map(Vec::len));
    let (code, _, said) = ctl(&node, &["scheduler", "off", "replica-check"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        why("region", &region).contains("no store is fit"),
        "nothing is wanted that could be switched off"
    );
    for (of, id, words) in [("region", "999999", "is not known"), ("store", "77", "has not joined")] {
        let (code, _, said) = ctl(&node, &["why", of, id]);
        assert!(code == 1 && said.contains(words), "{said}");
    }
}

#[test]
fn scripts_tell_a_refusal_from_a_cluster_that_is_not_there() {
    let gone = run(&["ctl", "--pd", "127.0.0.1:1", "cluster"]);
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
    assert!(gone.stdout.is_empty() && String::from_utf8_lossy(&gone.stderr).contains("--pd"));
    for words in [
        &["ctl", "regions", "--state", "odd"][..],
        &["ctl", "top", "--every", "0"],
        &["ctl", "--pd", "x", "node"],
    ] {
        assert_eq!(run(words).status.code(), Some(2), "{words:?}");
    }
}

/// Every command of the tree below `ringkeep ctl`, as words.
fn commands(words: &[&str]) -> Vec<Vec<String>> {
    let help = run(&[words, &["--help"]].concat());
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    let listed =
        text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut found = vec![words.iter().map(|word| (*word).to_owned()).collect()];
    for name in names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        found.extend(commands(&[words, &[name]].concat()));
    }
    found
}

#[test]
fn every_command_has_an_example_and_shells_can_complete_it() {
    let all = commands(&["ctl"]);
    assert!(all.len() > 25, "{all:?}");
    for words in &all {
        let words: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let text = String::from_utf8_lossy(&run(&words).stdout).into_owned();
        assert!(text.contains("Example: ringkeep ctl"), "{words:?}: {text}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completion", shell]);
        let text = String::from_utf8_lossy(&script.stdout).into_owned();
        assert!(
            script.status.success() && ["drain", "remove-peer", "why"].iter().all(|word| text.contains(word))
        );
    }
}
