//! The status server: metrics and health over HTTP, on plain threads, off every core.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | everything that is counted, for Prometheus |
//! | `/live` | 200 while the process answers at all |
//! | `/started` | 200 once the node has served, 503 before |
//! | `/ready` | 200 while the node serves, 503 while it starts or drains or when a condition fails; `?verbose` names each as JSON |
//! | `/status` | version, addresses and stores as JSON |
//! | `/config` | every setting with its value and where it came from, as JSON; secrets are not shown |
//!
//! Readiness speaks of this node only: other nodes being down is no reason to restart this one.
//!
//! A connection carries one request and has [`TIMEOUT`] for everything, from being accepted to having its answer. A bounded number
//! is served at a time, with places kept for probes ([`connections`]), so neither a slow nor a greedy client costs more than a
//! few threads or hides the node's health. Where descriptors run out, a silent client makes room for the next one before it is accepted,
//! and a few are held for the case that there is none.
//!
//! Not done here, on purpose: no writes, no authentication, no TLS; the port listens on loopback unless set otherwise.

mod connections;
mod http;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use engine::error::Shortage;

use connections::{Connection, Connections, Reserve};
use http::{Answer, Ask, HEAD_BYTES_MAX, quote};

/// How long a client may take to ask and to take its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait when no descriptor or thread is left for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It recovers and does not serve yet.
    Starting,
    /// It serves.
    Serving,
    /// It finishes what is in flight and accepts nothing new.
    Draining,
}

/// The phase, shared between the node's threads.
#[derive(Clone, Debug, Default)]
pub struct SharedPhase(Arc<AtomicU8>);

impl SharedPhase {
    /// A node that starts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The node enters `phase`.
    pub fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }
}

/// One reason for a node to be ready or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is about, such as `store-1`.
    pub name: String,
    /// Why it fails; `None` if it holds.
    pub problem: Option<String>,
    /// What an operator should know although it holds.
    pub note: Option<String>,
}

/// Appends a page.
pub type Render = dyn Fn(&mut Vec<u8>) + Send + Sync;

/// Where the pages come from. Called on the server's threads.
pub struct Pages {
    /// Appends the metrics page.
    pub metrics: Box<Render>,
    /// The status page, JSON.
    pub status: Box<dyn Fn() -> String + Send + Sync>,
    /// What readiness depends on beside the phase.
    pub conditions: Box<dyn Fn() -> Vec<Condition> + Send + Sync>,
    /// Settings in order: name, value, origin.
    pub settings: Vec<(String, String, String)>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// A status server. It ends with the process.
#[derive(Debug)]
pub struct Admin {
    addr: SocketAddr,
}

struct Shared {
    life: SharedPhase,
    pages: Pages,
    connections: Arc<Connections>,
    timeout: Duration,
}

impl Admin {
    /// Listens on `addr` and serves from now on.
    ///
    /// # Errors
    /// The address cannot be bound, or no thread can be started.
    pub fn start(addr: SocketAddr, life: SharedPhase, pages: Pages) -> io::Result<Self> {
        Self::start_with(addr, life, pages, TIMEOUT)
    }

    fn start_with(addr: SocketAddr, life: SharedPhase, pages: Pages, timeout: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { life, pages, connections: Arc::default(), timeout });
        let mut reserve = Reserve::default();
        reserve.refill();
        std::thread::Builder::new()
            .name("rk-status".into())
            .spawn(move || accept(&listener, &shared, &mut reserve))?;
        Ok(Self { addr })
    }

    /// The address that is really bound.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

#[expect(clippy::disallowed_methods, reason = "a plain thread that starts its clients' clocks, never a core")]
fn accept(listener: &TcpListener, shared: &Arc<Shared>, reserve: &mut Reserve) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // The client was gone first.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // The call takes a descriptor before it waits for a client. It has one of those that are held, and where these are
                // used up the oldest silent client makes room at once, whatever has used up the others.
                let none_is_left = matches!(Shortage::of(&error), Some(Shortage::Descriptors));
                if none_is_left && (reserve.release() || shared.connections.evict()) {
                    continue;
                }
                // Trying again at once would only burn a CPU.
                tracing::warn!(%error, "the status server cannot accept a connection");
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        // Dropping it closes it: all places are taken by clients that are being answered.
        let Some(connection) = shared.connections.admit(stream, Instant::now() + shared.timeout) else {
            continue;
        };
        let serving = shared.clone();
        let thread = std::thread::Builder::new().name("rk-status-one".into()).spawn(move || {
            // A client that goes away in the middle has chosen not to know.
            let _ = serve(connection, &serving);
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "the status server cannot start a thread");
            std::thread::sleep(ACCEPT_PAUSE);
        }
        reserve.refill();
    }
}

fn serve(mut connection: Connection, shared: &Shared) -> io::Result<()> {
    let (answer, head_only) = match read_ask(&mut connection)? {
        Ok(ask) if connection.asked(ask.is_probe()) => (shared.answer(&ask), ask.head_only),
        Ok(_) => (Answer::text(503, "too many pages are being sent; try again"), false),
        Err(refusal) => (refusal, false),
    };
    connection.write_all(&answer.encode(head_only))?;
    connection.finish()
}

fn read_ask(connection: &mut Connection) -> io::Result<Result<Ask, Answer>> {
    let mut head = Vec::new();
    let mut chunk = [0u8; 1024];
    loop {
        match http::parse(&head) {
            Ok(Some(ask)) => return Ok(Ok(ask)),
            Ok(None) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        let room = chunk.len().min(HEAD_BYTES_MAX - head.len());
        match connection.read(&mut chunk[..room])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => head.extend_from_slice(&chunk[..read]),
        }
    }
}

impl Shared {
    fn answer(&self, ask: &Ask) -> Answer {
        match ask.path.as_str() {
            "/metrics" => {
                let mut body = Vec::new();
                (self.pages.metrics)(&mut body);
                Answer { status: 200, content_type: "text/plain; version=0.0.4; charset=utf-8", body }
            }
            "/live" => Answer::text(200, "live"),
            "/started" => match self.life.phase() {
                Phase::Starting => Answer::text(503, "starting"),
                Phase::Serving | Phase::Draining => Answer::text(200, "started"),
            },
            "/ready" => self.ready(ask.query == "verbose"),
            "/status" => Answer::json(200, (self.pages.status)()),
            "/config" => Answer::json(200, self.config()),
            "/" => {
                Answer::text(200, "ringkeep: /metrics /live /ready /ready?verbose /started /status /config")
            }
            other => Answer::text(404, &format!("there is no page {other}; / lists those that exist")),
        }
    }

    fn ready(&self, verbose: bool) -> Answer {
        let phase = self.life.phase();
        let mut conditions = vec![Condition {
            name: "phase".into(),
            problem: match phase {
                Phase::Starting => Some("starting".into()),
                Phase::Serving => None,
                Phase::Draining => Some("draining".into()),
            },
            note: None,
        }];
        conditions.extend((self.pages.conditions)());
        let failing: Vec<&Condition> =
            conditions.iter().filter(|condition| condition.problem.is_some()).collect();
        let status = if failing.is_empty() { 200 } else { 503 };
        if verbose {
            return Answer::json(status, verbose_json(&conditions));
        }
        let line = |condition: &&Condition| {
            format!("{}: {}", condition.name, condition.problem.as_deref().unwrap_or_default())
        };
        match failing.is_empty() {
            true => Answer::text(200, "ready"),
            false => Answer::text(503, &failing.iter().map(line).collect::<Vec<_>>().join("\n")),
        }
    }

    fn config(&self) -> String {
        let setting = |(name, value, origin): &(String, String, String)| {
            format!("{}:{{\"value\":{},\"origin\":{}}}", quote(name), quote(value), quote(origin))
        };
        format!("{{{}}}\n", self.pages.settings.iter().map(setting).collect::<Vec<_>>().join(","))
    }
}

fn verbose_json(conditions: &[Condition]) -> String {
    let ready = conditions.iter().all(|condition| condition.problem.is_none());
    let one = |condition: &Condition| {
        let problem = condition.problem.as_deref().map_or_else(|| "null".into(), quote);
        let ok = condition.problem.is_none();
        let note =
            condition.note.as_deref().map_or_else(String::new, |note| format!(",\"note\":{}", quote(note)));
        format!("{{\"name\":{},\"ok\":{ok},\"problem\":{problem}{note}}}", quote(&condition.name))
    };
    let list: Vec<String> = conditions.iter().map(one).collect();
    format!("{{\"ready\":{ready},\"conditions\":[{}]}}\n", list.join(","))
}

/// A JSON string with its quotes, for the pages that others write.
pub fn json_string(text: &str) -> String {
    quote(text)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpStream;
    use std::process::{Child, Command, Stdio};

    use super::connections::{CONNECTIONS_MAX, RESERVE};
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
        }
    }

    fn start(life: &SharedPhase, problem: Option<&'static str>) -> SocketAddr {
        let addr = "127.0.0.1:0".parse().expect("an address");
        Admin::start(addr, life.clone(), pages(problem)).expect("loopback").addr()
    }

    fn get(addr: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(addr).expect("it listens");
        // Only so that a server that answers no more fails a test instead of keeping it.
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("a socket");
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
        let expected = "{\"name\":\"store-1\",\"ok\":false,\"problem\":\"a write failed\",\"note\":\"the tail was cut\"}";
        assert!(body.starts_with("{\"ready\":false") && body.contains(expected), "{body}");
    }

    #[test]
    fn pages_are_served_and_unknown_ones_refused() {
        let addr = start(&SharedPhase::new(), None);
        assert_eq!(get(addr, "/metrics"), (200, "# metrics\n".into()));
        assert_eq!(get(addr, "/config").1, "{\"data_dir\":{\"value\":\"d\",\"origin\":\"default\"}}\n");
        assert_eq!(get(addr, "/nowhere").0, 404);
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
        let addr =
            Admin::start_with(addr, SharedPhase::new(), pages(None), timeout).expect("loopback").addr();
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
                Err(_) => break,
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
}
