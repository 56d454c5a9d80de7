//! Changes of the scheduler's configuration are kept with who asked for them, wherever that was, over restarts and under another host.

use std::time::Duration;

use store::wire::proto::ringkeep::{
    ConfigChange, ConfigRequest, ConfigResponse, SetConfigRequest, SetConfigResponse, SetPolicyRequest,
    SetPolicyResponse,
};

use super::asking::{Run, TWO_ELECTIONS};

impl Run {
    /// The changes as the scheduler that `asked` reaches knows them.
    fn changes(&self, asked: usize) -> Result<Vec<ConfigChange>, String> {
        let path = "/ringkeep.Scheduler/Config";
        let said: ConfigResponse =
            self.call(self.members[asked].pd(), path, ConfigRequest { changes: true })?;
        Ok(said.changes)
    }

    /// Sets a value through the port of a member. Who asks lies about its name.
    fn set(&self, asked: usize, name: &str, value: &str) -> Result<(), String> {
        let by = "another one".to_owned();
        let set = SetConfigRequest { name: name.to_owned(), value: value.to_owned(), by };
        let path = "/ringkeep.Scheduler/SetConfig";
        self.call::<SetConfigResponse>(self.members[asked].pd(), path, set).map(drop)
    }
}

/// What an operator has changed, and not the settings of a node.
fn shown(changes: &[ConfigChange]) -> Vec<(&str, &str, &str)> {
    let own = |change: &&ConfigChange| !change.by.starts_with("settings of");
    changes
        .iter()
        .filter(own)
        .map(|change| (&change.name[..], &change.before[..], &change.after[..]))
        .collect()
}

#[test]
fn changes_of_the_configuration_are_kept_over_restarts_and_under_another_host() {
    let mut run = Run::begin(151, 3).expect("three nodes");
    run.pass(Duration::from_secs(3)).expect("nothing happens");
    let host = run.agreed_host().expect("one hosts it");
    let other = (host + 1) % 3;
    run.set(host, "leader_tolerance", "7").expect("it is set at the host");
    run.set(other, "leader_tolerance", "9").expect("it is set by way of another node");
    let off = SetPolicyRequest { policy: "hot-region".to_owned(), enabled: false, by: String::new() };
    let path = "/ringkeep.Scheduler/SetPolicy";
    run.call::<SetPolicyResponse>(run.members[other].pd(), path, off).expect("it is switched");
    let changes = run.changes(other).expect("it says");
    let expected = [("leader_tolerance", "5", "7"), ("leader_tolerance", "7", "9")];
    assert_eq!(shown(&changes)[..2], expected, "{changes:#?}");
    assert!(
        changes.windows(2).all(|pair| 0 < pair[0].at_ms && pair[0].at_ms <= pair[1].at_ms),
        "{changes:#?}"
    );
    let own: Vec<&ConfigChange> = changes.iter().filter(|it| it.name == "leader_tolerance").collect();
    for change in &own {
        let address = change.by.parse::<std::net::SocketAddr>();
        let of_node = |addr: std::net::SocketAddr| run.members.iter().any(|it| it.pd().ip() == addr.ip());
        assert!(address.is_ok_and(|addr| !of_node(addr)), "the caller's own address: {change:?}");
    }
    // Another host knows of them, too.
    run.members[host].end(true);
    run.pass(TWO_ELECTIONS).expect("another takes over");
    assert_eq!(run.changes(other).expect("it says"), changes);
    run.set(other, "leader_tolerance", "11").expect("it is set at the new host");
    run.members[host].start(&run.world, &[]).expect("it comes back");
    // All of them, from their disks.
    run.pass(Duration::from_secs(5)).expect("it catches up");
    let known = run.changes(host).expect("it says");
    assert_eq!(shown(&known).last(), Some(&("leader_tolerance", "9", "11")), "{known:#?}");
    for number in 0..3 {
        run.members[number].end(true);
    }
    for number in 0..3 {
        run.members[number].begin(&[]);
    }
    run.pass(2 * TWO_ELECTIONS).expect("they come back");
    assert_eq!(run.changes(0).expect("it says"), known);
}
