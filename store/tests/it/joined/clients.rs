//! Clients of a cluster whose regions move: they ask the scheduler where a key is, go to the leader, follow refusals, and ask again.
//!
//! A call that is refused has not happened; one whose answer is lost, late or "unknown" may have.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::Context;
use store::wire::proto::metapb;
use store::wire::proto::pdpb::{
    GetAllStoresRequest, GetAllStoresResponse, GetRegionRequest, GetRegionResponse,
};

use bench::sim::callers::{Called, Shared, draw, send};
use bench::sim::judge::Action;

/// Keys of different regions: the first ones are cut between '0' and 'z'.
pub(crate) const KEYS: [&str; 6] = ["0a", "4b", "Dc", "Td", "ae", "zf"];

const CONNECT_MAX: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// Where a key is.
#[derive(Clone, Debug)]
struct Place {
    region: metapb::Region,
    leader: metapb::Peer,
}

impl Place {
    fn context(&self) -> Option<Context> {
        Some(Context {
            region_id: self.region.id,
            region_epoch: self.region.region_epoch,
            peer: Some(self.leader),
            ..Context::default()
        })
    }
}

struct Caller {
    rt: Rt,
    pd: SocketAddr,
    places: BTreeMap<&'static str, Place>,
    stores: BTreeMap<u64, SocketAddr>,
    clients: BTreeMap<SocketAddr, Client>,
    shared: Rc<Shared>,
}

/// Asks until the test is done.
pub(crate) async fn ask_on(rt: Rt, number: u64, pd: SocketAddr, shared: Rc<Shared>) {
    let mut caller = Caller::new(rt.clone(), pd, shared.clone());
    let mut written = 0;
    while !shared.done.get() {
        let key = KEYS[(rt.random() % KEYS.len() as u64) as usize];
        let action = draw(&rt, &number.to_string(), &mut written);
        caller.call(key, &action).await;
        rt.sleep(Duration::from_millis(20 + rt.random() % 100)).await;
    }
}

/// Reads every key, however long it takes.
pub(crate) async fn read_all(rt: Rt, pd: SocketAddr, shared: Rc<Shared>) {
    let mut caller = Caller::new(rt, pd, shared);
    for key in KEYS {
        while !caller.call(key, &Action::Get).await {}
    }
}

impl Caller {
    fn new(rt: Rt, pd: SocketAddr, shared: Rc<Shared>) -> Self {
        let (places, stores, clients) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { rt, pd, places, stores, clients, shared }
    }

    async fn client(&mut self, addr: SocketAddr) -> Option<Client> {
        if let Some(client) = self.clients.get(&addr) {
            return Some(client.clone());
        }
        let client = self.rt.timeout(CONNECT_MAX, Client::connect(&self.rt, addr)).await?.ok()?;
        self.clients.insert(addr, client.clone());
        Some(client)
    }

    /// Asks the scheduler where a key is and where all stores are. Nothing if it does not answer now.
    async fn look_up(&mut self, key: &'static str) -> Option<()> {
        let client = self.client(self.pd).await?;
        let request = GetRegionRequest { region_key: key.into(), ..GetRegionRequest::default() };
        let asking = async {
            let found: GetRegionResponse = client.unary("/pdpb.PD/GetRegion", &request).await.ok()?;
            let stores: GetAllStoresResponse =
                client.unary("/pdpb.PD/GetAllStores", &GetAllStoresRequest::default()).await.ok()?;
            Some((found, stores))
        };
        let Some(Some((found, stores))) = self.rt.timeout(ANSWER_MAX, asking).await else {
            self.clients.remove(&self.pd);
            return None;
        };
        for store in stores.stores {
            self.stores.insert(store.id, store.address.parse().ok()?);
        }
        self.places.insert(key, Place { region: found.region?, leader: found.leader? });
        Some(())
    }

    /// One call, at whoever leads as far as is known. Whether it was answered.
    async fn call(&mut self, key: &'static str, action: &Action) -> bool {
        // What is known of a region grows old: replicas come that a client should know before it needs them.
        let old = self.places.contains_key(key) && self.rt.random().is_multiple_of(10);
        if old && self.look_up(key).await.is_none() {
            self.rt.sleep(PAUSE).await;
        }
        if !self.places.contains_key(key) && self.look_up(key).await.is_none() {
            self.rt.sleep(PAUSE).await;
            return false;
        }
        let Some(place) = self.places.get(key).cloned() else { return false };
        let addr = self.stores[&place.leader.store_id];
        let Some(client) = self.client(addr).await else {
            self.go_on(key, None).await;
            return false;
        };
        let asked = self.shared.history.borrow_mut().ask(key, action.clone(), None);
        let called = self.rt.timeout(ANSWER_MAX, send(&client, place.context(), key, action, false)).await;
        match called.unwrap_or(Ok(Called::Lost)) {
            Ok(Called::Heard(heard)) => {
                self.shared.history.borrow_mut().hear(&asked, heard);
                return true;
            }
            Ok(Called::Refused(leader)) => {
                self.shared.history.borrow_mut().refused(&asked);
                self.go_on(key, leader).await;
            }
            Ok(Called::Lost) => {
                self.clients.remove(&addr);
                self.go_on(key, None).await;
            }
            Err(why) => self.shared.failures.borrow_mut().push(why),
        }
        false
    }

    /// Another leader for the key: who was named, else what the scheduler says, else the next replica.
    async fn go_on(&mut self, key: &'static str, named: Option<metapb::Peer>) {
        self.rt.sleep(PAUSE).await;
        let known = named.filter(|leader| self.stores.contains_key(&leader.store_id));
        if let (Some(leader), Some(place)) = (known, self.places.get_mut(key)) {
            place.leader = leader;
            return;
        }
        let before = self.places.get(key).map(|place| place.leader.id);
        if self.rt.random().is_multiple_of(2)
            && self.look_up(key).await.is_some()
            && self.places.get(key).map(|place| place.leader.id) != before
        {
            return;
        }
        if let Some(place) = self.places.get_mut(key) {
            let peers = &place.region.peers;
            let at = peers.iter().position(|peer| peer.id == place.leader.id).unwrap_or(0);
            place.leader = peers[(at + 1) % peers.len()];
        }
    }
}
