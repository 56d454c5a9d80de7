//! One round of all policies.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::{Scheduler, Tick};
use crate::ask::{drain, evict};
use crate::balance::{Round, core, hot, leader, region};
use crate::check::split::Splits;
use crate::check::{merge, replica};
use crate::cluster::RegionInfo;
use crate::filter::{Reason, Refusal, View};
use crate::id::RegionId;
use crate::operator::{Operator, Outcome, Policy};
use crate::pace::Pace;
use crate::placement::Board;
use crate::range::Key;
use crate::time::Time;

impl Scheduler {
    /// Runs one round of all policies.
    pub fn tick(&mut self, now: Time) -> Tick {
        let mut tick = Tick::default();
        if std::mem::take(&mut self.urgent) {
            self.pace = Pace::default();
        }
        self.end_overdue(now);
        if self.prepare(now) {
            let influence = self.operators.influence(&self.cluster, &self.config);
            let mut board = Board::new(&self.view(&influence, now));
            for policy in Self::ROUND {
                self.run(policy, &mut board, now, &mut tick);
            }
        } else {
            tick.refusals.push(Refusal::new(Policy::ReplicaCheck, Reason::Preparing));
        }
        tick.wait_ms = self.pace.after(tick.admitted);
        tick
    }

    /// What a round consists of: repairs first, then what was asked for, then what would be nicer.
    const ROUND: [Policy; 9] = [
        Policy::ReplicaCheck,
        Policy::Drain,
        Policy::SplitCheck,
        Policy::EvictLeader,
        Policy::MergeCheck,
        Policy::BalanceRegion,
        Policy::BalanceLeader,
        Policy::HotRegion,
        Policy::BalanceCore,
    ];

    fn run(&mut self, policy: Policy, board: &mut Board, now: Time, tick: &mut Tick) {
        if !self.config.is_enabled(policy) {
            tick.refusals.push(Refusal::new(policy, Reason::Disabled));
            return;
        }
        let limit = self.config.limit_of(policy);
        let left = self.config.round_operators_max.saturating_sub(tick.admitted as u64);
        if left == 0 {
            tick.refusals.push(Refusal::new(policy, Reason::RoundFull(self.config.round_operators_max)));
            return;
        }
        let room = limit.saturating_sub(self.operators.count_of(policy)).min(left);
        let Some(max) = usize::try_from(room).ok().filter(|room| *room > 0) else {
            tick.refusals.push(Refusal::new(policy, Reason::LimitReached(limit)));
            return;
        };
        let round = self.round_of(policy, board, now, max);
        self.admit_all(round, now, tick);
    }

    fn round_of(&mut self, policy: Policy, board: &mut Board, now: Time, max: usize) -> Round {
        let mut rng = self.rng.clone();
        let patrol = usize::try_from(self.config.patrol_batch_regions).unwrap_or(usize::MAX);
        let batch = match policy {
            Policy::ReplicaCheck => self.next_batch(patrol),
            Policy::SplitCheck => self.to_split(now, patrol),
            Policy::MergeCheck => self.next_small(patrol),
            Policy::Drain
            | Policy::BalanceRegion
            | Policy::BalanceLeader
            | Policy::BalanceCore
            | Policy::HotRegion
            | Policy::EvictLeader
            | Policy::Scatter
            | Policy::PreSplit
            | Policy::Admin => Vec::new(),
        };
        let influence = match policy {
            // The steps of what was begun a moment ago say more than its proposals did, such as who will lead.
            Policy::EvictLeader
            | Policy::MergeCheck
            | Policy::BalanceLeader
            | Policy::HotRegion
            | Policy::BalanceCore => self.operators.influence(&self.cluster, &self.config),
            Policy::ReplicaCheck
            | Policy::Drain
            | Policy::BalanceRegion
            | Policy::SplitCheck
            | Policy::Scatter
            | Policy::PreSplit
            | Policy::Admin => board.influence().clone(),
        };
        let view = self.view(&influence, now);
        let round = match policy {
            Policy::ReplicaCheck => check_replicas(&view, board, &batch, max),
            Policy::SplitCheck => check_splits(&view, &batch, max),
            Policy::MergeCheck => merge::propose(&view, &batch, max),
            Policy::Drain => drain::propose(&view, board, patrol, max),
            Policy::EvictLeader => evict::propose(&view, max),
            Policy::BalanceRegion => region::propose(&view, board, &mut rng, max),
            Policy::BalanceLeader => leader::propose(&view, &mut rng, max),
            Policy::HotRegion => hot::propose(&view, &mut rng, max),
            Policy::BalanceCore => core::propose(&view, &mut rng, max),
            Policy::Scatter | Policy::PreSplit | Policy::Admin => Round::default(),
        };
        self.rng = rng;
        round
    }

    /// The regions that look as if they should be split.
    fn to_split(&self, now: Time, max: usize) -> Vec<RegionId> {
        let influence = self.no_influence();
        let view = self.view(&influence, now);
        let splits = Splits::new(&view);
        let known = self.attention.iter().filter_map(|region| self.cluster.region(*region));
        known.filter(|info| splits.cause(info).is_some()).map(RegionInfo::id).take(max).collect()
    }

    /// The next regions of all that are small.
    fn next_small(&mut self, max: usize) -> Vec<RegionId> {
        if self.config.region_merge_bytes == 0 {
            return Vec::new();
        }
        let (mut end, mut seen, mut small) = (Key::empty(), 0, Vec::new());
        for info in self.cluster.regions_from(&self.merge_from, max) {
            end = info.region.range.end().clone();
            seen += 1;
            small.extend(merge::is_small(&self.config, info).then(|| info.id()));
        }
        self.merge_from = if seen < max { Key::empty() } else { end };
        small
    }

    /// The regions that the checkers look at in this round: some that want attention, and the patrol's next ones.
    fn next_batch(&mut self, max: usize) -> Vec<RegionId> {
        let after = self.attended.map_or(Bound::Unbounded, Bound::Excluded);
        let mut batch: Vec<RegionId> =
            self.attention.range((after, Bound::Unbounded)).copied().take(max).collect();
        self.attended = if batch.len() < max { None } else { batch.last().copied() };
        let mut end = Key::empty();
        for info in self.cluster.regions_from(&self.patrol_from, max) {
            end = info.region.range.end().clone();
            batch.push(info.id());
        }
        self.patrol_from = end;
        batch
    }

    /// Operators end in time, and when whom they need is silent, even if their region never reports again.
    fn end_overdue(&mut self, now: Time) {
        let influence = self.no_influence();
        let view = self.view(&influence, now);
        let over = |operator: &Operator| Some((operator.region, operator.ends_unheard(&view)?));
        let over: Vec<(RegionId, Outcome)> = self.operators.iter().filter_map(over).collect();
        for (region, outcome) in over {
            if let Some(operator) = self.operators.take(region) {
                self.operators.end(operator, outcome, now, &self.config);
            }
        }
        self.operators.forget(now, &self.config);
        self.cluster.forget_cuts(self.config.split_merge_interval_ms, now);
    }
}

fn check_replicas(view: &View<'_>, board: &mut Board, batch: &[RegionId], max: usize) -> Round {
    let mut round = Round::default();
    let mut seen = BTreeSet::new();
    for info in batch.iter().filter_map(|region| view.cluster.region(*region)) {
        if round.proposals.len() >= max {
            break;
        }
        if !seen.insert(info.id()) {
            continue;
        }
        match replica::check(view, board, info, Policy::ReplicaCheck) {
            Ok(proposal) => {
                board.count(view, info, &proposal.intent);
                round.proposals.push(proposal);
            }
            Err(refusal) if refusal.reason == Reason::Content => {}
            Err(refusal) => round.refusal = Some(refusal),
        }
    }
    round
}

fn check_splits(view: &View<'_>, batch: &[RegionId], max: usize) -> Round {
    let (mut round, splits) = (Round::default(), Splits::new(view));
    for info in batch.iter().filter_map(|region| view.cluster.region(*region)) {
        if round.proposals.len() >= max {
            break;
        }
        match splits.check(info) {
            Ok(proposal) => round.proposals.push(proposal),
            Err(refusal) if refusal.reason == Reason::Content => {}
            Err(refusal) => round.refusal = Some(refusal),
        }
    }
    round
}
