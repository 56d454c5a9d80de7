//! What state machines that lag, snapshots that get lost and late answers must not break: each scenario by itself,
//! and with the mistake planted that it is there to catch.

use std::panic::{AssertUnwindSafe, catch_unwind};

use raft::planted::{Bug, plant};
use raft::{
    Body, ChangeEffect, ChangeStep, Config, Dropped, EntryKind, Event, GaveUp, Index, LogId, Membership,
    MembershipChange, Message, Mode, NodeId, Payload, Refusal, Snapshot, SnapshotReport, Time,
    TransferOutcome, Transition,
};

use crate::kit::*;

/// Three voters, the first of which leads; every state machine applies when its peer says so.
fn lead_3(config: &Config) -> Net {
    let mut net = Net::with(config, 3, &[]);
    net.random_lag = false;
    net.campaign(1);
    assert_eq!(net.leaders(), [1]);
    net
}

/// Lets a peer apply what it has kept, and delivers what follows.
fn catch_up(net: &mut Net, id: u64) {
    let out = net.peer(id).catch_up();
    net.send(out);
}

fn mode(net: &mut Net, of: u64) -> Mode {
    let status = net.peer(1).raft.status(Time(0));
    status.members.iter().find(|member| member.id == NodeId(of)).expect("a member").mode
}

fn outcomes(net: &mut Net, at: u64) -> Vec<TransferOutcome> {
    let ended = |event: Event| match event {
        Event::Transfer { outcome, .. } => Some(outcome),
        Event::CaughtUp { .. } => None,
    };
    std::mem::take(&mut net.peer(at).events).into_iter().filter_map(ended).collect()
}

fn change(steps: Vec<ChangeStep>, transition: Transition) -> MembershipChange {
    MembershipChange::many(steps, transition)
}

/// Voters 1 2 3, learners 4 5. Entry 3 learns 6, 5 is an explicit joint change (+4 -3), 6 leaves it, 7 is another one
/// (+5 -2). A snapshot of 7 is stepped while entry 3 is being applied; a crash forgets it.
fn nothing_is_stored_for_a_change_that_a_snapshot_has_overtaken() {
    let ids = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>();
    let begin = Membership::with_learners(ids(&[1, 2, 3]), ids(&[4, 5]));
    let add = ChangeStep::AddVoter;
    let changes = [
        (3, MembershipChange::one(ChangeStep::AddLearner(NodeId(6)))),
        (5, change(vec![add(NodeId(4)), ChangeStep::Remove(NodeId(3))], Transition::JointExplicit)),
        (6, MembershipChange::leave_joint()),
        (7, change(vec![add(NodeId(5)), ChangeStep::Remove(NodeId(2))], Transition::JointExplicit)),
    ];
    let log: Vec<_> = (1..=7)
        .map(|index| {
            let mut entry = entry(1, index, "");
            if let Some((_, change)) = changes.iter().find(|(at, _)| *at == index) {
                (entry.kind, entry.payload) = (EntryKind::Membership, change.encode());
            }
            entry
        })
        .collect();
    let at_7 = changes.iter().fold(begin.clone(), |now, (_, change)| now.after(change).expect("a change"));

    // It holds three entries, and has applied two.
    let hard = raft::HardState { term: raft::Term(1), vote: None, commit: Index(3) };
    let mut peer = Peer::restart(&course(), 1, begin, LogId::ZERO, log[..3].to_vec(), hard);
    peer.lags = true;
    peer.settle();
    assert!(peer.apply_one() && peer.apply_one());
    peer.flush();
    let snapshot = Snapshot { last: LogId::new(1, 7), membership: at_7.clone(), context: Payload::EMPTY };
    let step = peer.raft.step(Time(0), message(2, 1, 1, Body::Snapshot(Box::new(snapshot))));
    step.expect("a snapshot of its leader");
    let write = peer.raft.ready().write.expect("the snapshot");
    let effect = peer.raft.apply_change(Index(3), &changes[0].1).expect("a change that makes sense");
    if let ChangeEffect::Store(membership) = effect {
        let membership = membership.clone();
        peer.stored = State { last: LogId::new(1, 3), membership };
    }
    drop(write);

    // The crash; afterwards it gets the entries instead of the snapshot.
    let stored = peer.stored.clone();
    let mut again = Peer::restart_from(&course(), 1, stored, LogId::ZERO, peer.log, peer.hard, Index(0));
    again.settle();
    again.step(append(2, 1, 1, (1, 3), log[3..].to_vec(), 7));
    assert_eq!(again.state.last, LogId::new(1, 7));
    assert_eq!(again.state.membership, at_7);
    assert_eq!(again.state.membership.outgoing(), ids(&[1, 2, 4]));
}

/// Voters 1 and 3, learner 2. The leader has applied 2's promotion; 2 has not when it is told to campaign.
fn a_target_that_lags_campaigns_when_it_has_applied() {
    let membership = Membership::with_learners([NodeId(1), NodeId(3)], [NodeId(2)]);
    let start = |id| {
        Peer::restart(&course(), id, membership.clone(), LogId::ZERO, vec![], raft::HardState::default())
    };
    let mut net = Net::of([start(1), start(2), start(3)]);
    net.random_lag = false;
    net.campaign(1);
    net.peer(2).lags = true;
    assert!(net.change(1, ChangeStep::AddVoter(NodeId(2))));
    assert!(net.peer(1).raft.membership().is_voter(NodeId(2)));
    net.transfer(1, 2);
    assert_eq!(net.leaders(), [1], "2 does not know yet that it votes");
    catch_up(&mut net, 2);
    assert_eq!(net.leaders(), [2]);
    assert_eq!(outcomes(&mut net, 1), [TransferOutcome::Done]);
}

/// A leader removes itself; its successor has not applied that when the order comes, and nobody will repeat it.
fn the_successor_of_a_removed_leader_campaigns_when_it_has_applied() {
    let mut net = lead_3(&course());
    net.peer(2).lags = true;
    net.peer(3).lags = true;
    assert!(net.change(1, ChangeStep::Remove(NodeId(1))));
    assert!(net.leaders().is_empty());
    catch_up(&mut net, 2);
    catch_up(&mut net, 3);
    assert_eq!(net.leaders().len(), 1);
}

fn leased() -> Config {
    Config { check_quorum: true, lease_nanos: 1000, ..course() }
}

/// An order is delayed until the transfer is abandoned and the target has promised its vote to the resumed leader.
/// Voter 3 has not heard of that and would help it.
fn a_late_order_does_not_break_the_promise_of_its_target() {
    let mut net = lead_3(&leased());
    net.tick(1);
    net.ignore("timeout-now");
    net.transfer(1, 2);
    net.recover();
    net.isolate(3);
    net.peer(1).raft.transfer(NodeId(1)).expect("cancelled");
    net.tick(1);
    assert!(net.peer(1).raft.lease_read(Time(0)).is_ok(), "2 has renewed the lease");
    net.recover();
    net.cut(1, 3);
    let (out, result) = net.peer(2).try_step(timeout_now(1, 2, 1));
    net.cut_one_way(2, 1);
    net.send(out);
    let rival = net.peer(2).raft.is_leader();
    assert!(!(rival && net.peer(1).raft.lease_read(Time(0)).is_ok()), "two could serve reads");
    assert_eq!(result, Err(Dropped::MayNotCampaign));
}

/// The leader's own state machine hangs on a change: all the more reason to go.
fn a_leader_whose_apply_hangs_can_hand_over() {
    let mut net = lead_3(&course());
    net.peer(1).lags = true;
    assert!(net.change(1, ChangeStep::AddVoter(NodeId(3))));
    net.transfer(1, 2);
    assert_eq!(net.leaders(), [2]);
}

/// What was sent to the target is lost, and no heartbeat is due.
fn a_transfer_does_not_wait_for_a_heartbeat() {
    let mut net = lead_3(&course());
    net.isolate(3);
    assert!(net.propose(1, "lost on the way to 3"));
    net.recover();
    net.transfer(1, 3);
    assert_eq!(net.leaders(), [3]);
}

/// Leads three; the third misses what the leader has cut off, and needs a snapshot whose message is lost.
fn lead_with_a_snapshot_lost(config: &Config) -> Net {
    let mut net = lead_3(config);
    net.isolate(3);
    assert!(net.propose(1, "x"));
    net.peer(1).compact();
    net.recover();
    net.ignore("snapshot");
    net.tick(1);
    assert!(matches!(mode(&mut net, 3), Mode::Snapshot { .. }));
    net
}

/// All bytes were delivered, and the member crashed before it could use them.
fn a_snapshot_that_was_sent_and_lost_is_sent_again() {
    let config = course();
    let mut net = lead_with_a_snapshot_lost(&config);
    let wanted = *net.peer(1).wanted.last().expect("a request");
    net.peer(1).raft.report_snapshot(&wanted, SnapshotReport::Sent);
    net.recover();
    (0..config.election_ticks / 2).for_each(|_| net.tick(1));
    assert_eq!(net.peer(1).wanted.len(), 1, "it may still be on its way into the state machine");
    (0..config.election_ticks).for_each(|_| net.tick(1));
    assert_eq!((net.peer(1).wanted.len(), mode(&mut net, 3)), (2, Mode::Replicate));
    assert_eq!(net.peer(3).committed(), 2);
}

/// A snapshot that takes its time is not asked for twice: the member says nothing before it is installed.
#[test]
fn a_snapshot_that_is_being_installed_is_waited_for() {
    let mut net = lead_with_a_snapshot_lost(&course());
    let wanted = *net.peer(1).wanted.last().expect("a request");
    let snapshot = net.peer(1).snapshot();
    net.recover();
    // Stepped at the member, and not durable there.
    let announced = message(1, 3, 1, Body::Snapshot(Box::new(snapshot)));
    net.peer(3).raft.step(Time(0), announced).expect("a snapshot of its leader");
    let write = net.peer(3).raft.ready().write.expect("the snapshot");
    net.peer(1).raft.report_snapshot(&wanted, SnapshotReport::Sent);
    for _ in 0..30 {
        let out: Vec<_> = net.peer(1).tick().into_iter().filter(|message| message.to == NodeId(2)).collect();
        net.send(out);
    }
    assert_eq!(net.peer(1).wanted.len(), 1);
    let out = net.peer(3).complete(write);
    net.send(out);
    assert_eq!(mode(&mut net, 3), Mode::Replicate);
}

/// The first snapshot failed, the second is being shipped; then the driver reports the first one again.
fn a_report_about_an_earlier_snapshot_changes_nothing() {
    let mut net = lead_with_a_snapshot_lost(&course());
    let first = *net.peer(1).wanted.last().expect("a request");
    net.peer(1).raft.report_snapshot(&first, SnapshotReport::Failed);
    net.tick(1);
    assert_eq!(net.peer(1).wanted.len(), 2);
    let before = mode(&mut net, 3);
    assert!(matches!(before, Mode::Snapshot { .. }));
    let snapshot = net.peer(1).snapshot();
    net.peer(1).raft.report_snapshot(&first, SnapshotReport::Failed);
    assert_eq!(net.peer(1).raft.send_snapshot(&first, snapshot), Err(Refusal::OutOfPlace));
    assert_eq!(mode(&mut net, 3), before);
}

/// A read of entries is answered when the member has long been removed, has come back and is well.
fn a_late_answer_to_a_fetch_changes_nothing() {
    let config = Config { cache_bytes_max: 0, ..course() };
    let mut net = lead_3(&config);
    net.isolate(3);
    assert!(net.propose(1, "x") && net.propose(1, "y"));
    net.recover();
    net.peer(1).raft.tick(Time(0));
    let beat = net.peer(1).raft.ready().send;
    let answers: Vec<_> = beat
        .into_iter()
        .filter(|message| message.to == NodeId(3))
        .flat_map(|message| net.peer(3).step(message))
        .collect();
    // The nudge that follows is refused, and the leader reads from disk.
    let mut fetch = None;
    let mut queue: Vec<Message> = answers;
    while let Some(message) = queue.pop() {
        if message.to == NodeId(3) {
            queue.extend(net.peer(3).step(message));
            continue;
        }
        let _late = net.peer(1).raft.step(Time(0), message);
        let ready = net.peer(1).raft.ready();
        queue.extend(ready.send.into_iter().filter(|message| message.to == NodeId(3)));
        fetch = ready.fetch.first().copied().or(fetch);
    }
    let fetch = fetch.expect("entries that have left memory");
    for step in [ChangeStep::Remove(NodeId(3)), ChangeStep::AddVoter(NodeId(3))] {
        assert!(net.change(1, step));
    }
    net.tick(1);
    net.tick(1);
    assert_eq!(mode(&mut net, 3), Mode::Replicate);
    net.peer(1).raft.fetched(&fetch, None);
    assert_eq!(mode(&mut net, 3), Mode::Replicate);
}

/// A blank member answers twice; the second answer arrives when it has long got its snapshot.
fn a_late_blank_answer_changes_nothing() {
    let mut net = lead_3(&course());
    net.peers.insert(4, Peer::new(4, &[]));
    assert!(net.change(1, ChangeStep::AddLearner(NodeId(4))));
    (0..3).for_each(|_| net.tick(1));
    assert_eq!(mode(&mut net, 4), Mode::Replicate);
    assert!(net.seen.iter().any(|seen| seen == "snapshot 1>4"));
    let refused = Index(1);
    let late = message(4, 1, 1, Body::AppendReply(raft::AppendOutcome::Blank { refused }));
    let out = net.peer(1).step(late);
    net.send(out);
    assert_eq!((mode(&mut net, 4), net.peer(1).wanted.len()), (Mode::Replicate, 1));
}

/// A candidate with an old log raises the term again and again. Nobody votes for it, and nobody waits longer for it.
fn a_higher_term_alone_restarts_no_timer() {
    let mut peer = Peer::with_log(&course(), 1, &[1, 2, 3], &[1], (1, 1));
    let mut terms = 2;
    for _ in 0..2 * course().election_ticks {
        assert!(!peer.raft.is_leader());
        if peer.role() == raft::RoleKind::Candidate {
            return;
        }
        assert!(!granted(&peer.step(vote(3, 1, terms, (0, 0)))));
        terms = peer.term() + 1;
        peer.tick();
    }
    panic!("it never campaigns");
}

/// The promise to the old leader ended long ago, but nothing has happened since that would have shown the time.
fn a_campaign_goes_by_the_present_time() {
    let mut net = lead_3(&leased());
    net.tick(1);
    assert_eq!(net.peer(2).raft.campaign(Time(10)), Err(Refusal::MayNotCampaign));
    assert_eq!(net.peer(2).raft.campaign(Time(1_000_000)), Ok(()));
}

/// A new learner keeps up when it has got through a round within an election timeout, and not before.
fn a_learner_that_keeps_up_is_reported_once() {
    let mut net = lead_3(&course());
    assert!(net.propose(1, "x"));
    net.peers.insert(4, Peer::with_log(&course(), 4, &[1, 2, 3], &[1], (1, 0)));
    net.ignore("append-reply");
    let change = MembershipChange::one(ChangeStep::AddLearner(NodeId(4)));
    net.peer(1).raft.propose_change(&change).expect("settled");
    net.peer(1).settle();
    for voter in [2, 3] {
        let last = net.peer(1).raft.last().index.0;
        net.peer(1).step(matched(voter, 1, 1, last));
    }
    net.peer(1).step(matched(4, 1, 1, 1));
    assert!(net.peer(1).events.is_empty(), "it holds one of three entries");
    net.recover();
    (0..3).for_each(|_| net.tick(1));
    assert!(net.propose(1, "y"));
    let last = net.peer(1).raft.last().index;
    assert!(last > Index(3));
    assert_eq!(net.peer(1).events, [Event::CaughtUp { learner: NodeId(4), matched: Index(3) }]);
}

/// Every scenario, with the mistake it catches.
const SCENARIOS: &[(Bug, fn())] = &[
    (Bug::OvertakenChangeStored, nothing_is_stored_for_a_change_that_a_snapshot_has_overtaken),
    (Bug::OrderForgotten, a_target_that_lags_campaigns_when_it_has_applied),
    (Bug::OrderForgotten, the_successor_of_a_removed_leader_campaigns_when_it_has_applied),
    (Bug::LateOrderFollowed, a_late_order_does_not_break_the_promise_of_its_target),
    (Bug::TransferNeedsOwnApply, a_leader_whose_apply_hangs_can_hand_over),
    (Bug::TransferWaitsForHeartbeat, a_transfer_does_not_wait_for_a_heartbeat),
    (Bug::SentSnapshotTrusted, a_snapshot_that_was_sent_and_lost_is_sent_again),
    (Bug::LateReportBelieved, a_report_about_an_earlier_snapshot_changes_nothing),
    (Bug::LateFetchBelieved, a_late_answer_to_a_fetch_changes_nothing),
    (Bug::LateBlankBelieved, a_late_blank_answer_changes_nothing),
    (Bug::HigherTermRestartsTimer, a_higher_term_alone_restarts_no_timer),
    (Bug::StaleClock, a_campaign_goes_by_the_present_time),
    (Bug::CaughtUpTooEarly, a_learner_that_keeps_up_is_reported_once),
];

#[test]
fn scenarios_hold() {
    for (_, scenario) in SCENARIOS {
        scenario();
    }
}

#[test]
fn scenarios_fail_with_their_mistake() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for (bug, scenario) in SCENARIOS {
        plant(Some(*bug));
        if catch_unwind(AssertUnwindSafe(scenario)).is_ok() {
            missed.push(*bug);
        }
        plant(None);
    }
    std::panic::set_hook(hook);
    assert!(missed.is_empty(), "no scenario fails with {missed:?}");
}

/// However state machines lag, a transfer right after a change succeeds.
#[test]
fn transfers_succeed_with_every_lag() {
    with_every_lag(|| {
        let mut net = Net::new(3, &[]);
        net.campaign(1);
        assert!(net.change(1, ChangeStep::AddVoter(NodeId(2))));
        net.transfer(1, 2);
        assert_eq!(net.leaders(), [2]);
        net.transfer(2, 3);
        assert_eq!(net.leaders(), [3]);
        assert_eq!(outcomes(&mut net, 1), [TransferOutcome::Done]);
    });
}

/// Every end that a transfer can have is told to whoever asked.
#[test]
fn a_transfer_ends_with_a_reason() {
    let gave_up = |reason| [TransferOutcome::GaveUp(reason)];
    let ticks = course().election_ticks;

    let mut net = lead_3(&course());
    net.isolate(3);
    assert!(net.propose(1, "x"));
    net.transfer(1, 3);
    (0..ticks).for_each(|_| net.tick(1));
    assert_eq!(outcomes(&mut net, 1), gave_up(GaveUp::TargetBehind));

    let mut net = lead_3(&course());
    net.ignore("timeout-now");
    net.transfer(1, 3);
    net.transfer(1, 2);
    assert_eq!(outcomes(&mut net, 1), gave_up(GaveUp::Replaced { by: NodeId(2) }));
    net.transfer(1, 1);
    assert_eq!(outcomes(&mut net, 1), gave_up(GaveUp::Cancelled));
    net.transfer(1, 2);
    (0..ticks).for_each(|_| net.tick(1));
    assert_eq!(outcomes(&mut net, 1), gave_up(GaveUp::NotElected));
    net.transfer(1, 2);
    net.campaign(3);
    assert_eq!(outcomes(&mut net, 1), gave_up(GaveUp::OtherLeader { leader: NodeId(3) }));

    // A follower's wish is refused by the leader, and nothing comes of it.
    let mut net = lead_3(&course());
    net.transfer(2, 9);
    assert_eq!(outcomes(&mut net, 1), [TransferOutcome::Refused(Refusal::NotVoter)]);
    (0..2 * ticks).for_each(|_| net.tick_all());
    assert_eq!(outcomes(&mut net, 2), gave_up(GaveUp::NoNewLeader));
}

/// The order is repeated, in case it gets lost.
#[test]
fn an_order_that_is_lost_is_given_again() {
    let mut net = lead_3(&course());
    net.ignore("timeout-now");
    net.transfer(1, 2);
    net.recover();
    net.tick(1);
    assert_eq!((net.leaders(), outcomes(&mut net, 1)), (vec![2], vec![TransferOutcome::Done]));
}

/// An order that cannot be followed is forgotten in a later term, by a higher fence and after a while.
#[test]
fn an_order_is_not_kept_for_ever() {
    let lagging = || {
        let mut net = lead_3(&course());
        net.peer(2).lags = true;
        assert!(net.change(1, ChangeStep::AddVoter(NodeId(3))));
        net.transfer(1, 2);
        net
    };
    let mut net = lagging();
    net.campaign(3);
    catch_up(&mut net, 2);
    assert_eq!(net.leaders(), [3], "a later term");

    let mut net = lagging();
    net.transfer(1, 1);
    net.tick(1);
    catch_up(&mut net, 2);
    assert_eq!(net.leaders(), [1], "a higher fence");

    let mut net = lagging();
    (0..course().election_ticks).for_each(|_| drop(net.peer(2).tick()));
    catch_up(&mut net, 2);
    assert_eq!(net.leaders(), [1], "a while");
}

/// A leader that steps down leaves a successor, and nothing of its own open.
#[test]
fn a_leader_that_resigns_is_succeeded_at_once() {
    let mut net = lead_3(&leased());
    net.tick(1);
    let read = net.peer(1).raft.read_index().expect("it leads");
    net.peer(1).raft.resign(Time(5)).expect("it leads");
    let out = net.peer(1).settle();
    assert_eq!(net.peer(1).reads, [raft::ReadOutcome::Failed { id: read }]);
    net.send(out);
    assert_eq!(net.leaders().len(), 1);
    assert_ne!(net.leaders(), [1]);
    assert!(net.peer(1).raft.lease_read(Time(5)).is_err());
    assert!(matches!(net.peer(1).raft.resign(Time(5)), Err(Refusal::NotLeader { .. })));
}

/// Entries in flight to a node that cannot be reached are lost: they are sent again once it is heard.
#[test]
fn an_unreachable_member_is_probed() {
    let mut net = lead_3(&course());
    net.isolate(3);
    assert!(net.propose(1, "x"));
    net.peer(1).raft.report_unreachable(NodeId(3));
    assert_eq!(mode(&mut net, 3), Mode::Probe { sent: true });
    let out = net.peer(1).propose("y");
    assert!(out.iter().all(|message| message.to != NodeId(3)), "{out:?}");
    net.send(out);
    net.recover();
    net.tick(1);
    assert_eq!((mode(&mut net, 3), net.peer(3).committed()), (Mode::Replicate, 3));
}

/// Whoever wins before it has applied a change that the votes told it of leads as soon as it has applied it.
#[test]
fn a_candidate_that_lags_leads_when_it_has_applied() {
    let mut net = lead_3(&course());
    net.ignore("append-reply");
    net.peer(2).lags = true;
    assert!(net.change(1, ChangeStep::AddVoter(NodeId(3))));
    net.recover();
    for voter in [2, 3] {
        net.peer(1).step(matched(voter, 1, 1, 2));
    }
    assert_eq!((net.peer(1).committed(), net.peer(2).committed()), (2, 1));
    net.campaign(2);
    assert!(net.leaders().is_empty());
    catch_up(&mut net, 2);
    assert_eq!(net.leaders(), [2]);
}
