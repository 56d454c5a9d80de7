//! The course's lab 3C on balance-region, under the names of its tests, plus what influence adds to the base rule.
#![expect(non_snake_case, reason = "the tests keep the names under which the course knows them")]

use scheduler::config::MIB;
use scheduler::operator::{Kinds, Step};
use scheduler::placement::Board;
use scheduler::{Lifecycle, NodeId, Reason, Refusal, RegionId, Rng, StoreDescriptor, StoreId};

use crate::kit::{Mock, is_relocation, moved};

fn stores(mock: &mut Mock, sizes: &[(u64, u64)]) {
    for (id, size) in sizes {
        mock.region_store(*id, *size);
    }
}

#[test]
fn TestReplicas13C() {
    let mut mock = Mock::new(1);
    stores(&mut mock, &[(1, 60), (2, 80), (3, 80), (4, 160)]);
    mock.leader_region(1, &[4]);
    let operator = mock.balance_region().expect("store 4 is far larger");
    assert_eq!(moved(&operator), (4, 1));
    assert_eq!(operator.steps.len(), 3);
    assert!(matches!(operator.steps[1], Step::TransferLeader { store: StoreId(1), .. }));
    assert!(operator.kinds.contains(Kinds::BALANCE | Kinds::REGION | Kinds::LEADER));

    mock.set_lifecycle(1, Lifecycle::Offline);
    stores(&mut mock, &[(2, 60)]);
    let operator = mock.balance_region().expect("store 2 is the smallest in use");
    assert_eq!(moved(&operator), (4, 2));
    assert_eq!(operator.steps.len(), 3);

    mock.config.max_replicas = 3;
    assert_eq!(mock.balance_region(), None, "an under-replicated region is repaired first");
    mock.config.max_replicas = 1;
    assert!(mock.balance_region().is_some());
}

#[test]
fn TestReplicas33C() {
    let mut mock = Mock::new(3);
    stores(&mut mock, &[(1, 160), (2, 150), (3, 140)]);
    mock.leader_region(1, &[1, 2, 3]);
    assert_eq!(mock.balance_region(), None, "no free store");

    for (id, size) in [(4, 20), (5, 10), (6, 0)] {
        stores(&mut mock, &[(id, size)]);
        assert_eq!(mock.balance_region().map(|operator| moved(&operator)), Some((1, id)));
    }
    mock.silent_for(6, 5_000_000_000);
    assert_eq!(mock.balance_region().map(|operator| moved(&operator)), Some((1, 5)));

    mock.silent_for(5, 5_000_000_000);
    mock.silent_for(4, 5_000_000_000);
    stores(&mut mock, &[(7, 200)]);
    assert_eq!(mock.balance_region(), None, "store 7 is larger than the source");
}

#[test]
fn TestReplicas53C() {
    let mut mock = Mock::new(5);
    stores(&mut mock, &[(1, 40), (2, 50), (3, 60), (4, 70), (5, 280), (6, 10)]);
    mock.leader_region(1, &[1, 2, 3, 4, 5]);
    assert_eq!(mock.balance_region().map(|operator| moved(&operator)), Some((5, 6)));
    stores(&mut mock, &[(7, 50)]);
    assert_eq!(mock.balance_region().map(|operator| moved(&operator)), Some((5, 6)));
    mock.leader_region(1, &[2, 3, 4, 5, 6]);
    assert_eq!(mock.balance_region().map(|operator| moved(&operator)), Some((5, 1)));
    stores(&mut mock, &[(11, 290), (12, 80), (13, 70)]);
    mock.leader_region(1, &[2, 3, 11, 12, 13]);
    assert_eq!(mock.balance_region().map(|operator| moved(&operator)), Some((11, 6)));
}

#[test]
fn TestReplacePendingRegion3C() {
    let mut mock = Mock::new(3);
    stores(&mut mock, &[(1, 160), (2, 70), (3, 150), (4, 100)]);
    mock.leader_region(1, &[1, 2, 3]);
    mock.leader_region(2, &[1, 2, 3]);
    let mut third = mock.region(3, &[2, 1, 3]);
    third.pending = vec![third.region.peers[1].id];
    mock.report(third);
    for _ in 0..2 {
        let operator = mock.balance_region().expect("the lagging replica may move");
        assert_eq!((operator.region.0, moved(&operator)), (3, (1, 4)));
    }
}

/// The difference must exceed twice the region's size, so that the target is still the smaller one afterwards.
#[test]
fn a_difference_of_exactly_twice_the_region_is_even_enough() {
    let mut mock = Mock::new(1);
    stores(&mut mock, &[(1, 30), (2, 10)]);
    mock.leader_region(1, &[1]);
    assert_eq!(mock.balance_region(), None);
    stores(&mut mock, &[(1, 31)]);
    assert_eq!(mock.balance_region().map(|operator| moved(&operator)), Some((1, 2)));
}

#[test]
fn a_target_on_the_sources_node_is_reached_by_relocation_and_other_nodes_of_the_region_are_not_targets() {
    let mut mock = Mock::new(3);
    stores(&mut mock, &[(1, 160), (2, 150), (3, 140)]);
    // Store 4 is a sibling of store 1, store 5 one of store 2: the region has a peer on either node.
    mock.put(StoreDescriptor::new(StoreId(4), NodeId(1), "store4"));
    mock.put(StoreDescriptor::new(StoreId(5), NodeId(2), "store5"));
    mock.leader_region(1, &[1, 2, 3]);
    let influence = mock.influence();
    let view = mock.view(&influence);
    let mut board = Board::new(&view);
    let round = scheduler::balance::region::propose(&view, &mut board, &mut Rng::new(1), 1);
    let intent = &round.proposals[0].intent;
    assert!(is_relocation(intent), "{intent:?}");
    assert_eq!(intent.stores().collect::<Vec<_>>(), [StoreId(1), StoreId(4)]);
}

#[test]
fn a_round_counts_its_own_moves_in_and_stops_when_sizes_are_even() {
    let mut mock = Mock::new(1);
    mock.config.store_moves_in_max = 1000;
    mock.config.store_moves_out_max = 1000;
    for id in 1..=4 {
        mock.put(StoreDescriptor::new(StoreId(id), NodeId(id), format!("store{id}")));
    }
    for region in 0..40 {
        mock.leader_region(region, &[1]);
    }
    let influence = mock.influence();
    let view = mock.view(&influence);
    let mut board = Board::new(&view);
    let round = scheduler::balance::region::propose(&view, &mut board, &mut Rng::new(1), 1000);
    let planned = view.with_influence(board.influence());
    let mut sizes: Vec<i64> = (1..=4).map(|id| planned.region_bytes(StoreId(id)) / MIB as i64).collect();
    sizes.sort_unstable();
    assert!(sizes[3] - sizes[0] <= 20, "{sizes:?}");
    assert!((28..=31).contains(&round.proposals.len()), "{}", round.proposals.len());
    assert!(round.refusal.is_some(), "a round that ends early says why");
}

#[test]
fn limits_on_moves_in_bound_a_round() {
    let mut mock = Mock::new(1);
    mock.config.store_moves_in_max = 3;
    for id in 1..=2 {
        mock.put(StoreDescriptor::new(StoreId(id), NodeId(id), format!("store{id}")));
    }
    for region in 0..40 {
        mock.leader_region(region, &[1]);
    }
    let influence = mock.influence();
    let view = mock.view(&influence);
    let mut board = Board::new(&view);
    let round = scheduler::balance::region::propose(&view, &mut board, &mut Rng::new(1), 1000);
    assert_eq!(round.proposals.len(), 3);
}

/// Sizes change with every write, and a region that is small enough would always find a difference that is worth its move.
#[test]
fn sizes_that_differ_by_little_of_their_mean_are_even() {
    let mut mock = Mock::new(1);
    stores(&mut mock, &[(1, 1028), (2, 1000)]);
    let mut small = mock.region(1, &[1]);
    small.size_bytes = 0;
    mock.report(small);
    assert_eq!(mock.balance_region(), None, "28 MiB of 1014");
    stores(&mut mock, &[(1, 1060)]);
    assert_eq!(mock.balance_region().map(|operator| moved(&operator)), Some((1, 2)), "60 MiB of 1030");
}

/// The proposals of one round over three stores of these sizes, where as many peers as may be are on their way into the last one.
fn with_the_smallest_full(sizes: [u64; 3]) -> Result<(u64, u64), Option<Reason>> {
    let mut mock = Mock::new(1);
    let sizes: Vec<(u64, u64)> = (1..).zip(sizes).collect();
    stores(&mut mock, &sizes);
    mock.leader_region(1, &[1]);
    mock.leader_region(2, &[2]);
    let mut influence = mock.influence();
    influence.of_mut(StoreId(3)).moves_in = mock.config.store_moves_in_max;
    let view = mock.view(&influence);
    let round = scheduler::balance::region::propose(&view, &mut Board::new(&view), &mut Rng::new(1), 1);
    match round.proposals.first() {
        Some(proposal) => Ok(moved(&proposal.build(&view, &mut || Some(1_000)).expect("it can be built"))),
        None => Err(round.refusal.map(|refusal| refusal.reason)),
    }
}

/// What went to another store meanwhile would have to move again.
#[test]
fn a_replica_waits_for_the_smallest_store_unless_another_one_lacks_as_much() {
    assert_eq!(with_the_smallest_full([200, 160, 30]), Err(Some(Reason::MovesIn(8))));
    assert_eq!(with_the_smallest_full([200, 100, 30]), Ok((1, 2)), "110 is the mean, and 110 it has then");
    assert_eq!(with_the_smallest_full([200, 101, 30]), Err(Some(Reason::MovesIn(8))), "111 it would have");
}

/// A round moves what the smallest store lacks, not what it has already.
#[test]
fn what_the_smallest_store_has_already_stays_as_long_as_there_is_something_else() {
    for seed in 0..50 {
        let mut mock = Mock::new(2);
        mock.config.draws_per_store = 200;
        stores(&mut mock, &[(1, 200), (2, 150), (3, 150), (4, 20)]);
        (1..=7).for_each(|region| mock.leader_region(region, &[4, 1]));
        mock.leader_region(8, &[3, 1]);
        let influence = mock.influence();
        let view = mock.view(&influence);
        let round =
            scheduler::balance::region::propose(&view, &mut Board::new(&view), &mut Rng::new(seed), 1);
        let proposal = &round.proposals[0];
        let operator = proposal.build(&view, &mut || Some(1_000)).expect("it can be built");
        assert_eq!((proposal.region.0, moved(&operator)), (8, (1, 4)), "seed {seed}");
    }
}

/// Where the replica on a store that is emptied goes is decided by what is even then.
#[test]
fn a_region_with_a_replica_on_a_store_that_is_emptied_waits_for_that() {
    let mut mock = Mock::new(2);
    stores(&mut mock, &[(1, 200), (2, 150), (3, 150), (4, 20)]);
    mock.leader_region(1, &[1, 2]);
    assert_eq!(mock.balance_region().map(|operator| moved(&operator)), Some((1, 4)));
    mock.set_lifecycle(2, Lifecycle::Offline);
    assert_eq!(mock.balance_region(), None);
    let (influence, info) = (mock.influence(), RegionId(1));
    let view = mock.view(&influence);
    let opinions = scheduler::why::why(&view, view.cluster.region(info).expect("known"));
    let leaves = |it: &Result<_, Refusal>| it.as_ref().is_err_and(|refusal| refusal.reason == Reason::Leaves);
    assert!(opinions.iter().any(leaves), "{opinions:?}");
}
