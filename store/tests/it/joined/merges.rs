//! Small regions that the scheduler merges while clients write, on three nodes, with nodes that die meanwhile, the scheduler's among them.
//!
//! The histories of all keys are judged; at the end the map covers the key space once, a scan at any node sees every key once, and there are
//! as many regions as stores. `RINGKEEP_SEEDS=100 cargo test -p ringkeep-store --test it joined::merges` runs more than the usual seeds,
//! `RINGKEEP_SEED=n` runs one.

use std::time::Duration;

use bench::sim::callers::anywhere;
use engine::rt::sim::{Options, World};
use store::wire::grpc::{Code, Status};
use store::wire::proto::metapb::Region;
use store::wire::proto::ringkeep::{
    OperateRequest, OperateResponse, OperatorsRequest, OperatorsResponse, RegionWish, SetConfigRequest,
    SetConfigResponse,
};

use super::nodes::{beside, call};
use super::replicated::Run;
use crate::page::{Page, of, page, sum};
use crate::whole_node::seeds;

const RESP_PORT: u16 = 6380;
const OURS: [&str; 2] = ["ringkeep_merges_", "ringkeep_scheduler_"];
/// Within this time the regions that are too many are merged once everything is there.
const MERGED_MAX: Duration = Duration::from_secs(400);

impl Run {
    fn set(&self, name: &str, value: &str) -> Result<(), String> {
        let set = SetConfigRequest { name: name.into(), value: value.into(), by: String::new() };
        let pd = self.members[0].pd();
        let said = call::<SetConfigResponse>(&self.world, pd, "/ringkeep.Scheduler/SetConfig", set);
        said.map(drop).map_err(|status| status.to_string())
    }

    fn pages(&self) -> Vec<Page> {
        let started = self.members.iter().filter_map(|member| member.said()?.ok());
        started.map(|started| page(&started.board.read(), &OURS)).collect()
    }

    fn count(&self, name: &str, label: &str) -> f64 {
        self.pages().iter().map(|page| sum(page, name, label)).sum()
    }

    /// Waits until there are no more regions than this.
    fn merged_to(&self, regions: usize) -> Result<(), String> {
        let until = self.world.now() + MERGED_MAX;
        while self.regions().len() > regions {
            if self.world.now() > until {
                return Err(format!("regions are not merged: {:?}", self.operators()));
            }
            self.pass(Duration::from_millis(500))?;
        }
        Ok(())
    }

    fn operators(&self) -> OperatorsResponse {
        let pd = self.members[0].pd();
        let all = OperatorsRequest { region: 0 };
        call(&self.world, pd, "/ringkeep.Scheduler/Operators", all).expect("it is answered")
    }

    fn ask_merge(&self, source: u64, target: u64, dry_run: bool) -> Result<OperateResponse, Status> {
        let wish = RegionWish::Merge.into();
        let ask = OperateRequest { region: source, wish, into: target, dry_run, ..OperateRequest::default() };
        call(&self.world, self.members[0].pd(), "/ringkeep.Scheduler/Operate", ask)
    }

    /// Regions are merged until there is one for each store. How many had stopped for it, on stores that still run.
    fn merge_under_load(&mut self) -> Result<f64, String> {
        self.begin()?;
        self.begin_resp_clients();
        let before = self.regions().len();
        self.set("split_merge_interval_ms", "3000")?;
        self.set("merge_schedule_limit", "1")?;
        self.set("region_merge_bytes", "1048576")?;
        for _ in 0..2 {
            self.pass(Duration::from_millis(self.world.below(6000)))?;
            let number = self.world.below(3) as usize;
            self.members[number].end(self.world.below(2) == 0);
            self.pass(Duration::from_millis(200 + self.world.below(6000)))?;
            self.members[number].start(&self.world, &[])?;
            self.pass(Duration::from_secs(15))?;
        }
        if before <= 3 {
            return Err(format!("there are {before} regions, too few to be merged"));
        }
        self.merged_to(3)?;
        self.pass(Duration::from_secs(15))?;
        self.shared.done.set(true);
        self.pass(Duration::from_secs(12))?;
        self.shared.history.borrow().judge()?;
        self.covers_once()?;
        self.scans_once()?;
        match self.regions().len() {
            3 => Ok(self.count("ringkeep_merges_total", "outcome=\"begun\"")),
            left => Err(format!("{left} regions are left for three stores")),
        }
    }
}

#[test]
fn small_neighbours_are_merged_under_load_and_nothing_is_lost() {
    let mut begun = 0.0;
    for seed in seeds(3) {
        let mut run = Run::new(World::new(seed, Options::rough(seed)));
        begun += run.merge_under_load().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    assert!(begun > 0.0);
}

/// A command over RESP whose region ends under it is sent again by the gateway, and its client sees nothing of that.
#[test]
fn resp_commands_wait_for_a_merge_and_are_done_once() {
    let mut run = Run::new(World::new(95, Options::default()));
    run.begin().expect("the nodes begin");
    run.shared.done.set(true);
    run.pass(Duration::from_secs(5)).expect("nothing happens");
    let retries = |run: &Run| -> f64 {
        let started = run.members.iter().filter_map(|member| member.said()?.ok());
        started.map(|started| of(&started.board.read(), "ringkeep_retries_total")).sum()
    };
    let (before, addr) = (run.regions(), run.members[1].node.addr(RESP_PORT));
    let at = before.iter().position(|region| covers(region, b"ae:count"));
    let at = at.expect("every key is one region's").max(1);
    let (source, target) = (before[at].id, before[at - 1].id);
    let (at_first, mut count) = (retries(&run), 0);
    run.ask_merge(source, target, false).expect("it is taken");
    let until = run.world.now() + MERGED_MAX;
    while run.regions().len() == before.len() {
        assert!(run.world.now() < until, "it is not merged: {:?}", run.operators());
        let incr = vec![vec!["INCR".to_owned(), "ae:count".to_owned()]; 20];
        let said = beside(&run.world, move |rt| anywhere::commands(rt, addr, incr));
        let expected: Vec<String> = (1..=20).map(|more| format!(":{}", count + more)).collect();
        assert_eq!(said, expected, "each is done once");
        count += 20;
    }
    assert!(retries(&run) > at_first, "none of {count} commands met the merge");
}

/// Whether a region has a key.
fn covers(region: &Region, key: &[u8]) -> bool {
    &region.start_key[..] <= key && (region.end_key.is_empty() || key < &region.end_key[..])
}

/// By a person: what is asked is said before, refused by name, done, and seen in the numbers of the stores and of the scheduler.
#[test]
fn regions_are_merged_on_request_and_every_number_of_merges_moves() {
    let mut run = Run::new(World::new(94, Options::default()));
    run.begin().expect("the nodes begin");
    run.pass(Duration::from_secs(3)).expect("nothing happens");
    let before = run.regions();
    let (target, source, far) = (before[0].id, before[1].id, before[3].id);
    let refused = |source, target| {
        let status = run.ask_merge(source, target, false).expect_err("it makes no sense");
        assert_eq!(status.code, Code::FailedPrecondition);
        status.message
    };
    assert!(refused(far, target).contains("are no neighbours"));
    assert!(refused(source, 999_999).contains("is not known; list the regions"));
    let would = run.ask_merge(source, target, true).expect("it would be done");
    assert_eq!((would.operator, would.steps), (0, vec![format!("merge into region {target}")]));
    assert_eq!(run.regions().len(), before.len(), "nothing was");
    let begun = run.ask_merge(source, target, false).expect("it is taken");
    // The neighbour is kept from others, by name.
    assert!(refused(target, source).contains(&format!("operator {}", begun.operator)));
    run.merged_to(before.len() - 1).expect("it is done");
    run.pass(Duration::from_secs(3)).expect("nothing happens");
    let after = run.regions();
    assert!(after.iter().all(|region| region.id != source), "{after:?}");
    assert_eq!(after[0].end_key, before[1].end_key, "the target has the keys of the source");
    let seen = run.operators().operators;
    let ended = seen.iter().find(|seen| seen.operator == begun.operator).expect("it is remembered");
    assert!(ended.succeeded, "{ended:?}");
    let merges = |outcome: &str| run.count("ringkeep_merges_total", &format!("outcome=\"{outcome}\""));
    assert_eq!((merges("begun"), merges("done"), merges("rolled_back")), (1.0, 1.0, 0.0));
    // While one of three nodes is away its neighbour may not stop; it is asked again and again, and refused.
    let refusals = || run.count("ringkeep_merges_refused_total", "");
    let (before_loss, gone) = (refusals(), 2);
    run.shared.done.set(true);
    run.pass(Duration::from_secs(3)).expect("nothing happens");
    let pair = (after[1].id, after[2].id);
    let begun = run.ask_merge(pair.0, pair.1, false).map(|begun| begun.operator);
    run.members[gone].end(true);
    run.pass(Duration::from_secs(30)).expect("no client asks");
    run.members[gone].start(&run.world, &[]).expect("it comes back");
    run.pass(Duration::from_secs(10)).expect("no client asks");
    assert!(begun.is_ok());
    let refusals = run.count("ringkeep_merges_refused_total", "");
    let in_vain = run.count("ringkeep_merges_total", "outcome=\"rolled_back\"");
    assert!(refusals > before_loss || in_vain > 0.0, "{:?}", run.operators());
    run.covers_once().expect("every key is one region's");
}
