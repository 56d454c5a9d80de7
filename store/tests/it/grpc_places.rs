//! Which connections keep their place on a gRPC port that has no more: those that have asked for something, up to a number of clients.

use std::time::Duration;

use engine::rt::Rt;
use store::descriptors::Descriptors;
use store::wire::grpc::Options;
use store::wire::grpc::client::Client;

use crate::grpc::serve_tikv;
use crate::grpc_faults::{PREFACE, SETTINGS, closed, raw, still_serves};
use crate::memory::in_world;
use crate::page;

const REFUSED: &str = "ringkeep_grpc_connections_refused_total";
const OPEN: &str = "ringkeep_grpc_connections";

/// Whether the server closes the connection within this time.
async fn is_closed_within(rt: &Rt, stream: &mut engine::rt::Stream, time_max: Duration) -> bool {
    let ended = async {
        let mut buffer = [0; 512];
        while let Ok(1..) = stream.read(&mut buffer).await {}
    };
    rt.timeout(time_max, ended).await.is_some()
}

#[test]
fn the_oldest_connection_that_has_asked_for_nothing_gives_way() {
    in_world(|rt| async move {
        let places = Descriptors::without_reasons(4);
        let options = Options { descriptors: places.clone(), ..Options::default() };
        let (addr, server, _) = serve_tikv(&rt, options);
        let kept = Client::connect(&rt, addr).await.unwrap();
        still_serves(&kept).await;
        // One has said nothing, one has begun, and one has shaken hands and asks for nothing.
        let mut streams = Vec::new();
        for said in [&b""[..], &PREFACE[..10], &[PREFACE, SETTINGS].concat()] {
            streams.push(raw(&rt, addr, said).await);
            rt.sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((places.taken(), page::of_grpc(&server, REFUSED)), (4, 0.0));
        let mut clients = Vec::new();
        for (number, mut oldest) in streams.into_iter().enumerate() {
            let client = Client::connect(&rt, addr).await.unwrap();
            still_serves(&client).await;
            clients.push(client);
            let is_gone = is_closed_within(&rt, &mut oldest, Duration::from_millis(10)).await;
            assert!(is_gone, "the one before the last {number} has its place");
            assert_eq!(page::of_grpc(&server, REFUSED), (number + 1) as f64);
            assert_eq!((places.taken(), page::of_grpc(&server, OPEN)), (4, 4.0));
        }
        // All have asked for something now.
        assert_eq!(closed(raw(&rt, addr, b"").await).await, b"");
        assert_eq!(page::of_grpc(&server, REFUSED), 4.0);
        for client in clients.iter().chain([&kept]) {
            still_serves(client).await;
        }
        assert_eq!(page::of_grpc(&server, "ringkeep_grpc_broken_total"), 0.0, "they broke nothing");
        drop((clients, kept));
        rt.sleep(Duration::from_secs(1)).await;
        assert_eq!((places.taken(), page::of_grpc(&server, OPEN)), (0, 0.0));
    });
}

#[test]
fn one_client_too_many_is_served_until_others_come() {
    in_world(|rt| async move {
        let options = Options { connections_max: 3, clients_max: 2, ..Options::default() };
        let (addr, server, _) = serve_tikv(&rt, options);
        let mut clients = Vec::new();
        for _ in 0..3 {
            let client = Client::connect(&rt, addr).await.unwrap();
            still_serves(&client).await;
            clients.push(client);
        }
        let further = Client::connect(&rt, addr).await.unwrap();
        still_serves(&further).await;
        assert_eq!(page::of_grpc(&server, REFUSED), 1.0, "the third one gave way");
        for client in &clients[..2] {
            still_serves(client).await;
        }
        // Where a client leaves, the next one has what it had.
        drop(clients);
        rt.sleep(Duration::from_secs(1)).await;
        still_serves(&further).await;
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(raw(&rt, addr, b"").await);
            rt.sleep(Duration::from_millis(10)).await;
        }
        still_serves(&further).await;
        assert_eq!(page::of_grpc(&server, OPEN), 3.0);
    });
}
