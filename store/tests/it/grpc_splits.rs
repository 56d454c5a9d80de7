//! Regions that clients cut at the store that leads them, as client libraries and loaders do.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use store::keyspace;
use store::node::Node;
use store::wire::grpc::client::Client;
use store::wire::grpc::{Code, Options};
use store::wire::proto::kvrpcpb::{
    Context, RawPutRequest, RawPutResponse, SplitRegionRequest, SplitRegionResponse,
};
use store::wire::proto::metapb::Region;
use store::wire::proto::pdpb::{
    GetRegionRequest, GetRegionResponse, GetStoreRequest, GetStoreResponse, ScanRegionsRequest,
    ScanRegionsResponse,
};

use crate::grpc::{PUT, on_core, serve_tikv};
use crate::node::{DRAIN, setup};

const SPLIT: &str = "/tikvpb.Tikv/SplitRegion";

/// A way to the store that leads the region of `key`, and what a request to it says.
async fn leader(rt: &Rt, pd: SocketAddr, key: &'static [u8]) -> (Client, Context) {
    let pd = Client::connect(rt, pd).await.unwrap();
    let find = GetRegionRequest { region_key: key.into(), ..GetRegionRequest::default() };
    let found: GetRegionResponse = pd.unary("/pdpb.PD/GetRegion", &find).await.unwrap();
    let (region, leader) = (found.region.expect("it is known"), found.leader.expect("it is led"));
    let get = GetStoreRequest { store_id: leader.store_id, ..GetStoreRequest::default() };
    let store: GetStoreResponse = pd.unary("/pdpb.PD/GetStore", &get).await.unwrap();
    let address = store.store.unwrap().address.parse().unwrap();
    (Client::connect(rt, address).await.unwrap(), context(&region, Some(leader)))
}

fn context(region: &Region, leader: Option<store::wire::proto::metapb::Peer>) -> Context {
    Context {
        region_id: region.id,
        region_epoch: region.region_epoch,
        peer: leader.or_else(|| region.peers.first().copied()),
        ..Context::default()
    }
}

fn request(context: &Context, keys: &[&'static [u8]]) -> SplitRegionRequest {
    SplitRegionRequest {
        context: Some(*context),
        split_keys: keys.iter().map(|key| Bytes::from_static(key)).collect(),
        is_raw_kv: true,
        ..SplitRegionRequest::default()
    }
}

fn starts(regions: &[Region]) -> Vec<&[u8]> {
    regions.iter().map(|region| &region.start_key[..]).collect()
}

#[test]
fn a_region_becomes_those_that_its_client_names() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::start_with(setup(dir.path(), 2, None)).unwrap();
    let pd = node.addresses().pd;
    on_core(move |rt| async move {
        let (store, before) = leader(&rt, pd, b"ab").await;
        // In any order, one of them twice.
        let wish = request(&before, &[b"ab\x02", b"ab", b"ab\x02"]);
        let cut: SplitRegionResponse = store.unary(SPLIT, &wish).await.unwrap();
        assert_eq!((cut.region_error, cut.left, cut.right), (None, None, None), "there are three");
        assert_eq!(starts(&cut.regions)[1..], [b"ab".as_slice(), b"ab\x02"]);
        assert_eq!(cut.regions[0].id, before.region_id, "it keeps its id and the lower part");
        assert!(cut.regions.windows(2).all(|pair| pair[0].end_key == pair[1].start_key));
        // What was known before is refused with what there is now, and the new one is led at once.
        let put = |context: Context| RawPutRequest {
            context: Some(context),
            key: "ab\x01".into(),
            value: "v".into(),
            ..RawPutRequest::default()
        };
        let stale: RawPutResponse = store.unary(PUT, &put(before)).await.unwrap();
        assert!(stale.region_error.unwrap().epoch_not_match.is_some());
        let stale: SplitRegionResponse = store.unary(SPLIT, &request(&before, &[b"ac"])).await.unwrap();
        assert!(stale.region_error.unwrap().epoch_not_match.is_some());
        let new = context(&cut.regions[1], None);
        while store.unary::<RawPutResponse>(PUT, &put(new)).await.unwrap().region_error.is_some() {
            rt.sleep(Duration::from_millis(5)).await;
        }
        // By the one key of older clients, into two.
        let one =
            SplitRegionRequest { split_key: "ab\x01".into(), split_keys: Vec::new(), ..request(&new, &[]) };
        let two: SplitRegionResponse = loop {
            let two: SplitRegionResponse = store.unary(SPLIT, &one).await.unwrap();
            // Until the scheduler has heard of the region, it gives no ids for its parts.
            match two.region_error {
                None => break two,
                Some(error) => assert!(error.server_is_busy.is_some(), "{error:?}"),
            }
        };
        assert_eq!((two.left.as_ref(), two.right.as_ref()), (two.regions.first(), two.regions.last()));
        assert_eq!(starts(&two.regions), [b"ab".as_slice(), b"ab\x01"]);
        // The map hears of all of them.
        let client = Client::connect(&rt, pd).await.unwrap();
        loop {
            let all: ScanRegionsResponse =
                client.unary("/pdpb.PD/ScanRegions", &ScanRegionsRequest::default()).await.unwrap();
            let known =
                starts(&all.region_metas).into_iter().filter(|start| start.starts_with(b"ab")).count();
            if known == 3 {
                break;
            }
            rt.sleep(Duration::from_millis(20)).await;
        }
    });
    node.drain(DRAIN);
}

#[test]
fn keys_are_cut_at_as_they_are_stored() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::start_with(setup(dir.path(), 1, None)).unwrap();
    let pd = node.addresses().pd;
    on_core(move |rt| async move {
        let (store, plain) = leader(&rt, pd, b"r\0\0\0user").await;
        let refused = async |context: &Context, key: &'static [u8], why: &str| {
            let status =
                store.unary::<SplitRegionResponse>(SPLIT, &request(context, &[key])).await.unwrap_err();
            assert!(status.code == Code::InvalidArgument && status.message.contains(why), "{status}");
        };
        let of_keyspace = Context { api_version: 2, ..plain };
        refused(&plain, b"r\0\0\0user:0001", "keyspace DEFAULT").await;
        refused(&of_keyspace, b"user:0001", "begins with").await;
        refused(&plain, b"", "not empty").await;
        let outside: SplitRegionResponse = store.unary(SPLIT, &request(&plain, &[b"\x01"])).await.unwrap();
        assert!(outside.region_error.unwrap().key_not_in_region.is_some());
        let elsewhere = Context { region_id: 9999, ..plain };
        let unknown: SplitRegionResponse = store.unary(SPLIT, &request(&elsewhere, &[b"r1"])).await.unwrap();
        assert!(unknown.region_error.unwrap().region_not_found.is_some());
        let raw: SplitRegionResponse =
            store.unary(SPLIT, &request(&of_keyspace, &[b"r\0\0\0user:0001"])).await.unwrap();
        assert_eq!(starts(&raw.regions)[1..], [&keyspace::encode(b"r\0\0\0user:0001")[..]]);
        // Keys that are not raw are those of clients who decode every border.
        let last = context(raw.regions.last().unwrap(), None);
        let wish = SplitRegionRequest { is_raw_kv: false, ..request(&last, &[b"rows"]) };
        loop {
            let cut: SplitRegionResponse = store.unary(SPLIT, &wish).await.unwrap();
            if let Some(error) = cut.region_error {
                assert!(error.server_is_busy.is_some() || error.not_leader.is_some(), "{error:?}");
                rt.sleep(Duration::from_millis(20)).await;
                continue;
            }
            assert_eq!(starts(&cut.regions)[1..], [&keyspace::encode(b"rows")[..]]);
            break;
        }
    });
    node.drain(DRAIN);
}

#[test]
fn a_port_without_regions_says_so() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let context = Context { region_id: 2, ..Context::default() };
        let status =
            client.unary::<SplitRegionResponse>(SPLIT, &request(&context, &[b"k"])).await.unwrap_err();
        assert!(status.message.contains("no regions"), "{status}");
        let many = SplitRegionRequest { split_keys: vec!["k".into(); 257], ..request(&context, &[]) };
        let status = client.unary::<SplitRegionResponse>(SPLIT, &many).await.unwrap_err();
        assert!(status.message.contains("1 to 256 keys"), "{status}");
    });
}
