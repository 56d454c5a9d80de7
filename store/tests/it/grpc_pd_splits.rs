//! Calls of those who cut regions and spread them, as the bytes that clients of other makers send.

use bytes::{BufMut, Bytes, BytesMut};
use engine::rt::Rt;
use prost::Message;
use scheduler::{NodeId, RegionId, StoreDescriptor, StoreId, StoreReport};
use store::control::{Beat, Control, StoreBeat};
use store::node::Node;
use store::wire::grpc::client::Client;
use store::wire::grpc::{Code, Status};
use store::wire::proto::pdpb::*;

use crate::grpc::{STORE, on_core, serve_pd, serve_pd_with};
use crate::node::{DRAIN, setup};

/// A header that names cluster 7.
const HEADER: &[u8] = b"\x0a\x02\x08\x07";

async fn call<A: Message + Default>(pd: &Client, method: &str, parts: &[&[u8]]) -> Result<A, Status> {
    let message = parts.concat();
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    let answer: Bytes = pd.unary_raw(&format!("/pdpb.PD/{method}"), body.freeze(), None).await?;
    Ok(A::decode(answer).expect("an answer"))
}

async fn served(rt: &Rt) -> (tempfile::TempDir, Client, Control) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (addr, control) = serve_pd(rt, dir.path(), ([127, 0, 0, 1], 20160).into()).await;
    (dir, Client::connect(rt, addr).await.unwrap(), control)
}

/// Region 2 with every key below 0xff, epoch 1, 1 and peer 102 on store 1.
const REGION: &[u8] = b"\x12\x11\x08\x02\x1a\x01\xff\x22\x04\x08\x01\x10\x01\x2a\x04\x08\x66\x10\x01";

#[test]
fn ids_for_several_parts_are_all_different() {
    on_core(|rt| async move {
        let (dir, pd, _control) = served(&rt).await;
        assert_eq!(REGION.len(), 2 + 0x11, "the bytes are what they say");
        let ids: AskBatchSplitResponse =
            call(&pd, "AskBatchSplit", &[HEADER, REGION, b"\x18\x03"]).await.unwrap();
        assert_eq!(ids.header.unwrap().error, None);
        let mut all: Vec<u64> = Vec::new();
        for SplitId { new_region_id, new_peer_ids } in ids.ids {
            assert_eq!(new_peer_ids.len(), 1, "one for each peer");
            all.push(new_region_id);
            all.extend(new_peer_ids);
        }
        assert_eq!(all.len(), 6);
        all.sort_unstable();
        all.dedup();
        assert_eq!((all.len(), all[0] > 11), (6, true), "{all:?}");
        let none = call::<AskBatchSplitResponse>(&pd, "AskBatchSplit", &[HEADER, REGION]).await;
        assert_eq!(none.unwrap_err().code, Code::InvalidArgument);
        let many =
            call::<AskBatchSplitResponse>(&pd, "AskBatchSplit", &[HEADER, REGION, b"\x18\x81\x08"]).await;
        assert!(many.unwrap_err().message.contains("1 to 1024"));
        // Region 9 is not known.
        let unknown = b"\x12\x08\x08\x09\x22\x04\x08\x01\x10\x01";
        let refused: AskBatchSplitResponse =
            call(&pd, "AskBatchSplit", &[HEADER, unknown, b"\x18\x01"]).await.unwrap();
        assert_eq!(refused.header.unwrap().error.unwrap().r#type, ErrorType::RegionNotFound as i32);
        let reported = call::<ReportBatchSplitResponse>(&pd, "ReportBatchSplit", &[HEADER, REGION]).await;
        assert_eq!(reported.unwrap_err().code, Code::PermissionDenied);
        // The directory outlives the core, whose store goes on until it ends.
        dir
    });
}

/// A second store on another node, with room.
async fn second_store(control: &Control) -> StoreId {
    let id = StoreId(control.alloc_ids(1).await.unwrap());
    let report = StoreReport { capacity_bytes: 1 << 30, available_bytes: 1 << 30, ..StoreReport::empty(id) };
    let descriptor = StoreDescriptor::new(id, NodeId(id.0), "127.0.0.1:20161");
    let store = StoreBeat { descriptor, report, regions: Vec::new() };
    control.take(Beat { stores: vec![store], ..Beat::default() }).await;
    id
}

#[test]
fn regions_of_one_group_are_spread_and_the_operator_is_reported() {
    on_core(|rt| async move {
        let (dir, pd, control) = served(&rt).await;
        let group = b"\x2a\x01t";
        // One region by the old field, as tools do that cut and spread.
        let one: ScatterRegionResponse = call(&pd, "ScatterRegion", &[HEADER, b"\x10\x02"]).await.unwrap();
        assert_eq!((one.header.unwrap().error, one.finished_percentage), (None, 100));
        let idle: GetOperatorResponse = call(&pd, "GetOperator", &[HEADER, b"\x10\x02"]).await.unwrap();
        assert_eq!(idle.header.unwrap().error.unwrap().r#type, ErrorType::RegionNotFound as i32);
        let to = second_store(&control).await;
        assert_ne!(to.0, STORE);
        // Regions 2, 3 and 9 by the list.
        let listed: ScatterRegionResponse =
            call(&pd, "ScatterRegion", &[HEADER, group, b"\x32\x03\x02\x03\x09"]).await.unwrap();
        assert_eq!((listed.header.unwrap().error, listed.finished_percentage), (None, 66));
        let mut running = Vec::new();
        for region in [2, 3] {
            let said: GetOperatorResponse =
                call(&pd, "GetOperator", &[HEADER, b"\x10", &[region]]).await.unwrap();
            if said.header.as_ref().unwrap().error.is_none() {
                assert_eq!((&said.desc[..], said.region_id), (&b"scatter-region"[..], u64::from(region)));
                running.push(said.status());
            }
        }
        assert_eq!(running, [OperatorStatus::Running], "one of two is to move");
        let unknown: ScatterRegionResponse =
            call(&pd, "ScatterRegion", &[HEADER, b"\x10\x09"]).await.unwrap();
        assert_eq!(unknown.header.unwrap().error.unwrap().r#type, ErrorType::RegionNotFound as i32);
        let nothing = call::<ScatterRegionResponse>(&pd, "ScatterRegion", &[HEADER]).await;
        assert_eq!(nothing.unwrap_err().code, Code::InvalidArgument);
        dir
    });
}

const SPLIT: &str = "SplitRegions";

/// A key, as tag 2 of a request.
fn cut_at(key: &[u8]) -> Vec<u8> {
    [&[0x12, key.len() as u8], key].concat()
}

#[test]
fn what_is_wrong_with_a_request_for_cuts_is_an_error_of_its_header() {
    on_core(|rt| async move {
        let (dir, pd, control) = served(&rt).await;
        let failed = async |parts: &[&[u8]]| {
            let answer: SplitRegionsResponse = call(&pd, SPLIT, parts).await.unwrap();
            let error = answer.header.expect("clients unwrap it").error.expect("it is refused");
            assert!(answer.regions_id.is_empty());
            (error.r#type(), error.message)
        };
        let (none, why) = failed(&[HEADER]).await;
        assert!(none == ErrorType::InvalidValue && why.contains("1 to 1024 keys"), "{why}");
        let many = cut_at(b"k").repeat(1025);
        assert_eq!(failed(&[HEADER, &many]).await.0, ErrorType::InvalidValue);
        let (bad, why) = failed(&[HEADER, &cut_at(b"r\0\0\0raw")]).await;
        assert!(bad == ErrorType::InvalidValue && why.contains("keyspace DEFAULT"), "{why}");
        let wrong = call::<SplitRegionsResponse>(&pd, SPLIT, &[b"\x0a\x02\x08\x09", &cut_at(b"k")]).await;
        assert_eq!(wrong.unwrap_err().code, Code::FailedPrecondition);
        // A region begins there already, so nothing has to be done, and it may be spread.
        let done: SplitAndScatterRegionsResponse =
            call(&pd, "SplitAndScatterRegions", &[HEADER, &cut_at(b"\xff"), b"\x1a\x01t"]).await.unwrap();
        assert_eq!((done.header.unwrap().error, &done.regions_id[..]), (None, &[3][..]));
        assert_eq!((done.split_finished_percentage, done.scatter_finished_percentage), (100, 100));
        // No store carries this one out; the caller hears how far it came, and the operator goes on.
        let begun: SplitRegionsResponse =
            call(&pd, SPLIT, &[HEADER, &cut_at(b"k"), &cut_at(b"\xff")]).await.unwrap();
        assert_eq!((begun.header.unwrap().error, begun.finished_percentage), (None, 50));
        assert_eq!(control.last_operator(RegionId(2)).expect("it runs").outcome, None);
        dir
    });
}

#[test]
fn a_key_in_no_region_that_is_known_is_an_error_of_the_header() {
    on_core(|rt| async move {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let known: [(u64, &[u8], &[u8]); 1] = [(2, b"", b"\xff")];
        let (addr, _control) = serve_pd_with(&rt, dir.path(), ([127, 0, 0, 1], 20160).into(), &known).await;
        let pd = Client::connect(&rt, addr).await.unwrap();
        let said: SplitRegionsResponse = call(&pd, SPLIT, &[HEADER, &cut_at(b"\xff\x01")]).await.unwrap();
        let error = said.header.expect("clients unwrap it").error.expect("it is refused");
        assert_eq!((error.r#type(), said.finished_percentage), (ErrorType::RegionNotFound, 0), "{error:?}");
        dir
    });
}

#[test]
fn regions_are_cut_at_the_keys_that_are_named_and_spread() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::start_with(setup(dir.path(), 2, None)).unwrap();
    let addr = node.addresses().pd;
    on_core(move |rt| async move {
        let pd = Client::connect(&rt, addr).await.unwrap();
        let keys = [&b"a\x01"[..], b"a\x02", b"yy", b"0"];
        let parts: Vec<u8> = keys.iter().flat_map(|key| cut_at(key)).collect();
        let done = loop {
            let done: SplitRegionsResponse = call(&pd, SPLIT, &[&parts]).await.unwrap();
            assert_eq!(done.header.unwrap().error, None);
            if done.finished_percentage == 100 {
                break done.regions_id;
            }
        };
        let found: ScanRegionsResponse = call(&pd, "ScanRegions", &[]).await.unwrap();
        let begins = |id: u64| {
            let known = found.region_metas.iter().find(|known| known.id == id).expect("it is known");
            known.start_key.to_vec()
        };
        assert_eq!(done.iter().copied().map(begins).collect::<Vec<_>>(), keys, "in the order of the keys");
        let more: SplitAndScatterRegionsResponse =
            call(&pd, "SplitAndScatterRegions", &[&parts, &cut_at(b"a\x03"), b"\x1a\x01t"]).await.unwrap();
        assert!(more.split_finished_percentage >= 80 && more.scatter_finished_percentage == 100, "{more:?}");
        assert_eq!(more.regions_id[..4], done);
    });
    node.drain(DRAIN);
}
