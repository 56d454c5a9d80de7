//! What survives a scheduler: the replicated state and a successor that is fed from it, under the names of the course's
//! tests. Encoding, storage and elections belong to the host; here the image of a state stands for what it has stored.
#![expect(non_snake_case, reason = "the tests keep the names under which the course knows them")]

use std::collections::BTreeSet;

use scheduler::config::{MIB, ReplicaPath};
use scheduler::tso::LOGICAL_MAX;
use scheduler::{
    Action, Change, Config, Epoch, KeyRange, Lifecycle, NodeId, Oracle, Peer, PeerId, Policy, Reason, Region,
    RegionId, RegionReport, Scheduler, State, StateAnswer, StateCommand, StateRefusal, StoreDescriptor,
    StoreId, StoreRefusal, StoreReport, Time, Timestamp,
};

const T0: Time = Time(1_000);

fn config() -> Config {
    Config { replica_path: ReplicaPath::Direct, prepare_percent: 0, ..Config::default() }
}

/// A state with stores 1 to `stores`, each a node of its own.
fn state(stores: u64) -> State {
    let mut state = State::new(config());
    state.apply(StateCommand::Bootstrap { cluster: 7 }).expect("the first time");
    state.apply(StateCommand::AllocateIds { count: 1_000 }).expect("ids");
    for id in 1..=stores {
        let store = StoreDescriptor::new(StoreId(id), NodeId(id), format!("127.0.0.1:{id}"));
        state.apply(StateCommand::PutStore(store)).expect("joins");
    }
    state
}

/// What the next process finds.
fn restart(state: &State) -> State {
    State::restore(state.image().clone()).expect("an honest image")
}

/// A scheduler as a new leader begins it.
fn scheduler(state: &mut State) -> Scheduler {
    let image = state.image();
    let mut scheduler = Scheduler::new(image.config.clone(), 1, T0).expect("a valid configuration");
    for store in image.stores.values() {
        scheduler.put_store(store.clone(), T0).expect("joins");
        if store.lifecycle != Lifecycle::Tombstone {
            scheduler.report_store(StoreReport::empty(store.id), T0).expect("reports");
        }
    }
    scheduler.set_evicting(image.evicting.clone());
    let count = scheduler.ids_wanted().expect("a fresh one has none");
    match state.apply(StateCommand::AllocateIds { count }) {
        Ok(StateAnswer::Ids(ids)) => scheduler.grant_ids(ids),
        answer => panic!("{answer:?}"),
    }
    scheduler
}

fn report(id: u64, stores: &[u64]) -> RegionReport {
    let peers = stores.iter().map(|store| Peer::voter(PeerId(id * 10 + store), StoreId(*store))).collect();
    let range = KeyRange::new(&[id as u8], &[id as u8 + 1]).expect("rising");
    let region = Region { id: RegionId(id), range, epoch: Epoch::new(1, 1), peers };
    let leader = region.peers.first().map(|peer| peer.id);
    RegionReport { size_bytes: 10 * MIB, ..RegionReport::new(region, leader) }
}

#[test]
fn TestBootstrap() {
    let mut state = State::new(config());
    assert_eq!(state.image().cluster, None);
    assert_eq!(state.apply(StateCommand::Bootstrap { cluster: 0 }), Ok(StateAnswer::Done), "zero is a name");
    let again = state.apply(StateCommand::Bootstrap { cluster: 1 });
    assert_eq!(again, Err(StateRefusal::Bootstrapped { cluster: 0 }));
}

#[test]
fn TestLoadClusterInfo() {
    assert_eq!(restart(&State::new(config())).image().cluster, None, "nothing was stored");
    let state = state(10);
    let loaded = restart(&state);
    assert_eq!(loaded.image().cluster, Some(7));
    assert_eq!(loaded.image().stores.len(), 10);
    assert_eq!(loaded, state);
}

#[test]
fn TestLoadStores() {
    let mut state = restart(&state(10));
    let scheduler = scheduler(&mut state);
    let loaded: Vec<&StoreDescriptor> = scheduler.cluster().stores().map(|store| &store.descriptor).collect();
    assert_eq!(loaded, state.image().stores.values().collect::<Vec<_>>());
}

#[test]
fn TestLoadGCSafePoint() {
    let mut state = state(1);
    assert_eq!(restart(&state).image().gc_safe_point, 0);
    for timestamp in [0, 1, 1 << 40, 233, 2 << 40] {
        let at_most = state.image().gc_safe_point.max(timestamp);
        let answer = state.apply(StateCommand::AdvanceGcSafePoint { timestamp });
        assert_eq!(answer, Ok(StateAnswer::GcSafePoint(at_most)));
        assert_eq!(restart(&state).image().gc_safe_point, at_most);
    }
}

#[test]
fn TestStoreHeartbeat() {
    let mut state = state(3);
    let mut scheduler = scheduler(&mut state);
    let unknown = scheduler.report_store(StoreReport::empty(StoreId(9)), T0);
    assert_eq!(unknown, Err(StoreRefusal::Unknown(StoreId(9))));
    let later = T0.plus_ms(5_000);
    let report = StoreReport { region_count: 4, ..StoreReport::empty(StoreId(2)) };
    scheduler.report_store(report.clone(), later).expect("known");
    let store = scheduler.cluster().store(StoreId(2)).expect("joined");
    assert_eq!((store.last_heard, store.report.as_ref()), (later, Some(&report)));
    let other = scheduler.cluster().store(StoreId(1)).expect("joined");
    assert_eq!(other.last_heard, T0, "only the one that was heard");
}

#[test]
fn TestStores() {
    let mut state = state(5);
    let mut scheduler = scheduler(&mut state);
    let ids: Vec<u64> = scheduler.cluster().stores().map(|store| store.id().0).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    let influence = scheduler::operator::Influence::new();
    assert_eq!(scheduler.view(&influence, T0).may_lead_on(StoreId(2)), Ok(()));
    let block = |evicting, store| StateCommand::SetEvicting { store: StoreId(store), evicting };
    state.apply(block(true, 2)).expect("known");
    scheduler.set_evicting(state.image().evicting.clone());
    assert_eq!(scheduler.view(&influence, T0).may_lead_on(StoreId(2)), Err(Reason::Evicting));
    assert_eq!(scheduler.view(&influence, T0).may_lead_on(StoreId(3)), Ok(()));
    state.apply(block(false, 2)).expect("known");
    scheduler.set_evicting(state.image().evicting.clone());
    assert_eq!(scheduler.view(&influence, T0).may_lead_on(StoreId(2)), Ok(()));
    let unknown = StateRefusal::Store(StoreRefusal::Unknown(StoreId(9)));
    assert_eq!(state.apply(block(true, 9)), Err(unknown));
}

#[test]
fn TestRemoveScheduler() {
    let mut state = state(4);
    let disabled = vec![Policy::BalanceRegion, Policy::BalanceLeader];
    let without = Config { disabled: disabled.clone(), ..state.image().config.clone() };
    state.apply(StateCommand::SetConfig(Box::new(without))).expect("valid");
    let mut state = restart(&state);
    let mut scheduler = scheduler(&mut state);
    // Forty regions on three of four stores would set both policies to work.
    for id in 1..=40 {
        scheduler.report_region(report(id, &[1, 2, 3]), T0).expect("accepted");
    }
    let tick = scheduler.tick(T0);
    assert_eq!(tick.admitted, 0, "{tick:?}");
    for policy in disabled {
        assert!(tick.refusals.contains(&scheduler::Refusal::new(policy, Reason::Disabled)), "{tick:?}");
    }
    scheduler.set_config(config()).expect("valid");
    assert!(scheduler.tick(T0).admitted > 0, "they would have had something to do");
}

/// Repair goes on with a successor that knows nothing of the operator.
#[test]
fn TestRestart() {
    let mut state = state(5);
    let mut first = scheduler(&mut state);
    let mut region = report(1, &[1]);
    first.report_region(region.clone(), T0).expect("accepted");
    let add = first.tick(T0).instructions.pop().expect("a replica is missing");
    let Action::Change(change @ Change::AddVoter { .. }) = &add.action else { panic!("{add:?}") };
    region.region = change.apply(&region.region).expect("it fits");

    let mut state = restart(&state);
    let mut second = scheduler(&mut state);
    second.report_region(region.clone(), T0).expect("accepted");
    let add = second.tick(T0).instructions.pop().expect("another replica is missing");
    let Action::Change(change @ Change::AddVoter { .. }) = &add.action else { panic!("{add:?}") };
    region.region = change.apply(&region.region).expect("a fresh id, so it fits");
    second.report_region(region.clone(), T0).expect("accepted");
    assert!(second.operators().is_empty() && second.tick(T0).instructions.is_empty(), "whole");
    assert_eq!(region.region.peers.len(), 3);
}

#[test]
fn TestRaftClusterRestart() {
    let mut state = state(3);
    let mut first = scheduler(&mut state);
    first.report_region(report(1, &[1, 2, 3]), T0).expect("accepted");
    let mut state = restart(&state);
    let mut second = scheduler(&mut state);
    assert_eq!(second.cluster().len(), 0, "regions come back by reports, not from the state");
    second.report_region(report(1, &[1, 2, 3]), T0).expect("accepted");
    assert_eq!(second.cluster().region(RegionId(1)), first.cluster().region(RegionId(1)));
}

#[test]
fn TestID() {
    let mut state = state(1);
    let mut given = BTreeSet::new();
    let mut last = 0;
    for _ in 0..10 {
        state = restart(&state);
        for _ in 0..200 {
            let Ok(StateAnswer::Ids(ids)) = state.apply(StateCommand::AllocateIds { count: 1 }) else {
                panic!("ids are plenty")
            };
            assert!(ids.start > last && given.insert(ids.start), "{ids:?} after {last}");
            last = ids.start;
        }
    }
    assert_eq!(given.len(), 2_000);
}

/// Ten changes of the leader, each with a clock that is behind the one before it.
#[test]
fn TestTSO() {
    let mut state = state(1);
    let mut last = Timestamp::default();
    for change in 0..10_u64 {
        state = restart(&state);
        let wall_ms = 1_000_000 - change * 10_000;
        let mut oracle = Oracle::new(state.image().timestamp_end_ms, wall_ms);
        assert!(oracle.take(1, wall_ms).is_err(), "no window of its own yet");
        let end_ms = oracle.window_wanted(wall_ms).expect("a fresh one wants a window");
        let Ok(StateAnswer::TimestampWindow(saved)) =
            state.apply(StateCommand::SaveTimestampWindow { end_ms })
        else {
            panic!("a window is always saved")
        };
        oracle.window_saved(saved);
        for count in [1, 10, LOGICAL_MAX / 2, 1] {
            let newest = oracle.take(count, wall_ms).expect("within the window");
            let oldest = Timestamp { logical: newest.logical + 1 - count, ..newest };
            assert!(oldest > last, "change {change}: {oldest:?} after {last:?}");
            last = newest;
        }
    }
}
