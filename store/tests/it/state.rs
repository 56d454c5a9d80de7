//! The scheduler's state through power cuts: no id twice, no timestamp that does not rise, nothing that was answered forgotten; its
//! takeover from the file of 0.1; and that no request of a user reaches it.
//!
//! The power goes at every single change of the disk, and the next life must know everything that the one before was answered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::chan::Receiver;
use engine::rt::sim::{Node, Options, Running, World};
use scheduler::{NodeId, StoreDescriptor, StoreId, StoreReport};
use store::control::{Ask, Beat, Control, Denied, Member, StoreBeat};
use store::node::core::Plan;
use store::node::identity::Identity;
use store::node::start::{self, Core, Until};
use store::node::{bootstrap, state_host};
use store::plant::{self, Bug};
use store::refusal::Refusal;
use store::region::system::{GROUP, SystemCommand, SystemRefusal};
use store::request::{Atomic, Change, Op, Out, Route, Scan};
use store::shard::Shard;

const DIR: &str = "/data";
const CLUSTER: u64 = 7;

/// The file as 0.1 wrote it: ids below 41 are taken, stores 1 and 2 are known, timestamps are allowed below 1,700,000,003,000 ms.
const FILE_OF_0_1: &[u8] = include_bytes!("../fixtures/control-v1/state.bin");

fn identity() -> Identity {
    Identity { cluster: CLUSTER, node: 3, stores: 2, first_store: 1 }
}

fn plan() -> Plan {
    let mut plan = crate::node::plan(Path::new(DIR), identity(), 1);
    plan.shard.log.segment_bytes = 64 << 10;
    plan.shard.limits.segment_bytes = 64 << 10;
    plan.shard.tree.memtable_bytes = 32 << 10;
    plan
}

fn member(next_id_min: u64) -> Member {
    Member {
        name: "one".into(),
        member_id: 3,
        client_urls: vec!["http://127.0.0.1:1".into()],
        cluster_id: CLUSTER,
        first_free_id: bootstrap::first_free_id(&identity()),
        next_id_min,
    }
}

/// What the scheduler shard was answered, over all lives.
#[derive(Debug, Default)]
struct Answered {
    /// Ids, by the first of each call.
    ids: BTreeMap<u64, u64>,
    /// The largest timestamp.
    timestamp: u64,
    safe_point: u64,
    /// What [`member`] says next time.
    next_id: u64,
}

impl Answered {
    fn ids(&mut self, taken: Range<u64>) {
        let before = self.ids.range(..taken.end).next_back();
        assert!(before.is_none_or(|(_, end)| *end <= taken.start), "ids {taken:?} were handed out before");
        self.ids.insert(taken.start, taken.end);
    }

    fn timestamps(&mut self, largest: u64, count: u32) {
        let smallest = largest - u64::from(count) + 1;
        assert!(smallest > self.timestamp, "timestamp {smallest} after {}", self.timestamp);
        self.timestamp = largest;
    }
}

/// Opens the stores and the scheduler shard on one core.
async fn open(rt: &Rt, answered: &RefCell<Answered>) -> Result<(Core, Control), String> {
    rt.create_dir_all(Path::new(DIR)).await.unwrap();
    rt.sync_dir(Path::new("/")).await.unwrap();
    let core = start::alone(rt, Arc::new(plan()), Until::Opened).await?;
    let (asks, asked) = store::control::link();
    drop(rt.spawn(state_host::serve(rt.clone(), core.stores.state_store(), asked)));
    let dir = Path::new(DIR).join("scheduler");
    let member = member(answered.borrow().next_id);
    let control = Control::open(rt, &dir, member, asks).await;
    let control = control.map_err(|error| error.to_string())?;
    answered.borrow_mut().next_id = control.next_id();
    assert!(control.gc_safe_point() >= answered.borrow().safe_point, "the safe point fell");
    Ok((core, control))
}

fn beat(address: String) -> Beat {
    let store = StoreId(1);
    let descriptor = StoreDescriptor::new(store, NodeId(3), address);
    Beat {
        stores: vec![StoreBeat { descriptor, report: StoreReport::empty(store), regions: Vec::new() }],
        ..Beat::default()
    }
}

/// One random request, and its answer.
async fn ask(rt: &Rt, control: &Control, answered: &RefCell<Answered>) -> Result<(), Denied> {
    let draw = |below: u64| rt.random() % below;
    match draw(8) {
        0..=2 => {
            let count = [1, 7, 400, 1500][draw(4) as usize];
            let first = control.alloc_ids(count).await?;
            answered.borrow_mut().ids(first..first + count);
        }
        3..=5 => {
            // Large counts use a window up before the clock does.
            let count = [1, 100, (1 << 18) - 1][draw(3) as usize];
            for _ in 0..1 + draw(40) {
                let largest = control.timestamps(count).await?.to_u64();
                answered.borrow_mut().timestamps(largest, count);
            }
        }
        6 => {
            let asked = answered.borrow().timestamp / 2 + draw(1000);
            let now = control.raise_gc_safe_point(asked).await?;
            assert!(now >= asked.max(answered.borrow().safe_point), "{now}");
            answered.borrow_mut().safe_point = now;
        }
        _ => drop(control.take(beat(format!("127.0.0.1:{}", 1000 + draw(50)))).await),
    }
    Ok(())
}

/// A life of some requests, two at a time, which ends in peace or with the power.
fn life(node: &Node, answered: &Rc<RefCell<Answered>>, requests: u64, in_peace: bool) -> Running<()> {
    let answered = answered.clone();
    node.start(0, move |rt| async move {
        let (core, control) = open(&rt, &answered).await.unwrap_or_else(|why| panic!("{why}"));
        for _ in 0..requests {
            let two =
                futures_util::future::join(ask(&rt, &control, &answered), ask(&rt, &control, &answered));
            let (one, other) = two.await;
            one.and(other).unwrap_or_else(|denied| panic!("{denied}"));
        }
        if in_peace {
            core.stores.stop(Duration::from_secs(10)).await;
        }
    })
}

/// Runs a life until it ends or the disk stops before the change `point` of it. Whether it ended.
fn until_cut(world: &World, node: &Node, point: u64, life: Running<()>) -> bool {
    node.disk().stop_at(node.disk().changes() + point);
    let mut life = std::pin::pin!(life);
    let mut ended = false;
    world.run_until(Duration::from_secs(60), || {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        ended = ended || life.as_mut().poll(&mut cx).is_ready();
        ended || node.disk().has_stopped()
    });
    ended
}

/// The power goes at every change that a life makes on the disk, after a first one that ended in peace. Returns the number of changes.
fn cut_at_every_change(seed: u64, step: u64) -> u64 {
    let mut point = 0;
    loop {
        let world = World::new(seed + point, Options::rough(seed + point));
        let node = world.node(0);
        let answered = Rc::new(RefCell::new(Answered::default()));
        if point % 3 > 0 {
            world.block_on(life(&node, &answered, 6, point % 3 == 1)).expect("a life without a cut ends");
            node.kill();
            // A clock that was set back must not bring timestamps back.
            node.jump_wall(-3_600_000_000_000);
        }
        if until_cut(&world, &node, point, life(&node, &answered, 8, true)) {
            return point;
        }
        node.crash();
        world.block_on(life(&node, &answered, 4, true)).expect("the life after a cut ends");
        node.kill();
        world.block_on(life(&node, &answered, 2, false)).expect("and so does the one after that");
        point += step;
    }
}

#[test]
fn nothing_is_handed_out_twice_wherever_the_power_goes() {
    let points = cut_at_every_change(500, 1);
    assert!(points > 60, "only {points} changes");
}

/// A directory as 0.1 left it: two stores without a system group, and the file.
fn directory_of_0_1() -> BTreeMap<PathBuf, Vec<u8>> {
    let world = World::new(61, Options::default());
    let node = world.node(0);
    let made = node.start(0, |rt| async move {
        for index in 0..2 {
            let store = identity().store_id(index);
            let dir = Identity::store_dir(Path::new(DIR), store);
            rt.create_dir_all(&dir).await.unwrap();
            let mut regions = bootstrap::regions(&identity());
            regions.retain(|region| region.peer_on(store).is_some());
            let mut options = plan().shard;
            (options.store, options.system) = (store, false);
            let shard = Shard::open(&rt, &dir, options, regions).await.unwrap();
            shard.close(Duration::from_secs(10)).await.unwrap();
        }
        let dir = Path::new(DIR).join("scheduler");
        rt.create_dir_all(&dir).await.unwrap();
        rt.replace_small(&dir.join("STATE"), FILE_OF_0_1).await.unwrap();
    });
    world.block_on(made).expect("it is made");
    node.kill();
    node.disk().contents()
}

/// Takes a directory of 0.1 over, with a power cut at every change. Returns the number of changes.
fn take_over_with_cuts(seed: u64) -> u64 {
    let old = directory_of_0_1();
    let mut point = 0;
    loop {
        let world = World::new(seed + point, Options::rough(seed + point));
        let node = world.node(0);
        node.disk().set_contents(&old);
        let answered = Rc::new(RefCell::new(Answered::default()));
        answered.borrow_mut().ids(0..41);
        answered.borrow_mut().timestamp = 1_700_000_003_000 << 18;
        answered.borrow_mut().safe_point = 5;
        let ended = until_cut(&world, &node, point, life(&node, &answered, 1, true));
        if !ended {
            node.crash();
        } else {
            node.kill();
        }
        world.block_on(life(&node, &answered, 2, true)).expect("the life after a cut ends");
        node.kill();
        let file = Path::new(DIR).join("scheduler/STATE");
        assert!(!node.disk().contents().contains_key(&file), "the file is still there, cut at {point}");
        if ended {
            return point;
        }
        point += 1;
    }
}

#[test]
fn the_file_of_0_1_is_taken_over_once_wherever_the_power_goes() {
    let points = take_over_with_cuts(700);
    assert!(points > 15, "only {points} changes");
}

#[test]
fn a_state_that_is_gone_or_older_is_refused_by_name() {
    for (files, next_id_min, what) in
        [(BTreeMap::new(), 50, "is gone"), (directory_of_0_1(), 50, "older copy")]
    {
        let world = World::new(62, Options::default());
        let node = world.node(0);
        node.disk().set_contents(&files);
        let answered = Rc::new(RefCell::new(Answered { next_id: next_id_min, ..Answered::default() }));
        let opened = node.start(0, move |rt| async move { open(&rt, &answered).await.err() });
        let refused = world.block_on(opened).expect("it is refused").expect("it is refused");
        assert!(refused.contains(what) && refused.contains("restore"), "{refused}");
        let file = Path::new(DIR).join("scheduler/STATE");
        assert_eq!(node.disk().contents().contains_key(&file), files.contains_key(&file), "it is left alone");
    }
}

/// Every request that names a region, as a client would that knows the group's number.
fn requests() -> Vec<Op> {
    let key = Bytes::from_static(b"\x01");
    vec![
        Op::Get { key: key.clone() },
        Op::BatchGet { keys: vec![key.clone()], at_once: false },
        Op::Lengths { keys: vec![key.clone()], ahead: false },
        Op::Put { key: key.clone(), value: Bytes::from_static(b"v") },
        Op::BatchPut { pairs: vec![(key.clone(), Bytes::new())] },
        Op::Delete { key: key.clone(), count: false },
        Op::Delete { key: key.clone(), count: true },
        Op::BatchDelete { keys: vec![key.clone()] },
        Op::DeleteRange { start: Bytes::new(), end: Bytes::new() },
        Op::Modify { key: key.clone(), change: Change::Take },
        Op::Scan(Scan { limit: 100, ..Scan::default() }),
        Op::Atomic(Atomic { watched: Vec::new(), steps: vec![Op::Get { key: key.clone() }] }),
        Op::Watch { keys: vec![key] },
    ]
}

/// What requests, scans, estimates, routes and reports show of the state.
fn what_shows() -> Vec<String> {
    let world = World::new(63, Options::default());
    let node = world.node(0);
    let looked = node.start(0, |rt| async move {
        let answered = RefCell::default();
        let (core, control) = open(&rt, &answered).await.unwrap();
        for _ in 0..20 {
            ask(&rt, &control, &answered).await.unwrap();
        }
        let shard = core.stores.shards[&0].clone();
        let (places, gateway) = (core.stores.places(), core.gateway());
        let route = Route {
            region_id: GROUP.0,
            conf_ver: 1,
            version: 1,
            peer_id: 0,
            store_id: 0,
            term: 0,
            replica_read: false,
        };
        let mut found = Vec::new();
        for op in requests() {
            let outcome = gateway.submit(Some(route), op.clone()).await;
            if outcome != Err(Refusal::RegionNotFound { region_id: GROUP.0 }) {
                found.push(format!("{op:?}: {outcome:?}"));
            }
        }
        let all = gateway.submit(None, Op::Scan(Scan { limit: 1000, ..Scan::default() })).await;
        if all != Ok(Out::Pairs(Vec::new())) {
            found.push(format!("a scan: {all:?}"));
        }
        if places.iter().any(|place| place.region_id == GROUP.0) {
            found.push("there is a route".to_owned());
        }
        let regions = shard.regions();
        assert_eq!(shard.snapshot().groups.regions, regions.len() as u64);
        for (region, ..) in regions {
            let size = shard.estimate(&region).await.unwrap();
            if region.id == GROUP || size.keys > 0 {
                found.push(format!("{region} has {size:?}"));
            }
        }
        found
    });
    world.block_on(looked).expect("the look ends")
}

#[test]
fn no_request_of_a_user_reaches_the_state() {
    assert_eq!(what_shows(), Vec::<String>::new());
}

/// A host that answers with `refusal` while `refuses` is set. What it was asked is done all the same where the refusal is Unknown.
async fn moody_host(rt: Rt, shard: Shard, asked: Receiver<Ask>, refuses: Rc<Cell<bool>>, refusal: Refusal) {
    while let Some(ask) = asked.recv().await {
        match ask {
            Ask::Read(to) => drop(to.try_send(shard.system_state().await)),
            Ask::Command(command, term, to) if refuses.get() => {
                if refusal == Refusal::Unknown {
                    let shard = shard.clone();
                    drop(rt.spawn(async move { shard.system_command(command, term).await }));
                }
                drop(to.try_send(Err(refusal.clone())));
            }
            Ask::Command(command, term, to) => drop(to.try_send(shard.system_command(command, term).await)),
            Ask::Members(to) => drop(to.try_send(shard.system_members())),
            Ask::Step(step, to) => drop(to.try_send(shard.carry_out(&step))),
        }
    }
}

/// While the store refuses, nothing is granted beyond what was allowed before, and the refusal has a name; afterwards it goes on.
fn refusals_are_kept(refusal: &Refusal, named: &str) {
    let world = World::new(64, Options::default());
    let node = world.node(0);
    let answered = Rc::new(RefCell::new(Answered::default()));
    let (with, refusal, named) = (answered.clone(), refusal.clone(), named.to_owned());
    let asking = node.start(0, move |rt| async move {
        rt.create_dir_all(Path::new(DIR)).await.unwrap();
        let Core { stores, .. } = start::alone(&rt, Arc::new(plan()), Until::Opened).await.unwrap();
        let (asks, asked) = store::control::link();
        let refuses = Rc::new(Cell::new(false));
        let shard = stores.state_store().unwrap();
        drop(rt.spawn(moody_host(rt.clone(), shard, asked, refuses.clone(), refusal)));
        let control = Control::open(&rt, &Path::new(DIR).join("scheduler"), member(0), asks).await.unwrap();
        for round in 0..3 {
            refuses.set(round == 1);
            let mut denied = None;
            for _ in 0..6000 {
                match control.timestamps((1 << 18) - 1).await {
                    Ok(largest) => with.borrow_mut().timestamps(largest.to_u64(), (1 << 18) - 1),
                    Err(why) => {
                        denied = Some(why.to_string());
                        break;
                    }
                }
            }
            assert_eq!(denied.is_some(), round == 1, "{denied:?}");
            let ids = control.alloc_ids(1500).await;
            if let Ok(first) = ids {
                with.borrow_mut().ids(first..first + 1500);
            }
            assert_eq!(ids.is_err(), round == 1, "{ids:?}");
            let texts = denied.into_iter().chain(ids.err().map(|why| why.to_string()));
            texts.for_each(|text| assert!(text.contains(&named), "{text}"));
        }
    });
    world.block_on(asking).expect("everything is answered");
    node.crash();
    world.block_on(life(&node, &answered, 4, false)).expect("the next life goes on above");
}

#[test]
fn a_refusal_grants_nothing_and_has_a_name() {
    for (refusal, named) in [
        (Refusal::Stopped("store 1: the sync failed".into()), "store 1: the sync failed"),
        (
            Refusal::DiskFull { store_ids: vec![1], reason: "0 bytes are free".into() },
            "store 1 refuses writes: 0 bytes are free",
        ),
        (Refusal::Busy { reason: "too many wait", backoff_ms: 20 }, "too many wait; try again"),
        (Refusal::Unknown, "before this was decided; ask again"),
    ] {
        refusals_are_kept(&refusal, named);
    }
}

/// The real store, stopped by a failed sync: the map is served, what rests on the state is refused, and the next life goes on.
#[test]
fn a_store_that_stopped_is_named_and_the_map_goes_on() {
    let world = World::new(65, Options::default());
    let node = world.node(0);
    let answered = Rc::new(RefCell::new(Answered::default()));
    let (with, disk) = (answered.clone(), node.clone());
    let asking = node.start(0, move |rt| async move {
        let (core, control) = open(&rt, &with).await.unwrap();
        for _ in 0..10 {
            ask(&rt, &control, &with).await.unwrap();
        }
        disk.disk().fail_next_write("store-1/log");
        disk.disk().fail_next_sync("store-1/log");
        let denied = control.alloc_ids(5000).await.unwrap_err().to_string();
        assert!(denied.contains("cannot be changed"), "{denied}");
        let why = core.stores.shards[&0].stopped().expect("a failed sync stops the store");
        let denied = control.alloc_ids(5000).await.unwrap_err().to_string();
        assert!(denied.contains(&why) && denied.contains("restart the node"), "{denied}");
        control.take(beat("127.0.0.1:77".into())).await;
        assert_eq!(control.refused_reports(), 0, "reports are taken in without a disk");
        assert!(core.stores.shards[&1].stopped().is_none(), "the other store serves");
    });
    world.block_on(asking).expect("everything is answered");
    node.crash();
    node.disk().heal();
    world.block_on(life(&node, &answered, 4, false)).expect("the next life goes on above");
}

/// A second beginning, with less than the state has by now.
fn a_second_beginning_changes_nothing() {
    let world = World::new(66, Options::default());
    let node = world.node(0);
    let answered = RefCell::new(Answered::default());
    let begun = node.start(0, move |rt| async move {
        let (core, control) = open(&rt, &answered).await.unwrap();
        let shard = core.stores.state_store().unwrap();
        let first = shard.system_state().await.unwrap().expect("it has begun");
        control.alloc_ids(1).await.unwrap();
        let second = shard.system_command(SystemCommand::Begin(Box::new(first.clone())), None).await.unwrap();
        assert_eq!(second.answer, Err(SystemRefusal::Begun));
        assert!(shard.system_state().await.unwrap().expect("it has begun").next_id > first.next_id);
    });
    world.block_on(begun).expect("everything is answered");
}

#[test]
fn a_state_begins_once() {
    a_second_beginning_changes_nothing();
}

/// What each planted bug is caught by.
fn is_caught(bug: Bug) -> bool {
    let run = || match bug {
        Bug::DecidedEarly | Bug::WindowLost => drop(cut_at_every_change(500, 1)),
        // Few changes lie between the wrong moment and the right one, and what a cut there leaves on the disk is drawn.
        Bug::FileTakenTwice | Bug::FileRemovedEarly => {
            for hundreds in 7..17 {
                take_over_with_cuts(100 * hundreds);
            }
        }
        Bug::StateReadable => assert_eq!(what_shows(), Vec::<String>::new()),
        Bug::RefusedTakenForDone => refusals_are_kept(&Refusal::Unknown, "ask again"),
        Bug::StateBegunTwice => a_second_beginning_changes_nothing(),
        bug => panic!("{bug:?} is none of the state"),
    };
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

#[test]
fn bugs_of_the_state_are_caught() {
    for bug in Bug::STATE {
        plant::plant(Some(bug));
        let caught = is_caught(bug);
        plant::plant(None);
        assert!(caught, "{bug:?} went unnoticed");
    }
}
