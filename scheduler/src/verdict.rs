//! The one reason why a region or a store is as it is, for a person who asks.
//!
//! [`why`](crate::why) has every policy's opinion. Here the first question that has an answer decides, in this order:
//!
//! | of a region | of a store |
//! |---|---|
//! | may anything be decided yet? | is it gone, leaving or silent? |
//! | is something being done to it? | is it kept from leading? |
//! | does it lack what every step needs? | does it ask to be spared, or is it low on space? |
//! | what do the replicas need? | as many replicas on their way as may be? |
//! | is a store silent that has one? | |
//! | is its leader to go, is it to be split, would it be nicer elsewhere? | |
//! | is it small, and why is it not merged? | |
//!
//! Nothing is decided here: policies are asked what they would do now, so an answer is what the next round begins, or why
//! it does not.

use std::fmt;

use crate::balance::may_touch;
use crate::check::{merge, replica, split};
use crate::cluster::{Kind, RegionInfo};
use crate::filter::{Reason, Refusal, View};
use crate::id::{PeerId, StoreId};
use crate::operator::{Cause, Intent, OperatorId, Policy, Proposal};
use crate::placement::Board;
use crate::region::Region;
use crate::store::{Health, Store};
use crate::why::why;

/// Regions of a store that are asked why they are still there.
const ASKED_MAX: usize = 256;

/// Stores without a replica of a region, each with the reason why it gets none now; nothing where it could.
pub type Elsewhere = Vec<(StoreId, Option<Reason>)>;

/// Why something is as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too few regions have reported since the scheduler began, so nothing is done yet.
    Preparing,
    /// An operator runs.
    Runs {
        /// Its id.
        operator: OperatorId,
        /// Who had the idea.
        policy: Policy,
        /// The step that it is at, as text.
        step: String,
        /// Steps that are finished.
        finished: usize,
        /// All of its steps.
        steps: usize,
    },
    /// Something is wanted, and begins with one of the next rounds.
    Wants(Policy, String),
    /// Something is wanted or is to be looked at, and cannot be done: why.
    Stuck(Refusal),
    /// A store that has a replica is silent; after this time it is made up for elsewhere.
    Awaits {
        /// The store.
        store: StoreId,
        /// Until then, milliseconds.
        left_ms: u64,
    },
    /// A replica is not caught up.
    Lags {
        /// The store that has it.
        store: StoreId,
    },
    /// Nothing is wanted.
    Content,
    /// The store is gone for ever.
    Gone,
    /// The store is to be emptied and has these replicas left; the first of them that cannot leave.
    Leaves {
        /// Replicas that are left.
        replicas: u64,
        /// Why one stays.
        stays: Option<Refusal>,
    },
    /// The store is silent; after this time its replicas are made up for elsewhere.
    Silent {
        /// How it does.
        health: Health,
        /// Until then, milliseconds.
        left_ms: u64,
    },
    /// The store is kept from leading and leads these regions still; the first of them that stays.
    Evicted {
        /// Regions that it leads.
        leaders: u64,
        /// Why one stays.
        stays: Option<Refusal>,
    },
    /// The store takes no replicas now: why.
    Closed(Reason),
}

/// Why a region is as it is; `prepared` says whether the scheduler acts at all.
#[must_use]
pub fn of_region(view: &View<'_>, info: &RegionInfo, prepared: bool) -> Verdict {
    if !prepared {
        return Verdict::Preparing;
    }
    if let Some(operator) = view.operators.get(info.id()) {
        let step = operator.current().map_or_else(String::new, ToString::to_string);
        let (policy, finished, steps) = (operator.policy, operator.finished, operator.steps.len());
        return Verdict::Runs { operator: operator.id, policy, step, finished, steps };
    }
    let repair = replica::check(view, &Board::new(view), info, Policy::ReplicaCheck);
    match repair {
        Ok(proposal) => return wanted(view, &proposal),
        Err(refusal) if refusal.reason != Reason::Content => return Verdict::Stuck(refusal),
        Err(_) => {}
    }
    ailing(view, info)
        .or_else(|| evicted(view, info))
        .or_else(|| to_split(view, info))
        .or_else(|| why(view, info).into_iter().find_map(Result::ok).map(|proposal| wanted(view, &proposal)))
        .or_else(|| placed(view, info))
        .or_else(|| small(view, info))
        .unwrap_or(Verdict::Content)
}

/// A region that a person has placed, and that balance leaves there.
fn placed(view: &View<'_>, info: &RegionInfo) -> Option<Verdict> {
    view.operators.placed().rest_ms(info.id(), view.now)?;
    let rests = |refusal: &Refusal| matches!(refusal.reason, Reason::Placed(_));
    why(view, info).into_iter().filter_map(Result::err).find(rests).map(Verdict::Stuck)
}

/// A region that is small enough to be merged, and is not.
fn small(view: &View<'_>, info: &RegionInfo) -> Option<Verdict> {
    if !view.config.is_enabled(Policy::MergeCheck) {
        return None;
    }
    let refusal = merge::check(view, info).err()?;
    (refusal.reason != Reason::Content).then_some(Verdict::Stuck(refusal))
}

/// What a policy wants, as far as it is let.
fn wanted(view: &View<'_>, proposal: &Proposal) -> Verdict {
    let refuse = |reason| Verdict::Stuck(Refusal::new(proposal.policy, reason).of_region(proposal.region));
    if !view.config.is_enabled(proposal.policy) {
        return refuse(Reason::Disabled);
    }
    if !view.operators.has_room(proposal.policy, view.config) {
        return refuse(Reason::LimitReached(view.config.limit_of(proposal.policy)));
    }
    Verdict::Wants(proposal.policy, described(&proposal.intent))
}

fn described(intent: &Intent) -> String {
    let stores: Vec<String> = intent.stores().map(|store| store.to_string()).collect();
    let stores = stores.join(" and ");
    match intent {
        Intent::Split { keys } if keys.is_empty() => "a split in its middle".to_owned(),
        Intent::Split { keys } => format!("a split at {} keys", keys.len()),
        Intent::LeaveJoint => "an end to its joint configuration".to_owned(),
        Intent::Merge { into } => format!("a merge into {into}"),
        Intent::AddReplica { .. } => format!("a replica on {stores}"),
        Intent::RemoveReplica { .. } => format!("no replica on {stores}"),
        Intent::TransferLeader { .. } => format!("its leader on {stores}"),
        Intent::Promote { .. } => format!("a vote for the replica on {stores}"),
        Intent::MoveReplica { .. } | Intent::MoveLeader { .. } | Intent::Relocate { .. } => {
            format!("a replica moved between {stores}")
        }
    }
}

/// A store of a replica that is silent, or a replica that lags.
fn ailing(view: &View<'_>, info: &RegionInfo) -> Option<Verdict> {
    let down_ms = view.config.store_down_ms;
    for peer in &info.region.peers {
        let (store, said) = (peer.store, info.down().iter().find(|down| down.peer == peer.id));
        let silent = view.cluster.store(store).filter(|known| !known.is_live(view.now, view.config));
        let silent_ms = silent.map(|known| view.now.ms_since(known.last_heard));
        if let Some(silent_ms) = silent_ms.max(said.map(|down| down.down_ms)) {
            return Some(Verdict::Awaits { store, left_ms: down_ms.saturating_sub(silent_ms) });
        }
    }
    let store_of = |peer: &PeerId| info.region.peer(*peer).map(|peer| peer.store);
    info.pending().iter().find_map(store_of).map(|store| Verdict::Lags { store })
}

/// A leader that is to go.
fn evicted(view: &View<'_>, info: &RegionInfo) -> Option<Verdict> {
    let store = info.leader_store().filter(|store| view.evicting.contains(store))?;
    Some(match leaves(view, info, store) {
        Ok(proposal) => wanted(view, &proposal),
        Err(refusal) => Verdict::Stuck(refusal),
    })
}

/// Where the leadership of a region goes that is to leave `store`.
fn leaves(view: &View<'_>, info: &RegionInfo, store: StoreId) -> Result<Proposal, Refusal> {
    let refuse = |reason| Refusal::new(Policy::EvictLeader, reason).of_region(info.id()).of_store(store);
    may_touch(view, info, None).map_err(refuse)?;
    let to = info.follower_stores().find(|store| view.may_lead_on(*store).is_ok());
    let to = to.ok_or(refuse(Reason::NoStore))?;
    Ok(Proposal::new(info, Policy::EvictLeader, Cause::Evicted, Intent::TransferLeader { to }))
}

fn to_split(view: &View<'_>, info: &RegionInfo) -> Option<Verdict> {
    split::cause(view, info)?;
    Some(match split::check(view, info) {
        Ok(proposal) => wanted(view, &proposal),
        Err(refusal) => Verdict::Stuck(refusal),
    })
}

/// Why a store is as it is.
#[must_use]
pub fn of_store(view: &View<'_>, store: &Store, prepared: bool) -> Verdict {
    let (id, health) = (store.id(), store.health(view.now, view.config));
    let left_ms = view.config.store_down_ms.saturating_sub(view.now.ms_since(store.last_heard));
    let replicas = view.cluster.counters(id).regions();
    match health {
        Health::Tombstone => return Verdict::Gone,
        _ if !prepared => return Verdict::Preparing,
        Health::Offline | Health::Down => {
            return Verdict::Leaves { replicas, stays: first_that_stays(view, id) };
        }
        Health::Disconnected | Health::Unhealthy => return Verdict::Silent { health, left_ms },
        Health::Up => {}
    }
    if view.evicting.contains(&id) {
        let led = view.cluster.peers_of(id, Kind::Leader).take(ASKED_MAX);
        let stays = led.filter_map(|info| leaves(view, info, id).err()).next();
        return Verdict::Evicted { leaders: view.cluster.counters(id).leaders, stays };
    }
    view.may_take(id).map_or_else(Verdict::Closed, |()| Verdict::Content)
}

/// Of the replicas on a store that is to be emptied, the first for which nothing can be done.
fn first_that_stays(view: &View<'_>, store: StoreId) -> Option<Refusal> {
    let board = Board::new(view);
    let kinds = [Kind::Leader, Kind::Follower, Kind::Learner];
    let all = kinds.into_iter().flat_map(|kind| view.cluster.peers_of(store, kind)).take(ASKED_MAX);
    let refusal = |info: &RegionInfo| {
        replica::check(view, &board, info, Policy::Drain)
            .err()
            .filter(|refusal| refusal.reason != Reason::Occupied)
    };
    let enabled = view.config.is_enabled(Policy::Drain);
    let off = (!enabled).then(|| Refusal::new(Policy::Drain, Reason::Disabled).of_store(store));
    off.or_else(|| all.filter_map(refusal).next())
}

/// For each store that has none of the region's replicas, why it gets none now; nothing where it could.
pub fn no_replica_on<'a>(
    view: &'a View<'a>,
    info: &'a RegionInfo,
) -> impl Iterator<Item = (StoreId, Option<Reason>)> + 'a {
    let region: &Region = &info.region;
    let others = view.cluster.stores().map(Store::id).filter(|store| region.peer_on(*store).is_none());
    others.map(|store| (store, crate::placement::may_place(view, info, None, store).err()))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stays = |f: &mut fmt::Formatter<'_>, stays: &Option<Refusal>| match stays {
            Some(refusal) => write!(f, "; one stays, {refusal}"),
            None => Ok(()),
        };
        match self {
            Self::Preparing => {
                f.write_str("the scheduler has begun lately, and acts once enough regions have reported")
            }
            Self::Runs { operator, policy, step, finished, steps } => {
                write!(
                    f,
                    "operator {} of {policy} runs: {step}, {finished} of {steps} steps done",
                    operator.0
                )
            }
            Self::Wants(policy, what) => write!(f, "{policy} wants {what}; that begins with the next round"),
            Self::Stuck(refusal) => write!(f, "{refusal}"),
            Self::Awaits { store, left_ms } => write!(
                f,
                "{store} is silent; its replica is made up for elsewhere if that lasts {} s more",
                left_ms / 1000
            ),
            Self::Lags { store } => write!(f, "its replica on {store} is not caught up; that is waited for"),
            Self::Content => f.write_str("is as it should be"),
            Self::Gone => f.write_str("is gone for ever"),
            Self::Leaves { replicas: 0, stays: _ } => {
                f.write_str("is to be emptied, and holds nothing any more")
            }
            Self::Leaves { replicas, stays: why } => {
                write!(f, "is to be emptied, and has {replicas} replicas left")?;
                stays(f, why)
            }
            Self::Silent { health, left_ms } => write!(
                f,
                "is {health}; its replicas are made up for elsewhere if that lasts {} s more",
                left_ms / 1000
            ),
            Self::Evicted { leaders, stays: why } => {
                write!(f, "is kept from leading, and leads {leaders} regions still")?;
                stays(f, why)
            }
            Self::Closed(reason) => write!(f, "takes no replicas now: it {reason}"),
        }
    }
}
