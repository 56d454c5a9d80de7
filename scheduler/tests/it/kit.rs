//! Fixtures in the words of the course's mock cluster, on the public API alone.
//!
//! The course's mock stores have sizes and counts that no region backs. Here they are what they would be in a running
//! scheduler: the map's counters plus the influence of what is in flight. The kit sets the influence to the difference,
//! so a policy sees exactly the sizes of the table.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::balance::Round;
use scheduler::config::{MIB, ReplicaPath};
use scheduler::operator::{Ids, Influence, Intent, Step};
use scheduler::placement::Board;
use scheduler::{
    Cluster, Config, Epoch, Key, KeyRange, Lifecycle, NodeId, Operator, Operators, Peer, PeerId, Refusal,
    Region, RegionId, RegionReport, Rng, StoreDescriptor, StoreId, StoreReport, Time, View,
};

/// The moment at which the tables are asked.
pub(crate) const NOW: Time = Time(10_000_000_000);

/// A mock cluster.
pub(crate) struct Mock {
    pub(crate) cluster: Cluster,
    pub(crate) config: Config,
    pub(crate) operators: Operators,
    pub(crate) evicting: BTreeSet<StoreId>,
    sizes_mib: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, u64>,
    next_id: u64,
}

impl Mock {
    /// A cluster whose regions are to have `max_replicas` replicas, which join as voters at once.
    pub(crate) fn new(max_replicas: u64) -> Self {
        let config = Config { max_replicas, replica_path: ReplicaPath::Direct, ..Config::default() };
        Self {
            cluster: Cluster::new(),
            config,
            operators: Operators::new(),
            evicting: BTreeSet::new(),
            sizes_mib: BTreeMap::new(),
            leaders: BTreeMap::new(),
            next_id: 1_000,
        }
    }

    /// A store of its own node, heard just now, that holds `size_mib`.
    pub(crate) fn region_store(&mut self, id: u64, size_mib: u64) {
        self.put(StoreDescriptor::new(StoreId(id), NodeId(id), format!("store{id}")));
        self.sizes_mib.insert(id, size_mib);
    }

    /// A store of its own node, heard just now, that leads this many regions.
    pub(crate) fn leader_store(&mut self, id: u64, leaders: u64) {
        self.put(StoreDescriptor::new(StoreId(id), NodeId(id), format!("store{id}")));
        self.leaders.insert(id, leaders);
    }

    /// Enters a store and has it report.
    pub(crate) fn put(&mut self, descriptor: StoreDescriptor) {
        let id = descriptor.id;
        self.cluster.put_store(descriptor, NOW).expect("a fresh address");
        let capacity = 1000 * MIB;
        let report =
            StoreReport { capacity_bytes: capacity, available_bytes: capacity, ..StoreReport::empty(id) };
        self.cluster.report_store(report, NOW).expect("a plausible report");
    }

    pub(crate) fn set_lifecycle(&mut self, id: u64, lifecycle: Lifecycle) {
        let mut descriptor = self.cluster.store(StoreId(id)).expect("joined").descriptor.clone();
        descriptor.lifecycle = lifecycle;
        self.cluster.put_store(descriptor, NOW).expect("known");
    }

    /// Makes a store one that was last heard so long ago.
    pub(crate) fn silent_for(&mut self, id: u64, ms: u64) {
        let descriptor = self.cluster.store(StoreId(id)).expect("joined").descriptor.clone();
        let mut stores: Vec<_> = self.cluster.stores().cloned().collect();
        let mut rebuilt = Cluster::new();
        stores.retain(|store| store.id() != descriptor.id);
        for store in stores {
            rebuilt.put_store(store.descriptor, store.last_heard).expect("known");
            rebuilt.report_store(store.report.expect("reported"), store.last_heard).expect("plausible");
        }
        let heard = Time(NOW.0 - ms);
        rebuilt.put_store(descriptor, heard).expect("known");
        rebuilt.report_store(StoreReport::empty(StoreId(id)), heard).expect("plausible");
        for info in self.cluster.regions() {
            let mut report = RegionReport::new(info.region.clone(), info.leader);
            report.size_bytes = info.size_bytes;
            report.pending = info.pending().to_vec();
            report.down = info.down().to_vec();
            rebuilt.report_region(report).expect("consistent");
        }
        self.cluster = rebuilt;
    }

    pub(crate) fn set_busy(&mut self, id: u64, busy: bool) {
        let report = StoreReport { busy, ..StoreReport::empty(StoreId(id)) };
        self.cluster.report_store(report, NOW).expect("plausible");
    }

    /// A region of 10 MiB with its own range, led by the first store. Peer ids are ten times the region's plus the
    /// store's place.
    pub(crate) fn region(&mut self, id: u64, stores: &[u64]) -> RegionReport {
        let peers = stores.iter().enumerate();
        let peers: Vec<Peer> =
            peers.map(|(n, store)| Peer::voter(PeerId(id * 100 + n as u64), StoreId(*store))).collect();
        let range = KeyRange::new(key(id), key(id + 1)).expect("rising");
        let region = Region { id: RegionId(id), range, epoch: self.epoch_after(id), peers };
        let leader = region.peers.first().map(|peer| peer.id);
        RegionReport { size_bytes: 10 * MIB, ..RegionReport::new(region, leader) }
    }

    fn epoch_after(&self, id: u64) -> Epoch {
        let known = self.cluster.region(RegionId(id)).map_or(Epoch::default(), |info| info.region.epoch);
        Epoch::new(known.conf_ver + 1, known.version)
    }

    /// Reports a region led by the first of these stores and followed by the others.
    pub(crate) fn leader_region(&mut self, id: u64, stores: &[u64]) {
        let report = self.region(id, stores);
        self.report(report);
    }

    pub(crate) fn report(&mut self, report: RegionReport) {
        self.cluster.report_region(report).expect("an honest report");
    }

    /// The influence that makes sizes and leader counts those of the table.
    pub(crate) fn influence(&self) -> Influence {
        let mut influence = Influence::new();
        let signed = |number: u64| i64::try_from(number).expect("small");
        for (id, size) in &self.sizes_mib {
            let counted = self.cluster.counters(StoreId(*id)).weight_bytes;
            influence.of_mut(StoreId(*id)).region_bytes = signed(size * MIB) - signed(counted);
        }
        for (id, leaders) in &self.leaders {
            let counted = self.cluster.counters(StoreId(*id)).leaders;
            influence.of_mut(StoreId(*id)).leaders = signed(*leaders) - signed(counted);
        }
        influence
    }

    pub(crate) fn view<'a>(&'a self, influence: &'a Influence) -> View<'a> {
        View {
            cluster: &self.cluster,
            config: &self.config,
            limits: self.config.limits(),
            operators: &self.operators,
            influence,
            evicting: &self.evicting,
            now: NOW,
        }
    }

    /// One proposal of balance-region as an operator, for any seed: the tables leave no choice.
    pub(crate) fn balance_region(&mut self) -> Option<Operator> {
        let mut found: Option<Option<Operator>> = None;
        for seed in 0..16 {
            let influence = self.influence();
            let view = self.view(&influence);
            let mut board = Board::new(&view);
            let round = scheduler::balance::region::propose(&view, &mut board, &mut Rng::new(seed), 1);
            let mut next_id = self.next_id;
            let operator = first(&round, &view, &mut || {
                next_id += 1;
                Some(next_id)
            });
            assert!(round.proposals.len() == 1 || round.refusal.is_some(), "a no carries its reason");
            match &found {
                Some(before) => assert_eq!(before, &operator, "seed {seed} chose otherwise"),
                None => found = Some(operator),
            }
        }
        found.flatten()
    }

    pub(crate) fn balance_leader(&mut self) -> Option<Operator> {
        let influence = self.influence();
        let view = self.view(&influence);
        let round = scheduler::balance::leader::propose(&view, &mut Rng::new(1), 1);
        assert!(round.proposals.len() == 1 || round.refusal.is_some(), "a no carries its reason");
        first(&round, &view, &mut || Some(0))
    }

    pub(crate) fn check_replicas(&self, region: u64) -> Result<Operator, Refusal> {
        let influence = self.influence();
        let view = self.view(&influence);
        let info = self.cluster.region(RegionId(region)).expect("known");
        let board = Board::new(&view);
        let proposal =
            scheduler::check::replica::check(&view, &board, info, scheduler::Policy::ReplicaCheck)?;
        Ok(proposal.build(&view, &mut || Some(self.next_id)).expect("built"))
    }
}

fn first(round: &Round, view: &View<'_>, ids: Ids<'_>) -> Option<Operator> {
    Some(round.proposals.first()?.build(view, ids).expect("the view has not changed"))
}

pub(crate) fn key(n: u64) -> Key {
    Key::from(format!("{n:020}").as_str())
}

/// Where a move goes, after checking that its steps are those of a move: add, hand over if the source leads, remove.
pub(crate) fn moved(operator: &Operator) -> (u64, u64) {
    let (Step::AddPeer { store: to, .. }, Step::RemovePeer { store: from, .. }) =
        (operator.steps.first().expect("steps"), operator.steps.last().expect("steps"))
    else {
        panic!("not a move: {:?}", operator.steps)
    };
    let between = &operator.steps[1..operator.steps.len() - 1];
    assert!(between.iter().all(|step| matches!(step, Step::TransferLeader { .. })) && between.len() <= 1);
    (from.0, to.0)
}

pub(crate) fn transferred(operator: &Operator) -> u64 {
    match operator.steps.as_slice() {
        [Step::TransferLeader { store, .. }] => store.0,
        steps => panic!("not a transfer: {steps:?}"),
    }
}

pub(crate) fn added(operator: &Operator) -> u64 {
    match operator.steps.as_slice() {
        [Step::AddPeer { store, .. }] => store.0,
        steps => panic!("not an addition: {steps:?}"),
    }
}

pub(crate) fn removed(operator: &Operator) -> u64 {
    match operator.steps.last() {
        Some(Step::RemovePeer { store, .. })
            if !operator.steps.iter().any(|step| matches!(step, Step::AddPeer { .. })) =>
        {
            store.0
        }
        _ => panic!("not a removal: {:?}", operator.steps),
    }
}

/// An intent's short form, for comparisons.
pub(crate) fn is_relocation(intent: &Intent) -> bool {
    matches!(intent, Intent::Relocate { .. })
}
