//! What the status pages show of a node that has started: numbers, readiness, and the console.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::rt::Mono;
use store::config::Config;
use store::node::movement::Movement;
use store::node::{Addresses, NONE_IN_USE, Node, OUT_OF_USE};
use store::publish::{NodeFacts, Publisher, log_write_ages};
use store::shard::counters::StoreNumbers;
use store::wire::admin::{Condition, SharedPhase, json_string};
use store::wire::board::Board;

use crate::console::{About, Console, Keys, Recent};
use crate::logging::{Counts, Logging};
use crate::settings::Settings;

/// How long a core may be stalled before the node reports that it is not ready.
const STILL_MAX: Duration = Duration::from_secs(2);

/// What the status pages show of a node that has started.
#[derive(Clone)]
pub(super) struct View {
    pub(super) node_id: u64,
    pub(super) addresses: Addresses,
    board: Board,
    movement: Movement,
    log: Counts,
    memory_budget_bytes: u64,
    reserved_fds: u64,
    pub(super) publisher: Arc<Publisher>,
    recent: Arc<Mutex<Recent>>,
    pub(super) console: Arc<Console>,
}

impl View {
    pub(super) fn of(node: &Node, settings: &Settings, logging: &Logging, life: &SharedPhase) -> Self {
        let recent = Arc::<Mutex<Recent>>::default();
        let console = Console::new(About {
            node: node.identity().node,
            asker: node.asker(),
            board: node.board(),
            movement: node.movement(),
            life: life.clone(),
            recent: recent.clone(),
            keys: keys(&settings.config),
        });
        let addresses = node.addresses().clone();
        let limits = &settings.limits;
        let view = Self {
            node_id: node.identity().node,
            publisher: Arc::new(Publisher::new(addresses.stores.len())),
            addresses,
            board: node.board(),
            movement: node.movement(),
            log: logging.counts(),
            memory_budget_bytes: limits.core_bytes * limits.cores as u64,
            reserved_fds: limits.reserved_fds,
            recent,
            console: Arc::new(console),
        };
        view.publish();
        view
    }

    /// Takes over what the cores and the node say now.
    pub(super) fn publish(&self) {
        let reports = self.board.read();
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).note(&reports, self.movement.now());
        let facts = NodeFacts {
            log_write_ages: log_write_ages(&reports, self.movement.now()),
            log_lines_dropped: self.log.dropped(),
            log_lines_suppressed: self.log.suppressed(),
            memory_budget_bytes: self.memory_budget_bytes,
            reserved_fds: self.reserved_fds,
            core_still: self.movement.still(),
            core_stalls: self.movement.stalls(),
        };
        self.publisher.publish(&reports, &facts);
    }

    pub(super) fn conditions(&self) -> Vec<Condition> {
        let (reports, gone, now) = (self.board.read(), self.board.gone(), self.movement.now());
        let stores = reports.iter().flat_map(|core| &core.stores);
        let condition = |store: &StoreNumbers| store_condition(store, now, gone.contains(&store.store));
        let still = self.movement.still().into_iter().map(|(core, still)| still_condition(core, still));
        stores
            .map(condition)
            .chain(of_cluster(&self.board, self.addresses.stores.len()))
            .chain(still)
            .collect()
    }

    pub(super) fn status(&self) -> String {
        let stores: Vec<String> =
            self.addresses.stores.iter().map(|addr| json_string(&addr.to_string())).collect();
        let (reports, gone, now) = (self.board.read(), self.board.gone(), self.movement.now());
        let stores_now = reports.iter().flat_map(|core| &core.stores);
        let health: Vec<String> =
            stores_now.map(|store| store_health(store, now, gone.contains(&store.store))).collect();
        let refused = self.board.refused().as_deref().map_or_else(|| "null".to_owned(), json_string);
        format!(
            "{{\"version\":{},\"node\":\"{}\",\"pd\":{},\"resp\":{},\"stores\":[{}],\"health\":[{}],\"refused\":{refused}}}\n",
            json_string(env!("CARGO_PKG_VERSION")),
            self.node_id,
            json_string(&self.addresses.pd.to_string()),
            json_string(&self.addresses.resp.to_string()),
            stores.join(","),
            health.join(",")
        )
    }
}

/// What readiness says of a store. On one that is out of use for good nothing depends.
fn store_condition(store: &StoreNumbers, now: Mono, gone: bool) -> Condition {
    let (problem, note) = (store.problem(now), store.health.note());
    let (problem, note) = match gone {
        true => {
            let said: Vec<String> =
                [Some(OUT_OF_USE.to_owned()), problem, note].into_iter().flatten().collect();
            (None, Some(said.join("; ")))
        }
        false => (problem, note),
    };
    Condition { name: format!("store-{}", store.store), problem, note }
}

/// What the cluster has against a node with this many stores: that none is in use, or that it does not take them, for example because another
/// node has its identity. No client is led here then.
fn of_cluster(board: &Board, stores: usize) -> Vec<Condition> {
    let none = (board.gone().len() >= stores).then(|| ("stores", NONE_IN_USE.to_owned()));
    let said = |why| ("cluster", format!("the cluster does not take this node's stores: {why}"));
    let condition = |(name, problem): (&str, String)| Condition {
        name: name.to_owned(),
        problem: Some(problem),
        note: None,
    };
    none.into_iter().chain(board.refused().map(said)).map(condition).collect()
}

/// What the status page says of a store: the same that readiness depends on.
fn store_health(store: &StoreNumbers, now: Mono, gone: bool) -> String {
    let problem = store.problem(now).as_deref().map_or_else(|| "null".to_owned(), json_string);
    let standing = json_string(store.health.standing.name());
    let in_doubt = store.health.in_doubt.as_deref().map_or_else(|| "null".to_owned(), json_string);
    let waits = store.health.waits.as_deref().map_or_else(|| "null".to_owned(), json_string);
    format!(
        "{{\"store\":\"{}\",\"standing\":{standing},\"problem\":{problem},\"in_doubt\":{in_doubt},\"waits\":{waits},\"gone\":{gone}}}",
        store.store
    )
}

/// A stalled core answers no request, whatever its stores last reported.
fn still_condition(core: usize, still: Duration) -> Condition {
    let problem = (still >= STILL_MAX).then(|| {
        format!("it has run no other task for {} s: one task holds it, or its disk hangs", still.as_secs())
    });
    Condition { name: format!("core-{core}"), problem, note: None }
}

/// Whether the console shows keys: where they could be had anyway, because only this machine asks or no secret keeps strangers out.
fn keys(config: &Config) -> Keys {
    match config.cluster_secret.is_none() || config.status_addr().ip().is_loopback() {
        true => Keys::Shown,
        false => Keys::Hidden,
    }
}

#[cfg(test)]
mod tests {
    use store::secret::ClusterSecret;
    use store::shard::health::HealthReport;

    use super::*;

    #[test]
    fn nothing_depends_on_a_store_that_is_out_of_use() {
        let stopped = StoreNumbers {
            store: 7,
            health: HealthReport::fenced("it is damaged".to_owned()),
            ..StoreNumbers::default()
        };
        let Condition { name, problem, note } = store_condition(&stopped, Mono::default(), false);
        assert_eq!((&name[..], problem.as_deref(), note), ("store-7", Some("it is damaged"), None));
        let Condition { name: _, problem, note } = store_condition(&stopped, Mono::default(), true);
        assert_eq!((problem, note), (None, Some(format!("{OUT_OF_USE}; it is damaged"))));
        assert!(store_health(&stopped, Mono::default(), true).contains("\"gone\":true"));
    }

    #[test]
    fn a_node_that_the_cluster_does_not_take_is_not_ready_and_says_why() {
        let board = Board::new(1);
        assert_eq!(of_cluster(&board, 1), []);
        assert!(board.note_refused(Some("its identity is in use".to_owned())));
        let said = "the cluster does not take this node's stores: its identity is in use".to_owned();
        assert_eq!(
            of_cluster(&board, 1),
            [Condition { name: "cluster".to_owned(), problem: Some(said), note: None }]
        );
        assert!(board.note_refused(None) && board.note_gone(5));
        assert_eq!(of_cluster(&board, 2), []);
        let all = of_cluster(&board, 1);
        assert!(all.len() == 1 && all[0].problem.as_deref() == Some(NONE_IN_USE), "{all:?}");
    }

    #[test]
    fn keys_are_shown_where_they_could_be_had_anyway() {
        let secret = ClusterSecret::parse(&"s".repeat(32)).expect("a secret");
        for (listen, secret, expected) in [
            ("127.0.0.1", None, Keys::Shown),
            ("127.0.0.1", Some(secret), Keys::Shown),
            ("10.0.0.1", None, Keys::Shown),
            ("10.0.0.1", Some(secret), Keys::Hidden),
            ("0.0.0.0", Some(secret), Keys::Hidden),
        ] {
            let listen = listen.parse().expect("an address");
            let config = Config { listen, cluster_secret: secret, ..Config::default() };
            assert_eq!(keys(&config), expected, "{listen}");
        }
    }
}
