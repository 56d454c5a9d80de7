//! An operator towards a store that dies ends when the store counts as silent, whatever step it is at, and what it leaves behind is put right.

use scheduler::config::ReplicaPath;
use scheduler::operator::{CancelReason, Cause, Intent, Outcome, Step, Unsafe};
use scheduler::{
    Action, Config, Health, Instruction, NewRegion, Operator, Peer, PeerId, Policy, Proposal, RegionId,
    RegionReport, Role, Scheduler, StoreId, StoreReport, Time,
};

use crate::operators::{T0, heard, operator, region, scheduler as plain};

/// Stores 1 to 5, which have all been heard at `T0`, and region 1 on the first three.
fn moving(path: ReplicaPath) -> (Scheduler, RegionReport) {
    let mut scheduler = plain(5);
    scheduler.set_config(Config { replica_path: path, ..scheduler.config().clone() }).expect("valid");
    let report = region(1, &[1, 2, 3], 1);
    scheduler.report_region(report.clone(), T0).expect("accepted");
    (scheduler, report)
}

fn propose(scheduler: &Scheduler, intent: Intent) -> Proposal {
    let info = scheduler.cluster().region(RegionId(1)).expect("known");
    Proposal::new(info, Policy::Admin, Cause::Asked, intent)
}

/// When a store that was last heard at `T0` counts as silent.
fn silent(scheduler: &Scheduler) -> Time {
    T0.plus_ms(scheduler.config().store_disconnected_ms + 1)
}

/// All stores but these report.
fn heard_without(scheduler: &mut Scheduler, dead: &[u64], now: Time) {
    for id in (1..=5).filter(|id| !dead.contains(id)) {
        scheduler.report_store(StoreReport::empty(StoreId(id)), now).expect("reports");
    }
}

fn done(report: &mut RegionReport, instruction: &Instruction) {
    match &instruction.action {
        Action::TransferLeader(to) => {
            report.leader = Some(to.id);
            report.term = report.term.map(|term| term + 1);
        }
        Action::Change(change) => report.region = change.apply(&report.region).expect("it fits"),
        Action::Split { .. } | Action::Merge(_) => panic!("nothing is split"),
    }
}

/// Has the region do what is sent until it shows what is waited for.
fn obey_until(
    scheduler: &mut Scheduler,
    mut report: RegionReport,
    first: Option<Instruction>,
    until: impl Fn(&RegionReport) -> bool,
) -> RegionReport {
    let mut next = first;
    while let Some(instruction) = next {
        done(&mut report, &instruction);
        if until(&report) {
            return report;
        }
        next = scheduler.report_region(report.clone(), T0).expect("accepted");
    }
    panic!("it never came to that: {}", report.region)
}

fn last_outcome(scheduler: &Scheduler) -> Outcome {
    scheduler.operators().history().last().expect("an outcome").outcome
}

fn lost(store: u64) -> Outcome {
    let (store, health) = (StoreId(store), Some(Health::Disconnected));
    Outcome::Cancelled(CancelReason::Unsafe(Unsafe::StoreUnfit { store, health }))
}

/// Rounds and reports, with these stores silent, until nothing is begun any more.
fn settle(scheduler: &mut Scheduler, mut report: RegionReport, dead: &[u64], from: Time) -> RegionReport {
    for round in 0..20 {
        let now = from.plus_ms(round * 1_000);
        heard_without(scheduler, dead, now);
        let mut next = scheduler.report_region(report.clone(), now).expect("accepted");
        next = next.or(scheduler.tick(now).instructions.into_iter().next());
        while let Some(instruction) = next {
            done(&mut report, &instruction);
            next = scheduler.report_region(report.clone(), now).expect("accepted");
        }
    }
    report
}

fn stores(report: &RegionReport) -> Vec<u64> {
    let mut stores: Vec<u64> = report.region.peers.iter().map(|peer| peer.store.0).collect();
    stores.sort_unstable();
    stores
}

fn lists(report: &RegionReport, store: u64) -> Option<&Peer> {
    report.region.peer_on(StoreId(store))
}

/// What was seen: the newcomer is listed, has nothing yet, and its node dies. The operator waited for it for ten minutes.
#[test]
fn a_move_to_a_store_that_dies_ends_with_the_reason_and_another_one_is_chosen() {
    for by_report in [true, false] {
        let (mut scheduler, report) = moving(ReplicaPath::Learner);
        let intent = Intent::MoveReplica { from: StoreId(3), to: StoreId(4) };
        let first = scheduler.admit(&propose(&scheduler, intent), T0).expect("admitted");
        let mut report = obey_until(&mut scheduler, report, first, |report| lists(report, 4).is_some());
        report.pending = vec![lists(&report, 4).expect("listed").id];
        assert_eq!(scheduler.report_region(report.clone(), T0), Ok(None), "it waits for the newcomer");

        let just_before = Time(silent(&scheduler).0 - 1);
        heard_without(&mut scheduler, &[4], just_before);
        scheduler.report_region(report.clone(), just_before).expect("accepted");
        assert_eq!(scheduler.operators().len(), 1, "the store may come back");

        let now = silent(&scheduler);
        heard_without(&mut scheduler, &[4], now);
        if by_report {
            scheduler.report_region(report.clone(), now).expect("accepted");
            assert!(scheduler.is_urgent());
        } else {
            scheduler.tick(now);
        }
        assert_eq!(last_outcome(&scheduler), lost(4));
        assert!(last_outcome(&scheduler).to_string().contains("store 4 is disconnected"));
        scheduler.tick(now);
        let operator = scheduler.operators().get(RegionId(1)).expect("the learner is removed");
        assert!(matches!(operator.steps[..], [Step::RemovePeer { store: StoreId(4), .. }]), "{operator:?}");
        report.pending.clear();
        let report = settle(&mut scheduler, report, &[4], now);
        assert_eq!(stores(&report), [1, 2, 3]);
        let again = propose(&scheduler, Intent::MoveReplica { from: StoreId(3), to: StoreId(5) });
        assert!(scheduler.admit(&again, now.plus_ms(20_000)).is_ok(), "the region is free");
    }
}

/// What a person has asked for: `store remove`, while the node of the store that is chosen is dead already.
#[test]
fn a_store_is_emptied_though_the_first_choice_dies() {
    let (mut scheduler, report) = moving(ReplicaPath::Learner);
    let mut leaving = scheduler.cluster().store(StoreId(3)).expect("joined").descriptor.clone();
    leaving.lifecycle = scheduler::Lifecycle::Offline;
    scheduler.put_store(leaving, T0).expect("known");
    let first = scheduler.tick(T0).instructions.pop();
    let mut report = obey_until(&mut scheduler, report, first, |report| report.region.peers.len() == 4);
    let chosen = if lists(&report, 4).is_some() { 4 } else { 5 };
    report.pending = vec![lists(&report, chosen).expect("listed").id];
    let now = silent(&scheduler);
    heard_without(&mut scheduler, &[chosen], now);
    scheduler.report_region(report.clone(), now).expect("accepted");
    assert_eq!(last_outcome(&scheduler), lost(chosen));
    report.pending.clear();
    let report = settle(&mut scheduler, report, &[chosen], now);
    assert_eq!(stores(&report), [1, 2, 9 - chosen], "the other one has it");
}

/// A newcomer that votes already and dies: to go on would take a living replica away for a dead one.
#[test]
fn the_replica_that_was_to_go_stays_where_the_newcomer_dies() {
    let (mut scheduler, report) = moving(ReplicaPath::Learner);
    let intent = Intent::MoveReplica { from: StoreId(3), to: StoreId(4) };
    let first = scheduler.admit(&propose(&scheduler, intent), T0).expect("admitted");
    let votes = |report: &RegionReport| lists(report, 4).is_some_and(Peer::votes);
    let report = obey_until(&mut scheduler, report, first, votes);
    let now = silent(&scheduler);
    heard_without(&mut scheduler, &[4], now);
    assert_eq!(scheduler.report_region(report.clone(), now), Ok(None), "nothing is removed");
    assert_eq!(last_outcome(&scheduler), lost(4));
    assert_eq!(stores(&settle(&mut scheduler, report, &[4], now)), [1, 2, 3]);
}

/// In a joint configuration: it is left, and no living copy is given up for the dead one.
#[test]
fn a_joint_configuration_whose_newcomer_dies_is_left() {
    for leads in [true, false] {
        for step in ["entered", "before it is left"] {
            let (mut scheduler, mut report) = moving(ReplicaPath::Joint);
            if leads {
                report.leader = lists(&report, 3).map(|peer| peer.id);
                scheduler.report_region(RegionReport { term: Some(2), ..report.clone() }, T0).expect("led");
                report.term = Some(2);
            }
            let intent = Intent::MoveReplica { from: StoreId(3), to: StoreId(4) };
            let first = scheduler.admit(&propose(&scheduler, intent), T0).expect("admitted");
            let mut report = obey_until(&mut scheduler, report, first, |report| report.region.is_joint());
            if step != "entered" {
                scheduler.report_region(report.clone(), T0).expect("accepted");
                report.leader = lists(&report, 1).map(|peer| peer.id);
                report.term = report.term.map(|term| term + 1);
            }
            let now = silent(&scheduler);
            let report = settle(&mut scheduler, report, &[4], now);
            assert!(!report.region.is_joint(), "led by the leaver {leads}, {step}: {}", report.region);
            assert_eq!(stores(&report), [1, 2, 3], "led by the leaver {leads}, {step}: {}", report.region);
            assert!(report.region.peers.iter().all(|peer| peer.role == Role::Voter), "{}", report.region);
            let outcomes: Vec<Outcome> = scheduler.operators().history().map(|ended| ended.outcome).collect();
            assert!(outcomes.contains(&lost(4)), "{outcomes:?}");
        }
    }
}

/// A leader that is to be on a store that dies: also while it lags, which alone would be waited for.
#[test]
fn leadership_is_not_brought_to_a_store_that_dies() {
    for lags in [true, false] {
        let (mut scheduler, mut report) = moving(ReplicaPath::Learner);
        if lags {
            report.pending = vec![PeerId(12)];
            scheduler.report_region(report.clone(), T0).expect("accepted");
        }
        let config = Config { leader_operator_timeout_ms: 600_000, ..scheduler.config().clone() };
        scheduler.set_config(config).expect("valid");
        let intent = Intent::TransferLeader { to: StoreId(2) };
        scheduler.admit(&propose(&scheduler, intent), T0).expect("admitted");
        let now = silent(&scheduler);
        heard_without(&mut scheduler, &[2], now);
        assert_eq!(scheduler.report_region(report, now), Ok(None));
        assert_eq!(last_outcome(&scheduler), lost(2));
    }
}

/// A learner on a store that died is not made a voter, alone or by a swap.
#[test]
fn a_peer_on_a_dead_store_gets_no_vote() {
    let mut report = region(1, &[1, 2, 3], 1);
    report.region.peers.push(Peer::learner(PeerId(14), StoreId(4)));
    let promote = Step::Promote { peer: PeerId(14) };
    let swap = Step::EnterJoint { promote: vec![PeerId(14)], demote: vec![PeerId(13)] };
    for step in [promote, swap] {
        let mut scheduler = plain(5);
        scheduler.report_region(report.clone(), T0).expect("accepted");
        let now = silent(&scheduler);
        heard_without(&mut scheduler, &[4], now);
        let asked: Operator = operator(&scheduler, 1, Policy::Admin, vec![step]);
        assert_eq!(scheduler.add(asked, now), Ok(None));
        assert_eq!(last_outcome(&scheduler), lost(4));
    }
}

/// Whatever it is at: where the region's leader is silent and no other reports, it would not be carried out. That the region has another leader shows
/// in a report, and then it goes on.
#[test]
fn an_operator_ends_where_its_leader_is_silent() {
    let split = vec![NewRegion { region: RegionId(70), peers: vec![PeerId(71), PeerId(72), PeerId(73)] }];
    let kinds = [
        vec![Step::Split { keys: Vec::new(), new: split }],
        vec![Step::AddLearner { peer: PeerId(14), store: StoreId(4) }],
    ];
    for steps in kinds {
        for other_leads in [true, false] {
            let (mut scheduler, mut report) = moving(ReplicaPath::Learner);
            let asked = operator(&scheduler, 1, Policy::Admin, steps.clone());
            scheduler.add(asked, T0).expect("admitted");
            let now = silent(&scheduler);
            heard_without(&mut scheduler, &[1], now);
            if other_leads {
                report.leader = Some(PeerId(12));
                report.term = Some(2);
                assert!(scheduler.report_region(report, now).expect("accepted").is_some(), "{steps:?}");
            }
            scheduler.tick(now);
            if other_leads {
                assert_eq!(scheduler.operators().len(), 1, "{steps:?}");
            } else {
                let reason = CancelReason::LeaderSilent(StoreId(1));
                assert_eq!(last_outcome(&scheduler), Outcome::Cancelled(reason), "{steps:?}");
                assert!(reason.to_string().contains("store 1"), "{reason}");
            }
        }
    }
}

/// The source of a move may die: what it was to give is had from the others, so the move goes on.
#[test]
fn a_move_away_from_a_store_that_dies_goes_on() {
    let (mut scheduler, report) = moving(ReplicaPath::Learner);
    let intent = Intent::MoveReplica { from: StoreId(3), to: StoreId(4) };
    let first = scheduler.admit(&propose(&scheduler, intent), T0).expect("admitted");
    let report = obey_until(&mut scheduler, report, first, |report| lists(report, 4).is_some());
    let now = silent(&scheduler);
    let report = settle(&mut scheduler, report, &[3], now);
    assert_eq!(stores(&report), [1, 2, 4]);
    assert_eq!(last_outcome(&scheduler), Outcome::Success);
    heard(&mut scheduler, 5, now);
}

/// Also where another step is waited for: what would come later is known to fail.
#[test]
fn an_operator_ends_where_a_later_step_would_hand_leadership_to_a_dead_store() {
    let (mut scheduler, report) = moving(ReplicaPath::Learner);
    let steps = vec![
        Step::AddLearner { peer: PeerId(14), store: StoreId(4) },
        Step::TransferLeader { peer: PeerId(12), store: StoreId(2) },
    ];
    let asked = operator(&scheduler, 1, Policy::Admin, steps);
    let first = scheduler.add(asked, T0).expect("admitted");
    let mut report = obey_until(&mut scheduler, report, first, |report| lists(report, 4).is_some());
    report.pending = vec![PeerId(14)];
    let now = silent(&scheduler);
    heard_without(&mut scheduler, &[2], now);
    assert_eq!(scheduler.report_region(report, now), Ok(None));
    assert_eq!(last_outcome(&scheduler), lost(2));
}

/// A joint configuration is left by the operator itself, because the checker may be switched off.
#[test]
fn a_joint_configuration_is_left_also_without_the_replica_checker() {
    let (mut scheduler, report) = moving(ReplicaPath::Joint);
    let disabled = vec![Policy::ReplicaCheck, Policy::BalanceRegion, Policy::BalanceLeader];
    scheduler.set_config(Config { disabled, ..scheduler.config().clone() }).expect("valid");
    let intent = Intent::MoveReplica { from: StoreId(3), to: StoreId(4) };
    let first = scheduler.admit(&propose(&scheduler, intent), T0).expect("admitted");
    let report = obey_until(&mut scheduler, report, first, |report| report.region.is_joint());
    let now = silent(&scheduler);
    let report = settle(&mut scheduler, report, &[4], now);
    assert!(!report.region.is_joint(), "{}", report.region);
    assert_eq!(stores(&report), [1, 2, 3, 4], "and no living replica is removed");
    assert_eq!(last_outcome(&scheduler), lost(4));
}
