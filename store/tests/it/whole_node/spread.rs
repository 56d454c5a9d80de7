//! Keys that all begin alike on a node of two stores: one region has them all at first, and nothing is asked of the scheduler.
//!
//! With what a new cluster does by itself the two stores come to have as much of them each, no client is refused, the histories of keys among
//! them are judged, and nothing moves any more afterwards. With `balance-core` off, or without splits, all stays on one core.

use std::rc::Rc;
use std::time::Duration;

use bench::sim::callers::{Shared, anywhere};
use engine::rt::sim::{Options, World};
use store::config::Config;
use store::node::Started;
use store::wire::proto::ringkeep::{
    ConfigRequest, ConfigResponse, RegionState, RegionsRequest, RegionsResponse, SetConfigRequest,
    SetConfigResponse, SetPolicyRequest, SetPolicyResponse,
};

use crate::joined::nodes::{Member, beside, call};
use crate::page;
use crate::whole_node::seeds;

const RESP_PORT: u16 = 6380;
const CLIENTS: u64 = 3;
const RECORDS: usize = 2_000;
const VALUE_BYTES: usize = 1_000;
/// A region is split above this: a sixteenth of all records.
const REGION_BYTES: u64 = 128 << 10;
/// Keys among the records whose histories are judged.
const JUDGED: [&str; 6] = ["user0000x", "user0150x", "user0700x", "user1000x", "user1300x", "user1900x"];
/// Sizes are estimated every ten seconds, and each region takes its turn.
const SPREADS: Duration = Duration::from_secs(90);

/// Longer than it takes until sizes are estimated again.
const REST: Duration = Duration::from_secs(60);

struct Run {
    world: World,
    member: Member,
    shared: Rc<Shared>,
    started: Option<Started>,
}

impl Run {
    fn new(seed: u64, change: fn(&mut Config)) -> Self {
        let world = World::new(seed, Options::rough(seed));
        let mut member = Member::new(&world, 0, 2);
        member.change = change;
        let started = Some(member.start(&world, &[]).unwrap_or_else(|why| panic!("seed {seed}: {why}")));
        Self { world, member, shared: Rc::default(), started }
    }

    /// A node whose regions are small, and whose empty ones weigh little beside these.
    fn small(seed: u64) -> Self {
        let run = Self::new(seed, |config| config.region_max_bytes = Some(REGION_BYTES));
        let set = SetConfigRequest {
            name: "region_size_floor_bytes".to_owned(),
            value: "1024".to_owned(),
            by: String::new(),
        };
        let path = "/ringkeep.Scheduler/SetConfig";
        call::<SetConfigResponse>(&run.world, run.member.pd(), path, set).expect("it is set");
        run
    }

    fn begin_clients(&self) {
        for number in 0..CLIENTS {
            let (addrs, shared) = (vec![self.member.node.addr(RESP_PORT)], self.shared.clone());
            let client = self.world.node(20 + number as usize);
            drop(client.start(0, move |rt| anywhere::ask_on(rt, number, (addrs, &JUDGED), shared)));
        }
    }

    fn load(&self) {
        let addr = self.member.node.addr(RESP_PORT);
        let set = |number: usize| {
            // In an order that no two neighbours have.
            let number = number * 1_237 % RECORDS;
            vec!["SET".to_owned(), format!("user{number:04}"), value(number)]
        };
        for part in (0..RECORDS).collect::<Vec<_>>().chunks(100) {
            let mut left: Vec<_> = part.iter().map(|number| set(*number)).collect();
            // In rough weather a connection may break.
            while !left.is_empty() {
                let commands = left.clone();
                let said = beside(&self.world, move |rt| anywhere::commands(rt, addr, commands));
                assert!(said.iter().all(|reply| reply == "+OK"), "{said:?}");
                left.drain(..said.len());
            }
        }
    }

    fn regions(&self) -> Vec<RegionState> {
        let path = "/ringkeep.Scheduler/Regions";
        call::<RegionsResponse>(&self.world, self.member.pd(), path, RegionsRequest::default())
            .expect("it is answered")
            .regions
    }

    /// Where each region is led, with what it has of the records, bytes.
    fn places(&self) -> Vec<(u64, u64)> {
        let alike = |state: &&RegionState| {
            let region = state.region.as_ref().expect("described");
            region.start_key[..] >= b"user"[..] && region.start_key[..] < b"userx"[..]
                || region.start_key[..] < b"user"[..] && region.end_key[..] > b"user"[..]
        };
        let place =
            |state: &RegionState| (state.leader.as_ref().expect("it is led").store_id, state.size_bytes);
        self.regions().iter().filter(alike).map(place).collect()
    }

    fn places_only(&self) -> Vec<u64> {
        self.places().into_iter().map(|(store, _)| store).collect()
    }

    /// Of the records, what the store has that has less of them, per cent.
    fn lesser_percent(&self) -> u64 {
        let places = self.places();
        let all: u64 = places.iter().map(|(_, bytes)| bytes).sum();
        let first = places[0].0;
        let of_first: u64 = places.iter().filter(|(store, _)| *store == first).map(|(_, bytes)| bytes).sum();
        100 * of_first.min(all - of_first) / all
    }

    fn number(&self, name: &str) -> f64 {
        page::of(&self.started.as_ref().expect("the node is up").board.read(), name)
    }

    fn pass(&self, time: Duration) {
        self.world.run_for(time);
        assert_eq!(*self.shared.failures.borrow(), Vec::<String>::new());
        assert_eq!(*self.shared.refusal_anywhere.borrow(), None, "no client is refused");
    }
}

/// A value that no table packs.
fn value(number: usize) -> String {
    let mut state = number as u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + ((state >> 33) % 26) as u8)
    };
    (0..VALUE_BYTES).map(|_| letter()).collect()
}

#[test]
fn keys_that_begin_alike_spread_over_the_stores_of_a_node_by_themselves() {
    for seed in seeds(3) {
        let run = Run::small(seed);
        run.begin_clients();
        run.load();
        run.pass(SPREADS);
        let percent = run.lesser_percent();
        assert!((44..=50).contains(&percent), "seed {seed}: {percent} per cent of {:?}", run.places());
        assert!(run.places().len() >= 12, "seed {seed}: {:?}", run.places());
        assert!(run.number("ringkeep_relocated_bytes_total") > 0.0, "seed {seed}: nothing was handed over");
        for name in ["ringkeep_snapshot_sent_bytes_total", "ringkeep_peer_sent_bytes_total"] {
            assert_eq!(run.number(name), 0.0, "seed {seed}: {name}");
        }
        // An estimate may still rise above the bound and a region be split, but that comes to an end, and then nothing moves.
        let mut before = run.places_only();
        let is_still = |_| {
            run.pass(REST);
            let now = run.places_only();
            now == std::mem::replace(&mut before, now.clone())
        };
        assert!((0..5).any(is_still), "seed {seed}: {:?}", run.places());
        run.shared.done.set(true);
        run.pass(Duration::from_secs(12));
        assert!(run.shared.answered_anywhere.get() > 1_000, "seed {seed}");
        run.shared.history.borrow().judge().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn without_the_policy_or_without_splits_they_stay_on_one_core() {
    let run = Run::small(31);
    let off = SetPolicyRequest { policy: "balance-core".to_owned(), enabled: false, by: String::new() };
    let set = "/ringkeep.Scheduler/SetPolicy";
    call::<SetPolicyResponse>(&run.world, run.member.pd(), set, off).expect("it is switched off");
    run.load();
    run.pass(SPREADS);
    assert!(run.places().len() >= 12 && run.lesser_percent() == 0, "{:?}", run.places());

    let run = Run::new(32, |config| config.region_max_bytes = Some(0));
    run.load();
    run.pass(SPREADS);
    assert_eq!(run.places().len(), 1, "{:?}", run.places());
}

/// What a new cluster does by itself, where no node says otherwise.
#[test]
fn splits_and_balance_over_cores_are_on_in_a_new_cluster() {
    let run = Run::new(33, |_| {});
    let path = "/ringkeep.Scheduler/Config";
    let config = call::<ConfigResponse>(&run.world, run.member.pd(), path, ConfigRequest::default());
    let config = config.expect("it is answered");
    let off: Vec<&str> =
        config.policies.iter().filter(|policy| !policy.enabled).map(|policy| &policy.name[..]).collect();
    assert_eq!(off, ["balance-region", "hot-region"], "those that move bytes between nodes");
    let value = |name| config.settings.iter().find(|setting| setting.name == name).map(|it| &it.value[..]);
    assert_eq!(value("region_size_max_bytes"), Some("150994944"));
    assert_eq!(value("region_split_ops"), Some("3000"));
}
