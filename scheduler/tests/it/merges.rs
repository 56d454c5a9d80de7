//! Merges of small neighbours: when the checker wants one, what its operator does, and how it ends.

use scheduler::check::merge::VAIN_REST_MS;
use scheduler::config::MIB;
use scheduler::filter::Unmerged;
use scheduler::merge::merged;
use scheduler::operator::{BuildError, CancelReason, Cause, Intent, Outcome, Status, Step, Unsafe};
use scheduler::scheduler::AdmitError;
use scheduler::{
    Action, Change, Command, Config, Instruction, Load, NodeId, Operator, Peer, PeerId, Policy, Proposal,
    Reason, Refusal, RegionId, RegionReport, Scheduler, StoreDescriptor, StoreId, StoreReport, Time, Verdict,
};

use crate::kit::key;
use crate::operators::{T0, heard, region};

const HOUR_MS: u64 = 3_600_000;
/// When nothing of the past is in the way of a merge any more.
const LATE: Time = Time(T0.0 + HOUR_MS + 1);

fn config() -> Config {
    Config {
        prepare_percent: 0,
        region_merge_bytes: 20 * MIB,
        disabled: vec![Policy::BalanceRegion, Policy::BalanceLeader, Policy::BalanceCore],
        ..Config::default()
    }
}

/// Stores 1 to `stores`, each on a node of its own, and these regions side by side, known since [`T0`].
fn scheduler(stores: u64, regions: &[RegionReport]) -> Scheduler {
    let mut scheduler = Scheduler::new(config(), 1, T0).expect("valid");
    for id in 1..=stores {
        let store = StoreDescriptor::new(StoreId(id), NodeId(id), format!("s{id}"));
        scheduler.put_store(store, T0).expect("joins");
    }
    heard(&mut scheduler, stores, LATE);
    scheduler.grant_ids(1_000..100_000);
    for region in regions {
        scheduler.report_region(region.clone(), T0).expect("accepted");
    }
    scheduler
}

/// Five regions of 10 MiB on the same three stores: two more than stores.
fn five() -> Vec<RegionReport> {
    (1..=5).map(|id| region(id, &[1, 2, 3], 1)).collect()
}

fn whole(id: u64, of: &[RegionReport]) -> RegionReport {
    of.iter().find(|known| known.region.id == RegionId(id)).expect("one of them").clone()
}

/// Why the checker does not merge a region.
fn refusal(scheduler: &Scheduler, id: u64, now: Time) -> Option<Refusal> {
    let opinions = scheduler.why(RegionId(id), now);
    let is_of_it = |refusal: &Refusal| refusal.policy == Policy::MergeCheck;
    opinions.into_iter().filter_map(Result::err).find(is_of_it)
}

fn reason(scheduler: &Scheduler, id: u64, now: Time) -> Option<Reason> {
    refusal(scheduler, id, now).map(|refusal| refusal.reason)
}

fn merging(scheduler: &Scheduler) -> Vec<&Operator> {
    scheduler.operators().iter().filter(|operator| operator.merges_into().is_some()).collect()
}

fn outcome(scheduler: &Scheduler, id: u64) -> Outcome {
    match scheduler.operators().status(RegionId(id)) {
        Some(Status::Ended(ended)) => ended.outcome,
        other => panic!("{other:?}"),
    }
}

/// Region 2 is to be taken in by region 1: what is sent for it.
fn begun(scheduler: &mut Scheduler) -> Instruction {
    let info = scheduler.cluster().region(RegionId(2)).expect("known");
    let intent = Intent::Merge { into: RegionId(1) };
    let proposal = Proposal::new(info, Policy::MergeCheck, Cause::Small, intent);
    scheduler.admit(&proposal, LATE).expect("admitted").expect("the merge at once")
}

fn prepared(mut report: RegionReport) -> RegionReport {
    report.region.epoch = report.region.epoch.after(Command::PrepareMerge);
    report
}

#[test]
fn small_neighbours_become_one_once_they_are_old_enough_and_the_limit_holds() {
    let mut scheduler = scheduler(3, &five());
    heard(&mut scheduler, 3, Time(T0.0 + HOUR_MS - 5));
    scheduler.tick(Time(T0.0 + HOUR_MS - 5));
    assert!(merging(&scheduler).is_empty(), "they are known for less than an hour");
    assert_eq!(
        reason(&scheduler, 1, Time(T0.0 + HOUR_MS - 5)),
        Some(Reason::Unmerged(Unmerged::CutLately(5)))
    );
    heard(&mut scheduler, 3, LATE);
    let tick = scheduler.tick(LATE);
    // Five regions and three stores: two may go, and no region is part of both merges.
    let all: Vec<RegionId> = merging(&scheduler).into_iter().flat_map(Operator::regions).collect();
    assert_eq!(all.len(), 4, "{:?}", tick.refusals);
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{all:?}");
    assert!(tick.instructions.iter().all(|sent| matches!(sent.action, Action::Merge(_))), "{tick:?}");
    assert_eq!(tick.instructions.len(), 2);
    // Both regions are kept from others.
    for id in &all {
        assert!(scheduler.operators().get(*id).is_some_and(|known| known.regions().any(|it| it == *id)));
    }
    let mut one = self::scheduler(3, &five());
    let mut limited = config();
    limited.merge_schedule_limit = 1;
    one.set_config(limited).expect("valid");
    one.tick(LATE);
    assert_eq!(merging(&one).len(), 1);
    // With another store only one may go, and a round does not begin more.
    let mut wide = self::scheduler(4, &five());
    wide.tick(LATE);
    assert_eq!(merging(&wide).len(), 1);
}

#[test]
fn a_merge_is_sent_until_it_has_begun_and_done_when_the_other_one_has_its_range() {
    let (all, mut scheduler) = (five(), scheduler(3, &five()));
    assert!(scheduler.prepare(LATE));
    let (source, target) = (whole(2, &all), whole(1, &all));
    let sent = begun(&mut scheduler);
    assert_eq!(sent.action, Action::Merge(Box::new(target.region.clone())));
    assert_eq!(sent.action.to_string(), "merge into region 1");
    let again = scheduler.report_region(source.clone(), LATE).expect("accepted");
    assert_eq!(again.as_ref(), Some(&sent));
    // It has stopped: nothing more is asked of it, and it is no fault.
    let waits = prepared(source.clone());
    assert_eq!(scheduler.report_region(waits.clone(), LATE), Ok(None));
    assert_eq!(scheduler.report_region(target.clone(), LATE), Ok(None));
    let verdict = scheduler.verdict_of_region(RegionId(1), LATE).expect("known").0;
    assert!(matches!(&verdict, Verdict::Runs { policy: Policy::MergeCheck, .. }), "{verdict}");
    let mut grown = target;
    grown.region = merged(&waits.region, &grown.region).expect("they touch");
    scheduler.report_region(grown, LATE).expect("accepted");
    assert_eq!(outcome(&scheduler, 2), Outcome::Success);
    assert!(scheduler.operators().is_empty() && scheduler.cluster().len() == 4);
    assert!(scheduler.operators().get(RegionId(1)).is_none(), "the other one is free again");
    // What was taken in is not news of a split.
    assert_eq!(scheduler.cluster().cut_at(RegionId(1)), T0);
}

#[test]
fn a_merge_ends_when_either_region_is_another_one_and_is_not_begun_again_at_once() {
    let all = five();
    let (source, target) = (whole(2, &all), whole(1, &all));
    // Stores have given it up.
    let mut scheduler = scheduler(3, &all);
    begun(&mut scheduler);
    let mut back = prepared(source.clone());
    assert_eq!(scheduler.report_region(back.clone(), LATE), Ok(None));
    back.region.epoch = back.region.epoch.after(Command::RollbackMerge);
    assert_eq!(scheduler.report_region(back, LATE), Ok(None));
    let why = Outcome::Cancelled(CancelReason::Unsafe(Unsafe::NotTaken(RegionId(1))));
    assert_eq!(outcome(&scheduler, 2), why);
    assert!(why.to_string().contains("both go on as before"), "{why}");
    assert_eq!(reason(&scheduler, 2, LATE), Some(Reason::Unmerged(Unmerged::InVain(VAIN_REST_MS))));
    assert_ne!(
        reason(&scheduler, 3, LATE),
        Some(Reason::Unmerged(Unmerged::InVain(VAIN_REST_MS))),
        "it is not about others"
    );
    heard(&mut scheduler, 3, Time(LATE.0 + VAIN_REST_MS));
    assert_eq!(reason(&scheduler, 2, Time(LATE.0 + VAIN_REST_MS)), None, "it is tried again");
    // The other one has changed before it began.
    let mut scheduler = self::scheduler(3, &all);
    begun(&mut scheduler);
    let mut moved = target.clone();
    moved.region.epoch.conf_ver += 1;
    scheduler.report_region(moved, LATE).expect("accepted");
    scheduler.report_region(source.clone(), LATE).expect("accepted");
    let changed = CancelReason::Unsafe(Unsafe::NeighbourChanged(RegionId(1)));
    assert_eq!(outcome(&scheduler, 2), Outcome::Cancelled(changed));
    // The region itself was split meanwhile.
    let mut scheduler = self::scheduler(3, &all);
    begun(&mut scheduler);
    let mut half = source.clone();
    half.region.epoch.version += 1;
    scheduler.report_region(half, LATE).expect("accepted");
    assert!(matches!(outcome(&scheduler, 2), Outcome::Cancelled(_)));
    // A replica that lags is waited for.
    let mut scheduler = self::scheduler(3, &all);
    begun(&mut scheduler);
    let lags = RegionReport { pending: vec![PeerId(13)], ..target };
    scheduler.report_region(lags, LATE).expect("accepted");
    assert_eq!(scheduler.report_region(source, LATE), Ok(None));
    assert!(scheduler.operators().get(RegionId(2)).is_some());
    // It is cancelled by the name of either.
    assert!(scheduler.cancel(RegionId(1), LATE));
    assert_eq!(outcome(&scheduler, 2), Outcome::Cancelled(CancelReason::Requested));
}

#[test]
fn what_is_large_busy_young_or_placed_is_left_alone_and_says_so() {
    let all = five();
    let change = |change: &dyn Fn(&mut RegionReport)| {
        let mut scheduler = scheduler(3, &all);
        let mut report = whole(1, &all);
        change(&mut report);
        scheduler.report_region(report, LATE).expect("accepted");
        scheduler
    };
    let of = |scheduler: &Scheduler, id| reason(scheduler, id, LATE);
    assert_eq!(of(&change(&|_| {}), 1), None, "it is merged");
    assert_eq!(of(&change(&|report| report.size_bytes = 20 * MIB + 1), 1), Some(Reason::Content));
    assert_eq!(of(&change(&|report| report.keys = 200_001), 1), Some(Reason::Content));
    // 144 MiB is split, so 72 MiB is too much for two.
    let large = change(&|report| report.size_bytes = 62 * MIB + 1);
    assert_eq!(of(&large, 2), None, "there is the other neighbour");
    let (with, max) = (RegionId(1), 72 * MIB);
    let together = Reason::Unmerged(Unmerged::LargeTogether { with, bytes: 72 * MIB + 1, max });
    assert_eq!(of(&change(&|report| report.size_bytes = 62 * MIB), 2), None);
    let mut alone = large;
    let mut other = whole(3, &all);
    other.size_bytes = 200 * MIB;
    alone.report_region(other, LATE).expect("accepted");
    assert_eq!(of(&alone, 2), Some(together));
    let ops = |read_ops| Load { read_ops, ..Load::default() };
    assert_eq!(of(&change(&|report| report.load = ops(750)), 1), None);
    assert_eq!(
        of(&change(&|report| report.load = ops(751)), 1),
        Some(Reason::Unmerged(Unmerged::BusyTogether(RegionId(2))))
    );
    assert_eq!(of(&change(&|report| report.pending = vec![PeerId(13)]), 1), Some(Reason::Unhealthy));
    // A person has placed it.
    let mut placed = scheduler(3, &all);
    let info = placed.cluster().region(RegionId(1)).expect("known");
    let intent = Intent::TransferLeader { to: StoreId(2) };
    let proposal = Proposal::new(info, Policy::Admin, Cause::Asked, intent);
    placed.admit(&proposal, LATE).expect("admitted");
    assert_eq!(of(&placed, 2), None, "there is the other neighbour");
    assert_eq!(of(&placed, 1), Some(Reason::Occupied));
    let mut led = whole(1, &all);
    led.leader = Some(PeerId(12));
    placed.report_region(led, LATE).expect("accepted");
    assert!(matches!(of(&placed, 1), Some(Reason::Placed(_))));
}

#[test]
fn a_split_begins_the_interval_anew_for_both_parts() {
    let mut all = five();
    all[4].region.range = scheduler::KeyRange::new(key(5), key(8)).expect("rising");
    let mut scheduler = scheduler(3, &all);
    scheduler.tick(T0);
    let (mut left, mut right) = (whole(5, &all), region(6, &[1, 2, 3], 1));
    left.region.epoch.version += 1;
    left.region.range = scheduler::KeyRange::new(key(5), key(6)).expect("rising");
    right.region.epoch.version += 1;
    right.region.range = scheduler::KeyRange::new(key(6), key(8)).expect("rising");
    for part in [left, right] {
        scheduler.report_region(part, LATE).expect("accepted");
    }
    for id in [5, 6] {
        assert_eq!(
            reason(&scheduler, id, LATE),
            Some(Reason::Unmerged(Unmerged::CutLately(HOUR_MS))),
            "{id}"
        );
    }
    let verdict = scheduler.verdict_of_region(RegionId(6), LATE).expect("known").0;
    assert_eq!(
        verdict.to_string(),
        "merge-check: region 6 was split lately, or is not known for long; it is not merged for another 3600 s"
    );
    let late = Time(LATE.0 + HOUR_MS);
    heard(&mut scheduler, 3, late);
    scheduler.tick(Time(late.0 + 1));
    assert!(
        scheduler.operators().get(RegionId(6)).is_some() || scheduler.operators().get(RegionId(5)).is_some()
    );
}

#[test]
fn every_store_keeps_a_region_and_there_are_no_fewer_than_stores() {
    // As a node of four cores begins: a region on each, small as they come.
    let each: Vec<RegionReport> = (1..=4).map(|id| region(id, &[id], 1)).collect();
    let mut single = config();
    single.max_replicas = 1;
    let mut scheduler = scheduler(4, &each);
    scheduler.set_config(single.clone()).expect("valid");
    scheduler.tick(LATE);
    assert!(merging(&scheduler).is_empty());
    assert_eq!(reason(&scheduler, 2, LATE), Some(Reason::Unmerged(Unmerged::FewRegions(4))));
    // One more on the first store: it is the only one that may go, and goes alone.
    let mut more = each;
    more.push(region(5, &[1], 1));
    let mut scheduler = self::scheduler(4, &more);
    scheduler.set_config(single).expect("valid");
    let only = refusal(&scheduler, 2, LATE).expect("it is the only one of its store");
    assert_eq!((only.reason, only.store), (Reason::Unmerged(Unmerged::OnlyRegion), Some(StoreId(2))));
    scheduler.tick(LATE);
    let running = merging(&scheduler);
    assert_eq!(running.iter().map(|it| it.region.0).collect::<Vec<_>>(), [1], "{running:?}");
    assert_eq!(
        reason(&scheduler, 5, LATE),
        Some(Reason::Unmerged(Unmerged::FewRegions(4))),
        "one is on its way out"
    );
}

#[test]
fn the_peers_come_to_the_stores_of_the_neighbour_first_and_the_leader_stays_where_it_can() {
    let mut all = five();
    all[1] = region(2, &[4, 2, 5], 1);
    let mut scheduler = scheduler(6, &all);
    let info = scheduler.cluster().region(RegionId(2)).expect("known");
    let intent = Intent::Merge { into: RegionId(1) };
    let proposal = Proposal::new(info, Policy::Admin, Cause::Asked, intent);
    scheduler.admit(&proposal, LATE).expect("admitted");
    let operator = scheduler.operators().get(RegionId(2)).expect("it runs").clone();
    let said: Vec<String> = operator.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "add learner peer 1000 on store 1",
            "promote peer 1000",
            "transfer leader to peer 22 on store 2",
            "remove peer 24 on store 4",
            "add learner peer 1001 on store 3",
            "promote peer 1001",
            "remove peer 25 on store 5",
            "merge into region 1",
        ]
    );
    // It is carried through: six changes of members, and the merge at the epoch after them.
    let mut report = whole(2, &all);
    for _ in 0..12 {
        let sent = scheduler.report_region(report.clone(), LATE).expect("accepted").expect("a step");
        match sent.action {
            Action::Change(change) => report.region = change.apply(&report.region).expect("it fits"),
            Action::TransferLeader(peer) => report.leader = Some(peer.id),
            Action::Merge(into) => {
                assert_eq!((into.id, sent.epoch), (RegionId(1), report.region.epoch));
                assert_eq!(scheduler::merge::may_merge(&report.region, &into), Ok(()));
                return;
            }
            Action::Split { .. } => panic!("nothing is to be split"),
        }
        let learner = |peer: &&Peer| peer.role == scheduler::Role::Learner;
        assert!(report.region.peers.iter().filter(learner).count() <= 1);
    }
    panic!("the merge was never sent");
}

#[test]
fn a_peer_moves_within_its_node_where_the_neighbour_has_one_there() {
    let mut scheduler = scheduler(3, &[]);
    let beside = StoreDescriptor::new(StoreId(11), NodeId(1), "s11");
    scheduler.put_store(beside, T0).expect("joins");
    scheduler.report_store(StoreReport::empty(StoreId(11)), LATE).expect("reports");
    for report in [region(1, &[1, 2, 3], 1), region(2, &[11, 2, 3], 1)] {
        scheduler.report_region(report, T0).expect("accepted");
    }
    begun_with_moves(&mut scheduler);
    let operator = scheduler.operators().get(RegionId(2)).expect("it runs");
    assert!(matches!(operator.steps[0], Step::AddSibling { store: StoreId(1), leaving: StoreId(11), .. }));
    assert!(matches!(operator.steps.last(), Some(Step::Merge { .. })), "{operator:?}");
}

fn begun_with_moves(scheduler: &mut Scheduler) {
    let info = scheduler.cluster().region(RegionId(2)).expect("known");
    let intent = Intent::Merge { into: RegionId(1) };
    let proposal = Proposal::new(info, Policy::MergeCheck, Cause::Small, intent);
    let sent = scheduler.admit(&proposal, LATE).expect("admitted").expect("the first step");
    assert!(matches!(sent.action, Action::Change(Change::AddLearner { .. })), "{sent:?}");
}

#[test]
fn what_a_person_asks_is_refused_by_name_where_it_makes_no_sense() {
    let mut all = five();
    all[3].size_bytes = 140 * MIB;
    let mut scheduler = scheduler(3, &all);
    let asked = |scheduler: &Scheduler, source, into| {
        let info = scheduler.cluster().region(RegionId(source)).expect("known");
        let intent = Intent::Merge { into: RegionId(into) };
        let proposal = Proposal::new(info, Policy::Admin, Cause::Asked, intent);
        match scheduler.rehearse(&proposal, LATE) {
            Ok((operator, None)) => operator.steps.last().expect("a step").to_string(),
            Ok((_, Some(outcome))) => panic!("{outcome}"),
            Err(refusal) => refusal.to_string(),
        }
    };
    assert_eq!(asked(&scheduler, 2, 1), "merge into region 1");
    assert_eq!(asked(&scheduler, 3, 1), "region 3 and region 1 are no neighbours");
    assert_eq!(asked(&scheduler, 3, 3), "region 3 and region 3 are no neighbours");
    assert!(asked(&scheduler, 3, 77).contains("region 77 has moved on"));
    assert!(asked(&scheduler, 3, 4).contains("above region_size_max_bytes"));
    scheduler.keep_borders([key(2)]);
    assert!(asked(&scheduler, 2, 1).contains("clients rely on that border"));
    assert!(asked(&scheduler, 1, 2).contains("clients rely on that border"));
    assert_eq!(asked(&scheduler, 3, 2), "merge into region 2");
    assert_eq!(reason(&scheduler, 1, LATE), Some(Reason::Unmerged(Unmerged::BorderKept(RegionId(2)))));
    let mut lacks = whole(5, &all);
    lacks.region.peers.pop();
    scheduler.report_region(lacks, LATE).expect("accepted");
    let refused = scheduler.rehearse(
        &Proposal::new(
            scheduler.cluster().region(RegionId(5)).expect("known"),
            Policy::Admin,
            Cause::Asked,
            Intent::Merge { into: RegionId(4) },
        ),
        LATE,
    );
    let large = BuildError::TooLarge { bytes: 150 * MIB, max: 144 * MIB };
    assert_eq!(refused.err(), Some(AdmitError::Build(large)));
}

#[test]
fn what_is_repaired_or_asked_takes_the_place_of_a_merge_of_either() {
    for id in [1, 2] {
        let mut scheduler = scheduler(4, &five());
        begun(&mut scheduler);
        let info = scheduler.cluster().region(RegionId(id)).expect("known");
        let (from, to) = (StoreId(3), StoreId(4));
        let proposal =
            Proposal::new(info, Policy::ReplicaCheck, Cause::Down, Intent::MoveReplica { from, to });
        scheduler.admit(&proposal, LATE).expect("it goes first");
        assert!(matches!(outcome_of_merge(&scheduler), Outcome::Replaced(_)));
        assert!(merging(&scheduler).is_empty() && scheduler.operators().len() == 1);
    }
}

fn outcome_of_merge(scheduler: &Scheduler) -> Outcome {
    let mut history = scheduler.operators().history();
    history.find(|ended| ended.operator.merges_into().is_some()).expect("it has ended").outcome
}

#[test]
fn nothing_is_merged_where_it_is_off_or_zero() {
    for change in [
        |config: &mut Config| config.region_merge_bytes = 0,
        |config: &mut Config| config.disabled.push(Policy::MergeCheck),
        |config: &mut Config| config.merge_schedule_limit = 0,
    ] {
        let (mut scheduler, mut config) = (scheduler(3, &five()), config());
        change(&mut config);
        scheduler.set_config(config).expect("valid");
        scheduler.tick(LATE);
        assert!(merging(&scheduler).is_empty());
    }
}
