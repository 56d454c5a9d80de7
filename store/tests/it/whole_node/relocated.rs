//! Regions that move between the two stores of a node, back and forth, under load, while the power is cut at any moment of a move.
//!
//! Judged are the histories of all keys, that every key is answered soon after every start, that a move which nothing disturbs comes to its
//! end and every region has one replica then, and that nothing of it was sent: no byte of a snapshot, and none to another store. `RINGKEEP_SEEDS=200 cargo test -p ringkeep-store --test it
//! relocated` runs more than the usual seeds, `RINGKEEP_SEED=n` runs one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use bench::sim::callers::{Shared, anywhere};
use engine::rt::sim::{Options, World};
use store::node::Started;
use store::plant::{self, Bug};
use store::wire::grpc::Code;
use store::wire::proto::metapb::{PeerRole, Region};
use store::wire::proto::pdpb::{ScanRegionsRequest, ScanRegionsResponse};
use store::wire::proto::ringkeep::{
    OperateRequest, OperateResponse, RegionWish, SetPolicyRequest, SetPolicyResponse,
};

use crate::joined::clients::{self, KEYS};
use crate::joined::nodes::{Member, call, stores};
use crate::page;
use crate::whole_node::seeds;

/// Clients over RESP, which know nothing of regions, and over gRPC, which do.
const CLIENTS: u64 = 2;
const RESP_PORT: u16 = 6380;
/// Election timeouts of up to two seconds, a second attempt where two candidates meet, and calls that the weather loses meanwhile.
const LED_AGAIN_MAX: Duration = Duration::from_secs(10);
/// Whoever has read nothing by then never does.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// A report per step, and what a scheduler that begins anew has to clear away.
const SETTLED_MAX: Duration = Duration::from_secs(60);

/// A node of two stores, its clients, and what it has moved.
struct Run {
    world: World,
    member: Member,
    shared: Rc<Shared>,
    started: Option<Started>,
    stores: Vec<u64>,
    asked: u64,
    relocated_bytes: f64,
}

impl Run {
    fn new(world: World) -> Self {
        let member = Member::new(&world, 0, 2);
        let (shared, stores) = (Rc::default(), Vec::new());
        Self { world, member, shared, started: None, stores, asked: 0, relocated_bytes: 0.0 }
    }

    fn pass(&self, time: Duration) -> Result<(), String> {
        self.world.run_for(time);
        match self.shared.failures.borrow().first() {
            Some(why) => Err(format!("a client was refused: {why}")),
            None => Ok(()),
        }
    }

    /// Starts the node. Every key is answered soon.
    fn start(&mut self) -> Result<(), String> {
        self.started = Some(self.member.start(&self.world, &[])?);
        let (pd, shared) = (self.member.pd(), self.shared.clone());
        let reading = self.world.node(14).start(0, move |rt| async move {
            let began = rt.now();
            rt.timeout(GIVEN_UP, clients::read_all(rt.clone(), pd, shared)).await;
            rt.now().since(began)
        });
        let took = self.world.block_on(reading).ok_or("the reader does not end")?;
        match took <= LED_AGAIN_MAX {
            true => self.pass(Duration::ZERO),
            false => Err(format!(
                "it took {took:?} after a start until every key was answered: {:?}",
                self.regions()
            )),
        }
    }

    fn begin_clients(&self) {
        for number in 0..CLIENTS {
            let (pd, shared) = (self.member.pd(), self.shared.clone());
            let client = self.world.node(10 + number as usize);
            drop(client.start(0, move |rt| clients::ask_on(rt, number, pd, shared)));
            let (addrs, shared) = (vec![self.member.node.addr(RESP_PORT)], self.shared.clone());
            let client = self.world.node(20 + number as usize);
            drop(client.start(0, move |rt| anywhere::ask_on(rt, number, (addrs, &KEYS), shared)));
        }
    }

    fn regions(&self) -> Vec<Region> {
        let scan = ScanRegionsRequest::default();
        let all = call::<ScanRegionsResponse>(&self.world, self.member.pd(), "/pdpb.PD/ScanRegions", scan);
        let all = all.map_or_else(|_| Vec::new(), |all| all.regions);
        all.into_iter().filter_map(|known| known.region).collect()
    }

    /// Asks for a region to move to the other store. Which region and which store, if the scheduler takes it.
    fn ask_relocation(&mut self) -> Result<Option<(u64, u64)>, String> {
        let regions = self.regions();
        if regions.is_empty() {
            return Ok(None);
        }
        let region = &regions[self.world.below(regions.len() as u64) as usize];
        let has = |store: &u64| region.peers.iter().any(|peer| peer.store_id == *store);
        let Some(store) = self.stores.iter().find(|store| !has(store)) else { return Ok(None) };
        let wish = RegionWish::Relocate.into();
        let wish = OperateRequest { region: region.id, wish, store: *store, ..OperateRequest::default() };
        let asked =
            call::<OperateResponse>(&self.world, self.member.pd(), "/ringkeep.Scheduler/Operate", wish);
        match asked {
            Ok(_) => {
                self.asked += 1;
                Ok(Some((region.id, *store)))
            }
            // Something else is being done to it, or it is not known yet.
            Err(status) if matches!(status.code, Code::FailedPrecondition | Code::Unavailable) => Ok(None),
            Err(status) => Err(status.to_string()),
        }
    }

    fn number(&self, name: &str) -> f64 {
        let started = self.started.as_ref().expect("the node is up");
        page::of(&started.board.read(), name)
    }

    /// What the life that ends has moved, and how.
    fn look(&mut self) -> Result<(), String> {
        self.relocated_bytes += self.number("ringkeep_relocated_bytes_total");
        for name in ["ringkeep_snapshot_sent_bytes_total", "ringkeep_peer_sent_bytes_total"] {
            if self.number(name) != 0.0 {
                return Err(format!("{name} is {}", self.number(name)));
            }
        }
        Ok(())
    }

    /// Every region has one replica, which votes, and no store has one too many.
    fn settled(&self) -> Result<(), String> {
        let until = self.world.now() + SETTLED_MAX;
        loop {
            self.pass(Duration::from_secs(1))?;
            let regions = self.regions();
            let alone =
                |region: &Region| matches!(&region.peers[..], [peer] if peer.role() == PeerRole::Voter);
            let held = self.number("ringkeep_store_regions");
            if !regions.is_empty() && regions.iter().all(alone) && held == regions.len() as f64 {
                return Ok(());
            }
            if self.world.now() > until {
                return Err(format!("the stores hold {held} replicas of {regions:?}"));
            }
        }
    }

    /// A move that nothing disturbs comes to its end. What evens out the stores would move the region back.
    fn moves(&mut self) -> Result<(), String> {
        let off = SetPolicyRequest { policy: "balance-core".to_owned(), enabled: false, by: String::new() };
        let set = "/ringkeep.Scheduler/SetPolicy";
        call::<SetPolicyResponse>(&self.world, self.member.pd(), set, off)
            .map_err(|status| status.to_string())?;
        // What it has begun ends.
        self.settled()?;
        let until = self.world.now() + SETTLED_MAX;
        let mut asked = None;
        loop {
            self.pass(Duration::from_secs(1))?;
            if asked.is_none() {
                asked = self.ask_relocation()?;
            }
            if let Some((id, store)) = asked {
                let regions = self.regions();
                let moved = regions.iter().find(|region| region.id == id).map(|region| &region.peers[..]);
                if matches!(moved, Some([peer]) if peer.store_id == store && peer.role() == PeerRole::Voter) {
                    return Ok(());
                }
            }
            if self.world.now() > until {
                return Err(format!("{asked:?} (region, store) did not move: {:?}", self.regions()));
            }
        }
    }

    fn live(&mut self) -> Result<(), String> {
        self.start()?;
        self.stores = stores(&self.world, self.member.pd()).into_iter().map(|(id, ..)| id).collect();
        assert_eq!(self.stores.len(), 2, "the node has two stores");
        self.begin_clients();
        self.pass(Duration::from_secs(2))?;
        for _ in 0..3 + self.world.below(3) {
            for _ in 0..2 + self.world.below(5) {
                self.ask_relocation()?;
                self.pass(Duration::from_millis(self.world.below(1500)))?;
            }
            match self.world.below(5) {
                // Those that were begun are over, and others begin.
                0 => self.pass(Duration::from_secs(12))?,
                cut => {
                    self.ask_relocation()?;
                    self.pass(Duration::from_millis(self.world.below(3000)))?;
                    self.look()?;
                    self.member.end(cut > 1);
                    self.start()?;
                }
            }
        }
        self.settled()?;
        self.moves()?;
        self.settled()?;
        self.shared.done.set(true);
        self.pass(Duration::from_secs(12))?;
        self.look()?;
        // Nothing that was acknowledged rests on memory.
        self.member.end(true);
        self.start()?;
        self.settled()?;
        self.shared.history.borrow().judge()
    }
}

#[test]
fn regions_move_between_stores_of_a_node_under_load_and_power_cuts() {
    let (mut asked, mut bytes, mut answered) = (0, 0.0, 0);
    let seeds = seeds(25);
    for seed in seeds.clone() {
        let mut run = Run::new(World::new(seed, Options::rough(seed)));
        run.live().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        asked += run.asked;
        bytes += run.relocated_bytes;
        answered += run.shared.history.borrow().answered;
    }
    let count = seeds.end - seeds.start;
    assert!(
        asked > 5 * count && bytes > 0.0 && answered > 200 * count,
        "{asked} moves, {bytes} bytes, {answered}"
    );
}

/// Within how many seeds each planted bug is caught.
const CAUGHT_WITHIN: u64 = 4;

#[test]
fn bugs_of_relocations_are_caught() {
    for bug in Bug::RELOCATION {
        plant::plant(Some(bug));
        let live = |seed| Run::new(World::new(seed, Options::rough(seed))).live();
        let fails = |seed| catch_unwind(AssertUnwindSafe(|| live(seed))).map_or(true, |lived| lived.is_err());
        let caught = (0..CAUGHT_WITHIN).any(fails);
        plant::plant(None);
        assert!(caught, "{bug:?} went unnoticed");
    }
}
