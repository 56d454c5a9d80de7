//! Starts on a full disk: what is refused then, and that an older copy of a store is recognised afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::sim::{DiskFault, DiskOp, Node, Options, World};
use scheduler::StateCommand;
use store::gateway::Gateway;
use store::node::core::Stores;
use store::node::identity::Ident;
use store::refusal::Refusal;
use store::region::system::SystemCommand;
use store::request::{Op, Out};
use store::shard::counters::StoreNumbers;

use crate::logged::Lines;
use crate::node::open_simulated;
use crate::page;
use crate::real::{self, ROOT, Real};

const DIR: &str = "/data";

/// The process has no descriptor left.
const EMFILE: i32 = 24;

type Files = BTreeMap<PathBuf, Vec<u8>>;

async fn start(rt: &Rt) -> Result<Real, String> {
    real::start(rt, real::setup(Path::new(DIR))).await
}

fn key(n: u64) -> Bytes {
    Bytes::from(vec![b'0' + (n % 60) as u8, b'k'])
}

fn put(n: u64, value: &'static [u8]) -> Op {
    Op::Put { key: key(n), value: Bytes::from_static(value) }
}

fn delete(n: u64) -> Op {
    Op::Delete { key: key(n), count: false }
}

fn reason_of(refused: Result<Out, Refusal>) -> String {
    match refused {
        Err(Refusal::DiskFull { reason, .. }) => reason,
        other => panic!("no refusal for lack of space: {other:?}"),
    }
}

/// Writes to keys of both stores, all of which are acknowledged.
async fn write_all(gateway: &Gateway, value: &'static [u8]) {
    for n in 0..60 {
        gateway.submit(None, put(n, value)).await.unwrap();
    }
}

async fn read(gateway: &Gateway, n: u64) -> Option<Bytes> {
    match gateway.submit(None, Op::Get { key: key(n) }).await {
        Ok(Out::Value(value)) => value,
        other => panic!("a read is answered: {other:?}"),
    }
}

async fn counted(rt: &Rt) -> Vec<u64> {
    let ident = Ident::read(rt, Path::new(DIR)).await.unwrap().unwrap();
    ident.holdings.iter().map(|holding| holding.opened).collect()
}

/// One life of the node, which ends with a kill.
fn live<T: 'static, F: Future<Output = T> + 'static>(
    world: &World,
    node: &Node,
    life: impl FnOnce(Rt, Node) -> F + 'static,
) -> T {
    let with = node.clone();
    let lived = world.block_on(node.start(ROOT, move |rt| life(rt, with))).expect("it is not killed before");
    node.kill();
    lived
}

async fn first_life(rt: Rt, _: Node) {
    let real = start(&rt).await.unwrap();
    write_all(&real.gateway, b"old").await;
    real.drain().await;
}

/// What a start says of these files.
fn start_with(files: &Files) -> Result<Vec<Option<Bytes>>, String> {
    let world = World::new(82, Options::default());
    let node = world.node(0);
    node.disk().set_contents(files);
    live(&world, &node, |rt, _| async move {
        let real = start(&rt).await?;
        let mut values = Vec::new();
        for n in 0..60 {
            values.push(read(&real.gateway, n).await);
        }
        Ok(values)
    })
}

fn store_dir(store: usize) -> String {
    format!("{DIR}/store-{}", store + 1)
}

/// `files`, with those of the store with this number from `older`.
fn with_older_store(store: usize, files: &Files, older: &Files) -> Files {
    let of_store = |path: &PathBuf| path.starts_with(store_dir(store));
    let mut mixed = files.clone();
    mixed.retain(|path, _| !of_store(path));
    mixed.extend(
        older.iter().filter(|(path, _)| of_store(path)).map(|(path, bytes)| (path.clone(), bytes.clone())),
    );
    mixed
}

fn is_refused_as_older(store: usize, files: &Files) {
    let refusal = start_with(files).expect_err("an older copy is no store of this directory");
    assert!(refusal.contains(&store_dir(store)) && refusal.contains("older copy"), "{refusal}");
}

/// A node that starts on a full disk, on which reads are served and nothing is written until there is space.
async fn life_on_a_full_disk(rt: Rt, node: Node) {
    node.disk().leave(0);
    let before = counted(&rt).await;
    let real = start(&rt).await.unwrap();
    assert_eq!(counted(&rt).await, before, "there is no space to count the openings");
    let reports = real.started.board.read();
    for store in reports.iter().flat_map(|core| &core.stores) {
        assert!(store.health.refuses_writes, "the first probe sees it: {:?}", store.health);
    }
    assert_eq!(read(&real.gateway, 1).await.as_deref(), Some(&b"old"[..]));
    for op in [put(1, b"lost"), delete(1)] {
        let reason = reason_of(real.gateway.submit(None, op).await);
        assert!(reason.contains("reads go on"), "{reason}");
    }
    // Neither is what the scheduler hands out: an older copy would hand it out again.
    let ids = SystemCommand::Change(StateCommand::AllocateIds { count: 1 });
    let refused = real.shards[&0].system_command(ids, None).await;
    assert!(matches!(refused, Err(Refusal::DiskFull { .. })), "{refused:?}");
    node.disk().set_capacity(u64::MAX);
    // No reserve is short any more, and still every write waits for the count.
    while let Err(refused) = real.gateway.submit(None, put(0, b"new")).await {
        assert!(matches!(refused, Refusal::DiskFull { .. }), "{refused:?}");
        rt.sleep(Duration::from_millis(5)).await;
    }
    let now = counted(&rt).await;
    assert!(now.iter().zip(&before).all(|(now, before)| now > before), "counted before a write: {now:?}");
    rt.sleep(Duration::from_secs(3)).await;
    write_all(&real.gateway, b"new").await;
    real.drain().await;
}

#[test]
fn after_a_start_on_a_full_disk_an_older_copy_of_a_store_is_still_refused() {
    let world = World::new(81, Options::default());
    let node = world.node(0);
    live(&world, &node, first_life);
    let older = node.disk().contents();
    live(&world, &node, life_on_a_full_disk);
    let files = node.disk().contents();
    is_refused_as_older(0, &with_older_store(0, &files, &older));
    let found = start_with(&files).expect("nothing else is refused");
    assert!(found.iter().all(|value| value.as_deref() == Some(b"new")), "{found:?}");
}

/// There is room, but no descriptor for IDENT: the same holds, and the reason is another one.
#[test]
fn a_start_that_lacks_a_descriptor_to_be_counted_says_so_from_the_first_probe_on() {
    let world = World::new(88, Options::default());
    let node = world.node(0);
    live(&world, &node, first_life);
    live(&world, &node, |rt, node| async move {
        node.disk().fail(DiskFault::on(DiskOp::Name).path("/data/IDENT").errno(EMFILE).times(5));
        let real = start(&rt).await.unwrap();
        for store in real.started.board.read().iter().flat_map(|core| &core.stores) {
            let problem = store.health.problem().expect("it takes no writes");
            assert!(problem.contains("could not be counted") && problem.contains("open files"), "{problem}");
        }
        let reason = reason_of(real.gateway.submit(None, delete(1)).await);
        assert!(reason.ends_with("reads go on"), "{reason}");
        rt.sleep(Duration::from_secs(10)).await;
        write_all(&real.gateway, b"new").await;
        real.drain().await;
    });
}

/// A start that finds no room, and is killed after a while. Each uses a record of the log's reserve, if there is one.
async fn start_in_vain(rt: Rt, node: Node) {
    node.disk().leave(0);
    let _started = rt.timeout(Duration::from_secs(2), start(&rt)).await;
}

/// IDENT could count no more than the logs do, so they have to come first.
#[test]
fn an_opening_that_the_log_has_no_room_for_is_counted_before_a_write_too() {
    let world = World::new(85, Options::default());
    let node = world.node(0);
    live(&world, &node, first_life);
    for _ in 0..120 {
        live(&world, &node, start_in_vain);
    }
    let older = node.disk().contents();
    live(&world, &node, |rt, node| async move {
        node.disk().leave(0);
        let started = rt.spawn({
            let rt = rt.clone();
            async move { start(&rt).await.unwrap() }
        });
        rt.sleep(Duration::from_secs(10)).await;
        node.disk().set_capacity(u64::MAX);
        let real = started.await;
        while let Err(refused) = real.gateway.submit(None, put(0, b"new")).await {
            assert!(matches!(refused, Refusal::DiskFull { .. }), "{refused:?}");
            rt.sleep(Duration::from_millis(5)).await;
        }
        let counted = counted(&rt).await[0];
        assert_eq!(
            counted,
            real.shards[&0].opened() + 1,
            "the log had no room when it was opened, and it is counted"
        );
        rt.sleep(Duration::from_secs(3)).await;
        write_all(&real.gateway, b"new").await;
    });
    let files = node.disk().contents();
    is_refused_as_older(0, &with_older_store(0, &files, &older));
}

/// The stores have everything, so an IDENT that is older than they are costs nothing; the log says so, and it is renewed.
#[test]
fn an_older_ident_alone_is_renewed_and_the_log_says_so() {
    let world = World::new(86, Options::default());
    let node = world.node(0);
    live(&world, &node, first_life);
    let older = node.disk().contents();
    for _ in 0..3 {
        live(&world, &node, |rt, _| async move {
            let real = start(&rt).await.unwrap();
            write_all(&real.gateway, b"new").await;
            real.drain().await;
        });
    }
    let newer = node.disk().contents();
    let ident = PathBuf::from("/data/IDENT");
    let mut files = newer.clone();
    files.insert(ident.clone(), older[&ident].clone());
    Lines::of(|lines| {
        start_with(&newer).unwrap();
        assert!(lines.with("IDENT counts").is_empty(), "a start that finds what it left says nothing");
        // As the logs of the stores say, and as its copies do.
        let mut without = files.clone();
        without.retain(|path, _| !path.ends_with("IDENT") || *path == ident);
        for (starts, files) in (1..).zip([&without, &files]) {
            let found = start_with(files).unwrap();
            assert!(found.iter().all(|value| value.as_deref() == Some(b"new")), "{found:?}");
            let said = lines.with("than IDENT counts");
            assert_eq!(said.len(), 2 * starts, "one line for each store: {said:?}");
            assert!(said[0].contains("/data/IDENT") && said[0].contains("counted=1"), "{said:?}");
        }
    });
    // After a start it counts as before.
    let world = World::new(87, Options::default());
    let node = world.node(0);
    node.disk().set_contents(&files);
    live(&world, &node, |rt, _| async move { start(&rt).await.unwrap().drain().await });
    is_refused_as_older(0, &with_older_store(0, &node.disk().contents(), &newer));
}

/// What a probe sees first is what holds.
#[test]
fn a_store_that_opens_on_a_full_disk_refuses_writes_at_once_and_names_free_bytes_and_reserve() {
    let world = World::new(83, Options::default());
    let node = world.node(0);
    node.disk().set_capacity(40 << 20);
    let opened = node.start(0, |rt| async move {
        let (stores, gateway) = open_simulated(&rt, |plan| {
            plan.shard.limits.reserve_bytes = 256 << 20;
            plan.shard.log.segment_bytes = 1 << 20;
            plan.shard.limits.segment_bytes = 1 << 20;
        })
        .await;
        let report = stores.shards[&0].snapshot().health;
        assert!(report.refuses_writes, "{report:?}");
        let problem = report.problem().unwrap();
        let reason = reason_of(gateway.submit(None, put(1, b"x")).await);
        for text in [problem, reason] {
            for part in
                ["MiB are free", "256 MiB", "reserve", "free space", "enlarge", "reads and deletes go on"]
            {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        gateway.submit(None, delete(1)).await.expect("deletes are taken");
        stores.stop(Duration::from_secs(1)).await;
    });
    world.block_on(opened).unwrap();
}

fn numbers(stores: &Stores) -> Vec<StoreNumbers> {
    stores.shards.values().map(|shard| shard.snapshot()).collect()
}

/// The metrics of the shortage, over all stores.
fn waiting(stores: &Stores) -> [f64; 2] {
    let of = |name| stores.shards.values().map(|shard| page::of_store(shard, name)).sum();
    [of("ringkeep_log_waits"), of("ringkeep_lsm_waits")]
}

/// Without descriptors writes stand for a while, and whoever looks learns why: what is short, for which file, and what to do.
async fn life_without_descriptors(rt: Rt, node: Node) {
    let (stores, gateway) = open_simulated(&rt, |plan| {
        plan.shard.log.segment_bytes = 64 << 10;
        plan.shard.limits.segment_bytes = 64 << 10;
        plan.shard.tree.memtable_bytes = 16 << 10;
    })
    .await;
    let (stores, disk) = (Rc::new(stores), node.disk());
    assert!(numbers(&stores).iter().all(|store| store.health.note().is_none()));
    assert_eq!(waiting(&stores), [0.0, 0.0]);
    disk.set_descriptors(disk.open_files());
    let with = rt.clone();
    let writing = rt.spawn(async move {
        let mut taken = 0;
        while taken < 400 {
            match gateway.submit(None, Op::Put { key: key(1), value: vec![7; 2000].into() }).await {
                Ok(_) => taken += 1,
                Err(Refusal::Unknown | Refusal::Busy { .. }) => with.sleep(Duration::from_millis(100)).await,
                Err(other) => panic!("{other:?}"),
            }
        }
    });
    rt.sleep(Duration::from_secs(20)).await;
    assert_eq!(waiting(&stores), [2.0, 1.0], "both logs make segments ahead, and one store is written to");
    let of_both = |store: &StoreNumbers| store.log.waits && store.tree.waits;
    let waits = numbers(&stores).into_iter().find(of_both).expect("one waits for both");
    let note = waits.health.note().unwrap();
    for part in ["its log waits", "its tree waits", "/data/store-", "limit of open files"] {
        assert!(note.contains(part), "{part}: {note}");
    }
    assert!(waits.health.problem().is_none(), "it serves, and that is no full disk: {waits:?}");
    disk.set_descriptors(u64::MAX);
    writing.await;
    rt.sleep(Duration::from_secs(5)).await;
    assert_eq!(waiting(&stores), [0.0, 0.0]);
    assert!(numbers(&stores).iter().all(|store| store.health.note().is_none()));
    stores.stop(Duration::from_secs(1)).await;
}

#[test]
fn what_log_and_tree_wait_for_is_said_when_it_begins_and_when_it_ends() {
    Lines::of(|lines| {
        let world = World::new(84, Options::default());
        let node = world.node(0);
        let with = node.clone();
        world.block_on(node.start(0, move |rt| life_without_descriptors(rt, with))).unwrap();
        for part in ["part=\"log\"", "part=\"tree\""] {
            let of = |text: &str| lines.with(text).into_iter().filter(|line| line.contains(part)).count();
            let (began, ended) = (of("a part of the store waits"), of("the part waits no longer"));
            assert!(began >= 1 && began == ended && began < 5, "{part}: {began} and {ended} lines");
        }
    });
}
