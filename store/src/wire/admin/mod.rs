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
//! | `/console` | a page for people, with the files that it loads below that path |
//! | `/api/v1/` | what the page shows, as JSON |
//!
//! Readiness speaks of this node only: other nodes being down is no reason to restart this one.
//!
//! A connection carries one request and has [`TIMEOUT`] for everything, from being accepted to having its answer. A bounded number
//! is served at a time, with places kept for probes ([`connections`]), so neither a slow nor a greedy client costs more than a
//! few threads or hides the node's health. Where descriptors run out, a silent client makes room for the next one before it is accepted,
//! and a few are held for the case that there is none.
//!
//! The page and its answers come from the binary ([`Pages::files`], [`Pages::api`]). Every answer forbids browsers to run a script that this
//! server has not sent as a file. On loopback, where any page that a browser on this machine shows could ask under a name of its own that it makes
//! lead here, what lies below `/api/` is given only to those who ask for an address or for `localhost`.
//!
//! Not done here, on purpose: no writes, no authentication, no TLS; the port listens on loopback unless set otherwise.

mod connections;
mod http;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use engine::error::Shortage;

use connections::{Connection, Connections, Reserve};
use http::{API, Answer, Ask, HEAD_BYTES_MAX, quote};

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

/// A file that is part of the binary.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedFile {
    /// Where it is served.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// What is in it.
    pub body: &'static [u8],
}

/// Answers what the console asks below `/api/`, by path and query: a status, and JSON of bounded length.
pub type Api = dyn Fn(&str, &str) -> (u16, Arc<str>) + Send + Sync;

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
    /// Files that are served as they are.
    pub files: &'static [EmbeddedFile],
    /// What lies below `/api/`.
    pub api: Box<Api>,
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
    /// Whether only this machine reaches the port.
    on_loopback: bool,
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
        let on_loopback = addr.ip().is_loopback();
        let shared = Arc::new(Shared { on_loopback, life, pages, connections: Arc::default(), timeout });
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
        Ok(ask) if connection.asked(ask.kind()) => (shared.answer(&ask), ask.head_only),
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
            "/" => Answer::text(
                200,
                "ringkeep: /console /metrics /live /ready /ready?verbose /started /status /config",
            ),
            path if path.starts_with(API) && self.on_loopback && !ask.means_an_address() => Answer::text(
                421,
                "this port is on loopback: ask for it by its address or as localhost, not by another name",
            ),
            path if path.starts_with(API) => {
                let (status, body) = (self.pages.api)(path, &ask.query);
                Answer::json(status, body.to_string())
            }
            path => match self.pages.files.iter().find(|file| file.path == path) {
                Some(file) => {
                    Answer { status: 200, content_type: file.content_type, body: file.body.to_vec() }
                }
                None => Answer::text(404, &format!("there is no page {path}; / lists those that exist")),
            },
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
