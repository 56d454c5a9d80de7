//! Every number of the scheduler's on the metrics page moves while a cluster grows and loses a node.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::config::Config;
use store::wire::proto::pdpb::{ScanRegionsRequest, ScanRegionsResponse};
use store::wire::proto::ringkeep::{OperateRequest, OperateResponse, RegionWish};

use super::nodes::{Member, call};
use crate::page::{Page, Seen, page, sum};

const OURS: [&str; 1] = ["ringkeep_scheduler_"];
const LOOK: Duration = Duration::from_millis(250);
/// Within this time every region has its replicas.
const REPLICATED_MAX: Duration = Duration::from_secs(180);

/// What the node that hosts the scheduler says.
fn of(member: &Member) -> Page {
    let started = member.said().expect("it is up").expect("it has started");
    page(&started.board.read(), &OURS)
}

fn lacking(page: &Page) -> f64 {
    sum(page, "ringkeep_scheduler_regions_under_replicated", "")
}

#[test]
fn every_number_of_the_scheduler_moves() {
    let world = World::new(91, Options::default());
    let mut members = [0, 1, 2].map(|number| Member::new(&world, number, 1));
    members[0].change = |config: &mut Config| config.replicas = Some(3);
    members[0].start(&world, &[]).expect("a cluster of one begins");
    world.run_for(Duration::from_secs(3));
    let (mut seen, alone) = (Seen::default(), of(&members[0]));
    let regions = sum(&alone, "ringkeep_scheduler_regions", "");
    assert!(regions >= 5.0 && lacking(&alone) == regions, "one node has one replica of each: {alone:?}");
    let pd = members[0].pd();
    [1, 2].into_iter().for_each(|number| {
        members[number].start(&world, &[pd]).expect("it joins");
    });
    let until = world.now() + REPLICATED_MAX;
    while lacking(&of(&members[0])) > 0.0 {
        assert!(world.now() < until, "not replicated: {:?}", of(&members[0]));
        world.run_for(LOOK);
        seen.look(of(&members[0]));
    }
    let whole = of(&members[0]);
    assert_eq!(sum(&whole, "ringkeep_scheduler_stores", "state=\"up\""), 3.0);
    let done = sum(&whole, "ringkeep_scheduler_operators_total", "outcome=\"success\"");
    assert!(done >= regions, "each region got an operator at least: {whole:?}");

    let gone = members[2].said().expect("it has started").expect("it is up").identity.first_store;
    members[2].end(true);
    // An operator that lasts, because most are over between two looks: the leader cannot hand over to who is not there.
    let scan = ScanRegionsRequest::default();
    let known: ScanRegionsResponse = call(&world, pd, "/pdpb.PD/ScanRegions", scan).expect("they are listed");
    let led = known.regions.iter().find(|known| known.leader.is_some_and(|leader| leader.store_id != gone));
    let region = led.and_then(|known| known.region.as_ref()).expect("most are led by others").id;
    let wish = RegionWish::TransferLeader.into();
    let wish = OperateRequest { region, wish, store: gone, ..OperateRequest::default() };
    call::<OperateResponse>(&world, pd, "/ringkeep.Scheduler/Operate", wish).expect("it is not missed yet");
    for _ in 0..12 {
        world.run_for(LOOK);
        seen.look(of(&members[0]));
    }
    // Counted where a stale report comes in, in grpc_pd, where a region is hot, in whole_node::hot, and where a replica lags, in chart.
    let elsewhere = [
        "ringkeep_scheduler_load_splits_total",
        "ringkeep_scheduler_regions_busy",
        "ringkeep_scheduler_regions_lagging",
        "ringkeep_scheduler_reports_refused_total",
    ];
    assert_eq!(seen.still(), BTreeSet::from(elsewhere));
    world.run_for(Duration::from_secs(60));
    let less = of(&members[0]);
    assert_eq!(sum(&less, "ringkeep_scheduler_stores", "state=\"up\""), 2.0, "{less:?}");
    assert_eq!(lacking(&less), regions, "each region has one voter that is not heard");
    members[2].start(&world, &[]).expect("it comes back");
    world.run_for(Duration::from_secs(30));
    let again = of(&members[0]);
    assert_eq!(sum(&again, "ringkeep_scheduler_stores", "state=\"up\""), 3.0, "{again:?}");
    assert_eq!(lacking(&again), 0.0);
}

/// How many of the replicas of three nodes sleep when no client has asked for anything for a while, and how many regions there are.
fn asleep(change: [fn(&mut Config); 3]) -> (f64, f64) {
    let world = World::new(17, Options::default());
    let mut members = [0, 1, 2].map(|number| Member::new(&world, number, 1));
    members.iter_mut().zip(change).for_each(|(member, change)| member.change = change);
    members[0].start(&world, &[]).expect("a cluster of one begins");
    let pd = members[0].pd();
    [1, 2].into_iter().for_each(|number| {
        members[number].start(&world, &[pd]).expect("it joins");
    });
    world.run_for(Duration::from_secs(3));
    let until = world.now() + REPLICATED_MAX;
    while lacking(&of(&members[0])) > 0.0 {
        assert!(world.now() < until, "not replicated: {:?}", of(&members[0]));
        world.run_for(LOOK);
    }
    world.run_for(Duration::from_secs(20));
    let count = |member: &Member| {
        let started = member.said().expect("it is up").expect("it has started");
        sum(&page(&started.board.read(), &["ringkeep_store_"]), "ringkeep_store_replicas_asleep", "")
    };
    (members.iter().map(count).sum(), sum(&of(&members[0]), "ringkeep_scheduler_regions", ""))
}

#[test]
fn regions_without_work_sleep_unless_the_settings_say_never() {
    let three: fn(&mut Config) = |config| config.replicas = Some(3);
    let (sleeping, regions) = asleep([three, |_| {}, |_| {}]);
    assert_eq!(sleeping, 3.0 * regions, "that is the default");
    let never: fn(&mut Config) = |config| config.quiet_after = Duration::ZERO;
    let three_and_never: fn(&mut Config) = |config| {
        config.replicas = Some(3);
        config.quiet_after = Duration::ZERO;
    };
    assert_eq!(asleep([three_and_never, never, never]).0, 0.0);
}
