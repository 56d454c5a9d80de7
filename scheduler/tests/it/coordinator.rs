//! Operators from the first thought to the last report: the course's coordinator tests, end to end.
#![expect(non_snake_case, reason = "the tests keep the names under which the course knows them")]

use scheduler::config::ReplicaPath;
use scheduler::operator::{BuildError, Cause, Intent, Outcome, Status, Step};
use scheduler::scheduler::{AdmitError, Summary};
use scheduler::{
    Action, Change, DownPeer, Health, KeyRange, Lifecycle, NodeId, Operator, Peer, PeerId, Policy, Proposal,
    RegionId, RegionReport, StoreDescriptor, StoreId, StoreReport, Time,
};

use crate::kit::{Mock, added, key, moved, removed, transferred};
use crate::operators::{T0, heard, operator, region, scheduler};

#[test]
fn TestPeerState() {
    let mut scheduler = scheduler(4);
    scheduler.report_region(region(1, &[1, 2, 3], 1), T0).expect("accepted");
    let info = scheduler.cluster().region(RegionId(1)).expect("known");
    let intent = Intent::MoveReplica { from: StoreId(3), to: StoreId(4) };
    let proposal = Proposal::new(info, Policy::Admin, Cause::Asked, intent);
    let first = scheduler.admit(&proposal, T0).expect("admitted").expect("the first step at once");
    let Action::Change(Change::AddVoter { peer, store: StoreId(4) }) = first.action else {
        panic!("{first:?}")
    };

    let mut report = region(1, &[1, 2, 3], 2);
    report.region.peers.push(Peer::voter(peer, StoreId(4)));
    report.pending = vec![peer];
    assert_eq!(scheduler.report_region(report.clone(), T0), Ok(None), "it catches up");
    assert!(scheduler.operators().get(RegionId(1)).is_some(), "and the operator stays");
    report.pending.clear();
    let next = scheduler.report_region(report.clone(), T0).expect("accepted").expect("the next step");
    assert_eq!(next.action, Action::Change(Change::Remove { peer: PeerId(13) }));
    let again = scheduler.report_region(report, T0).expect("accepted").expect("repeated until it is done");
    assert_eq!(again, next);
}

#[test]
fn TestReplica() {
    let mut scheduler = scheduler(4);
    scheduler.report_region(region(1, &[2, 3], 1), T0).expect("accepted");
    let tick = scheduler.tick(T0);
    let [add] = &tick.instructions[..] else { panic!("{tick:?}") };
    assert!(matches!(add.action, Action::Change(Change::AddVoter { store: StoreId(1), .. })));

    let mut four = region(2, &[1, 2, 3, 4], 1);
    four.region.range = KeyRange::new(key(7), key(8)).expect("rising");
    scheduler.report_region(four, T0).expect("accepted");
    let tick = scheduler.tick(T0);
    assert!(matches!(tick.instructions[0].action, Action::Change(Change::Remove { .. })), "{tick:?}");
}

/// The table's own sizes and counts, which the scenarios above and below only resemble.
#[test]
fn the_exact_rows_of_TestReplica_and_TestDispatch() {
    let mut mock = Mock::new(3);
    for (id, leaders) in [(1, 10), (2, 20), (3, 30), (4, 40)] {
        mock.leader_store(id, leaders);
        mock.region_store(id, leaders * 10);
    }
    mock.leader_region(1, &[2, 3, 4]);
    assert_eq!(mock.balance_region().map(|operator| moved(&operator)), Some((4, 1)));
    mock.leader_store(4, 50);
    mock.leader_region(2, &[4, 3, 2]);
    assert_eq!(mock.balance_leader().map(|operator| transferred(&operator)), Some(2));

    mock.leader_region(3, &[2, 3]);
    assert_eq!(mock.check_replicas(3).map(|operator| added(&operator)), Ok(1));
    mock.leader_region(3, &[1, 2, 3, 4]);
    assert_eq!(mock.check_replicas(3).map(|operator| removed(&operator)), Ok(4));
}

#[test]
fn an_offline_peer_without_a_spare_store_is_left_in_silence_and_with_a_reason() {
    let mut scheduler = scheduler(3);
    let mut offline = scheduler.cluster().store(StoreId(3)).expect("joined").descriptor.clone();
    offline.lifecycle = Lifecycle::Offline;
    scheduler.put_store(offline, T0).expect("known");
    let mut report = region(1, &[1, 2, 3], 1);
    report.pending = vec![PeerId(13)];
    scheduler.report_region(report, T0).expect("accepted");
    let tick = scheduler.tick(T0);
    assert!(tick.instructions.is_empty());
    assert!(tick.refusals.iter().any(|refusal| refusal.store == Some(StoreId(3))), "{:?}", tick.refusals);
    assert!(!scheduler.why(RegionId(1), T0).is_empty());
}

#[test]
fn TestDispatch() {
    let mut scheduler = scheduler(4);
    let mut config = scheduler.config().clone();
    config.disabled = vec![Policy::BalanceLeader];
    scheduler.set_config(config).expect("valid");
    // Stores 2, 3 and 4 hold forty regions, store 1 none: a replica moves to store 1, step by step, then silence.
    let mut reports: Vec<RegionReport> = (1..=40).map(|id| region(id, &[2, 3, 4], 1)).collect();
    for report in &reports {
        scheduler.report_region(report.clone(), T0).expect("accepted");
    }
    let mut open = scheduler.tick(T0).instructions;
    assert!(!open.is_empty() && open.len() <= 8, "the limit on moves into store 1");
    for _ in 0..400 {
        let Some(instruction) = open.pop() else { break };
        let report = reports.iter_mut().find(|report| report.region.id == instruction.region).expect("known");
        match instruction.action {
            Action::Change(change) => report.region = change.apply(&report.region).expect("a valid change"),
            Action::TransferLeader(peer) => report.leader = Some(peer.id),
            Action::Split { .. } | Action::Merge(_) => panic!("nothing is to be split"),
        }
        open.extend(scheduler.report_region(report.clone(), T0).expect("accepted"));
        if open.is_empty() {
            open = scheduler.tick(T0).instructions;
        }
    }
    assert!(open.is_empty() && scheduler.operators().is_empty(), "at rest");
    let counts: Vec<u64> = (1..=4).map(|id| scheduler.cluster().counters(StoreId(id)).regions()).collect();
    assert!(counts.iter().all(|count| (28..=32).contains(count)), "{counts:?}");
    assert_eq!(counts.iter().sum::<u64>(), 120);
}

#[test]
fn the_joint_path_never_grows_the_number_of_voters() {
    let mut scheduler = scheduler(4);
    let mut config = scheduler.config().clone();
    config.replica_path = ReplicaPath::Joint;
    scheduler.set_config(config).expect("valid");
    let mut report = region(1, &[1, 2, 3], 1);
    scheduler.report_region(report.clone(), T0).expect("accepted");
    let info = scheduler.cluster().region(RegionId(1)).expect("known");
    let intent = Intent::MoveReplica { from: StoreId(1), to: StoreId(4) };
    let proposal = Proposal::new(info, Policy::Admin, Cause::Asked, intent);
    let mut next = scheduler.admit(&proposal, T0).expect("admitted");
    let mut sent = 0;
    while let Some(instruction) = next {
        sent += 1;
        match instruction.action {
            Action::Change(change) => report.region = change.apply(&report.region).expect("a valid change"),
            Action::TransferLeader(peer) => report.leader = Some(peer.id),
            Action::Split { .. } | Action::Merge(_) => panic!("no split"),
        }
        assert!(report.region.peers.iter().filter(|peer| peer.will_vote()).count() <= 3);
        next = scheduler.report_region(report.clone(), T0).expect("accepted");
    }
    assert_eq!(sent, 5, "learner, enter, transfer, leave, remove");
    let Some(Status::Ended(ended)) = scheduler.operators().status(RegionId(1)) else {
        panic!("still running")
    };
    assert_eq!(ended.outcome, Outcome::Success);
    assert!(report.region.peer_on(StoreId(1)).is_none() && report.region.peer_on(StoreId(4)).is_some());
}

#[test]
fn scatter_and_presplit_go_on_until_there_is_nothing_to_do() {
    let mut scheduler = scheduler(6);
    let mut reports: Vec<RegionReport> = (1..=12).map(|id| region(id, &[1, 2, 3], 1)).collect();
    for report in &reports {
        scheduler.report_region(report.clone(), T0).expect("accepted");
    }
    let group: Vec<RegionId> = (1..=12).map(RegionId).collect();
    for _ in 0..50 {
        let mut open = scheduler.scatter(&group, T0).instructions;
        if open.is_empty() {
            break;
        }
        while let Some(instruction) = open.pop() {
            let report =
                reports.iter_mut().find(|report| report.region.id == instruction.region).expect("known");
            match instruction.action {
                Action::Change(change) => {
                    report.region = change.apply(&report.region).expect("a valid change")
                }
                Action::TransferLeader(peer) => report.leader = Some(peer.id),
                Action::Split { .. } | Action::Merge(_) => panic!("no split"),
            }
            open.extend(scheduler.report_region(report.clone(), T0).expect("accepted"));
        }
    }
    for id in 1..=6 {
        let counters = scheduler.cluster().counters(StoreId(id));
        assert!((5..=7).contains(&counters.regions()), "{counters:?}");
        assert!((1..=3).contains(&counters.leaders), "{counters:?}");
    }
    let keys = [key(3), "00000000000000000003a".into(), "00000000000000000003b".into(), "zzz".into()];
    let tick = scheduler.presplit(&keys, T0);
    let [split] = &tick.instructions[..] else { panic!("{tick:?}") };
    let Action::Split { keys, new } = &split.action else { panic!("{split:?}") };
    assert_eq!((keys.len(), new.len(), tick.refusals.len()), (2, 2, 1));
}

#[test]
fn a_removal_waits_while_it_would_cost_the_quorum() {
    let mut scheduler = scheduler(3);
    scheduler.report_region(region(1, &[1, 2, 3], 1), T0).expect("accepted");
    // Store 2 falls silent: without store 3, store 1 would be left alone of two.
    let later = T0.plus_ms(scheduler.config().store_disconnected_ms + 1);
    for id in [1, 3] {
        scheduler.report_store(StoreReport::empty(StoreId(id)), later).expect("reports");
    }
    let op = operator(
        &scheduler,
        1,
        Policy::Admin,
        vec![Step::RemovePeer { peer: PeerId(13), store: StoreId(3) }],
    );
    let op = Operator { created: later, ..op };
    assert_eq!(scheduler.add(op, later), Ok(None));
    assert_eq!(scheduler.report_region(region(1, &[1, 2, 3], 1), later), Ok(None));
    assert!(scheduler.operators().get(RegionId(1)).is_some(), "it waits");
    heard(&mut scheduler, 3, later);
    let sent =
        scheduler.report_region(region(1, &[1, 2, 3], 1), later).expect("accepted").expect("safe again");
    assert_eq!(sent.action, Action::Change(Change::Remove { peer: PeerId(13) }));
}

#[test]
fn what_is_not_admitted_is_reported_with_its_reason() {
    let mut scheduler = scheduler(4);
    scheduler.grant_ids(0..0);
    scheduler.report_region(region(1, &[2, 3], 1), T0).expect("accepted");
    let tick = scheduler.tick(T0);
    let [(proposal, error)] = &tick.declined[..] else { panic!("{tick:?}") };
    assert_eq!((proposal.region, *error), (RegionId(1), AdmitError::Build(BuildError::OutOfIds)));
    assert_eq!((tick.admitted, scheduler.ids_wanted().is_some()), (0, true));
    scheduler.grant_ids(500..1_000);
    assert_eq!(scheduler.tick(T0).admitted, 1);
}

#[test]
fn news_make_the_next_round_urgent_and_a_round_settles_that() {
    let mut scheduler = scheduler(4);
    let mut report = region(1, &[2, 3], 1);
    scheduler.report_region(report.clone(), T0).expect("accepted");
    assert!(scheduler.is_urgent(), "stores were heard for the first time");
    let first = scheduler.tick(T0).instructions.remove(0);
    assert!(!scheduler.is_urgent(), "a round has seen it");
    let idle = (0..40).map(|_| scheduler.tick(T0).wait_ms).max();
    assert_eq!(idle, Some(5_000), "nothing happens");
    scheduler.report_region(report.clone(), T0).expect("accepted");
    scheduler.report_store(StoreReport::empty(StoreId(2)), T0).expect("accepted");
    assert!(!scheduler.is_urgent(), "it said that before");

    let Action::Change(Change::AddVoter { peer, store }) = first.action else { panic!("{first:?}") };
    report.region.peers.push(Peer::voter(peer, store));
    report.region.epoch.conf_ver += 1;
    assert_eq!(scheduler.report_region(report, T0), Ok(None), "the operator ends");
    assert!(scheduler.is_urgent(), "what the region needs next should not wait");
    assert!(scheduler.tick(T0).wait_ms < 20, "and rounds are close to each other again");
    let silent = scheduler.config().store_disconnected_ms + 1;
    let later = Time(T0.0 + silent);
    scheduler.report_store(StoreReport::empty(StoreId(2)), later).expect("accepted");
    assert!(scheduler.is_urgent(), "it is heard again");
}

#[test]
fn what_is_lacking_and_what_was_done_is_counted() {
    let mut scheduler = scheduler(4);
    let of = |summary: &Summary, policy: Policy, outcome: &str| {
        let ended = summary.ended.iter().find(|(by, how, _)| *by == policy && *how == outcome);
        ended.expect("every pair is there").2
    };
    scheduler.report_region(region(1, &[2, 3], 1), T0).expect("accepted");
    let summary = scheduler.summary(T0);
    assert_eq!((summary.regions, summary.under_replicated), (1, 1), "two of three");
    assert_eq!(summary.stores.iter().map(|(_, count)| count).sum::<u64>(), 4);
    assert_eq!(summary.stores[0], (Health::Up, 4));
    let first = scheduler.tick(T0).instructions.remove(0);
    let summary = scheduler.summary(T0);
    assert!(summary.running.contains(&(Policy::ReplicaCheck, 1)), "{summary:?}");
    assert_eq!(of(&summary, Policy::ReplicaCheck, "success"), 0);

    let Action::Change(Change::AddVoter { peer, store }) = first.action else { panic!("{first:?}") };
    let mut whole = region(1, &[2, 3], 1);
    whole.region.peers.push(Peer::voter(peer, store));
    whole.region.epoch.conf_ver += 1;
    scheduler.report_region(whole.clone(), T0).expect("accepted");
    let summary = scheduler.summary(T0);
    assert_eq!((summary.regions, summary.under_replicated), (1, 0));
    assert!(summary.running.contains(&(Policy::ReplicaCheck, 0)), "{summary:?}");
    assert_eq!(of(&summary, Policy::ReplicaCheck, "success"), 1);

    let mut silent = whole;
    silent.down = vec![DownPeer { peer: silent.region.peers[1].id, down_ms: 10_000 }];
    scheduler.report_region(silent, T0).expect("accepted");
    assert_eq!(scheduler.summary(T0).under_replicated, 1, "one of three is not heard");
    assert_eq!(scheduler.summary(Time(T0.0 + 100_000_000)).stores[3], (Health::Down, 4));
}

/// Nothing else says so of a replica whose store is heard: the region has its leader and its majority.
#[test]
fn a_replica_that_lags_for_long_is_counted_until_it_has_caught_up() {
    let mut scheduler = scheduler(4);
    let report = |lagging: &[usize], silent: &[usize]| {
        let mut report = region(1, &[2, 3, 4], 1);
        let peer = |place: &usize| report.region.peers[*place].id;
        let pending = lagging.iter().map(peer).collect();
        let down = silent.iter().map(|place| DownPeer { peer: peer(place), down_ms: 10_000 }).collect();
        (report.pending, report.down) = (pending, down);
        report
    };
    let mut at = |seconds: u64, lagging: &[usize], silent: &[usize]| {
        let now = Time(T0.0 + seconds * 1000);
        (1..=4).for_each(|store| drop(scheduler.report_store(StoreReport::empty(StoreId(store)), now)));
        scheduler.report_region(report(lagging, silent), now).expect("accepted");
        scheduler.summary(now).lagging
    };
    assert_eq!(at(0, &[1], &[]), 0);
    assert_eq!(at(600, &[1], &[]), 0, "it may be on its way");
    assert_eq!(at(601, &[1], &[]), 1);
    assert_eq!(at(602, &[1], &[1]), 0, "one that is silent is away, which is said elsewhere");
    assert_eq!(at(603, &[2, 1], &[]), 1);
    assert_eq!(at(604, &[2], &[]), 0, "another one lags, and not for long");
    assert_eq!(at(1203, &[2], &[]), 0);
    assert_eq!(at(1204, &[2], &[]), 1);
    assert_eq!(at(1205, &[], &[]), 0, "it has caught up");
    assert_eq!(at(1206, &[2], &[]), 0, "and begins anew");
}

/// What the first store of a node that joins is heard with must not fill it before its sibling is heard.
#[test]
fn a_node_that_joins_is_filled_once_all_its_stores_are_heard() {
    let mut scheduler = scheduler(2);
    for id in 1..=8 {
        scheduler.report_region(region(id, &[1, 2], 1), T0).expect("accepted");
    }
    assert!(scheduler.tick(T0).instructions.is_empty(), "there is no third node");
    for id in [3, 4] {
        let descriptor = StoreDescriptor::new(StoreId(id), NodeId(3), format!("s{id}"));
        scheduler.put_store(descriptor, T0).expect("joins");
    }
    scheduler.report_store(StoreReport::empty(StoreId(3)), T0).expect("reports");
    assert!(!scheduler.is_urgent(), "its sibling has not been heard");
    scheduler.report_store(StoreReport::empty(StoreId(4)), T0).expect("reports");
    assert!(scheduler.is_urgent(), "the whole node is heard");
    let mut given = [0, 0];
    for instruction in scheduler.tick(T0).instructions {
        let Action::Change(Change::AddVoter { store, peer: _ }) = instruction.action else {
            panic!("{instruction:?}")
        };
        given[usize::try_from(store.0 - 3).expect("one of the new node")] += 1;
    }
    assert_eq!(given, [4, 4]);
    // A store of the node that was taken out of use is not waited for.
    let mut gone = StoreDescriptor::new(StoreId(6), NodeId(5), "s6");
    gone.lifecycle = Lifecycle::Offline;
    scheduler.put_store(gone, T0).expect("joins");
    scheduler.put_store(StoreDescriptor::new(StoreId(5), NodeId(5), "s5"), T0).expect("joins");
    scheduler.report_store(StoreReport::empty(StoreId(5)), T0).expect("reports");
    assert!(scheduler.is_urgent(), "no store in use is missing");
}
