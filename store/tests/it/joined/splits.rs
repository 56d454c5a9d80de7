//! Regions that are split on request while clients write, on three nodes: by calls as `ringkeep ctl` makes them, through the scheduler and
//! its steps, with leaders that die and links that are cut.
//!
//! The histories of all keys are judged; at the end the map covers the key space once, and a scan at any node sees every key once.
//! `RINGKEEP_SEEDS=100 cargo test -p ringkeep-store --test it splits` runs more than the usual seeds, `RINGKEEP_SEED=n` runs one.

use std::time::Duration;

use bench::sim::callers::anywhere;
use bytes::Bytes;
use engine::rt::sim::{Options, World};
use store::wire::grpc::Code;
use store::wire::proto::metapb::Region;
use store::wire::proto::ringkeep::{
    CancelOperatorRequest, CancelOperatorResponse, OperateRequest, OperateResponse, OperatorsRequest,
    OperatorsResponse, RegionWish,
};

use super::clients::KEYS;
use super::nodes::{beside, call};
use super::replicated::Run;
use crate::whole_node::seeds;

/// Clients over RESP at any node.
const CLIENTS: usize = 3;
const RESP_PORT: u16 = 6380;
/// Where regions are cut: between the keys, and at some of them.
const BORDERS: [&str; 10] = ["0a", "1", "4b", "7", "Dd", "Td", "X", "ae", "q", "zf"];

impl Run {
    /// Asks for a split of the region that has `border`. Whether the scheduler takes it.
    fn ask_split(&self, border: &'static str, named: bool) -> Result<bool, String> {
        let regions = self.regions();
        let has = |region: &&Region| {
            let (start, end) = (&region.start_key[..], &region.end_key[..]);
            start < border.as_bytes() && (end.is_empty() || border.as_bytes() < end)
        };
        let Some(region) = regions.iter().find(has) else { return Ok(false) };
        let key = if named { Bytes::from_static(border.as_bytes()) } else { Bytes::new() };
        let wish = RegionWish::Split.into();
        let wish = OperateRequest { region: region.id, wish, key, ..OperateRequest::default() };
        let pd = self.members[0].pd();
        let asked = call::<OperateResponse>(&self.world, pd, "/ringkeep.Scheduler/Operate", wish);
        match asked {
            Ok(begun) if begun.steps.iter().all(|step| step.starts_with("split")) => Ok(true),
            Ok(begun) => Err(format!("the steps of a split are {:?}", begun.steps)),
            // Something else is to be done with the region first.
            Err(status) if matches!(status.code, Code::FailedPrecondition | Code::Unavailable) => Ok(false),
            Err(status) => Err(status.to_string()),
        }
    }

    pub(super) fn begin_resp_clients(&self) {
        for number in 0..CLIENTS {
            let addrs = self.members.iter().map(|member| member.node.addr(RESP_PORT)).collect();
            let (addrs, shared): (Vec<_>, _) = (addrs, self.shared.clone());
            let client = self.world.node(20 + number);
            drop(client.start(0, move |rt| anywhere::ask_on(rt, number as u64, (addrs, &KEYS), shared)));
        }
    }

    fn split_under_load(&mut self) -> Result<usize, String> {
        self.begin()?;
        self.begin_resp_clients();
        let before = self.regions().len();
        for _ in 0..3 + self.world.below(3) {
            for _ in 0..3 {
                let border = BORDERS[self.world.below(BORDERS.len() as u64) as usize];
                self.ask_split(border, self.world.below(4) > 0)?;
                self.pass(Duration::from_millis(self.world.below(400)))?;
            }
            let number = self.world.below(3) as usize;
            match self.world.below(4) {
                // The scheduler's node does not come back before the others have done without.
                0 | 1 => {
                    self.members[number].end(self.world.below(2) == 0);
                    self.pass(Duration::from_millis(200 + self.world.below(6000)))?;
                    self.members[number].start(&self.world, &[])?;
                }
                2 => {
                    let other = (number + 1) % 3;
                    self.world.cut_one_way(&self.members[number].node, &self.members[other].node);
                    self.pass(Duration::from_millis(200 + self.world.below(3000)))?;
                    self.world.heal_network();
                }
                _ => {}
            }
            self.pass(Duration::from_secs(4))?;
        }
        self.pass(Duration::from_secs(15))?;
        self.shared.done.set(true);
        self.pass(Duration::from_secs(12))?;
        self.shared.history.borrow().judge()?;
        self.covers_once()?;
        self.scans_once()?;
        Ok(self.regions().len() - before)
    }

    pub(super) fn covers_once(&self) -> Result<(), String> {
        let regions = self.regions();
        let ends = regions.first().is_some_and(|region| region.start_key.is_empty())
            && regions.last().is_some_and(|region| region.end_key.is_empty());
        match ends && regions.windows(2).all(|pair| pair[0].end_key == pair[1].start_key) {
            true => Ok(()),
            false => Err(format!("the map does not cover the key space once: {regions:?}")),
        }
    }

    /// Every key is written and scanned at every node, over all regions.
    pub(super) fn scans_once(&self) -> Result<(), String> {
        for member in &self.members {
            let addr = member.node.addr(RESP_PORT);
            // The connection may break, then it is asked again.
            let ask = || {
                beside(&self.world, move |rt| {
                    let set = ["MSET"].into_iter().chain(KEYS.into_iter().flat_map(|key| [key, "v"]));
                    let scan = ["SCAN", "0", "COUNT", "100"];
                    let commands = [set.map(str::to_owned).collect(), scan.map(str::to_owned).to_vec()];
                    anywhere::commands(rt, addr, commands.to_vec())
                })
            };
            let expected = ["+OK".to_owned(), format!("0 {}", KEYS.join(" "))];
            let said: Vec<_> = (0..3).map(|_| ask()).collect();
            if !said.iter().any(|said| *said == expected) {
                return Err(format!("scans over all regions see {said:?}"));
            }
        }
        Ok(())
    }
}

#[test]
fn regions_are_split_on_request_under_load() {
    let (mut splits, seeds) = (0, seeds(3));
    for seed in seeds.clone() {
        let mut run = Run::new(World::new(seed, Options::rough(seed)));
        splits += run.split_under_load().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    assert!(splits as u64 >= 2 * (seeds.end - seeds.start), "too few splits: {splits}");
}

/// A value that no table packs.
fn value(number: usize) -> String {
    let mut state = number as u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + ((state >> 33) % 26) as u8)
    };
    (0..2000).map(|_| letter()).collect()
}

/// Keys that all begin alike are one region's at first.
#[test]
fn a_region_that_grows_is_split_until_its_parts_are_small() {
    let mut run = Run::new(World::new(92, Options::default()));
    run.members[0].change = |config| {
        config.replicas = Some(3);
        config.region_max_bytes = Some(200 << 10);
    };
    run.begin().expect("the nodes begin");
    run.shared.done.set(true);
    run.pass(Duration::from_secs(3)).expect("nothing happens");
    let before = run.regions().len();
    let addr = run.members[1].node.addr(RESP_PORT);
    let key = |number: usize| format!("user{number:06}");
    let set = move |number: usize| vec!["SET".to_owned(), key(number), value(number)];
    let said = beside(&run.world, move |rt| anywhere::commands(rt, addr, (0..400).map(set).collect()));
    assert!(said.len() == 400 && said.iter().all(|reply| reply == "+OK"), "{said:?}");
    // A size is estimated every ten seconds, and at once where the region was split.
    run.pass(Duration::from_secs(60)).expect("nothing happens");
    let regions = run.regions();
    let split = regions.len() - before;
    assert!((3..=12).contains(&split), "800,000 bytes make {split} regions more: {regions:?}");
    run.covers_once().expect("every key is one region's");
    run.pass(Duration::from_secs(30)).expect("nothing happens");
    assert_eq!(run.regions().len(), regions.len(), "small regions are left alone");
    let said = beside(&run.world, move |rt| {
        let all = ["SCAN", "0", "COUNT", "1000", "MATCH", "user*"].map(str::to_owned).to_vec();
        anywhere::commands(rt, addr, vec![all])
    });
    let all: Vec<String> = (0..400).map(key).collect();
    assert_eq!(said, [format!("0 {}", all.join(" "))]);
}

/// What a split is asked for and cannot be is said, and a region is cut where it was said to be, on every node.
#[test]
fn a_region_is_split_where_it_is_asked_to_be() {
    let mut run = Run::new(World::new(91, Options::default()));
    run.begin().expect("the nodes begin");
    run.shared.done.set(true);
    run.pass(Duration::from_secs(3)).expect("nothing happens");
    let before = run.regions();
    let first = before[0].clone();
    let wish = |key: &'static str| OperateRequest {
        region: first.id,
        wish: RegionWish::Split.into(),
        key: Bytes::from_static(key.as_bytes()),
        ..OperateRequest::default()
    };
    let ask = |key| {
        let pd = run.members[0].pd();
        call::<OperateResponse>(&run.world, pd, "/ringkeep.Scheduler/Operate", wish(key))
    };
    let outside = ask("zz").expect_err("the key is another region's");
    assert!(outside.message.contains("name one that lies inside"), "{outside}");
    assert_eq!(ask("!").expect("the key lies inside").steps, ["split at !"]);
    run.pass(Duration::from_secs(3)).expect("nothing happens");
    let after = run.regions();
    let [left, right] = &after[..2] else { panic!("{after:?}") };
    assert_eq!((after.len(), left.id), (before.len() + 1, first.id));
    assert_eq!((&left.end_key[..], &right.start_key[..]), (&b"!"[..], &b"!"[..]));
    let version = |region: &Region| region.region_epoch.map(|epoch| epoch.version);
    let raised = version(&first).map(|version| version + 1);
    assert_eq!((version(left), version(right)), (raised, raised));
    let on = |region: &Region| region.peers.iter().map(|peer| peer.store_id).collect::<Vec<_>>();
    assert_eq!(on(left), on(right));
    run.scans_once().expect("all keys are there");
}

/// A split in the middle of a region that has nothing in it would be repeated for ten minutes, and keep everything else away.
#[test]
fn a_region_with_too_little_data_is_not_split_and_that_is_said() {
    let mut run = Run::new(World::new(93, Options::default()));
    run.begin().expect("the nodes begin");
    run.shared.done.set(true);
    run.pass(Duration::from_secs(3)).expect("nothing happens");
    let before = run.regions();
    let last = before.last().expect("a region").id;
    let pd = run.members[0].pd();
    let split = OperateRequest { region: last, wish: RegionWish::Split.into(), ..OperateRequest::default() };
    let operate = |wish| call::<OperateResponse>(&run.world, pd, "/ringkeep.Scheduler/Operate", wish);
    let begun = operate(split.clone()).expect("it is taken");
    run.pass(Duration::from_secs(3)).expect("nothing happens");
    let of = OperatorsRequest { region: last };
    let seen = call::<OperatorsResponse>(&run.world, pd, "/ringkeep.Scheduler/Operators", of)
        .expect("it is answered")
        .operators;
    assert!(seen.iter().all(|operator| !operator.outcome.is_empty()), "none runs: {seen:?}");
    let ended = seen.iter().find(|operator| operator.operator == begun.operator).expect("it is remembered");
    assert!(!ended.succeeded && ended.outcome.contains("too little data"), "{ended:?}");
    assert_eq!(run.regions().len(), before.len());
    // The region is free, and what is asked of it next can be cancelled.
    let begun = operate(split.clone()).expect("nothing is in the way");
    assert!(operate(split).expect_err("one is").message.contains("cancel it first"));
    let cancel = || {
        let wish = CancelOperatorRequest { region: last };
        call::<CancelOperatorResponse>(&run.world, pd, "/ringkeep.Scheduler/CancelOperator", wish)
    };
    assert_eq!(cancel().expect("it runs").operator, begun.operator);
    assert!(cancel().expect_err("none runs").message.contains("no operator"));
}
