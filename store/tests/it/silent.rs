//! A node that ends while connections are open on which nothing is said: it waits for none of them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use store::config::Config;
use store::secret::ClusterSecret;
use store::wire::peer::open::Purpose;

use crate::grpc_faults::{PREFACE, SETTINGS};
use crate::real::{self, ROOT};

/// What a connection of a node to the PD port begins with.
const NODE: &[u8] = b"RKNODE\0\x01";

/// How long a node takes to end that has one connection to each of its ports, on which `said` was sent.
async fn drained(rt: Rt, said: Vec<u8>) -> Duration {
    let mut setup = real::setup(Path::new("/data"));
    let secret = ClusterSecret::parse("what all nodes of the cluster share").expect("it is long enough");
    setup.config = Config { cluster_secret: Some(secret), ..setup.config };
    let real = real::start(&rt, setup).await.expect("it starts");
    let mut streams = Vec::new();
    let addresses = &real.started.addresses;
    let ports: Vec<SocketAddr> =
        [addresses.pd, addresses.resp].into_iter().chain(addresses.stores.clone()).collect();
    for port in ports {
        let mut stream = rt.connect(port).await.expect("it listens");
        stream.write_all(&said).await.expect("a socket");
        streams.push(stream);
    }
    rt.sleep(Duration::from_millis(100)).await;
    let began = rt.now();
    real.drain().await;
    rt.now().since(began)
}

#[test]
fn a_drain_waits_for_no_connection_that_says_nothing() {
    let began: [&[u8]; 9] = [
        b"",
        b"*3\r\n$3\r\nSET\r\n$1",
        &PREFACE[..10],
        PREFACE,
        &[PREFACE, SETTINGS].concat(),
        &NODE[..4],
        NODE,
        &Purpose::Messages.preface()[..4],
        Purpose::Messages.preface(),
    ];
    for said in began.map(<[u8]>::to_vec) {
        let (world, what) = (World::new(94, Options::default()), String::from_utf8_lossy(&said).into_owned());
        let took = world.block_on(world.node(0).start(ROOT, move |rt| drained(rt, said))).expect("it ends");
        // A client that has shaken hands may take a second to hear that its connection ends, at the stores and then at the PD port.
        let time_max = if what.contains("SM\r\n\r\n") { 2500 } else { 500 };
        assert!(took < Duration::from_millis(time_max), "{took:?} with {what:?}");
    }
}
