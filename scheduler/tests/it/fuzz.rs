//! Structured fuzzing: honest inputs with one field bent, and inputs made of nonsense. Nothing may panic, a refusal has
//! a reason and changes nothing, and the map's invariants hold after everything.

use scheduler::config::ReplicaPath;
use scheduler::operator::{Cause, Intent};
use scheduler::{
    Change, Config, DownPeer, Epoch, Key, KeyRange, Lifecycle, Load, NodeId, Peer, PeerId, Policy, Proposal,
    Region, RegionId, RegionReport, Rng, Role, Scheduler, StoreDescriptor, StoreId, StoreReport, Time,
};

struct Fuzz {
    rng: Rng,
}

impl Fuzz {
    fn number(&mut self, bound: u64) -> u64 {
        // Boundaries are where mistakes live.
        match self.rng.next() % 24 {
            0 => u64::MAX,
            1 => u64::MAX - 1,
            2 => i64::MAX as u64 + 1,
            3 => 0,
            _ => self.rng.next() % bound,
        }
    }

    fn small(&mut self, bound: u64) -> u64 {
        self.rng.next() % bound
    }

    fn key(&mut self) -> Key {
        let len = self.small(3);
        Key::from((0..len).map(|_| (self.small(6) * 50) as u8).collect::<Vec<u8>>())
    }

    fn range(&mut self) -> KeyRange {
        loop {
            if let Ok(range) = KeyRange::new(self.key(), self.key()) {
                return range;
            }
        }
    }

    fn peer(&mut self) -> Peer {
        let role =
            [Role::Voter, Role::Voter, Role::Learner, Role::Incoming, Role::Outgoing][self.small(5) as usize];
        Peer { id: PeerId(self.number(30)), store: StoreId(self.number(6)), role }
    }

    fn report(&mut self) -> RegionReport {
        let count = if self.rng.one_in(50) { 100 } else { self.small(5) };
        let peers: Vec<Peer> = (0..count).map(|_| self.peer()).collect();
        let epoch = Epoch::new(self.number(4), self.number(4));
        let region = Region { id: RegionId(self.number(12)), range: self.range(), epoch, peers };
        let member = |fuzz: &mut Self, region: &Region| {
            let listed = fuzz.rng.below(region.peers.len()).map(|n| region.peers[n].id);
            if fuzz.rng.one_in(10) { Some(PeerId(fuzz.number(30))) } else { listed }
        };
        let mut report = RegionReport::new(region, None);
        report.leader = member(self, &report.region);
        report.term = if self.rng.one_in(2) { Some(self.number(5)) } else { None };
        report.pending.extend(if self.rng.one_in(4) { member(self, &report.region) } else { None });
        if self.rng.one_in(4) {
            let down_ms = self.number(10_000_000);
            report.down.extend(member(self, &report.region).map(|peer| DownPeer { peer, down_ms }));
        }
        report.size_bytes = self.number(1 << 30);
        report.keys = self.number(1 << 20);
        let ops = self.number(10_000) as u32;
        report.load = Load {
            read_bytes: self.number(1 << 24),
            write_bytes: self.number(1 << 24),
            read_ops: ops,
            write_ops: ops,
        };
        report
    }

    fn store_report(&mut self) -> StoreReport {
        StoreReport {
            store: StoreId(self.number(6)),
            capacity_bytes: self.number(1 << 40),
            used_bytes: self.number(1 << 40),
            available_bytes: self.number(1 << 40),
            load: Load::default(),
            region_count: self.number(100),
            start_time_seconds: self.number(10),
            busy: self.rng.one_in(10),
        }
    }

    /// A proposal of nonsense; most of the time for a region that is known, under its epoch.
    fn proposal(&mut self, scheduler: &Scheduler) -> Proposal {
        let (from, to) = (StoreId(self.number(6)), StoreId(self.number(6)));
        let known = self.rng.below(scheduler.cluster().len()).filter(|_| !self.rng.one_in(4));
        let known = known.and_then(|n| scheduler.cluster().regions().nth(n));
        let intent = match self.small(9) {
            0 => Intent::AddReplica { to },
            1 => Intent::RemoveReplica { from },
            2 => Intent::MoveReplica { from, to },
            3 => Intent::MoveLeader { from, to },
            4 => Intent::Relocate { from, to },
            5 => Intent::TransferLeader { to },
            6 => Intent::Promote { on: to },
            7 => Intent::LeaveJoint,
            _ => Intent::Split { keys: (0..self.small(3)).map(|_| self.key()).collect() },
        };
        let epoch = known.map_or(Epoch::new(self.number(4), self.number(4)), |info| info.region.epoch);
        let region = known.map_or(RegionId(self.number(12)), |info| info.id());
        Proposal { region, epoch, policy: Policy::Admin, cause: Cause::Asked, intent }
    }

    fn store(&mut self) -> StoreDescriptor {
        let id = StoreId(self.number(6));
        let node = NodeId(if self.rng.one_in(8) { self.number(4) } else { id.0 % 4 });
        let address = format!("store{}", if self.rng.one_in(8) { self.small(6) } else { id.0 });
        let lifecycle =
            [Lifecycle::Up, Lifecycle::Up, Lifecycle::Offline, Lifecycle::Tombstone][self.small(4) as usize];
        StoreDescriptor { lifecycle, ..StoreDescriptor::new(id, node, address) }
    }
}

/// Everything that the map shows from outside.
fn picture(scheduler: &Scheduler) -> String {
    let regions: Vec<String> = scheduler.cluster().regions().map(|info| format!("{info:?}")).collect();
    let stores: Vec<String> = scheduler.cluster().stores().map(|store| format!("{store:?}")).collect();
    format!("{} {} {}", regions.join("\n"), stores.join("\n"), scheduler.operators().len())
}

#[test]
fn nothing_that_is_reported_makes_it_panic_and_a_refusal_changes_nothing() {
    let (mut accepted, mut refused, mut admitted, mut asked) = (0, 0, 0, 0);
    for seed in 0..120 {
        let mut fuzz = Fuzz { rng: Rng::new(seed) };
        let path = [ReplicaPath::Direct, ReplicaPath::Learner, ReplicaPath::Joint][(seed % 3) as usize];
        let config = Config { replica_path: path, prepare_percent: 0, ..Config::default() };
        let mut scheduler = Scheduler::new(config, seed, Time(0)).expect("valid");
        scheduler.grant_ids(1_000..100_000);
        for _ in 0..250 {
            let before = picture(&scheduler);
            let now = Time(fuzz.number(10_000_000));
            let refusal = match fuzz.small(11) {
                0 => scheduler.put_store(fuzz.store(), now).err().map(|refusal| refusal.to_string()),
                1..=2 => {
                    scheduler.report_store(fuzz.store_report(), now).err().map(|refusal| refusal.to_string())
                }
                3 => {
                    let tick = scheduler.tick(now);
                    admitted += tick.admitted;
                    tick.refusals.iter().for_each(|refusal| assert!(!refusal.to_string().is_empty()));
                    None
                }
                4 => {
                    let keys: Vec<Key> = (0..3).map(|_| fuzz.key()).collect();
                    scheduler.presplit(&keys, now);
                    let group: Vec<RegionId> = (0..4).map(|_| RegionId(fuzz.number(12))).collect();
                    scheduler.scatter(&group, now);
                    drop(scheduler.ask_split(&fuzz.report().region));
                    drop(scheduler.why(group[0], now));
                    None
                }
                5 => {
                    let proposal = fuzz.proposal(&scheduler);
                    let answer = scheduler.admit(&proposal, now);
                    asked += usize::from(answer.is_ok());
                    answer.err().map(|refusal| refusal.to_string())
                }
                _ => scheduler.report_region(fuzz.report(), now).err().map(|refusal| refusal.to_string()),
            };
            match refusal {
                Some(reason) => {
                    refused += 1;
                    assert!(!reason.is_empty());
                    assert_eq!(picture(&scheduler), before, "seed {seed}: a refusal changed something");
                }
                None => accepted += 1,
            }
            scheduler.cluster().check().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
    // A fuzzer that is always refused, or never, tests one half only.
    assert!(accepted > 5_000 && refused > 5_000, "{accepted} {refused}");
    assert!(admitted > 50 && asked > 20, "{admitted} {asked}");
}

#[test]
fn changes_of_nonsense_are_refused_and_sound_ones_lead_to_sound_regions() {
    let mut applied = 0;
    for seed in 0..2_000 {
        let mut fuzz = Fuzz { rng: Rng::new(seed) };
        let region = fuzz.report().region;
        if region.check().is_err() {
            continue;
        }
        for _ in 0..20 {
            let (peer, store) = (PeerId(fuzz.number(30)), StoreId(fuzz.number(6)));
            let change = match fuzz.small(7) {
                0 => Change::AddVoter { peer, store },
                1 => Change::AddLearner { peer, store },
                2 => Change::Promote { peer },
                3 => Change::Demote { peer },
                4 => Change::Remove { peer },
                5 => Change::EnterJoint { promote: vec![peer], demote: vec![PeerId(fuzz.number(30)), peer] },
                _ => Change::LeaveJoint,
            };
            match change.apply(&region) {
                Ok(after) => {
                    applied += 1;
                    assert_eq!(after.check(), Ok(()), "{change:?} of {region}");
                    assert!(after.peers.iter().any(Peer::will_vote));
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    assert!(applied > 1_000, "{applied}");
}
