//! How calls end: with their stream, at their bound, one alone; and what is counted of that.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use engine::rt::{ListenOptions, Mono, Rt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use store::memory::{Memory, MemoryLimits};
use store::request::{Op, Out, Scan};
use store::shard::counters::StoreNumbers;
use store::wire::grpc::client::Client;
use store::wire::grpc::{self, CallOutbox, CallShape, Code, Inbox, Options, Service, Status};
use store::wire::proto::health::{HealthCheckRequest, HealthCheckResponse};
use store::wire::proto::kvrpcpb::*;
use store::wire::proto::tikvpb::*;

use crate::grpc::{BATCH, GET, PUT, command, get, loopback, on_core, put, serve_tikv};
use crate::page;

const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// A service whose calls never end by themselves, and that knows how many there are.
#[derive(Clone, Default)]
struct Endless(Rc<Cell<usize>>);

struct Inside(Rc<Cell<usize>>);

impl Endless {
    async fn stay(&self) -> Result<(), Status> {
        self.0.set(self.0.get() + 1);
        let _inside = Inside(self.0.clone());
        pending().await
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Service for Endless {
    type Method = CallShape;

    fn method(&self, path: &str) -> Option<(CallShape, CallShape)> {
        let shape = if path == "/test/Stream" { CallShape::Bidi } else { CallShape::Unary };
        Some((shape, shape))
    }

    async fn unary(&self, _: CallShape, _: Bytes, _: Option<Mono>) -> Result<Bytes, Status> {
        self.stay().await.map(|()| Bytes::new())
    }

    async fn bidi(&self, _: CallShape, _: &mut Inbox, _: &mut CallOutbox) -> Result<(), Status> {
        self.stay().await
    }
}

fn serve_endless(rt: &Rt, options: Options) -> (std::net::SocketAddr, grpc::Handle, Endless) {
    let listener = rt.listen(loopback(), ListenOptions::default()).unwrap();
    let (addr, service) = (listener.local_addr().unwrap(), Endless::default());
    (addr, grpc::serve(rt, listener, service.clone(), options), service)
}

/// Gives the server every chance to come to `expected`.
async fn settles(rt: &Rt, expected: usize, count: impl Fn() -> usize) {
    for _ in 0..20_000 {
        if count() == expected {
            return;
        }
        rt.yield_to_reactor().await;
    }
    assert_eq!(count(), expected);
}

/// Polls calls, of which none ends, until the server has `expected` of them.
async fn begin(
    rt: &Rt,
    expected: usize,
    count: impl Fn() -> usize,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<String>,
) {
    for _ in 0..20_000 {
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = poll(cx) {
                panic!("a call has ended by itself: {outcome}");
            }
            Poll::Ready(())
        })
        .await;
        if count() == expected {
            return;
        }
        rt.yield_to_reactor().await;
    }
    assert_eq!(count(), expected);
}

#[test]
fn a_call_ends_with_its_stream_or_its_connection() {
    on_core(|rt| async move {
        let (addr, server, service) = serve_endless(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let ask = get("k");
        for _ in 0..3 {
            let mut calls = FuturesUnordered::new();
            (0..1000).for_each(|_| calls.push(client.unary::<RawGetResponse>("/test/Call", &ask)));
            begin(
                &rt,
                1000,
                || service.0.get(),
                |cx| calls.poll_next_unpin(cx).map(|ended| format!("{ended:?}")),
            )
            .await;
            assert_eq!(page::of_grpc(&server, "ringkeep_grpc_calls_running"), 1000.0);
            // The client resets all of them.
            drop(calls);
            settles(&rt, 0, || service.0.get()).await;
            assert_eq!(page::of_grpc(&server, "ringkeep_grpc_calls_running"), 0.0);
        }
        let streams =
            [client.open("/test/Stream").await.unwrap(), client.open("/test/Stream").await.unwrap()];
        settles(&rt, 2, || service.0.get()).await;
        let [one, other] = streams;
        drop(one);
        settles(&rt, 1, || service.0.get()).await;
        drop((other, client));
        settles(&rt, 0, || service.0.get()).await;

        let leaving = Client::connect(&rt, addr).await.unwrap();
        let mut call = Box::pin(leaving.unary::<RawGetResponse>("/test/Call", &ask));
        begin(&rt, 1, || service.0.get(), |cx| call.as_mut().poll(cx).map(|ended| format!("{ended:?}")))
            .await;
        drop(call);
        drop(leaving);
        settles(&rt, 0, || server.stats().connections).await;
        assert_eq!(service.0.get(), 0);
    });
}

#[test]
fn one_call_too_many_is_refused_alone() {
    one_call_too_many(3, 64 << 20);
}

#[test]
fn there_are_no_more_calls_than_memory_has_room_for() {
    one_call_too_many(1000, 14 << 10);
}

/// Of a server that lets three run.
fn one_call_too_many(calls_max: usize, input_bytes: usize) {
    on_core(move |rt| async move {
        let memory = Memory::new(MemoryLimits { input_bytes, output_bytes: 1 << 20 });
        let (addr, server, service) = serve_endless(&rt, Options { calls_max, memory, ..Options::default() });
        let (one, two) =
            (Client::connect(&rt, addr).await.unwrap(), Client::connect(&rt, addr).await.unwrap());
        let mut streams = Vec::new();
        for client in [&one, &two, &one] {
            streams.push(client.open("/test/Stream").await.unwrap());
        }
        let refused = two.unary::<RawGetResponse>("/test/Call", &get("k")).await.unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted, "{refused}");
        assert!(refused.message.contains("too many calls"), "{refused}");
        assert_eq!((service.0.get(), server.stats().running), (3, 3));
        streams.pop();
        settles(&rt, 2, || server.stats().running).await;
        streams.push(two.open("/test/Stream").await.unwrap());
        settles(&rt, 3, || server.stats().running).await;
    });
}

#[test]
fn metadata_over_the_bound_ends_its_call_alone() {
    on_core(|rt| async move {
        let (addr, server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let mut beside = client.open(BATCH).await.unwrap();
        let (long, parts) = ("x".repeat(100_000), "y".repeat(1000));
        let names: Vec<String> = (0..100).map(|n| format!("part-{n}")).collect();
        let many: Vec<_> = names[..20].iter().map(|name| (name.as_str(), parts.as_str())).collect();
        // Short as they are, each takes many times as much once it is kept.
        let short: Vec<_> = names.iter().map(|name| (name.as_str(), "y")).collect();
        let cases = [(&[("long", long.as_str())][..], "16384"), (&many[..], "16384"), (&short[..], "64")];
        for (metadata, bound) in cases {
            let refused = client.unary_with::<RawGetResponse>(GET, &get("k"), metadata).await.unwrap_err();
            assert_eq!(refused.code, Code::ResourceExhausted, "{refused}");
            assert!(refused.message.contains("metadata") && refused.message.contains(bound), "{refused}");
        }
        let found: RawGetResponse = client.unary_with(GET, &get("k"), &many[..5]).await.unwrap();
        assert!(found.not_found);
        let batch = BatchCommandsRequest {
            requests: vec![command(Command::RawGet(get("k")))],
            request_ids: vec![1],
            client_send_time_ns: 0,
        };
        beside.outbox.send(grpc::frame(&batch)).await.unwrap();
        assert!(beside.inbox.next().await.unwrap().is_some(), "the call beside them goes on");
        assert_eq!((server.stats().connections, server.stats().broken), (1, 0));
    });
}

#[test]
fn frames_of_nothing_leave_the_core_to_others() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let mut flood = rt.connect(addr).await.unwrap();
        flood.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // The server has answered the settings and waits for more.
        let mut buf = [0; 4096];
        assert!(flood.read(&mut buf).await.unwrap() > 0);
        // As many frames of an unknown type as the sockets take, before the server gets to read the first.
        let frames = [0, 0, 0, 0xfa, 0, 0, 0, 0, 1].repeat(1000);
        let (mut sent, mut at) = (0, 0);
        poll_fn(|cx| {
            while let Poll::Ready(written) = flood.poll_write(cx, &frames[at..]) {
                let written = written.unwrap();
                at = (at + written) % frames.len();
                sent += written;
            }
            Poll::Ready(())
        })
        .await;
        assert!(sent > 1 << 20, "{sent} bytes");
        // Then the end of the last frame and a ping, whose answer says that all of them have been read.
        let mut turns = 0;
        let rest = [&frames[at..], &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8][..]].concat();
        let (over, counting) = (Rc::new(Cell::new(false)), rt.clone());
        let ends = over.clone();
        let bystander = rt.spawn(async move {
            while !ends.get() {
                counting.yield_to_reactor().await;
                turns += 1;
            }
            turns
        });
        flood.write_all(&rest).await.unwrap();
        let mut said = Vec::new();
        while !said.windows(8).any(|window| window == [1, 2, 3, 4, 5, 6, 7, 8]) {
            let read = flood.read(&mut buf).await.unwrap();
            assert!(read > 0, "the connection is closed");
            said.extend_from_slice(&buf[..read]);
        }
        over.set(true);
        let turns = bystander.await;
        assert!(turns >= 10, "others got {turns} turns during {sent} bytes");
    });
}

#[test]
fn a_watch_hears_of_every_change_until_the_server_drains() {
    on_core(|rt| async move {
        let (addr, server, health) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let watch = async |service: &str| {
            let request = HealthCheckRequest { service: service.to_owned() };
            client.open_with(WATCH, &request).await.unwrap()
        };
        let next = async |call: &mut grpc::client::Call| {
            let bytes = call.inbox.next().await.unwrap()?.bytes;
            Some(<HealthCheckResponse as prost::Message>::decode(bytes).unwrap().status)
        };
        let (mut whole, mut store, mut other) =
            (watch("").await, watch("tikvpb.Tikv").await, watch("another").await);
        assert_eq!((next(&mut whole).await, next(&mut store).await), (Some(1), Some(1)));
        assert_eq!(next(&mut other).await, Some(3));
        for (serving, status) in [(false, 2), (true, 1)] {
            health.set_serving(serving);
            assert_eq!((next(&mut whole).await, next(&mut store).await), (Some(status), Some(status)));
        }
        health.set_serving(false);
        assert_eq!(
            server.drain(std::time::Duration::from_secs(10)).await,
            0,
            "watches do not hold a drain up"
        );
        assert_eq!((next(&mut whole).await, next(&mut whole).await), (Some(2), None));
        assert_eq!(whole.finish().await.unwrap_err().code, Code::Unavailable);
        assert_eq!(next(&mut other).await, None, "what did not change was not sent again");
    });
}

#[test]
fn requests_are_counted_by_method_and_status() {
    on_core(|rt| async move {
        let (addr, server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let count = |method: &str, code| {
            let ended = server.ended();
            let found = ended.iter().filter(|ended| ended.method == method && ended.code == code);
            found.map(|ended| ended.count).sum::<u64>()
        };
        for _ in 0..3 {
            let _: RawGetResponse = client.unary(GET, &get("k")).await.unwrap();
        }
        let _: RawPutResponse = client.unary(PUT, &put("k", "v")).await.unwrap();
        client.unary::<RawGetResponse>("/other/Method", &get("k")).await.unwrap_err();
        client.unary_raw(GET, Bytes::from_static(b"\0\0\0\0\x03\xff\xff\xff"), None).await.unwrap_err();
        let mut call = client.open(BATCH).await.unwrap();
        let batch = BatchCommandsRequest {
            requests: vec![
                command(Command::RawGet(get("k"))),
                command(Command::RawGet(RawGetRequest { cf: "lock".to_owned(), ..get("k") })),
                command(Command::Get(Default::default())),
            ],
            request_ids: vec![1, 2, 3],
            client_send_time_ns: 0,
        };
        call.outbox.send(grpc::frame(&batch)).await.unwrap();
        call.outbox.finish().unwrap();
        while call.inbox.next().await.unwrap().is_some() {}
        call.finish().await.unwrap();
        settles(&rt, 0, || server.stats().running).await;
        for (method, code, expected) in [
            ("RawGet", Code::Ok, 3),
            ("RawGet", Code::InvalidArgument, 1),
            ("RawPut", Code::Ok, 1),
            ("unknown", Code::Unimplemented, 1),
            ("BatchCommands", Code::Ok, 1),
            ("BatchCommands/RawGet", Code::Ok, 1),
            ("BatchCommands/RawGet", Code::InvalidArgument, 1),
            ("BatchCommands/Get", Code::Unimplemented, 1),
        ] {
            assert_eq!(count(method, code), expected, "{method} {code:?}");
        }
    });
}

#[test]
fn a_read_that_no_client_waits_for_stops() {
    for seed in 0..5 {
        let world = engine::rt::sim::World::new(seed, engine::rt::sim::Options::default());
        let kept = world.node(0).start(0, |rt| async move {
            let (stores, gateway) = crate::node::open_simulated(&rt, |_| ()).await;
            for batch in 0..20 {
                let pairs = (0..100).map(|n| (format!("a{batch:02}{n:02}").into(), vec![7; 1000].into()));
                gateway.submit(None, Op::BatchPut { pairs: pairs.collect() }).await.unwrap();
            }
            let scan = Scan { start: "a".into(), end: "b".into(), limit: 2000, ..Scan::default() };
            let sum = |of: fn(StoreNumbers) -> u64| -> u64 {
                stores.shards.values().map(|shard| of(shard.snapshot())).sum()
            };
            let (scans, abandoned) = (|| sum(|store| store.scans), || sum(|store| store.reads_abandoned));
            let Out::Pairs(pairs) = gateway.submit(None, Op::Scan(scan.clone())).await.unwrap() else {
                panic!("a scan gives pairs")
            };
            assert_eq!((pairs.len(), abandoned()), (2000, 0));
            let whole = scans();
            // Left at once, and left while it runs.
            for micros in [0, 10, 20, 40, 80, 160] {
                let mut left = gateway.submit(None, Op::Scan(scan.clone()));
                poll_fn(|cx| {
                    assert!(std::pin::Pin::new(&mut left).poll(cx).is_pending());
                    Poll::Ready(())
                })
                .await;
                rt.sleep(std::time::Duration::from_micros(micros)).await;
            }
            rt.sleep(std::time::Duration::from_secs(1)).await;
            // One that was left before it began has not begun, and one that was left too late has ended.
            assert!((1..=scans() - whole).contains(&abandoned()), "{} of {}", abandoned(), scans() - whole);
            let shown = stores.shards.values();
            let shown: f64 =
                shown.map(|shard| page::of_store(shard, "ringkeep_store_reads_abandoned_total")).sum();
            assert_eq!(shown, abandoned() as f64);
            stores.stop(std::time::Duration::from_secs(30)).await;
        });
        assert_eq!(world.block_on(kept), Some(()), "seed {seed}");
    }
}
