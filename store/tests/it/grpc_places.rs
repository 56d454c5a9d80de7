//! Which connections keep their place on a gRPC port that has no more: those that have asked for something, up to a number of clients.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::{ListenOptions, Mono, Rt, Stream};
use store::descriptors::Descriptors;
use store::wire::grpc::client::Client;
use store::wire::grpc::{self, CallOutbox, CallShape, Code, Gate, Guest, Inbox, Options, Service, Status};

use crate::grpc::{loopback, serve_tikv};
use crate::grpc_faults::{PREFACE, SETTINGS, closed, raw, still_serves};
use crate::memory::in_world;
use crate::page;

const REFUSED: &str = "ringkeep_grpc_connections_refused_total";
const OPEN: &str = "ringkeep_grpc_connections";

/// Whether the server closes the connection within this time.
async fn is_closed_within(rt: &Rt, stream: &mut Stream, time_max: Duration) -> bool {
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

/// What a connection of the guest begins with.
const PEER: &[u8] = b"PEER";
/// What proves that it is one.
const PROOF: &[u8] = b"!";

/// A protocol beside gRPC: it keeps whoever sends the proof, and sends everything back.
#[derive(Debug)]
struct Peers;

impl Guest for Peers {
    fn is_meant(&self, first: &[u8]) -> Option<bool> {
        let common = first.len().min(PEER.len());
        match first[..common] == PEER[..common] {
            true if common == PEER.len() => Some(true),
            true => None,
            false => Some(false),
        }
    }

    fn serve<'a>(
        self: Rc<Self>,
        mut stream: Stream,
        _: SocketAddr,
        early: Vec<u8>,
        keep: &'a dyn Fn(),
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            let (mut said, mut buffer) = (early[PEER.len()..].to_vec(), [0; 64]);
            loop {
                if said.contains(&PROOF[0]) {
                    keep();
                }
                if stream.write_all(&said).await.is_err() {
                    return;
                }
                match stream.read(&mut buffer).await {
                    Ok(bytes @ 1..) => said = buffer[..bytes].to_vec(),
                    Ok(0) | Err(_) => return,
                }
            }
        })
    }
}

/// Whether the guest sends back what it is sent.
async fn echoes(stream: &mut Stream, said: &[u8]) -> bool {
    let mut buffer = [0; 64];
    stream.write_all(said).await.is_ok() && matches!(stream.read(&mut buffer).await, Ok(1..))
}

/// A connection of the guest that has proved what it is.
async fn peer(rt: &Rt, addr: SocketAddr) -> Stream {
    let mut stream = raw(rt, addr, PEER).await;
    assert!(echoes(&mut stream, PROOF).await, "there is no place for it");
    stream
}

#[test]
fn a_guest_has_places_that_no_client_keeps() {
    in_world(|rt| async move {
        let places = Descriptors::without_reasons(2);
        let options = Options {
            descriptors: places.clone(),
            own: 2,
            guest: Some(Rc::new(Peers)),
            ..Options::default()
        };
        let (addr, server, _) = serve_tikv(&rt, options);
        // One that has proved itself gives the shared place back that it came in with.
        let early = peer(&rt, addr).await;
        assert_eq!(places.taken(), 0);
        drop(early);
        rt.sleep(Duration::from_millis(10)).await;
        let mut clients = Vec::new();
        for _ in 0..2 {
            let client = Client::connect(&rt, addr).await.unwrap();
            still_serves(&client).await;
            clients.push(client);
        }
        assert_eq!(places.taken(), 2);
        // A client beyond them is served from a place of the guest, and so is one that has proved nothing; both give way.
        let beyond = Client::connect(&rt, addr).await.unwrap();
        still_serves(&beyond).await;
        let mut unproven = raw(&rt, addr, PEER).await;
        assert!(echoes(&mut unproven, b"-").await);
        let mut first = peer(&rt, addr).await;
        let mut second = peer(&rt, addr).await;
        assert!(is_closed_within(&rt, &mut unproven, Duration::from_millis(10)).await);
        assert_eq!(page::of_grpc(&server, REFUSED), 2.0);
        // Now all are kept.
        assert_eq!(closed(raw(&rt, addr, PEER).await).await, b"");
        assert!(echoes(&mut first, b"-").await && echoes(&mut second, b"-").await);
        for client in &clients {
            still_serves(client).await;
        }
        drop((clients, beyond, first, second));
        rt.sleep(Duration::from_secs(1)).await;
        assert_eq!((places.taken(), page::of_grpc(&server, OPEN)), (0, 0.0));
    });
}

/// A service of which one method is for members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Method {
    Clients,
    Members,
}

struct Both;

impl Service for Both {
    type Method = Method;

    fn method(&self, path: &str) -> Option<(Method, CallShape)> {
        let method = if path == MEMBERS { Method::Members } else { Method::Clients };
        Some((method, CallShape::Unary))
    }

    fn is_for_members(&self, method: Method) -> bool {
        method == Method::Members
    }

    async fn unary(&self, _: Method, _: Bytes, _: Option<Mono>) -> Result<Bytes, Status> {
        Ok(grpc::frame(&()))
    }

    async fn bidi(&self, _: Method, _: &mut Inbox, _: &mut CallOutbox) -> Result<(), Status> {
        Ok(())
    }
}

const MEMBERS: &str = "/test/Members";
const CLIENTS: &str = "/test/Clients";

/// A gate that lets no caller in.
#[derive(Debug)]
struct Shut;

impl Gate for Shut {
    fn is_meant(&self, _: &[u8]) -> Option<bool> {
        Some(false)
    }

    fn let_in<'a>(
        &'a self,
        _: &'a mut Stream,
        _: SocketAddr,
        _: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = bool> + 'a>> {
        Box::pin(async { false })
    }

    fn is_closed(&self) -> bool {
        true
    }

    fn refuse(&self, _: &str, _: SocketAddr) -> Status {
        Status::new(Code::PermissionDenied, "it is for members")
    }
}

/// Whether one that calls as members do keeps its place while others come and ask, and no more than one of these may keep one.
async fn keeps_its_place(rt: &Rt, gate: Option<Rc<dyn Gate>>) -> bool {
    let listener = rt.listen(loopback(), ListenOptions::default()).unwrap();
    let addr = listener.local_addr().unwrap();
    let options = Options { connections_max: 4, clients_max: 1, gate, ..Options::default() };
    let _server = grpc::serve(rt, listener, Both, options);
    let first = Client::connect(rt, addr).await.unwrap();
    first.unary::<()>(CLIENTS, &()).await.unwrap();
    let member = Client::connect(rt, addr).await.unwrap();
    // Where it is not let in it hears so.
    let _ = member.unary::<()>(MEMBERS, &()).await;
    let mut others = Vec::new();
    for _ in 0..6 {
        let other = Client::connect(rt, addr).await.unwrap();
        other.unary::<()>(CLIENTS, &()).await.unwrap();
        others.push(other);
    }
    first.unary::<()>(CLIENTS, &()).await.unwrap();
    member.unary::<()>(CLIENTS, &()).await.is_ok()
}

/// Without a secret any caller is believed; with one, none that has not proved it.
#[test]
fn who_calls_as_members_do_keeps_its_place_where_that_is_believed() {
    in_world(|rt| async move {
        assert!(keeps_its_place(&rt, None).await, "a member gives way to clients");
        assert!(!keeps_its_place(&rt, Some(Rc::new(Shut))).await, "whoever says that it is one is kept");
    });
}
