//! Conformance of the PD port: what each client unwraps, indexes or panics on.

use std::net::SocketAddr;

use engine::rt::Rt;
use store::control::Member;
use store::wire::board::CoreReport;
use store::wire::grpc::client::Client;
use store::wire::grpc::{self, Code};
use store::wire::proto::etcdserverpb::MemberListResponse;
use store::wire::proto::metapb;
use store::wire::proto::pdpb::*;

use crate::grpc::{STORE, beat, on_core, open_control, region, serve_pd};
use crate::page::{page, sum};

fn tikv() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 20160))
}

async fn client(rt: &Rt, addr: SocketAddr) -> Client {
    Client::connect(rt, addr).await.unwrap()
}

#[test]
fn every_answer_has_what_clients_unwrap() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(|rt| async move {
        let (addr, control) = serve_pd(&rt, &path, tikv()).await;
        let pd = client(&rt, addr).await;
        let ask = GetMembersRequest::default();
        let members: GetMembersResponse = pd.unary("/pdpb.PD/GetMembers", &ask).await.unwrap();
        let cluster_id = members.header.unwrap().cluster_id;
        assert_ne!(cluster_id, 0);
        assert_eq!(cluster_id, control.cluster_id());
        let leader = members.leader.unwrap();
        assert_eq!(leader.client_urls, [format!("http://{addr}")]);
        assert_eq!(members.members, [leader]);

        let info: GetClusterInfoResponse = pd.unary("/pdpb.PD/GetClusterInfo", &ask).await.unwrap();
        assert_eq!(info.service_modes, [1]);
        let header = Some(RequestHeader { cluster_id, sender_id: 0 });
        let by_key =
            |key: &'static [u8]| GetRegionRequest { header, region_key: key.into(), need_buckets: true };
        let found: GetRegionResponse = pd.unary("/pdpb.PD/GetRegion", &by_key(b"k")).await.unwrap();
        let known = found.region.unwrap();
        assert_eq!((known.id, &*known.end_key), (2, b"\xff".as_slice()));
        assert!(known.region_epoch.is_some() && found.header.is_some());
        assert_eq!(found.leader.unwrap().store_id, STORE);
        let before: GetRegionResponse =
            pd.unary("/pdpb.PD/GetPrevRegion", &by_key(b"\xff\x01")).await.unwrap();
        assert_eq!(before.region.unwrap().id, 2);
        let none: GetRegionResponse = pd.unary("/pdpb.PD/GetPrevRegion", &by_key(b"k")).await.unwrap();
        assert!(none.region.is_none() && none.header.unwrap().error.is_none());
        let by_id = GetRegionByIdRequest { header, region_id: 3, need_buckets: false };
        let found: GetRegionResponse = pd.unary("/pdpb.PD/GetRegionByID", &by_id).await.unwrap();
        assert_eq!(found.region.unwrap().id, 3);

        for (limit, expected) in [(0, vec![2, 3]), (-1, vec![2, 3]), (1, vec![2])] {
            let scan = ScanRegionsRequest { header, limit, ..Default::default() };
            let found: ScanRegionsResponse = pd.unary("/pdpb.PD/ScanRegions", &scan).await.unwrap();
            let ids: Vec<u64> = found.region_metas.iter().map(|known| known.id).collect();
            assert_eq!((&ids, found.leaders.len(), found.regions.len()), (&expected, ids.len(), ids.len()));
        }

        let get = |store_id| GetStoreRequest { header, store_id };
        let store: GetStoreResponse = pd.unary("/pdpb.PD/GetStore", &get(STORE)).await.unwrap();
        assert_eq!(store.store.unwrap().address, tikv().to_string());
        let status = pd.unary::<GetStoreResponse>("/pdpb.PD/GetStore", &get(9)).await.unwrap_err();
        assert_eq!(status.message, "invalid store ID 9, not found");
        let stores: GetAllStoresResponse = pd
            .unary("/pdpb.PD/GetAllStores", &GetAllStoresRequest { header, ..Default::default() })
            .await
            .unwrap();
        assert_eq!(stores.stores.len(), 1);

        let list: MemberListResponse = pd.unary("/etcdserverpb.Cluster/MemberList", &ask).await.unwrap();
        assert_eq!(list.members[0].client_urls, [format!("http://{addr}")]);

        let wrong = GetRegionRequest {
            header: Some(RequestHeader { cluster_id: cluster_id ^ 1, sender_id: 0 }),
            ..Default::default()
        };
        let status = pd.unary::<GetRegionResponse>("/pdpb.PD/GetRegion", &wrong).await.unwrap_err();
        assert_eq!(status.code, Code::FailedPrecondition);
        assert!(status.message.contains("mismatch cluster id"), "{status}");
    });
}

#[test]
fn regions_of_ranges_are_named_once() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(|rt| async move {
        let (addr, control) = serve_pd(&rt, &path, tikv()).await;
        let pd = client(&rt, addr).await;
        let header = Some(RequestHeader { cluster_id: control.cluster_id(), sender_id: 0 });
        let range = |start: &'static [u8], end: &'static [u8]| KeyRange {
            start_key: start.into(),
            end_key: end.into(),
        };
        let scan = BatchScanRegionsRequest {
            header,
            ranges: vec![range(b"a", b"c"), range(b"d", b"")],
            contain_all_key_range: true,
            ..Default::default()
        };
        let found: BatchScanRegionsResponse = pd.unary("/pdpb.PD/BatchScanRegions", &scan).await.unwrap();
        assert!(found.header.unwrap().error.is_none());
        let ids: Vec<u64> = found.regions.iter().map(|known| known.region.as_ref().unwrap().id).collect();
        assert_eq!(ids, [2, 3], "each once");
        // In any order, and as often as a request has room for: each range covers every key.
        for (limit, expected) in [(0, vec![2, 3]), (1, vec![2])] {
            let mut ranges = vec![range(b"d", b""), range(b"a", b"c")];
            ranges.resize(60_000, range(b"", b""));
            let scan = BatchScanRegionsRequest {
                header,
                ranges,
                limit,
                contain_all_key_range: true,
                ..Default::default()
            };
            let found: BatchScanRegionsResponse = pd.unary("/pdpb.PD/BatchScanRegions", &scan).await.unwrap();
            assert!(found.header.unwrap().error.is_none());
            let ids: Vec<u64> = found.regions.iter().map(|known| known.region.as_ref().unwrap().id).collect();
            assert_eq!(ids, expected);
        }
    });
}

#[test]
fn query_region_answers_by_position() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(|rt| async move {
        let (addr, control) = serve_pd(&rt, &path, tikv()).await;
        let pd = client(&rt, addr).await;
        let mut call = pd.open("/pdpb.PD/QueryRegion").await.unwrap();
        let keys: Vec<bytes::Bytes> =
            ["a", "b", "\u{7f}"].iter().map(|key| bytes::Bytes::from(*key)).collect();
        for ids in [vec![], vec![3, 77], vec![2]] {
            let request = QueryRegionRequest {
                keys: keys.clone(),
                prev_keys: vec![bytes::Bytes::from_static(b"\xff\xff"), keys[0].clone()],
                ids: ids.clone(),
                ..Default::default()
            };
            call.outbox.send(grpc::frame(&request)).await.unwrap();
            let message = call.inbox.next().await.unwrap().unwrap();
            let response: QueryRegionResponse = prost::Message::decode(message.bytes).unwrap();
            assert!(response.header.unwrap().error.is_none());
            assert_eq!(response.key_id_map, [2, 2, 2]);
            assert_eq!(response.prev_key_id_map, [2, 0], "0 where there is none");
            let mut found: Vec<u64> = response.regions_by_id.keys().copied().collect();
            found.sort_unstable();
            assert_eq!(
                found,
                if ids.contains(&3) { vec![2, 3] } else { vec![2] },
                "each once, unknown ids left out"
            );
            assert!(response.regions_by_id.values().all(|known| known.leader.is_some()));
        }
        control.take(beat(tikv(), vec![region(9, b"zz", b"zzz")])).await;
        assert_eq!(control.refused_reports(), 0);
        call.outbox.finish().unwrap();
        assert!(call.inbox.next().await.unwrap().is_none());
        call.finish().await.unwrap();
    });
}

async fn timestamps(pd: &Client, counts: &[u32]) -> Vec<(i64, i64)> {
    let mut call = pd.open("/pdpb.PD/Tso").await.unwrap();
    let mut given = Vec::new();
    for count in counts {
        let request = TsoRequest { count: *count, ..Default::default() };
        call.outbox.send(grpc::frame(&request)).await.unwrap();
    }
    for count in counts {
        let message = call.inbox.next().await.unwrap().unwrap();
        let response: TsoResponse = prost::Message::decode(message.bytes).unwrap();
        assert_eq!(response.count, *count, "clients subtract it");
        let largest = response.timestamp.unwrap();
        assert_eq!(largest.suffix_bits, 0);
        assert!(largest.logical >= i64::from(*count) && largest.logical < 1 << 18);
        given.push((largest.physical, largest.logical + 1 - i64::from(*count)));
        given.push((largest.physical, largest.logical));
    }
    given
}

#[test]
fn timestamps_ids_and_the_safe_point_outlive_a_restart() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (mut last, mut last_id, mut clusters) = ((0, 0), 0, Vec::new());
    for round in 0..4u64 {
        let path = dir.path().to_owned();
        let (given, ids, cluster_id, safe_points) = on_core(move |rt| async move {
            let (addr, control) = serve_pd(&rt, &path, tikv()).await;
            let pd = client(&rt, addr).await;
            let given = timestamps(&pd, &[1, 64, 10_000, 200_000, 200_000, 1]).await;
            let mut ids = Vec::new();
            for count in [0, 1, 3, 1500] {
                let request = AllocIdRequest { count, ..Default::default() };
                let response: AllocIdResponse = pd.unary("/pdpb.PD/AllocID", &request).await.unwrap();
                ids.push((response.id + 1 - u64::from(response.count), response.id));
            }
            let mut safe_points = Vec::new();
            for safe_point in [10 + round, 5] {
                let request = UpdateGcSafePointRequest { safe_point, ..Default::default() };
                let response: UpdateGcSafePointResponse =
                    pd.unary("/pdpb.PD/UpdateGCSafePoint", &request).await.unwrap();
                safe_points.push(response.new_safe_point);
            }
            (given, ids, control.cluster_id(), safe_points)
        });
        for pair in given.chunks(2) {
            assert!(pair[0] > last, "{:?} after {last:?}", pair[0]);
            last = pair[1];
        }
        for (first, final_id) in ids {
            assert!(first > last_id, "{first} after {last_id}");
            last_id = final_id;
        }
        assert_eq!(safe_points, [10 + round, 10 + round], "it never falls");
        clusters.push(cluster_id);
    }
    assert!(clusters.iter().all(|id| *id == clusters[0] && *id != 0));
}

#[test]
fn a_bad_count_ends_the_stream_with_a_sentence() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(|rt| async move {
        let (addr, _control) = serve_pd(&rt, &path, tikv()).await;
        let pd = client(&rt, addr).await;
        for count in [0, 1 << 18] {
            let mut call = pd.open("/pdpb.PD/Tso").await.unwrap();
            call.outbox.send(grpc::frame(&TsoRequest { count, ..Default::default() })).await.unwrap();
            assert!(call.inbox.next().await.unwrap().is_none());
            assert_eq!(call.finish().await.unwrap_err().code, Code::InvalidArgument);
        }
    });
}

#[test]
fn a_damaged_file_is_named_and_not_replaced() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("STATE");
    std::fs::write(&file, b"something else").unwrap();
    let path = dir.path().to_owned();
    let error =
        on_core(|rt| async move { open_control(&rt, &path, member()).await.unwrap_err().to_string() });
    assert!(error.contains("STATE") && error.contains("backup"), "{error}");
    assert_eq!(std::fs::read(file).unwrap(), b"something else");
}

fn member() -> Member {
    Member {
        name: "pd".to_owned(),
        member_id: 1,
        client_urls: vec!["http://127.0.0.1:1".to_owned()],
        cluster_id: 7,
        first_free_id: 1,
        next_id_min: 0,
    }
}

#[test]
fn reports_of_strangers_change_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(|rt| async move {
        let (addr, _control) = serve_pd(&rt, &path, tikv()).await;
        let pd = client(&rt, addr).await;
        let by_id = GetRegionByIdRequest { region_id: 2, ..Default::default() };
        let before: GetRegionResponse = pd.unary("/pdpb.PD/GetRegionByID", &by_id).await.unwrap();

        let mut forged = before.region.clone().unwrap();
        forged.region_epoch.as_mut().unwrap().version += 1000;
        forged.peers[0].store_id = 99;
        let mut call = pd.open("/pdpb.PD/RegionHeartbeat").await.unwrap();
        let beat = RegionHeartbeatRequest {
            leader: Some(forged.peers[0]),
            region: Some(forged),
            ..Default::default()
        };
        call.outbox.send(grpc::frame(&beat)).await.unwrap();
        assert!(call.inbox.next().await.unwrap().is_none());
        assert_eq!(call.finish().await.unwrap_err().code, Code::PermissionDenied);
        let store = metapb::Store { id: STORE, address: "203.0.113.1:1".into(), ..Default::default() };
        let put = PutStoreRequest { store: Some(store), ..Default::default() };
        let status = pd.unary::<PutStoreResponse>("/pdpb.PD/PutStore", &put).await.unwrap_err();
        assert_eq!(status.code, Code::FailedPrecondition);
        let stats = StoreHeartbeatRequest {
            stats: Some(StoreStats { store_id: STORE, ..Default::default() }),
            ..Default::default()
        };
        let status = pd.unary::<StoreHeartbeatResponse>("/pdpb.PD/StoreHeartbeat", &stats).await.unwrap_err();
        assert_eq!(status.code, Code::PermissionDenied);

        let after: GetRegionResponse = pd.unary("/pdpb.PD/GetRegionByID", &by_id).await.unwrap();
        assert_eq!((after.region, after.leader), (before.region, before.leader));
        let get = GetStoreRequest { store_id: STORE, ..Default::default() };
        let store: GetStoreResponse = pd.unary("/pdpb.PD/GetStore", &get).await.unwrap();
        assert_eq!(store.store.unwrap().address, tikv().to_string());
    });
}

#[test]
fn a_safe_point_above_the_present_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(|rt| async move {
        let (addr, _control) = serve_pd(&rt, &path, tikv()).await;
        let pd = client(&rt, addr).await;
        let (method, get) = ("/pdpb.PD/UpdateGCSafePoint", GetGcSafePointRequest::default());
        let future = UpdateGcSafePointRequest { safe_point: u64::MAX, ..Default::default() };
        let status = pd.unary::<UpdateGcSafePointResponse>(method, &future).await.unwrap_err();
        assert_eq!(status.code, Code::InvalidArgument);
        assert!(status.message.contains("above the present"), "{status}");
        let now: GetGcSafePointResponse = pd.unary("/pdpb.PD/GetGCSafePoint", &get).await.unwrap();
        assert_eq!(now.safe_point, 0);
    });
}

/// Labels of a store, peers of a region: what a message nests is counted before it is decoded.
#[test]
fn items_that_would_fill_the_memory_are_refused_before_they_are_decoded() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(|rt| async move {
        let (addr, _control) = serve_pd(&rt, &path, tikv()).await;
        let pd = client(&rt, addr).await;
        let labels = vec![metapb::StoreLabel::default(); 70_000];
        let store = metapb::Store { labels, ..metapb::Store::default() };
        let request = PutStoreRequest { store: Some(store), ..PutStoreRequest::default() };
        let status = pd.unary::<PutStoreResponse>("/pdpb.PD/PutStore", &request).await.unwrap_err();
        assert_eq!(status.code, Code::InvalidArgument);
        assert!(status.message.contains("65536 items"), "{status}");
        let region =
            metapb::Region { peers: vec![metapb::Peer::default(); 70_000], ..metapb::Region::default() };
        let request = AskSplitRequest { region: Some(region), ..AskSplitRequest::default() };
        let status = pd.unary::<AskSplitResponse>("/pdpb.PD/AskSplit", &request).await.unwrap_err();
        assert!(status.message.contains("65536 items"), "{status}");
    });
}

#[test]
fn a_beat_builds_the_map_and_a_split_is_seen_in_it() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(|rt| async move {
        let (addr, control) = serve_pd(&rt, &path, tikv()).await;
        let pd = client(&rt, addr).await;
        let asked: GetRegionResponse = pd
            .unary("/pdpb.PD/GetRegionByID", &GetRegionByIdRequest { region_id: 2, ..Default::default() })
            .await
            .unwrap();
        let request = AskSplitRequest { header: None, region: asked.region };
        let ids: AskSplitResponse = pd.unary("/pdpb.PD/AskSplit", &request).await.unwrap();
        assert_eq!(ids.new_peer_ids, [ids.new_region_id + 1]);

        let (mut left, mut right) = (region(2, b"", b"m"), region(ids.new_region_id, b"m", b"\xff"));
        for half in [&mut left, &mut right] {
            half.region.epoch.version += 1;
        }
        let stale = region(2, b"", b"\xff");
        control.take(beat(tikv(), vec![left, right])).await;
        assert_eq!(control.refused_reports(), 0);
        control.take(beat(tikv(), vec![stale])).await;
        assert_eq!(control.refused_reports(), 1);
        let report = CoreReport { scheduler: Some(control.numbers()), ..CoreReport::default() };
        let name = "ringkeep_scheduler_reports_refused_total";
        assert_eq!(sum(&page(&[report], &[name]), name, ""), 1.0);
        let scan = ScanRegionsRequest::default();
        let found: ScanRegionsResponse = pd.unary("/pdpb.PD/ScanRegions", &scan).await.unwrap();
        let found: Vec<u64> = found.region_metas.iter().map(|known| known.id).collect();
        assert_eq!(found, [2, ids.new_region_id, 3]);
    });
}
