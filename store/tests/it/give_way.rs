//! Connections that have asked for nothing keep no client out, whichever port they and the newcomer have come to.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::rt::sim::{Options as WorldOptions, World};
use engine::rt::{Rt, Stream};
use store::descriptors::Descriptors;
use store::gateway::Gateway;
use store::wire::grpc::client::Client;
use store::wire::grpc::{Handle, Options};
use store::wire::resp::{Config, Counters};

use crate::connection_memory::{ask, serve_counted};
use crate::grpc::serve_tikv;
use crate::grpc_faults::{PREFACE, SETTINGS, closed, raw, still_serves};
use crate::memory::in_world;
use crate::page;
use crate::resp_server::config;

/// Descriptors for connections, of which three are for those that are refused.
const PLACES: usize = 24;
/// Those that are left.
const SERVED: usize = 21;

/// A RESP port and one of a store that share places.
struct Ports {
    rt: Rt,
    places: Descriptors,
    resp: SocketAddr,
    counters: Rc<Counters>,
    store: SocketAddr,
    server: Handle,
}

impl Ports {
    fn open(rt: &Rt, password: Option<&str>) -> Self {
        let places = Descriptors::new(PLACES);
        let config =
            Config { descriptors: places.clone(), password: password.map(str::to_owned), ..config() };
        let (resp, counters) = serve_counted(rt, &Gateway::in_memory(), config);
        let options = Options { descriptors: places.clone(), ..Options::default() };
        let (store, server, _) = serve_tikv(rt, options);
        Self { rt: rt.clone(), places, resp, counters, store, server }
    }

    /// As many connections as there are places, on which no more is said than this.
    async fn fill(&self, addr: SocketAddr, said: &[u8]) -> Vec<Stream> {
        let mut silent = Vec::new();
        for _ in 0..SERVED {
            silent.push(raw(&self.rt, addr, said).await);
        }
        self.rt.sleep(Duration::from_millis(50)).await;
        assert_eq!(self.places.taken(), SERVED);
        silent
    }

    /// A RESP client that is answered.
    async fn resp_client(&self) -> Stream {
        let mut client = self.rt.connect(self.resp).await.unwrap();
        ask(&mut client, &[b"PING"], b"+PONG\r\n").await;
        client
    }

    async fn store_client(&self) -> Client {
        let client = Client::connect(&self.rt, self.store).await.unwrap();
        still_serves(&client).await;
        client
    }

    /// Clients of both ports, one after the other, until all places are theirs; then none is left for one more, and all are served still.
    async fn fill_with_clients(&self) {
        let (mut of_resp, mut of_store) = (Vec::new(), Vec::new());
        for _ in 0..SERVED / 2 {
            of_resp.push(self.resp_client().await);
            of_store.push(self.store_client().await);
            assert_eq!(self.places.taken(), SERVED);
        }
        of_resp.push(self.resp_client().await);
        let mut beyond = self.rt.connect(self.resp).await.unwrap();
        ask(&mut beyond, &[b"PING"], b"-ERR max number of clients reached\r\n").await;
        assert_eq!(closed(raw(&self.rt, self.store, b"").await).await, b"", "there is no place for it");
        for client in &mut of_resp {
            ask(client, &[b"PING"], b"+PONG\r\n").await;
        }
        for client in &of_store {
            still_serves(client).await;
        }
        drop((of_resp, of_store, beyond));
        self.rt.sleep(Duration::from_secs(3)).await;
        assert_eq!((self.places.taken(), self.places.refused()), (0, 0));
    }
}

#[test]
fn silent_connections_to_a_store_keep_no_client_out() {
    for said in [&b""[..], &PREFACE[..10], &[PREFACE, SETTINGS].concat()] {
        let said = said.to_vec();
        in_world(|rt| async move {
            let ports = Ports::open(&rt, None);
            let silent = ports.fill(ports.store, &said).await;
            ports.fill_with_clients().await;
            let gone = page::of_grpc(&ports.server, "ringkeep_grpc_connections_refused_total");
            assert!(gone >= SERVED as f64, "{gone} gave way");
            drop(silent);
        });
    }
}

#[test]
fn silent_connections_to_the_resp_port_keep_no_client_out() {
    for said in [&b""[..], b"*1\r\n$4\r\nPI"] {
        in_world(move |rt| async move {
            let ports = Ports::open(&rt, None);
            let silent = ports.fill(ports.resp, said).await;
            ports.fill_with_clients().await;
            let gone = page::of_resp(&ports.counters, "ringkeep_resp_connections_refused_total");
            assert!(gone >= SERVED as f64, "{gone} gave way");
            drop(silent);
        });
    }
}

/// The bound of RESP alone is shared with no other port, so it is one of its own that gives way.
#[test]
fn silent_connections_to_the_resp_port_keep_no_client_out_of_it() {
    in_world(|rt| async move {
        let places = Descriptors::new(1000);
        let config = Config { descriptors: places.clone(), connections_max: SERVED, ..config() };
        let (resp, _counters) = serve_counted(&rt, &Gateway::in_memory(), config);
        let (store, _server, _) =
            serve_tikv(&rt, Options { descriptors: places.clone(), ..Options::default() });
        // It is older than those of RESP.
        let of_store = raw(&rt, store, b"").await;
        rt.sleep(Duration::from_millis(10)).await;
        let mut silent = Vec::new();
        for _ in 0..SERVED {
            silent.push(raw(&rt, resp, b"").await);
        }
        rt.sleep(Duration::from_millis(10)).await;
        let mut clients = Vec::new();
        for _ in 0..SERVED {
            let mut client = rt.connect(resp).await.unwrap();
            ask(&mut client, &[b"PING"], b"+PONG\r\n").await;
            clients.push(client);
            assert_eq!(places.taken(), SERVED + 1);
        }
        let mut beyond = rt.connect(resp).await.unwrap();
        ask(&mut beyond, &[b"PING"], b"-ERR max number of clients reached\r\n").await;
        assert_eq!(places.taken(), SERVED + 1, "one of the store's port has given way");
        drop((of_store, silent));
    });
}

/// Whoever has not given the password has not asked, whatever it says.
#[test]
fn clients_without_the_password_keep_no_client_out() {
    in_world(|rt| async move {
        let ports = Ports::open(&rt, Some("secret"));
        let strangers = ports.fill(ports.resp, b"PING\r\n").await;
        for _ in 0..SERVED {
            drop(ports.store_client().await);
        }
        let mut client = rt.connect(ports.resp).await.unwrap();
        ask(&mut client, &[b"AUTH", b"secret"], b"+OK\r\n").await;
        let further = ports.fill_more(b"PING\r\n").await;
        ask(&mut client, &[b"PING"], b"+PONG\r\n").await;
        drop((strangers, further));
    });
}

impl Ports {
    /// More RESP connections than there are places.
    async fn fill_more(&self, said: &[u8]) -> Vec<Stream> {
        let mut silent = Vec::new();
        for _ in 0..2 * SERVED {
            let mut stream = self.rt.connect(self.resp).await.unwrap();
            // Whoever was refused may be gone.
            let _ = stream.write_all(said).await;
            silent.push(stream);
            self.rt.sleep(Duration::from_millis(5)).await;
        }
        silent
    }
}

/// The one that gives way is on another core than the newcomer.
#[test]
fn a_connection_gives_way_to_one_of_another_core() {
    let world = World::new(61, WorldOptions::default());
    let node = world.node(0);
    let places = Descriptors::new(PLACES);
    let addr: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let (shared, known) = (places.clone(), addr.clone());
    let other = node.start(1, |rt| async move {
        let options = Options { descriptors: shared, ..Options::default() };
        let (store, _server, _) = serve_tikv(&rt, options);
        *known.lock().unwrap() = Some(store);
        let mut silent = Vec::new();
        for _ in 0..SERVED {
            silent.push(raw(&rt, store, b"").await);
        }
        rt.sleep(Duration::from_secs(3600)).await;
        drop(silent);
    });
    world.run_until(Duration::from_secs(5), || places.taken() == SERVED);
    let shared = places.clone();
    let one = node.start(0, |rt| async move {
        let config = Config { descriptors: shared.clone(), ..config() };
        let (resp, _counters) = serve_counted(&rt, &Gateway::in_memory(), config);
        let mut clients = Vec::new();
        for _ in 0..SERVED {
            let mut client = rt.connect(resp).await.unwrap();
            ask(&mut client, &[b"PING"], b"+PONG\r\n").await;
            clients.push(client);
            assert_eq!(shared.taken(), SERVED);
        }
        clients.len()
    });
    assert_eq!(world.block_on(one), Some(SERVED));
    drop(other);
}
