//! The status server as its clients see it: each of its pages, and what it does for those who are slow, silent or many.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::connections::{API_MAX, CONNECTIONS_MAX, RESERVE};
use super::*;

fn pages(problem: Option<&'static str>) -> Pages {
    Pages {
        metrics: Box::new(|out| out.extend_from_slice(b"# metrics\n")),
        status: Box::new(|| "{}".into()),
        conditions: Box::new(move || {
            vec![Condition {
                name: "store-1".into(),
                problem: problem.map(str::to_owned),
                note: Some("the tail was cut".into()),
            }]
        }),
        settings: vec![("data_dir".into(), "d".into(), "default".into())],
        files: &[EmbeddedFile { path: "/console", content_type: "text/html", body: b"<!doctype html>" }],
        api: Box::new(|path, query| (200, format!("{path} {query}").into())),
    }
}

fn start(life: &SharedPhase, problem: Option<&'static str>) -> SocketAddr {
    let addr = "127.0.0.1:0".parse().expect("an address");
    Admin::start(addr, life.clone(), pages(problem)).expect("loopback").addr()
}

fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    get_as("x", addr, path)
}

fn get_as(host: &str, addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    // Only so that a server that answers no more fails a test instead of keeping it.
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("a socket");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

#[test]
fn health_follows_the_phases() {
    let life = SharedPhase::new();
    let addr = start(&life, None);
    let all = |addr| ["/live", "/started", "/ready"].map(|path| get(addr, path).0);
    assert_eq!(all(addr), [200, 503, 503]);
    life.enter(Phase::Serving);
    assert_eq!(all(addr), [200, 200, 200]);
    life.enter(Phase::Draining);
    assert_eq!(all(addr), [200, 200, 503]);
    assert_eq!(get(addr, "/ready").1, "phase: draining\n");
}

#[test]
fn a_failing_condition_is_named() {
    let life = SharedPhase::new();
    life.enter(Phase::Serving);
    let addr = start(&life, Some("a write failed"));
    assert_eq!(get(addr, "/ready"), (503, "store-1: a write failed\n".into()));
    let (status, body) = get(addr, "/ready?verbose");
    assert_eq!(status, 503);
    let expected =
        "{\"name\":\"store-1\",\"ok\":false,\"problem\":\"a write failed\",\"note\":\"the tail was cut\"}";
    assert!(body.starts_with("{\"ready\":false") && body.contains(expected), "{body}");
}

#[test]
fn pages_are_served_and_unknown_ones_refused() {
    let addr = start(&SharedPhase::new(), None);
    assert_eq!(get(addr, "/metrics"), (200, "# metrics\n".into()));
    assert_eq!(get(addr, "/config").1, "{\"data_dir\":{\"value\":\"d\",\"origin\":\"default\"}}\n");
    assert_eq!(get(addr, "/nowhere").0, 404);
    assert_eq!(get(addr, "/console"), (200, "<!doctype html>".into()));
    assert_eq!(get(addr, "/console/other").0, 404);
    assert_eq!(get_as("localhost:1", addr, "/api/v1/map?a=b"), (200, "/api/v1/map a=b".into()));
}

#[test]
fn no_page_of_another_server_reads_what_loopback_shows() {
    let addr = start(&SharedPhase::new(), None);
    let (status, why) = get_as("evil.example:20080", addr, "/api/v1/map");
    assert!(status == 421 && why.contains("localhost"), "{status} {why}");
    assert_eq!(get_as("node-1.example", addr, "/metrics").0, 200, "it is scraped by its name");
}

#[test]
fn consoles_leave_places_for_metrics() {
    let (asked, asks) = std::sync::mpsc::channel();
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let api: Box<Api> = Box::new(move |_, _| {
        asked.send(()).expect("the test counts them");
        gate.lock().expect("no thread has panicked").recv().expect_err("the test lets go of the gate");
        (200, "{}".into())
    });
    let pages = Pages { api, ..pages(None) };
    let addr = "127.0.0.1:0".parse().expect("an address");
    let hour = Duration::from_secs(3600);
    let addr = Admin::start_with(addr, SharedPhase::new(), pages, hour).expect("loopback").addr();
    let consoles: Vec<_> = (0..API_MAX)
        .map(|_| std::thread::spawn(move || get_as("localhost", addr, "/api/v1/map").0))
        .collect();
    for _ in 0..API_MAX {
        asks.recv().expect("each has a place");
    }
    assert_eq!(get_as("localhost", addr, "/api/v1/map").0, 503, "one more has none");
    assert_eq!(get(addr, "/metrics").0, 200);
    drop(release);
    for console in consoles {
        assert_eq!(console.join().expect("it is answered"), 200);
    }
    drop(asks);
}

#[test]
fn silent_connections_do_not_keep_others_out() {
    // No client times out here: silent ones make room for those that ask.
    let addr = start_patient();
    let silent: Vec<TcpStream> =
        (0..3 * CONNECTIONS_MAX).map(|_| TcpStream::connect(addr).expect("it listens")).collect();
    for path in ["/live", "/metrics", "/ready"] {
        assert_eq!(get(addr, path).0, if path == "/ready" { 503 } else { 200 }, "{path}");
    }
    drop(silent);
}

/// Set in a process that serves with few descriptors.
const FEW: &str = "RINGKEEP_STATUS_WITH_FEW_DESCRIPTORS";

/// Serves without a descriptor to spare until standard input ends.
fn serve_without_descriptors() {
    let addr = start_patient();
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    io::stdout().write_all(format!("\nserves at {addr}\n").as_bytes()).expect("a pipe");
    io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
}

/// Runs the test of this name in a process with few descriptors, and says where it serves; nothing in that process itself. What it
/// still says is kept to the end: how its test went.
fn child_without_descriptors(name: &str) -> Option<(Child, SocketAddr, impl Iterator<Item = String>)> {
    if std::env::var(FEW).is_ok() {
        return None;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" --exact \"$1\" --nocapture"]);
    command.arg(std::env::current_exe().expect("it runs")).arg(name).env(FEW, "1");
    let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    let mut said = BufReader::new(server.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let addr = said.find_map(|line| line.strip_prefix("serves at ")?.parse().ok());
    Some((server, addr.expect("it serves"), said))
}

#[test]
fn probes_are_answered_without_a_descriptor_to_spare() {
    let name = "wire::admin::tests::probes_are_answered_without_a_descriptor_to_spare";
    let Some((mut server, addr, said)) = child_without_descriptors(name) else {
        return serve_without_descriptors();
    };
    // More than are held for the case, one after the other.
    for _ in 0..2 * CONNECTIONS_MAX {
        assert_eq!(get(addr, "/live").0, 200);
    }
    let mut silent: Vec<TcpStream> = Vec::new();
    for path in ["/live", "/ready", "/started", "/live"] {
        silent.extend((0..2 * CONNECTIONS_MAX).map(|_| TcpStream::connect(addr).expect("it listens")));
        assert_eq!(get(addr, path).0, if path == "/live" { 200 } else { 503 }, "{path}");
    }
    drop((silent, server.stdin.take()));
    assert!(server.wait().expect("a child").success());
    drop(said);
}

/// Clients that take no page hold every descriptor, those kept for probes included.
#[test]
fn a_listener_that_nothing_makes_room_for_pauses_and_serves_afterwards() {
    let name = "wire::admin::tests::a_listener_that_nothing_makes_room_for_pauses_and_serves_afterwards";
    let Some((mut server, addr, said)) = child_without_descriptors(name) else {
        return serve_without_descriptors();
    };
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(addr).expect("it listens");
        // As in `get`.
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        write!(stream, "GET {path} HTTP/1.1\r\n\r\n").expect("a socket");
        stream
    };
    let mut stuck: Vec<TcpStream> = Vec::new();
    for _ in 0..RESERVE {
        let mut client = ask("/status");
        client.read_exact(&mut [0]).expect("the beginning of a page");
        stuck.push(client);
    }
    // One may have been accepted with a descriptor from before. The others wait in the queue.
    stuck.extend((0..RESERVE).map(|_| ask("/status")));
    let mut waiting = ask("/live");
    let used = || bench::process::cpu_time(server.id()).expect("it runs");
    let before = used();
    bench::clock::pause(Duration::from_secs(1));
    let busy = used() - before;
    assert!(busy < Duration::from_millis(300), "it was busy for {busy:?} of a second");
    drop(stuck);
    let mut status = [0; 12];
    waiting.read_exact(&mut status).expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 200");
    drop((waiting, server.stdin.take()));
    assert!(server.wait().expect("a child").success());
    drop(said);
}

#[test]
fn clients_that_take_no_page_leave_places_for_probes() {
    let addr = start_patient();
    // Each asks for a page larger than the sockets hold and reads nothing of it.
    let stuck: Vec<TcpStream> = (0..2 * CONNECTIONS_MAX)
        .map(|_| {
            let mut stream = TcpStream::connect(addr).expect("it listens");
            stream.write_all(b"GET /status HTTP/1.1\r\n\r\n").expect("a socket");
            // Its page has begun, or it was refused: it makes no room for others any more.
            drop((&stream).read_exact(&mut [0]));
            stream
        })
        .collect();
    assert_eq!(get(addr, "/live").0, 200);
    assert_eq!(get(addr, "/ready?verbose").0, 503, "it is starting, and says so");
    drop(stuck);
}

#[test]
fn a_client_that_trickles_is_gone_after_its_one_deadline() {
    let timeout = Duration::from_millis(200);
    let addr = "127.0.0.1:0".parse().expect("an address");
    let addr = Admin::start_with(addr, SharedPhase::new(), pages(None), timeout).expect("loopback").addr();
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
    // A byte every 20 ms, each well within any limit per read.
    let mut sent = 0;
    loop {
        let gone = stream.write_all(b"x").is_err();
        sent += 1;
        assert!(sent < 500, "a client that trickles is served for ever");
        match stream.read(&mut [0; 16]) {
            Ok(0) => break,
            Ok(_) => panic!("there is nothing to answer"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !gone => {}
            Err(_ended) => break,
        }
    }
}

/// A server whose clients have for ever, with a status page of 16 MiB.
fn start_patient() -> SocketAddr {
    let addr = "127.0.0.1:0".parse().expect("an address");
    let pages = Pages { status: Box::new(|| "x".repeat(16 << 20)), ..pages(None) };
    let hour = Duration::from_secs(3600);
    Admin::start_with(addr, SharedPhase::new(), pages, hour).expect("loopback").addr()
}
