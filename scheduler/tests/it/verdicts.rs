//! Why a region or a store is as it is, in prepared situations: the answer names the one true reason, and changes once that is taken away.

use scheduler::operator::{Cause, Intent};
use scheduler::{
    Config, DownPeer, Lifecycle, NodeId, PeerId, Policy, Proposal, Reason, Refusal, RegionId, Scheduler,
    StoreDescriptor, StoreId, StoreReport, Time, Verdict,
};

use crate::kit::{Mock, NOW};

/// Stores 1 to `count`, each on a node of its own, and region 7 on the first three.
fn mock(count: u64) -> Mock {
    let mut mock = Mock::new(3);
    for store in 1..=count {
        mock.put(StoreDescriptor::new(StoreId(store), NodeId(store), format!("store{store}")));
    }
    mock.leader_region(7, &[1, 2, 3]);
    mock
}

fn of_region(mock: &Mock) -> Verdict {
    let influence = mock.influence();
    let info = mock.cluster.region(RegionId(7)).expect("known");
    scheduler::verdict::of_region(&mock.view(&influence), info, true)
}

fn of_store(mock: &Mock, id: u64) -> Verdict {
    let influence = mock.influence();
    let store = mock.cluster.store(StoreId(id)).expect("joined");
    scheduler::verdict::of_store(&mock.view(&influence), store, true)
}

fn stuck(policy: Policy, reason: Reason) -> Verdict {
    Verdict::Stuck(Refusal::new(policy, reason).of_region(RegionId(7)))
}

#[test]
fn a_region_that_is_as_it_should_be() {
    assert_eq!(of_region(&mock(3)), Verdict::Content);
    assert_eq!(of_region(&mock(4)), Verdict::Content, "an empty store is no reason to move the only region");
}

#[test]
fn too_few_nodes_for_the_replicas() {
    let mut mock = mock(2);
    mock.leader_region(7, &[1, 2]);
    assert_eq!(of_region(&mock), stuck(Policy::ReplicaCheck, Reason::NoStore));
    let influence = mock.influence();
    let view = mock.view(&influence);
    let info = mock.cluster.region(RegionId(7)).expect("known");
    assert_eq!(scheduler::verdict::no_replica_on(&view, info).count(), 0, "there is no other store");
    mock.put(StoreDescriptor::new(StoreId(3), NodeId(3), "store3"));
    assert!(
        matches!(of_region(&mock), Verdict::Wants(Policy::ReplicaCheck, what) if what == "a replica on store 3")
    );
}

#[test]
fn the_stores_that_are_left_are_on_nodes_that_have_it_or_are_full() {
    let mut mock = mock(2);
    mock.leader_region(7, &[1, 2]);
    mock.put(StoreDescriptor::new(StoreId(3), NodeId(2), "store3"));
    mock.put(StoreDescriptor::new(StoreId(4), NodeId(4), "store4"));
    let full = StoreReport { capacity_bytes: 100, available_bytes: 1, ..StoreReport::empty(StoreId(4)) };
    mock.cluster.report_store(full, NOW).expect("plausible");
    assert_eq!(of_region(&mock), stuck(Policy::ReplicaCheck, Reason::NoStore));
    let influence = mock.influence();
    let view = mock.view(&influence);
    let info = mock.cluster.region(RegionId(7)).expect("known");
    let stores: Vec<_> = scheduler::verdict::no_replica_on(&view, info).collect();
    let expected = [(StoreId(3), Some(Reason::NodeTaken)), (StoreId(4), Some(Reason::LowSpace))];
    assert_eq!(stores, expected);
    assert_eq!(of_store(&mock, 4), Verdict::Closed(Reason::LowSpace));
}

#[test]
fn a_policy_that_is_switched_off_or_at_its_limit() {
    let mut mock = mock(3);
    mock.leader_region(7, &[1, 2]);
    mock.config.disabled.push(Policy::ReplicaCheck);
    assert_eq!(of_region(&mock), stuck(Policy::ReplicaCheck, Reason::Disabled));
    mock.config.disabled.clear();
    mock.config.replica_schedule_limit = 0;
    assert_eq!(of_region(&mock), stuck(Policy::ReplicaCheck, Reason::LimitReached(0)));
}

#[test]
fn a_leader_that_is_not_known() {
    let mut mock = mock(3);
    let mut report = mock.region(7, &[1, 2, 3]);
    report.leader = None;
    mock.report(report);
    assert_eq!(of_region(&mock), stuck(Policy::ReplicaCheck, Reason::NoLeader));
}

#[test]
fn a_replica_on_a_silent_store_is_waited_for_as_long_as_is_configured() {
    let mut mock = mock(4);
    mock.silent_for(3, 100_000);
    mock.leader_region(7, &[1, 2, 3]);
    assert_eq!(of_region(&mock), Verdict::Awaits { store: StoreId(3), left_ms: 1_700_000 });
    assert!(matches!(of_store(&mock, 3), Verdict::Silent { left_ms: 1_700_000, .. }));
    mock.silent_for(3, 1_800_001);
    assert!(matches!(of_region(&mock), Verdict::Wants(Policy::ReplicaCheck, _)), "{:?}", of_region(&mock));
    assert_eq!(of_store(&mock, 3), Verdict::Leaves { replicas: 1, stays: None });
}

#[test]
fn a_replica_that_is_silent_though_its_store_is_not_or_that_lags() {
    let mut mock = mock(4);
    let mut report = mock.region(7, &[1, 2, 3]);
    report.down = vec![DownPeer { peer: PeerId(702), down_ms: 300_000 }];
    mock.report(report);
    assert_eq!(of_region(&mock), Verdict::Awaits { store: StoreId(3), left_ms: 1_500_000 });
    let mut report = mock.region(7, &[1, 2, 3]);
    report.pending = vec![PeerId(701)];
    mock.report(report);
    assert_eq!(of_region(&mock), Verdict::Lags { store: StoreId(2) });
}

#[test]
fn a_leader_that_is_to_go_and_has_nowhere_to_go() {
    let mut mock = mock(3);
    mock.evicting = [StoreId(1)].into();
    assert!(
        matches!(of_region(&mock), Verdict::Wants(Policy::EvictLeader, what) if what.contains("store 2"))
    );
    assert_eq!(of_store(&mock, 1), Verdict::Evicted { leaders: 1, stays: None });
    mock.evicting = [StoreId(1), StoreId(2), StoreId(3)].into();
    let refusal =
        Refusal::new(Policy::EvictLeader, Reason::NoStore).of_region(RegionId(7)).of_store(StoreId(1));
    assert_eq!(of_region(&mock), Verdict::Stuck(refusal));
    assert_eq!(of_store(&mock, 1), Verdict::Evicted { leaders: 1, stays: Some(refusal) });
}

#[test]
fn a_store_that_cannot_be_emptied_for_want_of_another() {
    let mut mock = mock(3);
    mock.set_lifecycle(3, Lifecycle::Offline);
    let refusal = Refusal::new(Policy::Drain, Reason::NoStore).of_region(RegionId(7)).of_store(StoreId(3));
    assert_eq!(of_store(&mock, 3), Verdict::Leaves { replicas: 1, stays: Some(refusal) });
    mock.put(StoreDescriptor::new(StoreId(4), NodeId(4), "store4"));
    assert_eq!(of_store(&mock, 3), Verdict::Leaves { replicas: 1, stays: None });
    mock.config.disabled.push(Policy::Drain);
    let off = Refusal::new(Policy::Drain, Reason::Disabled).of_store(StoreId(3));
    assert_eq!(of_store(&mock, 3), Verdict::Leaves { replicas: 1, stays: Some(off) });
    mock.set_lifecycle(3, Lifecycle::Tombstone);
    assert_eq!(of_store(&mock, 3), Verdict::Gone);
}

#[test]
fn a_region_that_is_too_large_and_is_not_split() {
    let mut mock = mock(3);
    let mut report = mock.region(7, &[1, 2, 3]);
    report.size_bytes = mock.config.region_size_max_bytes + 1;
    mock.report(report);
    assert_eq!(of_region(&mock), Verdict::Wants(Policy::SplitCheck, "a split in its middle".to_owned()));
    mock.config.disabled.push(Policy::SplitCheck);
    assert_eq!(of_region(&mock), stuck(Policy::SplitCheck, Reason::Disabled));
}

#[test]
fn a_store_that_asks_to_be_spared() {
    let mut mock = mock(3);
    assert_eq!(of_store(&mock, 2), Verdict::Content);
    mock.set_busy(2, true);
    assert_eq!(of_store(&mock, 2), Verdict::Closed(Reason::Busy));
}

/// The host's side: what was asked for is under its own name, and nothing is done before enough has been reported.
#[test]
fn an_operator_that_runs_and_a_scheduler_that_has_just_begun() {
    let config = Config { max_replicas: 3, ..Config::default() };
    let mut scheduler = Scheduler::new(config, 1, Time(0)).expect("a good configuration");
    let mut mock = Mock::new(3);
    for id in 1..=3 {
        scheduler
            .put_store(StoreDescriptor::new(StoreId(id), NodeId(id), format!("store{id}")), Time(0))
            .expect("a fresh address");
        scheduler.report_store(StoreReport::empty(StoreId(id)), Time(0)).expect("plausible");
    }
    scheduler.report_region(mock.region(7, &[1, 2, 3]), Time(0)).expect("honest");
    let verdict = |scheduler: &Scheduler| scheduler.verdict_of_region(RegionId(7), Time(0)).expect("known").0;
    assert_eq!(verdict(&scheduler), Verdict::Preparing);
    assert_eq!(scheduler.verdict_of_store(StoreId(1), Time(0)), Some(Verdict::Preparing));
    let later = Time(scheduler.config().prepare_timeout_ms + 1);
    assert!(scheduler.prepare(later));
    scheduler.grant_ids(1_000..2_000);
    let info = scheduler.cluster().region(RegionId(7)).expect("known");
    let wish = Proposal::new(info, Policy::Admin, Cause::Asked, Intent::TransferLeader { to: StoreId(2) });
    scheduler.admit(&wish, Time(0)).expect("it is free");
    let Verdict::Runs { policy, step, finished, steps, .. } = verdict(&scheduler) else {
        panic!("{:?}", verdict(&scheduler))
    };
    assert_eq!((policy, finished, steps), (Policy::Admin, 0, 1));
    assert!(step.contains("store 2"), "{step}");
    assert_eq!(scheduler.verdict_of_region(RegionId(8), Time(0)), None);
    assert_eq!(scheduler.verdict_of_store(StoreId(8), Time(0)), None);
}
