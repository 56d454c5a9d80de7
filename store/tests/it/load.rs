//! What a node's reports say about load, and that the scheduler acts on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::sim::{Options, World};
use scheduler::check::split::BUSY_MS;
use scheduler::{Action, Config, Key, Load, LoadCut, Policy, RegionId, RegionReport, Scheduler, Time};
use store::control::Beat;
use store::node::report::Heart;
use store::request::{Op, Scan};

use crate::node::open_simulated;

const OPERATIONS: u32 = 300;
const VALUE_BYTES: u64 = 100;

fn key(n: u32) -> Bytes {
    Bytes::from(format!("k{n:05}"))
}

fn regions(beat: &Beat) -> impl Iterator<Item = &RegionReport> {
    beat.stores.iter().flat_map(|store| &store.regions)
}

/// The regions that a scheduler wants to split that hears these reports for ten seconds, when 25 operations a second are too many for one.
fn splits(beat: &Beat) -> Vec<RegionId> {
    let disabled = vec![Policy::BalanceRegion, Policy::BalanceCore, Policy::HotRegion];
    let config = Config { max_replicas: 1, region_split_ops: 25, disabled, ..Config::default() };
    let mut scheduler = Scheduler::new(config, 1, Time(1_000_000)).unwrap();
    scheduler.grant_ids(100_000..200_000);
    let mut instructions = Vec::new();
    for now in [Time(1_000_000), Time(1_000_000 + BUSY_MS)] {
        for store in &beat.stores {
            scheduler.put_store(store.descriptor.clone(), now).unwrap();
            scheduler.report_store(store.report.clone(), now).unwrap();
        }
        for region in regions(beat) {
            instructions.extend(scheduler.report_region(region.clone(), now).unwrap());
        }
        instructions.extend(scheduler.tick(now).instructions);
    }
    let splits = |action: &Action| matches!(action, Action::Split { .. });
    instructions.iter().filter(|found| splits(&found.action)).map(|found| found.region).collect()
}

/// The one region that has all keys.
fn the_loaded(beat: &Beat) -> &RegionReport {
    let loaded: Vec<&RegionReport> = regions(beat).filter(|region| region.load != Load::default()).collect();
    let [loaded] = loaded[..] else { panic!("one region has all keys: {loaded:?}") };
    loaded
}

fn assert_is_cut_in_the_middle(loaded: &RegionReport) {
    let LoadCut::At(cut) = &loaded.cut else { panic!("{loaded:?}") };
    let middle = Key::from(&key(OPERATIONS / 4)[..])..Key::from(&key(OPERATIONS / 4 * 3)[..]);
    assert!(middle.contains(cut), "{cut:?}");
}

#[test]
fn a_region_under_load_is_reported_and_the_scheduler_wants_to_split_it() {
    let world = World::new(81, Options::default());
    let node = world.node(0);
    let work = node.start(0, |rt| async move {
        let mut plan = None;
        let (stores, gateway) = open_simulated(&rt, |made| plan = Some(Arc::new(made.clone()))).await;
        let open = stores
            .shards
            .iter()
            .map(|(number, shard)| (shard.clone(), format!("127.0.0.1:{}", 20161 + number)));
        let heart = Heart::new(&rt, &plan.unwrap(), open, std::rc::Rc::default());
        let idle = heart.beat().await;
        assert!(regions(&idle).count() > 2, "there are regions to tell apart");
        assert!(regions(&idle).all(|region| region.load == Load::default()), "a start is no load");
        assert_eq!(splits(&idle), []);

        let write = async || {
            for n in 0..OPERATIONS {
                let value = Bytes::from(vec![b'v'; VALUE_BYTES as usize]);
                gateway.submit(None, Op::Put { key: key(n), value }).await.unwrap();
            }
            rt.sleep(Duration::from_secs(1)).await;
            heart.beat().await
        };
        // Whoever bears most of what was counted is sampled from then on.
        let before = write().await;
        assert!(regions(&before).all(|region| region.cut == LoadCut::Unknown));
        assert_eq!(splits(&before), []);
        drop((write().await, write().await));
        let written = write().await;
        let loaded = the_loaded(&written);
        let load = loaded.load;
        assert!(load.write_ops > 25 && load.write_ops <= OPERATIONS, "{load:?}");
        assert!(load.write_bytes >= u64::from(load.write_ops) * VALUE_BYTES, "{load:?}");
        assert_eq!((load.read_ops, load.read_bytes), (0, 0));
        assert_is_cut_in_the_middle(loaded);
        assert_eq!(splits(&written), [loaded.region.id]);
        let total = written.stores.iter().map(|store| store.report.load.write_ops).max();
        assert_eq!(total, Some(load.write_ops), "the store reports the sum of its regions");
        let rest = async || {
            for _ in 0..5 {
                rt.sleep(Duration::from_secs(1)).await;
                drop(heart.beat().await);
            }
        };
        rest().await;

        for _ in 0..2 {
            for n in 0..OPERATIONS {
                gateway.submit(None, Op::Get { key: key(n) }).await.unwrap();
            }
            rt.sleep(Duration::from_secs(1)).await;
            drop(heart.beat().await);
        }
        let keys = (0..OPERATIONS).map(key).collect();
        gateway.submit(None, Op::BatchGet { keys, at_once: false }).await.unwrap();
        let all = Scan { start: "k".into(), end: "l".into(), limit: 10_000, ..Scan::default() };
        gateway.submit(None, Op::Scan(all)).await.unwrap();
        rt.sleep(Duration::from_secs(1)).await;
        let read = heart.beat().await;
        let found = regions(&read).find(|region| region.region.id == loaded.region.id).unwrap().load;
        assert!(found.read_ops > 25 && found.read_ops <= 2 * OPERATIONS + 1, "{found:?}");
        assert!(found.read_bytes >= u64::from(found.read_ops) * VALUE_BYTES, "{found:?}");
        assert_eq!((found.write_ops, found.write_bytes), (0, 0));
        assert_eq!(splits(&read), [loaded.region.id]);

        rest().await;
        assert_eq!(splits(&heart.beat().await), [], "what is over is forgotten");
        // Sizes are estimates of the trees, made on request.
        heart.estimate().await;
        let sized = heart.beat().await;
        let sized = regions(&sized).find(|region| region.region.id == loaded.region.id).unwrap();
        assert!(
            sized.size_bytes >= u64::from(OPERATIONS) * VALUE_BYTES / 2 && sized.keys >= 100,
            "{sized:?}"
        );
    });
    world.block_on(work).unwrap();
}
