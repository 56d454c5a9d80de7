//! What connections make a core hold stays within its bounds: requests that are not finished, answers that are not read, what
//! transactions keep and watch, lists of clients.
//!
//! All of it runs in the simulated world, where a client that waits for ever is a failed test.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::sim::{Options, World};
use engine::rt::{ListenOptions, Rt, Stream};
use store::gateway::Gateway;
use store::memory::{ITEM_BYTES, Memory};
use store::refusal::Refusal;
use store::request::Op;
use store::wire::resp::{self, Config, Counters};

use crate::memory::{MIB, cool, in_world, limits, open, put};
use crate::resp_server::{config, packed};

/// Serves RESP over `gateway` and returns its address.
pub(crate) fn serve(rt: &Rt, gateway: &Gateway) -> SocketAddr {
    serve_with(rt, gateway, config())
}

fn serve_with(rt: &Rt, gateway: &Gateway, config: Config) -> SocketAddr {
    serve_counted(rt, gateway, config).0
}

/// The same, with what it counts.
pub(crate) fn serve_counted(rt: &Rt, gateway: &Gateway, config: Config) -> (SocketAddr, Rc<Counters>) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = rt.listen(any, ListenOptions::default()).unwrap();
    let addr = listener.local_addr().unwrap();
    let counters = Rc::new(Counters::default());
    let (gateway, counted) = (gateway.clone(), counters.clone());
    let serving = resp::serve(rt.clone(), listener, gateway, config, counters, std::future::pending());
    drop(rt.spawn(serving));
    (addr, counted)
}

pub(crate) async fn expect(stream: &mut Stream, reply: &[u8]) {
    let (mut read, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while read.len() < reply.len() {
        let left = (reply.len() - read.len()).min(buffer.len());
        let bytes = stream.read(&mut buffer[..left]).await.unwrap();
        assert!(bytes > 0, "the connection ended within a reply");
        read.extend_from_slice(&buffer[..bytes]);
        assert!(reply.starts_with(&read), "another reply than expected");
    }
}

pub(crate) async fn ask(stream: &mut Stream, words: &[&[u8]], reply: &[u8]) {
    stream.write_all(&packed(words)).await.unwrap();
    expect(stream, reply).await;
}

#[test]
fn unfinished_requests_share_a_bound_and_each_is_finished_in_its_turn() {
    const CLIENTS: usize = 40;
    in_world(|rt| async move {
        let memory = Memory::new(limits(4 * MIB, 16 * MIB));
        let gateway = Gateway::in_bounded_memory(memory.clone());
        let addr = serve(&rt, &gateway);
        let clients = (0..CLIENTS).map(|n| {
            let rt = rt.clone();
            rt.clone().spawn(async move {
                let mut stream = rt.connect(addr).await.unwrap();
                let request = packed(&[b"SET", format!("key{n}").as_bytes(), &vec![b'v'; MIB]]);
                let (most, last) = request.split_at(request.len() - 1);
                stream.write_all(most).await.unwrap();
                rt.sleep(Duration::from_millis(20)).await;
                stream.write_all(last).await.unwrap();
                expect(&mut stream, b"+OK\r\n").await;
            })
        });
        let clients: Vec<_> = clients.collect();
        let mut bystander = rt.connect(addr).await.unwrap();
        for _ in 0..50 {
            rt.sleep(Duration::from_millis(1)).await;
            let began = rt.now();
            ask(&mut bystander, &[b"SET", b"small", b"value"], b"+OK\r\n").await;
            ask(&mut bystander, &[b"GET", b"small"], b"$5\r\nvalue\r\n").await;
            let took = rt.now().since(began);
            assert!(took < Duration::from_millis(20), "a small request took {took:?}");
        }
        for client in clients {
            client.await;
        }
        // One request beside the bound, in a buffer that doubles as it grows, and one read of each connection.
        let bound = 4 * MIB + 2 * MIB + CLIENTS * (8 << 10);
        assert!(memory.input.peak() <= bound, "{} bytes were held", memory.input.peak());
        assert!(memory.input.peak() > 4 * MIB, "the bound was never met: the test does not test");
        assert_eq!((memory.input.used(), memory.input.waiting()), (0, 0));
    });
}

#[test]
fn who_has_not_authenticated_is_kept_next_to_nothing_of() {
    const CLIENTS: usize = 100;
    in_world(|rt| async move {
        let memory = Memory::new(limits(64 * MIB, 16 * MIB));
        let gateway = Gateway::in_bounded_memory(memory.clone());
        let config = Config { password: Some("secret".to_owned()), ..config() };
        let addr = serve_with(&rt, &gateway, config);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let rt = rt.clone();
                rt.clone().spawn(async move {
                    let mut stream = rt.connect(addr).await.unwrap();
                    let request = match n % 3 {
                        0 => packed(&[b"SET", b"key", &vec![b'v'; MIB]]),
                        // No argument is too long, and all together are too much.
                        1 => packed(&[&[b'a'; 10_000][..]; 10]).repeat(5),
                        _ => packed(&[b"AUTH", &vec![b'p'; 8 * MIB]]),
                    };
                    if stream.write_all(&request[..request.len() - 1]).await.is_err() {
                        // It was closed before all of it was taken, which is what the cap is for.
                        return;
                    }
                    rt.sleep(Duration::from_secs(5)).await;
                })
            })
            .collect();
        for client in clients {
            client.await;
        }
        let peak = memory.input.peak();
        assert!(peak <= CLIENTS * (256 << 10), "{peak} bytes were held before AUTH");
    });
}

#[test]
fn answers_that_are_not_read_share_a_bound_and_small_ones_go_on() {
    const CLIENTS: usize = 20;
    const GETS: usize = 4;
    in_world(|rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 8 * MIB), 64 * MIB, false).await;
        put(&gateway, "big", MIB).await;
        put(&gateway, "small", 5).await;
        let addr = serve(&rt, &gateway);
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut stream = rt.connect(addr).await.unwrap();
            for _ in 0..GETS {
                stream.write_all(&packed(&[b"GET", b"big"])).await.unwrap();
            }
            clients.push(stream);
        }
        let mut bystander = rt.connect(addr).await.unwrap();
        for _ in 0..50 {
            rt.sleep(Duration::from_millis(100)).await;
            ask(&mut bystander, &[b"GET", b"small"], b"$5\r\nxxxxx\r\n").await;
            ask(&mut bystander, &[b"EXISTS", b"big"], b":1\r\n").await;
            ask(&mut bystander, &[b"SET", b"other", b"value"], b"+OK\r\n").await;
        }
        let memory = gateway.memory();
        // One value may exist twice while it is copied into the replies.
        assert!(memory.output.peak() <= 8 * MIB + 2 * MIB, "{} bytes were held", memory.output.peak());
        assert!(memory.output.peak() > 4 * MIB, "the bound was never met: the test does not test");
        drop(clients);
        while memory.output.used() > 0 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        ask(&mut bystander, &[b"STRLEN", b"big"], format!(":{MIB}\r\n").as_bytes()).await;
    });
}

#[test]
fn clients_that_stall_give_their_memory_to_those_who_wait_for_it() {
    in_world(|rt| async move {
        let (_stores, gateway) = open(&rt, limits(4 * MIB, 8 * MIB), 64 * MIB, false).await;
        put(&gateway, "big", MIB).await;
        let addr = serve(&rt, &gateway);
        let mut stalled = Vec::new();
        for _ in 0..6 {
            let mut stream = rt.connect(addr).await.unwrap();
            let request = packed(&[b"SET", b"never", &vec![b'v'; 2 * MIB]]);
            rt.spawn({
                let rt = rt.clone();
                async move {
                    if stream.write_all(&request[..request.len() - 1]).await.is_err() {
                        // It was closed before all of it was taken.
                        return;
                    }
                    rt.sleep(Duration::from_secs(600)).await;
                }
            });
        }
        for _ in 0..20 {
            let mut stream = rt.connect(addr).await.unwrap();
            stream.write_all(&packed(&[b"GET", b"big"])).await.unwrap();
            stalled.push(stream);
        }
        rt.sleep(Duration::from_millis(100)).await;
        let began = rt.now();
        let mut honest = rt.connect(addr).await.unwrap();
        ask(&mut honest, &[b"SET", b"mine", &vec![b'm'; MIB]], b"+OK\r\n").await;
        while let Err(refusal) = gateway.submit(None, Op::Get { key: "big".into() }).await {
            assert!(matches!(refusal, Refusal::Busy { .. }), "{refusal:?}");
        }
        let took = rt.now().since(began);
        assert!(took < Duration::from_secs(60), "it took {took:?}");
    });
}

#[test]
fn what_a_transaction_keeps_is_charged_until_it_ends() {
    in_world(|rt| async move {
        let memory = Memory::new(limits(16 * MIB, 16 * MIB));
        let gateway = Gateway::in_bounded_memory(memory.clone());
        let addr = serve(&rt, &gateway);
        let mut client = rt.connect(addr).await.unwrap();
        for end in [&[&b"DISCARD"[..]][..], &[&b"EXEC"[..]]] {
            ask(&mut client, &[b"MULTI"], b"+OK\r\n").await;
            for _ in 0..2 {
                ask(&mut client, &[b"SET", b"a", &vec![b'v'; MIB]], b"+QUEUED\r\n").await;
            }
            assert!(memory.input.used() >= 2 * MIB, "{} bytes are charged", memory.input.used());
            let refused = b"-TRYAGAIN the core is short of memory, try again in 20 ms\r\n";
            ask(&mut client, &[b"SET", b"a", &vec![b'v'; 7 * MIB]], refused).await;
            let ended: &[u8] = if end[0] == b"EXEC" {
                b"-EXECABORT Transaction discarded because of previous errors.\r\n"
            } else {
                b"+OK\r\n"
            };
            ask(&mut client, end, ended).await;
            assert!(memory.input.used() < MIB, "{} bytes are charged for nothing", memory.input.used());
        }
    });
}

/// Keys that are watched stay for as long as their connection likes, so they share the bound of requests.
#[test]
fn what_a_connection_watches_is_charged_until_it_is_let_go() {
    const KEYS: usize = 64;
    let key = |client: usize, n: usize| {
        let mut key = vec![b'k'; 8 << 10];
        key[0] = u8::try_from(client).unwrap();
        key[1] = u8::try_from(n).unwrap();
        key
    };
    in_world(move |rt| async move {
        let memory = Memory::new(limits(4 * MIB, 4 * MIB));
        let gateway = Gateway::in_bounded_memory(memory.clone());
        let addr = serve(&rt, &gateway);
        let watch = |client: usize| {
            let keys: Vec<Vec<u8>> = (0..KEYS).map(|n| key(client, n)).collect();
            let words: Vec<&[u8]> =
                std::iter::once(&b"WATCH"[..]).chain(keys.iter().map(Vec::as_slice)).collect();
            packed(&words)
        };
        let (mut watching, mut refused) = (Vec::new(), 0);
        for client in 0..20 {
            let mut stream = rt.connect(addr).await.unwrap();
            stream.write_all(&watch(client)).await.unwrap();
            let (mut reply, mut piece) = (Vec::new(), [0; 128]);
            while !reply.ends_with(b"\r\n") {
                let bytes = stream.read(&mut piece).await.unwrap();
                assert!(bytes > 0, "the connection ended within a reply");
                reply.extend_from_slice(&piece[..bytes]);
            }
            if reply == b"+OK\r\n" {
                watching.push(stream);
            } else {
                assert_eq!(reply, b"-TRYAGAIN the core is short of memory, try again in 20 ms\r\n");
                refused += 1;
            }
            let (used, kept) = (memory.input.used(), watching.len() * KEYS * (8 << 10));
            assert!(used >= kept, "{used} bytes are charged for {kept}");
        }
        assert!(watching.len() >= 4 && refused > 0, "{} watch, {refused} were refused", watching.len());
        // The same keys once more cost nothing.
        let used = memory.input.used();
        watching[0].write_all(&packed(&[b"WATCH", &key(0, 0), &key(0, 0)])).await.unwrap();
        expect(&mut watching[0], b"+OK\r\n").await;
        assert_eq!(memory.input.used(), used);
        // Each way out gives back what it watched.
        let one = used / watching.len();
        let mut others = watching.split_off(watching.len() - 4);
        ask(&mut others[0], &[b"UNWATCH"], b"+OK\r\n").await;
        ask(&mut others[1], &[b"MULTI"], b"+OK\r\n").await;
        ask(&mut others[1], &[b"DISCARD"], b"+OK\r\n").await;
        ask(&mut others[2], &[b"MULTI"], b"+OK\r\n").await;
        ask(&mut others[2], &[b"EXEC"], b"*0\r\n").await;
        ask(&mut others[3], &[b"RESET"], b"+RESET\r\n").await;
        assert_eq!(memory.input.used(), used - 4 * one);
        ask(&mut others[0], &[b"WATCH", &key(0, 0)], b"+OK\r\n").await;
        assert!(memory.input.used() >= used - 4 * one + (8 << 10));
        drop((watching, others));
        rt.sleep(Duration::from_secs(1)).await;
        assert_eq!(memory.input.used(), 0, "closed connections keep something");
    });
}

/// Each reply is short, and there are thousands: what a transaction says to commands without keys is an answer like others.
#[test]
fn what_exec_says_to_commands_without_keys_is_bounded_and_charged() {
    const ASKED: usize = 2000;
    in_world(|rt| async move {
        let memory = Memory::new(limits(16 * MIB, 8 * MIB));
        let gateway = Gateway::in_bounded_memory(memory.clone());
        let addr = serve(&rt, &gateway);
        let mut client = rt.connect(addr).await.unwrap();
        let docs = until(&mut client, &[b"COMMAND", b"DOCS"], b"+PONG\r\n").await;
        let mut transaction = [packed(&[b"MULTI"]), packed(&[b"SET", b"a", b"1"])].concat();
        (0..ASKED).for_each(|_| transaction.extend(packed(&[b"COMMAND", b"DOCS"])));
        let queued = [b"+OK\r\n".to_vec(), b"+QUEUED\r\n".repeat(ASKED + 1)].concat();
        let (mut most, mut full) = (0, 0);
        // All of the room is free, a part of it, nothing.
        for free in [8 * MIB, MIB / 2, 0] {
            client.write_all(&transaction).await.unwrap();
            expect(&mut client, &queued).await;
            let held = memory.output.charge(8 * MIB - free);
            let said = until(&mut client, &[b"EXEC"], b"+PONG\r\n").await;
            let head = format!("*{}\r\n+OK\r\n", ASKED + 1).into_bytes();
            assert!(said.starts_with(&head), "the write is answered whatever follows");
            let mut rest = &said[head.len()..];
            let mut whole = 0;
            while let Some(after) = rest.strip_prefix(&docs[..]) {
                (rest, whole) = (after, whole + 1);
            }
            let error: &[u8] = match free == 8 * MIB {
                true => b"-ERR the answer",
                false => b"-TRYAGAIN answers that are not sent yet hold all memory, try again in 100 ms\r\n",
            };
            assert!((free == 0) == (whole == 0), "{whole} replies were said");
            assert!(rest.starts_with(error), "{}", String::from_utf8_lossy(&rest[..rest.len().min(200)]));
            let errors = rest.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count();
            assert_eq!(whole + errors, ASKED, "each command has its reply");
            match free == 8 * MIB {
                true => (most, full) = (memory.output.peak(), whole * docs.len()),
                // What is said already takes the room of what follows.
                false => assert!(whole * docs.len() <= free, "{whole} replies in {free} bytes"),
            }
            drop(held);
        }
        assert!(full > MIB / 2 + MIB / 4, "{full} bytes were said: the test does not test");
        assert!((MIB..6 * MIB).contains(&most), "{most} bytes were charged, of 8 MiB");
        drop(client);
        rt.sleep(Duration::from_secs(1)).await;
        assert_eq!((memory.input.used(), memory.output.used()), (0, 0));
    });
}

/// The reply to `words`, however long it is.
async fn until(stream: &mut Stream, words: &[&[u8]], end: &[u8]) -> Vec<u8> {
    stream.write_all(&[packed(words), packed(&[b"PING"])].concat()).await.unwrap();
    let (mut read, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while !read.ends_with(end) {
        let bytes = stream.read(&mut buffer).await.unwrap();
        assert!(bytes > 0, "the connection ended within a reply");
        read.extend_from_slice(&buffer[..bytes]);
    }
    read.truncate(read.len() - end.len());
    read
}

/// A list of connections is an answer like others: charged while it is made, and refused where there is no room for it.
#[test]
fn a_list_of_connections_is_charged() {
    in_world(|rt| async move {
        let memory = Memory::new(limits(4 * MIB, MIB));
        let gateway = Gateway::in_bounded_memory(memory.clone());
        let addr = serve(&rt, &gateway);
        let mut client = rt.connect(addr).await.unwrap();
        let mut others = Vec::new();
        for _ in 0..200 {
            let mut other = rt.connect(addr).await.unwrap();
            ask(&mut other, &[b"CLIENT", b"SETNAME", &[b'n'; 256]], b"+OK\r\n").await;
            others.push(other);
        }
        client.write_all(&packed(&[b"CLIENT", b"LIST"])).await.unwrap();
        let (mut read, mut buffer) = (0, vec![0; 64 << 10]);
        while read < 200 * 400 {
            read += client.read(&mut buffer).await.unwrap();
        }
        assert!(memory.output.peak() >= 2 * read, "{} bytes were charged for {read}", memory.output.peak());
        let held = memory.output.charge(MIB);
        let refused = b"-TRYAGAIN answers that are not sent yet hold all memory, try again in 100 ms\r\n";
        ask(&mut client, &[b"CLIENT", b"LIST"], refused).await;
        drop(held);
    });
}

/// A client that does not wait for its answers is read no further than the bound on what is in flight, however slow the disk is.
#[test]
fn requests_in_flight_of_one_connection_are_bounded() {
    const BOUND: usize = 16 * MIB;
    let world = World::new(9, Options::default());
    let node = world.node(0);
    let disk = node.clone();
    let running = node.start(0, move |rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 1024 * MIB), 256 * MIB, false).await;
        // Room for answers enough that their expected size does not bound the commands first.
        let addr = serve(&rt, &gateway);
        disk.disk().slow(1_000_000);
        let mut client = rt.connect(addr).await.unwrap();
        rt.spawn(async move {
            loop {
                // It ends with the test.
                client.write_all(&packed(&[b"SET", b"a", &vec![b'v'; MIB]])).await.unwrap();
            }
        });
        rt.sleep(Duration::from_secs(5)).await;
        let used = gateway.memory().input.used();
        assert!(used >= BOUND / 2, "{used} bytes are in flight: the bound was not met");
        assert!(used <= BOUND + 4 * MIB, "{used} bytes are in flight");
    });
    world.block_on(running).expect("nothing crashes the node");
}

/// A client that does not read a reply of the longest value leaves others what they need.
#[test]
fn a_reply_takes_no_more_than_what_it_has() {
    in_world(|rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 16 * MIB), 64 * MIB, false).await;
        put(&gateway, "big", 8 * MIB).await;
        put(&gateway, "little", 6).await;
        let addr = serve(&rt, &gateway);
        let mut client = rt.connect(addr).await.unwrap();
        client.write_all(&packed(&[b"GET", b"big"])).await.unwrap();
        rt.sleep(Duration::from_millis(100)).await;
        let output = &gateway.memory().output;
        assert!((8 * MIB..9 * MIB).contains(&output.used()), "{} bytes are charged", output.used());
        let mut other = rt.connect(addr).await.unwrap();
        ask(&mut other, &[b"GET", b"little"], b"$6\r\nxxxxxx\r\n").await;
        drop(client);
    });
}

/// What a command looks at is no part of its answer.
#[test]
fn a_large_value_is_moved_to_the_place_of_another() {
    for cold in [false, true] {
        in_world(move |rt| async move {
            let (_stores, gateway) = open(&rt, limits(64 * MIB, 16 * MIB), 64 * MIB, cold).await;
            put(&gateway, "large a", 8 * MIB).await;
            put(&gateway, "large b", 8 * MIB - 1).await;
            if cold {
                cool(&rt, &gateway, b"large a").await;
                cool(&rt, &gateway, b"large b").await;
            }
            let mut client = rt.connect(serve(&rt, &gateway)).await.unwrap();
            let (a, b): (&[u8], &[u8]) = (b"large a", b"large b");
            ask(&mut client, &[b"MSETNX", a, b"1", b, b"2"], b":0\r\n").await;
            ask(&mut client, &[b"COPY", a, b], b":0\r\n").await;
            ask(&mut client, &[b"RENAMENX", a, b], b":0\r\n").await;
            ask(&mut client, &[b"STRLEN", b], b":8388607\r\n").await;
            ask(&mut client, &[b"COPY", a, b, b"REPLACE"], b":1\r\n").await;
            ask(&mut client, &[b"STRLEN", b], b":8388608\r\n").await;
            ask(&mut client, &[b"RENAME", b, a], b"+OK\r\n").await;
            ask(&mut client, &[b"EXISTS", a, b], b":1\r\n").await;
            drop(client);
            rt.sleep(Duration::from_secs(1)).await;
            assert_eq!(gateway.memory().output.used(), 0);
        });
    }
}

/// A read that waits for room costs a task, however little it asks for. Many may come before the first has to wait.
#[test]
fn few_reads_of_a_connection_run_where_many_do() {
    const CLIENTS: usize = 20;
    let world = World::new(9, Options::default());
    let most = world.node(0).start(0, move |rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 16 * MIB), 64 * MIB, true).await;
        put(&gateway, "big", 7 * MIB).await;
        cool(&rt, &gateway, b"big").await;
        let addr = serve(&rt, &gateway);
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(rt.connect(addr).await.unwrap());
        }
        let memory = gateway.memory().clone();
        // None is waked before all have sent.
        for client in &mut clients {
            client.write_all(&packed(&[b"GET", b"big"]).repeat(1000)).await.unwrap();
        }
        let mut most = 0;
        for _ in 0..2000 {
            most = memory.running_reads().max(most);
            rt.sleep(Duration::from_micros(100)).await;
        }
        drop(clients);
        rt.sleep(Duration::from_secs(5)).await;
        assert_eq!(memory.running_reads(), 0);
        most
    });
    let most = world.block_on(most).expect("nothing crashes the node");
    // The first may have all of their commands in flight.
    assert!((CLIENTS..=2 * 1000 + CLIENTS * 65).contains(&most), "{most} reads ran");
}

/// A key takes some bytes of the request, and many times that in memory until it is answered, on every way to the store and back.
#[test]
fn keys_of_commands_in_flight_are_charged_with_what_they_take() {
    const KEYS: usize = 20_000;
    let keys: Vec<Vec<u8>> = (0..KEYS).map(|n| format!("{:04}k{n:05}", n % 7).into_bytes()).collect();
    for command in ["MGET", "EXISTS"] {
        let words: Vec<&[u8]> =
            std::iter::once(command.as_bytes()).chain(keys.iter().map(Vec::as_slice)).collect();
        let request = packed(&words);
        in_world(move |rt| async move {
            let (_stores, gateway) = open(&rt, limits(4 * MIB, 16 * MIB), 64 * MIB, false).await;
            let addr = serve(&rt, &gateway);
            let clients = (0..6).map(|_| {
                let (rt, request) = (rt.clone(), request.clone());
                rt.clone().spawn(async move {
                    let mut stream = rt.connect(addr).await.unwrap();
                    for _ in 0..8 {
                        stream.write_all(&request).await.unwrap();
                    }
                    stream.write_all(&packed(&[b"ECHO", b"the end"])).await.unwrap();
                    let (mut last, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
                    while !last.ends_with(b"the end\r\n") {
                        let bytes = stream.read(&mut buffer).await.unwrap();
                        assert!(bytes > 0, "the connection ended within a reply");
                        last.extend_from_slice(&buffer[..bytes]);
                        last.drain(..last.len().saturating_sub(16));
                    }
                })
            });
            for client in clients.collect::<Vec<_>>() {
                client.await;
            }
            let input = &gateway.memory().input;
            let (one, peak) = (KEYS * ITEM_BYTES, input.peak());
            assert!(peak > one, "{command}: {peak} bytes were charged, and one command takes {one}");
            // The bound, what one connection has in flight beyond it, and its last command; of 48 commands in all.
            assert!(peak <= 4 * MIB + 16 * MIB + 2 * one, "{command}: {peak} bytes were charged");
            assert_eq!((input.used(), input.waiting()), (0, 0));
        });
    }
}

#[test]
fn a_command_that_finds_no_room_in_a_transaction_makes_exec_refuse_the_whole() {
    in_world(|rt| async move {
        let memory = Memory::new(limits(MIB, MIB));
        let gateway = Gateway::in_bounded_memory(memory.clone());
        let mut stream = rt.connect(serve(&rt, &gateway)).await.unwrap();
        ask(&mut stream, &[b"MULTI"], b"+OK\r\n").await;
        ask(&mut stream, &[b"SET", b"a", b"1"], b"+QUEUED\r\n").await;
        let held = memory.input.charge(2 * MIB);
        let short = b"-TRYAGAIN the core is short of memory, try again in 20 ms\r\n";
        ask(&mut stream, &[b"SET", b"b", b"1"], short).await;
        drop(held);
        ask(&mut stream, &[b"SET", b"c", b"1"], b"+QUEUED\r\n").await;
        let aborted = b"-EXECABORT Transaction discarded because of previous errors.\r\n";
        ask(&mut stream, &[b"EXEC"], aborted).await;
        ask(&mut stream, &[b"EXISTS", b"a", b"b", b"c"], b":0\r\n").await;
        assert_eq!(memory.input.used(), 0, "what was queued is kept");
    });
}
