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
    for (id, address) in [(1, "a"), (3, "c"), (4, "d"), (5, "e")] {
        state.apply(StateCommand::PutStore(store(id, address))).expect("joins");
    }
    let set = |lifecycle| StateCommand::SetLifecycle { store: StoreId(1), lifecycle };
    assert!(state.apply(set(Lifecycle::Tombstone)).is_err(), "in use");
    for lifecycle in [Lifecycle::Offline, Lifecycle::Up, Lifecycle::Offline, Lifecycle::Tombstone] {
        assert_eq!(state.apply(set(lifecycle)), Ok(StateAnswer::Done));
    }
    assert!(state.apply(set(Lifecycle::Up)).is_err());
    assert!(state.apply(StateCommand::PutStore(store(1, "a"))).is_err());
    assert_eq!(state.apply(StateCommand::PutStore(store(2, "a"))), Ok(StateAnswer::Done));
}

/// A state with `replicas` and a store for each of `nodes`, with the ids 1, 2 and so on.
fn state_of(replicas: u64, nodes: &[u64]) -> State {
    let mut state = State::new(Config { max_replicas: replicas, ..Config::default() });
    state.apply(StateCommand::AllocateIds { count: 20 }).expect("ids");
    for (id, node) in (1..).zip(nodes) {
        let store = StoreDescriptor::new(StoreId(id), NodeId(*node), format!("{id}:1"));
        state.apply(StateCommand::PutStore(store)).expect("joins");
    }
    state
}

#[test]
fn no_store_leaves_that_replicas_need() {
    let set = |id, lifecycle| StateCommand::SetLifecycle { store: StoreId(id), lifecycle };
    let leave = |state: &mut State, id| state.apply(set(id, Lifecycle::Offline));
    let too_few = |id, left, replicas| Err(StateRefusal::TooFewNodes { store: StoreId(id), left, replicas });
    // Of one node all stores but the last may go, and that one once another is back.
    let mut alone = state_of(1, &[11, 11]);
    assert_eq!(leave(&mut alone, 1), Ok(StateAnswer::Done));
    assert_eq!(leave(&mut alone, 2), too_few(2, 0, 1));
    assert_eq!(alone.apply(set(1, Lifecycle::Up)), Ok(StateAnswer::Done));
    assert_eq!(leave(&mut alone, 2), Ok(StateAnswer::Done));
    // Three replicas need three nodes, not three stores.
    let mut three = state_of(3, &[11, 11, 12, 13]);
    assert_eq!(leave(&mut three, 3), too_few(3, 2, 3));
    assert_eq!(leave(&mut three, 1), Ok(StateAnswer::Done));
    assert_eq!(leave(&mut three, 1), Ok(StateAnswer::Done), "it leaves already");
    assert_eq!(leave(&mut three, 2), too_few(2, 2, 3));
    // A fourth node makes room, and a lower number of replicas, too.
    let fourth = StoreDescriptor::new(StoreId(5), NodeId(14), "5:1");
    assert_eq!(three.apply(StateCommand::PutStore(fourth)), Ok(StateAnswer::Done));
    assert_eq!(leave(&mut three, 3), Ok(StateAnswer::Done));
    assert_eq!(leave(&mut three, 4), too_few(4, 2, 3));
    let two = Config { max_replicas: 2, ..Config::default() };
    assert_eq!(three.apply(StateCommand::SetConfig(Box::new(two))), Ok(StateAnswer::Done));
    assert_eq!(leave(&mut three, 4), Ok(StateAnswer::Done));
    // With too few nodes from the start no node goes, but a store of one whose others stay.
    let mut few = state_of(3, &[11, 12, 12]);
    assert_eq!(leave(&mut few, 1), too_few(1, 1, 3));
    assert_eq!(leave(&mut few, 2), Ok(StateAnswer::Done));
    let said = too_few(2, 0, 1).unwrap_err().to_string();
    assert!(
        ["store 2", "0 nodes", "1 by the setting", "lower `replicas`"].iter().all(|part| said.contains(part)),
        "{said}"
    );
}

/// A store that is silent for good leaves its address to a new one in one step, whatever becomes of it then.
#[test]
fn a_new_store_takes_the_place_of_one_that_is_gone() {
    let mut state = state_of(3, &[11, 12, 13]);
    let new = |id, node| StoreDescriptor::new(StoreId(id), NodeId(node), "3:1");
    let replace = |store, gone| StateCommand::ReplaceStore { store, gone: StoreId(gone) };
    let taken = |store, holder| {
        let (store, holder) = (StoreId(store), StoreId(holder));
        Err(StateRefusal::Store(StoreRefusal::AddressTaken { store, holder }))
    };
    // What is refused changes nothing.
    let before = state.clone();
    let elsewhere = StateRefusal::Moved { store: StoreId(2), address: "2:1".into() };
    assert_eq!(state.apply(replace(new(5, 15), 2)), Err(elsewhere));
    assert_eq!(state.apply(replace(new(3, 13), 3)), Err(StateRefusal::NotNew(StoreId(3))));
    assert_eq!(state.apply(replace(new(2, 12), 3)), Err(StateRefusal::NotNew(StoreId(2))));
    assert_eq!(state.apply(replace(new(99, 15), 3)), Err(StateRefusal::IdNotAllocated(StoreId(99))));
    let unknown = Err(StateRefusal::Store(StoreRefusal::Unknown(StoreId(9))));
    assert_eq!(state.apply(replace(new(5, 15), 9)), unknown);
    assert_eq!(state.apply(StateCommand::PutStore(new(5, 15))), taken(5, 3));
    assert_eq!(state, before);
    // Three nodes are needed, and three are in use all the time.
    assert_eq!(state.apply(replace(new(5, 15), 3)), Ok(StateAnswer::Done));
    let done = state.clone();
    assert_eq!(state.apply(replace(new(5, 15), 3)), Ok(StateAnswer::Done), "said again, it changes nothing");
    assert_eq!(state, done);
    let lifecycle = |state: &State, id| state.image().stores[&StoreId(id)].lifecycle;
    assert_eq!((lifecycle(&state, 3), lifecycle(&state, 5)), (Lifecycle::Offline, Lifecycle::Up));
    assert_eq!(State::restore(state.image().clone()), Ok(state.clone()), "a snapshot has both");
    // Only who has the place can lose it.
    assert_eq!(state.apply(replace(new(6, 16), 3)), taken(6, 5));
    // The new one may change what it says of itself, the old one may come back elsewhere, and no third one gets the address.
    assert_eq!(
        state.apply(StateCommand::PutStore(new(5, 15).with_label("zone", "a"))),
        Ok(StateAnswer::Done)
    );
    assert_eq!(state.apply(StateCommand::PutStore(new(6, 16))), taken(6, 5));
    let up = |id| StateCommand::SetLifecycle { store: StoreId(id), lifecycle: Lifecycle::Up };
    assert_eq!(state.apply(up(3)), taken(3, 5));
    let back = StoreDescriptor::new(StoreId(3), NodeId(13), "3:2");
    assert_eq!(state.apply(StateCommand::PutStore(back)), Ok(StateAnswer::Done));
    assert_eq!(state.apply(up(3)), Ok(StateAnswer::Done));
    // One that leaves already may be replaced, too; one that only leaves keeps its address.
    let set = |id, lifecycle| StateCommand::SetLifecycle { store: StoreId(id), lifecycle };
    assert_eq!(state.apply(set(5, Lifecycle::Offline)), Ok(StateAnswer::Done));
    assert_eq!(state.apply(StateCommand::PutStore(new(6, 16))), taken(6, 5));
    assert_eq!(state.apply(replace(new(6, 16), 5)), Ok(StateAnswer::Done));
    assert_eq!(state.apply(replace(new(7, 17), 6)), Ok(StateAnswer::Done), "the next one in the same place");
    assert_eq!(State::restore(state.image().clone()), Ok(state.clone()));
    assert_eq!(state.apply(set(5, Lifecycle::Tombstone)), Ok(StateAnswer::Done));
    let gone = Err(StateRefusal::Store(StoreRefusal::Tombstone(StoreId(5))));
    assert_eq!(state.apply(replace(new(8, 18), 5)), gone, "its place is not its own any more");
}

/// A node in the place of one that is gone may have fewer stores, so all of that one are taken out of use together.
#[test]
fn a_node_that_is_replaced_goes_with_all_of_its_stores() {
    let mut state = state_of(3, &[11, 12, 12, 12, 13]);
    let new = |id, node, address: &str| StoreDescriptor::new(StoreId(id), NodeId(node), address);
    let replace = |store, gone| StateCommand::ReplaceNode { store, gone: StoreId(gone) };
    let lifecycles = |state: &State| -> Vec<Lifecycle> {
        state.image().stores.values().map(|store| store.lifecycle).collect()
    };
    let (up, offline) = (Lifecycle::Up, Lifecycle::Offline);
    let set = |id, lifecycle| StateCommand::SetLifecycle { store: StoreId(id), lifecycle };
    assert_eq!(state.apply(set(4, offline)), Ok(StateAnswer::Done));
    assert_eq!(state.apply(set(4, Lifecycle::Tombstone)), Ok(StateAnswer::Done));
    // What is refused changes nothing.
    let before = state.clone();
    let elsewhere = StateRefusal::Moved { store: StoreId(3), address: "3:1".into() };
    assert_eq!(state.apply(replace(new(6, 16, "2:1"), 3)), Err(elsewhere));
    assert_eq!(state, before);
    assert_eq!(state.image().beside(StoreId(2)), [StoreId(3)]);
    assert_eq!(state.apply(replace(new(6, 16, "2:1"), 2)), Ok(StateAnswer::Done));
    assert_eq!(lifecycles(&state), [up, offline, offline, Lifecycle::Tombstone, up, up]);
    assert_eq!(State::restore(state.image().clone()), Ok(state.clone()));
    let done = state.clone();
    assert_eq!(state.apply(replace(new(6, 16, "2:1"), 2)), Ok(StateAnswer::Done), "said again");
    assert_eq!(state, done);
    // The next store of the new node has the place of one that has gone already.
    let next = StateCommand::ReplaceStore { store: new(7, 16, "3:1"), gone: StoreId(3) };
    assert_eq!(state.apply(next), Ok(StateAnswer::Done));
    assert_eq!(lifecycles(&state), [up, offline, offline, Lifecycle::Tombstone, up, up, up]);
}

/// What is refused has changed nothing, and is no change that anyone is shown.
#[test]
fn changes_of_the_configuration_are_kept_with_it_and_survive_a_snapshot() {
    let mut state = State::new(Config::default());
    let command = |replicas: u64| {
        let name = format!("to {replicas}");
        let config = Box::new(Config { max_replicas: replicas, ..Config::default() });
        StateCommand::ChangeConfig { config, changes: vec![ConfigChange { name, ..ConfigChange::default() }] }
    };
    assert_eq!(state.apply(command(5)), Ok(StateAnswer::Done));
    assert!(matches!(state.apply(command(0)), Err(StateRefusal::Config(_))));
    assert_eq!(state.apply(command(1)), Ok(StateAnswer::Done));
    let kept = |state: &State| {
        state.image().config_changes.list().map(|change| change.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!((kept(&state), state.image().config.max_replicas), (vec!["to 5".into(), "to 1".into()], 1));
    assert_eq!(State::restore(state.image().clone()), Ok(state));
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
    match number(11) {
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
        7 => {
            let service = ["gc_worker", "backup", "feed", ""][(number(4) % 4) as usize].into();
            let expires_ms = if number(2) == 0 { u64::MAX } else { number(100) };
            let point = ServiceSafePoint { service, timestamp: number(1000), expires_ms };
            StateCommand::SetServiceSafePoint { point, now_ms: number(100) }
        }
        8 => {
            let address = ["a", "b", "c", "d"][(number(4) % 4) as usize];
            let store = StoreDescriptor::new(id, NodeId(number(3)), address);
            StateCommand::ReplaceStore { store, gone: StoreId(number(12)) }
        }
        9 => {
            let address = ["a", "b", "c", "d"][(number(4) % 4) as usize];
            let store = StoreDescriptor::new(id, NodeId(number(3)), address);
            StateCommand::ReplaceNode { store, gone: StoreId(number(12)) }
        }
        _ => StateCommand::AdvanceGcSafePoint { timestamp: number(1000) },
    }
}

/// Random and absurd commands: invariants hold after each, refusals change nothing, a second replica that applies the
/// same log and one that starts from a snapshot in the middle end up equal.
#[test]
fn replicas_agree_and_invariants_hold_under_random_commands() {
    let (mut refused, mut replaced) = (0, 0);
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
                assert_eq!(late.apply(command.clone()), answer);
            }
            if answer.is_err() {
                refused += 1;
                assert_eq!(state, before, "a refusal changed the state");
            }
            check_invariants(before.image(), state.image());
            if matches!(command, StateCommand::ReplaceStore { .. } | StateCommand::ReplaceNode { .. }) {
                replaced += u64::from(answer.is_ok());
            } else {
                let (before, after) = (shared(before.image()), shared(state.image()));
                assert!(after.is_subset(&before), "{command:?} has two stores share an address: {after:?}");
            }
            if answer.is_ok() && matches!(command, StateCommand::SetLifecycle { .. }) {
                check_nodes_in_use(before.image(), state.image());
            }
            if step == 200 {
                late = Some(State::restore(state.image().clone()).expect("an honest image"));
            }
        }
        assert_eq!(state, replica);
        assert_eq!(Some(state), late);
    }
    assert!(refused > 5_000, "only {refused} commands were refused: the generator is too tame");
    assert!(replaced > 20, "only {replaced} stores took the place of another one");
}

/// Stores that have the address of another one, neither of which is gone.
fn shared(image: &StateImage) -> BTreeSet<(StoreId, StoreId)> {
    let there = || image.stores.values().filter(|store| store.lifecycle != Lifecycle::Tombstone);
    let pairs = there().flat_map(|one| there().map(move |other| (one, other)));
    pairs
        .filter(|(one, other)| one.id < other.id && one.address == other.address)
        .map(|(one, other)| (one.id, other.id))
        .collect()
}

fn check_invariants(before: &StateImage, after: &StateImage) {
    assert!(before.next_id <= after.next_id);
    assert!(before.timestamp_end_ms <= after.timestamp_end_ms && before.gc_safe_point <= after.gc_safe_point);
    for (id, store) in &before.stores {
        let now = after.stores.get(id).expect("no store is forgotten");
        assert!(store.lifecycle != Lifecycle::Tombstone || now.lifecycle == Lifecycle::Tombstone);
    }
    let in_use = after.stores.values().filter(|store| store.lifecycle == Lifecycle::Up);
    let mut addresses: Vec<&str> = in_use.map(|store| store.address.as_str()).collect();
    let all = addresses.len();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), all, "two stores in use share an address");
    assert_eq!(after.config.validate(), Ok(()));
}

fn check_nodes_in_use(before: &StateImage, after: &StateImage) {
    let nodes = |image: &StateImage| {
        let in_use = image.stores.values().filter(|store| store.lifecycle == Lifecycle::Up);
        in_use.map(|store| store.node).collect::<BTreeSet<_>>().len() as u64
    };
    let (before, now) = (nodes(before), nodes(after));
    assert!(now >= before || now >= after.config.max_replicas, "{before} nodes in use became {now}");
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
