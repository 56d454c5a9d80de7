//! Whether this node hosts the scheduler: it does while the system group's replica on its first store leads, one term at a time.
//!
//! ```text
//! core of the replica ──News──▶ here    it leads in a new term   ──▶ the scheduler opens: state, empty map, its own office
//!                                       it leads no more         ──▶ it retires
//!                                       its store is closed      ──▶ where there is no other member it serves what needs no state
//! ```
//!
//! Life of what is hosted: `Unknown` (nothing heard, or the only voter that does not lead yet) → `Here` → `Elsewhere` → `Here` …; `Failed` is
//! an attempt to open that came to nothing, and is tried again as long as the replica leads. [`Host::enter`] is the one way in.
//!
//! While it is `Here`, nodes that are not heard are notified: a node finds the scheduler by what it heard last, and that may be lost.
//!
//! Nothing is decided here, and nothing is promised by being `Here`: what is given out rests on the office of the term.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::chan::{Receiver, Sender};
use engine::rt::local::Bell;
use futures_util::future::select;

use super::StartError;
use super::contacts::Keeper;
use crate::config::Config;
use crate::control::{Ask, Control, Member, News, Office};
use crate::plant::{Bug, planted};
use crate::region::system::fence::Fence;
use crate::secret::ClusterSecret;
use crate::wire::health::HealthService;
use crate::wire::pd::client::SchedulerClient;
use crate::wire::pd::port::Hosts;
use crate::wire::pd::{Dialer, Pd};
use crate::wire::peer::open::Speaker;

/// How often nodes that are not heard are notified where the scheduler is.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// How often an attempt to open is repeated.
const RETRY: Duration = Duration::from_millis(500);

/// What the node hosts.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per node")]
enum Hosted {
    /// It is not known yet.
    Unknown,
    /// Another node does, or none.
    Elsewhere,
    /// The scheduler, in this term, if it is one of several members.
    Here(Option<u64>, Pd, Control),
    /// It could not be opened: why, and whether there is no other member.
    Failed(String, bool),
}

/// What the scheduler is opened with.
#[derive(Debug)]
pub(super) struct Means {
    /// Where 0.1 kept the state.
    pub(super) dir: PathBuf,
    /// Who this member is.
    pub(super) member: Member,
    /// To the core of the replica.
    pub(super) asks: Sender<Ask>,
    /// What that core says of its leadership.
    pub(super) fence: Arc<Fence>,
    /// Whether no other node was ever heard of.
    pub(super) alone: bool,
    /// Where other nodes are.
    pub(super) contacts: Keeper,
    /// What health checks of the PD port answer.
    pub(super) health: HealthService,
}

/// The host. Cheap to clone; stays on the root core.
#[derive(Clone)]
pub(super) struct Host(Rc<Inner>);

struct Inner {
    rt: Rt,
    means: Means,
    replicas: Option<u64>,
    region_max_bytes: Option<u64>,
    secret: Option<ClusterSecret>,
    /// Dials stores that join, once a store of this node can speak.
    dialer: RefCell<Option<Dialer>>,
    hosted: RefCell<Hosted>,
    changed: Bell,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Host").field(&self.0.hosted).finish()
    }
}

impl Hosts for Host {
    fn hosted(&self) -> Option<Pd> {
        match &*self.0.hosted.borrow() {
            Hosted::Here(_, pd, _) => Some(pd.clone()),
            Hosted::Unknown | Hosted::Elsewhere | Hosted::Failed(..) => None,
        }
    }
}

impl Host {
    /// Hosts what `news` wants hosted, as long as the core runs. Stores that join are dialled in the name of `speaker`.
    pub(super) fn start(
        rt: &Rt,
        config: &Config,
        means: Means,
        speaker: Option<Speaker>,
        news: Receiver<News>,
    ) -> Self {
        let host = Self(Rc::new(Inner {
            rt: rt.clone(),
            means,
            replicas: config.replicas,
            region_max_bytes: config.region_max_bytes,
            secret: config.cluster_secret,
            dialer: RefCell::new(speaker.map(|speaker| Dialer::new(rt, speaker))),
            hosted: RefCell::new(Hosted::Unknown),
            changed: Bell::default(),
        }));
        let following = host.clone();
        drop(rt.spawn(async move { following.follow(news).await }));
        host
    }

    /// The scheduler, if it is hosted here now.
    pub(super) fn control(&self) -> Option<Control> {
        match &*self.0.hosted.borrow() {
            Hosted::Here(_, _, control) => Some(control.clone()),
            Hosted::Unknown | Hosted::Elsewhere | Hosted::Failed(..) => None,
        }
    }

    /// Waits until it is known what is hosted here; returns the lowest id that has not been given out, 0 if that is not known here.
    ///
    /// # Errors
    /// This node is the only member, and its state is gone, damaged or an older copy.
    pub(super) async fn settled(&self) -> Result<u64, StartError> {
        loop {
            match &*self.0.hosted.borrow() {
                Hosted::Here(_, _, control) => return Ok(control.next_id()),
                Hosted::Failed(why, true) => return Err(StartError(why.clone())),
                Hosted::Elsewhere | Hosted::Failed(_, false) => return Ok(0),
                Hosted::Unknown => {}
            }
            self.0.changed.wait().await;
        }
    }

    async fn follow(&self, news: Receiver<News>) {
        let mut last = None;
        loop {
            let next = async { Some(news.recv().await) };
            let again = async {
                self.0.rt.sleep(RETRY).await;
                None
            };
            match select(pin!(next), pin!(again)).await.factor_first().0 {
                Some(Some(said)) => {
                    last = Some(std::iter::from_fn(|| news.try_recv()).last().unwrap_or(said))
                }
                // The core of the replica has ended, so the node stops.
                Some(None) => return,
                None => {}
            }
            if let Some(said) = &last {
                self.act(said).await;
            }
        }
    }

    /// Opens or retires the scheduler as the replica stands.
    async fn act(&self, said: &News) {
        let held = match &*self.0.hosted.borrow() {
            Hosted::Here(term, ..) => Some(*term),
            Hosted::Unknown | Hosted::Elsewhere | Hosted::Failed(..) => None,
        };
        match said {
            News::Standing(standing) if standing.leads => {
                if held == Some(Some(standing.term)) || (held.is_some() && planted(Bug::OfficeKept)) {
                    return;
                }
                self.enter(Hosted::Unknown);
                let office = Office { term: standing.term, fence: self.0.means.fence.clone() };
                let opened = self.open(Some(office), standing.alone).await;
                self.enter(opened);
            }
            News::Standing(_) | News::Absent if planted(Bug::OfficeKept) && held.is_some() => {}
            News::Standing(standing) if standing.alone => self.enter(Hosted::Unknown),
            News::Standing(_) | News::Absent => self.enter(Hosted::Elsewhere),
            News::Closed(_, alone) => match (alone.unwrap_or(self.0.means.alone), held) {
                (true, Some(_)) => {}
                (true, None) => {
                    let opened = self.open(None, true).await;
                    self.enter(opened);
                }
                (false, _) => self.enter(Hosted::Elsewhere),
            },
        }
    }

    /// The one way from one state to the next.
    fn enter(&self, next: Hosted) {
        let before = self.0.hosted.replace(next);
        if let Hosted::Here(term, _, control) = before {
            control.retire();
            tracing::info!(term, "the scheduler is not hosted here any more");
        }
        self.0.changed.ring();
    }

    async fn open(&self, office: Option<Office>, alone: bool) -> Hosted {
        let Means { dir, member, asks, fence: _, alone: _, contacts, health } = &self.0.means;
        let (rt, term) = (&self.0.rt, office.as_ref().map(|office| office.term));
        let (member, asks) = (member.clone(), asks.clone());
        let opened = match office {
            Some(office) => Control::take_office(rt, dir, member, asks, office).await,
            None => Control::open(rt, dir, member, asks).await,
        };
        let control = match opened {
            Ok(control) => control,
            Err(error) => {
                tracing::warn!(term, %error, "the scheduler cannot be opened here");
                return Hosted::Failed(error.to_string(), alone);
            }
        };
        contacts.nodes().iter().for_each(|(node, place)| control.learn_place(*node, place));
        self.settle(&control).await;
        tracing::info!(term, "the scheduler is hosted here");
        if term.is_some() {
            let (rt, control) = (rt.clone(), control.clone());
            drop(self.0.rt.spawn(announce(rt, control, self.0.secret)));
        }
        let pd = Pd::new(control.clone(), health.clone());
        let pd = match self.0.dialer.borrow().clone() {
            Some(dialer) => pd.admitting(dialer),
            None => pd,
        };
        Hosted::Here(term, pd, control)
    }

    /// What every beginning does: it takes an id, so that a copy of the state from before it is known by its fewer ids, and sets what the
    /// configuration of this node says. On a full disk the ids of an earlier start are still there.
    async fn settle(&self, control: &Control) {
        if let Err(denied) = control.alloc_ids(1).await {
            tracing::warn!(reason = %denied, "the scheduler's state is not renewed");
        }
        if let Some(replicas) = self.0.replicas
            && let Err(denied) = control.set_replicas(replicas).await
        {
            tracing::warn!(replicas, reason = %denied, "the number of replicas is not changed");
        }
        if let Some(bytes) = self.0.region_max_bytes
            && let Err(denied) = control.set_region_max(bytes).await
        {
            tracing::warn!(bytes, reason = %denied, "the size beyond which regions are split is not changed");
        }
    }
}

/// Notifies nodes that are not heard where the scheduler is, until it is hosted elsewhere: one that was killed before it had written where the
/// others are knows of none of them, and no other notifies it.
async fn announce(rt: Rt, control: Control, secret: Option<ClusterSecret>) {
    let url = control.member().client_urls.first().cloned().unwrap_or_default();
    let place = url.trim_start_matches("http://").to_owned();
    while !control.is_retired() {
        for to in control.silent_places() {
            let cluster = (control.cluster_id(), secret);
            let said = SchedulerClient::announce(&rt, cluster, place.clone(), to.clone()).await;
            if let Err(why) = said {
                tracing::debug!(node = to, %why, "a node that is not heard does not answer");
            }
            if control.is_retired() {
                return;
            }
        }
        rt.sleep(ANNOUNCE_EVERY).await;
    }
}
