//! A node of one store on one core, and what an operator does with one: clients of both protocols, a split, a drain, a kill, a restart.

use bench::sim::callers::anywhere;
use bytes::Bytes;
use engine::rt::sim::{Options, World};
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::{Context, RawGetRequest, RawGetResponse, RawPutRequest, RawPutResponse};
use store::wire::proto::pdpb::{
    GetRegionRequest, GetRegionResponse, ScanRegionsRequest, ScanRegionsResponse, TsoRequest, TsoResponse,
};
use store::wire::proto::ringkeep::{OperateRequest, OperateResponse, RegionWish};

use super::nodes::{Member, beside, call};

const RESP_PORT: u16 = 6380;

fn resp(world: &World, member: &Member, commands: &[&[&str]]) -> Vec<String> {
    let addr = member.node.addr(RESP_PORT);
    let commands: Vec<Vec<String>> =
        commands.iter().map(|words| words.iter().map(|word| (*word).to_owned()).collect()).collect();
    beside(world, move |rt| anywhere::commands(rt, addr, commands))
}

fn regions(world: &World, member: &Member) -> usize {
    let all = ScanRegionsRequest::default();
    let known: ScanRegionsResponse =
        call(world, member.pd(), "/pdpb.PD/ScanRegions", all).expect("they are listed");
    known.regions.len()
}

/// Writes a key as a client with a map does, and reads it.
fn grpc(world: &World, member: &Member, value: &'static str) {
    let (pd, store) = (member.pd(), member.node.addr(super::nodes::PORT + 1));
    let read: Bytes = beside(world, move |rt| async move {
        let scheduler = Client::connect(&rt, pd).await.expect("it listens");
        let request = GetRegionRequest { region_key: "mine".into(), ..GetRegionRequest::default() };
        let found: GetRegionResponse = scheduler.unary("/pdpb.PD/GetRegion", &request).await.expect("known");
        let region = found.region.expect("every key has one");
        let context = Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: region.peers.first().copied(),
            ..Context::default()
        };
        let client = Client::connect(&rt, store).await.expect("it listens");
        let put = RawPutRequest {
            context: Some(context),
            key: "mine".into(),
            value: value.into(),
            ..RawPutRequest::default()
        };
        let done: RawPutResponse = client.unary("/tikvpb.Tikv/RawPut", &put).await.expect("an answer");
        assert_eq!(done, RawPutResponse::default());
        let get = RawGetRequest { context: put.context, key: put.key.clone(), ..RawGetRequest::default() };
        let found: RawGetResponse = client.unary("/tikvpb.Tikv/RawGet", &get).await.expect("an answer");
        found.value
    });
    assert_eq!(read, value);
}

/// A timestamp, which needs the scheduler's state.
fn timestamp(world: &World, member: &Member) -> i64 {
    let pd = member.pd();
    beside(world, move |rt| async move {
        let client = Client::connect(&rt, pd).await.expect("it listens");
        let mut stream = client.open("/pdpb.PD/Tso").await.expect("it is served");
        let request = TsoRequest { count: 1, ..TsoRequest::default() };
        stream.outbox.send(store::wire::grpc::frame(&request)).await.expect("it is read");
        let bytes = stream.inbox.next().await.expect("no error").expect("an answer").bytes;
        let answer: TsoResponse = prost::Message::decode(bytes).expect("a message");
        answer.timestamp.expect("one was asked for").physical
    })
}

#[test]
fn a_node_of_one_core_does_all_that_a_node_does() {
    let world = World::new(95, Options::default());
    let mut alone = Member::new(&world, 0, 1);
    alone.start(&world, &[]).expect("a cluster of one begins");
    let (mut counted, mut latest) = (0, 0);
    for life in 1..=4 {
        counted += 2;
        let said = resp(&world, &alone, &[&["INCR", "n"], &["INCR", "n"], &["MSET", "a", "1", "zz", "2"]]);
        assert_eq!(
            said,
            [format!(":{}", counted - 1), format!(":{counted}"), "+OK".to_owned()],
            "life {life}"
        );
        grpc(&world, &alone, ["one", "two", "three", "four"][life - 1]);
        let now = timestamp(&world, &alone);
        assert!(now > latest, "life {life}: {now} after {latest}");
        latest = now;
        let before = regions(&world, &alone);
        let border = ["!", "#", "%", "'"][life - 1];
        let request = GetRegionRequest { region_key: border.into(), ..GetRegionRequest::default() };
        let found: GetRegionResponse =
            call(&world, alone.pd(), "/pdpb.PD/GetRegion", request).expect("it is known");
        let wish = OperateRequest {
            region: found.region.expect("every key has one").id,
            wish: RegionWish::Split.into(),
            key: border.into(),
            ..OperateRequest::default()
        };
        call::<OperateResponse>(&world, alone.pd(), "/ringkeep.Scheduler/Operate", wish)
            .expect("it is taken");
        world.run_for(std::time::Duration::from_secs(5));
        assert_eq!(regions(&world, &alone), before + 1, "life {life}");
        let said = resp(&world, &alone, &[&["GET", "n"], &["GET", "a"], &["GET", "zz"], &["GET", "mine"]]);
        assert_eq!(said[..3], [counted.to_string(), "1".to_owned(), "2".to_owned()], "life {life}");
        match life % 2 {
            0 => alone.end(true),
            _ => alone.drain(&world),
        }
        alone.start(&world, &[]).unwrap_or_else(|why| panic!("after life {life}: {why}"));
        world.run_for(std::time::Duration::from_secs(3));
        assert_eq!(regions(&world, &alone), before + 1, "after life {life}");
    }
}
