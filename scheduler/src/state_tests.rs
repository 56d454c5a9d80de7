//! The replicated state: answers, refusals, and that replay and snapshots agree.

use super::*;
use crate::id::NodeId;
use crate::rng::Rng;

fn store(id: u64, address: &str) -> StoreDescriptor {
    StoreDescriptor::new(StoreId(id), NodeId(id), address)
}

fn state_with_ids(count: u64) -> State {
    let mut state = State::new(Config::default());
    state.apply(StateCommand::AllocateIds { count }).expect("ids");
    state
}

#[test]
fn ids_come_in_ranges_that_never_meet() {
    let mut state = State::new(Config::default());
    let mut next = 1;
    for count in [1, 1000, 7] {
        let answer = state.apply(StateCommand::AllocateIds { count });
        assert_eq!(answer, Ok(StateAnswer::Ids(next..next + count)));
        next += count;
    }
    assert!(state.apply(StateCommand::AllocateIds { count: 0 }).is_err());
    assert!(state.apply(StateCommand::AllocateIds { count: u64::MAX }).is_err());
}

#[test]
fn a_store_needs_an_allocated_id_and_an_address_of_its_own() {
    let mut state = state_with_ids(10);
    assert_eq!(state.apply(StateCommand::PutStore(store(1, "a"))), Ok(StateAnswer::Done));
    assert_eq!(state.apply(StateCommand::PutStore(store(1, "b"))), Ok(StateAnswer::Done), "a new address");
    assert!(matches!(
        state.apply(StateCommand::PutStore(store(2, "b"))),
        Err(StateRefusal::Store(StoreRefusal::AddressTaken { holder: StoreId(1), .. }))
    ));
    assert_eq!(
        state.apply(StateCommand::PutStore(store(11, "c"))),
        Err(StateRefusal::IdNotAllocated(StoreId(11)))
    );
}

#[test]
fn a_tombstone_stays_one_and_frees_its_address() {
    let mut state = state_with_ids(10);
    state.apply(StateCommand::PutStore(store(1, "a"))).expect("joins");
    let set = |lifecycle| StateCommand::SetLifecycle { store: StoreId(1), lifecycle };
    assert!(state.apply(set(Lifecycle::Tombstone)).is_err(), "in use");
    for lifecycle in [Lifecycle::Offline, Lifecycle::Up, Lifecycle::Offline, Lifecycle::Tombstone] {
        assert_eq!(state.apply(set(lifecycle)), Ok(StateAnswer::Done));
    }
    assert!(state.apply(set(Lifecycle::Up)).is_err());
    assert!(state.apply(StateCommand::PutStore(store(1, "a"))).is_err());
    assert_eq!(state.apply(StateCommand::PutStore(store(2, "a"))), Ok(StateAnswer::Done));
}

#[test]
fn safe_point_and_window_never_fall() {
    let mut state = State::new(Config::default());
    let advance = |timestamp| StateCommand::AdvanceGcSafePoint { timestamp };
    assert_eq!(state.apply(advance(10)), Ok(StateAnswer::GcSafePoint(10)));
    assert_eq!(state.apply(advance(4)), Ok(StateAnswer::GcSafePoint(10)));
    let save = |end_ms| StateCommand::SaveTimestampWindow { end_ms };
    assert_eq!(state.apply(save(10)), Ok(StateAnswer::TimestampWindow(10)));
    assert_eq!(state.apply(save(4)), Ok(StateAnswer::TimestampWindow(10)));
}

fn random_command(rng: &mut Rng) -> StateCommand {
    let absurd = rng.one_in(8);
    let mut number = |bound: u64| if absurd { rng.next() } else { rng.next() % bound };
    let id = StoreId(number(12));
    match number(8) {
        0 => StateCommand::Bootstrap { cluster: number(3) },
        1 => StateCommand::AllocateIds { count: number(4) },
        2 => {
            let address = ["a", "b", "c", "d"][(number(4) % 4) as usize];
            StateCommand::PutStore(StoreDescriptor::new(id, NodeId(number(3)), address))
        }
        3 => {
            let lifecycle =
                [Lifecycle::Up, Lifecycle::Offline, Lifecycle::Tombstone][(number(3) % 3) as usize];
            StateCommand::SetLifecycle { store: id, lifecycle }
        }
        4 => StateCommand::SetEvicting { store: id, evicting: number(2) == 0 },
        5 => {
            let config =
                Config { max_replicas: number(6), low_space_percent: number(110), ..Config::default() };
            StateCommand::SetConfig(Box::new(config))
        }
        6 => StateCommand::SaveTimestampWindow { end_ms: number(1000) },
        _ => StateCommand::AdvanceGcSafePoint { timestamp: number(1000) },
    }
}

/// Random and absurd commands: invariants hold after each, refusals change nothing, a second replica that applies the
/// same log and one that starts from a snapshot in the middle end up equal.
#[test]
fn replicas_agree_and_invariants_hold_under_random_commands() {
    let mut refused = 0;
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut state = State::new(Config::default());
        let mut replica = state.clone();
        let mut late: Option<State> = None;
        for step in 0..400 {
            let command = random_command(&mut rng);
            let before = state.clone();
            let answer = state.apply(command.clone());
            assert_eq!(replica.apply(command.clone()), answer);
            if let Some(late) = &mut late {
                assert_eq!(late.apply(command), answer);
            }
            if answer.is_err() {
                refused += 1;
                assert_eq!(state, before, "a refusal changed the state");
            }
            check_invariants(before.image(), state.image());
            if step == 200 {
                late = Some(State::restore(state.image().clone()).expect("an honest image"));
            }
        }
        assert_eq!(state, replica);
        assert_eq!(Some(state), late);
    }
    assert!(refused > 5_000, "only {refused} commands were refused: the generator is too tame");
}

fn check_invariants(before: &StateImage, after: &StateImage) {
    assert!(before.next_id <= after.next_id);
    assert!(before.timestamp_end_ms <= after.timestamp_end_ms && before.gc_safe_point <= after.gc_safe_point);
    for (id, store) in &before.stores {
        let now = after.stores.get(id).expect("no store is forgotten");
        assert!(store.lifecycle != Lifecycle::Tombstone || now.lifecycle == Lifecycle::Tombstone);
    }
    let in_use = after.stores.values().filter(|store| store.lifecycle != Lifecycle::Tombstone);
    let mut addresses: Vec<&str> = in_use.map(|store| store.address.as_str()).collect();
    let all = addresses.len();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), all, "two stores in use share an address");
    assert_eq!(after.config.validate(), Ok(()));
}

#[test]
fn a_damaged_image_is_refused() {
    let mut state = state_with_ids(5);
    state.apply(StateCommand::PutStore(store(1, "a"))).expect("joins");
    state.apply(StateCommand::PutStore(store(2, "b"))).expect("joins");
    let honest = state.image().clone();
    assert!(State::restore(honest.clone()).is_ok());
    assert!(State::restore(StateImage { next_id: 2, ..honest.clone() }).is_err());
    let mut shared = honest.clone();
    shared.stores.get_mut(&StoreId(2)).expect("joined").address = "a".into();
    assert!(State::restore(shared).is_err());
    assert!(State::restore(StateImage { evicting: [StoreId(4)].into(), ..honest }).is_err());
}
