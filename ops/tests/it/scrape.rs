//! The metrics page as Prometheus meets it: `promtool` finds nothing to object to, and a real server scrapes it.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::host::{directory, get, installed, resp, start};

#[test]
fn promtool_accepts_the_page() {
    if !installed("promtool", "prometheus") {
        return;
    }
    let directory = directory();
    let node = start(&directory);
    resp(node.resp, "SET a 1", "+OK\r\n");
    resp(node.resp, "GET a", "$1\r\n1\r\n");
    let (status, page) = get(node.status, "/metrics");
    assert_eq!(status, 200);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    promtool.stdin.take().expect("it is piped").write_all(page.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{page}");
}

/// A process that is ended when the test is.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed by then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn prometheus_scrapes_a_node() {
    if !installed("prometheus", "prometheus") {
        return;
    }
    let directory = directory();
    let node = start(&directory);
    resp(node.resp, "SET a 1", "+OK\r\n");
    let (_prometheus, addr) = start_prometheus(directory.path(), node.status);
    // Each waits until its condition holds; a node that is never scraped shows as a test that does not end.
    wait_for(addr, "up%7Bjob%3D%22ringkeep%22%7D", |value| value == 1.0);
    wait_for(addr, "sum(ringkeep_resp_commands_total%7Bcommand%3D%22set%22%7D)", |value| value >= 1.0);
    wait_for(addr, "count(ringkeep_log_write_seconds_bucket)", |value| value >= 10.0);
    let (_, rules) = get(addr, "/api/v1/rules");
    let rules: serde_json::Value = serde_json::from_str(&rules).expect("JSON");
    let group = rules["data"]["groups"][0]["rules"].as_array().expect("the shipped alerts");
    assert!(group.iter().all(|rule| rule["health"] != "err"), "{rules}");
}

fn start_prometheus(directory: &Path, target: SocketAddr) -> (Prometheus, SocketAddr) {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/alerts.yml");
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n  \
         - job_name: ringkeep\n    static_configs: [{{targets: [\"{target}\"]}}]\n",
        rules
    );
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, config).expect("a writable directory");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("loopback").port();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("tsdb").display()))
        .arg(format!("--web.listen-address={addr}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus runs");
    let mut prometheus = Prometheus(child);
    while std::net::TcpStream::connect(addr).is_err() {
        let ended = prometheus.0.try_wait().expect("a child can be asked");
        assert!(ended.is_none(), "prometheus ended: {ended:?}");
        bench::clock::pause(std::time::Duration::from_millis(50));
    }
    (prometheus, addr)
}

/// Repeats `query` until its one value is as expected.
fn wait_for(addr: SocketAddr, query: &str, good: impl Fn(f64) -> bool) {
    loop {
        let (_, body) = get(addr, &format!("/api/v1/query?query={query}"));
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let value = answer["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse().ok());
        if value.is_some_and(&good) {
            return;
        }
        bench::clock::pause(std::time::Duration::from_millis(200));
    }
}
