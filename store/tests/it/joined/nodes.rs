//! Whole nodes of one cluster, each started as `ringkeep server` starts it: data cores, root core, ports, and a disk of its own.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::chan::{Sender, queue};
use engine::rt::sim::{Node, Running, World};
use store::config::{Config, Limits, Machine, SyncMethod};
use store::node::{NodeRequest, Setup, StartError, Started, run};
use store::wire::grpc::client::Client;
use store::wire::grpc::{Code, Status};
use store::wire::proto::health::health_check_response::ServingStatus;
use store::wire::proto::health::{HealthCheckRequest, HealthCheckResponse};
use store::wire::proto::pdpb::{GetAllStoresRequest, GetAllStoresResponse};

/// The port of the PD API; store N has this plus N.
pub(crate) const PORT: u16 = 2000;
pub(crate) const DRAIN: Duration = Duration::from_secs(20);
/// Longer than a start waits for anything.
const START_MAX: Duration = Duration::from_secs(60);

/// A node of the cluster.
pub(crate) struct Member {
    pub(crate) node: Node,
    stores: usize,
    pub(crate) change: fn(&mut Config),
    /// Files and sockets that the node may have open.
    pub(crate) open_files: u64,
    life: Option<Life>,
}

struct Life {
    said: Rc<RefCell<Option<Result<Started, String>>>>,
    requests: Sender<NodeRequest>,
    _root: Running<()>,
}

impl Member {
    pub(crate) fn new(world: &World, number: usize, stores: usize) -> Self {
        Self { node: world.node(number), stores, change: |_| {}, open_files: 4096, life: None }
    }

    pub(crate) fn pd(&self) -> SocketAddr {
        self.node.addr(PORT)
    }

    /// Begins a life of the node, which joins the cluster of `members` if its directory is empty.
    pub(crate) fn begin(&mut self, members: &[SocketAddr]) {
        assert!(self.life.is_none(), "node {} is up", self.node.id());
        let mut config = Config {
            data_dir: "/data".into(),
            listen: self.node.ip(),
            base_port: PORT,
            resp_port: 6380,
            status_port: 0,
            ..Config::default()
        };
        config.log.segment_bytes = 64 << 10;
        config.log.sync = SyncMethod::Dsync;
        (self.change)(&mut config);
        let machine = Machine { cores: self.stores, memory_bytes: 1 << 30, open_files: self.open_files };
        let mut limits = Limits::derive(&config, machine).expect("a machine that is large enough");
        limits.memtable_bytes = 32 << 10;
        let setup = Setup { config, limits, cpus: Vec::new(), work: None, join: members.to_vec() };
        let (requests, requests_in) = queue(2);
        let said = Rc::new(RefCell::new(None));
        let say_to = said.clone();
        let root = self.node.start(setup.root_core(), move |rt| {
            let say = move |how: Result<Started, StartError>| {
                *say_to.borrow_mut() = Some(how.map_err(|why| why.to_string()));
            };
            run(rt, setup, say, requests_in)
        });
        self.life = Some(Life { said, requests, _root: root });
    }

    /// Whether the directory has an identity.
    pub(crate) fn has_identity(&self) -> bool {
        self.node.disk().contents().contains_key(Path::new("/data/IDENT"))
    }

    /// What the start came to, once it has.
    pub(crate) fn said(&self) -> Option<Result<Started, String>> {
        self.life.as_ref().and_then(|life| life.said.borrow().clone())
    }

    /// Starts the node; why it does not, if it does not.
    pub(crate) fn start(&mut self, world: &World, members: &[SocketAddr]) -> Result<Started, String> {
        self.begin(members);
        if !world.run_until(START_MAX, || self.said().is_some()) {
            return Err(format!("node {} does not start and does not say why", self.node.id()));
        }
        let said = self.said().expect("it was said");
        if said.is_err() {
            // A start that is refused leaves nothing behind.
            world.run_for(Duration::from_secs(2));
            self.life = None;
            self.node.kill();
        }
        said
    }

    /// Ends the node at once, with or without what was not synced.
    pub(crate) fn end(&mut self, power: bool) {
        self.life = None;
        match power {
            true => self.node.crash(),
            false => self.node.kill(),
        }
    }

    /// Asks the node to end as a signal does.
    pub(crate) fn begin_drain(&self) {
        let life = self.life.as_ref().expect("the node is up");
        life.requests.try_send(NodeRequest::Drain(DRAIN)).expect("the root core takes a drain");
    }

    /// Ends the node as a signal does.
    pub(crate) fn drain(&mut self, world: &World) {
        self.begin_drain();
        let _life = self.life.take();
        world.run_for(DRAIN + Duration::from_secs(3));
        self.node.kill();
    }
}

/// Runs `work` on a node beside the cluster.
pub(crate) fn beside<T: 'static, F>(world: &World, work: impl FnOnce(Rt) -> F + 'static) -> T
where
    F: Future<Output = T> + 'static,
{
    world.block_on(world.node(9).start(0, work)).expect("the work ends")
}

/// Calls the PD port of a member.
pub(crate) fn call<A: prost::Message + Default + 'static>(
    world: &World,
    addr: SocketAddr,
    path: &'static str,
    request: impl prost::Message + 'static,
) -> Result<A, Status> {
    beside(world, move |rt| async move {
        // In rough weather a connection may break before the answer.
        for _ in 0..20 {
            let answered = match Client::connect(&rt, addr).await {
                Ok(client) => client.unary(path, &request).await,
                Err(error) => Err(Status::new(Code::Unavailable, error.to_string())),
            };
            match answered {
                Err(status) if status.code == Code::Unavailable && !status.message.contains("scheduler") => {
                    rt.sleep(Duration::from_millis(100)).await;
                }
                answered => return answered,
            }
        }
        panic!("{addr} does not answer");
    })
}

/// Whether the port at `addr` says that it serves.
pub(crate) fn serves(world: &World, addr: SocketAddr) -> bool {
    let asked = HealthCheckRequest::default();
    let answer: HealthCheckResponse =
        call(world, addr, "/grpc.health.v1.Health/Check", asked).expect("it answers");
    answer.status() == ServingStatus::Serving
}

/// Every store that the scheduler at `addr` knows: its id, its node, and where it is.
pub(crate) fn stores(world: &World, addr: SocketAddr) -> Vec<(u64, u64, String)> {
    let all: GetAllStoresResponse =
        call(world, addr, "/pdpb.PD/GetAllStores", GetAllStoresRequest::default()).expect("they are listed");
    let node = |store: &store::wire::proto::metapb::Store| {
        let label = store.labels.iter().find(|label| label.key == "node");
        label.and_then(|label| label.value.parse().ok()).expect("every store says its node")
    };
    let mut stores: Vec<_> =
        all.stores.iter().map(|store| (store.id, node(store), store.address.clone())).collect();
    stores.sort();
    stores
}
