//! From one core to the stores of the whole node.
//!
//! A request with a route belongs to the store whose port it came to; that store's guard answers for it. A request without
//! one is sent to whichever store owns the key, in place if it lives on this core, by one message otherwise, with the region and the
//! version that the routes of this moment name: what meets another one there is sent on ([`super::retry`]). What spans regions is
//! taken apart and put together again ([`super::send`]); it is atomic per region only.
//!
//! Every store publishes to all cores when its regions change; each core takes that into its routes, at once and whole.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use engine::rt::chan::Receiver;
use engine::rt::local::{Answer, oneshot};
use engine::rt::{Mono, Rt};

use super::order::Order;
use super::remote::Remote;
use super::retry::{RETRIED_FOR, Routed, Waiting};
use crate::memory::Memory;
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::request::{Op, Out, Outcome, Route};
use crate::shard::Shard;
use crate::shard::handing::Handed;
use crate::shard::links::{CoreLinks, CoreMessage};
use crate::shard::placed::StreamId;
use crate::shard::reply::Reply;
use crate::shard::routes::{Place, PlaceChange, Routes, Source};
use crate::shard::unwanted::Unwanted;

/// Batches of messages handled before other tasks of the core get a turn.
const BATCHES_MAX: usize = 64;

/// One core's view of the node.
pub struct Dispatch {
    rt: Rt,
    /// By the index of every store of the node: the store, if it is on this core.
    shards: Vec<Option<Shard>>,
    /// Why stores of this core could not be opened, by their index on the node.
    fenced: BTreeMap<usize, String>,
    whole: Whole,
    /// As they are now; see [`super::retry`] for what was sent by older ones.
    routes: RefCell<Routes>,
    /// When the routes changed last; nothing if they are those of the start.
    changed: Cell<Option<Mono>>,
    /// Which writes of which keys are in flight.
    order: Rc<Order>,
    /// What was sent where no region is any more.
    waiting: Waiting,
    links: Rc<CoreLinks>,
    /// The way to other nodes; nothing on a core without a store.
    remote: Option<Remote>,
    memory: Memory,
    /// Where operations went since this was last asked.
    went: Cell<Went>,
}

/// The stores of one core, by their index on the node.
#[derive(Debug)]
pub struct LocalStores {
    /// Those that serve.
    pub shards: BTreeMap<usize, Shard>,
    /// Why the others could not be opened.
    pub fenced: BTreeMap<usize, String>,
}

/// What a core knows of the whole node.
#[derive(Debug)]
pub struct Whole {
    /// Which core hosts each store.
    pub core_of: Vec<usize>,
    /// The largest command that a region takes, bytes.
    pub command_bytes_max: usize,
    /// Pairs asked of one region at a time when a scan spans several.
    pub scan_pairs_max: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Went {
    #[default]
    Nowhere,
    /// All to this other core.
    To(usize),
    /// At least one to a store of this core, or to a second one.
    Elsewhere,
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here: Vec<_> = self.shards.iter().flatten().map(Shard::store).collect();
        write!(f, "core {} with stores {here:?}", self.rt.core())
    }
}

impl Dispatch {
    /// Joins the stores of this core to those of the others.
    pub fn start(
        rt: &Rt,
        LocalStores { shards: open, fenced }: LocalStores,
        whole: Whole,
        places: Vec<Place>,
        (links, remote): (Rc<CoreLinks>, Option<Remote>),
        inbox: Receiver<Vec<CoreMessage>>,
        memory: Memory,
    ) -> Rc<Self> {
        let mut shards = vec![None; whole.core_of.len()];
        open.into_iter().for_each(|(store, shard)| shards[store] = Some(shard));
        let routes = RefCell::new(Routes::new(places));
        let (order, waiting, went) = (Rc::default(), Waiting::default(), Cell::default());
        let dispatch = Rc::new(Self {
            rt: rt.clone(),
            shards,
            fenced,
            whole,
            routes,
            changed: Cell::new(None),
            order,
            waiting,
            links,
            remote,
            memory,
            went,
        });
        let receiving = dispatch.clone();
        rt.spawn(async move { receiving.receive(inbox).await });
        rt.spawn(dispatch.clone().keep_retrying());
        for (store, shard) in dispatch.shards.iter().enumerate() {
            if let Some(shard) = shard {
                rt.spawn(dispatch.clone().watch(store, shard.clone()));
            }
        }
        dispatch
    }

    pub(super) fn submit(
        self: &Rc<Self>,
        stream: StreamId,
        home: usize,
        route: Option<Route>,
        op: Op,
    ) -> Routed {
        if route.is_none() {
            return self.send(stream, op);
        }
        let (answer, pending) = oneshot();
        self.deliver(home, route, op, answer);
        Routed::once(pending)
    }

    /// What a `Get` of `key` comes to, if a store of this core can say so at once.
    /// It counts as a read if `keep` has room for it.
    pub(super) fn get_now(
        &self,
        home: usize,
        route: Option<&Route>,
        key: &[u8],
        keep: impl FnOnce(Outcome) -> Option<Outcome>,
    ) -> Option<Outcome> {
        if route.is_some() {
            return self.shard(home)?.get_now(route, key, keep);
        }
        let routes = self.routes();
        // What another node leads is asked there.
        let place = routes.find(key).filter(|place| place.leader.is_none())?;
        let Source::Store(store) = place.source else { return None };
        let outcome = self.shard(store)?.get_now(Some(&place.route()), key, keep)?;
        // Where the region has moved, the read has to be sent on.
        Some(outcome).filter(|outcome| !outcome.as_ref().is_err_and(Refusal::has_moved))
    }

    pub(super) fn rt(&self) -> &Rt {
        &self.rt
    }

    /// The routes as they are now. Borrowed between awaits only.
    pub(super) fn routes(&self) -> Ref<'_, Routes> {
        self.routes.borrow()
    }

    pub(super) const fn command_bytes_max(&self) -> usize {
        self.whole.command_bytes_max
    }

    pub(super) const fn scan_pairs_max(&self) -> usize {
        self.whole.scan_pairs_max
    }

    /// Whether keys that no store has may be on their way to one: the routes have changed lately.
    pub(super) fn is_changing(&self) -> bool {
        self.changed.get().is_some_and(|changed| self.rt.now().since(changed) < RETRIED_FOR)
    }

    pub(super) const fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// An operation goes to no other core of this node.
    pub(super) fn goes_elsewhere(&self) {
        self.went.set(Went::Elsewhere);
    }

    pub(super) fn order(&self) -> &Rc<Order> {
        &self.order
    }

    pub(super) const fn links(&self) -> &Rc<CoreLinks> {
        &self.links
    }

    pub(super) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Takes over what a store has published.
    fn published(&self, store: usize, changes: Vec<PlaceChange>) {
        if !planted(Bug::RoutesKept) && self.routes_mut().publish(store, changes) {
            self.changed.set(Some(self.rt.now()));
        }
    }

    /// The routes, to change them. Borrowed for one change only.
    pub(super) fn routes_mut(&self) -> RefMut<'_, Routes> {
        self.routes.borrow_mut()
    }

    /// Publishes to this core and the others what a store here has, whenever that changes.
    async fn watch(self: Rc<Self>, store: usize, shard: Shard) {
        let changed = shard.routes_changed();
        loop {
            changed.wait().await;
            let mut changes = shard.take_place_changes(store);
            changes.retain(|change| !self.routes().has_published(change, store));
            if !changes.is_empty() {
                self.links.publish(store, &changes);
                self.published(store, changes);
            }
        }
    }

    /// This core's bounds on what clients make it hold.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The other core to which all operations went since this was last asked.
    pub(super) fn take_forwarded(&self) -> Option<usize> {
        match self.went.take() {
            Went::To(core) => Some(core),
            Went::Nowhere | Went::Elsewhere => None,
        }
    }

    fn shard(&self, store: usize) -> Option<&Shard> {
        self.shards.get(store)?.as_ref()
    }

    /// A store of this core.
    ///
    /// # Errors
    /// It is fenced, or on another core.
    pub(super) fn open_shard(&self, store: usize) -> Result<&Shard, Refusal> {
        match (self.shard(store), self.fenced.get(&store)) {
            (Some(shard), _) => Ok(shard),
            (None, Some(why)) => Err(Refusal::Stopped(why.clone())),
            (None, None) => Err(Refusal::RegionNotFound { region_id: 0 }),
        }
    }

    /// Hands an operation to a store, here or on its core.
    pub(super) fn deliver(&self, store: usize, route: Option<Route>, op: Op, answer: Answer<Outcome>) {
        if let Some(why) = self.fenced.get(&store) {
            self.went.set(Went::Elsewhere);
            return answer.send(Err(Refusal::Stopped(why.clone())));
        }
        match (self.shard(store), self.whole.core_of.get(store)) {
            (Some(shard), _) => {
                self.went.set(Went::Elsewhere);
                shard.submit(route, op, Reply::local(answer));
            }
            (None, Some(&core)) => {
                self.went.set(match self.went.get() {
                    Went::Nowhere => Went::To(core),
                    Went::To(other) if other == core => Went::To(core),
                    Went::To(_) | Went::Elsewhere => Went::Elsewhere,
                });
                let answer = match planted(Bug::AnsweredEarly) && matches!(op, Op::Put { .. }) {
                    true => {
                        answer.send(Ok(Out::Done));
                        oneshot().0
                    }
                    false => answer,
                };
                self.links.forward(core, store, route, op, answer);
            }
            (None, None) => answer.send(Err(Refusal::RegionNotFound { region_id: 0 })),
        }
    }

    /// A store here takes in what a sibling hands over, beside what else arrives.
    fn take_handed(&self, (from, id): (usize, u64), to: usize, handed: Handed) {
        let (shard, links) = (self.shard(to).cloned(), self.links.clone());
        self.rt.spawn(async move {
            let taken = match shard {
                Some(shard) => shard.take_handed(handed).await,
                None => Err(Unwanted::Stopped),
            };
            links.answer_handed(from, id, taken);
        });
    }

    async fn receive(&self, inbox: Receiver<Vec<CoreMessage>>) {
        let mut batches = Vec::new();
        while inbox.recv_batch(&mut batches, BATCHES_MAX).await {
            for message in batches.drain(..).flatten() {
                match message {
                    CoreMessage::Request { from, id, store, route, op } => {
                        let reply = Reply::remote(from, id, self.links.clone());
                        match (self.shard(store), self.fenced.get(&store)) {
                            (Some(shard), _) => {
                                if planted(Bug::AppliedTwice) && matches!(op, Op::Modify { .. }) {
                                    shard.submit(route, op.clone(), Reply::local(oneshot().0));
                                }
                                shard.submit(route, op, reply);
                            }
                            (None, Some(why)) => reply.send(Err(Refusal::Stopped(why.clone()))),
                            (None, None) => reply.send(Err(Refusal::RegionNotFound { region_id: 0 })),
                        }
                    }
                    CoreMessage::Peers { to, sign, messages } => {
                        if let Some(shard) = self.shard(to).filter(|_| !planted(Bug::SiblingsUnheard)) {
                            shard.hear(sign);
                            shard.receive(messages).await;
                        }
                    }
                    CoreMessage::Handed { from, id, to, handed } => self.take_handed((from, id), to, *handed),
                    CoreMessage::Taken { id, taken } => self.links.taken(id, taken),
                    CoreMessage::Routes { store, changes } => self.published(store, changes),
                    CoreMessage::Answer { id, outcome } => self.take_answer(id, outcome),
                    CoreMessage::Closed { from } => self.links.closed(from),
                }
            }
        }
    }
}
