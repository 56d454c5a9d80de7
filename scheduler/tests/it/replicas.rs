//! The replica checker, under the names of the course's tests, and placement by node and label.
#![expect(non_snake_case, reason = "the tests keep the names under which the course knows them")]

use scheduler::balance::may_touch;
use scheduler::operator::{Cause, Step};
use scheduler::{
    DownPeer, Lifecycle, NodeId, Operator, Peer, PeerId, Reason, RegionId, RegionReport, Role,
    StoreDescriptor, StoreId,
};

use crate::kit::{Mock, added, moved, removed};

fn four_stores() -> Mock {
    let mut mock = Mock::new(3);
    for (id, size) in [(1, 40), (2, 30), (3, 20), (4, 10)] {
        mock.region_store(id, size);
    }
    mock
}

#[test]
fn TestBasic() {
    let mut mock = four_stores();
    mock.leader_region(1, &[1, 2]);
    assert_eq!(mock.check_replicas(1).map(|operator| added(&operator)), Ok(4), "the smallest store");
    mock.silent_for(4, 5_000_000_000);
    assert_eq!(mock.check_replicas(1).map(|operator| added(&operator)), Ok(3), "store 4 is down");
    mock.silent_for(4, 0);
    assert_eq!(mock.check_replicas(1).map(|operator| added(&operator)), Ok(4));

    mock.leader_region(1, &[1, 2, 4]);
    assert_eq!(mock.check_replicas(1).map_err(|refusal| refusal.reason), Err(Reason::Content));
    mock.leader_region(1, &[1, 2, 3, 4]);
    assert_eq!(mock.check_replicas(1).map(|operator| removed(&operator)), Ok(1), "the largest store");
    mock.leader_region(1, &[1, 2, 3]);
    mock.set_lifecycle(3, Lifecycle::Offline);
    assert_eq!(mock.check_replicas(1).map(|operator| moved(&operator)), Ok((3, 4)));
}

#[test]
fn TestLostStore() {
    let mut mock = Mock::new(3);
    mock.region_store(1, 10);
    mock.region_store(2, 10);
    mock.leader_region(1, &[1, 2, 3]);
    assert!(mock.check_replicas(1).is_err(), "store 3 is unknown, and nothing is known against it");
}

#[test]
fn TestOffline() {
    let mut mock = Mock::new(3);
    for (id, size) in [(1, 10), (2, 20), (3, 30), (4, 40)] {
        mock.region_store(id, size);
    }
    mock.leader_region(1, &[1]);
    assert_eq!(mock.check_replicas(1).map(|operator| added(&operator)), Ok(2));
    mock.leader_region(1, &[1, 2]);
    assert_eq!(mock.check_replicas(1).map(|operator| added(&operator)), Ok(3));
    mock.leader_region(1, &[1, 2, 3, 4]);
    assert_eq!(mock.check_replicas(1).map(|operator| removed(&operator)), Ok(4));
    mock.set_busy(4, true);
    assert_eq!(mock.check_replicas(1).map_err(|refusal| refusal.reason), Err(Reason::Busy));
    mock.set_busy(4, false);

    mock.set_lifecycle(3, Lifecycle::Offline);
    assert_eq!(
        mock.check_replicas(1).map(|operator| removed(&operator)),
        Ok(3),
        "one too many: the offline one goes"
    );
    mock.leader_region(1, &[1, 2, 3]);
    assert_eq!(mock.check_replicas(1).map(|operator| moved(&operator)), Ok((3, 4)));
    mock.region_store(5, 30);
    assert_eq!(mock.check_replicas(1).map(|operator| moved(&operator)), Ok((3, 5)), "store 5 is smaller");
}

#[test]
fn a_peer_that_is_silent_for_long_is_replaced_even_if_its_store_lives() {
    let mut mock = four_stores();
    let mut report = mock.region(1, &[1, 2, 3]);
    let silent = report.region.peers[1].id;
    report.down = vec![DownPeer { peer: silent, down_ms: mock.config.store_down_ms }];
    mock.report(report.clone());
    assert!(mock.check_replicas(1).is_err(), "not yet");
    report.down[0].down_ms += 1;
    mock.report(report);
    let operator = mock.check_replicas(1).expect("long enough");
    assert_eq!((moved(&operator), operator.cause), ((2, 4), Cause::Down));
}

#[test]
fn what_an_operator_left_behind_is_finished_or_cleared_away() {
    let mut mock = four_stores();
    let mut report = mock.region(1, &[1, 2]);
    report.region.peers.push(Peer::learner(PeerId(777), StoreId(3)));
    mock.report(report.clone());
    let operator = mock.check_replicas(1).expect("a learner is needed as a voter");
    assert_eq!(operator.steps, [Step::Promote { peer: PeerId(777) }]);

    report.pending = vec![PeerId(777)];
    mock.report(report.clone());
    assert_eq!(
        mock.check_replicas(1).map_err(|refusal| refusal.reason),
        Err(Reason::Unhealthy),
        "it catches up"
    );

    report.pending.clear();
    report.region.peers.push(Peer::voter(PeerId(778), StoreId(4)));
    report.region.epoch.conf_ver += 1;
    mock.report(report);
    assert_eq!(mock.check_replicas(1).map(|operator| removed(&operator)), Ok(3), "a learner too many");
}

#[test]
fn replicas_never_share_a_node_and_are_separated_if_they_do() {
    let mut mock = four_stores();
    mock.put(StoreDescriptor::new(StoreId(5), NodeId(1), "store5"));
    mock.leader_region(1, &[1, 2]);
    // Store 5 is empty, hence the smallest, but on the node of store 1.
    assert_eq!(mock.check_replicas(1).map(|operator| added(&operator)), Ok(4));
    mock.leader_region(1, &[2, 1, 5]);
    let operator = mock.check_replicas(1).expect("stores 1 and 5 share a node");
    assert_eq!((moved(&operator), operator.cause), ((1, 4), Cause::Misplaced));
}

#[test]
fn labels_decide_before_size() {
    let mut mock = Mock::new(3);
    mock.config.location_labels = ["zone", "rack"].map(str::to_owned).to_vec();
    for (id, zone, rack, size) in [
        (1, "a", "1", 40),
        (2, "a", "2", 10),
        (3, "b", "1", 90),
        (4, "b", "2", 70),
        (5, "c", "1", 95),
        (6, "a", "3", 0),
    ] {
        mock.region_store(id, size);
        let store = StoreDescriptor::new(StoreId(id), NodeId(id), format!("store{id}"));
        mock.put(store.with_label("zone", zone).with_label("rack", rack));
    }
    mock.leader_region(1, &[1]);
    assert_eq!(
        mock.check_replicas(1).map(|operator| added(&operator)),
        Ok(4),
        "another zone; of two, the smaller"
    );
    mock.leader_region(1, &[1, 4]);
    assert_eq!(mock.check_replicas(1).map(|operator| added(&operator)), Ok(5), "a third zone");
    mock.leader_region(1, &[1, 2, 4]);
    let operator = mock.check_replicas(1).expect("zone c is free");
    assert_eq!((moved(&operator), operator.cause), ((1, 5), Cause::Misplaced));
    mock.leader_region(1, &[1, 4, 5]);
    assert!(mock.check_replicas(1).is_err(), "as far apart as can be");

    mock.config.isolation_level = Some("zone".to_owned());
    mock.set_lifecycle(3, Lifecycle::Offline);
    mock.set_lifecycle(5, Lifecycle::Offline);
    mock.leader_region(1, &[1, 4]);
    assert_eq!(
        mock.check_replicas(1).map_err(|refusal| refusal.reason),
        Err(Reason::NoStore),
        "no third zone"
    );
}

/// Of two stores that are otherwise alike the one with fewer bytes is better, whatever their numbers.
#[test]
fn TestCompareStoreScore() {
    let mut mock = Mock::new(3);
    for (id, size) in [(1, 50), (2, 50), (3, 20), (4, 10)] {
        mock.region_store(id, size);
    }
    mock.leader_region(1, &[1, 2]);
    let best = |mock: &Mock| mock.check_replicas(1).map(|operator| added(&operator));
    assert_eq!(best(&mock), Ok(4));
    mock.region_store(3, 9);
    assert_eq!(best(&mock), Ok(3));
    mock.region_store(3, 10);
    assert_eq!(best(&mock), Ok(3), "of equals, the first");
}

/// Balance leaves a region alone whose peers lag or are silent; a lagging replica that is itself to move does not count.
#[test]
fn TestIsRegionUnhealthy() {
    let mut mock = four_stores();
    let mut report = mock.region(1, &[1, 2, 3]);
    let verdict = |mock: &Mock, lagging: Option<u64>| {
        let influence = mock.influence();
        let info = mock.cluster.region(RegionId(1)).expect("known");
        may_touch(&mock.view(&influence), info, lagging.map(StoreId))
    };
    mock.report(report.clone());
    assert_eq!(verdict(&mock, None), Ok(()));
    report.pending = vec![report.region.peers[1].id];
    mock.report(report.clone());
    assert_eq!(verdict(&mock, None), Err(Reason::Unhealthy));
    assert_eq!(verdict(&mock, Some(1)), Err(Reason::Unhealthy));
    assert_eq!(verdict(&mock, Some(2)), Ok(()));
    report.down = vec![DownPeer { peer: report.region.peers[2].id, down_ms: 1 }];
    mock.report(report);
    assert_eq!(verdict(&mock, Some(2)), Err(Reason::Unhealthy));
}

/// Voters on stores 1, 2 and 3, of which the last is silent, and a learner on store 4 that an operator left behind.
fn left_behind(change: impl FnOnce(&mut Mock, &mut RegionReport)) -> Operator {
    let mut mock = Mock::new(3);
    (1..=4).for_each(|id| mock.region_store(id, 10));
    mock.silent_for(3, mock.config.store_disconnected_ms + 1);
    let mut report = mock.region(1, &[1, 2, 3, 4]);
    report.region.peers[3].role = Role::Learner;
    change(&mut mock, &mut report);
    mock.report(report);
    mock.check_replicas(1).expect("a learner without an operator is something to do")
}

/// A learner that has all data takes the place of a voter that is silent, and of none otherwise.
#[test]
fn a_silent_voter_gives_way_to_a_learner_only_where_that_is_as_good() {
    assert_eq!(removed(&left_behind(|_, _| {})), 3);
    let lags = |_: &mut Mock, report: &mut RegionReport| report.pending.push(report.region.peers[3].id);
    assert_eq!(removed(&left_behind(lags)), 4, "it has not all data");
    let is_down = |_: &mut Mock, report: &mut RegionReport| {
        report.down.push(DownPeer { peer: report.region.peers[3].id, down_ms: 1_000 });
    };
    assert_eq!(removed(&left_behind(is_down)), 4, "its leader does not hear it");
    let leaves = |mock: &mut Mock, _: &mut RegionReport| mock.set_lifecycle(4, Lifecycle::Offline);
    assert_eq!(removed(&left_behind(leaves)), 4, "its store is emptied");
    let beside = |mock: &mut Mock, report: &mut RegionReport| {
        mock.put(StoreDescriptor::new(StoreId(5), NodeId(2), "store5"));
        report.region.peers[3].store = StoreId(5);
    };
    assert_eq!(removed(&left_behind(beside)), 5, "another replica is on its node");
    let short = |_: &mut Mock, report: &mut RegionReport| {
        report.region.peers.remove(1);
    };
    let steps = left_behind(short).steps;
    assert!(
        matches!(steps[..], [Step::Promote { .. }]),
        "with two voters it is needed beside both: {steps:?}"
    );
}
