//! A whole node in the simulator: two data cores and the root core, started, served, cut off and drained as in production, with
//! clients over RESP and gRPC on nodes of their own.
//!
//! Each seed draws the weather of the network, how many lives the node has and how each ends: a power cut that loses what was not
//! synced, a killed process, or a drain. Judged are the histories of all keys ([`bench::sim::judge`]), that every request gets one answer or
//! its connection closes, that no id or timestamp is given out twice or out of order, that no life refuses anything, and that a node always starts again. `RINGKEEP_SEEDS=2000 cargo test -p
//! ringkeep-store --test it whole_node` runs more than the usual 200 seeds, `RINGKEEP_SEED=n` runs one.

mod bounds;
mod clients;
mod first_start;
mod follows;
mod hot;
mod migrated;
mod names;
mod published;
mod relocated;
mod scheduler;
mod spread;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use engine::log::plant as log_plant;
use engine::rt::chan::{Sender, queue};
use engine::rt::sim::{Node, Options, Running, World};
use store::config::{Config, Limits, Machine, SyncMethod};
use store::node::{Addresses, NodeRequest, Setup, Started, run};
use store::plant::{self, Bug};

use bench::sim::judge::{Action, Asked, Heard, History};
use scheduler::Granted;

/// A start takes milliseconds, and reads the log of the life before it.
const START_MAX: Duration = Duration::from_secs(60);

/// Time for all connections to finish in any weather, so that a drain has no reason to refuse anything.
const DRAIN: Duration = Duration::from_secs(100);

/// What the test and its clients share.
pub(crate) struct Shared {
    ip: IpAddr,
    history: RefCell<History>,
    granted: RefCell<Granted>,
    /// Counts lives; set while one serves.
    serving: RefCell<Option<(u64, Addresses)>>,
    life: Cell<u64>,
    /// The last life after which the process was cut off. What an earlier life still had to send, the end of a connection
    /// included, may be lost with it.
    cut: Cell<u64>,
    done: Cell<bool>,
    failures: RefCell<Vec<String>>,
}

impl Shared {
    fn serving(&self) -> Option<(u64, Addresses)> {
        self.serving.borrow().clone()
    }

    fn was_cut(&self, life: u64) -> bool {
        life <= self.cut.get()
    }

    fn is_done(&self) -> bool {
        self.done.get()
    }

    fn reach(&self, bound: SocketAddr) -> SocketAddr {
        clients::reach(self.ip, bound)
    }

    fn ask(&self, key: &str, action: Action, behind: Option<&Asked>) -> Asked {
        self.history.borrow_mut().ask(key, action, behind)
    }

    fn hear(&self, asked: &Asked, heard: Heard) {
        self.history.borrow_mut().hear(asked, heard);
    }

    fn fail(&self, why: String) {
        self.failures.borrow_mut().push(why);
    }

    /// Nothing here is short, and drains have time, so nothing is refused.
    fn refused(&self, life: u64, why: &str) {
        self.fail(format!("life {life} refused a request: {why}"));
    }
}

/// What a run has been through.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    answered: u64,
    /// Calls of the scheduler that were answered.
    granted: u64,
    lost: u64,
    cuts: u64,
    kills: u64,
    drains: u64,
    cut_starts: u64,
}

fn setup(sync: SyncMethod) -> Setup {
    setup_on(sync, 2)
}

fn setup_on(sync: SyncMethod, cores: usize) -> Setup {
    let mut config = Config {
        data_dir: "/data".into(),
        base_port: 2000,
        resp_port: 6380,
        status_port: 0,
        ..Config::default()
    };
    config.log.segment_bytes = 64 << 10;
    config.log.sync = sync;
    let machine = Machine { cores, memory_bytes: 1 << 30, open_files: 4096 };
    let mut limits = Limits::derive(&config, machine).expect("a machine that is large enough");
    // Small, so that a life flushes, compacts and rolls segments.
    limits.memtable_bytes = 32 << 10;
    Setup { config, limits, cpus: Vec::new(), work: None, join: Vec::new() }
}

/// A life of the node that has begun.
struct Life {
    started: Rc<RefCell<Option<Result<Started, String>>>>,
    requests: Sender<NodeRequest>,
    root: Running<()>,
}

fn begin(server: &Node, sync: SyncMethod) -> Life {
    begin_with(server, setup(sync))
}

fn begin_with(server: &Node, setup: Setup) -> Life {
    let started = Rc::new(RefCell::new(None));
    let (requests, requests_in) = queue(2);
    let said = started.clone();
    let root = server.start(setup.root_core(), move |rt| {
        let say = move |how: Result<Started, _>| {
            *said.borrow_mut() = Some(how.map_err(|why: store::node::StartError| why.to_string()));
        };
        run(rt, setup, say, requests_in)
    });
    Life { started, requests, root }
}

struct Run {
    world: World,
    server: Node,
    shared: Rc<Shared>,
    tally: Tally,
    sync: SyncMethod,
    cores: usize,
}

impl Run {
    fn new(seed: u64, trace: bool, cores: usize) -> Self {
        let world = World::new(seed, Options { trace, ..Options::rough(seed) });
        let sync = if world.below(2) == 0 { SyncMethod::Dsync } else { SyncMethod::Fdatasync };
        let server = world.node(0);
        let shared = Rc::new(Shared {
            ip: server.ip(),
            history: RefCell::default(),
            granted: RefCell::default(),
            serving: RefCell::default(),
            life: Cell::new(0),
            cut: Cell::new(0),
            done: Cell::new(false),
            failures: RefCell::default(),
        });
        Self { world, server, shared, tally: Tally::default(), sync, cores }
    }

    fn clients(&self) -> Vec<Running<()>> {
        [1, 2, 3, 4, 5, 7]
            .into_iter()
            .map(|number| {
                let shared = self.shared.clone();
                self.world.node(number).start(0, move |rt| async move {
                    match number {
                        1..=3 => clients::resp(rt, number, shared).await,
                        7 => scheduler::client(rt, shared).await,
                        _ => clients::grpc(rt, number, shared).await,
                    }
                })
            })
            .collect()
    }

    /// Starts the node and lets clients in.
    fn start(&mut self) -> Result<Life, String> {
        let life = begin_with(&self.server, setup_on(self.sync, self.cores));
        if !self.world.run_until(START_MAX, || life.started.borrow().is_some()) {
            return Err("the node did not start".into());
        }
        let started = life.started.borrow().clone().expect("it was said")?;
        self.shared.life.set(self.shared.life.get() + 1);
        *self.shared.serving.borrow_mut() = Some((self.shared.life.get(), started.addresses));
        Ok(life)
    }

    /// Ends a life at once.
    fn cut(&mut self, power: bool) {
        *self.shared.serving.borrow_mut() = None;
        self.shared.cut.set(self.shared.life.get());
        match power {
            true => self.server.crash(),
            false => self.server.kill(),
        }
        self.shared.history.borrow_mut().life_ends();
    }

    /// Ends a life as a signal does.
    fn drain(&mut self, mut life: Life) -> Result<(), String> {
        *self.shared.serving.borrow_mut() = None;
        life.requests
            .try_send(NodeRequest::Drain(DRAIN))
            .map_err(|_| "the root core takes no drain".to_owned())?;
        let ended = Rc::new(Cell::new(false));
        let began = self.world.now();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let root = &mut life.root;
        let mut look = || {
            ended.set(ended.get() || std::pin::Pin::new(&mut *root).poll(&mut cx).is_ready());
            ended.get()
        };
        if !self.world.run_until(DRAIN + Duration::from_secs(3), &mut look) {
            return Err("a drain did not end within its deadline".into());
        }
        if self.world.now().saturating_sub(began) > DRAIN / 2 {
            return Err("a drain waited for connections that had nothing left to wait for".into());
        }
        self.shared.history.borrow_mut().life_ends();
        Ok(())
    }

    fn lives(&mut self) -> Result<Tally, String> {
        let clients = self.clients();
        for _ in 0..2 + self.world.below(3) {
            if self.world.below(5) == 0 {
                let starting = begin_with(&self.server, setup_on(self.sync, self.cores));
                self.world.run_for(Duration::from_micros(self.world.below(30_000)));
                drop(starting);
                self.shared.cut.set(self.shared.life.get());
                self.server.crash();
                self.shared.history.borrow_mut().life_ends();
                self.tally.cut_starts += 1;
            }
            let life = self.start()?;
            self.world.run_for(Duration::from_millis(20 + self.world.below(400)));
            match self.world.below(4) {
                0 => {
                    self.drain(life)?;
                    self.tally.drains += 1;
                }
                1 => {
                    self.cut(false);
                    self.tally.kills += 1;
                }
                _ => {
                    self.cut(true);
                    self.tally.cuts += 1;
                }
            }
            self.world.run_for(Duration::from_millis(self.world.below(200)));
        }
        let life = self.start()?;
        self.world.run_for(Duration::from_millis(100 + self.world.below(200)));
        self.shared.done.set(true);
        for client in clients {
            self.world.block_on(client);
        }
        let shared = self.shared.clone();
        let reading = self.world.node(6).start(0, move |rt| clients::read_all(rt, shared));
        self.world.block_on(reading);
        self.drain(life)?;
        self.tally.drains += 1;
        self.verdict()
    }

    fn verdict(&mut self) -> Result<Tally, String> {
        let history = self.shared.history.borrow();
        if let Some(first) = self.shared.failures.borrow().first() {
            return Err(first.clone());
        }
        history.judge()?;
        (self.tally.answered, self.tally.lost) = (history.answered, history.lost());
        drop(history);
        self.tally.granted = self.shared.granted.borrow().calls;
        Ok(self.tally)
    }
}

fn live(seed: u64) -> Result<Tally, String> {
    Run::new(seed, false, 2).lives()
}

pub(crate) fn seeds(without: u64) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (number("RINGKEEP_SEED"), number("RINGKEEP_FIRST_SEED").unwrap_or(0)) {
        (Some(seed), _) => seed..seed + 1,
        (None, first) => first..first + number("RINGKEEP_SEEDS").unwrap_or(without),
    }
}

#[test]
fn a_whole_node_keeps_its_promises_through_cuts_and_drains() {
    let mut all = Tally::default();
    let seeds = seeds(200);
    for seed in seeds.clone() {
        let tally = live(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        all.answered += tally.answered;
        all.granted += tally.granted;
        all.lost += tally.lost;
        all.cuts += tally.cuts;
        all.kills += tally.kills;
        all.drains += tally.drains;
        all.cut_starts += tally.cut_starts;
    }
    let count = seeds.end - seeds.start;
    assert!(all.answered > 200 * count, "too little was asked for the test to test: {all:?}");
    assert!(all.granted > 10 * count, "too little was asked of the scheduler: {all:?}");
    if count >= 8 {
        assert!(all.cuts > 0 && all.kills > 0 && all.drains > count && all.lost > 0, "{all:?}");
    }
}

/// Where one core has all regions, nothing of a node waits for a second one.
#[test]
fn a_node_of_one_core_keeps_its_promises_through_cuts_and_drains() {
    let (mut answered, mut granted, seeds) = (0, 0, seeds(20));
    for seed in seeds.clone() {
        let tally = Run::new(seed, false, 1).lives().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        answered += tally.answered;
        granted += tally.granted;
    }
    let count = seeds.end - seeds.start;
    assert!(answered > 200 * count && granted > 10 * count, "too little was asked: {answered}, {granted}");
}

#[test]
fn a_seed_decides_the_whole_run() {
    let traced = || {
        let mut run = Run::new(3, true, 2);
        run.lives().expect("it keeps its promises");
        run.world.trace()
    };
    let (one, other) = (traced(), traced());
    let differs = one.lines().zip(other.lines()).position(|(one, other)| one != other);
    if let Some(line) = differs {
        let around =
            |text: &str| text.lines().skip(line.saturating_sub(5)).take(8).collect::<Vec<_>>().join("\n");
        panic!("two runs differ from line {line} on:\n{}\n---\n{}", around(&one), around(&other));
    }
    assert_eq!(one.len(), other.len());
}

/// Within how many seeds each planted bug is caught.
const CAUGHT_WITHIN: u64 = 40;

fn is_caught() -> bool {
    (0..CAUGHT_WITHIN).any(|seed| match catch_unwind(AssertUnwindSafe(|| live(seed))) {
        Ok(verdict) => verdict.is_err(),
        Err(_) => true,
    })
}

#[test]
fn bugs_of_the_node_are_caught() {
    for bug in Bug::ALL {
        plant::plant(Some(bug));
        let caught = is_caught();
        plant::plant(None);
        assert!(caught, "{bug:?} went unnoticed");
    }
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    log_plant::plant(Some(log_plant::Bug::NoSync));
    let caught = is_caught();
    log_plant::plant(None);
    assert!(caught, "writes were acknowledged before they were durable");
}
