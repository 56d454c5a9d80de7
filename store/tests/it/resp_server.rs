//! A RESP server on a core of its own, over a map in memory, and the bytes of a conversation with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use engine::rt::ListenOptions;
use engine::rt::chan::{Sender, queue};
use engine::rt::rng::Rng;
use engine::rt::{CoreHandle, CoreOptions, Cores};
use store::gateway::Gateway;
use store::wire::resp::{Config, Connections, Counters, Cursors, Facts, RespNumbers, serve};

/// A running server; [`TestServer::stop`] or dropping it ends it.
pub(crate) struct TestServer {
    pub(crate) addr: SocketAddr,
    stop: Sender<()>,
    core: Option<CoreHandle<RespNumbers>>,
    // Dropped last: the core needs its kicker.
    _cores: Cores,
}

/// A server's settings before a test changes them.
pub(crate) fn config() -> Config {
    Config {
        password: None,
        connections_max: 5000,
        pipeline_max: 1024,
        cursors: Cursors::new(1 << 40),
        connections: Connections::default(),
        board: None,
        descriptors: store::descriptors::Descriptors::default(),
        facts: Facts { version: "0.1.0".to_owned(), port: 6379, cores: 1, ..Facts::default() },
    }
}

impl TestServer {
    pub(crate) fn start(config: Config) -> Self {
        Self::start_with(config, Duration::from_secs(30))
    }

    /// As [`TestServer::start`]; connections may go on for `time_max` when it is stopped.
    pub(crate) fn start_with(config: Config, time_max: Duration) -> Self {
        Self::start_at([127, 0, 0, 1], config, time_max)
    }

    /// As [`TestServer::start_with`], listening on another address.
    pub(crate) fn start_at(ip: [u8; 4], config: Config, time_max: Duration) -> Self {
        let cores = Cores::new().unwrap();
        let (stop, stopped) = queue::<()>(1);
        let (bound, addr) = mpsc::channel();
        let core = cores.start(0, &CoreOptions::default(), move |rt| async move {
            let any = SocketAddr::from((ip, 0));
            let listener = rt.listen(any, ListenOptions::default()).unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let counters = Rc::new(Counters::default());
            let shutdown = async move {
                stopped.recv().await;
                time_max
            };
            let gateway = Gateway::in_memory().with_clock(&rt);
            serve(rt, listener, gateway, config, counters.clone(), shutdown).await;
            counters.snapshot()
        });
        Self { addr: addr.recv().unwrap(), stop, core: Some(core.unwrap()), _cores: cores }
    }

    pub(crate) fn connect(&self) -> Conversation {
        Conversation::new(TcpStream::connect(self.addr).unwrap())
    }

    /// Asks the server to stop, without waiting for it.
    pub(crate) fn begin_stop(&self) {
        let _ = self.stop.try_send(());
    }

    /// Stops the server; what it has counted.
    pub(crate) fn stop(mut self) -> RespNumbers {
        self.begin_stop();
        self.core.take().unwrap().join().unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(core) = self.core.take() {
            // A test that fails reports its own failure.
            let _ = core.join();
        }
    }
}

/// A client that sends any bytes and shows replies as text.
pub(crate) struct Conversation {
    pub(crate) stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Conversation {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// One command, as inline words, sent as an array.
    pub(crate) fn ask(&mut self, words: &[&[u8]]) -> String {
        self.send(&packed(words));
        self.reply()
    }

    /// The next reply as text: `+OK`, `-ERR ...`, `:1`, `"bulk"`, `(nil)`, `[a, b]`, `{k: v}`; `(closed)` at the end.
    pub(crate) fn reply(&mut self) -> String {
        let mut line = Vec::new();
        // A connection that is reset has ended, too.
        let _ = self.reader.read_until(b'\n', &mut line);
        if line.is_empty() {
            return "(closed)".to_owned();
        }
        assert!(line.ends_with(b"\r\n"), "{:?}", String::from_utf8_lossy(&line));
        let text = String::from_utf8_lossy(&line[1..line.len() - 2]).into_owned();
        match line[0] {
            b'+' | b'-' | b':' | b',' => format!("{}{text}", line[0] as char),
            b'_' => "(null)".to_owned(),
            b'$' | b'*' if text == "-1" => "(nil)".to_owned(),
            b'$' => format!("\"{}\"", self.bytes(text.parse().unwrap()).escape_ascii()),
            b'=' => format!("text {}", self.bytes(text.parse().unwrap()).escape_ascii()),
            b'*' => format!("[{}]", self.many(text.parse().unwrap()).join(", ")),
            b'~' => format!("set [{}]", self.many(text.parse().unwrap()).join(", ")),
            b'%' => {
                let all = self.many(2 * text.parse::<usize>().unwrap());
                let pairs: Vec<String> =
                    all.chunks(2).map(|pair| format!("{}: {}", pair[0], pair[1])).collect();
                format!("{{{}}}", pairs.join(", "))
            }
            other => panic!("no reply begins with {:?}", other as char),
        }
    }

    fn many(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.reply()).collect()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count + 2];
        self.reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes[count..], b"\r\n");
        bytes.truncate(count);
        bytes
    }
}

/// A command as an array of bulk strings.
pub(crate) fn packed(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// What a seed decides.
pub(crate) struct Random(pub(crate) Rng);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0.next()
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
