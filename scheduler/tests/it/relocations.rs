//! A replica moves to another store of its node: what is sent in which order, for groups of one replica and of several; and that nothing else
//! brings two replicas of a region to one node.

use scheduler::operator::{Cause, Intent, Outcome, Status, Step, Unsafe};
use scheduler::scheduler::AdmitError;
use scheduler::{
    Action, Change, Config, Instruction, NodeId, Peer, PeerId, Policy, Proposal, Reason, RegionId,
    RegionReport, Role, Scheduler, StoreDescriptor, StoreId, StoreReport,
};

use crate::kit::Mock;
use crate::operators::{T0, heard, operator, region, scheduler as plain};

/// Four nodes of a store each, and store 5, a sibling of store 1.
fn scheduler() -> Scheduler {
    let mut scheduler = plain(4);
    scheduler.put_store(StoreDescriptor::new(StoreId(5), NodeId(1), "s5"), T0).expect("joins");
    scheduler.report_store(StoreReport::empty(StoreId(5)), T0).expect("reports");
    scheduler
}

fn asked(scheduler: &Scheduler, from: u64, to: u64) -> Proposal {
    let info = scheduler.cluster().region(RegionId(1)).expect("known");
    let intent = Intent::Relocate { from: StoreId(from), to: StoreId(to) };
    Proposal::new(info, Policy::Admin, Cause::Asked, intent)
}

/// Does what the scheduler sends, as a group without faults, until nothing is sent. Returns what was sent.
fn obey(
    scheduler: &mut Scheduler,
    mut report: RegionReport,
    first: Option<Instruction>,
) -> (Vec<Action>, RegionReport) {
    let (mut sent, mut next) = (Vec::new(), first);
    while let Some(Instruction { epoch, leader, action, .. }) = next {
        assert_eq!((epoch, Some(leader.id)), (report.region.epoch, report.leader), "{action}");
        match &action {
            Action::TransferLeader(to) => {
                assert!(report.region.peer(to.id).is_some_and(Peer::will_vote), "{to} does not vote");
                report.leader = Some(to.id);
            }
            Action::Change(change) => report.region = change.apply(&report.region).expect("it fits"),
            Action::Split { .. } | Action::Merge(_) => panic!("no policy wants a split"),
        }
        assert_votes_apart(&report, &action);
        sent.push(action);
        // One that comes lags at first, and nothing is sent for it meanwhile.
        if let Some(Action::Change(Change::AddLearner { peer, .. })) = sent.last() {
            let lags = RegionReport { pending: vec![*peer], ..report.clone() };
            assert_eq!(scheduler.report_region(lags, T0), Ok(None));
        }
        next = scheduler.report_region(report.clone(), T0).expect("accepted");
    }
    (sent, report)
}

/// In neither half of the configuration has a node two votes; the leader has one in the half that stays.
fn assert_votes_apart(report: &RegionReport, after: &Action) {
    let node = |store: StoreId| if store == StoreId(5) { StoreId(1) } else { store };
    for gone in [Role::Outgoing, Role::Incoming] {
        let votes = report.region.peers.iter().filter(|peer| peer.votes() && peer.role != gone);
        let mut nodes: Vec<StoreId> = votes.map(|peer| node(peer.store)).collect();
        let count = nodes.len();
        nodes.sort_unstable();
        nodes.dedup();
        assert_eq!(nodes.len(), count, "{after}: {}", report.region);
    }
    let leader = report.leader.and_then(|leader| report.region.peer(leader)).expect("led by a member");
    assert!(leader.votes(), "{after}: led by {leader}");
}

#[test]
fn a_replica_moves_to_a_sibling_by_a_swap_of_votes_and_leadership_goes_with_it() {
    for (stores, from, leads) in [(&[1][..], 1, true), (&[1, 2, 3], 1, true), (&[2, 1, 3], 1, false)] {
        let mut scheduler = scheduler();
        let max_replicas = stores.len() as u64;
        scheduler.set_config(Config { max_replicas, ..scheduler.config().clone() }).expect("valid");
        let report = region(1, stores, 1);
        scheduler.report_region(report.clone(), T0).expect("accepted");
        let first = scheduler.admit(&asked(&scheduler, from, 5), T0).expect("admitted");
        let (sent, after) = obey(&mut scheduler, report, first);
        let new = after.region.peer_on(StoreId(5)).expect("it has arrived").id;
        let (old, swap) = (PeerId(11), Change::EnterJoint { promote: vec![new], demote: vec![PeerId(11)] });
        let mut expected =
            vec![Action::Change(Change::AddLearner { peer: new, store: StoreId(5) }), Action::Change(swap)];
        if leads {
            expected.push(Action::TransferLeader(Peer { id: new, store: StoreId(5), role: Role::Incoming }));
        }
        expected.extend([Action::Change(Change::LeaveJoint), Action::Change(Change::Remove { peer: old })]);
        assert_eq!(sent, expected, "{stores:?}");
        assert_eq!(after.region.peers.len(), stores.len());
        assert!(after.region.peers.iter().all(|peer| peer.role == Role::Voter && peer.id != old));
        let Some(Status::Ended(ended)) = scheduler.operators().status(RegionId(1)) else {
            panic!("it runs on")
        };
        assert_eq!(ended.outcome, Outcome::Success);
        assert_eq!(scheduler.tick(T0).admitted, 0, "nothing is left to be repaired");
    }
}

/// A sibling is one of the same node, whose only replica is the one that leaves.
#[test]
fn what_is_no_move_between_siblings_is_refused_by_name() {
    let cases = [
        (&[1, 2, 3][..], 1, 4, Unsafe::LeavesNode(StoreId(4))),
        (&[1, 2, 3], 2, 5, Unsafe::LeavesNode(StoreId(5))),
    ];
    for (stores, from, to, why) in cases {
        let mut scheduler = scheduler();
        scheduler.report_region(region(1, stores, 1), T0).expect("accepted");
        let rehearsed = scheduler.rehearse(&asked(&scheduler, from, to), T0).map(|(_, outcome)| outcome);
        let ended = rehearsed.expect("it is built").expect("it ends at once");
        assert!(ended.to_string().contains(&why.to_string()), "{ended}");
    }
    let mut scheduler = scheduler();
    scheduler.report_region(region(1, &[1, 2, 3], 1), T0).expect("accepted");
    let nothing_there = scheduler.rehearse(&asked(&scheduler, 4, 5), T0);
    assert!(matches!(nothing_there, Err(AdmitError::Build(_))), "{nothing_there:?}");
    // The ordinary step never does it.
    let step = Step::AddLearner { peer: PeerId(15), store: StoreId(5) };
    let op = operator(&scheduler, 1, Policy::Admin, vec![step]);
    assert_eq!(scheduler.add(op, T0), Ok(None));
    let ended = scheduler.operators().history().last().expect("an outcome");
    assert!(
        ended.outcome.to_string().contains(&Unsafe::NodeTaken(StoreId(5)).to_string()),
        "{}",
        ended.outcome
    );
    // Neither does a second newcomer beside the first.
    let mut report = region(1, &[1, 2, 3], 2);
    report.region.peers.push(Peer::learner(PeerId(15), StoreId(5)));
    scheduler.put_store(StoreDescriptor::new(StoreId(6), NodeId(1), "s6"), T0).expect("joins");
    scheduler.report_store(StoreReport::empty(StoreId(6)), T0).expect("reports");
    scheduler.report_region(report, T0).expect("accepted");
    let third = scheduler.rehearse(&asked(&scheduler, 1, 6), T0).map(|(_, outcome)| outcome);
    let ended = third.expect("it is built").expect("it ends at once");
    assert!(ended.to_string().contains(&Unsafe::NodeTaken(StoreId(6)).to_string()), "{ended}");
}

/// A newcomer whose store falls silent before it votes costs nothing; one that lags is waited for.
#[test]
fn a_newcomer_that_lags_gets_no_vote() {
    let mut scheduler = scheduler();
    let mut report = region(1, &[1], 1);
    scheduler.report_region(report.clone(), T0).expect("accepted");
    let first = scheduler.admit(&asked(&scheduler, 1, 5), T0).expect("admitted").expect("sent");
    let Action::Change(Change::AddLearner { peer, store }) = first.action else { panic!("{first:?}") };
    report.region = Change::AddLearner { peer, store }.apply(&report.region).expect("it fits");
    report.pending = vec![peer];
    for _ in 0..3 {
        assert_eq!(scheduler.report_region(report.clone(), T0), Ok(None), "it is listed and lags");
    }
    heard(&mut scheduler, 5, T0);
    report.pending.clear();
    let next = scheduler.report_region(report, T0).expect("accepted").expect("sent");
    assert!(matches!(next.action, Action::Change(Change::EnterJoint { .. })), "{next:?}");
}

/// A scheduler that begins anew knows of no operator: what a relocation has left behind is one replica per node in the end.
#[test]
fn a_relocation_that_was_cut_short_is_cleared_away() {
    let nodes = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1)];
    for (max_replicas, stores) in [(1, &[1][..]), (3, &[1, 2]), (3, &[1, 2, 3])] {
        let mut mock = Mock::new(max_replicas);
        for (store, node) in nodes {
            mock.put(StoreDescriptor::new(StoreId(store), NodeId(node), format!("store{store}")));
        }
        let mut report = mock.region(1, stores);
        report.region.peers.push(Peer::learner(PeerId(777), StoreId(5)));
        mock.report(report.clone());
        let operator = mock.check_replicas(1).expect("two replicas of a node");
        let gone = Step::RemovePeer { peer: PeerId(777), store: StoreId(5) };
        assert_eq!(operator.steps, [gone], "{stores:?}: it never gets a vote beside another one of its node");

        // The swap was begun: it is ended forwards, and who has lost its vote goes.
        let leader = report.region.peers[0].id;
        report.region.peers[0].role = Role::Outgoing;
        report.region.peers.last_mut().expect("one").role = Role::Incoming;
        report.region.epoch.conf_ver += 1;
        mock.report(report.clone());
        let operator = mock.check_replicas(1).expect("it is joint");
        let transfer = operator.steps.first().expect("a step");
        assert!(
            matches!(transfer, Step::TransferLeader { peer, .. } if *peer != leader),
            "{:?}",
            operator.steps
        );
        assert_eq!(operator.steps.last(), Some(&Step::LeaveJoint));
        report.region = Change::LeaveJoint.apply(&report.region).expect("it is joint");
        report.leader = Some(PeerId(777));
        mock.report(report.clone());
        let operator = mock.check_replicas(1).expect("one too many on the node");
        assert_eq!(operator.steps, [Step::RemovePeer { peer: leader, store: StoreId(1) }], "{stores:?}");
        report.region = Change::Remove { peer: leader }.apply(&report.region).expect("it fits");
        mock.report(report);
        let left = mock.check_replicas(1);
        let expected = stores.len() as u64 == max_replicas;
        let content = left.as_ref().is_err_and(|refusal| refusal.reason == Reason::Content);
        assert_eq!(content, expected, "{left:?}");
    }
}
