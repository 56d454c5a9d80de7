//! The keyspace of API V2: the published client with it, against a whole node whose regions are cut inside the keyspace and around it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use store::keyspace;
use store::node::Node;
use store::wire::grpc::client::Client;
use store::wire::grpc::{Code, Status};
use store::wire::proto::keyspacepb::{LoadKeyspaceRequest, LoadKeyspaceResponse};
use store::wire::proto::pdpb::{
    ErrorType, GetRegionRequest, GetRegionResponse, RequestHeader, ScanRegionsRequest, ScanRegionsResponse,
};
use store::wire::proto::ringkeep::{OperateRequest, OperateResponse, RegionWish};
use tikv_client::{Config, RawClient};

use crate::grpc::{on_core, serve_pd};
use crate::grpc_client::raw_client_is_served;
use crate::node::{DRAIN, setup};

const LOAD: &str = "/keyspacepb.Keyspace/LoadKeyspace";

fn load(name: &str) -> LoadKeyspaceRequest {
    LoadKeyspaceRequest { header: None, name: name.to_owned() }
}

/// Cuts the region that has `key` there, and waits until the map shows it.
async fn cut(rt: &Rt, pd: SocketAddr, key: Bytes) -> Result<(), Status> {
    let client = Client::connect(rt, pd).await.unwrap();
    let find = GetRegionRequest { region_key: key.clone(), ..GetRegionRequest::default() };
    for asked in 0.. {
        let found: GetRegionResponse = client.unary("/pdpb.PD/GetRegion", &find).await?;
        let region = found.region.expect("a node that serves has reported its regions");
        if region.start_key == key {
            break;
        }
        if asked == 0 {
            let wish = RegionWish::Split.into();
            let request =
                OperateRequest { region: region.id, wish, key: key.clone(), ..OperateRequest::default() };
            client.unary::<OperateResponse>("/ringkeep.Scheduler/Operate", &request).await?;
        }
        rt.sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn user(number: usize) -> Vec<u8> {
    format!("user:{number:010}").into_bytes()
}

fn sent(key: &[u8]) -> Vec<u8> {
    [&keyspace::PREFIX[..], key].concat()
}

#[test]
fn the_raw_client_of_the_keyspace_is_served_wherever_regions_are_cut() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::start_with(setup(dir.path(), 2, None)).unwrap();
    let pd = node.addresses().pd;
    // Others cut their keys where no client of the keyspace could decode the border.
    on_core(move |rt| async move {
        for border in [&b"q1"[..], b"rzz"] {
            cut(&rt, pd, Bytes::from_static(border)).await.unwrap();
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config::default().with_default_keyspace();
    runtime.block_on(raw_client_is_served(pd.to_string(), config.clone()));
    let connect =
        |config| runtime.block_on(RawClient::new_with_config(vec![pd.to_string()], config)).unwrap();
    let client = connect(config);
    // Their first eight bytes are alike, so that a border between them is one inside the second group of the encoding.
    let pairs: Vec<_> = (0..12).map(|number| (user(number), vec![b'v'; number])).collect();
    runtime.block_on(client.batch_put(pairs.clone())).unwrap();
    on_core(move |rt| async move {
        for number in [3, 5, 8] {
            cut(&rt, pd, keyspace::encode(&sent(&user(number))).into()).await.unwrap();
        }
        let refused = cut(&rt, pd, sent(&user(6)).into()).await.unwrap_err();
        assert!(refused.message.contains("keyspace DEFAULT"), "{refused}");
    });
    let rows = |found: Vec<tikv_client::KvPair>| -> Vec<(Vec<u8>, Vec<u8>)> {
        found.into_iter().map(|pair| (pair.0.into(), pair.1)).collect()
    };
    runtime.block_on(async {
        for (key, value) in &pairs {
            assert_eq!(client.get(key.clone()).await.unwrap().as_ref(), Some(value));
            client.put(key.clone(), value.clone()).await.unwrap();
        }
        assert_eq!(
            rows(client.scan(.., 100).await.unwrap()),
            pairs,
            "from one end of the keyspace to the other"
        );
        assert_eq!(rows(client.scan(user(2)..user(9), 100).await.unwrap()), pairs[2..9]);
        assert_eq!(rows(client.scan(user(4)..=user(5), 100).await.unwrap()), pairs[4..=5]);
        let mut found = rows(client.batch_get((0..12).map(user)).await.unwrap());
        found.sort();
        assert_eq!(found, pairs);
        let ranges = vec![user(0)..user(4), user(7)..user(10)];
        assert_eq!(client.batch_scan_keys(ranges, 100).await.unwrap().len(), 7);
        client.delete_range(user(2)..user(9)).await.unwrap();
        let left: Vec<Vec<u8>> =
            client.scan_keys(.., 100).await.unwrap().into_iter().map(Vec::from).collect();
        assert_eq!(left, [0, 1, 9, 10, 11].map(user));
    });
    // To others they are keys like any other, as they are stored; and theirs are none of the keyspace.
    let plain = connect(Config::default());
    runtime.block_on(async {
        plain.put(b"user:".to_vec(), Vec::new()).await.unwrap();
        let keys = plain.scan_keys(b"r".to_vec()..b"rz".to_vec(), 100).await.unwrap();
        let stored: Vec<Vec<u8>> = keys.into_iter().map(Vec::from).collect();
        assert_eq!(stored, [0, 1, 9, 10, 11].map(|number| keyspace::encode(&sent(&user(number)))));
        assert_eq!(client.get(b"user:".to_vec()).await.unwrap(), None);
    });
    drop((client, plain));
    drop(runtime);
    node.drain(DRAIN);
}

#[test]
fn the_keyspace_is_the_only_one_and_is_given_once_it_is_cut_off() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = Node::start_with(setup(dir.path(), 1, None)).unwrap();
    let pd = node.addresses().pd;
    on_core(move |rt| async move {
        cut(&rt, pd, Bytes::from_static(b"q1")).await.unwrap();
        let client = Client::connect(&rt, pd).await.unwrap();
        // The bytes of a request for DEFAULT.
        let body = Bytes::from_static(b"\0\0\0\0\x09\x12\x07DEFAULT");
        let answer = loop {
            match client.unary_raw(LOAD, body.clone(), None).await {
                Ok(answer) => break answer,
                Err(status) => assert_eq!(status.code, Code::Unavailable, "{status}"),
            }
        };
        // Id 0 and state 0 take no bytes, the name has tag 2.
        assert!(answer.ends_with(b"\x12\x09\x12\x07DEFAULT"), "{answer:?}");
        let all: ScanRegionsResponse =
            client.unary("/pdpb.PD/ScanRegions", &ScanRegionsRequest::default()).await.unwrap();
        let starts: Vec<Bytes> =
            all.regions.iter().map(|known| known.region.as_ref().unwrap().start_key.clone()).collect();
        let borders = keyspace::borders();
        assert!(starts.contains(&borders.start.into()) && starts.contains(&borders.end.into()), "{starts:?}");
        let again: LoadKeyspaceResponse = client.unary(LOAD, &load("DEFAULT")).await.unwrap();
        assert_eq!((again.header.unwrap().error, again.keyspace.unwrap().id), (None, 0));
        let other: LoadKeyspaceResponse = client.unary(LOAD, &load("mine")).await.unwrap();
        let error = other.header.expect("clients unwrap it").error.expect("there is none");
        assert_eq!((error.r#type(), other.keyspace), (ErrorType::EntryNotFound, None));
        assert!(error.message.contains("\"mine\"") && error.message.contains("DEFAULT"), "{error:?}");
        let header = Some(RequestHeader { cluster_id: 1, sender_id: 0 });
        let wrong = LoadKeyspaceRequest { header, ..load("DEFAULT") };
        let status = client.unary::<LoadKeyspaceResponse>(LOAD, &wrong).await.unwrap_err();
        assert_eq!(status.code, Code::FailedPrecondition);
    });
    node.drain(DRAIN);
}

#[test]
fn a_keyspace_that_cannot_be_cut_off_yet_is_asked_for_again() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(|rt| async move {
        // No store carries the cut out, and the region ends where no client of the keyspace can decode it.
        let (addr, _control) = serve_pd(&rt, &path, ([127, 0, 0, 1], 20160).into()).await;
        let client = Client::connect(&rt, addr).await.unwrap();
        let status = client.unary::<LoadKeyspaceResponse>(LOAD, &load("DEFAULT")).await.unwrap_err();
        assert_eq!(status.code, Code::Unavailable);
        assert!(status.message.contains("try again"), "{status}");
    });
}
