//! Sizes and loads over the stores of a node, and what keeps a region from going to and fro.

use scheduler::balance::core::{LOAD_REST_MS, propose};
use scheduler::config::MIB;
use scheduler::operator::placed::REST_MS;
use scheduler::operator::{Cause, Intent, Operator, Outcome, Proposal, Status, Step};
use scheduler::{
    Config, Epoch, Key, KeyRange, Load, NodeId, Peer, PeerId, Policy, Reason, Refusal, Region, RegionId,
    RegionReport, Rng, Scheduler, StoreDescriptor, StoreId, StoreReport, Time,
};

use crate::kit::Mock;

const ONE: StoreId = StoreId(10);
const OTHER: StoreId = StoreId(11);

/// Two stores of one node, and one of another.
fn mock() -> Mock {
    let mut mock = Mock::new(1);
    for (store, node) in [(10, 1), (11, 1), (20, 2)] {
        mock.put(StoreDescriptor::new(StoreId(store), NodeId(node), format!("store{store}")));
    }
    mock.cluster.set_weight_floor(MIB);
    mock
}

fn sized(mock: &mut Mock, id: u64, store: u64, mib: u64) {
    let report = RegionReport { size_bytes: mib * MIB, ..mock.region(id, &[store]) };
    mock.report(report);
}

/// What is proposed, for any seed: a region and where it goes, or why none does.
fn proposed(mock: &Mock) -> Result<(u64, StoreId, Cause), Reason> {
    let of = |seed| {
        let influence = mock.influence();
        let mut round = propose(&mock.view(&influence), &mut Rng::new(seed), 8);
        let Some(proposal) = round.proposals.pop() else {
            return Err(round.refusal.expect("a reason").reason);
        };
        assert!(round.proposals.is_empty() && proposal.policy == Policy::BalanceCore, "{round:?}");
        let Intent::Relocate { from: _, to } = proposal.intent else { panic!("{proposal:?}") };
        Ok((proposal.region.0, to, proposal.cause))
    };
    let first = of(0);
    (1..16).for_each(|seed| assert_eq!(of(seed), first, "seed {seed} chose otherwise"));
    first
}

#[test]
fn the_region_goes_that_leaves_the_least_difference_and_no_other_node_is_asked() {
    let mut mock = mock();
    for (id, mib) in [(1, 40), (2, 70), (3, 90)] {
        sized(&mut mock, id, 10, mib);
    }
    assert_eq!(
        proposed(&mock),
        Ok((3, OTHER, Cause::Uneven)),
        "200 MiB and none: 90 is closest to half of it"
    );
    sized(&mut mock, 3, 11, 90);
    // 110 and 90 differ by 20 percent of their mean.
    assert!(matches!(proposed(&mock), Err(Reason::WithinTolerance { .. })));
}

#[test]
fn a_region_that_would_only_carry_the_difference_to_the_other_side_stays() {
    let mut mock = mock();
    sized(&mut mock, 1, 10, 140);
    assert_eq!(proposed(&mock), Err(Reason::NothingToGive), "its data are all there is");
    // Cut in two, one half goes.
    sized(&mut mock, 1, 10, 70);
    sized(&mut mock, 2, 10, 70);
    assert!(matches!(proposed(&mock), Ok((_, OTHER, Cause::Uneven))));
}

#[test]
fn empty_regions_stay_where_a_large_one_makes_the_difference_and_go_where_they_are_all_there_is() {
    let mut mock = mock();
    sized(&mut mock, 1, 10, 140);
    for id in 2..=5 {
        sized(&mut mock, id, 10, 0);
        sized(&mut mock, id + 10, 11, 0);
    }
    assert_eq!(proposed(&mock), Err(Reason::NothingToGive));
    let mut many = self::mock();
    for id in 1..=100 {
        sized(&mut many, id, 10, 0);
    }
    let influence = many.influence();
    let round = propose(&many.view(&influence), &mut Rng::new(1), 8);
    assert_eq!(round.proposals.len(), 1, "{round:?}");
}

#[test]
fn a_region_that_a_store_follows_stays_because_its_tables_would_come_from_another_node() {
    let mut mock = Mock::new(2);
    for (store, node) in [(10, 1), (11, 1), (20, 2)] {
        mock.put(StoreDescriptor::new(StoreId(store), NodeId(node), format!("store{store}")));
    }
    for id in 1..=4 {
        mock.leader_region(id, &[20, 10]);
    }
    assert_eq!(proposed(&mock), Err(Reason::NothingToGive));
    mock.leader_region(3, &[10, 20]);
    assert_eq!(proposed(&mock), Ok((3, OTHER, Cause::Uneven)));
}

/// One node with two stores under a scheduler; regions are where it has them moved to.
struct Life {
    scheduler: Scheduler,
    now: Time,
    /// Each region's store, size in MiB and operations per second.
    regions: Vec<(StoreId, u64, u32)>,
    peers: Vec<u64>,
    conf_ver: u64,
}

impl Life {
    fn new(regions: &[(StoreId, u64, u32)]) -> Self {
        let disabled = vec![Policy::BalanceRegion, Policy::HotRegion, Policy::SplitCheck];
        let config = Config { max_replicas: 1, disabled, ..Config::default() };
        let now = Time(1_000_000);
        let mut scheduler = Scheduler::new(config, 1, now).expect("valid");
        scheduler.grant_ids(1_000..1_000_000);
        for store in [ONE, OTHER] {
            let descriptor = StoreDescriptor::new(store, NodeId(1), format!("store{}", store.0));
            scheduler.put_store(descriptor, now).expect("joins");
        }
        let peers = (0..regions.len() as u64).map(|n| 100 + n).collect();
        Self { scheduler, now, regions: regions.to_vec(), peers, conf_ver: 1 }
    }

    /// A second: everything is reported, and a round is run. The regions that operators of this round are to move, which are there with the
    /// next second.
    fn second(&mut self) -> Vec<(usize, StoreId)> {
        self.now = self.now.plus_ms(1_000);
        for store in [ONE, OTHER] {
            self.scheduler.report_store(StoreReport::empty(store), self.now).expect("plausible");
        }
        for (n, (store, mib, ops)) in self.regions.iter().enumerate() {
            let bound = |n: usize| {
                if n == 0 || n == self.regions.len() { Key::empty() } else { crate::kit::key(n as u64) }
            };
            let region = Region {
                id: RegionId(n as u64 + 1),
                range: KeyRange::new(bound(n), bound(n + 1)).expect("rising"),
                epoch: Epoch::new(self.conf_ver, 1),
                peers: vec![Peer::voter(PeerId(self.peers[n]), *store)],
            };
            let leader = region.peers[0].id;
            let load = Load { write_ops: *ops, ..Load::default() };
            let report =
                RegionReport { size_bytes: mib * MIB, load, ..RegionReport::new(region, Some(leader)) };
            self.scheduler.report_region(report, self.now).expect("honest");
        }
        drop(self.scheduler.tick(self.now));
        let moved: Vec<(usize, StoreId)> = (0..self.regions.len())
            .filter_map(|n| {
                let operator = self.scheduler.operators().get(RegionId(n as u64 + 1))?;
                let to = if self.regions[n].0 == ONE { OTHER } else { ONE };
                (operator.policy == Policy::BalanceCore).then_some((n, to))
            })
            .collect();
        for (n, to) in &moved {
            // Five changes of membership at most; the old peer is gone, so the operator finds nothing left to do.
            assert!(self.scheduler.cancel(RegionId(*n as u64 + 1), self.now), "it runs");
            self.regions[*n].0 = *to;
            self.peers[*n] += 100;
        }
        self.conf_ver += 5;
        moved
    }

    fn on(&self, store: StoreId, of: fn(&(StoreId, u64, u32)) -> u64) -> u64 {
        self.regions.iter().filter(|region| region.0 == store).map(of).sum()
    }
}

#[test]
fn alike_keys_come_to_rest_with_even_sizes_and_stay() {
    let mut life = Life::new(&[(ONE, 75, 0); 16]);
    let moved: usize = (0..60).map(|_| life.second().len()).sum();
    assert_eq!((moved, life.on(ONE, |region| region.1)), (8, 600), "half of them, and none twice");
    // Estimates change a little with every compaction, and a load grows everywhere.
    for n in 0..60 {
        for (at, region) in life.regions.iter_mut().enumerate() {
            region.1 = 75 + n / 2 + (at as u64 * 7 + n) % 9;
        }
        assert_eq!(life.second(), [], "second {n}");
    }
}

#[test]
fn a_load_that_moves_is_not_followed_before_it_was_measured_where_it_is_now() {
    // Sizes are even, and all of the load is on one store. As no policy moves bytes between nodes, sizes are in no one's way.
    let mut regions = vec![(ONE, 0, 4_000); 6];
    regions.extend([(OTHER, 0, 0); 6]);
    let mut life = Life::new(&regions);
    let mut last: Option<u64> = None;
    let (mut moves, mut for_size) = (0, 0);
    for second in 0..200 {
        let moved = life.second();
        if moved.iter().any(|(n, _)| life.regions[*n].2 == 0) {
            for_size += 1;
        } else if !moved.is_empty() {
            assert!(
                last.is_none_or(|last| (second - last) * 1_000 >= LOAD_REST_MS),
                "second {second}, after {last:?}"
            );
            (last, moves) = (Some(second), moves + 1);
        }
    }
    let loads = [ONE, OTHER].map(|store| life.on(store, |region| u64::from(region.2)));
    // One more would only carry the difference to the other side.
    assert_eq!(loads, [16_000, 8_000], "{:?}", life.regions);
    assert_eq!((moves, for_size), (2, 1), "a quiet one comes back for two busy ones: {:?}", life.regions);
}

impl Life {
    /// A person moves a region to a store, which is done with the next second.
    fn place(&mut self, n: usize, to: StoreId) {
        let region = RegionId(n as u64 + 1);
        let info = self.scheduler.cluster().region(region).expect("known");
        let intent = Intent::Relocate { from: self.regions[n].0, to };
        let proposal = Proposal::new(info, Policy::Admin, Cause::Asked, intent);
        drop(self.scheduler.admit(&proposal, self.now).expect("a person may"));
        let operator = self.scheduler.operators().get(region).expect("it runs");
        let newcomer = operator.steps.iter().find_map(|step| match step {
            Step::AddSibling { peer, .. } => Some(peer.0),
            Step::TransferLeader { .. }
            | Step::AddPeer { .. }
            | Step::AddLearner { .. }
            | Step::Promote { .. }
            | Step::Demote { .. }
            | Step::RemovePeer { .. }
            | Step::EnterJoint { .. }
            | Step::LeaveJoint
            | Step::Split { .. }
            | Step::Merge { .. } => None,
        });
        (self.regions[n].0, self.peers[n]) = (to, newcomer.expect("it comes first"));
        assert_eq!(self.second(), [], "it was moved by a person");
        let status = self.scheduler.operators().status(region);
        let done = matches!(&status, Some(Status::Ended(ended)) if ended.outcome == Outcome::Success);
        assert!(done, "{status:?}");
    }
}

#[test]
fn what_a_person_has_placed_stays_for_a_while_and_may_be_placed_again() {
    // Sizes are even, and are so again only if the region goes back: the largest is too large to go.
    let mut life = Life::new(&[(ONE, 100, 0), (ONE, 100, 0), (OTHER, 200, 0)]);
    (0..30).for_each(|_| assert_eq!(life.second(), []));
    life.place(0, OTHER);
    let rest_s = REST_MS / 1_000;
    for second in 1..rest_s {
        assert_eq!(life.second(), [], "second {second} of {rest_s}");
    }
    let why = life.scheduler.why(RegionId(1), life.now);
    let placed = |refusal: &Refusal| matches!(refusal.reason, Reason::Placed(_));
    assert!(why.iter().any(|opinion| opinion.as_ref().is_err_and(placed)), "{why:?}");
    let verdict = |life: &Life, region| {
        life.scheduler.verdict_of_region(RegionId(region), life.now).expect("known").0.to_string()
    };
    let (said, other) = (verdict(&life, 1), verdict(&life, 2));
    assert!(said.contains("placed by a person") && !other.contains("placed"), "{said}; {other}");
    // By then it is as any other; rounds in which nothing is to be done come at a slower pace.
    let moved: Vec<_> = (0..120).flat_map(|_| life.second()).collect();
    assert_eq!(moved, [(0, ONE)]);
    life.place(0, OTHER);
    life.place(0, ONE);
    life.place(0, OTHER);
    (1..rest_s).for_each(|second| assert_eq!(life.second(), [], "second {second} after the third"));
}

#[test]
fn what_a_person_has_only_split_is_balanced_as_ever() {
    let mut life = Life::new(&[(ONE, 100, 0), (ONE, 100, 0), (OTHER, 200, 0)]);
    life.second();
    let info = life.scheduler.cluster().region(RegionId(1)).expect("known");
    let split = Operator::new(
        info,
        Policy::Admin,
        Cause::Asked,
        vec![Step::Split { keys: Vec::new(), new: Vec::new() }],
        life.now,
    );
    let place = Operator::new(
        info,
        Policy::Admin,
        Cause::Asked,
        vec![Step::TransferLeader { peer: PeerId(1), store: ONE }],
        life.now,
    );
    assert!(!split.places() && place.places());
}

#[test]
fn what_has_just_moved_for_its_load_is_not_what_goes_back_for_sizes() {
    // The first is what evens out loads. With it the other store is the larger one, and its load ends that moment.
    let mut life = Life::new(&[(ONE, 100, 3_000), (ONE, 1, 5_000), (OTHER, 100, 0)]);
    let moved: Vec<_> = (0..60).map(|_| life.second()).find(|moved| !moved.is_empty()).expect("it moves");
    assert_eq!(moved, [(0, OTHER)]);
    life.regions.iter_mut().for_each(|region| region.2 = 0);
    let moved = (0..LOAD_REST_MS / 1_000).map(|_| life.second()).find(|moved| !moved.is_empty());
    assert_eq!(moved, Some(vec![(2, ONE)]), "one that lies there for long is as large");
}
