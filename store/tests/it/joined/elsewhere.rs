//! Clients at a node that has no replica of anything: a fourth node beside three that have all regions. It finds out from the scheduler
//! where keys are, and goes on with what it knows while the scheduler is away.
//!
//! Each seed draws the weather and what befalls: leaders that move, nodes that die, the scheduler's node among them, and the fourth node, which
//! then knows nothing any more. The histories of all keys are judged. `RINGKEEP_SEEDS=100 cargo test -p ringkeep-store --test it elsewhere`
//! runs more than the usual seeds, `RINGKEEP_SEED=n` runs one.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::plant::{self, Bug};
use store::wire::proto::ringkeep::{OperateRequest, OperateResponse, RegionWish};

use super::clients::KEYS;
use super::nodes::{Member, beside, call};
use super::replicated::Run;
use crate::whole_node::seeds;
use bench::sim::callers::anywhere;

/// Clients at the fourth node.
const CLIENTS: usize = 3;
const RESP_PORT: u16 = 6380;

/// Three nodes with all regions and one without any.
struct Four {
    run: Run,
    fourth: Member,
}

impl Four {
    fn begin(world: World) -> Result<Self, String> {
        let mut fourth = Member::new(&world, 3, 1);
        let mut run = Run::new(world);
        run.begin()?;
        let pd = run.members[0].pd();
        // In rough weather a connection may break before the answer, and an operator tries again.
        let joined = (0..5).any(|_| fourth.start(&run.world, &[pd]).is_ok());
        if joined { Ok(Self { run, fourth }) } else { Err("the fourth node does not join".to_owned()) }
    }

    fn resp(&self) -> SocketAddr {
        self.fourth.node.addr(RESP_PORT)
    }

    fn begin_clients(&self) {
        for number in 0..CLIENTS {
            let (addrs, shared) = (vec![self.resp()], self.run.shared.clone());
            let client = self.run.world.node(20 + number);
            drop(client.start(0, move |rt| anywhere::ask_on(rt, number as u64, (addrs, &KEYS), shared)));
        }
    }

    /// Another store is asked to lead a region. The scheduler may have something else to do with it.
    fn transfer(&self) {
        let regions = self.run.regions();
        let region = &regions[self.run.world.below(regions.len() as u64) as usize];
        let to = region.peers[self.run.world.below(region.peers.len() as u64) as usize].store_id;
        let wish = RegionWish::TransferLeader.into();
        let wish = OperateRequest { region: region.id, wish, store: to, ..OperateRequest::default() };
        let asked = call::<OperateResponse>(
            &self.run.world,
            self.run.members[0].pd(),
            "/ringkeep.Scheduler/Operate",
            wish,
        );
        drop(asked);
    }

    fn befall(&mut self) -> Result<(), String> {
        let away = Duration::from_millis(500 + self.run.world.below(8000));
        let power = self.run.world.below(2) == 0;
        match self.run.world.below(6) {
            0 | 1 => (0..4).for_each(|_| self.transfer()),
            2 => {
                self.fourth.end(power);
                self.fourth.start(&self.run.world, &[])?;
            }
            other => {
                let number = [0, 1, 2][(other % 3) as usize];
                self.run.members[number].end(power);
                self.run.pass(away)?;
                self.run.members[number].start(&self.run.world, &[])?;
            }
        }
        let after = Duration::from_millis(500 + self.run.world.below(5000));
        self.run.pass(after)
    }

    /// What the fourth node says to commands on one connection.
    fn ask(&self, commands: &[&str]) -> Vec<String> {
        let words = |command: &&str| command.split(' ').map(str::to_owned).collect();
        let (commands, addr) = (commands.iter().map(words).collect(), self.resp());
        beside(&self.run.world, move |rt| anywhere::commands(rt, addr, commands))
    }

    /// Every key can be written and read at the fourth node.
    fn reaches_everything(&self) -> Result<(), String> {
        let addr = self.resp();
        let ask = || beside(&self.run.world, move |rt| anywhere::ask_everywhere(rt, vec![addr], &KEYS));
        // A connection may break in any of them, so the best of a few counts.
        let answered = (0..3).map(|_| ask()).max().expect("three");
        match answered == 2 * KEYS.len() {
            true => Ok(()),
            false => Err(format!("only {answered} of {} calls were answered", 2 * KEYS.len())),
        }
    }

    /// The fourth node has no replica, so what it answers comes from elsewhere.
    fn has_no_replica(&self) -> Result<(), String> {
        let own = self.fourth.said().expect("it has started")?.identity.first_store;
        let regions = self.run.regions();
        match regions.iter().find(|region| region.peers.iter().any(|peer| peer.store_id == own)) {
            None => Ok(()),
            Some(region) => Err(format!("it has a replica of region {}", region.id)),
        }
    }
}

/// How many calls at the fourth node were answered, and how many refused.
fn live(seed: u64) -> Result<(u64, u64), String> {
    let mut four = Four::begin(World::new(seed, Options::rough(seed)))?;
    four.begin_clients();
    four.run.pass(Duration::from_secs(5))?;
    for _ in 0..3 + four.run.world.below(3) {
        four.befall()?;
    }
    four.run.pass(Duration::from_secs(15))?;
    four.run.shared.done.set(true);
    // Longer than a client waits for an answer.
    four.run.pass(Duration::from_secs(12))?;
    four.has_no_replica()?;
    let shared = four.run.shared.clone();
    shared.history.borrow().judge()?;
    four.reaches_everything()?;
    Ok((shared.answered_anywhere.get(), shared.refused_anywhere.get()))
}

#[test]
fn clients_at_a_node_without_replicas_reach_every_region() {
    let (mut answered, mut refused, seeds) = (0, 0, seeds(3));
    for seed in seeds.clone() {
        let (heard, not) = live(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        (answered, refused) = (answered + heard, refused + not);
    }
    assert!(refused * 50 < answered, "{refused} calls were refused and {answered} answered");
    assert!(answered > 300 * (seeds.end - seeds.start), "too little was asked: {answered}");
}

#[test]
fn commands_over_regions_elsewhere_are_right_or_refused_whole() {
    let mut four = Four::begin(World::new(81, Options::default())).expect("the nodes begin");
    four.run.shared.done.set(true);
    four.run.pass(Duration::from_secs(5)).expect("nothing happens");
    assert_eq!(four.ask(&["FLUSHALL", "DBSIZE"]), ["+OK", ":0"]);
    let set = "MSET 0a 1 4b 2 Dc 3 Td 4 ae 5 zf 6";
    assert_eq!(four.ask(&[set, "MGET zf ae none 0a", "DBSIZE"]), ["+OK", "6 5 nil 1", ":6"]);
    let ranges = ["RANGE 1 y LIMIT 10 NOVALUES", "RANGE 1 zz REVERSE LIMIT 4", "SCAN 0 COUNT 100"];
    assert_eq!(four.ask(&ranges), ["4b Dc Td ae", "zf 6 ae 5 Td 4 Dc 3", "0 0a 4b Dc Td ae zf"]);
    let one_region = ["WATCH 4b", "MULTI", "INCRBY 4b 40", "GET 4b", "EXEC"];
    assert_eq!(four.ask(&one_region), ["+OK", "+OK", "+QUEUED", "+QUEUED", ":42 42"]);
    let spans = four.ask(&["MULTI", "SET 4b 1", "SET zf 1", "EXEC", "MGET 4b zf"]);
    assert!(spans[3].starts_with("-CROSSSLOT") && spans[3].contains("nothing was done"), "{spans:?}");
    assert_eq!(spans[4], "42 6");
    assert_eq!(four.ask(&["DEL 0a Dc none"]), [":2"]);
    // A node that knows nothing, and no scheduler, because most of its members are gone: what is asked is refused whole, and says that it
    // was not done.
    four.run.members[..2].iter_mut().for_each(|member| member.end(true));
    four.fourth.end(true);
    four.fourth.start(&four.run.world, &[]).expect("a member starts without the scheduler");
    for asked in ["MSET 4b 7 Td 7", "GET 4b", "DBSIZE", "FLUSHALL", "DEL 4b"] {
        let said = four.ask(&[asked]);
        assert!(said[0].starts_with("-TRYAGAIN the scheduler has not said in time"), "{asked}: {said:?}");
    }
    four.run.members[..2].iter_mut().for_each(|member| member.begin(&[]));
    four.run.pass(Duration::from_secs(10)).expect("nothing happens");
    assert_eq!(four.ask(&["MGET 4b Td zf", "DBSIZE"]), ["42 4 6", ":4"]);
    four.has_no_replica().expect("everything came from elsewhere");
}

/// What is known of regions outlives the node of the scheduler, and is followed when leaders move with it.
#[test]
fn regions_are_reached_when_the_node_of_the_scheduler_is_lost() {
    let mut four = Four::begin(World::new(82, Options::default())).expect("the nodes begin");
    four.run.shared.done.set(true);
    four.run.pass(Duration::from_secs(3)).expect("nothing happens");
    four.reaches_everything().expect("all is well");
    // Its leaders move to the others. Its kernel lives on and ends its connections, so nothing is lost on them.
    four.run.members[0].end(false);
    four.run.pass(Duration::from_secs(10)).expect("nothing happens");
    four.reaches_everything().expect("the replicas say who leads");
    four.run.members[0].start(&four.run.world, &[]).expect("it comes back");
}

#[test]
fn a_core_that_believes_an_old_owner_is_caught() {
    plant::plant(Some(Bug::OldOwnerKept));
    let caught = (0..3).any(|seed| {
        let run = AssertUnwindSafe(|| live(seed).map(drop));
        catch_unwind(run).map_or(true, |verdict| verdict.is_err())
    });
    plant::plant(None);
    assert!(caught, "it went unnoticed");
}
