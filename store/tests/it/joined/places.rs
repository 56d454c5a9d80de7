//! A node that clients flood with connections. Those to the PD port take nothing that clients of the stores or the disk need; and whatever
//! they hold on any port, members of the cluster come in.

use std::net::SocketAddr;
use std::time::Duration;

use engine::rt::sim::{Options, World};
use engine::rt::{Rt, Stream};
use store::config::Config;
use store::wire::board::CoreReport;
use store::wire::grpc::client::Client;
use store::wire::pd::client::SchedulerClient;
use store::wire::proto::kvrpcpb::RawGetResponse;
use store::wire::proto::pdpb::{
    self, GetMembersRequest, GetMembersResponse, ScanRegionsRequest, ScanRegionsResponse,
};
use store::wire::proto::ringkeep::{StoresRequest, StoresResponse};

use super::nodes::{Member, PORT, beside, call, stores};
use super::secrets::{SECRET, secret, with_secret};
use crate::connection_memory::ask;
use crate::grpc::{GET, get};

/// More than the port has places for, and fewer than a node with 4096 descriptors has for all of its clients.
const FLOOD: usize = 1500;
/// How many clients are served over RESP beside them: fewer than there are places.
const SERVED: usize = 2500;
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
            for _ in 0..SERVED {
                let mut stream = rt.connect(resp).await.expect("it listens");
                ask(&mut stream, &[b"PING"], b"+PONG\r\n").await;
                streams.push(stream);
            }
            streams.len()
        }
    });
    assert_eq!(served, SERVED, "connections to the PD port took places of other ports");
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

/// What a flood of clients holds open.
#[derive(Debug, Clone, Copy)]
enum Flood {
    Resp,
    Store,
    /// Connections to a store's port that begin as those of its peers do, and end there.
    Preface,
}

/// Opens connections to a node, again and again, and holds all that are served.
async fn flood(rt: Rt, flood: Flood, resp: SocketAddr, store: SocketAddr) {
    let (mut streams, mut clients) = (Vec::new(), Vec::new());
    loop {
        match flood {
            Flood::Resp => {
                let mut stream = rt.connect(resp).await.expect("it listens");
                if stream.write_all(b"PING\r\n").await.is_ok() {
                    streams.push(stream);
                }
            }
            Flood::Preface => {
                let mut stream = rt.connect(store).await.expect("it listens");
                if stream.write_all(b"RKPEER\0\x01").await.is_ok() {
                    streams.push(stream);
                }
            }
            Flood::Store => {
                if let Ok(client) = Client::connect(&rt, store).await {
                    let answer: Result<RawGetResponse, _> = client.unary(GET, &get("absent")).await;
                    clients.extend(answer.is_ok().then_some(client));
                }
            }
        }
        // Those that were refused are gone on this side, too.
        if streams.len() + clients.len() >= 2 * FEW as usize {
            streams.truncate(FEW as usize);
            clients.truncate(FEW as usize);
            rt.sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Descriptors of a node that clients can easily fill.
const FEW: u64 = 300;

/// Two nodes that may have few descriptors, with two replicas of every region.
fn pair(seed: u64, secret: fn(&mut Config)) -> (World, [Member; 2]) {
    let world = World::new(seed, Options::default());
    let mut members = [0, 1].map(|number| Member::new(&world, number, 1));
    for member in &mut members {
        member.open_files = FEW;
        member.change = secret;
        member.node.disk().set_descriptors(FEW);
    }
    members[0].start(&world, &[]).expect("a cluster of one begins");
    let pd = members[0].pd();
    members[1].start(&world, &[pd]).expect("it joins");
    let is_whole = || {
        let scan: Result<ScanRegionsResponse, _> =
            call(&world, pd, "/pdpb.PD/ScanRegions", ScanRegionsRequest::default());
        let regions = scan.expect("the scheduler answers").regions;
        let voters = |known: &pdpb::Region| known.region.as_ref().map_or(0, |region| region.peers.len());
        regions.len() >= 5 && regions.iter().all(|known| voters(known) == 2 && known.pending_peers.is_empty())
    };
    while !is_whole() {
        world.run_for(Duration::from_secs(1));
    }
    world.run_for(Duration::from_secs(5));
    (world, members)
}

fn two_replicas(config: &mut Config) {
    config.replicas = Some(2);
}

fn two_replicas_and_a_secret(config: &mut Config) {
    two_replicas(config);
    with_secret(config);
}

#[test]
fn nodes_link_whatever_clients_hold() {
    for (at, of) in [Flood::Resp, Flood::Store, Flood::Preface].into_iter().enumerate() {
        for change in [two_replicas, two_replicas_and_a_secret] {
            let (world, mut members) = pair(721 + at as u64, change);
            let (resp, store) = (members[0].node.addr(6380), members[0].node.addr(PORT + 1));
            let flooding = world.node(8).start(0, move |rt| flood(rt, of, resp, store));
            world.run_for(Duration::from_secs(10));
            // A quorum is both of them, so nothing is written before they have found each other.
            members[1].end(true);
            world.run_for(Duration::from_secs(5));
            members[1].start(&world, &[]).unwrap_or_else(|why| panic!("{of:?}: {why}"));
            let other = members[1].node.addr(6380);
            let took = beside(&world, move |rt| async move {
                let mut stream = rt.connect(other).await.expect("it listens");
                let began = rt.now();
                for value in [&b"1"[..], b"2"] {
                    while !is_written(&mut stream, value).await {
                        rt.sleep(Duration::from_millis(100)).await;
                        assert!(rt.now().since(began) < Duration::from_secs(60), "{of:?} keeps nodes apart");
                    }
                }
                rt.now().since(began)
            });
            assert!(took < Duration::from_secs(10), "{of:?}: they have found each other after {took:?}");
            assert_eq!(stores(&world, members[0].pd()).len(), 2, "{of:?}: the scheduler answers");
            drop(flooding);
        }
    }
}

/// Writes a key; whether that was done.
async fn is_written(stream: &mut Stream, value: &[u8]) -> bool {
    let command = [b"SET key ", value, b"\r\n"].concat();
    stream.write_all(&command).await.expect("it is open");
    let (mut said, mut buffer) = (Vec::new(), [0; 512]);
    while !said.ends_with(b"\r\n") {
        let bytes = stream.read(&mut buffer).await.expect("it is open");
        assert!(bytes > 0, "it was closed");
        said.extend_from_slice(&buffer[..bytes]);
    }
    said == b"+OK\r\n"
}

/// Descriptors of a node under the smallest limit that hosts set.
const FEWEST: u64 = 256;
/// Clients of each protocol that it has places for together.
const CLIENTS: usize = 20;

/// Opens connections, says this on each, and goes on.
async fn flood_silently(rt: Rt, to: SocketAddr, said: &'static [u8]) {
    let mut held = Vec::new();
    loop {
        let mut stream = rt.connect(to).await.expect("it listens");
        if stream.write_all(said).await.is_ok() {
            held.push(stream);
        }
        if held.len() > 2 * FEWEST as usize {
            rt.sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whatever the port, and although all of these places are shared.
#[test]
fn connections_that_say_nothing_keep_no_client_out() {
    for silent in [Flood::Resp, Flood::Store, Flood::Preface] {
        let world = World::new(731, Options::default());
        let mut member = Member::new(&world, 0, 1);
        member.open_files = FEWEST;
        member.node.disk().set_descriptors(FEWEST);
        member.start(&world, &[]).expect("a cluster of one begins");
        let (resp, store) = (member.node.addr(6380), member.node.addr(PORT + 1));
        let (to, said) = match silent {
            Flood::Resp => (resp, &b""[..]),
            Flood::Store => (store, &b""[..]),
            Flood::Preface => (store, &b"RKPEER\0\x01"[..]),
        };
        let flooding = world.node(8).start(0, move |rt| flood_silently(rt, to, said));
        world.run_for(Duration::from_secs(5));
        let served = beside(&world, move |rt| async move {
            let (mut streams, mut clients) = (Vec::new(), Vec::new());
            for _ in 0..CLIENTS {
                let mut stream = rt.connect(resp).await.expect("it listens");
                ask(&mut stream, &[b"PING"], b"+PONG\r\n").await;
                streams.push(stream);
                let client = Client::connect(&rt, store).await.expect("it has a place");
                let answer: Result<RawGetResponse, _> = client.unary(GET, &get("absent")).await;
                answer.unwrap_or_else(|status| panic!("{silent:?} keeps clients out: {status:?}"));
                clients.push(client);
            }
            rt.sleep(Duration::from_secs(2)).await;
            for stream in &mut streams {
                ask(stream, &[b"PING"], b"+PONG\r\n").await;
            }
            (streams.len(), clients.len())
        });
        assert_eq!(served, (CLIENTS, CLIENTS));
        drop(flooding);
    }
}
