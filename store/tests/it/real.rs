//! A whole node with one data core in the simulator, started as in production, and what its data core has.
//!
//! The root core is the one on which a test runs. All cores of the simulator share one thread, so the test may hold what belongs to the
//! data core; no other way leads into a store from outside.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::chan::{Sender, queue};
use engine::rt::local::{Answer, Pending, oneshot};
use store::config::{Config, Limits, Machine, SyncMethod};
use store::gateway::Gateway;
use store::node::identity::Ident;
use store::node::{CoreWork, NodeRequest, Setup, Shards, Started, run};

/// The core on which a test runs that starts a node.
pub(crate) const ROOT: usize = 8;

/// A node that serves.
pub(crate) struct Real {
    pub gateway: Gateway,
    pub shards: Shards,
    pub started: Started,
    requests: Sender<NodeRequest>,
    ended: Pending<()>,
}

thread_local! {
    /// Where the data core of the node that starts leaves what it has.
    static HANDOVER: RefCell<Option<Answer<(Gateway, Shards)>>> = const { RefCell::new(None) };
}

/// What a small node is set up with: one data core, and limits so small that rare paths run often.
pub(crate) fn setup(dir: &Path) -> Setup {
    let mut config = Config {
        data_dir: dir.to_owned(),
        base_port: 2000,
        resp_port: 6380,
        status_port: 0,
        ..Config::default()
    };
    config.log.segment_bytes = 64 << 10;
    config.log.sync = SyncMethod::Dsync;
    let machine = Machine { cores: 1, memory_bytes: 1 << 30, open_files: 4096 };
    let mut limits = Limits::derive(&config, machine).expect("a machine that is large enough");
    (limits.memtable_bytes, limits.block_cache_bytes) = (32 << 10, 0);
    let work = CoreWork::with_stores(|_, gateway, shards| {
        let answer = HANDOVER.take();
        Box::pin(async move { answer.expect("a test waits for it").send((gateway, shards)) })
    });
    Setup { config, limits, cpus: Vec::new(), work: Some(work), join: Vec::new() }
}

/// Starts a node with two stores on one data core. `rt` is that of the core [`ROOT`].
///
/// # Errors
/// Why the node does not start, or why a store of it is fenced.
pub(crate) async fn start(rt: &Rt, setup: Setup) -> Result<Real, String> {
    let dir = setup.config.data_dir.clone();
    rt.create_dir_all(&dir).await.unwrap();
    rt.sync_dir(Path::new("/")).await.unwrap();
    if matches!(Ident::read(rt, &dir).await, Ok(None)) {
        // How many stores a directory has is settled by its first start. This is one of a node with two cores that was cut off.
        Ident::open(rt, &dir, 2).await.unwrap();
    }
    let (answer, handover) = oneshot();
    HANDOVER.set(Some(answer));
    let (requests, requests_in) = queue(2);
    let (say, said) = oneshot();
    let (end, ended) = oneshot();
    let running = run(rt.clone(), setup, |how| say.send(how), requests_in);
    rt.spawn(async move {
        running.await;
        end.send(());
    });
    let started = said.await.expect("a start says how it went").map_err(|why| why.to_string())?;
    let (gateway, shards) = handover.await.expect("a node that serves has begun its work");
    // A report comes with the first post, and says why a store is not open.
    let reports = loop {
        match started.board.read() {
            reports
                if reports.iter().map(|core| core.stores.len()).sum::<usize>() == started.identity.stores =>
            {
                break reports;
            }
            _ => rt.sleep(Duration::from_millis(1)).await,
        }
    };
    match reports.iter().flat_map(|core| &core.stores).find(|store| store.health.failed) {
        Some(fenced) => Err(fenced.health.reasons.join("; ")),
        None => Ok(Real { gateway, shards, started, requests, ended }),
    }
}

impl Real {
    /// Ends the node as a signal does.
    pub(crate) async fn drain(self) {
        assert!(
            self.requests.try_send(NodeRequest::Drain(Duration::from_secs(30))).is_ok(),
            "it takes a drain"
        );
        self.ended.await.expect("the drain ends");
    }
}
