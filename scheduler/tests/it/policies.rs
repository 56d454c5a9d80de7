//! Policies beyond the course's: load over stores and cores, splits, draining, keeping leaders away.

use scheduler::balance::shift::{Judge, Shift};
use scheduler::config::MIB;
use scheduler::operator::{Cause, Intent, Step};
use scheduler::placement::Board;
use scheduler::{
    Config, Key, Lifecycle, Load, NodeId, PeerId, Policy, Proposal, Reason, RegionId, RegionReport, Rng,
    StoreDescriptor, StoreId,
};

use crate::kit::Mock;

fn mock(stores: &[(u64, u64)]) -> Mock {
    let mut mock = Mock::new(3);
    for (store, node) in stores {
        mock.put(StoreDescriptor::new(StoreId(*store), NodeId(*node), format!("store{store}")));
    }
    mock
}

fn busy_region(mock: &mut Mock, id: u64, stores: &[u64], read: u64, write: u64) {
    let mut report = mock.region(id, stores);
    report.load = Load { read_bytes: read * MIB, write_bytes: write * MIB, ..Load::default() };
    mock.report(report);
}

fn hot(mock: &Mock) -> Result<Proposal, Reason> {
    let influence = mock.influence();
    let view = mock.view(&influence);
    let mut round = scheduler::balance::hot::propose(&view, &mut Rng::new(1), 1);
    round.proposals.pop().ok_or_else(|| round.refusal.expect("a reason").reason)
}

#[test]
fn a_store_hot_by_reads_hands_leadership_over_and_one_hot_by_writes_a_replica() {
    let mut mock = mock(&[(1, 1), (2, 2), (3, 3), (4, 4)]);
    busy_region(&mut mock, 1, &[1, 2, 3], 40, 0);
    busy_region(&mut mock, 2, &[1, 2, 3], 30, 0);
    let transfer = hot(&mock).expect("store 1 serves all reads");
    assert_eq!(transfer.policy, Policy::HotRegion);
    assert!(matches!(transfer.intent, Intent::TransferLeader { to: StoreId(2 | 3) }), "{transfer:?}");

    let mut mock = self::mock(&[(1, 1), (2, 2), (3, 3), (4, 4)]);
    for id in 1..=4 {
        busy_region(&mut mock, id, &[1, 2, 3], 0, 20);
    }
    let moved = hot(&mock).expect("store 4 bears nothing");
    assert!(matches!(moved.intent, Intent::MoveReplica { to: StoreId(4), .. }), "{moved:?}");
}

#[test]
fn one_hot_region_alone_stays_where_it_is_because_moving_it_would_only_move_the_heat() {
    let mut mock = mock(&[(1, 1), (2, 2), (3, 3), (4, 4)]);
    busy_region(&mut mock, 1, &[1, 2, 3], 40, 0);
    let (difference, needed) = (40 * MIB as i64, 80 * MIB as i64);
    assert_eq!(hot(&mock), Err(Reason::WithinTolerance { difference, needed }));
    let mut quiet = self::mock(&[(1, 1), (2, 2), (3, 3)]);
    busy_region(&mut quiet, 1, &[1, 2, 3], 0, 0);
    assert!(matches!(hot(&quiet), Err(Reason::WithinTolerance { .. })));
}

#[test]
fn a_busy_core_relocates_to_an_idle_sibling_and_never_to_another_node() {
    let mut mock = mock(&[(10, 1), (11, 1), (20, 2), (30, 3)]);
    for id in 1..=6 {
        busy_region(&mut mock, id, &[10, 20, 30], 10 + id, 0);
    }
    // Sizes are even, as far as it goes.
    for id in 7..=11 {
        busy_region(&mut mock, id, &[11, 20, 30], 0, 0);
    }
    let influence = mock.influence();
    let view = mock.view(&influence);
    let round = scheduler::balance::core::propose(&view, &mut Rng::new(1), 8);
    let [relocation] = &round.proposals[..] else { panic!("{round:?}") };
    assert_eq!(relocation.intent, Intent::Relocate { from: StoreId(10), to: StoreId(11) });
    assert_eq!(relocation.cause, Cause::Hot);
}

#[test]
fn a_core_that_is_full_exchanges_a_hot_region_for_a_quiet_one() {
    let mut mock = mock(&[(10, 1), (11, 1), (20, 2), (30, 3)]);
    for id in 1..=4 {
        busy_region(&mut mock, id, &[10, 20, 30], 20, 0);
    }
    for id in 5..=9 {
        busy_region(&mut mock, id, &[11, 20, 30], 0, 0);
    }
    let influence = mock.influence();
    let view = mock.view(&influence);
    let round = scheduler::balance::core::propose(&view, &mut Rng::new(1), 8);
    let intents: Vec<&Intent> = round.proposals.iter().map(|proposal| &proposal.intent).collect();
    let (one, other) = (StoreId(10), StoreId(11));
    assert_eq!(
        intents,
        [&Intent::Relocate { from: one, to: other }, &Intent::Relocate { from: other, to: one }]
    );
}

/// What would even out load and make sizes or leader counts less even is refused with that as the reason.
#[test]
fn load_gives_way_to_sizes_and_leader_counts() {
    let mut mock = mock(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)]);
    for id in 1..=4 {
        busy_region(&mut mock, id, &[1, 2, 3], 0, 20);
    }
    // The other stores bear nothing and are as large; their only region is of no size to come back.
    let large = RegionReport { size_bytes: 40 * MIB, ..mock.region(9, &[4, 5, 6]) };
    mock.report(large);
    assert_eq!(hot(&mock), Err(Reason::SizesWouldSpread));
    let opinions = |mock: &Mock, region| {
        let influence = mock.influence();
        let opinions = scheduler::why::why(
            &mock.view(&influence),
            mock.cluster.region(RegionId(region)).expect("known"),
        );
        let refusals = opinions.into_iter().filter_map(Result::err);
        refusals.filter(|refusal| refusal.policy == Policy::HotRegion).map(|refusal| refusal.reason).collect()
    };
    let busy: Vec<Reason> = opinions(&mock, 1);
    assert_eq!(busy, [Reason::SizesWouldSpread; 9], "three replicas, three stores each");
    let quiet: Vec<Reason> = opinions(&mock, 9);
    assert_eq!(quiet, [], "it is not hot");
    mock.config.disabled = vec![Policy::HotRegion];
    assert_eq!(opinions(&mock, 1), [Reason::Disabled; 9]);

    let mut mock = self::mock(&[(1, 1), (2, 2), (3, 3)]);
    mock.config.leader_tolerance = 0;
    for id in 1..=3 {
        busy_region(&mut mock, id, &[1, 2, 3], 40, 0);
        mock.leader_region(id + 3, &[2, 1, 3]);
        mock.leader_region(id + 6, &[3, 1, 2]);
    }
    let influence = mock.influence();
    let view = mock.view(&influence);
    let info = mock.cluster.region(RegionId(1)).expect("known");
    let shift = Shift::of_leadership(info, StoreId(1), StoreId(2));
    assert_eq!(Judge::new(&view).permits(&shift), Err(Reason::LeadersWouldSpread));
    mock.config.leader_tolerance = 1;
    let view = mock.view(&influence);
    assert_eq!(Judge::new(&view).permits(&shift), Ok(()), "within the tolerance of balance-leader");
}

#[test]
fn a_hot_region_goes_in_exchange_for_a_quiet_one_where_sizes_are_even() {
    let mut mock = mock(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)]);
    for id in 1..=4 {
        busy_region(&mut mock, id, &[1, 2, 3], 0, 20);
    }
    for id in 5..=8 {
        busy_region(&mut mock, id, &[4, 5, 6], 0, 0);
    }
    let influence = mock.influence();
    let view = mock.view(&influence);
    let round = scheduler::balance::hot::propose(&view, &mut Rng::new(1), 2);
    let [out, back] = &round.proposals[..] else { panic!("{round:?}") };
    let ends = |proposal: &Proposal| proposal.intent.stores().collect::<Vec<_>>();
    let (from, to) = (ends(out)[0], ends(out)[1]);
    assert!(from.0 <= 3 && to.0 >= 4, "{out:?}");
    assert_eq!(ends(back), [to, from]);
    assert!(out.region.0 <= 4 && back.region.0 >= 5, "{out:?} {back:?}");

    let round = scheduler::balance::hot::propose(&view, &mut Rng::new(1), 1);
    assert!(round.proposals.is_empty(), "never half an exchange: {round:?}");
    assert!(matches!(round.refusal.expect("a reason").reason, Reason::LimitReached(_)));
}

#[test]
fn leadership_goes_along_where_a_hot_replica_leads() {
    let mut mock = Mock::new(1);
    for store in 1..=2 {
        mock.put(StoreDescriptor::new(StoreId(store), NodeId(store), format!("store{store}")));
    }
    for id in 1..=4 {
        busy_region(&mut mock, id, &[1], 0, 20);
    }
    let moved = hot(&mock).expect("store 2 bears nothing");
    assert_eq!(moved.intent, Intent::MoveLeader { from: StoreId(1), to: StoreId(2) });
    let influence = mock.influence();
    let operator = moved.build(&mock.view(&influence), &mut || Some(77)).expect("built");
    let transfer = Step::TransferLeader { peer: PeerId(77), store: StoreId(2) };
    assert!(operator.steps.contains(&transfer), "{:?}", operator.steps);
}

#[test]
fn empty_regions_are_spread_instead_of_gathering_on_the_smallest_store() {
    let mut mock = Mock::new(1);
    mock.config.store_moves_in_max = 1_000;
    mock.config.store_moves_out_max = 1_000;
    mock.cluster.set_weight_floor(MIB);
    for store in 1..=4 {
        mock.put(StoreDescriptor::new(StoreId(store), NodeId(store), format!("store{store}")));
    }
    for id in 1..=40 {
        let empty = RegionReport { size_bytes: 0, ..mock.region(id, &[1]) };
        mock.report(empty);
    }
    let influence = mock.influence();
    let view = mock.view(&influence);
    let mut board = Board::new(&view);
    let round = scheduler::balance::region::propose(&view, &mut board, &mut Rng::new(1), 1_000);
    for proposal in round.proposals {
        let to = proposal.intent.stores().nth(1).expect("a move");
        let report = RegionReport { size_bytes: 0, ..mock.region(proposal.region.0, &[to.0]) };
        mock.report(report);
    }
    let counts: Vec<u64> = (1..=4).map(|store| mock.cluster.counters(StoreId(store)).regions()).collect();
    assert!(counts.iter().all(|count| (8..=12).contains(count)), "{counts:?}");
    mock.cluster.check().expect("counters equal a recount");
    mock.cluster.set_weight_floor(2 * MIB);
    mock.cluster.check().expect("counters equal a recount with another floor");
    assert_eq!(mock.cluster.counters(StoreId(1)).weight_bytes, counts[0] * 2 * MIB);
}

#[test]
fn oversized_regions_are_split_unless_a_replica_lags() {
    let mut mock = mock(&[(1, 1), (2, 2), (3, 3)]);
    let mut report = mock.region(1, &[1, 2, 3]);
    let ask = |mock: &Mock| {
        let influence = mock.influence();
        let info = mock.cluster.region(RegionId(1)).expect("known");
        let verdict = scheduler::check::split::check(&mock.view(&influence), info);
        verdict.map(|proposal| proposal.cause).map_err(|refusal| refusal.reason)
    };
    mock.report(report.clone());
    assert_eq!(ask(&mock), Err(Reason::Content));
    report.size_bytes = Config::default().region_size_max_bytes + 1;
    mock.report(report.clone());
    assert_eq!(ask(&mock), Ok(Cause::Oversized));
    report.pending = vec![report.region.peers[2].id];
    mock.report(report.clone());
    assert_eq!(ask(&mock), Err(Reason::Unhealthy));
    report.pending.clear();
    report.size_bytes = MIB;
    mock.report(report);
    assert_eq!(ask(&mock), Err(Reason::Content));
}

#[test]
fn an_offline_store_is_emptied_within_its_limit_and_reported_drained_at_the_end() {
    let mut mock = mock(&[(1, 1), (2, 2), (3, 3), (4, 4)]);
    mock.config.store_moves_out_max = 3;
    for id in 1..=10 {
        mock.leader_region(id, &[1, 2, 3]);
    }
    mock.set_lifecycle(2, Lifecycle::Offline);
    let influence = mock.influence();
    let view = mock.view(&influence);
    let mut board = Board::new(&view);
    let round = scheduler::ask::drain::propose(&view, &mut board, 100, 100);
    assert_eq!(round.proposals.len(), 3);
    let leaves =
        |proposal: &Proposal| proposal.intent == Intent::MoveReplica { from: StoreId(2), to: StoreId(4) };
    assert!(round.proposals.iter().all(leaves));
    assert_eq!(round.refusal.map(|refusal| refusal.reason), Some(Reason::MovesOut(3)));
    assert!(!scheduler::ask::drain::is_drained(&view, StoreId(2)));
    mock.set_lifecycle(4, Lifecycle::Offline);
    let influence = mock.influence();
    assert!(scheduler::ask::drain::is_drained(&mock.view(&influence), StoreId(4)));
}

#[test]
fn leaders_leave_an_evicted_store_and_none_come_to_it() {
    let mut mock = mock(&[(1, 1), (2, 2), (3, 3)]);
    for id in 1..=4 {
        mock.leader_region(id, &[1, 2, 3]);
    }
    mock.evicting = [StoreId(1), StoreId(2)].into();
    let influence = mock.influence();
    let round = scheduler::ask::evict::propose(&mock.view(&influence), 100);
    assert_eq!(round.proposals.len(), 4);
    assert!(
        round.proposals.iter().all(|proposal| proposal.intent == Intent::TransferLeader { to: StoreId(3) })
    );
    mock.evicting = [StoreId(1), StoreId(2), StoreId(3)].into();
    let influence = mock.influence();
    let round = scheduler::ask::evict::propose(&mock.view(&influence), 100);
    assert_eq!(round.refusal.map(|refusal| refusal.reason), Some(Reason::NoStore));
}

#[test]
fn presplit_passes_over_keys_at_which_a_region_begins() {
    let mut mock = mock(&[(1, 1), (2, 2), (3, 3)]);
    mock.leader_region(5, &[1, 2, 3]);
    let begin = mock.cluster.region(RegionId(5)).expect("known").region.range.start().clone();
    let inside = Key::from([begin.as_bytes(), b"x"].concat());
    let influence = mock.influence();
    let round =
        scheduler::ask::presplit::propose(&mock.view(&influence), &[inside.clone(), begin, inside.clone()]);
    assert_eq!(round.proposals.len(), 1);
    assert_eq!(round.proposals[0].intent, Intent::Split { keys: vec![inside] });
}

/// A store refuses a split with more, and would be asked for it again and again.
#[test]
fn presplit_cuts_a_region_at_no_more_keys_than_one_entry_takes() {
    let mut mock = mock(&[(1, 1)]);
    mock.leader_region(5, &[1]);
    let begin = mock.cluster.region(RegionId(5)).expect("known").region.range.start().clone();
    let key = |n: usize| Key::from([begin.as_bytes(), format!("{n:04}").as_bytes()].concat());
    let keys: Vec<Key> = (0..1000).rev().map(key).collect();
    let influence = mock.influence();
    let round = scheduler::ask::presplit::propose(&mock.view(&influence), &keys);
    let first: Vec<Key> = (0..scheduler::ask::presplit::KEYS_MAX).map(key).collect();
    let intents: Vec<_> = round.proposals.into_iter().map(|proposal| proposal.intent).collect();
    assert_eq!(intents, [Intent::Split { keys: first }]);
}

/// A new cluster that is to have three replicas has one of each region until nodes join, and clients cut it meanwhile.
#[test]
fn presplit_does_not_wait_for_replicas() {
    let mut mock = mock(&[(1, 1)]);
    mock.leader_region(5, &[1]);
    let begin = mock.cluster.region(RegionId(5)).expect("known").region.range.start().clone();
    let inside = Key::from([begin.as_bytes(), b"x"].concat());
    let influence = mock.influence();
    let round = scheduler::ask::presplit::propose(&mock.view(&influence), &[inside]);
    assert_eq!((round.proposals.len(), round.refusal), (1, None));
}
