//! What a store says and does when its disk fails: everything that waits is answered, what is damaged is named, and what has stopped
//! does nothing more.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::sim::{DiskFault, DiskOp, Node, Options, World};
use store::gateway::Gateway;
use store::node::core::Stores;
use store::node::identity::Identity;
use store::node::start::{self, Until};
use store::publish::{NodeFacts, log_write_ages};
use store::refusal::Refusal;
use store::request::{Op, Out, Route, Scan};
use store::shard::Shard;
use store::shard::counters::StoreNumbers;
use store::shard::health::Standing;
use store::shard::startup::SHORTAGE_MAX;
use store::wire::board::CoreReport;

use crate::connection_memory::{ask, expect};
use crate::node::open_simulated;
use crate::page;

/// The process has no descriptor left.
const EMFILE: i32 = 24;

fn put(key: impl Into<Bytes>, bytes: usize) -> Op {
    Op::Put { key: key.into(), value: vec![b'v'; bytes].into() }
}

fn get(key: &'static str) -> Op {
    Op::Get { key: key.into() }
}

/// Runs `work` on a node whose stores flush early and keep nothing of their tables in memory.
fn in_world<F: Future<Output = ()>>(
    seed: u64,
    work: impl FnOnce(Rt, Rc<World>, Node, Stores, Gateway) -> F + 'static,
) {
    let world = Rc::new(World::new(seed, Options::default()));
    let node = world.node(0);
    let (disk, outside) = (node.clone(), world.clone());
    let running = node.start(0, |rt| async move {
        let tree = TreeOptions { memtable_bytes: 4 << 10, cache_bytes: 0, ..TreeOptions::default() };
        let (stores, gateway) = open_simulated(&rt, |plan| plan.shard.tree = tree).await;
        work(rt, outside, disk, stores, gateway).await;
    });
    world.block_on(running).unwrap();
}

/// The store that has `key`, its number, and a route to the region of the key.
fn owner(stores: &Stores, key: &[u8]) -> (usize, Shard, Route, scheduler::Region) {
    for (number, shard) in &stores.shards {
        for (region, term, _) in shard.regions() {
            if region.range.contains(key) {
                let route = Route {
                    region_id: region.id.0,
                    conf_ver: region.epoch.conf_ver,
                    version: region.epoch.version,
                    peer_id: region.peers[0].id.0,
                    store_id: shard.store().0,
                    term,
                    replica_read: false,
                };
                return (*number, shard.clone(), route, region);
            }
        }
    }
    panic!("no region has {key:?}")
}

#[test]
fn a_store_that_stops_answers_what_waits_and_takes_no_more_turns() {
    in_world(71, |rt, _, node, stores, gateway| async move {
        let (_, shard, ..) = owner(&stores, b"k");
        let wanted = store::wire::health::HealthService::default();
        let status = wanted.clone();
        shard.on_stop(move || status.set_serving(false));
        assert!(wanted.is_serving());
        node.disk().fail(DiskFault::on(DiskOp::Write).path("/tree/").always());
        // Writes that take long, so that some are always in the log when the flush fails.
        node.disk().slow(100);
        let mut submitted = Vec::new();
        for n in 0..20_000 {
            if shard.stopped().is_some() {
                break;
            }
            submitted.push(gateway.submit(None, put(format!("k{n}"), 200)));
            rt.sleep(Duration::from_millis(1)).await;
        }
        let reason = shard.stopped().expect("a failed flush stops the store");
        assert!(!wanted.is_serving(), "health checks hear of it at once");
        assert!(reason.contains("tree"), "{reason}");
        let applied = shard.snapshot().applied;
        let mut unknown = 0;
        for submitted in submitted {
            unknown += u32::from(submitted.await == Err(Refusal::Unknown));
        }
        assert!(unknown > 0, "nothing was in flight: the test does not test");
        rt.sleep(Duration::from_secs(5)).await;
        assert_eq!(shard.snapshot().applied, applied, "a stopped store has applied more");
        let health = shard.health();
        assert!(health.failed && health.standing == Standing::Stopped, "{health:?}");
        assert_eq!(page::of_store(&shard, "ringkeep_store_stopped"), 1.0);
        assert!(shard.snapshot().problem(rt.now()).is_some_and(|problem| problem.contains(&reason)));
        assert!(matches!(gateway.submit(None, get("k1")).await, Err(Refusal::Stopped(_))));
    });
}

/// Whether these are all bytes of an error or of a string.
fn is_whole(reply: &[u8]) -> bool {
    let Some(line) = reply.windows(2).position(|end| end == b"\r\n") else { return false };
    match reply.strip_prefix(b"$") {
        None => true,
        Some(rest) => {
            let bytes: usize = std::str::from_utf8(&rest[..line - 1]).unwrap().parse().unwrap();
            reply.len() == line + 2 + bytes + 2
        }
    }
}

/// Over RESP keys that cannot be counted are an error of `DBSIZE` that names the file; `INFO` says the same beside all else.
async fn counts_name_the_damage(rt: &Rt, gateway: &Gateway, store: &str) {
    let addr = crate::connection_memory::serve(rt, gateway);
    let mut client = rt.connect(addr).await.unwrap();
    let mut buffer = vec![0; 64 << 10];
    for (command, begins) in [
        ("DBSIZE", "-ERR the value cannot be read, because "),
        ("DEL k1 k2", "-ERR the value cannot be read, because "),
        ("INFO keyspace", "$"),
        ("INFO server keyspace clients", "$"),
        ("INFO everything", "$"),
    ] {
        client.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        let mut bytes = 0;
        while !is_whole(&buffer[..bytes]) {
            bytes += client.read(&mut buffer[bytes..]).await.unwrap();
        }
        let reply = String::from_utf8_lossy(&buffer[..bytes]);
        assert!(
            reply.starts_with(begins) && reply.contains(store) && reply.contains(".table is damaged"),
            "{command}: {reply}"
        );
        assert_eq!(
            reply.contains("# Keyspace\r\n# the keys are estimated"),
            begins == "$",
            "{command}: {reply}"
        );
        assert_eq!(reply.contains("connected_clients:1"), command.len() > 14, "{command}: {reply}");
    }
}

#[test]
fn damage_that_a_read_meets_is_named_and_the_rest_is_served() {
    in_world(72, |rt, _, node, stores, gateway| async move {
        let (_, shard, ..) = owner(&stores, b"k");
        gateway.submit(None, put("k1", 100)).await.unwrap();
        gateway.submit(None, put("k2", 8 << 10)).await.unwrap();
        while gateway.get_now(b"k1").is_some() || shard.snapshot().tree.memtable_bytes > 0 {
            gateway.submit(None, put("k3", 8 << 10)).await.unwrap();
            rt.sleep(Duration::from_millis(50)).await;
        }
        let store = format!("store-{}/tree", shard.store().0);
        let is_table = |path: &&std::path::PathBuf| {
            path.to_string_lossy().contains(&store) && path.extension().is_some_and(|kind| kind == "table")
        };
        let files = node.disk().files();
        let tables: Vec<_> = files.iter().filter(is_table).collect();
        assert!(!tables.is_empty(), "{files:?}");
        for table in tables {
            node.disk().rot(table, 40, 0x10);
        }
        let found = gateway.submit(None, get("k1")).await;
        let Err(Refusal::Damaged { file, what }) = found else { panic!("{found:?}") };
        assert!(file.contains(&store) && !what.is_empty(), "{file}: {what}");
        let scan = Scan { start: "k".into(), end: "l".into(), limit: 9, ..Scan::default() };
        let found = gateway.submit(None, Op::Scan(scan)).await;
        assert!(matches!(found, Err(Refusal::Damaged { .. })), "{found:?}");
        let health = shard.health();
        assert_eq!(health.standing, Standing::Damaged);
        assert!(health.problem().is_some_and(|problem| problem.contains(&file)));
        assert!(page::of_store(&shard, "ringkeep_store_damaged") > 0.0);
        counts_name_the_damage(&rt, &gateway, &store).await;
        gateway.submit(None, put("k9", 10)).await.expect("writes go on");
        assert!(matches!(gateway.submit(None, get("k9")).await, Ok(Out::Value(Some(_)))));
        assert_eq!(shard.stopped(), None);
    });
}

/// What publishes the health need not ask for it now and then: it hears of the damage before the client's next question.
#[test]
fn damage_wakes_whoever_publishes_the_health() {
    in_world(75, |rt, _, node, stores, gateway| async move {
        let (_, shard, ..) = owner(&stores, b"k");
        flushed(&rt, &shard, &gateway).await;
        // What has changed until now.
        rt.timeout(Duration::from_millis(1), shard.health_changed()).await;
        let (seen, watched) = (Rc::new(std::cell::Cell::new(0)), shard.clone());
        let publishes = seen.clone();
        rt.spawn(async move {
            watched.health_changed().await;
            publishes.set(watched.health().damaged_files);
        });
        rt.sleep(Duration::from_secs(3)).await;
        assert_eq!(seen.get(), 0);
        tables(&node, &shard).iter().for_each(|table| node.disk().rot(table, 40, 0x10));
        assert!(gateway.submit(None, get("k1")).await.is_err());
        rt.sleep(Duration::from_millis(1)).await;
        assert!(seen.get() > 0, "the health is published late");
    });
}

/// Writes to `k1` and other keys until no memtable has them.
async fn flushed(rt: &Rt, shard: &Shard, gateway: &Gateway) {
    gateway.submit(None, put("k1", 100)).await.unwrap();
    gateway.submit(None, put("k2", 8 << 10)).await.unwrap();
    while gateway.get_now(b"k1").is_some() || shard.snapshot().tree.memtable_bytes > 0 {
        gateway.submit(None, put("k3", 8 << 10)).await.unwrap();
        rt.sleep(Duration::from_millis(50)).await;
    }
}

fn tables(node: &Node, shard: &Shard) -> Vec<std::path::PathBuf> {
    let store = format!("store-{}/tree", shard.store().0);
    let is_table = |path: &std::path::PathBuf| {
        path.to_string_lossy().contains(&store) && path.extension().is_some_and(|kind| kind == "table")
    };
    let tables: Vec<_> = node.disk().files().into_iter().filter(is_table).collect();
    assert!(!tables.is_empty());
    tables
}

/// Opens the stores of `node` again and says what the store with the keys knows of its health a second later.
fn started_again(world: &World, node: &Node) -> store::shard::health::HealthReport {
    let running = node.start(0, |rt| async move {
        let tree = TreeOptions { memtable_bytes: 4 << 10, cache_bytes: 0, ..TreeOptions::default() };
        let (stores, _) = open_simulated(&rt, |plan| plan.shard.tree = tree).await;
        rt.sleep(Duration::from_secs(1)).await;
        owner(&stores, b"k").1.health()
    });
    let health = world.block_on(running).unwrap();
    node.kill();
    health
}

/// A world in which a store has a table, killed.
fn with_a_table(seed: u64, meet: bool) -> (World, std::path::PathBuf) {
    let world = World::new(seed, Options::default());
    let node = world.node(0);
    let disk = node.clone();
    let running = node.start(0, move |rt| async move {
        let tree = TreeOptions { memtable_bytes: 4 << 10, cache_bytes: 0, ..TreeOptions::default() };
        let (stores, gateway) = open_simulated(&rt, |plan| plan.shard.tree = tree).await;
        let (_, shard, ..) = owner(&stores, b"k");
        flushed(&rt, &shard, &gateway).await;
        let tables = tables(&disk, &shard);
        if meet {
            tables.iter().for_each(|table| disk.disk().rot(table, 40, 0x10));
            assert!(gateway.submit(None, get("k1")).await.is_err());
            rt.sleep(Duration::from_secs(1)).await;
            let problem = shard.health().problem().expect("it is damaged");
            return tables
                .into_iter()
                .find(|table| problem.contains(&table.display().to_string()))
                .expect("it is named");
        }
        tables[0].clone()
    });
    let table = world.block_on(running).unwrap();
    node.kill();
    (world, table)
}

#[test]
fn damage_is_remembered_over_a_restart_until_the_list_is_removed() {
    let (world, table) = with_a_table(76, true);
    let node = world.node(0);
    for _ in 0..2 {
        let health = started_again(&world, &node);
        let problem = health.problem().expect("no read has come by, and the damage is known");
        assert_eq!(health.standing, Standing::Damaged, "{health:?}");
        assert!(problem.contains(&table.display().to_string()), "{problem}");
    }
    let list = table.parent().and_then(Path::parent).expect("a store's directory").join("DAMAGE");
    let mut contents = node.disk().contents();
    assert!(contents.remove(&list).is_some(), "the list lies beside log and tree");
    node.disk().set_contents(&contents);
    assert_eq!(started_again(&world, &node).problem(), None);
}

/// Opens the stores of a node whose memtables are small, whether or not all of them open.
async fn opened_small(rt: &Rt) -> Stores {
    let identity = Identity { cluster: 7, node: 3, stores: 2, first_store: 1 };
    let mut plan = crate::node::plan(Path::new("/data"), identity, 1);
    plan.shard.tree = TreeOptions { memtable_bytes: 4 << 10, cache_bytes: 0, ..TreeOptions::default() };
    plan.first_regions = store::node::bootstrap::regions(&plan.identity);
    start::open_alone(rt, &Arc::new(plan)).await.unwrap()
}

/// Writes to the store with the keys until it stops, which it does when a compaction comes by the damage.
async fn compact_until_it_stops(rt: &Rt, shard: &Shard, gateway: &Gateway) -> String {
    for _ in 0..1000 {
        if let Some(reason) = shard.stopped() {
            return reason;
        }
        // Refused once it has stopped.
        drop(gateway.submit(None, put("k4", 8 << 10)).await);
        rt.sleep(Duration::from_millis(50)).await;
    }
    panic!("no compaction has met the damage: the test does not test");
}

/// Otherwise every start would open it, and it would stop again when the next compaction comes by, which may be after minutes or weeks.
#[test]
fn damage_that_stopped_a_store_fences_it_from_the_next_start_on() {
    let (world, table) = with_a_table(80, false);
    let node = world.node(0);
    let sound = node.disk().read(&table);
    node.disk().rot(&table, 40, 0x10);
    let meet = node.start(0, |rt| async move {
        let tree = TreeOptions { memtable_bytes: 4 << 10, cache_bytes: 0, ..TreeOptions::default() };
        let (stores, gateway) = open_simulated(&rt, |plan| plan.shard.tree = tree).await;
        let (_, shard, ..) = owner(&stores, b"k");
        assert_eq!(shard.health().problem(), None, "the start reads no blocks");
        let reason = compact_until_it_stops(&rt, &shard, &gateway).await;
        let health = shard.health();
        rt.sleep(Duration::from_secs(1)).await;
        (reason, health)
    });
    let (reason, health) = world.block_on(meet).unwrap();
    node.kill();
    let file = table.display().to_string();
    assert!(reason.contains(&file), "{reason}");
    assert_eq!(
        (health.damaged_files, health.reasons.len()),
        (1, 1),
        "it is damage, and said once: {health:?}"
    );
    for _ in 0..2 {
        let start = node.start(0, |rt| async move {
            let stores = opened_small(&rt).await;
            stores.settle(&rt).await.unwrap();
            let fenced: Vec<String> = stores.fenced.values().map(|fenced| fenced.why.clone()).collect();
            (stores.shards.len(), fenced)
        });
        let (serving, fenced) = world.block_on(start).unwrap();
        node.kill();
        assert_eq!((serving, fenced.len()), (1, 1), "{fenced:?}");
        let why = &fenced[0];
        assert!(why.contains(&file) && why.contains("checksum"), "the file and the damage: {why}");
        assert!(why.contains("remove DAMAGE") && why.contains("restore"), "the remedy: {why}");
    }
    // As an operator would who has the table's right bytes.
    let list = table.parent().and_then(Path::parent).expect("a store's directory").join("DAMAGE");
    let mut contents = node.disk().contents();
    assert!(contents.remove(&list).is_some(), "the list lies beside log and tree");
    contents.insert(table, sound);
    node.disk().set_contents(&contents);
    assert_eq!(started_again(&world, &node).problem(), None);
}

#[test]
fn a_table_with_a_broken_end_is_named_by_the_start() {
    let (world, table) = with_a_table(77, false);
    let node = world.node(0);
    assert_eq!(started_again(&world, &node).problem(), None);
    let len = node.disk().read(&table).len() as u64;
    node.disk().rot(&table, len - 20, 0x10);
    let problem = started_again(&world, &node).problem().expect("the start has looked at it");
    assert!(problem.contains(&table.display().to_string()), "{problem}");
}

/// Also if the start that cut it was short of something afterwards and had to try again: that try finds the log whole.
#[test]
fn a_cut_that_is_in_doubt_is_reported_until_the_next_start() {
    for short in [false, true] {
        let world = World::new(78, Options::default());
        let node = world.node(0);
        let running = node.start(0, move |rt| async move {
            let (_stores, gateway) = open_simulated(&rt, |_| {}).await;
            rt.sleep(Duration::from_secs(1)).await;
            gateway.submit(None, put("k1", 100)).await.unwrap();
        });
        world.block_on(running).unwrap();
        node.kill();
        // Eight bytes within the value, which is in the last record of one log.
        let mut store = None;
        for (path, mut bytes) in node.disk().contents() {
            if let Some(place) = bytes.windows(100).rposition(|window| window == [b'v'; 100]) {
                bytes[place + 40..place + 48].fill(0);
                node.disk().write(&path, &bytes);
                store = path.ancestors().nth(2).map(Path::to_owned);
            }
        }
        // It is looked for when log and tree have been read, and again when they are open.
        let list = store.expect("it is in a log").join("DAMAGE");
        let tries = if short { 3 } else { 0 };
        let descriptors = DiskFault::on(DiskOp::Look).path(&list.to_string_lossy()).errno(EMFILE);
        node.disk().fail(descriptors.after(1).times(tries));
        let began = world.now();
        let health = started_again(&world, &node);
        assert!(!short || world.now() - began > Duration::from_secs(2), "it had to try again");
        assert_eq!((health.standing, health.problem()), (Standing::Serving, None), "it is the only replica");
        let doubt = health.in_doubt.expect("the cut is reported");
        assert!(doubt.contains("log tail cut: 4096 bytes") && doubt.contains("claims entries"), "{doubt}");
        assert_eq!(started_again(&world, &node).in_doubt, None);
    }
}

#[test]
fn a_log_write_that_hangs_is_seen_from_outside() {
    in_world(73, |rt, world, node, stores, gateway| async move {
        let (_, shard, ..) = owner(&stores, b"k");
        gateway.submit(None, put("k1", 10)).await.unwrap();
        let seen = shard.snapshot();
        assert_eq!(seen.problem(rt.now()), None);
        node.disk().hang();
        let hangs = gateway.submit(None, put("k2", 10));
        rt.sleep(Duration::from_secs(4)).await;
        assert_eq!(seen.problem(rt.now()), None);
        let age = |seen: &StoreNumbers| {
            let reports = [CoreReport { stores: vec![seen.clone()], ..CoreReport::default() }];
            let log_write_ages = log_write_ages(&reports, rt.now());
            let facts = NodeFacts { log_write_ages, ..NodeFacts::default() };
            let page = page::page_with(&reports, &facts, &["ringkeep_log_write_age_seconds"]);
            page::sum(&page, "ringkeep_log_write_age_seconds", "")
        };
        assert!(age(&seen) > 3.0, "{}", age(&seen));
        rt.sleep(Duration::from_secs(3)).await;
        // The snapshot is an old one: the core could not have made another.
        let problem = seen.problem(rt.now()).expect("a write that takes so long is a problem");
        assert!(problem.contains("log write"), "{problem}");
        node.disk().unhang(&world);
        hangs.await.unwrap();
        assert_eq!((seen.problem(rt.now()), age(&seen)), (None, 0.0));
    });
}

#[test]
fn a_store_closes_in_time_although_its_disk_hangs() {
    in_world(74, |rt, _, node, stores, gateway| async move {
        gateway.submit(None, put("k1", 10)).await.unwrap();
        node.disk().hang();
        let hangs = gateway.submit(None, put("k2", 10));
        rt.sleep(Duration::from_millis(100)).await;
        let (began, time_max) = (rt.now(), Duration::from_secs(5));
        stores.stop(time_max).await;
        let took = rt.now().since(began);
        assert!(took < time_max + Duration::from_millis(100), "{took:?}");
        assert_eq!(hangs.await, Err(Refusal::Unknown));
    });
}

fn pairs(first: &str, count: usize, bytes: usize) -> Vec<(Bytes, Bytes)> {
    (0..count).map(|n| (format!("{first}{n:03}").into(), vec![b'v'; bytes].into())).collect()
}

#[test]
fn what_is_too_large_is_said_so_and_harms_no_other_client() {
    in_world(75, |_, _, _, _, gateway| async move {
        let large = |count| gateway.submit(None, Op::BatchPut { pairs: pairs("k", count, 1 << 20) });
        let (before, refused, fits, after) =
            (gateway.submit(None, put("ka", 10)), large(16), large(15), gateway.submit(None, put("kb", 10)));
        assert_eq!(before.await, Ok(Out::Done));
        let refused = refused.await;
        assert!(
            matches!(refused, Err(Refusal::TooLarge { bytes, bytes_max, .. }) if bytes > bytes_max),
            "{refused:?}"
        );
        assert_eq!(fits.await, Ok(Out::Done), "it may not be gathered with what would make it too large");
        assert_eq!(after.await, Ok(Out::Done));
    });
}

/// Over RESP it is an error with both numbers, and not a cluster that is down; who asks beside it is served.
#[test]
fn a_command_that_is_too_large_is_a_resp_error_with_the_bound_and_harms_no_bystander() {
    in_world(78, |rt, _, _, _, gateway| async move {
        let addr = crate::connection_memory::serve(&rt, &gateway);
        let mut bystander = rt.connect(addr).await.unwrap();
        let mut client = rt.connect(addr).await.unwrap();
        let value = vec![b'v'; 1 << 20];
        let keys: Vec<String> = (0..16).map(|n| format!("k{n:03}")).collect();
        let words = keys.iter().flat_map(|key| [key.as_bytes(), &value]);
        let mset = |count: usize| {
            crate::resp_server::packed(
                &[&[b"MSET".as_slice()], &words.clone().take(2 * count).collect::<Vec<_>>()[..]].concat(),
            )
        };
        for round in 0..3 {
            client.write_all(&mset(16)).await.unwrap();
            for n in 0..50 {
                let key = format!("k{round}-{n}");
                ask(&mut bystander, &[b"SET", key.as_bytes(), b"v"], b"+OK\r\n").await;
            }
            let (mut said, mut byte) = (Vec::new(), [0]);
            while !said.ends_with(b"\r\n") {
                assert_eq!(client.read(&mut byte).await.unwrap(), 1);
                said.push(byte[0]);
            }
            let said = String::from_utf8_lossy(&said);
            assert!(said.starts_with("-ERR the command's writes have 16"), "{said}");
            assert!(said.contains("exceeds the 16777216 that one command may have"), "{said}");
        }
        client.write_all(&mset(15)).await.unwrap();
        expect(&mut client, b"+OK\r\n").await;
    });
}

#[test]
fn a_batch_over_several_regions_of_which_one_is_too_large_changes_nothing() {
    in_world(76, |_, _, _, _, gateway| async move {
        let mut batch = pairs("1", 1, 10);
        batch.extend(pairs("k", 16, 1 << 20));
        let refused = gateway.submit(None, Op::BatchPut { pairs: batch }).await;
        assert!(matches!(refused, Err(Refusal::TooLarge { .. })), "{refused:?}");
        assert_eq!(gateway.submit(None, get("1000")).await, Ok(Out::Value(None)));
    });
}

#[test]
fn a_scan_downwards_that_begins_outside_of_its_region_is_refused() {
    in_world(77, |_, _, _, stores, gateway| async move {
        let key = |last: u8| [b"k".as_slice(), &[last]].concat();
        for last in b'0'..=b'8' {
            gateway.submit(None, put(key(last), 1)).await.unwrap();
        }
        let (number, _, route, region) = owner(&stores, b"k");
        // The gateway's home is store 0, and a request with a route stays there.
        let ask = |end: Bytes, limit| {
            let scan =
                Scan { start: "k".into(), end, limit, reverse: true, key_only: true, ..Scan::default() };
            gateway.submit(Some(route), Op::Scan(scan))
        };
        assert_eq!(number, 0, "choose another key");
        let end = Bytes::copy_from_slice(region.range.end());
        let Ok(Out::Pairs(found)) = ask(end.clone(), 2).await else { panic!("the region's end is its own") };
        assert_eq!(found.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [b"k8", b"k7"]);
        for outside in ["z".into(), Bytes::new(), [&end[..], b"\0"].concat().into()] {
            let found = ask(outside, 2).await;
            assert!(matches!(found, Err(Refusal::KeyNotInRegion { .. })), "{found:?}");
        }
    });
}

/// A start that is short of descriptors goes on when there are some, and ends with the reason when there are none for too long.
#[test]
fn a_start_waits_for_what_is_short_but_not_for_ever() {
    for passes in [true, false] {
        let world = Rc::new(World::new(79, Options::default()));
        let node = world.node(0);
        let disk = node.clone();
        let running = node.start(0, move |rt| async move {
            let (stores, _) = open_simulated(&rt, |_| {}).await;
            stores.stop(Duration::from_secs(10)).await;
            disk.disk().set_descriptors(0);
            let (later, more) = (rt.clone(), disk.clone());
            rt.spawn(async move {
                later.sleep(Duration::from_secs(5)).await;
                if passes {
                    more.disk().set_descriptors(u64::MAX);
                }
            });
            let began = rt.now();
            let identity = Identity { cluster: 7, node: 3, stores: 2, first_store: 1 };
            let plan = Arc::new(crate::node::plan(Path::new("/data"), identity, 1));
            let opened = start::alone(&rt, plan, Until::Settled).await;
            let took = rt.now().since(began);
            match opened {
                Ok(core) => {
                    assert!(passes && took >= Duration::from_secs(5), "{took:?}");
                    core.stores.stop(Duration::from_secs(10)).await;
                }
                Err(why) => {
                    assert!(!passes && took >= SHORTAGE_MAX, "{took:?} {why}");
                    assert!(why.contains("LimitNOFILE"), "{why}");
                }
            }
        });
        world.block_on(running).unwrap();
    }
}
