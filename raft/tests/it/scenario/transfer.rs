//! Handing over leadership while state machines lag and orders get lost or come late.

use raft::{ChangeStep, Dropped, GaveUp, LogId, Membership, NodeId, Refusal, Time, TransferOutcome};

use super::{catch_up, lead_3, leased, outcomes};
use crate::kit::*;

/// Voters 1 and 3, learner 2. The leader has applied 2's promotion; 2 has not when it is asked to campaign.
pub(super) fn a_target_that_lags_campaigns_when_it_has_applied() {
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

/// A leader removes itself; its successor has not applied that when the order comes, and it will not be repeated.
pub(super) fn the_successor_of_a_removed_leader_campaigns_when_it_has_applied() {
    let mut net = lead_3(&course());
    net.peer(2).lags = true;
    net.peer(3).lags = true;
    assert!(net.change(1, ChangeStep::Remove(NodeId(1))));
    assert!(net.leaders().is_empty());
    catch_up(&mut net, 2);
    catch_up(&mut net, 3);
    assert_eq!(net.leaders().len(), 1);
}

/// An order is delayed until the transfer is abandoned and the target has promised its vote to the resumed leader.
/// Voter 3 has not heard of that and would help it.
pub(super) fn a_late_order_does_not_break_the_promise_of_its_target() {
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
pub(super) fn a_leader_whose_apply_hangs_can_hand_over() {
    let mut net = lead_3(&course());
    net.peer(1).lags = true;
    assert!(net.change(1, ChangeStep::AddVoter(NodeId(3))));
    net.transfer(1, 2);
    assert_eq!(net.leaders(), [2]);
}

/// What was sent to the target is lost, and no heartbeat is due.
pub(super) fn a_transfer_does_not_wait_for_a_heartbeat() {
    let mut net = lead_3(&course());
    net.isolate(3);
    assert!(net.propose(1, "lost on the way to 3"));
    net.recover();
    net.transfer(1, 3);
    assert_eq!(net.leaders(), [3]);
}

/// What was proposed before is decided before another one is to lead: who waits for it hears what has become of it.
#[test]
fn a_target_is_asked_to_campaign_once_nothing_is_undecided() {
    let mut net = Net::new(5, &[]);
    net.campaign(1);
    (3..=5).for_each(|id| net.isolate(id));
    assert!(net.propose(1, "on 1 and 2 alone"));
    net.transfer(1, 2);
    assert_eq!(net.leaders(), [1], "2 has everything, and three of five do not");
    let before = net.peer(1).committed();
    net.recover();
    (0..3).for_each(|_| net.tick(1));
    assert!(net.peer(1).committed() > before);
    assert_eq!(net.leaders(), [2]);
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

/// Every end that a transfer can have is reported to whoever asked.
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

/// Whoever wins before it has applied a change that it heard of with the votes leads as soon as it has applied it.
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
