//! A node that joins a cluster, and one that has joined: its identity, its registration, and its cores' way to the scheduler.
//!
//! ```text
//! first start    ask a member for ids ─► IDENT (bootstrap, with ids and the scheduler's place) ─► stores are created ─► IDENT (ready)
//!                ─► ports open ─► every store registers and is dialled back ─► serves
//! later start    IDENT ─► stores ─► ports ─► registers again, which changes nothing where nothing has moved
//! ```
//!
//! A crash before IDENT leaves an empty directory, and ids that are never used. One after it leaves a directory that goes on with the ids
//! in it, and needs no flag. A refusal of the registration ends the start, because a store that the cluster refuses must not speak. One
//! that was taken out of use for good has nothing to say: the others of its node serve ([`standing`](super::standing)). A scheduler that does not answer does not, because a member of a cluster that starts anew cannot wait for the others.
//!
//! While the node serves, beats of its cores go to the scheduler, the newest of each core: here, if it is hosted here, or else to the node
//! that hosts it, one at a time. Each answer goes back to its core, and says where the scheduler may be when it moves. Nothing of them is kept: a beat that does not get through is followed by the next. Questions of its cores about regions that are
//! elsewhere go the same way, over a connection of their own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::chan::{Receiver, Sender};
use engine::rt::local::Bell;
use engine::rt::{Mono, Rt};
use futures_util::future::select;
use scheduler::{NewRegion, NodeId, Region};

use super::StartError;
use super::contacts::Keeper;
use super::hosting::Host;
use super::identity::{Ident, Identity};
use super::standing::Standing;
use crate::config::{Config, Limits};
use crate::control::{Beat, BeatAnswer, hand_out, locate};
use crate::plant::{Bug, planted};
use crate::secret::ClusterSecret;
use crate::wire::grpc::Code;
use crate::wire::pd::client::{CallError, Joined, Places, Registered, SchedulerClient};

/// How long a start waits for the scheduler to enter its stores.
const REGISTER_MAX: Duration = Duration::from_secs(20);
/// The pause between two attempts.
const REGISTER_PAUSE: Duration = Duration::from_millis(500);
/// Beats that are taken over at a time.
const BEATS_MAX: usize = 64;
/// The shortest time between two warnings that beats do not get through.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The identity for an empty directory, from the cluster that `members` are of.
///
/// # Errors
/// Why the node may not join; nothing has been written.
pub(super) async fn identity(
    rt: &Rt,
    config: &Config,
    limits: &Limits,
    members: &[SocketAddr],
) -> Result<(Identity, Vec<SocketAddr>), StartError> {
    let stores = limits.cores;
    // Ports that the kernel picks are not known yet.
    let settled = if config.base_port == 0 { 0 } else { stores };
    let addresses =
        (0..settled).map(|index| super::serve::advertised(config, config.store_addr(index))).collect();
    let joined = SchedulerClient::join(rt, (members, config.cluster_secret), stores, addresses, 0).await;
    let Joined { cluster, node, first_store, schedulers } = joined.map_err(|error| misdirected(&error))?;
    tracing::info!(cluster = format!("{cluster:016x}"), node, first_store, "the node joins a cluster");
    Ok((Identity { cluster, node, stores, first_store }, schedulers))
}

/// Why no member has answered, or none as a member would: the first thing to look at is the port.
fn misdirected(error: &CallError) -> StartError {
    match error {
        CallError::Refused(status) if status.code != Code::Unimplemented => cannot(error),
        CallError::NoHost(_) => cannot(error),
        CallError::Refused(_) | CallError::Unreachable(_) => {
            StartError(format!("{}: is this the PD port of a member (its base_port)?", cannot(error).0))
        }
    }
}

fn cannot(error: &CallError) -> StartError {
    StartError(format!("this node cannot join: {error}"))
}

/// Why the stores are refused, of a node that joins as of one that comes back and has joined nothing now.
fn not_entered(error: impl fmt::Display) -> StartError {
    StartError(format!("the cluster does not take this node's stores: {error}"))
}

/// Whether a directory that has an identity fits the cluster that it is to join. Whoever does not answer says nothing against it.
///
/// # Errors
/// It belongs to another cluster.
pub(super) async fn check_identity(
    rt: &Rt,
    ident: &mut Ident,
    (members, secret): (&[SocketAddr], Option<ClusterSecret>),
) -> Result<(), StartError> {
    let cluster = ident.identity.cluster;
    match SchedulerClient::join(rt, (members, secret), ident.identity.stores, Vec::new(), cluster).await {
        Ok(joined) => {
            tracing::info!(
                cluster = format!("{cluster:016x}"),
                node = ident.identity.node,
                "the directory is of that cluster already; --join is not needed"
            );
            if !ident.schedulers.is_empty() {
                ident.schedulers = joined.schedulers;
            }
            Ok(())
        }
        Err(error @ CallError::Refused(_)) => Err(cannot(&error)),
        Err(error @ (CallError::NoHost(_) | CallError::Unreachable(_))) => {
            tracing::warn!(%error, "the directory has an identity, and goes on with it; --join is not needed");
            Ok(())
        }
    }
}

/// The way of a node to the scheduler, here or on another node.
pub(super) struct Remote {
    rt: Rt,
    /// Where it is hosted here.
    host: Host,
    places: Places,
    client: SchedulerClient,
    /// For questions, which do not wait for beats.
    map: SchedulerClient,
    /// Its stores, and which of them are still in use.
    standing: Standing,
    /// Where this node serves the PD API.
    place: String,
    contacts: Keeper,
    /// Where each store is reached, by number; empty before they serve.
    addresses: RefCell<Vec<String>>,
    /// Whether the scheduler has entered all stores that are in use.
    registered: Cell<bool>,
    entered: Bell,
    said: Cell<Option<Mono>>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} at {:?}", self.standing.identity().node, self.client)
    }
}

impl Remote {
    /// To the scheduler that `host` hosts, or else at one of `places`. This node serves the PD API at `place`.
    pub(super) fn new(
        rt: &Rt,
        standing: Standing,
        host: Host,
        (places, place): (Places, String),
        secret: Option<ClusterSecret>,
        contacts: Keeper,
    ) -> Rc<Self> {
        Rc::new(Self {
            rt: rt.clone(),
            host,
            client: SchedulerClient::new(rt, places.clone(), secret),
            map: SchedulerClient::new(rt, places.clone(), secret),
            places,
            standing,
            place,
            contacts,
            addresses: RefCell::default(),
            registered: Cell::new(false),
            entered: Bell::default(),
            said: Cell::new(None),
        })
    }

    /// Registers the stores, which serve at `addresses` by now. If the scheduler does not answer in time, that goes on beside the beats. A
    /// scheduler that is hosted here needs none of it.
    ///
    /// # Errors
    /// The scheduler refuses a store, or all of them were taken out of use.
    pub(super) async fn register(&self, addresses: Vec<String>) -> Result<(), StartError> {
        *self.addresses.borrow_mut() = addresses;
        let began = self.rt.now();
        loop {
            if self.host.control().is_some() {
                return Ok(());
            }
            match self.register_once().await {
                Ok(()) => return self.standing.check().map_err(not_entered),
                // While the leader changes this node may have been asked itself.
                Err(CallError::Refused(_)) if self.host.control().is_some() => return Ok(()),
                Err(error @ CallError::Refused(_)) => return Err(not_entered(error)),
                Err(error @ (CallError::NoHost(_) | CallError::Unreachable(_)))
                    if self.rt.now().since(began) > REGISTER_MAX =>
                {
                    tracing::warn!(%error, "the node serves, and its stores are not registered; that is tried on");
                    return Ok(());
                }
                Err(CallError::NoHost(_) | CallError::Unreachable(_)) => self.rt.sleep(REGISTER_PAUSE).await,
            }
        }
    }

    async fn register_once(&self) -> Result<(), CallError> {
        let addresses = self.addresses.borrow().clone();
        for (index, address) in addresses.iter().enumerate() {
            let Identity { cluster, node, stores: _, first_store: _ } = *self.standing.identity();
            let store = self.standing.identity().store_id(index);
            if self.standing.is_gone(store) {
                continue;
            }
            match self.client.put_store(cluster, store, NodeId(node), address.clone()).await? {
                Registered::InUse => {}
                Registered::OutOfUse => self.standing.note_gone(store),
            }
        }
        self.registered.set(!addresses.is_empty());
        self.entered.ring();
        Ok(())
    }

    /// Brings beats to the scheduler until every core has ended, and hands each core what it is answered. Those from before a scheduler on
    /// another node has entered the stores wait for that.
    pub(super) async fn forward(self: Rc<Self>, beats: Receiver<Beat>, answers: Vec<Sender<BeatAnswer>>) {
        let (mut arrived, mut newest) = (Vec::new(), BTreeMap::new());
        loop {
            let more = async { Some(beats.recv_batch(&mut arrived, BEATS_MAX).await) };
            let entered = async {
                self.entered.wait().await;
                None
            };
            // When the last core has ended there is nothing more to say.
            if select(pin!(more), pin!(entered)).await.factor_first().0 == Some(false) {
                return;
            }
            // A newer beat says all that an older one said.
            newest.extend(arrived.drain(..).map(|beat| (beat.core, beat)));
            if let Some(control) = self.host.control() {
                self.standing.note_refused(None);
                for (core, beat) in std::mem::take(&mut newest) {
                    let answer = control.take(self.standing.in_use(beat)).await;
                    self.learn_stores(&answer);
                    self.learn_members(&control.others());
                    hand_out(&answers, core, answer);
                }
                continue;
            }
            if !self.registered.get() && !self.addresses.borrow().is_empty() {
                let entered = self.register_once().await;
                match &entered {
                    Ok(()) => self.standing.note_refused(None),
                    // Another attempt may have entered them meanwhile.
                    Err(CallError::Refused(_)) if self.registered.get() => {}
                    Err(CallError::Refused(why)) => self.standing.note_refused(Some(why.message.clone())),
                    // It says nothing for or against them.
                    Err(CallError::NoHost(_) | CallError::Unreachable(_)) => {}
                }
                self.note(entered.err());
            }
            if self.registered.get() {
                for (core, beat) in std::mem::take(&mut newest) {
                    self.report(core, &self.standing.in_use(beat), &answers).await;
                }
            }
        }
    }

    /// Notes where stores are, and which of this node's are out of use.
    fn learn_stores(&self, answer: &BeatAnswer) {
        self.contacts.learn_stores(&answer.addresses);
        answer.gone.iter().for_each(|store| self.standing.note_gone(*store));
    }

    /// Notes where the scheduler may be when it is not where it is now, over restarts, too.
    fn learn_members(&self, members: &[(NodeId, String)]) {
        if planted(Bug::PlacesForgotten) {
            return;
        }
        self.contacts.learn_nodes(members);
        let places = members.iter().map(|(_, place)| place).filter(|place| **place != self.place);
        places.for_each(|place| self.places.learn(place));
    }

    /// Sends one beat to the scheduler on another node.
    async fn report(&self, core: usize, beat: &Beat, answers: &[Sender<BeatAnswer>]) {
        let Identity { cluster, node, stores: _, first_store: _ } = *self.standing.identity();
        match self.client.report(cluster, NodeId(node), &self.place, beat).await {
            Ok(_) if planted(Bug::AnswersLost) => {}
            Ok(answer) => {
                self.standing.note_refused(None);
                self.learn_stores(&answer);
                self.learn_members(&answer.members);
                hand_out(answers, core, answer);
            }
            Err(error) => {
                if let CallError::Refused(status) = &error
                    && status.code == Code::NotFound
                {
                    // Its stores are known at other addresses, or not at all.
                    self.registered.set(false);
                }
                self.note(Some(error));
            }
        }
    }

    /// Asks the scheduler what this node's cores ask, one at a time, until every core has ended.
    pub(super) async fn ask(
        self: Rc<Self>,
        questions: Receiver<locate::Question>,
        replies: Vec<Sender<locate::Answer>>,
    ) {
        while let Some(locate::Question { core, id, sought }) = questions.recv().await {
            let found = match sought {
                locate::Sought::Key(key) => locate::Found::Regions(self.where_is(key).await),
                locate::Sought::Parts(region, count) => {
                    locate::Found::Parts(self.parts_of(&region, count).await)
                }
            };
            locate::reply(&replies, core, (id, found));
        }
    }

    /// Where a key is; nothing if the scheduler does not answer.
    async fn where_is(&self, key: Vec<u8>) -> locate::Regions {
        let found = match self.host.control() {
            Some(control) => Ok(control.locate(&key, locate::REGIONS_MAX)),
            None => self.map.locate(self.standing.identity().cluster, key, locate::REGIONS_MAX).await,
        };
        found.unwrap_or_else(|error| {
            self.note(Some(error));
            locate::Regions::default()
        })
    }

    /// Ids for parts of a region, or why there are none.
    async fn parts_of(&self, region: &Region, count: u32) -> Result<Vec<NewRegion>, String> {
        match self.host.control() {
            Some(control) => control.ask_splits(region, count).await.map_err(|error| error.to_string()),
            None => {
                let parts = self.map.parts(self.standing.identity().cluster, region, count).await;
                parts.map_err(|error| error.to_string())
            }
        }
    }

    fn note(&self, error: Option<CallError>) {
        let now = self.rt.now();
        let Some(error) = error else { return };
        if self.said.get().is_none_or(|said| now.since(said) >= SAY_EVERY) {
            self.said.set(Some(now));
            tracing::warn!(%error, "the scheduler does not answer this node");
        }
    }
}
