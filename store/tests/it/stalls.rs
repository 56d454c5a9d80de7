//! Clients that are too slow with what they hold do not keep others from memory, nor the node from its end.
//!
//! All of it runs in the simulated world, so minutes of a client that drips cost nothing.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::{ListenOptions, Mono, Rt, Stream, Task};
use store::gateway::Gateway;
use store::memory::Memory;
use store::refusal::Refusal;
use store::request::Op;
use store::wire::grpc::client::Client;
use store::wire::grpc::{self, CallOutbox, CallShape, Handle, Inbox, Options, Service, Status, frame};
use store::wire::health::HealthService;
use store::wire::proto::tikvpb::{BatchCommandsRequest, Command};
use store::wire::proto::{kvrpcpb, metapb};
use store::wire::resp::{self, Counters};
use store::wire::tikv::Tikv;

use crate::connection_memory::{ask, expect, serve_counted};
use crate::grpc::{BATCH, STORE, command};
use crate::memory::{MIB, in_world, limits, open, put};
use crate::page;
use crate::resp_server::{config, packed};

/// What a node waits for its connections, at most.
const WAIT_MAX: Duration = Duration::from_secs(24);

/// Sends most of a large SET at once and then a byte in each interval, until the server ends it.
fn drip(rt: &Rt, addr: SocketAddr, every: Duration) {
    let rt = rt.clone();
    rt.clone().spawn(async move {
        let mut stream = rt.connect(addr).await.unwrap();
        let request = packed(&[b"SET", b"never", &vec![b'v'; 2 * MIB]]);
        let (most, rest) = request.split_at(request.len() - 10_000);
        if stream.write_all(most).await.is_err() {
            return;
        }
        for byte in rest.chunks(1) {
            rt.sleep(every).await;
            if stream.write_all(byte).await.is_err() {
                return;
            }
        }
    });
}

#[test]
fn who_drips_does_not_keep_memory_that_others_wait_for() {
    for every_ms in [50, 400, 4000] {
        in_world(move |rt| async move {
            let memory = Memory::new(limits(4 * MIB, 8 * MIB));
            let gateway = Gateway::in_bounded_memory(memory.clone());
            let (addr, counters) = serve_counted(&rt, &gateway, config());
            for _ in 0..20 {
                drip(&rt, addr, Duration::from_millis(every_ms));
            }
            rt.sleep(Duration::from_millis(100)).await;
            let began = rt.now();
            let mut honest = rt.connect(addr).await.unwrap();
            ask(&mut honest, &[b"SET", b"mine", &vec![b'm'; 3 * MIB]], b"+OK\r\n").await;
            let took = rt.now().since(began);
            assert!(memory.input.peak() > 4 * MIB, "the bound was never met: the test does not test");
            let ended = page::of_resp(&counters, "ringkeep_resp_evicted_total");
            assert!(ended > 0.0, "those who were ended are counted");
            assert!(took < Duration::from_secs(30), "a byte per {every_ms} ms: it took {took:?}");
        });
    }
}

/// Most of them never get to show how slow they are, because they wait for those before them.
/// A command that begins and does not end costs the connection, and is counted.
#[test]
fn a_request_that_begins_and_does_not_end_is_counted() {
    in_world(|rt| async move {
        let (addr, counters) = serve_counted(&rt, &Gateway::in_memory(), config());
        let mut client = rt.connect(addr).await.unwrap();
        client.write_all(b"*2\r\n$3\r\nGET\r\n$1000\r\n").await.unwrap();
        let overdue = || page::of_resp(&counters, "ringkeep_resp_overdue_total");
        rt.sleep(Duration::from_secs(50)).await;
        assert_eq!(overdue(), 0.0);
        rt.sleep(Duration::from_secs(20)).await;
        assert_eq!(overdue(), 1.0);
        assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0, "the connection has ended");
    });
}

#[test]
fn many_who_drip_have_ever_less_time() {
    in_world(|rt| async move {
        let memory = Memory::new(limits(4 * MIB, 8 * MIB));
        let gateway = Gateway::in_bounded_memory(memory.clone());
        let (addr, counters) = serve_counted(&rt, &gateway, config());
        for _ in 0..100 {
            drip(&rt, addr, Duration::from_secs(1));
        }
        rt.sleep(Duration::from_millis(500)).await;
        let began = rt.now();
        let mut honest = rt.connect(addr).await.unwrap();
        ask(&mut honest, &[b"SET", b"mine", &vec![b'm'; 3 * MIB]], b"+OK\r\n").await;
        let took = rt.now().since(began);
        assert!(took < Duration::from_secs(30), "it took {took:?}, {} were ended", counters.evicted.get());
    });
}

/// One that stalls among others that wait says nothing of them.
#[test]
fn no_more_are_ended_than_have_to_be() {
    in_world(|rt| async move {
        let memory = Memory::new(limits(4 * MIB, 8 * MIB));
        let gateway = Gateway::in_bounded_memory(memory.clone());
        let (addr, counters) = serve_counted(&rt, &gateway, config());
        let honest: Vec<_> = (0..20)
            .map(|n| {
                let rt = rt.clone();
                rt.clone().spawn(async move {
                    let mut stream = rt.connect(addr).await.unwrap();
                    let request = packed(&[b"SET", format!("key{n}").as_bytes(), &vec![b'v'; MIB]]);
                    let (most, last) = request.split_at(request.len() - 1);
                    stream.write_all(most).await.unwrap();
                    // Longer than those may take that are let through before it.
                    rt.sleep(Duration::from_millis(100)).await;
                    stream.write_all(last).await.unwrap();
                    expect(&mut stream, b"+OK\r\n").await;
                })
            })
            .collect();
        // Two stall, one after the other or with others between them.
        for _ in 0..2 {
            drip(&rt, addr, Duration::from_secs(1));
        }
        for client in honest {
            client.await;
        }
        rt.sleep(Duration::from_secs(20)).await;
        assert!(memory.input.peak() > 4 * MIB, "the bound was never met: the test does not test");
        assert!((1..=2).contains(&counters.evicted.get()), "{} were ended", counters.evicted.get());
    });
}

#[test]
fn who_is_as_fast_as_asked_is_left_alone() {
    in_world(|rt| async move {
        let memory = Memory::new(limits(4 * MIB, 8 * MIB));
        let gateway = Gateway::in_bounded_memory(memory.clone());
        let (addr, counters) = serve_counted(&rt, &gateway, config());
        let clients: Vec<_> = (0..6)
            .map(|n| {
                let rt = rt.clone();
                rt.clone().spawn(async move {
                    let mut stream = rt.connect(addr).await.unwrap();
                    let request = packed(&[b"SET", format!("key{n}").as_bytes(), &vec![b'v'; MIB]]);
                    // 100 KiB per second.
                    for piece in request.chunks(20 << 10) {
                        stream.write_all(piece).await.unwrap();
                        rt.sleep(Duration::from_millis(200)).await;
                    }
                    expect(&mut stream, b"+OK\r\n").await;
                })
            })
            .collect();
        for client in clients {
            client.await;
        }
        assert_eq!(counters.evicted.get(), 0);
        assert!(memory.input.peak() > 4 * MIB, "the bound was never met: the test does not test");
    });
}

/// A service whose stream takes one message, and whose call answers with 3 MiB.
#[derive(Clone, Default)]
struct Large(Rc<Cell<usize>>);

impl Service for Large {
    type Method = CallShape;

    fn method(&self, path: &str) -> Option<(CallShape, CallShape)> {
        let shape = if path == "/test/Take" { CallShape::Bidi } else { CallShape::Unary };
        Some((shape, shape))
    }

    async fn unary(&self, _: CallShape, _: Bytes, _: Option<Mono>) -> Result<Bytes, Status> {
        Ok(framed(3 * MIB))
    }

    async fn bidi(&self, _: CallShape, inbox: &mut Inbox, _: &mut CallOutbox) -> Result<(), Status> {
        if inbox.next().await?.is_some() {
            self.0.set(self.0.get() + 1);
        }
        Ok(())
    }
}

/// A message of this many zeros, with its prefix.
fn framed(bytes: usize) -> Bytes {
    let mut framed = vec![0; 5 + bytes];
    framed[1..5].copy_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
    framed.into()
}

fn serve_large(rt: &Rt, memory: &Memory) -> (SocketAddr, Handle, Large) {
    let listener = rt.listen(SocketAddr::from(([127, 0, 0, 1], 0)), ListenOptions::default()).unwrap();
    let (addr, service) = (listener.local_addr().unwrap(), Large::default());
    let options = Options { memory: memory.clone(), ..Options::default() };
    (addr, grpc::serve(rt, listener, service.clone(), options), service)
}

#[test]
fn calls_that_stall_half_way_give_back_memory_and_their_connection() {
    in_world(|rt| async move {
        let memory = Memory::new(limits(4 * MIB, 8 * MIB));
        let (addr, server, service) = serve_large(&rt, &memory);
        let slow = Client::connect(&rt, addr).await.unwrap();
        for _ in 0..4 {
            let (rt, slow) = (rt.clone(), slow.clone());
            rt.clone().spawn(async move {
                let mut call = slow.open("/test/Take").await.unwrap();
                let message = framed(3 * MIB);
                // The call may be ended before all of it is taken.
                if call.outbox.send(message.slice(..3 * MIB - 10)).await.is_ok() {
                    rt.sleep(Duration::from_secs(3600)).await;
                }
            });
        }
        rt.sleep(Duration::from_millis(500)).await;
        assert!(memory.input.used() > 3 * MIB, "{} bytes are held", memory.input.used());
        let began = rt.now();
        // On the connection of those that stall, and on another one.
        for client in [slow, Client::connect(&rt, addr).await.unwrap()] {
            let mut call = client.open("/test/Take").await.unwrap();
            call.outbox.send(framed(3 * MIB)).await.unwrap();
            assert!(call.inbox.next().await.unwrap().is_none());
            call.finish().await.unwrap();
        }
        assert_eq!(service.0.get(), 2);
        let took = rt.now().since(began);
        assert!(took < Duration::from_secs(30), "it took {took:?}");
        while memory.input.used() > 0 {
            assert!(rt.now().since(began) < Duration::from_secs(60), "{} bytes stay", memory.input.used());
            rt.sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(server.stats().broken, 0, "calls end, connections stay");
        let ended = page::of_grpc(&server, "ringkeep_grpc_evicted_total");
        assert!(ended > 0.0, "those that were ended are counted");
    });
}

#[test]
fn many_calls_that_stall_have_ever_less_time() {
    in_world(|rt| async move {
        let memory = Memory::new(limits(4 * MIB, 8 * MIB));
        let (addr, server, service) = serve_large(&rt, &memory);
        for _ in 0..100 {
            let slow = Client::connect(&rt, addr).await.unwrap();
            let rt = rt.clone();
            rt.clone().spawn(async move {
                let mut call = slow.open("/test/Take").await.unwrap();
                // The call may be ended before all of it is taken.
                if call.outbox.send(framed(3 * MIB).slice(..3 * MIB - 10)).await.is_ok() {
                    rt.sleep(Duration::from_secs(3600)).await;
                }
            });
        }
        rt.sleep(Duration::from_millis(500)).await;
        let began = rt.now();
        let honest = Client::connect(&rt, addr).await.unwrap();
        let mut call = honest.open("/test/Take").await.unwrap();
        call.outbox.send(framed(3 * MIB)).await.unwrap();
        assert!(call.inbox.next().await.unwrap().is_none());
        call.finish().await.unwrap();
        let took = rt.now().since(began);
        assert!(took < Duration::from_secs(30), "it took {took:?}, {} were ended", server.stats().evicted);
        assert_eq!(service.0.get(), 1);
    });
}

/// Calls whose answers of 3 MiB are not read, until they end.
async fn leave_answers(rt: &Rt, addr: SocketAddr, calls: usize) {
    for _ in 0..calls {
        let client = Client::connect_with(rt, addr, 64 << 10).await.unwrap();
        rt.spawn({
            let rt = rt.clone();
            async move {
                let call = client.open_with("/test/Answer", &()).await;
                rt.sleep(Duration::from_secs(3600)).await;
                drop(call);
            }
        });
    }
    rt.sleep(Duration::from_millis(500)).await;
}

#[test]
fn answers_that_no_client_takes_give_their_memory_to_those_who_wait_for_it() {
    in_world(|rt| async move {
        let memory = Memory::new(limits(4 * MIB, 8 * MIB));
        let (addr, _server, _) = serve_large(&rt, &memory);
        leave_answers(&rt, addr, 3).await;
        assert!(memory.output.used() > 8 * MIB, "{} bytes are held", memory.output.used());
        let began = rt.now();
        while let Err(refusal) = memory.output.wait(&rt, 2 * MIB).await {
            assert!(matches!(refusal, Refusal::Busy { .. }), "{refusal:?}");
            assert!(rt.now().since(began) < Duration::from_secs(30), "they keep it");
        }
        drop(memory);
    });
}

#[test]
fn a_drain_does_not_wait_for_calls_whose_callers_do_nothing() {
    in_world(|rt| async move {
        let memory = Memory::new(limits(64 * MIB, 64 * MIB));
        let (addr, server, _) = serve_large(&rt, &memory);
        leave_answers(&rt, addr, 2).await;
        let client = Client::connect(&rt, addr).await.unwrap();
        // A call without a body.
        rt.spawn(async move { client.open("/test/Answer").await.map(drop) });
        rt.sleep(Duration::from_millis(100)).await;
        let began = rt.now();
        assert_eq!(server.drain(WAIT_MAX).await, 0, "connections were still busy");
        let took = rt.now().since(began);
        assert!(took < WAIT_MAX / 3, "it took {took:?}");
    });
}

async fn read_all(stream: &mut Stream, rt: &Rt, pause: Duration) -> usize {
    let (mut all, mut buffer) = (0, vec![0; 64 << 10]);
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return all,
            Ok(bytes) => all += bytes,
        }
        rt.sleep(pause).await;
    }
}

/// A RESP server that drains once it is asked.
struct Serving {
    addr: SocketAddr,
    counters: Rc<Counters>,
    stop: Rc<Cell<bool>>,
    ends: Task<()>,
}

impl Serving {
    fn start(rt: &Rt, gateway: &Gateway) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = rt.listen(any, ListenOptions::default()).unwrap();
        let (addr, stop, counters) =
            (listener.local_addr().unwrap(), Rc::<Cell<bool>>::default(), Rc::default());
        let shutdown = {
            let (stop, rt) = (stop.clone(), rt.clone());
            async move {
                while !stop.get() {
                    rt.sleep(Duration::from_millis(10)).await;
                }
                WAIT_MAX
            }
        };
        let served =
            resp::serve(rt.clone(), listener, gateway.clone(), config(), Rc::clone(&counters), shutdown);
        Self { addr, counters, stop, ends: rt.spawn(served) }
    }

    /// How long it takes to drain.
    async fn drain(self, rt: &Rt) -> Duration {
        let began = rt.now();
        self.stop.set(true);
        self.ends.await;
        rt.now().since(began)
    }
}

#[test]
fn a_drain_does_not_wait_for_who_reads_nothing_and_does_for_who_reads_slowly() {
    in_world(|rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 64 * MIB), 64 * MIB, false).await;
        put(&gateway, "big", MIB).await;
        let serving = Serving::start(&rt, &gateway);
        let gets = packed(&[b"GET", b"big"]).repeat(4);
        let mut deaf = rt.connect(serving.addr).await.unwrap();
        deaf.write_all(&gets).await.unwrap();
        rt.sleep(Duration::from_millis(200)).await;
        let mut slow = loop {
            let mut slow = rt.connect(serving.addr).await.unwrap();
            let before = serving.counters.bytes_in.get();
            slow.write_all(&gets).await.unwrap();
            rt.sleep(Duration::from_millis(200)).await;
            // What has come in pieces is not all read while there is no room for replies, and not answered in a drain.
            if serving.counters.bytes_in.get() - before == gets.len() as u64 {
                break slow;
            }
        };
        let reading = rt.spawn({
            let rt = rt.clone();
            async move { read_all(&mut slow, &rt, Duration::from_millis(100)).await }
        });
        let took = serving.drain(&rt).await;
        assert!(took >= Duration::from_secs(3) && took < WAIT_MAX / 2, "it took {took:?}");
        let reply = format!("${MIB}\r\n").len() + MIB + 2;
        assert_eq!(reading.await, 4 * reply, "all replies to who reads slowly");
        // What is left for the other one ends early.
        let read = read_all(&mut deaf, &rt, Duration::ZERO).await;
        assert!(read < 4 * reply, "{read} bytes were read");
    });
}

/// What takes two seconds with one that takes nothing, and two more for those who had its memory after it.
const JAM_MAX: Duration = Duration::from_secs(6);

/// There is memory for the replies of some of them at a time, and each of the others would have its turn at taking nothing.
#[test]
fn a_drain_does_not_wait_for_one_after_the_other_who_reads_nothing() {
    in_world(|rt| async move {
        let (_stores, gateway) = open(&rt, limits(64 * MIB, 8 * MIB), 64 * MIB, false).await;
        put(&gateway, "big", MIB).await;
        let serving = Serving::start(&rt, &gateway);
        let gets = packed(&[b"GET", b"big"]).repeat(40);
        let mut deaf = Vec::new();
        for _ in 0..30 {
            let mut stream = rt.connect(serving.addr).await.unwrap();
            stream.write_all(&gets).await.unwrap();
            deaf.push(stream);
        }
        rt.sleep(Duration::from_millis(300)).await;
        assert!(gateway.memory().output.waiting() > 0, "the bound is not met: the test does not test");
        let took = serving.drain(&rt).await;
        assert!(took < JAM_MAX, "it took {took:?}");
    });
}

/// The same over gRPC, where each has one message of many commands.
#[test]
fn a_drain_does_not_wait_for_one_stream_after_the_other_that_is_not_read() {
    in_world(|rt| async move {
        let (stores, gateway) = open(&rt, limits(64 * MIB, 8 * MIB), 64 * MIB, false).await;
        let mut regions = stores.shards[&0].regions().into_iter();
        let (region, ..) =
            regions.find(|(region, ..)| !region.range.start().is_empty()).expect("a store has some");
        let key = Bytes::from([&region.range.start()[..], &b"big"[..]].concat());
        gateway.submit(None, Op::Put { key: key.clone(), value: vec![b'v'; MIB].into() }).await.unwrap();
        let to = metapb::Region::from(&region);
        let context = kvrpcpb::Context {
            region_id: to.id,
            region_epoch: to.region_epoch,
            peer: to.peers.first().cloned(),
            ..kvrpcpb::Context::default()
        };
        let listener = rt.listen(SocketAddr::from(([127, 0, 0, 1], 0)), ListenOptions::default()).unwrap();
        let addr = listener.local_addr().unwrap();
        let options = Options { memory: gateway.memory().clone(), ..Options::default() };
        let service = Tikv::new(&rt, gateway.clone(), STORE, HealthService::default());
        let server = grpc::serve(&rt, listener, service, options);
        let ask = kvrpcpb::RawGetRequest { context: Some(context), key, ..Default::default() };
        let requests = vec![command(Command::RawGet(ask)); 40];
        let message =
            BatchCommandsRequest { request_ids: (1..=40).collect(), requests, ..Default::default() };
        let mut deaf = Vec::new();
        for _ in 0..30 {
            let client = Client::connect_with(&rt, addr, 64 << 10).await.unwrap();
            let mut call = client.open(BATCH).await.unwrap();
            call.outbox.send(frame(&message)).await.unwrap();
            deaf.push((client, call));
        }
        rt.sleep(Duration::from_millis(300)).await;
        assert!(gateway.memory().output.waiting() > 0, "the bound is not met: the test does not test");
        let began = rt.now();
        assert_eq!(server.drain(WAIT_MAX).await, 0, "connections were still busy");
        let took = rt.now().since(began);
        assert!(took < JAM_MAX, "it took {took:?}");
    });
}
