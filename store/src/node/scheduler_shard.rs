//! The scheduler shard: what the root core hosts beside the start and the drain. It waits most of the time, so it has no CPU of its
//! own; and it has no disk of its own, because its state lies in the first store of the node ([`SYSTEM_STORE`](super::core::SYSTEM_STORE)).
//! While that store leads the system group, the scheduler of the cluster is here ([`hosting`](super::hosting)).
//!
//! ```text
//! bind     its port is taken before anything on disk is touched
//! open     once the stores are open: where this node is the only member, the state is read over the link, taken over or begun
//! serve    once the stores serve: the PD API; then they are registered, if the scheduler is on another node
//! stop     before the stores close, because what it is asked rests on one of them
//! ```

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::rt::chan::{Receiver, Sender};
use engine::rt::{ListenOptions, Listener, Rt};
use scheduler::NodeId;

use super::contacts::Keeper;
use super::core::Plan;
use super::hosting::{Host, Means};
use super::join::Remote;
use super::listen::CannotListen;
use super::report::REPORT_EVERY;
use super::serve::advertised;
use super::standing::Standing;
use super::{StartError, bootstrap};
use crate::config::Config;
use crate::control::{Ask, Beat, BeatAnswer, Control, Member, News, locate};
use crate::descriptors::Descriptors;
use crate::memory::Memory;
use crate::region::system::fence::Fence;
use crate::wire::board::{Board, CoreReport};
use crate::wire::grpc::{self, Gate};
use crate::wire::health::HealthService;
use crate::wire::pd::NOT_AUTHENTICATED;
use crate::wire::pd::ask::{self, QuestionAsked};
use crate::wire::pd::client::{Places, SchedulerClient};
use crate::wire::pd::members::MemberGate;
use crate::wire::pd::port::Port;
use crate::wire::peer::open::Speaker;

/// Receive window of a connection to the PD port, and of each of its streams, bytes. What is asked there is small; a window can be full
/// on every connection, whatever the bounds on memory.
const WINDOW_BYTES: u32 = 64 << 10;

/// One in this many connections to the PD port is kept for members of the cluster: nodes have to report whatever clients do.
const MEMBERS_PART: usize = 4;

/// The port of the PD API, bound and not served.
pub(super) struct Bound {
    listener: Listener,
    addr: SocketAddr,
}

/// The scheduler shard before it serves.
pub(super) struct Opened {
    bound: Bound,
    host: Host,
    remote: Rc<Remote>,
    places: Places,
    health: HealthService,
    /// The lowest id that has not been given out here; 0 if that is not known.
    pub(super) next_id: u64,
}

/// The root core's ends of what connects it with the core of the system group's replica.
pub(super) struct StateEnds {
    pub(super) asks: Sender<Ask>,
    pub(super) news: Receiver<News>,
    pub(super) fence: Arc<Fence>,
}

/// The scheduler shard while it serves.
pub(super) struct SchedulerShard {
    /// Where clients ask.
    pub(super) addr: SocketAddr,
    health: HealthService,
    server: Rc<grpc::Handle>,
}

/// Takes the port.
pub(super) fn bind(rt: &Rt, config: &Config) -> Result<Bound, StartError> {
    let wanted = config.pd_addr();
    let listener = rt.listen(wanted, ListenOptions::default()).map_err(|error| {
        let cannot = CannotListen { what: "PD", addr: wanted, port_key: "base_port", error: &error };
        StartError(cannot.to_string())
    })?;
    let addr = listener.local_addr().map_err(|error| StartError(error.to_string()))?;
    Ok(Bound { listener, addr })
}

impl Bound {
    /// Hosts the scheduler while the system group's replica at the other end of `ends` leads; else it is that of another node. Takes in what
    /// arrives in `beats`, hands each core its `answers`, and answers `questions`.
    ///
    /// # Errors
    /// This node is the only member of the group, and its state is gone, damaged or an older copy.
    pub(super) async fn open(
        self,
        rt: &Rt,
        (config, plan, board): (&Config, &Plan, &Board),
        ends: StateEnds,
        speaker: Option<Speaker>,
        (beats, answers, contacts): (Receiver<Beat>, Vec<Sender<BeatAnswer>>, Keeper),
        (questions, replies): (Receiver<locate::Question>, Vec<Sender<locate::Answer>>),
    ) -> Result<Opened, StartError> {
        let (place, founder) = (advertised(config, self.addr), plan.schedulers.is_empty());
        let own = NodeId(plan.identity.node);
        let others: Vec<String> =
            contacts.nodes().into_iter().filter(|(node, _)| *node != own).map(|(_, place)| place).collect();
        let alone = founder && others.is_empty();
        if !alone && plan.secret.is_none() {
            tracing::warn!("{NOT_AUTHENTICATED}");
        }
        let health = HealthService::default();
        let means = Means {
            dir: plan.dir.join("scheduler"),
            member: Member {
                name: format!("ringkeep-{}", plan.identity.node),
                member_id: plan.identity.node,
                client_urls: vec![format!("http://{place}")],
                cluster_id: plan.identity.cluster,
                first_free_id: if founder { bootstrap::first_free_id(&plan.identity) } else { 0 },
                next_id_min: plan.ids,
            },
            asks: ends.asks,
            fence: ends.fence,
            alone,
            contacts: contacts.clone(),
            health: health.clone(),
        };
        let places = Places::new(others.into_iter().chain(plan.schedulers.iter().map(SocketAddr::to_string)));
        let host = Host::start(rt, config, means, speaker, ends.news);
        let next_id = host.settled().await?;
        let standing = Standing::new(&plan.identity, board);
        let remote = Remote::new(rt, standing, host.clone(), (places.clone(), place), plan.secret, contacts);
        rt.spawn(remote.clone().forward(beats, answers));
        rt.spawn(remote.clone().ask(questions, replies));
        Ok(Opened { bound: self, host, remote, places, health, next_id })
    }
}

impl Opened {
    /// Serves the PD API, also to threads of this process, and registers the stores, which are served at `stores`, with a scheduler on another node.
    ///
    /// # Errors
    /// The scheduler refuses a store.
    pub(super) async fn serve(
        self,
        rt: &Rt,
        (config, plan): (&Config, &Plan),
        (board, asked): (Board, Receiver<QuestionAsked>),
        stores: &[SocketAddr],
    ) -> Result<SchedulerShard, StartError> {
        let Self { bound: Bound { listener, addr }, host, remote, places, health, next_id: _ } = self;
        let client = Rc::new(SchedulerClient::new(rt, places.clone(), plan.secret));
        let here = Rc::new(host.clone());
        let service = Port::new(plan.identity.cluster, here, places, client, health.clone());
        drop(rt.spawn(ask::serve(rt.clone(), service.clone(), asked)));
        let gate = MemberGate::new(rt, plan.secret);
        let descriptors = Descriptors::without_reasons(plan.pd_connections_max);
        let options = grpc::Options {
            connections_max: usize::MAX,
            clients_max: descriptors.max() - descriptors.max() / MEMBERS_PART,
            descriptors: descriptors.clone(),
            gate: Some(gate.clone() as Rc<dyn Gate>),
            memory: plan.shard.memory.of_pd_port(),
            stream_window_bytes: WINDOW_BYTES,
            connection_window_bytes: WINDOW_BYTES,
            ..grpc::Options::default()
        };
        let memory = options.memory.clone();
        // Members that start together look for each other, so the port is served before the stores are registered.
        let server = Rc::new(grpc::serve(rt, listener, service, options));
        rt.spawn(post(rt.clone(), (server.clone(), gate, memory), (board, plan.cores), (descriptors, host)));
        let shard = SchedulerShard { addr, health, server };
        match remote.register(stores.iter().map(|addr| advertised(config, *addr)).collect()).await {
            Ok(()) => Ok(shard),
            Err(refused) => {
                shard.stop(Duration::ZERO).await;
                Err(refused)
            }
        }
    }
}

impl SchedulerShard {
    /// Says that no further calls are wanted, and serves those that come.
    pub(super) fn announce(&self) {
        self.health.set_serving(false);
    }

    /// Accepts nothing more, and lets calls finish within `time_max`.
    pub(super) async fn stop(&self, time_max: Duration) {
        self.health.set_serving(false);
        self.server.drain(time_max).await;
    }
}

/// Leaves copies of the scheduler shard's numbers on the board, in the slot after those of the data cores: where a node has fewer stores
/// than cores, that is not the number of the root core.
async fn post(
    rt: Rt,
    (server, gate, memory): (Rc<grpc::Handle>, Rc<MemberGate>, Memory),
    (board, slot): (Board, usize),
    (descriptors, host): (Descriptors, Host),
) {
    loop {
        board.post(CoreReport {
            core: slot,
            grpc: server.stats(),
            grpc_requests: server.ended(),
            grpc_connections_max: descriptors.max() as u64,
            unproven: gate.unproven(),
            memory: memory.uses(),
            scheduler: host.control().as_ref().map(Control::numbers),
            busy: rt.cpu_clock().read().unwrap_or_default(),
            ..CoreReport::default()
        });
        rt.sleep(REPORT_EVERY).await;
    }
}
