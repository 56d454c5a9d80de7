//! How many nodes a cluster can lose, as it says itself: the scheduler's own group counts, too, and has five members at most.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::config::Config;
use store::plant::{self, Bug};
use store::wire::proto::pdpb::{GetMembersRequest, GetMembersResponse};
use store::wire::proto::ringkeep::{ClusterRequest, ClusterResponse};

use super::nodes::{Member, call};

const NODES: usize = 7;
/// Within this time every region is on every node.
const WHOLE_MAX: Duration = Duration::from_secs(300);

/// Regions with seven replicas survive the loss of three nodes. Without ids, timestamps and repairs the cluster does not.
#[test]
fn the_group_of_the_scheduler_counts_for_how_many_nodes_may_fail() {
    let world = World::new(174, Options::default());
    let mut members: Vec<Member> = (0..NODES).map(|number| Member::new(&world, number, 1)).collect();
    members[0].change = |config: &mut Config| config.replicas = Some(NODES as u64);
    members[0].start(&world, &[]).expect("a cluster of one begins");
    let pd = members[0].pd();
    for member in &mut members[1..] {
        member.start(&world, &[pd]).expect("it joins");
    }
    let standing = || {
        let cluster = call::<ClusterResponse>(&world, pd, "/ringkeep.Scheduler/Cluster", ClusterRequest {});
        let group =
            call::<GetMembersResponse>(&world, pd, "/pdpb.PD/GetMembers", GetMembersRequest::default());
        (cluster.expect("it says"), group.expect("it says").members.len())
    };
    let until = world.now() + WHOLE_MAX;
    loop {
        let (cluster, group) = standing();
        if cluster.regions > 0 && cluster.short == 0 && group == 5 {
            break;
        }
        assert!(world.now() < until, "{group} keep the state: {cluster:?}");
        world.run_for(Duration::from_secs(1));
    }
    // A change of the members may be in flight still.
    world.run_for(Duration::from_secs(10));
    let (cluster, group) = standing();
    assert_eq!((cluster.replicas, cluster.short, group), (NODES as u64, 0, 5), "{cluster:?}");
    assert_eq!(cluster.survives, 2, "two of five: {cluster:?}");
}

/// The bug makes the test above fail.
#[test]
fn a_cluster_that_does_not_count_the_group_is_caught() {
    plant::plant(Some(Bug::StateNotCounted));
    let scenario: fn() = the_group_of_the_scheduler_counts_for_how_many_nodes_may_fail;
    let caught = catch_unwind(AssertUnwindSafe(scenario)).is_err();
    plant::plant(None);
    assert!(caught, "it went unnoticed");
}
