//! Bytes that no client meant to send. Each function is driven by bytes alone, so a fuzzer can call it as well as these seeds do.

use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use prost::Message;
use store::wire::grpc::Options;
use store::wire::grpc::client::Client;
use store::wire::grpc::frame::Deframer;
use store::wire::proto::{errorpb, etcdserverpb, health, kvrpcpb, pdpb, tikvpb};

use crate::grpc::{GET, get, on_core, put, serve_tikv};

struct Random(engine::rt::rng::Rng);

impl Random {
    fn next(&mut self) -> u64 {
        self.0.next()
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    /// Flips, cuts, doubles and inserts.
    fn mutate(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 => bytes.truncate(at),
                2 => bytes.splice(at..at, self.bytes(9)).for_each(drop),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    }
}

/// Decodes; what decodes must encode and decode to itself.
fn decode<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(Bytes::copy_from_slice(bytes)) {
        let again = M::decode(message.encode_to_vec().as_slice()).expect("what was encoded decodes");
        assert_eq!(again, message);
    }
}

fn decode_every_request(bytes: &[u8]) {
    decode::<kvrpcpb::RawGetRequest>(bytes);
    decode::<kvrpcpb::RawBatchGetRequest>(bytes);
    decode::<kvrpcpb::RawPutRequest>(bytes);
    decode::<kvrpcpb::RawBatchPutRequest>(bytes);
    decode::<kvrpcpb::RawDeleteRequest>(bytes);
    decode::<kvrpcpb::RawBatchDeleteRequest>(bytes);
    decode::<kvrpcpb::RawScanRequest>(bytes);
    decode::<kvrpcpb::RawBatchScanRequest>(bytes);
    decode::<kvrpcpb::RawDeleteRangeRequest>(bytes);
    decode::<kvrpcpb::RawGetKeyTtlRequest>(bytes);
    decode::<kvrpcpb::RawCasRequest>(bytes);
    decode::<tikvpb::BatchCommandsRequest>(bytes);
    decode::<tikvpb::BatchCommandsResponse>(bytes);
    decode::<pdpb::GetMembersRequest>(bytes);
    decode::<pdpb::TsoRequest>(bytes);
    decode::<pdpb::GetRegionRequest>(bytes);
    decode::<pdpb::ScanRegionsRequest>(bytes);
    decode::<pdpb::BatchScanRegionsRequest>(bytes);
    decode::<pdpb::QueryRegionRequest>(bytes);
    decode::<pdpb::QueryRegionResponse>(bytes);
    decode::<pdpb::RegionHeartbeatRequest>(bytes);
    decode::<pdpb::StoreHeartbeatRequest>(bytes);
    decode::<pdpb::PutStoreRequest>(bytes);
    decode::<pdpb::AskSplitRequest>(bytes);
    decode::<errorpb::Error>(bytes);
    decode::<etcdserverpb::MemberListResponse>(bytes);
    decode::<health::HealthCheckRequest>(bytes);
}

/// Pushes bytes in pieces; nothing may come out that is longer than the bound or than what went in.
fn deframe(bytes: &[u8], random: &mut Random) {
    const BOUND: usize = 64;
    let mut deframer = Deframer::new(BOUND);
    let (mut rest, mut out) = (bytes, 0);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(1 + random.below(rest.len()));
        rest = behind;
        deframer.push(Bytes::copy_from_slice(piece));
        loop {
            match deframer.take() {
                Ok(Some(message)) => {
                    assert!(message.bytes.len() <= BOUND);
                    out += message.bytes.len() + 5;
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert_eq!(out + deframer.waiting(), bytes.len() - rest.len(), "every byte is somewhere");
    }
}

/// A message with something in every field that matters.
fn example() -> Vec<u8> {
    let context = kvrpcpb::Context { region_id: 7, term: 9, ..Default::default() };
    let put = kvrpcpb::RawPutRequest {
        context: Some(context),
        ttl: 3,
        cf: "default".to_owned(),
        ..put("key", "value")
    };
    let requests = vec![
        tikvpb::Request { cmd: Some(tikvpb::Command::RawPut(put)) },
        tikvpb::Request { cmd: Some(tikvpb::Command::RawGet(get("key"))) },
    ];
    tikvpb::BatchCommandsRequest { requests, request_ids: vec![1, 2], client_send_time_ns: 5 }.encode_to_vec()
}

#[test]
fn no_request_decoder_panics_or_lies() {
    let mut random = Random(engine::rt::rng::Rng::new(1));
    for _ in 0..20_000 {
        let bytes = if random.below(2) == 0 { random.bytes(80) } else { random.mutate(example()) };
        decode_every_request(&bytes);
    }
}

#[test]
fn the_deframer_keeps_its_books_whatever_comes() {
    let mut random = Random(engine::rt::rng::Rng::new(2));
    for _ in 0..20_000 {
        let mut bytes = random.bytes(40);
        // Plausible lengths, or else every run would end at the first prefix.
        for _ in 0..random.below(4) {
            let message = random.bytes(30);
            bytes.splice(0..0, [0, 0, 0, 0, message.len() as u8].into_iter().chain(message));
        }
        deframe(&bytes, &mut random);
    }
}

async fn throw(rt: &Rt, addr: std::net::SocketAddr, bytes: &[u8]) {
    let mut stream = rt.connect(addr).await.unwrap();
    // The server may have closed already; that is its right.
    let _ = stream.write_all(bytes).await;
    let _ = std::future::poll_fn(|cx| stream.poll_shutdown(cx)).await;
    let mut buf = [0; 1024];
    while matches!(stream.read(&mut buf).await, Ok(1..)) {}
}

#[test]
fn a_server_under_garbage_serves_the_others() {
    on_core(|rt| async move {
        let options = Options { keepalive: Duration::from_millis(50), ..Options::default() };
        let (addr, server, _) = serve_tikv(&rt, options);
        let good = Client::connect(&rt, addr).await.unwrap();
        let mut random = Random(engine::rt::rng::Rng::new(3));
        for _ in 0..300 {
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
            for _ in 0..random.below(6) {
                let body = random.bytes(40);
                let (kind, flags, stream) =
                    (random.below(11) as u8, random.next() as u8 & 0x2d, random.below(5) as u8);
                bytes.extend_from_slice(&[0, 0, body.len() as u8, kind, flags, 0, 0, 0, stream]);
                bytes.extend(body);
            }
            if random.below(4) == 0 {
                bytes = random.mutate(bytes);
            }
            throw(&rt, addr, &bytes).await;
        }
        let answer: kvrpcpb::RawGetResponse = good.unary(GET, &get("k")).await.unwrap();
        assert!(answer.not_found);
        while server.stats().connections > 1 {
            rt.yield_to_reactor().await;
        }
        assert_eq!(server.stats().accepted, 301);
    });
}

#[test]
fn garbage_in_a_well_framed_call_is_answered() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let mut random = Random(engine::rt::rng::Rng::new(4));
        let (mut answered, mut refused) = (0, 0);
        for _ in 0..1000 {
            let message = random.mutate(get("key").encode_to_vec());
            let mut body = vec![0];
            body.extend_from_slice(&(message.len() as u32).to_be_bytes());
            body.extend(message);
            if random.below(3) == 0 {
                body = random.mutate(body);
            }
            match client.unary_raw(GET, body.into(), None).await {
                Ok(_) => answered += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(answered > 100 && refused > 100, "both happen: {answered} answered, {refused} refused");
    });
}
