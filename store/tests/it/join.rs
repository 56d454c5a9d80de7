//! Stores of another node that join: what is refused, by name and remedy, and that what is admitted is remembered.
//!
//! Node 0 has the scheduler, node 1 the ports at which the joining stores answer.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::local::Bell;
use engine::rt::sim::{Node, Options, Running, World};
use engine::rt::{ListenOptions, Rt};
use scheduler::StoreId;
use store::control::Member;
use store::memory::Memory;
use store::region::lineage::Lineage;
use store::wire::grpc::client::Client;
use store::wire::grpc::{self, Code, Status};
use store::wire::health::HealthService;
use store::wire::pd::{Dialer, Pd};
use store::wire::peer::counters::PeerCounters;
use store::wire::peer::inbound::{Inbound, Incarnations};
use store::wire::peer::open::Speaker;
use store::wire::proto::metapb::{Store, StoreLabel};
use store::wire::proto::pdpb::*;

use crate::grpc::open_control;

const CLUSTER: u64 = 7;
const PD: u16 = 2379;
/// The ids of the joining node and its stores are above this.
const FIRST_FREE: u64 = 12;

fn speaker(store: u64) -> Speaker {
    Speaker {
        secret: None,
        cluster: CLUSTER,
        store: StoreId(store),
        incarnation: 1,
        lineage: Lineage::default(),
    }
}

/// Serves the scheduler on `node` until the process ends.
fn serve(node: &Node) -> Running<()> {
    let addr = node.addr(PD);
    node.start(0, move |rt| async move {
        let dir = Path::new("/data");
        rt.create_dir_all(dir).await.unwrap();
        rt.sync_dir(Path::new("/")).await.unwrap();
        let member = Member {
            name: "one".into(),
            member_id: 3,
            client_urls: vec![format!("http://{addr}")],
            cluster_id: CLUSTER,
            first_free_id: FIRST_FREE,
            next_id_min: 0,
        };
        let control = open_control(&rt, dir, member).await.unwrap();
        let listener = rt.listen(addr, ListenOptions::default()).unwrap();
        let pd = Pd::new(control, HealthService::default()).admitting(Dialer::new(&rt, speaker(1)));
        drop(grpc::serve(&rt, listener, pd, grpc::Options::default()));
        std::future::pending().await
    })
}

/// Answers at `addr` as `store`, or takes connections and says nothing.
async fn answer(rt: Rt, addr: SocketAddr, store: Option<u64>) {
    let listener = rt.listen(addr, ListenOptions::default()).unwrap();
    while let Ok((mut stream, _)) = listener.accept().await {
        let Some(store) = store else {
            let silent = rt.clone();
            drop(rt.spawn(async move {
                silent.sleep(Duration::from_secs(60)).await;
                drop(stream);
            }));
            continue;
        };
        let (seen, counters) = (Rc::new(Incarnations::default()), Rc::new(PeerCounters::default()));
        // Whoever joins knows no other store yet.
        let (rt, speaker, book) = (rt.clone(), speaker(store), Rc::default());
        let inbound = Inbound { rt: rt.clone(), speaker, seen, book, counters, memory: Memory::unbounded() };
        drop(rt.spawn(async move {
            let (mut preface, mut read) = ([0; 8], 0);
            while read < preface.len() {
                match stream.read(&mut preface[read..]).await {
                    Ok(n @ 1..) => read += n,
                    Ok(0) | Err(_) => return,
                }
            }
            // How it ended is the other side's to say.
            drop(inbound.serve(stream, (&[], &|| ()), async |_| {}).await);
        }));
    }
}

/// The joining node's way to the scheduler.
struct Joiner {
    pd: Client,
}

impl Joiner {
    async fn connect(rt: &Rt, addr: SocketAddr) -> Self {
        loop {
            // The scheduler may not serve yet.
            if let Ok(pd) = Client::connect(rt, addr).await {
                return Self { pd };
            }
            rt.sleep(Duration::from_millis(10)).await;
        }
    }

    /// The first of `count` ids.
    async fn ids(&self, count: u32) -> u64 {
        let request = AllocIdRequest { count, ..AllocIdRequest::default() };
        let answer: AllocIdResponse = self.pd.unary("/pdpb.PD/AllocID", &request).await.unwrap();
        answer.id + 1 - u64::from(answer.count)
    }

    async fn put(&self, cluster_id: u64, id: u64, node: u64, address: SocketAddr) -> Result<(), Status> {
        let label = StoreLabel { key: "node".into(), value: node.to_string() };
        let store = Store { id, address: address.to_string(), labels: vec![label], ..Store::default() };
        let header = Some(RequestHeader { cluster_id, sender_id: 0 });
        let request = PutStoreRequest { header, store: Some(store) };
        self.pd.unary::<PutStoreResponse>("/pdpb.PD/PutStore", &request).await.map(|_| ())
    }

    async fn refused(&self, cluster_id: u64, id: u64, node: u64, address: SocketAddr, words: &[&str]) {
        let status = self.put(cluster_id, id, node, address).await.unwrap_err();
        assert_eq!(status.code, Code::FailedPrecondition, "{status}");
        for word in words {
            assert!(status.message.contains(word), "{word}: {status}");
        }
    }

    /// Where each store is.
    async fn stores(&self) -> Vec<(u64, String)> {
        let all: GetAllStoresResponse =
            self.pd.unary("/pdpb.PD/GetAllStores", &GetAllStoresRequest::default()).await.unwrap();
        let mut stores: Vec<_> = all.stores.into_iter().map(|store| (store.id, store.address)).collect();
        stores.sort();
        stores
    }
}

/// Runs `work` on a node that joins; the scheduler serves beside it.
fn with_scheduler<F>(seed: u64, work: impl FnOnce(Rt, Joiner, Node) -> F + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let world = World::new(seed, Options::default());
    let (first, second) = (world.node(0), world.node(1));
    let _serving = serve(&first);
    let (addr, node) = (first.addr(PD), second.clone());
    let joining = second.start(0, move |rt| async move {
        let joiner = Joiner::connect(&rt, addr).await;
        work(rt, joiner, node).await;
    });
    world.block_on(joining).expect("the test ends");
}

#[test]
fn who_describes_itself_wrongly_is_refused_before_anything_is_dialled() {
    with_scheduler(91, |rt, joiner, node| async move {
        let addr = node.addr(20161);
        drop(rt.spawn(answer(rt.clone(), addr, None)));
        let (first, began) = (joiner.ids(3).await, rt.now());
        let (store, own) = (first, first + 2);
        joiner.refused(8, store, own, addr, &["mismatch cluster id, need 7 but got 8"]).await;
        joiner.refused(0, store, own, addr, &["names the cluster", "this one is 0000000000000007"]).await;
        let not_ours = ["was not handed out by this cluster", "ask for one"];
        joiner.refused(CLUSTER, 90_000, own, addr, &not_ours).await;
        joiner.refused(CLUSTER, store, 90_000, addr, &not_ours).await;
        joiner.refused(CLUSTER, store, store, addr, &["names a store"]).await;
        joiner.refused(CLUSTER, 1, 3, addr, &["belongs to the node that was asked", "empty one"]).await;
        assert!(rt.now().since(began) < Duration::from_secs(1), "something was dialled");
        assert_eq!(joiner.stores().await, []);
    });
}

#[test]
fn a_store_is_entered_only_where_it_answers() {
    with_scheduler(92, |rt, joiner, node| async move {
        let (silent, other, closed) = (node.addr(20161), node.addr(20162), node.addr(20163));
        let first = joiner.ids(3).await;
        let own = first + 2;
        drop(rt.spawn(answer(rt.clone(), silent, None)));
        drop(rt.spawn(answer(rt.clone(), other, Some(first + 1))));
        for (addr, why) in [(silent, "did not answer in time"), (closed, "refused"), (other, "here is store")]
        {
            let words = ["cannot be dialled back", &addr.to_string(), why, "advertise"];
            joiner.refused(CLUSTER, first, own, addr, &words).await;
        }
        assert_eq!(joiner.stores().await, []);
        joiner.put(CLUSTER, first + 1, own, other).await.unwrap();
        assert_eq!(joiner.stores().await, [(first + 1, other.to_string())]);
    });
}

#[test]
fn an_identity_or_an_address_in_use_is_not_given_away() {
    with_scheduler(93, |rt, joiner, node| async move {
        let (one, two, three) = (node.addr(20161), node.addr(20162), node.addr(20163));
        let first = joiner.ids(4).await;
        let (store, own, stranger) = (first, first + 2, first + 3);
        let leaves = Rc::new(Bell::default());
        let (left, answering) = (leaves.clone(), answer(rt.clone(), one, Some(store)));
        drop(rt.spawn(async move {
            let (answering, left) = (std::pin::pin!(answering), std::pin::pin!(left.wait()));
            futures_util::future::select(answering, left).await;
        }));
        joiner.put(CLUSTER, store, own, one).await.unwrap();
        drop(rt.spawn(answer(rt.clone(), two, Some(store))));
        joiner
            .refused(
                CLUSTER,
                store,
                own,
                two,
                &["identity", "in use", &one.to_string(), "start the copy empty"],
            )
            .await;
        joiner.refused(CLUSTER, store, stranger, two, &["joined with another node id"]).await;
        drop(rt.spawn(answer(rt.clone(), three, Some(first + 1))));
        joiner.refused(CLUSTER, first + 1, own, one, &["is the address of", "was heard"]).await;
        assert_eq!(joiner.stores().await, [(store, one.to_string())]);
        // The store really moves: the old address falls silent first.
        leaves.ring();
        rt.sleep(Duration::from_millis(1)).await;
        joiner.put(CLUSTER, store, own, two).await.unwrap();
        assert_eq!(joiner.stores().await, [(store, two.to_string())]);
    });
}

/// A store is displaced only where the scheduler hears nothing of it and what answers in its place is the new one.
#[test]
fn the_place_of_a_store_that_answers_is_not_given_away_however_long_it_was_silent() {
    with_scheduler(96, |rt, joiner, node| async move {
        let (one, silent) = (node.addr(20161), Duration::from_secs(21));
        let first = joiner.ids(4).await;
        let (store, new) = (first, first + 2);
        let leaves = Rc::new(Bell::default());
        let (left, answering) = (leaves.clone(), answer(rt.clone(), one, Some(store)));
        drop(rt.spawn(async move {
            let (answering, left) = (std::pin::pin!(answering), std::pin::pin!(left.wait()));
            futures_util::future::select(answering, left).await;
        }));
        joiner.put(CLUSTER, store, first + 1, one).await.unwrap();
        joiner
            .refused(CLUSTER, new, first + 3, one, &["is the address of", "was heard", "silent for 20 s"])
            .await;
        rt.sleep(silent).await;
        joiner.refused(CLUSTER, new, first + 3, one, &["cannot be dialled back", "here is store"]).await;
        assert_eq!(joiner.stores().await, [(store, one.to_string())]);
        leaves.ring();
        rt.sleep(Duration::from_millis(1)).await;
        joiner.refused(CLUSTER, new, first + 3, one, &["cannot be dialled back", "refused"]).await;
        drop(rt.spawn(answer(rt.clone(), one, Some(new))));
        joiner.put(CLUSTER, new, first + 3, one).await.unwrap();
        // The old one is taken out of use, and is listed until nothing is left on it.
        assert_eq!(joiner.stores().await, [(store, one.to_string()), (new, one.to_string())]);
        joiner
            .put(CLUSTER, new, first + 3, one)
            .await
            .expect("it is known, and asked again it changes nothing");
    });
}

#[test]
fn a_store_that_joined_is_known_after_a_power_cut_and_not_dialled_again() {
    let world = World::new(94, Options::default());
    let (first, second) = (world.node(0), world.node(1));
    let serving = serve(&first);
    let (pd, addr) = (first.addr(PD), second.addr(20161));
    let joined = second.start(0, move |rt| async move {
        let joiner = Joiner::connect(&rt, pd).await;
        let ids = joiner.ids(2).await;
        drop(rt.spawn(answer(rt.clone(), addr, Some(ids))));
        joiner.put(CLUSTER, ids, ids + 1, addr).await.unwrap();
        ids
    });
    let ids = world.block_on(joined).expect("it joins");
    drop(serving);
    first.crash();
    second.kill();
    let _serving = serve(&first);
    let again = second.start(0, move |rt| async move {
        let joiner = Joiner::connect(&rt, pd).await;
        assert_eq!(joiner.stores().await, [(ids, addr.to_string())]);
        joiner.put(CLUSTER, ids, ids + 1, addr).await.expect("it is known as it is, and nothing answers now");
        assert!(joiner.ids(1).await > ids + 1, "its ids are not handed out again");
    });
    world.block_on(again).expect("it is known");
}

#[test]
fn few_are_dialled_at_a_time() {
    with_scheduler(95, |rt, joiner, node| async move {
        let first = joiner.ids(9).await;
        for port in 0..6 {
            drop(rt.spawn(answer(rt.clone(), node.addr(20161 + port), None)));
        }
        let put = |n: u16| joiner.put(CLUSTER, first + u64::from(n), first + 8, node.addr(20161 + n));
        let all = futures_util::future::join_all((0..6).map(put)).await;
        let busy = |status: &Status| status.code == Code::Unavailable && status.message.contains("try again");
        let refused = all.iter().filter(|one| one.as_ref().is_err_and(busy)).count();
        assert_eq!((refused, all.iter().filter(|one| one.is_ok()).count()), (2, 0), "{all:?}");
    });
}
