//! A session's memory and its bounds, seen from inside while a simulated client reads and asks at its own pace.
//!
//! In the simulated world a session that waits for ever is a failed test: nothing is left to happen.

use std::cell::Cell;
use std::net::SocketAddr;

use bytes::Bytes;
use engine::rt::sim::{Options, World};
use engine::rt::{ListenOptions, Rt};

use super::*;
use crate::descriptors::silent::{PortEntry, Speaks};
use crate::gateway::Gateway;
use crate::request::Op;
use crate::wire::resp::connections::Connections;
use crate::wire::resp::counters::Counters;
use crate::wire::resp::cursor::Cursors;
use crate::wire::resp::data::REPLY_BYTES_MAX;
use crate::wire::resp::roster::Arrival;
use crate::wire::resp::server::{Config, Facts};

/// The client's side of the connection.
struct Asker {
    stream: Stream,
    /// What has been read and belongs to no checked reply yet.
    read: Vec<u8>,
    buffer: Box<[u8]>,
    rt: Rt,
}

impl Asker {
    async fn ask(&mut self, command: &str) {
        self.stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    }

    async fn expect(&mut self, reply: &[u8]) {
        while self.read.len() < reply.len() {
            let bytes = self.stream.read(&mut self.buffer).await.unwrap();
            assert!(bytes > 0, "the connection ended within a reply");
            self.read.extend_from_slice(&self.buffer[..bytes]);
        }
        assert!(self.read.starts_with(reply), "the replies are not what was asked for, or not in order");
        self.read.drain(..reply.len());
    }

    /// Sends `bytes` every `pause` until the server has closed the connection; how long that took, seconds.
    async fn closed_after(&mut self, bytes: &[u8], pause: Duration) -> u64 {
        let began = self.rt.now();
        loop {
            if !bytes.is_empty() && self.stream.write_all(bytes).await.is_err() {
                break;
            }
            let (mut sleep, stream) = (Box::pin(self.rt.sleep(pause)), &mut self.stream);
            let buffer = &mut self.buffer;
            let closed = poll_fn(|cx| match stream.poll_read(cx, buffer) {
                Poll::Ready(Ok(1..)) => panic!("the server has something to say"),
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(true),
                Poll::Pending => sleep.as_mut().poll(cx).map(|()| false),
            });
            if closed.await {
                break;
            }
        }
        self.rt.now().since(began).as_secs()
    }
}

/// Lets `client` talk to a session over `values`, and shows the session to `watch` after each of its polls.
fn converse<F>(
    window_bytes: usize,
    values: Vec<(&'static str, Bytes)>,
    client: impl FnOnce(Asker) -> F + 'static,
    watch: impl FnMut(&Session) + 'static,
) where
    F: Future<Output = ()> + 'static,
{
    converse_with(|_| {}, window_bytes, values, client, watch);
}

/// As above, with other settings.
fn converse_with<F>(
    change: impl FnOnce(&mut Config) + 'static,
    window_bytes: usize,
    values: Vec<(&'static str, Bytes)>,
    client: impl FnOnce(Asker) -> F + 'static,
    mut watch: impl FnMut(&Session) + 'static,
) where
    F: Future<Output = ()> + 'static,
{
    let mut options = Options::default();
    options.net.window_bytes = window_bytes;
    let world = World::new(71, options);
    let main = move |rt: Rt| async move {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = rt.listen(any, ListenOptions::default()).unwrap();
        let addr = listener.local_addr().unwrap();
        let talking = rt.spawn({
            let rt = rt.clone();
            async move {
                let stream = rt.connect(addr).await.unwrap();
                client(Asker { stream, read: Vec::new(), buffer: vec![0; 16 << 10].into(), rt }).await;
            }
        });
        let (stream, from) = listener.accept().await.unwrap();
        let mut session = session(&rt, change, values, stream, from).await;
        while let Ok(true) = poll_fn(|cx| {
            let polled = session.poll_turns(cx);
            watch(&session);
            polled
        })
        .await
        {
            rt.yield_to_reactor().await;
        }
        drop(session);
        talking.await
    };
    world.block_on(world.node(0).start(0, main)).expect("nothing crashes the node");
}

async fn session(
    rt: &Rt,
    change: impl FnOnce(&mut Config),
    values: Vec<(&'static str, Bytes)>,
    stream: Stream,
    from: SocketAddr,
) -> Box<Session> {
    let gateway = Gateway::in_memory();
    for (key, value) in values {
        gateway.submit(None, Op::Put { key: key.into(), value }).await.unwrap();
    }
    let mut config = Config {
        password: None,
        connections_max: 1,
        pipeline_max: 1024,
        cursors: Cursors::new(1 << 40),
        connections: Connections::default(),
        board: None,
        descriptors: crate::descriptors::Descriptors::default(),
        facts: Facts::default(),
    };
    change(&mut config);
    let authenticated = config.password.is_none();
    let server = Rc::new(Server::new(
        rt.clone(),
        gateway,
        config,
        Rc::new(Counters::default()),
        PortEntry::new(Speaks::Resp).0,
    ));
    let arrival = Arrival { from, local: None, began: rt.now(), core: 0 };
    let entry = server.config.connections.roster().admit(arrival, 1).unwrap();
    let client = Rc::new(ConnectionState::new(entry, authenticated));
    Box::new(Session::new(server, stream, client))
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

/// A client that asks for the next value whenever it has read one never lets the replies run empty. What is sent must leave
/// memory all the same.
#[test]
fn replies_that_are_sent_do_not_pile_up_behind_a_slow_reader() {
    const VALUE_BYTES: usize = 16 << 10;
    const AHEAD: usize = 200;
    const ASKED: usize = 2000;
    const KEYS: [&str; 3] = ["a", "b", "c"];
    let values: Vec<_> =
        KEYS.iter().map(|key| (*key, Bytes::from(vec![key.as_bytes()[0]; VALUE_BYTES]))).collect();
    let replies: Vec<_> = values.iter().map(|(_, value)| bulk(value)).collect();
    // As much may be kept of what is sent as there is of what is not.
    let bound = 2 * (UNSENT_BYTES_MAX + replies[0].len());
    let asking = Rc::new(Cell::new(false));
    let (most, ran_empty) = (Rc::new(Cell::new((0, 0))), Rc::new(Cell::new(0)));

    let now_asking = asking.clone();
    let client = move |mut asker: Asker| async move {
        for n in 0..ASKED {
            asker.ask(&format!("GET {}", KEYS[n % KEYS.len()])).await;
            if n >= AHEAD {
                asker.expect(&replies[(n - AHEAD) % KEYS.len()]).await;
                now_asking.set(true);
            }
        }
        now_asking.set(false);
        for n in ASKED - AHEAD..ASKED {
            asker.expect(&replies[n % KEYS.len()]).await;
        }
    };
    let (seen, empty) = (most.clone(), ran_empty.clone());
    let watch = move |session: &Session| {
        let (length, capacity) = seen.get();
        let (length_now, capacity_now) = session.replies.buffer_bytes();
        seen.set((length.max(length_now), capacity.max(capacity_now)));
        empty.set(empty.get() + u32::from(asking.get() && session.replies.is_sent()));
    };
    converse(64 << 10, values, client, watch);

    let ((length, capacity), served) = (most.get(), ASKED * VALUE_BYTES);
    assert_eq!(ran_empty.get(), 0, "the client read everything at times: the test does not test");
    assert!(
        length > UNSENT_BYTES_MAX && served > 10 * bound,
        "the bounds were not met: the test does not test"
    );
    assert!(length <= bound, "{length} bytes of {served} were kept, {bound} would do");
    // A vector that grows at least doubles.
    assert!(capacity <= 2 * bound, "{capacity} bytes were allocated, twice {bound} would do");
}

/// The values of a reply may come to the bound and what is around them beyond it.
#[test]
fn a_reply_above_the_bound_leaves_room_for_the_next_command() {
    const VALUE_BYTES: usize = 8 << 20;
    const VALUES: usize = REPLY_BYTES_MAX / VALUE_BYTES;
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    let one = bulk(&value);
    let client = move |mut asker: Asker| async move {
        asker.ask(&format!("MGET{}", " big".repeat(VALUES))).await;
        asker.expect(format!("*{VALUES}\r\n").as_bytes()).await;
        for _ in 0..VALUES {
            asker.expect(&one).await;
        }
        asker.ask("PING").await;
        asker.expect(b"+PONG\r\n").await;
    };
    let largest = Rc::new(Cell::new(0));
    let seen = largest.clone();
    let watch = move |session: &Session| seen.set(seen.get().max(session.replies.expected_bytes()));
    converse(4 << 20, vec![("big", value)], client, watch);
    assert!(largest.get() > REPLY_BYTES_MAX, "the reply was not above the bound: the test does not test");
}

#[test]
fn no_more_commands_are_in_flight_than_the_setting_allows() {
    const ASKED: usize = 300;
    for pipeline_max in [1, 7, 100] {
        let client = |mut asker: Asker| async move {
            asker.ask(&["SET a 1"; ASKED].join("\r\n")).await;
            asker.expect(&b"+OK\r\n".repeat(ASKED)).await;
        };
        let most = Rc::new(Cell::new(0));
        let seen = most.clone();
        let watch = move |session: &Session| seen.set(seen.get().max(session.most_queued));
        let change = move |config: &mut Config| config.pipeline_max = pipeline_max;
        converse_with(change, 64 << 10, Vec::new(), client, watch);
        assert_eq!(most.get(), pipeline_max);
    }
}

/// What commands cost is not bounded by how many there are, so the clock decides when others have their turn.
#[test]
fn a_session_whose_slice_is_used_up_lets_others_go_on() {
    const ASKED: u64 = 300;
    let client = |mut asker: Asker| async move {
        asker.ask("PING").await;
        asker.expect(b"+PONG\r\n").await;
        asker.ask(&["SET a 1"; ASKED as usize].join("\r\n")).await;
        asker.expect(&b"+OK\r\n".repeat(ASKED as usize)).await;
    };
    let (most, before) = (Rc::new(Cell::new(0)), Cell::new(0));
    let seen = most.clone();
    let watch = move |session: &Session| {
        session.slice.shorten();
        let done = session.server.counters.commands[RespCommand::Set as usize].get();
        seen.set(seen.get().max(done - before.replace(done)));
    };
    converse(64 << 10, Vec::new(), client, watch);
    assert!((1..=8).contains(&most.get()), "{} commands were started in one slice", most.get());
}

/// What the replies in flight come to is bounded before any of them is there: as many commands as replies of the latest size fit.
#[test]
fn fewer_commands_are_in_flight_where_replies_are_large() {
    let value = Bytes::from(vec![b'v'; 8 << 20]);
    let reply = bulk(&value);
    let expected = REPLY_BYTES_MAX / reply.len();
    let client = move |mut asker: Asker| async move {
        asker.ask("GET big").await;
        asker.expect(&reply).await;
        asker.ask(&["SET a 1"; 12].join("\r\n")).await;
        asker.expect(&b"+OK\r\n".repeat(12)).await;
    };
    let most = Rc::new(Cell::new(0));
    let seen = most.clone();
    let watch = move |session: &Session| seen.set(seen.get().max(session.most_queued));
    converse(4 << 20, vec![("big", value)], client, watch);
    assert_eq!(most.get(), expected);
}

#[test]
fn a_line_without_end_is_an_error_and_is_not_heard_out_for_ever() {
    let client = |mut asker: Asker| async move {
        asker.stream.write_all(&[0; 70_000]).await.unwrap();
        asker.expect(b"-ERR Protocol error: too big inline request or count string\r\n").await;
        // The server has ended its side; what follows is thrown away, for a while.
        let began = asker.rt.now();
        while asker.stream.write_all(&[0; 1000]).await.is_ok() {
            asker.rt.sleep(Duration::from_millis(100)).await;
        }
        let seconds = asker.rt.now().since(began).as_secs();
        assert!((4..=6).contains(&seconds), "closed after {seconds} s");
    };
    converse(1 << 20, Vec::new(), client, |_| {});
}

#[test]
fn a_command_that_begins_and_does_not_end_costs_the_connection() {
    let silent = |mut asker: Asker| async move {
        asker.stream.write_all(b"*2\r\n$3\r\nGET\r\n$1000\r\n").await.unwrap();
        let seconds = asker.closed_after(b"", Duration::from_secs(1)).await;
        assert!((59..=60).contains(&seconds), "closed after {seconds} s");
    };
    converse(1 << 20, Vec::new(), silent, |_| {});
    let drip = |mut asker: Asker| async move {
        asker.stream.write_all(b"*2\r\n$3\r\nGET\r\n$1000\r\n").await.unwrap();
        let seconds = asker.closed_after(b"x", Duration::from_secs(10)).await;
        assert!((60..=70).contains(&seconds), "closed after {seconds} s");
    };
    let counted = Rc::new(Cell::new(0));
    let seen = counted.clone();
    converse(1 << 20, Vec::new(), drip, move |session| seen.set(session.server.counters.overdue.get()));
    assert_eq!(counted.get(), 1, "the end for being overdue is counted");
}

#[test]
fn a_slow_line_and_a_silent_client_are_no_reason_to_close() {
    const PIECES: usize = 256;
    let client = |mut asker: Asker| async move {
        let bytes = PIECES * (16 << 10);
        asker
            .stream
            .write_all(format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${bytes}\r\n").as_bytes())
            .await
            .unwrap();
        for _ in 0..PIECES {
            asker.rt.sleep(Duration::from_millis(500)).await;
            asker.stream.write_all(&[b'v'; 16 << 10]).await.unwrap();
        }
        asker.stream.write_all(b"\r\n").await.unwrap();
        asker.expect(b"+OK\r\n").await;
        asker.rt.sleep(Duration::from_secs(3000)).await;
        asker.ask("STRLEN a").await;
        asker.expect(format!(":{bytes}\r\n").as_bytes()).await;
    };
    converse(1 << 20, Vec::new(), client, |_| {});
}

#[test]
fn a_client_that_does_not_authenticate_in_time_is_closed() {
    let locked = |config: &mut Config| config.password = Some("secret".to_owned());
    let silent = |mut asker: Asker| async move {
        let seconds = asker.closed_after(b"", Duration::from_secs(1)).await;
        assert!((59..=60).contains(&seconds), "closed after {seconds} s");
    };
    converse_with(locked, 1 << 20, Vec::new(), silent, |_| {});
    let wrong = |mut asker: Asker| async move {
        for _ in 0..5 {
            asker.ask("AUTH wrong").await;
            asker.expect(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n").await;
            asker.rt.sleep(Duration::from_secs(10)).await;
        }
        let seconds = asker.closed_after(b"", Duration::from_secs(1)).await;
        assert!((9..=10).contains(&seconds), "closed after {seconds} s");
    };
    converse_with(locked, 1 << 20, Vec::new(), wrong, |_| {});
    let right = |mut asker: Asker| async move {
        asker.rt.sleep(Duration::from_secs(50)).await;
        asker.ask("AUTH secret").await;
        asker.expect(b"+OK\r\n").await;
        asker.rt.sleep(Duration::from_secs(3000)).await;
        asker.ask("PING").await;
        asker.expect(b"+PONG\r\n").await;
    };
    converse_with(locked, 1 << 20, Vec::new(), right, |_| {});
}
