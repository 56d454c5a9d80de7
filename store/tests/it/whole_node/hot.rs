//! A region that is small and hot, on a node of two stores, with what a new cluster does by itself.
//!
//! Where its load can be cut in two, it is, at a key that clients ask for, both stores come to serve it, no client is refused, over RESP or TiKV's API, histories are
//! judged, and nothing moves any more while the load goes on. Where one key has all of the load, or the node has a single store, all stays as
//! it is, and the scheduler says why.

use std::rc::Rc;
use std::time::Duration;

use bench::sim::callers::{Shared, anywhere};
use engine::rt::sim::{Options, World};
use store::node::Started;
use store::wire::proto::ringkeep::{
    RegionState, RegionsRequest, RegionsResponse, SetConfigRequest, SetConfigResponse, WhyRequest,
    WhyResponse,
};

use crate::joined::nodes::{Member, beside, call};
use crate::page;
use crate::whole_node::follows::{Followed, follow};
use crate::whole_node::seeds;

const RESP_PORT: u16 = 6380;
const CLIENTS: u64 = 2;
const RECORDS: u64 = 2_000;
const VALUE_BYTES: usize = 1_000;
/// Keys among the records whose histories are judged, of which two lie among the hot ones.
const JUDGED: [&str; 4] = ["user0040x", "user0110x", "user1000x", "user1900x"];
/// The first keys, which have four fifths of the load.
const HOT: u64 = 200;
const ONE_KEY: u64 = 700;
/// Who asks for them, and how many keys at a time.
const READERS: usize = 2;
const KEYS_AT_ONCE: usize = 20;
/// Load beyond which a region is split here, operations per second.
const SPLIT_OPS: u64 = 300;
/// What it takes: ten seconds of load, a split, as long a rest, a move, and both once more.
const SPREADS: Duration = Duration::from_secs(80);
const REST: Duration = Duration::from_secs(60);

struct Run {
    world: World,
    member: Member,
    shared: Rc<Shared>,
    followed: Rc<Followed>,
    started: Started,
}

impl Run {
    /// A node with records, under load: each read is for the key that `draw` makes of a random number.
    fn new(seed: u64, stores: usize, draw: fn(u64) -> u64) -> Self {
        let world = World::new(seed, Options::rough(seed));
        let mut member = Member::new(&world, 0, stores);
        let started = member.start(&world, &[]).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let run = Self { world, member, shared: Rc::default(), followed: Rc::default(), started };
        run.write_records();
        run.set("region_split_ops", SPLIT_OPS);
        run.set("hot_region_load_min", 100 << 10);
        for number in 0..CLIENTS {
            let (addrs, shared) = (vec![run.addr()], run.shared.clone());
            let client = run.world.node(20 + number as usize);
            drop(client.start(0, move |rt| anywhere::ask_on(rt, number, (addrs, &JUDGED), shared)));
        }
        for number in 0..READERS {
            let (addr, shared) = (run.addr(), run.shared.clone());
            drop(run.world.node(30 + number).start(0, move |rt| async move {
                while !shared.done.get() {
                    let mut command = vec!["MGET".to_owned()];
                    command.extend((0..KEYS_AT_ONCE).map(|_| name(draw(rt.random() >> 1))));
                    drop(anywhere::commands(rt.clone(), addr, vec![command; 4]).await);
                    rt.sleep(Duration::from_millis(100)).await;
                }
            }));
        }
        let (pd, shared, followed) = (run.member.pd(), run.shared.clone(), run.followed.clone());
        let key = move |random| name(draw(random));
        drop(run.world.node(40).start(0, move |rt| follow(rt, pd, key, shared, followed)));
        run
    }

    fn addr(&self) -> std::net::SocketAddr {
        self.member.node.addr(RESP_PORT)
    }

    fn set(&self, name: &str, value: u64) {
        let set = SetConfigRequest { name: name.to_owned(), value: value.to_string(), by: String::new() };
        let path = "/ringkeep.Scheduler/SetConfig";
        call::<SetConfigResponse>(&self.world, self.member.pd(), path, set).expect("it is set");
    }

    fn write_records(&self) {
        let addr = self.addr();
        for part in (0..RECORDS).collect::<Vec<_>>().chunks(100) {
            let set = |number: &u64| vec!["SET".to_owned(), name(*number), "v".repeat(VALUE_BYTES)];
            let mut left: Vec<_> = part.iter().map(set).collect();
            // In rough weather a connection may break.
            while !left.is_empty() {
                let commands = left.clone();
                let said = beside(&self.world, move |rt| anywhere::commands(rt, addr, commands));
                assert!(said.iter().all(|reply| reply == "+OK"), "{said:?}");
                left.drain(..said.len());
            }
        }
    }

    /// The regions with records.
    fn regions(&self) -> Vec<RegionState> {
        let path = "/ringkeep.Scheduler/Regions";
        let all = call::<RegionsResponse>(&self.world, self.member.pd(), path, RegionsRequest::default());
        let mut regions = all.expect("it is answered").regions;
        regions.retain(|state| {
            let region = state.region.as_ref().expect("described");
            region.end_key[..] > b"user"[..] && region.start_key[..] < b"userx"[..]
        });
        regions
    }

    /// Where each of these is led.
    fn places(&self) -> Vec<(u64, u64)> {
        let place = |state: &RegionState| {
            let region = state.region.as_ref().expect("described");
            (region.id, state.leader.as_ref().expect("it is led").store_id)
        };
        self.regions().iter().map(place).collect()
    }

    /// Of the operations on these regions, those that the store with fewer of them has, per cent.
    fn lesser_percent(&self) -> u64 {
        let load = |state: &RegionState| {
            let load = state.load.as_ref().expect("it is reported");
            let store = state.leader.as_ref().expect("it is led").store_id;
            (store, u64::from(load.read_ops + load.write_ops))
        };
        let loads: Vec<(u64, u64)> = self.regions().iter().map(load).collect();
        let all: u64 = loads.iter().map(|(_, ops)| ops).sum();
        let of_one: u64 = loads.iter().filter(|(store, _)| *store == loads[0].0).map(|(_, ops)| ops).sum();
        100 * of_one.min(all - of_one) / all
    }

    fn number(&self, name: &str) -> f64 {
        page::of(&self.started.board.read(), name)
    }

    fn why(&self, region: u64) -> String {
        let request = WhyRequest { region, store: 0 };
        let path = "/ringkeep.Scheduler/Why";
        call::<WhyResponse>(&self.world, self.member.pd(), path, request).expect("it is answered").verdict
    }

    fn pass(&self, time: Duration) {
        self.world.run_for(time);
        assert_eq!(*self.shared.failures.borrow(), Vec::<String>::new());
        assert_eq!(*self.shared.refusal_anywhere.borrow(), None, "no client is refused");
        assert_eq!(*self.followed.refused.borrow(), Vec::<String>::new(), "nor is one of TiKV's API");
    }

    /// The load ends, and what was heard is judged.
    fn end(self, seed: u64) {
        self.shared.done.set(true);
        self.pass(Duration::from_secs(12));
        assert!(self.shared.answered_anywhere.get() > 200, "seed {seed}");
        assert!(self.followed.answered.get() > 2_000, "seed {seed}: {:?}", self.followed);
        self.shared.history.borrow().judge().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

fn name(number: u64) -> String {
    format!("user{number:04}")
}

/// Four of five keys are hot ones.
fn skewed(random: u64) -> u64 {
    let (number, which) = (random / 5, random % 5);
    if which < 4 { number % HOT } else { number % RECORDS }
}

#[test]
fn a_hot_region_of_a_few_mib_is_cut_and_both_stores_serve_it() {
    for seed in seeds(2) {
        let run = Run::new(seed, 2, skewed);
        assert_eq!(run.places().len(), 1, "seed {seed}: {:?}", run.places());
        run.pass(Duration::from_secs(8));
        assert_eq!(run.number("ringkeep_scheduler_regions_busy"), 1.0, "seed {seed}");
        assert_eq!(run.number("ringkeep_scheduler_load_splits_total"), 0.0, "seed {seed}");
        run.pass(SPREADS);
        let splits = run.number("ringkeep_scheduler_load_splits_total");
        assert!((1.0..=8.0).contains(&splits), "seed {seed}: {splits} splits");
        let percent = run.lesser_percent();
        assert!(percent >= 30, "seed {seed}: {percent} per cent of {:?}", run.regions());
        let among_hot = |state: &RegionState| {
            let start = state.region.as_ref().expect("described").start_key.clone();
            start[..] > b"user"[..] && start[..] < *name(HOT).as_bytes()
        };
        assert!(run.regions().iter().any(among_hot), "seed {seed}: {:?}", run.regions());
        assert_eq!(run.places().len() as f64, splits + 1.0, "seed {seed}: {:?}", run.places());
        // A part may still bear more than half of what a store bears, but that comes to an end, and then nothing moves.
        let mut before = run.places();
        let is_still = |_| {
            run.pass(REST);
            let now = run.places();
            now == std::mem::replace(&mut before, now.clone())
        };
        assert!((0..4).any(is_still), "seed {seed}: {:?}", run.regions());
        let percent = run.lesser_percent();
        assert!(percent >= 30, "seed {seed}: {percent} per cent of {:?}", run.regions());
        assert!(run.places().len() <= 10, "seed {seed}: {:?}", run.places());
        run.end(seed);
    }
}

#[test]
fn a_hot_key_is_left_where_it_is_and_the_reason_is_said() {
    let run = Run::new(41, 2, |random| if random % 20 == 0 { random / 20 % RECORDS } else { ONE_KEY });
    let before = run.places();
    let [(region, _)] = before[..] else { panic!("{before:?}") };
    for _ in 0..4 {
        run.pass(Duration::from_secs(30));
        assert_eq!(run.places(), before);
        let verdict = run.why(region);
        assert!(verdict.contains("no split helps: one key has"), "{verdict}");
    }
    assert_eq!(run.number("ringkeep_scheduler_regions_busy"), 1.0);
    assert_eq!(run.number("ringkeep_scheduler_load_splits_total"), 0.0);
    run.end(41);
}

#[test]
fn a_node_with_a_single_store_cuts_nothing_for_its_load() {
    let run = Run::new(42, 1, skewed);
    let before = run.places();
    run.pass(SPREADS);
    assert_eq!(run.places(), before);
    assert_eq!(run.number("ringkeep_scheduler_load_splits_total"), 0.0);
    run.end(42);
}
