//! Bad, slow and silent connections, and that they harm no other client.

use std::net::SocketAddr;
use std::time::Duration;

use engine::rt::{Rt, Stream};
use store::memory::{Memory, MemoryLimits};
use store::wire::grpc::client::Client;
use store::wire::grpc::{Code, Options};
use store::wire::proto::kvrpcpb::*;

use crate::grpc::{GET, PUT, get, on_core, put, serve_tikv};
use crate::page;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

pub(crate) async fn raw(rt: &Rt, addr: SocketAddr, bytes: &[u8]) -> Stream {
    let mut stream = rt.connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads until the server closes; a reset is a close, too.
pub(crate) async fn closed(mut stream: Stream) -> Vec<u8> {
    let (mut all, mut buf) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buf).await {
        all.extend_from_slice(&buf[..n]);
    }
    all
}

pub(crate) async fn still_serves(client: &Client) {
    let answer: RawPutResponse = client.unary(PUT, &put("k", "v")).await.unwrap();
    assert_eq!(answer.error, "");
    let answer: RawGetResponse = client.unary(GET, &get("k")).await.unwrap();
    assert_eq!(&*answer.value, b"v");
}

#[test]
fn malformed_frames_close_their_own_connection_only() {
    on_core(|rt| async move {
        let (addr, server, _) = serve_tikv(&rt, Options::default());
        let good = Client::connect(&rt, addr).await.unwrap();
        let bad: [&[u8]; 6] = [
            // A frame longer than was allowed.
            &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
            // DATA on stream 0.
            &[0, 0, 1, 0, 0, 0, 0, 0, 0, b'x'],
            // DATA on a stream that was never opened.
            &[0, 0, 1, 0, 0, 0, 0, 0, 7, b'x'],
            // HEADERS that are no HPACK.
            &[0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
            // SETTINGS of a length that is no multiple of six.
            &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5],
            // PUSH_PROMISE from a client.
            &[0, 0, 4, 5, 4, 0, 0, 0, 1, 0, 0, 0, 2],
        ];
        for frame in bad {
            let answer = closed(raw(&rt, addr, &[PREFACE, SETTINGS, frame].concat()).await).await;
            // GOAWAY is frame type 7; with it the server says what was wrong before it closes.
            let goaway = answer.windows(4).any(|window| window[0] == 0 && window[3] == 7);
            assert!(goaway, "no GOAWAY after {frame:02x?}");
            still_serves(&good).await;
        }
        assert_eq!(
            closed(raw(&rt, addr, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await).await.first(),
            Some(&0)
        );
        still_serves(&good).await;
        // Both ends have closed; the driver of the last one may still be on its way out.
        while server.stats().connections > 1 {
            rt.yield_to_reactor().await;
        }
        assert_eq!(page::of_grpc(&server, "ringkeep_grpc_broken_total"), 7.0);
    });
}

#[test]
fn silent_and_half_closed_connections_are_let_go() {
    on_core(|rt| async move {
        let options = Options {
            handshake: Duration::from_millis(50),
            keepalive: Duration::from_millis(50),
            ..Options::default()
        };
        let (addr, server, _) = serve_tikv(&rt, options);
        // Says nothing; says half a preface; says the preface and then nothing more, not even to a ping.
        for said in [&b""[..], &PREFACE[..10], &[PREFACE, SETTINGS].concat()] {
            let stream = raw(&rt, addr, said).await;
            closed(stream).await;
        }
        // Ends its side within a frame.
        let mut half = raw(&rt, addr, &[PREFACE, SETTINGS, &[0, 0, 9, 1][..]].concat()).await;
        std::future::poll_fn(|cx| half.poll_shutdown(cx)).await.unwrap();
        closed(half).await;
        while server.stats().connections > 0 {
            rt.yield_to_reactor().await;
        }
        assert_eq!(server.stats().accepted, 4);
    });
}

#[test]
fn one_connection_too_many_is_turned_away() {
    on_core(|rt| async move {
        let (addr, server, _) = serve_tikv(&rt, Options { connections_max: 2, ..Options::default() });
        let one = Client::connect(&rt, addr).await.unwrap();
        let two = Client::connect(&rt, addr).await.unwrap();
        still_serves(&one).await;
        still_serves(&two).await;
        assert_eq!(closed(raw(&rt, addr, b"").await).await, b"");
        assert_eq!(page::of_grpc(&server, "ringkeep_grpc_connections_refused_total"), 1.0);
        assert_eq!(page::of_grpc(&server, "ringkeep_grpc_connections"), 2.0);
        still_serves(&one).await;
    });
}

#[test]
fn a_body_that_does_not_come_ends_at_its_deadline() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        // Half a message, though the body ends.
        let cut =
            client.unary_raw(GET, bytes::Bytes::from_static(&[0, 0, 0, 0, 9, 1]), None).await.unwrap_err();
        assert_eq!(cut.code, Code::Internal, "{cut}");
        // A call whose body never comes: the server answers when the deadline of the call has passed.
        let late = client.open_within(GET, Some(Duration::from_millis(30))).await.unwrap_err();
        assert_eq!(late.code, Code::DeadlineExceeded, "{late}");
        still_serves(&client).await;
    });
}

#[test]
fn a_reader_that_never_reads_costs_only_itself() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let good = Client::connect(&rt, addr).await.unwrap();
        let big = RawPutRequest { value: vec![7; 4 << 20].into(), ..put("big", "") };
        let _: RawPutResponse = good.unary(PUT, &big).await.unwrap();
        // Opens its windows as far as they go, asks again and again for 4 MiB, and reads nothing.
        let greedy = Client::connect(&rt, addr).await.unwrap();
        let mut calls = Vec::new();
        for _ in 0..16 {
            calls.push(greedy.open_with(GET, &get("big")).await.unwrap());
        }
        for _ in 0..100 {
            still_serves(&good).await;
        }
        // When it does read, everything is there.
        let reading = calls.into_iter().map(async |mut call| {
            let message = call.inbox.next().await.unwrap().unwrap();
            let answer: RawGetResponse = prost::Message::decode(message.bytes).unwrap();
            assert_eq!(answer.value.len(), 4 << 20);
        });
        futures_util::future::join_all(reading).await;
    });
}

/// Many callers, each with a request larger than all of them may hold together: one after the other is let through.
#[test]
fn requests_in_flight_share_one_bound_and_each_gets_its_turn() {
    const CALLERS: usize = 24;
    const BYTES: usize = 2 << 20;
    on_core(|rt| async move {
        let memory = Memory::new(MemoryLimits { input_bytes: 1 << 20, output_bytes: 8 << 20 });
        let options = Options { memory: memory.clone(), ..Options::default() };
        let (addr, _server, _) = serve_tikv(&rt, options);
        let bystander = Client::connect(&rt, addr).await.unwrap();
        let calls = (0..CALLERS).map(|_| async {
            let client = Client::connect(&rt, addr).await.unwrap();
            let big = RawPutRequest { value: vec![7; BYTES].into(), ..put("big", "") };
            let answer: RawPutResponse = client.unary(PUT, &big).await.unwrap();
            assert_eq!(answer.error, "");
            still_serves(&bystander).await;
        });
        futures_util::future::join_all(calls).await;
        let window = Options::default().stream_window_bytes as usize;
        let bound = memory.input.bytes_max() + BYTES + CALLERS * window;
        assert!(memory.input.peak() <= bound, "{} bytes were held, {bound} allowed", memory.input.peak());
        assert!(memory.input.peak() > memory.input.bytes_max(), "the bound was never met");
        assert_eq!((memory.input.used(), memory.output.used()), (0, 0));
    });
}
