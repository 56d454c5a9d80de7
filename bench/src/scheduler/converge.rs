//! What happens after a node joins or dies, until nothing moves any more.
//!
//! Instructions are obeyed at once, but a new replica takes two rounds to catch up. Bytes are counted where a replica
//! is created on another node; relocations move none. The least possible is the even share of the newcomer, or what
//! the dead node held.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use scheduler::{Action, Change, DownPeer, Instruction, NodeId, PeerId, RegionId, StoreId};

use super::cluster::{Model, ROUND_MS};
use crate::Failed;
use crate::clock::on_core;

/// Rounds that a new replica takes to catch up.
const CATCH_UP_ROUNDS: u64 = 2;
/// Rounds without an operator that count as rest.
const QUIET_ROUNDS: u64 = 5;
const ROUNDS_MAX: u64 = 20_000;

/// What disturbs the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An empty node joins.
    Join,
    /// A node dies and does not come back.
    Death,
}

/// One round, to be plotted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) seconds: f64,
    /// Mean bytes of a store of the node that joined or died.
    pub(super) subject_bytes: f64,
    /// The least and the most among the other stores.
    pub(super) others_bytes: (f64, f64),
    pub(super) moved_bytes: f64,
}

/// The whole way back to rest.
#[derive(Clone, Debug)]
pub(super) struct Course {
    pub(super) event: Event,
    pub(super) points: Vec<Point>,
    pub(super) least_bytes: f64,
    pub(super) moved_bytes: f64,
    pub(super) moves: u64,
    pub(super) slowest_round: Duration,
}

impl Course {
    pub(super) fn ratio(&self) -> f64 {
        self.moved_bytes / self.least_bytes
    }

    /// The spread of the sizes of living stores at rest, in percent of the largest.
    pub(super) fn spread_percent(&self) -> f64 {
        let Some(last) = self.points.last() else { return 0.0 };
        let (mut least, mut most) = last.others_bytes;
        if self.event == Event::Join {
            (least, most) = (least.min(last.subject_bytes), most.max(last.subject_bytes));
        }
        (most - least) / most * 100.0
    }
}

impl Event {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Join => "node joins",
            Self::Death => "node dies",
        }
    }
}

/// Disturbs a cluster at rest and follows it back to rest.
pub(super) fn follow(model: &mut Model, event: Event, bar: &ProgressBar) -> Result<Course, Failed> {
    settle(model)?;
    let total: u64 = (0..model.stores()).map(|store| bytes(model, StoreId(store))).sum();
    let (subject, least_bytes) = match event {
        Event::Join => {
            let node = model.add_node();
            (node, total as f64 / model.stores() as f64 * model.stores_per_node as f64)
        }
        Event::Death => {
            let held: u64 = stores_of(model, NodeId(0)).map(|store| bytes(model, store)).sum();
            die(model, NodeId(0));
            (NodeId(0), held as f64)
        }
    };
    let mut walk =
        Walk { course: new_course(event, least_bytes), lagging: BTreeMap::new(), round: 0, last_change: 0 };
    bar.set_length(1_000);
    for _ in 0..ROUNDS_MAX {
        walk.step(model);
        walk.plot(model, subject);
        bar.set_position((walk.course.ratio() * 1e3) as u64);
        let waited = event == Event::Join || walk.round * ROUND_MS > model.scheduler.config().store_down_ms;
        if waited && walk.round > walk.last_change + QUIET_ROUNDS {
            return Ok(walk.course);
        }
    }
    Err(Failed::new(format!("the cluster did not come to rest after this: {}", event.name())))
}

/// Lets the cluster come to rest before it is disturbed; what moves now has no cause that is measured.
fn settle(model: &mut Model) -> Result<(), Failed> {
    let mut walk =
        Walk { course: new_course(Event::Join, 1.0), lagging: BTreeMap::new(), round: 0, last_change: 0 };
    for _ in 0..ROUNDS_MAX {
        walk.step(model);
        if walk.round > walk.last_change + QUIET_ROUNDS {
            return Ok(());
        }
    }
    Err(Failed::new("the cluster did not come to rest after it was loaded"))
}

fn new_course(event: Event, least_bytes: f64) -> Course {
    let slowest_round = Duration::ZERO;
    Course { event, points: Vec::new(), least_bytes, moved_bytes: 0.0, moves: 0, slowest_round }
}

fn bytes(model: &Model, store: StoreId) -> u64 {
    model.scheduler.cluster().counters(store).region_bytes
}

fn stores_of(model: &Model, node: NodeId) -> impl Iterator<Item = StoreId> + use<> {
    let first = node.0 * model.stores_per_node;
    (first..first + model.stores_per_node).map(StoreId)
}

/// The node falls silent; regions that it led elect, and every leader reports its peers there as down.
fn die(model: &mut Model, node: NodeId) {
    model.dead = Some(node);
    let regions: Vec<RegionId> = model.scheduler.cluster().regions().map(|info| info.id()).collect();
    for id in regions {
        let mut report = model.report_of(id);
        let Some(lost) = report.region.peers.iter().find(|peer| model.is_dead(peer.store)).copied() else {
            continue;
        };
        if report.leader == Some(lost.id) {
            let heir = report.region.peers.iter().find(|peer| peer.id != lost.id);
            (report.leader, report.term) = (heir.map(|peer| peer.id), report.term.map(|term| term + 1));
        }
        report.down = vec![DownPeer { peer: lost.id, down_ms: 0 }];
        model.scheduler.report_region(report, model.now).expect("an honest report");
    }
}

struct Walk {
    course: Course,
    /// Regions with a replica that lags, and the round in which it is caught up.
    lagging: BTreeMap<RegionId, (PeerId, u64)>,
    round: u64,
    last_change: u64,
}

impl Walk {
    fn step(&mut self, model: &mut Model) {
        self.round += 1;
        model.now = model.now.plus_ms(ROUND_MS);
        model.report_stores();
        let mut open = self.reports_of_the_working(model);
        let began = on_core();
        let tick = model.scheduler.tick(model.now);
        self.course.slowest_round = self.course.slowest_round.max(on_core() - began);
        open.extend(tick.instructions);
        while let Some(instruction) = open.pop() {
            open.extend(self.obey(model, &instruction));
        }
        if !model.scheduler.operators().is_empty() {
            self.last_change = self.round;
        }
    }

    /// Regions with an operator report in every round; the others have nothing new to say.
    fn reports_of_the_working(&mut self, model: &mut Model) -> Vec<Instruction> {
        let working: Vec<RegionId> =
            model.scheduler.operators().iter().map(|operator| operator.region).collect();
        working.into_iter().filter_map(|region| self.report(model, region)).collect()
    }

    fn report(&mut self, model: &mut Model, region: RegionId) -> Option<Instruction> {
        let mut report = model.report_of(region);
        if let Some((peer, until)) = self.lagging.get(&region).copied() {
            if until > self.round {
                report.pending.push(peer);
            } else {
                self.lagging.remove(&region);
            }
        }
        let lost = report.region.peers.iter().find(|peer| model.is_dead(peer.store));
        report.down.extend(lost.map(|lost| DownPeer { peer: lost.id, down_ms: self.round * ROUND_MS }));
        model.scheduler.report_region(report, model.now).expect("an honest report")
    }

    fn obey(&mut self, model: &mut Model, instruction: &Instruction) -> Option<Instruction> {
        let mut report = model.report_of(instruction.region);
        match &instruction.action {
            Action::TransferLeader(peer) => {
                (report.leader, report.term) = (Some(peer.id), report.term.map(|term| term + 1));
            }
            Action::Change(change) => {
                if let Change::AddLearner { peer, store } | Change::AddVoter { peer, store } = change {
                    self.lagging.insert(instruction.region, (*peer, self.round + CATCH_UP_ROUNDS));
                    report.pending.push(*peer);
                    debug_assert!(!model.is_dead(*store));
                    self.course.moved_bytes += report.size_bytes as f64;
                    self.course.moves += 1;
                }
                report.region = change.apply(&report.region).expect("an instruction fits its region");
            }
            Action::Split { .. } | Action::Merge(_) => return None,
        }
        let lost = report.region.peers.iter().find(|peer| model.is_dead(peer.store));
        report.down.extend(lost.map(|lost| DownPeer { peer: lost.id, down_ms: self.round * ROUND_MS }));
        model.scheduler.report_region(report, model.now).expect("an honest report")
    }

    fn plot(&mut self, model: &Model, subject: NodeId) {
        let of_subject: u64 = stores_of(model, subject).map(|store| bytes(model, store)).sum();
        let others = (0..model.stores()).map(StoreId).filter(|store| model.node_of(*store) != subject);
        let others = others.filter(|store| !model.is_dead(*store)).map(|store| bytes(model, store));
        let (least, most) =
            others.fold((u64::MAX, 0), |(least, most), bytes| (least.min(bytes), most.max(bytes)));
        self.course.points.push(Point {
            seconds: (self.round * ROUND_MS) as f64 / 1e3,
            subject_bytes: of_subject as f64 / model.stores_per_node as f64,
            others_bytes: (least as f64, most as f64),
            moved_bytes: self.course.moved_bytes,
        });
    }
}
