//! A replica is asked for on a store whose node has just died: the operator ends with that reason once the store counts as silent, and what it
//! left behind goes.

use std::collections::BTreeSet;
use std::time::Duration;

use store::wire::proto::metapb::Region;
use store::wire::proto::pdpb::{ScanRegionsRequest, ScanRegionsResponse};
use store::wire::proto::ringkeep::{
    OperateRequest, OperateResponse, OperatorsRequest, OperatorsResponse, RegionWish,
};

use super::asking::{Run, voters};
use super::nodes::stores;

/// Silence after which a store counts as disconnected, and a beat and a round more.
const SILENT: Duration = Duration::from_secs(25);

fn regions(run: &Run, asked: usize) -> Vec<Region> {
    let scan = ScanRegionsRequest::default();
    let path = "/pdpb.PD/ScanRegions";
    let all: ScanRegionsResponse = run.call(run.members[asked].pd(), path, scan).expect("it says");
    all.regions.into_iter().filter_map(|known| known.region).collect()
}

#[test]
fn a_replica_for_a_store_of_a_node_that_has_just_died_is_given_up_in_time() {
    let mut run = Run::begin(161, 4).expect("four nodes");
    let pd = run.members[0].pd();
    run.wait_regions(pd, |region| voters(region).len() == 3).expect("they spread");
    let host = run.agreed_host().expect("one hosts it");
    // The fourth holds nothing, because the others had all replicas before it.
    let known = stores(&run.world, run.members[host].pd());
    let address = run.members[3].pd().ip().to_string();
    let target = known.iter().find(|(.., of)| of.starts_with(&format!("{address}:"))).expect("joined").0;
    let region = regions(&run, host).into_iter().find(|region| !voters(region).contains(&target));
    let region = region.expect("a region elsewhere").id;
    run.members[3].end(true);
    let wish = RegionWish::AddPeer.into();
    let request = OperateRequest { region, wish, store: target, ..OperateRequest::default() };
    let path = "/ringkeep.Scheduler/Operate";
    run.call::<OperateResponse>(run.members[host].pd(), path, request).expect("it seems to be up");
    run.pass(Duration::from_secs(5)).expect("nothing is wrong");
    let holds = |run: &Run| -> BTreeSet<u64> {
        let all = regions(run, host).into_iter().find(|known| known.id == region).expect("known");
        all.peers.iter().map(|peer| peer.store_id).collect()
    };
    assert!(holds(&run).contains(&target), "the learner is listed, and waits for its data");
    run.pass(SILENT).expect("nothing is wrong");
    let path = "/ringkeep.Scheduler/Operators";
    let said: OperatorsResponse =
        run.call(run.members[host].pd(), path, OperatorsRequest { region }).expect("it says");
    let outcomes: Vec<&str> = said.operators.iter().map(|it| &it.outcome[..]).collect();
    let reason = format!("given up: store {target} is disconnected");
    assert!(outcomes.contains(&&reason[..]), "{outcomes:?}");
    let held = holds(&run);
    assert!(held.len() == 3 && !held.contains(&target), "{held:?}");
}
