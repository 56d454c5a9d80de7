//! A node of the binary under test, in a directory of its own, and the few words of HTTP and RESP that the tests need.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};

use bench::process::{Node, NodeOptions, Ports};
use engine::rt::{CoreOptions, start_core};
use prost::Message;
use store::wire::grpc::client::Client;
use store::wire::proto::pdpb::{
    GetAllStoresRequest, GetAllStoresResponse, GetMembersRequest, GetMembersResponse,
};
use tempfile::TempDir;

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ringkeep"))
}

/// A fresh directory on the disk that holds the build, because a memory file system has no direct IO.
pub(crate) fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the build directory can be written")
}

/// How the tests start a node in `directory`: small, so that many run side by side.
pub(crate) fn options(directory: &TempDir) -> NodeOptions {
    let set = ["--set", "memory_bytes=512MiB", "--set", "log.segment_bytes=4MiB", "--set", "cores=1"];
    NodeOptions {
        binary: binary(),
        data_dir: directory.path().join("data"),
        arguments: set.map(String::from).to_vec(),
        environment: Vec::new(),
        ports: Ports::default(),
        own_group: false,
        log: Some(directory.path().join("node.log")),
    }
}

/// A running node.
pub(crate) fn start(directory: &TempDir) -> Node {
    Node::start(&options(directory)).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs the binary to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("the binary runs")
}

/// Status and body of a page. HTTP/1.0, so that the body ends with the connection and comes in one piece.
pub(crate) fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).expect("the status port listens");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("a socket");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
}

/// Asks the placement service of the node with this status port who its members are.
pub(crate) fn ask_members(status: SocketAddr) {
    let answer: GetMembersResponse = ask_pd(status, "/pdpb.PD/GetMembers", GetMembersRequest::default());
    assert_eq!(answer.members.len(), 1);
}

/// The addresses of the stores, as the placement service of the node with this status port tells clients.
pub(crate) fn stores(status: SocketAddr) -> Vec<String> {
    let answer: GetAllStoresResponse =
        ask_pd(status, "/pdpb.PD/GetAllStores", GetAllStoresRequest::default());
    answer.stores.into_iter().map(|store| store.address).collect()
}

/// One call to the placement service.
fn ask_pd<A: Message + Default + Send + 'static>(
    status: SocketAddr,
    path: &'static str,
    request: impl Message + 'static,
) -> A {
    let page: serde_json::Value = serde_json::from_str(&get(status, "/status").1).expect("JSON");
    let pd: SocketAddr = page["pd"].as_str().expect("an address").parse().expect("an address");
    let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
    let answer = start_core(&options, move |rt| async move {
        let client = Client::connect(&rt, pd).await.expect("it listens");
        client.unary::<A>(path, &request).await
    });
    answer.expect("a core starts").expect("an answer")
}

/// Sends one inline RESP command and reads up to `expected`, which it must be.
pub(crate) fn resp(addr: SocketAddr, command: &str, expected: &str) {
    let mut stream = TcpStream::connect(addr).expect("the RESP port listens");
    write!(stream, "{command}\r\n").expect("a socket");
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer), expected, "{command}");
}

/// Whether a program of a Debian package is there; says so when it is not, because then a test shows nothing.
#[expect(clippy::print_stderr, reason = "a test that cannot run says why")]
pub(crate) fn installed(program: &str, package: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed (Debian package {package}); .ci/run installs it");
    }
    found
}
