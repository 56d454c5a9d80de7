//! The scheduler shard: what the root core hosts beside the start and the drain. It waits most of the time, so it has no CPU of its
//! own; and it has no disk of its own, because its state lies in the first store of the node ([`SYSTEM_STORE`]).
//!
//! ```text
//! bind     its port is taken before anything on disk is touched
//! open     once the stores are open: the state is read over the link, taken over or begun
//! serve    once the stores serve: the PD API
//! stop     before the stores close, because what it is asked rests on one of them
//! ```

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::chan::{Receiver, Sender};
use engine::rt::{ListenOptions, Listener, Rt};

use super::contacts::Keeper;
use super::core::{Plan, SYSTEM_STORE};
use super::join::Remote;
use super::listen::CannotListen;
use super::report::REPORT_EVERY;
use super::serve::advertised;
use super::{StartError, bootstrap};
use crate::config::Config;
use crate::control::{Ask, Beat, BeatAnswer, Control, Member, hand_out, locate};
use crate::wire::board::{Board, CoreReport};
use crate::wire::grpc;
use crate::wire::health::Health;
use crate::wire::pd::client::SchedulerClient;
use crate::wire::pd::elsewhere::Elsewhere;
use crate::wire::pd::{Dialer, Pd};
use crate::wire::peer::open::Speaker;

/// The port of the PD API, bound and not served.
pub(super) struct Bound {
    listener: Listener,
    addr: SocketAddr,
}

/// Where the scheduler is, before the node serves.
pub(super) enum Place {
    /// Here.
    Here(Hosted),
    /// On another node.
    Elsewhere(Bound, Rc<Remote>),
}

/// The scheduler shard with its state, before it serves.
pub(super) struct Hosted {
    bound: Bound,
    control: Control,
    /// The lowest id that has not been given out; 0 if the state is out of reach.
    next_id: u64,
}

/// The scheduler shard while it serves.
pub(super) struct SchedulerShard {
    /// Where clients ask.
    pub(super) addr: SocketAddr,
    health: Health,
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
    /// Opens the scheduler's state at the other end of `asks`, takes in what arrives in `beats`, hands each core its `answers`, and answers
    /// `questions`. On a node that has joined, beats and questions go to the scheduler of the cluster, and their answers come from there.
    pub(super) async fn open(
        self,
        rt: &Rt,
        config: &Config,
        plan: &Plan,
        asks: Sender<Ask>,
        (beats, answers, contacts): (Receiver<Beat>, Vec<Sender<BeatAnswer>>, Keeper),
        (questions, replies): (Receiver<locate::Question>, Vec<Sender<locate::Answer>>),
    ) -> Result<Place, StartError> {
        if !plan.schedulers.is_empty() {
            if config.replicas.is_some() {
                tracing::warn!(
                    "replicas is set by the node that hosts the scheduler; here it changes nothing"
                );
            }
            let remote = Remote::new(rt, &plan.identity, plan.schedulers.clone());
            rt.spawn(remote.clone().forward(beats, answers, contacts));
            rt.spawn(remote.clone().ask(questions, replies));
            return Ok(Place::Elsewhere(self, remote));
        }
        let member = Member {
            name: format!("ringkeep-{}", plan.identity.node),
            member_id: plan.identity.node,
            state_store: plan.identity.store_id(SYSTEM_STORE),
            client_urls: vec![format!("http://{}", advertised(config, self.addr))],
            cluster_id: plan.identity.cluster,
            first_free_id: bootstrap::first_free_id(&plan.identity),
            next_id_min: plan.ids,
        };
        let control = Control::open(rt, &plan.dir.join("scheduler"), member, asks).await;
        let control = control.map_err(|error| StartError(error.to_string()))?;
        // Each start takes an id, so that a copy of the state from before it is known by its fewer ids. On a full disk the ids of
        // an earlier start still tell.
        if let Err(denied) = control.alloc_ids(1).await {
            tracing::warn!(reason = %denied, "the scheduler's state is not renewed");
        }
        if let Some(replicas) = config.replicas
            && let Err(denied) = control.set_replicas(replicas).await
        {
            tracing::warn!(replicas, reason = %denied, "the number of replicas is not changed");
        }
        if let Some(bytes) = config.region_max_bytes
            && let Err(denied) = control.set_region_max(bytes).await
        {
            tracing::warn!(bytes, reason = %denied, "the size beyond which regions are split is not changed");
        }
        rt.spawn(take_beats(control.clone(), beats, answers, contacts));
        control.answer(questions, replies);
        Ok(Place::Here(Hosted { bound: self, next_id: control.next_id(), control }))
    }
}

/// Takes beats of this node in until every sender is gone, and hands each core what it is answered.
async fn take_beats(
    control: Control,
    beats: Receiver<Beat>,
    answers: Vec<Sender<BeatAnswer>>,
    contacts: Keeper,
) {
    while let Some(beat) = beats.recv().await {
        let core = beat.core;
        let answer = control.take(beat).await;
        contacts.learn_stores(&answer.addresses);
        hand_out(&answers, core, answer);
    }
}

impl Place {
    /// The lowest id that has not been given out here; 0 if that is not known or not given here.
    pub(super) fn next_id(&self) -> u64 {
        match self {
            Self::Here(hosted) => hosted.next_id,
            Self::Elsewhere(..) => 0,
        }
    }

    /// Serves the PD API, or sends on who asks for it and registers the stores, which are served at `stores`.
    ///
    /// # Errors
    /// The scheduler refuses a store.
    pub(super) async fn serve(
        self,
        rt: &Rt,
        (config, plan): (&Config, &Plan),
        board: Board,
        speaker: Option<Speaker>,
        stores: &[SocketAddr],
    ) -> Result<SchedulerShard, StartError> {
        match self {
            Self::Here(hosted) => Ok(hosted.serve(rt, plan, board, speaker)),
            Self::Elsewhere(Bound { listener, addr }, remote) => {
                let addresses = stores.iter().map(|addr| advertised(config, *addr)).collect();
                remote.register(addresses).await?;
                let health = Health::default();
                let client = Rc::new(SchedulerClient::new(rt, plan.schedulers.clone()));
                let service =
                    Elsewhere::new(plan.identity.cluster, plan.schedulers.clone(), client, health.clone());
                Ok(serve(rt, (listener, addr), service, health, (board, plan.cores), None))
            }
        }
    }
}

/// Serves one of the two on the PD port, and posts its numbers.
fn serve<S: grpc::Service>(
    rt: &Rt,
    (listener, addr): (Listener, SocketAddr),
    service: S,
    health: Health,
    slot: (Board, usize),
    control: Option<Control>,
) -> SchedulerShard {
    let options = grpc::Options::default();
    let connections_max = options.connections_max as u64;
    let server = Rc::new(grpc::serve(rt, listener, service, options));
    rt.spawn(post(rt.clone(), server.clone(), slot, (connections_max, control)));
    SchedulerShard { addr, health, server }
}

impl Hosted {
    /// Serves the PD API. Stores that join are dialled in the name of `speaker`, if a store of this node can speak.
    fn serve(self, rt: &Rt, plan: &Plan, board: Board, speaker: Option<Speaker>) -> SchedulerShard {
        let Self { bound: Bound { listener, addr }, control, next_id: _ } = self;
        let health = Health::default();
        let pd = Pd::new(control.clone(), health.clone());
        let pd = match speaker {
            Some(speaker) => pd.admitting(Dialer::new(rt, speaker)),
            None => pd,
        };
        serve(rt, (listener, addr), pd, health, (board, plan.cores), Some(control))
    }
}

impl SchedulerShard {
    /// Says that no further calls are wanted, and serves those that come.
    pub(super) fn announce(&self) {
        self.health.set_serving(false);
    }

    /// Accepts nothing more, and lets calls finish within `patience`.
    pub(super) async fn stop(&self, patience: Duration) {
        self.health.set_serving(false);
        self.server.drain(patience).await;
    }
}

/// Leaves copies of the scheduler shard's numbers on the board, in the slot after those of the data cores: where a node has fewer stores
/// than cores, that is not the number of the root core.
async fn post(
    rt: Rt,
    server: Rc<grpc::Handle>,
    (board, slot): (Board, usize),
    (connections_max, control): (u64, Option<Control>),
) {
    loop {
        board.post(CoreReport {
            core: slot,
            grpc: server.stats(),
            grpc_requests: server.ended(),
            grpc_connections_max: connections_max,
            scheduler: control.as_ref().map(Control::numbers),
            busy: rt.cpu_clock().read().unwrap_or_default(),
            ..CoreReport::default()
        });
        rt.sleep(REPORT_EVERY).await;
    }
}
