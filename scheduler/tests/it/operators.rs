//! Operators: admission, steps, timeouts, outcomes; the course's coordinator tests end to end.
#![expect(non_snake_case, reason = "the tests keep the names under which the course knows them")]

use scheduler::config::{MIB, ReplicaPath};
use scheduler::operator::{
    AddRefusal, CancelReason, Cause, Influence, Intent, Kinds, OperatorId, Outcome, Progress, Proposal,
    Status, Step, Unsafe,
};
use scheduler::scheduler::{AdmitError, AskSplitError};
use scheduler::{
    Action, Change, Config, Epoch, KeyRange, NewRegion, NodeId, Operator, Peer, PeerId, Policy, Reason,
    Region, RegionId, RegionReport, Role, Scheduler, StoreDescriptor, StoreId, StoreReport, Time, Verdict,
};

use crate::kit::key;

pub(crate) const T0: Time = Time(1_000);

pub(crate) fn scheduler(stores: u64) -> Scheduler {
    let config = Config {
        replica_path: ReplicaPath::Direct,
        prepare_percent: 0,
        disabled: vec![Policy::BalanceRegion, Policy::BalanceLeader],
        ..Config::default()
    };
    let mut scheduler = Scheduler::new(config, 1, T0).expect("valid");
    for id in 1..=stores {
        scheduler
            .put_store(StoreDescriptor::new(StoreId(id), NodeId(id), format!("s{id}")), T0)
            .expect("joins");
    }
    heard(&mut scheduler, stores, T0);
    scheduler.grant_ids(1_000..100_000);
    scheduler
}

pub(crate) fn heard(scheduler: &mut Scheduler, stores: u64, now: Time) {
    for id in 1..=stores {
        scheduler.report_store(StoreReport::empty(StoreId(id)), now).expect("reports");
    }
}

/// A region with its first peer leading, at epoch (conf_ver, 1).
pub(crate) fn region(id: u64, stores: &[u64], conf_ver: u64) -> RegionReport {
    let peers = stores.iter().map(|store| Peer::voter(PeerId(id * 10 + store), StoreId(*store))).collect();
    let range = KeyRange::new(key(id), key(id + 1)).expect("rising");
    let region = Region { id: RegionId(id), range, epoch: Epoch::new(conf_ver, 1), peers };
    let leader = region.peers.first().map(|peer| peer.id);
    RegionReport { size_bytes: 10 * MIB, ..RegionReport::new(region, leader) }
}

pub(crate) fn operator(scheduler: &Scheduler, region: u64, policy: Policy, steps: Vec<Step>) -> Operator {
    let info = scheduler.cluster().region(RegionId(region)).expect("known");
    Operator::new(info, policy, Cause::Asked, steps, T0)
}

fn transfer(region: u64, store: u64) -> Vec<Step> {
    vec![Step::TransferLeader { peer: PeerId(region * 10 + store), store: StoreId(store) }]
}

#[test]
fn TestBasic() {
    let mut scheduler = scheduler(3);
    scheduler.report_region(region(1, &[1, 2, 3], 1), T0).expect("accepted");
    let low = operator(&scheduler, 1, Policy::BalanceLeader, transfer(1, 2));
    assert!(scheduler.add(low.clone(), T0).is_ok());
    assert!(matches!(scheduler.add(low.clone(), T0), Err(AdmitError::Add(AddRefusal::Occupied { .. }))));
    let higher = operator(&scheduler, 1, Policy::Admin, transfer(1, 3));
    assert!(scheduler.add(higher, T0).is_ok(), "a higher priority replaces");
    let replaced = scheduler.operators().history().next().expect("an outcome");
    assert!(matches!(replaced.outcome, Outcome::Replaced(_)));
    assert!(matches!(scheduler.add(low.clone(), T0), Err(AdmitError::Add(AddRefusal::Occupied { .. }))));
    assert!(scheduler.cancel(RegionId(1), T0));
    assert!(scheduler.add(low, T0).is_ok(), "after removal");
}

#[test]
fn TestOperatorCount() {
    let mut scheduler = scheduler(4);
    for id in 1..=2 {
        scheduler.report_region(region(id, &[1, 2, 3], 1), T0).expect("accepted");
    }
    let op = operator(&scheduler, 1, Policy::BalanceLeader, transfer(1, 2));
    scheduler.add(op, T0).expect("admitted");
    assert_eq!(scheduler.operators().count(Kinds::LEADER), 1);
    assert_eq!(scheduler.operators().count(Kinds::REGION), 0);
    let op = operator(
        &scheduler,
        2,
        Policy::BalanceRegion,
        vec![Step::AddPeer { peer: PeerId(99), store: StoreId(4) }],
    );
    scheduler.add(op, T0).expect("admitted");
    assert_eq!(scheduler.operators().count(Kinds::REGION | Kinds::BALANCE), 1);
    assert_eq!(scheduler.operators().count(Kinds::BALANCE), 2);
    let higher = operator(&scheduler, 2, Policy::Admin, transfer(2, 2));
    scheduler.add(higher, T0).expect("a higher priority replaces");
    assert_eq!(scheduler.operators().count(Kinds::BALANCE), 1);
    assert_eq!(scheduler.operators().count(Kinds::REGION), 0);
    assert_eq!(scheduler.operators().count(Kinds::LEADER), 2);
}

#[test]
fn TestOperator() {
    let mut scheduler = scheduler(4);
    scheduler.report_region(region(1, &[1, 2], 1), T0).expect("accepted");
    let add = Step::AddPeer { peer: PeerId(11), store: StoreId(1) };
    let transfer = Step::TransferLeader { peer: PeerId(12), store: StoreId(2) };
    let remove = Step::RemovePeer { peer: PeerId(11), store: StoreId(1) };
    let mut op = operator(&scheduler, 1, Policy::Admin, vec![add, transfer.clone(), remove.clone()]);
    let influence = Influence::new();
    let info = |scheduler: &Scheduler| scheduler.cluster().region(RegionId(1)).expect("known").clone();

    // The first step is done already and is skipped; the second is sent until it is seen to be done.
    for _ in 0..2 {
        let progress = op.drive(&info(&scheduler), &scheduler.view(&influence, T0));
        assert!(matches!(progress, Progress::Send(Action::TransferLeader(_))), "{progress:?}");
        assert_eq!(op.current(), Some(&transfer));
    }
    let mut led_by_two = region(1, &[1, 2], 1);
    led_by_two.leader = Some(PeerId(12));
    scheduler.report_region(led_by_two, T0).expect("accepted");
    let late = T0.plus_ms(scheduler.config().region_operator_timeout_ms);
    assert!(!op.is_over(&scheduler.view(&influence, late)), "ten minutes, since membership changes");
    assert!(op.is_over(&scheduler.view(&influence, late.plus_ms(1))));
    let progress = op.drive(&info(&scheduler), &scheduler.view(&influence, T0));
    assert_eq!(progress, Progress::Send(Action::Change(Change::Remove { peer: PeerId(11) })));
    assert_eq!(op.current(), Some(&remove));
    let progress = op.drive(&info(&scheduler), &scheduler.view(&influence, late.plus_ms(1)));
    assert_eq!(progress, Progress::End(Outcome::Timeout));
    scheduler.report_region(region(1, &[2], 2), T0).expect("accepted");
    let progress = op.drive(&info(&scheduler), &scheduler.view(&influence, late.plus_ms(1)));
    assert_eq!(progress, Progress::End(Outcome::Success), "what is done is done, however late");
}

#[test]
fn TestOperatorKind() {
    let mut scheduler = scheduler(3);
    scheduler.report_region(region(1, &[1, 2, 3], 1), T0).expect("accepted");
    let kinds = |policy, steps| operator(&scheduler, 1, policy, steps).kinds;
    let remove = vec![Step::RemovePeer { peer: PeerId(11), store: StoreId(1) }];
    let split = vec![Step::Split { keys: Vec::new(), new: Vec::new() }];
    assert_eq!(kinds(Policy::BalanceLeader, transfer(1, 2)), Kinds::BALANCE | Kinds::LEADER);
    assert_eq!(kinds(Policy::ReplicaCheck, remove.clone()), Kinds::REPLICA | Kinds::REGION);
    assert_eq!(kinds(Policy::Admin, split), Kinds::ADMIN | Kinds::SPLIT);
    let both = kinds(Policy::Admin, [transfer(1, 2), remove].concat());
    assert!(both.contains(Kinds::LEADER) && both.contains(Kinds::REGION | Kinds::ADMIN));
    assert!(!both.contains(Kinds::BALANCE) && !both.contains(Kinds::REGION | Kinds::SPLIT));
}

#[test]
fn TestController() {
    let mut scheduler = scheduler(3);
    let mut config = scheduler.config().clone();
    config.leader_schedule_limit = 1;
    scheduler.set_config(config).expect("valid");
    for id in 1..=2 {
        scheduler.report_region(region(id, &[1, 2, 3], 1), T0).expect("accepted");
    }
    let stale = operator(&scheduler, 2, Policy::BalanceLeader, transfer(2, 2));
    scheduler.report_region(region(2, &[1, 2, 3], 2), T0).expect("accepted");
    assert!(matches!(scheduler.add(stale, T0), Err(AdmitError::Add(AddRefusal::EpochMoved { .. }))));
    let mut unknown = operator(&scheduler, 1, Policy::BalanceLeader, transfer(1, 2));
    unknown.region = RegionId(9);
    assert!(matches!(
        scheduler.add(unknown, T0),
        Err(AdmitError::Add(AddRefusal::UnknownRegion(RegionId(9))))
    ));
    let first = operator(&scheduler, 1, Policy::BalanceLeader, transfer(1, 2));
    let second = operator(&scheduler, 2, Policy::BalanceLeader, transfer(2, 2));
    scheduler.add(first, T0).expect("admitted");
    assert!(matches!(
        scheduler.add(second, T0),
        Err(AdmitError::Add(AddRefusal::LimitReached { limit: 1, .. }))
    ));
}

#[test]
fn TestOperatorStatus() {
    let mut scheduler = scheduler(4);
    for id in 1..=2 {
        scheduler.report_region(region(id, &[1, 2, 3], 1), T0).expect("accepted");
    }
    let op = operator(&scheduler, 1, Policy::BalanceLeader, transfer(1, 2));
    scheduler.add(op, T0).expect("admitted");
    let op = operator(
        &scheduler,
        2,
        Policy::Admin,
        vec![Step::RemovePeer { peer: PeerId(23), store: StoreId(3) }],
    );
    scheduler.add(op, T0).expect("admitted");
    assert!(matches!(scheduler.operators().status(RegionId(1)), Some(Status::Running(_))));

    // A leader operator has ten seconds, and ends in time even if its region never reports again.
    scheduler.tick(T0.plus_ms(10_000));
    assert!(matches!(scheduler.operators().status(RegionId(1)), Some(Status::Running(_))));
    scheduler.tick(T0.plus_ms(10_001));
    let Some(Status::Ended(ended)) = scheduler.operators().status(RegionId(1)) else {
        panic!("still running")
    };
    assert_eq!(ended.outcome, Outcome::Timeout);

    scheduler.report_region(region(2, &[1, 2], 2), T0.plus_ms(11_000)).expect("accepted");
    let Some(Status::Ended(ended)) = scheduler.operators().status(RegionId(2)) else {
        panic!("still running")
    };
    assert_eq!(ended.outcome, Outcome::Success);

    let later = T0.plus_ms(11_000 + scheduler.config().history_keep_ms + 1);
    scheduler.tick(later);
    assert!(!matches!(scheduler.operators().status(RegionId(2)), Some(Status::Ended(_))), "forgotten");
}

#[test]
fn TestDispatchOutdatedRegion() {
    let mut scheduler = scheduler(4);
    scheduler.report_region(region(1, &[1, 2, 3], 1), T0).expect("accepted");
    let steps = vec![
        Step::AddPeer { peer: PeerId(14), store: StoreId(4) },
        Step::RemovePeer { peer: PeerId(13), store: StoreId(3) },
    ];
    let op = operator(&scheduler, 1, Policy::Admin, steps);
    scheduler.add(op, T0).expect("admitted");
    let next =
        scheduler.report_region(region(1, &[1, 2, 3, 4], 2), T0).expect("accepted").expect("the next step");
    assert_eq!(next.action, Action::Change(Change::Remove { peer: PeerId(13) }));
    assert_eq!(next.epoch, Epoch::new(2, 1));
    // Membership moved on by two where the operator explains one.
    let next = scheduler.report_region(region(1, &[1, 2, 3, 4], 4), T0).expect("accepted");
    assert_eq!(next, None);
    let Some(Status::Ended(ended)) = scheduler.operators().status(RegionId(1)) else {
        panic!("still running")
    };
    assert_eq!(ended.outcome, Outcome::Cancelled(CancelReason::Outdated));
}

#[test]
fn TestOperatorStep() {
    let scheduler = {
        let mut scheduler = scheduler(4);
        let mut report = region(1, &[1, 2, 3], 1);
        report.pending = vec![PeerId(13)];
        scheduler.report_region(report, T0).expect("accepted");
        scheduler
    };
    let info = scheduler.cluster().region(RegionId(1)).expect("known");
    let finished = |step: Step| step.is_finished(info, info.region.epoch);
    let store = StoreId(1);
    assert!(finished(Step::TransferLeader { peer: PeerId(11), store }));
    assert!(!finished(Step::TransferLeader { peer: PeerId(12), store }));
    assert!(finished(Step::AddPeer { peer: PeerId(12), store }));
    assert!(!finished(Step::AddPeer { peer: PeerId(13), store }), "listed, but not caught up");
    assert!(!finished(Step::AddPeer { peer: PeerId(14), store }));
    assert!(finished(Step::RemovePeer { peer: PeerId(14), store }));
    assert!(!finished(Step::RemovePeer { peer: PeerId(11), store }));
    assert!(finished(Step::LeaveJoint));
    assert!(!finished(Step::Split { keys: Vec::new(), new: Vec::new() }));
    assert!(!finished(Step::AddSibling { peer: PeerId(14), store: StoreId(4), leaving: store }));
    assert!(!finished(Step::AddSibling { peer: PeerId(13), store: StoreId(3), leaving: store }), "it lags");
}

/// Which regions may ask for ids: those known at their start key, under an epoch that is not stale.
#[test]
fn TestValidRequestRegion() {
    let mut scheduler = scheduler(3);
    let report = region(1, &[1, 2, 3], 5);
    scheduler.report_region(report.clone(), T0).expect("accepted");
    let asked = |conf_ver, version| Region { epoch: Epoch::new(conf_ver, version), ..report.region.clone() };
    for (request, expected) in [
        (asked(5, 1), Ok(())),
        (asked(6, 2), Ok(())),
        (asked(4, 1), Err(AskSplitError::Stale(RegionId(1)))),
        (asked(6, 0), Err(AskSplitError::Stale(RegionId(1)))),
        (Region { id: RegionId(2), ..asked(5, 1) }, Err(AskSplitError::Unknown(RegionId(2)))),
        (Region { range: KeyRange::full(), ..asked(5, 1) }, Err(AskSplitError::Unknown(RegionId(1)))),
    ] {
        assert_eq!(scheduler.ask_split(&request).map(|_| ()), expected, "{request}");
    }
}

#[test]
fn TestAskSplit() {
    let mut scheduler = scheduler(3);
    let report = region(1, &[1, 2, 3], 5);
    scheduler.report_region(report.clone(), T0).expect("accepted");
    let first = scheduler.ask_split(&report.region).expect("ids");
    let again = scheduler.ask_split(&report.region).expect("ids");
    assert_eq!(first.peers.len(), 3);
    assert!(first.region != again.region && !first.peers.contains(&again.peers[0]), "fresh ids each time");
    let mut stale = report.region.clone();
    stale.epoch.conf_ver -= 1;
    assert!(scheduler.ask_split(&stale).is_err());
    let mut unknown = report.region;
    unknown.id = RegionId(77);
    assert!(scheduler.ask_split(&unknown).is_err());
}

/// Whoever leads hands over first, whatever the operator's earlier steps have come to.
#[test]
fn a_leader_is_neither_removed_nor_demoted() {
    let mut scheduler = scheduler(3);
    scheduler.report_region(region(1, &[1, 2, 3], 1), T0).expect("accepted");
    let steps = [Step::RemovePeer { peer: PeerId(11), store: StoreId(1) }, Step::Demote { peer: PeerId(11) }];
    for step in steps {
        let op = operator(&scheduler, 1, Policy::Admin, vec![step]);
        assert_eq!(scheduler.add(op, T0), Ok(None), "nothing is sent");
        let ended = scheduler.operators().history().last().expect("an outcome");
        let reason = CancelReason::Unsafe(Unsafe::Leads(PeerId(11)));
        assert_eq!(ended.outcome, Outcome::Cancelled(reason));
    }
    let follower = operator(
        &scheduler,
        1,
        Policy::Admin,
        vec![Step::RemovePeer { peer: PeerId(12), store: StoreId(2) }],
    );
    assert!(scheduler.add(follower, T0).expect("admitted").is_some());
}

/// A split without a key, of region 1.
fn split_in_the_middle(scheduler: &mut Scheduler) -> (OperatorId, RegionReport) {
    let report = region(1, &[1, 2, 3], 1);
    scheduler.report_region(report.clone(), T0).expect("accepted");
    let new = vec![NewRegion { region: RegionId(70), peers: vec![PeerId(71), PeerId(72), PeerId(73)] }];
    let op = operator(scheduler, 1, Policy::Admin, vec![Step::Split { keys: Vec::new(), new }]);
    let sent = scheduler.add(op, T0).expect("admitted").expect("sent");
    (sent.operator, report)
}

#[test]
fn a_split_that_finds_too_little_data_ends_and_is_not_sent_again() {
    let mut scheduler = scheduler(3);
    let (id, report) = split_in_the_middle(&mut scheduler);
    let other = RegionReport { uncut: Some(OperatorId(id.0 + 1)), ..report.clone() };
    assert!(scheduler.report_region(other, T0).expect("accepted").is_some(), "it is of another operator");
    let uncut = RegionReport { uncut: Some(id), ..report.clone() };
    assert_eq!(scheduler.report_region(uncut, T0), Ok(None));
    let ended = scheduler.operators().history().last().expect("an outcome");
    assert_eq!(ended.outcome, Outcome::Cancelled(CancelReason::TooLittleData));
    assert!(ended.outcome.to_string().contains("too little data"), "{}", ended.outcome);
    let op = operator(&scheduler, 1, Policy::Admin, transfer(1, 2));
    assert!(scheduler.add(op, T0).expect("the region is free again").is_some());
}

/// As an operator leaves a region that was cut short in the middle of a swap, here of the peer on store 3 for one on store 4.
fn joint(leader: u64) -> RegionReport {
    let mut report = region(1, &[1, 2, 3, 4], 4);
    report.region.peers[2].role = Role::Outgoing;
    report.region.peers[3].role = Role::Incoming;
    RegionReport { leader: Some(PeerId(10 + leader)), ..report }
}

/// Stores refuse a split until then, and no other operator leaves it while the split runs.
#[test]
fn a_split_leaves_a_joint_configuration_first() {
    for leader in [1, 3] {
        let mut scheduler = scheduler(4);
        scheduler.report_region(joint(leader), T0).expect("accepted");
        let info = scheduler.cluster().region(RegionId(1)).expect("known");
        let split = Intent::Split { keys: Vec::new() };
        let proposal = Proposal::new(info, Policy::Admin, Cause::Asked, split);
        let first = scheduler.admit(&proposal, T0).expect("admitted").expect("sent").action;
        if leader == 3 {
            assert!(matches!(first, Action::TransferLeader(_)), "{first:?}");
            continue;
        }
        assert_eq!(first, Action::Change(Change::LeaveJoint));
        let mut left = joint(leader);
        left.region.epoch = Epoch::new(5, 1);
        (left.region.peers[2].role, left.region.peers[3].role) = (Role::Learner, Role::Voter);
        let next = scheduler.report_region(left, T0).expect("accepted").expect("sent").action;
        assert!(matches!(next, Action::Split { .. }), "{next:?}");
    }
}

/// Waiting would keep whoever leaves it out, for as long as an operator may take.
#[test]
fn what_a_joint_configuration_forbids_ends_at_once() {
    let leaver = Step::RemovePeer { peer: PeerId(12), store: StoreId(2) };
    let newcomer = Step::AddLearner { peer: PeerId(90), store: StoreId(5) };
    let swap = Step::EnterJoint { promote: vec![PeerId(14)], demote: vec![PeerId(12)] };
    let split = Step::Split { keys: Vec::new(), new: Vec::new() };
    for step in [leaver, newcomer, swap, split, Step::Promote { peer: PeerId(14) }] {
        let mut scheduler = scheduler(5);
        scheduler.report_region(joint(1), T0).expect("accepted");
        let asked = operator(&scheduler, 1, Policy::Admin, vec![step.clone()]);
        assert_eq!(scheduler.add(asked, T0).expect("admitted"), None, "{step:?}");
        let ended = scheduler.operators().history().last().expect("an outcome");
        assert_eq!(ended.outcome, Outcome::Cancelled(CancelReason::Unsafe(Unsafe::Joint)), "{step:?}");
        assert!(ended.outcome.to_string().contains("ask again"), "{}", ended.outcome);
    }
}

/// The policy would propose it again in every round, and the leader look for a key.
#[test]
fn a_region_without_a_middle_is_left_alone_for_a_while() {
    let mut scheduler = scheduler(3);
    let (id, report) = split_in_the_middle(&mut scheduler);
    let size_bytes = scheduler.config().region_size_max_bytes + 1;
    let large = RegionReport { size_bytes, uncut: Some(id), ..report };
    scheduler.report_region(large, T0).expect("accepted");
    let would_split = |scheduler: &Scheduler, now: Time| {
        let why = scheduler.why(RegionId(1), now);
        why.iter().flatten().any(|proposal| proposal.policy == Policy::SplitCheck)
    };
    assert!(!would_split(&scheduler, T0));
    // Whoever asks hears so, and not that all is well.
    scheduler.prepare(Time(T0.0 + scheduler.config().prepare_timeout_ms + 1));
    let verdict = scheduler.verdict_of_region(RegionId(1), T0).expect("known").0;
    assert!(
        matches!(&verdict, Verdict::Stuck(refusal) if refusal.reason == Reason::TooLittleData),
        "{verdict:?}"
    );
    assert!(!would_split(&scheduler, Time(T0.0 + 59_999)));
    assert!(would_split(&scheduler, Time(T0.0 + 60_000)));
}

/// What is logged of a step is for people.
#[test]
fn a_step_is_shown_in_words() {
    let new = Peer::voter(PeerId(31), StoreId(3));
    let shown = [
        (Action::Split { keys: Vec::new(), new: Vec::new() }, "split where best"),
        (
            Action::Split { keys: vec![key(1), key(2)], new: Vec::new() },
            "split at 00000000000000000001, 00000000000000000002",
        ),
        (Action::TransferLeader(new), "transfer leader to peer 31 on store 3"),
        (
            Action::Change(Change::AddLearner { peer: new.id, store: new.store }),
            "add learner peer 31 on store 3",
        ),
        (
            Action::Change(Change::EnterJoint {
                promote: vec![PeerId(1), PeerId(2)],
                demote: vec![PeerId(3)],
            }),
            "enter joint, promote peer 1 and peer 2, demote peer 3",
        ),
    ];
    for (action, words) in shown {
        assert_eq!(action.to_string(), words);
    }
}
