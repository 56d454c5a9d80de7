//! A session's memory and its bounds, seen from inside while a simulated client reads and asks at its own pace.
//!
//! In the simulated world a session that waits for ever is a failed test: nothing is left to happen.

use std::cell::Cell;
use std::net::SocketAddr;

use bytes::Bytes;
use engine::rt::sim::{Options, World};
use engine::rt::{ListenOptions, Rt};

use super::*;
use crate::gateway::Gateway;
use crate::request::Op;
use crate::wire::resp::counters::Counters;
use crate::wire::resp::cursor::Cursors;
use crate::wire::resp::data::REPLY_BYTES_MAX;
use crate::wire::resp::moving::Doors;
use crate::wire::resp::server::{Config, Facts};

/// The client's side of the connection.
struct Asker {
    stream: Stream,
    /// What has been read and belongs to no checked reply yet.
    read: Vec<u8>,
    buffer: Box<[u8]>,
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
}

/// Lets `client` talk to a session over `values`, and shows the session to `watch` whenever it has moved.
fn converse<F>(
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
                client(Asker { stream, read: Vec::new(), buffer: vec![0; 16 << 10].into() }).await;
            }
        });
        let (stream, from) = listener.accept().await.unwrap();
        let mut session = session(&rt, values, stream, from).await;
        while let Ok(true) = poll_fn(|cx| {
            let polled = session.poll_turns(cx);
            watch(&session);
            polled
        })
        .await
        {
            rt.yield_to_reactor().await;
        }
        talking.await
    };
    world.block_on(world.node(0).start(0, main)).expect("nothing crashes the node");
}

async fn session(
    rt: &Rt,
    values: Vec<(&'static str, Bytes)>,
    stream: Stream,
    from: SocketAddr,
) -> Box<Session> {
    let gateway = Gateway::in_memory();
    for (key, value) in values {
        gateway.submit(None, Op::Put { key: key.into(), value }).await.unwrap();
    }
    let config = Config {
        password: None,
        connections_max: 1,
        cursors: Cursors::new(1 << 40),
        doors: Doors::default(),
        descriptors: crate::node::descriptors::Descriptors::default(),
        facts: Facts::default(),
    };
    let server = Rc::new(Server::new(rt.clone(), gateway, config, Rc::new(Counters::default())));
    let client = Rc::new(Client::new(1, from, rt.now(), true));
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

    let told = asking.clone();
    let client = move |mut asker: Asker| async move {
        for n in 0..ASKED {
            asker.ask(&format!("GET {}", KEYS[n % KEYS.len()])).await;
            if n >= AHEAD {
                asker.expect(&replies[(n - AHEAD) % KEYS.len()]).await;
                told.set(true);
            }
        }
        told.set(false);
        for n in ASKED - AHEAD..ASKED {
            asker.expect(&replies[n % KEYS.len()]).await;
        }
    };
    let (seen, empty) = (most.clone(), ran_empty.clone());
    let watch = move |session: &Session| {
        let (length, capacity) = seen.get();
        seen.set((length.max(session.out.len()), capacity.max(session.out.capacity())));
        empty.set(empty.get() + u32::from(asking.get() && session.sent == session.out.len()));
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
    let watch = move |session: &Session| seen.set(seen.get().max(session.large_reply));
    converse(4 << 20, vec![("big", value)], client, watch);
    assert!(largest.get() > REPLY_BYTES_MAX, "the reply was not above the bound: the test does not test");
}
