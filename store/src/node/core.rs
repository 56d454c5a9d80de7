//! What one data core does from start to end: open its stores, join the others, serve, drain.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use engine::error::Result;
use engine::rt::Rt;

use super::identity::{Holding, Identity};
use crate::gateway::{Dispatch, Gateway};
use crate::memory::Memory;
use crate::shard::Shard;
use crate::shard::links::{Ends, Links};
use crate::shard::open::ShardOptions;
use crate::shard::routes::{Place, Routes};

/// What every core needs to know about the node.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where everything lives.
    pub dir: PathBuf,
    /// Who the directory belongs to.
    pub identity: Identity,
    /// Ids below this one have been given out by the scheduler's state, if that is known.
    pub ids: u64,
    /// What belongs in each store, by its number; nothing is known of a store without.
    pub holdings: Vec<Holding>,
    /// How many executors share the stores.
    pub cores: usize,
    /// How every store is opened; the store id is filled in.
    pub shard: ShardOptions,
}

impl Plan {
    /// The core that hosts store number `store`.
    pub fn core_of(&self, store: usize) -> usize {
        store % self.cores
    }

    /// The stores, by number, that `core` hosts.
    pub fn stores_of(&self, core: usize) -> impl Iterator<Item = usize> + use<> {
        (core..self.identity.stores).step_by(self.cores)
    }
}

/// The stores of one core, open and taking turns.
pub struct Stores {
    /// By number on the node.
    pub shards: HashMap<usize, Shard>,
    /// The core's links to the others.
    pub links: Rc<Links>,
    /// The core's bounds on what clients make it hold.
    pub memory: Memory,
}

/// Opens the stores of this core and lets them take turns.
pub async fn open(rt: &Rt, plan: &Arc<Plan>, ends: &Ends) -> Result<Stores> {
    let mut shards = HashMap::new();
    let memory = plan.shard.memory.fresh();
    for index in plan.stores_of(rt.core()) {
        let store = Identity::store_id(index);
        let dir = Identity::store_dir(&plan.dir, store);
        let mut options = ShardOptions { store, memory: memory.clone(), ..plan.shard.clone() };
        if let Some(holding) = plan.holdings.get(index) {
            options.log.origin = holding.log_origin();
            options.tree.origin = holding.tree_origin();
        }
        let mut birth = super::birth::regions(&plan.identity);
        birth.retain(|region| region.peer_on(store).is_some());
        let shard = Shard::open(rt, &dir, options, birth).await?;
        start_tasks(rt, &shard, dir);
        shards.insert(index, shard);
    }
    Ok(Stores { shards, links: Links::start(rt, rt.core(), ends.to.clone()), memory })
}

fn start_tasks(rt: &Rt, shard: &Shard, dir: PathBuf) {
    let turns = shard.clone();
    rt.spawn(async move { turns.run().await });
    let ticks = shard.clone();
    rt.spawn(async move { ticks.tick_loop().await });
    let upkeep = shard.clone();
    rt.spawn(async move { upkeep.upkeep_loop(&dir).await });
}

impl Stores {
    /// Where the regions of this core's stores are.
    pub fn places(&self) -> Vec<Place> {
        let place = |store: usize, region: scheduler::Region| Place {
            start: region.range.start().as_bytes().to_vec().into(),
            end: region.range.end().as_bytes().to_vec().into(),
            region_id: region.id.0,
            store,
        };
        self.shards
            .iter()
            .flat_map(|(store, shard)| shard.regions().into_iter().map(|(region, ..)| place(*store, region)))
            .collect()
    }

    /// How often the log of each store has been opened, by number on the node.
    pub fn opened(&self) -> Vec<(usize, u64)> {
        self.shards.iter().map(|(store, shard)| (*store, shard.opened())).collect()
    }

    /// Joins this core's stores to the others and gives a gateway per store number of the node.
    pub fn join(&self, rt: &Rt, plan: &Plan, places: Vec<Place>, ends: Ends) -> Rc<Dispatch> {
        let core_of = (0..plan.identity.stores).map(|store| plan.core_of(store)).collect();
        let routes = Routes::new(places);
        let (links, memory) = (self.links.clone(), self.memory.clone());
        Dispatch::start(rt, self.shards.clone(), core_of, routes, links, ends.inbox, memory)
    }

    /// The gateway for the port of store number `home`.
    pub fn gateway(dispatch: &Rc<Dispatch>, home: usize) -> Gateway {
        Gateway::new(dispatch.clone(), home)
    }

    /// Lets what is under way finish and closes the files. A store that had stopped already has nothing left to lose.
    pub async fn stop(&self) {
        for shard in self.shards.values() {
            let _ = shard.close().await;
        }
    }

    /// Waits until every region leads and has applied what it had acknowledged before.
    pub async fn settle(&self, rt: &Rt) -> std::result::Result<(), String> {
        for shard in self.shards.values() {
            while !shard.is_ready() {
                if let Some(reason) = shard.stopped() {
                    return Err(reason);
                }
                rt.sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }
}
