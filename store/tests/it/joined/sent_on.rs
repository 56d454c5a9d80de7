//! The PD port of a node that does not host the scheduler: clients that know only this address are served by it.

use std::net::SocketAddr;
use std::time::Duration;

use engine::rt::sim::World;
use store::wire::grpc::client::Client;
use store::wire::grpc::{Code, Status, frame};
use store::wire::proto::pdpb::{
    AllocIdRequest, AllocIdResponse, GetMembersRequest, GetMembersResponse, GetStoreRequest,
    GetStoreResponse, QueryRegionRequest, QueryRegionResponse, RegionHeartbeatRequest,
    RegionHeartbeatResponse, ScanRegionsRequest, ScanRegionsResponse, TsoRequest, TsoResponse,
};
use store::wire::proto::ringkeep::{ForwardRequest, ForwardResponse};

use super::nodes::{beside, call};
use super::three;

/// Sends `requests` over one stream and returns what comes back, up to the status that ends it.
fn stream<A: prost::Message + Default + 'static>(
    world: &World,
    addr: SocketAddr,
    path: &'static str,
    requests: Vec<impl prost::Message + 'static>,
) -> (Vec<A>, Result<(), Status>) {
    beside(world, move |rt| async move {
        let client = Client::connect(&rt, addr).await.expect("the port takes connections");
        let mut open = client.open(path).await.expect("a stream begins");
        for request in &requests {
            open.outbox.send(frame(request)).await.expect("it is taken");
        }
        let mut answers = Vec::new();
        while answers.len() < requests.len() {
            match open.inbox.next().await {
                Ok(Some(message)) => answers.push(A::decode(message.bytes).expect("an answer")),
                Ok(None) => return (answers, open.finish().await.map(drop)),
                Err(status) => return (answers, Err(status)),
            }
        }
        (answers, Ok(()))
    })
}

/// The smallest and the largest timestamp of each of two calls of one stream.
fn timestamps(world: &World, addr: SocketAddr) -> Vec<(i64, i64)> {
    let ask = |count| TsoRequest { count, ..TsoRequest::default() };
    let (answers, _) = stream::<TsoResponse>(world, addr, "/pdpb.PD/Tso", vec![ask(1), ask(64)]);
    assert_eq!(answers.iter().map(|answer| answer.count).collect::<Vec<_>>(), [1, 64]);
    let ends = answers.iter().flat_map(|answer| {
        let largest = answer.timestamp.expect("there is one");
        let first = largest.logical - i64::from(answer.count) + 1;
        [(largest.physical, first), (largest.physical, largest.logical)]
    });
    ends.collect()
}

#[test]
fn any_node_answers_what_only_the_scheduler_knows() {
    let (world, members) = three(72);
    let [host, other] = [members[0].pd(), members[1].pd()];
    let who = |addr| {
        call::<GetMembersResponse>(&world, addr, "/pdpb.PD/GetMembers", GetMembersRequest::default())
            .expect("any member says who hosts the scheduler")
    };
    assert_eq!(who(other), who(host));
    assert_eq!(who(other).leader.expect("there is one").client_urls, [format!("http://{host}")]);
    let (mut last_id, mut last) = (0, (0, 0));
    for addr in [other, host, members[2].pd(), other] {
        let ids = AllocIdRequest { count: 3, ..AllocIdRequest::default() };
        let given: AllocIdResponse = call(&world, addr, "/pdpb.PD/AllocID", ids).expect("ids");
        assert!(given.id >= last_id + 3, "{} after {last_id}", given.id);
        last_id = given.id;
        for pair in timestamps(&world, addr).chunks(2) {
            assert!(pair[0] > last, "{pair:?} after {last:?}");
            last = pair[1];
        }
    }
    let scan = |addr| {
        call::<ScanRegionsResponse>(&world, addr, "/pdpb.PD/ScanRegions", ScanRegionsRequest::default())
    };
    assert_eq!(scan(other), scan(host));
    let ask = QueryRegionRequest { keys: vec!["a".into(), "z".into()], ..QueryRegionRequest::default() };
    let regions = |addr| {
        let (answers, _) = stream::<QueryRegionResponse>(
            &world,
            addr,
            "/pdpb.PD/QueryRegion",
            vec![ask.clone(), ask.clone()],
        );
        answers
    };
    assert_eq!(regions(other), regions(host));
    assert!(regions(other)[1].key_id_map.iter().all(|id| *id != 0));
}

/// A refusal is the scheduler's, word for word, and nothing is sent in a circle.
#[test]
fn a_refusal_comes_back_as_it_was_said() {
    let (world, mut members) = three(74);
    let [host, other] = [members[0].pd(), members[1].pd()];
    let store = GetStoreRequest { store_id: 77, ..GetStoreRequest::default() };
    let refused = call::<GetStoreResponse>(&world, other, "/pdpb.PD/GetStore", store).unwrap_err();
    assert_eq!((refused.code, &refused.message[..]), (Code::Unknown, "invalid store ID 77, not found"));
    let report = vec![RegionHeartbeatRequest::default()];
    let (_, ended) = stream::<RegionHeartbeatResponse>(&world, other, "/pdpb.PD/RegionHeartbeat", report);
    assert_eq!(ended.unwrap_err().code, Code::PermissionDenied);
    let forward = |path: &str| ForwardRequest { path: path.to_owned(), message: bytes::Bytes::new() };
    let send = |addr, path| {
        call::<ForwardResponse>(&world, addr, "/ringkeep.Scheduler/Forward", forward(path)).unwrap_err()
    };
    let twice = send(other, "/pdpb.PD/GetMembers");
    assert!(twice.code == Code::Unavailable && twice.message.contains(&host.to_string()), "{twice}");
    for path in ["/ringkeep.Scheduler/Forward", "/grpc.health.v1.Health/Check", "/no.Such/Method"] {
        assert_eq!(send(host, path).code, Code::Unimplemented, "{path}");
    }
    // Two of three are gone, so no other one hosts it.
    members[0].end(true);
    members[2].end(true);
    world.run_for(Duration::from_secs(1));
    let gone = call::<AllocIdResponse>(&world, other, "/pdpb.PD/AllocID", AllocIdRequest::default());
    let gone = gone.unwrap_err();
    assert!(gone.code == Code::Unavailable && gone.message.contains("is not served"), "{gone}");
}
