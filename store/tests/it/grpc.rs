//! Conformance of the TiKV port, by a client of our own that does what the Go client does; and what the other gRPC tests share.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::{CoreOptions, start_core};
use engine::rt::{ListenOptions, Rt};
use scheduler::{
    Epoch, KeyRange, NodeId, Peer, PeerId, Region, RegionId, RegionReport, StoreDescriptor, StoreId,
    StoreReport,
};
use store::control::{Beat, Control, Member, StoreBeat};
use store::gateway::Gateway;
use store::node::identity::Identity;
use store::node::start::{self, Core, Until};
use store::node::state_host;
use store::wire::grpc::client::Client;
use store::wire::grpc::{self, Code, Handle, Options};
use store::wire::health::HealthService;
use store::wire::pd::Pd;
use store::wire::proto::health::{HealthCheckRequest, HealthCheckResponse};
use store::wire::proto::kvrpcpb::*;
use store::wire::proto::tikvpb::*;
use store::wire::tikv::Tikv;

pub(crate) const STORE: u64 = 1;

/// Runs a test on a core of its own.
pub(crate) fn on_core<T: Send + 'static, F: Future<Output = T> + 'static>(
    test: impl FnOnce(Rt) -> F + Send + 'static,
) -> T {
    start_core(&CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() }, test).unwrap()
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A TiKV port over a map in memory.
pub(crate) fn serve_tikv(rt: &Rt, options: Options) -> (SocketAddr, Handle, HealthService) {
    let listener = rt.listen(loopback(), ListenOptions::default()).unwrap();
    let (addr, health) = (listener.local_addr().unwrap(), HealthService::default());
    let service = Tikv::new(rt, Gateway::in_memory(), STORE, health.clone());
    (addr, grpc::serve(rt, listener, service, options), health)
}

/// A PD port that knows one store, one region for every key below 0xff, and an empty one behind.
pub(crate) async fn serve_pd(rt: &Rt, dir: &Path, tikv: SocketAddr) -> (SocketAddr, Control) {
    serve_pd_with(rt, dir, tikv, &[(2, b"", b"\xff"), (3, b"\xff", b"")]).await
}

/// A PD port that knows one store and these regions.
pub(crate) async fn serve_pd_with(
    rt: &Rt,
    dir: &Path,
    tikv: SocketAddr,
    regions: &[(u64, &[u8], &[u8])],
) -> (SocketAddr, Control) {
    let listener = rt.listen(loopback(), ListenOptions::default()).unwrap();
    let addr = listener.local_addr().unwrap();
    let member = Member {
        name: "pd-1".to_owned(),
        member_id: 11,
        client_urls: vec![format!("http://{addr}")],
        cluster_id: 7,
        first_free_id: 12,
        next_id_min: 0,
    };
    let control = open_control(rt, dir, member).await.unwrap();
    let regions = regions.iter().map(|(id, start, end)| region(*id, start, end)).collect();
    control.take(beat(tikv, regions)).await;
    assert_eq!(control.refused_reports(), 0);
    // Detached: it ends with the core.
    drop(grpc::serve(rt, listener, Pd::new(control.clone(), HealthService::default()), Options::default()));
    (addr, control)
}

/// A scheduler shard beside the one store that keeps its state, both below `dir`.
pub(crate) async fn open_control(rt: &Rt, dir: &Path, member: Member) -> std::io::Result<Control> {
    let mut plan = crate::node::plan(
        dir,
        Identity { cluster: member.cluster_id, node: 3, stores: 1, first_store: 1 },
        1,
    );
    plan.shard.log.segment_bytes = 1 << 20;
    plan.shard.limits.segment_bytes = 1 << 20;
    let Core { stores, .. } = start::alone(rt, Arc::new(plan), Until::Opened).await.unwrap();
    let (asks, asked) = store::control::link();
    drop(rt.spawn(state_host::serve(rt.clone(), stores.state_store(), asked)));
    Control::open(rt, dir, member, asks).await
}

/// A beat of the one store.
pub(crate) fn beat(tikv: SocketAddr, regions: Vec<RegionReport>) -> Beat {
    let store = StoreId(STORE);
    let descriptor = StoreDescriptor::new(store, NodeId(1), tikv.to_string());
    Beat {
        stores: vec![StoreBeat { descriptor, report: StoreReport::empty(store), regions }],
        ..Beat::default()
    }
}

pub(crate) fn region(id: u64, start: &[u8], end: &[u8]) -> RegionReport {
    let leader = Peer::voter(PeerId(id + 100), StoreId(STORE));
    let region = Region {
        id: RegionId(id),
        range: KeyRange::new(start, end).unwrap(),
        epoch: Epoch::FIRST,
        peers: vec![leader],
    };
    RegionReport { term: Some(5), ..RegionReport::new(region, Some(leader.id)) }
}

pub(crate) fn put(key: &'static str, value: &'static str) -> RawPutRequest {
    RawPutRequest { key: key.into(), value: value.into(), ..RawPutRequest::default() }
}

pub(crate) fn get(key: &'static str) -> RawGetRequest {
    RawGetRequest { key: key.into(), ..RawGetRequest::default() }
}

pub(crate) const GET: &str = "/tikvpb.Tikv/RawGet";
pub(crate) const PUT: &str = "/tikvpb.Tikv/RawPut";
pub(crate) const BATCH: &str = "/tikvpb.Tikv/BatchCommands";
const CHECK: &str = "/grpc.health.v1.Health/Check";

#[test]
fn every_raw_method_answers_in_its_own_shape() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let pair = |key: &'static str, value: &'static str| KvPair {
            key: key.into(),
            value: value.into(),
            ..KvPair::default()
        };

        let done: RawPutResponse = client.unary(PUT, &put("a", "1")).await.unwrap();
        assert_eq!(done, RawPutResponse::default());
        let empty: RawPutResponse = client.unary(PUT, &put("empty", "")).await.unwrap();
        assert_eq!(empty.error, "");
        let found: RawGetResponse = client.unary(GET, &get("a")).await.unwrap();
        assert_eq!((&*found.value, found.not_found), (b"1".as_slice(), false));
        let found: RawGetResponse = client.unary(GET, &get("empty")).await.unwrap();
        assert_eq!((&*found.value, found.not_found), (b"".as_slice(), false), "an empty value is a value");
        let absent: RawGetResponse = client.unary(GET, &get("b")).await.unwrap();
        assert_eq!((absent.not_found, absent.error.as_str()), (true, ""));

        let pairs = vec![pair("b", "2"), pair("c", "3"), pair("d", "4")];
        let request = RawBatchPutRequest { pairs, ..Default::default() };
        let done: RawBatchPutResponse = client.unary("/tikvpb.Tikv/RawBatchPut", &request).await.unwrap();
        assert_eq!(done, RawBatchPutResponse::default());
        let request =
            RawBatchGetRequest { keys: ["d", "x", "b"].map(Bytes::from).to_vec(), ..Default::default() };
        let found: RawBatchGetResponse = client.unary("/tikvpb.Tikv/RawBatchGet", &request).await.unwrap();
        assert_eq!(found.pairs, [pair("d", "4"), pair("b", "2")], "only what is there, in order");

        let mut scan = RawScanRequest {
            start_key: "a".into(),
            end_key: "d".into(),
            limit: 10,
            ..RawScanRequest::default()
        };
        let up: RawScanResponse = client.unary("/tikvpb.Tikv/RawScan", &scan).await.unwrap();
        assert_eq!(up.kvs, [pair("a", "1"), pair("b", "2"), pair("c", "3")]);
        scan = RawScanRequest {
            start_key: "d".into(),
            end_key: "b".into(),
            limit: 1,
            reverse: true,
            key_only: true,
            ..scan
        };
        let down: RawScanResponse = client.unary("/tikvpb.Tikv/RawScan", &scan).await.unwrap();
        assert_eq!(down.kvs, [pair("c", "")], "downwards from the start, which is left out");
        let range = |start: &'static str, end: &'static str| KeyRange_ {
            start_key: start.into(),
            end_key: end.into(),
        };
        let request = RawBatchScanRequest {
            ranges: vec![range("a", "c"), range("c", "")],
            each_limit: 1,
            ..Default::default()
        };
        let found: RawBatchScanResponse = client.unary("/tikvpb.Tikv/RawBatchScan", &request).await.unwrap();
        assert_eq!(found.kvs, [pair("a", "1"), pair("c", "3")]);

        swap_on_a_condition(&client).await;

        let request = RawDeleteRequest { key: "a".into(), ..Default::default() };
        let done: RawDeleteResponse = client.unary("/tikvpb.Tikv/RawDelete", &request).await.unwrap();
        assert_eq!(done, RawDeleteResponse::default());
        let request = RawBatchDeleteRequest { keys: vec!["b".into()], ..Default::default() };
        let done: RawBatchDeleteResponse =
            client.unary("/tikvpb.Tikv/RawBatchDelete", &request).await.unwrap();
        assert_eq!(done, RawBatchDeleteResponse::default());
        let request =
            RawDeleteRangeRequest { start_key: "c".into(), end_key: "d".into(), ..Default::default() };
        let done: RawDeleteRangeResponse =
            client.unary("/tikvpb.Tikv/RawDeleteRange", &request).await.unwrap();
        assert_eq!(done, RawDeleteRangeResponse::default());
        let all = RawScanRequest { limit: 99, key_only: true, ..RawScanRequest::default() };
        let left: RawScanResponse = client.unary("/tikvpb.Tikv/RawScan", &all).await.unwrap();
        let left: Vec<_> = left.kvs.iter().map(|pair| pair.key.clone()).collect();
        assert_eq!(left, ["d", "empty", "new"]);
    });
}

/// The rest of the shapes: time to live, and setting a key that holds "1" on a condition.
async fn swap_on_a_condition(client: &Client) {
    let request = RawGetKeyTtlRequest { key: "a".into(), ..Default::default() };
    let ttl: RawGetKeyTtlResponse = client.unary("/tikvpb.Tikv/RawGetKeyTTL", &request).await.unwrap();
    assert_eq!((ttl.ttl, ttl.not_found), (0, false));

    let mut swap = RawCasRequest {
        key: "a".into(),
        value: "9".into(),
        previous_value: "0".into(),
        ..RawCasRequest::default()
    };
    let path = "/tikvpb.Tikv/RawCompareAndSwap";
    let missed: RawCasResponse = client.unary(path, &swap).await.unwrap();
    assert_eq!((missed.succeed, &*missed.previous_value), (false, b"1".as_slice()));
    swap.previous_value = "1".into();
    let hit: RawCasResponse = client.unary(path, &swap).await.unwrap();
    assert_eq!((hit.succeed, hit.previous_not_exist, &*hit.previous_value), (true, false, b"1".as_slice()));
    swap = RawCasRequest { key: "new".into(), previous_not_exist: true, ..swap };
    let created: RawCasResponse = client.unary(path, &swap).await.unwrap();
    assert_eq!((created.succeed, created.previous_not_exist), (true, true));
}

use store::wire::proto::kvrpcpb::KeyRange as KeyRange_;

#[test]
fn what_is_not_served_is_refused_by_name() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let refused = async |request: RawPutRequest| {
            let response: RawPutResponse = client.unary(PUT, &request).await.unwrap();
            response.error
        };
        let long = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
        assert_eq!(refused(RawPutRequest { key: long(8 << 10), ..put("", "v") }).await, "");
        let error = refused(RawPutRequest { key: long((8 << 10) + 1), ..put("", "v") }).await;
        assert!(error.contains("8193") && error.contains("8192"), "{error}");
        assert_eq!(refused(RawPutRequest { value: long(8 << 20), ..put("k", "") }).await, "");
        let error = refused(RawPutRequest { value: long((8 << 20) + 1), ..put("k", "") }).await;
        assert!(error.contains("8388609") && error.contains("8388608"), "{error}");
        let error = refused(RawPutRequest { cf: "write".to_owned(), ..put("k", "v") }).await;
        assert!(error.contains("\"write\""), "{error}");
        assert_eq!(refused(RawPutRequest { cf: "default".to_owned(), ..put("k", "v") }).await, "");
        let context = Some(Context { api_version: 2, ..Context::default() });
        let error = refused(RawPutRequest { context, ..put("k", "v") }).await;
        assert!(error.contains("API version V2") && error.contains("keyspace DEFAULT"), "{error}");

        let scan = RawScanRequest { cf: "lock".to_owned(), limit: 1, ..RawScanRequest::default() };
        let status = client.unary::<RawScanResponse>("/tikvpb.Tikv/RawScan", &scan).await.unwrap_err();
        assert_eq!(status.code, Code::InvalidArgument, "{status}");
        assert!(status.message.contains("\"lock\""), "{status}");

        let huge = RawPutRequest { value: long(17 << 20), ..put("k", "") };
        let status = client.unary::<RawPutResponse>(PUT, &huge).await.unwrap_err();
        assert_eq!(status.code, Code::ResourceExhausted, "{status}");

        for path in ["/tikvpb.Tikv/KvGet", "/tikvpb.Tikv/Nothing", "/other.Service/Method"] {
            let status = client.unary::<RawGetResponse>(path, &get("k")).await.unwrap_err();
            assert_eq!(status.code, Code::Unimplemented, "{path}");
            assert!(status.message.contains(path), "{status}");
        }
        let status =
            client.unary_raw(GET, Bytes::from_static(b"\0\0\0\0\x03\xff\xff\xff"), None).await.unwrap_err();
        assert_eq!(status.code, Code::InvalidArgument, "{status}");
        let found: RawGetResponse = client.unary(GET, &get("k")).await.unwrap();
        assert!(!found.not_found, "the connection is as good as before");
    });
}

pub(crate) fn command(command: Command) -> Request {
    Request { cmd: Some(command) }
}

#[test]
fn batched_commands_are_answered_one_to_one() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let mut call = client.open(BATCH).await.unwrap();
        let mut expected = std::collections::HashMap::new();
        for round in 0..50u64 {
            let requests = vec![
                command(Command::RawPut(put("k", "v"))),
                command(Command::RawGet(get("k"))),
                Request { cmd: None },
                command(Command::RawGet(get("absent"))),
                command(Command::Empty(EmptyRequest { test_id: round, delay_time: 0 })),
            ];
            let ids: Vec<u64> = (0..5).map(|n| round * 1000 + 7 * n).collect();
            for (kind, id) in ids.iter().enumerate() {
                expected.insert(*id, (kind, round));
            }
            let batch = BatchCommandsRequest { requests, request_ids: ids, client_send_time_ns: 0 };
            call.outbox.send(grpc::frame(&batch)).await.unwrap();
        }
        call.outbox.finish().unwrap();
        while let Some(message) = call.inbox.next().await.unwrap() {
            let answers: BatchCommandsResponse = prost::Message::decode(message.bytes).unwrap();
            assert_eq!(answers.responses.len(), answers.request_ids.len());
            for (response, id) in answers.responses.into_iter().zip(answers.request_ids) {
                let (kind, round) = expected.remove(&id).expect("answered once, under an id that was asked");
                match (kind, response.cmd) {
                    (0, Some(Answer::RawPut(answer))) => assert_eq!(answer.error, ""),
                    (1, Some(Answer::RawGet(answer))) => assert_eq!(&*answer.value, b"v"),
                    (2, None) => {}
                    (3, Some(Answer::RawGet(answer))) => assert!(answer.not_found),
                    (4, Some(Answer::Empty(answer))) => assert_eq!(answer.test_id, round),
                    (kind, other) => panic!("command {kind} was answered by {other:?}"),
                }
            }
        }
        call.finish().await.unwrap();
        assert!(expected.is_empty(), "unanswered: {expected:?}");
    });
}

#[test]
fn a_batch_with_missing_ids_ends_its_stream_alone() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let mut call = client.open(BATCH).await.unwrap();
        let batch = BatchCommandsRequest { requests: vec![Request { cmd: None }], ..Default::default() };
        call.outbox.send(grpc::frame(&batch)).await.unwrap();
        assert!(call.inbox.next().await.unwrap().is_none());
        assert_eq!(call.finish().await.unwrap_err().code, Code::InvalidArgument);
        let answer: RawGetResponse = client.unary(GET, &get("k")).await.unwrap();
        assert!(answer.not_found);
    });
}

#[test]
fn health_says_whether_the_store_serves() {
    on_core(|rt| async move {
        let (addr, _server, health) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let check = async |service: &str| {
            let request = HealthCheckRequest { service: service.to_owned() };
            let response: HealthCheckResponse = client.unary(CHECK, &request).await.unwrap();
            response.status
        };
        assert_eq!(check("").await, 1);
        assert_eq!(check("tikvpb.Tikv").await, 1);
        assert_eq!(check("another").await, 3);
        health.set_serving(false);
        assert_eq!(check("").await, 2);
    });
}

#[test]
fn big_answers_wait_for_the_reader_and_arrive_whole() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let value = Bytes::from((0..3usize << 20).map(|n| (n % 251) as u8).collect::<Vec<_>>());
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let request = RawPutRequest { value: value.clone(), ..put(key, "") };
            let done: RawPutResponse = client.unary(PUT, &request).await.unwrap();
            assert_eq!(done.error, "");
        }
        let scan = RawScanRequest { limit: 99, ..RawScanRequest::default() };
        let found: RawScanResponse = client.unary("/tikvpb.Tikv/RawScan", &scan).await.unwrap();
        assert_eq!(found.kvs.len(), 8);
        assert!(found.kvs.iter().all(|pair| pair.value == value));
    });
}

#[test]
fn draining_lets_streams_finish_and_takes_no_more() {
    on_core(|rt| async move {
        let (addr, server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let mut call = client.open(BATCH).await.unwrap();
        let batch = BatchCommandsRequest {
            requests: vec![command(Command::RawPut(put("k", "v")))],
            request_ids: vec![1],
            client_send_time_ns: 0,
        };
        call.outbox.send(grpc::frame(&batch)).await.unwrap();
        assert!(call.inbox.next().await.unwrap().is_some());
        assert_eq!(server.stats().connections, 1);
        assert_eq!(server.drain(Duration::from_secs(10)).await, 0, "no client is cut off");
        assert!(call.inbox.next().await.unwrap().is_none());
        call.finish().await.unwrap();
        assert!(client.unary::<RawGetResponse>(GET, &get("k")).await.is_err());
        assert_eq!(server.stats().broken, 0);
    });
}

#[test]
fn an_idle_client_that_answers_pings_is_kept() {
    on_core(|rt| async move {
        let options = Options { keepalive: Duration::from_millis(20), ..Options::default() };
        let (addr, server, _) = serve_tikv(&rt, options);
        let client = Client::connect(&rt, addr).await.unwrap();
        rt.sleep(Duration::from_millis(200)).await;
        let answer: RawGetResponse = client.unary(GET, &get("k")).await.unwrap();
        assert!(answer.not_found);
        assert_eq!((server.stats().connections, server.stats().broken), (1, 0));
    });
}
