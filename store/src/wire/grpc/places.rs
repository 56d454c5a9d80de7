//! Which connections keep their place on a port that has no more.
//!
//! ```text
//! has asked for nothing           gives way to a new connection, the oldest first
//! a client, it has called         keeps its place, up to a number of them; beyond it is served and gives way
//! a member, or calls as one       keeps its place
//! the guest's                     gives way until the guest knows whose it is, and keeps its place then
//! ```
//! So whoever opens connections and says nothing on them keeps out none who does, and clients leave room for members.
//!
//! Most places are shared with the other ports of the node. Where all are taken, a connection to any of them that has asked for nothing gives
//! its place to one that comes here, and the reverse ([`silent`](crate::descriptors::silent)). Clients that have asked may take all of them. So a port that has a guest has some of its own,
//! which a client is served from, and gives way: it keeps a shared place or none.
//!
//! Invariants: a place that is taken is returned once, when its connection has ended; a new connection takes the place of one that gave
//! way only once that is gone, so there are never more than places; a client that keeps its place has a shared one.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Service;
use super::newcomers::Newcomer;
use super::server::State;
use crate::descriptors::silent::Unasked;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Of one that has not shown it, or of one client too many.
    Newcomer,
    /// Of a client.
    Client,
    /// Of a node or an operator.
    Member,
}

/// The place of one connection.
pub(super) struct Place<S: Service> {
    state: Rc<State<S>>,
    from: SocketAddr,
    standing: Cell<Standing>,
    /// Whether the place is one of the port's own.
    is_own: Cell<bool>,
    /// As long as it has a shared place and gives way.
    unasked: RefCell<Option<Unasked>>,
    /// Whether gRPC counts it among its connections.
    is_counted: bool,
    /// It says when it is gone, so it is dropped last.
    newcomer: Newcomer,
}

impl<S: Service> Place<S> {
    /// Takes a place for a connection of `from`, that of another one if there is none; nothing where all are kept.
    pub(super) async fn take(state: &Rc<State<S>>, from: SocketAddr) -> Option<Self> {
        let mut why_not = try_take(state);
        if let Err(why) = why_not
            && let Some(gone) = state.newcomers.end_oldest()
        {
            state.count(|stats| stats.turned_away += 1);
            tracing::warn!(%from, "a gRPC connection that has asked for nothing gives way to another one: {why}");
            gone.await;
            why_not = try_take(state);
        }
        if why_not == Err(KEPT) && state.options.descriptors.take_from_silent(&state.rt, None).await {
            why_not = Ok(false);
        }
        let is_own = match why_not {
            Ok(is_own) => Cell::new(is_own),
            Err(why) => {
                state.count(|stats| stats.turned_away += 1);
                tracing::warn!(%from, "a gRPC connection is refused: {why}");
                return None;
            }
        };
        state.count(|stats| {
            stats.accepted += 1;
            stats.connections += 1;
        });
        let (state, standing) = (state.clone(), Cell::new(Standing::Newcomer));
        let newcomer = state.newcomers.enter();
        let list = || state.options.descriptors.list(&state.entry, newcomer.number());
        let unasked = RefCell::new((!is_own.get()).then(list));
        Some(Self { state, from, standing, is_own, unasked, is_counted: true, newcomer })
    }

    pub(super) fn state(&self) -> &Rc<State<S>> {
        &self.state
    }

    /// Where the connection comes from.
    pub(super) fn from(&self) -> SocketAddr {
        self.from
    }

    /// Goes on with what a connection begins with for as long as a handshake may take; nothing if it has to give way, or if the server
    /// drains, which does not wait for those who have asked for nothing.
    pub(super) async fn begins<T>(&self, work: impl Future<Output = T>) -> Option<Option<T>> {
        let draining = self.state.drain.listen();
        let work = self.newcomer.unless_ended(self.state.rt.timeout(self.state.options.handshake, work));
        let mut work = pin!(work);
        poll_fn(|cx| match draining.poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => work.as_mut().poll(cx),
        })
        .await
    }

    /// Ready once it has to give way.
    pub(super) fn poll_gives_way(&self, cx: &Context<'_>) -> Poll<()> {
        self.newcomer.poll_ended(cx)
    }

    /// It is a member's.
    pub(super) fn keep(&self) {
        self.stand(Standing::Member);
    }

    /// A call has come, by which it may keep its place. Whether members make such calls is asked where it matters.
    pub(super) fn has_asked(&self, is_for_members: impl Fn() -> bool) {
        let clients_max = self.state.options.clients_max;
        let is_members = || clients_max < usize::MAX && is_for_members();
        let kept_max = clients_max.min(self.state.options.connections_max);
        match self.standing.get() {
            Standing::Newcomer | Standing::Client if is_members() => self.stand(Standing::Member),
            Standing::Newcomer if self.state.clients.get() < kept_max && self.share() => {
                self.stand(Standing::Client);
            }
            Standing::Newcomer | Standing::Client | Standing::Member => {}
        }
    }

    /// Takes a shared place in exchange for one of the port's own. Whether it has a shared one then.
    fn share(&self) -> bool {
        if self.is_own.get() && self.state.options.descriptors.take() {
            self.give_back();
            self.is_own.set(false);
        }
        !self.is_own.get()
    }

    /// Takes one of the port's own places in exchange for a shared one, if there is any left.
    fn own(&self) {
        if !self.is_own.get() && take_own(&self.state) {
            self.unasked.take();
            self.give_back();
            self.is_own.set(true);
        }
    }

    fn give_back(&self) {
        match self.is_own.get() {
            true => self.state.own_taken.set(self.state.own_taken.get() - 1),
            false => match self.newcomer.heir() {
                Some(heir) => self.state.options.descriptors.hand_over(&heir),
                None => self.state.options.descriptors.give_back(),
            },
        }
    }

    fn stand(&self, standing: Standing) {
        let clients = |standing| usize::from(standing == Standing::Client);
        let before = self.standing.replace(standing);
        self.state.clients.set(self.state.clients.get() + clients(standing) - clients(before));
        if standing != Standing::Newcomer {
            self.newcomer.settle();
            self.unasked.take();
        }
    }

    /// The connection is a guest's from now on, which says when it is to be kept. Until then it gives way as one does that has asked for
    /// nothing; nothing is returned if it did.
    pub(super) async fn leave_to_guest<T>(
        &mut self,
        serve: impl for<'a> FnOnce(&'a dyn Fn()) -> Pin<Box<dyn Future<Output = T> + 'a>>,
    ) -> Option<T> {
        self.leave(true);
        let keep = || {
            self.keep();
            self.own();
        };
        self.newcomer.unless_ended(serve(&keep)).await
    }

    /// The connection has ended, well or not; not counted as either if it had to give way.
    pub(super) fn ended(mut self, well: Option<bool>) {
        self.leave(well.unwrap_or(true));
    }

    /// A connection is not gRPC's any more.
    fn leave(&mut self, ended_well: bool) {
        if std::mem::take(&mut self.is_counted) {
            self.state.count(|stats| {
                stats.connections -= 1;
                stats.broken += u64::from(!ended_well);
            });
            self.state.idle.ring();
        }
    }
}

impl<S: Service> Drop for Place<S> {
    fn drop(&mut self) {
        self.leave(true);
        self.stand(Standing::Newcomer);
        self.unasked.take();
        self.give_back();
    }
}

/// Takes a place, one of the port's own if there is no other, or says which bound is in the way.
fn try_take<S: Service>(state: &State<S>) -> Result<bool, &'static str> {
    let is_full = state.stats.get().connections >= state.options.connections_max;
    if !is_full && state.options.descriptors.take() {
        return Ok(false);
    }
    match (take_own(state), is_full) {
        (true, _) => Ok(true),
        (false, true) => Err("limits.connections_max"),
        (false, false) => Err(KEPT),
    }
}

/// Why there is no place although the port itself may have more.
const KEPT: &str = "the other descriptors are kept for storage and for other ports, see LimitNOFILE";

/// Takes one of the port's own places, if there is any left.
fn take_own<S: Service>(state: &State<S>) -> bool {
    let taken = state.own_taken.get();
    let is_left = taken < state.options.own;
    state.own_taken.set(taken + usize::from(is_left));
    is_left
}
