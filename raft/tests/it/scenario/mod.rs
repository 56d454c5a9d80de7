//! What state machines that lag, snapshots that get lost and late answers must not break: each scenario by itself,
//! and with the mistake planted that it is there to catch.

mod flow;
mod swap;
mod transfer;

use std::panic::{AssertUnwindSafe, catch_unwind};

use raft::planted::{Bug, plant};
use raft::{Config, Event, Mode, NodeId, Refusal, Time, TransferOutcome};

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

fn leased() -> Config {
    Config { check_quorum: true, lease_nanos: 1000, ..course() }
}

/// A candidate with an old log raises the term again and again. No member votes for it, and none waits longer for it.
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

/// A driver knows that the leader's node is gone, long after the promise to it has ended: the voter is free for whoever asks next, also
/// where the question brings an earlier time.
fn a_leader_is_forgotten_at_the_present_time() {
    let mut net = lead_3(&leased());
    net.tick(1);
    assert!(net.peer(2).try_step(vote(3, 2, 2, (1, 1))).1.is_err(), "it has heard a leader");
    net.peer(2).raft.forget_leader(Time(10));
    assert!(net.peer(2).try_step(vote(3, 2, 2, (1, 1))).1.is_err(), "its promise holds");
    net.peer(2).raft.forget_leader(Time(1_000_000));
    assert!(granted(&net.peer(2).step(vote(3, 2, 2, (1, 1)))), "a promise that has ended does not bind");
}

/// Every scenario, with the mistake it catches.
const SCENARIOS: &[(Bug, fn())] = &[
    (Bug::OvertakenChangeStored, flow::nothing_is_stored_for_a_change_that_a_snapshot_has_overtaken),
    (Bug::OrderForgotten, transfer::a_target_that_lags_campaigns_when_it_has_applied),
    (Bug::OrderForgotten, transfer::the_successor_of_a_removed_leader_campaigns_when_it_has_applied),
    (Bug::LateOrderFollowed, transfer::a_late_order_does_not_break_the_promise_of_its_target),
    (Bug::TransferNeedsOwnApply, transfer::a_leader_whose_apply_hangs_can_hand_over),
    (Bug::TransferWaitsForHeartbeat, transfer::a_transfer_does_not_wait_for_a_heartbeat),
    (Bug::SentSnapshotTrusted, flow::a_snapshot_that_was_sent_and_lost_is_sent_again),
    (Bug::LateReportBelieved, flow::a_report_about_an_earlier_snapshot_changes_nothing),
    (Bug::LateFetchBelieved, flow::a_late_answer_to_a_fetch_changes_nothing),
    (Bug::LateBlankBelieved, flow::a_late_blank_answer_changes_nothing),
    (Bug::HigherTermRestartsTimer, a_higher_term_alone_restarts_no_timer),
    (Bug::StaleClock, a_campaign_goes_by_the_present_time),
    (Bug::StaleClock, a_leader_is_forgotten_at_the_present_time),
    (Bug::CaughtUpTooEarly, flow::a_learner_that_keeps_up_is_reported_once),
    (Bug::DoubtEndsASwap, swap::a_group_in_the_middle_of_a_swap_elects_although_an_end_is_in_doubt),
    (Bug::DoubtForgotten, swap::a_doubt_is_waited_for_where_others_can_elect),
    (Bug::SilentLearner, swap::a_member_without_a_vote_that_hears_no_leader_is_heard),
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
