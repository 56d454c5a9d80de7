//! What operators are shown of the whole: regions page by page or the hottest of them, how many failures the cluster survives, and why
//! something is as it is.
//!
//! Only reads. A walk over the map pauses; what changes meanwhile is seen before or after.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use scheduler::operator::OperatorId;
use scheduler::{RegionId, RegionInfo, Role, StoreId, Verdict, View};

use super::{Control, time};
use crate::plant::{Bug, planted};

/// Regions of one page.
pub const PAGE_MAX: usize = 1024;
/// Regions that are looked at between two pauses.
const REGIONS_AT_ONCE: usize = 128;

/// A condition of a region that an operator looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionCondition {
    /// Its leader is not known.
    Leaderless,
    /// It has fewer live voters than it should have.
    Short,
    /// It has more replicas than it should have.
    Surplus,
    /// A replica is not caught up.
    Lagging,
    /// A replica is silent.
    Silent,
    /// It has a learner, or is in a joint configuration.
    Changing,
    /// It is larger than a region should be.
    Oversized,
    /// It has next to no data.
    Empty,
    /// An operator runs on it.
    Operated,
}

impl RegionCondition {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::Leaderless,
        Self::Short,
        Self::Surplus,
        Self::Lagging,
        Self::Silent,
        Self::Changing,
        Self::Oversized,
        Self::Empty,
        Self::Operated,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leaderless => "leaderless",
            Self::Short => "short",
            Self::Surplus => "surplus",
            Self::Lagging => "lagging",
            Self::Silent => "silent",
            Self::Changing => "changing",
            Self::Oversized => "oversized",
            Self::Empty => "empty",
            Self::Operated => "operated",
        }
    }

    /// The one of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|condition| condition.name() == name)
    }

    fn holds(self, view: &View<'_>, info: &RegionInfo) -> bool {
        let wanted = view.config.max_replicas;
        match self {
            Self::Leaderless => info.leader.is_none(),
            Self::Short => live_voters(view, info) < wanted,
            Self::Surplus => info.region.peers.len() as u64 > wanted,
            Self::Lagging => !info.pending().is_empty(),
            Self::Silent => !info.down().is_empty(),
            Self::Changing => {
                info.region.is_joint() || info.region.peers.iter().any(|peer| peer.role != Role::Voter)
            }
            Self::Oversized => info.size_bytes > view.config.region_size_max_bytes,
            Self::Empty => info.size_bytes == 0,
            Self::Operated => view.operators.get(info.id()).is_some(),
        }
    }
}

/// Voters of a region that can be presumed to answer.
pub(super) fn live_voters(view: &View<'_>, info: &RegionInfo) -> u64 {
    let is_live = |peer: &&scheduler::Peer| view.is_live(peer.store) && !info.is_down(peer.id);
    info.region.voters().filter(is_live).count() as u64
}

/// Which regions are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionSearch {
    /// Only those with a replica on this store.
    pub store: Option<StoreId>,
    /// Only those of which this holds.
    pub condition: Option<RegionCondition>,
    /// From the one on that has this key.
    pub from: Bytes,
    /// At most this many.
    pub limit: usize,
    /// Those with the most operations per second first, wherever they are.
    pub hottest: bool,
}

/// A region as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRegion {
    /// What was reported of it.
    pub info: RegionInfo,
    /// What holds of it.
    pub conditions: Vec<RegionCondition>,
    /// The operator that runs on it.
    pub operator: Option<OperatorId>,
}

/// How the cluster does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterStanding {
    /// Whether enough has been reported for the scheduler to act.
    pub prepared: bool,
    /// Regions that are known.
    pub regions: u64,
    /// Replicas that each is to have.
    pub replicas: u64,
    /// Regions with fewer live voters than that.
    pub short: u64,
    /// Regions without a known leader.
    pub leaderless: u64,
    /// Regions with fewer live voters than a majority.
    pub unavailable: u64,
    /// How many nodes may fail now so that every region still has a majority.
    pub survives: u64,
    /// Operators that run.
    pub operators: u64,
    /// Regions with a replica that is not caught up for long, although no one is away.
    pub lagging: u64,
}

impl Control {
    /// Asks everything that a policy may look at.
    fn view<T>(&self, ask: impl FnOnce(&View<'_>) -> T) -> T {
        let scheduler = self.0.scheduler.borrow();
        let influence = scheduler::operator::Influence::new();
        ask(&scheduler.view(&influence, time(&self.0.rt)))
    }

    /// A region by its id.
    pub fn region(&self, id: RegionId) -> Option<SeenRegion> {
        self.view(|view| view.cluster.region(id).map(|info| seen(view, info)))
    }

    /// Regions, and the first key after the last of them if there may be more.
    pub async fn regions(&self, search: &RegionSearch) -> (Vec<SeenRegion>, Option<Bytes>) {
        let limit = search.limit.clamp(1, PAGE_MAX);
        if search.hottest {
            return (self.hottest(search, limit).await, None);
        }
        let (mut found, mut from, budget) = (Vec::new(), Some(search.from.clone()), self.budget());
        while let Some(key) = from.take() {
            let room = limit - found.len();
            let (page, next) = self.page(search, &key, room);
            found.extend(page);
            if found.len() >= limit {
                return (found, next);
            }
            from = next;
            budget.tick().await;
        }
        (found, None)
    }

    /// Up to `room` regions of some from `from` on, and where the next ones begin.
    fn page(&self, search: &RegionSearch, from: &[u8], room: usize) -> (Vec<SeenRegion>, Option<Bytes>) {
        self.view(|view| {
            let (mut found, mut next, mut looked) = (Vec::new(), None, 0);
            for info in view.cluster.regions_from(from, REGIONS_AT_ONCE) {
                looked += 1;
                next = info.region.range.end_bound().map(Bytes::copy_from_slice);
                if is_sought(view, search, info) {
                    found.push(seen(view, info));
                }
                if found.len() >= room {
                    break;
                }
            }
            // Fewer than were asked for: the end of the map, or a gap, after which nothing is known.
            let is_over = looked < REGIONS_AT_ONCE && found.len() < room;
            (found, next.filter(|_| !is_over))
        })
    }

    async fn hottest(&self, search: &RegionSearch, limit: usize) -> Vec<SeenRegion> {
        let mut hottest = BinaryHeap::new();
        self.walk(|view, info| {
            if is_sought(view, search, info) && info.load.ops() > 0 {
                hottest.push(Reverse((info.load.ops(), info.id())));
                if hottest.len() > limit {
                    hottest.pop();
                }
            }
        })
        .await;
        let ids = hottest.into_sorted_vec().into_iter();
        ids.filter_map(|Reverse((_, region))| self.region(region)).collect()
    }

    /// Shows every region to `look`, and pauses.
    pub(super) async fn walk(&self, mut look: impl FnMut(&View<'_>, &RegionInfo)) {
        let (mut from, budget) = (Some(Bytes::new()), self.budget());
        while let Some(key) = from.take() {
            from = self.view(|view| {
                let (mut next, mut looked) = (None, 0);
                for info in view.cluster.regions_from(&key, REGIONS_AT_ONCE) {
                    looked += 1;
                    look(view, info);
                    next = info.region.range.end_bound().map(Bytes::copy_from_slice);
                }
                next.filter(|_| looked == REGIONS_AT_ONCE)
            });
            budget.tick().await;
        }
    }

    /// How the cluster does.
    pub async fn standing(&self) -> ClusterStanding {
        let prepared = self.0.scheduler.borrow_mut().prepare(time(&self.0.rt));
        let (replicas, operators) = self.view(|view| (view.config.max_replicas, view.operators.len() as u64));
        let mut standing = ClusterStanding {
            prepared,
            replicas,
            operators,
            survives: u64::MAX,
            ..ClusterStanding::default()
        };
        self.walk(|view, info| {
            let (live, voters) = (live_voters(view, info), info.region.voters().count() as u64);
            let majority = voters / 2 + 1;
            standing.regions += 1;
            standing.short += u64::from(live < replicas);
            standing.leaderless += u64::from(info.leader.is_none());
            standing.unavailable += u64::from(live < majority);
            standing.survives = standing.survives.min(live.saturating_sub(majority));
            standing.lagging += u64::from(self.0.scheduler.borrow().lags_long(info, view.now));
        })
        .await;
        if standing.regions == 0 {
            standing.survives = 0;
        }
        if !planted(Bug::StateNotCounted) {
            standing.survives = standing.survives.min(self.state_survives());
        }
        standing
    }

    /// How many members of the group that keeps the scheduler's state may fail so that it still has a majority: without one there are no
    /// ids, no timestamps, and nothing is repaired.
    fn state_survives(&self) -> u64 {
        let group = self.0.group.borrow();
        let Some(group) = &*group else { return u64::MAX };
        self.view(|view| {
            let (live, voters) = group
                .voters()
                .fold((0, 0), |(live, all), peer| (live + u64::from(view.is_live(peer.store)), all + 1));
            live.saturating_sub(voters / 2 + 1)
        })
    }

    /// Why a region is as it is, and for each store that has none of its replicas why it gets none; nothing if it is not known.
    pub fn why_region(&self, region: RegionId) -> Option<(Verdict, Vec<(StoreId, String)>)> {
        let (verdict, stores) = self.0.scheduler.borrow().verdict_of_region(region, time(&self.0.rt))?;
        let says = |(store, reason): (StoreId, Option<scheduler::Reason>)| {
            (store, reason.map_or_else(|| "could take a replica".to_owned(), |reason| reason.to_string()))
        };
        Some((verdict, stores.into_iter().map(says).collect()))
    }

    /// Why a store is as it is; nothing if it has not joined.
    pub fn why_store(&self, store: StoreId) -> Option<Verdict> {
        self.0.scheduler.borrow().verdict_of_store(store, time(&self.0.rt))
    }
}

fn is_sought(view: &View<'_>, search: &RegionSearch, info: &RegionInfo) -> bool {
    search.store.is_none_or(|store| info.region.peer_on(store).is_some())
        && search.condition.is_none_or(|condition| condition.holds(view, info))
}

fn seen(view: &View<'_>, info: &RegionInfo) -> SeenRegion {
    SeenRegion {
        info: info.clone(),
        conditions: RegionCondition::ALL
            .into_iter()
            .filter(|condition| condition.holds(view, info))
            .collect(),
        operator: view.operators.get(info.id()).map(|operator| operator.id),
    }
}
