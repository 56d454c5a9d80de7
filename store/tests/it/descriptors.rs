//! Connections that are refused for want of descriptors hold none that are kept for others, however long their clients stay.

use std::time::Duration;

use store::descriptors::Descriptors;
use store::gateway::Gateway;
use store::wire::resp::Config;

use crate::connection_memory::{ask, serve_counted};
use crate::memory::in_world;
use crate::resp_server::config;

#[test]
fn refused_connections_that_do_not_leave_are_closed() {
    in_world(|rt| async move {
        let places = Descriptors::new(24);
        let config = Config { descriptors: places.clone(), ..config() };
        let (addr, counters) = serve_counted(&rt, &Gateway::in_memory(), config);
        let mut clients = Vec::new();
        for _ in 0..60 {
            clients.push(rt.connect(addr).await.unwrap());
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
