//! `ringkeep server` as an operator meets it: keeps what it acknowledged, drains, and says what is wrong.

use std::net::SocketAddr;
use std::time::Duration;

use bench::process::{Node, NodeOptions};
use engine::rt::{CoreOptions, start_core};
use prost::Message;
use store::wire::grpc::client::Client;
use store::wire::proto::health::{HealthCheckRequest, HealthCheckResponse};

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
fn a_terminal_that_closes_drains_the_node_unless_it_was_started_to_outlive_it() {
    let directory = directory();
    let mut node = start(&directory);
    resp(node.resp, "SET greeting hello", "+OK\r\n");
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process.pid())).expect("it runs");
    let ignored =
        status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("the kernel lists it").trim();
    let outlives = u64::from_str_radix(ignored, 16).expect("a mask") & 1 == 1;
    node.process.hang_up();
    match outlives {
        true => resp(node.resp, "GET greeting", "$5\r\nhello\r\n"),
        false => node.process.wait(DRAIN).expect("SIGHUP drains a node, which ends with exit code 0"),
    }
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
    assert_eq!(status["health"][0]["standing"], "serving");
    assert_eq!(status["health"][0]["problem"], serde_json::Value::Null);
    assert_eq!(status["health"][0]["in_doubt"], serde_json::Value::Null);
}

#[test]
fn a_second_process_on_a_directory_is_refused() {
    let directory = directory();
    let node = start(&directory);
    let said = Node::start(&options(&directory)).expect_err("the directory is held").to_string();
    assert!(said.contains("data directory") || said.contains("another process"), "{said}");
    resp(node.resp, "PING", "+PONG\r\n");
}

#[test]
fn a_directory_that_is_held_is_the_cause_and_not_the_ports_of_who_holds_it() {
    let directory = directory();
    let node = start(&directory);
    let mut command = std::process::Command::new(binary());
    command.arg("server").arg("--data-dir").arg(directory.path().join("data"));
    command.args(["--status-port", &node.status.port().to_string(), "--resp-port", "0", "--base-port", "0"]);
    let output = command.args(["--cores", "1", "--memory-bytes", "512MiB"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is held by another process") && !said.contains("free port"), "{said}");
}

#[test]
fn what_settings_mean_and_what_exit_codes_say_is_printed() {
    let output = run(&["server", "--settings"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for key in store::config::KEYS {
        assert!(text.contains(key.help), "{} is not explained in\n{text}", key.name);
    }
    assert!(text.contains("RINGKEEP_LOG_SEGMENT_BYTES"), "{text}");
    let output = run(&["doctor", "--help"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 warnings, 2 failures"), "{output:?}");
}

#[test]
fn an_open_node_says_which_ports_ask_for_no_password() {
    let directory = directory();
    let data = directory.path().join("data");
    let data = data.to_str().expect("a plain path");
    let check = [
        "server",
        "--check",
        "--insecure",
        "--listen",
        "0.0.0.0",
        "--set",
        "advertise=10.0.0.1",
        "--data-dir",
        data,
    ];
    let remark = |set: &[&str]| {
        let output = run(&[&check[..], set].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find(|line| line.contains("read and delete everything")).expect("a warning").to_owned()
    };
    assert!(remark(&[]).contains("and over RESP"), "{}", remark(&[]));
    assert!(!remark(&["--set", "requirepass=secret"]).contains("RESP"));
}

#[test]
fn an_occupied_port_is_named_with_its_setting() {
    let directory = directory();
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = held.local_addr().expect("an address").port().to_string();
    for setting in ["resp_port", "status_port", "base_port"] {
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
        assert!(
            !directory.path().join(setting).exists(),
            "a taken {setting} is found before the disk is touched"
        );
    }
}

#[test]
fn a_foreign_directory_is_refused_and_left_as_it_was() {
    let directory = directory();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).expect("a writable directory");
    std::fs::write(data.join("letters"), "not a database").expect("a writable directory");
    let said = Node::start(&options(&directory)).expect_err("it is foreign").to_string();
    assert!(said.contains("letters") && said.contains("not a ringkeep directory"), "{said}");
    let names: Vec<_> =
        std::fs::read_dir(&data).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["letters"]);
}

#[test]
fn unusable_configurations_end_with_78_and_the_remedy() {
    let directory = directory();
    let file = directory.path().join("node.toml");
    std::fs::write(&file, "resp_port = 7000\nresp_prot = 7001\n").expect("a writable directory");
    let file = file.to_str().expect("a plain path");
    let cases: [(&[&str], &str); 8] = [
        (&["server", "--config", file], "line 2: unknown key resp_prot: did you mean resp_port?"),
        (&["server", "--set", "foo.bar=1"], "unknown key foo.bar: `ringkeep server --settings`"),
        (&["server", "--set", "log.sync=never"], "\"never\" is not one of auto, dsync, fdatasync"),
        (&["server", "--cores", "100000"], "cores = 100000"),
        (&["server", "--check", "--log-level", "loud"], "\"loud\" is not one of off, error"),
        (&["server", "--check", "--listen", "10.9.9.9"], "set insecure = true"),
        (&["server", "--check", "--requirepass-file", "/nowhere"], "requirepass_file = /nowhere"),
        (&["server", "--check", "--cpus", "5-2"], "write 2-5,7"),
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
    let directory = directory();
    let data = directory.path().join("data");
    let set = ["--set", "base_port=0", "--set", "status_port=0"];
    let data = data.to_str().expect("a plain path");
    let output =
        run(&[&["server", "--check", "--resp-port", "31677", "--data-dir", data], &set[..]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("is new and will be made") && !std::path::Path::new(data).exists(), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("resp_port") && line.ends_with("flag --resp-port")),
        "{text}"
    );
    for key in store::config::KEYS {
        assert!(text.lines().any(|line| line.starts_with(key.name)), "{} is not in\n{text}", key.name);
    }
}

#[test]
fn a_check_finds_a_held_directory_and_taken_ports() {
    let directory = directory();
    let node = start(&directory);
    let port = node.resp.port().to_string();
    let data = directory.path().join("data");
    let set = ["--set", "base_port=0", "--set", "status_port=0"];
    let data = data.to_str().expect("a plain path");
    let output = run(&[&["server", "--check", "--resp-port", &port, "--data-dir", data], &set[..]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(
        text.contains("is held by another process") && text.contains("set resp_port to a free port"),
        "{text}"
    );
    resp(node.resp, "PING", "+PONG\r\n");
}

#[test]
fn an_orchestrators_variables_end_no_start() {
    let variables = [
        ("RINGKEEP_SERVICE_HOST", "10.0.0.9"),
        ("RINGKEEP_PORT", "tcp://10.0.0.9:6380"),
        ("RINGKEEP_RESP_PORT", "tcp://10.0.0.9:6380"),
        ("RINGKEEP_LOGGING_LEVL", "debug"),
    ];
    let directory = directory();
    let mut command = std::process::Command::new(binary());
    command.args(["server", "--check", "--data-dir"]).arg(directory.path().join("unused"));
    command.args(["--set", "base_port=0", "--set", "status_port=0"]).envs(variables);
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("did you mean RINGKEEP_LOGGING_LEVEL?") && !text.contains("SERVICE_HOST"),
        "{text}"
    );
    assert!(text.contains("6380"), "the default port stays: {text}");
    // The check ends with an error where another process has that port; a start with a port of its own is to succeed.
    let environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let options = NodeOptions { environment, ..options(&directory) };
    let node = Node::start(&options).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(get(node.status, "/ready").0, 200);
    resp(node.resp, "SET greeting hello", "+OK\r\n");
    resp(node.resp, "GET greeting", "$5\r\nhello\r\n");
    node.process.terminate(DRAIN).expect("it drains, and ends with exit code 0");
}

#[test]
fn a_foreign_address_is_answered_with_the_setting_that_is_wrong() {
    let directory = directory();
    let mut command = std::process::Command::new(binary());
    command.args(["server", "--insecure", "--listen", "192.0.2.1", "--data-dir"]);
    command.arg(directory.path().join("data")).args(["--cores", "1", "--memory-bytes", "512MiB"]);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("set listen to an address of this host") && !said.contains("free port"), "{said}");
}

#[test]
fn measurements_of_nothing_are_refused() {
    for (arguments, remedy) in [
        (["run", "--rate", "0"], "write a rate above 0"),
        (["run", "--rate", "nan"], "write a rate above 0"),
        (["run", "--connections", "0"], "write 1 or more"),
        (["run", "--records", "0"], "write 1 or more"),
        (["run", "--seconds", "0"], "write 1 or more"),
        (["run", "--pipeline", "0"], "write 1 or more"),
        (["run", "--key-bytes", "23"], "write 24 or more"),
        (["disk", "--seconds", "0"], "write 1 or more"),
        (["protocols", "--rounds", "0"], "write 1 or more"),
        (["protocols", "--requests", "0"], "write 1 or more"),
        (["protocols", "--connections", "0"], "write 1 or more"),
        (["protocols", "--records", "0"], "write 1 or more"),
        (["idle", "--seconds", "0"], "write 1 or more"),
        (["idle", "--starts", "0"], "write 1 or more"),
        (["regions", "--counts", "0"], "write 1 or more"),
        (["regions", "--members", "0"], "write 1 or more"),
        (["crash", "--cycles", "0"], "write 1 or more"),
        (["crash", "--writers", "0"], "write 1 or more"),
        (["chaos", "--keys", "0"], "write 1 or more"),
        (["cluster", "--mib", "0"], "write 1 or more"),
        (["scheduler", "--reports", "0"], "write 1 or more"),
        (["scale", "--records", "0"], "write 1 or more"),
        (["scale", "--rounds", "0"], "write 1 or more"),
        (["scale", "--mib", "64"], "--relocate|--split"),
        (["sim", "--threads", "0"], "write 1 or more"),
    ] {
        let output = run(&[&["bench"], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(arguments[1]) && said.contains(remedy), "{arguments:?}: {said}");
    }
}

#[test]
fn what_a_node_makes_is_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let node = start(&directory);
    resp(node.resp, "SET a 1", "+OK\r\n");
    node.process.terminate(DRAIN).expect("it drains");
    let mut seen = 0;
    let mut dirs = vec![directory.path().join("data")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a readable directory").flatten() {
            let metadata = entry.metadata().expect("it is there");
            let mode = metadata.permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
            seen += 1;
            if metadata.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    assert!(seen > 8, "{seen} files");
}

/// The address of the first store.
fn health_target(status: SocketAddr) -> SocketAddr {
    let page: serde_json::Value = serde_json::from_str(&get(status, "/status").1).expect("JSON");
    page["stores"][0].as_str().expect("an address").parse().expect("an address")
}

/// What a health watch hears first and second. A call of its own is answered after the second.
fn watch_health(store: SocketAddr, begun: &std::sync::mpsc::Sender<()>) -> [i32; 2] {
    let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
    let begun = begun.clone();
    start_core(&options, move |rt| async move {
        let client = Client::connect(&rt, store).await.expect("it listens");
        let ask = HealthCheckRequest::default();
        let mut watch = client.open_with("/grpc.health.v1.Health/Watch", &ask).await.expect("it is served");
        let (mut heard, mut begun) = ([0; 2], Some(begun));
        for status in &mut heard {
            let message = watch.inbox.next().await.expect("the watch goes on").expect("a message");
            *status = HealthCheckResponse::decode(message.bytes).expect("an answer").status;
            // The test ends the node once the first has come.
            if let Some(begun) = begun.take() {
                begun.send(()).expect("the test waits for the first status");
            }
        }
        let checked = client.unary::<HealthCheckResponse>("/grpc.health.v1.Health/Check", &ask).await;
        assert_eq!(checked.expect("it still serves").status, 2);
        heard
    })
    .expect("a core starts")
}

#[test]
fn a_drain_says_no_before_it_stops() {
    let directory = directory();
    let mut options = options(&directory);
    options.arguments.extend(["--set".into(), "drain_delay=3s".into()]);
    let node = Node::start(&options).expect("it starts");
    let (resp_addr, status) = (node.resp, node.status);
    let (begun, watching) = std::sync::mpsc::channel();
    let store = health_target(status);
    let watch = std::thread::spawn(move || watch_health(store, &begun));
    watching.recv().expect("the watch has begun");
    let ended = std::thread::spawn(move || node.process.terminate(DRAIN));
    // Not ready at once, and still serving, connections that are new included.
    while get(status, "/ready").0 == 200 {
        bench::clock::pause(Duration::from_millis(5));
    }
    resp(resp_addr, "SET late 1", "+OK\r\n");
    assert_eq!(watch.join().expect("no panic"), [1, 2], "SERVING, then NOT_SERVING while it still serves");
    ended.join().expect("no panic").expect("it drains");
    let log = std::fs::read_to_string(directory.path().join("node.log")).expect("a log");
    let at = |words: &str| log.find(words).unwrap_or_else(|| panic!("\"{words}\" is not in\n{log}"));
    assert!(at("still serving") < at("draining") && at("draining") < at("stopped"), "{log}");
}

#[test]
fn a_node_on_few_stores_says_so() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return;
    }
    let directory = directory();
    start(&directory).process.terminate(DRAIN).expect("it drains");
    let mut options = options(&directory);
    options.arguments.extend(["--set".into(), "cores=2".into()]);
    let node = Node::start(&options).expect("it starts");
    assert_eq!(node.stores, 1);
    node.process.terminate(DRAIN).expect("it drains");
    let log = std::fs::read_to_string(directory.path().join("node.log")).expect("a log");
    assert!(log.contains("fewer stores than there are cores"), "{log}");
}

#[test]
fn wrong_passwords_and_refused_connections_are_logged_and_counted() {
    let directory = directory();
    let mut options = options(&directory);
    options.arguments.extend(["--set".into(), "requirepass=right".into()]);
    options.arguments.extend(["--set".into(), "limits.connections_max=2".into()]);
    let node = Node::start(&options).expect("it starts");
    resp(node.resp, "AUTH wrong", "-WRONGPASS");
    let _held: Vec<_> =
        (0..8).map(|_| std::net::TcpStream::connect(node.resp).expect("it listens")).collect();
    let moved = |page: &str, name: &str| {
        let lines = page.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() > 0.0
    };
    let wanted = ["ringkeep_resp_wrong_passwords_total", "ringkeep_resp_connections_refused_total"];
    while !wanted.iter().all(|name| moved(&get(node.status, "/metrics").1, name)) {
        bench::clock::pause(Duration::from_millis(50));
    }
    node.process.terminate(DRAIN).expect("it drains");
    let log = std::fs::read_to_string(directory.path().join("node.log")).expect("a log");
    assert!(log.contains("wrong password") && log.contains("limits.connections_max"), "{log}");
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

/// The last record of a log is damaged after a kill, in more than a bit: whether it had been acknowledged is not known any more.
#[test]
fn a_cut_that_is_in_doubt_is_shown_until_the_next_start() {
    const MARK: &[u8] = b"this-value-is-in-the-last-record";
    let directory = directory();
    let mut node = start(&directory);
    resp(node.resp, "SET a 1", "+OK\r\n");
    let log = directory.path().join("data/store-1/log");
    let end = std::fs::read(log.join("END")).expect("what says where the log ends");
    resp(node.resp, &format!("SET mark {}", String::from_utf8_lossy(MARK)), "+OK\r\n");
    node.process.kill();
    // It may say by now that this record was durable, which would leave no doubt.
    std::fs::write(log.join("END"), end).expect("what says where the log ends");
    let mut damaged = 0;
    for path in std::fs::read_dir(log).expect("a log").flatten().map(|entry| entry.path()) {
        let mut bytes = std::fs::read(&path).expect("a segment");
        let Some(place) = bytes.windows(MARK.len()).rposition(|window| window == MARK) else { continue };
        // A record that vouches for this one may have been written before the kill. Without it the log ends as if the power had gone.
        bytes[place / 4096 * 4096 + 4096..].fill(0);
        bytes[place..place + 8].fill(0);
        std::fs::write(&path, bytes).expect("a segment");
        damaged += 1;
    }
    assert_eq!(damaged, 1, "the value is in one segment");
    let shown = |node: &Node| {
        let (ready, verbose) = get(node.status, "/ready?verbose");
        let status: serde_json::Value = serde_json::from_str(&get(node.status, "/status").1).expect("JSON");
        let doubt = status["health"][0]["in_doubt"].as_str().unwrap_or_default().to_owned();
        let metrics = get(node.status, "/metrics").1;
        let number = |name: &str| {
            let line =
                metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
            line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
        };
        let numbers =
            ["ringkeep_log_cut_bytes", "ringkeep_log_cut_entries", "ringkeep_log_in_doubt"].map(number);
        let cut = "log tail cut: 4096 bytes";
        (ready, verbose.contains(&format!("\"note\":\"{cut}")), doubt.starts_with(cut), numbers)
    };
    let mut node = start(&directory);
    assert_eq!(shown(&node), (200, true, true, [4096.0, 1.0, 1.0]));
    node.process.kill();
    assert_eq!(shown(&start(&directory)), (200, false, false, [0.0; 3]));
}

#[test]
fn inspect_reads_what_a_node_left_and_notices_damage() {
    let directory = directory();
    let node = start(&directory);
    resp(node.resp, "SET a 1", "+OK\r\n");
    node.process.terminate(DRAIN).expect("it drains");
    let log = find(&directory.path().join("data/store-1/log"), "0000000000000001")
        .expect("every log begins with it");
    let data = directory.path().join("data");
    let data = data.to_str().expect("a plain path");
    let output = run(&["inspect", data]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("everything is whole"), "{output:?}");
    let output = run(&["inspect", "log", log.to_str().expect("a plain path")]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("  record "), "{output:?}");
    let end = find(&directory.path().join("data/store-1/log"), "END").expect("every log has one");
    let output = run(&["inspect", "log", end.to_str().expect("a plain path")]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("went on in segment 1 at byte "), "{output:?}");
    every_flipped_bit_of_the_last_record_is_noticed(&log);
    let manifest = find(directory.path(), "MANIFEST-").expect("every tree has a manifest");
    let path = manifest.to_str().expect("a plain path");
    let output = run(&["inspect", "manifest", path]);
    assert!(output.status.success(), "{output:?}");
    let whole = std::fs::read(&manifest).expect("a readable file");
    let last = whole.iter().rposition(|byte| *byte != 0).expect("it is not empty");
    let mut bytes = whole.clone();
    bytes[last] ^= 1;
    std::fs::write(&manifest, &bytes).expect("a writable file");
    let output = run(&["inspect", "manifest", path]);
    assert_eq!(output.status.code(), Some(1), "its last frame may be torn or damaged: {output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(path) && said.contains("inspect DIRECTORY"), "{output:?}");
    assert_eq!(run(&["inspect", data]).status.code(), Some(1), "the log knows that it is damaged");
    let mut bytes = whole;
    bytes[20] ^= 1;
    std::fs::write(&manifest, bytes).expect("a writable file");
    let output = run(&["inspect", "manifest", path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(path), "{output:?}");
    let output = run(&["inspect", data, "--output", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["damage"][0]["path"], path, "{found}");
    assert!(found["damage"][0]["what"].as_str().is_some_and(|what| what.contains("restore")), "{found}");
    assert_eq!(run(&["inspect"]).status.code(), Some(2), "a directory or a subcommand");
}

/// With the file beside it that says where the log ended, and without.
fn every_flipped_bit_of_the_last_record_is_noticed(segment: &std::path::Path) {
    let path = segment.to_str().expect("a plain path");
    let whole = std::fs::read(segment).expect("a segment");
    let shown = String::from_utf8_lossy(&run(&["inspect", "log", path]).stdout).into_owned();
    let last = shown.lines().rev().find(|line| line.contains("  record ")).expect("a record");
    let begins: usize = last.split_whitespace().next().and_then(|at| at.parse().ok()).expect("its place");
    let (end, aside) = (segment.with_file_name("END"), segment.with_file_name("aside"));
    for beside in [true, false] {
        if !beside {
            std::fs::rename(&end, &aside).expect("END is moved away");
        }
        for byte in [0, 9, 17, 33] {
            let mut bytes = whole.clone();
            bytes[begins + byte] ^= 4;
            std::fs::write(segment, &bytes).expect("a segment");
            let output = run(&["inspect", "log", path]);
            assert_eq!(output.status.code(), Some(1), "byte {byte}, END there: {beside}: {output:?}");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains(path) && said.contains(&format!("at byte {begins} ")), "{said}");
        }
    }
    std::fs::rename(&aside, &end).expect("END is moved back");
    std::fs::write(segment, &whole).expect("a segment");
    assert!(run(&["inspect", "log", path]).status.success(), "it is whole again");
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
