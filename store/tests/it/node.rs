//! A node without listeners: real cores, real files, the real path from the gateway to the disk.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::log::LogOptions;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::chan;
use engine::rt::{CoreOptions, Cores};
use scheduler::StoreId;
use store::gateway::Gateway;
use store::memory::Memory;
use store::node::core::{self, Plan, Stores};
use store::node::identity::Identity;
use store::shard::ShardLimits;
use store::shard::links::connect;
use store::shard::open::ShardOptions;

/// Small limits, so that rare paths run often.
pub(crate) fn plan(dir: &Path, identity: Identity, cores: usize) -> Plan {
    Plan {
        dir: dir.to_owned(),
        identity,
        ids: 0,
        holdings: Vec::new(),
        cores,
        shard: ShardOptions {
            store: StoreId(0),
            log: LogOptions::default(),
            tree: TreeOptions::default(),
            limits: ShardLimits {
                inflight_bytes_max: 64 << 20,
                log_bytes_max: 64 << 20,
                turn_bytes_max: 16 << 20,
                segment_bytes: 64 << 20,
                reserve_bytes: 0,
            },
            memory: Memory::unbounded(),
            raft: Arc::new(raft::Config { entry_bytes_max: 16 << 20, ..raft::Config::default() }),
        },
    }
}

/// Opens two stores on one core of a simulated node, with `change` made to the small limits, and waits until they are ready.
pub(crate) async fn open_simulated(rt: &Rt, change: impl FnOnce(&mut Plan)) -> (Stores, Gateway) {
    let (stores, gateway) = begin_simulated(rt, change).await;
    stores.settle(rt).await.unwrap();
    (stores, gateway)
}

/// As [`open_simulated`], and waits for nothing.
pub(crate) async fn begin_simulated(rt: &Rt, change: impl FnOnce(&mut Plan)) -> (Stores, Gateway) {
    rt.create_dir_all(Path::new("/data")).await.unwrap();
    let mut plan = plan(Path::new("/data"), Identity { cluster: 7, node: 3, stores: 2 }, 1);
    change(&mut plan);
    let (plan, ends) = (Arc::new(plan), connect(1).remove(0));
    let stores = core::open(rt, &plan, &ends).await.unwrap();
    assert!(stores.fenced.is_empty(), "{:?}", stores.fenced);
    let dispatch = stores.join(rt, &plan, stores.places(), ends);
    let gateway = Stores::gateway(&dispatch, 0);
    (stores, gateway)
}

/// Starts a node with `stores` stores on `cores` cores in `dir`, runs `work` with the gateway of the first core, and stops.
pub(crate) fn with_node<T, F>(
    dir: &Path,
    stores: usize,
    cores: usize,
    work: impl FnOnce(Rt, Gateway) -> F + Send + 'static,
) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let identity = Identity { cluster: 7, node: stores as u64 + 1, stores };
    let plan = Arc::new(plan(dir, identity, cores));
    let running = Cores::new().unwrap();
    let (places_out, places_in) = std::sync::mpsc::channel();
    let mut work = Some(work);
    let (mut handles, mut go, mut end) = (Vec::new(), Vec::new(), Vec::new());
    for (index, ends) in connect(cores).into_iter().enumerate() {
        let (plan, places_out, work) = (plan.clone(), places_out.clone(), work.take());
        let (go_out, go_in) = chan::queue(1);
        let (end_out, end_in) = chan::queue::<()>(1);
        go.push(go_out);
        end.push(end_out);
        let main = move |rt: Rt| async move {
            let stores = core::open(&rt, &plan, &ends).await.unwrap();
            assert!(stores.fenced.is_empty(), "{:?}", stores.fenced);
            stores.settle(&rt).await.unwrap();
            places_out.send(stores.places()).unwrap();
            let places = go_in.recv().await.unwrap();
            let dispatch = stores.join(&rt, &plan, places, ends);
            let result = match work {
                Some(work) => Some(work(rt.clone(), Stores::gateway(&dispatch, 0)).await),
                None => {
                    end_in.recv().await;
                    None
                }
            };
            stores.stop(Duration::from_secs(30)).await;
            result
        };
        handles.push(running.start(index, &CoreOptions::default(), main).unwrap());
    }
    let places: Vec<_> = (0..cores).flat_map(|_| places_in.recv().unwrap()).collect();
    for sender in go {
        sender.try_send(places.clone()).unwrap();
    }
    let mut handles = handles.into_iter();
    let result = handles.next().unwrap().join().unwrap().unwrap();
    for sender in &end[1..] {
        sender.try_send(()).unwrap();
    }
    for handle in handles {
        handle.join().unwrap();
    }
    result
}
