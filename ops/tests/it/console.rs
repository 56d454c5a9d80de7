//! The console as a browser meets it: the page and its files, what it may load, and the JSON below `/api/v1/`, on one node and on two.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bench::clock::pause;
use bench::process::Node;
use serde_json::Value;

use crate::host::{directory, get, options, resp, run, start};
use crate::tidy::root;

/// What the page loads.
const FILES: [&str; 5] = ["console.css", "console.js", "words.js", "tables.js", "pictures.js"];

fn file(name: &str) -> String {
    std::fs::read_to_string(root().join("ops/console").join(name)).expect("a file of the console")
}

/// The head of an answer, and its body.
fn fetch(addr: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).expect("the status port listens");
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n").expect("a socket");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

fn api(node: &Node, what: &str) -> (u16, Value) {
    let (status, body) = get(node.status, &format!("/api/v1/{what}"));
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{what}: {error}: {body}")))
}

fn shown(node: &Node, what: &str) -> Value {
    let (status, said) = api(node, what);
    assert_eq!(status, 200, "{what}: {said}");
    said
}

/// What `is` says of the answer once it is true; answers are given again for a second.
fn until(node: &Node, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..3000 {
        let (_, said) = api(node, what);
        if is(&said) {
            return said;
        }
        pause(Duration::from_millis(20));
    }
    panic!("{what} stays as it is: {}", api(node, what).1);
}

#[test]
fn the_page_loads_nothing_but_its_own_files_and_has_no_script_in_it() {
    let page = file("console.html");
    for word in ["<style", "style=", "javascript:", "http:", "https:", " onclick", " onload", "//"] {
        let without_doctype = page.replace("</", "<");
        assert!(!without_doctype.contains(word), "{word} is in the page");
    }
    let scripts: Vec<&str> = page.split("<script").skip(1).collect();
    assert_eq!(scripts.len(), 1);
    assert!(
        scripts[0].starts_with(" type=\"module\" src=\"console/console.js\"></script>"),
        "{}",
        scripts[0]
    );
    for name in FILES {
        let text = file(name);
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http:",
            "https:",
            "@import",
            "url(",
        ] {
            assert!(!text.contains(word), "{word} is in {name}");
        }
        assert!(text.lines().count() < 600, "{name} is long");
    }
}

#[test]
fn what_the_script_names_is_in_the_page() {
    let page = file("console.html");
    let ids: BTreeSet<&str> =
        page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let script = file("console.js");
    let mut named = BTreeSet::new();
    for call in ["by(\"", "say(\"", "fill(\"", "group(\"", "figures(\""] {
        named.extend(script.split(call).skip(1).filter_map(|rest| rest.split('"').next()));
    }
    assert!(named.len() > 25, "{named:?}");
    let missing: Vec<_> = named.difference(&ids).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // A heading for every section, and for every table a region that a keyboard can scroll.
    for label in page.split("aria-labelledby=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(ids.contains(label), "{label}");
    }
    assert_eq!(page.matches("<table").count(), page.matches("class=\"scroll\" role=\"region\"").count());
    assert_eq!(page.matches("<th scope=\"col\"").count(), page.matches("<th ").count());
}

#[test]
fn the_page_and_its_answers_carry_their_policy() {
    let directory = directory();
    let node = start(&directory);
    let files: Vec<String> = FILES.iter().map(|name| format!("/console/{name}")).collect();
    let pages = ["/console", "/console/icon.svg", "/api/v1/overview", "/api/v1/nowhere", "/console/nowhere"];
    for path in pages.into_iter().chain(files.iter().map(String::as_str)) {
        let (head, body) = fetch(node.status, "GET", path);
        let policy = head.lines().find_map(|line| line.strip_prefix("Content-Security-Policy: "));
        let policy = policy.unwrap_or_else(|| panic!("{path} has no policy: {head}"));
        assert!(
            policy.contains("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert!(
            head.contains("X-Content-Type-Options: nosniff") && head.contains("frame-ancestors 'none'"),
            "{head}"
        );
        let found = head.starts_with("HTTP/1.1 200 ");
        assert_eq!(found, !path.ends_with("/nowhere"), "{path}: {head}");
        let kind = match path {
            "/console" => "text/html; charset=utf-8",
            path if path.starts_with("/api/") => "application/json",
            path if path.ends_with(".css") => "text/css; charset=utf-8",
            path if path.ends_with(".js") => "text/javascript; charset=utf-8",
            path if path.ends_with(".svg") => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        };
        assert!(head.contains(&format!("Content-Type: {kind}\r\n")), "{path}: {head}");
        assert!(!body.is_empty());
    }
    let (head, body) = fetch(node.status, "POST", "/api/v1/overview");
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("Allow: GET, HEAD"), "{head} {body}");
    let (head, body) = fetch(node.status, "HEAD", "/console");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head}");
    for (what, status) in [
        ("nowhere", 404),
        ("overview?x=1", 400),
        ("regions?limit=1000000", 400),
        ("regions?after=999999999", 404),
        ("heat?of=x", 400),
    ] {
        let (found, said) = api(&node, what);
        assert!(
            found == status && said["error"].as_str().is_some_and(|why| why.len() > 20),
            "{what}: {found} {said}"
        );
    }
}

#[test]
fn one_node_shows_its_cluster_its_key_space_and_itself() {
    let directory = directory();
    let node = start(&directory);
    for n in 0..200 {
        resp(node.resp, &format!("SET k{n} v"), "+OK\r\n");
    }
    let wrote = |said: &Value| said["this_node"]["requests"]["stages"][0]["count"].as_u64() >= Some(1);
    let said = until(&node, "overview", wrote);
    assert_eq!(said["phase"], "serving");
    assert_eq!((&said["scheduler"]["here"], &said["scheduler"]["error"]), (&true.into(), &Value::Null));
    assert!(said["cluster"]["words"].as_str().is_some_and(|words| words.starts_with("healthy")), "{said}");
    let [store] = &said["stores"].as_array().expect("a list")[..] else { panic!("one: {said}") };
    assert_eq!((&store["state"], &store["words"]), (&"up".into(), &"answers".into()));
    let cores = said["this_node"]["cores"].as_array().expect("a list");
    assert_eq!((cores.len(), &cores[0]["stores"][0]["words"]), (2, &"serves everything".into()), "{said}");
    let stages = said["this_node"]["requests"]["stages"].as_array().expect("a list");
    let names: Vec<&Value> = stages.iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(names, ["queue", "log", "replicate", "apply"]);
    for stage in stages {
        let of = |name: &str| stage[name].as_f64().unwrap_or_else(|| panic!("{name}: {stage}"));
        assert!(of("p50_us") <= of("p99_us") && of("p99_us") <= of("slowest_us"), "{stage}");
    }
    assert!(of_kind(&said, "write")["count"].as_u64() >= Some(1), "{said}");

    let map = shown(&node, "map");
    let cells = map["cells"].as_array().expect("a list");
    let sum = |name: &str| cells.iter().filter_map(|cell| cell[name].as_u64()).sum::<u64>();
    assert_eq!(
        (sum("regions"), sum("leads"), sum("leaderless")),
        (cells.len() as u64, cells.len() as u64, 0)
    );
    assert_eq!((&map["keys_shown"], &cells[0]["start"]["text"]), (&true.into(), &"".into()));

    // Page by page, and each region once, in key order.
    let (mut after, mut ids) = (0, Vec::new());
    loop {
        let page = shown(&node, &format!("regions?limit=7&after={after}"));
        let regions = page["regions"].as_array().expect("a list");
        ids.extend(regions.iter().filter_map(|region| region["region"].as_u64()));
        let Some(next) = page["next"].as_u64() else { break };
        assert_eq!((regions.len(), Some(&next)), (7, ids.last()));
        after = next;
    }
    let listed = run(&["ctl", "--pd", &node.pd.to_string(), "--output", "json", "regions"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let listed: Vec<u64> =
        listed.as_array().expect("a list").iter().filter_map(|it| it["region"].as_u64()).collect();
    assert_eq!(ids, listed);
    assert_eq!(shown(&node, "regions?state=leaderless")["regions"].as_array().map(Vec::len), Some(0));
    assert_eq!(shown(&node, "regions?store=77")["regions"].as_array().map(Vec::len), Some(0));

    let heat =
        until(&node, "heat?of=writes", |said| said["columns"].as_array().is_some_and(|all| !all.is_empty()));
    assert_eq!((&heat["of"], &heat["unit"]), (&"writes".into(), &"writes/s".into()));
    let ranges = heat["borders"].as_array().map(Vec::len);
    assert_eq!(ranges, Some(cells.len()));
    assert_eq!(heat["columns"][0]["values"].as_array().map(Vec::len), ranges);
}

fn of_kind<'a>(said: &'a Value, kind: &str) -> &'a Value {
    let kinds = said["this_node"]["requests"]["commands"].as_array().expect("a list");
    kinds.iter().find(|it| it["kind"] == kind).expect("there is a row for it")
}

#[test]
fn any_node_shows_the_cluster_and_says_where_the_scheduler_was() {
    let directories = [directory(), directory()];
    let mut first = start(&directories[0]);
    let mut second = options(&directories[1]);
    second.arguments.extend(["--join".to_owned(), first.pd.to_string()]);
    let second = Node::start(&second).unwrap_or_else(|error| panic!("{error}"));
    let two = |said: &Value| said["stores"].as_array().map(Vec::len) == Some(2);
    let (here, there) = (until(&first, "overview", two), until(&second, "overview", two));
    assert_eq!((&here["scheduler"]["here"], &there["scheduler"]["here"]), (&true.into(), &false.into()));
    assert_eq!(there["scheduler"]["places"][0], first.pd.to_string());
    assert_ne!(here["node"], there["node"]);
    assert_eq!(here["cluster"]["regions"], there["cluster"]["regions"]);
    assert_eq!(shown(&second, "map")["regions"], shown(&first, "map")["regions"]);
    first.process.kill();
    let away = until(&second, "overview", |said| said["scheduler"]["error"].is_string());
    let words = away["scheduler"]["words"].as_str().expect("words");
    assert!(words.contains("does not answer") && words.contains(&first.pd.to_string()), "{words}");
    assert!(away["cluster"].is_null() && away["this_node"]["cores"].is_array(), "{away}");
    let (status, said) = api(&second, "regions");
    assert!(
        status == 503 && said["error"].as_str().is_some_and(|why| why.contains("does not answer")),
        "{said}"
    );
}
