//! Connections that are refused for want of descriptors hold none that are kept for others, however long their clients stay. Where the
//! process has no descriptor left at all, the listeners of both protocols wait for one without keeping their core busy.

use std::time::Duration;

use engine::rt::Rt;
use engine::rt::sim::{Options, World};

use store::descriptors::Descriptors;
use store::gateway::Gateway;
use store::wire::grpc;
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::RawGetResponse;
use store::wire::resp::Config;

use crate::connection_memory::{ask, serve_counted};
use crate::grpc::{GET, get, serve_tikv};
use crate::memory::in_world;
use crate::page;
use crate::resp_server::config;

#[test]
fn refused_connections_that_do_not_leave_are_closed() {
    in_world(|rt| async move {
        let places = Descriptors::new(24);
        let config = Config { descriptors: places.clone(), ..config() };
        let (addr, counters) = serve_counted(&rt, &Gateway::in_memory(), config);
        let mut clients = Vec::new();
        for number in 0..60 {
            let mut client = rt.connect(addr).await.unwrap();
            if number < 21 {
                ask(&mut client, &[b"PING"], b"+PONG\r\n").await;
            }
            clients.push(client);
        }
        rt.sleep(Duration::from_millis(100)).await;
        // An eighth of the places is for those that hear why, and whoever finds none is closed at once.
        assert_eq!((places.taken(), places.refused(), counters.refused.get()), (21, 3, 39));
        rt.sleep(Duration::from_secs(5)).await;
        assert_eq!(
            (places.taken(), places.refused()),
            (21, 0),
            "a refused client stays for as long as it likes"
        );
        for served in &mut clients[..21] {
            ask(served, &[b"PING"], b"+PONG\r\n").await;
        }
        drop(clients);
        rt.sleep(Duration::from_secs(1)).await;
        assert_eq!((places.taken(), places.refused()), (0, 0));
    });
}

/// How often a listener may try to accept in the second in which no descriptor is left.
const ATTEMPTS_MAX: u64 = 200;

/// Takes every descriptor from the node for a second, in which `work` begins, and expects it to end once there are some again. How often
/// a connection was tried to be accepted meanwhile.
fn without_descriptors<W: Future<Output = ()> + 'static>(work: impl FnOnce(Rt) -> W + 'static) -> u64 {
    let world = World::new(56, Options::default());
    let node = world.node(0);
    let with = node.clone();
    let running = node.start(0, move |rt| async move {
        with.disk().set_descriptors(0);
        let (later, free) = (rt.clone(), with.clone());
        rt.spawn(async move {
            later.sleep(Duration::from_secs(1)).await;
            free.disk().set_descriptors(u64::MAX);
        });
        let began = rt.now();
        work(rt.clone()).await;
        assert!(rt.now().since(began) >= Duration::from_secs(1), "it was served without a descriptor");
    });
    world.block_on(running).expect("it is served in the end");
    world.net_stats().accepts_failed
}

#[test]
fn a_resp_listener_without_descriptors_pauses_and_serves_afterwards() {
    let attempts = without_descriptors(|rt| async move {
        let (addr, counters) = serve_counted(&rt, &Gateway::in_memory(), config());
        let mut client = rt.connect(addr).await.unwrap();
        ask(&mut client, &[b"PING"], b"+PONG\r\n").await;
        let failed = page::of_resp(&counters, "ringkeep_resp_accept_faults_total");
        assert!((10.0..=ATTEMPTS_MAX as f64).contains(&failed), "{failed} failed attempts are counted");
    });
    assert!((10..=ATTEMPTS_MAX).contains(&attempts), "{attempts} attempts in a second");
}

#[test]
fn a_grpc_listener_without_descriptors_pauses_and_serves_afterwards() {
    let attempts = without_descriptors(|rt| async move {
        let (addr, server, _) = serve_tikv(&rt, grpc::Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let answer: RawGetResponse = client.unary(GET, &get("absent")).await.unwrap();
        assert!(answer.not_found);
        let failed = page::of_grpc(&server, "ringkeep_grpc_accept_faults_total");
        assert!((10.0..=ATTEMPTS_MAX as f64).contains(&failed), "{failed} failed attempts are counted");
    });
    assert!((10..=ATTEMPTS_MAX).contains(&attempts), "{attempts} attempts in a second");
}
