//! The PD port of a node that others flood with connections: they take nothing that clients of the stores or the disk need, and members of
//! the cluster come in.

use std::time::Duration;

use engine::rt::Stream;
use engine::rt::sim::{Options, World};
use store::wire::board::CoreReport;
use store::wire::grpc::client::Client;
use store::wire::pd::client::SchedulerClient;
use store::wire::proto::pdpb::{GetMembersRequest, GetMembersResponse};
use store::wire::proto::ringkeep::{StoresRequest, StoresResponse};

use super::nodes::{Member, beside, stores};
use super::secrets::{SECRET, secret, with_secret};
use crate::connection_memory::ask;

/// More than the port has places for, and fewer than a node with 4096 descriptors has for all of its clients.
const FLOOD: usize = 1500;
/// Of 4096 descriptors an eighth of what storage leaves.
const PLACES: usize = (4096 - 96 - 320) / 8;

/// What the scheduler shard of a node reports.
fn pd_port(member: &Member) -> CoreReport {
    let started = member.said().expect("it is up").expect("it has started");
    started.board.read().pop().expect("the last slot is that of the scheduler shard")
}

/// A cluster of one with a secret.
fn one(seed: u64) -> (World, Member) {
    let world = World::new(seed, Options::default());
    let mut member = Member::new(&world, 0, 1);
    member.change = with_secret;
    member.start(&world, &[]).expect("a cluster of one begins");
    (world, member)
}

#[test]
fn silent_connections_take_places_of_the_pd_port_alone_and_not_for_long() {
    let (world, member) = one(711);
    let pd = member.pd();
    let flood = world.node(8).start(0, move |rt| async move {
        let mut held = Vec::new();
        for _ in 0..FLOOD {
            held.push(rt.connect(pd).await.expect("the system takes it"));
        }
        rt.sleep(Duration::from_secs(3600)).await;
        held.len()
    });
    world.run_for(Duration::from_secs(5));
    let full = pd_port(&member);
    assert_eq!((full.grpc.connections, full.grpc_connections_max), (PLACES, PLACES as u64));
    assert_eq!(full.grpc.turned_away, (FLOOD - PLACES) as u64, "those beyond gave way, and are counted");
    // RESP and the store have what they have without.
    let served = beside(&world, {
        let resp = member.node.addr(6380);
        move |rt| async move {
            let mut streams: Vec<Stream> = Vec::new();
            for _ in 0..2 * FLOOD {
                let mut stream = rt.connect(resp).await.expect("it listens");
                ask(&mut stream, &[b"PING"], b"+PONG\r\n").await;
                streams.push(stream);
            }
            streams.len()
        }
    });
    assert_eq!(served, 2 * FLOOD, "connections to the PD port took places of other ports");
    world.run_for(Duration::from_secs(15));
    let silent = pd_port(&member).grpc.connections;
    assert!(silent < 10, "{silent} connections that never said anything are open");
    drop(flood);
}

#[test]
fn members_come_in_whatever_clients_hold() {
    let (world, member) = one(712);
    let pd = member.pd();
    // Every one of them has been answered, and stays.
    let clients = world.node(8).start(0, move |rt| async move {
        let mut held = Vec::new();
        for _ in 0..FLOOD {
            let client = Client::connect(&rt, pd).await;
            let Ok(client) = client else { continue };
            let request = GetMembersRequest::default();
            let answer: Result<GetMembersResponse, _> = client.unary("/pdpb.PD/GetMembers", &request).await;
            held.extend(answer.is_ok().then_some(client));
        }
        rt.sleep(Duration::from_secs(3600)).await;
        held.len()
    });
    world.run_for(Duration::from_secs(20));
    assert_eq!(pd_port(&member).grpc.connections, PLACES);
    let mut joins = Member::new(&world, 1, 1);
    joins.change = with_secret;
    joins.start(&world, &[pd]).expect("a node joins meanwhile");
    assert_eq!(stores(&world, joins.pd()).len(), 2);
    // It goes on reporting over the connection that it has, and operators are answered.
    for _ in 0..5 {
        world.run_for(Duration::from_secs(10));
        let asked = beside(&world, move |rt| async move {
            let operator = SchedulerClient::by_way_of(&rt, [pd], Some(secret(SECRET)));
            operator.call::<StoresResponse>("/ringkeep.Scheduler/Stores", &StoresRequest::default()).await
        });
        let said = asked.expect("an operator is answered").stores;
        assert!(said.iter().all(|store| store.silent_ms < 5_000), "{said:?}");
    }
    // What an operator had is free.
    assert!(pd_port(&member).grpc.connections >= PLACES - 1, "the test does not test");
    drop(clients);
}
