//! Work on the gateway of a real node, and stores on one simulated core without the node around them.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::rt::Rt;
use store::config::{Config, Limits, Machine};
use store::gateway::Gateway;
use store::node::bootstrap;
use store::node::core::{Plan, Stores};
use store::node::identity::Identity;
use store::node::start::{self, Core, Until};
use store::node::{CoreWork, Node, Setup};

pub(crate) const DRAIN: Duration = Duration::from_secs(30);

pub(crate) use bench::sim::nodes::plan;

/// Opens two stores on one core of a simulated node, with `change` made to the small limits, and waits until they are ready.
pub(crate) async fn open_simulated(rt: &Rt, change: impl FnOnce(&mut Plan)) -> (Stores, Gateway) {
    let core = start_simulated(rt, change, Until::Settled).await;
    let gateway = core.gateway();
    (core.stores, gateway)
}

/// As [`open_simulated`], and waits for nothing.
pub(crate) async fn begin_simulated(rt: &Rt, change: impl FnOnce(&mut Plan)) -> (Stores, Gateway) {
    let core = start_simulated(rt, change, Until::Opened).await;
    let gateway = core.gateway();
    (core.stores, gateway)
}

/// The core of a simulated node with two stores, with `change` made to the small limits. It serves no port.
pub(crate) async fn start_simulated(rt: &Rt, change: impl FnOnce(&mut Plan), until: Until) -> Core {
    rt.create_dir_all(Path::new("/data")).await.unwrap();
    let mut plan = plan(Path::new("/data"), Identity { cluster: 7, node: 3, stores: 2, first_store: 1 }, 1);
    change(&mut plan);
    plan.first_regions = bootstrap::regions(&plan.identity);
    start::alone(rt, Arc::new(plan), until).await.unwrap_or_else(|why| panic!("a store does not open: {why}"))
}

/// Starts the real node on `cores` cores in `dir`, which has or gets `stores` stores, runs `work` on its first core, and drains.
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
    if stores != cores && !dir.join("IDENT").exists() {
        // How many stores a directory has is settled by its first start.
        Node::start_with(setup(dir, stores, None)).unwrap().drain(DRAIN);
    }
    let (out, result) = std::sync::mpsc::channel();
    let once = Mutex::new(Some((work, out)));
    let begin = move |rt: Rt, gateway: Gateway| -> Pin<Box<dyn Future<Output = ()>>> {
        let first = if rt.core() == 0 { once.lock().unwrap().take() } else { None };
        Box::pin(async move {
            if let Some((work, out)) = first {
                out.send(work(rt, gateway).await).unwrap();
            }
        })
    };
    let node = Node::start_with(setup(dir, cores, Some(CoreWork::new(begin)))).unwrap();
    let result = result.recv().unwrap();
    node.drain(DRAIN);
    result
}

pub(crate) fn setup(dir: &Path, cores: usize, work: Option<CoreWork>) -> Setup {
    let config =
        Config { data_dir: dir.to_owned(), base_port: 0, resp_port: 0, status_port: 0, ..Config::default() };
    let machine = Machine { cores, memory_bytes: 2 << 30, open_files: 4096 };
    let limits = Limits::derive(&config, machine).unwrap();
    Setup { config, limits, cpus: Vec::new(), work, join: Vec::new() }
}
